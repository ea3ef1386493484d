"""SimulatedEngine: the golden engine's interface, computed by the simulated accelerator."""

from __future__ import annotations

from collections.abc import Callable

from golden.engine import Arithmetic, Codes, GoldenEngine, UpdateRule
from rtl.accelerator import Accelerator
from rtl.driver import Driver
from sim.device import SimulatedDevice


class SimulatedEngine:
    """Runs every GEMM on the accelerator's Verilog, simulated in this process: an `Engine`.

    Each arithmetic has its own accelerator, compiled (or taken from the cache) when it is first used.

    Parameters
    ----------
    rows, columns, stages, depth
        Of each accelerator, as of `rtl.accelerator.Accelerator`. A K beyond `depth` works, but its operands
        come too slowly to keep the array busy.
    progress
        Called with one line before each step of compiling that takes seconds.

    Notes
    -----
    `update` is not on the hardware yet: it is the golden model's.
    """

    def __init__(
        self,
        rows: int = 8,
        columns: int = 8,
        stages: int = 4,
        depth: int = 4096,
        *,
        progress: Callable[[str], None] | None = None,
    ):
        self.rows, self.columns, self.stages, self.depth = rows, columns, stages, depth
        self.progress = progress
        self._drivers: dict[Arithmetic, Driver] = {}
        self._devices: list[SimulatedDevice] = []

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far, on all accelerators."""
        return sum(device.cycles for device in self._devices)

    def driver(self, arithmetic: Arithmetic) -> Driver:
        """The driver of the accelerator of `arithmetic`."""
        if arithmetic not in self._drivers:
            accelerator = Accelerator(
                arithmetic, rows=self.rows, columns=self.columns, stages=self.stages, depth=self.depth
            )
            device = SimulatedDevice(accelerator, progress=self.progress)
            self._devices.append(device)
            self._drivers[arithmetic] = Driver(device, arithmetic)
        return self._drivers[arithmetic]

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """C = A·B on the simulated accelerator; `Engine.gemm`, and `Driver.gemm` for what it refuses."""
        return self.driver(arithmetic).gemm(a_codes, b_codes, seed=seed)

    def update(
        self,
        rule: UpdateRule,
        weights: Codes,
        momenta: Codes,
        gradients: Codes,
        *,
        seed: int | None = None,
    ) -> tuple[Codes, Codes]:
        """One step of `rule`, computed by the golden model."""
        return GoldenEngine().update(rule, weights, momenta, gradients, seed=seed)
