"""The comment that a file of Verilog begins with: what it is, what made it, and its ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from textwrap import wrap
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from quaver.rtl.emit.docstrings import meaning, port_meanings
from quaver.rtl.emit.shared_modules import ports_of
from quaver.rtl.emit.verilog import module_ports

#: Ports that a unit with registers has beside its signature.
CLOCK = {"clk": "clock, rising edge", "rst": "reset, synchronous, active high"}
_WIDTH = 110


def header(
    component: wiring.Component,
    name: str,
    verilog: str,
    *,
    command: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> str:
    """Comment lines for `verilog`, that of `component` as module `name`; the same on every day and machine.
    A port is described as in the docstring's table, and in the component's `port_notes` if it has any.

    Parameters
    ----------
    command
        The command that writes it.
    parameters
        What it was made with.
    """
    about = (type(component).__doc__ or "").strip().split("\n\n")[0]
    lines = [*wrap(f"{name}: {' '.join(about.split())}", _WIDTH), f"Quaver {version('quaver')}"]
    if command:
        lines.append(f"  {command}")
    if parameters:
        lines += ["", "Parameters", *_columns([[key, str(value)] for key, value in parameters.items()])]
    lines += ["", "Ports", *_columns(_port_rows(component, module_ports(verilog, name)))]
    return "".join(f"// {line}".rstrip() + "\n" for line in lines) + "\n"


def _port_rows(component: wiring.Component, ports: Iterable[str]) -> list[list[str]]:
    known, meanings = ports_of(component), port_meanings(type(component))
    notes: Mapping[str, str] = getattr(component, "port_notes", {})
    layouts = {
        "_".join(map(str, path)): member.shape for path, member, _ in component.signature.flatten(component)
    }
    rows, told = [], set()
    for port in ports:
        if port not in known:
            rows.append([port, "in", "1", CLOCK.get(port, "")])
            continue
        value, flow = known[port]
        row, means = meaning(port, meanings)
        # The meaning of an interface once; what holds for this component alone; where the bits lie.
        said = ["" if row in told else means, notes.get(port, ""), _layout(layouts[port])]
        told.add(row)
        rows.append([port, "in" if flow is In else "out", str(len(value)), "; ".join(filter(None, said))])
    return rows


def _layout(shape: Any) -> str:
    """Where the fields of a structure lie, or the elements of an array."""
    if isinstance(shape, data.ArrayLayout):
        width = Shape.cast(shape.elem_shape).width
        return f"{shape.length} of {width} bits, the first lowest" if shape.length > 1 else ""
    if not isinstance(shape, data.Layout):
        return ""
    fields = [(name, field.offset, field.width) for name, field in shape]
    return ", ".join(
        f"{name} [{offset + width - 1}:{offset}]" if width > 1 else f"{name} [{offset}]"
        for name, offset, width in fields
    )


def _columns(rows: list[list[str]]) -> list[str]:
    """Rows in columns; the last one's text goes on below itself."""
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    lines = []
    for row in rows:
        start = "  " + "".join(f"{cell:{width}}  " for cell, width in zip(row[:-1], widths, strict=True))
        lines += wrap(
            row[-1], _WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False
        ) or [start]
    return lines
