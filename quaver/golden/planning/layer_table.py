"""A network's layer shapes from a file: a CSV or JSON layer table, or an ONNX model.

CSV has a line of column names and a line a layer; JSON has a list of objects with the same keys, or
``{"batch": 256, "layers": [...]}``. The columns:

==================  ===========  ==========================================================================
column              left out     meaning
==================  ===========  ==========================================================================
name                             the layer's name, unique
in_channels                      C_in; for a linear layer its inputs
out_channels                     C_out; for a linear layer its outputs
kernel              1            kernel height and width, 3 or 3x5
stride, padding     1, 0         of a convolution
height              1            rows that enter the layer; for a linear layer on a sequence, its length
width               the height   columns that enter the layer; for a linear layer on a sequence, 1
groups              1            groups of a convolution
nonzero_forward     not known    share of the forward GEMM's products that are not zero, above 0, at most 1
nonzero_backward    not known    … of the backward GEMM
nonzero_gradient    not known    … of the gradient GEMM
==================  ===========  ==========================================================================
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any

from quaver.golden.planning.networks import LayerShape, NetworkShape, output_size

REQUIRED = ("name", "in_channels", "out_channels")
DEFAULTS = {"kernel": "1", "stride": 1, "padding": 0, "height": 1, "width": None, "groups": 1}
RATIOS = ("nonzero_forward", "nonzero_backward", "nonzero_gradient")
COLUMNS = (*REQUIRED, *DEFAULTS, *RATIOS)

#: File name endings that `read` takes.
ENDINGS = (".csv", ".json", ".onnx")


def read(path: str | Path, batch: int | None = None) -> NetworkShape:
    """The network in a file; `batch` overrules the one in the file.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is none of `ENDINGS`, or something in it is wrong: says where, the value, and what it must be.
    """
    path = Path(path)
    if path.suffix == ".csv":
        layers = _csv(path)
    elif path.suffix == ".json":
        layers, in_file = _json(path)
        batch = batch or in_file
    elif path.suffix == ".onnx":
        layers = _onnx(path)
    else:
        raise ValueError(f"{path} ends in {path.suffix!r}, but a layer table is a {', '.join(ENDINGS)} file")
    if batch is None:
        raise ValueError(f"{path} does not say how many images a step takes; add --batch, e.g. --batch 256")
    return NetworkShape(path.stem, tuple(layers), batch)


def _csv(path: Path) -> list[LayerShape]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    rows = csv.DictReader(StringIO(text, newline=""), skipinitialspace=True)
    _check_columns(list(rows.fieldnames or ()), f"{path}, line 1")
    layers = []
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if None in row or None in row.values():
            raise ValueError(
                f"{where} has {_cells(row)} cells, but line 1 names {len(rows.fieldnames or ())} columns"
            )
        layers.append(_layer({k: v.strip() for k, v in row.items() if v.strip()}, where))
    return layers


def _cells(row: dict[Any, Any]) -> int:
    return len(row.get(None, ())) + sum(value is not None for key, value in row.items() if key is not None)


def _json(path: Path) -> tuple[list[LayerShape], int | None]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    batch = None
    if isinstance(content, dict):
        batch = _integer(content, "batch", f"{path}", 1) if "batch" in content else None
        content = content.get("layers")
    if not isinstance(content, list):
        raise ValueError(f'{path} holds no list of layers; write [{{"name": …}}, …] or {{"layers": [ … ]}}')
    layers = []
    for number, row in enumerate(content, start=1):
        where = f"{path}, layer {number}"
        if not isinstance(row, dict):
            raise ValueError(
                f"{where} is {row!r}, but a layer is an object with the keys {', '.join(REQUIRED)}, …"
            )
        _check_columns(list(row), where)
        layers.append(_layer(row, where))
    return layers, batch


def _check_columns(columns: list[str], where: str) -> None:
    for column in REQUIRED:
        if column not in columns:
            raise ValueError(f"{where}: {column} is missing; the columns are {', '.join(COLUMNS)}")
    for column in columns:
        if columns.count(column) > 1:
            raise ValueError(f"{where}: {column} stands there {columns.count(column)} times; keep one")
        if column not in COLUMNS:
            close = get_close_matches(column, COLUMNS, 1)
            raise ValueError(
                f"{where}: {column!r} is not a column"
                + (f"; did you mean {close[0]}?" if close else "")
                + f" The columns are {', '.join(COLUMNS)}"
            )


def _layer(row: dict[str, Any], where: str) -> LayerShape:
    for column in REQUIRED:
        if row.get(column) in (None, ""):
            raise ValueError(f"{where}: {column} is empty; give a value")
    if not isinstance(row["name"], str):
        raise ValueError(f"{where}: name is {row['name']!r}, but it must be a string")
    row = DEFAULTS | row
    size = {column: _integer(row, column, where, 1) for column in ("in_channels", "out_channels", "groups")}
    stride, padding = _integer(row, "stride", where, 1), _integer(row, "padding", where, 0)
    height = _integer(row, "height", where, 1)
    width = height if row["width"] is None else _integer(row, "width", where, 1)
    sides = str(row["kernel"]).lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdigit() and int(side) > 0 for side in sides):
        raise ValueError(
            f"{where}: kernel is {row['kernel']!r}, but it must be like 3, or 3x5 for height and width"
        )
    kernel = (int(sides[0]), int(sides[-1]))
    outputs = [output_size(n, k, stride, padding) for n, k in zip((height, width), kernel, strict=True)]
    if min(outputs) < 1:
        raise ValueError(
            f"{where}: a {kernel[0]}x{kernel[1]} kernel exceeds {height}x{width} pixels, padding {padding}"
        )
    ratios = tuple(None if row.get(column) is None else _ratio(row, column, where) for column in RATIOS)
    try:
        return LayerShape(
            str(row["name"]),
            **size,
            taps=prod(kernel),
            positions=prod(outputs),
            nonzero_ratios=ratios,  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _integer(row: dict[str, Any], column: str, where: str, least: int) -> int:
    try:
        value = int(str(row[column]))
    except ValueError:
        value = least - 1
    if value < least:
        raise ValueError(
            f"{where}: {column} is {row[column]!r}, but it must be a whole number, at least {least}"
        )
    return value


def _ratio(row: dict[str, Any], column: str, where: str) -> float:
    try:
        value = float(str(row[column]))  # true is no share
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value <= 1:
        raise ValueError(f"{where}: {column} is {row[column]!r}, but it is a share: above 0, at most 1")
    return value


def _onnx(path: Path) -> list[LayerShape]:
    """The Conv, Gemm and MatMul nodes with constant weights; no other ONNX operator is a GEMM that learns."""
    path.open("rb").close()  # an OSError that names the file
    try:
        onnx = import_module("onnx")  # an optional extra
    except ImportError:
        raise ImportError(
            f"{path}: reading ONNX needs the onnx package; install it: pip install onnx"
        ) from None
    try:
        graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    except Exception as error:  # protobuf's own errors share no base
        raise ValueError(f"{path} is not an ONNX model: {error}") from None
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    return list(_onnx_layers(graph, weights, shapes, path))


def _onnx_layers(
    graph: Any, weights: dict[str, list[int]], shapes: dict[str, list[int]], path: Path
) -> Iterator[LayerShape]:
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in weights:
            continue
        name, weight = node.name or node.output[0], weights[node.input[1]]
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        output = shapes.get(node.output[0], [])
        if node.op_type == "Conv":
            groups, taps, places = attributes.get("group", 1), prod(weight[2:]), output[2:]
            inputs, outputs = weight[1] * groups, weight[0]
        else:
            groups, taps, places = 1, 1, output[1:-1]
            inputs, outputs = reversed(weight) if attributes.get("transB") else weight
        if not output or 0 in places:
            raise ValueError(
                f"{path}: {name} has no fixed output size; export the model with a fixed input size"
            )
        yield LayerShape(name, inputs, outputs, taps, prod(places), groups)
