"""The update unit's place in the command stream: words in, words out."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from quaver.rtl.commands import settings_words, update_slot
from quaver.rtl.update.unit import UpdateUnit

#: A word of UPDATE behind its arguments.
UpdateWord = data.StructLayout({"word": 32, "settings": 1})


class Updater(wiring.Component):
    """Feeds an update unit from the words of UPDATE: its settings, or groups of elements.

    ========= === ===============================================================================
    words     in  stream of `UpdateWord`, laid as `quaver.rtl.commands` says; those of a group, and
                  those of the settings, have the same `settings`
    results   out stream of 32 bits: one for each element in slots of 16 bits, two in slots of 32
    ========= === ===============================================================================

    Three words, two elements or one, take three cycles.
    """

    def __init__(self, unit: UpdateUnit) -> None:
        self.unit = unit
        super().__init__({"words": In(stream.Signature(UpdateWord)), "results": Out(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        word, settings = self.words.payload.word, self.words.payload.settings
        last_settings = settings_words(unit.scalar) - 1
        position = Signal(range(last_settings + 1))
        before = Signal(32 * last_settings)  # the words before this one, the latest uppermost

        element = unit.elements.payload
        complete = Signal()
        if update_slot(unit.formats) == 16:
            gradients = Mux(position == 2, before[-48:-32], before[-32:-16])
            weight, momentum, gradient = word[:16], word[16:], gradients
            m.d.comb += complete.eq(position != 0)
        else:
            weight, momentum, gradient = before[-32:], word, before[-64:-32]
            m.d.comb += complete.eq(position == 2)
        m.d.comb += [
            element.weight.eq(weight),
            element.momentum.eq(momentum),
            element.gradient.eq(gradient),
            unit.elements.valid.eq(self.words.valid & ~settings & complete),
            unit.settings.valid.eq(self.words.valid & settings & (position == last_settings)),
        ]
        for i, name in enumerate(("rate", "momentum", "decay")):
            scalar = before.word_select(i, update_slot([unit.scalar]))
            m.d.comb += unit.settings.payload[name].eq(scalar)
        if "seed" in unit.settings.payload.shape().members:
            m.d.comb += unit.settings.payload.seed.eq(word)

        with m.If(settings):
            m.d.comb += self.words.ready.eq((position != last_settings) | unit.settings.ready)
        with m.Else():
            m.d.comb += self.words.ready.eq(~complete | unit.elements.ready)
        with m.If(self.words.valid & self.words.ready):
            m.d.sync += [
                before.eq(Cat(before, word)[32:]),
                position.eq(Mux(position == Mux(settings, last_settings, 2), 0, position + 1)),
            ]

        new = unit.results.payload
        m.d.comb += self.results.valid.eq(unit.results.valid)
        if update_slot(unit.formats) == 16:
            m.d.comb += [
                self.results.payload.eq(Cat(new.weight, Const(0, 16 - len(new.weight)), new.momentum)),
                unit.results.ready.eq(self.results.ready),
            ]
        else:
            second = Signal()
            m.d.comb += [
                self.results.payload.eq(Mux(second, new.momentum, new.weight)),
                unit.results.ready.eq(self.results.ready & second),
            ]
            with m.If(self.results.valid & self.results.ready):
                m.d.sync += second.eq(~second)
        return m
