"""Layers of ONNX models: by every way that a weight takes to its node, and against counted products."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("hypothesis")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from quaver.golden.planning.layer_table import read  # noqa: E402
from quaver.golden.planning.networks import LayerShape  # noqa: E402
from quaver.golden.planning.plan import plan  # noqa: E402

FLOAT = TensorProto.FLOAT


def node(operator, inputs, outputs, name="", **attributes):
    return helper.make_node(operator, inputs, outputs, name, **attributes)


def array(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def stored(**arrays):
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]


def model(nodes, inputs, weights=(), outputs=("y",), opset=21, functions=(), domains=(), **more):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        list(weights),
        **more,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


@pytest.fixture
def layers(tmp_path):
    def load(made, batch=256, **options):
        path = tmp_path / "net.onnx"
        onnx.save(made, path)
        return read(path, batch, **options)

    return load


# The ways of a weight


def ways(shape):
    """Nodes and stored arrays that end in a weight `w` of `shape`, by name."""
    turned = (*shape[1:], shape[0])
    last = len(shape) - 1
    sizes = np.array(shape, np.int64)
    scale, zero = np.float32(0.5), np.int8(0)
    eight = {"q": array(*shape, dtype=np.int8), "s": scale, "z": zero}
    per_channel = {
        "q": array(*shape, dtype=np.int8),
        "s": np.ones(shape[0], np.float32),
        "z": np.zeros(shape[0], np.int8),
    }
    bits = np.float32(4)
    stacked = node("Split", ["v"], ["w", "rest"], axis=0, num_outputs=2)
    twice = array(2 * shape[0], *shape[1:])
    half = array(shape[0] // 2, *shape[1:])
    branch = helper.make_graph(
        [node("Identity", ["v"], ["t"])], "b", [], [helper.make_tensor_value_info("t", FLOAT, None)]
    )
    return {
        "stored": ([], {"w": array(*shape)}),
        "Constant": ([node("Constant", [], ["w"], value=numpy_helper.from_array(array(*shape)))], {}),
        "Identity": ([node("Identity", ["v"], ["w"])], {"v": array(*shape)}),
        "Transpose": (
            [node("Transpose", ["v"], ["w"], perm=[last, *range(last)])],
            {"v": array(*turned)},
        ),
        "Cast": ([node("Cast", ["v"], ["w"], to=FLOAT)], {"v": array(*shape, dtype=np.float16)}),
        "Reshape": ([node("Reshape", ["v", "n"], ["w"])], {"v": array(int(np.prod(shape))), "n": sizes}),
        "Unsqueeze, Squeeze": (
            [node("Unsqueeze", ["v", "n"], ["u"]), node("Squeeze", ["u", "n"], ["w"])],
            {"v": array(*shape), "n": np.array([0], np.int64)},
        ),
        "Flatten": (
            [node("Flatten", ["v"], ["f"]), node("Reshape", ["f", "n"], ["w"])],
            {"v": array(*shape), "n": sizes},
        ),
        "DequantizeLinear": ([node("DequantizeLinear", ["q", "s", "z"], ["w"])], eight),
        "DequantizeLinear by channel": (
            [node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0)],
            per_channel,
        ),
        "QuantizeLinear, DequantizeLinear": (
            [
                node("QuantizeLinear", ["v", "s", "z"], ["q"]),
                node("DequantizeLinear", ["q", "s", "z"], ["w"]),
            ],
            {"v": array(*shape), "s": scale, "z": zero},
        ),
        "Microsoft's": (
            [node("DequantizeLinear", ["q", "s", "z"], ["w"], domain="com.microsoft")],
            eight,
        ),
        "Quant of QONNX": (
            [node("Quant", ["v", "s", "o", "b"], ["w"], domain="qonnx.custom_op.general")],
            {"v": array(*shape), "s": scale, "o": np.float32(0), "b": bits},
        ),
        "BipolarQuant of Brevitas": (
            [node("BipolarQuant", ["v", "s"], ["w"], domain="onnx.brevitas")],
            {"v": array(*shape), "s": scale},
        ),
        "a fake quantiser": (
            [
                node("Div", ["v", "s"], ["d"]),
                node("Round", ["d"], ["r"]),
                node("Clip", ["r"], ["c"]),
                node("Mul", ["c", "s"], ["w"]),
            ],
            {"v": array(*shape), "s": scale},
        ),
        "Concat": ([node("Concat", ["a", "b"], ["w"], axis=0)], {"a": half, "b": half}),
        "Slice": (
            [node("Slice", ["v", "from", "to"], ["w"])],
            {"v": twice, "from": np.array([0], np.int64), "to": np.array([shape[0]], np.int64)},
        ),
        "Split": ([stacked], {"v": twice}),
        "a branch": ([node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch)], {
            "yes": np.array(True), "v": array(*shape),
        }),
    }  # fmt: skip


WAYS = list(ways((8, 4)))
USES = {
    "Conv": ((8, 4, 3, 3), ["batch", 4, 10, 12], LayerShape("use", 4, 8, taps=9, positions=80), {}),
    "Conv by groups": ((8, 2, 3), ["batch", 4, 12], LayerShape("use", 4, 8, 3, 10, groups=2), {"group": 2}),
    "Conv of volumes": ((8, 4, 2, 2, 2), ["batch", 4, 3, 4, 5], LayerShape("use", 4, 8, 8, 24), {}),
    "ConvTranspose": ((4, 8, 2, 2), ["batch", 4, 5, 6], LayerShape("use", 4, 8, 4, 30), {"strides": [2, 2]}),
    "Gemm": ((8, 4), ["batch", 4], LayerShape("use", 4, 8), {"transB": 1}),
    "MatMul": ((4, 8), ["batch", 7, 4], LayerShape("use", 4, 8, positions=7), {}),
    "MatMul with groups": ((6, 4, 8), ["batch", 6, 7, 4], LayerShape("use", 24, 48, 1, 7, groups=6), {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("use", USES)
def test_a_weight_by_any_way_is_the_same_layer(layers, way, use):
    shape, entering, layer, attributes = USES[use]
    nodes, arrays = ways(shape)[way]
    made = model(
        [*nodes, node(use.partition(" ")[0], ["x", "w"], ["y"], "use", **attributes)],
        {"x": entering},
        stored(**arrays),
        domains=["com.microsoft", "qonnx.custom_op.general", "onnx.brevitas"],
    )
    network = layers(made)
    assert network.layers == (layer,)
    assert network.remarks == ()


def test_a_sparse_weight(layers):
    values = helper.make_tensor("w", FLOAT, [1], [1.0])
    indices = helper.make_tensor("w_indices", TensorProto.INT64, [1], [3])
    sparse = helper.make_sparse_tensor(values, indices, [4, 8])
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 4]})
    made.graph.sparse_initializer.append(sparse)
    assert layers(made).layers == (LayerShape("y", 4, 8),)
    constant = node("Constant", [], ["w"], sparse_value=sparse)
    made = model([constant, node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 4]})
    assert layers(made).layers == (LayerShape("y", 4, 8),)


def test_a_weight_in_a_file_of_its_own(layers, tmp_path):
    """Its sizes are in the model; whether the file is there does not matter."""
    weight = TensorProto(name="w", data_type=FLOAT, dims=[64, 128], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(64 * 128 * 4))):
        weight.external_data.add(key=key, value=value)
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 64]}, [weight])
    assert layers(made).layers == (LayerShape("y", 64, 128),)


def test_functions_are_inlined(layers):
    linear = helper.make_function(
        "my.functions",
        "Linear",
        ["a", "weight"],
        ["b"],
        [node("Transpose", ["weight"], ["t"], perm=[1, 0]), node("MatMul", ["a", "t"], ["b"], "product")],
        [helper.make_opsetid("", 21)],
    )
    calls = [
        node("Linear", ["x", "w1"], ["h"], "one", domain="my.functions"),
        node("Linear", ["h", "w2"], ["y"], "two", domain="my.functions"),
    ]
    made = model(
        calls, {"x": ["N", 5, 4]}, stored(w1=array(8, 4), w2=array(3, 8)), functions=[linear],
        domains=["my.functions"],
    )  # fmt: skip
    first, second = layers(made).layers
    assert (first.forward, first.backward, first.positions) == (4, 8, 5)
    assert (second.forward, second.backward, second.positions) == (8, 3, 5)
    assert first.name != second.name


# Lengths: counted by the reference evaluator, which knows nothing of layers


def transposed_convolution(x, w, group=1, strides=None, dilations=None):
    """By its definition; the reference evaluator fails for some strides."""
    axes = x.ndim - 2
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    sizes = zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
    outputs = w.shape[1]
    y = np.zeros((len(x), group * outputs, *(s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in sizes)))
    for pixel in np.ndindex(x.shape[2:]):
        for tap in np.ndindex(w.shape[2:]):
            at = [p * s + t * d for p, t, s, d in zip(pixel, tap, strides, dilations, strict=True)]
            for g in range(group):
                inputs = slice(g * w.shape[0] // group, (g + 1) * w.shape[0] // group)
                parts = x[(slice(None), inputs, *pixel)] @ w[(inputs, slice(None), *tap)]
                y[(slice(None), slice(g * outputs, (g + 1) * outputs), *at)] += parts
    return y


def counted(operator, x_shape, w_shape, w_first=False, **attributes):
    """Products that one output sums, that one input enters, and that one weight enters: the most of each."""
    operands = ["w", "x"] if w_first else ["x", "w"]
    made = model([node(operator, operands, ["y"], "use", **attributes)], {"x": x_shape, "w": w_shape})
    reference = ReferenceEvaluator(made)

    def evaluated(**feeds):
        if operator == "ConvTranspose":
            return transposed_convolution(**feeds, **attributes)
        return reference.run(None, feeds)[0]

    ones = {"x": np.ones(x_shape, np.float32), "w": np.ones(w_shape, np.float32)}
    forward = evaluated(**ones).max()

    def most(name):
        """The sum of all outputs is linear in each element: how often is it a factor?"""
        found = 0
        for index in np.ndindex(ones[name].shape):
            one = np.zeros_like(ones[name])
            one[index] = 1
            found = max(found, evaluated(**(ones | {name: one})).sum())
        return int(found)

    return int(forward), most("x"), most("w")


def layer_of(layers, operator, x_shape, w_shape, batch=2, w_first=False, **attributes):
    operands = ["w", "x"] if w_first else ["x", "w"]
    made = model(
        [node(operator, operands, ["y"], "use", **attributes)], {"x": x_shape}, stored(w=array(*w_shape))
    )
    (layer,) = layers(made, batch).layers
    return layer.forward, layer.backward, layer.gradient(batch)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_sum_what_is_counted(layers, axes, groups):
    x, w = (2, 4, *(4, 5, 3)[:axes]), (6, 4 // groups, *(2, 3, 2)[:axes])
    lengths = layer_of(layers, "Conv", x, w, group=groups)
    found = counted("Conv", x, w, group=groups)
    assert lengths[::2] == found[::2]
    assert found[1] <= lengths[1] == 6 // groups * np.prod(w[2:])  # no pixel of so small an image meets all


@pytest.mark.parametrize("attributes", [{}, {"dilations": [2, 1]}, {"strides": [2, 3]}])
def test_strided_and_dilated_convolutions(layers, attributes):
    lengths = layer_of(layers, "Conv", (2, 2, 9, 8), (3, 2, 3, 2), **attributes)
    found = counted("Conv", (2, 2, 9, 8), (3, 2, 3, 2), **attributes)
    assert lengths[::2] == found[::2]
    assert lengths[1] >= found[1]
    assert lengths[1] == found[1] or "strides" in attributes


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolutions_sum_what_is_counted(layers, groups, stride):
    x, w = (2, 4, 4, 3), (4, 3, 2, 2)
    lengths = layer_of(layers, "ConvTranspose", x, w, group=groups, strides=[stride, stride])
    forward, backward, gradient = counted("ConvTranspose", x, w, group=groups, strides=[stride, stride])
    assert lengths[1:] == (backward, gradient)
    # Between the pixels lie zeros, which the length counts.
    assert lengths[0] == 4 // groups * 4 >= forward
    assert lengths[0] == forward or stride == 2


@pytest.mark.parametrize(("a", "b", "w_first"), list(product((0, 1), (0, 1), (False, True))))
def test_gemm_sums_what_is_counted(layers, a, b, w_first):
    m, k, n = (3, 2, 4) if w_first else (4, 2, 3)
    left, right = (k, m) if a else (m, k), (n, k) if b else (k, n)
    x, w = (right, left) if w_first else (left, right)
    found = counted("Gemm", x, w, w_first, transA=a, transB=b)
    assert layer_of(layers, "Gemm", x, w, x[0], w_first, transA=a, transB=b) == found


@pytest.mark.parametrize(
    ("x", "w", "w_first"),
    [
        ((2, 5), (5, 3), False),
        ((2, 4, 5), (5, 3), False),
        ((2, 4, 5), (5,), False),
        ((2, 4, 5), (1, 5, 3), False),
        ((2, 3, 4, 5), (3, 5, 6), False),
        ((2, 1, 4, 5), (3, 5, 6), False),
        ((2, 4, 5), (3, 1, 5, 2), False),
        ((2, 3, 4), (5, 3), True),
        ((2, 3, 4), (7, 1, 5, 3), True),
        ((2, 3, 4), (3,), True),
    ],
)
def test_matmul_sums_what_is_counted(layers, x, w, w_first):
    assert layer_of(layers, "MatMul", x, w, w_first=w_first) == counted("MatMul", x, w, w_first)


@pytest.mark.parametrize(
    ("equation", "x", "w"),
    [
        ("bk,kn->bn", (2, 5), (5, 3)),
        ("bsk,nk->bsn", (2, 4, 5), (3, 5)),
        ("bshd,hde->bse", (2, 4, 3, 5), (3, 5, 2)),
        ("bse,ehd->bhsd", (2, 4, 5), (5, 3, 2)),
        ("bsgk,gkn->bsgn", (2, 4, 3, 5), (3, 5, 2)),
        ("...k,kn->...n", (2, 4, 5), (5, 3)),
        ("b...k,...kn->b...n", (2, 4, 3, 5), (4, 1, 5, 2)),
    ],
)
def test_einsum_sums_what_is_counted(layers, equation, x, w):
    assert layer_of(layers, "Einsum", x, w, equation=equation) == counted("Einsum", x, w, equation=equation)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_convolution(tmp_path_factory, data):
    """Forward and gradient lengths of what has no padding are those that are counted."""
    axes = data.draw(st.integers(1, 2))
    sizes = st.lists(st.integers(1, 3), min_size=axes, max_size=axes)
    kernel, strides, dilations = (data.draw(sizes) for _ in range(3))
    groups, batch, turned = (
        data.draw(st.integers(1, 2)),
        data.draw(st.integers(1, 3)),
        data.draw(st.booleans()),
    )
    image = [d * (k - 1) + data.draw(st.integers(1, 4)) for k, d in zip(kernel, dilations, strict=True)]
    inputs, outputs = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    x = (batch, inputs, *image)
    w = (inputs, outputs // groups, *kernel) if turned else (outputs, inputs // groups, *kernel)
    operator, attributes = "ConvTranspose" if turned else "Conv", {}
    attributes = {"group": groups, "strides": strides, "dilations": dilations}
    folder = tmp_path_factory.mktemp("any")

    def load(made, batch):
        onnx.save(made, folder / "net.onnx")
        return read(folder / "net.onnx", batch)

    lengths = layer_of(load, operator, x, w, batch, **attributes)
    forward, backward, gradient = counted(operator, x, w, **attributes)
    assert lengths[2] == gradient
    assert lengths[turned] == (backward if turned else forward)
    assert lengths[not turned] >= (forward if turned else backward)


# The batch and the positions


def sequence(shape, rows, back):
    return model(
        [
            node("Reshape", ["x", "rows"], ["r"]),
            node("Gemm", ["r", "w"], ["g"], "proj"),
            node("Reshape", ["g", "back"], ["y"]),
        ],
        {"x": shape},
        stored(w=array(64, 32), rows=np.array(rows, np.int64), back=np.array(back, np.int64)),
    )


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ([1, 512, 64], [512, 64]),
        ([1, 512, 64], [-1, 64]),
        ([8, 512, 64], [4096, 64]),
        (["batch", 512, 64], [-1, 64]),
        (["N", 512, 64], [-1, 64]),
        ([None, 512, 64], [-1, 64]),
    ],
)
def test_a_sequence_folded_into_the_batch_has_a_position_a_token(layers, shape, rows):
    network = layers(sequence(shape, rows, [-1, 512, 32]), 256)
    assert network.layers == (LayerShape("proj", 64, 32, positions=512),)
    assert network.layers[0].gradient(256) == 131_072
    gradient = plan(network).layers[0].gemms[-1]
    assert (gradient.length, gradient.plain.mantissa_bits) == (131_072, 12)


def test_the_batch_is_the_axis_that_is_called_so(layers):
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": [512, "batch_size", 64]}, stored(w=array(64, 32)))
    assert layers(made, 16).layers == (LayerShape("y", 64, 32, positions=512),)


def test_shapes_are_computed_as_exporters_write_them(layers):
    """Shape, Gather, Unsqueeze and Concat before a Reshape that keeps the batch open."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "rest"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["r"]),
        node("Conv", ["r", "w"], ["y"], "conv"),
    ]
    constants = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([4, 8, 8])}
    made = model(nodes, {"x": ["N", 256]}, stored(w=array(6, 4, 3, 3), **constants))
    assert layers(made, 7).layers == (LayerShape("conv", 4, 6, 9, 36),)


def test_open_axes_are_given_by_name(layers):
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["batch", "tokens", 64]}, stored(w=array(64, 32)))
    with pytest.raises(ValueError, match="axis 1 of x, tokens, has no size; give it: --axis tokens=N"):
        layers(made)
    assert layers(made, axes={"tokens": 12}).layers == (LayerShape("y", 64, 32, positions=12),)
    with pytest.raises(ValueError, match="--axis names words, but the model's open axes are batch, tokens"):
        layers(made, axes={"words": 12})
    with pytest.raises(ValueError, match="--axis names batch, which is the batch; give it with --batch"):
        layers(made, axes={"batch": 12})


def test_an_axis_without_size_and_name(layers):
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["batch", None, 64]}, stored(w=array(64, 32)))
    with pytest.raises(ValueError, match="axis 1 of x has neither size nor name; export the model with"):
        layers(made)


def test_an_image_without_a_batch_axis(layers):
    nodes = [node("Unsqueeze", ["x", "axis"], ["u"]), node("Conv", ["u", "w"], ["y"], "conv")]
    weights = stored(axis=np.array([0]), w=array(8, 3, 3, 3))
    made = model(nodes, {"x": [3, 10, 10]}, weights)
    with pytest.raises(ValueError, match=r"conv \(Conv\): its batch is 1, but that .* inputs is 3"):
        layers(made)
    nodes = [node("Reshape", ["x", "to"], ["r"]), node("MatMul", ["r", "w"], ["y"], "fc")]
    made = model(nodes, {"x": [3, 10]}, stored(to=np.array([5, 6]), w=array(6, 2)))
    with pytest.raises(ValueError, match=r"fc \(MatMul\): it has 5 rows, which 3 images do not share evenly"):
        layers(made)


# One weight, several uses


def test_a_weight_that_is_used_twice_has_one_gradient(layers):
    nodes = [
        node("Conv", ["x", "w"], ["a"], "large"),
        node("MaxPool", ["x"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Identity", ["w"], ["same"]),
        node("Conv", ["small", "same"], ["b"], "half"),
    ]
    made = model(nodes, {"x": ["N", 4, 10, 10]}, stored(w=array(8, 4, 3, 3)), outputs=("a", "b"))
    network = layers(made)
    assert network.layers == (LayerShape("large", 4, 8, 9, positions=64 + 9),)
    assert network.remarks == ("large, half use one weight: its gradient is one sum over all of them",)


def test_a_weight_and_its_transpose(layers):
    nodes = [
        node("MatMul", ["x", "w"], ["h"], "encoder"),
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["h", "t"], ["y"], "decoder"),
    ]
    network = layers(model(nodes, {"x": ["N", 3, 4]}, stored(w=array(4, 8))))
    assert network.layers == (
        LayerShape("encoder", 4, 8, positions=6),
        LayerShape("decoder", 8, 4, positions=6),
    )


def test_parts_of_one_stored_array_are_weights_of_their_own(layers):
    nodes = [
        node("Split", ["w"], ["q", "k"], axis=1, num_outputs=2),
        node("MatMul", ["x", "q"], ["a"], "query"),
        node("MatMul", ["x", "k"], ["b"], "key"),
    ]
    network = layers(model(nodes, {"x": ["N", 3, 4]}, stored(w=array(4, 16)), outputs=("a", "b")))
    assert network.layers == (
        LayerShape("query", 4, 8, positions=3),
        LayerShape("key", 4, 8, positions=3),
    )
    assert network.remarks == ()


def test_nodes_of_one_name_are_numbered(layers):
    nodes = [node("MatMul", ["x", "v"], ["h"], "fc"), node("MatMul", ["h", "w"], ["y"], "fc")]
    made = model(nodes, {"x": ["N", 4]}, stored(v=array(4, 8), w=array(8, 3)))
    assert [layer.name for layer in layers(made).layers] == ["fc", "fc (2)"]


# Other operators


@pytest.mark.parametrize(("operator", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers_sum_over_the_sequence(layers, operator, gates, directions):
    direction = "bidirectional" if directions == 2 else "forward"
    made = model(
        [node(operator, ["x", "w", "r"], ["y"], "cell", hidden_size=6, direction=direction)],
        {"x": [20, "batch", 5]},
        stored(w=array(directions, gates * 6, 5), r=array(directions, gates * 6, 6)),
    )
    found = layers(made).layers
    names = ["cell.W", "cell.W.reverse"][:directions] + ["cell.R", "cell.R.reverse"][:directions]
    assert [layer.name for layer in found] == names
    assert {(layer.forward, layer.backward, layer.positions) for layer in found} == {
        (5, 6 * gates, 20),
        (6, 6 * gates, 20),
    }


def test_quantised_operators(layers):
    eight = {"s": np.float32(1), "z": np.uint8(0), "i": np.int8(0)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearConv", ["q", "s", "z", "w1", "s", "i", "s", "z"], ["c"], "qconv", pads=[1, 1, 1, 1]),
        node("ConvInteger", ["c", "w2"], ["d"], "iconv"),
        node("Cast", ["d"], ["e"], to=TensorProto.UINT8),
        node("Flatten", ["e"], ["f"]),
        node("QLinearMatMul", ["f", "s", "z", "w3", "s", "i", "s", "z"], ["g"], "qmm"),
        node("MatMulInteger", ["g", "w4"], ["y"], "imm"),
    ]
    small = {"w1": (8, 3, 3, 3), "w2": (2, 8, 1, 1), "w3": (2 * 36, 10), "w4": (10, 4)}
    weights = {name: array(*shape, dtype=np.int8) for name, shape in small.items()}
    assert layers(model(nodes, {"x": ["N", 3, 6, 6]}, stored(**weights, **eight))).layers == (
        LayerShape("qconv", 3, 8, 9, 36),
        LayerShape("iconv", 8, 2, 1, 36),
        LayerShape("qmm", 72, 10),
        LayerShape("imm", 10, 4),
    )


def test_operators_of_onnx_runtime(layers):
    ms = {"domain": "com.microsoft"}
    nodes = [
        node("FusedConv", ["x", "w1", "bias"], ["c"], "conv", activation="Relu", **ms),
        node("QuickGelu", ["c"], ["d"], **ms),
        node("Flatten", ["d"], ["f"]),
        node("FusedMatMul", ["f", "w2"], ["g"], "fused", transB=1, alpha=0.5, **ms),
        node("MatMulNBits", ["g", "w3", "s"], ["y"], "packed", K=64, N=10, bits=4, block_size=32, **ms),
    ]
    arrays = {
        "w1": array(8, 3, 3, 3), "bias": array(8), "w2": array(64, 8 * 16),
        "w3": array(10, 2, 16, dtype=np.uint8), "s": array(20),
    }  # fmt: skip
    assert layers(
        model(nodes, {"x": ["N", 3, 6, 6]}, stored(**arrays), domains=["com.microsoft"])
    ).layers == (
        LayerShape("conv", 3, 8, 9, 16),
        LayerShape("fused", 128, 64),
        LayerShape("packed", 64, 10),
    )


def test_attention_is_said_to_be_left_out(layers):
    nodes = [
        *(node("MatMul", ["x", f"w{n}"], [n], f"{n}_proj") for n in "qkv"),
        node("Transpose", ["k"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["q", "t"], ["scores"], "scores"),
        node("Softmax", ["scores"], ["p"]),
        node("MatMul", ["p", "v"], ["y"], "mix"),
    ]
    network = layers(model(nodes, {"x": ["N", 6, 4]}, stored(**{f"w{n}": array(4, 4) for n in "qkv"})))
    assert [layer.name for layer in network.layers] == ["q_proj", "k_proj", "v_proj"]
    (remark,) = network.remarks
    assert remark == ("not planned, for they have no weights: 2 products of two activations, scores, mix")
    assert plan(network).remarks == network.remarks


def test_what_learns_before_the_first_layer_needs_its_backward_gemm(layers):
    nodes = [node("Gather", ["table", "i"], ["e"]), node("MatMul", ["e", "w"], ["y"], "first")]
    nodes.insert(0, node("Cast", ["x"], ["i"], to=TensorProto.INT64))
    made = model(nodes, {"x": ["N", 6]}, stored(table=array(100, 8), w=array(8, 4)))
    roles = [gemm.role for gemm in plan(layers(made)).layers[0].gemms]
    assert roles == ["forward", "backward", "gradient"]
    plain = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 8]}, stored(w=array(8, 4)))
    assert [gemm.role for gemm in plan(layers(plain)).layers[0].gemms] == ["forward", "gradient"]


# What is not understood


def loop_over(body_nodes):
    body = helper.make_graph(
        body_nodes,
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", FLOAT, None),
        ],
    )
    return node("Loop", ["trips", "", "x"], ["l"], "loop", body=body)


def branching(then_nodes):
    branch, other = (
        helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info(name, FLOAT, None)])
        for nodes, name in ((then_nodes, "b"), ([node("Identity", ["x"], ["o"])], "o"))
    )
    return [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "half"], ["positive"]),
        node("If", ["positive"], ["l"], "either", then_branch=branch, else_branch=other),
    ]


INNER = [node("MatMul", ["a", "v"], ["b"], "inner"), node("Identity", ["go"], ["go_on"])]
HIDDEN = {
    "a loop's body": ([loop_over(INNER)], "loop (Loop): how often its body runs is not known, and in it"),
    "a branch": (
        branching([node("MatMul", ["x", "v"], ["b"], "inner")]),
        "either (If): how often its body runs is not known, and in it there is inner (MatMul)",
    ),
    "another operator": (
        [node("Foo", ["x", "v"], ["l"], "foo", domain="my.domain")],
        "foo (my.domain.Foo): the operator is not known",
    ),
    "another operator, weights in attributes": (
        [node("Dense", ["x"], ["l"], "dense", domain="my.domain", weights=[1.0] * 16)],
        "dense (my.domain.Dense): the operator is not known",
    ),
    "a linear model": (
        [node("LinearRegressor", ["x"], ["l"], "linear", domain="ai.onnx.ml", coefficients=[1.0] * 16)],
        "linear (ai.onnx.ml.LinearRegressor): the operator is not known",
    ),
    "an operator of a later version": (
        [node("Futurism", ["x", "v"], ["l"], "future")],
        "future (Futurism): the operator is not known",
    ),
    "a standard operator that does something with it": (
        [node("CausalConvWithState", ["x3", "k"], ["l", "state"], "causal")],
        "causal (CausalConvWithState): it takes the stored k, and what it does with it is not known",
    ),
    "two stored operands": (
        [node("MatMul", ["v", "v"], ["vv"], "square"), node("MatMul", ["x", "vv"], ["l"])],
        "square (MatMul): both operands are stored",
    ),
    "a kernel that is computed": (
        [node("Reshape", ["x", "kernel"], ["k2"]), node("Conv", ["image", "k2"], ["l"], "dynamic")],
        "dynamic (Conv): what it convolves is stored, its kernel is not",
    ),
    "a weight that is an input": (
        [node("MatMul", ["x", "u"], ["l"], "outside")],
        "outside (MatMul): an operand comes from an input that has no batch; store weights",
    ),
    "rows that no image has": (
        [node("MatMul", ["u", "v"], ["l"], "still")],
        "still (MatMul): an operand comes from an input that has no batch",
    ),
    "sizes that nobody knows": (
        [node("NonZero", ["x"], ["places"]), node("Cast", ["places"], ["f"], to=FLOAT),
         node("Transpose", ["f"], ["t"]), node("MatMul", ["t", "two"], ["l"], "unsized")],
        "unsized (MatMul): the size of its first operand is not known",
    ),
    "an equation of three": (
        [node("Einsum", ["x", "v", "v"], ["l"], "three", equation="ab,bc,cd->ad")],
        "three (Einsum): 'ab,bc,cd->ad' is no product of two operands",
    ),
    "an axis that is summed on its own": (
        [node("Einsum", ["x", "v"], ["l"], "alone", equation="ab,cd->ac")],
        "alone (Einsum): an axis is summed or repeated in one operand alone",
    ),
    "a product of matrices in two steps": (
        [node("Unsqueeze", ["x", "last"], ["x4"]), node("Mul", ["x4", "w"], ["xw"]),
         node("ReduceSum", ["xw", "axis"], ["l"], "summed", keepdims=0)],
        "summed (ReduceSum): it sums products with a stored array, as a GEMM does",
    ),
    "an LSTM with computed weights": (
        [node("Unsqueeze", ["x", "axis"], ["x3d"]),
         node("LSTM", ["x3d", "x3d", "r"], ["l"], "cell", hidden_size=4)],
        "cell (LSTM): its input is stored, or its weights are not",
    ),
    "attention of stored values": (
        [node("Unsqueeze", ["x", "axis"], ["x3d"]),
         node("Attention", ["x3d", "v3", "v3"], ["l"], "look", q_num_heads=1, kv_num_heads=1)],
        "look (Attention): its queries, keys or values are stored",
    ),
}  # fmt: skip


def hidden(nodes):
    arrays = {
        "v": array(4, 4), "w": array(4, 8), "trips": np.array(3), "half": np.float32(0.5),
        "k": array(4, 1, 3), "kernel": np.array([1, 1, -1, 4]), "image": array(1, 1, 9, 9),
        "two": array(2, 2), "r": array(1, 16, 4), "axis": np.array([1]), "last": np.array([2]),
        "v3": array(1, 4, 4),
    }  # fmt: skip
    return model(
        [*nodes, node("MatMul", ["x", "w"], ["y"], "plain")],
        {"x": ["N", 4], "u": [4, 4], "x3": ["N", 4, 9]},
        stored(**arrays),
        ("y", "l"),
        opset=onnx.defs.onnx_opset_version() if any(n.op_type in NEW for n in nodes) else 21,
        domains=["my.domain", "ai.onnx.ml"],
    )


NEW = ("CausalConvWithState", "Attention")


@pytest.mark.parametrize("what", HIDDEN)
def test_what_is_not_understood_is_named(layers, what):
    nodes, message = HIDDEN[what]
    if not all(onnx.defs.has(n.op_type) for n in nodes if n.op_type in NEW):
        pytest.skip("this onnx does not have the operator")
    with pytest.raises(ValueError, match="not understood, so that layers may be missing") as refused:
        layers(hidden(nodes))
    assert message in str(refused.value)
    assert "--skip-unknown plans without them" in str(refused.value)
    network = layers(hidden(nodes), skip_unknown=True)
    assert "plain" in [layer.name for layer in network.layers]
    assert any(remark.startswith(f"left out: {message}") for remark in network.remarks)
    assert plan(network).remarks == network.remarks


def test_scales_that_are_averaged_are_no_layer(layers):
    """A scale a channel, as normalisation leaves it, before a sum over pixels."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], "conv"),
        node("Mul", ["c", "scale"], ["d"]),
        node("ReduceSum", ["d", "pixels"], ["y"], keepdims=0),
    ]
    arrays = {"w": array(8, 3, 3, 3), "scale": array(1, 8, 1, 1), "pixels": np.array([2, -1])}
    assert len(layers(model(nodes, {"x": ["N", 3, 6, 6]}, stored(**arrays))).layers) == 1


def test_bodies_without_products_are_no_matter(layers):
    harmless = [node("Relu", ["a"], ["b"], "inner"), node("Identity", ["go"], ["go_on"])]
    assert len(layers(hidden([loop_over(harmless)])).layers) == 1
    assert len(layers(hidden(branching([node("Relu", ["x"], ["b"])]))).layers) == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_stored_matrix_that_is_multiplied_is_a_layer_or_named(tmp_path_factory, data):
    """Models drawn of the ways above, and of the places that hide a product."""
    nodes, arrays, names, names_of = [], {}, [], {}
    for number in range(data.draw(st.integers(1, 4))):
        way = data.draw(st.sampled_from(WAYS))
        made, weights = ways((4, 4))[way]
        rename = {name: f"{name}{number}" for one in made for name in (*one.input, *one.output) if name}
        rename |= {name: f"{name}{number}" for name in (*weights, "w", "t")}
        for one in made:
            copy = onnx.NodeProto()
            copy.CopyFrom(one)
            copy.input[:] = [rename.get(name, name) for name in one.input]
            copy.output[:] = [rename.get(name, name) for name in one.output]
            for attribute in copy.attribute:
                for inner in attribute.g.node:
                    inner.input[:] = [rename.get(name, name) for name in inner.input]
                    inner.output[:] = [f"{name}{number}_{attribute.name}" for name in inner.output]
                for output in attribute.g.output:
                    output.name = f"{rename.get(output.name, output.name)}_{attribute.name}"
            nodes.append(copy)
        arrays |= {rename[name]: value for name, value in weights.items()}
        place = data.draw(st.sampled_from(["here", "loop", "branch", "unknown", "custom input"]))
        name, weight, entering = f"use{number}", f"w{number}", "x"
        use = node("MatMul", [entering, weight], [f"y{number}"], name)
        if place == "loop":
            inner = [
                node("MatMul", ["a", weight], ["b"], name),
                node("Identity", ["go"], ["go_on"]),
            ]
            use = loop_over(inner)
            use.name, use.output[0] = f"loop{number}", f"y{number}"
        elif place == "branch":
            *before, use = branching([node("MatMul", ["x", weight], ["b"], name)])
            for one in before:
                one.output[0] += str(number)
            before[1].input[0] += str(number)
            use.input[0], use.output[0] = f"positive{number}", f"y{number}"
            nodes.extend(before)
        elif place == "unknown":
            use = node("Foo", ["x", weight], [f"y{number}"], name, domain="my.domain")
        elif place == "custom input":
            nodes.append(node("Bar", ["x"], [f"x{number}"], f"bar{number}", domain="my.domain"))
            use = node("MatMul", [f"x{number}", weight], [f"y{number}"], name)
        nodes.append(use)
        names.append(name)
        names_of[name] = place
    arrays |= {"trips": np.array(3), "half": np.float32(0.5)}
    domains = ["my.domain", "com.microsoft", "qonnx.custom_op.general", "onnx.brevitas"]
    outputs = [f"y{number}" for number in range(len(names))]
    made = model(nodes, {"x": ["N", 4]}, stored(**arrays), outputs, domains=domains)
    path = tmp_path_factory.mktemp("drawn") / "net.onnx"
    onnx.save(made, path)
    understood = set(names_of.values()) == {"here"}
    if understood:
        assert {layer.name for layer in read(path, 8).layers} == set(names)
    else:
        with pytest.raises(ValueError, match="not understood") as refused:
            read(path, 8)
        told = {name for name in names if f"{name} (" in str(refused.value)}
        assert told == {name for name, place in names_of.items() if place != "here"}
    if "here" not in names_of.values():
        with pytest.raises(ValueError, match="has no layers"):
            read(path, 8, skip_unknown=True)
    else:
        network = read(path, 8, skip_unknown=True)
        left_out = {name for name in names for remark in network.remarks if f"{name} (" in remark}
        assert {layer.name for layer in network.layers} | left_out == set(names)


# Files that are no models


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x01", b"PK\x03\x04", bytes(100)])
def test_files_that_are_no_models(tmp_path, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"net.onnx is not an ONNX model"):
        read(path, 2)


def test_a_model_without_layers_says_what_it_has(layers):
    made = model([node("MatMul", ["x", "x"], ["y"], "square")], {"x": ["N", 4, 4]})
    with pytest.raises(ValueError, match=r"has no layers: no node multiplies a stored weight(.|\n)*square"):
        layers(made)


def test_nodes_in_no_order(layers):
    nodes = [node("MatMul", ["h", "w"], ["y"], "late"), node("Relu", ["x"], ["h"])]
    with pytest.raises(ValueError, match="late takes h, which nothing before it makes"):
        layers(model(nodes, {"x": ["N", 4]}, stored(w=array(4, 4))))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_model_is_read_or_refused(tmp_path_factory, data):
    content = bytearray(sequence(["N", 512, 64], [-1, 64], [-1, 512, 32]).SerializeToString())
    del content[600:-300]  # most of the weight
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path = tmp_path_factory.mktemp("damaged") / "net.onnx"
    path.write_bytes(content)
    refusal = f"{path}"
    try:
        read(path, 8)
    except ValueError as error:
        refusal = str(error)
    assert str(path) in refusal


# Networks that everyone knows: onnx carries their graphs, with weights that nodes make


@pytest.mark.parametrize(
    ("name", "count", "weights", "macs"),
    [
        ("resnet50", 54, 25_557_032 - 1000 - 2 * 26_560, 4_089_184_256),
        ("vgg19", 19, 143_667_240 - 14_696, 19_632_062_464),
        ("squeezenet", 26, 1_235_496 - 3_944, 349_151_936),
    ],
)
def test_known_networks(name, count, weights, macs):
    """Weights: all parameters without biases, and without the scales and shifts of the normalisations."""
    from importlib.resources import files

    path = files("onnx.backend.test") / "data" / "light" / f"light_{name}.onnx"
    if not path.is_file():
        pytest.skip("this onnx package does not carry its test models")
    network = read(path, 256)
    assert len(network.layers) == count
    assert sum(layer.weights for layer in network.layers) == weights
    assert sum(layer.macs for layer in network.layers) == macs
    assert network.remarks == ()
