"""Serial ports: the line to a board, and which ports there are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from serial import Serial, SerialException
from serial.tools import list_ports

#: Bits a second, the fastest that the link's UART is built for.
BAUD = 3_000_000

#: The value of --engine that means the only port there is.
ANY = "serial"


class SerialLine:
    """A serial port, 8N1, as a `quaver.host.link_transport.Line`. No other program may open it meanwhile.

    Parameters
    ----------
    port
        Its path, such as /dev/ttyUSB0.
    baud
        Bits a second: what the device was built for.

    Raises
    ------
    OSError
        There is no such port, it is in use, or it does not support the baud rate.
    ValueError
        The baud rate is less than 1.
    """

    def __init__(self, port: str, baud: int = BAUD):
        if baud < 1:
            raise ValueError(f"the baud rate is {baud}, but it is a number from 1 up")
        self.port, self.baud = port, baud
        try:
            self._serial = Serial(port, baud, write_timeout=5, exclusive=True)
        except (SerialException, ValueError, OverflowError) as error:
            there = ", ".join(ports()) or "none"
            raise OSError(f"{port} cannot be opened at {baud:,} baud ({error}); ports: {there}") from error
        # Otherwise some adapters on USB keep short answers back for 16 ms. Not every port can be told.
        with suppress(OSError, ValueError, NotImplementedError):
            self._serial.set_low_latency_mode(True)

    def __str__(self) -> str:
        return f"{self.port} ({self.baud:,} baud)"

    @property
    def now(self) -> float:
        """The time in seconds."""
        return time.monotonic()

    def write(self, data: bytes) -> None:
        """Send bytes; OSError if the port is gone."""
        with self._named():
            self._serial.write(data)

    def read(self, timeout: float) -> bytes:
        """What has come; waits at most `timeout` seconds for a first byte. OSError if the port is gone."""
        with self._named():
            if self._serial.timeout != timeout:
                self._serial.timeout = timeout
            first = self._serial.read(1)
            return first + self._serial.read(self._serial.in_waiting) if first else b""

    @contextmanager
    def _named(self) -> Iterator[None]:
        """An error that names the port."""
        try:
            yield
        except OSError as error:
            raise OSError(f"{self} is gone, or does not take bytes: {error}") from error

    def close(self) -> None:
        """Give the port back."""
        self._serial.close()


def ports() -> dict[str, str]:
    """Port → its description, for all ports on USB, in the order of their names."""
    found = {port.device: port.description for port in list_ports.comports() if port.vid is not None}
    return dict(sorted(found.items()))


def find_port(name: str) -> str:
    """The port called `name`; for "serial" the only one on USB.

    Raises
    ------
    ValueError
        "serial", and there is none or more than one.
    """
    if name != ANY:
        return name
    found = ports()
    if not found:
        raise ValueError(
            "there is no serial port on USB; connect the board, or name its port, such as /dev/ttyUSB0"
        )
    if len(found) > 1:
        lines = "".join(f"\n  {port}  {text}" for port, text in found.items())
        raise ValueError(f"there are {len(found)} serial ports on USB; name the board's:{lines}")
    return next(iter(found))
