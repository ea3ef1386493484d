"""Following values through an ONNX model: node by node, with the sizes and small constants that are known.

onnx infers the type and sizes of each node's results and computes small constants. What it does not know, the
nodes of quantisers and of ONNX Runtime, is listed here: they keep their first input's sizes, or are another
node by a different name. Functions of the model are inlined, an If with a constant condition is the branch
that it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper, shape_inference

#: Constants of at most so many elements are computed: shapes, indices, scales. Of larger ones, the weights,
#: only the sizes count.
SMALL = 4096

#: Nodes of any domain but ONNX's own whose result has their first input's sizes: quantisers, such as those of
#: QONNX, Brevitas, FINN, TensorRT and ONNX Runtime, and ONNX Runtime's activations and normalisations.
KEEP_SIZES = {
    *("Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc", "MultiThreshold", "FakeQuantize"),
    *("QuantizeLinear", "DequantizeLinear", "TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear"),
    *("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "SimplifiedLayerNormalization", "SkipLayerNormalization"),
    *("SkipSimplifiedLayerNormalization", "RotaryEmbedding", "QLinearSigmoid", "QLinearLeakyRelu"),
}

#: ONNX Runtime's nodes that have the sizes of a standard one: its name, and which inputs are that one's.
STAND_INS = {
    "FusedConv": ("Conv", (0, 1)),
    "FusedGemm": ("Gemm", (0, 1)),
    "QGemm": ("Gemm", (0, 3)),
    "FusedMatMul": ("MatMul", (0, 1)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
}

_RUNTIME = "com.microsoft"


@dataclass(frozen=True)
class Value:
    """What is known of one value.

    Attributes
    ----------
    type
        Its type and sizes in ONNX's words; None: not known.
    constant
        Whether it depends only on what the model stores.
    data
        Its elements, where it is a small constant.
    root
        Name of the value whose elements these are, in whatever order and format; two uses of one root are two
        uses of the same weights.
    images
        Whether it depends on an input that has the batch.
    learns
        Whether it needs a gradient, because something that is not a GEMM and is learnt lies before it.
    factor
        The stored array by which a Mul multiplied it, element by element. If the products are summed
        afterwards, that is a product of matrices.
    """

    type: onnx.TypeProto | None
    constant: bool = False
    data: NDArray[Any] | None = None
    root: str = ""
    images: bool = False
    learns: bool = False
    factor: Value | None = None

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The sizes, as far as they are known."""
        if self.type is None or not self.type.tensor_type.HasField("shape"):
            return None
        axes = self.type.tensor_type.shape.dim
        return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The sizes where all are known."""
        shape = self.shape
        known = [n for n in shape or () if n is not None]
        return tuple(known) if shape is not None and len(known) == len(shape) else None


@dataclass(frozen=True)
class Step:
    """A node with what enters it (None: an optional input that is not there) and what leaves it."""

    node: onnx.NodeProto
    inputs: list[Value | None]
    outputs: list[Value]

    @property
    def attributes(self) -> dict[str, Any]:
        """The node's attributes by name."""
        return {one.name: helper.get_attribute_value(one) for one in self.node.attribute}


def load(path: Path) -> onnx.ModelProto:
    """The model at `path`, its functions inlined. ValueError: the file is none."""
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.opset_import or not model.graph.node:
            raise ValueError("it has no nodes, or no version of its operators")
        if model.functions:
            model = inliner.inline_local_functions(model)
    except OSError:
        raise
    except Exception as error:  # protobuf's own errors share no base
        raise ValueError(f"{path} is not an ONNX model: {error}") from None
    return model


class Follower:
    """Follows `model`, which lies in `folder`, with `batch` images at once.

    The batch is the axis of an input that is called so ("batch", "batch_size", …), else the first axis of the
    first input.

    Parameters
    ----------
    model
        The model, of `load`.
    folder
        The folder of its file, where weights in files of their own lie.
    batch
        What the batch axis is set to where the model leaves its size open.
    axes
        Name → size of the other axes whose sizes the model leaves open.

    Attributes
    ----------
    batch
        Images at once: the parameter, or the model's number where that is fixed.

    Raises
    ------
    ValueError
        The size of an axis stays open, or the model has no open axis of a name in `axes`; the message names
        it.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path, batch: int, axes: Mapping[str, int]) -> None:
        self._folder = folder
        self._opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
        self._opsets[""] = self._opsets.pop("ai.onnx", 1)
        self.values: dict[str, Value] = {"": Value(None)}
        self.graph = model.graph
        self._store(model.graph)
        inputs = [one for one in model.graph.input if one.name not in self.values]
        self._open_axes(inputs, batch, axes)
        self._declared = {one.name: one.type for one in (*model.graph.value_info, *model.graph.output)}

    def _open_axes(self, inputs: list[Any], batch: int, axes: Mapping[str, int]) -> None:
        dims = {one.name: list(one.type.tensor_type.shape.dim) for one in inputs}
        first = next((found[0] for found in dims.values() if found), None)
        if first is None:
            raise ValueError("the model has no input with axes, so that nothing says where images enter it")
        names = list(
            dict.fromkeys(dim.dim_param for found in dims.values() for dim in found if dim.dim_param)
        )
        batches = [name for name in names if "batch" in name.lower()] or [first.dim_param][: len(names)]
        for name in axes:
            if name in batches:
                raise ValueError(f"--axis names {name}, which is the batch; give it with --batch")
            if name not in names:
                there = ", ".join(names) or "none"
                raise ValueError(f"--axis names {name}, but the model's open axes are {there}")
        self._sizes = {name: batch for name in batches if name} | dict(axes)
        fixed = first.HasField("dim_value") and not self._sizes.keys() & set(batches)
        self.batch = first.dim_value if fixed else batch
        if self.batch < 1:
            raise ValueError(f"the first axis of {inputs[0].name}, the batch, is {self.batch}")
        for one in inputs:
            for number, dim in enumerate(dims[one.name]):
                if dim.dim_param and dim.dim_param not in self._sizes:
                    raise ValueError(
                        f"axis {number} of {one.name}, {dim.dim_param}, has no size; "
                        f"give it: --axis {dim.dim_param}=N"
                    )
                if not dim.dim_param and not dim.HasField("dim_value") and number:
                    raise ValueError(
                        f"axis {number} of {one.name} has neither size nor name; "
                        "export the model with a fixed input size"
                    )
            if fixed:
                has_batch = any(dim.dim_value == self.batch for dim in dims[one.name][:1])
            else:
                has_batch = any(
                    dim.dim_param in batches if dim.dim_param else not dim.HasField("dim_value")
                    for dim in dims[one.name]
                )
            self.values[one.name] = Value(self._closed(one.type, self.batch), root=one.name, images=has_batch)

    def _closed(self, kind: onnx.TypeProto, unnamed: int | None = None) -> onnx.TypeProto:
        """`kind` with the open axes set; `unnamed` is the first's where it has no name."""
        closed = onnx.TypeProto()
        closed.CopyFrom(kind)
        for number, dim in enumerate(closed.tensor_type.shape.dim):
            if dim.dim_param in self._sizes:
                dim.dim_value = self._sizes[dim.dim_param]
            elif unnamed is not None and not number and not dim.HasField("dim_value"):
                dim.dim_value = unnamed
        return closed

    def _store(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            self.values[tensor.name] = self._stored(tensor, tensor.name)
        for sparse in graph.sparse_initializer:
            kind = helper.make_tensor_type_proto(sparse.values.data_type, list(sparse.dims))
            self.values[sparse.values.name] = Value(kind, constant=True, root=sparse.values.name)

    def _stored(self, tensor: onnx.TensorProto, name: str) -> Value:
        kind = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        data = None
        if prod(tensor.dims) <= SMALL and tensor.data_type != onnx.TensorProto.STRING:
            try:
                data = numpy_helper.to_array(tensor, str(self._folder))
            except Exception:  # stored in a file of its own that is not there: its sizes may do
                data = None
        return Value(kind, constant=True, data=data, root=name)

    def steps(self, graph: onnx.GraphProto | None = None) -> Iterator[Step]:
        """The nodes of the model in order."""
        for node in (self.graph if graph is None else graph).node:
            missing = [name for name in node.input if name not in self.values]
            if missing:
                raise ValueError(
                    f"{label(node)} takes {missing[0]}, which nothing before it makes; "
                    "onnx.checker.check_model says more"
                )
            inputs = [self.values[name] if name else None for name in node.input]
            if node.op_type == "If" and inputs[0] is not None and inputs[0].data is not None:
                yield from self._branch(node, bool(inputs[0].data))
                continue
            outputs = self._results(node, inputs)
            self.values |= {name: one for name, one in zip(node.output, outputs, strict=True) if name}
            yield Step(node, inputs, outputs)

    def _branch(self, node: onnx.NodeProto, taken: bool) -> Iterator[Step]:
        name = "then_branch" if taken else "else_branch"
        branch = next(one.g for one in node.attribute if one.name == name)
        self._store(branch)
        yield from self.steps(branch)
        for inner, outer in zip(branch.output, node.output, strict=True):
            self.values[outer] = self.values[inner.name]

    def _results(self, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
        there = [value for value in inputs if value is not None]
        if node.op_type == "Constant" and standard(node):
            return [self._constant(node)]
        types = self._types(node, inputs)
        for name in node.output:
            if name in self._declared and not _whole(types.get(name)):
                types[name] = self._closed(self._declared[name])
        made = Value(
            None,
            constant=all(value.constant for value in there) and not _bodies(node),
            images=any(value.images for value in there),
            learns=any(value.learns for value in there) or _learns(node, inputs),
        )
        factor = next((value for value in there if value.constant), None)
        if node.op_type != "Mul" or made.constant:
            factor = None
        data: list[NDArray[Any] | None] = [None] * len(node.output)
        shape = there[0].sizes if there else None
        if node.op_type == "Shape" and standard(node) and shape is not None:
            span = {one.name: one.i for one in node.attribute}
            data = [np.array(shape[span.get("start", 0) : span.get("end", len(shape))], np.int64)]
        elif node.op_type == "Size" and standard(node) and shape is not None:
            data = [np.array(prod(shape), np.int64)]
        elif made.constant and standard(node) and all(value.data is not None for value in there):
            data = self._computed(node, types)
        return [
            Value(
                types.get(name),
                constant=made.constant or elements is not None,
                data=elements,
                root=_root(name, types.get(name), there),
                images=made.images and elements is None,
                learns=made.learns,
                factor=factor,
            )
            for name, elements in zip(node.output, data, strict=True)
        ]

    def _constant(self, node: onnx.NodeProto) -> Value:
        (attribute,) = node.attribute
        if attribute.name == "sparse_value":
            sparse = attribute.sparse_tensor
            kind = helper.make_tensor_type_proto(sparse.values.data_type, list(sparse.dims))
            return Value(kind, constant=True, root=node.output[0])
        if attribute.name == "value":
            return self._stored(attribute.t, node.output[0])
        data = np.array(helper.get_attribute_value(attribute))
        if attribute.name in ("value_float", "value_floats"):
            data = data.astype(np.float32)
        kind = helper.make_tensor_type_proto(onnx.TensorProto.STRING, data.shape)
        if data.dtype.kind in "if":
            kind = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(data.dtype), data.shape)
        return Value(kind, constant=True, data=data if data.dtype.kind in "if" else None, root=node.output[0])

    def _types(self, node: onnx.NodeProto, inputs: list[Value | None]) -> dict[str, onnx.TypeProto]:
        """What is known of the results' types: by onnx, or by the tables above."""
        node, inputs = stand_in(node, inputs)
        if not standard(node):
            first = inputs[0].type if inputs and inputs[0] is not None else None
            if node.op_type in KEEP_SIZES and first is not None:
                # A dequantised value is of its scale's type, a quantised one of its zero point's.
                place = 1 if "Dequantize" in node.op_type else 2 if "QuantizeLinear" in node.op_type else 0
                other = inputs[place] if place < len(inputs) else None
                kind = onnx.TypeProto()
                kind.CopyFrom(first)
                if other is not None and other.type is not None:
                    kind.tensor_type.elem_type = other.type.tensor_type.elem_type
                return {node.output[0]: kind}
            if node.op_type == "MatMulNBits" and first is not None:
                kind = onnx.TypeProto()
                kind.CopyFrom(first)
                outputs = next((one.i for one in node.attribute if one.name == "N"), 0)
                if kind.tensor_type.shape.dim and outputs:
                    kind.tensor_type.shape.dim[-1].dim_value = outputs
                return {node.output[0]: kind}
            if not onnx.defs.has(node.op_type, node.domain):
                return {}
        known = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
        # Bodies of If, Loop and Scan may use any value around them.
        around = self.values if _bodies(node) else known
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            return shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, self._opsets.get(domain, 1), domain),
                node,
                {name: value.type for name, value in around.items() if value.type is not None},
                {n: numpy_helper.from_array(v.data, n) for n, v in known.items() if v.data is not None},
                opset_imports=[helper.make_opsetid(name, n) for name, n in self._opsets.items()],
            )
        except (
            Exception
        ):  # its errors share no base; sizes that stay unknown are named where a layer needs them
            return {}

    def _computed(self, node: onnx.NodeProto, types: dict[str, onnx.TypeProto]) -> list[NDArray[Any] | None]:
        """The results of a node on small constants, where they are small too."""
        nothing: list[NDArray[Any] | None] = [None] * len(node.output)
        sizes = [Value(types.get(name)).sizes for name in node.output]
        if _bodies(node) or any(size is None or prod(size) > SMALL for size in sizes):
            return nothing
        from onnx.reference import ReferenceEvaluator

        given = {name: self.values[name].data for name in node.input if name}
        kinds = {name: self.values[name].type for name in given}
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_value_info(name, kind) for name, kind in kinds.items() if kind is not None],
            [helper.make_value_info(name, types[name]) for name in node.output],
        )
        opsets = [helper.make_opsetid(domain, n) for domain, n in self._opsets.items()]
        try:
            results = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, given)
        except Exception:  # an operator that the reference does not have: its result is not known
            return nothing
        return [np.asarray(one) if isinstance(one, np.ndarray | np.generic) else None for one in results]


def standard(node: onnx.NodeProto) -> bool:
    """Whether the node is one of ONNX's own domain."""
    return node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type)


def stand_in(node: onnx.NodeProto, inputs: list[Value | None]) -> tuple[onnx.NodeProto, list[Value | None]]:
    """The standard node that has the sizes of one of `STAND_INS`, with its inputs; else the node itself."""
    if node.domain != _RUNTIME or node.op_type not in STAND_INS:
        return node, inputs
    name, places = STAND_INS[node.op_type]
    if len(inputs) <= max(places):
        return node, inputs
    taken = [inputs[place] for place in places]
    if node.op_type == "FusedMatMul":
        flags = {one.name: one.i for one in node.attribute}
        if flags.get("transBatchA") or flags.get("transBatchB"):
            return node, inputs
        taken = [
            _swapped(value) if flags.get(flag) else value
            for value, flag in zip(taken, ("transA", "transB"), strict=True)
        ]
    same = helper.make_node(name, [node.input[place] for place in places], node.output[:1], node.name)
    fields = onnx.defs.get_schema(name).attributes
    same.attribute.extend(one for one in node.attribute if one.name in fields)
    return same, taken


def _swapped(value: Value | None) -> Value | None:
    """The value with its last two axes swapped."""
    if value is None or value.shape is None or len(value.shape) < 2 or value.type is None:
        return value
    *lead, m, n = value.shape
    kind = helper.make_tensor_type_proto(value.type.tensor_type.elem_type, (*lead, n, m))
    return Value(kind, value.constant, None, value.root, value.images, value.learns)


def label(node: onnx.NodeProto) -> str:
    """What a message calls the node: its name, or its first result's."""
    return node.name or next((name for name in node.output if name), "a node without a name")


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for one in node.attribute for graph in ([one.g] if one.HasField("g") else one.graphs)]


def bodies(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The nodes in the bodies of If, Loop and Scan, and in bodies there."""
    for graph in _bodies(node):
        for inner in graph.node:
            yield inner
            yield from bodies(inner)


def _whole(kind: onnx.TypeProto | None) -> bool:
    return kind is not None and Value(kind).sizes is not None


def _learns(node: onnx.NodeProto, inputs: list[Value | None]) -> bool:
    """Whether something in the node is learnt by no GEMM: an embedding, or a normalisation's scale."""
    stored = [value is not None and value.constant and bool(value.shape) for value in inputs]
    if node.op_type == "Gather":
        return stored[0] and inputs[0] is not None and len(inputs[0].shape or ()) > 1
    return any(stored) and (node.op_type.endswith("Normalization") or node.op_type == "PRelu")


def _root(name: str, kind: onnx.TypeProto | None, inputs: list[Value]) -> str:
    """Where a result has as many elements as its largest constant input, it holds that one's, one to one."""
    sizes = Value(kind).sizes
    constants = [value for value in inputs if value.constant and value.sizes is not None]
    if sizes is None or not constants or len(constants) < len(inputs):
        return name
    largest = max(constants, key=lambda value: prod(value.sizes or ()))
    return largest.root if prod(largest.sizes or ()) == prod(sizes) else name
