"""Quantisers: from the values of a tensor to integers of a few bits and one scale, and back through them.

After PACT (Choi et al. 2018, arXiv 1805.06085), DoReFa (Zhou et al. 2016, arXiv 1606.06160) and SAWB (Choi et
al. 2019), the two latter for weights. A quantised value is an integer times the tensor's scale. Rounding has
no derivative: backward passes take it for the identity (the straight-through estimator), and are exact
derivatives of what is left when the rounding is left out.

All is computed in float64 of the float32 values, and rounded once to float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from quaver.golden import kernels
from quaver.golden.formats import IntegerFormat, Levels, SignMagnitudeFormat
from quaver.golden.validation import set_flags, set_integers

Values = NDArray[np.floating]

#: α of a clip that learns is taken for this much if it is less: a range must have a width.
LEAST_ALPHA = 2.0**-10


class DivergedError(ValueError):
    """What is to be quantised is not finite: the run has diverged."""


@dataclass(frozen=True)
class Quantised:
    """A quantised tensor: integers, or fractions for bit streams.

    Attributes
    ----------
    format
        Of the codes.
    codes
        In the tensor's shape.
    scale
        What 1 is worth.
    """

    format: IntegerFormat | SignMagnitudeFormat
    codes: NDArray[np.unsignedinteger]
    scale: float

    @property
    def values(self) -> NDArray[np.float32]:
        """What the codes mean times scale, each rounded once to float32."""
        codes = np.arange(1 << self.format.bits, dtype=self.format.code_dtype)
        of_code = self.format.decode(codes).astype(np.float64) * self.scale
        return of_code.astype(np.float32)[self.codes]


class Quantiser:
    """What a quantiser is to a layer: a frozen dataclass with the number of bits, 1 … 8, and what follows."""

    bits: int

    def __post_init__(self) -> None:
        set_integers(self, "bits")
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is {self.bits}, but values are quantised to 1 … 8 bits")

    @property
    def format(self) -> IntegerFormat | SignMagnitudeFormat:
        """Of the codes."""
        raise NotImplementedError

    def quantise(self, values: Values, alpha: float) -> Quantised:
        """The values as codes and a scale; `alpha` is that of a `Clip` that learns, else without meaning.

        ValueError: a value is NaN, for which there is no code.
        """
        raise NotImplementedError

    def surrogate(self, values: Values, alpha: float) -> NDArray[np.float64]:
        """What the quantised values would be without rounding: the function that `backward` is of."""
        raise NotImplementedError

    def backward(self, values: Values, error: Values, alpha: float) -> tuple[Values, float]:
        """From the error of the quantised values: that of the values, and the gradient of alpha."""
        raise NotImplementedError


@dataclass(frozen=True)
class Clip(Quantiser):
    """PACT: clip to [0, α], and 2**bits − 1 equal steps (Choi et al. 2018, equations 1 to 3).

    y = clip(x, 0, α), and y_q = round(y·(2**k − 1)/α)·α/(2**k − 1). ∂y_q/∂α is 1 for x ≥ α and 0 elsewhere,
    ∂y_q/∂x is 1 on [0, α) and 0 elsewhere. With a fixed α of 1 it is DoReFa's activation, with another a ReLU
    that is clipped.

    It stands where a layer's inputs enter its GEMM. With maxima between a ReLU and the GEMM it is the same
    as in the ReLU's place; a mean is taken before it, of values that are not quantised yet.

    Parameters
    ----------
    bits
        k, 1 … 8.
    alpha
        Where α begins, positive in float32; the paper's 10.
    learned
        Whether the layer learns α, which is then a parameter with the weights' L2 regularisation. Otherwise
        it is fixed.
    signed
        Clip to [−α, α] in place of [0, α], with 2**(bits − 1) − 1 steps to both sides: for images.
    """

    bits: int
    alpha: float = 10.0
    learned: bool = True
    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_flags(self, "learned", "signed")
        if not isinstance(self.alpha, Real) or isinstance(self.alpha, bool):
            raise TypeError(f"alpha is {self.alpha!r}, but it must be a number")
        with np.errstate(over="ignore"):
            alpha = np.float32(self.alpha)  # as a layer learns it, and as `range` takes it
        if not 0 < alpha < np.inf:
            raise ValueError(f"alpha is {self.alpha}, but it must be positive and finite in float32")
        if self.signed and self.bits < 2:
            raise ValueError("bits is 1, but a signed clip has at least 2: one step to both sides")

    @property
    def format(self) -> IntegerFormat:
        """Unsigned, or signed without its lowest code."""
        return IntegerFormat(self.bits, Levels.SIGNED if self.signed else Levels.UNSIGNED)

    @property
    def steps(self) -> int:
        """Steps from 0 to α."""
        return (1 << (self.bits - self.signed)) - 1

    def range(self, alpha: float) -> tuple[float, float]:
        """Both ends of the range. DivergedError: α, which is learned, is not finite."""
        if self.learned and not isfinite(alpha):
            raise DivergedError(f"α is {alpha}: the run has diverged; take a smaller learning rate")
        high = max(float(alpha), LEAST_ALPHA) if self.learned else float(np.float32(self.alpha))
        return (-high if self.signed else 0.0), high

    def step(self, alpha: float) -> float:
        """What 1 of a code is worth."""
        return self.range(alpha)[1] / self.steps

    def quantise(self, values: Values, alpha: float) -> Quantised:
        low, high = self.range(alpha)
        flat = _flat(values)
        codes = np.empty(flat.shape, np.int8 if self.signed else np.uint8)
        unsigned = codes.view(np.uint8)
        if not kernels.clip.codes(flat, low, high, float(self.steps), codes):
            raise DivergedError(
                f"values hold NaN, for which {self} has no code: the run has diverged; take a smaller "
                f"learning rate"
            )
        unsigned &= np.uint8((1 << self.bits) - 1)
        return Quantised(self.format, unsigned.reshape(values.shape), self.step(alpha))

    def surrogate(self, values: Values, alpha: float) -> NDArray[np.float64]:
        return np.clip(values.astype(np.float64), *self.range(alpha))

    def backward(self, values: Values, error: Values, alpha: float) -> tuple[Values, float]:
        flat = _flat(error)
        out = np.empty_like(flat)
        gradient = kernels.clip.backward(_flat(values), flat, *self.range(alpha), out)
        return out.reshape(error.shape), gradient if self.learned else 0.0

    def __str__(self) -> str:
        low = "−α" if self.signed else "0"
        return f"clipped to {low} … α, α {'from' if self.learned else '='} {self.alpha:g}, {self.bits} bits"


@dataclass(frozen=True)
class DoReFaWeights(Quantiser):
    """w_q = 2·Q_k(tanh w/(2·max|tanh w|) + ½) − 1, on odd levels: −1, …, 1 in 2**k − 1 steps, and no 0.

    The largest weight becomes ±1 whatever its size: what follows must take the scale, as normalisation does.
    With `scaled` the levels go from −max|tanh w| to max|tanh w| instead, so that weights keep their size, and
    all are worth 0 where every weight is 0.

    Parameters
    ----------
    bits
        k, 1 … 8.
    scaled
        Whether the levels are multiplied by max|tanh w|.
    """

    bits: int
    scaled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_flags(self, "scaled")

    @property
    def format(self) -> IntegerFormat:
        """Odd levels."""
        return IntegerFormat(self.bits, Levels.ODD)

    def _tanh(self, values: Values) -> tuple[NDArray[np.float64], float]:
        t = np.tanh(values.astype(np.float64))
        return t, float(np.abs(t).max(initial=0.0)) or 1.0

    def quantise(self, values: Values, alpha: float) -> Quantised:
        t, largest = self._tanh(values)
        end = (largest if t.any() else 0.0) if self.scaled else 1.0
        return _on_odd_levels(self, t / largest, end)

    def surrogate(self, values: Values, alpha: float) -> NDArray[np.float64]:
        t, largest = self._tanh(values)
        return t if self.scaled else t / largest

    def backward(self, values: Values, error: Values, alpha: float) -> tuple[Values, float]:
        t, largest = self._tanh(values)
        of_tanh = error.astype(np.float64)
        if not self.scaled:  # the largest weight is in the denominator of all
            of_tanh /= largest
            place = np.unravel_index(np.abs(t).argmax(), t.shape)
            of_tanh[place] -= np.sign(t[place]) * float((of_tanh * t).sum()) / largest
        return (of_tanh * (1 - t**2)).astype(error.dtype), 0.0

    def __str__(self) -> str:
        return f"DoReFa's{', scaled' * self.scaled}, {self.bits} bits"


@dataclass(frozen=True)
class SAWBWeights(Quantiser):
    """Statistics-aware weight binning: clip to ±α_w, α_w = c1·√E[w²] + c2·E|w|, on odd levels.

    Where that is not positive, α_w is max|w|: 0 where every weight is, and all levels are worth 0 then. The
    constants are those of the authors' published code. α_w is taken for a constant in the backward pass: the
    error passes where |w| ≤ α_w.

    Parameters
    ----------
    bits
        2, 3, 4, 5 or 8.
    """

    bits: int

    CONSTANTS: ClassVar = {
        2: (3.12, -2.064),
        3: (7.509, -6.892),
        4: (12.68, -12.80),
        5: (17.74, -18.64),
        8: (31.76, -35.04),
    }
    """bits → (c1, c2)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in self.CONSTANTS:
            known = ", ".join(map(str, self.CONSTANTS))
            raise ValueError(
                f"bits is {self.bits}, but SAWB has constants for {known} bits; take DoReFaWeights"
            )

    @property
    def format(self) -> IntegerFormat:
        """Odd levels."""
        return IntegerFormat(self.bits, Levels.ODD)

    def clip(self, values: Values) -> float:
        """α_w of these weights."""
        w = values.astype(np.float64)
        root, mean = float(np.sqrt(np.mean(w**2))), float(np.mean(np.abs(w)))
        c1, c2 = self.CONSTANTS[self.bits]
        alpha = c1 * root + c2 * mean
        return alpha if alpha > 0 else float(np.abs(w).max(initial=0.0))

    def quantise(self, values: Values, alpha: float) -> Quantised:
        end = self.clip(values)
        with np.errstate(invalid="ignore"):  # ∞ / ∞ is no number, which is told
            unit = np.clip(values.astype(np.float64) / (end or 1.0), -1, 1)
        return _on_odd_levels(self, unit, end)

    def surrogate(self, values: Values, alpha: float) -> NDArray[np.float64]:
        end = self.clip(values)
        return np.clip(values.astype(np.float64), -end, end)

    def backward(self, values: Values, error: Values, alpha: float) -> tuple[Values, float]:
        inside = np.abs(values.astype(np.float64)) <= self.clip(values)
        return np.where(inside, error, error.dtype.type(0)), 0.0

    def __str__(self) -> str:
        return f"SAWB's, {self.bits} bits"


@dataclass(frozen=True)
class FullScale(Quantiser):
    """Fractions between −1 and 1, of the tensor's own scale: its largest magnitude becomes the largest.

    For bit streams, after Gupta, Sindhwani and Gopalakrishnan 2014: inputs and weights alike. The scale is
    taken for a constant in the backward pass, and every error passes.

    Parameters
    ----------
    bits
        Of a code, the sign included, 2 … 13.
    """

    bits: int

    def __post_init__(self) -> None:
        set_integers(self, "bits")
        if not 2 <= self.bits <= 13:
            raise ValueError(f"bits is {self.bits}, but fractions for bit streams have 2 … 13")

    @property
    def format(self) -> SignMagnitudeFormat:
        """Sign and magnitude."""
        return SignMagnitudeFormat(self.bits)

    def quantise(self, values: Values, alpha: float) -> Quantised:
        top = float(np.abs(values).max(initial=0.0))
        if not np.isfinite(top):
            raise DivergedError(
                f"values hold NaN or infinity, which {self} has no scale for: the run has diverged; take a "
                f"smaller learning rate"
            )
        scale = top / self.format.max_value or 1.0
        return Quantised(self.format, self.format.encode(values.astype(np.float64) / scale), scale)

    def surrogate(self, values: Values, alpha: float) -> NDArray[np.float64]:
        return values.astype(np.float64)

    def backward(self, values: Values, error: Values, alpha: float) -> tuple[Values, float]:
        return error, 0.0

    def __str__(self) -> str:
        return f"at full scale, {self.bits} bits"


def _flat(values: Values) -> Values:
    """The values in a row; those of half precision, which no kernel takes, in float32."""
    wide = values.astype(np.float32) if values.dtype == np.float16 else values
    return np.ascontiguousarray(wide).reshape(-1)


def _on_odd_levels(quantiser: Quantiser, values: NDArray[np.float64], end: float) -> Quantised:
    """Values of −1 … 1 as Q_k(value/2 + ½), each worth `end` times as much."""
    if np.isnan(values).any():
        raise DivergedError(
            f"weights hold NaN, for which {quantiser} has no code: the run has diverged; take a smaller "
            f"learning rate"
        )
    steps = (1 << quantiser.bits) - 1
    codes = np.rint((values / 2 + 0.5) * steps).astype(np.uint8)
    return Quantised(quantiser.format, codes, end / steps)


#: What a recipe may say of weights.
WeightQuantiser = DoReFaWeights | SAWBWeights | FullScale
