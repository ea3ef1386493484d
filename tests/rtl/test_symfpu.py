"""Adder, multiplier and both in a row are those of an IEEE unit that others wrote, proved for all inputs.

The reference is Yosys's `symfpu` (`equivalence.symfpu`). The outputs are compared as they are: NaN has the
same code there and here, x − x is +0, (−0) + (−0) is −0, and a product's zero has the exclusive-or of the
signs. The multiplier is exact, so its product is rounded by adding it to −0, which changes no number and no
zero.
"""

from __future__ import annotations

import pytest
from equivalence import counterexample, symfpu
from grid import MultiplyAdd
from test_mutations import ADDER, mutated

from quaver.golden.formats import FP16, FloatFormat
from quaver.golden.rounding import Rounding
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.float.adder import FloatAdder

E4M3, E5M3 = FloatFormat(4, 3), FloatFormat(5, 3)


def wrapped(name: str, inside: str, module: str, inputs: str, fmt: FloatFormat, **connections: str) -> str:
    """A module `name` around `module`, with `inputs` and the output sum."""
    width = f"[{fmt.width - 1}:0]"
    ports = "".join(f"input {width} {port}, " for port in inputs)
    connected = ", ".join(f".{port}({to})" for port, to in connections.items())
    return f"{inside}\nmodule {name}({ports}output {width} sum);\n  {module} u({connected});\nendmodule\n"


def reference(fmt: FloatFormat, operation: str, inputs: str) -> str:
    """symfpu's unit as module gold."""
    operands = dict(zip("abc", inputs, strict=False))
    return wrapped("gold", symfpu(fmt, operation), "symfpu", inputs, fmt, o="sum", rm="5'd1", **operands)


def multiply_add(fmt: FloatFormat, inputs: str) -> str:
    """Ours as module gate: x·y + a, or without a: x·y − 0."""
    verilog = to_verilog(MultiplyAdd(fmt, fmt, Rounding.NEAREST_EVEN, 1), "unit")
    a = "a" if "a" in inputs else f"{fmt.width}'d{fmt.sign_code}"
    return wrapped("gate", verilog, "unit", inputs, fmt, x="x", y="y", a=a, sum="sum")


@pytest.mark.parametrize(
    "fmt", [E4M3, *(pytest.param(fmt, marks=pytest.mark.slow) for fmt in (E5M3, FP16))], ids=str
)
def test_the_adder(fmt: FloatFormat) -> None:
    assert counterexample(reference(fmt, "add", "ab"), to_verilog(FloatAdder(fmt), "gate")) is None


@pytest.mark.slow
@pytest.mark.parametrize("fmt", [E4M3, E5M3], ids=str)
def test_the_multiplier(fmt: FloatFormat) -> None:
    assert counterexample(reference(fmt, "mul", "xy"), multiply_add(fmt, "xy")) is None


@pytest.mark.slow
def test_multiplier_and_adder_round_once() -> None:
    assert counterexample(reference(E4M3, "muladd", "xya"), multiply_add(E4M3, "xya")) is None


@pytest.mark.parametrize("fault", ["ties go to odd", "cancellation keeps a sign", "NaN with a sign"])
def test_a_fault_yields_a_counterexample(fault: str) -> None:
    with mutated(*ADDER[fault]):
        from quaver.rtl.float.adder import FloatAdder as Mutant

        broken = to_verilog(Mutant(E4M3), "gate")
    assert "trigger" in (counterexample(reference(E4M3, "add", "ab"), broken) or "")


@pytest.mark.slow
def test_a_fault_in_the_product_yields_a_counterexample() -> None:
    broken = multiply_add(E4M3, "xy").replace(".y(y)", ".y(y ^ 1'b1)")
    assert "trigger" in (counterexample(reference(E4M3, "mul", "xy"), broken) or "")
