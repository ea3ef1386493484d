"""The results' way out: from the columns of the array to 32-bit words."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from quaver.rtl.commands import slot_bits, slots_per_word


class ResultBuffer(wiring.Component):
    """Takes bursts of results from all columns, one a cycle from each, and gives them out a word at a time.

    The array never waits: whoever lets a tile into it reserves room here first.

    Parameters
    ----------
    columns, width
        Number of columns; bits of a result.
    tile
        Results of one tile in one column. The buffer holds two tiles: one leaves while the other arrives.
    codes
        Bits of results that are narrower while `narrow` is 1; 0: there are none.

    ======= === ==============================================================================================
    results in  array of `columns` codes: column c is c cycles later than column 0
    valid   in  column 0 has a result; it holds for column c as many cycles later
    room    out a tile may be reserved
    reserve in  reserve a tile
    narrow  in  results have `codes` bits; it changes only while the buffer is `empty`. If there are `codes`
    empty   out no result is here, nor under way to here. If there are `codes`
    words   out stream of 32 bits: a group of ceil(columns / slots) words for each result of column 0, lowest
                column in the lowest slot
    ======= === ==============================================================================================
    """

    def __init__(self, columns: int, width: int, tile: int, codes: int = 0):
        self.columns, self.width, self.tile, self.codes = columns, width, tile, codes
        super().__init__(
            {
                "results": In(data.ArrayLayout(width, columns)),
                "valid": In(1),
                "room": Out(1),
                "reserve": In(1),
                "words": Out(stream.Signature(32)),
            }
            | ({"narrow": In(1), "empty": Out(1)} if codes else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = 2 * self.tile
        slots = slots_per_word(self.width)
        groups = -(-self.columns // slots)

        def after(address: Signal):  # the ring is as long as it must be, not a power of two
            return Mux(address == depth - 1, 0, address + 1)

        taken = Signal()  # a row leaves the memories for `row`, as block RAM is slow
        read_address = Signal(range(depth))
        row = Signal(data.ArrayLayout(data.ArrayLayout(32 // slots, slots), groups), reset_less=True)
        valid = self.valid
        address = Signal(range(depth))
        with m.If(valid):
            m.d.sync += address.eq(after(address))
        for column in range(self.columns):
            memory = Memory(shape=self.width, depth=depth, init=[])
            m.submodules[f"column_{column}"] = memory
            write_port = memory.write_port()
            read_port = memory.read_port()
            m.d.comb += [
                write_port.addr.eq(address),
                write_port.data.eq(self.results[column]),
                write_port.en.eq(valid),
                read_port.addr.eq(Mux(taken, after(read_address), read_address)),
                read_port.en.eq(1),
            ]
            with m.If(taken):
                m.d.sync += row[column // slots][column % slots].eq(read_port.data)
            # The write walks from column to column as the results do.
            walked = Signal(name=f"valid_{column + 1}")
            walked_address = Signal.like(address)
            m.d.sync += [walked.eq(valid), walked_address.eq(address)]
            valid, address = walked, walked_address

        # `valid` is now one cycle behind the last column's write: what it counts can be read.
        held = Signal(range(depth + 1))
        reserved = Signal(range(depth + 1))
        readable = Signal()
        group = Signal(range(groups))
        word, last_group = row[group], Const(groups - 1)
        if self.codes:
            codes = [row[c // slots][c % slots][: self.codes] for c in range(self.columns)]
            narrow = Signal(data.ArrayLayout(32, -(-self.columns // slots_per_word(self.codes))))
            slot = slot_bits(self.codes)
            m.d.comb += narrow.eq(Cat(Cat(code, Const(0, slot - self.codes)) for code in codes))
            word = Mux(self.narrow, narrow[group], word.as_value())
            last_group = Mux(self.narrow, len(narrow) - 1, last_group)
            m.d.comb += self.empty.eq((reserved == 0) & ~self.words.valid)
        last = self.words.ready & (group == last_group)
        m.d.comb += [
            self.room.eq(reserved <= depth - self.tile),
            self.words.payload.eq(word),
            taken.eq(readable & (~self.words.valid | last)),
        ]
        m.d.sync += [
            held.eq(held + valid - taken),
            reserved.eq(reserved - taken + Mux(self.reserve, self.tile, 0)),
            readable.eq((held - taken) != 0),
        ]
        with m.If(taken):
            m.d.sync += [read_address.eq(after(read_address)), self.words.valid.eq(1)]
        with m.Elif(last):
            m.d.sync += self.words.valid.eq(0)
        with m.If(self.words.valid & self.words.ready):
            m.d.sync += group.eq(Mux(last, 0, group + 1))
        return m
