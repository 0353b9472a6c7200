"""The methods that `explain` knows, by name.

A method is a function ``(detector, canvas, targets, *, n_masks, seed, batch_size, progress, **own)``
that returns `Maps`. It checks its options before it begins. To add one, write such a function and
name it in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable

from .dclose import dclose
from .drise import drise
from .maps import Maps

METHODS: dict[str, Callable[..., Maps]] = {"dclose": dclose, "drise": drise}

__all__ = ["METHODS", "Maps", "dclose", "drise"]
