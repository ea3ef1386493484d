"""Formats by name: what the command line takes, and what `str` of a format gives."""

from __future__ import annotations

from quaver.golden.formats.block import BLOCK_FORMATS
from quaver.golden.formats.fixed import FixedFormat
from quaver.golden.formats.float import BFLOAT16, DL8, DLFLOAT, E4M3, FP8, FP16, FP32, HALF, FloatFormat
from quaver.golden.formats.format import Format
from quaver.golden.formats.integer import IntegerFormat
from quaver.golden.formats.packed import PackedFormat
from quaver.golden.formats.sign_magnitude import SignMagnitudeFormat

#: Every kind of format by the name of its class.
FORMATS: dict[str, type[Format]] = {
    "FloatFormat": FloatFormat,
    "FixedFormat": FixedFormat,
    "IntegerFormat": IntegerFormat,
    "PackedFormat": PackedFormat,
    "SignMagnitudeFormat": SignMagnitudeFormat,
}

_NAMES: dict[str, Format] = {
    "fp8": FP8,
    "fp16": FP16,
    "e4m3": E4M3,
    "half": HALF,
    "bfloat16": BFLOAT16,
    "fp32": FP32,
    "dlfloat": DLFLOAT,
    "dlfloat16": DLFLOAT,
    "dl8": DL8,
}


def parse(name: str) -> Format:
    """The format that a name on the command line means; ``parse(str(fmt)) == fmt``.

    Names, in any case: ``fp8``, ``fp16``, ``e4m3`` (OCP's), ``half``, ``bfloat16``, ``fp32``, ``dlfloat`` (or
    ``dlfloat16``), ``dl8`` are the constants of `quaver.golden.formats`. ``e6m9`` or ``1-6-9`` give the
    widths, followed where wanted by a bias (``e4m3b11``), by ``fn`` (OCP's specials) or ``dl`` (DLFloat's;
    ``ieee`` is what is meant without), and by ``sat`` (saturating; without, overflow is infinity). ``q6.10``
    is fixed point of 6 integer and 10 fraction bits. ``uint4``, ``int4`` and ``odd4`` are integers of 4 bits:
    unsigned, signed, odd ones. ``sm8`` is a sign and a fraction of 7 bits. ``e4m3fnuz``, ``e5m2fnuz``,
    ``binary8p4`` (P3109's) and ``e2m1mx`` are floats with other tops. Block formats (``mxfp4``, …) are no
    formats of single numbers; `BLOCK_FORMATS` has them.

    Raises
    ------
    ValueError
        The name is no format's, or its widths or bias make no format.
    """
    text = name.strip().lower()
    if text in _NAMES:
        return _NAMES[text]
    for kind in FORMATS.values():
        if (found := kind.parse(text)) is not None:
            return found
    if text in BLOCK_FORMATS:
        raise ValueError(
            f"format is {name!r}, numbers in blocks with a scale each, which only casts of operands can be: "
            f"a recipe's inputs, weights, errors; single numbers of it are {BLOCK_FORMATS[text].element}"
        )
    syntaxes = ", or ".join(kind.syntax for kind in FORMATS.values())
    raise ValueError(f"format is {name!r}, but it must be one of {', '.join(_NAMES)}, or {syntaxes}")
