"""The frames of the serial link: one description for both ends. fpga/PROTOCOL.md has it to the bit.

A frame is a header, up to `MAX_WORDS` words and a CRC, between two flags. Inside, a flag or an escape is sent
as an escape and the byte with one bit flipped, as in RFC 1662: whatever was lost before, a flag begins anew.
Both directions count their words; a frame says where its first word stands, and up to where the other
direction's have come. Everything is little-endian.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from amaranth.lib import data
from amaranth.lib.crc import catalog

from quaver.golden.validation import set_integers

#: Before and after each frame, and nowhere else.
FLAG = 0x7E
#: Says that `FLIP` is flipped in the next byte.
ESCAPE = 0x7D
FLIP = 0x20
#: Words in a frame.
MAX_WORDS = 256
#: The CRC of all bytes between the flags before anything is escaped; its least significant byte comes first.
CRC = catalog.CRC32_ISO_HDLC(data_width=8)

#: Positions are those of words since the session began, modulo 2**16.
Header = data.StructLayout(
    {
        "length": 14,  # words in this frame
        "reset": 1,  # host: begin this session, unless it is this one. Device: 0
        "poll": 1,  # host: answer, and repeat what I do not acknowledge. Device: this is the answer
        "session": 16,  # chosen by the host; 0 is a device that was reset and is in none
        "sequence": 16,  # the position of the first word
        "acknowledge": 16,  # the position of the next word wanted of the other direction
        "limit": 16,  # device: the position of the first word that it has no room for. Host: 0
    }
)
HEADER_BYTES = Header.size // 8
#: Bytes of the longest frame with its CRC and its flags, if nothing is escaped.
FULL_FRAME_BYTES = 4 * MAX_WORDS + HEADER_BYTES + 4 + 2

_PLACES = {name: (field.offset, (1 << field.width) - 1) for name, field in Header}
_ESCAPED = {bytes([byte]): bytes([ESCAPE, byte ^ FLIP]) for byte in (ESCAPE, FLAG)}  # escapes come first
_ESCAPES = re.compile(re.escape(bytes([ESCAPE])) + b"(.)", re.DOTALL)


@dataclass(frozen=True)
class Frame:
    """One frame.

    Parameters
    ----------
    session
        Number of the session, chosen by the host; 0 is a device that was reset and is in none.
    sequence
        Position of the frame's first word, modulo 2**16.
    acknowledge
        Position of the next word wanted of the other direction, modulo 2**16.
    limit
        From the device, the position of the first word that it has no room for; from the host, 0.
    payload
        The words, four bytes each, the least significant one first.
    reset
        From the host, whether to begin this session unless it is the present one.
    poll
        From the host, whether to answer and repeat what is not acknowledged; from the device, whether this is
        such an answer.

    Raises
    ------
    ValueError
        A payload that is not 0 to `MAX_WORDS` words.
    """

    session: int
    sequence: int
    acknowledge: int
    limit: int = 0
    payload: bytes = b""
    reset: bool = False
    poll: bool = False

    def __post_init__(self) -> None:
        set_integers(self, "session", "sequence", "acknowledge", "limit")
        if len(self.payload) % 4 or len(self.payload) > 4 * MAX_WORDS:
            raise ValueError(
                f"{len(self.payload)} bytes of payload, but a frame has up to {MAX_WORDS} words of 4"
            )

    @property
    def length(self) -> int:
        """Words in the frame."""
        return len(self.payload) // 4

    def to_bytes(self) -> bytes:
        """What goes over the line, both flags included."""
        header = sum((getattr(self, name) & mask) << offset for name, (offset, mask) in _PLACES.items())
        body = header.to_bytes(HEADER_BYTES, "little") + self.payload
        body += zlib.crc32(body).to_bytes(4, "little")
        for byte, escaped in _ESCAPED.items():
            body = body.replace(byte, escaped)
        return b"%c%b%c" % (FLAG, body, FLAG)

    @classmethod
    def from_bytes(cls, between: bytes) -> Frame | None:
        """The frame that these bytes between two flags are; None if they are not a whole one."""
        if ESCAPE in between:
            if between[-1] == ESCAPE:
                return None
            between = _ESCAPES.sub(lambda escape: bytes([escape[1][0] ^ FLIP]), between)
        if len(between) < HEADER_BYTES + 4:
            return None
        body, crc = between[:-4], between[-4:]
        if zlib.crc32(body).to_bytes(4, "little") != crc:
            return None
        header = int.from_bytes(body[:HEADER_BYTES], "little")
        values = {name: header >> offset & mask for name, (offset, mask) in _PLACES.items()}
        payload = body[HEADER_BYTES:]
        if len(payload) != 4 * values.pop("length") or len(payload) > 4 * MAX_WORDS:
            return None
        reset, poll = bool(values.pop("reset")), bool(values.pop("poll"))
        return cls(**values, payload=payload, reset=reset, poll=poll)


class Frames:
    """The frames in a stream of bytes that comes in pieces.

    Attributes
    ----------
    dropped
        Pieces between flags that were no frame.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.dropped = 0

    def take(self, received: bytes) -> list[Frame]:
        """The frames that end in the bytes received."""
        *pieces, self._rest = (self._rest + received).split(bytes([FLAG]))
        # What is longer than any frame waits for a flag that was lost.
        self._rest = self._rest[: 2 * (HEADER_BYTES + 4 * MAX_WORDS + 4) + 1]
        frames = [Frame.from_bytes(piece) for piece in pieces if piece]
        good = [frame for frame in frames if frame is not None]
        self.dropped += len(frames) - len(good)
        return good
