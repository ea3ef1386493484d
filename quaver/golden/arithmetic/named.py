"""Arithmetics by name: what --arithmetic means, in every command alike."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any, cast

from quaver.golden.arithmetic import ARITHMETICS
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.contracts import Arithmetic
from quaver.golden.formats import FP16, IntegerFormat, Levels, parse

#: Sets of parameters that have a name of their own.
PRESETS: dict[str, Arithmetic] = {
    "fp8": ChunkedFloat(),
    "fp16": ChunkedFloat(FP16, FP16),
    "fp8-stochastic": ChunkedFloat(rounding="stochastic"),
    "fp16-stochastic": ChunkedFloat(FP16, FP16, rounding="stochastic"),
    "fixed16": FixedPoint(),
    **{f"int{k}": Integer.of(IntegerFormat(k), IntegerFormat(k, Levels.ODD)) for k in (2, 3, 4, 5, 8)},
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
    spelt = dict(part.split("=", 1) for part in match[2].split(",")) if match[2] else {}
    given = {key.strip(): _value(value.strip()) for key, value in spelt.items()}
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
        if (value := getattr(arithmetic, field.name)) != field.default or defaults
    ]
    return f"{name}({', '.join(said)})"


def _value(text: str) -> Any:
    """What a parameter's text means: a number, a format, or a word such as a rounding's."""
    if text.isdecimal():
        return int(text)
    try:
        return parse(text)
    except ValueError:
        return text
