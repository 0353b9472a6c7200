"""The methods that `explain` knows, by name.

A method is a function ``(detector, canvas, targets, *, watch, progress, **own)`` that returns `Maps`, and a
function that refuses its own options where they are out of range. Of `n_masks`, `seed` and
`batch_size` it names those that it has a use for. To add one, write the two and name them in
`METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..engine import Maps
from . import contrast, dclose, drise, gradcam, mfpp, sodex


class Method(NamedTuple):
    """A way to explain detections."""

    run: Callable[..., Maps]
    check: Callable[..., None]


METHODS = {
    "dclose": Method(dclose.dclose, dclose.check),
    "contrast": Method(contrast.contrast, contrast.check),
    "drise": Method(drise.drise, drise.check),
    "mfpp": Method(mfpp.mfpp, mfpp.check),
    "gradcam": Method(gradcam.gradcam, gradcam.check),
    "sodex": Method(sodex.sodex, sodex.check),
}

__all__ = ["METHODS", "Maps", "Method"]
