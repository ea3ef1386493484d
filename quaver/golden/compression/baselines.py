"""What AdaComp is held against: no compression, top-k, signs, and the largest of each chunk in two bits.

Their packets are counted, and not made: `OVERHEAD` bytes of a header, then what is said of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from quaver.golden.compression.packet import OVERHEAD
from quaver.golden.float_environment import standard_floats
from quaver.golden.validation import set_integers

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Dense:
    """A contribution that is kept as it arrives.

    Attributes
    ----------
    dense
        The layer as it arrives, (length,) float32.
    nbytes, effective_nbytes, sent
        As of `quaver.golden.compression.Contribution`.
    """

    dense: Values
    nbytes: int
    effective_nbytes: int
    sent: int

    @property
    def length(self) -> int:
        """Elements of the layer."""
        return len(self.dense)

    def values(self) -> Values:
        """The layer as it arrives."""
        return self.dense

    @standard_floats
    def add_to(self, out: Values, learners: int) -> None:
        """Add the values over `learners` to `out`."""
        out += self.dense / np.float32(learners)


@standard_floats
def _sum(residue: Values, gradient: Values) -> Values:
    return residue.reshape(-1) + gradient.reshape(-1)


class Uncompressed:
    """All of the gradient in float32, as an all-reduce moves it: 4 bytes an element, no header or residue."""

    def compress(
        self, residue: Values, gradient: Values, *, layer: int = 0, learner: int = 0, step: int = 0
    ) -> tuple[Dense, Values]:
        """The gradient, and the residue as it was."""
        size = gradient.size
        return Dense(gradient.reshape(-1), 4 * size, 4 * size, size), residue


@dataclass(frozen=True)
class TopK:
    """The `share` of G = residue + gradient that is largest, in float32 with 32 bits of index.

    At least one element is sent; of equal ones, the first. ValueError: the share is not above 0, or above 1.
    """

    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"the share is {self.share}, but it must be above 0 and at most 1")

    def compress(
        self, residue: Values, gradient: Values, *, layer: int = 0, learner: int = 0, step: int = 0
    ) -> tuple[Dense, Values]:
        """What is sent, and the rest."""
        kept = _sum(residue, gradient)
        count = ceil(self.share * kept.size)
        chosen = np.argsort(-np.abs(kept), kind="stable")[:count]
        sent = np.zeros_like(kept)
        sent[chosen], kept[chosen] = kept[chosen], 0
        return Dense(sent, OVERHEAD + 8 * count, 8 * count, count), kept.reshape(residue.shape)


@dataclass(frozen=True)
class Sign:
    """The signs of G = residue + gradient times the mean of its magnitudes: a bit an element.

    With error feedback, after Karimireddy et al. 2019 (arXiv 1901.09847). The mean is taken in float64.
    """

    def compress(
        self, residue: Values, gradient: Values, *, layer: int = 0, learner: int = 0, step: int = 0
    ) -> tuple[Dense, Values]:
        """What is sent, and the rest."""
        kept = _sum(residue, gradient)
        scale = np.float32(np.abs(kept).mean(dtype=np.float64)) if kept.size else np.float32(0)
        sent = np.where(np.signbit(kept), -scale, scale)
        size = ceil(kept.size / 8)
        return Dense(sent, OVERHEAD + size, size, kept.size), (kept - sent).reshape(residue.shape)


@dataclass(frozen=True)
class ChunkTopK:
    """The `kept` largest of each chunk of G = decay · residue + gradient, in two bits each.

    After SparseLoCo (arXiv 2508.15706): chunks, and error feedback that decays. Two bits are a sign and one
    of two magnitudes, the means of the chunk's larger and smaller half; the chunk's two magnitudes are sent
    in float32, and an index takes as many bits as the chunk needs. That paper's own choice of magnitudes is
    not followed.

    Parameters
    ----------
    chunk, kept
        Elements of a chunk, and how many of them are sent; a last chunk sends as many if it has them.
    decay
        What the residue is multiplied by before the gradient is added, above 0 and at most 1.

    Raises
    ------
    TypeError, ValueError
        A size that is no integer, or 0, or more kept than there are; a decay out of range.
    """

    chunk: int = 4096
    kept: int = 64
    decay: float = 0.95

    def __post_init__(self) -> None:
        set_integers(self, "chunk", "kept")
        if not 1 <= self.kept <= self.chunk:
            raise ValueError(f"kept is {self.kept}, but of a chunk of {self.chunk} 1 … {self.chunk} are sent")
        if not 0 < self.decay <= 1:
            raise ValueError(f"the decay is {self.decay}, but it must be above 0 and at most 1")

    @standard_floats
    def compress(
        self, residue: Values, gradient: Values, *, layer: int = 0, learner: int = 0, step: int = 0
    ) -> tuple[Dense, Values]:
        """What is sent, and the rest."""
        rest = _sum(np.float32(self.decay) * residue, gradient)
        sent = np.zeros_like(rest)
        count = bits = 0
        for start in range(0, rest.size, self.chunk):
            part, out = rest[start : start + self.chunk], sent[start : start + self.chunk]
            chosen = np.argsort(-np.abs(part), kind="stable")[: self.kept]
            larger = (len(chosen) + 1) // 2
            for half in (chosen[:larger], chosen[larger:]):
                if len(half):
                    magnitude = np.float32(np.abs(part[half]).mean(dtype=np.float64))
                    out[half] = np.copysign(magnitude, part[half])
            count += len(chosen)
            bits += 64 + len(chosen) * (2 + (self.chunk - 1).bit_length())
        size = ceil(bits / 8)
        return Dense(sent, OVERHEAD + size, size, count), (rest - sent).reshape(residue.shape)
