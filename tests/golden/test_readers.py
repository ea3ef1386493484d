"""Every file that is read: what is not known in it is refused by name, and damage is no traceback."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from quaver import cli
from quaver.golden import data, strict_json
from quaver.golden.nn import checkpoint, metrics, models, recipes
from quaver.golden.nn.metrics import MetricsFile
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.trainer import Settings, Trainer
from quaver.golden.planning.layer_table import COLUMNS, read
from quaver.golden.planning.networks import LayerShape, NetworkShape
from quaver.golden.planning.plan import ANNOTATIONS, Plan, plan

FUZZ = settings(max_examples=150, deadline=None)


def damaged(content: bytes):
    """`content` with a few bytes changed, cut out or put in, or cut off."""

    def change(moves):
        changed = bytearray(content)
        for at, length, new in moves:
            place = at % (len(changed) + 1)
            changed[place : place + length] = new
        return bytes(changed)

    move = st.tuples(st.integers(0, len(content)), st.integers(0, 3), st.binary(max_size=3))
    return st.lists(move, min_size=1, max_size=4).map(change) | st.integers(0, len(content)).map(
        lambda length: content[:length]
    )


def places(value, path=()):
    """The path of everything in a JSON value."""
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


def changed(value, path, change):
    """A copy with `change(container, key)` done at the path."""
    value = copy.deepcopy(value)
    container = value
    for key in path[:-1]:
        container = container[key]
    change(container, path[-1])
    return value


# JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' stands there 2 times; keep one"),
        ('[{"b": {"a": 1, "c": 2, "a": 2}}]', "'a' stands there 2 times"),
        ('{"a": NaN}', "NaN is no number in JSON"),
        ("[-Infinity]", "-Infinity is no number in JSON"),
        ("[" * 100_000, "recursion"),
        (b"\xff\xfe\xff", "decode"),
    ],
)
def test_json_says_one_thing(text, message):
    with pytest.raises(ValueError, match=message):
        strict_json.loads(text)


# Plans

NETWORK = NetworkShape("net", (LayerShape("a", 3, 8, 9, 49), LayerShape("b", 64, 10)), 32, ("a remark",))
PLAN = json.loads(plan(NETWORK).to_json())


def test_a_plan_reads_as_it_was():
    assert Plan.from_json(json.dumps(PLAN)) == plan(NETWORK)
    assert PLAN["version"] == 1
    without = {name: value for name, value in PLAN.items() if name not in ("version", "remarks")}
    assert Plan.from_json(json.dumps(without)) == replace(plan(NETWORK), remarks=())


def test_a_plan_of_a_later_version():
    with pytest.raises(ValueError, match="not a plan: version is 2, but this quaver reads up to 1; install"):
        Plan.from_json(json.dumps(PLAN | {"version": 2}))


@pytest.mark.parametrize(
    "path", [path for path in places(PLAN) if path and isinstance(path[-1], str)], ids=str
)
def test_a_plan_without_a_field_or_with_one_more(path):
    lacking = json.dumps(changed(PLAN, path, lambda there, name: there.pop(name)))
    if path in (("version",), ("remarks",)):
        Plan.from_json(lacking)
    else:
        with pytest.raises(ValueError, match=f"not a plan: .*'{path[-1]}' is missing"):
            Plan.from_json(lacking)
    more = json.dumps(changed(PLAN, path, lambda there, name: there.update({f"{name}x": 1})))
    with pytest.raises(ValueError, match=f"not a plan: .*'{path[-1]}x' is not known(; did you mean|$)"):
        Plan.from_json(more)


@pytest.mark.parametrize("value", [None, True, -1, 0, 0.5, "x", [], {}, [1], 10**400], ids=repr)
def test_a_plan_with_another_value(value):
    for path in places(PLAN):
        if not path or path == ("network",):
            continue
        text = json.dumps(changed(PLAN, path, lambda there, key: there.__setitem__(key, value)))
        try:
            read = Plan.from_json(text)
        except ValueError as error:
            read = error
        if isinstance(read, Plan):
            assert Plan.from_json(read.to_json()) == read
        else:
            assert str(read).startswith("not a plan: ")


@FUZZ
@given(damaged(json.dumps(PLAN).encode()))
def test_a_damaged_plan(content):
    try:
        read = Plan.from_json(content)
    except ValueError:
        return
    assert Plan.from_json(read.to_json()) == read


def test_the_annotated_plan_is_read(tmp_path, capsys):
    assert cli.main(["plan", "mlp-digits", "-o", str(tmp_path / "p.json")]) == 0
    text = (tmp_path / "p.json").read_text()
    assert {"version", "area_fp32", "area_measured"} < json.loads(text).keys()
    assert '"area"' in text
    assert set(ANNOTATIONS) >= json.loads(text).keys() - json.loads(Plan.from_json(text).to_json()).keys()


# Layer tables

HEAD = "name,in_channels,out_channels"
TABLE = [
    {"name": "conv;1,a", "in_channels": 3, "out_channels": 16, "kernel": "3x5", "padding": 1, "height": 32},
    {"name": "ç", "in_channels": 16, "out_channels": 32, "groups": 4, "nonzero_forward": 0.5},
]


def table(delimiter, ending="\n", decimal="."):
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in TABLE for name in row))
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator=ending)
    writer.writeheader()
    writer.writerows(
        {k: str(v).replace(".", decimal) if isinstance(v, float) else v for k, v in row.items()}
        for row in TABLE
    )
    return text.getvalue()


@pytest.mark.parametrize("name", ["n.csv", "n.CSV", "n.tsv", "n.Csv"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("delimiter", "decimal"), [(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ",")]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_of_any_spreadsheet(tmp_path, name, ending, delimiter, decimal, mark):
    file = tmp_path / name
    file.write_bytes((mark + table(delimiter, ending, decimal)).encode())
    assert read(file, 4) == NetworkShape(
        "n",
        (
            LayerShape("conv;1,a", 3, 16, 15, 32 * 30),
            LayerShape("ç", 16, 32, groups=4, nonzero_ratios=(0.5, None, None)),
        ),
        4,
    )


def test_json_in_capitals_and_with_a_byte_order_mark(tmp_path):
    (tmp_path / "n.JSON").write_text("\ufeff" + json.dumps({"batch": 4, "layers": TABLE}), encoding="utf-8")
    (tmp_path / "n.csv").write_text(table(","), encoding="utf-8")
    assert read(tmp_path / "n.JSON") == read(tmp_path / "n.csv", 4)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("n.csv", "name;in_channels,out_channels\n", "line 1: cells stand between ',' and ';'; take one of"),
        ("n.csv", "name|in_channels|out_channels\n", "line 1: name is missing; the columns are name, in_ch"),
        ("n.csv", HEAD + "\n", "n.csv: n has no layers"),
        ("n.csv", HEAD + '\n"a,3,8\nb,3,8\n', "n.csv, after line 1: unexpected end of data; is"),
        ("n.csv", HEAD + "\n" + "a" * 200_000 + ",3,8\n", "field larger than field"),
        ("n.csv", HEAD + "\na,1_000,8\n", "line 2: in_channels is '1_000', but it must"),
        ("n.csv", HEAD + "\na,³,8\n", "line 2: in_channels is '³'"),
        ("n.csv", "name,in_channels,out_channels,kernel\na,3,8,²\n", "line 2: kernel is '²'"),
        ("n.csv", HEAD + "\na," + "9" * 5000 + ",8\n", "line 2: in_channels is '9{39}, but"),
        ("n.csv", HEAD + "\na,nan,8\n", "line 2: in_channels is 'nan'"),
        ("n.csv", HEAD + "\na,3.0,8\n", "line 2: in_channels is '3.0'"),
        ("n.csv", "name;in_channels;out_channels\na;3,5;8\n", "line 2: in_channels is '3,5'"),
        ("n.csv", HEAD + ",nonzero_forward\na,3,8,nan\n", "line 2: nonzero_forward is 'nan'"),
        ("n.csv", HEAD + ",nonzero_forward\na,3,8,-0.1\n", "line 2: nonzero_forward is '-0"),
        ("n.csv", HEAD + "\na,3,8\na,3,8\n", "n.csv: n has 2 layers named a; rename"),
        ("n.json", '{"batch": 4, "layres": []}', "n.json: 'layres' is not known; there are batch and layers"),
        ("n.json", '[{"name": "a", "name": "b"}]', "n.json is not JSON: 'name' stands there 2 times"),
        ("n.json", '[{"name": "a", "in_channels": NaN, "out_channels": 1}]', "NaN is no number in JSON"),
        ("n.json", '[{"name": "a", "in_channels": 3, "out_channels": 1, "heigth": 2}]', "you mean height"),
        ("n.json", '[{"name": "a", "in_channels": 3.0, "out_channels": 1}]', "in_channels is 3.0, but"),
        ("n.json", '[{"name": "a", "in_channels": [3], "out_channels": 1}]', r"in_channels is \[3\]"),
        ("n.json", '{"batch": true, "layers": []}', "n.json: batch is True, but it must be a whole number"),
    ],
)  # fmt: skip
def test_what_is_no_table(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as refused:
        read(file, 4)
    assert str(file) in str(refused.value)


def test_a_table_in_utf_16(tmp_path):
    file = tmp_path / "n.csv"
    file.write_text(table("\t"), encoding="utf-16")
    with pytest.raises(ValueError, match=r"n.csv is not UTF-8: .*; save it as CSV in UTF-8"):
        read(file, 4)


def test_options_for_onnx_alone(tmp_path, capsys):
    file = tmp_path / "n.csv"
    file.write_text(table(","), encoding="utf-8")
    for network in (str(file), "mlp-digits"):
        assert cli.main(["plan", network, "--batch", "4", "--skip-unknown"]) == 2
        assert cli.main(["plan", network, "--batch", "4", "--axis", "n=3"]) == 2
    for axis in ("n", "=3", "n=0", "n=x", "n=-1", "n=²"):
        assert cli.main(["plan", str(file), "--axis", axis]) == 2
        assert f"--axis is '{axis}', but it must be like sequence=128" in capsys.readouterr().err


@FUZZ
@given(content=damaged(table(",").encode()) | damaged(table(";", "\r\n", ",").encode()))
def test_a_damaged_table(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "damaged.csv"
    file.write_bytes(content)
    said = str(file)
    try:
        assert all(layer.forward >= 1 for layer in read(file, 4).layers)
    except ValueError as error:
        said = str(error)
    assert str(file) in said


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@FUZZ
@given(st.dictionaries(st.sampled_from([*COLUMNS, "other"]), VALUES, max_size=13), VALUES)
def test_a_json_table_of_anything(tmp_path_factory, row, batch):
    file = tmp_path_factory.getbasetemp() / "anything.json"
    row = {"name": "a", "in_channels": 3, "out_channels": 8} | row
    file.write_text(json.dumps({"batch": batch, "layers": [row]}))
    said = str(file)
    try:
        read(file)
    except ValueError as error:
        said = str(error)
    assert str(file) in said


# Recipes


def test_a_recipe_with_another_value():
    whole = json.loads(recipes.fp8.to_json())
    for value in (None, True, -1, 0.5, "x", [], {}, 10**400, {"is": []}, {"is": "FloatFormat"}, float("nan")):
        for path in places(whole):
            if not path:
                continue
            text = json.dumps(changed(whole, path, lambda there, key, v=value: there.__setitem__(key, v)))
            try:
                Recipe.from_json(text)
            except ValueError as error:
                assert str(error).startswith("not a recipe")  # noqa: PT017


@FUZZ
@given(damaged(recipes.fp8.to_json().encode()))
def test_a_damaged_recipe(content):
    try:
        recipe = Recipe.from_json(content)
    except ValueError:
        return
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_recipe_that_says_a_thing_twice():
    text = recipes.fp8.to_json().replace('"name": "fp8"', '"name": "fp8", "name": "fp9"')
    with pytest.raises(ValueError, match="not a recipe: 'name' stands there 2 times; keep one"):
        Recipe.from_json(text)


# Data sets

ARRAYS = {
    "train_images": np.arange(8 * 3 * 32 * 32, dtype=np.uint32).astype(np.uint8).reshape(8, 3, 32, 32),
    "train_labels": np.arange(8, dtype=np.uint8),
    "test_images": np.zeros((4, 3, 32, 32), np.uint8),
    "test_labels": np.array([0, 1, 8, 9], np.uint8),
}


@pytest.mark.parametrize("dtype", ["u1", "i1", "i4", "i8", "u8", ">i2"])
def test_labels_of_any_integer_type(tmp_path, dtype):
    labels = {name: ARRAYS[name].astype(dtype) for name in ("train_labels", "test_labels")}
    np.savez(tmp_path / "cifar10.npz", **(ARRAYS | labels))
    loaded = data.load("cifar10", tmp_path)
    assert loaded.train_labels.dtype == np.uint8
    assert np.array_equal(loaded.test_labels, ARRAYS["test_labels"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": np.array([0, 1, 8, -1])}, "test labels are -1 to 8, but there are 10 classes"),
        ({"test_labels": np.array([0, 1, 8, 256])}, "test labels are 0 to 256, but there are 10 classes"),
        ({"test_labels": np.array([0, 1, 8, 10])}, "a test label is 10, but there are 10 classes, 0 to 9"),
        ({"test_labels": np.array([0, 1, 8, 9.0])}, "test labels are float64, but they must be uint8"),
        ({"test_labels": np.array(list("0189"))}, "test labels are <U1, but they must be uint8"),
        ({"test_labels": np.zeros(5, np.uint8)}, r"4 test images, but labels of shape \(5,\); there must be"),
        ({"test_labels": np.zeros((4, 10), np.uint8)}, r"4 test images, but labels of shape \(4, 10\)"),
        ({"test_labels": np.uint8(3)}, r"4 test images, but labels of shape \(\)"),
        ({"train_images": np.zeros((8, 32, 32, 3), np.uint8)}, r"shape \(8, 32, 32, 3\), but CIFAR-10's are"),
        ({"train_images": np.zeros((8, 3072), np.uint8)}, r"shape \(8, 3072\), but CIFAR-10's are"),
        ({"train_images": np.zeros((8, 3, 32, 32), np.float32)}, "train images are float32"),
        ({"test_images": np.zeros((0, 3, 32, 32), np.uint8), "test_labels": np.zeros(0, np.uint8)},
         r"the test images have the shape \(0, 3, 32, 32\), so that there are none"),
        ({"train_images": np.zeros((0, 3, 32, 32), np.uint8), "train_labels": np.zeros(0, np.uint8)},
         r"the train images have the shape \(0, 3, 32, 32\)"),
        ({"extra": np.zeros(3)}, "must hold the arrays train_images, .*, but it holds .*, extra"),
        ({"test_labels": np.array([1, None], object)}, "cifar10.npz is corrupted.*allow_pickle"),
    ],
)  # fmt: skip
def test_what_is_no_data_set(tmp_path, change, message):
    np.savez(tmp_path / "cifar10.npz", **(ARRAYS | change))
    with pytest.raises(ValueError, match=message) as refused:
        data.load("cifar10", tmp_path)
    assert str(tmp_path / "cifar10.npz") in str(refused.value)


def test_an_array_by_another_ending(tmp_path):
    with (tmp_path / "cifar10.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"cifar10.npz is corrupted.*it holds one array without a name"):
        data.load("cifar10", tmp_path)


def small_npz():
    file = io.BytesIO()
    np.savez_compressed(file, **(ARRAYS | {"train_images": np.zeros((8, 3, 32, 32), np.uint8)}))
    return file.getvalue()


@FUZZ
@given(damaged(small_npz()))
def test_a_damaged_data_set(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "cifar10.npz"
    file.write_bytes(content)
    said = str(file)
    try:
        data.load("cifar10", file.parent)
    except ValueError as error:
        said = str(error)
    assert str(file) in said


@FUZZ
@given(damaged(gzip.compress(bytes(1000), mtime=0)))
def test_a_damaged_gzip(tmp_path_factory, content):
    """Any file that is not the right one is refused, however it is packed."""
    folder = tmp_path_factory.getbasetemp()
    for file in data._MNIST:
        (folder / file.name).write_bytes(content)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is corrupted.*SHA-256"):
        data.load("mnist", folder)


# Checkpoints and metrics

SETTINGS = Settings(epochs=1, batch=128, seed=3)


def trainer(recipe=recipes.fp8, settings=SETTINGS):
    digits = data.load("digits")
    return Trainer(models.build("mlp", digits.shape, digits.classes, seed=1), digits, recipe, settings)


@pytest.fixture(scope="module")
def run():
    one = trainer()
    one.train_step()
    return one


@pytest.fixture
def kept(run, tmp_path):
    """A checkpoint's file and its arrays."""
    checkpoint.save(run, tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as stored:
        return tmp_path / "c.npz", dict(stored)


def about_with(arrays, **changes):
    about = json.loads(arrays["about"].tobytes()) | changes
    return np.frombuffer(json.dumps(about).encode(), np.uint8)


def refuses(file, arrays, message):
    np.savez(file, **arrays)
    mine = trainer()
    before = mine.state()
    with pytest.raises(ValueError, match=message) as refused:
        checkpoint.resume(mine, file)
    assert str(file) in str(refused.value)
    assert all(np.array_equal(before[name], array) for name, array in mine.state().items())


def test_checkpoints_that_are_none(kept):
    file, arrays = kept
    name = "weights/linear1.weight"
    assert name in arrays
    refuses(file, arrays | {"about": about_with(arrays, version=1)}, "of version 1, but this .* 2")
    refuses(file, arrays | {"about": np.frombuffer(b"[]", np.uint8)}, r"checkpoint of version \[\]")
    refuses(file, arrays | {"about": np.frombuffer(b"{", np.uint8)}, "not a whole checkpoint")
    refuses(
        file, arrays | {"about": np.frombuffer(b"[" * 99999, np.uint8)}, "not a whole checkpoint.*recursion"
    )
    refuses(file, arrays | {"weights/other": np.zeros(3)}, "it holds weights/other, which the run")
    refuses(file, {k: v for k, v in arrays.items() if k != name}, f"the state holds nothing for {name}")
    refuses(file, {k: v for k, v in arrays.items() if k != "counters"}, "nothing for counters")
    refuses(file, {k: v for k, v in arrays.items() if k != "about"}, "it does not say what it is about")
    refuses(file, arrays | {name: arrays[name][:-1]}, f"the state holds uint16 .* for {name}, but here")
    refuses(file, arrays | {name: arrays[name].astype(float)}, f"the state holds float64 .* for {name}")
    refuses(file, arrays | {"sums": np.array([None] * 3)}, "not a whole checkpoint.*allow_pickle")


def test_an_array_is_no_checkpoint(tmp_path):
    with (tmp_path / "c.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"c.npz is not a whole checkpoint \(it holds one array"):
        checkpoint.resume(trainer(), tmp_path / "c.npz")


def test_damaged_checkpoints(kept, run):
    file, _ = kept
    whole, fresh = file.read_bytes(), trainer()
    rng = np.random.default_rng(1)
    for _ in range(100):
        content = bytearray(whole)
        for at in rng.integers(0, len(content), 3):
            content[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(content[: int(rng.integers(len(content)))] if rng.integers(2) else content)
        try:
            checkpoint.resume(fresh, file)
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017
        else:  # bits of a zip file that nothing reads, such as its dates
            assert all(np.array_equal(array, run.state()[name]) for name, array in fresh.state().items())


LINES = [
    {
        "kind": "step",
        "epoch": 0,
        "step": 0,
        "loss": 2.5,
        "accuracy": 0.1,
        "loss_scale": 1000.0,
        "overflows": 0,
    },
    {
        "kind": "step",
        "epoch": 0,
        "step": 1,
        "loss": None,
        "accuracy": 0,
        "loss_scale": 1000.0,
        "overflows": 3,
    },
    {
        "kind": "epoch",
        "epoch": 0,
        "step": 2,
        "loss": 2.0,
        "accuracy": 0.5,
        "test_loss": 2.0,
        "test_accuracy": 0.5,
        "overflows": 3,
    },
]


@pytest.fixture(scope="module")
def lines(run):
    return [{"kind": "run", **checkpoint.about(run), "epochs": 1}, *LINES]


def write(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_metrics_read_as_they_were(tmp_path, lines):
    file = write(tmp_path / "m.jsonl", lines)
    assert metrics.read(file) == lines
    assert [epoch.step for epoch in metrics.epochs(file)] == [2]


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (1, {"kind": "step"}, "line 1: kind is 'step', but there it must be run"),
        (1, {"recipe": "fp8"}, "line 1: recipe is 'fp8', but it must be of type dict"),
        (1, {"seed": 3}, "line 1: 'seed' is not known of a run"),
        (2, {"kind": "stop"}, "line 2: kind is 'stop', but there it must be step or epoch"),
        (2, {"kind": "run"}, "line 2: kind is 'run', but there it must be step or epoch"),
        (2, {"loss": "2.5"}, "line 2: loss is '2.5', but it must be of type float"),
        (2, {"step": 0.5}, "line 2: step is 0.5, but it must be of type int"),
        (2, {"step": True}, "line 2: step is True, but it must be of type int"),
        (2, {"speed": 1}, "line 2: 'speed' is not known of a step"),
        (3, {"step": 0}, "line 3: step 0 comes after step 0"),
        (3, {"step": 7}, "line 3: step 7 comes after step 0"),
        (4, {"test_accuracy": [1]}, r"line 4: test_accuracy is \[1\], but it must be of type float"),
    ],
)
def test_metrics_that_are_none(tmp_path, lines, number, change, message):
    wrong = [line | change if at == number else line for at, line in enumerate(lines, start=1)]
    file = write(tmp_path / "m.jsonl", wrong)
    for reader in (metrics.read, metrics.epochs):
        with pytest.raises(ValueError, match=rf"m.jsonl is not a whole metrics file \({message}"):
            reader(file)


def test_metrics_without_a_field(tmp_path, lines):
    for number, line in enumerate(lines):
        for name in line:
            wrong = copy.deepcopy(lines)
            del wrong[number][name]
            what = "kind is None" if name == "kind" else f"'{name}' is missing"
            with pytest.raises(ValueError, match=f"m.jsonl is not a .*line {number + 1}: {what}"):
                metrics.epochs(write(tmp_path / "m.jsonl", wrong))


@pytest.mark.parametrize("line", ["3", '"step"', "[]", "null", '{"kind": "step"}'])
def test_lines_that_are_no_events(tmp_path, lines, line):
    file = write(tmp_path / "m.jsonl", lines)
    with file.open("a") as more:
        more.write(line + "\n")
    with pytest.raises(ValueError, match=r"m.jsonl is not a whole metrics file \(line 5: "):
        metrics.read(file)


def test_the_metrics_of_another_run_are_not_gone_on_with(tmp_path, run, lines):
    other = copy.deepcopy(lines)
    other[0]["settings"]["seed"] = 4
    file = write(tmp_path / "m.jsonl", other)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"m.jsonl is of another run: settings.seed is 4 there, 3 here"):
        MetricsFile(file, run)
    assert file.read_bytes() == before
    with MetricsFile(write(file, lines), run):
        assert metrics.read(file) == lines[:2]


@FUZZ
@given(data=st.data())
def test_damaged_metrics(tmp_path_factory, lines, data):
    file = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    content = "".join(json.dumps(line) + "\n" for line in [{**lines[0], "recipe": {}}, *lines[1:]]).encode()
    file.write_bytes(data.draw(damaged(content)))
    said = str(file)
    try:
        metrics.epochs(file)
    except ValueError as error:
        said = str(error)
    assert str(file) in said


# What the package itself carries


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", '[{"board": 3}]', '{"results": [{}]}', '[["a"]]'])
def test_stored_results_that_are_none(tmp_path, monkeypatch, content):
    from quaver.cli import plan as plan_command
    from quaver.fpga import arrays

    for module, name, reader in (
        (arrays, "arrays.json", arrays.reports.__wrapped__),
        (plan_command, "pe_area.json", plan_command.read_areas),
    ):
        (tmp_path / name).write_text(content)
        monkeypatch.setattr(module, "files", lambda package: tmp_path)
        if (content, name) != ("[]", "arrays.json"):  # no array was searched for yet
            with pytest.raises(ValueError, match=f"{name} is not what bench/.* restore it"):
                reader()


# The command line: the file, the value, and exit status 2


@pytest.mark.parametrize(
    ("arguments", "name", "content", "message"),
    [
        (["plan", "FILE", "--batch", "2"], "n.csv", HEAD.encode() + b"\na,0,1\n", "line 2: in"),
        (["plan", "FILE", "--batch", "2"], "n.CSV", b"name|in_channels\n", "line 1: name is missing"),
        (["plan", "FILE", "--batch", "2"], "n.ONNX", b"", "is not an ONNX model"),
        (["train", "--plan", "FILE"], "p.json", b"{}", "that file is not a plan: 'batch' is missing"),
        (["train", "--recipe", "FILE"], "r.json", b"{}", "that file is not a recipe but dict"),
        (["train", "--data", "cifar10", "--data-dir", "FOLDER"], "cifar10.npz", b"PK", "is corrupted"),
    ],
)  # fmt: skip
def test_bad_files_end_the_command(tmp_path, capsys, arguments, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    places = {"FILE": str(file), "FOLDER": str(tmp_path)}
    if name.lower().endswith("onnx"):
        pytest.importorskip("onnx")
    assert cli.main([places.get(argument, argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert re.search(re.escape(message), err)
    assert str(file) in err
    assert "Traceback" not in err
