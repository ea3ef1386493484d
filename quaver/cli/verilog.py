"""Generate the Verilog of a unit, with stable port names; or the hardware that a plan asks for.

The clock is clk, the synchronous reset rst; a stream is NAME_payload, NAME_valid and NAME_ready.

With --plan FILE, of quaver plan -o, a unit's accumulator and chunk are the plan's: the widest accumulator
that any GEMM asks for, or that of --gemm LAYER/GEMM. Without a UNIT, -o names a directory, which gets the
accelerator and a processing element of each width in the plan.

arithmetics (--arithmetic), the same as of quaver build; options of theirs change one parameter each:
  fp8            FP8 operands, sums in FP16 in chunks of 64: chunked_float as it is
  fp16           FP16 operands, the same sums
  fixed16        16-bit fixed point, ⟨8,8⟩, rounded stochastically on the way out: fixed_point as it is
  int2, int3, int4, int5, int8
                 unsigned activations times weights on odd levels, exact; int4: integer as it is
  hopper_fp8, hopper_fp8_fast, hopper_bf16, hopper_fp16, ampere_bf16, …
                 what tensor cores compute: aligned_float with their group, fraction bits and accumulator
  chunked_float, fixed_point, integer, aligned_float

Every module's name begins with the top's, so that several units fit one design if their --name differs.

examples:
  quaver verilog float_multiplier -o float_multiplier.v
  quaver verilog float_adder --rounding stochastic --random-bits 8 --stages 3 -o float_adder.v
  quaver verilog systolic_array --rows 16 --columns 16 -o array.v
  quaver verilog pe --arithmetic fixed_point --a q4.12 --b q4.12 --result q4.12
  quaver verilog pe --arithmetic int4 --b int4           signed weights, two's complement
  quaver verilog accelerator --plan plan.json --rows 16 --columns 16 -o accelerator.v
  quaver verilog pe --plan plan.json --gemm conv2/gradient
  quaver verilog --plan plan.json -o hardware
  quaver verilog pe --arithmetic fp16 -o pe.v --core      also pe.core, for FuseSoC, and the file list pe.f
  quaver verilog axi_accelerator -o axi.v --header quaver_commands.h     also the commands and registers for C
  quaver verilog pe --help                       the parameters of one unit
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quaver.cli.files import STANDARD_OUTPUT, check_apart, check_output, check_unread, write
from quaver.cli.options import console, read_plan
from quaver.cli.parser import refuse
from quaver.cli.unit_options import add_options, as_command, values_of
from quaver.golden.arithmetic.named import named, spelled
from quaver.golden.descriptor import descriptor
from quaver.golden.formats import FP16, FloatFormat, IntegerFormat, Levels
from quaver.golden.planning.plan import GemmPlan, Plan, Width
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.emit.command_stream import c_header
from quaver.rtl.emit.core_file import core_file, file_list
from quaver.rtl.emit.header import header
from quaver.rtl.emit.units import UNITS, arithmetic_options
from quaver.rtl.emit.verilog import to_verilog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_output_and_plan(parser, None, planned=True)
    units = parser.add_subparsers(dest="unit", metavar="UNIT", help=", ".join(UNITS))
    for name, unit in UNITS.items():
        one = units.add_parser(name, help=unit.help, description=unit.help)
        add_options(one, unit.options)
        planned = "accumulator" in (option.name for option in unit.options)
        # What stands before UNIT stays, unless it stands after it too.
        _add_output_and_plan(one, argparse.SUPPRESS, planned=planned)
        one.add_argument("--name", default=name, help=f"the module's name ({name})")
        if name.endswith("accelerator"):
            one.add_argument(
                "--header",
                type=Path,
                metavar="FILE",
                help="also the command stream and registers as a C header",
            )
        if planned:
            one.add_argument(
                "--gemm",
                metavar="LAYER/GEMM",
                help="of the plan: conv2/gradient (the one that asks for most)",
            )


def _add_output_and_plan(parser: argparse.ArgumentParser, default: str | None, *, planned: bool) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, default=default, metavar="FILE", help="(standard output)"
    )
    parser.add_argument(
        "--core",
        action="store_true",
        default=default or False,
        help="also a core description for FuseSoC and a list of files, beside -o FILE",
    )
    if planned:
        parser.add_argument("--plan", type=Path, default=default, metavar="FILE", help="of quaver plan -o")
        parser.add_argument(
            "--no-chunks", action="store_true", default=default, help="take its widths without chunks"
        )


def run(args: argparse.Namespace) -> int:
    plan = read_plan(args)
    if plan is None and args.no_chunks:
        raise ValueError("--no-chunks chooses among a plan's widths; name it: --plan FILE, of quaver plan -o")
    if args.unit is None:
        if plan is None:
            raise ValueError(f"name a unit, or a plan by --plan FILE; the units are {', '.join(UNITS)}")
        return _write_all(args, plan)
    taken = ""
    headers: Path | None = getattr(args, "header", None)
    check_output(args.output)
    check_output(headers, "--header")
    if args.core and args.output in (None, STANDARD_OUTPUT):
        raise ValueError("--core writes files beside that of --output, which is missing; name one")
    beside = {f"--core's {each}": args.output.with_suffix(each) for each in (".core", ".f") if args.core}
    written = {"--output": args.output or STANDARD_OUTPUT, **beside, "--header": headers}
    check_apart(written)
    check_unread(written, [args.plan])
    if plan is not None:
        taken = _take(args, plan)
    elif getattr(args, "gemm", None):
        raise ValueError(f"--gemm is {args.gemm}, but it names a GEMM of a plan; add --plan FILE")
    if not str(_rounding(args)).startswith("stochastic"):
        refuse(args, "without --rounding stochastic", "random-bits")
    text = _verilog(args, args.name)
    _say(taken)
    _write(args.output or STANDARD_OUTPUT, args, args.name, text)
    if headers is not None:
        write(headers, c_header())
        _say(f"{headers}: the command stream and the registers, for C")
    return 0


def _verilog(args: argparse.Namespace, name: str) -> str:
    """The file's text: what made it, its ports, its modules."""
    unit = UNITS[args.unit]
    values = values_of(args, unit.options)
    component = unit.build(**values)
    accelerator = getattr(component, "accelerator", component)
    updates = isinstance(accelerator, Accelerator) and accelerator.update_stream is not None
    if not updates and values.get("update") not in (None, "none"):
        refuse(args, f"with --arithmetic {values['arithmetic']}, which has no update unit", "update")
        values["update"] = "none"
    text = to_verilog(component, name)
    renamed = "" if name == args.unit else f" --name {name}"
    command = f"quaver verilog {args.unit}{as_command(unit.given(values))}{renamed}"
    parameters = {key: value for key, value in values.items() if value is not None}
    if "arithmetic" in values:  # with its own defaults
        of_arithmetic = {option.name: parameters.pop(option.name, None) for option in arithmetic_options()}
        parameters["arithmetic"] = spelled(arithmetic := named(**of_arithmetic), defaults=True)
        for fmt in (arithmetic.a, arithmetic.b):
            if isinstance(fmt, IntegerFormat) and fmt.levels is Levels.ODD:
                parameters[str(fmt)] = f"a code q means 2q − {fmt.highest}"
    return header(component, name, text, command=command, parameters=parameters) + text


def _rounding(args: argparse.Namespace) -> str | None:
    """What is rounded how: as asked for, or as the arithmetic does by itself."""
    if (asked := getattr(args, "rounding", None)) is None and hasattr(args, "arithmetic"):
        return descriptor(named(args.arithmetic)).parameters.get("rounding")
    return asked


def _write(path: Path, args: argparse.Namespace, name: str, text: str) -> None:
    write(path, text)
    if path == STANDARD_OUTPUT:
        return
    _say(f"{path}: module {name}, {len(text.splitlines()):,} lines")
    if args.core:
        write(path.with_suffix(".core"), core_file(name, path.name, UNITS[args.unit].help))
        write(path.with_suffix(".f"), file_list(path.name))
        _say(f"{path.with_suffix('.core')}, {path.with_suffix('.f')}: for FuseSoC, and the list of files")


def _say(text: str) -> None:
    if text:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _take(args: argparse.Namespace, plan: Plan) -> str:
    """The plan's accumulator and chunk as if they were given; says which these are."""
    if not hasattr(args, "accumulator"):
        raise ValueError(f"--plan is {args.plan}, but {args.unit} has no accumulator; leave it out")
    for name in ("accumulator", "chunk"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"--{name} is {getattr(args, name)}, but {args.plan} says it; leave one of them out"
            )
    gemms = _gemms(plan, chunks=not args.no_chunks)
    if args.gemm is None:
        name = max(gemms, key=lambda name: gemms[name][1].mantissa_bits)
    elif args.gemm in gemms:
        name = args.gemm
    else:
        raise ValueError(f"--gemm is {args.gemm}, but those of {args.plan} are {', '.join(gemms)}")
    gemm, width = gemms[name]
    args.accumulator = _accumulator(width, name, args.plan)
    # Without chunks there is one, as long as the longest sum.
    args.chunk = width.chunk or max(gemm.length for gemm, _ in gemms.values())
    others = sum(other.mantissa_bits == width.mantissa_bits for _, other in gemms.values()) - 1
    return (
        f"accumulator 1-{FP16.exponent_bits}-{width.mantissa_bits}, "
        f"{'in chunks of ' + str(width.chunk) if width.chunk else 'without chunks'}: "
        f"{name} asks for it, {gemm.length:,} products" + (f"; and {others} more GEMMs" if others else "")
    )


def _gemms(plan: Plan, *, chunks: bool) -> dict[str, tuple[GemmPlan, Width]]:
    return {
        f"{layer.shape.name}/{gemm.role}": (gemm, gemm.chunked if chunks else gemm.plain)
        for layer in plan.layers
        for gemm in layer.gemms
    }


def _accumulator(width: Width, name: str, path: Path) -> FloatFormat:
    try:
        return FloatFormat(FP16.exponent_bits, width.mantissa_bits)
    except ValueError as error:
        raise ValueError(f"{name} of {path} asks for {width.mantissa_bits} mantissa bits: {error}") from error


def _write_all(args: argparse.Namespace, plan: Plan) -> int:
    """The accelerator, and a processing element of each width, into a directory."""
    folder: Path | None = args.output
    if folder is None:
        raise ValueError(
            "--output is missing, but a plan's hardware is several files; name a directory for them"
        )
    if folder == STANDARD_OUTPUT:
        raise ValueError("--output is -, but a plan's hardware is several files; name a directory for them")
    check_output(folder / "accelerator.v" if folder.is_dir() else folder)
    if folder.is_file():
        raise ValueError(f"--output is {folder}, a file; name a directory, or a UNIT for one file")
    first_of_width = {
        width.mantissa_bits: name
        for name, (_, width) in reversed(_gemms(plan, chunks=not args.no_chunks).items())
    }
    modules = {"accelerator": ("accelerator", None)} | {
        f"pe_1_{FP16.exponent_bits}_{bits}": ("pe", name) for bits, name in sorted(first_of_width.items())
    }
    texts: dict[str, tuple[argparse.Namespace, str]] = {}
    taken = {}
    for module, (unit, gemm) in modules.items():
        defaults = argparse.ArgumentParser()
        add_options(defaults, UNITS[unit].options)
        one = defaults.parse_args([], argparse.Namespace(**vars(args) | {"unit": unit, "gemm": gemm}))
        taken[module] = _take(one, plan)
        texts[module] = one, _verilog(one, module)
    folder.mkdir(exist_ok=True)
    for module, (one, text) in texts.items():
        _say(taken[module])
        _write(folder / f"{module}.v", one, module, text)
    return 0
