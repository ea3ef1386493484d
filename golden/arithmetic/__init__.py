"""The arithmetics: what one multiply-accumulate means, to the bit. Each has its twin in rtl/pe."""

from golden.arithmetic.chunked_float import ChunkedFloat

#: Every arithmetic by its name, which is also the name of its file here and in rtl/pe.
ARITHMETICS = {"chunked_float": ChunkedFloat}

__all__ = ["ARITHMETICS", "ChunkedFloat"]
