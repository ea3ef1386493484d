"""A processing element of any arithmetic between its entries and its exit: codes in, codes out."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from quaver.rtl.pe.element import ProcessingElement


class Element(wiring.Component):
    """The element's inputs, with codes for a and b; `random` of the exit, if it takes any.

    Parameters
    ----------
    pe
        The element, one whose entries take codes alone.
    shown
        Outputs of the element that are shown beside the total's code.

    ========== === ==========================================
    a, b       in  codes of operands, `group` of them
    code       out the total that leaves next, as `exit` says
    ========== === ==========================================
    """

    def __init__(self, pe: ProcessingElement, shown: Sequence[str] = ()) -> None:
        self.pe, self.entries, self.foot = pe, {"a": pe.entry_a(), "b": pe.entry_b()}, pe.exit()
        of_pe, of_foot = pe.signature.members, self.foot.signature.members
        ports = {name: In(entry.code.shape()) for name, entry in self.entries.items()}  # type: ignore[attr-defined]
        ports |= {name: of for name, of in of_pe.items() if name not in "ab" and of.flow is In}
        ports |= {name: of for name, of in of_foot.items() if name == "random"}
        super().__init__(ports | {"code": of_foot["code"], **{name: of_pe[name] for name in shown}})
        self.shown = shown

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.pe, m.submodules.exit = pe, foot = self.pe, self.foot
        for name, entry in self.entries.items():
            m.submodules[f"entry_{name}"] = entry
            m.d.comb += [entry.code.eq(getattr(self, name)), getattr(pe, name).eq(entry.number)]  # type: ignore[attr-defined]
        for name, of in pe.signature.members.items():
            if name not in "ab" and of.flow is In:
                m.d.comb += getattr(pe, name).eq(getattr(self, name))
        if "random" in self.signature.members:
            m.d.comb += foot.random.eq(self.random)  # type: ignore[attr-defined]
        m.d.comb += [foot.number.eq(pe.chain_out), self.code.eq(foot.code)]  # type: ignore[attr-defined]
        m.d.comb += [getattr(self, name).eq(getattr(pe, name)) for name in self.shown]
        return m
