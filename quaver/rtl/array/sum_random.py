"""Random bits for every sum of an array: the states of three LFSRs at its upper left corner."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.random_bits import COLUMN, DIAGONAL, ROW
from quaver.rtl.random_sources import Sources, TileStarts, one_sum_on


class SumRandom(wiring.Component):
    """For each cycle of an array, the states of the sources for the sum of its lane in row 0, column 0.

    Each tile's first sums begin with the states at its first output, and each sum that is rounded moves its
    lane's on; bubbles do not. From the corner the states walk with the operands (`SystolicArray`).

    Parameters
    ----------
    rows, columns, interleave
        Of the array.

    ============ === ======================================================================================
    begins       in  this step is the first of a tile's sums
    rounds       in  this step rounds sums that count
    last_lane    in  this is a step's last cycle
    first_tile   in  with `begins`: the tile is the GEMM's first; …
    first_column in  … the first of a row of tiles
    sources      in  `Sources` of the GEMM's first output, with `first_tile`
    random       out `Sources` of the sum of 2 cycles ago
    ============ === ======================================================================================
    """

    #: Cycles from a step to its `random`.
    latency = 2

    def __init__(self, rows: int, columns: int, interleave: int) -> None:
        self.rows, self.columns, self.interleave = rows, columns, interleave
        super().__init__(
            {
                "begins": In(1),
                "rounds": In(1),
                "last_lane": In(1),
                "first_tile": In(1),
                "first_column": In(1),
                "sources": In(Sources),
                "random": Out(Sources),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.starts = starts = TileStarts(self.rows, self.columns)
        first_lane = Signal(init=1)
        start = Signal(Sources)
        begins = Signal()
        rounds = Signal()
        m.d.comb += [
            starts.begins.eq(self.begins),
            starts.first_lane.eq(first_lane),
            starts.first_tile.eq(self.first_tile),
            starts.first_column.eq(self.first_column),
            starts.sources.eq(self.sources),
        ]
        m.d.sync += [
            first_lane.eq(self.last_lane),
            start.eq(starts.start),
            begins.eq(self.begins),
            rounds.eq(self.rounds),
        ]
        # Lanes take turns: each finds its states where it left them a step ago.
        lanes = [Signal(Sources, name=f"lane_{i}", reset_less=True) for i in range(self.interleave)]
        now = Signal(Sources)
        m.d.comb += now.eq(Mux(begins, start.as_value(), lanes[-1].as_value()))
        m.d.sync += [later.eq(earlier) for earlier, later in pairwise(lanes)]
        for name, source in (("row", ROW), ("column", COLUMN), ("diagonal", DIAGONAL)):
            m.d.sync += lanes[0][name].eq(Mux(rounds, one_sum_on(now[name], source), now[name]))
        m.d.sync += self.random.eq(now)
        return m
