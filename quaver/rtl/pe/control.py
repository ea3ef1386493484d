"""What every processing element is told in a cycle, and how it passes on what it is given."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data

#: What a cycle is. fold 0: partial[lane] += a·b. fold 1: total[lane] += partial[lane], then partial[lane] =
#: +0; with first, an output's first fold, total[lane] starts from +0.
CONTROL = data.StructLayout({"fold": 1, "first": 1})


def pass_on(m: Module, *ports: tuple[Any, Any]) -> list[Any]:
    """Registers without reset between these inputs and outputs: what they hold."""
    held = []
    for come, goes in ports:
        register = Signal(come.shape(), reset_less=True)
        m.d.sync += register.eq(come)
        m.d.comb += goes.eq(register)
        held.append(register)
    return held
