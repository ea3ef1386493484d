"""The place of gradient compression in the command stream: words in, parts of responses out."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from quaver.rtl.commands import Opcode, ResponseHeader, Status
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.compression.adacomp_average import AdaCompAverage

#: What a command says; of a layer that it begins the lengths too and, of AVERAGE, the share.
CompressionJob = data.StructLayout({"average": 1, "first": 1, "bin_length": 14, "length": 32, "share": 32})
#: A word of a stream that has an end.
LastWord = data.StructLayout({"word": 32, "last": 1})

#: A part has at least so many words, but for the last one of its kind in a response.
PART = 32
#: Cycles without a packet element after which none is on its way: one moves through a FIFO in less.
_QUIET = 7


class CompressionStream(wiring.Component):
    """Feeds compressor and average from the words of COMPRESS and AVERAGE, and tells what they make in parts.

    Whole responses come, headers and all, as `quaver.rtl.commands` says. What has come of a layer that has
    not ended stays in the units until the next command.

    Parameters
    ----------
    unit
        The compressor; the average has adders of as many stages.

    ========= === =========================================================================================
    job       in  what the command says, from `begin` until the end of the response
    begin     in  for a cycle before a command's words: it begins
    words     in  stream of `LastWord`: its words behind those in `job`, at least one
    to_come   out elements of the layer that have not come; 0 where none is open
    parts     out stream of `LastWord`: the response; the last word is the command's end
    ========= === =========================================================================================

    An element of COMPRESS takes two cycles, one of AVERAGE one and half of one for each of the packet.
    """

    def __init__(self, unit: AdaCompUnit) -> None:
        self.unit = unit
        super().__init__(
            {
                "job": In(CompressionJob),
                "begin": In(1),
                "words": In(stream.Signature(LastWord)),
                "to_come": Out(32),
                "parts": Out(stream.Signature(LastWord)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        unit, average = self.unit, AdaCompAverage(self.unit.stages, count_bits=self.unit.count_bits)
        job, averages = self.job, self.job.average
        first = self.begin & job.first
        m.submodules.unit = ResetInserter(first)(unit)
        m.submodules.average = ResetInserter(first)(average)
        m.submodules.dense = dense = SyncFIFOBuffered(width=32, depth=2 * PART)
        m.submodules.sparse = sparse = SyncFIFOBuffered(width=32, depth=2 * PART)

        # Settings wait for the unit, and elements for the settings.
        begins = Signal()
        with m.If(begins & Mux(averages, average.settings.ready, unit.settings.ready)):
            m.d.sync += begins.eq(0)
        m.d.comb += [
            unit.settings.valid.eq(begins & ~averages),
            unit.settings.payload.length.eq(job.length),
            unit.settings.payload.bin_length.eq(job.bin_length),
            average.settings.valid.eq(begins & averages),
            average.settings.payload.length.eq(job.length),
            average.settings.payload.bin_length.eq(job.bin_length),
            average.settings.payload.share.eq(job.share),
        ]

        # Words in.
        word = self.words.payload.word
        residue = Signal(32)
        has_residue = Signal()
        pair = Signal(32)  # packet elements of a word, and how many are left of them
        pair_left = Signal(2)
        taken = Signal()
        taken_last = Signal()
        enters = Signal()
        m.d.comb += [
            unit.elements.payload.kept.g.eq(residue),
            unit.elements.payload.gradient.eq(word),
            average.packet.payload.eq(pair[:16]),
            average.packet.valid.eq(pair_left != 0),
            average.before.payload.eq(word),
            taken.eq(self.words.valid & self.words.ready),
        ]
        with m.If(averages):
            wants = average.waits & (pair_left == 0)
            m.d.comb += [
                average.before.valid.eq(self.words.valid & ~begins & ~wants),
                self.words.ready.eq(~begins & (wants | average.before.ready | (self.to_come == 0))),
                enters.eq(average.before.valid & average.before.ready),
            ]
            with m.If(taken & wants):
                m.d.sync += [pair.eq(word), pair_left.eq(2)]
            with m.If(average.packet.valid & average.packet.ready):
                m.d.sync += [pair.eq(pair >> 16), pair_left.eq(pair_left - 1)]
        with m.Else():
            m.d.comb += [
                unit.elements.valid.eq(self.words.valid & ~begins & has_residue),
                self.words.ready.eq(~begins & (~has_residue | unit.elements.ready)),
                enters.eq(unit.elements.valid & unit.elements.ready),
            ]
            with m.If(taken):
                m.d.sync += [residue.eq(word), has_residue.eq(~has_residue)]

        # Words out.
        half = Signal(16)
        has_half = Signal()
        leaves = Signal()
        with m.If(averages):
            m.d.comb += [
                dense.w_data.eq(average.sums.payload),
                dense.w_en.eq(average.sums.valid),
                average.sums.ready.eq(dense.w_rdy),
            ]
        with m.Else():
            m.d.comb += [
                dense.w_data.eq(unit.pending.payload.g),
                dense.w_en.eq(unit.pending.valid),
                unit.pending.ready.eq(dense.w_rdy),
            ]
        m.d.comb += [
            leaves.eq(dense.w_en & dense.w_rdy),
            sparse.w_data.eq(Cat(half, unit.packet.payload)),
            unit.packet.ready.eq(~has_half | sparse.w_rdy),
            sparse.w_en.eq(has_half & unit.packet.valid),
        ]
        with m.If(unit.packet.valid & unit.packet.ready):
            m.d.sync += [half.eq(unit.packet.payload), has_half.eq(~has_half)]

        # What the command makes has come when the elements inside are those of a bin that is not whole.
        bin_length = Signal(14)
        position = Signal(14)
        inside = Signal(range(4 * unit.longest + 64))
        quiet = Signal(range(_QUIET + 1))
        complete = Signal()
        flushed = Signal()
        ends_bin = (position == bin_length - 1) | (self.to_come == 1)
        ended = self.to_come == 0
        with m.If(enters):
            m.d.sync += [self.to_come.eq(self.to_come - 1), position.eq(Mux(ends_bin, 0, position + 1))]
        m.d.sync += inside.eq(inside + enters - leaves)
        m.d.comb += [
            complete.eq(
                taken_last
                & (inside == Mux(averages, 0, position))
                & (averages | ~ended | unit.summary.valid)
                & ~unit.packet.valid
            ),
            flushed.eq(quiet == _QUIET),
        ]
        m.d.sync += quiet.eq(Mux(complete, Mux(flushed, quiet, quiet + 1), 0))
        with m.If(flushed & has_half & ended & ~averages):
            m.d.comb += [sparse.w_data.eq(half), sparse.w_en.eq(1)]
            with m.If(sparse.w_rdy):
                m.d.sync += has_half.eq(0)
        with m.If(taken & self.words.payload.last):
            m.d.sync += taken_last.eq(1)

        self._tell(m, dense, sparse, flushed & ~(has_half & ended & ~averages), ended & ~averages)

        with m.If(first):
            m.d.sync += [
                begins.eq(1),
                self.to_come.eq(job.length),
                bin_length.eq(job.bin_length),
                position.eq(0),
                inside.eq(0),
                pair_left.eq(0),
                has_half.eq(0),
            ]
        with m.If(self.begin):
            m.d.sync += [taken_last.eq(0), quiet.eq(0)]
        return m

    def _tell(
        self, m: Module, dense: SyncFIFOBuffered, sparse: SyncFIFOBuffered, flushed: Value, summed_up: Value
    ) -> None:
        """Parts of what is in the FIFOs, and the last one when nothing more comes."""
        header = Signal(ResponseHeader)
        of_sparse = Signal()
        left = Signal(16)
        out = self.parts
        leaves = Signal()
        averages, summary = self.job.average, self.unit.summary
        ready = [Mux(flushed, fifo.level != 0, fifo.level >= PART) for fifo in (dense, sparse)]
        m.d.comb += [
            leaves.eq(out.valid & out.ready),
            header.opcode.eq(Mux(averages, Opcode.AVERAGE, Opcode.COMPRESS)),
            header.length.eq(left),
        ]
        with m.FSM(init="IDLE"):
            with m.State("COLLECT"):
                m.d.sync += of_sparse.eq(~ready[0])
                with m.If(ready[0]):
                    m.d.sync += left.eq(dense.level)
                    m.next = "HEADER"
                with m.Elif(ready[1]):
                    m.d.sync += left.eq(sparse.level)
                    m.next = "HEADER"
                with m.Elif(flushed):
                    m.d.sync += left.eq(Mux(summed_up, 3, 0))
                    m.next = "END"
            with m.State("HEADER"):
                kind = Mux(of_sparse, Status.PACKET, Mux(averages, Status.SUMS, Status.RESIDUES))
                m.d.comb += [header.status.eq(kind), out.payload.word.eq(header), out.valid.eq(1)]
                with m.If(leaves):
                    m.next = "WORDS"
            with m.State("WORDS"):
                m.d.comb += [
                    out.payload.word.eq(Mux(of_sparse, sparse.r_data, dense.r_data)),
                    out.valid.eq(Mux(of_sparse, sparse.r_rdy, dense.r_rdy)),
                    dense.r_en.eq(leaves & ~of_sparse),
                    sparse.r_en.eq(leaves & of_sparse),
                ]
                with m.If(leaves):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "COLLECT"
            with m.State("END"):
                m.d.comb += [
                    out.payload.word.eq(header),
                    out.payload.last.eq(left == 0),
                    out.valid.eq(1),
                ]
                with m.If(leaves):
                    m.next = "SUMMARY"
                    with m.If(left == 0):
                        m.next = "IDLE"
            with m.State("SUMMARY"):
                m.d.comb += [
                    out.payload.word.eq(summary.payload.as_value().word_select((3 - left)[:2], 32)),
                    out.payload.last.eq(left == 1),
                    out.valid.eq(1),
                    summary.ready.eq(leaves & (left == 1)),
                ]
                with m.If(leaves):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "IDLE"
            with m.State("IDLE"), m.If(self.begin):
                m.next = "COLLECT"
