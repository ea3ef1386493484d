"""Results as JUnit XML, which systems for continuous integration read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

#: What XML has no place for: control characters but tab and the ends of lines, halves of pairs.
_NO_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One thing that was tested.

    Attributes
    ----------
    group
        What it belongs to, as a test's class.
    name
        Its own name.
    seconds
        How long it took.
    failures
        A line for each; none when it passed.
    output
        What there is to say of it.
    """

    group: str
    name: str
    seconds: float
    failures: Sequence[str] = ()
    output: str = ""


def junit(suite: str, cases: Iterable[Case]) -> str:
    """The file's text: one suite of the cases."""
    cases = list(cases)
    counts = {"tests": len(cases), "failures": sum(bool(case.failures) for case in cases), "errors": 0}
    of_suite = {name: str(count) for name, count in counts.items()}
    of_suite["time"] = f"{sum(case.seconds for case in cases):.3f}"
    root = ElementTree.Element("testsuites", of_suite)
    inside = ElementTree.SubElement(root, "testsuite", {"name": suite, "skipped": "0", **of_suite})
    for case in cases:
        named = {"classname": case.group, "name": case.name, "time": f"{case.seconds:.3f}"}
        element = ElementTree.SubElement(inside, "testcase", named)
        if case.failures:
            failed = ElementTree.SubElement(element, "failure", message=_clean(case.failures[0]))
            failed.text = _clean("\n".join(case.failures))
        if case.output:
            ElementTree.SubElement(element, "system-out").text = _clean(case.output)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode", xml_declaration=True) + "\n"


def add_junit_argument(parser: argparse.ArgumentParser) -> None:
    """--junit FILE."""
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="also write the results there as JUnit XML"
    )


def _clean(text: str) -> str:
    return _NO_XML.sub("�", text)
