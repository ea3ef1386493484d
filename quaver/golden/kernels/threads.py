"""Threads that share the work of a kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any


def each(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], threads: int) -> None:
    """function(*job) for every job, on this thread and `threads` − 1 more.

    The kernels leave the interpreter's lock, so threads do run at once.
    """
    if threads == 1 or len(jobs) == 1:
        for job in jobs:
            function(*job)
        return
    pool = _pool(threads - 1, os.getpid())
    here = range(0, len(jobs), threads)
    others = [pool.submit(function, *job) for i, job in enumerate(jobs) if i not in here]
    try:
        for i in here:
            function(*jobs[i])
    finally:
        for other in others:
            other.exception()
    for other in others:
        other.result()


@cache
def _pool(count: int, process: int) -> ThreadPoolExecutor:
    """Kept for a process, because starting a thread takes as long as a small product, and because a forked
    process has none of its parent's threads."""
    return ThreadPoolExecutor(count)
