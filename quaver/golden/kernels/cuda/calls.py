"""What is launched for a GEMM, a cast or an update: the same on every `Machine`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.formats import Format
from quaver.golden.kernels.cuda import source
from quaver.golden.kernels.cuda.machine import THREADS, Machine
from quaver.golden.kernels.cuda.source import Program, Tiling
from quaver.golden.lfsr import LFSR, TAPS
from quaver.golden.random_bits import SOURCES, States
from quaver.golden.rounding import Rounding
from quaver.golden.update import Adam, FixedSGD, FloatSGD

#: Bytes of partial sums that blocks leave for the fold at once: they stay in a large GPU's cache.
WORKSPACE = 32 << 20
#: Blocks along the second and third axis of a grid: CUDA's limit.
MOST_BLOCKS = 65_535
#: Exact sums are cut anywhere: so that blocks can share them.
EXACT_CHUNK = 1024


@dataclass(frozen=True)
class Operand:
    """One operand of a GEMM: where its codes lie.

    Attributes
    ----------
    codes
        An array of the machine's.
    strides
        Elements from one product to the next, from one k to the next, and from one row of A or column of B to
        the next.
    images
        Of im2col, in place of strides: the sixteen numbers that struct Images in pack.cu reads.
    places_are_k
        Whether k runs over the places of the kernel, and not over its taps.
    """

    codes: Any
    strides: tuple[int, int, int] = (0, 0, 0)
    images: tuple[int, ...] = ()
    places_are_k: bool = False


@dataclass(frozen=True)
class Size:
    """Of `products` matrix products: (M, K) times (K, N).

    Attributes
    ----------
    products, M, K, N
        Each at least 1.
    """

    products: int
    M: int
    K: int
    N: int


@dataclass(frozen=True)
class _Layout:
    """Of the panels.

    Attributes
    ----------
    width_a, width_b
        Rows of A and columns of B in whole tiles.
    depth
        Products with the filling up of chunks.
    chunk, padded_chunk, chunks
        Products of a chunk without filling and with it, and how many chunks there are.
    """

    width_a: int
    width_b: int
    depth: int
    chunk: int
    padded_chunk: int
    chunks: int

    @staticmethod
    def of(size: Size, chunk: int, tile: tuple[int, int], step: int) -> _Layout:
        chunk = min(chunk, size.K)
        padded = _up(chunk, step)
        depth = size.K // chunk * padded + _up(size.K % chunk, step)
        chunks = -(-size.K // chunk)
        return _Layout(_up(size.M, tile[0]), _up(size.N, tile[1]), depth, chunk, padded, chunks)


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def gemm(
    machine: Machine,
    arithmetic: ChunkedFloat | FixedPoint,
    a: Operand,
    b: Operand,
    size: Size,
    states: Sequence[States] = (),
    *,
    workspace: int = WORKSPACE,
    integers: bool = False,
) -> Any:
    """Codes of C, contiguous (products, M, N), of operands in the machine's memory.

    Parameters
    ----------
    states
        Of the random sources of each product, where the arithmetic draws: ``arithmetic.sources(seed)``.
    workspace
        Bytes for partial sums, where blocks share the chunks of an output.
    integers
        Take the kernel on integers, right for every pair of formats, though another is proved so too.
    """
    chunk = arithmetic.chunk if isinstance(arithmetic, ChunkedFloat) else EXACT_CHUNK
    tiling = None if integers else tiling_for(machine, arithmetic, size)
    result = arithmetic.result.code_dtype
    c = machine.empty((size.products, size.M, size.N), result)
    if tiling is None:
        return _gemm_on_integers(machine, _chunked(arithmetic), a, b, size, states, c)
    program = _program(arithmetic, tiling)
    layout = _Layout.of(size, chunk, tiling.tile, tiling.step)
    panels, largest = _packed(machine, program, arithmetic, a, b, size, layout)
    tiles = layout.width_b // tiling.tile[1], layout.width_a // tiling.tile[0]
    if tiles[1] > MOST_BLOCKS:
        raise ValueError(f"M is {size.M}, but one product has at most {MOST_BLOCKS * tiling.tile[0]} rows")
    total: Any = np.int64 if isinstance(arithmetic, FixedPoint) else _real(arithmetic)
    exact = total is np.int64
    value, of_total = 4 if exact else np.dtype(total).itemsize, np.dtype(total).itemsize
    drawn = bool(states) and not exact
    shared = tiling.shared_memory(value, of_total, drawn=drawn, tabled=_tabled(arithmetic))
    limit = 0.0 if isinstance(arithmetic, FixedPoint) else largest_product(arithmetic, size.K)
    shape = (size.M, size.N, size.K, layout.width_a, layout.width_b, layout.depth, layout.chunk)

    def draws(first_chunk: int = 0, runs: int = 1, chunks_of_run: int = 0) -> list[Any]:
        sums = layout.chunk + 1
        at = first_chunk * sums, runs, chunks_of_run * sums
        return _states(machine, program, states, layout.width_a, layout.width_b, *at)

    def launch(drawn_from: list[Any], partials: Any, folds: Any, runs: int, *chunks: int) -> None:
        arrays = (*panels, *largest, np.float64(limit), *drawn_from, c, partials, folds)
        counts = map(np.int32, (*shape, layout.padded_chunk, runs, *chunks))
        grid = (*tiles, size.products * runs)
        machine.launch(program, "gemm", grid, *arrays, *counts, shared=shared)

    runs = _runs(machine, tiles[0] * tiles[1] * size.products, layout.chunks)
    if runs == 1:
        launch(draws(), None, None, 1, 0, layout.chunks, layout.chunks)
        return c
    of_chunk = size.products * layout.width_a * layout.width_b
    slab = max(1, min(layout.chunks, workspace // (of_chunk * (of_total + 4 * drawn))))
    totals = machine.empty((size.products, size.M, size.N), total)
    of_results = draws() if exact else [None] * 3
    for first in range(0, layout.chunks, slab):
        chunks = min(slab, layout.chunks - first)
        of_run = -(-chunks // runs)
        parts = -(-chunks // of_run)
        partials = machine.empty((chunks, of_chunk), total)
        folds = machine.empty((chunks, of_chunk), np.uint32) if drawn else None
        drawn_from = [None] * 3 if exact else draws(first, parts, of_run)
        launch(drawn_from, partials, folds, parts, first, of_run, first + chunks)
        ends = first == 0, first + chunks == layout.chunks
        counts = map(np.int32, (size.M, size.N, layout.width_a, layout.width_b, chunks, *ends))
        grid = -(-size.M * size.N // THREADS), size.products, 1
        machine.launch(program, "fold", grid, partials, folds, *of_results, totals, c, *counts)
    return c


def _gemm_on_integers(
    machine: Machine,
    arithmetic: ChunkedFloat,
    a: Operand,
    b: Operand,
    size: Size,
    states: Sequence[States],
    c: Any,
) -> Any:
    program = source.chunked_program(arithmetic, None)
    layout = _Layout.of(size, arithmetic.chunk, (1, 1), 1)
    panels, _ = _packed(machine, program, arithmetic, a, b, size, layout)
    draws = _states(machine, program, states, size.M, size.N, 0, 1, 0)
    numbers = (size.M, size.N, size.M, size.N, layout.depth, layout.chunk, layout.padded_chunk, size.K)
    grid = -(-size.M * size.N // THREADS), size.products, 1
    machine.launch(program, "gemm_integers", grid, *panels, *draws, c, *map(np.int32, numbers))
    return c


def tiling_for(machine: Machine, arithmetic: ChunkedFloat | FixedPoint, size: Size) -> Tiling | None:
    """How a GEMM is cut into tiles: with the least filling up; None: no float is proved to be wide enough."""
    if isinstance(arithmetic, FixedPoint):
        value, total, drawn, chunk = 4, 8, False, EXACT_CHUNK
    else:
        if (real := _real(arithmetic)) is None:
            return None
        value = total = np.dtype(real).itemsize
        drawn, chunk = arithmetic.stochastic, arithmetic.chunk
    step = 16 if total == 4 and not drawn and chunk > 8 else 8

    def filled(tiling: Tiling) -> int:
        rows, columns = tiling.tile
        return _up(size.M, rows) * _up(size.N, columns)

    for rows in (8, 4) if total == 4 else (4,):
        tiling = min((Tiling(rows, across, step) for across in (16, 32, 8)), key=filled)
        if (
            tiling.shared_memory(value, total, drawn=drawn, tabled=_tabled(arithmetic))
            <= machine.shared_memory
        ):
            return tiling
    raise RuntimeError(
        f"a block of this GPU has {machine.shared_memory} bytes of shared memory, too few for {arithmetic!r}"
    )


def _runs(machine: Machine, blocks: int, chunks: int) -> int:
    """Among how many blocks the chunks of an output are shared: all multiprocessors have some."""
    wanted = 2 * machine.processors
    if blocks >= wanted or chunks == 1:
        return 1
    return min(chunks, -(-2 * wanted // blocks), MOST_BLOCKS // max(1, blocks))


def _chunked(arithmetic: ChunkedFloat | FixedPoint) -> ChunkedFloat:
    if not isinstance(arithmetic, ChunkedFloat):
        raise TypeError(f"arithmetic is {arithmetic!r}, but only ChunkedFloat has a kernel on integers")
    return arithmetic


def _program(arithmetic: ChunkedFloat | FixedPoint, tiling: Tiling) -> Program:
    # The program does not depend on the chunk: of those that differ in nothing else, one is compiled.
    if isinstance(arithmetic, FixedPoint):
        return source.fixed_program(arithmetic, tiling)
    return source.chunked_program(_any_chunk(arithmetic), tiling)


@cache
def _any_chunk(arithmetic: ChunkedFloat) -> ChunkedFloat:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return replace(arithmetic, chunk=1)


@cache
def _real(arithmetic: ChunkedFloat) -> type[np.floating] | None:
    from quaver.golden.kernels import vector

    how = vector.plan(arithmetic, math.inf, directed=True)
    return None if how is None else how.value


def _tabled(arithmetic: ChunkedFloat | FixedPoint) -> bool:
    return max(arithmetic.a.width, arithmetic.b.width) <= 8


def largest_product(arithmetic: ChunkedFloat, K: int) -> float:
    """The largest |a·b| with which no sum of a GEMM can overflow; as `vector.largest_sum` bounds them."""
    acc = arithmetic.accumulator
    growth = math.log1p(2.0 ** -(acc.mantissa_bits if arithmetic.stochastic else acc.precision))
    products, folds = min(arithmetic.chunk, K), -(-K // arithmetic.chunk)
    exponent = growth * (products + folds)
    if exponent > 700:
        return -1.0
    return (acc.max_value / (products * folds * math.exp(exponent))) * (1 - 1e-9) - 2.0**acc.quantum_exponent


def _packed(
    machine: Machine,
    program: Program,
    arithmetic: ChunkedFloat | FixedPoint,
    a: Operand,
    b: Operand,
    size: Size,
    layout: _Layout,
) -> tuple[list[Any], list[Any]]:
    """The panels of A and of B, and the largest magnitudes of each product's codes in them."""
    panels, largest = [], []
    sides = (
        ("a", a, arithmetic.a, size.M, layout.width_a),
        ("b", b, arithmetic.b, size.N, layout.width_b),
    )
    for name, operand, fmt, count, width in sides:
        panel = machine.empty((size.products, layout.depth, width), fmt.code_dtype)
        most = machine.zeros((size.products,), np.uint32)
        numbers = (count, width, size.K, layout.depth, layout.chunk, layout.padded_chunk)
        grid = -(-width // 128), min(-(-layout.depth // 32), MOST_BLOCKS), size.products
        where: tuple[Any, ...]
        if operand.images:
            shape = machine.constant(np.array(operand.images, np.int32))
            where, kernel = (shape, np.int32(operand.places_are_k)), f"pack_images_{name}"
        else:
            where, kernel = tuple(map(np.int64, operand.strides)), f"pack_{name}"
        machine.launch(program, kernel, grid, operand.codes, *where, panel, most, *map(np.int32, numbers))
        panels.append(panel)
        largest.append(most)
    return panels, largest


def _states(
    machine: Machine,
    program: Program,
    states: Sequence[States],
    width_a: int,
    width_b: int,
    first_sum: int,
    runs: int,
    sums_of_run: int,
) -> list[Any]:
    """The states of the three sources at all places, before the first sum of each run of each product."""
    if not states:
        return [None] * 3
    found = []
    for number, source_ in enumerate(SOURCES):
        places = source_.per_row * width_a + source_.per_column * width_b
        seeds = machine.upload(np.array([each[number] for each in states], np.uint32))
        out = machine.empty((len(states), runs, places), np.uint32)
        step = source_.step.bit_length() - 1  # it is a power of two
        numbers = (
            np.int32(places),
            np.int32(runs),
            np.uint64(first_sum),
            np.uint64(sums_of_run),
            np.int32(step),
        )
        grid = -(-places // THREADS), len(states) * runs, 1
        matrices = machine.constant(powers(source_.taps, source_.hop))
        machine.launch(program, "states", grid, matrices, seeds, out, *numbers)
        found.append(out)
    return found


@cache
def powers(taps: tuple[int, ...], steps: int) -> NDArray[np.uint32]:
    """Matrices over GF(2), (32, 32): row b, the columns of the one that moves an LFSR 2**b · steps on."""
    columns = []
    for bit in range(32):
        lfsr = LFSR(1 << bit, taps)
        for _ in range(steps):
            lfsr.step()
        columns.append(lfsr.state)
    return matrices_of(columns)


def matrices_of(columns: Sequence[int]) -> NDArray[np.uint32]:
    """Matrices over GF(2), (32, 32): row b, the columns of `columns`' 2**b-th power."""
    matrices = np.empty((32, 32), np.uint32)
    matrices[0] = columns
    bits = np.arange(32, dtype=np.uint32)
    for power in range(1, 32):
        before = matrices[power - 1]
        chosen = np.where(before[:, None] >> bits & 1, before[None, :], 0)
        matrices[power] = np.bitwise_xor.reduce(chosen, axis=1)
    return matrices


class Streams:
    """What packed bit streams count, on a machine: as `quaver.golden.kernels.bitstream`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def signed_ones(self, a: Any, a_negative: Any, b: Any, b_negative: Any) -> NDArray[np.int64]:
        """Cycles of both 1 by sign, (M, N), of streams (M, K, words) and (N, K, words)."""
        left = a, np.ascontiguousarray(a_negative, np.uint8)
        right = b.transpose(1, 2, 0), np.ascontiguousarray(b_negative.T, np.uint8)
        return self._count("signed_ones", *left, *right)

    def differing(self, a: Any, b: Any) -> NDArray[np.int64]:
        """Cycles in which they differ."""
        return self._count("differing", a, b.transpose(1, 2, 0))

    def _count(self, kernel: str, *operands: Any) -> NDArray[np.int64]:
        (M, K, words), N = operands[0].shape, operands[-1].shape[-1]
        counts = self.machine.zeros((M, N), np.int64)
        if M * N * K:
            # A GPU's arrays are PyTorch's, which has signed words.
            views = [x.view(np.int64) if x.itemsize == 8 else x for x in map(np.ascontiguousarray, operands)]
            grid = -(-M * N // THREADS), 1, 1
            numbers = map(np.int32, (M, N, K, words))
            arrays = map(self.machine.upload, views)
            self.machine.launch(source.streams_program(), kernel, grid, *arrays, counts, *numbers)
        found: NDArray[np.int64] = self.machine.download(counts)
        return found


def encode(
    machine: Machine,
    fmt: Format,
    rounding: Rounding,
    values: Any,
    count: int,
    *,
    wide: bool,
    random: Any = None,
    random_bits: int = 16,
    rounded: bool = False,
) -> tuple[Any, Any]:
    """The codes of float32 or (`wide`) float64 values, or with `rounded` the values of those codes.

    And an array of one number, which is not 0 if a value had no code.

    `random` holds a draw for each value, uint32, where the rounding is stochastic.
    """
    if rounding not in source.ROUNDINGS:
        raise ValueError(
            f"rounding is {rounding}, but the CUDA kernels round {', '.join(source.ROUNDINGS)}; "
            f"encode on the CPU"
        )
    program = source.cast_program(fmt)
    out = machine.empty((count,), fmt.value_dtype if rounded else fmt.code_dtype)
    refused = machine.zeros((1,), np.uint32)
    kernel = "round_values" if rounded else "encode_values"
    how = np.int32(wide), np.int32(source.rounding_number(rounding)), random, np.int32(random_bits)
    machine.launch(program, kernel, _along(machine, count), values, *how, out, refused, np.int64(count))
    return out, refused


def decode(machine: Machine, fmt: Format, codes: Any, count: int) -> Any:
    """The values of codes."""
    program = source.cast_program(fmt)
    out = machine.empty((count,), fmt.value_dtype)
    machine.launch(program, "decode_values", _along(machine, count), codes, out, np.int64(count))
    return out


def _along(machine: Machine, count: int) -> tuple[int, int, int]:
    """A grid for so many elements, each thread with several of many."""
    return max(1, min(-(-count // THREADS), 16 * machine.processors)), 1, 1


def update(
    machine: Machine,
    rule: FloatSGD | FixedSGD | Adam,
    weights: Any,
    momenta: Any,
    gradients: Any,
    count: int,
    seed: int | None,
) -> tuple[Any, Any]:
    """One step of `rule` on contiguous codes of `count` weights: new weights and momenta, flat."""
    program = source.update_program(_any_scalars(rule))
    sources = rule.sources(seed)
    lines = [
        name for name in ("decay", "momentum", "second", "rate") if name in sources
    ]  # as the kernels number them
    seeds = machine.upload(np.array([sources[name].state for name in lines], np.uint32)) if sources else None
    matrices = machine.constant(powers(TAPS, rule.random_bits)) if sources else None
    scalars: list[Any]
    formats: tuple[Format, Format]
    if isinstance(rule, FixedSGD):
        kernel, formats = "fixed_sgd", (rule.weights, rule.updates)
        scalars = [np.int64(code) for code in rule.scalars.values()]
    else:
        kernel = "adam" if isinstance(rule, Adam) else "float_sgd"
        formats = (rule.format, rule.format)
        scalars = [np.float64(rule.format.decode(code)) for code in rule.scalars.values()]
    new_weights = machine.empty((count,), formats[0].code_dtype)
    new_momenta = machine.empty((count * (2 if isinstance(rule, Adam) else 1),), formats[1].code_dtype)
    arrays = weights, momenta, gradients, new_weights, new_momenta
    grid = max(1, -(-count // (16 * THREADS))), 1, 1
    machine.launch(program, kernel, grid, matrices, seeds, *scalars, *arrays, np.int64(count))
    return new_weights, new_momenta


@cache
def _any_scalars(rule: FloatSGD | FixedSGD | Adam) -> FloatSGD | FixedSGD | Adam:
    """The same program's rule with scalars that do not tell it from others."""
    if isinstance(rule, Adam):
        return replace(
            rule, rate=0.0, momentum=0.9, second_momentum=0.999, epsilon=rule.epsilon, decay=0.0, step=1
        )
    return replace(rule, rate=0.0, momentum=0.0, decay=0.0)
