"""What `tests/torch/test_adacomp_hook.py` runs in four processes: torchrun adacomp_learners.py DIR.

Each scenario leaves what it found in DIR/SCENARIO-RANK.pt, for the test to judge.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import processor_tensors
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import quaver
import quaver.torch
from quaver.golden.compression import packet as packets
from quaver.golden.nn import models, recipes
from quaver.golden.nn.recipe import LossScale
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.torch import AdaCompState, adacomp_hook, cuda
from quaver.torch import adacomp as hook

sys.path.append(str(Path(__file__).parents[1] / "torch"))
import test_equal_to_golden

Found = dict[str, Any]
#: What is trained as golden trains it with four learners.
LIKE_GOLDEN = {
    "mlp": ("mlp", recipes.fp32),
    "cnn": ("cnn", recipes.fp8.replace(loss_scale=LossScale(1.0))),
    "alphas": ("mlp", test_equal_to_golden.clipping(recipes.pact_everywhere[3])),
}
GOLDEN = Settings(batch=32, learners=4, compression="adacomp")
GOLDEN_STEPS = 4
INPUTS, CLASSES = 20, 5


def model(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(INPUTS, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, CLASSES)
    )


def batch(rank: int, step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(size, INPUTS, generator=generator), torch.randint(
        CLASSES, (size,), generator=generator
    )


def parallel(net: nn.Module, *, buckets: float = 0.002, **options: Any) -> DistributedDataParallel:
    """In small buckets, so that there are several."""
    return DistributedDataParallel(net, bucket_cap_mb=buckets, **options)


def loss_of(net: nn.Module, rank: int, step: int, size: int = 8) -> Tensor:
    images, labels = batch(rank, step, size)
    return nn.functional.cross_entropy(net(images), labels)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def train(rank: int) -> Found:
    """Plain steps, whose buckets PyTorch builds anew after the first: gradients and state."""
    net = parallel(model())
    state = AdaCompState(net, other=40)
    names = {id(p): name for name, p in net.module.named_parameters()}
    buckets: list[list[list[str]]] = [[]]

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # PyTorch looks at annotations
        buckets[-1].append([names[id(p)] for p in bucket.parameters()])
        return adacomp_hook(state, bucket)

    net.register_comm_hook(state, hook)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    gradients = []
    for step in range(5):
        optimiser.zero_grad()
        loss_of(net, rank, step).backward()
        gradients.append({name: p.grad.clone() for name, p in net.module.named_parameters()})
        optimiser.step()
        buckets.append([])
    return {
        "gradients": gradients,
        "weights": weights(net.module),
        "state": state.state_dict(),
        "sums": (state.elements, state.sent, state.nbytes, state.effective_nbytes),
        "buckets": buckets,
    }


def resume(rank: int) -> Found:
    """Three steps, then the rest in a new model with the state of the old one."""
    net, state = parallel(model()), None
    for part in (range(3), range(3, 5)):
        before = None if state is None else state.state_dict()
        if state is not None:
            again = model(seed=9)
            again.load_state_dict(net.module.state_dict())
            net = parallel(again)
        state = AdaCompState(net, other=40)
        if before is not None:
            state.load_state_dict(before)
        net.register_comm_hook(state, adacomp_hook)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in part:
            optimiser.zero_grad()
            loss_of(net, rank, step).backward()
            optimiser.step()
    plain = parallel(model())
    straight = AdaCompState(plain, other=40)
    plain.register_comm_hook(straight, adacomp_hook)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(5):
        optimiser.zero_grad()
        loss_of(plain, rank, step).backward()
        optimiser.step()
    return {
        "resumed": weights(net.module), "straight": weights(plain.module),
        "states": (state.state_dict(), straight.state_dict()) if state else None,
    }  # fmt: skip


def accumulate(rank: int) -> Found:
    """Two batches without synchronisation, and a third with it."""
    net = parallel(model())
    state = AdaCompState(net, other=40)
    net.register_comm_hook(state, adacomp_hook)
    for _ in range(2):
        net.zero_grad()
        for step in range(3):
            if step < 2:
                with net.no_sync():
                    loss_of(net, rank, step).backward()
            else:
                loss_of(net, rank, step).backward()
    alone = model()
    for step in range(3):
        loss_of(alone, rank, step).backward()
    return {
        "gradient": {name: p.grad for name, p in net.module.named_parameters()},
        "local": {name: p.grad for name, p in alone.named_parameters()},
        "step": state.step,
    }


class Layouts(nn.Module):
    """A convolution whose weights lie channels last, and a layer whose weights lie transposed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(5, 6, 2).to(memory_format=torch.channels_last)
        self.linear = nn.Linear(6, CLASSES)
        self.linear.weight = nn.Parameter(self.linear.weight.detach().T.contiguous().T)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x.reshape(-1, 5, 2, 2)).flatten(1))


def layouts(rank: int) -> Found:
    """Two steps with the same weights: gradients and residues."""
    net, alone = parallel(Layouts()), Layouts()
    state = AdaCompState(net, conv=40, other=40)
    net.register_comm_hook(state, adacomp_hook)
    for _ in range(2):
        net.zero_grad()
        loss_of(net, rank, 0).backward()
    loss_of(alone, rank, 0).backward()
    return {
        "gradient": {name: p.grad.contiguous() for name, p in net.module.named_parameters()},
        "local": {name: p.grad.contiguous() for name, p in alone.named_parameters()},
        "residues": state.residues,
    }


def uneven(rank: int) -> Found:
    """Ranks with 2 to 5 batches, the last of another size, under join."""
    net = parallel(model())
    state = AdaCompState(net, other=40)
    net.register_comm_hook(state, adacomp_hook)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    with net.join():
        for step in range(2 + rank):
            optimiser.zero_grad()
            loss_of(net, rank, step, 8 if step < 1 + rank else 3).backward()
            optimiser.step()
    return {"weights": weights(net.module), "step": state.step}


class Branches(nn.Module):
    """One of two layers, or both on different ranks; a third that nobody uses in even steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.left, self.right, self.rare = (nn.Linear(INPUTS, CLASSES) for _ in range(3))

    def forward(self, x: Tensor, left: bool, rare: bool) -> Tensor:
        out = self.left(x) if left else self.right(x)
        return out + self.rare(x) if rare else out


def unused(rank: int, *, inner: bool = False) -> Found:
    net = parallel(Branches(), find_unused_parameters=True)
    state = AdaCompState(net.module if inner else net, other=40)
    net.register_comm_hook(state, adacomp_hook)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    kept = []
    for step in range(4):
        optimiser.zero_grad()
        images, labels = batch(rank, step)
        nn.functional.cross_entropy(net(images, rank % 2 == 0, step % 2 == 1), labels).backward()
        optimiser.step()
        kept.append({name: residue.clone() for name, residue in state.residues.items()})
    return {"weights": weights(net.module), "residues": kept}


def unused_of_inner(rank: int) -> Found:
    """The state is made of the model itself, which does not say whether PyTorch drops averages."""
    return unused(rank, inner=True)


def message(
    rank: int, spoil: Callable[[DistributedDataParallel, AdaCompState], None], refuse: str = "pass"
) -> Found:
    """What each rank is told in the third step, after `spoil`; whether anything has changed."""
    net = parallel(model(), buckets=25)
    state = AdaCompState(net, other=40, non_finite=refuse)
    net.register_comm_hook(state, adacomp_hook)
    for step in range(2):  # before the second, buckets are rebuilt, for which processes talk without the hook
        loss_of(net, rank, step).backward()
    before = state.state_dict()
    spoil(net, state)
    try:
        (loss_of(net, rank, 2) * (float("nan") if refuse == "refuse" and rank == 2 else 1)).backward()
        told = ""
    except RuntimeError as error:
        told = str(error)
    after = state.state_dict()
    same = before["step"] == after["step"] and all(
        before["residues"][name].equal(after["residues"][name]) for name in before["residues"]
    )
    return {"told": told, "same": same, "nan": bool(torch.isnan(net.module[0].weight.grad).any())}


def refused(rank: int) -> Found:
    return message(rank, lambda net, state: None, "refuse")


def passed(rank: int) -> Found:
    """After a step, an infinity in one layer of one rank: there every rank has NaN, and residues stay."""
    net = parallel(model(), buckets=25)
    state = AdaCompState(net, other=40)
    net.register_comm_hook(state, adacomp_hook)
    loss_of(net, rank, 0).backward()
    before = dict(state.residues)
    net.zero_grad()
    if rank == 1:
        net.module[2].bias.register_hook(lambda gradient: gradient * float("inf"))
    loss_of(net, rank, 1).backward()
    nan = {name: bool(torch.isnan(p.grad).any()) for name, p in net.module.named_parameters()}
    same = all(state.residues[name].equal(residue) for name, residue in before.items())
    return {"nan": nan, "same": same, "step": state.step, "any": all(x.any() for x in before.values())}


def spoilt(rank: int, change: Callable[[bytes], bytes]) -> Found:
    """Rank 1 sends other bytes in the third step."""
    whole = packets.Packet.pack

    def spoil(net: DistributedDataParallel, state: AdaCompState) -> None:
        if rank == 1:
            packets.Packet.pack = lambda self: change(whole(self))  # type: ignore[method-assign]

    try:
        return message(rank, spoil)
    finally:
        packets.Packet.pack = whole  # type: ignore[method-assign]


def flipped(rank: int) -> Found:
    return spoilt(rank, lambda data: data[:-1] + bytes([data[-1] ^ 4]))


def cut(rank: int) -> Found:
    return spoilt(rank, lambda data: data[:-1])


def version(rank: int) -> Found:
    return spoilt(rank, lambda data: data[:4] + b"\2" + data[5:])


def out_of_step(rank: int) -> Found:
    def ahead(net: DistributedDataParallel, state: AdaCompState) -> None:
        state.step += rank == 3

    found = message(rank, ahead)
    return found | {"same": True}


def half(rank: int) -> Found:
    """Gradients in float16, on bucket views."""
    net = parallel(model().half(), gradient_as_bucket_view=True)
    state = AdaCompState(net, other=40)
    net.register_comm_hook(state, adacomp_hook)
    images, _ = batch(rank, 0)
    for _ in range(2):
        net(images.half()).square().mean().backward()
    return {"dtype": [p.grad.dtype for p in net.parameters()], "residues": state.residues, "weights": [
        p.grad.clone() for p in net.parameters()
    ]}  # fmt: skip


def beyond(rank: int) -> Found:
    """Gradients in float16 that are finite, with a residue whose average is none."""
    net = parallel(model().half())
    state = AdaCompState(net, other=40)
    net.register_comm_hook(state, adacomp_hook)
    state.residues = {"2.bias": torch.full((30,), 1e5)}
    loss_of_half = net(batch(rank, 0)[0].half()).square().mean()
    loss_of_half.backward()
    infinite = [name for name, p in net.module.named_parameters() if not p.grad.isfinite().all()]
    return {"infinite": infinite, "residues": state.residues, "step": state.step}


def again(rank: int) -> Found:
    """A step with an infinity in its first bucket that is given up in its last one, and then on with the same
    state and another DistributedDataParallel."""
    inner = model()
    net = parallel(inner)
    state = AdaCompState(net, other=40)
    net.register_comm_hook(state, adacomp_hook)
    loss_of(net, rank, 0).backward()
    net.zero_grad()
    stored = state.state_dict()
    infinity = inner[4].bias.register_hook(lambda gradient: gradient * float("inf"))
    state.residues["0.weight"] = state.residues["0.weight"].double()  # which is refused
    told = ""
    try:
        loss_of(net, rank, 1).backward()
    except RuntimeError as error:
        told = str(error)
    infinity.remove()
    del net
    net = parallel(inner)
    state.load_state_dict(stored)
    net.register_comm_hook(state, adacomp_hook)
    net.zero_grad()
    loss_of(net, rank, 1).backward()
    alone = model()
    loss_of(alone, rank, 1).backward()
    return {
        "told": told, "before": stored["residues"], "after": state.residues, "step": state.step,
        "local": {name: p.grad for name, p in alone.named_parameters()},
    }  # fmt: skip


def golden(rank: int) -> Found:
    """Golden's networks, converted, on this rank's share of golden's batches."""
    found: Found = {}
    for name, (model_name, recipe) in LIKE_GOLDEN.items():
        digits = quaver.data.load("digits")
        network = models.build(model_name, digits.shape, digits.classes)
        net = test_equal_to_golden.MODELS[model_name]()
        test_equal_to_golden.load(net, network)
        theirs = Trainer(network, digits, recipe, GOLDEN).parameters
        quaver.torch.convert(net, recipe)
        quaver.torch.manual_seed(GOLDEN.seed)
        replica = parallel(net, buckets=0.05)
        state = AdaCompState(replica)
        replica.register_comm_hook(state, adacomp_hook)
        groups = [
            {"params": [p], "weight_decay": GOLDEN.weight_decay * of.decay}
            for p, of in zip(net.parameters(), theirs, strict=True)
        ]
        optimiser = quaver.torch.SGD(groups, recipe, lr=GOLDEN.learning_rate)
        order = np.random.default_rng([GOLDEN.seed, 1, 0]).permutation(len(digits.train_labels))
        for step in range(GOLDEN_STEPS):
            part = order[step * GOLDEN.batch : (step + 1) * GOLDEN.batch][rank::4]
            images = torch.from_numpy(digits.standardised(digits.train_images[part]))
            labels = torch.from_numpy(digits.train_labels[part].astype(np.int64))
            optimiser.zero_grad()
            optimiser.scale(quaver.torch.cross_entropy(replica(images), labels, recipe)).backward()
            optimiser.step()
        found[name] = {"weights": weights(net), "residues": state.residues}
    return found


def by_kernels(scenario: Callable[[int], Found]) -> Callable[[int], Found]:
    """With what the hook does on a GPU, by g++'s build of the kernels on the CPU's tensors."""

    def run(rank: int) -> Found:
        before = cuda.find_machine, hook.adacomp_on_cpu
        cuda.find_machine, hook.adacomp_on_cpu = (
            lambda device: processor_tensors.MACHINE,
            hook.adacomp_on_cuda,
        )
        try:
            return scenario(rank)
        finally:
            cuda.find_machine, hook.adacomp_on_cpu = before

    run.__name__ = f"{scenario.__name__}_by_kernels"
    return run


def flipped_later(rank: int) -> Found:
    """A bit of the last element that rank 1 sends in the third step, by the kernels."""
    whole = hook.adacomp_on_cuda.compress

    def flip(*arguments: Any) -> Any:
        sent = whole(*arguments)
        sent.data[-1] ^= 4
        return sent

    def spoil(net: DistributedDataParallel, state: AdaCompState) -> None:
        if rank == 1:
            hook.adacomp_on_cuda.compress = flip

    try:
        return message(rank, spoil)
    finally:
        hook.adacomp_on_cuda.compress = whole


flipped_later.__name__ = "flipped"


def dies(rank: int) -> Found:
    """The last: rank 3 is killed in the third step."""

    def kill(net: DistributedDataParallel, state: AdaCompState) -> None:
        if rank == 3:
            os._exit(0)

    return message(rank, kill)


SCENARIOS = (
    train,
    resume,
    accumulate,
    layouts,
    uneven,
    unused,
    unused_of_inner,
    refused,
    passed,
    flipped,
    cut,
    version,
    out_of_step,
    beyond,
    again,
    half,
    golden,
    *map(by_kernels, (train, unused, refused, passed, flipped_later)),
    dies,
)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank = dist.get_rank()
    for scenario in SCENARIOS:
        torch.save(scenario(rank), folder / f"{scenario.__name__}-{rank}.pt")
    os._exit(0)  # with a process gone, there is nothing to close


if __name__ == "__main__":
    main()
