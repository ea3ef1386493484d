"""The packet of one layer: what AdaComp sends, byte for byte. `docs/adacomp.md` is its specification."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import copysign, isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quaver.golden.float_environment import standard_floats
from quaver.golden.validation import set_integers

MAGIC = b"QADA"
VERSION = 1
#: Magic, version, bytes an element, learner, layer, step, length, bin length, bytes of elements, the scale's
#: bits; then the checksum of all this and the elements.
HEADER = struct.Struct("<4sBBHIIIIII")
CHECKSUM = struct.Struct("<I")
OVERHEAD = HEADER.size + CHECKSUM.size

#: The longest bin of elements of one byte, and of two: the largest index stands for empty bins.
LONGEST_SHORT, LONGEST = 63, 16_383
_NAN = 0x7FC00000


class PacketError(ValueError):
    """Bytes that are no packet, or not the one that is expected."""


def element_bytes(bin_length: int) -> int:
    """Bytes of one element in bins of this length: 1 or 2. ValueError: there are no such bins."""
    if not 1 <= bin_length <= LONGEST:
        raise ValueError(f"the bin length is {bin_length}, but it must be 1 … {LONGEST:,}")
    return 1 if bin_length <= LONGEST_SHORT else 2


@dataclass(frozen=True)
class Packet:
    """What a learner sends of one layer in one step.

    Parameters
    ----------
    length
        Elements of the layer.
    bin_length
        L_T, elements of a bin; the last bin may be shorter.
    scale
        The magnitude of every value that is sent: a float32, 0 or more. NaN: the learner's gradient was not
        finite, and there are no elements.
    elements
        What is sent: uint8, or uint16 where bins are longer than 63.
    layer, learner, step
        Of which layer, from whom, in which step (modulo 2**32); a receiver that waits for another refuses it.

    Raises
    ------
    PacketError
        The fields do not fit into a packet, or `elements` do not fill the layer's bins.
    """

    length: int
    bin_length: int
    scale: float
    elements: NDArray[Any]
    layer: int = 0
    learner: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        set_integers(self, "length", "bin_length", "layer", "learner", "step")
        object.__setattr__(self, "scale", float(self.scale))
        for name, bits in (("length", 32), ("layer", 32), ("step", 32), ("learner", 16)):
            if not 0 <= getattr(self, name) < 1 << bits:
                raise PacketError(f"{name} is {getattr(self, name)}, but a packet has {bits} bits for it")
        try:
            size = element_bytes(self.bin_length)
        except ValueError as error:
            raise PacketError(str(error)) from None
        if self.elements.dtype != f"u{size}" or self.elements.ndim != 1:
            raise PacketError(
                f"elements are {self.elements.dtype} {self.elements.shape}, but bins of {self.bin_length} "
                f"take one axis of uint{8 * size}"
            )
        _check_scale(self.scale, len(self.elements))
        _ = self.sent

    @property
    def is_finite(self) -> bool:
        """Whether the learner's gradient was finite."""
        return self.scale == self.scale

    @property
    def index_bits(self) -> int:
        """Bits of an element's index."""
        return 8 * self.elements.itemsize - 2

    @property
    def nbytes(self) -> int:
        """Bytes of the packet, with everything."""
        return OVERHEAD + self.elements.nbytes

    @cached_property
    def sent(self) -> int:
        """How many values are sent."""
        from quaver.golden.kernels import adacomp

        if not self.is_finite:
            return 0
        wrong, position, sent = adacomp.check(self.elements, self.bin_length, self.index_bits, self.length)
        if wrong:
            raise PacketError(fault(wrong, position, len(self.elements)))
        return int(sent)

    @property
    def effective_nbytes(self) -> int:
        """Bytes as the paper counts them: those of the values that are sent."""
        return self.sent * self.elements.itemsize

    def places(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where the values that are sent lie in the layer, rising, and whether each is −scale."""
        from quaver.golden.kernels import adacomp

        index, negative = np.empty(self.sent, np.int64), np.empty(self.sent, np.bool_)
        adacomp.places(self.elements, self.bin_length, self.index_bits, index, negative)
        return index, negative

    def needed(self) -> NDArray[np.int64]:
        """Of each element, of which place in the layer nothing can be said before it is known: rising."""
        index = self.elements.astype(np.int64) & (1 << self.index_bits) - 1
        upper = self.elements >> self.index_bits
        is_run = index == (1 << self.index_bits) - 1
        bins = np.where(is_run, upper + 1, upper >> 1).astype(np.int64)  # that it ends
        after = np.cumsum(bins)
        following = np.where(bins, after * self.bin_length, after * self.bin_length + index + 1)
        return np.concatenate([[0], following])[: len(index)]

    @standard_floats
    def scatter(self, value: Any, out: NDArray[np.float32]) -> None:
        """Add `value`, with each sign, to the elements of flat `out` that are sent: float32, one rounding
        each. Where the learner's gradient was not finite, all of `out` becomes NaN."""
        from quaver.golden.kernels import adacomp

        if self.is_finite:
            args = self.elements, self.bin_length, self.index_bits
            adacomp.scatter(*args, np.float32(value), out)
        else:
            out.fill(np.nan)

    @standard_floats
    def add_to(self, out: NDArray[np.float32], learners: int) -> None:
        """Add ± round(scale / `learners`) to the elements of flat `out` that are sent."""
        self.scatter(np.float32(self.scale) / np.float32(learners), out)

    def values(self) -> NDArray[np.float32]:
        """The layer as it arrives: (length,) float32, ±scale where something was sent, else 0."""
        out = np.zeros(self.length, np.float32)
        self.scatter(self.scale, out)
        return out

    def pack(self) -> bytes:
        """The bytes of the packet."""
        size = self.elements.itemsize
        elements = self.elements.astype(f"<u{size}", copy=False).tobytes()
        fields = (self.learner, self.layer, self.step, self.length, self.bin_length, len(elements))
        scale = int(np.float32(self.scale).view(np.uint32)) if self.is_finite else _NAN
        header = HEADER.pack(MAGIC, VERSION, size, *fields, scale)
        return header + CHECKSUM.pack(zlib.crc32(elements, zlib.crc32(header))) + elements


def fault(wrong: int, position: int, count: int) -> str:
    """What `quaver.golden.kernels.adacomp.check` found wrong at one of `count` elements, in words."""
    from quaver.golden.kernels import adacomp

    what = {
        adacomp.BEYOND_BIN: "an index lies beyond its bin",
        adacomp.NOT_RISING: "the indices of a bin do not rise",
        adacomp.TOO_MANY_BINS: "there are more bins than the layer has",
        adacomp.SPLIT_RUN: "a run of empty bins is cut in two",
        adacomp.TOO_FEW_BINS: "there are fewer bins than the layer has",
    }[wrong]
    return f"element {position} of {count}: {what}"


def expect(packet: Packet | Header, **fields: int) -> None:
    """PacketError: a field of the packet is another than this learner waits for."""
    for name, value in fields.items():
        if getattr(packet, name) != value:
            raise PacketError(
                f"a packet of learner {packet.learner} has {name.replace('_', ' ')} {getattr(packet, name)}, "
                f"but {value} is expected: the learners are not at the same step of the same model"
            )


def unpack(data: bytes | bytearray | memoryview) -> Packet:
    """The packet that `data` is.

    PacketError: it is cut short, or something follows; it is of another version, or no packet; its
    checksum or its content is wrong.
    """
    packet, end = _read(memoryview(data).cast("B"), 0)
    if end != len(data):
        raise PacketError(f"{len(data) - end} bytes follow a packet of {end}; one packet is expected")
    return packet


def unpack_all(data: bytes | bytearray | memoryview) -> Iterator[Packet]:
    """The packets that follow each other in `data`; errors as of `unpack`."""
    view, at = memoryview(data).cast("B"), 0
    while at < len(view):
        packet, at = _read(view, at)
        yield packet


def _check_scale(scale: float, elements: int) -> None:
    """PacketError: it is none, or has elements that it must not have."""
    if scale != scale:
        if elements:
            raise PacketError(f"the scale is NaN, so no elements follow, but {elements} do")
    elif copysign(1.0, scale) < 0 or not isfinite(scale) or float(np.float32(scale)) != scale:
        raise PacketError(f"the scale is {scale}, but it must be a float32 of 0 or more, or NaN")


class Header(NamedTuple):
    """What stands before a packet's elements.

    Attributes
    ----------
    size, nbytes
        Bytes of an element, and of all of them.
    learner, layer, step, length, bin_length
        As of `Packet`.
    scale_bits
        Those of the scale, as of a float32.
    checksum
        What the packet says that it is.
    """

    size: int
    learner: int
    layer: int
    step: int
    length: int
    bin_length: int
    nbytes: int
    scale_bits: int
    checksum: int

    @classmethod
    def read(cls, data: memoryview, at: int = 0) -> Header:
        """The header that begins at `at`. PacketError: it is none, of another version, or cut short."""
        magic, version = bytes(data[at : at + 4]), data[at + 4] if len(data) > at + 4 else None
        if magic != MAGIC[: len(magic)]:
            raise PacketError(f"a packet begins with {MAGIC!r}, but here is {magic!r}")
        if version not in (None, VERSION):
            raise PacketError(
                f"the packet is of version {version}, but this quaver reads {VERSION}; let all learners run "
                f"one release"
            )
        if len(data) < at + OVERHEAD:
            raise PacketError(f"the packet is cut short: {len(data) - at} bytes of a header of {OVERHEAD}")
        fields = HEADER.unpack_from(data, at)[2:]
        return cls(*fields, *CHECKSUM.unpack_from(data, at + HEADER.size))

    @property
    def scale(self) -> float:
        """The packet's."""
        return float(np.uint32(self.scale_bits).view(np.float32))

    def check(self, follow: int, checksum: int) -> None:
        """PacketError: the elements are more than the `follow` bytes that are there, the checksum is not
        `checksum`, or there is no such scale or element."""
        if follow < self.nbytes:
            raise PacketError(f"the packet is cut short: {follow} bytes of {self.nbytes} of elements")
        if self.checksum != checksum:
            raise PacketError("the packet's checksum is wrong: it was damaged on its way")
        if self.scale != self.scale and self.scale_bits != _NAN:
            raise PacketError("the packet's scale is a NaN, but not 0x7FC00000, the only one that is sent")
        if self.size not in (1, 2) or self.nbytes % self.size:
            raise PacketError(f"the packet has {self.nbytes} bytes of elements of {self.size} each")
        _check_scale(self.scale, self.nbytes // self.size)


def _read(data: memoryview, at: int) -> tuple[Packet, int]:
    """The packet that begins at `at`, and where it ends."""
    header = Header.read(data, at)
    begin, end = at + OVERHEAD, at + OVERHEAD + header.nbytes
    checksum = zlib.crc32(data[begin:end], zlib.crc32(data[at : at + HEADER.size]))
    header.check(len(data) - begin, checksum)
    size = f"u{header.size}"
    elements = np.frombuffer(data[begin:end], f"<{size}").astype(size, copy=False)
    where = header.layer, header.learner, header.step
    return Packet(header.length, header.bin_length, header.scale, elements, *where), end
