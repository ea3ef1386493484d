"""Build the bitstream of an accelerator for a board, with open tools: pip install -e '.[fpga]' from a clone.

Rows, columns and clock are by default those that a search found for the board and the arithmetic; python
bench/boards.py lists them, and where there are none yet, you say them. A design that does not fit, or misses
its clock, gives no bitstream. A second build of the same design comes from the cache.

arithmetics, the same as of quaver verilog:
  fp8       FP8 operands, sums in FP16 in chunks of 64: trains --recipe fp8-everywhere
  fp16      FP16 operands, the same sums: trains all of --recipe fp8, the FP8 layers with the same codes
  fixed16   16-bit fixed point, ⟨8,8⟩: trains --recipe fixed16-q8.8
  fp8-stochastic, fp16-stochastic
            the same, every sum rounded stochastically: for --recipe fp8-everywhere-stochastic, and for all
            of --recipe fp8-stochastic
  int2, int3, int4, int5, int8
            unsigned activations times weights on odd levels, exact: the quantised layers of --recipe pact-4
  hopper_fp8, …   what tensor cores compute; --group 4 takes fewer products at once
  bitstream  an AND gate and a counter an element, 256 cycles a product: trains --recipe bitstream-256;
            --length 16 takes 16, for --recipe bitstream-16
  chunked_float, fixed_point, integer, aligned_float
            with parameters of your own; an option changes one, also of those above

examples:
  quaver build --board ulx3s-85f                               the stored array in FP8; the host updates
  quaver build --board orangecrab-85f --rows 2 --columns 2 --clock 48 -o crab.bit
  quaver build --board ice40-hx8k --arithmetic fixed16         the stored array in fixed point
  quaver build --board ulx3s-85f --arithmetic int4 --rows 4 --columns 4 --clock 60
  quaver build --board ulx3s-85f --arithmetic int4 --codes 4 --rows 4 --columns 4 --clock 60
                                                               codes, not sums, leave the array
  quaver build --board ulx3s-85f --rows 4 --columns 4 --clock 60 --update    with the recipe's update unit
  quaver build --board ulx3s-85f --compression adacomp --rows 1 --columns 1 --clock 30
                                                               and it compresses gradients, and averages them
  quaver build --board ecpix-5 --arithmetic fp16 --rows 2 --columns 2 --clock 50 --json
  quaver build --board ulx3s-85f --operand e4m3 --chunk 32 --rows 4 --columns 4 --clock 60
  quaver flash --board ulx3s-85f ulx3s-85f-fp8.bit             then this

Exit status 0: the bitstream is there. 1: it does not fit, or misses its clock; the message says a way out.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from quaver.cli.files import check_output, write
from quaver.cli.options import check_one_result, console, print_results
from quaver.cli.parser import refuse
from quaver.cli.unit_options import add_options, values_of
from quaver.cli.versions import versions
from quaver.fpga.arrays import stored
from quaver.fpga.boards import BOARDS, board
from quaver.fpga.build import LABELS, LOGIC_CELLS, BuildError, Report, build
from quaver.fpga.design import Design
from quaver.golden.arithmetic.named import named, spelled
from quaver.host.serial_port import BAUD
from quaver.rtl.emit.units import arithmetic_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", required=True, metavar="NAME", help=", ".join(BOARDS))
    add_options(parser.add_argument_group("arithmetic"), arithmetic_options())
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="(BOARD-ARITHMETIC.bit, or as the board has it)"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="of the array (as stored)")
    parser.add_argument("--columns", type=int, metavar="N", help="of the array (as stored)")
    parser.add_argument("--clock", type=float, metavar="MHZ", help="(as stored)")
    parser.add_argument(
        "--stages", type=int, metavar="N", help="adder stages of an element (as stored, or 4)"
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="steps that the operand memory holds (as stored, or 512)"
    )
    parser.add_argument(
        "--update",
        action=argparse.BooleanOptionalAction,
        help="the recipe's weight update in hardware, not on the host (as stored; yes where nothing is)",
    )
    parser.add_argument(
        "--baud", type=int, metavar="N", help="of the serial line (as stored, or as the board has it)"
    )
    parser.add_argument(
        "--codes",
        type=int,
        metavar="BITS",
        help="integers: bits of the next layer's codes that leave the array in place of sums (none)",
    )
    parser.add_argument(
        "--compression",
        metavar="NAME",
        help="unit that compresses gradients: none, adacomp, or adacomp(longest=64), bins of up to 64 (none)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the placement (as stored, or 1)")
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")


def run(args: argparse.Namespace) -> int:
    place = board(args.board)
    design = _design(args)
    file = re.sub(r"[^\w.]+", "-", f"{args.board}-{design.arithmetic}").strip("-")
    output = args.output or Path(f"{file}{place.suffix}")
    check_output(output)
    check_one_result(args)
    start = time.monotonic()
    try:
        with _spinner(f"{place.title}, {design.arithmetic} {design.rows}×{design.columns}") as progress:
            bitstream, report = build(design, progress)
    except BuildError as error:
        console.print(f"quaver build: {error}", highlight=False, markup=False, soft_wrap=True)
        return 1
    write(output, bitstream)
    data = asdict(report) | {"recipes": design.recipes(), "seed": design.seed, "versions": versions()}
    print_results(report_table(report, place.title), data, as_json=args.json, output=output)
    console.print(f"{output}: {len(bitstream):,} bytes in {time.monotonic() - start:.0f} s", highlight=False)
    baud = "" if design.baud == BAUD else f" --baud {design.baud}"
    hints = [("load it", f"quaver flash --board {args.board} {output}"), ("connect", place.line)]
    if recipes := design.recipes():
        learners = " --learners 2 --compress adacomp" if design.compression != "none" else ""
        hints.append(("compare", f"quaver compare --engine serial{baud} --recipe {recipes[0]}{learners}"))
    for what, text in hints:
        console.print(f"{what}:  {text}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _design(args: argparse.Namespace) -> Design:
    """The design of the options; what is left out is that of the stored array."""
    names = ("rows", "columns", "stages", "depth", "update", "baud", "seed", "codes", "compression")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.clock is not None:
        given["clock_hz"] = 1e6 * args.clock
    chosen = named(**values_of(args, arithmetic_options()))
    if not chosen.stochastic:
        refuse(args, "without --rounding stochastic", "random-bits")
    arithmetic = spelled(chosen)
    if args.update and chosen.default_update is None:
        refuse(args, f"with --arithmetic {arithmetic}, which has no update unit", "update")
    what = {"board": args.board, "arithmetic": arithmetic}
    options = {"baud": board(args.board).baud} | stored(**what) | given | what
    needed = {"rows": "--rows", "columns": "--columns", "clock_hz": "--clock"}
    missing = [option for name, option in needed.items() if name not in options]
    if missing:
        # What is refused at any size is refused here: nobody is sent to look for a size of it.
        smallest: dict[str, Any] = {"rows": 1, "columns": 1, "clock_hz": 27e6}
        Design(**smallest | options)
        raise ValueError(
            f"no size of {arithmetic} is stored for {args.board}; say {', '.join(missing)}: begin with "
            f"--rows 1 --columns 1 --clock 27, and go up from there"
        )
    return Design(**options)


def report_table(report: Report, title: str) -> Table:
    """The report for people."""
    design, rates = report.design, report.rates
    table = Table(title=f"{design['arithmetic']} on {title}", show_header=False)
    lanes = Design(**design).accelerator.geometry.interleave
    table.add_row("array", f"{design['rows']}×{design['columns']}, {lanes} lane{'s' * (lanes > 1)} each")
    table.add_row("updates", "on the board" if design["update"] else "on the host")
    table.add_row("compresses gradients", design.get("compression", "none"))
    for what, use in report.use.items():
        share = f"{use.used:,} of {use.available:,} ({use.used / use.available:.0%})"
        logic_cells = what == "luts" and "registers" not in report.use
        table.add_row(LOGIC_CELLS if logic_cells else LABELS[what], share)
    reached = "not known: the tools' figure for this family is not plausible"
    if report.reached_mhz is not None:
        reached = f"{report.reached_mhz:g} MHz"
    table.add_row("clock", f"{report.asked_mhz:g} MHz")
    table.add_row("slowest path allows", reached)
    if report.critical_path:
        table.add_row("slowest path", report.critical_path)
    if report.reached_mhz is not None:
        table.add_row("peak", f"{rates.peak / 1e9:.3g} GMAC/s")
        table.add_row("large GEMM on chip", f"{rates.sustained / 1e9:.3g} GMAC/s")
    table.add_row("the same by serial line", f"{rates.linked / 1e6:.3g} MMAC/s, {design['baud']:,} baud")
    table.add_row("tools", ", ".join(f"{name} {version}" for name, version in report.tools.items()))
    table.add_row("seconds", ", ".join(f"{phase} {spent:.0f}" for phase, spent in report.seconds.items()))
    return table


@contextmanager
def _spinner(description: str) -> Iterator[Callable[[str], None]]:
    """On standard error, the phase and the time; call what it gives with the next phase. Where that is no
    terminal, a line a phase."""
    if not sys.stderr.isatty():
        yield lambda phase: console.print(
            f"{description}: {phase}", highlight=False, markup=False, soft_wrap=True
        )
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description)

        def enter(phase: str) -> None:
            progress.update(task, description=f"{description}: {phase}")

        yield enter
