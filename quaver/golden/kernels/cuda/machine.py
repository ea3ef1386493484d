"""What runs the CUDA kernels: a GPU, or a processor that stands for one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.golden.kernels.cuda.source import Program

#: Threads of a block, in every kernel.
THREADS = 256


class Machine(Protocol):
    """Compiles programs, keeps arrays and launches kernels.

    Its arrays are whatever it makes: calls only hand them on. A scalar argument is a NumPy scalar of the
    kernel's type.
    """

    @property
    def processors(self) -> int:
        """How many blocks run at once, about: the multiprocessors."""

    @property
    def shared_memory(self) -> int:
        """Bytes of shared memory that a block may have."""

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """A new contiguous array."""

    def zeros(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """A new contiguous array of zeros."""

    def upload(self, array: NDArray[Any]) -> Any:
        """A copy of `array`."""

    def constant(self, array: NDArray[Any]) -> Any:
        """The same, kept for the next time that an equal array is asked for."""

    def download(self, array: Any) -> NDArray[Any]:
        """One of the machine's arrays as NumPy's."""

    def launch(
        self, program: Program, kernel: str, grid: tuple[int, int, int], *arguments: Any, shared: int = 0
    ) -> None:
        """Run `kernel` in `grid` blocks of `THREADS` threads with so many bytes of shared memory each."""
