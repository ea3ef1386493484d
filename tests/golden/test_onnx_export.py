"""ONNX models of trained networks: the same classes, the same integers where a kernel multiplies integers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from quaver.golden import data
from quaver.golden.engine import GoldenEngine
from quaver.golden.formats import IntegerFormat
from quaver.golden.nn import models, recipes
from quaver.golden.nn.recipe import Recipe
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


def test_other_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the recipe fp8 computes in .*which ONNX has no operators for"):
        export.exportable(recipes.fp8)
