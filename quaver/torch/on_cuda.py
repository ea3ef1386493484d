"""What the operators of `quaver.torch.functions` do on a GPU: golden's bits, by the CUDA kernels.

Codes out of range and values without a code are errors as on the CPU. Where a format has such, the check
waits for the GPU: floats of eight or sixteen bits have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quaver.golden.arithmetic.integer import Integer, largest_product
from quaver.golden.formats import FixedFormat, Format, IntegerFormat, Levels, parse
from quaver.golden.kernels.cuda import calls
from quaver.golden.kernels.cuda.calls import Operand, Size
from quaver.golden.kernels.cuda.engine import computes
from quaver.golden.lfsr import numbered_seed
from quaver.golden.nn.recipe import from_text
from quaver.golden.random_bits import States
from quaver.golden.rounding import RANDOM_BITS, Rounding
from quaver.torch import cuda
from quaver.torch.images import View

#: Products of a batch that are one launch: a grid's limit is 65,535 blocks.
MOST_PRODUCTS = 16_384

_DTYPES = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}

_format_of = cache(parse)
_arithmetic_of = cache(from_text)


def on_one_device(**tensors: Tensor | None) -> None:
    """ValueError: they are not. A kernel would read an address of the wrong memory."""
    found = {name: t.device for name, t in tensors.items() if t is not None}
    if len(set(found.values())) > 1:
        where = " and ".join(f"{name} on {device}" for name, device in found.items())
        raise ValueError(f"{where}, but they must be on one device; move one of them")


def encode(
    values: Tensor, format: str, rounding: str, random: Tensor | None = None, random_bits: int = RANDOM_BITS
) -> Tensor:
    return _cast(values, _format_of(format), rounding, random, random_bits, rounded=False)


def round(
    values: Tensor, format: str, rounding: str, random: Tensor | None = None, random_bits: int = RANDOM_BITS
) -> Tensor:
    return _cast(values, _format_of(format), rounding, random, random_bits, rounded=True)


def _cast(
    values: Tensor, fmt: Format, rounding: str, random: Tensor | None, random_bits: int, *, rounded: bool
) -> Tensor:
    on_one_device(values=values, random=random)
    how, x = Rounding(rounding), _as_floats(values)
    draws = _as_draws(random, random_bits, values.shape, how)
    machine = cuda.find_machine(values.device)
    if not x.numel():
        return machine.empty(tuple(values.shape), fmt.value_dtype if rounded else fmt.code_dtype)
    options = {
        "wide": x.dtype == torch.float64,
        "random": draws,
        "random_bits": random_bits,
        "rounded": rounded,
    }
    out, refused = calls.encode(machine, fmt, how, x, x.numel(), **options)
    if isinstance(fmt, FixedFormat) and int(refused.view(torch.int32)):
        raise ValueError(f"values hold NaN, but {fmt} has no code for it")
    return out.reshape(values.shape)


def _as_floats(values: Tensor) -> Tensor:
    """As `quaver.golden.formats.format.as_floats`: contiguous float32 or float64."""
    if values.is_floating_point():
        return values.to(torch.float64 if values.dtype == torch.float64 else torch.float32).contiguous()
    if values.dtype == torch.bool or values.is_complex():
        raise TypeError(f"values have dtype {values.dtype}, but they must be floats or integers")
    if values.dtype in (torch.int64, torch.uint64) and values.numel():
        signed = values.view(torch.int64)
        low, high = int(signed.min()), int(signed.max())
        if max(high, -low) > 1 << 53 or (low < 0 and values.dtype == torch.uint64):
            raise ValueError(
                "values holds an integer beyond ±2**53, which no float64 may hold; scale it down"
            )
    return values.to(torch.float64).contiguous()


def _as_draws(
    random: Tensor | None, random_bits: int, shape: torch.Size, rounding: Rounding
) -> Tensor | None:
    """As `quaver.golden.formats.format.as_draws`: 32 bits each."""
    if not rounding.draws:
        if random is not None:
            raise ValueError(f"random was given, but {rounding} rounding takes none; leave it out")
        return None
    if random is None:
        raise ValueError("stochastic rounding needs random: draw it from a quaver.golden.lfsr.LFSR")
    if not 1 <= random_bits <= 32:
        raise ValueError(f"random_bits is {random_bits}, but stochastic rounding takes 1 … 32")
    if random.is_floating_point() or random.is_complex() or random.dtype == torch.bool:
        raise TypeError(f"random has dtype {random.dtype}, but it must be integers of {random_bits} bits")
    if random.shape != shape:
        raise ValueError(
            f"random has shape {tuple(random.shape)}, but values have {tuple(shape)}; give one draw for each "
            f"value"
        )
    wide = random.to(torch.int64).contiguous()
    _check_range(wide, 1 << random_bits, "random", f"{random_bits} random bits hold")
    return wide.to(torch.int32)


def _check_range(wide: Tensor, end: int, name: str, who: str) -> None:
    low, high = (int(wide.min()), int(wide.max())) if wide.numel() else (0, 0)
    if low < 0 or high >= end:
        raise ValueError(f"{name} holds {low if low < 0 else high}, but {who} 0 … {end - 1}")


def _as_codes(codes: Tensor, fmt: Format, name: str = "codes") -> Tensor:
    """As `Format.check_codes`: of the format's own dtype, any strides."""
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(
            f"{name} has dtype {codes.dtype}, but codes are unsigned integers; {fmt}.encode makes them"
        )
    wanted = _DTYPES[np.dtype(fmt.code_dtype).itemsize]
    if codes.dtype != wanted or fmt.width not in (8, 16, 32):
        wide = codes.to(torch.int64)
        _check_range(wide, 1 << fmt.width, name, f"codes of {fmt} are")
        codes = wide.to(wanted)
    return codes


def decode(codes: Tensor, format: str) -> Tensor:
    fmt = _format_of(format)
    if isinstance(fmt, IntegerFormat):
        return _integers(_as_codes(codes, fmt), fmt).to(
            torch.float32 if fmt.value_dtype is np.float32 else torch.float64
        )
    flat = _as_codes(codes, fmt).contiguous()
    machine = cuda.find_machine(codes.device)
    if not codes.numel():
        return machine.empty(tuple(codes.shape), fmt.value_dtype)
    return calls.decode(machine, fmt, flat, flat.numel()).reshape(codes.shape)


def _integers(codes: Tensor, fmt: IntegerFormat) -> Tensor:
    """What codes mean, int64."""
    q = codes.to(torch.int64)
    if fmt.levels is Levels.SIGNED:
        half = 1 << (fmt.bits - 1)
        return (q ^ half) - half
    return q * fmt.step + fmt.lowest


def integer_gemm(a: Tensor, b: Tensor, how: Integer) -> Tensor:
    """Exact sums by float32 products, in pieces of so many k that no sum is beyond what a float32 holds, as
    `Integer.gemm` has it: cuBLAS's order does not show."""
    x, y = (_integers(codes, fmt).to(torch.float32) for codes, fmt in ((a, how.a), (b, how.b)))
    step = (1 << 24) // largest_product(how.a, how.b)
    sums = torch.zeros((*a.shape[:-1], b.shape[-1]), dtype=torch.int64, device=a.device)
    for k in range(0, a.shape[-1], step):
        sums += float32_gemm(x[..., k : k + step], y[..., k : k + step, :]).to(torch.int64)
    return (sums & ((1 << how.accumulator_bits) - 1)).to(_DTYPES[np.dtype(how.result.code_dtype).itemsize])


def gemm(a: Tensor, b: Tensor, arithmetic: str, seed: int | None) -> Tensor:
    """Of (M, K) and (K, N), or a batch; product i of a batch draws from ``numbered_seed(seed, i)``."""
    on_one_device(a=a, b=b)
    known = _arithmetic_of(arithmetic)
    how = known if isinstance(known, Integer) else computes(known)
    batched = a.ndim == 3
    left, right = (x if batched else x[None] for x in (_as_codes(a, how.a, "a"), _as_codes(b, how.b, "b")))
    (products, M, K), N = left.shape, right.shape[2]
    if right.shape[1] != K:
        raise ValueError(
            f"a {tuple(a.shape)} and b {tuple(b.shape)} disagree on K: {K} columns against {right.shape[1]} "
            f"rows; transpose one of them?"
        )
    # Of no outputs, but with all that the arithmetic says about K and the seed.
    how.check(np.zeros((0, K), how.a.code_dtype), np.zeros((K, 0), how.b.code_dtype), seed=seed)
    if isinstance(how, Integer):
        c = integer_gemm(left, right, how)
        return c if batched else c[0]
    seeds = [] if seed is None else [numbered_seed(seed, i) for i in range(products)] if batched else [seed]
    c = _products(
        cuda.find_machine(a.device),
        how,
        lambda first: (_matrix(left, first, a=True), _matrix(right, first, a=False)),
        Size(products, M, K, N),
        [how.sources(each) for each in seeds],
    )
    return c if batched else c[0]


def image_gemm(
    other: Tensor,
    images: Tensor,
    view: View,
    arithmetic: str,
    seed: int | None,
    *,
    first: bool,
    turned: bool,
) -> Tensor:
    """As `quaver.torch.functions.image_gemm_op`; codes come from the images as the GEMM's loader asks for
    them, and the columns are in no memory."""
    on_one_device(other=other, images=images)
    known, groups = _arithmetic_of(arithmetic), len(other)
    if isinstance(known, Integer):  # its products are cuBLAS's, of matrices
        columns = view.columns(images, groups)
        columns = columns.mT if turned else columns
        return gemm(*((columns, other) if first else (other, columns)), arithmetic, seed)
    how = computes(known)
    mine, others = (how.a, how.b) if first else (how.b, how.a)
    codes, matrix = _as_codes(images, mine, "images").contiguous(), _as_codes(other, others, "other")
    _, channels, height, width = codes.shape
    taps, places = view.shape(codes.shape, groups)
    places_are_k = first != turned
    K, side = (places, taps) if places_are_k else (taps, places)
    M, N = (side, matrix.shape[2]) if first else (matrix.shape[1], side)
    about = channels // groups, groups, height, width, *view.numbers
    how.check(np.zeros((0, K), how.a.code_dtype), np.zeros((K, 0), how.b.code_dtype), seed=seed)
    seeds = [] if seed is None else [seed] if groups == 1 else [numbered_seed(seed, i) for i in range(groups)]

    def operands(group: int) -> tuple[Operand, Operand]:
        columns = Operand(codes[:, group * (channels // groups) :], images=about, places_are_k=places_are_k)
        rest = _matrix(matrix, group, a=not first)
        return (columns, rest) if first else (rest, columns)

    machine = cuda.find_machine(images.device)
    return _products(machine, how, operands, Size(groups, M, K, N), [how.sources(each) for each in seeds])


def _matrix(codes: Tensor, first: int, *, a: bool) -> Operand:
    """A (products, M, K) or B (products, K, N) from product `first` on."""
    x = codes[first:]
    batch, rows, columns = x.stride()
    return Operand(x, (batch, columns, rows) if a else (batch, rows, columns))


def _products(
    machine: Any,
    how: Any,
    operands: Callable[[int], tuple[Operand, Operand]],
    size: Size,
    states: Sequence[States],
) -> Tensor:
    """Codes (products, M, N), in as many launches as grids allow; `operands` are those from a product on."""
    if 0 in (size.products, size.M, size.K, size.N):
        return machine.zeros((size.products, size.M, size.N), how.result.code_dtype)
    parts = []
    for first in range(0, size.products, MOST_PRODUCTS):
        some = replace(size, products=min(MOST_PRODUCTS, size.products - first))
        of_some = states[first : first + MOST_PRODUCTS]
        parts.append(calls.gemm(machine, how, *operands(first), some, of_some))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def update(
    rule: Any, weights: Tensor, momenta: Tensor, gradients: Tensor, *, seed: int | None
) -> tuple[Tensor, Tensor]:
    """One step of an update rule on codes: the new weights and momenta."""
    on_one_device(weights=weights, momenta=momenta, gradients=gradients)
    how: Any = computes(rule)
    machine = cuda.find_machine(weights.device)
    if not weights.numel():
        return weights, momenta
    w, m, g = (x.contiguous() for x in (weights, momenta, gradients))
    new_w, new_m = calls.update(machine, how, w, m, g, w.numel(), seed)
    return new_w.reshape(weights.shape), new_m.reshape(momenta.shape)


@contextmanager
def _plain_float32() -> Iterator[None]:
    """Neither TF32 nor autocast, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def float32_gemm(a: Tensor, b: Tensor) -> Tensor:
    """A plain float32 product; the order of its sums is cuBLAS's, so that its bits are this GPU's."""
    with _plain_float32():
        return a @ b
