"""Descriptors: a line of text that says which arithmetic or which update rule, for as long as a board lives.

    1 chunked_float operand=e5m2sat accumulator=e6m9 chunk=64 rounding=nearest random_bits=14
    1 float_sgd format=e6m9 rounding=stochastic random_bits=16

That is the version of descriptors, the name of the class's file, and every parameter with its value, but for
None; of a rule all but its scalars. A release that adds a parameter gives it a default that means what was
meant before, so that a descriptor which lacks it still describes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from quaver.golden.arithmetic import ARITHMETICS
from quaver.golden.contracts import Arithmetic, UpdateRule
from quaver.golden.formats import Format, parse
from quaver.golden.update import UPDATE_RULES

#: The version of the text's form; what the text names has none.
VERSION = 1


@dataclass(frozen=True)
class Descriptor:
    """A descriptor taken apart.

    Attributes
    ----------
    name
        A name in `ARITHMETICS` or `UPDATE_RULES`, or one that this release does not know.
    parameters
        Parameter name → value, both as text.
    """

    name: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Descriptor:
        """The descriptor of a text. ValueError: it is none, or of another version."""
        version, *words = text.split()
        if version != str(VERSION) or not words:
            raise ValueError(
                f"{text!r} is no descriptor of version {VERSION}; use the release that it was built with, "
                f"or build it anew with this one"
            )
        parameters = (word.partition("=") for word in words[1:])
        return cls(words[0], {name: value for name, _, value in parameters})

    def __str__(self) -> str:
        return " ".join([str(VERSION), self.name, *(f"{k}={v}" for k, v in self.parameters.items())])

    def describes(self, thing: Arithmetic | UpdateRule) -> bool:
        """Whether this is `thing`'s, perhaps as a release wrote it that had fewer parameters."""
        ours = descriptor(thing)
        if self.name != ours.name or not self.parameters.keys() <= ours.parameters.keys():
            return False
        theirs = _defaults(thing) | dict(self.parameters)
        return all(_meaning(theirs.get(name, "")) == _meaning(text) for name, text in ours.parameters.items())


def descriptor(thing: Arithmetic | UpdateRule) -> Descriptor:
    """The descriptor of an arithmetic, or of an update rule with any scalars. TypeError: it is not listed."""
    for name, kind in ARITHMETICS.items():
        if type(thing) is kind:
            return Descriptor(name, _parameters(thing))
    for name, rule in UPDATE_RULES.items():
        if isinstance(thing, rule):
            values = _parameters(thing)
            return Descriptor(name, {key: values[key] for key in values if key not in thing.scalars})
    listed = ", ".join([*ARITHMETICS, *UPDATE_RULES])
    raise TypeError(f"{thing!r} is of no kind that is listed; there are {listed}")


def _parameters(thing: Any) -> dict[str, str]:
    values = {field.name: getattr(thing, field.name) for field in fields(thing)}
    return {name: str(value) for name, value in values.items() if value is not None}


def _defaults(thing: Any) -> dict[str, str]:
    return {field.name: str(field.default) for field in fields(thing) if field.default is not MISSING}


def _meaning(text: str) -> Format | str:
    """The format that a value names, or its text: a format may have two names."""
    try:
        return parse(text)
    except ValueError:
        return text
