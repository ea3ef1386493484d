"""The command stream against its rules in plain Python: random commands, right ones and wrong ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from amaranth.lib import data
from command_model import AveragedLayer, CommandModel, Response, settings_of
from devices import compressing
from test_mutations import mutated

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.arithmetic.named import named
from quaver.golden.contracts import HardwareRule
from quaver.golden.formats import FixedFormat
from quaver.golden.update.fixed_sgd import FixedSGD
from quaver.golden.update.float_sgd import FloatSGD
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.commands import (
    PARTS,
    CompressionArguments,
    GemmArguments,
    LoadArguments,
    Opcode,
    Operand,
    RequantiseArguments,
    Status,
    TileArguments,
    UpdateArguments,
    command,
)
from quaver.rtl.update.fixed_sgd import FixedSGDUnit
from quaver.rtl.update.float_sgd import FloatSGDUnit
from quaver.sim.device import SimulatedDevice

#: Name → what builds the accelerator, of a mutant's class too, and what its update unit is asked for.
ACCELERATORS: dict[str, tuple[Callable[..., Accelerator], list[HardwareRule]]] = {
    # B's groups are two words, A's one that is not full.
    "fp8": (
        lambda of=Accelerator: of(
            ChunkedFloat(chunk=4), rows=2, columns=5, stages=2, depth=6, update=FloatSGDUnit(stages=2)
        ),
        # Some of whose settings have bits everywhere.
        [FloatSGD(0.125, 0.875, 0.0625), FloatSGD(0.5, 0.0), FloatSGD(0.23, 0.87, -0.09)],
    ),
    # So many random bits in all rows, and in all columns, that every bit of a source decides something.
    "fixed point": (
        lambda of=Accelerator: of(
            FixedPoint(FixedFormat(4, 6), FixedFormat(4, 6), FixedFormat(4, 4), random_bits=8),
            rows=4, columns=5, stages=2, depth=24, update=FixedSGDUnit(rounding="nearest"),
        ),
        [FixedSGD(0.5, 0.25, rounding="nearest"), FixedSGD(1.5, rounding="nearest")],  # type: ignore[arg-type]
    ),
    # Codes of three bits in four, whose columns fill one word where their sums fill five; updates between.
    "requantised": (
        lambda of=Accelerator: of(
            named("int4"), rows=2, columns=5, stages=3, depth=6, codes=3, update=FloatSGDUnit(stages=2)
        ),
        [FloatSGD(0.125, 0.875, 0.0625)],
    ),
    # Results of many tiles, more than a response holds.
    "many tiles": (
        lambda of=Accelerator: of(ChunkedFloat(), rows=1, columns=5, stages=1, depth=200), []
    ),
    # Elements of one byte and of two, layers in several commands.
    "adacomp": (compressing, []),
}  # fmt: skip


@dataclass(frozen=True)
class Interruption:
    """A stream that a reset cuts short, when so many words of its answers have come; then all of the operand
    memory is loaded, of which nobody knows what it holds."""

    stream: list[int]
    answered: int
    loads: list[int]

    def befall(self, device: SimulatedDevice) -> None:
        """All but the loads."""
        device.send(np.array(self.stream, np.uint32))
        device.receive(self.answered)
        device.reset()


class Commands:
    """Random commands: mostly such as can be done, and now and then whatever may be wrong with one.

    A model of its own says what can be done.
    """

    def __init__(self, accelerator: Accelerator, rules: list[HardwareRule], seed: Sequence[int]) -> None:
        self.model, self.rng = CommandModel(accelerator, rules), np.random.default_rng(seed)
        self.geometry = accelerator.geometry

    def stream(self, count: int) -> list[list[int]]:
        """So many commands from a reset on."""
        self.model.reset()
        commands = []
        for _ in range(count):
            commands.append(self.next())
            list(self.model.answers(commands[-1]))
        return commands

    def interruption(self) -> Interruption:
        """Of a stream of its own."""
        stream = [word for words in self.stream(int(self.rng.integers(2, 20))) for word in words]
        self.model.reset()
        answered = sum(1 + len(response.words) for response in self.model.answers(stream))
        loads = []
        for operand, count in ((Operand.A, 1), (Operand.B, self.geometry.interleave)):
            banks = self.geometry.rows if operand is Operand.A else self.geometry.columns
            size = self.geometry.depth * count * self.model.groups(operand, banks)
            for half in (0, 1):
                place = LoadArguments.const({"half": half, "operand": operand}).as_value().value
                loads += [*command(Opcode.LOAD, [place], size), *self.words(size)]
        return Interruption(stream, int(self.rng.integers(1, answered + 1)), loads)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def words(self, count: int) -> list[int]:
        return self.rng.integers(0, 1 << 32, count, np.uint32).tolist()

    def unused(self, layout: data.StructLayout) -> int:
        """What is where there should be 0: now and then one bit of it."""
        return self.chance(0.03) << int(self.rng.integers(layout["zero"].width))

    def one_of(self, width: int) -> int:
        """One bit of a field: where it is not heeded, what lies below it is taken for the whole."""
        return 1 << int(self.rng.integers(width))

    def nonzero(self) -> int:
        return 0 if self.chance(0.03) else int(self.rng.integers(1, 1 << 32))

    def next(self) -> list[int]:
        if self.model.rules and self.chance(0.25):
            return self.update()
        if self.model.accelerator.identity.codes and self.chance(0.15):
            return self.requantise()
        if self.model.accelerator.compression_stream and self.chance(0.8):
            return self.compression()
        if self.chance(0.1):
            return self.other()
        lacking = [op for op in Operand if not self.model.loaded & {(op, 0), (op, 1)}]
        if lacking and self.chance(0.9):
            return self.load(lacking[0])
        return self.load(Operand(self.rng.integers(2))) if self.chance(0.3) else self.gemm()

    def load(self, operand: Operand) -> list[int]:
        g = self.geometry
        lanes, banks = (1, g.rows) if operand == Operand.A else (g.interleave, g.columns)
        groups = self.model.groups(operand, banks)
        start = int(self.rng.integers(g.depth * lanes + 1)) if self.chance(0.1) else 0
        beyond = self.one_of(LoadArguments["start"].width) * self.chance(0.02)
        count = g.depth * lanes - start + self.chance(0.03) - int(self.rng.integers(4)) * self.chance(0.3)
        much = self.one_of(12) * self.chance(0.02)  # to be dropped behind the memory's end
        data = self.words(max(count, 0) * groups + self.chance(0.03) + much)
        half, zero = int(self.rng.integers(2)), self.unused(LoadArguments)
        place = LoadArguments.const({"start": start | beyond, "half": half, "operand": operand, "zero": zero})
        return [*command(Opcode.LOAD, [place.as_value().value], len(data)), *data]

    def size(self) -> int:
        if self.chance(0.03):
            return int(self.rng.choice([0, self.geometry.depth, self.geometry.depth + 1, 65535]))
        if self.chance(0.03):
            return int(self.rng.integers(1, 4)) | self.one_of(16)
        if self.chance(0.1):
            return int(self.rng.integers(1, self.geometry.depth + 1))
        return int(self.rng.choice([1, 1, 2, 3]))

    def half(self, operand: Operand) -> int:
        loaded = [half for half in (0, 1) if (operand, half) in self.model.loaded]
        return int(self.rng.choice(loaded if loaded and self.chance(0.97) else [0, 1]))

    def gemm(self) -> list[int]:
        last = self.chance(0.6)
        first = self.chance(0.3 if self.model.tile else 0.97)
        k, m_tiles, n_tiles = self.size(), self.size(), self.size()
        if not (first and last) and self.chance(0.97):
            m_tiles = n_tiles = 1
        elif self.chance(0.1):
            k, m_tiles, n_tiles = 1, self.geometry.depth, self.geometry.depth  # all that is loaded
            if self.chance(0.5):
                m_tiles, n_tiles = self.rng.integers(1, self.geometry.depth + 1, 2).tolist()
        fields = {"k": k, "first": first, "last": last, "zero": self.unused(GemmArguments)}
        fields |= {"a_half": self.half(Operand.A), "b_half": self.half(Operand.B)}
        tiles = TileArguments.const({"m_tiles": m_tiles, "n_tiles": n_tiles})
        words = [GemmArguments.const(fields).as_value().value, tiles.as_value().value]
        words += [self.nonzero() for _ in range(self.model.sources)]
        words += self.words(int(self.chance(0.02)))
        return command(Opcode.GEMM, words[: 1 if self.chance(0.02) else None])

    def update(self) -> list[int]:
        groups, first = int(self.rng.integers(1, 4)), self.chance(0.3 if self.model.run else 0.97)
        groups *= not self.chance(0.03)
        if self.chance(0.004):  # nearly as many as a command holds
            groups = int(self.rng.integers(1 << 14, 21_000))
        rule = self.model.rules[self.rng.integers(len(self.model.rules))]
        data = [*settings_of(rule), self.nonzero()] if first else []
        data += self.words(3 * groups + int(self.rng.integers(1, 4)) * self.chance(0.03))
        beyond = self.one_of(UpdateArguments["groups"].width) * self.chance(0.03)
        arguments = UpdateArguments.const(
            {"groups": groups | beyond, "first": first, "zero": self.unused(UpdateArguments)}
        )
        return [*command(Opcode.UPDATE, [arguments.as_value().value], len(data)), *data]

    def requantise(self) -> list[int]:
        """Mostly with a share of sums that neither end clips."""
        columns = self.geometry.columns
        shift = int(self.rng.integers(64 if self.chance(0.1) else 20))
        parameters = np.zeros((columns, 3), np.int64)
        reach = min(1 << shift, 1 << 17)
        parameters[:, 0] = self.rng.integers(-reach, reach, columns) >> int(self.rng.integers(8))
        offsets = self.rng.integers(-4, 12, columns) << shift
        parameters[:, 1], parameters[:, 2] = offsets, offsets >> 32
        if self.chance(0.2):
            parameters = self.rng.integers(0, 1 << 32, parameters.shape)
        data = (parameters & 0xFFFFFFFF).reshape(-1).tolist() + self.words(int(self.chance(0.03)))
        arguments = RequantiseArguments.const({"shift": shift, "zero": self.unused(RequantiseArguments)})
        if self.chance(0.2):
            return command(Opcode.REQUANTISE)
        return [*command(Opcode.REQUANTISE, [arguments.as_value().value], len(data)), *data]

    def compression(self) -> list[int]:
        """COMPRESS or AVERAGE, mostly one that goes on with the open layer."""
        opened = self.model.layer if self.model.layer and self.model.layer.to_come else None
        first = self.chance(0.1 if opened else 0.97)
        averages = isinstance(opened, AveragedLayer) ^ self.chance(0.05) if opened else self.chance(0.4)
        length = int(
            self.rng.choice([1, 3, 40, 200]) if self.chance(0.95) else self.rng.choice([0, 256, 1 << 31])
        )
        bins = int(
            self.rng.choice([1, 2, 5, 63, 64, 70]) if self.chance(0.95) else self.rng.choice([0, 71, 1 << 13])
        )
        to_come = length if first else opened.to_come if opened else 5
        count = (
            int(self.rng.integers(1, 2 * min(to_come, 200) + 2))
            if self.chance(0.5)
            else 2 * min(to_come, 200)
        )
        if not averages:
            count = count // 2 * 2 or 2
        count += int(self.rng.integers(-2, 3)) * self.chance(0.05)
        settings = [length, *self.floats(int(averages))] if first else []
        arguments = CompressionArguments.const(
            {"bin_length": bins, "first": first, "zero": self.unused(CompressionArguments)}
        )
        data = [*settings, *self.floats(max(count, 0))][: None if self.chance(0.98) else 1]
        opcode = Opcode.AVERAGE if averages else Opcode.COMPRESS
        return [*command(opcode, [arguments.as_value().value], len(data)), *data]

    def floats(self, count: int) -> list[int]:
        """Words that are finite as float32, whatever else they mean: many alike, many zeros, and such as
        packet elements have."""
        values = self.rng.integers(96 << 23, 160 << 23, count) | self.rng.integers(2, size=count) << 31
        values[self.rng.random(count) < 0.5] &= 0xFF80_00C7  # small indices, with both flags
        values[self.rng.random(count) < 0.3] = self.rng.choice([0x3F80_0000, 0xBF80_0000, 0xFFFF & 0x00C0])
        values[self.rng.random(count) < self.rng.choice([0, 0.5, 0.99])] = 0
        return values.tolist()

    def other(self) -> list[int]:
        if self.chance(0.2):
            return [int(self.rng.integers(1 << 30))]  # no header
        opcode = int(self.rng.choice([Opcode.IDENTIFY, Opcode.COUNTERS]))
        if self.chance(0.2):
            return [command(opcode)[0] ^ self.one_of(8) << 24]  # almost one
        if self.chance(0.2):
            opcode = int(self.rng.choice(list(Opcode))) ^ self.one_of(8)
            if opcode in set(Opcode):
                opcode = 12
        return command(opcode, self.words(int(self.rng.integers(1, 3)) * self.chance(0.1)))


def differs(
    device: SimulatedDevice, model: CommandModel, commands: list[list[int]], after: Interruption | None = None
) -> str:
    """Where the device answers commands, from reset, in another way than the model; empty if not."""
    device.reset()
    model.reset()
    stream = [word for words in commands for word in words]
    if after:
        after.befall(device)
        stream = after.loads + stream
    responses = list(model.answers(stream))
    return answers_otherwise(device, stream, responses, model.multiplied)


def answers_otherwise(
    device: SimulatedDevice, stream: Sequence[int], responses: Sequence[Response], multiplied: int
) -> str:
    """Where the device answers a stream of words otherwise than by `responses`; empty if it does not.

    At the end it must be quiet, and have multiplied so often.
    """
    device.send(np.array(stream, np.uint32))
    for i, response in enumerate(responses):
        parts: dict[Status, list[int]] = {status: [] for status in PARTS}
        try:
            while True:
                words = device.receive(1)
                words = np.append(words, device.receive(int(words[0]) & 0xFFFF)).tolist()
                if (status := words[0] >> 16 & 0xFF) not in parts:
                    break
                parts[Status(status)] += words[1:]
        except TimeoutError as error:
            return f"response {i}: {error}"
        if not response.expects(words, parts):
            return f"response {i}: expected {response}, got {[hex(word) for word in words]}, {parts}"
    for _ in range(1000):  # the sums of a GEMM without `last` may still be under way
        device.send(np.array(command(Opcode.COUNTERS), np.uint32))
        try:
            counted = device.receive(3)[2]
        except TimeoutError as error:
            return f"response to COUNTERS at the end: {error}"
        if counted == multiplied:
            return ""
    return f"multiplied in {counted} cycles, but {multiplied} were asked for"


def first_difference(
    device: SimulatedDevice,
    accelerator: Accelerator,
    rules: list[HardwareRule],
    sequences: int,
    seed: int = 0,
) -> str:
    """What is wrong with the first of many random streams, made as short as it gets; empty if nothing is."""
    model = CommandModel(accelerator, rules)
    for i in range(sequences):
        random = Commands(accelerator, rules, [seed, i])
        device.stall(i, *random.rng.choice([0, 0, 0.3, 0.8], 2))
        after = random.interruption() if i % 4 == 3 else None
        commands = random.stream(int(random.rng.integers(1, 30)))
        if not differs(device, model, commands, after):
            continue
        shorter = True
        while shorter:
            shorter = False
            for j in reversed(range(len(commands))):
                without = commands[:j] + commands[j + 1 :]
                if differs(device, model, without, after):
                    commands, shorter = without, True
        shown = "\n".join(" ".join(f"{word:08x}" for word in words[:8]) for words in commands)
        how = " and a reset amid other commands" if after else ""
        return f"{differs(device, model, commands, after)}, after{how}\n{shown}"
    return ""


@cache
def simulated(name: str) -> tuple[SimulatedDevice, Accelerator, list[HardwareRule]]:
    build, rules = ACCELERATORS[name]
    accelerator = build()
    return SimulatedDevice(accelerator), accelerator, rules


@pytest.mark.parametrize("sequences", [300, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ACCELERATORS)
def test_the_device_answers_as_the_rules_say(name: str, sequences: int) -> None:
    assert first_difference(*simulated(name), sequences, seed=sequences) == ""


def test_the_streams_reach_every_status() -> None:
    """Or the test above would say little: each many times, and long results."""
    seen: Counter[tuple[int, Status]] = Counter()
    for build, rules in ACCELERATORS.values():
        accelerator = build()
        model = CommandModel(accelerator, rules)
        for i in range(200):
            stream = Commands(accelerator, rules, [0, i]).stream(20)
            model.reset()
            for words in stream:
                (response,) = model.answers(words)
                done = response.status is Status.OK
                seen[response.opcode, response.status] += len(response.words) if done else 1
                for kind, told in response.parts.items():
                    seen[response.opcode, kind] += len(told)
    of_status = Counter(
        {each: sum(n for (_, status), n in seen.items() if status is each) for each in Status}
    )
    assert min(of_status.values()) > 20, of_status
    assert min(seen[opcode, Status.OK] for opcode in (Opcode.GEMM, Opcode.UPDATE)) > 5000, seen


#: name → (old text, new text) in the decoder: commands that remember or accept too much.
MUTANTS = {
    "a refusal leaves the tile open": ("open_tile.eq(0), ", ""),
    "a refusal leaves the run open": (", open_run.eq(0)]", "]"),
    "a refusal leaves the halves loaded": ("loaded.eq(0), ", ""),
    "sources may be zero": ("with m.If(word == 0)", "with m.If(0)"),
    "a seed may be zero": ("(word == 0) & self.update_draws", "0"),
    "a seed that nothing draws from may not be zero": (" & self.update_draws", ""),
    "requantisation does not wait": (", m.If(self.settled):", ":"),
    "a refusal turns requantisation off": (
        "m.d.sync += [response.length.eq(0), loaded",
        "m.d.sync += [self.requantise.eq(0), response.length.eq(0), loaded",
    ),
    "any shift will do": ("arguments.shift > MAX_SHIFT", "0"),
    "codes are counted as sums": ("Mux(self.requantise, self.code_words", "Mux(0, self.code_words"),
    "a refusal leaves the layer open": ("open_layer.eq(0)", "open_layer.eq(open_layer)"),
    "a layer of the other command goes on": ("(open_layer != layer)", "(open_layer == 0)"),
    "a layer has more elements than it said": ("~average & (left[1:] > to_come)", "0"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (i > 0)) for i, name in enumerate(MUTANTS)]
)
def test_a_decoder_that_forgets_too_little_is_caught(name: str) -> None:
    variant = "fixed point" if "source" in name or "nothing draws" in name else "fp8"
    variant = "adacomp" if "layer" in name else variant
    if any(word in name for word in ("requantisation", "shift", "codes")):
        variant = "requantised"
    build, rules = ACCELERATORS[variant]
    with mutated("accelerator/command_decoder", *MUTANTS[name]):
        from quaver.rtl.accelerator.accelerator import Accelerator as Mutant
        from quaver.rtl.emit.verilog import to_verilog_around

        text = to_verilog_around(build(Mutant), "accelerator")
    device = SimulatedDevice(build(), verilog=text)
    assert first_difference(device, build(), rules, sequences=500).startswith("response")
