"""Two formats of any widths: the adder by property, the accelerator on pairs of every kind.

`test_small_formats` holds every pair of at most 7 bits to the definition; here are the wider ones. What
matters of a pair is whether the addend's last bit is worth less than the sum's, as much or more, whether it
has fewer bits, as many or more, and whether sums are gradual, which the element decides.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from grid import Case, MultiplyAdd, Unit
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import codes, netlists, planes
from test_accumulator_widths import simulated
from test_chunked_float import KINDS, operands
from test_float_adder import constructed, edges

from quaver.golden import exact
from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.formats import E4M3, FP8, FP16, HALF, FloatFormat, Specials
from quaver.golden.rounding import Rounding
from quaver.rtl.float.adder import FloatAdder

ROUNDINGS = [Rounding.NEAREST_EVEN, Rounding.STOCHASTIC]


@st.composite
def formats(draw: st.DrawFn, quantum: int | None = None) -> FloatFormat:
    """A format of at most 16 bits; with `quantum`, its smallest number is 2**quantum."""
    e, m = draw(st.integers(2, 7)), draw(st.integers(1, 8))
    bias = draw(st.integers(0, 1 << e)) if quantum is None else 1 - m - quantum
    return FloatFormat(
        e, m, bias, draw(st.sampled_from([Specials.IEEE, Specials.OCP_FN])), draw(st.booleans())
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Quanta and precisions in every order, through the adder or through multiplier and adder."""
    fmt, unit = draw(formats()), draw(st.sampled_from([Unit.ADDER, Unit.MULTIPLY_ADD]))
    finer = draw(st.integers(-12, 12))
    quantum = fmt.quantum_exponent - finer
    other = draw(formats(quantum=quantum // 2 if unit is Unit.MULTIPLY_ADD else quantum))
    return Case(unit, fmt, other, draw(st.sampled_from(ROUNDINGS)), draw(st.integers(1, 16)))


def near(fmt: FloatFormat, value: exact.Exact, rng: random.Random) -> int:
    """A code next to that of −value, so that the two all but cancel."""
    code = exact.encode(fmt, value, saturate=True) ^ fmt.sign_code
    return (code + rng.randint(-2, 2)) % (1 << fmt.width)


def assert_exact(case: Case, rng: random.Random, count: int) -> None:
    """The unit's gates on edges, neighbours that cancel, small numbers and any codes."""
    fmt, other, component = case.format, case.other, case.component
    bits, small = case.random_bits, 3 << other.mantissa_bits
    inputs: list[tuple[int, int, int, int]] = []
    if isinstance(component, FloatAdder):
        inputs += [(a, b, 0, r) for a, b, r in constructed(component, rng, count)]
    either = [(other.sign_code * rng.getrandbits(1)) | rng.randrange(small) for _ in range(count)]
    some = [*edges(other), *either, *(rng.getrandbits(other.width) for _ in range(count))]
    for x in some:
        y = rng.choice(some)
        addend = exact.decode(other, x)
        if isinstance(component, MultiplyAdd):
            addend = exact.multiply(addend, exact.decode(other, y))
        for a in (near(fmt, addend, rng), rng.choice(edges(fmt)), rng.randrange(3 << fmt.mantissa_bits)):
            inputs.append((a, x, y, rng.getrandbits(bits)))
    columns = dict(zip(("a", "x", "y", "random"), np.array(inputs).T, strict=True))
    ports = {"a": fmt.width, "x": other.width, "y": other.width, "random": bits}
    given_planes = {port: planes(columns[port], width) for port, width in ports.items()}
    (netlist,) = netlists([component])
    if isinstance(component, FloatAdder):
        given_planes["b"] = given_planes["x"]
    got = netlist.step({port: given_planes[port] for port in component.signature.members if port != "sum"})[
        0
    ]["sum"]
    for (a, x, y, r), code in zip(inputs, codes(got, len(inputs)).tolist(), strict=True):
        addend = exact.decode(other, x)
        if isinstance(component, MultiplyAdd):
            addend = exact.multiply(addend, exact.decode(other, y))
        want = exact.encode(fmt, exact.add(exact.decode(fmt, a), addend), case.rounding, r, bits)
        assert code == want, (
            f"{case}: a {a:#x}, x {x:#x}, y {y:#x}, random {r:#x} is {code:#x}, not {want:#x}"
        )


@given(cases(), st.integers(0, 1 << 32))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_sums_of_two_formats(case: Case, seed: int) -> None:
    assert_exact(case, random.Random(seed), 60)


@pytest.mark.slow
@given(cases(), st.integers(0, 1 << 32))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_many_sums_of_two_formats(case: Case, seed: int) -> None:
    assert_exact(case, random.Random(seed), 300)


#: Operand and accumulator: the product's last bit is worth less than the sum's, as much, or more (then sums
#: are not gradual), and it has fewer bits, as many, or more. Some saturate, some have no infinity.
PAIRS = [
    (FP8, HALF),
    (FP8, FloatFormat(5, 5)),
    (FP8, FloatFormat(5, 3, specials=Specials.OCP_FN)),
    (FP8, FloatFormat(6, 9, bias=24)),
    (FP8, FloatFormat(6, 5, bias=28, saturate=True)),
    (FP8, FloatFormat(6, 2)),
    (FP8, FloatFormat(7, 9)),
    (FP8, FloatFormat(7, 5)),
    (FP8, FloatFormat(7, 3, specials=Specials.OCP_FN)),
    (FP8, FloatFormat(4, 9)),
    (FP8, FloatFormat(5, 6, saturate=True)),
    (E4M3, FloatFormat(4, 9)),
    (FloatFormat(2, 1), FloatFormat(2, 1)),
    (FP16, FloatFormat(5, 12)),
]


@pytest.mark.parametrize(
    ("operand", "accumulator"),
    [pytest.param(*pair, marks=[] if pair == (FP8, HALF) else pytest.mark.slow) for pair in PAIRS],
    ids=str,
)
def test_the_accelerator_is_the_definition(operand: FloatFormat, accumulator: FloatFormat) -> None:
    arithmetic = ChunkedFloat(operand, accumulator, 5)
    driver = simulated(arithmetic)
    for kind in KINDS:
        a, b = operands(kind, operand, accumulator, 4, 13, 4)
        np.testing.assert_array_equal(driver.gemm(a, b), arithmetic.definition(a, b), err_msg=kind)
        a, b = operands(kind, operand, accumulator, 40, 64, 40)
        np.testing.assert_array_equal(driver.gemm(a, b), arithmetic.gemm(a, b), err_msg=kind)
    # Sums about the accumulator's smallest normal number, of normally distributed data.
    rng = np.random.default_rng(1)
    for power in (-3, 0, 3):
        scale = 2.0 ** ((accumulator.min_exponent + power) // 2)
        a, b = (operand.encode(rng.normal(size=shape) * scale) for shape in ((32, 64), (64, 32)))
        np.testing.assert_array_equal(driver.gemm(a, b), arithmetic.gemm(a, b))


def test_a_difference_with_bits_below_the_quantum() -> None:
    """−2.25·2**-24 + 3.25·2**-24·… of FP8 in half, where ~x for −x lost a unit."""
    arithmetic = ChunkedFloat(FP8, HALF, 5)
    a, b = np.array([[12, 13]], np.uint8), np.array([[140], [16]], np.uint8)
    assert arithmetic.definition(a, b) == arithmetic.gemm(a, b) == simulated(arithmetic).gemm(a, b) == 2


def test_a_zero_and_a_number_below_the_quantum() -> None:
    """+0 and −2**-16, of FP8: −0 in E4M3."""
    open_e4m3 = E4M3.replace(saturate=False)
    (netlist,) = netlists([FloatAdder(open_e4m3, FP8)])
    got = netlist.step({"a": planes([0x00], 8), "b": planes([0x81], 8)})[0]["sum"]
    assert codes(got, 1) == exact.encode(open_e4m3, exact.decode(FP8, 0x81)) == 0x80
