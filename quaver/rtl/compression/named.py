"""Units of gradient compression by name: what --compression means, in every command alike."""

from __future__ import annotations

import re

from quaver.rtl.compression.adacomp import AdaCompUnit

_PARAMETERS = ("longest", "count_bits")


def compression_unit(text: str, stages: int = 4) -> AdaCompUnit | None:
    """The unit of a text: none, adacomp, or ``adacomp(longest=64, count_bits=20)``, as of `AdaCompUnit`.

    ValueError: another name or parameter, or a value that the unit refuses.
    """
    match = re.fullmatch(r"(none|adacomp)(?:\((.*)\))?", text.strip())
    if match is None or (match[1] == "none" and match[2]):
        raise ValueError(f"--compression is {text}, but there are none and adacomp")
    if match[1] == "none":
        return None
    parameters = {}
    for part in filter(None, (match[2] or "").split(",")):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in _PARAMETERS or not value.isdecimal():
            known = ", ".join(f"{each}=N" for each in _PARAMETERS)
            raise ValueError(f"--compression is {text}, but what adacomp may be told is {known}")
        if name in parameters:
            raise ValueError(f"--compression is {text}, which has {name} more than once; keep one")
        parameters[name] = int(value)
    return AdaCompUnit(stages=stages, **parameters)
