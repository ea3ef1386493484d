"""What is not numerical about a training run."""

from __future__ import annotations

from dataclasses import dataclass

from quaver.golden.compression import Scheme
from quaver.golden.validation import as_integer, set_integers

#: Optimiser → the learning rate that it starts from unless told otherwise.
OPTIMISERS = {"sgd": 0.05, "adam": 0.001}


@dataclass(frozen=True)
class Settings:
    """What is not numerical about a run.

    Parameters
    ----------
    epochs
        How many times the training images are gone through.
    batch
        Images in a step.
    optimiser
        "sgd", with momentum, or "adam".
    learning_rate
        The step size η of the first epochs. If it is left out, it is the optimiser's in `OPTIMISERS`.
    momentum
        μ of SGD, and β₁ of Adam; 0 … 1, 1 excluded.
    second_momentum
        β₂ of Adam; 0 … 1, 1 excluded. SGD does not use it.
    weight_decay
        λ of L2 regularisation, which is added to the gradients of weights and not to those of biases and
        normalisation.
    decay_at
        After each of these numbers of epochs the learning rate is divided by 10.
    later_at
        After this number of epochs the recipe becomes `Recipe.later`; None: it never does.
    seed
        Where the initial weights, the order of the images and all random bits come from, 1 … 2**32 − 1.
    learners
        How many learners share each batch, 1 … 65,535; the batch is a multiple of it.
    compression
        What they exchange in place of their gradients, as `quaver.golden.compression.Scheme.parse` takes it.

    Raises
    ------
    TypeError
        A number that counts is not an integer.
    ValueError
        A value is out of its range, or there is no such optimiser.
    """

    epochs: int = 10
    batch: int = 32
    optimiser: str = "sgd"
    learning_rate: float = None  # type: ignore[assignment]  # resolved below, so that equal settings are equal
    momentum: float = 0.9
    second_momentum: float = 0.999
    weight_decay: float = 1e-4
    decay_at: tuple[int, ...] = ()
    later_at: int | None = None
    seed: int = 1
    learners: int = 1
    compression: str = "none"

    def __post_init__(self) -> None:
        set_integers(self, "epochs", "batch", "seed", "learners")
        if self.later_at is not None:
            set_integers(self, "later_at")
        object.__setattr__(self, "decay_at", tuple(as_integer(epoch, "decay_at") for epoch in self.decay_at))
        if any(epoch < 1 for epoch in self.decay_at):
            raise ValueError(
                f"decay_at is {self.decay_at}, but the learning rate decays after 1 or more epochs"
            )
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"epochs is {self.epochs} and batch is {self.batch}, but both are at least 1")
        if self.optimiser not in OPTIMISERS:
            known = ", ".join(OPTIMISERS)
            raise ValueError(f"the optimiser is {self.optimiser!r}, but there are {known}")
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", OPTIMISERS[self.optimiser])
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"the learning rate is {self.learning_rate}, but it must be positive and finite")
        for name in ("momentum", "second_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be in 0 … 1, 1 excluded")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"the weight decay is {self.weight_decay}, but it must be 0 or more")
        if self.later_at is not None and self.later_at < 1:
            raise ValueError(f"later_at is {self.later_at}, but it is a number of epochs, 1 or more")
        if not 0 < self.seed < 1 << 32:
            raise ValueError(f"the seed is {self.seed}, but it must be 1 … 2**32 − 1")
        if not 1 <= self.learners < 1 << 16:
            raise ValueError(f"learners is {self.learners}, but there are 1 … 65,535")
        if self.batch % self.learners:
            raise ValueError(
                f"the batch is {self.batch}, but {self.learners} learners take equal shares of it; take a "
                f"multiple"
            )
        object.__setattr__(self, "compression", str(Scheme.parse(self.compression)))

    @property
    def exchanges(self) -> bool:
        """Whether learners exchange anything: there are several, or one that compresses for itself."""
        return self.learners > 1 or self.compression != "none"

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate in this epoch, counted from 0."""
        return self.learning_rate * 0.1 ** sum(epoch >= e for e in self.decay_at)


DEFAULTS = Settings()
