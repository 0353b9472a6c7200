"""D-CLOSE: the seven steps of section 3.5 (Truong et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from .. import checks, engine
from ..checks import InputError
from ..detection import Canvas, Detections, Detector
from ..engine import Budget, Level, Maps, Watch
from ..fusion import cascade
from ..masks import SEGMENTS, MaskSampler, superpixel_masks, superpixels


def dclose(
    detector: Detector,
    canvas: Canvas,
    targets: Detections,
    *,
    n_masks: int = 4000,
    segments: Sequence[int] = SEGMENTS,
    p: float = 0.5,
    r: float = 2.2,
    crops_per_draw: int = 1,
    proposals: str = "all",
    density: bool = True,
    fusion: str = "cascade",
    order: str = "fine_to_coarse",
    tolerance: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    watch: Watch | None = None,
    progress: bool = True,
) -> Maps:
    """Explain all targets of one image.

    Parameters
    ----------
    detector, canvas, targets
        A detector, the image as it prepared it, and n boxes in image pixels.
    n_masks : int
        Masked images over all levels, at least one a level; what a division leaves goes to the
        finest levels. The paper's 800 on each of five.
    segments : sequence of int
        Superpixels of each level (section 4.2).
    p, r
        Probability that a superpixel is kept, in (0, 1), and resize offset, 0 or more.
    crops_per_draw : int
        1 draws each mask anew, as the paper says. The authors' program: 32.
    proposals : {"all", "filtered"}
        Which proposals Eq. 6 looks at: all, as the paper says, or the authors' program's choice;
        see `similarity.mask_weights`.
    density : bool
        Whether a level is divided by its density map (Eq. 7), or by the density that is expected,
        N p, which is the map without it in Table 1.
    fusion : {"cascade", "mean"}
        Eq. 8, or the mean of the levels, which is the map without it in Table 1.
    order : {"fine_to_coarse", "coarse_to_fine"}
        Order of the cascade. The authors' program goes from fine to coarse.
    tolerance : float, optional
        Stop before `n_masks` are used where the maps' error is no larger; see `engine.Budget`.
    seed : int
        0 or more.
    batch_size : int, optional
    watch : callable, optional
        See `engine.Budget`.
    progress : bool

    Returns
    -------
    Maps

    Raises
    ------
    InputError
        An option out of its range.
    """
    check(
        n_masks=n_masks,
        segments=segments,
        p=p,
        r=r,
        crops_per_draw=crops_per_draw,
        proposals=proposals,
        density=density,
        fusion=fusion,
        order=order,
        tolerance=tolerance,
    )
    # Step 1: superpixels and masks.
    samplers = pyramid(canvas, segments, p=p, r=r, seed=seed, crops_per_draw=crops_per_draw)

    def finish(results: list[Level]) -> Maps:
        levels = np.stack([result.saliency for result in results])  # (L, n, h, w)
        densities = np.stack([result.density.astype(np.float32) for result in results])  # (L, h, w)
        used = [len(result.weights) for result in results]
        if not density:
            levels = without_density(levels, densities, used, p)
        # Step 7: the cascade.
        return Maps(fuse(levels, fusion=fusion, order=order), sum(used), levels, densities)

    # Steps 2 to 6: mask, detect, score, add up, divide by the density.
    return engine.sample(
        detector,
        canvas,
        targets,
        samplers,
        split(n_masks, len(samplers)),
        finish,
        budget=Budget(tolerance, watch),
        batch_size=batch_size,
        filtered=proposals == "filtered",
        progress=progress,
    )


def pyramid(
    canvas: Canvas, segments: Sequence[int], *, p: float, r: float, seed: int, crops_per_draw: int = 1
) -> list[MaskSampler]:
    """Masks of each level, finest first, on the image as the network sees it; see `dclose`."""
    finest_first = sorted(segments, reverse=True)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # SLIC takes as long as fifty passes
        cut = list(threads.map(partial(superpixels, canvas.content_image), finest_first))
    return [
        superpixel_masks(
            labels,
            p=p,
            r=r,
            seed=seed,
            level=level,
            crops_per_draw=crops_per_draw,
            device=canvas.pixels.device,
        )
        for level, labels in enumerate(cut)
    ]


def pyramid_of(canvas: Canvas, params: Mapping[str, Any]) -> list[MaskSampler]:
    """The masks that levels were made of, given the explanation's `params`; see `pyramid`."""
    names = "segments", "p", "r", "seed", "crops_per_draw"
    return pyramid(canvas, **{name: params[name] for name in names if name in params})


def without_density(levels: np.ndarray, densities: np.ndarray, counts: Sequence[int], p: float) -> np.ndarray:
    """Levels divided by the density that is expected in place of the one that was counted.

    Parameters
    ----------
    levels : (L, n, h, w) array
        S_k of Eq. 7, finest first.
    densities : (L, h, w) array
        P_k of Eq. 3.
    counts : L ints
        Masks of each level.
    p : float
    """
    expected = p * np.maximum(counts, 1).astype(np.float32)  # (L,)
    return levels * (densities / expected[:, None, None])[:, None]


def fuse(levels: np.ndarray, *, fusion: str = "cascade", order: str = "fine_to_coarse") -> np.ndarray:
    """One map (n, h, w) of the levels (L, n, h, w), finest first; see `dclose` for the options."""
    if fusion == "mean":
        return levels.mean(axis=0)
    return cascade(levels if order == "fine_to_coarse" else levels[::-1])


def check(
    *,
    n_masks: int,
    segments: Sequence[int],
    p: float,
    r: float,
    crops_per_draw: int,
    proposals: str,
    density: bool,
    fusion: str,
    order: str,
    tolerance: float | None,
) -> None:
    """Refuse options out of their range; see `dclose`."""
    check_masks(n_masks=n_masks, segments=segments, p=p, r=r, tolerance=tolerance)
    checks.at_least("crops_per_draw", crops_per_draw, 1)
    checks.choice("proposals", proposals, ("all", "filtered"))
    if not isinstance(density, bool):
        raise InputError(f"density must be True or False, got {density!r}")
    checks.choice("fusion", fusion, ("cascade", "mean"))
    checks.choice("order", order, ("fine_to_coarse", "coarse_to_fine"))


def check_masks(
    *, n_masks: int, segments: Sequence[int], p: float, r: float, tolerance: float | None
) -> None:
    """Refuse what masks cannot be made from."""
    if np.ndim(segments) != 1 or not len(segments):
        raise InputError(f"segments must be a list of integers, got {segments!r}")
    for n_segments in segments:
        checks.at_least("segments", n_segments, 1)
    split(n_masks, len(segments))
    checks.probability("p", p)
    checks.at_least("r", r, 0, integer=False)
    engine.check_tolerance(tolerance)


def split(n_masks: int, n_levels: int) -> list[int]:
    """Share a budget of masks between levels, finest first: evenly, the remainder to the finest."""
    if checks.at_least("n_masks", n_masks, 1) < n_levels:
        raise InputError(f"n_masks must be at least one for each of {n_levels} levels, got {n_masks}")
    share, rest = divmod(n_masks, n_levels)
    return [share + (level < rest) for level in range(n_levels)]
