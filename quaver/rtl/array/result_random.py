"""Random bits for results that are rounded on their way out: two LFSRs for the whole array."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from quaver.golden.lfsr import COLUMN_TAPS, TAPS
from quaver.rtl.lfsr import leap

#: The LFSRs as they are before the draws of a tile's first row and of its first column.
Sources = data.StructLayout({"row": 32, "column": 32})


class ResultRandom(wiring.Component):
    """For the result in row i, column j of a GEMM: draw i of its row source XOR draw j of its column source.

    Tiles follow each other with the columns fastest. A tile's rows leave from the last to the first, so the
    row source runs backwards from the tile's end; the column source walks with the results from column to
    column.

    Parameters
    ----------
    rows, columns
        Of a tile.
    bits
        Of a draw.

    ============== === ====================================================================================
    reserve        in  a tile's results will come; one pulse a tile, in order, 4 cycles before them or sooner,
                       and 2 after the last
    sources        in  `Sources` of its GEMM, with `reserve`
    first, restart in  with `reserve`: it is the GEMM's first tile; the first tile of a row of tiles
    leaving        in  column 0 rounds a result in the next cycle; `rows` of them a tile
    random         out `columns` · `bits`: for column c's result, c cycles after column 0's; registers
    ============== === ====================================================================================
    """

    def __init__(self, rows: int, columns: int, bits: int) -> None:
        self.rows, self.columns, self.bits = rows, columns, bits
        super().__init__(
            {
                "reserve": In(1),
                "sources": In(Sources),
                "first": In(1),
                "restart": In(1),
                "leaving": In(1),
                "random": Out(data.ArrayLayout(bits, columns)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Where tiles begin: the row source behind the tile's rows, the column source before its columns. The
        # leaps are long exclusive-ors, so that they have a cycle to themselves.
        m.submodules.tiles = tiles = SyncFIFOBuffered(width=Sources.size, depth=4)
        begin = Signal(Sources)
        tile = Signal(Sources)
        end = Signal(32)
        following = Signal(32)
        leaps = Signal()
        m.d.comb += [
            tile.row.eq(Mux(leaps, leap(begin.row, self.rows * self.bits, TAPS), begin.row)),
            tile.column.eq(begin.column),
            tiles.w_data.eq(tile),
        ]
        m.d.sync += [
            tiles.w_en.eq(self.reserve),
            leaps.eq(self.restart),
            begin.row.eq(Mux(self.first, self.sources.row, end)),
            begin.column.eq(Mux(self.restart, self.sources.column, following)),
        ]
        with m.If(tiles.w_en):
            m.d.sync += [
                end.eq(tile.row),
                following.eq(leap(begin.column, self.columns * self.bits, COLUMN_TAPS)),
            ]

        left = Signal(range(self.rows))
        begins = Signal()
        head = Sources(tiles.r_data)
        row = Signal(32)
        row_now = Signal(32)
        m.d.comb += [
            begins.eq(self.leaving & (left == 0)),
            tiles.r_en.eq(begins),
            row_now.eq(Mux(begins, head.row, row)),
        ]
        with m.If(self.leaving):
            m.d.sync += [
                left.eq(Mux(begins, self.rows - 1, left - 1)),
                row.eq(leap(row_now, -self.bits, TAPS)),
            ]
        x, column = row_now[: self.bits], head.column
        for c in range(self.columns):
            drawn, y, y_now = (
                Signal(n, name=f"{name}_{c}")
                for name, n in (("drawn", 32), ("y", self.bits), ("y_now", self.bits))
            )
            m.d.comb += drawn.eq(leap(column, self.bits, COLUMN_TAPS))
            m.d.comb += y_now.eq(Mux(begins, drawn[: self.bits], y))
            m.d.sync += [y.eq(y_now), self.random[c].eq(x ^ y_now)]
            before = begins, x, drawn
            begins, x, column = (
                Signal(name=f"begins_{c}"),
                Signal(self.bits, name=f"x_{c}"),
                Signal(32, name=f"column_{c}"),
            )
            m.d.sync += [after.eq(value) for after, value in zip((begins, x, column), before, strict=True)]
        return m
