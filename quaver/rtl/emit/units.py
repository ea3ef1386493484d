"""The units that `quaver verilog` emits, with their options as data.

What a unit or an arithmetic can be told is what its constructor takes: names, types, defaults and help come
from signatures and docstrings, so that the parameters of a new arithmetic appear by themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any, cast, get_args, get_type_hints

from amaranth.lib import wiring

from quaver.golden.arithmetic import ARITHMETICS
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.arithmetic.named import named, names
from quaver.golden.contracts import Arithmetic
from quaver.golden.formats import FP8, FP16, FixedFormat, Format
from quaver.golden.lfsr import COLUMN_TAPS, TAPS
from quaver.golden.rounding import NEAREST_OR_DRAWN, RANDOM_BITS
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.accelerator.axi import AxiAccelerator
from quaver.rtl.array.systolic import SystolicArray
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.compression.adacomp_average import AdaCompAverage
from quaver.rtl.compression.named import compression_unit
from quaver.rtl.emit.docstrings import described, first_sentence
from quaver.rtl.float.adder import FloatAdder
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.rtl.lfsr import LFSR
from quaver.rtl.pe import pe_for
from quaver.rtl.requantisation import RequantisationUnit
from quaver.rtl.rounding import Rounding
from quaver.rtl.update import unit_for
from quaver.rtl.update.fixed_sgd import FixedSGDUnit
from quaver.rtl.update.float_sgd import FloatSGDUnit
from quaver.rtl.update.unit import UpdateUnit

#: Of the accelerator's update unit in fixed point: those of the recipe fixed16.
UPDATE_FORMATS = {
    "weights": FixedFormat(4, 12),
    "updates": FixedFormat(4, 12),
    "gradients": FixedFormat(2, 14),
}
#: The most elements of an array: the Verilog of so many takes half a minute.
MAX_ELEMENTS = 64 * 64
#: The widest magnitude of a rounding unit.
MAX_WIDTH = 1024
#: What rounds otherwise says so itself, in `ROUNDINGS`.
_ROUNDINGS = tuple(map(str, NEAREST_OR_DRAWN))
#: Of parameters that docstrings describe together.
_HELP: dict[str, dict[str, Any]] = {
    "rounding": {"help": "rounding"},
    "random_bits": {"help": "random bits of one stochastic rounding"},
}


@dataclass(frozen=True)
class Option:
    """One parameter of a unit.

    Attributes
    ----------
    name
        Its name in Python; on the command line _ is -.
    kinds
        What its value may be: int, kinds of formats, or the name of an arithmetic or of a compressor; empty
        where it is one of `choices`.
    default
        Its value where it is left out. None: the unit decides, and `help` says how.
    help
        What the command line says of it.
    choices
        The names that it may be; empty where it is one of `kinds`.
    """

    name: str
    kinds: tuple[type, ...]
    default: Any
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unit:
    """A unit that the command line emits.

    Attributes
    ----------
    help
        What it is, in a line.
    own
        Its options but for those of an arithmetic.
    build
        Makes one, of all its options by their names. ValueError: what does not fit, before any work.
    computes
        Whether it takes an arithmetic.
    """

    help: str
    own: tuple[Option, ...]
    build: Callable[..., wiring.Component]
    computes: bool = False

    @property
    def options(self) -> tuple[Option, ...]:
        """What `build` takes, with the parameters of every arithmetic that there is."""
        return (*self.own, *(arithmetic_options() if self.computes else ()))

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `values` that are not what the unit takes anyway."""
        return {
            option.name: value
            for option in self.options
            if (value := values.get(option.name)) not in (None, option.default)
        }


@cache
def options_of(constructor: type) -> dict[str, Option]:
    """Parameter → option, of those of a constructor that are numbers, formats or words of an enumeration."""
    hints, said = get_type_hints(constructor.__init__), described(constructor)  # type: ignore[misc]
    found = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        types = get_args(hints.get(name)) or (hints.get(name),)
        classes = [each for each in types if inspect.isclass(each)]
        kinds = tuple(each for each in classes if each is int or issubclass(each, Format))
        words = next((each for each in classes if issubclass(each, StrEnum)), None)
        roundings = getattr(constructor, "ROUNDINGS", _ROUNDINGS)
        choices = roundings if words is RoundingMode else tuple(map(str, words or ()))
        if kinds or choices:
            default = None if parameter.default is parameter.empty else parameter.default
            help_ = first_sentence(said.get(name, ""))
            found[name] = Option(name, kinds, str(default) if choices else default, help_, choices)
    return found


_SPELLED = "aligned_float(group=4, chunk=16)"


def arithmetic_options() -> tuple[Option, ...]:
    """What an arithmetic is told: its name, and the parameters of all of them, which are None where the
    arithmetic's own are meant."""
    merged: dict[str, dict[str, Option]] = {}
    for arithmetic, kind in ARITHMETICS.items():
        for name, option in options_of(kind).items():
            merged.setdefault(name, {})[arithmetic] = option
    said = f"what is computed: one of {', '.join(names())}, or with parameters, such as {_SPELLED}"
    found = [Option("arithmetic", (Arithmetic,), "fp8", said)]
    for name, of in merged.items():
        kinds = tuple(dict.fromkeys(kind for option in of.values() for kind in option.kinds))
        choices = tuple(dict.fromkeys(choice for option in of.values() for choice in option.choices))
        said = "; ".join(
            f"{arithmetic}: {_decapitalised(option.help)} ({option.default})"
            for arithmetic, option in of.items()
        )
        found.append(Option(name, kinds, None, said, choices))
    return tuple(found)


def _decapitalised(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _unit(
    help_: str, component: type, names: Mapping[str, str] | None = None, **changes: dict[str, Any]
) -> Unit:
    """The unit of a component: the parameters `names`, parameter → option's name, or all; with changes to
    the options of some."""
    options = options_of(component)
    called = dict(names or zip(options, options, strict=True))
    listed = tuple(
        replace(options[parameter], name=name, **_HELP.get(parameter, {}) | changes.get(parameter, {}))
        for parameter, name in called.items()
    )

    def build(**values: Any) -> wiring.Component:
        return component(**{parameter: values[name] for parameter, name in called.items()})

    return Unit(help_, listed, build)


def _lfsr(bits: int, taps: str, seed: int) -> wiring.Component:
    return LFSR(bits, {"row": TAPS, "column": COLUMN_TAPS}[taps], seed)


def _rounding(width: int, **options: Any) -> wiring.Component:
    if width > MAX_WIDTH:
        raise ValueError(f"--width is {width}, but this unit rounds at most {MAX_WIDTH} bits")
    return Rounding(width, **options)


def _sized(rows: int, columns: int) -> None:
    """ValueError: the Verilog of an array of that size would take too long."""
    if rows * columns > MAX_ELEMENTS:
        raise ValueError(
            f"--rows {rows} --columns {columns} is {rows * columns:,} elements, but an array has at most "
            f"{MAX_ELEMENTS:,}, as 64 × 64; take fewer rows or columns"
        )


def _pe(stages: int, **arithmetic: Any) -> wiring.Component:
    return pe_for(_arithmetic(arithmetic), stages=stages)


def _arithmetic(values: dict[str, Any]) -> Any:
    return named(values.pop("arithmetic"), **values)


def _systolic_array(rows: int, columns: int, stages: int, **arithmetic: Any) -> wiring.Component:
    _sized(rows, columns)
    return SystolicArray(_arithmetic(arithmetic), rows, columns, stages)


def _accelerator(
    rows: int,
    columns: int,
    stages: int,
    depth: int,
    update: str,
    compression: str,
    codes: int,
    **others: Any,
) -> Accelerator:
    _sized(rows, columns)
    of_unit = {name: others.pop(name) for name in UPDATE_FORMATS}
    given = {name: fmt for name, fmt in of_unit.items() if fmt is not None}
    arithmetic = _arithmetic(others)
    unit: UpdateUnit | None = None
    if isinstance(arithmetic, FixedPoint) and update != "none":
        unit = FixedSGDUnit(*(UPDATE_FORMATS | given).values(), rounding=update)
    elif given:
        name, fmt = next(iter(given.items()))
        raise ValueError(
            f"--{name} is {fmt}, but it is of the update unit of --arithmetic fixed_point; leave it out"
        )
    elif update != "none" and (rule := arithmetic.default_update):
        unit = unit_for(replace(cast("Any", rule), rounding=update))
    return Accelerator(
        arithmetic,
        rows=rows,
        columns=columns,
        stages=stages,
        depth=depth,
        update=unit,
        codes=codes,
        compression=compression_unit(compression, stages),
    )


def _axi_accelerator(**options: Any) -> wiring.Component:
    return AxiAccelerator(_accelerator(**options))


_STAGES = Option(
    "stages", (int,), 4, "adder stages, which are also the outputs that a processing element interleaves"
)
_SIZE = (
    Option("rows", (int,), 8, "rows of the array"),
    Option("columns", (int,), 8, "columns of the array"),
)
_ACCELERATOR = (
    *_SIZE,
    Option("depth", (int,), 512, "steps that the operand memory holds"),
    Option(
        "update",
        (),
        "stochastic",
        "rounding of the update unit, which is FP16's, or of fixed_point the three formats'",
        (*_ROUNDINGS, "none"),
    ),
    *(
        Option(name, (FixedFormat,), None, f"fixed_point: format of the update unit's {name} ({fmt})")
        for name, fmt in UPDATE_FORMATS.items()
    ),
    Option(
        "codes", (int,), 0, "integers: bits of the next layer's codes that leave in place of sums; 0: none"
    ),
    Option(
        "compression",
        (AdaCompUnit,),
        "none",
        "unit that compresses gradients: none, adacomp, or adacomp(longest=64) for bins of up to 64",
    ),
    _STAGES,
)

#: Name → unit, for `quaver verilog`.
UNITS: dict[str, Unit] = {
    "float_multiplier": _unit(
        "exact product: a, b → product",
        FloatMultiplier,
        {"a_format": "a", "b_format": "b", "stages": "stages"},
        a_format={"default": FP8, "help": "format of a"},
        b_format={"default": FP8, "help": "format of b"},
        stages={"help": "pipeline registers, 0 … 2; 0 is combinational"},
    ),
    "float_adder": _unit(
        "sum rounded once: a, b[, random] → sum",
        FloatAdder,
        {"fmt": "a", "addend": "b"} | {name: name for name in ("rounding", "random_bits", "stages")},
        fmt={"default": FP16, "help": "format of a and of the sum"},
        addend={"default": FP16, "help": "format of b"},
        stages={"help": "pipeline registers, 0 … 9; 0 is combinational"},
    ),
    "lfsr": Unit(
        "random source: enable, load, seed → draw",
        (
            replace(options_of(LFSR)["bits"], default=RANDOM_BITS),
            Option("taps", (), "row", "polynomial", ("row", "column")),
            options_of(LFSR)["seed"],
        ),
        _lfsr,
    ),
    "rounding": replace(
        _unit(
            "rounding of a magnitude: magnitude[, random] → up, rounded",
            Rounding,
            width={"default": 16},
            dropped_bits={"default": 8},
            rounding={"choices": tuple(map(str, RoundingMode))},
        ),
        build=_rounding,
    ),
    "requantisation": _unit(
        "sum to the next layer's code: number, multiplier, offset, shift → code",
        RequantisationUnit,
        width={"default": 32},
        bits={"default": 4},
    ),
    "pe": Unit("processing element", (_STAGES,), _pe, computes=True),
    "systolic_array": Unit("array of processing elements", (*_SIZE, _STAGES), _systolic_array, computes=True),
    "float_sgd": _unit(
        "weight update by SGD with momentum: settings, elements → results, all streams",
        FloatSGDUnit,
        {"fmt": "format"} | {name: name for name in ("rounding", "random_bits", "stages")},
        fmt={"help": "format of weights, momenta, gradients and scalars"},
    ),
    "fixed_sgd": _unit(
        "the same in fixed point",
        FixedSGDUnit,
        weights={"help": "format of weights"},
        updates={"help": "format of momenta, which are the updates"},
        gradients={"help": "format of gradients"},
    ),
    "adacomp": _unit(
        "gradient compression: settings, elements → pending, packet, summary, all streams", AdaCompUnit
    ),
    "adacomp_average": _unit(
        "one packet's part of the average: settings, packet, before → sums, all streams", AdaCompAverage
    ),
    "accelerator": Unit(
        "array, buffers and sequencer behind one command stream", _ACCELERATOR, _accelerator, computes=True
    ),
    "axi_accelerator": Unit(
        "the same behind AXI4-Lite and AXI4-Stream", _ACCELERATOR, _axi_accelerator, computes=True
    ),
}
