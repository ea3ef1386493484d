"""The (1,6,9) adder against the plain one, proved for all inputs: nearest, and with 16 random bits.

With those there are 2**48 of them, too many for one proof. So it is made in slices, by the larger of the two
exponents: one operand has it, whichever, and the other one any exponent up to it. Yosys's own solver does a
slice in seconds.
"""

from __future__ import annotations

import pytest
from equivalence import counterexample
from plain_adder import PlainAdder

from quaver.golden.formats import FP16
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.float.adder import FloatAdder

pytestmark = pytest.mark.formal

SLICES = range(1 << FP16.exponent_bits)
RANDOM_BITS = [0, 16]


def sliced(adder: PlainAdder | FloatAdder, name: str, exponent: int, random_bits: int) -> str:
    """Verilog of module `name`: the adder where the larger exponent field is `exponent`."""
    mantissa, width, field = FP16.mantissa_bits, FP16.width, f"{FP16.exponent_bits}'d{exponent}"
    smaller = f"other[{width - 2}:{mantissa}]"
    random = f"input [{random_bits - 1}:0] random, " if random_bits else ""
    connected = ".random(random), " if random_bits else ""
    return (
        to_verilog(adder, f"{name}_adder")
        + f"""
module {name}(input swap, input sign, input [{mantissa - 1}:0] mantissa, input [{width - 1}:0] other,
              {random}output [{width - 1}:0] sum);
  wire [{width - 1}:0] first = {{sign, {field}, mantissa}};
  wire [{width - 1}:0] second =
      {{other[{width - 1}], {smaller} > {field} ? {field} : {smaller}, other[{mantissa - 1}:0]}};
  {name}_adder adder(.a(swap ? second : first), .b(swap ? first : second), {connected}.sum(sum));
endmodule
"""
    )


def difference(exponent: int, random_bits: int, *, broken: bool = False) -> str | None:
    """Where plain adder and adder differ in a slice."""
    options = {"rounding": "stochastic", "random_bits": random_bits} if random_bits else {}
    adder = FloatAdder(FP16, **options)  # type: ignore[arg-type]
    plain = PlainAdder(FP16, random_bits=random_bits, broken=broken)
    return counterexample(
        sliced(plain, "gold", exponent, random_bits), sliced(adder, "gate", exponent, random_bits)
    )


@pytest.mark.parametrize("exponent", SLICES)
@pytest.mark.parametrize("random_bits", RANDOM_BITS, ids=["nearest", "stochastic"])
def test_the_adder_is_the_plain_adder(random_bits: int, exponent: int) -> None:
    assert difference(exponent, random_bits) is None


@pytest.mark.parametrize("exponent", [1, 20, 62])
@pytest.mark.parametrize("random_bits", RANDOM_BITS, ids=["nearest", "stochastic"])
def test_a_plain_adder_that_is_broken_is_not(random_bits: int, exponent: int) -> None:
    assert "trigger" in (difference(exponent, random_bits, broken=True) or "")
