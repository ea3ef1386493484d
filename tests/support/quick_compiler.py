"""g++ for simulations that run for seconds at most: models are optimised little, Verilator's own code not at
all, and the header that every model includes is compiled once.

`tests/conftest.py` has CXX name it: `python quick_compiler.py FOLDER`, where FOLDER keeps the headers.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

#: How `quaver.sim` has a model compiled.
MODEL = ["-c", "all.cpp"]


def header(folder: Path, flags: list[str]) -> list[str]:
    """Options that take the header compiled with these flags; none while another process compiles it."""
    path = folder / hashlib.sha256("\0".join(flags).encode()).hexdigest()[:24] / "models.h"
    compiled, unfinished = path.with_name("models.h.gch"), path.with_name("unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name("lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        if not compiled.exists():
            path.write_text("#include <verilated.h>\n")
            command = ["g++", *flags, "-x", "c++-header", str(path), "-o", str(unfinished)]
            if subprocess.run(command).returncode:
                return []
            unfinished.rename(compiled)
    return ["-include", str(path)]


def main(folder: str, *given: str) -> None:
    options = list(given)
    if options[-2:] == MODEL:
        flags = [*options[:-2], "-O1"]  # of several levels the last one counts
        options = [*flags, *header(Path(folder), flags), *MODEL]
    elif any(Path(option).name.startswith("verilated") for option in options):
        options.append("-O0")
    os.execvp("g++", ["g++", *options])


if __name__ == "__main__":
    main(*sys.argv[1:])
