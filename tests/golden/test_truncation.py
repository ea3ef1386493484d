"""What an aligned accumulator keeps: the measurement against its own theory, and the check of a network."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from quaver.cli import main
from quaver.golden.arithmetic import AlignedFloat
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS
from quaver.golden.formats import FP32, FloatFormat
from quaver.golden.planning.networks import trained_here
from quaver.golden.planning.truncation import check, measured, predicted_variance

COARSE = AlignedFloat(group=8, fraction_bits=7, accumulator=FloatFormat(8, 6), chunk=NO_CHUNKS)


@pytest.mark.parametrize("length", [177, 710, 2839, 11_357])
def test_a_coarse_sum_grows_as_the_theory_says(length: int) -> None:
    assert predicted_variance(COARSE, length) == pytest.approx(measured(COARSE, length).variance, rel=0.15)


def test_the_theory_loses_more_than_hopper_does() -> None:
    """Whose products have few bits to lose."""
    plain = AlignedFloat(chunk=NO_CHUNKS)
    lost, predicted = (1 - x for x in (measured(plain, 1 << 17).variance, predicted_variance(plain, 1 << 17)))
    assert lost < predicted < 4 * lost


def test_promotion_saves_it() -> None:
    promoted = replace(COARSE, chunk=64)
    length = 8192
    plain, saved = measured(COARSE, length), measured(promoted, length)
    assert plain.variance < 0.3 < 0.95 < saved.variance
    assert saved.error < plain.error / 5
    assert not plain.suffices


def test_float32_sums_suffice() -> None:
    kept = measured(AlignedFloat(fraction_bits=25, accumulator=FP32, chunk=NO_CHUNKS), 2048)
    assert kept.suffices
    assert kept.error < 1e-6


def test_a_network_layer_by_layer() -> None:
    network = trained_here("mlp-digits")
    found = check(network, AlignedFloat())
    assert [one.role for one in found[:3]] == ["forward", "gradient", "forward"]
    assert len(found) == 3 * len(network.layers) - 1
    assert all(one.promoted.suffices for one in found)
    with pytest.raises(ValueError, match=r"^0 products, 1.0 of them not zero; there is at least one$"):
        measured(AlignedFloat(), 0)


def test_groups_that_do_not_divide_the_longest_chunk() -> None:
    found = check(trained_here("mlp-digits"), AlignedFloat(group=3, chunk=9))
    assert all(one.plain.error >= one.promoted.error for one in found)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "mlp-digits", "--arithmetic", "hopper_fp8", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["gemms"][0]["suffices"] == {"promoted": True, "plain": True}
    assert main(["plan", "mlp-digits", "--arithmetic", "hopper_fp8"]) == 0
    printed = capsys.readouterr().out
    assert "plain kept" in printed
    assert "13 bits suffice where" in printed
    assert "Sums of 8 of 8 GEMMs are one chunk, of at most 128 products" in printed
    assert main(["plan", "mlp-digits", "--arithmetic", "aligned_float(group=10, chunk=10)"]) == 0
    assert "Sums of 1 of 8 GEMMs are one chunk" in capsys.readouterr().out
    assert main(["plan", "mlp-digits", "--arithmetic", "hopper_fp8_fast"]) == 0
    printed = capsys.readouterr().out
    assert "plain" not in printed  # all of it is
    assert "one chunk" not in printed
    assert (
        main(["plan", "mlp-digits", "--arithmetic", "aligned_float(fraction_bits=3, accumulator=e8m3)"]) == 1
    )
    assert capsys.readouterr().out.count(" no ") > 2
    assert main(["plan", "mlp-digits", "--arithmetic", "fp8"]) != 0
    assert "--arithmetic is fp8, but this measures an aligned_float" in capsys.readouterr().err
