"""ResNet-50's shapes and the roofline: PACT's reasoning, and each bound by itself."""

from __future__ import annotations

import pytest

from quaver.golden.planning.networks import NETWORKS, LayerShape
from quaver.golden.planning.roofline import Machine, performance, resnet50, times


def test_resnet50_has_the_published_size() -> None:
    """He et al., table 1: 3.8·10⁹ multiply-adds; 25.5 million weights but for biases and normalisation."""
    layers = resnet50()
    assert len(layers) == 1 + 3 * 16 + 4 + 1
    assert sum(layer.weights for layer, _ in layers) == 25_502_912
    assert sum(layer.macs for layer, _ in layers) == pytest.approx(3.86e9, rel=1e-3)
    assert [layer for layer, _ in layers] == list(NETWORKS["resnet50-imagenet"]().layers)
    entering = {layer.name: inputs for layer, inputs in layers}
    assert entering["conv1"] == 3 * 224 * 224
    assert entering["layer1.0.conv1"] == entering["layer1.0.downsample"] == 64 * 56 * 56
    assert entering["layer2.0.conv1"] == entering["layer2.0.downsample"] == 256 * 56 * 56
    assert entering["layer4.2.conv3"] == 512 * 7 * 7
    assert entering["fc"] == 2048


def test_from_16_to_4_bits_the_gain_is_more_than_the_peak_s() -> None:
    machine, layers = Machine(8e12, 8 * 2**20, 64e9), resnet50()
    gain = performance(layers, 4, machine, 32) / performance(layers, 16, machine, 32)
    assert machine.peak_at(4) / machine.peak_at(16) == 4
    assert 4.4 < gain < 4.6
    fit = [sum(layer.fits for layer in times(layers, bits, machine, 32)) for bits in (16, 4)]
    assert fit[0] < fit[1]


@pytest.mark.parametrize("bits", [16, 8, 4, 2])
def test_where_nothing_is_moved_the_peak_is_reached(bits: int) -> None:
    machine = Machine(1e12, 1e12, 1e3)
    layers = resnet50()
    spent = times(layers, bits, machine)
    assert [layer.traffic for layer in spent[1:]] == [0] * (len(layers) - 1)
    assert spent[0].traffic == 3 * 224 * 224 * bits / 8  # the image
    wide = Machine(1e12, 1e12, 1e15)
    assert performance(layers, bits, wide) == pytest.approx(wide.peak_at(bits))


def test_traffic_by_hand() -> None:
    """A layer of 1000 weights, 4000 inputs and 500 outputs, of 16 bits: in 3000 bytes, pieces of 1500."""
    layer = LayerShape("one", 10, 100, taps=1, positions=5)
    assert layer.weights == 1000
    small, large = (times([(layer, 4000)], 16, Machine(1.0, memory, 1.0))[0] for memory in (3000, 20_000))
    # 8000 bytes of inputs twice, for two pieces of weights; or weights six times.
    assert not small.fits
    assert small.traffic == min(2 * 8000 + 2000, 6 * 2000 + 8000) + 1000
    assert large.fits
    assert large.traffic == 8000
    assert (small.compute, small.seconds) == (5000, 19_000)


def test_what_a_layer_fetches_has_gone_out() -> None:
    """Two layers of 16 bits in 3200 bytes, of which the first alone fits: 500 outputs go out in between."""
    first, second = LayerShape("first", 10, 100, taps=1, positions=5), LayerShape("second", 100, 20, taps=1)
    machine = Machine(1.0, 3200, 1.0)
    spent = times([(first, 50), (second, 500)], 16, machine)
    assert [layer.fits for layer in spent] == [True, False]
    assert spent[0].traffic == 2000 + 100 + 1000
    assert spent[1].traffic == min(3 * 1000 + 4000, 1 * 4000 + 1000) + 40
    assert times([(first, 50)], 16, machine)[0].traffic == 100  # nothing comes after it


@pytest.mark.parametrize(("bits", "batch"), [(16, 0), (16, -3), (0, 1)])
def test_nothing_to_compute(bits: int, batch: int) -> None:
    with pytest.raises(ValueError, match=r"is -?\d, but it must be at least 1"):
        performance(resnet50(), bits, Machine(1, 1, 1), batch)


def test_a_machine_without_bandwidth() -> None:
    with pytest.raises(ValueError, match="bandwidth is 0, but it must be positive and finite"):
        Machine(1, 1, 0)
