"""The arithmetics: what one multiply-accumulate means, to the bit. Each has its twin in rtl/pe."""

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint

#: Every arithmetic by its name, which is also the name of its file here and in rtl/pe.
ARITHMETICS = {"chunked_float": ChunkedFloat, "fixed_point": FixedPoint}

__all__ = ["ARITHMETICS", "ChunkedFloat", "FixedPoint"]
