"""Quaver in PyTorch: formats and GEMMs on tensors, layers, conversion of models, optimisers.

::

    import quaver, quaver.torch
    print(quaver.torch.convert(model, quaver.recipes.fp8))
    optimiser = quaver.torch.SGD(model.parameters(), quaver.recipes.fp8, lr=0.1)

On the CPU it gives the golden model's bits, or those of any engine inside ``with quaver.torch.engine(E)``; on
an NVIDIA GPU the golden model's bits by the CUDA kernels (`docs/pytorch.md` says what is the GPU's own).
"""

try:
    import torch.nn as _nn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "quaver.torch needs PyTorch; install it: pip install torch, or for a CPU alone the smaller "
        "build that pytorch.org offers"
    ) from error

from quaver.torch.adacomp import AdaCompState, adacomp_hook
from quaver.torch.convert import Conversion, convert
from quaver.torch.elementwise import elementwise
from quaver.torch.engine import compare, engine
from quaver.torch.functions import batched_gemm, decode, encode, gemm, round
from quaver.torch.layers import Conv1d, Conv2d, Linear, matmul
from quaver.torch.loss import CrossEntropyLoss, cross_entropy
from quaver.torch.optimisers import SGD, Adam
from quaver.torch.quantisers import PACT
from quaver.torch.seeds import checkpoint_contexts, manual_seed, seeded
from quaver.torch.shapes import shapes

__all__ = [
    "PACT",
    "SGD",
    "AdaCompState",
    "Adam",
    "Conv1d",
    "Conv2d",
    "Conversion",
    "CrossEntropyLoss",
    "Linear",
    "adacomp_hook",
    "batched_gemm",
    "checkpoint_contexts",
    "compare",
    "convert",
    "cross_entropy",
    "decode",
    "elementwise",
    "encode",
    "engine",
    "gemm",
    "manual_seed",
    "matmul",
    "round",
    "seeded",
    "shapes",
]
