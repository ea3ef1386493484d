"""Docstrings say what every field and every constructor parameter of a larger public class is."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import quaver

HOUSE = Path(quaver.__file__).parent

#: A class of so many fields or parameters says in a section what each of them is.
MANY = 4


def public_classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Every public class at the top of a module, and where it is."""
    for path in sorted(HOUSE.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield f"{path.relative_to(HOUSE)}: {node.name}", node


def members(node: ast.ClassDef) -> list[str]:
    """The public annotated fields of a class, or the parameters of its constructor if it has one."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]
            return [argument.arg for argument in arguments if argument.arg != "self"]
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    names = [
        field.target.id
        for field in fields
        if isinstance(field.target, ast.Name) and "ClassVar" not in ast.unparse(field.annotation)
    ]
    return [name for name in names if not name.startswith("_")]


def documented(docstring: str) -> set[str]:
    """The names that the sections Parameters and Attributes describe."""
    found: set[str] = set()
    lines = inspect.cleandoc(docstring).splitlines()
    inside = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch("-{3,}", following):
            inside = line in ("Parameters", "Attributes")
        elif inside and re.fullmatch(r"\w+(, \w+)*", line):
            found |= set(line.split(", "))
    return found


def missing(node: ast.ClassDef) -> list[str]:
    """The members of a class of `MANY` or more that no section describes."""
    names = members(node)
    if len(names) < MANY:
        return []
    described = documented(ast.get_docstring(node) or "")
    return [name for name in names if name not in described]


def test_every_member_of_a_larger_public_class_is_described() -> None:
    undescribed = [
        f"{where}: {', '.join(names)}" for where, node in public_classes() if (names := missing(node))
    ]
    assert not undescribed, "add a section Parameters or Attributes:\n" + "\n".join(undescribed)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Words alone.", ["a", "b", "c", "d"]),
        ("Some.\n\nAttributes\n----------\na, b\n    Two.\nd\n    One.\n", ["c"]),
        ("Other.\n\nNotes\n-----\na, b, c, d\n    No members.\n", ["a", "b", "c", "d"]),
    ],
)
def test_the_check_sees_what_is_left_out(docstring: str, expected: list[str]) -> None:
    source = (
        f'class Four:\n    """{docstring}"""\n    a: int\n    b: int\n    c: int\n    d: int\n    _e: int'
    )
    [node] = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    assert missing(node) == expected
