"""Integer parameters are integers of Python or NumPy, for every dataclass that checks its parameters."""

from __future__ import annotations

import pkgutil
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import quaver
from quaver.fpga.design import Design
from quaver.golden import data
from quaver.golden.arithmetic import AlignedFloat, Bitstream, ChunkedFloat, FixedPoint, Integer
from quaver.golden.compression.adacomp import AdaComp
from quaver.golden.compression.baselines import ChunkTopK
from quaver.golden.compression.packet import Packet
from quaver.golden.formats import BLOCK_FORMATS, FP16, FixedFormat, IntegerFormat, SignMagnitudeFormat
from quaver.golden.formats.packed import CodeSpace, PackedFormat
from quaver.golden.nn.quantisers import Clip, DoReFaWeights, FullScale, SAWBWeights
from quaver.golden.nn.recipe import DYNAMIC, FixedUpdatePrecision, UpdatePrecision
from quaver.golden.nn.trainer import Settings
from quaver.golden.planning.networks import LayerShape, NetworkShape
from quaver.golden.requantisation import Requantisation
from quaver.golden.update.adam import Adam
from quaver.golden.update.fixed_sgd import FixedSGD
from quaver.golden.update.float_sgd import FloatSGD
from quaver.rtl.link.frames import Frame

Q = FixedFormat(8, 8)
LAYER = LayerShape("layer", 8, 4, 9, 16, 2)
#: One of each.
CHECKED = (
    *(
        FP16,
        Q,
        IntegerFormat(4),
        ChunkedFloat(),
        FixedPoint(),
        Integer(),
        DYNAMIC,
        UpdatePrecision(),
        FixedUpdatePrecision(Q, Q, Q),
    ),
    *(
        Settings(later_at=3),
        LAYER,
        NetworkShape("network", (LAYER,), 32),
        Adam(0.01),
        FixedSGD(0.01, 0.9, 0.0),
        FloatSGD(0.01),
    ),
    *(Clip(4), DoReFaWeights(4), SAWBWeights(4), Requantisation(np.array([3]), np.array([1]), 2, 4)),
    *(SignMagnitudeFormat(8), Bitstream(), FullScale(8)),
    *(AlignedFloat(), Packet(0, 50, 1.0, np.zeros(0, np.uint8)), ChunkTopK(), AdaComp(50)),
    *(next(iter(BLOCK_FORMATS.values())), PackedFormat(4, 3, CodeSpace.MX)),
    *(FixedSGD(0.01), Frame(1, 2, 3), data.load("digits"), Design("ulx3s-85f", "fp8", 1, 1, 27e6)),
)

#: Of floats, loss scales and settings.
MAY_BE_NONE = {"bias", "grow_every", "later_at"}


def integers(thing: object) -> list[str]:
    """The fields that are integers."""
    return [f.name for f in fields(thing) if str(f.type) in ("int", "int | None") and f.init]  # type: ignore[arg-type]


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


@pytest.mark.parametrize("thing", CHECKED, ids=lambda thing: type(thing).__name__)
def test_integers_of_numpy_are_integers(thing: Any) -> None:
    for name in integers(thing):
        value = getattr(thing, name)
        for kind in (np.int64, np.uint32, np.int16):
            if np.iinfo(kind).min <= value <= np.iinfo(kind).max:
                other = replace(thing, **{name: kind(value)})
                assert type(getattr(other, name)) is int, name
                assert same(thing, other)


@pytest.mark.parametrize("thing", CHECKED, ids=lambda thing: type(thing).__name__)
def test_what_is_no_integer_is_named(thing: Any) -> None:
    for name in integers(thing):
        for wrong in (True, 1.0, "1", np.float64(2), None):
            if wrong is None and name in MAY_BE_NONE:
                replace(thing, **{name: wrong})
                continue
            with pytest.raises(TypeError, match=f"{name} is .*, but it must be an integer"):
                replace(thing, **{name: wrong})


def test_no_dataclass_is_forgotten() -> None:
    """All that check their parameters and have an integer one are above; PyTorch need not be there."""
    found = set()
    for module in pkgutil.walk_packages(quaver.__path__, "quaver."):
        if "benches" in module.name or module.name.startswith(("quaver.__main__", "quaver.torch")):
            continue
        for kind in vars(import_module(module.name)).values():
            if (
                isinstance(kind, type)
                and is_dataclass(kind)
                and "__post_init__" in vars(kind)
                and integers(kind)
            ):
                found.add(kind)
    assert found == {type(thing) for thing in CHECKED if integers(thing)}
