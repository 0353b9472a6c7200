"""What a method gives back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Maps(NamedTuple):
    """Maps of n targets in the frame of the canvas's content, (h, w)."""

    saliency: np.ndarray  # (n, h, w) float32
    n_forward: int  # masked images the network saw
    levels: np.ndarray | None = None  # (L, n, h, w) float32, finest first
    density: np.ndarray | None = None  # (L, h, w) float32
