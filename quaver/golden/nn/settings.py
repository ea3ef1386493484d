"""What is not numerical about a training run."""

from __future__ import annotations

from dataclasses import dataclass

from quaver.golden.validation import as_integer, set_integers

#: Optimiser → the learning rate that it starts from unless told otherwise.
OPTIMISERS = {"sgd": 0.05, "adam": 0.001}


@dataclass(frozen=True)
class Settings:
    """What is not numerical about a run.

    `optimiser` is sgd or adam; `momentum` is Adam's β₁ too, `second_momentum` its β₂. The learning rate is
    the optimiser's own (`quaver.golden.nn.optimisers`) when left out. `decay_at`: epochs after which it is a
    tenth of what it was. `later_at`: epochs after which the recipe is `Recipe.later`.
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

    def __post_init__(self) -> None:
        set_integers(self, "epochs", "batch", "later_at", "seed")
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

    def learning_rate_at(self, epoch: int) -> float:
        """What it is in this epoch, counted from 0."""
        return self.learning_rate * 0.1 ** sum(epoch >= e for e in self.decay_at)


DEFAULTS = Settings()
