"""The fast tests compile simulations for short runs; `make test-slow` and the others as the product does."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

COMPILER = Path(__file__).parent / "support" / "quick_compiler.py"


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr.startswith("not slow"):
        headers = config.rootpath / ".build" / "headers"
        os.environ.setdefault("CXX", shlex.join([sys.executable, "-S", "-E", str(COMPILER), str(headers)]))
