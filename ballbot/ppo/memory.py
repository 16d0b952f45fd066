"""A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) over whole sequences, fast on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd import Function


def make_cell(num_inputs: int, size: int, generator: torch.Generator | None) -> nn.GRUCell:
    """A unit of `size` numbers with orthogonal weights, each gate by itself, and no biases at first."""
    cell = nn.GRUCell(num_inputs, size)
    for weight in (cell.weight_ih, cell.weight_hh):
        for gate in weight.data.chunk(3):
            nn.init.orthogonal_(gate, generator=generator)
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    return cell


def forget(memory: torch.Tensor, began: torch.Tensor) -> torch.Tensor:
    """`memory` (batch, ...) with 0 where an episode has begun, (batch,) bool."""
    return memory.masked_fill(began.view(-1, *(1,) * (memory.ndim - 1)), 0.0)


def unroll(
    cells: Sequence[nn.GRUCell], inputs: Sequence[torch.Tensor], start: torch.Tensor, began: torch.Tensor
) -> torch.Tensor:
    """Memories of several units of one size after each step, as their cells give them step by step.

    Args:
        cells: the units.
        inputs: (steps, rows, numbers) of each.
        start: (cells, rows, size) before the first step.
        began: (steps, rows) bool, where an episode begins: the memory of what was before is 0 there.

    Returns:
        (steps, cells, rows, size)
    """
    if not torch.compiler.is_compiling():
        return _unroll(cells, inputs, start, began)
    # Else this loop of hundreds of steps would be compiled step by step.  Not as a decorator: `disable` imports a
    # compiler, which takes a second or two.
    memories: torch.Tensor = torch.compiler.disable(_unroll)(cells, inputs, start, began)  # type: ignore[no-untyped-call]
    return memories


def _unroll(cells: Any, inputs: Any, start: torch.Tensor, began: torch.Tensor) -> torch.Tensor:
    projected = [nn.functional.linear(x, c.weight_ih, c.bias_ih) for c, x in zip(cells, inputs, strict=True)]
    weight = torch.stack([cell.weight_hh for cell in cells])
    bias = torch.stack([cell.bias_hh for cell in cells]).unsqueeze(1)
    keep = (~began).to(start.dtype)[:, None, :, None]
    a = torch.stack(projected, dim=1)
    memories: torch.Tensor = _Unroll.apply(a, weight, bias, start, keep)  # type: ignore[no-untyped-call]
    return memories


class _Unroll(Function):
    """The part that goes step by step, with a gradient by hand: of what PyTorch would do, a small part is arithmetic.

    With a the input's share and b = W h + c the memory's: r = sigmoid(a_r + b_r), z = sigmoid(a_z + b_z),
    n = tanh(a_n + r b_n), and the next memory is n + z (h - n).
    """

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, start: Any, keep: Any) -> Any:
        """Memories (steps, cells, rows, size) of `a` (steps, cells, rows, 3 size)."""
        size = weight.shape[2]
        before, after, new = (a.new_empty(*a.shape[:-1], size) for _ in range(3))
        b, gates = torch.empty_like(a), torch.empty_like(a[..., : 2 * size])
        a_rz, b_rz, a_n, b_n = a[..., : 2 * size], b[..., : 2 * size], a[..., 2 * size :], b[..., 2 * size :]
        r, z = gates.chunk(2, dim=-1)
        transposed, h = weight.transpose(1, 2).contiguous(), start
        for t in range(len(a)):
            torch.mul(h, keep[t], out=before[t])
            torch.baddbmm(bias, before[t], transposed, out=b[t])
            torch.add(a_rz[t], b_rz[t], out=gates[t]).sigmoid_()
            torch.addcmul(a_n[t], r[t], b_n[t], out=new[t]).tanh_()
            h = torch.lerp(new[t], before[t], z[t], out=after[t])
        ctx.save_for_backward(weight, keep, before, gates, new, b_n)
        return after

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of `a`, weight and bias, by backpropagation through time."""
        weight, keep, before, gates, new, b_n = ctx.saved_tensors
        r, z = gates.chunk(2, dim=-1)
        # what a change of the next memory is worth at each gate's argument; r's and z's are alike in a and b
        at_n = (1 - z) * (1 - new**2)
        at_r, at_z = at_n * b_n * r * (1 - r), (before - new) * z * (1 - z)
        at_b = torch.stack([at_r, at_z, at_n * r], dim=-2)
        whole, of_b = torch.empty_like(new), torch.empty_like(at_b)
        later = torch.zeros_like(new[0])
        for t in reversed(range(len(new))):
            torch.add(grads[0][t], later, out=whole[t])
            torch.mul(whole[t].unsqueeze(-2), at_b[t], out=of_b[t])
            later = torch.baddbmm(whole[t] * z[t], of_b[t].flatten(-2), weight).mul_(keep[t])
        of_b = of_b.flatten(-2)
        of_a = torch.cat([of_b[..., : 2 * new.shape[-1]], whole * at_n], dim=-1)
        return of_a, torch.einsum("tgri,tgrj->gij", of_b, before), of_b.sum((0, 2)).unsqueeze(1), None, None
