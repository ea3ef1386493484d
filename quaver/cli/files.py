"""Files that a command writes: refused before the work, and whole or not at all after it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from quaver.golden import files

#: Standard output, as the value of an option that names a file.
STANDARD_OUTPUT = Path("-")


def check_output(path: Path | None, option: str = "--output") -> None:
    """ValueError: nothing can be written at `path`, the value of `option`."""
    if path is None or path == STANDARD_OUTPUT:
        return
    if path.is_dir():
        raise ValueError(f"{option} is {path}, a directory; name a file in it")
    if files.streams(path):
        return
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise ValueError(f"{option} is {path}, but there is no directory {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{option} is {path}, but you may not write in {folder}; name another place")


def check_apart(paths: Mapping[str, Path | None]) -> None:
    """ValueError: what two options write would be at one place, the second over the first, or mixed.

    `paths` are the options' values by their names; those that are None write nothing.
    """
    taken: dict[str, str] = {}
    for option, path in paths.items():
        if path is None or (path != STANDARD_OUTPUT and files.streams(path)):
            continue
        place = str(path) if path == STANDARD_OUTPUT else os.path.realpath(path)
        if place in taken:
            where = "standard output" if path == STANDARD_OUTPUT else str(path)
            raise ValueError(f"{taken[place]} and {option} both write to {where}; name another file for one")
        taken[place] = option


def check_unread(paths: Mapping[str, Path | None], read: Iterable[Path | None]) -> None:
    """ValueError: what an option writes would be at a place that the command reads.

    `paths` are the options' values by their names; None among them, or among what is `read`, is no place.
    """
    sources = {os.path.realpath(path) for path in read if path is not None and os.path.isfile(path)}
    for option, path in paths.items():
        if path is not None and path != STANDARD_OUTPUT and os.path.realpath(path) in sources:
            raise ValueError(f"{option} is {path}, which is read here; name another file")


def write(path: Path, content: str | bytes) -> None:
    """All of `content` at `path`, or what was there before; - is standard output. As of
    `quaver.golden.files.whole`."""
    if path != STANDARD_OUTPUT:
        files.write(path, content)
    elif isinstance(content, str):
        sys.stdout.write(content)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)


def write_figure(path: Path, figure: object) -> None:
    """A matplotlib figure at `path`, in the format that its name ends in."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format=path.suffix[1:])  # type: ignore[attr-defined]
    write(path, drawn.getvalue())
