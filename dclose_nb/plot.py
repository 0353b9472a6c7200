"""Drawings of images, detections, masks, maps and curves. Nothing is computed here but scales and places.

Every function that draws takes ``ax=None``, else one axes for each panel (a single one, a list or an array),
and returns the array of axes that it drew on. ``plot.save(axes[0].figure, "name.pdf")`` keeps the figure.
What cannot be drawn, and a number of axes unlike that of panels, raise `InputError`. Coordinates are
pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from skimage.segmentation import find_boundaries

from . import checks
from .checks import InputError
from .detection import Detections, Targets, float_array
from .explanation import Explanation
from .files import atomic_write, write_errors
from .fusion import cascade_steps, min_max
from .methods import make
from .planted.scene import Scene

CMAP = "inferno"  # perceptually even, and it prints in grey
DIVERGING = "PiYG_r"  # white in the middle; green and pink are told apart by all
OPACITY = 0.75  # of an overlay's highest value
TRUTH, PREDICTION = "#00b400", "red"  # boxes in the paper's Fig. 5
ROLE_COLOURS = {"class": "tab:red", "body": "tab:blue", "edge": "gold", "inert": "tab:gray"}
NARROW = 12  # letters of a line in the title of a small panel
WIDEST = 10  # inches of a figure that is made here, so that it can be projected
LARGEST = 1600  # pixels of a drawn image's longer side; more cannot be seen
PADDING = 0.2  # around the text of a box's label, as a share of the font's size
JPEG = {"quality": 80, "optimize": True, "progressive": True}  # a fifth of a PNG's size for photographs
STYLE: dict[Any, Any] = {  # of figures that are projected
    "figure.dpi": 110,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def set_style() -> None:
    """The style of this project's notebooks: figures that can be projected, kept in the notebook as JPEG.

    It changes Matplotlib's settings until the program ends.
    """
    from IPython import get_ipython  # slow to import, and only notebooks need it
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    plt.rcParams.update(STYLE)
    if (shell := get_ipython()) is not None and hasattr(shell, "kernel"):
        set_matplotlib_formats("jpeg", pil_kwargs=JPEG)


def explanation(
    explanation: Explanation, *, ax: Any = None, opacity: float = OPACITY, threshold: float = 0
) -> np.ndarray:
    """Overlay of each detection's map, with its box, label and score.

    Parameters
    ----------
    explanation : Explanation
        n detections, each of which gets a panel. ``explanation[i]`` draws one.
    ax : n axes, optional
    opacity, threshold : float
        See `blend`.

    Returns
    -------
    (n,) array of Axes

    Raises
    ------
    InputError
        Nothing to draw.
    """
    _refuse_others(explanation)
    strength = _strength(opacity, threshold)
    axes = _panels(ax, len(explanation), explanation.image.shape, bars=1)
    for panel, part in zip(axes, explanation):
        _draw_explanation(panel, part, caption(part.detections), panel is axes[-1], **strength)
    return axes


def sheet(
    explanation: Explanation, *, ax: Any = None, opacity: float = OPACITY, threshold: float = 0
) -> np.ndarray:
    """The photo with all its boxes, then the overlay of each detection's map: n + 1 panels; see `blend`."""
    _refuse_others(explanation)
    strength = _strength(opacity, threshold)
    found, texts = explanation.detections, captions(explanation.detections)
    n = len(texts)
    axes = _panels(ax, n + 1, explanation.image.shape, bars=1)
    _draw_image(explanation.image, found.boxes, texts, [box_colour(k) for k in range(n)], axes[0])
    axes[0].set_title("no object found" if n == 0 else f"{n} object{'s' * (n > 1)}")
    for panel, part, text in zip(axes[1:], explanation, texts):
        _draw_explanation(panel, part, text, panel is axes[-1], **strength)
    return axes


def detections(image: np.ndarray, detections: Detections, *, ax: Any = None) -> np.ndarray:
    """The image with its detections: boxes, labels and scores."""
    checks.instance("detections", detections, Detections, "plot.boxes draws Targets")
    colours = [box_colour(k) for k in range(len(detections))]
    return _draw_image(image, detections.boxes, map(caption, detections), colours, ax)


def boxes(image: np.ndarray, truth: Targets, *, ax: Any = None) -> np.ndarray:
    """The image with objects as people have marked them: boxes and names, without scores."""
    checks.instance("truth", truth, Targets, "plot.detections draws Detections")
    names = [str(label) for label in np.ravel(truth.labels)]
    return _draw_image(image, truth.boxes, names, [TRUTH] * len(names), ax)


def error(explanation: Explanation, *, ax: Any = None) -> np.ndarray:
    """The standard error of each detection's map, in units of the map scaled to [0, 1], on its own scale."""
    _refuse_others(explanation)
    if explanation.error is None:
        raise InputError(f"method {explanation.method!r} ran without a tolerance, so its maps have no error")
    axes = _panels(ax, len(explanation), explanation.image.shape, bars=len(explanation))
    for panel, part, values in zip(axes, explanation, explanation.error):
        title = f"error of the map of {caption(part.detections)}"
        _draw_map(panel, values, "", "standard error", low=0)
        _title(panel, title)
        _draw_box(panel, part.detections.boxes[0], "cyan")
    return axes


def levels(explanation: Explanation, *, ax: Any = None) -> np.ndarray:
    """The levels S_k (Eq. 7) of one detection side by side, finest first, as computed."""
    maps, box = _levels_of_one(explanation)
    return _draw_levels(maps, explanation.level_names, "saliency of the level", ax, box)


def density(explanation: Explanation, *, ax: Any = None) -> np.ndarray:
    """The density maps P_k (Eq. 3) side by side, finest level first."""
    _refuse_others(explanation)
    if explanation.density is None:
        raise InputError(f"method {explanation.method!r} has no density map")
    return _draw_levels(explanation.density, explanation.level_names, "sum of masks", ax)


def cascade(explanation: Explanation, *, ax: Any = None) -> np.ndarray:
    """The cascade of one detection step by step (Eq. 8): two rows, scaled levels and fused maps.

    A method, or a setting of its options, that has no cascade raises `InputError`.
    """
    maps, box = _levels_of_one(explanation)
    order = make(explanation.method, **explanation.params).cascade_order
    if order is None:
        raise InputError(
            f"method {explanation.method!r} ran without a cascade: draw its levels with plot.levels"
        )
    maps, names = maps[order], explanation.level_names[order]
    axes = _panels(ax, 2 * len(maps), maps.shape[1:], columns=len(maps), bars=len(maps))
    for k, (level, fused, name) in enumerate(zip(min_max(maps), cascade_steps(maps), names)):
        _draw_map(axes[k], level, f"$S_{k + 1}$, {fill(name, NARROW)}")
        title = "$A_0 = S_1$" if k == 0 else f"$A_{k} = (A_{k - 1} + S_{k + 1})\\, S_{k + 1}$"
        _draw_map(axes[len(maps) + k], fused, title)
    for panel in axes:
        _draw_box(panel, box, "cyan")
    return axes


def masks(masks: Any, *, titles: Sequence[str] | None = None, ax: Any = None) -> np.ndarray:
    """A grid of masks (N, h, w) in [0, 1], black where the image is hidden."""
    masks = checks.numbers("masks", masks, ("N", "h", "w"))
    checks.in_unit_interval("masks", masks)
    if titles is not None and np.shape(titles) != (len(masks),):
        raise InputError(f"titles must be a list of {len(masks)}, one a mask, got {checks.shown(titles)}")
    axes = _panels(ax, len(masks), masks.shape[1:])
    for k, (panel, mask) in enumerate(zip(axes, masks)):
        panel.imshow(fit(mask.astype(np.float32)), cmap="gray", vmin=0, vmax=1)
        panel.set_axis_on()  # a frame: a mask's white is not the page's
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(visible=True, color="gray")
        if titles is not None:
            panel.set_title(titles[k])
    return axes


def superpixels(image: np.ndarray, labels: np.ndarray, *, ax: Any = None) -> np.ndarray:
    """The image (h, w, 3) with the edges of its superpixels (h, w)."""
    image = checks.image(image)
    labels = checks.labels(labels, image.shape[:2])
    (panel,) = axes = _panels(ax, 1, image.shape)
    drawn = image.copy()
    drawn[find_boundaries(labels, mode="inner")] = (255, 220, 0)
    panel.imshow(drawn)
    panel.set_title(f"{labels.max() + 1} superpixels")
    return axes


def maps(maps: Mapping[str, np.ndarray], *, box: np.ndarray | None = None, ax: Any = None) -> np.ndarray:
    """Named maps (H, W) side by side, each scaled to [0, 1], and a box (x1, y1, x2, y2) in each.

    A map whose pixels are equal but for rounding is marked as empty.
    """
    checks.instance("maps", maps, Mapping, "give each map a name, {'a name': saliency}")
    named = {name: checks.numbers(f"map {name!r}", value, ("H", "W")) for name, value in maps.items()}
    box = None if box is None else checks.numbers("box", box, (4,))
    shape = next(iter(named.values()), np.ones((1, 1))).shape
    axes = _panels(ax, len(named), shape, columns=min(len(named), 6))
    for panel, (name, saliency) in zip(axes, named.items()):
        scaled = min_max(fit(saliency))
        panel.imshow(scaled, cmap=CMAP, vmin=0, vmax=1, extent=_frame(saliency))
        panel.set_title(name)
        if box is not None:
            _draw_box(panel, box, "cyan")
        if not scaled.any():
            word = panel.text(0.5, 0.1, "empty map", color="white", ha="center", transform=panel.transAxes)
            word.set_in_layout(False)  # it lies in its panel
    return axes


def pair(
    image: np.ndarray,
    truth: Targets | None,
    prediction: Detections | None,
    *,
    title: str = "",
    ax: Any = None,
) -> np.ndarray:
    """The image with the true box, green, and the drawn one, red and dashed, or only one of them."""
    image, drawn = checks.image(image), _pair_boxes(truth, prediction)
    (panel,) = axes = _panels(ax, 1, image.shape)
    panel.imshow(fit(image), extent=_frame(image))
    _title(panel, str(title))
    for look in drawn:
        _draw_box(panel, *look)
    return axes


def comparison(
    explanation: Explanation,
    truth: Targets | None,
    prediction: Detections | None,
    *,
    title: str = "",
    ax: Any = None,
) -> np.ndarray:
    """An error as in the paper's Fig. 5: the boxes, the map of each, and the difference of the maps.

    Parameters
    ----------
    explanation : Explanation
        Of the ground truth, then of the prediction, or of the one that is given.
    truth : Targets or None
        One object; its box is green.
    prediction : Detections or None
        One row; its box is red and dashed.
    title : str
        Of the first panel.
    ax : axes, optional
        Four, or two where `truth` or `prediction` is None.

    Returns
    -------
    (4,) or (2,) array of Axes
    """
    _refuse_others(explanation)
    drawn = _pair_boxes(truth, prediction)
    image, maps = explanation.image, min_max(explanation.saliency)
    names = [] if truth is None else ["map of the ground truth"]
    names += [] if prediction is None else ["map of the prediction"]
    if len(maps) != len(names):
        raise InputError(f"{len(names)} maps are compared, and the explanation has {len(maps)}")
    axes = _panels(ax, 2 * len(names), image.shape, columns=2, bars=2)
    pair(image, truth, prediction, title=title, ax=axes[0])
    for panel, name, saliency in zip(axes[1:], names, maps):
        scaled = min_max(fit(saliency))
        _draw_overlay(panel, image, scaled, _alpha(scaled), name)
    _colour_bar(axes[len(names)], 0, 1, "saliency")
    if len(names) == 2:
        difference, title = fit(maps[1] - maps[0]), "prediction less ground truth"
        alpha = np.sqrt(np.abs(difference))
        _draw_overlay(axes[3], image, difference, alpha, title, -1, DIVERGING)
        _colour_bar(axes[3], -1, 1, "difference", DIVERGING)
    for panel in axes[1:]:
        for look in drawn:
            _draw_box(panel, *look)
    return axes


def curves(
    curves: Mapping[str, np.ndarray],
    *,
    x: Sequence[Any] | None = None,
    labels: tuple[str, str] = ("share of pixels changed", "score"),
    ax: Any = None,
) -> np.ndarray:
    """Named curves in [0, 1], by default of deletion or insertion: score against share of pixels changed.

    Each is (points,), or (3, points): a mean and the ends of its band. `x` are the points' places or
    names, by default from no pixel to all; `labels` are those of the axes. The y axis goes from 0 to 1,
    and its limits can be set anew.
    """
    checks.instance("curves", curves, Mapping, "give each curve a name, {'a name': curve}")
    x, labels = checks.plain(x), checks.plain(labels)
    named = isinstance(x, tuple) and all(isinstance(place, str) for place in x)
    at = None if x is None else np.arange(len(x)) if named else checks.numbers("x", x, ("points",))
    if not isinstance(labels, tuple) or len(labels) != 2:
        raise InputError(f"labels must be two texts, those of the axes, got {checks.shown(labels)}")
    if not curves:
        raise InputError("there is nothing to draw")
    drawn = {name: np.atleast_2d(checks.numbers(f"curve {name!r}", curve)) for name, curve in curves.items()}
    for name, rows in drawn.items():
        points = rows.shape[-1] if at is None else len(at)
        if rows.shape not in ((1, points), (3, points)) or not points:
            wanted = f"curve {name!r} must be (points,) or (3, points), with a point for each x"
            raise InputError(f"{wanted}, got the shape {np.shape(curves[name])}")
    if ax is None:
        _, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
    (panel,) = axes = _given(ax, 1)
    for name, (mean, *band) in drawn.items():
        places = np.linspace(0, 1, len(mean)) if at is None else at
        marker = "o" if named or len(mean) == 1 else None  # one point makes no line
        (line,) = panel.plot(places, mean, marker=marker, markersize=4, label=name)
        if band:
            panel.fill_between(places, *band, color=line.get_color(), alpha=0.2, linewidth=0)
        if places[0] != places[-1]:
            panel.set(xlim=(places[0], places[-1]))
    if named:
        panel.set_xticks(at, x, rotation=45, ha="right", parse_math=False)
    panel.set(xlabel=labels[0], ylabel=labels[1], ylim=(0, 1))
    for text in panel.legend(frameon=False).get_texts():
        text.set_parse_math(False)
    return axes


def intervals(
    series: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    label: str = "",
    reference: float | None = None,
    ax: Any = None,
) -> np.ndarray:
    """Means and their intervals: a row for each name, a colour for each series, one legend for the figure.

    Parameters
    ----------
    series : mapping
        From the name of a series to its rows: a name, and (mean, low, high), whose ends may be NaN. What
        comes after these three is left out, so an `inference.Estimate` fits. Three NaN leave a row empty.
    label : str
        Of the axis; it says which direction is better.
    reference : float, optional
        Drawn as a line. A mean is a hollow dot if its interval holds this value, and is left out if it has
        no interval.
    ax : axes, optional
        One. If it has rows already, or shares its axis with panels that have some, they must be the same.

    Returns
    -------
    (1,) array of Axes
    """
    checks.instance("series", series, Mapping, "give each series a name, {'a name': {'a row': estimate}}")
    for name, values in series.items():
        checks.instance(f"series {name!r}", values, Mapping, "give each row a name, {'a row': estimate}")
    found = {
        name: [_mean_and_ends(row, value) for row, value in values.items()] for name, values in series.items()
    }
    rows = list(dict.fromkeys(row for values in series.values() for row in values))
    if not rows:
        raise InputError("there is nothing to draw")
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 1 + 0.3 * len(rows)), layout="constrained")
    (panel,) = axes = _given(ax, 1)
    sharing = panel.get_shared_y_axes().get_siblings(panel)  # it is one of them
    shown = [[tick.get_text() for tick in one.get_yticklabels()] for one in sharing]
    others = any(any(names) and names != rows for names in shown)  # inside a grid a panel shows no names
    if others and any(one.containers for one in sharing):
        raise InputError("a panel, and panels that share an axis, must keep the same rows in the same order")
    if reference is not None:
        panel.axvline(reference, color="gray", linestyle="--", linewidth=1)
    for k, (name, values) in enumerate(series.items()):
        mean, low, high = np.reshape(found[name], (-1, 3)).T
        if reference is not None:
            mean = np.where(np.isnan(low), np.nan, mean)
        places = np.array([rows.index(row) + 0.5 * ((k + 0.5) / len(series) - 0.5) for row in values])
        reach = mean - low, high - mean
        panel.errorbar(mean, places, xerr=reach, fmt="o", markersize=5, color=f"C{k}", label=name)
        if reference is not None:
            held = (low <= reference) & (reference <= high)
            panel.plot(
                mean[held], places[held], "o", markersize=5, color=f"C{k}", markerfacecolor="white", zorder=3
            )
    panel.set_yticks(range(len(rows)), rows, parse_math=False)
    panel.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))
    if len(series) > 1 and not panel.figure.legends:  # one for all panels
        entries = panel.get_legend_handles_labels()
        legend = panel.figure.legend(*entries, loc="outside lower center", ncols=min(len(series), 4))
        for text in legend.get_texts():
            text.set_parse_math(False)
    return axes


def _mean_and_ends(row: str, value: Sequence[float]) -> np.ndarray:
    """The first three numbers of a row of `intervals`, (3,); they may be NaN."""
    wanted = f"row {row!r} must be a mean and two ends, one on each side of it, got {checks.shown(value)}"
    try:
        mean, low, high = found = np.array(value[:3], dtype=float).reshape(3)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(wanted) from error
    if mean < low or high < mean:  # never true of NaN
        raise InputError(wanted)
    return found


def parts(scene: Scene, *, ax: Any = None) -> np.ndarray:
    """A planted scene, greyed, with each part in the colour of its role."""
    checks.instance("scene", scene, Scene, "use dc.planted.scene(seed)")
    (panel,) = axes = _panels(ax, 1, scene.image.shape)
    picture = np.repeat(scene.image.mean(axis=2, keepdims=True) / 255, 3, axis=2)
    everything = [*scene.distractors, *(part for own in scene.parts for part in own)]
    for part in everything:
        colour = np.array(to_rgb(ROLE_COLOURS[part.role]))
        picture[part.mask] = (0.35 + 0.65 * picture[part.mask]) * colour
        picture[find_boundaries(part.mask, mode="inner")] = 1
    panel.imshow(picture)
    roles = {part.role for part in everything}
    handles = [Patch(facecolor=colour, label=role) for role, colour in ROLE_COLOURS.items() if role in roles]
    panel.legend(
        handles=handles, loc="lower left", fontsize="small", handlelength=1, labelspacing=0.2, frameon=True
    )
    return axes


def blend(
    image: np.ndarray, saliency: np.ndarray, *, opacity: float = OPACITY, threshold: float = 0
) -> np.ndarray:
    """The image in faint colours under a map, which is fainter where it is lower.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    saliency : (H, W) array
        Scaled to [0, 1] here.
    opacity : float
        Of the highest value, in [0, 1]; lower values are fainter, so that the photo shows.
    threshold : float
        Values of the scaled map that are lower are not shown, in [0, 1].

    Returns
    -------
    (H, W, 3) uint8 array
    """
    image = checks.image(image)
    scaled = min_max(checks.numbers("the map", saliency, image.shape[:2]))
    alpha = _alpha(scaled, **_strength(opacity, threshold))[..., None]
    colours = 255 * plt.get_cmap(CMAP)(scaled)[..., :3]
    return (alpha * colours + (1 - alpha) * _faint(image)).round().astype(np.uint8)


def caption(detection: Detections) -> str:
    """Label and score of one detection."""
    return f"{detection.names[0]} {detection.scores[0]:.2f}"


def captions(detections: Detections) -> list[str]:
    """Label and score of each detection, all with their numbers where two have the same label."""
    alike = len(set(detections.names)) < len(detections)
    return [f"{k}: " * alike + caption(one) for k, one in enumerate(detections, 1)]


def box_colour(k: int) -> str:
    """Colour of the box of detection number `k`, as ``#rrggbb``."""
    return to_hex(plt.get_cmap("tab10")(k % 10))


def label_places(boxes: Any, sizes: Any, frame: Any) -> np.ndarray:
    """Where labels of boxes stand, so that none covers another: above, inside or below the box, or near it.

    Parameters
    ----------
    boxes : (n, 4) array
        x1, y1, x2, y2 in pixels; y points down. The first have the first choice.
    sizes : (n, 2) array
        Width and height of each label, none larger than the frame.
    frame : (width, height)
        All labels lie in it.

    Returns
    -------
    (n, 2) array
        The upper left corner of each label; NaN for the first that finds no room and all after it.
    """
    places, taken = np.full((len(boxes), 2), np.nan), np.zeros((0, 4))
    for k, ((x1, y1, x2, y2), size) in enumerate(zip(boxes, np.asarray(sizes, dtype=float))):
        w, h = size
        near = [(x, y) for x in (x1, x2 - w) for y in (y1 - h, y1, y2, y2 - h)]
        grid = np.mgrid[0 : frame[0] : h, 0 : frame[1] : h].reshape(2, -1).T
        away = np.square(grid - near[0]).sum(axis=1)
        room = np.maximum(np.subtract(frame, size), 0)
        tried = np.concatenate([near, grid[np.argsort(away, kind="stable")]]).clip(0, room)  # (m, 2)
        beside = (tried[:, None] >= taken[:, 2:]) | (tried[:, None] + size <= taken[:, :2])  # (m, k, 2)
        free = beside.any(axis=2).all(axis=1)
        if not free.any():
            break
        places[k] = tried[free.argmax()]
        taken = np.vstack([taken, [*places[k], *(places[k] + size)]])
    return places


def save(figure: Figure, path: Path | str, *, dpi: int = 300, **options: Any) -> None:
    """Write a figure as journals want it: no white border, and TrueType fonts in place of Type 3.

    A path without an ending gets the usual one of Matplotlib, ``.png``. `dpi` is that of a PNG, and of the
    pictures in a PDF. `options` are those of `Figure.savefig`. An older file of that name stays as it was
    until the new one is whole.
    """
    checks.instance("figure", figure, Figure, "a panel has it as .figure")
    path, dpi = checks.path(path), checks.at_least("dpi", dpi, 1, largest=10_000, integer=False)
    if not path.suffix and "format" not in options:
        path = path.with_suffix(f".{plt.rcParams['savefig.format']}")
    settings: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.02} | options
    with write_errors(path.parent), plt.rc_context({"pdf.fonttype": 42, "ps.fonttype": 42}):
        try:
            with atomic_write(path) as unfinished:
                figure.savefig(unfinished, dpi=dpi, **settings)
        except (ValueError, RuntimeError) as error:  # a format that Matplotlib does not know, or the size
            raise InputError(f"cannot write the figure {str(path)!r}: {error}") from error


def fit(picture: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """Shrink a picture or map (H, W, ...) whose longer side has more than `largest` pixels."""
    factor = largest / max(picture.shape[:2])
    if factor >= 1:
        return picture
    size = max(round(picture.shape[1] * factor), 1), max(round(picture.shape[0] * factor), 1)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _panels(
    ax: Any, n: int, shape: Sequence[int], *, columns: int | None = None, bars: int = 0
) -> np.ndarray:
    """`n` axes without ticks for pictures of `shape`: those given, or those of a new figure.

    A row of the figure has room for so many `bars` of colours.
    """
    if not n:
        raise InputError("there is nothing to draw")
    if ax is None:
        # as few empty places in the last row as possible
        columns = columns or (n if n <= 5 else min((4, 5, 3), key=lambda some: -n % some))
        rows = -(-n // columns)
        aspect = min(max(shape[0] / shape[1], 0.3), 2.5)  # height over width
        width = {1: 5.6, 2: 4.4, 3: 3.6}.get(columns, 2.4) / max(aspect, 1)
        width = min(width, (WIDEST - 0.5 * bars) / columns)
        size = columns * width + 0.5 * bars, rows * (width * aspect + 0.35)
        _, grid = plt.subplots(rows, columns, figsize=size, layout="compressed", squeeze=False)
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
    for panel in axes:
        checks.instance("ax", panel, Axes)
    if len(axes) != n:
        raise InputError(f"ax must hold {n} axes, one a panel, got {len(axes)}")
    return axes


def _refuse_others(explanation: Any) -> None:
    checks.instance("explanation", explanation, Explanation, "use dc.explain(...)")


def _frame(image: np.ndarray) -> tuple[float, float, float, float]:
    """Where to draw an image (H, W, ...), so that its own pixels are the coordinates even if it is shrunk."""
    return -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5


def _levels_of_one(explanation: Explanation) -> tuple[np.ndarray, np.ndarray]:
    """The levels (L, h, w) of one detection, and its box in their frame: the photo at another size."""
    _refuse_others(explanation)
    if explanation.levels is None:
        raise InputError(f"method {explanation.method!r} has no levels")
    if len(explanation) != 1:
        raise InputError(f"pass one detection, explanation[i], not {len(explanation)}")
    scale = np.divide(explanation.levels.shape[:1:-1], explanation.image.shape[1::-1])  # across, down
    return explanation.levels[:, 0], explanation.detections.boxes[0] * np.tile(scale, 2)


def _draw_levels(
    maps: np.ndarray, names: Sequence[str], label: str, ax: Any, box: np.ndarray | None = None
) -> np.ndarray:
    """Draw the maps of levels, each on its own scale; the last bar has the label of all."""
    axes = _panels(ax, len(maps), maps.shape[1:], bars=len(maps))
    for panel, values, name in zip(axes, maps, names):
        _draw_map(panel, values, fill(name, NARROW), label if panel is axes[-1] else "")
        if box is not None:
            _draw_box(panel, box, "cyan")
    return axes


def _draw_map(panel: Axes, values: np.ndarray, title: str, label: str = "", low: float | None = None) -> None:
    """Draw a map alone, between its own lowest value, or `low`, and its highest."""
    low, high = float(values.min()) if low is None else low, float(values.max())
    panel.imshow(fit(values), cmap=CMAP, vmin=low, vmax=high, extent=_frame(values))
    panel.set_title(title)
    _colour_bar(panel, low, high, label)


def _draw_explanation(
    panel: Axes, explanation: Explanation, text: str, last: bool, **strength: float
) -> None:
    """Draw the overlay of one detection, with its box and a text about it."""
    scaled = min_max(fit(explanation.saliency[0]))
    title = f"{text}, {explanation.method}"
    _draw_overlay(panel, explanation.image, scaled, _alpha(scaled, **strength), title)
    _draw_box(panel, explanation.detections.boxes[0], "cyan")
    spec = panel.get_subplotspec()
    if last or spec is None or spec.is_last_col():  # one bar is enough for a row
        _colour_bar(panel, 0, 1, "saliency")


def _draw_overlay(
    panel: Axes, image: np.ndarray, values: Any, alpha: Any, title: str, low: float = 0, cmap: str = CMAP
) -> None:
    """Draw what `blend` mixes as two layers, so that the map's own values stay in the figure."""
    panel.imshow(_faint(fit(image)).astype(np.uint8), extent=_frame(image))
    panel.imshow(values, cmap=cmap, vmin=low, vmax=1, alpha=alpha, extent=_frame(image))
    _title(panel, title)


def _title(panel: Axes, text: str) -> None:
    """Write a title, in which a $ starts no formula.

    A line that is wider than its panel takes two, and what these cannot hold is cut to "…".
    """
    # The panel is not laid out yet: layout makes it about 1.15 times as wide.
    points = 72 * 1.15 * panel.get_position().width * panel.figure.bbox.width / panel.figure.dpi
    letters = int(points / (0.55 * float(panel.title.get_fontsize())))  # a letter's mean width
    lines = [fill(line, max(letters, 3), max_lines=2, placeholder="…") for line in text.split("\n")]
    panel.set_title("\n".join(lines), parse_math=False)


def _strength(opacity: Any, threshold: Any) -> dict[str, float]:
    return {
        "opacity": checks.fraction("opacity", opacity),
        "threshold": checks.fraction("threshold", threshold),
    }


def _alpha(scaled: np.ndarray, *, opacity: float = OPACITY, threshold: float = 0) -> np.ndarray:
    """How far a scaled map covers the image: less where it is lower, not at all below the threshold."""
    return opacity * np.sqrt(scaled) * (scaled >= threshold)


def _faint(image: np.ndarray) -> np.ndarray:
    """An image in faint colours, for a map to lie on: CSS's ``saturate(0.4)``."""
    return 0.4 * image + 0.6 * (image @ (0.213, 0.715, 0.072))[..., None]


def _colour_bar(panel: Axes, low: float, high: float, label: str, cmap: str = CMAP) -> None:
    mappable = ScalarMappable(Normalize(low, high), cmap)
    bar = panel.figure.colorbar(mappable, cax=panel.inset_axes((1.02, 0, 0.04, 1)), label=label)
    bar.ax.tick_params(labelsize=plt.rcParams["font.size"])  # as it is now, not when it is drawn


def _draw_box(panel: Axes, box: Any, colour: Any, style: str = "-") -> None:
    """Draw a box (x1, y1, x2, y2), where pixel 0 reaches from 0 to 1, on a black one."""
    x1, y1, x2, y2 = (np.asarray(box, dtype=float) - 0.5).tolist()
    width = plt.rcParams["lines.linewidth"]
    for edge, thickness, line in (("black", 2 * width, "-"), (colour, width, style)):
        panel.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=edge, lw=thickness, ls=line))


def _pair_boxes(truth: Targets | None, prediction: Detections | None) -> list[tuple[np.ndarray, str, str]]:
    """Box, colour and style of a ground truth and a prediction, as far as they are there."""
    drawn = []
    for what, given, kind, *look in (
        ("truth", truth, Targets, TRUTH, "-"),
        ("prediction", prediction, Detections, PREDICTION, "--"),
    ):
        if given is not None:
            checks.instance(what, given, kind)
            drawn.append((checks.numbers(f"boxes of the {what}", given.boxes, (1, 4))[0], *look))
    return drawn


def _draw_image(
    image: np.ndarray, boxes: Any, texts: Iterable[str], colours: Sequence[str], ax: Any
) -> np.ndarray:
    """Draw an image with boxes, the first on top, and their labels."""
    image, boxes, texts = checks.image(image), float_array("boxes", boxes, (4,)), list(texts)
    if len(texts) != len(boxes):
        raise InputError(f"boxes must have a label each: {len(boxes)} boxes, {len(texts)} labels")
    (panel,) = axes = _panels(ax, 1, image.shape)
    panel.imshow(fit(image), extent=_frame(image))
    for box, colour in reversed(list(zip(boxes, colours))):
        _draw_box(panel, box, colour)
    labels = next((artist for artist in panel.artists if isinstance(artist, _Labels)), _Labels())
    if labels.axes is None:
        panel.add_artist(labels)
    for box, text, colour in zip(boxes, texts, colours):
        ground = {"facecolor": colour, "edgecolor": "none", "boxstyle": f"square,pad={PADDING}"}
        drawn = panel.text(0, 0, text, ha="left", va="top", color="white", bbox=ground, parse_math=False)
        drawn.set_in_layout(False)  # it lies in its panel
        labels.labels.append((np.asarray(box, dtype=float) - 0.5, text, drawn))
    return axes


class _Labels(Artist):
    """The labels of a panel, which are placed when it is drawn: only then is their size known."""

    zorder = 2.9  # drawn just before the texts

    def __init__(self) -> None:
        super().__init__()
        self.set_in_layout(False)
        self.labels: list[tuple[np.ndarray, str, Any]] = []  # box, text, and what shows it

    def draw(self, renderer: Any) -> None:
        assert self.axes is not None
        window, transform = self.axes.get_window_extent(renderer), self.axes.transData
        boxes, sizes = [], []
        for box, text, drawn in self.labels:
            x, y = (transform.transform(box.reshape(2, 2)) - (window.x0, window.y1)).T * ((1,), (-1,))
            boxes.append((x.min(), y.min(), x.max(), y.max()))
            pad = PADDING * renderer.points_to_pixels(drawn.get_fontsize())
            drawn.set_visible(True)  # what is not visible has no size
            for length in range(min(len(text), 200), 0, -1) or [0]:  # what is wider than the panel is cut
                drawn.set_text(text if length == len(text) else text[:length] + "…")
                size = drawn.get_window_extent(renderer).size + 2 * pad
                if size[0] < window.width:
                    break
            sizes.append(size)
        for (_, _, drawn), (x, y) in zip(self.labels, label_places(boxes, sizes, window.size)):
            drawn.set_visible(not np.isnan(x))
            corner = window.x0 + x + pad, window.y1 - y - pad
            drawn.set_position(transform.inverted().transform(np.nan_to_num(corner)))
