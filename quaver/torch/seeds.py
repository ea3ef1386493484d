"""The seeds of stochastic calls, and so every random bit of a training run in PyTorch.

As in `quaver.golden.nn.run`: the n-th stochastic GEMM or update since `manual_seed(seed)` draws from
``numbered_seed(seed, n)``, in the order in which a program makes its calls. Layers that are not training
count their calls apart, so that an evaluation leaves no trace in the training that goes on. PyTorch's own
generators have no part in it. An optimiser's state_dict carries the seed and the counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass

from quaver.golden.lfsr import numbered_seed
from quaver.golden.validation import as_integer


@dataclass
class Seeds:
    """A seed, 1 … 2**32 − 1, and how many stochastic calls there were, in training and in evaluation."""

    seed: int = 1
    calls: int = 0
    evaluations: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "calls", "evaluations"):
            setattr(self, name, as_integer(getattr(self, name), name))
        if not 0 < self.seed < 1 << 32:
            raise ValueError(f"seed is {self.seed}, but it must be 1 … 2**32 − 1")

    def next(self, *, training: bool = True) -> int:
        """The next call's seed."""
        if training:
            self.calls += 1
            return numbered_seed(self.seed, self.calls)
        self.evaluations += 1
        return numbered_seed(self.seed, self.evaluations)

    def state(self) -> dict[str, int]:
        """What `set_state` takes."""
        return asdict(self)

    def set_state(self, state: dict[str, int]) -> None:
        """Go on from a `state`."""
        for name, value in asdict(Seeds(**state)).items():
            setattr(self, name, value)


#: The process's.
SEEDS = Seeds()


def manual_seed(seed: int) -> None:
    """Begin anew with `seed`, 1 … 2**32 − 1, as ``torch.manual_seed`` does for PyTorch's own numbers."""
    SEEDS.set_state(Seeds(seed).state())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Begin anew with `seed` inside, and go on afterwards as if nothing had been drawn."""
    before = SEEDS.state()
    manual_seed(seed)
    try:
        yield
    finally:
        SEEDS.set_state(before)


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What ``torch.utils.checkpoint.checkpoint`` takes as `context_fn`, so that a part of a model that is
    computed again in the backward pass draws what it drew, and the calls after it go on as without one::

        checkpoint(block, x, use_reentrant=False, context_fn=quaver.torch.checkpoint_contexts)
    """
    first: dict[str, int] = {}

    @contextmanager
    def computing() -> Iterator[None]:
        first.update(SEEDS.state())
        yield

    @contextmanager
    def computing_again() -> Iterator[None]:
        before = SEEDS.state()
        SEEDS.set_state(first)
        try:
            yield
        finally:
            SEEDS.set_state(before)

    return computing(), computing_again()
