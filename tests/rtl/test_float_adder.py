"""The adder against the exact sum, rounded once.

`test_equivalence` proves the (6,9) adder to nearest for all 2**32 pairs; here are the other kinds, and the
definition.
"""

import random

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from quaver.golden import exact
from quaver.golden.formats import BFLOAT16, E4M3, FP8, FP16, HALF, FloatFormat, Specials
from quaver.golden.rounding import Rounding
from quaver.rtl.float.adder import FloatAdder, UnpackedAdder
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.rtl.float.unpacked import Unpacked


def sums(adder, cases):
    """What `adder` answers to each (a, b, random)."""
    answers = []

    async def bench(ctx):
        for a, b, r in cases:
            ctx.set(adder.a, a)
            ctx.set(Value.cast(adder.b), b)
            if adder.rounding is Rounding.STOCHASTIC:
                ctx.set(adder.random, r)
            for _ in range(adder.stages):
                await ctx.tick()
            if not adder.stages:
                await ctx.delay(1e-9)
            answers.append(ctx.get(adder.sum))

    simulator = Simulator(adder)
    if adder.stages:
        simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return answers


def assert_exact(adder, cases):
    fmt, addend = adder.format, adder.addend
    for (a, b, r), got in zip(cases, sums(adder, cases), strict=True):
        y = addend.decode(b) if isinstance(addend, Unpacked) else exact.decode(addend, b)
        total = exact.add(exact.decode(fmt, a), y)
        want = exact.encode(fmt, total, adder.rounding, r, adder.random_bits)
        assert got == want, f"{a:#x} + {b:#x} (random {r:#x}): {got:#x} instead of {want:#x}"


def edges(fmt):
    """Zero, subnormals, powers of two and their neighbours, the largest, infinity, NaN; either sign."""
    one = 1 << fmt.mantissa_bits
    codes = {0, 1, 2, 3, one - 1, one, one + 1, 2 * one - 1, 2 * one, fmt.max_code, fmt.max_code - 1}
    codes |= {fmt.max_code + 1, fmt.nan_code, fmt.sign_code - 1, (fmt.bias << fmt.mantissa_bits)}
    return [code | sign for code in sorted(codes) for sign in (0, fmt.sign_code)]


def constructed(adder, rng, count):
    """`count` pairs of edges; every exponent distance, with what makes ties, carries and cancellation."""
    fmt, addend, bits = adder.format, adder.addend, adder.random_bits
    draws = [0, 1, (1 << bits) - 1, 1 << (bits - 1)]
    pairs = [(a, b) for a in edges(fmt) for b in edges(addend)]
    cases = [(a, b, rng.choice(draws)) for a, b in rng.sample(pairs, min(count, len(pairs)))]
    one, other = 1 << fmt.mantissa_bits, 1 << addend.mantissa_bits
    mantissas = [0, 1, one >> 1, one - 2, one - 1]
    others = [0, 1, other >> 1, other - 2, other - 1]
    top = (1 << fmt.exponent_bits) - 2
    for distance in range(fmt.precision + bits + 4):
        for _ in range(2 + count // 200):
            exponent = rng.randint(1, max(top - distance, 1))
            a = min(exponent + distance, top) << fmt.mantissa_bits | rng.choice(mantissas)
            shift = addend.bias - fmt.bias
            b = max(0, min(exponent + shift, (1 << addend.exponent_bits) - 2)) << addend.mantissa_bits
            b |= rng.choice(others)
            a |= rng.choice([0, fmt.sign_code])
            b |= rng.choice([0, addend.sign_code])
            cases.append((a, b, rng.choice([*draws, rng.getrandbits(bits)])))
            if fmt == addend:
                cases.append((b, a, rng.getrandbits(bits)))
    cases += [
        (rng.getrandbits(fmt.width), rng.getrandbits(addend.width), rng.getrandbits(bits))
        for _ in range(count)
    ]
    if fmt == addend:  # neighbours cancel
        for _ in range(count):
            a = rng.getrandbits(fmt.width)
            b = (a ^ fmt.sign_code) + rng.randint(-3, 3)
            cases.append((a, b % (1 << fmt.width), rng.getrandbits(bits)))
    return cases


FN = FloatFormat(4, 3, specials=Specials.OCP_FN)
PAIRS = [
    (FP16, FP16),
    (FP16.replace(saturate=True), FP16),
    (E4M3, E4M3),
    (FN, FN),
    (FP8, FP8),
    (HALF, HALF),
    (BFLOAT16, BFLOAT16),
    (FP16, FP8),
    (FP8, FP16),
    (FN, HALF),
    (FloatFormat(2, 1), FloatFormat(2, 1)),
]


@pytest.mark.parametrize(("fmt", "addend"), PAIRS, ids=str)
@pytest.mark.parametrize(("rounding", "bits"), [("nearest", 4), ("stochastic", 1), ("stochastic", 14)])
@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_constructed_cases(fmt, addend, rounding, bits, count):
    adder = FloatAdder(fmt, addend, rounding=rounding, random_bits=bits)
    assert_exact(adder, constructed(adder, random.Random(count), count))


@pytest.mark.parametrize("stages", range(1, 8))
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_stages(stages, rounding):
    adder = FloatAdder(FP16, rounding=rounding, random_bits=14, stages=stages)
    rng = random.Random(stages)
    assert_exact(adder, rng.sample(constructed(adder, rng, 100), 250))


@pytest.mark.parametrize("operand", [FP8, FP16, E4M3], ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_products_are_added_exactly(operand, rounding):
    multiplier = FloatMultiplier(operand, operand)
    adder = FloatAdder(FP16, multiplier.unpacked, rounding=rounding, random_bits=14)
    rng = random.Random(3)
    products = []

    async def bench(ctx):
        for a in [*edges(operand), *(rng.getrandbits(operand.width) for _ in range(200))]:
            ctx.set(multiplier.a, a)
            ctx.set(multiplier.b, rng.choice([*edges(operand), rng.getrandbits(operand.width)]))
            await ctx.delay(1e-9)
            products.append(ctx.get(Value.cast(multiplier.product)))

    simulator = Simulator(multiplier)
    simulator.add_testbench(bench)
    simulator.run()
    cases = [(a, rng.choice(products), rng.getrandbits(14)) for a in edges(FP16)]
    for product in products:
        near = exact.decode(FP16, 0) if not product else adder.addend.decode(product)
        a = exact.encode(FP16, near) ^ FP16.sign_code  # cancels all but the rounding
        cases += [(a, product, rng.getrandbits(14)), (rng.getrandbits(16), product, rng.getrandbits(14))]
    assert_exact(adder, cases)


@pytest.mark.slow
def test_all_pairs_of_fp8():
    assert_exact(FloatAdder(FP8), [(a, b, 0) for a in range(256) for b in range(256)])


def test_refusals():
    with pytest.raises(ValueError, match=r"^stages is 10, but the adder has 0 to 9$"):
        FloatAdder(FP16, stages=10)
    with pytest.raises(
        ValueError, match=r"^rounding is truncate, but an adder rounds to nearest or stochastically$"
    ):
        FloatAdder(FP16, rounding="truncate")
    with pytest.raises(ValueError, match="normalise the addend"):
        UnpackedAdder(FP16, Unpacked.of(FP16), Unpacked.of(FP8))
    with pytest.raises(ValueError, match="take a gradual augend"):
        UnpackedAdder(FP16, Unpacked.normalised(FP16), Unpacked(20, -78, 63))
    with pytest.raises(ValueError, match="11 significant bits"):
        UnpackedAdder(FP16, Unpacked.of(HALF), Unpacked.of(HALF))
