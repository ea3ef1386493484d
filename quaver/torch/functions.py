"""Formats and GEMMs as PyTorch operators, named ``quaver::…``.

Each is registered with `torch.library.custom_op` and says what shape and dtype it returns, so that
`torch.compile` goes through it without breaking the graph. On the CPU it is the golden kernel on the tensor's
own memory, on CUDA `quaver.torch.on_cuda`.

Annotations are evaluated here, because PyTorch reads an operator's schema from them.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from quaver.golden import kernels
from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.contracts import Arithmetic
from quaver.golden.engine import GoldenEngine
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import Format, parse
from quaver.golden.lfsr import numbered_seed
from quaver.golden.nn.recipe import as_text, from_text
from quaver.golden.rounding import RANDOM_BITS, Rounding
from quaver.torch import on_cuda
from quaver.torch.engine import current
from quaver.torch.images import View
from quaver.torch.on_cuda import on_one_device
from quaver.torch.seeds import SEEDS

_DTYPES = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}


# The public functions.


def encode(
    values: Tensor,
    format: Format | str,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    *,
    random: Tensor | None = None,
    random_bits: int = RANDOM_BITS,
) -> Tensor:
    """The codes of `values`, any shape and strides: uint8, uint16 or uint32, contiguous.

    Parameters
    ----------
    values
        float16, bfloat16, float32, float64, or integers of at most 53 bits.
    format
        A `quaver` format, or the name of one ("fp8", "e6m9", "q8.8").
    rounding, random, random_bits
        As of `quaver.golden.formats.Format.encode`, with a tensor of draws; errors too.
    """
    on_one_device(values=values, random=random)
    return encode_op(values, format_name(format), rounding_name(rounding), random, random_bits)


def decode(codes: Tensor, format: Format | str) -> Tensor:
    """The values of `codes` (any integer dtype): float32, or float64 where the format needs it.

    TypeError, ValueError: they are no codes of the format.
    """
    return decode_op(codes, format_name(format))


def round(
    values: Tensor,
    format: Format | str,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    *,
    random: Tensor | None = None,
    random_bits: int = RANDOM_BITS,
) -> Tensor:
    """``decode(encode(values))``. Its gradient passes through as it is (straight through)."""
    on_one_device(values=values, random=random)
    return round_op(values, format_name(format), rounding_name(rounding), random, random_bits)


def gemm(arithmetic: Arithmetic, a: Tensor, b: Tensor, *, seed: int | None = None) -> Tensor:
    """C = A·B: operand codes (M, K) and (K, N), any strides, give result codes (M, N).

    `seed`, 1 … 2**32 − 1, is what a stochastic arithmetic draws from, and is left out for any other. Errors
    are those of ``arithmetic.gemm``.
    """
    on_one_device(a=a, b=b)
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(
            f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}, but a GEMM takes (M, K) and (K, N); "
            f"batched_gemm takes (batch, M, K) and (batch, K, N)"
        )
    return gemm_op(a, b, arithmetic_text(arithmetic), seed, "")


def batched_gemm(arithmetic: Arithmetic, a: Tensor, b: Tensor, *, seed: int | None = None) -> Tensor:
    """C[i] = A[i]·B[i]: operand codes (batch, M, K) and (batch, K, N) give result codes (batch, M, N).

    Product i, counted from 0, draws as ``gemm(…, seed=numbered_seed(seed, i))``.
    """
    on_one_device(a=a, b=b)
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
        raise ValueError(
            f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}, but a batched GEMM takes (batch, M, K) "
            f"and (batch, K, N)"
        )
    return gemm_op(a, b, arithmetic_text(arithmetic), seed, "")


# Of a format or an arithmetic an operator's schema can hold the text. To the compiler it is a constant.


@torch.compiler.assume_constant_result
def format_name(format: Format | str) -> str:
    """The name that `parse` takes. TypeError: no format."""
    if not isinstance(format, Format | str):
        raise TypeError(f"format is {format!r}, but it must be a Format or a name such as 'fp8'")
    return str(parse(format) if isinstance(format, str) else format)


@torch.compiler.assume_constant_result
def rounding_name(rounding: Rounding | str) -> str:
    return str(Rounding(rounding))


@torch.compiler.assume_constant_result
def arithmetic_text(arithmetic: Any) -> str:
    """The text that `arithmetic_of` takes. TypeError: no arithmetic of Quaver's."""
    try:
        return _text(arithmetic)
    except (KeyError, TypeError):
        raise TypeError(
            f"arithmetic is {arithmetic!r}, but it must be one of quaver.ARITHMETICS, e.g. ChunkedFloat()"
        ) from None


@cache
def _text(arithmetic: Any) -> str:
    text = as_text(arithmetic)
    if not isinstance(json.loads(text), dict):
        raise TypeError
    return text


_format_of = cache(parse)
arithmetic_of = cache(from_text)


# The operators.


def _values(tensor: Tensor) -> np.ndarray:
    """The tensor's own memory as an array; what NumPy has no dtype for, as the float32 that holds it."""
    unknown = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
    return (tensor.float() if unknown else tensor).numpy(force=True)


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array))


@torch.library.custom_op("quaver::encode", mutates_args=(), device_types="cpu")
def encode_op(
    values: Tensor, format: str, rounding: str, random: Tensor | None = None, random_bits: int = RANDOM_BITS
) -> Tensor:
    draws = None if random is None else random.numpy(force=True)
    return _tensor(
        _format_of(format).encode(_values(values), rounding, random=draws, random_bits=random_bits)
    )


@encode_op.register_fake
def _(values, format, rounding, random=None, random_bits=RANDOM_BITS):
    return values.new_empty(values.shape, dtype=_codes_of(_format_of(format)))


@torch.library.custom_op("quaver::decode", mutates_args=(), device_types="cpu")
def decode_op(codes: Tensor, format: str) -> Tensor:
    return _tensor(_format_of(format).decode(codes.numpy(force=True)))


@decode_op.register_fake
def _(codes, format):
    return codes.new_empty(codes.shape, dtype=_values_of(_format_of(format)))


@torch.library.custom_op("quaver::round", mutates_args=(), device_types="cpu")
def round_op(
    values: Tensor, format: str, rounding: str, random: Tensor | None = None, random_bits: int = RANDOM_BITS
) -> Tensor:
    draws = None if random is None else random.numpy(force=True)
    return _tensor(_format_of(format).round(_values(values), rounding, random=draws, random_bits=random_bits))


@round_op.register_fake
def _(values, format, rounding, random=None, random_bits=RANDOM_BITS):
    return values.new_empty(values.shape, dtype=_values_of(_format_of(format)))


round_op.register_autograd(lambda ctx, gradient: (gradient, None, None, None, None))


def _gemm(a: Tensor, b: Tensor, arithmetic: str, seed: int | None, draws_as: str) -> Tensor:
    """`draws_as`: "training" or "evaluation" take the next of the process's seeds where the arithmetic draws;
    "" takes `seed`. A batch of products takes one seed."""
    how, seed = arithmetic_of(arithmetic), _seed(arithmetic, seed, draws_as)
    left, right = (np.ascontiguousarray(codes.numpy(force=True)) for codes in (a, b))
    engine = current()
    compute = engine.gemm
    if left.ndim == 2:
        return _tensor(compute(how, left, right, seed=seed))
    if isinstance(engine, GoldenEngine) and isinstance(how, ChunkedFloat):
        return _tensor(how.batched_gemm(left, right, seed=seed))
    c = np.empty((len(left), left.shape[1], right.shape[2]), how.result.code_dtype)
    for i in range(len(left)):
        c[i] = compute(how, left[i], right[i], seed=None if seed is None else numbered_seed(seed, i))
    return _tensor(c)


def _fake_gemm(a, b, arithmetic, seed, draws_as):
    return a.new_empty(_product_shape(a, b), dtype=_codes_of(arithmetic_of(arithmetic).result))


def _image_gemm(
    other: Tensor,
    images: Tensor,
    view: Sequence[int],
    arithmetic: str,
    draws_as: str,
    first: bool,
    turned: bool,
) -> Tensor:
    """Products (groups, M, N), of which one operand is im2col's.

    The columns of `images` by `View.of(view)`, transposed if `turned`, are A if they come `first`, and else
    B; the other operand is `other`, (groups, …). One group is a plain product.
    """
    groups = len(other)
    columns = View.of(view).columns(images, groups)
    columns = columns.mT if turned else columns
    a, b = (columns, other) if first else (other, columns)
    if groups == 1:
        return _gemm(a[0], b[0], arithmetic, None, draws_as)[None]
    return _gemm(a, b, arithmetic, None, draws_as)


def _fake_image_gemm(other, images, view, arithmetic, draws_as, first, turned):
    taps, places = View.of(view).shape(images.shape, other.shape[0])
    side = places if turned == first else taps
    shape = (side, other.shape[2]) if first else (other.shape[1], side)
    return other.new_empty((other.shape[0], *shape), dtype=_codes_of(arithmetic_of(arithmetic).result))


@torch.library.custom_op("quaver::float32_gemm", mutates_args=(), device_types="cpu")
def float32_gemm_op(a: Tensor, b: Tensor) -> Tensor:
    """A plain float32 product, (batch,) (M, K) and (K, N): `quaver.golden.kernels.float32.matmul`."""
    return _float32_gemm(_values(a), _values(b))


@standard_floats
def _float32_gemm(a: np.ndarray, b: np.ndarray) -> Tensor:
    if a.ndim == 2:
        return _tensor(kernels.float32.matmul(a, b))
    if not len(a):
        return torch.empty((0, a.shape[1], b.shape[2]), dtype=torch.float32)
    return _tensor(np.stack([kernels.float32.matmul(x, y) for x, y in zip(a, b, strict=True)]))


@float32_gemm_op.register_fake
def _(a, b):
    return a.new_empty(_product_shape(a, b), dtype=torch.promote_types(a.dtype, b.dtype))


def _product_shape(a: Tensor, b: Tensor) -> Sequence[int]:
    return (*a.shape[:-1], b.shape[-1])


def _codes_of(format: Format) -> torch.dtype:
    return _DTYPES[np.dtype(format.code_dtype).itemsize]


def _values_of(format: Format) -> torch.dtype:
    return torch.float32 if format.value_dtype is np.float32 else torch.float64


def _gemm_on_cuda(a: Tensor, b: Tensor, arithmetic: str, seed: int | None, draws_as: str) -> Tensor:
    seed = _seed(arithmetic, seed, draws_as)
    return on_cuda.gemm(a, b, arithmetic, seed)


def _image_gemm_on_cuda(
    other: Tensor,
    images: Tensor,
    view: Sequence[int],
    arithmetic: str,
    draws_as: str,
    first: bool,
    turned: bool,
) -> Tensor:
    seed = _seed(arithmetic, None, draws_as)
    return on_cuda.image_gemm(other, images, View.of(view), arithmetic, seed, first=first, turned=turned)


def _seed(arithmetic: str, seed: int | None, draws_as: str) -> int | None:
    """What a GEMM draws from; see `_gemm`."""
    if draws_as and arithmetic_of(arithmetic).stochastic:
        return SEEDS.next(training=draws_as == "training")
    return seed


def _gemm_operators(
    name: str, on_cpu: Callable[..., Tensor], fake: Callable[..., Tensor], on_gpu: Callable[..., Tensor]
) -> tuple[CustomOpDef, CustomOpDef]:
    """One for GEMMs without draws, and one for those that take the next of the process's seeds.

    A compiler may make one call of two that look alike, and leave out a call whose results nobody takes. Not
    so the second one's, and they keep their order: otherwise compiled models would draw other bits.
    """
    operators = []
    for draws in (False, True):
        full_name = f"quaver::drawing_{name}" if draws else f"quaver::{name}"
        operator = torch.library.custom_op(full_name, on_cpu, mutates_args=(), device_types="cpu")
        operator.register_fake(fake)
        operator.register_kernel("cuda", on_gpu)
        if draws and hasattr(operator, "register_effect"):  # an older PyTorch has none
            from torch._library.effects import EffectType

            operator.register_effect(EffectType.ORDERED)
        operators.append(operator)
    return operators[0], operators[1]


gemm_op, drawing_gemm_op = _gemm_operators("gemm", _gemm, _fake_gemm, _gemm_on_cuda)
image_gemm_op, drawing_image_gemm_op = _gemm_operators(
    "image_gemm", _image_gemm, _fake_image_gemm, _image_gemm_on_cuda
)
encode_op.register_kernel("cuda", on_cuda.encode)
decode_op.register_kernel("cuda", on_cuda.decode)
round_op.register_kernel("cuda", on_cuda.round)
float32_gemm_op.register_kernel("cuda", on_cuda.float32_gemm)
