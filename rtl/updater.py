"""The update unit's place in the command stream: words in, words out."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.update import Update

#: A word of UPDATE behind its arguments.
UpdateWord = data.StructLayout({"word": 32, "settings": 1})


class Updater(wiring.Component):
    """Feeds an `Update` from three words a time: its settings, or two elements.

    ========= === ==========================================================================
    words     in  stream of `UpdateWord`, laid as `rtl.commands` says; the three of a group
                  have the same `settings`
    results   out stream of 32 bits, one for each element
    ========= === ==========================================================================

    Two elements take three cycles.
    """

    def __init__(self, unit: Update) -> None:
        self.unit = unit
        super().__init__({"words": In(stream.Signature(UpdateWord)), "results": Out(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        width = unit.format.width
        word, settings = self.words.payload.word, self.words.payload.settings
        position = Signal(range(3))
        first, second = Signal(32), Signal(32)

        m.d.comb += [
            unit.elements.payload.weight.eq(word[:16]),
            unit.elements.payload.momentum.eq(word[16:]),
            unit.elements.payload.gradient.eq(first.word_select(position == 2, 16)),
            unit.elements.valid.eq(self.words.valid & ~settings & (position != 0)),
            unit.settings.valid.eq(self.words.valid & settings & (position == 2)),
            unit.settings.payload.rate.eq(first[:16]),
            unit.settings.payload.momentum.eq(first[16:]),
            unit.settings.payload.decay.eq(second[:16]),
        ]
        if "seed" in unit.settings.payload.shape().members:
            m.d.comb += unit.settings.payload.seed.eq(word)

        with m.If(position == 0):
            m.d.comb += self.words.ready.eq(1)
        with m.Elif(~settings):
            m.d.comb += self.words.ready.eq(unit.elements.ready)
        with m.Else():
            m.d.comb += self.words.ready.eq((position == 1) | unit.settings.ready)
        with m.If(self.words.valid & self.words.ready):
            m.d.sync += position.eq(position + 1)
            with m.Switch(position):
                with m.Case(0):
                    m.d.sync += first.eq(word)
                with m.Case(1):
                    m.d.sync += second.eq(word)
                with m.Default():
                    m.d.sync += position.eq(0)

        new = unit.results.payload
        m.d.comb += [
            self.results.payload.eq(Cat(new.weight, Const(0, 16 - width), new.momentum)),
            self.results.valid.eq(unit.results.valid),
            unit.results.ready.eq(self.results.ready),
        ]
        return m
