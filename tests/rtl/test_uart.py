"""The UART's divisor, and a whole frame there and back through the pins."""

from __future__ import annotations

import pytest
from amaranth.sim import Simulator
from links import Echo

from quaver.rtl.link.frames import Frame, Frames
from quaver.rtl.link.serial_unit import SerialUnit
from quaver.rtl.link.uart import UARTTransmitter, divisor_for


@pytest.mark.parametrize(
    ("clock", "baud", "divisor"),
    [(12e6, 3e6, 4), (48e6, 3e6, 16), (25e6, 115_200, 217), (25e6, 1e6, 25), (100e6, 3e6, 33)],
)
def test_divisor(clock: float, baud: float, divisor: int) -> None:
    assert divisor_for(clock, baud) == divisor


@pytest.mark.parametrize(
    ("clock", "baud", "message"),
    [
        (
            25e6,
            3e6,
            r"25,000,000 Hz makes 3,000,000 baud with an error of 4.2%, but 2% is the most; take 2,777,778",
        ),
        (
            8e6,
            3e6,
            r"8,000,000 Hz has 2.67 cycles for a bit at 3,000,000 baud, but the UART needs 4; take at most",
        ),
        (100e6, 4e6, r"the baud rate is 4,000,000, but the link takes 9,600 to 3,000,000"),
        (100e6, 7, r"the baud rate is 7, but the link takes"),
    ],
)
def test_refuses_a_baud_rate(clock: float, baud: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divisor_for(clock, baud)


@pytest.mark.parametrize("divisor", [4, 5, 16])
def test_the_transmitter_takes_ten_bits_for_a_byte_to_the_cycle(divisor: int) -> None:
    unit, sent, line = UARTTransmitter(divisor), [0x55, 0x00, 0xFF, 0xA1], []

    async def sender(ctx) -> None:  # type: ignore[no-untyped-def]
        await ctx.tick().repeat(3)
        ctx.set(unit.bytes.valid, 1)
        for byte in sent:
            ctx.set(unit.bytes.payload, byte)
            await ctx.tick().until(unit.bytes.ready)
        ctx.set(unit.bytes.valid, 0)

    async def ear(ctx) -> None:  # type: ignore[no-untyped-def]
        async for *_, level in ctx.tick().sample(unit.line):
            line.append(level)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(sender)
    simulator.add_testbench(ear, background=True)
    simulator.run()
    simulator.run_until((len(sent) * 10 * divisor + 10) * 1e-6)
    bits = [bit for byte in sent for bit in (0, *(byte >> i & 1 for i in range(8)), 1)]
    expected = [bit for bit in bits for _ in range(divisor)]
    first = line.index(0)
    assert line[first : first + len(expected)] == expected
    assert all(line[first + len(expected) :])


def test_a_frame_through_the_pins() -> None:
    bit = 4
    unit = SerialUnit(Echo(), clock_hz=12e6, baud=3e6)
    question = Frame(7, 0, 0, payload=bytes([0x7D, 0x7E, 0, 1]) * 2)
    heard = bytearray()

    async def host(ctx) -> None:  # type: ignore[no-untyped-def]
        for frame in (Frame(7, 0, 0, reset=True), question):
            for byte in frame.to_bytes():
                for level in (0, *(byte >> i & 1 for i in range(8)), 1):
                    ctx.set(unit.rx, level)
                    await ctx.tick().repeat(bit)

    async def ear(ctx) -> None:  # type: ignore[no-untyped-def]
        while True:
            while ctx.get(unit.tx):
                await ctx.tick()
            await ctx.tick().repeat(bit // 2)
            byte = 0
            for i in range(9):
                await ctx.tick().repeat(bit)
                byte |= ctx.get(unit.tx) << i
            assert byte >> 8, "no stop bit"
            heard.append(byte & 0xFF)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(host)
    simulator.add_testbench(ear, background=True)
    simulator.run()
    simulator.run_until(8000e-6)
    frames = Frames().take(bytes(heard))
    payload = b"".join(frame.payload for frame in frames if frame.session == 7)
    assert payload == question.payload[:4] + (0x01007E7D + 1).to_bytes(4, "little")
    assert frames[-1].acknowledge == 2
