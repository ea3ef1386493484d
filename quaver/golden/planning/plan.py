"""Which accumulator each GEMM of a network needs: `variance_retention` on the shapes of `networks`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import cache
from math import inf
from typing import Any

from quaver.golden import strict_json
from quaver.golden.float_environment import standard_floats
from quaver.golden.planning.networks import LayerShape, NetworkShape
from quaver.golden.planning.variance_retention import (
    ChunkRule,
    NotMonotoneWarning,
    best_chunk,
    loss,
    minimum_mantissa_bits,
)

#: The version of the plan's JSON. A file that states none has the first version.
VERSION = 1

#: Fields that `quaver plan -o` adds to a plan: the area of each of its widths, and versions.
ANNOTATIONS = {"version", "area", "area_fp32", "area_measured", "versions"}

#: A layer's GEMMs, as `quaver.golden.nn` calls them.
ROLES = ("forward", "backward", "gradient")


@dataclass(frozen=True)
class Width:
    """An accumulator that is wide enough.

    Attributes
    ----------
    chunk
        Products in a chunk; None: the sum has no chunks.
    mantissa_bits
        The accumulator's mantissa bits, the hidden one not counted.
    loss
        ln v(n), of which `quaver.golden.planning.variance_retention.LARGEST_LOSS` is the limit; of several
        GEMMs the largest.
    not_monotone
        Whether the formula is not monotone in the width there: see
        `quaver.golden.planning.variance_retention.NotMonotoneWarning`.
    """

    chunk: int | None
    mantissa_bits: int
    loss: float
    not_monotone: bool


@dataclass(frozen=True)
class GemmPlan:
    """One GEMM of one layer, and the accumulators that are wide enough for it.

    Attributes
    ----------
    role
        "forward", "backward" or "gradient".
    length
        Products in each of its dot products.
    nonzero_ratio
        The share of these that is not zero, above 0 and at most 1.
    plain, chunked, best
        The narrowest accumulator without chunks, with the plan's chunk, and with the chunk that needs the
        fewest bits.
    """

    role: str
    length: int
    nonzero_ratio: float
    plain: Width
    chunked: Width
    best: Width


@dataclass(frozen=True)
class LayerPlan:
    """A layer and its GEMMs, in the order forward, backward, gradient; the first layer has no backward."""

    shape: LayerShape
    gemms: tuple[GemmPlan, ...]


@dataclass(frozen=True)
class Plan:
    """The accumulators that a network needs, GEMM by GEMM and as a whole.

    Attributes
    ----------
    network
        Its name.
    batch
        Images in a training step.
    product_mantissa
        Mantissa bits of the products: 5 for FP8 operands.
    chunk
        Products in a chunk of the `chunked` widths.
    rule
        What is asked of a sum in chunks.
    layers
        The plan of each layer, in the network's order.
    plain, chunked, best
        The narrowest accumulator that serves every GEMM: without chunks, with `chunk`, and with the chunk
        that needs the fewest bits.
    remarks
        What a reader should know of the network's layers, as `NetworkShape.remarks`.
    """

    network: str
    batch: int
    product_mantissa: int
    chunk: int
    rule: ChunkRule
    layers: tuple[LayerPlan, ...]
    plain: Width
    chunked: Width
    best: Width
    remarks: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """The plan as JSON has it: its fields, and "version", the version of this layout."""
        return {"version": VERSION, **asdict(self)}

    def to_json(self) -> str:
        """The plan as JSON; `from_json` gives an equal one back."""
        return json.dumps(self.as_data(), indent=1)

    @staticmethod
    def from_json(text: str | bytes) -> Plan:
        """The plan that `to_json` or `quaver plan -o` wrote; the latter's areas and versions are ignored.

        Raises
        ------
        ValueError
            The text is no plan, or one of its fields is unknown, missing or of the wrong type; the message
            names it.
        """
        try:
            return _plan(strict_json.loads(text))
        except ValueError as error:
            raise ValueError(f"not a plan: {error}") from error


#: What a field in JSON is, by the type of the dataclass's field: whether a value is one, and in words.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (lambda value: type(value) is int and value >= 1, "a whole number, at least 1"),
    "float": (lambda value: type(value) in (int, float) and 0 <= value < inf, "a number, at least 0"),
    "bool": (lambda value: type(value) is bool, "true or false"),
    "str": (lambda value: type(value) is str, "a string"),
    "list": (lambda value: type(value) is list, "a list"),
    "object": (lambda value: type(value) is dict, "an object"),
}
_KINDS["int | None"] = (lambda value: value is None or _KINDS["int"][0](value), _KINDS["int"][1])


def _get(data: Any, name: str, kind: str, where: str) -> Any:
    """The field `name` of `data`, which stands at `where`. ValueError: it is missing or of another kind."""
    if type(data) is not dict:
        raise ValueError(f"{where}it is {data!r:.40}, but it must be an object")
    if name not in data:
        raise ValueError(f"{where}{name!r} is missing")
    fits, what = _KINDS[kind]
    if not fits(data[name]):
        raise ValueError(f"{where}{name} is {data[name]!r:.40}, but it must be {what}")
    return data[name]


def _made(kind: Any, data: Any, where: str, **parts: Any) -> Any:
    known = {field.name for field in fields(kind)}
    for name in data:
        if name not in known | ANNOTATIONS:
            close = get_close_matches(name, known, 1)
            more = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{where}{name!r:.40} is not known{more}")
    read = [field for field in fields(kind) if field.name not in parts]
    return kind(**{field.name: _get(data, field.name, str(field.type), where) for field in read}, **parts)


def _widths(data: Any, chunk: int, where: str) -> dict[str, Width]:
    names = ("plain", "chunked", "best")
    found = {n: _made(Width, _get(data, n, "object", where), f"{where}{n}: ") for n in names}
    for name, wanted in (("plain", None), ("chunked", chunk)):
        if (there := found[name].chunk) != wanted:
            raise ValueError(f"{where}{name}: chunk is {there}, but it must be {wanted}")
    return found


def _layer(data: Any, batch: int, chunk: int, where: str) -> LayerPlan:
    shape = _get(data, "shape", "object", where)
    ratios = _get(shape, "nonzero_ratios", "list", where)
    if len(ratios) != 3 or not all(ratio is None or _is_share(ratio) for ratio in ratios):
        raise ValueError(f"{where}nonzero_ratios is {ratios}, but it must be three of null or shares above 0")
    made = _made(LayerShape, shape, where, nonzero_ratios=tuple(ratios))
    lengths = dict(zip(ROLES, (made.forward, made.backward, made.gradient(batch)), strict=True))
    gemms = []
    for one in _get(data, "gemms", "list", where):
        role = _get(one, "role", "str", where)
        there = f"{where}{role}: "
        gemm = _made(GemmPlan, one, there, **_widths(one, chunk, there))
        if gemm.length != lengths.get(role):
            raise ValueError(f"{there}length is {gemm.length}, but the layer's is {lengths.get(role)}")
        if not _is_share(gemm.nonzero_ratio):
            raise ValueError(f"{there}nonzero_ratio is {gemm.nonzero_ratio}, but it is a share above 0")
        gemms.append(gemm)
    roles = tuple(gemm.role for gemm in gemms)
    if roles not in (ROLES, ROLES[::2]):
        raise ValueError(f"{where}the GEMMs are {roles}, but a layer's are {ROLES}")
    return _made(LayerPlan, data, where, shape=made, gemms=tuple(gemms))


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def _plan(data: Any) -> Plan:
    version = _get({"version": VERSION} | data if type(data) is dict else data, "version", "int", "")
    if version > VERSION:
        raise ValueError(f"version is {version}, but this quaver reads up to {VERSION}; install a newer one")
    batch, chunk = (_get(data, name, "int", "") for name in ("batch", "chunk"))
    layers = tuple(
        _layer(one, batch, chunk, f"layer {number}: ")
        for number, one in enumerate(_get(data, "layers", "list", ""), start=1)
    )
    NetworkShape(_get(data, "network", "str", ""), tuple(one.shape for one in layers), batch)  # which checks
    rule = ChunkRule(_get(data, "rule", "str", ""))
    remarks = _get({"remarks": []} | data, "remarks", "list", "")
    if not all(type(remark) is str for remark in remarks):
        raise ValueError(f"remarks is {remarks!r:.40}, but it must be a list of strings")
    widths = _widths(data, chunk, "")
    return _made(Plan, data, "", rule=rule, layers=layers, remarks=tuple(remarks), **widths)


@standard_floats
def plan(
    network: NetworkShape,
    *,
    chunk: int = 64,
    nonzero_ratios: tuple[float, float, float] = (1.0, 1.0, 1.0),
    rule: ChunkRule | str = ChunkRule.EACH_STAGE,
    product_mantissa: int = 5,
) -> Plan:
    """The accumulators that `network` needs.

    Parameters
    ----------
    network
        Its layers and batch: of `NETWORKS`, `trained_here`, or `quaver.golden.planning.layer_table.read`.
    chunk
        Products in a chunk for the `chunked` widths.
    nonzero_ratios
        Shares of products that are not zero in the forward, backward and gradient GEMMs of layers that do
        not state their own.
    rule, product_mantissa
        As in `quaver.golden.planning.variance_retention.loss`.

    Raises
    ------
    ValueError
        A chunk below 1, a ratio outside (0, 1].
    """
    rule = ChunkRule(rule)

    def width(gemms: Iterable[tuple[int, float]], chunk: int | None, bits: int) -> Width:
        worst = max(
            float(loss(n, bits, chunk=chunk, nonzero_ratio=r, rule=rule, product_mantissa=product_mantissa))
            for n, r in gemms
        )
        return Width(chunk, bits, worst, not_monotone=bits > 3 * product_mantissa)

    def narrowest(length: int, ratio: float, chunk: int | None) -> Width:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotMonotoneWarning)  # the Width says it
            bits = minimum_mantissa_bits(
                length, chunk=chunk, nonzero_ratio=ratio, rule=rule, product_mantissa=product_mantissa
            )
        return width([(length, ratio)], chunk, bits)

    def best(gemms: Sequence[tuple[int, float]]) -> Width:
        lengths, ratios = zip(*gemms, strict=True)
        found = best_chunk(lengths, nonzero_ratio=ratios, rule=rule, product_mantissa=product_mantissa)
        return width(gemms, *found)

    @cache
    def gemm(role: str, length: int, ratio: float) -> GemmPlan:
        plain, chunked = (narrowest(length, ratio, c) for c in (None, chunk))
        return GemmPlan(role, length, ratio, plain, chunked, best([(length, ratio)]))

    layers = []
    for number, shape in enumerate(network.layers):
        lengths = (shape.forward, shape.backward, shape.gradient(network.batch))
        ratios = (
            given if own is None else own
            for own, given in zip(shape.nonzero_ratios, nonzero_ratios, strict=True)
        )
        gemms = [gemm(*which) for which in zip(ROLES, lengths, ratios, strict=True)]
        layers.append(LayerPlan(shape, tuple(gemms if number or network.learns_before else gemms[::2])))
    every = {(g.length, g.nonzero_ratio): g for layer in layers for g in layer.gemms}
    return Plan(
        network.name,
        network.batch,
        product_mantissa,
        chunk,
        rule,
        tuple(layers),
        plain=width(every, None, max(g.plain.mantissa_bits for g in every.values())),
        chunked=width(every, chunk, max(g.chunked.mantissa_bits for g in every.values())),
        best=best(sorted(every)),
        remarks=network.remarks,
    )
