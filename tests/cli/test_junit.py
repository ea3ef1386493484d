"""JUnit XML: what a system for continuous integration reads of `sim` and `compare`."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from quaver.cli import main
from quaver.cli.junit import Case, junit


def suite(text: str) -> ElementTree.Element:
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    (one,) = root
    assert one.tag == "testsuite"
    return one


def test_counts_and_failures() -> None:
    cases = [
        Case("a.b", "good", 0.5, (), "7 checks"),
        Case("a.b", "bad <1>", 1.25, ["first & worst", "second"]),
    ]
    read = suite(junit("all", cases))
    assert read.attrib == {
        "name": "all",
        "tests": "2",
        "failures": "1",
        "errors": "0",
        "skipped": "0",
        "time": "1.750",
    }
    good, bad = read
    assert (good.attrib["classname"], good.attrib["name"]) == ("a.b", "good")
    assert good.findtext("system-out") == "7 checks"
    assert good.find("failure") is None
    failure = bad.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "first & worst"
    assert failure.text == "first & worst\nsecond"


def test_what_xml_cannot_hold_is_replaced() -> None:
    read = suite(junit("all", [Case("a", "b", 0.0, ["\x1b[31mred\x00\udc80"])]))
    failure = read[0].find("failure")
    assert failure is not None
    assert failure.text == "�[31mred��"


def test_of_benches(tmp_path: Path) -> None:
    file = tmp_path / "results.xml"
    assert main(["sim", "rounding truncate", "--junit", str(file)]) == 0
    (case,) = suite(file.read_text())
    assert (case.attrib["classname"], case.attrib["name"]) == ("quaver.sim.rounding", "rounding truncate")
    assert case.findtext("system-out") == "4096 checks"


def test_of_a_comparison(tmp_path: Path) -> None:
    file = tmp_path / "results.xml"
    options = ["--engine", "golden", "--steps", "1", "--batch", "8"]
    assert main(["compare", *options, "--junit", str(file)]) == 0
    read = suite(file.read_text())
    assert int(read.attrib["tests"]) > 3
    assert read.attrib["failures"] == "0"
    assert all(case.attrib["classname"].startswith("quaver.compare.golden.") for case in read)


def test_standard_output_has_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--engine", "golden", "--steps", "1", "--batch", "8"]
    assert main(["compare", *options, "--junit", "-"]) == 0
    said = capsys.readouterr()
    assert suite(said.out).attrib["failures"] == "0"
    assert "golden against golden" in said.err


@pytest.mark.parametrize("command", [["sim", "lfsr"], ["compare"]])
def test_no_place_for_it_is_said_before_the_work(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--junit", str(tmp_path / "none" / "results.xml")]) == 2
    assert "--junit is" in capsys.readouterr().err
