"""AdaComp on a machine with CUDA kernels: layers to packets and residues, packets to averages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.compression.packet import HEADER, OVERHEAD, element_bytes
from quaver.golden.kernels.cuda import source
from quaver.golden.kernels.cuda.calls import matrices_of
from quaver.golden.kernels.cuda.machine import Machine

#: Bins of a block, and bytes of shared memory that a kernel takes at most: `Run` of each thread.
_STRETCH, _SHARED = 32, 256 * 32
#: Blocks that share a packet's bytes.
_PARTS = 8
#: What no mark is above: nothing is wrong.
UNMARKED = (1 << 63) - 1


@dataclass(frozen=True)
class Bucket:
    """Layers that are compressed at once; the elements of one follow those of the other.

    Attributes
    ----------
    numbers, lengths, bin_lengths
        Of each layer, as `Packet` has them.
    """

    numbers: tuple[int, ...]
    lengths: tuple[int, ...]
    bin_lengths: tuple[int, ...]

    @property
    def firsts(self) -> NDArray[np.int64]:
        """Of each layer the first element."""
        return _starts(self.lengths)

    @property
    def elements(self) -> int:
        """Of all layers."""
        return sum(self.lengths)


@dataclass(frozen=True)
class _Places:
    """Where a bucket's layers lie in the kernels' arrays.

    Attributes
    ----------
    table
        A row of struct Layer in adacomp.cu for each.
    layer_of
        The layer of each block.
    bins, words, size
        How many bins, words of masks and bytes for packets there are.
    """

    table: NDArray[np.int64]
    layer_of: NDArray[np.int32]
    bins: int
    words: int
    size: int


def _starts(counts: Any) -> NDArray[np.int64]:
    """Where each of them begins if they follow each other."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)[:-1]]).astype(np.int64)


def _rows(*columns: Any) -> NDArray[np.int64]:
    """A table of them whose rows lie in memory as structs do."""
    return np.ascontiguousarray(np.stack(columns, axis=1), np.int64)


@cache
def _places(bucket: Bucket) -> _Places:
    lengths, bin_lengths = (np.array(x, np.int64) for x in (bucket.lengths, bucket.bin_lengths))
    bins = -(-lengths // bin_lengths)
    stretches = -(-bins // _STRETCH)
    words = bins * -(-bin_lengths // 32)
    # No bin takes more than an element for each of its own; they begin where a word of a checksum may lie.
    sizes = OVERHEAD + lengths * [element_bytes(n) for n in bucket.bin_lengths]
    sizes = -(-sizes // 16) * 16
    counts = bucket.lengths, bins, stretches, words, sizes
    first, first_bin, first_stretch, first_word, packet = map(_starts, counts)
    columns = first, lengths, bin_lengths, first_bin, first_stretch, first_word, packet, bucket.numbers
    layer_of = np.repeat(np.arange(len(lengths), dtype=np.int32), stretches)
    totals = (int(x.sum()) for x in (bins, words, sizes))
    return _Places(_rows(*columns), layer_of, *totals)


@cache
def _matrices() -> NDArray[np.uint32]:
    """Of a CRC-32, by bytes of 0."""
    columns = []
    for bit in range(32):
        state = 1 << bit
        for _ in range(8):
            state = state >> 1 ^ (0xEDB88320 if state & 1 else 0)
        columns.append(state)
    return matrices_of(columns)


def compress(
    machine: Machine, bucket: Bucket, residues: Any, gradients: Any, *, learner: int = 0, step: int = 0
) -> tuple[Any, NDArray[np.int64], Any, Any]:
    """What `AdaComp.compress` makes of each layer, of flat contiguous float32 of all of them.

    Returns
    -------
    packets
        uint8: where each packet's bytes may lie, which begin with it.
    starts
        Of each packet's bytes, (layers,).
    about
        int64 (layers, 3): a packet's bytes, how many values it sends, and 0 if something was not finite.
    residues
        The new ones, as the old.
    """
    at, program = _places(bucket), source.adacomp_program()
    count = len(bucket.lengths)
    pending = machine.empty((bucket.elements,), np.float32)
    packets = machine.empty((max(at.size, 1),), np.uint8)
    about = machine.empty((count, 3), np.int64)
    scales = machine.empty((count,), np.float32)
    masks = machine.zeros((max(at.words, 1),), np.uint32)
    counts = machine.empty((max(at.bins, 1),), np.uint32)
    runs = machine.empty((max(len(at.layer_of), 1), 4), np.int64)
    sums = machine.zeros((count, 256), np.int64)
    layers = machine.constant(at.table)
    if stretches := len(at.layer_of):
        layer_of = machine.constant(at.layer_of)
        grid = stretches, 1, 1
        made = pending, masks, counts, runs, sums
        machine.launch(program, "decide", grid, layers, layer_of, residues, gradients, *made, shared=_SHARED)
    of_header = packets, np.int32(learner), np.uint32(step)
    machine.launch(
        program, "seal", (count, 1, 1), layers, sums, runs, *of_header, scales, about, shared=_SHARED
    )
    if stretches:
        known = residues, masks, counts, runs, scales
        machine.launch(program, "place", grid, layers, layer_of, *known, pending, packets)
    starts = at.table[:, 6].copy()
    # Into the headers themselves, which have 0 there.
    ends = machine.constant(_rows(starts, (starts + HEADER.size) // 4))
    _checksums(machine, ends, count, packets, packets)
    return packets, starts, about, pending


def _checksums(machine: Machine, starts: Any, count: int, packets: Any, checksums: Any) -> None:
    matrices = machine.constant(_matrices())
    grid = count, _PARTS, 1
    machine.launch(source.adacomp_program(), "add_checksums", grid, matrices, starts, packets, checksums)


def average(
    machine: Machine,
    bucket: Bucket,
    packets: Any,
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    shares: NDArray[np.float32],
) -> tuple[Any, Any, Any]:
    """`quaver.golden.compression.mean` of each layer's packets, whose headers say what they must.

    Parameters
    ----------
    packets
        uint8: the bytes of all.
    starts, counts
        (learners, layers): where each packet begins, and how many elements it has.
    shares
        (learners, layers): its scale over the number of learners; NaN if something was not finite.

    Returns
    -------
    averages
        Flat float32 of all layers; nonsense if something is wrong.
    checksums
        uint32 (learners, layers): what a packet's must be.
    marks
        int64 (learners, layers): eight times the first element that is wrong and what is, as `check` in
        `quaver.golden.kernels.adacomp` numbers it; `UNMARKED` if all are right.
    """
    program, (learners, layers) = source.adacomp_program(), starts.shape
    flat, number = starts.reshape(-1), np.arange(starts.size)
    about = (np.tile(each, learners) for each in (bucket.firsts, bucket.lengths, bucket.bin_lengths))
    table = machine.upload(_rows(flat, *about, _starts(counts.reshape(-1)), number))
    places = machine.empty((max(int(counts.sum()), 1),), np.int64)
    marks = machine.upload(np.full(starts.shape, UNMARKED, np.int64))
    checksums = machine.zeros(starts.shape, np.uint32)
    sums = machine.zeros((bucket.elements,), np.float32)
    ends = machine.upload(_rows(flat, number))
    _checksums(machine, ends, len(flat), packets, checksums)
    grid = len(flat), 1, 1
    machine.launch(program, "read_elements", grid, table, packets, places, marks, shared=_SHARED)
    of_shares = machine.upload(shares.astype(np.float32))
    for learner in range(learners):  # one after the other, as sums are rounded in their order
        mine = table[learner * layers : (learner + 1) * layers], packets, places, of_shares[learner], sums
        machine.launch(program, "add_shares", (layers, _PARTS, 1), *mine)
    return sums, checksums, marks
