"""What a docstring says of parameters and of ports, as data: for help texts, comments and documents."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator


def described(of: Callable[..., object]) -> dict[str, str]:
    """Parameter → its description in the section Parameters of the docstring, in one line."""
    lines = (inspect.getdoc(of) or "").splitlines()
    if "Parameters" not in lines:
        return {}
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Parameters") + 2 :]:
        if line and not line.startswith(" "):
            if not re.fullmatch(r"\w+(, \w+)*", line):
                break  # the next section, or a paragraph
            names = line.split(", ")
        elif line:
            for name in names:
                found[name] = f"{found.get(name, '')} {line.strip()}".lstrip()
        elif not names:
            break
    return found


def tables(text: str) -> Iterator[list[list[str]]]:
    """The simple tables of reStructuredText in `text`, as rows of cells; a head is the first row.

    A line whose first or second cell is empty goes on with the row above it.
    """
    rule = re.compile(r"^=+(?: +=+)+$")
    rows: list[list[str]] | None = None
    starts: list[int] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if rule.match(line):
            if rows is None:
                starts, rows = [found.start() for found in re.finditer("=+", line)], []
            elif number + 1 == len(lines) or not lines[number + 1].strip():
                yield rows
                rows = None
        elif rows is not None:
            ends = [*starts[1:], None]
            cells = [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
            if cells[0] and cells[1]:
                rows.append(cells)
            elif rows:
                rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]


def port_meanings(component: type) -> dict[str, str]:
    """Port or interface → its meaning in the docstring's port table, or a base class's; `NAME_out` is any
    port that ends so."""
    for kind in component.__mro__:
        for rows in tables(inspect.cleandoc(kind.__dict__.get("__doc__") or "")):
            if all(len(row) == 3 and row[1] in ("in", "out") for row in rows):
                return {name.strip(): row[2] for row in rows for name in row[0].split(",")}
    return {}


def meaning(port: str, meanings: dict[str, str]) -> tuple[str, str]:
    """The row of `meanings`, of `port_meanings`, that a port is in, and what it says: its own, one by its
    ending, or its interface's."""
    rows = sorted(meanings, key=len, reverse=True)
    of_ending = [row for row in rows if row.startswith("NAME") and port.endswith(row.removeprefix("NAME"))]
    of_interface = [row for row in rows if port.startswith(f"{row}_")]
    row = port if port in meanings else next(iter([*of_ending, *of_interface]), "")
    return row, meanings.get(row, "")


def first_sentence(text: str) -> str:
    """`text` up to its first full stop, without marks of code."""
    return re.split(r"(?<=[^.])\. |;", text)[0].rstrip(".").replace("`", "")
