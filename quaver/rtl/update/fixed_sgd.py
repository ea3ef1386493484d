"""The weight update in fixed point, one element a cycle: the twin of `quaver.golden.update.fixed_sgd`."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Module, Signal, Value

from quaver.golden.formats import FixedFormat
from quaver.golden.rounding import RANDOM_BITS
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.update.fixed_sgd import SCALAR, FixedSGD
from quaver.rtl.lfsr import LFSR
from quaver.rtl.round_and_saturate import RoundAndSaturate
from quaver.rtl.update.unit import UpdateUnit, delayed

_Q4_12 = FixedFormat(4, 12)
_HALF = SCALAR.width // 2


class FixedSGDUnit(UpdateUnit):
    """SGD with momentum on fixed-point elements: each line exact inside, rounded once, saturating.

    For each element, as `quaver.golden.update.fixed_sgd.FixedSGD` says it::

        v ← round(momentum · v + rate · g + decay · w)       in `updates`
        w ← round(w − v)                                     in `weights`

    where `decay` is that rule's rate·decay.

    Parameters
    ----------
    weights, updates, gradients
        Formats of w, of v and of g. The scalars are in `quaver.golden.update.fixed_sgd.SCALAR`.
    rounding, random_bits
        Of both lines; one that drops no bits draws none.

    Attributes
    ----------
    latency
        5 cycles: behind the FPGA's multipliers, the products, their sum, v, and w. Initiation interval 1.

    Streams, and when they wait: as `UpdateUnit`.
    """

    def __init__(
        self,
        weights: FixedFormat = _Q4_12,
        updates: FixedFormat = _Q4_12,
        gradients: FixedFormat = _Q4_12,
        *,
        rounding: RoundingMode | str = RoundingMode.STOCHASTIC,
        random_bits: int = RANDOM_BITS,
    ) -> None:
        self.weights, self.updates, self.gradients = weights, updates, gradients
        super().__init__((weights, updates, gradients), SCALAR, rounding, random_bits, 5)

    @classmethod
    def for_rule(cls, rule: FixedSGD, *, stages: int | None = None) -> FixedSGDUnit:
        """The unit that computes `rule`; it has as many stages as it has."""
        return cls(*rule.formats, rounding=rule.rounding, random_bits=rule.random_bits)

    @property
    def rule(self) -> FixedSGD:
        """The rule that it computes, with scalars of zero."""
        formats = self.weights, self.updates, self.gradients
        return FixedSGD(0.0, 0.0, 0.0, *formats, self.rounding, self.random_bits)

    def compute(self, m: Module, scalars: Mapping[str, Value], entered: Value, begins: Value) -> None:
        element = self.elements.payload
        formats = self.weights, self.updates, self.gradients
        finest = max(fmt.fraction_bits for fmt in formats)
        codes = {"decay": element.weight, "momentum": element.momentum, "rate": element.gradient}
        terms = []
        for (name, code), fmt in zip(codes.items(), formats, strict=True):
            # A scalar is wider than the FPGA's multipliers: two products, registered before their sum.
            low, high = scalars[name][:_HALF], scalars[name][_HALF:].as_signed()
            low, high = (delayed(m, 1, half * code.as_signed()) for half in (low, high))
            terms.append(delayed(m, 1, low + (high << _HALF)) << (finest - fmt.fraction_bits))
        total = delayed(m, 1, terms[0] + terms[1] + terms[2])
        dropped = finest + SCALAR.fraction_bits - self.updates.fraction_bits
        v = delayed(m, 1, self._rounded(m, "momentum", total, dropped, self.updates, entered[3], begins))

        finest = max(self.weights.fraction_bits, self.updates.fraction_bits)
        w = delayed(m, 4, element.weight).as_signed()
        difference = (w << (finest - self.weights.fraction_bits)) - (
            v.as_signed() << (finest - self.updates.fraction_bits)
        )
        dropped = finest - self.weights.fraction_bits
        new = self._rounded(m, "rate", difference, dropped, self.weights, entered[4], begins)
        m.d.comb += [
            self.results.payload.weight.eq(delayed(m, 1, new)),
            self.results.payload.momentum.eq(delayed(m, 1, v)),
        ]

    def _rounded(
        self, m: Module, line: str, number: Value, dropped: int, fmt: FixedFormat, draw: Value, begins: Value
    ) -> Signal:
        """The code of `number`; an element that is there, `draw`, takes a draw of the line's LFSR."""
        rounding = RoundAndSaturate(len(number), dropped, fmt, self.rounding, self.random_bits)
        m.submodules[line] = rounding
        m.d.comb += rounding.number.eq(number)
        if dropped and self.rounding.draws:
            m.submodules[f"{line}_lfsr"] = lfsr = LFSR(self.random_bits)
            m.d.comb += [
                lfsr.enable.eq(draw),
                lfsr.load.eq(begins),
                lfsr.seed.eq(self.seed(line)),
                rounding.random.eq(lfsr.draw),
            ]
        return rounding.code
