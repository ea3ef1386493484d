"""Who computes GEMMs and updates: the golden model, or inside `with engine(E)` any `quaver.Engine`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from quaver.golden.contracts import Arithmetic, Codes, UpdateRule
from quaver.golden.engine import Engine, GoldenEngine
from quaver.golden.nn.compare import Comparison, Tally, hold
from quaver.golden.nn.run import Call

_engines: list[Engine] = [GoldenEngine()]


def current() -> Engine:
    """The engine of the innermost `engine` block."""
    return _engines[-1]


@contextmanager
def engine(which: Engine) -> Iterator[None]:
    """Inside, `which` computes every GEMM and every update of CPU tensors, for all threads of the process.

    A board computes the one arithmetic that it was built for, and says so when it is given another: convert
    the model with a recipe whose GEMMs all have it, such as `quaver.recipes.fp8_everywhere`. Float32 products
    (a recipe's GEMMs without an arithmetic) and what lies between GEMMs never reach an engine.
    """
    _engines.append(which)
    try:
        yield
    finally:
        _engines.pop()


def compare(run: Callable[[], Any], left: Engine, right: Engine) -> Comparison:
    """Call `run`, with every GEMM and update in it computed on both engines, and hold the codes of one
    against the other's.

    `run` is a training step, an evaluation, or whatever calls Quaver; it goes on with `left`'s results.

    ValueError: it made no call, so that there was nothing to compare.
    """
    both = _Both(left, right)
    with engine(both):
        run()
    if not both.tallies:
        raise ValueError("nothing called an engine, so that there is nothing to compare; convert the model")
    both.comparison.tallies = list(both.tallies.values())
    return both.comparison


class _Both:
    """An engine that is two."""

    def __init__(self, left: Engine, right: Engine) -> None:
        self.left, self.right = left, right
        self.comparison = Comparison(steps=1)
        self.tallies: dict[tuple[str, str, tuple[int, ...]], Tally] = {}

    def _hold(self, role: str, rule: Any, operands: tuple[Codes, ...], results: list[Any]) -> None:
        name = type(rule).__name__
        calls = [Call(0, name, role, rule, operands, one) for one in results]
        hold(calls[0], calls[1], self.tallies, self.comparison)

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        results = [(e.gemm(arithmetic, a_codes, b_codes, seed=seed),) for e in (self.left, self.right)]
        self._hold("gemm", arithmetic, (a_codes, b_codes), results)
        return results[0][0]

    def update(
        self, rule: UpdateRule, weights: Codes, momenta: Codes, gradients: Codes, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        operands = weights, momenta, gradients
        results = [e.update(rule, *operands, seed=seed) for e in (self.left, self.right)]
        self._hold("update", rule, operands, results)
        return results[0]
