"""AdaComp's CUDA kernels, compiled by g++ from the source that a GPU gets: golden's packets, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quaver.golden.compression import AdaComp, NonFinite, Packet, PacketError, mean, unpack
from quaver.golden.compression.packet import OVERHEAD, fault
from quaver.golden.kernels.cuda import adacomp, source
from quaver.golden.kernels.cuda.adacomp import UNMARKED, Bucket
from quaver.golden.kernels.cuda.source import Program
from quaver.sim.cuda import Processor

GPU, BACKWARDS = Processor(), Processor(backwards=True)
TINY, LARGE = np.float32(2.0**-149), np.float32(2.0**126)

Floats = NDArray[np.float32]


def layers_of(bucket: Bucket, flat: Floats) -> list[Floats]:
    return np.split(flat, bucket.firsts[1:])


def packed(gpu: Processor, bucket: Bucket, residues: Floats, gradients: Floats, **where: int) -> Any:
    """Each layer's packet, how many values it sends and whether all was finite; and the new residues."""
    packets, starts, about, kept = adacomp.compress(gpu, bucket, residues, gradients, **where)
    data = [bytes(packets[s : s + n]) for s, (n, _, _) in zip(starts, about, strict=True)]
    return data, about[:, 1].tolist(), about[:, 2].tolist(), layers_of(bucket, kept)


def check(gpu: Processor, bucket: Bucket, residues: Floats, gradients: Floats) -> list[Packet]:
    """Golden's packets, of which the kernels' are the bytes."""
    data, sent, finite, kept = packed(gpu, bucket, residues, gradients, learner=3, step=9)
    found = []
    for i, arrays in enumerate(zip(layers_of(bucket, residues), layers_of(bucket, gradients), strict=True)):
        rule, layer = AdaComp(bucket.bin_lengths[i], NonFinite.PASS), bucket.numbers[i]
        packet, left = rule.compress(*arrays, layer=layer, learner=3, step=9)
        assert data[i] == packet.pack(), i
        assert kept[i].tobytes() == left.tobytes(), i
        assert (sent[i], bool(finite[i])) == (packet.sent, packet.is_finite)
        found.append(packet)
    return found


def averaged(gpu: Processor, bucket: Bucket, learners: list[list[bytes]]) -> Any:
    """What the kernels make of packets that follow each other: the averages, and what is wrong with each."""
    sizes = np.array([[len(data) for data in packets] for packets in learners], np.int64)
    starts = np.cumsum([0, *sizes.reshape(-1)])[:-1].reshape(sizes.shape)
    joined = np.frombuffer(b"".join(data for packets in learners for data in packets), np.uint8)
    element = np.where(np.array(bucket.bin_lengths) < 64, 1, 2)
    with np.errstate(invalid="ignore"):
        scales = np.array(
            [[np.frombuffer(data[28:32], "<f4")[0] for data in packets] for packets in learners], np.float32
        )
    shares = scales / np.float32(len(learners))
    found = adacomp.average(gpu, bucket, joined, starts, (sizes - OVERHEAD) // element, shares)
    sums, checksums, marks = found
    stored = [[int.from_bytes(data[32:36], "little") for data in packets] for packets in learners]
    return layers_of(bucket, sums), checksums == np.array(stored), marks


def drawn(rng: np.random.Generator, count: int, kind: str) -> Floats:
    with np.errstate(over="ignore"):
        x = rng.normal(size=count) * {"tiny": 2.0**-147, "large": 2.0**124}.get(kind, 1.0)
        values = x.astype(np.float32)
    if kind == "ties":
        values = rng.choice(np.array([0, 1, -1, -0.0, 0.5], np.float32), count)
    elif kind == "sparse":
        values[rng.random(count) < 0.98] = 0
    elif kind == "wide":
        values = np.ldexp(values, rng.integers(-148, 120, count)).astype(np.float32)
    return values


#: The last of them has more stretches than a block has threads.
BUCKET = Bucket(
    (0, 5, 6, 7, 8, 9, 1 << 20, 11, 12, 13),
    (1, 50, 1700, 63, 0, 4000, 70_000, 999, 40_000, 17_001),
    (50, 50, 50, 63, 500, 1, 500, 16_383, 64, 2),
)
KINDS = "normal", "ties", "sparse", "tiny", "wide", "large"


@pytest.mark.parametrize("kind", KINDS)
def test_packets_residues_and_averages_are_goldens(kind: str) -> None:
    rng, learners = np.random.default_rng(1), []
    for gpu in (GPU, BACKWARDS, GPU):
        arrays = [drawn(rng, BUCKET.elements, kind) for _ in range(2)]
        learners.append(check(gpu, BUCKET, *arrays))
    averages, right, marks = averaged(GPU, BUCKET, [[p.pack() for p in packets] for packets in learners])
    assert right.all()
    for i, packets in enumerate(zip(*learners, strict=True)):
        assert np.array_equal(averages[i], mean(packets), equal_nan=True)
        assert all(m == UNMARKED for m, p in zip(marks[:, i], packets, strict=True) if p.is_finite)


floats = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, TINY, -TINY, 2.0**-126, LARGE, 3.0e38, np.inf, np.nan])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.tuples(st.integers(0, 300), st.sampled_from([1, 2, 31, 32, 50, 63, 64, 500]))))
def test_any_layers(data: st.DataObject, shapes: list[tuple[int, int]]) -> None:
    bucket = Bucket(tuple(range(len(shapes) + 1)), (7, *(n for n, _ in shapes)), (3, *(n for _, n in shapes)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    some = np.array(data.draw(st.lists(floats, min_size=1, max_size=5)), np.float32)
    share, arrays = data.draw(st.sampled_from([0.0, 0.02, 0.5])), []
    for _ in range(2):
        values = rng.normal(size=bucket.elements) * (rng.random(bucket.elements) < 0.5)
        special = rng.random(bucket.elements) < share
        arrays.append(np.where(special, rng.choice(some, bucket.elements), values).astype(np.float32))
    check(data.draw(st.sampled_from([GPU, BACKWARDS])), bucket, *arrays)


def test_what_is_not_finite_stays() -> None:
    """NaN, an infinity that comes in, in G or only in H; other layers are as ever."""
    bucket = Bucket((0, 1, 2), (200, 200, 200), (50, 50, 500))
    for residue, gradient in ((1, np.nan), (np.inf, 1), (3e38, 3e38), (1e38, 2e38), (0, -np.inf)):
        arrays = np.ones((2, 600), np.float32)
        arrays[:, 317] = residue, gradient
        packets = check(GPU, bucket, *arrays)
        assert [p.is_finite for p in packets] == [True, False, True]
        averages, right, _ = averaged(GPU, bucket, [[p.pack() for p in packets]])
        assert right.all()
        assert [bool(np.isnan(x).all()) for x in averages] == [False, True, False]


def test_a_mean_rounds_to_even_once() -> None:
    """Ties and what is just beside them, sums that no float64 holds; all are maxima, of bins of one."""
    cases = [
        ([2.0**24, 2.0**24 + 2], 2.0**24),
        ([2.0**24 + 2, 2.0**24 + 4], 2.0**24 + 4),
        ([2.0**24, 2.0**24 + 2, 2.0**-149, 0.0], None),
        ([2.0**100, 2.0**-149, 2.0**-149], None),
        ([2.0**27, 10.0], 2.0**26 + 8),
        ([TINY, 2 * TINY], 2 * TINY),
        ([TINY, 0.0, 0.0, 0.0], 0.0),
        ([2.0**-126, 2.0**-126 - 2.0**-149], None),
        ([3.4e38, 3.4e38], None),
    ]
    for values, expected in cases:
        gradients = np.array(values, np.float32)
        bucket = Bucket((0,), (len(values),), (1,))
        residues = np.zeros_like(gradients)
        if max(values) > 1e38:  # twice this is not finite
            residues, gradients = gradients, residues
        (packet,) = check(GPU, bucket, residues, gradients)
        assert expected is None or packet.scale == expected


def refusal(length: int, bin_length: int, elements: NDArray[Any]) -> str | None:
    """What golden says of a packet's elements."""
    try:
        Packet(length, bin_length, 1.0, elements)
    except PacketError as error:
        return str(error)
    return None


@pytest.mark.parametrize("bin_length", [5, 50, 200])
def test_what_is_wrong_is_goldens_finding(bin_length: int) -> None:
    """Any elements: the same fault at the same element, or none; and nothing is written beyond the layer."""
    rng, kind, wrong = np.random.default_rng(bin_length), "u1" if bin_length < 64 else "<u2", 0
    bits = 6 if bin_length < 64 else 14
    for trial in range(300):
        length = int(rng.integers(1, 12 * bin_length))
        rule = AdaComp(bin_length)
        good, _ = rule.compress(np.zeros(length, np.float32), drawn(rng, length, "sparse"))
        elements = good.elements.copy()
        for _ in range(int(rng.integers(1, 3))):
            at = int(rng.integers(0, len(elements)))
            index = int(rng.integers(0, bin_length + 2)) if rng.random() < 0.6 else (1 << bits) - 1
            elements[at] = index | int(rng.integers(0, 4)) << bits
        if trial % 5 == 0:
            elements = elements[:-1]
        raw = elements.astype(kind).tobytes()
        head = bytearray(good.pack()[:OVERHEAD])
        head[24:28] = len(raw).to_bytes(4, "little")
        bucket = Bucket((0,), (length,), (bin_length,))
        _, _, marks = averaged(GPU, bucket, [[bytes(head) + raw]])
        found = int(marks[0, 0])
        said = None if found == UNMARKED else fault(found % 8, found // 8, len(elements))
        assert said == refusal(length, bin_length, elements)
        wrong += said is not None
    assert wrong > 100


def test_a_flipped_bit_shows_in_the_checksum() -> None:
    rng = np.random.default_rng(3)
    packet, _ = AdaComp(50).compress(*drawn(rng, 2 * 90_000, "normal").reshape(2, -1))
    data, bucket = packet.pack(), Bucket((0,), (90_000,), (50,))
    assert averaged(GPU, bucket, [[data]])[1].all()
    for bit in rng.integers(8 * OVERHEAD, 8 * len(data), 5).tolist():
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not averaged(GPU, bucket, [[bytes(flipped)]])[1].any()


def everything_of_senders() -> None:
    test_a_mean_rounds_to_even_once()
    test_what_is_not_finite_stays()
    test_packets_residues_and_averages_are_goldens("sparse")


def everything_of_receivers() -> None:
    test_packets_residues_and_averages_are_goldens("normal")
    test_what_is_wrong_is_goldens_finding(50)


@pytest.mark.parametrize(
    ("test", "before", "after"),
    [
        (everything_of_senders, *slip)
        for slip in (
            ("if (ahead < most || g == 0) continue;", "if (ahead <= most || g == 0) continue;"),  # ties
            ("(half && (more || (kept & 1)))", "half"),  # to even
            ("more |= bit;", "more |= false;"),  # what is below half
            ("ends || empty % 4 == 3", "ends"),  # runs of more than four
            ("last = passed + 1 == sent", "last = passed == sent"),
            (
                "i < end; i++) mine = joined(mine, runs[i]);",
                "i < end && i == begin; i++) mine = joined(mine, runs[i]);",
            ),
            ("negative ? scale : -scale", "negative ? -scale : scale"),
            ("if (ahead >= infinity) ends = infinity;", ""),
            ("moved_by(matrices, bytes - end,", "moved_by(matrices, bytes - begin,"),
            ("  largest[thread] = most;\n  __syncthreads();", "  largest[thread] = most;"),
        )
    ]
    + [
        (everything_of_receivers, *slip)
        for slip in (
            ("? -share : share", "? share : -share"),
            ("else if (after_run && before >> bits < 3) found = SPLIT_RUN;", ""),
            ("index <= (before & escape)", "index < (before & escape)"),
            ("bins += ended[255];", "bins = ended[255];"),
        )
    ],
)
def test_a_broken_kernel_is_caught(
    test: Callable[[], None], before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    intact = source.adacomp_program()
    assert intact.text.count(before) == 1
    broken = Program(intact.text.replace(before, after), intact.kernels)
    monkeypatch.setattr(source, "adacomp_program", lambda: broken)
    with pytest.raises(AssertionError):
        test()


def test_packets_are_read_by_anybody() -> None:
    """Not only by their own bytes: `unpack` has them, too."""
    rng = np.random.default_rng(5)
    data, sent, _, _ = packed(GPU, BUCKET, *(drawn(rng, BUCKET.elements, "normal") for _ in range(2)))
    assert [unpack(each).sent for each in data] == sent
