"""What AdaComp's hook does on a GPU: tried with g++'s build of the kernels, and on the GPU itself."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processor_tensors import OnProcessor
from torch import nn

from quaver.golden.compression import AdaComp, NonFinite, PacketError
from quaver.torch import AdaCompState, adacomp_hook, adacomp_on_cpu, adacomp_on_cuda
from quaver.torch.adacomp_on_cpu import Layer

SHAPES = {"conv": (1500, 50), "linear": (4099, 500), "bias": (10, 500), "one": (1, 50)}
LAYERS = [
    Layer(name, number, AdaComp(bin_length, NonFinite.PASS), length)
    for number, (name, (length, bin_length)) in enumerate(SHAPES.items())
]


def drawn(seed: int, device: torch.device | str = "cpu") -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    both = [[torch.randn(layer.length, generator=generator).to(device) for layer in LAYERS] for _ in "rg"]
    return both[0], both[1]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.cpu().view(torch.int32).equal(other.cpu().view(torch.int32))


def exchange(how: Any, device: torch.device | str = "cpu") -> tuple[list[Any], Any, torch.Tensor]:
    """What three learners send, what is made of it, and the rows of bytes."""
    sent = [how.compress(LAYERS, *drawn(rank, device), rank, 4) for rank in range(3)]
    rows = torch.zeros(3, max(len(each.data) for each in sent), dtype=torch.uint8, device=device)
    for row, each in zip(rows, sent, strict=True):
        row[: len(each.data)] = each.data
    return sent, how.average(LAYERS, rows, [each.sizes for each in sent], 4), rows


def hold(device: torch.device | str) -> None:
    """The kernels' exchange is golden's."""
    (sent, averages, rows), (expected, golden, _) = (
        exchange(adacomp_on_cuda, device),
        exchange(adacomp_on_cpu),
    )
    for one, other in zip(sent, expected, strict=True):
        assert one.data.cpu().equal(other.data)
        assert all(map(same, one.residues, other.residues))
        assert (one.sizes, one.sent, one.effective_nbytes) == (
            other.sizes,
            other.sent,
            other.effective_nbytes,
        )
    assert all(map(same, averages[0], golden[0]))
    assert averages[1]
    assert golden[1]
    assert rows.device.type == torch.device(device).type


def test_an_exchange_is_goldens(machine: OnProcessor) -> None:
    hold("cpu")


def test_one_layer_of_many_learners(machine: OnProcessor) -> None:
    """As the buckets of large layers are."""
    layers, generator = LAYERS[:1], torch.Generator().manual_seed(2)
    arrays = [torch.randn(2, layers[0].length, generator=generator) for _ in range(5)]
    sent = [adacomp_on_cuda.compress(layers, [r], [g], rank, 4) for rank, (r, g) in enumerate(arrays)]
    longest = max(len(each.data) for each in sent)
    rows = torch.stack([nn.functional.pad(each.data, (0, longest - len(each.data))) for each in sent])
    sizes = [each.sizes for each in sent]
    (found,), _ = adacomp_on_cuda.average(layers, rows, sizes, 4)
    (expected,), _ = adacomp_on_cpu.average(layers, rows, sizes, 4)
    assert same(found, expected)


def put(at: int, *values: int) -> Any:
    def change(row: torch.Tensor, sizes: list[int]) -> None:
        row[at : at + len(values)] = torch.tensor(values, dtype=torch.uint8)

    return change


def cut(by: int) -> Any:
    def change(row: torch.Tensor, sizes: list[int]) -> None:
        sizes[-1] -= by

    return change


def short(row: torch.Tensor, sizes: list[int]) -> None:
    sizes[0] = 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(0, 0), "a packet begins with"),
        (put(4, 2), "of version 2, but this quaver reads 1"),
        (put(5, 2), "elements are of 2 bytes, but bins of 50 take 1|bytes of elements of 2 each"),
        (put(5, 7), "bytes of elements of 7 each"),
        (put(6, 2), "learner 2, but 1 is expected"),
        (put(8, 9), "layer 9, but 0 is expected"),
        (put(12, 5), "step 5, but 4 is expected"),
        (put(16, 1), "length .* but 1500 is expected"),
        (put(20, 51), "bin length 51, but 50 is expected"),
        (put(25, 1), "the packet is cut short"),
        (put(24, 1), "bytes follow a packet"),
        (put(28, 1, 0, 0xC0, 0x7F), "a NaN, but not 0x7FC00000"),
        (put(28, 0, 0, 0xC0, 0x7F), "the scale is NaN, so no elements follow"),
        (put(28, 0, 0, 0x80, 0xBF), r"the scale is -1.0"),
        (put(32, 1, 2, 3, 4), "checksum is wrong"),
        (put(36, 63), "checksum is wrong"),
        (cut(1), "cut short"),
        (short, "cut short: 20 bytes of a header of 36"),
    ],
)
def test_what_is_wrong_is_found(change: Any, words: str, machine: OnProcessor) -> None:
    sent, _, rows = exchange(adacomp_on_cuda)
    sizes = [list(each.sizes) for each in sent]
    change(rows[1], sizes[1])
    with pytest.raises(PacketError, match=words) as refused:
        adacomp_on_cuda.average(LAYERS, rows, sizes, 4)
    assert "of rank 1" in str(refused.value) or "learner" in str(refused.value)


def test_elements_that_are_no_layers(machine: OnProcessor) -> None:
    """With a right checksum: only the reader sees it."""
    sent, _, rows = exchange(adacomp_on_cuda)
    packet = bytearray(rows[1, : sent[1].sizes[0]].tolist())
    packet[36] |= 0x3F  # the first element stands for empty bins
    packet[32:36] = zlib.crc32(packet[36:], zlib.crc32(packet[:32])).to_bytes(4, "little")
    rows[1, : len(packet)] = torch.frombuffer(packet, dtype=torch.uint8)
    sizes = [each.sizes for each in sent]
    for how in (adacomp_on_cuda, adacomp_on_cpu):
        with pytest.raises(PacketError, match=r"of rank 1: element [0-9]+ of [0-9]+: "):
            how.average(LAYERS, rows, sizes, 4)


@pytest.mark.parametrize("policy", NonFinite)
def test_a_gradient_that_is_not_finite(policy: NonFinite, machine: OnProcessor) -> None:
    residues, gradients = drawn(0)
    gradients[1][7] = torch.inf
    layers = [Layer(x.name, x.number, AdaComp(x.rule.bin_length, policy), x.length) for x in LAYERS]
    if policy is NonFinite.REFUSE:
        for how in (adacomp_on_cuda, adacomp_on_cpu):
            with pytest.raises(ValueError, match=r"^linear: .*of layer 1 .*is not finite; skip the step"):
                how.compress(layers, residues, gradients, 0, 4)
        return
    sent = adacomp_on_cuda.compress(layers, residues, gradients, 0, 4)
    assert sent.data.equal(adacomp_on_cpu.compress(layers, residues, gradients, 0, 4).data)
    assert same(sent.residues[1], residues[1])
    averages, finite = adacomp_on_cuda.average(layers, sent.data[None], [sent.sizes], 4)
    assert not finite
    assert [bool(x.isnan().all()) for x in averages] == [False, True, False, False]


# On a GPU.


@pytest.mark.gpu
def test_an_exchange_on_the_gpu(gpu: torch.device) -> None:
    hold(gpu)


@pytest.mark.gpu
def test_millions_of_elements_on_the_gpu(gpu: torch.device) -> None:
    """Also what races would show: several times the same bytes."""
    layers = [
        Layer("conv", 0, AdaComp(50), 2_359_296),
        Layer("linear", 1, AdaComp(500), 4_194_304),
        Layer("long", 2, AdaComp(16_383), 1_000_003),
    ]
    generator = torch.Generator().manual_seed(1)
    arrays = [[torch.randn(layer.length, generator=generator) for layer in layers] for _ in "rg"]
    expected = adacomp_on_cpu.compress(layers, *arrays, 0, 1)
    mean = adacomp_on_cpu.average(layers, expected.data[None].repeat(4, 1), [expected.sizes] * 4, 1)
    for _ in range(5):
        sent = adacomp_on_cuda.compress(layers, *([x.to(gpu) for x in each] for each in arrays), 0, 1)
        assert sent.data.cpu().equal(expected.data)
        assert all(map(same, sent.residues, expected.residues))
        averages, _ = adacomp_on_cuda.average(layers, sent.data[None].repeat(4, 1), [sent.sizes] * 4, 1)
        assert all(map(same, averages, mean[0]))


@pytest.mark.gpu
def test_the_hook_over_nccl(gpu: torch.device) -> None:
    """One process, its bytes by NCCL: gradients and residues are golden's of the same gradients."""
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5)).to(gpu)
        parallel = nn.parallel.DistributedDataParallel(net, device_ids=[gpu.index])
        state, local = AdaCompState(parallel, other=40), {}

        def keep(state: AdaCompState, bucket):  # type: ignore[no-untyped-def]  # PyTorch looks at annotations
            local.update({state.layer(p).name: g.clone() for p, g in zip(
                bucket.parameters(), bucket.gradients(), strict=True)})  # fmt: skip
            return adacomp_hook(state, bucket)

        parallel.register_comm_hook(state, keep)
        residues = {name: np.zeros(p.numel(), np.float32) for name, p in net.named_parameters()}
        for step in range(4):
            parallel.zero_grad()
            images = torch.randn(16, 30, generator=torch.Generator().manual_seed(step)).to(gpu)
            parallel(images).square().mean().backward()
            for name, p in net.named_parameters():
                flat = local[name].reshape(-1).cpu().numpy()
                packet, residues[name] = AdaComp(40).compress(residues[name], flat)
                assert same(p.grad.reshape(-1), torch.from_numpy(packet.values()))
                assert same(state.residues[name], torch.from_numpy(residues[name]))
    finally:
        dist.destroy_process_group()
