"""A small network on scikit-learn's digits, on processes that exchange gradients compressed by AdaComp.

    torchrun --nproc-per-node 4 examples/adacomp.py            # DistributedDataParallel over gloo
    torchrun --nproc-per-node 4 examples/adacomp.py --check    # and held against golden's learners
    torchrun --nproc-per-node 4 examples/adacomp.py --none     # without compression, to compare

AdaComp is patented in the United States (11,295,208 B2): see docs/adacomp.md.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import quaver
import quaver.torch
from quaver.golden.nn import models


def network(weights: list[np.ndarray]) -> nn.Module:
    """64-128-64-10, from golden's weights (K, N)."""
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    )
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values.T)))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32, help="images of a step, of all processes (32)")
    parser.add_argument("--bin-length", type=int, default=500)
    parser.add_argument("--none", action="store_true", help="exchange gradients as they are")
    parser.add_argument("--check", action="store_true", help="compare with golden's learners")
    options = parser.parse_args()
    torch.set_num_threads(1)  # of a core for each process
    dist.init_process_group("gloo")
    try:
        if options.batch % dist.get_world_size():
            parser.error(
                f"--batch is {options.batch}, but {dist.get_world_size()} processes take equal shares of it"
            )
        train(options)
    finally:
        # Nothing of the model is left by now: were DistributedDataParallel the last to hold the group, it
        # would wait for gloo's workers with Python's lock in its hands, which they may be waiting for.
        dist.destroy_process_group()


def train(options: argparse.Namespace) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    digits = quaver.data.load("digits")
    golden = models.build("mlp", digits.shape, digits.classes)
    model = network([p.value for p in golden.all_parameters()])
    recipe = quaver.recipes.fp32
    quaver.torch.convert(model, recipe)  # golden's order of sums
    parallel = DistributedDataParallel(model)
    state = quaver.torch.AdaCompState(parallel, other=options.bin_length)
    if not options.none:
        parallel.register_comm_hook(state, quaver.torch.adacomp_hook)
    settings = quaver.Settings(
        epochs=options.epochs,
        batch=options.batch,
        learners=world,
        compression="none" if options.none else f"adacomp(other={options.bin_length})",
    )
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    matrices = [p for name, p in model.named_parameters() if name.endswith("weight")]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": biases}]
    optimiser = quaver.torch.SGD(groups, recipe, lr=settings.learning_rate)

    images = torch.from_numpy(digits.standardised(digits.train_images))
    labels = torch.from_numpy(digits.train_labels.astype(np.int64))
    test_images = torch.from_numpy(digits.standardised(digits.test_images))
    for epoch in range(options.epochs):
        order = np.random.default_rng([settings.seed, 1, epoch]).permutation(len(labels))  # golden's
        losses = []
        for start in range(0, len(order) - options.batch + 1, options.batch):
            mine = order[start : start + options.batch][rank::world]
            loss = quaver.torch.cross_entropy(parallel(images[mine]), labels[mine], recipe)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        with torch.no_grad():
            right = model(test_images).argmax(1).numpy() == digits.test_labels
        if rank == 0:
            sent = f", sent 1/{state.rate:.1f} of the gradients" if not options.none else ""
            print(f"epoch {epoch}: loss {np.mean(losses):.4f}, test {np.mean(right):.2%}{sent}", flush=True)
    if options.check:
        check(model, state, golden, digits, settings, rank)


def check(model: nn.Module, state: quaver.torch.AdaCompState, golden: models.Network,
          digits: quaver.data.Dataset, settings: quaver.Settings, rank: int) -> None:  # fmt: skip
    """Golden's learners, from the same weights; every rank compares its weights and residues with theirs."""
    trainer = quaver.Trainer(golden, digits, quaver.recipes.fp32, settings)
    for _ in trainer.steps():
        pass
    names = [name for name, _ in model.named_parameters()]
    compared = different = 0
    for name, p in zip(names, trainer.parameters, strict=True):
        pairs = [
            (model.get_parameter(name).detach().numpy(), np.ascontiguousarray(trainer.weights[p.name].T))
        ]
        if trainer.learners is not None and trainer.learners.residues:
            pairs.append((state.residues[name].numpy(), trainer.learners.residues[p.name][rank]))
        for mine, theirs in pairs:
            compared += mine.size
            different += int(np.count_nonzero(mine.view(np.uint32) != theirs.view(np.uint32)))
    counts = torch.tensor([compared, different])
    dist.all_reduce(counts)
    if rank == 0:
        print(
            f"golden: {counts[0]:,} weights and residues of all ranks compared, {counts[1]:,} differ",
            flush=True,
        )
    if different:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
