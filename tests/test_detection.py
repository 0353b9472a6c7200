import numpy as np
import pytest
import torch
from toys import Lamps

import dclose_nb as dc
from dclose_nb.detection import match, suppress
from dclose_nb.detectors.canvases import letterbox_centred

NAMES = ("cat", "dog", "cow")


def make(n=3):
    boxes = [[0, 0, 2, 2], [1, 1, 5, 6], [2, 0, 3, 9]][:n]
    probs = [[0.5, 0.1, 0], [0.1, 0.9, 0], [0, 0.3, 0.4]][:n]
    return dc.Detections(boxes, [0.5, 1, 0.5][:n], probs, NAMES)


def test_rows_are_sorted_by_score():
    found = make()
    assert found.names == ["dog", "cat", "cow"]
    assert np.allclose(found.scores, [0.9, 0.25, 0.2])
    assert found.boxes[0].tolist() == [1, 1, 5, 6]
    assert found.labels.tolist() == [1, 0, 2]


def test_equal_scores_keep_their_order():
    probs = np.eye(3)[[2, 0, 1]]
    assert dc.Detections([[0, 0, 1, 1]] * 3, [1, 1, 1], probs, NAMES).names == ["cow", "cat", "dog"]


def test_what_lies_in_the_padding_alone_is_not_detected():
    class Padded(dc.Detector):
        def prepare(self, image):
            return letterbox_centred(image, (64, 64), self.device)  # a tall image has padding at both sides

        def predict(self, pixels):
            boxes = torch.tensor([[1.0, 5, 10, 20], [0, 5, 1e-7, 20], [10, 5, 30, 20], [50, 5, 60, 20]])
            return dc.Proposals.from_scores(
                boxes.repeat(len(pixels), 1, 1), torch.full((len(pixels), 4, 1), 0.9)
            )

    detector = Padded("padded", ("thing",))
    image = np.full((64, 32, 3), 90, np.uint8)
    found = detector.detect(image)
    assert found.boxes.tolist() == [[-6, 5, 14, 20]]
    assert dc.explain(detector, image, n_masks=5, progress=False).saliency.shape == (1, 64, 32)


def test_rows_can_be_picked():
    found = make()
    assert found[1].names == ["cat"] and len(found[1]) == 1
    assert found[-1].names == ["cow"]
    assert found[:2].names == ["dog", "cat"]
    assert found[found.scores > 0.22].names == ["dog", "cat"]
    assert [row.names for row in found] == [["dog"], ["cat"], ["cow"]]
    with pytest.raises(IndexError):
        found[3]


@pytest.mark.parametrize("index", [slice(None, None, -1), [2, 0], [2, 1, 0]])
def test_rows_stay_sorted_however_they_are_picked(index):
    scores = make()[index].scores
    assert (np.diff(scores) <= 0).all()
    assert set(scores) == set(make().scores[index])


def test_arrays_of_other_shapes_are_refused_not_reshaped():
    with pytest.raises(dc.InputError, match=r"class_probs must be finite numbers \(n, 3\)"):
        dc.Detections([[0, 0, 1, 1]] * 2, [1, 1], np.ones((3, 2)), NAMES)
    with pytest.raises(dc.InputError, match=r"a list of names, got \(\)"):
        dc.Detections([[0, 0, 1, 1]], [1], np.ones((1, 0)), ())
    with pytest.raises(dc.InputError, match="must pick rows"):
        make()[None]
    with pytest.raises(dc.InputError, match="labels must be a list"):
        dc.Targets([[0, 0, 1, 1]], 7).detections(NAMES)


@pytest.mark.parametrize("part", ["objectness", "class_probs"])
def test_probabilities_lie_in_0_1_but_for_rounding(part):
    box, values = {"boxes": [[0, 0, 1, 1]], "class_names": ("a",)}, {"objectness": [1], "class_probs": [[1]]}
    finite = r"be finite numbers .*, got NaN"
    for wrong, words in (*((w, r"lie in \[0, 1\], got") for w in (1.01, -0.01, 80)), (np.nan, finite)):
        with pytest.raises(dc.InputError, match=f"{part} must {words}"):
            dc.Detections(**box | values | {part: np.multiply(values[part], wrong)})
    for rounded in (1 + 2**-10, -1e-4):  # as numbers of 16 bits are
        assert len(dc.Detections(**box | values | {part: np.multiply(values[part], rounded)})) == 1


@pytest.mark.parametrize("names", [5, None, "ab", ["a", 5], {"a", "b"}, ["a", "\ud800"]])
def test_class_names_are_a_list_of_names(names):
    with pytest.raises(dc.InputError, match=r"class_names must be|is not Unicode"):
        dc.Detections([[0, 0, 1, 1]], [1], [[1, 0]], names)
    with pytest.raises(dc.InputError, match=r"class_names must be|is not Unicode"):
        dc.Targets([[0, 0, 1, 1]], ["a"]).detections(names)


def test_detections_are_frozen():
    found = make()
    with pytest.raises(AttributeError):
        found.boxes = None
    with pytest.raises(ValueError, match="read-only"):
        found.boxes[0, 0] = 7


def test_detections_may_be_empty():
    none = dc.Detections(np.zeros((0, 4)), [], np.zeros((0, 3)), NAMES)
    assert len(none) == 0 and none.scores.shape == (0,) and none.names == []
    assert "(0)" in repr(none)


@pytest.mark.parametrize(
    ("boxes", "word"),
    [
        ([[0, 0, 0, 5]], "no area"),
        ([[4, 0, 2, 5]], "no area"),
        ([[0, np.nan, 2, 5]], "finite"),
        ([[0, 0, 1, 1]] * 2, "one row each"),
        ([[0, 0, 1]], r"numbers \(n, 4\), got the shape"),
        ([[0, 0, 1, 1, 1]], r"numbers \(n, 4\), got the shape"),
        ([0, 0, 1, 1], r"numbers \(n, 4\), got the shape"),
        ([[0, 0, 1], [0]], "must be numbers"),
        ("abc", "must be numbers"),
    ],
)
def test_bad_boxes_are_refused(boxes, word):
    with pytest.raises(dc.InputError, match=word):
        dc.Detections(boxes, [1], [[1, 0, 0]], NAMES)


def test_targets_are_one_hot_with_objectness_1():
    targets = dc.Targets([[0, 0, 2, 2], [1, 1, 3, 3]], ["cow", 1]).detections(NAMES)
    assert targets.class_probs.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert targets.objectness.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (["fox"], "no class 'fox'"),
        ([3], "0 to 2"),
        ([-1], "0 to 2"),
        ([1.5], "name or an index"),
        ([True], "name or an index"),
        ([None], "name or an index"),
    ],
)
def test_unknown_labels_are_refused(labels, word):
    with pytest.raises(dc.InputError, match=word):
        dc.Targets([[0, 0, 2, 2]], labels).detections(NAMES)
    with pytest.raises(dc.InputError, match="one label"):
        dc.Targets([[0, 0, 2, 2]], labels * 2).detections(NAMES)


def canvas():
    """A 30 x 20 image, twice as high and three times as wide, at (4, 6) of the canvas."""
    return dc.Canvas(torch.zeros(3, 80, 90), (30, 20), (4, 6, 60, 60))


def test_boxes_go_to_the_canvas_and_back():
    boxes = np.array([[0, 0, 20, 30], [1, 2, 3, 4]], np.float32)
    moved = canvas().boxes_to_canvas(boxes)
    assert moved.tolist() == [[6, 4, 66, 64], [9, 8, 15, 12]]
    assert np.allclose(canvas().boxes_to_image(moved), boxes)


def test_maps_return_to_the_image_without_a_shift():
    in_image = np.zeros((30, 20), np.float32)
    in_image[12:20, 5:10] = 1
    in_content = in_image.repeat(2, 0).repeat(3, 1)
    back = canvas().maps_to_image(in_content[None])[0]
    rows, columns = np.nonzero(back > 0.5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 19, 5, 9)
    ramp = np.broadcast_to((np.arange(60, dtype=np.float32) + 0.5) / 3, (60, 60))
    assert np.allclose(canvas().maps_to_image(ramp[None])[0, 15, 2:-2], np.arange(20)[2:-2] + 0.5, atol=1e-3)


def test_suppression_is_greedy_within_classes():
    """Against a loop over pairs, on random boxes."""
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 20, (60, 2)), rng.uniform(4, 12, (60, 2))
    boxes, objectness = np.hstack([corner, corner + size]), rng.uniform(0, 1, 60)
    probs = rng.uniform(0, 1, (60, 3))

    def iou(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        inter = max(width, 0) * max(height, 0)
        return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)

    proposals = dc.Proposals(*(torch.tensor(part)[None].float() for part in (boxes, objectness, probs)))
    for agnostic in (False, True):
        expected = []
        score, label = objectness * probs.max(1), probs.argmax(1)
        for i in np.argsort(-score):
            rivals = [j for j in expected if agnostic or label[i] == label[j]]
            if score[i] >= 0.3 and all(iou(boxes[i], boxes[j]) <= 0.4 for j in rivals):
                expected.append(i)
        (kept,) = suppress(proposals, confidence=0.3, iou=0.4, class_agnostic=agnostic)
        assert kept.tolist() == expected
    assert len(expected) > 5


def test_detect_finds_the_lamps_that_shine(lamps, lit):
    found = lamps.detect(lit)
    assert found.names == ["a", "b"]
    assert np.allclose(found.boxes, lamps.boxes)
    assert np.allclose(found.scores, [0.9 * 250 / 255, 0.8 * 250 / 255])
    assert len(lamps.detect(lit, confidence=0.85)) == 1


@pytest.mark.parametrize("value", ["yes", None, np.array([True, False])])
def test_suppression_is_over_all_classes_or_not(lamps, lit, value):
    with pytest.raises(dc.InputError, match="class_agnostic must be True or False"):
        lamps.detect(lit, class_agnostic=value)


@pytest.mark.parametrize("name", ["confidence", "iou"])
@pytest.mark.parametrize("value", [1.5, -0.1, "0.5", None, float("nan")])
def test_thresholds_lie_in_0_1(lamps, lit, name, value):
    with pytest.raises(dc.InputError, match=name):
        lamps.detect(lit, **{name: value})


def test_padding_is_never_detected(lamps, lit):
    healthy = lamps.predict

    def padded(pixels):
        return dc.Proposals(*(torch.cat([p, torch.zeros_like(p[:, :1])], 1) for p in healthy(pixels)))

    lamps.predict = padded
    assert len(lamps.detect(lit, confidence=0)) == 2


def test_names_may_be_a_list_and_the_device_a_string(lit):
    class Listed(Lamps):
        def __init__(self):
            super().__init__([[1, 1, 7, 9]], [[1.0]])
            dc.Detector.__init__(self, "listed", ["a"], "cpu")

    assert Listed().device == torch.device("cpu")
    assert len(dc.explain(Listed(), lit, n_masks=10, progress=False)) == 1


def test_the_best_detection_chooses_first_and_each_truth_is_used_once():
    truths = np.array([[0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 60, 60], [80, 80, 90, 90]], np.float32)
    boxes = [[0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 84.9]]
    found = dc.Detections(boxes, [0.9, 0.8, 0.7, 0.6, 0.5], np.eye(3)[[0, 0, 0, 1, 0]], NAMES)
    # the first takes truth 0 and the second truth 1; none is left for the third; then a wrong class,
    # and an overlap that is too small
    assert match(found, truths, ["cat"] * 4) == [(0, 0), (1, 1)]
    assert match(found, truths, ["cat", "cat", "dog", "cat"]) == [(0, 0), (1, 1), (3, 2)]
    with pytest.raises(dc.InputError, match="each box needs one label: 4 boxes, 1 labels"):
        match(found, truths, ["cat"])
    with pytest.raises(dc.InputError, match="boxes must be finite numbers"):
        match(found, truths[:, :3], ["cat"] * 4)
    assert match(found, truths[:0], []) == [] and match(found[:0], truths, ["cat"] * 4) == []


@pytest.mark.parametrize("part", ["boxes", "class_probs"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_detector_that_proposes_no_numbers_is_said_to(lamps, lit, part, value):
    """It would detect nothing and not say why."""
    getattr(lamps, part)[0] = value
    lamps.predict = lambda pixels: dc.Proposals(
        lamps.boxes[None], torch.ones(1, 2), lamps.class_probs[None]
    )  # lamps look at the pixels of their boxes
    with pytest.raises(dc.InputError, match="lamps proposed NaN or infinity: look at its weights"):
        lamps.detect(lit)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_of_very_many_boxes_the_best_count(class_agnostic, monkeypatch):
    """Suppression compares each with each, so that 100,000 took minutes."""
    monkeypatch.setattr("dclose_nb.detection.MOST_BOXES", 300)
    corners = torch.cartesian_prod(torch.arange(32.0), torch.arange(32.0))
    scores = torch.rand(len(corners), generator=torch.manual_seed(0)) / 2 + 0.5
    boxes = torch.cat([corners, corners + 1], 1)
    probs = torch.ones(len(corners), 1)
    with pytest.warns(UserWarning, match=r"1024 boxes reach the confidence 0.25: the best 300 count"):
        (kept,) = suppress(
            dc.Proposals(boxes[None], scores[None], probs[None]), class_agnostic=class_agnostic
        )
    assert torch.equal(scores[kept], scores.sort(descending=True).values[:300])
