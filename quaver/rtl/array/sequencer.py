"""The sequencer: walks the tiles of one GEMM command, a step of the array at a time."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from quaver.rtl.array.systolic import array_control
from quaver.rtl.commands import Geometry
from quaver.rtl.random_sources import Sources


def job_layout(geometry: Geometry, random: bool = False) -> data.StructLayout:
    """A checked GEMM command: sizes of at least 1 that the operand memory holds, flags as in the command."""
    size = range(geometry.depth + 1)
    return data.StructLayout(
        {"k": size, "m_tiles": size, "n_tiles": size, "a_half": 1, "b_half": 1, "first": 1, "last": 1}
        | ({"sources": Sources} if random else {})
    )


_RANDOM = ("begins", "rounds", "last_lane", "first_tile", "first_column")


class Sequencer(wiring.Component):
    """Turns GEMM commands into operand addresses and array control, with no idle cycle that could be spared.

    A step multiplies one k (or a group of them), or folds a chunk, or is a bubble. A tile takes k steps that
    multiply and one for each chunk. The next tile follows at once, and so does the next job if it is there in
    time. A fold waits, in bubbles, until the last tile's totals have left the array and the result buffer has
    room for this one's.

    Parameters
    ----------
    geometry
        Size of the accelerator.
    chunk
        Steps that multiply in a chunk; None where all of K is one.
    drain
        Cycles that any fold must stay behind the last fold of the tile before it (`SystolicArray.drain`).
    random
        Whether sums, results or operands take random bits.

    Ports
    -----
    jobs : in, stream of `job_layout`
        What to compute. A job is taken when its first step is about to begin.
    read, a_half, a_address, b_half, b_address : out
        Operands to read; no read is a bubble. One A address lasts a step, one B address a product.
    control : out
        What the array does with them; it belongs to the same cycle.
    reading : out, 4 bits
        The halves that the job may yet read: A's 0 and 1, B's 0 and 1.
    room : in
        The result buffer has room for a tile that has not been reserved yet.
    reserve : out
        Reserve that room: this tile's last fold begins, its results are on their way.
    begins, rounds, last_lane : out
        If `random`, with `control`: this is the first step of a tile's sums; sums are rounded that count;
        this is a step's last cycle.
    sources, first_tile, first_column : out
        If `random`, with `begins` and with `reserve`: the job's `Sources`; whether the tile is its first; the
        first of a row.

    What decides the next step is in registers: no comparison of counters lies on the way to it.
    """

    def __init__(self, geometry: Geometry, chunk: int | None, drain: int, random: bool = False):
        self.geometry, self.chunk, self.random = geometry, chunk, random
        self.drain_steps = -(-drain // geometry.step)
        super().__init__(
            {
                "jobs": In(stream.Signature(job_layout(geometry, random))),
                "read": Out(1),
                "a_half": Out(1),
                "a_address": Out(range(geometry.depth)),
                "b_half": Out(1),
                "b_address": Out(range(geometry.depth * geometry.interleave)),
                "control": Out(array_control(geometry.product_cycles)),
                "reading": Out(4),
                "room": In(1),
                "reserve": Out(1),
            }
            | ({name: Out(1) for name in _RANDOM} | {"sources": Out(Sources)} if random else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # What a job sets before it is looked at needs no reset.
        job = Signal(self.jobs.payload.shape(), reset_less=True)
        new = self.jobs.payload
        busy = Signal()  # the job has steps to come
        lane = Signal(range(self.geometry.step))  # or, where a product takes several cycles, cycle
        # Products of this tile, tiles of this row and rows of tiles that are still to begin.
        k_left = Signal.like(job.k, reset_less=True)
        m_left = Signal.like(job.m_tiles, reset_less=True)
        n_left = Signal.like(job.n_tiles, reset_less=True)
        # whether these are 0
        tile_over = Signal(init=1)
        last_row = Signal(reset_less=True)
        last_column = Signal(reset_less=True)
        a_tile = Signal.like(self.a_address, reset_less=True)
        a_next = Signal.like(self.a_address)
        in_chunk = Signal(range(self.chunk or 1))  # products in the open chunk; goes on from slice to slice
        first = Signal(init=1)  # the next fold is the tile's first
        dirty = Signal(init=1)  # the sums are not +0: a job has left its tile open, or there was a reset
        flush = Signal()  # the fold that waits only clears such a tile
        flushed = Signal()  # and the product behind it is the tile's first
        fold_due = Signal()  # next is a fold, and the array or the result buffer may keep it waiting
        tile_leaves = Signal()  # with it: the tile's last
        draining = Signal(range(self.drain_steps))  # steps until the array can take a fold

        step, several = self.geometry.step, self.geometry.product_cycles > 1
        step_ends = Signal(init=step == 1)  # the step's last cycle; a register's, for all hangs on it
        # the last cycle of a lane's product or fold
        product_ends = Signal(name="product_ends") if several else Const(1)
        job_over = Signal()
        may_fold = Signal()
        m.d.comb += [
            job_over.eq(~busy | (last_row & last_column)),
            may_fold.eq((draining == 0) & (self.room | ~tile_leaves)),
            a_next.eq(self.a_address + self.read),
            self.a_half.eq(job.a_half),
            self.b_half.eq(job.b_half),
            self.reading.eq(Cat(~job.a_half, job.a_half, ~job.b_half, job.b_half) & busy.replicate(4)),
        ]
        unused = {name: Signal(name=name) for name in _RANDOM}
        begins, rounds, last_lane, first_tile, first_column = (
            getattr(self, name) if self.random else unused[name] for name in _RANDOM
        )
        chunk_ends = Const(0, 1) if self.chunk is None else in_chunk == self.chunk - 1
        if self.random:
            m.d.comb += [self.sources.eq(job.sources), last_lane.eq(step_ends)]

        def begin_product(left: Value, last: Value, opens: ValueLike) -> None:
            """Next is a product, the first of `left`; behind them the tile leaves if `last`. It `opens` new
            sums."""
            m.d.sync += [
                self.read.eq(1),
                begins.eq(opens),
                rounds.eq(1),
                k_left.eq(left - 1),
                tile_over.eq(left == 1),
                in_chunk.eq(in_chunk + 1),
                fold_due.eq(chunk_ends | ((left == 1) & last)),
                tile_leaves.eq((left == 1) & last),
            ]

        def begin_row(columns: Value, first: int) -> None:
            """Next is the first of `columns` tiles in a row, which is the job's first row or not."""
            m.d.sync += [n_left.eq(columns - 1), last_column.eq(columns == 1)]
            m.d.sync += [first_column.eq(1), first_tile.eq(first)]

        m.d.sync += [
            lane.eq(lane + 1),
            step_ends.eq(lane == (step - 2) % step),
            self.b_address.eq(self.b_address + (self.read & product_ends)),
            self.reserve.eq(0),
        ]
        if several:
            cycle = Signal(range(self.geometry.product_cycles))  # of the product
            m.d.sync += [
                cycle.eq(Mux(product_ends, 0, cycle + 1)),
                product_ends.eq(cycle == self.geometry.product_cycles - 2),
            ]
            m.d.comb += self.control.begin.eq(cycle == 0)
        with m.If(step_ends):
            m.d.sync += [
                lane.eq(0),
                draining.eq(draining - (draining != 0)),
                self.a_address.eq(a_next),
                self.read.eq(0),
                self.control.fold.eq(0),
                self.control.first.eq(0),
                self.control.last.eq(0),
                begins.eq(0),
                rounds.eq(0),
            ]
            with m.If(fold_due), m.If(may_fold):
                m.d.sync += [
                    fold_due.eq(0),
                    self.reserve.eq(tile_leaves),
                    self.control.fold.eq(1),
                    self.control.first.eq(first),
                    self.control.last.eq(tile_leaves),
                    in_chunk.eq(0),
                    first.eq(1 if self.chunk is None else tile_leaves | flush),
                    rounds.eq(~flush),
                    flush.eq(0),
                ]
                with m.If(tile_leaves):
                    m.d.sync += draining.eq(self.drain_steps - 1)
            with m.Elif(~tile_over):
                begin_product(k_left, job.last, opens=flushed)
                m.d.sync += flushed.eq(0)
            with m.Elif(~job_over):
                begin_product(job.k, job.last, opens=1)
                with m.If(last_column):
                    m.d.sync += [m_left.eq(m_left - 1), last_row.eq(m_left == 1)]
                    m.d.sync += [a_tile.eq(a_next), self.b_address.eq(0)]
                    begin_row(job.n_tiles, first=0)
                with m.Else():
                    m.d.sync += [
                        n_left.eq(n_left - 1),
                        last_column.eq(n_left == 1),
                        self.a_address.eq(a_tile),
                    ]
                    m.d.sync += [first_column.eq(0), first_tile.eq(0)]
            with m.Else():
                m.d.comb += self.jobs.ready.eq(1)
                m.d.sync += [busy.eq(self.jobs.valid), job.eq(new)]
                with m.If(self.jobs.valid):
                    begin_product(new.k, new.last, opens=new.first)
                    begin_row(new.n_tiles, first=1)
                    m.d.sync += [
                        m_left.eq(new.m_tiles - 1),
                        last_row.eq(new.m_tiles == 1),
                        a_tile.eq(0),
                        self.a_address.eq(0),
                        self.b_address.eq(0),
                        dirty.eq(~new.last),
                    ]
                    with m.If(new.first & dirty):
                        m.d.sync += [
                            self.read.eq(0),
                            begins.eq(0),
                            rounds.eq(0),
                            flushed.eq(1),
                            k_left.eq(new.k),
                            tile_over.eq(0),
                            fold_due.eq(1),
                            tile_leaves.eq(0),
                            flush.eq(1),
                            first.eq(1),
                        ]
        return m
