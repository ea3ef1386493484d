"""bench/equality.py: PyTorch has golden's bits there too, and a bit that differs is counted."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from quaver.golden.nn import recipes
from quaver.golden.nn.settings import Settings

_spec = importlib.util.spec_from_file_location("equality", Path(__file__).parents[2] / "bench/equality.py")
assert _spec
assert _spec.loader
equality = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(equality)


def test_equal_numbers_and_one_that_is_not() -> None:
    about = "mlp", recipes.fp8, Settings(batch=8, learning_rate=0.01), 1
    expected, found = equality.in_golden(*about), equality.in_torch(*about, "cpu")
    assert equality.verdict(found, expected) == (True, "34,452 equal")
    weights = np.array(found[1]["weight linear2.weight"])
    weights.view(np.uint32)[3, 5] ^= 1
    found[1]["weight linear2.weight"] = weights
    assert equality.verdict(found, expected) == (False, "1 of 34,452 differ")
