"""A network's layer shapes from a file: a CSV or JSON layer table, or an ONNX model.

CSV has a line of column names and a line a layer, with cells between commas, semicolons or tabs, whichever
the first line has; with semicolons or tabs a share may be written 0,5. JSON has a list of objects with the
same keys, or ``{"batch": 256, "layers": [...]}``. The columns:

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
import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any

from quaver.golden import strict_json
from quaver.golden.planning.networks import LayerShape, NetworkShape, output_size

REQUIRED = ("name", "in_channels", "out_channels")
DEFAULTS = {"kernel": "1", "stride": 1, "padding": 0, "height": 1, "width": None, "groups": 1}
RATIOS = ("nonzero_forward", "nonzero_backward", "nonzero_gradient")
COLUMNS = (*REQUIRED, *DEFAULTS, *RATIOS)

#: A whole number in digits, of a length that a sum may have: int would take 1_000 and digits of any script.
_NUMBER = re.compile(r"[-+]?[0-9]{1,18}")

#: File name endings that `read` takes, in any case.
ENDINGS = (".csv", ".tsv", ".json", ".onnx")


def read(
    path: str | Path,
    batch: int | None = None,
    *,
    axes: Mapping[str, int] | None = None,
    skip_unknown: bool = False,
) -> NetworkShape:
    """The network in a file; `batch` overrules the one in the file.

    `axes` and `skip_unknown` are for ONNX models: `quaver.golden.planning.onnx_layers.read_onnx`.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is none of `ENDINGS`, or something in it is wrong or not understood: says where, the value, and
        what it must be.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"{path} ends in {path.suffix!r}, but a layer table is a {', '.join(ENDINGS)} file")
    if ending == ".onnx":
        return _onnx(path, batch, axes, skip_unknown)
    if axes or skip_unknown:
        raise ValueError(f"{path} is no ONNX model, which alone has open axes and unknown nodes")
    layers, in_file = _json(path) if ending == ".json" else (_csv(path), None)
    batch = in_file if batch is None else batch
    if batch is None:
        raise _no_batch(path)
    try:
        return NetworkShape(path.stem, tuple(layers), batch)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _no_batch(path: Path) -> ValueError:
    return ValueError(f"{path} does not say how many images a step takes; add --batch, e.g. --batch 256")


def _csv(path: Path) -> list[LayerShape]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}; save it as CSV in UTF-8") from None
    delimiter = _delimiter(next(iter(text.splitlines()), ""), f"{path}, line 1")
    # Strict: a quotation mark that nothing closes would take the layers after it into one cell.
    rows = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        columns = [name.strip() for name in rows.fieldnames or ()]
        rows.fieldnames = columns
        _check_columns(columns, f"{path}, line 1")
        layers = []
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where} has {_cells(row)} cells, but line 1 names {len(columns)} columns")
            cells = {name: value.strip() for name, value in row.items() if value.strip()}
            if delimiter != ",":
                cells |= {name: cells[name].replace(",", ".") for name in RATIOS if name in cells}
            layers.append(_layer(cells, where))
    except csv.Error as error:
        raise ValueError(
            f"{path}, after line {rows.line_num}: {error}; is there a quotation mark too many?"
        ) from None
    return layers


def _delimiter(header: str, where: str) -> str:
    """The delimiter between the names of the columns, none of which contains a comma, semicolon or tab."""
    found = [delimiter for delimiter in ",;\t" if delimiter in header]
    if len(found) > 1:
        raise ValueError(
            f"{where}: cells stand between {' and '.join(map(repr, found))}; "
            "take one of comma, semicolon and tab"
        )
    return found[0] if found else ","


def _cells(row: dict[Any, Any]) -> int:
    return len(row.get(None, ())) + sum(value is not None for key, value in row.items() if key is not None)


def _json(path: Path) -> tuple[list[LayerShape], int | None]:
    try:
        content = strict_json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    batch = None
    if isinstance(content, dict):
        for key in content:
            if key not in ("batch", "layers"):
                raise ValueError(f"{path}: {key!r} is not known; there are batch and layers")
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
                + (f"; did you mean {close[0]}?" if close else ".")
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
    if len(sides) > 2 or not all(_NUMBER.fullmatch(side.strip()) and int(side) > 0 for side in sides):
        raise ValueError(
            f"{where}: kernel is {row['kernel']!r:.40}, but it must be like 3, or 3x5 for height and width"
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
    text = str(row[column])  # true is no number
    value = int(text) if _NUMBER.fullmatch(text.strip()) else None
    if value is None or value < least:
        raise ValueError(
            f"{where}: {column} is {row[column]!r:.40}, but it must be a whole number, at least {least}"
        )
    return value


def _ratio(row: dict[str, Any], column: str, where: str) -> float:
    try:
        value = float(str(row[column]))  # true is no share
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value <= 1:
        raise ValueError(f"{where}: {column} is {row[column]!r:.40}, but it is a share: above 0, at most 1")
    return value


def _onnx(path: Path, batch: int | None, axes: Mapping[str, int] | None, skip_unknown: bool) -> NetworkShape:
    path.open("rb").close()  # an OSError that names the file
    try:
        import_module("onnx")  # an optional extra
    except ImportError:
        raise ImportError(
            f"{path}: reading ONNX needs the onnx package; install it: pip install onnx"
        ) from None
    from quaver.golden.planning.onnx_layers import read_onnx

    if batch is None:
        raise _no_batch(path)
    return read_onnx(path, batch, axes=axes, skip_unknown=skip_unknown)
