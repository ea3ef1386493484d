"""How one layer computes, spelt out for the operators: a precision as formats and arithmetics by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from torch import Tensor

from quaver.golden.contracts import Arithmetic
from quaver.golden.formats import FP32, BlockFormat, FixedFormat, Format
from quaver.golden.nn.quantisers import Quantiser
from quaver.golden.nn.recipe import OPERANDS, Precision, Recipe, Role, as_text
from quaver.torch.functions import (
    arithmetic_text,
    decode_op,
    drawing_gemm_op,
    drawing_image_gemm_op,
    encode_op,
    float32_gemm_op,
    format_name,
    gemm_op,
    image_gemm_op,
    round_op,
)
from quaver.torch.images import View
from quaver.torch.quantisers import Numbers, Quantisation


@dataclass(frozen=True)
class Cast:
    """What a tensor becomes on its way into a GEMM: rounded to one format, then codes of another."""

    rounded: str | None
    codes: str | None
    rounding: str

    def __call__(self, values: Tensor) -> Tensor:
        """Codes, or float32 values where the GEMM is float32's."""
        if self.rounded is not None:
            values = round_op(values, self.rounded, self.rounding)
        return values.float() if self.codes is None else encode_op(values, self.codes, self.rounding)


@dataclass(frozen=True)
class Product:
    """One of a layer's three GEMMs.

    Attributes
    ----------
    casts
        What its two operands are cast to.
    arithmetic
        Spelt as an operator takes it; None: a float32 product.
    result
        The format of its results.
    alike
        Whether both operands have one format.
    finite
        Whether every result is finite, as in fixed point.
    draws
        Whether it draws random bits.
    scaled
        Whether it takes codes of quantised tensors, and its results are multiplied by their scales.
    errors
        How its operand that is errors is quantised; None: it is not, or the role has none.
    """

    casts: tuple[Cast, Cast]
    arithmetic: str | None
    result: str
    alike: bool
    finite: bool
    draws: bool = False
    scaled: bool = False
    errors: Quantisation | None = None

    def __call__(self, a: Tensor, b: Tensor, draws_as: str, *, exchanged: bool = False) -> Tensor:
        """The values of A·B, of cast operands (batch, M, K) and (batch, K, N), or without a batch.

        Exchanged, A is the tensor that the role has for B, and the other way round: an arithmetic whose
        operands differ computes the transpose then.
        """
        if self.arithmetic is None:
            return float32_gemm_op(a, b)
        if exchanged and not self.alike:
            return self(b.mT, a.mT, draws_as).mT
        gemm = drawing_gemm_op if self.draws else gemm_op
        return decode_op(gemm(a, b, self.arithmetic, None, draws_as), self.result)

    def cast_errors(self, error: Tensor, operand: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What it takes of them as its first operand (0) or its second (1), and their scale if that is
        multiplied by."""
        if self.errors is None:
            return self.casts[operand](error), ()
        values, codes, scale = self.errors.numbers(error)
        return (codes, (scale,)) if self.scaled else (self.casts[operand](values), ())

    def with_images(
        self, other: Tensor, images: Tensor, view: View, draws_as: str, *, first: bool = False
    ) -> Tensor:
        """The same with one operand that is ``view.columns(images)``, (groups, taps, places).

        `other` is a kernel, (groups, N, taps), and its product with the columns is the role's, exchanged; or
        with `first`, errors (groups, places, N), and the columns are the role's first operand.
        """
        if self.arithmetic is None:
            columns = view.columns(images, len(other))
            a, b = (columns, other) if first else (other, columns)
            return float32_gemm_op(a[0], b[0])[None] if len(other) == 1 else float32_gemm_op(a, b)
        turned = not first and not self.alike
        if turned:
            other, first = other.mT, True
        how = self.arithmetic, draws_as, first, turned
        gemm = drawing_image_gemm_op if self.draws else image_gemm_op
        c = decode_op(gemm(other, images, view.numbers, *how), self.result)
        return c.mT if turned else c


@dataclass(frozen=True)
class Numerics:
    """How a layer computes.

    Attributes
    ----------
    forward, backward, gradient
        Its three GEMMs.
    elementwise
        The format of what lies between layers; None: float32.
    arriving
        What an error is rounded to where it arrives, as it may be a sum; None: as it is.
    inputs, weights
        How inputs and weights become integers and a scale; None: they do not.
    """

    forward: Product
    backward: Product
    gradient: Product
    elementwise: str | None
    arriving: str | None = None
    inputs: Quantisation | None = None
    weights: Quantisation | None = None

    @staticmethod
    def of(recipe: Recipe, precision: Precision) -> Numerics:
        """Those of a layer that computes in `precision`, in a model with `recipe`."""
        products = {str(role): _product(recipe, precision, role) for role in Role}
        return Numerics(
            **products,
            elementwise=_name(recipe.elementwise),
            arriving=arriving(recipe),
            inputs=_quantisation(recipe, precision, Role.FORWARD, "inputs"),
            weights=_quantisation(recipe, precision, Role.FORWARD, "weights"),
        )

    @staticmethod
    def between(recipe: Recipe) -> Numerics:
        """Those of products without weights: as hidden layers', or where these are quantised in float32, as
        there is no layer whose α would clip."""
        quantised = isinstance(recipe.hidden.inputs, Quantiser) or isinstance(
            recipe.hidden.weights, Quantiser
        )
        return Numerics.of(recipe, Precision() if quantised else recipe.hidden)

    def quantised(self, x: Tensor, weight: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor, Numbers]:
        """Inputs and weight as the backward and gradient GEMMs take them, and what the forward GEMM takes in
        their place."""
        if self.inputs is None and self.weights is None:
            return x, weight, Numbers()
        scales, codes = [], {}
        if self.inputs is not None:
            x, codes["inputs"], scale = self.inputs(x, alpha)
            scales.append(scale)
        if self.weights is not None:
            weight, codes["weights"], scale = self.weights(weight, None)
            scales.append(scale)
        if self.forward.arithmetic is None:  # a product of the values
            return x, weight, Numbers()
        return x, weight, Numbers(**codes, scales=tuple(scales))

    def arrived(self, error: Tensor) -> Tensor:
        """An error where it arrives."""
        return error if self.arriving is None else round_op(error, self.arriving, "nearest")


@cache
def arriving(recipe: Recipe) -> str | None:
    """What errors are rounded to where they arrive: PyTorch sums up in float32 those of several places.

    Where the backward GEMM of a layer leaves results that `elementwise` has not (float32, as tensor cores
    do), it is nothing: golden rounds only what operations between GEMMs leave, and an error of one place
    would be rounded once too often.
    """
    fmt = recipe.elementwise
    precisions = (recipe.first, recipe.hidden, recipe.last, *recipe.layers.values())
    left = {FP32 if p.backward is None else p.backward.result for p in precisions if p is not None}
    if fmt is None or not all(each.width <= fmt.width and fmt.holds(each) for each in left):
        return None
    return format_name(fmt)


def _name(fmt: Format | None) -> str | None:
    return None if fmt is None else format_name(fmt)


def _quantisation(recipe: Recipe, precision: Precision, role: Role, tensor: str) -> Quantisation | None:
    quantiser = getattr(precision, tensor)
    if not isinstance(quantiser, Quantiser) or (role is not Role.FORWARD and tensor != "errors"):
        return None
    operand = _name(precision.operand(role, tensor))
    return Quantisation(as_text(quantiser), operand, tensor == "weights", _name(recipe.elementwise))


def check_casts(recipe: Recipe, precision: Precision) -> None:
    """ValueError: an operand is cast in blocks."""
    for tensor in ("inputs", "weights", "errors"):
        if isinstance(cast := getattr(precision, tensor), BlockFormat):
            raise ValueError(
                f"{tensor} of the recipe {recipe.name} are cast to {cast}, in blocks with a scale each, for "
                f"which quaver.torch has no operator; train it by quaver train, or take another cast"
            )


def _product(recipe: Recipe, precision: Precision, role: Role) -> Product:
    check_casts(recipe, precision)
    casts = []
    for tensor in OPERANDS[role]:
        cast: Format | Quantiser | None = getattr(precision, tensor)
        operand = precision.operand(role, tensor)
        rounded = None if cast == operand or isinstance(cast, Quantiser) else cast
        casts.append(Cast(_name(rounded), _name(operand), str(recipe.cast)))
    arithmetic: Arithmetic | None = getattr(precision, role)
    pair = casts[0], casts[1]
    errors = None if role is Role.FORWARD else _quantisation(recipe, precision, role, "errors")
    if arithmetic is None:
        return Product(pair, None, "fp32", alike=True, finite=False, errors=errors)
    if role is not Role.FORWARD and precision.is_scaled(role):
        _check_scaled(recipe, precision, role)
    finite = isinstance(arithmetic.result, FixedFormat)
    text, result = arithmetic_text(arithmetic), format_name(arithmetic.result)
    alike, draws, scaled = arithmetic.a == arithmetic.b, arithmetic.stochastic, precision.is_scaled(role)
    return Product(pair, text, result, alike, finite, draws, scaled, errors)


def _check_scaled(recipe: Recipe, precision: Precision, role: Role) -> None:
    """ValueError: a GEMM on the way back takes other codes than those of the forward one, which are kept."""
    for tensor in set(OPERANDS[role]) - {"errors"}:
        if not isinstance(getattr(precision, tensor), Quantiser):
            continue
        mine, kept = precision.operand(role, tensor), precision.operand(Role.FORWARD, tensor)
        if mine != kept:
            raise ValueError(
                f"the {role} GEMM of the recipe {recipe.name} takes {tensor} as {mine}, but the forward one "
                f"as {kept}, and quaver.torch keeps their codes from one to the other; give both one format, "
                f"or train it by quaver train"
            )
