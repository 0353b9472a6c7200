"""D-RISE (Petsiuk et al. 2021), the baseline of sections 4.2 and 6."""

from __future__ import annotations

import numpy as np

from .. import checks, engine
from ..checks import InputError
from ..detection import Canvas, Detections, Detector
from ..engine import Budget, Level, Maps, Watch
from ..masks import grid_masks


def drise(
    detector: Detector,
    canvas: Canvas,
    targets: Detections,
    *,
    n_masks: int = 5000,
    grid: tuple[int, int] = (16, 16),
    p: float = 0.5,
    tolerance: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    watch: Watch | None = None,
    progress: bool = True,
) -> Maps:
    """Explain all targets of one image by the weighted sum of random grid masks.

    The map is ``sum_i w_i M_i / (N p)``, RISE's estimate of E[w | pixel kept]: the number of masks
    that kept a pixel is taken at its expectation, not counted as D-CLOSE's density map does.

    Parameters
    ----------
    detector, canvas, targets
        A detector, the image as it prepared it, and n boxes in image pixels.
    n_masks : int
        Masked images, at least 1.
    grid : (rows, columns)
        Resolution of the masks.
    p : float
        Probability that a cell is kept, in (0, 1).
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
    check(n_masks=n_masks, grid=grid, p=p, tolerance=tolerance)
    sampler = grid_masks(canvas.content[2:], grid=grid, p=p, seed=seed, device=canvas.pixels.device)

    def finish(results: list[Level]) -> Maps:
        (result,) = results
        saliency = result.weighted_sum / (max(len(result.weights), 1) * p)
        return Maps(saliency.astype(np.float32), n_forward=len(result.weights))

    return engine.sample(
        detector,
        canvas,
        targets,
        [sampler],
        [n_masks],
        finish,
        budget=Budget(tolerance, watch),
        batch_size=batch_size,
        progress=progress,
    )


def check(*, n_masks: int, grid: tuple[int, int], p: float, tolerance: float | None) -> None:
    """Refuse options out of their range; see `drise`."""
    checks.at_least("n_masks", n_masks, 1)
    checks.probability("p", p)
    engine.check_tolerance(tolerance)
    if np.shape(grid) != (2,):
        raise InputError(f"grid must be (rows, columns), got {grid!r}")
    for cells in grid:
        checks.at_least("grid", cells, 1)
