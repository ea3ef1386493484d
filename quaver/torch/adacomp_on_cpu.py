"""What a process sends of a bucket's layers, and what it makes of what all send: by golden's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quaver.golden.compression import AdaComp, Packet, PacketError, mean, unpack_all
from quaver.golden.compression.packet import expect


@dataclass(frozen=True)
class Layer:
    """What is known of a parameter.

    Attributes
    ----------
    name
        In the model.
    number
        By which packets call it.
    rule
        What is sent of it.
    length
        How many elements it has.
    """

    name: str
    number: int
    rule: AdaComp
    length: int


@dataclass(frozen=True)
class Sent:
    """What a process sends of a bucket.

    Attributes
    ----------
    data
        The packets, one after the other: uint8, where the gradients lie.
    sizes
        Of each layer's packet, in bytes.
    residues
        What is kept of each layer, flat float32.
    sent, effective_nbytes
        How many values are sent, and their bytes as papers count them.
    """

    data: Tensor
    sizes: list[int]
    residues: list[Tensor]
    sent: int
    effective_nbytes: int


def compress(
    layers: Sequence[Layer], residues: Sequence[Tensor], gradients: Sequence[Tensor], learner: int, step: int
) -> Sent:
    """`AdaComp.compress` of each layer, flat float32 on any device. ValueError, which names the layer: it is
    refused."""
    packets, kept = [], []
    for layer, old, gradient in zip(layers, residues, gradients, strict=True):
        where = {"layer": layer.number, "learner": learner, "step": step}
        arrays = (x.contiguous().cpu().numpy() for x in (old, gradient))
        try:
            packet, new = layer.rule.compress(*arrays, **where)
        except ValueError as error:
            raise ValueError(f"{layer.name}: {error}") from None
        packets.append(packet)
        kept.append(torch.from_numpy(new).to(gradient.device))
    data = bytearray().join(packet.pack() for packet in packets)
    sizes = [packet.nbytes for packet in packets]
    bytes_ = torch.frombuffer(data, dtype=torch.uint8).to(gradients[0].device)
    values, counted = (sum(x) for x in zip(*((p.sent, p.effective_nbytes) for p in packets), strict=True))
    return Sent(bytes_, sizes, kept, values, counted)


def average(
    layers: Sequence[Layer], rows: Tensor, sizes: Sequence[Sequence[int]], step: int
) -> tuple[list[Tensor], bool]:
    """The mean of what all processes sent of each layer, and whether all of it was finite.

    `rows` are the processes' bytes, uint8, of which as many matter as `sizes` has of each layer's packet.
    PacketError: something is wrong with them.
    """
    of_learner = [
        _packets(memoryview(row.cpu().numpy())[: sum(parts)], layers, learner, step)
        for learner, (row, parts) in enumerate(zip(rows, sizes, strict=True))
    ]
    averages = [torch.from_numpy(mean(packets)).to(rows.device) for packets in zip(*of_learner, strict=True)]
    return averages, all(packet.is_finite for packets in of_learner for packet in packets)


def _packets(data: memoryview, layers: Sequence[Layer], learner: int, step: int) -> list[Packet]:
    """One learner's."""
    try:
        packets = list(unpack_all(data))
    except PacketError as error:
        raise PacketError(f"of rank {learner}: {error}") from None
    if len(packets) != len(layers):
        raise PacketError(f"of rank {learner}: {len(packets)} packets, but there are {len(layers)} layers")
    for packet, layer in zip(packets, layers, strict=True):
        fixed = {"layer": layer.number, "length": layer.length, "bin_length": layer.rule.bin_length}
        expect(packet, learner=learner, step=step, **fixed)
    return packets
