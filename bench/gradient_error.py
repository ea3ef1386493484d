"""What chunks are for: the error of a training step's gradient GEMMs by chunk length.

Trains some steps with the FP8 recipe and takes the gradient GEMMs of the last one, whose sums run over the
batch and, in a convolution, over every pixel: their length K is the lever. Each is done again with other
chunk lengths. Errors are root mean squares over the exact gradient's, of the same FP8 operands.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.golden import data
from quaver.golden.nn import models, recipes
from quaver.golden.nn.recipe import Role
from quaver.golden.nn.run import Call
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer

CHUNKS = (8, 64, 256, recipes.NO_CHUNKS)


def measure(call: Call) -> dict[str, Any]:
    a, b = call.operands
    decode = call.rule.operand.decode
    exact = decode(a).astype(np.float64) @ decode(b).astype(np.float64)
    errors = {}
    for chunk in CHUNKS:
        rule = replace(call.rule, chunk=chunk)
        error = rule.result.decode(rule.gemm(a, b)) - exact
        errors[chunk] = float(np.sqrt(np.mean(error**2) / np.mean(exact**2)))
    return {"layer": call.layer, "length": a.shape[1], "errors": errors}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="cnn", choices=models.MODELS, metavar="NAME")
    parser.add_argument("--data", default="fashion-mnist", choices=data.NAMES, metavar="NAME")
    parser.add_argument("--data-dir", type=Path, metavar="DIR")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    dataset = data.load(args.data, args.data_dir)
    calls: list[Call] = []
    trainer = Trainer(
        models.build(args.model, dataset.shape, dataset.classes),
        dataset,
        recipes.fp8,
        Settings(batch=args.batch),
        trace=calls.append,
    )
    for _ in range(args.steps):
        calls.clear()
        trainer.train_step()
    results = [measure(call) for call in calls if call.role == Role.GRADIENT]
    if args.json:
        print(json.dumps(results))
        return
    run = f"{args.model} on {args.data}, batch {args.batch}, step {args.steps}"
    table = Table(title=f"Relative error of the gradients: {run}")
    for column in ("layer", "K", *("no chunks" if c == recipes.NO_CHUNKS else f"chunk {c}" for c in CHUNKS)):
        table.add_column(column, justify="right")
    table.add_column("none : 64", justify="right")
    for r in results:
        errors = r["errors"]
        ratio = errors[recipes.NO_CHUNKS] / errors[64]
        shown = (f"{error:.2%}" for error in errors.values())
        table.add_row(r["layer"], f"{r['length']:,}", *shown, f"{ratio:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
