"""A simulated device behind a line of bytes, which may spoil frames as lines do, and worse."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from quaver.sim.verilated import compile_library

#: The faults that a frame may meet.
FAULTS = (
    "lost byte",
    "doubled byte",
    "swapped bytes",
    "flipped bit",
    "burst",
    "truncated",
    "lost frame",
    "doubled frame",
    "delayed frame",
    "old frame",
    "noise",
)
#: Cycles of the simulated clock in a second of the line's time.
CLOCK = 50e6
#: Bytes that one read gives at most.
_ROOM = 1 << 16


class SimulatedLine:
    """A device in this process and the line to it, a `quaver.host.link_transport.Line`.

    Its UARTs are left out: bytes enter and leave the device's link. Time is the simulated clock's and passes
    in `read` only.

    Parameters
    ----------
    verilog
        Verilog of the device, a `quaver.rtl.link.reliable_link.Linked`, as module "linked".
    pace
        Cycles that a byte takes, in both directions.
    latency
        Seconds between the arrival of a byte and its reading, as an adapter on USB adds them.
    progress
        Called with a line before each step of compiling that takes seconds.

    Raises
    ------
    RuntimeError
        No C++ compiler or no Verilator; the message says what to install.
    """

    #: What runs the model; that of mutants selects one of them.
    harness = Path(__file__).with_name("line.cpp")

    def __init__(
        self,
        verilog: str,
        *,
        pace: int = 1,
        latency: float = 0.0,
        progress: Callable[[str], None] | None = None,
    ):
        self.pace, self.latency = pace, latency
        library = compile_library(verilog, "linked", self.harness, progress=progress)
        self._library = library
        size, pointer = ctypes.c_uint64, ctypes.c_void_p
        library.line_new.restype = pointer
        library.line_free.argtypes = library.line_reset_device.argtypes = [pointer]
        library.line_cycles.argtypes, library.line_cycles.restype = [pointer], size
        library.line_faults.argtypes = [pointer, size, ctypes.c_uint32]
        library.line_counts.argtypes = [pointer, pointer]
        library.line_write.argtypes = [pointer, ctypes.c_char_p, size]
        library.line_read.argtypes, library.line_read.restype = [pointer, pointer, *[size] * 4], size
        self._line = pointer(library.line_new())
        self._read = ctypes.create_string_buffer(_ROOM)
        self.reset_device()

    def __del__(self) -> None:
        if hasattr(self, "_line"):
            self._library.line_free(self._line)

    def __str__(self) -> str:
        return "the simulated line"

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far."""
        return self._library.line_cycles(self._line)

    @property
    def now(self) -> float:
        """Seconds simulated so far."""
        return self.cycles / CLOCK

    def reset_device(self) -> None:
        """Reset the device, as its button does; what is on the line stays there."""
        self._library.line_reset_device(self._line)

    def spoil(self, seed: int, rate: float) -> None:
        """From now on spoil this share (0 … 1) of the frames in each direction, each by one of `FAULTS`.

        Which frames and which faults these are follows from `seed`.
        """
        self._library.line_faults(self._line, seed, round(rate * 65536))

    def counts(self) -> tuple[int, dict[str, int]]:
        """How many frames there were since `spoil`, in both directions, and how many met each fault."""
        counts = np.zeros((2, 1 + len(FAULTS)), np.uint64)
        self._library.line_counts(self._line, counts.ctypes.data)
        frames, *spoilt = counts.sum(axis=0).tolist()
        return frames, dict(zip(FAULTS, spoilt, strict=True))

    def write(self, data: bytes) -> None:
        """Put bytes on the line."""
        self._library.line_write(self._line, data, len(data))

    def read(self, timeout: float) -> bytes:
        """Run until bytes have come, for `timeout` simulated seconds at most."""
        limit, latency = (max(1, round(seconds * CLOCK)) for seconds in (timeout, self.latency))
        count = self._library.line_read(self._line, self._read, _ROOM, limit, latency, self.pace)
        return ctypes.string_at(self._read, count)
