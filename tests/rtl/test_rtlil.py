"""RTLIL without the zeros of memories: nothing else is left out, and nothing that is not zero."""

import re

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from quaver.rtl.emit.rtlil import convert
from quaver.rtl.emit.verilog import _directed, ports_of, to_verilog


class OneMemory(wiring.Component):
    """A memory of four bytes that begins with `init`."""

    address: In(2)
    data: Out(8)

    def __init__(self, init: list[int]) -> None:
        self.init = init
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=4, init=self.init)
        port = memory.read_port()
        m.d.comb += [port.addr.eq(self.address), self.data.eq(port.data)]
        return m


@pytest.mark.parametrize("init", [[], [0, 0, 0, 0], [0, 0, 0, 7]])
def test_only_zeros_are_left_out(init: list[int]) -> None:
    unit = OneMemory(init)
    ports = _directed(ports_of(unit))
    whole = rtlil.convert(unit, "top", None, ports=ports, emit_src=False)
    contents = re.compile(r"  cell \$meminit_v2 .*?  end\n\n", re.S)
    assert len(contents.findall(whole)) == 1
    without = whole if any(init) else contents.sub("", whole)
    names = re.compile(r"\$\d+")  # a cell's name is its number
    assert names.sub("$", convert(unit, "top", None, ports)) == names.sub("$", without)
    assert ("= 8'h07" in to_verilog(unit, "memory")) == any(init)
