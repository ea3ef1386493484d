"""Train a network with a recipe, on the golden model or with every GEMM on the simulated accelerator.

examples:
  quaver train                                        the digits in FP8, on the golden model
  quaver train --recipe fp32                          the same in float32
  quaver train --data fashion-mnist --model cnn --out runs/fashion
  quaver train --data fashion-mnist --model cnn --out runs/fashion --resume
  quaver train --chunk 8 --loss-scale dynamic         the recipe with two fields changed
  quaver train --recipe fp8-no-chunks --show-recipe   what the recipe says; --show-recipe json, to edit
  quaver train --recipe mine.json --optimiser adam    a recipe of your own; Adam in place of SGD
  quaver train --plan plan.json --narrower 1          what quaver plan -o kept, with sums one bit narrower
  quaver train --learners 8 --compress adacomp        eight learners, compressed gradients
  quaver train --recipe fp8-stochastic --device cuda  GEMMs, casts and updates on an NVIDIA GPU
  quaver train --engine sim --epochs 1                every GEMM and update on the simulated 8×8 accelerator

With --out, DIR/metrics.jsonl holds every step and epoch, and DIR/checkpoint.npz the whole state after each
epoch and after Ctrl-C, which waits for the end of the step; --resume goes on from there and gives the bits of
an uninterrupted run. One run at a time may write into DIR.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from rich.markup import escape
from rich.table import Table

from quaver.cli.options import (
    add_engine_arguments,
    add_training_arguments,
    console,
    make_engine,
    make_recipe,
    make_trainers,
    print_results,
    progress_bar,
    refuse_beyond,
)
from quaver.cli.parser import given, refuse
from quaver.cli.tensorboard import TensorBoard, require_tensorboard
from quaver.cli.versions import versions
from quaver.golden.files import held
from quaver.golden.nn import checkpoint, metrics
from quaver.golden.nn.learners import Exchange
from quaver.golden.nn.metrics import MetricsFile
from quaver.golden.nn.trainer import Epoch, Step, Trainer

#: Options that choose a recipe or change it.
OF_THE_RECIPE = {"show_recipe", "recipe", "chunk", "loss_scale", "plan", "no_chunks", "narrower"}


class Sink(Protocol):
    """Where metrics go."""

    def write(self, event: Step | Epoch) -> None:
        """Take one event."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser)
    add_engine_arguments(parser, engine="golden", text="who computes")
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="where the golden engine computes GEMMs and updates: cpu, cuda, cuda:1 … (cpu)",
    )
    parser.add_argument(
        "--show-recipe",
        nargs="?",
        const="text",
        choices=("text", "json"),
        help="print the recipe, train nothing",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep metrics and checkpoints here")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--tensorboard", action="store_true", help="metrics for TensorBoard too, in --out")
    parser.add_argument("--json", action="store_true", help="results as one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    if args.show_recipe:
        refuse(args, "with --show-recipe, which trains nothing", *sorted(given(args) - OF_THE_RECIPE))
        recipe = make_recipe(args)
        print(recipe.to_json() if args.show_recipe == "json" else recipe)
        return 0
    if args.tensorboard:
        if args.out is None:
            raise ValueError("--tensorboard writes into --out DIR; name the directory")
        require_tensorboard()
    if args.resume and args.out is None:
        raise ValueError("--resume goes on from a checkpoint in --out DIR; name the directory")
    stored = None if args.out is None else args.out / "checkpoint.npz"
    _check_fresh(stored, args.resume)
    engine = make_engine(args.engine, args)  # what it lacks is said before data are loaded
    trainer = make_trainers(args)(engine)
    if args.out is None:
        refuse_beyond(args, args.epochs, "--epochs is")
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if stored is not None:
            stored.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(stored.parent))
            _check_fresh(stored, args.resume)  # nor has another run ended meanwhile
            if stored.exists():
                checkpoint.resume(trainer, stored)
            elif args.resume:
                console.print(f"no checkpoint in {stored.parent} yet; training from the start")
            metrics.note_command(stored.parent, ["quaver", *args.argv], versions())
            sinks.append(stack.enter_context(MetricsFile(stored.parent / "metrics.jsonl", trainer)))
            if args.tensorboard:
                sinks.append(stack.enter_context(TensorBoard(stored.parent, trainer)))
        try:
            epochs, exchanged = _train(trainer, sinks, stored)
            if stored is not None:
                epochs = metrics.epochs(stored.parent / "metrics.jsonl")
                exchanged = metrics.exchanged(stored.parent / "metrics.jsonl")
        except KeyboardInterrupt:
            if stored is not None:
                console.print(
                    f"interrupted after step {trainer.step}; go on with --out {stored.parent} --resume"
                )
            raise
    data = as_data(trainer, epochs) | ({"exchanged": asdict(exchanged)} if exchanged.elements else {})
    print_results(_table(trainer, epochs, exchanged), data, as_json=args.json)
    return 0


def as_data(trainer: Trainer, epochs: list[Epoch]) -> dict[str, object]:
    """The run for machines: what defines it, as in metrics.jsonl, and its epochs. Accuracies are 0 … 1."""
    return {
        "recipe": trainer.recipe.name,
        "seed": trainer.settings.seed,
        "run": checkpoint.about(trainer),
        "epochs": [asdict(e) for e in epochs],
        "versions": versions(),
    }


def _check_fresh(stored: Path | None, resume: bool) -> None:
    if stored is not None and stored.parent.exists() and not stored.parent.is_dir():
        raise ValueError(f"--out is {stored.parent}, which is a file; name a directory")
    if stored is not None and stored.exists() and not resume:
        raise ValueError(f"{stored} is there already; add --resume to go on with it, or name another --out")


def _train(trainer: Trainer, sinks: Sequence[Sink], stored: Path | None) -> tuple[list[Epoch], Exchange]:
    total = trainer.settings.epochs * trainer.steps_per_epoch
    epochs, exchanged = [], Exchange.total([])
    bar = progress_bar(f"{trainer.recipe.name} {trainer.network.name}", total, "steps")
    with bar as advance, held_back_interrupt() as interrupt:
        advance(trainer.step)
        started, first = time.monotonic(), trainer.step
        try:
            for event in trainer.steps():
                for sink in sinks:
                    sink.write(event)
                if isinstance(event, Step):
                    exchanged = Exchange.total([exchanged, *(event.exchange or {}).values()])
                    images = (trainer.step - first) * trainer.settings.batch
                    advance(
                        rate=f"{images / (time.monotonic() - started):,.0f} images/s, loss {event.loss:.3f}"
                    )
                else:
                    epochs.append(event)
                    console.print(
                        f"epoch {event.epoch + 1:3}  loss {event.loss:.4f}  accuracy {event.accuracy:.2%}  "
                        f"test {event.test_accuracy:.2%}"
                    )
                    if stored is not None:
                        checkpoint.save(trainer, stored)
                interrupt()
        except KeyboardInterrupt:
            if stored is not None:
                checkpoint.save(trainer, stored)
            raise
    return epochs, exchanged


@contextmanager
def held_back_interrupt() -> Iterator[Callable[[], None]]:
    """Hold back the first Ctrl-C inside the block until the function that this gives is called, which raises
    it: call it where state and metrics agree. A second Ctrl-C is raised at once. Where Ctrl-C is ignored, as
    in the background of a shell, it stays ignored."""
    pending: list[int] = []

    def noted(number: int, frame: object) -> None:
        pending.append(number)
        if len(pending) > 1:
            raise KeyboardInterrupt

    def interrupt() -> None:
        if pending:
            raise KeyboardInterrupt

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, noted)
    try:
        yield interrupt
        interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


def _table(trainer: Trainer, epochs: list[Epoch], exchanged: Exchange) -> Table:
    title = f"{trainer.network.name} on {trainer.data}, recipe {trainer.recipe.name}"
    table = Table(title=escape(title))  # a recipe's name may be a file's
    if exchanged.elements:
        learners = trainer.settings.learners
        table.caption = escape(
            f"{learners} learner{'s' * (learners > 1)}, {trainer.settings.compression}: sent "
            f"{exchanged.nbytes / 1e6:,.1f} MB, 1/{exchanged.rate:,.1f} of the gradients in float32; by the "
            f"paper's count 1/{exchanged.effective_rate:,.1f}"
        )
    for column in ("epoch", "loss", "accuracy", "test loss", "test accuracy", "overflows"):
        table.add_column(column, justify="right")
    for e in epochs:
        table.add_row(
            str(e.epoch + 1),
            f"{e.loss:.4f}",
            f"{e.accuracy:.2%}",
            f"{e.test_loss:.4f}",
            f"{e.test_accuracy:.2%}",
            str(e.overflows),
        )
    return table
