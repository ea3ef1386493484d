"""ONNX models of trained networks: the same classes, the same integers where a kernel multiplies integers."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

from quaver.golden import data
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.engine import GoldenEngine
from quaver.golden.formats import FP16, IntegerFormat, Levels
from quaver.golden.nn import models, recipes
from quaver.golden.nn.layers import Conv2d
from quaver.golden.nn.quantisers import Clip, DoReFaWeights, Quantised
from quaver.golden.nn.recipe import Precision, Recipe
from quaver.golden.nn.run import Call, Run
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer

onnx = pytest.importorskip("onnx", reason="onnx, an optional extra, is not installed")
reference = pytest.importorskip("onnx.reference")
export = pytest.importorskip("quaver.golden.nn.onnx_export")


@cache
def trained(model: str, recipe: Recipe, steps: int = 44) -> Trainer:
    digits = data.load("digits")
    network = models.build(model, digits.shape, digits.classes)
    trainer = Trainer(network, digits, recipe, Settings(epochs=2, batch=32))
    for _ in range(steps):
        trainer.train_step()
    return trainer


def logits(trainer: Trainer, count: int, calls: list[Call] | None = None) -> np.ndarray:
    run = Run(trainer.recipe, GoldenEngine(), trace=None if calls is None else calls.append)
    run.training = False
    return trainer.network.forward(trainer.data.standardised(trainer.data.test_images[:count]), run)


@pytest.mark.parametrize(
    ("model", "recipe", "count"),
    [
        ("mlp", recipes.fp32, 360),
        ("mlp", recipes.pact[4], 360),
        ("mlp", recipes.pact_everywhere[2], 360),
        ("cnn", recipes.pact_sawb[3], 40),
        ("resnet8", recipes.pact[4], 40),
    ],
    ids=lambda of: getattr(of, "name", str(of)),
)
def test_the_same_class_on_every_test_image(model: str, recipe: Recipe, count: int) -> None:
    trainer = trained(model, recipe, 44 if model == "mlp" else 4)
    exported = export.to_onnx(trainer)
    session = reference.ReferenceEvaluator(exported)
    (got,) = session.run(None, {"images": trainer.data.test_images[:count]})
    wanted = logits(trainer, count)
    assert np.mean(got.argmax(1) == wanted.argmax(1)) >= (1.0 if recipe is recipes.fp32 else 0.99)
    assert np.median(np.abs(got - wanted)) <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        *(("mlp", family[4]) for family in (recipes.pact, recipes.pact_sawb, recipes.relu6)),
        *((model, recipes.pact_everywhere[4]) for model in ("mlp", "cnn", "resnet8")),
        *(("mlp", recipes.pact[2]), ("mlp", recipes.dorefa[5]), ("cnn", recipes.pact_everywhere[3])),
    ],
    ids=lambda of: getattr(of, "name", str(of)),
)
def test_onnxruntime_takes_the_model_with_all_that_it_optimises(model: str, recipe: Recipe) -> None:
    """As a session is by default, and with nothing in the graph that would be in its optimiser's way."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    trainer = trained(model, recipe, 44 if model == "mlp" else 4)
    session = onnxruntime.InferenceSession(export.to_onnx(trainer).SerializeToString())
    images = trainer.data.test_images
    (got,) = session.run(None, {"images": images})
    assert np.mean(got.argmax(1) == logits(trainer, len(images)).argmax(1)) >= 0.99


def test_the_recipe_that_made_the_weights_is_exported() -> None:
    """Of a run that has gone on in another one, that."""
    digits = data.load("digits")
    recipe = recipes.fp32.replace(name="both", later=recipes.pact[4])
    network = models.build("mlp", digits.shape, digits.classes)
    trainer = Trainer(network, digits, recipe, Settings(epochs=2, batch=256, later_at=1))
    kinds = []
    for _ in range(2):
        for _ in range(trainer.steps_per_epoch):
            trainer.train_step()
        kinds.append({node.op_type for node in export.to_onnx(trainer).graph.node})
    assert "QuantizeLinear" not in kinds[0]
    assert "QuantizeLinear" in kinds[1]


def test_what_is_stored() -> None:
    """4-bit activations are uint4; weights are odd integers of int4, int8 or int16 by their reach."""
    wanted = {2: onnx.TensorProto.INT4, 3: onnx.TensorProto.INT4, 4: onnx.TensorProto.INT8}
    for bits, kind in wanted.items():
        trainer = trained("mlp", recipes.pact_everywhere[bits], 1)
        model = export.to_onnx(trainer)
        stored = {each.name: each for each in model.graph.initializer}
        assert stored["linear2.weight.levels"].data_type == kind
        assert stored["linear1.weight.levels"].data_type == onnx.TensorProto.INT16
        levels = onnx.numpy_helper.to_array(stored["linear2.weight.levels"]).astype(int)
        assert set(np.unique(levels)) <= set(range(1 - 2**bits, 2**bits, 2))
        # Per tensor, which ONNX says by scalars: a vector is a scale for each channel.
        ends = (".low", ".high", ".scale", ".zero")
        assert {tuple(each.dims) for name, each in stored.items() if name.endswith(ends)} == {()}
        activations = onnx.TensorProto.UINT4 if bits == 4 else onnx.TensorProto.UINT8
        assert stored["linear2.inputs.zero"].data_type == activations
        assert stored["linear1.inputs.zero"].data_type == onnx.TensorProto.INT8
        assert model.opset_import[0].version == 21


@pytest.mark.parametrize("bits", [2, 4, 5])
def test_kernels_that_multiply_integers_are_exact(bits: int) -> None:
    """MatMulInteger, in onnxruntime where it is installed: the golden model's sums to the bit."""
    trainer = trained("mlp", recipes.pact[bits], 4)
    calls: list[Call] = []
    logits(trainer, 50, calls)
    (call,) = calls
    a, b = call.operands
    levels = call.rule.b.integers(b).astype(np.int8)  # type: ignore[union-attr]
    helper = onnx.helper
    kinds = onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "sums",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip("ab", kinds[:2], strict=True)],
        [helper.make_tensor_value_info("c", kinds[2], None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    sessions = [reference.ReferenceEvaluator(model)]
    try:
        import onnxruntime

        sessions.append(onnxruntime.InferenceSession(model.SerializeToString()))
    except ImportError:
        pass
    wanted = IntegerFormat(call.rule.result.bits, "int").integers(call.results[0])  # type: ignore[union-attr]
    for session in sessions:
        assert np.array_equal(session.run(None, {"a": a, "b": levels})[0], wanted)


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("mlp", recipes.fp32),
        ("mlp", recipes.pact[4]),
        ("mlp", recipes.pact_everywhere[2]),
        ("cnn", recipes.pact_sawb[3]),
        ("resnet8", recipes.pact[4]),
    ],
    ids=lambda of: getattr(of, "name", str(of)),
)
def test_onnxruntime_gives_the_same_class_and_the_same_codes(model: str, recipe: Recipe) -> None:
    """On every test image, layer by layer, as the graph stands. Its optimiser makes one kernel of a GEMM
    between QDQ nodes, which rounds once more between two layers: a value next to a tie becomes another."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    trainer = trained(model, recipe, 44 if model == "mlp" else 4)
    exported = export.to_onnx(trainer)
    quantised = [node.output[0] for node in exported.graph.node if node.op_type == "QuantizeLinear"]
    for name in quantised:  # NumPy has no integers of 4 bits
        cast = onnx.helper.make_node("Cast", [name], [f"{name}.wide"], to=onnx.TensorProto.INT32)
        exported.graph.node.append(cast)
        info = onnx.helper.make_tensor_value_info(f"{name}.wide", onnx.TensorProto.INT32, None)
        exported.graph.output.append(info)
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exported.SerializeToString(), plain)
    images = trainer.data.test_images
    got, *codes = session.run(None, {"images": images})
    assert np.array_equal(got.argmax(1), logits(trainer, len(images)).argmax(1))
    layers = {layer.name: layer for layer in trainer.network.walk()}
    exact = recipe is not recipes.fp32
    assert (len(codes) > 0) is exact
    for name, found in zip(quantised, codes, strict=True):
        own = layers[name.split(".")[0]]._quantised["inputs"]
        assert np.array_equal(found, own.format.integers(own.codes)), name


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_convolutions_of_integers_are_exact(bits: int) -> None:
    """ConvInteger, of codes and odd levels that a byte holds: golden's sums to the bit."""
    rng = np.random.default_rng(bits)
    rule = Integer.of(IntegerFormat(bits), IntegerFormat(bits, Levels.ODD))
    layer = Conv2d(3, 5, 3, rng, padding=1)
    codes = rng.integers(0, 1 << bits, (2, 3, 6, 7)).astype(np.uint8)
    kernel = rng.integers(0, 1 << bits, (27, 5)).astype(np.uint8)
    run = Run(recipes.pact[2], GoldenEngine())
    run.recipe = recipes.quantised("one", Clip(bits), DoReFaWeights(bits))
    operands = Quantised(rule.a, codes, 1.0), Quantised(rule.b, kernel, 1.0)
    wanted = layer.product(*operands, run)
    levels = rule.b.integers(kernel).astype(np.int8).T.reshape(5, 3, 3, 3)
    helper, kinds = onnx.helper, (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
    graph = helper.make_graph(
        [helper.make_node("ConvInteger", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "sums",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip("xw", kinds, strict=True)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    sessions = [reference.ReferenceEvaluator(model)]
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        sessions.append(onnxruntime.InferenceSession(model.SerializeToString()))
    for session in sessions:
        assert np.array_equal(session.run(None, {"x": codes, "w": levels})[0], wanted)


def test_other_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the recipe fp8 computes in .*which ONNX has no operators for"):
        export.exportable(recipes.fp8)
    with pytest.raises(ValueError, match="the recipe half rounds to e6m9 between its GEMMs, which ONNX"):
        export.exportable(recipes.pact[4].replace(name="half", elementwise=FP16))
    formats = recipes.fp32.replace(name="casts", hidden=Precision(inputs=FP16))
    with pytest.raises(ValueError, match="the recipe casts computes in inputs e6m9 and weights None, which"):
        export.exportable(formats)


def test_an_alpha_that_is_not_finite_is_not_exported() -> None:
    trainer = trained("mlp", recipes.pact[3], 1)
    trainer.weights["linear2.alpha"][:] = np.nan
    trainer.restore(trainer.state())
    with pytest.raises(ValueError, match="α is nan: the run has diverged"):
        export.to_onnx(trainer)
