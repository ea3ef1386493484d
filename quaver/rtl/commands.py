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
           diagonals if sums are rounded with random
           bits
UPDATE     `UpdateArguments`, then the settings if     two for each group
           `first`, then groups of elements
========== =========================================== ====================================================

Operands and results are packed in *slots*: 8 bits for codes of up to 8 bits, 16 of up to 16, else 32; the
lowest slot first. What a slot holds above its code is ignored. With P slots a word:

* ``LOAD`` of A fills row banks. One group of ceil(rows / P) words holds one k of all rows of a tile, row 0 in
  the lowest slot of the first word. Groups follow each other by k, then by tile of rows.
* ``LOAD`` of B fills column banks. One group of ceil(columns / P) words holds one lane of one k of all
  columns. Groups follow each other by lane, then by k, then by tile of columns. Lane l of the array's column
  c is column l·columns + c of the tile.
* ``GEMM`` results come tile by tile, column tiles fastest. One group of ceil(columns / P) words holds one
  lane of one row. Groups follow each other by lane, then from the last row up to the first.

A source is the state of an LFSR before the first sum of the first tile's first output, as
`quaver.golden.random_bits` has it. A GEMM that goes on with an open tile (``first`` = 0) brings them too; the draws
go on from where they are, and only an arithmetic that rounds on the way out looks at those of the last slice.

``UPDATE`` has slots of 16 bits for numbers of up to 16 bits, else of 32:

* settings: rate, momentum and decay, packed; the seed, 32 bits, which a unit that draws nothing ignores.
* a group of three words: with codes of up to 16 bits two elements, the gradients of both, weight and momentum
  of the first, weight and momentum of the second; with wider ones one element, gradient, weight, momentum.

Its response has the new weight and the new momentum of each element, packed likewise: two words a group.
Without `first`, an UPDATE goes on with the run of the one before: its settings, and its LFSRs as they are.

Any command that is refused leaves the operand memory marked empty and closes the run: LOAD anew before the
next GEMM, and begin the next UPDATE with `first`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

import quaver.golden.update.float_sgd
from quaver.golden.formats import Format
from quaver.golden.rounding import Rounding
from quaver.golden.update.fixed_sgd import FixedUpdate
from quaver.rtl.update.unit import UpdateUnit

#: The update rules that have a unit in hardware.
HardwareRule = quaver.golden.update.float_sgd.Update | FixedUpdate

#: Version of everything on this page.
VERSION = 1
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


class Status(IntEnum):
    """What became of a command."""

    OK = 0
    BAD_HEADER = 1  # the word was no header; it alone was dropped
    UNKNOWN_OPCODE = 2
    BAD_LENGTH = 3  # not the opcode's number of words; all of them were dropped
    BAD_ARGUMENT = 4  # a field that must be zero is not
    OUT_OF_RANGE = 5  # a size of zero, or operands beyond the end of the memory
    NOT_LOADED = 6  # GEMM on a half that no LOAD has filled since the last refusal
    NOT_OPEN = 7  # GEMM or UPDATE continues (first = 0), but no tile or run is open
    RESULT_TOO_LONG = 8  # more result words than a header's length can say


class Operand(IntEnum):
    """Which operand a LOAD fills."""

    A = 0
    B = 1


#: A command's first word.
CommandHeader = data.StructLayout({"length": 16, "opcode": 8, "magic": 8})
#: A response's first word.
ResponseHeader = data.StructLayout({"length": 16, "status": 8, "opcode": 8})
#: LOAD: the bank address of the first group, which half of the memory, which operand.
LoadArguments = data.StructLayout({"start": 24, "half": 1, "operand": 1, "zero": 6})
#: GEMM: the length of the inner dimension and the halves to read. The results of the tiles start from zero if
#: `first`, and leave if `last`; a GEMM without both is one slice in k of one tile.
GemmArguments = data.StructLayout({"k": 16, "a_half": 1, "b_half": 1, "first": 1, "last": 1, "zero": 12})
#: GEMM: how many tiles of rows and of columns.
TileArguments = data.StructLayout({"m_tiles": 16, "n_tiles": 16})
#: UPDATE: how many groups of elements, and whether they begin a run.
UpdateArguments = data.StructLayout({"groups": 16, "first": 1, "zero": 15})

MAX_LENGTH = 0xFFFF


def command(opcode: Opcode, arguments: Sequence[int] = (), data: int = 0) -> list[int]:
    """A command's header and arguments, with the length of the `data` words that will follow them."""
    length = len(arguments) + data
    if length > MAX_LENGTH:
        raise ValueError(f"{length} words after the header, but a command has at most {MAX_LENGTH}; split it")
    header = CommandHeader.const({"length": length, "opcode": opcode, "magic": MAGIC})
    return [header.as_value().value, *arguments]


def slots_per_word(width: int) -> int:
    """How many codes of `width` bits share a word: 4 of up to 8 bits, 2 of up to 16, else 1."""
    return 4 if width <= 8 else 2 if width <= 16 else 1


def update_slot(formats: Iterable[Format]) -> int:
    """Bits of a slot in UPDATE that holds codes of any of `formats`: 16 or 32."""
    return 16 if all(fmt.width <= 16 for fmt in formats) else 32


def settings_words(scalar: Format) -> int:
    """Words of an UPDATE's settings: three scalars in slots, and the seed."""
    return -(-3 // slots_per_word(update_slot([scalar]))) + 1


def pack(codes: NDArray[np.unsignedinteger], width: int) -> NDArray[np.uint32]:
    """Words of `codes`; the last axis is filled up to whole words with zeros, and all axes are flattened."""
    slots = slots_per_word(width)
    short = -codes.shape[-1] % slots
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, short)])
    return np.ascontiguousarray(padded, dtype=f"<u{4 // slots}").reshape(-1).view("<u4")


def unpack(words: NDArray[np.uint32], width: int) -> NDArray[np.unsignedinteger]:
    """The codes in `words`, all slots."""
    return np.ascontiguousarray(words, dtype="<u4").view(f"<u{4 // slots_per_word(width)}")


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
        Steps in k that each half of the operand memory holds, summed over the tiles that are in it.
    """

    rows: int
    columns: int
    interleave: int
    depth: int

    @property
    def tile_columns(self) -> int:
        """Columns of the result that one tile has; its rows are `rows`."""
        return self.columns * self.interleave


@dataclass(frozen=True)
class Identity:
    """What an accelerator says of itself.

    Attributes
    ----------
    geometry
        Its size.
    arithmetic
        As ``repr`` prints it.
    update
        Its update unit as `update_name` has it; empty if there is none.
    """

    geometry: Geometry
    arithmetic: str
    update: str = ""

    def to_words(self) -> list[int]:
        """Version, rows, columns, interleave, depth; then two lines of text, four bytes a word."""
        g = self.geometry
        text = f"{self.arithmetic}\n{self.update}".encode("ascii")
        text += b" " * (-len(text) % 4)
        return [VERSION, g.rows, g.columns, g.interleave, g.depth, *np.frombuffer(text, "<u4").tolist()]

    @classmethod
    def from_words(cls, words: Sequence[int]) -> Identity:
        """The inverse of `to_words`; a ValueError if the version is another."""
        if len(words) < 5 or words[0] != VERSION:
            raise ValueError(
                f"the device speaks version {words[0] if len(words) else 'none'} of the command stream, but "
                f"this driver speaks {VERSION}; build device and driver from one release"
            )
        text = np.array(words[5:], "<u4").tobytes().decode("ascii", "replace").rstrip()
        arithmetic, _, update = text.partition("\n")
        return cls(Geometry(*(int(w) for w in words[1:5])), arithmetic, update)


def update_name(update: HardwareRule | UpdateUnit) -> str:
    """What tells one update unit from another: "e6m9 stochastic 16", "q4.12 q4.12 q2.14 nearest"."""
    draws = f" {update.random_bits}" if update.rounding is Rounding.STOCHASTIC else ""
    return f"{' '.join(map(str, update.formats))} {update.rounding}{draws}"
