"""Data-parallel training: thin wrappers of torch.distributed that do nothing in a single process.

However many processes learn, it is the same experiment: environment e of all is seeded alike and gets the same
exploration noise, and minibatches hold the same steps, each process computing those of its own environments.  Only sums
over steps are rounded in another order.
"""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ballbot.errors import SettingsError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: longer than any evaluation, which only the first one does."""


class LostContactError(RuntimeError):
    """Another process failed or was killed; the message says how to go on."""


def distributed_setup(device: str) -> tuple[int, int, torch.device]:
    """Join the processes started by torchrun, if there are any.

    Args:
        device: "cpu" (gloo) or "cuda" (nccl, one GPU per process of a host).

    Returns:
        rank, world size, and the device of this process.

    Raises:
        SettingsError: (a ValueError) the CUDA device is not available, or what torchrun says of the processes by
            environment variables cannot be.
    """
    processes, index = launched("WORLD_SIZE", 1), launched("RANK", 0)
    several = processes > 1
    if several and index >= processes:
        raise SettingsError(f"RANK={index} is not below WORLD_SIZE={processes}: unset both, or use torchrun")
    if several and device.startswith("cuda"):
        device = f"cuda:{launched('LOCAL_RANK', 0)}"
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise SettingsError(f'device = "{device}", but this PyTorch sees no CUDA device; use device = "cpu"')
        count = torch.cuda.device_count()
        if (torch.device(device).index or 0) >= count:
            raise SettingsError(
                f'device = "{device}", but there are {count} CUDA devices, counted from 0; '
                f'use "cuda:0" to "cuda:{count - 1}", and no more processes on a host than it has devices'
            )
    if several:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            # Its functions take the process group of the moment of import as a default argument. Imported later (the
            # fused optimizer does) they would keep it alive beyond destroy_process_group, and its threads, at work
            # while the interpreter shuts down, now and then abort the process.
            importlib.import_module("torch.distributed.nn.functional")
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
            atexit.register(dist.destroy_process_group)
    return rank(), world_size(), torch.device(device)


def launched(name: str, otherwise: int) -> int:
    """A number that torchrun tells this process by the environment variable `name`.

    Raises:
        SettingsError: it is none.
    """
    value = os.environ.get(name) or str(otherwise)
    if not value.isdecimal():
        raise SettingsError(f"the environment variable {name}={value!r} is no whole number: unset it, or use torchrun")
    return int(value)


def rank() -> int:
    """Index of this process; 0 writes all files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_envs(num_envs: int) -> slice:
    """The environments of this process, which has `num_envs` of them, among those of all."""
    return slice(rank() * num_envs, (rank() + 1) * num_envs)


def own_rows(rows: torch.Tensor, num_envs: int) -> torch.Tensor:
    """Which of `rows` are of this process, as rows of its own (num_steps, num_envs) batch, flattened.

    Args:
        rows: indices into the flattened (num_steps, all environments) batch of all processes.
        num_envs: environments of this process.
    """
    if world_size() == 1:
        return rows
    step = rows.div(num_envs * world_size(), rounding_mode="floor")
    env = rows - step * (num_envs * world_size()) - own_envs(num_envs).start
    return (step * num_envs + env)[(env >= 0) & (env < num_envs)]


def all_reduce_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum of `x` over all processes."""
    if world_size() > 1:
        x = x.clone()
        _collective(lambda: dist.all_reduce(x))
    return x


def any_rank(flag: int, device: torch.device) -> int:
    """Largest `flag` over all processes: one decision for all of them."""
    if world_size() == 1:
        return flag
    x = torch.tensor(flag, device=device)
    _collective(lambda: dist.all_reduce(x, dist.ReduceOp.MAX))
    return int(x)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over all processes, in one message."""
    if world_size() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    _collective(lambda: dist.all_reduce(flat))
    flat /= world_size()
    for grad, mean in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def broadcast_module(module: torch.nn.Module) -> None:
    """Copy the first process's parameters and buffers to all others."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            _collective(partial(dist.broadcast, tensor, 0))


def gather(value: T) -> list[T]:
    """`value` of every process, in order of rank, on every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    _collective(lambda: dist.all_gather_object(values, value))
    return values


def on_rank_zero(function: Callable[[], T]) -> T:
    """Call `function` on the first process only; its result, or its error, reaches all of them."""
    if world_size() == 1:
        return function()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = function()
        except Exception as error:  # raised below, in every process
            box[1] = error
    _collective(lambda: dist.broadcast_object_list(box, 0))
    if box[1] is not None:
        raise box[1]
    result: T = box[0]
    return result


def _collective(call: Callable[[], Any]) -> None:
    try:
        call()
    except RuntimeError as error:
        raise LostContactError(
            f"process {rank()} of {world_size()} lost contact with the others, most likely because one of "
            "them failed; its own message is the one to read. Restart all processes with resume to continue "
            "from the last checkpoint"
        ) from error
