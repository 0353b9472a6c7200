"""Cases found in pictures whose boxes are laid out by hand, and pictures from every source."""

import json

import numpy as np
import pytest
from PIL import Image

import dclose_nb as dc
from dclose_nb.paper.cases import (
    Candidate,
    DetectedPicture,
    FigureInputs,
    Picture,
    from_coco,
    from_photos,
    of_size,
    overlapping,
    plainest,
    planted_scenes,
    shipped_photos,
    surest,
    wrapping,
)
from dclose_nb.planted.dataset import write_coco
from dclose_nb.studies.error_analysis import ERRORS, cases

NAMES = ("cup", "bowl", "spoon")
SIZE = (100, 100)


def detected(name, rows, truth=None):
    """A picture of 100 x 100 where (box, class, score) are found and (box, class) are marked."""
    boxes, labels, scores = zip(*rows) if rows else ((), (), ())
    probs = np.eye(len(NAMES))[[NAMES.index(label) for label in labels]]
    found = dc.Detections(np.reshape(boxes, (-1, 4)), scores, probs.reshape(-1, len(NAMES)), NAMES)
    marked = None if truth is None else dc.Targets(*zip(*truth))
    picture = Picture(name, lambda: np.zeros((*SIZE, 3), np.uint8), marked)
    return DetectedPicture(None, picture, SIZE, found, [] if marked is None else cases(found, marked))


CUP, BOWL, LARGE, TINY = [0, 0, 20, 20], [50, 50, 90, 90], [0, 0, 100, 90], [95, 95, 99, 99]


def named(candidates):
    return [(candidate.picture.name, candidate.target.names) for candidate in candidates]


def test_candidates_are_sure_and_of_a_good_size_one_a_picture():
    pictures = [
        detected("two", [(CUP, "cup", 0.5), (BOWL, "bowl", 0.7)]),
        detected("large", [(LARGE, "bowl", 0.99)]),
        detected("both", [(LARGE, "bowl", 0.95), (CUP, "cup", 0.6)]),
        detected("none", []),
    ]
    assert named(surest(pictures)) == [("two", ["bowl"]), ("both", ["cup"]), ("large", ["bowl"])]


def test_only_what_finds_an_object_is_explained_where_objects_are_marked():
    rows = [(CUP, "cup", 0.5), (BOWL, "bowl", 0.9)]
    (candidate,) = surest([detected("marked", rows, [(CUP, "cup"), ([0, 80, 9, 99], "cup")])])
    assert candidate.target.names == ["cup"] and candidate.truth.labels == ["cup"]
    assert np.array_equal(candidate.truth.boxes, [CUP])
    (candidate,) = surest([detected("not", [(CUP, "cup", 0.5)])])
    assert candidate.truth is None
    assert surest([detected("wrong", [(CUP, "cup", 0.5)], [(BOWL, "bowl")])]) == []


def test_each_detection_comes_with_its_own_object():
    rows = [(CUP, "cup", 0.5), (LARGE, "spoon", 0.8), (BOWL, "bowl", 0.9)]
    picture = detected("marked", rows, [(CUP, "cup"), (BOWL, "bowl")])
    (small,), (large,) = (of_size([picture], [0.04, 0.16], group) for group in (0, 1))
    assert np.array_equal(small.truth.boxes, [CUP]) and np.array_equal(large.truth.boxes, [BOWL])


def test_the_plainest_error_is_the_surest_or_the_largest_that_leaves_room():
    first = detected("first", [(CUP, "cup", 0.6)], [(CUP, "bowl"), ([40, 40, 60, 60], "cup")])
    second = detected("second", [(CUP, "spoon", 0.8)], [(CUP, "bowl"), (BOWL, "cup"), (LARGE, "cup")])
    picture, case = plainest([first, second], "wrong class")
    assert picture is second and case.prediction.names == ["spoon"]
    picture, case = plainest([first, second], "missed")
    assert picture is second and np.array_equal(case.truth.boxes, [BOWL])
    assert plainest([first, second], "not there") is None


def test_a_box_that_wraps_two_objects_of_its_class():
    box, halves = [0, 0, 60, 20], ([0, 0, 30, 20], [30, 0, 60, 20])
    two = detected("two", [(box, "cup", 0.5)], [(half, "cup") for half in halves])
    candidate = wrapping([two])
    assert candidate.picture is two and candidate.target.names == ["cup"]
    assert np.array_equal(candidate.truth.boxes, halves) and candidate.truth.labels == ["cup", "cup"]
    others = detected("others", [(box, "cup", 0.5)], [(halves[0], "cup"), (halves[1], "bowl")])
    outside = detected("outside", [(box, "cup", 0.5)], [(halves[0], "cup"), ([45, 0, 90, 20], "cup")])
    specks = detected("specks", [(box, "cup", 0.5)], [([0, 0, 20, 11], "cup"), ([30, 0, 50, 11], "cup")])
    assert wrapping([others, outside, specks, detected("unmarked", [(box, "cup", 0.9)])]) is None


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
    picture = detected("pair", [([0, 0, 40, 40], "cup", 0.9), (other, "bowl", 0.8)])
    for how, expected in ((False, partly), (True, wholly)):
        found = overlapping([picture], wholly=how)
        assert (found is not None) == expected
        assert found is None or found.target.names == ["cup", "bowl"]


def test_groups_of_sizes_have_a_label_and_a_picture_once():
    pictures = [
        detected("one", [(CUP, "cup", 0.9), (BOWL, "bowl", 0.8), (LARGE, "spoon", 0.7)]),
        detected("two", [([1, 1, 21, 21], "cup", 0.95), ([30, 30, 50, 50], "bowl", 0.5)]),
        detected("three", [(CUP, "bowl", 0.4), (TINY, "spoon", 0.3)]),
    ]
    small, middle, large = (named(of_size(pictures, [0.03, 0.2, 0.9], group)) for group in range(3))
    assert small == [("two", ["cup"]), ("three", ["bowl"])]
    assert middle == [("one", ["bowl"])] and large == [("one", ["spoon"])]


def test_two_pictures_of_one_file_name_are_two_pictures():
    pictures = [detected("1.jpg", [(CUP, "cup", 0.9)]), detected("1.jpg", [(CUP, "bowl", 0.8)])]
    assert named(of_size(pictures, [0.04, 0.5, 0.9], 0)) == [("1.jpg", ["cup"]), ("1.jpg", ["bowl"])]


# -- where pictures come from


@pytest.fixture(scope="module")
def planted():
    return dc.load_detector("planted")


def test_a_folder_of_coco_gives_its_pictures_and_what_is_marked(planted, tmp_path):
    write_coco(tmp_path, range(3), progress=False)
    source = from_coco(planted, tmp_path)
    assert source.centres == dc.dataset.read_coco(tmp_path).centres and json.dumps(source.identity)
    for seed, picture in enumerate(source.detected):
        drawn = dc.planted.scene(seed)
        assert np.array_equal(picture.image, drawn.image) and picture.picture.truth.labels == drawn.names
        assert np.array_equal(picture.detections.boxes, planted.detect(drawn.image).boxes)
        assert picture.cases
    Image.new("RGB", (9, 8)).save(dc.dataset.read_coco(tmp_path).truths[0].path)
    with pytest.raises(dc.InputError, match="has 9 x 8 pixels, 320 x 320 in the annotation file"):
        source.pictures[0].load()


def test_of_a_large_data_set_some_are_drawn(planted, tmp_path):
    write_coco(tmp_path, range(5), progress=False)
    names, again = ([one.name for one in from_coco(planted, tmp_path, limit=2).pictures] for _ in range(2))
    assert len(names) == 2 and names == sorted(names) == again


def test_photos_are_known_by_their_pixels(lamps, lit, tmp_path):
    for name, value in (("a", 40), ("b", 40), ("c", 41)):
        Image.fromarray(np.full_like(lit, value)).save(tmp_path / f"{name}.png")
    a, b, c = (from_photos(lamps, [str(tmp_path / f"{name}.png")]) for name in "abc")
    assert a.identity == b.identity != c.identity
    assert a.pictures[0].name == "a.png" and a.pictures[0].truth is None
    with pytest.raises(dc.InputError, match="neither a file"):
        from_photos(lamps, [str(tmp_path / "none.png")])


def test_the_drawn_scenes_show_every_case(planted):
    pictures = planted_scenes(planted).detected
    assert surest(pictures) and wrapping(pictures)
    assert all(plainest(pictures, kind) for kind in ERRORS)
    assert all(overlapping(pictures, wholly=wholly) for wholly in (False, True))


def test_photos_that_ship_are_marked(planted):
    pictures = shipped_photos(planted).pictures
    assert {"coffee", "astronaut"} <= {picture.name for picture in pictures}
    assert all(picture.truth is not None and picture.load().dtype == np.uint8 for picture in pictures)


# -- explanations are made once


@pytest.fixture
def street(lamps, lit):
    """Two candidates of a picture: each lamp."""
    picture = Picture("street", lambda: lit)
    shown = DetectedPicture(lamps, picture, lit.shape[:2], lamps.detect(lit), [])
    return [Candidate(shown, detection) for detection in shown.detections]


def test_an_explanation_is_made_once_and_is_what_explain_gives(lamps, lit, street, tmp_path):
    def explain(candidate=street[0], seed=0, n_masks=40, **options):
        """An explanation, and whether the detector saw anything for it."""
        lamps.seen.clear()
        made = FigureInputs([], tmp_path, n_masks, seed, progress=False).explain(candidate, **options)
        return made, bool(lamps.seen)

    (first, made), (again, made_again) = explain(), explain()
    assert made and not made_again and again.seconds == first.seconds
    direct = dc.explain(lamps, lit, street[0].target, n_masks=40, progress=False)
    assert direct.params == again.params and again.n_forward == 40
    for name in ("saliency", "levels", "density"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert np.allclose(getattr(direct, name), getattr(again, name))
    darker = street[0].picture._replace(picture=Picture("x", lambda: lit // 2))
    others = [{"method": "drise"}, {"seed": 1}, {"n_masks": 41}, {"candidate": street[1]}]
    others += [{"candidate": Candidate(darker, street[0].target)}]
    assert [explain(**other)[1] for other in others] == [True] * 5
    assert [explain(**other)[1] for other in others] == [False] * 5


@pytest.mark.parametrize("name", ["maps.npz", "manifest.json"])
def test_a_torn_explanation_is_made_anew(street, tmp_path, name):
    inputs = FigureInputs([], tmp_path, 40, progress=False)
    first = inputs.explain(street[0])
    (folder,) = (tmp_path / "maps").iterdir()
    whole = (folder / name).read_bytes()
    for content in (b"", whole[:100], b"not an archive"):
        (folder / name).write_bytes(content)
        assert np.allclose(inputs.explain(street[0]).saliency, first.saliency)
        assert dc.Explanation.load(folder).n_forward == 40
    (folder / name).unlink()
    assert np.allclose(inputs.explain(street[0]).saliency, first.saliency)


def test_a_stop_leaves_no_torn_explanation(street, tmp_path, monkeypatch):
    write, written = np.lib.format.write_array, []

    def stopped(*given, **options):
        written.append(given)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(*given, **options)

    inputs = FigureInputs([], tmp_path, 40, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", stopped)
        with pytest.raises(KeyboardInterrupt):
            inputs.explain(street[0])
    assert list(tmp_path.rglob("*.np*")) == [] and inputs.maps == []
    assert inputs.explain(street[0]).n_forward == 40
