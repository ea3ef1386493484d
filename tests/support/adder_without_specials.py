"""The float adder's bench with a hole: neither infinities nor NaN among the operands."""

from quaver.sim.benches import float_adder
from quaver.sim.benches.float_adder import VARIANTS, every_case

_pairs = float_adder.pairs


def _finite_pairs(fmt, rng, **options):  # type: ignore[no-untyped-def]
    a, b = _pairs(fmt, rng, **options)
    finite = ((a | b) & fmt.infinity_code != fmt.infinity_code).nonzero()
    return a[finite], b[finite]


float_adder.pairs = _finite_pairs

__all__ = ["VARIANTS", "every_case"]
