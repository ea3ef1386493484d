"""The document of the command stream, its C header, and the driver in C++ that takes it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quaver.rtl import commands
from quaver.rtl.accelerator.axi import Answer, Register
from quaver.rtl.emit.command_stream import c_header, document

ROOT = Path(__file__).resolve().parents[2]
WORDS = {
    "command_header": commands.CommandHeader,
    "response_header": commands.ResponseHeader,
    "load_arguments": commands.LoadArguments,
    "gemm_arguments": commands.GemmArguments,
    "tile_arguments": commands.TileArguments,
    "update_arguments": commands.UpdateArguments,
    "requantise_arguments": commands.RequantiseArguments,
    "compression_arguments": commands.CompressionArguments,
}


def test_the_document_is_made_of_today_s_code() -> None:
    """If not: python -m quaver.rtl.emit.command_stream > docs/command_stream.md"""
    assert (ROOT / "docs" / "command_stream.md").read_text() == document()


def test_the_document_has_all() -> None:
    text = document()
    for enum in (commands.Opcode, commands.Status, commands.Operand, Answer):
        for member in enum:
            assert f"| {member.value} | {member.name} |" in text
    for register in Register:
        assert f"| 0x{register.value:02X} | {register.name} |" in text
    assert "| 31…24 | magic | 0x51 |" in text
    assert "====" not in text


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("g++", "c++11")])
def test_a_compiler_takes_the_header_without_a_warning(compiler: str, standard: str, tmp_path: Path) -> None:
    (tmp_path / "quaver_commands.h").write_text(c_header())
    source = tmp_path / ("main.c" if standard.startswith("c9") else "main.cpp")
    source.write_text(
        '#include "quaver_commands.h"\n#include "quaver_commands.h"\nint main(void) { return 0; }\n'
    )
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-std={standard}", "-fsyntax-only"]
    done = subprocess.run([compiler, *flags, source], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_words_made_in_c_are_those_of_python(tmp_path: Path) -> None:
    """Every layout with random fields, made and taken apart; and every number."""
    rng = np.random.default_rng(1)
    fixed = {"zero": 0, "magic": commands.MAGIC}
    lines, expected = [], []
    for name, layout in WORDS.items():
        for _ in range(4):
            fields = {key: int(rng.integers(1 << field.width)) for key, field in layout if key not in fixed}
            word = (
                layout.const(fields | {key: fixed[key] for key, _ in layout if key in fixed}).as_value().value
            )
            lines.append(f"show(quaver_{name}({', '.join(f'{value}u' for value in fields.values())}));")
            lines += [f"show(quaver_{name}_{key}({word}u));" for key in fields]
            expected += [word, *fields.values()]
    lines += [f"show(quaver_slots_per_word({width}u));" for width in range(1, 33)]
    expected += [commands.slots_per_word(width) for width in range(1, 33)]
    for prefix, enum in (
        ("OPCODE", commands.Opcode),
        ("STATUS", commands.Status),
        ("OPERAND", commands.Operand),
        ("REGISTER", Register),
        ("AXI", Answer),
    ):
        lines += [f"show(QUAVER_{prefix}_{member.name});" for member in enum]
        expected += [member.value for member in enum]
    (tmp_path / "quaver_commands.h").write_text(c_header())
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "quaver_commands.h"\n'
        'static void show(uint32_t word) { printf("%lu\\n", (unsigned long)word); }\n'
        f"int main(void) {{ {' '.join(lines)} return 0; }}\n"
    )
    subprocess.run(["g++", "-x", "c", "main.c", "-o", "main"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert list(map(int, said.split())) == expected


@pytest.mark.skipif(shutil.which("make") is None, reason="Verilator's own makefiles want make")
def test_a_gemm_over_axi_in_c() -> None:
    """A tile that fills the array in no direction; the example itself holds the codes to golden."""
    example = [sys.executable, str(ROOT / "examples" / "axi_gemm.py"), "--rows", "3", "--columns", "3"]
    done = subprocess.run([*example, "--M", "2", "--K", "9", "--N", "10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 x 9 by 9 x 10 over AXI: 20 codes, 0 mismatches\n"
