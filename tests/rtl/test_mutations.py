"""Mutations of the RTL, each of which the benches must catch: proof that they can fail.

A mutation is one edit of a unit's source, on a copy in memory; an edit that no longer applies fails here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType

import numpy as np
import pytest

import quaver.rtl
from quaver.golden.formats import FP16
from quaver.golden.rounding import Rounding
from quaver.rtl.emit.verilog import to_verilog
from quaver.sim.benches import float_adder as adder_bench
from quaver.sim.exhaustive import AdderPairs, Pairs
from quaver.sim.runner import run_bench

ROOT = Path(quaver.rtl.__file__).parent

#: name → (module, old text, new text): what an engineer's slip would look like.
ADDER = {
    "ties go up": ("rounding", "(dropped[:-1].any() | kept[0])", "1"),
    "ties go to odd": ("rounding", "(dropped[:-1].any() | kept[0])", "(dropped[:-1].any() | ~kept[0])"),
    "never rounds up": ("rounding", "self.up.eq(dropped[-1] &", "self.up.eq(0 & dropped[-1] &"),
    "sticky bit dropped": ("float/adder", "right = Cat(pipe.sticky, ", "right = Cat(Const(0, 1), "),
    "cancellation keeps a sign": ("float/adder", "pipe.sign & ~pipe.cancels", "pipe.sign"),
    "infinity − infinity": ("float/adder", " | (a.infinite & b.infinite & (a.sign ^ b.sign))", ""),
    "NaN only from a": ("float/adder", "a.nan | b.nan", "a.nan"),
    "overflow wraps": ("float/adder", "infinite.eq(over | pipe.infinite)", "infinite.eq(pipe.infinite)"),
    "subnormals normalised": ("float/adder", "Mux(zeros > room, room, zeros)", "zeros"),
    "NaN with a sign": (
        "float/unpacked",
        "self.code.eq(fmt.nan_code)",
        "self.code.eq(fmt.nan_code | fmt.sign_code)",
    ),
}
STOCHASTIC = {
    "sticky forgets the far": ("float/adder", "pipe.far & (pipe.small.any()", "pipe.far & (Const(0, 1)"),
    "no random bits": ("rounding", "compared + random", "compared + 0"),
    "random bit 0 stuck": ("rounding", "compared + random", "compared + (random & ~1)"),
    "fraction halved": (
        "rounding",
        "Cat(Const(0, bits), dropped)",
        "Cat(Const(0, bits), dropped, Const(0, 1))",
    ),
}
UNEDITED = ("rounding", "Drops the low bits", "Drops the low bits")


class Edited(SourceFileLoader, MetaPathFinder):
    """Finds one module, whose source it has edited."""

    def __init__(self, name: str, path: Path, old: str, new: str) -> None:
        super().__init__(name, str(path))
        self.old, self.new = old, new

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text()
        return compile(source.replace(self.old, self.new), f"mutated {fullname}", "exec")


@contextmanager
def mutated(module: str, old: str, new: str) -> Iterator[None]:
    """`quaver.rtl` with one edit in `module`, such as float/adder; all its modules are imported anew, and put
    back afterwards."""
    path = ROOT / f"{module}.py"
    times = path.read_text().count(old)
    assert times == 1, f"rtl/{module}.py has {times} times: {old}"
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("quaver.rtl")}
    name = f"quaver.rtl.{module}".replace("/", ".")
    finder = Edited(name, path, old, new)
    sys.meta_path.insert(0, finder)
    try:
        import_module(name)
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.startswith("quaver.rtl")]:
            del sys.modules[name]
        sys.modules.update(kept)
        quaver.rtl = kept["quaver.rtl"]  # the import of the mutant has set it


def adder_verilog(edit: tuple[str, str, str], rounding: Rounding, name: str = "float_adder") -> str:
    with mutated(*edit):
        from quaver.rtl.float.adder import FloatAdder

        return to_verilog(FloatAdder(FP16, rounding=rounding), name)


def side_by_side(edits: Iterable[tuple[str, str, str]], rounding: Rounding, random_bits: int) -> Pairs:
    """The adders of all edits in one unit, compiled once: `random` has above its bits which one is meant."""
    texts = [adder_verilog(edit, rounding, f"adder_{i}") for i, edit in enumerate(edits)]
    random = f", .random(random[{random_bits - 1}:0])" if random_bits else ""
    units = "".join(
        f"  wire [15:0] sum_{i};\n  adder_{i} unit_{i}(.a(a), .b(b), .sum(sum_{i}){random});\n"
        for i in range(len(texts))
    )
    chosen = "".join(
        f"random[{random_bits + 3}:{random_bits}] == {i} ? sum_{i} : " for i in range(len(texts))
    )
    top = (
        f"module adders(input [15:0] a, input [15:0] b, input [{random_bits + 3}:0] random, "
        f"output [15:0] sum);\n{units}  assign sum = {chosen}16'd0;\nendmodule\n"
    )
    return Pairs("".join(texts) + top, "adders", "sum", (16, 16, random_bits + 4, 16))


@pytest.mark.parametrize(
    ("edits", "rounding", "random_bits"),
    [(ADDER, Rounding.NEAREST_EVEN, 0), (STOCHASTIC, Rounding.STOCHASTIC, 16)],
    ids=["nearest", "stochastic"],
)
def test_every_mutant_of_the_adder_is_caught(
    edits: dict[str, tuple[str, str, str]], rounding: Rounding, random_bits: int
) -> None:
    """The bench's own stimulus, through the compiled units, tells each from the definition; but not the adder
    without an edit."""
    from quaver.rtl.float.adder import FloatAdder

    rng = np.random.default_rng(1)
    a, b = adder_bench.pairs(FP16, rng)
    random = adder_bench.randoms(16, rng, len(a)) if random_bits else np.zeros_like(a)
    expected = AdderPairs(FloatAdder(FP16, rounding=rounding)).definition(a, b, random)
    adders = side_by_side([*edits.values(), UNEDITED], rounding, random_bits)
    equal = [
        np.array_equal(adders.evaluate(a, b, random | i << random_bits), expected)
        for i in range(len(edits) + 1)
    ]
    assert equal == [False] * len(edits) + [True], [*edits, "unedited"]


def test_cocotb_catches_ties_that_go_to_odd() -> None:
    result = run_bench("float_adder", verilog=adder_verilog(ADDER["ties go to odd"], Rounding.NEAREST_EVEN))
    assert result.checks > 1000
    first = result.failures[0]
    assert "expected 0x" in first
    assert "got 0x" in first
    assert "mismatches in all" in result.failures[-1]


def test_cocotb_catches_an_lfsr_with_another_tap() -> None:
    from quaver.sim.benches import lfsr

    with mutated(
        "lfsr", "history[tap - 1] for tap in self.taps", "history[tap - 1] for tap in (32, 30, 26, 24)"
    ):
        from quaver.rtl.lfsr import LFSR

        verilog = to_verilog(LFSR(16, seed=lfsr.VARIANTS["lfsr"]().initial_seed), "lfsr")
    assert run_bench("lfsr", verilog=verilog).failures


RANDOM_BITS = {
    "draws of a column not delayed": (
        "lower.b_random.eq(upper.b_random_out)",
        "lower.b_random.eq(upper.b_random)",
    ),
    "one row's draws for all": ("first.a_random.eq(row[:bits])", "first.a_random.eq(self.random.row[:bits])"),
    "a row too far": ("row.eq(places_on(above, ROW, 1))", "row.eq(places_on(above, ROW, 2))"),
    "diagonals that go down as they go right": (
        "places_on(above_diagonal, DIAGONAL, DIAGONAL.per_row)",
        "places_on(above_diagonal, DIAGONAL, 1)",
    ),
    "a diagonal that does not hop": (
        "right.diagonal.eq(left.diagonal_out)",
        "right.diagonal.eq(left.diagonal)",
    ),
    "one column's draws for all": ("column.eq(places_on(before, COLUMN, 1))", "column.eq(before)"),
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(*change, marks=[pytest.mark.slow] * (i > 0), id=name)
        for i, (name, change) in enumerate(RANDOM_BITS.items())
    ],
)
def test_cocotb_catches_random_bits_that_belong_to_another_output(old: str, new: str) -> None:
    from quaver.sim.benches import systolic

    name = "systolic 2 x 3, stochastic"
    unit = systolic.VARIANTS[name]()
    with mutated("array/systolic", old, new):
        mutant = sys.modules["quaver.rtl.array.systolic"].SystolicArray(
            unit.arithmetic, unit.rows, unit.columns, unit.stages
        )
        verilog = to_verilog(mutant, "systolic")
    assert any("expected" in line for line in run_bench(name, verilog=verilog).failures)


@pytest.mark.parametrize(
    ("unit", "old", "new"),
    [
        ("float_sgd", "momentum.y.eq(decay.result)", "momentum.y.eq(decay.y)"),
        ("fixed_sgd", "terms[0] + terms[1]", "terms[1]"),
    ],
)
def test_cocotb_catches_an_update_that_forgets_its_decay(unit: str, old: str, new: str) -> None:
    variant = import_module(f"quaver.sim.benches.{unit}").VARIANTS[unit]()
    with mutated(f"update/{unit}", old, new):
        module = sys.modules[f"quaver.rtl.update.{unit}"]
        mutant = module.FloatSGDUnit(FP16) if unit == "float_sgd" else module.FixedSGDUnit(*variant.formats)
        verilog = to_verilog(mutant, unit)
    assert any("expected" in line for line in run_bench(unit, verilog=verilog).failures)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "m.If(Mux(folds_here, control.first, ",
            "m.If(Mux(folds_here, 0, ",
        ),  # a new output starts from the old total
        (
            "Mux(folded, self.sum.layout.const(self.sum.zero).as_value(), add.sum.as_value())",
            "add.sum.as_value()",
        ),
    ],
    ids=["fold without first", "partial kept after a fold"],
)
def test_cocotb_catches_a_mutant_of_the_element(old: str, new: str) -> None:
    from quaver.sim.benches import pe as pe_bench

    with mutated("pe/chunked_float", old, new):
        mutant = sys.modules["quaver.rtl.pe.chunked_float"]
        unit = pe_bench.VARIANTS["pe"]()
        unit.pe = mutant.ChunkedFloatPE(unit.arithmetic, stages=unit.pe.interleave)
        verilog = to_verilog(unit, "pe")
    assert any("expected" in line for line in run_bench("pe", verilog=verilog).failures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("magnitude >> distance[:levels])[: F + 2]", "magnitude >> distance[:levels])[: F + 2] | 1"),
        ("Mux(first_fold, zero, totals[-1].as_value())", "totals[-1].as_value()"),
        ("one = ones.pop() if ones else Const(0, 1)", "one = Const(0, 1)"),
    ],
    ids=["a bit of every term", "fold without first", "no ones"],
)
def test_cocotb_catches_a_mutant_of_the_fused_dot_product(old: str, new: str) -> None:
    from quaver.sim.benches import pe_aligned_float as pe_bench

    name = "pe_aligned_float"
    with mutated("pe/aligned_float", old, new):
        mutant = sys.modules["quaver.rtl.pe.aligned_float"]
        unit = pe_bench.VARIANTS[name]()
        unit.pe = mutant.AlignedFloatPE(unit.arithmetic, stages=unit.pe.interleave)
        verilog = to_verilog(unit, name)
    assert any("expected" in line for line in run_bench(name, verilog=verilog).failures)
