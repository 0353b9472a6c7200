"""MFPP (Yang et al. 2021): superpixels on several levels, weighed as in RISE and averaged."""

from __future__ import annotations

from collections.abc import Sequence

from ..detection import Canvas, Detections, Detector
from ..engine import Maps, Watch
from ..masks import SEGMENTS
from . import dclose as whole


def mfpp(
    detector: Detector,
    canvas: Canvas,
    targets: Detections,
    *,
    n_masks: int = 4000,
    segments: Sequence[int] = SEGMENTS,
    p: float = 0.5,
    r: float = 2.2,
    tolerance: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    watch: Watch | None = None,
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
        tolerance=tolerance,
        seed=seed,
        batch_size=batch_size,
        watch=watch,
        progress=progress,
    )


check = whole.check_masks
