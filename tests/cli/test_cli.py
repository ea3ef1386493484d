"""The command line: help, results, errors and exit statuses."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from quaver import cli
from quaver.golden.nn import recipes


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"quaver {command}" in capsys.readouterr().out.split("examples:")[1]


def test_no_command_at_all_is_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr()
    assert "commands:" in out.out
    assert out.err == ""


def test_an_unknown_command_is_named_with_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bake"])
    assert stopped.value.code == 2
    assert "'bake'" in (err := capsys.readouterr().err)
    assert "verilog" in err
    with pytest.raises(SystemExit):
        cli.main(["trian"])
    assert "there is no command 'trian'; did you mean train?" in capsys.readouterr().err


def test_train_gives_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--epochs", "1", "--batch", "64", "--json"]) == 0
    (epoch,) = json.loads(capsys.readouterr().out)["epochs"]
    assert epoch["test_accuracy"] > 0.5


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_diverged_run_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    rate = ["--recipe", "fp32", "--learning-rate", "1e6"]
    assert cli.main(["train", *rate, "--epochs", "1", "--batch", "256", "--json"]) == 0

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    (epoch,) = json.loads(capsys.readouterr().out, parse_constant=refused)["epochs"]
    assert epoch["loss"] is None


def test_a_recipe_may_be_called_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = tmp_path / "recipe.json", str(tmp_path / "run")
    recipe.write_text(recipes.fp8.replace(name="[/of]").to_json())
    options = ["--recipe", str(recipe), "--batch", "1437", "--epochs", "1", "--out", out]
    assert cli.main(["train", *options]) == 0
    assert "[/of]" in capsys.readouterr().out
    assert cli.main(["report", out, "-o", str(tmp_path / "report.html")]) == 0
    assert "[/of]" in capsys.readouterr().out


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = ["train", "--batch", "128", "--json", "--out"]
    assert cli.main([*common, str(whole), "--epochs", "2"]) == 0
    assert cli.main([*common, str(parts), "--epochs", "1"]) == 0
    assert cli.main([*common, str(parts), "--epochs", "2", "--resume"]) == 0
    ends = [(d / "metrics.jsonl").read_text().splitlines()[-1] for d in (whole, parts)]
    assert ends[0] == ends[1]


def test_a_resumed_run_tells_its_whole_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--batch", "512", "--json", "--out", str(tmp_path)]
    told = []
    for more in (["--epochs", "1"], ["--epochs", "2", "--resume"], ["--epochs", "2", "--resume"]):
        assert cli.main([*common, *more]) == 0
        told.append(json.loads(capsys.readouterr().out)["epochs"])
    assert [len(epochs) for epochs in told] == [1, 2, 2]
    assert told[1][:1] == told[0]
    assert told[2] == told[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--epochs", "0"], "epochs is 0"),
        (["train", "--resume"], "name the directory"),
        (["train", "--decay-at", "3;4"], "'3;4'"),
        (["train", "--data", "mnist", "--data-dir", "/nowhere"], "/nowhere"),
        (["train", "--recipe", "fp4"], "'fp4'"),
        (["train", "--recipe", __file__], "not a recipe"),
        (["train", "--recipe", "fp32", "--chunk", "8"], "fp32 does not sum in chunks"),
        (["train", "--chunk", "0"], "chunk is 0"),
        (["train", "--loss-scale", "-3"], "positive number or dynamic"),
        (["train", "--recipe", "fixed16", "--optimiser", "adam"], "fixed point updates by sgd only"),
        (["train", "--tensorboard"], "name the directory"),
        (["train", "--engine", "sim", "--optimiser", "adam"], "update is sgd; take it, or --engine golden"),
        (["compare", "--optimiser", "adam"], "update is sgd"),
        (["train", "--decay-at", "-1"], "decay_at is (-1,)"),
        (["compare", "--steps", "1", "--epochs", "1"], "give one"),
        (["compare", "--steps", "0"], "nothing would be compared"),
        (["demo", "--steps", "-1"], "--steps is -1"),
        (["demo", "--picture", "demo.bmp"], ".png"),
        (["sim", "flux_capacitor"], "flux_capacitor"),
        (["verilog", "float_adder", "-o", "/nowhere/a.v"], "/nowhere"),
        (["verilog", "pe", "--chunk", "0"], "chunk is 0"),
        (["verilog", "pe", "--name", "2fast"], "2fast"),
        (["verilog", "lfsr", "--name", "logic"], "'logic' is a keyword"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_recipe_is_shown_changed_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ["train", "--chunk", "8", "--loss-scale", "dynamic", "--show-recipe"]
    assert cli.main(changed) == 0
    shown = capsys.readouterr().out
    assert shown.count("chunk 8,") == 4
    assert "65536, doubled after 200 good steps" in shown
    assert cli.main([*changed, "json"]) == 0
    (tmp_path / "mine.json").write_text(capsys.readouterr().out)
    assert cli.main(["train", "--recipe", str(tmp_path / "mine.json"), "--show-recipe"]) == 0
    assert capsys.readouterr().out == shown


def test_tensorboard_is_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # import fails
    assert cli.main(["train", "--tensorboard", "--out", str(tmp_path / "run")]) == 2
    assert "pip install tensorboardX" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="the optional package tensorboardX is not installed")
    run = ["train", "--epochs", "1", "--batch", "512", "--tensorboard", "--out", str(tmp_path)]
    assert cli.main(run) == 0
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"epoch/test_accuracy" in events.read_bytes()


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, though a shell may run the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_waits_for_the_end_of_the_step(
    sent: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in a step it comes, metrics and checkpoint agree and the resumed run is the whole one."""
    from quaver.golden.nn.trainer import Trainer

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = ["train", "--batch", "256", "--epochs", "2", "--out"]
    assert cli.main([*common, str(whole)]) == 0
    step = Trainer.train_step

    def pressed(trainer: Trainer) -> object:
        if trainer.step == 2:
            signal.raise_signal(sent)
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", pressed)
        assert cli.main([*common, str(parts)]) == 130
    assert len((parts / "metrics.jsonl").read_text().splitlines()) == 1 + 3
    assert cli.main([*common, str(parts), "--resume"]) == 0
    assert (parts / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.usefixtures("heard")
def test_ctrl_c_that_is_ignored_stays_so() -> None:
    """As nohup and a shell's background have it."""
    from quaver.cli.train import held_back_interrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held_back_interrupt() as interrupt:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("heard")
def test_a_second_ctrl_c_is_raised_at_once() -> None:
    from quaver.cli.train import held_back_interrupt

    def press_twice() -> None:
        with held_back_interrupt() as interrupt:
            interrupt()
            signal.raise_signal(signal.SIGINT)
            reached.append("the first was held back")
            signal.raise_signal(signal.SIGINT)
            reached.append("the second was not")

    reached: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert reached == ["the first was held back"]
    assert signal.getsignal(signal.SIGINT) is before


def test_nothing_saved_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--epochs", "1", "--batch", "512", "--out", str(tmp_path)]
    assert cli.main(common) == 0
    saved = (tmp_path / "checkpoint.npz").read_bytes()
    assert cli.main(common) == 2
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.npz").read_bytes() == saved


def test_compare_names_a_mismatch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from quaver.cli import compare
    from quaver.golden.engine import GoldenEngine

    class Broken(GoldenEngine):
        def gemm(self, arithmetic, a_codes, b_codes, *, seed=None):  # type: ignore[no-untyped-def]
            c = super().gemm(arithmetic, a_codes, b_codes, seed=seed)
            c[1, 2] ^= 1
            return c

    monkeypatch.setattr(compare, "make_engine", lambda name, args: Broken())
    assert cli.main(["compare", "--json"]) == 1
    out = capsys.readouterr()
    assert json.loads(out.out)["first_mismatch"]["index"] == [1, 2]
    assert "linear1 forward" in out.err


def test_verilog_into_a_file(tmp_path: Path) -> None:
    target = tmp_path / "adder.v"
    assert cli.main(["verilog", "float_adder", "--name", "adder", "-o", str(target)]) == 0
    assert "module adder(" in target.read_text()
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture(scope="module")
def pact_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pact") / "run"
    options = ["--recipe", "pact-4", "--batch", "32", "--epochs", "1", "--out", str(folder)]
    assert cli.main(["train", *options]) == 0
    return folder


def test_export_writes_what_a_runtime_takes(
    pact_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = tmp_path / "model.onnx"
    capsys.readouterr()
    assert cli.main(["export", str(pact_run), "-o", str(model), "--check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == model.stat().st_size
    assert found["check"]["same"] == found["check"]["same_optimised"] == found["check"]["images"] == 360


@pytest.mark.parametrize("setting", [["--decay-at", "1"], ["--later-at", "1"]])
def test_a_run_whose_settings_changed_on_the_way_is_compared(setting: list[str], tmp_path: Path) -> None:
    """The options of its training, which the checkpoint asks for, though the comparison is short."""
    options = ["--recipe", "fixed16" if "--later-at" in setting else "pact-4", "--batch", "1437", *setting]
    run = ["--out", str(tmp_path / "run")]
    assert cli.main(["train", *options, *run, "--epochs", "2"]) == 0
    there = ["--checkpoint", str(tmp_path / "run"), "--steps", "0", "--images", "3"]
    assert cli.main(["compare", "--engine", "golden", *options, *there]) == 0


def test_export_for_hardware(pact_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "codes.npz"
    capsys.readouterr()
    assert cli.main(["export", str(pact_run), "-o", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with np.load(file) as arrays:
        assert {name: list(arrays[name].shape) for name in arrays} == found["arrays"]
        assert arrays["linear2.weights"].max() < 16
    assert cli.main(["export", str(pact_run), "-o", str(file), "--check"]) == 2
    assert "--check does nothing where a .npz is written; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "metrics.jsonl").write_text(""), "metrics.jsonl is not a whole metrics file"),
        (
            lambda run: (run / "metrics.jsonl").write_text(
                (run / "metrics.jsonl").read_text().replace('"name": "digits"', '"called": "digits"')
            ),
            "metrics.jsonl is not a whole metrics file",
        ),
        (
            lambda run: (run / "checkpoint.npz").unlink(),
            "holds no checkpoint.npz; a run has one after its first epoch",
        ),
    ],
)
def test_export_of_a_damaged_run_is_told(
    damage: Callable[[Path], object],
    message: str,
    pact_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pact_run, run)
    damage(run)
    assert cli.main(["export", str(run), "-o", str(tmp_path / "model.onnx")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
