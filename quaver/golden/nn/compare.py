"""The comparison: the same training on two engines, every code of every GEMM and update held against the
other's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.engine import Engine
from quaver.golden.nn.run import Call, Trace
from quaver.golden.nn.trainer import Step, Trainer

#: Role of a call that is no GEMM → what its results are.
RESULTS = {
    "update": ("weights", "momenta"),
    "compress": ("packet", "residues"),
    "average": ("average",),
}


@dataclass(frozen=True)
class Mismatch:
    """The first place where two engines differ.

    Attributes
    ----------
    step
        The training step, counted from 0.
    layer, role
        Layer and role of the GEMM, or parameter name and "update"; of a missing call, those of the first call
        that one engine was not given.
    what
        What differs: "C" of a GEMM, "weights" or "momenta" of an update or of the state after the step,
        "packet", "residues" or "average" of a compression, or the size of one of these, "loss", or "calls":
        how many calls the step made of each engine.
    index
        Where in the array; empty where there is none.
    left, right
        The two codes, losses or numbers of calls.
    """

    step: int
    layer: str
    role: str
    what: str
    index: tuple[int, ...]
    left: int | float
    right: int | float

    def __str__(self) -> str:
        def shown(code: int | float) -> str:
            return f"{code:#06x}" if self.index and isinstance(code, int) else repr(code)

        where = f"{self.what}[{', '.join(map(str, self.index))}]" if self.index else self.what
        place = f"step {self.step}, {self.layer} {self.role}".rstrip()
        return f"{place}, {where}: {shown(self.left)} on the left, {shown(self.right)} on the right"


@dataclass
class Tally:
    """What was compared for one layer, role and shape.

    Attributes
    ----------
    layer, role
        As a `Call` has them.
    shape
        M, K and N of the GEMM, or the number of elements of the update or of the compression.
    calls, codes, mismatches
        How many calls there were, how many codes of their results were compared, and how many differed.
    """

    layer: str
    role: str
    shape: tuple[int, ...]
    calls: int = 0
    codes: int = 0
    mismatches: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all calls; 0 for updates."""
        return self.calls * int(np.prod(self.shape)) if len(self.shape) == 3 else 0


@dataclass
class Comparison:
    """What was compared, and the first mismatch if there is one.

    Attributes
    ----------
    steps, images
        Training steps and test images that both engines computed.
    tallies
        One for each layer, role and shape, in the order of their first calls.
    first
        The first mismatch; None: everything was equal.
    """

    steps: int = 0
    images: int = 0
    tallies: list[Tally] = field(default_factory=list)
    first: Mismatch | None = None

    @property
    def equal(self) -> bool:
        """Whether every code of every call, and loss, weights and momenta after every step, were the same."""
        return self.first is None

    @property
    def codes(self) -> int:
        """Codes compared."""
        return sum(tally.codes for tally in self.tallies)

    @property
    def mismatches(self) -> int:
        """Codes that differed."""
        return sum(tally.mismatches for tally in self.tallies)


def compare(
    make: Callable[[Engine, Trace], Trainer],
    left: Engine,
    right: Engine,
    *,
    steps: int = 1,
    images: int = 0,
    folded: bool = False,
    progress: Callable[[Step], None] | None = None,
) -> Comparison:
    """Classify `images` test images, then train `steps` steps, on both engines, in lockstep.

    Parameters
    ----------
    make
        Gives a trainer on an engine with a trace; called twice, it must give the same trainer twice (the same
        network, seed and, for a trained network, the same restored state).
    left, right
        The engines; `left` is usually golden.
    steps
        Training steps to compare.
    images
        Test images to classify before.
    folded
        Classify them by the network with its normalisation folded, as `Trainer.evaluate` does.
    progress
        Called with each step's report from the left engine.

    Returns
    -------
    Comparison
        It ends with the step in which the first mismatch lies: everything later follows from that.

    Raises
    ------
    ValueError
        The recipe calls no engine (all float32): there would be nothing to compare.
    """
    calls: tuple[list[Call], list[Call]] = ([], [])
    trainers = make(left, calls[0].append), make(right, calls[1].append)
    comparison = Comparison()
    tallies: dict[tuple[str, str, tuple[int, ...]], Tally] = {}

    def settle(step: int, losses: list[float]) -> None:
        for one, other in zip(*calls, strict=False):
            hold(one, other, tallies, comparison)
        counts = len(calls[0]), len(calls[1])
        if counts[0] != counts[1] and comparison.first is None:
            extra = max(calls, key=len)[min(counts)]
            comparison.first = Mismatch(step, extra.layer, extra.role, "calls", (), *counts)
        for mine in calls:
            mine.clear()
        if comparison.first is None and losses[0] != losses[1] and not np.isnan(losses).all():
            comparison.first = Mismatch(step, "loss", "", "loss", (), *losses)

    def check_called() -> None:
        if not calls[0]:
            raise ValueError(
                f"the recipe {trainers[0].recipe.name} calls no engine, so that there is nothing to compare; "
                "take fp8"
            )

    data = trainers[0].data
    if images:
        test = data.test_images[:images], data.test_labels[:images]
        losses = [trainer.evaluate(*test, folded=folded)[0] for trainer in trainers]
        if not steps:
            check_called()
        settle(trainers[0].step, losses)
        comparison.images = len(test[1])
    while comparison.steps < steps and comparison.equal:
        done = [trainer.train_step() for trainer in trainers]
        check_called()
        settle(done[0].step, [step.loss for step in done])
        comparison.steps += 1
        states = [
            {
                "weights": trainer.weights,
                "momenta": trainer.momenta,
                "residues": trainer.learners.residues if trainer.learners else {},
            }
            for trainer in trainers
        ]
        for what, arrays in states[0].items():
            for name, codes in arrays.items():
                if comparison.first is None:
                    other = states[1][what][name]
                    comparison.first = _first(done[0].step, name, "state", what, codes, other)
        if progress is not None:
            progress(done[0])
    comparison.tallies = list(tallies.values())
    return comparison


def hold(
    left: Call, right: Call, tallies: dict[tuple[str, str, tuple[int, ...]], Tally], comparison: Comparison
) -> None:
    """Hold one call against the other engine's: its codes into `tallies`, the first mismatch into
    `comparison`."""
    whats = RESULTS.get(left.role, ("C",))
    gemm = left.role not in RESULTS
    a, b = left.operands[0], left.operands[-1]
    shape: tuple[int, ...] = (a.shape[0], *b.shape) if gemm else (left.results[-1].size,)
    tally = tallies.setdefault((left.layer, left.role, shape), Tally(left.layer, left.role, shape))
    tally.calls += 1
    for what, mine, other in zip(whats, left.results, right.results, strict=True):
        tally.codes += mine.size
        if not np.array_equal(mine, other):
            if comparison.first is None:
                comparison.first = _first(left.step, left.layer, left.role, what, mine, other)
            alike = mine.shape == other.shape
            tally.mismatches += int(np.count_nonzero(mine != other)) if alike else mine.size


def _first(
    step: int, layer: str, role: str, what: str, left: NDArray[Any], right: NDArray[Any]
) -> Mismatch | None:
    if left.shape != right.shape:
        return Mismatch(step, layer, role, f"size of {what}", (), left.size, right.size)
    bits = f"u{left.dtype.itemsize}"  # float32 weights too are compared by their bits
    differ = np.argwhere(left.view(bits) != right.view(bits))
    if not len(differ):
        return None
    index = tuple(int(i) for i in differ[0])
    return Mismatch(step, layer, role, what, index, left[index].item(), right[index].item())
