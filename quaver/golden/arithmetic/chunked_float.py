"""Chunk-based accumulation: small floats multiplied exactly, every addition rounded to a small float.

After Wang et al., NeurIPS 2018 (arXiv 1812.08011): FP8 (1,5,2) operands, FP16 (1,6,9) accumulation in chunks
of 64. What one output is, with A of shape (M, K) and B of shape (K, N)::

    total = +0
    for each chunk of `chunk` consecutive k:           (the last one may be short)
        partial = +0
        for k in the chunk, in order:
            partial = round(partial + a[i, k] * b[k, j])     the product is exact
        total = round(total + partial)                       perhaps to another format
    c[i, j] = total
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
from numpy.typing import ArrayLike

from quaver.golden import exact
from quaver.golden.arithmetic.operands import check_operands
from quaver.golden.contracts import Codes, Draws
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import FP8, FP16, FloatFormat
from quaver.golden.kernels.dispatch import chunked_gemm, chunked_gemms
from quaver.golden.lfsr import numbered_seed
from quaver.golden.random_bits import States, draws_of, states
from quaver.golden.rounding import NEAREST_OR_DRAWN, Rounding
from quaver.golden.update.float_sgd import FloatSGD
from quaver.golden.validation import set_integers

#: With fewer random bits an accumulation is warned of: see `ChunkedFloat`.
ENOUGH_RANDOM_BITS = 10

#: A chunk longer than any dot product: plain accumulation.
NO_CHUNKS = 1 << 30

#: Operands are looked up in tables of all their values.
MAX_OPERAND_BITS = 16

#: The widest draw that both LFSRs make in one leap: their lowest taps are at 25 and 24.
MAX_RANDOM_BITS = 24


class FewRandomBits(UserWarning):
    """An accumulator rounds stochastically with so few bits that long sums lose a part of themselves."""


@dataclass(frozen=True)
class ChunkedFloat:
    """C = A·B with exact products and an accumulator that rounds at every addition, in chunks.

    Parameters
    ----------
    operand
        Format of the codes of A and B, of at most 16 bits.
    accumulator
        Format of the partial sums. Overflow goes where the format says: to infinity, or at every addition to
        the largest finite value if it saturates.
    chunk
        Products in a chunk, at least 1. It may exceed K, as `NO_CHUNKS` does: one chunk, and one fold.
    rounding
        "nearest" (ties as the accumulator has them), "stochastic", or its variants "stochastic-b" and
        "stochastic-c" of `quaver.golden.rounding.Rounding`, which lose nothing on average.
    random_bits
        R, the bits of each draw of stochastic rounding, 1 … 24. What lies more than R bits below the last one
        kept is cut off, which takes 2**−(R + 1) of a step from every sum: without chunks, a sum of 65,536
        terms keeps 0.70 of itself with 6 bits, 0.92 with 8 and 0.98 with 10 (`bench/random_bits.py`). Fewer
        than 10 bits are a `FewRandomBits` warning, but with the variants.
    total
        Format of the totals and of C: a second accumulator, as chunks promoted to FP32 have it. None: the
        accumulator's, and so is None if it is that.

    Notes
    -----
    Stochastic rounding draws as `quaver.golden.random_bits` says. The sums of an output count as they come:
    the K products, and each chunk's fold after the products of that chunk, the last fold included. Hence the
    result depends on the seed alone: not on threads, tiles or the size of an array.

    Specials follow IEEE 754: ∞·0 and ∞ − ∞ are the accumulator's one NaN. So do zeros: x + (−x) = +0,
    (−0) + (−0) = −0, and a negative sum that rounds to zero is −0. A partial sum may be −0; a result of an
    accumulator with gradual underflow is not, because its total starts at +0 and a fold adds two multiples of
    the accumulator's quantum, which round to zero only if they cancel. Two DLFloats may differ by less than
    the smallest one, and a sum may lie below the quantum of a narrower `total`: there a fold can underflow,
    and a result of −0 says on which side.
    """

    operand: FloatFormat = FP8
    accumulator: FloatFormat = FP16
    chunk: int = 64
    rounding: Rounding | str = Rounding.NEAREST_EVEN
    random_bits: int = 14
    total: FloatFormat | None = None

    def __post_init__(self) -> None:
        for name in ("operand", "accumulator"):
            value = getattr(self, name)
            if not isinstance(value, FloatFormat):
                raise TypeError(
                    f"{name} is {value!r}, but it must be a FloatFormat, e.g. quaver.golden.formats.FP8"
                )
        if self.total == self.accumulator:
            object.__setattr__(self, "total", None)
        if not isinstance(self.total, FloatFormat | None):
            raise TypeError(f"total is {self.total!r}, but it must be a FloatFormat, or None")
        if self.operand.width > MAX_OPERAND_BITS:
            raise ValueError(
                f"operand is {self.operand}, {self.operand.width} bits, but operands have at most "
                f"{MAX_OPERAND_BITS}; take fewer mantissa bits"
            )
        set_integers(self, "chunk", "random_bits")
        if self.chunk < 1:
            raise ValueError(
                f"chunk is {self.chunk!r}, but it must be an integer ≥ 1; chunk=K sums without chunks"
            )
        if self.rounding not in NEAREST_OR_DRAWN:
            raise ValueError(
                f"rounding is {self.rounding!r}, but it must be one of {', '.join(NEAREST_OR_DRAWN)}"
            )
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        if not 1 <= self.random_bits <= MAX_RANDOM_BITS:
            raise ValueError(
                f"random_bits is {self.random_bits!r}, but a draw takes 1 … {MAX_RANDOM_BITS} bits"
            )
        if self.rounding is Rounding.STOCHASTIC and self.random_bits < ENOUGH_RANDOM_BITS:
            warnings.warn(
                f"random_bits is {self.random_bits}: every sum loses 2**-{self.random_bits + 1} of a step on "
                f"average, which adds up in long ones; take {ENOUGH_RANDOM_BITS} or more, or stochastic-c",
                FewRandomBits,
                stacklevel=3,
            )

    @property
    def a(self) -> FloatFormat:
        """Format of the codes of A."""
        return self.operand

    @property
    def b(self) -> FloatFormat:
        """Format of the codes of B."""
        return self.operand

    @property
    def result(self) -> FloatFormat:
        """Format of the codes of C: the total's."""
        return self.total or self.accumulator

    @property
    def stochastic(self) -> bool:
        """Whether a GEMM takes a seed."""
        return Rounding(self.rounding).draws

    @property
    def draws(self) -> Draws:
        """Random bits for every sum, if `stochastic`."""
        return Draws.SUMS if self.stochastic else Draws.NOTHING

    @property
    def hardware(self) -> ChunkedFloat:
        """`self`: every parameter is one of the circuit's."""
        return self

    @property
    def equivalents(self) -> tuple[ChunkedFloat, ...]:
        """`self`; and with operands as wide as the sums, where those hold every operand."""
        wide = self.accumulator
        # Sums that saturate would turn an operand's infinity into a number.
        if wide.width > MAX_OPERAND_BITS or wide.saturate or not wide.holds(self.operand):
            return (self,)
        return self, replace(self, operand=wide)

    @property
    def default_update(self) -> FloatSGD:
        """Wang et al.'s: SGD with momentum in FP16, rounded stochastically."""
        return FloatSGD(rate=0.0)

    @property
    def identity(self) -> tuple[int, int]:
        """Codes (a, b) whose product is −0, the one number that changes no sum: a bubble in an array."""
        return self.operand.sign_code, 0

    def roundings(self, k: int) -> int:
        """How many sums one output of `k` products rounds: the products and the folds."""
        return k + -(-k // self.chunk)

    @standard_floats
    def gemm(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """C = A·B.

        Parameters
        ----------
        a_codes, b_codes
            Operand codes, shapes (M, K) and (K, N). Any of M, K, N may be 0; K = 0 gives +0.
        seed
            1 … 2**32 − 1 for stochastic rounding; nearest has no use for it.

        Returns
        -------
        Codes of `result`, shape (M, N).
        """
        a, b = self.check(a_codes, b_codes, seed=seed)
        if 0 in a.shape or 0 in b.shape:
            return np.zeros((a.shape[0], b.shape[1]), self.result.code_dtype)
        return chunked_gemm(self, a, b, self.sources(seed) if self.stochastic else None)

    @standard_floats
    def batched_gemm(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """C[i] = A[i]·B[i] at once: operand codes (products, M, K) and (products, K, N), result codes
        (products, M, N).

        Product i, counted from 0, draws as ``gemm(…, seed=numbered_seed(seed, i))``. ValueError: the shapes
        are others; what else is wrong with an operand, `gemm` says too.
        """
        a, b = self.a.check_codes(a_codes, "a_codes"), self.b.check_codes(b_codes, "b_codes")
        if a.ndim != 3 or b.ndim != 3 or len(a) != len(b) or a.shape[2] != b.shape[1]:
            raise ValueError(
                f"a_codes have shape {a.shape} and b_codes {b.shape}, but they must be (products, M, K) and "
                f"(products, K, N)"
            )
        self.check(np.zeros((0, 0), a.dtype), np.zeros((0, 0), b.dtype), seed=seed)
        if 0 in a.shape or 0 in b.shape:
            return np.zeros((len(a), a.shape[1], b.shape[2]), self.result.code_dtype)
        firsts = None if seed is None else [self.sources(numbered_seed(seed, i)) for i in range(len(a))]
        return chunked_gemms(self, a, b, firsts)

    @standard_floats
    def definition(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """The same as `gemm` in exact fractions, one output at a time: slow, and what `gemm` is held to."""
        a, b = self.check(a_codes, b_codes, seed=seed)
        (M, K), N = a.shape, b.shape[1]
        acc, result = self.accumulator, self.result

        def rounded_sum(fmt: FloatFormat, code: int, term: exact.Exact, random: int) -> int:
            value = exact.add(exact.decode(fmt, code), term)
            return exact.encode(fmt, value, self.rounding, random, self.random_bits)

        c = np.zeros((M, N), result.code_dtype)
        for i, j in np.ndindex(M, N):
            draws = draws_of(seed, i, j, self.random_bits) if self.stochastic else repeat(0)
            total = 0
            for start in range(0, K, self.chunk):
                partial = 0
                for k in range(start, min(start + self.chunk, K)):
                    product = exact.multiply(
                        exact.decode(self.operand, int(a[i, k])), exact.decode(self.operand, int(b[k, j]))
                    )
                    partial = rounded_sum(acc, partial, product, next(draws))
                total = rounded_sum(result, total, exact.decode(acc, partial), next(draws))
            c[i, j] = total
        return c

    def check(
        self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        """The operands as arrays of codes; errors as of `check_operands`."""
        return check_operands(self, a_codes, b_codes, seed)

    def sources(self, seed: int | None, row: int = 0, column: int = 0) -> States:
        """The states of the random sources before the first sum of output (row, column)."""
        return states(seed, row, column)
