"""The report: figures from stored runs in one page, histograms of what is cast, and what it refuses."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from quaver import cli
from quaver.cli import figures
from quaver.cli.runs import StoredRun, as_data, experiments
from quaver.golden import data
from quaver.golden.formats import FP16
from quaver.golden.nn import checkpoint, histogram, metrics, models, recipes
from quaver.golden.nn.histogram import HIGHEST, LOWEST
from quaver.golden.nn.recipe import LossScale
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.golden.planning import swamping


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
    first = {path.name: 100 * metrics.epochs(path / "metrics.jsonl")[0].test_accuracy for path in runs}
    fp8 = np.array([first["fp8-1"], first["fp8-2"]])
    against = fp8 - [first["fp32-1"], first["fp32-2"]]
    assert f"{fp8.mean():.2f} ± {fp8.std(ddof=1):.2f} %" in page.words
    assert f"{against.mean():+.2f} ± {against.std(ddof=1):.2f} points".replace("-", "−") in page.words
    assert "loss scale, 1000, gradients are not" in page.words
    assert "learning rate 0.05" in page.words
    assert "second momentum" not in page.words  # Adam's


def test_without_runs_there_are_the_sums(tmp_path: Path) -> None:
    assert cli.main(["report", "-o", str(tmp_path / "r.html")]) == 0
    assert Page((tmp_path / "r.html").read_text()).tags.count("svg") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_a_run_without_fp16_weights_has_no_histogram(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(runs[0]), "-o", str(tmp_path / "r.html")]) == 0
    assert "No run here keeps its weights in FP16" in (tmp_path / "r.html").read_text()
    assert "left out, the histograms: No run here keeps its weights in FP16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "/nowhere does not exist; a run is a directory"),
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
    ):
        (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            StoredRun.read(tmp_path)
    for end in ('{"kind": "st', '{"kind": "st\n', "\0\0\0\0"):
        (tmp_path / "metrics.jsonl").write_text(whole + end)
        torn = StoredRun.read(tmp_path)
        assert torn is not None
        assert torn.torn == end.strip()
        assert torn.steps_per_epoch == len(torn.losses) == 1437 // 128
        assert json.loads(whole.splitlines()[-1])["test_accuracy"] == torn.epochs[-1].test_accuracy
    (tmp_path / "metrics.jsonl").write_text(whole.splitlines(keepends=True)[0])
    assert StoredRun.read(tmp_path) is None


@pytest.mark.parametrize("garbage", [b"{}\n", b"\x80PNG\n\0", b"", b"no json\n{}\n"])
def test_garbage_is_named_and_left_out(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], garbage: bytes
) -> None:
    """And a torn line is left out of a run; the others' table is printed, and the status says so."""
    torn, bad = tmp_path / "torn", tmp_path / "bad"
    for directory in (torn, bad):
        directory.mkdir()
    (torn / "metrics.jsonl").write_bytes((runs[2] / "metrics.jsonl").read_bytes()[:-20])
    (bad / "metrics.jsonl").write_bytes(garbage)
    assert cli.main(["report", "--json", str(torn)]) == 0
    out, err = capsys.readouterr()
    assert f'left out of {torn}/metrics.jsonl: its last line, which is torn: {{"kind": "epoch"' in err
    ((row,),) = (one["recipes"] for one in json.loads(out)["experiments"])
    assert (row["recipe"], row["epochs"]) == ("fp8", 0)
    assert cli.main(["report", "--json", str(bad), str(runs[2])]) == 2
    out, err = capsys.readouterr()
    assert f"left out: {bad}/metrics.jsonl is not a whole metrics file" in err
    assert json.loads(out)["experiments"][0]["recipes"][0]["epochs"] == 1


def copied(run: Path, to: Path, *, epochs: int = 1, **settings: object) -> Path:
    """A run's metrics with other settings, cut before an epoch's end."""
    to.mkdir(exist_ok=True)
    about, *events = metrics.read(run / "metrics.jsonl")
    about["settings"] |= settings
    kept = [e for e in events if e["epoch"] < epochs or (e["epoch"] == epochs and e["kind"] == "step")]
    (to / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [about, *kept]))
    return to


def test_the_table_of_an_experiment(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other settings are another experiment; of two equal runs the longer one counts; one without an epoch
    does not pull down the others; what is no run is left out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.log").touch()
    others = [
        tmp_path / "a.log",
        copied(runs[2], tmp_path / "other", batch=64),
        copied(runs[2], tmp_path / "shorter", epochs=0),
        copied(runs[2], tmp_path / "begun", epochs=0, seed=3),
    ]
    assert cli.main(["report", "--json", *map(str, [*others, *runs])]) == 0
    out = capsys.readouterr()
    assert "a.log" in out.err
    assert not (Path.cwd() / "report.html").exists()
    small, main = json.loads(out.out)["experiments"]
    assert [small["experiment"], main["experiment"]] == [
        "mlp on digits, batch 64",
        "mlp on digits, batch 128",
    ]
    assert [(row["recipe"], row["seeds"], row["epochs"]) for row in main["recipes"]] == [
        ("fp32", [1, 2], 1),
        ("fp8", [1, 2], 1),
    ]
    assert small["recipes"][0]["against_fp32"] == []
    fp32, fp8 = main["recipes"]
    assert fp32["against_fp32"] == []
    assert fp8["against_fp32"] == pytest.approx(np.subtract(fp8["test_accuracy"], fp32["test_accuracy"]))


@pytest.mark.filterwarnings("error")
def test_a_run_that_diverged_has_a_gap(runs: list[Path], tmp_path: Path) -> None:
    file = copied(runs[2], tmp_path / "diverged") / "metrics.jsonl"
    file.write_text(re.sub(r'"loss": [0-9.]+', '"loss": null', file.read_text()))
    run = StoredRun.read(file.parent)
    assert run is not None
    (experiment,) = experiments([run])
    assert "nan" in experiment.rows()[0].cells()
    assert as_data(experiment)["recipes"][0]["training_loss"] == [None]
    figures.curves(figures.panels(1, 2, (6, 3))[1], experiment.recipes)


def test_recipes_of_one_name_are_told_apart(runs: list[Path], tmp_path: Path) -> None:
    other = copied(runs[2], tmp_path / "other")
    file = other / "metrics.jsonl"
    file.write_text(file.read_text().replace('"chunk": 64', '"chunk": 32'))
    both = [StoredRun.read(path) for path in (runs[2], other)]
    (experiment,) = experiments([run for run in both if run is not None])
    labels = [row.recipe for row in experiment.rows()]
    assert len(set(labels)) == 2
    assert all(label.startswith("fp8 (") for label in labels)


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
    sums = swamping.stall(1, trials=2)
    last = {name: ratios[-1] for name, ratios in sums.items()}
    assert last["nearest, no chunks"] == pytest.approx(4096 / 65536, rel=0.02)
    assert last["nearest, chunks of 64"] == pytest.approx(1, abs=0.01)
    assert last["stochastic, no chunks"] == pytest.approx(1, abs=0.1)


def test_a_chunk_of_one_and_a_single_chunk_are_the_same_sum() -> None:
    for n, errors in swamping.chunk_sweep(1, size=8).items():
        assert errors[0] == errors[-1] == errors[swamping.SWEEP_CHUNKS.index(n)]
        assert errors.min() < errors[0] / 2


def test_the_path_of_alpha(runs: list[Path], page: Page, tmp_path: Path) -> None:
    """A figure where a run has learned to clip, its α what the run's checkpoint holds."""
    pact = tmp_path / "pact"
    train = ["train", "--recipe", "pact-4-everywhere", "--epochs", "1", "--batch", "128", "--out", str(pact)]
    assert cli.main(train) == 0
    stored = StoredRun.read(pact)
    assert stored is not None
    assert list(stored.alphas) == ["linear2", "linear3"]
    kept = np.load(pact / "checkpoint.npz")
    for layer, path in stored.alphas.items():
        assert len(path) == len(stored.losses)
        assert path[-1] == kept[f"weights/{layer}.alpha"]
    assert cli.main(["report", *map(str, runs), str(pact), "-o", str(tmp_path / "page.html")]) == 0
    words = Page((tmp_path / "page.html").read_text(encoding="utf-8")).words
    assert "a line for each layer and seed" in words
    assert "a line for each layer and seed" not in page.words
