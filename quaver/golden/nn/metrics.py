"""Metrics on disk: JSON lines, one a step and one an epoch, after one that says what the run is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from math import isfinite, nan
from pathlib import Path
from types import TracebackType
from typing import Any

from quaver.golden.files import write
from quaver.golden.nn.checkpoint import about
from quaver.golden.nn.trainer import Epoch, Step, Trainer

#: The file in a run's directory that says which commands made it.
COMMANDS = "commands.jsonl"


class MetricsFile:
    """The metrics of one run, in a file that a kill leaves with whole lines or with one torn line at its end.

    Opening it for a resumed trainer keeps the lines up to the trainer's state and drops what came after (it
    will come again, with the same numbers); for a fresh trainer it begins anew. Each line is an object with
    "kind": "run", "step" or "epoch", and the fields of `Step` or `Epoch`; a loss that is not finite is null.
    """

    def __init__(self, path: str | Path, trainer: Trainer) -> None:
        path = Path(path)
        lines = [{"kind": "run", **about(trainer), "epochs": trainer.settings.epochs}]
        if trainer.step and path.exists():
            lines += [line for line in read(path) if _before(line, trainer)]
        write(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def write(self, event: Step | Epoch) -> None:
        """Append one event."""
        fields = {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in asdict(event).items()
        }
        self._file.write(json.dumps({"kind": type(event).__name__.lower(), **fields}) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def note_command(folder: Path, command: Sequence[str], versions: dict[str, str]) -> None:
    """Appends to ``folder/commands.jsonl`` that `command` writes there from now on."""
    line = {"at": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}", "command": list(command)}
    with (folder / COMMANDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | {"versions": versions}) + "\n")


def commands(folder: Path) -> list[dict[str, Any]]:
    """What `note_command` noted, oldest first; none of a run that is older than that."""
    file = folder / COMMANDS
    return read(file) if file.is_file() else []


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, without a torn last one. ValueError: another line is no JSON."""
    return read_torn(path)[0]


def read_torn(path: str | Path) -> tuple[list[dict[str, Any]], str]:
    """`read`, and the torn last line of a run that was killed or is still writing; "": there is none."""
    try:
        *before, last = Path(path).read_text(encoding="utf-8").splitlines() or [""]
        lines = [json.loads(line) for line in before]
    except ValueError as error:
        raise ValueError(f"{path} is not a whole metrics file ({error})") from error
    try:
        return [*lines, json.loads(last)], ""
    except ValueError:
        return lines, last


def epochs(path: str | Path) -> list[Epoch]:
    """The epochs of a metrics file: of a resumed run, those before it too."""
    lines = [line for line in read(path) if line.pop("kind") == "epoch"]
    return [Epoch(**{k: nan if v is None else v for k, v in line.items()}) for line in lines]  # type: ignore[arg-type]


def _before(line: dict[str, Any], trainer: Trainer) -> bool:
    if line["kind"] == "step":
        return line["step"] < trainer.step
    return line["kind"] == "epoch" and line["epoch"] < trainer.reported
