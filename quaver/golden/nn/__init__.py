"""Layers, models, recipes and the training loop."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["models", "recipes"])
