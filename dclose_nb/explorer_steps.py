"""Pictures of the steps of section 3.5 for the explorer: how one explanation was made."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import plot
from .checks import InputError
from .detection import Canvas, Detector
from .explanation import Explanation
from .methods import METHODS, make
from .methods.dclose import Pyramid
from .sampling import Plan, sample

SAMPLE = 8  # masks a level at most, behind "masked images" and "weights"
WIDTH, PANEL = 12.5, 3.75  # inches of a whole picture, and of a panel at most


class Step(NamedTuple):
    """A step of the method, and what draws it."""

    title: str
    draw: Callable[[Detector, Explanation], Figure]


def picture(step: Step, detector: Detector, explanation: Explanation) -> bytes:
    """A step of an explanation of one detection, as a PNG.

    A method that does not have the step raises `InputError`.
    """
    if explanation.levels is None:
        *first, last = (name for name, method in METHODS.items() if issubclass(method, Pyramid))
        raise InputError(
            f"{explanation.method}: the steps are drawn for methods with levels only, which are "
            f"{', '.join(first)} and {last}"
        )
    content = io.BytesIO()
    step.draw(detector, explanation).savefig(
        content, format="png", dpi=96, bbox_inches="tight", pad_inches=0.05
    )
    return content.getvalue()


def _panels(
    n: int, size: tuple[int, ...], *, rows: int = 1, colour_bar: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure that fits rows of n pictures of a size (height, width, ...), and its axes.

    It is not one of pyplot's, which are not made for threads.
    """
    width = min(WIDTH / n, PANEL)
    height = (width - 0.8 * colour_bar) * size[0] / size[1] + 0.35  # less the bar, and the title
    figure = Figure(figsize=(n * width, rows * height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure, list(figure.subplots(rows, n, squeeze=False).ravel())


def _planned(detector: Detector, explanation: Explanation) -> tuple[Canvas, Plan]:
    """The image as the network sees it, and what was sampled."""
    canvas = detector.prepare(explanation.image)
    plan = make(explanation.method, **explanation.params).plan(canvas, explanation.seed)
    return canvas, plan._replace(overlap=explanation.overlap, question=explanation.question)


# Of the explanation whose steps were drawn last, since several are looked at in a row
_samples: WeakKeyDictionary[Explanation, tuple[Canvas, Plan, list[np.ndarray]]] = WeakKeyDictionary()


def _sampled(detector: Detector, explanation: Explanation) -> tuple[Canvas, Plan, list[np.ndarray]]:
    """The image, and the weights of the first masks of each level, at most (SAMPLE,) each."""
    if explanation in _samples:
        return _samples[explanation]
    canvas, plan = _planned(detector, explanation)
    seen = max(explanation.n_forward // len(plan.counts), 1)  # of each level; a run may have been stopped
    plan = plan._replace(counts=[min(SAMPLE, seen, count) for count in plan.counts])
    levels = sample(detector, canvas, explanation.detections, plan, progress=False)
    _samples.clear()
    _samples[explanation] = canvas, plan, [level.weights[:, 0] for level in levels]
    return _samples[explanation]


def _draw_superpixels(detector: Detector, explanation: Explanation) -> Figure:
    if not explanation.segments:
        raise InputError(f"{explanation.method}: its levels are not made of superpixels")
    canvas, plan = _planned(detector, explanation)
    figure, axes = _panels(len(plan.samplers), canvas.content[2:])
    for ax, sampler, asked in zip(axes, plan.samplers, explanation.segments):
        plot.superpixels(canvas.content_image, sampler.cells.cpu().numpy(), ax=ax)
        ax.set_title(f"{asked} asked, {sampler.n_cells} made")
    return figure


def _draw_masks(detector: Detector, explanation: Explanation) -> Figure:
    canvas, plan = _planned(detector, explanation)
    figure, axes = _panels(len(plan.samplers), canvas.content[2:])
    masks = [sampler.masks(0, 1)[0].cpu().numpy() for sampler in plan.samplers]
    plot.masks(masks, titles=explanation.level_names, ax=axes)
    return figure


def _draw_masked(detector: Detector, explanation: Explanation) -> Figure:
    """Of a few masks of each level the one that leaves most of the target."""
    canvas, plan, weights = _sampled(detector, explanation)
    figure, axes = _panels(len(weights), explanation.image.shape)
    for ax, sampler, weight in zip(axes, plan.samplers, weights):
        best = int(weight.argmax())
        masked = canvas.pixels.clone()
        masked[:, *canvas.window] *= sampler.masks(best, best + 1)[0]
        hidden = replace(canvas, pixels=masked)
        picture = cv2.resize(hidden.content_image, explanation.image.shape[1::-1])
        plot.detections(picture, detector.detect_on(hidden), ax=ax)
        ax.set_title(f"weight {weight[best]:.2f}")
    return figure


def _draw_weights(detector: Detector, explanation: Explanation) -> Figure:
    *_, weights = _sampled(detector, explanation)
    figure = Figure(figsize=(8, 3), layout="constrained")
    ax = figure.subplots()
    asked = [str(count) for count in explanation.segments]
    ax.boxplot(weights, tick_labels=asked or explanation.level_names)
    for k, weight in enumerate(weights):
        ax.plot(np.full(len(weight), k + 1), weight, ".", color="C0")
    ax.set(xlabel="superpixels asked" if asked else "", ylabel="weight (Eq. 6)")
    return figure


def _draw_maps(
    draw: Callable[..., np.ndarray], _: Detector, explanation: Explanation, rows: int = 1
) -> Figure:
    """A map of each level, side by side, in `rows` rows."""
    n, _, *size = explanation.levels.shape  # type: ignore[union-attr]
    figure, axes = _panels(n, tuple(size), rows=rows, colour_bar=True)
    draw(explanation, ax=axes)
    return figure


STEPS = {
    "superpixels": Step("The superpixels of each level (section 3.1)", _draw_superpixels),
    "masks": Step("A mask of each level (section 3.1)", _draw_masks),
    "masked images": Step(
        f"The best of up to {SAMPLE} masked images of each level (section 3.5)", _draw_masked
    ),
    "weights": Step(
        f"Weights: how much of the box up to {SAMPLE} masks of each level leave (Eq. 6)", _draw_weights
    ),
    "density": Step("Density: how many masks kept each pixel (Eq. 3)", partial(_draw_maps, plot.density)),
    "levels": Step("A map of each level (Eq. 7)", partial(_draw_maps, plot.levels)),
    "cascade": Step(
        "The cascade: how the levels become one map (Eq. 8)", partial(_draw_maps, plot.cascade, rows=2)
    ),
}
