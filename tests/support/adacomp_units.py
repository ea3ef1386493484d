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

#: What both harnesses begin with. Where a mutant is to be selected, MUTANT does so.
_HARNESS = r"""
#include <cstdint>
#include <cstring>
#include "Vmodel.h"

struct Unit { VerilatedContext context; Vmodel model{&context}; uint32_t random = 2463534242u; };

static void tick(Vmodel& m) { m.clk = 1; m.eval(); m.clk = 0; m.eval(); }

static uint32_t any(Unit& u) {
    u.random ^= u.random << 13; u.random ^= u.random >> 17; u.random ^= u.random << 5;
    return u.random;
}

static bool pauses(Unit& u, int of_256) { return int(any(u) >> 24) < of_256; }

// What a payload is while nothing is offered.
template <class T> static void anything(Unit& u, T& payload, int bits) {
    uint32_t words[4] = {any(u), any(u), any(u), any(u)};
    if (bits % 32) words[bits / 32] &= (1u << bits % 32) - 1;
    memcpy(&payload, words, sizeof payload);
}

// Whether what was offered and not taken is offered still.
struct Offer {
    bool stands = false;
    char payload[16] = {};
    template <class T> bool withdrawn(bool valid, bool ready, const T& now) {
        const bool is = stands && !(valid && !memcmp(payload, &now, sizeof now));
        stands = valid && !ready;
        memcpy(payload, &now, sizeof now);
        return is;
    }
};

extern "C" void unit_reset(Unit* u) { u->model.rst = 1; tick(u->model); u->model.rst = 0; }

extern "C" Unit* unit_new(uint32_t mutant) {
    Unit* u = new Unit;
    MUTANT
    unit_reset(u);
    return u;
}

extern "C" void unit_delete(Unit* u) { delete u; }
"""
#: Runs a layer through the compressor. Each stream stalls with its own probability, of 256.
HARNESS = (
    _HARNESS
    + r"""
// A layer of `count` elements of three words; returns the cycles, or -1 when the unit hangs, -2 when it
// withdraws an offer, -3 when it takes settings twice. `summary` gets three words, `packed` the number of
// packet elements. After `limit` cycles it is over, whatever has come.
extern "C" int64_t unit_run(Unit* u, const uint32_t* settings, int64_t count, const uint32_t* elements,
                            uint64_t* pending, uint16_t* packet, uint32_t* summary, int64_t* packed,
                            const int* stalls, int64_t limit) {
    Vmodel& m = u->model;
    int64_t sent = 0, got = 0, cycles = 0, idle = 0;
    bool asking = false, begun = false, ended = false, offering = false;
    Offer offers[3];
    *packed = 0;
    while ((!ended || got < count) && cycles < limit) {
        asking |= !pauses(*u, 90);
        m.settings_valid = asking;
        if (asking && !begun) memcpy(&m.settings_payload, settings, sizeof m.settings_payload);
        else anything(*u, m.settings_payload, 78);
        if (!offering) offering = sent < count && !pauses(*u, stalls[0]);
        m.elements_valid = offering;
        if (offering) memcpy(&m.elements_payload, elements + 3 * sent, sizeof m.elements_payload);
        else anything(*u, m.elements_payload, 65);
        m.pending_ready = !pauses(*u, stalls[1]);
        m.packet_ready = !pauses(*u, stalls[2]);
        m.summary_ready = !pauses(*u, stalls[3]);
        m.eval();
        idle++;
        if (offers[0].withdrawn(m.pending_valid, m.pending_ready, m.pending_payload) ||
            offers[1].withdrawn(m.packet_valid, m.packet_ready, m.packet_payload) ||
            offers[2].withdrawn(m.summary_valid, m.summary_ready, m.summary_payload)) return -2;
        if (offering && m.elements_ready) { sent++; offering = false; idle = 0; }
        if (m.pending_valid && m.pending_ready) {
            if (got == count) return -1;
            pending[got++] = m.pending_payload; idle = 0;
        }
        if (m.packet_valid && m.packet_ready) {
            if (*packed == count + 32) return -1;
            packet[(*packed)++] = m.packet_payload; idle = 0;
        }
        if (m.summary_valid && m.summary_ready) { memcpy(summary, &m.summary_payload, 12); ended = true; }
        if (begun && m.settings_ready) return -3;
        begun |= asking && m.settings_ready;
        tick(m);
        cycles++;
        if (idle > 10000) return -1;
    }
    m.settings_valid = m.elements_valid = m.pending_ready = m.summary_ready = 0;
    for (int i = 0; i < 16; i++) {  // what of the packet is still on its way
        m.packet_ready = ended;
        m.eval();
        if (m.packet_valid && ended) {
            if (*packed == count + 32) return -1;
            packet[(*packed)++] = m.packet_payload;
        }
        tick(m);
    }
    return cycles;
}
"""
)


#: Adds a packet to `count` sums; returns as the compressor's does, and -4 where a sum `waits` or does not
#: against what is said of it; behind the last one none does.
AVERAGE_HARNESS = (
    _HARNESS
    + r"""
extern "C" int64_t unit_run(Unit* u, const uint32_t* settings, int64_t count, const uint32_t* before,
                            const uint8_t* waits, uint32_t* sums, int64_t packed, const uint16_t* packet,
                            int64_t* used,
                            const int* stalls, int64_t limit) {
    Vmodel& m = u->model;
    int64_t sent = 0, got = 0, cycles = 0, idle = 0;
    bool asking = false, begun = false, offering = false, packing = false;
    Offer offer;
    *used = 0;
    while (got < count && cycles < limit) {
        asking |= !pauses(*u, 90);
        m.settings_valid = asking;
        if (asking && !begun) memcpy(&m.settings_payload, settings, sizeof m.settings_payload);
        else anything(*u, m.settings_payload, 78);
        if (!offering) offering = sent < count && !pauses(*u, stalls[0]);
        if (!packing) packing = *used < packed && !pauses(*u, stalls[1]);
        m.before_valid = offering;
        m.packet_valid = packing;
        m.before_payload = offering ? before[sent] : any(*u);
        m.packet_payload = packing ? packet[*used] : any(*u);
        m.sums_ready = !pauses(*u, stalls[2]);
        m.eval();
        idle++;
        if (m.waits != (begun && waits[sent])) return -4;
        if (offer.withdrawn(m.sums_valid, m.sums_ready, m.sums_payload)) return -2;
        if (offering && m.before_ready) { sent++; offering = false; idle = 0; }
        if (packing && m.packet_ready) { (*used)++; packing = false; idle = 0; }
        if (m.sums_valid && m.sums_ready) { sums[got++] = m.sums_payload; idle = 0; }
        if (begun && m.settings_ready) return -3;
        begun |= asking && m.settings_ready;
        tick(m);
        cycles++;
        if (idle > 10000) return -1;
    }
    m.settings_valid = m.before_valid = m.packet_valid = m.sums_ready = 0;
    return cycles;
}
"""
)
#: What a run returns beside cycles.
_FAULTS = {
    -1: "the unit hangs",
    -2: "what was offered is withdrawn",
    -3: "settings are taken twice",
    -4: "a sum waits for the packet, or does not",
}
_FOREVER = 1 << 62


class _Compiled:
    """A unit behind a harness, or one with mutants (`mutants.Mutants`)."""

    def __init__(self, verilog: str, name: str, harness: str, folder: Path, mutants: str | None) -> None:
        path = folder / f"{name}.cpp"
        path.write_text(harness.replace("MUTANT", "u->model.mutant = mutant;" if mutants else ""))
        self._library = compile_library(mutants or verilog, name, path)
        self._library.unit_new.restype = ctypes.c_void_p
        self._library.unit_run.restype = ctypes.c_int64
        self._handle: ctypes.c_void_p | None = None
        self.begin()

    def begin(self, mutant: int = 0) -> None:
        """From now on another unit, just reset."""
        if self._handle:
            self._library.unit_delete(self._handle)
        self._handle = ctypes.c_void_p(self._library.unit_new(ctypes.c_uint32(mutant)))

    def _run(self, *arguments: Any) -> None:
        self.cycles = self._library.unit_run(self._handle, *arguments)
        assert self.cycles >= 0, _FAULTS[self.cycles]

    def reset(self) -> None:
        """As the signal."""
        self._library.unit_reset(self._handle)


def _waits(packet: Packet) -> NDArray[np.uint8]:
    """Whether each sum waits for the next packet element: in a bin of which elements are sent up to the last
    of them, else at the beginning of a run of empty bins."""
    waits, length = np.zeros(packet.length + 1, np.uint8), packet.bin_length
    last = {i // length: i for i in packet.places()[0].tolist()}
    empty = 0
    for bin_, start in enumerate(range(0, packet.length, length)):
        waits[start : last.get(bin_, start) + 1] = bin_ in last or empty % 4 == 0
        empty = 0 if bin_ in last else empty + 1
    return waits


class Averager(_Compiled):
    """An `AdaCompAverage`, compiled."""

    def __init__(self, unit: AdaCompAverage, folder: Path, mutants: str | None = None) -> None:
        self.unit = unit
        verilog = to_verilog(unit, "adacomp_average")
        super().__init__(verilog, "adacomp_average", AVERAGE_HARNESS, folder, mutants)

    def run(
        self,
        packet: Packet,
        share: np.float32,
        before: NDArray[Any],
        stalls: tuple[int, int, int] = (0, 0, 0),
        limit: int | None = None,
    ) -> NDArray[Any]:
        """The sums with a packet; all of its elements must be taken, if there is no limit of cycles."""
        fields = {"length": packet.length, "bin_length": packet.bin_length}
        layout = self.unit.settings.payload.shape()
        bits = layout.const(fields | {"share": int(share.view(np.uint32))}).as_value().value
        settings = np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(3)], np.uint32)
        elements, used = packet.elements.astype(np.uint16), ctypes.c_int64()
        sums = np.zeros(packet.length, np.float32)
        of_run = settings, before, _waits(packet), sums, elements
        arrays = [x.ctypes.data_as(ctypes.c_void_p) for x in of_run]
        self._run(
            arrays[0], ctypes.c_int64(packet.length), *arrays[1:4], ctypes.c_int64(len(elements)), arrays[4],
            ctypes.byref(used), (ctypes.c_int * 3)(*stalls), ctypes.c_int64(limit or _FOREVER),
        )  # fmt: skip
        assert limit or used.value == len(elements), "elements of the packet are left"
        return sums


class Compressor(_Compiled):
    """An `AdaCompUnit`, compiled."""

    def __init__(self, unit: AdaCompUnit, folder: Path, mutants: str | None = None) -> None:
        self.unit = unit
        super().__init__(to_verilog(unit, "adacomp"), "adacomp", HARNESS, folder, mutants)

    def run(
        self, bin_length: int, kept: NDArray[Any], sent: NDArray[Any], scale: int, gradient: NDArray[Any],
        stalls: tuple[int, int, int, int] = (0, 0, 0, 0), limit: int | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], tuple[int, int, int]]:  # fmt: skip
        """G, what was sent, the packet's elements, and scale, elements and values of the summary; as far as
        they have come, if there is a limit of cycles."""
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
        self._run(
            arrays[0], ctypes.c_int64(count), *arrays[1:], ctypes.byref(packed), (ctypes.c_int * 4)(*stalls),
            ctypes.c_int64(limit or _FOREVER),
        )  # fmt: skip
        g = (pending & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        numbers = summary.tolist()
        return g, pending >> np.uint64(32) != 0, packet[: packed.value], (numbers[0], numbers[1], numbers[2])
