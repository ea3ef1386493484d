"""Engine: who computes the GEMMs and the weight updates. What is above speaks codes and never asks which one.

The golden engine computes here; a simulated or a real accelerator is another `Engine`, and the comparison of
two engines is the same run on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from quaver.golden.compression import AdaComp, Packet, Values, mean
from quaver.golden.contracts import Arithmetic, Codes, UpdateRule


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
class CompressingEngine(Protocol):
    """An engine that compresses gradients and averages them too."""

    def compress(
        self,
        rule: AdaComp,
        residue: Values,
        gradient: Values,
        *,
        layer: int = 0,
        learner: int = 0,
        step: int = 0,
    ) -> tuple[Packet, Values]:
        """What a learner sends of a layer, and what it keeps: see `AdaComp.compress`."""

    def mean(self, packets: Sequence[Packet]) -> Values:
        """The average of the learners' packets of one layer: see `quaver.golden.compression.mean`."""


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

    def compress(
        self,
        rule: AdaComp,
        residue: Values,
        gradient: Values,
        *,
        layer: int = 0,
        learner: int = 0,
        step: int = 0,
    ) -> tuple[Packet, Values]:
        """By `rule.compress`, see `CompressingEngine.compress`."""
        return rule.compress(residue, gradient, layer=layer, learner=learner, step=step)

    def mean(self, packets: Sequence[Packet]) -> Values:
        """See `CompressingEngine.mean`."""
        return mean(packets)
