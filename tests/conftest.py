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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ids with an address differ between the processes that share the tests out, which stops all of them."""
    named_by_address = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if named_by_address:
        raise pytest.UsageError(
            f"a test's id holds an address; give its parameters ids: {named_by_address[0]}"
        )
