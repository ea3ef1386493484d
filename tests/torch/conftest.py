"""These tests need PyTorch, which a plain development environment does not bring: `make test-torch` does."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

try:
    AVAILABLE = find_spec("torch.nn") is not None  # this very folder would pass for a package called torch
except ModuleNotFoundError:
    AVAILABLE = False


class WithoutTorch(pytest.Module):
    """A module of tests that PyTorch is missing for."""

    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip("PyTorch is not installed; make test-torch installs it", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return None if AVAILABLE else WithoutTorch.from_parent(parent, path=module_path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kernels of a GPU, on the CPU's tensors."""
    from processor_tensors import MACHINE

    from quaver.torch import cuda, optimisers

    monkeypatch.setattr(cuda, "find_machine", lambda device: MACHINE)
    monkeypatch.setattr(optimisers.Optimiser, "_on_gpu", lambda self, p: self.recipe.update is not None)
    return MACHINE


@pytest.fixture
def gpu() -> Any:
    """The GPU that there is."""
    import torch

    from quaver.torch import cuda

    if not torch.cuda.is_available():
        pytest.skip("there is no NVIDIA GPU here; make test-gpu on a machine with one")
    return cuda.Gpu().device
