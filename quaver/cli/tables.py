"""Tables on consoles of any width: nothing is cut."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: Names may be folded into lines of so many characters: the first of these with which the table fits.
FOLDS = (1000, 32, 24, 16, 12, 8)


def show(console: Console, table: Table) -> None:
    """Print `table` no wider than the console: wrapped between words, names also within.

    Numbers, in columns that are justified to the right, stay whole. Where the console is too narrow for that,
    each row is a sentence: its names, and what there is under each heading.
    """
    options = console.options.update_width(10_000)

    def measured(renderable: object) -> Measurement:
        return Measurement.get(console, options, renderable)  # type: ignore[arg-type]

    cells = [[measured(cell) for cell in (column.header, *column.cells)] for column in table.columns]
    widths = [max(cell.maximum for cell in column) for column in cells]
    words = [max(cell.minimum for cell in column) for column in cells]
    room = console.width - (measured(table).maximum - sum(widths))
    for fold in FOLDS:
        least = [
            word if column.justify == "right" else min(word, fold)
            for word, column in zip(words, table.columns, strict=True)
        ]
        if sum(least) <= room:
            break
    else:
        for line in _sentences(console, table):
            console.print(line, highlight=False)
        return
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda at: (widths[at] > least[at], widths[at]))
        widths[widest] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width, column.no_wrap, column.overflow = width, False, "fold"
    console.print(table)


def _sentences(console: Console, table: Table) -> list[Text]:
    def text(renderable: object) -> Text:
        return console.render_str(renderable) if isinstance(renderable, str) else Text(str(renderable))

    lines = [text(table.title or "")]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        names, values = [], []
        for column, cell in zip(table.columns, map(text, row), strict=True):
            if cell.plain and column.justify == "right":
                values.append(Text.assemble(text(column.header), " ", cell))
            elif cell.plain:
                names.append(cell)
        lines.append(Text.assemble(Text(" ").join(names), ": ", Text(", ").join(values)))
    return lines
