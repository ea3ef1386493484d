"""The compressor, an element a cycle: the twin of `quaver.golden.compression.adacomp`."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from quaver.golden.compression.packet import LONGEST, LONGEST_SHORT
from quaver.golden.descriptor import Descriptor
from quaver.golden.formats import FP32
from quaver.golden.validation import as_integer
from quaver.rtl.compression.mean_of_maxima import MeanOfMaxima
from quaver.rtl.float.adder import CUTS, FloatAdder
from quaver.rtl.update.unit import delayed

_INFINITY = FP32.infinity_code or 0

#: What begins a layer: how many elements it has, how long its bins are, and the scale of the step before.
Settings = data.StructLayout({"length": 32, "bin_length": 14, "scale": 32})
#: A residue whose scale is not known yet: G, and whether it was sent.
Pending = data.StructLayout({"g": 32, "sent": 1})
#: A residue as it was kept, and the gradient that it meets.
Element = data.StructLayout({"kept": Pending, "gradient": 32})
#: What ends a layer: the packet's scale (NaN if something was not finite), how many elements the packet has,
#: and how many of them are values.
Summary = data.StructLayout({"scale": 32, "elements": 32, "sent": 32})


def correction(kept: Value, scale: Value) -> Value:
    """What makes a residue of `Pending`: −sign(G)·scale where it was sent, else −0, which changes nothing."""
    sign = Mux(kept.sent, ~kept.g[31], 1)
    return Cat(Mux(kept.sent, scale[:31], 0), sign)


class AdaCompUnit(wiring.Component):
    """Compresses layers of any length, an element a cycle.

    The scale is known when all of a layer has been seen, and a layer need not fit in here. So what leaves is
    G and whether it was sent; with the scale, that is the residue, and the unit makes it of the two on its
    way in in the next step: ``R = G − sign(G)·scale`` where it was sent, as golden rounds it. A residue that
    is one already comes with `sent` = 0.

    A bin is decided when its maximum is known: two bins lie in a memory, of which one comes and one leaves.

    Parameters
    ----------
    longest
        The longest bin that the memory holds, 1 … 16,383.
    count_bits
        A layer has at most 2**count_bits − 1 bins.
    stages
        Registers of each of the three adders, 1 … 9.

    ========= === =========================================================================================
    settings  in  stream of `Settings`: begins a layer; taken when the one before has ended
    elements  in  stream of `Element`: the residue as it was kept, the gradient
    pending   out stream of `Pending`: the new residue, an element for each that came, in their order
    packet    out stream of 16 bits: the packet's elements; in bins of up to 63 the upper 8 are 0
    summary   out stream of `Summary`: ends a layer
    ========= === =========================================================================================

    The first element leaves when its bin has come, 3 · `stages` + 3 cycles later; then one leaves in every
    cycle, if bins have two elements or more (a maximum takes two cycles) and all outputs find takers. The
    summary comes about 600 cycles after the last element, and then the next layer begins. A bin length of 0
    or above `longest`, and a layer without elements, are not for this unit.

    If a sum is not finite, the scale is NaN: golden's packet has no elements then, and the residue is the one
    from before the step, which whoever keeps residues must still have.

    Raises
    ------
    ValueError
        A bin, a number of bins or a number of stages that there is not.
    """

    def __init__(self, longest: int = 512, *, count_bits: int = 24, stages: int = 4) -> None:
        if not 1 <= as_integer(longest, "longest") <= LONGEST:
            raise ValueError(f"longest is {longest}, but bins have 1 to {LONGEST:,} elements")
        if not 1 <= as_integer(stages, "stages") <= max(CUTS) + 1:
            raise ValueError(f"stages is {stages}, but an adder has 1 to {max(CUTS) + 1}")
        if not 1 <= as_integer(count_bits, "count_bits") <= 32:
            raise ValueError(f"count_bits is {count_bits}, but a run's length has 1 to 32 bits")
        self.longest, self.count_bits, self.stages = longest, count_bits, stages
        #: What an accelerator says that has it: no more than that matters to who sends.
        self.descriptor = Descriptor("adacomp", {"longest": str(longest), "count_bits": str(count_bits)})
        super().__init__(
            {
                "settings": In(stream.Signature(Settings)),
                "elements": In(stream.Signature(Element)),
                "pending": Out(stream.Signature(Pending)),
                "packet": Out(stream.Signature(16)),
                "summary": Out(stream.Signature(Summary)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = 1 << (2 * self.longest - 1).bit_length()
        m.submodules.buffer = buffer = Memory(
            shape=data.StructLayout({"g": 32, "h": 31}), depth=depth, init=[]
        )
        m.submodules.scale = scale = MeanOfMaxima(self.count_bits)
        m.submodules.maxima = maxima = SyncFIFO(width=32, depth=4)  # of bins that wait in the buffer
        m.submodules.to_scale = to_scale = SyncFIFO(width=32, depth=4)
        m.submodules.outbound = outbound = SyncFIFO(width=16, depth=4)

        last_place = Signal(range(self.longest), reset_less=True)  # in a bin
        old_scale = Signal(31, reset_less=True)
        # Of a layer, whose settings have 32 bits for it.
        length = range(min(1 << 32, self.longest << self.count_bits))
        to_come = Signal(length)  # elements of the layer that have not come
        not_finite = Signal()
        begins = Signal()
        m.d.comb += begins.eq(self.settings.valid & self.settings.ready)
        with m.If(begins):
            m.d.sync += last_place.eq(self.settings.payload.bin_length - 1)
            m.d.sync += old_scale.eq(self.settings.payload.scale)

        g, h, arrived, takes = self._sums(m, old_scale, to_come)
        with m.If(self.elements.valid & self.elements.ready):
            m.d.sync += to_come.eq(to_come - 1)
        with m.If(begins):
            m.d.sync += to_come.eq(self.settings.payload.length)

        # Into the buffer, with the maximum of the bin so far.
        position = Signal(range(self.longest))
        to_write = Signal(length)
        largest = Signal(31)
        so_far = Signal(31)
        write = buffer.write_port()
        read = buffer.read_port()
        occupied = Signal(range(depth + 1))
        ends_bin = Signal()
        written = Signal()
        m.d.comb += [
            largest.eq(Mux(g[:31] > so_far, g[:31], so_far)),
            ends_bin.eq((position == last_place) | (to_write == 1)),
            takes.eq((occupied != depth) & maxima.w_rdy & to_scale.w_rdy),
            written.eq(arrived & takes),
            write.en.eq(written),
            write.data.g.eq(g),
            write.data.h.eq(h[:31]),
            maxima.w_data.eq(largest),
            maxima.w_en.eq(written & ends_bin),
            to_scale.w_data.eq(Cat(largest, to_write == 1)),
            to_scale.w_en.eq(written & ends_bin),
            scale.maxima.payload.eq(to_scale.r_data),
            scale.maxima.valid.eq(to_scale.r_rdy),
            to_scale.r_en.eq(scale.maxima.ready),
        ]
        with m.If(written):
            m.d.sync += [
                write.addr.eq(write.addr + 1),
                to_write.eq(to_write - 1),
                position.eq(Mux(ends_bin, 0, position + 1)),
                so_far.eq(Mux(ends_bin, 0, largest)),
            ]
            m.d.sync += not_finite.eq(not_finite | (h[:31] >= _INFINITY))  # as H is where G is not
        with m.If(begins):
            m.d.sync += [to_write.eq(self.settings.payload.length), not_finite.eq(0)]

        # Out of the buffer: what lies in bins that are whole.
        whole = Signal(range(depth))  # one more has been fetched
        fetched = Signal()
        moves = Signal()
        fetches = Signal()
        leaves = Signal()
        m.d.comb += [
            moves.eq(~fetched | leaves),
            fetches.eq(moves & (whole != 0)),
            read.en.eq(moves),
        ]
        with m.If(moves):
            m.d.sync += fetched.eq(whole != 0)
        with m.If(fetches):
            m.d.sync += read.addr.eq(read.addr + 1)
        m.d.sync += [
            whole.eq(whole + Mux(written & ends_bin, position + 1, 0) - fetches),
            occupied.eq(occupied + written - leaves),
        ]

        reached = Signal()
        bound = maxima.r_data[:31]
        index = Signal(range(self.longest))
        to_leave = Signal(length)
        last = Signal()
        m.d.comb += [
            reached.eq((read.data.h >= bound) & read.data.g[:31].any()),
            last.eq((index == last_place) | (to_leave == 1)),
            self.pending.payload.g.eq(read.data.g),
            self.pending.payload.sent.eq(reached),
            self.pending.valid.eq(fetched & outbound.w_rdy),
            leaves.eq(self.pending.valid & self.pending.ready),
            maxima.r_en.eq(leaves & last),
            self.packet.payload.eq(outbound.r_data),
            self.packet.valid.eq(outbound.r_rdy),
            outbound.r_en.eq(self.packet.ready),
        ]
        with m.If(leaves):
            m.d.sync += [to_leave.eq(to_leave - 1), index.eq(Mux(last, 0, index + 1))]
        with m.If(begins):
            m.d.sync += to_leave.eq(self.settings.payload.length)

        # Packet elements: each is held back until it is known whether it is the last of its bin.
        short = last_place < LONGEST_SHORT

        def element(place: Value, upper: Value) -> Value:
            return Mux(short, Cat(place[:6], upper), Cat(place, upper))

        held = Signal(data.StructLayout({"index": len(index), "sign": 1}), reset_less=True)
        held_valid = Signal(reset_less=True)
        held_last = Signal(reset_less=True)
        some = Signal()  # whether the bin has sent something
        empty = Signal(2, reset_less=True)  # bins since the held element's, of which nothing is sent
        count = Signal(length, reset_less=True)
        sent = Signal(length, reset_less=True)
        push = Signal()
        at = Signal(14)
        run = Signal(16)
        m.d.comb += [
            at.eq(held.index),
            # In an empty bin that makes four, this one counts.
            run.eq(element(Const(LONGEST, 14), Mux(leaves & ~reached, 3, (empty - 1)[:2]))),
            outbound.w_data.eq(Mux(held_valid, element(at, Cat(held.sign, held_last)), run)),
            outbound.w_en.eq(push),
        ]
        m.d.sync += count.eq(count + push)
        with m.If(leaves):
            m.d.sync += some.eq((some | reached) & ~last)
            with m.If(reached):
                m.d.comb += push.eq(held_valid | (empty != 0))
                m.d.sync += [
                    held.index.eq(index),
                    held.sign.eq(read.data.g[31]),
                    held_valid.eq(1),
                    held_last.eq(last),
                    empty.eq(0),
                    sent.eq(sent + 1),
                ]
            with m.Elif(last & some):
                m.d.sync += held_last.eq(1)
            with m.Elif(last):  # an empty bin
                m.d.comb += push.eq(held_valid | (empty == 3))
                m.d.sync += [held_valid.eq(0), empty.eq(empty + 1)]

        summary = self.summary.payload
        m.d.comb += [
            summary.scale.eq(Mux(not_finite, FP32.nan_code, scale.mean.payload)),
            summary.elements.eq(count),
            summary.sent.eq(sent),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.settings.ready.eq(1)
                m.d.sync += [count.eq(0), sent.eq(0), held_valid.eq(0), empty.eq(0)]
                with m.If(self.settings.valid):
                    m.next = "LAYER"
            with m.State("LAYER"), m.If(leaves & (to_leave == 1)):
                m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.comb += push.eq(outbound.w_rdy & (held_valid | (empty != 0)))
                with m.If(outbound.w_rdy):
                    m.next = "END"
            with m.State("END"):
                m.d.comb += [
                    self.summary.valid.eq(scale.mean.valid),
                    scale.mean.ready.eq(self.summary.ready),
                ]
                with m.If(self.summary.valid & self.summary.ready):
                    m.next = "IDLE"
        return m

    def _sums(self, m: Module, scale: Value, to_come: Value) -> tuple[Value, Value, Value, Signal]:
        """G and H of the element at the foot of the pipeline, whether there is one, and a signal that is to
        say whether it is taken."""
        stages = self.stages
        occupied = Signal(3 * stages)
        moves = Signal()
        takes = Signal()
        m.d.comb += [
            moves.eq(~occupied[-1] | takes),
            self.elements.ready.eq(moves & (to_come != 0)),
        ]
        with m.If(moves):
            m.d.sync += occupied.eq(Cat(self.elements.valid & self.elements.ready, occupied[:-1]))
        m.submodules.pipeline = EnableInserter(moves)(pipeline := Module())
        adders = [FloatAdder(FP32, stages=stages) for _ in range(3)]
        for name, adder in zip(("residue", "g", "h"), adders, strict=True):
            pipeline.submodules[name] = adder
        residue, first, second = adders
        element = self.elements.payload
        gradient = delayed(pipeline, stages, element.gradient)
        pipeline.d.comb += [
            residue.a.eq(element.kept.g),
            residue.b.eq(correction(element.kept, scale)),
            first.a.eq(residue.sum),
            first.b.eq(gradient),
            second.a.eq(first.sum),
            second.b.eq(delayed(pipeline, stages, gradient)),
        ]
        return delayed(pipeline, stages, first.sum), second.sum, occupied[-1], takes
