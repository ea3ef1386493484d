"""Small number formats, floats, fixed point and integers: what a code means, and which code a value becomes.

*Codes* are unsigned integers, what the wires carry. *Values* are float32 arrays (float64 where float32 does
not hold the format) that lie on the format's grid.
"""

from quaver.golden.formats.block import BLOCK_FORMATS, BlockFormat, Scale
from quaver.golden.formats.fixed import FixedFormat
from quaver.golden.formats.float import (
    BFLOAT16,
    DL8,
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
from quaver.golden.formats.packed import CodeSpace, PackedFormat
from quaver.golden.formats.sign_magnitude import SignMagnitudeFormat

__all__ = [
    "BFLOAT16",
    "BLOCK_FORMATS",
    "DL8",
    "DLFLOAT",
    "E4M3",
    "FORMATS",
    "FP8",
    "FP16",
    "FP32",
    "HALF",
    "BlockFormat",
    "CodeSpace",
    "FixedFormat",
    "FloatFormat",
    "Format",
    "IntegerFormat",
    "Levels",
    "PackedFormat",
    "Scale",
    "SignMagnitudeFormat",
    "Specials",
    "hfp8",
    "parse",
]
