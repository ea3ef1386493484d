"""Checkpoints: a trainer's whole state in one file, so that a resumed run gives the bits of an uninterrupted
one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from quaver.golden import stored_arrays, strict_json
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS
from quaver.golden.files import whole
from quaver.golden.nn.trainer import Trainer

_VERSION = 2

#: How many fields a refusal names at most: a recipe with other GEMMs differs in many.
_NAMED = 4


def about(trainer: Trainer) -> dict[str, Any]:
    """What defines a run, apart from how far it has come and how far it shall go.

    Two runs for which this is equal give equal bits.
    """
    settings = asdict(trainer.settings)
    del settings["epochs"]
    if not trainer.settings.exchanges:  # as runs had it before there were learners
        del settings["learners"], settings["compression"]
    return {
        "version": _VERSION,
        "recipe": json.loads(trainer.recipe.to_json()),
        "network": trainer.network.name,
        "data": {"name": trainer.data.name, "sha256": trainer.data.sha256},
        "settings": json.loads(json.dumps(settings)),
    }


def save(trainer: Trainer, path: str | Path) -> None:
    """Write the trainer's state to `path` (.npz). A kill at any moment leaves the old file or the new one,
    whole."""
    header = np.frombuffer(json.dumps(about(trainer)).encode(), np.uint8)
    with whole(path, durable=True) as file:
        np.savez(file, about=header, **trainer.state())  # type: ignore[arg-type]


def resume(trainer: Trainer, path: str | Path) -> None:
    """Bring the trainer to the state stored in `path`.

    ValueError: the file is corrupted, or of another version, recipe, network, data set or settings, or holds
    arrays that the run does not have; the trainer is untouched.
    """
    path = Path(path)
    try:
        state = stored_arrays.load(path)
        if "about" not in state:
            raise ValueError("it does not say what it is about")
        found = strict_json.loads(state.pop("about").tobytes())
        version = found.get("version") if isinstance(found, dict) else found
    except ValueError as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}); remove it and begin anew") from error
    if version != _VERSION:
        raise ValueError(
            f"{path} is a checkpoint of version {version!r:.40}, but this quaver reads {_VERSION}; go on "
            "with the quaver that wrote it, or begin anew elsewhere"
        )
    if differences := list(differing(found, about(trainer))):
        more = f"; and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
        raise ValueError(
            f"{path} is a checkpoint of another run: {'; '.join(differences[:_NAMED])}{more}; resume with "
            f"what is there, or begin anew elsewhere"
        )
    if unknown := sorted(state.keys() - trainer.state().keys()):
        raise ValueError(
            f"{path} is not a whole checkpoint (it holds {', '.join(unknown[:_NAMED])}, which the run does "
            "not have); remove it and begin anew"
        )
    try:
        trainer.restore(state)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}); remove it and begin anew") from error


def differing(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """The fields in which two of what `about` gives differ, and both values."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in here | there:
            yield from differing(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
    elif there != here:
        yield f"{name} is {_brief(name, there)} there, {_brief(name, here)} here"


def _brief(name: str, value: Any) -> str:
    if name.endswith(".chunk") and value == NO_CHUNKS:
        return "none"
    return f"a {value['is']}" if isinstance(value, dict) and "is" in value else json.dumps(value)
