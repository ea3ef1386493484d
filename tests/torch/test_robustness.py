"""Whatever else a program does with PyTorch around Quaver: no result changes, nothing breaks."""

from __future__ import annotations

import copy
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from shakespeare import CharacterTransformer
from test_convert import small_resnet
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import quaver
import quaver.torch as qt
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import Recipe

#: Subnormal bfloat16 numbers are subnormal in float32 too, and float32's flushing would be seen.
TINY = recipes.fp8.replace(name="tiny", elementwise=quaver.BFLOAT16)
STOCHASTIC = recipes.fp8.with_gemms("fp8-stochastic", rounding="stochastic")


def train(recipe: Recipe, wrap: Callable[[], AbstractContextManager[object]] = nullcontext) -> list[Tensor]:
    """Logits, gradients and weights of two steps of two models, with `wrap` around each forward pass."""
    torch.manual_seed(1)
    qt.manual_seed(1)
    results = []
    for model, x in (
        (small_resnet(), torch.randn(4, 3, 9, 9)),
        (CharacterTransformer(20, 8, 16, 2, 1), torch.randint(20, (4, 8))),
    ):
        qt.convert(model, recipe)
        optimiser = qt.SGD(model.parameters(), recipe, lr=0.05)
        for _ in range(2):
            with wrap():
                logits = model(x)
            loss = qt.cross_entropy(logits.reshape(4, -1)[:, :3], torch.tensor([0, 1, 2, 0]), recipe)
            optimiser.zero_grad()
            optimiser.scale(loss).backward()
            optimiser.step()
            results += [logits.detach(), *(p.grad for p in model.parameters())]
        results += [p.detach() for p in model.parameters()]
    return results


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.equal(b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@contextmanager
def flushing() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush subnormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("recipe", [recipes.fp8, STOCHASTIC, recipes.fixed16], ids=lambda r: r.name)
def test_flushed_subnormals(recipe: Recipe) -> None:
    expected = train(recipe)
    with flushing():
        assert same(train(recipe), expected)


def test_flushed_subnormals_between_gemms() -> None:
    x = torch.ldexp(torch.randn(50, generator=torch.Generator().manual_seed(1)), torch.tensor(-128))

    def results() -> list[Tensor]:
        y, w = x.clone().requires_grad_(), x.clone()
        with qt.elementwise(TINY):
            z = 0.5 * y + w
        z.backward(x)
        return [z.detach(), y.grad, qt.round(x, "bfloat16"), qt.decode(qt.encode(x, "bfloat16"), "bfloat16")]

    expected = results()
    assert (expected[0].view(torch.int32) & 0x7F800000 == 0).sum() > 10
    with flushing():
        found = results()
    assert [a.view(torch.int32).equal(b.view(torch.int32)) for a, b in zip(found, expected, strict=True)] == [
        True
    ] * 4


@pytest.mark.parametrize("recipe", [recipes.fp8, recipes.fp32], ids=lambda r: r.name)
def test_autocast(recipe: Recipe) -> None:
    if recipe is recipes.fp32:  # what Quaver does not compute is PyTorch's to cast: here, one layer
        layer, x = qt.Linear(4, 3, recipe=recipe), torch.randn(2, 4)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).equal(layer(x.clone()))
        with torch.autocast("cpu", torch.bfloat16):
            inside = layer(x)
        assert inside.equal(layer(x))
        return
    assert same(train(recipe, lambda: torch.autocast("cpu", torch.bfloat16)), train(recipe))


def test_inference_mode_and_no_grad() -> None:
    torch.manual_seed(1)
    model, x = small_resnet().eval(), torch.randn(2, 3, 9, 9)
    qt.convert(model, recipes.fp8)
    expected = model(x)
    with torch.inference_mode():
        assert model(x).equal(expected)
        assert model(torch.randn(2, 3, 9, 9)).is_inference()
    with torch.no_grad():
        assert model(x).equal(expected)
    model.train()
    model(x).sum().backward()


@pytest.mark.parametrize("kind", [qt.SGD, qt.Adam])
def test_deepcopied_a_run_goes_on_alike(kind: type) -> None:
    recipe = recipes.fp8
    torch.manual_seed(1)
    model, x = small_resnet(), torch.randn(4, 3, 9, 9)
    qt.convert(model, recipe)

    def step(model: nn.Module, optimiser: qt.SGD) -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0]))
        optimiser.scale(loss).backward()
        optimiser.step()
        return loss.detach()

    optimiser = kind(model.parameters(), recipe)
    step(model, optimiser)
    twin, other = copy.deepcopy((model, optimiser))
    with qt.seeded(3):
        losses = [step(model, optimiser) for _ in range(2)]
    with qt.seeded(3):
        assert [step(twin, other) for _ in range(2)] == losses
    assert same(list(twin.state_dict().values()), list(model.state_dict().values()))


class Encoded(Dataset[Tensor]):
    """Encodes, multiplies and draws in the process that loads data."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return product(index)


def product(index: int) -> Tensor:
    x = torch.randn(400, 300, generator=torch.Generator().manual_seed(index))
    codes = qt.encode(x, "fp8")
    how = quaver.ChunkedFloat(rounding="stochastic")
    return qt.decode(qt.gemm(how, codes, codes.T, seed=index + 1), "fp16")


@pytest.mark.filterwarnings("ignore:.*fork")
def test_data_loaders_with_workers() -> None:
    expected = torch.stack([product(i) for i in range(4)])
    found = next(iter(DataLoader(Encoded(), batch_size=4, num_workers=2, timeout=120)))
    assert torch.nan_to_num(found).equal(torch.nan_to_num(expected))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_trains_the_same() -> None:
    expected = train(STOCHASTIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, on forking a process with threads
        child = os.fork()
    if child == 0:
        signal.alarm(120)  # better an error than a test that hangs
        torch.set_num_threads(
            1
        )  # PyTorch's own OpenMP hangs in a fork otherwise; its data loaders do the same
        try:
            os._exit(0 if same(train(STOCHASTIC), expected) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_and_memory_formats_and_default_dtypes() -> None:
    expected = train(recipes.fp8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert same(train(recipes.fp8), expected)
    finally:
        torch.set_num_threads(threads)
    torch.manual_seed(1)
    model, x = small_resnet(), torch.randn(2, 3, 9, 9)
    qt.convert(model, recipes.fp8)
    y = model(x)
    assert model(x.to(memory_format=torch.channels_last)).equal(y)
    assert copy.deepcopy(model).to(memory_format=torch.channels_last)(x).equal(y)
    torch.set_default_dtype(torch.float64)
    try:
        assert model(x).equal(y)
        assert y.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_half_precision_activations_are_taken_exactly() -> None:
    layer, x = qt.Linear(4, 3, recipe=recipes.fp8), torch.randn(2, 4)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        narrow = x.to(dtype).requires_grad_()
        y = layer(narrow)
        assert y.equal(layer(narrow.detach().double().float()))
        y.sum().backward()
        assert narrow.grad.dtype == dtype
