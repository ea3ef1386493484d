"""The arrays that were searched for: what is built for a board where nothing else is asked for."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from quaver.fpga.build import Report
from quaver.golden import strict_json


@cache
def reports() -> tuple[Report, ...]:
    """The reports that bench/boards.py --search stored, one for each board and arithmetic that it took."""
    file = files("quaver.fpga") / "arrays.json"
    try:
        lines = strict_json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(lines, list):
            raise ValueError("it holds no list")
        return tuple(Report.from_json(json.dumps(line)) for line in lines)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{file} is not what bench/boards.py --search writes ({error}); restore it"
        ) from error


def stored(board: str, arithmetic: str) -> dict[str, Any]:
    """The stored array's options, fields of `quaver.fpga.design.Design`; empty if there is none."""
    for report in reports():
        if (report.design["board"], report.design["arithmetic"]) == (board, arithmetic):
            return report.design
    return {}
