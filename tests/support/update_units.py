"""Update units, compiled, behind a stream that stalls at random: what their tests drive."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.contracts import HardwareRule
from quaver.golden.update.float_sgd import FloatSGD
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.update.unit import UpdateUnit
from quaver.sim.verilated import compile_library

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

extern "C" Unit* unit_new(uint32_t mutant) {
    Unit* u = new Unit;
    BEGIN
    u->model.rst = 1; tick(u->model); u->model.rst = 0;
    return u;
}

extern "C" void unit_delete(Unit* u) { delete u; }

// Words of the settings (none if null), then `count` elements; returns the cycles, or -1 when the unit hangs,
// -2 when it does not let a result stand until it is taken.
extern "C" int64_t unit_run(Unit* u, const uint32_t* settings, int64_t count, const uint64_t* elements,
                            RESULT* results, int in_pauses, int out_pauses) {
    Vmodel& m = u->model;
    int64_t sent = 0, got = 0, cycles = 0, idle = 0;
    bool begun = !settings;
    if (settings) memcpy(&m.settings_payload, settings, sizeof m.settings_payload);
    bool offering = false, stands = false;
    RESULT standing = 0;
    while (got < count || !begun) {
        m.settings_valid = !begun;
        if (!offering) offering = sent < count && !pauses(*u, in_pauses);
        m.elements_valid = offering;
        m.elements_payload = offering ? elements[sent] : 0x123456789abcull & MASK;
        m.results_ready = !pauses(*u, out_pauses);
        m.eval();
        idle++;
        if (stands && !(m.results_valid && m.results_payload == standing)) return -2;
        stands = m.results_valid && !m.results_ready, standing = m.results_payload;
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
    """An update unit, compiled, or one with mutants (`mutants.Mutants`); `update` is the golden model's."""

    def __init__(self, unit: UpdateUnit, folder: Path, mutants: str | None = None) -> None:
        self.unit = unit
        harness = folder / "update.cpp"
        size = {name: getattr(unit, name).payload.shape().size for name in ("elements", "results")}
        text = HARNESS.replace("MASK", hex((1 << size["elements"]) - 1))
        text = text.replace("BEGIN", "u->model.mutant = mutant;" if mutants else "")
        harness.write_text(text.replace("RESULT", "uint32_t" if size["results"] <= 32 else "uint64_t"))
        self._results = np.uint32 if size["results"] <= 32 else np.uint64
        self._library = compile_library(mutants or to_verilog(unit, "update"), "update", harness)
        self._library.unit_new.restype = ctypes.c_void_p
        self._library.unit_run.restype = ctypes.c_int64
        self.begin()

    def begin(self, mutant: int = 0) -> None:
        """From now on another unit, just reset."""
        self._handle = ctypes.c_void_p(self._library.unit_new(ctypes.c_uint32(mutant)))

    def update(
        self, rule: HardwareRule | None, weights: Codes, momenta: Codes, gradients: Codes,
        *, seed: int | None = None, pauses: tuple[int, int] = (0, 0),
    ) -> tuple[Codes, Codes]:  # fmt: skip
        """What the unit makes of the elements; with no `rule` they go on with the run before."""
        settings = None
        if rule is not None:
            given = self.unit.settings.payload.shape()
            values = rule.scalars | {"seed": seed or 0}
            bits = given.const({name: values[name] for name in given.members}).as_value().value
            settings = np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(4)], np.uint32)
        elements, position = np.zeros(weights.size, np.uint64), 0
        for codes, (_, field) in zip(
            (weights, momenta, gradients), self.unit.elements.payload.shape(), strict=True
        ):
            elements |= codes.ravel().astype(np.uint64) << np.uint64(position)
            position += field.width
        results = np.zeros(weights.size, self._results)
        self.cycles = self._library.unit_run(
            self._handle, None if settings is None else settings.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(weights.size), elements.ctypes.data_as(ctypes.c_void_p),
            results.ctypes.data_as(ctypes.c_void_p), *pauses,
        )  # fmt: skip
        assert self.cycles != -1, "the unit hangs"
        assert self.cycles >= 0, "a result was withdrawn"
        width = len(self.unit.results.payload.weight)
        low = results & self._results((1 << width) - 1)
        return low.astype(weights.dtype), (results >> self._results(width)).astype(momenta.dtype)


def equal(left: tuple[Codes, Codes], right: tuple[Codes, Codes]) -> bool:
    return all(np.array_equal(mine, other) for mine, other in zip(left, right, strict=True))


class AnyScalars(FloatSGD):
    """The rule with any scalars, infinite ones and NaN among them: its `definition` is IEEE 754's."""

    def _check_scalars(self, **scalars: float) -> None:
        pass


def subnormal_scalars(
    rule: FloatSGD, rng: np.random.Generator, count: int
) -> Iterator[tuple[FloatSGD, list[Codes]]]:
    """The rule with subnormal scalars, each with every number of leading zeros; and `count` elements of which
    one operand of a line is large and the other 0."""
    fmt = rule.format
    for zeros in range(fmt.mantissa_bits):
        tops = 1 << (zeros + np.arange(3) * fmt.mantissa_bits // 3) % fmt.mantissa_bits
        given = fmt.decode(tops | rng.integers(0, tops) | fmt.sign_code * rng.integers(0, 2, 3))
        rate, momentum, decay = given.tolist()
        large = fmt.max_code - rng.integers(0, 4 << fmt.mantissa_bits, (3, count))
        signs = fmt.sign_code * rng.integers(0, 2, (3, count))
        alone = rng.integers(0, 3, count) == np.arange(3)[:, None]
        codes = np.where(alone, large, 0) | signs
        yield (
            replace(rule, rate=rate, momentum=momentum, decay=decay),
            list(codes.astype(fmt.code_dtype)),
        )
