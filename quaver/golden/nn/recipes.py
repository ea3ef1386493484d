"""The recipes that have names: float32, FP8, FP8 less each of its ingredients, hybrids, fixed point, PACT,
bit streams."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from quaver.golden.arithmetic.aligned_float import AlignedFloat
from quaver.golden.arithmetic.bitstream import Bitstream
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS, ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.formats import (
    BFLOAT16,
    BLOCK_FORMATS,
    DLFLOAT,
    E4M3,
    FP8,
    FP16,
    FP32,
    HALF,
    FixedFormat,
    FloatFormat,
    hfp8,
)
from quaver.golden.nn.quantisers import Clip, DoReFaWeights, FullScale, SAWBWeights
from quaver.golden.nn.recipe import FixedUpdatePrecision, LossScale, Precision, Recipe, UpdatePrecision
from quaver.golden.rounding import Rounding

#: The narrowest format that holds every value of 1-4-3 and of 1-5-2: nine bits.
E5M3 = FloatFormat(5, 3, saturate=True)

_FP8 = ChunkedFloat(operand=FP8, accumulator=FP16, chunk=64)
_FP16 = ChunkedFloat(operand=FP16, accumulator=FP16, chunk=64)

#: Everything in float32, no loss scale: what FP8 is measured against.
fp32 = Recipe("fp32")

#: After Wang et al. 2018: FP8 GEMMs that accumulate in FP16 in chunks of 64, FP16 images, an FP16 last layer,
#: FP16 updates with stochastic rounding, the loss scaled by 1000.
fp8 = Recipe(
    "fp8",
    hidden=Precision(_FP8, _FP8, _FP8),
    first=Precision(_FP16, _FP8, _FP16, inputs=FP16, weights=FP8, errors=FP8),
    last=Precision(_FP16, _FP16, _FP16),
    elementwise=FP16,
    update=UpdatePrecision(FP16, Rounding.STOCHASTIC),
    loss_scale=LossScale(1000.0),
)

#: Ablations: the FP8 recipe with one of its ingredients left out.
fp8_no_chunks = fp8.with_gemms("fp8-no-chunks", chunk=NO_CHUNKS)
fp8_nearest_update = fp8.replace(
    name="fp8-nearest-update", update=UpdatePrecision(FP16, Rounding.NEAREST_EVEN)
)
fp8_last_layer = fp8.replace(name="fp8-last-layer", last=None)
fp8_images = fp8.replace(name="fp8-images", first=None)
#: FP8 in every GEMM: a recipe that hardware with FP8 operands alone can compute completely.
fp8_everywhere = fp8.replace(name="fp8-everywhere", first=None, last=None)


def _hybrid(name: str, forward: FloatFormat) -> Recipe:
    """`forward` for activations and weights, FP8 for errors; GEMMs of both take a format that holds both."""
    both = replace(_FP8, operand=E5M3)
    hidden = Precision(replace(_FP8, operand=forward), both, both, forward, forward, FP8)
    return fp8.replace(name=name, hidden=hidden, first=Precision(_FP16, both, _FP16, FP16, forward, FP8))


#: The FP8 recipe, and FP8 in every GEMM, with every sum of the accumulators rounded stochastically.
fp8_stochastic = fp8.with_gemms("fp8-stochastic", rounding=Rounding.STOCHASTIC)
fp8_everywhere_stochastic = fp8_everywhere.with_gemms(
    "fp8-everywhere-stochastic", rounding=Rounding.STOCHASTIC
)

#: After hybrid FP8 (Sun et al., NeurIPS 2019): 1-4-3 forward, with a bias of 7, and 1-5-2 backward.
hybrid_fp8 = _hybrid("hybrid-fp8", hfp8())
#: The same with the OCP formats E4M3 and E5M2.
ocp_fp8 = _hybrid("ocp-fp8", E4M3)


def _on_hopper(name: str, chunk: int) -> Recipe:
    """The FP8 recipe on an H100's tensor cores, its FP8 products in chunks of `chunk`.

    There is no (1,6,9) there: GEMMs of 16 bits take IEEE's half precision.
    """
    narrow = AlignedFloat(FP8, FP8, chunk=chunk)
    wide = AlignedFloat(HALF, HALF, 16, 25, FP32, NO_CHUNKS)
    return fp8.replace(
        name=name,
        hidden=Precision(narrow, narrow, narrow),
        first=Precision(wide, narrow, wide, inputs=HALF, weights=FP8, errors=FP8),
        last=Precision(wide, wide, wide),
    )


#: The FP8 recipe with the GEMMs of an H100: sums of FP8 products in (1,8,13), truncated, that are promoted to
#: float32 every 128 products, or never. Everything else is as in `fp8`.
fp8_hopper = _on_hopper("fp8-hopper", 128)
fp8_hopper_fast = _on_hopper("fp8-hopper-fast", NO_CHUNKS)


def _in_blocks(name: str, forward: str, backward: str) -> Recipe:
    """Operands in blocks with a scale each, whose values are multiplied as bfloat16 on Blackwell's units."""
    gemm = AlignedFloat(BFLOAT16, BFLOAT16, 16, 25, FP32, NO_CHUNKS)
    numbers, errors = BLOCK_FORMATS[forward], BLOCK_FORMATS[backward]
    plain = Precision(gemm, gemm, gemm)
    hidden = replace(plain, inputs=numbers, weights=numbers, errors=errors)
    return fp8.replace(name=name, hidden=hidden, first=plain, last=plain)


#: Operands in OCP's MXFP8, E4M3 forward and E5M2 for errors, and in NVFP4; first and last layer in bfloat16.
mxfp8 = _in_blocks("mxfp8", "mxfp8-e4m3", "mxfp8-e5m2")
nvfp4 = _in_blocks("nvfp4", "nvfp4", "nvfp4")

_DLFLOAT = ChunkedFloat(operand=DLFLOAT, accumulator=DLFLOAT, chunk=NO_CHUNKS)

#: Everything in DLFloat, rounded to nearest, without chunks and without a loss scale: after Agrawal et al.
#: 2019. The paper does not say how its own trainings kept the weights.
dlfloat = Recipe(
    "dlfloat",
    hidden=Precision(_DLFLOAT, _DLFLOAT, _DLFLOAT),
    elementwise=DLFLOAT,
    update=UpdatePrecision(DLFLOAT, Rounding.NEAREST_EVEN),
)


def fixed(
    name: str,
    width: int = 16,
    fraction_bits: int = 12,
    *,
    activation_bits: int = 10,
    rounding: Rounding = Rounding.STOCHASTIC,
    later: Recipe | None = None,
) -> Recipe:
    """Fixed point of `width` bits after Gupta et al. 2015 (arXiv 1502.02551, §4).

    Weights, weight updates and errors have `fraction_bits`; activations have `activation_bits` fraction bits,
    usually fewer, because they reach further than weights. Gradients, which are sums over the batch, have 8
    integer bits before they are divided by the loss scale. Every GEMM and both lines of the update round by
    `rounding`. Between GEMMs everything is float32, and is rounded to nearest where it enters the next GEMM.
    `later` is the recipe of the last epochs, if there is one.
    """
    activations = FixedFormat(width - activation_bits, activation_bits)
    weights = errors = updates = FixedFormat(width - fraction_bits, fraction_bits)
    gradients = FixedFormat(8, width - 8)

    def gemm(a: FixedFormat, b: FixedFormat, result: FixedFormat) -> FixedPoint:
        # Sums of up to 2**17 products.
        return FixedPoint(a, b, result, rounding, accumulator_bits=2 * width + 16)

    scale = 6  # a power of two: the loss scale moves the binary point and no bit
    return Recipe(
        name,
        hidden=Precision(
            gemm(activations, weights, activations),
            gemm(errors, weights, errors),
            gemm(activations, errors, gradients),
            *(activations, weights, errors),
        ),
        update=FixedUpdatePrecision(
            weights, updates, FixedFormat(8 - scale, width - 8 + scale), Rounding(rounding)
        ),
        loss_scale=LossScale(2.0**scale),
        later=later,
    )


#: 20-bit fixed point, in which 16-bit training may spend its last epochs.
fixed20 = fixed("fixed20", 20, 16, activation_bits=14)
#: 16-bit fixed point with stochastic rounding, which goes on with 20 bits from `Settings.later_at` on if that
#: is set; and the same with rounding to nearest.
fixed16 = fixed("fixed16", later=fixed20)
fixed16_nearest = fixed("fixed16-nearest", rounding=Rounding.NEAREST_EVEN)
#: ⟨8,8⟩ in every GEMM: a recipe that one accelerator can compute completely.
fixed16_q8_8 = fixed("fixed16-q8.8", fraction_bits=8, activation_bits=8)


def quantised(
    name: str,
    inputs: Clip,
    weights: DoReFaWeights | SAWBWeights,
    *,
    edges: tuple[Precision, Precision] | None = None,
) -> Recipe:
    """A few bits in the forward GEMMs of the hidden layers, exact, and float32 everywhere else.

    After Choi et al. 2018 (arXiv 1805.06085): quantised inputs and weights, whose values the other two GEMMs
    take in float32. `edges`: how the first and the last layer compute; None: in float32, as in the paper.
    The recipes below keep the size of DoReFa's weights: where normalisation follows, it is the same network,
    and where none does, the sums would be several times too large.
    """
    first, last = edges or (Precision(), Precision())
    return Recipe(name, hidden=_quantised(inputs, weights), first=first, last=last)


def _quantised(inputs: Clip, weights: DoReFaWeights | SAWBWeights) -> Precision:
    return Precision(Integer.of(inputs.format, weights.format), inputs=inputs, weights=weights)


#: First and last layer in 8 bits: an image clipped at four standard deviations; α learned for the last.
_EDGES = (
    _quantised(Clip(8, alpha=4.0, learned=False, signed=True), DoReFaWeights(8, scaled=True)),
    _quantised(Clip(8), DoReFaWeights(8, scaled=True)),
)
_BITS = (2, 3, 4, 5)

#: PACT, and the same with SAWB's weights in place of DoReFa's.
pact = {k: quantised(f"pact-{k}", Clip(k), DoReFaWeights(k, scaled=True)) for k in _BITS}
pact_sawb = {k: quantised(f"pact-sawb-{k}", Clip(k), SAWBWeights(k)) for k in _BITS}
#: What PACT is measured against: activations clipped at a fixed 1 (DoReFa), or at 6.
dorefa = {
    k: quantised(f"dorefa-{k}", Clip(k, 1.0, learned=False), DoReFaWeights(k, scaled=True)) for k in _BITS
}
relu6 = {
    k: quantised(f"relu6-{k}", Clip(k, 6.0, learned=False), DoReFaWeights(k, scaled=True)) for k in _BITS
}
#: No layer in float32: the first and the last in 8 bits.
pact_everywhere = {
    k: quantised(f"pact-{k}-everywhere", Clip(k), DoReFaWeights(k, scaled=True), edges=_EDGES) for k in _BITS
}


def streams(name: str, arithmetic: Bitstream, *, everywhere: bool = False) -> Recipe:
    """Every forward GEMM by bit streams, its operands at full scale, and float32 everywhere else.

    After Gupta, Sindhwani and Gopalakrishnan 2014 (arXiv 1409.2620); the other two GEMMs take the operands as
    they were rounded for the streams, and the results without noise have their derivatives. `everywhere`:
    they are by bit streams too, of which the errors are at full scale as well.
    """
    a, b = FullScale(arithmetic.a.bits), FullScale(arithmetic.b.bits)
    if everywhere:
        return Recipe(name, hidden=Precision(arithmetic, arithmetic, arithmetic, a, b, errors=a))
    return Recipe(name, hidden=Precision(arithmetic, inputs=a, weights=b))


#: Streams of so many bits, AND gates and up/down counters.
_LENGTHS = tuple(1 << k for k in range(4, 13))
bitstream = {n: streams(f"bitstream-{n}", Bitstream(length=n)) for n in _LENGTHS}
#: The same in all three GEMMs.
bitstream_everywhere = {
    n: streams(f"bitstream-{n}-everywhere", Bitstream(length=n), everywhere=True) for n in _LENGTHS
}

_ALL = (
    *(fp32, fp8, fp8_no_chunks, fp8_nearest_update, fp8_last_layer, fp8_images, fp8_everywhere),
    *(fp8_stochastic, fp8_everywhere_stochastic, fp8_hopper, fp8_hopper_fast, mxfp8, nvfp4),
    *(hybrid_fp8, ocp_fp8, dlfloat, fixed16, fixed16_nearest, fixed16_q8_8, fixed20),
    *(
        one
        for family in (pact, pact_sawb, dorefa, relu6, pact_everywhere, bitstream, bitstream_everywhere)
        for one in family.values()
    ),
)
RECIPES = {r.name: r for r in _ALL}


def recipe(name: str) -> Recipe:
    """The recipe called `name`. ValueError: there is none."""
    if name not in RECIPES:
        close = get_close_matches(name, RECIPES)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"the recipe is {name!r}, but there are {', '.join(RECIPES)}{meant}")
    return RECIPES[name]
