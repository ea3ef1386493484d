"""RTLIL of a component, as Amaranth writes it, without the zeros that memories begin with.

Amaranth writes a memory's first contents bit by bit: minutes of work for an accelerator's operand memories,
and megabytes that say what every simulator and FPGA does anyway.
"""

from __future__ import annotations

from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Fragment
from amaranth.hdl._ast import SignalDict
from amaranth.hdl._ir import PortDirection, build_netlist

Ports = dict[str, tuple[Any, PortDirection]]


class _ModuleEmitter(rtlil.ModuleEmitter):
    def emit_memory(self, cell_idx: int, cell: Any) -> None:
        if any(cell.init):
            super().emit_memory(cell_idx, cell)


def convert(elaboratable: Any, name: str, platform: Any, ports: Ports) -> str:
    """The RTLIL of `elaboratable` as module `name`, without the places in its source: what
    `amaranth.back.rtlil.convert` gives, but for memories of zeros."""
    netlist = build_netlist(Fragment.get(elaboratable, platform), ports=ports, name=name)
    checker = rtlil.EmptyModuleChecker(netlist)
    names = SignalDict()
    design = rtlil.Design(emit_src=False)
    for index, module in enumerate(netlist.modules):
        if not checker.is_empty(index):
            written = design.module(".".join(module.name), src_loc=module.src_loc)
            if index == 0:
                written.attribute("top", 1)
            _ModuleEmitter(written, netlist, module, names, empty_checker=checker).emit()
    return str(design)
