"""MFPP (Yang et al. 2021): superpixels on several levels, weighed as in RISE and averaged."""

from __future__ import annotations

from collections.abc import Sequence

from ..detection import Canvas, Detections, Detector
from ..masks import SEGMENTS
from . import dclose as whole
from .maps import Maps


def mfpp(
    detector: Detector,
    canvas: Canvas,
    targets: Detections,
    *,
    n_masks: int = 4000,
    segments: Sequence[int] = SEGMENTS,
    p: float = 0.5,
    r: float = 2.2,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> Maps:
    """Explain all targets by the masks of `dclose` without its density map and without its cascade.

    MFPP explains classifiers; the similarity of detections (Eq. 2) takes the place of the class
    probability. Options, result and errors as in `dclose`.
    """
    return whole.dclose(
        detector,
        canvas,
        targets,
        n_masks=n_masks,
        segments=segments,
        p=p,
        r=r,
        density=False,
        fusion="mean",
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )


def check(*, n_masks: int, segments: Sequence[int], p: float, r: float) -> None:
    """Refuse options out of their range; see `mfpp`."""
    whole.check_masks(n_masks=n_masks, segments=segments, p=p, r=r)
