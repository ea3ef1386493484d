"""What the numbers must be."""

import lazy_loader

from quaver.golden.caches import prepare

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["data"])

prepare()
