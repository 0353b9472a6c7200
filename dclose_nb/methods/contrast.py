"""Contrast: D-CLOSE's masks and cascade with another estimator, for a tenth of the passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import engine
from ..checks import InputError
from ..detection import Canvas, Detections, Detector
from ..engine import Budget, Level, Maps, Watch
from ..fusion import cascade
from ..masks import SEGMENTS
from . import dclose

LEAK = 0.05  # share of a negative contrast that stays, so that harmful pixels still rank last


def contrast(
    detector: Detector,
    canvas: Canvas,
    targets: Detections,
    *,
    n_masks: int = 400,
    segments: Sequence[int] = SEGMENTS,
    p: float = 0.5,
    r: float = 2.2,
    tolerance: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    watch: Watch | None = None,
    progress: bool = True,
) -> Maps:
    """Explain all targets of one image by what keeping a pixel adds.

    Four things differ from `dclose`. A level is the contrast of masks that kept a pixel and masks
    that hid it (`density.contrast`), not the mean over those that kept it: what does not matter
    lies at 0 and not at a noisy plateau, which the cascade would multiply. Negative contrasts are
    cut to a twentieth. A level gets masks in proportion to the size of its superpixels, since few
    large ones find an object in fewer masks than many small ones. And a level is averaged with all
    coarser ones, which are less noisy.

    Parameters
    ----------
    detector, canvas, targets, segments, p, r, tolerance, seed, batch_size, watch, progress
        As for `dclose`.
    n_masks : int
        Masked images over all levels, at least two a level. 400 is what kept over-all and EBPG of D-CLOSE's
        4000 within 0.02 in ``benchmarks/quality.py``.

    Returns
    -------
    Maps

    Raises
    ------
    InputError
        An option out of its range.
    """
    check(n_masks=n_masks, segments=segments, p=p, r=r, tolerance=tolerance)
    samplers = dclose.pyramid(canvas, segments, p=p, r=r, seed=seed)

    def finish(results: list[Level]) -> Maps:
        contrasts = np.stack([result.contrast for result in results])  # (L, n, h, w)
        coarsest_first = np.cumsum(contrasts[::-1], axis=0)
        means = coarsest_first[::-1] / np.arange(len(results), 0, -1)[:, None, None, None]
        levels = np.where(means < 0, LEAK * means, means).astype(np.float32)
        densities = np.stack([result.density.astype(np.float32) for result in results])  # (L, h, w)
        used = sum(len(result.weights) for result in results)
        return Maps(cascade(levels), used, levels, densities)

    return engine.sample(
        detector,
        canvas,
        targets,
        samplers,
        share(n_masks, segments),
        finish,
        budget=Budget(tolerance, watch),
        batch_size=batch_size,
        progress=progress,
    )


def share(n_masks: int, segments: Sequence[int]) -> list[int]:
    """Share masks between levels, finest first: two each, and the rest as superpixels are large."""
    parts = 1 / np.array(sorted(segments, reverse=True))
    ends = np.round((n_masks - 2 * len(parts)) * np.cumsum(parts) / parts.sum()).astype(int)
    return (2 + np.diff(ends, prepend=0)).tolist()


def check(*, n_masks: int, segments: Sequence[int], p: float, r: float, tolerance: float | None) -> None:
    """Refuse options out of their range; see `contrast`."""
    dclose.check_masks(n_masks=n_masks, segments=segments, p=p, r=r, tolerance=tolerance)
    if n_masks < 2 * len(segments):
        raise InputError(f"n_masks must be at least two for each of {len(segments)} levels, got {n_masks}")
