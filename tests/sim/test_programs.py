"""Programs that threads run end with the work that they are for."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from quaver.sim import programs

FOR_EVER = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]


def test_what_is_printed_and_the_status(tmp_path: Path) -> None:
    said = [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"]
    done = programs.run(said, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_time_limit_ends_it(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        programs.run(FOR_EVER, tmp_path, seconds=0.5)
    assert not programs._running


def test_given_up_nothing_runs_on_and_nothing_begins(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def first() -> int:
        threading.Timer(0.5, begun.set).start()
        return programs.run(FOR_EVER, tmp_path).returncode

    def second() -> None:
        go_on.wait()
        programs.run(FOR_EVER, tmp_path)

    with suppress(KeyboardInterrupt), programs.threads(2) as pool:
        running, waiting, queued = pool.submit(first), pool.submit(second), pool.submit(first)
        begun.wait()
        threading.Timer(0.5, go_on.set).start()  # when the block has been left
        raise KeyboardInterrupt
    assert running.result() != 0
    with pytest.raises(RuntimeError, match="was not begun: the work was given up"):
        waiting.result()
    assert queued.cancelled()
    assert programs.run([sys.executable, "-c", ""], tmp_path).returncode == 0
