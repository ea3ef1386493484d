"""Files that a command writes: refused before the work, and whole or not at all after it."""

from __future__ import annotations

import os
from pathlib import Path


def check_output(path: Path | None, option: str = "--output") -> None:
    """ValueError: no file can be written at `path`, the value of `option`."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{option} is {path}, but there is no directory {path.parent}")
    if path.is_dir():
        raise ValueError(f"{option} is {path}, a directory; name a file in it")
    if path.exists() and not path.is_file():  # renaming over a device would put a file in its place
        raise ValueError(f"{option} is {path}, which is no regular file; name one")


def write(path: Path, content: str | bytes) -> None:
    """All of `content` at `path`, or what was there before."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
