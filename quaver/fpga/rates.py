"""How many multiply-accumulates a design does in a second: at best, on a large GEMM, and through its link."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from quaver.host.driver import Driver
from quaver.host.transport import Words
from quaver.rtl.commands import CommandHeader, GemmArguments, Opcode, ResponseHeader, TileArguments
from quaver.rtl.link.frames import FULL_FRAME_BYTES, MAX_WORDS

if TYPE_CHECKING:
    from quaver.fpga.design import Design

#: The large GEMM: products in a sum, and tiles of the array each way, so many that
#: loading B once counts little.
LENGTH, TILES = 512, 32

#: Bytes on the line for each byte of a word: header, CRC and flags of a full frame, and one byte in 128 that
#: is escaped, for two of the 256 are.
OVERHEAD = FULL_FRAME_BYTES / (4 * MAX_WORDS) * (1 + 2 / 256)


@dataclass(frozen=True)
class Rates:
    """Multiply-accumulates a second.

    Attributes
    ----------
    peak
        Every element computes all the time: a product a cycle, or one in as many cycles as a product takes.
    sustained
        A GEMM of 32 × 32 tiles, 512 long, where commands come as fast as the accelerator takes them, a word a
        cycle: less the steps that fold chunks, which multiply nothing; or, if its memory is too small to
        use an operand often, as fast as the operands come. Filling and draining are not in it.
    linked
        The same with commands and responses over the serial line at its full rate.
    """

    peak: float
    sustained: float
    linked: float


@cache
def rates(design: Design) -> Rates:
    """The rates of a design, from its cycles and from the words that its driver sends."""
    clock = float(design.pll.clock_hz)
    arithmetic, (a, b) = design.computes, shapes(design)
    products = a[0] * LENGTH * b[1]
    geometry = design.accelerator.geometry
    peak = design.rows * design.columns * geometry.group / geometry.product_cycles  # products a cycle
    steps, folds = geometry.steps(LENGTH), -(-LENGTH // arithmetic.chunk)
    computing = products / peak * (steps + folds) / steps
    # Both directions go at the same time, and so does the computing.
    moved = max(words(design))
    sustained = products / max(computing, moved) * clock
    linked = products / (moved * 4 * OVERHEAD * 10 / design.baud)
    return Rates(peak * clock, sustained, min(linked, sustained))


def shapes(design: Design) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of the large GEMM's operands, (M, K) and (K, N)."""
    geometry = design.accelerator.geometry
    return (TILES * geometry.rows, LENGTH), (LENGTH, TILES * geometry.tile_columns)


def words(design: Design) -> tuple[int, int]:
    """Words that the driver sends for the large GEMM, and those that it gets."""
    line = _Counted(design)
    arithmetic = design.computes
    driver = Driver(line, arithmetic)
    line.sent = line.received = 0
    formats = arithmetic.a, arithmetic.b
    a, b = (np.zeros(size, of.code_dtype) for of, size in zip(formats, shapes(design), strict=True))
    driver.gemm(a, b, seed=1 if arithmetic.stochastic else None)
    return line.sent, line.received


class _Counted:
    """A transport to no device: counts words, and answers as many as a device would, all of them zero."""

    def __init__(self, design: Design) -> None:
        accelerator = design.accelerator
        self._identity, self._tile_words = accelerator.identity, accelerator.tile_words
        self._answers = np.empty(0, np.uint32)
        self.sent = self.received = 0

    def send(self, words: Words) -> None:
        self.sent += len(words)
        opcode = CommandHeader.unpack(int(words[0])).opcode
        body: list[int] = []
        if opcode == Opcode.IDENTIFY:
            body = self._identity.to_words()
        elif opcode == Opcode.GEMM and GemmArguments.unpack(int(words[1])).last:
            tiles = TileArguments.unpack(int(words[2]))
            body = [0] * (tiles.m_tiles * tiles.n_tiles * self._tile_words)
        header = ResponseHeader.pack(length=len(body), opcode=opcode)
        self._answers = np.concatenate([self._answers, np.array([header, *body], np.uint32)])

    def receive(self, count: int) -> Words:
        self.received += count
        answer, self._answers = self._answers[:count], self._answers[count:]
        return answer

    def reset(self) -> None:
        self._answers = self._answers[:0]
