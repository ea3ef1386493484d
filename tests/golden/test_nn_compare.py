"""The comparison: equal engines are equal, and one flipped bit is caught and named."""

import numpy as np
import pytest

from quaver.golden import data
from quaver.golden.engine import GoldenEngine
from quaver.golden.nn import models, recipes
from quaver.golden.nn.compare import Mismatch, compare
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer


def make(recipe=recipes.fp8, **settings):
    digits = data.load("digits")

    def trainer(engine, trace):
        network = models.build("mlp", digits.shape, digits.classes, seed=1)
        return Trainer(network, digits, recipe, Settings(batch=16, **settings), engine=engine, trace=trace)

    return trainer


class Flipping(GoldenEngine):
    """The golden engine with one bit of one result flipped: in one GEMM or one update of all."""

    def __init__(self, *, gemm=None, update=None, index=(0, 0), bit=0):
        self.gemm_call, self.update_call, self.index, self.bit = gemm, update, index, bit
        self.gemms = self.updates = 0

    def gemm(self, arithmetic, a_codes, b_codes, *, seed=None):
        codes = super().gemm(arithmetic, a_codes, b_codes, seed=seed)
        if self.gemms == self.gemm_call:
            codes[self.index] ^= 1 << self.bit
        self.gemms += 1
        return codes

    def update(self, rule, weights, momenta, gradients, *, seed=None):
        weights, momenta = super().update(rule, weights, momenta, gradients, seed=seed)
        if self.updates == self.update_call:
            momenta[self.index] ^= 1 << self.bit
        self.updates += 1
        return weights, momenta


def test_an_engine_equals_itself():
    told = []
    result = compare(make(), GoldenEngine(), GoldenEngine(), steps=2, images=20, progress=told.append)
    assert result.equal
    assert result.first is None
    assert (result.steps, result.images, result.mismatches) == (2, 20, 0)
    assert [step.step for step in told] == [0, 1]
    shapes = {(t.layer, t.role, t.shape): t.calls for t in result.tallies}
    assert shapes[("linear1", "forward", (20, 64, 128))] == 1
    assert shapes[("linear2", "backward", (16, 64, 128))] == 2
    assert shapes[("linear3", "gradient", (64, 16, 10))] == 2
    assert shapes[("linear2.weight", "update", (128 * 64,))] == 2
    assert ("linear1", "backward", (16, 128, 64)) not in shapes
    gemm_codes = sum(t.codes for t in result.tallies if t.role != "update")
    assert gemm_codes == 20 * (128 + 64 + 10) + 2 * (
        16 * (128 + 64 + 10) + 16 * (128 + 64) + 64 * 128 + 128 * 64 + 64 * 10
    )
    assert sum(t.codes for t in result.tallies if t.role == "update") == 2 * 2 * sum(
        p.value.size for p in make()(GoldenEngine(), lambda call: None).parameters
    )


# A step's GEMMs in order: forward 1 2 3, then gradient 3, backward 3, gradient 2, backward 2, gradient 1.
GEMMS = [
    ("linear1", "forward"),
    ("linear2", "forward"),
    ("linear3", "forward"),
    ("linear3", "gradient"),
    ("linear3", "backward"),
    ("linear2", "gradient"),
    ("linear2", "backward"),
    ("linear1", "gradient"),
]


@pytest.mark.parametrize("call", range(len(GEMMS)))
def test_one_flipped_bit_of_a_gemm_is_caught_and_named(call):
    layer, role = GEMMS[call]
    result = compare(make(), GoldenEngine(), Flipping(gemm=len(GEMMS) + call, index=(3, 7), bit=5), steps=4)
    assert not result.equal
    assert result.steps == 2
    first = result.first
    assert (first.step, first.layer, first.role, first.what, first.index) == (1, layer, role, "C", (3, 7))
    assert first.left ^ first.right == 1 << 5
    assert f"step 1, {layer} {role}, C[3, 7]: 0x" in str(first)
    assert result.mismatches >= 1


def test_one_flipped_bit_of_an_update_is_caught_and_named():
    result = compare(make(), GoldenEngine(), Flipping(update=3, index=11), steps=1)
    assert (result.first.layer, result.first.role, result.first.what) == ("linear2.bias", "update", "momenta")
    assert result.first.index == (11,)
    assert result.mismatches == 1


class Slipping(GoldenEngine):
    """The golden engine with a slip in the second learner's packets or residues, or in the average."""

    def __init__(self, slip):
        self.slip = slip

    def compress(self, rule, residue, gradient, *, layer=0, learner=0, step=0):
        packet, kept = super().compress(rule, residue, gradient, layer=layer, learner=learner, step=step)
        if self.slip == "residues" and (layer, learner) == (2, 1):
            kept.view(np.uint32)[3] ^= 1
        if self.slip in ("packet", "size of packet") and (layer, learner) == (2, 1):
            gradient = np.zeros_like(gradient) if "size" in self.slip else -gradient
            packet, _ = super().compress(rule, -residue, gradient, layer=layer, learner=learner, step=step)
        return packet, kept

    def mean(self, packets):
        average = super().mean(packets)
        if self.slip == "average" and packets[0].layer == 2:
            average[5] += 1
        return average


@pytest.mark.parametrize("slip", ["packet", "size of packet", "residues", "average"])
def test_a_slip_of_a_compression_is_caught_and_named(slip):
    learners = make(learners=2, compression="adacomp")
    result = compare(learners, GoldenEngine(), Slipping(slip))
    assert not result.equal
    assert result.mismatches > 0
    role = "average" if slip == "average" else "compress"
    assert (result.first.layer, result.first.role, result.first.what) == ("linear2.weight", role, slip)
    assert compare(learners, GoldenEngine(), GoldenEngine(), steps=2).equal


def test_the_first_of_many_flips_is_named_and_all_are_counted():
    flips = slice(2, 4), slice(5, 8)
    result = compare(make(), GoldenEngine(), Flipping(gemm=len(GEMMS) - 1, index=flips, bit=1), steps=1)
    assert result.first.index == (2, 5)
    tally = next(t for t in result.tallies if (t.layer, t.role) == ("linear1", "gradient"))
    assert tally.mismatches == 6


def test_weights_that_no_call_of_the_engine_shows_are_compared_too():
    digits, rates = data.load("digits"), iter((0.05, 0.06))
    recipe = recipes.fp8.replace(update=None)

    def uneven(engine, trace):
        settings = Settings(batch=16, learning_rate=next(rates))
        network = models.build("mlp", digits.shape, digits.classes, seed=1)
        return Trainer(network, digits, recipe, settings, engine=engine, trace=trace)

    result = compare(uneven, GoldenEngine(), GoldenEngine(), steps=2)
    assert result.mismatches == 0
    assert result.steps == 1
    assert (result.first.role, result.first.what, result.first.layer) == (
        "state",
        "weights",
        "linear1.weight",
    )


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_call_that_only_one_engine_had_is_a_mismatch(lacking):
    """Every code of every other call is equal."""
    made = iter((0, 1))

    def uneven(engine, trace):
        def deaf(call):
            if call.layer != "linear3.bias":
                trace(call)

        return make()(engine, deaf if next(made) == lacking else trace)

    result = compare(uneven, GoldenEngine(), GoldenEngine(), steps=3)
    assert (result.equal, result.steps, result.mismatches) == (False, 1, 0)
    counts = (13, 14) if lacking == 0 else (14, 13)
    assert result.first == Mismatch(0, "linear3.bias", "update", "calls", (), *counts)
    assert str(result.first).endswith(f"update, calls: {counts[0]} on the left, {counts[1]} on the right")


def test_engines_on_either_side():
    result = compare(make(), Flipping(gemm=0), GoldenEngine(), steps=1)
    assert result.first.layer == "linear1"


def test_a_flip_in_the_classified_images_is_named_before_any_step():
    result = compare(make(), GoldenEngine(), Flipping(gemm=0), steps=3, images=8)
    assert result.steps == 0
    assert result.first == Mismatch(
        0, "linear1", "forward", "C", (0, 0), result.first.left, result.first.right
    )


def test_a_trained_network():
    trained = make()(GoldenEngine(), lambda call: None)
    for _ in range(3):
        trained.train_step()
    state = trained.state()

    def resumed(engine, trace):
        trainer = make()(engine, trace)
        trainer.restore(state)
        return trainer

    result = compare(resumed, GoldenEngine(), GoldenEngine(), steps=1)
    assert result.equal
    assert not np.array_equal(
        trained.weights["linear1.weight"], make()(GoldenEngine(), None).weights["linear1.weight"]
    )


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="the recipe fp32 calls no engine"):
        compare(make(recipes.fp32), GoldenEngine(), GoldenEngine())
    with pytest.raises(ValueError, match="the recipe fp32 calls no engine"):
        compare(make(recipes.fp32), GoldenEngine(), GoldenEngine(), steps=0, images=3)
