"""Write a trained network for inference: as an ONNX model, quantised layers between QDQ nodes, or as codes.

examples:
  quaver train --recipe pact-4 --out runs/pact
  quaver export runs/pact -o pact.onnx                 images uint8 in, logits out; opset 21
  quaver export runs/pact -o pact.onnx --check         also: the same class on every test image?
  quaver export runs/pact -o pact.npz                  for hardware: codes of weights, requantisation

RUN is a directory of quaver train --out whose recipe quantises its layers (pact-4, dorefa-4, …) or is fp32.
The check runs the model in onnxruntime, or where that is not installed in onnx's own reference
implementation, which is slow. onnxruntime runs it twice: as the graph stands, which is what counts, and with
all that it optimises, where kernels that it makes of several nodes round by themselves between two layers of
integers.

Exit status 0: written, and the classes are the same. 1: some are not; 2: bad input, or onnx is missing.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from quaver.cli.files import check_output, check_unread, write
from quaver.cli.options import check_one_result, load_data, print_results
from quaver.cli.parser import refuse
from quaver.cli.versions import versions
from quaver.golden.nn import checkpoint, metrics, models
from quaver.golden.nn.hardware_export import to_arrays
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.run import Run
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer

#: Images that are classified at once.
BATCH = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a directory of quaver train --out")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="(RUN.onnx); .npz: codes, as they are"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set's files lie")
    parser.add_argument("--check", action="store_true", help="classify the test images in both")
    parser.add_argument("--json", action="store_true", help="what was written as one JSON object")


def run(args: argparse.Namespace) -> int:
    output: Path = args.output or Path(f"{args.run.resolve().name}.onnx")
    check_output(output)
    check_unread({"--output": output}, metrics.files_of(args.run))
    check_one_result(args)
    if output.suffix == ".npz":
        return _to_arrays(args, output)
    try:
        export: Any = import_module("quaver.golden.nn.onnx_export")
    except ImportError as error:
        raise ImportError("no package onnx; install it: pip install onnx") from error
    trainer = restored(args.run, args.data_dir)
    model = export.to_onnx(trainer)
    write(output, model.SerializeToString())
    data: dict[str, Any] = {
        "file": str(output),
        "recipe": trainer.recipe.name,
        "seed": trainer.settings.seed,
        "run": checkpoint.about(trainer),
        "opset": export.OPSET,
        "nodes": len(model.graph.node),
        "bytes": model.ByteSize(),
    }
    table = Table(title=f"{args.run} as ONNX", show_header=False)
    table.add_row("network", f"{trainer.network.name}, recipe {trainer.recipe.name}")
    table.add_row(
        "file", f"{output}, opset {export.OPSET}, {len(model.graph.node)} nodes, {model.ByteSize():,} bytes"
    )
    same = True
    if args.check:
        runtime, classes, optimised = classified(model, trainer.data.test_images)
        ours = trainer_classes(trainer)
        equal = int(np.count_nonzero(classes == ours))
        same = equal == len(ours)
        right = float(np.mean(classes == trainer.data.test_labels))
        check = {"runtime": runtime, "images": len(ours), "same": equal, "accuracy": right}
        table.add_row(
            "same class", f"{equal:,} of {len(ours):,} test images, by {runtime}; {right:.2%} right"
        )
        if optimised is not None:
            check["same_optimised"] = int(np.count_nonzero(optimised == ours))
            table.add_row("with its optimisations", f"{check['same_optimised']:,} of {len(ours):,}")
        data["check"] = check
    print_results(
        table, data | {"versions": versions("onnx", "onnxruntime")}, as_json=args.json, output=output
    )
    return 0 if same else 1


def _to_arrays(args: argparse.Namespace, output: Path) -> int:
    """The run's layers of integers as a NumPy file."""
    refuse(args, "where a .npz is written", "check")
    trainer = restored(args.run, args.data_dir)
    arrays, content = to_arrays(trainer), BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write(output, content.getvalue())
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    data: dict[str, Any] = {
        "file": str(output),
        "recipe": trainer.recipe.name,
        "seed": trainer.settings.seed,
        "run": checkpoint.about(trainer),
        "arrays": shapes,
    }
    table = Table(title=f"{args.run} for hardware", show_header=False)
    table.add_row("network", f"{trainer.network.name}, recipe {trainer.recipe.name}")
    for name, array in arrays.items():
        if name.endswith(".weights"):
            layer = name.removesuffix(".weights")
            bits = arrays.get(f"{layer}.bits")
            leaves = "sums" if bits is None else f"codes of {bits} bits"
            size = "×".join(map(str, array.shape))
            arithmetic = str(arrays[f"{layer}.arithmetic"]).partition(" ")[2]
            table.add_row(layer, f"{size} codes; {arithmetic}; {leaves} leave")
    table.add_row("file", f"{output}, {len(arrays)} arrays")
    print_results(table, data | {"versions": versions()}, as_json=args.json, output=output)
    return 0


def restored(folder: Path, data_dir: Path | None) -> Trainer:
    """The trainer of a run, in the state of its checkpoint."""
    file = folder / "metrics.jsonl"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no metrics.jsonl; a run is a directory of quaver train --out"
        )
    stored = folder / "checkpoint.npz"
    if not stored.is_file():
        raise FileNotFoundError(
            f"{folder} holds no checkpoint.npz; a run has one after its first epoch, or after Ctrl-C"
        )
    try:
        about = next(iter(metrics.read(file)), {})
        recipe = Recipe.from_json(json.dumps(about["recipe"]))
        settings = Settings(**about["settings"], epochs=about["epochs"])
        name = about["data"]["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a whole metrics file ({error})") from error
    dataset = load_data(name, data_dir)
    network = models.build(about["network"], dataset.shape, dataset.classes, seed=settings.seed)
    trainer = Trainer(network, dataset, recipe, settings)
    checkpoint.resume(trainer, stored)
    return trainer


def trainer_classes(trainer: Trainer) -> np.ndarray:
    """Of the test images, by the golden model."""
    run = Run(trainer.recipe_of_weights, trainer.run.engine)
    run.training = False
    images = trainer.data.test_images
    parts = (trainer.data.standardised(images[i : i + BATCH]) for i in range(0, len(images), BATCH))
    return np.concatenate([trainer.network.forward(part, run).argmax(1) for part in parts])


def classified(model: Any, images: np.ndarray) -> tuple[str, np.ndarray, np.ndarray | None]:
    """Who ran the model, the classes it gives as the graph stands, and those with all that it optimises; None
    where it optimises nothing."""

    def classes(session: Any) -> np.ndarray:
        parts = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
        return np.concatenate([session.run(None, {"images": part})[0].argmax(1) for part in parts])

    try:
        runtime = import_module("onnxruntime")
    except ImportError:
        session = import_module("onnx.reference").ReferenceEvaluator(model)
        return "onnx's reference implementation", classes(session), None
    plain, graph = runtime.SessionOptions(), model.SerializeToString()
    plain.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    stands, optimised = (
        classes(runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]))
        for options in (plain, runtime.SessionOptions())
    )
    return f"onnxruntime {runtime.__version__}", stands, optimised
