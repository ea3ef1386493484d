"""How a processing element passes on what it is given."""

from typing import Any

from amaranth.hdl import Module, Signal


def pass_on(m: Module, *ports: tuple[Any, Any]) -> list[Any]:
    """Registers without reset between these inputs and outputs: what they hold."""
    held = []
    for come, goes in ports:
        register = Signal(come.shape(), reset_less=True)
        m.d.sync += register.eq(come)
        m.d.comb += goes.eq(register)
        held.append(register)
    return held
