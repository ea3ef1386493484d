"""Formats against ml_dtypes and NumPy code for code, against gfloat elsewhere, and against the definition."""

import itertools
from fractions import Fraction

import gfloat
import ml_dtypes
import numpy as np
import pytest

from quaver.golden import exact
from quaver.golden.formats import (
    BFLOAT16,
    DLFLOAT,
    E4M3,
    FP8,
    FP16,
    FP32,
    HALF,
    FloatFormat,
    Specials,
    hfp8,
    parse,
)
from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import Rounding

FN = Specials.OCP_FN
ELSEWHERE = {  # the same formats in ml_dtypes and NumPy, which overflow to infinity (NaN where there is none)
    "e5m2": (FP8.replace(saturate=False), ml_dtypes.float8_e5m2),
    "e4m3fn": (E4M3.replace(saturate=False), ml_dtypes.float8_e4m3fn),
    "e4m3": (FloatFormat(4, 3), ml_dtypes.float8_e4m3),
    "e3m4": (FloatFormat(3, 4), ml_dtypes.float8_e3m4),
    "half": (HALF, np.float16),
    "bfloat16": (BFLOAT16, ml_dtypes.bfloat16),
    "fp32": (FP32, np.float32),
}
ODD = [  # what they do not have
    FP16,
    hfp8(4),
    hfp8(11),
    FloatFormat(2, 1),
    FloatFormat(2, 13),
    FloatFormat(3, 2, specials=FN),
    FloatFormat(5, 7, bias=-3),
    FloatFormat(6, 9, specials=FN),
    FloatFormat(7, 8, bias=40),
    FloatFormat(8, 7, bias=140),  # its smallest normal is a float32 subnormal
    FloatFormat(8, 2, bias=60),  # it reaches beyond float32
    FloatFormat(9, 6),
    FloatFormat(2, 5, bias=-125),
    FloatFormat(6, 12),  # from here on more than 16 bits
    FloatFormat(6, 12, specials=FN),
    FloatFormat(8, 22),  # the most mantissa bits that are rounded in float32
    FloatFormat(2, 29),
    FloatFormat(10, 21),
    FloatFormat(5, 19, bias=40),
]


def all_codes(fmt):
    """Every code; of more than 16 bits those around every power of two, some between, and all their signs."""
    if fmt.width <= 16:
        return np.arange(1 << fmt.width, dtype=fmt.code_dtype)
    around = np.arange(0, fmt.sign_code, 1 << fmt.mantissa_bits)[:, None] + np.arange(-3, 4)
    between = np.random.default_rng(0).integers(0, fmt.sign_code, 3000)
    codes = np.union1d(around[(around >= 0) & (around < fmt.sign_code)], between)
    return np.append(codes, codes | fmt.sign_code).astype(fmt.code_dtype)


def grid(fmt):
    """The finite values of `all_codes` from 0 up, and beside each the one above, or where it would be."""
    codes = all_codes(fmt)
    codes = codes[codes <= fmt.max_code]
    values = fmt.decode(codes).astype(np.float64)
    above = fmt.decode(np.minimum(codes, fmt.max_code - 1) + codes.dtype.type(1)).astype(np.float64)
    above[-1] += above[-1] - float(fmt.decode(fmt.max_code - 1))
    return values, above


def midpoints(fmt):
    values, above = grid(fmt)
    return (values + above) / 2  # exact in float64; in float32 too, where that has more bits than the format


def dense(fmt, dtype, ulps=4):
    """Every value and tie of the format, their neighbours in `dtype`, and the specials, of both signs."""
    specials = [np.inf, np.nan, np.finfo(dtype).max, np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal]
    with np.errstate(over="ignore", under="ignore"):
        x = np.concatenate([*grid(fmt), midpoints(fmt), specials]).astype(dtype)
        around, up, down = [x], x, x
        for _ in range(ulps):
            up, down = np.nextafter(up, dtype(np.inf)), np.nextafter(down, dtype(-np.inf))
            around += [up, down]
    x = np.concatenate(around)
    return np.concatenate([x, -x])


def any_bits(rng, dtype, count):
    word = np.uint32 if dtype is np.float32 else np.uint64
    return rng.integers(0, np.iinfo(word).max, count, word, endpoint=True).view(dtype)


def same_values(a, b):
    return bool(np.all((np.isnan(a) & np.isnan(b)) | ((a == b) & (np.signbit(a) == np.signbit(b)))))


# --- ml_dtypes and NumPy ---


@pytest.mark.parametrize("name", ELSEWHERE)
def test_every_code_both_ways(name):
    fmt, other = ELSEWHERE[name]
    codes = all_codes(fmt)
    values = fmt.decode(codes)
    assert same_values(values, codes.view(other).astype(np.float32))
    back = fmt.encode(values)
    nan = np.isnan(values)
    assert np.array_equal(back[~nan], codes[~nan])
    assert np.all(back[nan] == fmt.nan_code)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in cast")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, np.float32) for name in ELSEWHERE), ("half", np.float64), ("fp32", np.float64)],
)
def test_codes_are_those_of_other_libraries(name, dtype):
    fmt, other = ELSEWHERE[name]  # from float64, ml_dtypes rounds twice, by way of float32; NumPy once
    rng = np.random.default_rng(1)
    x = np.concatenate([dense(fmt, dtype), any_bits(rng, dtype, 1_000_000)])
    x = np.concatenate([x, rng.normal(size=1_000_000).astype(dtype) * dtype(fmt.max_value) ** dtype(0.25)])
    theirs = x.astype(other).view(fmt.code_dtype)
    ours = fmt.encode(x)
    nan = np.isnan(theirs.view(other).astype(np.float32))
    assert np.array_equal(ours[~nan], theirs[~nan])
    assert np.all(ours[nan] == fmt.nan_code)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_comparison_meets_every_tie(name):
    fmt, _ = ELSEWHERE[name]
    x = dense(fmt, np.float64 if fmt is FP32 else np.float32)
    ties = midpoints(fmt)
    assert np.isin(ties[ties < 2.0**128], x).all()
    # … and would notice one rounding instead of the other, or a tie that goes the wrong way
    toward_zero, nearest = fmt.encode(x, "truncate"), fmt.encode(x)
    with np.errstate(over="ignore"):
        away = fmt.encode(np.nextafter(x, np.copysign(x.dtype.type(np.inf), x)))
    assert np.count_nonzero(nearest != toward_zero) > len(ties)
    assert np.count_nonzero(nearest != away) >= len(ties) // 2


# --- gfloat ---


def gfloat_info(fmt):
    fn = fmt.specials is FN
    return gfloat.FormatInfo(
        str(fmt),
        fmt.width,
        fmt.precision,
        bias=fmt.bias,
        is_signed=True,
        domain=gfloat.Domain.Finite if fn else gfloat.Domain.Extended,
        has_nz=True,
        num_high_nans=1 if fn else (1 << fmt.mantissa_bits) - 1,
        has_subnormals=True,
        is_twos_complement=False,
    )


@pytest.mark.parametrize("fmt", [*ODD, FP8, E4M3, BFLOAT16], ids=str)
def test_gfloat_decodes_every_code_alike(fmt):
    assert same_values(fmt.decode(all_codes(fmt)), gfloat.decode_ndarray(gfloat_info(fmt), all_codes(fmt)))


@pytest.mark.filterwarnings("ignore:overflow encountered in ldexp")  # gfloat's own
@pytest.mark.parametrize("fmt", [*ODD, FP8, E4M3, BFLOAT16], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gfloat_rounds_alike(fmt, dtype):
    rng = np.random.default_rng(2)
    x = np.concatenate([dense(fmt, dtype, ulps=1), any_bits(rng, dtype, 20_000)])
    x = x if len(x) < 60_000 else rng.choice(x, 60_000)
    x = np.where(np.isnan(x), dtype(np.nan), x)
    info, modes = gfloat_info(fmt), gfloat.RoundMode
    for saturate in (False, True):
        for rounding, mode in (("nearest", modes.TiesToEven), ("truncate", modes.TowardZero)):
            theirs = gfloat.round_ndarray(info, x.astype(np.float64), mode, saturate)
            assert same_values(fmt.round(x, rounding, saturate=saturate), theirs), (rounding, saturate)
        if dtype is np.float64:
            continue  # gfloat adds the random bits in float64: exact for a float32, not for this
        for random_bits in (3, 14):
            random = rng.integers(0, 1 << random_bits, len(x))
            stochastic = modes.StochasticFastest
            theirs = gfloat.round_ndarray(
                info, x.astype(np.float64), stochastic, saturate, random, random_bits
            )
            ours = fmt.round(x, "stochastic", random=random, random_bits=random_bits, saturate=saturate)
            assert same_values(ours, theirs), (random_bits, saturate)


# --- the definition ---


def as_exact(x):
    x = float(x)
    return Fraction(x) if np.isfinite(x) and x else x


@pytest.mark.parametrize(
    "fmt", [FP8, E4M3, E4M3.replace(saturate=False), HALF, BFLOAT16, FP32, *ODD], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_are_those_of_the_definition(fmt, dtype):
    rng = np.random.default_rng(3)
    near = rng.choice(dense(fmt, dtype), 150)
    wide = rng.normal(size=50).astype(dtype) * dtype(min(fmt.max_value, 1e30))
    x = np.concatenate([near, wide, any_bits(rng, dtype, 20), dtype([0.0, -0.0, np.inf, -np.inf, np.nan])])
    for rounding, random_bits in [
        ("nearest", 16),
        ("truncate", 16),
        *(("stochastic", r) for r in (1, 8, 16, 32)),
    ]:
        random = rng.choice([0, 1, (1 << random_bits) - 1, rng.integers(1 << random_bits)], len(x))
        given = {"random": random, "random_bits": random_bits} if rounding == "stochastic" else {}
        codes = fmt.encode(x, rounding, **given)
        for value, bits, code in zip(x, random, codes, strict=True):
            wanted = exact.encode(fmt, as_exact(value), rounding, int(bits), random_bits)
            assert code == wanted, (value, rounding, bits, random_bits)


@pytest.mark.parametrize("fmt", [FP8, FP16, FP32, E4M3, *ODD], ids=str)
def test_values_are_those_of_the_definition(fmt):
    for code in all_codes(fmt)[:: 1 if fmt.width == 8 else 37].tolist():
        value = float(exact.decode(fmt, code))
        assert same_values(np.array(value), fmt.decode(np.array(code)))


# --- special values ---


def test_special_values():
    huge = [1e30, -1e30, np.inf, -np.inf]
    open_ended, finite = FP8.replace(saturate=False), E4M3.replace(saturate=False)
    assert FP8.encode([*huge, np.nan, -np.nan]).tolist() == [0x7B, 0xFB, 0x7B, 0xFB, 0x7E, 0x7E]
    assert open_ended.encode(huge).tolist() == [0x7C, 0xFC, 0x7C, 0xFC]
    assert open_ended.encode(huge, "truncate").tolist() == [0x7B, 0xFB, 0x7C, 0xFC]
    assert E4M3.encode([*huge, -np.nan]).tolist() == [0x7E, 0xFE, 0x7E, 0xFE, 0x7F]
    assert finite.encode(huge).tolist() == [0x7F] * 4
    assert finite.encode(huge, "truncate").tolist() == [0x7E, 0xFE, 0x7F, 0x7F]
    assert finite.encode(huge, "stochastic", random=[0, 0, 0, 0]).tolist() == [0x7F] * 4
    assert FP8.encode([0.0, -0.0, 1e-30, -1e-30]).tolist() == [0, 0x80, 0, 0x80]
    assert FP16.encode([2.0**-39, 2.0**-40, 3 * 2.0**-40, -(2.0**-40)]).tolist() == [1, 0, 2, 0x8000]
    # the last value that nearest keeps finite, and the tie that overflows
    assert open_ended.encode(np.nextafter([61440.0, 61440.0], [0, 70000])).tolist() == [0x7B, 0x7C]
    assert open_ended.encode(61440.0) == 0x7C


def test_properties():
    assert (FP16.max_value, FP16.min_exponent, FP16.quantum_exponent) == (2.0**31 * (2 - 2.0**-9), -30, -39)
    assert (E4M3.max_value, HALF.max_value, FloatFormat(4, 3).max_value) == (448.0, 65504.0, 240.0)
    assert [f.value_dtype for f in (FP16, BFLOAT16, FloatFormat(9, 6))] == [
        np.float32,
        np.float32,
        np.float64,
    ]
    assert FP8.code_dtype is np.uint8
    assert FloatFormat(5, 3).code_dtype is np.uint16
    assert [f.code_dtype for f in (FP16, FloatFormat(6, 10), FP32)] == [np.uint16, np.uint32, np.uint32]
    assert [f.value_dtype for f in (FP32, FloatFormat(7, 24), FloatFormat(8, 22, 129))] == [
        np.float32,
        np.float64,
        np.float64,
    ]


# --- shapes, types, threads ---


def test_shapes_layouts_and_types():
    x = np.arange(-12, 12, dtype=np.float32).reshape(2, 3, 4) / 4
    codes = FP8.encode(x)
    assert codes.shape == x.shape
    assert np.array_equal(FP8.encode(x.T), codes.T)
    assert np.array_equal(FP8.encode(x[:, ::2, ::-1]), codes[:, ::2, ::-1])
    assert np.array_equal(FP8.decode(codes.T[::2]), FP8.decode(codes).T[::2])
    for dtype in (np.float16, np.float64, ">f4", ">f8"):
        assert np.array_equal(FP8.encode(x.astype(dtype)), codes)
    assert np.array_equal(FP8.encode(np.asfortranarray(x)), codes)
    assert FP8.encode(1.5).shape == FP8.decode(FP8.encode(1.5)).shape == ()
    assert FP8.encode(np.zeros((0, 3))).shape == FP8.decode(np.zeros((0, 3), np.uint8)).shape == (0, 3)
    for dtype in (np.int8, np.int32, np.int64, np.uint64):
        assert FP16.decode(FP16.encode(np.array([[1, 3], [0, 100]], dtype))).tolist() == [[1, 3], [0, 100]]
    assert FP16.encode([1, -3]).tolist() == FP16.encode([1.0, -3.0]).tolist()
    assert np.array_equal(
        FP16.decode(np.array([15 << 9, 31 << 9], np.int64)), FP16.decode([15 << 9, 31 << 9])
    )
    drawn = LFSR(1).draws(24, 16).reshape(2, 3, 4)
    stochastic = FP8.encode(x, "stochastic", random=drawn)
    assert np.array_equal(FP8.encode(x.T, "stochastic", random=drawn.T), stochastic.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_arrays_on_threads(dtype):
    x = any_bits(np.random.default_rng(4), dtype, 600_001)
    random = LFSR(5).draws(len(x), 16)
    for rounding, extra in (("nearest", None), ("truncate", None), ("stochastic", random)):
        codes = FP16.encode(x, rounding, random=extra)
        for part in (slice(0, 100_000), slice(550_000, None)):
            given = None if extra is None else extra[part]
            assert np.array_equal(codes[part], FP16.encode(x[part], rounding, random=given))
    assert same_values(FP16.decode(codes)[-1000:], FP16.decode(codes[-1000:]))


# --- bad input ---


def test_bad_values_and_random_bits():
    for bad in ([1j], ["1"], [None], np.zeros(1, np.longdouble)):
        with pytest.raises(TypeError, match="but they must be float16, 32, 64, integer or of ml_dtypes"):
            FP8.encode(bad)
    with pytest.raises(ValueError, match=r"beyond ±2\*\*53"):
        FP8.encode(np.array([2**53 + 1]))
    x = np.ones((2, 2))
    with pytest.raises(ValueError, match=r"needs random: draw it from a quaver\.golden\.lfsr\.LFSR"):
        FP8.encode(x, "stochastic")
    with pytest.raises(ValueError, match="random was given, but nearest rounding takes none"):
        FP8.encode(x, random=np.zeros((2, 2), int))
    with pytest.raises(ValueError, match=r"random has shape \(4,\), but values have \(2, 2\)"):
        FP8.encode(x, "stochastic", random=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="random holds 256, but 8 random bits hold 0 … 255"):
        FP8.encode(x, "stochastic", random=[[0, 1], [256, 3]], random_bits=8)
    with pytest.raises(ValueError, match="random holds -1, but 16 random bits hold 0 … 65535"):
        FP8.encode(x, "stochastic", random=[[0, 1], [-1, 3]])
    with pytest.raises(TypeError, match="random has dtype float64, but it must be integers of 16 bits"):
        FP8.encode(x, "stochastic", random=x)
    for bits in (0, 33):
        with pytest.raises(ValueError, match=f"random_bits is {bits}, but stochastic rounding takes 1 … 32"):
            FP8.encode(x, "stochastic", random=np.zeros((2, 2), int), random_bits=bits)
    with pytest.raises(ValueError, match="'up' is not a valid Rounding"):
        FP8.encode(x, "up")


def test_bad_codes():
    with pytest.raises(TypeError, match="codes has dtype float64, but codes are unsigned integers"):
        FP8.decode([1.0])
    with pytest.raises(ValueError, match="codes holds 256, but codes of e5m2sat are 0 … 255"):
        FP8.decode([3, 256])
    with pytest.raises(ValueError, match="codes holds -1, but codes of e6m9 are 0 … 65535"):
        FP16.decode([3, -1])
    with pytest.raises(ValueError, match="codes holds 64, but codes of e3m2 are 0 … 63"):
        FloatFormat(3, 2).decode(np.array([64], np.uint8))


def test_bad_formats():
    for e, m, message in (
        (1, 3, "exponent_bits is 1, but a format has 2 to 10 of them"),
        (11, 3, "exponent_bits is 11, but"),
        (4, 0, "mantissa_bits is 0, but a format has at least 1"),
        (8, 24, r"1 \+ 8 \+ 24 = 33 bits, but a format fits 32"),
    ):
        with pytest.raises(ValueError, match=message):
            FloatFormat(e, m)
    with pytest.raises(ValueError, match="bias is 2000, but every value must be a float64"):
        FloatFormat(4, 3, bias=2000)


# --- names ---


def test_names():
    for name, fmt in (
        ("fp8", FP8),
        ("FP16", FP16),
        ("e4m3", E4M3),
        ("half", HALF),
        (" bfloat16 ", BFLOAT16),
        ("fp32", FP32),
        ("1-8-23", FP32),
        ("1-6-12", FloatFormat(6, 12)),
        ("e6m9", FP16),
        ("1-6-9", FP16),
        ("e5m2", FP8.replace(saturate=False)),
        ("e5m2sat", FP8),
        ("e4m3b11", hfp8(11).replace(saturate=False)),
        ("1-4-3b11sat", hfp8(11)),
        ("e4m3fn", E4M3.replace(saturate=False)),
        ("e4m3ieee", FloatFormat(4, 3)),
        ("1-4-3", FloatFormat(4, 3)),
        ("e5m7b-3", FloatFormat(5, 7, bias=-3)),
        ("dlfloat16", DLFLOAT),
        ("dl8", FloatFormat(4, 3, 7, Specials.DLFLOAT, saturate=True)),
    ):
        assert parse(name) == fmt


def test_names_round_trip():
    widths = [(e, m) for e in range(2, 11) for m in range(1, 30) if e + m <= 31]
    for (e, m), bias, specials, saturate in itertools.product(
        widths, (None, 99, 77), Specials, (False, True)
    ):
        if e == 10 and (bias is not None or specials is Specials.DLFLOAT):
            continue  # too far for float64
        fmt = FloatFormat(e, m, bias, specials, saturate)
        assert parse(str(fmt)) == fmt


def test_an_unknown_name_is_told_what_there_is():
    for name in ("fp9", "e6", "2-6-9", "e4m3satfn", "", "e6m9 e"):
        with pytest.raises(
            ValueError,
            match=r"must be one of fp8, fp16, e4m3, half, bfloat16, fp32, dlfloat, dlfloat16, dl8, or widths",
        ):
            parse(name)
    with pytest.raises(ValueError, match=r"1 \+ 9 \+ 23 = 33 bits, but a format fits 32"):
        parse("e9m23")


def test_roundings_are_named():
    assert [str(r) for r in Rounding] == [
        *("nearest", "truncate", "stochastic", "stochastic-b", "stochastic-c")
    ]


@pytest.mark.parametrize(
    "fmt",
    [FP8, FP16, HALF, BFLOAT16, E4M3, *map(parse, ("e6m2b0", "e4m3b-40", "e8m7b140", "e8m2b100", "e2m13"))],
    ids=str,
)
def test_values_in_vectors_are_those_of_the_table(fmt):
    """Where float32 takes the words, and where it does not: every code."""
    codes = np.arange(1 << fmt.width, dtype=fmt.code_dtype)
    values, table = fmt.decode(codes), fmt._values(codes.astype(np.uint32))
    assert values.dtype == table.dtype
    numbers = ~np.isnan(table)
    assert np.array_equal(np.isnan(values), ~numbers)
    assert values[numbers].tobytes() == table[numbers].tobytes()
