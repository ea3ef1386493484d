"""The plan of a network's accumulators as a figure."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from quaver.cli.files import write_figure
from quaver.golden.formats import FP16, FP32
from quaver.golden.planning.plan import ROLES, GemmPlan, Plan
from quaver.golden.planning.variance_retention import (
    LARGEST_LOSS,
    NotMonotoneWarning,
    largest_length,
    loss,
    minimum_mantissa_bits,
    retention,
)

WIDTHS = range(5, 16)
COLOURS = {bits: colormaps["viridis"](0.92 * (bits - 5) / 10) for bits in WIDTHS}
#: From Okabe and Ito's palette, which colour-blind readers tell apart.
ROLE_COLOURS = {"forward": "#0072b2", "backward": "#009e73", "gradient": "#d55e00"}


def draw(planned: Plan, path: Path, areas: dict[str, Any]) -> None:
    """VRR and ln v(n) against n with the network's lengths, width against chunk, and what a width costs.

    `areas` as `quaver.cli.plan.read_areas` reads them; the last panel is left out where there are none.
    """
    figure = Figure(figsize=(13, 10), layout="constrained")
    figure.suptitle(
        f"{planned.network}, batch {planned.batch}: how wide must the accumulator be?",
        fontsize=14,
        fontweight="bold",
    )
    grid = figure.add_gridspec(2, 2)
    retentions, losses, chunks = (figure.add_subplot(cell) for cell in (grid[0, 0], grid[0, 1], grid[1, 0]))
    _retentions(retentions, planned)
    _losses(losses)
    _chunks(chunks, planned)
    if areas["results"]:
        halves = grid[1, 1].subgridspec(2, 1)
        luts = figure.add_subplot(halves[0])
        _areas(luts, figure.add_subplot(halves[1], sharex=luts), planned, areas)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2, linewidth=0.6)
    write_figure(path, figure)


def _effective(gemm: GemmPlan) -> float:
    return gemm.length * gemm.nonzero_ratio


def _retentions(axes: Any, planned: Plan) -> None:
    n = np.unique(np.geomspace(1, 1e7, 300).astype(int))
    for bits in WIDTHS:
        axes.plot(n, retention(n, bits), color=COLOURS[bits], linewidth=1.6)
        knee = largest_length(bits)
        axes.plot(knee, retention(knee, bits), "o", color=COLOURS[bits], markersize=4)
    for height, role in enumerate(ROLES):
        lengths = [_effective(g) for layer in planned.layers for g in layer.gemms if g.role == role]
        colour = ROLE_COLOURS[role]
        axes.plot(
            lengths,
            [0.35 - 0.05 * height] * len(lengths),
            "|",
            color=colour,
            markersize=11,
            markeredgewidth=1.6,
        )
        axes.text(1.4, 0.35 - 0.05 * height, role, color=colour, va="center", fontsize=9)
    axes.set(xscale="log", xlim=(1.2, 1e7), ylim=(0.2, 1.03), xlabel="terms n of the sum that are not zero")
    axes.set_title("Variance retention ratio VRR", loc="left")
    axes.text(0.02, 0.28, "the network's sums", transform=axes.transAxes, fontsize=9, color="0.35")


def _losses(axes: Any) -> None:
    n = np.unique(np.geomspace(8, 1e7, 300).astype(int))
    axes.axhline(LARGEST_LOSS, color="0.25", linewidth=1, linestyle="--")
    axes.text(9, LARGEST_LOSS * 1.15, "v = 50", fontsize=9, color="0.25")
    for bits in WIDTHS:
        knee = largest_length(bits)
        axes.plot(n, loss(n, bits), color=COLOURS[bits], linewidth=1.6)
        axes.plot(knee, LARGEST_LOSS, "o", color=COLOURS[bits], markersize=4)
        axes.annotate(
            f"{bits} bits: {knee:,}",
            (knee, LARGEST_LOSS),
            xytext=(0, -7),
            textcoords="offset points",
            rotation=90,
            fontsize=8,
            ha="center",
            va="top",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(8, 1e7),
        ylim=(1e-2, 1e4),
        xlabel="terms n of the sum that are not zero",
    )
    axes.set_title("ln v(n) by mantissa bits, with the longest suitable n", loc="left")


def _chunks(axes: Any, planned: Plan) -> None:
    """The longest GEMM of each role, and all GEMMs: the two stages of a chunked sum pull apart."""
    chunks = [1 << e for e in range(2, 15)]
    every = {(g.length, g.nonzero_ratio) for layer in planned.layers for g in layer.gemms}

    def width(gemms: Any, chunk: int | None) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotMonotoneWarning)
            return max(
                minimum_mantissa_bits(
                    n,
                    chunk=chunk,
                    nonzero_ratio=r,
                    rule=planned.rule,
                    product_mantissa=planned.product_mantissa,
                )
                for n, r in gemms
            )

    widths = [width(every, chunk) for chunk in chunks]
    axes.plot(chunks, widths, color="0.85", linewidth=9, solid_capstyle="round", label="every GEMM")
    for role, style in zip(ROLES, ("o-", "s--", "o-"), strict=True):
        gemms = [g for layer in planned.layers for g in layer.gemms if g.role == role]
        if not gemms:
            continue
        longest = max(gemms, key=_effective)
        pair = [(longest.length, longest.nonzero_ratio)]
        axes.plot(
            chunks,
            [width(pair, chunk) for chunk in chunks],
            style,
            color=ROLE_COLOURS[role],
            markersize=4,
            linewidth=1.6,
            label=f"longest {role}, n = {longest.length:,}: {width(pair, None)} without chunks",
        )
    axes.axvline(planned.chunk, color="0.25", linewidth=1, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="chunk length", xlim=(3.5, 2**14 * 1.15), ylim=(4.5, max(widths) + 4))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Mantissa bits against chunk length", loc="left")
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def _areas(luts: Any, clocks: Any, planned: Plan, areas: dict[str, Any]) -> None:
    """LUT4 and clock of one processing element against mantissa bits; FP32 accumulation as a dashed line."""
    for (device, part), colour in zip(areas["devices"].items(), ("#0072b2", "#d55e00"), strict=False):
        rows = [row for row in areas["results"] if row["device"] == device]
        narrow = [row for row in rows if row["exponent_bits"] == FP16.exponent_bits]
        wide = [row for row in rows if row["exponent_bits"] == FP32.exponent_bits]
        for axes, value in ((luts, "lut4"), (clocks, "mhz")):
            bits = [row["mantissa_bits"] for row in narrow]
            axes.plot(
                bits,
                [row[value] for row in narrow],
                "o-",
                color=colour,
                markersize=4,
                linewidth=1.6,
                label=part,
            )
            for row in wide:
                axes.axhline(row[value], color=colour, linewidth=1, linestyle="--")
    for width, name in ((planned.chunked, "in chunks"), (planned.plain, "no chunks")):
        for axes in (luts, clocks):
            axes.axvline(width.mantissa_bits, color="0.85", linewidth=9, zorder=0)
        luts.text(
            width.mantissa_bits, 0.03, name, transform=luts.get_xaxis_transform(), rotation=90, fontsize=8,
            ha="center", va="bottom", color="0.35",
        )  # fmt: skip
    luts.set(ylim=(0, None), ylabel="LUT4")
    luts.set_title("One processing element; dashed: FP32 accumulation", loc="left")
    luts.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, 0.88))
    clocks.set(ylim=(0, None), ylabel="MHz", xlabel="mantissa bits of the accumulator, 1-6-m")
    clocks.xaxis.set_major_locator(MaxNLocator(integer=True))
