"""Figures: what is drawn, and nothing that is computed.

Every function takes ``ax=None`` (one axes a panel: a single one, a list or an array) and returns
the array of axes that it drew on; ``axes[0].figure.savefig("name.pdf")`` keeps the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.patches import Patch, Rectangle
from skimage.segmentation import find_boundaries

from .checks import InputError
from .detection import Detections, Targets
from .explanation import Explanation
from .fusion import cascade_steps, min_max
from .planted.scene import Scene

if TYPE_CHECKING:
    from .studies.error_analysis import Comparison

CMAP = "inferno"  # perceptually even, and it prints in grey
DIVERGING = "PiYG_r"  # white in the middle; green and pink are told apart by all
OPACITY = 0.75  # of an overlay's highest value
TRUTH, PREDICTION = "limegreen", "red"  # boxes in the paper's Fig. 5
ROLE_COLOURS = {"class": "tab:red", "body": "tab:blue", "edge": "gold", "inert": "tab:gray"}
_LARGEST = 1600  # pixels of a drawn image's longer side; more cannot be seen


def explanation(
    explanation: Explanation, *, ax: Any = None, opacity: float = OPACITY, threshold: float = 0
) -> np.ndarray:
    """Overlay of each detection's map, with its box, label and score.

    Parameters
    ----------
    explanation : Explanation
        n detections, of which each gets a panel. ``explanation[i]`` draws one.
    ax : n axes, optional
    opacity : float
        Of the highest value, in [0, 1]; lower values are fainter, so that the photo shows.
    threshold : float
        Values of the scaled map that are lower are not shown, in [0, 1].

    Returns
    -------
    (n,) array of Axes

    Raises
    ------
    InputError
        Nothing to draw, or a number of axes unlike that of panels.

    Examples
    --------
    >>> dc.plot.explanation(explanation[0])  # doctest: +SKIP
    """
    if not len(explanation):
        raise InputError("there is nothing to draw: the explanation holds no detection")
    axes = _panels(ax, len(explanation), explanation.image.shape, colour_bar=True)
    for panel, one in zip(axes, explanation):
        _overlay(panel, one, opacity=opacity, threshold=threshold)
    return axes


def sheet(explanation: Explanation, *, ax: Any = None) -> np.ndarray:
    """The photo with all its boxes, then the overlay of each detection's map: n + 1 panels."""
    n = len(explanation)
    axes = _panels(ax, n + 1, explanation.image.shape, colour_bar=True)
    detections(explanation.image, explanation.detections, ax=axes[0])
    axes[0].set_title("no object found" if n == 0 else f"{n} object{'s' * (n > 1)}")
    for panel, one in zip(axes[1:], explanation):
        _overlay(panel, one)
    return axes


def detections(image: np.ndarray, detections: Detections, *, ax: Any = None) -> np.ndarray:
    """The image with its detections: boxes, labels and scores."""
    axes = _panels(ax, 1, image.shape)
    picture = fit(image)
    axes[0].imshow(picture)
    for k in reversed(range(len(detections))):  # the best on top
        one = detections[k]
        colour = plt.get_cmap("tab10")(k % 10)
        box = one.boxes[0] * _factor(image, picture)
        _draw_box(axes[0], box, colour)
        _name(axes[0], box, _caption(one), colour)
    return axes


def boxes(image: np.ndarray, truth: Targets, *, ax: Any = None) -> np.ndarray:
    """The image with objects as people have marked them: boxes and names, without scores."""
    axes = _panels(ax, 1, image.shape)
    picture = fit(image)
    axes[0].imshow(picture)
    for box, label in zip(np.asarray(truth.boxes, dtype=float), truth.labels):
        box = box * _factor(image, picture)
        _draw_box(axes[0], box, TRUTH)
        _name(axes[0], box, str(label).replace("$", r"\$"), "green")
    return axes


def levels(explanation: Explanation, *, ax: Any = None) -> np.ndarray:
    """The levels S_k (Eq. 7) of one detection side by side, finest first, as computed."""
    maps = _one(explanation).levels[:, 0]
    axes = _panels(ax, len(maps), maps.shape[1:], colour_bar=True)
    for panel, one, n_segments in zip(axes, maps, explanation.segments):
        _heat(panel, one, f"{n_segments} superpixels", "mean weight")
    return axes


def cascade(explanation: Explanation, *, ax: Any = None) -> np.ndarray:
    """The cascade of one detection step by step (Eq. 8): two rows, scaled levels and fused maps."""
    maps, segments = _one(explanation).levels[:, 0], explanation.segments
    if explanation.params["order"] == "coarse_to_fine":
        maps, segments = maps[::-1], segments[::-1]
    steps = cascade_steps(maps)
    axes = _panels(ax, 2 * len(maps), maps.shape[1:], columns=len(maps), colour_bar=True)
    for k, (level, n_segments) in enumerate(zip(min_max(maps), segments)):
        _heat(axes[k], level, f"$S_{k + 1}$: {n_segments} superpixels")
        title = "$A_0 = S_1$" if k == 0 else f"$A_{k} = (A_{k - 1} + S_{k + 1})\\, S_{k + 1}$"
        _heat(axes[len(maps) + k], steps[k], title)
    return axes


def density(explanation: Explanation, *, ax: Any = None) -> np.ndarray:
    """The density maps P_k (Eq. 3) side by side, finest level first."""
    if explanation.density is None:
        raise InputError(f"method {explanation.method!r} has no density map")
    axes = _panels(ax, len(explanation.density), explanation.density.shape[1:], colour_bar=True)
    for panel, one, n_segments in zip(axes, explanation.density, explanation.segments):
        _heat(panel, one, f"{n_segments} superpixels", "sum of masks")
    return axes


def masks(masks: Any, *, titles: Sequence[str] | None = None, ax: Any = None) -> np.ndarray:
    """A grid of masks (N, h, w) in [0, 1], black where the image is hidden."""
    masks = np.asarray(masks)
    axes = _panels(ax, len(masks), masks.shape[1:])
    for k, (panel, mask) in enumerate(zip(axes, masks)):
        panel.imshow(fit(mask.astype(np.float32)), cmap="gray", vmin=0, vmax=1)
        if titles is not None:
            panel.set_title(titles[k])
    return axes


def superpixels(image: np.ndarray, labels: np.ndarray, *, ax: Any = None) -> np.ndarray:
    """The image (h, w, 3) with the edges of its superpixels (h, w)."""
    axes = _panels(ax, 1, image.shape)
    drawn = image.copy()
    drawn[find_boundaries(labels, mode="inner")] = (255, 220, 0)
    axes[0].imshow(drawn)
    axes[0].set_title(f"{labels.max() + 1} superpixels")
    return axes


def maps(maps: Mapping[str, np.ndarray], *, box: np.ndarray | None = None, ax: Any = None) -> np.ndarray:
    """Named maps (H, W) side by side, each scaled to [0, 1], and a box (x1, y1, x2, y2) in each."""
    axes = _panels(ax, len(maps), next(iter(maps.values())).shape, columns=min(len(maps), 6))
    for panel, (name, one) in zip(axes, maps.items()):
        picture = min_max(fit(np.asarray(one, dtype=np.float64)))
        panel.imshow(picture, cmap=CMAP, vmin=0, vmax=1)
        panel.set_title(name)
        if box is not None:
            _draw_box(panel, box * _factor(one, picture), "cyan")
    return axes


def comparison(comparison: Comparison, *, ax: Any = None) -> np.ndarray:
    """A case of `errors` as in the paper's Fig. 5: boxes, the map of each vector, and their difference.

    Parameters
    ----------
    comparison : Comparison
        Boxes are green for the ground truth and red, dashed, for the prediction.
    ax : axes, optional
        Four, or two where there is only a ground truth or only a prediction.

    Returns
    -------
    (4,) or (2,) array of Axes
    """
    case, image = comparison.case, comparison.explanation.image
    maps = {"map of the ground truth": comparison.truth, "map of the prediction": comparison.prediction}
    heats = {title: fit(heat) for title, heat in maps.items() if heat is not None}
    axes = _panels(ax, 4 if len(heats) == 2 else 2, image.shape, columns=2, colour_bar=True)
    picture = fit(image)
    axes[0].imshow(picture)
    axes[0].set_title(str(case).replace("$", r"\$"))
    for panel, (title, heat) in zip(axes[1:], heats.items()):
        _lay(panel, picture, heat)
        panel.set_title(title)
        _colour_bar(panel, 0, 1, "saliency, scaled")
    if comparison.difference is not None:
        difference = fit(comparison.difference)
        axes[3].imshow(_greyed(picture).astype(np.uint8))
        axes[3].imshow(difference, cmap=DIVERGING, vmin=-1, vmax=1, alpha=np.sqrt(np.abs(difference)))
        axes[3].set_title("prediction less ground truth")
        _colour_bar(axes[3], -1, 1, "difference", DIVERGING)
    factor = _factor(image, picture)
    for panel in axes:
        if case.truth is not None:
            _draw_box(panel, np.asarray(case.truth.boxes[0]) * factor, TRUTH)
        if case.prediction is not None:
            _draw_box(panel, case.prediction.boxes[0] * factor, PREDICTION, "--")
    return axes


def curves(
    curves: Mapping[str, np.ndarray],
    *,
    x: Sequence[Any] | None = None,
    labels: tuple[str, str] = ("share of pixels changed", "score"),
    ax: Any = None,
) -> np.ndarray:
    """Named curves, by default of deletion or insertion: a score against the share of pixels changed.

    Each is (points,), or (3, points): a mean and the ends of its band. `x` are the points' places or
    names, by default from no pixel to all; `labels` are those of the axes. Scores lie in [0, 1].
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
    (panel,) = axes = _given(ax, 1)
    named = x is not None and isinstance(x[0], str)
    for name, one in curves.items():
        mean, *band = np.atleast_2d(one)
        places = np.linspace(0, 1, len(mean)) if x is None else np.arange(len(x)) if named else np.array(x)
        (line,) = panel.plot(places, mean, marker="o" if named else None, markersize=4, label=name)
        if band:
            panel.fill_between(places, *band, color=line.get_color(), alpha=0.2, linewidth=0)
        panel.set(xlim=(places[0], places[-1]))
    if named:
        panel.set_xticks(places, x, rotation=45, ha="right")
    panel.set(xlabel=labels[0], ylabel=labels[1], ylim=(0, 1))
    panel.legend(frameon=False)
    return axes


def parts(scene: Scene, *, ax: Any = None) -> np.ndarray:
    """A planted scene, greyed, with each part in the colour of its role."""
    axes = _panels(ax, 1, scene.image.shape)
    picture = np.repeat(scene.image.mean(axis=2, keepdims=True) / 255, 3, axis=2)
    everything = [*scene.distractors, *(part for own in scene.parts for part in own)]
    for part in everything:
        colour = np.array(to_rgb(ROLE_COLOURS[part.role]))
        picture[part.mask] = (0.35 + 0.65 * picture[part.mask]) * colour
        picture[find_boundaries(part.mask, mode="inner")] = 1
    axes[0].imshow(picture)
    shown = [role for role in ROLE_COLOURS if any(part.role == role for part in everything)]
    axes[0].legend(
        handles=[Patch(facecolor=ROLE_COLOURS[role], label=role) for role in shown],
        loc="lower left",
        fontsize="small",
        handlelength=1,
        labelspacing=0.2,
    )
    return axes


def _one(explanation: Explanation) -> Any:
    if explanation.levels is None:
        raise InputError(f"method {explanation.method!r} has no levels")
    if len(explanation) != 1:
        raise InputError(f"pass one detection, explanation[i], not {len(explanation)}")
    return explanation


def _panels(
    ax: Any, n: int, shape: Sequence[int], *, columns: int | None = None, colour_bar: bool = False
) -> np.ndarray:
    """`n` axes without ticks for pictures of `shape`: those given, or those of a new figure."""
    if ax is None:
        columns = columns or (n if n <= 5 else 4)
        rows = -(-n // columns)
        aspect = min(max(shape[0] / shape[1], 0.3), 2.5)  # height over width
        width = {1: 5.6, 2: 4.4, 3: 3.6}.get(columns, 2.4) / max(aspect, 1)
        height = width * aspect
        _, grid = plt.subplots(
            rows,
            columns,
            figsize=(columns * width * (1.15 if colour_bar else 1), rows * (height + 0.35)),
            layout="constrained",
            squeeze=False,
        )
        for spare in grid.ravel()[n:]:
            spare.remove()
        axes = grid.ravel()[:n]
    else:
        axes = _given(ax, n)
    for panel in axes:
        panel.set_axis_off()
    return axes


def _given(ax: Any, n: int) -> np.ndarray:
    axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(axes) != n:
        raise InputError(f"ax must hold {n} axes, one a panel, got {len(axes)}")
    return axes


def fit(picture: np.ndarray, largest: int = _LARGEST) -> np.ndarray:
    """Shrink a picture whose longer side has more than `largest` pixels."""
    factor = largest / max(picture.shape[:2])
    if factor >= 1:
        return picture
    size = max(round(picture.shape[1] * factor), 1), max(round(picture.shape[0] * factor), 1)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _overlay(panel: Axes, one: Explanation, *, opacity: float = OPACITY, threshold: float = 0) -> None:
    """Draw the photo under the map of one detection, with its box, label and score."""
    picture = fit(one.image)
    _lay(panel, picture, fit(one.saliency[0]), opacity, threshold)
    _draw_box(panel, one.detections.boxes[0] * _factor(one.image, picture), "cyan")
    panel.set_title(f"{_caption(one.detections)}, {one.method}")
    _colour_bar(panel, 0, 1, "saliency, scaled")


def _lay(
    panel: Axes, picture: np.ndarray, saliency: np.ndarray, opacity: float = OPACITY, threshold: float = 0
) -> None:
    """Draw what `blend` mixes as two layers, so that the map's own values stay in the figure."""
    panel.imshow(_greyed(picture).astype(np.uint8))
    heat = min_max(saliency)
    panel.imshow(heat, cmap=CMAP, vmin=0, vmax=1, alpha=_alpha(heat, opacity, threshold))


def _alpha(heat: np.ndarray, opacity: float, threshold: float) -> np.ndarray:
    """How far a scaled map covers the image: less where it is lower, not at all below the threshold."""
    return opacity * np.sqrt(heat) * (heat >= threshold)


def blend(
    image: np.ndarray, saliency: np.ndarray, *, opacity: float = OPACITY, threshold: float = 0
) -> np.ndarray:
    """An image, greyed, under a map, which is fainter where it is lower.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    saliency : (H, W) array
        Scaled to [0, 1] here.
    opacity : float
        Of the highest value, in [0, 1].
    threshold : float
        Values of the scaled map that are lower are not shown, in [0, 1].

    Returns
    -------
    (H, W, 3) uint8 array
    """
    heat = min_max(saliency)
    alpha = _alpha(heat, opacity, threshold)[..., None]
    colours = 255 * plt.get_cmap(CMAP)(heat)[..., :3]
    return (alpha * colours + (1 - alpha) * _greyed(image)).round().astype(np.uint8)


def _greyed(picture: np.ndarray) -> np.ndarray:
    """A photo in faint colours, for a map to lie on."""
    return 0.4 * picture + 0.6 * picture.mean(axis=2, keepdims=True)


def _factor(image: np.ndarray, picture: np.ndarray) -> float:
    return picture.shape[1] / image.shape[1]


def _heat(panel: Axes, values: np.ndarray, title: str, label: str = "") -> None:
    low, high = float(values.min()), float(values.max())
    panel.imshow(fit(values), cmap=CMAP, vmin=low, vmax=high)
    panel.set_title(title)
    _colour_bar(panel, low, high, label)


def _colour_bar(panel: Axes, low: float, high: float, label: str, cmap: str = CMAP) -> None:
    mappable = ScalarMappable(Normalize(low, high), cmap)
    panel.figure.colorbar(mappable, cax=panel.inset_axes((1.02, 0, 0.04, 1)), label=label)


def _caption(one: Detections) -> str:
    """Label and score; a $ in a label is no formula."""
    return f"{one.names[0]} {one.scores[0]:.2f}".replace("$", r"\$")


def _name(panel: Axes, box: np.ndarray, text: str, colour: Any) -> None:
    """Write what a box holds into its corner."""
    label = {"facecolor": colour, "edgecolor": "none", "pad": 2}
    x, y = np.maximum(box[:2], 0)
    panel.text(x, y, text, va="top", color="white", bbox=label)


def _draw_box(panel: Axes, box: np.ndarray, colour: Any, style: str = "-") -> None:
    """Draw a box given by its edges, where pixel 0 reaches from 0 to 1."""
    x1, y1, x2, y2 = (box - 0.5).tolist()
    for edge, width, line in (("black", 3.0, "-"), (colour, 1.5, style)):
        panel.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=edge, lw=width, ls=line))
