# amaranth: UnusedElaboratable=no
"""The update unit against its golden twin: millions of elements, specials, stalls on both sides, mutants."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from golden.formats import BFLOAT16, E4M3, FP8, FP16, HALF, FloatFormat
from golden.rounding import Rounding
from golden.update import Update as GoldenUpdate
from rtl import update as rtl_update
from rtl.update import MAX_STAGES, Update
from rtl.verilog import to_verilog
from sim.verilated import compile_library

Codes = NDArray[Any]

#: Runs a stream through the unit. Each side stalls with its own probability, of 256.
HARNESS = r"""
#include <cstdint>
#include <cstring>
#include "Vmodel.h"

struct Unit { VerilatedContext context; Vmodel model{&context}; uint32_t random = 2463534242u; };

static void tick(Vmodel& m) { m.clk = 1; m.eval(); m.clk = 0; m.eval(); }

static bool pauses(Unit& u, int of_256) {
    u.random ^= u.random << 13; u.random ^= u.random >> 17; u.random ^= u.random << 5;
    return int(u.random >> 24) < of_256;
}

extern "C" Unit* unit_new() {
    Unit* u = new Unit;
    u->model.rst = 1; tick(u->model); u->model.rst = 0;
    return u;
}

extern "C" void unit_delete(Unit* u) { delete u; }

// Words of the settings (none if null), then `count` elements; returns the cycles, or -1 when the unit hangs.
extern "C" int64_t unit_run(Unit* u, const uint32_t* settings, int64_t count, const uint64_t* elements,
                            uint32_t* results, int in_pauses, int out_pauses) {
    Vmodel& m = u->model;
    int64_t sent = 0, got = 0, cycles = 0, idle = 0;
    bool begun = !settings;
    if (settings) memcpy(&m.settings_payload, settings, sizeof m.settings_payload);
    bool offering = false;
    while (got < count || !begun) {
        m.settings_valid = !begun;
        if (!offering) offering = sent < count && !pauses(*u, in_pauses);
        m.elements_valid = offering;
        m.elements_payload = offering ? elements[sent] : 0x123456789abcull & MASK;
        m.results_ready = !pauses(*u, out_pauses);
        m.eval();
        idle++;
        if (offering && m.elements_ready) { sent++; offering = false; idle = 0; }
        if (m.results_valid && m.results_ready) { results[got++] = m.results_payload; idle = 0; }
        if (!begun && m.settings_ready) begun = true;
        tick(m);
        cycles++;
        if (idle > 10000) return -1;
    }
    m.settings_valid = m.elements_valid = m.results_ready = 0;
    return cycles;
}
"""


class Simulated:
    """An update unit, compiled; `update` is the golden model's."""

    def __init__(self, unit: Update, folder: Path) -> None:
        self.unit = unit
        harness = folder / "update.cpp"
        harness.write_text(HARNESS.replace("MASK", hex((1 << 3 * unit.format.width) - 1)))
        self._library = compile_library(to_verilog(unit, "update"), "update", harness)
        self._library.unit_new.restype = ctypes.c_void_p
        self._library.unit_run.restype = ctypes.c_int64
        self._handle = ctypes.c_void_p(self._library.unit_new())

    def update(
        self, rule: GoldenUpdate | None, weights: Codes, momenta: Codes, gradients: Codes,
        *, seed: int | None = None, pauses: tuple[int, int] = (0, 0),
    ) -> tuple[Codes, Codes]:  # fmt: skip
        """What the unit makes of the elements; with no `rule` they go on with the run before."""
        width = self.unit.format.width
        settings = None
        if rule is not None:
            scalars = [int(rule.format.encode(x)) for x in (rule.rate, rule.momentum, rule.decay)]
            bits = sum(code << i * width for i, code in enumerate([*scalars, seed or 0]))
            settings = np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(3)], np.uint32)
        elements = np.zeros(weights.size, np.uint64)
        for i, codes in enumerate((weights, momenta, gradients)):
            elements |= codes.ravel().astype(np.uint64) << np.uint64(i * width)
        results = np.zeros(weights.size, np.uint32)
        self.cycles = self._library.unit_run(
            self._handle, None if settings is None else settings.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(weights.size), elements.ctypes.data_as(ctypes.c_void_p),
            results.ctypes.data_as(ctypes.c_void_p), *pauses,
        )  # fmt: skip
        assert self.cycles >= 0, "the unit hangs"
        mask = (1 << width) - 1
        return tuple((results >> i * width & mask).astype(weights.dtype) for i in range(2))  # type: ignore[return-value]


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


def equal(left: tuple[Codes, Codes], right: tuple[Codes, Codes]) -> bool:
    return all(np.array_equal(mine, other) for mine, other in zip(left, right, strict=True))


VARIANTS = [
    (FP16, Rounding.STOCHASTIC, 16, 4),
    (FP16, Rounding.STOCHASTIC, 16, MAX_STAGES),
    (FP16, Rounding.NEAREST_EVEN, 16, 4),
    (HALF, Rounding.STOCHASTIC, 10, 1),
    (BFLOAT16, Rounding.STOCHASTIC, 32, 3),
    (E4M3, Rounding.STOCHASTIC, 5, 7),
    (FP8, Rounding.NEAREST_EVEN, 16, 2),
]
IDS = ["-".join(map(str, variant)) for variant in VARIANTS]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    return Simulated(Update(), tmp_path_factory.mktemp("update"))


@pytest.mark.parametrize(("fmt", "rounding", "random_bits", "stages"), VARIANTS, ids=IDS)
def test_equals_golden(
    tmp_path: Path, fmt: FloatFormat, rounding: Rounding, random_bits: int, stages: int
) -> None:
    unit = Update(fmt, rounding=rounding, random_bits=random_bits, stages=stages)
    simulated = Simulated(unit, tmp_path)
    largest, smallest = float(fmt.decode(fmt.max_code)), float(fmt.decode(1))
    scalars = [
        (0.1, 0.9, 1e-3),
        (-0.5, 0.0, -0.0),
        (largest, -largest, largest),
        (smallest, smallest, -smallest),
    ]
    for i, (rate, momentum, decay) in enumerate(scalars):
        rule = GoldenUpdate(rate, momentum, decay, fmt, rounding, random_bits)
        seed = 0xC0FFEE + i if rounding is Rounding.STOCHASTIC else None
        data = elements(fmt, 100_000, i) if i else elements(fmt, 1_000_000)
        data = [np.concatenate(pair) for pair in zip(data, specials(fmt), strict=True)]
        count = len(data[0])
        assert equal(simulated.update(rule, *data, seed=seed), rule.update(*data, seed=seed))
        assert simulated.cycles == 1 + count + unit.latency


@pytest.mark.parametrize("pauses", [(128, 0), (0, 128), (200, 200), (20, 250)])
def test_stalls_change_nothing(simulated: Simulated, pauses: tuple[int, int]) -> None:
    rule, data = GoldenUpdate(0.01, 0.9, 1e-4), elements(FP16, 20_000)
    assert equal(simulated.update(rule, *data, seed=7, pauses=pauses), rule.update(*data, seed=7))
    assert simulated.cycles > 30_000


def test_a_run_goes_on_where_it_was(simulated: Simulated) -> None:
    rule, data = GoldenUpdate(0.01, 0.9, 1e-4), elements(FP16, 10_001)
    parts = [(0, 1), (1, 1), (1, 5000), (5000, 10_001)]
    got = [
        simulated.update(rule if i == 0 else None, *(x[a:b] for x in data), seed=7)
        for i, (a, b) in enumerate(parts)
    ]
    assert equal(
        (np.concatenate([w for w, _ in got]), np.concatenate([v for _, v in got])), rule.update(*data, seed=7)
    )


def test_a_seed_that_meets_its_mask(simulated: Simulated) -> None:
    rule, data = GoldenUpdate(0.01, 0.9, 1e-4), elements(FP16, 1000)
    for mask in rtl_update.SEED_MASKS.values():
        assert equal(simulated.update(rule, *data, seed=mask), rule.update(*data, seed=mask))


def test_one_wrong_bit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, data = GoldenUpdate(0.01, 0.9, 1e-4), elements(FP16, 20_000)
    expected = rule.update(*data, seed=7)

    def wrong() -> bool:
        return not equal(Simulated(Update(stages=1), tmp_path).update(rule, *data, seed=7), expected)

    masks = dict(rtl_update.SEED_MASKS)
    for mutant in (
        {**masks, "rate": masks["rate"] ^ 1},  # one bit of one seed
        dict(sorted(masks.items(), reverse=True)),  # the lines take their draws out of order
    ):
        with monkeypatch.context() as patch:
            patch.setattr(rtl_update, "SEED_MASKS", mutant)
            assert wrong()
    lfsr = rtl_update.LFSR
    monkeypatch.setattr(rtl_update, "LFSR", lambda bits: lfsr(bits, (32, 30, 26, 24)))  # 24 is no tap of TAPS
    assert wrong()


@pytest.mark.parametrize("stages", [0, MAX_STAGES + 1])
def test_refuses_other_stages(stages: int) -> None:
    with pytest.raises(ValueError, match=f"^stages is {stages}, but an AXPY has 1 to {MAX_STAGES}$"):
        Update(stages=stages)


def test_refuses_truncation() -> None:
    with pytest.raises(
        ValueError, match=r"^rounding is truncate, but the update rounds to nearest or stochastically$"
    ):
        Update(rounding="truncate")


def test_refuses_random_bits_that_no_draw_has() -> None:
    with pytest.raises(ValueError, match=r"^random_bits is 33, but a draw takes 1 … 32$"):
        Update(random_bits=33)
