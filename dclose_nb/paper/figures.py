"""The paper's Figures 1 to 10, each arranged as its caption says; `gallery.make` makes them.

They are as wide as the text of a page, 7 inches, and no text in them is smaller than 7 points.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch
from matplotlib.transforms import ScaledTranslation

from .. import plot
from ..checks import InputError
from ..detection import Detector
from ..detectors.planted import NETWORKS
from ..explanation import Explanation
from ..files import shipped
from ..fusion import cascade_steps, min_max
from ..images import load_photo
from ..methods import make
from ..sampling import Plan, sample
from ..similarity import target_weights
from ..studies import conditions, sanity
from ..studies.error_analysis import Case, vectors
from ..studies.records import Records
from . import cases
from .cases import Candidate, DetectedPicture, FigureInputs, MissingCase, Picture, PictureSource

WIDTH = 6.9  # inches, without the border that is left around it
PRINT = rc_context(
    {"font.size": 7, "axes.titlesize": 7, "axes.titlepad": 3, "axes.linewidth": 0.5, "lines.linewidth": 0.8}
)
FORMULA = 10  # points, so that an index has 7

SAMPLES = 4000  # of Fig. 9: an eighth, a half and all of them are compared
ACROSS = 3  # pictures of each size in Fig. 10
GROUPS = ("small", "middle", "large")
ERRORS = {
    "wrong class": "object of the wrong class",
    "wrong place": "box in the wrong place",
    "missed": "missed object",
    "not there": "detection of what is not there",
}
METHODS = {"dclose": "D-CLOSE", "drise": "D-RISE"}
ROAD = ("person", "car", "taxi", "bus", "truck", "bicycle", "motorcycle", "train")  # for Fig. 8
# Photographs for Fig. 8 under $DCLOSE_CONDITIONS: a folder for each panel, or data sets as they are published
REAL = {
    "low light": ("low_light/**/*",),
    "red light": ("red_light/**/*",),
    "fog": ("fog/**/*", "rtts_fog/*", "RTTS/JPEGImages/*"),
    "night": (
        *("night/**/*", "kaist/set09*_visible.*", "kaist/set1*_visible.*", "mfnet/*N_rgb.*"),
        *("kaist/**/set09/*/visible/*", "kaist/**/set1[01]/*/visible/*"),
    ),
    "FIR": (
        *("fir/**/*", "kaist/set09*_lwir.*", "kaist/set1*_lwir.*", "mfnet/*N_fir.*"),
        *("kaist/**/set09/*/lwir/*", "kaist/**/set1[01]/*/lwir/*"),
    ),
    "NIR": ("nir/**/*",),
    "MIR": ("mir/**/*",),
}
MOST_PHOTOGRAPHS = 50  # of a panel, that are looked at
SUREST = 2  # detections that are drawn in a panel: labels of more would hide the picture


@PRINT
def procedure(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 1: the whole way above, what happens on one level below."""
    candidate, explanation, levels, densities = _surest_with_levels(inputs)
    detector, target = candidate.picture.detector, candidate.target
    image, segments = explanation.image, explanation.segments
    canvas = detector.prepare(image)
    samplers = make(explanation.method, **explanation.params).plan(canvas, explanation.seed).samplers

    height = WIDTH * image.shape[0] / image.shape[1]
    heights = 3 * height / 7.5 + 0.9, 2 * height / 5 + 0.6
    figure = plt.figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    upper.suptitle("from the image to the map", weight="bold")
    grid = upper.add_gridspec(3, len(segments) + 2)
    first, last = upper.add_subplot(grid[:, 0]), upper.add_subplot(grid[:, -1])
    plot.detections(image, target, ax=first)
    first.set_title("image and target")
    columns = np.array([[upper.add_subplot(grid[j, k + 1]) for k in range(len(segments))] for j in range(3)])
    for k, sampler in enumerate(samplers):
        plot.superpixels(canvas.content_image, sampler.cells.cpu().numpy(), ax=columns[0, k])
        columns[0, k].set_title(f"{segments[k]} superpixels\nasked, {sampler.n_cells} made")
        plot.masks(sampler.masks(0, 1).cpu().numpy(), titles=["one mask"], ax=columns[1, k])
        plot.maps({f"$S_{k + 1}$": levels[k]}, ax=columns[2, k])
        columns[2, k].title.set_size(FORMULA)
        for above, below in zip(columns[:, k], columns[1:, k]):
            _arrow(above, (0.5, -0.02), below, (0.5, 1), rise=14)
    plot.explanation(explanation, ax=last)
    last.set_title("fused: the map")
    _arrow(first, (1.02, 0.8), columns[0, 0], (-0.02, 0.3))
    _arrow(columns[2, -1], (1.02, 0.5), last, (0.5, -0.02))

    lower.suptitle(f"one level: {samplers[-1].n_cells} superpixels", weight="bold")
    grid = lower.add_gridspec(2, 5)
    (coarsest,) = sample(detector, canvas, target, Plan(samplers[-1:], [16]), progress=False)
    weights = coarsest.weights[:, 0]
    for row, k in enumerate((int(weights.argmax()), int(weights.argmin()))):
        mask = canvas.maps_to_image(samplers[-1].masks(k, k + 1).cpu().numpy())
        masked = (image * mask[0, ..., None]).astype(np.uint8)
        pair = lower.add_subplot(grid[row, 0]), lower.add_subplot(grid[row, 1])
        plot.masks(mask, titles=["mask"], ax=pair[0])
        plot.detections(masked, detector.detect(masked), ax=pair[1])
        pair[1].set_title(f"found, weight {weights[k]:.2f}")
        _arrow(pair[0], (1.01, 0.5), pair[1], (-0.01, 0.5))
    names = "weighted sum of masks", "density of masks", f"$S_{len(segments)}$"
    last_row = [lower.add_subplot(grid[:, 2 + k]) for k in range(3)]
    _division(last_row, names, levels[-1], densities[-1])
    last_row[-1].title.set_size(FORMULA)
    return figure, (
        f"Above: the image is cut into superpixels on {len(segments)} levels; each level gives random "
        "masks, and of these a map S; the maps are fused to one. Below, on one level: the detector sees "
        "the image under each mask. The mask's weight says how much of the target is left in what it "
        "proposes. The weighted sum of the masks is divided by their density. Of the first 16 masks the "
        f"two of highest and lowest weight are shown. The target is {_described(candidate)}."
    )


@PRINT
def density(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 2: the weighted sum, the density, and what is left when one is divided by the other."""
    candidate, explanation, levels, densities = _surest_with_levels(inputs)
    axes = _grid([[candidate.picture]] * 2, 3)
    for row, k in zip(axes, (0, -1)):
        first = f"weighted sum, about {explanation.segments[k]} superpixels"
        _division(row, (first, "density of the masks", "mean weight of a pixel"), levels[k], densities[k])
    return axes[0, 0].figure, (
        "Random masks do not keep every pixel equally often. The weighted sum of the masks (left) is "
        "divided by the density of the masks (middle), so that each pixel gets the mean weight of the "
        "masks that kept it (right): above on the finest level, below on the coarsest, for "
        f"{_described(candidate)}. Every panel is scaled to [0, 1] for itself."
    )


@PRINT
def fusion(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 3: scaled levels above, the cascade below, and the operators between them."""
    candidate, explanation, levels, _ = _surest_with_levels(inputs)
    n, height = len(levels), levels.shape[1] / levels.shape[2]
    spaces = {"left": 0.04, "right": 0.99, "top": 0.87, "bottom": 0.1, "wspace": 0.65, "hspace": 0.35}
    figure, axes = plt.subplots(
        2, n, figsize=(WIDTH, 2.6 * height * WIDTH / (1.7 * n) + 0.7), gridspec_kw=spaces
    )
    titles = [f"$S_{k + 1}$\nabout {count}" for k, count in enumerate(explanation.segments)]
    plot.maps(dict(zip(titles, min_max(levels))), ax=axes[0])
    names = ["$A_0 = S_1$", *(f"$A_{k}$" for k in range(1, n))]
    plot.maps(dict(zip(names, cascade_steps(levels))), ax=axes[1])
    for panel in axes.flat:
        panel.title.set_size(FORMULA)
    for panel in axes[0]:
        _node(panel, (-0.13, 0.5), "N")
        _arrow(panel, (-0.05, 0.5), panel, (0, 0.5))
    _arrow(axes[0, 0], (0.5, -0.03), axes[1, 0], (0.5, 1), rise=15)
    plus, times = (-0.46, 0.5), (-0.19, 0.5)
    for k in range(1, n):
        before, here, level = axes[1, k - 1], axes[1, k], axes[0, k]
        _arrow(before, (1.01, 0.5), here, (plus[0] - 0.08, 0.5))
        _arrow(here, (plus[0] + 0.08, 0.5), here, (times[0] - 0.08, 0.5))
        _arrow(here, (times[0] + 0.08, 0.5), here, (-0.01, 0.5))
        for at in (plus, times):
            _arrow(level, (0.02, -0.02), here, (at[0] + 0.02, 0.6))
        _node(here, plus, "+")
        _node(here, times, r"$\times$")
    legend = r"N  scaling to [0, 1]      +  addition      $\times$  multiplication, pixel by pixel"
    figure.text(0.5, 0.03, legend, ha="center")
    return figure, (
        "The levels, finest first, with about as many superpixels as stands above each, are scaled to "
        "[0, 1] and run through a cascade: the map so far is added to the next level and the sum multiplied "
        f"by that level, pixel by pixel. The last map, A{n - 1}, is the explanation, here of "
        f"{_described(candidate)}. Each panel of the lower row is scaled for itself."
    )


@PRINT
def altered_weights(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 4: (a) the ground truth, (b) the map, (c) the map when the weights are shuffled."""
    candidate = inputs.candidate(1)
    picture, target, truth = candidate
    try:
        other = sanity.randomise(picture.detector, seed=inputs.seed)
    except InputError as error:
        why = str(error)
        raise MissingCase(f"{why[:1].upper()}{why[1:]}.") from error
    other.provenance = other.provenance | {"before": picture.detector.provenance}
    trained = inputs.explain(candidate)
    altered = inputs.explain(Candidate(picture._replace(detector=other), target))
    left = target_weights(other, trained.image, target)[0]
    if truth is None:
        inputs.notes.append("Nobody has marked the objects in this picture, so (a) is the detection.")
    (axes,) = _grid([[picture]], 3)
    _draw_boxes(axes[0], candidate)
    plot.explanation(trained, ax=axes[1])
    plot.explanation(altered, ax=axes[2])
    first = "(a) detection" if truth is None else "(a) ground truth"
    for panel, title in zip(axes, (first, "(b) weights as trained", "(c) weights shuffled")):
        panel.set_title(title)
    return axes[0].figure, (
        f"{first}, (b) the map of {_described(candidate)}, (c) the map of the same detection when the "
        "weights of every layer are shuffled within the layer. Nothing that the shuffled network proposes "
        f"resembles the detection by more than {left:.2g} (Eq. 6); each map is scaled for itself."
    )


@PRINT
def wrong_boxes(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 5: a row for the wrong class, one for the wrong place; two maps and their difference."""
    found = _errors(inputs, "wrong class", "wrong place")
    axes = _grid([[picture] for picture, _ in found], 4)
    listed = [_draw_error(inputs, *pair, row) for row, pair in zip(axes, found)]
    return axes[0, 0].figure, (
        "Boxes, green for the ground truth and red for the prediction; the map of each; and the "
        f"prediction's less the ground truth's. Rows: {'; '.join(listed)}."
    )


@PRINT
def missed_and_not_there(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 6: (a) an object that is missed, (b) a detection where nothing is marked."""
    found = _errors(inputs, "missed", "not there")
    (axes,) = _grid([[picture for picture, _ in found]], 2 * len(found))
    halves = zip(("(a) ", "(b) "), axes.reshape(-1, 2), found)
    listed = [_draw_error(inputs, *pair, half, letter) for letter, half, pair in halves]
    return axes[0].figure, (
        f"{'; '.join(listed)}. The map of a missed object is that of the box that should have been drawn: "
        "it says what speaks for it in what the detector proposes, however faintly. The map of what is not "
        "there says what was taken for it."
    )


@PRINT
def overlaps(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 7: (a) a box that wraps two objects, (b) objects that overlap in part and (c) wholly."""
    searches: dict[str, cases.Search[Candidate]] = {
        "box around two objects of its class": cases.wrapping,
        "pair that overlaps in part": partial(cases.overlapping, wholly=False),
        "pair that overlaps wholly": partial(cases.overlapping, wholly=True),
    }
    found = inputs.find(searches)
    axes = _grid([[candidate.picture] for candidate in found.values()], 3)
    listed = []
    for letter, row, (what, candidate) in zip("abc", axes, found.items()):
        names = candidate.target.names
        if candidate.truth is None:
            which = f"{' and '.join(names)}, {what.removeprefix('pair that overlaps ')},"
        else:
            which = f"one {names[0]} drawn around {len(candidate.truth.labels)}"
        listed.append(f"({letter}) {which} in {candidate.picture.name}")
        _draw_boxes(row[0], candidate)
        row[0].set_title(f"({letter})")
        plot.explanation(inputs.explain(candidate), ax=row[1 : 1 + len(names)])
        for spare in row[1 + len(names) :]:
            spare.remove()
    return axes[0, 0].figure, (
        f"Objects that overlap, and the map of each detection: {'; '.join(listed)}. "
        "Maps of a row share their masks."
    )


@PRINT
def bad_conditions(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 8: images in bad conditions, and what both methods say of a detection in each."""
    clear, *_ = inputs.candidate(0, ROAD)
    columns = []
    for name, files in photographs().items():
        drawn = clear.detector.name in NETWORKS
        photographed = None if drawn else _photographed(inputs, clear.detector, name, files)
        if photographed is not None:
            columns.append(photographed)
        elif name.replace(" ", "_") in conditions.CONDITIONS:
            columns.append(_modelled(inputs, name.replace(" ", "_")))
            inputs.notes.append(f"There is no photograph of {name} here, so it is a model of one.")
        else:
            inputs.notes.append(f"{name} is missing: there is no such photograph here.")
    pictures = [candidate.picture for _, candidate in columns]
    axes = _grid([pictures] * (1 + len(METHODS)), len(columns))
    listed = []
    for column, (name, candidate) in zip(axes.T, columns):
        picture, target, _ = candidate
        plot.detections(picture.image, picture.detections[:SUREST], ax=column[0])
        column[0].set_title(name)
        for panel, (method, called) in zip(column[1:], METHODS.items()):
            plot.explanation(inputs.explain(candidate, method=method), ax=panel)
            panel.set_title(f"{called}, {target.names[0]}", parse_math=False)
        left = target_weights(picture.detector, picture.image, target)[0]
        where = " ".join(name.split())
        listed.append(f"{where}, the {target.names[0]} in {picture.name}: {left:.2f}")
    return axes[0, 0].figure, (
        f"A detection in bad conditions: the {SUREST} surest of what is found (first row), D-CLOSE's map and "
        "D-RISE's. For models of conditions it is the detection in the clear image. A map is scaled, and "
        "bright even where hardly anything is left of the detection; the best that the detector proposes "
        f"resembles it by (Eq. 6) {'; '.join(listed)}."
    )


@PRINT
def sample_sizes(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 9: D-CLOSE above D-RISE, with an eighth, a half and all of the samples."""
    candidate = inputs.candidate(2)
    most = inputs.n_masks or SAMPLES
    budgets = most // 8, most // 2, most
    axes = _grid([[candidate.picture]] * len(METHODS), 1 + len(budgets))
    for row, (method, called) in zip(axes, METHODS.items()):
        plot.detections(candidate.picture.image, candidate.target, ax=row[0])
        row[0].set_title(called)
        for panel, n_masks in zip(row[1:], budgets):
            plot.explanation(inputs.explain(candidate, method=method, n_masks=n_masks), ax=panel)
            panel.set_title(f"{n_masks} samples")
    return axes[0, 0].figure, (
        f"D-CLOSE (above) and D-RISE (below) with {', '.join(map(str, budgets[:-1]))} and {most} masked "
        f"images, for {_described(candidate)}. A larger sample begins with the masks of a smaller one."
    )


@PRINT
def object_sizes(inputs: FigureInputs) -> tuple[Figure, str]:
    """Fig. 10: D-CLOSE's maps, a row for each group of sizes."""
    shipped_table = shipped("results/yolox_nano_coco/records.jsonl")
    centres = inputs.sources[0].centres or Records(shipped_table).settings["size_centres"]
    searches = {
        f"{group} object": partial(cases.of_size, centres=centres, group=k) for k, group in enumerate(GROUPS)
    }
    found = inputs.find(searches)
    rows = {what.removesuffix(" object"): row[:ACROSS] for what, row in found.items()}
    axes = _grid([[candidate.picture for candidate in row] for row in rows.values()], ACROSS)
    for panels, (group, row) in zip(axes, rows.items()):
        for panel, candidate in zip(panels, row):
            plot.explanation(inputs.explain(candidate), ax=panel)
            title = f"{group}: {candidate.target.names[0]} {candidate.score:.2f}"
            panel.set_title(title, parse_math=False)
        for spare in panels[len(row) :]:
            spare.remove()
    pictured = dict.fromkeys(candidate.picture.name for row in rows.values() for candidate in row)
    return axes[0, 0].figure, (
        f"D-CLOSE's maps of {', '.join(rows)} objects, a row each. An object's group is that whose centre is "
        f"nearest to its box's share of the image: {', '.join(f'{centre:.3f}' for centre in centres)}. "
        f"Pictures: {', '.join(pictured)}."
    )


# What each figure is called, and what draws it and gives its caption
FIGURES: dict[int, tuple[str, Callable[[FigureInputs], tuple[Figure, str]]]] = {
    1: ("From an image to a map", procedure),
    2: ("The density of the masks", density),
    3: ("From five maps to one", fusion),
    4: ("Trained and altered weights", altered_weights),
    5: ("Wrong class, wrong place", wrong_boxes),
    6: ("Missed, and not there", missed_and_not_there),
    7: ("Objects that overlap", overlaps),
    8: ("Bad conditions", bad_conditions),
    9: ("Fewer and more samples", sample_sizes),
    10: ("Objects of every size", object_sizes),
}


# -- what they are made of


def _surest_with_levels(inputs: FigureInputs) -> tuple[Candidate, Explanation, np.ndarray, np.ndarray]:
    """The surest detection, its explanation, and of this the levels and densities, (L, h, w) each."""
    candidate = inputs.candidate(0)
    explanation = inputs.explain(candidate)
    assert explanation.levels is not None and explanation.density is not None
    return candidate, explanation, explanation.levels[:, 0], explanation.density


def _errors(inputs: FigureInputs, *kinds: str) -> Collection[tuple[DetectedPicture, Case]]:
    """The plainest case of each kind of error, as far as there are any."""
    return inputs.find({ERRORS[kind]: partial(cases.plainest, kind=kind) for kind in kinds}).values()


def _modelled(inputs: FigureInputs, name: str) -> tuple[str, Candidate]:
    """A person or vehicle, or what there is, under a model of a condition."""
    clear, target, _ = inputs.candidate(0, ROAD)
    image = conditions.CONDITIONS[name](clear.image, conditions.MAPPED_AT)
    darkened = cases.detect(clear.detector, Picture(clear.name, lambda: image))
    return conditions.spoken(name), Candidate(darkened, target)


def photographs() -> dict[str, list[Path]]:
    """Photographs of each condition of `REAL`, under the folder that ``DCLOSE_CONDITIONS`` names.

    At most `MOST_PHOTOGRAPHS` of each are taken, at even distances. Without the variable there are none.
    """
    folder = os.environ.get("DCLOSE_CONDITIONS")
    found = {}
    for name, patterns in REAL.items():
        files = {file for pattern in patterns for file in Path(folder).glob(pattern)} if folder else set()
        photos = sorted(file for file in files if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
        found[name] = photos[:: max(-(-len(photos) // MOST_PHOTOGRAPHS), 1)]
    return found


def _photographed(
    inputs: FigureInputs, detector: Detector, name: str, files: Sequence[Path]
) -> tuple[str, Candidate] | None:
    """The surest person or vehicle in photographs of a condition, where there are any."""
    pictures = [Picture(file.name, partial(load_photo, file)) for file in files]
    source = PictureSource(name, detector, pictures, None, progress=inputs.progress)
    seen = [
        Candidate(picture, detection)
        for picture in source.detected
        for detection in picture.detections
        if detection.names[0] in ROAD
    ]
    surest = max(seen, key=attrgetter("score"), default=None)
    return None if surest is None else (f"{name}\n(photograph)", surest)


def _described(candidate: Candidate) -> str:
    return f"the {candidate.target.names[0]} ({candidate.score:.2f}) in {candidate.picture.name}"


# -- what their panels show


def _draw_boxes(panel: Axes, candidate: Candidate) -> None:
    """Draw what people have marked; where nobody has, the detections."""
    if candidate.truth is None:
        plot.detections(candidate.picture.image, candidate.target, ax=panel)
    else:
        plot.boxes(candidate.picture.image, candidate.truth, ax=panel)


def _draw_error(
    inputs: FigureInputs,
    picture: DetectedPicture,
    case: Case,
    axes: np.ndarray,
    letter: str = "",
) -> str:
    """Draw a case with the maps of its ground truth and its prediction; returns what it is."""
    explanation = inputs.explain(Candidate(picture, vectors(case, picture.detector.class_names)))
    title = letter + str(case).replace(": ", "\n", 1).replace("(IoU ", "(IoU\N{NO-BREAK SPACE}")
    plot.comparison(explanation, case.truth, case.prediction, title=title, ax=axes)
    return f"{letter}{case} in {picture.name}"


def _division(axes: Sequence[Axes], names: Sequence[str], level: np.ndarray, density: np.ndarray) -> None:
    """Draw the weighted sum of the masks, divided by their density, equals the level (h, w)."""
    plot.maps(dict(zip(names, (level * density, density, level))), ax=axes)
    for panel, operator in zip(axes[1:], "÷="):
        panel.text(-0.065, 0.5, operator, transform=panel.transAxes, ha="center", va="center", fontsize=12)


# -- how they are laid out


def _grid(rows: Sequence[Sequence[DetectedPicture]], columns: int) -> np.ndarray:
    """Axes (rows, columns), each row as high as the tallest of its pictures."""
    tallest = [max(picture.size[0] / picture.size[1] for picture in row) for row in rows]
    heights = [WIDTH / columns * min(max(height, 0.3), 1.6) + 0.6 for height in tallest]
    size = WIDTH, sum(heights)
    return plt.subplots(
        len(rows), columns, figsize=size, height_ratios=heights, layout="compressed", squeeze=False
    )[1]


def _arrow(
    start: Axes, a: tuple[float, float], end: Axes, b: tuple[float, float], *, rise: float = 0
) -> None:
    """An arrow between two panels, from and to shares of their width and height; `rise` points above."""
    figure = end.figure.get_figure(root=True)
    above = end.transAxes + ScaledTranslation(0, rise / 72, figure.dpi_scale_trans)
    arrow = ConnectionPatch(a, b, start.transAxes, above, arrowstyle="-|>", color="dimgray", lw=0.8)
    arrow.set(in_layout=False, mutation_scale=6)
    figure.add_artist(arrow)


def _node(panel: Axes, at: tuple[float, float], text: str) -> None:
    """An operator in a circle."""
    circle = Line2D([at[0]], [at[1]], marker="o", markersize=11, color="white", markeredgecolor="black")
    circle.set(transform=panel.transAxes, clip_on=False)
    panel.add_artist(circle)
    panel.text(*at, text, transform=panel.transAxes, ha="center", va="center_baseline")
