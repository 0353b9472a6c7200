"""Regression: the weights are regressed on the masks, so that a map needs a twentieth of the passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import solve

from ..checks import InputError
from ..fusion import cascade, min_max
from ..sampling import Level
from .contrast import Contrast, leak
from .method import Maps

SCALES = (0.03, 0.06, 0.12, 0.24)  # of the kernels, as shares of the image's sides, finest first
NOISE = 0.5  # share of the weights' variance that is assumed not to be explained by effects of pixels
GRID = 64  # masks are compared at about this many points of the longer side
MOST = 2000  # masks, since all pairs of them are compared


@dataclass(frozen=True)
class Regression(Contrast):
    """Our own method: the product of two estimates of a pixel's effect, from the masks of `Contrast`.

    `Contrast` compares the masks that kept a pixel with those that hid it, whatever they did to all other
    pixels. What these do to the weight is noise. Regression explains the weights by all pixels at once:

    ``w_i = b + sum_x f(x) (m_i(x) - m(x)) + e_i``, with the mean mask m,

    so that one pixel's effect is not charged to another. An image has more pixels than masks, so the
    effects f must be smooth: f is a sum of four parts, each smooth on a scale of its own. This is kernel
    ridge regression, and also the posterior mean of a Gaussian process (Rasmussen and Williams 2006,
    section 2.2). One N x N system serves all targets. Three steps make the map:

    - The cascade (Eq. 8) fuses the parts of f, finest first. The result is smooth, and its noise is low.
    - The contrasts of the levels are averaged with equal weights. The result is noisy, but sharp. It is
      scaled to [0, 1].
    - The map is the product of the two.

    Negative values of the parts and of the mean contrast are cut to a twentieth before that.

    Parameters
    ----------
    n_masks : int
        Masked images over all levels, from two a level to 2000.
    segments, p, r
        See `Pyramid`.
    """

    cascade_order: ClassVar[None] = None  # of the levels: the cascade fuses the parts of f

    n_masks: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_masks > MOST:
            raise InputError(f"n_masks must be at most {MOST} for regression, got {self.n_masks}")

    def combine(self, levels: list[Level]) -> Maps:
        contrasts = np.stack([level.contrast for level in levels])  # (L, n, h, w)
        density = np.stack([level.density.astype(np.float32) for level in levels])  # (L, h, w)
        smooth = cascade(leak(effects(levels)).astype(np.float32))
        return Maps(smooth * min_max(leak(contrasts.mean(axis=0))), contrasts, density)


def effects(levels: list[Level]) -> np.ndarray:
    """The parts of f, one for each of `SCALES`: (4, n, h, w) float64.

    ``f_s = K_s M' (sum_s M K_s M' + noise)^-1 (w - mean)``, where the rows of M are the masks less
    their mean, at every few pixels. K_s is a Gaussian kernel of distances in shares of the sides. It is
    scaled so that each part is expected to explain the same share of the weights' variance.
    """
    height, width = levels[0].sampler.shape
    fine = max(1, int(min(SCALES) * min(height, width)))  # so that the finest kernel covers the gaps
    step = min(-(-max(height, width) // GRID), fine)
    masks = [level.sampler.coarse_masks(level.numbers.tolist(), step).cpu().numpy() for level in levels]
    kept = np.concatenate(masks).astype(float)  # (N, rows, columns)
    weights = np.concatenate([level.weights for level in levels]).astype(float)  # (N, n)
    if not len(kept):
        return np.zeros((len(SCALES), weights.shape[1], height, width))
    kept -= kept.mean(axis=0)
    weights = np.where(np.ptp(weights, axis=0) > 0, weights - weights.mean(axis=0), 0)  # no rounding errors

    sides = np.arange(height) / height, np.arange(width) / width
    parts, covariance = [], NOISE * np.eye(len(kept))
    for scale in SCALES:
        down, across = (np.exp(-(((at[:, None] - at[::step]) / scale) ** 2) / 2) for at in sides)
        blurred = down[::step] @ kept @ across[::step].T
        products = blurred.reshape(len(kept), -1) @ kept.reshape(len(kept), -1).T  # M K M', (N, N)
        size = np.trace(products) / len(kept) or 1.0  # 0 if all masks are the same
        share = (1 - NOISE) / len(SCALES) / size
        covariance += share * products
        parts.append((share, down, across))
    solved = solve(covariance, weights, assume_a="pos")  # (N, n)
    summed = np.tensordot(solved.T, kept, 1)  # (n, rows, columns)
    return np.stack([share * (down @ summed @ across.T) for share, down, across in parts])
