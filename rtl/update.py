"""The weight update, one element a cycle: the twin of `golden.update`."""

from __future__ import annotations

from amaranth.hdl import Cat, EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.formats import FP16, FloatFormat
from golden.rounding import RANDOM_BITS
from golden.rounding import Rounding as RoundingMode
from golden.update import SEED_MASKS
from rtl.float_adder import CUTS, FloatAdder
from rtl.float_multiplier import FloatMultiplier
from rtl.lfsr import LFSR

#: Most registers of an AXPY: the multiplier's 2 and the adder's.
MAX_STAGES = 2 + max(CUTS) + 1


class Axpy(wiring.Component):
    """round(y + alpha · x): exact inside, rounded once, stochastically from an LFSR of its own.

    Parameters
    ----------
    fmt, rounding, random_bits, stages
        As in `Update`. The latency is `stages` cycles, the initiation interval 1.

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
        if rounding is RoundingMode.STOCHASTIC:
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
        if self.rounding is RoundingMode.STOCHASTIC:
            m.submodules.lfsr = lfsr = LFSR(bits)
            m.d.comb += [
                lfsr.enable.eq(self.draw),
                lfsr.load.eq(self.load),
                lfsr.seed.eq(self.seed),
                add.random.eq(lfsr.draw),
            ]
        return m


class Update(wiring.Component):
    """SGD with momentum as three AXPYs in a row, on a stream of elements.

    For each element, as `golden.update.Update` says it::

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

    ========= === ===========================================================================================
    settings  in  stream: rate, momentum, decay and, where stochastic, the seed (32 bits) of
                  `golden.update.Update.update`; begins a run
    elements  in  stream: weight, momentum, gradient
    results   out stream: the new weight and momentum
    ========= === ===========================================================================================

    Settings are taken when every element of the run before has left, and while they wait no element is taken.
    A draw belongs to an element, not to a cycle: however the streams stall, the bits are the same.
    """

    def __init__(
        self,
        fmt: FloatFormat = FP16,
        *,
        rounding: RoundingMode | str = RoundingMode.STOCHASTIC,
        random_bits: int = RANDOM_BITS,
        stages: int = MAX_STAGES,
    ) -> None:
        self.format, self.stages, self.latency = fmt, stages, 3 * stages
        self.rounding, self.random_bits = RoundingMode(rounding), random_bits
        if self.rounding is RoundingMode.TOWARD_ZERO:
            raise ValueError("rounding is truncate, but the update rounds to nearest or stochastically")
        if not 1 <= stages <= MAX_STAGES:
            raise ValueError(f"stages is {stages}, but an AXPY has 1 to {MAX_STAGES}")
        if not 1 <= random_bits <= 32:
            raise ValueError(f"random_bits is {random_bits}, but a draw takes 1 … 32")
        settings = dict.fromkeys(("rate", "momentum", "decay"), fmt.width)
        if self.rounding is RoundingMode.STOCHASTIC:
            settings["seed"] = 32
        element = dict.fromkeys(("weight", "momentum", "gradient"), fmt.width)
        result = dict.fromkeys(("weight", "momentum"), fmt.width)
        super().__init__(
            {
                "settings": In(stream.Signature(data.StructLayout(settings))),
                "elements": In(stream.Signature(data.StructLayout(element))),
                "results": Out(stream.Signature(data.StructLayout(result))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        moves = Signal()
        occupied = Signal(self.latency)  # stages that hold an element, the first at bit 0
        settings = Signal.like(self.settings.payload)
        begins = Signal()
        m.d.comb += [
            self.results.valid.eq(occupied[-1]),
            moves.eq(self.results.ready | ~self.results.valid),
            self.elements.ready.eq(moves & ~self.settings.valid),
            self.settings.ready.eq(~occupied.any()),
            begins.eq(self.settings.valid & self.settings.ready),
        ]
        with m.If(begins):
            m.d.sync += settings.eq(self.settings.payload)
        entered = Cat(self.elements.valid & self.elements.ready, occupied)
        with m.If(moves):
            m.d.sync += occupied.eq(entered[:-1])

        m.submodules.pipeline = EnableInserter(moves)(pipeline := Module())
        lines = {name: Axpy(self.format, self.rounding, self.random_bits, self.stages) for name in SEED_MASKS}
        decay, momentum, rate = lines["decay"], lines["momentum"], lines["rate"]
        weight = self.elements.payload.weight
        sign = 1 << (self.format.width - 1)
        pipeline.d.comb += [
            decay.alpha.eq(settings.decay),
            decay.x.eq(weight),
            decay.y.eq(self.elements.payload.gradient),
            momentum.alpha.eq(settings.momentum),
            momentum.x.eq(delayed(pipeline, self.stages, self.elements.payload.momentum)),
            momentum.y.eq(decay.result),
            rate.alpha.eq(settings.rate ^ sign),
            rate.x.eq(momentum.result),
            rate.y.eq(delayed(pipeline, 2 * self.stages, weight)),
            self.results.payload.momentum.eq(delayed(pipeline, self.stages, momentum.result)),
            self.results.payload.weight.eq(rate.result),
        ]
        for i, (name, line) in enumerate(lines.items()):
            pipeline.submodules[name] = line
            if self.rounding is RoundingMode.STOCHASTIC:
                seed = self.settings.payload.seed ^ SEED_MASKS[name]
                pipeline.d.comb += [
                    line.draw.eq(entered[i * self.stages + line.multiplier_stages]),
                    line.load.eq(begins),
                    line.seed.eq(Mux(seed == 0, SEED_MASKS[name], seed)),
                ]
        return m


def delayed(m: Module, cycles: int, value: Value) -> Value:
    """`value`, so many cycles later."""
    for _ in range(cycles):
        before, value = value, Signal(len(value), name="delayed", reset_less=True)
        m.d.sync += value.eq(before)
    return value
