"""BoardEngine: the golden engine's interface, computed by an accelerator on a board."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from golden.arithmetic.chunked_float import ChunkedFloat
from golden.engine import Arithmetic, Codes, UpdateRule
from rtl.commands import HardwareRule, update_name
from rtl.driver import DeviceError, Driver, Transport, identify


class BoardEngine:
    """Runs every GEMM and update on one accelerator, which is what it was built as: an `Engine`.

    A device whose operands are as wide as its sums computes narrower operands too: their values are the same
    numbers in the wider format, and so are the results.

    Parameters
    ----------
    transport
        Leads to the accelerator; `fpga.link.LinkTransport` over a serial port.
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
        ours = [self._ours(arithmetic) for arithmetic in arithmetics]
        if rule is not None:
            self._known(rule)
        self._driver = Driver(transport, ours[0])

    def _ours(self, arithmetic: Arithmetic) -> Arithmetic:
        """The device's arithmetic, which is this one or, but for the width of its operands, the same."""
        wide = arithmetic
        if isinstance(arithmetic, ChunkedFloat):
            wide = replace(arithmetic, operand=arithmetic.accumulator)
        for known in (arithmetic, wide):
            if repr(known) == self.identity.arithmetic:
                return known
        raise DeviceError(
            f"the device computes {self.identity.arithmetic}, but {arithmetic!r} is asked for; take a recipe "
            f"with the device's GEMMs alone, or build a device for this one"
        )

    def _known(self, rule: UpdateRule) -> HardwareRule:
        """`rule`, which is the device's."""
        if not isinstance(rule, HardwareRule):
            raise TypeError(f"rule is {rule!r}, but the hardware updates by Update and FixedUpdate only")
        if update_name(rule) != self.identity.update:
            raise DeviceError(
                f"the device updates {self.identity.update or 'nothing'}, but {update_name(rule)} is asked "
                f"for; take a recipe with the device's update, or build a device for this one"
            )
        return rule

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """C = A·B on the board; `Engine.gemm`, and `Driver.gemm` for what it refuses."""
        ours = self._ours(arithmetic)
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
        """One step of `rule` on the board; `Driver.update` for what it refuses."""
        return self._driver.update(self._known(rule), weights, momenta, gradients, seed=seed)
