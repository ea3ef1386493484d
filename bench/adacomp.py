"""AdaComp against no compression: accuracy and rates, throughput beside memcpy and PowerSGD, area and clock.

    python bench/adacomp.py images --data-dir DIR              # CNN, Fashion-MNIST, golden's learners
    python bench/adacomp.py images --data-dir DIR --bins 10 50 250 --learners 8
    python bench/adacomp.py text DIR                           # a character GRU, PyTorch, SGD and Adam
    python bench/adacomp.py throughput                         # of the hooks on the same buckets, PyTorch
    python bench/adacomp.py throughput --device cuda           # the same on a GPU
    python bench/adacomp.py hardware                           # area and clock on ECP5

Rates are bytes of float32 gradients over bytes sent with everything; the paper's count is beside them. The
time of an exchange over a link is computed: bytes that one learner receives over the link's rate. Throughput
is by processor time on one thread, which other work on the machine does not stretch; on a GPU by the clock.
With --out DIR, images and text keep every finished run and go on where they were stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import quaver
from quaver.golden import files
from quaver.golden.compression import AdaComp, mean
from quaver.golden.nn import models
from quaver.golden.nn.learners import Exchange
from quaver.golden.nn.trainer import Epoch, Step

#: Links that a step's exchange is computed for, bit/s.
LINKS = {"1 Gbit/s": 1e9, "10 Gbit/s": 1e10}
#: When the loss of text is measured on the way: whether who lags behind catches up.
ON_THE_WAY = {"after 1/8": 1 / 8, "after 1/4": 1 / 4, "after 1/2": 1 / 2}


def spread(values: list[float], digits: int = 2) -> str:
    """The mean, and the standard deviation of one value where there are several."""
    if any(map(isnan, values)):
        return "—"
    text = f"{statistics.mean(values):,.{digits}f}"
    return f"{text} ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else text


def show(title: str, header: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)


def kept(options: argparse.Namespace, name: str, about: object, run: Callable[[], Any]) -> Any:
    """What `run` gives; with --out, what an earlier run of the same name and `about` gave."""
    path = options.out and options.out / f"{re.sub(r'[^a-z0-9.=]+', '-', name)}.json"
    text = json.dumps(about, sort_keys=True)
    if path and path.exists() and (stored := json.loads(path.read_text(encoding="utf-8")))["about"] == text:
        return stored["run"]
    begun = time.process_time()
    result = run()
    print(f"{name}: {result}, {time.process_time() - begun:.0f} s of processor time", flush=True)
    if path:
        options.out.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps({"about": text, "run": result}) + "\n")
    return result


def images(options: argparse.Namespace) -> None:
    """Golden's learners on images, with every scheme and number of learners."""
    whole = quaver.data.load(options.data, options.data_dir)
    data = replace(
        whole,
        train_images=whole.train_images[: options.images],
        train_labels=whole.train_labels[: options.images],
        test_images=whole.test_images[: options.test_images],
        test_labels=whole.test_labels[: options.test_images],
    )
    rows = []
    for learners in options.learners:
        adacomp = [f"adacomp(conv={n}, other={10 * n})" for n in options.bins]
        for scheme in ["none", *adacomp, *options.others]:
            found = []
            for seed in range(1, options.seeds + 1):
                how = {"learners": learners, "compression": scheme, "seed": seed}
                decay = {"decay_at": tuple(options.decay_at)}
                settings = quaver.Settings(epochs=options.epochs, batch=options.batch, **decay, **how)
                name = f"{options.model} {data.name} {learners} {scheme} {seed}"
                about = [str(settings), data.sha256, options.model, options.recipe]

                def run(settings: quaver.Settings = settings, name: str = name) -> dict[str, float]:
                    return image_run(options, data, settings, name)

                found.append(kept(options, name, about, run))
            row = [f"{learners} learners, {scheme}", spread([one["accuracy"] for one in found])]
            row += [spread([one["bytes"] for one in found], 0)]
            for of in ("conv", "linear", "all"):
                row += [spread([one[key] for one in found]) for key in (of, f"{of}, paper's")]
            rows.append(row)
    header = ["what", "test accuracy, %", "bytes a step and learner"]
    header += ["conv, ×", "paper's", "linear, ×", "paper's", "all, ×", "paper's"]
    size = f"{len(data.train_labels):,} images of {data.name}, {len(data.test_labels):,} to test"
    title = f"{options.model} on {size}, {options.recipe}, batch {options.batch}, {options.epochs} epochs"
    show(title, header, rows)


def image_run(
    options: argparse.Namespace, data: quaver.data.Dataset, settings: quaver.Settings, name: str
) -> dict[str, float]:
    """Accuracy in percent after the last epoch, and rates; 1 where all was sent, NaN where there was none."""
    network = models.build(options.model, data.shape, data.classes, seed=settings.seed)
    trainer = quaver.Trainer(network, data, quaver.recipes.recipe(options.recipe), settings)
    parts: dict[str, list[Exchange]] = {"conv": [], "linear": []}
    accuracy = 0.0
    for event in trainer.steps():
        if isinstance(event, Epoch):
            accuracy = 100 * event.test_accuracy
            print(f"{name}, epoch {event.epoch}: {event.loss:.3f}, {accuracy:.2f} %", flush=True)
        elif isinstance(event, Step):
            for parameter, exchange in (event.exchange or {}).items():
                parts["conv" if parameter.startswith("conv") else "linear"].append(exchange)
    totals = {kind: Exchange.total(found) for kind, found in parts.items()}
    totals["all"] = Exchange.total(totals.values())
    elements = sum(p.value.size for p in trainer.parameters)
    size = totals["all"].nbytes / (trainer.step * settings.learners) or 4 * elements
    result = {"accuracy": accuracy, "bytes": size}
    for kind, total in totals.items():
        result[kind] = total.rate if total.elements else nan
        result[f"{kind}, paper's"] = total.effective_rate if total.elements else nan
    return result


def text(options: argparse.Namespace) -> None:
    """A character GRU or LSTM with learners that take turns on one model."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
    import shakespeare

    characters = shakespeare.read(options.directory)
    rows = []
    for optimiser in options.optimisers:
        for learners in options.learners:
            for compressed in (False, True):
                found = []
                scheme = f"adacomp(other={options.bin_length})" if compressed else "none"
                for seed in range(1, options.seeds + 1):
                    name = f"{options.cell} {optimiser} {learners} {scheme} {seed}"
                    sizes = options.steps, options.batch, options.context, options.width, options.sgd_rate
                    about = [name, *sizes, zlib.crc32(characters.encode())]

                    def run(
                        how: tuple[Any, ...] = (optimiser, learners, compressed, seed), name: str = name
                    ) -> dict[str, float]:
                        return text_run(options, characters, *how, name)

                    found.append(kept(options, name, about, run))
                row = [f"{optimiser}, {learners} learners, {scheme}"]
                # What was kept before it said them has none on the way.
                row += [spread([one.get(when, nan) for one in found], 3) for when in (*ON_THE_WAY, "loss")]
                row += [spread([one["bytes"] for one in found], 0)]
                rows.append([*row, *(spread([one[key] for one in found]) for key in ("rate", "paper's"))])
    what = f"{options.cell.upper()} of {options.width}"
    title = f"{what}, {options.steps} steps of {options.batch} × {options.context} characters"
    header = ["what", *(f"nats, {when}" for when in ON_THE_WAY), "nats a character, held back"]
    header += ["bytes a step and learner", "compression, ×", "paper's"]
    show(title, header, rows)


def text_run(
    options: argparse.Namespace,
    characters: str,
    optimiser_name: str,
    learners: int,
    compressed: bool,
    seed: int,
    name: str,
) -> dict[str, float]:
    """Loss on what is held back, and rates."""
    import torch
    from torch import nn
    from torch.nn import functional

    from quaver.torch import AdaCompState

    torch.set_num_threads(1)
    alphabet = {character: i for i, character in enumerate(sorted(set(characters)))}
    codes = torch.tensor([alphabet[character] for character in characters])
    held_back = len(codes) * 9 // 10

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = {"gru": nn.GRU, "lstm": nn.LSTM}[options.cell]
            self.embedding = nn.Embedding(len(alphabet), 64)
            self.cell = kind(64, options.width, batch_first=True)
            self.head = nn.Linear(options.width, len(alphabet))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.cell(self.embedding(tokens))[0])

    def batch_of(part: torch.Tensor, rng: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(part) - options.context - 1, (count,), generator=rng).tolist()
        cut = torch.stack([part[i : i + options.context + 1] for i in starts])
        return cut[:, :-1], cut[:, 1:]

    def loss_of(model: nn.Module, tokens: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model(tokens).flatten(0, 1), following.flatten())

    torch.manual_seed(seed)
    model = Recurrent()
    kind: Any = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser_name]
    how = {"lr": options.sgd_rate, "momentum": 0.9} if optimiser_name == "sgd" else {"lr": 2e-3}
    optimiser = kind(model.parameters(), **how)
    states = [AdaCompState(model, other=options.bin_length) for _ in range(learners)]
    rng = torch.Generator().manual_seed(seed)
    on_the_way: dict[str, float] = {}
    sent = said = 0

    @torch.no_grad()
    def held_back_loss() -> float:
        rng = torch.Generator().manual_seed(0)
        losses = (loss_of(model, *batch_of(codes[held_back:], rng, 64)).item() for _ in range(4))
        return statistics.mean(losses)

    for step in range(options.steps):
        found: list[dict[str, torch.Tensor]] = []
        for _ in range(learners):
            optimiser.zero_grad()
            tokens = batch_of(codes[:held_back], rng, options.batch // learners)
            loss = loss_of(model, *tokens)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            found.append({n: p.grad.clone() for n, p in model.named_parameters()})
        for parameter, p in model.named_parameters():
            if not compressed:
                p.grad = torch.stack([each[parameter] for each in found]).mean(0)
                continue
            packets = []
            for state, each in zip(states, found, strict=True):
                layer = state.layer(p)
                old = state.residue(layer, p.device)
                packet, new = layer.rule.compress(old.numpy(), each[parameter].reshape(-1).numpy())
                state.residues[parameter] = torch.from_numpy(new)
                packets.append(packet)
                sent, said = sent + packet.nbytes, said + packet.effective_nbytes
            p.grad = torch.from_numpy(mean(packets)).view_as(p)
        optimiser.step()
        if step % 100 == 0:
            print(f"{name}, step {step}: {loss:.3f}", flush=True)
        for when, share in ON_THE_WAY.items():
            if step + 1 == round(share * options.steps):
                on_the_way[when] = held_back_loss()
    size = 4 * sum(p.numel() for p in model.parameters())
    sent, said = sent or size * options.steps * learners, said or size * options.steps * learners
    exchanged = size * options.steps * learners
    return on_the_way | {
        "loss": held_back_loss(),
        "bytes": sent / (options.steps * learners),
        "rate": exchanged / sent,
        "paper's": exchanged / said,
    }


def now(device: str = "cpu") -> float:
    """Seconds: of processor time, or on a GPU until all is done that was launched."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize(device)
    return time.perf_counter()


def median(run: Callable[[], object], repeat: int, device: str = "cpu") -> float:
    """Seconds of one run."""
    times = []
    for _ in range(repeat):
        begun = now(device)
        run()
        times.append(now(device) - begun)
    return statistics.median(times)


def on_gpu(options: argparse.Namespace, gradients: np.ndarray) -> list[list[str]]:
    """What the hook does with one layer on a GPU, beside a copy there; its bytes must be golden's."""
    import torch

    from quaver.torch import adacomp_on_cpu, adacomp_on_cuda

    of_all = torch.from_numpy(gradients).to(options.device)
    copy, size, repeat = torch.empty_like(of_all[0]), of_all.shape[1], options.repeat
    memcpy = median(lambda: copy.copy_(of_all[0]), repeat + 2, options.device)
    rows = [["copy on the GPU", f"{4 * size / memcpy / 1e9:.1f}", "1.00", "", ""]]
    for length in (50, 500):
        layers = [adacomp_on_cpu.Layer("layer", 0, AdaComp(length), size)]
        residue = torch.zeros_like(copy)
        for gradient in of_all:
            sent = adacomp_on_cuda.compress(layers, [residue], [gradient], 0, 0)
            before, residue = residue, sent.residues[0]
        golden = adacomp_on_cpu.compress(layers, [before], [gradient], 0, 0)
        if not sent.data.cpu().equal(golden.data.cpu()):
            sys.exit(f"bins of {length}: the GPU's packet is not golden's")
        last, kept = of_all[-1], [residue]
        received = torch.stack([adacomp_on_cuda.compress(layers, kept, [last], i, 0).data for i in range(8)])
        sizes = [[received.shape[1]]] * 8
        sending, receiving = (layers, kept, [last], 0, 0), (layers, received, sizes, 0)
        parts = {
            f"compress, bins of {length}": partial(adacomp_on_cuda.compress, *sending),
            "average of 8 packets": partial(adacomp_on_cuda.average, *receiving),
        }
        for name, run in parts.items():
            run()
            seconds = median(run, repeat, options.device)
            rows.append([name, f"{4 * size / seconds / 1e9:.1f}", f"{memcpy / seconds:.3f}", "", ""])
    return rows


def throughput(options: argparse.Namespace) -> None:
    """The kernels on one layer; then the hooks on the buckets of one model, a single process."""
    rng = np.random.default_rng(1)
    size = options.elements
    gradients = rng.normal(size=(8, size)).astype(np.float32)
    if options.device != "cpu":
        rows = on_gpu(options, gradients)
        show(f"{size:,} elements, {options.device}", ["what", "GB/s of gradients", "of a copy", *LINKS], rows)
        hooks(options)
        return
    copy = np.empty(size, np.float32)
    memcpy = median(lambda: np.copyto(copy, gradients[0]), options.repeat)
    rows = [["memcpy", f"{4 * size / memcpy / 1e9:.2f}", "1.00", "", ""]]
    for length in (50, 500):
        rule, residue = AdaComp(length), np.zeros(size, np.float32)
        for gradient in gradients:  # residues as in training
            packet, residue = rule.compress(residue, gradient)
        last = gradients[-1]
        parts = {
            f"compress, bins of {length}": lambda rule=rule, r=residue, d=last: rule.compress(r, d),
            "pack": lambda packet=packet: packet.pack(),
            "average of 8 packets": lambda packet=packet: mean([packet] * 8),
        }
        for name, run in parts.items():
            seconds = median(run, options.repeat)
            rows.append([name, f"{4 * size / seconds / 1e9:.2f}", f"{memcpy / seconds:.3f}", "", ""])
        times = [f"{8 * 7 * packet.nbytes / link * 1e3:.2f}" for link in LINKS.values()]
        rows.append([f"exchange between 8, bins of {length}, computed, ms", "", "", *times])
    # A ring moves 2 · 7/8 of the gradients through each link.
    times = [f"{8 * 2 * 7 / 8 * 4 * size / link * 1e3:.2f}" for link in LINKS.values()]
    rows.append(["all-reduce of float32 between 8 in a ring, computed, ms", "", "", *times])
    show(f"{size:,} elements", ["what", "GB/s of gradients", "of memcpy", *LINKS], rows)
    hooks(options)


def hooks(options: argparse.Namespace) -> None:
    """PyTorch's hooks and this one on the same buckets: seconds inside a hook, of one process."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
    from torch.nn.parallel import DistributedDataParallel

    from quaver.torch import AdaCompState, adacomp_hook

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backend = "gloo" if options.device == "cpu" else "nccl"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        rows = []
        ours = [f"AdaComp, bins of {length}" for length in (500, 50)]
        for name in ("all-reduce", "PowerSGD, rank 1", "PowerSGD, rank 4", *ours):
            torch.manual_seed(1)
            layers = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(6)))
            net = DistributedDataParallel(layers.to(options.device))
            state: Any = None
            hook: Any = default_hooks.allreduce_hook
            if name.startswith("Power"):
                state = powerSGD_hook.PowerSGDState(None, int(name[-1]), start_powerSGD_iter=2)
                hook = powerSGD_hook.powerSGD_hook
            elif name.startswith("Ada"):
                state, hook = AdaCompState(net, other=int(name.rsplit(" ", 1)[1])), adacomp_hook
            spent: list[float] = []

            def timed(state, bucket, hook=hook, spent=spent):  # type: ignore[no-untyped-def]
                begun = now(options.device)
                future = hook(state, bucket)
                future.wait()
                spent[-1] += now(options.device) - begun
                return future

            net.register_comm_hook(state, timed)
            images = torch.randn(32, 1024, device=options.device)
            for _ in range(4 + options.repeat):
                net.zero_grad()
                spent.append(0.0)
                net(images).square().mean().backward()
            seconds = statistics.median(spent[4:])
            count = 4 * sum(p.numel() for p in net.parameters())
            rows.append([name, f"{count / seconds / 1e9:.2f}", f"{seconds * 1e3:.1f}"])
        dist.destroy_process_group()
    where = "one thread" if options.device == "cpu" else options.device
    show(f"hooks on the same buckets, one process, {where}", ["hook", "GB/s of gradients", "ms"], rows)


def hardware(options: argparse.Namespace) -> None:
    """Area and clock of the units, by Yosys and nextpnr, as bench/area.py measures an element's."""
    from area import DEVICES, cells, clock

    from quaver.rtl.compression.adacomp import AdaCompUnit
    from quaver.rtl.compression.adacomp_average import AdaCompAverage
    from quaver.rtl.compression.mean_of_maxima import MeanOfMaxima

    rows = []
    units: dict[str, Callable[[], Any]] = {
        "compressor, bins of up to 512": lambda: AdaCompUnit(stages=options.stages),
        "of it, the mean of maxima": MeanOfMaxima,
        "average of one packet": lambda: AdaCompAverage(options.stages),
    }
    for name, make in units.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            luts, registers = cells(make(), "ecp5", Path(folder))
            rates = clock(make(), "ecp5", Path(folder), options.seeds)
        rows.append([name, f"{luts:,}", f"{registers:,}", f"{statistics.median(rates):.0f}"])
        print(rows[-1], flush=True)
    show(f"{DEVICES['ecp5']}, {options.stages} stages an adder", ["unit", "LUT4", "flip-flops", "MHz"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("images")
    one.add_argument("--data", default="fashion-mnist")
    one.add_argument("--data-dir", type=Path)
    one.add_argument("--model", default="cnn")
    one.add_argument("--recipe", default="fp32")
    one.add_argument("--epochs", type=int, default=2)
    one.add_argument(
        "--decay-at", type=int, nargs="*", default=[], help="learning rate ÷ 10 before these epochs"
    )
    one.add_argument("--images", type=int, help="how many of the training images, the first ones (all)")
    one.add_argument("--test-images", type=int, help="how many of the test images (all)")
    one.add_argument("--out", type=Path, help="folder that keeps every finished run")
    one.add_argument("--batch", type=int, default=128)
    one.add_argument("--seeds", type=int, default=1)
    one.add_argument("--learners", type=int, nargs="+", default=[8])
    one.add_argument(
        "--bins", type=int, nargs="*", default=[50], help="L_T of convolutions; others: ten times"
    )
    one.add_argument("--others", nargs="*", default=[], help="other schemes, such as topk sign chunk_topk")
    one = commands.add_parser("text")
    one.add_argument("directory", type=Path)
    one.add_argument("--out", type=Path, help="folder that keeps every finished run")
    one.add_argument("--cell", choices=("gru", "lstm"), default="gru")
    one.add_argument("--optimisers", nargs="+", choices=("sgd", "adam"), default=["sgd", "adam"])
    one.add_argument("--learners", type=int, nargs="+", default=[4])
    one.add_argument("--bin-length", type=int, default=500)
    one.add_argument("--sgd-rate", type=float, default=0.5)
    for name, default in (("steps", 400), ("batch", 32), ("context", 64), ("width", 256), ("seeds", 1)):
        one.add_argument(f"--{name}", type=int, default=default)
    one = commands.add_parser("throughput")
    one.add_argument("--elements", type=int, default=1 << 22)
    one.add_argument("--repeat", type=int, default=9)
    one.add_argument("--device", default="cpu", help="cuda: the CUDA kernels, and NCCL")
    one = commands.add_parser("hardware")
    one.add_argument("--stages", type=int, default=4)
    one.add_argument(
        "--only", default="", metavar="TEXT", help="units with this in their names, such as average"
    )
    one.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    {"images": images, "text": text, "throughput": throughput, "hardware": hardware}[options.command](options)


if __name__ == "__main__":
    main()
