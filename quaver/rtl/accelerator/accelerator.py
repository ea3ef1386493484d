"""The accelerator: systolic array, operand memory, sequencer and result path behind one command stream."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from quaver.golden.arithmetic.chunked_float import NO_CHUNKS
from quaver.golden.arithmetic.integer import MAX_OPERAND_BITS, Integer
from quaver.golden.contracts import Arithmetic, Draws
from quaver.golden.descriptor import descriptor
from quaver.golden.validation import as_integer
from quaver.rtl.accelerator.command_decoder import CommandDecoder
from quaver.rtl.accelerator.compression_stream import CompressionStream
from quaver.rtl.accelerator.response_writer import ResponseWriter
from quaver.rtl.accelerator.update_stream import UpdateStream
from quaver.rtl.array.operand_buffer import OperandBuffer
from quaver.rtl.array.operand_random import OperandRandom
from quaver.rtl.array.requantiser import Requantiser
from quaver.rtl.array.result_buffer import ResultBuffer
from quaver.rtl.array.result_random import ResultRandom
from quaver.rtl.array.sequencer import Sequencer
from quaver.rtl.array.sum_random import SumRandom
from quaver.rtl.array.systolic import SystolicArray
from quaver.rtl.commands import (
    MAX_LENGTH,
    Geometry,
    Identity,
    ResponseHeader,
    settings_words,
    slots_per_word,
)
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.random_sources import Sources
from quaver.rtl.update.unit import UpdateUnit

#: Responses that may be under way while the next commands are taken in.
RESPONSES = 16


class Accelerator(wiring.Component):
    """Computes GEMMs of one arithmetic, and weight updates, on commands as `quaver.rtl.commands` lays them
    out.

    Loads, multiplication and results go on at the same time: while a GEMM reads one half of the operand
    memory, LOAD fills the other; its words wait as long as a GEMM may still read what they would overwrite.
    Responses keep the order of the commands. Whoever sends must take responses meanwhile, or the accelerator
    waits.

    Parameters
    ----------
    arithmetic
        What the array computes.
    rows, columns, stages
        Size of the array; pipeline depth of its elements.
    depth
        Steps, summed over tiles, that each half of the operand memory holds: `depth` groups of codes in each
        row's bank and `depth` · interleave in each column's.
    update
        The unit that UPDATE commands go to; left out, there is no such command.
    codes
        Bits of the next layer's codes, 1 … 8, that leave the array in place of sums after a REQUANTISE
        command; 0: there is no such command. For integers alone.
    compression
        The unit that COMPRESS commands go to, and AVERAGE commands to an average beside it; left out, there
        are no such commands.

    Attributes
    ----------
    geometry, identity
        What it answers to IDENTIFY.

    ========= === ================================================================
    commands  in  stream of 32 bits
    responses out stream of 32 bits
    ========= === ================================================================

    A tile of rows × columns · interleave results takes a step for each product, or group of them, and one for
    each chunk. The next tile follows at once, if K is at least about `rows` + 3 and the results of the tile
    before find a taker in that time. The last word of results comes at most `SystolicArray.latency` + rows +
    columns + 10 cycles and one for each word of a tile after the last step, if all find a taker.

    Raises
    ------
    ValueError
        A size that is not at least 1, a depth beyond 16 bits, a tile whose results do not fit one response,
        codes of sums that are no integers, or an arithmetic that draws random bits for sums which take
        several cycles each.
    """

    def __init__(
        self,
        arithmetic: Arithmetic,
        *,
        rows: int,
        columns: int,
        stages: int = 4,
        depth: int = 512,
        update: UpdateUnit | None = None,
        codes: int = 0,
        compression: AdaCompUnit | None = None,
    ):
        codes = as_integer(codes, "codes")
        if not 1 <= as_integer(depth, "depth") <= MAX_LENGTH:
            raise ValueError(f"depth is {depth}, but the operand memory has 1 to {MAX_LENGTH} steps")
        self.arithmetic = arithmetic
        self.array = SystolicArray(arithmetic, rows, columns, stages)
        element = self.array.element
        if arithmetic.draws is Draws.SUMS and element.product_cycles > 1:
            raise ValueError(
                f"{arithmetic!r} draws random bits for every sum, a product takes {element.product_cycles} "
                f"cycles, but the accelerator draws in every cycle; take rounding nearest"
            )
        self.geometry = Geometry(
            rows, columns, element.interleave, depth, element.group, element.product_cycles
        )
        self.identity = Identity(
            self.geometry,
            descriptor(arithmetic.hardware),
            descriptor(update.rule) if update else None,
            compression.descriptor if compression else None,
            codes,
        )
        self.compression_stream = CompressionStream(compression) if compression else None
        self.requantiser = None
        if codes:
            if not 0 <= codes <= MAX_OPERAND_BITS:
                raise ValueError(
                    f"codes is {codes}, but the next layer's have 1 to {MAX_OPERAND_BITS} bits; take 0 for "
                    f"none"
                )
            if not isinstance(arithmetic, Integer):
                raise ValueError(
                    f"codes is {codes}, but {descriptor(arithmetic.hardware).name} has no integer sums, "
                    f"which alone are requantised; take 0"
                )
            self.requantiser = Requantiser(columns, arithmetic.accumulator_bits, codes)
        self.update_stream = UpdateStream(update) if update else None
        self.settings_words = settings_words(update.scalar) if update else 0
        of_column = rows * self.array.interleave
        self.tile_words = of_column * -(-columns // slots_per_word(arithmetic.result.width))
        self.code_words = of_column * -(-columns // slots_per_word(codes)) if codes else 0
        if self.tile_words > MAX_LENGTH:
            raise ValueError(
                f"a tile of {rows} × {self.geometry.tile_columns} results makes {self.tile_words} words, but "
                f"a response has at most {MAX_LENGTH}; take fewer rows or columns"
            )
        super().__init__({"commands": In(stream.Signature(32)), "responses": Out(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        geometry, arithmetic = self.geometry, self.arithmetic
        result, lanes, group = arithmetic.result, geometry.interleave, geometry.group
        bubble_a, bubble_b = arithmetic.identity or (0, 0)
        m.submodules.array = array = self.array
        m.submodules.buffer_a = a = OperandBuffer(
            geometry.rows, geometry.depth, arithmetic.a.width, bubble_a, group
        )
        m.submodules.buffer_b = b = OperandBuffer(
            geometry.columns, geometry.depth * lanes, arithmetic.b.width, bubble_b, group
        )
        random = arithmetic.draws is not Draws.NOTHING
        one_fold = array.element.one_fold or arithmetic.chunk >= NO_CHUNKS
        chunk = None if one_fold else geometry.steps(arithmetic.chunk)
        m.submodules.sequencer = sequencer = Sequencer(geometry, chunk, array.drain, random)
        m.submodules.results = results = ResultBuffer(
            geometry.columns, result.width, geometry.rows * lanes, self.identity.codes
        )
        identity = self.identity.to_words()
        m.submodules.decoder = decoder = CommandDecoder(
            geometry,
            a.groups,
            b.groups,
            self.tile_words,
            len(identity),
            self.settings_words,
            random,
            self.update_stream is not None and self.update_stream.unit.rounding.draws,
            self.code_words,
            self.compression_stream.unit if self.compression_stream else None,
        )
        compresses = self.compression_stream is not None
        m.submodules.response_writer = response_writer = ResponseWriter(identity, compresses)
        # Whoever takes a row's last word moves the addresses of all columns' memories: not from far away.
        m.submodules.outbound = outbound = SyncFIFO(width=32, depth=2)
        m.submodules.headers = headers = SyncFIFOBuffered(width=ResponseHeader.size, depth=RESPONSES)

        connect(m, flipped(self.commands), decoder.commands)
        connect(m, decoder.jobs, sequencer.jobs)
        if self.update_stream:
            m.submodules.update_stream = self.update_stream
            connect(m, decoder.update_words, self.update_stream.words)
            connect(m, self.update_stream.results, response_writer.updates)
        if self.compression_stream:
            m.submodules.compression_stream = compression = self.compression_stream
            connect(m, decoder.compression_words, compression.words)
            connect(m, compression.parts, response_writer.parts)
            m.d.comb += [
                compression.job.eq(decoder.compression_job),
                compression.begin.eq(decoder.compression_begins),
                decoder.compression_to_come.eq(compression.to_come),
                decoder.compression_ends.eq(
                    compression.parts.valid & compression.parts.ready & compression.parts.payload.last
                ),
            ]
        connect(m, response_writer.responses, flipped(self.responses))
        m.d.comb += [
            headers.w_data.eq(decoder.responses.payload),
            headers.w_en.eq(decoder.responses.valid),
            decoder.responses.ready.eq(headers.w_rdy),
            response_writer.headers.payload.eq(headers.r_data),
            response_writer.headers.valid.eq(headers.r_rdy),
            headers.r_en.eq(response_writer.headers.ready),
            response_writer.multiplying.eq(sequencer.read),
            outbound.w_data.eq(results.words.payload),
            outbound.w_en.eq(results.words.valid),
            results.words.ready.eq(outbound.w_rdy),
            response_writer.results.payload.eq(outbound.r_data),
            response_writer.results.valid.eq(outbound.r_rdy),
            outbound.r_en.eq(response_writer.results.ready),
        ]

        for buffer, write in ((a, decoder.write_a), (b, decoder.write_b)):
            m.d.comb += [
                buffer.write.eq(write),
                buffer.write_half.eq(decoder.half),
                buffer.write_address.eq(decoder.address),
                buffer.write_group.eq(decoder.group),
                buffer.word.eq(decoder.word),
                buffer.read.eq(sequencer.read),
            ]
        m.d.comb += [
            a.read_half.eq(sequencer.a_half),
            a.read_address.eq(sequencer.a_address),
            b.read_half.eq(sequencer.b_half),
            b.read_address.eq(sequencer.b_address),
            array.a.eq(a.codes),
            array.b.eq(b.codes),
        ]
        # What belongs to operands is as long on its way.
        control = sequencer.control
        if arithmetic.identity is None:  # every product counts: what is neither one nor a fold says so
            control = Signal.like(sequencer.control, name="control_with_bubbles")
            m.d.comb += control.eq(sequencer.control)
            with m.If(~sequencer.read & ~sequencer.control.fold):
                m.d.comb += [control.fold.eq(1), control.begin.eq(0)]
        for i in range(a.latency):
            before, control = control, Signal(control.shape(), name=f"control_{i}")
            m.d.sync += control.eq(before)
        m.d.comb += [
            array.control.eq(control),
            results.reserve.eq(sequencer.reserve),
            sequencer.room.eq(results.room),
        ]

        if self.requantiser is None:
            m.d.comb += [results.results.eq(array.results), results.valid.eq(array.valid)]
        else:
            m.submodules.requantiser = foot = self.requantiser
            m.d.comb += [
                *(foot.sums[c].eq(array.results[c]) for c in range(geometry.columns)),
                foot.come.eq(array.valid),
                foot.on.eq(decoder.requantise),
                foot.shift.eq(decoder.shift),
                foot.write.eq(decoder.write_parameter),
                foot.parameter.eq(decoder.parameter),
                foot.word.eq(decoder.word),
                results.results.eq(foot.results),
                results.valid.eq(foot.valid),
                results.narrow.eq(decoder.requantise),
            ]
            # A GEMM that was taken is seen at once, and a tile's room is reserved before it ends.
            m.d.sync += decoder.settled.eq((sequencer.reading == 0) & results.empty)

        if arithmetic.draws is Draws.RESULTS:
            m.submodules.random = source = ResultRandom(
                geometry.rows, geometry.columns, arithmetic.random_bits
            )
            m.d.comb += [
                source.reserve.eq(sequencer.reserve),
                source.sources.eq(sequencer.sources),
                source.first.eq(sequencer.first_tile),
                source.restart.eq(sequencer.first_column),
                source.leaving.eq(array.leaving),
                array.result_random.eq(source.random),
            ]
        corner: SumRandom | OperandRandom | None = None
        if arithmetic.draws is Draws.SUMS:
            corner = SumRandom(geometry.rows, geometry.columns, lanes)
            m.d.comb += [
                corner.begins.eq(sequencer.begins),
                corner.rounds.eq(sequencer.rounds),
                corner.last_lane.eq(sequencer.last_lane),
            ]
        if arithmetic.draws is Draws.OPERANDS:
            element = array.element
            corner = OperandRandom(geometry.rows, geometry.columns, element.draws)
            begin = sequencer.control.begin
            m.d.comb += [
                corner.begins.eq(sequencer.begins & begin),
                corner.draws.eq(sequencer.read & (begin if element.cycles_a_draw > 1 else 1)),
            ]
        if corner is not None:
            m.submodules.random = corner
            m.d.comb += [
                corner.first_tile.eq(sequencer.first_tile),
                corner.first_column.eq(sequencer.first_column),
                corner.sources.eq(sequencer.sources),
            ]
            states = corner.random
            for i in range(a.latency - corner.latency):
                before_states, states = states, Signal(Sources, name=f"states_{i}", reset_less=True)
                m.d.sync += states.eq(before_states)
            m.d.comb += array.random.eq(states)

        # A half is free when the last read address has walked past its last bank. A register can say so, as a
        # LOAD is some cycles behind the GEMM before it.
        walk = max(geometry.rows, geometry.columns) + 1
        for half in range(4):
            walking = Signal(range(walk + 1), name=f"walking_{half}")
            m.d.sync += walking.eq(walking - (walking != 0))
            with m.If(sequencer.reading[half]):
                m.d.sync += walking.eq(walk)
            m.d.sync += decoder.reading[half].eq(sequencer.reading[half] | (walking != 0))
        return m
