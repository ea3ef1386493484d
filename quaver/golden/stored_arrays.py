"""Reading an .npz file: its arrays, or a ValueError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def load(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of the .npz file at `path`, by name.

    Raises
    ------
    OSError
        The file cannot be opened.
    ValueError
        It is no whole .npz file, or holds Python objects, which run code.
    """
    with path.open("rb") as file:
        try:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            arrays = {name: stored[name] for name in stored.files}
        except Exception as error:  # zipfile's, zlib's and NumPy's errors on damaged files share no base
            raise ValueError(str(error) or type(error).__name__) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is no array")
    return arrays
