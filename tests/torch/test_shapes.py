"""The GEMMs of a model, read off one forward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from resnet import ResNet
from test_equal_to_golden import MODELS
from torch import nn

import quaver
import quaver.torch as qt
from quaver.golden.planning.networks import resnet18_imagenet, trained_here


def test_resnet18_is_the_one_of_the_paper() -> None:
    mine = qt.shapes(ResNet(1000), torch.zeros(1, 3, 224, 224), batch=256).layers
    theirs = resnet18_imagenet().layers
    assert [replace(layer, name="") for layer in mine] == [replace(layer, name="") for layer in theirs]
    assert mine[0].name == "conv1"
    assert mine[-1].name == "fc"


@pytest.mark.parametrize("name", MODELS)
def test_goldens_models(name: str) -> None:
    mine = qt.shapes(MODELS[name](), torch.zeros(3, 1, 8, 8)).layers
    theirs = trained_here(f"{name}-digits").layers
    assert [replace(layer, name="") for layer in mine] == [replace(layer, name="") for layer in theirs]


def test_groups_tokens_and_attention() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3, groups=2), nn.Flatten(1), nn.Linear(8 * 8, 5))
    shape = qt.shapes(model.train(), torch.zeros(2, 4, 10), name="groups", batch=7)
    assert (shape.name, shape.batch) == ("groups", 7)
    assert [(s.forward, s.backward, s.gradient(7)) for s in shape.layers] == [(6, 12, 56), (64, 5, 7)]
    assert all(module.training for module in model.modules())
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    names = [s.name for s in qt.shapes(layer, torch.zeros(2, 5, 8)).layers]
    assert names == ["self_attn", "self_attn.out_proj", "linear1", "linear2"]
    qt.convert(layer, quaver.recipes.fp8)
    assert [s.name for s in qt.shapes(layer, torch.zeros(2, 5, 8)).layers] == names


def test_a_plan_is_made_of_them() -> None:
    plan = quaver.plan(qt.shapes(ResNet(10, width=8), torch.zeros(2, 3, 32, 32), batch=128))
    assert plan.batch == 128
    assert len(plan.layers) == 21
    assert len(plan.layers[0].gemms) == 2  # nothing learns before the first


def test_nothing_to_plan() -> None:
    with pytest.raises(ValueError, match="nothing to plan"):
        qt.shapes(nn.Sequential(nn.ReLU()), torch.zeros(1, 2))
