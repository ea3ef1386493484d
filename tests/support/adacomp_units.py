"""The compressor and the average, compiled, with every stream stalling at random."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.compression import Packet
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.compression.adacomp_average import AdaCompAverage
from quaver.rtl.emit.verilog import to_verilog
from quaver.sim.verilated import compile_library

#: Runs a layer through the compressor. Each stream stalls with its own probability, of 256.
HARNESS = r"""
#include <cstdint>
#include <cstring>
#include "Vmodel.h"

struct Unit { VerilatedContext context; Vmodel model{&context}; uint32_t random = 2463534242u; };

static void tick(Vmodel& m) { m.clk = 1; m.eval(); m.clk = 0; m.eval(); }

static bool pauses(Unit& u, int of_256) {
    u.random ^= u.random << 13; u.random ^= u.random >> 17; u.random ^= u.random << 5;
    return int(u.random >> 24) < of_256;
}

extern "C" Unit* unit_new() {
    Unit* u = new Unit;
    u->model.rst = 1; tick(u->model); u->model.rst = 0;
    return u;
}

// A layer of `count` elements of three words; returns the cycles, or -1 when the unit hangs. `summary` gets
// three words, `packed` the number of packet elements.
extern "C" int64_t unit_run(Unit* u, const uint32_t* settings, int64_t count, const uint32_t* elements,
                            uint64_t* pending, uint16_t* packet, uint32_t* summary, int64_t* packed,
                            const int* stalls) {
    Vmodel& m = u->model;
    int64_t sent = 0, got = 0, cycles = 0, idle = 0;
    bool begun = false, ended = false, offering = false;
    *packed = 0;
    memcpy(&m.settings_payload, settings, sizeof m.settings_payload);
    while (!ended || got < count) {
        m.settings_valid = !begun;
        if (!offering) offering = sent < count && !pauses(*u, stalls[0]);
        m.elements_valid = offering;
        if (offering) memcpy(&m.elements_payload, elements + 3 * sent, sizeof m.elements_payload);
        m.pending_ready = !pauses(*u, stalls[1]);
        m.packet_ready = !pauses(*u, stalls[2]);
        m.summary_ready = !pauses(*u, stalls[3]);
        m.eval();
        idle++;
        if (offering && m.elements_ready) { sent++; offering = false; idle = 0; }
        if (m.pending_valid && m.pending_ready) { pending[got++] = m.pending_payload; idle = 0; }
        if (m.packet_valid && m.packet_ready) { packet[(*packed)++] = m.packet_payload; idle = 0; }
        if (m.summary_valid && m.summary_ready) { memcpy(summary, &m.summary_payload, 12); ended = true; }
        if (!begun && m.settings_ready) begun = true;
        tick(m);
        cycles++;
        if (idle > 10000) return -1;
    }
    for (int i = 0; i < 16; i++) {  // what of the packet is still on its way
        m.settings_valid = m.elements_valid = m.pending_ready = m.summary_ready = 0;
        m.packet_ready = 1;
        m.eval();
        if (m.packet_valid) packet[(*packed)++] = m.packet_payload;
        tick(m);
    }
    return cycles;
}
"""


#: Adds a packet to `count` sums; returns the cycles, or -1 when the unit hangs.
AVERAGE_HARNESS = (
    HARNESS[: HARNESS.index("// A layer")]
    + r"""
extern "C" int64_t unit_run(Unit* u, const uint32_t* settings, int64_t count, const uint32_t* before,
                            uint32_t* sums, int64_t packed, const uint16_t* packet, int64_t* used,
                            const int* stalls) {
    Vmodel& m = u->model;
    int64_t sent = 0, got = 0, cycles = 0, idle = 0;
    bool begun = false, offering = false, packing = false;
    *used = 0;
    memcpy(&m.settings_payload, settings, sizeof m.settings_payload);
    while (got < count) {
        m.settings_valid = !begun;
        if (!offering) offering = sent < count && !pauses(*u, stalls[0]);
        if (!packing) packing = *used < packed && !pauses(*u, stalls[1]);
        m.before_valid = offering;
        m.packet_valid = packing;
        if (offering) m.before_payload = before[sent];
        if (packing) m.packet_payload = packet[*used];
        m.sums_ready = !pauses(*u, stalls[2]);
        m.eval();
        idle++;
        if (offering && m.before_ready) { sent++; offering = false; idle = 0; }
        if (packing && m.packet_ready) { (*used)++; packing = false; idle = 0; }
        if (m.sums_valid && m.sums_ready) { sums[got++] = m.sums_payload; idle = 0; }
        if (!begun && m.settings_ready) begun = true;
        tick(m);
        cycles++;
        if (idle > 10000) return -1;
    }
    return cycles;
}
"""
)


class Averager:
    """An `AdaCompAverage`, compiled."""

    def __init__(self, unit: AdaCompAverage, folder: Path) -> None:
        harness = folder / "adacomp_average.cpp"
        harness.write_text(AVERAGE_HARNESS)
        self.unit = unit
        self._library = compile_library(to_verilog(unit, "adacomp_average"), "adacomp_average", harness)
        self._library.unit_new.restype = ctypes.c_void_p
        self._library.unit_run.restype = ctypes.c_int64
        self._handle = ctypes.c_void_p(self._library.unit_new())

    def run(
        self,
        packet: Packet,
        share: np.float32,
        before: NDArray[Any],
        stalls: tuple[int, int, int] = (0, 0, 0),
    ) -> NDArray[Any]:
        """The sums with a packet; all of its elements must have been taken."""
        fields = {"length": packet.length, "bin_length": packet.bin_length}
        layout = self.unit.settings.payload.shape()
        bits = layout.const(fields | {"share": int(share.view(np.uint32))}).as_value().value
        settings = np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(3)], np.uint32)
        elements, used = packet.elements.astype(np.uint16), ctypes.c_int64()
        sums = np.zeros(packet.length, np.float32)
        arrays = [x.ctypes.data_as(ctypes.c_void_p) for x in (settings, before, sums, elements)]
        self.cycles = self._library.unit_run(
            self._handle, arrays[0], ctypes.c_int64(packet.length), *arrays[1:3],
            ctypes.c_int64(len(elements)), arrays[3], ctypes.byref(used), (ctypes.c_int * 3)(*stalls),
        )  # fmt: skip
        assert self.cycles >= 0, "the unit hangs"
        assert used.value == len(elements)
        return sums


class Compressor:
    """An `AdaCompUnit`, compiled."""

    def __init__(self, unit: AdaCompUnit, folder: Path, verilog: str | None = None) -> None:
        harness = folder / "adacomp.cpp"
        harness.write_text(HARNESS)
        self.unit = unit
        self._library = compile_library(verilog or to_verilog(unit, "adacomp"), "adacomp", harness)
        self._library.unit_new.restype = ctypes.c_void_p
        self._library.unit_run.restype = ctypes.c_int64
        self._handle = ctypes.c_void_p(self._library.unit_new())

    def run(
        self, bin_length: int, kept: NDArray[Any], sent: NDArray[Any], scale: int, gradient: NDArray[Any],
        stalls: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], tuple[int, int, int]]:  # fmt: skip
        """G, what was sent, the packet's elements, and scale, elements and values of the summary."""
        count = len(gradient)
        words = self.unit.settings.payload.shape()
        bits = words.const({"length": count, "bin_length": bin_length, "scale": scale}).as_value().value
        settings = np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(3)], np.uint32)
        d = gradient.view(np.uint32).astype(np.uint64)
        high = sent.astype(np.uint64) | d << np.uint64(1)  # above the 32 bits of G
        elements = np.stack([kept.view(np.uint32), high & np.uint64(0xFFFFFFFF), high >> np.uint64(32)], 1)
        elements = np.ascontiguousarray(elements, np.uint32)
        pending, packet = np.zeros(count, np.uint64), np.zeros(count + 32, np.uint16)
        summary, packed = np.zeros(3, np.uint32), ctypes.c_int64()
        arrays = [x.ctypes.data_as(ctypes.c_void_p) for x in (settings, elements, pending, packet, summary)]
        self.cycles = self._library.unit_run(
            self._handle, arrays[0], ctypes.c_int64(count), *arrays[1:], ctypes.byref(packed),
            (ctypes.c_int * 4)(*stalls),
        )  # fmt: skip
        assert self.cycles >= 0, "the unit hangs"
        g = (pending & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        numbers = summary.tolist()
        return g, pending >> np.uint64(32) != 0, packet[: packed.value], (numbers[0], numbers[1], numbers[2])
