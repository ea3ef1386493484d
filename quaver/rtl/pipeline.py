"""Named values on their way through a datapath that registers cut into stages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amaranth.hdl import Module, Signal, Value


class Pipeline:
    """Each attribute is a value of the current stage; a cut puts a register behind all of them.

    Parameters
    ----------
    m
        The module that the datapath is in.
    cuts
        Names of the steps behind which there are registers.
    """

    def __init__(self, m: Module, cuts: Collection[str]) -> None:
        self.__dict__.update(_m=m, _cuts=cuts, _live={})

    def __setattr__(self, name: str, value: Any) -> None:
        value = Value.cast(value)
        if len(value):
            signal = Signal(len(value), name=name)
            self._m.d.comb += signal.eq(value)
            value = signal
        self._live[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self._live[name]
        except KeyError:
            raise AttributeError(f"no value {name} in this stage") from None

    def __delattr__(self, name: str) -> None:
        del self._live[name]

    def step(self, name: str, *done: str) -> None:
        """Ends a step: values `done` are not needed any more; the others are registered if there is a cut."""
        for value in done:
            delattr(self, value)
        if name in self._cuts:
            for live, value in self._live.items():
                if len(value):
                    register = Signal(len(value), name=f"{live}_after_{name}", reset_less=True)
                    self._m.d.sync += register.eq(value)
                    self._live[live] = register
