"""Files are whole or not there, links stay, devices are written to, one process at a time has a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from quaver.golden import files


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    target.write_text("before")
    target.chmod(0o640)

    def interrupted() -> None:
        with files.whole(target) as file:
            file.write(b"half")
            file.flush()
            assert target.read_text() == "before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "before"
    files.write(target, "after")
    assert target.read_text() == "after"
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [target]


def test_names_as_long_as_they_may_be(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    files.write(target, "long")
    assert target.read_text() == "long"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link, second = (tmp_path / name for name in ("elsewhere/a.v", "b.v", "c.v"))
    if there:
        target.write_text("before")
    link.symlink_to(Path("elsewhere") / "a.v")
    second.symlink_to(link)
    files.write(second, "after")
    assert link.is_symlink()
    assert second.is_symlink()
    assert target.read_text() == "after"


def test_devices_are_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR)
    files.write(fifo, b"through")
    assert os.read(reader, 100) == b"through"
    assert fifo.is_fifo()
    os.close(reader)
    nowhere = tmp_path / "null"
    nowhere.symlink_to(os.devnull)
    files.write(nowhere, "gone")
    assert nowhere.is_symlink()
    assert Path(os.devnull).is_char_device()


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="the system has no /dev/stdout")
@pytest.mark.parametrize("onto", ["file", "pipe"])
def test_standard_output_by_its_name(tmp_path: Path, onto: str) -> None:
    """In the order in which it was printed, and what was in the file stays in it."""
    program = (
        "import sys; from quaver.golden.files import write; print('one'); write('/dev/stdout', 'two\\n');"
        "write('/dev/fd/1', 'three\\n'); print('four')"
    )
    said = tmp_path / "said"
    said.write_text("zero\n")
    with said.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=file if onto == "file" else subprocess.PIPE, check=True
        )
    if onto == "pipe":
        assert done.stdout == b"one\ntwo\nthree\nfour\n"
    else:
        assert said.read_text() == "zero\none\ntwo\nthree\nfour\n"
    assert Path("/dev/stdout").is_symlink() or not Path("/dev/stdout").is_file()


HOLDER = """
    import sys, time
    from pathlib import Path
    from quaver.golden.files import held
    with held(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""


def test_one_process_at_a_time_has_a_folder(tmp_path: Path) -> None:
    """The second is told who has it; after kill -9 of the first the folder is free, and rid of its traces."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(RuntimeError, match=rf"is being written by process {holder.pid} on .* since 20"),
            files.held(tmp_path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    left = tmp_path / ".checkpoint.npz.1.part"
    left.touch()
    started = time.monotonic()
    with files.held(tmp_path):
        assert not left.exists()
    assert time.monotonic() - started < 5
