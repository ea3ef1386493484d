"""N learners in the training loop: their exchange, its determinism, and what a checkpoint keeps of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quaver import cli
from quaver.golden import data
from quaver.golden.compression import AdaComp, Scheme
from quaver.golden.engine import GoldenEngine
from quaver.golden.nn import checkpoint, metrics, models, recipes
from quaver.golden.nn.layers import Parameter
from quaver.golden.nn.learners import Exchange, Learners
from quaver.golden.nn.metrics import MetricsFile
from quaver.golden.nn.recipe import LossScale
from quaver.golden.nn.run import Run
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Step, Trainer

ADACOMP = "adacomp(conv=20, other=60)"


def trainer(recipe: Any = recipes.fp32, model: str = "mlp", **settings: Any) -> Trainer:
    digits = data.load("digits")
    network = models.build(model, digits.shape, digits.classes, seed=1)
    given = {"epochs": 2, "batch": 128, "seed": 3} | settings
    return Trainer(network, digits, recipe, Settings(**given))


def run_at(step: int) -> Run:
    run = Run(recipes.fp32, GoldenEngine())
    run.step = step
    return run


def same(one: Trainer, other: Trainer) -> bool:
    left, right = one.state(), other.state()
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def test_the_average_is_adacomps_in_pytorchs_order() -> None:
    rng = np.random.default_rng(1)
    shapes = {"conv1.weight": (18, 7), "linear1.weight": (40, 9), "linear1.bias": (9,)}
    parameters = [Parameter(np.zeros(shape), decay=True) for shape in shapes.values()]
    for parameter, name in zip(parameters, shapes, strict=True):
        parameter.name = name
    learners = Learners(3, Scheme.parse(ADACOMP), parameters)
    kept = {name: np.zeros((3, int(np.prod(shape))), np.float32) for name, shape in shapes.items()}
    for step in range(4):
        gradients = [
            {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in "abc"
        ]
        averages, residues, exchanged = learners.average(gradients, run_at(step))
        learners.residues = residues
        for name, shape in shapes.items():
            rule, total = (
                AdaComp(20 if name.startswith("conv") else 60),
                np.zeros(kept[name].shape[1], np.float32),
            )
            sent = 0
            for learner in range(3):
                flat = gradients[learner][name].T.reshape(-1)
                _, values, kept[name][learner] = rule.definition(kept[name][learner], flat)
                total = total + values / np.float32(3)
                sent += np.count_nonzero(values)
            assert np.array_equal(averages[name], total.reshape(shape[::-1]).T)
            assert np.array_equal(residues[name], kept[name])
            assert exchanged[name].sent == sent
            assert exchanged[name].residue == pytest.approx(np.sqrt(np.mean(kept[name].astype(float) ** 2)))


@pytest.mark.parametrize("recipe", [recipes.fp32, recipes.fp8], ids=lambda r: r.name)
def test_learners_that_send_everything_are_one_learner(recipe: Any) -> None:
    """To rounding: the sums are in another order."""
    one, four = trainer(recipe), trainer(recipe, learners=4)
    first, second = one.train_step(), four.train_step()
    assert first.loss == pytest.approx(second.loss, rel=1e-5)
    assert first.accuracy == second.accuracy
    assert first.exchange is None
    assert second.exchange is not None
    assert Exchange.total(second.exchange.values()).rate == 1
    for p, q in zip(one.parameters, four.parameters, strict=True):
        assert np.allclose(p.value, q.value, atol=2e-3 if recipe is recipes.fp8 else 1e-6)


def test_one_learner_without_compression_is_stored_as_before() -> None:
    assert "learners" not in checkpoint.about(trainer())["settings"]
    assert checkpoint.about(trainer(learners=2))["settings"]["compression"] == "none"
    assert not any(name.startswith("residues") for name in trainer(learners=2).state())


def test_each_learner_has_every_nth_image() -> None:
    run = trainer(learners=4, compression="sign")
    shares = []
    share = run._share
    run._share = lambda batch: shares.append(batch) or share(batch)  # type: ignore[assignment, func-returns-value]
    run.train_step()
    whole = run._shuffle(0)[:128]
    assert [list(each) for each in shares] == [list(whole[learner::4]) for learner in range(4)]


@pytest.mark.parametrize("scheme", [ADACOMP, "topk", "sign", "chunk_topk(chunk=512, kept=8)"])
def test_the_loss_falls(scheme: str) -> None:
    losses = [
        e.loss for e in trainer(learners=8, compression=scheme, batch=64).steps() if isinstance(e, Step)
    ]
    assert np.mean(losses[-8:]) < 0.5 * np.mean(losses[:4])


@pytest.mark.parametrize("recipe", [recipes.fp32, recipes.fp8], ids=lambda r: r.name)
@pytest.mark.parametrize("at", [3, 11])
def test_resumed_with_the_same_bits(tmp_path: Path, recipe: Any, at: int) -> None:
    whole, events = trainer(recipe, learners=4, compression=ADACOMP), []
    for event in whole.steps():
        events.append(event)
        if len(events) == at + 1:
            checkpoint.save(whole, tmp_path / "c.npz")
    resumed = trainer(recipe, learners=4, compression=ADACOMP)
    checkpoint.resume(resumed, tmp_path / "c.npz")
    assert any(residue.any() for residue in resumed.learners.residues.values())  # type: ignore[union-attr]
    assert list(resumed.steps()) == events[at + 1 :]
    assert same(whole, resumed)
    with pytest.raises(
        ValueError, match=r"settings.compression is .*other=60\)\" there, .*other=61\)\" here"
    ):
        checkpoint.resume(
            trainer(recipe, learners=4, compression="adacomp(conv=20, other=61)"), tmp_path / "c.npz"
        )


def test_a_step_that_overflows_keeps_the_residues() -> None:
    run = trainer(
        recipes.fp8.replace(loss_scale=LossScale(2.0**40, grow_every=2)), learners=2, compression="sign"
    )
    before = run.state()
    done = run.train_step()
    assert done.overflows
    assert done.exchange is None
    assert all(
        np.array_equal(before[n], x) for n, x in run.state().items() if n.startswith(("residues", "weights"))
    )


def test_a_residue_beyond_float32_skips_the_step() -> None:
    run = trainer(learners=2, compression=ADACOMP)
    assert run.learners is not None
    kept = run.learners.residues["linear1.weight"]
    kept[1, 5] = np.finfo(np.float32).max
    gradient = np.zeros(kept.shape[1], np.float32)
    gradient[5] = 1e32
    huge = kept.copy()
    run._share = lambda batch, share=run._share: _with(share(batch), gradient)  # type: ignore[assignment, misc]
    done = run.train_step()
    assert done.overflows
    assert np.array_equal(run.learners.residues["linear1.weight"], huge)


def _with(share: Any, gradient: np.ndarray) -> Any:
    gradients, loss, accuracy = share
    shape = gradients["linear1.weight"].shape[::-1]
    return gradients | {"linear1.weight": gradient.reshape(shape).T}, loss, accuracy


def test_running_statistics_are_the_first_learners() -> None:
    run = trainer(model="resnet8", batch=16, learners=4, compression=ADACOMP)
    alone = trainer(model="resnet8", batch=4)
    digits = alone.data
    order = run._shuffle(0)[:16:4]
    alone._order = 0, order
    run.train_step()
    alone.train_step()
    for name, value in alone.state().items():
        if name.startswith("layer/") and "mean" in name:
            assert np.array_equal(run.state()[name], value)
    assert digits.name == "digits"


def test_metrics_say_what_was_exchanged(tmp_path: Path) -> None:
    run = trainer(learners=4, compression=ADACOMP)
    with MetricsFile(tmp_path / "m.jsonl", run) as file:
        events = [run.train_step() for _ in range(3)]
        for event in events:
            file.write(event)
    total = metrics.exchanged(tmp_path / "m.jsonl")
    assert total == Exchange.total(one for e in events for one in (e.exchange or {}).values())
    assert total.elements == 3 * 4 * sum(p.value.size for p in run.parameters)
    assert 10 < total.rate < total.effective_rate
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    for damage, message in (
        ({"exchange": 3}, "line 2: exchange is 3, but it must be an object of objects"),
        ({"exchange": {"a": {"sent": 1}}}, "line 2: 'elements' is missing"),
        ({"exchange": {"a": {"none": 1}}}, "line 2: 'none' is not known of a exchange"),
    ):
        damaged = json.dumps(json.loads(lines[1]) | damage)
        (tmp_path / "d.jsonl").write_text("\n".join([lines[0], damaged, *lines[2:]]))
        with pytest.raises(ValueError, match=message):
            metrics.read(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learners": 0}, r"learners is 0, but there are 1 … 65,535"),
        ({"learners": 3}, "the batch is 128, but 3 learners take equal shares of it; take a multiple"),
        ({"compression": "zip"}, "the compression is 'zip'"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(batch=128, **settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bin-length", "50"], "--bin-length is 50, but --compress is none; take adacomp"),
        (["--compress", "adacomp", "--bin-length", "50,x"], "it is a number, or two with a comma between"),
        (["--compress", "adacomp", "--bin-length", "1,2,3"], "it is a number, or two with a comma between"),
        (["--compress", "adacomp", "--bin-length", "70000"], "the bin length is 70000"),
        (["--learners", "5"], "the batch is 32, but 5 learners"),
    ],
)
def test_options_that_do_not_fit(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *options]) == 2
    assert message in capsys.readouterr().err


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of several ways to compress are rows of one experiment, whose exchange the report shows."""
    common = ["train", "--recipe", "fp32", "--epochs", "1", "--batch", "128", "--learners", "4"]
    for name, options in (("none", []), ("adacomp", ["--compress", "adacomp", "--bin-length", "30,60"])):
        assert cli.main([*common, *options, "--out", str(tmp_path / name)]) == 0
    out = capsys.readouterr().out
    assert "4 learners, adacomp(conv=30, other=60): sent" in out
    assert "count 1/" in out
    assert cli.main([*common[:-2], "--out", str(tmp_path / "one")]) == 0
    paths = [str(tmp_path / name) for name in ("none", "adacomp", "one")]
    assert cli.main(["report", *paths, "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text("utf-8")
    assert page.count("gradients exchanged") == 1
    assert "fp32, 4 learners, adacomp(conv=30, other=60)" in page
    assert page.count("<svg") == 3
