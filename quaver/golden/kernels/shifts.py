"""Shifts of words that stay as wide as they are.

Numba widens shifts of 32 bits to 64 and LLVM does not narrow them again, which would halve a loop's speed.
"""

from __future__ import annotations

from typing import Any

from numba.extending import intrinsic


def _shift_left(context, value, places):
    return value(value, value), lambda _, builder, __, args: builder.shl(*args)


def _shift_right(context, value, places):
    return value(value, value), lambda _, builder, __, args: builder.lshr(*args)


shift_left: Any = intrinsic(_shift_left)
shift_right: Any = intrinsic(_shift_right)
