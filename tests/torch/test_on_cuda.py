"""What a GPU does with tensors, tried where there is none on tensors of the CPU, with g++'s build of the
kernels; and on the GPU itself (`make test-gpu`)."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch
from processor_tensors import OnProcessor
from torch import nn

import quaver
import quaver.torch as qt
from quaver.golden.kernels.cuda import source
from quaver.golden.kernels.cuda.engine import CudaEngine
from quaver.golden.lfsr import numbered_seed
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import UpdatePrecision
from quaver.golden.rounding import Rounding
from quaver.golden.update import FixedSGD, FloatSGD
from quaver.torch import between, between_on_cuda, cuda, functions, numerics, on_cuda, optimisers
from quaver.torch.functions import arithmetic_text

NEAREST, STOCHASTIC = quaver.ChunkedFloat(), quaver.ChunkedFloat(rounding="stochastic")
ARITHMETICS = [
    NEAREST,
    STOCHASTIC,
    quaver.FixedPoint(),
    quaver.ChunkedFloat(quaver.FloatFormat(4, 6), quaver.FP16),
]


def drawn(fmt: Any, *shape: int) -> torch.Tensor:
    found = np.random.default_rng(1).integers(0, 1 << fmt.width, shape).astype(fmt.code_dtype)
    return torch.from_numpy(found)


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
def test_gemms_are_goldens(arithmetic: Any, machine: OnProcessor) -> None:
    text, seed = arithmetic_text(arithmetic), 7 if arithmetic.stochastic else None
    a, b = drawn(arithmetic.a, 2, 9, 40), drawn(arithmetic.b, 2, 40, 6)
    assert on_cuda.gemm(a[0], b[0], text, seed).equal(qt.gemm(arithmetic, a[0], b[0], seed=seed))
    assert on_cuda.gemm(a, b, text, seed).equal(qt.batched_gemm(arithmetic, a, b, seed=seed))
    turned = a.mT.contiguous().mT, b.mT.contiguous().mT
    assert on_cuda.gemm(*turned, text, seed).equal(qt.batched_gemm(arithmetic, a, b, seed=seed))
    assert not on_cuda.gemm(a[0, :, :0], b[0, :0], text, seed).int().any()
    assert on_cuda.gemm(a[:0], b[:0], text, seed).shape == (0, 9, 6)


def test_a_batch_larger_than_a_grid(machine: OnProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cuda, "MOST_PRODUCTS", 2)
    a, b = drawn(quaver.FP8, 5, 3, 8), drawn(quaver.FP8, 5, 8, 2)
    found = on_cuda.gemm(a, b, arithmetic_text(STOCHASTIC), 3)
    assert found.equal(qt.batched_gemm(STOCHASTIC, a, b, seed=3))


@pytest.mark.parametrize("name", ["fp8", "fp16", "dlfloat", "q4.12"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_casts_are_goldens(name: str, dtype: torch.dtype, machine: OnProcessor) -> None:
    x = (torch.randn(13, 40, generator=torch.Generator().manual_seed(1)) * 5).to(dtype).T
    draws = torch.from_numpy(quaver.LFSR(1).draws(x.numel(), 16).reshape(x.shape))
    for rounding, random in (("nearest", None), ("truncate", None), ("stochastic", draws)):
        codes = functions.encode(x, name, rounding, random=random)
        assert on_cuda.encode(x, name, rounding, random).equal(codes)
        assert on_cuda.round(x, name, rounding, random).equal(qt.decode(codes, name))
        assert on_cuda.decode(codes.T, name).equal(qt.decode(codes, name).T)
    assert on_cuda.encode(x[:0], name, "nearest").equal(functions.encode(x[:0], name))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fp8", dict(padding=1, stride=2)),
        ("fp8", dict(kernel_size=(3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 1))),
        ("fp8", dict(kernel_size=1, stride=3)),
        ("fp8-stochastic", dict(groups=2, padding="same")),
        ("fixed16", dict(padding=1, stride=2)),
        ("pact-4", dict(padding=1, stride=2)),
    ],
    ids=str,
)
def test_convolutions_take_codes_from_the_images(
    name: str, options: dict[str, Any], machine: OnProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, backward and gradient GEMMs by the loader's im2col: equal bits, no columns in memory."""
    recipe = recipes.RECIPES[name]
    torch.manual_seed(1)
    layer = qt.Conv2d(4, 6, **{"kernel_size": 3, **options}, recipe=recipe)
    x = torch.randn(2, 4, 7, 8).to(memory_format=torch.channels_last)

    def step() -> list[torch.Tensor]:
        inputs = x.clone().requires_grad_()
        with qt.seeded(3):
            y = layer(inputs)
            gradients = torch.autograd.grad(y, (inputs, layer.weight), torch.cos(y.detach()))
        return [y.detach(), *gradients]

    def on_gpu(*arguments: Any) -> torch.Tensor:
        operators.append(arguments)
        return functions._image_gemm_on_cuda(*arguments)

    expected, operators = step(), []
    monkeypatch.setattr(numerics, "image_gemm_op", on_gpu)
    monkeypatch.setattr(numerics, "drawing_image_gemm_op", on_gpu)
    monkeypatch.setattr(on_cuda, "MOST_PRODUCTS", 1)  # group by group
    if name != "pact-4":
        monkeypatch.delattr(on_cuda.View, "columns")
    assert all(one.equal(other) for one, other in zip(step(), expected, strict=True))
    assert len(operators) == (1 if name == "pact-4" else 3)


def test_bad_input_is_the_cpus_error(machine: OnProcessor) -> None:
    x, a, b, text = (
        torch.randn(4),
        drawn(quaver.FP8, 3, 4),
        drawn(quaver.FP8, 5, 6),
        arithmetic_text(STOCHASTIC),
    )
    six = arithmetic_text(quaver.ChunkedFloat(quaver.FloatFormat(3, 2)))
    images = torch.full((1, 1, 2, 2), 64, dtype=torch.uint8)
    view = on_cuda.View((1, 1), (2, 2), (1, 1), (0, 0), (1, 1))
    for wrong, error, words in (
        (lambda: on_cuda.gemm(a, b, text, 1), ValueError, "disagree on K"),
        (lambda: on_cuda.gemm(a, a.T, text, None), ValueError, "need one of 1"),
        (lambda: on_cuda.gemm(a, a.T, arithmetic_text(NEAREST), 1), ValueError, "draws nothing"),
        (lambda: on_cuda.gemm(a, a.T, six, None), ValueError, "a holds [0-9]+, but codes of"),
        (lambda: on_cuda.gemm(x[None], x[:, None], text, 1), TypeError, "codes are unsigned"),
        (lambda: on_cuda.decode(torch.tensor([256]), "fp8"), ValueError, "codes holds 256"),
        (lambda: on_cuda.encode(x, "fp8", "nearest", x.int()), ValueError, "takes none"),
        (lambda: on_cuda.encode(x, "fp8", "stochastic"), ValueError, "needs random"),
        (
            lambda: on_cuda.encode(x, "fp8", "stochastic", torch.full((4,), 1 << 16)),
            ValueError,
            "random holds",
        ),
        (
            lambda: on_cuda.encode(x, "fp8", "stochastic", torch.zeros(3).int()),
            ValueError,
            "one draw for each",
        ),
        (lambda: on_cuda.encode(x > 0, "fp8", "nearest"), TypeError, "dtype torch.bool"),
        (lambda: on_cuda.encode(x / 0 * 0, "q4.12", "nearest"), ValueError, "hold NaN"),
        (lambda: on_cuda.encode(torch.tensor([1 << 60]), "fp8", "nearest"), ValueError, "beyond"),
        (lambda: on_cuda.encode(torch.tensor([-1 << 63]), "fp8", "nearest"), ValueError, "beyond"),
        (
            lambda: on_cuda.encode(torch.tensor([-1]).view(torch.uint64), "fp8", "nearest"),
            ValueError,
            "beyond",
        ),
        (
            lambda: on_cuda.image_gemm(a[None, :, :1], images, view, six, None, first=False, turned=False),
            ValueError,
            "images holds [0-9]+, but codes of",
        ),
    ):
        with pytest.raises(error, match=words):
            wrong()


@pytest.mark.parametrize("format", [None, "fp16"])
def test_between_gemms(format: str | None, machine: OnProcessor) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, 5, 2, generator=generator)
    error, scale, shift = torch.randn(x.shape, generator=generator), torch.rand(3), torch.rand(3)
    statistics = between.batch_statistics_op(x)
    torch.testing.assert_close(between_on_cuda.batch_statistics(x), statistics, rtol=1e-14, atol=1e-15)
    running = torch.rand(2, 3)
    for momentum in (0.1, None):
        about = running, statistics, 40, momentum, torch.tensor(3)
        assert between_on_cuda.running_statistics(*about).equal(between.running_statistics_op(*about))
    logits, labels = torch.randn(7, 5, generator=generator), torch.arange(7) % 5
    torch.testing.assert_close(
        between_on_cuda.cross_entropy(logits, labels),
        between.cross_entropy_op(logits, labels),
        rtol=1e-14,
        atol=0,
    )
    # Element by element the bits are golden's; sums round alike unless a value lies at a tie.
    for name, arguments in {
        "rounded": (error, format),
        "widen": (error,),
        "add_bias": (x, shift, format),
        "bias_gradient": (error, format),
        "batch_norm": (x, scale, shift, statistics, 1e-5, format),
        "batch_norm_backward": (error, x, scale, statistics, 1e-5, True, format),
        "cross_entropy_error": (logits, labels, torch.tensor(8.0), format),
    }.items():
        found = getattr(between_on_cuda, name)(*arguments)
        expected = getattr(between, f"{name}_op")(*arguments)
        for one, other in zip(
            *((t if isinstance(t, tuple) else (t,)) for t in (found, expected)), strict=True
        ):
            assert one.dtype == other.dtype, name
            assert one.equal(other), name
    with pytest.raises(ValueError, match="labels hold 5"):
        between_on_cuda.cross_entropy(logits, labels + 1)
    for cross_entropy in (between_on_cuda.cross_entropy, between.cross_entropy_op):
        with pytest.raises(ValueError, match=r"\(0, 5\), no example"):
            cross_entropy(logits[:0], labels[:0])


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


@pytest.mark.parametrize(("kind", "name"), [(qt.SGD, "fp8"), (qt.Adam, "fp8"), (qt.SGD, "fixed16")])
def test_a_training_step_has_the_cpus_bits(
    kind: Any, name: str, machine: OnProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps: GEMMs by `CudaEngine`, updates on tensors."""
    recipe: Any = quaver.recipes.RECIPES[name]
    x, labels = torch.randn(6, 1, 8, 8), torch.arange(6)

    def trained(on_gpu: bool) -> tuple[nn.Module, Any]:
        model = network()
        qt.convert(model, recipe)
        optimiser = kind(model.parameters(), recipe, lr=0.05, weight_decay=0.01)
        with qt.seeded(5), qt.engine(CudaEngine(machine) if on_gpu else quaver.GoldenEngine()):
            for _ in range(3):
                optimiser.zero_grad()
                optimiser.scale(qt.cross_entropy(model(x), labels, recipe)).backward()
                optimiser.step()
        return model, optimiser

    model, optimiser = trained(on_gpu=True)
    monkeypatch.setattr(optimisers.Optimiser, "_on_gpu", lambda self, p: False)
    expected, golden = trained(on_gpu=False)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert one.equal(other)
        for each in kind.momenta:
            assert optimiser.state[one][each].equal(golden.state[other][each])


def test_an_update_whose_rounding_has_no_kernel_is_refused_when_the_optimiser_is_made(
    machine: OnProcessor,
) -> None:
    recipe = recipes.fp8.replace(update=UpdatePrecision(rounding=Rounding.STOCHASTIC_C))
    with pytest.raises(ValueError, match="rounding is stochastic-c, but the CUDA kernels round nearest"):
        qt.SGD(network().parameters(), recipe)


def test_nvrtc_compiles_the_programs() -> None:
    """It needs no GPU: that the source is CUDA's C++, too."""
    pytest.importorskip("cuda.core", reason="cuda-core is not installed; pip install 'cuda-core>=1'")
    try:
        cuda.compiled(source.cast_program(quaver.FP8), "sm_90")
    except Exception as error:
        pytest.skip(f"there is no NVRTC here ({type(error).__name__})")
    for program in (
        source.chunked_program(NEAREST, source.Tiling()),
        source.chunked_program(STOCHASTIC, source.Tiling(4, step=8)),
        source.chunked_program(NEAREST, None),
        source.fixed_program(quaver.FixedPoint(), source.Tiling(4, step=8)),
        source.adacomp_program(),
        source.update_program(FloatSGD(0.1)),
        source.update_program(FixedSGD(0.1)),
    ):
        assert cuda.compiled(program, "sm_80")
    with pytest.raises(RuntimeError, match="NVRTC does not compile for sm_80"):
        cuda.compiled(source.Program("nonsense", ()), "sm_80")


@pytest.mark.parametrize("name", ["fp8", "half", "dlfloat"])
@pytest.mark.parametrize("rounding", ["nearest", "truncate", "stochastic"])
def test_nan_and_infinities_are_the_cpus(name: str, rounding: str, machine: OnProcessor) -> None:
    x = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-45, -3e38])
    random = torch.arange(8) << 13 if rounding == "stochastic" else None
    codes = functions.encode(x, name, rounding, random=random)
    assert on_cuda.encode(x, name, rounding, random).equal(codes)
    found, expected = on_cuda.round(x, name, rounding, random), qt.decode(codes, name)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    numbers = ~expected.isnan()
    assert found.signbit()[numbers].equal(expected.signbit()[numbers])


class Full(OnProcessor):
    """Has memory for so many arrays, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    def empty(self, *about: Any) -> torch.Tensor:
        if not self.left:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.left -= 1
        return super().empty(*about)


@pytest.mark.parametrize("kind", [qt.SGD, qt.Adam])
def test_a_step_out_of_memory_never_was(
    kind: Any, machine: OnProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in it memory ends, nothing has changed; with memory again it has the bits that it would
    have had."""
    recipe: Any = quaver.recipes.RECIPES["fp8"]
    torch.manual_seed(1)
    models = [nn.Linear(4, 3)]
    models.append(copy.deepcopy(models[0]))
    optimisers_ = [kind(model.parameters(), recipe, lr=0.05) for model in models]
    full = Full()

    def step(which: int, arrays: int) -> None:
        for p in models[which].parameters():
            p.grad = torch.ones_like(p)
        full.left = arrays
        optimisers_[which].step()

    def state() -> tuple[Any, Any]:
        about = optimisers_[1].state_dict()
        return about.pop("quaver"), (models[1].state_dict(), about["state"])

    monkeypatch.setattr(cuda, "find_machine", lambda device: full)
    with qt.seeded(5):
        step(0, 1000)
        step(0, 1000)
    with qt.seeded(5):
        step(1, 1000)
        before = copy.deepcopy(state())
        for arrays in range(1000):
            try:
                step(1, arrays)
            except torch.OutOfMemoryError:
                assert state()[0] == before[0]
                torch.testing.assert_close(state()[1], before[1], rtol=0, atol=0)
            else:
                break
    assert arrays > 10
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert one.equal(other)


def test_mixed_devices_are_refused_before_a_kernel_reads(machine: OnProcessor) -> None:
    """PyTorch's dispatcher takes a CPU tensor beside a CUDA tensor to the CUDA kernel."""
    a, x, text = drawn(quaver.FP8, 4, 4), torch.randn(4), arithmetic_text(NEAREST)
    view = on_cuda.View((1, 1), (2, 2), (1, 1), (0, 0), (1, 1))
    other, images = a[None, :, :1], a.reshape(1, 1, 4, 4).to("meta")
    for wrong, words in (
        (lambda: on_cuda.gemm(a, a.to("meta"), text, None), "a on cpu and b on meta"),
        (
            lambda: on_cuda.image_gemm(other, images, view, text, None, first=False, turned=False),
            "other on cpu and images on meta",
        ),
        (lambda: on_cuda.encode(x, "fp8", "stochastic", x.int().to("meta")), "random on meta"),
        (lambda: on_cuda.update(FloatSGD(0.1), a, a, a.to("meta"), seed=1), "gradients on meta"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


def test_a_gpu_that_does_not_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too old, not there, or without cuda-core: what PyTorch says of a GPU is put in its place."""
    capability = [7, 5]
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "Tesla T4",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: tuple(capability))
    with pytest.raises(RuntimeError, match=r"cuda:0 is a Tesla T4 .* 7\.5, but .* need 8\.0 .*on the CPU"):
        cuda.Gpu()
    with pytest.raises(RuntimeError, match="device is cuda:3, but there are 1 GPUs"):
        cuda.Gpu("cuda:3")
    capability[:] = 9, 0
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(RuntimeError, match=r"need cuda-core .*pip install"):
        cuda.Gpu()


def test_without_cuda_the_error_says_what_to_do() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="PyTorch has no CUDA here"):
        cuda.Gpu()
    with pytest.raises(RuntimeError, match="CUDA kernels run on cuda"):
        cuda.Gpu("cpu")


# On a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
def test_gemms_on_the_gpu(arithmetic: Any, gpu: torch.device) -> None:
    seed = 7 if arithmetic.stochastic else None
    for M, K, N in ((1, 1, 1), (300, 700, 200), (64, 147, 5000), (576, 20000, 64)):
        a, b = drawn(arithmetic.a, M, K), drawn(arithmetic.b, K, N)
        found = qt.gemm(arithmetic, a.to(gpu), b.to(gpu), seed=seed).cpu()
        assert found.equal(qt.gemm(arithmetic, a, b, seed=seed)), (M, K, N)
    batch = [x.to(gpu) for x in (drawn(arithmetic.a, 3, 9, 40), drawn(arithmetic.b, 3, 40, 6))]
    expected = [
        arithmetic.gemm(a.cpu().numpy(), b.cpu().numpy(), seed=seed and numbered_seed(seed, i))
        for i, (a, b) in enumerate(zip(*batch, strict=True))
    ]
    assert np.array_equal(qt.batched_gemm(arithmetic, *batch, seed=seed).cpu().numpy(), np.stack(expected))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp8", "fp16", "e4m3", "half", "bfloat16", "fp32", "dlfloat", "q4.12"])
def test_casts_on_the_gpu(name: str, gpu: torch.device) -> None:
    x = torch.randn(1 << 20, dtype=torch.float64) * 100
    for values in (x, x.float(), x.half(), x.bfloat16()):
        codes = qt.encode(values, name)
        assert qt.encode(values.to(gpu), name).cpu().equal(codes)
        assert qt.decode(codes.to(gpu), name).cpu().equal(qt.decode(codes, name))
    draws = torch.from_numpy(quaver.LFSR(1).draws(x.numel(), 16))
    found = qt.encode(x.to(gpu), name, "stochastic", random=draws.to(gpu))
    assert found.cpu().equal(qt.encode(x, name, "stochastic", random=draws))


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["fp8", "fixed16"])
def test_ten_steps_on_the_gpu(recipe: str, gpu: torch.device) -> None:
    """No batch normalisation, biases without long sums: every bit is the CPU's."""
    how: Any = quaver.recipes.RECIPES[recipe]
    x, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    model = network()
    qt.convert(model, how)
    models = [model, copy.deepcopy(model).to(gpu)]
    for one in models:
        device = next(one.parameters()).device
        optimiser = qt.SGD(one.parameters(), how, lr=0.05)
        with qt.seeded(5):
            for _ in range(10):
                optimiser.zero_grad()
                optimiser.scale(qt.cross_entropy(one(x.to(device)), labels.to(device), how)).backward()
                optimiser.step()
    for one, other in zip(*(m.parameters() for m in models), strict=True):
        assert one.equal(other.cpu())


@pytest.mark.gpu
def test_golden_networks_on_the_gpu(gpu: torch.device) -> None:
    engine, rng = CudaEngine(cuda.Gpu(gpu)), np.random.default_rng(1)
    a, b = (quaver.FP8.encode(rng.normal(size=shape)) for shape in ((70, 300), (300, 90)))
    assert np.array_equal(engine.gemm(STOCHASTIC, a, b, seed=4), STOCHASTIC.gemm(a, b, seed=4))


@pytest.mark.gpu
def test_mixed_devices_are_refused(gpu: torch.device) -> None:
    a = drawn(quaver.FP8, 4, 4)
    with pytest.raises(ValueError, match="must be on one device"):
        qt.gemm(NEAREST, a, a.to(gpu))
