"""The loop from a plan to training and to hardware: recipes that sum as planned, `quaver train --plan` and
`quaver verilog --plan`."""

import json
import re

import pytest

from quaver import cli
from quaver.golden.formats import FP8, FP16
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import Precision, Recipe, Role
from quaver.golden.planning.networks import LayerShape, NetworkShape, trained_here
from quaver.golden.planning.plan import ROLES, Plan, plan
from quaver.golden.planning.planned_recipe import planned
from quaver.golden.planning.variance_retention import minimum_mantissa_bits

#: Three layers, the longest sums a gradient's.
NETWORK = NetworkShape(
    "net", (LayerShape("a", 3, 8, 9, 400), LayerShape("b", 256, 8), LayerShape("c", 8, 10)), batch=64
)


def accumulators(recipe):
    """Mantissa bits of (layer, GEMM), and the chunks."""
    gemms = {
        (layer, str(role)): getattr(precision, role)
        for layer, precision in recipe.layers.items()
        for role in Role
    }
    bits = {which: gemm.accumulator.mantissa_bits for which, gemm in gemms.items()}
    return bits, {which: gemm.chunk for which, gemm in gemms.items()}


# The plan, kept


def test_a_plan_is_kept_whole():
    kept = plan(NETWORK, chunk=32, nonzero_ratios=(1.0, 0.5, 0.25), rule="whole")
    assert Plan.from_json(kept.to_json()) == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("layers"), "'layers' is missing"),
        (lambda p: p["layers"][1]["gemms"][0].pop("plain"), "layer 2: forward: 'plain' is missing"),
        (
            lambda p: p["layers"][0]["gemms"][0]["chunked"].update(mantissa_bits="7"),
            "layer 1: forward: chunked: mantissa_bits is '7', but it must be a whole number, at least 1",
        ),
        (
            lambda p: p["chunked"].update(chunk=0),
            "chunked: chunk is 0, but it must be a whole number, at least 1",
        ),
        (lambda p: p["layers"].clear(), "net has no layers, but a plan is made of at least 1"),
        (lambda p: p.update(batch=0), "batch is 0, but it must be a whole number, at least 1"),
        (
            lambda p: p["layers"][0]["gemms"][0].update(length=-27),
            "layer 1: forward: length is -27, but it must be a whole number, at least 1",
        ),
        (
            lambda p: p["layers"][0]["gemms"][0].update(length=28),
            "layer 1: forward: length is 28, but the layer's is 27",
        ),
        (
            lambda p: p["layers"][0]["gemms"][0].update(nonzero_ratio=0),
            "layer 1: forward: nonzero_ratio is 0, but it is a share above 0",
        ),
        (
            lambda p: p["layers"][1]["shape"].update(nonzero_ratios=[1, "a", 1]),
            "layer 2: nonzero_ratios is [1, 'a', 1], but it must be three of null or shares above 0",
        ),
        (lambda p: p.update(batch="64"), "batch is '64', but it must be a whole number, at least 1"),
        (lambda p: p.update(chunk=6.5), "chunk is 6.5, but it must be a whole number, at least 1"),
        (lambda p: p.update(network=7), "network is 7, but it must be a string"),
        (lambda p: p.update(layers={"a": 1}), "layers is {'a': 1}, but it must be a list"),
        (lambda p: p.update(layers=[7]), "layer 1: it is 7, but it must be an object"),
        (
            lambda p: p.update(product_mantissa=-1),
            "product_mantissa is -1, but it must be a whole number, at least 1",
        ),
        (lambda p: p["best"].update(loss=-1), "best: loss is -1, but it must be a number, at least 0"),
        (
            lambda p: p["best"].update(not_monotone=0),
            "best: not_monotone is 0, but it must be true or false",
        ),
        (
            lambda p: p["layers"][0]["gemms"][0]["plain"].update(chunk=8),
            "layer 1: forward: plain: chunk is 8, but it must be None",
        ),
        (
            lambda p: p["layers"][2]["gemms"].clear(),
            "layer 3: the GEMMs are (), but a layer's are ('forward', 'backward', 'gradient')",
        ),
        (
            lambda p: p.update(rule="both"),
            "'both' is not a valid ChunkRule, but there are 'each-stage', 'whole'",
        ),
        (
            lambda p: p["layers"][0]["shape"].update(taps=0),
            "layer 1: taps is 0, but it must be a whole number, at least 1",
        ),
    ],
)
def test_what_is_no_plan(change, message):
    data = json.loads(plan(NETWORK).to_json())
    change(data)
    with pytest.raises(ValueError, match=f"^not a plan: {re.escape(message)}$"):
        Plan.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "3", '{"network": "n"}', b"\x7fELF\xd0", "[" * 100_000])
def test_other_json_is_no_plan(text):
    with pytest.raises(ValueError, match=r"^not a plan: "):
        Plan.from_json(text)


# The recipe


def test_every_gemm_sums_as_planned():
    recipe = planned(recipes.fp8_images, plan(NETWORK))
    bits, chunks = accumulators(recipe)
    assert bits == {
        ("a", "forward"): minimum_mantissa_bits(27, chunk=64),
        ("a", "backward"): 9,  # nothing is learnt before it: the recipe's
        ("a", "gradient"): minimum_mantissa_bits(64 * 400, chunk=64),
        ("b", "forward"): minimum_mantissa_bits(256, chunk=64),
        ("b", "backward"): minimum_mantissa_bits(8, chunk=64),
        ("b", "gradient"): minimum_mantissa_bits(64, chunk=64),
    }
    assert set(chunks.values()) == {64}
    assert recipe.name == "fp8-images-planned"
    assert recipe.replace(name="fp8-images", layers={}) == recipes.fp8_images


def test_without_chunks_and_narrower():
    bits, chunks = accumulators(planned(recipes.fp8_images, plan(NETWORK), chunks=False, narrower=2))
    assert bits["a", "gradient"] == minimum_mantissa_bits(64 * 400) - 2
    assert bits["b", "forward"] == minimum_mantissa_bits(256) - 2
    assert chunks["a", "gradient"] == recipes.NO_CHUNKS


@pytest.mark.parametrize(
    ("recipe", "chunk", "options", "name"),
    [
        (recipes.fp8, 64, {}, "fp8-planned"),
        (recipes.fp8, 32, {"narrower": 1}, "fp8-planned-chunk-32-narrower-1"),
        (recipes.fp8, 64, {"chunks": False}, "fp8-planned-no-chunks"),
        (recipes.fp8_no_chunks, 64, {}, "fp8-no-chunks-planned-chunk-64"),
        (recipes.fp8_no_chunks, 64, {"chunks": False}, "fp8-no-chunks-planned"),
    ],
)
def test_the_name_says_in_which_chunks(recipe, chunk, options, name):
    assert planned(recipe, plan(NETWORK, chunk=chunk), **options).name == name


def test_gemms_of_other_products_keep_the_recipes_accumulator():
    """FP16 images and the FP16 last layer: a plan for FP8 products says nothing of them."""
    recipe = planned(recipes.fp8, plan(NETWORK))
    assert list(recipe.layers) == ["b"]
    assert recipe.precision("a", first=True) == recipes.fp8.first
    assert recipe.precision("c", last=True) == recipes.fp8.last


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (
            recipes.fp32,
            {},
            "the plan is for products of 5 mantissa bits, but the recipe fp32 has no such GEMM; take fp8",
        ),
        (recipes.fp8, {"narrower": -1}, "narrower is -1, but it is how many bits fewer, 0 or more"),
        (
            recipes.fp8,
            {"narrower": 5},
            "narrower is 5, but the forward GEMM of b is planned with 5 bits, of which at least 1 must stay",
        ),
    ],
)
def test_recipes_that_cannot_follow_a_plan(recipe, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        planned(recipe, plan(NETWORK), **options)


def test_a_recipe_of_named_layers_in_json():
    recipe = planned(recipes.fp8, plan(NETWORK))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json())["layers"].keys() == {"b"}
    assert "layers" not in json.loads(recipes.fp8.to_json())  # and reads as it did
    assert "  b       forward, backward, gradient chunked_float(operand e5m2sat, accumulator e6m5" in str(
        recipe
    )
    assert recipe.with_gemms("short", chunk=8).layers["b"].gradient.chunk == 8


def test_a_layer_by_name_comes_before_its_place():
    wide = Precision(inputs=FP16)
    recipe = recipes.fp8.replace(layers={"conv1": wide})
    assert recipe.precision("conv1", first=True) == wide
    assert recipe.precision("conv2") == recipes.fp8.hidden


def test_a_recipe_of_another_networks_layers():
    from quaver.golden import data
    from quaver.golden.nn.models import build
    from quaver.golden.nn.trainer import Trainer

    digits = data.load("digits")
    message = "the recipe fp8 is for a network with a layer conv9, but mlp has linear1, linear2, linear3"
    with pytest.raises(ValueError, match=f"^{message}$"):
        Trainer(
            build("mlp", digits.shape, 10), digits, recipes.fp8.replace(layers={"conv9": recipes.fp8.hidden})
        )


def test_layers_compute_as_the_recipe_names_them():
    from quaver.golden import data
    from quaver.golden.nn.models import build
    from quaver.golden.nn.settings import Settings
    from quaver.golden.nn.trainer import Trainer

    digits, calls = data.load("digits"), []
    network = NetworkShape("mlp-digits", trained_here("mlp-digits").layers, 16)
    recipe = planned(recipes.fp8_images, plan(network), narrower=1)
    Trainer(
        build("mlp", digits.shape, 10), digits, recipe, Settings(batch=16), trace=calls.append
    ).train_step()
    bits = {
        (call.layer, call.role): call.rule.accumulator.mantissa_bits for call in calls if call.role in ROLES
    }
    assert bits == {
        **{("linear1", role): 4 for role in ("forward", "gradient")},
        **{("linear2", role): 4 for role in ROLES},
        **{("linear3", role): 9 for role in ROLES},
    }


# The commands


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Plans as `quaver plan -o` keeps them."""
    folder = tmp_path_factory.mktemp("plans")
    for network, batch in (("mlp-digits", "64"), ("resnet18-imagenet", "256")):
        assert cli.main(["plan", network, "--batch", batch, "-o", str(folder / f"{network}.json")]) == 0
    (folder / "broken.json").write_text("{")
    (folder / "binary.json").write_bytes(b"\x7fELF\xd0\xff")
    wide = json.loads((folder / "mlp-digits.json").read_text())
    wide["layers"][1]["gemms"][2]["chunked"]["mantissa_bits"] = 30
    (folder / "wide.json").write_text(json.dumps(wide))
    return folder


@pytest.fixture
def quaver(capsys, monkeypatch, kept):
    monkeypatch.chdir(kept)
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments):
        status = cli.main([*map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_plan_keeps_what_it_prints(quaver, kept):
    _, out, _ = quaver("plan", "mlp-digits", "--batch", "64", "--json")
    assert out == (kept / "mlp-digits.json").read_text()
    shape = NetworkShape("mlp-digits", trained_here("mlp-digits").layers, 64)
    assert Plan.from_json(out) == plan(shape)


def test_training_follows_the_plan(quaver, tmp_path):
    """Model, data and batch are the plan's; the recipe is in the metrics; another recipe's checkpoint is
    refused."""
    out = tmp_path / "run"
    assert quaver("train", "--plan", "mlp-digits.json", "--epochs", "1", "--out", out)[0] == 0
    about = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert (about["network"], about["settings"]["batch"]) == ("mlp", 64)
    recipe = Recipe.from_json(json.dumps(about["recipe"]))
    assert recipe == planned(recipes.fp8, plan(NetworkShape("", trained_here("mlp-digits").layers, 64)))
    assert recipe.layers["linear2"].forward.accumulator.mantissa_bits == 5
    narrower = ["train", "--plan", "mlp-digits.json", "--narrower", "1", "--epochs", "2", "--out", out]
    status, _, err = quaver(*narrower, "--resume")
    assert status == 2
    assert 'is a checkpoint of another run: recipe.name is "fp8-planned" there, "fp8-planned-n' in err
    assert "recipe.layers.linear2.forward.accumulator.mantissa_bits is 5 there, 4 here" in err


def test_show_recipe_says_each_width(quaver):
    out = quaver("train", "--plan", "mlp-digits.json", "--narrower", "2", "--no-chunks", "--show-recipe")[1]
    assert out.startswith("fp8-planned-no-chunks-narrower-2\n")
    assert "linear2  forward, backward, gradient chunked_float(operand e5m2sat, accumulator e6m3" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--plan resnet18-imagenet.json",
            "resnet18-imagenet.json is a plan of resnet18-imagenet with a layer conv1 of sums 147 and 3136 "
            "long at 12544 positions, but mlp-digits has a layer linear1 of sums 64 and 128 long at 1 "
            "positions there; name its --model and --data, or plan mlp-digits",
        ),
        ("--plan mlp-digits.json --model cnn", "but cnn-digits has a layer conv1 of sums 25 and 800 long"),
        (
            "--plan mlp-digits.json --batch 32",
            "--batch is 32, but mlp-digits.json is for 64 images a step, which is how long gradients' sums "
            "are; leave it out, or plan with --batch 32",
        ),
        (
            "--plan mlp-digits.json --chunk 8",
            "--chunk is 8, but mlp-digits.json says the chunk; leave it out, or plan with --chunk",
        ),
        ("--plan broken.json", "--plan is broken.json, but that file is not a plan: "),
        ("--plan binary.json", "--plan is binary.json, but that file is not a plan: 'utf-8' codec can't"),
        ("--plan none.json", "none.json: No such file or directory"),
        (
            "--narrower 1",
            "--no-chunks and --narrower choose among a plan's widths; name it: --plan FILE, of quaver",
        ),
        ("--plan mlp-digits.json --recipe fixed16", "the recipe fixed16 has no such GEMM; take fp8"),
    ],
)
def test_plans_that_cannot_be_trained(quaver, arguments, message):
    status, _, err = quaver("train", *arguments.split())
    assert status == 2
    assert message in err


def test_hardware_of_the_plans_widths(quaver, tmp_path):
    status, _, err = quaver("verilog", "--plan", "resnet18-imagenet.json", "-o", tmp_path / "hardware")
    assert status == 0
    assert "accumulator 1-6-11, in chunks of 64: conv1/gradient asks for it, 3,211,264 products\n" in err
    files = {path.name: path.read_text() for path in (tmp_path / "hardware").iterdir()}
    assert sorted(files) == ["accelerator.v", *(f"pe_1_6_{bits}.v" for bits in (10, 11, 5, 7, 8))]
    # What leaves a column is as wide as the accumulator says, and an element's total with it.
    widths = {name: total_width(text) for name, text in files.items() if name.startswith("pe")}
    assert len(set(widths.values())) == 5
    assert widths["pe_1_6_8.v"] - widths["pe_1_6_7.v"] == 1


def total_width(text):
    return int(re.search(r"output \[(\d+):0\] chain_out;", text)[1]) + 1


def test_hardware_of_one_gemm(quaver):
    _, out, err = quaver(
        *("verilog", "pe", "--plan", "resnet18-imagenet.json", "--gemm", "layer1.0.conv1/gradient")
    )
    assert err == (
        "accumulator 1-6-10, in chunks of 64: layer1.0.conv1/gradient asks for it, 802,816 products; "
        "and 3 more GEMMs\n"
    )
    reference = quaver("verilog", "pe", "--accumulator", "1-6-10")[1]
    assert out.replace(" --chunk 64", "") == reference  # the command in the header says the plan's chunk


def test_without_chunks_the_longest_sum_is_one(quaver):
    from quaver.cli import verilog

    arguments = cli_arguments(verilog, "pe --plan mlp-digits.json --no-chunks")
    verilog._take(arguments, Plan.from_json(arguments.plan.read_text()))
    assert arguments.chunk == 128
    assert (arguments.accumulator.exponent_bits, arguments.accumulator.mantissa_bits) == (6, 5)


def cli_arguments(module, text):
    import argparse

    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name a unit, or a plan by --plan FILE; the units are float_multiplier, float_adder"),
        ("pe --no-chunks", "--no-chunks chooses among a plan's widths; name it: --plan FILE"),
        ("pe --gemm a/forward", "--gemm is a/forward, but it names a GEMM of a plan; add --plan FILE"),
        (
            "--plan mlp-digits.json lfsr",
            "--plan is mlp-digits.json, but lfsr has no accumulator; leave it out",
        ),
        (
            "pe --plan mlp-digits.json --accumulator fp16",
            "--accumulator is e6m9, but mlp-digits.json says it; leave one of them out",
        ),
        (
            "pe --plan mlp-digits.json --gemm linear1/backward",
            "--gemm is linear1/backward, but those of mlp-digits.json are linear1/forward, linear1/gradient",
        ),
        (
            "pe --plan wide.json",
            "linear2/gradient of wide.json asks for 30 mantissa bits: 1 + 6 + 30 = 37 bits, but a format",
        ),
        ("pe --plan mlp-digits.json -o .", "--output is ., a directory; name a file in it"),
        ("pe --plan mlp-digits.json --stages 99", "stages is 99"),
        ("pe --plan broken.json", "--plan is broken.json, but that file is not a plan: "),
        (
            "pe --plan mlp-digits.json --arithmetic fixed_point",
            "--accumulator is e6m5, but --arithmetic fixed_point has --a, --b",
        ),
        ("--plan mlp-digits.json", "--output is missing, but a plan's hardware is several files; name a dir"),
        ("--plan mlp-digits.json -o wide.json", "--output is wide.json, a file; name a directory, or a UNIT"),
        ("--plan mlp-digits.json -o no/where", "--output is no/where, but there is no directory no"),
    ],
)
def test_hardware_that_cannot_be(quaver, arguments, message):
    status, out, err = quaver("verilog", *arguments.split())
    assert status == 2
    assert message in err
    assert err.count("\n") == 1  # refused before anything else is said
    assert not out


@pytest.mark.slow
def test_planned_hardware_computes_what_is_planned(quaver):
    """Golden against the simulated accelerators of each planned width."""
    assert (
        quaver("compare", "--plan", "mlp-digits.json", "--rows", "2", "--columns", "2", "--steps", "1")[0]
        == 0
    )


def test_fp8_products_are_what_is_planned_for():
    from quaver.golden.planning.variance_retention import product_mantissa_bits

    assert product_mantissa_bits(FP8) == plan(NETWORK).product_mantissa
