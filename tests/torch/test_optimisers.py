"""Optimisers: loss scales, steps that overflow, state that resumes to the same bits."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quaver
import quaver.torch as qt
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import LossScale, Recipe, UpdatePrecision

FP8 = recipes.fp8
DYNAMIC = FP8.replace(name="dynamic", loss_scale=LossScale(8.0, grow_every=2))
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(16) % 3


def make(recipe: Recipe = FP8, kind: Any = qt.SGD, **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    qt.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    qt.convert(model, recipe)
    return model, kind(model.parameters(), recipe, **options)


def step(model: nn.Module, optimiser: Any, recipe: Recipe = FP8) -> float:
    loss = qt.cross_entropy(model(X), LABELS, recipe)
    optimiser.zero_grad()
    optimiser.scale(loss).backward()
    optimiser.step()
    return loss.item()


def bits(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", [qt.SGD, qt.Adam])
@pytest.mark.parametrize("recipe", [FP8, recipes.fp32, DYNAMIC, recipes.dlfloat], ids=lambda r: r.name)
def test_a_resumed_run_has_the_bits_of_one_uninterrupted(kind: Any, recipe: Recipe) -> None:
    model, optimiser = make(recipe, kind, weight_decay=1e-3)
    for _ in range(4):
        step(model, optimiser, recipe)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict()}, file)
    losses = [step(model, optimiser, recipe) for _ in range(4)]

    other, resumed = make(recipe, kind, lr=9.0)
    step(other, resumed, recipe)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    other.load_state_dict(stored["model"])
    resumed.load_state_dict(stored["optimiser"])
    assert [step(other, resumed, recipe) for _ in range(4)] == losses
    assert same(bits(other), bits(model))
    assert losses[-1] < losses[0]
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        for name in optimiser.momenta:
            assert resumed.state[q][name].equal(optimiser.state[p][name])


def test_weights_and_momenta_live_in_the_recipes_format() -> None:
    model, optimiser = make()
    for p in model.parameters():
        assert qt.round(p.detach(), "fp16").equal(p.detach())
    step(model, optimiser)
    for p in model.parameters():
        for value in (p.detach(), optimiser.state[p]["momentum_buffer"]):
            assert qt.round(value, "fp16").equal(value)


def test_another_recipes_state_is_refused() -> None:
    model, optimiser = make()
    step(model, optimiser)
    state = optimiser.state_dict()
    _, other = make(FP8.replace(update=UpdatePrecision(quaver.FP16, "nearest")))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r'update.rounding is "stochastic" there, "nearest" here'):
        other.load_state_dict(state)
    assert str(other.state_dict()) == str(before)
    with pytest.raises(ValueError, match='optimiser is "sgd" there, "adam" here'):
        make(kind=qt.Adam)[1].load_state_dict(state)
    with pytest.raises(ValueError, match="another optimiser than Quaver's"):
        optimiser.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())


def test_an_overflow_skips_the_step_and_halves_a_dynamic_scale() -> None:
    model, optimiser = make(DYNAMIC)
    step(model, optimiser, DYNAMIC)
    before, state = bits(model), copy.deepcopy(optimiser.state_dict())
    loss = qt.cross_entropy(model(X), LABELS, DYNAMIC)
    optimiser.zero_grad()
    optimiser.scale(loss).backward()
    model[2].bias.grad[1] = torch.inf
    optimiser.step()
    assert same(bits(model), before)
    assert (optimiser.loss_scale, optimiser.good_steps, optimiser.skipped) == (4.0, 0, 1)
    after = optimiser.state_dict()
    assert str(after["state"]) == str(state["state"])
    assert after["quaver"]["seeds"] == state["quaver"]["seeds"]
    step(model, optimiser, DYNAMIC)
    step(model, optimiser, DYNAMIC)
    assert (optimiser.loss_scale, optimiser.good_steps) == (8.0, 0)


def test_a_dynamic_scale_has_a_floor() -> None:
    recipe = FP8.replace(loss_scale=LossScale(2.0**-13, grow_every=2))
    model, optimiser = make(recipe)
    before = bits(model)
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    with pytest.raises(RuntimeError, match="floor; the run has diverged"):
        optimiser.step()
    assert same(bits(model), before)


def test_a_constant_scale_stays() -> None:
    model, optimiser = make()
    assert optimiser.scale(torch.tensor(2.0)) == 2000
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.inf)
    optimiser.step()
    assert (optimiser.loss_scale, optimiser.skipped) == (1000.0, 1)


def test_interrupted_a_step_never_was() -> None:
    class Failing(quaver.GoldenEngine):
        calls = 0

        def update(self, *args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().update(*args, **options)

    model, optimiser = make()
    twin, untouched = make()
    before = bits(model)
    loss = qt.cross_entropy(model(X), LABELS, FP8)
    optimiser.scale(loss).backward()
    with pytest.raises(KeyboardInterrupt), qt.engine(Failing()):
        optimiser.step()
    assert same(bits(model), before)
    assert not optimiser.state
    step(model, optimiser)
    qt.manual_seed(1)
    step(twin, untouched)
    assert same(bits(model), bits(twin))


def test_frozen_parameters_and_groups() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    qt.convert(model, FP8)
    model[0].requires_grad_(False)
    groups = [
        {"params": model[0].parameters()},
        {"params": model[2].parameters(), "lr": 0.5, "momentum": 0.0},
    ]
    optimiser = qt.SGD(groups, FP8, lr=0.1)
    before = bits(model)
    step(model, optimiser)
    assert same(bits(model)[:2], before[:2])
    assert not any(a.equal(b) for a, b in zip(bits(model)[2:], before[2:], strict=True))


def test_schedulers_and_closures_are_pytorchs() -> None:
    model, optimiser = make(lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1e-3, total_iters=4)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = qt.cross_entropy(model(X), LABELS, FP8)
        optimiser.scale(loss).backward()
        return loss

    losses = []
    for _ in range(8):
        losses.append(optimiser.step(closure).item())
        scheduler.step()
    assert losses[-1] < losses[0]


def test_weights_that_something_else_changed_are_taken_up() -> None:
    model, optimiser = make()
    step(model, optimiser)
    with torch.no_grad():
        model[0].weight.fill_(1 / 3)
    step(model, optimiser)
    assert qt.round(model[0].weight.detach(), "fp16").equal(model[0].weight.detach())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make(lr=-1.0), ValueError, "lr is -1.0"),
        (lambda: make(lr=float("nan")), ValueError, "lr is nan"),
        (lambda: make(momentum=1.0), ValueError, "momentum is 1.0"),
        (lambda: make(kind=qt.Adam, betas=(0.9, 1.5)), ValueError, "second_momentum is 1.5"),
        (lambda: make(weight_decay=-1.0), ValueError, "weight decay is -1.0"),
        (lambda: make(recipes.fixed16, qt.Adam), ValueError, "fixed point updates by sgd only"),
        (lambda: qt.SGD([], FP8), ValueError, "empty parameter list"),
        (lambda: qt.SGD([nn.Parameter(torch.ones(2).double())], FP8), TypeError, "float64.*float32"),
        (
            lambda: make()[1].add_param_group({"params": nn.Parameter(torch.ones(2).half())}),
            TypeError,
            "float16.*float32",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_sparse_gradients_are_refused_before_anything_is_done() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    optimiser = qt.SGD(table.parameters(), FP8)
    before = bits(table)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse"):
        optimiser.step()
    assert same(bits(table), before)


@pytest.mark.parametrize(
    "damage", [{"seeds": {"seed": 0}}, {"seeds": None}, {"loss_scale": "?"}], ids=["seed", "none", "scale"]
)
def test_a_damaged_state_changes_nothing(damage: dict[str, Any]) -> None:
    model, optimiser = make(lr=0.1)
    step(model, optimiser)
    state = copy.deepcopy(optimiser.state_dict())
    state["param_groups"][0]["lr"] = 9.0
    state["state"][0]["momentum_buffer"] += 1
    state["quaver"] |= damage
    before = copy.deepcopy(optimiser.state_dict())
    with pytest.raises(ValueError, match="the state is damaged"):
        optimiser.load_state_dict(state)
    after = optimiser.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["quaver"] == before["quaver"]
    assert after["state"][0]["momentum_buffer"].equal(before["state"][0]["momentum_buffer"])


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("kind", [qt.SGD, qt.Adam])
def test_parameters_of_any_shape(kind: Any, on_gpu: bool, request: pytest.FixtureRequest) -> None:
    """A temperature has no axes, and a layer may have no elements."""
    if on_gpu:
        request.getfixturevalue("machine")
    scalar, none = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(0, 3))
    vector = nn.Parameter(torch.tensor([1.0]))
    for parameter in (scalar, vector):
        optimiser = kind([none, parameter], FP8, lr=0.1)
        none.grad, parameter.grad = torch.zeros(0, 3), torch.full_like(parameter, 100.0)
        with qt.seeded(1):
            for _ in range(3):
                optimiser.step()
    assert scalar.shape == ()
    assert scalar.item() == vector.item() < 1
