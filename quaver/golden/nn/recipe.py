"""Recipe: which arithmetic each GEMM, cast and update of a training run uses. One frozen, readable object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from functools import lru_cache, reduce
from itertools import chain
from numbers import Real
from operator import or_
from types import NoneType
from typing import Any, ClassVar

from quaver.golden import strict_json
from quaver.golden.arithmetic import ARITHMETICS
from quaver.golden.arithmetic.bitstream import Bitstream
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.engine import Arithmetic, UpdateRule
from quaver.golden.formats import FORMATS, FP16, BlockFormat, FixedFormat, FloatFormat, Format
from quaver.golden.nn.quantisers import (
    Clip,
    DoReFaWeights,
    FullScale,
    Quantiser,
    SAWBWeights,
    WeightQuantiser,
)
from quaver.golden.rounding import RANDOM_BITS, Rounding
from quaver.golden.update.fixed_sgd import FixedSGD
from quaver.golden.update.float_sgd import FloatSGD, check_format
from quaver.golden.validation import set_integers


class Role(StrEnum):
    """What a GEMM is for."""

    FORWARD = "forward"
    """inputs · weights"""
    BACKWARD = "backward"
    """errors · weights, transposed"""
    GRADIENT = "gradient"
    """inputs, transposed · errors"""


#: What A and B of each GEMM are.
OPERANDS: dict[Role, tuple[str, str]] = {
    Role.FORWARD: ("inputs", "weights"),
    Role.BACKWARD: ("errors", "weights"),
    Role.GRADIENT: ("inputs", "errors"),
}

#: The axis of each operand that the GEMM sums up, or of several the one that blocks lie along: features and
#: channels, of gradients the batch.
SUMMED: dict[tuple[Role, str], int] = {
    (Role.FORWARD, "inputs"): 1,
    (Role.FORWARD, "weights"): 0,
    (Role.BACKWARD, "errors"): 1,
    (Role.BACKWARD, "weights"): 1,
    (Role.GRADIENT, "inputs"): 0,
    (Role.GRADIENT, "errors"): 0,
}


def _check_kinds(thing: Any, **kinds: Any) -> None:
    """TypeError: a field is not of its kind, as in a recipe that was written by hand."""
    for name, kind in kinds.items():
        if not isinstance(value := getattr(thing, name), kind):
            known = [one for one in getattr(kind, "__args__", (kind,)) if one is not NoneType]
            names = [list(FORMATS) if one is Format else [_name(one)] for one in known]
            wanted = " or ".join(chain.from_iterable(names))
            raise TypeError(f"{name} is {value!r}, but it must be {wanted}")


@dataclass(frozen=True)
class Precision:
    """How one layer computes: its three GEMMs, and what their operands are cast to on the way in.

    Parameters
    ----------
    forward, backward, gradient
        Arithmetic of each GEMM; None: a plain float32 matrix product. `OPERANDS` says which tensor is its A
        and which its B.
    inputs, weights, errors
        Format that the tensor is rounded to before it enters a GEMM, whose operand format must hold it
        exactly: FP8 weights may enter a GEMM of FP16 operands. None: the tensor is rounded to the operand
        format of each GEMM that it enters, and to nothing else. Inputs may have a `Clip` and weights a
        quantiser of weights in a format's place: then the forward GEMM multiplies integers and its results
        are multiplied by both scales, and the other GEMMs take the quantised values. `FullScale` does the
        same for every GEMM of bit streams, for one tensor or both, and errors may have it too. Of a
        `BlockFormat` the
        blocks lie along the axis that the GEMM sums up, of images the channels; an operand format that is too
        narrow rounds its values again.

    Raises
    ------
    TypeError
        A field is no arithmetic, or neither a format nor a quantiser.
    ValueError
        A GEMM's operand format does not hold every value of a tensor's format; the forward GEMM is of
        integers, but a tensor has no quantiser, or has one, and the forward GEMM is another.
    """

    forward: Arithmetic | None = None
    backward: Arithmetic | None = None
    gradient: Arithmetic | None = None
    inputs: Format | BlockFormat | Clip | FullScale | None = None
    weights: Format | BlockFormat | WeightQuantiser | None = None
    errors: Format | BlockFormat | FullScale | None = None

    def __post_init__(self) -> None:
        gemm = reduce(or_, ARITHMETICS.values(), None)
        _check_kinds(self, forward=gemm, backward=gemm, gradient=gemm)
        cast_to = Format | BlockFormat
        _check_kinds(self, inputs=cast_to | Clip | FullScale | None, errors=cast_to | FullScale | None)
        _check_kinds(self, weights=cast_to | WeightQuantiser | None)
        quantised = {tensor: isinstance(getattr(self, tensor), Quantiser) for tensor in ("inputs", "weights")}
        exact = isinstance(self.forward, Integer)
        for tensor, is_quantised in quantised.items():
            if exact and not is_quantised:
                raise ValueError(
                    f"the forward GEMM is {self.forward}, of integers, but {tensor} have no quantiser that "
                    f"gives them a scale; give inputs a Clip, and weights DoReFaWeights or SAWBWeights"
                )
            if isinstance(getattr(self, tensor), FullScale):
                if not isinstance(self.forward, Bitstream):
                    raise ValueError(
                        f"{tensor} are at full scale, which is for bit streams, but the forward GEMM is "
                        f"{self.forward}; take Bitstream, or another quantiser"
                    )
            elif is_quantised and not exact and self.forward is not None:
                raise ValueError(
                    f"{tensor} are quantised, but the forward GEMM is {self.forward}; take Integer, or None "
                    f"for a product of the quantised values in float32"
                )
        if isinstance(self.errors, FullScale) and not any(
            map(self.is_scaled, (Role.BACKWARD, Role.GRADIENT))
        ):
            raise ValueError(
                f"errors are at full scale, which is for bit streams, but the backward GEMM is "
                f"{self.backward} and the gradient GEMM {self.gradient}; take Bitstream for one of them"
            )
        for role, tensors in OPERANDS.items():
            arithmetic: Arithmetic | None = getattr(self, role)
            if arithmetic is None:
                continue
            for tensor, operand in zip(tensors, (arithmetic.a, arithmetic.b), strict=True):
                cast = getattr(self, tensor)
                if isinstance(cast, Quantiser):
                    if not self.is_scaled(role):
                        continue  # quantised values are reals there, which it rounds as it rounds any
                    cast = cast.format
                if isinstance(cast, Format) and not operand.holds(cast):
                    raise ValueError(
                        f"{tensor} are cast to {cast}, but the {role} GEMM takes them as {operand}, which "
                        f"does not hold every {cast}; widen the operand or narrow the cast"
                    )

    def is_scaled(self, role: Role) -> bool:
        """Whether the GEMM of this role takes the codes of quantised tensors, and its results are multiplied
        by their scales: the forward one, and those of bit streams."""
        arithmetic: Arithmetic | None = getattr(self, role)
        return isinstance(arithmetic, Bitstream) or (role is Role.FORWARD and arithmetic is not None)

    def operand(self, role: Role, tensor: str) -> Format | None:
        """The format in which the GEMM of this role takes this tensor, one of its two in `OPERANDS`; None:
        float32."""
        arithmetic: Arithmetic | None = getattr(self, role)
        if arithmetic is None:
            return None
        return arithmetic.a if tensor == OPERANDS[role][0] else arithmetic.b


@dataclass(frozen=True)
class LossScale:
    """The factor on the loss that keeps small errors in range; gradients are divided by it before the update.

    A step with an overflow in its backward or gradient GEMMs is not applied. An overflow at a dynamic scale
    of `FLOOR` or less ends the run, because a NaN would halve the scale for ever.

    Parameters
    ----------
    initial
        The factor at the start, positive and finite.
    grow_every
        Dynamic scaling: each step with an overflow halves the factor, and this many steps in a row without
        one double it. None: the factor is constant.

    Raises
    ------
    TypeError, ValueError
        `initial` is no positive finite number, or `grow_every` no integer of at least 1.
    """

    initial: float = 1.0
    grow_every: int | None = None

    FLOOR: ClassVar = 2.0**-13
    """About the 1e-4 of fairseq's --min-loss-scale, where fairseq stops too: errors that overflow even when
    they are made 2**13 times smaller do not overflow because of the scale."""

    def __post_init__(self) -> None:
        _check_kinds(self, initial=Real)
        if self.grow_every is not None:
            set_integers(self, "grow_every")
        if not (0 < self.initial < float("inf")):
            raise ValueError(f"the loss scale is {self.initial}, but it must be positive and finite")
        if self.grow_every is not None and self.grow_every < 1:
            raise ValueError(
                f"grow_every is {self.grow_every}, but the scale grows after 1 or more good steps"
            )


#: Begins far up, is halved by each overflow, and tries a doubled scale after every 200 good steps.
DYNAMIC = LossScale(2.0**16, grow_every=200)


@dataclass(frozen=True)
class UpdatePrecision:
    """What the weight update rounds to, and how.

    `Settings` say which optimiser it is and give its scalars; `quaver.golden.update.float_sgd` and
    `quaver.golden.update.adam` say what is rounded where.

    Parameters
    ----------
    format
        Format of master weights, momenta and gradients.
    rounding
        How each line of the update is rounded.
    random_bits
        Random bits of one stochastic rounding, 1 … 32.

    Raises
    ------
    TypeError, ValueError
        A field is of another kind; no update rounds so.
    """

    format: FloatFormat = FP16
    rounding: Rounding = Rounding.STOCHASTIC
    random_bits: int = RANDOM_BITS

    def __post_init__(self) -> None:
        _check_kinds(self, format=FloatFormat)
        set_integers(self, "random_bits")
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        check_format(self.format, self.rounding, self.random_bits)

    @property
    def formats(self) -> tuple[Format, Format, Format]:
        """Formats of master weights, momenta and gradients."""
        return self.format, self.format, self.format

    def rule(self, rate: float, momentum: float, decay: float) -> UpdateRule:
        """SGD with these scalars: learning rate, momentum and L2 regularisation."""
        return _sgd(rate, momentum, decay, self)

    def __str__(self) -> str:
        return f"{self.format}, {_drawn(self.rounding, self.random_bits)}"


@lru_cache(maxsize=64)  # steps of one learning rate share a rule, and the codes of its scalars
def _sgd(rate: float, momentum: float, decay: float, how: UpdatePrecision) -> FloatSGD:
    return FloatSGD(rate, momentum, decay, how.format, how.rounding, how.random_bits)


@dataclass(frozen=True)
class FixedUpdatePrecision:
    """`UpdatePrecision` in fixed point, for SGD alone; `quaver.golden.update.fixed_sgd` says what is rounded.

    Gradients are those of the unscaled loss. If the loss scale is 2**s, dividing the results of a gradient
    GEMM by it turns their ⟨IL, FL⟩ into ⟨IL − s, FL + s⟩ and leaves the codes as they are.

    Parameters
    ----------
    weights, updates, gradients
        Formats of master weights, of weight updates (the momenta) and of gradients.
    rounding
        How both lines of the update are rounded.
    random_bits
        Random bits of one stochastic rounding, 1 … 32.

    Raises
    ------
    TypeError, ValueError
        A field is of another kind; formats or random bits that no update takes.
    """

    weights: FixedFormat
    updates: FixedFormat
    gradients: FixedFormat
    rounding: Rounding = Rounding.STOCHASTIC
    random_bits: int = RANDOM_BITS

    def __post_init__(self) -> None:
        fixed = dict.fromkeys(("weights", "updates", "gradients"), FixedFormat)
        _check_kinds(self, **fixed)
        set_integers(self, "random_bits")
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        self.rule(0.0, 0.0, 0.0)  # which says what it refuses

    @property
    def formats(self) -> tuple[Format, Format, Format]:
        """Formats of master weights, momenta and gradients."""
        return self.weights, self.updates, self.gradients

    def rule(self, rate: float, momentum: float, decay: float) -> UpdateRule:
        """SGD with these scalars: learning rate, momentum and L2 regularisation."""
        formats = self.weights, self.updates, self.gradients
        return FixedSGD(rate, momentum, decay, *formats, self.rounding, self.random_bits)

    def __str__(self) -> str:
        formats = f"weights {self.weights}, updates {self.updates}, gradients {self.gradients}"
        return f"{formats}, {_drawn(self.rounding, self.random_bits)}"


def _drawn(rounding: Rounding, random_bits: int) -> str:
    return f"{rounding}, {random_bits} random bits" if rounding.draws else rounding


@dataclass(frozen=True)
class Recipe:
    """All that is numerical about a training run, after Wang et al. 2018 (arXiv 1812.08011, §2 and §3).

    Parameters
    ----------
    name
        What tables and figures call it.
    hidden
        How every layer computes that none of the next three parameters is about.
    first, last
        How the first layer computes (the image needs more bits) and the last one (softmax amplifies its
        errors). None: like any other layer.
    layers
        Layer name → how that layer computes, wherever it stands: {"conv2": Precision(...)}.
    elementwise
        The format of everything between GEMMs: bias, activation, normalisation, pooling, softmax error,
        gradients. Each operation computes widely and rounds once, to nearest. None: float32.
    update
        The weight update; its format holds master weights and momenta. None: float32.
    loss_scale
        Constant or dynamic.
    cast
        The rounding of a cast to an operand format (nearest or truncate).
    later
        The recipe of the last epochs, from `Settings.later_at` on: a higher precision. An α that one of the
        two has a layer learn, and the other not, rests while the other is in force.
    """

    name: str
    hidden: Precision = Precision()
    first: Precision | None = None
    last: Precision | None = None
    layers: Mapping[str, Precision] = field(default_factory=dict, hash=False)
    elementwise: Format | None = None
    update: UpdatePrecision | FixedUpdatePrecision | None = None
    loss_scale: LossScale = LossScale()
    cast: Rounding = Rounding.NEAREST_EVEN
    later: Recipe | None = None

    def __post_init__(self) -> None:
        _check_kinds(self, name=str, hidden=Precision, first=Precision | None, last=Precision | None)
        _check_kinds(self, layers=Mapping, elementwise=Format | None, loss_scale=LossScale)
        _check_kinds(self, update=UpdatePrecision | FixedUpdatePrecision | None, later=Recipe | None)
        for layer, precision in self.layers.items():
            if not isinstance(precision, Precision):
                raise TypeError(f"layers has {precision!r} for {layer}, but it must be a Precision")
        object.__setattr__(self, "cast", Rounding(self.cast))
        object.__setattr__(self, "layers", dict(self.layers))
        if self.cast.draws:
            raise ValueError(
                f"cast is {self.cast}, but operands are cast without a random source; take nearest or "
                f"truncate"
            )

    def replace(self, **changes: Any) -> Recipe:
        """The same recipe with some fields changed: ``fp8.replace(name="FP8 last layer", last=None)``."""
        return replace(self, **changes)

    def with_gemms(self, name: str, **changes: Any) -> Recipe:
        """The same recipe with a parameter of every GEMM's arithmetic changed: ``fp8.with_gemms("chunk 8",
        chunk=8)``."""

        def changed(precision: Precision) -> Precision:
            gemms = {role: getattr(precision, role) for role in Role}
            return replace(precision, **{r: replace(g, **changes) for r, g in gemms.items() if g is not None})

        return self.replace(
            name=name,
            hidden=changed(self.hidden),
            first=self.first and changed(self.first),
            last=self.last and changed(self.last),
            layers={layer: changed(precision) for layer, precision in self.layers.items()},
        )

    def precision(self, layer: str = "", *, first: bool = False, last: bool = False) -> Precision:
        """How the layer of this name at this place computes; a layer that is both first and last follows
        `last`."""
        place = (self.last if last else None) or (self.first if first else None) or self.hidden
        return self.layers.get(layer, place)

    def to_json(self) -> str:
        """The recipe as JSON; `from_json` gives an equal one back."""
        return as_text(self, indent=1)

    @staticmethod
    def from_json(text: str | bytes) -> Recipe:
        """The recipe that `to_json` wrote.

        Raises
        ------
        ValueError
            The text is no recipe; the message says what is wrong with it.
        """
        try:
            recipe = from_text(text)
        except (TypeError, AttributeError, RecursionError, ValueError, OverflowError) as error:
            raise ValueError(f"not a recipe: {error}") from error
        if not isinstance(recipe, Recipe):
            raise ValueError(f"not a recipe but {type(recipe).__name__}")
        return recipe

    def __str__(self) -> str:
        lines = [self.name]
        places = {"first": self.first, "hidden": self.hidden, "last": self.last, **self.layers}
        indent = max(map(len, places))
        for place, precision in places.items():
            if precision is None:
                continue
            by_arithmetic: dict[Arithmetic | None, list[str]] = {}
            for role in Role:
                by_arithmetic.setdefault(getattr(precision, role), []).append(role)
            for arithmetic, roles in by_arithmetic.items():
                lines.append(f"  {place:{indent}}  {', '.join(roles):27} {_described(arithmetic)}")
            casts = [
                f"{t} {getattr(precision, t)}"
                for t in ("inputs", "weights", "errors")
                if getattr(precision, t)
            ]
            if casts:
                lines.append(f"  {place:{indent}}  {'cast':27} {', '.join(casts)}")
        indent += 29
        lines.append(f"  {'elementwise':{indent}} {self.elementwise or 'float32'}")
        lines.append(f"  {'update':{indent}} {self.update or 'float32'}")
        growth = (
            f", doubled after {self.loss_scale.grow_every} good steps" if self.loss_scale.grow_every else ""
        )
        lines.append(f"  {'loss scale':{indent}} {self.loss_scale.initial:g}{growth}")
        if self.later is not None:
            lines.append(f"later {self.later}")
        return "\n".join(lines)


def _classes() -> dict[str, type]:
    """What a recipe is made of, by the names that its JSON has for it."""
    parts = (BlockFormat, FixedUpdatePrecision, LossScale, Precision, Recipe, UpdatePrecision)
    quantisers = (Clip, DoReFaWeights, FullScale, SAWBWeights)
    return {**FORMATS, **{part.__name__: part for part in (*parts, *quantisers)}, **ARITHMETICS}


def _name(kind: type) -> str:
    return next((name for name, one in _classes().items() if one is kind), kind.__name__)


def _described(arithmetic: Arithmetic | None) -> str:
    if arithmetic is None:
        return "float32"
    values = {f.name: getattr(arithmetic, f.name) for f in fields(arithmetic)}  # type: ignore[arg-type]
    if values.get("chunk") == NO_CHUNKS:
        values["chunk"] = "none"
    return f"{_name(type(arithmetic))}({', '.join(f'{name} {value}' for name, value in values.items())})"


def as_text(thing: Any, **options: Any) -> str:
    """A recipe, or a part of one such as an arithmetic, as JSON; `options` are json.dumps'."""
    return json.dumps(_plain(thing), **options)


def from_text(text: str | bytes) -> Any:
    """What `as_text` was given."""
    return _built(strict_json.loads(text))


def _plain(thing: Any) -> Any:
    if is_dataclass(thing) and not isinstance(thing, type):
        values = {f.name: _plain(getattr(thing, f.name)) for f in fields(thing)}
        # Without layers, or totals, of their own a recipe reads as it did before there were any: checkpoints
        # compare.
        silent: dict[str, Any] = {"layers": {}, "total": None}
        said = {name: value for name, value in values.items() if name not in silent or value != silent[name]}
        return {"is": _name(type(thing)), **said}
    if isinstance(thing, Mapping):
        return {name: _plain(value) for name, value in thing.items()}
    return str(thing) if isinstance(thing, StrEnum) else thing


def _built(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    values = {name: _built(value) for name, value in data.items() if name != "is"}
    if "is" not in data:
        return values
    if (kind := _classes().get(data["is"])) is None:
        raise TypeError(f"it has a {data['is']!r}, but there are {', '.join(_classes())}")
    return kind(**values)
