"""A simulated device behind a pseudo-terminal: a serial port without a board."""

from __future__ import annotations

import os
import threading
import tty
from select import select

from quaver.sim.line import SimulatedLine

#: Simulated seconds that pass between two looks at the port.
STEP = 20e-6
#: Looks without a byte after which they become rare: longer than a GEMM.
QUIET = 500


class Terminal:
    """Serves a device at a serial port of this machine until the `with` block is left.

    Programs may open and close the port, one after the other, and may die: the device goes on, as a board
    does, with whatever the last one left on the line.

    Attributes
    ----------
    port
        What to open, such as /dev/pts/3.
    """

    def __init__(self, line: SimulatedLine):
        self.line = line
        self._ours, self._theirs = os.openpty()  # their end stays open here, or ours would fail in between
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.port = os.ttyname(self._theirs)
        self._end = threading.Event()
        self._reset = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def reset_device(self) -> None:
        """Press the device's reset button."""
        self._reset.set()

    def _serve(self) -> None:
        waiting, idle = b"", 0
        while not self._end.is_set():
            if self._reset.is_set():
                self._reset.clear()
                self.line.reset_device()
            # What has been quiet for long waits for the host, and need not keep a processor busy.
            readable, _, _ = select([self._ours], [], [], 0.02 if idle > QUIET else 0)
            if readable:
                self.line.write(os.read(self._ours, 4096))
            waiting += self.line.read(STEP)
            idle = 0 if readable or waiting else idle + 1
            if waiting and select([], [self._ours], [], 0.001)[1]:
                waiting = waiting[os.write(self._ours, waiting) :]

    def __enter__(self) -> Terminal:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        os.close(self._ours)
        os.close(self._theirs)
