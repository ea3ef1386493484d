"""The weight updates of a recipe as PyTorch optimisers: SGD with momentum, and Adam.

Master weights and momenta live in the recipe's format. They are kept as the float32 values that they mean:
the weights are the parameters themselves, which the optimiser rounds to the format when it is made (and again
before the first step after something else has changed them). On a GPU they stay there.

Update rules, draws and their order are golden's: every parameter with a gradient is one call, in the order in
which the optimiser was given them, of the process's `quaver.torch.seeds`. A parameter (N, …) of two axes or
more draws in the memory order of golden's (K, N), i.e. along its first axis first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quaver.golden.contracts import UpdateRule
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import Format
from quaver.golden.kernels.cuda.engine import computes
from quaver.golden.nn import optimisers
from quaver.golden.nn.checkpoint import differing
from quaver.golden.nn.recipe import LossScale, Recipe
from quaver.golden.nn.settings import Settings
from quaver.torch import on_cuda
from quaver.torch.engine import current
from quaver.torch.functions import format_name
from quaver.torch.functions import round as rounded
from quaver.torch.seeds import SEEDS, Seeds

_Values = np.ndarray[Any, Any]


class Optimiser(torch.optim.Optimizer):
    """What `SGD` and `Adam` share: the recipe's update, its loss scale, and what a step that overflows does.

    ::

        optimiser.zero_grad()
        optimiser.scale(loss).backward()
        optimiser.step()

    `loss_scale` is the factor in force; `step` divides gradients by it. With a gradient that is not finite,
    the step changes no weight, and a dynamic scale is halved; `skipped` counts such steps.
    """

    kind = ""
    #: The names of the momenta in `state`, one tensor each, of the parameter's shape.
    momenta: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Any], recipe: Recipe, **defaults: Any) -> None:
        self.recipe = recipe
        self.loss_scale = recipe.loss_scale.initial
        self.good_steps = 0
        self.skipped = 0
        super().__init__(params, defaults)
        for fmt in self._formats:
            if fmt is not None and fmt.value_dtype is not np.float32:
                raise ValueError(
                    f"the update's format is {fmt}, whose values a float32 parameter does not hold"
                )
        self._check_groups()
        if (weights := self._formats[0]) is not None:
            parameters = [parameter for _, parameter in self._parameters()]
            # First all, then none fails for want of memory: nothing is half rounded.
            on_grid = [rounded(parameter.data, weights) for parameter in parameters]
            for parameter, values in zip(parameters, on_grid, strict=True):
                parameter.data.copy_(values)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """PyTorch's. TypeError: a parameter is not float32."""
        given = param_group["params"]
        param_group["params"] = parameters = [given] if isinstance(given, Tensor) else list(given)
        for each in parameters:
            parameter = each[1] if isinstance(each, tuple) else each  # with its name
            if isinstance(parameter, Tensor) and parameter.dtype != torch.float32:
                raise TypeError(
                    f"a parameter is {parameter.dtype}, but it must be float32, which holds every format's "
                    f"values; make the model float()"
                )
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes: PyTorch's, and what is Quaver's."""
        mine = ("recipe", "loss_scale", "good_steps", "skipped")
        return super().__getstate__() | {name: getattr(self, name) for name in mine}

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the loss scale: what ``backward`` is called on."""
        return loss * self.loss_scale

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update. Interrupted by an error or Ctrl-C, it never was.

        RuntimeError: an overflow, though a dynamic loss scale is at its floor.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        before = SEEDS.state()
        try:
            self._step()
        except BaseException:
            SEEDS.set_state(before)
            raise
        return loss

    @standard_floats
    def _step(self) -> None:
        self._check_groups()
        gradients = [
            (group, parameter, self._gradient(parameter))
            for group, parameter in self._parameters()
            if parameter.grad is not None
        ]
        overflow = not all(_finite(gradient) for _, _, gradient in gradients)
        if overflow:
            self._adapt_loss_scale(overflow)
            self.skipped += 1
            return
        new = [(each[1], *self._updated(*each)) for each in gradients]
        # From here on nothing asks for memory: a step that runs out of it has changed nothing.
        for parameter, weights, momenta, step in new:
            parameter.copy_(weights)
            self.state[parameter] |= {"step": step} | dict(zip(self.momenta, momenta, strict=True))
        self._adapt_loss_scale(overflow)

    def _gradient(self, parameter: Tensor) -> Any:
        """Of the unscaled loss, rounded as what leaves an operation between GEMMs."""
        gradient: Any = parameter.grad
        if gradient.is_sparse:
            raise ValueError("a gradient is sparse, but updates take dense ones; make the embedding dense")
        fmt = self.recipe.elementwise
        if self._on_gpu(parameter):
            plain = gradient.detach().float() / self.loss_scale
            return plain if fmt is None else on_cuda.round(plain, format_name(fmt), "nearest").float()
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = _array(gradient) / self.loss_scale
        return np.asarray(scaled, np.float32) if fmt is None else fmt.round(scaled)

    def _on_gpu(self, parameter: Tensor) -> bool:
        """Whether the update is a CUDA kernel's. One in float32 is computed on the CPU, wherever it lies."""
        return parameter.device.type == "cuda" and self.recipe.update is not None

    def _updated_on_gpu(
        self, group: dict[str, Any], parameter: Tensor, gradient: Tensor, step: int
    ) -> tuple[Tensor, list[Tensor], int]:
        """As `_updated`, and nothing leaves the GPU."""
        state = self.state.get(parameter, {})
        rule, shape = self._rule(group, step), parameter.shape
        formats = [format_name(fmt) for fmt in self._formats if fmt is not None]
        old = [state[name] if name in state else torch.zeros_like(parameter) for name in self.momenta]
        momenta = [_golden_order(each) for each in old]
        values = _golden_order(parameter.detach()), torch.stack(momenta), _golden_order(gradient)
        codes = [on_cuda.encode(x, fmt, "nearest") for x, fmt in zip(values, formats, strict=True)]
        seed = SEEDS.next() if rule.stochastic else None
        results = on_cuda.update(rule, *codes, seed=seed)
        weights, new = (on_cuda.decode(x, fmt) for x, fmt in zip(results, formats, strict=False))
        tensors = [_torch_order(each, shape).to(torch.float32) for each in (weights, *new)]
        return tensors[0], tensors[1:], step

    def _updated(
        self, group: dict[str, Any], parameter: Tensor, gradient: Any
    ) -> tuple[Tensor, list[Tensor], int]:
        """The new weights, momenta and number of updates of one parameter."""
        state = self.state.get(parameter, {})
        step = int(state.get("step", 0)) + 1
        if self._on_gpu(parameter):
            return self._updated_on_gpu(group, parameter, gradient, step)
        weights, gradients = _golden(_array(parameter)), _golden(gradient)
        zeros = np.zeros_like(weights)
        old = [_golden(_array(state[name])) if name in state else zeros for name in self.momenta]
        momenta = old[0] if len(old) == 1 else np.stack(old)
        formats = self._formats
        if self.recipe.update is None:
            rate, decay = float(group["lr"]), float(group["weight_decay"])
            plain = self._settings(group)
            weights, momenta = optimisers.in_float32(plain, weights, momenta, gradients, rate, decay, step)
        else:
            rule = self._rule(group, step)
            codes = [_encode(x, fmt) for x, fmt in zip((weights, momenta, gradients), formats, strict=True)]
            seed = SEEDS.next() if rule.stochastic else None
            results = current().update(rule, *codes, seed=seed)
            weights, momenta = (_decode(x, fmt) for x, fmt in zip(results, formats, strict=False))
        shape = tuple(parameter.shape)
        new = [momenta] if len(self.momenta) == 1 else list(momenta)
        tensors = [_tensor(_torch(each, shape), parameter) for each in (weights, *new)]
        return tensors[0], tensors[1:], step

    def _rule(self, group: dict[str, Any], step: int) -> UpdateRule:
        update: Any = self.recipe.update
        rate, decay = float(group["lr"]), float(group["weight_decay"])
        return optimisers.rule(self._settings(group), update, rate, decay, step)

    def _settings(self, group: dict[str, Any]) -> Settings:
        raise NotImplementedError

    @property
    def _formats(self) -> tuple[Format | None, Format | None, Format | None]:
        """Of weights, momenta and gradients."""
        return (None, None, None) if self.recipe.update is None else self.recipe.update.formats

    def _check_groups(self) -> None:
        """A rate or momentum that no rule takes is an error before anything is done."""
        for group in self.param_groups:
            self._settings(group)
            if not 0 <= group["lr"] < float("inf"):  # warming up, it may begin at 0
                raise ValueError(f"lr is {group['lr']}, but it must be 0 or more, and finite")
            if self.recipe.update is not None:
                rule = self._rule(group, 1)
                if any(map(self._on_gpu, group["params"])):
                    computes(rule)

    def _parameters(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                yield group, parameter

    def _adapt_loss_scale(self, overflow: bool) -> None:
        grow_every = self.recipe.loss_scale.grow_every
        if grow_every is None:
            return
        self.good_steps = 0 if overflow else self.good_steps + 1
        if overflow:
            if self.loss_scale <= LossScale.FLOOR:
                raise RuntimeError(
                    f"a gradient is not finite, though the loss scale has come down to {self.loss_scale:g}, "
                    f"its floor; the run has diverged: go back to an earlier state, or take a smaller "
                    f"learning rate or wider formats"
                )
            self.loss_scale /= 2
        elif self.good_steps == grow_every:
            self.loss_scale *= 2
            self.good_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's, and under "quaver" the recipe, the loss scale and the seeds: a resumed run has the bits
        of one that was never interrupted."""
        return super().state_dict() | {"quaver": self._about() | {"seeds": SEEDS.state()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`, together with the model's; the process's seeds go on too.

        ValueError: it is of another recipe or optimiser; nothing has changed.
        """
        if "quaver" not in state_dict:
            raise ValueError("the state is of another optimiser than Quaver's; begin anew")
        about = dict(state_dict["quaver"])
        changing = ("loss_scale", "good_steps", "skipped", "seeds")
        there = {name: value for name, value in about.items() if name not in changing}
        here = {name: value for name, value in self._about().items() if name not in changing}
        if different := list(differing(there, here)):
            more = f"; and {len(different) - 4} more" if len(different) > 4 else ""
            raise ValueError(
                f"the state is of another run: {'; '.join(different[:4])}{more}; resume with what is there, "
                f"or begin anew"
            )
        try:
            loss_scale, good_steps = float(about["loss_scale"]), int(about["good_steps"])
            skipped, seeds = int(about["skipped"]), Seeds(**about["seeds"]).state()
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the state is damaged ({error}); load another, or begin anew") from None
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "quaver"})
        self.loss_scale, self.good_steps, self.skipped = loss_scale, good_steps, skipped
        SEEDS.set_state(seeds)

    def _about(self) -> dict[str, Any]:
        return {
            "optimiser": self.kind,
            "recipe": json.loads(self.recipe.to_json()),
            "loss_scale": self.loss_scale,
            "good_steps": self.good_steps,
            "skipped": self.skipped,
        }


class SGD(Optimiser):
    """Stochastic gradient descent with momentum (`quaver.golden.update`), in the recipe's format.

    Parameters
    ----------
    params
        As any PyTorch optimiser's: parameters, or groups of them with options of their own.
    recipe
        Its `update`, `elementwise` and `loss_scale` are this optimiser's.
    lr, momentum, weight_decay
        η, μ and λ (L2 regularisation, of every parameter of the group: give biases and normalisations a group
        with 0 where they should have none).
    """

    kind = "sgd"
    momenta = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        recipe: Recipe,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, recipe, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def _settings(self, group: dict[str, Any]) -> Settings:
        return Settings(
            optimiser="sgd", momentum=float(group["momentum"]), weight_decay=float(group["weight_decay"])
        )


class Adam(Optimiser):
    """Adam (`quaver.golden.update.adam`), in the recipe's format.

    Parameters
    ----------
    params, recipe, weight_decay
        As of `SGD`.
    lr, betas
        η and (β₁, β₂). ε is `quaver.golden.update.adam.Adam`'s, 2**−20.
    """

    kind = "adam"
    momenta = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        recipe: Recipe,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, recipe, lr=lr, betas=betas, weight_decay=weight_decay)

    def _settings(self, group: dict[str, Any]) -> Settings:
        first, second = map(float, group["betas"])
        decay = float(group["weight_decay"])
        return Settings(optimiser="adam", momentum=first, second_momentum=second, weight_decay=decay)


def _finite(values: Any) -> bool:
    return bool((torch.isfinite if isinstance(values, Tensor) else np.isfinite)(values).all())


def _array(tensor: Tensor) -> _Values:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)


def _tensor(values: _Values, like: Tensor) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32)).to(like.device)


def _as_matrix(values: Any) -> Any:
    """(N, …) as (N, K), of no elements too."""
    return values.reshape(len(values), prod(values.shape[1:]))


def _golden_order(tensor: Tensor) -> Tensor:
    """A parameter (N, …) in the memory order of golden's (K, N); of its elements alone."""
    return _as_matrix(tensor).T.contiguous() if tensor.ndim > 1 else tensor.contiguous().reshape(-1)


def _torch_order(tensor: Tensor, shape: torch.Size) -> Tensor:
    """And back."""
    return tensor.T.reshape(shape).contiguous() if len(shape) > 1 else tensor.reshape(shape)


def _golden(values: _Values) -> _Values:
    """A parameter (N, …) as golden's (K, N), in memory too."""
    return values.reshape(-1) if values.ndim < 2 else np.ascontiguousarray(_as_matrix(values).T)


def _torch(values: _Values, shape: tuple[int, ...]) -> _Values:
    """And back."""
    return values.T.reshape(shape) if len(shape) > 1 else values.reshape(shape)


def _encode(values: _Values, fmt: Format | None) -> _Values:
    return values if fmt is None else fmt.encode(values)


def _decode(codes: _Values, fmt: Format | None) -> _Values:
    return codes if fmt is None else fmt.decode(codes)
