"""Run: where layers meet the engine. Layers speak values, the engine speaks codes; each call says who it
is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden import kernels
from quaver.golden.contracts import Arithmetic, UpdateRule
from quaver.golden.engine import Engine
from quaver.golden.formats import Format
from quaver.golden.lfsr import numbered_seed
from quaver.golden.nn.recipe import Precision, Recipe, Role

Values = NDArray[Any]
"""float32 on the grid of a format (or anywhere, where the recipe says float32)."""


@dataclass(frozen=True)
class Call:
    """One call of the engine, as a trace sees it.

    `role` is a GEMM's, or "update" with the parameter's name for `layer`. `operands` and `results` are codes:
    A (M, K), B (K, N) → C (M, N), or weights, momenta, gradients → weights, momenta.
    """

    step: int
    layer: str
    role: str
    rule: Arithmetic | UpdateRule
    operands: tuple[NDArray[Any], ...]
    results: tuple[NDArray[Any], ...]


Trace = Callable[[Call], None]


class Run:
    """A recipe on an engine: casts, GEMMs, roundings and updates of one training run.

    Stochastic GEMMs and updates take the seeds `numbered_seed(seed, calls)`, one a call in program order, so
    a run draws the same bits on any engine and any thread count.
    """

    def __init__(self, recipe: Recipe, engine: Engine, *, seed: int = 1, trace: Trace | None = None) -> None:
        self.recipe = recipe
        self.engine = engine
        self.seed = seed
        self.trace = trace
        self.calls = 0
        """Stochastic calls so far; with the seed it is all the random state there is."""
        self.step = 0
        self.training = True
        self.overflows = 0
        """Results of backward and gradient GEMMs that were not finite, since the trainer last cleared it."""
        self.first_overflow = ""
        """The first GEMM of all, by layer and role, with a result that was not; cleared likewise."""

    def operand(self, values: Values, precision: Precision, role: Role, tensor: str) -> NDArray[Any]:
        """A tensor as that GEMM takes it: codes of the operand's format, or float32 values where there is no
        arithmetic."""
        rounding = self.recipe.cast
        cast: Format | None = getattr(precision, tensor)
        operand = precision.operand(role, tensor)
        if cast is not None and cast != operand:
            values = cast.round(values, rounding)
        return values if operand is None else operand.encode(values, rounding)

    def gemm(
        self,
        layer: str,
        role: Role,
        precision: Precision,
        a: NDArray[Any],
        b: NDArray[Any],
        *,
        exchanged: bool = False,
    ) -> Values:
        """C = A·B of two `operand`s, as values.

        Exchanged, A is the tensor that the role has for B, and the other way round. An arithmetic whose
        operands differ computes the transpose then.
        """
        arithmetic: Arithmetic | None = getattr(precision, role)
        if arithmetic is None:
            c = kernels.float32.matmul(a, b)
        elif exchanged and arithmetic.a != arithmetic.b:
            return np.ascontiguousarray(self.gemm(layer, role, precision, b.T, a.T).T)
        else:
            a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
            codes = self.engine.gemm(arithmetic, a, b, seed=self._next_seed(arithmetic))
            if self.trace is not None:
                self.trace(Call(self.step, layer, role, arithmetic, (a, b), (codes,)))
            c = arithmetic.result.decode(codes)
        if self.training and not np.isfinite(c).all():
            self.first_overflow = self.first_overflow or f"{role} GEMM of {layer}"
            if role is not Role.FORWARD:
                self.overflows += int(np.count_nonzero(~np.isfinite(c)))
        return c

    def update(
        self,
        name: str,
        rule: UpdateRule,
        weights: NDArray[Any],
        momenta: NDArray[Any],
        gradients: NDArray[Any],
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """One update of one parameter, codes in and out."""
        results = self.engine.update(rule, weights, momenta, gradients, seed=self._next_seed(rule))
        if self.trace is not None:
            self.trace(Call(self.step, name, "update", rule, (weights, momenta, gradients), results))
        return results

    def round(self, values: Values) -> Values:
        """What leaves an operation between GEMMs: rounded once, to nearest, to the recipe's `elementwise`
        format."""
        fmt = self.recipe.elementwise
        return np.asarray(values, dtype=np.float32) if fmt is None else fmt.round(values)

    def _next_seed(self, rule: Arithmetic | UpdateRule) -> int | None:
        if not rule.stochastic:
            return None
        self.calls += 1
        return numbered_seed(self.seed, self.calls)
