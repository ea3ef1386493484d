"""The command line: `quaver COMMAND …`. Each command is a module of this package, imported when it is run."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

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
    "export": "a trained network as an ONNX model",
    "plan": "how wide each layer's accumulators must be",
    "doctor": "which tools there are, which are missing, and how to get them",
    "cache": "what is kept to be fast, how large it is, and how to clear it",
}

EXAMPLES = """\
examples:
  quaver demo                                   the whole story in two to four minutes
  quaver train --recipe fp8 --epochs 5          train the digits network in FP8
  quaver compare --engine sim --steps 4         golden model against simulated accelerator
  quaver verilog float_adder --stages 3 -o float_adder.v
  quaver build --board ulx3s-85f                an accelerator behind a serial line, as a bitstream
  quaver flash --board ulx3s-85f ulx3s-85f-fp8.bit
  quaver sim float_adder pe --waves             benches, with waves for any viewer
  quaver report runs/* -o report.html           curves, histograms and the reason for chunks in one page
  quaver plan resnet18-imagenet                 accumulator widths, layer by layer

`quaver COMMAND --help` says more. Exit status: 0 done and equal, 1 a mismatch or a failed check,
2 bad input or a missing tool, 70 a fault of Quaver's own, 130 interrupted.
"""

#: Exit statuses; INTERNAL is EX_SOFTWARE of sysexits.h.
BAD_INPUT, INTERNAL, INTERRUPTED = 2, 70, 130


def _parser() -> argparse.ArgumentParser:
    import argparse
    from importlib.metadata import version

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
    before: Any = None
    try:
        from quaver.cli.streams import guarded

        before = _on_termination(_terminate)
        with guarded():
            return _finished(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # before there was anything to end, or a second time
        return INTERRUPTED
    finally:
        if before is not None:
            _on_termination(before)


def _finished(argv: list[str]) -> int:
    """Run a command; the exit status. Where an error or an interruption ends it, its message is printed."""
    name, traceback = "", "--traceback" in argv[:1]
    try:
        parser = _parser()
        try:
            if argv:
                args = parser.parse_args(argv)
                name, traceback = f" {args.command}", args.traceback
                return _run(parser, args.command, args.rest)
            parser.print_help()
            return 0
        finally:  # what was printed before an exit, as for --version, may find no room either
            sys.stdout.flush()
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        if _interrupted(error):
            print("quaver: interrupted", file=sys.stderr)
            return INTERRUPTED
        if traceback:
            import traceback as tracebacks

            tracebacks.print_exception(error)
        expected = isinstance(error, (ValueError, TypeError, OSError, RuntimeError, ImportError))
        if expected and not isinstance(error, (NotImplementedError, RecursionError)):
            if not traceback:
                print(f"quaver{name}: {_said(error)}", file=sys.stderr)
            return BAD_INPUT
        if not traceback:
            print(
                f"quaver{name}: {type(error).__name__}: {_said(error)} (a fault of Quaver's own; "
                f"quaver --traceback{name} … shows where)",
                file=sys.stderr,
            )
        return INTERNAL


def _run(parser: argparse.ArgumentParser, command: str, rest: list[str]) -> int:
    """Import the command and run it with the options `rest`."""
    import argparse
    import warnings
    from importlib import import_module

    if command not in COMMANDS:
        from difflib import get_close_matches

        close = " or ".join(get_close_matches(command, COMMANDS)) or f"one of {', '.join(COMMANDS)}"
        parser.error(f"there is no command {command!r}; did you mean {close}?")
    shown = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *where, **line: (
        f"quaver: {message}\n"
        if category.__module__.startswith("quaver.")
        else shown(message, category, *where, **line)
    )
    warnings.filterwarnings("ignore", ".*created but never used")  # designs only asked for their size
    try:
        from quaver.cli.parser import Parser

        module = import_module(f"quaver.cli.{command}")
        options = Parser(
            prog=f"quaver {command}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(options)
        parsed = options.parse_args(rest)
        parsed.argv = [command, *rest]
        return module.run(parsed)
    finally:
        warnings.formatwarning = shown


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is the cause of an error: a module that was being imported may have raised another
    error because of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _on_termination(handler: Any) -> Any:
    """Set the handler of SIGTERM, if this is the main thread, and return the former one."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)


def _terminate(number: int, frame: object) -> None:
    """End the command as Ctrl-C does, so that its tools end too and files stay whole; end it at once where
    Ctrl-C is ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        sys.exit(128 + number)
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
