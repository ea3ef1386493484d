"""The compressor: layers of all kinds over several steps against golden's, while every stream stalls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from numpy.typing import NDArray

from quaver.golden.compression import AdaComp, NonFinite, Packet
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.sim.benches.bench import Bench, start
from quaver.sim.benches.float_sgd import send
from quaver.sim.coverage import Coverage

VARIANTS = {
    "adacomp": lambda: AdaCompUnit(64, count_bits=12),
    "adacomp 2 stages": lambda: AdaCompUnit(500, count_bits=16, stages=2),
}
Values = NDArray[np.float32]

#: Length of bins, elements, and what they are.
LAYERS = (
    (50, 1203, "training"),
    (50, 700, "sparse"),
    (5, 83, "ties"),
    (63, 20, "training"),
    (64, 640, "sparse"),
    (1, 60, "sparse"),
    (2, 31, "training"),
    (3, 90, "tiny"),
    (64, 130, "not finite"),
    (7, 1, "training"),
    (10, 200, "any"),
    (4, 70, "zeros"),
)
STEPS = 3
#: Cycles after which a stream has nothing more: several times those of the longest layer.
PATIENCE = 20_000
POINTS = {
    "bin": ("nothing sent", "some sent", "all sent"),
    "run": ("1", "2", "3", "4"),
    "layer": ("shorter than a bin", "whole bins", "a shorter last bin"),
    "element": ("8 bits", "16 bits"),
    "scale": ("0", "subnormal", "normal", "NaN"),
    "sign": ("+", "−"),
}


def values(kind: str, rng: np.random.Generator, count: int) -> Values:
    """`count` gradients of a kind."""
    drawn = rng.normal(0, 0.1, count).astype(np.float32)
    if kind == "sparse":
        drawn[rng.random(count) < 0.99] = 0
    elif kind == "ties":
        drawn = rng.choice(np.array([-2, -1, 0, 1, 2], np.float32), count)
    elif kind == "zeros":
        drawn[:] = 0
    elif kind == "tiny":
        drawn = (rng.integers(-3, 4, count) * 2.0**-149).astype(np.float32)
    elif kind == "any":  # of half the range, so that sums are finite
        codes = (
            rng.integers(0, 0x7E800000, count, dtype=np.uint32)
            | rng.integers(0, 2, count, dtype=np.uint32) << 31
        )
        drawn = codes.astype(np.uint32).view(np.float32)
    elif kind == "not finite":
        drawn[rng.integers(count)] = rng.choice(np.array([np.inf, -np.inf, np.nan, 3e38], np.float32))
    return drawn


def words(x: Values) -> list[int]:
    """The codes of float32 values."""
    return x.view(np.uint32).tolist()


async def receive(dut: Any, bench: Bench, name: str, count: int, pause: float) -> list[int]:
    """Take `count` payloads of stream `name`; what is offered must stay until it is taken.

    RuntimeError: for `PATIENCE` cycles there was none.
    """
    edge = RisingEdge(dut.clk)
    valid, ready, payload = (getattr(dut, f"{name}_{port}") for port in ("valid", "ready", "payload"))
    got: list[int] = []
    offered = None
    idle = 0
    while len(got) < count:
        takes = bench.rng.random() >= pause
        ready.value = int(takes)
        await edge
        idle += 1
        if idle > PATIENCE:
            raise RuntimeError(f"{name} has {len(got)} of {count}, and nothing more")
        if int(valid.value):
            idle = 0
            word = int(payload.value)
            if offered is not None:
                bench.equal(offered, word, stream=name, number=len(got))
            offered = None if takes else word
            if takes:
                got.append(word)
        elif offered is not None:
            bench.fail(f"{name} {len(got)} was withdrawn")
    ready.value = 0
    return got


def cover(coverage: Coverage, packet: Packet) -> None:
    """What a packet exercises."""
    length, size = packet.bin_length, packet.length
    layer = "shorter than a bin" if size < length else "a shorter last bin" if size % length else "whole bins"
    coverage.hit("layer", layer)
    coverage.hit("element", f"{8 * packet.elements.itemsize} bits")
    scale = packet.scale
    kind = "NaN" if scale != scale else "0" if scale == 0 else "subnormal" if scale < 2.0**-126 else "normal"
    coverage.hit("scale", kind)
    index, negative = packet.places()
    for sign in negative.tolist():
        coverage.hit("sign", "−" if sign else "+")
    if packet.is_finite:
        bins = np.bincount(index // length, minlength=-(-size // length))
        for n, sent in enumerate(bins.tolist()):
            whole = min(length, size - n * length)
            coverage.hit("bin", "nothing sent" if not sent else "all sent" if sent == whole else "some sent")
    escape = (1 << packet.index_bits) - 1
    for element in packet.elements.tolist():
        if element & escape == escape:
            coverage.hit("run", str((element >> packet.index_bits) + 1))


async def hold(dut: Any, bench: Bench, length: int, gradients: Iterable[Values], coverage: Coverage) -> None:
    """Send a layer's gradients, step by step, and hold what comes against golden's packets and residues."""
    unit, rng, rule = bench.unit, bench.rng, AdaComp(length, NonFinite.PASS)
    streams = "settings", "elements", "pending", "summary"
    shapes = {name: getattr(unit, name).payload.shape() for name in streams}
    residue: Values | None = None
    kept, scale = [(0, 0)], 0
    for step, gradient in enumerate(gradients):
        if residue is None:
            residue = np.zeros_like(gradient)
            kept = [(0, 0)] * len(gradient)
        with np.errstate(over="ignore", invalid="ignore"):
            g = residue + gradient
        packet, residue = rule.compress(residue, gradient)
        given = {"length": len(gradient), "bin_length": length, "scale": scale}
        elements = [
            shapes["elements"].const({"kept": {"g": k, "sent": s}, "gradient": d}).as_value().value
            for (k, s), d in zip(kept, words(gradient), strict=True)
        ]
        settings = shapes["settings"].const(given).as_value().value
        cocotb.start_soon(send(dut, "settings", [settings], rng, 0.5))
        cocotb.start_soon(send(dut, "elements", elements, rng, (0.3, 0, 0.1)[step % 3]))
        # Of a layer that is not finite, the packet is thrown away, and nobody knows how long it is.
        count = len(packet.elements) if packet.is_finite else len(gradient)
        sent = cocotb.start_soon(receive(dut, bench, "packet", count, (0.1, 0.6, 0)[step % 3]))
        pending = await receive(dut, bench, "pending", len(gradient), (0.35, 0, 0.1)[step % 3])
        [last] = await receive(dut, bench, "summary", 1, 0.5)
        summary = shapes["summary"].from_bits(last)
        where: dict[str, Any] = {"bins": length, "elements": len(gradient), "step": step}
        expected_scale = words(np.array([packet.scale], np.float32))[0] & 0x7FFFFFFF
        bench.equal(expected_scale, summary.scale, **where, output="scale")
        cover(coverage, packet)
        if not packet.is_finite:
            sent.cancel()
            dut.packet_ready.value = 1  # whatever there is
            for _ in range(8):
                await RisingEdge(dut.clk)
            dut.packet_ready.value = 0
            return
        bench.equal(len(packet.elements), summary.elements, **where, output="elements")
        bench.equal(packet.sent, summary.sent, **where, output="sent")
        for i, (expected, got) in enumerate(zip(packet.elements.tolist(), await sent, strict=True)):
            bench.equal(expected, got, **where, output=f"packet {i}")
        places = set(packet.places()[0].tolist())
        for i, (expected, got) in enumerate(zip(words(g), pending, strict=True)):
            given_back = shapes["pending"].from_bits(got)
            bench.equal(expected, given_back.g, **where, output=f"G {i}")
            bench.equal(int(i in places), given_back.sent, **where, output=f"sent {i}")
        kept = [(p.g, p.sent) for p in map(shapes["pending"].from_bits, pending)]
        scale = summary.scale


@cocotb.test()
async def layers(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        coverage = Coverage(POINTS)
        for name in ("settings", "elements"):
            getattr(dut, f"{name}_valid").value = 0
        for name in ("pending", "packet", "summary"):
            getattr(dut, f"{name}_ready").value = 0
        await start(dut)
        for length, count, kind in LAYERS:
            await hold(dut, bench, length, [values(kind, bench.rng, count) for _ in range(STEPS)], coverage)
        bench.cover(coverage)
