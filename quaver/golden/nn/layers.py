"""Layers with one or more GEMMs, and what lies between them.

A layer turns values into values: `forward` keeps what `backward` needs, `backward` takes the error of the
output, leaves gradients in the layer's parameters and returns the error of the input. Every GEMM goes through
`Run.gemm`; everything else computes widely and leaves through `Run.round`: FP16, nearest, in the FP8 recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
from numpy.typing import NDArray

from quaver.golden import kernels
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import BlockFormat
from quaver.golden.nn.quantisers import Clip, Quantised, Quantiser
from quaver.golden.nn.recipe import Precision, Recipe, Role
from quaver.golden.nn.run import Run, Values
from quaver.golden.requantisation import Requantisation


class Parameter:
    """A weight, bias, scale or shift.

    Parameters
    ----------
    value
        The initial value, any shape; kept in float32. While a trainer trains it, the trainer keeps the master
        copy and this is its value.
    decay
        Whether L2 regularisation applies: to weights, but not to biases and normalisation.

    Attributes
    ----------
    name
        The layer's name and its own, such as conv1.weight; a `Network` gives it.
    gradient
        What the latest `backward` left, in the shape of `value`.
    """

    def __init__(self, value: Values, *, decay: bool) -> None:
        self.name = ""
        self.value = np.asarray(value, dtype=np.float32)
        self.gradient: Values = np.zeros_like(self.value)
        self.decay = decay


class Layer:
    """The base of all layers: no parameters, no inner layers."""

    kind = ""
    """The word that a `Network` makes its name of (conv → conv1); empty if it has no parameters."""
    name = ""

    def inner(self) -> tuple[Layer, ...]:
        """Layers that this one is made of, in the order in which they run."""
        return ()

    def parameters(self) -> dict[str, Parameter]:
        """This layer's own parameters."""
        return {}

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Arrays that training changes besides parameters, such as running statistics: not copies."""
        return {}

    def walk(self) -> Iterator[Layer]:
        """This layer and all inside it."""
        yield self
        for layer in self.inner():
            yield from layer.walk()

    def forward(self, x: Values, run: Run) -> Values:
        """The output for input `x`."""
        raise NotImplementedError

    def backward(self, error: Values, run: Run) -> Values:
        """The error of the input, from that of the output of the latest `forward`."""
        raise NotImplementedError


class GemmLayer(Layer):
    """A layer whose weight meets the engine. `first` and `last` say where it stands among these."""

    first = False
    last = False

    def __init__(self, weight: Values, bias: bool) -> None:
        """`weight` is (K, N) float32; `he` draws it with variance 2/K."""
        self.weight = Parameter(weight, decay=True)
        self.bias = Parameter(np.zeros(weight.shape[1]), decay=False) if bias else None
        self.alpha: Parameter | None = None  # where a recipe has the layer learn to clip its inputs
        self._quantised: dict[str, Values | Quantised] = {}
        self._operands: dict[tuple[object, ...], NDArray] = {}  # of the latest `product` and `backward`

    def parameters(self) -> dict[str, Parameter]:
        optional = {"bias": self.bias, "alpha": self.alpha}
        return {"weight": self.weight} | {name: p for name, p in optional.items() if p is not None}

    def precision(self, run: Run) -> Precision:
        return run.recipe.precision(self.name, first=self.first, last=self.last)

    def prepare(self, *recipes: Recipe) -> None:
        """Has the parameter alpha if any of these recipes has the layer learn it, anew, and else has none."""
        found = [recipe.precision(self.name, first=self.first, last=self.last).inputs for recipe in recipes]
        learned = [clip for clip in found if isinstance(clip, Clip) and clip.learned]
        self.alpha = Parameter(np.array([learned[0].alpha]), decay=True) if learned else None
        if self.alpha is not None:
            self.alpha.name = f"{self.name}.alpha"

    def learns_alpha(self, run: Run) -> bool:
        """Whether the recipe in force has the layer learn alpha: of two recipes of one run, one may not."""
        clip = self.precision(run).inputs
        return self.alpha is not None and isinstance(clip, Clip) and clip.learned

    def product(
        self,
        inputs: Values | Quantised,
        weights: Values | Quantised,
        run: Run,
        requantisation: Requantisation | None = None,
    ) -> Values:
        """The forward GEMM alone, of inputs and weights as they are or quantised: integers where both are,
        for the scales of both are not in it; or the codes that a requantisation makes of them."""
        raise NotImplementedError

    def scaled(
        self, sums: Values, run: Run, inputs: Values | Quantised, weights: Values | Quantised
    ) -> Values:
        """The results of `product`, of these inputs and weights, as values."""
        return _scaled(sums, self._worth(self.precision(run), Role.FORWARD, inputs, weights))

    def _quantise(self, x: Values, run: Run) -> tuple[Values | Quantised, Values | Quantised]:
        """Inputs and weights, quantised where they are to be."""
        p = self.precision(run)
        for tensor, values in (("inputs", x), ("weights", self.weight.value)):
            quantiser = getattr(p, tensor)
            quantised = isinstance(quantiser, Quantiser)
            self._quantised[tensor] = quantiser.quantise(values, self._alpha) if quantised else values
        return self._quantised["inputs"], self._quantised["weights"]

    def _quantise_error(self, error: Values, p: Precision) -> Values | Quantised:
        return p.errors.quantise(error, 0.0) if isinstance(p.errors, Quantiser) else error

    def _worth(self, p: Precision, role: Role, *operands: Values | Quantised) -> float:
        """What 1 in the results of a role's GEMM of these is worth."""
        scales = (each.scale for each in operands if isinstance(each, Quantised))
        return prod(scales) if p.is_scaled(role) else 1.0

    def _operand(
        self, values: Values | Quantised, p: Precision, role: Role, tensor: str, run: Run
    ) -> NDArray:
        """`Run.operand` of this layer's tensor, made once where two of the GEMMs take the same one."""
        apart = isinstance(values, Quantised) or isinstance(getattr(p, tensor), BlockFormat)
        key = tensor, p.operand(role, tensor), role if apart else None
        if key not in self._operands:
            self._operands[key] = run.operand(values, p, role, tensor)
        return self._operands[key]

    def _forget_errors(self) -> None:
        """A backward pass begins: the operands of the one before are no longer those of its errors."""
        self._operands = {key: made for key, made in self._operands.items() if key[0] != "errors"}

    @property
    def _alpha(self) -> float:
        return 0.0 if self.alpha is None else float(self.alpha.value[0])

    def _through_weights(self, gradient: Values, p: Precision) -> Values:
        """The gradient of the weights, from that of what the GEMMs took for them."""
        if not isinstance(p.weights, Quantiser):
            return gradient
        return p.weights.backward(self.weight.value, gradient, 0.0)[0]

    def _through_inputs(self, x: Values, error: Values, p: Precision, run: Run) -> Values:
        """The error of the inputs, from that of what the GEMMs took for them; leaves alpha's gradient."""
        if not isinstance(p.inputs, Clip):
            if self.alpha is not None:  # what another recipe has left is no gradient of this step
                self.alpha.gradient = np.zeros_like(self.alpha.value)
            return error
        error, gradient = p.inputs.backward(x, error, self._alpha)
        if self.alpha is not None:
            self.alpha.gradient = run.round(np.array([gradient]))
        return error

    @property
    def _stops(self) -> bool:
        """Whether nothing learns from the error of the inputs."""
        return self.first and self.alpha is None

    def _bias_gradient(self, error: Values, axes: tuple[int, ...], run: Run) -> None:
        """The bias's gradient: the sum of `error` over `axes` in float64, rounded once. In hardware it would
        be N adders beside the array."""
        if self.bias:
            with np.errstate(invalid="ignore"):  # ∞ − ∞: the trainer counts it
                self.bias.gradient = run.round(error.sum(axis=axes, dtype=np.float64))


def _scaled(sums: Values, scale: float) -> Values:
    """Integer sums times the scales of both operands: one multiplication, rounded once to float32."""
    return sums if scale == 1.0 else (sums.astype(np.float64) * scale).astype(np.float32)


def he(rng: np.random.Generator, fan_in: int, fan_out: int) -> Values:
    """Normal weights of variance 2/fan_in (He et al. 2015, arXiv 1502.01852), float32 (fan_in, fan_out)."""
    return (rng.standard_normal((fan_in, fan_out)) * np.sqrt(2 / fan_in)).astype(np.float32)


class Linear(GemmLayer):
    """A linear layer, y = x·W + b: (B, inputs) → (B, outputs).

    Parameters
    ----------
    inputs, outputs
        Values that enter and leave for each image.
    rng
        Draws the weights, see `he`.
    bias
        Whether there is a b.
    """

    kind = "linear"

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, *, bias: bool = True) -> None:
        super().__init__(he(rng, inputs, outputs), bias)
        self.inputs = inputs

    def forward(self, x: Values, run: Run) -> Values:
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise ValueError(f"{self.name} takes (batch, {self.inputs}), not {x.shape}")
        self._x = x
        operands = self._quantise(x, run)
        y = self.scaled(self.product(*operands, run), run, *operands)
        return run.round(y + self.bias.value) if self.bias else y

    def product(
        self,
        inputs: Values | Quantised,
        weights: Values | Quantised,
        run: Run,
        requantisation: Requantisation | None = None,
    ) -> Values:
        p = self.precision(run)
        self._operands.clear()
        weight = self._operand(weights, p, Role.FORWARD, "weights", run)
        inputs = self._operand(inputs, p, Role.FORWARD, "inputs", run)
        return run.gemm(self.name, Role.FORWARD, p, inputs, weight, requantisation=requantisation)

    def backward(self, error: Values, run: Run) -> Values:
        p, given = self.precision(run), self._quantised
        quantised = self._quantise_error(error, p)
        self._forget_errors()
        inputs = self._operand(given["inputs"], p, Role.GRADIENT, "inputs", run)
        errors = self._operand(quantised, p, Role.GRADIENT, "errors", run)
        gradient = run.gemm(self.name, Role.GRADIENT, p, inputs.T, errors)
        gradient = _scaled(gradient, self._worth(p, Role.GRADIENT, given["inputs"], quantised))
        self.weight.gradient = self._through_weights(gradient, p)
        self._bias_gradient(error, (0,), run)
        if self._stops:
            return np.zeros_like(self._x)
        weight = self._operand(given["weights"], p, Role.BACKWARD, "weights", run)
        errors = self._operand(quantised, p, Role.BACKWARD, "errors", run)
        dx = run.gemm(self.name, Role.BACKWARD, p, errors, weight.T)
        dx = _scaled(dx, self._worth(p, Role.BACKWARD, quantised, given["weights"]))
        return self._through_inputs(self._x, dx, p, run)


class Conv2d(GemmLayer):
    """A square convolution: (B, C, H, W) → (B, O, H', W'), H' = (H + 2·padding − size)//stride + 1.

    Each GEMM multiplies a matrix with columns, what the kernel sees at each of an image's pixels (im2col)::

        forward   (O, C·size²) · (C·size², P)     P = B·H'·W', pixels in the order (b, y, x)
        gradient  (C·size², P) · (P, O)
        backward  (C, O·size²) · (O·size², Q)     Q = B·H·W: kernel mirrored, errors spread by the stride

    So every sum is one accumulation of the arithmetic, and k runs over (channel, y, x) of the kernel.

    Parameters
    ----------
    inputs, outputs
        Channels C and O.
    size
        Height and width of the kernel.
    rng
        Draws the weights, see `he`.
    stride
        Pixels from one position of the kernel to the next, in both directions.
    padding
        Zeros at each edge of the image.
    bias
        Whether each output channel has one.
    """

    kind = "conv"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        rng: np.random.Generator,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__(he(rng, inputs * size * size, outputs), bias)
        self.inputs, self.outputs, self.size = inputs, outputs, size
        self.stride, self.padding = stride, padding

    def forward(self, x: Values, run: Run) -> Values:
        if x.ndim != 4 or x.shape[1] != self.inputs:
            raise ValueError(f"{self.name} takes (batch, {self.inputs}, height, width), not {x.shape}")
        self._x = x
        operands = self._quantise(x, run)
        y = self.scaled(self.product(*operands, run), run, *operands)
        return run.round(y + self.bias.value[:, None, None]) if self.bias else y

    def product(
        self,
        inputs: Values | Quantised,
        weights: Values | Quantised,
        run: Run,
        requantisation: Requantisation | None = None,
    ) -> Values:
        p = self.precision(run)
        self._operands.clear()
        operand = self._operand(inputs, p, Role.FORWARD, "inputs", run)
        columns = _columns(operand, self.size, self.stride, self.padding)
        weight = self._operand(weights, p, Role.FORWARD, "weights", run)
        seen = columns.reshape(len(weight), -1)
        y = run.gemm(
            self.name, Role.FORWARD, p, weight.T, seen, exchanged=True, requantisation=requantisation
        )
        return np.ascontiguousarray(y.reshape(self.outputs, *columns.shape[3:]).swapaxes(0, 1))

    def backward(self, error: Values, run: Run) -> Values:
        p, given = self.precision(run), self._quantised
        quantised = self._quantise_error(error, p)
        self._forget_errors()
        inputs = self._operand(given["inputs"], p, Role.GRADIENT, "inputs", run)
        columns = _columns(inputs, self.size, self.stride, self.padding)
        errors = self._operand(quantised, p, Role.GRADIENT, "errors", run)
        errors = errors.transpose(0, 2, 3, 1).reshape(-1, self.outputs)
        gradient = run.gemm(self.name, Role.GRADIENT, p, columns.reshape(-1, len(errors)), errors)
        gradient = _scaled(gradient, self._worth(p, Role.GRADIENT, given["inputs"], quantised))
        self.weight.gradient = self._through_weights(gradient, p)
        self._bias_gradient(error, (0, 2, 3), run)
        if self._stops:
            return np.zeros_like(self._x)
        kernel = self._operand(given["weights"], p, Role.BACKWARD, "weights", run)
        kernel = kernel.reshape(self.inputs, self.size, self.size, self.outputs)[:, ::-1, ::-1]
        kernel = kernel.transpose(0, 3, 1, 2).reshape(self.inputs, -1)
        spread = self._spread(self._operand(quantised, p, Role.BACKWARD, "errors", run))
        columns = _columns(spread, self.size, 1, 0)
        dx = run.gemm(
            self.name, Role.BACKWARD, p, kernel, columns.reshape(kernel.shape[1], -1), exchanged=True
        )
        dx = np.ascontiguousarray(dx.reshape(self.inputs, *columns.shape[3:]).swapaxes(0, 1))
        dx = _scaled(dx, self._worth(p, Role.BACKWARD, quantised, given["weights"]))
        return self._through_inputs(self._x, dx, p, run)

    def _spread(self, errors: NDArray) -> NDArray:
        """(B, O, H', W') → (B, O, H + size − 1, W + size − 1), zeros between: for the mirrored kernel."""
        height, width = (n + self.size - 1 for n in self._x.shape[2:])
        spread = np.zeros((*errors.shape[:2], height, width), errors.dtype)
        # The input's row i met the output's row o through the kernel's row i + padding − stride·o.
        margin = self.size - 1 - self.padding
        rows, columns = (margin + self.stride * np.arange(n) for n in errors.shape[2:])
        inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        errors = errors[:, :, inside[0]][:, :, :, inside[1]]
        spread[:, :, rows[inside[0]][:, None], columns[inside[1]]] = errors
        return spread


def _columns(x: NDArray, size: int, stride: int, padding: int) -> NDArray:
    """(B, C, H, W) → (C, size, size, B, H', W'): im2col, padded with zeros (code 0 is +0)."""
    if padding:
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    x = x.swapaxes(0, 1)
    height, width = ((n - size) // stride + 1 for n in x.shape[2:])
    columns = np.empty((x.shape[0], size, size, x.shape[1], height, width), x.dtype)
    for i, j in np.ndindex(size, size):
        columns[:, i, j] = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
    return columns


class ReLU(Layer):
    """max(x, 0), exact in any format; NaN stays NaN, so that a run which has diverged shows it."""

    def forward(self, x: Values, run: Run) -> Values:
        self._y = self._where_positive(x, x)
        return self._y

    def backward(self, error: Values, run: Run) -> Values:
        return self._where_positive(self._y, error)

    @staticmethod
    def _where_positive(test: Values, values: Values) -> Values:
        out = np.empty_like(values, order="C")
        kernels.maps.where_positive(test.reshape(-1), values.reshape(-1), out.reshape(-1))
        return out


class Flatten(Layer):
    """(B, …) → (B, product of the rest)."""

    def forward(self, x: Values, run: Run) -> Values:
        self._shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, error: Values, run: Run) -> Values:
        return error.reshape(self._shape)


class MaxPool2d(Layer):
    """The largest of each size × size square: (B, C, H, W) → (B, C, H // size, W // size), without rounding.

    The error goes to the first largest in row order. Rows and columns beyond a multiple of `size` are
    dropped; `size` is at most 16.
    """

    def __init__(self, size: int) -> None:
        if not 1 <= size <= 16:
            raise ValueError(f"size is {size}, but the squares of a maximum are 1 … 16 wide")
        self.size = size

    def forward(self, x: Values, run: Run) -> Values:
        self._shape = x.shape
        y = np.empty(_squares(x.shape, self.size), x.dtype)
        self._index = np.empty(y.shape, np.uint8)
        kernels.maps.largest(np.ascontiguousarray(x), self.size, y, self._index)
        return y

    def backward(self, error: Values, run: Run) -> Values:
        dx = np.zeros(self._shape, error.dtype)
        kernels.maps.scatter(np.ascontiguousarray(error), self._index, self.size, dx)
        return dx


class AveragePool2d(Layer):
    """The mean of each size × size square, rounded once: (B, C, H, W) → (B, C, H // size, W // size).

    With `size` None it is the mean of the whole map: (B, C, H, W) → (B, C, 1, 1).
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def forward(self, x: Values, run: Run) -> Values:
        self._shape = x.shape
        if self.size is None:
            return run.round(x.mean(axis=(2, 3), keepdims=True, dtype=np.float64))
        means = np.empty(_squares(x.shape, self.size))
        kernels.maps.mean(np.ascontiguousarray(x), self.size, means)
        return run.round(means)

    def backward(self, error: Values, run: Run) -> Values:
        if self.size is None:
            share = run.round(error.astype(np.float64) / (self._shape[2] * self._shape[3]))
            return np.ascontiguousarray(np.broadcast_to(share, self._shape))
        share = run.round(error.astype(np.float64) / self.size**2)
        dx = np.empty(self._shape, share.dtype)
        kernels.maps.spread(share, self.size, dx)
        return dx


def _squares(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The shape of maps of which each size × size square becomes one value."""
    return (*shape[:2], shape[2] // size, shape[3] // size)


class BatchNorm2d(Layer):
    """Batch normalisation over (B, H, W) of each channel (Ioffe and Szegedy 2015, arXiv 1502.03167).

    Statistics are wide sums; the output and the errors are rounded once. The running statistics serve
    evaluation only and stay in float32, on the host.
    """

    kind = "norm"
    EPSILON = 1e-5
    MOMENTUM = 0.1

    def __init__(self, channels: int) -> None:
        self.scale = Parameter(np.ones(channels), decay=False)
        self.shift = Parameter(np.zeros(channels), decay=False)
        self.running_mean = np.zeros(channels, np.float32)
        self.running_variance = np.ones(channels, np.float32)

    def parameters(self) -> dict[str, Parameter]:
        return {"scale": self.scale, "shift": self.shift}

    def state(self) -> dict[str, NDArray[np.float32]]:
        return {"running_mean": self.running_mean, "running_variance": self.running_variance}

    def forward(self, x: Values, run: Run) -> Values:
        self._x = np.ascontiguousarray(x)
        if run.training:
            count = x.size // x.shape[1]
            mean, square = self._moments(self._x) / count
            variance = np.maximum(square - mean**2, 0.0)
            self.running_mean += self.MOMENTUM * (mean - self.running_mean)
            self.running_variance += self.MOMENTUM * (
                variance * count / max(count - 1, 1) - self.running_variance
            )
        else:
            mean, variance = self.running_mean.astype(np.float64), self.running_variance.astype(np.float64)
        self._mean, self._inverse = mean, 1 / np.sqrt(variance + self.EPSILON)
        factor = self.scale.value * self._inverse
        return run.round(self._affine(self._x, factor, 0 * factor, self.shift.value - mean * factor))

    def backward(self, error: Values, run: Run) -> Values:
        error = np.ascontiguousarray(error)
        shift, product = self._moments(error)
        scale = self._inverse * (product - self._mean * shift)  # Σ error · normalised x
        self.shift.gradient, self.scale.gradient = run.round(shift), run.round(scale)
        count = error.size // error.shape[1]
        # factor · (error − shift/count − normalised x · scale/count)
        factor = self.scale.value * self._inverse
        slope = -factor * self._inverse * scale / count
        return run.round(self._affine(error, factor, slope, -factor * shift / count - slope * self._mean))

    def _moments(self, values: Values) -> NDArray[np.float64]:
        """(2, C): for each channel the sum of `values`, and that of `values` times the layer's input."""
        sums = np.empty((2, values.shape[1]))
        kernels.maps.moments(values, self._x, sums)
        return sums

    def _affine(self, values: Values, a: NDArray, b: NDArray, c: NDArray) -> NDArray[np.float64]:
        """a · values + b · the layer's input + c, with a, b, c of each channel."""
        out = np.empty(values.shape)
        kernels.maps.affine(values, self._x, np.stack([a, b, c]), out)
        return out


class Chain(Layer):
    """Layers one after another."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def inner(self) -> tuple[Layer, ...]:
        return self.layers

    @standard_floats
    def forward(self, x: Values, run: Run) -> Values:
        for layer in self.layers:
            x = layer.forward(x, run)
        return x

    @standard_floats
    def backward(self, error: Values, run: Run) -> Values:
        for layer in reversed(self.layers):
            error = layer.backward(error, run)
            if isinstance(layer, GemmLayer) and layer.first:
                break  # nothing before the first weight learns
        return error


class Shortcut(Layer):
    """The shortcut without weights (option A of He et al. 2016): (B, inputs, H, W) → (B, outputs, H', W').

    It takes every `stride`-th pixel in both directions, and fills the channels that are new with zeros, half
    of them before those of the input and half behind.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        self.before = (outputs - inputs) // 2
        self.inputs, self.outputs, self.stride = inputs, outputs, stride

    def forward(self, x: Values, run: Run) -> Values:
        self._shape = x.shape
        x = x[:, :, :: self.stride, :: self.stride]
        after = self.outputs - self.inputs - self.before
        return np.pad(x, ((0, 0), (self.before, after), (0, 0), (0, 0)))

    def backward(self, error: Values, run: Run) -> Values:
        x = np.zeros(self._shape, error.dtype)
        x[:, :, :: self.stride, :: self.stride] = error[:, self.before : self.before + self.inputs]
        return x


class Residual(Layer):
    """main(x) + shortcut(x), added and rounded once (He et al. 2016, arXiv 1512.03385).

    Without a `shortcut` layer it is main(x) + x.
    """

    def __init__(self, main: Layer, shortcut: Layer | None = None) -> None:
        self.main, self.shortcut = main, shortcut

    def inner(self) -> tuple[Layer, ...]:
        return (self.main,) if self.shortcut is None else (self.main, self.shortcut)

    def forward(self, x: Values, run: Run) -> Values:
        return run.round(self.main.forward(x, run) + (self.shortcut.forward(x, run) if self.shortcut else x))

    def backward(self, error: Values, run: Run) -> Values:
        return run.round(
            self.main.backward(error, run) + (self.shortcut.backward(error, run) if self.shortcut else error)
        )
