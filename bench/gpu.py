"""How fast the CUDA kernels are on this GPU, beside cuBLAS and PyTorch in float32 (TF32 off).

    python bench/gpu.py [--check] [--batch 256] [--json]

GEMMs of FP8 codes with every sum rounded to (1,6,9) in chunks of 64: 4096³ to nearest and stochastically,
the products of ResNet-18's forward, backward and gradient passes at 224×224; casts, beside a copy; a training
step. The kernels are held to the golden bits before they are timed. Rates are those of the median run.

With --check the exit status is 1 where a target is missed. Targets are ratios to float32 on the same GPU:
those of 8 and 6 trillion MAC/s, where an H100's cuBLAS does 25.6.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import quaver
from quaver.golden.planning.networks import LayerShape, resnet18_imagenet

SIDE = 4096
NEAREST, STOCHASTIC = quaver.ChunkedFloat(), quaver.ChunkedFloat(rounding="stochastic")
PASSES = ("forward", "backward", "gradient")

#: Figure → the least that it may be; a step's is the most.
TARGETS = {
    "nearest": 8.0 / 25.6,
    "stochastic": 6.0 / 25.6,
    **{f"ResNet-18 {name}": 0.85 for name in PASSES},
    "ResNet-18 step": 5.0,
}


def missed(ratios: dict[str, float]) -> list[str]:
    """What to say of each target that is missed, or has no figure."""
    said = []
    for name, target in TARGETS.items():
        if name not in ratios:
            said.append(f"{name}: not measured")
        elif name == "ResNet-18 step":
            if not ratios[name] <= target:
                said.append(f"{name}: {ratios[name]:.2f} × float32's time, but at most {target:.2f}")
        elif not ratios[name] >= target:
            said.append(f"{name}: {ratios[name]:.3f}, but at least {target:.3f}")
    return said


def seconds(run: Callable[[], object], rounds: int) -> float:
    """The median time of `run` on the GPU, after one to warm up."""
    import torch

    run()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def products(layer: LayerShape, batch: int) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """(M, K, N) of a layer's three GEMMs, laid out as `quaver.torch.layers` lays them out."""
    places = batch * layer.positions
    yield "forward", (layer.out_channels, layer.forward, places)
    yield "backward", (layer.in_channels, layer.backward, places)
    yield "gradient", (layer.forward, places, layer.out_channels)


def held_to_golden(device: Any) -> None:
    """RuntimeError: this GPU computes other bits."""
    import torch

    import quaver.torch as qt

    rng = np.random.default_rng(1)
    a, b = (quaver.FP8.encode(rng.normal(size=shape)) for shape in ((256, 640), (640, 256)))
    for arithmetic in (NEAREST, STOCHASTIC):
        seed = 7 if arithmetic.stochastic else None
        found = qt.gemm(arithmetic, *(torch.from_numpy(x).to(device) for x in (a, b)), seed=seed)
        if not np.array_equal(found.cpu().numpy(), arithmetic.gemm(a, b, seed=seed)):
            raise RuntimeError(
                f"{torch.cuda.get_device_name(device)} has not the golden bits of {arithmetic!r}"
            )


def measured(device: Any, batch: int, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Rates (trillion MAC/s, GB/s, seconds) and ratios, by name."""
    import torch

    import quaver.torch as qt

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False

    def codes(*shape: int) -> Any:
        return qt.encode(torch.randn(shape, device=device), quaver.FP8)

    def gemm(arithmetic: Any, M: int, K: int, N: int) -> float:
        a, b, seed = codes(M, K), codes(K, N), 7 if arithmetic.stochastic else None
        return seconds(lambda: qt.gemm(arithmetic, a, b, seed=seed), rounds)

    macs = SIDE**3
    x, y = (torch.randn(SIDE, SIDE, device=device) for _ in range(2))
    rates = {"cuBLAS float32": macs / seconds(lambda: x @ y, rounds) / 1e12}
    for name, arithmetic in (("nearest", NEAREST), ("stochastic", STOCHASTIC)):
        rates[name] = macs / gemm(arithmetic, SIDE, SIDE, SIDE) / 1e12
    ratios = {name: rates[name] / rates["cuBLAS float32"] for name in ("nearest", "stochastic")}

    work, time = dict.fromkeys(PASSES, 0), dict.fromkeys(PASSES, 0.0)
    for number, layer in enumerate(resnet18_imagenet().layers):
        for name, (M, K, N) in products(layer, batch):
            if number or name != "backward":  # nobody asks for the error of the images
                work[name] += M * K * N
                time[name] += gemm(NEAREST, M, K, N)
    for name in PASSES:
        rates[f"ResNet-18 {name}"] = work[name] / time[name] / 1e12
        ratios[f"ResNet-18 {name}"] = rates[f"ResNet-18 {name}"] / rates["nearest"]

    for name, (rate, ratio) in casts(device, rounds).items():
        rates[name], ratios[name] = rate, ratio
    rates["float32 step"], rates["ResNet-18 step"] = (
        step(device, batch, rounds, fp8) for fp8 in (False, True)
    )
    ratios["ResNet-18 step"] = rates["ResNet-18 step"] / rates["float32 step"]
    return rates, ratios


def casts(device: Any, rounds: int) -> dict[str, tuple[float, float]]:
    """GB/s read and written by a cast between float32 and FP8, and the ratio to a copy's."""
    import torch

    import quaver.torch as qt

    values = torch.randn(1 << 28, device=device)
    coded, copy = qt.encode(values, quaver.FP8), torch.empty_like(values)
    copied = 8 * values.numel() / seconds(lambda: copy.copy_(values), rounds) / 1e9
    encoded = 5 * values.numel() / seconds(lambda: qt.encode(values, quaver.FP8), rounds) / 1e9
    decoded = 5 * values.numel() / seconds(lambda: qt.decode(coded, quaver.FP8), rounds) / 1e9
    return {"encode": (encoded, encoded / copied), "decode": (decoded, decoded / copied)}


def step(device: Any, batch: int, rounds: int, fp8: bool) -> float:
    """Seconds of a training step of ResNet-18 at 224×224."""
    import torch

    import quaver.torch as qt

    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    from resnet import resnet18

    model, recipe = resnet18(1000), quaver.recipes.fp8
    if fp8:
        qt.convert(model, recipe)
    model.to(device)
    parameters = model.parameters()
    plain, rounded = torch.optim.SGD, qt.SGD
    optimiser: Any = rounded(parameters, recipe, lr=0.05) if fp8 else plain(parameters, lr=0.05, momentum=0.9)
    images = torch.randn(batch, 3, 224, 224, device=device)
    labels = torch.randint(1000, (batch,), device=device)

    def once() -> None:
        optimiser.zero_grad()
        logits = model(images)
        if fp8:
            optimiser.scale(qt.cross_entropy(logits, labels, recipe)).backward()
        else:
            torch.nn.functional.cross_entropy(logits, labels).backward()
        optimiser.step()

    return seconds(once, max(3, rounds // 2))


UNITS = {"encode": "GB/s", "decode": "GB/s", "float32 step": "s", "ResNet-18 step": "s"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit status 1 where a target is missed")
    parser.add_argument("--batch", type=int, default=256, help="images of ResNet-18 (256)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    try:
        from quaver.torch.cuda import Gpu

        device = Gpu(options.device).device
    except (ImportError, RuntimeError) as error:
        print(f"bench/gpu.py: {error}", file=sys.stderr)
        return 2
    import torch

    held_to_golden(device)
    rates, ratios = measured(device, options.batch, options.rounds)
    failures = missed(ratios)
    if options.json:
        about = {"gpu": torch.cuda.get_device_name(device), "torch": torch.__version__}
        print(json.dumps(about | {"rates": rates, "ratios": ratios, "missed": failures}))
    else:
        table = Table(title=f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}")
        for header in ("", "rate", "ratio", "target"):
            table.add_column(header, justify="right" if header else "left")
        for name, rate in rates.items():
            ratio = f"{ratios[name]:.3f}" if name in ratios else ""
            target = (
                f"{'≤' if name == 'ResNet-18 step' else '≥'} {TARGETS[name]:.3f}" if name in TARGETS else ""
            )
            table.add_row(name, f"{rate:.3g} {UNITS.get(name, 'T MAC/s')}", ratio, target)
        Console().print(table)
        for failure in failures:
            print(f"missed: {failure}", file=sys.stderr)
    return 1 if options.check and failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
