# amaranth: UnusedElaboratable=no
"""The fixed-point update unit against its golden twin: saturation and rounding edges, long runs, slips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from amaranth.sim import Simulator
from update_units import Codes, Simulated, equal

import quaver.rtl.round_and_saturate
import quaver.rtl.update.fixed_sgd
import quaver.rtl.update.unit
from quaver.golden.formats import FixedFormat
from quaver.golden.nn.recipes import fixed16, fixed20
from quaver.golden.update.fixed_sgd import SCALAR, FixedSGD
from quaver.rtl.round_and_saturate import RoundAndSaturate
from quaver.rtl.update import unit_for
from quaver.rtl.update.fixed_sgd import FixedSGDUnit
from quaver.rtl.update.unit import UpdateUnit

Q8_8, Q2_14, Q1_15 = FixedFormat(8, 8), FixedFormat(2, 14), FixedFormat(1, 15)
LARGEST = SCALAR.max_value
STEP = 2.0**-SCALAR.fraction_bits
#: Rate, momentum, decay: as in training, at both ends, and those that make ties of single steps.
SCALARS = [(0.05, 0.9, 1e-3), (LARGEST, LARGEST, 1.0), (STEP, 0.0, 0.0), (0.0, 0.5, 0.0), (0.5, 1.0, 0.5)]
RULES = {
    "fixed16": fixed16.update.rule(0.1, 0.9, 0.0),
    "fixed20": fixed20.update.rule(0.1, 0.9, 0.0),
    "second line rounds": FixedSGD(0.1, 0.9, 0.0, Q8_8, Q2_14, Q1_15, random_bits=3),
    "32 random bits": FixedSGD(0.1, 0.9, 0.0, Q2_14, Q8_8, Q8_8, random_bits=32),
    "nearest": FixedSGD(0.1, 0.9, 0.0, Q8_8, Q2_14, Q2_14, rounding="nearest"),
    "variant B": FixedSGD(0.1, 0.9, 0.0, Q2_14, Q8_8, Q8_8, "stochastic-b", 32),
    "variant C": FixedSGD(0.1, 0.9, 0.0, Q8_8, Q2_14, Q1_15, "stochastic-c", 3),
}


def with_scalars(rule: FixedSGD, rate: float, momentum: float, decay: float) -> FixedSGD:
    return FixedSGD(rate, momentum, decay, *rule.formats, rule.rounding, rule.random_bits)


def seed_for(rule: FixedSGD, seed: int) -> int | None:
    return seed if rule.stochastic else None


def edges(rule: FixedSGD) -> list[Codes]:
    """Every triple of: the ends and their neighbours, halves of them, zero and a step either way."""
    grids = []
    for fmt in rule.formats:
        top = fmt.max_code
        numbers = np.array([~top, ~top + 1, ~top // 2, -1, 0, 1, top // 2 + 1, top - 1, top])
        grids.append(fmt.codes(numbers))
    return [column.ravel() for column in np.meshgrid(*grids, indexing="ij")]


def elements(rule: FixedSGD, count: int, seed: int) -> list[Codes]:
    """Half as in training, half any codes at all, and the edges."""
    rng = np.random.default_rng(seed)
    columns = []
    for fmt, scale, edge in zip(rule.formats, (0.1, 0.01, 0.02), edges(rule), strict=True):
        trained, anything = fmt.encode(rng.normal(0, scale, count)), rng.integers(0, 1 << fmt.width, count)
        columns.append(np.concatenate([trained, anything, edge]).astype(fmt.code_dtype))
    return columns


@pytest.mark.parametrize("name", RULES)
def test_equals_golden(tmp_path: Path, name: str) -> None:
    unit = unit_for(RULES[name])
    simulated = Simulated(unit, tmp_path)
    for i, scalars in enumerate(SCALARS):
        rule = with_scalars(RULES[name], *scalars)
        data, seed = elements(rule, 100_000 if i else 500_000, i), seed_for(rule, 0xC0FFEE + i)
        expected = rule.update(*data, seed=seed)
        assert equal(simulated.update(rule, *data, seed=seed), expected)
        assert simulated.cycles == 1 + len(data[0]) + unit.latency
        assert equal(simulated.update(rule, *data, seed=seed, pauses=(60, 60)), expected)


def simulate(unit: UpdateUnit, rule: FixedSGD, data: list[Codes], seed: int | None) -> list[Codes]:
    """A run of `unit` in Amaranth's simulator: new weights and momenta."""
    got = []

    async def bench(ctx) -> None:  # type: ignore[no-untyped-def]
        for name, value in (rule.scalars | ({"seed": seed} if seed else {})).items():
            ctx.set(unit.settings.payload[name], value)
        ctx.set(unit.settings.valid, 1)
        ctx.set(unit.results.ready, 1)
        await ctx.tick()
        ctx.set(unit.settings.valid, 0)
        ctx.set(unit.elements.valid, 1)
        for row in [*zip(*(column.tolist() for column in data), strict=True), *[(0, 0, 0)] * unit.latency]:
            for name, code in zip(("weight", "momentum", "gradient"), row, strict=True):
                ctx.set(unit.elements.payload[name], code)
            if ctx.get(unit.results.valid):
                got.append((ctx.get(unit.results.payload.weight), ctx.get(unit.results.payload.momentum)))
            await ctx.tick()
        got.append((ctx.get(unit.results.payload.weight), ctx.get(unit.results.payload.momentum)))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    columns = zip(*got[: len(data[0])], strict=True)
    return [np.array(column, like.dtype) for column, like in zip(columns, data, strict=False)]


def wrong(make: Callable[..., UpdateUnit], name: str) -> bool:
    """Whether the edges of a rule tell a unit from its golden twin."""
    for scalars in SCALARS:
        rule = with_scalars(RULES[name], *scalars)
        unit = make(*rule.formats, rounding=rule.rounding, random_bits=rule.random_bits)
        data, seed = edges(rule)[:], seed_for(rule, 77)
        if not equal(tuple(simulate(unit, rule, data, seed)), rule.definition(*data, seed=seed)):  # type: ignore[arg-type]
            return True
    return False


@pytest.mark.parametrize("name", ["second line rounds", "nearest", "variant B", "variant C"])
def test_the_edges_in_amaranth(name: str) -> None:
    assert not wrong(FixedSGDUnit, name)


def test_the_edges_reach_every_saturation() -> None:
    """Both lines end at both ends of their formats, by saturating and by one step less."""
    for name in ("fixed16", "second line rounds", "nearest"):
        seen = [set[int](), set[int]()]
        for scalars in SCALARS:
            rule = with_scalars(RULES[name], *scalars)
            new = rule.definition(*edges(rule), seed=seed_for(rule, 77))
            for found, fmt, codes in zip(seen, rule.formats, new, strict=False):
                found |= set(fmt.integers(codes).tolist())
        for found, fmt in zip(seen, RULES[name].formats, strict=False):
            assert {~fmt.max_code, ~fmt.max_code + 1, fmt.max_code - 1, fmt.max_code} <= found


#: name → (module, old text, new text): what an engineer's slip would look like.
SLIPS = {
    "momentum and gradient swapped": (
        "update/fixed_sgd",
        '"momentum": element.momentum, "rate": element.gradient',
        '"momentum": element.gradient, "rate": element.momentum',
    ),
    "scalars unsigned codes too": ("update/fixed_sgd", "half * code.as_signed()", "half * code"),
    "a scalar's upper half lost": ("update/fixed_sgd", "low + (high << _HALF)", "low"),
    "decay forgotten": ("update/fixed_sgd", "terms[0] + terms[1]", "terms[1]"),
    "a binary point one off": (
        "update/fixed_sgd",
        "finest - fmt.fraction_bits",
        "finest - fmt.fraction_bits + 1",
    ),
    "v added": (
        "update/fixed_sgd",
        "self.weights.fraction_bits)) - (",
        "self.weights.fraction_bits)) + (",
    ),
    "a draw too early": ("update/fixed_sgd", "entered[3]", "entered[2]"),
    "no draw": ("update/fixed_sgd", "lfsr.enable.eq(draw)", "lfsr.enable.eq(0)"),
    "draws of the other line": ("update/fixed_sgd", "self.seed(line)", 'self.seed("decay")'),
    "weight a cycle early": (
        "update/fixed_sgd",
        "delayed(m, 4, element.weight)",
        "delayed(m, 3, element.weight)",
    ),
    "the old momentum": ("update/fixed_sgd", "delayed(m, 1, v)", "delayed(m, 5, element.momentum)"),
    "saturates a bit late": ("round_and_saturate", "self.result.width - 1 :]", "self.result.width :]"),
    "wraps": ("round_and_saturate", "Mux(overflows, end, rounded)", "rounded"),
    "no seed": ("update/unit", "self.settings.payload.seed ^", "0 ^"),
}


def mutant(module: str, old: str, new: str) -> Callable[..., UpdateUnit]:
    """`FixedSGDUnit` with one edit in a module that it is made of."""
    source = (Path(quaver.rtl.__file__).parent / f"{module}.py").read_text()
    assert source.count(old) >= 1, f"rtl/{module}.py has not: {old}"
    edited = ModuleType(f"mutated_{module}")
    exec(compile(source.replace(old, new), edited.__name__, "exec"), edited.__dict__)
    if module == "update/fixed_sgd":
        return edited.FixedSGDUnit
    kept = Path(quaver.rtl.update.fixed_sgd.__file__).read_text()
    user = ModuleType("user")
    exec(compile(kept, "user", "exec"), user.__dict__)
    if module == "round_and_saturate":
        user.RoundAndSaturate = edited.RoundAndSaturate  # type: ignore[attr-defined]
        return user.FixedSGDUnit
    return type("Mutant", (user.FixedSGDUnit,), {"seed": edited.UpdateUnit.seed})


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_caught(slip: str) -> None:
    assert wrong(mutant(*SLIPS[slip]), "second line rounds")


def test_refuses() -> None:
    with pytest.raises(ValueError, match=r"^rounding is truncate, but the update rounds to nearest or"):
        FixedSGDUnit(rounding="truncate")
    with pytest.raises(ValueError, match=r"^random_bits is 0, but a draw takes 1 … 32$"):
        FixedSGDUnit(random_bits=0)
    with pytest.raises(ValueError, match=r"^dropped_bits is 8, but of 8 bits 0 to 7 can go$"):
        RoundAndSaturate(8, 8, Q8_8)
    with pytest.raises(TypeError, match="but the hardware updates by fixed_sgd and float_sgd only"):
        unit_for(None)  # type: ignore[arg-type]
