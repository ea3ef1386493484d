"""AdaComp in hardware: what the benches catch, and what constructors refuse."""

from __future__ import annotations

import sys

import pytest
from test_mutations import mutated

from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.compression.adacomp_average import AdaCompAverage
from quaver.rtl.compression.mean_of_maxima import MeanOfMaxima
from quaver.rtl.emit.verilog import to_verilog
from quaver.sim.runner import run_bench

#: Module, old text, new text: an engineer's slips, one in each part.
MUTANTS = {
    "a tie is not sent": ("adacomp", "(read.data.h >= bound)", "(read.data.h > bound)"),
    "scale of the last step forgotten": ("adacomp", "Mux(kept.sent, scale[:31], 0)", "Mux(kept.sent, 0, 0)"),
    "an element of 0 sent": ("adacomp", " & read.data.g[:31].any()", ""),
    "runs of four cut": ("adacomp", "push.eq(held_valid | (empty == 3))", "push.eq(held_valid)"),
    "rounded down": ("mean_of_maxima", "up = half & (sticky", "up = half & 0 & (sticky"),
    "the remainder is no sticky bit": ("mean_of_maxima", "sticky | rest.any()", "sticky"),
    "subnormals have a leading bit": (
        "mean_of_maxima",
        "Cat(magnitude.mantissa, magnitude.exponent.any())",
        "Cat(magnitude.mantissa, 1)",
    ),
    "average: a run is one bin too long": (
        "adacomp_average",
        "Mux(run, upper + 1, empty)",
        "Mux(run, upper + 2, empty)",
    ),
    "average: signs exchanged": (
        "adacomp_average",
        "Cat(settings.share[:31], upper[0])",
        "Cat(settings.share[:31], ~upper[0])",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_cocotb_catches(name: str) -> None:
    module, old, new = MUTANTS[name]
    with mutated(f"compression/{module}", old, new):
        if module == "adacomp_average":
            from quaver.rtl.compression.adacomp_average import AdaCompAverage

            bench, unit = "adacomp_average", AdaCompAverage()
        else:
            for each in ("mean_of_maxima", "adacomp"):
                if each != module:  # what was imported before the edit must see the mutant
                    sys.modules.pop(f"quaver.rtl.compression.{each}", None)
            from quaver.rtl.compression.adacomp import AdaCompUnit

            bench, unit = "adacomp", AdaCompUnit(64, count_bits=12)
        verilog = to_verilog(unit, bench)
    assert run_bench(bench, verilog=verilog).failures


def test_what_constructors_refuse() -> None:
    with pytest.raises(ValueError, match="longest is 16384, but bins have 1 to 16,383 elements"):
        AdaCompUnit(16_384)
    with pytest.raises(ValueError, match="stages is 0, but an adder has 1 to 9"):
        AdaCompUnit(stages=0)
    with pytest.raises(ValueError, match="stages is 10, but an adder has 1 to 9"):
        AdaCompAverage(10)
    with pytest.raises(ValueError, match="count_bits is 33, but a run's length has 1 to 32 bits"):
        MeanOfMaxima(33)
