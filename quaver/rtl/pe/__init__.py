"""Processing elements, one for each of `quaver.golden.arithmetic.ARITHMETICS` and under the same name.

Every output of an element is a register: the simulation clocks all elements together, in vector instructions.
"""

from collections.abc import Callable
from typing import Any

from quaver.golden.arithmetic import ARITHMETICS
from quaver.rtl.pe.chunked_float import ChunkedFloatPE
from quaver.rtl.pe.fixed_point import FixedPointPE

PES: dict[str, Callable[..., Any]] = {"chunked_float": ChunkedFloatPE, "fixed_point": FixedPointPE}


def pe_for(arithmetic: object, *, stages: int = 4) -> Any:
    """The processing element that computes `arithmetic`."""
    for name, kind in ARITHMETICS.items():
        if type(arithmetic) is kind and name in PES:
            return PES[name](arithmetic, stages=stages)
    raise TypeError(f"{arithmetic!r} has no processing element; there is one for {', '.join(PES)}")
