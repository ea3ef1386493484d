"""One HTML page from stored runs: tables and curves of recipes over seeds, where values lie, why chunks.

examples:
  quaver report runs/* -o report.html                 all runs under runs/
  quaver report runs/* --json                         the tables alone, for a script
  quaver report -o report.html                        the two accumulation figures alone
  quaver report runs/fashion --data-dir data          where the run's data set lies, for the histograms

A run is a directory that `quaver train --out` wrote. Runs of one network, data set and settings are an
experiment: its table, also on standard output, has a row for each recipe with the mean and the standard
deviation over the seeds and the difference to fp32, and its figure a curve. The histograms replay one step of
the first run that keeps its weights in FP16, fp8 before its ablations. The page needs no network and no other
file.

What is left out is said on standard error: a last line that a killed or running training has only half
written, a directory without a step yet, and a metrics.jsonl that is no run's. With one of these the page is
written too, but the exit status is 2.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.table import Table

from quaver.cli import figures
from quaver.cli.files import check_output, check_unread, write
from quaver.cli.options import check_one_result, console, load_data, print_results, progress_bar
from quaver.cli.parser import refuse
from quaver.cli.runs import HEADER, Experiment, StoredRun, as_data, experiments, terminal_table
from quaver.cli.versions import versions
from quaver.golden.nn import metrics, models
from quaver.golden.nn.histogram import Histogram, histograms, replayed
from quaver.golden.nn.learners import Exchange
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.golden.planning.swamping import STALL_WAYS, SWEEP_LENGTHS, chunk_sweep, stall


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="directories of quaver train --out")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="(report.html)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set's files lie")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the sums that are measured (1)")
    parser.add_argument(
        "--json", action="store_true", help="the tables as JSON on standard output; a page only with -o"
    )


def run(args: argparse.Namespace) -> int:
    output: Path = args.output or Path("report.html")
    check_output(output)
    check_unread({"--output": output}, (file for one in args.runs for file in metrics.files_of(one)))
    if not 0 < args.seed < 1 << 32:
        raise ValueError(f"--seed is {args.seed}, but it must be 1 … 2**32 − 1")
    check_one_result(args)
    page = not args.json or args.output is not None
    if not page:
        refuse(args, "with --json, which makes no page", "seed", "data-dir")
    runs, whole = _read(args.runs)
    found = experiments(runs)
    if not found:
        refuse(args, "without runs, whose step it is for", "data-dir")
    if args.json:
        data = {"experiments": [as_data(one) for one in found], "versions": versions()}
        print_results(Table(), data, as_json=True)
    else:
        for one in found:
            print_results(terminal_table(one), None, as_json=False, output=output)
    if page:
        text = _page(found, args)
        write(output, text)
        console.print(f"report: {output}, {len(text.encode()) / 1e3:,.0f} kB", highlight=False)
    return 0 if whole else 2


def _read(paths: list[Path]) -> tuple[list[StoredRun], bool]:
    """The runs that there are, and whether every metrics.jsonl was one's; says what is left out.

    ValueError: paths are given, but none is a run with a step.
    """
    runs, none, whole = [], [], True
    for path in dict.fromkeys(paths):
        try:
            one = StoredRun.read(path)
        except ValueError as error:
            _say(f"left out: {error}")
            whole = False
            continue
        if one is None:
            none.append(str(path))
            continue
        runs.append(one)
        if one.torn:
            _say(f"left out of {path / 'metrics.jsonl'}: its last line, which is torn: {one.torn[:60]}")
    if none:
        _say(f"left out, without a step yet or no run: {', '.join(none)}")
    if paths and not runs:
        inside = [str(path) for path in paths if path.is_dir() and any(path.glob("*/metrics.jsonl"))]
        raise ValueError(
            f"no run among {', '.join(map(str, paths))}, so that no page is written; "
            + (f"name those in it: {inside[0]}/*" if inside else "a run is a directory of quaver train --out")
        )
    return runs, whole


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _page(found: list[Experiment], args: argparse.Namespace) -> str:
    """The page, as HTML."""
    sections = [section for one in found for section in (_training(one), *_exchanges(one))]
    if found:
        sections.append(_values([run for one in found for run in _shown(one)], args.data_dir))
    sections += [_accumulation(args.seed), _origin(found, args.argv)]
    return _PAGE.format(style=_STYLE, body="\n".join(sections))


def _origin(found: list[Experiment], argv: list[str]) -> str:
    """When, with which versions and by which commands the page and the runs were made."""
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}"
    lines = [[now, shlex.join(["quaver", *argv]), _listed(versions())]]
    for run in (run for one in found for run in _shown(one)):
        for noted in metrics.commands(run.path):
            lines.append([noted["at"], shlex.join(noted["command"]), _listed(noted["versions"])])
    cells = "".join(
        f"<tr><td>{html.escape(at)}</td><td><code>{html.escape(what)}</code></td><td>{html.escape(by)}</td></tr>"
        for at, what, by in lines
    )
    return _section(
        "How this page was made",
        "The first line made the page, the others the runs in it.",
        f'<div class="wide"><table class="commands">{cells}</table></div>',
    )


def _listed(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())


def _shown(experiment: Experiment) -> list[StoredRun]:
    return [run for runs in experiment.recipes.values() for run in runs]


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


def _training(experiment: Experiment) -> str:
    with rc_context(_LOOK):
        figure, axes = figures.panels(1, 2, (13, 4.6))
        figures.curves(axes, experiment.recipes)
    rows = [("th", HEADER), *(("td", row.cells()) for row in experiment.rows())]
    table = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>" for tag, row in rows
    )
    listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in experiment.settings.items())
    return _section(
        experiment.name,
        f"Settings: {listed}. A row is a recipe over its seeds after the epochs that all of them have; ± is "
        "the standard deviation of one seed's value. Differences to fp32 are taken seed by seed, after as "
        "many epochs.",
        _svg(figure, f"curves of {experiment.name}")
        + f'<div class="wide"><table>{table}</table></div>'
        + _alphas(experiment),
    )


def _alphas(experiment: Experiment) -> str:
    """The paths of α, for the recipes that learn it; empty if none does."""
    learn = {recipe: runs for recipe, runs in experiment.recipes.items() if runs[0].alphas}
    if not learn:
        return ""
    with rc_context(_LOOK):
        figure, axes = figures.panels(1, len(learn), (max(4.3 * len(learn), 6.5), 4.0))
        for one, (recipe, runs) in zip(np.ravel(axes), learn.items(), strict=True):
            figures.alphas(one, recipe, runs)
    text = (
        "PACT's α, where each layer has learned to clip its inputs: a line for each layer and seed. What is "
        "larger becomes α; a smaller α makes finer steps."
    )
    return f"<p>{html.escape(text)}</p>" + _svg(figure, f"alpha of {experiment.name}")


def _exchanges(experiment: Experiment) -> list[str]:
    """What learners exchanged, where there are any: the first seed of each recipe."""
    runs = {
        recipe: run for recipe, seeds in experiment.recipes.items() for run in seeds[:1] if any(run.exchanges)
    }
    if not runs:
        return []
    with rc_context(_LOOK):
        figure, axes = figures.panels(1, 3, (15, 4.6))
        figures.exchanges(axes, runs)
    header = [
        "recipe",
        "learners' bytes",
        "compression",
        "by the paper's count",
        "share sent",
        "residue ÷ gradient",
    ]
    rows = [("th", header)]
    for recipe, run in runs.items():
        total = Exchange.total(one for step in run.exchanges for one in step.values())
        last = Exchange.total(next(step for step in reversed(run.exchanges) if step).values())
        rows.append(("td", [
            recipe,
            f"{total.nbytes / 1e6:,.1f} MB",
            f"{total.rate:,.1f}",
            f"{total.effective_rate:,.1f}",
            f"{total.sent / total.elements:.2%}",
            f"{last.residue / last.gradient if last.gradient else 0:.2f}",
        ]))  # fmt: skip
    table = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>" for tag, row in rows
    )
    return [
        _section(
            f"{experiment.name}: gradients exchanged",
            "What the learners of the first seed sent each other. Bytes are counted with everything; by the "
            "paper's count, they are those of the values that are sent. Residues are what learners have not "
            "sent yet after a step; the table has the last one's.",
            _svg(figure, f"exchanges of {experiment.name}")
            + f'<div class="wide"><table>{table}</table></div>',
        )
    ]


def _values(runs: list[StoredRun], directory: Path | None) -> str:
    title = "Values against ranges"
    chosen = next((one for one in runs if _replayable(one)), None)
    if chosen is None:
        return _missing(title, "No run here keeps its weights in FP16 and has a checkpoint.")
    try:
        found = _histograms(chosen, directory)
    except (FileNotFoundError, ValueError) as error:
        return _missing(title, f"{chosen.path} cannot be replayed: {error}")
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


def _missing(title: str, why: str) -> str:
    """A section without its figure, which is said on standard error too."""
    _say(f"left out, the histograms: {why}")
    return _section(title, why, "")


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
figure, .wide { margin: 1rem 0; overflow-x: auto; } svg { width: 100%; min-width: 44rem; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid #e2e2e6; }
th, td { white-space: nowrap; } th { font-weight: 600; border-color: #9a9aa2; }
th:first-child, td:first-child, .commands td { text-align: left; vertical-align: top; }
.commands td:nth-child(2) { white-space: normal; min-width: 18rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quaver report</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><h1>Training in eight bits</h1><p>A report of <code>quaver report</code>.</p>
{body}
</body></html>
"""
