"""Arithmetics by name: what --arithmetic means, in every command alike."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any, cast

from quaver.golden.arithmetic import ARITHMETICS
from quaver.golden.arithmetic.aligned_float import AlignedFloat
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS, ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.contracts import Arithmetic
from quaver.golden.formats import (
    BFLOAT16,
    E4M3,
    FP16,
    FP32,
    HALF,
    FloatFormat,
    IntegerFormat,
    Levels,
    parse,
)


def _tensor_core(operand: FloatFormat, group: int, fraction_bits: int) -> AlignedFloat:
    """One that truncates to float32 and promotes nothing."""
    return AlignedFloat(operand, operand, group, fraction_bits, FP32, NO_CHUNKS)


#: What tensor cores compute when they accumulate in float32. Hopper's are equal to all that was measured on
#: an H100 (`bench/h100.py`): FP8 with promotion every 128 products (use_fast_accum=False) and without, and 16
#: bits. The others are as MMA-Sim reports them (Xie et al., arXiv 2511.10909) and unmeasured here. FP8 is
#: E4M3 by default; a and b may be e5m2sat.
TENSOR_CORES: dict[str, Arithmetic] = {
    "hopper_fp8": AlignedFloat(),
    "hopper_fp8_fast": AlignedFloat(chunk=NO_CHUNKS),
    "hopper_bf16": _tensor_core(BFLOAT16, 16, 25),
    "hopper_fp16": _tensor_core(HALF, 16, 25),
    "ampere_bf16": _tensor_core(BFLOAT16, 8, 24),
    "ampere_fp16": _tensor_core(HALF, 8, 24),
    "ada_fp8": AlignedFloat(group=16, chunk=NO_CHUNKS),
    "blackwell_fp8": _tensor_core(E4M3, 32, 25),
    "blackwell_bf16": _tensor_core(BFLOAT16, 16, 25),
    "blackwell_fp16": _tensor_core(HALF, 16, 25),
}

#: Sets of parameters that have a name of their own.
PRESETS: dict[str, Arithmetic] = {
    "fp8": ChunkedFloat(),
    "fp16": ChunkedFloat(FP16, FP16),
    "fp8-stochastic": ChunkedFloat(rounding="stochastic"),
    "fp16-stochastic": ChunkedFloat(FP16, FP16, rounding="stochastic"),
    "fixed16": FixedPoint(),
    **{f"int{k}": Integer.of(IntegerFormat(k), IntegerFormat(k, Levels.ODD)) for k in (2, 3, 4, 5, 8)},
    **TENSOR_CORES,
}


def names() -> tuple[str, ...]:
    """All that --arithmetic may be: one of the sets, or an arithmetic with its own defaults."""
    return (*PRESETS, *ARITHMETICS)


def named(arithmetic: str, **parameters: Any) -> Arithmetic:
    """The arithmetic of a name, with `parameters` in place of its own; those that are None are left out.

    The name is one of `names`, or as `spelled` has it: ``chunked_float(operand=e4m3fnsat, chunk=32)``.

    Raises
    ------
    ValueError
        No such name, a parameter that it has not, or what the arithmetic refuses.
    """
    match = re.fullmatch(r"([\w-]+)(?:\((.*)\))?", arithmetic.strip())
    if match is None or match[1] not in names():
        raise ValueError(f"--arithmetic is {arithmetic}, but there are {', '.join(names())}")
    start: Any = PRESETS[match[1]] if match[1] in PRESETS else ARITHMETICS[match[1]]()
    given = {}
    for part in match[2].split(",") if match[2] else ():
        key, equals, value = (text.strip() for text in part.partition("="))
        if not equals or key in given:
            raise ValueError(
                f"--arithmetic is {arithmetic}, but each parameter has one value: {match[1]}(NAME=VALUE, …)"
            )
        given[key] = _value(value)
    given |= {key: value for key, value in parameters.items() if value is not None}
    known = [field.name for field in fields(start)]
    for key, value in given.items():
        if key not in known:
            options = ["--" + each.replace("_", "-") for each in (key, *known)]
            raise ValueError(
                f"{options[0]} is {value}, but --arithmetic {match[1]} has {', '.join(options[1:])}; "
                f"leave it out, or take another arithmetic"
            )
    return replace(start, **given)


def spelled(arithmetic: Arithmetic, *, defaults: bool = False) -> str:
    """A name by which `named` gives `arithmetic`: the shortest, or with all parameters if `defaults`."""
    if not defaults:
        for name, preset in PRESETS.items():
            if preset == arithmetic:
                return name
    name = next(name for name, kind in ARITHMETICS.items() if type(arithmetic) is kind)
    said = [
        f"{field.name}={value}"
        for field in fields(cast("Any", arithmetic))
        if (value := getattr(arithmetic, field.name)) != field.default or (defaults and value is not None)
    ]
    return f"{name}({', '.join(said)})"


def _value(text: str) -> Any:
    """What a parameter's text means: a number, a format, or a word such as a rounding's."""
    if text.removeprefix("-").isdecimal():
        return int(text)
    try:
        return parse(text)
    except ValueError:
        return text
