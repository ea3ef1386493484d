"""The product of two float32 matrices, the same bits on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import LibController, ThreadpoolController

Matrix = NDArray[np.float32]

#: Multiply-accumulates of one block, about: a millisecond of one core.
BLOCK_MACS = 1 << 25


@cache
def _blas() -> list[LibController]:
    """The process's BLAS libraries: NumPy's, and whoever else's."""
    return ThreadpoolController().select(user_api="blas").lib_controllers


@contextmanager
def _one_thread_each() -> Iterator[None]:
    # As ThreadpoolController.limit, at a tenth of its time: a small product takes a few microseconds.
    before = [(library, library.get_num_threads()) for library in _blas()]
    try:
        for library, _ in before:
            library.set_num_threads(1)
        yield
    finally:
        for library, threads in before:
            library.set_num_threads(threads)


def matmul(a: Matrix, b: Matrix) -> Matrix:
    """a @ b of (M, K) and (K, N).

    A BLAS that divides the work itself may sum in another order with every number of threads. So the longer
    side of the result is cut into blocks whose size depends on the shapes alone, and each is one thread's.
    The bits are those of this machine's BLAS: another processor's may sum in another order.
    """
    (M, K), N = a.shape, b.shape[1]
    c = np.empty((M, N), np.result_type(a, b))
    step = max(64, -(-BLOCK_MACS // max(K * min(M, N), 1) // 64) * 64)
    blocks = [slice(i, i + step) for i in range(0, max(M, N), step)]

    def compute(block: slice) -> None:
        if M >= N:
            np.matmul(a[block], b, out=c[block])
        else:
            np.matmul(a, b[:, block], out=c[:, block])

    with _one_thread_each():
        if len(blocks) == 1 or numba.get_num_threads() == 1:
            for block in blocks:
                compute(block)
        else:
            with ThreadPoolExecutor(numba.get_num_threads()) as pool:
                list(pool.map(compute, blocks))
    return c
