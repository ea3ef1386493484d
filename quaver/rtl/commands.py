"""The command stream: one description for both ends, the accelerator and its driver.

Words of 32 bits in both directions. A command is a header, then as many words as the header's `length` says.
Each command gets one response, in order: a header again, then `length` words.

========== =========================================== ====================================================
command    words after the header                      words of a response with status OK
========== =========================================== ====================================================
IDENTIFY   —                                           `Identity.to_words`
COUNTERS   —                                           cycles since reset, cycles that issued a MAC; mod 2**32
LOAD       `LoadArguments`, then operands              —
GEMM       `GemmArguments`, then `TileArguments`,      results, if `last`
           then the sources of rows, columns and
           diagonals where sums, results or operands
           take random bits
UPDATE     `UpdateArguments`, then the settings if     two for each group
           `first`, then groups of elements
REQUANTISE `RequantiseArguments`, then three words     —
           for each column of the array; or nothing
COMPRESS   `CompressionArguments`, then the length if  in parts: residues, packet elements, and at the
           `first`, then residues and gradients        layer's end what ends its packet
AVERAGE    `CompressionArguments`, then length and     in parts: sums
           share if `first`, then packet elements and
           sums
========== =========================================== ====================================================

Operands and results are packed in *slots* of 1, 2, 4, 8, 16 or 32 bits, the smallest that hold a code; the
lowest slot first. What a slot holds above its code is ignored. A, B and C each have slots of their own width.
With P of them a word:

* A *step* is G products of every output, where G is how many k an element takes at once. K is a multiple of
  G; who has less adds the arithmetic's `identity`.
* ``LOAD`` of A fills row banks. One group of ceil(rows · G / P) words holds one step of all rows of a tile:
  the G codes of row 0 in the lowest slots of the first word, then those of row 1. Groups follow each other by
  step, then by tile of rows.
* ``LOAD`` of B fills column banks. One group of ceil(columns · G / P) words holds one lane of one step of all
  columns, likewise. Groups follow each other by lane, then by step, then by tile of columns. Lane l of the
  array's column c is column l·columns + c of the tile.
* ``GEMM`` results come tile by tile, column tiles fastest. One group of ceil(columns / P) words holds one
  lane of one row. Groups follow each other by lane, then from the last row up to the first.

Nothing in the stream says how long K may be over all slices of a tile. Sums of integers are modulo 2**w, w
their arithmetic's accumulator_bits: whoever sends keeps K at ⌊(2**(w−1) − 1) / p⌋ or less, p the largest
product's magnitude, as the driver does.

A source is the state of an LFSR before the first sum of the first tile's first output, as
`quaver.golden.random_bits` has it, or of bit streams before the first draw for its operands, as
`quaver.golden.arithmetic.bitstream` has it, where the diagonals' is ignored. A GEMM that goes on with an open
tile (``first`` = 0) brings them too; the draws go on from where they are, and only an arithmetic that rounds
on the way out looks at those of the last slice. An LFSR never leaves zero: where bits are drawn, a GEMM with
a source of zero and an UPDATE with a seed of zero are refused with BAD_ARGUMENT.

``UPDATE`` has slots of 16 bits for numbers of up to 16 bits, else of 32:

* settings: rate, momentum and decay, packed; the seed, 32 bits, which a unit that draws nothing ignores.
* a group of three words: with codes of up to 16 bits two elements, the gradients of both, weight and momentum
  of the first, weight and momentum of the second; with wider ones one element, gradient, weight, momentum.

Its response has the new weight and the new momentum of each element, packed likewise: two words a group.
Without `first`, an UPDATE goes on with the run of the one before: its settings, and its LFSRs as they are.

``REQUANTISE`` is known to an accelerator that was built for it (`Identity.codes`). It says what leaves the
array from the next GEMM on: with words, the next layer's codes (`quaver.golden.requantisation`), which are
packed as codes of so many bits; without, sums again, as after a reset. The three words of a column are its
multiplier, signed, of 18 bits, and the lower 32 and the upper 16 bits of its offset, signed; what a word
holds above them is ignored. All tiles of columns take the same. It waits until all results before it have
left. One that is refused changes nothing about it.

COMPRESS and AVERAGE are of gradient compression after AdaComp, a layer at a time, in one command or in
several of which the first has `first`; docs/adacomp.md has the rule and the packet. How long a response is,
is known only at its end. So it comes in *parts*, each with a header of its own, whose status says what its
words are, and the last of which has status OK. The parts of one kind are in order.

* ``COMPRESS``: of each element two words, the residue and the gradient, float32. RESIDUES are their sums G,
  one for each element whose bin is whole. PACKET are the packet's elements, two a word, the first in the
  lower half; the last word of a layer may have a half that is 0. The part with status OK has three words if
  the layer has ended: the scale, how many elements the packet has, and how many of them are values. The new
  residues are G less the packet's values; AVERAGE takes them off, with −scale for its share. A scale of NaN
  says that something was not finite: the packet is empty and the old residues stay, whatever the other parts
  say.
* ``AVERAGE``: adds the packet's part to sums, with the share round(scale / learners). Words are taken as they
  are needed: a sum so far, float32, or, where the next sum waits until the packet's next element is known and
  none is there, two packet elements, the first in the lower half. SUMS come one for each. What follows the
  layer's last sum is dropped.

A command that is refused, or a word that is no header, closes whatever was open: all four halves of the
operand memory are marked empty, and the open tile, the run and the layer are forgotten. LOAD anew before the
next GEMM, and begin the next tile, the next run and the next layer with `first`. One layer is open at a time:
the first COMPRESS of one closes that of an AVERAGE, and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from quaver.golden.descriptor import Descriptor
from quaver.golden.formats import Format

#: Version of everything on this page. Until 2, a device had its arithmetic as Python prints it, and slots of
#: 8 bits at least.
VERSION = 2
#: The top byte of each command's header: words that a lost host sends by chance are refused one by one.
MAGIC = 0x51


class Opcode(IntEnum):
    """What a command asks for. A response repeats it."""

    NONE = 0  # in a response to a word that is no header
    IDENTIFY = 1
    COUNTERS = 2
    LOAD = 3
    GEMM = 4
    UPDATE = 5
    REQUANTISE = 6
    COMPRESS = 7
    AVERAGE = 8


class Status(IntEnum):
    """What became of a command."""

    OK = 0
    BAD_HEADER = 1  # the word was no header; it alone was dropped
    UNKNOWN_OPCODE = 2
    BAD_LENGTH = 3  # not the opcode's number of words; all of them were dropped
    BAD_ARGUMENT = 4  # a field that must be zero is not, or a source or a seed that must not be zero is
    OUT_OF_RANGE = 5  # a size of zero, operands beyond the end of the memory, or a shift of 48 or more
    NOT_LOADED = 6  # GEMM on a half that no LOAD has filled since the last refusal
    NOT_OPEN = 7  # a command continues (first = 0), but no tile, run or layer is open
    RESULT_TOO_LONG = 8  # more result words than a header's length can say
    RESIDUES = 9  # a part of COMPRESS's response; more follow
    PACKET = 10  # likewise
    SUMS = 11  # a part of AVERAGE's response; more follow


class Operand(IntEnum):
    """Which operand a LOAD fills."""

    A = 0
    B = 1


class WordLayout(data.StructLayout):
    """The fields of one word, the first in the lowest bits.

    A host packs and unpacks words by the hundred thousand, and Amaranth's own constants would take most of
    its time.
    """

    def __init__(self, members: dict[str, int]):
        super().__init__(members)
        starts = [sum(list(members.values())[:i]) for i in range(len(members))]
        self._places = {
            name: (start, (1 << width) - 1)
            for (name, width), start in zip(members.items(), starts, strict=True)
        }

    def pack(self, **fields: int) -> int:
        """The word of these fields, of which those left out are 0.

        ValueError: a field's value does not fit.
        """
        word = 0
        for name, value in fields.items():
            start, most = self._places[name]
            if not 0 <= value <= most:
                raise ValueError(f"{name} is {value}, but a word has room for 0 … {most}")
            word |= int(value) << start
        return word

    def unpack(self, word: int) -> SimpleNamespace:
        """The fields of a word."""
        return SimpleNamespace(**{name: word >> start & most for name, (start, most) in self._places.items()})


#: A command's first word.
CommandHeader = WordLayout({"length": 16, "opcode": 8, "magic": 8})
#: A response's first word.
ResponseHeader = WordLayout({"length": 16, "status": 8, "opcode": 8})
#: LOAD: the bank address of the first group, which half of the memory, which operand.
LoadArguments = WordLayout({"start": 24, "half": 1, "operand": 1, "zero": 6})
#: GEMM: the length of the inner dimension in steps, and the halves to read. The results of the tiles start
#: from zero if `first`, and leave if `last`; a GEMM without both is one slice in k of one tile.
GemmArguments = WordLayout({"k": 16, "a_half": 1, "b_half": 1, "first": 1, "last": 1, "zero": 12})
#: GEMM: how many tiles of rows and of columns.
TileArguments = WordLayout({"m_tiles": 16, "n_tiles": 16})
#: UPDATE: how many groups of elements, and whether they begin a run.
UpdateArguments = WordLayout({"groups": 16, "first": 1, "zero": 15})
#: REQUANTISE: the shift, 0 … 47.
RequantiseArguments = WordLayout({"shift": 6, "zero": 26})
#: COMPRESS and AVERAGE: whether they begin a layer, and the length of its bins, which is of no account if
#: they do not.
CompressionArguments = WordLayout({"bin_length": 14, "first": 1, "zero": 17})

#: Responses with these go on in another part.
PARTS = frozenset({Status.RESIDUES, Status.PACKET, Status.SUMS})
MAX_LENGTH = 0xFFFF
#: REQUANTISE: words of each column.
PARAMETER_WORDS = 3


def command(opcode: Opcode, arguments: Sequence[int] = (), data: int = 0) -> list[int]:
    """A command's header and arguments, with the length of the `data` words that will follow them."""
    length = len(arguments) + data
    if length > MAX_LENGTH:
        raise ValueError(f"{length} words after the header, but a command has at most {MAX_LENGTH}; split it")
    return [CommandHeader.pack(length=length, opcode=opcode, magic=MAGIC), *arguments]


def slot_bits(width: int) -> int:
    """Bits of the slots for codes of `width` bits: the next power of two."""
    return 1 << (width - 1).bit_length()


def slots_per_word(width: int) -> int:
    """How many codes of `width` bits, 1 … 32, share a word."""
    return 32 // slot_bits(width)


def update_slot(formats: Iterable[Format]) -> int:
    """Bits of a slot in UPDATE that holds codes of any of `formats`: 16 or 32."""
    return 16 if all(fmt.width <= 16 for fmt in formats) else 32


def settings_words(scalar: Format) -> int:
    """Words of an UPDATE's settings: three scalars in slots, and the seed."""
    return -(-3 // slots_per_word(update_slot([scalar]))) + 1


def pack(codes: NDArray[np.unsignedinteger], width: int) -> NDArray[np.uint32]:
    """Words of `codes`; the last axis is filled up to whole words with zeros, and all axes are flattened."""
    bits, slots = slot_bits(width), slots_per_word(width)
    short = -codes.shape[-1] % slots
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, short)])
    if bits < 8:  # several slots a byte
        parts = padded.astype(np.uint8, copy=False).reshape(-1, 8 // bits)
        padded = np.bitwise_or.reduce(parts << np.arange(0, 8, bits, dtype=np.uint8), axis=1)
    return np.ascontiguousarray(padded, dtype=f"<u{max(bits // 8, 1)}").reshape(-1).view("<u4")


def unpack(words: NDArray[np.uint32], width: int) -> NDArray[np.unsignedinteger]:
    """The codes in `words`, all slots."""
    bits = slot_bits(width)
    slots = np.ascontiguousarray(words, dtype="<u4").view(f"<u{max(bits // 8, 1)}")
    if bits < 8:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        slots = (slots[:, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(-1)
    return slots


@dataclass(frozen=True)
class Geometry:
    """The size of an accelerator.

    Attributes
    ----------
    rows, columns
        Of processing elements.
    interleave
        Outputs that each of them works on in turn.
    depth
        Steps that each half of the operand memory holds, summed over the tiles that are in it.
    group
        Products of one output that an element takes in one step.
    product_cycles
        Cycles that they take.
    """

    rows: int
    columns: int
    interleave: int
    depth: int
    group: int = 1
    product_cycles: int = 1

    @property
    def tile_columns(self) -> int:
        """Columns of the result that one tile has; its rows are `rows`."""
        return self.columns * self.interleave

    @property
    def step(self) -> int:
        """Cycles of one step."""
        return self.interleave * self.product_cycles

    def steps(self, products: int) -> int:
        """Steps that so many products of one output take."""
        return -(-products // self.group)


@dataclass(frozen=True)
class Identity:
    """What an accelerator says of itself.

    Attributes
    ----------
    geometry
        Its size.
    arithmetic
        The `quaver.golden.descriptor` of its arithmetic's `hardware`.
    update
        That of the rule that its update unit computes; None if there is none.
    compression
        Of its unit for COMPRESS and AVERAGE; None if there is none.
    codes
        Bits of the codes that leave it once it was told to requantise; 0: it cannot.
    """

    geometry: Geometry
    arithmetic: Descriptor
    update: Descriptor | None = None
    compression: Descriptor | None = None
    codes: int = 0

    def to_words(self) -> list[int]:
        """Version and geometry; then up to four lines of text, four bytes a word: arithmetic, update,
        compression, and "codes", a space and their bits. What is not there is empty, at the end left out."""
        lines = [self.arithmetic, self.update or "", self.compression or ""]
        lines += [f"codes {self.codes}" if self.codes else ""]
        text = "\n".join(map(str, lines)).rstrip("\n").encode("ascii")
        text += b" " * (-len(text) % 4)
        return [VERSION, *astuple(self.geometry), *np.frombuffer(text, "<u4").tolist()]

    @classmethod
    def from_words(cls, words: Sequence[int]) -> Identity:
        """The inverse of `to_words`. ValueError: the version of the stream or of a descriptor is another."""
        size = len(fields(Geometry))
        version = words[0] if len(words) else None
        if version == 1 and len(words) > 5:
            name = _text(words[5:]).replace("\n", ", ")
            raise ValueError(
                f"the device speaks version 1 of the command stream and calls itself {name}, but "
                f"this driver speaks {VERSION}; build the device anew, or use the release that built it"
            )
        if version != VERSION or len(words) <= size:
            raise ValueError(
                f"the device speaks version {version or 'none'} of the command stream, but this driver "
                f"speaks {VERSION}; build device and driver from one release"
            )
        geometry = Geometry(*(int(word) for word in words[1 : 1 + size]))
        arithmetic, update, compression, codes, *_ = [*_text(words[1 + size :]).split("\n"), "", "", ""]
        return cls(
            geometry,
            Descriptor.parse(arithmetic),
            Descriptor.parse(update) if update else None,
            Descriptor.parse(compression) if compression else None,
            int(codes.removeprefix("codes ") or 0),
        )


def _text(words: Sequence[int]) -> str:
    return np.array(words, "<u4").tobytes().decode("ascii", "replace").rstrip()
