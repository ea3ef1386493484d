"""A GPU as far as there is one without: g++'s build of the CUDA kernels, on the CPU's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from quaver.sim.cuda import Processor
from quaver.torch import cuda


class OnProcessor(cuda.Tensors):
    """A machine of PyTorch's CPU tensors."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.processor = Processor(processors=8)
        self.processors, self.shared_memory = 8, self.processor.shared_memory

    def launch(self, program: Any, kernel: str, grid: Any, *arguments: Any, shared: int = 0) -> None:
        arrays = arguments[1:] if kernel.startswith("pack") else arguments  # which is told the strides
        assert all(x.is_contiguous() for x in arrays if isinstance(x, torch.Tensor))
        values = [np.uint64(x.data_ptr()) if isinstance(x, torch.Tensor) else x for x in arguments]
        self.processor.launch(program, kernel, grid, *values, shared=shared)


MACHINE = OnProcessor()
