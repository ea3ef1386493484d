"""Requantisation: kernel, definition and unit at every edge, at the foot of an array, with slips put in."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import MULT18X18D, Netlist, codes, mapped_netlist, netlists, planes

import quaver.rtl.requantisation
from quaver.fpga.build import UP5K_MULTIPLIERS_A_COLUMN, WIDE_PRODUCTS
from quaver.golden.arithmetic import ChunkedFloat, Integer
from quaver.golden.arithmetic.named import named
from quaver.golden.requantisation import MAX_SHIFT, MULTIPLIER_BITS, OFFSET_BITS, Requantisation
from quaver.host.driver import Driver
from quaver.host.transport import DeviceError
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.requantisation import RequantisationUnit
from quaver.sim.device import SimulatedDevice
from quaver.sim.gates import models


def cases(width: int, bits: int, shift: int, count: int = 600) -> tuple[np.ndarray, Requantisation]:
    """Sums, a column each: about the codes' ends and about ties, by one bit at every place; the widest."""
    rng = np.random.default_rng([width, bits, shift])
    limit, top = 1 << (width - 1), 1 << (MULTIPLIER_BITS - 1)
    sums = rng.integers(-limit, limit, count)
    multipliers = rng.integers(-top, top, count)
    sums[:4], multipliers[:4] = [-limit, -limit, limit - 1, limit - 1], [-top, top - 1, -top, top - 1]
    wanted = rng.integers(-2, (1 << bits) + 2, count) << shift
    wanted += rng.choice([0, (1 << shift) >> 1], count) + rng.integers(-2, 3, count)
    places = np.arange(47)
    wanted[10:57] = 1 << places
    wanted[60:107] = (1 << shift) + ((1 << shift) >> 1) + (1 << places % max(shift, 1))
    offsets = wanted - sums * multipliers
    reach = 1 << (OFFSET_BITS - 1)
    far = (offsets < -reach) | (offsets >= reach)
    sums = np.where(far, rng.integers(-100, 100, count), sums)
    sums = np.clip(sums, -limit, limit - 1)
    offsets = np.clip(wanted - sums * multipliers, -reach, reach - 1)
    offsets[:4] = [reach - 1, -reach, -reach, reach - 1]
    return sums[None], Requantisation(multipliers, offsets, shift, bits)


SHIFTS = (0, 1, 2, 16, 31, MAX_SHIFT)
WIDTHS = ((13, 2), (21, 4), (32, 8))


def mismatches(netlist: Netlist, width: int, bits: int) -> int:
    """Codes that are not the definition's, `latency` cycles after their numbers, of numbers in every cycle:
    the parameters that stand beside a code are another column's."""
    wrong = 0
    for shift in SHIFTS:
        sums, requantise = cases(width, bits, shift)
        count, state = sums.size, None
        wanted = requantise.definition(sums)[0]
        for cycle in range(RequantisationUnit.latency + 3):
            inputs = {
                "number": planes(np.roll(sums[0], cycle) % (1 << width), width),
                "multiplier": planes(
                    np.roll(requantise.multipliers, cycle) % (1 << MULTIPLIER_BITS), MULTIPLIER_BITS
                ),
                "offset": planes(np.roll(requantise.offsets, cycle) % (1 << OFFSET_BITS), OFFSET_BITS),
                "shift": planes(np.full(count, shift), 6),
            }
            outputs, state = netlist.step(inputs, state)
            if (begun := cycle - RequantisationUnit.latency) >= 0:
                found = codes(outputs["code"], count)
                wrong += int(np.count_nonzero(found != np.roll(wanted, begun)))
    return wrong


def test_the_unit_is_the_definition() -> None:
    found = netlists([RequantisationUnit(*of) for of in WIDTHS])
    for (width, bits), netlist in zip(WIDTHS, found, strict=True):
        assert mismatches(netlist, width, bits) == 0, (width, bits)


SLIPS = {
    "ties go up": ("(sticky | kept[1])", "1"),
    "ties go to odd": ("(sticky | kept[1])", "(sticky | ~kept[1])"),
    "never rounds": ("whole + (kept[0]", "whole + (0 & kept[0]"),
    "negative sums wrap": ("Mux(rounded < 0, 0, ", "Mux(0, 0, "),
    "large sums wrap": ("Mux(over,", "Mux(0,"),
    "a bit of the sum is lost": ("max(len(product), OFFSET_BITS) + 1", "max(len(product), OFFSET_BITS)"),
    "the next column's offset": ("total.eq(product + offset)", "total.eq(product + self.offset)"),
    "a cycle early": (
        "self.code.eq(code)",
        "self.code.eq(Mux(rounded < 0, 0, Mux(over, (1 << self.bits) - 1, rounded)))",
    ),
    "clipped below the end": ("Mux(over, (1 << self.bits) - 1", "Mux(over, (1 << self.bits) - 2"),
    "what is just beyond wraps": ("rounded[self.bits : -1]", "rounded[self.bits + 1 : -1]"),
    "sticky bits one too many": ("(Const(1, 1) << self.shift) - 1", "(Const(1, 1) << self.shift)"),
}


def mutant(edit: tuple[str, str]) -> ModuleType:
    old, new = edit
    source = Path(quaver.rtl.requantisation.__file__).read_text()
    assert source.count(old) == 1, f"there {source.count(old)} times: {old}"
    module = ModuleType("mutant")
    exec(compile(source.replace(old, new), "mutant", "exec"), module.__dict__)
    return module


def test_slips_are_seen() -> None:
    found = netlists([mutant(edit).RequantisationUnit(13, 2) for edit in SLIPS.values()])
    for name, netlist in zip(SLIPS, found, strict=True):
        assert mismatches(netlist, 13, 2), name


@pytest.mark.parametrize(("width", "bits"), WIDTHS)
def test_the_product_in_a_multiplier_of_the_fpga(width: int, bits: int) -> None:
    """Gate level: the cells that `quaver build` has the unit mapped to where elements multiply in logic."""
    synthesis = f"{WIDE_PRODUCTS.format(top='unit')}\nsynth_ecp5 -nodsp -nowidelut -top unit"
    verilog = to_verilog(RequantisationUnit(width, bits), "unit")
    netlist, cells = mapped_netlist(verilog, "unit", synthesis, models("ecp5") + MULT18X18D)
    assert cells["MULT18X18D"] == -(-(width - 9) // 18)
    assert mismatches(netlist, width, bits) == 0


@pytest.mark.fpga
@pytest.mark.parametrize(("width", "bits"), WIDTHS)
def test_the_product_in_multipliers_of_an_ice40(width: int, bits: int) -> None:
    """Likewise on iCEBreaker."""
    verilog = to_verilog(RequantisationUnit(width, bits), "unit")
    netlist, cells = mapped_netlist(verilog, "unit", "synth_ice40 -dsp -top unit", models("ice40"))
    assert 1 <= cells["SB_MAC16"] <= UP5K_MULTIPLIERS_A_COLUMN
    assert mismatches(netlist, width, bits) == 0


@pytest.mark.parametrize(("width", "bits"), WIDTHS)
@pytest.mark.parametrize("shift", SHIFTS)
def test_the_kernel_is_the_definition(width: int, bits: int, shift: int) -> None:
    sums, requantise = cases(width, bits, shift)
    assert np.array_equal(requantise(sums), requantise.definition(sums))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.floats(2.0**-40, 2.0**15),
    st.lists(st.floats(0.1, 1), min_size=1, max_size=4),
    st.integers(1, 8),
    st.integers(0, 1 << 32),
)
def test_it_is_close_to_real_numbers(largest: float, shares: list[float], bits: int, seed: int) -> None:
    """Of factors and offsets in steps: off by one at most, and only next to a tie."""
    rng = np.random.default_rng(seed)
    factors = largest * np.array(shares)
    offsets = rng.normal(0, 3, len(factors))
    requantise = Requantisation.of(factors, offsets, bits)
    reach = min(float(1 << bits) / largest, 2.0**31 - 1)
    sums = rng.integers(-int(reach), int(reach) + 1, (50, len(factors)))
    exact = np.clip(sums * factors + offsets, 0, (1 << bits) - 1)
    error = np.abs(requantise(sums) - exact)
    # Half a step of rounding, half a unit of the offset, and of the multiplier for each 1 of the sum.
    assert error.max() <= 0.5 + (1 + reach) * 2.0 ** -(requantise.shift + 1)


@pytest.mark.parametrize("factor", [0.0, 5e-324, 1e-12, -1e-9, 2.0**-27, 2.0**15])
@pytest.mark.parametrize(("offset", "bits"), [(7.0, 3), (8.0, 4), (200.0, 8), (1e30, 8), (-1e30, 8)])
def test_an_offset_stays_where_factors_are_small(factor: float, offset: float, bits: int) -> None:
    """As of a layer whose normalisation has learned scales next to 0: its codes are those of the offsets."""
    requantise = Requantisation.of([factor, -factor], [offset, offset], bits)
    sums = np.array([[0, 0], [1, 1], [-3, -3], [1 - 2**31, 1 - 2**31]])
    exact = np.array([[offset + z * f for f in (factor, -factor)] for z in sums[:, 0].tolist()])
    np.testing.assert_array_equal(requantise(sums), np.clip(np.rint(exact), 0, (1 << bits) - 1))


@pytest.mark.parametrize("values", [[0.5], [2.0], [np.nan], [2**64]])
def test_parameters_are_integers(values: list[float]) -> None:
    with pytest.raises(TypeError, match=r"multipliers have dtype .*, but they are integers"):
        Requantisation(values, [0], 0, 4)
    with pytest.raises(TypeError, match=r"offsets have dtype .*, but they are integers"):
        Requantisation([0], values, 0, 4)
    with pytest.raises(ValueError, match="multipliers hold 18446744073709551615"):
        Requantisation(np.array([2**64 - 1], np.uint64), [0], 0, 4)


def test_the_next_layer_s_codes_leave_the_array() -> None:
    """Through the driver: sums and codes in turn, several tiles of columns with parameters of their own, K in
    slices, streams that stall."""
    arithmetic = named("int4")
    assert isinstance(arithmetic, Integer)
    device = SimulatedDevice(Accelerator(arithmetic, rows=2, columns=3, stages=3, depth=6, codes=4))
    driver, rng = Driver(device, arithmetic), np.random.default_rng(1)
    assert driver.codes == 4
    for i, (m, k, n) in enumerate([(1, 1, 1), (5, 16, 3), (7, 20, 8), (3, 90, 7), (9, 9, 2)]):
        device.stall(1, *((0.3, 0.5) if i % 2 else (0, 0)))
        a = rng.integers(0, 16, (m, k)).astype(np.uint8)
        b = rng.integers(0, 16, (k, n)).astype(np.uint8)
        requantise = Requantisation.of(rng.uniform(-0.2, 0.2, n) / k**0.5, rng.normal(6, 3, n), driver.codes)
        sums = arithmetic.definition(a, b)
        wanted = requantise.definition(arithmetic.result.integers(sums))
        for _ in range(1 + i % 2):
            found = driver.gemm(a, b, requantisation=requantise)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, wanted)
        assert m * n < 10 or len(np.unique(wanted)) > 3
        if i != 2:  # codes after codes, too
            np.testing.assert_array_equal(driver.gemm(a, b), sums)
    with pytest.raises(
        DeviceError, match="makes codes of 4 bits of its sums, but the driver was asked for 2"
    ):
        driver.gemm(a, b, requantisation=Requantisation([1, 1], [0, 0], 0, 2))
    with pytest.raises(ValueError, match="the requantisation is of 1 columns, but b has 2"):
        driver.gemm(a, b, requantisation=Requantisation([1], [0], 0, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Requantisation([1 << 17], [0], 0, 4), "multipliers hold 131072, but they have 18 bits"),
        (lambda: Requantisation([1], [1 << 47], 0, 4), "offsets hold 140737488355328, but they have 48 bits"),
        (lambda: Requantisation([1, 2], [0], 0, 4), "2 multipliers and 1 offsets"),
        (lambda: Requantisation([1], [0], 48, 4), "shift is 48, but it is 0 … 47"),
        (lambda: Requantisation([1], [0], 1, 9), "bits is 9, but codes have 1 … 8"),
        (lambda: Requantisation.of([1e6], [0], 4), r"a factor is 1e\+06, but they are less than 65536"),
        (lambda: Requantisation.of([np.nan], [0], 4), "not finite: the network has diverged"),
        (lambda: RequantisationUnit(33, 4), "width is 33, but sums have 2 to 32 bits"),
        (lambda: RequantisationUnit(20, 9), "bits is 9, but codes have 1 to 8"),
        (
            lambda: Accelerator(ChunkedFloat(), rows=1, columns=1, codes=4),
            "has no integer sums, which alone are requantised",
        ),
    ],
)
def test_refusals(make, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
