"""The mutation runs of `make mutants`: mutants are caught, and equivalent ones are told from others."""

from __future__ import annotations

import re

import pytest
from mutant_drivers import SUBJECTS, Subject, rounding_driver
from mutants import Mutants, equivalent, mutants, run

from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.rounding import Rounding

UNIT = Rounding(6, 3)
SUBJECT = Subject(lambda: to_verilog(UNIT, "rounding"), "rounding", rounding_driver(UNIT))
#: a & b adds nothing; of a ^ b every bit does.
ABSORBED = """
module unit(input [3:0] a, input [3:0] b, output [3:0] or_, output [3:0] xor_);
  assign or_ = a | (a & b);
  assign xor_ = a ^ b;
endmodule
"""


@pytest.fixture(scope="module")
def rounding() -> Mutants:
    return SUBJECT.mutants(60, 1)


def test_mutants_of_the_rounding_unit_are_caught(rounding: Mutants) -> None:
    score = run("rounding", rounding, SUBJECT.driver(rounding))
    assert len(rounding.edits) > 30
    assert len(score.caught) > 25
    assert not score.survivors


def test_a_driver_that_sees_nothing_catches_nothing(rounding: Mutants) -> None:
    """What it should have caught is not sorted out as equivalent."""
    caught = run("rounding", rounding, SUBJECT.driver(rounding)).caught
    blind = run("rounding", rounding, lambda mutant: "")
    assert blind.score == 0
    assert set(caught) <= set(blind.survivors)


def test_fault_found_with_the_unit_itself_is_an_error(rounding: Mutants) -> None:
    with pytest.raises(RuntimeError, match="finds fault with the unit itself: always"):
        run("rounding", rounding, lambda mutant: "always")


def test_a_proof_that_a_caught_mutant_is_equivalent_is_an_error() -> None:
    of = mutants(ABSORBED, "unit", 60)
    with pytest.raises(RuntimeError, match="a proof that a mutant which was caught is equivalent"):
        run("unit", of, lambda mutant: "caught" if mutant else "", controls=len(of.edits))


def test_equivalent_mutants_are_proved_and_others_are_not() -> None:
    of = mutants(ABSORBED, "unit", 60)
    proved, undecided = equivalent(of, range(1, len(of.edits) + 1))
    assert not undecided
    edits = {mutant: of.edits[mutant - 1] for mutant in range(1, len(of.edits) + 1)}
    harmless = {mutant for mutant, edit in edits.items() if "$and" in edit and "const0" in edit}
    assert harmless
    assert harmless <= set(proved)
    assert not any("$xor" in edits[mutant] for mutant in proved)


def test_registers_are_cut_open() -> None:
    """A counter's mutant that is seen only after many cycles is not equivalent."""
    text = """
module unit(input clk, input enable, output top, output any);
  reg [5:0] count = 0;
  always @(posedge clk) count <= count + enable;
  assign top = count[5], any = top | (top & enable);
endmodule
"""
    of = mutants(text, "unit", 40)
    proved = {of.edits[mutant - 1] for mutant in equivalent(of, range(1, len(of.edits) + 1))[0]}
    assert any("$and" in edit and "const0" in edit for edit in proved)
    assert not any("procdff" in edit or ("$add" in edit and "-port Y" in edit) for edit in proved)


def test_states_that_are_never_reached_do_not_count() -> None:
    text = """
module unit(input clk, input rst, output six, output four);
  reg [2:0] count = 0;
  always @(posedge clk) count <= rst || count == 4 ? 0 : count + 1;
  assign six = count == 6, four = count == 4;
endmodule
"""
    of = mutants(text, "unit", 60)
    proved, undecided = equivalent(of, range(1, len(of.edits) + 1))
    edits = [of.edits[mutant - 1] for mutant in proved]
    assert not undecided
    assert any("unit.v:5" in edit and "const0" in edit and "-port Y" in edit for edit in edits)
    assert len(edits) < len(of.edits) / 2


def test_what_a_write_that_is_not_enabled_would_write_does_not_count() -> None:
    """Also where the memory is too large for a proof, and whether its name must be escaped or not."""
    for name in ("memory", "\\a.memory "):
        text = f"""
module unit(input clk, input enable, input [9:0] place, input [15:0] x, output [15:0] y);
  reg [15:0] {name} [1023:0];
  always @(posedge clk) if (enable) {name} [place] <= x;
  assign y = {name} [place];
endmodule
"""
        of = mutants(text, "unit", 200)
        inverted = [(i, edit) for i, edit in enumerate(of.edits, 1) if "inv" in edit and "$procmux" in edit]
        disabled, enabled = ([i for i, edit in inverted if f"-port {port}" in edit] for port in "AB")
        assert disabled
        assert enabled
        assert equivalent(of, [*disabled, *enabled]) == (disabled, [])


def test_a_unit_without_feedback_is_proved_cycle_by_cycle() -> None:
    text = """
module unit(input clk, input [3:0] a, input [3:0] b, output reg [3:0] or_, output reg [3:0] xor_);
  reg [3:0] first = 0, second = 0;
  always @(posedge clk) first <= a | (a & b);
  always @(posedge clk) second <= a ^ b;
  always @(posedge clk) or_ <= first;
  always @(posedge clk) xor_ <= second;
endmodule
"""
    of = mutants(text, "unit", 60, latency=2)
    proved, undecided = equivalent(of, range(1, len(of.edits) + 1))
    edits = {mutant: of.edits[mutant - 1] for mutant in range(1, len(of.edits) + 1)}
    harmless = {mutant for mutant, edit in edits.items() if "$and" in edit and "const0" in edit}
    assert not undecided
    assert harmless
    assert harmless <= set(proved)
    assert not any("$xor" in edits[mutant] or "procdff" in edits[mutant] for mutant in proved)


def test_a_proof_that_takes_too_long_leaves_its_mutant_undecided() -> None:
    text = """
module unit(input [13:0] a, input [13:0] b, input [13:0] c, output same);
  wire [13:0] left = a * (b + c), right = a * b + a * c;
  assign same = left == right;
endmodule
"""
    of = mutants(text, "unit", 200)
    harmless = next(i for i, edit in enumerate(of.edits, 1) if "$eq" in edit and "const1" in edit)
    harmful = next(i for i, edit in enumerate(of.edits, 1) if "$eq" in edit and "const0" in edit)
    assert equivalent(of, [harmful, harmless, harmful], 2.0) == ([], [harmless])
    score = run(
        "unit", of, lambda mutant: "caught" if mutant not in (0, harmless) else "", controls=1, limit=2.0
    )
    assert (score.undecided, score.survivors) == ([harmless], [])
    assert score.score < 1


def test_no_clock_is_spoilt() -> None:
    """Neither a register's, nor those of a memory and of a module that is kept."""
    text = """
module inner(input core_clk, input d, output reg q);
  always @(posedge core_clk) q <= d;
endmodule
module unit(input aclk, input enable, input [1:0] place, input x, output reg y, output z);
  reg memory [3:0];
  always @(posedge aclk) if (enable) memory[place] <= x;
  always @(posedge aclk) y <= memory[place];
  inner kept(.core_clk(aclk), .d(x), .q(z));
endmodule
"""
    of = mutants(text, "unit", 100, kept=["inner"])
    spoilt = {re.search(r"-cell (\S+) -port (\S+)", edit).groups() for edit in of.edits}  # type: ignore[union-attr]
    assert {("kept", "d"), ("unit_memory", "place")} <= spoilt
    assert not [port for _, port in spoilt if "clk" in port.lower()]
    clocks = re.findall(r"posedge (\w+)|\.\w*clk\((.*)\)", of.verilog)
    assert sorted(clocks) == sorted([("core_clk", ""), *[("aclk", "")] * 2, *[("", "aclk")] * 2])


def test_every_unit_is_there() -> None:
    assert len(SUBJECTS) == len({name.lower() for name in SUBJECTS}) >= 19
