"""Section 3.3: how often each pixel was kept, and the mean over the masks that kept it (Eq. 3, 4, 7)."""

from __future__ import annotations

import numpy as np


def density_map(masks: np.ndarray) -> np.ndarray:
    """Sum of masks (N, h, w) in [0, 1], ``P(i, j) = sum_k M_k(i, j)`` (Eq. 3); (h, w) in [0, N]."""
    return np.sum(masks, axis=0)


def normalise(weighted_sum: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Divide a weighted sum of masks by their density, ``S = S'' / P`` (Eq. 4 and 7).

    Parameters
    ----------
    weighted_sum : (..., h, w) array
        ``sum_k w_k M_k``.
    density : (h, w) array
        ``sum_k M_k``.

    Returns
    -------
    (..., h, w) float64 array
        The mean weight of the masks that kept each pixel; 0 if no mask kept it.
    """
    weighted_sum = np.asarray(weighted_sum, dtype=float)
    kept = np.broadcast_to(density, weighted_sum.shape) > 0
    return np.divide(weighted_sum, density, out=np.zeros_like(weighted_sum), where=kept)


def vary(weights: np.ndarray) -> np.ndarray:
    """Whether each target's weights (N, n) differ by more than the rounding errors of float32, (n,) bool."""
    low, high = weights.min(axis=0, initial=np.inf), weights.max(axis=0, initial=-np.inf)
    return high - low > 32 * np.finfo(np.float32).eps * high


def contrast(weighted_sum: np.ndarray, density: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean weight of the masks that kept a pixel, minus that of the masks that hid it.

    For a pixel without effect, Eq. 4 gives about the mean weight of all masks, but the contrast is about
    0. If masks keep half of the pixels, an effect shifts the contrast twice as far as it shifts Eq. 4.

    Parameters
    ----------
    weighted_sum : (n, h, w) array
        ``sum_k w_k M_k`` for n targets.
    density : (h, w) array
        ``sum_k M_k``.
    weights : (N, n) array
        ``w_k``.

    Returns
    -------
    (n, h, w) float64 array in [-1, 1]
        0 if every mask kept a pixel, if none did, or if a target's weights do not `vary`.
    """
    kept = normalise(weighted_sum, density)
    hidden = normalise(weights.sum(0, dtype=float)[:, None, None] - weighted_sum, len(weights) - density)
    both = (density > 0) & (density < len(weights)) & vary(weights)[:, None, None]
    return np.where(both, kept - hidden, 0)
