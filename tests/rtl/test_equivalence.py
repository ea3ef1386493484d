"""The optimised adder is the plain one, and a pipeline is what it cuts: proved for all inputs."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from equivalence import counterexample
from plain_adder import PlainAdder

from quaver.golden.formats import FP16, FloatFormat
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.float.adder import CUTS, FloatAdder

FORMATS = [FloatFormat(2, 1), FloatFormat(3, 2), FloatFormat(4, 3), FloatFormat(5, 2), FP16]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_the_adder_is_the_plain_adder(fmt):
    assert counterexample(to_verilog(PlainAdder(fmt), "gold"), to_verilog(FloatAdder(fmt), "gate")) is None


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_tie_rounded_the_other_way_yields_a_counterexample(fmt):
    broken = to_verilog(PlainAdder(fmt, broken=True), "gold")
    assert "trigger" in counterexample(broken, to_verilog(FloatAdder(fmt), "gate"))


class Late(wiring.Component):
    """The combinational adder, with registers behind it."""

    def __init__(self, adder, cycles):
        self.adder, self.cycles = adder, cycles
        super().__init__(adder.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.adder = self.adder
        for name in self.signature.members:
            if name != "sum":
                m.d.comb += getattr(self.adder, name).eq(getattr(self, name))
        total = self.adder.sum
        for i in range(self.cycles):
            before, total = total, Signal.like(total, name=f"sum_{i}", reset_less=True)
            m.d.sync += total.eq(before)
        m.d.comb += self.sum.eq(total)
        return m


@pytest.mark.parametrize("stages", range(1, max(CUTS) + 2))
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_pipeline_is_the_adder_some_cycles_later(stages, rounding):
    def adder(stages):
        return FloatAdder(FloatFormat(4, 3), rounding=rounding, random_bits=3, stages=stages)

    late, pipelined = to_verilog(Late(adder(0), stages), "gold"), to_verilog(adder(stages), "gate")
    assert counterexample(late, pipelined, cycles=stages) is None


def test_a_pipeline_of_another_length_is_not_the_same():
    late = to_verilog(Late(FloatAdder(FloatFormat(3, 2)), 2), "gold")
    assert counterexample(late, to_verilog(FloatAdder(FloatFormat(3, 2), stages=3), "gate"), cycles=3)
