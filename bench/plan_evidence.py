"""Is the plan tight? Trains at the planned accumulator widths and below, in chunks of 64 and without.

FP8 operands in every layer but the last. The reference has the same operands and sums in float32 (one product
of matrices each, in no given order), so that accumulation is all that differs. Every run is a `quaver train`
that goes on where it was stopped, and one that has ended is not done again:

    python bench/plan_evidence.py cnn --data-dir DIR --out runs/evidence
    python bench/plan_evidence.py resnet20 --data-dir DIR --out runs/evidence
    python bench/plan_evidence.py cnn resnet20 --out runs/evidence --table
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from quaver import cli
from quaver.golden.files import write
from quaver.golden.formats import FP8
from quaver.golden.nn import metrics
from quaver.golden.nn.recipe import Precision
from quaver.golden.nn.recipes import fp8_images
from quaver.golden.planning.plan import Plan

BATCH = 128
#: What is trained: operands in FP8, images too, and an FP16 last layer.
RECIPE = fp8_images
REFERENCE = RECIPE.replace(name="float32 sums", hidden=Precision(inputs=FP8, weights=FP8, errors=FP8))


@dataclass(frozen=True)
class Case:
    """A network and how it is trained."""

    network: str
    epochs: int
    options: str


CASES = {
    "cnn": Case("cnn-fashion-mnist", 3, "--learning-rate 0.02"),
    "resnet20": Case("resnet20-cifar10", 12, "--learning-rate 0.05 --decay-at 8"),
}


@dataclass(frozen=True)
class Run:
    """One training: with which sums (None: the reference), how many bits fewer than planned, which seed."""

    case: str
    chunks: bool | None
    narrower: int
    seed: int

    @property
    def name(self) -> str:
        """Of its directory."""
        sums = {None: "float32", True: "chunks", False: "no-chunks"}[self.chunks]
        less = f"-{self.narrower}" if self.narrower else ""
        return f"{self.case}-{sums}{less}-seed{self.seed}"

    def command(self, options: argparse.Namespace) -> list[str]:
        """The arguments of quaver."""
        case, out = CASES[self.case], shlex.quote(str(options.out))
        model, _, data = case.network.partition("-")
        if self.chunks is None:
            how = f"--recipe {out}/float32.json --model {model} --data {data} --batch {BATCH}"
        else:
            chunks = "" if self.chunks else " --no-chunks"
            how = f"--recipe {RECIPE.name} --plan {out}/{self.case}.json --narrower {self.narrower}{chunks}"
        files = f"--out {out}/{self.name} --resume"
        if options.data_dir:
            files += f" --data-dir {shlex.quote(str(options.data_dir))}"
        epochs = options.epochs or case.epochs
        return shlex.split(f"train {how} --epochs {epochs} --seed {self.seed} {case.options} {files}")

    def epochs(self, out: Path) -> list[metrics.Epoch]:
        """Those that are stored."""
        file = out / self.name / "metrics.jsonl"
        return metrics.epochs(file) if file.exists() else []


def prepare(case: str, out: Path) -> None:
    """The plan and the reference recipe, where they are not there yet."""
    out.mkdir(parents=True, exist_ok=True)
    write(out / "float32.json", REFERENCE.to_json() + "\n")
    command = f"plan {CASES[case].network} --batch {BATCH} -o {shlex.quote(str(out))}/{case}.json"
    if not (out / f"{case}.json").exists():
        quaver(shlex.split(command))


def quaver(command: list[str]) -> None:
    """One command of the tool; what it prints goes where progress goes, for the results are ours."""
    with redirect_stdout(sys.stderr):
        print(f"quaver {shlex.join(command)}")
        if status := cli.main(command):
            raise SystemExit(status)


def row(runs: list[Run], options: argparse.Namespace) -> dict[str, Any]:
    """Means over the seeds that have come to the end."""
    first = runs[0]
    ends = [run.epochs(options.out)[-1] for run in runs if ended(run, options)]
    found: dict[str, Any] = {
        "case": first.case,
        "chunks": first.chunks,
        "narrower": first.narrower,
        "seeds": len(ends),
    }
    if first.chunks is not None:
        plan = Plan.from_json((options.out / f"{first.case}.json").read_text(encoding="utf-8"))
        widths = [g.chunked if first.chunks else g.plain for layer in plan.layers[:-1] for g in layer.gemms]
        bits = [width.mantissa_bits - first.narrower for width in widths]
        found["mantissa_bits"] = [min(bits), max(bits)]
    if ends:
        accuracies = [end.test_accuracy for end in ends]
        found |= {"test_accuracy": mean(accuracies), "spread": max(accuracies) - min(accuracies)}
        found |= {"loss": mean(end.loss for end in ends), "overflows": sum(end.overflows for end in ends)}
    return found


def ended(run: Run, options: argparse.Namespace) -> bool:
    return len(run.epochs(options.out)) >= (options.epochs or CASES[run.case].epochs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)} (all)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="keeps every run")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data sets' files lie")
    parser.add_argument("--narrower", type=int, nargs="+", default=[0, 1, 2, 3], metavar="BITS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="SEED")
    parser.add_argument("--epochs", type=int, metavar="N", help="in place of the case's")
    parser.add_argument("--table", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there is no case {min(unknown)}, but {', '.join(CASES)}")
    cases = options.cases or list(CASES)
    kinds: list[tuple[bool | None, int]] = [(None, 0)]
    kinds += [(chunks, narrower) for narrower in options.narrower for chunks in (True, False)]
    for case in cases:
        prepare(case, options.out)
    if not options.table:
        for seed in options.seeds:
            for case in cases:
                for kind in kinds:
                    run = Run(case, *kind, seed)
                    if not ended(run, options):
                        quaver(run.command(options))
    kinds.sort(key=lambda kind: (kind[0] is not None, not kind[0], kind[1]))
    rows = [
        row([Run(case, *kind, seed) for seed in options.seeds], options) for case in cases for kind in kinds
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for case in cases:
        show(CASES[case].network, [r for r in rows if r["case"] == case])


def show(network: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{network}, FP8 operands, means over seeds")
    for column in ("sums", "width", "bits", "seeds", "test", "spread", "− float32", "loss"):
        table.add_column(column, justify="left" if column in ("sums", "width") else "right")
    reference = rows[0].get("test_accuracy")
    for r in rows:
        sums = {None: "float32", True: "chunks of 64", False: "no chunks"}[r["chunks"]]
        width = "" if r["chunks"] is None else "PP" + (f" − {r['narrower']}" if r["narrower"] else "")
        bits = "–".join(str(b) for b in sorted(set(r.get("mantissa_bits", [23]))))
        cells = [sums, width, bits, str(r["seeds"])]
        if r["seeds"]:
            less = f"{100 * (r['test_accuracy'] - reference):+.2f}" if reference is not None else "?"
            cells += [f"{r['test_accuracy']:.2%}", f"{r['spread']:.2%}", less, f"{r['loss']:.4f}"]
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
