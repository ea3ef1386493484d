"""What an arithmetic and an update rule are to everything that takes one as a parameter.

Engines, recipes, the accelerator, its driver and the build flow know no more of them than is written here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol, Self

from numpy.typing import ArrayLike, NDArray

from quaver.golden.formats import Format
from quaver.golden.lfsr import LFSR
from quaver.golden.random_bits import States
from quaver.golden.rounding import Rounding

Codes = NDArray[Any]


class Draws(StrEnum):
    """What an arithmetic draws random bits for."""

    NOTHING = "nothing"
    SUMS = "sums"
    """Every sum inside: the bits ride through an array with the operands."""
    RESULTS = "results"
    """Each result, once, on its way out of an array."""
    OPERANDS = "operands"
    """Each operand, in every cycle, on its way into an array."""


class Arithmetic(Protocol):
    """What one multiply-accumulate means, to the bit: a frozen dataclass of its parameters.

    Every parameter has a default, and a format, a number or a word for its value: the command line and the
    accelerator's description of itself (`quaver.golden.descriptor`) are made of them. Two objects that are
    equal compute the same.
    """

    @property
    def a(self) -> Format:
        """Format of the codes of A, the first operand."""

    @property
    def b(self) -> Format:
        """Format of the codes of B, the second operand."""

    @property
    def result(self) -> Format:
        """Format of the codes of C."""

    @property
    def chunk(self) -> int:
        """How many products are summed up before their sum is folded into the total."""

    @property
    def identity(self) -> tuple[int, int] | None:
        """Codes of a and b whose product changes no sum: a bubble in an array. None: every product does."""

    @property
    def stochastic(self) -> bool:
        """Whether a GEMM takes a seed."""

    @property
    def draws(self) -> Draws:
        """What the arithmetic draws random bits for."""

    @property
    def random_bits(self) -> int:
        """Bits of one draw, where the arithmetic draws any."""

    @property
    def hardware(self) -> Self:
        """The arithmetic that stands for all that are the same circuit: equal codes in, equal codes out.

        `self`, unless parameters only say what the codes mean.
        """

    @property
    def equivalents(self) -> tuple[Self, ...]:
        """`self`, then others with wider operands that give the same results for operands of the same values:
        a device of any of them computes this one once the operands are encoded anew."""

    @property
    def default_update(self) -> HardwareRule | None:
        """The update rule whose unit an accelerator of this arithmetic has unless it is told otherwise; its
        scalars do not matter. None: the host updates."""

    def check(
        self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        """The operands of a GEMM as arrays of codes, or a TypeError or ValueError that says what is wrong
        with them or with the seed."""

    def sources(self, seed: int | None, row: int = 0, column: int = 0) -> States:
        """The states of the three sources of `quaver.golden.random_bits` before the first sum of output (row,
        column); a ValueError for a wrong seed. Only where it draws."""

    def gemm(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """C = A·B: (M, K) and (K, N) operand codes give (M, N) result codes, fast.

        `seed`, 1 … 2**32 − 1, if and only if `stochastic`.
        """

    def definition(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """The same in exact numbers, an output at a time: slow, and what `gemm` is held to."""


class UpdateRule(Protocol):
    """What one weight update means, to the bit: a frozen dataclass of scalars, formats and a rounding."""

    @property
    def formats(self) -> tuple[Format, ...]:
        """Formats of weights, momenta and gradients; one format alone is that of all three."""

    @property
    def stochastic(self) -> bool:
        """Whether an update takes a seed."""

    @property
    def scalars(self) -> dict[str, int]:
        """The codes of the scalars by name."""

    def sources(self, seed: int | None) -> dict[str, LFSR]:
        """Line of the rule → the LFSR that it draws from in a call with this seed; a ValueError for a wrong
        seed."""

    def check(self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike) -> list[Codes]:
        """The three as contiguous codes; an error if they are none, or of different shapes."""

    def update(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        """The new weights and momenta, same shapes; a rule with two momenta stacks them, (2, *shape).

        `seed`, 1 … 2**32 − 1, if and only if `stochastic`.
        """

    def definition(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        """The same in exact numbers, an element at a time."""


class HardwareRule(UpdateRule, Protocol):
    """An update rule that the accelerator can have a unit for: its scalars are rate, momentum and decay, and
    each weight has one momentum."""

    @property
    def scalar(self) -> Format:
        """The format of the scalars."""

    @property
    def rounding(self) -> Rounding:
        """How every line is rounded."""

    @property
    def random_bits(self) -> int:
        """Bits of one draw, where the rule draws any."""
