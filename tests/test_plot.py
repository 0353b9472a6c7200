"""Figures: the right panels with the right titles on the axes that were given."""

import contextlib
import time
from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import dclose_nb as dc
from dclose_nb import plot
from dclose_nb.masks import superpixels
from dclose_nb.methods import METHODS, Method


@pytest.fixture
def found(lamps, lit):
    return dc.explain(lamps, lit, n_masks=20, segments=(4, 8, 16), progress=False)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


DRAWINGS = {
    "explanation": (lambda e, **k: plot.explanation(e, **k), 2),
    "sheet": (lambda e, **k: plot.sheet(e, **k), 3),
    "detections": (lambda e, **k: plot.detections(e.image, e.detections, **k), 1),
    "levels": (lambda e, **k: plot.levels(e[0], **k), 3),
    "cascade": (lambda e, **k: plot.cascade(e[1], **k), 6),
    "density": (lambda e, **k: plot.density(e, **k), 3),
    "masks": (lambda e, **k: plot.masks(np.zeros((7, 4, 5)), **k), 7),
    "superpixels": (lambda e, **k: plot.superpixels(e.image, superpixels(e.image, 4), **k), 1),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_draws_its_panels_and_can_be_saved(found, tmp_path, name):
    draw, panels = DRAWINGS[name]
    axes = draw(found)
    assert isinstance(axes, np.ndarray) and len(axes) == panels
    assert all(isinstance(panel, Axes) and panel.images for panel in axes)
    for ending in ("png", "pdf"):
        axes[0].figure.savefig(tmp_path / f"figure.{ending}")
        assert (tmp_path / f"figure.{ending}").stat().st_size > 1000


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_draws_where_it_is_told(found, name):
    draw, panels = DRAWINGS[name]
    mine = [plt.figure().add_subplot() for _ in range(panels)]
    assert list(draw(found, ax=mine if panels > 1 else mine[0])) == mine
    with pytest.raises(dc.InputError, match=f"must hold {panels} axes"):
        draw(found, ax=[*mine, plt.figure().add_subplot()])


def test_each_row_of_overlays_has_one_colour_bar(lamps, lit):
    found = dc.explain(lamps, lit, method="drise", n_masks=4, progress=False)
    seven = found.detections[[0, 1, 0, 1, 0, 1, 0]]  # four in a row, and three in the last
    many = replace(found, detections=seven, saliency=found.saliency[[0, 1, 0, 1, 0, 1, 0]], error=None)
    barred = [bool(panel.child_axes) for panel in plot.explanation(many)]
    assert barred == [False, False, False, True, False, False, True]


def test_boxes_have_names_and_no_scores():
    truth = dc.Targets([[1, 2, 7, 9], [10, 2, 18, 8]], ["a", "$b$"])
    (panel,) = plot.boxes(np.zeros((12, 20, 3), np.uint8), truth)
    assert [text.get_text() for text in panel.texts] == ["a", "$b$"]
    assert [patch.get_xy() for patch in panel.patches[1::2]] == [(9.5, 1.5), (0.5, 1.5)]  # first on top


CROWDS = {  # boxes in an image of 120 x 90
    "the same box": [[40, 30, 80, 60]] * 8,
    "the four corners": [[0, 0, 9, 9], [111, 0, 120, 9], [0, 81, 9, 90], [111, 81, 120, 90]] * 3,
    "along the edges": [[x, y, x + 20, y + 4] for x in (-30, 0, 50, 110, 130) for y in (-9, -2, 88, 95)],
    "a heap": [[x, y, x + 30, y + 20] for x, y in np.random.default_rng(0).uniform(0, [90, 70], (15, 2))],
    "wrapped": [[k, k, 120 - k, 90 - k] for k in range(12)],
}


def rectangles(panel):
    """Labels as they were drawn, (n, 4): their edges in pixels of the figure."""
    drawn = [text for text in panel.texts if text.get_visible()]
    return np.array([text.get_bbox_patch().get_window_extent().extents for text in drawn])


def overlap(one, other):
    return (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).min() > 0.01


@pytest.mark.parametrize("width", [1.2, 2.4, 5.6])
@pytest.mark.parametrize("crowd", CROWDS)
def test_no_label_covers_another_or_leaves_its_panel(crowd, width):
    boxes, image = np.array(CROWDS[crowd], dtype=float), np.zeros((90, 120, 3), np.uint8)
    names = "cup", "dining table", "$x$, a class with a very l" + "o" * 40 + "ng name"
    probs = np.eye(3)[np.arange(len(boxes)) % 3]
    found = dc.Detections(boxes, np.full(len(boxes), 0.9), probs, names)
    figure, ax = plt.subplots(figsize=(width, width * 0.8), layout="constrained")
    plot.detections(image, found[: len(boxes) // 2], ax=ax)
    plot.boxes(image, dc.Targets(boxes[len(boxes) // 2 :], ["truth"] * (len(boxes) - len(boxes) // 2)), ax=ax)
    for dpi in (80, 300):
        figure.set_dpi(dpi)
        figure.canvas.draw()
        drawn, window = rectangles(ax), ax.get_window_extent().extents
        assert len(drawn) >= 3
        assert not [pair for pair in combinations(drawn, 2) if overlap(*pair)]
        assert (drawn[:, :2] > window[:2] - 0.01).all() and (drawn[:, 2:] < window[2:] + 0.01).all()


def test_labels_stand_where_one_looks_for_them():
    """Above the box, else inside it, below it, or as near as there is room; the first choose first."""
    size, frame = (20, 5), (100, 60)
    boxes = [[30, 20, 70, 40], [30, 20, 60, 50], [30, 12, 50, 45], [10, 0, 40, 3], [90, 30, 99, 40]]
    places = plot.label_places(boxes, [size] * len(boxes), frame)
    assert places.tolist() == [[30, 15], [30, 20], [30, 7], [10, 0], [80, 25]]
    (wide,) = plot.label_places([[-50, -50, 500, 500]], [(100, 60)], frame)
    assert wide.tolist() == [0, 0]
    full = plot.label_places(np.tile([5, 5, 9, 9], (200, 1)), [size] * 200, frame)
    placed = ~np.isnan(full[:, 0])
    assert placed.sum() >= 30 and placed[: placed.sum()].all()  # 60 would fill the frame
    assert plot.label_places([], [], frame).shape == (0, 2)


@pytest.mark.parametrize("shape", [(30, 90), (60, 60), (90, 36)])
@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 10])
def test_panels_fill_their_figure(shape, n):
    """No white bands: neither between panels nor around them."""
    axes = plot.maps({f"map {k}": np.zeros(shape) for k in range(n)})
    figure = axes[0].figure
    figure.canvas.draw()
    width, height = axes[0].get_window_extent().size
    rows, columns, *_ = axes[0].get_subplotspec().get_geometry()
    title = 0.3 * figure.dpi
    assert columns * width > 0.9 * figure.bbox.width
    assert rows * (height + title) > 0.9 * figure.bbox.height


def test_fonts_are_kept_as_truetype(found, tmp_path):
    plot.save(plot.cascade(found[0])[0].figure, tmp_path / "figure.pdf")
    content = (tmp_path / "figure.pdf").read_bytes()
    assert b"/CIDFontType2" in content and b"/Type3" not in content


def test_an_overlay_shows_its_map_and_its_box(found):
    (panel,) = plot.explanation(found[1])
    assert panel.get_title() == f"b {found.detections.scores[1]:.2f}, dclose"
    heat = panel.images[-1].get_array()
    low, high = found.saliency[1].min(), found.saliency[1].max()
    assert np.allclose(heat, (found.saliency[1] - low) / (high - low), atol=1e-6)
    x1, y1, x2, y2 = found.detections.boxes[1]
    box = panel.patches[-1]
    assert np.allclose(
        [*box.get_xy(), box.get_width(), box.get_height()], [x1 - 0.5, y1 - 0.5, x2 - x1, y2 - y1]
    )


def test_the_cascade_ends_in_the_saliency(found):
    axes = plot.cascade(found[0])
    assert np.allclose(axes[-1].images[0].get_array(), found.saliency[0], atol=1e-5)
    assert axes[-1].get_title() == "$A_2 = (A_1 + S_3)\\, S_3$"


def test_the_cascade_is_that_of_the_method(lamps, lit):
    """Every method that has levels: what its cascade ends in is its map, or one line says it has none."""
    n_masks = {"dclose": 20, "contrast": 20, "regression": 20, "drise": 10, "mfpp": 20, "sodex": 10}
    settings = [(name, {}) for name in METHODS if name in n_masks]
    settings += [("dclose", {"order": "coarse_to_fine"}), ("dclose", {"fusion": "mean"})]
    assert n_masks.keys() == {name for name, method in METHODS.items() if issubclass(method, Method)}
    for name, options in settings:
        made = dc.explain(lamps, lit, method=name, n_masks=n_masks[name], progress=False, **options)[0]
        if made.levels is None or name in ("mfpp", "regression") or options == {"fusion": "mean"}:
            word = "no levels" if made.levels is None else f"{name!r} ran without a cascade"
            with pytest.raises(dc.InputError, match=word):
                plot.cascade(made)
            continue
        last = plot.cascade(made)[-1].images[0].get_array()
        assert np.allclose(lamps.prepare(lit).maps_to_image(last[None]), made.saliency, atol=1e-5), name


def test_levels_are_named_finest_first(found):
    axes = plot.levels(found[1])
    assert [panel.get_title() for panel in axes] == [f"about {n}\nsuperpixels" for n in (16, 8, 4)]
    assert axes[0].figure.get_figwidth() <= 10
    box, size = found.detections.boxes[1], axes[0].images[0].get_array().shape
    assert axes[0].patches[-1].get_width() == pytest.approx(
        (box[2] - box[0]) * size[1] / found.image.shape[1]
    )


def test_an_error_has_its_own_scale_and_a_map_without_one_is_refused(found, lamps, lit):
    made = dc.explain(lamps, lit, method="regression", n_masks=20, progress=False)
    first, second = plot.error(made)
    assert first.get_title().endswith(plot.caption(made.detections[0]))
    assert second.images[0].get_clim() == (0, made.error[1].max())
    with pytest.raises(dc.InputError, match="without a tolerance"):
        plot.error(found)


def test_intervals_have_a_row_for_each_name_and_a_colour_for_each_series():
    series = {
        "$a$": {"one": (0.2, 0.1, 0.4, "more"), "two": (0.5, np.nan, np.nan)},
        "b": {"two": (0.7, 0.6, 0.8)},
    }
    (panel,) = plot.intervals(series, label="share (higher is better)")
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["one", "two"]
    assert panel.get_xlabel() == "share (higher is better)" and panel.yaxis_inverted()
    first, second = (container.lines[0] for container in panel.containers)
    assert first.get_xdata().tolist() == [0.2, 0.5] and second.get_xdata().tolist() == [0.7]
    assert first.get_ydata()[1] < second.get_ydata()[0]  # beside one another
    (bars, _) = panel.containers[0].lines[2][0].get_segments()
    assert bars[:, 0].tolist() == pytest.approx([0.1, 0.4])
    (legend,) = panel.figure.legends
    assert not any(text.get_parse_math() for text in legend.get_texts())
    panel.figure.canvas.draw()
    assert plot.intervals({"c": series["$a$"]}, ax=panel)[0] is panel  # the same rows again


def test_rows_stay_those_of_the_panel_and_of_panels_that_share_them():
    _, (left, right) = plt.subplots(1, 2, sharey=True)
    _, alone = plt.subplots()
    for panel in (right, left, alone):
        plot.intervals({"a": {"x": (1, 0, 2), "y": (2, 1, 3)}}, ax=panel)
        for others in ({"y": (2, 1, 3), "x": (1, 0, 2)}, {"y": (2, 1, 3)}):
            with pytest.raises(dc.InputError, match="the same rows in the same order"):
                plot.intervals({"a": others}, reference=0, ax=panel)
        assert panel.get_yticks().tolist() == [0, 1]
        assert len(panel.containers) == 1 and len(panel.lines) == 1  # nothing was added, not even a reference


def test_a_mean_whose_interval_holds_the_reference_is_hollow():
    rows = {"above": (0.5, 0.4, 0.6), "open": (0.1, -0.1, 0.3), "alone": (0.2, np.nan, np.nan)}
    (panel,) = plot.intervals({"a": rows}, reference=0)
    (hollow,) = (line for line in panel.lines if line.get_markerfacecolor() == "white")
    assert hollow.get_xdata().tolist() == [0.1] and not panel.figure.legends
    assert np.isnan(panel.containers[0].lines[0].get_xdata()[2])  # it cannot be told from the reference


def test_large_photos_are_shrunk_with_their_boxes(lamps):
    large = np.full((3000, 2000, 3), 250, np.uint8)
    (panel,) = plot.detections(large, lamps.detect(large))
    assert max(panel.images[0].get_array().shape) == 1600
    box, frame = panel.patches[-1], panel.images[0].get_extent()
    assert box.get_width() == pytest.approx(6) and frame == [-0.5, 1999.5, 2999.5, -0.5]  # of the photo
    assert panel.get_xlim() == (-0.5, 1999.5) and panel.get_ylim() == (2999.5, -0.5)


def test_maps_are_scaled_and_named():
    first, second = plot.maps(
        {"one": np.arange(12.0).reshape(3, 4), "two": np.ones((3, 4))}, box=np.array([0, 0, 2, 1])
    )
    assert (first.get_title(), second.get_title()) == ("one", "two")
    assert first.images[0].get_array().max() == 1 and second.images[0].get_array().max() == 0
    assert first.patches[-1].get_width() == 2


def test_a_map_that_is_constant_but_for_rounding_is_marked_as_empty():
    ones = np.ones((3, 4), np.float32)
    noisy = ones.copy()
    noisy[0, 0] += 1e-7
    assert noisy.max() > 1
    axes = plot.maps({"constant": ones, "noise": noisy, "a map": np.arange(12.0).reshape(3, 4)})
    words = [[text.get_text() for text in panel.texts] for panel in axes]
    assert words == [["empty map"], ["empty map"], []]


def test_an_overlay_is_mixed_by_hand():
    """The higher a value, the more of its colour, by its root; the rest is the photo in faint colours."""
    image = np.array([[[200, 100, 0], [0, 50, 250], [90, 90, 90]]], np.uint8)
    grey = image @ np.array([0.213, 0.715, 0.072])
    faint = 0.4 * image + 0.6 * grey[..., None]
    saliency = np.array([[0, 0.5, 2]])  # scaled: 0, a quarter, 1
    colours = 255 * plt.get_cmap("inferno")([0.0, 0.25, 1.0])[:, :3]
    half = (faint[0, 1] + colours[1]) / 2  # the root of a quarter
    for settings, expected in (
        ({"opacity": 0}, faint[0]),
        ({"opacity": 1}, [faint[0, 0], half, colours[2]]),
        ({"opacity": 1, "threshold": 0.3}, [faint[0, 0], faint[0, 1], colours[2]]),
        ({"opacity": 0.5}, [faint[0, 0], (faint[0, 1] + half) / 2, (faint[0, 2] + colours[2]) / 2]),
    ):
        assert np.abs(plot.blend(image, saliency, **settings)[0] - np.array(expected)).max() <= 0.5


def test_a_sheet_says_how_many_objects_there_are(found, lamps, lit):
    nothing = dc.explain(lamps, np.zeros_like(lit), n_masks=10, progress=False)
    titles = [plot.sheet(shown)[0].get_title() for shown in (nothing, found[0], found)]
    assert titles == ["no object found", "1 object", "2 objects"]


def test_a_comparison_has_both_boxes_and_a_difference_centred_at_zero(lamps, lit):
    prediction, truth = lamps.detect(lit)[:1], dc.Targets([[10, 2, 18, 8]], ["b"])
    wanted, drawn = (
        dc.explain(lamps, lit, targets, n_masks=20, progress=False) for targets in (truth, prediction)
    )
    both = replace(wanted, saliency=np.concatenate([wanted.saliency, drawn.saliency]))
    axes = plot.comparison(both, truth, prediction, title="$ a title")
    assert [panel.get_title() for panel in axes] == [
        "$ a title",
        "map of the ground truth",
        "map of the prediction",
        "prediction less ground truth",
    ]
    scaled = dc.fusion.min_max(both.saliency)
    shown = [panel.images[-1].get_array() for panel in axes[1:]]
    assert all(map(np.array_equal, shown, [*scaled, scaled[1] - scaled[0]]))
    assert [panel.images[-1].get_clim() for panel in axes[1:]] == [(0, 1), (0, 1), (-1, 1)]
    for panel in axes:  # each box has a black edge under its colour
        assert [patch.get_xy() for patch in panel.patches[1::2]] == [
            (9.5, 1.5),
            tuple(prediction.boxes[0, :2] - 0.5),
        ]
    assert axes[0].patches[-1].get_linestyle() == "--"
    alone, _ = plot.comparison(wanted, truth, None)
    assert [patch.get_xy() for patch in alone.patches[1::2]] == [(9.5, 1.5)]
    _, alone = plot.comparison(drawn, None, prediction)
    assert alone.get_title() == "map of the prediction" and len(alone.patches) == 2
    mine = [plt.figure().add_subplot() for _ in range(4)]
    assert list(plot.comparison(both, truth, prediction, ax=mine)) == mine
    with pytest.raises(dc.InputError, match="must hold 4 axes"):
        plot.comparison(both, truth, prediction, ax=mine[:2])


def test_a_pair_has_the_boxes_that_there_are():
    (panel,) = plot.pair(IMAGE, TRUTH, None, title="missed")
    assert panel.get_title() == "missed" and len(panel.patches) == 2


def test_curves_have_their_bands():
    mean = np.array([0.9, 0.5, 0.1])
    (panel,) = plot.curves({"a": mean, "b": np.array([mean, mean - 0.1, mean + 0.1])})
    assert [line.get_label() for line in panel.lines] == ["a", "b"] and len(panel.collections) == 1
    assert panel.lines[0].get_xdata().tolist() == [0, 0.5, 1]
    assert np.array_equal(panel.lines[1].get_ydata(), mean)
    assert plot.curves({"a": mean}, ax=panel)[0] is panel
    (panel,) = plot.curves({"a": mean}, x=[100, 400, 900], labels=("masks", "likeness"))
    assert panel.lines[0].get_xdata().tolist() == [100, 400, 900] and panel.get_xlim() == (100, 900)
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("masks", "likeness")
    (panel,) = plot.curves({"a": mean}, x=["trained", "head", "neck"])
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["trained", "head", "neck"]
    named = [*panel.get_legend().get_texts(), *panel.get_xticklabels()]
    assert not any(text.get_parse_math() for text in named)  # a method may be called $a$
    with pytest.raises(dc.InputError, match="ax must hold 1 axes"):
        plot.curves({"a": mean}, ax=[panel, panel])


def test_a_curve_of_one_point_is_a_dot():
    (panel,) = plot.curves({"a": [0.5]}, x=[200])
    assert panel.lines[0].get_marker() == "o"
    low, high = panel.get_xlim()
    assert low < 200 < high


def test_parts_are_coloured_by_their_role():
    drawn = dc.planted.scene(1)
    (panel,) = plot.parts(drawn)
    picture = panel.images[0].get_array()
    roles = {part.role for own in drawn.parts for part in own} | {part.role for part in drawn.distractors}
    assert {text.get_text() for text in panel.get_legend().get_texts()} == roles
    nothing = (drawn.owner == 0)[..., None] & (np.ptp(picture, axis=2, keepdims=True) > 1e-6)
    assert not nothing.any()  # the background stays grey


def test_what_cannot_be_drawn_is_refused(lamps, lit, found):
    nothing = dc.explain(lamps, np.zeros_like(lit), n_masks=10, progress=False)
    with pytest.raises(dc.InputError, match="nothing to draw"):
        plot.explanation(nothing)
    with pytest.raises(dc.InputError, match=r"explanation\[i\]"):
        plot.levels(found)
    drise = dc.explain(lamps, lit, method="drise", n_masks=10, progress=False)
    with pytest.raises(dc.InputError, match="has no levels"):
        plot.cascade(drise[0])
    with pytest.raises(dc.InputError, match="has no density"):
        plot.density(drise)
    assert len(plot.sheet(nothing)) == 1


MAP, IMAGE = np.zeros((12, 20)), np.zeros((12, 20, 3), np.uint8)
TRUTH = dc.Targets([[10, 2, 18, 8]], ["b"])
WRONG = {
    "no map": (lambda e: plot.maps({}), "nothing to draw"),
    "maps without names": (
        lambda e: plot.maps([MAP]),
        "maps must be Mapping, got list: give each map a name",
    ),
    "a map of one dimension": (
        lambda e: plot.maps({"a": MAP, "b": MAP[0]}),
        r"map 'b' .*\(H, W\), got the shape",
    ),
    "a map of text": (lambda e: plot.maps({"a": [["x"]]}), "map 'a' must be numbers"),
    "a map of NaN": (lambda e: plot.maps({"a": MAP * np.nan}), "got NaN or infinity"),
    "a box of three": (lambda e: plot.maps({"a": MAP}, box=[1, 2, 3]), r"box must be finite numbers \(4\)"),
    "a mask": (
        lambda e: plot.masks(MAP),
        r"masks must be finite numbers \(N, h, w\), got the shape \(12, 20\)",
    ),
    "no mask": (lambda e: plot.masks(np.zeros((0, 4, 5))), r"masks must be .* got the shape \(0, 4, 5\)"),
    "masks to 255": (lambda e: plot.masks(IMAGE + 255), r"masks must lie in \[0, 1\], got 255 to 255"),
    "too few titles": (lambda e: plot.masks(np.zeros((2, 4, 5)), titles=["a"]), "titles must be a list of 2"),
    "no titles": (lambda e: plot.masks(np.zeros((2, 4, 5)), titles=5), "titles must be a list of 2"),
    "a figure for axes": (lambda e: plot.maps({"a": MAP}, ax=plt.close), "ax must be Axes, got function"),
    "axes of nothing": (lambda e: plot.curves({"a": [0, 1]}, ax=[None]), "ax must be Axes, got NoneType"),
    "opacity NaN": (lambda e: plot.explanation(e, opacity=np.nan), r"opacity must be a number in \[0, 1\]"),
    "opacity 2": (
        lambda e: plot.blend(IMAGE, MAP, opacity=2),
        r"opacity must be a number in \[0, 1\], got 2",
    ),
    "a threshold of text": (lambda e: plot.explanation(e, threshold="high"), "threshold must be a number"),
    "a threshold below 0": (lambda e: plot.blend(IMAGE, MAP, threshold=-1), "threshold must be a number"),
    "a map of another size": (
        lambda e: plot.blend(IMAGE, MAP[:5]),
        r"the map must .*\(12, 20\), got the shape",
    ),
    "no explanation": (lambda e: plot.sheet(e.detections), "explanation must be Explanation, got Detections"),
    "nothing explained": (lambda e: plot.density(None), "explanation must be Explanation, got NoneType"),
    "targets for detections": (
        lambda e: plot.detections(IMAGE, TRUTH),
        "got Targets: plot.boxes draws Targets",
    ),
    "detections for targets": (lambda e: plot.boxes(IMAGE, e.detections), "plot.detections draws Detections"),
    "boxes without labels": (
        lambda e: plot.boxes(IMAGE, dc.Targets([[1, 2, 3, 4]], [])),
        "1 boxes, 0 labels",
    ),
    "boxes of NaN": (lambda e: plot.boxes(IMAGE, dc.Targets([[np.nan] * 4], ["a"])), "boxes must be finite"),
    "a float image to 255": (lambda e: plot.detections(IMAGE + 9.5, e.detections), "float image must lie in"),
    "labels of another size": (lambda e: plot.superpixels(IMAGE, MAP[:5]), "labels must be finite numbers"),
    "labels below 0": (lambda e: plot.superpixels(IMAGE, MAP - 1), "labels must be integers from 0"),
    "nothing to compare": (lambda e: plot.comparison(e, None, None), "0 maps are compared"),
    "a map too few": (
        lambda e: plot.comparison(e[0], TRUTH, e.detections[0]),
        "2 maps are compared, .* has 1",
    ),
    "two predictions": (lambda e: plot.comparison(e, TRUTH, e.detections), "boxes of the prediction must be"),
    "a pair of others": (lambda e: plot.pair(IMAGE, e.detections, None), "truth must be Targets"),
    "no intervals": (lambda e: plot.intervals({}), "nothing to draw"),
    "intervals without rows": (lambda e: plot.intervals({"a": {}}), "nothing to draw"),
    "intervals without names": (
        lambda e: plot.intervals({"a": [1, 2]}),
        "series 'a' must be Mapping, got list: give each row a name",
    ),
    "a mean with one end": (lambda e: plot.intervals({"a": {"x": (1, 2)}}), "row 'x' must be a mean and two"),
    "ends without order": (
        lambda e: plot.intervals({"a": {"x": {1, 2, 3}}}),
        "row 'x' must be a mean and two",
    ),
    "a mean below its ends": (
        lambda e: plot.intervals({"a": {"x": (0, 1, 2)}}),
        r"one on each side of it, got \(0, 1, 2\)",
    ),
    "a mean above its ends": (
        lambda e: plot.intervals({"a": {"x": (3, np.nan, 2)}}),
        "one on each side of it",
    ),
    "no curves": (lambda e: plot.curves({}), "nothing to draw"),
    "curves without names": (lambda e: plot.curves([[0, 1]]), "curves must be Mapping, got list"),
    "an empty curve": (lambda e: plot.curves({"a": []}), "curve 'a' must be"),
    "a curve with its score": (
        lambda e: plot.curves({"a": dc.metrics.Curve(0.5, MAP[0])}),
        "curve 'a' must be numbers",
    ),
    "a band of one side": (lambda e: plot.curves({"a": np.zeros((2, 9))}), r"\(3, points\).* shape \(2, 9\)"),
    "places too few": (lambda e: plot.curves({"a": [0, 1]}, x=[1]), "with a point for each x"),
    "names too many": (lambda e: plot.curves({"a": [0, 1]}, x=["b", "c", "d"]), "with a point for each x"),
    "no places": (lambda e: plot.curves({"a": [0, 1]}, x=5), "x must be finite numbers"),
    "one label": (lambda e: plot.curves({"a": [0, 1]}, labels=("x",)), "labels must be two texts"),
    "an image for a scene": (lambda e: plot.parts(IMAGE), "scene must be Scene, got ndarray"),
    "a panel for a figure": (lambda e: plot.save(Axes, "a.png"), "figure must be Figure"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_that_cannot_be_drawn_is_refused_before_a_figure_is_made(found, case):
    draw, words = WRONG[case]
    with pytest.raises(dc.InputError, match=words) as refusal:
        draw(found)
    assert "\n" not in str(refusal.value) and not plt.get_fignums()


def test_a_figure_that_cannot_be_written_is_refused(tmp_path):
    figure = plt.figure()
    figure.text(0.5, 0.5, "letters of less than a pixel")
    for path, options, words in (
        (tmp_path / "none" / "a.png", {}, "cannot write to the folder .* No such file"),
        (tmp_path / "a.doc", {}, "cannot write the figure .*Format 'doc' is not supported"),
        (tmp_path / "a.png", {"dpi": 0}, "dpi must be a number from 1"),
        (tmp_path / "a.png", {"dpi": "high"}, "dpi must be a number from 1"),
        (tmp_path / "a.png", {"dpi": 1}, "cannot write the figure"),
        (5, {}, "cannot be used as a path"),
    ):
        with pytest.raises(dc.InputError, match=words):
            plot.save(figure, path, **options)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("last", [1, 2, 3])
def test_an_older_figure_stays_whole_when_a_new_one_is_stopped(tmp_path, last):
    """Matplotlib draws it more than once; it is stopped at one of these times, or it is done before."""

    class Stopped(Line2D):
        rounds = 0

        def draw(self, renderer):
            self.rounds += 1
            if self.rounds == last:
                raise KeyboardInterrupt
            super().draw(renderer)

    path = tmp_path / "figure.pdf"
    path.write_bytes(b"whole")
    figure = plt.figure()
    line = figure.add_artist(Stopped([0, 1], [0, 1]))
    with contextlib.suppress(KeyboardInterrupt):
        plot.save(figure, path)
    assert (path.read_bytes() == b"whole") == (line.rounds == last) and [*tmp_path.iterdir()] == [path]


def test_a_figure_takes_matplotlib_s_options_and_an_ending_where_it_has_none(tmp_path):
    figure = plt.figure(figsize=(2, 1))
    plot.save(figure, tmp_path / "plain", dpi=50)
    plot.save(figure, tmp_path / "wide", dpi=50, bbox_inches=None)
    plot.save(figure, tmp_path / "vector", format="svg")
    assert {path.name for path in tmp_path.iterdir()} == {"plain.png", "wide.png", "vector"}
    assert plt.imread(tmp_path / "wide.png").shape[:2] == (50, 100)
    assert b"<svg" in (tmp_path / "vector").read_bytes()


def test_images_of_every_kind_are_drawn_as_they_look(found):
    """Not grey values in false colours, and not values to 1 as if they went to 255."""
    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    rgb = np.dstack([grey] * 3)
    for image in (grey, rgb / 255, np.dstack([rgb, np.full_like(grey, 255)])):
        (panel,) = plot.detections(image, found.detections)
        assert np.array_equal(panel.images[0].get_array(), rgb)


def test_a_very_long_name_is_cut_before_it_is_measured():
    image, name = np.zeros((12, 20, 3), np.uint8), "x" * 20_000
    found = dc.Detections([[1, 1, 9, 9]], [0.9], [[1.0]], (name,))
    start = time.monotonic()
    (panel,) = plot.detections(image, found)
    panel.figure.canvas.draw()
    assert time.monotonic() - start < 10 and panel.texts[0].get_text().endswith("x…")


def test_the_style_of_notebooks_is_large_enough_for_a_projector():
    with plt.rc_context():
        plot.set_style()
        (panel,) = plot.curves({"a curve": [0, 1]})
        assert panel.figure.dpi >= 110 and panel.title.get_fontsize() >= 11


def test_a_box_may_have_an_empty_label(lit):
    (panel,) = plot.boxes(lit, dc.Targets([[1, 1, 7, 9]], [""]))
    panel.figure.canvas.draw()
    assert [text.get_text() for text in panel.texts] == [""]
