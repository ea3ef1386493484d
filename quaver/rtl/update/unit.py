"""What the update units share: three streams, and a pipeline between them that stalls as one."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.contracts import HardwareRule
from quaver.golden.formats import Format
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.update.float_sgd import SEED_MASKS
from quaver.golden.validation import as_integer


class UpdateUnit(wiring.Component):
    """New weights and momenta from weights, momenta and gradients, an element a cycle.

    Parameters
    ----------
    formats
        Of weights, momenta and gradients; one that is left out is the first.
    scalar
        Of the settings.
    rounding, random_bits
        Nearest even, or stochastic with one draw an element from each line's own LFSR.
    latency
        Cycles from an element to its result.

    ========= === ===========================================================================================
    settings  in  stream: rate, momentum, decay (as the golden rule's `scalars`) and, where stochastic, the
                  seed (32 bits) of its `update`; begins a run
    elements  in  stream: weight, momentum, gradient
    results   out stream: the new weight and momentum
    ========= === ===========================================================================================

    Settings are taken when every element of the run before has left, and while they wait no element is taken.
    A draw belongs to an element, not to a cycle: however the streams stall, the bits are the same.
    """

    def __init__(
        self,
        formats: tuple[Format, ...],
        scalar: Format,
        rounding: RoundingMode | str,
        random_bits: int,
        latency: int,
    ) -> None:
        self.formats, self.scalar, self.latency = formats, scalar, latency
        self.rounding, self.random_bits = RoundingMode(rounding), random_bits
        if self.rounding is RoundingMode.TOWARD_ZERO:
            raise ValueError("rounding is truncate, but the update rounds to nearest or stochastically")
        if not 1 <= as_integer(random_bits, "random_bits") <= 32:
            raise ValueError(f"random_bits is {random_bits}, but a draw takes 1 … 32")
        settings = dict.fromkeys(("rate", "momentum", "decay"), scalar.width)
        if self.rounding.draws:
            settings["seed"] = 32
        widths = [fmt.width for fmt in formats * (3 // len(formats))]
        element = dict(zip(("weight", "momentum", "gradient"), widths, strict=True))
        result = {name: element[name] for name in ("weight", "momentum")}
        super().__init__(
            {
                "settings": In(stream.Signature(data.StructLayout(settings))),
                "elements": In(stream.Signature(data.StructLayout(element))),
                "results": Out(stream.Signature(data.StructLayout(result))),
            }
        )

    @property
    def rule(self) -> HardwareRule:
        """The rule that it computes, with scalars of zero."""
        raise NotImplementedError

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
        scalars = {name: settings[name] for name in ("rate", "momentum", "decay")}
        self.compute(pipeline, scalars, entered, begins)
        return m

    def compute(self, m: Module, scalars: Mapping[str, Value], entered: Value, begins: Value) -> None:
        """The pipeline from `elements` to `results`. Bit i of `entered`: an element enters stage i; `begins`:
        a run does, and each line's LFSR starts anew."""
        raise NotImplementedError

    def seed(self, line: str) -> Value:
        """What the line's LFSR starts from."""
        seed = self.settings.payload.seed ^ SEED_MASKS[line]
        return Mux(seed == 0, SEED_MASKS[line], seed)


def delayed(m: Module, cycles: int, value: Value) -> Value:
    """`value`, so many cycles later."""
    for _ in range(cycles):
        before, value = value, Signal(value.shape(), name="delayed", reset_less=True)
        m.d.sync += value.eq(before)
    return value
