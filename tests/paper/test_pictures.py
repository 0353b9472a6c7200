"""Cases found in pictures whose boxes are laid out by hand, and pictures from every source."""

import json

import numpy as np
import pytest
from PIL import Image

import dclose_nb as dc
from dclose_nb.paper import pictures
from dclose_nb.paper.pictures import Look, Picture, Pool, Subject
from dclose_nb.planted.dataset import write_coco
from dclose_nb.studies.error_analysis import cases

NAMES = ("cup", "bowl", "spoon")
SIZE = (100, 100)


def look(name, rows, truth=None):
    """A look at a picture of 100 x 100 where (box, class, score) are found and (box, class) are marked."""
    boxes, labels, scores = zip(*rows) if rows else ((), (), ())
    probs = np.eye(len(NAMES))[[NAMES.index(label) for label in labels]]
    found = dc.Detections(np.reshape(boxes, (-1, 4)), scores, probs.reshape(-1, len(NAMES)), NAMES)
    marked = None if truth is None else dc.Targets(*zip(*truth))
    picture = Picture(name, lambda: np.zeros((*SIZE, 3), np.uint8), marked)
    return Look(None, picture, SIZE, found, [] if marked is None else cases(found, marked))


def pool(*looks):
    made = Pool("some pictures", "planted", [], None)
    made.looks = list(looks)
    return made


CUP, BOWL, LARGE, TINY = [0, 0, 20, 20], [50, 50, 90, 90], [0, 0, 100, 90], [95, 95, 99, 99]


def test_subjects_are_sure_and_of_a_good_size_one_a_picture():
    made = pool(
        look("two", [(CUP, "cup", 0.5), (BOWL, "bowl", 0.7)]),
        look("large", [(LARGE, "bowl", 0.99)]),
        look("both", [(LARGE, "bowl", 0.95), (CUP, "cup", 0.6)]),
        look("none", []),
    )
    named = [(one.look.picture.name, one.target.names) for one in made.subjects]
    assert named == [("two", ["bowl"]), ("both", ["cup"]), ("large", ["bowl"])]


def test_only_what_finds_an_object_is_explained_where_objects_are_marked():
    marked = look("marked", [(CUP, "cup", 0.5), (BOWL, "bowl", 0.9)], [(CUP, "cup"), ([0, 80, 9, 99], "cup")])
    (subject,) = pool(marked).subjects
    assert subject.target.names == ["cup"] and subject.truth.labels == ["cup"]
    assert np.array_equal(subject.truth.boxes, [CUP])
    (unmarked,) = pool(look("not", [(CUP, "cup", 0.5)])).subjects
    assert unmarked.truth is None


def test_the_plainest_error_is_the_surest_or_the_largest_that_leaves_room():
    one = look("one", [(CUP, "cup", 0.6)], [(CUP, "bowl"), ([40, 40, 60, 60], "cup")])
    two = look("two", [(CUP, "spoon", 0.8)], [(CUP, "bowl"), (BOWL, "cup"), (LARGE, "cup")])
    made = pool(one, two)
    assert made.case("wrong class")[0] is two and made.case("wrong class")[1].prediction.names == ["spoon"]
    missed = made.case("missed")
    assert missed[0] is two and np.array_equal(missed[1].truth.boxes, [BOWL])
    assert made.case("not there") is None


def test_a_box_that_wraps_two_objects_of_its_class():
    box, halves = [0, 0, 60, 20], ([0, 0, 30, 20], [30, 0, 60, 20])
    two = look("two", [(box, "cup", 0.5)], [(half, "cup") for half in halves])
    found, target, truth = pool(two).wrapping()
    assert found is two and target.names == ["cup"] and np.array_equal(truth.boxes, halves)
    others = look("others", [(box, "cup", 0.5)], [(halves[0], "cup"), (halves[1], "bowl")])
    outside = look("outside", [(box, "cup", 0.5)], [(halves[0], "cup"), ([45, 0, 90, 20], "cup")])
    specks = look("specks", [(box, "cup", 0.5)], [([0, 0, 20, 11], "cup"), ([30, 0, 50, 11], "cup")])
    assert pool(others, outside, specks, look("unmarked", [(box, "cup", 0.9)])).wrapping() is None


@pytest.mark.parametrize(
    ("other", "partly", "wholly"),
    [
        ([20, 0, 60, 40], True, False),  # a half of each
        ([38, 0, 78, 40], False, False),  # a twentieth
        ([5, 5, 30, 30], False, True),
        ([0, 0, 39, 39], False, False),  # the same box again
        ([5, 5, 15, 15], False, False),  # too small to be seen
        ([60, 60, 99, 99], False, False),
    ],
)
def test_pairs_overlap_in_part_or_wholly(other, partly, wholly):
    made = pool(look("pair", [([0, 0, 40, 40], "cup", 0.9), (other, "bowl", 0.8)]))
    for how, expected in ((False, partly), (True, wholly)):
        found = made.overlapping(wholly=how)
        assert (found is not None) == expected
        assert found is None or found.target.names == ["cup", "bowl"]


def test_groups_of_sizes_have_a_label_and_a_picture_once():
    made = pool(
        look("one", [(CUP, "cup", 0.9), (BOWL, "bowl", 0.8), (LARGE, "spoon", 0.7)]),
        look("two", [([1, 1, 21, 21], "cup", 0.95), ([30, 30, 50, 50], "bowl", 0.5)]),
        look("three", [(CUP, "bowl", 0.4), (TINY, "spoon", 0.3)]),
    )
    small, middle, large = made.of_sizes([0.03, 0.2, 0.9])
    assert [(one.look.picture.name, one.target.names[0]) for one in small] == [
        ("two", "cup"),
        ("three", "bowl"),
    ]
    assert [one.target.names[0] for one in middle] == ["bowl"]
    assert [one.target.names[0] for one in large] == ["spoon"]


# -- where pictures come from


def test_a_folder_of_coco_gives_its_pictures_and_what_is_marked(tmp_path):
    write_coco(tmp_path, range(3), progress=False)
    found = pictures.of_coco("planted", tmp_path)
    assert found.centres == dc.dataset.read_coco(tmp_path).centres and json.dumps(found.identity)
    for seed, (picture, seen) in enumerate(zip(found.pictures, found.looks)):
        drawn = dc.planted.scene(seed)
        assert np.array_equal(picture.load(), drawn.image) and picture.truth.labels == drawn.names
        assert np.array_equal(seen.found.boxes, found.detector.detect(drawn.image).boxes)
        assert seen.cases


def test_of_a_large_data_set_some_are_drawn(tmp_path, monkeypatch):
    write_coco(tmp_path, range(5), progress=False)
    monkeypatch.setattr(pictures, "LOOKED_AT", 2)
    names = [one.name for one in pictures.of_coco("planted", tmp_path).pictures]
    assert len(names) == 2 and names == sorted(names)
    assert names == [one.name for one in pictures.of_coco("planted", tmp_path).pictures]


def test_photos_are_known_by_their_pixels(lamps, lit, tmp_path):
    for name, value in (("a", 40), ("b", 40), ("c", 41)):
        Image.fromarray(np.full_like(lit, value)).save(tmp_path / f"{name}.png")
    a, b, c = (pictures.of_photos(lamps, [str(tmp_path / f"{name}.png")]) for name in "abc")
    assert a.identity == b.identity != c.identity
    assert a.pictures[0].name == "a.png" and a.pictures[0].truth is None
    with pytest.raises(dc.InputError, match="neither a file"):
        pictures.of_photos(lamps, [str(tmp_path / "none.png")])


def test_the_drawn_scenes_show_every_case():
    scenes = pictures.drawn("planted")
    assert scenes.subjects and scenes.wrapping()
    assert all(scenes.case(kind) for kind in dc.errors.ERRORS)
    assert all(scenes.overlapping(wholly=wholly) for wholly in (False, True))
    assert isinstance(scenes.subjects[0], Subject)


def test_photos_that_ship_are_marked():
    ship = pictures.that_ship("planted")
    assert {"coffee", "astronaut"} <= {one.name for one in ship.pictures}
    assert all(one.truth is not None and one.load().dtype == np.uint8 for one in ship.pictures)
