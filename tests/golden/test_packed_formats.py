"""Formats whose top codes are numbers, and blocks of them: against ml_dtypes and gfloat, code for code."""

from __future__ import annotations

import itertools
import re

import gfloat
import ml_dtypes
import numpy as np
import pytest
from gfloat.formats import (
    format_info_mxfp4_e2m1,
    format_info_mxfp6_e2m3,
    format_info_mxfp6_e3m2,
    format_info_mxfp8_e4m3,
    format_info_mxfp8_e5m2,
    format_info_p3109,
)

from quaver.golden.arithmetic import AlignedFloat, ChunkedFloat
from quaver.golden.engine import GoldenEngine
from quaver.golden.formats import (
    BFLOAT16,
    BLOCK_FORMATS,
    DL8,
    E4M3,
    BlockFormat,
    CodeSpace,
    PackedFormat,
    Scale,
    parse,
)
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import SUMMED, Precision, Recipe, Role
from quaver.golden.nn.run import Run

ELSEWHERE = {
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e2m1mx": ml_dtypes.float4_e2m1fn,
    "e2m3mx": ml_dtypes.float6_e2m3fn,
    "e3m2mx": ml_dtypes.float6_e3m2fn,
}
P3109 = {
    f"binary8p{p}{'f' * finite}": format_info_p3109(
        8, p, domain=gfloat.Domain.Finite if finite else gfloat.Domain.Extended
    )
    for p in range(1, 8)
    for finite in (False, True)
}


def values(fmt: PackedFormat) -> np.ndarray:
    """Every value, every tie, what is beside them, what is beyond the largest, and the specials."""
    grid = np.unique(fmt.decode(np.arange(fmt.max_code + 1)).astype(np.float64))
    step = grid[-1] - grid[-2]
    grid = np.append(grid, [grid[-1] + step, grid[-1] + 2 * step, 2.0**100])
    ties = (grid[1:] + grid[:-1]) / 2
    x = np.concatenate([grid, ties]).astype(np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(0)), [np.inf]])
    return np.concatenate([x, -x]).astype(np.float32)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_ml_dtypes_has_the_same_codes(name: str) -> None:
    fmt, other = parse(name), ELSEWHERE[name]
    codes = np.arange(1 << fmt.width, dtype=np.uint8)
    np.testing.assert_array_equal(fmt.decode(codes), codes.view(other).astype(np.float32))
    x = values(fmt)
    np.testing.assert_array_equal(fmt.encode(x), x.astype(other).view(np.uint8))
    if fmt.space is not CodeSpace.MX:
        assert fmt.encode(np.nan) == 0x80


@pytest.mark.parametrize("name", P3109)
def test_gfloat_has_the_same_p3109(name: str) -> None:
    fmt, info = parse(name), P3109[name]
    codes = np.arange(1 << fmt.width, dtype=np.uint8)
    expected = np.array([gfloat.decode_float(info, int(code)).fval for code in codes])
    np.testing.assert_array_equal(fmt.decode(codes), expected.astype(np.float32))
    assert np.count_nonzero(expected == 0) == 1
    assert np.isnan(expected).nonzero()[0].tolist() == [0x80]
    x = values(fmt)
    for saturate, (rounding, mode) in itertools.product(
        (False, True),
        {"nearest": gfloat.RoundMode.TiesToEven, "truncate": gfloat.RoundMode.TowardZero}.items(),
    ):
        # Beyond the largest value P3109's TowardZero and infinities are its saturation's affair.
        some = x if saturate and rounding == "nearest" else x[np.isfinite(x)]
        ours = PackedFormat(fmt.exponent_bits, fmt.mantissa_bits, fmt.space, saturate).encode(some, rounding)
        wanted = [gfloat.round_float(info, float(v), mode, sat=saturate) for v in some]
        np.testing.assert_array_equal(ours, [gfloat.encode_float(info, v) for v in wanted])


def test_stochastic_rounding_is_the_other_formats() -> None:
    x = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    random = np.random.default_rng(5).integers(0, 256, 1000, np.uint16)
    found = [
        parse(name).round(x, "stochastic", random=random, random_bits=8) for name in ("e4m3fnuz", "e4m3b8")
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("variant", ["stochastic", "stochastic-b", "stochastic-c"])
def test_powers_of_two_round_up_with_the_odds_of_their_binade(variant: str) -> None:
    fmt, draws = parse("binary8p1"), np.arange(16, dtype=np.uint16)
    for exponent in (-64, -63, 0, 61):  # the first is below the smallest value
        low = 2.0**exponent if exponent > -64 else 0.0
        step = 2.0 ** max(exponent, -63)
        for sixteenths in range(16):
            x = np.full(16, low + step * sixteenths / 16)
            found = fmt.round(x, variant, random=draws, random_bits=4)
            assert np.count_nonzero(found == low + step) == sixteenths
            assert np.count_nonzero(found == low) == 16 - sixteenths
            np.testing.assert_array_equal(-found, fmt.round(-x, variant, random=draws, random_bits=4))


def test_names_round_trip() -> None:
    for e, m, space, saturate in itertools.product(range(1, 9), range(8), CodeSpace, (False, True)):
        fmt = PackedFormat(e, m, space, saturate)
        assert parse(str(fmt)) == fmt
    assert parse("binary8p4f") == parse("e4m3fnuz")
    for parameters, message in (
        ((0, 3), "exponent_bits is 0, but such a format has 1 to 8 of them"),
        ((8, 8), "mantissa_bits is 8, but such a format has at least 0, and at most 16 bits in all"),
        ((7, -1), "mantissa_bits is -1, but such a format has at least 0, and at most 16 bits in all"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            PackedFormat(*parameters)
    with pytest.raises(ValueError, match="values hold NaN, but e2m1mx has no code for it"):
        parse("e2m1mx").encode(np.nan)


def test_arithmetics_want_a_float_of_ieees_kind() -> None:
    for make in (lambda fmt: ChunkedFloat(operand=fmt), lambda fmt: AlignedFloat(a=fmt)):
        with pytest.raises(TypeError, match="must be a FloatFormat"):
            make(parse("e4m3fnuz"))


def test_dl8_differs_from_e4m3_in_16_codes() -> None:
    codes = np.arange(256, dtype=np.uint8)
    ours, ocp = DL8.decode(codes), E4M3.decode(codes)
    assert np.count_nonzero((ours != ocp) & ~(np.isnan(ours) & np.isnan(ocp))) == 14  # E4M3's subnormals
    assert np.isnan(ours).nonzero()[0].tolist() == [0x7F, 0xFF]


# --- blocks ---

MX = {
    "mxfp8-e4m3": format_info_mxfp8_e4m3,
    "mxfp8-e5m2": format_info_mxfp8_e5m2,
    "mxfp6-e2m3": format_info_mxfp6_e2m3,
    "mxfp6-e3m2": format_info_mxfp6_e3m2,
    "mxfp4": format_info_mxfp4_e2m1,
}


@pytest.mark.parametrize("name", MX)
def test_gfloat_quantises_the_same_blocks(name: str) -> None:
    fmt, info = BLOCK_FORMATS[name], MX[name]
    rng = np.random.default_rng(2)
    for scale in (1.0, 1e-30, 3e20):
        x = rng.standard_normal((6, 32)) * np.exp2(rng.integers(-9, 9, (6, 32))) * scale
        expected = [gfloat.quantize_block(info, row, gfloat.compute_scale_amax) for row in x]
        np.testing.assert_array_equal(fmt.round(x), expected)


def test_blocks_lie_along_the_axis_and_the_last_may_be_short() -> None:
    fmt = BLOCK_FORMATS["mxfp4"]
    x = np.random.default_rng(3).standard_normal((70, 3, 2))
    codes, scales, tensor = fmt.encode(x, axis=0)
    assert (codes.shape, scales.shape, tensor) == ((70, 3, 2), (3, 3, 2), 1.0)
    for start in (0, 32, 64):
        part = fmt.round(x[start : start + 32], axis=0)
        np.testing.assert_array_equal(fmt.decode(codes, scales, axis=0)[start : start + 32], part)
    np.testing.assert_array_equal(np.moveaxis(fmt.round(x, axis=0), 0, -1), fmt.round(np.moveaxis(x, 0, -1)))


def test_a_block_longer_than_its_axis_is_the_axis() -> None:
    x = np.random.default_rng(5).standard_normal((3, 40))
    element = BLOCK_FORMATS["mxfp4"].element
    np.testing.assert_array_equal(
        BlockFormat(element, 1 << 50).round(x, axis=0), BlockFormat(element, 3).round(x, axis=0)
    )
    assert BlockFormat(element, 1 << 50).round(x[:, :0]).shape == (3, 0)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_a_block_format_is_none_of_single_numbers(name: str) -> None:
    element = re.escape(str(BLOCK_FORMATS[name].element))
    with pytest.raises(ValueError, match=f"^format is '{name}', numbers in blocks .* of it are {element}$"):
        parse(name)


def test_e8m0s_codes_are_ml_dtypes() -> None:
    codes = np.arange(256, dtype=np.uint8)
    expected = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    np.testing.assert_array_equal(BLOCK_FORMATS["mxfp4"].scales(codes), expected)


def test_nvfp4_by_its_definition() -> None:
    x = np.random.default_rng(4).standard_normal((5, 40))
    x[1, :16] = 0
    found = BLOCK_FORMATS["nvfp4"].round(x)
    tensor = float(np.float32(np.abs(x).max() / (448 * 6)))
    for i in range(5):
        for k in range(0, 40, 16):
            block = x[i, k : k + 16]
            scale = np.abs(block).max() / 6 / tensor
            scale = max(float(np.float64(scale).astype(ml_dtypes.float8_e4m3fn)), 2.0**-9) * tensor
            element = (block / scale).astype(np.float32).astype(ml_dtypes.float4_e2m1fn).astype(np.float64)
            np.testing.assert_array_equal(found[i, k : k + 16], element * scale)


def test_what_is_not_finite_makes_its_block_nan() -> None:
    for fmt in BLOCK_FORMATS.values():
        x = np.ones((2, 40))
        x[0, 3], x[1, 39] = np.inf, np.nan
        bad = np.isnan(fmt.round(x))
        assert bad[0, : fmt.block].all()
        assert bad[1, -1]
        assert not bad[0, -1]
        assert not bad[1, 0]
        assert not fmt.round(np.zeros(7)).any()


def test_blocks_refuse_what_they_cannot_cast() -> None:
    for fmt in BLOCK_FORMATS.values():
        codes, scales, tensor = fmt.encode(np.ones((2, 40)))
        with pytest.raises(ValueError, match="rounding is stochastic, but blocks draw no random bits"):
            fmt.encode(np.ones(4), "stochastic")
        with pytest.raises(ValueError, match="values have no axis for blocks to lie along"):
            fmt.encode(1.0)
        for wrong in (scales[:, :1], np.concatenate([scales, scales], 1), scales[:1]):
            with pytest.raises(ValueError, match=r"scales are of .* blocks, but elements in blocks of"):
                fmt.decode(codes, wrong, tensor)
        for wrong in (scales.astype(int) + 256, scales.astype(int) - 256):
            with pytest.raises(ValueError, match=r"scales holds -?\d+, but codes of"):
                fmt.decode(codes, wrong, tensor)


def test_nvfp4_of_values_beyond_float32_is_finite() -> None:
    for value in (1e40, 1e300):
        assert np.isfinite(BLOCK_FORMATS["nvfp4"].round([value, -value, 1.0])).all()


def test_a_recipe_casts_along_what_each_gemm_sums_up() -> None:
    fmt = BLOCK_FORMATS["mxfp4"]
    gemm = AlignedFloat(BFLOAT16, BFLOAT16)
    precision = Precision(gemm, gemm, gemm, fmt, fmt, fmt)
    recipe = Recipe("blocks", hidden=precision)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert "mxfp4" in str(recipe)
    x = np.random.default_rng(5).standard_normal((64, 64)).astype(np.float32)
    run = Run(recipe, GoldenEngine())
    for (role, tensor), axis in SUMMED.items():
        codes = run.operand(x, precision, role, tensor)
        np.testing.assert_array_equal(BFLOAT16.decode(codes), fmt.round(x, axis=axis))
    assert SUMMED[Role.FORWARD, "weights"] != SUMMED[Role.BACKWARD, "weights"]
    assert recipes.nvfp4.hidden.inputs == BlockFormat(parse("e2m1mx"), 16, Scale.E4M3)
