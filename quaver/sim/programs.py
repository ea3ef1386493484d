"""Compilers and simulators, run by threads: they end when the work that they are for is given up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

_lock = Lock()
_running: set[subprocess.Popen[str]] = set()
_given_up = False


def run(
    command: list[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """`command` run in `folder`, with what it printed.

    Raises
    ------
    RuntimeError
        The work was given up: it was not begun.
    subprocess.TimeoutExpired
        It ran longer than `seconds`, and was ended.
    """
    with _lock:
        if _given_up:
            raise RuntimeError(f"{Path(command[0]).name} was not begun: the work was given up")
        program = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        _running.add(program)
    with program:
        try:
            printed = program.communicate(timeout=seconds)
        except BaseException:
            program.kill()
            raise
        finally:
            with _lock:
                _running.discard(program)
    return subprocess.CompletedProcess(command, program.returncode, *printed)


@contextmanager
def threads(count: int | None) -> Iterator[ThreadPoolExecutor]:
    """So many threads that may `run` programs. Where the block is left by an error or by Ctrl-C, the programs
    that run are ended, and none begins any more."""
    global _given_up
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        with _lock:
            _given_up = True
            for program in _running:
                program.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        _given_up = False
