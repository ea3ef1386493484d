"""Checkpoints and metrics: a killed and resumed run ends with the bits of an uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from quaver.golden import data
from quaver.golden.engine import GoldenEngine
from quaver.golden.nn import checkpoint, metrics, models, recipes
from quaver.golden.nn.metrics import MetricsFile
from quaver.golden.nn.recipe import LossScale
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer

SETTINGS = Settings(epochs=2, batch=128, seed=3)
CHUNKS_OF_32 = recipes.fp8.with_gemms("fp8", chunk=32)
DYNAMIC = recipes.fp8.with_gemms("dynamic", rounding="stochastic").replace(
    loss_scale=LossScale(1024, grow_every=5)
)


def trainer(recipe=recipes.fp8, settings=SETTINGS, model="mlp"):
    digits = data.load("digits")
    return Trainer(models.build(model, digits.shape, digits.classes, seed=1), digits, recipe, settings)


def same(one, other):
    one, other = one.state(), other.state()
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("recipe", [recipes.fp32, recipes.fp8, DYNAMIC], ids=lambda r: r.name)
@pytest.mark.parametrize("at", [3, 10, 11])
def test_resume_after_any_event(tmp_path, recipe, at):
    """Events 0 … 10 are the first epoch's steps, 11 is its end."""
    whole, events = trainer(recipe), []
    for event in whole.steps():
        events.append(event)
        if len(events) == at + 1:
            checkpoint.save(whole, tmp_path / "c.npz")
    resumed = trainer(recipe)
    checkpoint.resume(resumed, tmp_path / "c.npz")
    assert list(resumed.steps()) == events[at + 1 :]
    assert same(whole, resumed)


class Interrupted(GoldenEngine):
    """Ctrl-C in one of the calls."""

    def __init__(self, bad_call):
        self.left = bad_call

    def _count(self):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def gemm(self, *operands, **options):
        self._count()
        return super().gemm(*operands, **options)

    def update(self, *operands, **options):
        self._count()
        return super().update(*operands, **options)


@pytest.mark.parametrize("call", [1, 5, 9, 12])
def test_an_interrupted_step_never_began(call):
    """Calls 1 … 8 of a step are GEMMs, 9 … 14 updates."""
    whole, interrupted = trainer(DYNAMIC), trainer(DYNAMIC)
    for _ in range(2):
        whole.train_step()
    interrupted.train_step()
    golden = interrupted.run.engine
    interrupted.run.engine = Interrupted(call)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train_step()
    interrupted.run.engine = golden
    interrupted.train_step()
    assert same(whole, interrupted)


def test_batch_norm_statistics_are_part_of_it(tmp_path):
    settings = Settings(batch=32, epochs=1)
    first = trainer(recipes.fp32, settings, "resnet8")
    first.train_step()
    checkpoint.save(first, tmp_path / "c.npz")
    first.train_step()
    resumed = trainer(recipes.fp32, settings, "resnet8")
    checkpoint.resume(resumed, tmp_path / "c.npz")
    resumed.train_step()
    assert same(first, resumed)
    assert any(name.startswith("layer/norm1.") for name in first.state())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"recipe": recipes.fp8_no_chunks},
            r'run: recipe.name is "fp8" there, "fp8-no-chunks" here; recipe.hidden.forward.chunk is 64 '
            r"there, none here; .*; and 6 more; resume with what is there, or begin anew elsewhere$",
        ),
        ({"recipe": CHUNKS_OF_32}, r"run: recipe.hidden.forward.chunk is 64 there, 32 here"),
        (
            {"recipe": recipes.fp8.replace(last=None)},
            r"run: recipe.last is a Precision there, null here; resume with",
        ),
        (
            {"settings": Settings(epochs=2, batch=64, seed=3)},
            r"another run: settings.batch is 128 there, 64 here; resume with",
        ),
        (
            {"settings": Settings(epochs=2, batch=64, seed=4)},
            r"run: settings.batch is 128 there, 64 here; settings.seed is 3 there, 4 here; resume with",
        ),
        ({"model": "cnn"}, 'another run: network is "mlp" there, "cnn" here; resume with'),
    ],
)
def test_another_runs_checkpoint_is_refused(tmp_path, other, message):
    checkpoint.save(trainer(), tmp_path / "c.npz")
    mine = trainer(**other)
    before = mine.state()
    with pytest.raises(ValueError, match=message):
        checkpoint.resume(mine, tmp_path / "c.npz")
    assert all(np.array_equal(before[name], array) for name, array in mine.state().items())


def test_adam_resumes(tmp_path):
    settings = Settings(epochs=1, batch=128, optimiser="adam")
    whole = trainer(settings=settings)
    for event in whole.steps():
        if event.step == 4:
            checkpoint.save(whole, tmp_path / "c.npz")
    resumed = trainer(settings=settings)
    checkpoint.resume(resumed, tmp_path / "c.npz")
    for _ in resumed.steps():
        pass
    assert same(whole, resumed)
    assert resumed.updates == resumed.step > 5
    with pytest.raises(ValueError, match=r'settings.optimiser is "adam" there, "sgd" here'):
        checkpoint.resume(trainer(settings=Settings(epochs=1, batch=128)), tmp_path / "c.npz")


def test_more_epochs_are_the_same_run(tmp_path):
    short, long = (trainer(settings=Settings(epochs=epochs, batch=128)) for epochs in (1, 2))
    for _ in short.steps():
        pass
    checkpoint.save(short, tmp_path / "c.npz")
    resumed = trainer(settings=Settings(epochs=2, batch=128))
    checkpoint.resume(resumed, tmp_path / "c.npz")
    for run in (resumed, long):
        for _ in run.steps():
            pass
    assert same(resumed, long)


@pytest.mark.parametrize("damage", ["half", "empty", "flipped"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "c.npz"
    checkpoint.save(trainer(), path)
    stored = bytearray(path.read_bytes())
    if damage == "flipped":
        stored[len(stored) // 2] ^= 0x10
    path.write_bytes(stored[: {"half": len(stored) // 2, "empty": 0}.get(damage)])
    with pytest.raises(ValueError, match=r"c.npz is not a whole checkpoint"):
        checkpoint.resume(trainer(), path)


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    checkpoint.save(trainer(), path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(trainer(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


def test_metrics_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path):
    whole = trainer()
    with MetricsFile(tmp_path / "whole.jsonl", whole) as file:
        for event in whole.steps():
            file.write(event)
    killed = trainer()
    with MetricsFile(tmp_path / "killed.jsonl", killed) as file:
        for count, event in enumerate(killed.steps()):
            file.write(event)
            if count == 12:
                checkpoint.save(killed, tmp_path / "c.npz")
            if count == 15:
                break
    with (tmp_path / "killed.jsonl").open("a") as torn:
        torn.write('{"kind": "step", "epo')
    assert len(metrics.read(tmp_path / "killed.jsonl")) == 1 + 16
    resumed = trainer()
    checkpoint.resume(resumed, tmp_path / "c.npz")
    with MetricsFile(tmp_path / "killed.jsonl", resumed) as file:
        for event in resumed.steps():
            file.write(event)
    assert (tmp_path / "killed.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    lines = metrics.read(tmp_path / "whole.jsonl")
    assert lines[0]["recipe"]["name"] == "fp8"
    assert [line["kind"] for line in lines].count("epoch") == 2


@pytest.mark.parametrize("garbage", [b"no json\n{}\n", b"\x80\xff\n"])
def test_metrics_that_are_none_stop_a_resumed_run_before_it_writes(tmp_path, garbage):
    run, path = trainer(), tmp_path / "m.jsonl"
    run.train_step()
    path.write_bytes(garbage)
    with pytest.raises(ValueError, match=r"m.jsonl is not a whole metrics file \("):
        MetricsFile(path, run)
    assert path.read_bytes() == garbage


def test_a_loss_that_is_not_finite_is_null(tmp_path):
    run = trainer()
    step = run.train_step()
    with MetricsFile(tmp_path / "m.jsonl", run) as file:
        file.write(type(step)(0, 0, float("nan"), 0.0, 1000.0, 3))
    assert metrics.read(tmp_path / "m.jsonl")[-1]["loss"] is None


CHILD = """
import sys
from pathlib import Path
from quaver.golden import data
from quaver.golden.engine import GoldenEngine
from quaver.golden.nn import checkpoint
from quaver.golden.nn import models
from quaver.golden.nn import recipes
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
path = Path(sys.argv[1])
digits = data.load("digits")
network = models.build("mlp", digits.shape, 10, seed=1)
run = Trainer(network, digits, recipes.fp8, Settings(epochs=3, batch=64, seed=3))
if path.exists():
    checkpoint.resume(run, path)
print("ready", flush=True)
for event in run.steps():
    checkpoint.save(run, path)
print("done", flush=True)
"""


@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path):
    killed, whole = tmp_path / "killed.npz", tmp_path / "whole.npz"
    moments = random.Random(7)
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", CHILD, str(killed)], stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(moments.uniform(0, 0.4))
            child.send_signal(signal.SIGKILL)
    subprocess.run([sys.executable, "-c", CHILD, str(killed)], check=True)
    subprocess.run([sys.executable, "-c", CHILD, str(whole)], check=True)
    with np.load(killed) as one, np.load(whole) as other:
        assert json.loads(one["about"].tobytes()) == json.loads(other["about"].tobytes())
        assert one["counters"][0] == 3 * (1437 // 64)
        for name in one.files:
            assert np.array_equal(one[name], other[name]), name
    assert {p.name for p in tmp_path.iterdir()} == {killed.name, whole.name}
    assert os.path.getsize(killed) == os.path.getsize(whole)
