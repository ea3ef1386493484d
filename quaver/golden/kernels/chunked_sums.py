"""What the kernels of a GEMM in chunks must know of it."""

from __future__ import annotations

from typing import Protocol

from quaver.golden.formats import FloatFormat
from quaver.golden.rounding import Rounding


class ChunkedSums(Protocol):
    """The parameters of `quaver.golden.arithmetic.chunked_float.ChunkedFloat`, which stands above."""

    @property
    def operand(self) -> FloatFormat: ...
    @property
    def accumulator(self) -> FloatFormat: ...
    @property
    def total(self) -> FloatFormat | None: ...
    @property
    def chunk(self) -> int: ...
    @property
    def rounding(self) -> Rounding | str: ...
    @property
    def stochastic(self) -> bool: ...
    @property
    def random_bits(self) -> int: ...
    def __hash__(self) -> int: ...
