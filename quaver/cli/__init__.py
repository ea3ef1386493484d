"""The command line: `quaver COMMAND …`. Each command is a module of this package, imported when it is run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Any

#: command → what it does, in the order of `quaver --help`. quaver/cli/COMMAND.py holds add_arguments and run.
COMMANDS = {
    "demo": "train on real digits in FP32 and FP8, run it on the simulated accelerator, compare every code",
    "train": "train a network with a recipe, on the golden model or on the simulated accelerator",
    "compare": "run the same training on two engines and compare every code",
    "verilog": "generate the Verilog of a unit",
    "build": "build the bitstream of an accelerator for a board",
    "flash": "load a bitstream into a board",
    "sim": "run the cocotb benches on the generated Verilog",
    "report": "one HTML page with the figures of stored runs",
    "plan": "how wide each layer's accumulators must be",
}

EXAMPLES = """\
examples:
  quaver demo                                   the whole story in a minute or two
  quaver train --recipe fp8 --epochs 5          train the digits network in FP8
  quaver compare --engine sim --steps 4         golden model against simulated accelerator
  quaver verilog float_adder --stages 3 -o float_adder.v
  quaver build --board ulx3s-85f                an accelerator behind a serial line, as a bitstream
  quaver flash --board ulx3s-85f ulx3s-85f-fp8.bit
  quaver sim float_adder pe --waves             benches, with waves for any viewer
  quaver report runs/* -o report.html           curves, histograms and the reason for chunks in one page
  quaver plan resnet18-imagenet                 accumulator widths, layer by layer

`quaver COMMAND --help` says more. Exit status: 0 done and equal, 1 a mismatch or a failed check,
2 bad input or a missing tool, 130 interrupted.
"""


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="quaver",
        description="Training neural networks in eight bits, from the equation to the bitstream.",
        epilog=f"commands:\n{commands}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="quaver [--help] [--version] [--traceback] COMMAND …",
    )
    parser.add_argument("--version", action="version", version=f"quaver {version('quaver')}")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        return 0
    args = parser.parse_args(argv)
    if args.command not in COMMANDS:
        close = " or ".join(get_close_matches(args.command, COMMANDS)) or f"one of {', '.join(COMMANDS)}"
        parser.error(f"there is no command {args.command!r}; did you mean {close}?")
    module = import_module(f"quaver.cli.{args.command}")
    parser = argparse.ArgumentParser(
        prog=f"quaver {args.command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    options = parser.parse_args(args.rest)
    before = _on_termination(_terminate)
    try:
        status = module.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("quaver: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `quaver … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if args.traceback:
            raise
        said = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            said = f"{error.filename}: {error.strerror}"
        print(f"quaver {args.command}: {said}", file=sys.stderr)
        return 2
    finally:
        _on_termination(before)


def _on_termination(handler: Any) -> Any:
    """Sets what SIGTERM does, where this is the main thread, and gives what it did."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)


def _terminate(number: int, frame: object) -> None:
    """What runs ends as by Ctrl-C: tools with it, files whole. Where Ctrl-C is ignored, it ends at once."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        sys.exit(128 + number)
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
