"""Options that several commands share, and what they build: a trainer and an engine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from math import isfinite
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from quaver.cli.files import STANDARD_OUTPUT
from quaver.cli.parser import given, refuse
from quaver.cli.tables import show
from quaver.golden import data
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.compression import SCHEMES, AdaComp, Scheme
from quaver.golden.descriptor import descriptor
from quaver.golden.engine import Arithmetic, Engine, GoldenEngine, UpdateRule
from quaver.golden.nn import models, recipes
from quaver.golden.nn.recipe import DYNAMIC, LossScale, Recipe
from quaver.golden.nn.run import Trace
from quaver.golden.nn.settings import OPTIMISERS, Settings
from quaver.golden.nn.trainer import Trainer
from quaver.golden.planning.networks import LayerShape, trained_here
from quaver.golden.planning.plan import Plan
from quaver.golden.planning.planned_recipe import planned

#: What is trained unless something else is asked for.
MODEL, DATA = "mlp", "digits"

#: Where progress and remarks go, so that standard output holds results alone.
console = Console(stderr=True)


def add_training_arguments(parser: argparse.ArgumentParser, *, epochs: int = 10) -> None:
    """Add the options that say what is trained, on which data, and how."""
    group = parser.add_argument_group("training")

    def one_of(name: str, known: Iterable[str], default: str, *, planned: bool = False) -> None:
        text = f"{', '.join(known)} ({default}{', or as planned' if planned else ''})"
        group.add_argument(
            name, default=None if planned else default, choices=tuple(known), metavar="NAME", help=text
        )

    def number(name: str, default: float, text: str = "") -> None:
        kind = type(default)
        group.add_argument(name, type=kind, default=default, metavar="N", help=f"{text} ({default})".lstrip())

    known = ", ".join(recipes.RECIPES)
    text = f"{known}, or a JSON file as --show-recipe json prints it (fp8)"
    group.add_argument("--recipe", default="fp8", metavar="NAME", help=text)
    group.add_argument(
        "--chunk", type=int, metavar="N", help="chunk length of every GEMM, in place of the recipe's"
    )
    group.add_argument("--loss-scale", metavar="X", help="a number or dynamic, in place of the recipe's")
    group.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="sum each GEMM as quaver plan -o FILE says; model, data and batch are the plan's",
    )
    group.add_argument("--no-chunks", action="store_true", help="take the plan's widths without chunks")
    group.add_argument(
        "--narrower", type=int, default=0, metavar="BITS", help="so many bits fewer than planned (0)"
    )
    one_of("--model", models.MODELS, MODEL, planned=True)
    one_of("--data", data.NAMES, DATA, planned=True)
    group.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set's files lie")
    number("--epochs", epochs)
    group.add_argument("--batch", type=int, metavar="N", help=f"({Settings.batch}, or as planned)")
    one_of("--optimiser", OPTIMISERS, Settings.optimiser)
    rates = ", ".join(f"{rate} for {name}" for name, rate in OPTIMISERS.items())
    group.add_argument("--learning-rate", type=float, metavar="N", help=f"({rates})")
    number("--momentum", Settings.momentum)
    number("--weight-decay", Settings.weight_decay)
    group.add_argument(
        "--decay-at", default="", metavar="E,E,…", help="learning rate ÷ 10 before these epochs"
    )
    group.add_argument(
        "--later-at",
        type=int,
        metavar="E",
        help="epochs after which the recipe's later one takes over",
    )
    number("--learners", Settings.learners, "each takes its share of every batch")
    group.add_argument(
        "--compress",
        default="none",
        metavar="NAME",
        help=f"what learners exchange in place of gradients: {', '.join(SCHEMES)}, with parameters in "
        f"parentheses, such as topk(share=0.01) (none)",
    )
    group.add_argument(
        "--bin-length",
        metavar="N[,N]",
        help="L_T of adacomp: of all layers, or of convolutions and of the others (50,500)",
    )
    number("--seed", Settings.seed, "every random bit follows from it")


def add_engine_arguments(parser: argparse.ArgumentParser, *, engine: str, text: str) -> None:
    """Add --engine, `engine` by default, and the options that engines need."""
    parser.add_argument(
        "--engine",
        default=engine,
        metavar="NAME",
        help=f"{text}: golden, sim, a board's serial port such as /dev/ttyUSB0, or serial for the only one "
        f"({engine})",
    )
    parser.add_argument("--baud", type=int, metavar="N", help="what the board was built for (3000000)")
    add_array_arguments(parser)


def add_array_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how large the simulated array is."""
    group = parser.add_argument_group("simulated array")
    group.add_argument("--rows", type=int, default=8, metavar="N", help="(8)")
    group.add_argument("--columns", type=int, default=8, metavar="N", help="(8)")


def make_trainers(args: argparse.Namespace) -> Callable[..., Trainer]:
    """A function of an engine and a trace that makes the trainer of the options, at each call the same."""
    recipe = make_recipe(args)
    model, dataset_name, batch = _what(args)
    try:
        decay_at = tuple(int(e) for e in args.decay_at.split(",") if e)
    except ValueError:
        raise ValueError(
            f"--decay-at is {args.decay_at!r}, but it is epochs with commas between, like 60,120"
        ) from None
    settings = Settings(
        epochs=args.epochs,
        batch=batch,
        optimiser=args.optimiser,
        learning_rate=args.learning_rate,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        decay_at=decay_at,
        later_at=args.later_at,
        seed=args.seed,
        learners=args.learners,
        compression=str(make_scheme(args)),
    )
    if dataset_name == "digits":
        refuse(args, "with the digits, which come with scikit-learn", "data-dir")
    dataset = load_data(dataset_name, args.data_dir)

    def make(engine: Engine, trace: Trace | None = None) -> Trainer:
        network = models.build(model, dataset.shape, dataset.classes, seed=args.seed)
        return Trainer(network, dataset, recipe, settings, engine=engine, trace=trace)

    return make


def make_scheme(args: argparse.Namespace) -> Scheme:
    """What the learners exchange: --compress, with --bin-length."""
    scheme = Scheme.parse(args.compress)
    if args.bin_length is None:
        return scheme
    if scheme.name != "adacomp":
        raise ValueError(
            f"--bin-length is {args.bin_length}, but --compress is {args.compress}; take adacomp, or leave "
            f"it out"
        )
    try:
        lengths = [int(one) for one in args.bin_length.split(",")]
        conv, other = lengths * 2 if len(lengths) == 1 else lengths
    except ValueError:
        raise ValueError(
            f"--bin-length is {args.bin_length!r}, but it is a number, or two with a comma between, like "
            f"50,500"
        ) from None
    return Scheme("adacomp", {"conv": conv, "other": other})


def make_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of --recipe, by name or from a file, with what --plan, --chunk and --loss-scale change."""
    if args.recipe in recipes.RECIPES or not Path(args.recipe).exists():
        if args.recipe not in recipes.RECIPES and args.recipe.endswith(".json"):
            raise ValueError(f"--recipe is {args.recipe}, but there is no such file")
        recipe = recipes.recipe(args.recipe)
    else:
        try:
            recipe = Recipe.from_json(Path(args.recipe).read_bytes())
        except ValueError as error:
            raise ValueError(f"--recipe is {args.recipe}, but that file is {error}") from error
    plan = read_plan(args)
    if plan is not None:
        if args.chunk is not None:
            raise ValueError(
                f"--chunk is {args.chunk}, but {args.plan} says the chunk; leave it out, or plan with --chunk"
            )
        recipe = planned(recipe, plan, chunks=not args.no_chunks, narrower=args.narrower)
    elif given(args) & {"no_chunks", "narrower"}:
        raise ValueError(
            "--no-chunks and --narrower choose among a plan's widths; name it: --plan FILE, of quaver plan -o"
        )
    if args.chunk is not None:
        forward = recipe.hidden.forward
        if forward is None or "chunk" not in descriptor(forward).parameters:
            raise ValueError(f"--chunk is {args.chunk}, but {recipe.name} does not sum in chunks; take fp8")
        recipe = recipe.with_gemms(f"{recipe.name}-chunk-{args.chunk}", chunk=args.chunk)
    if args.loss_scale is not None:
        recipe = recipe.replace(
            name=f"{recipe.name}-loss-scale-{args.loss_scale}", loss_scale=_loss_scale(args.loss_scale)
        )
    return recipe


def read_plan(args: argparse.Namespace) -> Plan | None:
    """The plan of --plan, if one is named."""
    if args.plan is None:
        return None
    try:
        return Plan.from_json(args.plan.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"--plan is {args.plan}, but that file is {error}; quaver plan -o makes one"
        ) from error


def _what(args: argparse.Namespace) -> tuple[str, str, int]:
    """Model, data set and batch: as asked for, else as in the plan, else the small default ones."""
    plan = read_plan(args)
    if plan is None:
        return args.model or MODEL, args.data or DATA, Settings.batch if args.batch is None else args.batch
    model, _, dataset = plan.network.partition("-")
    if model not in models.MODELS or dataset not in data.NAMES:  # a layer table's
        model, dataset = MODEL, DATA
    model, dataset = args.model or model, args.data or dataset
    here = trained_here(f"{model}-{dataset}").layers
    there = [layer.shape for layer in plan.layers]
    for ours, theirs in zip_longest(here, there):
        if ours is None or theirs is None or _sums(ours) != _sums(theirs):
            raise ValueError(
                f"{args.plan} is a plan of {plan.network} with {_described(theirs)}, but {model}-{dataset} "
                f"has {_described(ours)} there; name its --model and --data, or plan {model}-{dataset}"
            )
    if args.batch not in (None, plan.batch):
        raise ValueError(
            f"--batch is {args.batch}, but {args.plan} is for {plan.batch} images a step, which is how long "
            f"gradients' sums are; leave it out, or plan with --batch {args.batch}"
        )
    return model, dataset, plan.batch


def _sums(shape: LayerShape) -> tuple[str, int, int, int]:
    return shape.name, shape.forward, shape.backward, shape.positions


def _described(shape: LayerShape | None) -> str:
    if shape is None:
        return "no more layers"
    name, forward, backward, positions = _sums(shape)
    return f"a layer {name} of sums {forward} and {backward} long at {positions} positions"


def _loss_scale(text: str) -> LossScale:
    if text == "dynamic":
        return DYNAMIC
    try:
        return LossScale(float(text))
    except ValueError:
        raise ValueError(f"--loss-scale is {text}, but it is a positive number or dynamic") from None


def load_data(name: str, directory: Path | None) -> data.Dataset:
    """The data set, with a progress bar if it must be downloaded."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        tasks: dict[str, int] = {}

        def told(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(f"downloading {file}", total=total or None)
            progress.update(tasks[file], completed=done)  # type: ignore[arg-type]

        return data.load(name, directory, progress=told)


def make_engine(name: str, args: argparse.Namespace) -> Engine:
    """`golden`; `sim`, the accelerator in Verilator, its geometry from the options; or a board's port."""
    device = getattr(args, "device", "cpu")
    if name == "golden":
        refuse(args, "with --engine golden, which is no array", "rows", "columns", "baud")
        return GoldenEngine() if device == "cpu" else _on_gpu(device, args)
    refuse(args, f"with --engine {name}, which computes where it is", "device")
    if name not in ("sim", "serial") and "/" not in name and not name.upper().startswith("COM"):
        raise ValueError(
            f"--engine is {name}, but there are golden, sim, serial and ports such as /dev/ttyUSB0 or COM3"
        )
    if getattr(args, "optimiser", "sgd") != "sgd":
        raise ValueError(
            f"--optimiser is {args.optimiser}, but the hardware's update is sgd; take it, or --engine golden"
        )
    asked, rule = _asked(args) if hasattr(args, "recipe") else (set(), None)
    if hasattr(args, "recipe") and not asked and (rule is None or name != "sim"):
        raise ValueError(
            f"--recipe is {args.recipe}, of which no GEMM is the hardware's; take fp8, for one, or --engine "
            f"golden"
        )
    if name == "sim":
        refuse(args, "with --engine sim, which has no serial line", "baud")
        from quaver.sim.engine import SimulatedEngine

        simulated = SimulatedEngine(
            rows=args.rows, columns=args.columns, progress=lambda line: console.print(line, style="dim")
        )
        for arithmetic in asked or {ChunkedFloat()}:
            simulated.check(arithmetic)
        return simulated
    refuse(args, "with a board, whose array is as it was built", "rows", "columns")
    adacomp = make_scheme(args).of("linear") if hasattr(args, "compress") else None
    bin_length = adacomp.bin_length if isinstance(adacomp, AdaComp) else None
    return _board(name, args.baud, asked, rule, bin_length)


def _on_gpu(device: str, args: argparse.Namespace) -> Engine:
    """The golden engine's GEMMs, casts and updates on a GPU; the recipe must ask for some."""
    from quaver.golden.kernels.cuda.engine import CudaEngine

    if device.partition(":")[0] != "cuda":
        raise ValueError(f"--device is {device}, but there are cpu, cuda and one of several GPUs, cuda:1")
    asked, rule = _asked(args)
    if not asked and rule is None:
        raise ValueError(
            f"--recipe is {args.recipe}, of which no GEMM and no update is the GPU's; take fp8, for one, or "
            f"--device cpu"
        )
    for arithmetic in asked:
        CudaEngine.check(arithmetic)
    if rule is not None:
        CudaEngine.check(rule)
    from quaver.torch.cuda import Gpu

    return CudaEngine(Gpu(device))


def _asked(args: argparse.Namespace) -> tuple[set[Arithmetic], UpdateRule | None]:
    """The GEMMs and the update that the recipe asks of an engine."""
    from quaver.host.board_engine import gemms

    recipe: Recipe | None = make_recipe(args)
    asked: set[Arithmetic] = set()
    rule: UpdateRule | None = None
    while recipe is not None:
        asked |= gemms(recipe)
        rule = recipe.update.rule(0.0, 0.0, 0.0) if recipe.update else rule
        recipe = recipe.later if args.later_at is not None else None
    return asked, rule


def _board(
    port: str, baud: int | None, asked: set[Arithmetic], rule: UpdateRule | None, bin_length: int | None
) -> Engine:
    """The board at a port, which must compute all that the recipe asks of an engine, and compress in such
    bins."""
    from quaver.host.board_engine import BUILT, BoardEngine
    from quaver.host.link_transport import LinkTransport
    from quaver.host.serial_port import BAUD, SerialLine, find_port

    line = SerialLine(find_port(port), BAUD if baud is None else baud)
    engine = BoardEngine(LinkTransport(line, baud=line.baud), asked, rule, bin_length)
    size, update = engine.identity.geometry, engine.identity.update or "on the host"
    device = engine.identity.arithmetic
    names = (name for name, built in BUILT.items() if device.describes(built.hardware))
    computes = next(names, str(device))
    console.print(
        f"{line}: {computes}, {size.rows}×{size.columns} elements of {size.interleave} "
        f"lanes, depth {size.depth}, update {update}, compression {engine.identity.compression or 'none'}",
        style="dim",
    )
    return engine


@contextmanager
def progress_bar(description: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """A bar on standard error; call what it gives with the units done and, if wanted, a new description."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(description, total=total, rate="")

        def advance(done: int = 1, text: str | None = None, rate: str | None = None) -> None:
            fields = {} if rate is None else {"rate": rate}
            progress.update(task, advance=done, description=text, **fields)  # type: ignore[arg-type]

        yield advance


def refuse_beyond(args: argparse.Namespace, end: int, what: str) -> None:
    """ValueError: --decay-at or --later-at names an epoch that is not reached, as `end` are trained."""
    decay = max((int(e) for e in args.decay_at.split(",") if e), default=0)
    for option, epoch in (("--decay-at", decay), ("--later-at", args.later_at or 0)):
        if epoch >= end:
            raise ValueError(
                f"{option} is {epoch}, but nothing comes after epoch {epoch}: {what} {end}; take more, or "
                f"leave it out"
            )


def _json(data: object) -> object:
    """`data` with null for what JSON has no number for: infinities and NaN."""
    if isinstance(data, dict):
        return {name: _json(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_json(value) for value in data]
    return None if isinstance(data, float) and not isfinite(data) else data


def print_results(table: Table, data: object, *, as_json: bool, output: Path | None = None) -> None:
    """The results on standard output: a table for people, or JSON for machines. Where `output` is standard
    output, the table is on standard error."""
    if as_json:
        print(json.dumps(_json(data), indent=1, allow_nan=False))
        return
    aside = output == STANDARD_OUTPUT
    # Into a pipe or a file there is no width to keep to.
    terminal = (sys.stderr if aside else sys.stdout).isatty()
    show(Console(width=None if terminal else 120, stderr=aside), table)


def check_one_result(args: argparse.Namespace, option: str = "output") -> None:
    """ValueError: standard output would get the JSON and what --`option` names."""
    if args.json and getattr(args, option) == STANDARD_OUTPUT:
        raise ValueError(
            f"--json and --{option} - both write to standard output; name a file for one of them"
        )
