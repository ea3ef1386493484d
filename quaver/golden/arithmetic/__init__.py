"""The arithmetics: what one multiply-accumulate means, to the bit. Each has its twin in rtl/pe."""

from typing import TypeGuard

from quaver.golden.arithmetic.aligned_float import AlignedFloat
from quaver.golden.arithmetic.bitstream import Bitstream
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.contracts import Arithmetic

#: Every arithmetic by its name, which is also the name of its file here and in rtl/pe.
ARITHMETICS: dict[str, type[Arithmetic]] = {
    "chunked_float": ChunkedFloat,
    "fixed_point": FixedPoint,
    "integer": Integer,
    "aligned_float": AlignedFloat,
    "bitstream": Bitstream,
}


def is_arithmetic(thing: object) -> TypeGuard[Arithmetic]:
    """Whether `thing` is one of those that are listed."""
    return type(thing) in ARITHMETICS.values()


__all__ = [
    "ARITHMETICS",
    "AlignedFloat",
    "Bitstream",
    "ChunkedFloat",
    "FixedPoint",
    "Integer",
    "is_arithmetic",
]
