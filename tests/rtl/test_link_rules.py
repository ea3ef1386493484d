"""The rules of fpga/PROTOCOL.md, one by one at the device's end; the RTL without one of them must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from links import Echo, echo_line, windows
from test_mutations import mutated

from quaver.rtl.link.frames import Frame, Frames
from quaver.rtl.link.reliable_link import Linked


class Deaf(wiring.Component):
    """Takes no words; gives those from 0 on, or none."""

    def __init__(self, talks: bool = True) -> None:
        self.talks = talks
        super().__init__({"commands": In(stream.Signature(32)), "responses": Out(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(32)
        m.d.comb += [self.responses.valid.eq(self.talks), self.responses.payload.eq(count)]
        m.d.sync += count.eq(count + self.responses.ready)
        return m


def talk(device: Any, *pieces: Frame | bytes) -> list[Frame]:
    """All that the device says while it hears `pieces`, a byte each cycle, and 150 cycles after each."""
    said = bytearray()

    async def host(ctx: Any) -> None:
        ctx.set(device.sent.ready, 1)
        for piece in pieces:
            heard = piece if isinstance(piece, bytes) else piece.to_bytes()
            for byte in (*heard, *[None] * 150):
                ctx.set(device.received.valid, byte is not None)
                ctx.set(device.received.payload, byte or 0)
                if ctx.get(device.sent.valid):
                    said.append(ctx.get(device.sent.payload))
                await ctx.tick()

    simulator = Simulator(device)
    simulator.add_clock(1e-6)
    simulator.add_testbench(host)
    simulator.run()
    return Frames().take(bytes(said))


def words(*values: int) -> bytes:
    return np.array(values, "<u4").tobytes()


def heard(frames: list[Frame]) -> list[int]:
    """The words that came, as often as they came."""
    return np.frombuffer(b"".join(frame.payload for frame in frames), "<u4").tolist()


BEGIN = Frame(5, 0, 0, reset=True)


def a_frame_must_be_whole(linked: Any) -> None:
    frame = Frame(5, 0, 0, payload=words(3, 4)).to_bytes()
    spoilt = [frame[:i] + bytes([frame[i] ^ 8]) + frame[i + 1 :] for i in (4, 12, 20)]
    assert heard(talk(linked(Echo()), BEGIN, *spoilt, frame[:12], frame)) == [3, 5]


def sequence(linked: Any) -> None:
    first, second = Frame(5, 0, 0, payload=words(3)), Frame(5, 1, 0, payload=words(4, 5))
    frames = talk(linked(Echo()), BEGIN, second, first, first, second, first)
    assert heard(frames) == [3, 5, 7]
    assert frames[-1].acknowledge == 3


def session(linked: Any) -> None:
    frames = talk(linked(Echo()), BEGIN, Frame(6, 0, 0, payload=words(9)), Frame(6, 0, 0, poll=True))
    assert not heard(frames)
    assert frames[-1] == Frame(5, 0, 0, 512, poll=True)


def reset_twice(linked: Any) -> None:
    frames = talk(
        linked(Echo()), BEGIN, Frame(5, 0, 0, payload=words(7)), BEGIN, Frame(5, 1, 0, payload=words(7))
    )
    assert heard(frames) == [7, 8]


def new_session(linked: Any) -> None:
    """Not a word of the old one, not even one that is given in the cycle of the reset."""
    frames = talk(linked(Deaf()), BEGIN, Frame(6, 0, 0, reset=True), bytes(2000))
    new = [frame for frame in frames if frame.session == 6]
    assert new[0].sequence == 0
    assert heard(new) == list(range(len(heard(new))))
    assert heard(new)


def poll(linked: Any) -> None:
    frames = talk(linked(Echo()), BEGIN, Frame(5, 0, 0, payload=words(1, 1, 1)), Frame(5, 3, 1, poll=True))
    again = [frame for frame in frames if frame.poll][-1]
    assert (again.sequence, again.payload) == (1, words(2, 3))


def old_acknowledgement(linked: Any) -> None:
    question = Frame(5, 0, 0, payload=words(1, 1, 1))
    frames = talk(linked(Echo()), BEGIN, question, Frame(5, 3, 3), Frame(5, 3, 1, poll=True))
    assert frames[-1] == Frame(5, 3, 3, 515, poll=True)


def room(linked: Any) -> None:
    """A frame that there is no room for is not accepted, not even a part of it."""
    frames = [
        Frame(5, at, 0, payload=words(*range(count))) for at, count in ((0, 256), (256, 200), (456, 256))
    ]
    last = [
        frame for frame in talk(linked(Deaf(False)), BEGIN, *frames, Frame(5, 0, 0, poll=True)) if frame.poll
    ][-1]
    assert (last.acknowledge, last.limit) == (456, 512)


def kept(linked: Any) -> None:
    """Words are kept until they are acknowledged, and no more are taken than can be."""
    frames = talk(linked(Deaf()), BEGIN, bytes(2000), Frame(5, 0, 0, poll=True), bytes(4000))
    ends = [(frame.sequence + frame.length) for frame in frames]
    assert max(ends) == 512
    assert all(heard([f]) == list(range(f.sequence, f.sequence + f.length)) for f in frames)
    assert sum(frame.session == 5 and frame.sequence == 0 and frame.length > 0 for frame in frames) == 2


#: rule → the edits of the RTL that break it: (module, old text, new text).
RULES: dict[Callable[[Any], None], list[tuple[str, str, str]]] = {
    a_frame_must_be_whole: [("link/frame_receiver", " & crc.match_detected", "")],
    sequence: [("link/reliable_link", "follows & ~overflow", "~overflow")],
    session: [("link/reliable_link", "m.Elif(same)", "m.Elif(1)")],
    reset_twice: [("link/reliable_link", "heard.reset & ~same", "heard.reset")],
    new_session: [("link/reliable_link", "space.eq(0)", "space.eq(1)")],
    poll: [
        ("link/reliable_link", "heard.poll | overtakes", "overtakes"),
        ("link/reliable_link", "header.poll.eq(owed)", "header.poll.eq(0)"),
    ],
    old_acknowledgement: [
        ("link/reliable_link", "~precedes(heard.acknowledge, acknowledged)", "1"),
        ("link/reliable_link", "m.If(credible)", "m.If(1)"),
    ],
    room: [
        ("link/reliable_link", "follows & ~overflow", "follows"),
        ("link/reliable_link", "limit.eq(consumed + self.buffer)", "limit.eq(expected + self.buffer)"),
        ("link/reliable_link", "receiver.write & fits & ~overflow", "receiver.write"),
    ],
    kept: [("link/reliable_link", "~(kept[bits] | kept[:bits].all())", "1")],
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Callable[[Any], None]) -> None:
    rule(Linked)


@pytest.mark.parametrize("skipped", [0, 3000], ids=["from the beginning", "at every position"])
def test_all_that_the_device_says(skipped: int) -> None:
    windows(echo_line(), 512, rounds=24, skipped=skipped)


MUTANTS = [(rule, edit) for rule, edits in RULES.items() for edit in edits]


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "edit"), MUTANTS, ids=[f"{rule.__name__}: {e[2]}" for rule, e in MUTANTS])
def test_rule_is_not_kept_by_a_mutant(rule: Callable[[Any], None], edit: tuple[str, str, str]) -> None:
    with mutated(*edit):
        from quaver.rtl.link.reliable_link import Linked

        with pytest.raises((AssertionError, IndexError)):
            rule(Linked)
