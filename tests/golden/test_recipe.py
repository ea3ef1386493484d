"""Recipes: one field an ablation, JSON there and back, bad combinations refused."""

import dataclasses
import json

import pytest

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.formats import E4M3, FP8, FP16, hfp8
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import LossScale, Precision, Recipe, Role, UpdatePrecision
from quaver.golden.rounding import Rounding


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda r: r.name)
def test_json_there_and_back(recipe):
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert str(again) == str(recipe)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "1",
        '{"is": "Recipe"}',
        '{"is": "FloatFormat", "exponent_bits": 5, "mantissa_bits": 2}',
        "{",
    ],
)
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="not a recipe"):
        Recipe.from_json(text)


def test_the_papers_recipe():
    fp8 = recipes.fp8
    for role in Role:
        assert getattr(fp8.hidden, role) == ChunkedFloat(FP8, FP16, 64)
        assert getattr(fp8.precision(last=True), role) == ChunkedFloat(FP16, FP16, 64)
    assert fp8.precision(first=True).forward.operand == FP16
    assert fp8.precision(first=True).weights == FP8
    assert fp8.precision(first=True, last=True) == fp8.last
    assert fp8.update == UpdatePrecision(FP16, Rounding.STOCHASTIC, 16)
    assert fp8.loss_scale == LossScale(1000.0)
    assert "chunk 64" in str(fp8)
    assert "chunk none" in str(recipes.fp8_no_chunks)


def test_each_ablation_changes_one_thing():
    def differing(recipe):
        return {
            f.name
            for f in dataclasses.fields(Recipe)
            if getattr(recipe, f.name) != getattr(recipes.fp8, f.name)
        } - {"name"}

    assert differing(recipes.fp8_nearest_update) == {"update"}
    assert differing(recipes.fp8_last_layer) == {"last"}
    assert differing(recipes.fp8_images) == {"first"}
    assert differing(recipes.fp8.with_gemms("fp8")) == set()
    no_chunks = recipes.fp8_no_chunks
    assert no_chunks.with_gemms("fp8", chunk=64) == recipes.fp8
    assert all(
        getattr(p, r).chunk > 1 << 24
        for p in (no_chunks.first, no_chunks.hidden, no_chunks.last)
        for r in Role
    )


def test_other_formats_are_one_field():
    hybrid = recipes.fp8.replace(
        hidden=Precision(
            forward=ChunkedFloat(operand=hfp8()),
            backward=ChunkedFloat(operand=FP16),
            gradient=ChunkedFloat(operand=FP16),
            inputs=hfp8(),
            weights=hfp8(),
            errors=FP8,
        )
    )
    assert Recipe.from_json(hybrid.to_json()) == hybrid


def test_a_cast_that_the_operand_does_not_hold():
    message = "{} are cast to {}, but the {} GEMM takes them as {}"
    with pytest.raises(ValueError, match=message.format("weights", E4M3, "forward", FP8)):
        Precision(forward=ChunkedFloat(operand=FP8), weights=E4M3)
    with pytest.raises(ValueError, match=message.format("errors", FP16, "gradient", FP8)):
        Precision(gradient=ChunkedFloat(operand=FP8), errors=FP16)


def test_bad_values():
    with pytest.raises(ValueError, match="the loss scale is 0"):
        LossScale(0)
    with pytest.raises(ValueError, match="grow_every is 0"):
        LossScale(1024, 0)
    with pytest.raises(ValueError, match="cast is stochastic"):
        recipes.fp8.replace(cast="stochastic")
    with pytest.raises(ValueError, match=r"did you mean fp8-hopper or fp8-hopper-fast\?"):
        recipes.recipe("fp8-hoper")
    with pytest.raises(ValueError, match="the recipe is 'fp4', but there are fp32, fp8"):
        recipes.recipe("fp4")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden", None, "hidden is None, but it must be Precision"),
        ("hidden", {"is": "LossScale"}, "hidden is LossScale"),
        ("elementwise", "FP16", "elementwise is 'FP16', but it must be FloatFormat or FixedFormat"),
        ("update", "FP16", "update is 'FP16', but it must be UpdatePrecision or FixedUpdatePrecision"),
        ("loss_scale", 1000, "loss_scale is 1000, but it must be LossScale"),
        ("loss_scale", {"is": "LossScale", "initial": "1000"}, "initial is '1000'"),
        (
            "loss_scale",
            {"is": "LossScale", "grow_every": 2.5},
            "grow_every is 2.5, but it must be an integer",
        ),
        ("update", {"is": "UpdatePrecision", "random_bits": "x"}, "random_bits is 'x'"),
        ("layers", {"linear1": 5}, "layers has 5 for linear1"),
        ("layers", ["linear1"], "layers is"),
        ("later", "fp8", "later is 'fp8', but it must be Recipe"),
        ("name", 5, "name is 5"),
        ("first", {"is": "Precision", "inputs": 5}, "inputs is 5"),
        ("first", {"is": "Precision", "forward": {"is": "LossScale"}}, "forward is LossScale"),
        ("first", {"is": "Precise"}, "'Precise', but there are .*Precision"),
        ("frist", None, "frist"),
        (
            "elementwise",
            {"is": "FloatFormat", "exponent_bits": 6, "mantissa_bits": 9, "saturate": "false"},
            "saturate is 'false', but it must be True or False",
        ),
        (
            "elementwise",
            {"is": "PackedFormat", "exponent_bits": 4, "mantissa_bits": 3, "saturate": 1},
            "saturate is 1, but it must be True or False",
        ),
        (
            "first",
            {"is": "Precision", "inputs": {"is": "Clip", "bits": 4, "learned": "no"}},
            "learned is 'no'",
        ),
        ("first", {"is": "Precision", "inputs": {"is": "Clip", "bits": 4, "signed": 2}}, "signed is 2"),
        ("first", {"is": "Precision", "inputs": {"is": "Clip", "bits": 4, "alpha": "3"}}, "alpha is '3'"),
        (
            "first",
            {"is": "Precision", "weights": {"is": "DoReFaWeights", "bits": 4, "scaled": "no"}},
            "scaled is 'no'",
        ),
    ],
)
def test_a_field_of_another_kind_is_named(field, value, message):
    plain = json.loads(recipes.fp8.to_json()) | {field: value}
    with pytest.raises(ValueError, match=f"not a recipe: .*{message}"):
        Recipe.from_json(json.dumps(plain))
