"""What counts a thing in hardware is an integer: anything else is refused before a signal is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quaver.golden.arithmetic import ARITHMETICS, ChunkedFloat
from quaver.golden.formats import FP8, FP16
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.array.systolic import SystolicArray
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.float.adder import FloatAdder
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.rtl.lfsr import LFSR
from quaver.rtl.pe import pe_for
from quaver.rtl.rounding import Rounding
from quaver.rtl.update.float_sgd import FloatSGDUnit

ARITHMETIC = ChunkedFloat()
#: "unit, parameter" → the unit with a value of it; 2 is one that each takes.
PARAMETERS: dict[str, Callable[[Any], object]] = {
    **{
        f"{name}, stages": lambda n, each=each: pe_for(each(), stages=n) for name, each in ARITHMETICS.items()
    },
    "systolic, rows": lambda n: SystolicArray(ARITHMETIC, rows=n, columns=2, stages=4),
    "systolic, columns": lambda n: SystolicArray(ARITHMETIC, rows=2, columns=n, stages=4),
    "accelerator, depth": lambda n: Accelerator(ARITHMETIC, rows=1, columns=1, depth=n),
    "adder, stages": lambda n: FloatAdder(FP16, stages=n),
    "adder, random_bits": lambda n: FloatAdder(FP16, rounding="stochastic", random_bits=n),
    "multiplier, stages": lambda n: FloatMultiplier(FP8, FP8, stages=n),
    "lfsr, bits": lambda n: LFSR(n),
    "rounding, width": lambda n: Rounding(n, 1),
    "rounding, dropped_bits": lambda n: Rounding(3, n),
    "adacomp, stages": lambda n: AdaCompUnit(stages=n),
    "float_sgd, stages": lambda n: FloatSGDUnit(stages=n),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_only_integers_count(name: str) -> None:
    make = PARAMETERS[name]
    for wrong in (2.0, 2.5, True, "2", None):
        with pytest.raises(TypeError, match="must be an integer"):
            make(wrong)
    make(2)
    make(np.int64(2))
