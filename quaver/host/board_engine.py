"""BoardEngine: the golden engine's interface, computed by an accelerator on a board."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from quaver.golden.arithmetic.integer import Integer
from quaver.golden.arithmetic.named import PRESETS
from quaver.golden.contracts import Arithmetic, Codes, HardwareRule, UpdateRule
from quaver.golden.descriptor import Descriptor, descriptor
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.recipes import RECIPES
from quaver.golden.requantisation import Requantisation
from quaver.host import compression
from quaver.host.driver import Driver
from quaver.host.transport import DeviceError, Transport, identify
from quaver.rtl.commands import Identity
from quaver.rtl.update import UPDATE_UNITS, has_unit

#: What `quaver build --arithmetic` builds by name, beside others that are spelt out.
BUILT = PRESETS


def as_computed(arithmetic: Arithmetic, device: Descriptor) -> Arithmetic | None:
    """The arithmetic of the device that says `device`: this one or one of its `equivalents`. None if it is
    another."""
    return next((known for known in arithmetic.equivalents if device.describes(known.hardware)), None)


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
        fits = rule is None or not has_unit(rule) or device.update is None or device.update.describes(rule)
        return bool(asked) and fits and all(as_computed(gemm, device.arithmetic) for gemm in asked)

    return [name for name, recipe in RECIPES.items() if runs(recipe)]


def way_out(device: Identity, asked: Collection[Arithmetic]) -> str:
    """What to do with a device that computes something else than is asked for."""
    boards = {name: descriptor(built.hardware) for name, built in BUILT.items()}
    fit = [name for name, board in boards.items() if all(as_computed(gemm, board) for gemm in asked)]
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
    bin_length
        Of AdaComp that it will be asked for; None if it will not.

    Attributes
    ----------
    identity
        What the device says of itself.
    compress, mean
        Of `quaver.golden.engine.Compresses`, which the engine is only if the device has the unit: see
        `quaver.host.compression`.

    Raises
    ------
    DeviceError
        The device computes another arithmetic, updates by another rule, or does not compress in such bins;
        the message names both.
    TimeoutError, ValueError
        Nothing answers; what answers speaks another version.
    """

    def __init__(
        self,
        transport: Transport,
        arithmetics: Collection[Arithmetic],
        rule: UpdateRule | None = None,
        bin_length: int | None = None,
    ):
        transport.reset()
        self.identity = identify(transport)
        ours = [self._ours(arithmetic, arithmetics) for arithmetic in arithmetics]
        if rule is not None:
            self._known(rule)
        if bin_length is not None:
            compression.check(self.identity.compression, bin_length)
        self._driver = Driver(transport, ours[0])
        if self.identity.compression is not None:
            self.compress = partial(compression.compress, self._driver)
            self.mean = partial(compression.average, self._driver)

    def _ours(self, arithmetic: Arithmetic, asked: Collection[Arithmetic]) -> Arithmetic:
        """`arithmetic`, one of those asked for, as the device computes it."""
        ours = as_computed(arithmetic, self.identity.arithmetic)
        if ours is None:
            raise DeviceError(
                f"the device computes {self.identity.arithmetic}, but "
                f"{descriptor(arithmetic.hardware)} is asked for; "
                f"{way_out(self.identity, asked)}"
            )
        return ours

    def _known(self, rule: UpdateRule) -> HardwareRule:
        """`rule`, which is the device's."""
        if not has_unit(rule):
            units = " and ".join(UPDATE_UNITS)
            raise TypeError(f"rule is {rule!r}, but the hardware updates by {units} only")
        if self.identity.update is not None and not self.identity.update.describes(rule):
            raise DeviceError(
                f"the device updates {self.identity.update}, but {descriptor(rule)} is asked "
                f"for; {way_out(self.identity, [])}"
            )
        return rule

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """C = A·B on the board; `Engine.gemm`, and `Driver.gemm` for what it refuses."""
        ours = self._ours(arithmetic, [arithmetic])
        if ours != arithmetic:
            a, b = arithmetic.check(a_codes, b_codes, seed=seed)
            a_codes = ours.a.encode(arithmetic.a.decode(a))
            b_codes = ours.b.encode(arithmetic.b.decode(b))
        return self._driver.gemm(a_codes, b_codes, seed=seed)

    def requantised(
        self, arithmetic: Integer, requantisation: Requantisation, a_codes: Codes, b_codes: Codes
    ) -> Codes:
        """The codes of A·B as they leave the board's array, or made of its sums on the host if it makes no
        codes of so many bits."""
        if requantisation.bits != self.identity.codes:
            return requantisation(arithmetic.result.integers(self.gemm(arithmetic, a_codes, b_codes)))
        self._ours(arithmetic, [arithmetic])
        return self._driver.gemm(a_codes, b_codes, requantisation=requantisation)

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
        if self.identity.update is None:
            return rule.update(weights, momenta, gradients, seed=seed)
        return self._driver.update(self._known(rule), weights, momenta, gradients, seed=seed)
