"""Commands to an accelerator and its responses, one at a time, over any transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.rtl.commands import PARTS, Identity, Opcode, ResponseHeader, Status, command

Words = NDArray[np.uint32]

NO_WORDS = np.empty(0, np.uint32)

#: Opcode, arguments, operand words, and what takes the words of the response; of one in parts, those of the
#: last part, and then those of each kind of part by its status.
Command = tuple[Opcode, list[int], Words, Callable[..., None]]


class Transport(Protocol):
    """Carries words to an accelerator and back, in order and without loss."""

    def send(self, words: Words) -> None:
        """Hand over words for the command stream. It does not wait until they are taken."""

    def receive(self, count: int) -> Words:
        """The next `count` words of the response stream; a TimeoutError if they do not come."""

    def reset(self) -> None:
        """Drop everything under way, in both directions, and reset the accelerator."""


class DeviceError(RuntimeError):
    """The accelerator refused a command, or gave an answer that does not belong to it."""


@dataclass(frozen=True)
class Counters:
    """What the accelerator counts, modulo 2**32.

    Attributes
    ----------
    cycles
        Clock cycles since reset.
    multiplied
        Those of them in which every processing element was given a product to add.
    """

    cycles: int
    multiplied: int


def send(
    transport: Transport, opcode: Opcode, arguments: list[int] | None = None, data: Words = NO_WORDS
) -> None:
    """Send one command."""
    header = command(opcode, arguments or [], len(data))
    transport.send(np.concatenate([np.array(header, np.uint32), data]))


def response(transport: Transport, opcode: Opcode) -> tuple[Words] | tuple[Words, dict[Status, Words]]:
    """The words of the next response, which must be a good one to `opcode`; and of its parts, if it can have
    some."""
    parts: dict[Status, list[Words]] = {status: [NO_WORDS] for status in PARTS}
    while True:
        word = int(transport.receive(1)[0])
        header = ResponseHeader.unpack(word)
        if header.opcode != opcode or header.status not in PARTS:
            break
        parts[Status(header.status)].append(transport.receive(header.length))
    if header.opcode != opcode or header.status != Status.OK:
        names = {status.value: status.name for status in Status}
        status = names.get(header.status, header.status)
        raise DeviceError(f"the device answered {opcode.name} with {status} (header {word:#010x})")
    words = transport.receive(header.length)
    if opcode not in (Opcode.COMPRESS, Opcode.AVERAGE):
        return (words,)
    return words, {status: np.concatenate(found) for status, found in parts.items()}


def nothing(words: Words) -> None:
    """Take a response without words."""


def identify(transport: Transport) -> Identity:
    """What the accelerator says of itself: its arithmetic, its update rule and its size.

    Raises
    ------
    ValueError
        It speaks another version of the command stream.
    DeviceError, TimeoutError
        It refuses to answer, or does not.
    """
    send(transport, Opcode.IDENTIFY)
    return Identity.from_words(response(transport, Opcode.IDENTIFY)[0].tolist())
