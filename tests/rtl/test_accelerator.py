"""The accelerator word by word: every refusal, no hang, overlap of loads and sums, counted cycles."""

from __future__ import annotations

import numpy as np
import pytest
from devices import ARITHMETIC, DEPTH, accelerator, device

import quaver.rtl.accelerator.accelerator
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.host.driver import Driver
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.array.systolic import SystolicArray
from quaver.rtl.commands import (
    MAGIC,
    GemmArguments,
    LoadArguments,
    Opcode,
    Operand,
    ResponseHeader,
    Status,
    TileArguments,
    command,
)
from quaver.sim.device import SimulatedDevice

ROWS, COLUMNS, LANES = 2, 3, 2
TILE_WORDS = ROWS * LANES * 2  # three FP16 results of a row and lane are two words
NO_WORDS: list[int] = []


def load(operand: int, half: int, data: list[int], start: int = 0, zero: int = 0) -> list[int]:
    place = LoadArguments.const({"start": start, "half": half, "operand": operand, "zero": zero})
    return [*command(Opcode.LOAD, [place.as_value().value], len(data)), *data]


def gemm(k: int, m_tiles: int = 1, n_tiles: int = 1, **flags: int) -> list[int]:
    fields = {"k": k, "a_half": 0, "b_half": 0, "first": 1, "last": 1} | flags
    tiles = TileArguments.const({"m_tiles": m_tiles, "n_tiles": n_tiles})
    return command(Opcode.GEMM, [GemmArguments.const(fields).as_value().value, tiles.as_value().value])


def ask(transport: SimulatedDevice, words: list[int]) -> tuple[int, int, np.ndarray]:
    """Opcode, status and words of the one response."""
    transport.send(np.array(words, np.uint32))
    header = ResponseHeader.unpack(int(transport.receive(1)[0]))
    return header.opcode, header.status, transport.receive(header.length)


def status(transport: SimulatedDevice, words: list[int]) -> Status:
    opcode, code, data = ask(transport, words)
    assert opcode == (words[0] >> 16) & 0xFF or Status(code) is Status.BAD_HEADER
    assert Status(code) is Status.OK or not len(data)
    return Status(code)


ONES = [0x3C3C3C3C]  # FP8 1.0 in every slot


def load_ones(transport: SimulatedDevice, half: int = 0) -> None:
    assert status(transport, load(Operand.A, half, ONES * DEPTH)) is Status.OK
    assert status(transport, load(Operand.B, half, ONES * DEPTH * LANES)) is Status.OK


def works(transport: SimulatedDevice) -> None:
    """Nothing is left of what came before: the next commands give the right result."""
    load_ones(transport)
    opcode, code, words = ask(transport, gemm(5))
    assert (opcode, code) == (Opcode.GEMM, Status.OK)
    five = int(ARITHMETIC.result.encode(5.0))
    assert np.array_equal(words.view(np.uint16).reshape(-1, 4)[:, :3], np.full((ROWS * LANES, 3), five))


def test_identity() -> None:
    opcode, code, words = ask(device(), command(Opcode.IDENTIFY))
    assert (opcode, code) == (Opcode.IDENTIFY, Status.OK)
    assert words.tolist() == accelerator().identity.to_words()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([0], Status.BAD_HEADER),
        ([0xFFFFFFFF], Status.BAD_HEADER),
        ([0x51630003, 1, 2, 3], Status.UNKNOWN_OPCODE),
        ([0x51000000], Status.UNKNOWN_OPCODE),
        (command(Opcode.IDENTIFY, [7]), Status.BAD_LENGTH),
        (command(Opcode.COUNTERS, [7, 8]), Status.BAD_LENGTH),
        (command(Opcode.LOAD), Status.BAD_LENGTH),
        (load(Operand.A, 0, NO_WORDS), Status.BAD_LENGTH),
        (load(Operand.A, 0, ONES, zero=1), Status.BAD_ARGUMENT),
        (load(Operand.A, 0, ONES, start=DEPTH), Status.OUT_OF_RANGE),
        (load(Operand.A, 0, ONES * (DEPTH + 1)), Status.OUT_OF_RANGE),
        (load(Operand.A, 0, ONES * 1000), Status.OUT_OF_RANGE),
        (load(Operand.B, 1, ONES * 2, start=DEPTH * LANES - 1), Status.OUT_OF_RANGE),
        (load(Operand.B, 1, ONES, start=(1 << 24) - 1), Status.OUT_OF_RANGE),
        (command(Opcode.GEMM, [1]), Status.BAD_LENGTH),
        (command(Opcode.GEMM, [1, 2, 3]), Status.BAD_LENGTH),
        (gemm(0), Status.OUT_OF_RANGE),
        (gemm(1, m_tiles=0), Status.OUT_OF_RANGE),
        (gemm(1, n_tiles=0), Status.OUT_OF_RANGE),
        (gemm(DEPTH + 1), Status.OUT_OF_RANGE),
        (gemm(65535), Status.OUT_OF_RANGE),
        (gemm(1, m_tiles=65535), Status.OUT_OF_RANGE),
        (gemm(20, n_tiles=5), Status.OUT_OF_RANGE),
        (gemm(20, m_tiles=5), Status.OUT_OF_RANGE),
        (gemm(1, zero=1), Status.BAD_ARGUMENT),
        (gemm(1, m_tiles=2, last=0), Status.BAD_ARGUMENT),
        (gemm(1, first=0), Status.NOT_OPEN),
    ],
)
def test_refusals(words: list[int], expected: Status) -> None:
    transport = device()
    load_ones(transport)
    assert status(transport, words) is expected
    assert status(transport, gemm(1)) is Status.NOT_LOADED
    works(transport)


def wide_device() -> SimulatedDevice:
    """Two words for one address of all columns, and room for many tiles."""
    return SimulatedDevice(Accelerator(ARITHMETIC, rows=1, columns=5, stages=1, depth=200))


def test_a_load_of_half_a_group_is_refused() -> None:
    transport = wide_device()
    assert status(transport, load(Operand.B, 0, ONES * 3)) is Status.BAD_LENGTH
    assert status(transport, load(Operand.B, 0, ONES * 4)) is Status.OK


def test_refuses_a_half_that_was_not_loaded() -> None:
    transport = device()
    assert status(transport, gemm(1)) is Status.NOT_LOADED
    load_ones(transport, half=1)
    assert status(transport, gemm(1, a_half=1, b_half=1)) is Status.OK
    assert status(transport, gemm(1, a_half=0, b_half=1)) is Status.NOT_LOADED


@pytest.mark.parametrize("a_half", [0, 1])
@pytest.mark.parametrize("b_half", [0, 1])
def test_each_half_of_each_operand_is_loaded_for_itself(a_half: int, b_half: int) -> None:
    transport = device()
    for a, b in np.ndindex(2, 2):
        for operand, half in ((Operand.A, a_half), (Operand.B, b_half)):
            assert status(transport, load(operand, half, ONES)) is Status.OK
        expected = Status.OK if (a, b) == (a_half, b_half) else Status.NOT_LOADED
        assert status(transport, gemm(1, a_half=a, b_half=b)) is expected
        transport.reset()


@pytest.mark.parametrize("operand", Operand)
@pytest.mark.parametrize("half", [0, 1])
def test_one_operand_alone_is_not_enough(operand: int, half: int) -> None:
    """One half of one operand is loaded; no GEMM has both of its operands."""
    transport = device()
    for a, b in np.ndindex(2, 2):
        assert status(transport, load(operand, half, ONES)) is Status.OK
        assert status(transport, gemm(1, a_half=a, b_half=b)) is Status.NOT_LOADED


def test_refuses_a_result_beyond_one_response() -> None:
    transport = wide_device()
    assert status(transport, load(Operand.A, 0, ONES)) is Status.OK
    assert status(transport, load(Operand.B, 0, ONES * 2)) is Status.OK
    assert status(transport, gemm(1, m_tiles=150, n_tiles=150)) is Status.RESULT_TOO_LONG


def test_noise_never_hangs_it() -> None:
    """Random words, near misses among them: an answer to each command, and then it works."""
    random = np.random.default_rng(0)
    transport = device()
    for _ in range(60):
        words = random.integers(0, 1 << 32, random.integers(1, 40), np.uint32)
        words[words >> 24 == MAGIC] = 0  # it would announce up to 65,535 words, and rightly wait for them
        headers = random.random(len(words)) < 0.5
        lengths = random.integers(0, 6, len(words))
        near = np.uint32(0x51000000) | random.integers(0, 6, len(words), np.uint32) << np.uint32(16)
        words[headers] = (near | lengths.astype(np.uint32))[headers]
        # What was begun is brought to its end by words that are no headers; each of them has its answer.
        transport.send(np.concatenate([words, np.zeros(6, np.uint32)]))
        transport.send(np.array(command(Opcode.IDENTIFY), np.uint32))
        for _ in range(200):
            header = ResponseHeader.unpack(int(transport.receive(1)[0]))
            transport.receive(header.length)
            if header.opcode == Opcode.IDENTIFY and header.length:
                break
    transport.reset()
    works(transport)


def test_zeros_bring_a_lost_host_back() -> None:
    """The longest command is over after 65,535 words."""
    transport = device()
    transport.send(np.array([0x5103FFFF, 0], np.uint32))
    transport.send(np.zeros(0xFFFF - 1, np.uint32))
    assert ResponseHeader.unpack(int(transport.receive(1)[0])).status == Status.OUT_OF_RANGE
    works(transport)


@pytest.mark.parametrize(("commands", "responses"), [(0, 0), (0.5, 0), (0, 0.9), (0.4, 0.6), (0.95, 0.95)])
def test_stalls_change_nothing(commands: float, responses: float) -> None:
    random = np.random.default_rng(3)
    words = load(Operand.A, 0, random.integers(0, 1 << 32, DEPTH).tolist())
    words += load(Operand.B, 0, random.integers(0, 1 << 32, DEPTH * LANES).tolist())
    words += gemm(10, 8, 8) + gemm(1, 20, 3) + gemm(40, 2, 2)
    length = 2 + 3 + TILE_WORDS * (64 + 60 + 4)
    outputs = []
    for rates in ((0, 0), (commands, responses)):
        transport = device()
        transport.stall(7, *rates)
        transport.send(np.array(words, np.uint32))
        outputs.append(transport.receive(length))
    assert np.array_equal(*outputs)


def test_an_open_tile_can_be_abandoned() -> None:
    transport = device()
    load_ones(transport)
    assert status(transport, gemm(7, last=0)) is Status.OK
    works(transport)
    assert status(transport, gemm(1, first=0)) is Status.NOT_OPEN


def test_a_refusal_forgets_the_open_tile() -> None:
    """A host that sends slices ahead must not get the sum of two tiles with status OK."""
    transport = device()
    for refused, reason in (([0], Status.BAD_HEADER), (gemm(0), Status.OUT_OF_RANGE)):
        load_ones(transport)
        assert status(transport, gemm(7, last=0)) is Status.OK
        assert status(transport, refused) is reason
        load_ones(transport)
        assert status(transport, gemm(1, first=0)) is Status.NOT_OPEN
    works(transport)


def cycles_of(words: list[int], answers: int) -> int:
    transport = device()
    load_ones(transport)
    load_ones(transport, half=1)
    before = transport.cycles
    transport.send(np.array(words, np.uint32))
    transport.receive(answers)
    return transport.cycles - before


def test_identity_while_results_wait() -> None:
    """IDENTIFY between two GEMMs, whose results wait at the exit: nothing is lost, doubled or mixed up."""
    transport = device()
    load_ones(transport)
    identity = accelerator().identity.to_words()
    results = [1 + 4 * TILE_WORDS, 1 + len(identity), 1 + TILE_WORDS]
    for rate in (0, 0.5, 0.9, 0.99):
        transport.stall(5, 0, rate)
        transport.send(np.array(gemm(2, 2, 2) + command(Opcode.IDENTIFY) + gemm(3), np.uint32))
        two, who, three = (transport.receive(length) for length in results)
        assert who[1:].tolist() == identity
        for words, value in ((two, 2.0), (three, 3.0)):
            codes = words[1:].view(np.uint16).reshape(-1, 4)[:, :3]
            assert (codes == ARITHMETIC.result.encode(value)).all()


def test_tiles_and_jobs_follow_each_other_without_a_gap() -> None:
    """Each of 16 more tiles of K = 40 costs 40 steps and a fold, be they of one GEMM or of the next."""
    length = 1 + 4 * TILE_WORDS
    once = cycles_of(gemm(40, 2, 2), length)
    assert cycles_of(gemm(40, 2, 2) * 5, 5 * length) - once == 16 * 41 * LANES


@pytest.mark.parametrize(("operand", "count"), [(Operand.A, DEPTH), (Operand.B, DEPTH * LANES)])
def test_loads_overlap_multiplication(operand: Operand, count: int) -> None:
    """A load of the other half costs no cycle; a load of the half that is read waits for the GEMM."""
    length = 1 + 4 * TILE_WORDS
    alone = cycles_of(gemm(40, 2, 2) * 2, 2 * length)
    other, same = (
        cycles_of(gemm(40, 2, 2) + load(operand, half, ONES * count) + gemm(40, 2, 2), 2 * length + 1)
        for half in (1, 0)
    )
    assert other == alone
    assert same >= alone + count


@pytest.mark.parametrize(("operand", "count"), [(Operand.A, DEPTH), (Operand.B, DEPTH * LANES)])
def test_a_load_waits_until_the_half_is_read(operand: Operand, count: int) -> None:
    transport = device()
    load_ones(transport)
    twos = [0x40404040] * count
    transport.send(np.array(gemm(40, 2, 2) + load(operand, 0, twos) + gemm(40, 2, 2), np.uint32))
    words = transport.receive(2 * (1 + 4 * TILE_WORDS) + 1).view(np.uint16)
    codes = [int(ARITHMETIC.result.encode(float(v))) for v in (40, 80)]
    assert [int((words == code).sum()) for code in codes] == [4 * TILE_WORDS * 2 * 3 // 4] * 2


def test_counters() -> None:
    transport = device()
    load_ones(transport)
    before = ask(transport, command(Opcode.COUNTERS))[2].astype(np.int64)
    ask(transport, gemm(20, 2, 3))
    after = ask(transport, command(Opcode.COUNTERS))[2].astype(np.int64)
    cycles, multiplied = after - before
    assert multiplied == 20 * 6 * LANES
    assert multiplied < cycles < multiplied + 150


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "an array of 0 × 1, but it has at least one row and one column"),
        ({"depth": 0}, "depth is 0, but the operand memory has 1 to 65535 steps"),
        ({"depth": 65536}, "depth is 65536, but the operand memory has 1 to 65535 steps"),
        ({"rows": 200, "columns": 200}, "a tile of 200 × 800 results makes 80000 words"),
    ],
)
def test_refuses_sizes(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Accelerator(ARITHMETIC, **({"rows": 1, "columns": 1} | changes))


def test_refuses_draws_for_sums_of_several_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    arithmetic = ChunkedFloat(rounding="stochastic")
    array = SystolicArray(arithmetic, 1, 1, 2)
    array.element.product_cycles = 2
    monkeypatch.setattr(quaver.rtl.accelerator.accelerator, "SystolicArray", lambda *_: array)
    with pytest.raises(ValueError, match="a product takes 2 cycles, but the accelerator draws"):
        Accelerator(arithmetic, rows=1, columns=1)


def test_a_reset_amid_a_gemm_leaves_nothing_behind() -> None:
    """The elements have no reset: the job after one must clear their sums."""
    transport = device()
    driver = Driver(transport, ARITHMETIC)
    rng = np.random.default_rng(5)
    a, b = (rng.integers(0x20, 0x3D, shape).astype(np.uint8) for shape in ((7, 50), (50, 13)))
    expected = ARITHMETIC.gemm(a, b)
    tiles = DEPTH // 8
    for words in range(1, 40):
        load_ones(transport)
        transport.send(np.array(gemm(8, m_tiles=tiles, n_tiles=tiles), np.uint32))
        transport.receive(words)
        transport.reset()
        np.testing.assert_array_equal(driver.gemm(a, b), expected)
