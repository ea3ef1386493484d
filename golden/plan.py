"""Which accumulator each GEMM of a network needs: `golden.accumulation` on `golden.networks`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

from golden.accumulation import (
    ChunkRule,
    NotMonotoneWarning,
    best_chunk,
    loss,
    minimum_mantissa_bits,
)
from golden.networks import LayerShape, NetworkShape

#: A layer's GEMMs, as `golden.nn` calls them.
ROLES = ("forward", "backward", "gradient")


@dataclass(frozen=True)
class Width:
    """An accumulator that is wide enough: its mantissa bits, the chunk (None: no chunks), and its ln v(n).

    `not_monotone`: the formula is not monotone in the width there, see `accumulation.NotMonotoneWarning`.
    """

    chunk: int | None
    mantissa_bits: int
    loss: float
    not_monotone: bool

    def __post_init__(self) -> None:
        chunk = 1 if self.chunk is None else self.chunk
        for name, value in (("mantissa_bits", self.mantissa_bits), ("chunk", chunk)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}, but it must be a whole number, at least 1")


@dataclass(frozen=True)
class GemmPlan:
    """One GEMM of one layer: forward, backward or gradient.

    `plain` sums without chunks, `chunked` in the plan's chunk, `best` in the chunk that takes fewest bits.
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
    """The whole network. `plain`, `chunked` and `best` are one accumulator that serves every GEMM of it."""

    network: str
    batch: int
    product_mantissa: int
    chunk: int
    rule: ChunkRule
    layers: tuple[LayerPlan, ...]
    plain: Width
    chunked: Width
    best: Width

    def to_json(self) -> str:
        """The plan as JSON, field for field; `from_json` gives an equal one back."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan of `to_json`; keys that it does not write are not looked at. ValueError: it is none."""
        try:
            return _plan(json.loads(text))
        except KeyError as error:
            raise ValueError(f"not a plan: {error} is missing") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"not a plan: {error}") from error


def _plan(data: dict[str, Any]) -> Plan:
    def made(kind: Any, data: dict[str, Any], **parts: Any) -> Any:
        return kind(**{f.name: data[f.name] for f in fields(kind)} | parts)

    def widths(data: dict[str, Any]) -> dict[str, Width]:
        return {name: made(Width, data[name]) for name in ("plain", "chunked", "best")}

    def layer(data: dict[str, Any]) -> LayerPlan:
        shape = made(LayerShape, data["shape"], nonzero_ratios=tuple(data["shape"]["nonzero_ratios"]))
        return LayerPlan(shape, tuple(made(GemmPlan, gemm, **widths(gemm)) for gemm in data["gemms"]))

    layers = tuple(layer(one) for one in data["layers"])
    NetworkShape(data["network"], tuple(one.shape for one in layers), data["batch"])  # which checks them
    for one in layers:
        if (roles := tuple(gemm.role for gemm in one.gemms)) not in (ROLES, ROLES[::2]):
            raise ValueError(f"{one.shape.name} has the GEMMs {roles}, but a layer's are {ROLES}")
    return made(Plan, data, rule=ChunkRule(data["rule"]), layers=layers, **widths(data))


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
    chunk
        Products in a chunk for the `chunked` widths.
    nonzero_ratios
        Of the forward, backward and gradient GEMMs, for the layers that do not state their own.
    rule, product_mantissa
        As in `golden.accumulation.loss`.

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
        layers.append(LayerPlan(shape, tuple(gemms if number else gemms[::2])))
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
    )
