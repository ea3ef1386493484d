"""ResNet-18 on a folder of images, or on synthetic ones, in a recipe's arithmetic; on one process or many.

    python examples/imagenet.py --data DIRECTORY              # DIRECTORY/train/CLASS/*.jpg, …/val/CLASS/*.jpg
    python examples/imagenet.py                               # synthetic images
    torchrun --nproc-per-node 2 examples/imagenet.py …        # DistributedDataParallel over gloo

A checkpoint is written after every epoch and every --save-every steps; with --resume the run goes on from it,
with the bits that it would have had. Gradients of the processes are averaged in float32. Reading JPEG files
needs Pillow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from resnet import resnet18
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import quaver
import quaver.torch

ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Synthetic(Dataset[tuple[Tensor, int]]):
    """Images of as many classes as wanted: a blurred pattern a class, and noise of each image's own."""

    def __init__(self, count: int, size: int, classes: int, first: int = 0) -> None:
        self.count, self.size, self.classes, self.first = count, size, classes, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = index % self.classes
        pattern = np.random.default_rng([label, 0]).normal(size=(3, 8, 8))
        noise = np.random.default_rng([self.first + index, 1]).normal(size=(3, self.size, self.size))
        image = functional.interpolate(torch.from_numpy(pattern)[None], self.size, mode="bilinear")[0]
        return (image + 0.5 * torch.from_numpy(noise)).float(), label


class Folder(Dataset[tuple[Tensor, int]]):
    """DIRECTORY/CLASS/IMAGE: torchvision's ImageFolder with the usual crops, from (seed, epoch, image)."""

    def __init__(self, directory: Path, size: int, training: bool) -> None:
        if not directory.is_dir():
            raise SystemExit(f"{directory} is no directory; --data takes one with train and val in it")
        self.classes = sorted(path.name for path in directory.iterdir() if path.is_dir())
        self.files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((directory / name).rglob("*"))
            if path.suffix.lower() in ENDINGS
        ]
        if not self.files:
            raise SystemExit(f"{directory} holds no images in folders, a folder a class")
        self.size, self.training, self.epoch = size, training, 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.files[index]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        width, height = image.size
        if self.training:
            rng = np.random.default_rng([self.epoch, index])
            scale = np.sqrt(rng.uniform(0.25, 1.0))
            side = max(1, int(min(width, height) * scale))
            left, top = rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)
        else:
            rng, side = None, max(1, min(width, height) * 7 // 8)
            left, top = (width - side) // 2, (height - side) // 2
        box = (int(left), int(top), int(left) + side, int(top) + side)
        pixels = np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box))
        values = (pixels / 255 - MEAN) / DEVIATION
        if rng is not None and rng.random() < 0.5:
            values = values[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)), label


def save(path: Path, state: dict[str, Any]) -> None:
    """A kill at any moment leaves the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def mean_over_processes(*values: float) -> list[float]:
    total = torch.tensor(values, dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(total)
        total /= dist.get_world_size()
    return total.tolist()


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[Any]) -> tuple[float, float]:
    """Loss and accuracy: each process takes its share."""
    model.eval()
    loss = right = count = 0.0
    for images, labels in loader:
        logits = model(images)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        right += (logits.argmax(1) == labels).sum().item()
        count += len(labels)
    model.train()
    loss, right, count = mean_over_processes(loss, right, count)
    return loss / count, right / count


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIRECTORY", help="with train and val; else synthetic")
    parser.add_argument("--recipe", default="fp8", help="one of quaver.recipes (default: fp8)")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch", type=int, default=64, help="images of a step of one process")
    parser.add_argument(
        "--learning-rate", type=float, default=0.05, help="a tenth after each third of the run"
    )
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument(
        "--width", type=int, default=64, help="maps of the first stage (default: ResNet-18's)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--images", type=int, default=4096, help="how many synthetic ones")
    parser.add_argument("--classes", type=int, default=10, help="of synthetic images")
    parser.add_argument("--checkpoint", type=Path, default=Path("imagenet.pt"))
    parser.add_argument("--save-every", type=int, default=500, metavar="STEPS")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="stop there, as if killed")
    options = parser.parse_args()
    if options.epochs < 1 or options.batch < 1:
        parser.error(f"--epochs is {options.epochs} and --batch {options.batch}, but both are at least 1")
    return options


def main() -> None:
    options = arguments()
    recipe = quaver.recipes.recipe(options.recipe)
    if "RANK" in os.environ:  # torchrun's
        dist.init_process_group("gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    try:
        train(options, recipe, rank)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def train(options: argparse.Namespace, recipe: quaver.Recipe, rank: int) -> None:
    sets: list[Any]
    if options.data is None:
        sets = [Synthetic(options.images, options.size, options.classes)]
        sets += [Synthetic(max(1, options.images // 8), options.size, options.classes, options.images)]
        classes = options.classes
    else:
        sets = [Folder(options.data / part, options.size, part == "train") for part in ("train", "val")]
        classes = len(sets[0].classes)
    world = dist.get_world_size() if dist.is_initialized() else 1
    samplers = [
        DistributedSampler(each, world, rank, shuffle=training, drop_last=training)
        for each, training in zip(sets, (True, False), strict=True)
    ]
    training, test = (
        DataLoader(each, options.batch, sampler=sampler, num_workers=options.workers, drop_last=drop)
        for each, sampler, drop in zip(sets, samplers, (True, False), strict=True)
    )
    steps = len(training)
    if not steps:
        raise SystemExit(
            f"--batch is {options.batch}, but a process has {len(samplers[0])} images; take fewer"
        )

    torch.manual_seed(1)
    model = resnet18(classes, options.width)
    report = quaver.torch.convert(model, recipe)
    optimiser = quaver.torch.SGD(
        model.parameters(), recipe, lr=options.learning_rate, weight_decay=options.weight_decay
    )
    done = 0
    if options.resume and options.checkpoint.exists():
        stored = torch.load(options.checkpoint, weights_only=True)
        model.load_state_dict(stored["model"])
        optimiser.load_state_dict(stored["optimiser"])
        done = stored["steps"]
    parallel = DistributedDataParallel(model) if dist.is_initialized() else model
    if rank == 0:
        print(report if done == 0 else f"resumed after {done} steps", flush=True)

    def keep() -> None:
        if rank == 0:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "steps": done}
            save(options.checkpoint, state)

    for epoch in range(done // steps, options.epochs):
        samplers[0].set_epoch(epoch)
        sets[0].epoch = epoch
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * 0.1 ** (3 * epoch // options.epochs)
        begun, seen, first = time.perf_counter(), 0, done - epoch * steps
        for index, (images, labels) in enumerate(training):
            if index < first:  # those were before the checkpoint
                continue
            loss = functional.cross_entropy(parallel(images), labels)
            optimiser.zero_grad()
            optimiser.scale(loss).backward()
            optimiser.step()
            done, seen = done + 1, seen + 1
            (mean,) = mean_over_processes(loss.item())
            if rank == 0:
                rate = seen * options.batch * world / (time.perf_counter() - begun)
                where = f"epoch {epoch} step {index + 1}/{steps}: loss {mean:.4f}, {rate:.1f} images/s"
                left = f", {(steps - index - 1) * options.batch * world / rate:.0f} s to go"
                end = "\n" if index + 1 == steps or not sys.stdout.isatty() else "\r"
                print(f"{where}{left}, {optimiser.skipped} skipped", end=end, flush=True)
            if done % options.save_every == 0 and done % steps:
                keep()
            if done == options.stop_after:
                return
        loss_value, accuracy = evaluate(parallel, test)
        keep()
        if rank == 0:
            print(f"epoch {epoch}: test loss {loss_value:.4f}, accuracy {accuracy:.2%}", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
