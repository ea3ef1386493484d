"""Where things are kept that can be made again: in the user's cache directory, or where that cannot be
written, in a temporary one.

Any of it may be deleted at any time (`quaver cache --clear`).
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_dir, user_config_dir

#: Kind → what is kept in the folder of this name.
KINDS = {
    "verilated": "simulated accelerators, compiled",
    "benches": "benches, compiled",
    "boards": "bitstreams and reports",
    "cuda": "CUDA kernels, compiled",
    "data": "data sets, downloaded",
}
#: Who else keeps something in the user's cache directory, and may not start where they cannot: the compilers
#: of kernels and of WebAssembly, the WebAssembly tools, matplotlib.
NEIGHBOURS = ("numba", "wasmtime", "YoWASP", "matplotlib")


class CacheWarning(UserWarning):
    """The user's cache directory cannot be written, and another takes its place."""


def _of_user(directory: Callable[..., str], name: str) -> Path:
    """A directory of the user's; of a user without a home it begins with ~, and cannot be written."""
    try:
        return Path(directory(name, appauthor=False))
    except RuntimeError:  # platformdirs from 4.14 on
        return Path("~") / name


def _usual() -> Path:
    return _of_user(user_cache_dir, "quaver")


#: Where the user's cache directory was before `prepare` moved it, if it did.
_BEFORE = _usual()


def prepare() -> None:
    """Moves the user's cache directory, for this process and those that it starts, into a temporary one where
    it cannot be written, and gives a user without a home one there. CacheWarning: it cannot be written."""
    usual = _usual()
    if not all(_writable(usual.with_name(name)) for name in ("quaver", *NEIGHBOURS)):
        if temporary := _temporary():
            os.environ["XDG_CACHE_HOME"] = str(temporary)
            kept = f"what is compiled is kept in {temporary}"
        else:  # as in a container that is only read: what compiles nothing goes on
            kept = "there is no temporary directory, and so nothing can be compiled"
        warnings.warn(
            f"{usual.parent} cannot be written; {kept} (XDG_CACHE_HOME names another place)",
            CacheWarning,
            stacklevel=2,
        )
    if not Path(os.path.expanduser("~")).is_absolute():
        os.environ["HOME"] = str(_usual().parent)  # wasmtime does not begin without one
    if not _writable(_of_user(user_config_dir, "matplotlib")):
        os.environ.setdefault("MPLCONFIGDIR", str(_usual().with_name("matplotlib")))


def place(kind: str, name: str = "") -> Path:
    """Where `name` of this kind is kept. Folders are made by who writes."""
    before = _BEFORE / kind / name
    return before if name and before.exists() else _usual() / kind / name  # it may be there only to be read


def folders() -> list[Path]:
    """The directories that hold kinds: the user's, and the temporary one where it is there."""
    temporary = _temporary_path()
    places = dict.fromkeys((_BEFORE, _usual(), *([temporary / "quaver"] if temporary else [])))
    return [path for path in places if path.is_dir()]


def _writable(path: Path) -> bool:
    """Whether `path`, a folder, can be written or made."""
    if not path.is_absolute():  # of a user without a home it begins with ~
        return False
    with suppress(OSError):
        while not path.exists():
            path = path.parent
        return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
    return False


def _temporary_path() -> Path | None:
    """Where the temporary one is; None: no directory at all can be written."""
    try:
        return Path(tempfile.gettempdir()) / f"quaver-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    except OSError:
        return None


def _own_folder(path: Path) -> bool:
    """Whether `path` is a folder that nobody else can write: what is loaded from it is run."""
    try:
        about = path.lstat()
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or about.st_uid == os.getuid() or os.getuid() == 0
    return stat.S_ISDIR(about.st_mode) and mine and not about.st_mode & 0o022


def _temporary() -> Path | None:
    path = _temporary_path()
    if path is None:
        return None
    with suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
    return path if _own_folder(path) and _writable(path) else Path(tempfile.mkdtemp(prefix="quaver-"))


@contextmanager
def alone(target: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """No other process makes `target` meanwhile: one that does is waited for, which `waiting` is told."""
    from filelock import FileLock, Timeout

    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def building(target: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[Path | None]:
    """A scratch folder to build `target` in, or None where it is. What another builds is waited for."""
    if target.exists():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone(target, waiting):
        if target.exists():
            yield None
            return
        for left in target.parent.glob(f"{target.name}.building-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.building-") as folder:
            yield Path(folder)


def size(folder: Path) -> tuple[int, int]:
    """How many files are in `folder`, without locks, and how many bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return len(files), sum(path.stat().st_size for path in files)


def clear(folder: Path) -> None:
    """Removes what is in `folder`, but for what a process is building now."""
    from filelock import FileLock, Timeout

    busy = set()
    for file in folder.glob(".*.lock"):
        try:
            with FileLock(file).acquire(timeout=0):
                pass
        except Timeout:
            busy.add(file.name[1:].removesuffix(".lock"))
    for path in folder.iterdir():
        if any(path.name.lstrip(".").startswith(name) for name in busy):
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
