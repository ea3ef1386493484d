# amaranth: UnusedElaboratable=no
"""The update unit against its golden twin: millions of elements, specials, stalls on both sides, mutants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from update_units import AnyScalars, Codes, Simulated, equal, subnormal_scalars

from quaver.golden.formats import BFLOAT16, E4M3, FP8, FP16, HALF, FloatFormat
from quaver.golden.rounding import Rounding
from quaver.golden.update.float_sgd import FloatSGD
from quaver.rtl.update import float_sgd as rtl_update
from quaver.rtl.update import unit as update_unit
from quaver.rtl.update.float_sgd import MAX_STAGES, FloatSGDUnit


def elements(fmt: FloatFormat, count: int, seed: int = 1) -> list[Codes]:
    """Weights, momenta, gradients: half as in training, half any codes at all."""
    rng = np.random.default_rng(seed)
    trained = [fmt.encode(rng.normal(0, scale, count // 2)) for scale in (0.05, 0.02, 0.01)]
    anything = rng.integers(0, 1 << fmt.width, (3, count - count // 2)).astype(trained[0].dtype)
    return [np.concatenate(pair) for pair in zip(trained, anything, strict=True)]


def specials(fmt: FloatFormat) -> list[Codes]:
    """Every triple of: zeros, the smallest and largest subnormal and normal numbers, 1, infinity, NaN."""
    m = fmt.mantissa_bits
    one = int(fmt.encode(1.0))
    unsigned = {0, 1, (1 << m) - 1, 1 << m, one, one + 1, fmt.max_code - 1, fmt.max_code, fmt.nan_code}
    unsigned |= {fmt.sign_code - 1} | ({fmt.infinity_code} if fmt.infinity_code is not None else set())
    codes = np.array([code | sign for code in sorted(unsigned) for sign in (0, fmt.sign_code)])
    dtype = fmt.encode(1.0).dtype
    return [grid.ravel().astype(dtype) for grid in np.meshgrid(codes, codes, codes)]


VARIANTS = [
    (FP16, Rounding.STOCHASTIC, 16, 4),
    (FP16, Rounding.STOCHASTIC, 16, MAX_STAGES),
    (FP16, Rounding.NEAREST_EVEN, 16, 4),
    (HALF, Rounding.STOCHASTIC, 10, 1),
    (BFLOAT16, Rounding.STOCHASTIC, 32, 3),
    (E4M3, Rounding.STOCHASTIC, 5, 7),
    (FP8, Rounding.NEAREST_EVEN, 16, 2),
    (FP16, Rounding.STOCHASTIC_B, 5, 3),
    (FP16, Rounding.STOCHASTIC_C, 6, 3),
]
IDS = ["-".join(map(str, variant)) for variant in VARIANTS]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    return Simulated(FloatSGDUnit(), tmp_path_factory.mktemp("update"))


@pytest.mark.parametrize(("fmt", "rounding", "random_bits", "stages"), VARIANTS, ids=IDS)
def test_equals_golden(
    tmp_path: Path, fmt: FloatFormat, rounding: Rounding, random_bits: int, stages: int
) -> None:
    unit = FloatSGDUnit(fmt, rounding=rounding, random_bits=random_bits, stages=stages)
    simulated = Simulated(unit, tmp_path)
    largest, smallest = float(fmt.decode(fmt.max_code)), float(fmt.decode(1))
    scalars = [
        (0.1, 0.9, 1e-3),
        (-0.5, 0.0, -0.0),
        (largest, -largest, largest),
        (smallest, smallest, -smallest),
    ]
    for i, (rate, momentum, decay) in enumerate(scalars):
        rule = FloatSGD(rate, momentum, decay, fmt, rounding, random_bits)
        seed = 0xC0FFEE + i if rounding.draws else None
        data = elements(fmt, 100_000, i) if i else elements(fmt, 1_000_000)
        data = [np.concatenate(pair) for pair in zip(data, specials(fmt), strict=True)]
        count = len(data[0])
        assert equal(simulated.update(rule, *data, seed=seed), rule.update(*data, seed=seed))
        assert simulated.cycles == 1 + count + unit.latency


def test_subnormal_scalars(simulated: Simulated) -> None:
    rng = np.random.default_rng(1)
    for rule, data in subnormal_scalars(FloatSGD(0.0), rng, 1000):
        assert equal(simulated.update(rule, *data, seed=7), rule.update(*data, seed=7)), rule


@pytest.mark.parametrize("scalar", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["rate", "momentum", "decay"])
def test_scalars_that_golden_refuses(simulated: Simulated, name: str, scalar: float) -> None:
    rule = AnyScalars(**{"rate": 0.5, "momentum": 0.5, "decay": 0.5, name: scalar})
    data = [x[:300] for x in elements(FP16, 600)]
    data[0][::3], data[1][::4], data[2][::5] = 0, 0, 0
    assert equal(simulated.update(rule, *data, seed=7), rule.definition(*data, seed=7))


@pytest.mark.parametrize("pauses", [(128, 0), (0, 128), (200, 200), (20, 250)])
def test_stalls_change_nothing(simulated: Simulated, pauses: tuple[int, int]) -> None:
    rule, data = FloatSGD(0.01, 0.9, 1e-4), elements(FP16, 20_000)
    assert equal(simulated.update(rule, *data, seed=7, pauses=pauses), rule.update(*data, seed=7))
    assert simulated.cycles > 30_000


def test_a_run_goes_on_where_it_was(simulated: Simulated) -> None:
    rule, data = FloatSGD(0.01, 0.9, 1e-4), elements(FP16, 10_001)
    parts = [(0, 1), (1, 1), (1, 5000), (5000, 10_001)]
    got = [
        simulated.update(rule if i == 0 else None, *(x[a:b] for x in data), seed=7)
        for i, (a, b) in enumerate(parts)
    ]
    assert equal(
        (np.concatenate([w for w, _ in got]), np.concatenate([v for _, v in got])), rule.update(*data, seed=7)
    )


def test_a_seed_that_meets_its_mask(simulated: Simulated) -> None:
    rule, data = FloatSGD(0.01, 0.9, 1e-4), elements(FP16, 1000)
    for mask in rtl_update.SEED_MASKS.values():
        assert equal(simulated.update(rule, *data, seed=mask), rule.update(*data, seed=mask))


def test_one_wrong_bit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, data = FloatSGD(0.01, 0.9, 1e-4), elements(FP16, 20_000)
    expected = rule.update(*data, seed=7)

    def wrong() -> bool:
        return not equal(Simulated(FloatSGDUnit(stages=1), tmp_path).update(rule, *data, seed=7), expected)

    masks = dict(rtl_update.SEED_MASKS)
    for module, mutant in (
        (update_unit, {**masks, "rate": masks["rate"] ^ 1}),  # one bit of one seed
        (rtl_update, dict(sorted(masks.items(), reverse=True))),  # the lines take their draws out of order
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, "SEED_MASKS", mutant)
            assert wrong()
    lfsr = rtl_update.LFSR
    monkeypatch.setattr(rtl_update, "LFSR", lambda bits: lfsr(bits, (32, 30, 26, 24)))  # 24 is no tap of TAPS
    assert wrong()


@pytest.mark.parametrize("stages", [0, MAX_STAGES + 1])
def test_refuses_other_stages(stages: int) -> None:
    with pytest.raises(ValueError, match=f"^stages is {stages}, but an AXPY has 1 to {MAX_STAGES}$"):
        FloatSGDUnit(stages=stages)


def test_refuses_truncation() -> None:
    with pytest.raises(
        ValueError, match=r"^rounding is truncate, but the update rounds to nearest or stochastically$"
    ):
        FloatSGDUnit(rounding="truncate")


def test_refuses_random_bits_that_no_draw_has() -> None:
    with pytest.raises(ValueError, match=r"^random_bits is 33, but a draw takes 1 … 32$"):
        FloatSGDUnit(random_bits=33)
