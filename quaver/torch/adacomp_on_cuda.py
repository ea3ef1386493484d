"""What `quaver.torch.adacomp_on_cpu` does, on a GPU by CUDA kernels: the same bytes, the same bits.

Packets are made on the GPU and stay there: what comes to the host is how long they are, and of those that are
received the headers, checksums and findings. A bucket's layers are compressed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quaver.golden.compression import PacketError
from quaver.golden.compression.packet import OVERHEAD, Header, element_bytes, expect, fault
from quaver.golden.float_environment import standard_floats
from quaver.golden.kernels.cuda import adacomp
from quaver.golden.kernels.cuda.adacomp import UNMARKED, Bucket
from quaver.torch import cuda
from quaver.torch.adacomp_on_cpu import Layer, Sent


def _bucket(layers: Sequence[Layer]) -> Bucket:
    return Bucket(
        tuple(layer.number for layer in layers),
        tuple(layer.length for layer in layers),
        tuple(layer.rule.bin_length for layer in layers),
    )


def compress(
    layers: Sequence[Layer], residues: Sequence[Tensor], gradients: Sequence[Tensor], learner: int, step: int
) -> Sent:
    """As `adacomp_on_cpu.compress`. RuntimeError: as of `quaver.torch.cuda.Gpu`."""
    machine = cuda.find_machine(gradients[0].device)
    bucket = _bucket(layers)
    flat = torch.cat(list(residues)), torch.cat(list(gradients))
    packets, starts, about, kept = adacomp.compress(machine, bucket, *flat, learner=learner, step=step)
    told = machine.download(about)  # waits for the GPU
    for layer, (_, _, finite) in zip(layers, told.tolist(), strict=True):
        if not finite:
            where = {"layer": layer.number, "learner": learner, "step": step}
            try:
                layer.rule.not_finite(layer.length, where)
            except ValueError as error:
                raise ValueError(f"{layer.name}: {error}") from None
    sizes = told[:, 0].tolist()
    data = torch.cat([packets[start : start + size] for start, size in zip(starts, sizes, strict=True)])
    counted = [element_bytes(n) * sent for n, sent in zip(bucket.bin_lengths, told[:, 1], strict=True)]
    return Sent(data, sizes, list(kept.split(bucket.lengths)), int(told[:, 1].sum()), int(sum(counted)))


@standard_floats
def average(
    layers: Sequence[Layer], rows: Tensor, sizes: Sequence[Sequence[int]], step: int
) -> tuple[list[Tensor], bool]:
    """As `adacomp_on_cpu.average`."""
    machine, bucket = cuda.find_machine(rows.device), _bucket(layers)
    nbytes, data = np.array(sizes, np.int64), rows.reshape(-1)
    starts = np.cumsum(nbytes, axis=1) - nbytes + rows.shape[1] * np.arange(len(rows))[:, None]
    headers = _headers(layers, data, starts, nbytes, step)
    scales = np.array([[header.scale for header in each] for each in headers], np.float32)
    counts = np.array([[header.nbytes // header.size for header in each] for each in headers], np.int64)
    shares = scales / np.float32(len(rows))
    averages, *found = adacomp.average(machine, bucket, data, starts, counts, shares)
    checksums, marks = (machine.download(each) for each in found)
    for learner, rank in enumerate(headers):
        for i, header in enumerate(rank):
            with _of(learner):
                header.check(header.nbytes, int(checksums[learner, i]))
                wrong = int(marks[learner, i])
                if header.scale == header.scale and wrong != UNMARKED:
                    raise PacketError(fault(wrong % 8, wrong // 8, int(counts[learner, i])))
    return list(averages.split(bucket.lengths)), bool(np.isfinite(scales).all())


def _headers(
    layers: Sequence[Layer], data: Tensor, starts: NDArray[np.int64], nbytes: NDArray[np.int64], step: int
) -> list[list[Header]]:
    """Each learner's, of each layer: what they must be. PacketError: they are not."""
    # As many bytes as are there: a header that is cut short is for `Header.read` to find.
    within = np.minimum(starts[..., None] + np.arange(OVERHEAD), max(len(data) - 1, 0))
    raw = data[torch.from_numpy(within).to(data.device)].cpu().numpy() if len(data) else within.astype("u1")
    headers: list[list[Header]] = []
    for learner in range(len(starts)):
        headers.append([])
        for i, layer in enumerate(layers):
            size = int(nbytes[learner, i])
            with _of(learner):
                header = Header.read(memoryview(raw[learner, i])[:size])
                header.check(size - OVERHEAD, header.checksum)
                if header.nbytes + OVERHEAD != size:
                    raise PacketError(f"{size - header.nbytes - OVERHEAD} bytes follow a packet")
            fixed = {"layer": layer.number, "length": layer.length, "bin_length": layer.rule.bin_length}
            expect(header, learner=learner, step=step, **fixed)
            if header.size != element_bytes(header.bin_length):
                raise PacketError(
                    f"of rank {learner}: elements are of {header.size} bytes, but bins of "
                    f"{header.bin_length} take {element_bytes(header.bin_length)}"
                )
            headers[-1].append(header)
    return headers


@contextmanager
def _of(learner: int) -> Iterator[None]:
    """Errors say of whom."""
    try:
        yield
    except PacketError as error:
        raise PacketError(f"of rank {learner}: {error}") from None
