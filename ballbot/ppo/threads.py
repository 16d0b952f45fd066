"""In how many threads PyTorch computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let PyTorch compute with `number` threads (0: as many as it does anyway) within a `with` block.

    The count from before is put back, whatever happens; both take a fraction of a microsecond.
    """
    before = torch.get_num_threads()
    if number and number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


class Aside:
    """A second thread for a part of a loss that shares no parameter with the rest, forward and backward.

    Each thread does what one alone would do, in the same order, so the numbers are the same to the bit; two threads of
    PyTorch within each operation would round otherwise.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._backward: list[Future[None]] = []

    def compute(self, part: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to compute a part; calling what is returned waits for it."""
        future = self._pool.submit(part, *arguments)

        def result() -> torch.Tensor:
            whole = future.result()
            cut = whole.detach().requires_grad_()  # the caller's gradients end here, and go on in the second thread

            def go_on(gradient: torch.Tensor) -> None:
                self._backward.append(self._pool.submit(torch.autograd.backward, whole, gradient))

            cut.register_hook(go_on)  # type: ignore[no-untyped-call]
            return cut

        return result

    def finish(self) -> None:
        """Wait for the gradients of the parts."""
        while self._backward:
            self._backward.pop().result()
