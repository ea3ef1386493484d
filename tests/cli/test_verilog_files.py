"""`quaver verilog`: the comment at the head of a file, and what it writes beside it."""

import re
import shlex
from pathlib import Path

import pytest

from quaver.cli import main
from quaver.rtl.emit.command_stream import c_header


@pytest.mark.parametrize(
    "options",
    [
        "float_adder --b fp8 --rounding stochastic --random-bits 14 --stages 3",
        "pe --arithmetic fixed16 --result q4.12 --name element",
        "lfsr --bits 8 --taps column --seed 0xBEEF",
        "accelerator --rows 2 --columns 3 --operand e4m3 --chunk 8 --update none",
    ],
)
def test_the_command_in_a_file_makes_that_file(options: str, tmp_path: Path) -> None:
    first, again = tmp_path / "first.v", tmp_path / "again.v"
    assert main(["verilog", *options.split(), "-o", str(first)]) == 0
    found = re.search(r"^//   quaver (verilog .*)$", first.read_text(), re.M)
    assert found
    assert main([*shlex.split(found[1]), "-o", str(again)]) == 0
    assert again.read_text() == first.read_text()
    assert str(tmp_path) not in first.read_text()


def test_what_a_header_says(tmp_path: Path) -> None:
    file = tmp_path / "pe.v"
    assert main(["verilog", "pe", "--arithmetic", "fp16", "--chunk", "32", "-o", str(file)]) == 0
    head = file.read_text().partition("/*")[0]
    assert "\n//   quaver verilog pe --arithmetic fp16 --chunk 32\n" in head
    assert "chunked_float(operand=e6m9, accumulator=e6m9, chunk=32, rounding=nearest, random_bits=14)" in head
    assert re.search(
        r"^//   control +in +2 +`control_layout`: what this cycle is; fold \[0\], first \[1\]$", head, re.M
    )
    assert re.search(r"^//   clk +in +1 +clock, rising edge$", head, re.M)


@pytest.mark.parametrize(
    ("arithmetic", "a", "b"),
    [
        (
            "int4",
            "here the codes of successive k; 8 of 4 bits, the first lowest",
            "here likewise; 8 of 4 bits",
        ),
        ("int8", "here the numbers that the codes of successive k mean", "here likewise"),
        (
            "integer --a uint6 --b odd2",
            "here of 2 successive k the sum of v(i) << 10·i, v(i) the number that the i-th of their codes",
            "here likewise the sum of v(i) << 10·(1 − i)",
        ),
    ],
)
def test_what_an_integer_element_takes(
    arithmetic: str, a: str, b: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verilog", "pe", "--arithmetic", *arithmetic.split()]) == 0
    head = capsys.readouterr().out.partition("/*")[0]
    said = dict(
        zip(
            "ab", " ".join(head.replace("//", "").split()).split("not looked at in a fold; ")[1:], strict=True
        )
    )
    assert said["a"].startswith(a)
    assert said["b"].startswith(b)


def test_the_head_tells_of_no_update_unit_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Integers have none, whatever --update is by default."""
    assert main(["verilog", "accelerator", "--arithmetic", "int2", "--rows", "1", "--columns", "1"]) == 0
    assert re.search(r"^//   update +none$", capsys.readouterr().out, re.M)


def test_a_core_description_and_a_list_of_files(tmp_path: Path) -> None:
    file = tmp_path / "small.v"
    assert main(["verilog", "lfsr", "--name", "source", "-o", str(file), "--core"]) == 0
    core = (tmp_path / "small.core").read_text()
    assert core.startswith("CAPI=2:\nname: quaver:generated:source:")
    assert '      - "small.v"\n' in core
    assert "    toplevel: source\n" in core
    assert (tmp_path / "small.f").read_text() == "small.v\n"
    assert {path.name for path in tmp_path.iterdir()} == {"small.v", "small.core", "small.f"}


def test_a_header_for_c(tmp_path: Path) -> None:
    header = tmp_path / "quaver_commands.h"
    options = ["--rows", "1", "--columns", "1", "--update", "none", "-o", str(tmp_path / "a.v")]
    assert main(["verilog", "axi_accelerator", *options, "--header", str(header)]) == 0
    assert header.read_text() == c_header()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("lfsr --core", "--core writes files beside that of --output, which is missing; name one"),
        (
            "accelerator --header /nowhere/a.h",
            "--header is /nowhere/a.h, but there is no directory /nowhere",
        ),
        (
            "systolic_array --rows 99999999",
            "--rows 99999999 --columns 8 is 799,999,992 elements, but an array has at most 4,096, as 64 × 64"
            "; take fewer rows or columns",
        ),
        ("rounding --name up", "'up' is a port of the unit and no name for its module; take another"),
    ],
)
def test_refused_before_work(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verilog", *options.split()]) == 2
    assert capsys.readouterr() == ("", f"quaver verilog: {message}\n")
