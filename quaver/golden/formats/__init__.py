"""Small number formats, floats, fixed point and integers: what a code means, and which code a value becomes.

*Codes* are unsigned integers, what the wires carry. *Values* are float32 arrays (float64 where float32 does
not hold the format) that lie on the format's grid.
"""

from quaver.golden.formats.fixed import FixedFormat
from quaver.golden.formats.float import (
    BFLOAT16,
    DLFLOAT,
    E4M3,
    FP8,
    FP16,
    FP32,
    HALF,
    FloatFormat,
    Specials,
    hfp8,
)
from quaver.golden.formats.format import Format
from quaver.golden.formats.integer import IntegerFormat, Levels
from quaver.golden.formats.names import FORMATS, parse

__all__ = [
    "BFLOAT16",
    "DLFLOAT",
    "E4M3",
    "FORMATS",
    "FP8",
    "FP16",
    "FP32",
    "HALF",
    "FixedFormat",
    "FloatFormat",
    "Format",
    "IntegerFormat",
    "Levels",
    "Specials",
    "hfp8",
    "parse",
]
