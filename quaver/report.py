"""One HTML page from stored runs: why chunks, what the chunk length does, training curves, where values lie.

examples:
  quaver report runs/* -o report.html                 all runs under runs/
  quaver report -o report.html                        the two accumulation figures alone
  quaver report runs/fashion --data-dir data          where the run's data set lies, for the histograms

A run is a directory that `quaver train --out` wrote. Runs of one network and data set share a figure, runs of
one recipe with several seeds a curve. The histograms replay one step of the first run that keeps its weights
in FP16, fp8 before its ablations. The page needs no network and no other file.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.table import Table

from golden.nn import metrics, models, recipes
from golden.nn.histogram import Histogram, histograms, replayed
from golden.nn.recipe import Recipe
from golden.nn.train import Settings, Trainer
from golden.summing import STALL_WAYS, SWEEP_LENGTHS, chunk_sweep, stall
from quaver import figures
from quaver.options import console, load_data, print_results, progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="directories of quaver train --out")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set's files lie")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the sums that are measured (1)")


@dataclass(frozen=True)
class StoredRun:
    """A run as its metrics tell it."""

    path: Path
    about: dict[str, Any]
    losses: np.ndarray
    accuracies: list[float]
    overflows: int
    steps_per_epoch: int
    """The steps so far, where there is no whole epoch yet."""

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return str(self.about["recipe"]["name"])

    @staticmethod
    def read(path: Path) -> StoredRun:
        """The run in the directory `path`. ValueError: there is none."""
        file = path / "metrics.jsonl"
        if not file.is_file():
            raise ValueError(f"{path} holds no metrics.jsonl; a run is a directory of quaver train --out")
        try:
            about, *events = metrics.read(file)
            steps = [line for line in events if line["kind"] == "step"]
            epochs = [line for line in events if line["kind"] == "epoch"]
            losses = np.array([np.nan if s["loss"] is None else s["loss"] for s in steps])
            overflows = sum(s["overflows"] > 0 for s in steps)
            first = sum(s["epoch"] == 0 for s in steps)
            run = StoredRun(path, about, losses, [e["test_accuracy"] for e in epochs], overflows, first)
            _ = run.recipe, about["network"], about["data"]["name"], about["settings"]["seed"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a whole metrics file ({error})") from error
        if not steps:
            raise ValueError(f"{file} holds no step yet; train on, or leave it out")
        return run


def run(args: argparse.Namespace) -> int:
    output: Path = args.output
    if not output.absolute().parent.is_dir():
        raise ValueError(f"--output is {output}, but there is no directory {output.parent}")
    if not 0 < args.seed < 1 << 32:
        raise ValueError(f"--seed is {args.seed}, but it must be 1 … 2**32 − 1")
    known = list(recipes.RECIPES)
    runs = [StoredRun.read(path) for path in args.runs]
    runs.sort(key=lambda one: known.index(one.recipe) if one.recipe in known else len(known))
    sections = [_accumulation(args.seed)]
    groups: defaultdict[tuple[str, str], list[StoredRun]] = defaultdict(list)
    for one in runs:
        groups[one.about["network"], one.about["data"]["name"]].append(one)
    sections += [_training(network, data, group) for (network, data), group in groups.items()]
    if runs:
        sections.append(_values(runs, args.data_dir))
    temporary = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        temporary.write_text(_PAGE.format(style=_STYLE, body="\n".join(sections)), encoding="utf-8")
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    for (network, data), group in groups.items():
        print_results(_terminal_table(network, data, group), None, as_json=False)
    console.print(f"report: {output}, {output.stat().st_size / 1e3:,.0f} kB")
    return 0


def _accumulation(seed: int) -> str:
    with progress_bar("summing", len(STALL_WAYS) + 2 * len(SWEEP_LENGTHS), "figures") as advance:
        sums = stall(seed, advance)
        centred, shifted = (chunk_sweep(seed, advance, mean=mean) for mean in (0.0, 0.5))
    with rc_context(_LOOK):
        figure, axes = figures.panels(1, 3, (15, 4.4))
        figures.stalls(axes[0], sums)
        figures.sweep(axes[1], centred, "Error by chunk length: FP8 products of mean 0")
        figures.sweep(axes[2], shifted, "The same, products of mean ¼")
    return _section(
        "Accumulation",
        "A sum in FP16 (1,6,9) stops growing where half an ulp of the total exceeds every addend. Stochastic "
        "rounding keeps the sum right on average; chunks keep partial sums small enough to be right each "
        "time. Chunks of 1 are a plain sum of products, and so is a single chunk; between them lies a flat "
        "valley (shaded: 32 to 256). For products of mean 0 the best chunk grows about as the root of the "
        "length. Measured by the golden kernel for this page.",
        _svg(figure, "accumulation"),
    )


def _training(network: str, data: str, group: list[StoredRun]) -> str:
    by_recipe = _by_recipe(group)
    with rc_context(_LOOK):
        figure, axes = figures.panels(1, 2, (13, 4.6))
        figures.curves(axes, by_recipe)
    header, *rows = _rows(by_recipe)
    table = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in (("th", header), *(("td", row) for row in rows))
    )
    hidden = {"seed"} if group[0].about["settings"]["optimiser"] == "adam" else {"seed", "second_momentum"}
    settings = {
        k: v for k, v in group[0].about["settings"].items() if k not in hidden and v not in (None, [])
    }
    same = all({**r.about["settings"], "seed": 0} == {**group[0].about["settings"], "seed": 0} for r in group)
    listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    return _section(
        f"{network} on {data}",
        f"Settings: {listed}." if same else "The runs differ in more than recipe and seed.",
        _svg(figure, f"curves of {network} on {data}") + f"<table>{table}</table>",
    )


def _by_recipe(group: list[StoredRun]) -> dict[str, list[StoredRun]]:
    by_recipe: dict[str, list[StoredRun]] = {}
    for one in group:
        by_recipe.setdefault(one.recipe, []).append(one)
    return by_recipe


def _rows(by_recipe: dict[str, list[StoredRun]]) -> list[list[str]]:
    """The header and a row for each recipe; differences are of runs with the same seed."""
    rows = [["recipe", "seeds", "epochs", "test accuracy", "from … to", "against fp32", "steps skipped"]]
    plain = {one.about["settings"]["seed"]: one for one in by_recipe.get("fp32", [])}
    for recipe, runs in by_recipe.items():
        epochs = min(len(one.accuracies) for one in runs)
        if epochs == 0:
            rows.append([recipe, str(len(runs)), "0", "", "", "", str(sum(r.overflows for r in runs))])
            continue
        last = 100 * np.array([one.accuracies[epochs - 1] for one in runs])
        pairs = [(one, plain.get(one.about["settings"]["seed"])) for one in runs]
        differences = [
            100 * (one.accuracies[epochs - 1] - other.accuracies[epochs - 1])
            for one, other in pairs
            if other is not None and recipe != "fp32" and len(other.accuracies) >= epochs
        ]
        against = f"{np.mean(differences):+.2f} points".replace("-", "−") if differences else ""
        overflows = str(sum(one.overflows for one in runs))
        span = f"{last.min():.2f} … {last.max():.2f} %" if len(runs) > 1 else ""
        rows.append([recipe, str(len(runs)), str(epochs), f"{last.mean():.2f} %", span, against, overflows])
    return rows


def _terminal_table(network: str, data: str, group: list[StoredRun]) -> Table:
    header, *rows = _rows(_by_recipe(group))
    table = Table(title=f"{network} on {data}")
    for column in header:
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _values(runs: list[StoredRun], directory: Path | None) -> str:
    title = "Values against ranges"
    chosen = next((one for one in runs if _replayable(one)), None)
    if chosen is None:
        return _section(title, "No run here keeps its weights in FP16 and has a checkpoint.", "")
    try:
        found = _histograms(chosen, directory)
    except FileNotFoundError as error:
        return _section(title, f"{chosen.path} cannot be replayed: {error}", "")
    with rc_context(_LOOK):
        figure = figures.values(found)
    scale = chosen.about["recipe"]["loss_scale"]["initial"]
    return _section(
        title,
        f"The step after the checkpoint of {chosen.path.name} ({chosen.recipe}), replayed with FP16 "
        "operands: what there is to be cast to 8 bits. Errors are multiplied by the loss scale, "
        f"{scale:g}, gradients are not. Shares are of the values that are not zero; the dotted lines bound "
        "FP8 with its subnormals, which are pale in the formats.",
        _svg(figure, "values"),
    )


def _replayable(one: StoredRun) -> bool:
    try:
        replayed(Recipe.from_json(json.dumps(one.about["recipe"])))
    except ValueError:
        return False
    return (one.path / "checkpoint.npz").is_file()


def _histograms(one: StoredRun, directory: Path | None) -> dict[str, Histogram]:
    data = load_data(one.about["data"]["name"], directory)
    settings = Settings(**one.about["settings"])
    network = models.build(one.about["network"], data.shape, data.classes, seed=settings.seed)
    trainer = Trainer(network, data, Recipe.from_json(json.dumps(one.about["recipe"])), settings)
    return histograms(trainer, one.path / "checkpoint.npz")


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return f'<figure role="img" aria-label="{html.escape(name)}">{text[text.index("<svg") :]}</figure>'


def _section(title: str, text: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>{content}</section>"


_LOOK: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
}

_STYLE = """
body { font: 16px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1d1d1f; margin: 0 auto;
       max-width: 1180px; padding: 2rem 1.25rem 4rem; background: #fff; }
h1 { font-size: 1.9rem; margin: 0 0 .25rem; } h2 { font-size: 1.3rem; margin: 2.6rem 0 .4rem; }
p { max-width: 48rem; margin: .4rem 0 1rem; color: #3c3c43; }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid #e2e2e6; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; border-color: #9a9aa2; }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quaver report</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><h1>Training in eight bits</h1><p>A report of <code>quaver report</code>.</p>
{body}
</body></html>
"""
