"""The package as a library user meets it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import quaver

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", quaver.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(quaver, name) is not None


def test_importing_imports_nothing() -> None:
    program = (
        "import sys, quaver; print([m for m in sys.modules if m.startswith(('quaver.', 'numpy', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_recipes_and_arithmetics_are_there_before_a_kernel_is_compiled() -> None:
    program = "import sys, quaver; quaver.recipes.fp8, quaver.ChunkedFloat(); print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_missing_pytorch_is_one_line_that_says_what_to_install() -> None:
    program = "import sys; sys.modules.update({'torch': None, 'torch.nn': None}); import quaver.torch"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: quaver.torch needs PyTorch; install it: pip install torch")


def test_the_sum_of_the_readme() -> None:
    a, b = (quaver.FP8.encode([[1.0, 2.0]]), quaver.FP8.encode([[3.0], [4.0]]))
    assert quaver.FP16.decode(quaver.ChunkedFloat().gemm(a, b)) == 11


@pytest.mark.slow
def test_a_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    """Built from what git tracks, installed into an empty environment, run from an empty folder."""
    clone, empty = tmp_path / "clone", tmp_path / "empty"
    empty.mkdir()

    def run(*command: object, cwd: Path = empty) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("git", "clone", "--quiet", ROOT, clone)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python, command = tmp_path / "venv/bin/python", tmp_path / "venv/bin/quaver"
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, clone)
    (wheel,) = tmp_path.glob("quaver-*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    installed = {path.name for path in (tmp_path / "venv/lib").rglob("site-packages/*")}
    assert not installed & {"golden", "rtl", "sim", "fpga"}
    run(python, "-c", "import quaver; quaver.ChunkedFloat, quaver.SimulatedEngine, quaver.to_verilog")
    (empty / "sim.py").write_text("raise ImportError('a user has a sim of their own')")
    (empty / "rtl").mkdir()
    (empty / "rtl/__init__.py").write_text("raise ImportError('and an rtl')")
    assert re.search(r"│ all .* 0 │", run(command, "demo"))
    run(command, "sim", "pe")
    run(command, "verilog", "systolic_array", "--rows", 2, "--columns", 2, "-o", "array.v")
    assert (empty / "array.v").read_text().count("endmodule") > 1
