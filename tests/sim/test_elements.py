import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.formats import FP8
from quaver.rtl.emit.shared_modules import shared_module
from quaver.rtl.emit.verilog import Elements, to_verilog_around
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.sim.elements import write_parts


class Delay(wiring.Component):
    def __init__(self, width: int):
        self.width = width
        super().__init__({"input": In(width), "output": Out(width)})

    @shared_module("width")
    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.output.eq(self.input)
        return m


class Line(wiring.Component):
    """Delays of given widths one behind the other."""

    def __init__(self, *widths: int):
        self.widths = widths
        super().__init__({"input": In(8), "output": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value = self.input
        for width in self.widths:
            m.submodules += (delay := Delay(width))
            m.d.comb += delay.input.eq(value)
            value = delay.output
        m.d.comb += self.output.eq(value)
        return m


def test_elements_become_ports():
    verilog, elements = to_verilog_around(Line(8, 8, 8), "line")
    assert (elements.count, elements.inputs, elements.outputs) == (3, ("input",), ("output",))
    for i in range(3):
        assert f"output [7:0] element_{i}_input;" in verilog
        assert f"input [7:0] element_{i}_output;" in verilog
    assert "assign element_1_input = element_0_output" in verilog
    assert "posedge" not in verilog
    assert "module element(" in elements.verilog
    assert "posedge clk" in elements.verilog


@pytest.mark.parametrize(
    ("unit", "kinds"), [(FloatMultiplier, 0), (lambda *_: Line(8, 7, 8), 2)], ids=["none", "two kinds"]
)
def test_elements_of_one_kind(unit, kinds):
    with pytest.raises(ValueError, match=f"^{kinds} kinds of elements in unit, but there must be one$"):
        to_verilog_around(unit(FP8, FP8), "unit")


@pytest.mark.parametrize("member", ["VlWide<3> sum", "VlUnpacked<IData/*18:0*/, 4> totals"])
def test_an_element_that_cannot_be_laid_out(member, tmp_path):
    triggers = "VlUnpacked<QData/*63:0*/, 1> __VnbaTriggered;\n"
    (tmp_path / "Velement___024root.h").write_text(f"IData/*18:0*/ a;\n{triggers}{member};\n")
    with pytest.raises(
        RuntimeError, match=r"^the array's element has a memory or a signal of more than 64 bits$"
    ):
        write_parts(Elements("", 1, (), ()), tmp_path)


def test_an_output_that_is_not_a_register(tmp_path):
    (tmp_path / "Velement___024root.h").write_text("")
    for phase, port in (("nba", "a_out"), ("ico", "b_out")):
        name = f"void Velement___024root___{phase}_sequent__TOP__0(Velement___024root* vlSelf)"
        (tmp_path / f"Velement___024root__{phase}.cpp").write_text(
            f"{name} {{\n    vlSelfRef.{port} = 1U;\n}}\n"
        )
    with pytest.raises(RuntimeError, match=r"^outputs of the array's element are not registers: b_out$"):
        write_parts(Elements("", 1, (), ("a_out", "b_out")), tmp_path)
