"""The weight update by Adam, its moments in FP16 and every operation rounded.

After Kingma and Ba 2015 (arXiv 1412.6980, algorithm 1, in the order of operations at the end of its §2). What
is kept from step to step is rounded stochastically, as Wang et al. 2018 (arXiv 1812.08011, §2.3) do in SGD.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden import exact
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import FP16, FloatFormat
from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import RANDOM_BITS, Rounding
from quaver.golden.update.float_sgd import SEED_MASKS, FloatRule
from quaver.golden.validation import set_integers

_BLOCK = 1 << 16  # elements: what one pass works on stays in the cache


@dataclass(frozen=True)
class Adam(FloatRule):
    """One step of Adam on codes of `format`.

    For each element, in memory order; `round` as `rounding` says, `nearest` to nearest even, every operation
    exact inside and rounded once::

        g ← round(g + decay · w)
        m ← round(m + (1 − momentum) · nearest(g − m))
        v ← round(v + (1 − second_momentum) · nearest(nearest(g²) − v))
        q ← nearest(m / nearest(nearest(√v) + epsilon))
        w ← round(w − rate' · q)      rate' = rate · √(1 − second_momentum**step) / (1 − momentum**step)

    Parameters
    ----------
    rate, momentum, second_momentum, epsilon, decay
        η, β₁, β₂, ε and λ (L2 regularisation, in the gradient). The five factors decay, 1 − momentum,
        1 − second_momentum, epsilon and rate' are rounded to nearest into `format`: codes, like all else.
        The default ε, 2**−20, is the square root of half the smallest FP16: where g² is lost, |q| stays
        below 1.
    step
        The number of this update, counted from 1.
    format, rounding, random_bits
        As in `quaver.golden.update.float_sgd.FloatSGD`. The four lines that end in `round` draw from LFSRs of
        their own: ``LFSR(seed ^ MASKS[name])``, or the mask itself where that is zero, one draw of
        `random_bits` an element; the names, in order, are decay, momentum, second and rate.

    Raises
    ------
    ValueError
        A factor is not finite in `format`, a momentum is not in 0 … 1, epsilon or `step` is not positive.
    """

    rate: float
    momentum: float = 0.9
    second_momentum: float = 0.999
    epsilon: float = 2.0**-20
    decay: float = 0.0
    step: int = 1
    format: FloatFormat = FP16
    rounding: Rounding = Rounding.STOCHASTIC
    random_bits: int = RANDOM_BITS

    #: The masks of SGD, and the next digits of π for the fourth line.
    masks: ClassVar = {**SEED_MASKS, "second": 0x03707344}

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        set_integers(self, "step", "random_bits")
        for name in ("momentum", "second_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be in 0 … 1, 1 excluded")
        if self.step < 1:
            raise ValueError(f"step is {self.step}, but steps are counted from 1")
        self._check_scalars(**self.factors)
        if not self.scalars["epsilon"] or self.epsilon < 0:
            raise ValueError(f"epsilon is {self.epsilon}, but it must be positive in {self.format}")

    @property
    def factors(self) -> dict[str, float]:
        """The five factors before they are rounded: decay, 1 − β₁, 1 − β₂, ε and rate'."""
        correction = (1 - self.second_momentum**self.step) ** 0.5 / (1 - self.momentum**self.step)
        return {
            "decay": self.decay,
            "momentum": 1 - self.momentum,
            "second": 1 - self.second_momentum,
            "epsilon": self.epsilon,
            "rate": self.rate * correction,
        }

    @property
    def scalars(self) -> dict[str, int]:
        """The codes of the five factors."""
        return {name: int(self.format.encode(factor)) for name, factor in self.factors.items()}

    @standard_floats
    def update(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The new weights and momenta.

        Codes of `format`: weights and gradients of one shape, momenta (2, *shape) with m before v. `seed`,
        1 … 2**32 − 1, belongs to stochastic rounding, left out otherwise; each call has its own.
        """
        w, mv, g = self.check(weights, momenta, gradients)
        sources = self.sources(seed)
        factor = {name: float(self.format.decode(code)) for name, code in self.scalars.items()}
        new_w, new_mv = np.empty_like(w), np.empty_like(mv)
        flat = [x.reshape(-1) for x in (w, mv[0], mv[1], g)]
        results = [x.reshape(-1) for x in (new_w, new_mv[0], new_mv[1])]
        for start in range(0, w.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            new = self._block([self.format.decode(x[part]) for x in flat], factor, sources)
            for result, codes in zip(results, new, strict=True):
                result[part] = codes
        return new_w, new_mv

    def _block(
        self, values: list[Any], factor: dict[str, float], sources: dict[str, LFSR]
    ) -> tuple[Any, ...]:
        """The new codes of w, m and v, from values of w, m, v and g."""
        fmt = self.format
        w, m, v, g = values
        g = fmt.decode(self.axpy(factor["decay"], w, g, sources.get("decay")))
        m_codes = self.axpy(factor["momentum"], self._difference(g, m), m, sources.get("momentum"))
        square = fmt.round(np.square(g, dtype=np.float64))
        v_codes = self.axpy(factor["second"], self._difference(square, v), v, sources.get("second"))
        m, v = fmt.decode(m_codes).astype(np.float64), fmt.decode(v_codes).astype(np.float64)
        # Root and quotient of p-bit numbers, rounded to 53 ≥ 2p + 2 bits, round again as if they were exact
        # (Figueroa 1995).
        with np.errstate(divide="ignore", invalid="ignore"):
            root = fmt.round(np.sqrt(v))
            quotient = fmt.round(m / self._sum(root, factor["epsilon"]))
        return self.axpy(-factor["rate"], quotient, w, sources.get("rate")), m_codes, v_codes

    def _difference(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        """nearest(x − y)."""
        from quaver.golden.kernels.axpy import axpy_to_odd

        return self.format.round(axpy_to_odd(-1.0, y, x))

    def _sum(self, x: NDArray[Any], y: float) -> NDArray[np.float64]:
        """nearest(x + y), in float64."""
        from quaver.golden.kernels.axpy import axpy_to_odd

        return self.format.round(axpy_to_odd(1.0, x, np.full(len(x), y))).astype(np.float64)

    @standard_floats
    def definition(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """`update` in exact fractions, an element at a time."""
        w, mv, g = self.check(weights, momenta, gradients)
        sources, fmt = self.sources(seed), self.format
        factor = {name: exact.decode(fmt, code) for name, code in self.scalars.items()}
        new_w, new_mv = np.empty_like(w), np.empty_like(mv)

        def rounded(name: str, y: exact.Exact, x: exact.Exact) -> tuple[int, exact.Exact]:
            """round(y + factor · x)"""
            random = sources[name].draw(self.random_bits) if sources else 0
            total = exact.add(y, exact.multiply(factor[name], x))
            code = exact.encode(fmt, total, self.rounding, random, self.random_bits)
            return code, exact.decode(fmt, code)

        def nearest(x: exact.Exact) -> exact.Exact:
            return exact.decode(fmt, exact.encode(fmt, x))

        def less(x: exact.Exact, y: exact.Exact) -> exact.Exact:
            return nearest(exact.add(x, exact.multiply(Fraction(-1), y)))

        factor["rate"] = exact.multiply(Fraction(-1), factor["rate"])
        for i in range(w.size):
            w_i, m_i, v_i, g_i = (exact.decode(fmt, int(x.reshape(-1)[i])) for x in (w, *mv, g))
            _, g_i = rounded("decay", g_i, w_i)
            new_mv[0].reshape(-1)[i], m_i = rounded("momentum", m_i, less(g_i, m_i))
            square = nearest(exact.multiply(g_i, g_i))
            new_mv[1].reshape(-1)[i], v_i = rounded("second", v_i, less(square, v_i))
            root = nearest(exact.add(nearest(exact.square_root(v_i)), factor["epsilon"]))
            new_w.reshape(-1)[i], _ = rounded("rate", w_i, nearest(exact.divide(m_i, root)))
        return new_w, new_mv

    def check(self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike) -> list[NDArray[Any]]:
        """The three as contiguous codes; an error if they are none, or their shapes do not fit."""
        named = {"weights": weights, "momenta": momenta, "gradients": gradients}
        arrays = {n: np.ascontiguousarray(self.format.check_codes(codes, n)) for n, codes in named.items()}
        shape = arrays["weights"].shape
        for name, wanted in (("momenta", (2, *shape)), ("gradients", shape)):
            if arrays[name].shape != wanted:
                raise ValueError(
                    f"{name} have shape {arrays[name].shape}, but for weights of {shape} it must be {wanted}"
                )
        return list(arrays.values())
