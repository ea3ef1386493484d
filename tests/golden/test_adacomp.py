"""AdaComp: kernel against definition, packets against their specification, and bytes that are no packet."""

from __future__ import annotations

import re
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quaver.golden import compression, exact
from quaver.golden.compression import (
    AdaComp,
    ChunkTopK,
    NonFinite,
    Packet,
    PacketError,
    Scheme,
    Sign,
    TopK,
    Uncompressed,
    mean,
    unpack,
    unpack_all,
)
from quaver.golden.compression.adacomp import mean_of_maxima
from quaver.golden.compression.packet import HEADER, OVERHEAD
from quaver.golden.formats import FP32

#: Values at which something turns: zeros, subnormals, neighbours, the largest.
EDGES = np.array(
    [0.0, -0.0, 1.0, -1.0, 1 + 2**-23, 0.5, 2.0**-149, -(2.0**-149), 2.0**-126, 3.0e38, -1.0e38, 1e-30],
    np.float32,
)
floats = st.one_of(
    st.sampled_from(EDGES.tolist()), st.floats(-4, 4, width=32), st.floats(-(2.0**-123), 2.0**-123, width=32)
)
lengths = st.sampled_from([1, 2, 3, 7, 50, 62, 63, 64, 500, 16_383])


def same(x: np.ndarray, y: np.ndarray) -> bool:
    """Equal to the bit, zeros' signs included."""
    return x.shape == y.shape and np.array_equal(x.view(np.uint32), y.view(np.uint32))


def hold(rule: AdaComp, residue: np.ndarray, gradient: np.ndarray) -> Packet:
    """The kernel's packet, after holding packet and residue against the definition."""
    packet, kept = rule.compress(residue, gradient)
    scale, sent, expected = rule.definition(residue, gradient)
    assert np.array_equal([scale], [packet.scale], equal_nan=True)
    if packet.is_finite:
        assert np.array_equal(packet.values(), sent.reshape(-1))
    assert same(kept, expected)
    back = unpack(packet.pack())
    assert back.pack() == packet.pack()
    assert len(back.pack()) == packet.nbytes
    assert np.array_equal(back.values(), packet.values(), equal_nan=True)
    return packet


@settings(max_examples=60, deadline=None)
@given(st.data(), lengths, st.integers(0, 140))
def test_kernel_is_the_definition(data: st.DataObject, bin_length: int, size: int) -> None:
    arrays = [np.array(data.draw(st.lists(floats, min_size=size, max_size=size)), np.float32) for _ in "rd"]
    hold(AdaComp(bin_length, NonFinite.PASS), *arrays)


@pytest.mark.parametrize("bin_length", [1, 5, 8, 50, 63, 64, 500])
def test_bins_of_zeros_and_sparse_layers(bin_length: int) -> None:
    """Runs of 1 to 40 empty bins, at the beginning, between and at the end."""
    rng = np.random.default_rng(bin_length)
    for share in (0.0, 0.002, 0.02, 0.3):
        residue, gradient = rng.normal(size=(2, 1201)).astype(np.float32)
        for x in (residue, gradient):
            x[rng.random(x.size) >= share] = 0
        packet = hold(AdaComp(bin_length), residue, gradient)
        if share == 0:
            bins = -(-1201 // bin_length)
            assert (packet.scale, packet.sent, len(packet.elements)) == (0, 0, -(-bins // 4))


def test_by_hand() -> None:
    """Two bins of three and a short one: G = 1 −4 2 | 0 0 0 | 3, dW = 1 0 2.5 | 0 0 0 | −1."""
    gradient = np.array([1, 0, 2.5, 0, 0, 0, -1], np.float32)
    residue = np.array([1, -4, 2, 0, 0, 0, 3], np.float32) - gradient
    packet, kept = AdaComp(3).compress(residue, gradient, layer=7, learner=2, step=9)
    # Maxima 4, 0, 3: their mean is 7/3. H = 2 −4 4.5 | … | 2: the second and third reach 4, the last not 3.
    scale = np.float32(7 / 3)
    assert packet.scale == scale
    assert packet.values().tolist() == [0, -scale, scale, 0, 0, 0, 0]
    assert kept.tolist() == [1, np.float32(-4) + scale, np.float32(2) - scale, 0, 0, 0, 3]
    assert packet.elements.tolist() == [1 | 0x40, 2 | 0x80, 63 | 1 << 6]  # −1, +2 and last, two empty bins
    body = struct.pack("<4sBBHIIIIIf", b"QADA", 1, 1, 2, 7, 9, 7, 3, 3, scale)
    elements = bytes([0x41, 0x82, 0x7F])
    assert packet.pack() == body + struct.pack("<I", zlib.crc32(body + elements)) + elements


def test_ties_are_all_sent() -> None:
    packet, kept = AdaComp(4).compress(np.zeros(4, np.float32), np.array([1, -1, 1, 0], np.float32))
    assert packet.values().tolist() == [1, -1, 1, 0]
    assert not kept.any()


def test_shapes_and_types() -> None:
    gradient = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    packet, kept = AdaComp(50).compress(np.zeros_like(gradient), gradient)
    assert (packet.length, packet.sent, kept.shape) == (24, 12, (2, 3, 4))  # 12 … 23 twice reach 23
    turned = np.asfortranarray(gradient)
    assert same(AdaComp(50).compress(np.zeros_like(turned), turned)[1], kept)
    nothing, _ = AdaComp(50).compress(*np.zeros((2, 0), np.float32))
    assert (nothing.length, nothing.nbytes, nothing.scale) == (0, OVERHEAD, 0)
    with pytest.raises(TypeError, match="gradient is float64, but it must be float32"):
        AdaComp(50).compress(gradient, gradient.astype(float))
    with pytest.raises(ValueError, match=r"gradient is \(24,\), but the residue is \(2, 3, 4\)"):
        AdaComp(50).compress(gradient, gradient.ravel())
    for bad in (0, -1, 16_384):
        with pytest.raises(ValueError, match=f"bin length is {bad}, but it must be 1 … 16,383"):
            AdaComp(bad)
    with pytest.raises(TypeError, match=r"bin_length is 2\.5, but it must be an integer"):
        AdaComp(2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("bin_length", [50, 500])
@pytest.mark.parametrize("place", [0, 77, 99])
@pytest.mark.parametrize(
    "values", [(1, np.nan), (np.nan, 1), (0, np.inf), (-np.inf, 0), (0, 2.4e38), (2e38, 1e38)]
)
def test_not_finite(bin_length: int, place: int, values: tuple[float, float]) -> None:
    """Also where only residue + 2 · gradient leaves the range."""
    residue, gradient = np.random.default_rng(1).normal(size=(2, 100)).astype(np.float32)
    residue[place], gradient[place] = values
    with pytest.raises(ValueError, match="is not finite; skip the step"):
        AdaComp(bin_length).compress(residue, gradient)
    packet = hold(AdaComp(bin_length, NonFinite.PASS), residue, gradient)
    assert not packet.is_finite
    assert packet.nbytes == OVERHEAD
    assert same(AdaComp(bin_length, "pass").compress(residue, gradient)[1], residue)  # type: ignore[arg-type]
    good, _ = AdaComp(bin_length).compress(np.zeros(100, np.float32), np.ones(100, np.float32))
    assert np.isnan(mean([good, packet])).all()
    assert np.isnan(mean([packet, good])).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 0x7F7FFFFF), min_size=1, max_size=40))
def test_the_mean_is_rounded_once(codes: list[int]) -> None:
    sums = np.zeros(255, np.int64)
    for code in codes:
        sums[code >> 23] += (code & 0x7FFFFF) + (0x800000 if code >> 23 else 0)
    total = sum((Fraction(exact.decode(FP32, code)) for code in codes), Fraction(0))
    expected = exact.encode(FP32, total / len(codes) or 0.0)
    assert int(np.float32(mean_of_maxima(sums, len(codes))).view(np.uint32)) == expected


def test_the_average_is_in_the_learners_order() -> None:
    rng = np.random.default_rng(3)
    packets = [AdaComp(5).compress(*rng.normal(size=(2, 203)).astype(np.float32))[0] for _ in range(7)]
    total = np.zeros(203, np.float32)
    for packet in packets:
        total = total + packet.values() / np.float32(7)
    assert same(mean(packets), total)
    assert not same(mean(packets[::-1]), total)  # the order is part of the definition


def test_the_checks_can_fail() -> None:
    """The kernel with one line changed is not the definition."""
    rule, rng = AdaComp(10), np.random.default_rng(2)
    residue, gradient = rng.normal(size=(2, 400)).astype(np.float32)
    residue[::7] = -gradient[::7]
    _, sent, _ = rule.definition(residue, gradient)
    packet, _ = rule.compress(residue, gradient)
    assert np.array_equal(packet.values(), sent)
    g = residue + gradient
    bins = np.abs(g).reshape(-1, 10).max(1).repeat(10)
    assert np.array_equal(sent != 0, (np.abs(g + gradient) >= bins) & (g != 0))
    assert not np.array_equal(sent != 0, np.abs(g) >= bins)  # G in place of H
    assert not np.array_equal(sent != 0, np.abs(g + gradient) >= bins)  # zeros sent


@pytest.fixture(scope="module", params=[20, 100])
def whole(request: pytest.FixtureRequest) -> bytes:
    residue, gradient = np.random.default_rng(1).normal(size=(2, 333)).astype(np.float32)
    residue[100:280] = gradient[100:280] = 0
    return AdaComp(request.param).compress(residue, gradient, layer=3, learner=1, step=5)[0].pack()


def test_every_flipped_bit_and_every_cut_is_seen(whole: bytes) -> None:
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PacketError):
            unpack(flipped)
    for size in range(len(whole)):
        with pytest.raises(PacketError, match="cut short"):
            unpack(whole[:size])
    with pytest.raises(PacketError, match=f"1 bytes follow a packet of {len(whole)}"):
        unpack(whole + b"\0")
    assert [p.pack() for p in unpack_all(whole + whole)] == [whole, whole]


def test_of_another_version(whole: bytes) -> None:
    with pytest.raises(PacketError, match=r"of version 2, but this quaver reads 1; let all learners run one"):
        unpack(whole[:4] + b"\2" + whole[5:])
    with pytest.raises(PacketError, match=r"begins with b'QADA', but here is b'PADA'"):
        unpack(b"PADA" + whole[4:])


def sealed(header: list[object], elements: bytes) -> bytes:
    """A packet with a right checksum, whatever it holds."""
    *fields, scale = header
    body = HEADER.pack(*fields, *struct.unpack("<I", struct.pack("<f", scale)))
    return body + struct.pack("<I", zlib.crc32(elements, zlib.crc32(body))) + elements


def header(**fields: object) -> list[object]:
    """Of a layer of 10 in bins of 4, three bytes of elements."""
    given: dict[str, object] = {  # in the order of the header
        "magic": b"QADA", "version": 1, "size": 1, "learner": 0, "layer": 0, "step": 0,
        "length": 10, "bin": 4, "bytes": 3, "scale": 1.0,
    }  # fmt: skip
    return list((given | fields).values())


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ([0x80, 0x80, 0x82], "element 2 of 3: an index lies beyond its bin"),  # the last bin has two elements
        ([0x84, 0x80, 0x80], "element 0 of 3: an index lies beyond its bin"),
        ([0x01, 0x80, 0xBF], "element 1 of 3: the indices of a bin do not rise"),
        ([0x01, 0x81, 0xBF], "element 1 of 3: the indices of a bin do not rise"),
        ([0x01, 0x3F, 0x80], "element 1 of 3: the indices of a bin do not rise"),
        ([0x80, 0x3F, 0x3F], "element 2 of 3: a run of empty bins is cut in two"),
        ([0x80, 0xBF], "element 1 of 2: there are more bins than the layer has"),
        ([0x80, 0x80, 0x80, 0x80], "element 3 of 4: there are more bins than the layer has"),
        ([0x80, 0x80], "element 2 of 2: there are fewer bins than the layer has"),
        ([0x80, 0x80, 0x00], "element 3 of 3: there are fewer bins than the layer has"),
        ([], "element 0 of 0: there are fewer bins than the layer has"),
    ],
)
def test_content_that_no_learner_sends(elements: list[int], message: str) -> None:
    with pytest.raises(PacketError, match=message):
        unpack(sealed(header(bytes=len(elements)), bytes(elements)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": -1.0}, r"the scale is -1\.0, but it must be a float32 of 0 or more"),
        ({"scale": -0.0}, r"the scale is -0\.0"),
        ({"scale": np.inf}, "the scale is inf"),
        ({"scale": -np.nan}, "a NaN, but not 0x7FC00000"),
        ({"scale": np.nan}, "the scale is NaN, so no elements follow, but 3 do"),
        ({"size": 3}, "3 bytes of elements of 3 each"),
        ({"size": 2}, "3 bytes of elements of 2 each"),
        ({"bin": 0}, "the bin length is 0"),
        ({"bin": 64}, "bins of 64 take"),
        ({"bytes": 4}, "cut short: 3 bytes of 4 of elements"),
        ({"bytes": 2}, "checksum is wrong"),
    ],
)
def test_fields_that_no_learner_sends(fields: dict[str, object], message: str) -> None:
    assert unpack(sealed(header(), bytes([0x80, 0x80, 0x81]))).sent == 3
    with pytest.raises(PacketError, match=message):
        unpack(sealed(header(**fields), bytes([0x80, 0x80, 0x81])))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([4, 63, 64]), st.integers(0, 200), st.integers(1, 2))
def test_any_bytes_are_a_packet_or_an_error(elements: bytes, bin_length: int, length: int, size: int) -> None:
    """With a right checksum: what unpacks has one encoding, and it is this one."""
    data = sealed(header(bytes=len(elements), bin=bin_length, length=length, size=size), elements)
    try:
        packet = unpack(data)
    except PacketError:
        return
    assert packet.pack() == data
    assert np.count_nonzero(packet.values()) == packet.sent <= length


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_noise_is_an_error(data: bytes) -> None:
    for start in (b"", b"QADA", b"QADA\1"):
        with pytest.raises(PacketError):
            unpack(start + data)


def test_learners_out_of_step() -> None:
    packet = Packet(3, 4, 1.0, np.array([0x80], np.uint8), layer=2, learner=1, step=8)
    compression.packet.expect(packet, layer=2, step=8)
    with pytest.raises(PacketError, match="learner 1 has step 8, but 9 is expected: the learners are not"):
        compression.packet.expect(packet, layer=2, step=9)


def test_what_the_document_says() -> None:
    """The example of docs/adacomp.md is a packet, and its table of the header is the header."""
    text = (Path(__file__).parents[2] / "docs" / "adacomp.md").read_text("utf-8")
    (dump,) = re.findall(r"```hex\n(.*?)```", text, re.S)
    packet = unpack(bytes.fromhex("".join(line.split("|")[0] for line in dump.splitlines())))
    gradient = np.array([1, 0, 2.5, 0, 0, 0, -1], np.float32)
    expected, _ = AdaComp(3).compress(
        np.array([0, -4, -0.5, 0, 0, 0, 4], np.float32), gradient, layer=7, learner=2, step=9
    )
    assert packet.pack() == expected.pack()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ", text, re.M)
    offsets, sizes = zip(*((int(at), int(size)) for at, size in rows), strict=True)
    assert list(sizes) == [4, 1, 1, 2, 4, 4, 4, 4, 4, 4, 4]
    assert list(offsets) == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sum(sizes) == OVERHEAD == HEADER.size + 4
    assert "11,295,208 B2" in text


@pytest.mark.parametrize("rule", [TopK(0.1), TopK(1.0), Sign(), ChunkTopK(64, 8), ChunkTopK(64, 8, 1.0)])
def test_baselines_lose_nothing(rule: TopK | Sign | ChunkTopK) -> None:
    """What is sent and what is kept are the sum, to a rounding."""
    residue, gradient = np.random.default_rng(1).normal(size=(2, 10, 31)).astype(np.float32)
    sent, kept = rule.compress(residue, gradient)
    before = residue * getattr(rule, "decay", 1) + gradient
    assert kept.shape == residue.shape
    assert np.allclose(sent.values() + kept.reshape(-1), before.reshape(-1), atol=1e-6)
    assert np.count_nonzero(sent.values()) == sent.sent
    assert sent.effective_nbytes == sent.nbytes - OVERHEAD


def test_baselines_by_hand() -> None:
    zeros, g = np.zeros(5, np.float32), np.array([3, -1, 0, 5, -3], np.float32)
    sent, kept = TopK(0.4).compress(zeros, g)
    assert (sent.values().tolist(), kept.tolist()) == ([3, 0, 0, 5, 0], [0, -1, 0, 0, -3])
    assert (sent.nbytes, sent.sent) == (OVERHEAD + 16, 2)
    sent, _ = Sign().compress(zeros, g)
    assert sent.values() == pytest.approx([2.4, -2.4, 2.4, 2.4, -2.4])
    assert sent.nbytes == OVERHEAD + 1
    sent, kept = ChunkTopK(4, 3).compress(zeros, g)  # magnitudes of a chunk: of the larger two, of the third
    assert sent.values().tolist() == [4, -1, 0, 4, -3]
    assert sent.effective_nbytes == -(-(64 + 3 * 4 + 64 + 4) // 8)
    sent, kept = Uncompressed().compress(zeros, g)
    assert (sent.nbytes, kept.any()) == (20, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zip", r"the compression is 'zip', but there are none, adacomp, topk, sign, chunk_topk"),
        ("adacomp(bins=3)", "bins is no parameter of the compression adacomp, which has conv, other"),
        ("adacomp(conv=0)", "bin length is 0"),
        ("adacomp(conv=a)", "'conv=a' is not NAME=NUMBER"),
        ("adacomp(conv=5,conv=6)", "has conv more than once; keep one"),
        ("adacomp(conv=1.5)", r"bin_length is 1\.5, but it must be an integer"),
        ("topk(share=0)", "share is 0"),
        ("chunk_topk(kept=5000)", "kept is 5000"),
        ("chunk_topk(decay=0)", "decay is 0"),
        ("a b", "it is a name, or like adacomp"),
    ],
)
def test_schemes_that_are_none(text: str, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Scheme.parse(text)


def test_schemes() -> None:
    scheme = Scheme.parse("adacomp(conv=40)")
    assert str(scheme) == "adacomp(conv=40, other=500)"
    assert Scheme.parse(str(scheme)) == scheme
    assert (scheme.of("conv"), scheme.of("linear")) == (AdaComp(40, "pass"), AdaComp(500, "pass"))  # type: ignore[arg-type]
    assert [str(Scheme.parse(str(Scheme(name)))) for name in compression.SCHEMES] == [
        "none", "adacomp(conv=50, other=500)", "topk(share=0.01)", "sign",
        "chunk_topk(chunk=4096, kept=64, decay=0.95)",
    ]  # fmt: skip
