"""Verilog of any component, with the port names that its docstring says.

Ports keep their names; a stream or other interface NAME becomes NAME_payload, NAME_valid, NAME_ready;
structures are one vector, the first field lowest. A unit with registers has the clock `clk` and the
synchronous, active-high reset `rst`, which an array's element ignores; `axi_accelerator` has AXI's `aclk` and
`aresetn`.

The text is Verilog-2001, but for its attributes. It depends on the component and the name alone: not on the
version of Python, nor on the order of its hashes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from amaranth._toolchain.yosys import find_yosys
from amaranth.hdl import Fragment
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, In, Out

from quaver.rtl.emit.rtlil import convert
from quaver.rtl.emit.shared_modules import Emission, HollowEmission, ports_of

#: Amaranth's and Yosys's own notes, of no use in Verilog.
ATTRIBUTES = ("generator", "top", "src", "unused_bits", "amaranth.hierarchy", "amaranth.decoding")

#: Warnings of Verilator's that are on by default and say nothing about this text.
WAIVED = {
    "WIDTHEXPAND": "operands stand at their own widths, or multipliers would grow; Verilog extends them",
    "WIDTHTRUNC": "!vector is vector == 0",
    "CASEOVERLAP": "the cases of multiplexers are one-hot, written with don't-cares",
}

# A multiplexer of many inputs is a function, and functions named $… are the system's where Icarus reads them.
_MULTIPLEXER = re.compile(r"\\\$procmux\$(\d+) (?=[ ;(])")


def to_verilog(component: wiring.Component, name: str) -> str:
    """Verilog of `component` as module `name`, and of what it instantiates; a `shared_module` only once.

    The other modules are called NAME.SOMETHING, written as Verilog's escaped identifiers.

    Raises
    ------
    ValueError
        `name` is not a Verilog identifier, one of the words that the language keeps to itself, or a port's.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is no module name; take letters, digits and _, a letter first")
    if name in ("clk", "rst", *ports_of(component)):  # which Verilator refuses
        raise ValueError(f"{name!r} is a port of the unit and no name for its module; take another")
    emission = Emission(name)
    pending = [(name, component)]
    modules: list[str] = []
    while pending:
        module, emission.top = pending.pop()
        known = set(emission.units)
        ports = _directed(ports_of(emission.top))
        modules.append(convert(emission.top, module, emission, ports))
        pending += [unit for key, unit in emission.units.items() if key not in known]
    text = _write(modules)
    if f"module \\{name} " in text:  # Yosys escapes what Verilog or SystemVerilog reserves
        raise ValueError(f"{name!r} is a keyword of Verilog and no module name; take another")
    return _in_order(text, name, [*ports_of(component)])


@dataclass(frozen=True)
class Elements:
    """What `to_verilog_around` leaves out: `count` instances of one module.

    Port P of instance i is port element_{i}_P of what they were left out of, where an output of the element
    is an input and the other way round; clock and reset are the whole's.

    Attributes
    ----------
    verilog
        The Verilog of module `element`.
    count
        Instances.
    inputs, outputs
        The element's ports without clk and rst.
    """

    verilog: str
    count: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def to_verilog_around(component: wiring.Component, name: str) -> tuple[str, Elements]:
    """Verilog of `component` as module `name` without its `shared_module`, and the instances of that.

    Raises
    ------
    ValueError
        The component has none of them, or units that differ.
    """
    emission = HollowEmission(name, component)
    around = Fragment.get(component, emission)
    if len(emission.left_out) != 1:
        raise ValueError(f"{len(emission.left_out)} kinds of elements in {name}, but there must be one")
    (elements,) = emission.left_out.values()
    ports = _directed(ports_of(component))
    for i, element in enumerate(elements):
        outside = {port: (value, flow.flip()) for port, (value, flow) in ports_of(element).items()}
        ports |= {f"element_{i}_{port}": value for port, value in _directed(outside).items()}
    verilog = _write([convert(around, name, emission, ports)])
    inputs, outputs = (
        tuple(port for port, (_, flow) in ports_of(elements[0]).items() if flow is of) for of in (In, Out)
    )
    return verilog, Elements(to_verilog(elements[0], "element"), len(elements), inputs, outputs)


def _directed(ports: dict[str, tuple[Any, Flow]]) -> dict[str, tuple[Any, PortDirection]]:
    """The ports with their directions as Amaranth has them; else an output that nothing drives, being
    constant, would be an input."""
    return {
        name: (value, PortDirection.Input if flow is In else PortDirection.Output)
        for name, (value, flow) in ports.items()
    }


def _write(modules: list[str]) -> str:
    """The Verilog of modules in RTLIL."""
    # As amaranth.back.verilog does, and without the copies of every structure's fields that it leaves.
    script = "".join(f"read_rtlil <<rtlil\n{text}\nrtlil\n" for text in modules)
    script += "proc -norom\nmemory_collect\nopt_clean -purge\n"
    script += "".join(
        f"attrmap {of} {' '.join(f'-remove {a}' for a in ATTRIBUTES)}\n" for of in ("", "-modattr")
    )
    text = find_yosys(lambda version: version >= (0, 40)).run(
        ["-q", "-"], script + "write_verilog -norename", ignore_warnings=True
    )
    text = _MULTIPLEXER.sub(r"multiplexer$\1 ", text[text.index("module ") :])  # without Yosys's version
    waivers = "".join(f"/* verilator lint_off {name} */ // {why}\n" for name, why in WAIVED.items())
    return f"/* verilator lint_save */\n{waivers}\n{text}/* verilator lint_restore */\n"


def module_ports(verilog: str, name: str) -> dict[str, tuple[str, int]]:
    """Port of module `name` of the text → "input" or "output", and its width; in the module's order.

    Raises
    ------
    ValueError
        There is no such module.
    """
    found = _module(name).search(verilog)
    if found is None:
        raise ValueError(f"the Verilog has no module {name}")
    body = verilog[found.end() : verilog.index("\nendmodule", found.end())]
    declared = {
        port: (direction, int(high or 0) + 1)
        for direction, high, port in re.findall(
            r"^  (input|output) (?:\[(\d+):0\] )?\\?([^\s;]+) ?;", body.replace("reg ", ""), re.M
        )
    }
    return {port: declared[port] for port in map(_plain, found[1].split(","))}


def _module(name: str) -> re.Pattern[str]:
    return re.compile(rf"^module {re.escape(name)}\((.*?)\);", re.M | re.S)


def _plain(identifier: str) -> str:
    """An identifier without the marks of an escaped one."""
    return identifier.strip().removeprefix("\\")


def _in_order(text: str, name: str, ports: list[str]) -> str:
    """`text` with the ports of module `name` as the signature has them, clock and reset first."""
    header = _module(name)
    found = header.search(text)
    if found is None:
        raise RuntimeError(f"the Verilog has no module {name}")
    written = {_plain(port): port.strip() for port in found[1].split(",")}
    clocks = [port for port in written if port not in ports]
    listed = ", ".join(written[port] for port in (*clocks, *ports) if port in written)
    return header.sub(lambda _: f"module {name}({listed});", text, count=1)
