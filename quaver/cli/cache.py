"""What is kept to be fast: how much of what, where, and how to be rid of it.

All of it is made again when it is needed: a compiled simulation in seconds to minutes, a bitstream in minutes
to hours. It lies in the user's cache directory (XDG_CACHE_HOME names another), or, where that cannot be
written, in a temporary one.

examples:
  quaver cache                        how large each kind is, and where
  quaver cache --clear                all but the downloaded data sets
  quaver cache --clear data boards    these kinds
  quaver cache --json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from quaver.cli.options import console, print_results
from quaver.golden.caches import KINDS, clear, folders, size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clear",
        nargs="*",
        choices=KINDS,
        metavar="KIND",
        help=f"remove these: {', '.join(KINDS)} (all but data)",
    )
    parser.add_argument("--json", action="store_true", help="the list as one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    if args.clear is not None:
        chosen = args.clear or [kind for kind in KINDS if kind != "data"]
        for _, folder in _present(chosen):
            files, size_ = size(folder)
            clear(folder)
            console.print(f"cleared {folder}: {files:,} files, {_megabytes(size_)}", highlight=False)
    table = Table(title="what is kept to be fast")
    table.add_column("kind")
    table.add_column("what")
    table.add_column("files", justify="right")
    table.add_column("size", justify="right")
    table.add_column("where")
    data = []
    for kind, folder in _present(list(KINDS)):
        files, size_ = size(folder)
        table.add_row(kind, KINDS[kind], f"{files:,}", _megabytes(size_), str(folder))
        data.append({"kind": kind, "folder": str(folder), "files": files, "bytes": size_})
    total = sum(int(str(one["bytes"])) for one in data)
    table.add_section()
    table.add_row("all", "", "", _megabytes(total), "")
    print_results(table, {"kinds": data, "bytes": total}, as_json=args.json)
    return 0


def _present(kinds: list[str]) -> list[tuple[str, Path]]:
    """The kinds that there are, and where."""
    places = [(kind, folder / kind) for folder in folders() for kind in kinds]
    return [(kind, place) for kind, place in places if place.is_dir()]


def _megabytes(size_: int) -> str:
    return f"{size_ / 1e6:,.1f} MB"
