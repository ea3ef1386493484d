"""The command stream and the AXI registers for others: a document, and a header for C.

Both are made from `quaver.rtl.commands` and `quaver.rtl.accelerator.axi`, the description that hardware and
driver share, with their comments: what is written here is what is built.

``python -m quaver.rtl.emit.command_stream`` prints the document, which is docs/command_stream.md.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import IntEnum
from types import ModuleType

from amaranth.lib import data

from quaver.rtl import commands
from quaver.rtl.accelerator import axi
from quaver.rtl.emit.docstrings import tables

#: Fields of a layout that the sender does not choose: zeros, and the byte that tells a header.
_FIXED = {"zero": 0, "magic": commands.MAGIC}


def document() -> str:
    """The description in Markdown."""
    prose = _markdown(inspect.getdoc(commands) or "")
    title, _, rest = prose.partition("\n")
    parts = [
        f"# {title.rstrip('.')}\n",
        "*Made from `quaver/rtl/commands.py` and `quaver/rtl/accelerator/axi.py` by "
        "`python -m quaver.rtl.emit.command_stream`; `quaver verilog accelerator --header FILE` writes "
        f"the same for C. Version {commands.VERSION}.*\n",
        rest.strip() + "\n",
        "## Words bit by bit\n",
    ]
    for name, layout, comment in _layouts():
        rows = [f"| {_bits(field)} | {key} | {_fixed(key)} |" for key, field in layout]
        parts.append(
            f"### {_words(name)}\n\n{comment}\n\n| bits | field | must be |\n|---|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
    words = " ".join((inspect.getdoc(commands.Identity.to_words) or "").split())
    parts.append(f"### Identity\n\n{words}\n")
    for enum in _enums(commands):
        parts.append(f"### {_words(enum.__name__)}\n\n{inspect.getdoc(enum)}\n\n" + _members(commands, enum))
    parts += [
        "## Behind AXI\n",
        _markdown(_without_parameters(inspect.getdoc(axi.AxiAccelerator) or "")) + "\n",
        "### Answers\n\n" + _members(axi, axi.Answer),
    ]
    return "\n".join(parts).rstrip() + "\n"


def c_header() -> str:
    """The same for C and C++: numbers, functions that make words, and functions that take them apart."""
    lines = [
        f"/* Quaver's command stream and AXI registers, version {commands.VERSION}.",
        "   docs/command_stream.md says what they mean. Made by quaver verilog accelerator --header. */",
        "#ifndef QUAVER_COMMANDS_H",
        "#define QUAVER_COMMANDS_H",
        "",
        "#include <stdint.h>",
        "",
        f"#define QUAVER_VERSION {commands.VERSION}u",
        f"#define QUAVER_MAGIC {commands.MAGIC:#x}u",
        f"#define QUAVER_MAX_LENGTH {commands.MAX_LENGTH:#x}u",
        f"#define QUAVER_IDENTITY {axi.IDENTITY:#x}u",
        "",
    ]
    for module, prefixes in ((commands, {}), (axi, {"Register": "REGISTER", "Answer": "AXI"})):
        comments = _comments(module)
        for enum in _enums(module):
            prefix = prefixes.get(enum.__name__, enum.__name__.upper())
            lines.append(f"/* {inspect.getdoc(enum)} */")
            for member in enum:
                comment = comments.get(f"{enum.__name__}.{member.name}", "")
                value = f"{member.value:#04x}u" if prefix == "REGISTER" else f"{member.value}u"
                lines.append(
                    f"#define QUAVER_{prefix}_{member.name} {value}"
                    + (f" /* {comment} */" if comment else "")
                )
            lines.append("")
    for name, layout, comment in _layouts():
        lines += [f"/* {comment} */", *_functions(name, layout), ""]
    lines += [
        "/* Codes that share a word, each in a slot of 1, 2, 4, 8, 16 or 32 bits. */",
        "static inline uint32_t quaver_slots_per_word(uint32_t width) {",
        "    uint32_t slots = 32;",
        "    while (slots * width > 32) slots >>= 1;",
        "    return slots;",
        "}",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _functions(name: str, layout: data.StructLayout) -> Iterator[str]:
    """C that makes a word of a layout's fields, and that takes each out of a word."""
    snake = f"quaver_{_snake(name)}"
    chosen = [key for key, _ in layout if key not in _FIXED]
    terms = []
    for key, field in layout:
        value = f"{_FIXED[key]:#x}u" if key in _FIXED else f"({key} & {(1 << field.width) - 1:#x}u)"
        if value != "0x0u":
            terms.append(f"{value} << {field.offset}" if field.offset else value)
    arguments = ", ".join(f"uint32_t {key}" for key in chosen)
    yield f"static inline uint32_t {snake}({arguments}) {{"
    yield f"    return {' | '.join(terms)};"
    yield "}"
    for key, field in layout:
        if key in chosen:
            word = f"word >> {field.offset}" if field.offset else "word"
            yield f"static inline uint32_t {snake}_{key}(uint32_t word) {{"
            yield f"    return {word} & {(1 << field.width) - 1:#x}u;"
            yield "}"


def _layouts() -> list[tuple[str, data.StructLayout, str]]:
    """Name, layout and comment of each word with fields."""
    comments = _comments(commands)
    return [
        (name, value, comments.get(name, ""))
        for name, value in vars(commands).items()
        if isinstance(value, data.StructLayout)
    ]


def _enums(module: ModuleType) -> list[type[IntEnum]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, IntEnum) and value.__module__ == module.__name__
    ]


def _members(module: ModuleType, enum: type[IntEnum]) -> str:
    comments = _comments(module)
    rows = [f"| {m.value} | {m.name} | {comments.get(f'{enum.__name__}.{m.name}', '')} |" for m in enum]
    return "| number | name | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _comments(module: ModuleType) -> dict[str, str]:
    """Name → the lines #: above its assignment; Class.NAME → the comment behind a member of an enum."""
    found: dict[str, str] = {}
    above: list[str] = []
    inside = ""
    for line in inspect.getsource(module).splitlines():
        if line.startswith("#:"):
            above.append(line[2:].strip())
        elif match := re.match(r"(\w+)\b.* = ", line):
            found[match[1]] = " ".join(above)
            above = []
        elif match := re.match(r"class (\w+)", line):
            inside = match[1]
        elif match := re.match(r"    (\w+) = [^#]*# (.*)", line):
            found[f"{inside}.{match[1]}"] = match[2]
    return found


def _markdown(text: str) -> str:
    """A docstring's reStructuredText as Markdown: its tables and its marks of code."""
    lines, out = text.splitlines(), []
    rule = re.compile(r"^ *=+(?: +=+)+$")
    while lines:
        if rule.match(lines[0]):
            end = next(
                i
                for i, line in enumerate(lines)
                if i and rule.match(line) and not "".join(lines[i + 1 : i + 2]).strip()
            )
            rows = next(tables("\n".join(lines[: end + 1])))
            has_head = sum(map(bool, map(rule.match, lines[: end + 1]))) == 3
            head = rows.pop(0) if has_head else ["port", "", "what"]
            out += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
            out += [f"| {' | '.join(row)} |" for row in rows]
            lines = lines[end + 1 :]
        else:
            out.append(lines.pop(0))
    return "\n".join(out).replace("``", "`")


def _without_parameters(text: str) -> str:
    """A docstring without its section Parameters."""
    return re.sub(r"Parameters\n-+\n(?:\w.*\n(?: +.*\n)+)+\n?", "", text)


def _bits(field: data.Field) -> str:
    return f"{field.offset + field.width - 1}…{field.offset}" if field.width > 1 else f"{field.offset}"


def _fixed(field: str) -> str:
    return f"{_FIXED[field]:#x}" if field in _FIXED else ""


def _words(name: str) -> str:
    return _snake(name).replace("_", " ").capitalize()


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


if __name__ == "__main__":
    print(document(), end="")
