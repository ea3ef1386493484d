"""An engine of the CUDA kernels: golden's networks with GEMMs, casts and updates on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.arithmetic.bitstream import Bitstream
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.contracts import Arithmetic, Codes, UpdateRule
from quaver.golden.formats import FixedFormat, FloatFormat, Format
from quaver.golden.formats.format import as_floats
from quaver.golden.kernels.cuda import calls, source
from quaver.golden.kernels.cuda.calls import Operand, Size
from quaver.golden.kernels.cuda.machine import Machine
from quaver.golden.rounding import Rounding
from quaver.golden.update import Adam, FixedSGD, FloatSGD


def computes(rule: Arithmetic | UpdateRule) -> Any:
    """`rule` itself. TypeError: it has no CUDA kernel; ValueError: none with its rounding or its totals."""
    known = ChunkedFloat, FixedPoint, FloatSGD, FixedSGD, Adam
    if not isinstance(rule, known):
        names = ", ".join(kind.__name__ for kind in known)
        raise TypeError(f"{rule!r} has no CUDA kernel; there are {names}; compute it on the CPU")
    source.check(rule)
    return rule


class CudaEngine:
    """Computes GEMMs, casts and updates of NumPy arrays by the CUDA kernels of a machine: an `Engine`.

    It is one of `quaver.golden.engine.Casts` too. Every array goes to the machine and comes back; what lies
    between GEMMs and casts is the golden model's, and so are casts to formats without a CUDA kernel, and bit
    streams until they are counted.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @staticmethod
    def check(rule: Arithmetic | UpdateRule) -> None:
        """An arithmetic or an update rule without a CUDA kernel is an error, as of `computes`."""
        if not isinstance(rule, Bitstream):
            computes(rule)

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """C = A·B, see `Engine.gemm`. TypeError: an arithmetic without a CUDA kernel."""
        if isinstance(arithmetic, Bitstream):
            return arithmetic.counted(calls.Streams(self.machine), a_codes, b_codes, seed)
        how = computes(arithmetic)
        a, b = arithmetic.check(a_codes, b_codes, seed=seed)
        (M, K), N = a.shape, b.shape[1]
        if 0 in (M, K, N):
            return np.zeros((M, N), arithmetic.result.code_dtype)
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        left = Operand(self.machine.upload(a), (0, 1, K))
        right = Operand(self.machine.upload(b), (0, N, 1))
        states = [how.sources(seed)] if arithmetic.stochastic else []
        return self.machine.download(calls.gemm(self.machine, how, left, right, Size(1, M, K, N), states))[0]

    def update(
        self,
        rule: UpdateRule,
        weights: Codes,
        momenta: Codes,
        gradients: Codes,
        *,
        seed: int | None = None,
    ) -> tuple[Codes, Codes]:
        """One step of `rule`, see `Engine.update`. TypeError: a rule without a CUDA kernel."""
        how: Any = computes(rule)
        w, m, g = rule.check(weights, momenta, gradients)
        if not w.size:
            return w.copy(), m.copy()
        weights, momenta, gradients = (self.machine.upload(x) for x in (w, m, g))
        new_w, new_m = calls.update(self.machine, how, weights, momenta, gradients, w.size, seed)
        return self.machine.download(new_w).reshape(w.shape), self.machine.download(new_m).reshape(m.shape)

    def encode(
        self, fmt: Format, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN
    ) -> Codes:
        """See `Casts.encode`."""
        return self._cast(fmt, values, rounding, rounded=False)

    def round(
        self, fmt: Format, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN
    ) -> NDArray[Any]:
        """See `Casts.round`."""
        return self._cast(fmt, values, rounding, rounded=True)

    def _cast(
        self, fmt: Format, values: ArrayLike, rounding: Rounding | str, *, rounded: bool
    ) -> NDArray[Any]:
        golden, x = fmt.round if rounded else fmt.encode, as_floats(values)
        if not x.size or not _has_a_kernel(fmt) or Rounding(rounding).draws:
            return golden(x, rounding)
        how: dict[str, bool] = {"wide": x.dtype == np.float64, "rounded": rounded}
        out, refused = calls.encode(
            self.machine, fmt, Rounding(rounding), self.machine.upload(x), x.size, **how
        )
        if self.machine.download(refused)[0]:
            return golden(x, rounding)  # which says what has no code
        return self.machine.download(out).reshape(x.shape)

    def decode(self, fmt: Format, codes: ArrayLike) -> NDArray[Any]:
        """See `Casts.decode`."""
        array = fmt.check_codes(codes)
        if not array.size or not _has_a_kernel(fmt):
            return fmt.decode(array)
        flat = self.machine.upload(np.ascontiguousarray(array))
        return self.machine.download(calls.decode(self.machine, fmt, flat, array.size)).reshape(array.shape)


def _has_a_kernel(fmt: Format) -> bool:
    return isinstance(fmt, FloatFormat | FixedFormat)
