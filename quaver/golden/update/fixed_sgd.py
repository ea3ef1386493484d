"""The weight update in fixed point: SGD with momentum, each line exact inside and rounded once.

After Gupta et al. 2015 (arXiv 1502.02551, §4): weights and weight updates each have their ⟨IL, FL⟩. Whether
updates far smaller than a step of the weights survive is what stochastic rounding decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import FixedFormat
from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import RANDOM_BITS, Rounding, round_integer, round_integers
from quaver.golden.update.float_sgd import SEED_MASKS, Rule
from quaver.golden.validation import set_integers

#: Format of the scalars: the widest fixed point there is, for numbers below 2.
SCALAR = FixedFormat(2, 22)

_Q4_12 = FixedFormat(4, 12)


@dataclass(frozen=True)
class FixedSGD(Rule):
    """One step of SGD with momentum on fixed-point codes.

    For each element, in memory order, with every line exact inside, rounded once, and saturating::

        v ← round(momentum · v + rate · g + rate·decay · w)      in `updates`
        w ← round(w − v)                                         in `weights`

    Parameters
    ----------
    rate, momentum, decay
        The learning rate η, μ and λ. μ, η and the product ηλ are rounded to nearest into `SCALAR`; none may
        become zero by that.
    weights, updates, gradients
        Formats of w, of v (the weight update, η included), and of g.
    rounding
        How both lines are rounded: any `Rounding`.
    random_bits
        R, 1 … 32. A line that drops bits and rounds stochastically takes one draw an element from its own
        LFSR: ``LFSR(seed ^ SEED_MASKS[name])``, or the mask itself where that is zero; the first line's name
        is "momentum", the second's "rate".

    Raises
    ------
    ValueError
        A scalar beyond `SCALAR` or lost in it, or formats so far apart that a line is not a 63-bit integer.
    """

    rate: float
    momentum: float = 0.9
    decay: float = 0.0
    weights: FixedFormat = _Q4_12
    updates: FixedFormat = _Q4_12
    gradients: FixedFormat = _Q4_12
    rounding: Rounding = Rounding.STOCHASTIC
    random_bits: int = RANDOM_BITS

    masks: ClassVar = {name: SEED_MASKS[name] for name in ("momentum", "rate")}

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        set_integers(self, "random_bits")
        for name in ("rate", "momentum", "decay"):
            if not 0 <= getattr(self, name) <= SCALAR.max_value:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be in 0 … {SCALAR.max_value}")
        for name, value in self._scalar_values.items():
            if value and not SCALAR.encode(value):
                step = 2.0**SCALAR.quantum_exponent
                what = "rate·decay" if name == "decay" else name
                way = {"rate": "a larger one", "decay": "0 for decay, or a larger rate"}
                raise ValueError(
                    f"{what} is {value:.3g}, which becomes 0 among the multiples of {step:.3g} that scalars "
                    f"are; the rate is {self.rate:g}: take {way.get(name, f'0 for {name}, or more')}"
                )
        if not 1 <= self.random_bits <= 32:
            raise ValueError(f"random_bits is {self.random_bits}, but a draw takes 1 … 32")
        if max(f.integer_bits for f in self.formats) + self.fraction_bits[0] + 3 > 63:
            raise ValueError(
                f"weights {self.weights}, updates {self.updates} and gradients {self.gradients} are too far "
                f"apart to be added up in 63 bits; take narrower ones"
            )

    @property
    def formats(self) -> tuple[FixedFormat, ...]:
        """Formats of weights, momenta (the updates) and gradients."""
        return self.weights, self.updates, self.gradients

    @property
    def scalar(self) -> FixedFormat:
        """The format of the scalars."""
        return SCALAR

    @property
    def scalars(self) -> dict[str, int]:
        """The codes of rate·decay, momentum and rate, what the hardware is given."""
        return {name: int(SCALAR.encode(value)) for name, value in self._scalar_values.items()}

    @property
    def _scalar_values(self) -> dict[str, float]:
        return {"decay": self.rate * self.decay, "momentum": self.momentum, "rate": self.rate}

    @property
    def fraction_bits(self) -> tuple[int, int]:
        """Fraction bits of the exact sum of each line."""
        products = max(f.fraction_bits for f in self.formats) + SCALAR.fraction_bits
        return products, max(self.weights.fraction_bits, self.updates.fraction_bits)

    @standard_floats
    def update(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The new weights and momenta: codes in the shape that all three arrays of codes share.

        `seed`, 1 … 2**32 − 1, belongs to stochastic rounding, left out otherwise; each call has its own.
        """
        codes, sources = self.check(weights, momenta, gradients), self.sources(seed)
        terms, w = self._terms(codes)
        first, second = self.fraction_bits
        v = self._rounded(np.sum(terms, axis=0), first, self.updates, sources.get("momentum"))
        difference = (w << (second - self.weights.fraction_bits)) - (
            self.updates.integers(v).astype(np.int64) << (second - self.updates.fraction_bits)
        )
        return self._rounded(difference, second, self.weights, sources.get("rate")), v

    @standard_floats
    def definition(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """`update` in Python's integers, an element at a time."""
        codes, sources = self.check(weights, momenta, gradients), self.sources(seed)
        terms, w = self._terms(codes)
        first, second = self.fraction_bits

        def rounded(name: str, value: int, bits: int, fmt: FixedFormat) -> int:
            random, dropped = 0, bits - fmt.fraction_bits
            if dropped and sources:
                random = sources[name].draw(self.random_bits)
            result = round_integer(value, dropped, self.rounding, random, self.random_bits)
            return min(max(result, ~fmt.max_code), fmt.max_code)

        new_w, new_v = np.empty(w.shape, np.int64), np.empty(w.shape, np.int64)
        for i in np.ndindex(*w.shape):
            v = rounded("momentum", sum(int(t[i]) for t in terms), first, self.updates)
            difference = (int(w[i]) << (second - self.weights.fraction_bits)) - (
                v << (second - self.updates.fraction_bits)
            )
            new_v[i], new_w[i] = v, rounded("rate", difference, second, self.weights)
        return self.weights.codes(new_w), self.updates.codes(new_v)

    def check(self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike) -> list[NDArray[Any]]:
        """The three as contiguous codes; an error if they are none, or of different shapes."""
        names = {"weights": weights, "momenta": momenta, "gradients": gradients}
        arrays = [
            np.ascontiguousarray(fmt.check_codes(codes, name))
            for fmt, (name, codes) in zip(self.formats, names.items(), strict=True)
        ]
        for name, array in zip(names, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise ValueError(f"{name} have shape {array.shape}, but weights have {arrays[0].shape}")
        return arrays

    def _terms(self, codes: list[NDArray[Any]]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """The first line's three terms in steps of 2**−(its fraction bits), and w."""
        integers = [fmt.integers(c).astype(np.int64) for fmt, c in zip(self.formats, codes, strict=True)]
        scalars, terms = self.scalars, []
        for name, fmt, x in zip(("decay", "momentum", "rate"), self.formats, integers, strict=True):
            shift = self.fraction_bits[0] - SCALAR.fraction_bits - fmt.fraction_bits
            terms.append(scalars[name] * x << shift)
        return terms, integers[0]

    def _rounded(
        self, values: NDArray[np.int64], bits: int, fmt: FixedFormat, source: LFSR | None
    ) -> NDArray[Any]:
        dropped = bits - fmt.fraction_bits
        random = None
        if dropped and source is not None:
            random = source.draws(values.size, self.random_bits).reshape(values.shape)
        return fmt.codes(round_integers(values, dropped, self.rounding, random, self.random_bits))
