"""The simulated accelerator: its Verilog, compiled, behind the same transport as a board."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.emit.shared_modules import ports_of
from quaver.rtl.emit.verilog import Elements, to_verilog, to_verilog_around
from quaver.sim.elements import WIDEST
from quaver.sim.verilated import compile_library

Words = NDArray[np.uint32]

#: Cycles that one call into the library runs at most: between calls, Python hears a Ctrl-C.
BLOCK = 50_000
#: Cycles without a word either way after which the accelerator is given up: longer than its longest tile.
PATIENCE = 1 << 21


class SimulatedDevice:
    """An accelerator in this process, a `quaver.host.transport.Transport`.

    Parameters
    ----------
    accelerator
        What to simulate.
    progress
        Called with a line before each step of compiling that takes seconds.
    verilog
        Verilog to take instead of the accelerator's own, such as a mutant: what `to_verilog_around` gives.

    Raises
    ------
    RuntimeError
        No C++ compiler or no Verilator; the message says what to install.
    """

    #: What runs the model; that of mutants selects one of them.
    harness = Path(__file__).with_name("harness.cpp")

    def __init__(
        self,
        accelerator: Accelerator,
        *,
        progress: Callable[[str], None] | None = None,
        verilog: tuple[str, Elements | None] | None = None,
    ):
        text, elements = verilog or _around(accelerator)
        library = compile_library(text, "accelerator", self.harness, elements=elements, progress=progress)
        self._library = library
        size, pointer = ctypes.c_uint64, ctypes.c_void_p
        library.device_new.restype = pointer
        library.device_free.argtypes = library.device_reset.argtypes = [pointer]
        library.device_cycles.argtypes, library.device_cycles.restype = [pointer], size
        library.device_stall.argtypes = [pointer, size, ctypes.c_uint32, ctypes.c_uint32]
        counts = ctypes.POINTER(size)
        library.device_run.argtypes = [pointer, pointer, size, pointer, size, size, counts, counts]
        self._device = pointer(library.device_new())
        self._queue: list[Words] = []
        self.reset()

    def __del__(self) -> None:
        if hasattr(self, "_device"):
            self._library.device_free(self._device)

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far."""
        return self._library.device_cycles(self._device)

    def stall(self, seed: int, commands: float, responses: float) -> None:
        """From now on, let each stream pause in this share (0 … 1) of the cycles, at random from `seed`."""
        rates = (round(rate * 65536) for rate in (commands, responses))
        self._library.device_stall(self._device, seed, *rates)

    def send(self, words: Words) -> None:
        """Queue words for the command stream; the clock runs in `receive` only."""
        self._queue.append(np.ascontiguousarray(words, np.uint32))

    def receive(self, count: int) -> Words:
        """Run until `count` words have come out, and return them."""
        words = np.empty(count, np.uint32)
        queued = np.concatenate(self._queue) if len(self._queue) != 1 else self._queue[0]
        taken, got = ctypes.c_uint64(), ctypes.c_uint64()
        sent = received = idle = 0
        try:
            while received < count:
                self._library.device_run(
                    self._device,
                    queued[sent:].ctypes.data,
                    len(queued) - sent,
                    words[received:].ctypes.data,
                    count - received,
                    BLOCK,
                    taken,
                    got,
                )
                sent, received = sent + taken.value, received + got.value
                idle = 0 if taken.value or got.value else idle + BLOCK
                if idle >= PATIENCE:
                    raise TimeoutError(
                        f"{received} words of {count} came from the simulated accelerator, then none in "
                        f"{idle} cycles; reset it"
                    )
        finally:
            self._queue = [queued[sent:]]
        return words

    def reset(self) -> None:
        """Drop the queue and reset the accelerator."""
        self._queue = [np.empty(0, np.uint32)]
        self._library.device_reset(self._device)


def _around(accelerator: Accelerator) -> tuple[str, Elements | None]:
    """The accelerator's Verilog without its elements, or where those have wide ports, all of it."""
    ports = ports_of(accelerator.array.element).values()
    if max(len(port) for port, _ in ports) > WIDEST:
        return to_verilog(accelerator, "accelerator"), None
    return to_verilog_around(accelerator, "accelerator")
