"""How the golden model is fast. A kernel is compiled, and its compiler imported, when it is first used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["clip", "float32", "maps"])
