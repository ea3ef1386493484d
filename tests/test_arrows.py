"""The arrows between the floors point down: quaver → fpga, sim → rtl → golden."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = {
    "golden": set(),
    "rtl": {"golden"},
    "sim": {"golden", "rtl"},
    "fpga": {"golden", "rtl", "sim"},
    "quaver": {"golden", "rtl", "sim", "fpga"},
}


def imported_floors(source: str) -> set[str]:
    """The floors that a module imports, anywhere in it (inside functions too)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found & BELOW.keys()


@pytest.mark.parametrize("floor", BELOW)
def test_no_import_runs_up(floor: str) -> None:
    files = list((ROOT / floor).rglob("*.py"))
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {target}"
        for file in files
        for target in imported_floors(file.read_text())
        if target != floor and target not in BELOW[floor]
    }
    assert not wrong


def test_an_import_that_runs_up_is_seen() -> None:
    assert imported_floors("def f():\n    from rtl.systolic import SystolicArray\n") == {"rtl"}
