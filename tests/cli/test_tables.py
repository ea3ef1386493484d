"""Tables on narrow consoles: nothing is cut, so that two rows never look alike that are not."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from quaver.cli.tables import show

WORD = st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters="._-"), min_size=1)
CELL = st.lists(WORD, max_size=4).map(" ".join)


def printed(width, columns, rows):
    table = Table(title="A title")
    for name, justify in columns:
        table.add_column(name, justify=justify)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False)
    show(console, table)
    return console.file.getvalue()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_character_of_a_cell_is_lost(data):
    columns = data.draw(st.lists(st.tuples(CELL, st.sampled_from(["left", "right"])), min_size=1, max_size=6))
    rows = data.draw(st.lists(st.tuples(*[CELL] * len(columns)), min_size=1, max_size=4))
    width = data.draw(st.integers(8, 120))
    out = printed(width, columns, rows)
    assert "…" not in out
    assert all(len(line) <= width for line in out.splitlines())
    cells = Counter("".join(cell for row in rows for cell in row).replace(" ", ""))
    assert cells <= Counter(out)
    if set(out) & set("─━"):  # a table: names of columns once, and no more
        names = Counter("".join(name for name, _ in columns).replace(" ", ""))
        there = Counter(character for character in out if character.isascii() and not character.isspace())
        assert there == cells + names + Counter("Atitle")


def test_numbers_are_never_broken():
    columns = [("layer", "left"), ("length", "right"), ("M×K×N", "right")]
    rows = [("model.layers.0.self_attn.q_proj", "3,211,264", "128×32×64")]
    for width in range(20, 80):
        out = printed(width, columns, rows)
        assert "3,211,264" in out
        assert "128×32×64" in out


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_plan_and_compare_say_all_on_a_narrow_terminal(columns, monkeypatch, capsys, tmp_path):
    from quaver import cli

    file = tmp_path / "net.csv"
    names = [f"model.layers.{layer}.self_attn.{which}_proj" for layer in (1, 11) for which in "qk"]
    lines = [f"{name},{8 * number},8" for number, name in enumerate(names, start=1)]
    file.write_text("name,in_channels,out_channels\n" + "\n".join(lines) + "\n")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for arguments in (["plan", str(file), "--batch", "4"], ["compare", "--engine", "golden"]):
        assert cli.main(arguments) == 0
        out = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
        assert "…" not in out
        assert max(map(len, out.splitlines())) <= columns
        if columns == 40:  # in sentences
            flat = "".join(out.split())
            said = names if arguments[0] == "plan" else ["linear1.weightupdate:", "linear1.biasupdate:"]
            assert all(name in flat for name in said)


def test_files_are_written_though_nobody_reads_what_is_printed(tmp_path):
    files = [tmp_path / "p.json", tmp_path / "p.png"]
    command = [sys.executable, "-m", "quaver", "plan", "mlp-digits", "-o", files[0], "--figure", files[1]]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert b"Traceback" not in done.stderr
    assert all(file.stat().st_size > 1000 for file in files)
