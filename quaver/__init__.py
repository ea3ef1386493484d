"""Quaver: training neural networks in eight bits, from the equation to the bitstream.

The names of a library user are here, each imported when it is first used; the stub `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
