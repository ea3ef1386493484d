"""JSON that means one thing: no key twice in an object, no NaN or infinity, which JSON has no number for."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str | bytes) -> Any:
    """What `text` holds. ValueError: it is no JSON, or says one thing twice; the message says what."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there {names.count(twice)} times; keep one")
    return content


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number in JSON")
