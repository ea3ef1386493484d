"""Gradient compression: what N learners send each other in place of their gradients.

Each learner keeps a residue of what it has not sent, adds the next gradient to it, and sends a part; the
parts are averaged, and the optimiser takes the average for the gradient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.golden.compression.adacomp import AdaComp, NonFinite
from quaver.golden.compression.baselines import ChunkTopK, Sign, TopK, Uncompressed
from quaver.golden.compression.packet import Packet, PacketError, unpack, unpack_all
from quaver.golden.float_environment import standard_floats

Values = NDArray[np.float32]


class Contribution(Protocol):
    """What one learner sends of one layer."""

    @property
    def length(self) -> int:
        """Elements of the layer."""

    @property
    def nbytes(self) -> int:
        """Bytes, with everything."""

    @property
    def sent(self) -> int:
        """How many values are sent."""

    @property
    def effective_nbytes(self) -> int:
        """Bytes as papers count them: those of the values and their indices."""

    def values(self) -> Values:
        """The layer as it arrives, flat, 0 where nothing was sent."""

    def add_to(self, out: Values, learners: int) -> None:
        """Add the values over `learners` to flat `out`, each rounded to float32, and so is each sum."""


class Compression(Protocol):
    """What is sent of a layer."""

    def compress(
        self, residue: Values, gradient: Values, *, layer: int = 0, learner: int = 0, step: int = 0
    ) -> tuple[Contribution, Values]:
        """What is sent, and the new residue."""


@standard_floats
def mean(contributions: Sequence[Contribution]) -> Values:
    """The average of what N learners send of one layer: flat float32.

    Of each element, ``a = +0``, then ``a = round(a + round(value / N))`` for the learners in order, to
    nearest even: every learner that averages the same contributions in the same order has the same bits.
    AdaComp's values are ± one scale a learner, so that hardware divides once a packet.
    """
    out = np.zeros(contributions[0].length, np.float32)
    for contribution in contributions:
        contribution.add_to(out, len(contributions))
    return out


def _adacomp(kind: str, conv: int, other: int) -> Compression:
    return AdaComp(conv if kind == "conv" else other, NonFinite.PASS)


#: Name → its parameters' defaults, and what makes the compression of a layer of a kind (conv, linear, …).
_SCHEMES: dict[str, tuple[dict[str, Any], Callable[..., Compression]]] = {
    "none": ({}, lambda kind: Uncompressed()),
    "adacomp": ({"conv": 50, "other": 500}, _adacomp),
    "topk": ({"share": 0.01}, lambda kind, share: TopK(share)),
    "sign": ({}, lambda kind: Sign()),
    "chunk_topk": (
        {"chunk": 4096, "kept": 64, "decay": 0.95},
        lambda kind, chunk, kept, decay: ChunkTopK(chunk, kept, decay),
    ),
}
SCHEMES = tuple(_SCHEMES)


@dataclass(frozen=True)
class Scheme:
    """How all layers of a network are compressed, and its text: ``adacomp(conv=50, other=500)``.

    `name` is one of `SCHEMES`: AdaComp with L_T of convolutions and of other layers (500 as the paper has it
    for fully connected and recurrent ones), or what it is held against. Parameters that are left out have
    defaults.

    ValueError: no such scheme, no such parameter, or a value that the compression refuses.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in _SCHEMES:
            raise ValueError(f"the compression is {self.name!r}, but there are {', '.join(SCHEMES)}")
        defaults, _ = _SCHEMES[self.name]
        for key in self.parameters:
            if key not in defaults:
                known = ", ".join(defaults) or "none"
                raise ValueError(f"{key} is no parameter of the compression {self.name}, which has {known}")
        object.__setattr__(self, "parameters", MappingProxyType(defaults | dict(self.parameters)))
        for kind in ("conv", "linear"):
            self.of(kind)

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """The scheme of a text."""
        match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text.strip())
        if match is None:
            raise ValueError(
                f"the compression is {text!r}, but it is a name, or like adacomp(conv=50, other=500)"
            )
        parameters: dict[str, int | float] = {}
        for part in filter(None, (match[2] or "").split(",")):
            key, _, value = (word.strip() for word in part.partition("="))
            if key in parameters:
                raise ValueError(f"the compression is {text!r}, which has {key} more than once; keep one")
            try:
                parameters[key] = int(value) if value.isdecimal() else float(value)
            except ValueError:
                raise ValueError(
                    f"the compression is {text!r}, but {part.strip()!r} is not NAME=NUMBER"
                ) from None
        return cls(match[1], parameters)

    def __str__(self) -> str:
        said = ", ".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.name}({said})" if said else self.name

    def of(self, kind: str) -> Compression:
        """The compression of a layer of this kind: conv, linear, …"""
        return _SCHEMES[self.name][1](kind, **self.parameters)


__all__ = [
    "SCHEMES",
    "AdaComp",
    "ChunkTopK",
    "Compression",
    "Contribution",
    "NonFinite",
    "Packet",
    "PacketError",
    "Scheme",
    "Sign",
    "TopK",
    "Uncompressed",
    "Values",
    "mean",
    "unpack",
    "unpack_all",
]
