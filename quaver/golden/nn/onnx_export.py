"""A trained network as an ONNX model for inference; what is quantised is between QuantizeLinear and
DequantizeLinear nodes (QDQ).

The model takes images as they are, uint8 (B, C, H, W), and gives logits. Of a layer with a `Clip`, the inputs
are clipped to its range, quantised and dequantised: uint4 where they have 4 bits, else uint8; int8 where
they are signed. Clip before 4 bits is spelt Max and Min, since onnxruntime's optimiser, as of 1.32, merges a
Clip into the QuantizeLinear behind it and knows no 4 bits there: it would not load the model.

Weights on odd levels are stored as those odd integers, dequantised by half a step: int4 up to 3 bits, int8 up
to 7, int16 beyond; so no code needs a zero point between two integers, which ONNX does not have.

A runtime quantises by float32 division, the golden model in float64, and sums of dequantised values are
float32 sums in an order of the runtime's own: a value next to a tie may become the neighbouring code. Kernels
that multiply the integers (MatMulInteger, ConvInteger) give the golden model's sums exactly, as long as the
weights fit eight bits.

Needs the package onnx: pip install onnx.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quaver.golden.data import Dataset
from quaver.golden.nn.layers import (
    AveragePool2d,
    BatchNorm2d,
    Chain,
    Conv2d,
    Flatten,
    GemmLayer,
    Layer,
    MaxPool2d,
    ReLU,
    Residual,
    Shortcut,
)
from quaver.golden.nn.quantisers import Clip, Quantised, Quantiser
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.trainer import Trainer

#: The first opset whose QuantizeLinear and DequantizeLinear have 4-bit integers.
OPSET = 21


def exportable(recipe: Recipe) -> None:
    """ValueError: the recipe computes or rounds as ONNX has no operators for."""
    for precision in (recipe.hidden, recipe.first, recipe.last, *recipe.layers.values()):
        if precision is None:
            continue
        plain = precision.forward is None and precision.inputs is None and precision.weights is None
        if not plain and not (
            isinstance(precision.inputs, Clip) and isinstance(precision.weights, Quantiser)
        ):
            how = precision.forward or f"inputs {precision.inputs} and weights {precision.weights}"
            raise ValueError(
                f"the recipe {recipe.name} computes in {how}, which ONNX has no operators for; "
                f"export a run of fp32, or of a recipe of quantised layers such as pact-4"
            )
    if recipe.elementwise is not None:
        raise ValueError(
            f"the recipe {recipe.name} rounds to {recipe.elementwise} between its GEMMs, which ONNX has no "
            f"operators for; export a run of fp32, or of a recipe of quantised layers such as pact-4"
        )


def to_onnx(trainer: Trainer) -> onnx.ModelProto:
    """The trainer's network, by the recipe that made its weights; checked.

    ValueError: as of `exportable`; weights or α are not finite.
    """
    exportable(trainer.recipe_of_weights)
    builder = _Builder(trainer.recipe_of_weights)
    x = builder.standardise("images", trainer.data)
    builder.node("Identity", [builder.chain(trainer.network.layers, x)], "logits")
    shape = list(trainer.data.shape)
    graph = helper.make_graph(
        builder.nodes,
        trainer.network.name,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", trainer.data.classes])],
        builder.initialisers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="quaver", ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Builder:
    """Nodes and initialisers, a layer at a time; methods take and give names of values."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{name}/{kind}", **attributes))
        return name

    def constant(self, name: str, values: Any, kind: int = TensorProto.FLOAT) -> str:
        if kind in (TensorProto.INT4, TensorProto.UINT4):
            array = np.asarray(values)
            tensor = helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())
        else:
            # np.ascontiguousarray would make vectors of scalars, of which ONNX says something else.
            array = np.asarray(values, helper.tensor_dtype_to_np_dtype(kind), order="C")
            tensor = numpy_helper.from_array(array, name)
        self.initialisers.append(tensor)
        return name

    def standardise(self, images: str, data: Dataset) -> str:
        """As `Dataset.standardised`."""
        mean, deviation = data.mean_and_deviation
        x = self.node("Cast", [images], to=TensorProto.FLOAT)
        x = self.node("Sub", [x, self.constant("mean", mean)])
        return self.node("Div", [x, self.constant("deviation", deviation)])

    def chain(self, layers: Sequence[Layer], x: str) -> str:
        for layer in layers:
            x = self.layer(layer, x)
        return x

    def layer(self, layer: Layer, x: str) -> str:
        if isinstance(layer, GemmLayer):
            return self.gemm(layer, x)
        if isinstance(layer, Residual):
            shortcut = self.layer(layer.shortcut, x) if layer.shortcut else x
            return self.node("Add", [self.layer(layer.main, x), shortcut])
        if isinstance(layer, Chain):
            return self.chain(layer.layers, x)
        if isinstance(layer, ReLU):
            return self.node("Relu", [x])
        if isinstance(layer, Flatten):
            return self.node("Flatten", [x])
        if isinstance(layer, MaxPool2d):
            return self.node("MaxPool", [x], kernel_shape=[layer.size] * 2, strides=[layer.size] * 2)
        if isinstance(layer, AveragePool2d):
            if layer.size is None:
                return self.node("GlobalAveragePool", [x])
            return self.node("AveragePool", [x], kernel_shape=[layer.size] * 2, strides=[layer.size] * 2)
        if isinstance(layer, BatchNorm2d):
            parts = {
                "scale": layer.scale.value,
                "shift": layer.shift.value,
                "mean": layer.running_mean,
                "variance": layer.running_variance,
            }
            given = [self.constant(f"{layer.name}.{name}", value) for name, value in parts.items()]
            return self.node("BatchNormalization", [x, *given], layer.name, epsilon=layer.EPSILON)
        if isinstance(layer, Shortcut):
            return self.shortcut(layer, x)
        raise ValueError(f"{type(layer).__name__} has no ONNX operator here")

    def shortcut(self, layer: Shortcut, x: str) -> str:
        """Every `stride`-th pixel, and zeros for the channels that are new."""
        name = f"shortcut{len(self.nodes)}"
        ends = {"starts": [0, 0], "ends": [2**31 - 1] * 2, "axes": [2, 3], "steps": [layer.stride] * 2}
        given = [self.constant(f"{name}.{key}", value, TensorProto.INT64) for key, value in ends.items()]
        x = self.node("Slice", [x, *given])
        after = layer.outputs - layer.inputs - layer.before
        pads = self.constant(f"{name}.pads", [0, layer.before, 0, 0, 0, after, 0, 0], TensorProto.INT64)
        return self.node("Pad", [x, pads])

    def gemm(self, layer: GemmLayer, x: str) -> str:
        precision = self.recipe.precision(layer.name, first=layer.first, last=layer.last)
        if isinstance(precision.inputs, Clip):
            x = self.clip(layer, precision.inputs, x)
        weight = self.weight(layer, precision.weights)
        bias = [] if layer.bias is None else [self.constant(f"{layer.name}.bias", layer.bias.value)]
        if isinstance(layer, Conv2d):
            return self.node(
                "Conv",
                [x, weight, *bias],
                layer.name,
                kernel_shape=[layer.size] * 2,
                pads=[layer.padding] * 4,
                strides=[layer.stride] * 2,
            )
        product = self.node("MatMul", [x, weight], "" if bias else layer.name)
        return self.node("Add", [product, *bias], layer.name) if bias else product

    def clip(self, layer: GemmLayer, clip: Clip, x: str) -> str:
        """The layer's inputs, clipped, quantised and dequantised."""
        name = f"{layer.name}.inputs"
        alpha = 0.0 if layer.alpha is None else float(layer.alpha.value[0])
        low, high = clip.range(alpha)
        kind = TensorProto.INT8 if clip.signed else TensorProto.UINT4 if clip.bits == 4 else TensorProto.UINT8
        bounds = [
            self.constant(f"{name}.{which}", np.float32(v)) for which, v in (("low", low), ("high", high))
        ]
        scale = self.constant(f"{name}.scale", np.float32(clip.step(alpha)))
        zero = self.constant(f"{name}.zero", np.zeros((), int), kind)
        if kind == TensorProto.UINT4:
            x = self.node("Max", [x, bounds[0]], f"{name}.positive")
            x = self.node("Min", [x, bounds[1]], f"{name}.clipped")
        else:
            x = self.node("Clip", [x, *bounds], f"{name}.clipped")
        x = self.node("QuantizeLinear", [x, scale, zero], f"{name}.codes")
        return self.node("DequantizeLinear", [x, scale, zero], name)

    def weight(self, layer: GemmLayer, quantiser: Any) -> str:
        """The layer's weights as its operator takes them, (O, C, size, size) or (inputs, outputs)."""
        name = f"{layer.name}.weight"
        if not isinstance(quantiser, Quantiser):
            return self.constant(name, arranged(layer, layer.weight.value))
        quantised = quantiser.quantise(layer.weight.value, 0.0)
        kind = storage(quantised)
        integers = self.constant(
            f"{name}.levels", arranged(layer, quantised.format.integers(quantised.codes)), kind
        )
        scale = self.constant(f"{name}.scale", np.float32(quantised.scale))
        zero = self.constant(f"{name}.zero", np.zeros((), int), kind)
        return self.node("DequantizeLinear", [integers, scale, zero], name)


def storage(quantised: Quantised) -> int:
    """The narrowest ONNX type that holds the integers: int4, int8 or int16."""
    reach = max(-quantised.format.lowest - 1, quantised.format.highest)
    return TensorProto.INT4 if reach <= 7 else TensorProto.INT8 if reach <= 127 else TensorProto.INT16


def arranged(layer: GemmLayer, weight: NDArray[Any]) -> NDArray[Any]:
    """(K, N) as ONNX has it: of a convolution (O, C, size, size)."""
    if not isinstance(layer, Conv2d):
        return weight
    return weight.T.reshape(layer.outputs, layer.inputs, layer.size, layer.size)
