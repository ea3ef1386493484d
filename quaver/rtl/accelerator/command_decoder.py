"""The accelerator's front end: takes commands apart, checks every field, and starts only what is right."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.requantisation import MAX_SHIFT
from quaver.rtl.accelerator.compression_stream import CompressionJob, LastWord
from quaver.rtl.accelerator.update_stream import UpdateWord
from quaver.rtl.array.sequencer import job_layout
from quaver.rtl.commands import (
    MAGIC,
    MAX_LENGTH,
    PARAMETER_WORDS,
    CommandHeader,
    CompressionArguments,
    GemmArguments,
    Geometry,
    LoadArguments,
    Opcode,
    Operand,
    RequantiseArguments,
    ResponseHeader,
    Status,
    TileArguments,
    UpdateArguments,
)
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.random_sources import Sources

#: The order of a GEMM's sources.
SOURCES = tuple(name for name, _ in Sources)


def _requantisation(parameters: int) -> dict[str, wiring.Member]:
    return {
        "settled": In(1),
        "requantise": Out(1),
        "shift": Out(range(MAX_SHIFT + 1)),
        "write_parameter": Out(1),
        "parameter": Out(range(parameters)),
    }


class CommandDecoder(wiring.Component):
    """Commands in; operand writes, GEMM jobs and the headers of responses out, in the order of the commands.

    Parameters
    ----------
    geometry
        Size of the accelerator.
    a_groups, b_groups
        Words for one address of all row banks, and of all column banks (`OperandBuffer.groups`).
    tile_words
        Words of one tile's results.
    identity_words
        Words of the answer to IDENTIFY.
    settings_words
        Words of an UPDATE's settings; 0 if there is no update unit, and UPDATE unknown.
    random
        Whether sums, results or operands take random bits; then GEMM brings their sources.
    update_draws
        Whether the update unit draws random bits; then the last of its settings is a seed.
    code_words
        Words of one tile's results while they are codes; 0 if there is no requantisation, and REQUANTISE
        unknown.
    compression
        The unit of COMPRESS and AVERAGE; None if they are unknown.

    Ports
    -----
    commands : in, stream of 32 bits
        One word a cycle while a LOAD lasts.
    responses : out, stream of `ResponseHeader`
        One for each command.
    jobs : out, stream of `job_layout`
        GEMM commands that are right.
    update_words : out, stream of `UpdateWord`
        Of UPDATE commands that are right: those of the settings, and those of the elements.
    compression_job, compression_begins, compression_words, compression_to_come, compression_ends
        If there is such a unit: what `CompressionStream` takes of COMPRESS and AVERAGE commands that are
        right, its `to_come`, and a cycle at the end of its response, for which the next command waits.
    write_a, write_b : out
        Write `word` into A's or B's banks at the next edge.
    half, address, group, word : out
        Where to, and what.
    reading : in, 4 bits
        Halves that a LOAD must not touch yet: A's 0 and 1, B's 0 and 1.
    settled : in, if there are `code_words`
        No GEMM is under way, and no result.
    requantise, shift : out, if there are `code_words`
        Codes leave the array, and the shift that makes them; they change only while all is settled.
    write_parameter, parameter : out, if there are `code_words`
        Make `word` a column's parameter at the next edge, and which; likewise.
    """

    def __init__(
        self,
        geometry: Geometry,
        a_groups: int,
        b_groups: int,
        tile_words: int,
        identity_words: int,
        settings_words: int,
        random: bool = False,
        update_draws: bool = False,
        code_words: int = 0,
        compression: AdaCompUnit | None = None,
    ):
        self.geometry = geometry
        self.groups = {Operand.A: a_groups, Operand.B: b_groups}
        self.capacity = {Operand.A: geometry.depth, Operand.B: geometry.depth * geometry.interleave}
        self.tile_words, self.identity_words, self.settings_words = tile_words, identity_words, settings_words
        self.code_words, self.parameters = code_words, PARAMETER_WORDS * geometry.columns
        self.random, self.update_draws, self.compression = random, update_draws, compression
        of_compression = {
            "compression_job": Out(CompressionJob),
            "compression_begins": Out(1),
            "compression_words": Out(stream.Signature(LastWord)),
            "compression_to_come": In(32),
            "compression_ends": In(1),
        }
        super().__init__(
            {
                "commands": In(stream.Signature(32)),
                "responses": Out(stream.Signature(ResponseHeader)),
                "jobs": Out(stream.Signature(job_layout(geometry, random))),
                "update_words": Out(stream.Signature(UpdateWord)),
                "write_a": Out(1),
                "write_b": Out(1),
                "half": Out(1),
                "address": Out(range(self.capacity[Operand.B])),
                "group": Out(range(max(self.groups.values()))),
                "word": Out(32),
                "reading": In(4),
            }
            | (_requantisation(self.parameters) if code_words else {})
            | (of_compression if compression else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.geometry.depth
        word, come = self.commands.payload, self.commands.valid
        header = CommandHeader(word)
        # What a command sets before it is looked at needs no reset; and takes what is there until it comes.
        response = Signal(ResponseHeader, reset_less=True)
        left = Signal(16, reset_less=True)
        load = LoadArguments(word)
        start = Signal.like(self.address, reset_less=True)  # of the next group of a LOAD
        into_half = Signal(reset_less=True)
        is_b = Signal(reset_less=True)
        beyond = Signal(reset_less=True)  # it is beyond the end of the memory
        group = Signal.like(self.group, reset_less=True)
        gemm = Signal(GemmArguments, reset_less=True)
        unknown = Signal(reset_less=True)  # something is not 0 that must be
        tiles = Signal(TileArguments, reset_less=True)
        job = self.jobs.payload
        sources = Signal(Sources, reset_less=True)
        zero_source = Signal(reset_less=True)  # some source of this command is 0
        update = Signal(UpdateArguments, reset_less=True)
        settings_left = Signal(range(self.settings_words + 1), reset_less=True)
        loaded = Signal(4)
        open_tile = Signal()
        open_run = Signal()
        open_layer = Signal(2)  # of COMPRESS, of AVERAGE
        # GEMM sizes are added up tile by tile: no multiplier, and at most depth + 1 cycles each way.
        rows_left = Signal(range(depth + 1), reset_less=True)
        columns_left = Signal(range(depth + 1), reset_less=True)
        a_used = Signal(range(2 * depth + 1), reset_less=True)
        b_used = Signal(range(2 * depth + 1), reset_less=True)
        most = depth * max(self.tile_words, self.code_words)  # words of `depth` tiles in a row
        row_words = Signal(range(min(most, 2 * MAX_LENGTH) + 1), reset_less=True)
        # Whatever an UPDATE asks for.
        words = Signal(range(3 * MAX_LENGTH + self.settings_words + 1), reset_less=True)
        verdict = Signal(
            Status, reset_less=True
        )  # of the cycle before: no comparison is on the way to a start

        m.d.comb += [
            self.responses.payload.eq(response),
            self.update_words.payload.word.eq(word),
            self.update_words.payload.settings.eq(settings_left != 0),
            job.k.eq(gemm.k),
            job.m_tiles.eq(tiles.m_tiles),
            job.n_tiles.eq(tiles.n_tiles),
            job.a_half.eq(gemm.a_half),
            job.b_half.eq(gemm.b_half),
            job.first.eq(gemm.first),
            job.last.eq(gemm.last),
        ]
        if self.random:
            m.d.comb += job.sources.eq(sources)
        if self.code_words:
            m.d.sync += self.write_parameter.eq(0)
        m.d.sync += [self.write_a.eq(0), self.write_b.eq(0), self.word.eq(word), verdict.eq(Status.OK)]

        def refuse(status: ValueLike) -> None:
            """Drop what is left of the command, then say why."""
            m.d.sync += response.status.eq(status)
            m.next = "DROP"

        def judge(condition: Value, status: Status) -> None:
            """The next state gets this verdict, unless a later one overrules it."""
            with m.If(condition):
                m.d.sync += verdict.eq(status)

        states = [*(f"GEMM {name} SOURCE" for name in SOURCES * self.random), "CHECK"]

        def update_takes() -> None:
            """The update unit takes the next word."""
            m.d.comb += [
                self.update_words.valid.eq(come),
                self.commands.ready.eq(self.update_words.ready),
            ]
            with m.If(come & self.update_words.ready):
                m.d.sync += [left.eq(left - 1), settings_left.eq(settings_left - (settings_left != 0))]

        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += self.commands.ready.eq(1)
                m.d.sync += [
                    response.opcode.eq(header.opcode),
                    response.status.eq(Status.OK),
                    response.length.eq(0),
                    left.eq(header.length),
                    zero_source.eq(0),
                ]
                with m.If(come & (header.magic != MAGIC)):
                    m.d.sync += [response.opcode.eq(Opcode.NONE), left.eq(0)]
                    refuse(Status.BAD_HEADER)
                with m.Elif(come), m.Switch(header.opcode):
                    with m.Case(Opcode.IDENTIFY):
                        m.d.sync += response.length.eq(self.identity_words)
                        m.next = "RESPOND"
                        with m.If(header.length != 0):
                            refuse(Status.BAD_LENGTH)
                    with m.Case(Opcode.COUNTERS):
                        m.d.sync += response.length.eq(2)
                        m.next = "RESPOND"
                        with m.If(header.length != 0):
                            refuse(Status.BAD_LENGTH)
                    with m.Case(Opcode.LOAD):
                        m.next = "LOAD PLACE"
                        with m.If(header.length < 2):
                            refuse(Status.BAD_LENGTH)
                    with m.Case(Opcode.GEMM):
                        m.next = "GEMM ARGUMENTS"
                        with m.If(header.length != (2 + len(SOURCES) * self.random)):
                            refuse(Status.BAD_LENGTH)
                    with m.Case(*[Opcode.UPDATE] * (self.settings_words > 0)):
                        m.next = "UPDATE ARGUMENTS"
                        with m.If(header.length == 0):
                            refuse(Status.BAD_LENGTH)
                    if self.code_words:
                        with m.Case(Opcode.REQUANTISE):
                            m.next = "REQUANTISE"
                            with m.If((header.length != 0) & (header.length != 1 + self.parameters)):
                                refuse(Status.BAD_LENGTH)
                    if self.compression:
                        with m.Case(Opcode.COMPRESS, Opcode.AVERAGE):
                            m.next = "COMPRESSION ARGUMENTS"
                            with m.If(header.length == 0):
                                refuse(Status.BAD_LENGTH)
                    with m.Default():
                        refuse(Status.UNKNOWN_OPCODE)

            with m.State("DROP"):
                m.d.comb += self.commands.ready.eq(left != 0)
                m.d.sync += [response.length.eq(0), loaded.eq(0), open_tile.eq(0), open_run.eq(0)]
                if self.compression:
                    m.d.sync += open_layer.eq(0)
                with m.If(left == 0):
                    m.next = "RESPOND"
                with m.Elif(come):
                    m.d.sync += left.eq(left - 1)

            with m.State("RESPOND"):
                m.d.comb += self.responses.valid.eq(1)
                with m.If(self.responses.ready):
                    m.next = "HEADER"

            with m.State("LOAD PLACE"):
                capacity = Mux(load.operand == Operand.B, self.capacity[Operand.B], self.capacity[Operand.A])
                m.d.comb += self.commands.ready.eq(1)
                m.d.sync += [
                    start.eq(load.start),
                    into_half.eq(load.half),
                    is_b.eq(load.operand == Operand.B),
                    beyond.eq(load.start >= capacity),
                    group.eq(0),
                ]
                with m.If(come):
                    m.d.sync += left.eq(left - 1)
                    m.next = "LOAD"
                    with m.If(load.zero != 0):
                        refuse(Status.BAD_ARGUMENT)

            with m.State("LOAD"):
                capacity = Mux(is_b, self.capacity[Operand.B], self.capacity[Operand.A])
                last_group = Mux(is_b, self.groups[Operand.B] - 1, self.groups[Operand.A] - 1)
                half = Cat(into_half, is_b)
                m.d.sync += [
                    self.half.eq(into_half),
                    self.address.eq(start),
                    self.group.eq(group),
                ]
                with m.If(left == 0):
                    m.d.sync += loaded.bit_select(half, 1).eq(1)
                    m.next = "RESPOND"
                    with m.If(group != 0):
                        refuse(Status.BAD_LENGTH)
                with m.Elif(beyond):
                    refuse(Status.OUT_OF_RANGE)
                with m.Elif(~self.reading.bit_select(half, 1)):
                    m.d.comb += self.commands.ready.eq(1)
                    with m.If(come):
                        m.d.sync += [
                            self.write_a.eq(~is_b),
                            self.write_b.eq(is_b),
                            left.eq(left - 1),
                            group.eq(group + 1),
                        ]
                        with m.If(group == last_group):
                            m.d.sync += [
                                group.eq(0),
                                start.eq(start + 1),
                                beyond.eq(start == capacity - 1),
                            ]

            with m.State("GEMM ARGUMENTS"):
                m.d.comb += self.commands.ready.eq(1)
                m.d.sync += [gemm.eq(word), unknown.eq(GemmArguments(word).zero != 0)]
                with m.If(come):
                    m.d.sync += left.eq(left - 1)
                    m.next = "GEMM TILES"
            with m.State("GEMM TILES"):
                m.d.comb += self.commands.ready.eq(1)
                m.d.sync += tiles.eq(word)
                with m.If(come):
                    m.d.sync += left.eq(left - 1)
                    m.next = states[0]
            for name, state, following in zip(SOURCES * self.random, states, states[1:], strict=False):
                with m.State(state):
                    m.d.comb += self.commands.ready.eq(1)
                    m.d.sync += sources[name].eq(word)
                    with m.If(come):
                        m.d.sync += left.eq(left - 1)
                        with m.If(word == 0):
                            m.d.sync += zero_source.eq(1)
                        m.next = following

            with m.State("CHECK"):
                m.d.sync += [
                    rows_left.eq(tiles.m_tiles),
                    columns_left.eq(tiles.n_tiles),
                    a_used.eq(0),
                    b_used.eq(0),
                    row_words.eq(0),
                    words.eq(0),
                ]
                m.next = "ADD UP COLUMNS"
                one_tile = (tiles.m_tiles == 1) & (tiles.n_tiles == 1)
                one_command = gemm.first & gemm.last
                judge(unknown | zero_source | ~(one_tile | one_command), Status.BAD_ARGUMENT)
                for size in (gemm.k, tiles.m_tiles, tiles.n_tiles):
                    judge((size == 0) | (size > depth), Status.OUT_OF_RANGE)
                for operand, half in ((Operand.A, gemm.a_half), (Operand.B, gemm.b_half)):
                    judge(~loaded.bit_select(Cat(half, Const(operand, 1)), 1), Status.NOT_LOADED)
                judge(~gemm.first & ~open_tile, Status.NOT_OPEN)
            tile_words: ValueLike = self.tile_words
            if self.code_words:
                tile_words = Mux(self.requantise, self.code_words, self.tile_words)
            for name, tiles_left, used, total, more, most_words, following in (
                ("ADD UP COLUMNS", columns_left, b_used, row_words, tile_words, most, "ADD UP ROWS"),
                ("ADD UP ROWS", rows_left, a_used, words, row_words, depth * most, "START"),
            ):
                with m.State(name):
                    if most_words > MAX_LENGTH:
                        judge(total > MAX_LENGTH, Status.RESULT_TOO_LONG)
                    judge(used > depth, Status.OUT_OF_RANGE)
                    with m.If(verdict != Status.OK):
                        refuse(verdict)
                    with m.Elif(tiles_left == 0):
                        m.next = following
                    with m.If(tiles_left != 0):
                        m.d.sync += [
                            tiles_left.eq(tiles_left - 1),
                            used.eq(used + gemm.k),
                            total.eq(total + more),
                        ]
            with m.State("START"):
                with m.If(verdict != Status.OK):
                    refuse(verdict)
                with m.Else():
                    m.d.sync += self.jobs.valid.eq(1)
                    m.next = "STARTED"
            with m.State("STARTED"), m.If(self.jobs.ready):
                m.d.sync += self.jobs.valid.eq(0)
                m.d.sync += [open_tile.eq(~gemm.last), response.length.eq(Mux(gemm.last, words, 0))]
                m.next = "RESPOND"

            if self.code_words:
                self._requantise(m, left, refuse)

            with m.State("UPDATE ARGUMENTS"):
                m.d.comb += self.commands.ready.eq(1)
                m.d.sync += [update.eq(word), unknown.eq(UpdateArguments(word).zero != 0)]
                with m.If(come):
                    m.d.sync += left.eq(left - 1)
                    m.next = "UPDATE COUNT"
            with m.State("UPDATE COUNT"):
                settings = Mux(update.first, self.settings_words, 0)
                # 3 · groups would be a multiplier of the FPGA's.
                m.d.sync += [
                    settings_left.eq(settings),
                    words.eq((update.groups << 1) + update.groups + settings),
                ]
                m.next = "UPDATE CHECK"
            with m.State("UPDATE CHECK"):
                m.d.sync += [open_run.eq(1), response.length.eq(update.groups << 1)]
                m.next = "UPDATE BEGIN"
                judge(left != words, Status.BAD_LENGTH)
                judge(unknown, Status.BAD_ARGUMENT)
                judge(update.groups == 0, Status.OUT_OF_RANGE)
                judge(~update.first & ~open_run, Status.NOT_OPEN)
            with m.State("UPDATE BEGIN"):
                m.next = "UPDATE SETTINGS"
                with m.If(verdict != Status.OK):
                    refuse(verdict)
                with m.Elif(~update.first):
                    m.next = "UPDATE RESPOND"
            with m.State("UPDATE SETTINGS"):
                update_takes()
                with m.If(come & self.update_words.ready & (settings_left == 1)):
                    judge((word == 0) & self.update_draws, Status.BAD_ARGUMENT)  # the seed
                    m.next = "UPDATE RESPOND"
            with m.State("UPDATE RESPOND"):  # at once: the results may leave while the elements come
                m.d.comb += self.responses.valid.eq(verdict == Status.OK)
                with m.If(verdict != Status.OK):
                    refuse(verdict)
                with m.Elif(self.responses.ready):
                    m.next = "UPDATE"
            with m.State("UPDATE"):
                update_takes()
                with m.If(come & self.update_words.ready & (left == 1)):
                    m.next = "HEADER"

            if self.compression:
                args = response.opcode, left, verdict, open_layer
                self._compression_states(m, self.compression, refuse, judge, *args)
        return m

    def _requantise(self, m: Module, left: Signal, refuse: Callable[[ValueLike], None]) -> None:
        """The states of REQUANTISE; `left` counts its words."""
        word, come = self.commands.payload, self.commands.valid
        parameter = Signal.like(self.parameter)
        with m.State("REQUANTISE"), m.If(self.settled):
            arguments = RequantiseArguments(word)
            m.d.comb += self.commands.ready.eq(left != 0)
            m.d.sync += parameter.eq(0)
            with m.If(left == 0):
                m.d.sync += self.requantise.eq(0)
                m.next = "RESPOND"
            with m.Elif(come):
                m.d.sync += left.eq(left - 1)
                with m.If(arguments.zero != 0):
                    refuse(Status.BAD_ARGUMENT)
                with m.Elif(arguments.shift > MAX_SHIFT):
                    refuse(Status.OUT_OF_RANGE)
                with m.Else():
                    m.d.sync += [self.shift.eq(arguments.shift), self.requantise.eq(1)]
                    m.next = "REQUANTISE COLUMNS"
        with m.State("REQUANTISE COLUMNS"):
            m.d.comb += self.commands.ready.eq(1)
            m.d.sync += self.parameter.eq(parameter)
            with m.If(come):
                m.d.sync += [
                    self.write_parameter.eq(1),
                    parameter.eq(parameter + 1),
                    left.eq(left - 1),
                ]
                with m.If(left == 1):
                    m.next = "RESPOND"

    def _compression_states(
        self,
        m: Module,
        unit: AdaCompUnit,
        refuse: Callable[[ValueLike], None],
        judge: Callable[[Value, Status], None],
        opcode: Value,
        left: Signal,
        verdict: Signal,
        open_layer: Signal,
    ) -> None:
        """The states of COMPRESS and AVERAGE."""
        word, come = self.commands.payload, self.commands.valid
        arguments = Signal(CompressionArguments)
        job, words = self.compression_job, self.compression_words
        length = Signal(32)
        share = Signal(32)
        average = opcode == Opcode.AVERAGE
        layer = Signal(2)
        m.d.comb += [
            layer.eq(Mux(average, 2, 1)),
            job.average.eq(average),
            job.first.eq(arguments.first),
            job.bin_length.eq(arguments.bin_length),
            job.length.eq(length),
            job.share.eq(share),
            words.payload.word.eq(word),
            words.payload.last.eq(left == 1),
        ]

        with m.State("COMPRESSION ARGUMENTS"):
            m.d.comb += self.commands.ready.eq(1)
            with m.If(come):
                m.d.sync += [arguments.eq(word), left.eq(left - 1)]
                m.next = "COMPRESSION CHECK"
                with m.If(CompressionArguments(word).first):
                    m.next = "COMPRESSION LENGTH"
        for state, setting, following in (
            ("COMPRESSION LENGTH", length, Mux(average, 1, 0)),
            ("COMPRESSION SHARE", share, Const(0)),
        ):
            with m.State(state):
                m.d.comb += self.commands.ready.eq(left != 0)
                with m.If(left == 0):
                    refuse(Status.BAD_LENGTH)
                with m.Elif(come):
                    m.d.sync += [setting.eq(word), left.eq(left - 1)]
                    m.next = "COMPRESSION CHECK"
                    with m.If(following):
                        m.next = "COMPRESSION SHARE"
        with m.State("COMPRESSION CHECK"):
            to_come = Mux(arguments.first, length, self.compression_to_come)
            too_long = (length >> unit.count_bits).any() | (arguments.bin_length > unit.longest)
            none = (length == 0) | (arguments.bin_length == 0)
            judge(~average & (left[1:] > to_come), Status.OUT_OF_RANGE)
            judge(arguments.first & (too_long | none), Status.OUT_OF_RANGE)
            judge((left == 0) | (~average & left[0]), Status.BAD_LENGTH)
            judge(arguments.zero != 0, Status.BAD_ARGUMENT)
            judge(~arguments.first & ((open_layer != layer) | (to_come == 0)), Status.NOT_OPEN)
            m.next = "COMPRESSION BEGIN"
        with m.State("COMPRESSION BEGIN"):
            with m.If(verdict != Status.OK):
                refuse(verdict)
            with m.Else():
                m.d.comb += self.compression_begins.eq(1)
                m.d.sync += open_layer.eq(layer)
                m.next = "COMPRESSION RESPOND"
        with m.State("COMPRESSION RESPOND"):  # at once: parts of it leave while words come
            m.d.comb += self.responses.valid.eq(1)
            with m.If(self.responses.ready):
                m.next = "COMPRESSION"
        with m.State("COMPRESSION"):
            m.d.comb += [words.valid.eq(come), self.commands.ready.eq(words.ready)]
            with m.If(come & words.ready):
                m.d.sync += left.eq(left - 1)
                with m.If(left == 1):
                    m.next = "COMPRESSION END"
        with m.State("COMPRESSION END"), m.If(self.compression_ends):
            m.next = "HEADER"
