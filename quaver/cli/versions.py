"""The versions of what results may depend on."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version


def versions(*packages: str) -> dict[str, str]:
    """Versions of what results may depend on: Quaver, Python, NumPy, Numba and `packages`."""
    found = {"python": platform.python_version()}
    for package in ("quaver", "numpy", "numba", *packages):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
