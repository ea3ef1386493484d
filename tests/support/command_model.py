"""The rules of `quaver.rtl.commands` in plain Python: what an accelerator answers, word for word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quaver.golden.compression import AdaComp, NonFinite
from quaver.golden.contracts import Draws, HardwareRule
from quaver.golden.random_bits import SOURCES, States
from quaver.golden.requantisation import MAX_SHIFT, MULTIPLIER_BITS, OFFSET_BITS, Requantisation
from quaver.golden.rounding import Rounding
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.commands import (
    MAGIC,
    MAX_LENGTH,
    CommandHeader,
    CompressionArguments,
    GemmArguments,
    LoadArguments,
    Opcode,
    Operand,
    RequantiseArguments,
    ResponseHeader,
    Status,
    TileArguments,
    UpdateArguments,
    pack,
    settings_words,
    slots_per_word,
    unpack,
    update_slot,
)


class Refused(Exception):  # noqa: N818
    """The command's status."""


@dataclass
class Response:
    """A response; a word that is None may be anything."""

    opcode: int
    status: Status = Status.OK
    words: Sequence[int | None] = ()
    parts: dict[Status, list[int]] = field(default_factory=dict)
    """Of a response in parts, the words of each kind."""

    def expects(self, words: Sequence[int], parts: dict[Status, list[int]] | None = None) -> bool:
        """Whether `words`, header first, are this response, after such parts."""
        if {kind: told for kind, told in (parts or {}).items() if told} != {
            kind: told for kind, told in self.parts.items() if told
        }:
            return False
        header = ResponseHeader.const(
            {"opcode": self.opcode, "status": self.status, "length": len(self.words)}
        )
        expected = [header.as_value().value, *self.words]
        return len(words) == len(expected) and all(
            wanted is None or wanted == got for wanted, got in zip(expected, words, strict=True)
        )


class CompressedLayer:
    """A layer of COMPRESS, all of whose numbers are finite."""

    def __init__(self, length: int, bin_length: int, share: int) -> None:
        self.length, self.to_come = length, length
        self.rule = AdaComp(max(bin_length, 1), NonFinite.PASS)
        self.pairs = np.empty((0, 2), np.float32)
        self.told = {Status.RESIDUES: 0, Status.PACKET: 0}

    def response(self, data: list[int]) -> Response:
        """What so many more words of the layer give."""
        pairs = np.array(data, np.uint32).view(np.float32).reshape(-1, 2)
        self.pairs, self.to_come = np.concatenate([self.pairs, pairs]), self.to_come - len(pairs)
        ended = self.to_come == 0
        length = self.rule.bin_length
        whole = len(self.pairs) if ended else len(self.pairs) // length * length
        residues, gradients = np.ascontiguousarray(self.pairs[:whole].T)
        packet, _ = self.rule.compress(residues, gradients)
        elements = packet.elements.tolist()
        if not ended and elements:  # the last one may yet be that of its bin, or a run of empty bins grow
            place = (1 << packet.index_bits) - 1
            elements = elements if elements[-1] == (3 << packet.index_bits | place) else elements[:-1]
        halves = [*elements, 0] if ended else elements
        words = [a | b << 16 for a, b in zip(halves[::2], halves[1::2], strict=False)]
        told = {Status.RESIDUES: (residues + gradients).view(np.uint32).tolist(), Status.PACKET: words}
        new = {kind: words[self.told[kind] :] for kind, words in told.items()}
        self.told = {kind: len(words) for kind, words in told.items()}
        scale = int(np.float32(packet.scale).view(np.uint32))
        summary = [scale, len(packet.elements), packet.sent] if ended else []
        return Response(Opcode.COMPRESS, words=summary, parts=new)


class AveragedLayer:
    """A layer of AVERAGE, of any packet elements whatever."""

    def __init__(self, length: int, bin_length: int, share: int) -> None:
        self.to_come, self.bin_length, self.index = length, bin_length, 0
        self.share = np.array(share, np.uint32).view(np.float32)
        self.elements: list[int] = []
        self.done, self.empty = False, 0

    def response(self, data: list[int]) -> Response:
        """What so many more words of the layer give."""
        bits = 6 if self.bin_length <= 63 else 14
        sums = []
        for word in data:
            if not self.to_come:
                break
            waits = not self.done and not self.empty
            if waits and not self.elements:
                self.elements = [word & 0xFFFF, word >> 16]
                continue
            total = np.array(word, np.uint32).view(np.float32)
            if waits:
                place, upper = self.elements[0] & (1 << bits) - 1, self.elements[0] >> bits & 3
                if place == (1 << bits) - 1:
                    self.empty = upper + 1
                    del self.elements[0]
                elif place == self.index:
                    total = total - self.share if upper & 1 else total + self.share
                    self.done = upper > 1
                    del self.elements[0]
            sums.append(int(np.float32(total).view(np.uint32)))
            self.to_come -= 1
            self.index += 1
            if self.index == self.bin_length or not self.to_come:
                self.index, self.done, self.empty = 0, False, max(self.empty - 1, 0)
        return Response(Opcode.AVERAGE, parts={Status.SUMS: sums})


@dataclass
class CommandModel:
    """An accelerator as its command stream shows it.

    Parameters
    ----------
    accelerator
        What is modelled; its description, nothing of its hardware.
    rules
        Of its update unit, one for each choice of scalars that the settings will have.
    """

    accelerator: Accelerator
    rules: Sequence[HardwareRule] = ()
    multiplied: int = 0
    """Cycles that have issued a MAC when all commands so far are done, since reset."""
    loaded: set[tuple[int, int]] = field(default_factory=set)
    """(operand, half) that may be multiplied."""
    tile: list[tuple[np.ndarray, np.ndarray]] | None = None
    """The slices of the open tile."""
    run: tuple[HardwareRule, int, list[np.ndarray]] | None = None
    """Rule, seed and groups of the open run."""
    requantisation: Requantisation | None = None
    """Of one tile's columns, while codes leave the array."""
    layer: CompressedLayer | AveragedLayer | None = None
    """The open layer."""

    def __post_init__(self) -> None:
        g, arithmetic = self.accelerator.geometry, self.accelerator.arithmetic
        #: Operand → its format.
        self.formats = {Operand.A: arithmetic.a, Operand.B: arithmetic.b}
        banks = {Operand.A: (g.depth, g.rows), Operand.B: (g.depth * g.interleave, g.columns)}
        #: Operand → (halves, addresses, groups) of words. A reset leaves them as they are.
        self._memory = {
            operand: np.zeros((2, addresses, self.groups(operand, count)), np.uint32)
            for operand, (addresses, count) in banks.items()
        }

    @property
    def sources(self) -> int:
        """Words of a GEMM that are states of random sources."""
        return len(SOURCES) * (self.accelerator.arithmetic.draws is not Draws.NOTHING)

    def groups(self, operand: Operand, count: int) -> int:
        """Words of one step of so many banks."""
        codes = count * self.accelerator.geometry.group
        return -(-codes // slots_per_word(self.formats[operand].width))

    def reset(self) -> None:
        """As the accelerator's."""
        self.multiplied, self.requantisation = 0, None
        self._close()

    def _close(self) -> None:
        self.loaded, self.tile, self.run, self.layer = set(), None, None, None

    def answers(self, words: Sequence[int]) -> Iterator[Response]:
        """The responses to whole commands, one after the other."""
        position = 0
        while position < len(words):
            header = CommandHeader.unpack(words[position])
            length = header.length if header.magic == MAGIC else 0
            body = list(words[position + 1 : position + 1 + length])
            assert len(body) == length, "the last command is cut short"
            position += 1 + length
            opcode = header.opcode if header.magic == MAGIC else Opcode.NONE
            try:
                if header.magic != MAGIC:
                    raise Refused(Status.BAD_HEADER)
                answer = self._command(opcode, body)
                yield answer if isinstance(answer, Response) else Response(opcode, words=answer)
            except Refused as refusal:
                self._close()
                yield Response(opcode, refusal.args[0])

    def _command(self, opcode: int, body: list[int]) -> Sequence[int | None] | Response:
        if opcode == Opcode.IDENTIFY:
            _refuse(body != [], Status.BAD_LENGTH)
            return self.accelerator.identity.to_words()
        if opcode == Opcode.COUNTERS:
            _refuse(body != [], Status.BAD_LENGTH)
            return [None, None]
        if opcode == Opcode.LOAD:
            return self._load(body)
        if opcode == Opcode.GEMM:
            return self._gemm(body)
        if opcode == Opcode.UPDATE and self.rules:
            return self._update(body)
        if opcode == Opcode.REQUANTISE and self.accelerator.identity.codes:
            return self._requantise(body)
        if opcode in (Opcode.COMPRESS, Opcode.AVERAGE) and self.accelerator.compression_stream:
            return self._compression(Opcode(opcode), body)
        raise Refused(Status.UNKNOWN_OPCODE)

    def _load(self, body: list[int]) -> Sequence[int]:
        _refuse(len(body) < 2, Status.BAD_LENGTH)
        place = LoadArguments.unpack(body[0])
        _refuse(place.zero != 0, Status.BAD_ARGUMENT)
        bank = self._memory[Operand(place.operand)][place.half]
        groups = bank.shape[1]
        room = max(0, (len(bank) - place.start) * groups)
        data = np.array(body[1:], np.uint32)
        end = min(len(data), room)  # what fits has been written when the rest is refused
        for i in range(end):
            bank[place.start + i // groups, i % groups] = data[i]
        _refuse(len(data) > room, Status.OUT_OF_RANGE)
        _refuse(len(data) % groups != 0, Status.BAD_LENGTH)
        self.loaded.add((place.operand, place.half))
        return ()

    def _gemm(self, body: list[int]) -> Sequence[int]:
        unit, g = self.accelerator, self.accelerator.geometry
        _refuse(len(body) != 2 + self.sources, Status.BAD_LENGTH)
        flags, tiles, sources = GemmArguments.unpack(body[0]), TileArguments.unpack(body[1]), body[2:]
        k, m_tiles, n_tiles = flags.k, tiles.m_tiles, tiles.n_tiles
        # Of several reasons the one that comes first here is told.
        _refuse(not flags.first and self.tile is None, Status.NOT_OPEN)
        halves = {(Operand.A, flags.a_half), (Operand.B, flags.b_half)}
        _refuse(not halves <= self.loaded, Status.NOT_LOADED)
        _refuse(not all(1 <= size <= g.depth for size in (k, m_tiles, n_tiles)), Status.OUT_OF_RANGE)
        alone = (flags.first and flags.last) or (m_tiles, n_tiles) == (1, 1)
        _refuse(flags.zero != 0 or 0 in sources or not alone, Status.BAD_ARGUMENT)
        words = unit.code_words if self.requantisation else unit.tile_words
        for count in (n_tiles, m_tiles):
            for tile in range(1, count + 1):
                _refuse(tile * k > g.depth, Status.OUT_OF_RANGE)
                _refuse(tile * words > MAX_LENGTH, Status.RESULT_TOO_LONG)
            words *= count

        a = self._operands(Operand.A, flags.a_half, m_tiles * k)[:, : g.rows * g.group]
        b = self._operands(Operand.B, flags.b_half, n_tiles * k * g.interleave)[:, : g.columns * g.group]
        products = k * g.group
        part = (
            a.reshape(m_tiles, k, g.rows, g.group).transpose(0, 2, 1, 3).reshape(-1, products),
            b.reshape(n_tiles, k, -1, g.group).transpose(1, 3, 0, 2).reshape(products, -1),
        )
        slices = [part] if flags.first else [*(self.tile or []), part]
        self.tile = None if flags.last else slices
        self.multiplied += k * m_tiles * n_tiles * g.interleave
        if not flags.last:
            return ()
        c = self._product(
            *(np.concatenate(x, 1 - i) for i, x in enumerate(zip(*slices, strict=True))), sources
        )
        width = unit.arithmetic.result.width
        if self.requantisation:
            whole, width = self.requantisation, self.requantisation.bits
            parameters = (np.tile(each, n_tiles) for each in (whole.multipliers, whole.offsets))
            arithmetic: Any = unit.arithmetic
            c = Requantisation(*parameters, whole.shift, whole.bits)(arithmetic.result.integers(c))
        c = c.reshape(m_tiles, g.rows, n_tiles, g.interleave, g.columns).transpose(0, 2, 1, 3, 4)
        return pack(c[:, :, ::-1], width).tolist()

    def _requantise(self, body: list[int]) -> Sequence[int]:
        columns = self.accelerator.geometry.columns
        _refuse(len(body) not in (0, 1 + 3 * columns), Status.BAD_LENGTH)
        if not body:
            self.requantisation = None
            return ()
        arguments = RequantiseArguments.unpack(body[0])
        _refuse(arguments.zero != 0, Status.BAD_ARGUMENT)
        _refuse(arguments.shift > MAX_SHIFT, Status.OUT_OF_RANGE)
        multipliers, lower, upper = np.array(body[1:], np.int64).reshape(-1, 3).T
        self.requantisation = Requantisation(
            _signed(multipliers, MULTIPLIER_BITS),
            _signed(lower + (upper << 32), OFFSET_BITS),
            arguments.shift,
            self.accelerator.identity.codes,
        )
        return ()

    def _operands(self, operand: Operand, half: int, addresses: int) -> np.ndarray:
        """Codes of all banks at the first addresses."""
        fmt = self.formats[operand]
        slots = unpack(self._memory[operand][half, :addresses].reshape(-1), fmt.width)
        return (slots & (1 << fmt.width) - 1).astype(fmt.code_dtype).reshape(addresses, -1)

    def _product(self, a: np.ndarray, b: np.ndarray, sources: Sequence[int]) -> np.ndarray:
        arithmetic: Any = self.accelerator.arithmetic
        if not sources:
            return arithmetic.gemm(a, b)

        class Drawing(type(arithmetic)):  # type: ignore[misc]
            def sources(self, seed: int | None) -> States:
                return sources[0], sources[1], sources[2]

        return Drawing(**vars(arithmetic)).gemm(a, b, seed=1)

    def _compression(self, opcode: Opcode, body: list[int]) -> Response:
        assert self.accelerator.compression_stream
        unit = self.accelerator.compression_stream.unit
        _refuse(not body, Status.BAD_LENGTH)
        arguments, averages = CompressionArguments.unpack(body[0]), opcode is Opcode.AVERAGE
        settings = (1 + averages) * arguments.first
        _refuse(len(body) - 1 < settings, Status.BAD_LENGTH)
        (length, share), data = [*body[1 : 1 + settings], 0, 0][:2], body[1 + settings :]
        kind = AveragedLayer if averages else CompressedLayer
        layer = kind(length, arguments.bin_length, share) if arguments.first else self.layer
        _refuse(not arguments.first and not (isinstance(layer, kind) and layer.to_come), Status.NOT_OPEN)
        assert layer
        _refuse(arguments.zero != 0, Status.BAD_ARGUMENT)
        _refuse(not data or (not averages and len(data) % 2 == 1), Status.BAD_LENGTH)
        if arguments.first:
            _refuse(not 0 < length < 1 << unit.count_bits, Status.OUT_OF_RANGE)
            _refuse(not 0 < arguments.bin_length <= unit.longest, Status.OUT_OF_RANGE)
        _refuse(not averages and len(data) // 2 > layer.to_come, Status.OUT_OF_RANGE)
        self.layer = layer
        return layer.response(data)

    def _update(self, body: list[int]) -> Sequence[int | None]:
        _refuse(not body, Status.BAD_LENGTH)
        arguments, data = UpdateArguments.unpack(body[0]), body[1:]
        settings = settings_words(self.rules[0].scalar) if arguments.first else 0
        _refuse(not arguments.first and self.run is None, Status.NOT_OPEN)
        _refuse(arguments.groups == 0, Status.OUT_OF_RANGE)
        _refuse(arguments.zero != 0, Status.BAD_ARGUMENT)
        _refuse(len(data) != settings + 3 * arguments.groups, Status.BAD_LENGTH)
        draws = self.rules[0].rounding is Rounding.STOCHASTIC
        if arguments.first:
            seed = data[settings - 1]
            _refuse(draws and seed == 0, Status.BAD_ARGUMENT)
            (rule,) = (r for r in self.rules if settings_of(r) == data[: settings - 1])
            self.run = rule, seed, []
        assert self.run
        rule, seed, groups = self.run
        groups.append(np.array(data[settings:], np.uint32).reshape(-1, 3))
        slot = update_slot(rule.formats)
        codes = unpack(np.concatenate(groups).reshape(-1), slot)
        if slot == 16:
            codes = codes.reshape(-1, 6)
            elements = codes[:, 2::2].reshape(-1), codes[:, 3::2].reshape(-1), codes[:, :2].reshape(-1)
        else:
            gradients, weights, momenta = codes.reshape(-1, 3).T
            elements = weights, momenta, gradients
        of = rule.formats * (3 // len(rule.formats))
        results = rule.update(
            *((x & (1 << fmt.width) - 1).astype(fmt.code_dtype) for x, fmt in zip(elements, of, strict=True)),
            seed=seed if draws else None,
        )
        new = pack(np.stack(results, axis=1), slot)
        return new[-2 * arguments.groups :].tolist()


def settings_of(rule: HardwareRule) -> list[int]:
    """Words of an UPDATE's settings but for the seed."""
    scalars = np.array([rule.scalars[name] for name in ("rate", "momentum", "decay")], np.uint32)
    return pack(scalars, update_slot([rule.scalar])).tolist()


def _signed(words: np.ndarray, bits: int) -> np.ndarray:
    """The lowest bits, in two's complement."""
    return (words & ((1 << bits) - 1) ^ (1 << (bits - 1))) - (1 << (bits - 1))


def _refuse(condition: bool, status: Status) -> None:
    if condition:
        raise Refused(status)
