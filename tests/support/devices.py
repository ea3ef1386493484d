"""The small simulated accelerator that several test files share: one compilation for all of them."""

from __future__ import annotations

from functools import cache

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.sim.device import SimulatedDevice

ARITHMETIC = ChunkedFloat()
DEPTH = 80


@cache
def accelerator() -> Accelerator:
    """2 × 3 elements of two lanes: a tile is 2 × 6, and neither operand fills whole words."""
    return Accelerator(ARITHMETIC, rows=2, columns=3, stages=2, depth=DEPTH)


@cache
def _device() -> SimulatedDevice:
    return SimulatedDevice(accelerator())


def compressing(of: type[Accelerator] = Accelerator) -> Accelerator:
    """The smallest accelerator that compresses layers of up to 255 elements, in bins of up to 70: packet
    elements of one byte and of two."""
    unit = AdaCompUnit(70, count_bits=8, stages=1)
    return of(ChunkedFloat(chunk=4), rows=1, columns=1, stages=1, depth=3, compression=unit)


@cache
def compressing_device() -> SimulatedDevice:
    return SimulatedDevice(compressing())


def device() -> SimulatedDevice:
    """The accelerator, just reset and without stalls."""
    _device().stall(0, 0, 0)
    _device().reset()
    return _device()
