"""The operand memory of one edge of the array."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from quaver.golden.validation import as_integer
from quaver.rtl.commands import slot_bits, slots_per_word


class OperandBuffer(wiring.Component):
    """Two halves of a bank for each row (or column) of the array: one is filled while the other is read.

    The read address walks from bank to bank, a cycle each, so that bank i answers i cycles after bank 0: the
    skew that a systolic array asks for, and no address drives more than one bank.

    Parameters
    ----------
    banks, depth
        Number of banks; addresses in each half of a bank.
    width
        Bits of a code.
    bubble
        The code that a bank gives when there is nothing to read.
    codes_per_bank
        Codes side by side at each address of a bank.

    Attributes
    ----------
    groups
        Words that hold one address of all banks.
    latency
        Cycles from a read to bank 0's code: 3. A block RAM takes most of one, and the choice between several
        the rest.

    ========================== === ===========================================================================
    write                      in  take `word` at the next edge
    write_half, write_address, in  into which half, at which address, which of its words
    write_group
    word                       in  32 bits: the codes, lowest bank in the lowest slots
    read                       in  read `read_half` at `read_address`, else give a bubble
    codes                      out array of `banks` times `codes_per_bank` codes: bank i has what was asked
                                   for i + `latency` cycles ago; one read a cycle
    ========================== === ===========================================================================

    Raises
    ------
    ValueError
        No banks, or a depth below 1.
    """

    def __init__(self, banks: int, depth: int, width: int, bubble: int, codes_per_bank: int = 1):
        banks, depth = as_integer(banks, "banks"), as_integer(depth, "depth")
        if banks < 1 or depth < 1:
            raise ValueError(f"{banks} banks of {depth} codes, but a buffer has at least one of each")
        self.banks, self.depth, self.width, self.bubble = banks, depth, width, bubble
        self.codes_per_bank = codes_per_bank
        self.groups, self.latency = -(-banks * codes_per_bank // slots_per_word(width)), 3
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
                "codes": Out(data.ArrayLayout(width * codes_per_bank, banks)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        read, address = self.read, Cat(self.read_half, self.read_address)
        for bank in range(self.banks):
            present = Signal(2, name=f"present_{bank}", reset_less=True)
            m.d.sync += present.eq(Cat(read, present))
            first = bank * self.codes_per_bank
            for i, (group, slots) in enumerate(self._words(range(first, first + self.codes_per_bank))):
                part = f"{bank}_{i}" if i else f"{bank}"
                width = self.width * len(slots)
                # The half is the lowest address bit: no hole, whatever the depth.
                memory = Memory(shape=width, depth=2 * self.depth, init=[])
                m.submodules[f"bank_{part}"] = memory
                write_port = memory.write_port()
                read_port = memory.read_port()
                stored = Signal(width, name=f"stored_{part}", reset_less=True)
                codes = Signal(width, name=f"code_{part}", reset_less=True)
                place = (slots[0] + group * slots_per_word(self.width) - first) * self.width
                m.d.comb += [
                    write_port.addr.eq(Cat(self.write_half, self.write_address)),
                    write_port.data.eq(Cat(self._code(slot) for slot in slots)),
                    write_port.en.eq(self.write & (self.write_group == group)),
                    read_port.addr.eq(address),
                    read_port.en.eq(1),
                    self.codes[bank][place : place + width].eq(codes),
                ]
                bubbles = Cat(Const(self.bubble, self.width) for _ in slots)
                m.d.sync += [
                    stored.eq(read_port.data),
                    codes.eq(Mux(present[-1], stored, bubbles)),
                ]
            read, next_read = Signal(name=f"read_{bank + 1}", reset_less=True), read
            address, next_address = (
                Signal(len(address), name=f"address_{bank + 1}", reset_less=True),
                address,
            )
            if bank + 1 < self.banks:
                m.d.sync += [read.eq(next_read), address.eq(next_address)]
        return m

    def _words(self, places: range) -> list[tuple[int, list[int]]]:
        """Of codes at these places of a group: each word, and the slots in it that are theirs."""
        slots = slots_per_word(self.width)
        words: dict[int, list[int]] = {}
        for place in places:
            words.setdefault(place // slots, []).append(place % slots)
        return list(words.items())

    def _code(self, slot: int) -> Value:
        return self.word.word_select(slot, slot_bits(self.width))[: self.width]
