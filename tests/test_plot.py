"""Figures: the right panels with the right titles on the axes that were given."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

import dclose_nb as dc
from dclose_nb import plot
from dclose_nb.masks import superpixels


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


def test_boxes_have_names_and_no_scores():
    truth = dc.Targets([[1, 2, 7, 9], [10, 2, 18, 8]], ["a", "$b$"])
    (panel,) = plot.boxes(np.zeros((12, 20, 3), np.uint8), truth)
    assert [text.get_text() for text in panel.texts] == ["a", r"\$b\$"]
    assert [patch.get_xy() for patch in panel.patches[1::2]] == [(0.5, 1.5), (9.5, 1.5)]


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
    assert np.allclose(axes[-1].images[0].get_array(), dc.fusion.cascade(found.levels[:, 0]))
    assert axes[-1].get_title() == "$A_2 = (A_1 + S_3)\\, S_3$"


def test_levels_are_named_finest_first(found):
    assert [panel.get_title() for panel in plot.levels(found[0])] == [f"{n} superpixels" for n in (16, 8, 4)]


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


def test_a_comparison_has_both_boxes_and_a_difference_centred_at_zero(lamps, lit):
    prediction, truth = lamps.detect(lit)[:1], dc.Targets([[10, 2, 18, 8]], ["b"])
    wanted, drawn = (
        dc.explain(lamps, lit, targets, n_masks=20, progress=False) for targets in (truth, prediction)
    )
    both = replace(wanted, saliency=np.concatenate([wanted.saliency, drawn.saliency]))
    axes = plot.comparison(both, truth, prediction, title="$ a title")
    assert [panel.get_title() for panel in axes] == [
        r"\$ a title",
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
    with pytest.raises(dc.InputError, match="ax must hold 1 axes"):
        plot.curves({"a": mean}, ax=[panel, panel])


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
