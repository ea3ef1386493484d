"""The layers of an ONNX model: which of its nodes multiply and accumulate weights, and how long the sums are.

Every product of a stored weight with something that follows from the images is a layer, however the weight
reaches its node: stored, by a Constant, transposed, cast, quantised, sliced. What may be such a product and
is not understood is named; nothing is passed over without a word.

How long is the sum of a weight's gradient? In Y = X·W the gradient is XᵀE, E the error of Y: a sum over all
rows of X, whatever axes they are. With B images at once there are R rows, so that each image has R / B of
them, the layer's *positions*, and a training step of any batch sums batch · R / B products. That holds for
the tokens of sequences, be they an axis of their own or folded into the batch's before a Gemm, for a
convolution, whose rows are its output pixels, and for a transposed one, whose rows are its input pixels. A
weight that is used more than once has one gradient, the sum over the rows of all uses.

Zeros count as terms: those of padding, and those between the pixels of a transposed convolution's input, as
in the backward GEMM of any convolution with a stride. `nonzero_ratios` say how many of the terms are none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import onnx

from quaver.golden.planning.networks import LayerShape, NetworkShape
from quaver.golden.planning.onnx_values import (
    KEEP_SIZES,
    Follower,
    Step,
    Value,
    bodies,
    label,
    load,
    stand_in,
    standard,
)

#: Standard nodes that take stored arrays of two or more axes and multiply-accumulate none of them.
TAKE_ARRAYS = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "PRelu", "Where", "Clip"),
    *("And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Greater", "GreaterOrEqual"),
    *("Less", "LessOrEqual", "Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements"),
    *("ScatterND", "TensorScatter", "Concat", "Expand", "Pad", "Tile", "Resize", "Upsample", "Compress"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
    *("RMSNormalization", "QuantizeLinear", "DequantizeLinear", "RotaryEmbedding", "GridSample"),
    *("SequenceConstruct", "SequenceInsert", "OneHot", "CastLike", "BitShift", "CenterCropPad"),
    *("NonMaxSuppression", "RoiAlign", "MaxRoiPool", "MaxUnpool", "ReverseSequence"),
    *("Loop", "Scan", "SequenceMap"),  # whose bodies are looked at
}


@dataclass(frozen=True)
class Use:
    """One use of a weight: a layer, whose positions are still the rows of all images at once.

    `batch` is the size of the axis that the node itself takes for the batch, where it has one.
    """

    shape: LayerShape
    weight: Value
    batch: int | None = None


class NotUnderstoodError(ValueError):
    """A node is no layer that can be planned; the message says why."""


def read_onnx(
    path: Path, batch: int, *, axes: Mapping[str, int] | None = None, skip_unknown: bool = False
) -> NetworkShape:
    """The layers of the model at `path`; what is left out and what was joined is in the network's remarks.

    Parameters
    ----------
    batch
        Images a training step, which an open batch axis is set to.
    axes
        Name → size of the other axes whose sizes the model leaves open.
    skip_unknown
        Whether to leave out nodes that are not understood, instead of raising a ValueError.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is no ONNX model, an axis has no size, or nodes are not understood: names all of them.
    """
    if not 1 <= batch < 1 << 31:
        raise ValueError(f"{path}: batch is {batch}, but a training step takes 1 to 2**31 − 1 images")
    model = load(path)
    try:
        follower = Follower(model, path.parent, batch, axes or {})
        found = _Found(follower.batch)
        for step in follower.steps():
            found.add(step)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if found.unknown and not skip_unknown:
        raise ValueError(
            f"{path}: not understood, so that layers may be missing:\n"
            + "".join(f"  {one}\n" for one in found.unknown)
            + "--skip-unknown plans without them; a layer table (.csv) says anything"
        )
    layers = found.layers()
    if not layers:
        told = "".join(f"\n  {one}" for one in found.remarks())
        raise ValueError(f"{path} has no layers: no node multiplies a stored weight with the images{told}")
    remarks = (*(f"left out: {one}" for one in found.unknown), *found.remarks())
    return NetworkShape(path.stem, layers, batch, remarks, found.learns_before)


class _Found:
    """Layers, products of two activations, and what was not understood, of `batch` images at once."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.unknown: list[str] = []
        self.learns_before = False
        self._uses: list[Use] = []
        self._products: list[str] = []
        self._names: set[str] = set()

    def add(self, step: Step) -> None:
        """Look at one node."""
        node, inputs = step.node, [value for value in step.inputs if value is not None]
        if inputs and all(value.constant for value in inputs) and not _multiplies(node):
            return  # what it makes is stored as well as computed
        try:
            if reader := READERS.get(_operator(node)):
                for use in reader(step):
                    self._use(use, step)
            elif problem := _problem(step):
                raise NotUnderstoodError(problem)
        except _ActivationsError:
            self._products.append(label(node))
        except ValueError as error:
            domain = f"{node.domain}." if node.domain else ""
            self.unknown.append(f"{label(node)} ({domain}{node.op_type}): {error}")

    def _use(self, use: Use, step: Step) -> None:
        images = next(value for value in step.inputs if value is not None and not value.constant)
        if use.batch is not None and use.batch % self.batch:
            raise NotUnderstoodError(
                f"its batch is {use.batch}, but that of the model's inputs is {self.batch}; the first axis "
                "of an input must be the batch"
            )
        rows, rest = divmod(use.shape.positions, self.batch)
        if rest:
            raise NotUnderstoodError(
                f"it has {use.shape.positions} rows, which {self.batch} images do not share evenly; "
                "the first axis of an input must be the batch"
            )
        if not self._uses:
            self.learns_before = images.learns
        name, number = use.shape.name, 1
        while name in self._names:
            number += 1
            name = f"{use.shape.name} ({number})"
        self._names.add(name)
        self._uses.append(replace(use, shape=replace(use.shape, name=name, positions=rows)))

    def layers(self) -> tuple[LayerShape, ...]:
        """In order; uses of one weight that are alike are one layer, and all of them sum one gradient."""
        layers: dict[tuple[str, LayerShape], LayerShape] = {}
        for use in self._uses:
            total = sum(other.shape.positions for other in self._uses if other.weight.root == use.weight.root)
            key = use.weight.root, replace(use.shape, name="", positions=1)
            layers.setdefault(key, replace(use.shape, positions=total))
        return tuple(layers.values())

    def remarks(self) -> tuple[str, ...]:
        """What a reader of the plan should know."""
        remarks = []
        by_weight: dict[str, list[str]] = {}
        for use in self._uses:
            by_weight.setdefault(use.weight.root, []).append(use.shape.name)
        for names in by_weight.values():
            if len(names) > 1:
                remarks.append(f"{', '.join(names)} use one weight: its gradient is one sum over all of them")
        if self._products:
            count = len(self._products)
            remarks.append(
                f"not planned, for they have no weights: {count} product{'s' * (count > 1)} of two "
                f"activations, {', '.join(self._products[:4])}{', …' * (count > 4)}"
            )
        return tuple(remarks)


class _ActivationsError(Exception):
    """A product of two activations."""


def _operator(node: onnx.NodeProto) -> str:
    """The name under which a reader is listed: ONNX's own, or that of ONNX Runtime."""
    known = standard(node) or node.domain == "com.microsoft"
    return node.op_type if known else f"{node.domain}.{node.op_type}"


def _multiplies(node: onnx.NodeProto) -> bool:
    return _operator(node) in READERS


def _problem(step: Step) -> str:
    """Why a node without a reader may hide a layer; "": it does not."""
    node = step.node
    inside = [inner for inner in bodies(node) if _multiplies(inner) or not _harmless(inner)]
    if inside:
        names = ", ".join(f"{label(inner)} ({inner.op_type})" for inner in inside)
        return f"how often its body runs is not known, and in it there is {names}"
    if not _harmless(node):
        return "the operator is not known, nor what it multiplies"
    arrays = [
        name
        for name, value in zip(node.input, step.inputs, strict=True)
        if value is not None and value.constant and len(value.shape or ()) >= 2
    ]
    if node.op_type == "ReduceSum" and standard(node) and _sums_products(step):
        return "it sums products with a stored array, as a GEMM does; export that as MatMul or Einsum"
    if arrays and standard(node) and node.op_type not in TAKE_ARRAYS:
        return f"it takes the stored {', '.join(arrays)}, and what it does with it is not known"
    return ""


def _sums_products(step: Step) -> bool:
    """Whether a ReduceSum follows a Mul by a stored array that varies along an axis that is summed."""
    summed, *axes = step.inputs
    if summed is None or summed.factor is None:
        return False
    factor, shape = summed.factor.shape, summed.shape
    if factor is None or shape is None:
        return True
    sizes = (*(1 for _ in range(len(shape) - len(factor))), *factor)
    given: Any = step.attributes.get("axes", range(len(shape)))
    if axes and axes[0] is not None:
        given = range(len(shape)) if axes[0].data is None else axes[0].data.reshape(-1)
    return len(factor) >= 2 and any(sizes[int(axis)] != 1 for axis in given)


def _harmless(node: onnx.NodeProto) -> bool:
    """Whether it is known to hold no weights of a layer in itself."""
    if standard(node):
        return True
    if node.domain == "ai.onnx.ml":
        return onnx.defs.has(node.op_type, node.domain) and not any(
            one.name == "coefficients" for one in node.attribute
        )
    return node.op_type in KEEP_SIZES or stand_in(node, [None] * len(node.input))[0] is not node


def _operands(step: Step, x: int, w: int) -> tuple[Value, Value, bool]:
    """The activation, the weight, and whether they stand the other way round."""
    inputs = step.inputs
    left, right = (inputs[at] if at < len(inputs) else None for at in (x, w))
    if left is None or right is None:
        raise NotUnderstoodError("it lacks an operand")
    if left.constant and right.constant:
        raise NotUnderstoodError("both operands are stored or computed from what is stored")
    for value in (left, right):
        if not value.constant and not value.images:
            raise NotUnderstoodError(
                "an operand comes from an input that has no batch; store weights in the model, as "
                "initializers"
            )
    if not left.constant and not right.constant:
        raise _ActivationsError
    return (right, left, True) if left.constant else (left, right, False)


def _sizes(value: Value, what: str) -> tuple[int, ...]:
    if value.sizes is None:
        raise NotUnderstoodError(f"the size of {what} is not known; export the model with a fixed input size")
    if 0 in value.sizes:
        raise NotUnderstoodError(f"{what} is empty: its sizes are {value.sizes}")
    return value.sizes


Axes = Sequence[tuple[Hashable, int]]


def _product(name: str, x: Axes, w: Axes, y: Collection[Hashable], weight: Value) -> Use:
    """The layer that a product of matrices is, by where the (axis, size) pairs of X and W go in Y.

    Axes of both that are in Y are groups, those that are not are summed; axes of W alone are outputs, axes of
    X alone are rows.
    """
    sizes = dict([*x, *w])
    in_x, in_w = {axis for axis, _ in x}, {axis for axis, _ in w}
    if len(in_x) < len(x) or len(in_w) < len(w) or not in_x ^ in_w <= set(y):
        raise NotUnderstoodError("an axis is summed or repeated in one operand alone")

    def size(axes: set[Hashable]) -> int:
        return prod(sizes[axis] for axis in axes)

    groups, summed = size(in_x & in_w & set(y)), size((in_x & in_w) - set(y))
    return Use(
        LayerShape(
            name,
            groups * summed,
            groups * size(in_w - in_x),
            positions=size(in_x - in_w),
            groups=groups,
        ),
        weight,
    )


def _matrix(value: Value, what: str, names: str) -> list[tuple[Hashable, int]]:
    """The axes of an operand of MatMul, the last two called `names` ("k" alone where there is one).

    Those before are counted from the end, as they are held against the other operand's; 1 goes with any size.
    """
    sizes = _sizes(value, what)
    lead = [(at - len(sizes), size) for at, size in enumerate(sizes[:-2])]
    return [
        *((axis, size) for axis, size in lead if size > 1),
        *zip(names if len(sizes) > 1 else "k", sizes[-2:], strict=True),
    ]


def _matmul(x: int, w: int) -> Callable[[Step], Iterator[Use]]:
    def read(step: Step) -> Iterator[Use]:
        images, weight, turned = _operands(step, x, w)
        flags = step.attributes if step.node.op_type == "FusedMatMul" else {}
        if flags.get("transBatchA") or flags.get("transBatchB"):
            raise NotUnderstoodError("it moves batch axes")
        left, right = (weight, images) if turned else (images, weight)
        a = _matrix(left, "its first operand", "km" if flags.get("transA") else "mk")
        b = _matrix(right, "its second operand", "nk" if flags.get("transB") else "kn")
        if dict(a)["k"] != dict(b)["k"]:
            raise NotUnderstoodError(f"it multiplies rows of {dict(a)['k']} with columns of {dict(b)['k']}")
        y = {axis for axis, _ in (*a, *b)} - {"k"}
        yield _product(label(step.node), *((b, a) if turned else (a, b)), y, weight)

    return read


def _gemm(x: int, w: int) -> Callable[[Step], Iterator[Use]]:
    def read(step: Step) -> Iterator[Use]:
        images, weight, turned = _operands(step, x, w)
        flags = step.attributes
        a = "km" if flags.get("transA") else "mk"
        b = "nk" if flags.get("transB") else "kn"
        x_names, w_names = (b, a) if turned else (a, b)
        x_axes: Axes = list(zip(x_names, _sizes(images, "an operand"), strict=True))
        w_axes: Axes = list(zip(w_names, _sizes(weight, "an operand"), strict=True))
        if dict(x_axes)["k"] != dict(w_axes)["k"]:
            raise NotUnderstoodError(f"it sums {dict(x_axes)['k']} products of {dict(w_axes)['k']} weights")
        yield _product(label(step.node), x_axes, w_axes, "mn", weight)

    return read


def _einsum(step: Step) -> Iterator[Use]:
    equation = step.attributes["equation"].decode().replace(" ", "")
    terms, _, result = equation.partition("->")
    operands = terms.split(",")
    if len(operands) != 2 or "->" not in equation:
        raise NotUnderstoodError(f"{equation!r} is no product of two operands with a stated result")
    images, weight, turned = _operands(step, 0, 1)
    if turned:
        operands.reverse()
    axes: list[Axes] = []
    for term, value in zip(operands, (images, weight), strict=True):
        sizes, letters = _sizes(value, "an operand"), term.replace("...", "")
        spread = len(sizes) - len(letters)
        before = term.partition("...")[0]
        names = [*before, *range(-spread, 0), *letters[len(before) :]]
        if spread < 0 or (spread and "..." not in term):
            raise NotUnderstoodError(f"{term!r} does not fit an operand of {len(sizes)} axes")
        axes.append(
            [(n, size) for n, size in zip(names, sizes, strict=True) if isinstance(n, str) or size > 1]
        )
    spread_axes = {name for one in axes for name, _ in one if not isinstance(name, str)}
    y = set(result.replace("...", "")) | (spread_axes if "..." in result else set())
    yield _product(label(step.node), axes[0], axes[1], y, weight)


def _convolution(x: int, w: int, *, transposed: bool = False) -> Callable[[Step], Iterator[Use]]:
    def read(step: Step) -> Iterator[Use]:
        images, weight, turned = _operands(step, x, w)
        if turned:
            raise NotUnderstoodError("what it convolves is stored, its kernel is not")
        groups = step.attributes.get("group", 1)
        outer, inner, *kernel = _sizes(weight, "its kernel")
        entered, left = _sizes(images, "its input"), _sizes(step.outputs[0], "its output")
        inputs, outputs = (outer, inner * groups) if transposed else (inner * groups, outer)
        if groups < 1 or entered[1] != inputs or left[1] != outputs or len(entered) != len(kernel) + 2:
            raise NotUnderstoodError(
                f"{entered} → {left} is no convolution of {inputs} → {outputs} channels with {len(kernel)} "
                "axes; channels must be the second axis"
            )
        pixels = entered if transposed else left
        shape = LayerShape(
            label(step.node),
            inputs,
            outputs,
            taps=prod(kernel),
            positions=pixels[0] * prod(pixels[2:]),
            groups=groups,
        )
        yield Use(shape, weight, entered[0])

    return read


def _recurrent(step: Step) -> Iterator[Use]:
    """Input and state each have a matrix for all gates; it is used at every step of the sequence.

    Its gradient sums over the sequence as it does over a batch (backpropagation through time).
    """
    images, *others = step.inputs[:3]
    weights = [value for value in others if value is not None and value.constant]
    if images is None or not images.images or len(weights) < len(others):
        raise NotUnderstoodError("its input is stored, or its weights are not")
    *rows, _ = _sizes(images, "its input")
    for letter, weight in zip("WR", weights, strict=True):
        directions, outputs, inputs = _sizes(weight, letter)
        for direction in ("", ".reverse")[:directions]:
            name = f"{label(step.node)}.{letter}{direction}"
            own = replace(weight, root=weight.root + direction)
            yield Use(LayerShape(name, inputs, outputs, positions=prod(rows)), own)


def _packed(step: Step) -> Iterator[Use]:
    """ONNX Runtime's MatMulNBits: K × N weights of a few bits each, packed."""
    images, weight, turned = _operands(step, 0, 1)
    *rows, length = _sizes(images, "its input")
    fields = step.attributes
    if turned or fields.get("K") != length:
        raise NotUnderstoodError(f"its K is {fields.get('K')}, but what enters it is {length} long")
    yield Use(LayerShape(label(step.node), length, fields.get("N", 0), positions=prod(rows)), weight)


def _attention(step: Step) -> Iterator[Use]:
    """Products of queries, keys and values, which are activations; a mask may be stored."""
    if any(value is not None and value.constant for value in step.inputs[:3]):
        raise NotUnderstoodError("its queries, keys or values are stored")
    raise _ActivationsError
    yield  # as the other readers do


#: The nodes that multiply and accumulate, and how each is read.
READERS: dict[str, Callable[[Step], Iterator[Use]]] = {
    "Conv": _convolution(0, 1),
    "ConvInteger": _convolution(0, 1),
    "DeformConv": _convolution(0, 1),
    "QLinearConv": _convolution(0, 3),
    "FusedConv": _convolution(0, 1),
    "ConvTranspose": _convolution(0, 1, transposed=True),
    "Gemm": _gemm(0, 1),
    "FusedGemm": _gemm(0, 1),
    "QGemm": _gemm(0, 3),
    "MatMul": _matmul(0, 1),
    "MatMulInteger": _matmul(0, 1),
    "QLinearMatMul": _matmul(0, 3),
    "FusedMatMul": _matmul(0, 1),
    "DynamicQuantizeMatMul": _matmul(0, 1),
    "MatMulIntegerToFloat": _matmul(0, 1),
    "MatMulNBits": _packed,
    "Einsum": _einsum,
    "RNN": _recurrent,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "Attention": _attention,
    "LinearAttention": _attention,
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
}
