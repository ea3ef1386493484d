"""The multiplier against the exact product."""

import math
import random
from functools import cache

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from quaver.golden import exact
from quaver.golden.formats import BFLOAT16, E4M3, FP8, FP16, HALF, hfp8
from quaver.rtl.float.multiplier import FloatMultiplier, UnpackedMultiplier
from quaver.rtl.float.unpacked import Unpacked

TYPICAL = [(FP16, FP16), (E4M3, FP8), (HALF, hfp8(4)), (BFLOAT16, E4M3), (E4M3, E4M3), (hfp8(), hfp8())]


def same(x, y):
    """The same exact value, sign of zero included, one NaN as good as another."""
    if isinstance(x, float) and isinstance(y, float):
        return (math.isnan(x) and math.isnan(y)) or (x == y and math.copysign(1, x) == math.copysign(1, y))
    return type(x) is type(y) and x == y


def products(multiplier, pairs):
    """What `multiplier` answers to each pair, as bits."""
    answers = []

    async def bench(ctx):
        for a, b in pairs:
            ctx.set(multiplier.a, a)
            ctx.set(multiplier.b, b)
            for _ in range(multiplier.stages):
                await ctx.tick()
            answers.append(ctx.get(Value.cast(multiplier.product)))

    simulator = Simulator(multiplier)
    if multiplier.stages:
        simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return answers


def assert_exact(multiplier, pairs):
    fa, fb = multiplier.a_format, multiplier.b_format
    decode = cache(multiplier.unpacked.decode)
    for (a, b), bits in zip(pairs, products(multiplier, pairs), strict=True):
        want = exact.multiply(exact.decode(fa, a), exact.decode(fb, b))
        assert same(decode(bits), want), f"{a:#x} · {b:#x}"


def test_all_pairs_of_fp8():
    assert_exact(FloatMultiplier(FP8, FP8), [(a, b) for a in range(256) for b in range(256)])


@pytest.mark.parametrize(("fa", "fb"), TYPICAL, ids=str)
@pytest.mark.parametrize("stages", [0, 1, 2])
def test_edges_and_random_pairs(fa, fb, stages):
    rng = random.Random(1)

    def codes(fmt):
        edges = [0, 1, 2, (1 << fmt.mantissa_bits) - 1, 1 << fmt.mantissa_bits, fmt.max_code, fmt.nan_code]
        edges += [fmt.infinity_code or fmt.max_code, fmt.sign_code - 1]
        return [code | sign for code in edges for sign in (0, fmt.sign_code)]

    pairs = [(a, b) for a in codes(fa) for b in codes(fb)]
    pairs += [(rng.getrandbits(fa.width), rng.getrandbits(fb.width)) for _ in range(400)]
    assert_exact(FloatMultiplier(fa, fb, stages=stages), pairs)


def test_layout_of_an_fp8_product():
    product = FloatMultiplier(FP8, FP8).unpacked
    assert product == Unpacked(precision=6, min_exponent=-32, max_exponent=31)
    assert (product.bias, product.exponent_bits, product.layout.size) == (32, 6, 15)
    assert [
        product.layout[name].offset for name in ("significand", "exponent", "sign", "infinite", "nan")
    ] == [*(0, 6, 12, 13, 14)]


@pytest.mark.parametrize("stages", [-1, 3])
def test_refuses_other_stages(stages):
    with pytest.raises(ValueError, match=rf"^stages is {stages}, but the multiplier has 0 to 2$"):
        FloatMultiplier(FP8, FP8, stages=stages)


def test_the_core_refuses_subnormals():
    with pytest.raises(
        ValueError, match=r"^the multiplier takes normalised numbers; unpack with normalise=True$"
    ):
        UnpackedMultiplier(Unpacked.of(FP8), Unpacked.of(FP8))
