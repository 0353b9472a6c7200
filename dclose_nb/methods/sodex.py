"""SODEx (Sejr et al. 2021): LIME on a surrogate that turns the detector into a number for one box."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import Ridge

from .. import checks, engine
from ..detection import Canvas, Detections, Detector
from ..engine import Budget, Level, Maps, Watch
from ..masks import superpixel_masks, superpixels
from ..similarity import lime_kernel


def sodex(
    detector: Detector,
    canvas: Canvas,
    targets: Detections,
    *,
    n_masks: int = 1000,
    segments: int = 100,
    p: float = 0.5,
    seed: int = 0,
    batch_size: int | None = None,
    watch: Watch | None = None,
    progress: bool = True,
) -> Maps:
    """Explain each target by a linear model of its weight over superpixels that are kept or hidden.

    LIME's recipe (Ribeiro et al. 2016): ridge regression (alpha 1) of the weight (Eq. 6) on which
    superpixels were kept, samples weighed by `similarity.lime_kernel` of the cosine distance from
    the whole image. A pixel's value is its superpixel's coefficient, and can be negative.

    Parameters
    ----------
    detector, canvas, targets
        A detector, the image as it prepared it, and n boxes in image pixels.
    n_masks : int
        Masked images, at least 1.
    segments : int
        Superpixels.
    p : float
        Probability that a superpixel is kept, in (0, 1).
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
    check(n_masks=n_masks, segments=segments, p=p)
    labels = superpixels(canvas.content_image, segments)
    sampler = superpixel_masks(labels, p=p, r=0, seed=seed, device=canvas.pixels.device)
    # which superpixels each mask kept, (N, S): with r = 0 a mask is its pattern
    _, first, column = np.unique(labels, return_index=True, return_inverse=True)

    def finish(results: list[Level]) -> Maps:
        (result,) = results
        maps = np.zeros((len(targets), *labels.shape), dtype=np.float32)
        n = len(result.weights)
        if not n:
            return Maps(maps, n_forward=0)
        kept = np.stack([sampler.pattern(i).cpu().numpy().ravel()[first] for i in range(n)])
        distance = 1 - np.sqrt(kept.mean(axis=1))  # cosine distance from all ones
        near = lime_kernel(torch.from_numpy(distance)).numpy()
        model = Ridge(alpha=1).fit(kept, result.weights, sample_weight=near)
        maps[:] = np.atleast_2d(model.coef_)[:, column.reshape(labels.shape)]
        return Maps(maps, n_forward=n)

    return engine.sample(
        detector,
        canvas,
        targets,
        [sampler],
        [n_masks],
        finish,
        budget=Budget(watch=watch),
        batch_size=batch_size,
        progress=progress,
    )


def check(*, n_masks: int, segments: int, p: float) -> None:
    """Refuse options out of their range; see `sodex`."""
    checks.at_least("n_masks", n_masks, 1)
    checks.at_least("segments", segments, 1)
    checks.probability("p", p)
