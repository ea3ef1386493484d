"""Processing elements of `quaver.golden.arithmetic.ARITHMETICS`, under the same names."""

from collections.abc import Callable

from quaver.golden.arithmetic import ARITHMETICS
from quaver.golden.contracts import Arithmetic
from quaver.rtl.pe.aligned_float import AlignedFloatPE
from quaver.rtl.pe.bitstream import BitstreamPE
from quaver.rtl.pe.chunked_float import ChunkedFloatPE
from quaver.rtl.pe.element import ProcessingElement
from quaver.rtl.pe.fixed_point import FixedPointPE
from quaver.rtl.pe.integer import IntegerPE

#: Name of an arithmetic → its processing element, made of the arithmetic and `stages`.
PES: dict[str, Callable[..., ProcessingElement]] = {
    "chunked_float": ChunkedFloatPE,
    "fixed_point": FixedPointPE,
    "integer": IntegerPE,
    "aligned_float": AlignedFloatPE,
    "bitstream": BitstreamPE,
}


def pe_for(arithmetic: Arithmetic, *, stages: int = 4) -> ProcessingElement:
    """The processing element that computes `arithmetic`, with adders of `stages` pipeline stages.

    Raises
    ------
    TypeError
        No processing element computes this arithmetic.
    """
    for name, kind in ARITHMETICS.items():
        if type(arithmetic) is kind and name in PES:
            return PES[name](arithmetic, stages=stages)
    raise TypeError(f"{arithmetic!r} has no processing element; there is one for {', '.join(PES)}")
