"""Units that take a row of inputs each cycle, whatever comes out, and their mutants: compiled, in process."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mutants import SELECT, Driver, Mutants

from quaver.rtl.emit.verilog import module_ports
from quaver.sim.verilated import compile_library

#: Whether a vector's outputs are those that were expected, a cycle after the other.
_VECTORS = r"""
#include <cstdint>
#include <cstring>
#include "Vmodel.h"

extern "C" int64_t first_mismatch(uint32_t mutant, int64_t cycles, const uint8_t* stimulus,
                                  const uint32_t* expected, const uint32_t* mask, uint32_t* seen) {
    VerilatedContext context;
    Vmodel model{&context};
    constexpr int64_t in = sizeof model.stimulus, out = sizeof model.response / 4;
    model.select = mutant;
    for (int64_t cycle = 0; cycle < cycles; ++cycle, expected += out, mask += out, seen += out) {
        memcpy(&model.stimulus, stimulus + cycle * in, in);
        model.eval();
        memcpy(seen, &model.response, 4 * out);
        for (int64_t i = 0; i < out; ++i)
            if ((seen[i] ^ expected[i]) & mask[i]) return cycle;
        model.clk = 1, model.eval(), model.clk = 0;
    }
    return -1;
}
"""
_WORD = 32


@dataclass(frozen=True)
class Expected:
    """What a port must show in one cycle; bits that are not in `mask` may be anything."""

    cycle: int
    port: str
    value: int
    mask: int | None = None


class Vectors:
    """A unit and its mutants, given a row of inputs each cycle whatever comes out."""

    def __init__(self, of: Mutants) -> None:
        ports = module_ports(of.verilog, of.top)
        del ports[SELECT]
        clocked = ports.pop("clk", None)
        self.places: dict[str, tuple[int, int]] = {}
        self.sizes = {"input": 0, "output": 0}
        connected = f".{SELECT}(select[{of.width - 1}:0])"
        for name, (direction, width) in ports.items():
            at = self.sizes[direction]
            self.places[name], self.sizes[direction] = (at, width), at + width
            bus = "stimulus" if direction == "input" else "response"
            connected += f", .{name}({bus}[{at + width - 1}:{at}])"
        if clocked:
            connected += ", .clk(clk)"
        # Three words at least, so that Verilator makes an array of them.
        words = {direction: max(3, -(-size // _WORD)) for direction, size in self.sizes.items()}
        self.words = words
        buses = [f"[{words[direction] * _WORD - 1}:0]" for direction in ("input", "output")]
        text = (
            f"{of.verilog}\nmodule vectors(input clk, input [31:0] select, input {buses[0]} stimulus,"
            f" output {buses[1]} response);\n  {of.top} unit({connected});\nendmodule\n"
        )
        self._run = library(text, "vectors", _VECTORS).first_mismatch
        self._run.restype = ctypes.c_int64

    def run(self, mutant: int, stimulus: Any, expected: Any, mask: Any) -> tuple[int, np.ndarray]:
        """The first cycle in which outputs differ, −1 for none; and the outputs up to there."""
        seen = np.zeros_like(expected)
        pointers = (x.ctypes.data_as(ctypes.c_void_p) for x in (stimulus, expected, mask, seen))
        return self._run(ctypes.c_uint32(mutant), ctypes.c_int64(len(stimulus)), *pointers), seen

    def stimulus(self, inputs: Mapping[str, Sequence[int]]) -> np.ndarray:
        """Rows of a value for each port; those that are left out are 0."""
        count = self.words["input"] * 4
        rows = [
            sum(int(value) << self.places[name][0] for name, value in zip(inputs, row, strict=True)).to_bytes(
                count, "little"
            )
            for row in zip(*inputs.values(), strict=True)
        ]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, count)

    def expectations(self, cycles: int, of: Sequence[Expected]) -> tuple[np.ndarray, np.ndarray]:
        """Values and masks of all outputs in each cycle."""
        values, masks = [0] * cycles, [0] * cycles
        for each in of:
            at, width = self.places[each.port]
            values[each.cycle] |= each.value << at
            masks[each.cycle] |= ((1 << width) - 1 if each.mask is None else each.mask) << at
        count = self.words["output"] * 4
        packed = (b"".join(row.to_bytes(count, "little") for row in rows) for rows in (values, masks))
        return tuple(np.frombuffer(x, np.uint32).reshape(cycles, -1).copy() for x in packed)  # type: ignore[return-value]

    def output(self, seen: np.ndarray, port: str) -> list[int]:
        """A port's values."""
        at, width = self.places[port]
        rows = (int.from_bytes(row.tobytes(), "little") for row in seen)
        return [row >> at & (1 << width) - 1 for row in rows]

    def driver(self, inputs: Mapping[str, Sequence[int]], expected: Sequence[Expected]) -> Driver:
        """Holds mutants to what is expected of the cycles of `inputs`, which follow two of reset."""
        if "rst" in self.places:
            inputs = {"rst": [0] * len(next(iter(inputs.values())))} | dict(inputs)
            inputs = {name: [int(name == "rst")] * 2 + [*column] for name, column in inputs.items()}
            expected = [Expected(e.cycle + 2, e.port, e.value, e.mask) for e in expected]
        stimulus = self.stimulus(inputs)
        values, masks = self.expectations(len(stimulus), expected)

        def run(mutant: int) -> str:
            cycle, _ = self.run(mutant, stimulus, values, masks)
            return f"another output in cycle {cycle}" if cycle >= 0 else ""

        return run


def library(verilog: str, top: str, harness: str) -> ctypes.CDLL:
    """`compile_library` with a harness that is text."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "harness.cpp"
        path.write_text(harness)
        return compile_library(verilog, top, path)
