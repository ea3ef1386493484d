"""The parser of one command's options, which remembers which of them were given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

_NOT_GIVEN = object()
_APPENDS = argparse._AppendAction, argparse._ExtendAction


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose namespace has `given`: the names of the options that were written, whatever
    their values."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        parsed = argparse.Namespace() if namespace is None else namespace
        options = {a.dest: a for a in self._actions if a.option_strings and not hasattr(parsed, a.dest)}
        for name, option in options.items():
            setattr(parsed, name, [] if isinstance(option, _APPENDS) else _NOT_GIVEN)
        parsed, rest = super().parse_known_args(args, parsed)
        given = set(getattr(parsed, "given", ()))  # of a unit's own parser
        for name, option in options.items():
            default: Any = option.default
            if getattr(parsed, name) != ([] if isinstance(option, _APPENDS) else _NOT_GIVEN):
                given.add(name)
            elif default is argparse.SUPPRESS:
                delattr(parsed, name)
            else:
                text = isinstance(default, str)
                setattr(parsed, name, self._get_value(option, default) if text else default)
        parsed.given = given
        return parsed, rest


def refuse(args: argparse.Namespace, where: str, *names: str) -> None:
    """ValueError: one of the options `names` was given, but has no effect there; `where` says where that is,
    as in "with --show-recipe"."""
    for name in names:
        if name.replace("-", "_") in given(args):
            raise ValueError(f"--{name} does nothing {where}; leave it out")


def given(args: argparse.Namespace) -> set[str]:
    """The names of the options that were given."""
    return getattr(args, "given", set())
