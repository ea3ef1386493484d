"""Random bits for results that are rounded on their way out: three LFSRs for the whole array."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from quaver.golden.random_bits import COLUMN, DIAGONAL, ROW
from quaver.rtl.random_sources import Sources, TileStarts, places_on


class ResultRandom(wiring.Component):
    """For each result of a GEMM, the random bits of its output's first sum (`quaver.golden.random_bits`).

    Tiles follow each other with the columns fastest. A tile's rows leave from the last to the first, so the
    sources of rows and diagonals run backwards from the tile's last row; row and diagonal walk with the
    results from column to column, where each has its own draw.

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
        m.submodules.starts = starts = TileStarts(self.rows, self.columns)
        m.submodules.tiles = tiles = SyncFIFOBuffered(width=Sources.size, depth=4)
        # The leaps to a tile's last row are long exclusive-ors, so that they have a cycle to themselves.
        begin = Signal(Sources, reset_less=True)
        tile = Signal(Sources)
        to_last_row = self.rows - 1
        m.d.comb += [
            starts.begins.eq(self.reserve),
            starts.first_lane.eq(1),
            starts.first_tile.eq(self.first),
            starts.first_column.eq(self.restart),
            starts.sources.eq(self.sources),
            tile.row.eq(places_on(begin.row, ROW, to_last_row)),
            tile.column.eq(begin.column),
            tile.diagonal.eq(places_on(begin.diagonal, DIAGONAL, to_last_row * DIAGONAL.per_row)),
            tiles.w_data.eq(tile),
        ]
        m.d.sync += [tiles.w_en.eq(self.reserve), begin.eq(starts.start)]

        left = Signal(range(self.rows))
        begins = Signal()
        head = Sources(tiles.r_data)
        states = {
            name: (Signal(32, name=name, reset_less=True), Signal(32, name=f"{name}_now"))
            for name in ("row", "diagonal")
        }
        (row, row_now), (diagonal, diagonal_now) = states["row"], states["diagonal"]
        m.d.comb += [
            begins.eq(self.leaving & (left == 0)),
            tiles.r_en.eq(begins),
            row_now.eq(Mux(begins, head.row, row)),
            diagonal_now.eq(Mux(begins, head.diagonal, diagonal)),
        ]
        with m.If(self.leaving):
            m.d.sync += [
                left.eq(Mux(begins, self.rows - 1, left - 1)),
                row.eq(places_on(row_now, ROW, -1)),
                diagonal.eq(places_on(diagonal_now, DIAGONAL, -DIAGONAL.per_row)),
            ]
        x, y, z = row_now[: self.bits], head.column, diagonal_now
        for c in range(self.columns):
            drawn = Signal(self.bits, name=f"drawn_{c}", reset_less=True)
            drawn_now = Signal(self.bits, name=f"drawn_now_{c}")
            m.d.comb += drawn_now.eq(Mux(begins, y[: self.bits], drawn))
            m.d.sync += [drawn.eq(drawn_now), self.random[c].eq(x ^ drawn_now ^ z[: self.bits])]
            before = begins, x, places_on(y, COLUMN, 1), places_on(z, DIAGONAL, 1)
            begins, x, y, z = (
                Signal(name=f"begins_{c}"),
                Signal(self.bits, name=f"row_{c}", reset_less=True),
                Signal(32, name=f"column_{c}", reset_less=True),
                Signal(32, name=f"diagonal_{c}", reset_less=True),
            )
            m.d.sync += [after.eq(value) for after, value in zip((begins, x, y, z), before, strict=True)]
        return m
