"""Update units: one for each rule of `quaver.golden.update` that hardware computes, under the same name."""

from collections.abc import Callable
from typing import TypeGuard

from quaver.golden.contracts import HardwareRule, UpdateRule
from quaver.golden.update import UPDATE_RULES
from quaver.rtl.update.fixed_sgd import FixedUpdate
from quaver.rtl.update.float_sgd import Update
from quaver.rtl.update.unit import UpdateUnit

#: Name of a rule → what makes its unit of the rule and, where a unit has a choice, `stages`.
UPDATE_UNITS: dict[str, Callable[..., UpdateUnit]] = {
    "fixed_sgd": FixedUpdate.for_rule,
    "float_sgd": Update.for_rule,
}


def has_unit(rule: UpdateRule) -> TypeGuard[HardwareRule]:
    """Whether hardware computes `rule`."""
    return any(type(rule) is UPDATE_RULES[name] for name in UPDATE_UNITS)


def unit_for(rule: UpdateRule, *, stages: int | None = None) -> UpdateUnit:
    """The unit that computes `rule`, with any scalars. TypeError: there is none.

    `stages` are those of `Update`: fewer take less room and a slower clock. In fixed point there is one.
    """
    for name, make in UPDATE_UNITS.items():
        if type(rule) is UPDATE_RULES[name]:
            return make(rule, stages=stages)
    raise TypeError(f"rule is {rule!r}, but the hardware updates by {' and '.join(UPDATE_UNITS)} only")
