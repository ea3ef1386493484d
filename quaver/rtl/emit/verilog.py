"""Verilog of any unit, with the port names that its docstring says.

Ports keep their names; a stream or other interface NAME becomes NAME_payload, NAME_valid, NAME_ready;
structures are one vector, the first field lowest. A unit with registers has the clock `clk` and the
synchronous, active-high reset `rst`, which an array's element ignores; `axi_accelerator` has AXI's `aclk` and
`aresetn`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from amaranth._toolchain.yosys import find_yosys
from amaranth.back import rtlil
from amaranth.hdl import Fragment
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden import formats
from quaver.golden.arithmetic import ARITHMETICS
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.lfsr import COLUMN_TAPS, TAPS
from quaver.golden.rounding import RANDOM_BITS
from quaver.rtl.emit.shared_modules import Emission, HollowEmission, ports_of
from quaver.rtl.float.adder import FloatAdder
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.rtl.lfsr import LFSR
from quaver.rtl.pe import PES, pe_for
from quaver.rtl.rounding import Rounding
from quaver.rtl.update.fixed_sgd import FixedUpdate
from quaver.rtl.update.float_sgd import MAX_STAGES, Update
from quaver.rtl.update.unit import UpdateUnit

#: Amaranth's and Yosys's own notes, of no use in Verilog.
ATTRIBUTES = ("generator", "top", "src", "unused_bits", "amaranth.hierarchy", "amaranth.decoding")


#: Of the accelerator's update unit in fixed point: those of the recipe fixed16.
UPDATE_FORMATS = {
    "weights": formats.FixedFormat(4, 12),
    "updates": formats.FixedFormat(4, 12),
    "gradients": formats.FixedFormat(2, 14),
}


# A memory that is zeroed word by word: megabytes of text for what every simulator and FPGA does anyway.
_ZEROED_MEMORY = re.compile(r"  initial begin\n(?:    \S+\[\d+\] = \d+'[hd]0+;\n)+  end\n")


def to_verilog(component: wiring.Component, name: str) -> str:
    """Verilog of `component` as module `name`, and of what it instantiates; units marked `once` only once.

    Raises
    ------
    ValueError
        `name` is not a Verilog identifier, or one of the words that the language keeps to itself.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is no module name; take letters, digits and _, a letter first")
    emission = Emission()
    pending = [(name, component)]
    modules: list[str] = []
    while pending:
        module, emission.top = pending.pop()
        known = set(emission.units)
        ports = {port: (value, None) for port, (value, _) in ports_of(emission.top).items()}
        modules.append(rtlil.convert(emission.top, module, emission, ports=ports, emit_src=False))
        pending += [unit for key, unit in emission.units.items() if key not in known]
    text = _write(modules)
    if f"module \\{name} " in text:  # Yosys escapes what Verilog or SystemVerilog reserves
        raise ValueError(f"{name!r} is a keyword of Verilog and no module name; take another")
    return text


@dataclass(frozen=True)
class Elements:
    """What `to_verilog_around` leaves out: `count` instances of one module.

    Port P of instance i is port element_{i}_P of what they were left out of, where an output of the element
    is an input and the other way round; clock and reset are the whole's.

    Attributes
    ----------
    verilog
        The Verilog of module `element`.
    count
        Instances.
    inputs, outputs
        The element's ports without clk and rst.
    """

    verilog: str
    count: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def to_verilog_around(component: wiring.Component, name: str) -> tuple[str, Elements]:
    """Verilog of `component` as module `name` without the units marked `once`, and these.

    Raises
    ------
    ValueError
        The component has none of them, or units that differ.
    """
    emission = HollowEmission(component)
    around = Fragment.get(component, emission)
    if len(emission.left_out) != 1:
        raise ValueError(f"{len(emission.left_out)} kinds of elements in {name}, but there must be one")
    (elements,) = emission.left_out.values()
    ports = {port: (value, None) for port, (value, _) in ports_of(component).items()}
    for i, element in enumerate(elements):
        ports |= {f"element_{i}_{port}": (value, None) for port, (value, _) in ports_of(element).items()}
    verilog = _write([rtlil.convert(around, name, emission, ports=ports, emit_src=False)])
    inputs, outputs = (
        tuple(port for port, (_, flow) in ports_of(elements[0]).items() if flow is of) for of in (In, Out)
    )
    return verilog, Elements(to_verilog(elements[0], "element"), len(elements), inputs, outputs)


def _write(modules: list[str]) -> str:
    """The Verilog of modules in RTLIL."""
    # As amaranth.back.verilog does, and without the copies of every structure's fields that it leaves.
    script = "".join(f"read_rtlil <<rtlil\n{text}\nrtlil\n" for text in modules)
    script += "proc -norom\nmemory_collect\nopt_clean -purge\n"
    script += "".join(
        f"attrmap {of} {' '.join(f'-remove {a}' for a in ATTRIBUTES)}\n" for of in ("", "-modattr")
    )
    text = find_yosys(lambda version: version >= (0, 40)).run(
        ["-q", "-"], script + "write_verilog -norename", ignore_warnings=True
    )
    return _ZEROED_MEMORY.sub("", text)


@dataclass(frozen=True)
class Option:
    """One parameter of a unit on the command line."""

    name: str
    kind: Callable[[str], Any]
    default: Any
    help: str
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Unit:
    """A unit that the command line emits."""

    help: str
    options: tuple[Option, ...]
    build: Callable[..., wiring.Component]
    """Takes the options by name, with _ for -."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options to `parser`."""
        for option in self.options:
            parser.add_argument(
                f"--{option.name}",
                type=option.kind,
                default=option.default,
                choices=option.choices,
                help=option.help if option.default is None else f"{option.help} (default: {option.default})",
            )

    def from_arguments(self, arguments: argparse.Namespace) -> wiring.Component:
        """The component that parsed `arguments` describe; a ValueError says what does not fit."""
        names = [option.name.replace("-", "_") for option in self.options]
        return self.build(**{name: getattr(arguments, name) for name in names})


def _arithmetic(arithmetic: str, **parameters: Any) -> Any:
    """The arithmetic of this name with the parameters that are given, not None, and else its own defaults."""
    kind: Any = ARITHMETICS[arithmetic]
    known = [field.name for field in fields(kind)]
    given = {name: value for name, value in parameters.items() if value is not None}
    for name, value in given.items():
        if name not in known:
            options = ["--" + each.replace("_", "-") for each in (name, *known)]
            raise ValueError(
                f"{options[0]} is {value}, but --arithmetic {arithmetic} has {', '.join(options[1:])}; "
                f"leave it out, or take another arithmetic"
            )
    return kind(**given)


def _pe(stages: int, **arithmetic: Any) -> wiring.Component:
    return pe_for(_arithmetic(**arithmetic), stages=stages)


def _systolic_array(rows: int, columns: int, stages: int, **arithmetic: Any) -> wiring.Component:
    from quaver.rtl.array.systolic import SystolicArray

    return SystolicArray(_arithmetic(**arithmetic), rows, columns, stages)


def _accelerator(
    rows: int,
    columns: int,
    stages: int,
    depth: int,
    update: str,
    weights: formats.FixedFormat | None,
    updates: formats.FixedFormat | None,
    gradients: formats.FixedFormat | None,
    **arithmetic: Any,
) -> wiring.Component:
    from quaver.rtl.accelerator.accelerator import Accelerator

    size = {"rows": rows, "columns": columns, "stages": stages, "depth": depth}
    computed = _arithmetic(**arithmetic)
    of_unit = {"weights": weights, "updates": updates, "gradients": gradients}
    given = {name: fmt for name, fmt in of_unit.items() if fmt is not None}
    unit: UpdateUnit | None = None
    if isinstance(computed, FixedPoint) and update != "none":
        unit = FixedUpdate(*(UPDATE_FORMATS | given).values(), rounding=update)
    elif given:
        name, fmt = next(iter(given.items()))
        raise ValueError(
            f"--{name} is {fmt}, but it is of the update unit of --arithmetic fixed_point; leave it out"
        )
    elif update != "none":
        unit = Update(rounding=update)
    return Accelerator(computed, **size, update=unit)


def _axi_accelerator(**options: Any) -> wiring.Component:
    from quaver.rtl.accelerator.axi import AxiAccelerator

    return AxiAccelerator(_accelerator(**options))


def _parse_format(text: str, kind: type = formats.FloatFormat) -> Any:
    try:
        fmt = formats.parse(text)
    except ValueError as error:  # whose reason argparse would not tell
        raise argparse.ArgumentTypeError(str(error)) from None
    if not isinstance(fmt, kind):
        wrong = ("fixed point", "floats such as fp8"), ("a float", "fixed point such as q8.8")
        found, wanted = wrong[kind is formats.FixedFormat]
        raise argparse.ArgumentTypeError(f"{text} is {found}, but this unit takes {wanted}")
    return fmt


def _parse_fixed(text: str) -> Any:
    return _parse_format(text, formats.FixedFormat)


def _parse_seed(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer; take one such as 1 or 0xBEEF") from None


def _format(name: str, default: str, help_: str) -> Option:
    return Option(name, _parse_format, default, help_)


_A = _format("a", "fp8", "format of a")
_STAGES = Option("stages", int, 0, "pipeline registers; 0 is combinational")
_ROUNDING = Option("rounding", str, "nearest", "rounding", ("nearest", "stochastic"))
_RANDOM_BITS = Option("random-bits", int, RANDOM_BITS, "random bits of one stochastic rounding")
_ARITHMETIC = (
    Option("arithmetic", str, "chunked_float", "what the elements compute", tuple(PES)),
    Option("operand", _parse_format, None, "chunked_float: format of the operands (fp8)"),
    Option("accumulator", _parse_format, None, "chunked_float: format of the sums (fp16)"),
    Option("chunk", int, None, "chunked_float: products in a chunk (64)"),
    Option("a", _parse_fixed, None, "fixed_point: format of one operand (q8.8)"),
    Option("b", _parse_fixed, None, "fixed_point: format of the other operand (q8.8)"),
    Option("result", _parse_fixed, None, "fixed_point: format of the rounded sums (q8.8)"),
    Option("accumulator-bits", int, None, "fixed_point: width of the exact sums (48)"),
    Option("rounding", str, None, "rounding (nearest; of fixed_point stochastic)", ("nearest", "stochastic")),
    Option("random-bits", int, None, "random bits of one stochastic rounding (14; of fixed_point 16)"),
    Option(
        "stages", int, 4, "adder stages, which are also the outputs that a processing element interleaves"
    ),
)
_SIZE = (Option("rows", int, 8, "rows of the array"), Option("columns", int, 8, "columns of the array"))
_ACCELERATOR = (
    *_SIZE,
    Option("depth", int, 512, "steps that the operand memory holds"),
    Option(
        "update",
        str,
        "stochastic",
        "rounding of the update unit, which is FP16's, or of fixed_point the three formats'",
        ("stochastic", "nearest", "none"),
    ),
    *(
        Option(name, _parse_fixed, None, f"fixed_point: format of the update unit's {name} ({fmt})")
        for name, fmt in UPDATE_FORMATS.items()
    ),
    *_ARITHMETIC,
)

#: Name → unit, for `quaver verilog`.
UNITS: dict[str, Unit] = {
    "float_multiplier": Unit(
        "exact product: a, b → product",
        (_A, _format("b", "fp8", "format of b"), _STAGES),
        lambda a, b, stages: FloatMultiplier(a, b, stages=stages),
    ),
    "float_adder": Unit(
        "sum rounded once: a, b[, random] → sum",
        (
            _format("a", "fp16", "format of a and of the sum"),
            _format("b", "fp16", "format of b"),
            _ROUNDING,
            _RANDOM_BITS,
            _STAGES,
        ),
        lambda a, b, rounding, random_bits, stages: FloatAdder(
            a, b, rounding=rounding, random_bits=random_bits, stages=stages
        ),
    ),
    "lfsr": Unit(
        "random source: enable, load, seed → draw",
        (
            Option("bits", int, RANDOM_BITS, "bits of a draw"),
            Option("taps", str, "row", "polynomial", ("row", "column")),
            Option("seed", _parse_seed, 1, "state after reset"),
        ),
        lambda bits, taps, seed: LFSR(bits, {"row": TAPS, "column": COLUMN_TAPS}[taps], seed),
    ),
    "rounding": Unit(
        "rounding of a magnitude: magnitude[, random] → up, rounded",
        (
            Option("width", int, 16, "bits of the magnitude"),
            Option("dropped-bits", int, 8, "how many of them go"),
            Option("rounding", str, "nearest", "rounding", ("nearest", "truncate", "stochastic")),
            _RANDOM_BITS,
        ),
        Rounding,
    ),
    "pe": Unit("processing element", _ARITHMETIC, _pe),
    "systolic_array": Unit("array of processing elements", (*_SIZE, *_ARITHMETIC), _systolic_array),
    "update": Unit(
        "weight update: settings, elements → results, all streams",
        (
            _format("format", "fp16", "format of weights, momenta, gradients and scalars"),
            replace(_ROUNDING, default="stochastic"),
            _RANDOM_BITS,
            Option("stages", int, MAX_STAGES, "registers in each of the three AXPYs"),
        ),
        lambda format, **options: Update(format, **options),
    ),
    "fixed_update": Unit(
        "the same in fixed point",
        (
            Option("weights", _parse_fixed, "q4.12", "format of weights"),
            Option("updates", _parse_fixed, "q4.12", "format of momenta, which are the updates"),
            Option("gradients", _parse_fixed, "q4.12", "format of gradients"),
            replace(_ROUNDING, default="stochastic"),
            _RANDOM_BITS,
        ),
        FixedUpdate,
    ),
    "accelerator": Unit(
        "array, buffers and sequencer behind one command stream",
        _ACCELERATOR,
        _accelerator,
    ),
    "axi_accelerator": Unit("the same behind AXI4-Lite and AXI4-Stream", _ACCELERATOR, _axi_accelerator),
}
