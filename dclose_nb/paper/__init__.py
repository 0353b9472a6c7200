"""The paper's figures: how each is drawn, the cases they show, and the gallery that keeps them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["figures", "gallery"])
