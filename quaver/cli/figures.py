"""The figures that the demo and the report share, and how they all look."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from quaver.golden.formats import E4M3, FP8, FP16, FloatFormat, hfp8
from quaver.golden.nn.histogram import HIGHEST, KINDS, LOWEST, Histogram
from quaver.golden.nn.learners import Exchange
from quaver.golden.planning.swamping import STALL_LENGTHS, SWEEP_CHUNKS, Measured

#: Okabe and Ito's palette, which colour-blind readers tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#555555")
#: The formats that values are held against.
RANGES = {"1-5-2 (FP8)": FP8, "1-4-3 (hybrid FP8)": hfp8(), "E4M3 (OCP)": E4M3, "1-6-9 (FP16)": FP16}


#: The background of a note, so that lines of the figure end at it and do not cross it.
_COVER = {"facecolor": "white", "edgecolor": "none", "pad": 2}


def panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure and its axes, `size` in inches."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns)
    for one in np.ravel(axes):
        one.grid(alpha=0.25, linewidth=0.6)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def stalls(axes: Any, sums: Measured) -> None:
    """Sum over exact sum against the number of terms."""
    for (name, ratios), style, colour in zip(
        sums.items(), ("-", "--", "-"), (COLOURS[1], COLOURS[2], COLOURS[0]), strict=True
    ):
        axes.plot(STALL_LENGTHS, ratios, style, color=colour, marker="o", markersize=4, label=name)
    axes.axvline(4096, color="grey", linewidth=0.8, linestyle=":")
    axes.annotate(
        "half an ulp exceeds\nevery addend", (4096, 0.45), (90, 0.3), arrowprops={"arrowstyle": "->"}
    )
    axes.set_xscale("log", base=2)
    axes.set(
        xlabel="terms",
        ylabel="sum ÷ exact sum",
        title="Why chunks: a sum of n terms in FP16 (1,6,9)",
        ylim=(0, 1.1),
    )
    axes.legend(loc="lower left", frameon=False)


def sweep(axes: Any, errors: dict[int, Any], title: str) -> None:
    """Relative error of dot products against the chunk length, a line a length."""
    for (n, error), colour in zip(errors.items(), (COLOURS[5], COLOURS[0], "#1b3a57"), strict=True):
        axes.plot(SWEEP_CHUNKS, error, "-o", color=colour, markersize=4, label=f"{n:,} products")
    axes.axvspan(32, 256, color="0.5", alpha=0.12, linewidth=0)
    axes.axvline(64, color="0.35", linewidth=0.9, linestyle="--")
    axes.set_xscale("log", base=2)
    _logarithmic(axes)
    axes.set(xlabel="chunk length", ylabel="RMS error ÷ RMS of the exact sum", title=title)
    axes.legend(frameon=False)


def curves(axes: Any, runs: dict[str, list[Any]]) -> None:
    """Loss and test accuracy of recipes; `runs`: recipe → the metrics of its seeds."""
    left, right = axes
    for (recipe, seeds), colour in zip(runs.items(), _colours(list(runs)), strict=True):
        style = {"color": colour, "linewidth": 1.7, "linestyle": "--" if recipe == "fp32" else "-"}
        steps = min(len(run.losses) for run in seeds)
        window = max(steps // 40, 1)
        count = steps // window
        windows = [run.losses[: count * window].reshape(count, -1) for run in seeds]
        loss = np.ma.masked_invalid(windows).mean(axis=(0, 2)).filled(np.nan)  # none finite: a gap
        per_epoch = seeds[0].steps_per_epoch
        left.plot((np.arange(count) + 0.5) * window / per_epoch, loss, label=recipe, **style)
        epochs = min(len(run.epochs) for run in seeds)
        accuracy = 100 * np.array([[e.test_accuracy for e in run.epochs[:epochs]] for run in seeds])
        x = np.arange(1, epochs + 1)
        right.plot(x, accuracy.mean(0), marker="o", markersize=4, label=recipe, **style)
        if len(seeds) > 1:
            right.fill_between(x, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.15, linewidth=0)
    left.set(xlabel="epoch", ylabel="training loss", title="Training loss")
    _logarithmic(left)
    right.set(xlabel="epoch", ylabel="%", title="Test accuracy, mean and range of the seeds")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False)


def alphas(axes: Any, recipe: str, runs: list[Any]) -> None:
    """α of each layer against epochs: a colour for each layer, a line for each of `runs`."""
    for layer, colour in zip(runs[0].alphas, COLOURS * len(runs[0].alphas), strict=False):
        for number, run in enumerate(runs):
            path = run.alphas[layer]
            x = np.arange(1, len(path) + 1) / run.steps_per_epoch
            axes.plot(x, path, color=colour, linewidth=1.4, label=layer if number == 0 else None)
    axes.set(xlabel="epoch", ylabel="α", title=recipe, ylim=(0, None))
    axes.legend(frameon=False, ncols=1 + len(runs[0].alphas) // 8)


def exchanges(axes: Any, runs: dict[str, Any]) -> None:
    """What learners exchanged over time: rates, shares that were sent, residues.

    `runs`: recipe → a run. Kinds of layers have a line each, convolutions a broken one.
    """
    rates, shares, residues = axes
    for (recipe, run), colour in zip(runs.items(), _colours(list(runs)), strict=True):
        window = max(len(run.exchanges) // 60, 1)
        kinds = {name.partition(".")[0].rstrip("0123456789") for one in run.exchanges for name in one}
        for kind in sorted(kinds):
            totals: list[tuple[float, Exchange]] = []
            for start in range(0, len(run.exchanges), window):
                steps = run.exchanges[start : start + window]
                found = [e for step in steps for name, e in step.items() if name.startswith(kind)]
                if found:
                    totals.append(((start + len(steps) / 2) / run.steps_per_epoch, Exchange.total(found)))
            at = [moment for moment, _ in totals]
            parts = [total for _, total in totals]
            label = f"{recipe}: {kind}"
            style = {"color": colour, "linewidth": 1.6, "linestyle": "--" if kind == "conv" else "-"}
            rates.plot(at, [one.rate for one in parts], label=label, **style)
            shares.plot(at, [100 * one.sent / one.elements for one in parts], **style)
            residues.plot(at, [one.residue or nan for one in parts], **style)
    rates.set(xlabel="epoch", ylabel="float32 ÷ bytes sent, all counted", title="Compression")
    shares.set(xlabel="epoch", ylabel="%", title="Share of the elements that was sent")
    residues.set(xlabel="epoch", ylabel="root mean square", title="Residues: what is not sent yet")
    for one in axes:
        _logarithmic(one)
    rates.legend(frameon=False, fontsize=8)


def _logarithmic(axes: Any) -> None:
    """A logarithmic y axis on which at least two numbers stand."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Over less than a decade 1, 2 and 5 may all lie outside.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 10 * low else MaxNLocator(5))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _colours(recipes: list[str]) -> list[str]:
    others = iter(COLOURS * (1 + len(recipes) // len(COLOURS)))
    return ["#222222" if recipe == "fp32" else next(others) for recipe in recipes]


def values(found: dict[str, Histogram]) -> Figure:
    """A histogram by binade for each kind of value, above the ranges of the formats."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    *panels, ranges = figure.subplots(len(KINDS) + 1, 1, sharex=True, height_ratios=[*[2] * len(KINDS), 1.7])
    binades = np.arange(LOWEST, HIGHEST + 1)
    for axes, kind, colour in zip(panels, KINDS, COLOURS, strict=False):
        histogram = found[kind]
        axes.bar(binades + 0.5, histogram.shares, width=0.9, color=colour)
        total = int(histogram.counts.sum()) + histogram.zeros
        note = {"transform": axes.transAxes, "va": "top", "bbox": _COVER}
        axes.text(0.008, 0.9, kind, fontweight="bold", **note)
        lost = histogram.shares[binades < FP8.quantum_exponent - 1].sum()
        beyond = histogram.shares[binades > FP8.max_exponent].sum()
        zero = histogram.zeros / max(total, 1)
        text = f"zero: {zero:.1%}\nof the rest, lost below FP8: {lost:.1%}, above: {beyond:.1%}"
        axes.text(0.992, 0.9, text, ha="right", fontsize=9, color="0.3", **note)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(3))
    for row, (name, fmt) in enumerate(RANGES.items()):
        _range(ranges, len(RANGES) - row, name, fmt)
    ranges.set(ylim=(0.4, len(RANGES) + 0.6), yticks=[], xlim=(LOWEST, HIGHEST), xlabel="magnitude, log₂")
    ranges.text(0.008, 0.95, "formats", transform=ranges.transAxes, fontweight="bold", va="top", bbox=_COVER)
    for axes in (*panels, ranges):
        axes.spines[["top", "right"]].set_visible(False)
        for edge in (FP8.quantum_exponent, FP8.max_exponent + 1):
            axes.axvline(edge, color="0.35", linewidth=0.8, linestyle=":")
    ranges.spines["left"].set_visible(False)
    return figure


def _range(axes: Any, height: float, name: str, fmt: FloatFormat) -> None:
    """Normal values in full, subnormal ones pale."""
    axes.barh(
        height, fmt.max_exponent + 1 - fmt.min_exponent, left=fmt.min_exponent, height=0.62, color="0.45"
    )
    subnormal = fmt.min_exponent - fmt.quantum_exponent
    axes.barh(height, subnormal, left=fmt.quantum_exponent, height=0.62, color="0.78")
    centre = (fmt.min_exponent + fmt.max_exponent + 1) / 2
    axes.text(centre, height, name, ha="center", va="center", color="white", fontsize=9)
