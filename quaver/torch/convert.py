"""A model of PyTorch's made to compute by a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from quaver.golden.nn.quantisers import Quantiser
from quaver.golden.nn.recipe import Precision, Recipe
from quaver.torch import layers, normalisation
from quaver.torch.attention import MultiheadAttention
from quaver.torch.elementwise import After, Before, Elementwise
from quaver.torch.numerics import check_casts
from quaver.torch.shapes import run_order

#: PyTorch's modules with GEMMs, and what they become.
GEMM_LAYERS: dict[type, type[layers.GemmLayer]] = {
    nn.Linear: layers.Linear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: layers.Linear,
    nn.Conv1d: layers.Conv1d,
    nn.Conv2d: layers.Conv2d,
    nn.MultiheadAttention: MultiheadAttention,
}
NORMALISATIONS: dict[type, type[Any]] = {
    nn.BatchNorm1d: normalisation.BatchNorm1d,
    nn.BatchNorm2d: normalisation.BatchNorm2d,
    nn.BatchNorm3d: normalisation.BatchNorm3d,
}


@dataclass(frozen=True)
class Row:
    """What became of one module.

    Attributes
    ----------
    name
        Its name in the model.
    kind
        Its type.
    converted
        Whether it was.
    why
        What it became, or why it was left.
    """

    name: str
    kind: str
    converted: bool
    why: str


@dataclass
class Conversion:
    """What `convert` did: a row for each module that computes. ``print`` it."""

    recipe: Recipe
    rows: list[Row] = field(default_factory=list)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def converted(self) -> list[Row]:
        return [row for row in self.rows if row.converted]

    @property
    def left(self) -> list[Row]:
        return [row for row in self.rows if not row.converted]

    def __str__(self) -> str:
        head = f"{self.recipe.name}: {len(self.converted)} modules converted, {len(self.left)} left"
        cells = [(row.name, row.kind, "converted" if row.converted else "left", row.why) for row in self.rows]
        widths = [max((len(row[column]) for row in cells), default=0) for column in range(3)]
        lines = [
            "  ".join((*(f"{c:{w}}" for c, w in zip(row, widths, strict=False)), row[3])) for row in cells
        ]
        return "\n".join([head, *lines])


#: Modules that multiply matrices as Quaver does not.
_OTHER_GEMMS = (
    *(nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Bilinear),
    *(nn.RNNBase, nn.RNNCellBase),
)


def convert(
    model: nn.Module, recipe: Recipe, example_input: Tensor | tuple[Any, ...] | None = None
) -> Conversion:
    """Make `model` compute by `recipe`, in place.

    Linear layers, one- and two-dimensional convolutions and multi-head attentions become those of
    `quaver.torch`, with the very parameters and buffers that they had, under the same names: a state_dict of
    the plain model loads. A layer that the recipe has learn to clip its inputs gets a parameter `alpha`
    besides, which the optimiser must be given: make it after the conversion.

    Each computes in ``recipe.precision`` of its name in the model and of its place:
    `recipe.layers` (what a plan gives) names layers so. The first is the first of them in the model and the
    last the last, in the order in which modules were made or, with `example_input`, in which a pass on it
    runs them. Batch normalisations become the golden model's, unless the recipe is all float32.

    While a module of the model runs, what it calls of PyTorch rounds as `quaver.torch.elementwise` says, and
    products of matrices without weights compute in the precision of hidden layers. Loss and optimiser are
    outside: `quaver.torch.cross_entropy`, `quaver.torch.SGD`.

    A model may be converted again, by another recipe.

    Parameters
    ----------
    model
        Any module, in float32.
    recipe
        One of `quaver.recipes`, or a `quaver.Recipe` of your own.
    example_input
        One batch, or a tuple of the arguments of ``model.forward``.

    Returns
    -------
    Conversion
        What became of each module, and why; print it.

    Raises
    ------
    ValueError
        Nothing to convert, a layer of the recipe that the model has not, a layer without weights yet,
        parameters that are not float32, a multi-head attention that the recipe quantises, or a cast in
        blocks, as MX has them. The model is left as it was.
    """
    modules = dict(model.named_modules())
    gemms = {name: _gemm_layer(module) for name, module in modules.items()}
    gemms = {name: kind for name, kind in gemms.items() if kind is not None}
    _check(model, recipe, modules, list(gemms))
    order = list(gemms)
    if example_input is not None:
        inputs = example_input if isinstance(example_input, tuple) else (example_input,)
        order = [name for name in run_order(model, inputs) if name in gemms]

    precisions = {
        name: recipe.precision(name, first=name == order[0], last=name == order[-1]) for name in gemms
    }
    for precision in precisions.values():
        check_casts(recipe, precision)
    for name, module in modules.items():
        quantised = name in gemms and isinstance(precisions[name].inputs, Quantiser)
        if quantised and isinstance(module, nn.MultiheadAttention):
            raise ValueError(
                f"{name or 'the model'} is a multi-head attention, which the recipe {recipe.name} quantises, "
                f"but one α cannot clip queries, keys and values; give it a precision of formats by the "
                f"recipe's layers, such as {{{name!r}: Precision()}}"
            )
    rounds = _rounds(recipe)
    report = Conversion(recipe)
    for name, module in modules.items():
        if name in gemms:
            module.__class__ = gemms[name]
            module.set_precision(recipe, precisions[name])
            place = "last" if name == order[-1] else "first" if name == order[0] else "hidden"
            why = "as named in layers" if name in recipe.layers else place
            report.rows.append(_row(name, module, True, f"{why}: {_described(precisions[name])}"))
        elif (kind := _normalisation(module)) and (rounds or kind is type(module)):
            module.__class__ = kind
            module.set_format(recipe)
            report.rows.append(
                _row(name, module, True, f"wide, rounded once to {recipe.elementwise or 'float32'}")
            )
        elif (reason := _why_left(module, recipe)) is not None:
            report.rows.append(_row(name, module, False, reason))
    _watch(model, recipe)
    return report


def _gemm_layer(module: nn.Module) -> type[layers.GemmLayer] | None:
    """What a module becomes."""
    if isinstance(module, nn.MultiheadAttention) and MultiheadAttention.why_not(module):
        return None
    return type(module) if isinstance(module, layers.GemmLayer) else GEMM_LAYERS.get(type(module))


def _normalisation(module: nn.Module) -> type[Any] | None:
    done = type(module) in NORMALISATIONS.values()
    return type(module) if done else NORMALISATIONS.get(type(module))


def _rounds(recipe: Recipe) -> bool:
    """Whether it is anything but plain float32."""
    return recipe.elementwise is not None or recipe.hidden != Precision()


def _check(model: nn.Module, recipe: Recipe, modules: dict[str, nn.Module], names: list[str]) -> None:
    whole = type(model).__name__
    for name, module in modules.items():
        if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
            raise ValueError(f"{name} of {whole} has no weights yet; run the model once, then convert it")
    if not names:
        raise ValueError(
            f"{whole} has no linear layer, convolution or attention of PyTorch's own, so that there is "
            f"nothing to convert"
        )
    if unknown := sorted(recipe.layers.keys() - set(names)):
        raise ValueError(
            f"the recipe {recipe.name} is for a model with a layer {unknown[0]}, but {whole} has "
            f"{', '.join(names)}"
        )
    for name in names:
        for field_name, parameter in modules[name].named_parameters(recurse=False):
            if parameter.dtype.itemsize != 4:
                raise ValueError(
                    f"{name}.{field_name} is {parameter.dtype}, but parameters are float32, which holds "
                    f"every format's values; convert model.float()"
                )


def _why_left(module: nn.Module, recipe: Recipe) -> str | None:
    """The reason, or None for a module that computes nothing by itself."""
    own = any(True for _ in module.parameters(recurse=False))
    if isinstance(module, nn.MultiheadAttention):
        return f"a GEMM in float32: {MultiheadAttention.why_not(module)}"
    if isinstance(module, _OTHER_GEMMS):
        return "a GEMM in float32: Quaver has none of this kind"
    if isinstance(module, tuple(GEMM_LAYERS)):
        return (
            "a class of its own with a forward of its own; what it calls is in float32 unless a plain product"
        )
    between = (
        f"rounds to {recipe.elementwise} where it computes" if recipe.elementwise else "float32, as it was"
    )
    if isinstance(module, nn.Embedding):
        return "no GEMM: a look-up, exact"
    if own and not type(module).__module__.startswith("torch.nn."):
        return f"parameters of its own, for functions that it calls: {between}"
    leaf = next(module.children(), None) is None
    return f"no GEMM: {between}" if own or leaf else None


def _row(name: str, module: nn.Module, converted: bool, why: str) -> Row:
    return Row(name or "(the model)", type(module).__name__, converted, why)


def _described(precision: Precision) -> str:
    """The formats of its operands and sums: "e5m2sat in e6m9"."""
    gemms = [g for g in (precision.forward, precision.backward, precision.gradient) if g is not None]
    if not gemms:
        return "float32"
    operands = dict.fromkeys(str(f) for g in gemms for f in (g.a, g.b))
    return f"{', '.join(operands)} into {', '.join(dict.fromkeys(str(g.result) for g in gemms))}"


def _watch(model: nn.Module, recipe: Recipe) -> None:
    """Let PyTorch's functions round while a module of the model runs; an earlier recipe's word is gone."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, Before | After)]:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)
    if not _rounds(recipe):
        return
    mode = Elementwise(recipe)
    for module in model.modules():
        opaque = isinstance(module, (layers.Linear, layers.Conv1d, layers.Conv2d))
        if not opaque and _normalisation(module) is None:
            module.register_forward_pre_hook(Before(mode), prepend=True)
            module.register_forward_hook(After(mode), always_call=True)
