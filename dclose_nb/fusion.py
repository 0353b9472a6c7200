"""Section 3.4: the cascade that fuses the levels, fine details first (Eq. 8, Fig. 3)."""

from __future__ import annotations

import numpy as np

from .checks import InputError


def min_max(maps: np.ndarray) -> np.ndarray:
    """Scale each map (..., h, w) to [0, 1]. A constant map becomes 0."""
    maps = np.asarray(maps)
    dtype = np.float32 if maps.dtype == np.float32 else np.float64
    maps = maps.astype(float) / 2  # the span of the largest numbers is finite
    low = maps.min(axis=(-2, -1), keepdims=True)
    span = maps.max(axis=(-2, -1), keepdims=True) - low
    # the rounding errors of a constant map must not become noise in [0, 1]
    rounding = 32 * np.finfo(dtype).eps * np.abs(maps).max(axis=(-2, -1), keepdims=True)
    varies = np.broadcast_to(span > rounding, maps.shape)
    return np.divide(maps - low, span, out=np.zeros_like(maps), where=varies).astype(dtype)


def cascade_steps(levels: np.ndarray) -> np.ndarray:
    """The intermediate maps of `cascade`: the first level, then A_1 to A_(L-1), (L, ..., h, w)."""
    levels = np.asarray(levels)
    if levels.ndim < 3 or 0 in (levels.shape[0], *levels.shape[-2:]):
        raise InputError(f"levels must be (L, ..., h, w) with L of at least 1, got shape {levels.shape}")
    if not np.isfinite(levels).all():
        raise InputError("levels must be finite numbers")
    first, *rest = min_max(levels)
    steps = [first]
    for level in rest:
        steps.append((steps[-1] + level) * level)
    return np.stack(steps)


def cascade(levels: np.ndarray) -> np.ndarray:
    """Fuse the levels: ``A_k = (A_(k-1) + S_(k+1)) S_(k+1)``, from ``A_0 = S_1`` (Eq. 8).

    A pixel that is 0 on the last (coarsest) level is 0 in the result. It gains from every level on
    which it is high.

    Parameters
    ----------
    levels : (L, ..., h, w) array
        Maps S_k, finest first, of any finite range; each is scaled to [0, 1] here.

    Returns
    -------
    (..., h, w) float array in [0, L]

    Raises
    ------
    InputError
        No level, fewer than three dimensions, or values that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> fine, coarse = [[0.0, 0.5, 1.0]], [[0.0, 1.0, 1.0]]
    >>> cascade(np.array([fine, coarse]))
    array([[0. , 1.5, 2. ]])
    """
    return cascade_steps(levels)[-1]
