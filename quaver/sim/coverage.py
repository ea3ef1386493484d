"""Functional coverage: which cases of the arithmetic a bench has exercised, and which it has not.

The cases are told apart by a classifier in plain integers that looks only at stimulus and format, never at
the unit under test. Every bin of a point can be reached (tests/test_benches.py enumerates all pairs of a
small format), so a bin that stays empty is a hole in the bench, and the bench fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import product

from quaver.golden import exact
from quaver.golden.arithmetic.aligned_float import AlignedFloat
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.formats import FixedFormat, FloatFormat
from quaver.golden.rounding import Rounding, round_magnitude

#: point → bin → times hit: what travels in a report.
Counts = dict[str, dict[str, int]]


def holes(counts: Counts) -> list[str]:
    """The bins never hit, as "point: bin"."""
    return [f"{point}: {name}" for point, bins in counts.items() for name, n in bins.items() if not n]


class Coverage:
    """Counts of hits in the bins of named points.

    Parameters
    ----------
    points
        For each point the names of its bins, all of which must be hit.
    """

    def __init__(self, points: Mapping[str, Iterable[str]]) -> None:
        self.counts: Counts = {point: dict.fromkeys(bins, 0) for point, bins in points.items()}

    def hit(self, point: str, name: str) -> None:
        """Count one hit. A name that is no bin of the point is a KeyError: the bins are all there are."""
        self.counts[point][name] += 1


def _number(fmt: FloatFormat, code: int) -> tuple[bool, int, int]:
    """(negative, significand, power) of a finite code: its magnitude is significand · 2**power."""
    magnitude = code & (fmt.sign_code - 1)
    exponent, mantissa = magnitude >> fmt.mantissa_bits, magnitude & ((1 << fmt.mantissa_bits) - 1)
    significand = mantissa | ((exponent > 0) << fmt.mantissa_bits)
    return bool(code & fmt.sign_code), significand, fmt.quantum_exponent + max(exponent, 1) - 1


def operand_class(fmt: FloatFormat, code: int) -> str:
    """NaN, or a sign and one of 0, subnormal, normal, infinity."""
    magnitude = code & (fmt.sign_code - 1)
    if magnitude > fmt.max_code and magnitude != fmt.infinity_code:
        return "NaN"
    kind = (
        "infinity"
        if magnitude == fmt.infinity_code
        else "0"
        if magnitude == 0
        else "subnormal"
        if magnitude < 1 << fmt.mantissa_bits
        else "normal"
    )
    return ("−" if code & fmt.sign_code else "+") + kind


def operand_classes(fmt: FloatFormat) -> list[str]:
    """All that `operand_class` may say."""
    kinds = ["0", "subnormal", "normal"] + ["infinity"] * (fmt.infinity_code is not None)
    return [sign + kind for kind in kinds for sign in "+−"] + ["NaN"]


FIXED_CLASSES = ("lowest", "negative", "0", "positive", "highest")


def fixed_class(fmt: FixedFormat, code: int) -> str:
    """One of `FIXED_CLASSES`; lowest and highest are where results saturate."""
    ends = {0: "0", fmt.max_code: "highest", fmt.max_code + 1: "lowest"}
    return ends.get(code, "positive" if code < fmt.max_code else "negative")


def _nearest_cases(precision: int, operation: str, distance: int) -> list[str]:
    """The rounding cases that two normal operands `distance` binades apart can meet."""
    if operation == "add":
        if distance == 0:  # only a carry-out drops a bit
            return ["exact", "tie to even kept", "tie to odd raised"]
        if distance < precision:
            return ["exact", "below half", "tie to even kept", "tie to odd raised", "above half"]
        if distance == precision:  # the smaller operand is the dropped part, at least half
            return ["tie to even kept", "tie to odd raised", "above half"]
        return ["below half"]
    if distance == 0:
        return ["exact"]
    if distance == 1:
        return ["exact", "tie to even kept", "tie to odd raised"]
    if distance <= precision:
        return ["exact", "below half", "tie to even kept", "tie to odd raised", "above half"]
    if distance == precision + 1:  # the larger operand is a power of two, or it is above half
        return ["below half", "tie to odd raised", "above half"]
    return ["above half"]


def _stochastic_cases(precision: int, random_bits: int, operation: str, distance: int) -> list[str]:
    """The same where rounding is stochastic."""
    exact = ["exact"] if "exact" in _nearest_cases(precision, operation, distance) else []
    if operation == "subtract" and distance == 0:
        return exact
    if operation == "add" and distance > precision + random_bits - 1:  # below all random bits
        return [*exact, "down"]
    return [*exact, "down", "up"]


class AdderCoverage(Coverage):
    """Coverage of a float adder whose operands and sum have one format.

    Parameters
    ----------
    fmt
        Format of a, b and sum. It must have infinities and not saturate.
    rounding, random_bits
        The adder's parameters of these names.
    """

    def __init__(
        self, fmt: FloatFormat, rounding: Rounding | str = Rounding.NEAREST_EVEN, random_bits: int = 16
    ) -> None:
        self.format, self.rounding, self.random_bits = fmt, Rounding(rounding), random_bits
        # From here on the smaller operand is only a sticky bit.
        self.far = fmt.precision + 2 + (random_bits if self.rounding is Rounding.STOCHASTIC else 0)
        distances = [*range(self.far + 1), "beyond"]
        classes = operand_classes(fmt)
        points: dict[str, Iterable[str]] = {
            "operands": [f"{a} {b}" for a, b in product(classes, classes)],
            "alignment": [f"{op} {d}" for op in ("add", "subtract") for d in distances],
            "normalisation": [
                "add none",
                "add carry",
                *(f"subtract left {shift}" for shift in range(fmt.precision + 1)),
                "subtract stopped by the least exponent",
                "subtract to zero",
            ],
            "result": [
                sign + kind
                for kind in ("0", "subnormal", "smallest normal", "normal", "largest finite", "infinity")
                for sign in "+−"
            ]
            + ["NaN"],
            "zero by": ["+0 +0", "+0 −0", "−0 −0", "cancellation"],
            "NaN by": ["a", "b", "a and b", "infinity − infinity"],
            "NaN code": ["the one that arithmetic makes", "another", "another, sign set"],
            "overflow by": [f"{sign}{cause}" for cause in ("carry", "rounding") for sign in "+−"],
            "rounding carries": ["within the binade", "into the next binade"],
        }
        if self.rounding is Rounding.NEAREST_EVEN:
            points["rounding"] = [
                f"{op} {d}: {case}"
                for op in ("add", "subtract")
                for d in distances
                for case in _nearest_cases(fmt.precision, op, self.far if d == "beyond" else int(d))
            ]
        else:
            points["rounding"] = [
                f"{op} {d}: {case}"
                for op in ("add", "subtract")
                for d in distances
                for case in _stochastic_cases(
                    fmt.precision, random_bits, op, self.far if d == "beyond" else int(d)
                )
            ]
            points["random bits"] = [
                f"{op}: {case}"
                for op in ("add", "subtract")
                for case in ("up by one", "down by one", "bits below the random ones")
            ]
            points["random"] = ["zero", "all ones", "other"]
        super().__init__(points)

    def sample(self, a: int, b: int, random: int = 0) -> None:
        """Classify one addition of codes."""
        fmt = self.format
        class_a, class_b = operand_class(fmt, a), operand_class(fmt, b)
        self.hit("operands", f"{class_a} {class_b}")
        if self.rounding is Rounding.STOCHASTIC:
            top = (1 << self.random_bits) - 1
            self.hit("random", {0: "zero", top: "all ones"}.get(random, "other"))
        for code, kind in ((a, class_a), (b, class_b)):
            if kind == "NaN":
                other = "another, sign set" if code & fmt.sign_code else "another"
                self.hit("NaN code", "the one that arithmetic makes" if code == fmt.nan_code else other)
        if "NaN" in (class_a, class_b):
            self.hit("NaN by", "a and b" if class_a == class_b else "a" if class_a == "NaN" else "b")
            self.hit("result", "NaN")
        elif {class_a, class_b} == {"+infinity", "−infinity"}:
            self.hit("NaN by", "infinity − infinity")
            self.hit("result", "NaN")
        elif class_a.endswith("infinity") or class_b.endswith("infinity"):
            self.hit("result", class_a if class_a.endswith("infinity") else class_b)
        elif class_a.endswith("0") and class_b.endswith("0"):
            self.hit("zero by", " ".join(sorted((class_a, class_b))))
            self.hit("result", "−0" if class_a == class_b == "−0" else "+0")
        else:
            self._finite(a, b, random)

    def _finite(self, a: int, b: int, random: int) -> None:
        """Two finite codes, at most one of them a zero."""
        fmt, p = self.format, self.format.precision
        (sign_a, significand_a, power_a), (sign_b, significand_b, power_b) = _number(fmt, a), _number(fmt, b)
        base = min(power_a, power_b)
        wide_a, wide_b = significand_a << power_a - base, significand_b << power_b - base
        total = (-wide_a if sign_a else wide_a) + (-wide_b if sign_b else wide_b)
        if total == 0:
            self.hit("zero by", "cancellation")
            self.hit("result", "+0")
            self.hit("normalisation", "subtract to zero")
            self.hit("alignment", "subtract 0")
            if self._both_normal(significand_a, significand_b):
                self._rounding("subtract", 0, 0, 0, random)
            return
        sign, magnitude = "−" if total < 0 else "+", abs(total)
        dropped = max(magnitude.bit_length() - p, 0)
        kept = magnitude >> dropped
        rounded = round_magnitude(magnitude, dropped, self.rounding, random, self.random_bits)
        code = ((base + dropped - fmt.quantum_exponent) << fmt.mantissa_bits) + rounded
        if significand_a and significand_b:
            operation = "add" if sign_a == sign_b else "subtract"
            distance = abs(power_a - power_b)
            self.hit("alignment", f"{operation} {self._distance(distance)}")
            if self._both_normal(significand_a, significand_b):
                self._rounding(operation, distance, magnitude, dropped, random)
            carried = magnitude.bit_length() - max(wide_a, wide_b).bit_length()
            if operation == "add":
                self.hit("normalisation", "add carry" if carried else "add none")
            elif code < 1 << fmt.mantissa_bits:
                self.hit("normalisation", "subtract stopped by the least exponent")
            else:
                self.hit("normalisation", f"subtract left {-carried}")
        if rounded > kept:
            self.hit("rounding carries", "into the next binade" if rounded >> p else "within the binade")
        if code > fmt.max_code:
            truncated = ((base + dropped - fmt.quantum_exponent) << fmt.mantissa_bits) + kept
            self.hit("overflow by", sign + ("carry" if truncated > fmt.max_code else "rounding"))
            self.hit("result", f"{sign}infinity")
        else:
            smallest = 1 << fmt.mantissa_bits
            kind = (
                "subnormal"
                if code < smallest
                else "smallest normal"
                if code == smallest
                else "largest finite"
                if code == fmt.max_code
                else "normal"
            )
            self.hit("result", sign + kind)

    def _both_normal(self, significand_a: int, significand_b: int) -> bool:
        return min(significand_a, significand_b) >> self.format.mantissa_bits == 1

    def _distance(self, distance: int) -> int | str:
        return distance if distance <= self.far else "beyond"

    def _rounding(self, operation: str, distance: int, magnitude: int, dropped: int, random: int) -> None:
        rest, half = magnitude & ((1 << dropped) - 1), 1 << dropped >> 1
        if self.rounding is Rounding.NEAREST_EVEN:
            tie = "tie to odd raised" if magnitude >> dropped & 1 else "tie to even kept"
            case = (
                "exact"
                if rest == 0
                else "below half"
                if rest < half
                else "above half"
                if rest > half
                else tie
            )
            self.hit("rounding", f"{operation} {self._distance(distance)}: {case}")
            return
        if rest == 0:
            self.hit("rounding", f"{operation} {self._distance(distance)}: exact")
            return
        aligned = rest << self.random_bits
        fraction, below = aligned >> dropped, aligned & ((1 << dropped) - 1)
        short = (1 << self.random_bits) - fraction - random  # what is missing to round up
        self.hit("rounding", f"{operation} {self._distance(distance)}: " + ("up" if short <= 0 else "down"))
        if short in (0, 1):
            self.hit("random bits", f"{operation}: " + ("down by one" if short else "up by one"))
        if below:
            self.hit("random bits", f"{operation}: bits below the random ones")


def _in_time(lanes: int) -> dict[str, Iterable[str]]:
    """What a schedule of `quaver.sim.benches.element` varies, whatever the numbers are."""
    return {
        "chunk length": ["1", "2", "3", "between", "chunk"],
        "chunks": ["1", "2", "3 and more"],
        "bubble": ["before a chunk", "within a chunk", "before a fold", "a whole step"],
        "lane": [str(lane) for lane in range(lanes)],
        "shift": [
            "at once",
            "later",
            "interrupted",
            "no two totals alike",
            "passes on what comes from above",
        ],
    }


class PECoverage(Coverage):
    """Coverage of the processing element of a chunked_float arithmetic.

    Parameters
    ----------
    arithmetic
        Its accumulator must have infinities and hold every product.
    lanes
        Outputs that the element works on in turn.
    """

    def __init__(self, arithmetic: ChunkedFloat, lanes: int) -> None:
        self.arithmetic = arithmetic
        fmt = arithmetic.accumulator
        self._sums = AdderCoverage(fmt, arithmetic.rounding, arithmetic.random_bits)
        addends = operand_classes(fmt)
        sums = [name for name in addends if name != "−0"]  # a sum starts at +0, and never becomes −0
        cases = (
            ("exact", "below half", "tie to even kept", "tie to odd raised", "above half")
            if self._sums.rounding is Rounding.NEAREST_EVEN
            else ("exact", "down", "up")
        )
        super().__init__(
            {
                "partial + product": [f"{x} {y}" for x, y in product(sums, addends)],
                "fold, first": sums,
                "fold, next: total": sums,
                "fold, next: partial": sums,
                "rounding": [f"{op}: {case}" for op in ("add", "subtract") for case in cases],
                "normalisation": [
                    "add none",
                    "add carry",
                    *(f"subtract left {n}" for n in ("0", "1", "2", "3 and more")),
                    "subtract stopped by the least exponent",
                    "subtract to zero",
                ],
                "rounding carries": ["within the binade", "into the next binade"],
                "overflow": ["+", "−"],
                "NaN by": ["operand", "infinity · 0", "infinity − infinity", "partial"],
                "bubble on": ["+0", "finite", "infinity", "NaN"],
                **_in_time(lanes),
            }
        )

    def multiply(self, partial: int, a: int, b: int, addend: int, random: int) -> None:
        """A product of codes `a` and `b`, which is the accumulator's code `addend`, goes to `partial`."""
        fmt, operand = self.arithmetic.accumulator, self.arithmetic.operand
        x, y = operand_class(fmt, partial), operand_class(fmt, addend)
        self.hit("partial + product", f"{x} {y}")
        if y == "NaN":
            kinds = (operand_class(operand, a), operand_class(operand, b))
            self.hit("NaN by", "operand" if "NaN" in kinds else "infinity · 0")
        elif x == "NaN":
            self.hit("NaN by", "partial")
        elif {x, y} == {"+infinity", "−infinity"}:
            self.hit("NaN by", "infinity − infinity")
        self._sum(partial, addend, random)

    def fold(self, total: int, partial: int, first: bool, random: int) -> None:
        """`partial` goes to `total`, or to +0 with `first`."""
        fmt = self.arithmetic.accumulator
        if first:
            self.hit("fold, first", operand_class(fmt, partial))
            return
        self.hit("fold, next: total", operand_class(fmt, total))
        self.hit("fold, next: partial", operand_class(fmt, partial))
        self._sum(total, partial, random)

    def bubble(self, partial: int) -> None:
        """A bubble meets `partial`."""
        kind = operand_class(self.arithmetic.accumulator, partial).lstrip("+−")
        self.hit("bubble on", {"0": "+0", "infinity": kind, "NaN": kind}.get(kind, "finite"))

    def _sum(self, x: int, y: int, random: int) -> None:
        sums = self._sums
        before = {point: dict(sums.counts[point]) for point in ("rounding", "normalisation")}
        sums.sample(x, y, random)
        for name, n in sums.counts["rounding"].items():
            if n > before["rounding"][name]:
                operation, case = name.split(": ")
                point = f"{operation.split()[0]}: {case}"
                if point in self.counts["rounding"]:
                    self.hit("rounding", point)
        for name, n in sums.counts["normalisation"].items():
            if n > before["normalisation"][name]:
                deep = name.startswith("subtract left") and int(name.split()[-1]) >= 3
                self.hit("normalisation", "subtract left 3 and more" if deep else name)

    def close(self) -> None:
        """Take over what the sums' own coverage has counted."""
        self.counts["rounding carries"] = dict(self._sums.counts["rounding carries"])
        for name, n in self._sums.counts["overflow by"].items():
            self.counts["overflow"][name[0]] += n


class AlignedCoverage(Coverage):
    """Coverage of the processing element of an aligned_float arithmetic.

    Parameters
    ----------
    arithmetic
        Its totals must hold its sums, and terms be truncated.
    lanes
        Outputs that the element works on in turn.
    """

    def __init__(self, arithmetic: AlignedFloat, lanes: int) -> None:
        self.arithmetic = arithmetic
        a, b, acc = arithmetic.a, arithmetic.b, arithmetic.accumulator
        infinite = None not in (a.infinity_code, b.infinity_code)
        most = arithmetic.chunk * Fraction(a.max_value) * Fraction(b.max_value)
        overflows = most >= Fraction(2) ** (acc.max_exponent + 1)
        subnormal = a.min_exponent + b.min_exponent - arithmetic.fraction_bits < acc.min_exponent

        def reached(fmt: FloatFormat) -> list[str]:
            """Classes of sums: the sum of no numbers is −0."""
            absent = {"−0"} | ({"+infinity", "−infinity"} if not infinite and not overflows else set())
            gradual = subnormal and fmt.min_exponent >= acc.min_exponent
            absent |= set() if gradual else {"+subnormal", "−subnormal"}
            return [name for name in operand_classes(fmt) if name not in absent]

        several = arithmetic.group > 1
        specials = ["operand", "sum"]
        specials += ["infinity · 0"] * infinite + ["two products"] * (infinite and several)
        specials += ["product and sum"] * infinite
        cuts = ["exact", "below half", "tie to even kept", "tie to odd raised", "above half"]
        if arithmetic.rounding is Rounding.TOWARD_ZERO:
            cuts = ["exact", "loses bits"]
        super().__init__(
            {
                "sum before": reached(acc),
                "largest exponent": ["a product", "the sum", "both", "none"],
                "alignment": [
                    f"{term} {what}"
                    for term in ("product", "sum")
                    for what in ("whole", "loses bits", "below the last bit")
                ],
                "leading bit": ["carry 2 and more", "carry 1", "in place", "left 1", "left 2 and more"],
                "zero by": ["zeros", "cancellation"],
                "cut": cuts,
                "new sum": reached(acc),
                "overflow": ["+", "−"] * overflows,
                "NaN by": specials,
                "fold, first": reached(acc),
                "fold, next: total": reached(arithmetic.total),
                "fold, next: partial": reached(acc),
                "bubble on": ["+0", "finite"] + ["infinity"] * (infinite or overflows) + ["NaN"],
                **_in_time(lanes),
            }
        )

    def step(self, partial: int, pairs: Sequence[tuple[int, int]], new: int) -> None:
        """A group of products of `pairs` makes `new` of `partial`."""
        ar = self.arithmetic
        acc = ar.accumulator
        before = operand_class(acc, partial)
        self.hit("sum before", before)
        self.hit("new sum", operand_class(acc, new))
        products = [exact.multiply(exact.decode(ar.a, a), exact.decode(ar.b, b)) for a, b in pairs]
        infinite = {value for value in products if value in (float("inf"), float("-inf"))}
        if operand_class(acc, new) == "NaN":
            classes = [(operand_class(ar.a, a), operand_class(ar.b, b)) for a, b in pairs]
            if before == "NaN":
                self.hit("NaN by", "sum")
            elif any("NaN" in pair for pair in classes):
                self.hit("NaN by", "operand")
            elif any(value != value for value in products):
                self.hit("NaN by", "infinity · 0")
            else:
                self.hit("NaN by", "two products" if len(infinite) == 2 else "product and sum")
        elif before in ("+infinity", "−infinity") or infinite:
            return
        else:
            self._finite(partial, pairs, products, new)

    def _finite(
        self, partial: int, pairs: Sequence[tuple[int, int]], products: Sequence[exact.Exact], new: int
    ) -> None:
        ar = self.arithmetic
        acc, F = ar.accumulator, ar.fraction_bits
        exponents = [_exponent(ar.a, a) + _exponent(ar.b, b) for a, b in pairs]
        terms = [(x, e, "product") for x, e in zip(products, exponents, strict=True) if x]
        own = exact.decode(acc, partial)
        top = max((e for _, e, _ in terms), default=None)
        if own:
            e = _exponent(acc, partial)
            who = "the sum" if top is None or e > top else "both" if e == top else "a product"
            terms.append((own, e, "sum"))
        else:
            who = "none" if top is None else "a product"
        self.hit("largest exponent", who)
        if not terms:
            self.hit("zero by", "zeros")
            return
        unit = Fraction(2) ** (max(e for _, e, _ in terms) - F)
        total = 0
        for x, _, kind in terms:
            scaled = abs(Fraction(x)) / unit
            whole = scaled.numerator // scaled.denominator
            lost = "whole" if whole == scaled else "loses bits" if whole else "below the last bit"
            self.hit("alignment", f"{kind} {lost}")
            total += whole if x > 0 else -whole
        if total == 0:
            self.hit("zero by", "cancellation")
            return
        up = abs(total).bit_length() - 1 - F
        names = {1: "carry 1", 0: "in place", -1: "left 1"}
        self.hit("leading bit", names.get(up, "carry 2 and more" if up > 0 else "left 2 and more"))
        value = abs(total) * unit
        if operand_class(acc, new).endswith("infinity"):
            self.hit("overflow", "+" if total > 0 else "−")
            return
        step = Fraction(2) ** max(acc.quantum_exponent, up + _log2(unit) + F - acc.mantissa_bits)
        kept, rest = divmod(value, step)
        if ar.rounding is Rounding.TOWARD_ZERO:
            self.hit("cut", "loses bits" if rest else "exact")
        elif rest == step / 2:
            self.hit("cut", "tie to odd raised" if kept & 1 else "tie to even kept")
        else:
            self.hit("cut", "exact" if not rest else "below half" if rest < step / 2 else "above half")

    def fold(self, total: int, partial: int, first: bool) -> None:
        """`partial` goes to `total`, or to +0 with `first`."""
        kind = operand_class(self.arithmetic.accumulator, partial)
        if first:
            self.hit("fold, first", kind)
            return
        self.hit("fold, next: total", operand_class(self.arithmetic.total, total))
        self.hit("fold, next: partial", kind)

    def bubble(self, partial: int) -> None:
        """A bubble meets `partial`."""
        kind = operand_class(self.arithmetic.accumulator, partial).lstrip("+−")
        self.hit("bubble on", {"0": "+0", "infinity": kind, "NaN": kind}.get(kind, "finite"))


def _exponent(fmt: FloatFormat, code: int) -> int:
    field = (code & (fmt.sign_code - 1)) >> fmt.mantissa_bits
    return max(field - fmt.bias, fmt.min_exponent)


def _log2(power: Fraction) -> int:
    return power.numerator.bit_length() - power.denominator.bit_length()
