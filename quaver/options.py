"""Options that several commands share, and what they build: a trainer and an engine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from golden import data
from golden.engine import Engine, GoldenEngine
from golden.nn import models, recipes
from golden.nn.run import Trace
from golden.nn.train import Settings, Trainer

#: Where progress and remarks go, so that standard output holds results alone.
console = Console(stderr=True)


def add_training_arguments(parser: argparse.ArgumentParser, *, epochs: int = 10) -> None:
    """What is trained, on what, and how."""
    group = parser.add_argument_group("training")

    def one_of(name: str, known: Iterable[str], default: str) -> None:
        text = f"{', '.join(known)} ({default})"
        group.add_argument(name, default=default, choices=tuple(known), metavar="NAME", help=text)

    def number(name: str, default: float, text: str = "") -> None:
        kind = type(default)
        group.add_argument(name, type=kind, default=default, metavar="N", help=f"{text} ({default})".lstrip())

    one_of("--recipe", recipes.RECIPES, "fp8")
    one_of("--model", models.MODELS, "mlp")
    one_of("--data", data.NAMES, "digits")
    group.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set's files lie")
    number("--epochs", epochs)
    number("--batch", Settings.batch)
    number("--learning-rate", Settings.learning_rate)
    number("--momentum", Settings.momentum)
    number("--weight-decay", Settings.weight_decay)
    group.add_argument(
        "--decay-at", default="", metavar="E,E,…", help="learning rate ÷ 10 before these epochs"
    )
    number("--seed", Settings.seed, "every random bit follows from it")


def add_array_arguments(parser: argparse.ArgumentParser) -> None:
    """The size of the simulated array."""
    group = parser.add_argument_group("simulated array")
    group.add_argument("--rows", type=int, default=8, metavar="N", help="(8)")
    group.add_argument("--columns", type=int, default=8, metavar="N", help="(8)")


def make_trainers(args: argparse.Namespace) -> Callable[..., Trainer]:
    """A function of an engine and a trace that makes the trainer of the options, at each call the same."""
    recipe = recipes.recipe(args.recipe)
    try:
        decay_at = tuple(int(e) for e in args.decay_at.split(",") if e)
    except ValueError:
        raise ValueError(
            f"--decay-at is {args.decay_at!r}, but it is epochs with commas between, like 60,120"
        ) from None
    settings = Settings(
        epochs=args.epochs,
        batch=args.batch,
        learning_rate=args.learning_rate,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        decay_at=decay_at,
        seed=args.seed,
    )
    dataset = load_data(args.data, args.data_dir)

    def make(engine: Engine, trace: Trace | None = None) -> Trainer:
        network = models.build(args.model, dataset.shape, dataset.classes, seed=args.seed)
        return Trainer(network, dataset, recipe, settings, engine=engine, trace=trace)

    return make


def load_data(name: str, directory: Path | None) -> data.Dataset:
    """The data set, with a progress bar if it must be downloaded."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        tasks: dict[str, int] = {}

        def told(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(f"downloading {file}", total=total or None)
            progress.update(tasks[file], completed=done)  # type: ignore[arg-type]

        return data.load(name, directory, progress=told)


def make_engine(name: str, args: argparse.Namespace) -> Engine:
    """`golden`, or `sim`: the accelerator in Verilator, its geometry from the options."""
    if name == "golden":
        return GoldenEngine()
    if name == "sim":
        from sim.engine import SimulatedEngine

        return SimulatedEngine(
            rows=args.rows, columns=args.columns, progress=lambda line: console.print(line, style="dim")
        )
    raise ValueError(f"--engine is {name!r}, but there are golden and sim")


@contextmanager
def progress_bar(description: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """A bar on standard error; call what it gives with the units done and, if wanted, a new description."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(description, total=total, rate="")

        def advance(done: int = 1, text: str | None = None, rate: str | None = None) -> None:
            fields = {} if rate is None else {"rate": rate}
            progress.update(task, advance=done, description=text, **fields)  # type: ignore[arg-type]

        yield advance


def print_results(table: Table, data: object, *, as_json: bool) -> None:
    """The results on standard output: a table for people, or JSON for machines."""
    if as_json:
        print(json.dumps(data, indent=1))
    else:
        # Into a pipe or a file there is no width to keep to.
        Console(width=None if sys.stdout.isatty() else 120).print(table)
