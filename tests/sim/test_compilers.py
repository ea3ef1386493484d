"""The C++ compiler that CXX names: another one, behind a launcher, without some of GCC's flags, or broken."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import pytest

from quaver.golden import caches
from quaver.sim import verilated

MODULE = "module top(input [7:0] a, output [7:0] b); assign b = a + 8'd1; endmodule"
HARNESS = """
#include "Vmodel.h"
extern "C" int next(int a) {
    VerilatedContext context;
    Vmodel model{&context};
    model.a = a;
    model.eval();
    return model.b;
}
double sc_time_stamp() { return 0; }
"""
#: Which takes most of the compiler's time: Verilator's run time, too, is compiled into each test's own cache.
WITHOUT_OPTIMISATION = tuple(flag for flag in verilated.COMPILER_FLAGS if flag != "-O3")


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(caches, "_usual", lambda: tmp_path / "cache")
    monkeypatch.setattr(verilated, "COMPILER_FLAGS", WITHOUT_OPTIMISATION)
    monkeypatch.setenv("CCACHE_DIR", str(tmp_path / "ccache"))
    (tmp_path / "harness.cpp").write_text(HARNESS)
    return tmp_path / "harness.cpp"


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def compiled(harness: Path) -> ctypes.CDLL:
    return verilated.compile_library(MODULE, "top", harness)


@pytest.mark.parametrize(
    "compiler", ["clang++", "ccache g++", pytest.param("g++ -g", marks=pytest.mark.slow)]
)
def test_other_compilers(compiler: str, harness: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"{compiler} is not installed")
    monkeypatch.setenv("CXX", compiler)
    assert compiled(harness).next(41) == 42


def test_a_compiler_that_does_not_know_every_flag(
    harness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that only make it faster are left out."""
    fussy = program(
        tmp_path / "fussy++",
        'case "$*" in *gnu-unique*|*march*) echo "unknown argument" >&2; exit 1;; esac; exec g++ "$@"',
    )
    monkeypatch.setenv("CXX", str(fussy))
    assert verilated._known((str(fussy),)) == ("-fopenmp-simd", "-fno-semantic-interposition")
    assert compiled(harness).next(254) == 255


def test_a_compiler_that_compiles_nothing(
    harness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = program(tmp_path / "broken++", "echo 'no licence' >&2; exit 3")
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(RuntimeError, match=r"(?s)broken\+\+ failed with exit code 3:.*no licence"):
        compiled(harness)


def test_a_launcher_without_its_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "ccache", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "ccache g++")
    with pytest.raises(RuntimeError, match=r"no C\+\+ compiler 'ccache g\+\+'"):
        verilated.compiler()


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_name_is_none(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", empty)
    assert verilated.compiler() == ("g++",)


def test_two_processes_compile_the_same_once(
    harness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a cache that is empty, as in continuous integration."""
    import subprocess
    import sys

    counted = tmp_path / "counted"
    counting = program(
        tmp_path / "counting++",
        f'case "$*" in *all.cpp*) echo one >> {counted};; esac; exec g++ "$@"',
    )
    text = (
        "import sys; from pathlib import Path; from quaver.sim.verilated import compile_library; "
        "print(compile_library(sys.argv[1], 'top', Path(sys.argv[2])).next(1))"
    )
    environment = os.environ | {"CXX": str(counting), "XDG_CACHE_HOME": str(tmp_path / "empty")}
    command = [sys.executable, "-c", text, MODULE, str(harness)]
    both = [subprocess.Popen(command, stdout=-1, env=environment) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == [b"2\n", b"2\n"]
    assert counted.read_text() == "one\n"
