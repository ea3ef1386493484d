"""Run: where layers meet the engine. Layers speak values, the engine speaks codes; each call says who it
is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from quaver.golden import kernels
from quaver.golden.compression import AdaComp, Compression, Contribution, Packet, mean
from quaver.golden.contracts import Arithmetic, UpdateRule
from quaver.golden.engine import Casts, Compresses, Engine, GoldenEngine, requantised
from quaver.golden.formats import BlockFormat, Format
from quaver.golden.lfsr import numbered_seed
from quaver.golden.nn.quantisers import Quantised, Quantiser
from quaver.golden.nn.recipe import SUMMED, Precision, Recipe, Role
from quaver.golden.requantisation import Requantisation

if TYPE_CHECKING:
    from quaver.golden.arithmetic.integer import Integer

Values = NDArray[Any]
"""float32 on the grid of a format (or anywhere, where the recipe says float32)."""


#: The role of a call whose results are the next layer's codes.
REQUANTISED = "to codes"


@dataclass(frozen=True)
class Call:
    """One call of the engine, as a trace sees it.

    Attributes
    ----------
    step
        The training step, counted from 0.
    layer
        Name of the layer, or for an update the name of the parameter, such as conv1.weight.
    role
        What the GEMM is for, a `Role`; `REQUANTISED`, of a forward GEMM whose results are the next layer's
        codes; "update"; or "compress" or "average", of a learner's gradient or of all learners' packets.
    rule
        The arithmetic of the GEMM, the update rule, or that of compression.
    operands, results
        Codes. Of a GEMM, A (M, K) and B (K, N), and C (M, N); of an update, weights, momenta and gradients,
        and the new weights and momenta, in the parameter's shape. Of a compression, flat float32: residue and
        gradient, and the packet's bytes and the new residue; of an average, packets' bytes, and float32.
    """

    step: int
    layer: str
    role: str
    rule: Arithmetic | UpdateRule | AdaComp
    operands: tuple[NDArray[Any], ...]
    results: tuple[NDArray[Any], ...]


Trace = Callable[[Call], None]


class Run:
    """A recipe on an engine: casts, GEMMs, roundings and updates of one training run.

    Stochastic GEMMs and updates take the seeds `numbered_seed(seed, calls)`, one a call in program order, so
    a run draws the same bits on any engine and any thread count.

    Parameters
    ----------
    recipe
        Which arithmetic each GEMM, cast, rounding and update uses.
    engine
        Who computes the GEMMs and updates, and the casts if it can (`quaver.golden.engine.Casts`).
    seed
        Where all random bits come from, 1 … 2**32 − 1.
    trace
        Called with each `Call` of the engine.

    Attributes
    ----------
    calls
        Stochastic calls so far. With the seed, this is all the random state there is.
    step
        The training step that calls belong to, counted from 0.
    training
        Whether layers use the batch's statistics, and overflows are counted; false while evaluating.
    overflows
        How many results of backward and gradient GEMMs were not finite since the trainer last cleared it.
    first_overflow
        Role and layer of the first GEMM with a result that was not finite, cleared by the trainer as well;
        empty if there is none.
    """

    def __init__(self, recipe: Recipe, engine: Engine, *, seed: int = 1, trace: Trace | None = None) -> None:
        self.recipe = recipe
        self.engine = engine
        self.seed = seed
        self.trace = trace
        self.calls = 0
        self.step = 0
        self.training = True
        self.overflows = 0
        self.first_overflow = ""

    @property
    def casts(self) -> Casts:
        """Who casts: the engine, or where it cannot the golden model."""
        return self.engine if isinstance(self.engine, Casts) else GoldenEngine()

    def operand(
        self, values: Values | Quantised, precision: Precision, role: Role, tensor: str
    ) -> NDArray[Any]:
        """A tensor as the GEMM of this role takes it, in the same shape.

        That is codes of the operand's format, or float32 values where the GEMM has no arithmetic. `tensor` is
        one of the role's two names in `quaver.golden.nn.recipe.OPERANDS`. Of a quantised tensor, a GEMM that
        is scaled (`Precision.is_scaled`) takes the integers or fractions, any other GEMM the values.
        """
        rounding = self.recipe.cast
        cast: Format | BlockFormat | Quantiser | None = getattr(precision, tensor)
        operand = precision.operand(role, tensor)
        if isinstance(values, Quantised):
            if operand is not None and precision.is_scaled(role):
                same = operand == values.format
                if same:
                    return values.codes
                return self.casts.encode(operand, values.format.integers(values.codes))
            values, cast = values.values, None
        if isinstance(cast, BlockFormat):
            values = cast.round(values, rounding, axis=SUMMED[role, tensor]).astype(np.float32)
        elif isinstance(cast, Format) and cast != operand:
            values = self.casts.round(cast, values, rounding)
        return values if operand is None else self.casts.encode(operand, values, rounding)

    def gemm(
        self,
        layer: str,
        role: Role,
        precision: Precision,
        a: NDArray[Any],
        b: NDArray[Any],
        *,
        exchanged: bool = False,
        requantisation: Requantisation | None = None,
    ) -> Values:
        """C = A·B, as values (M, N), of A (M, K) and B (K, N) that `operand` made; with a `requantisation`,
        which a GEMM of integers alone has, the codes that it makes of them.

        With `exchanged`, `a` is the tensor that the role has for B, and `b` the one that it has for A. An
        arithmetic whose two operand formats differ computes the transposed product then.
        """
        arithmetic: Arithmetic | None = getattr(precision, role)
        if arithmetic is None:
            c = kernels.float32.matmul(a, b)
        elif exchanged and arithmetic.a != arithmetic.b:
            c = self.gemm(layer, role, precision, b.T, a.T, requantisation=requantisation)
            return np.ascontiguousarray(c.T)
        else:
            if requantisation is not None:
                codes = requantised(self.engine, cast("Integer", arithmetic), requantisation, a, b)
                if self.trace is not None:
                    self.trace(Call(self.step, layer, REQUANTISED, arithmetic, (a, b), (codes,)))
                return codes
            codes = self.engine.gemm(arithmetic, a, b, seed=self._next_seed(arithmetic))
            if self.trace is not None:
                self.trace(Call(self.step, layer, role, arithmetic, (a, b), (codes,)))
            c = self.casts.decode(arithmetic.result, codes)
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
        """One update of the parameter `name`: codes of one shape in, the new weights and momenta out."""
        results = self.engine.update(rule, weights, momenta, gradients, seed=self._next_seed(rule))
        if self.trace is not None:
            self.trace(Call(self.step, name, "update", rule, (weights, momenta, gradients), results))
        return results

    def compress(
        self, name: str, rule: Compression, residue: Values, gradient: Values, *, layer: int, learner: int
    ) -> tuple[Contribution, Values]:
        """What a learner sends of the gradient of parameter `name`, and what it keeps; arrays are flat."""
        where = {"layer": layer, "learner": learner, "step": self.step % (1 << 32)}
        if not isinstance(rule, AdaComp) or not isinstance(self.engine, Compresses):
            return rule.compress(residue, gradient, **where)
        packet, kept = self.engine.compress(rule, residue, gradient, **where)
        if self.trace is not None:
            results = _bytes(packet), kept
            self.trace(Call(self.step, name, "compress", rule, (residue, gradient), results))
        return packet, kept

    def mean(self, name: str, rule: Compression, contributions: Sequence[Contribution]) -> Values:
        """The average of what the learners send of parameter `name`, flat."""
        packets = [each for each in contributions if isinstance(each, Packet)]
        if not isinstance(rule, AdaComp) or not isinstance(self.engine, Compresses):
            return mean(contributions)
        average = self.engine.mean(packets)
        if self.trace is not None:
            operands = tuple(map(_bytes, packets))
            self.trace(Call(self.step, name, "average", rule, operands, (average,)))
        return average

    def round(self, values: Values) -> Values:
        """Round what leaves an operation between GEMMs, once and to nearest, to the recipe's `elementwise`
        format; the shape stays."""
        fmt = self.recipe.elementwise
        return np.asarray(values, dtype=np.float32) if fmt is None else self.casts.round(fmt, values)

    def _next_seed(self, rule: Arithmetic | UpdateRule) -> int | None:
        if not rule.stochastic:
            return None
        self.calls += 1
        return numbered_seed(self.seed, self.calls)


def _bytes(packet: Packet) -> NDArray[np.uint8]:
    return np.frombuffer(packet.pack(), np.uint8)
