"""The CUDA kernels, compiled by g++ from the source that a GPU gets, hold golden's bits."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quaver.golden import data
from quaver.golden.arithmetic import Bitstream, ChunkedFloat, FixedPoint
from quaver.golden.arithmetic.bitstream import Circuit
from quaver.golden.engine import GoldenEngine
from quaver.golden.formats import (
    BFLOAT16,
    DLFLOAT,
    E4M3,
    FP8,
    FP16,
    FP32,
    HALF,
    FixedFormat,
    FloatFormat,
    Format,
    IntegerFormat,
    Levels,
    Specials,
)
from quaver.golden.kernels.cuda import calls, source
from quaver.golden.kernels.cuda.calls import Operand, Size
from quaver.golden.kernels.cuda.engine import CudaEngine
from quaver.golden.kernels.cuda.source import Program
from quaver.golden.lfsr import LFSR, numbered_seed
from quaver.golden.nn import models, recipes
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.golden.rounding import Rounding
from quaver.golden.update import Adam, FixedSGD, FloatSGD
from quaver.sim.cuda import Processor

GPU = Processor()
#: One that has so few multiprocessors that no chunks are shared, and one whose threads run backwards.
SMALL, BACKWARDS = Processor(processors=1), Processor(backwards=True)

ARITHMETICS = {
    "fp8": ChunkedFloat(),
    "fp8-stochastic": ChunkedFloat(rounding="stochastic"),
    "fp16": ChunkedFloat(FP16, FP16),  # wide products
    "half-stochastic": ChunkedFloat(HALF, HALF, rounding="stochastic", random_bits=12),  # subnormal sums
    "half-saturating": ChunkedFloat(HALF, HALF.replace(saturate=True), chunk=5),
    "e4m3": ChunkedFloat(E4M3, FloatFormat(5, 10, specials=Specials.OCP_FN), chunk=1),  # overflow is NaN
    "dlfloat": ChunkedFloat(DLFLOAT, DLFLOAT, chunk=16),  # ties away, a gap around zero
    "dlfloat-stochastic": ChunkedFloat(FP8, DLFLOAT, rounding="stochastic"),
    "bfloat16": ChunkedFloat(BFLOAT16, BFLOAT16),  # in float64
    "bfloat16-stochastic": ChunkedFloat(BFLOAT16, BFLOAT16, rounding="stochastic", random_bits=24),
    "fp32": ChunkedFloat(FP8, FP32),  # the float's own rounding
    "integers": ChunkedFloat(FloatFormat(10, 5), FloatFormat(10, 9), chunk=7),  # no float is wide enough
    "integers-stochastic": ChunkedFloat(FP8, FloatFormat(10, 21), rounding="stochastic", random_bits=24),
    "fixed16": FixedPoint(),
    "fixed-nearest": FixedPoint(FixedFormat(2, 6), FixedFormat(4, 16), FixedFormat(3, 9), "nearest"),
}
#: Those of which another has every clause too.
ALIKE = "half-saturating", "bfloat16-stochastic", "fp32", "integers-stochastic", "fixed-nearest"
# Sizes for which the least filling up is one tiling, and so one program to compile.
CASES = [
    ((1, 1, 1), "normal", GPU),
    ((3, 70, 5), "any", GPU),
    ((250, 20, 250), "large", SMALL),
    ((9, 90, 70), "normal", GPU),
    ((5, 90, 7), "large", BACKWARDS),
]


def drawn_codes(fmt: Format, shape: tuple[int, ...], rng: np.random.Generator, kind: str) -> Any:
    """Codes of every kind, of normally distributed values, or of values whose sums overflow."""
    if kind == "any":
        return rng.integers(0, 1 << fmt.width, shape).astype(fmt.code_dtype)
    scale = fmt.max_value / 8 if kind == "large" else min(1.0, fmt.max_value / 4)
    return fmt.encode(rng.normal(size=shape) * scale)


def product(arithmetic: Any, a: Any, b: Any, seed: int | None, gpu: Processor = GPU, **options: Any) -> Any:
    """C by the CUDA kernels, of codes of any strides, with a batch or without."""
    batched = a.ndim == 3
    a, b = (x if batched else x[None] for x in (a, b))
    size = Size(len(a), a.shape[1], a.shape[2], b.shape[2])
    items = [tuple(s // x.itemsize for s in x.strides) for x in (a, b)]
    operands = Operand(a, (items[0][0], items[0][2], items[0][1])), Operand(b, items[1])
    seeds = [numbered_seed(seed, i) if batched else seed for i in range(len(a))] if seed else []
    c = calls.gemm(gpu, arithmetic, *operands, size, [arithmetic.sources(each) for each in seeds], **options)
    return c if batched else c[0]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in ARITHMETICS],
)
def test_gemms_are_goldens(name: str) -> None:
    arithmetic: Any = ARITHMETICS[name]
    rng, seed = np.random.default_rng(1), 7 if arithmetic.stochastic else None
    for (M, K, N), kind, gpu in CASES:
        a = drawn_codes(arithmetic.a, (M, K), rng, kind)
        b = drawn_codes(arithmetic.b, (K, N), rng, kind)
        found = product(arithmetic, a, b, seed, gpu)
        assert np.array_equal(found, arithmetic.gemm(a, b, seed=seed)), (M, K, N, kind)


@pytest.mark.parametrize("name", ["fp8", "fp8-stochastic", "fixed16"])
def test_batches_strides_and_slabs(name: str) -> None:
    arithmetic: Any = ARITHMETICS[name]
    rng, seed = np.random.default_rng(2), 9 if arithmetic.stochastic else None
    chunk = {"chunk": 16} if isinstance(arithmetic, ChunkedFloat) else {}
    arithmetic = replace(arithmetic, **chunk)
    a = drawn_codes(arithmetic.a, (3, 40, 75), rng, "normal")
    b = drawn_codes(arithmetic.b, (3, 30, 75), rng, "normal").swapaxes(1, 2)
    expected = np.stack([arithmetic.gemm(a[i], b[i], seed=seed and numbered_seed(seed, i)) for i in range(3)])
    assert np.array_equal(product(arithmetic, a, b, seed), expected)
    assert np.array_equal(product(arithmetic, a, b, seed, workspace=1), expected)  # a slab of one chunk


@settings(max_examples=25, deadline=None)
@given(choices=st.data())
def test_any_size_and_chunk(choices: st.DataObject) -> None:
    """By property, on programs that the grid above has compiled."""
    name = choices.draw(st.sampled_from(["fp8", "fp8-stochastic", "half-stochastic", "bfloat16"]))
    M, K, N = (choices.draw(st.integers(1, most)) for most in (20, 150, 20))
    arithmetic: Any = replace(ARITHMETICS[name], chunk=choices.draw(st.integers(1, 160) | st.just(1 << 30)))
    rng = np.random.default_rng(choices.draw(st.integers(0, 1 << 32)))
    seed = choices.draw(st.integers(1, (1 << 32) - 1)) if arithmetic.stochastic else None
    kind = choices.draw(st.sampled_from(["normal", "any", "large"]))
    a, b = drawn_codes(arithmetic.a, (M, K), rng, kind), drawn_codes(arithmetic.b, (K, N), rng, kind)
    gpu = choices.draw(st.sampled_from([GPU, SMALL, BACKWARDS]))
    assert np.array_equal(product(arithmetic, a, b, seed, gpu), arithmetic.gemm(a, b, seed=seed))


def test_a_small_gpu_gets_smaller_tiles() -> None:
    """Programs of other tilings, a block's shared memory within 70 KiB."""
    tiny, rng = Processor(processors=1, shared_memory=70 << 10), np.random.default_rng(3)
    arithmetic: Any = ARITHMETICS["fp8-stochastic"]
    a, b = drawn_codes(FP8, (60, 70), rng, "any"), drawn_codes(FP8, (70, 90), rng, "any")
    assert np.array_equal(product(arithmetic, a, b, 3, tiny), arithmetic.gemm(a, b, seed=3))
    with pytest.raises(RuntimeError, match="shared memory, too few"):
        product(arithmetic, a, b, 3, Processor(shared_memory=1 << 10))


@pytest.mark.parametrize("places_are_k", [False, True])
def test_im2col_on_the_way_in(places_are_k: bool) -> None:
    """Images go into panels without columns in memory: strides, padding, dilation, zeros between, groups."""
    rng, batch, groups, channels = np.random.default_rng(4), 2, 2, 3
    height, width, kernel, stride, margin, dilation, spread = 9, 7, (3, 2), (2, 1), (1, 2), (1, 2), (2, 1)
    x = drawn_codes(FP8, (batch, groups, channels, height, width), rng, "normal")
    wide = np.zeros((*x.shape[:3], (height - 1) * spread[0] + 1, (width - 1) * spread[1] + 1), np.uint8)
    wide[..., :: spread[0], :: spread[1]] = x
    padded = np.pad(wide, ((0, 0), (0, 0), (0, 0), (margin[0], 3), (margin[1], 1)))
    rows, columns = (
        (padded.shape[3 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    seen = np.empty((groups, channels, *kernel, batch, rows, columns), np.uint8)
    for i, j in np.ndindex(*kernel):
        top, left = i * dilation[0], j * dilation[1]
        window = padded[..., top:, left:][..., :: stride[0], :: stride[1]][..., :rows, :columns]
        seen[:, :, i, j] = window.transpose(1, 2, 0, 3, 4)
    seen = seen.reshape(groups, channels * 6, -1)
    images = (channels, groups, height, width, *kernel, rows, columns, *stride, *margin, *dilation, *spread)
    arithmetic, taps, places = ChunkedFloat(chunk=16), seen.shape[1], seen.shape[2]
    if places_are_k:
        other = drawn_codes(FP8, (groups, places, 4), rng, "normal")
        size = Size(groups, taps, places, 4)
        b = Operand(other, (places * 4, 4, 1))
        c = calls.gemm(GPU, arithmetic, Operand(x, images=images, places_are_k=True), b, size)
        expected = np.stack([arithmetic.gemm(s, o) for s, o in zip(seen, other, strict=True)])
    else:
        other = drawn_codes(FP8, (groups, 4, taps), rng, "normal")
        size = Size(groups, 4, taps, places)
        a = Operand(other, (4 * taps, 1, taps))
        c = calls.gemm(GPU, arithmetic, a, Operand(x, images=images), size)
        expected = np.stack([arithmetic.gemm(o, s) for s, o in zip(seen, other, strict=True)])
    assert np.array_equal(c, expected)


FORMATS = [FP8, DLFLOAT, FP32, FloatFormat(10, 5), FixedFormat(4, 12)]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("wide", [False, True])
def test_casts_are_goldens(fmt: Format, wide: bool) -> None:
    rng, count = np.random.default_rng(5), 3000
    x = np.ldexp(rng.normal(size=count), rng.integers(-160 if wide else -120, 100, count))
    x[::3] = rng.normal(size=1000) * min(fmt.max_value, 1e6)
    if isinstance(fmt, FloatFormat):
        x[:6] = np.nan, np.inf, -np.inf, 0.0, -0.0, fmt.max_value
        low = fmt.decode(np.arange(1, 40, dtype=fmt.code_dtype)).astype(np.float64)
        x[6:45], x[45:84] = low, low * 1.5  # the smallest, and ties between them
    with np.errstate(over="ignore"):
        x = x.astype(np.float64 if wide else np.float32)
    draws = LFSR(3).draws(count, 16)
    for rounding in source.ROUNDINGS:
        random = draws if rounding is Rounding.STOCHASTIC else None
        expected = fmt.encode(x, rounding, random=random)
        drawn = None if random is None else random.astype(np.uint32)
        for rounded in (False, True):
            out, refused = calls.encode(
                GPU, fmt, rounding, x, count, wide=wide, random=drawn, rounded=rounded
            )
            assert not refused[0]
            assert np.array_equal(out, fmt.decode(expected) if rounded else expected, equal_nan=True)
    for rounding in set(Rounding) - set(source.ROUNDINGS):
        with pytest.raises(ValueError, match="the CUDA kernels round nearest, truncate, stochastic"):
            calls.encode(GPU, fmt, rounding, x, count, wide=wide)
    if fmt.width <= 16:
        every = np.arange(1 << fmt.width).astype(fmt.code_dtype)
        values = calls.decode(GPU, fmt, every, len(every))
        assert np.array_equal(values, fmt.decode(every), equal_nan=True)
        numbers = ~np.isnan(values)
        assert np.array_equal(np.signbit(values)[numbers], np.signbit(fmt.decode(every))[numbers])


def test_fixed_point_has_no_code_for_nan() -> None:
    x = np.array([0.5, np.nan], np.float32)
    assert calls.encode(GPU, FixedFormat(4, 12), Rounding.NEAREST_EVEN, x, 2, wide=False)[1][0]


RULES = [
    FloatSGD(0.1, 0.9, 0.01),
    FloatSGD(0.3, 0.9, 0.01, DLFLOAT, Rounding.NEAREST_EVEN),
    Adam(0.01, decay=0.01, step=3),
    FixedSGD(0.01, 0.9, 0.001),
    FixedSGD(0.1, 0.5, 0.01, FixedFormat(2, 6), FixedFormat(1, 19), rounding=Rounding.TOWARD_ZERO),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}-{rule.rounding}")
def test_updates_are_goldens(rule: Any) -> None:
    rng, count, seed = np.random.default_rng(6), 9000, 5 if rule.stochastic else None
    formats = rule.formats * 3 if len(rule.formats) == 1 else rule.formats
    for kind in ("normal", "any"):
        shapes = (count,), (2, count) if isinstance(rule, Adam) else (count,), (count,)
        codes = [drawn_codes(fmt, s, rng, kind) for fmt, s in zip(formats, shapes, strict=True)]
        with np.errstate(all="ignore"):
            expected = rule.update(*codes, seed=seed)
        found = calls.update(GPU, rule, *codes, count, seed)
        for new, old in zip(found, expected, strict=True):
            assert np.array_equal(new, old.reshape(-1))


class Counting(Processor):
    """Counts the launches of each kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()

    def launch(self, program: Program, kernel: str, *rest: Any, **options: Any) -> None:
        self.launches[kernel] += 1
        super().launch(program, kernel, *rest, **options)


def test_a_network_trains_to_goldens_bits() -> None:
    """A step of golden's own loop, as of `quaver train --device cuda`."""
    gpu = Counting()
    about, dataset = Settings(epochs=1, batch=32, seed=3), data.load("digits")
    found = []
    for engine in (GoldenEngine(), CudaEngine(gpu)):
        network = models.build("mlp", dataset.shape, dataset.classes, seed=3)
        trainer = Trainer(network, dataset, recipes.fp8, about, engine=engine)
        found.append((trainer.train_step().loss, trainer.state()))
    (loss, state), (expected, golden) = found
    assert loss == expected
    assert all(np.array_equal(state[name], golden[name]) for name in golden)
    casts = "encode_values", "round_values", "decode_values"
    assert all(gpu.launches[kernel] for kernel in (*casts, "gemm", "float_sgd"))


@pytest.mark.parametrize("fmt", [FP8, FixedFormat(4, 12), IntegerFormat(4, Levels.SIGNED)], ids=str)
def test_an_engine_casts_as_formats_do(fmt: Format) -> None:
    gpu = Counting()
    engine, x = CudaEngine(gpu), np.random.default_rng(8).normal(size=(6, 5, 4)).astype(np.float32) * 3
    cases: list[Any] = [x, x.T[::2, 1:], x.astype(np.float64), x[:0], x[0, 0, 0], (4 * x).astype(int)]
    for values in cases:
        for rounding in ("nearest", "truncate"):
            codes = fmt.encode(values, rounding)
            for found, expected in (
                (engine.encode(fmt, values, rounding), codes),
                (engine.round(fmt, values, rounding), fmt.decode(codes)),
                (engine.decode(fmt, codes.T), fmt.decode(codes).T),
            ):
                assert found.dtype == expected.dtype
                assert found.shape == expected.shape
                assert np.array_equal(found, expected)
    # All but the empty one, where there is a kernel; three kernels, two roundings.
    assert gpu.launches.total() == (0 if isinstance(fmt, IntegerFormat) else 6 * (len(cases) - 1))
    wrong: list[Any] = [
        lambda cast: cast.encode(fmt, x, "stochastic"),
        lambda cast: cast.encode(fmt, x > 0),
        lambda cast: cast.decode(fmt, np.array([1 << 16])),
        lambda cast: cast.decode(fmt, x),
    ]
    if not isinstance(fmt, FloatFormat):
        wrong += [lambda cast: cast.encode(fmt, x * np.nan), lambda cast: cast.round(fmt, x * np.nan)]
    for call in wrong:
        with pytest.raises((TypeError, ValueError)) as expected_error:
            call(GoldenEngine())
        with pytest.raises(expected_error.type, match=re.escape(str(expected_error.value))):
            call(engine)


@pytest.mark.parametrize("circuit", Circuit)
def test_counts_of_bit_streams_are_goldens(circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of a part of a word, of one, of several; and one popcount that is left out is caught."""
    rng = np.random.default_rng(8)
    for length, (M, K, N) in ((16, (1, 1, 1)), (64, (5, 9, 70)), (256, (17, 30, 20)), (32, (0, 2, 3))):
        arithmetic = Bitstream(length=length, circuit=circuit)
        a, b = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((M, K), (K, N)))
        for gpu in (GPU, BACKWARDS):
            found = CudaEngine(gpu).gemm(arithmetic, a, b, seed=11)
            assert np.array_equal(found, arithmetic.gemm(a, b, seed=11)), (length, M, K, N)
    intact, arithmetic = source.streams_program(), Bitstream(length=256, circuit=circuit)
    text = intact.text.replace("w < words", "w < words - 1").replace("i < all", "i < all - 1")
    monkeypatch.setattr(source, "streams_program", lambda: Program(text, intact.kernels))
    a, b = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((9, 8), (8, 9)))
    assert not np.array_equal(CudaEngine(GPU).gemm(arithmetic, a, b, seed=3), arithmetic.gemm(a, b, seed=3))


def test_an_arithmetic_without_a_kernel_is_refused() -> None:
    other: Any = object()
    one = np.zeros((1, 1), np.uint8)
    with pytest.raises(TypeError, match="has no CUDA kernel"):
        CudaEngine(GPU).gemm(other, one, one)
    totals = ChunkedFloat(total=FP32)
    for refused in (lambda: CudaEngine(GPU).gemm(totals, one, one), lambda: product(totals, one, one, None)):
        with pytest.raises(ValueError, match="total is e8m23, but the CUDA kernels add chunks up in the acc"):
            refused()


@pytest.mark.parametrize("rule", [FloatSGD(0.1), FixedSGD(0.1), Adam(0.1), ChunkedFloat(), FixedPoint()])
def test_a_rounding_without_a_kernel_is_refused_before_anything_is_computed(rule: Any) -> None:
    CudaEngine.check(rule)
    for variant in ("stochastic-b", "stochastic-c"):
        with pytest.raises(ValueError, match=f"rounding is {variant}, but the CUDA kernels round nearest"):
            CudaEngine.check(replace(rule, rounding=variant))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("fp8-stochastic", "random_bits = 14", "random_bits = 13"),
        ("fp8-stochastic", "3 * i + j]", "2 * i + j]"),
        ("fp8-stochastic", "if (Program::drawn) __syncthreads();", ""),  # draws while others still read
        # Rounding in another direction, which products of 22 bits show.
        ("half-stochastic", "total = fma_rz(a, b, c)", "total = fma_rn(a, b, c)"),
        ("half", "up = fma_ru(a, b, c)", "up = fma_rn(a, b, c)"),
        ("half", "down = fma_rd(a, b, c)", "down = fma_rz(a, b, c)"),
    ],
)
def test_a_broken_kernel_is_caught(
    name: str, before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arithmetic: Any = ARITHMETICS[name] if name in ARITHMETICS else ChunkedFloat(HALF, HALF)
    intact = source.chunked_program

    def broken(*args: Any) -> Program:
        program = intact(*args)
        assert before in program.text
        return Program(program.text.replace(before, after), program.kernels)

    monkeypatch.setattr(source, "chunked_program", broken)
    rng, seed = np.random.default_rng(1), 7 if arithmetic.stochastic else None
    a = drawn_codes(arithmetic.a, (9, 200), rng, "normal")
    b = drawn_codes(arithmetic.b, (200, 70), rng, "normal")
    if arithmetic.a == HALF:  # small products on large sums: what is cut off decides
        a[:, ::64], b[::64] = HALF.encode(32.0), HALF.encode(32.0)
        # The second sums of a chunk are ±1024.5 and less than a float32's last bit outward.
        m, n = np.mgrid[1024:2048, 1024:2048].reshape(2, -1)
        m, n = (x[(m * n > 1 << 21) & (m * n < (1 << 21) + 64)][:9] for x in (m, n))
        a[:, 1::64], b[1::64, :9] = HALF.encode(m / 1024)[:, None], HALF.encode(n / 4096)
        a[::2] ^= HALF.sign_code
    assert not np.array_equal(product(arithmetic, a, b, seed, SMALL), arithmetic.gemm(a, b, seed=seed))


def test_one_program_for_every_chunk() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # few random bits warn where they are chosen, not here
        assert calls._any_chunk(ChunkedFloat(chunk=8)) == calls._any_chunk(ChunkedFloat(chunk=9))
