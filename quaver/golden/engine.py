"""Engine: who computes the GEMMs and the weight updates. What is above speaks codes and never asks which one.

The golden engine computes here; a simulated or a real accelerator is another `Engine`, and the comparison of
two engines is the same run on both.
"""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from quaver.golden.formats import Format

Codes = NDArray[Any]


class Arithmetic(Protocol):
    """What one multiply-accumulate means: a frozen object of `quaver.golden.arithmetic`."""

    @property
    def operand(self) -> Format:
        """The format of A's and B's codes, or one as wide as theirs."""

    @property
    def operands(self) -> tuple[Format, Format]:
        """The formats of the two operands. Where they differ, A's may be either."""

    @property
    def result(self) -> Format:
        """The format of C's codes."""

    @property
    def chunk(self) -> int:
        """How many products are summed up before their sum is folded into the total."""

    @property
    def identity(self) -> tuple[int, int]:
        """Codes of a and b whose product changes no sum: a bubble in an array."""

    def gemm(self, a_codes: Codes, b_codes: Codes, *, seed: int | None = None) -> Codes:
        """C = A·B: (M, K) and (K, N) operand codes give (M, N) result codes."""


class UpdateRule(Protocol):
    """What one weight update means: a frozen object of `quaver.golden.update.float_sgd`."""

    def update(
        self, weights: Codes, momenta: Codes, gradients: Codes, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        """The new weights and momenta, same shapes; a rule with two momenta stacks them, (2, *shape)."""


class Engine(Protocol):
    """Computes GEMMs and weight updates on codes, bit for bit what the golden model says."""

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """C = A·B in `arithmetic`: operand codes (M, K) and (K, N), result codes (M, N).

        `seed` (1 … 2**32 − 1) is what a stochastic arithmetic draws from, and is left out for any other.
        """

    def update(
        self,
        rule: UpdateRule,
        weights: Codes,
        momenta: Codes,
        gradients: Codes,
        *,
        seed: int | None = None,
    ) -> tuple[Codes, Codes]:
        """One step of `rule`: the new weights and momenta, codes of the same shapes."""


class GoldenEngine:
    """The engine that defines the others: the golden model, computed here."""

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """`arithmetic.gemm`."""
        return arithmetic.gemm(a_codes, b_codes, seed=seed)

    def update(
        self,
        rule: UpdateRule,
        weights: Codes,
        momenta: Codes,
        gradients: Codes,
        *,
        seed: int | None = None,
    ) -> tuple[Codes, Codes]:
        """`rule.update`."""
        return rule.update(weights, momenta, gradients, seed=seed)
