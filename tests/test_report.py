"""The report: figures from stored runs in one page, histograms of what is cast, and what it refuses."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from golden import data, summing
from golden.formats import FP16
from golden.nn import checkpoint, histogram, models, recipes
from golden.nn.histogram import HIGHEST, LOWEST
from golden.nn.recipe import LossScale
from golden.nn.train import Settings, Trainer
from quaver import cli
from quaver.report import StoredRun


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """fp32 and fp8 with two seeds each; fp8 once with an epoch more."""
    where = tmp_path_factory.mktemp("runs")
    made = []
    for recipe, seed, epochs in (("fp32", 1, 1), ("fp32", 2, 1), ("fp8", 1, 1), ("fp8", 2, 2)):
        made.append(where / f"{recipe}-{seed}")
        options = ["--recipe", recipe, "--seed", str(seed), "--epochs", str(epochs), "--batch", "128"]
        assert cli.main(["train", *options, "--out", str(made[-1])]) == 0
    return made


class Page(HTMLParser):
    """What a page refers to, its tags and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not str(value).startswith("#"):
                self.outside.append(str(value))

    def handle_data(self, text: str) -> None:
        self.words += text


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    output = tmp_path_factory.mktemp("page") / "report.html"
    assert cli.main(["report", *map(str, runs), "-o", str(output)]) == 0
    return Page(output.read_text())


def test_the_page_is_self_contained(page: Page) -> None:
    assert page.outside == []
    assert page.tags.count("svg") == 3
    assert "script" not in page.tags


def test_the_table_holds_what_the_runs_measured(page: Page, runs: list[Path]) -> None:
    first = {path.name: StoredRun.read(path).accuracies[0] for path in runs}
    mean = 50 * (first["fp8-1"] + first["fp8-2"])
    against = mean - 50 * (first["fp32-1"] + first["fp32-2"])
    assert f"{mean:.2f} %" in page.words
    assert f"{against:+.2f} points".replace("-", "−") in page.words
    assert "loss scale, 1000, gradients are not" in page.words
    assert "learning rate 0.05" in page.words
    assert "second momentum" not in page.words  # Adam's


def test_without_runs_there_are_the_sums(tmp_path: Path) -> None:
    assert cli.main(["report", "-o", str(tmp_path / "r.html")]) == 0
    assert Page((tmp_path / "r.html").read_text()).tags.count("svg") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_a_run_without_fp16_weights_has_no_histogram(runs: list[Path], tmp_path: Path) -> None:
    assert cli.main(["report", str(runs[0]), "-o", str(tmp_path / "r.html")]) == 0
    assert "No run here keeps its weights in FP16" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "/nowhere holds no metrics.jsonl"),
        (["-o", "/nowhere/r.html"], "there is no directory /nowhere"),
        (["--seed", "0"], "--seed is 0"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_or_empty_metrics_file(runs: list[Path], tmp_path: Path) -> None:
    whole = (runs[2] / "metrics.jsonl").read_text()
    for text, message in (
        ("{}\n", "is not a whole metrics file"),
        ("half a line\n", "is not a whole metrics file"),
        (whole.splitlines(keepends=True)[0], "holds no step yet"),
    ):
        (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            StoredRun.read(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(whole + '{"kind": "st')
    torn = StoredRun.read(tmp_path)
    assert torn.steps_per_epoch == len(torn.losses) == 1437 // 128
    assert json.loads(whole.splitlines()[-1])["test_accuracy"] == torn.accuracies[-1]


def test_histograms_are_of_the_values_before_the_cast(tmp_path: Path) -> None:
    digits = data.load("digits")
    recipe = recipes.fp8.replace(loss_scale=LossScale(2.0**-10))

    def trainer() -> Trainer:
        network = models.build("mlp", digits.shape, digits.classes, seed=1)
        return Trainer(network, digits, recipe, Settings(epochs=1, batch=128))

    trained = trainer()
    trained.train_step()
    checkpoint.save(trained, tmp_path / "c.npz")
    found = histogram.histograms(trainer(), tmp_path / "c.npz")
    weights = np.concatenate(
        [FP16.decode(codes).ravel() for name, codes in trained.weights.items() if name.endswith("weight")]
    )
    counts, _ = np.histogram(np.log2(np.abs(weights[weights != 0])), np.arange(LOWEST, HIGHEST + 2))
    assert np.array_equal(found["weights"].counts, counts)
    assert found["weights"].zeros == np.count_nonzero(weights == 0)
    inputs = 128 * (64 + 128 + 64)
    assert found["activations"].counts.sum() + found["activations"].zeros == inputs
    # FP8 ends at 2**-16, and under this loss scale most errors lie below: they have not been cast.
    assert found["errors"].shares[: -17 - LOWEST].sum() > 0.2
    assert found["errors"].shares.sum() == pytest.approx(1)


def test_a_nearest_sum_stalls_and_chunks_do_not() -> None:
    sums = summing.stall(1, trials=2)
    last = {name: ratios[-1] for name, ratios in sums.items()}
    assert last["nearest, no chunks"] == pytest.approx(4096 / 65536, rel=0.02)
    assert last["nearest, chunks of 64"] == pytest.approx(1, abs=0.01)
    assert last["stochastic, no chunks"] == pytest.approx(1, abs=0.1)


def test_a_chunk_of_one_and_a_single_chunk_are_the_same_sum() -> None:
    for n, errors in summing.chunk_sweep(1, size=8).items():
        assert errors[0] == errors[-1] == errors[summing.SWEEP_CHUNKS.index(n)]
        assert errors.min() < errors[0] / 2
