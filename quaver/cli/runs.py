"""Stored runs, and the table of an experiment: a row for each recipe over its seeds."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from quaver.golden.nn import metrics, recipes
from quaver.golden.nn.learners import Exchange
from quaver.golden.nn.trainer import Epoch


@dataclass(frozen=True)
class StoredRun:
    """A run as its metrics tell it.

    Attributes
    ----------
    path
        Its directory.
    about
        What defines it, as `quaver.golden.nn.checkpoint.about` has it.
    losses
        The loss of each step, float64.
    epochs
        Its epochs so far.
    overflows
        How many steps were skipped because something overflowed.
    exchanges
        For each step, parameter name → what the learners exchanged of it; empty where they exchanged nothing.
    steps_per_epoch
        Steps in an epoch; where none is complete yet, the steps so far.
    torn
        The last line of its metrics if that is incomplete, and therefore ignored; else empty.
    alphas
        Layer → the α that it has learned after each step, float64; of runs that learn any.
    """

    path: Path
    about: dict[str, Any]
    losses: np.ndarray
    epochs: list[Epoch]
    overflows: int
    exchanges: list[dict[str, Exchange]]
    steps_per_epoch: int
    torn: str
    alphas: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def recipe(self) -> str:
        """The recipe's name; where learners exchanged gradients, with how many they were, and how."""
        name, settings = str(self.about["recipe"]["name"]), self.about["settings"]
        if "learners" not in settings:
            return name
        return f"{name}, {settings['learners']} learners, {settings['compression']}"

    @property
    def seed(self) -> int:
        """The seed, from which every random bit of the run follows."""
        return int(self.about["settings"]["seed"])

    @property
    def settings(self) -> dict[str, Any]:
        """The settings without the seed, and without those that have no effect."""
        unsaid = {"seed", "learners", "compression"}
        if self.about["settings"]["optimiser"] != "adam":
            unsaid.add("second_momentum")
        return {k: v for k, v in self.about["settings"].items() if k not in unsaid and v not in (None, [])}

    @staticmethod
    def read(path: Path) -> StoredRun | None:
        """The run in the directory `path`; None if there is none, or none with a step yet.

        FileNotFoundError: `path` does not exist. ValueError: its metrics.jsonl is not a run's.
        """
        file = path / "metrics.jsonl"
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; a run is a directory of quaver train --out")
        if not file.is_file():
            return None
        lines, torn = metrics.read_torn(file)
        try:
            about, *events = lines
            steps = [line for line in events if line["kind"] == "step"]
            losses = np.array([np.nan if s["loss"] is None else s["loss"] for s in steps])
            overflows = sum(s["overflows"] > 0 for s in steps)
            first = sum(s["epoch"] == 0 for s in steps)
            layers = steps[0].get("alphas", {}) if steps else {}
            alphas = {layer: np.array([s["alphas"][layer] for s in steps], float) for layer in layers}
            exchanges = [metrics.exchanges(s) for s in steps]
            run = StoredRun(
                *(path, about, losses, metrics.epochs(file), overflows, exchanges, first, torn, alphas)
            )
            _ = run.recipe, run.seed, run.settings, about["network"], about["data"]["name"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a whole metrics file ({error})") from error
        return run if steps else None


@dataclass(frozen=True)
class Experiment:
    """Runs of one network on one data set that differ in recipe and seed alone.

    Attributes
    ----------
    name
        Network and data set; with settings where another experiment has the same.
    settings
        The settings that all of its runs have.
    recipes
        Recipe → a run for each seed. Runs without a complete epoch are here only if no run of the recipe has
        one.
    """

    name: str
    settings: dict[str, Any]
    recipes: dict[str, list[StoredRun]]

    def rows(self) -> list[Row]:
        """The table, in the recipes' order."""
        fp32 = {run.seed: run for run in self.recipes.get(recipes.fp32.name, ())}
        return [Row.of(recipe, runs, fp32) for recipe, runs in self.recipes.items()]


@dataclass(frozen=True)
class Row:
    """A recipe over its seeds, after the last epoch that all of them have; lists are in the order of `seeds`.

    Attributes
    ----------
    recipe
        The recipe's name.
    seeds
        The seeds of its runs.
    epochs
        How many epochs all of the runs have.
    test_accuracy
        Accuracy on the test images after that epoch, 0 … 1.
    training_loss
        Mean loss over that epoch.
    against_fp32
        Test accuracy less that of fp32 with the same seed after the same epoch, for the seeds that have an
        fp32 run.
    steps_skipped
        How many steps of all the runs were skipped because something overflowed.
    """

    recipe: str
    seeds: list[int]
    epochs: int
    test_accuracy: list[float]
    training_loss: list[float]
    against_fp32: list[float]
    steps_skipped: int

    @staticmethod
    def of(recipe: str, runs: list[StoredRun], fp32: dict[int, StoredRun]) -> Row:
        """The row of `runs`, which are all of `recipe`."""
        count = min(len(run.epochs) for run in runs)
        last = [run.epochs[count - 1] for run in runs] if count else []
        differences = [
            epoch.test_accuracy - fp32[run.seed].epochs[count - 1].test_accuracy
            for run, epoch in zip(runs, last, strict=False)
            if run.seed in fp32 and run is not fp32[run.seed] and count <= len(fp32[run.seed].epochs)
        ]
        return Row(
            recipe,
            [run.seed for run in runs],
            count,
            [epoch.test_accuracy for epoch in last],
            [epoch.loss for epoch in last],
            differences,
            sum(run.overflows for run in runs),
        )

    def cells(self) -> list[str]:
        """The row as text, a cell for each column of `HEADER`."""
        return [
            self.recipe,
            " ".join(map(str, self.seeds)),
            str(self.epochs),
            _spread([100 * one for one in self.test_accuracy], "{:.2f}", " %"),
            _spread([100 * one for one in self.against_fp32], "{:+.2f}", " points"),
            _spread(self.training_loss, "{:.4f}", ""),
            str(self.steps_skipped),
        ]


HEADER = ["recipe", "seeds", "epochs", "test accuracy", "against fp32", "training loss", "steps skipped"]


def _spread(values: list[float], form: str, unit: str) -> str:
    """The mean, and the standard deviation of one value where there are several."""
    if not values:
        return "—"
    spread = f" ± {form.replace('+', '').format(np.std(values, ddof=1))}" if len(values) > 1 else ""
    return form.format(np.mean(values)).replace("-", "−") + spread + unit


def experiments(runs: Sequence[StoredRun]) -> list[Experiment]:
    """The runs by network, data set and settings, in their order; recipes as `RECIPES` has them, then others.

    Of two runs that differ in nothing, the longer one counts. Different recipes that have one name are told
    apart by a number.
    """
    groups: dict[str, list[StoredRun]] = {}
    for run in runs:
        key = json.dumps([run.about["network"], run.about["data"], run.settings], sort_keys=True)
        groups.setdefault(key, []).append(run)
    found = [
        Experiment(f"{one.about['network']} on {one.about['data']['name']}", one.settings, _by_recipe(group))
        for group in groups.values()
        for one in group[:1]
    ]
    return [Experiment(_name(one, found), one.settings, one.recipes) for one in found]


def _by_recipe(group: list[StoredRun]) -> dict[str, list[StoredRun]]:
    contents = {run.path: json.dumps([run.recipe, run.about["recipe"]]) for run in group}
    alike = Counter({contents[run.path]: run.recipe for run in group}.values())
    known = list(recipes.RECIPES)
    found: dict[str, dict[int, StoredRun]] = {}
    for run in sorted(group, key=lambda run: known.index(run.recipe) if run.recipe in known else len(known)):
        number = f" ({zlib.crc32(contents[run.path].encode()):08x})" if alike[run.recipe] > 1 else ""
        seeds = found.setdefault(run.recipe + number, {})
        seeds[run.seed] = max(seeds.get(run.seed, run), run, key=lambda r: (len(r.epochs), len(r.losses)))
    of_seed = {recipe: [seeds[seed] for seed in sorted(seeds)] for recipe, seeds in found.items()}
    return {recipe: [run for run in runs if run.epochs] or runs for recipe, runs in of_seed.items()}


def _name(one: Experiment, among: list[Experiment]) -> str:
    """The experiment's name and, where others have the same, the settings in which they differ."""
    others = [other.settings for other in among if other.name == one.name]
    different = [k for k, v in one.settings.items() if any(other.get(k) != v for other in others)]
    return ", ".join([one.name, *(f"{k.replace('_', ' ')} {one.settings[k]}" for k in different)])


def terminal_table(experiment: Experiment) -> Table:
    """The experiment's table for people."""
    table = Table(title=escape(experiment.name))
    for column in HEADER:
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for row in experiment.rows():
        table.add_row(*map(escape, row.cells()))
    return table


def as_data(experiment: Experiment) -> dict[str, Any]:
    """The experiment's table for machines. Accuracies and their differences are fractions of 1."""
    rows = [asdict(row) for row in experiment.rows()]
    for row in rows:
        row["training_loss"] = [loss if isfinite(loss) else None for loss in row["training_loss"]]
    return {"experiment": experiment.name, "settings": experiment.settings, "recipes": rows}
