"""One learner's part of the average, an element a cycle: of `quaver.golden.compression.mean` one packet."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, EnableInserter, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.compression.packet import LONGEST, LONGEST_SHORT
from quaver.golden.formats import FP32
from quaver.golden.validation import as_integer
from quaver.rtl.float.adder import CUTS, FloatAdder

#: What begins a layer: its length, that of its bins, and the share of a value, round(scale / learners); a
#: negative one takes values off.
Settings = data.StructLayout({"length": 32, "bin_length": 14, "share": 32})


class AdaCompAverage(wiring.Component):
    """Adds ± share where a packet has an element, and nothing elsewhere: ``a = round(a ± share)``.

    N of these in a row average N packets in one pass, in the order of the learners: the sums of one are
    the `before` of the next, and those of the first are zeros. One alone does the same in N passes.

    The packet must be whole: check its header, checksum and content before
    (`quaver.golden.compression.unpack`).

    Parameters
    ----------
    stages
        Registers of the adder, 1 … 9.
    count_bits
        A layer has at most 2**count_bits − 1 elements; up to 32.

    ========= === ===================================================================================
    settings  in  stream of `Settings`: begins a layer; taken when all sums of the one before have left
    packet    in  stream of 16 bits: the packet's elements
    before    in  stream of 32 bits: the sums so far, float32
    waits     out the next sum waits until it is known what the packet's next element is
    sums      out stream of 32 bits: the sums with this packet
    ========= === ===================================================================================

    Latency `stages` cycles, initiation interval 1.

    Raises
    ------
    ValueError
        There is no such number of stages, or not 1 … 32 bits of count.
    """

    def __init__(self, stages: int = 4, *, count_bits: int = 32) -> None:
        if not 1 <= as_integer(stages, "stages") <= max(CUTS) + 1:
            raise ValueError(f"stages is {stages}, but an adder has 1 to {max(CUTS) + 1}")
        if not 1 <= as_integer(count_bits, "count_bits") <= 32:
            raise ValueError(f"count_bits is {count_bits}, but a layer's length has 1 to 32 bits")
        self.stages, self.count_bits = stages, count_bits
        super().__init__(
            {
                "settings": In(stream.Signature(Settings)),
                "packet": In(stream.Signature(16)),
                "before": In(stream.Signature(32)),
                "waits": Out(1),
                "sums": Out(stream.Signature(32)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bin_length = Signal(14, reset_less=True)
        share = Signal(32, reset_less=True)
        to_come = Signal(self.count_bits)
        index = Signal(14, reset_less=True)
        done = Signal(reset_less=True)  # the bin's last element has come
        empty = Signal(3, reset_less=True)  # bins of a run, with this one
        occupied = Signal(self.stages)
        moves = Signal()
        enters = Signal()
        m.d.comb += self.settings.ready.eq((to_come == 0) & ~occupied.any())
        with m.If(self.settings.valid & self.settings.ready):
            settings = self.settings.payload
            m.d.sync += [bin_length.eq(settings.bin_length), share.eq(settings.share)]
            m.d.sync += [to_come.eq(settings.length), index.eq(0), done.eq(0), empty.eq(0)]

        word = self.packet.payload
        short = bin_length <= LONGEST_SHORT
        place = Mux(short, word[:6], word[:14])
        upper = Mux(short, word[6:8], word[14:16])
        is_run = place == Mux(short, LONGEST_SHORT, LONGEST)
        waits = ~done & (empty == 0)
        hit = Signal()
        run = Signal()
        last = (index == bin_length - 1) | (to_come == 1)
        m.d.comb += [
            self.waits.eq(waits & (to_come != 0)),
            hit.eq(waits & ~is_run & (place == index)),
            run.eq(waits & is_run),
            moves.eq(self.sums.ready | ~self.sums.valid),
            enters.eq(self.before.valid & moves & (to_come != 0) & (~waits | self.packet.valid)),
            self.before.ready.eq(moves & (to_come != 0) & (~waits | self.packet.valid)),
            self.packet.ready.eq(enters & (hit | run)),
            self.sums.valid.eq(occupied[-1]),
        ]
        left = Mux(run, upper + 1, empty)
        with m.If(enters):
            m.d.sync += [
                to_come.eq(to_come - 1),
                index.eq(Mux(last, 0, index + 1)),
                done.eq((done | (hit & upper[1])) & ~last),
                empty.eq(Mux(last & (left != 0), left - 1, left)),
            ]
        with m.If(moves):
            m.d.sync += occupied.eq(Cat(enters, occupied[:-1]))
        m.submodules.pipeline = EnableInserter(moves)(pipeline := Module())
        pipeline.submodules.add = add = FloatAdder(FP32, stages=self.stages)
        # −0 changes nothing.
        signed_share = Cat(share[:31], upper[0] ^ share[31])
        m.d.comb += [
            add.a.eq(self.before.payload),
            add.b.eq(Mux(hit, signed_share, Cat(Const(0, 31), Const(1, 1)))),
            self.sums.payload.eq(add.sum),
        ]
        return m
