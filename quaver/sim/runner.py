"""Runs the cocotb benches on the generated Verilog, and tells what they found as data.

In Verilator a bench's simulation is a program with only the unit's ports open to cocotb, which keeps an array
of many elements fast to build and to run. Programs are cached by content. Icarus interprets.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import find_libpython
from amaranth.lib import wiring
from cocotb_tools import config

from quaver.golden import caches
from quaver.rtl.emit.verilog import to_verilog
from quaver.sim import icarus, programs, verilated
from quaver.sim.coverage import Counts, holes
from quaver.sim.gates import mapped, models

#: The units that have a bench: `sim/benches/NAME.py`, whose VARIANTS name what is simulated.
UNITS = (
    "float_multiplier",
    "float_adder",
    "lfsr",
    "rounding",
    "pe",
    "pe_aligned_float",
    "systolic",
    "accelerator",
    "axi_accelerator",
    "float_sgd",
    "fixed_sgd",
    "adacomp",
    "adacomp_average",
    "uart",
)

#: What may simulate them.
SIMULATORS = ("verilator", "icarus")

#: Seconds that one simulation may take.
TIME_LIMIT = 600

_RUNTIME = ("verilated", "verilated_threads", "verilated_vpi")
_COMPILER_FLAGS = ("-std=c++20", "-O1")
#: What waves need besides; a program that may write them is slower to build and to run.
_WAVES_RUNTIME = ("verilated_fst_c",)
_FST_H = Path(__file__).with_name("fst")
_WAVES_COMPILER_FLAGS = ("-DVM_TRACE=1", "-DVM_TRACE_VCD=0", "-DVM_TRACE_FST=1", f"-I{_FST_H}")


@dataclass(frozen=True)
class BenchResult:
    """What one bench found.

    Attributes
    ----------
    bench
        Its name.
    checks
        Comparisons with the golden model.
    failures
        A line for each of the first mismatches, for each coverage hole, and for an error; empty if the bench
        passed.
    seconds
        Wall-clock time of building and running it.
    coverage
        Coverage point → bin → times hit.
    figures
        Name and unit → a figure that the bench measured.
    waves
        File of its waves in FST, for GTKWave, Surfer or any other viewer; None: it wrote none.
    """

    bench: str
    checks: int
    failures: list[str]
    seconds: float
    coverage: Counts = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    waves: Path | None = None


def bench_names(units: Sequence[str] = ()) -> list[str]:
    """The benches that names of units or of single benches mean; without names, all."""
    return [name for unit in units or UNITS for name in _expand(unit)]


def run_benches(
    units: Sequence[str] = (),
    waves: bool = False,
    seed: int = 1,
    progress: Callable[[str], None] | None = None,
    workers: int | None = None,
    gates: str | None = None,
    simulator: str = "verilator",
) -> list[BenchResult]:
    """Run the benches of some units (all when empty), `workers` at a time.

    Parameters
    ----------
    units
        Names from `UNITS`, or of single benches as `bench_names` lists them.
    waves
        Write each one's waves, in FST, into ``waves/`` of the current folder.
    seed
        Seed of all random stimulus.
    progress
        Called with one line when a bench begins to build, and when it is done.
    gates
        A family of `quaver.sim.gates`: run them on the netlist of its cells.
    simulator
        One of `SIMULATORS`.

    Raises
    ------
    ValueError
        An unknown name, or `gates` in another simulator than Verilator.
    OSError
        The folder of the waves cannot be made.
    RuntimeError
        No C++ compiler, no Verilator, no Icarus or, for `gates`, no Yosys.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"no simulator {simulator!r}; choose from {', '.join(SIMULATORS)}")
    if gates and simulator != "verilator":
        raise ValueError(
            f"the models of {gates} cells are Verilog that {simulator} does not read; take verilator for them"
        )
    names = bench_names(units)
    folder = Path.cwd() / "waves" if waves else None
    if folder:
        folder.mkdir(exist_ok=True)  # no place for them is said before the work
    with programs.threads(workers or os.cpu_count()) as pool:
        return list(
            pool.map(
                lambda name: run_bench(name, folder, seed, progress, gates=gates, simulator=simulator), names
            )
        )


def run_bench(
    name: str,
    waves: Path | None = None,
    seed: int = 1,
    progress: Callable[[str], None] | None = None,
    module: str | None = None,
    verilog: str | None = None,
    gates: str | None = None,
    simulator: str = "verilator",
) -> BenchResult:
    """Run one bench, of the unit mapped to the cells of family `gates` if there is one.

    Tests may put another `module` or mutated `verilog` in the place of its own; with `gates`, of its netlist.
    """
    module = module or f"quaver.sim.benches.{name.split()[0]}"
    say = progress or (lambda line: None)
    start = time.perf_counter()
    benches = import_module(module)
    unit = (benches.VARIANTS | getattr(benches, "OTHERS", {}))[name]()
    say(f"{name}: build")
    top = name.split()[0]
    if gates and verilog is None:
        verilog = mapped(to_verilog(unit, top), top, gates)
    cells = models(gates) if gates else ""
    with tempfile.TemporaryDirectory(prefix="quaver-bench-") as scratch:
        report, dump = Path(scratch) / "report.json", Path(scratch) / "dump.fst"
        if simulator == "icarus":
            verilog = verilog or to_verilog(unit, top)
            command = icarus.command(Path(scratch), verilog + cells, top, waves is not None)
        else:
            program, top = build(unit, top, verilog, cells, waves is not None)
            command = [str(program), *(["--trace"] if waves else [])]
        environment = {
            **os.environ,
            "COCOTB_TOPLEVEL": top,
            "COCOTB_TEST_MODULES": module,
            "COCOTB_RESULTS_FILE": str(Path(scratch) / "results.xml"),
            "COCOTB_RANDOM_SEED": str(seed),
            # Or pytest would compile NumPy, Numba and all else anew: most of the seconds that a bench takes.
            "COCOTB_REWRITE_ASSERTION_FILES": "",
            # In Icarus what is written at a clock's edge at once may be there before the edge.
            "COCOTB_TRUST_INERTIAL_WRITES": str(int(simulator == "verilator")),
            "COCOTB_LOG_LEVEL": "WARNING",
            "GPI_LOG_LEVEL": "WARNING",
            "GPI_USERS": f"{find_libpython.find_libpython()};{config.pygpi_entry_point()}",
            "PYGPI_PYTHON_BIN": sys.executable,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TOPLEVEL_LANG": "verilog",
            "QUAVER_BENCH": json.dumps({"name": name, "seed": seed, "report": str(report)}),
        }
        found = _run(command, Path(scratch), environment, report)
        written = None
        if waves and dump.exists():
            waves.mkdir(parents=True, exist_ok=True)
            written = waves / f"{name.replace(' ', '_')}.fst"
            shutil.move(dump, written)
    coverage = found.get("coverage", {})
    result = BenchResult(
        name,
        found.get("checks", 0),
        found["failures"] + [f"coverage hole: {hole}" for hole in holes(coverage)],
        time.perf_counter() - start,
        coverage,
        found.get("figures", {}),
        written,
    )
    say(f"{name}: {'failed' if result.failures else 'passed'}, {result.checks:,} checks")
    return result


def build(
    unit: wiring.Component, name: str, verilog: str | None = None, cells: str = "", waves: bool = False
) -> tuple[Path, str]:
    """The program that simulates a unit under cocotb, and the name of its top module.

    `cells` are the models of what `verilog` instantiates beside its own modules; with `waves` it can write
    them.
    """
    verilog = verilog or to_verilog(unit, name)
    compiler, root = verilated.compiler(), verilated._verilator()
    compiler_flags = (*_COMPILER_FLAGS, *(_WAVES_COMPILER_FLAGS if waves else ()))
    flags = [*verilated.VERILATOR_FLAGS, "--vpi", "--timescale", "1ns/1ps", "--prefix", "Vtop"]
    if waves:
        flags.append("--trace-fst")
    if cells:  # whose models are what they are
        flags.append("-Wno-fatal")
    harness = config.share_dir / "lib" / "verilator" / "verilator.cpp"
    tools: tuple[str, ...] = (verilated._tools((*compiler, *compiler_flags)), str(config.libs_dir))
    tools += verilated.libraries(compiler)
    told = harness.read_text(encoding="utf-8")
    program = caches.place("benches", verilated._digest(*tools, *flags, told, name, verilog, cells))
    compile_ = (*compiler, *compiler_flags, *verilated._include(root))
    with caches.building(program) as work:
        if work is None:
            return program, name
        (work / "design.v").write_text(verilog + cells, encoding="utf-8")
        (work / "ports.vlt").write_text(_open_ports(verilog, name), encoding="utf-8")
        command = [str(root / "bin" / "verilator_bin"), *flags, "--Mdir", str(work), "--top-module", name]
        verilated._run([*command, "design.v", "ports.vlt"], work)
        model = sorted(p.name for p in work.glob("Vtop*.cpp"))
        (work / "all.cpp").write_text(
            "".join(f'#include "{p}"\n' for p in (*model, harness)), encoding="utf-8"
        )
        verilated._run([*compile_, "-c", "all.cpp"], work)
        parts = _RUNTIME + (_WAVES_RUNTIME if waves else ())
        runtime = [_runtime_object(part, root, compile_, tools) for part in parts]
        libraries = (
            f"-Wl,-rpath,{config.libs_dir}",
            f"-L{config.libs_dir}",
            "-lcocotbvpi_verilator",
            "-pthread",
            *verilated.libraries(compiler),
        )
        verilated._run([*compiler, "-o", "program", "all.o", *map(str, runtime), *libraries], work)
        os.replace(work / "program", program)
    return program, name


def _run(command: list[str], scratch: Path, environment: dict[str, str], report: Path) -> dict[str, Any]:
    """The report of one simulation, or why there is none."""
    try:
        done = programs.run(command, scratch, environment, TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return {"failures": [f"the simulation was still running after {TIME_LIMIT} s, and was ended"]}
    if report.exists():
        return json.loads(report.read_text(encoding="utf-8"))
    said = (done.stdout + done.stderr).splitlines()
    return {"failures": ["the bench did not come to its end:", *said[-30:]]}


def _runtime_object(unit: str, root: Path, compile_: tuple[str, ...], tools: tuple[str, ...]) -> Path:
    """One of Verilator's own run-time objects, compiled once for all benches."""
    kept = caches.place("benches", f"{unit}-{verilated._digest(*tools)}.o")
    with caches.building(kept) as work:
        if work:
            source = root / "include" / f"{unit}.cpp"
            verilated._run([*compile_, "-c", str(source), "-o", "unit.o"], work)
            os.replace(work / "unit.o", kept)
    return kept


def _open_ports(verilog: str, top: str) -> str:
    """Verilator's control file: only the ports of module `top` are open to cocotb."""
    found = re.search(rf"^\s*module \\?{re.escape(top)}\s*\((.*?)\);(.*?)^\s*endmodule", verilog, re.M | re.S)
    if found is None:
        raise ValueError(f"the Verilog has no module {top}")
    ports = re.findall(r"\b(?:input|output)\b[^;,)]*?(\w+)\s*(?=[;,)])", found[1] + ";" + found[2])
    lines = [f'public_flat_rw -module "{top}" -var "{port}"' for port in dict.fromkeys(ports)]
    # What has many instances is compiled once: an array of ten elements in a third of the time.
    lines += [f'no_inline -module "{module}"' for module in _repeated(verilog)]
    return "\n".join(["`verilator_config", *lines, ""])


def _repeated(verilog: str) -> list[str]:
    """The modules that are instantiated more than once."""
    instances = Counter(re.findall(r"^  \\?(\S+) +\S+ +\($", verilog, re.M))
    return [module for module in re.findall(r"^module \\?([^\s(]+)", verilog, re.M) if instances[module] > 1]


def _variants(unit: str) -> list[str]:
    try:
        return list(import_module(f"quaver.sim.benches.{unit}").VARIANTS)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "cocotbext":
            raise
        raise ValueError(
            f"the bench {unit} needs cocotbext-axi, which is not installed: pip install it, or name"
            f" other benches: {', '.join(other for other in UNITS if other != unit)}"
        ) from None


def _expand(name: str) -> list[str]:
    unit = name.split()[0] if name.split() else name
    if unit in UNITS and name == unit:
        return _variants(unit)
    if unit in UNITS and name in _variants(unit):
        return [name]
    raise ValueError(f"no bench {name!r}; choose from {', '.join(UNITS)}")
