"""Engine: who computes the GEMMs and the weight updates. What is above speaks codes and never asks which one.

The golden engine computes here; a simulated or a real accelerator is another `Engine`, and the comparison of
two engines is the same run on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import ArrayLike, NDArray

from quaver.golden.compression import AdaComp, Packet, Values, mean
from quaver.golden.contracts import Arithmetic, Codes, UpdateRule
from quaver.golden.formats import Format
from quaver.golden.requantisation import Requantisation
from quaver.golden.rounding import Rounding

if TYPE_CHECKING:
    from quaver.golden.arithmetic.integer import Integer


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
        """One step of `rule`: the new weights and momenta, codes of the shapes of the old ones.

        `seed` (1 … 2**32 − 1) is what a stochastic rule draws from, and is left out for any other.
        """


@runtime_checkable
class Compresses(Protocol):
    """An engine that compresses gradients and averages them too."""

    def compress(
        self, rule: AdaComp, residue: Values, gradient: Values, **where: int
    ) -> tuple[Packet, Values]:
        """What a learner sends of a layer, and what it keeps: see `AdaComp.compress`, also for `where`."""

    def mean(self, packets: Sequence[Packet]) -> Values:
        """The average of the learners' packets of one layer: see `quaver.golden.compression.mean`."""


@runtime_checkable
class Casts(Protocol):
    """An engine that casts too: a format's `encode`, `round` and `decode`, with its errors."""

    def encode(
        self, fmt: Format, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN
    ) -> Codes:
        """See `Format.encode`; of the roundings that draw nothing."""

    def round(
        self, fmt: Format, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN
    ) -> NDArray[Any]:
        """See `Format.round`; of the roundings that draw nothing."""

    def decode(self, fmt: Format, codes: ArrayLike) -> NDArray[Any]:
        """See `Format.decode`."""


@runtime_checkable
class Requantises(Protocol):
    """An engine from whose array the next layer's codes leave."""

    def requantised(
        self, arithmetic: Integer, requantisation: Requantisation, a_codes: Codes, b_codes: Codes
    ) -> Codes:
        """The codes of A·B, (M, N) uint8; `requantisation` is of N columns."""


def requantised(
    engine: Engine, arithmetic: Integer, requantisation: Requantisation, a_codes: Codes, b_codes: Codes
) -> Codes:
    """The codes of A·B: as they leave the engine's array, or where it has none made of its sums here."""
    if isinstance(engine, Requantises):
        return engine.requantised(arithmetic, requantisation, a_codes, b_codes)
    return requantisation(arithmetic.result.integers(engine.gemm(arithmetic, a_codes, b_codes)))


class GoldenEngine:
    """The engine that defines the others: the golden model, computed here."""

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """C = A·B by `arithmetic.gemm`, see `Engine.gemm`."""
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
        """One step by `rule.update`, see `Engine.update`."""
        return rule.update(weights, momenta, gradients, seed=seed)

    def encode(
        self, fmt: Format, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN
    ) -> Codes:
        """By `fmt.encode`, see `Casts.encode`."""
        return fmt.encode(values, rounding)

    def round(
        self, fmt: Format, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN
    ) -> NDArray[Any]:
        """By `fmt.round`, see `Casts.round`."""
        return fmt.round(values, rounding)

    def decode(self, fmt: Format, codes: ArrayLike) -> NDArray[Any]:
        """By `fmt.decode`, see `Casts.decode`."""
        return fmt.decode(codes)

    def compress(
        self, rule: AdaComp, residue: Values, gradient: Values, **where: int
    ) -> tuple[Packet, Values]:
        """By `rule.compress`, see `Compresses.compress`."""
        return rule.compress(residue, gradient, **where)

    def mean(self, packets: Sequence[Packet]) -> Values:
        """See `Compresses.mean`."""
        return mean(packets)
