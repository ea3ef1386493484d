"""The source of a CUDA program: constants of an arithmetic, a format or an update rule, then the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.compression.packet import HEADER, MAGIC, VERSION
from quaver.golden.formats import FixedFormat, FloatFormat, Format, Specials
from quaver.golden.kernels.chunked_sums import ChunkedSums
from quaver.golden.random_bits import SOURCES
from quaver.golden.rounding import Rounding
from quaver.golden.update import Adam, FixedSGD, FloatSGD

_FOLDER = Path(__file__).parent
#: As enum Rounding in numbers.cu counts.
ROUNDINGS = {Rounding.NEAREST_EVEN: 0, Rounding.TOWARD_ZERO: 1, Rounding.STOCHASTIC: 2}


def rounding_number(rounding: Rounding | str) -> int:
    """The number of a rounding in enum Rounding. ValueError: no kernel has it."""
    if rounding not in ROUNDINGS:
        raise ValueError(
            f"rounding is {rounding}, but the CUDA kernels round {', '.join(ROUNDINGS)}; take one of them, "
            f"or compute on the CPU"
        )
    return ROUNDINGS[Rounding(rounding)]


def check(rule: Any) -> None:
    """ValueError: the kernels of this arithmetic or update rule do not round so, or have no totals in another
    format than the accumulator's."""
    rounding_number(rule.rounding)
    if (total := getattr(rule, "total", None)) is not None:
        raise ValueError(
            f"total is {total}, but the CUDA kernels add chunks up in the accumulator's format, here "
            f"{rule.accumulator}; leave it out, or compute on the CPU"
        )


@dataclass(frozen=True)
class Program:
    """A program to compile.

    Attributes
    ----------
    text
        Its source, CUDA C++17 without includes.
    kernels
        The names of its kernels.
    """

    text: str
    kernels: tuple[str, ...]


def _program(types: dict[str, str], structs: list[str], files: tuple[str, ...], *kernels: str) -> Program:
    """numbers.cu, then the constants, which are spelt with what it defines, then `files`."""
    aliases = [f"typedef {kind} {name};" for name, kind in types.items()]
    first, *rest = ((_FOLDER / f"{file}.cu").read_text(encoding="utf-8") for file in ("numbers", *files))
    return Program("\n".join((first, *aliases, *structs, *rest)), kernels)


def _struct(name: str, **constants: Any) -> str:
    """A struct of constants: integers and booleans; a string is a member function's or a type's text."""
    lines = []
    for key, value in constants.items():
        if isinstance(value, str):
            lines.append(f"  static __device__ __forceinline__ {value}")
        else:
            kind = "bool" if isinstance(value, bool) else "int" if abs(value) < 1 << 31 else "unsigned"
            lines.append(f"  static constexpr {kind} {key} = {str(value).lower()};")
    return "\n".join([f"struct {name} {{", *lines, "};"])


def _returns(name: str, kind: str, value: float) -> str:
    """A member function that gives a float; as its bits, because infinities and NaN have no literal."""
    dtype, word = (np.float32, np.uint32) if kind == "float" else (np.float64, np.uint64)
    bits = int(np.array(value, dtype).view(word))
    return f"{kind} {name}() {{ return Ieee<{kind}>::value({bits:#x}{'u' if kind == 'float' else 'ull'}); }}"


def _format(name: str, fmt: FloatFormat) -> str:
    infinity = fmt.infinity_code or 0
    return _struct(
        name,
        width=fmt.width,
        mantissa_bits=fmt.mantissa_bits,
        precision=fmt.precision,
        quantum=fmt.quantum_exponent,
        max_code=fmt.max_code,
        sign=fmt.sign_code,
        infinity=infinity,
        beyond=fmt.max_code if fmt.saturate else infinity or fmt.nan_code,
        nan=fmt.nan_code,
        missing=1 << fmt.mantissa_bits if fmt.specials is Specials.DLFLOAT else 0,
        ties_away=fmt.ties_away,
    )


def _code(fmt: Format) -> str:
    return {1: "unsigned char", 2: "unsigned short", 4: "unsigned"}[np.dtype(fmt.code_dtype).itemsize]


def _sources() -> list[str]:
    names = "RowSource", "ColumnSource", "DiagonalSource"
    return [
        _struct(name, leap=each.hop * each.step, **{f"tap{i}": tap for i, tap in enumerate(each.taps)})
        for name, each in zip(names, SOURCES, strict=True)
    ]


@dataclass(frozen=True)
class Tiling:
    """How the tiled kernel is cut.

    Attributes
    ----------
    rows
        Rows of a thread's outputs, 4 or 8; it has 8 columns.
    across
        Threads along the columns of a tile, 8, 16 or 32; of 256.
    step
        Products that are in shared memory at once.
    """

    rows: int = 8
    across: int = 16
    step: int = 16

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of the outputs of a block."""
        return self.rows * 256 // self.across, 8 * self.across

    def shared_memory(self, value: int, total: int, *, drawn: bool, tabled: bool) -> int:
        """Bytes of a block, with decoded operands and sums of so many bytes; as struct Shared has it."""
        rows, columns = self.tile
        draws = 4 * (self.step + 1) * (4 * rows + 2 * columns) if drawn else 16
        operands = 2 * self.step * (rows + columns) * value
        size = operands + self.rows * 8 * 256 * total + draws + 2 * (256 if tabled else 1) * value
        return -(-size // 16) * 16


@cache
def chunked_program(sums: ChunkedSums, tiling: Tiling | None) -> Program:
    """GEMMs of a `ChunkedFloat`: the tiled kernel, or without a tiling the one on integers."""
    from quaver.golden.kernels import vector

    check(sums)
    operand, acc = sums.operand, sums.accumulator
    how = vector.plan(sums, float("inf"), directed=True)
    real = "float" if how is None or how.value is np.float32 else "double"
    constants: dict[str, Any] = {
        "neutral_a": operand.sign_code,
        "neutral_b": 0,
        "magnitude_a": operand.sign_code - 1,
        "magnitude_b": operand.sign_code - 1,
        "drawn": sums.stochastic,
        "result_drawn": False,
        "random_bits": sums.random_bits if sums.stochastic else 0,
    }
    types = {"CodeA": _code(operand), "CodeB": _code(operand), "CodeC": _code(acc), "Real": real}
    structs = [_format("Operand", operand), _format("Accumulator", acc), *_sources()]
    if tiling is None or how is None:
        structs.append(_struct("Program", **constants))
        return _program(types, structs, ("matrices", "draws", "pack", "integers"), *_INPUT, "gemm_integers")
    size = np.dtype(how.value).itemsize
    dropped = np.finfo(how.value).nmant - acc.mantissa_bits
    beyond = acc.max_value if acc.saturate else np.inf if acc.infinity_code is not None else np.nan
    constants |= _tiled(tiling, size, size, drawn=sums.stochastic, tabled=operand.width <= 8) | {
        "dropped": dropped,
        "random_shift": dropped - sums.random_bits if sums.stochastic else 0,
        "corrected": how.corrected,
        "subnormal": how.subnormal,
        "checked": how.checked,
        "ties_away": how.ties_away,
        "gap": how.gap,
        "tiny": _returns("tiny", real, 2.0**acc.min_exponent),
        "largest": _returns("largest", real, acc.max_value),
        "beyond": _returns("beyond", real, beyond),
    }
    files = "matrices", "draws", "pack", "chunked_float", "tiles"
    return _program(types, [*structs, _struct("Program", **constants)], files, *_INPUT, "gemm", "fold")


#: What brings operands and draws in.
_INPUT = "states", "pack_a", "pack_b", "pack_images_a", "pack_images_b"


def _tiled(tiling: Tiling, value: int, total: int, *, drawn: bool, tabled: bool) -> dict[str, Any]:
    """Constants of the tiles, with decoded operands and sums of so many bytes."""
    return {
        "rows": tiling.rows,
        "across": tiling.across,
        "step": tiling.step,
        "tabled": tabled,
        "blocks": 2 if total == 4 else 1,  # of a multiprocessor, which share its registers
        "shared": tiling.shared_memory(value, total, drawn=drawn, tabled=tabled),
    }


@cache
def fixed_program(arithmetic: FixedPoint, tiling: Tiling) -> Program:
    """GEMMs of a `FixedPoint`."""
    rounding_number(arithmetic.rounding)
    a, b, result = arithmetic.a, arithmetic.b, arithmetic.result
    constants: dict[str, Any] = _tiled(tiling, 4, 8, drawn=False, tabled=max(a.width, b.width) <= 8) | {
        "neutral_a": 0,
        "neutral_b": 0,
        "magnitude_a": 0,
        "magnitude_b": 0,
        "drawn": False,
        "result_drawn": arithmetic.stochastic,
        "random_bits": arithmetic.random_bits,
        "checked": False,
        "width_a": a.width,
        "width_b": b.width,
        "result_width": result.width,
        "dropped": arithmetic.dropped_bits,
    }
    types = {"CodeA": _code(a), "CodeB": _code(b), "CodeC": _code(result)}
    files = "matrices", "draws", "pack", "fixed_point", "tiles"
    return _program(types, [*_sources(), _struct("Program", **constants)], files, *_INPUT, "gemm", "fold")


@cache
def streams_program() -> Program:
    """The counts of packed bit streams."""
    return _program({}, [], ("streams",), "signed_ones", "differing")


@cache
def adacomp_program() -> Program:
    """AdaComp of a bucket's layers, and averages of packets."""
    constants = {"magic": int.from_bytes(MAGIC, "little"), "version": VERSION, "header": HEADER.size}
    structs = [_struct("Program", **constants)]
    files = "matrices", "adacomp"
    return _program(
        {}, structs, files, "decide", "seal", "place", "add_checksums", "read_elements", "add_shares"
    )


@cache
def cast_program(fmt: Format) -> Program:
    """encode, decode and round of a format."""
    out = "float" if fmt.value_dtype is np.float32 else "double"
    types = {"Code": _code(fmt), "Out": out}
    constants: dict[str, Any] = {"width": fmt.width}
    if isinstance(fmt, FloatFormat):
        # A float32 steps down to 2**-126 by its exponent; what is smaller takes a float64 on the way.
        types["Wide"] = "float" if out == "float" and fmt.quantum_exponent >= -126 else "double"
        constants |= {
            "fixed": False,
            "end": _returns("end", "double", 0.0),
            "per_step": _returns("per_step", "double", 1.0),
        }
        structs = [_format("Format", fmt)]
    elif isinstance(fmt, FixedFormat):
        types["Wide"] = "double"
        constants |= {
            "fixed": True,
            "end": _returns("end", "double", 2.0**fmt.integer_bits),
            "per_step": _returns("per_step", "double", 2.0**fmt.fraction_bits),
        }
        structs = [_format("Format", FloatFormat(2, 1))]  # named, not used
    else:
        raise TypeError(f"format is {fmt!r}, but the CUDA kernels cast to FloatFormat and FixedFormat")
    kernels = "encode_values", "round_values", "decode_values"
    return _program(types, [*structs, _struct("Program", **constants)], ("casts",), *kernels)


@cache
def update_program(rule: FloatSGD | FixedSGD | Adam) -> Program:
    """The kernel of an update rule. Its scalars are arguments: of rules that differ in nothing else, give one
    with any."""
    constants: dict[str, Any] = {
        "rounding": rounding_number(rule.rounding),
        "random_bits": rule.random_bits,
        "drawn": rule.stochastic,
        "lines": len(rule.masks),
    }
    if isinstance(rule, FixedSGD):
        w, v, g = rule.formats
        first, second = rule.fraction_bits
        scalar = rule.scalar.fraction_bits
        constants |= {
            "width_w": w.width,
            "width_v": v.width,
            "width_g": g.width,
            "shift_w": first - scalar - w.fraction_bits,
            "shift_v": first - scalar - v.fraction_bits,
            "shift_g": first - scalar - g.fraction_bits,
            "first_dropped": first - v.fraction_bits,
            "second_dropped": second - w.fraction_bits,
            "weight_shift": second - w.fraction_bits,
            "update_shift": second - v.fraction_bits,
        }
        types = {"CodeW": _code(w), "CodeV": _code(v), "CodeG": _code(g)}
        structs = [_struct("Program", **constants)]
        return _program(types, structs, ("matrices", "draws", "updates", "fixed_updates"), "fixed_sgd")
    types, structs = {"Code": _code(rule.format)}, [_format("Format", rule.format)]
    files = "matrices", "draws", "updates", "float_updates"
    return _program(types, [*structs, _struct("Program", **constants)], files, "adam", "float_sgd")
