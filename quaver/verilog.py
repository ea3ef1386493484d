"""Generate the Verilog of a unit, with stable port names.

The clock is clk, the synchronous reset rst; a stream is NAME_payload, NAME_valid and NAME_ready.

examples:
  quaver verilog float_multiplier -o float_multiplier.v
  quaver verilog float_adder --rounding stochastic --random-bits 8 --stages 3 -o float_adder.v
  quaver verilog systolic_array --rows 16 --columns 16 -o array.v
  quaver verilog pe --help                       the parameters of one unit
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from quaver.options import console
from rtl.verilog import UNITS, to_verilog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    units = parser.add_subparsers(dest="unit", metavar="UNIT", required=True)
    for name, unit in UNITS.items():
        one = units.add_parser(name, help=unit.help, description=unit.help)
        unit.add_arguments(one)
        one.add_argument("-o", "--output", type=Path, metavar="FILE", help="(standard output)")
        one.add_argument("--name", default=name, help=f"the module's name ({name})")


def run(args: argparse.Namespace) -> int:
    output: Path | None = args.output
    if output is not None and not output.absolute().parent.is_dir():
        raise ValueError(f"--output is {output}, but there is no directory {output.parent}")
    if output is not None and output.is_dir():
        raise ValueError(f"--output is {output}, a directory; name a file in it")
    text = to_verilog(UNITS[args.unit].from_arguments(args), args.name)
    if output is None:
        sys.stdout.write(text)
        return 0
    temporary = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        temporary.write_text(text)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    console.print(f"{output}: module {args.name}, {len(text.splitlines()):,} lines")
    return 0
