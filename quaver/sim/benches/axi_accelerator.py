"""The accelerator behind AXI, driven by cocotbext-axi with pauses on every channel, against golden."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import RisingEdge, with_timeout
from cocotbext.axi import (  # type: ignore[import-untyped]
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.update.float_sgd import FloatSGD
from quaver.host.driver import Driver
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.accelerator.axi import IDENTITY, AxiAccelerator, Register
from quaver.rtl.commands import VERSION, Opcode, ResponseHeader, Status, command
from quaver.rtl.update.float_sgd import FloatSGDUnit
from quaver.sim.benches.bench import Bench
from quaver.sim.coverage import Coverage

VARIANTS = {
    "axi_accelerator": lambda: AxiAccelerator(
        Accelerator(
            ChunkedFloat(chunk=8), rows=2, columns=2, stages=3, depth=24, update=FloatSGDUnit(stages=2)
        )
    )
}
SHAPES = ((1, 1, 1), (3, 9, 13), (2, 40, 5))
#: Commands that are counted.
MANY = 600
#: Elements of an update.
UPDATES = (1, 12)
RULE = FloatSGD(rate=0.125, momentum=0.875, decay=0.0625)
#: Parts of the cycles in which the source, the sink and the channels of AXI4-Lite pause.
PAUSES = ((0, 0, 0), (0.6, 0.1, 0.5), (0.2, 0.7, 0.8))
#: Cycles of CLOCK nanoseconds after which the bench stops waiting.
PATIENCE, CLOCK = 20_000, 2
#: Of what the core drives, the signals that must stay as they are until they are taken.
DRIVEN = {"s_axi_b": ("resp",), "s_axi_r": ("data", "resp"), "m_axis_t": ("data", "last")}
TAKEN = ("s_axi_aw", "s_axi_w", "s_axi_ar", "s_axis_t")
WRITABLE = (Register.CONTROL, Register.ERROR)
REFUSALS = ("refused read", "refused write")


async def patient(access: Coroutine[Any, Any, Any]) -> Any:
    """What `access` gives; SimTimeoutError if a core that has lost a handshake lets it wait for ever."""
    return await with_timeout(access, PATIENCE * CLOCK, "ns")


class Core:
    """The core between an AXI4-Lite manager and two streams: a `Transport` and its registers."""

    def __init__(self, dut: Any, bench: Bench) -> None:
        self.dut, self.bench, self.cycles = dut, bench, 0
        waits = ("taken at once", "kept waiting")
        self.coverage = Coverage(
            {
                **dict.fromkeys((*DRIVEN, *TAKEN), waits),
                "write": ("address alone", "data alone", "both begin at once"),
                "access": [
                    *(f"{register.name} read" for register in Register),
                    "refused read",
                    "refused write",
                ],
                "packet": ("a header", "with words", "cut by a reset"),
            }
        )
        aside = {"clock": dut.aclk, "reset": dut.aresetn, "reset_active_level": False}
        self.manager = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), **aside)
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), **aside)
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), **aside)
        self._fill_bytes_not_written()
        self.words: list[int] = []
        self.receive = resume(self._receive)
        self.reset: Callable[[], Any] = resume(self.restart)

    def _fill_bytes_not_written(self) -> None:
        """Ones, where the manager would put zeros: whoever looks there is seen."""
        channel = self.manager.write_if.w_channel
        send = channel.send

        async def filled(write: Any) -> None:
            ones = sum(0xFF << 8 * byte for byte in range(4) if not int(write.wstrb) >> byte & 1)
            write.wdata = int(write.wdata) | ones
            await send(write)

        channel.send = filled

    def pause(self, source: float, sink: float, lite: float) -> None:
        """From now on, let each channel pause in this part of the cycles."""
        write, read = self.manager.write_if, self.manager.read_if
        channels = [write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel]
        for channel, rate in ((self.source, source), (self.sink, sink), *((c, lite) for c in channels)):
            channel.set_pause_generator(self._pauses(rate) if rate else None)
            channel.pause = False

    def _pauses(self, rate: float) -> Iterator[bool]:
        while True:
            yield from (self.bench.rng.random(256) < rate).tolist()

    async def start(self) -> None:
        """Clock and reset."""
        Clock(self.dut.aclk, CLOCK, "ns").start()
        self.dut.aresetn.value = 0
        for _ in range(4):
            await RisingEdge(self.dut.aclk)
        self.dut.aresetn.value = 1
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        """Every cycle: what was offered and not taken is still there, and the same."""
        dut, edge = self.dut, RisingEdge(self.dut.aclk)
        ports = {
            name: [getattr(dut, name + signal) for signal in ("valid", "ready", *DRIVEN.get(name, ()))]
            for name in (*DRIVEN, *TAKEN)
        }
        offered: dict[str, list[int]] = {}
        while True:
            await edge
            self.cycles += 1
            began = []
            for name, (valid, ready, *payload) in ports.items():
                if not int(valid.value):
                    if name in DRIVEN and name in offered:
                        self.bench.fail(f"{name}valid was withdrawn in cycle {self.cycles}")
                    offered.pop(name, None)
                    continue
                now, taken = [int(port.value) for port in payload], int(ready.value)
                if name not in offered:
                    began.append(name)
                    self.coverage.hit(name, "taken at once" if taken else "kept waiting")
                elif name in DRIVEN:
                    self.bench.equal(str(offered[name]), str(now), channel=name, cycle=self.cycles)
                offered[name] = now
                if taken:
                    del offered[name]
            writes = [name for name in ("s_axi_aw", "s_axi_w") if name in began]
            if len(writes) == 2:
                self.coverage.hit("write", "both begin at once")
            elif writes:
                self.coverage.hit("write", "address alone" if writes == ["s_axi_aw"] else "data alone")

    async def read(self, address: int) -> int | None:
        """A register's value; None if the access is refused."""
        answer = await patient(self.manager.read(address, 4))
        name = next((r.name for r in Register if r == address & ~3), "refused")
        self.coverage.hit("access", f"{name} read")
        refused = answer.resp == AxiResp.SLVERR
        return None if refused else int.from_bytes(answer.data, "little")

    async def write(self, address: int, data: bytes) -> bool:
        """Write bytes, from any byte of a register; False if the access is refused."""
        refused = (await patient(self.manager.write(address, data))).resp == AxiResp.SLVERR
        if refused:
            self.coverage.hit("access", "refused write")
        return not refused

    def send(self, words: np.ndarray) -> None:
        self.source.send_nowait(AxiStreamFrame(words.astype("<u4").tobytes()))

    async def packet(self) -> list[int]:
        """The words of the next packet."""
        patience = self.cycles + PATIENCE
        while self.sink.empty():
            await RisingEdge(self.dut.aclk)
            if self.cycles > patience:
                raise TimeoutError(f"no packet in {PATIENCE} cycles")
        words = np.frombuffer(bytes(self.sink.recv_nowait().tdata), "<u4").tolist()
        announced = ResponseHeader.unpack(words[0]).length
        if announced + 1 == len(words):
            self.coverage.hit("packet", "with words" if announced else "a header")
        else:
            self.coverage.hit("packet", "cut by a reset")
            self.bench.equal(0, words[-1], packet=str(words))
        return words

    async def _receive(self, count: int) -> np.ndarray:
        while len(self.words) < count:
            words = await self.packet()
            self.bench.equal(ResponseHeader.unpack(words[0]).length + 1, len(words), packet=str(words[:4]))
            self.words += words
        words, self.words = self.words[:count], self.words[count:]
        return np.array(words, np.uint32)

    async def restart(self) -> list[list[int]]:
        """As `AxiAccelerator` says; the packets that were still there."""
        await self.write(Register.CONTROL, b"\1")
        self.bench.equal(1, await self.read(Register.CONTROL) or 0, register="CONTROL")
        self.source.clear()
        await patient(self.source.wait())
        patience = self.cycles + PATIENCE
        while await self.read(Register.STATUS):
            if self.cycles > patience:
                raise TimeoutError(f"busy for {PATIENCE} cycles of reset")
        packets = []
        while not self.sink.empty():
            packets.append(await self.packet())
        self.words.clear()
        await self.write(Register.CONTROL, b"\0")
        return packets


async def registers(core: Core, accelerator: Accelerator) -> None:
    """What they read, and what may be written."""
    bench, geometry = core.bench, accelerator.geometry
    constants = {
        Register.IDENTITY: IDENTITY,
        Register.VERSION: VERSION,
        Register.SIZE: geometry.rows | geometry.columns << 16,
        Register.MEMORY: geometry.interleave | geometry.depth << 16,
    }
    for register, value in {**constants, Register.CONTROL: 0, Register.STATUS: 0, Register.ERROR: 0}.items():
        bench.equal(value, await core.read(register) or 0, register=register.name)
    for register in Register:
        bench.equal(register in WRITABLE, await core.write(register, bytes(4)), write=register.name)
    beyond = 4 * (max(Register) // 4 + 1)
    for address in (beyond, 0x100, 0x810, 0xFFC):
        bench.equal("None", str(await core.read(address)), read=address)
        bench.equal(False, await core.write(address, b"\xff\xff\xff\xff"), write=address)
    for address in (Register.CONTROL + 1, Register.CONTROL + 2):  # not the byte of reset
        await core.write(address, b"\xff\xff")
        bench.equal(0, await core.read(Register.CONTROL) or 0, register="CONTROL", written=address)
    reads = [cocotb.start_soon(core.read(address)) for address in (*constants, beyond) * 2]
    writes = [cocotb.start_soon(core.write(address, bytes(4))) for address in (*Register, beyond)]
    for expected, read in zip((*constants.values(), None) * 2, reads, strict=True):
        bench.equal(str(expected), str(await read), what="one of many reads")
    for address, written in zip((*Register, beyond), writes, strict=True):
        bench.equal(address in WRITABLE, await written, what="one of many writes")


async def errors(core: Core) -> None:
    """The first refusal is kept, and cleared byte by byte."""
    bench = core.bench
    begun = await core.read(Register.COMMANDS) or 0
    refused = [(Opcode.NONE, Status.BAD_HEADER), (Opcode.GEMM, Status.BAD_LENGTH)]
    core.send(np.array([0x12345678, *command(Opcode.GEMM, [1, 2, 3]), *command(Opcode.COUNTERS)], np.uint32))
    for opcode, status in refused:
        words = await core.packet()
        bench.equal(opcode << 24 | status << 16, words[0], words=len(words))
    await core.packet()
    bench.equal(begun + 3, await core.read(Register.COMMANDS) or 0, register="COMMANDS")
    bench.equal(begun + 3, await core.read(Register.RESPONSES) or 0, register="RESPONSES")
    bench.equal(0, await core.read(Register.STATUS) or 0, register="STATUS")
    for written, left in ((bytes(4), True), (b"\xff\xff", True), (b"\0\0\xfe", True), (b"\0\0\1", False)):
        await core.write(Register.ERROR, written)
        expected = Status.BAD_HEADER << 16 if left else 0
        bench.equal(expected, await core.read(Register.ERROR) or 0, register="ERROR", written=written.hex())
    core.send(np.array(command(Opcode.LOAD), np.uint32))
    await core.packet()
    await core.write(Register.ERROR + 2, b"\xff")
    bench.equal(Opcode.LOAD << 24, await core.read(Register.ERROR) or 0, register="ERROR")
    await core.write(Register.ERROR + 3, b"\xff")
    bench.equal(0, await core.read(Register.ERROR) or 0, register="ERROR")


async def many(core: Core) -> None:
    """More commands than eight bits, or nine, can count."""
    begun = await core.read(Register.COMMANDS) or 0
    core.send(np.zeros(MANY, np.uint32))  # each is a command, refused
    for _ in range(MANY):
        core.bench.equal(Status.BAD_HEADER << 16, (await core.packet())[0])
    for register in (Register.COMMANDS, Register.RESPONSES):
        core.bench.equal(begun + MANY, await core.read(register) or 0, register=register.name)
    await core.write(Register.ERROR, b"\xff" * 4)


async def work(core: Core, driver: Driver, accelerator: Accelerator) -> None:
    """GEMMs and updates."""
    bench, rng = core.bench, core.bench.rng
    arithmetic: Any = accelerator.arithmetic
    for m, k, n in SHAPES:
        a = arithmetic.a.encode(rng.normal(0, 1, (m, k)))
        b = arithmetic.b.encode(rng.normal(0, 1, (k, n)))
        expected, got = arithmetic.gemm(a, b), await bridge(driver.gemm)(a, b)
        for i, j in np.ndindex(m, n):
            shape = f"{m} × {k} × {n}"
            bench.equal(int(expected[i, j]), int(got[i, j]), arithmetic.result, shape=shape, i=i, j=j)
    for count in UPDATES:
        codes = [RULE.format.encode(rng.normal(0, scale, count)) for scale in (1, 0.1, 0.1)]
        seed = int(rng.integers(1, 1 << 32))
        wanted, updated = RULE.update(*codes, seed=seed), await bridge(driver.update)(RULE, *codes, seed=seed)
        for what, new, got in zip(("weight", "momentum"), wanted, updated, strict=True):
            for i, (x, y) in enumerate(zip(new.tolist(), got.tolist(), strict=True)):
                bench.equal(x, y, RULE.format, output=what, element=i, of=count)


async def resets(core: Core) -> None:
    """A reset amid a command, amid a response, and while nothing goes on."""
    await core.restart()
    core.send(np.array(command(Opcode.LOAD, [0], 6)[:4], np.uint32))  # words to come
    await patient(core.source.wait())
    core.bench.equal(1, await core.read(Register.STATUS) or 0, register="STATUS")
    core.bench.equal(0, len(await core.restart()), reset="amid a command")
    for cycles in (20, 23, 31):
        core.sink.set_pause_generator(None)
        core.sink.pause = True
        core.send(np.array(command(Opcode.IDENTIFY) * 3, np.uint32))
        for _ in range(cycles):
            await RisingEdge(core.dut.aclk)
        await core.write(Register.CONTROL, b"\1")
        core.sink.pause = False
        packets = await core.restart()
        core.bench.equal(1, len(packets), reset="amid a response", packets=str(packets))
    core.bench.equal(0, await core.read(Register.COMMANDS) or 0, register="COMMANDS")
    core.bench.equal(0, await core.read(Register.RESPONSES) or 0, register="RESPONSES")


@cocotb.test()
async def registers_and_streams(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        core = Core(dut, bench)
        accelerator = bench.unit.accelerator
        await core.start()
        driver = await bridge(Driver)(core, accelerator.arithmetic)
        for pauses in PAUSES:
            core.pause(*pauses)
            if pauses == PAUSES[0]:
                await many(core)
                await core.restart()
            await registers(core, accelerator)
            await errors(core)
            await work(core, driver, accelerator)
            await resets(core)
            core.pause(*pauses)
            await work(core, driver, accelerator)
        bench.figures = {"cycles": core.cycles}
        bench.cover(core.coverage)
