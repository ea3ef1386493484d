"""Rounding between GEMMs: every operation computes widely and rounds once, to nearest, forward and backward.

A recipe's `elementwise` format is what operations between GEMMs leave their results in. In a model most of
these are no modules: a residual sum, a softmax, a scale. So `Elementwise` watches the functions that PyTorch
is called with while a model runs:

- Those of `ROUNDED` (sums, products, activations, pooling by means, normalisations, softmax, dropout) are
  given their floating-point operands in float64, and their results are rounded to the format. Their backward
  passes likewise compute in float64 on rounded errors and round what they give on.
- Those of `LOSSES` are the same, but for the loss itself, which is reported and never rounded.
- Those of `MATMULS` are GEMMs without weights, as in attention, and become `quaver.torch.matmul`.
- Those of `LEFT` (GEMMs that Quaver does not take over, normalisation by running statistics) compute in
  float32, with a warning; their results are rounded.
- Any other is left as it is: what moves or selects values (views, concatenation, max-pooling, ReLU, look-up)
  is exact in any format, and what creates them is not between GEMMs.

An error that arrives from several places is summed up by PyTorch in float32 and rounded where it arrives.
That sum alone follows ``torch.set_flush_denormal``: of formats that reach below 2**−126 it then loses the
smallest.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isfunction, signature
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from quaver.golden.nn.recipe import Recipe
from quaver.torch.between import widen_op
from quaver.torch.functions import round_op
from quaver.torch.layers import matmul
from quaver.torch.numerics import Numerics
from quaver.torch.once import once_differentiable

_NAMES = """
    add sub subtract rsub mul multiply div divide true_divide pow float_power square sqrt rsqrt reciprocal
    exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh erf erfc sigmoid
    softmax log_softmax softmin logsumexp logaddexp sum mean std var norm prod cumsum cumprod lerp addcmul
    addcdiv hypot
    gelu silu mish elu selu celu softplus hardswish hardsigmoid leaky_relu rrelu prelu logsigmoid softsign
    tanhshrink softshrink glu gumbel_softmax
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d lp_pool1d
    lp_pool2d layer_norm group_norm instance_norm rms_norm local_response_norm normalize
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout interpolate grid_sample
    cosine_similarity pairwise_distance
    arccos arccosh acosh arcsin arcsinh asinh arctan arctan2 arctanh atanh sinc logit expit erfinv erfcx
    logaddexp2 logcumsumexp xlogy xlog1py entr ndtr ndtri log_ndtr ldexp deg2rad rad2deg fmod remainder
    lgamma gammaln digamma psi polygamma mvlgamma multigammaln igamma igammac gammainc gammaincc i0 i0e i1 i1e
    nansum nanmean var_mean std_mean vector_norm matrix_norm frobenius_norm nuclear_norm norm_except_dim
    renorm trace dist cdist pdist outer ger kron cross diff gradient trapezoid trapz cumulative_trapezoid
    cov corrcoef index_add index_reduce scatter_add scatter_reduce segment_reduce embedding_bag fold upsample
    __mod__ __rmod__
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __div__ __rdiv__ __pow__
    __rpow__
""".split()  # noqa: SIM905  # a hundred lines otherwise
_NAMESPACES = (torch, torch.Tensor, functional, torch.special, torch.linalg)


def _functions(*names: str) -> dict[Any, str]:
    return {getattr(space, name): name for name in names for space in _NAMESPACES if hasattr(space, name)}


#: Functions whose results are rounded, by what PyTorch calls them.
ROUNDED = _functions(*_NAMES)
#: The same in place: x.add_(y), x += y.
IN_PLACE = {
    getattr(torch.Tensor, changing): getattr(torch.Tensor, name)
    for name in _NAMES
    for changing in (f"{name}_", name.replace("__", "__i", 1))
    if changing != name and hasattr(torch.Tensor, name) and hasattr(torch.Tensor, changing)
}
MATMULS = _functions("matmul", "mm", "bmm", "__matmul__", "__rmatmul__", "scaled_dot_product_attention")
LOSSES = _functions(
    *("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "ctc_loss", "cosine_embedding_loss"),
    *("gaussian_nll_loss", "poisson_nll_loss", "hinge_embedding_loss", "margin_ranking_loss"),
    *("multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss", "soft_margin_loss"),
    *("triplet_margin_loss", "triplet_margin_with_distance_loss"),
)
LEFT = _functions(
    *("linear", "bilinear", "einsum", "tensordot", "addmm", "addbmm", "baddbmm", "addmv", "mv", "dot"),
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("batch_norm", "lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward"),
    *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "linear_cross_entropy"),
    *("inner", "vdot", "vecdot", "addr", "chain_matmul", "multi_dot", "matrix_power", "matrix_exp"),
    *("det", "logdet", "slogdet", "inv", "inverse", "pinv", "pinverse", "solve", "lstsq", "cholesky"),
    *("qr", "svd", "svdvals", "eigh", "eigvalsh", "triangular_solve", "solve_triangular", "cholesky_solve"),
)
#: Where functions take `inplace` among their positional arguments, as PyTorch's modules give it.
_INPLACE: dict[Any, int] = {
    func: list(signature(func).parameters).index("inplace")
    for func in ROUNDED
    if func in vars(functional).values() and isfunction(func) and "inplace" in signature(func).parameters
}


class _Widen(torch.autograd.Function):
    """In float64; the error that comes back is rounded."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, format: str) -> Tensor:
        ctx.format = format
        return widen_op(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, None]:
        return round_op(error, ctx.format, "nearest"), None


class _Narrow(torch.autograd.Function):
    """Rounded; and so is the error that comes back, to what errors are rounded to where they arrive."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, format: str, arriving: str | None) -> Tensor:
        ctx.arriving, ctx.dtype = arriving, values.dtype
        return round_op(values, format, "nearest")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, None, None]:
        if ctx.arriving is not None:
            error = round_op(error, ctx.arriving, "nearest")
        return widen_op(error) if ctx.dtype == torch.float64 else error, None, None


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


class Elementwise(TorchFunctionMode):
    """While it is active, PyTorch's functions round as `recipe` says. See the module."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.numerics = Numerics.between(recipe)
        self.warned: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        running = _active.running()
        if running is None or running.mode is not self:  # interrupted; or a model inside rounds by itself
            return func(*args, **kwargs)
        if kwargs.get("out") is not None and (func in MATMULS or func in ROUNDED):
            out = kwargs.pop("out")
            result = self.__torch_function__(func, types, args, kwargs)
            return out.resize_(result.shape).copy_(result)
        if func in MATMULS and all(map(_is_float, (*args, *kwargs.values())[:2])):
            return self._matmul(MATMULS[func], args, kwargs)
        format = self.numerics.elementwise
        if func in LEFT:
            self._warn(LEFT[func])
            result = func(*args, **kwargs)
            return result if format is None else _narrow(result, self.numerics)
        if format is None:
            return func(*args, **kwargs)
        if func in LOSSES:
            result = _widely(func, args, kwargs, format)
            return result.float() if _is_float(result) else result
        if func in ROUNDED:
            at = _INPLACE.get(func, len(args))
            if not kwargs.get("inplace", at < len(args) and args[at]):
                return _rounded(func, args, kwargs, self.numerics)
            changed = args[0] if args else kwargs["input"]
            args = args[:at] + (False,) * (at < len(args)) + args[at + 1 :]
            kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
            return changed.copy_(_rounded(func, args, kwargs, self.numerics))
        if func in IN_PLACE and _is_float(args[0]):
            return args[0].copy_(_rounded(IN_PLACE[func], args, kwargs, self.numerics))
        return func(*args, **kwargs)

    def _matmul(self, name: str, args: Any, kwargs: Any) -> Tensor:
        if name == "scaled_dot_product_attention":
            with self:
                return attention(*args, **kwargs)
        named = [kwargs[key] for key in ("input", "other", "mat2", "tensor2") if key in kwargs]
        a, b = (*args, *named) if name != "__rmatmul__" else args[::-1]
        row, column = a.ndim == 1, b.ndim == 1
        running = _active.running()
        training = running is None or running.training
        left, right = a[None] if row else a, b[:, None] if column else b
        c = matmul(left, right, self.numerics, training=training)
        c = c.squeeze(-1) if column else c
        return c.squeeze(-1 if column else -2) if row else c

    def _warn(self, name: str) -> None:
        if torch.compiler.is_compiling() or name in self.warned:
            return
        self.warned.add(name)
        warnings.warn(
            f"torch's {name} computes in float32 inside a model with a recipe; Quaver does not convert it",
            stacklevel=3,
        )


def _widely(func: Callable[..., Any], args: Any, kwargs: Any, format: str) -> Any:
    def wide(value: Any) -> Any:
        if isinstance(value, torch.dtype) and value.is_floating_point:
            return torch.float64  # what the function computes in and gives, before it is rounded
        return _Widen.apply(value, format) if _is_float(value) else value

    return func(*map(wide, args), **{name: wide(value) for name, value in kwargs.items()})


def _narrow(result: Any, numerics: Numerics) -> Any:
    """Rounded, each of them where there are several."""
    if isinstance(result, tuple | list):
        each = [_narrow(one, numerics) for one in result]
        return each if isinstance(result, list) else type(result)(each)
    if not _is_float(result):
        return result
    return _Narrow.apply(result, numerics.elementwise, numerics.arriving)


def _rounded(func: Callable[..., Any], args: Any, kwargs: Any, numerics: Any) -> Any:
    return _narrow(_widely(func, args, kwargs, numerics.elementwise), numerics)


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Minus infinity where a boolean mask is true; a mask of numbers is added."""
    if mask.dtype == torch.bool:
        return scores.masked_fill(mask, float("-inf"))
    out = mask == float("-inf")  # formats without infinity keep it out of their sums
    return (scores + mask.masked_fill(out, 0.0)).masked_fill(out, float("-inf"))


def safe_softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis, and zeros where it has minus infinity alone: where all keys are masked.

    PyTorch's scaled dot products give zeros there, and a gradient of zero; a softmax gives NaN.
    """
    none = (scores == float("-inf")).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(none, 0.0), -1).masked_fill(none, 0.0)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention``, a function at a time, so that each is rounded."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = torch.matmul(query, key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        if attn_mask is not None:
            raise ValueError("is_causal and attn_mask were both given; give one of them")
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = masked(scores, ~attn_mask if attn_mask.dtype == torch.bool else attn_mask)
    masked_out = attn_mask is not None and not is_causal
    weights = safe_softmax(scores) if masked_out else torch.softmax(scores, -1)
    weights = functional.dropout(weights, dropout_p, training=dropout_p > 0)
    return torch.matmul(weights, value)


class _Entry(NamedTuple):
    """A mode that is active, whether its module is training, and the call of the module that it is active in;
    None: a `with` block's, or compiled."""

    mode: Elementwise
    training: bool
    call: FrameType | None

    @property
    def runs(self) -> bool:
        """Whether that call is under way. PyTorch calls a module's hooks after every `Exception`, but not
        after a Ctrl-C, which would leave the mode to whatever the session does next."""
        if torch.compiler.is_compiling() or self.call is None:
            return True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self.call:
            frame = frame.f_back
        return frame is not None


class _Active(threading.local):
    """The modes of this thread, the innermost last: models inside models may have other recipes."""

    def __init__(self) -> None:
        self.stack: list[_Entry] = []

    def running(self) -> _Entry | None:
        """The innermost whose call is under way."""
        for entry in reversed(self.stack):
            if entry.runs:
                return entry
        return None


_active = _Active()


def _enter(mode: Elementwise, training: bool, call: FrameType | None = None) -> None:
    while _active.stack and not _active.stack[-1].runs:
        _leave()
    again = bool(_active.stack) and _active.stack[-1].mode is mode
    _active.stack.append(_Entry(mode, training, call))
    if not again:
        mode.__enter__()


def _leave() -> None:
    mode = _active.stack.pop().mode
    if not _active.stack or _active.stack[-1].mode is not mode:
        mode.__exit__(None, None, None)


@contextmanager
def elementwise(recipe: Recipe, *, training: bool = True) -> Iterator[None]:
    """Inside, what is called of PyTorch rounds as in a model converted with `recipe`: for code between layers
    that no module's `forward` runs."""
    mode = Elementwise(recipe)
    _enter(mode, training)
    try:
        yield
    finally:
        while not _active.stack[-1].runs:
            _leave()
        _leave()


class Before:
    """A module's forward pre-hook: from here on, PyTorch's functions round."""

    def __init__(self, mode: Elementwise) -> None:
        self.mode = mode

    def __call__(self, module: torch.nn.Module, args: Any) -> None:
        # The hook's caller is a part of the module's call, which may be over when `After` is called.
        call = None if torch.compiler.is_compiling() else sys._getframe(2)
        _enter(self.mode, module.training, call)


class After:
    """Its forward hook, called after an error too: from here on, they are PyTorch's own again."""

    def __init__(self, mode: Elementwise) -> None:
        self.mode = mode

    def __call__(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            _leave()
            return
        while _active.stack and not _active.stack[-1].runs:
            _leave()
        mine = None, sys._getframe(1), sys._getframe(2)
        if _active.stack and _active.stack[-1].call in mine:  # else a hook before `Before` raised an error
            _leave()
