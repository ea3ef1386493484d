"""Metrics on disk: JSON lines, one a step and one an epoch, after one that says what the run is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from math import isfinite, nan
from pathlib import Path
from types import TracebackType
from typing import Any

from quaver.golden import strict_json
from quaver.golden.files import write
from quaver.golden.nn.checkpoint import about, differing
from quaver.golden.nn.learners import Exchange
from quaver.golden.nn.trainer import Epoch, Step, Trainer

#: The type of a field of an event in JSON, where a float that is not finite is null.
_TYPES = {"int": int, "float": float, "dict[str, float]": dict}
#: Fields that an event leaves out where they are empty, as runs did before there were any.
_OPTIONAL = {"alphas", "exchange"}
#: The file in a run's directory that says which commands made it.
COMMANDS = "commands.jsonl"


def files_of(folder: Path) -> tuple[Path, ...]:
    """The files that make up a run in its directory."""
    return tuple(folder / name for name in ("metrics.jsonl", "checkpoint.npz", COMMANDS))


class MetricsFile:
    """The metrics of one run, in a file that a kill leaves with whole lines or with one torn line at its end.

    Opening it for a resumed trainer keeps the lines up to the trainer's state and drops what came after (it
    will come again, with the same numbers); for a fresh trainer it begins anew. Each line is an object with
    "kind": "run", "step" or "epoch", and the fields of `Step` or `Epoch`; a loss or α that is not finite is
    null, and alphas and exchanges are left out where there are none.
    """

    def __init__(self, path: str | Path, trainer: Trainer) -> None:
        path = Path(path)
        lines = [{"kind": "run", **about(trainer), "epochs": trainer.settings.epochs}]
        if trainer.step and path.exists():
            there, *events = read(path) or [lines[0]]
            if differences := list(differing(there, lines[0] | {"epochs": there["epochs"]})):
                raise ValueError(f"{path} is of another run: {'; '.join(differences[:4])}; remove it")
            lines += [line for line in events if _before(line, trainer)]
        write(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def write(self, event: Step | Epoch) -> None:
        """Append one event."""
        fields = {
            name: _finite(value) for name, value in asdict(event).items() if name not in _OPTIONAL or value
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


def _finite(value: Any) -> Any:
    """The value as JSON has it: null for a float that is not finite, in objects too."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def note_command(folder: Path, command: Sequence[str], versions: dict[str, str]) -> None:
    """Appends to ``folder/commands.jsonl`` that `command` writes there from now on."""
    line = {"at": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}", "command": list(command)}
    with (folder / COMMANDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | {"versions": versions}) + "\n")


def commands(folder: Path) -> list[dict[str, Any]]:
    """What `note_command` noted, oldest first; none of a run that is older than that."""
    file = folder / COMMANDS
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    try:
        return [strict_json.loads(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{file} is not what a run notes there ({error}); remove it") from error


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, without a torn last one.

    ValueError: another line is no event that a run writes there, or no step after the one before.
    """
    return read_torn(path)[0]


def read_torn(path: str | Path) -> tuple[list[dict[str, Any]], str]:
    """`read`, and the torn last line of a run that was killed or is still writing; "": there is none."""
    try:
        texts = Path(path).read_text(encoding="utf-8").splitlines()
        torn = ""
        if texts:
            try:
                strict_json.loads(texts[-1])
            except ValueError:  # of a line that the run was writing there is no whole object
                torn = texts.pop()
        lines: list[dict[str, Any]] = []
        step = None
        for number, text in enumerate(texts, start=1):
            try:
                line = _checked(strict_json.loads(text), first=number == 1)
                if line["kind"] == "step":
                    if step is not None and line["step"] != step + 1:
                        raise ValueError(f"step {line['step']} comes after step {step}")
                    step = line["step"]
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            lines.append(line)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole metrics file ({error})") from error
    return lines, torn


_EVENTS = {
    "run": {"version": int, "recipe": dict, "network": str, "data": dict, "settings": dict, "epochs": int},
    **{
        kind.__name__.lower(): {f.name: _TYPES[str(f.type)] for f in fields(kind) if f.name != "exchange"}
        for kind in (Step, Epoch)
    },
}
_EXCHANGE = {f.name: _TYPES[str(f.type)] for f in fields(Exchange)}


def _checked(line: Any, *, first: bool) -> dict[str, Any]:
    """`line`, which is an event with its fields. ValueError: it is not; says what it lacks."""
    if not isinstance(line, dict):
        raise ValueError(f"it is {line!r:.40}, but it must be an object")
    kind = line.get("kind")
    kinds = ["run"] if first else ["step", "epoch"]
    if kind not in kinds:
        raise ValueError(f"kind is {kind!r:.40}, but there it must be {' or '.join(kinds)}")
    unchecked = {"kind", "exchange"} if kind == "step" else {"kind"}
    _check_fields({name: value for name, value in line.items() if name not in unchecked}, _EVENTS[kind], kind)
    exchange = line.get("exchange", {})
    if not isinstance(exchange, dict) or not all(isinstance(one, dict) for one in exchange.values()):
        raise ValueError(f"exchange is {exchange!r:.40}, but it must be an object of objects")
    for one in exchange.values():
        _check_fields(one, _EXCHANGE, "exchange")
    return line


def _check_fields(line: dict[str, Any], known: dict[str, type], kind: str) -> None:
    for name in line.keys() - known.keys():
        raise ValueError(f"{name!r:.40} is not known of a {kind}")
    for name, wanted in known.items():
        if name not in line:
            if name in _OPTIONAL:
                continue
            raise ValueError(f"{name!r} is missing")
        value = line[name]
        fits = isinstance(value, wanted) and not isinstance(value, bool)
        if not (fits or (wanted is float and (value is None or type(value) is int))):
            raise ValueError(f"{name} is {value!r:.40}, but it must be of type {wanted.__name__}")


def epochs(path: str | Path) -> list[Epoch]:
    """The epochs of a metrics file: of a resumed run, those before it too."""
    lines = [line for line in read(path) if line.pop("kind") == "epoch"]
    return [Epoch(**{k: nan if v is None else v for k, v in line.items()}) for line in lines]  # type: ignore[arg-type]


def exchanged(path: str | Path) -> Exchange:
    """All that the learners of a metrics file exchanged: of a resumed run, before it too."""
    return Exchange.total(one for line in read(path) for one in exchanges(line).values())


def exchanges(line: dict[str, Any]) -> dict[str, Exchange]:
    """What the learners exchanged in the step of this line, by parameter; empty where there are none."""
    return {
        name: Exchange(**{k: nan if v is None else v for k, v in one.items()})  # type: ignore[arg-type]
        for name, one in line.get("exchange", {}).items()
    }


def _before(line: dict[str, Any], trainer: Trainer) -> bool:
    if line["kind"] == "step":
        return line["step"] < trainer.step
    return line["kind"] == "epoch" and line["epoch"] < trainer.reported
