"""Files that are written whole or not at all, and folders that one process at a time writes into."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO


@contextmanager
def whole(path: str | Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A file to write, which is at `path` once the block has ended; until then, and after an error or a kill,
    what was there before is there.

    Through a symbolic link its target is replaced and the link stays. A device, a FIFO or a descriptor such
    as /dev/stdout is written to as it comes and never replaced; what is written once the reader of a pipe has
    gone goes nowhere.

    Parameters
    ----------
    path
        Where the file will be; its folder must exist.
    durable
        Whether to wait for the disk, so that even a power cut leaves the old file or the new one.

    Raises
    ------
    OSError
        Nothing can be written there; links that go round in a circle lead nowhere.
    """
    if (stream := _stream(path)) is not None:
        with suppress(BrokenPipeError), stream:  # who does not read on misses nothing that he wants
            yield stream
        return
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    temporary = target.with_name(f".{target.name[:80]}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync(target.parent)


def write(path: str | Path, content: str | bytes) -> None:
    """All of `content` (text as UTF-8) at `path`, or what was there before; as of `whole`."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def streams(path: str | Path) -> bool:
    """Whether what is written to `path` goes on to somebody: a device, a FIFO, a descriptor; no file and no
    folder, nor a path where there is nothing yet."""
    if _descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _stream(path: str | Path) -> IO[bytes] | None:
    """`path` opened, where it `streams`."""
    number = _descriptor(path)
    if number is None:
        return Path(path).open("wb") if streams(path) else None
    for file in (sys.stdout, sys.stderr):
        if file is not None:  # what was said before comes before
            file.flush()
    return os.fdopen(os.dup(number), "wb")  # opened anew, a file would lose what is in it


def _descriptor(path: str | Path) -> int | None:
    """The N of /dev/fd/N, or of what links to it, as /dev/stdout does."""
    place = os.path.abspath(path)
    for _ in range(40):  # links, as many as the system follows
        if found := re.fullmatch(rf"/(?:dev|proc/(?:self|{os.getpid()}))/fd/(\d+)", place):
            return int(found[1])
        if not os.path.islink(place):
            return None
        place = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))
    return None


def _sync(folder: Path) -> None:
    """The names in `folder` onto the disk, where the system can."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """`folder`, which exists, for this process alone; a killed process holds nothing.

    RuntimeError: another one holds it; says which, where and since when.
    """
    from filelock import FileLock, Timeout

    file = folder / ".lock"
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"{folder} is being written by {_holder(file)}; wait for its end, or name another folder"
        ) from None
    try:
        file.write_text(
            f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S} "
            f"({shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])})",
            encoding="utf-8",
        )
        for left in folder.glob(".*.part"):  # by a process that was killed
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _holder(file: Path) -> str:
    with suppress(OSError):
        if told := file.read_text(encoding="utf-8", errors="replace").strip():
            return told
    return "another process"
