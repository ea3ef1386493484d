"""bench/boards.py --search: the sizes it builds and what it stores; place and route are a rule."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import quaver.fpga.arrays
from quaver.fpga.build import BuildError, Report
from quaver.fpga.design import Design

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script, which fits 150 elements at 100 MHz less a sixth of their number, and a store of its own."""
    monkeypatch.syspath_prepend(str(BENCH))
    import boards

    stored = quaver.fpga.arrays.reports()[0]  # ULX3S-85F, FP8
    built: list[tuple[int, int]] = []

    def attempt(design: Design, progress: Any) -> tuple[Report, bytes | None]:
        elements = design.rows * design.columns
        if elements > 150:
            raise BuildError(f"{elements} do not fit")
        built.append((design.rows, design.columns))
        asked, reached = float(design.pll.clock_hz) / 1e6, 100 - elements / 6
        rates = replace(stored.rates, sustained=1e6 * asked * elements)
        options = stored.design | {
            "rows": design.rows,
            "columns": design.columns,
            "clock_hz": design.clock_hz,
        }
        report = replace(stored, design=options, asked_mhz=asked, reached_mhz=reached, rates=rates)
        return report, b"" if reached >= asked else None

    def reports() -> tuple[Report, ...]:
        return tuple(Report.from_json(json.dumps(line)) for line in json.loads(boards.STORE.read_text()))

    reports.cache_clear = lambda: None  # type: ignore[attr-defined]
    (tmp_path / "arrays.json").write_text("[]")
    monkeypatch.setattr(boards, "STORE", tmp_path / "arrays.json")
    monkeypatch.setattr(boards, "attempt", attempt)
    monkeypatch.setattr(quaver.fpga.arrays, "reports", reports)
    boards.built = built
    return boards


def run(boards: Any, monkeypatch: pytest.MonkeyPatch, *options: str) -> Report:
    words = ["boards.py", "--search", "ulx3s-85f", "--no-update", "--clock", "60", "--json", *options]
    monkeypatch.setattr(sys, "argv", words)
    boards.main()
    (stored,) = quaver.fpga.arrays.reports()
    return stored


def test_it_doubles_and_halves_to_the_largest(boards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = run(boards, monkeypatch)
    assert (stored.design["rows"], stored.design["columns"]) == (15, 10)
    assert [rows * columns for rows, columns in dict.fromkeys(boards.built)][:8] == [
        1,
        2,
        4,
        8,
        16,
        32,
        64,
        128,
    ]
    assert len(set(boards.built)) < 16
    assert 70 < stored.asked_mhz <= 75  # raised at the end to what was reached


def test_a_slower_one_replaces_nothing(boards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(boards, monkeypatch, "--sizes", "12x12")
    assert run(boards, monkeypatch, "--sizes", "2x2", "4x4") == first
    assert boards.built[-1] == (4, 4)
    assert run(boards, monkeypatch, "--sizes", "15x10", "16x16") != first


def test_sizes_are_squarest(boards: Any) -> None:
    assert boards.sizes(17) == [
        *[(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (4, 2), (3, 3), (5, 2), (4, 3)],
        *[(7, 2), (5, 3), (4, 4)],
    ]
