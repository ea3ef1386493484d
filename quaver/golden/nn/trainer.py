"""The training loop: a network, a recipe and an engine, with all of its state in plain sight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.compression import Scheme
from quaver.golden.data import Dataset
from quaver.golden.engine import Engine, GoldenEngine
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import Format
from quaver.golden.nn import optimisers
from quaver.golden.nn.folding import FoldedNetwork
from quaver.golden.nn.layers import GemmLayer
from quaver.golden.nn.learners import Exchange, Gradients, Learners
from quaver.golden.nn.loss import softmax_cross_entropy
from quaver.golden.nn.models import Network
from quaver.golden.nn.recipe import LossScale, Recipe
from quaver.golden.nn.run import Run, Trace
from quaver.golden.nn.settings import DEFAULTS, Settings

#: Images that one evaluation GEMM takes.
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Step:
    """What one training step reports.

    Attributes
    ----------
    epoch, step
        The epoch that the step belongs to, and the step itself; both are counted from 0 over the whole run.
    loss
        Mean cross-entropy over the batch, before the update and without the loss scale.
    accuracy
        Share of the batch that was classified correctly, 0 … 1.
    loss_scale
        The factor that the loss of this step was multiplied by.
    overflows
        How many results of the backward and gradient GEMMs, and how many gradients, were not finite. If there
        were any, the step updated nothing.
    alphas
        Layer → the α that it has learned to clip its inputs at, after the step; empty where none learns.
    exchange
        Parameter name → what the learners exchanged of it; None where there is one learner that sends
        nothing, and in a step that updated nothing.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    loss_scale: float
    overflows: int
    alphas: dict[str, float] = field(default_factory=dict)
    exchange: dict[str, Exchange] | None = None


@dataclass(frozen=True)
class Epoch:
    """What one epoch reports: means over its steps, and how well the test images are classified after it.

    Attributes
    ----------
    epoch
        The epoch, counted from 0.
    step
        How many steps of the run there had been when it ended.
    loss, accuracy
        Means of its steps' losses and accuracies.
    test_loss, test_accuracy
        Mean cross-entropy of the test images, and the share of them classified correctly, 0 … 1.
    overflows
        The sum of its steps' overflows.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float
    overflows: int


class Trainer:
    """One training run: a network, a data set, a recipe and an engine.

    Everything random follows from `settings.seed`: the order of the images from (seed, epoch), the seeds of
    stochastic calls from (seed, number of the call). So the state is `step`, `updates`, `weights`, `momenta`,
    the learners' residues, the layers' running statistics, the loss scale and three sums: `state` and
    `restore` are all that a checkpoint needs.

    Of N learners, the l-th takes the images l, l + N, … of each batch, as PyTorch's DistributedSampler deals
    them out. The first one's running statistics are everybody's.

    Parameters
    ----------
    network
        What is trained, for instance of `quaver.golden.nn.models.build`. Its parameters' values are where
        training starts.
    data
        The training and test images.
    recipe
        All that is numerical: the arithmetic of each GEMM, the formats, the update's rounding.
    settings
        All that is not: epochs, batch, optimiser, learning rate, seed.
    engine
        Who computes the GEMMs and updates; the golden model here unless told otherwise.
    trace
        Called with each `Call` of the engine.

    Attributes
    ----------
    run
        The recipe on the engine, and how many stochastic calls there have been.
    weights, momenta
        Parameter name → master weights, and what the optimiser keeps: codes of the update's formats (FP16 in
        the FP8 recipe), or float32 where the recipe has no update format.
    learners
        Who shares the batches and exchanges gradients, with what each of them keeps; None: there is one, and
        it sends nothing.
    step, updates
        Steps so far, and those of them whose update was applied because nothing overflowed.
    loss_scale, good_steps
        The loss scale, and how many steps in a row went without an overflow since it last changed.
    reported
        Epochs that have been reported.
    sums
        Sums of loss, accuracy and overflows over the steps of this epoch, float64.

    Raises
    ------
    ValueError
        The batch is larger than the data set, `settings.later_at` is set but the recipe has no later one, a
        recipe names a layer that the network does not have, or its update cannot round a scalar.
    """

    @standard_floats
    def __init__(
        self,
        network: Network,
        data: Dataset,
        recipe: Recipe,
        settings: Settings = DEFAULTS,
        *,
        engine: Engine | None = None,
        trace: Trace | None = None,
    ) -> None:
        if settings.batch > len(data.train_labels):
            raise ValueError(
                f"batch is {settings.batch}, but {data.name} has {len(data.train_labels)} training images"
            )
        if settings.later_at is not None and recipe.later is None:
            raise ValueError(
                f"later_at is {settings.later_at}, but the recipe {recipe.name} has no later one"
            )
        layers = [layer.name for layer in network.walk() if isinstance(layer, GemmLayer)]
        for one in (recipe, recipe.later):
            if one is not None and (unknown := one.layers.keys() - layers):
                raise ValueError(
                    f"the recipe {one.name} is for a network with a layer {min(unknown)}, but {network.name} "
                    f"has {', '.join(layers)}"
                )
            if one is not None and one.update is not None:
                for rate in dict.fromkeys(map(settings.learning_rate_at, range(settings.epochs))):
                    optimisers.rule(settings, one.update, rate, settings.weight_decay, 1)
        for layer in network.walk():
            if isinstance(layer, GemmLayer):
                layer.prepare(*(one for one in (recipe, recipe.later) if one is not None))
        self.network, self.data, self.recipe, self.settings = network, data, recipe, settings
        self.run = Run(recipe, engine or GoldenEngine(), seed=settings.seed, trace=trace)
        self.parameters = list(network.all_parameters())
        self.learners: Learners | None = None
        if settings.exchanges:
            self.learners = Learners(settings.learners, Scheme.parse(settings.compression), self.parameters)
        weights, momenta, _ = self._formats
        self.weights = {p.name: _encode(p.value, weights) for p in self.parameters}
        self.momenta = {
            p.name: _encode(optimisers.momenta(settings, p.value), momenta) for p in self.parameters
        }
        self.step = 0
        self.updates = 0
        self.loss_scale = recipe.loss_scale.initial
        self.good_steps = 0
        self.reported = 0
        self.sums = np.zeros(3)
        self._order: tuple[int, NDArray[np.integer]] | None = None
        self._publish()

    @property
    def _formats(self) -> tuple[Format | None, Format | None, Format | None]:
        """Formats of master weights, momenta and gradients; all None where the update is in float32."""
        update = self.run.recipe.update
        return (None, None, None) if update is None else update.formats

    def _recipe_at(self, step: int) -> Recipe:
        later, at = self.recipe.later, self.settings.later_at
        return self.recipe if later is None or at is None or step < at * self.steps_per_epoch else later

    @property
    def recipe_of_weights(self) -> Recipe:
        """The recipe that made these weights, and by which they are evaluated."""
        return self._recipe_at(max(self.step - 1, 0))

    def _enter(self, recipe: Recipe) -> None:
        """Go on with `recipe`: weights and momenta as its formats hold them, and its loss scale."""
        if recipe is self.run.recipe:
            return
        before = self._formats
        self.run.recipe, self.loss_scale = recipe, recipe.loss_scale.initial
        for codes, old, new in zip((self.weights, self.momenta), before, self._formats, strict=False):
            for name, array in codes.items():
                codes[name] = _encode(_decode(array, old), new)
        self._publish()

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch. All batches have the same size: images that the epoch's shuffle leaves over are
        not used in that epoch."""
        return len(self.data.train_labels) // self.settings.batch

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self.steps_per_epoch

    def steps(self) -> Iterator[Step | Epoch]:
        """Train to the end of the last epoch: a `Step` after each step, an `Epoch` after each epoch's last
        one.

        The state is whole at each yield, so that a checkpoint may be taken there.
        """
        while True:
            if self.epoch > self.reported:
                yield self._report()
            elif self.epoch < self.settings.epochs:
                yield self.train_step()
            else:
                return

    @standard_floats
    def train_step(self) -> Step:
        """One step: forward, backward, update. After an error or Ctrl-C the state is that before the step.

        Raises
        ------
        RuntimeError
            Something overflowed although the dynamic loss scale is at its floor.
        """
        before = self.state()
        try:
            return self._train_step()
        except BaseException:
            self.restore(before)
            raise

    @np.errstate(over="ignore", invalid="ignore")  # a run that diverges says so in its metrics
    def _train_step(self) -> Step:
        epoch, index = divmod(self.step, self.steps_per_epoch)
        batch = self._shuffle(epoch)[index * self.settings.batch : (index + 1) * self.settings.batch]
        run = self.run
        run.step, run.overflows, run.first_overflow = self.step, 0, ""
        statistics = [
            (array, array.copy()) for layer in self.network.walk() for array in layer.state().values()
        ]
        count = self.settings.learners
        shares = []
        for learner in range(count):
            shares.append(self._share(batch[learner::count]))
            if learner == 0:
                first = [array.copy() for array, _ in statistics]
            if count > 1:  # all begin with the same statistics, and the first one's stay
                for (array, before), after in zip(statistics, first, strict=True):
                    array[...] = after if learner == count - 1 else before
        gradients = [gradient for gradient, _, _ in shares]
        loss = sum(loss for _, loss, _ in shares) / count
        accuracy = sum(accuracy for _, _, accuracy in shares) / count
        overflows = run.overflows + sum(_not_finite(each) for each in gradients)
        average, exchange = gradients[0], None
        if self.learners and not overflows:
            average, residues, exchange = self.learners.average(gradients, run)
            average = {name: run.round(g) for name, g in average.items()}
            overflows = _not_finite(average)
            if not overflows:
                self.learners.residues = residues
        if overflows:
            exchange = None
            for array, before in statistics:  # an infinity would stay in a running mean for good
                array[...] = before
        else:
            self._update(average, self.settings.learning_rate_at(epoch))
        done = Step(
            *(epoch, self.step, loss, accuracy, self.loss_scale, overflows),
            {
                layer.name: float(layer.alpha.value[0])
                for layer in self.network.walk()
                if isinstance(layer, GemmLayer) and layer.alpha is not None
            },
            exchange,
        )
        self._adapt_loss_scale(overflows)
        self.sums += (loss, done.accuracy, overflows)
        self.step += 1
        self._enter(self._recipe_at(self.step))
        return done

    def _share(self, batch: NDArray[np.integer]) -> tuple[Gradients, float, float]:
        """One learner's gradients of the unscaled loss, its mean loss and its accuracy."""
        images, labels = self.data.standardised(self.data.train_images[batch]), self.data.train_labels[batch]
        run = self.run
        logits = self.network.forward(images, run)
        loss, error = softmax_cross_entropy(logits, labels, self.loss_scale, run)
        self.network.backward(error, run)
        gradients = {p.name: run.round(p.gradient / self.loss_scale) for p in self.parameters}
        return gradients, loss, float(np.mean(logits.argmax(1) == labels))

    @standard_floats
    @np.errstate(over="ignore", invalid="ignore")
    def evaluate(
        self, images: NDArray[np.uint8], labels: NDArray[np.uint8], *, folded: bool = False
    ) -> tuple[float, float]:
        """Mean loss, and accuracy (0 … 1), of `images` (B, C, H, W) uint8 with `labels` (B,) uint8.

        They are computed by the recipe's forward arithmetic and change nothing in the state of the training.
        `folded`: by `quaver.golden.nn.folding.FoldedNetwork`, codes from layer to layer where both are of
        integers.
        """
        run = Run(self.recipe_of_weights, self.run.engine, seed=self.settings.seed, trace=self.run.trace)
        run.step = self.step
        run.training = False
        forward = (
            FoldedNetwork(self.network, run).forward if folded else partial(self.network.forward, run=run)
        )
        loss, correct = 0.0, 0
        for start in range(0, len(labels), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            logits = forward(self.data.standardised(images[part]))
            loss += softmax_cross_entropy(logits, labels[part], 1.0, run)[0] * len(logits)
            correct += int(np.count_nonzero(logits.argmax(1) == labels[part]))
        return loss / len(labels), correct / len(labels)

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of all arrays that make up the run at this moment, by name."""
        named = {f"weights/{name}": codes for name, codes in self.weights.items()}
        named |= {f"momenta/{name}": codes for name, codes in self.momenta.items()}
        if self.learners:
            named |= {f"residues/{name}": kept for name, kept in self.learners.residues.items()}
        named |= {
            f"layer/{layer.name}.{k}": v for layer in self.network.walk() for k, v in layer.state().items()
        }
        counters = (self.step, self.updates, self.reported, self.good_steps, self.run.calls)
        named |= {"counters": np.array(counters), "sums": self.sums, "loss_scale": np.array(self.loss_scale)}
        return {name: array.copy() for name, array in named.items()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from a `state`.

        Raises
        ------
        ValueError
            The state is that of another network or recipe; the trainer is untouched then.
        """
        before = self.run.recipe, self.loss_scale, self.weights, self.momenta
        self.weights, self.momenta = dict(self.weights), dict(self.momenta)
        self._enter(self._recipe_at(int(state["counters"][0]) if "counters" in state else 0))
        for name, array in self.state().items():
            if name not in state or state[name].shape != array.shape or state[name].dtype != array.dtype:
                self.run.recipe, self.loss_scale, self.weights, self.momenta = before
                self._publish()
                found = f"{state[name].dtype} {state[name].shape}" if name in state else "nothing"
                raise ValueError(
                    f"the state holds {found} for {name}, but here it is {array.dtype} {array.shape}"
                )
        self.weights = {name: state[f"weights/{name}"].copy() for name in self.weights}
        self.momenta = {name: state[f"momenta/{name}"].copy() for name in self.momenta}
        if self.learners:
            residues = self.learners.residues
            self.learners.residues = {name: state[f"residues/{name}"].copy() for name in residues}
        for layer in self.network.walk():
            for name, array in layer.state().items():
                array[...] = state[f"layer/{layer.name}.{name}"]
        counters = map(int, state["counters"])
        self.step, self.updates, self.reported, self.good_steps, self.run.calls = counters
        self.sums = state["sums"].copy()
        self.loss_scale = float(state["loss_scale"])
        self._publish()

    def _report(self) -> Epoch:
        loss, accuracy, overflows = self.sums.tolist()
        test_loss, test_accuracy = self.evaluate(self.data.test_images, self.data.test_labels)
        steps = self.steps_per_epoch
        self.sums = np.zeros(3)
        self.reported = self.epoch
        return Epoch(
            self.epoch - 1,
            self.step,
            loss / steps,
            accuracy / steps,
            test_loss,
            test_accuracy,
            int(overflows),
        )

    def _shuffle(self, epoch: int) -> NDArray[np.integer]:
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.settings.seed, 1, epoch])
            self._order = epoch, rng.permutation(len(self.data.train_labels))
        return self._order[1]

    def _update(self, gradients: dict[str, NDArray[Any]], learning_rate: float) -> None:
        self.updates += 1
        precision, rules = self.run.recipe.update, {}
        resting = {
            layer.alpha.name
            for layer in self.network.walk()
            if isinstance(layer, GemmLayer) and layer.alpha is not None and not layer.learns_alpha(self.run)
        }
        for p in self.parameters:
            if p.name in resting:
                continue
            weights, momenta, gradient = self.weights[p.name], self.momenta[p.name], gradients[p.name]
            scalars = learning_rate, self.settings.weight_decay if p.decay else 0.0, self.updates
            if precision is None:
                plain = optimisers.in_float32(self.settings, weights, momenta, gradient, *scalars)
                self.weights[p.name], self.momenta[p.name] = plain
            else:
                if p.decay not in rules:
                    rules[p.decay] = optimisers.rule(self.settings, precision, *scalars)
                gradient = self.run.casts.encode(precision.formats[2], gradient)
                rounded = self.run.update(p.name, rules[p.decay], weights, momenta, gradient)
                self.weights[p.name], self.momenta[p.name] = rounded
        self._publish()

    def _adapt_loss_scale(self, overflows: int) -> None:
        grow_every = self.run.recipe.loss_scale.grow_every
        if grow_every is None:
            return
        self.good_steps = 0 if overflows else self.good_steps + 1
        if overflows:
            if self.loss_scale <= LossScale.FLOOR:
                first = self.run.first_overflow or "division by the loss scale"
                raise RuntimeError(
                    f"step {self.step}: the {first} is not finite, though the loss scale has come down to "
                    f"{self.loss_scale:g}, its floor; the run has diverged: go back to an earlier state, or "
                    f"take a smaller learning rate or wider formats"
                )
            self.loss_scale /= 2
        elif self.good_steps == grow_every:
            self.loss_scale *= 2
            self.good_steps = 0

    def _publish(self) -> None:
        """Let the layers see the master weights."""
        for p in self.parameters:
            p.value = _decode(self.weights[p.name], self._formats[0])


def _not_finite(gradients: Gradients) -> int:
    return sum(int(np.count_nonzero(~np.isfinite(g))) for g in gradients.values())


def _encode(values: NDArray[Any], fmt: Format | None) -> NDArray[Any]:
    return np.asarray(values, np.float32) if fmt is None else fmt.encode(values)


def _decode(codes: NDArray[Any], fmt: Format | None) -> NDArray[Any]:
    return codes if fmt is None else fmt.decode(codes)
