"""Metrics for TensorBoard, if the package tensorboardX is there."""

from __future__ import annotations

import math
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from quaver.golden.nn.trainer import Epoch, Step, Trainer


def require_tensorboard() -> Any:
    """The package tensorboardX. ImportError: how to get it."""
    try:
        return import_module("tensorboardX")
    except ImportError as error:
        raise ImportError(
            "--tensorboard needs the package tensorboardX: pip install tensorboardX, or leave it out "
            "(metrics.jsonl holds the same numbers)"
        ) from error


class TensorBoard:
    """Writes event files into `directory`: step/… and epoch/…, both against the step.

    For a resumed trainer, what an interrupted run wrote beyond its checkpoint is purged.
    """

    def __init__(self, directory: Path, trainer: Trainer) -> None:
        purge = trainer.step if trainer.step else None
        self._writer = require_tensorboard().SummaryWriter(str(directory), purge_step=purge)
        self._writer.add_text("recipe", f"```\n{trainer.recipe}\n```")

    def write(self, event: Step | Epoch) -> None:
        """Every number of one event, against the step that it followed."""
        kind = type(event).__name__.lower()
        fields = asdict(event)
        alphas = {f"alpha/{layer}": value for layer, value in fields.pop("alphas", {}).items()}
        for name, value in (fields | alphas).items():
            if name not in ("epoch", "step", "exchange") and math.isfinite(value):
                self._writer.add_scalar(f"{kind}/{name}", value, event.step)
        for parameter, exchange in (getattr(event, "exchange", None) or {}).items():
            for name, value in asdict(exchange).items():
                self._writer.add_scalar(f"exchange/{name}/{parameter}", value, event.step)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
