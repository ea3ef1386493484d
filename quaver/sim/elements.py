"""C++ for the elements of an array from Verilator's C++ for one of them; sim/elements.h says how."""

from __future__ import annotations

import re
from pathlib import Path

from quaver.rtl.emit.verilog import Elements

#: Verilator's class for the element, that of all its signals, and the phases of its work.
ELEMENT = "Velement"
ROOT = f"{ELEMENT}___024root"
PHASES = ("static", "initial", "stl", "ico", "nba")
#: Bits of a signal at most.
WIDEST = 64
#: No branches, parities and tables, of which a compiler makes no vector instructions; one class of signals.
ELEMENT_FLAGS = (
    *("--top-module", "element"),
    *("-fno-merge-cond", "-fno-const-bit-op-tree", "-fno-table"),
    *("--comp-limit-members", "100000"),
)


def write_parts(elements: Elements, folder: Path) -> None:
    """Writes what elements.h includes into `folder`, where Verilator's C++ of the element is.

    Raises
    ------
    RuntimeError
        The element has a memory, a signal of more than 64 bits, or an output that is not a register.
    """
    header = (folder / f"{ROOT}.h").read_text(encoding="utf-8")
    # VlWide is more than 64 bits; beside the triggers of the phases, VlUnpacked are memories.
    if re.search(r"\bVlWide|\bVL_(?:IN|OUT)W\b|\bVlUnpacked<(?!QData/\*63:0\*/, 1> __V\w+Triggered)", header):
        raise RuntimeError("the array's element has a memory or a signal of more than 64 bits")
    wide = re.search(r"^ *(QData|VL_(IN|OUT)64)\b", header, re.MULTILINE)
    sizes = f"#define COUNT {elements.count}\n#define LANE uint{64 if wide else 32}_t\n"
    (folder / "element_sizes.h").write_text(sizes, encoding="utf-8")

    # The functions of the phases; those that look whether the clock has changed are not needed.
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob(f"{ROOT}__*.cpp")))
    pattern = rf"^(?:VL_ATTR_COLD )?void {ROOT}___(?:eval_(?:{'|'.join(PHASES)})|\w+__TOP\w*)\(.*?^}}\n"
    functions = re.findall(pattern, sources, re.MULTILINE | re.DOTALL)
    changes = "".join(function for function in functions if "ico" in function.partition("(")[0])
    if through := [port for port in elements.outputs if re.search(rf"vlSelfRef\.{port}\s*=", changes)]:
        raise RuntimeError(f"outputs of the array's element are not registers: {', '.join(through)}")
    empty = (f"void {ROOT}___eval_{phase}({ROOT}*) {{\n}}\n" for phase in PHASES)
    functions += [function for function in empty if function.partition("*")[0] not in "".join(functions)]
    declarations = "".join(function.partition(" {\n")[0] + ";\n" for function in functions)
    text = re.sub(r"vlSelfRef\.__V\w+Triggered\[0U\]", "1U", "".join(functions))
    (folder / "element_functions.h").write_text(declarations + text, encoding="utf-8")

    places = range(elements.count)
    inputs = [f"at({i})->{port} = model.element_{i}_{port};\n" for i in places for port in elements.inputs]
    outputs = [f"model.element_{i}_{port} = at({i})->{port};\n" for i in places for port in elements.outputs]
    (folder / "element_inputs.h").write_text("".join(inputs), encoding="utf-8")
    (folder / "element_outputs.h").write_text("".join(outputs), encoding="utf-8")
