"""Block formats: small numbers that share a scale, as MX and NVFP4 have them, as casts of operands.

A block is so many consecutive numbers along the axis that a dot product sums up. What enters a GEMM is each
element times its block's scale, a value that any operand format of a wider range holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.float_environment import standard_floats
from quaver.golden.formats.float import E4M3, FP8, FP32, FloatFormat
from quaver.golden.formats.packed import CodeSpace, PackedFormat
from quaver.golden.rounding import Rounding
from quaver.golden.validation import Choice, set_integers


class Scale(Choice):
    """What the blocks' scales are."""

    E8M0 = "e8m0"
    """A power of two, 2**-127 … 2**127, code 255 is NaN: 2**(floor(log2 of the largest magnitude) − the
    elements' largest exponent) (OCP Microscaling Formats 1.0, §6.3)."""
    E4M3 = "e4m3"
    """NVFP4's: the largest magnitude over the elements' largest value, rounded to E4M3, after the whole
    tensor was divided by a float32 that takes its largest magnitude to 448 · 6. None of them is 0: the
    smallest is 2**-9."""


@dataclass(frozen=True)
class BlockFormat:
    """Blocks of elements with a scale each.

    Parameters
    ----------
    element
        Format of the elements, which saturate.
    block
        Elements that share a scale, at least 1; the last block along an axis may be short.
    scale
        A `Scale`.
    """

    element: FloatFormat | PackedFormat
    block: int = 32
    scale: Scale = Scale.E8M0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", Scale(self.scale))
        if not isinstance(self.element, FloatFormat | PackedFormat) or not self.element.saturate:
            raise TypeError(f"element is {self.element}, but it must be a float that saturates, e.g. e2m1mx")
        set_integers(self, "block")
        if self.block < 1:
            raise ValueError(f"block is {self.block}, but a block has at least 1 element")

    @standard_floats
    def encode(
        self, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN, *, axis: int = -1
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger], float]:
        """Codes of the elements, in the shape of `values`; of the scales, `axis` one for each block; and the
        tensor's scale, which is 1 for E8M0.

        A block that holds infinity or NaN has the scale NaN. ValueError: there is no axis, or a rounding that
        draws, for which there are no bits here.
        """
        if Rounding(rounding).draws:
            raise ValueError(
                f"rounding is {rounding}, but blocks draw no random bits; take nearest or truncate"
            )
        x = np.asarray(values, np.float64)
        if not x.ndim:
            raise ValueError("values have no axis for blocks to lie along; give an array of one axis or more")
        x = np.moveaxis(x, axis, -1)
        count = x.shape[-1]
        block = min(self.block, max(count, 1))
        padded = np.zeros((*x.shape[:-1], -(-count // block) * block))
        padded[..., :count] = x
        blocks = padded.reshape(*x.shape[:-1], -1, block)
        largest = np.abs(blocks).max(-1, initial=0)
        bad = ~np.isfinite(largest)
        tensor = 1.0
        if self.scale is Scale.E8M0:
            _, exponents = np.frexp(np.where(bad | (largest == 0), 1.0, largest))
            exponents = np.where(largest == 0, -127, exponents - 1 - self.element.max_exponent)
            codes = np.where(bad, 255, np.clip(exponents, -127, 127) + 127).astype(np.uint8)
        else:
            top = float(largest[~bad].max(initial=0)) / (E4M3.max_value * self.element.max_value)
            tensor = float(np.float32(min(top, FP32.max_value))) or 1.0
            codes = np.maximum(E4M3.encode(largest / tensor / self.element.max_value), 1)
            codes = np.where(bad, E4M3.nan_code, codes).astype(np.uint8)
        scales = np.where(bad, 1.0, self.scales(codes)) * tensor
        scaled = np.where(bad[..., None], 0.0, blocks) / scales[..., None]
        elements = self.element.encode(scaled, rounding).reshape(padded.shape)[..., :count]
        return np.moveaxis(elements, -1, axis), np.moveaxis(codes, -1, axis), tensor

    def scales(self, codes: ArrayLike) -> NDArray[np.floating]:
        """What codes of scales, 0 … 255, mean, without the tensor's: float64."""
        codes = E4M3.check_codes(codes, "scales")  # both kinds have 8 bits
        if self.scale is Scale.E4M3:
            return E4M3.decode(codes).astype(np.float64)
        exponents = codes.astype(np.int64) - 127
        return np.where(exponents == 128, np.nan, np.exp2(exponents.astype(np.float64)))

    @standard_floats
    def decode(
        self, codes: ArrayLike, scales: ArrayLike, tensor: float = 1.0, *, axis: int = -1
    ) -> NDArray[np.float64]:
        """The values of what `encode` gave. ValueError: there is not one scale for each block."""
        elements = np.moveaxis(self.element.decode(codes), axis, -1).astype(np.float64)
        own = np.moveaxis(self.scales(scales), axis, -1)
        count = elements.shape[-1]
        wanted = (*elements.shape[:-1], -(-count // self.block))
        if own.shape != wanted:
            raise ValueError(
                f"scales are of {own.shape} blocks, but elements in blocks of {self.block} are of {wanted} "
                f"(the axis of the blocks last); give the scales that encode gave"
            )
        each = np.repeat(own, min(self.block, max(count, 1)), -1)
        return np.moveaxis(elements * (each[..., :count] * tensor), -1, axis)

    def round(
        self, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN, *, axis: int = -1
    ) -> NDArray[np.float64]:
        """The values moved onto the grids of their blocks."""
        return self.decode(*self.encode(values, rounding, axis=axis), axis=axis)

    def __str__(self) -> str:
        return next(
            (name for name, one in BLOCK_FORMATS.items() if one == self),
            f"{self.element} in blocks of {self.block}, scales {self.scale}",
        )


def _mx(exponent_bits: int, mantissa_bits: int) -> PackedFormat:
    return PackedFormat(exponent_bits, mantissa_bits, CodeSpace.MX)


#: The block formats that have a name.
BLOCK_FORMATS: dict[str, BlockFormat] = {
    "mxfp8-e4m3": BlockFormat(E4M3),
    "mxfp8-e5m2": BlockFormat(FP8),
    "mxfp6-e2m3": BlockFormat(_mx(2, 3)),
    "mxfp6-e3m2": BlockFormat(_mx(3, 2)),
    "mxfp4": BlockFormat(_mx(2, 1)),
    "nvfp4": BlockFormat(_mx(2, 1), 16, Scale.E4M3),
}
