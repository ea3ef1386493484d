"""Accelerators on boards: the arrays that fit and meet their clock, how fast they are, what they take.

The table is of the stored searches (fpga/arrays.json), which is what `quaver build` builds by default. A
search doubles the array until it does not fit, then halves the gap to the largest that does, of arrays as
square as their number of elements allows; if the largest reached a much faster clock than was asked for, it
is built again for that. Or the search builds the sizes that it is told. Each is built at a clock that is
lowered to what was reached until it is met. The array with the most multiply-accumulates a second on chip
is stored as soon as it is built, unless what is stored has more. After a change of the sources or the
tools, --again builds every stored array anew.

    python bench/boards.py
    python bench/boards.py --again      hours, or from the cache
    python bench/boards.py --search icebreaker --no-update --clock 33 --depth 128      minutes
    python bench/boards.py --search ulx3s-85f --no-update --sizes 8x8 12x12 --clock 84      hours
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import isqrt, prod
from pathlib import Path

from amaranth.hdl import UnusedElaboratable
from rich.console import Console
from rich.table import Table

import quaver.fpga.arrays
from quaver.fpga.boards import BOARDS
from quaver.fpga.build import LABELS, BuildError, Report, attempt, build
from quaver.fpga.design import Design
from quaver.golden.files import write
from quaver.host.board_engine import BUILT

#: Device, rows, columns, multipliers and MHz of the array of Gupta et al. 2015 (arXiv 1502.02551, §5).
PAPER = ("Kintex-7 325T, the paper's", 28, 28, 28 * 28, 166.0)

Size = tuple[int, int]
#: Elements of the largest array that a search thinks of.
MOST = 1024
#: Options that say what is searched.
SEARCHING = ("--arithmetic", "--sizes", "--clock", "--stages", "--depth", "--no-update", "--seeds")
STORE = Path(quaver.fpga.arrays.__file__).with_name("arrays.json")
console = Console(stderr=True)
results = Console(width=max(170, Console().width))  # a narrower terminal may wrap it, but cuts nothing
warnings.filterwarnings("ignore", category=UnusedElaboratable)  # designs that were only asked for their clock


def fastest(design: Design, seeds: int) -> Report | None:
    """The report of the fastest clock that is met, of all seeds; None if it does not fit or meets none."""
    found: Report | None = None
    for seed in range(1, seeds + 1):
        tried = replace(design, seed=seed)
        for _ in range(4):
            try:
                report, bitstream = attempt(tried, lambda phase: console.print(f"  {phase}", style="dim"))
            except BuildError as error:
                console.print(str(error), highlight=False)
                return found
            except RuntimeError as error:  # the tools give this placement up
                console.print(str(error), highlight=False)
                break
            console.print(f"{tried.rows}×{tried.columns}: {report.reached} of {report.asked} MHz")
            if bitstream is not None:
                if found is None or report.asked > found.asked:
                    found = report
                break
            assert report.reached is not None
            if found is not None and report.reached <= found.asked:
                break
            try:
                tried = tried.at_most(report.reached)
            except ValueError as error:
                console.print(str(error))
                break
    return found


def sizes(most: int) -> list[Size]:
    """The squarest array of each number of elements up to `most`, where it is at most four times as long."""
    found = []
    for elements in range(1, most + 1):
        rows, columns = min((elements // c, c) for c in range(1, isqrt(elements) + 1) if elements % c == 0)
        if rows <= 4 * columns:
            found.append((rows, columns))
    return found


def climb(candidates: list[Size], fits: Callable[[Size], bool]) -> None:
    """Try what is twice as large until it does not fit, then halve the gap to the largest that does."""
    low, high = -1, len(candidates)  # the largest that fits, the smallest that does not
    while high - low > 1:
        if high < len(candidates):
            tried = (low + high) // 2
        else:
            elements = 2 * prod(candidates[low]) if low >= 0 else 1
            tried = next((i for i in range(high) if prod(candidates[i]) >= elements), high - 1)
        if fits(candidates[tried]):
            low = tried
        else:
            high = tried


def search(design_of: Callable[[Size], Design], given: list[Size], seeds: int) -> Report | None:
    """The fastest array that was found: of those given, up to one that does not fit, or of all."""
    best: Report | None = None

    def built(design: Design) -> Report | None:
        nonlocal best
        report = fastest(design, seeds)
        if report and (best is None or report.rates.sustained > best.rates.sustained):
            best = report
            keep(report)  # at once: what comes next may take an hour, or be interrupted
        return report

    if given:
        all(built(design_of(size)) for size in given)
        return best
    climb(sizes(MOST), lambda size: built(design_of(size)) is not None)
    while best and best.reached and best.reached > 1.05 * best.asked:
        faster = built(Design(**best.design).at_most(0.98 * best.reached))
        if faster is not best:
            break
    return best


def keep(report: Report) -> None:
    """Store it, unless what is stored for its board and arithmetic is faster."""
    with one_at_a_time():
        old = next((r for r in quaver.fpga.arrays.reports() if place(r) == place(report)), None)
        if old and old.rates.sustained > report.rates.sustained:
            console.print(f"a faster one is stored: {old.design['rows']}×{old.design['columns']}")
        else:
            store(report)


def again() -> tuple[Report, ...]:
    """Build and store every array with today's sources and tools; the reports of what could be built."""
    met = []
    for old in quaver.fpga.arrays.reports():
        what = "{board}, {arithmetic}: {rows}×{columns}".format(**old.design)
        console.print(what, highlight=False)
        try:
            _, report = build(Design(**old.design), lambda phase: console.print(f"  {phase}", style="dim"))
        except (RuntimeError, ValueError) as error:  # that one stays as it was; the next may well be built
            console.print(str(error), style="bold red")
        else:
            with one_at_a_time():
                if any(now.design == old.design for now in quaver.fpga.arrays.reports()):
                    store(report)  # unless a search has found another meanwhile
            met.append(report)
    return tuple(met)


def place(report: Report) -> tuple[int, int]:
    """Its board's and its arithmetic's place in the table."""
    return list(BOARDS).index(report.design["board"]), list(BUILT).index(report.design["arithmetic"])


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """What other searches stored in the hours since is seen, and none stores meanwhile."""
    folder = os.open(STORE.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        quaver.fpga.arrays.reports.cache_clear()
        yield
        quaver.fpga.arrays.reports.cache_clear()
    finally:
        os.close(folder)


def store(report: Report) -> None:
    """In place of what is stored for that board and arithmetic."""
    others = [r for r in quaver.fpga.arrays.reports() if place(r) != place(report)]
    lines = [asdict(line) for line in sorted([*others, report], key=place)]
    write(STORE, json.dumps(lines, indent=1) + "\n")


def print_table(reports: tuple[Report, ...]) -> None:
    note = "—: what the tools say of the timing of Gowin's chips is not plausible, and left out."
    unknown = any(report.reached is None for report in reports)
    table = Table(title="Accelerators on boards", caption=note if unknown else None)
    headings = (LABELS | {"luts": "LUT4 or\nlogic cells"}).values()
    table.add_column("board, arithmetic")
    for heading in (
        *("array", "update", *headings, "MHz\nasked", "MHz\nreached"),
        *("peak\nGMAC/s", "on chip\nGMAC/s", "by line\nMMAC/s"),
    ):
        table.add_column(heading, justify="right")
    for report in reports:
        design, rates = report.design, report.rates
        cells = (report.use.get(what) for what in LABELS)
        table.add_row(
            f"{BOARDS[design['board']].title}, {design['arithmetic']}",
            f"{design['rows']}×{design['columns']}",
            "yes" if design["update"] else "no",
            *(f"{use.used:,} ({use.used / use.available:.0%})" if use else "—" for use in cells),
            f"{report.asked:g}",
            "—" if report.reached is None else f"{report.reached:g}",
            "—" if report.reached is None else f"{rates.peak / 1e9:.2f}",
            "—" if report.reached is None else f"{rates.sustained / 1e9:.2f}",
            f"{rates.linked / 1e6:.2f}",
        )
    results.print(table)


def print_beside_paper(reports: tuple[Report, ...]) -> None:
    """The fixed-point array with the most multipliers a second beside the paper's; a product and its sum
    are two operations."""
    fixed = (r for r in reports if r.design["arithmetic"] == "fixed16" and r.reached is not None)
    ours = [report for report in fixed if report.use.get("multipliers")]
    most = max(ours, key=lambda report: report.rates.peak, default=None)
    if most is None or not most.use["multipliers"].used:
        return
    design, title = most.design, BOARDS[most.design["board"]].title
    lines = (
        (title, design["rows"], design["columns"], most.use["multipliers"].used, most.asked),
        ("the paper's size, this clock", *PAPER[1:4], most.asked),
        PAPER,
    )
    table = Table(title="16-bit fixed point beside Gupta et al. 2015, §5")
    for heading in ("", "array", "multipliers", "MHz", "Gop/s", "operations ÷\n(multiplier · cycle)"):
        table.add_column(heading, justify="right" if heading else "left")
    for what, rows, columns, multipliers, mhz in lines:
        operations = 2 * rows * columns
        table.add_row(
            *(what, f"{rows}×{columns}", f"{multipliers}", f"{mhz:g}"),
            *(f"{operations * mhz / 1000:.1f}", f"{operations / multipliers:.2f}"),
        )
    results.print(table)


def size(text: str) -> Size:
    """3x4: rows and columns. ArgumentTypeError: it is not that."""
    if match := re.fullmatch(r"(\d+)x(\d+)", text):
        return int(match[1]), int(match[2])
    raise argparse.ArgumentTypeError(f"{text} is not ROWSxCOLUMNS, as 3x4 is")


def positive(text: str) -> int:
    """A number from 1 up. ArgumentTypeError: it is not that."""
    if text.isdigit() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--search", choices=BOARDS, metavar="BOARD", help=", ".join(BOARDS))
    which.add_argument("--again", action="store_true", help="build what is stored again")
    parser.add_argument("--arithmetic", choices=BUILT, default="fp8")
    parser.add_argument(
        "--sizes", nargs="+", type=size, default=[], metavar="RxC", help="only these, small to large"
    )
    parser.add_argument("--clock", type=float, default=60.0, metavar="MHZ", help="to begin with (60)")
    parser.add_argument("--stages", type=int, default=4, help="adder stages of an element (4)")
    parser.add_argument("--depth", type=int, default=512, help="steps that the operand memory holds (512)")
    parser.add_argument("--no-update", action="store_true", help="without the update unit")
    parser.add_argument("--seeds", type=positive, default=1, help="placements tried (1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    ignored = [word for word in sys.argv[1:] if word.startswith("--") and word.split("=")[0] in SEARCHING]
    if ignored and not args.search:
        parser.error(f"{ignored[0]} is of a --search")
    reports = again() if args.again else quaver.fpga.arrays.reports()
    missing = len(quaver.fpga.arrays.reports()) - len(reports)
    if args.search:
        board = BOARDS[args.search]
        parameters = {"stages": args.stages, "depth": args.depth, "update": not args.no_update}

        def design_of(size: Size) -> Design:
            clock = 1e6 * args.clock
            design = Design(args.search, args.arithmetic, *size, clock, **parameters, baud=board.baud)
            return design.at_most(args.clock)

        try:
            for rc in args.sizes or [(1, 1)]:
                design_of(rc)  # or it is refused before any work is done
        except ValueError as error:
            parser.error(str(error))
        found = search(design_of, args.sizes, args.seeds)
        if found is None:
            raise SystemExit(f"no size fits {board.title} and meets a clock; none is stored")
        reports = (found,)
    if args.json:
        print(json.dumps([asdict(report) for report in reports], indent=1))
    else:
        print_table(reports)
        print_beside_paper(reports)
    if missing:
        raise SystemExit(f"{missing} of what is stored could not be built again, and stays as it was")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
