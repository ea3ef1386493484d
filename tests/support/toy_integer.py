"""An arithmetic that is not Quaver's: what a third one takes. Its processing element is toy_integer_pe.py.

Unsigned activations times signed weights of a few bits, products and sums exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from quaver.golden.arithmetic.operands import check_operands
from quaver.golden.contracts import Codes, Draws
from quaver.golden.formats import FixedFormat, Format
from quaver.golden.formats.format import as_floats
from quaver.golden.rounding import Rounding
from quaver.golden.update.float_sgd import Update


@dataclass(frozen=True)
class UnsignedFormat(Format):
    """Unsigned fixed point: code · 2**−fraction_bits, saturating at 0 and at the top; to nearest only."""

    integer_bits: int
    fraction_bits: int

    syntax: ClassVar = "u2.2"

    @property
    def width(self) -> int:
        return self.integer_bits + self.fraction_bits

    @property
    def value_dtype(self) -> type[np.floating]:
        return np.float32

    @property
    def max_value(self) -> float:
        return ((1 << self.width) - 1) * 2.0**-self.fraction_bits

    def decode(self, codes):
        return self.check_codes(codes).astype(np.float32) * np.float32(2.0**-self.fraction_bits)

    def encode(self, values, rounding=Rounding.NEAREST_EVEN, *, random=None, random_bits=16):
        assert rounding == Rounding.NEAREST_EVEN
        steps = np.rint(as_floats(values).astype(np.float64) * 2.0**self.fraction_bits)
        return np.clip(steps, 0, (1 << self.width) - 1).astype(self.code_dtype)

    @classmethod
    def parse(cls, name: str) -> Self | None:
        match = re.fullmatch(r"u([0-9]+)\.([0-9]+)", name)
        return match and cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"u{self.integer_bits}.{self.fraction_bits}"


_A, _B = UnsignedFormat(2, 2), FixedFormat(0, 2)


@dataclass(frozen=True)
class ToyInteger:
    """C = A·B, every product and sum exact.

    Parameters
    ----------
    a, b
        Formats of the operands.
    accumulator_bits
        Width of the sums, which are the results: it bounds K.
    """

    a: UnsignedFormat = _A
    b: FixedFormat = _B
    accumulator_bits: int = 16

    stochastic: ClassVar = False
    draws: ClassVar = Draws.NOTHING
    random_bits: ClassVar = 0
    identity: ClassVar = (0, 0)

    @property
    def result(self) -> FixedFormat:
        fraction_bits = self.a.fraction_bits + self.b.fraction_bits
        return FixedFormat(self.accumulator_bits - fraction_bits, fraction_bits)

    @property
    def chunk(self) -> int:
        return ((1 << (self.accumulator_bits - 1)) - 1) >> (self.a.width + self.b.width - 1)

    @property
    def hardware(self) -> ToyInteger:
        return self

    @property
    def equivalents(self) -> tuple[ToyInteger, ...]:
        return (self,)

    @property
    def default_update(self) -> Update:
        return Update(rate=0.0)

    def check(self, a_codes, b_codes, *, seed=None) -> tuple[Codes, Codes]:
        a, b = check_operands(self, a_codes, b_codes, seed)
        if a.shape[1] > self.chunk:
            raise ValueError(f"K is {a.shape[1]}, but the sums hold {self.chunk} products")
        return a, b

    def sources(self, seed, row=0, column=0):
        raise NotImplementedError

    def gemm(self, a_codes, b_codes, *, seed=None) -> Codes:
        a, b = self.check(a_codes, b_codes, seed=seed)
        sums = a.astype(np.float32) @ self.b.integers(b).astype(np.float32)  # below 2**24
        return self.result.codes(sums)

    def definition(self, a_codes, b_codes, *, seed=None) -> Codes:
        a, b = self.check(a_codes, b_codes, seed=seed)
        integers = self.b.integers(b)
        sums = [
            [sum(int(x) * int(y) for x, y in zip(row, column, strict=True)) for column in integers.T]
            for row in a
        ]
        return self.result.codes(np.array(sums, np.int64).reshape(len(a), b.shape[1]))
