"""Bit streams: a number is the share of ones in a stream, a multiplier is one gate, a sum is a counter.

After Gupta, Sindhwani and Gopalakrishnan 2014 (arXiv 1409.2620), by the standard theory of stochastic
computing; the paper's own circuits are not known here. With A of shape (M, K) and B of shape (K, N), streams
of L bits and a, b the operands as fractions between −1 and 1, one output counts over all k and over the
cycles t = 0 … L − 1 of each product::

    and     ±1 if |a|'s and |b|'s bits are both 1, and else 0; the sign is that of a·b
    xnor    +1 if the bits of a and of b are equal, and else −1
    mux     the same for one k alone, drawn anew each cycle, times K

and is worth count / L. A bit of product k in cycle t is 1 where a number of that k and t is below a
threshold. Unipolar (and): numbers of as many bits as the magnitude, threshold |a|. Bipolar (xnor, mux): of
one bit more, threshold (1 + a)/2.

Which streams share a generator
-------------------------------
The generators stand at an array's edges: row i of A and column j of B have one each, and their bits meet at
element (i, j). All rows' are LFSRs on one polynomial, all columns' on another. Row i + 1's state before the
first draw is row i's exclusive-or row i's 18 steps on, and so for columns; row 0's and column 0's are
``numbered_seed(seed, 0)`` and 1. A product takes L draws, and the generators run on from product to product:
no row uses a number twice, and an output's own numbers are as good as independent. The outputs of a row see
the same bits of A, those of a column the same bits of B. An error that a stream of A has is in its whole row,
as if the operand had been rounded at random. The multiplexers of all outputs pass the same products, chosen
by one generator more, whose state is ``numbered_seed(seed, 2)``. It draws 16 bits: of K products each comes
by K/65,536 too often or too rarely at most, and exactly as often where K is a power of two.

A stream is more than single bits: two rows' streams have nothing to do with each other only if any number of
one and any of the other are independent, all their bits together. Between next rows a hop of h steps gives
that to numbers of up to h bits. With a shorter one the upper bits of the next row's number follow from this
row's: a hop of 3 and numbers of 7 bits make streams of 1/128 and 8/128 go together with a correlation of
0.34. With 18 steps numbers of up to 10 bits are independent of any other row's or column's, for rows and
columns up to 40 apart and cycles up to 24 apart; of 12 bits, in 6 of these 3,920 places one or two bits
follow from the others, of 13 bits in 30. All rows read one sequence of bits, from different places, and so do
all columns: of 256 rows the nearest two begin 6,323,400 steps apart, of columns 12,472,686. Products that
take more bits than that (K·L times a number's) have late numbers of one row made of the bits of early numbers
of the other.

That exclusive-or is a factor 1 + x**18 in the field of the LFSR's states, in which a draw is a factor too:
row i + 1's state is row i's times 1 + x**18 after any number of draws. So an array of hardware has one LFSR
at its corner for all rows, whose state hops from row to row through exclusive-ors, a cycle each as the
operands do, and one for all columns.

`Sharing` has what goes wrong with fewer generators. One for both operands is fatal: two streams of the same
numbers have min(|a|, |b|) ones in common.

Variances
---------
With independent numbers, of one output (p = |a|·|b| and x = a·b of product k, m = the mean of x over k)::

    and     Σ p·(1 − p) / L
    xnor    Σ (1 − x²) / L
    mux     K²·(1 − m²) / L

A van der Corput generator draws once a product. Its L numbers are a pattern, exclusive-or that
draw: A's pattern is t with its bits reversed, B's is t itself, scaled to the number's bits. Together
they are the Hammersley points of the unit square under a random digital shift: still unbiased, and their
error is of the order of 1/L instead of 1/√L.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.arithmetic.operands import check_operands
from quaver.golden.contracts import Codes, Draws, HardwareRule
from quaver.golden.formats import FixedFormat, SignMagnitudeFormat
from quaver.golden.lfsr import LFSR
from quaver.golden.random_bits import COLUMN, DIAGONAL, ROW, Source, States, states
from quaver.golden.validation import Choice, set_integers

_SM8 = SignMagnitudeFormat(8)

#: The rows' generators and the columns'. A hop is no shorter than a number.
ROW_STREAMS, COLUMN_STREAMS = (source._replace(hop=18) for source in (ROW, COLUMN))

#: Bits of the number that selects a product of the multiplexer, by multiplication with K.
SELECT_BITS = 16
#: Bytes of packed streams that a GEMM holds at once, about.
_HELD = 1 << 26


class Circuit(Choice):
    """What multiplies and what adds up."""

    AND = "and"
    """An AND gate on magnitudes, signs aside, and an up/down counter."""
    XNOR = "xnor"
    """An XNOR gate on bipolar streams, and an up/down counter."""
    MUX = "mux"
    """XNOR gates, a multiplexer that passes one of the K products a cycle, and a counter at its end."""


class Generator(Choice):
    """Where the numbers come from."""

    LFSR = "lfsr"
    """One draw of an LFSR a number."""
    VAN_DER_CORPUT = "van_der_corput"
    """A counter, its bits reversed for A, exclusive-or one draw a product."""


class Sharing(Choice):
    """Which streams share a generator."""

    EDGES = "edges"
    """Each row of A and each column of B has its own, which runs on from product to product."""
    BROADCAST = "broadcast"
    """One for all rows and one for all columns. Each output is as good, but their errors go together: wrong
    where outputs are averaged or summed up."""
    RESTARTED = "restarted"
    """Each its own, but begun again with every product. The errors of products of like operands add up to d
    times one instead of √d times."""
    ONE = "one"
    """One for everything. Both operands are compared with the same number: AND gives their minimum."""


@dataclass(frozen=True)
class _Edge:
    """The generators of one operand's streams: `bits` of a number, and the pattern of a product's numbers."""

    source: Source
    bits: int
    pattern: tuple[int, ...]


@dataclass(frozen=True)
class Bitstream:
    """C = A·B by bit streams.

    Parameters
    ----------
    a, b
        Formats of the two operands, of at most 13 bits.
    length
        L, bits of a stream: a power of two, 16 … 4096.
    circuit
        "and", "xnor" or "mux": `Circuit`.
    generator
        "lfsr" or "van_der_corput": `Generator`.
    sharing
        "edges"; the others show what goes wrong: `Sharing`.
    accumulator_bits
        Width of the up/down counter, at most 24: it bounds K, see `chunk`.

    Notes
    -----
    Nothing saturates but the operands. The result is the counter's: fixed point with log2 L fraction bits.
    """

    a: SignMagnitudeFormat = _SM8
    b: SignMagnitudeFormat = _SM8
    length: int = 256
    circuit: Circuit | str = Circuit.AND
    generator: Generator | str = Generator.LFSR
    sharing: Sharing | str = Sharing.EDGES
    accumulator_bits: int = 24

    stochastic: ClassVar = True
    draws: ClassVar = Draws.OPERANDS

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            value = getattr(self, name)
            if not isinstance(value, SignMagnitudeFormat):
                raise TypeError(
                    f"{name} is {value!r}, but it must be a SignMagnitudeFormat, e.g. SignMagnitudeFormat(8)"
                )
            if value.bits > 13:
                raise ValueError(f"{name} is {value}, {value.bits} bits, but operands have at most 13")
        set_integers(self, "length", "accumulator_bits")
        if not 16 <= self.length <= 4096 or self.length & (self.length - 1):
            raise ValueError(f"length is {self.length}, but a stream has 16, 32, 64, … or 4096 bits")
        object.__setattr__(self, "circuit", Circuit(self.circuit))
        object.__setattr__(self, "generator", Generator(self.generator))
        object.__setattr__(self, "sharing", Sharing(self.sharing))
        least = self._length_bits + 2
        if not least <= self.accumulator_bits <= 24:
            raise ValueError(
                f"accumulator_bits is {self.accumulator_bits}, but counters of products of {self.length} "
                f"cycles have {least} … 24"
            )

    @property
    def _length_bits(self) -> int:
        return self.length.bit_length() - 1

    @property
    def bipolar(self) -> bool:
        """Whether the sign is in the stream, not beside it."""
        return self.circuit is not Circuit.AND

    @property
    def random_bits(self) -> int:
        """Bits of a number that A is compared with."""
        return self.number_bits(self.a)

    def number_bits(self, fmt: SignMagnitudeFormat) -> int:
        """Bits of a number that an operand of this format is compared with."""
        return fmt.fraction_bits + self.bipolar

    @property
    def result(self) -> FixedFormat:
        """The counter, in steps of 1/L."""
        return FixedFormat(self.accumulator_bits - self._length_bits, self._length_bits)

    @property
    def chunk(self) -> int:
        """The largest K, all of it one chunk: the counter holds the sum whatever the bits are."""
        held = ((1 << (self.accumulator_bits - 1)) - 1) // self.length
        return min(held, 1 << SELECT_BITS) if self.circuit is Circuit.MUX else held

    @property
    def identity(self) -> tuple[int, int] | None:
        """Codes (a, b) whose product counts nothing in any cycle; None for bipolar streams, which always
        count."""
        return None if self.bipolar else (0, 0)

    @property
    def hardware(self) -> Bitstream:
        """`self`."""
        return self

    @property
    def equivalents(self) -> tuple[Bitstream, ...]:
        """`self` alone."""
        return (self,)

    @property
    def default_update(self) -> HardwareRule | None:
        """None: the master weights are not in this arithmetic, and the host updates them."""
        return None

    def check(
        self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        """The operands as arrays of codes; errors as of `check_operands`, and for K beyond `chunk`."""
        a, b = check_operands(self, a_codes, b_codes, seed)
        if (K := a.shape[1]) > self.chunk:
            if self.circuit is Circuit.MUX and self.chunk == 1 << SELECT_BITS:
                holds = f"a multiplexer chooses among {self.chunk} products;"
            else:
                holds = (
                    f"a counter of {self.accumulator_bits} bits holds {self.chunk} products of {self.length} "
                    f"cycles; take a wider one (24 at most), shorter streams, or"
                )
            raise ValueError(
                f"K is {K}, but {holds} cut K into pieces and add up their results: in training, take a "
                f"smaller batch"
            )
        return a, b

    def sources(self, seed: int | None, row: int = 0, column: int = 0) -> States:
        """The states of row `row`'s generator, of column `column`'s, and of the multiplexer's selector."""
        x, y, z = states(seed)
        if self.sharing is Sharing.ONE:
            return x, x, z
        if self.sharing is Sharing.BROADCAST:
            return x, y, z
        return _place(x, ROW_STREAMS, row), _place(y, COLUMN_STREAMS, column), z

    def thresholds(self, integers: NDArray[np.int32], fmt: SignMagnitudeFormat) -> NDArray[np.uint16]:
        """What numbers are compared with, of operands in steps: a bit is 1 where the number is less."""
        shifted = integers + (1 << fmt.fraction_bits) if self.bipolar else np.abs(integers)
        return shifted.astype(np.uint16)

    def definition(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """The same as `gemm`, bit by bit in Python's integers: what `gemm` is held to."""
        a, b = self.check(a_codes, b_codes, seed=seed)
        x, y = self.a.integers(a), self.b.integers(b)
        (M, K), N = a.shape, b.shape[1]
        of_a, of_b = self._edges
        rows = [self._bits(self.sources(seed, row=i)[0], of_a, self.a, x[i].tolist()) for i in range(M)]
        columns = [
            self._bits(self.sources(seed, column=j)[1], of_b, self.b, y[:, j].tolist()) for j in range(N)
        ]
        selected = self._selected(self.sources(seed)[2], K)
        counts = np.zeros((M, N), np.int64)
        for i, j in np.ndindex(M, N):
            count = 0
            for k in range(K):
                sign = -1 if (x[i, k] < 0) != (y[k, j] < 0) else 1
                for t in range(self.length):
                    p, q = rows[i][k][t], columns[j][k][t]
                    if self.circuit is Circuit.AND:
                        count += sign * (p & q)
                    elif self.circuit is Circuit.XNOR:
                        count += 1 if p == q else -1
                    elif selected[t] == k:
                        count += K if p == q else -K
            counts[i, j] = count
        return self.result.codes(counts)

    def _bits(self, state: int, edge: _Edge, fmt: SignMagnitudeFormat, values: list[int]) -> list[list[int]]:
        """The streams of a row or column of operands: product → cycle → bit."""
        lfsr, found = LFSR(state, edge.source.taps), []
        for value in values:
            threshold = value + (1 << fmt.fraction_bits) if self.bipolar else abs(value)
            if self.sharing is Sharing.RESTARTED:
                lfsr = LFSR(state, edge.source.taps)
            drawn = lfsr.draw(edge.bits)
            stream = []
            for t in range(self.length):
                if t and self.generator is Generator.LFSR:
                    drawn = lfsr.draw(edge.bits)
                stream.append(int(drawn ^ edge.pattern[t] < threshold))
            found.append(stream)
        return found

    def _selected(self, state: int, products: int) -> list[int]:
        """The product that the multiplexer passes, by cycle."""
        lfsr = LFSR(state, DIAGONAL.taps)
        return [lfsr.draw(SELECT_BITS) * products >> SELECT_BITS for _ in range(self.length)]

    @property
    def _edges(self) -> tuple[_Edge, _Edge]:
        """The generators of A's and of B's streams."""
        bits = self.number_bits(self.a), self.number_bits(self.b)
        cycles = range(self.length)
        if self.generator is Generator.LFSR:
            reversed_, counted = [0] * self.length, [0] * self.length
        else:
            reversed_ = [int(f"{t % (1 << bits[0]):0{bits[0]}b}"[::-1], 2) for t in cycles]
            counted = [t << bits[1] >> self._length_bits for t in cycles]
        of_a = _Edge(ROW_STREAMS, bits[0], tuple(reversed_))
        if self.sharing is Sharing.ONE:
            return of_a, _Edge(ROW_STREAMS, bits[1], of_a.pattern)
        return of_a, _Edge(COLUMN_STREAMS, bits[1], tuple(counted))

    def gemm(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """C = A·B.

        Parameters
        ----------
        a_codes, b_codes
            Operand codes, shapes (M, K) and (K, N), K at most `chunk`. Any of M, K, N may be 0.
        seed
            1 … 2**32 − 1.

        Returns
        -------
        Codes of `result`, shape (M, N).
        """
        from quaver.golden.kernels import bitstream as kernel  # compiles: not before something is computed

        return self.counted(kernel, a_codes, b_codes, seed)

    def counted(self, kernel: Any, a_codes: ArrayLike, b_codes: ArrayLike, seed: int | None) -> Codes:
        """`gemm` with the counts of a `kernel`: its `signed_ones` and `differing` are those of
        `quaver.golden.kernels.bitstream`."""
        a, b = self.check(a_codes, b_codes, seed=seed)
        x, y = self.a.integers(a), self.b.integers(b).T
        M, N, K = len(x), len(y), x.shape[1]
        step = max(1, _HELD // (max(8, self.length // 8) * max(1, M + N)))
        pieces = [slice(k, k + step) for k in range(0, K, step)]
        row, column, select = self.sources(seed)
        of_a, of_b = self._edges
        streams_of_a = self._streams(row, of_a, self.thresholds(x, self.a), pieces)
        streams_of_b = self._streams(column, of_b, self.thresholds(y, self.b), pieces)
        both = zip(pieces, streams_of_a, streams_of_b, strict=True)
        counts = np.zeros((M, N), np.int64)
        if self.circuit is Circuit.MUX:
            selected = np.array(self._selected(select, K)) == np.arange(K)[:, None]
            passed = _packed(selected)
            p, q = (np.zeros((n, 1, passed.shape[1]), np.uint64) for n in (M, N))
            for piece, s, t in both:
                p[:, 0] |= np.bitwise_or.reduce(s & passed[piece], axis=1)
                q[:, 0] |= np.bitwise_or.reduce(t & passed[piece], axis=1)
            counts = K * (self.length - 2 * kernel.differing(p, q))
        elif self.circuit is Circuit.XNOR:
            for _, s, t in both:
                counts += self.length * s.shape[1] - 2 * kernel.differing(s, t)
        else:
            for piece, s, t in both:
                counts += kernel.signed_ones(s, x[:, piece] < 0, t, y[:, piece] < 0)
        return self.result.codes(counts)

    def _streams(
        self, state: int, edge: _Edge, thresholds: NDArray[np.uint16], pieces: list[slice]
    ) -> Iterator[NDArray[np.uint64]]:
        """Packed streams of all rows (or columns), of a piece of the products after the other: (rows,
        products, words)."""
        states = [state]
        for _ in thresholds[1:]:
            apart = self.sharing in (Sharing.EDGES, Sharing.RESTARTED)
            states.append(_place(states[-1], edge.source, 1) if apart else state)
        lfsrs = [LFSR(each, edge.source.taps) for each in states]
        pattern = np.array(edge.pattern, np.uint16)
        cycles = self.length if self.generator is Generator.LFSR else 1
        for piece in pieces:
            limits = thresholds[:, piece, None]
            packed = np.empty((*limits.shape[:2], -(-self.length // 64)), np.uint64)
            for i, lfsr in enumerate(lfsrs[: len(limits)]):
                again = self.sharing is Sharing.RESTARTED
                if again:
                    lfsr.state = states[i]
                numbers = lfsr.draws(cycles * (1 if again else limits.shape[1]), edge.bits)
                packed[i] = _packed((numbers.reshape(-1, cycles) ^ pattern) < limits[i])
            yield packed


def _place(state: int, source: Source, places: int) -> int:
    """The state of the generator so many rows, or columns, further on: each is a factor 1 + x**hop, whose
    2**i-th power is 1 + x**(2**i · hop). ValueError: a negative number of places."""
    if places < 0:
        raise ValueError(
            f"{places} rows or columns further on, but there is no going back; ask for 0 or more"
        )
    for i in range(places.bit_length()):
        if places >> i & 1:
            state ^= source.moved(state, 1 << i)
    return state


def _packed(streams: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """(products, cycles) as words, cycle t at bit t mod 64 of word t div 64."""
    octets = np.packbits(streams, axis=1, bitorder="little")
    words = np.zeros((len(octets), -(-octets.shape[1] // 8) * 8), np.uint8)
    words[:, : octets.shape[1]] = octets
    return words.view("<u8").astype(np.uint64, copy=False)
