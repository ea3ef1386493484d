"""The host's end of the command stream: GEMMs and updates of any size, over any transport."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import numpy as np

from quaver.golden.contracts import Arithmetic, Codes, Draws, HardwareRule
from quaver.golden.descriptor import descriptor
from quaver.golden.requantisation import Requantisation
from quaver.host.transport import (
    NO_WORDS,
    Command,
    Counters,
    DeviceError,
    Transport,
    Words,
    identify,
    nothing,
    response,
    send,
)
from quaver.rtl.commands import (
    MAX_LENGTH,
    PARAMETER_WORDS,
    GemmArguments,
    LoadArguments,
    Opcode,
    Operand,
    RequantiseArguments,
    TileArguments,
    UpdateArguments,
    pack,
    slots_per_word,
    unpack,
    update_slot,
)

#: A GEMM of this many cycles or more hides the time that the commands around it take.
_COMMAND_CYCLES = 500

#: How many commands are sent ahead of the response that is waited for: enough for the loads of one GEMM to
#: overlap the GEMM before it.
AHEAD = 8

#: The most groups of elements in one UPDATE that its length field can count beside arguments and settings.
_GROUPS = (MAX_LENGTH - 5) // 3

#: Row and column of a result → the states of the random sources that a GEMM command brings which begins
#: there.
_Sources = Callable[[int, int], list[int]]


class Driver:
    """Drives one accelerator.

    Parameters
    ----------
    transport
        Leads to the accelerator. It is reset first.
    arithmetic
        What the accelerator is to compute.

    Raises
    ------
    DeviceError
        The accelerator computes another arithmetic; the message names both.
    """

    def __init__(self, transport: Transport, arithmetic: Arithmetic):
        self.transport, self.arithmetic = transport, arithmetic
        transport.reset()
        identity = identify(transport)
        if not identity.arithmetic.describes(arithmetic.hardware):
            raise DeviceError(
                f"the device computes {identity.arithmetic}, but the driver was asked for "
                f"{descriptor(arithmetic.hardware)}; ask for the device's arithmetic, or build a device for "
                f"this one"
            )
        self.geometry, self.updates, self.codes = identity.geometry, identity.update, identity.codes
        self._requantising = False  # whether codes leave the array
        self.compression = identity.compression

    def counters(self) -> Counters:
        """The accelerator's counters, read when all earlier commands have been answered."""
        send(self.transport, Opcode.COUNTERS)
        return Counters(*response(self.transport, Opcode.COUNTERS)[0].tolist())

    def gemm(
        self,
        a_codes: Codes,
        b_codes: Codes,
        *,
        seed: int | None = None,
        requantisation: Requantisation | None = None,
    ) -> Codes:
        """C = A·B: operand codes (M, K) and (K, N) give result codes (M, N), or with a `requantisation` of N
        columns the codes that it makes of them, uint8.

        Raises
        ------
        TypeError, ValueError
            As the arithmetic's `check` raises them; a requantisation of another number of columns.
        DeviceError, TimeoutError
            The device makes no such codes, or did not do as told. It is reset if it still answers, as when
            the call is interrupted.
        """
        a, b = self.arithmetic.check(a_codes, b_codes, seed=seed)
        sources = self._sources(seed)
        if requantisation is None:
            c = np.zeros((a.shape[0], b.shape[1]), self.arithmetic.result.code_dtype)
        else:
            self._check_codes(requantisation, b.shape[1])
            c = requantisation(np.zeros((a.shape[0], b.shape[1]), np.int64))
        if not c.size or not a.shape[1]:
            return c
        short = -a.shape[1] % self.geometry.group
        if short:  # products that change no sum, which there are wherever several are side by side
            a_code, b_code = self.arithmetic.identity or (0, 0)
            a = np.pad(a, ((0, 0), (0, short)), constant_values=a_code)
            b = np.pad(b, ((0, short), (0, 0)), constant_values=b_code)
        self.run(self._commands(a, b, c, sources, requantisation))
        return c

    def _check_codes(self, requantisation: Requantisation, columns: int) -> None:
        if requantisation.bits != self.codes:
            raise DeviceError(
                f"the device makes codes of {self.codes or 'no'} bits of its sums, but the driver was asked "
                f"for {requantisation.bits}; build a device for them, or take its sums"
            )
        if len(requantisation.multipliers) != columns:
            raise ValueError(
                f"the requantisation is of {len(requantisation.multipliers)} columns, but b has {columns}"
            )

    def update(
        self,
        rule: HardwareRule,
        weights: Codes,
        momenta: Codes,
        gradients: Codes,
        *,
        seed: int | None = None,
    ) -> tuple[Codes, Codes]:
        """One step of `rule`: the new weights and momenta, bit for bit those of `rule.update`.

        Raises
        ------
        TypeError, ValueError
            As `rule.update` raises them.
        DeviceError, TimeoutError
            The device has no unit for such a rule. Or it did not do as told; then it is reset, as it is when
            the call is interrupted.
        """
        w, v, g = rule.check(weights, momenta, gradients)
        rule.sources(seed)  # refuses a wrong seed
        if self.updates is None or not self.updates.describes(rule):
            raise DeviceError(
                f"the device updates {self.updates or 'nothing'}, but the driver was asked for "
                f"{descriptor(rule)}; ask for the device's, or build a device for this one"
            )
        new_w, new_v = np.empty_like(w), np.empty_like(v)
        self.run(self._updates(rule, seed or 0, (w, v, g), (new_w, new_v)))
        return new_w, new_v

    def run(self, commands: Iterable[Command]) -> None:
        """Send commands ahead of their responses, which each one's `take` is given in order. Unless all goes
        well the device is reset, if it still answers."""
        waiting: deque[tuple[Opcode, Callable[..., None]]] = deque()
        try:
            for opcode, arguments, data, take in commands:
                send(self.transport, opcode, arguments, data)
                waiting.append((opcode, take))
                if len(waiting) > AHEAD:
                    opcode, take = waiting.popleft()
                    take(*response(self.transport, opcode))
            for opcode, take in waiting:
                take(*response(self.transport, opcode))
        except BaseException:
            self._requantising = False
            with suppress(OSError):  # of a device that does not answer the first error says more
                self.transport.reset()
            raise

    def _sources(self, seed: int | None) -> _Sources:
        """Row i and column j → the states of the random sources that a GEMM command needs whose results begin
        there."""
        if seed is None or self.arithmetic.draws is Draws.NOTHING:
            return lambda i, j: []
        return lambda i, j: list(self.arithmetic.sources(seed, i, j))

    def _commands(
        self, a: Codes, b: Codes, c: Codes, sources: _Sources, requantisation: Requantisation | None = None
    ) -> Iterator[Command]:
        """The commands that compute `c`, in such an order that loads overlap the GEMM before."""
        g = self.geometry
        if requantisation is None and self._requantising:
            yield Opcode.REQUANTISE, [], NO_WORDS, nothing
        self._requantising = requantisation is not None
        m_tiles, n_tiles = -(-a.shape[0] // g.rows), -(-b.shape[1] // g.tile_columns)
        steps = g.steps(a.shape[1])
        if steps <= g.depth:
            # A GEMM must last longer than its A takes to load and its command to take in. Larger blocks would
            # only make the first loads longer, which nothing overlaps.
            room, results = g.depth // steps, MAX_LENGTH // self._tile_words
            slots = slots_per_word(self.arithmetic.a.width)
            n_block = min(n_tiles, room, results, 1 + g.rows * g.group // (slots * g.step))
            if requantisation is not None:  # one command's tiles of columns all have the same parameters
                n_block = 1
            enough = 1 + _COMMAND_CYCLES // (n_block * steps * g.step)
            m_block = min(m_tiles, room, results // n_block, enough)
            yield from self._blocks(a, b, c, sources, requantisation, m_block, n_block)
        else:
            yield from self._slices(a, b, c, sources, requantisation)

    def _blocks(
        self,
        a: Codes,
        b: Codes,
        c: Codes,
        sources: _Sources,
        requantisation: Requantisation | None,
        m_block: int,
        n_block: int,
    ) -> Iterator[Command]:
        """The commands where K fits the buffers: a block of B stays while all of A passes by, and meanwhile
        the next block of B is loaded in pieces."""
        height, width = m_block * self.geometry.rows, n_block * self.geometry.tile_columns
        a_blocks = [self._a_words(a[i : i + height]) for i in range(0, len(a), height)]
        columns = range(0, c.shape[1], width)
        b_next = self._b_words(b[:, :width])
        yield from self._load(Operand.B, 0, b_next)
        yield from self._load(Operand.A, 0, a_blocks[0])
        a_half = 0
        for j, column in enumerate(columns):
            b_half = j % 2
            more = j + 1 < len(columns)
            if more:
                b_next = self._b_words(b[:, columns[j + 1] : columns[j + 1] + width])
            piece = -(-len(b_next) // len(a_blocks))
            yield from self._requantise(requantisation, column)
            for i in range(len(a_blocks)):
                part = c[i * height : (i + 1) * height, column : column + width]
                yield self._gemm(part, a.shape[1], a_half, b_half, sources(i * height, column))
                a_half ^= 1
                if i + 1 < len(a_blocks) or more:
                    yield from self._load(Operand.A, a_half, a_blocks[(i + 1) % len(a_blocks)])
                if more:
                    yield from self._load(
                        Operand.B, b_half ^ 1, b_next[i * piece : (i + 1) * piece], i * piece
                    )

    def _slices(
        self, a: Codes, b: Codes, c: Codes, sources: _Sources, requantisation: Requantisation | None
    ) -> Iterator[Command]:
        """The commands where K does not fit the buffers: one tile after another, each in slices of K between
        which the sums stay in the array."""
        height, width = self.geometry.rows, self.geometry.tile_columns
        k, group = a.shape[1], self.geometry.group
        steps = self.geometry.steps(k)
        slices = -(-steps // self.geometry.depth)
        length = -(-steps // slices) * group
        half = 0
        for i in range(0, c.shape[0], height):
            for j in range(0, c.shape[1], width):
                yield from self._requantise(requantisation, j)
                for start in range(0, k, length):
                    end = min(start + length, k)
                    yield from self._load(Operand.A, half, self._a_words(a[i : i + height, start:end]))
                    yield from self._load(Operand.B, half, self._b_words(b[start:end, j : j + width]))
                    part = c[i : i + height, j : j + width]
                    yield self._gemm(
                        part, end - start, half, half, sources(i, j), first=start == 0, last=end == k
                    )
                    half ^= 1

    def _requantise(self, requantisation: Requantisation | None, column: int) -> Iterator[Command]:
        """The command that gives a tile of columns, from `column` on, its parameters, if there are any."""
        if requantisation is None:
            return
        here = slice(column, column + self.geometry.columns)
        parameters = np.zeros((self.geometry.columns, PARAMETER_WORDS), np.uint32)
        multipliers, offsets = requantisation.multipliers[here], requantisation.offsets[here]
        for i, numbers in enumerate((multipliers, offsets, offsets >> 32)):
            parameters[: len(numbers), i] = numbers & 0xFFFFFFFF
        arguments = RequantiseArguments.pack(shift=requantisation.shift)
        yield Opcode.REQUANTISE, [arguments], parameters.reshape(-1), nothing

    def _a_words(self, a: Codes) -> Words:
        """Rows of A as the row banks take them: (addresses, groups)."""
        g = self.geometry
        tiles = -(-len(a) // g.rows)
        padded = np.zeros((tiles * g.rows, a.shape[1]), a.dtype)
        padded[: len(a)] = a
        steps = a.shape[1] // g.group
        banks = padded.reshape(tiles, g.rows, steps, g.group).transpose(0, 2, 1, 3)
        addresses = tiles * steps
        return pack(banks.reshape(addresses, -1), self.arithmetic.a.width).reshape(addresses, -1)

    def _b_words(self, b: Codes) -> Words:
        """Columns of B as the column banks take them: (addresses, groups)."""
        g = self.geometry
        tiles = -(-b.shape[1] // g.tile_columns)
        padded = np.zeros((len(b), tiles * g.tile_columns), b.dtype)
        padded[:, : b.shape[1]] = b
        steps = len(b) // g.group
        banks = padded.reshape(steps, g.group, tiles, g.interleave, g.columns).transpose(2, 0, 3, 4, 1)
        addresses = tiles * steps * g.interleave
        return pack(banks.reshape(addresses, -1), self.arithmetic.b.width).reshape(addresses, -1)

    @property
    def _tile_words(self) -> int:
        """Words of one tile's results."""
        g = self.geometry
        return g.rows * g.interleave * -(-g.columns // slots_per_word(self.arithmetic.result.width))

    def _load(self, operand: Operand, half: int, words: Words, start: int = 0) -> Iterator[Command]:
        """LOADs of (addresses, groups), as many as their length asks for."""
        most = (MAX_LENGTH - 1) // words.shape[1]
        for i in range(0, len(words), most):
            place = LoadArguments.pack(start=start + i, half=half, operand=operand)
            yield Opcode.LOAD, [place], words[i : i + most].reshape(-1), nothing

    def _gemm(
        self,
        part: Codes,
        k: int,
        a_half: int,
        b_half: int,
        sources: list[int],
        *,
        first: bool = True,
        last: bool = True,
    ) -> Command:
        """One GEMM whose results go to `part`, a view of C that its tiles cover."""
        g = self.geometry
        m_tiles, n_tiles = -(-part.shape[0] // g.rows), -(-part.shape[1] // g.tile_columns)
        flags = GemmArguments.pack(k=g.steps(k), a_half=a_half, b_half=b_half, first=first, last=last)
        tiles = TileArguments.pack(m_tiles=m_tiles, n_tiles=n_tiles)
        requantised = self._requantising

        def take(words: Words) -> None:
            if not last:
                return
            codes = unpack(words, self.codes if requantised else self.arithmetic.result.width)
            shape = (m_tiles, n_tiles, g.rows, g.interleave, -1)
            results = codes.reshape(shape)[:, :, ::-1, :, : g.columns].transpose(0, 2, 1, 3, 4)
            whole = results.reshape(m_tiles * g.rows, n_tiles * g.tile_columns)
            part[...] = whole[: part.shape[0], : part.shape[1]]

        return Opcode.GEMM, [flags, tiles, *sources], NO_WORDS, take

    def _updates(
        self, rule: HardwareRule, seed: int, elements: tuple[Codes, ...], results: tuple[Codes, ...]
    ) -> Iterator[Command]:
        """UPDATEs of `elements` (weights, momenta, gradients); what they answer goes to `results`."""
        slot = update_slot(rule.formats)
        together, count = slots_per_word(slot), elements[0].size  # elements of a group
        flat = np.zeros((3, -(-count // together) * together), np.uint32)
        for row, codes in zip(flat, elements, strict=True):
            row[:count] = codes.reshape(-1)
        w, v, g = flat.reshape(3, -1, together)
        pairs = np.stack([w, v], axis=2).reshape(len(w), 2 * together)
        groups = pack(np.concatenate([g, pairs], axis=1), slot).reshape(-1, 3)
        scalars = np.array([rule.scalars[name] for name in ("rate", "momentum", "decay")], np.uint32)
        settings = np.append(pack(scalars, update_slot([rule.scalar])), np.uint32(seed))
        for start in range(0, len(groups), _GROUPS):
            part = groups[start : start + _GROUPS]
            arguments = UpdateArguments.pack(groups=len(part), first=start == 0)
            data = np.concatenate([settings[: 0 if start else None], part.reshape(-1)])
            of_part = slice(together * start, together * (start + len(part)))

            def take(words: Words, here: slice = of_part) -> None:
                new = unpack(words, slot).reshape(-1, 2)
                for i, codes in enumerate(results):
                    into = codes.reshape(-1)[here]
                    into[:] = new[: len(into), i]

            yield Opcode.UPDATE, [arguments], data, take
