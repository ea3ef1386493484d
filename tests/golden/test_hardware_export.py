"""What hardware is given: a network that is run in Python's integers from the file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_onnx_export import trained

from quaver.golden.descriptor import Descriptor
from quaver.golden.formats import parse
from quaver.golden.nn import recipes
from quaver.golden.nn.folding import FoldedNetwork
from quaver.golden.nn.hardware_export import to_arrays
from quaver.golden.nn.run import Run
from quaver.golden.requantisation import Requantisation


def test_a_network_from_the_file_alone(tmp_path: Path) -> None:
    """The digits' MLP: code q of k-bit odd levels means 2q − (2**k − 1), a signed one is two's complement."""
    trainer = trained("mlp", recipes.pact_everywhere[4], 44)
    np.savez(tmp_path / "codes.npz", **to_arrays(trainer))  # type: ignore[arg-type]
    images = trainer.data.test_images[:40]
    with np.load(tmp_path / "codes.npz") as arrays:
        x = ((images - arrays["mean"]) / arrays["deviation"]).reshape(len(images), -1)
        step = float(arrays["linear1.input_step"])
        numbers = np.clip(np.rint(x.astype(np.float64) / step), -127, 127).astype(object)
        for name in ("linear1", "linear2", "linear3"):
            formats = Descriptor.parse(str(arrays[f"{name}.arithmetic"])).parameters
            levels = (1 << parse(formats["b"]).width) - 1
            sums = numbers @ (2 * arrays[f"{name}.weights"].astype(object) - levels)
            if name == "linear3":
                break
            total = sums * arrays[f"{name}.multipliers"] + arrays[f"{name}.offsets"]
            shift, bits = int(arrays[f"{name}.shift"]), int(arrays[f"{name}.bits"])
            half = np.vectorize(lambda z, s=shift: round_half_to_even(z, s), otypes=[object])
            numbers = np.clip(half(total), 0, (1 << bits) - 1)
        logits = sums.astype(np.float64) * arrays["linear3.value_factors"] + arrays["linear3.value_offsets"]
    run = Run(trainer.recipe, trainer.run.engine)
    wanted = FoldedNetwork(trainer.network, run).forward(trainer.data.standardised(images))
    assert np.array_equal(logits.astype(np.float32), wanted)


def round_half_to_even(number: int, shift: int) -> int:
    """number / 2**shift, rounded."""
    whole, rest = divmod(number, 1 << shift)
    return whole + (2 * rest > 1 << shift or (2 * rest == 1 << shift and whole % 2 == 1))


@pytest.mark.parametrize(
    ("model", "recipe", "requantised"),
    [
        ("cnn", recipes.pact_everywhere[3], {"conv1"}),
        ("cnn", recipes.pact[4], set()),
        ("resnet8", recipes.pact[2], {"conv2", "conv4", "conv6"}),
    ],
)
def test_what_is_there(model: str, recipe: Any, requantised: set[str]) -> None:
    arrays = to_arrays(trained(model, recipe, 2))
    layers = {name.removesuffix(".weights") for name in arrays if name.endswith(".weights")}
    assert {
        name.removesuffix(".multipliers") for name in arrays if name.endswith(".multipliers")
    } == requantised
    assert requantised < layers
    for name in layers:
        assert arrays[f"{name}.weights"].ndim == 2
        assert len(arrays[f"{name}.value_factors"]) == arrays[f"{name}.weights"].shape[1]
        assert float(arrays[f"{name}.input_step"]) > 0
    for name in requantised:
        parameters = [arrays[f"{name}.{what}"] for what in ("multipliers", "offsets", "shift", "bits")]
        assert Requantisation(*parameters[:2], *map(int, parameters[2:])).bits in (2, 3)


def test_a_network_without_integers_is_refused() -> None:
    with pytest.raises(
        ValueError, match="no layer of the recipe fp32 is of integers, which alone have codes"
    ):
        to_arrays(trained("mlp", recipes.fp32, 1))
