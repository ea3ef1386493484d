"""The rules of `quaver.rtl.commands` in plain Python: what an accelerator answers, word for word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quaver.golden.contracts import Draws, HardwareRule
from quaver.golden.random_bits import SOURCES, States
from quaver.golden.requantisation import MAX_SHIFT, MULTIPLIER_BITS, OFFSET_BITS, Requantisation
from quaver.golden.rounding import Rounding
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.commands import (
    MAGIC,
    MAX_LENGTH,
    CommandHeader,
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

    def expects(self, words: Sequence[int]) -> bool:
        """Whether `words`, header first, are this response."""
        header = ResponseHeader.const(
            {"opcode": self.opcode, "status": self.status, "length": len(self.words)}
        )
        expected = [header.as_value().value, *self.words]
        return len(words) == len(expected) and all(
            wanted is None or wanted == got for wanted, got in zip(expected, words, strict=True)
        )


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
        self.loaded, self.tile, self.run = set(), None, None

    def answers(self, words: Sequence[int]) -> Iterator[Response]:
        """The responses to whole commands, one after the other."""
        position = 0
        while position < len(words):
            header = CommandHeader.from_bits(words[position])
            length = header.length if header.magic == MAGIC else 0
            body = list(words[position + 1 : position + 1 + length])
            assert len(body) == length, "the last command is cut short"
            position += 1 + length
            opcode = header.opcode if header.magic == MAGIC else Opcode.NONE
            try:
                if header.magic != MAGIC:
                    raise Refused(Status.BAD_HEADER)
                yield Response(opcode, words=self._command(opcode, body))
            except Refused as refusal:
                self._close()
                yield Response(opcode, refusal.args[0])

    def _command(self, opcode: int, body: list[int]) -> Sequence[int | None]:
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
        raise Refused(Status.UNKNOWN_OPCODE)

    def _load(self, body: list[int]) -> Sequence[int]:
        _refuse(len(body) < 2, Status.BAD_LENGTH)
        place = LoadArguments.from_bits(body[0])
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
        flags, tiles, sources = GemmArguments.from_bits(body[0]), TileArguments.from_bits(body[1]), body[2:]
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
        arguments = RequantiseArguments.from_bits(body[0])
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

    def _update(self, body: list[int]) -> Sequence[int | None]:
        _refuse(not body, Status.BAD_LENGTH)
        arguments, data = UpdateArguments.from_bits(body[0]), body[1:]
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
