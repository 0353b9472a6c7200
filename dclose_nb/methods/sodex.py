"""SODEx (Sejr et al. 2021): LIME on a surrogate of the detector: the weight of one box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .. import checks
from ..density import vary
from ..detection import Canvas
from ..masks import superpixel_masks, superpixels
from ..sampling import Level, Plan
from ..similarity import lime_kernel
from .method import Maps, Method


@dataclass(frozen=True)
class Sodex(Method):
    """A linear model of a target's weight over superpixels that are kept or hidden.

    LIME's recipe (Ribeiro et al. 2016): ridge regression (alpha 1) of the weight (Eq. 6) on which
    superpixels were kept, samples weighted by `similarity.lime_kernel` of the cosine distance from
    the whole image. A pixel's value is its superpixel's coefficient, and can be negative.

    Parameters
    ----------
    n_masks : int
        Masked images, at least 1.
    segments : int
        Superpixels.
    p : float
        Probability that a superpixel is kept, in (0, 1).
    """

    n_masks: int = 1000
    segments: int = 100
    p: float = 0.5

    def __post_init__(self) -> None:
        checks.count("n_masks", self.n_masks)
        checks.count("segments", self.segments)
        checks.probability("p", self.p)

    def plan(self, canvas: Canvas, seed: int) -> Plan:
        cut = superpixels(canvas.content_image, self.segments)
        return Plan(
            [superpixel_masks(cut, p=self.p, r=0, seed=seed, device=canvas.pixels.device)], [self.n_masks]
        )

    def combine(self, levels: list[Level]) -> Maps:
        from sklearn.linear_model import Ridge  # here, since its import takes half a second

        (level,) = levels
        cells = level.sampler.cells.cpu().numpy()
        if not len(level.weights):
            return Maps(np.zeros((level.weights.shape[1], *cells.shape), dtype=np.float32))
        kept = torch.stack([level.sampler.kept(i) for i in level.numbers]).cpu().numpy()  # (N, S)
        distance = 1 - np.sqrt(kept.mean(axis=1))  # cosine distance from all ones
        near = lime_kernel(torch.from_numpy(distance)).numpy()
        model = Ridge(alpha=1).fit(kept, level.weights, sample_weight=near)
        effects = np.atleast_2d(model.coef_) * vary(level.weights)[:, None]  # (n, S)
        return Maps(effects[:, cells].astype(np.float32))
