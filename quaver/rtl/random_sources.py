"""The random sources of an array: the twin of `quaver.golden.random_bits`."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import xor

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.random_bits import SOURCES, Source
from quaver.rtl.lfsr import leap

#: The states of the three sources at one output.
Sources = data.StructLayout({"row": 32, "column": 32, "diagonal": 32})


def places_on(state: Value, source: Source, places: int) -> Value:
    """A source's state so many places on, or back where negative."""
    return leap(state, places * source.hop, source.taps)


def one_sum_on(state: Value, source: Source) -> Value:
    """A source's state for the next sum of the same output."""
    return state ^ places_on(state, source, source.step)


def streams_on(state: Value, source: Source, places: int) -> Value:
    """A generator's state so many rows or columns on, of `quaver.golden.arithmetic.bitstream`.

    A place is a factor 1 + x**hop: of the power's binomial coefficients the odd ones count.
    """
    return reduce(xor, (places_on(state, source, i) for i in range(places + 1) if i & places == i))


class TileStarts(wiring.Component):
    """The states at the first output of each tile of a GEMM, and of each of its lanes.

    Tiles follow each other with the columns fastest; lane l of a tile begins `columns` · l columns further
    on.

    Parameters
    ----------
    rows, columns
        Of an array.
    sources
        The rows', the columns' and the diagonals'.
    on
        A source's state so many places on.

    ============ === ======================================================================================
    begins       in  this cycle is a lane of a tile, in order; tiles begin at least one cycle after each other
    first_lane   in  with `begins`: it is the tile's first
    first_tile   in  with `first_lane`: the tile is the GEMM's first; …
    first_column in  … the first of a row of tiles
    sources      in  `Sources` of the GEMM's first output, with `first_tile`
    start        out `Sources` of the lane's first output; combinational, one a cycle
    ============ === ======================================================================================
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        sources: tuple[Source, Source, Source] = SOURCES,
        on: Callable[[Value, Source, int], Value] = places_on,
    ) -> None:
        self.rows, self.columns, self.of, self.on = rows, columns, sources, on
        super().__init__(
            {
                "begins": In(1),
                "first_lane": In(1),
                "first_tile": In(1),
                "first_column": In(1),
                "sources": In(Sources),
                "start": Out(Sources),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row, column, diagonal = self.of
        # The next lane of the tile, and behind its last lane the first of the next tile.
        following = Signal(Sources, reset_less=True)
        below = Signal(Sources, reset_less=True)  # the first tile of the next row of tiles
        m.d.comb += self.start.eq(following)
        with m.If(self.first_lane & self.first_tile):
            m.d.comb += self.start.eq(self.sources)
        with m.Elif(self.first_lane & self.first_column):
            m.d.comb += self.start.eq(below)
        with m.If(self.begins):
            m.d.sync += [
                following.row.eq(self.start.row),
                following.column.eq(self.on(self.start.column, column, self.columns)),
                following.diagonal.eq(self.on(self.start.diagonal, diagonal, self.columns)),
            ]
            with m.If(self.first_lane & self.first_column):
                m.d.sync += [
                    below.row.eq(self.on(self.start.row, row, self.rows)),
                    below.column.eq(self.start.column),
                    below.diagonal.eq(self.on(self.start.diagonal, diagonal, self.rows * diagonal.per_row)),
                ]
        return m
