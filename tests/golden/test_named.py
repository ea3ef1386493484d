"""One vocabulary of arithmetics, for every command."""

import re

import pytest

from quaver.golden.arithmetic import ARITHMETICS, ChunkedFloat, FixedPoint, Integer
from quaver.golden.arithmetic.named import PRESETS, named, names, spelled
from quaver.golden.formats import E4M3, FP8, FP16, FixedFormat, IntegerFormat, Levels


@pytest.mark.parametrize(
    "arithmetic",
    [
        *PRESETS.values(),
        ChunkedFloat(E4M3, FP16, chunk=32),
        ChunkedFloat(FP16, FP8, 1, "stochastic", 24),
        FixedPoint(FixedFormat(4, 12), FixedFormat(6, 10), FixedFormat(4, 12), "nearest"),
        Integer(IntegerFormat(7), IntegerFormat(3, Levels.SIGNED), 18),
    ],
)
def test_a_spelling_means_what_it_spells(arithmetic: object) -> None:
    assert named(spelled(arithmetic)) == arithmetic
    assert named(spelled(arithmetic, defaults=True)) == arithmetic


def test_names() -> None:
    assert (*PRESETS, *ARITHMETICS) == names()
    assert {"fp8", "fp16", "fixed16", "int2", "int4", "int8", "integer", "hopper_fp8"} <= {*names()}
    assert named("integer") == named("int4") == Integer()
    assert named("chunked_float") == named("fp8") == ChunkedFloat()
    assert named("fixed_point") == named("fixed16") == FixedPoint()
    assert named("fp16", chunk=8, operand=None) == ChunkedFloat(FP16, FP16, 8)
    assert spelled(ChunkedFloat(E4M3, chunk=32)) == "chunked_float(operand=e4m3fnsat, chunk=32)"
    assert spelled(ChunkedFloat(FP16, FP16)) == "fp16"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bfloat", "--arithmetic is bfloat, but there are " + ", ".join(names())),
        (
            "fixed16(chunk=3)",
            "--chunk is 3, but --arithmetic fixed16 has --a, --b, --result, --rounding, --random-bits, "
            "--accumulator-bits; leave it out, or take another arithmetic",
        ),
        ("fp8(chunk=0)", "chunk is 0, but it must be an integer ≥ 1; chunk=K sums without chunks"),
        (
            "hopper_fp8(chunk=1073741825)",
            "chunk is 1073741825, but it must be 1 … 1073741824, and so many are no chunks",
        ),
        *(
            (text, f"--arithmetic is {text}, but each parameter has one value: hopper_fp8(NAME=VALUE, …)")
            for text in ("hopper_fp8(group)", "hopper_fp8(chunk=64,)", "hopper_fp8(group=4, group=8)")
        ),
    ],
)
def test_refusals(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        named(name)
