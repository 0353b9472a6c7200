"""Regression: the weights are regressed on the masks, so that a map needs a twentieth of the passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import inv, solve
from scipy.ndimage import gaussian_filter

from ..density import contrast, vary
from ..fusion import cascade, min_max
from ..sampling import Level
from .contrast import Contrast, leak
from .method import Maps

SCALES = (0.03, 0.06, 0.12, 0.24)  # of the kernels, as shares of the image's sides, finest first
NOISE = 0.5  # share of the weights' variance that is assumed not to be explained by effects of pixels
GRID = 64  # masks are compared at about this many points of the longer side, or more
MOST = 2000  # masks, since all pairs of them are compared
GROUPS = 20  # of masks, each of which is left out once to estimate the error
POOL = 0.02  # of the sides: over such distances squared errors are averaged, since few groups make them rough


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

    The error of the map comes from the same masks, by the jackknife: see `Fit.error`.

    Parameters
    ----------
    n_masks : int
        Masked images over all levels, from two a level to 2000.
    segments, p, r
        See `Pyramid`.
    """

    cascade_order: ClassVar[None] = None  # of the levels: the cascade fuses the parts of f
    own_error: ClassVar[bool] = True
    most: ClassVar[int | None] = MOST

    n_masks: int = 200

    def combine(self, levels: list[Level]) -> Maps:
        contrasts = np.stack([level.contrast for level in levels])  # (L, n, h, w)
        density = np.stack([level.density.astype(np.float32) for level in levels])  # (L, h, w)
        if not any(len(level.weights) for level in levels):  # there is nothing to explain
            return Maps(contrasts[0], contrasts, density, contrasts[0])
        fitted = Fit(levels)
        saliency = product(fitted.effects(), contrasts.mean(axis=0))
        return Maps(saliency.astype(np.float32), contrasts, density, fitted.error())


def product(parts: np.ndarray, mean_contrast: np.ndarray) -> np.ndarray:
    """The map (n, h, w): the cascade of the parts of f (4, n, h, w), times the mean contrast (n, h, w)."""
    return cascade(leak(parts).astype(np.float32)) * min_max(leak(mean_contrast))


class Fit:
    """The regression of the weights on the masks, at every few pixels of the content.

    ``f_s = K_s M' A (w - mean)`` with ``A = (sum_s M K_s M' + noise)^-1``, where the rows of M are the masks
    less their mean. K_s is a Gaussian kernel of distances in shares of the sides. It is scaled so that each
    part is expected to explain the same share of the weights' variance.
    """

    def __init__(self, levels: list[Level]) -> None:
        self.levels = levels
        height, width = levels[0].sampler.shape
        fine = max(1, int(min(SCALES) * min(height, width)))  # so that the finest kernel covers the gaps
        self.step = min(-(-max(height, width) // GRID), fine)
        self.masks = [
            level.sampler.coarse_masks(level.numbers.tolist(), self.step).cpu().numpy().astype(float)
            for level in levels
        ]
        self.kept = np.concatenate(self.masks)  # (N, rows, columns)
        self.n_masks = len(self.kept)
        self.kept -= self.kept.mean(axis=0)
        weights = np.concatenate([level.weights for level in levels]).astype(float)  # (N, n)
        weights = np.where(vary(weights), weights - weights.mean(axis=0), 0)

        sides = np.arange(height) / height, np.arange(width) / width
        self.kernels, covariance = [], NOISE * np.eye(self.n_masks)
        for scale in SCALES:
            down, across = (np.exp(-(((at[:, None] - at[:: self.step]) / scale) ** 2) / 2) for at in sides)
            blurred = down[:: self.step] @ self.kept @ across[:: self.step].T
            products = np.tensordot(blurred, self.kept, ((1, 2), (1, 2)))  # M K M', (N, N)
            size = np.trace(products) / self.n_masks or 1.0  # 0 if all masks are the same
            share = (1 - NOISE) / len(SCALES) / size
            covariance += share * products
            self.kernels.append((share, down, across))
        self.inverse = inv(covariance)  # A, (N, N)
        self.solved = self.inverse @ weights  # (N, n)

    def effects(self, solved: np.ndarray | None = None, step: int = 1) -> np.ndarray:
        """The parts of f at every `step`-th pixel, one for each of `SCALES`: (4, n, h, w) float64.

        `solved` is ``A (w - mean)``, by default of all masks.
        """
        solved = self.solved if solved is None else solved
        summed = np.tensordot(solved.T, self.kept, 1)  # (n, rows, columns)
        parts = [share * (down[::step] @ summed @ across[::step].T) for share, down, across in self.kernels]
        return np.stack(parts)

    def error(self) -> np.ndarray:
        """Standard error of the map scaled to [0, 1], by the jackknife: (n, h, w) float32.

        The masks are dealt into groups, and each group is left out once (Efron and Tibshirani 1993,
        section 11.5). The solution without a group follows from A by its inverse in blocks.
        """
        count = min(GROUPS, self.n_masks)
        group = np.arange(self.n_masks) % count
        ends = np.cumsum([len(masks) for masks in self.masks])[:-1]
        weights = [level.weights.astype(float) for level in self.levels]
        maps = []
        for out in (group == one for one in range(count)):
            block = self.inverse[:, out]
            solved = self.solved - block @ solve(block[out], self.solved[out], assume_a="pos")
            contrasts = [
                contrast(np.tensordot(w[rest].T, m[rest], 1), m[rest].sum(axis=0), w[rest])
                for m, w, rest in zip(self.masks, weights, np.split(~out, ends))
            ]
            maps.append(min_max(product(self.effects(solved, self.step), np.mean(contrasts, axis=0))))
        squares = (count - 1) * np.var(maps, axis=0)
        squares = gaussian_filter(squares, [POOL * side for side in squares.shape[1:]], axes=(1, 2))
        rows, columns = (np.arange(side) // self.step for side in self.levels[0].sampler.shape)
        return np.sqrt(squares)[:, rows][:, :, columns].astype(np.float32)
