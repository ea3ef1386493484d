"""BoardEngine: the golden engine's interface, computed by an accelerator on a board."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.named import PRESETS
from quaver.golden.engine import Arithmetic, Codes, UpdateRule
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.recipes import RECIPES
from quaver.host.driver import DeviceError, Driver, Transport, identify
from quaver.rtl.commands import HardwareRule, Identity, update_name

#: What `quaver build --arithmetic` builds by name, beside others that are spelt out.
BUILT: dict[str, Arithmetic] = PRESETS


def as_computed(arithmetic: Arithmetic, device: str) -> Arithmetic | None:
    """The arithmetic of the device that says `device`: this one or, but for operands as wide as the sums,
    the same. None if it is another."""
    wide = arithmetic
    if isinstance(arithmetic, ChunkedFloat):
        wide = replace(arithmetic, operand=arithmetic.accumulator)
    return next((known for known in (arithmetic, wide) if repr(known) == device), None)


def gemms(recipe: Recipe) -> set[Arithmetic]:
    """All that a recipe asks of an engine but its update."""
    precisions = (recipe.hidden, recipe.first, recipe.last, *recipe.layers.values())
    asked = {gemm for p in precisions if p for gemm in (p.forward, p.backward, p.gradient)}
    return {gemm for gemm in asked if gemm is not None}


def recipes(device: Identity) -> list[str]:
    """The recipes with a name whose every GEMM a device computes, and every update if it has the unit."""

    def runs(recipe: Recipe) -> bool:
        asked = gemms(recipe)
        rule = recipe.update.rule(0.0, 0.0, 0.0) if recipe.update else None
        fits = not isinstance(rule, HardwareRule) or device.update in ("", update_name(rule))
        return bool(asked) and fits and all(as_computed(gemm, device.arithmetic) for gemm in asked)

    return [name for name, recipe in RECIPES.items() if runs(recipe)]


def way_out(device: Identity, asked: Collection[Arithmetic]) -> str:
    """What to do with a device that computes something else than is asked for."""
    fit = [name for name, built in BUILT.items() if all(as_computed(gemm, repr(built)) for gemm in asked)]
    ways = [f"--recipe {' or '.join(fitting)}"] if (fitting := recipes(device)) else []
    ways += [f"a board of quaver build --arithmetic {fit[0]}"] if asked and fit else []
    return f"take {', or '.join(ways or ['--engine sim, which is any device'])}"


class BoardEngine:
    """Runs every GEMM and update on one accelerator, which is what it was built as: an `Engine`.

    A device whose operands are as wide as its sums computes narrower operands too: their values are the same
    numbers in the wider format, and so are the results. For a device without an update unit, the host
    computes the updates.

    Parameters
    ----------
    transport
        Leads to the accelerator; `quaver.host.link_transport.LinkTransport` over a serial port.
    arithmetics
        All that it will be asked for, at least one.
    rule
        An update that it will be asked for; its scalars do not matter.

    Attributes
    ----------
    identity
        What the device says of itself.

    Raises
    ------
    DeviceError
        The device computes another arithmetic or updates by another rule; the message names both.
    TimeoutError, ValueError
        Nothing answers; what answers speaks another version.
    """

    def __init__(
        self, transport: Transport, arithmetics: Collection[Arithmetic], rule: UpdateRule | None = None
    ):
        transport.reset()
        self.identity = identify(transport)
        ours = [self._ours(arithmetic, arithmetics) for arithmetic in arithmetics]
        if rule is not None:
            self._known(rule)
        self._driver = Driver(transport, ours[0])

    def _ours(self, arithmetic: Arithmetic, asked: Collection[Arithmetic]) -> Arithmetic:
        """`arithmetic`, one of those asked for, as the device computes it."""
        ours = as_computed(arithmetic, self.identity.arithmetic)
        if ours is None:
            raise DeviceError(
                f"the device computes {self.identity.arithmetic}, but {arithmetic!r} is asked for; "
                f"{way_out(self.identity, asked)}"
            )
        return ours

    def _known(self, rule: UpdateRule) -> HardwareRule:
        """`rule`, which is the device's."""
        if not isinstance(rule, HardwareRule):
            raise TypeError(f"rule is {rule!r}, but the hardware updates by Update and FixedUpdate only")
        if self.identity.update not in ("", update_name(rule)):
            raise DeviceError(
                f"the device updates {self.identity.update}, but {update_name(rule)} is asked "
                f"for; {way_out(self.identity, [])}"
            )
        return rule

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """C = A·B on the board; `Engine.gemm`, and `Driver.gemm` for what it refuses."""
        ours = self._ours(arithmetic, [arithmetic])
        if ours != arithmetic:
            a = arithmetic.operand.check_codes(a_codes, "a_codes")
            b = arithmetic.operand.check_codes(b_codes, "b_codes")
            a_codes, b_codes = (ours.operand.encode(arithmetic.operand.decode(x)) for x in (a, b))
        return self._driver.gemm(a_codes, b_codes, seed=seed)

    def update(
        self,
        rule: UpdateRule,
        weights: Codes,
        momenta: Codes,
        gradients: Codes,
        *,
        seed: int | None = None,
    ) -> tuple[Codes, Codes]:
        """One step of `rule` on the board, or on the host if that has no unit; `Driver.update` for what it
        refuses."""
        if not self.identity.update:
            return rule.update(weights, momenta, gradients, seed=seed)
        return self._driver.update(self._known(rule), weights, momenta, gradients, seed=seed)
