"""The vector kernel's instructions: one chunk of one tile of outputs, held in vector registers.

The registers are spelled out in LLVM's vector types, so their width does not hang on a compiler's taste.
Each product costs an ordinary multiply-add and the rounding of the sum: two more (`_Vectors.nearest`), or two
integer operations on random bits or, where ties go away from zero, on half a step (`_Vectors.stochastic`).
The other clauses are there only where `quaver.golden.kernels.vector.plan` cannot prove that they are not
needed.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from quaver.golden.kernels.random_bits import advanced, fill, walked
from quaver.golden.random_bits import DIAGONAL

_FEATURES = str(cpu_target.target_context.codegen().magic_tuple())
AVX512 = "+avx512f" in _FEATURES
AVX512DQ = "+avx512dq" in _FEATURES
#: Bytes of a vector register, and the tile of outputs held in registers: rows × vectors. Sums, operands and
#: windows of draws fit in 32 registers; a third vector would spill the windows.
VECTOR_BYTES = 64 if AVX512 else 32 if "+avx" in _FEATURES else 16
TILE_ROWS, TILE_VECTORS = 6, 2
#: Products that are decoded at once, and tiles of rows: the panels stay in the caches (24 and 240 KiB).
DEPTH, BLOCK_TILES = 128, 80
#: Products whose random bits are drawn at once, and tiles of columns (150, 150 and 570 KiB).
DRAWN_DEPTH, DRAWN_TILES = 64, 16
#: Places of the diagonals' source from a row to the next: they fit the compiled tile, 6 rows high.
PER_ROW = DIAGONAL.per_row


@numba.njit(cache=True, nogil=True)
def vector_kernel(
    left, right, across, table, random, states, shift, chunk, partials, totals, clauses, batch, rows, columns
):
    """Products `batch` (first, end): tiles `rows` (first, end) of the codes `left` times tiles `columns` of
    `right`, into `totals`.

    Of each product, `left` is (rows, K) and `right` (columns, K); `across` says of each whether it lies the
    other way, (K, rows) and (K, columns). `table` holds what each code is worth. `random` is None, or the
    three sources, that of rows, of columns, of diagonals, the bits of a draw, which are shifted by `shift`,
    and what is set below them; `states` (products, 3) are theirs at the first output. `totals`, of zeros, and
    `partials` are (products, rows, columns), in whole tiles. `partials` keeps the sums of chunks longer than
    `depth`; where there are none, nothing touches it.

    A block of rows is decoded up to `depth` products deep, then meets the decoded tiles of columns in turn.
    """
    products = left.shape[1] if across[0] else left.shape[2]
    depth = DEPTH if random is None else DRAWN_DEPTH
    depth = depth // chunk * chunk or depth
    block, width = min(BLOCK_TILES, rows[1] - rows[0]), TILE_VECTORS * VECTOR_BYTES // table.itemsize
    group = min(DRAWN_TILES, columns[1] - columns[0])
    a, b = np.zeros((block, depth, TILE_ROWS), table.dtype), np.zeros((depth, width), table.dtype)
    draws = _draw_panels(random, type(shift), block * TILE_ROWS, group * width, min(products, depth), chunk)
    ahead = np.zeros((columns[1], 3), np.uint64)  # of each tile of columns, the states before its next sum
    blocks = [(p, first) for p in range(batch[0], batch[1]) for first in range(rows[0], rows[1], block)]
    for p, first in blocks:
        tiles, partial, total = min(block, rows[1] - first), partials[p], totals[p]
        _start_draws(random, states[p], first * TILE_ROWS, columns, width, ahead)
        for start in range(0, products, depth):
            end = min(start + depth, products)
            for i in range(tiles):
                _pack(left[p], across[0], (first + i) * TILE_ROWS, start, table, a[i])
            for j in range(columns[0], columns[1]):
                column, in_group = j * width, (j - columns[0]) % group
                _pack(right[p], across[1], column, start, table, b)
                if in_group == 0:
                    _draw(random, shift, ahead[j], end - start + end // chunk - start // chunk, draws)
                k, n = start, 0
                while k < end:
                    resumed, stop = k % chunk > 0, min(k - k % chunk + chunk, end)
                    finished = stop % chunk == 0 or stop == products
                    for i in range(tiles):
                        place = i, in_group, k - start, n, stop - k
                        at = *place, (first + i) * TILE_ROWS, column, resumed, finished
                        _tile(a, b, *draws, partial, total, at, clauses)  # type: ignore[call-arg]
                    n += stop - k + 1
                    k = stop


@numba.njit(nogil=True)
def _pack(codes, across, row, column, table, panel):
    """What codes (rows, columns) are worth, from (row, column) on, into `panel` (columns, rows) as far as
    they go.

    `across`: the codes are (columns, rows).
    """
    columns, rows = panel.shape
    # Both ways the inner loop runs along memory.
    if across:
        codes = codes[column : column + columns, row : row + rows]
        panel = panel[:columns]
    else:
        codes = codes[row : row + rows, column : column + columns]
        panel = panel.T[:rows]
    for i in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            panel[i, j] = table[codes[i, j]]


@numba.njit(nogil=True)
def _draw_panels(random, kind, rows, columns, products, chunk):
    """Room for the draws of so many products, and their folds, of a block of `rows` × `columns` outputs."""
    none = np.empty((0, 0, 0), kind)
    if random is None:
        return none, none, none
    (_, _, diagonals), _, _ = random
    draws = products + products // chunk + 2  # a long chunk's fold, and the last one's
    down, right, step = diagonals.per_row, diagonals.per_column, diagonals.step
    wide = (down * rows + right * columns + step * draws) // right + 1
    return (
        np.empty((1, draws, _room(rows + draws)), kind),
        np.empty((1, draws, _room(columns + draws)), kind),
        np.empty((right, draws, _room(wide)), kind),
    )


@numba.njit(nogil=True)
def _room(places):
    """So many places or more: vectors, the last of which is only read with the one before, and an odd number
    of them, so that rows of places do not meet in the cache."""
    lanes = VECTOR_BYTES // 4
    return ((places // lanes + 2) | 1) * lanes


@numba.njit(nogil=True)
def _start_draws(random, seeds, row, columns, width, states):
    """The states before the first sum of a row's output in each tile of columns, into `states` (tiles, 3)."""
    if random is not None:
        (row_source, lane_source, source), _, _ = random
        rows = walked(seeds[0], row_source, row)
        lanes = walked(seeds[1], lane_source, columns[0] * width)
        places = source.per_row * row + source.per_column * columns[0] * width
        diagonals = walked(seeds[2], source, places)
        for tile in range(columns[0], columns[1]):
            states[tile, 0], states[tile, 1], states[tile, 2] = rows, lanes, diagonals
            lanes = walked(lanes, lane_source, width)
            diagonals = walked(diagonals, source, source.per_column * width)


@numba.njit(nogil=True)
def _draw(random, shift, states, sums, draws):
    """The draws of three sources from `states` on, which move on by so many sums."""
    if random is not None:
        (rows, columns, diagonals), bits, below = random
        fill(states[0], rows, bits, shift, draws[0])
        if below:
            places = draws[0].reshape(-1)
            for place in range(len(places)):
                places[place] |= below
        fill(states[1], columns, bits, shift, draws[1])
        fill(states[2], diagonals, bits, shift, draws[2])
        states[0] = advanced(states[0], rows, sums)
        states[1] = advanced(states[1], columns, sums)
        states[2] = advanced(states[2], diagonals, sums)


@intrinsic
def _tile(typing, a, b, x, y, z, partials, totals, at, clauses):
    """The products of one tile and, when its chunk is finished, their fold.

    `at` is (i, j, k, n, length, row, column, resumed, finished): panel i of a (panels, K, TILE_ROWS) meets b
    (K, width), `length` products from k on. Tile (i, j) of the draws of rows x, columns y and diagonals z,
    (right, n, places), comes with them from n on. The sums are at (row, column) of `totals`, and of
    `partials` before the chunk is resumed and while it is not finished. `clauses` are (scale, drawn, turned,
    corrected, tiny, huge, directed, ties_away, gap, own). One that is None is not compiled, and Numba tells
    the kernels apart by these types.
    """

    def codegen(context, builder, signature, values):
        a_v, b_v, x_v, y_v, z_v, partials_v, totals_v, at_v, clauses_v = values
        i_v, j_v, k_v, n_v, length_v, row_v, column_v, resumed_v, finished_v = cgutils.unpack_tuple(
            builder, at_v
        )
        scale_v, _, _, _, tiny_v, huge_v, directed_v, _, gap_v, _ = cgutils.unpack_tuple(builder, clauses_v)
        scale, drawn, turned, corrected, tiny, huge, directed, ties_away, gap, own = clauses
        vector = _Vectors(context, builder, a.dtype)
        if scale is not types.none:
            vector.scale = vector.splat(scale_v)
            vector.minus_scale = vector.splat(builder.fneg(scale_v))
            units = builder.fptoui(scale_v, vector.ints.element)
            vector.kept = vector.splat(builder.neg(units))
            if ties_away is not types.none:
                half = builder.lshr(units, ir.Constant(units.type, 1))
                vector.half = vector.splat(half)
        vector.corrected = corrected is not types.none
        vector.own = own is not types.none
        if directed is not types.none:
            vector.to_sign = vector.splat(directed_v)
        if tiny is not types.none:
            vector.tiny = vector.splat(tiny_v)
        if gap is not types.none:
            vector.gap = vector.splat(gap_v)
        if huge is not types.none:
            vector.largest, vector.beyond = (vector.splat(builder.extract_value(huge_v, e)) for e in (0, 1))

        def pointer(kind, value, *indices):
            array = context.make_array(kind)(context, builder, value)
            zero = context.get_constant(types.intp, 0)
            indices = (*indices, *[zero] * (kind.ndim - len(indices)))
            return cgutils.get_item_pointer(context, builder, kind, array, indices)

        tile = range(TILE_ROWS), range(TILE_VECTORS)
        partial = [[cgutils.alloca_once(builder, vector.floats) for _ in tile[1]] for _ in tile[0]]

        def rows_at(kind, value):
            """Of every row of the tile: where it lies in `partials` or `totals`, and its registers."""
            for r in tile[0]:
                at = builder.add(row_v, context.get_constant(types.intp, r))
                yield pointer(kind, value, at, column_v), partial[r]

        with builder.if_else(resumed_v) as (kept, fresh):
            with kept:
                for place, slots in rows_at(partials, partials_v):
                    for v, slot in enumerate(slots):
                        builder.store(vector.load(place, v, vector.floats), slot)
            with fresh:
                for slot in chain(*partial):
                    builder.store(vector.zero, slot)

        def number(n):
            return context.get_constant(types.intp, n)

        def randoms(step):
            """Gives the random bits of row r of the tile, for its rounding number n + step."""
            if drawn is types.none:
                return lambda r: [vector.half for _ in tile[1]]
            at, none = builder.add(n_v, step), number(0)
            down, right = (1, PER_ROW) if turned is not types.none else (PER_ROW, 1)
            wide = builder.mul(j_v, number(TILE_VECTORS * vector.count))
            rows = pointer(x, x_v, none, at, builder.mul(i_v, number(TILE_ROWS)))
            columns_at = pointer(y, y_v, none, at, wide)
            columns = [vector.load(columns_at, v, vector.ints) for v in tile[1]]
            first = builder.add(builder.mul(i_v, number(TILE_ROWS * down // right)), wide)
            diagonals = [pointer(z, z_v, number(place), at, first) for place in range(right)]

            def of_row(r):
                row = vector.splat(builder.load(cgutils.gep(builder, rows, r)))
                on, stream = divmod(down * r, right)
                return [
                    builder.xor(
                        builder.xor(row, columns[v]),
                        vector.window(diagonals[stream], on + v * vector.count),
                    )
                    for v in tile[1]
                ]

            return of_row

        with cgutils.for_range(builder, length_v) as loop:
            at = builder.add(k_v, loop.index)
            a_at, b_at = pointer(a, a_v, i_v, at), pointer(b, b_v, at)
            random = randoms(loop.index)
            right = [vector.load(b_at, v, vector.floats) for v in tile[1]]
            for r in tile[0]:
                left = vector.splat(builder.load(cgutils.gep(builder, a_at, r)))
                for v, bits in enumerate(random(r)):
                    slot = partial[r][v]
                    builder.store(vector.rounded_sum(left, right[v], builder.load(slot), bits), slot)
        with builder.if_else(finished_v) as (fold, keep):
            with fold:
                random = randoms(length_v)
                for r, (place, slots) in enumerate(rows_at(totals, totals_v)):
                    for v, bits in enumerate(random(r)):
                        total = vector.load(place, v, vector.floats)
                        total = vector.rounded_sum(vector.one, builder.load(slots[v]), total, bits)
                        vector.store(total, place, v)
            with keep:
                for place, slots in rows_at(partials, partials_v):
                    for v, slot in enumerate(slots):
                        vector.store(builder.load(slot), place, v)
        return context.get_dummy_value()

    return types.void(a, b, x, y, z, partials, totals, at, clauses), codegen


class _Vectors:
    """Emits LLVM instructions on whole vector registers of one float type."""

    scale: ir.Value | None = None
    """2**(w − p): the float's and the accumulator's precision. None: they are one, and so is the rounding."""
    minus_scale: ir.Value
    kept: ir.Value
    """Mask of the bits that stochastic rounding keeps: all but the low w − p."""
    half: ir.Value | None = None
    """Half of the last kept bit, which takes the place of random bits where ties go away from zero."""
    corrected = own = False
    to_sign: ir.Value | None = None
    """Places from the last bit to the sign, where the machine's directed roundings are there to use. It comes
    from outside: shifts by a number that LLVM knew would become a test into a mask register, which is slower.
    """
    tiny = largest = beyond = gap = None

    def __init__(self, context: Any, builder: ir.IRBuilder, scalar: types.Float) -> None:
        self.builder = builder
        self.double = scalar == types.float64
        bits = 64 if self.double else 32
        self.count = VECTOR_BYTES * 8 // bits
        self.floats = ir.VectorType(context.get_value_type(scalar), self.count)
        self.ints = ir.VectorType(ir.IntType(bits), self.count)
        self.sign_shift = self.constant(bits - 1)
        self.sign = self.constant(1 << (bits - 1))
        self.magnitude = self.constant((1 << (bits - 1)) - 1)
        self.zero = ir.Constant(self.floats, [0.0] * self.count)
        self.one = ir.Constant(self.floats, [1.0] * self.count)

    def constant(self, value: int) -> ir.Constant:
        return ir.Constant(self.ints, [value] * self.count)

    def splat(self, scalar: ir.Value) -> ir.Value:
        kind = ir.VectorType(scalar.type, self.count)
        lane = self.builder.insert_element(
            ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
        )
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.count), [0] * self.count)
        return self.builder.shuffle_vector(lane, ir.Constant(kind, ir.Undefined), lanes)

    def _at(self, pointer: ir.Value, index: int, kind: ir.Type) -> ir.Value:
        return cgutils.gep(self.builder, self.builder.bitcast(pointer, kind.as_pointer()), index)

    def load(self, pointer: ir.Value, index: int, kind: ir.Type) -> ir.Value:
        return self.builder.load(self._at(pointer, index, kind), align=4)

    def window(self, pointer: ir.Value, first: int) -> ir.Value:
        """The integers from number `first` on, out of two whole vectors that other windows share: rows of
        the tile would else load each vector anew, across two lines of the cache."""
        whole, rest = divmod(first, self.count)
        left = self.load(pointer, whole, self.ints)
        if not rest:
            return left
        lanes = [ir.Constant(ir.IntType(32), rest + lane) for lane in range(self.count)]
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.count), lanes)
        return self.builder.shuffle_vector(left, self.load(pointer, whole + 1, self.ints), lanes)

    def store(self, value: ir.Value, pointer: ir.Value, index: int) -> None:
        self.builder.store(value, self._at(pointer, index, value.type), align=4)

    def as_ints(self, value: ir.Value) -> ir.Value:
        return self.builder.bitcast(value, self.ints)

    def as_floats(self, value: ir.Value) -> ir.Value:
        return self.builder.bitcast(value, self.floats)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a·b + c where a·b is exact, so that it does not matter whether the machine fuses the two."""
        return self.builder.fadd(self.builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))

    def magnitude_of(self, value: ir.Value) -> ir.Value:
        return self.as_floats(self.builder.and_(self.as_ints(value), self.magnitude))

    def with_sign_of(self, sign: ir.Value, magnitude: ir.Value) -> ir.Value:
        """`magnitude`, which is not negative, with the sign of `sign`."""
        b = self.builder
        return self.as_floats(b.or_(b.and_(self.as_ints(sign), self.sign), self.as_ints(magnitude)))

    def rounded_sum(self, a: ir.Value, b: ir.Value, c: ir.Value, random: ir.Value | None) -> ir.Value:
        """round(c + a·b) by every clause that is set."""
        emit = self.builder
        if random is None:
            total = self.sum_to_odd(a, b, c) if self.corrected else self.multiply_add(a, b, c)
            result = total if self.scale is None else self.nearest(total)
        else:
            total = self.multiply_add(a, b, c) if self.own else self.truncated_sum(a, b, c)
            result = self.stochastic(total, random)
            if self.tiny is not None:
                below = emit.fcmp_ordered("<", self.magnitude_of(total), self.tiny)
                result = emit.select(below, self.stochastic_subnormal(total, random), result)
            if self.gap is not None:
                outside = emit.fcmp_unordered(">", self.magnitude_of(result), self.gap)
                result = emit.select(outside, result, self.with_sign_of(total, self.zero))
        if self.largest is not None:
            fits = emit.fcmp_ordered("<=", self.magnitude_of(result), self.largest)
            beyond = emit.select(
                emit.fcmp_unordered("uno", total, total), total, self.with_sign_of(total, self.beyond)
            )
            result = emit.select(fits, result, beyond)
        return result

    def nearest(self, total: ir.Value) -> ir.Value:
        """Round to p of w ≥ 2p + 2 bits: (total − shift) + shift with shift = scale·total.

        Let S, 2**(w−1) ≤ S < 2**w, be |total| in units of its last bit, and q = S/scale its p bits with a
        fraction. The inner sum is scale · (S − q), rounded to an integer S − q, ties to even. The outer is
        exact: q rounded likewise. A tie of q means that S is even, so that what is even for S − q is even for
        q. If S − q is below 2**(w−1), halves survive the inner rounding; but then the fraction of q is below
        1/4, because w ≥ 2p + 2, and is rounded away all the same.

        Below the smallest normal number the shift stays 1.5 · scale · it, whose unit is the quantum.
        """
        near = total
        if self.tiny is not None:
            least = self.builder.fmul(self.tiny, ir.Constant(self.floats, [1.5] * self.count))
            near = self.at_least(least, total)
        return self.multiply_add(near, self.scale, self.multiply_add(near, self.minus_scale, total))

    def at_least(self, least: ir.Value, value: ir.Value) -> ir.Value:
        """`value`, or `least` with its sign where that is the larger magnitude."""
        emit = self.builder
        if AVX512DQ:
            larger_magnitude, sign_of_first, mxcsr = 0b11, 0b00 << 2, 4
            bits = ir.IntType(32)
            mask = ir.IntType(self.count)
            kind = ir.FunctionType(self.floats, [self.floats, self.floats, bits, self.floats, mask, bits])
            name = f"llvm.x86.avx512.mask.range.p{'d' if self.double else 's'}.512"
            function = cgutils.get_or_insert_function(emit.module, kind, name)
            how, all_lanes = ir.Constant(bits, larger_magnitude | sign_of_first), ir.Constant(mask, -1)
            return emit.call(function, [value, least, how, value, all_lanes, ir.Constant(bits, mxcsr)])
        magnitude = self.magnitude_of(value)
        magnitude = emit.select(emit.fcmp_ordered(">", magnitude, least), magnitude, least)
        return self.with_sign_of(value, magnitude)

    def stochastic(self, total: ir.Value, random: ir.Value) -> ir.Value:
        """Add `random` to the bits below the kept ones and cut those off; a carry may reach the exponent."""
        b = self.builder
        return self.as_floats(b.and_(b.add(self.as_ints(total), random), self.kept))

    def stochastic_subnormal(self, total: ir.Value, random: ir.Value) -> ir.Value:
        """The same in units of the quantum, which tiny + |total| < 2 · tiny has in the right place."""
        above = self.truncated_sum(self.one, self.magnitude_of(total), self.tiny)
        result = self.builder.fsub(self.stochastic(above, random), self.tiny)
        return self.with_sign_of(total, result)

    def two_sum(self, a: ir.Value, b: ir.Value, c: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The rounded sum of c and the exact a·b, and what the rounding lost (Knuth's TwoSum)."""
        emit = self.builder
        product = emit.fmul(a, b)
        total = emit.fadd(c, product)
        back = emit.fsub(total, c)
        return total, emit.fadd(emit.fsub(c, emit.fsub(total, back)), emit.fsub(product, back))

    def sum_to_odd(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """c + a·b; if it is inexact, of the two floats around it the one whose last bit is 1."""
        emit, one = self.builder, self.constant(1)
        if self.to_sign is not None:
            down, up = (self.as_ints(self.directed_sum(a, b, c, mode)) for mode in (1, 2))
            odd = emit.ashr(emit.shl(down, self.to_sign), self.to_sign)  # all ones, or none
            return self.as_floats(emit.or_(emit.and_(down, odd), emit.and_(up, emit.not_(odd))))
        total, lost = self.two_sum(a, b, c)
        bits = self.as_ints(total)
        inward = emit.ashr(emit.xor(bits, self.as_ints(lost)), self.sign_shift)  # −1 if the magnitude is less
        even = emit.icmp_unsigned("==", emit.and_(bits, one), self.constant(0))
        wrong = emit.and_(even, emit.fcmp_ordered("one", lost, self.zero))
        return self.as_floats(emit.select(wrong, emit.add(bits, emit.or_(inward, one)), bits))

    def truncated_sum(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """c + a·b rounded toward zero: by the machine, or by taking back a step outward."""
        emit = self.builder
        if self.to_sign is not None:
            return self.directed_sum(a, b, c, 3)
        total, lost = self.two_sum(a, b, c)
        bits = self.as_ints(total)
        inward = emit.ashr(emit.xor(bits, self.as_ints(lost)), self.sign_shift)
        step = emit.select(emit.fcmp_ordered("one", lost, self.zero), inward, self.constant(0))
        return self.as_floats(emit.add(bits, step))

    def directed_sum(self, a: ir.Value, b: ir.Value, c: ir.Value, mode: int) -> ir.Value:
        """c + a·b by AVX-512's instruction that rounds down (mode 1), up (2) or toward zero (3)."""
        emit, quiet = self.builder, 8
        kind = ir.FunctionType(self.floats, [self.floats] * 3 + [ir.IntType(32)])
        name = f"llvm.x86.avx512.vfmadd.p{'d' if self.double else 's'}.512"
        function = cgutils.get_or_insert_function(emit.module, kind, name)
        return emit.call(function, [a, b, c, ir.Constant(ir.IntType(32), mode | quiet)])
