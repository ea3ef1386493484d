"""A model of PyTorch's on the simulated accelerator, held to the golden model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import quaver
import quaver.torch as qt
from quaver.golden.nn import recipes

RECIPE = recipes.fp8_everywhere


@pytest.fixture(scope="module")
def simulated() -> quaver.SimulatedEngine:
    return quaver.SimulatedEngine(rows=2, columns=2, stages=2, depth=64)


def training() -> tuple[nn.Module, Any]:
    """A small convolutional network, and a function that trains it one step."""
    torch.manual_seed(1)
    qt.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    qt.convert(model, RECIPE)
    optimiser = qt.SGD(model.parameters(), RECIPE)
    images, labels = torch.randn(4, 1, 3, 3), torch.tensor([0, 1, 2, 0])

    def step() -> float:
        loss = qt.cross_entropy(model(images), labels, RECIPE)
        optimiser.zero_grad()
        optimiser.scale(loss).backward()
        optimiser.step()
        return loss.item()

    return model, step


def test_a_step_on_the_simulated_accelerator_has_goldens_bits(simulated: quaver.SimulatedEngine) -> None:
    model, step = training()
    twin, other = training()
    cycles = simulated.cycles
    with qt.engine(simulated):
        losses = [step() for _ in range(2)]
    assert simulated.cycles > cycles
    qt.manual_seed(1)
    assert [other() for _ in range(2)] == losses
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.equal(q)


def test_compare_counts_every_code(simulated: quaver.SimulatedEngine) -> None:
    _, step = training()
    comparison = qt.compare(step, quaver.GoldenEngine(), simulated)
    assert comparison.equal
    roles = {tally.role: 0 for tally in comparison.tallies}
    for tally in comparison.tallies:
        roles[tally.role] += tally.calls
    assert roles == {"gemm": 5, "update": 4}  # nothing learns before the first layer
