"""Where results go: standard output by its name, links, a folder that another run has; JSON for machines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quaver import cli
from quaver.cli import doctor
from quaver.golden import caches
from quaver.golden.files import held
from quaver.sim import icarus

TRAIN = ["train", "--epochs", "1", "--batch", "512"]


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["verilog", "lfsr"], "/*"),
        (["plan", "mlp-digits"], "{"),
        (["report"], "<!doctype html>"),
    ],
)
def test_a_hyphen_is_standard_output(
    arguments: list[str], begins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is on it."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "quaver", *arguments, "-o", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith((begins, "module", "//"))
    assert "┏" not in done.stdout
    assert not list(tmp_path.iterdir())
    with_json = [*arguments, "--json", "-o", "-"]
    if arguments[0] == "report":
        assert cli.main(with_json) == 2


def test_a_link_to_the_output_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "a.v", tmp_path / "b.v"
    target.write_text("before")
    link.symlink_to("a.v")
    assert cli.main(["verilog", "lfsr", "-o", str(link)]) == 0
    assert link.is_symlink()
    assert "endmodule" in target.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        "verilog pe -o x.core --core",
        "verilog pe -o x.f --core",
        "verilog accelerator -o x.v --header x.v",
        "verilog accelerator -o x.v --header ./y/../x.v",
        "verilog accelerator -o x.v --core --header x.core",
        "verilog accelerator --header -",
        "plan mlp-digits -o x.png --figure x.png",
        "sim lfsr --json --junit -",
        "compare --engine golden --json --junit -",
    ],
)
def test_two_results_at_one_place(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second would be written over the first; both are left as they were."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "y").mkdir()
    assert cli.main(arguments.split()) == 2
    assert "both write to " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


@pytest.mark.parametrize(
    "arguments",
    [
        "export run -o run/checkpoint.npz",
        "export run -o run/../run/metrics.jsonl",
        "report run -o run/metrics.jsonl",
        "report run -o run/commands.jsonl --json",
        "compare --engine golden --checkpoint run --junit run/checkpoint.npz",
        "compare --engine golden --recipe file.json --junit file.json",
        "compare --engine golden --plan file.json --junit file.json",
        "plan file.json -o file.json",
        "plan file.svg --figure ./file.svg",
        "verilog pe --plan file.json --gemm linear2.forward -o file.json",
        "verilog accelerator --plan file.json --gemm linear2.forward -o x.v --header file.json",
    ],
)
def test_a_result_is_not_written_over_what_is_read(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert cli.main(["plan", "mlp-digits", "-o", "file.json"]) == 0
    files = [tmp_path / "run" / name for name in ("metrics.jsonl", "checkpoint.npz", "commands.jsonl")]
    for file in (*files, tmp_path / "file.svg"):
        file.write_text("as it was")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert cli.main(arguments.split()) == 2
    assert "which is read here; name another file" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no /dev/stdout")
@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_a_reader_of_the_output_that_goes_ends_nothing(name: str) -> None:
    """However standard output is called."""
    command = [sys.executable, "-m", "quaver", "verilog", "float_sgd", "-o", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Broken pipe" not in process.stderr.read()
    assert process.returncode == 0


def test_a_folder_that_may_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert cli.main(["verilog", "lfsr", "-o", str(tmp_path / "a.v")]) == 2
    assert f"but you may not write in {tmp_path}; name another place" in capsys.readouterr().err


def test_two_runs_with_one_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is refused before it has written anything; afterwards the folder is free."""
    out = ["--out", str(tmp_path)]
    with held(tmp_path):
        assert cli.main([*TRAIN, *out]) == 2
        assert f"{tmp_path} is being written by process {os.getpid()}" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert cli.main([*TRAIN, *out]) == 0


def test_a_run_says_by_which_commands_it_was_made(tmp_path: Path) -> None:
    for more in (["--epochs", "1"], ["--epochs", "2", "--resume"]):
        assert cli.main(["train", "--batch", "512", "--out", str(tmp_path / "run"), *more]) == 0
    page = tmp_path / "r.html"
    assert cli.main(["report", str(tmp_path / "run"), "-o", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "How this page was made" in text
    assert f"quaver report {tmp_path}/run -o {page}" in text
    assert f"quaver train --batch 512 --out {tmp_path}/run --epochs 2 --resume" in text
    assert f"numpy {__import__('numpy').__version__}" in text


@pytest.mark.parametrize("what", ["forgot the star", "a plan", "empty", "a run that has not begun"])
def test_no_page_of_nothing(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page that is there stays."""
    page, given = tmp_path / "report.html", tmp_path / "runs"
    page.write_text("the old one")
    given.mkdir()
    if what == "forgot the star":
        assert cli.main([*TRAIN, "--out", str(given / "one")]) == 0
    elif what == "a plan":
        given = tmp_path / "plan.json"
        assert cli.main(["plan", "mlp-digits", "-o", str(given)]) == 0
    elif what == "a run that has not begun":
        (given / "metrics.jsonl").touch()
    capsys.readouterr()
    assert cli.main(["report", str(given), "-o", str(page)]) == 2
    assert "so that no page is written; " in (said := capsys.readouterr().err)
    assert (f"name those in it: {given}/*" in said) == (what == "forgot the star")
    assert page.read_text() == "the old one"


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert cli.main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert set(data["versions"]) >= {"python", "quaver", "numpy", "numba"}
    return data


def test_json_says_recipe_seed_and_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And accuracies are fractions of 1 everywhere."""
    out = str(tmp_path / "run")
    data = told([*TRAIN, "--seed", "3", "--out", out], capsys)
    assert (data["recipe"], data["seed"]) == ("fp8", 3)
    accuracy = data["epochs"][0]["test_accuracy"]  # type: ignore[index]
    assert 0 < accuracy <= 1
    data = told(["compare", "--engine", "golden", "--seed", "3"], capsys)
    assert (data["recipe"], data["seed"], data["equal"]) == ("fp8", 3, True)
    told(["plan", "mlp-digits"], capsys)
    told(["plan", "mlp-digits", "--arithmetic", "hopper_fp8"], capsys)
    (row,) = told(["report", out], capsys)["experiments"][0]["recipes"]  # type: ignore[index]
    assert (row["recipe"], row["seeds"], row["test_accuracy"]) == ("fp8", [3], [accuracy])


def test_what_is_kept_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(caches, "folders", lambda: [tmp_path])
    monkeypatch.setattr("quaver.cli.cache.folders", lambda: [tmp_path])
    for kind, size in (("verilated", 1000), ("data", 20), ("boards", 300)):
        (tmp_path / kind / "in").mkdir(parents=True)
        (tmp_path / kind / "in" / "file").write_bytes(b"0" * size)
    assert cli.main(["cache", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {one["kind"]: one["bytes"] for one in data["kinds"]} == {
        "verilated": 1000,
        "data": 20,
        "boards": 300,
    }
    assert data["bytes"] == 1320
    assert cli.main(["cache", "--clear", "boards"]) == 0
    assert cli.main(["cache", "--clear"]) == 0
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("file"))
    assert left == ["data/in/file"]


def test_the_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == []
    monkeypatch.setattr(
        doctor, "version", lambda name: (_ for _ in ()).throw(doctor.PackageNotFoundError(name))
    )
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(icarus.shutil, "which", lambda name: None)
    assert cli.main(["doctor"]) == 2
    out = capsys.readouterr().out
    assert "missing: install your system's iverilog" in " ".join(out.split())
    assert "missing: install g++, or set CXX to another" in " ".join(out.split())
    assert "pip install amaranth-boards" in " ".join(out.split())


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")
def test_results_say_in_which_simulator(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sim", "rounding truncate", "--simulator", "icarus", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["simulator"] == "icarus"
    assert data["versions"]["icarus"][0].isdigit()
    assert "verilator" not in data["versions"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_the_doctor_asks_for_boards_only_when_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor.version

    def version(name: str) -> str:
        if "nextpnr" in name:
            raise doctor.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    assert cli.main(["doctor"]) == 0
    assert cli.main(["doctor", "build"]) == 2
    assert cli.main(["doctor", "verilog"]) == 2
    assert "verilog needs no tools of its own" in capsys.readouterr().err
