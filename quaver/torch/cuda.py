"""The CUDA kernels on a GPU: compiled by NVRTC through `cuda-core`, launched on PyTorch's tensors and stream.

Nothing is compiled at install. A program is compiled when it is first used, in seconds, and kept with what
else is compiled (`quaver cache`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quaver.golden import caches
from quaver.golden.kernels.cuda.machine import THREADS
from quaver.golden.kernels.cuda.source import Program

#: The oldest GPUs that the kernels are made for: Ampere. What came before has too little shared memory.
OLDEST = (8, 0)

_DTYPES: dict[Any, torch.dtype] = {
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.uint16): torch.uint16,
    np.dtype(np.uint32): torch.uint32,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}


class Tensors:
    """A `quaver.golden.kernels.cuda.machine.Machine`'s arrays as tensors on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._constants: dict[tuple[bytes, str], Tensor] = {}

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
        return torch.empty(shape, dtype=_DTYPES[np.dtype(dtype)], device=self.device)

    def zeros(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
        return torch.zeros(shape, dtype=_DTYPES[np.dtype(dtype)], device=self.device)

    def upload(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def constant(self, array: NDArray[Any]) -> Tensor:
        key = array.tobytes(), str(array.dtype)
        if key not in self._constants:
            self._constants[key] = self.upload(array)
        return self._constants[key]

    def download(self, array: Tensor) -> NDArray[Any]:
        return array.numpy(force=True)


class Gpu(Tensors):
    """A GPU as PyTorch has it: a `Machine`.

    Parameters
    ----------
    device
        "cuda", or one of several such as "cuda:1".

    Raises
    ------
    RuntimeError
        No GPU, one that is too old, or no cuda-core; the message says what to do.
    """

    def __init__(self, device: torch.device | str = "cuda") -> None:
        super().__init__(_usable(torch.device(device)))
        from cuda.core import Device

        about = Device(self.device.index).properties
        self.processors = about.multiprocessor_count
        self.shared_memory = about.max_shared_memory_per_block_optin
        self._arch = "sm_{}{}".format(*torch.cuda.get_device_capability(self.device))
        self._kernels: dict[tuple[Program, str, int], Any] = {}
        self._streams: dict[int, Any] = {}

    def launch(
        self, program: Program, kernel: str, grid: tuple[int, int, int], *arguments: Any, shared: int = 0
    ) -> None:
        from cuda.core import LaunchConfig, launch

        with torch.cuda.device(self.device):
            compiled = self._kernel(program, kernel, shared)
            config = LaunchConfig(grid=grid, block=THREADS, shmem_size=shared)
            launch(self._stream(), config, compiled, *map(_argument, arguments))

    def _stream(self) -> Any:
        from cuda.core import Device

        handle = torch.cuda.current_stream(self.device).cuda_stream
        if handle not in self._streams:
            device = Device(self.device.index)
            device.set_current()
            self._streams[handle] = device.create_stream(_Stream(handle))
        return self._streams[handle]

    def _kernel(self, program: Program, name: str, shared: int) -> Any:
        from cuda.bindings import driver
        from cuda.core import Device, ObjectCode

        if (program, name, shared) in self._kernels:
            return self._kernels[program, name, shared]
        Device(self.device.index).set_current()
        kernel = ObjectCode.from_cubin(compiled(program, self._arch)).get_kernel(name)
        if shared:  # a block has 48 KiB unless more is asked for
            what = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            error, ordinal = driver.cuDeviceGet(self.device.index)
            if not int(error):
                (error,) = driver.cuKernelSetAttribute(what, shared, kernel.handle, ordinal)
            if int(error):
                raise RuntimeError(f"{shared} bytes of shared memory were refused for {name}: {error}")
        self._kernels[program, name, shared] = kernel
        return kernel


class _Stream:
    """A stream of PyTorch's as cuda-core takes it."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def _argument(value: Any) -> Any:
    """A kernel's argument: a pointer as an integer, or a NumPy scalar."""
    return 0 if value is None else value.data_ptr() if isinstance(value, Tensor) else value


def _usable(device: torch.device) -> torch.device:
    """`device` with its number. RuntimeError: the kernels cannot run there."""
    if device.type != "cuda":
        raise RuntimeError(f"the device is {device}, but CUDA kernels run on cuda; move the tensors there")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            f"it is built for CUDA {built}, but finds no GPU or driver"
            if built
            else "it is built for the CPU"
        )
        raise RuntimeError(
            f"PyTorch has no CUDA here: {why}; install a GPU's driver and a PyTorch for CUDA "
            f"(https://pytorch.org/get-started), or compute on the CPU"
        )
    found = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if found.index >= torch.cuda.device_count():
        raise RuntimeError(
            f"the device is {found}, but there are {torch.cuda.device_count()} GPUs, from cuda:0"
        )
    if (capability := torch.cuda.get_device_capability(found)) < OLDEST:
        raise RuntimeError(
            f"{found} is a {torch.cuda.get_device_name(found)} of compute capability "
            f"{'.'.join(map(str, capability))}, but Quaver's kernels need {'.'.join(map(str, OLDEST))} "
            f"(Ampere) or later; compute on the CPU"
        )
    try:
        import cuda.bindings.nvrtc
        import cuda.core  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"Quaver's CUDA kernels need cuda-core ({error}); install it: pip install 'cuda-core>=1'"
        ) from None
    return found


def compiled(program: Program, arch: str) -> bytes:
    """The cubin of a program for an architecture such as "sm_90", from the cache where it is.

    It needs NVRTC and no GPU. RuntimeError: NVRTC refused it; the message has what it said.
    """
    from cuda.bindings import nvrtc
    from cuda.core import Program as Source
    from cuda.core import ProgramOptions

    # A product and a sum are one operation where it is written, and nowhere else.
    options = {"arch": arch, "std": "c++17", "fma": False, "ftz": False}
    version = nvrtc.nvrtcVersion()[1:]
    digest = hashlib.sha256(repr((program.text, options, version)).encode()).hexdigest()[:24]
    kept = caches.place("cuda", f"{digest}.cubin")
    with caches.building(kept) as work:
        if work:
            try:
                code = Source(program.text, "c++", ProgramOptions(**options)).compile("cubin").code
            except Exception as error:  # of cuda-core's own
                raise RuntimeError(f"NVRTC does not compile for {arch}: {error}") from error
            (work / "kernels.cubin").write_bytes(code)
            os.replace(work / "kernels.cubin", kept)
    return kept.read_bytes()


@cache
def _gpu(index: int) -> Gpu:
    return Gpu(torch.device("cuda", index))


def machine_for(device: torch.device) -> Any:
    """The `Machine` of a tensor's device; errors as of `Gpu`."""
    found = _usable(device) if device.index is None else device
    return _gpu(found.index)


#: How the functions below find a tensor's machine; tests put a processor in its place.
find_machine: Callable[[torch.device], Any] = machine_for
