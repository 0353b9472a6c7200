"""A function as a detector: what it says is what is explained, and answers of another form are refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import dclose_nb as dc

NAMES = ["cat", "dog", "cow"]


def lamp(image):
    """One box in the upper left corner, as sure as it is bright."""
    return {"boxes": [[1, 2, 9, 8]], "labels": ["dog"], "scores": [image[2:8, 1:9].mean() / 255]}


@pytest.fixture
def lit():
    image = np.full((12, 20, 3), 40, np.uint8)
    image[2:8, 1:9] = 204
    return image


def load(answer, **options):
    return dc.load_detector(lambda image: answer, class_names=NAMES, **options)


def ask(answer, n=1):
    return load(answer).predict(torch.zeros(n, 3, 12, 20))


@pytest.mark.filterwarnings("ignore:.*one-hot")
def test_labels_and_scores_are_one_hot_vectors_and_objectness(lit):
    detector = dc.load_detector(lamp, class_names=NAMES)
    found = detector.detect(lit)
    assert detector.name == "lamp" and "lamp" in detector.provenance["function"]
    assert found.boxes.tolist() == [[1, 2, 9, 8]] and found.names == ["dog"]
    assert found.class_probs.tolist() == [[0, 1, 0]] and np.allclose(found.objectness, 0.8)
    for labels in ([1], np.array([1]), torch.tensor([1]), np.array(["dog"])):
        answer = {"boxes": torch.tensor([[1, 2, 9, 8]]), "labels": labels, "scores": torch.tensor([0.8])}
        assert ask(answer).class_probs.tolist() == [[[0, 1, 0]]]


def test_it_is_said_once_that_classes_are_one_hot(lit):
    detector = dc.load_detector(lamp, class_names=NAMES)
    with pytest.warns(UserWarning, match="lamp returns labels and scores.*one-hot") as said:
        detector.detect(lit), detector.detect(lit)
    assert len(said) == 1 and said[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_class_probabilities_are_kept():
    probs = [[0.2, 0.6, 0.1]]
    full = ask({"boxes": [[1, 2, 9, 8]], "class_probs": probs, "objectness": [0.5]})
    assert np.allclose(full.class_probs, [probs]) and full.objectness.tolist() == [[0.5]]
    _, objectness, vectors = ask({"boxes": [[1, 2, 9, 8]], "class_probs": probs})
    assert np.allclose(objectness, [[0.6]])  # the highest score stands for it
    assert np.allclose(objectness[..., None] * vectors, [probs])


@pytest.mark.filterwarnings("ignore:.*one-hot")
def test_images_come_as_they_are_one_by_one_and_answers_are_filled_up(lit):
    seen = []

    def function(image):
        seen.append(image)
        n = int(image[0, 0, 0])
        return {"boxes": [[0, 0, 1, 1]] * n, "labels": [2] * n, "scores": [0.5] * n}

    detector = dc.load_detector(function, class_names=NAMES)
    canvas = detector.prepare(lit)
    assert canvas.content == (0, 0, 12, 20) and np.array_equal(canvas.content_image, lit)
    batch = torch.stack([canvas.pixels, canvas.pixels * 0, canvas.pixels])
    batch[0, 0, 0, 0], batch[2, 0, 0, 0] = 2.4, 1
    boxes, objectness, probs = detector.predict(batch)
    assert all(image.dtype == np.uint8 and image.shape == (12, 20, 3) for image in seen)
    assert np.array_equal(seen[2][5], lit[5])
    assert objectness.tolist() == [[0.5, 0.5], [0, 0], [0.5, 0]]
    assert boxes.shape == (3, 2, 4) and probs.shape == (3, 2, 3)


@pytest.mark.filterwarnings("ignore:.*one-hot")
def test_nothing_found_anywhere_is_no_detection(lit):
    detector = load({"boxes": [], "labels": [], "scores": []})
    assert len(detector.detect(lit)) == 0
    targets = dc.Targets([[1, 2, 9, 8]], ["cat"])
    assert dc.explain(detector, lit, targets, n_masks=8, progress=False).saliency.max() == 0


@pytest.mark.filterwarnings("ignore:.*one-hot")
def test_the_map_is_where_the_function_looks(lit):
    """Half of the map's energy in the fifth of the image that it looks at."""
    detector = dc.load_detector(lamp, class_names=NAMES)
    explained = dc.explain(detector, lit, n_masks=200, progress=False)
    assert dc.metrics.ebpg(explained.saliency[0], [1, 2, 9, 8]) > 0.5


@pytest.mark.filterwarnings("ignore:.*one-hot")
def test_what_it_raises_in_the_middle_reaches_the_reader(lit):
    def tired(image):
        if image.mean() < 50:
            raise RuntimeError("camera 3 is gone")
        return lamp(image)

    detector = dc.load_detector(tired, class_names=NAMES)
    assert len(detector.detect(lit)) == 1
    with pytest.raises(RuntimeError, match=r"^camera 3 is gone$"):
        dc.explain(detector, lit, n_masks=100, progress=False)


BOX = {"boxes": [[1, 2, 9, 8]]}


@pytest.mark.filterwarnings("ignore:.*one-hot")
@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (None, "must return a dictionary with boxes, labels and scores.*got NoneType"),
        (BOX, r"must return a dictionary .* got \['boxes'\]"),
        (BOX | {"labels": [0], "score": [1]}, r"got \['boxes', 'labels', 'score'\]"),
        ({"boxes": [[50, 20, 30, 40]], "labels": [0], "scores": [1]}, "are these x, y, width, height"),
        ({"boxes": [[1, 2, 3]], "labels": [0], "scores": [1]}, r"boxes must be finite numbers \(n, 4\)"),
        (
            {"boxes": [[1, 2, np.nan, 8]], "labels": [0], "scores": [1]},
            r"boxes must be finite numbers \(n, 4\), got NaN",
        ),
        ({"boxes": [[1, 2, 1e30, 8]], "labels": [0], "scores": [1]}, r"boxes beyond 1e\+09 pixels"),
        (BOX | {"labels": ["fox"], "scores": [1]}, "no class 'fox'; it has: cat, dog, cow"),
        (BOX | {"labels": [3], "scores": [1]}, "index from 0 to 2, got 3"),
        (BOX | {"labels": [0, 1], "scores": [1]}, "got 1 boxes, 1 scores and 2 classes"),
        (BOX | {"labels": [0], "scores": [80]}, r"scores from 80 to 80, wanted in \[0, 1\]"),
        (BOX | {"labels": [0], "scores": [np.nan]}, r"scores must be finite numbers \(n\), got NaN"),
        (BOX | {"class_probs": [[0.5, 0.5]]}, r"class_probs must be finite numbers \(n, 3\)"),
        (BOX | {"class_probs": [[-3, 0, 2]]}, r"class_probs from -3 to 2, wanted in \[0, 1\].*sigmoid"),
        (BOX | {"class_probs": [[0, 0, 1]], "objectness": [1, 1]}, "got 1 boxes, 2 scores and 1 classes"),
    ],
)
def test_answers_of_another_form_are_refused(answer, word):
    with pytest.raises(dc.InputError, match=word):
        ask(answer)


def test_a_function_needs_names_and_takes_no_device():
    with pytest.raises(dc.InputError, match="needs class_names="):
        dc.load_detector(lamp)
    with pytest.raises(dc.InputError, match="a function takes no device"):
        dc.load_detector(lamp, class_names=NAMES, device="cuda")
    with pytest.raises(dc.InputError, match="a function takes no colours"):
        dc.load_detector(lamp, class_names=NAMES, colours="bgr")
    for names in (5, "cat", {"cat", "dog"}, [], [1], None):
        with pytest.raises(dc.InputError, match="class_names"):
            dc.load_detector(lamp, class_names=names)
    with pytest.raises(dc.InputError, match=r"the class name '\\ud800' is not Unicode"):
        dc.load_detector(lamp, class_names=["cat", "\ud800"])
    assert load(BOX, name="mine", device="cpu").name == "mine"


def test_what_knows_its_names_takes_none(lamps):
    with pytest.raises(dc.InputError, match="'planted' takes no class_names"):
        dc.load_detector("planted", class_names=NAMES)
    with pytest.raises(dc.InputError, match="a Detector takes no class_names, name"):
        dc.load_detector(lamps, class_names=NAMES, name="mine")


@pytest.mark.filterwarnings("ignore:.*one-hot")
@pytest.mark.parametrize(("part", "value", "words"), [
    ("labels", [[1], [1, 2]], "labels that are no list"),
    ("labels", torch.tensor([1.0]).bfloat16(), "labels that are no list"),
    ("boxes", [[0, 0, 10**400, 5]], "boxes must be numbers"),
    ("boxes", np.array([[1, 2, 9, 8 + 1j]]), "boxes must be numbers: they are complex"),
    (5, 5, "got .*5"),
])  # fmt: skip
def test_what_numpy_stumbles_over_is_said_in_one_line(part, value, words):
    with pytest.raises(dc.InputError, match=words):
        ask({"boxes": [[1, 2, 9, 8]], "labels": ["dog"], "scores": [0.8]} | {part: value})


def test_boxes_that_still_have_gradients_are_refused_as_targets(lit):
    targets = dc.Targets(torch.tensor([[1.0, 2, 9, 8]], requires_grad=True), ["dog"])
    with pytest.raises(dc.InputError, match="boxes must be numbers"):
        dc.explain(load({}), lit, targets)


def test_transformers_is_not_imported_where_it_is_not_used():
    code = (
        "import sys, torch, dclose_nb as dc; from dclose_nb.detectors import huggingface, torchvision;"
        "dc.load_detector(lambda image: None, class_names=['a']); sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
