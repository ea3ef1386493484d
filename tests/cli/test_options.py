"""Every option of every command does something, or is refused where it does not."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import pytest

from quaver import cli
from quaver.cli.parser import Parser, given
from quaver.rtl.emit.units import UNITS

ON_BOARD = "--board icebreaker --rows 1 --columns 1 --clock 12"

#: Option → a command line on which it does nothing, and what is said; None: it does something on all.
REFUSED: dict[str, dict[str, tuple[str, str] | None]] = {
    "train": {
        **dict.fromkeys(("recipe", "model", "data", "batch", "optimiser", "learning-rate", "momentum")),
        **dict.fromkeys(("weight-decay", "seed", "engine", "show-recipe", "out", "json", "loss-scale")),
        **dict.fromkeys(("learners", "compress")),
        "bin-length": ("--bin-length 50", "--compress is none; take adacomp, or leave it out"),
        "epochs": ("--show-recipe --epochs 3", "--epochs does nothing with --show-recipe"),
        "chunk": ("--recipe fp32 --chunk 8", "fp32 does not sum in chunks"),
        "plan": ("--plan missing.json", "missing.json"),
        "no-chunks": ("--no-chunks", "choose among a plan's widths"),
        "narrower": ("--narrower 0", "choose among a plan's widths"),
        "data-dir": ("--data-dir .", "--data-dir does nothing with the digits"),
        "decay-at": ("--epochs 3 --decay-at 3", "--decay-at is 3, but nothing comes after epoch 3"),
        "later-at": ("--later-at 2", "the recipe fp8 has no later one"),
        "device": ("--engine sim --device cuda", "--device does nothing with --engine sim"),
        "baud": ("--baud 9600", "--baud does nothing with --engine golden"),
        "rows": ("--rows 4", "--rows does nothing with --engine golden"),
        "columns": ("--columns 4", "--columns does nothing with --engine golden"),
        "resume": ("--resume", "name the directory"),
        "tensorboard": ("--tensorboard", "name the directory"),
    },
    "compare": {
        **dict.fromkeys(("recipe", "model", "data", "batch", "optimiser", "learning-rate", "momentum")),
        **dict.fromkeys(("weight-decay", "seed", "engine", "json", "loss-scale", "junit")),
        **dict.fromkeys(("learners", "compress")),
        "bin-length": ("--bin-length 50", "--compress is none; take adacomp, or leave it out"),
        "epochs": ("--epochs 1 --steps 1", "give one"),
        "steps": ("--epochs 1 --steps 1", "give one"),
        "checkpoint": ("--engine golden --checkpoint nowhere", "nowhere"),
        "images": ("--images 361", "digits has 360 test images"),
        "folded": ("--folded", "--folded is about --images, of which there are 0"),
        "chunk": ("--recipe fp32 --chunk 8", "fp32 does not sum in chunks"),
        "plan": ("--plan missing.json", "missing.json"),
        "no-chunks": ("--no-chunks", "choose among a plan's widths"),
        "narrower": ("--narrower 0", "choose among a plan's widths"),
        "data-dir": ("--data-dir .", "--data-dir does nothing with the digits"),
        "decay-at": ("--decay-at 1", "--decay-at is 1, but nothing comes after epoch 1"),
        "later-at": ("--later-at 1", "the recipe fp8 has no later one"),
        "baud": ("--engine sim --baud 9600", "--baud does nothing with --engine sim"),
        "rows": ("--engine /dev/null --rows 4", "--rows does nothing with a board"),
        "columns": ("--engine golden --columns 4", "--columns does nothing with --engine golden"),
    },
    "demo": {
        **dict.fromkeys(("epochs", "steps", "seed", "picture", "json", "rows", "columns")),
        "images": ("--images 361", "0 to 360 images"),
    },
    "verilog": {
        **dict.fromkeys(("output", "plan", "core")),
        "no-chunks": ("pe --no-chunks", "chooses among a plan's widths"),
    },
    "build": {
        **dict.fromkeys(("board", "arithmetic", "output", "rows", "columns", "clock", "stages", "depth")),
        **dict.fromkeys(("update", "no-update", "baud", "seed", "json", "rounding")),
        "codes": (f"{ON_BOARD} --codes 4", "codes is 4, but"),
        "compression": (f"{ON_BOARD} --compression sign", "--compression is sign, but there are none and"),
        "random-bits": (f"{ON_BOARD} --random-bits 8", "does nothing without --rounding stochastic"),
        "operand": (f"{ON_BOARD} --arithmetic fixed16 --operand fp8", "--operand is e5m2sat, but"),
        "accumulator": (f"{ON_BOARD} --arithmetic fixed16 --accumulator fp16", "--accumulator is e6m9, but"),
        "chunk": (f"{ON_BOARD} --arithmetic fixed16 --chunk 8", "--chunk is 8, but"),
        "a": (f"{ON_BOARD} --a q8.8", "--a is q8.8, but"),
        "b": (f"{ON_BOARD} --b q8.8", "--b is q8.8, but"),
        "result": (f"{ON_BOARD} --result q8.8", "--result is q8.8, but"),
        "accumulator-bits": (f"{ON_BOARD} --accumulator-bits 48", "--accumulator-bits is 48, but"),
        "total": (f"{ON_BOARD} --arithmetic fixed16 --total fp32", "--total is e8m23, but"),
        "group": (f"{ON_BOARD} --group 4", "--group is 4, but"),
        "fraction-bits": (f"{ON_BOARD} --fraction-bits 13", "--fraction-bits is 13, but"),
        "aligning": (f"{ON_BOARD} --aligning nearest", "--aligning is nearest, but"),
        "length": (f"{ON_BOARD} --length 64", "--length is 64, but"),
        "circuit": (f"{ON_BOARD} --circuit xnor", "--circuit is xnor, but"),
        "generator": (f"{ON_BOARD} --generator lfsr", "--generator is lfsr, but"),
        "sharing": (f"{ON_BOARD} --sharing edges", "--sharing is edges, but"),
        "total-rounding": (f"{ON_BOARD} --total-rounding nearest", "--total-rounding is nearest, but"),
    },
    "export": dict.fromkeys(("output", "data-dir", "check", "json")),
    "flash": dict.fromkeys(("board", "keep", "dry-run")),
    "sim": {
        **dict.fromkeys(("waves", "seed", "gates", "json", "junit", "simulator")),
        "coverage": ("--json --coverage", "--coverage does nothing with --json"),
        "all": ("--json --all", "--all does nothing with --json"),
    },
    "report": {
        **dict.fromkeys(("output", "json")),
        "data-dir": ("--data-dir .", "--data-dir does nothing without runs"),
        "seed": ("--json --seed 2", "--seed does nothing with --json, which makes no page"),
    },
    "plan": {
        **dict.fromkeys(("batch", "chunk", "measure", "rule", "json", "output", "figure", "arithmetic")),
        "nonzero-ratio": (
            "mlp-digits --measure 1 --nonzero-ratio 0.5",
            "--nonzero-ratio does nothing with --measure",
        ),
        "data-dir": ("mlp-digits --data-dir .", "--data-dir does nothing without --measure"),
        "axis": ("mlp-digits --axis sequence=9", "are for ONNX models"),
        "skip-unknown": ("mlp-digits --skip-unknown", "are for ONNX models"),
    },
    "doctor": dict.fromkeys(("json",)),
    "cache": dict.fromkeys(("clear", "json")),
}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_is_known_here(command: str) -> None:
    parser = argparse.ArgumentParser()
    import_module(f"quaver.cli.{command}").add_arguments(parser)
    options = {name[2:] for a in parser._actions for name in a.option_strings if name.startswith("--")}
    assert options - {"help"} == set(REFUSED[command])


@pytest.mark.parametrize(
    ("command", "option"),
    [(c, option) for c, options in REFUSED.items() for option, case in options.items() if case],
)
def test_an_option_that_does_nothing_is_refused(
    command: str,
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    case = REFUSED[command][option]
    assert case is not None
    assert cli.main([command, *case[0].split()]) == 2
    assert case[1] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "unit",
    [
        *("float_adder", "pe", "pe --arithmetic fixed_point --rounding nearest"),
        *("rounding --rounding truncate", "float_sgd --rounding nearest", "fixed_sgd --rounding nearest"),
    ],
)
def test_random_bits_without_stochastic_rounding(unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verilog", *unit.split(), "--random-bits", "8"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "--random-bits does nothing without --rounding stochastic; leave it out" in err


@pytest.mark.parametrize("unit", ["pe --arithmetic fixed_point", "float_adder --rounding stochastic"])
def test_random_bits_with_it(unit: str) -> None:
    assert cli.main(["verilog", *unit.split(), "--random-bits", "8"]) == 0


def test_every_stochastic_rounding_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    for name, unit in UNITS.items():
        for option in unit.options:
            if option.name in ("rounding", "update"):
                assert {"nearest", "stochastic", "stochastic-b", "stochastic-c"} <= set(option.choices), name
    assert cli.main(["verilog", "rounding", "--rounding", "stochastic-c", "--random-bits", "5"]) == 0
    assert "--rounding stochastic-c --random-bits 5" in capsys.readouterr().out


def test_stochastic_roundings_where_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    for variant in ("stochastic", "stochastic-b", "stochastic-c"):
        assert cli.main(["verilog", "pe", "--arithmetic", "hopper_fp8", "--rounding", variant]) == 2
        assert f"rounding is '{variant}', but it must be 'truncate' or 'near" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["sim", "/dev/null"])
@pytest.mark.parametrize("command", ["train", "compare"])
def test_an_engine_that_would_get_nothing(
    command: str, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--recipe", "fp32", "--engine", engine]) == 2
    assert "of which no GEMM is the hardware's; take fp8, for one" in capsys.readouterr().err


def test_a_decay_beyond_the_end_is_for_a_resumed_run(tmp_path: Path) -> None:
    """Who keeps the run may go on with it; its settings must be the same then."""
    run = ["train", "--batch", "512", "--decay-at", "1", "--out", str(tmp_path), "--epochs"]
    assert cli.main([*run, "1"]) == 0
    assert cli.main([*run, "2", "--resume"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compare --rows 100 --columns 100", "100×100 = 10000 elements, but at most"),
        ("compare --rows 1000000 --columns 1000000", "elements, but at most"),
        ("compare --rows 0", "rows is 0, but it must be at least 1"),
        ("demo --columns -1", "columns is -1, but it must be at least 1"),
        ("build --board icebreaker --rows 1000000 --columns 100000", "iCEBreaker has 5,280 LUT4"),
        ("sim lfsr --seed 0", "--seed is 0, but it must be 1 … 2**32 − 1"),
        ("sim lfsr --seed -1", "--seed is -1"),
        ("sim lfsr --seed 99999999999999999999", "--seed is 99999999999999999999"),
    ],
)
def test_sizes_have_limits_before_work_begins(
    arguments: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)  # where a demonstration may write its picture
    assert cli.main(arguments.split()) == 2
    assert message in capsys.readouterr().err


def test_an_array_that_is_sure_not_to_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "--board", "icebreaker", "--rows", "60", "--columns", "60"]) == 1
    assert "60×60 elements of fp8 need more than 720,000 of 5,280 LUT4" in capsys.readouterr().err


def test_what_was_given_is_known() -> None:
    parser = Parser()
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--format", type=str.upper, default="fp8")
    unit = parser.add_subparsers(dest="unit").add_parser("pe")
    unit.add_argument("--chunk", type=int)
    unit.add_argument("--rows", type=int, default=argparse.SUPPRESS)
    parsed = parser.parse_args(["--rows", "8", "pe", "--chunk=64"])
    assert given(parsed) == {"rows", "chunk"}
    assert (parsed.rows, parsed.format, parsed.chunk) == (8, "FP8", 64)
    assert given(parser.parse_args([])) == set()


def test_no_assertion_validates_anything() -> None:
    """With python -O there are none."""
    import ast

    import quaver

    for file in Path(quaver.__file__).parent.rglob("*.py"):
        if "benches" not in file.parts:
            found = [
                n.lineno for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Assert)
            ]
            assert not found, file


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aligned_float(group=3)", "a chunk holds whole groups of 3"),
        ("aligned_float(group=many)", "group is 'many', but it must be an integer"),
        (
            "chunked_float(operand=q6.10)",
            "operand is FixedFormat(integer_bits=6, fraction_bits=10), but it",
        ),
        ("aligned_float(groups=4)", "groups"),
        ("nothing", "there are fp8, fp16"),
    ],
)
def test_an_arithmetic_that_there_is_not(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["verilog", "pe", "--arithmetic", name])
    assert said in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_refused_before_data_are_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("kept")
    assert cli.main(["train", "--out", str(taken)]) == 2
    assert f"--out is {taken}, which is a file; name a directory" in capsys.readouterr().err
    assert taken.read_text() == "kept"
