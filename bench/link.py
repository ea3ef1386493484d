"""What the serial link carries: payload a second each way, echoed, against what the line carries.

Time is the simulated clock's. The adapter on USB hands bytes on after its latency.

    python bench/link.py
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from rich.console import Console
from rich.table import Table

from quaver.host.link_transport import LinkTransport
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.link.reliable_link import Linked
from quaver.sim.line import CLOCK, SimulatedLine

#: Baud rate, latency of the adapter in ms, words echoed.
RUNS = (
    *((3_000_000, latency, 12_000) for latency in (0.2, 1, 2, 16)),
    (1_000_000, 1, 6_000),
    (115_200, 1, 2_000),
    (9_600, 1, 600),
)


class Echo(wiring.Component):
    """Every word that comes goes back."""

    def __init__(self) -> None:
        super().__init__({"commands": In(stream.Signature(32)), "responses": Out(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        connect(m, flipped(self.commands), flipped(self.responses))
        return m


def measure(verilog: str, baud: int, latency: float, count: int) -> dict[str, float]:
    """One row of the table."""
    line = SimulatedLine(verilog, latency=latency / 1000, pace=round(10 * CLOCK / baud))
    host = LinkTransport(line, baud=baud)
    host.reset()
    begun, words = line.now, np.random.default_rng(0).integers(0, 1 << 32, count, np.uint32)
    host.send(words)
    assert (host.receive(count) == words).all()
    rate = 4 * count / (line.now - begun)
    return {"baud": baud, "latency_ms": latency, "bytes_per_second": rate, "polls": host.polls}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    verilog = to_verilog(Linked(Echo()), "linked")
    rows = [measure(verilog, *run) for run in RUNS]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title="Serial link: payload each way, both ways at once")
    for heading in ("baud", "latency, ms", "kB/s", "of the line", "polls"):
        table.add_column(heading, justify="right")
    for row in rows:
        rate = row["bytes_per_second"]
        cells = (f"{row['baud']:,}", f"{row['latency_ms']:g}", f"{rate / 1000:.1f}")
        table.add_row(*cells, f"{rate / (row['baud'] / 10):.1%}", f"{row['polls']:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
