"""The examples run as they say, on tiny sizes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TINY = ("--size", "16", "--width", "4", "--images", "48", "--classes", "3", "--batch", "8", "--workers", "0")


def run(*command: object, cwd: Path) -> str:
    # One thread a process: two that train side by side would each take all cores.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=environment, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def losses(output: str) -> list[str]:
    return re.findall(r"loss (\d+\.\d+)", output)


def test_resnet18_in_ten_lines(tmp_path: Path) -> None:
    output = run(
        *(sys.executable, EXAMPLES / "convert_resnet18.py", "--width", 8, "--steps", 2, "--batch", 4),
        cwd=tmp_path,
    )
    assert "41 modules converted" in output
    assert len(losses(output)) == 2


def test_shakespeare(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("To be, or not to be: that is the question. " * 40)
    sizes = ("--steps", 3, "--batch", 2, "--context", 16, "--width", 8, "--heads", 2, "--layers", 1)
    output = run(sys.executable, EXAMPLES / "shakespeare.py", tmp_path, *sizes, cwd=tmp_path)
    assert re.search(r"fp32: \d\.\d+ nats a character", output)
    assert re.search(r"fp8: \d\.\d+ nats a character", output)


def state(path: Path) -> dict[str, torch.Tensor]:
    stored = torch.load(path, weights_only=True)
    moments = {f"momentum {i}": s["momentum_buffer"] for i, s in stored["optimiser"]["state"].items()}
    return {**stored["model"], **moments}


@pytest.mark.slow
def test_imagenet_resumes_to_the_same_bits(tmp_path: Path) -> None:
    command = (sys.executable, EXAMPLES / "imagenet.py", *TINY, "--epochs", "2", "--save-every", "4")
    whole = run(*command, "--checkpoint", "whole.pt", cwd=tmp_path)
    killed = run(*command, "--checkpoint", "cut.pt", "--stop-after", 5, cwd=tmp_path)
    resumed = run(*command, "--checkpoint", "cut.pt", "--resume", cwd=tmp_path)
    assert "resumed after 4 steps" in resumed
    assert losses(killed)[:4] + losses(resumed) == losses(whole)
    one, other = state(tmp_path / "whole.pt"), state(tmp_path / "cut.pt")
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.slow
def test_imagenet_on_two_processes(tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    command = (*torchrun, EXAMPLES / "imagenet.py", *TINY, "--epochs", "1", "--checkpoint", "two.pt")
    output = run(*command, cwd=tmp_path)
    assert len(losses(output)) == 3 + 1  # 48 images in steps of 2 · 8, printed by one process, and the test
    assert "0 skipped" in output
    again = run(*command[:-1], "again.pt", cwd=tmp_path)
    assert losses(again) == losses(output)
    one, other = state(tmp_path / "two.pt"), state(tmp_path / "again.pt")
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.slow
def test_imagenet_reads_a_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="reading JPEG files needs Pillow")
    rng = np.random.default_rng(1)
    for part, count in (("train", 8), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
                image.fromarray(pixels).save(tmp_path / part / name / f"{i}.jpg")
    sizes = ("--size", 16, "--width", 4, "--batch", 4, "--workers", 1, "--epochs", 1)
    output = run(sys.executable, EXAMPLES / "imagenet.py", "--data", tmp_path, *sizes, cwd=tmp_path)
    assert "accuracy" in output


@pytest.mark.slow
def test_adacomp_on_four_processes_is_goldens_four_learners(tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 4)
    output = run(*torchrun, EXAMPLES / "adacomp.py", "--epochs", 1, "--check", cwd=tmp_path)
    assert "sent 1/" in output
    assert re.search(r"weights and residues of all ranks compared, 0 differ", output)
