"""Layer shapes: the built-in networks against their known totals, and layer tables good and bad."""

import json

import pytest

from quaver.golden.planning.layer_table import read
from quaver.golden.planning.networks import (
    IMAGES,
    NETWORKS,
    LayerShape,
    NetworkShape,
    output_size,
    trained_here,
)


def totals(network):
    weights = sum(layer.weights for layer in network.layers)
    return weights, sum(layer.macs for layer in network.layers)


def test_resnet18():
    network = NETWORKS["resnet18-imagenet"]()
    weights, macs = totals(network)
    normalised = sum(layer.out_channels for layer in network.layers[:-1])
    assert weights + 2 * normalised + 1000 == 11_689_512  # scale and shift a channel, the classifier's biases
    assert macs == 1_814_073_344
    assert len(network.layers) == 18 + 3  # and three projections


def test_alexnet_of_one_column():
    network = NETWORKS["alexnet-imagenet"]()
    weights, macs = totals(network)
    assert weights + sum(layer.out_channels for layer in network.layers) == 61_100_840
    assert macs == 714_188_480
    assert [layer.positions for layer in network.layers] == [55**2, 27**2, 13**2, 13**2, 13**2, 1, 1, 1]


def test_resnet32():
    network = NETWORKS["resnet32-cifar10"]()
    weights, macs = totals(network)
    normalised = sum(layer.out_channels for layer in network.layers[:-1])
    assert weights + 2 * normalised + 10 == 464_154
    assert macs == 68_862_592
    assert len(network.layers) == 32


def test_gemm_lengths():
    layer = NETWORKS["resnet18-imagenet"]().layers[5]
    assert layer == LayerShape("layer2.0.conv1", 64, 128, taps=9, positions=28 * 28)
    assert (layer.forward, layer.backward, layer.gradient(256)) == (576, 1152, 200_704)
    grouped = LayerShape("depthwise", 32, 64, taps=9, positions=49, groups=32)
    assert (grouped.forward, grouped.backward, grouped.weights) == (9, 18, 576)


def test_a_network_that_is_trained_here_has_the_shapes_of_its_definition():
    assert trained_here("resnet32-cifar10").layers == NETWORKS["resnet32-cifar10"]().layers
    digits = trained_here("mlp-digits")
    assert [(x.forward, x.backward, x.positions) for x in digits.layers] == [
        (64, 128, 1),
        (128, 64, 1),
        (64, 10, 1),
    ]


def test_the_digits_are_of_the_size_that_is_planned_for():
    from quaver.golden import data

    assert data.load("digits").shape == IMAGES["digits"]
    assert set(IMAGES) == set(data.NAMES)


def test_output_size():
    assert output_size(224, 7, 2, 3) == 112
    assert output_size(224, 11, 4, 2) == 55
    assert output_size(55, 3, 2, 0) == 27


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerShape("a", 0, 4), "a: in_channels is 0, but it must be at least 1"),
        (lambda: LayerShape("a", 4, 6, groups=4), "a: out_channels is 6, not a multiple of 4 groups"),
        (lambda: NetworkShape("n", (), 1), "n has no layers"),
        (lambda: NetworkShape("n", (LayerShape("a", 1, 1),), 0), "batch is 0"),
        (lambda: NetworkShape("n", (LayerShape("a", 1, 1),) * 2, 1), "n has 2 layers named a"),
        (lambda: trained_here("mlp-letters"), "the data set is 'letters', but there are digits"),
    ],
)
def test_wrong_shapes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Layer tables

TABLE = """\
name, in_channels, out_channels, kernel, stride, padding, height, width, groups, nonzero_forward
conv, 3, 16, 3x5, 1, 1, 32, 30, 1, 0.5
next, 16, 32, 3, 2, 1, 32, 28, 4,
fc, 512, 10, , , , , , ,
"""


@pytest.fixture
def table(tmp_path):
    def write(text, name="net.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_csv(table):
    assert read(table(TABLE), batch=8) == NetworkShape(
        "net",
        (
            LayerShape("conv", 3, 16, taps=15, positions=32 * 28, nonzero_ratios=(0.5, None, None)),
            LayerShape("next", 16, 32, taps=9, positions=16 * 14, groups=4),
            LayerShape("fc", 512, 10),
        ),
        batch=8,
    )


def test_json_says_the_same(table):
    lines = [line.split(",") for line in TABLE.replace(" ", "").splitlines()]
    rows = [{k: v for k, v in zip(lines[0], line, strict=True) if v} for line in lines[1:]]
    for row in rows:
        row.update({k: int(v) for k, v in row.items() if v.isdigit()})
    network = read(table(TABLE), batch=8)
    assert read(table(json.dumps(rows), "net.json"), batch=8) == network
    with_batch = table(json.dumps({"batch": 4, "layers": rows}), "net.json")
    assert read(with_batch) == NetworkShape("net", network.layers, batch=4)
    assert read(with_batch, batch=8) == network


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("conv, 3", "conv, 0"),
            "net.csv, line 2: in_channels is '0', but it must be a whole number, at least 1",
        ),
        (("conv, 3", "conv, three"), "line 2: in_channels is 'three'"),
        (("conv, 3", "conv, "), "line 2: in_channels is empty"),
        (("3x5", "3x5x7"), "line 2: kernel is '3x5x7', but it must be like 3, or 3x5"),
        (("3x5", "0"), "line 2: kernel is '0'"),
        ((", 2, 1, 32", ", 2, -1, 32"), "line 3: padding is '-1', but it must be a whole number, at least 0"),
        (("3x5, 1, 1, 32", "3x5, 1, 1, 0"), "line 2: height is '0'"),
        (("3x5", "35"), "line 2: a 35x35 kernel exceeds 32x30 pixels, padding 1"),
        (("28, 4", "28, 5"), "line 3: next: in_channels is 16, not a multiple of 5 groups"),
        (("0.5", "1.5"), "line 2: nonzero_forward is '1.5', but it is a share: above 0, at most 1"),
        (("groups", "group"), "line 1: 'group' is not a column; did you mean groups"),
        (("groups", "output_size"), r"line 1: 'output_size' is not a column\. The columns are name, "),
        (("out_channels", "height2"), "line 1: out_channels is missing"),
        (("fc, 512, 10, , , , , , ,", "fc, 512"), "line 4 has 2 cells, but line 1 names 10 columns"),
        (("fc, 512", "next, 512"), "net has 2 layers named next; rename them"),
    ],
)
def test_bad_rows(table, change, message):
    assert change[0] in TABLE
    with pytest.raises(ValueError, match=message):
        read(table(TABLE.replace(*change)), batch=8)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("{", "n.json", "n.json is not JSON"),
        ("3", "n.json", "n.json holds no list of layers"),
        ("[3]", "n.json", "n.json, layer 1 is 3, but a layer is an object"),
        ('[{"name": "a", "in_channels": 1}]', "n.json", "layer 1: out_channels is missing"),
        ('[{"name": 7, "in_channels": 1, "out_channels": 1}]', "n.json", "name is 7, but it must be"),
        (
            '[{"name": "a", "in_channels": -3, "out_channels": 1}]',
            "n.json",
            "layer 1: in_channels is -3, but it must be a whole number, at least 1",
        ),
        (
            '[{"name": "a", "in_channels": 3, "out_channels": 1, "nonzero_forward": true}]',
            "n.json",
            "nonzero_forward is True, but it is a share",
        ),
        ('{"batch": 0, "layers": []}', "n.json", "n.json: batch is 0"),
        ("[]", "n.json", "n has no layers"),
        ("", "n.csv", "line 1: name is missing"),
        ("name,in_channels,out_channels,name\na,3,8,b\n", "n.csv", "line 1: name stands there 2 times"),
        ("[" * 100_000, "n.json", "n.json is not JSON: maximum recursion depth exceeded"),
        ("", "n.pt", "ends in '.pt', but a layer table is a .csv, .tsv, .json, .onnx file"),
    ],
)
def test_files_that_are_no_tables(table, text, name, message):
    with pytest.raises(ValueError, match=message):
        read(table(text, name), batch=1)


def test_a_table_in_another_encoding(tmp_path):
    file = tmp_path / "n.csv"
    file.write_bytes("name,in_channels,out_channels\né,3,8\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"n.csv is not UTF-8: 'utf-8' codec can't decode byte 0xe9"):
        read(file, batch=1)


def test_a_table_without_a_batch(table):
    with pytest.raises(ValueError, match="does not say how many images a step takes; add --batch"):
        read(table(TABLE))


def test_no_such_file(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)  # whether it is installed or not
    for name in ("n.csv", "n.json", "n.onnx"):
        with pytest.raises(FileNotFoundError, match=name):
            read(tmp_path / name, batch=1)


def test_onnx_without_the_package(table, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(
        ImportError, match=r"reading ONNX needs the onnx package; install it: pip install onnx"
    ):
        read(table("", "n.onnx"), batch=1)


def test_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    numpy_helper, helper = onnx.numpy_helper, onnx.helper
    import numpy as np

    def weight(name, *shape):
        return numpy_helper.from_array(np.zeros(shape, np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", ["x", "w1"], ["c"], "conv", kernel_shape=[3, 5], strides=[2, 1], group=2
            ),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("Gemm", ["f", "w2"], ["g"], "gemm", transB=1),
            helper.make_node("MatMul", ["g", "w3"], ["y"], "matmul"),
        ],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4, 9, 9])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])],
        [weight("w1", 6, 2, 3, 5), weight("w2", 7, 6 * 4 * 5), weight("w3", 7, 3)],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), path)
    assert read(path, batch=2).layers == (
        LayerShape("conv", 4, 6, taps=15, positions=20, groups=2),
        LayerShape("gemm", 120, 7),
        LayerShape("matmul", 7, 3),
    )
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="is not an ONNX model"):
        read(path, batch=2)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.onnx", batch=2)
