"""The floating-point environment that the golden model computes in, whatever the process has set.

Libraries built with -ffast-math, `torch.set_flush_denormal` and C's `fesetround` change how a thread treats
subnormal numbers and rounds, for everything that runs in it. No result here may depend on that: what computes
in floats is decorated, and gives the caller's environment back.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

#: More than any platform's fenv_t.
_ENVIRONMENT = ctypes.c_char * 256


def _library() -> Any:
    """The C library's mathematics: in the process on POSIX systems; elsewhere there is none to ask."""
    for name in ("libm.so.6", None):
        try:
            library = ctypes.CDLL(name)
            library.fegetenv.argtypes = library.fesetenv.argtypes = [ctypes.c_void_p]
        except (OSError, TypeError, AttributeError):
            continue
        return library
    return None


def _default(library: Any) -> ctypes.c_void_p:
    """FE_DFL_ENV: nearest even, subnormal numbers kept, no traps."""
    try:
        return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "_FE_DFL_ENV")))  # macOS
    except ValueError:
        return ctypes.c_void_p(-1)  # glibc and musl


_thread = threading.local()
_C = _library()
_DEFAULT = _default(_C) if _C else None


def standard_floats(function: Callable[P, R]) -> Callable[P, R]:
    """`function` run with IEEE 754's defaults, nearest even and gradual underflow, in its threads too."""
    if _C is None:
        return function

    @wraps(function)
    def in_standard_environment(*args: P.args, **kwargs: P.kwargs) -> R:
        if getattr(_thread, "is_standard", False):  # a decorated function has called this one
            return function(*args, **kwargs)
        before = _ENVIRONMENT()
        _C.fegetenv(before)
        _C.fesetenv(_DEFAULT)
        _thread.is_standard = True
        try:
            return function(*args, **kwargs)
        finally:
            _thread.is_standard = False
            _C.fesetenv(before)

    return in_standard_environment
