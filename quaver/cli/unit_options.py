"""Options that `quaver.rtl.emit.units` describes, as argparse has them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from quaver.golden import formats
from quaver.golden.arithmetic.named import named
from quaver.golden.contracts import Arithmetic
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.compression.named import compression_unit
from quaver.rtl.emit.units import Option

#: What stands for the value in the help; the rest are formats.
_METAVARS: dict[tuple[type, ...], str] = {
    (int,): "N",
    (Arithmetic,): "NAME",
    (AdaCompUnit,): "NAME",
}


def add_options(parser: argparse._ActionsContainer, options: Iterable[Option]) -> None:
    """Adds `options` to a parser or a group of it."""
    for option in options:
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            type=_parser(option),
            default=option.default,
            choices=option.choices or None,
            metavar=None if option.choices else _METAVARS.get(option.kinds, "FORMAT"),
            help=option.help if option.default is None else f"{option.help} (default: {option.default})",
        )


def values_of(args: argparse.Namespace, options: Iterable[Option]) -> dict[str, Any]:
    """Name → value of `options` in parsed arguments."""
    return {option.name: getattr(args, option.name) for option in options}


def as_command(values: dict[str, Any]) -> str:
    """Options and their values as on a command line."""
    return "".join(f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in values.items())


def _parser(option: Option) -> Any:
    if option.choices:
        return str
    if option.kinds == (int,):
        return _integer
    if option.kinds == (Arithmetic,):
        return _checked(named)
    if option.kinds == (AdaCompUnit,):
        return _checked(compression_unit)

    def parse(text: str) -> Any:
        try:
            fmt = formats.parse(text)
        except ValueError as error:  # whose reason argparse would not tell
            raise argparse.ArgumentTypeError(str(error)) from None
        if not isinstance(fmt, option.kinds):
            wanted = " or ".join(kind.syntax for kind in option.kinds if issubclass(kind, formats.Format))
            raise argparse.ArgumentTypeError(f"{text} is another kind of format; this option takes {wanted}")
        return fmt

    return parse


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer; take one such as 1 or 0xBEEF") from None


def _checked(make: Callable[[str], object]) -> Callable[[str], str]:
    """A parser of texts that `make` takes."""

    def parse(text: str) -> str:
        try:
            make(text)
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return parse
