"""What counts as an integer parameter: anything that indexes, but no bool and no float. Flags, and words."""

from __future__ import annotations

from enum import StrEnum
from operator import index

import numpy as np


def as_integer(value: object, name: str) -> int:
    """`value`, of Python or NumPy, as an int. TypeError: it is something else; the message names `name`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is {value!r}, but it must be an integer") from None


def set_integers(thing: object, *names: str) -> None:
    """Makes these attributes of a frozen dataclass ints. TypeError: one is no integer."""
    for name in names:
        object.__setattr__(thing, name, as_integer(getattr(thing, name), name))


def set_flags(thing: object, *names: str) -> None:
    """Makes these attributes of a frozen dataclass bools. TypeError: one is neither Python's nor NumPy's,
    such as the word "false", which counts as true."""
    for name in names:
        if not isinstance(value := getattr(thing, name), bool | np.bool_):
            raise TypeError(f"{name} is {value!r}, but it must be True or False")
        object.__setattr__(thing, name, bool(value))


class Choice(StrEnum):
    """An enumeration of words. ValueError for another: the message says what there is."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        words = ", ".join(map(repr, map(str, cls)))
        raise ValueError(f"{value!r} is not a valid {cls.__name__}, but there are {words}")
