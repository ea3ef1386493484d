"""The weight update, one element a cycle: the twin of `quaver.golden.update.float_sgd`."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.formats import FP16, FloatFormat
from quaver.golden.rounding import RANDOM_BITS
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.update.float_sgd import SEED_MASKS, FloatSGD
from quaver.golden.validation import as_integer
from quaver.rtl.float.adder import CUTS, FloatAdder
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.rtl.lfsr import LFSR
from quaver.rtl.update.unit import UpdateUnit, delayed

#: Most registers of an AXPY: the multiplier's 2 and the adder's.
MAX_STAGES = 2 + max(CUTS) + 1


class Axpy(wiring.Component):
    """round(y + alpha · x): exact inside, rounded once, stochastically from an LFSR of its own.

    Parameters
    ----------
    fmt, rounding, random_bits, stages
        As in `FloatSGDUnit`. The latency is `stages` cycles, the initiation interval 1.

    Attributes
    ----------
    multiplier_stages
        How many of the registers lie before the adder.

    ========= === ===================================================================================
    alpha     in  code; it must not change while an element is under way
    x, y      in  codes
    draw      in  x and y of `multiplier_stages` cycles ago take a draw; only where stochastic
    load      in  the LFSR starts anew from `seed`; only where stochastic
    seed      in  32 bits, not zero; only where stochastic
    result    out code
    ========= === ===================================================================================
    """

    def __init__(self, fmt: FloatFormat, rounding: RoundingMode, random_bits: int, stages: int) -> None:
        self.format, self.rounding, self.random_bits = fmt, rounding, random_bits
        self.multiplier_stages = min(2, stages // 3)
        self.adder_stages = stages - self.multiplier_stages
        ports = {"alpha": In(fmt.width), "x": In(fmt.width), "y": In(fmt.width), "result": Out(fmt.width)}
        if rounding.draws:
            ports |= {"draw": In(1), "load": In(1), "seed": In(32)}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, bits = self.format, self.random_bits
        m.submodules.multiply = multiply = FloatMultiplier(fmt, fmt, stages=self.multiplier_stages)
        m.submodules.add = add = FloatAdder(
            fmt, multiply.unpacked, rounding=self.rounding, random_bits=bits, stages=self.adder_stages
        )
        m.d.comb += [
            multiply.a.eq(self.alpha),
            multiply.b.eq(self.x),
            add.a.eq(delayed(m, self.multiplier_stages, self.y)),
            add.b.eq(multiply.product),
            self.result.eq(add.sum),
        ]
        if self.rounding.draws:
            m.submodules.lfsr = lfsr = LFSR(bits)
            m.d.comb += [
                lfsr.enable.eq(self.draw),
                lfsr.load.eq(self.load),
                lfsr.seed.eq(self.seed),
                add.random.eq(lfsr.draw),
            ]
        return m


class FloatSGDUnit(UpdateUnit):
    """SGD with momentum as three AXPYs in a row, on a stream of elements.

    For each element, as `quaver.golden.update.float_sgd.FloatSGD` says it::

        g ← round(g + decay · w)
        v ← round(g + momentum · v)
        w ← round(w − rate · v)

    Parameters
    ----------
    fmt
        Of weights, momenta, gradients and the three scalars.
    rounding, random_bits
        Of all three lines: nearest even, or stochastic with one draw an element from each line's own LFSR.
    stages
        Registers in each line, 1 … `MAX_STAGES`: up to two in the multiplier, the others in the adder.

    Attributes
    ----------
    latency
        3 · `stages`, in cycles. Initiation interval 1.

    Streams, and when they wait: as `UpdateUnit`.
    """

    def __init__(
        self,
        fmt: FloatFormat = FP16,
        *,
        rounding: RoundingMode | str = RoundingMode.STOCHASTIC,
        random_bits: int = RANDOM_BITS,
        stages: int = MAX_STAGES,
    ) -> None:
        if not 1 <= as_integer(stages, "stages") <= MAX_STAGES:
            raise ValueError(f"stages is {stages}, but an AXPY has 1 to {MAX_STAGES}")
        self.format, self.stages = fmt, stages
        super().__init__((fmt,), fmt, rounding, random_bits, 3 * stages)

    @classmethod
    def for_rule(cls, rule: FloatSGD, *, stages: int | None = None) -> FloatSGDUnit:
        """The unit that computes `rule`."""
        how = {"rounding": rule.rounding, "random_bits": rule.random_bits}
        return cls(rule.format, **how, stages=MAX_STAGES if stages is None else stages)  # type: ignore[arg-type]

    @property
    def rule(self) -> FloatSGD:
        """The rule that it computes, with scalars of zero."""
        return FloatSGD(0.0, 0.0, 0.0, self.format, self.rounding, self.random_bits)

    def compute(self, m: Module, scalars: Mapping[str, Value], entered: Value, begins: Value) -> None:
        lines = {name: Axpy(self.format, self.rounding, self.random_bits, self.stages) for name in SEED_MASKS}
        decay, momentum, rate = lines["decay"], lines["momentum"], lines["rate"]
        weight = self.elements.payload.weight
        sign = 1 << (self.format.width - 1)
        m.d.comb += [
            decay.alpha.eq(scalars["decay"]),
            decay.x.eq(weight),
            decay.y.eq(self.elements.payload.gradient),
            momentum.alpha.eq(scalars["momentum"]),
            momentum.x.eq(delayed(m, self.stages, self.elements.payload.momentum)),
            momentum.y.eq(decay.result),
            rate.alpha.eq(scalars["rate"] ^ sign),
            rate.x.eq(momentum.result),
            rate.y.eq(delayed(m, 2 * self.stages, weight)),
            self.results.payload.momentum.eq(delayed(m, self.stages, momentum.result)),
            self.results.payload.weight.eq(rate.result),
        ]
        for i, (name, line) in enumerate(lines.items()):
            m.submodules[name] = line
            if self.rounding.draws:
                m.d.comb += [
                    line.draw.eq(entered[i * self.stages + line.multiplier_stages]),
                    line.load.eq(begins),
                    line.seed.eq(self.seed(name)),
                ]
