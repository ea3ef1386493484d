"""An engine of the CUDA kernels: golden's networks with GEMMs and updates on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from quaver.golden.arithmetic.bitstream import Bitstream
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.contracts import Arithmetic, Codes, UpdateRule
from quaver.golden.kernels.cuda import calls
from quaver.golden.kernels.cuda.calls import Operand, Size
from quaver.golden.kernels.cuda.machine import Machine
from quaver.golden.update import Adam, FixedSGD, FloatSGD


def computes(rule: Arithmetic | UpdateRule) -> Any:
    """`rule` itself. TypeError: it has no CUDA kernel."""
    known = ChunkedFloat, FixedPoint, FloatSGD, FixedSGD, Adam
    if not isinstance(rule, known):
        names = ", ".join(kind.__name__ for kind in known)
        raise TypeError(f"{rule!r} has no CUDA kernel; there are {names}; compute it on the CPU")
    return rule


class CudaEngine:
    """Computes GEMMs and updates of NumPy codes by the CUDA kernels of a machine: an `Engine`.

    Codes go to the machine and come back, one byte or two for each number, so that casts stay where the
    values are: four bytes each would take longer. What lies between GEMMs is the golden model's, and so are
    bit streams until they are counted.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @staticmethod
    def check(arithmetic: Arithmetic) -> None:
        """TypeError: an arithmetic without a CUDA kernel."""
        if not isinstance(arithmetic, Bitstream):
            computes(arithmetic)

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
