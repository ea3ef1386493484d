"""Drivers of mutants whose units speak in streams: updates, the serial link, commands, AXI."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
from command_model import CommandModel, Response
from links import Echo, exchange, transport, windows
from mutants import SELECT, Driver, Mutants
from test_command_stream import ACCELERATORS, Commands, answers_otherwise
from test_link import check
from test_mutations import mutated
from update_units import AnyScalars, Simulated, subnormal_scalars

from quaver.golden.update.fixed_sgd import SCALAR, FixedSGD
from quaver.golden.update.float_sgd import FloatSGD
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.accelerator.axi import ADDRESS_BITS, IDENTITY, Answer, Register
from quaver.rtl.commands import MAGIC, VERSION, Opcode, ResponseHeader, Status, command
from quaver.rtl.emit.verilog import Elements, to_verilog
from quaver.rtl.link.reliable_link import Linked
from quaver.sim import line
from quaver.sim.benches import axi_accelerator, fixed_sgd, float_sgd
from quaver.sim.device import SimulatedDevice
from quaver.sim.line import CLOCK, SimulatedLine
from quaver.sim.verilated import compile_library

#: What drivers take for a fault, beside a wrong word: nothing comes, or a session ends.
FAULTS = (AssertionError, TimeoutError, ConnectionResetError, ValueError, IndexError)
#: Where the counters of accelerators begin that are mutated: nothing waits for 2**32 commands or cycles.
BEFORE_WRAP = (1 << 32) - 100


def seen(work: Callable[[], None]) -> str:
    """What was wrong; empty if nothing."""
    try:
        work()
    except FAULTS as error:
        return f"{type(error).__name__}: {error}"[:200] or "wrong"
    return ""


def update_driver(bench: Any, unit: Any) -> Callable[[Mutants], Driver]:
    """Runs of the unit's bench, and some with scalars of every kind."""

    def driver(of: Mutants) -> Driver:
        with TemporaryDirectory() as folder:
            simulated = Simulated(unit, Path(folder), of.verilog)
        rng, runs = np.random.default_rng(1), []
        scalars = [(*_scalars(bench, unit, rng), 700) for _ in range(64)]
        for i, (rate, momentum, decay, count) in enumerate((*bench.RUNS, (0.25, 0.5, 0.125, 100), *scalars)):
            rule: Any
            if bench is float_sgd:
                rule = FloatSGD(rate, momentum, decay, unit.format, unit.rounding, unit.random_bits)
                elements = [float_sgd.codes(unit.format, rng, count) for _ in range(3)]
            else:
                how = unit.rounding, unit.random_bits
                rule = FixedSGD(rate, momentum, decay, unit.weights, unit.updates, unit.gradients, *how)
                elements = [fixed_sgd.codes(fmt, rng, count) for fmt in unit.formats]
            seed = int(rng.integers(1, 1 << 32)) if rule.rounding == "stochastic" else None
            if bench is fixed_sgd and i % 3 == 0:
                rule, elements = _at_the_brink(rule, rng, seed, 3000)
            pauses = ((77, 90), (0, 0), (0, 200), (26, 90))[i % 4]
            runs.append((rule, elements, seed, pauses, rule.update(*elements, seed=seed)))
        if bench is float_sgd:
            runs += [
                (*of_run, (26, 26), of_run[0].update(*of_run[1], seed=of_run[2]))
                for of_run in _float_runs(unit, rng)
            ]
            runs += [
                (*of_run, (26, 26), of_run[0].definition(*of_run[1], seed=of_run[2]))
                for of_run in _any_runs(unit, rng)
            ]

        def run(mutant: int) -> str:
            def work() -> None:
                simulated.begin(mutant)
                for rule, elements, seed, pauses, expected in runs:
                    got = simulated.update(rule, *elements, seed=seed, pauses=pauses)
                    for x, y in zip(expected, got, strict=True):
                        assert np.array_equal(x, y), "another result"

            return seen(work)

        return run

    return driver


def _float_runs(unit: Any, rng: np.random.Generator) -> Iterator[tuple[FloatSGD, list[Any], int | None]]:
    """Runs of which each line has subnormal scalars, and elements at the brink."""
    plain = FloatSGD(0.0, 0.0, 0.0, unit.format, unit.rounding, unit.random_bits)
    for rule, elements in subnormal_scalars(plain, rng, 300):
        yield rule, elements, int(rng.integers(1, 1 << 32)) if rule.stochastic else None
    for name in ("decay", "momentum", "rate") * 2:
        seed = int(rng.integers(1, 1 << 32)) if plain.stochastic else None
        yield *_float_brink(plain, name, rng, seed, 3000), seed


def _any_runs(unit: Any, rng: np.random.Generator) -> Iterator[tuple[FloatSGD, list[Any], int | None]]:
    """Runs with scalars that are infinite or NaN."""
    for name in ("rate", "momentum", "decay"):
        for scalar in (np.inf, -np.inf, np.nan):
            given = {"rate": 0.5, "momentum": 0.5, "decay": 0.5, name: scalar}
            rule = AnyScalars(
                **given, format=unit.format, rounding=unit.rounding, random_bits=unit.random_bits
            )
            elements = [float_sgd.codes(unit.format, rng, 100) for _ in range(3)]
            yield rule, elements, int(rng.integers(1, 1 << 32)) if rule.stochastic else None


def _float_brink(
    rule: FloatSGD, name: str, rng: np.random.Generator, seed: int | None, count: int
) -> tuple[FloatSGD, list[Any]]:
    """The rule with the scalar of one line, and elements for which the random bits just do, or just do not,
    carry into what is kept.

    In units of the lowest random bit the product is that of two significands, and y a multiple of 2**R.
    """
    fmt, bits = rule.format, rule.random_bits
    top = 1 << fmt.mantissa_bits
    alpha = int(rng.integers(top, 2 * top)) | 1
    x = np.arange(top, 2 * top)
    rests = alpha * x % (1 << bits)
    order = np.argsort(rests)
    minus = rng.integers(0, 2, count)  # the product is taken from y
    draws = rule.sources(seed)[name].draws(count, bits).astype(np.int64) if rule.stochastic else 1 << bits - 1
    wanted = (np.where(minus, draws, -draws) + rng.integers(-2, 3, count)) % (1 << bits)
    x = x[order[np.searchsorted(rests[order], wanted) % len(order)]]
    scale = min(1 - fmt.min_exponent, bits // 2)
    y = rng.integers(top, 2 * top, count) * 2.0 ** (bits - scale)
    sign = np.where(rng.integers(0, 2, count), -1.0, 1.0)
    product_sign = np.where(minus, -sign, sign) * (-1 if name == "rate" else 1)
    y, x = fmt.encode(sign * y), fmt.encode(product_sign * x * 2.0**-scale)
    zeros = np.zeros_like(x)
    given = {"rate": 0.0, "momentum": 0.0, "decay": 0.0, name: float(alpha)}
    elements = {"decay": (x, zeros, y), "momentum": (zeros, x, y), "rate": (y, zeros, x)}[name]
    return replace(rule, **given), list(elements)


def _at_the_brink(rule: FixedSGD, rng: np.random.Generator, seed: int | None, count: int) -> Any:
    """The rule with other scalars, and elements for which a step or two decide how the first line rounds.

    What is wrong far below the random bits shows there alone.
    """
    rate, momentum = int(rng.choice([1, 3, 5])), int(rng.integers(1 << 8, 1 << 13))
    unit = 1 << SCALAR.fraction_bits
    rule = replace(rule, rate=rate / unit, momentum=momentum / unit, decay=1.0)
    first, _ = rule.fraction_bits
    dropped = first - rule.updates.fraction_bits
    if seed is None:
        brinks = np.full(count, 1 << dropped - 1)
    else:
        draws = rule.sources(seed)["momentum"].draws(count, rule.random_bits).astype(np.int64)
        brinks = -(draws << dropped - rule.random_bits)
    left = brinks + rng.integers(-9, 10, count) + (rng.integers(-2, 3, count) << dropped)
    shifts = [first - SCALAR.fraction_bits - fmt.fraction_bits for fmt in rule.formats]
    w = rng.integers(-100, 101, count)
    left -= rate * w << shifts[0]
    v = np.clip(left // (momentum << shifts[1]), ~rule.updates.max_code, rule.updates.max_code)
    left -= momentum * v << shifts[1]
    g = np.clip(left // (rate << shifts[2]), ~rule.gradients.max_code, rule.gradients.max_code)
    return rule, [fmt.codes(x) for fmt, x in zip(rule.formats, (w, v, g), strict=True)]


def _scalars(bench: Any, unit: Any, rng: np.random.Generator) -> tuple[float, float, float]:
    """Rate, momentum and decay, some of them 0; in floating point also subnormal, and the largest."""
    given = rng.uniform(0.01, 1.99, 3) * 2.0 ** -rng.integers(0, 5, 3) * (rng.random(3) < (1, 0.8, 0.8))
    if bench is float_sgd:
        given = unit.format.decode(unit.format.encode(given * rng.choice([-1, 1], 3)))
        any_ = unit.format.decode(float_sgd.codes(unit.format, rng, 3))
        given = np.where((rng.random(3) < 0.5) & np.isfinite(any_), any_, given)
    return tuple(given.tolist())


@contextmanager
def harness_with(path: Path, ending: str) -> Iterator[Path]:
    """A harness with more at its end."""
    with TemporaryDirectory() as folder:
        longer = Path(folder) / "harness.cpp"
        longer.write_text(path.read_text() + ending)
        yield longer


#: Words that each buffer of the mutated link has, the fewest.
BUFFER = 256


class MutantLine(SimulatedLine):
    """The line to a mutant."""

    _SELECT = '\nextern "C" void line_select(Line* line, uint32_t mutant) { line->model.mutant = mutant; }\n'

    def __init__(self, of: Mutants, mutant: int, **options: Any) -> None:
        with harness_with(Path(line.__file__).with_name("line.cpp"), self._SELECT) as self.harness:
            super().__init__(of.verilog, **options)
        self._library.line_select(self._line, ctypes.c_uint32(mutant))
        self.reset_device()


def link_driver(of: Mutants) -> Driver:
    """More words than positions are counted modulo, over a good line; then over one that spoils frames."""

    def run(mutant: int) -> str:
        def work() -> None:
            good = MutantLine(of, mutant, latency=64 / CLOCK)
            host = transport(good)
            host.reset()
            at = 0
            for size in [1, 3, 1, 256, 700] + [512] * 135:
                words = np.arange(at, at + size, dtype=np.uint32) * np.uint32(0x9E3779B1)
                host.send(words)
                expected = words + np.arange(at, at + size, dtype=np.uint32)
                assert np.array_equal(host.receive(size), expected), "another word"
                at += size
            assert host.repeated == 0, "words were sent again on a good line"
            windows(good, BUFFER, rounds=24, skipped=3000)
            for seed in range(2, 8):
                windows(good, BUFFER, rounds=2, skipped=0, seed=seed)
            bad = MutantLine(of, mutant, latency=64 / CLOCK)
            bad.spoil(8, 0.1)
            check(exchange(bad, 1500, 8, ends=0.01))

        return seen(work)

    return run


class MutantDevice(SimulatedDevice):
    """A mutant of an accelerator; its elements are as they should be."""

    _SELECT = """
extern "C" void device_select(Device* device, uint32_t mutant) { device->model.mutant = mutant; }
"""

    def __init__(self, accelerator: Accelerator, of: Mutants, elements: Elements, mutant: int) -> None:
        path = Path(sys.modules[SimulatedDevice.__module__].__file__ or "").with_name("harness.cpp")
        with harness_with(path, self._SELECT) as self.harness:
            super().__init__(accelerator, verilog=(of.verilog, elements))
        self._library.device_select(self._device, ctypes.c_uint32(mutant))


@cache
def hollow(name: str) -> tuple[str, Elements]:
    """One of the command stream's accelerators around its elements; its counters are soon to wrap."""
    old = "cycles = Signal(32)\n        multiplied = Signal(32)"
    with mutated("accelerator/response_writer", old, old.replace("32)", f"32, init={BEFORE_WRAP})")):
        mutant = import_module("quaver.rtl.accelerator.accelerator").Accelerator
        around = import_module("quaver.rtl.emit.verilog").to_verilog_around
        text, elements = around(ACCELERATORS[name][0](mutant), "accelerator")
    return text, elements


def command_driver(name: str, sequences: int = 200) -> Callable[[Mutants], Driver]:
    """Random streams of commands, as test_command_stream has them; each takes its cycles, neither more nor
    less than without a mutant: a half that is free too soon shows there alone, and a fold that waits for
    nothing."""

    def driver(of: Mutants) -> Driver:
        build, rules = ACCELERATORS[name]
        accelerator, (_, elements), streams = build(), hollow(name), []
        model, taken = CommandModel(accelerator, rules), dict[int, int]()
        for i in range(sequences):
            random = Commands(accelerator, rules, [7, i])
            rates = random.rng.choice([0, 0, 0.3, 0.8], 2).tolist()
            after = random.interruption() if i % 4 == 3 else None
            stream = random.stream(int(random.rng.integers(5, 30)))
            commands = [*(after.loads if after else []), *(word for words in stream for word in words)]
            model.reset()
            streams.append((rates, after, commands, list(model.answers(commands)), model.multiplied))

        def counts(device: MutantDevice, begun: int, multiplied: int) -> None:
            device.send(np.array(command(Opcode.COUNTERS), np.uint32))
            _, cycles, products = ((x - BEFORE_WRAP) % (1 << 32) for x in device.receive(3).tolist())
            assert 0 <= device.cycles - begun - cycles < 64, "another number of cycles"
            assert products == multiplied, "goes on multiplying"

        # What hangs is seen to hang after a few pauses, not after all that a board may have.
        @patch.multiple(SimulatedDevice.__module__, BLOCK=10_000, PATIENCE=50_000)
        def run(mutant: int) -> str:
            def work() -> None:
                device = MutantDevice(accelerator, of, elements, mutant)
                for i, (rates, after, commands, responses, multiplied) in enumerate(streams):
                    device.stall(i, *rates)
                    device.reset()
                    if after:
                        after.befall(device)
                    begun = device.cycles
                    counts(device, begun, 0)
                    wrong = answers_otherwise(
                        device, commands, responses, multiplied + BEFORE_WRAP & 0xFFFFFFFF
                    )
                    assert not wrong, wrong
                    cycles = device.cycles - begun
                    assert taken.setdefault(i, cycles) == cycles, "more cycles, or fewer"
                    for _ in range(3):
                        counts(device, begun, multiplied)

            return seen(work)

        return run

    return driver


#: Streams in and out of the AXI core as one vector each way: 64 bits of payload for each stream.
_AXI = f"""
module streams(input clk, input rst, input [31:0] select,
               input [3:0] in_valid, output [3:0] in_ready, input [255:0] in_payload,
               output [2:0] out_valid, input [2:0] out_ready, output [191:0] out_payload);
  assign out_payload[63:2] = 0, out_payload[127:98] = 0, out_payload[191:161] = 0;
  axi_accelerator unit(.aclk(clk), .aresetn(~rst), .{SELECT}(select[WIDTH-1:0]),
    .s_axi_awvalid(in_valid[0]), .s_axi_awready(in_ready[0]), .s_axi_awaddr(in_payload[{ADDRESS_BITS - 1}:0]),
    .s_axi_wvalid(in_valid[1]), .s_axi_wready(in_ready[1]), .s_axi_wdata(in_payload[95:64]),
    .s_axi_wstrb(in_payload[99:96]),
    .s_axi_arvalid(in_valid[2]), .s_axi_arready(in_ready[2]),
    .s_axi_araddr(in_payload[{128 + ADDRESS_BITS - 1}:128]),
    .s_axis_tvalid(in_valid[3]), .s_axis_tready(in_ready[3]), .s_axis_tdata(in_payload[223:192]),
    .s_axi_bvalid(out_valid[0]), .s_axi_bready(out_ready[0]), .s_axi_bresp(out_payload[1:0]),
    .s_axi_rvalid(out_valid[1]), .s_axi_rready(out_ready[1]), .s_axi_rdata(out_payload[95:64]),
    .s_axi_rresp(out_payload[97:96]),
    .m_axis_tvalid(out_valid[2]), .m_axis_tready(out_ready[2]), .m_axis_tdata(out_payload[159:128]),
    .m_axis_tlast(out_payload[160]));
endmodule
"""
_STREAMS = r"""
#include <cstdint>
#include <cstring>
#include <deque>
#include "Vmodel.h"

struct Streams {
    VerilatedContext context;
    Vmodel model{&context};
    std::deque<uint64_t> in[4], out[3];
    bool offered[4] = {}, stood[3] = {}, withdrawn = false;
    uint64_t standing[3] = {};
    uint32_t pauses[7] = {};  // of 65536 cycles
    uint64_t random = 0x2545F4914F6CDD1D;
    uint32_t next() {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        return random >> 32;
    }
    bool pause(int stream) { return (next() & 0xffff) < pauses[stream]; }
};

extern "C" {
Streams* streams_new(uint32_t mutant) { Streams* s = new Streams; s->model.select = mutant; return s; }
void streams_free(Streams* s) { delete s; }
void streams_pause(Streams* s, int stream, uint32_t rate) { s->pauses[stream] = rate; }
void streams_push(Streams* s, int stream, uint64_t word) { s->in[stream].push_back(word); }
int streams_queued(Streams* s, int stream) { return s->in[stream].size(); }
int streams_withdrawn(Streams* s) { return s->withdrawn; }

// Runs until `stream` has put something out, at most `limit` cycles; 0: it has not. With reset, all of them.
int streams_run(Streams* s, int stream, int64_t limit, int reset, uint64_t* word) {
    Vmodel& m = s->model;
    for (; limit && (stream < 0 || s->out[stream].empty()); --limit) {
        m.rst = reset, m.in_valid = m.out_ready = 0;
        for (int i = 0; i < 4; ++i) {
            if (!s->offered[i]) s->offered[i] = !reset && !s->in[i].empty() && !s->pause(i);
            const uint64_t payload = s->offered[i] ? s->in[i].front() : uint64_t(s->next()) << 32 | s->next();
            memcpy(reinterpret_cast<char*>(&m.in_payload) + 8 * i, &payload, 8);
            m.in_valid |= s->offered[i] << i;
        }
        for (int i = 0; i < 3; ++i) m.out_ready |= !s->pause(4 + i) << i;
        m.clk = 0, m.eval();
        for (int i = 0; i < 4; ++i)
            if (s->offered[i] && m.in_ready >> i & 1) s->in[i].pop_front(), s->offered[i] = false;
        for (int i = 0; i < 3 && !reset; ++i) {
            const bool valid = m.out_valid >> i & 1, taken = m.out_ready >> i & 1;
            uint64_t payload;
            memcpy(&payload, reinterpret_cast<const char*>(&m.out_payload) + 8 * i, 8);
            s->withdrawn |= s->stood[i] && !(valid && payload == s->standing[i]);
            s->stood[i] = valid && !taken, s->standing[i] = payload;
            if (valid && taken) s->out[i].push_back(payload);
        }
        m.clk = 1, m.eval();
    }
    if (reset) for (int i = 0; i < 3; ++i) s->stood[i] = false;
    if (stream < 0 || s->out[stream].empty()) return 0;
    *word = s->out[stream].front(), s->out[stream].pop_front();
    return 1;
}
}
"""
#: Instead of the accelerator: answers a command by its first word, or 0, and as many words as that says.
_ANY_ANSWER = f"""
module \\axi_accelerator.accelerator (
    input core_clk, input core_rst,
    input commands__valid, output commands__ready, input [31:0] commands__payload,
    output responses__valid, input responses__ready, output [31:0] responses__payload);
  reg [1:0] state = 0;
  reg first = 1;
  reg [15:0] left = 0;
  reg [31:0] answer = 0;
  wire [15:0] length = commands__payload[31:24] == {MAGIC} ? commands__payload[15:0] : 0;
  assign commands__ready = state != 2, responses__valid = state == 2;
  assign responses__payload = first ? answer : {{left, ~left}};
  always @(posedge core_clk) begin
    if (state == 0 && commands__valid) begin
      left <= length; answer <= 0; first <= 1; state <= length ? 1 : 2;
    end
    if (state == 1 && commands__valid) begin
      left <= left - 1; first <= left == 1;
      if (first) answer <= commands__payload;
      if (left == 1) state <= 2;
    end
    if (state == 2 && responses__ready) begin
      left <= first ? answer[15:0] : left - 1; first <= 0;
      if (first ? answer[15:0] == 0 : left == 1) state <= 0;
    end
    if (core_rst) state <= 0;
  end
endmodule
"""
ADDRESS, DATA, READ, COMMANDS = range(4)
ANSWER, VALUE, PACKETS = range(3)
PATIENCE = 60_000


class AxiCore:
    """A mutant of the AXI core: its registers and its streams."""

    def __init__(self, library: ctypes.CDLL, mutant: int) -> None:
        self._library = library
        library.streams_new.restype = ctypes.c_void_p
        self._handle = ctypes.c_void_p(library.streams_new(ctypes.c_uint32(mutant)))
        self.reset()

    def __del__(self) -> None:
        self._library.streams_free(self._handle)

    def reset(self) -> None:
        """Of everything, by aresetn."""
        self.run(4, reset=True)

    def run(self, cycles: int, reset: bool = False) -> None:
        self._library.streams_run(self._handle, -1, ctypes.c_int64(cycles), int(reset), None)

    def pause(self, *rates: float) -> None:
        """Parts of the cycles in which streams pause: four in, three out."""
        for stream, rate in enumerate(rates):
            self._library.streams_pause(self._handle, stream, ctypes.c_uint32(round(rate * 65536)))

    def push(self, stream: int, *words: int) -> None:
        for word in words:
            self._library.streams_push(self._handle, stream, ctypes.c_uint64(word))

    def queued(self, stream: int) -> int:
        return self._library.streams_queued(self._handle, stream)

    def pull(self, stream: int) -> int:
        word = ctypes.c_uint64()
        if not self._library.streams_run(
            self._handle, stream, ctypes.c_int64(PATIENCE), 0, ctypes.byref(word)
        ):
            raise TimeoutError(f"nothing from stream {stream}")
        assert not self._library.streams_withdrawn(self._handle), "an output was withdrawn"
        return word.value

    def read(self, *addresses: int) -> list[int | None]:
        """Values of registers; None where the access is refused, which must read 0."""
        self.push(READ, *addresses)
        values: list[int | None] = []
        for _ in addresses:
            word = self.pull(VALUE)
            answer, value = word >> 32, word & 0xFFFFFFFF
            assert answer == Answer.OKAY or (answer == Answer.SLVERR and value == 0), "another answer"
            values.append(value if answer == Answer.OKAY else None)
        return values

    def write(self, address: int, data: int, strobes: int = 15) -> bool:
        """Whether it was done."""
        self.push(ADDRESS, address)
        if data % 3 == 1:  # sometimes the data come late
            self.run(5)
        self.push(DATA, strobes << 32 | data)
        answer = self.pull(ANSWER)
        assert answer in (Answer.OKAY, Answer.SLVERR), "another answer"
        return answer == Answer.OKAY

    def packet(self) -> list[int]:
        """One packet's words."""
        words = []
        while True:
            word = self.pull(PACKETS)
            words.append(word & 0xFFFFFFFF)
            if word >> 32:
                return words


@dataclass
class AxiScript:
    """Commands and what answers them."""

    commands: list[list[int]]
    responses: list[Response]

    @property
    def refusal(self) -> int:
        """What ERROR holds afterwards."""
        refused = (r for r in self.responses if r.status is not Status.OK)
        return next((int(r.opcode) << 24 | r.status << 16 for r in refused), 0)


def axi_scripts(accelerator: Accelerator) -> list[AxiScript]:
    """Scripts one after the other, a reset before the last: each meets what others leave in the memories."""
    rules = [axi_accelerator.RULE]
    model, scripts = CommandModel(accelerator, rules), []
    for i, count in enumerate((8, 12, 10, 8)):
        commands = Commands(accelerator, rules, [3, i]).stream(count)
        if i == 3:
            model.reset()
        scripts.append(AxiScript(commands, [r for words in commands for r in model.answers(words)]))
    return scripts


def axi_rules(core: AxiCore, accelerator: Accelerator, scripts: Sequence[AxiScript], begin: int) -> None:
    """All that the core's docstring says of its registers and streams; counters begin at `begin`."""
    geometry = accelerator.geometry

    def equal(expected: object, got: object) -> None:
        assert expected == got, f"expected {expected}, got {got}"

    def registers(commands: int, responses: int, error: int) -> dict[Register, int]:
        return {
            Register.IDENTITY: IDENTITY,
            Register.VERSION: VERSION,
            Register.SIZE: geometry.rows | geometry.columns << 16,
            Register.MEMORY: geometry.interleave | geometry.depth << 16,
            Register.CONTROL: 0,
            Register.STATUS: 0,
            Register.ERROR: error,
            Register.COMMANDS: commands + begin & 0xFFFFFFFF,
            Register.RESPONSES: responses + begin & 0xFFFFFFFF,
        }

    def quiet(commands: int, responses: int, error: int) -> None:
        values = registers(commands, responses, error)
        equal(list(values.values()), core.read(*values))

    quiet(0, 0, 0)
    beyond = [4 * (max(Register) // 4 + 1), *(1 << bit for bit in range(6, 12)), 0xFFC]
    equal([None] * len(beyond), core.read(*beyond))
    equal([IDENTITY] * 3, core.read(1, 2, 3))
    for register in Register:
        equal(register in axi_accelerator.WRITABLE, core.write(register, 0))
    for address in (*beyond, *(1 << bit | Register.CONTROL for bit in range(6, 12))):
        equal(False, core.write(address, 0xFFFFFFFF))
    for strobes in (0, 2, 4, 8, 14):
        core.write(Register.CONTROL, 0xFFFFFFFF, strobes)
    core.write(Register.CONTROL, 0xFFFFFFFE)
    quiet(0, 0, 0)
    rng = np.random.default_rng(1)
    values = registers(0, 0, 0)
    for address in [*rng.integers(0, 1 << ADDRESS_BITS, 100).tolist(), *range(44)]:
        equal([values.get(address & ~3)], core.read(address))  # type: ignore[call-overload]
        equal(address & ~3 in axi_accelerator.WRITABLE, core.write(address, 0))
    # Many on their way at once: each answer belongs to its own.
    addresses = rng.integers(0, 44, 24).tolist()
    core.push(ADDRESS, *addresses)
    core.run(20)
    core.push(DATA, *[15 << 32] * len(addresses))
    core.push(READ, *addresses)
    for address in addresses:
        writable = address & ~3 in axi_accelerator.WRITABLE
        equal(Answer.OKAY if writable else Answer.SLVERR, core.pull(ANSWER))
        value = values.get(address & ~3)  # type: ignore[call-overload]
        equal(Answer.SLVERR << 32 if value is None else value, core.pull(VALUE))
    done = 0
    error = 0
    *first, script = scripts
    for each in first:
        for words in each.commands:
            core.push(COMMANDS, *words)
        for response in each.responses:
            words = core.packet()
            assert response.expects(words), f"expected {response}, got {[hex(word) for word in words]}"
            done += 1
        error = error or each.refusal
        quiet(done, done, error)
    for bit in range(32):  # ERROR, bit by bit, and by its bytes
        before = error
        core.write(Register.ERROR, 1 << bit, 15 ^ 1 << bit // 8)
        equal([before], core.read(Register.ERROR))
        core.write(Register.ERROR, 1 << bit)
        error &= ~(1 << bit)
        equal([error], core.read(Register.ERROR))
    for header in (0, 0x51FF0000, 0x516A0000):  # the first refusal stays, whatever opcode it has
        core.push(COMMANDS, header, *command(Opcode.GEMM))
        words = core.packet()
        core.packet()
        done += 2
        quiet(done, done, words[0])
        core.write(Register.ERROR, 0xFFFFFFFF)
    core.push(COMMANDS, *[0] * 700)  # each is a refused command
    for _ in range(700):
        equal([ResponseHeader.const({"status": Status.BAD_HEADER}).as_value().value], core.packet())
    done += 700
    quiet(done, done, Status.BAD_HEADER << 16)
    resets(core, equal, quiet, Status.BAD_HEADER << 16)
    for words in script.commands:
        core.push(COMMANDS, *words)
    for response in script.responses:
        assert response.expects(core.packet()), "another response after a reset"
    quiet(len(script.responses), len(script.responses), Status.BAD_HEADER << 16)
    core.reset()
    quiet(0, 0, 0)


def any_answers(core: AxiCore, begin: int) -> None:
    """Responses that no accelerator gives: of every length, refused with every status, with words."""
    rng = np.random.default_rng(1)
    error = done = 0

    def equal(expected: object, got: object) -> None:
        assert expected == got, f"expected {expected}, got {got}"

    def answer(header: int, filling: int = 0) -> None:
        nonlocal error, done
        opcode = Opcode(int(rng.choice(list(Opcode))))
        core.push(COMMANDS, *command(opcode, [header, *[MAGIC << 24 | 3] * filling]))
        length = header & 0xFFFF
        equal([header, *(left << 16 | left ^ 0xFFFF for left in range(length, 0, -1))], core.packet())
        error, done = error or (header if header >> 16 & 0xFF else 0), done + 1
        count = done + begin & 0xFFFFFFFF
        registers = Register.ERROR, Register.COMMANDS, Register.RESPONSES, Register.STATUS
        equal([error, count, count, 0], core.read(*registers))

    def clear(ones: int, strobes: int = 15) -> None:
        nonlocal error
        core.write(Register.ERROR, ones, strobes)
        error &= ~(ones & sum(0xFF << 8 * i for i in range(4) if strobes >> i & 1))
        equal([error], core.read(Register.ERROR))

    answer(0xFFFFFFFF, 40_000)
    for bit in rng.permutation(32).tolist():
        clear(1 << bit, 15 ^ 1 << bit // 8)
        clear(1 << bit)
    for bit in range(32):
        answer(1 << bit, 1 << bit % 16)
        clear(int(rng.integers(1 << 32)), int(rng.integers(16)))
        if bit % 2:
            clear(0xFFFFFFFF)
    for _ in range(60):
        answer(int(rng.integers(1 << 16)) << 16 | int(rng.integers(20)), int(rng.integers(9)))
        clear(int(rng.integers(1 << 32)), int(rng.integers(16)))


def resets(core: AxiCore, equal: Any, quiet: Any, error: int) -> None:
    """By CONTROL: amid a command, amid a response, while nothing goes on."""
    core.push(COMMANDS, *command(Opcode.LOAD, [0], 6)[:4])
    core.run(200)
    equal([1], core.read(Register.STATUS))
    core.write(Register.CONTROL, 1)
    core.run(100)
    equal([1, 0], core.read(Register.CONTROL, Register.STATUS))
    core.write(Register.CONTROL, 0)
    quiet(0, 0, error)
    for cycles in (5, 9, 20, 23, 31):
        core.pause(0, 0, 0, 0, 0, 0, 1)  # nobody takes responses
        core.push(COMMANDS, *command(Opcode.IDENTIFY), *command(Opcode.IDENTIFY))
        core.run(cycles)
        core.write(Register.CONTROL, 1)
        core.push(COMMANDS, *command(Opcode.COUNTERS) * 5)  # are taken and forgotten
        core.run(50)
        equal(0, core.queued(COMMANDS))
        equal([1, 1], core.read(Register.CONTROL, Register.STATUS))
        core.pause(0, 0, 0, 0, 0, 0, 0)
        words = core.packet()
        equal(0, words[-1])
        equal([0], core.read(Register.STATUS))
        core.write(Register.CONTROL, 0)
        quiet(0, 0, error)
        core.push(COMMANDS, *command(Opcode.COUNTERS))
        equal(3, len(core.packet()))
        core.write(Register.CONTROL, 1)
        core.write(Register.CONTROL, 0)
        quiet(0, 0, error)


#: Pauses of the streams, four in and three out.
RATES = ((0,) * 7, (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5), (0.2, 0.8, 0.1, 0.1, 0.8, 0.8, 0.8))


def axi_accelerator_under_test() -> Accelerator:
    return axi_accelerator.VARIANTS["axi_accelerator"]().accelerator


@cache
def axi_verilog() -> str:
    """The core of the AXI bench; its counters are soon to wrap."""
    old = "commands = Signal(32)\n        responses = Signal(32)"
    with mutated("accelerator/axi", old, old.replace("32)", f"32, init={BEFORE_WRAP})")):
        core = sys.modules["quaver.rtl.accelerator.axi"].AxiAccelerator(axi_accelerator_under_test())
        return to_verilog(core, "axi_accelerator")


def axi_driver(of: Mutants) -> Driver:
    """The rules of the core, three times with other pauses; then around something that answers anything."""
    with TemporaryDirectory() as folder:
        harness = Path(folder) / "streams.cpp"
        harness.write_text(_STREAMS)
        text = of.verilog + _AXI.replace("WIDTH", str(of.width))
        library = compile_library(text, "streams", harness)
        inside = r"^module \\axi_accelerator\.(accelerator|Chunked).*?^endmodule$"
        text = re.sub(inside, "", text, flags=re.M | re.S) + _ANY_ANSWER
        around = compile_library(text, "streams", harness)
    accelerator = axi_accelerator_under_test()
    scripts = axi_scripts(accelerator)

    def run(mutant: int) -> str:
        def work() -> None:
            for rates in RATES:
                core = AxiCore(library, mutant)
                core.pause(*rates)
                axi_rules(core, accelerator, scripts, BEFORE_WRAP)
            core = AxiCore(around, mutant)
            core.pause(0, 0, 0, 0.1, 0, 0, 0.1)
            any_answers(core, BEFORE_WRAP)

        return seen(work)

    return run


def linked_verilog() -> str:
    """The echo behind a link with the smallest buffers."""
    return to_verilog(Linked(Echo(), BUFFER), "linked")
