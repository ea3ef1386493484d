"""Run the same training on two engines and hold every code of every GEMM and update against the other's.

examples:
  quaver compare --engine sim                        one step of the digits network, golden against simulated
  quaver compare --engine sim --epochs 1             a whole epoch
  quaver compare --engine sim --rows 4 --columns 4 --steps 10 --images 100
  quaver compare --engine sim --learners 4 --compress adacomp     packets, residues and averages too
  quaver compare --engine sim --recipe pact-4 --checkpoint runs/pact --steps 0 --images 100
                                                     inference of a trained network, of quaver train --out
  quaver compare --engine sim --recipe pact-4-everywhere --checkpoint runs/p --steps 0 --images 9 --folded
                                                     integers from layer to layer: codes leave the array
  quaver compare --engine sim --json                 for continuous integration; or --junit results.xml
  quaver compare --engine /dev/ttyUSB0 --recipe fp8-everywhere    golden against a board built for fp8
  quaver compare --engine serial --recipe fp8-everywhere          on the only serial port
  quaver compare --engine serial --recipe fp8-everywhere --learners 4 --compress adacomp
                                                     a board of quaver build --compression adacomp

Exit status 0: every code equal. 1: a mismatch; the first is named (step, layer, GEMM, index, both codes).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict
from math import ceil
from pathlib import Path

from rich.table import Table

from quaver.cli.files import check_output, check_unread, write
from quaver.cli.junit import Case, add_junit_argument, junit
from quaver.cli.options import (
    add_engine_arguments,
    add_training_arguments,
    check_one_result,
    console,
    make_engine,
    make_trainers,
    print_results,
    progress_bar,
    refuse_beyond,
)
from quaver.cli.versions import versions
from quaver.golden.engine import Engine, GoldenEngine
from quaver.golden.nn import checkpoint, metrics
from quaver.golden.nn.compare import Comparison, compare
from quaver.golden.nn.run import Trace
from quaver.golden.nn.trainer import Step, Trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser, epochs=0)
    add_engine_arguments(parser, engine="sim", text="held against golden")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps (1, or all of --epochs)")
    parser.add_argument("--images", type=int, default=0, metavar="N", help="test images classified first (0)")
    parser.add_argument(
        "--folded",
        action="store_true",
        help="classify them with normalisation folded: from a layer of integers to the next its codes leave "
        "the array, not its sums",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="begin from the state of a run of quaver train --out, whose options are the same",
    )
    parser.add_argument("--json", action="store_true", help="results as one JSON object on standard output")
    add_junit_argument(parser)


def run(args: argparse.Namespace) -> int:
    check_output(args.junit, "--junit")
    of_run = () if args.checkpoint is None else metrics.files_of(args.checkpoint)
    check_unread({"--junit": args.junit}, (Path(args.recipe), args.plan, *of_run))
    check_one_result(args, "junit")
    began = time.monotonic()
    if args.steps is not None and args.epochs:
        raise ValueError(f"--steps {args.steps} and --epochs {args.epochs} both say how long; give one")
    if args.images < 0 or (args.steps is not None and args.steps < 0):
        raise ValueError(f"--steps is {args.steps} and --images is {args.images}, but both are 0 or more")
    if args.steps == 0 and not args.images:
        raise ValueError(
            "--steps is 0 and --images is 0, so that nothing would be compared; give more of either"
        )
    if args.folded and not args.images:
        raise ValueError("--folded is about --images, of which there are 0; give some")
    whole_epochs, args.epochs = args.epochs, args.epochs or 1
    fresh, engine = make_trainers(args), make_engine(args.engine, args)
    golden = GoldenEngine()

    def make(engine: Engine, trace: Trace | None = None) -> Trainer:
        trainer = fresh(engine, trace)
        if args.checkpoint is not None:
            checkpoint.resume(trainer, args.checkpoint / "checkpoint.npz")
        return trainer

    trainer = make(golden, None)
    per_epoch, there = trainer.steps_per_epoch, len(trainer.data.test_labels)
    steps = whole_epochs * per_epoch if whole_epochs else 1 if args.steps is None else args.steps
    if args.checkpoint is None:  # else these are the run's, wherever it stands
        refuse_beyond(args, max(ceil(steps / per_epoch), 1), "epochs compared:")
    if args.images > there:
        raise ValueError(f"--images is {args.images}, but {trainer.data.name} has {there} test images")
    with progress_bar("comparing", steps, "steps") as advance:

        def stepped(step: Step) -> None:
            advance(rate=f"loss {step.loss:.3f}")

        result = compare(
            make, golden, engine, steps=steps, images=args.images, folded=args.folded, progress=stepped
        )
    what = {"recipe": trainer.recipe.name, "seed": trainer.settings.seed, "run": checkpoint.about(trainer)}
    data = what | as_data(result) | {"versions": versions("verilator")}
    table = comparison_table(result, f"golden against {args.engine}")
    print_results(table, data, as_json=args.json, output=args.junit)
    if args.junit is not None:
        write(args.junit, junit("quaver compare", _cases(result, args.engine, time.monotonic() - began)))
    if not result.equal:
        console.print(f"[bold red]first mismatch:[/] {result.first}")
    return 0 if result.equal else 1


def _cases(result: Comparison, engine: str, seconds: float) -> Iterator[Case]:
    """One for each layer, role and shape; the first one's time is that of all."""
    for number, t in enumerate(result.tallies):
        name = f"{t.role} {'×'.join(map(str, t.shape))}"
        failures = [f"{t.mismatches:,} mismatches in {t.codes:,} codes; the first of all: {result.first}"]
        yield Case(
            f"quaver.compare.{engine}.{t.layer}",
            name,
            0.0 if number else seconds,
            failures if t.mismatches else (),
            f"{t.calls:,} calls, {t.codes:,} codes",
        )


def comparison_table(result: Comparison, title: str) -> Table:
    """A row for each layer, role and shape, and a last one for all."""
    table = Table(title=title)
    for column in ("layer", "what"):
        table.add_column(column)
    for column in ("M×K×N", "calls", "MAC", "codes", "mismatches"):
        table.add_column(column, justify="right")
    for t in result.tallies:
        counts = (f"{t.calls:,}", f"{t.macs:,}", f"{t.codes:,}", _count(t.mismatches))
        table.add_row(t.layer, t.role, "×".join(map(str, t.shape)), *counts)
    table.add_section()
    calls, macs = sum(t.calls for t in result.tallies), sum(t.macs for t in result.tallies)
    counts = (f"{calls:,}", f"{macs:,}", f"{result.codes:,}", _count(result.mismatches))
    what = f"{result.steps} steps" + (f", {result.images} images" if result.images else "")
    table.add_row("all", what, "", *counts)
    return table


def as_data(result: Comparison) -> dict[str, object]:
    """The comparison for machines."""
    return {
        "equal": result.equal,
        "steps": result.steps,
        "images": result.images,
        "codes": result.codes,
        "mismatches": result.mismatches,
        "first_mismatch": None if result.first is None else asdict(result.first),
        "calls": [asdict(t) for t in result.tallies],
    }


def _count(mismatches: int) -> str:
    return "[green]0" if mismatches == 0 else f"[bold red]{mismatches:,}"
