"""What an accelerator offers stays until it is taken, proved for all inputs and all time by induction.

The properties are assertions beside the emitted Verilog. Yosys's own solver shows that they hold after
power-up, and that they hold in a cycle if they did in the one before; what a reset takes back is no fault.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import pytest
from equivalence import yosys
from test_axi import MUTANTS
from test_mutations import mutated

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.emit.verilog import module_ports, to_verilog

pytestmark = pytest.mark.formal

#: Of a unit, what stands with each valid until its ready: valid → (ready, payload).
Channels = Mapping[str, tuple[str, Sequence[str]]]
RESPONSES: Channels = {"responses_valid": ("responses_ready", ["responses_payload"])}
AXI: Channels = {
    "s_axi_bvalid": ("s_axi_bready", ["s_axi_bresp"]),
    "s_axi_rvalid": ("s_axi_rready", ["s_axi_rdata", "s_axi_rresp"]),
    "m_axis_tvalid": ("m_axis_tready", ["m_axis_tdata", "m_axis_tlast"]),
}
#: What induction needs to know of a FIFO of two words: no other states are reached.
FIFO = "level <= 2 && (produce == consume) == !level[0]"
#: Cycles from power-up in which a control must find its counterexample.
CYCLES = 16


def watched(verilog: str, top: str, channels: Channels, clock: str, reset: str) -> str:
    """The Verilog with a module `watched` around it, which asserts that what `channels` offer stays."""
    ports = module_ports(verilog, top)
    declared = ", ".join(f"{way} [{width - 1}:0] {name}" for name, (way, width) in ports.items())
    text = (
        f"{verilog}\nmodule watched({declared});\n  {top} unit({', '.join(f'.{p}({p})' for p in ports)});\n"
    )
    for valid, (ready, payload) in channels.items():
        offered = f"{{{', '.join([valid, *payload])}}}"
        width = 1 + sum(ports[port][1] for port in payload)
        text += f"""
  reg [{width - 1}:0] {valid}_before;
  reg {valid}_stands = 0;
  always @(posedge {clock}) begin
    {valid}_before <= {offered};
    {valid}_stands <= {valid} && !{ready} && !({reset});
  end
  always @* if ({valid}_stands) assert({offered} == {valid}_before);
"""
    return f"{text}endmodule\n"


def asserted(verilog: str, module: str, assertion: str) -> str:
    """The Verilog with an assertion in one of its modules."""
    found = re.search(rf"^module \\?{re.escape(module)}\s*\(.*?^endmodule", verilog, re.M | re.S)
    assert found, f"no module {module}"
    end = found.end() - len("endmodule")
    return f"{verilog[:end]}  always @* assert({assertion});\n{verilog[end:]}"


def prove(verilog: str, how: str) -> str:
    """What the solver says of the assertions of module `watched`."""
    script = (
        "read_verilog -formal unit.v; prep -flatten -top watched; memory_map; opt -fast; chformal -lower; "
    )
    script += f"dffunmap; opt_clean; tee -o said.txt sat {how} -prove-asserts watched"
    done = yosys(script, {"unit.v": verilog}, "said.txt")
    assert not done.returncode, done.stderr
    return done.stdout


def holds(verilog: str) -> bool:
    """Whether induction proves it."""
    return "Induction step proven: SUCCESS!" in prove(verilog, "-tempinduct -maxsteps 3")


def fails(verilog: str) -> bool:
    """Whether inputs from power-up break it."""
    return "model found: FAIL!" in prove(verilog, f"-seq {CYCLES}")


def responses(*, updates: bool = True) -> str:
    """An accelerator whose elements may do as they like; of whatever `quaver.rtl` is imported now."""
    kind: type[Accelerator] = import_module("quaver.rtl.accelerator.accelerator").Accelerator
    update = import_module("quaver.rtl.update.float_sgd").FloatSGDUnit(stages=1) if updates else None
    unit = kind(ChunkedFloat(), rows=1, columns=1, stages=1, depth=2, update=update)
    text, _ = import_module("quaver.rtl.emit.verilog").to_verilog_around(unit, "accelerator")
    return watched(text, "accelerator", RESPONSES, "clk", "rst")


def axi(name: str = "") -> str:
    """The AXI core, or one of its mutants."""
    with mutated("accelerator/axi", *MUTANTS.get(name, ("", ""))[:2]) if name else mutated(*UNCHANGED):
        core = sys.modules["quaver.rtl.accelerator.axi"].AxiAccelerator
        text = to_verilog(
            core(Accelerator(ChunkedFloat(), rows=1, columns=1, stages=1, depth=2)), "axi_accelerator"
        )
    text = asserted(text, "axi_accelerator.exit", FIFO)
    return watched(text, "axi_accelerator", AXI, "aclk", "!aresetn")


UNCHANGED = ("accelerator/axi", "class AxiAccelerator(", "class AxiAccelerator(")


def test_responses_stay() -> None:
    assert holds(responses())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.responses.ready | ~self.responses.valid", "1"),
        (
            "m.If(leaves):\n            m.d.sync += [self.responses.payload",
            "m.If(leaves | (left == 1)):\n            m.d.sync += [self.responses.payload",
        ),
    ],
    ids=["not waited for", "the last word is not waited for"],
)
def test_responses_that_do_not_stay(old: str, new: str) -> None:
    with mutated("accelerator/response_writer", old, new):
        assert fails(responses(updates=False))


def test_the_axi_channels_stay() -> None:
    assert holds(axi())


@pytest.mark.parametrize(
    "name",
    [
        "an answer that is withdrawn",
        "data may change before they are taken",
        "reset forgets what is offered",
    ],
)
def test_axi_channels_that_do_not_stay(name: str) -> None:
    assert fails(axi(name))
