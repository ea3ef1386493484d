"""What every arithmetic asks of the operands and the seed of a GEMM."""

from __future__ import annotations

from numpy.typing import ArrayLike

from quaver.golden.contracts import Arithmetic, Codes
from quaver.golden.validation import as_integer


def check_operands(
    arithmetic: Arithmetic, a_codes: ArrayLike, b_codes: ArrayLike, seed: int | None
) -> tuple[Codes, Codes]:
    """Both as arrays of codes, (M, K) and (K, N).

    Raises
    ------
    TypeError, ValueError
        They are no codes of the operands' formats, or of other shapes; a seed where nothing is drawn, or none
        where something is.
    """
    a = arithmetic.a.check_codes(a_codes, "a_codes")
    b = arithmetic.b.check_codes(b_codes, "b_codes")
    for name, codes, shape in (("a_codes", a, "(M, K)"), ("b_codes", b, "(K, N)")):
        if codes.ndim != 2:
            raise ValueError(
                f"{name} has shape {codes.shape}, but it must be {shape}; reshape it to two axes"
            )
    if a.shape[1] != b.shape[0]:
        raise ValueError(
            f"a_codes {a.shape} and b_codes {b.shape} disagree on K: {a.shape[1]} columns against"
            f" {b.shape[0]} rows; transpose one of them?"
        )
    if not arithmetic.stochastic and seed is not None:
        raise ValueError(f"seed is {seed}, but {arithmetic!r} draws nothing; leave it out")
    if arithmetic.stochastic and (seed is None or not 0 < as_integer(seed, "seed") < 1 << 32):
        raise ValueError(f"seed is {seed}, but random bits need one of 1 … 2**32 − 1")
    return a, b
