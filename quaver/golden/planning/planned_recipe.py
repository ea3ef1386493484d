"""A recipe that sums as a plan says: each GEMM with the accumulator that its length needs."""

from __future__ import annotations

from dataclasses import replace

from quaver.golden.arithmetic.chunked_float import NO_CHUNKS, ChunkedFloat
from quaver.golden.nn.recipe import Recipe, Role
from quaver.golden.planning.plan import GemmPlan, Plan
from quaver.golden.planning.variance_retention import product_mantissa_bits


def planned(recipe: Recipe, plan: Plan, *, chunks: bool = True, narrower: int = 0) -> Recipe:
    """`recipe` with the mantissa bits and the chunk that `plan` has for each GEMM of each layer.

    A GEMM whose products have other mantissa bits than the plan's keeps what the recipe says. In
    `recipes.fp8` these are the GEMMs of FP16 operands, in the first layer and in the last one. The new
    recipe's name contains the plan's chunk where the recipe's was another.

    Parameters
    ----------
    recipe
        Where everything comes from that the plan does not say.
    plan
        The plan of the network that will be trained.
    chunks
        Whether to take the plan's widths for sums in chunks, or those for sums without.
    narrower
        Mantissa bits that every accumulator has fewer than planned, to find out how tight the plan is.

    Raises
    ------
    ValueError
        No GEMM of the recipe has the plan's products, or no mantissa bit would be left.
    """
    if narrower < 0:
        raise ValueError(f"narrower is {narrower}, but it is how many bits fewer, 0 or more")

    def changed(gemm: ChunkedFloat, of: GemmPlan, layer: str) -> ChunkedFloat:
        width = of.chunked if chunks else of.plain
        bits = width.mantissa_bits - narrower
        if bits < 1:
            raise ValueError(
                f"narrower is {narrower}, but the {of.role} GEMM of {layer} is planned with "
                f"{width.mantissa_bits} bits, of which at least 1 must stay"
            )
        return replace(
            gemm, accumulator=gemm.accumulator.replace(mantissa_bits=bits), chunk=width.chunk or NO_CHUNKS
        )

    layers = {}
    chunk = (plan.chunked if chunks else plan.plain).chunk or NO_CHUNKS
    others = False  # does a planned GEMM sum in other chunks than the recipe's?
    for number, layer in enumerate(plan.layers, start=1):
        name = layer.shape.name
        precision = recipe.precision(name, first=number == 1, last=number == len(plan.layers))
        gemms = {
            gemm.role: changed(arithmetic, gemm, name)
            for gemm in layer.gemms
            if isinstance(arithmetic := getattr(precision, Role(gemm.role)), ChunkedFloat)
            and product_mantissa_bits(arithmetic.operand) == plan.product_mantissa
        }
        if gemms:
            layers[name] = replace(precision, **gemms)  # type: ignore[arg-type]
            others |= any(getattr(precision, role).chunk != chunk for role in gemms)
    if not layers:
        raise ValueError(
            f"the plan is for products of {plan.product_mantissa} mantissa bits, but the recipe "
            f"{recipe.name} has no such GEMM; take fp8"
        )
    name = f"{recipe.name}-planned"
    if others:
        name += f"-chunk-{chunk}" if chunks else "-no-chunks"
    return recipe.replace(name=name + (f"-narrower-{narrower}" if narrower else ""), layers=layers)
