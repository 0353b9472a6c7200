"""D-RISE (Petsiuk et al. 2021), the baseline of sections 4.2 and 6."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import checks
from ..detection import Canvas
from ..masks import MOST, grid_masks
from ..sampling import Level, Plan
from .method import Maps, Method


@dataclass(frozen=True)
class Drise(Method):
    """The weighted sum of random grid masks, ``sum_i w_i M_i / (N p)``.

    That is RISE's estimate of E[w | pixel kept]. It divides by the expected number of masks
    that keep a pixel. D-CLOSE counts them in its density map.

    Parameters
    ----------
    n_masks : int
        Masked images, at least 1.
    grid : (rows, columns)
        Resolution of the masks.
    p : float
        Probability that a cell is kept, in (0, 1).
    """

    n_masks: int = 5000
    grid: tuple[int, int] = (16, 16)
    p: float = 0.5

    def __post_init__(self) -> None:
        checks.count("n_masks", self.n_masks)
        checks.probability("p", self.p)
        checks.pair("grid", self.grid, MOST)

    def plan(self, canvas: Canvas, seed: int) -> Plan:
        size, device = canvas.content[2:], canvas.pixels.device
        return Plan([grid_masks(size, grid=self.grid, p=self.p, seed=seed, device=device)], [self.n_masks])

    def combine(self, levels: list[Level]) -> Maps:
        (level,) = levels
        return Maps((level.weighted_sum / (max(len(level.weights), 1) * self.p)).astype(np.float32))
