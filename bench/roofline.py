"""Roofline of ResNet-50 inference at 16, 8, 4 and 2 bits: peak, memory on chip and bandwidth as parameters.

PACT (Choi et al. 2018, §5) says that from 16 to 4 bits, at 64 GB/s, the peak grows 4 times and performance
4.5 times, because data begins to fit on chip. Peak, memory and batch are not said there: the second table has
the gain for other ones. With --figure, both are drawn.

    python bench/roofline.py --figure roofline.png
    python bench/roofline.py --peak 16 --memory 2 --batch 1 --layers
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from quaver.cli import figures
from quaver.golden.planning.roofline import Machine, performance, resnet50, times

BITS = (16, 8, 4, 2)
MEMORIES = (1, 2, 4, 8, 16, 32)
PEAKS = (1, 2, 4, 8, 16)
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peak", type=float, default=8, metavar="TMAC/S", help="at 16 bits (8)")
    parser.add_argument("--memory", type=float, default=8, metavar="MIB", help="on chip (8)")
    parser.add_argument("--bandwidth", type=float, default=64, metavar="GB/S", help="(64, the paper's)")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="images (32)")
    parser.add_argument("--layers", action="store_true", help="also each layer at 16 and 4 bits")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    if args.batch < 1:
        parser.error(f"--batch is {args.batch}, but it must be at least 1")
    try:
        Machine(args.peak, args.memory, args.bandwidth)
    except ValueError as error:
        parser.error(f"--{error}")
    layers = resnet50()

    def machine(peak: float = args.peak, memory: float = args.memory) -> Machine:
        return Machine(peak * 1e12, memory * MIB, args.bandwidth * 1e9)

    lines: list[dict[str, Any]] = []
    reference = performance(layers, 16, machine(), args.batch)
    for bits in BITS:
        spent = times(layers, bits, machine(), args.batch)
        reached = performance(layers, bits, machine(), args.batch)
        lines.append(
            {
                "bits": bits,
                "peak": machine().peak_at(bits),
                "performance": reached,
                "gain": reached / reference,
                "fit": sum(layer.fits for layer in spent),
                "traffic": sum(layer.traffic for layer in spent),
            }
        )

    def gain(peak: float, memory: float) -> float:
        of = machine(peak, memory)
        return performance(layers, 4, of, args.batch) / performance(layers, 16, of, args.batch)

    gains = {peak: [gain(peak, memory) for memory in MEMORIES] for peak in PEAKS}
    if args.figure:
        draw(lines, gains).savefig(args.figure, dpi=120)
    if args.json:
        print(json.dumps({"bits": lines, "memories": MEMORIES, "gains": gains}, indent=1))
        return
    console = Console()
    what = (
        f"{args.peak:g} TMAC/s at 16 bits, {args.memory:g} MiB, {args.bandwidth:g} GB/s, batch {args.batch}"
    )
    table = Table(title=f"ResNet-50, forward, {what}")
    for heading in (
        "bits",
        "peak TMAC/s",
        "reached",
        "of peak",
        "÷ 16 bits",
        "layers that fit",
        "traffic MB",
    ):
        table.add_column(heading, justify="right")
    for line in lines:
        table.add_row(
            str(line["bits"]),
            f"{line['peak'] / 1e12:.0f}",
            f"{line['performance'] / 1e12:.2f}",
            f"{line['performance'] / line['peak']:.0%}",
            f"{line['gain']:.2f}",
            f"{line['fit']} of {len(layers)}",
            f"{line['traffic'] / 1e6:,.0f}",
        )
    console.print(table)
    sweep = Table(title="Performance at 4 bits ÷ at 16 bits (the peak's: 4; the paper's: 4.5)")
    sweep.add_column("peak, TMAC/s at 16 bits")
    for memory in MEMORIES:
        sweep.add_column(f"{memory} MiB", justify="right")
    for peak, row in gains.items():
        sweep.add_row(str(peak), *(f"{one:.2f}" for one in row))
    console.print(sweep)
    if args.layers:
        each = Table(title="Microseconds of each layer: computing and moving")
        each.add_column("layer")
        for bits in (16, 4):
            for heading in ("compute", "move", "fits"):
                each.add_column(f"{bits} bits\n{heading}", justify="right")
        both = (times(layers, bits, machine(), args.batch) for bits in (16, 4))
        for pair in zip(*both, strict=True):
            cells = [
                cell
                for one in pair
                for cell in (f"{1e6 * one.compute:.1f}", f"{1e6 * one.transfer:.1f}", "·×"[not one.fits])
            ]
            each.add_row(pair[0].name, *cells)
        console.print(each)


def draw(lines: list[dict[str, Any]], gains: dict[float, list[float]]) -> Any:
    """Peak and performance by bits; the gain from 16 to 4 bits by memory, a line for each peak."""
    figure, (left, right) = figures.panels(1, 2, (11, 4.2))
    x = range(len(lines))
    for name, style in (("peak", "--"), ("performance", "-")):
        values = [line[name] / lines[0][name] for line in lines]
        left.plot(x, values, style, marker="o", color=figures.COLOURS[0], label=f"{name} ÷ that at 16 bits")
    left.set_xticks(list(x), [str(line["bits"]) for line in lines])
    left.set_yscale("log", base=2)
    left.yaxis.set_major_formatter("{x:g}")
    left.set(xlabel="bits", title="ResNet-50: peak and performance")
    left.legend(frameon=False)
    for (peak, row), colour in zip(gains.items(), figures.COLOURS, strict=False):
        right.plot(MEMORIES, row, marker="o", markersize=4, color=colour, label=f"{peak} TMAC/s at 16 bits")
    right.axhline(4, color="0.4", linewidth=0.9, linestyle="--")
    right.axhline(4.5, color="0.4", linewidth=0.9, linestyle=":")
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:g}")
    right.set(xlabel="memory on chip, MiB", title="From 16 to 4 bits (dashed: the peak; dotted: the paper)")
    right.legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
