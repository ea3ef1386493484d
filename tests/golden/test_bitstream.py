"""Bit streams: kernel and definition, the noise theory, and what a wrong sharing costs."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce
from itertools import product
from operator import xor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quaver.golden.arithmetic import ARITHMETICS, Bitstream, bitstream
from quaver.golden.arithmetic.bitstream import COLUMN_STREAMS, ROW_STREAMS, Circuit, Generator, Sharing
from quaver.golden.arithmetic.named import named, spelled
from quaver.golden.descriptor import Descriptor, descriptor
from quaver.golden.formats import FixedFormat, SignMagnitudeFormat
from quaver.golden.lfsr import LFSR, numbered_seed
from quaver.golden.random_bits import Source

SM8 = SignMagnitudeFormat(8)


def operands(arithmetic: Bitstream, m: int, k: int, n: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 1 << fmt.bits, shape).astype(fmt.code_dtype)
        for fmt, shape in ((arithmetic.a, (m, k)), (arithmetic.b, (k, n)))
    ]


@pytest.mark.parametrize("circuit", Circuit)
@pytest.mark.parametrize("generator", Generator)
@pytest.mark.parametrize("sharing", Sharing)
def test_the_kernel_is_the_definition(circuit: Circuit, generator: Generator, sharing: Sharing) -> None:
    """Every class: streams of less than a word, of one and of several; operands of two widths."""
    for length, bits in product((16, 64, 128), ((5, 4), (4, 9))):
        formats = map(SignMagnitudeFormat, bits)
        arithmetic = Bitstream(*formats, length, circuit, generator, sharing)
        a, b = operands(arithmetic, 3, 5, 2)
        assert np.array_equal(arithmetic.gemm(a, b, seed=7), arithmetic.definition(a, b, seed=7))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(choices=st.data())
def test_of_any_parameters_and_shape(choices: st.DataObject) -> None:
    arithmetic = Bitstream(
        SignMagnitudeFormat(choices.draw(st.integers(2, 13))),
        SignMagnitudeFormat(choices.draw(st.integers(2, 13))),
        1 << choices.draw(st.integers(4, 8)),
        choices.draw(st.sampled_from(Circuit)),
        choices.draw(st.sampled_from(Generator)),
        choices.draw(st.sampled_from(Sharing)),
    )
    m, k, n = (choices.draw(st.integers(0, top)) for top in (5, 6, 3))
    a, b = operands(arithmetic, m, k, n, choices.draw(st.integers(0, 99)))
    seed = choices.draw(st.integers(1, (1 << 32) - 1))
    assert np.array_equal(arithmetic.gemm(a, b, seed=seed), arithmetic.definition(a, b, seed=seed))


@pytest.mark.parametrize("circuit", Circuit)
@pytest.mark.parametrize("generator", Generator)
def test_more_columns_than_a_tile_and_pieces_of_k(
    circuit: Circuit, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    arithmetic = Bitstream(length=128, circuit=circuit, generator=generator)
    a, b = operands(arithmetic, 2, 7, 67)
    whole = arithmetic.gemm(a, b, seed=3)
    monkeypatch.setattr("quaver.golden.arithmetic.bitstream._HELD", 3 * 69 * 16)  # three products a piece
    assert np.array_equal(arithmetic.gemm(a, b, seed=3), whole)
    some = [0, 63, 64, 66]
    assert np.array_equal(arithmetic.definition(a, b[:, :1], seed=3), whole[:, :1])
    if circuit is Circuit.AND:
        assert np.array_equal(arithmetic.definition(a, b, seed=3)[:, some], whole[:, some])


def test_one_wrong_bit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    arithmetic = Bitstream(length=128, circuit="xnor")
    a, b = operands(arithmetic, 2, 3, 2)
    packed, calls = bitstream._packed, []

    def broken(streams: Any) -> Any:
        words = packed(streams)
        if not calls:  # row 0, product 1, cycle 69
            words[1, 1] ^= np.uint64(1 << 5)
        return calls.append(1) or words

    monkeypatch.setattr(bitstream, "_packed", broken)
    integers = arithmetic.result.integers
    off = integers(arithmetic.gemm(a, b, seed=4)) - integers(arithmetic.definition(a, b, seed=4))
    assert np.abs(off).tolist() == [[2, 2], [0, 0]]


def test_by_hand() -> None:
    """One product, written out: 16 numbers of 3 bits of two LFSRs, compared and counted."""
    fmt = SignMagnitudeFormat(4)
    arithmetic = Bitstream(fmt, fmt, 16)
    one, other = LFSR(numbered_seed(9, 0)), LFSR(numbered_seed(9, 1), (32, 30, 27, 24))
    bits = [(one.draw(3) < 5, other.draw(3) < 3) for _ in range(16)]
    count = -sum(p and q for p, q in bits)
    codes = arithmetic.gemm(np.array([[5]], np.uint8), np.array([[8 + 3]], np.uint8), seed=9)
    assert count < 0
    assert arithmetic.result.decode(codes) == count / 16


def errors(arithmetic: Bitstream, a: Any, b: Any, seeds: int, first: int = 1) -> np.ndarray[Any, Any]:
    """Errors of the results, (seeds, M, N)."""
    exact = arithmetic.a.decode(a).astype(np.float64) @ arithmetic.b.decode(b)
    results = [arithmetic.gemm(a, b, seed=numbered_seed(5, first + s)) for s in range(seeds)]
    return np.array([arithmetic.result.decode(c) for c in results]) - exact


@pytest.mark.parametrize(("circuit", "length"), list(product(Circuit, (16, 256))))
def test_the_noise_is_what_theory_says(circuit: Circuit, length: int) -> None:
    """Mean 0 and the variance of the documented formulas, over 6,400 dot products of 40 terms."""
    arithmetic = Bitstream(length=length, circuit=circuit)
    a, b = operands(arithmetic, 4, 40, 4)
    x, y = arithmetic.a.decode(a).astype(np.float64), arithmetic.b.decode(b).astype(np.float64)
    products = x[:, :, None] * y
    variance = {
        Circuit.AND: (np.abs(products) * (1 - np.abs(products))).sum(axis=1),
        Circuit.XNOR: (1 - products**2).sum(axis=1),
        Circuit.MUX: 40**2 * (1 - products.mean(axis=1) ** 2),
    }[circuit] / length
    e = errors(arithmetic, a, b, 400) / np.sqrt(variance)
    assert abs(e.mean(axis=0)).max() < 4 / np.sqrt(400)
    assert 0.92 < (e**2).mean() < 1.08


def test_errors_go_together_only_through_the_streams_that_outputs_share() -> None:
    """Cov = Σ a·a'·b·(1 − b)/L of two outputs of a column, with signs; none of outputs that share nothing."""
    arithmetic = Bitstream(length=16)
    fmt = arithmetic.a
    a, b = fmt.encode(np.full((2, 30), 0.75)), fmt.encode(np.full((30, 2), 0.5))
    e = errors(arithmetic, a, b, 3000)
    expected = 30 * 0.75**2 * 0.5 * 0.5 / 16
    assert (e[:, 0, 0] * e[:, 1, 0]).mean() == pytest.approx(expected, rel=0.2)
    assert abs((e[:, 0, 0] * e[:, 1, 1]).mean()) < 0.1 * expected
    shared = errors(replace(arithmetic, sharing="broadcast"), a, b, 300)
    assert np.array_equal(shared[:, 0, 0], shared[:, 1, 1])  # like operands, like errors


def dependent_bits(source: Source, width: int, places: int, cycles: int) -> list[int]:
    """How many bits of a row's number and of another row's follow from the others, for rows up to `places`
    and cycles up to `cycles` apart; pairs without such bits are left out.

    Every bit is a sum of bits of one state, which an integer has as its ones.
    """
    first = [1 << i for i in range(32)]
    while len(first) < (2 * cycles + 1) * width + places * source.hop:
        first.append(reduce(xor, (first[-tap] for tap in source.taps)))
    row, number, found = first, slice(cycles * width, (cycles + 1) * width), []
    for _ in range(places):
        row = list(map(xor, row, row[source.hop :]))
        for cycle in range(2 * cycles + 1):
            independent: dict[int, int] = {}
            for form in first[number] + row[cycle * width : (cycle + 1) * width]:
                while form and form.bit_length() in independent:
                    form ^= independent[form.bit_length()]
                if form:
                    independent[form.bit_length()] = form
            found.append(2 * width - len(independent))
    return [bits for bits in found if bits]


@pytest.mark.parametrize("source", [ROW_STREAMS, COLUMN_STREAMS], ids=["rows", "columns"])
def test_numbers_of_rows_are_independent_of_other_rows(source: Source) -> None:
    """All bits of two numbers together. A shorter hop is seen."""
    for width in (7, 8, 10):
        assert not dependent_bits(source, width, places=40, cycles=24)
    assert max(dependent_bits(source, 12, places=40, cycles=24)) <= 2
    assert 4 in dependent_bits(source._replace(hop=3), 7, places=1, cycles=1)


def test_streams_of_next_neighbours_have_nothing_to_do_with_each_other() -> None:
    """Of 1/128 and 8/128: with a hop of 3 they had a correlation of 0.34, as 4 bits of a number followed from
    its neighbour's."""
    a, b = np.full((1, 64), 127, np.uint8), np.tile(np.array([1, 8, 64, 8], np.uint8), (64, 1))
    found = np.corrcoef(errors(Bitstream(length=64), a, b, 1000)[:, 0].T)
    assert abs(found - np.eye(4)).max() < 0.13


def test_one_generator_for_both_operands_gives_their_minimum() -> None:
    a, b = SM8.encode([[0.5]]), SM8.encode([[-0.75]])
    for length in (256, 4096):
        e = errors(Bitstream(length=length, sharing="one"), a, b, 50).mean()
        assert e + 0.5 * -0.75 == pytest.approx(-0.5, abs=0.02)
    assert abs(errors(Bitstream(length=4096), a, b, 50).mean()) < 0.005


def test_generators_that_begin_again_make_the_errors_of_like_products_equal() -> None:
    d = 64
    a, b = SM8.encode(np.full((1, d), 0.5)), SM8.encode(np.full((d, 1), 0.5))
    right, wrong = (errors(Bitstream(sharing=sharing), a, b, 200).var() for sharing in ("edges", "restarted"))
    assert wrong / right == pytest.approx(d, rel=0.4)


@pytest.mark.parametrize("circuit", [Circuit.AND, Circuit.XNOR])
def test_van_der_corput_is_unbiased_and_quieter(circuit: Circuit) -> None:
    arithmetic = Bitstream(length=256, circuit=circuit)
    a, b = operands(arithmetic, 4, 20, 4)
    random = errors(arithmetic, a, b, 100)
    regular = errors(replace(arithmetic, generator="van_der_corput"), a, b, 100)
    assert regular.std() < random.std() / 4
    assert abs(regular.mean(axis=0)).max() < 4.5 * regular.std() / np.sqrt(100)


def test_magnitudes_are_exact_over_a_whole_period_of_van_der_corput() -> None:
    """Against the largest magnitude, that L − 1 of L numbers are below, all counts lose at most a cycle."""
    arithmetic = Bitstream(length=128, generator="van_der_corput")
    a = np.arange(128, dtype=np.uint8)[:, None]
    found = arithmetic.result.integers(arithmetic.gemm(a, np.array([[127]], np.uint8), seed=1))[:, 0]
    assert set(np.arange(128) - found) <= {0, 1}


def test_it_has_a_name_and_a_descriptor() -> None:
    assert ARITHMETICS["bitstream"] is Bitstream
    arithmetic = Bitstream(length=64, circuit="xnor", generator="van_der_corput")
    assert named("bitstream") == Bitstream()
    assert named(spelled(arithmetic)) == arithmetic
    assert Descriptor.parse(str(descriptor(arithmetic))).describes(arithmetic)
    assert arithmetic.result == FixedFormat(18, 6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Bitstream(a=8), TypeError, "a is 8, but it must be a SignMagnitudeFormat, e.g. "),
        (
            lambda: Bitstream(b=SignMagnitudeFormat(14)),
            ValueError,
            "b is sm14, 14 bits, but operands have at most 13",
        ),
        (
            lambda: Bitstream(length=100),
            ValueError,
            "length is 100, but a stream has 16, 32, 64, … or 4096 bits",
        ),
        (lambda: Bitstream(length=8192), ValueError, "length is 8192, but a stream has"),
        (
            lambda: Bitstream(circuit="or"),
            ValueError,
            "'or' is not a valid Circuit, but there are 'and', 'xnor', 'mux'",
        ),
        (
            lambda: Bitstream(accumulator_bits=9),
            ValueError,
            "accumulator_bits is 9, but counters of products of 256 cycles have 10 … 24",
        ),
        (
            lambda: Bitstream(accumulator_bits=10).gemm(
                np.zeros((1, 2), "u1"), np.zeros((2, 1), "u1"), seed=1
            ),
            ValueError,
            "K is 2, but a counter of 10 bits holds 1 products of 256 cycles; take a wider one (24 at most)",
        ),
        (
            lambda: Bitstream().gemm(np.zeros((1, 1), "u1"), np.zeros((1, 1), "u1")),
            ValueError,
            "seed is None",
        ),
    ],
)
def test_refusals(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        make()


def test_nothing_to_sum_up() -> None:
    for circuit in Circuit:
        empty = Bitstream(circuit=circuit).gemm(np.zeros((2, 0), "u1"), np.zeros((0, 3), "u1"), seed=1)
        assert empty.tolist() == [[0] * 3] * 2
