"""The CUDA kernels on this processor: the same source, compiled by g++ under cuda_shim.h.

It is how every kernel is held to golden where there is no GPU: right to the bit, and slow. A block's
threads run in turn from barrier to barrier, so that a missing barrier is an error every time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden import caches
from quaver.golden.kernels.cuda.source import Program
from quaver.sim.verilated import compiler

SHIM = Path(__file__).with_name("cuda_shim.h")
# Directed rounding changes the processor's mode, which -frounding-math says. Sums and products are not fused.
FLAGS = (
    *("-std=c++20", "-O1", "-march=native", "-fPIC", "-shared", "-w"),
    *("-frounding-math", "-ffp-contract=off", "-fno-strict-aliasing"),
)


class Processor:
    """A `quaver.golden.kernels.cuda.machine.Machine` whose arrays are NumPy's.

    Parameters
    ----------
    processors, shared_memory
        Of the GPU that it stands for; an H100's.
    backwards
        Whether threads take their turns in the other order.
    """

    def __init__(
        self, processors: int = 132, shared_memory: int = 227 << 10, *, backwards: bool = False
    ) -> None:
        self.processors = processors
        self.shared_memory = shared_memory
        self.backwards = backwards

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        array = np.empty(shape, dtype)
        array.view(np.uint8).fill(0xA5)  # not zeros, which would hide that something was never written
        return array

    def zeros(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        return np.zeros(shape, dtype)

    def upload(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.copy()

    def constant(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def download(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def launch(
        self, program: Program, kernel: str, grid: tuple[int, int, int], *arguments: Any, shared: int = 0
    ) -> None:
        if shared > self.shared_memory:
            raise ValueError(f"{shared} bytes of shared memory, but there are {self.shared_memory}")
        values = [
            np.uint64(0 if each is None else each.ctypes.data)
            if each is None or isinstance(each, np.ndarray)
            else each
            for each in arguments
        ]
        cells = [np.array(value) for value in values]
        pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
        function = _library(program)[f"launch_{kernel}"]
        function((ctypes.c_uint * 3)(*grid), int(shared > 0), int(self.backwards), pointers)


@cache
def _library(program: Program) -> ctypes.PyDLL:
    """The program's kernels; its functions keep the interpreter's lock, because they share a state."""
    command = (*compiler(), *FLAGS)
    shim = SHIM.read_text(encoding="utf-8")
    entries = (
        f'extern "C" void launch_{name}(const unsigned* grid, int barriers, int backwards, void** arguments) '
        f"{{ launch({name}, grid, barriers, backwards, arguments); }}"
        for name in program.kernels
    )
    text = "\n".join((shim, program.text, *entries))
    macros = _ran(
        [*command, "-dM", "-E", "-x", "c++", os.devnull]
    )  # the compiler's version, the processor's kind
    digest = hashlib.sha256("\0".join((*command, macros, text)).encode()).hexdigest()[:24]
    library = caches.place("cuda", f"{digest}.so")
    with caches.building(library) as work:
        if work:
            (work / "kernels.cpp").write_text(text, encoding="utf-8")
            _ran([*command, str(work / "kernels.cpp"), "-o", str(work / "kernels.so")])
            os.replace(work / "kernels.so", library)
    return ctypes.PyDLL(str(library))


def _ran(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout
