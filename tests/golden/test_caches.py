"""What is kept: elsewhere where the user's cache cannot be written, built once, cleared but what is busy."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest

from quaver.golden import caches


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a home; the temporary directory that is for him."""
    monkeypatch.setattr(caches, "_temporary_path", lambda: tmp_path / "temporary")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", dict[int, Any]().__getitem__)  # as for a number without a name
    return tmp_path / "temporary"


def test_without_a_home_there_is_another_place(homeless: Path) -> None:
    with pytest.warns(caches.CacheWarning, match="cannot be written; what is compiled is kept in"):
        caches.prepare()
    assert caches.place("verilated", "a.so") == homeless / "quaver" / "verilated" / "a.so"
    assert os.environ["XDG_CACHE_HOME"] == str(homeless)
    assert os.environ["HOME"] == str(homeless)
    assert homeless.stat().st_mode & 0o777 == 0o700
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        caches.prepare()


def test_settings_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, homeless: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file" / "settings"))
    caches.prepare()
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "matplotlib")


def test_without_any_place_to_write_what_compiles_nothing_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container whose file system is only read."""

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setenv("MPLCONFIGDIR", "of the user")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(caches, "_writable", lambda path: False)
    with pytest.warns(caches.CacheWarning, match="there is no temporary directory"):
        caches.prepare()
    assert all(path.name == "quaver" for path in caches.folders())


def test_a_place_that_others_may_write_is_not_taken(homeless: Path) -> None:
    """What lies there would be loaded into this process."""
    homeless.mkdir()
    homeless.chmod(0o777)
    with pytest.warns(caches.CacheWarning):
        caches.prepare()
    assert Path(os.environ["XDG_CACHE_HOME"]) != homeless


def test_a_cache_of_a_neighbour_that_is_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, homeless: Path
) -> None:
    """As sudo leaves it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    writable = caches._writable
    monkeypatch.setattr(caches, "_writable", lambda path: path != tmp_path / "numba" and writable(path))
    with pytest.warns(caches.CacheWarning):
        caches.prepare()


def test_what_is_there_is_used_if_only_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, homeless: Path
) -> None:
    monkeypatch.setattr(caches, "_BEFORE", tmp_path / "usual")
    (tmp_path / "usual" / "benches").mkdir(parents=True)
    kept = tmp_path / "usual" / "benches" / "b"
    kept.touch()
    with pytest.warns(caches.CacheWarning):
        caches.prepare()
    assert caches.place("benches", "b") == kept
    assert caches.place("benches", "c") == homeless / "quaver" / "benches" / "c"


BUILDER = """
    import os, sys, time
    from pathlib import Path
    from quaver.golden.caches import building
    target = Path(sys.argv[1])
    with building(target, lambda: print("waits", flush=True)) as work:
        if work:
            print("builds", flush=True)
            (work / "made").write_text("whole")
            time.sleep(float(sys.argv[2]))
            if sys.argv[3] == "fails":
                raise SystemExit("failed")
            os.replace(work / "made", target)
    print(target.read_text())
"""


@pytest.mark.parametrize("first", ["succeeds", "fails", "is killed"])
def test_two_processes_build_once(tmp_path: Path, first: str) -> None:
    """Whatever becomes of the first, the second has what it wants, and no more is built than must be."""
    target = tmp_path / "cache" / "target"
    command = [sys.executable, "-c", textwrap.dedent(BUILDER), str(target)]
    with subprocess.Popen(
        [*command, "1" if first != "is killed" else "60", first], stdout=-1, stderr=-1
    ) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"builds\n"
        with subprocess.Popen([*command, "0", "succeeds"], stdout=-1) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"waits\n"
            if first == "is killed":
                one.kill()
            said = other.stdout.read()
        assert said == (b"whole\n" if first == "succeeds" else b"builds\nwhole\n")
        assert other.returncode == 0
    assert {path.name for path in target.parent.iterdir()} == {"target", ".target.lock"}


def test_clearing_leaves_what_is_being_built(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("1234")
    assert caches.size(tmp_path) == (2, 8)
    with caches.building(tmp_path / "busy") as work:
        assert work is not None
        caches.clear(tmp_path)
        assert work.is_dir()
        (work / "made").write_text("still there")
    assert not (tmp_path / "a").exists()
    caches.clear(tmp_path)
    assert not list(tmp_path.iterdir())
