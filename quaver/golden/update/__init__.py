"""The weight updates: what one element becomes, to the bit. Those that hardware computes have their twin in
rtl/update."""

from quaver.golden.contracts import UpdateRule
from quaver.golden.update.adam import Adam
from quaver.golden.update.fixed_sgd import FixedUpdate
from quaver.golden.update.float_sgd import Update

#: Every update rule by the name of its file.
UPDATE_RULES: dict[str, type[UpdateRule]] = {
    "adam": Adam,
    "fixed_sgd": FixedUpdate,
    "float_sgd": Update,
}

__all__ = ["UPDATE_RULES", "Adam", "FixedUpdate", "Update"]
