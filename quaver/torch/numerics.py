"""How one layer computes, spelt out for the operators: a precision as formats and arithmetics by name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quaver.golden.contracts import Arithmetic
from quaver.golden.formats import FixedFormat, Format
from quaver.golden.nn.quantisers import Quantiser
from quaver.golden.nn.recipe import OPERANDS, Precision, Recipe, Role
from quaver.torch.functions import (
    arithmetic_text,
    decode_op,
    encode_op,
    float32_gemm_op,
    format_name,
    gemm_op,
    round_op,
)


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
    """

    casts: tuple[Cast, Cast]
    arithmetic: str | None
    result: str
    alike: bool
    finite: bool

    def __call__(self, a: Tensor, b: Tensor, draws_as: str, *, exchanged: bool = False) -> Tensor:
        """The values of A·B, of cast operands (batch, M, K) and (batch, K, N), or without a batch.

        Exchanged, A is the tensor that the role has for B, and the other way round: an arithmetic whose
        operands differ computes the transpose then.
        """
        if self.arithmetic is None:
            return float32_gemm_op(a, b)
        if exchanged and not self.alike:
            return self(b.mT, a.mT, draws_as).mT
        return decode_op(gemm_op(a, b, self.arithmetic, None, draws_as), self.result)


@dataclass(frozen=True)
class Numerics:
    """How a layer computes.

    Attributes
    ----------
    forward, backward, gradient
        Its three GEMMs.
    elementwise
        The format of what lies between layers; None: float32.
    """

    forward: Product
    backward: Product
    gradient: Product
    elementwise: str | None

    @staticmethod
    def of(recipe: Recipe, precision: Precision) -> Numerics:
        """Those of a layer that computes in `precision`, in a model with `recipe`.

        ValueError: the layer is quantised, which no module here does yet.
        """
        if isinstance(precision.inputs, Quantiser) or isinstance(precision.weights, Quantiser):
            raise ValueError(
                f"the recipe {recipe.name} quantises inputs or weights, which quaver.torch does not; train "
                f"it with quaver train --recipe {recipe.name}, or take a recipe of formats such as fp8"
            )
        products = {str(role): _product(recipe, precision, role) for role in Role}
        return Numerics(**products, elementwise=_name(recipe.elementwise))

    def round(self, values: Tensor) -> Tensor:
        """What leaves an operation between GEMMs."""
        return values if self.elementwise is None else round_op(values, self.elementwise, "nearest")


def _name(fmt: Format | None) -> str | None:
    return None if fmt is None else format_name(fmt)


def _product(recipe: Recipe, precision: Precision, role: Role) -> Product:
    casts = []
    for tensor in OPERANDS[role]:
        cast: Format | None = getattr(precision, tensor)
        operand = precision.operand(role, tensor)
        rounded = None if cast == operand else cast
        casts.append(Cast(_name(rounded), _name(operand), str(recipe.cast)))
    arithmetic: Arithmetic | None = getattr(precision, role)
    pair = casts[0], casts[1]
    if arithmetic is None:
        return Product(pair, None, "fp32", alike=True, finite=False)
    finite = isinstance(arithmetic.result, FixedFormat)
    text, result = arithmetic_text(arithmetic), format_name(arithmetic.result)
    return Product(pair, text, result, arithmetic.a == arithmetic.b, finite)
