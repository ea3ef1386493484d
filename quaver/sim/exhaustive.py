"""Every pair: the compiled Verilog of a two-operand unit, and the adder held to exact integers.

`Pairs` evaluates any unit with ports a, b[, random] at tens of millions of pairs a second; `AdderPairs`
compares an adder with the definition in exhaustive.cpp on the pairs it is given, or on all there are.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.formats import FloatFormat
from quaver.golden.rounding import Rounding
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.float.adder import FloatAdder
from quaver.sim.verilated import compile_library

Codes = NDArray[np.uint32]


class _Format(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "exponent_bits",
            "mantissa_bits",
            "bias",
            "max_code",
            "infinity_code",
            "nan_code",
            "saturate",
        )
    ]

    @classmethod
    def of(cls, fmt: FloatFormat) -> _Format:
        infinity = -1 if fmt.infinity_code is None else fmt.infinity_code
        return cls(
            fmt.exponent_bits,
            fmt.mantissa_bits,
            fmt.bias,
            fmt.max_code,
            infinity,
            fmt.nan_code,
            fmt.saturate,
        )


class _Addition(ctypes.Structure):
    _fields_ = [
        ("a", _Format),
        ("b", _Format),
        ("sum", _Format),
        ("stochastic", ctypes.c_int32),
        ("random_bits", ctypes.c_int32),
    ]


@dataclass(frozen=True)
class Mismatch:
    """One pair on which the unit and the definition differ.

    Attributes
    ----------
    a, b
        Codes of the operands.
    random
        The random bits; 0 where the unit has none.
    expected, got
        Codes of the result: the definition's and the unit's.
    """

    a: int
    b: int
    random: int
    expected: int
    got: int


class Pairs:
    """A combinational two-operand unit, compiled.

    Parameters
    ----------
    verilog, top
        Its Verilog and the name of its module, with inputs `a`, `b` and perhaps `random`.
    result
        Name of its output, at most 32 bits wide.
    widths
        Bits of `a`, `b`, `random` (0: the unit has none) and of the result.
    """

    def __init__(self, verilog: str, top: str, result: str, widths: tuple[int, int, int, int]) -> None:
        self.widths = widths
        a, b, random, out = (f"[{max(width, 1) - 1}:0]" for width in widths)
        connect = ", .random(random)" if widths[2] else ""
        pair = (
            f"module pair(input {a} a, input {b} b, input {random} random, output {out} result);\n"
            f"  {top} unit(.a(a), .b(b), .{result}(result){connect});\n"
            "endmodule\n"
        )
        harness = Path(__file__).with_name("exhaustive.cpp")
        self._library = compile_library(verilog + pair, "pair", harness)
        self._library.model_new.restype = ctypes.c_void_p
        self._library.compare.restype = ctypes.c_int64
        self._models = local()  # a model is not to be shared between threads

    def _model(self) -> ctypes.c_void_p:
        if not hasattr(self._models, "model"):
            self._models.model = ctypes.c_void_p(self._library.model_new())
        return self._models.model

    def _columns(self, *columns: ArrayLike) -> list[Codes]:
        """The columns a, b, random as equally long uint32 arrays, checked against the ports' widths."""
        arrays = np.broadcast_arrays(*columns)
        for name, width, array in zip(("a", "b", "random"), self.widths, arrays, strict=False):
            if array.size and int(array.max()) >> width:
                raise ValueError(f"{name} holds {int(array.max())}, but the port has {width} bits")
        return [np.ascontiguousarray(array.ravel(), dtype=np.uint32) for array in arrays]

    def evaluate(self, a: ArrayLike, b: ArrayLike, random: ArrayLike = 0) -> Codes:
        """The unit's result for each pair of codes, a flat array of uint32."""
        columns = self._columns(a, b, random)
        results = np.empty(len(columns[0]), np.uint32)
        self._library.evaluate(
            self._model(), ctypes.c_int64(len(results)), *map(_pointer, (*columns, results))
        )
        return results


class AdderPairs(Pairs):
    """A combinational float adder and its definition.

    Parameters
    ----------
    adder
        Its formats must be `FloatFormat`s whose sums fit 128 bits.
    verilog
        Verilog of module `float_adder` to take instead of what the adder converts to, such as a mutant.
    """

    def __init__(self, adder: FloatAdder, verilog: str | None = None) -> None:
        fmt, addend = adder.format, adder.addend
        if not isinstance(addend, FloatFormat):
            raise TypeError(f"the addend is {addend}, but its pairs are enumerated as codes of a FloatFormat")
        if adder.stages:
            raise ValueError(f"the adder has {adder.stages} stages, but pairs are for a combinational one")
        if adder.rounding not in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC):
            raise ValueError(f"rounding is {adder.rounding}, but the definition has nearest and stochastic")
        stochastic = adder.rounding is Rounding.STOCHASTIC
        random_bits = adder.random_bits if stochastic else 0
        span = max(fmt.max_exponent, addend.max_exponent) - min(fmt.quantum_exponent, addend.quantum_exponent)
        if span + random_bits + 2 > 128:
            raise ValueError(f"sums of {fmt} and {addend} take {span + 2} bits, but the definition has 128")
        verilog = verilog or to_verilog(adder, "float_adder")
        super().__init__(verilog, "float_adder", "sum", (fmt.width, addend.width, random_bits, fmt.width))
        self._addition = _Addition(
            _Format.of(fmt), _Format.of(addend), _Format.of(fmt), stochastic, random_bits
        )

    def definition(self, a: ArrayLike, b: ArrayLike, random: ArrayLike = 0) -> Codes:
        """The result of exact integers for each pair of codes, a flat array of uint32."""
        columns = self._columns(a, b, random)
        results = np.empty(len(columns[0]), np.uint32)
        self._library.definition(
            ctypes.byref(self._addition), ctypes.c_int64(len(results)), *map(_pointer, (*columns, results))
        )
        return results

    def compare(self, a: ArrayLike, b: ArrayLike, random: ArrayLike = 0) -> Mismatch | None:
        """The first pair on which unit and definition differ."""
        columns = self._columns(a, b, random)
        count = len(columns[0])
        index = self._library.compare(
            self._model(), ctypes.byref(self._addition), ctypes.c_int64(count), *map(_pointer, columns)
        )
        if index == count:
            return None
        x, y, r = (int(column[index]) for column in columns)
        return Mismatch(x, y, r, int(self.definition(x, y, r)[0]), int(self.evaluate(x, y, r)[0]))

    def compare_all(
        self,
        a_codes: Iterable[int] | None = None,
        progress: Callable[[int], None] | None = None,
        workers: int | None = None,
    ) -> tuple[int, Mismatch | None]:
        """Compare every `b` with each `a` of `a_codes` (all of them when left out), on `workers` threads.

        Returns the number of pairs compared and the first mismatch found; `progress` is told the pairs done.
        """
        rows = range(1 << self.widths[0]) if a_codes is None else list(a_codes)
        b = np.arange(1 << self.widths[1], dtype=np.uint32)
        done = 0
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            for mismatch in pool.map(lambda row: self.compare(row, b), rows):
                if mismatch:
                    pool.shutdown(cancel_futures=True)
                    return done, mismatch
                done += len(b)
                if progress:
                    progress(done)
        return done, None


def _pointer(array: Codes) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
