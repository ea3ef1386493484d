"""The weight update: stochastic gradient descent with momentum, as three rounded AXPYs.

After Wang et al. 2018 (arXiv 1812.08011, §2.3): L2 regularisation, momentum accumulation and weight update,
each in FP16 (1,6,9) with stochastic rounding; master weights and momenta live in FP16.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isfinite
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden import exact
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import FP16, FloatFormat
from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import RANDOM_BITS, Rounding
from quaver.golden.validation import set_integers

#: What sets the three LFSRs of one seed apart (the first digits of π): each starts at seed XOR its mask.
SEED_MASKS = {"decay": 0x243F6A88, "momentum": 0x85A308D3, "rate": 0x13198A2E}

_BLOCK = 1 << 16  # elements: what one pass works on stays in the cache


class Rule:
    """What update rules share: their random sources."""

    rounding: Rounding
    masks: ClassVar[dict[str, int]]
    """Line that rounds stochastically → its mask: it draws from ``LFSR(seed ^ mask)``, or from ``LFSR(mask)``
    where the exclusive-or is zero."""

    @property
    def stochastic(self) -> bool:
        """Whether an update takes a seed."""
        return self.rounding.draws

    def sources(self, seed: int | None) -> dict[str, LFSR]:
        """Line → its LFSR at the beginning of a call with this seed; empty where the rounding draws nothing.

        ValueError: stochastic rounding lacks a seed in 1 … 2**32 − 1, or another rounding was given one.
        """
        if not self.stochastic:
            if seed is not None:
                raise ValueError(f"seed is {seed}, but {self.rounding} rounding draws nothing; leave it out")
            return {}
        if seed is None or not 0 < seed < 1 << 32:
            raise ValueError(f"seed is {seed}, but stochastic rounding needs one in 1 … 2**32 − 1")
        return {name: LFSR(seed ^ mask or mask) for name, mask in self.masks.items()}


def check_format(fmt: FloatFormat, rounding: Rounding, random_bits: int) -> None:
    """ValueError: no update on codes of `fmt` rounds so. It computes nothing, so that nothing is compiled."""
    if fmt.quantum_exponent < -500 or fmt.max_exponent > 500:
        raise ValueError(f"format is {fmt}, but an update takes exponents in −500 … 500")
    fmt.check_rounding(rounding, random_bits)
    p, drawn = fmt.precision, random_bits if rounding.draws else 0
    drawn += rounding.looks_further
    if p > 24 or p + drawn > 51:
        raise ValueError(
            f"format is {fmt}, {p} significant bits, with {drawn} random ones, but an update in float64 is "
            f"exact up to 24, and 51 of both; take fewer"
        )


class FloatRule(Rule):
    """What update rules on codes of a `FloatFormat` share: the rounded AXPY."""

    format: FloatFormat
    random_bits: int

    @property
    def formats(self) -> tuple[FloatFormat, ...]:
        """The one format that weights, momenta and gradients have."""
        return (self.format,)

    def _check_scalars(self, **scalars: float) -> None:
        check_format(self.format, self.rounding, self.random_bits)
        for name, scalar in scalars.items():
            # By the definition: the design of a unit is made of a rule too, and needs no kernel for it.
            if not isfinite(scalar) or not isfinite(exact.decode(self.format, self._code(scalar))):
                raise ValueError(f"{name} is {scalar}, but it must be finite in {self.format}")

    def _code(self, scalar: float) -> int:
        """The code of a scalar, rounded to nearest."""
        value = float(scalar)
        return exact.encode(self.format, Fraction(value) if value and isfinite(value) else value)

    def axpy(self, alpha: float, x: NDArray[Any], y: NDArray[Any], source: LFSR | None) -> NDArray[Any]:
        """The codes of round(y + alpha·x), for values x and y of one flat shape, with a draw for each element
        if there is a source."""
        from quaver.golden.kernels.axpy import axpy_to_odd, rounded_axpy

        if source is not None and alpha != 0 and self.rounding is not Rounding.STOCHASTIC:
            total, bits = axpy_to_odd(alpha, x, y), self.random_bits
            return self.format.encode(
                total, self.rounding, random=source.draws(len(x), bits), random_bits=bits
            )
        codes = np.empty(len(x), self.format.code_dtype)
        random, how = self._random_and_how(alpha, source, len(x))
        rounded_axpy(alpha, x, y, codes, random, *how)
        return codes

    def _random_and_how(self, alpha: float, source: LFSR | None, count: int) -> tuple[Any, tuple[Any, ...]]:
        """The draws of so many AXPYs, or None, and what the kernel takes after them."""
        if source is None or alpha == 0:  # y is rounded already: no draw decides anything
            random, random_bits = None, 0
        else:
            random, random_bits = source.draws(count, self.random_bits), self.random_bits
        return random, self.format.encoding(np.float64, self.rounding, random_bits, self.format.saturate)


@dataclass(frozen=True)
class FloatSGD(FloatRule):
    """One step of SGD with momentum on codes of `format`.

    For each element, in memory order, with every line exact inside and rounded once::

        g ← round(g + decay · w)
        v ← round(g + momentum · v)
        w ← round(w − rate · v)

    Parameters
    ----------
    rate, momentum, decay
        The learning rate η, μ and λ. Each is rounded to nearest into `format` first: the three are codes,
        in the hardware as here.
    format
        Format of weights, momenta and gradients, before the step and after it.
    rounding
        How all three lines are rounded; `Rounding.NEAREST_EVEN` is the ablation, `STOCHASTIC_B` and
        `STOCHASTIC_C` the variants without a bias.
    random_bits
        R, 1 … 32. Stochastic rounding takes one draw of R bits an element from each line's own LFSR: the line
        of scalar `name` draws from ``LFSR(seed ^ SEED_MASKS[name])``, or the mask itself where that is zero.

    Raises
    ------
    ValueError
        A scalar is not finite in `format`; or `format` reaches so far that a product of two of its values
        is not a float64 (an exponent beyond ±500), or has more than 24 significant bits (51 with R); a
        variant that `format` does not round by, such as `STOCHASTIC_B` of DLFloat or of 32 random bits.

    Notes
    -----
    Gradients are those of the unscaled loss. Under a loss scale S either divide them by S on their way into
    `format`, or leave them and the momenta scaled, with decay · S for `decay` and rate / S for `rate`.

    Overflow, infinities, NaN and signed zeros follow IEEE 754 and `format`: an infinite or NaN gradient makes
    its momentum and weight infinite or NaN, so skip such a step.
    """

    rate: float
    momentum: float = 0.9
    decay: float = 0.0
    format: FloatFormat = FP16
    rounding: Rounding = Rounding.STOCHASTIC
    random_bits: int = RANDOM_BITS

    masks: ClassVar = SEED_MASKS

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        set_integers(self, "random_bits")
        self._check_scalars(decay=self.decay, momentum=self.momentum, rate=self.rate)

    @property
    def scalar(self) -> FloatFormat:
        """The format of the scalars."""
        return self.format

    @cached_property
    def _factors(self) -> tuple[float, ...]:
        """What the scalars' codes are worth."""
        return tuple(self.format.decode(list(self.scalars.values())).tolist())

    @property
    def scalars(self) -> dict[str, int]:
        """The codes of decay, momentum and rate, what the hardware is given."""
        return {name: self._code(getattr(self, name)) for name in SEED_MASKS}

    @standard_floats
    def update(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The new weights and momenta: codes of `format` in the shape that all three arrays of codes share.

        `seed`, 1 … 2**32 − 1, belongs to stochastic rounding, left out otherwise; each call has its own.
        """
        from quaver.golden.kernels.axpy import sgd

        w, v, g = self.check(weights, momenta, gradients)
        sources = self.sources(seed)
        decay, momentum, rate = factors = self._factors
        new_w, new_v = np.empty_like(w), np.empty_like(v)
        values, words = self.format.values_of, self.format.words
        fused = words is not None and self.rounding not in (Rounding.STOCHASTIC_B, Rounding.STOCHASTIC_C)
        for start in range(0, w.size, _BLOCK):
            old, new = (
                [x.reshape(-1)[start : start + _BLOCK] for x in xs] for xs in ((w, v, g), (new_w, new_v))
            )
            if fused:
                named = zip(SEED_MASKS, factors, strict=True)
                lines = [self._random_and_how(x, sources.get(name), len(old[0])) for name, x in named]
                draws, hows = zip(*lines, strict=True)
                sgd(*old, *new, factors, draws, hows, words)  # type: ignore[call-arg]
                continue
            w_part, v_part, g_part = map(values, old)
            g_part = values(self.axpy(decay, w_part, g_part, sources.get("decay")))
            new[1][:] = self.axpy(momentum, v_part, g_part, sources.get("momentum"))
            new[0][:] = self.axpy(-rate, values(new[1]), w_part, sources.get("rate"))
        return new_w, new_v

    @standard_floats
    def definition(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """`update` in exact fractions, an element at a time."""
        w, v, g = self.check(weights, momenta, gradients)
        sources = self.sources(seed)
        fmt = self.format
        scalars = {name: exact.decode(fmt, code) for name, code in self.scalars.items()}

        def rounded(name: str, x: exact.Exact) -> tuple[int, exact.Exact]:
            random = sources[name].draw(self.random_bits) if sources else 0
            code = exact.encode(fmt, x, self.rounding, random, self.random_bits)
            return code, exact.decode(fmt, code)

        new_w, new_v = np.empty_like(w), np.empty_like(v)
        for i in range(w.size):
            w_i, v_i, g_i = (exact.decode(fmt, int(x.reshape(-1)[i])) for x in (w, v, g))
            _, g_i = rounded("decay", exact.add(g_i, exact.multiply(scalars["decay"], w_i)))
            new_v.reshape(-1)[i], v_i = rounded(
                "momentum", exact.add(g_i, exact.multiply(scalars["momentum"], v_i))
            )
            new_w.reshape(-1)[i], _ = rounded("rate", exact.add(w_i, exact.multiply(-scalars["rate"], v_i)))
        return new_w, new_v

    def check(self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike) -> list[NDArray[Any]]:
        """The three as contiguous codes; an error if they are none, or of different shapes."""
        names = {"weights": weights, "momenta": momenta, "gradients": gradients}
        arrays = [np.ascontiguousarray(self.format.check_codes(codes, name)) for name, codes in names.items()]
        for name, array in zip(names, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise ValueError(f"{name} have shape {array.shape}, but weights have {arrays[0].shape}")
        return arrays
