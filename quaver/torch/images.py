"""What a convolution's kernel sees: im2col, in memory, or as the loader of the CUDA kernels computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from torch import Size, Tensor

Pair = tuple[int, int]
Margins = tuple[int, int, int, int]
"""Zeros left, right, above and below an image, as ``torch.nn.functional.pad`` orders them."""


@dataclass(frozen=True)
class View:
    """Where a kernel stands on images, and what lies under it there.

    Of pairs, the first is along the rows. Tap t of the kernel at place p lies on pixel (stride · p +
    dilation · t − margin) / spread, if there is such a pixel, and else on zero. The code 0 is zero in every
    format of such images.

    Attributes
    ----------
    size, places
        Taps of the kernel, and at how many places it stands.
    stride, margin, dilation, spread
        Along each axis, `stride` or `spread` is 1: a stride between places, or zeros between pixels.
    """

    size: Pair
    places: Pair
    stride: Pair
    margin: Pair
    dilation: Pair
    spread: Pair = (1, 1)

    @staticmethod
    def forward(shape: Size, size: Pair, stride: Pair, margins: Margins, dilation: Pair) -> View:
        """Of a layer's kernel on its inputs of `shape`, (B, C, H, W)."""
        left, right, above, below = margins
        lengths = shape[2] + above + below, shape[3] + left + right
        rows, columns = (
            (length - reach * (taps - 1) - 1) // step + 1
            for length, taps, step, reach in zip(lengths, size, stride, dilation, strict=True)
        )
        return View(size, (rows, columns), stride, (above, left), dilation)

    def mirrored(self, shape: Size) -> View:
        """Of the mirrored kernel on the errors of the outputs: the places are the pixels of the inputs.

        The input's row i met the output's row o through the kernel's row r where i + margin = stride · o +
        dilation · r.
        """
        above, left = (
            reach * (taps - 1) - before
            for taps, before, reach in zip(self.size, self.margin, self.dilation, strict=True)
        )
        return View(self.size, (shape[2], shape[3]), (1, 1), (above, left), self.dilation, self.stride)

    @property
    def numbers(self) -> list[int]:
        """As an operator takes it, and `of` reads it."""
        return [n for pair in astuple(self) for n in pair]

    @staticmethod
    def of(numbers: Sequence[int]) -> View:
        """The view of these `numbers`."""
        return View(*((numbers[i], numbers[i + 1]) for i in range(0, 12, 2)))

    def columns(self, images: Tensor, groups: int) -> Tensor:
        """(B, groups · C, H, W) → (groups, C · h · w, B · H' · W'), columns of what the kernel sees."""
        batch, channels, height, width = images.shape
        columns = images.new_zeros((channels, *self.size, batch, *self.places))
        pixels = images.transpose(0, 1)
        for i in range(self.size[0]):
            rows, there = self._meeting(0, i, height)
            for j in range(self.size[1]):
                places, here = self._meeting(1, j, width)
                columns[:, i, j, :, rows, places] = pixels[:, :, there, here]
        return columns.reshape(groups, *self.shape(images.shape, groups))

    def shape(self, images: Size, groups: int) -> Pair:
        """Rows and columns of a group's columns, of images of this shape."""
        taps, places = self.size[0] * self.size[1], self.places[0] * self.places[1]
        return images[1] // groups * taps, images[0] * places

    def _meeting(self, axis: int, tap: int, length: int) -> tuple[slice, slice]:
        """The places at which a tap lies on a pixel, and those pixels."""
        stride, spread = self.stride[axis], self.spread[axis]
        offset = tap * self.dilation[axis] - self.margin[axis]
        first = max(0, -(offset // stride))
        first += -(first * stride + offset) % spread
        pixel = (first * stride + offset) // spread
        count = max(0, min(-((first - self.places[axis]) // spread), -((pixel - length) // stride)))
        return (
            slice(first, first + spread * count, spread),
            slice(pixel, pixel + stride * count, stride),
        )
