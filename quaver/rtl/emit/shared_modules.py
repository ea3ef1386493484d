"""Units that an emission writes once and instantiates, however often they are placed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from amaranth.hdl import ClockSignal, Const, Instance, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, In


def ports_of(component: wiring.Component) -> dict[str, tuple[Value, Flow]]:
    """Name → (value, direction) of all ports. A member of an interface is INTERFACE_MEMBER; those that are
    constant, such as the ready of a stream that is always ready, are none."""
    return {
        "_".join(map(str, path)): (Value.cast(value), member.flow)
        for path, member, value in component.signature.flatten(component)
        if not isinstance(value, Const)
    }


class Emission:
    """The platform of an emission; remembers the units that must be emitted beside the top.

    Parameters
    ----------
    name
        The top module's name. Every other module's is this, a dot, and its own: no two emissions with tops
        of different names have a module in common, because the names of tops have no dot.

    Attributes
    ----------
    top
        The component whose module is being emitted.
    units
        Key → (module name, one of the components placed).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.top: wiring.Component | None = None
        self.units: dict[tuple[Any, ...], tuple[str, wiring.Component]] = {}

    def instance(self, component: wiring.Component, key: tuple[Any, ...]) -> Instance | Module:
        """An instance, on the component's own ports, of the module that is emitted for `key`."""
        name = f"{self.name}.{type(component).__name__}" + (f"_{len(self.units)}" if self.units else "")
        name, _ = self.units.setdefault(key, (name, component))
        ports = {
            ("i_" if flow is In else "o_") + port: value
            for port, (value, flow) in ports_of(component).items()
        }
        return Instance(name, **ports, i_clk=ClockSignal(), i_rst=ResetSignal())


class HollowEmission(Emission):
    """Leaves such units out; where they were, their ports stay.

    Attributes
    ----------
    left_out
        Key → the components left out, in their order.
    """

    def __init__(self, name: str, top: wiring.Component) -> None:
        super().__init__(name)
        self.top = top
        self.left_out: dict[tuple[Any, ...], list[wiring.Component]] = {}

    def instance(self, component: wiring.Component, key: tuple[Any, ...]) -> Module:
        self.left_out.setdefault(key, []).append(component)
        return Module()


def shared_module(*parameters: str) -> Callable[..., Any]:
    """Decorates the `elaborate` of a component in domain sync: components whose attributes `parameters` are
    equal are instances of one module."""

    def decorate(elaborate: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(elaborate)
        def place(self: wiring.Component, platform: object) -> Any:
            if isinstance(platform, Emission) and self is not platform.top:
                key = (type(self), *(getattr(self, parameter) for parameter in parameters))
                return platform.instance(self, key)
            return elaborate(self, platform)

        return place

    return decorate
