"""Random bits for operands: the states of two LFSRs at an array's upper left corner."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.arithmetic.bitstream import COLUMN_STREAMS, ROW_STREAMS
from quaver.golden.random_bits import DIAGONAL
from quaver.rtl.lfsr import leap
from quaver.rtl.random_sources import Sources, TileStarts, streams_on


class OperandRandom(wiring.Component):
    """For each cycle of an array, the states of the generators of row 0 and of column 0 after its draws.

    A tile's first draw begins with the states at its first output; in bubbles and folds, without draws, the
    states stay. From the corner they walk along both edges (`SystolicArray`). Between outputs there is one
    lane.

    Parameters
    ----------
    rows, columns
        Of the array.
    bits
        Of a draw for a and for b.

    ============ === ======================================================================================
    draws        in  this cycle takes new draws
    begins       in  with `draws`: they are a tile's first; at least one cycle apart
    first_tile   in  with `begins`: the tile is the GEMM's first; …
    first_column in  … the first of a row of tiles
    sources      in  `Sources` of the GEMM's first output, with `first_tile`
    random       out `Sources` after the draws of 2 cycles ago; there is no diagonal
    ============ === ======================================================================================
    """

    #: Cycles from a draw to its `random`.
    latency = 2

    def __init__(self, rows: int, columns: int, bits: tuple[int, int]) -> None:
        self.rows, self.columns, self.bits = rows, columns, bits
        super().__init__(
            {
                "draws": In(1),
                "begins": In(1),
                "first_tile": In(1),
                "first_column": In(1),
                "sources": In(Sources),
                "random": Out(Sources),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.starts = starts = TileStarts(
            self.rows, self.columns, (ROW_STREAMS, COLUMN_STREAMS, DIAGONAL), streams_on
        )
        start = Signal(Sources)
        begins = Signal()
        draws = Signal()
        m.d.comb += [
            starts.begins.eq(self.begins),
            starts.first_lane.eq(1),
            starts.first_tile.eq(self.first_tile),
            starts.first_column.eq(self.first_column),
            starts.sources.eq(self.sources),
        ]
        m.d.sync += [start.eq(starts.start), begins.eq(self.begins), draws.eq(self.draws)]
        for name, source, bits in zip(
            ("row", "column"), (ROW_STREAMS, COLUMN_STREAMS), self.bits, strict=True
        ):
            state = Signal(32, name=name, reset_less=True)
            with m.If(draws):
                m.d.sync += state.eq(leap(Mux(begins, start[name], state), bits, source.taps))
            m.d.comb += self.random[name].eq(state)
        return m
