"""The paper's Figures 1 to 10, each arranged as its caption says; `gallery.make` makes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from .. import plot
from .. import sampling as engine
from ..checks import InputError
from ..detection import Detections, Detector, Targets
from ..detectors.planted import NETWORKS
from ..explanation import Explanation
from ..files import shipped
from ..fusion import cascade_steps, min_max
from ..images import load_photo
from ..methods.dclose import pyramid_of
from ..studies.conditions import CONDITIONS, MAPPED_AT, target_weights
from ..studies.error_analysis import Case, Comparison, vectors
from ..studies.records import Records
from ..studies.sanity import randomise
from .pictures import Look, Picture, Pool, Subject
from .studio import MissingCase, Studio

SAMPLES = 4000  # of Fig. 9: an eighth, a half and all of them are compared
ACROSS = 3  # pictures of each size in Fig. 10
GROUPS = ("small", "middle", "large")
METHODS = {"dclose": "D-CLOSE", "drise": "D-RISE"}
ROAD = ("person", "car", "taxi", "bus", "truck", "bicycle", "motorcycle", "train")  # for Fig. 8
# Photographs for Fig. 8 under $DCLOSE_CONDITIONS: fog of RTTS; nights of KAIST and of Takumi et al.
REAL = {
    "fog": ("rtts_fog/*.png",),
    "night": ("kaist/set09*_visible.png", "kaist/set1*_visible.png", "mfnet/*N_rgb.png"),
    "FIR": ("kaist/set09*_lwir.png", "kaist/set1*_lwir.png", "mfnet/*N_fir.png"),
}
NOTHING = "There is nothing to explain."


def procedure(studio: Studio) -> tuple[Figure, str]:
    """Fig. 1: the whole way above, what happens on one level below."""
    subject = studio.subject(0)
    detector, target = subject.look.detector, subject.target
    explanation, levels, densities = _with_levels(studio, subject)
    image, segments = explanation.image, explanation.segments
    canvas = detector.prepare(image)
    samplers = pyramid_of(canvas, explanation.params)

    height = image.shape[0] / image.shape[1]
    figure = plt.figure(figsize=(16, 16 * (5.2 * height + 1.2) / 7), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 2.1), squeeze=False)[:, 0]
    upper.suptitle("from the image to the map", weight="bold")
    grid = upper.add_gridspec(3, len(segments) + 2)
    first, last = upper.add_subplot(grid[:, 0]), upper.add_subplot(grid[:, -1])
    plot.detections(image, target, ax=first)
    first.set_title("image and target")
    columns = np.array([[upper.add_subplot(grid[j, k + 1]) for k in range(len(segments))] for j in range(3)])
    for k, sampler in enumerate(samplers):
        plot.superpixels(canvas.content_image, sampler.cells.cpu().numpy(), ax=columns[0, k])
        plot.masks(sampler.masks(0, 1).cpu().numpy(), titles=["one mask of many"], ax=columns[1, k])
        plot.maps({f"$S_{k + 1}$, from all masks": levels[k]}, ax=columns[2, k])
        for above, below in zip(columns[:, k], columns[1:, k]):
            _arrow(above, (0.5, -0.02), below, (0.5, 1.17))
    plot.explanation(explanation, ax=last)
    last.set_title("fused: the map")
    _arrow(first, (0.5, 1.17), columns[0, 0], (-0.02, 0.5))
    _arrow(columns[2, -1], (1.02, 0.5), last, (0.5, -0.02))

    lower.suptitle(f"one level: {segments[-1]} superpixels", weight="bold")
    grid = lower.add_gridspec(2, 5)
    (coarsest,) = engine.run(detector, canvas, target, samplers[-1:], [16], progress=False)
    weights = coarsest.weights[:, 0]
    for row, k in enumerate((int(weights.argmax()), int(weights.argmin()))):
        mask = canvas.maps_to_image(samplers[-1].masks(k, k + 1).cpu().numpy())
        masked = (image * mask[0, ..., None]).astype(np.uint8)
        pair = lower.add_subplot(grid[row, 0]), lower.add_subplot(grid[row, 1])
        plot.masks(mask, titles=["mask"], ax=pair[0])
        plot.detections(masked, detector.detect(masked), ax=pair[1])
        pair[1].set_title(f"what is found; weight {weights[k]:.2f}")
        _arrow(pair[0], (1.01, 0.5), pair[1], (-0.01, 0.5))
    names = "weighted sum of the masks", "density of the masks", f"their ratio, $S_{len(segments)}$"
    panels = [lower.add_subplot(grid[:, 2 + k]) for k in range(3)]
    plot.maps(dict(zip(names, (levels[-1] * densities[-1], densities[-1], levels[-1]))), ax=panels)
    _glyph(panels[1], "÷")
    _glyph(panels[2], "=")
    caption = (
        f"Above: the image is cut into superpixels on {len(segments)} levels; each level gives random "
        "masks, and of these a map; the maps are fused to one. Below, on one level: the detector sees "
        "the image under each mask. The mask's weight says how much of the target is left in what it "
        "proposes. The weighted sum of the masks is divided by their density. Of the first 16 masks the "
        f"two of highest and lowest weight are shown. The target is {_said(subject)}."
    )
    return figure, caption


def density(studio: Studio) -> tuple[Figure, str]:
    """Fig. 2: the weighted sum, the density, and what is left when one is divided by the other."""
    subject = studio.subject(0)
    explanation, levels, densities = _with_levels(studio, subject)
    axes = _grid([explanation.image.shape] * 2, 3)
    for row, k in zip(axes, (0, -1)):
        level, masks, count = levels[k], densities[k], explanation.segments[k]
        names = f"weighted sum, {count} superpixels", "density of the masks", "mean weight of a pixel"
        plot.maps(dict(zip(names, (level * masks, masks, level))), ax=row)
        _glyph(row[1], "÷")
        _glyph(row[2], "=")
    caption = (
        "Random masks do not keep every pixel equally often. The weighted sum of the masks (left) is "
        "divided by the density of the masks (middle), so that each pixel gets the mean weight of the "
        "masks that kept it (right): above on the finest level, below on the coarsest, for "
        f"{_said(subject)}. Every panel is scaled to [0, 1] for itself."
    )
    return axes[0, 0].figure, caption


def fusion(studio: Studio) -> tuple[Figure, str]:
    """Fig. 3: scaled levels above, the cascade below, and the operators between them."""
    subject = studio.subject(0)
    explanation, levels, _ = _with_levels(studio, subject)
    n, height = len(levels), levels.shape[1] / levels.shape[2]
    spaces = {"left": 0.04, "right": 0.99, "top": 0.92, "bottom": 0.1, "wspace": 0.6, "hspace": 0.35}
    figure, axes = plt.subplots(2, n, figsize=(3.4 * n, 4.9 * height + 1.3), gridspec_kw=spaces)
    titles = [f"$S_{k + 1}$, {count} superpixels" for k, count in enumerate(explanation.segments)]
    plot.maps(dict(zip(titles, min_max(levels))), ax=axes[0])
    names = ["$A_0 = S_1$", *(f"$A_{k}$" for k in range(1, n))]
    plot.maps(dict(zip(names, cascade_steps(levels))), ax=axes[1])
    for panel in axes[0]:
        _node(panel, (-0.13, 0.5), "N")
        _arrow(panel, (-0.08, 0.5), panel, (0, 0.5))
    _arrow(axes[0, 0], (0.5, -0.03), axes[1, 0], (0.5, 1.15))
    plus, times = (-0.4, 0.5), (-0.17, 0.5)
    for k in range(1, n):
        before, here, level = axes[1, k - 1], axes[1, k], axes[0, k]
        _arrow(before, (1.01, 0.5), here, (plus[0] - 0.05, 0.5))
        _arrow(here, (plus[0] + 0.05, 0.5), here, (times[0] - 0.05, 0.5))
        _arrow(here, (times[0] + 0.05, 0.5), here, (-0.01, 0.5))
        for at in (plus, times):
            _arrow(level, (0.02, -0.02), here, (at[0], 0.56))
        _node(here, plus, "+")
        _node(here, times, r"$\times$")
    legend = r"N  scaling to [0, 1]      +  addition      $\times$  multiplication, pixel by pixel"
    figure.text(0.5, 0.03, legend, ha="center")
    caption = (
        "The levels, finest first, are scaled to [0, 1] and run through a cascade: the map so far is "
        "added to the next level and the sum multiplied by that level, pixel by pixel. The last map, "
        f"A{n - 1}, is the explanation, here of {_said(subject)}. Each panel of the lower row is scaled "
        "for itself."
    )
    return figure, caption


def altered_weights(studio: Studio) -> tuple[Figure, str]:
    """Fig. 4: (a) the ground truth, (b) the map, (c) the map when the weights are shuffled."""
    subject = studio.subject(1)
    look, target, truth = subject.look, subject.target, subject.truth
    try:
        other = randomise(look.detector, seed=studio.seed)
    except InputError as error:
        raise MissingCase(f"{str(error).capitalize()}.") from error
    other.provenance = other.provenance | {"before": look.detector.provenance}
    trained, altered = (studio.explain(one, target) for one in (look, look._replace(detector=other)))
    left = target_weights(other, trained.image, target)[0]
    (axes,) = _grid([look.size], 3)
    if truth is None:
        plot.detections(trained.image, target, ax=axes[0])
        studio.notes.append("Nobody has marked the objects in this picture, so (a) is the detection.")
    else:
        plot.boxes(trained.image, truth, ax=axes[0])
    plot.explanation(trained, ax=axes[1])
    plot.explanation(altered, ax=axes[2])
    first = "(a) detection" if truth is None else "(a) ground truth"
    for panel, title in zip(axes, (first, "(b) weights as trained", "(c) weights shuffled")):
        panel.set_title(title)
    caption = (
        f"{first}, (b) the map of {_said(subject)}, (c) the map of the same detection when the weights of "
        "every layer are shuffled within the layer. Nothing that the shuffled network proposes resembles "
        f"the detection by more than {left:.2g} (Eq. 6); each map is scaled for itself."
    )
    return axes[0].figure, caption


def misread(studio: Studio) -> tuple[Figure, str]:
    """Fig. 5: a row for the wrong class, one for the wrong place; two maps and their difference."""
    found = _errors(
        studio, {"wrong class": "object of the wrong class", "wrong place": "box in the wrong place"}
    )
    axes = _grid([look.size for look, _ in found], 4)
    for row, (look, case) in zip(axes, found):
        plot.comparison(_compared(studio, look, case), ax=row)
        row[0].set_title(row[0].get_title().replace(": ", "\n", 1))
    caption = (
        "Boxes, green for the ground truth and red for the prediction; the map of each; and the "
        f"prediction's less the ground truth's. Rows: {'; '.join(map(_erred, found))}."
    )
    return axes[0, 0].figure, caption


def unseen(studio: Studio) -> tuple[Figure, str]:
    """Fig. 6: (a) an object that is missed, (b) a detection where nothing is marked."""
    found = _errors(studio, {"missed": "missed object", "not there": "detection of what is not there"})
    tallest = max((look.size for look, _ in found), key=_height)
    (axes,) = _grid([tallest], 2 * len(found))
    for letter, pair, (look, case) in zip("ab", axes.reshape(-1, 2), found):
        plot.comparison(_compared(studio, look, case), ax=pair)
        pair[0].set_title(f"({letter}) " + pair[0].get_title().replace(": ", "\n", 1))
    listed = "; ".join(f"({letter}) {_erred(one)}" for letter, one in zip("ab", found))
    caption = (
        f"{listed}. The map of a missed object is that of the box that should have been drawn: it says what "
        "speaks for it in what the detector proposes, however faintly. The map of what is not there says "
        "what was taken for it."
    )
    return axes[0].figure, caption


def overlaps(studio: Studio) -> tuple[Figure, str]:
    """Fig. 7: (a) a box that wraps two objects, (b) objects that overlap in part and (c) wholly."""
    rows: list[tuple[Look, Detections, Targets | None]] = []
    said = []
    wrapped = studio.find("box around two objects of its class", Pool.wrapping)
    if wrapped is not None:
        look, target, around = wrapped
        rows.append((look, target, around))
        said.append(f"one {target.names[0]} drawn around {len(around.labels)} in {look.picture.name}")
    for wholly, how in ((False, "in part"), (True, "wholly")):
        pair = studio.find(f"pair that overlaps {how}", partial(Pool.overlapping, wholly=wholly))
        if pair is not None:
            rows.append((pair.look, pair.target, None))
            said.append(f"{' and '.join(pair.target.names)}, {how}, in {pair.look.picture.name}")
    if not rows:
        raise MissingCase(NOTHING)
    axes = _grid([look.size for look, _, _ in rows], 3)
    for letter, row, (look, target, truth) in zip("abc", axes, rows):
        explanation = studio.explain(look, target)
        if truth is None:
            plot.detections(explanation.image, target, ax=row[0])
        else:
            plot.boxes(explanation.image, truth, ax=row[0])
        row[0].set_title(f"({letter})")
        plot.explanation(explanation, ax=row[1 : 1 + len(target)])
        for spare in row[1 + len(target) :]:
            spare.remove()
    listed = "; ".join(f"({letter}) {what}" for letter, what in zip("abc", said))
    caption = (
        f"Objects that overlap, and the map of each detection: {listed}. Maps of a row share their masks."
    )
    return axes[0, 0].figure, caption


def bad_conditions(studio: Studio) -> tuple[Figure, str]:
    """Fig. 8: images in bad conditions, and what both methods say of a detection in each."""
    columns = [_modelled(studio, name) for name in ("low_light", "red_light")]
    detector = columns[0][1].look.detector
    for name, files in photographs().items():
        photographed = None if detector.name in NETWORKS else _photographed(detector, name, files)
        if photographed is not None:
            columns.append(photographed)
        elif name in CONDITIONS:
            columns.append(_modelled(studio, name))
            studio.notes.append(f"There is no photograph of {name} here, so it is a model of one.")
        else:
            studio.notes.append(f"{name} is missing: there is no such photograph here.")
    studio.notes.append("NIR and MIR are missing: there are no photographs of these spectra here.")
    tallest = max((subject.look.size for _, subject in columns), key=_height)
    axes = _grid([tallest] * (1 + len(METHODS)), len(columns))
    said = []
    for column, (name, subject) in zip(axes.T, columns):
        image = subject.look.image
        plot.detections(image, subject.look.found, ax=column[0])
        column[0].set_title(name)
        for panel, (method, called) in zip(column[1:], METHODS.items()):
            plot.explanation(studio.explain(subject.look, subject.target, method=method), ax=panel)
            panel.set_title(f"{called}, {subject.target.names[0]}")
        left = target_weights(subject.look.detector, image, subject.target)[0]
        said.append(f"{name}, the {subject.target.names[0]} in {subject.look.picture.name}: {left:.2f}")
    caption = (
        "A detection in bad conditions: what is found (first row), D-CLOSE's map and D-RISE's. For models "
        "of conditions it is the detection in the clear image. A map is scaled, and bright even where "
        "hardly anything is left of the detection; the best that the detector proposes resembles it by "
        f"(Eq. 6) {'; '.join(said)}."
    )
    return axes[0, 0].figure, caption


def samples(studio: Studio) -> tuple[Figure, str]:
    """Fig. 9: D-CLOSE above D-RISE, with an eighth, a half and all of the samples."""
    subject = studio.subject(2)
    most = studio.n_masks or SAMPLES
    budgets = most // 8, most // 2, most
    axes = _grid([subject.look.size] * len(METHODS), 1 + len(budgets))
    for row, (method, called) in zip(axes, METHODS.items()):
        plot.detections(subject.look.image, subject.target, ax=row[0])
        row[0].set_title(called)
        for panel, n_masks in zip(row[1:], budgets):
            made = studio.explain(subject.look, subject.target, method=method, n_masks=n_masks)
            plot.explanation(made, ax=panel)
            panel.set_title(f"{n_masks} samples")
    caption = (
        f"D-CLOSE (above) and D-RISE (below) with {', '.join(map(str, budgets[:-1]))} and {most} masked "
        f"images, for {_said(subject)}. A larger sample begins with the masks of a smaller one."
    )
    return axes[0, 0].figure, caption


def by_size(studio: Studio) -> tuple[Figure, str]:
    """Fig. 10: D-CLOSE's maps, a row for each group of sizes."""
    centres = studio.pools[0].centres or _shipped_centres()
    rows = {}
    for k, group in enumerate(GROUPS):
        chosen = studio.find(f"{group} object", partial(_of_size, centres, k))
        if chosen:
            rows[group] = chosen[:ACROSS]
    if not rows:
        raise MissingCase(NOTHING)
    axes = _grid([max((one.look.size for one in row), key=_height) for row in rows.values()], ACROSS)
    for panels, (group, row) in zip(axes, rows.items()):
        for panel, subject in zip(panels, row):
            plot.explanation(studio.explain(subject.look, subject.target), ax=panel)
            panel.set_title(f"{group}: {subject.target.names[0]} {subject.target.scores[0]:.2f}")
        for spare in panels[len(row) :]:
            spare.remove()
    pictured = dict.fromkeys(one.look.picture.name for row in rows.values() for one in row)
    caption = (
        f"D-CLOSE's maps of {', '.join(rows)} objects, a row each. An object's group is that whose centre is "
        f"nearest to its box's share of the image: {', '.join(f'{centre:.3f}' for centre in centres)}. "
        f"Pictures: {', '.join(pictured)}."
    )
    return axes[0, 0].figure, caption


class Drawing(NamedTuple):
    """A figure: what it is called, and what draws it and says what is to be seen."""

    title: str
    draw: Callable[[Studio], tuple[Figure, str]]


FIGURES = {
    1: Drawing("From an image to a map", procedure),
    2: Drawing("The density of the masks", density),
    3: Drawing("From five maps to one", fusion),
    4: Drawing("Trained and altered weights", altered_weights),
    5: Drawing("Wrong class, wrong place", misread),
    6: Drawing("Missed, and not there", unseen),
    7: Drawing("Objects that overlap", overlaps),
    8: Drawing("Bad conditions", bad_conditions),
    9: Drawing("Fewer and more samples", samples),
    10: Drawing("Objects of every size", by_size),
}


# -- what they are made of


def _with_levels(studio: Studio, subject: Subject) -> tuple[Explanation, np.ndarray, np.ndarray]:
    """An explanation of one target, its levels (L, h, w) and their densities (L, h, w)."""
    explanation = studio.explain(subject.look, subject.target, levels=True)
    assert explanation.levels is not None and explanation.density is not None
    return explanation, explanation.levels[:, 0], explanation.density


def _errors(studio: Studio, kinds: dict[str, str]) -> list[tuple[Look, Case]]:
    """The plainest case of each kind of error, as far as there are any; `kinds` has their names."""
    cases = [studio.find(what, partial(_plainest, kind)) for kind, what in kinds.items()]
    found = [one for one in cases if one is not None]
    if not found:
        raise MissingCase(NOTHING)
    return found


def _plainest(kind: str, pool: Pool) -> tuple[Look, Case] | None:
    return pool.case(kind)


def _compared(studio: Studio, look: Look, case: Case) -> Comparison:
    """`errors.compare` with maps that are kept."""
    return Comparison(case, studio.explain(look, vectors(case, look.detector.class_names)))


def _erred(one: tuple[Look, Case]) -> str:
    look, case = one
    return f"{case} in {look.picture.name}"


def _of_size(centres: Sequence[float], group: int, pool: Pool) -> list[Subject]:
    return pool.of_sizes(centres)[group]


def _shipped_centres() -> list[float]:
    """Centres of the size groups of those pictures of COCO that the shipped tables are of."""
    return Records(shipped("results/yolox_nano_coco/records.jsonl")).settings["size_centres"]


def _modelled(studio: Studio, name: str) -> tuple[str, Subject]:
    """A person or vehicle, or what there is, under a model of a condition."""
    road = studio.subject(0, ROAD)
    image = CONDITIONS[name](road.look.image, MAPPED_AT)
    shown = road.look._replace(
        picture=Picture(road.look.picture.name, lambda: image),
        found=road.look.detector.detect(image),
        cases=[],
    )
    return name.replace("_", " "), Subject(shown, road.target)


def photographs() -> dict[str, list[Path]]:
    """Photographs of each condition of `REAL`, under the folder that ``DCLOSE_CONDITIONS`` names."""
    folder = Path(os.environ.get("DCLOSE_CONDITIONS") or "nowhere")
    return {
        name: sorted(file for pattern in patterns for file in folder.glob(pattern))
        for name, patterns in REAL.items()
    }


def _photographed(detector: Detector, name: str, files: Sequence[Path]) -> tuple[str, Subject] | None:
    """The surest person or vehicle in photographs of a condition, where there are any."""
    pool = Pool(name, detector, [Picture(file.name, partial(load_photo, file)) for file in files], None)
    seen = [Subject(look, one) for look in pool.looks for one in look.found if one.names[0] in ROAD]
    surest = max(seen, key=lambda one: float(one.target.scores[0]), default=None)
    return None if surest is None else (f"{name} (photograph)", surest)


def _said(subject: Subject) -> str:
    target = subject.target
    return f"the {target.names[0]} ({target.scores[0]:.2f}) in {subject.look.picture.name}"


# -- how they are laid out


def _height(size: Sequence[int]) -> float:
    """Height over width."""
    return size[0] / size[1]


def _grid(shapes: Sequence[Sequence[int]], columns: int, width: float = 3.6) -> np.ndarray:
    """Axes (rows, columns), each row as high as pictures of its shape are."""
    heights = [width * min(max(_height(shape), 0.3), 1.6) + 0.45 for shape in shapes]
    _, axes = plt.subplots(
        len(shapes),
        columns,
        figsize=(1.15 * width * columns, sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    return axes


def _arrow(start: Axes, a: tuple[float, float], end: Axes, b: tuple[float, float]) -> None:
    """An arrow between two panels, from and to shares of their width and height."""
    arrow = ConnectionPatch(a, b, start.transAxes, end.transAxes, arrowstyle="-|>", color="dimgray", lw=1.2)
    arrow.set_in_layout(False)
    end.figure.get_figure(root=True).add_artist(arrow)


def _node(panel: Axes, at: tuple[float, float], text: str) -> None:
    """An operator in a circle."""
    circle = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": "black"}
    panel.text(*at, text, transform=panel.transAxes, ha="center", va="center", fontsize=12, bbox=circle)


def _glyph(panel: Axes, text: str) -> None:
    """An operator before a panel."""
    panel.text(-0.04, 0.5, text, transform=panel.transAxes, ha="center", va="center", fontsize=20)
