"""Exact products of matrices of bytes by the machine's dot instruction, vpdpbusd of AVX-512 VNNI.

It adds to each of 16 sums of 32 bits the products of four unsigned and four signed bytes, and loses nothing
but carries out of the sums: 255 · −128 fits the 16 bits that it has for a product. So all of this is
arithmetic modulo 2**32, for any K, and right where the true sums fit 32 bits, as `Integer` sees to.

A code becomes a byte by an exclusive-or (`Reading`), and its value is step · byte + offset. With s·u + o of
the left operand, whose bytes are unsigned, and t·v + p of the right one::

    Σ (s·u + o) · (t·v + p)  =  s·t · Σ u·v  +  s·p · Σ u  +  o·t · Σ v  +  K·o·p

Operands are packed into panels of words, four bytes along K in each: as many words of a step of K side by
side as a tile has rows or columns. The instructions are spelled out in LLVM's vector types.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from quaver.golden.formats import IntegerFormat, Levels
from quaver.golden.kernels.threads import each
from quaver.golden.kernels.vector import spans

Codes = NDArray[np.uint8]

#: Whether the processor that Numba compiles for has the instruction.
AVAILABLE = "+avx512vnni" in str(cpu_target.target_context.codegen().magic_tuple())
#: Words of a vector, and the tile of outputs held in registers: 24 vectors of sums, and what they meet.
LANES = 16
TILE_ROWS, TILE_COLUMNS = 12, 2 * LANES
#: Products that are packed at once, and tiles of rows: the panels stay in the caches (32 and 480 KiB).
DEPTH, BLOCK_TILES = 1024, 40
#: Multiply-accumulates below which a second thread costs more than it brings.
ONE_THREAD_MACS = 100_000_000


@dataclass(frozen=True)
class Reading:
    """How the codes of a format are read as bytes: value = step · (code ^ mask) + offset."""

    mask: int
    step: int
    offset: int

    @classmethod
    def unsigned(cls, fmt: IntegerFormat) -> Reading:
        """As bytes 0 … 255, which count from the lowest value."""
        return cls(1 << (fmt.bits - 1) if fmt.levels is Levels.SIGNED else 0, fmt.step, fmt.lowest)

    @classmethod
    def signed(cls, fmt: IntegerFormat) -> Reading:
        """As bytes −128 … 127: up to 7 bits the same, and of 8 bits those that count from the middle."""
        low = cls.unsigned(fmt)
        return cls(low.mask ^ 128, low.step, low.offset + 128 * low.step) if fmt.bits == 8 else low


def gemm(a: Codes, b: Codes, formats: tuple[IntegerFormat, IntegerFormat]) -> NDArray[np.uint32]:
    """The sums of A·B modulo 2**32: codes (M, K) and (K, N) of formats of at most 8 bits give (M, N)."""
    (M, K), N = a.shape, b.shape[1]
    sums = np.empty((M, N), np.uint32)
    (left, left_across), (right, right_across) = _as_it_lies(a), _as_it_lies(b.T)
    inputs = (left, right, (left_across, right_across), *_constants(formats, K), sums)
    rows, columns = -(-M // TILE_ROWS), -(-N // TILE_COLUMNS)
    threads = numba.get_num_threads() if M * K * N > ONE_THREAD_MACS else 1
    if rows >= columns:
        jobs = [(*inputs, span, (0, columns)) for span in spans(rows, threads)]
    else:
        jobs = [(*inputs, (0, rows), span) for span in spans(columns, threads)]
    each(_tiles, jobs, threads)
    return sums


def _as_it_lies(codes: Codes) -> tuple[Codes, bool]:
    """Codes (rows, K) as a C-contiguous array, and whether it is (K, rows): what lies so is not copied."""
    if not codes.flags.c_contiguous and codes.T.flags.c_contiguous:
        return codes.T, True
    return np.ascontiguousarray(codes), False


@lru_cache(maxsize=1024)
def _constants(formats: tuple[IntegerFormat, IntegerFormat], K: int) -> tuple[Any, ...]:
    """What the kernel takes of the formats: the operands' masks, how far sums of products are shifted, and
    what is added: by rows, by columns and everywhere."""
    left, right = Reading.unsigned(formats[0]), Reading.signed(formats[1])
    factors = left.step * right.offset, left.offset * right.step, K * left.offset * right.offset
    corrections = tuple(np.uint32(factor % (1 << 32)) for factor in factors)
    shift = np.uint32((left.step * right.step).bit_length() - 1)  # steps are 1 or 2
    return (np.uint8(left.mask), np.uint8(right.mask)), shift, corrections


@numba.njit(cache=True, nogil=True)
def _tiles(left, right, across, masks, shift, corrections, sums, rows, columns):
    """Tiles `rows` (first, end) of the codes `left` times tiles `columns` of `right`, into `sums` (M, N).

    `left` is (M, K) and `right` (N, K); `across` says of each whether it lies the other way. A block of rows
    is packed up to `DEPTH` products deep, then meets the packed tiles of columns in turn. What a tile has
    beyond the operands' rows and columns is made of whatever lies there, and not stored.
    """
    (M, N), K = sums.shape, left.shape[0] if across[0] else left.shape[1]
    by_row, by_column, constant = corrections
    block = max(min(BLOCK_TILES, rows[1] - rows[0]), 1)
    depth = min(DEPTH, (K + 63) // 64 * 64) // 4
    left_panels = np.empty((block, depth, TILE_ROWS), np.uint32)
    right_panel = np.empty((depth, TILE_COLUMNS), np.uint32)
    of_rows, of_columns = np.empty((block, TILE_ROWS), np.uint32), np.empty(TILE_COLUMNS, np.uint32)
    for first in range(rows[0], rows[1], block):
        tiles = min(block, rows[1] - first)
        for k in range(0, max(K, 1), DEPTH):
            end = min(k + DEPTH, K)
            for i in range(tiles):
                row = (first + i) * TILE_ROWS
                if across[0]:
                    _pack_rows_across(left, masks[0], row, k, end, left_panels[i], of_rows[i])
                else:
                    for r in range(min(TILE_ROWS, M - row)):
                        of_rows[i, r] = _pack_row(left, masks[0], row + r, k, end, left_panels[i], r)
                for r in range(TILE_ROWS):
                    of_rows[i, r] = by_row * of_rows[i, r] + (constant if k == 0 else np.uint32(0))
            for j in range(columns[0], columns[1]):
                column = j * TILE_COLUMNS
                if across[1]:
                    _pack_columns_across(right, masks[1], column, k, end, right_panel, of_columns)
                else:
                    for c in range(min(TILE_COLUMNS, N - column)):
                        of_columns[c] = _pack_column(right, masks[1], column + c, k, end, right_panel, c)
                for c in range(TILE_COLUMNS):
                    of_columns[c] *= by_column
                for i in range(tiles):
                    at = (first + i) * TILE_ROWS, column
                    packed = left_panels[i], right_panel, (end - k + 3) // 4
                    _tile(packed, shift, of_rows[i], of_columns, sums, at, k > 0)  # type: ignore[call-arg]


_BYTE, _WORD, _VECTOR = ir.IntType(8), ir.IntType(32), ir.VectorType(ir.IntType(32), LANES)
_ZERO, _ONES = (ir.Constant(_VECTOR, [word] * LANES) for word in (0, 0x01010101))


def _call(builder, name, kind, *arguments):
    """What a function of LLVM's gives, which is of this type."""
    of = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, of, name), arguments)


def _add_dots(builder, sums, unsigned, signed):
    """Adds the products of four bytes to each of the sums, which are kept in a slot."""
    total = _call(builder, "llvm.x86.avx512.vpdpbusd.512", _VECTOR, builder.load(sums), unsigned, signed)
    builder.store(total, sums)


def _add_bytes(builder, sums, words, signed):
    """Adds the four bytes of each word."""
    _add_dots(builder, sums, *((_ONES, words) if signed else (words, _ONES)))


def _splat(builder, scalar, count=LANES):
    """`count` lanes of the same."""
    kind, zeros = ir.VectorType(scalar.type, count), ir.VectorType(_WORD, count)
    lane = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(lane, ir.Constant(kind, ir.Undefined), ir.Constant(zeros, [0] * count))


def _first(builder, present, count):
    """Of `count` lanes the first `present`: none if that is negative, all if it is more than there are."""
    number = present.type
    some = builder.sub(builder.shl(number(1), present), number(1))
    mask = builder.select(builder.icmp_signed("<", present, number(count)), some, number(-1))
    mask = builder.select(builder.icmp_signed(">", present, number(0)), mask, number(0))
    mask = mask if count == number.width else builder.trunc(mask, ir.IntType(count))
    return builder.bitcast(mask, ir.VectorType(ir.IntType(1), count))


def _bytes(builder, pointer, present, count, mask):
    """`count` bytes, exclusive-or `mask`; 0 for those beyond the first `present`, which are not read."""
    masks, there = _splat(builder, mask, count), _first(builder, present, count)
    found = _call(builder, f"llvm.masked.load.v{count}i8.p0", masks.type, pointer, _WORD(1), there, masks)
    return builder.xor(found, masks)


def _store(builder, vector, pointer, lanes):
    """Stores the first lanes, as `_first` says which."""
    name = f"llvm.masked.store.v{LANES}i32.p0"
    _call(builder, name, ir.VoidType(), vector, pointer, _WORD(4), lanes)


class _Array:
    """An array of Numba's, seen from LLVM."""

    def __init__(self, context, builder, kind, value):
        self.context, self.builder, self.kind = context, builder, kind
        self.array = context.make_array(kind)(context, builder, value)
        self.number = context.get_value_type(types.intp)
        self.shape = cgutils.unpack_tuple(builder, self.array.shape)

    def __call__(self, *indices, of):
        """Where an element lies, as a pointer to `of`."""
        where = [self.number(i) if isinstance(i, int) else i for i in indices]
        place = cgutils.get_item_pointer(self.context, self.builder, self.kind, self.array, where)
        return self.builder.bitcast(place, of.as_pointer())


def _packer(signed):
    """Packs row `row` (rows, K) from k to `end` as lane `lane` of `panel`, with zeros up to 16 whole words;
    gives the sum of its bytes, which are signed or unsigned."""

    @intrinsic
    def pack(typing, codes, mask, row, k, end, panel, lane):
        def codegen(context, builder, signature, values):
            codes_v, mask_v, row_v, k_v, end_v, panel_v, lane_v = values
            source, target = (
                _Array(context, builder, kind, value) for kind, value in ((codes, codes_v), (panel, panel_v))
            )
            number, total = source.number, cgutils.alloca_once_value(builder, _ZERO)
            length = builder.sub(end_v, k_v)
            vectors = builder.lshr(builder.add(length, number(63)), number(6))
            with cgutils.for_range(builder, vectors) as loop:
                at = builder.shl(loop.index, number(6))
                pointer = source(row_v, builder.add(k_v, at), of=_BYTE)
                found = _bytes(builder, pointer, builder.sub(length, at), 4 * LANES, mask_v)
                words = builder.bitcast(found, _VECTOR)
                _add_bytes(builder, total, words, signed)
                for n in range(LANES):
                    step = builder.add(builder.shl(loop.index, number(4)), number(n))
                    word = builder.extract_element(words, _WORD(n))
                    builder.store(word, target(step, lane_v, of=_WORD))
            return _call(builder, f"llvm.vector.reduce.add.v{LANES}i32", _WORD, builder.load(total))

        return types.uint32(codes, mask, row, k, end, panel, lane), codegen

    return pack


def _packer_across(width, signed):
    """Packs `width` rows of codes (K, rows) from `row` on, from k to `end`, into `panel`, with zeros up to
    whole words and where there are no rows; `sums` of each row's bytes, which are signed or unsigned."""
    parts = [(at, min(LANES, width - at)) for at in range(0, width, LANES)]

    @intrinsic
    def pack(typing, codes, mask, row, k, end, panel, sums):
        def codegen(context, builder, signature, values):
            codes_v, mask_v, row_v, k_v, end_v, panel_v, sums_v = values
            source, target, of_rows = (
                _Array(context, builder, kind, value)
                for kind, value in ((codes, codes_v), (panel, panel_v), (sums, sums_v))
            )
            number = source.number
            totals = [cgutils.alloca_once_value(builder, _ZERO) for _ in parts]
            present, last = builder.sub(source.shape[1], row_v), builder.sub(end_v, number(1))
            steps = builder.lshr(builder.add(builder.sub(end_v, k_v), number(3)), number(2))
            with cgutils.for_range(builder, steps) as loop:
                words = [_ZERO for _ in parts]
                for byte in range(4):
                    at = builder.add(k_v, builder.add(builder.shl(loop.index, number(2)), number(byte)))
                    there = builder.icmp_signed("<=", at, last)
                    at = builder.select(there, at, last)
                    for v, (lane, _) in enumerate(parts):
                        lanes = builder.select(there, builder.sub(present, number(lane)), number(0))
                        pointer = source(at, builder.add(row_v, number(lane)), of=_BYTE)
                        found = builder.zext(_bytes(builder, pointer, lanes, LANES, mask_v), _VECTOR)
                        placed = builder.shl(found, ir.Constant(_VECTOR, [8 * byte] * LANES))
                        words[v] = builder.or_(words[v], placed)
                for (lane, count), word, total in zip(parts, words, totals, strict=True):
                    _add_bytes(builder, total, word, signed)
                    lanes = _first(builder, number(count), LANES)
                    _store(builder, word, target(loop.index, lane, of=_VECTOR), lanes)
            for (lane, count), total in zip(parts, totals, strict=True):
                lanes = _first(builder, number(count), LANES)
                _store(builder, builder.load(total), of_rows(lane, of=_VECTOR), lanes)
            return context.get_dummy_value()

        return types.void(codes, mask, row, k, end, panel, sums), codegen

    return pack


_pack_row, _pack_rows_across = _packer(signed=False), _packer_across(TILE_ROWS, signed=False)
_pack_column, _pack_columns_across = _packer(signed=True), _packer_across(TILE_COLUMNS, signed=True)


@intrinsic
def _tile(typing, packed, shift, of_rows, of_columns, sums, at, resumed):
    """The products of one tile, and what its rows and columns add, into `sums` (M, N) at the place `at`, or
    added to what is there if they are `resumed`.

    `packed` is (left, right, steps): panels that meet for so many words. The sums of their products are
    shifted to the left by `shift`.
    """

    def codegen(context, builder, signature, values):
        packed_v, shift_v, of_rows_v, of_columns_v, sums_v, at_v, resumed_v = values
        *panels, steps = zip(packed, cgutils.unpack_tuple(builder, packed_v), strict=True)
        left, right, by_row, by_column, target = (
            _Array(context, builder, kind, value)
            for kind, value in (*panels, (of_rows, of_rows_v), (of_columns, of_columns_v), (sums, sums_v))
        )
        number, tile = target.number, (range(TILE_ROWS), range(0, TILE_COLUMNS, LANES))
        totals = {(r, c): cgutils.alloca_once_value(builder, _ZERO) for r in tile[0] for c in tile[1]}
        with cgutils.for_range(builder, steps[1]) as loop:
            columns = {c: builder.load(right(loop.index, c, of=_VECTOR), align=4) for c in tile[1]}
            for r in tile[0]:
                row = _splat(builder, builder.load(left(loop.index, r, of=_WORD)))
                for c, column in columns.items():
                    _add_dots(builder, totals[r, c], row, column)
        row, column = cgutils.unpack_tuple(builder, at_v)
        height, width = (builder.sub(n, first) for n, first in zip(target.shape, (row, column), strict=True))
        places = _splat(builder, shift_v)
        for r, c in totals:
            there = builder.select(builder.icmp_signed("<", number(r), height), width, number(0))
            lanes = _first(builder, builder.sub(there, number(c)), LANES)
            place = target(builder.add(row, number(r)), builder.add(column, number(c)), of=_VECTOR)
            old = builder.and_(lanes, _splat(builder, resumed_v))
            old = _call(builder, f"llvm.masked.load.v{LANES}i32.p0", _VECTOR, place, _WORD(4), old, _ZERO)
            total = builder.add(builder.shl(builder.load(totals[r, c]), places), old)
            total = builder.add(total, _splat(builder, builder.load(by_row(r, of=_WORD))))
            total = builder.add(total, builder.load(by_column(c, of=_VECTOR), align=4))
            _store(builder, total, place, lanes)
        return context.get_dummy_value()

    return types.void(packed, shift, of_rows, of_columns, sums, at, resumed), codegen
