"""SimulatedEngine: the golden engine's interface, computed by the simulated accelerator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.compression import AdaComp, Packet, Values
from quaver.golden.compression.packet import LONGEST
from quaver.golden.contracts import Arithmetic, Codes, HardwareRule, UpdateRule
from quaver.golden.descriptor import descriptor
from quaver.golden.requantisation import Requantisation
from quaver.golden.validation import as_integer
from quaver.host import compression
from quaver.host.driver import Driver
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.emit.shared_modules import ports_of
from quaver.rtl.pe import pe_for
from quaver.rtl.update import UPDATE_UNITS, has_unit, unit_for
from quaver.sim.device import SimulatedDevice
from quaver.sim.verilated import require_tools

#: Bins of up to this many elements have a smaller unit, which `quaver verilog adacomp` has by default.
LONGEST_BIN = 512
#: Bits that the elements of an array give to what is around them, which Amaranth's converter takes at most,
#: less those of the accelerator's own ports.
MOST_SIGNALS = (1 << 16) - 1024


class SimulatedEngine:
    """Runs every GEMM and update on the accelerator's Verilog, simulated in this process: an `Engine`.

    Each arithmetic has its own accelerator, compiled (or taken from the cache) when it is first used;
    arithmetics of the same `hardware` share one, and codes of each number of bits that leave an array in
    place of sums have another. Each accelerator also has the unit of its arithmetic's
    default update. An update runs on the accelerator used last if that has its unit, and else on one of its
    own, with one processing element. So does what AdaComp's learners exchange.

    Parameters
    ----------
    rows, columns, stages, depth
        Parameters of each accelerator, see `quaver.rtl.accelerator.accelerator.Accelerator`. A K beyond
        `depth` works, but its operands come too slowly to keep the array busy.
    progress
        Called with one line before each step of compiling that takes seconds.

    Raises
    ------
    ValueError
        There are no rows, columns, stages or depth.
    RuntimeError
        No C++ compiler or no Verilator; the message says what to install.
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
        for name, value in (("rows", rows), ("columns", columns), ("stages", stages), ("depth", depth)):
            if as_integer(value, name) < 1:
                raise ValueError(f"{name} is {value}, but it must be at least 1")
        require_tools()
        self.rows, self.columns, self.stages, self.depth = rows, columns, stages, depth
        self.progress = progress
        self._drivers: dict[tuple[Arithmetic, int], Driver] = {}
        self._update_drivers: dict[str, Driver] = {}
        self._compressors: dict[int, Driver] = {}
        self._devices: list[SimulatedDevice] = []

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far, on all accelerators."""
        return sum(device.cycles for device in self._devices)

    def check(self, arithmetic: Arithmetic) -> None:
        """ValueError: an array of this size is too large to be simulated with `arithmetic`."""
        self._check(pe_for(arithmetic, stages=self.stages))

    def _check(self, element: wiring.Component) -> None:
        bits = sum(len(Value.cast(value)) for value, flow in ports_of(element).values() if flow is Out)
        count, most = self.rows * self.columns, MOST_SIGNALS // bits
        if count > most:
            raise ValueError(
                f"the array has {self.rows}×{self.columns} = {count} elements, but at most {most} of this "
                f"arithmetic can be simulated; take fewer rows or columns"
            )

    def driver(self, arithmetic: Arithmetic, codes: int = 0) -> Driver:
        """The driver of the accelerator of `arithmetic`, one that makes codes of so many bits of its sums."""
        hardware = arithmetic.hardware, codes
        if hardware not in self._drivers:
            rule = arithmetic.default_update
            accelerator = Accelerator(
                hardware[0],
                rows=self.rows,
                columns=self.columns,
                stages=self.stages,
                depth=self.depth,
                update=None if rule is None else unit_for(rule),
                codes=codes,
            )
            self._check(accelerator.array.element)
            self._drivers[hardware] = self._simulate(accelerator)
        driver = self._drivers[hardware]
        self._update_drivers[str(driver.updates)] = driver
        return driver

    def update_driver(self, rule: HardwareRule) -> Driver:
        """The driver of an accelerator that has the unit for `rule`."""
        name = str(descriptor(rule))
        if name not in self._update_drivers:
            self._update_drivers[name] = self._simulate(
                Accelerator(ChunkedFloat(), rows=1, columns=1, depth=1, update=unit_for(rule))
            )
        return self._update_drivers[name]

    def compression_driver(self, bin_length: int) -> Driver:
        """The driver of an accelerator with one processing element that compresses in bins of this length."""
        longest = LONGEST_BIN if bin_length <= LONGEST_BIN else LONGEST
        if longest not in self._compressors:
            self._compressors[longest] = self._simulate(
                Accelerator(ChunkedFloat(), rows=1, columns=1, depth=1, compression=AdaCompUnit(longest))
            )
        return self._compressors[longest]

    def _simulate(self, accelerator: Accelerator) -> Driver:
        device = SimulatedDevice(accelerator, progress=self.progress)
        self._devices.append(device)
        return Driver(device, accelerator.arithmetic)

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """C = A·B on the simulated accelerator; `Engine.gemm`, and `Driver.gemm` for what it refuses."""
        return self.driver(arithmetic).gemm(a_codes, b_codes, seed=seed)

    def requantised(
        self, arithmetic: Integer, requantisation: Requantisation, a_codes: Codes, b_codes: Codes
    ) -> Codes:
        """The codes of A·B, which leave the simulated array; `quaver.golden.engine.Requantises`."""
        driver = self.driver(arithmetic, requantisation.bits)
        return driver.gemm(a_codes, b_codes, requantisation=requantisation)

    def update(
        self,
        rule: UpdateRule,
        weights: Codes,
        momenta: Codes,
        gradients: Codes,
        *,
        seed: int | None = None,
    ) -> tuple[Codes, Codes]:
        """One step of `rule` on a simulated accelerator; `Driver.update` for what it refuses."""
        if not has_unit(rule):
            units = " and ".join(UPDATE_UNITS)
            raise TypeError(f"rule is {rule!r}, but the hardware updates by {units} only")
        return self.update_driver(rule).update(rule, weights, momenta, gradients, seed=seed)

    def compress(
        self, rule: AdaComp, residue: Values, gradient: Values, **where: int
    ) -> tuple[Packet, Values]:
        """What a learner sends, and what it keeps, on a simulated accelerator; see
        `quaver.host.compression.compress`."""
        return compression.compress(
            self.compression_driver(rule.bin_length), rule, residue, gradient, **where
        )

    def mean(self, packets: Sequence[Packet]) -> Values:
        """The average of packets on a simulated accelerator; see
        `quaver.host.compression.average`."""
        return compression.average(self.compression_driver(packets[0].bin_length), packets)
