"""Standard output and error as a command finds them: closed, a pipe that closes, or of few characters."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: What stands for characters that an encoding does not have.
# fmt: off
_PLAIN = str.maketrans({
    "−": "-", "–": "-", "—": "--", "×": "x", "÷": "/", "±": "+/-", "·": ".", "•": "*", "…": "...",
    "⟨": "<", "⟩": ">", "→": "->", "←": "<-", "↔": "<->", "≤": "<=", "≥": ">=", "≈": "~", "≠": "!=",
    "µ": "u", "σ": "s", "∞": "inf", "√": "sqrt", "‘": "'", "’": "'", "“": '"', "”": '"',
    "†": "+", "‡": "++", "²": "^2", "³": "^3", "¼": "1/4", "½": "1/2", "¾": "3/4",
    "─": "-", "━": "-", "═": "-", "│": "|", "┃": "|", "║": "|",
})
# fmt: on


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    """What the encoding lacks, in characters that every encoding has: an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    text = "".join("+" if "─" <= character <= "╿" else character for character in text)  # corners of a box
    return unicodedata.normalize("NFKD", text).encode("ascii", "replace").decode(), error.end


codecs.register_error("quaver-plain", _in_plain)


class _Stream(io.FileIO):
    """A descriptor to write to. Once its reader has gone, what is written goes nowhere, without an error."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            to_nowhere(self.fileno())
            return len(memoryview(data))


def to_nowhere(number: int) -> None:
    """Descriptor `number` is /dev/null from now on."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


@contextmanager
def guarded() -> Iterator[None]:
    """What is printed inside reaches who reads it, in the characters that he has, and ends nothing when he
    has gone."""
    for number in range(3):  # a file opened later would be taken for the standard output
        try:
            os.fstat(number)
        except OSError:
            to_nowhere(number)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _guard(sys.stdout, sys.__stdout__, 1), _guard(sys.stderr, sys.__stderr__, 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream not in before:
                _end(stream)
        sys.stdout, sys.stderr = before


def _guard(stream: TextIO | None, real: TextIO | None, number: int) -> TextIO:
    """`stream`, guarded where it is the process's own and no other that a caller has put there."""
    if stream is not None and stream is not real:
        return stream
    encoding = "utf-8"
    if stream is not None:
        stream.flush()
        encoding = stream.encoding
    raw = _Stream(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="quaver-plain",
        line_buffering=number == 2 or os.isatty(number),
    )


def _end(stream: TextIO) -> None:
    """Writes what is left; what cannot be written is given up."""
    try:
        stream.flush()
    except OSError:
        to_nowhere(stream.fileno())
        with suppress(OSError):
            stream.flush()
