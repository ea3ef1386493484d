"""Every pair of small formats through adder, multiplier and processing element, against `golden.exact`."""

from __future__ import annotations

import random
import sys
from importlib import import_module

import pytest
from grid import Case, Unit, outcomes
from small_formats import formats
from test_mutations import mutated

from quaver.golden.formats import E4M3, FP8, FloatFormat, Specials
from quaver.golden.rounding import NEAREST_OR_DRAWN, Rounding

KINDS = (Specials.IEEE, Specials.OCP_FN)  # the hardware refuses DLFloat
BOTH = (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC)
FORMATS = formats(7, KINDS)
#: Whether they saturate makes no difference in an operand.
OPERANDS = formats(7, KINDS, [False])
OPEN_E4M3, SATURATING_FP8 = E4M3.replace(saturate=False), FP8.replace(saturate=True)


def some(unit: Unit, count: int) -> list[Case]:
    """Cases of every relation that two formats can have: precision, quantum, largest exponent."""
    drawn = random.Random(f"{unit}")
    kinds: dict[tuple[bool, ...], list[tuple[FloatFormat, FloatFormat]]] = {}
    for fmt in FORMATS:
        for other in OPERANDS:
            values = [(f.precision, f.quantum_exponent, f.max_exponent) for f in (fmt, other)]
            order = tuple((x > y) - (x < y) for x, y in zip(*values, strict=True))
            kinds.setdefault(order, []).append((fmt, other))
    pairs = [pair for kind in kinds.values() for pair in drawn.sample(kind, min(len(kind), 4))]
    chosen = drawn.sample(pairs, count)
    return sorted(
        (Case(unit, *pair, drawn.choice(NEAREST_OR_DRAWN), drawn.randint(1, 3)) for pair in chosen),
        key=lambda case: (str(case.format), case.rounding, case.random_bits),
    )


@pytest.mark.parametrize(
    ("unit", "count"),
    [
        *((Unit.ADDER, 12), (Unit.MULTIPLY_ADD, 4), (Unit.ELEMENT, 6)),
        *(
            pytest.param(unit, count, marks=pytest.mark.slow)
            for unit, count in ((Unit.ADDER, 48), (Unit.MULTIPLY_ADD, 16), (Unit.ELEMENT, 32))
        ),
    ],
)
def test_some_pairs(unit: Unit, count: int) -> None:
    assert [outcome.first for outcome in outcomes(some(unit, count)) if outcome.wrong] == []


@pytest.mark.parametrize(
    ("fmt", "addend"), [(OPEN_E4M3, FP8), (FP8, OPEN_E4M3), (E4M3, SATURATING_FP8)], ids=str
)
def test_every_sum_of_two_kinds_of_eight_bits(fmt: FloatFormat, addend: FloatFormat) -> None:
    cases = [Case(Unit.ADDER, fmt, addend, rounding, 2) for rounding in BOTH]
    assert [outcome.first for outcome in outcomes(cases) if outcome.wrong] == []


@pytest.mark.parametrize("operand", [FloatFormat(2, 1), FloatFormat(2, 1, specials=Specials.OCP_FN)], ids=str)
def test_sums_that_saturate_between_two_multiples_of_the_products(operand: FloatFormat) -> None:
    """The largest sum, 3.875, is no multiple of the products' 0.25, and neither is what is added to it."""
    cases = [Case(Unit.ELEMENT, FloatFormat(2, 4, saturate=True), operand, mode, 10) for mode in BOTH]
    assert [outcome.first for outcome in outcomes(cases) if outcome.wrong] == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_pair(fmt: FloatFormat) -> None:
    done = list(
        outcomes(
            Case(unit, fmt, other, mode) for mode in NEAREST_OR_DRAWN for unit in Unit for other in OPERANDS
        )
    )
    for unit in Unit:
        of_unit = [outcome for outcome in done if outcome.case.unit is unit]
        compared, wrong = (sum(getattr(each, count) for each in of_unit) for count in ("compared", "wrong"))
        print(f"{unit}, {fmt}: {len(OPERANDS)} pairs, {compared:,} comparisons, {wrong:,} mismatches")
    assert [outcome.first for outcome in done if outcome.wrong] == []


@pytest.mark.parametrize(
    ("old", "new", "unit", "rounding", "fmt", "other"),
    [
        (
            "not augend.gradual or addend.quantum_exponent >= augend.quantum_exponent",
            "True",
            Unit.ADDER,
            Rounding.NEAREST_EVEN,
            OPEN_E4M3,
            FP8,
        ),
        (
            "turns = pipe.negative & ~pipe.infinite if augend.gradual else pipe.negative",
            "turns = pipe.negative",
            Unit.ELEMENT,
            Rounding.STOCHASTIC,
            FloatFormat(2, 1),
            FloatFormat(2, 1),
        ),
    ],
    ids=["inverts what is not exact", "infinity turns its sign"],
)
def test_faults_that_were_there_are_found(
    old: str, new: str, unit: Unit, rounding: Rounding, fmt: FloatFormat, other: FloatFormat
) -> None:
    ours = sys.modules.pop("grid")
    try:
        with mutated("float/adder", old, new):
            grid = import_module("grid")  # anew, with the mutant in it
            case = grid.Case(grid.Unit(unit), fmt, other, rounding, 2)
            (outcome,) = grid.outcomes([case])
    finally:
        sys.modules["grid"] = ours
    assert outcome.wrong
