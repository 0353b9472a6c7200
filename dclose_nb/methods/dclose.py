"""D-CLOSE: the seven steps of section 3.5 (Truong et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from .. import checks
from ..checks import InputError
from ..detection import Canvas
from ..fusion import cascade
from ..masks import MOST, SEGMENTS, superpixel_masks, superpixels
from ..sampling import Level, Plan
from .method import Maps, Method


@dataclass(frozen=True)
class Pyramid(Method):
    """The base of all methods that mask superpixels on several levels (section 3.1).

    Parameters
    ----------
    n_masks : int
        Masked images over all levels, at least one a level. A remainder goes to the finest levels.
    segments : sequence of int
        Superpixels of each level (section 4.2).
    p : float
        Probability that a superpixel is kept, in (0, 1).
    r : float
        Resize offset, 0 to 1000.
    """

    least: ClassVar[int] = 1  # fewest masks of a level

    n_masks: int = 4000
    segments: tuple[int, ...] = SEGMENTS
    p: float = 0.5
    r: float = 2.2

    def __post_init__(self) -> None:
        if not isinstance(self.segments, tuple | list) or not self.segments:
            raise InputError(f"segments must be a list of integers, got {self.segments!r}")
        for n_segments in self.segments:
            checks.count("segments", n_segments)
        if checks.count("n_masks", self.n_masks) < self.least * len(self.segments):
            least = f"{('one', 'two')[self.least - 1]} for each of {len(self.segments)} levels"
            raise InputError(f"n_masks must be at least {least}, got {self.n_masks}")
        if self.most is not None and self.n_masks > self.most:
            called = type(self).__name__.lower()
            raise InputError(f"n_masks must be at most {self.most} for {called}, got {self.n_masks}")
        checks.probability("p", self.p)
        checks.at_least("r", self.r, 0, largest=MOST, integer=False)

    @property
    def counts(self) -> list[int]:
        """Masks of each level, finest first."""
        share, rest = divmod(self.n_masks, len(self.segments))
        return [share + (level < rest) for level in range(len(self.segments))]

    def plan(self, canvas: Canvas, seed: int) -> Plan:
        """Step 1: superpixels and masks of each level, finest first."""
        finest_first = sorted(self.segments, reverse=True)
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # SLIC takes as long as fifty passes
            cut = list(threads.map(partial(superpixels, canvas.content_image), finest_first))
        masks = partial(superpixel_masks, p=self.p, r=self.r, seed=seed, device=canvas.pixels.device)
        return Plan([masks(labels, level=k) for k, labels in enumerate(cut)], self.counts)


@dataclass(frozen=True)
class Dclose(Pyramid):
    """D-CLOSE, with the paper's parameters.

    Parameters
    ----------
    n_masks, segments, p, r
        See `Pyramid`. The paper takes 800 masks on each of five levels.
    crops_per_draw : int
        1 draws each mask anew, as in the paper. The authors' program cuts 32 masks from each draw.
    proposals : {"all", "filtered"}
        Which proposals Eq. 6 uses: all, as in the paper, or those that the authors' program uses;
        see `similarity.mask_weights`.
    density : bool
        Whether a level is divided by its density map (Eq. 7). Otherwise it is divided by the
        expected density N p, as in Table 1's maps without density.
    fusion : {"cascade", "mean"}
        Eq. 8, or the mean of the levels, as in Table 1's maps without fusion.
    order : {"fine_to_coarse", "coarse_to_fine"}
        Order of the cascade. The authors' program goes from fine to coarse.
    """

    crops_per_draw: int = 1
    proposals: str = "all"
    density: bool = True
    fusion: str = "cascade"
    order: str = "fine_to_coarse"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("crops_per_draw", self.crops_per_draw)
        checks.choice("proposals", self.proposals, ("all", "filtered"))
        checks.flag("density", self.density)
        checks.choice("fusion", self.fusion, ("cascade", "mean"))
        checks.choice("order", self.order, ("fine_to_coarse", "coarse_to_fine"))

    @property
    def cascade_order(self) -> slice | None:
        step = 1 if self.order == "fine_to_coarse" else -1
        return slice(None, None, step) if self.fusion == "cascade" else None

    def plan(self, canvas: Canvas, seed: int) -> Plan:
        plan = super().plan(canvas, seed)
        samplers = [replace(sampler, crops_per_draw=self.crops_per_draw) for sampler in plan.samplers]
        return plan._replace(samplers=samplers, filtered=self.proposals == "filtered")

    def combine(self, levels: list[Level]) -> Maps:
        saliency = np.stack([level.saliency for level in levels])  # step 6, (L, n, h, w)
        density = np.stack([level.density.astype(np.float32) for level in levels])  # (L, h, w)
        return self.fuse(saliency, density, [len(level.weights) for level in levels])

    def fuse(self, levels: np.ndarray, density: np.ndarray, counts: Sequence[int]) -> Maps:
        """Step 7: fuse levels S_k (L, n, h, w), finest first; `counts` are their numbers of masks."""
        if not self.density:
            expected = self.p * np.maximum(counts, 1).astype(np.float32)  # (L,)
            levels = levels * (density / expected[:, None, None])[:, None]
        order = self.cascade_order
        saliency = levels.mean(axis=0) if order is None else cascade(levels[order])
        return Maps(saliency, levels, density)
