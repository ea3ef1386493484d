"""The command stream against its rules in plain Python: random commands, right ones and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from command_model import CommandModel, settings_of
from test_mutations import mutated

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.formats import FixedFormat
from quaver.golden.update.fixed_sgd import FixedUpdate as GoldenFixedUpdate
from quaver.golden.update.float_sgd import Update as GoldenUpdate
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.commands import (
    GemmArguments,
    HardwareRule,
    LoadArguments,
    Opcode,
    Operand,
    Status,
    TileArguments,
    UpdateArguments,
    command,
)
from quaver.rtl.update.fixed_sgd import FixedUpdate
from quaver.rtl.update.float_sgd import Update
from quaver.sim.device import SimulatedDevice

#: Name → what builds the accelerator, of a mutant's class too, and what its update unit is asked for.
ACCELERATORS: dict[str, tuple[Callable[..., Accelerator], list[HardwareRule]]] = {
    # B's groups are two words, A's one that is not full.
    "fp8": (
        lambda of=Accelerator: of(
            ChunkedFloat(chunk=4), rows=2, columns=5, stages=2, depth=6, update=Update(stages=2)
        ),
        [GoldenUpdate(0.125, 0.875, 0.0625), GoldenUpdate(0.5, 0.0)],
    ),
    "fixed point": (
        lambda of=Accelerator: of(
            FixedPoint(FixedFormat(4, 4), FixedFormat(4, 4), FixedFormat(4, 4), random_bits=4),
            rows=3, columns=2, stages=2, depth=6, update=FixedUpdate(rounding="nearest"),
        ),
        [GoldenFixedUpdate(0.5, 0.25, rounding="nearest"), GoldenFixedUpdate(1.5, rounding="nearest")],  # type: ignore[arg-type]
    ),
    # Results of many tiles, more than a response holds.
    "many tiles": (
        lambda of=Accelerator: of(ChunkedFloat(), rows=1, columns=5, stages=1, depth=200), []
    ),
}  # fmt: skip


class Commands:
    """Random commands: mostly such as do something, all that may be wrong is now and then."""

    def __init__(self, accelerator: Accelerator, rules: list[HardwareRule], seed: int) -> None:
        self.accelerator, self.rules, self.rng = accelerator, rules, np.random.default_rng(seed)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def words(self, count: int) -> list[int]:
        return self.rng.integers(0, 1 << 32, count, np.uint32).tolist()

    def nonzero(self) -> int:
        return 0 if self.chance(0.03) else int(self.rng.integers(1, 1 << 32))

    def next(self) -> list[int]:
        """One command."""
        kinds: list[Callable[[], list[int]]] = [self.load, self.gemm, self.gemm, self.rare]
        return kinds[self.rng.integers(4)]() if not self.rules or self.chance(0.8) else self.update()

    def load(self) -> list[int]:
        operand = int(self.rng.integers(2))
        g, half = self.accelerator.geometry, int(self.rng.integers(2))
        lanes, banks = (1, g.rows) if operand == Operand.A else (g.interleave, g.columns)
        groups = -(-banks // (4 if self.accelerator.arithmetic.operand.width <= 8 else 2))
        start = int(self.rng.integers(g.depth * lanes + 1)) if self.chance(0.2) else 0
        count = int(self.rng.integers(1, g.depth * lanes + 2)) * groups - start * groups
        count = max(count, 0) + (int(self.rng.integers(groups)) if self.chance(0.05) else 0)
        fields = {"start": start, "half": half, "operand": operand, "zero": self.chance(0.02) << 3}
        data = self.words(count)
        return [*command(Opcode.LOAD, [LoadArguments.const(fields).as_value().value], count), *data]

    def size(self, most: int) -> int:
        if self.chance(0.05):
            return int(self.rng.choice([0, most, most + 1, 1 << 15, 65535]))
        return int(self.rng.integers(1, 4))

    def gemm(self) -> list[int]:
        depth = self.accelerator.geometry.depth
        first, last = self.chance(0.6), self.chance(0.6)
        alone = not (first and last) and self.chance(0.95)
        k = self.size(depth)
        m_tiles, n_tiles = (1, 1) if alone else (self.size(depth), self.size(depth))
        if not alone and self.chance(0.1):
            k, m_tiles, n_tiles = 1, depth, depth  # all that the memory holds
        tiles = TileArguments.const({"m_tiles": m_tiles, "n_tiles": n_tiles})
        fields = {"k": k, "first": first, "last": last, "zero": self.chance(0.02) << 5}
        fields |= {name: self.chance(0.5) for name in ("a_half", "b_half")}
        draws = self.accelerator.array.results_draw
        sources = [self.nonzero() for _ in range(2 * draws)] + self.words(int(self.chance(0.02)))
        words = [GemmArguments.const(fields).as_value().value, tiles.as_value().value, *sources]
        return command(Opcode.GEMM, words[: 1 if self.chance(0.02) else None])

    def update(self) -> list[int]:
        groups, first = int(self.rng.integers(1, 4)) * (not self.chance(0.03)), self.chance(0.6)
        settings = settings_of(self.rules[self.rng.integers(len(self.rules))])
        data = [*settings, self.nonzero()] if first else []
        data += self.words(3 * groups + (int(self.rng.integers(1, 4)) if self.chance(0.05) else 0))
        fields = {"groups": groups, "first": first, "zero": self.chance(0.02) << 4}
        arguments = UpdateArguments.const(fields).as_value().value
        return [*command(Opcode.UPDATE, [arguments], len(data)), *data]

    def rare(self) -> list[int]:
        if self.chance(0.15):
            return [int(self.rng.integers(0, 1 << 30))]  # no header
        opcode = int(self.rng.choice([Opcode.IDENTIFY, Opcode.COUNTERS, *([8] * self.chance(0.1))]))
        extra = self.words(int(self.rng.integers(1, 3)) * self.chance(0.1))
        return command(opcode, extra)  # type: ignore[arg-type]


def differs(device: SimulatedDevice, model: CommandModel, commands: list[list[int]]) -> str:
    """Where the device answers a stream of commands, from reset, in another way than the model; empty if not.

    At the end it must be quiet, and have multiplied as often as the model.
    """
    device.reset()
    model.reset()
    stream = [word for words in commands for word in words]
    device.send(np.array(stream, np.uint32))
    for i, response in enumerate(model.answers(stream)):
        try:
            words = device.receive(1)
            words = np.append(words, device.receive(int(words[0]) & 0xFFFF)).tolist()
        except TimeoutError as error:
            return f"response {i}: {error}"
        if not response.expects(words):
            return f"response {i}: expected {response}, got {[hex(word) for word in words]}"
    for _ in range(1000):  # the sums of a GEMM without `last` may still be under way
        device.send(np.array(command(Opcode.COUNTERS), np.uint32))
        multiplied = device.receive(3)[2]
        if multiplied == model.multiplied:
            return ""
    return f"multiplied in {multiplied} cycles, but {model.multiplied} were asked for"


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
        random = Commands(accelerator, rules, [seed, i])  # type: ignore[arg-type]
        device.stall(i, *random.rng.choice([0, 0, 0.3, 0.8], 2))
        commands = [random.next() for _ in range(random.rng.integers(1, 25))]
        if not differs(device, model, commands):
            continue
        shorter = True
        while shorter:
            shorter = False
            for j in reversed(range(len(commands))):
                without = commands[:j] + commands[j + 1 :]
                if differs(device, model, without):
                    commands, shorter = without, True
        shown = "\n".join(" ".join(f"{word:08x}" for word in words[:8]) for words in commands)
        return f"{differs(device, model, commands)}, after\n{shown}"
    return ""


@cache
def simulated(name: str) -> tuple[SimulatedDevice, Accelerator, list[HardwareRule]]:
    build, rules = ACCELERATORS[name]
    accelerator = build()
    return SimulatedDevice(accelerator), accelerator, rules


@pytest.mark.parametrize("name", ACCELERATORS)
def test_the_device_answers_as_the_rules_say(name: str) -> None:
    assert first_difference(*simulated(name), sequences=1500) == ""


def test_the_streams_reach_every_status() -> None:
    """Or the test above would say little: all of them, and results in many responses."""
    seen: dict[tuple[int, Status], int] = {}
    for name in ACCELERATORS:
        _, accelerator, rules = simulated(name)
        model = CommandModel(accelerator, rules)
        for i in range(300):
            random = Commands(accelerator, rules, i)
            model.reset()
            for _ in range(20):
                (response,) = model.answers(random.next())
                key = response.opcode, response.status
                seen[key] = seen.get(key, 0) + (
                    1 if response.status is not Status.OK else len(response.words)
                )
    assert {status for _, status in seen} == set(Status)
    assert seen[Opcode.GEMM, Status.OK] > 1000
    assert seen[Opcode.UPDATE, Status.OK] > 1000


#: name → (old text, new text) in the decoder: commands that remember or accept too much.
MUTANTS = {
    "a refusal leaves the tile open": ("open_tile.eq(0), ", ""),
    "a refusal leaves the run open": (", open_run.eq(0)]", "]"),
    "a refusal leaves the halves loaded": ("loaded.eq(0), ", ""),
    "sources may be zero": ("with m.If(word == 0)", "with m.If(0)"),
    "a seed may be zero": ("(word == 0) & self.update_draws", "0"),
    "a seed that nothing draws from may not be zero": (" & self.update_draws", ""),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (i > 0)) for i, name in enumerate(MUTANTS)]
)
def test_a_decoder_that_forgets_too_little_is_caught(name: str) -> None:
    variant = "fixed point" if "source" in name or "nothing draws" in name else "fp8"
    build, rules = ACCELERATORS[variant]
    with mutated("accelerator/command_decoder", *MUTANTS[name]):
        from quaver.rtl.accelerator.accelerator import Accelerator as Mutant
        from quaver.rtl.emit.verilog import to_verilog_around

        text = to_verilog_around(build(Mutant), "accelerator")
    device = SimulatedDevice(build(), verilog=text)
    assert first_difference(device, build(), rules, sequences=500).startswith("response")
