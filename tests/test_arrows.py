"""Imports point down the floors, cli, torch → fpga → sim → host → rtl → golden, and never run in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: From the ground up. What stands higher may import what stands lower.
FLOORS = ("golden", "rtl", "host", "sim", "fpga", "torch", "cli")
#: The floors by the links at the top of the checkout, which are for looking and not for importing.
LINKS = ("golden", "rtl", "sim", "fpga")

SOURCES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file.read_text()
    for file in (ROOT / "quaver").rglob("*.py")
}


def imported(source: str) -> set[str]:
    """What a module imports by name, anywhere in it: inside functions and for type checkers too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules_imported(name: str, source: str) -> set[str]:
    """The modules of the package among them. From a package that only names its parts, those parts."""
    found = imported(source) & SOURCES.keys()
    return found - {name, *(each.rpartition(".")[0] for each in found)}


def floor(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_every_package_is_a_floor() -> None:
    folders = {path.parent.name for path in (ROOT / "quaver").glob("*/__init__.py")}
    assert folders <= set(FLOORS)


@pytest.mark.parametrize("name", SOURCES)
def test_no_import_runs_up(name: str) -> None:
    if floor(name) not in FLOORS:
        return  # the package itself and its __main__
    height = FLOORS.index(floor(name))
    wrong = [
        module
        for module in imported(SOURCES[name])
        if module.split(".")[0] in LINKS
        or (module.split(".")[0] == "quaver" and floor(module) in FLOORS[height + 1 :])
    ]
    assert not wrong


def test_no_circles() -> None:
    graph = {name: modules_imported(name, source) for name, source in SOURCES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_an_import_anywhere_is_seen() -> None:
    inside = "def f():\n    from quaver.rtl.lfsr import LFSR\n"
    assert modules_imported("quaver.golden.lfsr", inside) == {"quaver.rtl.lfsr"}
    typed = "if TYPE_CHECKING:\n    import quaver.golden.engine\n"
    assert modules_imported("quaver.golden.lfsr", typed) == {"quaver.golden.engine"}
