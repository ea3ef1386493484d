"""Processing elements, one for each of `golden.arithmetic.ARITHMETICS` and under the same name."""

from collections.abc import Callable

from golden.arithmetic import ARITHMETICS
from rtl.pe.chunked_float import ChunkedFloatPE

PES: dict[str, Callable[..., ChunkedFloatPE]] = {"chunked_float": ChunkedFloatPE}


def pe_for(arithmetic: object, *, stages: int = 4) -> ChunkedFloatPE:
    """The processing element that computes `arithmetic`."""
    for name, kind in ARITHMETICS.items():
        if type(arithmetic) is kind and name in PES:
            return PES[name](arithmetic, stages=stages)
    raise TypeError(f"{arithmetic!r} has no processing element; there is one for {', '.join(PES)}")
