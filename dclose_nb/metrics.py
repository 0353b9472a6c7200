"""Section 5.2: scores of a map (sparsity, energy in the box, pointing game, deletion, insertion).

It also compares two maps: by rank correlation, SSIM, and correlation of histograms of gradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from skimage.feature import hog
from skimage.metrics import structural_similarity

from . import checks
from .checks import InputError
from .detection import Canvas, Detections, Detector, Proposals, box_iou, suppress
from .fusion import min_max
from .sampling import batch_size_for
from .similarity import lime_kernel
from .threads import map_in_threads

STEPS = 205  # the authors change 2000 of 640 x 640 pixels in a step
MOST_STEPS = 10**6  # more than a network's input has pixels
OVER_ALL = "deletion", "insertion"
KINDS = *OVER_ALL, "blurring"
BLUR = 51 / 640  # width of the Gaussian kernel of insertion, as a share of the longer side


def sparsity(saliency: np.ndarray) -> float:
    """Highest value divided by the mean, of a map scaled to [0, 1] (Gomez et al. 2022).

    Parameters
    ----------
    saliency : (H, W) array
        Any finite range.

    Returns
    -------
    float
        From 1 (a constant map) to the number of pixels (a map of one bright pixel). The higher, the
        fewer pixels stand out.
    """
    scaled = min_max(_map(saliency))
    mean = scaled.mean()
    return float(scaled.max() / mean) if mean > 0 else 1.0


def ebpg(saliency: np.ndarray, box: Any) -> float:
    """Energy-based pointing game: the share of the map's sum that lies in the box (Wang et al. 2020).

    Parameters
    ----------
    saliency : (H, W) array
        Negative values count as 0.
    box : (4,) array
        x1, y1, x2, y2 in pixels of the map. Its edges are rounded; a box that is too thin for that has
        the pixels that it touches.

    Returns
    -------
    float
        In [0, 1]; 0 for a map that is 0 everywhere.
    """
    energy = _map(saliency).clip(0)
    inside, total = energy[window(box, energy.shape)].sum(), energy.sum()
    return float(inside / total) if total > 0 else 0.0


def pointing_game(saliency: np.ndarray, box: Any) -> float:
    """Whether the highest pixel lies in the box, 0 or 1 (Zhang et al. 2018); box as in `ebpg`.

    If several pixels share the highest value, the score is the share of them that lies in the box.
    """
    values = _map(saliency)
    highest = values == values.max()
    return float(highest[window(box, values.shape)].sum() / highest.sum())


def leakage(saliency: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
    """Energy on another object divided by the energy on both, in [0, 1]; lower is better.

    Negative values of the map (H, W) count as 0. `own` and `other`, (H, W) bool, are the pixels of
    the target and of the other object. A map that is 0 on both scores 0.5.
    """
    energy = _map(saliency).clip(0)
    own, other = checks.mask("own", own, energy.shape), checks.mask("other", other, energy.shape)
    wrong, both = energy[other].sum(), energy[own].sum() + energy[other].sum()
    return float(wrong / both) if both > 0 else 0.5


def is_empty(saliency: np.ndarray) -> bool:
    """Whether a map (H, W) is constant, apart from rounding errors, and so shows nothing."""
    return bool(np.ptp(_map(saliency)) == 0)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two maps (H, W), in [-1, 1]; NaN if a map `is_empty`.

    Maps of different sizes, and values that are not finite, raise `InputError`.
    """
    from scipy.stats import spearmanr  # here, since its import takes a second

    a, b, empty = _pair(a, b)
    return float("nan") if empty else float(spearmanr(a.ravel(), b.ravel()).statistic)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two maps scaled to [0, 1] (Wang et al. 2004), in [-1, 1].

    NaN and errors are as for `rank_correlation`. Maps must be at least as large as the window, 11 x 11.
    """
    a, b, empty = _pair(a, b)
    if min(a.shape) < 11:
        raise InputError(f"ssim needs maps of at least 11 x 11 pixels, got {a.shape}")
    if empty:
        return float("nan")
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(min_max(a), min_max(b), data_range=1.0, **window))


def hog_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two maps' histograms of oriented gradients (Dalal and Triggs 2005).

    NaN and errors are as for `rank_correlation`. A map without gradients, such as a fine checkerboard, gives
    NaN, too. A cell is a fourteenth of the longer side, that is 16 of 224 pixels. Maps must be at least
    three cells high and wide.
    """
    a, b, empty = _pair(a, b)
    cell = max(round(max(a.shape) / 14), 3)
    if min(a.shape) < 3 * cell:
        least = f"3 x 3 cells of {cell} pixels"
        raise InputError(f"hog_correlation needs maps of at least {least}, got {a.shape}")
    if empty:
        return float("nan")
    histograms = [hog(min_max(saliency), pixels_per_cell=(cell, cell)) for saliency in (a, b)]
    flat = any(np.ptp(histogram) == 0 for histogram in histograms)
    return float("nan") if flat else float(np.corrcoef(histograms)[0, 1])


def _pair(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray, bool]:
    """Two maps of one size, and whether one of them is empty."""
    a, b = _map(a), _map(b)
    if a.shape != b.shape:
        raise InputError(f"the maps must be of one size, got {a.shape} and {b.shape}")
    return a, b, bool(np.ptp(a) == 0 or np.ptp(b) == 0)


def _map(saliency: Any) -> np.ndarray:
    """A map's values, without the rounding errors of a constant map, as float64.

    A power of 2 brings them below 1, which changes no score: sums must not overflow.
    """
    values = checks.numbers("a map", saliency, ("H", "W"))
    if not min_max(values).any():
        values = np.full_like(values, values.flat[0])
    values = values.astype(np.float64)
    return np.ldexp(values, -int(np.frexp(np.abs(values).max())[1]))


def window(box: Any, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of a box (x1, y1, x2, y2) in a map of `shape` (H, W).

    Its edges are clipped to the map and rounded; a box that is too thin for that has the pixels that it
    touches. A box outside the map raises `InputError`.
    """
    edges = checks.numbers("a box x1, y1, x2, y2", box, (4,)).reshape(2, 2).clip(0, shape[1::-1])
    rounded, touched = np.round(edges), np.stack([np.floor(edges[0]), np.ceil(edges[1])])
    x1, y1, x2, y2 = np.where(rounded[0] == rounded[1], touched, rounded).ravel().astype(int)
    if x1 >= x2 or y1 >= y2:
        raise InputError(f"box {np.asarray(box).tolist()} holds no pixel of a map of {shape}")
    return slice(y1, y2), slice(x1, x2)


class Curve(NamedTuple):
    """A detection's score while pixels are changed, and the area under it."""

    score: float  # trapezoid rule over [0, 1]
    curve: np.ndarray  # (steps + 1,) float32, from no pixel changed to all


class OverAll(NamedTuple):
    """Insertion less deletion."""

    score: float  # in [-1, 1]
    deletion: Curve
    insertion: Curve


def deletion(
    detector: Detector, image: Any, detection: Detections, saliency: np.ndarray, *, steps: int = STEPS
) -> Curve:
    """The detection fades while pixels turn black, the most salient first; a low score is better.

    (Petsiuk et al. 2018, 2021.) `step_scores` gives the score of each step. It takes the IoU of boxes,
    also for a map that was made with ``overlap="mask"``.

    Parameters
    ----------
    detector : Detector
    image : array
        As for `Detector.detect`.
    detection : Detections
        One row.
    saliency : (H, W) array
        Its map, in the image's frame. Pixels of equal value follow each other at random.
    steps : int
        Number of steps. Each changes an equal share of the pixels.

    Warns
    -----
    UserWarning
        The detection scores 0 in the unchanged image, so that its curve says nothing.

    Raises
    ------
    InputError
        More than one detection, a map of another size than the image's, or `steps` below 1.
    """
    return _curves(detector, image, detection, saliency, steps, "deletion")[0]


def insertion(
    detector: Detector, image: Any, detection: Detections, saliency: np.ndarray, *, steps: int = STEPS
) -> Curve:
    """As `deletion`, but pixels of a blurred image turn sharp, and a high score is better."""
    return _curves(detector, image, detection, saliency, steps, "insertion")[0]


def over_all(
    detector: Detector, image: Any, detection: Detections, saliency: np.ndarray, *, steps: int = STEPS
) -> OverAll:
    """Insertion less deletion, in [-1, 1], with both curves. Parameters are as for `deletion`."""
    deleted, inserted = _curves(detector, image, detection, saliency, steps, *OVER_ALL)
    return OverAll(inserted.score - deleted.score, deleted, inserted)


def _curves(
    detector: Detector, image: Any, detection: Detections, saliency: np.ndarray, steps: int, *kinds: str
) -> list[Curve]:
    """One curve of each kind, for one detection."""
    _refuse_others(detector, detection)
    if len(detection) != 1:
        raise InputError(f"pass one detection, d[i], not {len(detection)}")
    canvas = detector.prepare(checks.image(image))
    maps = checks.numbers("a map", saliency, ("H", "W"))[None]
    found = curves(detector, canvas, detection, maps, steps=steps, kinds=kinds)
    return [of_kind[0] for of_kind in found.values()]


def _refuse_others(detector: Any, detections: Any) -> None:
    """Refuse what is no detector, and what are no detections of its classes."""
    checks.instance("detector", detector, Detector, "use load_detector(...)")
    checks.instance("detections", detections, Detections, "use targets.detections(detector.class_names)")
    if detections.class_names != tuple(detector.class_names):
        raise InputError("the detections have other classes than the detector: let this detector detect")


@torch.inference_mode()
def curves(
    detector: Detector,
    canvas: Canvas,
    detections: Detections,
    maps: np.ndarray,
    *,
    steps: int = STEPS,
    kinds: tuple[str, ...] = OVER_ALL,
    batch_size: int | None = None,
) -> dict[str, list[Curve]]:
    """Curves of all detections of an image. A batch may hold steps of several detections.

    Parameters
    ----------
    detector, canvas
        A detector and the image that it prepared.
    detections : Detections
        n rows.
    maps : (n, H, W) array
        In the image's frame.
    steps, batch_size : int
    kinds : tuple
        "deletion", from the image to black; "insertion", from the blurred image to the image;
        "blurring", deletion to the blurred image, since black hides little in a dark image.

    Returns
    -------
    dict
        For each kind a list of n `Curve`.

    Warns
    -----
    UserWarning
        A detection scores 0 in the unchanged image, so that its curves say nothing.

    Raises
    ------
    InputError
        Maps that do not fit, or `steps` below 1.
    """
    _refuse_others(detector, detections)
    checks.instance("canvas", canvas, Canvas, "use detector.prepare(image)")
    checks.at_least("steps", steps, 1, largest=MOST_STEPS)
    size = batch_size_for(detector, batch_size)
    maps = checks.numbers("the maps", maps, (len(detections), *canvas.image_size))
    if not isinstance(kinds, tuple | list) or not all(kind in KINDS for kind in kinds):
        raise InputError(f"kinds must be a tuple of {', '.join(map(repr, KINDS))}, got {checks.shown(kinds)}")
    content = canvas.pixels[:, *canvas.window]  # (3, h, w)
    blurry = blurred(content)
    ends = {
        "deletion": (content, torch.zeros_like(content)),
        "insertion": (blurry, content),
        "blurring": (content, blurry),
    }
    ranks = [_ranks(_map(saliency), canvas) for saliency in maps]  # n times (h, w), 0 the most salient
    boxes, probs = canvas.vectors(detections)
    todo = [(kind, k, step) for kind in kinds for k in range(len(detections)) for step in range(steps + 1)]
    predict = detector.predictor(len(todo))

    def score(batch: list[tuple[str, int, int]]) -> list[float]:
        pixels = canvas.pixels.repeat(len(batch), 1, 1, 1)
        for image, (kind, k, step) in zip(pixels, batch):
            before, after = ends[kind]
            changed = ranks[k] < round(step * ranks[k].numel() / steps)
            torch.where(changed, after, before, out=image[:, *canvas.window])
        targets = [k for _, k, _ in batch]
        return step_scores(predict(pixels), boxes[targets], probs[targets]).tolist()

    batches = [todo[first : first + size] for first in range(0, len(todo), size)]
    scores = [value for values in map_in_threads(detector, score, batches) for value in values]
    table = np.array(scores, dtype=np.float32).reshape(len(kinds), len(detections), steps + 1)
    for k, detection in enumerate(detections):
        if not all(curves_of[k][-1 if kind == "insertion" else 0] for kind, curves_of in zip(kinds, table)):
            checks.warn(
                f"{detection.names[0]} {detection.scores[0]:.2f} scores 0 in the unchanged image, so its "
                "curves say nothing: a box of another class may suppress it, see detect(class_agnostic=True)"
            )
    return {
        kind: [Curve(float(np.trapezoid(curve, dx=1 / steps)), curve) for curve in of_kind]
        for kind, of_kind in zip(kinds, table)
    }


def step_scores(proposals: Proposals, boxes: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Score of one target in each of B images, (B,) in [0, 1], as in the authors' program.

    Detections count if they survive (confidence 0.25, suppression at 0.45 over all classes) and have the
    target's class. The one of highest IoU decides: the score is its IoU times `similarity.lime_kernel` of
    the cosine distance of the class vectors. Without any, the score is 0. Each image has its own target:
    `boxes` (B, 4) in canvas pixels and `probs` (B, C).
    """
    images, _, classes = proposals.class_probs.shape
    if (given := (*boxes.shape, *probs.shape)) != (images, 4, images, classes):
        raise InputError(
            f"{images} images need boxes ({images}, 4) and probs ({images}, {classes}), got {given}"
        )
    scores = boxes.new_zeros(len(boxes))
    for b, kept in enumerate(suppress(proposals, confidence=0.25, iou=0.45, class_agnostic=True)):
        same = kept[proposals.class_probs[b, kept].argmax(-1) == probs[b].argmax()]
        if len(same):
            overlap, best = box_iou(proposals.boxes[b, same], boxes[b, None])[:, 0].max(0)
            distance = 1 - torch.cosine_similarity(proposals.class_probs[b, same[best]], probs[b], dim=0)
            scores[b] = overlap * lime_kernel(distance)
    return scores


def _ranks(saliency: np.ndarray, canvas: Canvas) -> torch.Tensor:
    """Rank of each pixel of the canvas's content, 0 for the most salient, (h, w) int."""
    height, width = canvas.content[2:]
    values = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    shuffled = np.random.default_rng(0).permutation(values.size)
    order = shuffled[np.argsort(-values.ravel()[shuffled], kind="stable")]
    ranks = np.empty(values.size, dtype=np.int64)
    ranks[order] = np.arange(values.size)
    return torch.from_numpy(ranks.reshape(height, width)).to(canvas.pixels.device)


def blurred(content: torch.Tensor) -> torch.Tensor:
    """The content (3, h, w) after the authors' Gaussian blur, in which a detector finds few objects."""
    image = content.permute(1, 2, 0).cpu().numpy()
    width = max(round(BLUR * max(image.shape[:2])) // 2 * 2 + 1, 3)  # odd
    blurred = cv2.GaussianBlur(image, (width, width), 0)  # OpenCV takes sigma from the width
    return torch.from_numpy(blurred).permute(2, 0, 1).to(content.device)
