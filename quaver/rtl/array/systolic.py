"""The systolic array: elements of one arithmetic, operands flowing past results that stand still."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.arithmetic.bitstream import COLUMN_STREAMS, ROW_STREAMS
from quaver.golden.contracts import Arithmetic, Draws
from quaver.golden.random_bits import COLUMN, DIAGONAL, ROW
from quaver.golden.validation import as_integer
from quaver.rtl.pe import pe_for
from quaver.rtl.pe.element import ProcessingElement
from quaver.rtl.random_sources import Sources, places_on, streams_on


def array_control(product_cycles: int) -> data.StructLayout:
    """What a cycle at the array's upper left corner is: `fold` a chunk, else multiply and accumulate.

    With `fold`: `first`, the first chunk of an output; `last`, its last, and the totals leave when they are
    complete. Where a product takes several cycles, `begin` is the first of them, in a fold too; a fold
    without it is a bubble of an arithmetic that has no `identity`.
    """
    begin = {"begin": 1} if product_cycles > 1 else {}
    return data.StructLayout({"fold": 1, "first": 1, "last": 1} | begin)


class SystolicArray(wiring.Component):
    """Output-stationary array: a tile is `rows` × `columns` · L outputs, L of them in each element.

    Work comes in steps of L·N cycles, N for each lane: a step multiplies one k (or the `group` of k that an
    element takes at once), or folds. Each row keeps its a for a step, while its columns meet their L b's, N
    cycles each. Tiles follow each other without a gap; operands that are the arithmetic's `identity` are a
    bubble, a step of which may be put in anywhere. Where it has none, `control` says that it is a bubble.

    Every edge is skewed: what belongs to row r arrives r cycles after row 0's, what belongs to column c, c
    cycles after column 0's. No signal goes further than one element in a cycle, but for the shift of a
    column.

    Parameters
    ----------
    arithmetic
        What a processing element computes.
    rows, columns
        Their number, at least one each.
    stages
        Pipeline depth of each.

    Attributes
    ----------
    element
        The upper left one, an example of all.
    interleave, product_cycles, step
        L, N, and their product.
    latency
        Cycles from the first cycle of a last fold (`control.last`) to column 0's first result.
    drain
        Cycles that the first cycle of any fold must stay behind that of a last fold.

    ================== === ==================================================================================
    control            in  `array_control`, for row 0 and column 0
    a                  in  `rows` groups of operand codes, the first k's lowest; row r is skewed by r cycles
    b                  in  `columns` groups of operand codes, likewise; column c is skewed by c cycles
    random             in  `Sources` of this cycle's sum in row 0 and column 0, or after the draws for this
                           cycle's operands of both; only where sums or operands draw
    leaving            out column 0 makes a result of a total in the next cycle; column c c cycles later
    result_random      in  `columns` random bits for them, skewed likewise; only where results draw
    valid              out column 0 has a result; column c has one c cycles later
    results            out `columns` result codes, skewed likewise: `rows` · L of each tile in successive
                           cycles, from the last row up, lane 0 of each row first
    ================== === ==================================================================================

    Reset ends what leaves, and clears no sums: after one, and at power-up if there is no `identity`, begin
    with a step of folds without `last`, and set `first` in the next.

    Raises
    ------
    ValueError
        No rows or no columns.
    """

    def __init__(self, arithmetic: Arithmetic, rows: int, columns: int, stages: int):
        rows, columns = as_integer(rows, "rows"), as_integer(columns, "columns")
        if rows < 1 or columns < 1:
            raise ValueError(f"an array of {rows} × {columns}, but it has at least one row and one column")
        self.arithmetic, self.rows, self.columns, self.stages = arithmetic, rows, columns, stages
        self.element = element = pe_for(arithmetic, stages=stages)
        self.interleave, self.product_cycles = element.interleave, element.product_cycles
        self.step = self.interleave * self.product_cycles
        # The last lane's total in the last row.
        complete = rows - 1 + (self.interleave - 1) * self.product_cycles + element.latency
        self.complete, self.latency = complete, complete + 2 + element.exit_latency
        self.drain = complete + rows * self.interleave - 1
        bits = arithmetic.random_bits
        ports = {
            "control": In(array_control(self.product_cycles)),
            "a": In(data.ArrayLayout(arithmetic.a.width * element.group, rows)),
            "b": In(data.ArrayLayout(arithmetic.b.width * element.group, columns)),
            "leaving": Out(1),
            "valid": Out(1),
            "results": Out(data.ArrayLayout(arithmetic.result.width, columns)),
        }
        if arithmetic.draws in (Draws.SUMS, Draws.OPERANDS):
            ports["random"] = In(Sources)
        if arithmetic.draws is Draws.RESULTS:
            ports["result_random"] = In(data.ArrayLayout(bits, columns))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, columns = range(self.rows), range(self.columns)
        elements = [
            [self.element if r == c == 0 else pe_for(self.arithmetic, stages=self.stages) for c in columns]
            for r in rows
        ]
        for r in rows:
            for c in columns:
                m.submodules[f"element_{r}_{c}"] = elements[r][c]

        # From the left: control walks down the rows as the skew of the operands does, then right with them.
        control, several = self.control, self.product_cycles > 1
        entries_a = [first.entry_a() for first, *_ in elements]
        entries_b = [top.entry_b() for top in elements[0]]
        for r in rows:
            first = elements[r][0]
            m.submodules[f"left_{r}"] = entry = entries_a[r]
            m.d.comb += [
                entry.code.eq(self.a[r]),
                first.a.eq(entry.number),
                first.control.fold.eq(control.fold),
                first.control.first.eq(control.first),
            ]
            if several:
                m.d.comb += [entry.begin.eq(control.begin), first.control.begin.eq(control.begin)]
            for left, right in pairwise(elements[r]):
                m.d.comb += [right.a.eq(left.a_out), right.control.eq(left.control_out)]
            above, control = control, Signal(control.shape(), name=f"control_{r + 1}")
            m.d.sync += control.eq(above)

        # From above. At the foot, the totals become codes.
        begin = self.control.begin if several else None
        for c in columns:
            column = [elements[r][c] for r in rows]
            m.submodules[f"upper_{c}"] = entry = entries_b[c]
            m.submodules[f"foot_{c}"] = foot = column[-1].exit()
            m.d.comb += [entry.code.eq(self.b[c]), column[0].b.eq(entry.number)]
            if several:
                m.d.comb += entry.begin.eq(begin)
                before, begin = begin, Signal(name=f"begin_{c + 1}")
                m.d.sync += begin.eq(before)
            leaves = Signal(foot.number.shape(), name=f"leaves_{c}", reset_less=True)
            result = Signal(len(foot.code), name=f"result_{c}", reset_less=True)
            m.d.sync += [leaves.eq(column[-1].chain_out), result.eq(foot.code)]
            m.d.comb += [foot.number.eq(leaves), self.results[c].eq(result)]
            if self.arithmetic.draws is Draws.RESULTS:
                m.d.comb += foot.random.eq(self.result_random[c])
            for upper, lower in pairwise(column):
                m.d.comb += [lower.b.eq(upper.b_out), lower.chain_in.eq(upper.chain_out)]

        if self.arithmetic.draws is Draws.SUMS:
            self._pass_random_bits(m, elements)
        if self.arithmetic.draws is Draws.OPERANDS:
            self._pass_draws(m, entries_a, entries_b)

        # A column shifts all its totals out once they are complete, the next column a cycle later.
        was_last = Signal()
        ends = self.control.last & ~was_last if self.step > 1 else self.control.last
        shift = Signal()
        valid = Signal(self.element.exit_latency + 2)
        until_shift = Signal(range(self.complete))
        left_to_shift = Signal(range(self.rows * self.interleave))
        m.d.sync += [
            was_last.eq(self.control.last),
            until_shift.eq(until_shift - (until_shift != 0)),
            left_to_shift.eq(left_to_shift - (left_to_shift != 0)),
            valid.eq(Cat(shift, valid)),
        ]
        m.d.comb += [self.leaving.eq(shift), self.valid.eq(valid[-1])]
        with m.If(ends):
            m.d.sync += until_shift.eq(self.complete - 1)
        with m.If(until_shift == 1):
            m.d.sync += [shift.eq(1), left_to_shift.eq(self.rows * self.interleave - 1)]
        with m.Elif(left_to_shift == 0):
            m.d.sync += shift.eq(0)
        for c in columns:
            for r in rows:
                m.d.comb += elements[r][c].shift.eq(shift)
            before, shift = shift, Signal(name=f"shift_{c + 1}")
            m.d.sync += shift.eq(before)
        return m

    def _pass_draws(self, m: Module, *edges: list[wiring.Component]) -> None:
        """From the corner the states of the generators hop down the left and along the upper edge, with the
        operands: a row's is made of that of the row above, a cycle later, and so are columns'."""
        for (name, source), entries in zip(
            (("row", ROW_STREAMS), ("column", COLUMN_STREAMS)), edges, strict=True
        ):
            state = self.random[name]
            for i, entry in enumerate(entries):
                m.d.comb += entry.random.eq(state)
                before, state = state, Signal(32, name=f"{name}_generator_{i + 1}", reset_less=True)
                m.d.sync += state.eq(streams_on(before, source, 1))

    def _pass_random_bits(self, m: Module, elements: list[list[ProcessingElement]]) -> None:
        """From the corner the states of the sources hop down the left and along the upper edge, with the
        operands.

        Rows and columns are passed what is drawn, the diagonals' state hops from element to element.
        """
        bits = self.arithmetic.random_bits
        row, diagonal = self.random.row, self.random.diagonal
        for r, row_of_elements in enumerate(elements):
            first = row_of_elements[0]
            m.d.comb += [first.a_random.eq(row[:bits]), first.diagonal.eq(diagonal)]
            for left, right in pairwise(row_of_elements):
                m.d.comb += [right.a_random.eq(left.a_random_out), right.diagonal.eq(left.diagonal_out)]
            above, row = row, Signal(32, name=f"row_source_{r + 1}", reset_less=True)
            above_diagonal, diagonal = diagonal, Signal(32, name=f"diagonal_source_{r + 1}", reset_less=True)
            m.d.sync += [
                row.eq(places_on(above, ROW, 1)),
                diagonal.eq(places_on(above_diagonal, DIAGONAL, DIAGONAL.per_row)),
            ]
        column = self.random.column
        for c, column_of_elements in enumerate(zip(*elements, strict=True)):
            m.d.comb += column_of_elements[0].b_random.eq(column[:bits])
            for upper, lower in pairwise(column_of_elements):
                m.d.comb += lower.b_random.eq(upper.b_random_out)
            before, column = column, Signal(32, name=f"column_source_{c + 1}", reset_less=True)
            m.d.sync += column.eq(places_on(before, COLUMN, 1))
