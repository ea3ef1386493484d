"""Processing elements, one for each of `golden.arithmetic.ARITHMETICS` and under the same name."""

from collections.abc import Callable

from rtl.pe.chunked_float import ChunkedFloatPE

PES: dict[str, Callable[..., ChunkedFloatPE]] = {"chunked_float": ChunkedFloatPE}


def pe_for(arithmetic: object, *, stages: int = 4) -> ChunkedFloatPE:
    """The processing element that computes `arithmetic`."""
    from golden.arithmetic import ARITHMETICS

    for name, kind in ARITHMETICS.items():
        if type(arithmetic) is kind:
            return PES[name](arithmetic, stages=stages)
    raise TypeError(f"{arithmetic!r} has no processing element; there is one for {', '.join(PES)}")
