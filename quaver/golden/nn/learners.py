"""N learners, each with a share of every batch, and what they exchange in place of their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.compression import Scheme
from quaver.golden.nn.layers import Parameter
from quaver.golden.nn.run import Run

Gradients = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Exchange:
    """What the learners sent of one parameter in one step; counts are sums over the learners.

    Attributes
    ----------
    elements
        Elements of the gradients.
    sent
        How many values were sent.
    nbytes
        Bytes that were sent, with everything; uncompressed gradients have 4 an element.
    effective_nbytes
        Bytes as papers count them: those of the values that were sent and of their indices.
    residue, gradient
        Root mean squares of what the learners keep after the step, and of their gradients.
    """

    elements: int
    sent: int
    nbytes: int
    effective_nbytes: int
    residue: float
    gradient: float

    @property
    def rate(self) -> float:
        """How many times fewer bytes than float32 gradients have."""
        return 4 * self.elements / self.nbytes

    @property
    def effective_rate(self) -> float:
        """The same as papers count it; infinite where nothing was sent."""
        return 4 * self.elements / self.effective_nbytes if self.effective_nbytes else inf

    @staticmethod
    def total(parts: Iterable[Exchange]) -> Exchange:
        """Several exchanges as one: sums, and root mean squares over all elements."""
        every = list(parts)
        elements = sum(one.elements for one in every)

        def rms(of: str) -> float:
            return sqrt(sum(one.elements * getattr(one, of) ** 2 for one in every) / max(elements, 1))

        sent, nbytes, effective = (
            sum(getattr(one, of) for one in every) for of in ("sent", "nbytes", "effective_nbytes")
        )
        return Exchange(elements, sent, nbytes, effective, rms("residue"), rms("gradient"))


class Learners:
    """The learners of a run: what each of them keeps of every parameter, and their exchange.

    All learners have the same weights, so that one network computes for all of them in turn. Elements are in
    the order of PyTorch's parameters, a weight's outputs first: bins are cut as `quaver.torch.adacomp_hook`
    cuts them.

    Parameters
    ----------
    count
        How many there are.
    scheme
        What they send.
    parameters
        The network's; a parameter's place among them is the number of its packets' layer.

    Attributes
    ----------
    residues
        Parameter name → (count, elements) float32. Empty if nothing is kept.
    """

    def __init__(self, count: int, scheme: Scheme, parameters: Sequence[Parameter]) -> None:
        self.count = count
        self._layers = {
            p.name: (layer, scheme.of(p.name.partition(".")[0].rstrip("0123456789")))
            for layer, p in enumerate(parameters)
        }
        self._sizes = {p.name: p.value.size for p in parameters}
        self.residues: Gradients = {}
        if scheme.name != "none":
            self.residues = {name: np.zeros((count, size), np.float32) for name, size in self._sizes.items()}

    def average(
        self, gradients: Sequence[Gradients], run: Run
    ) -> tuple[Gradients, Gradients, dict[str, Exchange]]:
        """The average of what the learners send of their gradients, by parameter and in its shape; the new
        residues; and what was exchanged, by the engine of `run`. Nothing here has changed: see
        `residues`."""
        averages, residues, exchanged = {}, {}, {}
        for name, (layer, compression) in self._layers.items():
            flat = [_outputs_first(each[name]).reshape(-1) for each in gradients]
            old = self.residues.get(name, np.zeros((self.count, 0), np.float32))
            sent = [
                run.compress(name, compression, r, g, layer=layer, learner=learner)
                for learner, (r, g) in enumerate(zip(old, flat, strict=True))
            ]
            contributions, kept = [c for c, _ in sent], np.stack([r for _, r in sent])
            shape = gradients[0][name].shape[::-1]
            averages[name] = np.ascontiguousarray(run.mean(name, compression, contributions).reshape(shape).T)
            if self.residues:
                residues[name] = kept
            exchanged[name] = Exchange(
                self.count * self._sizes[name],
                sum(c.sent for c in contributions),
                sum(c.nbytes for c in contributions),
                sum(c.effective_nbytes for c in contributions),
                _rms(kept),
                _rms(np.stack(flat)),
            )
        return averages, residues, exchanged


def _outputs_first(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.T, np.float32)


def _rms(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean())) if values.size else 0.0
