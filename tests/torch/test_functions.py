"""encode, decode, round and GEMMs on tensors: golden's bits, on the tensor's own memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import quaver
import quaver.torch as qt
from quaver.golden.formats import Format
from quaver.golden.lfsr import numbered_seed
from quaver.torch import functions

FORMATS = [
    *(quaver.FP8, quaver.FP16, quaver.E4M3, quaver.HALF, quaver.BFLOAT16, quaver.DLFLOAT, quaver.FP32),
    *(quaver.hfp8(), quaver.FloatFormat(10, 5), quaver.FixedFormat(8, 8), quaver.FixedFormat(4, 16)),
]
NEAREST = quaver.ChunkedFloat()
STOCHASTIC = quaver.ChunkedFloat(rounding="stochastic")
FIXED = quaver.FixedPoint()


def values(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    scale = torch.randint(-30, 30, shape, generator=generator)
    return torch.ldexp(torch.randn(shape, generator=generator), scale)


def codes(fmt: Format, *shape: int) -> torch.Tensor:
    drawn = np.random.default_rng(1).integers(0, 1 << fmt.width, shape).astype(fmt.code_dtype)
    return torch.from_numpy(drawn)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_formats_are_goldens(fmt: Format, dtype: torch.dtype) -> None:
    x = values(13, 5).to(dtype)
    if isinstance(fmt, quaver.FloatFormat):
        x[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    array = x.double().numpy()
    for rounding in ("nearest", "truncate"):
        coded = qt.encode(x, fmt, rounding)
        assert np.array_equal(coded.numpy(), fmt.encode(array, rounding))
        assert np.array_equal(qt.decode(coded, fmt), fmt.decode(coded.numpy()), equal_nan=True)
        assert np.array_equal(qt.round(x, fmt, rounding), fmt.round(array, rounding), equal_nan=True)
    draws = torch.from_numpy(quaver.LFSR(1).draws(x.numel(), 16).reshape(x.shape))
    expected = fmt.encode(array, "stochastic", random=draws.numpy())
    assert np.array_equal(qt.encode(x, fmt, "stochastic", random=draws).numpy(), expected)
    assert qt.encode(x, str(fmt)).equal(qt.encode(x, fmt))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_any_shape_and_strides(fmt: Format) -> None:
    x = values(6, 5, 4)
    for view in (x.permute(2, 0, 1), x[::2, 1:, ::3], x[0, 0, 0], x[:0], x[:1].expand(3, 5, 4), x[..., None]):
        assert qt.encode(view, fmt).equal(qt.encode(view.contiguous(), fmt))
        assert qt.encode(view, fmt).shape == view.shape
        assert qt.decode(qt.encode(view, fmt), fmt).equal(qt.round(view.contiguous(), fmt))
    coded = qt.encode(x, fmt)
    assert qt.decode(coded.mT, fmt).equal(qt.decode(coded.mT.contiguous(), fmt))


class Spy(quaver.GoldenEngine):
    """Remembers its operands."""

    def gemm(self, arithmetic: Any, a_codes: Any, b_codes: Any, *, seed: int | None = None) -> Any:
        self.operands = a_codes, b_codes
        return super().gemm(arithmetic, a_codes, b_codes, seed=seed)


def test_nothing_is_copied_on_the_way_to_the_kernel() -> None:
    a, b, spy = codes(quaver.FP8, 7, 9), codes(quaver.FP8, 9, 5), Spy()
    with qt.engine(spy):
        qt.gemm(NEAREST, a, b)
    assert [x.ctypes.data for x in spy.operands] == [a.data_ptr(), b.data_ptr()]


@pytest.mark.parametrize("arithmetic", [NEAREST, STOCHASTIC, FIXED], ids=["nearest", "stochastic", "fixed"])
def test_gemms_are_goldens(arithmetic: Any) -> None:
    seed = 7 if arithmetic.stochastic else None
    a, b = codes(arithmetic.a, 3, 9, 12), codes(arithmetic.b, 3, 12, 5)
    expected = [
        arithmetic.gemm(a[i].numpy(), b[i].numpy(), seed=None if seed is None else numbered_seed(seed, i))
        for i in range(3)
    ]
    assert np.array_equal(qt.batched_gemm(arithmetic, a, b, seed=seed), np.stack(expected))
    whole = arithmetic.gemm(a[0].numpy(), b[0].numpy(), seed=seed)
    assert np.array_equal(qt.gemm(arithmetic, a[0], b[0], seed=seed), whole)
    turned = qt.gemm(arithmetic, a[0].T.contiguous().T, b[0].T.contiguous().T, seed=seed)
    assert np.array_equal(turned, whole)
    assert not qt.gemm(arithmetic, a[0][:, :0], b[0][:0], seed=seed).int().any()  # of no products: +0
    assert qt.batched_gemm(arithmetic, a[:0], b[:0], seed=seed).shape == (0, 9, 5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_without_a_break_in_the_graph(backend: str) -> None:
    fp8, fp16 = quaver.FP8, quaver.FP16

    def step(x: torch.Tensor) -> torch.Tensor:
        a = qt.encode(2 * x, fp8)
        c = qt.gemm(NEAREST, a, a.T)
        d = qt.batched_gemm(STOCHASTIC, a[None], a.T[None], seed=3)[0]
        return qt.decode(c, fp16) + qt.decode(d, "fp16") + qt.round(x @ x.T, "e4m3")

    x = torch.randn(6, 8, requires_grad=True)
    y = step(x)
    compiled = torch.compile(step, fullgraph=True, backend=backend)(x)
    assert compiled.equal(y)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.autograd.grad(compiled.sum(), x)[0].equal(gradient)


def test_operators_say_the_truth_about_themselves() -> None:
    x, c = torch.randn(4, 6), codes(quaver.FP8, 4, 6)
    torch.library.opcheck(functions.encode_op, (x, "fp8", "nearest"))
    torch.library.opcheck(functions.decode_op, (c, "fp8"))
    torch.library.opcheck(functions.round_op, (x.requires_grad_(), "fp16", "nearest"))
    torch.library.opcheck(functions.gemm_op, (c, c.T, functions.arithmetic_text(NEAREST), None, ""))
    images, kernels, view = (
        codes(quaver.FP8, 2, 4, 5, 6),
        codes(quaver.FP8, 2, 3, 12),
        [3, 2, 2, 5, 2, 1] + [1] * 6,
    )
    about = view, functions.arithmetic_text(NEAREST), "evaluation"
    torch.library.opcheck(functions.image_gemm_op, (kernels, images, *about, False, False))
    torch.library.opcheck(functions.image_gemm_op, (kernels.mT, images, *about, True, True))
    errors = codes(quaver.FP8, 2, 20, 3)
    torch.library.opcheck(functions.image_gemm_op, (errors, images, *about, True, False))
    torch.library.opcheck(functions.float32_gemm_op, (x.detach(), x.detach().T))


def test_a_gradient_goes_straight_through_round() -> None:
    x = torch.randn(5, requires_grad=True)
    qt.round(x, "fp8").backward(torch.arange(5.0))
    assert x.grad is not None
    assert x.grad.equal(torch.arange(5.0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: qt.gemm(NEAREST, torch.randn(2, 3), torch.randn(3, 2)), TypeError, "float32.*unsigned"),
        (
            lambda: qt.gemm(FIXED, torch.full((2, 2), 70_000), torch.ones(2, 2).int(), seed=1),
            ValueError,
            "70000",
        ),
        (lambda: qt.decode(torch.tensor([-1]), "fp8"), ValueError, "-1.*0 … 255"),
        (lambda: qt.gemm(NEAREST, *[torch.zeros(2, 3).byte()] * 2), ValueError, "disagree on K"),
        (lambda: qt.gemm(NEAREST, *[torch.zeros(2, 2, 2).byte()] * 2), ValueError, "batched_gemm"),
        (lambda: qt.batched_gemm(NEAREST, *[torch.zeros(2, 2).byte()] * 2), ValueError, r"\(batch, M, K\)"),
        (lambda: qt.gemm(STOCHASTIC, *[torch.zeros(2, 2).byte()] * 2), ValueError, "need one of 1"),
        (lambda: qt.gemm(NEAREST, *[torch.zeros(2, 2).byte()] * 2, seed=1), ValueError, "leave it out"),
        (lambda: qt.gemm("fp8", *[torch.zeros(2, 2).byte()] * 2), TypeError, "quaver.ARITHMETICS"),
        (lambda: qt.encode(torch.tensor([torch.nan]), "q8.8"), ValueError, "NaN"),
        (lambda: qt.encode(torch.ones(2), "e5"), ValueError, "e5"),
        (lambda: qt.encode(torch.ones(2), 8), TypeError, "a Format or a name"),
        (lambda: qt.encode(torch.ones(2), "fp8", "up"), ValueError, "up"),
        (lambda: qt.encode(torch.ones(2).cfloat(), "fp8"), TypeError, "complex64"),
        (lambda: qt.encode(torch.ones(2), "fp8", "stochastic"), ValueError, "needs random"),
        (
            lambda: qt.gemm(NEAREST, torch.zeros(2, 2).byte(), torch.zeros(2, 2, device="meta").byte()),
            ValueError,
            "a on cpu and b on meta",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "name",
    [
        *("encode", "decode", "round", "gemm", "drawing_gemm", "image_gemm", "drawing_image_gemm"),
        *("float32_gemm", "add_bias", "widen"),
    ],
)
def test_a_gpu_has_a_place_in_every_operator(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"quaver::{name}", "CUDA")


def test_engines_nest_and_go() -> None:
    a, outer, inner = codes(quaver.FP8, 4, 4), Spy(), Spy()
    with qt.engine(outer):
        with qt.engine(inner):
            qt.gemm(NEAREST, a, a)
        assert not hasattr(outer, "operands")
        with pytest.raises(RuntimeError), qt.engine(inner):
            raise RuntimeError
        qt.gemm(NEAREST, a, a)
    assert hasattr(outer, "operands")


class Wrong(quaver.GoldenEngine):
    """Spoils one bit of one result."""

    def gemm(self, *args: Any, **options: Any) -> Any:
        c = super().gemm(*args, **options)
        c[1, 2] ^= 1
        return c


def test_compare_finds_one_bit() -> None:
    a = codes(quaver.FP8, 4, 4)
    good = qt.compare(lambda: qt.gemm(NEAREST, a, a), quaver.GoldenEngine(), quaver.GoldenEngine())
    assert good.equal
    assert good.codes == 16
    bad = qt.compare(lambda: qt.gemm(NEAREST, a, a), quaver.GoldenEngine(), Wrong())
    assert bad.mismatches == 1
    assert bad.first is not None
    assert bad.first.index == (1, 2)
    with pytest.raises(ValueError, match="nothing called an engine"):
        qt.compare(lambda: None, quaver.GoldenEngine(), quaver.GoldenEngine())


def test_seeds() -> None:
    qt.manual_seed(5)
    first = functions.SEEDS.next()
    assert first == numbered_seed(5, 1)
    functions.SEEDS.next(training=False)
    assert functions.SEEDS.next() == numbered_seed(5, 2)
    with qt.seeded(5):
        assert functions.SEEDS.next() == first
    assert functions.SEEDS.next() == numbered_seed(5, 3)
    with pytest.raises(ValueError, match="seed is 0"):
        qt.manual_seed(0)
    qt.manual_seed(1)
