"""Planted scenes: their truth, their seeds and their layouts."""

import cv2
import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb.planted import CLASS_NAMES, LAYOUTS, ROLES, scene
from dclose_nb.planted.shapes import CONTEXT_CLASS, CONTEXT_GROUND, RECIPES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_seed_gives_the_same_scene_to_the_bit(layout):
    first, again, next_scene = (scene(seed, layout=layout) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert np.array_equal(first.owner, again.owner)
    assert not np.array_equal(first.image, next_scene.image)


@pytest.mark.parametrize("seed", range(40))
def test_boxes_lie_around_what_is_visible(seed):
    drawn = scene(seed)
    assert drawn.image.shape == (320, 320, 3)
    assert drawn.image.min() >= 1  # so that masks can be read off it
    assert 1 <= len(drawn.boxes) == len(drawn.labels) == len(drawn.parts) <= 5
    for box, parts, causal in zip(drawn.boxes, drawn.parts, drawn.causal_masks):
        rows, columns = np.nonzero(causal)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert {part.role for part in parts} <= set(ROLES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_part_it_is_gone_and_the_background_stays(layout):
    drawn = scene(8, layout=layout, size=200)
    for number, parts in enumerate(drawn.parts):
        for part in parts:
            changed = (drawn.without(number, part.name) != drawn.image).any(2)
            assert changed[part.mask].mean() > 0.5
            near = cv2.dilate(part.mask.astype(np.uint8), np.ones((3, 3))) > 0  # edges are blended
            assert not (changed & ~near & (drawn.owner == 0)).any()


def test_what_lies_behind_a_part_shows():
    """Behind a car's windows is its cabin, so the windows take the cabin's colour."""
    drawn = scene(next(k for k in range(99) if scene(k, n_objects=1).names == ["car"]), n_objects=1)
    cabin, windows = (part for part in drawn.parts[0] if part.name in ("cabin", "windows"))
    before, after = (image[windows.mask].mean(0) for image in (drawn.image, drawn.without(0, "windows")))
    colour = drawn.image[cabin.mask].mean(0)
    assert np.abs(after - colour).max() < 12 < np.abs(before - colour).max()
    for number, part, word in ((1, "cabin", "number"), (-1, "cabin", "number"), (0, "roof", "part must be")):
        with pytest.raises(dc.InputError, match=word):
            drawn.without(number, part)


def test_objects_have_all_sizes_and_classes():
    scenes = [scene(seed) for seed in range(150)]
    boxes = np.concatenate([drawn.boxes for drawn in scenes])
    longer = np.ptp(boxes.reshape(-1, 2, 2), axis=1).max(1) / 320
    assert longer.min() < 0.1
    assert longer.max() > 0.45
    assert set(np.concatenate([drawn.labels for drawn in scenes])) == set(range(len(CLASS_NAMES)))


def test_two_classes_differ_by_the_part_that_decides_the_class():
    car, taxi = RECIPES["car"], RECIPES["taxi"]
    assert taxi._replace(shapes=car.shapes) == car
    assert [shape.role for shape in taxi.shapes if shape not in car.shapes] == ["class"]


def test_a_cow_nearly_always_stands_on_a_meadow():
    scenes = [scene(seed, size=128) for seed in range(500)]
    cow = CLASS_NAMES.index(CONTEXT_CLASS)
    grounds = [drawn.ground for drawn in scenes for label in drawn.labels if label == cow]
    assert len(grounds) > 20
    assert np.mean([ground == CONTEXT_GROUND for ground in grounds]) > 0.7
    away = scene(3, layout="out of place")
    assert away.labels.tolist() == [cow]
    assert away.ground != CONTEXT_GROUND


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


@pytest.mark.parametrize("seed", range(8))
def test_decoys_stand_apart_and_overlapping_twins_do_not(seed):
    for layout in ("decoy", "overlap"):
        drawn = scene(seed, layout=layout)
        assert len(drawn.labels) == 2
        assert drawn.labels[0] == drawn.labels[1]
        first, second = drawn.boxes
        near = second + np.array([-2, -2, 2, 2])  # the one in front may hide all that the boxes had in common
        assert (overlap(first, near) > 0) == (layout == "overlap")


@pytest.mark.parametrize("seed", range(8))
def test_a_person_stands_inside_the_house(seed):
    drawn = scene(seed, layout="inside")
    house, person = drawn.boxes
    assert drawn.names == ["house", "person"]
    assert (person[:2] >= house[:2]).all() and (person[2:] <= house[2:] + 1).all()
    # it is in front, so no part is hidden
    assert len(drawn.parts[1]) >= 4


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 0, "size": 10}, "size"),
        ({"seed": 0, "layout": "pile"}, "layout"),
        ({"seed": 0, "n_objects": 0}, "n_objects"),
        ({"seed": 0, "n_objects": 1, "layout": "decoy"}, "n_objects"),
        ({"seed": 0, "n_objects": 500}, "of 500 objects fit"),
    ],
)
def test_a_scene_that_cannot_be_drawn_is_refused(options, word):
    with pytest.raises(dc.InputError, match=word):
        scene(**options)


@pytest.mark.parametrize("options", [{"n_objects": 20_000}, {"size": 10**7}, {"size": 1025}])
def test_what_would_take_minutes_or_all_memory_is_refused_at_once(options):
    with pytest.raises(dc.InputError, match=f"{next(iter(options))} must be an integer from"):
        scene(1, **options)
