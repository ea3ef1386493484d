"""The operand memory of one edge of the array."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from quaver.rtl.commands import slots_per_word


class OperandBuffer(wiring.Component):
    """Two halves of a bank for each row (or column) of the array: one is filled while the other is read.

    The read address walks from bank to bank, a cycle each, so that bank i answers i cycles after bank 0: the
    skew that a systolic array asks for, and no address drives more than one bank.

    Parameters
    ----------
    banks, depth
        Number of banks; codes in each half of a bank.
    width
        Bits of a code.
    bubble
        The code that a bank gives when there is nothing to read.

    Attributes
    ----------
    groups
        Words that hold one code for each bank.
    latency
        Cycles from a read to bank 0's code: 3. A block RAM takes most of one, and the choice between several
        the rest.

    Ports
    -----
    write : in
        Take `word` at the next edge.
    write_half, write_address, write_group : in
        Into which half, at which address, of which group of banks (the banks that share a word).
    word : in, 32
        The codes, lowest bank in the lowest slot.
    read : in
        Read `read_half` at `read_address`, else give a bubble.
    codes : out, array of `banks` codes
        Bank i: what was asked for i + `latency` cycles ago. One read a cycle.

    Raises
    ------
    ValueError
        No banks, or a depth below 1.
    """

    def __init__(self, banks: int, depth: int, width: int, bubble: int):
        if banks < 1 or depth < 1:
            raise ValueError(f"{banks} banks of {depth} codes, but a buffer has at least one of each")
        self.banks, self.depth, self.width, self.bubble = banks, depth, width, bubble
        self.groups, self.latency = -(-banks // slots_per_word(width)), 3
        super().__init__(
            {
                "write": In(1),
                "write_half": In(1),
                "write_address": In(range(depth)),
                "write_group": In(range(self.groups)),
                "word": In(32),
                "read": In(1),
                "read_half": In(1),
                "read_address": In(range(depth)),
                "codes": Out(data.ArrayLayout(width, banks)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slots = slots_per_word(self.width)
        read, address = self.read, Cat(self.read_half, self.read_address)
        for bank in range(self.banks):
            group, slot = divmod(bank, slots)
            # The half is the lowest address bit: no hole, whatever the depth.
            memory = Memory(shape=self.width, depth=2 * self.depth, init=[])
            m.submodules[f"bank_{bank}"] = memory
            write_port = memory.write_port()
            read_port = memory.read_port()
            present = Signal(2, name=f"present_{bank}", reset_less=True)
            stored = Signal(self.width, name=f"stored_{bank}", reset_less=True)
            code = Signal(self.width, name=f"code_{bank}", reset_less=True)
            m.d.comb += [
                write_port.addr.eq(Cat(self.write_half, self.write_address)),
                write_port.data.eq(self.word.word_select(slot, 32 // slots)),
                write_port.en.eq(self.write & (self.write_group == group)),
                read_port.addr.eq(address),
                read_port.en.eq(1),
                self.codes[bank].eq(code),
            ]
            m.d.sync += [
                present.eq(Cat(read, present)),
                stored.eq(read_port.data),
                code.eq(Mux(present[-1], stored, self.bubble)),
            ]
            read, next_read = Signal(name=f"read_{bank + 1}", reset_less=True), read
            address, next_address = (
                Signal(len(address), name=f"address_{bank + 1}", reset_less=True),
                address,
            )
            if bank + 1 < self.banks:
                m.d.sync += [read.eq(next_read), address.eq(next_address)]
        return m
