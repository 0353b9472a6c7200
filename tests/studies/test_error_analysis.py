"""Errors: named as a plain reading of the definitions names them, explained as `explain` does, counted."""

import json
import warnings
from collections import Counter

import numpy as np
import pytest
from toys import Lamps, Street

import dclose_nb as dc
from dclose_nb.detection import match
from dclose_nb.fusion import min_max
from dclose_nb.planted.dataset import write_coco
from dclose_nb.studies import error_analysis as errors
from dclose_nb.studies.coco import read_coco
from dclose_nb.studies.error_analysis import ERRORS, KINDS, SHARES, cases
from dclose_nb.studies.records import Records

NAMES = ("cup", "bowl", "spoon")
BOX = [0, 0, 10, 10]


def detections(*rows):
    """Detections from (box, class, score)."""
    boxes, labels, scores = zip(*rows) if rows else ((), (), ())
    probs = np.eye(len(NAMES))[[NAMES.index(label) for label in labels]]
    return dc.Detections(np.reshape(boxes, (-1, 4)), scores, probs.reshape(-1, len(NAMES)), NAMES)


def named(found, truth, crowds=None):
    return [(one.kind, one.row, one.number) for one in cases(found, truth, crowds)]


# -- the cases


@pytest.mark.parametrize(
    ("box", "label", "kinds", "iou"),
    [
        ([0, 0, 10, 8], "cup", ["right"], 0.8),
        ([0, 0, 10, 8], "bowl", ["wrong class"], 0.8),
        ([0, 0, 10, 5], "cup", ["wrong place"], 0.5),  # not above a half, so not found
        ([0, 0, 10, 1], "cup", ["wrong place"], 0.1),
        ([0, 0, 9, 1], "cup", ["not there", "missed"], 0.09),
        ([0, 0, 10, 5], "bowl", ["other", "missed"], 0.5),
        ([0, 0, 10, 1], "bowl", ["other", "missed"], 0.1),
        ([0, 0, 9, 1], "bowl", ["not there", "missed"], 0.09),
        ([20, 0, 30, 10], "cup", ["not there", "missed"], 0),
    ],
)
def test_one_detection_of_one_cup(box, label, kinds, iou):
    found = cases(detections((box, label, 0.9)), dc.Targets([BOX], ["cup"]))
    assert [one.kind for one in found] == kinds
    assert all(one.iou == pytest.approx(iou) for one in found)
    first, last = found[0], found[-1]
    assert first.prediction.names == [label] and np.array_equal(first.prediction.boxes, [box])
    assert last.truth.labels == ["cup"] and np.array_equal(last.truth.boxes, [BOX])
    if kinds[0] == "not there":
        assert first.truth is None and first.number is None
    if kinds[-1] == "missed":
        assert last.prediction is None and last.row is None


def test_an_object_goes_to_one_detection_the_best():
    truth = dc.Targets([BOX], ["cup"])
    twice = detections((BOX, "cup", 0.9), (BOX, "cup", 0.8), (BOX, "bowl", 0.7), ([0, 0, 10, 3], "cup", 0.6))
    assert named(twice, truth) == [("right", 0, 0), ("duplicate", 1, 0), ("other", 2, 0), ("other", 3, 0)]
    wrong = detections(([0, 0, 10, 3], "cup", 0.9), (BOX, "bowl", 0.8))
    assert named(wrong, truth) == [("wrong place", 0, 0), ("other", 1, 0)]
    assert named(wrong[::-1], truth) == [("wrong place", 0, 0), ("other", 1, 0)]


def test_a_detection_takes_the_object_it_overlaps_most():
    truth = dc.Targets([[0, 0, 10, 2], BOX], ["cup", "bowl"])  # IoU 0.25 with the cup, 0.8 with the bowl
    found = detections(([0, 0, 10, 8], "cup", 0.9))
    assert named(found, truth) == [("wrong class", 0, 1), ("missed", None, 0)]


def test_what_lies_in_a_crowd_is_no_error():
    crowd = dc.Targets([[0, 0, 10, 10], [50, 0, 60, 10]], ["cup", "spoon"])
    found = detections(
        ([0, 0, 4, 4], "cup", 0.9),
        ([4, 4, 8, 8], "bowl", 0.8),  # of another class
        ([8, 0, 12, 4], "cup", 0.7),  # half of it, and no more
        ([7, 5, 11, 9], "cup", 0.6),  # three quarters
        ([50, 0, 60, 10], "spoon", 0.5),  # right, though it lies in a crowd
        ([50, 0, 60, 5], "spoon", 0.4),  # a duplicate, were it not for the crowd
    )
    truth = dc.Targets([[50, 0, 60, 9]], ["spoon"])
    kinds = [one.kind for one in cases(found, truth, crowd)]
    assert kinds == ["in a crowd", "not there", "not there", "in a crowd", "right", "in a crowd"]
    assert [one.kind for one in cases(found, truth)] == ["not there"] * 4 + ["right", "duplicate"]


def test_a_class_that_the_detector_does_not_have():
    truth = dc.Targets([BOX, [20, 0, 30, 10]], ["saucer", "saucer"])
    found = cases(detections((BOX, "bowl", 0.9)), truth)
    assert [(one.kind, one.number) for one in found] == [("wrong class", 0), ("unknown class", 1)]
    assert str(found[0]) == "wrong class: bowl 0.90 for saucer (IoU 1.00)"


def test_nothing_found_and_nothing_to_find():
    nothing = dc.Targets([], [])
    assert named(detections(), nothing) == []
    assert named(detections((BOX, "cup", 0.9)), nothing) == [("not there", 0, None)]
    assert named(detections(), dc.Targets([BOX], [1])) == [("missed", None, 0)]  # a class by its index
    for truth, word in ((None, "nobody has marked"), (dc.Targets([BOX], []), "1 boxes, 0 labels")):
        with pytest.raises(dc.InputError, match=word):
            cases(detections(), truth)


def plain_iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def plain_kinds(found, truth):
    """The docstring of `cases`, read line by line."""
    taken = {number for _, number in match(found, truth.boxes, truth.labels)}
    right = {row for row, _ in match(found, truth.boxes, truth.labels)}
    kinds = []
    for row, (box, name) in enumerate(zip(found.boxes.tolist(), found.names)):
        if row in right:
            kinds.append("right")
            continue
        ious = [plain_iou(box, other) for other in truth.boxes.tolist()]
        best = None
        for number, (iou, label) in enumerate(zip(ious, truth.labels)):
            error = 0.1 <= iou <= 0.5 if label == name else iou > 0.5
            if number not in taken and error and (best is None or iou > ious[best]):
                best = number
        if best is not None:
            taken.add(best)
            kinds.append("wrong place" if truth.labels[best] == name else "wrong class")
        elif any(iou > 0.5 and label == name for iou, label in zip(ious, truth.labels)):
            kinds.append("duplicate")
        else:
            kinds.append("not there" if all(iou < 0.1 for iou in ious) else "other")
    return kinds + ["missed"] * (len(truth.labels) - len(taken))


def test_chance_is_named_as_by_a_plain_reading():
    rng = np.random.default_rng(0)
    seen = Counter()
    for _ in range(300):
        n, m = rng.integers(0, 9, 2)
        corners = rng.integers(0, 5, (n + m, 2))
        boxes = np.hstack([corners, corners + rng.integers(3, 8, (n + m, 2))])
        labels = [NAMES[k] for k in rng.integers(0, rng.integers(1, 4), n + m)]
        found = detections(*zip(boxes[:n], labels[:n], rng.uniform(0.3, 1, n)))
        truth = dc.Targets(boxes[n:].astype(np.float32).reshape(-1, 4), labels[n:])
        result = cases(found, truth)
        assert [one.kind for one in result] == plain_kinds(found, truth)
        assert [one.row for one in result if one.row is not None] == list(range(n))
        owned = [
            one.number for one in result if one.number is not None and one.kind not in ("duplicate", "other")
        ]
        assert sorted(owned) == list(range(m))
        seen.update(one.kind for one in result)
    assert min(seen[kind] for kind in ("right", *ERRORS, "duplicate", "other")) > 10


# -- what the detector looked at


@pytest.fixture
def wrong(lamps, lit):
    """The left lamp found, where the right one should have been."""
    left = lamps.detect(lit)
    left = left[left.names.index("a")]
    return errors.Case("wrong place", left, dc.Targets([[10, 2, 18, 8]], ["b"]), 0.0, 0, 0)


def test_both_vectors_come_from_the_same_passes(lamps, lit, wrong):
    options = {"n_masks": 60, "segments": (4, 16), "seed": 3, "progress": False}
    lamps.seen.clear()
    found = errors.compare(lamps, lit, wrong, **options)
    assert sum(map(len, lamps.seen)) == 60 == found.explanation.n_forward
    truth = dc.explain(lamps, lit, wrong.truth, **options).saliency[0]
    prediction = dc.explain(lamps, lit, wrong.prediction, **options).saliency[0]
    assert np.allclose(found.truth, min_max(truth), atol=1e-5)
    assert np.allclose(found.prediction, min_max(prediction), atol=1e-5)
    assert np.allclose(found.difference, min_max(prediction) - min_max(truth), atol=2e-5)


def test_the_difference_points_from_one_lamp_to_the_other(lamps, lit, wrong):
    difference = errors.compare(
        lamps, lit, wrong, n_masks=400, segments=(16,), r=0, progress=False
    ).difference
    assert difference[1:9, 1:7].mean() > 0.3 and difference[2:8, 10:18].mean() < -0.3
    assert difference.min() >= -1 and difference.max() <= 1


def test_one_vector_alone_has_no_difference(lamps, lit, wrong):
    for gone in ("truth", "prediction"):
        found = errors.compare(
            lamps, lit, wrong._replace(**{gone: None}), method="drise", n_masks=20, progress=False
        )
        assert len(found.explanation) == 1 and found.explanation.method == "drise"
        assert getattr(found, gone) is None and found.difference is None
        left = found.prediction if gone == "truth" else found.truth
        assert left.max() == 1 and left.min() == 0


def test_a_sure_prediction_does_not_take_the_place_of_the_truth(lamps, lit, wrong):
    sure = dc.Targets([[1, 1, 7, 9]], ["a"]).detections(lamps.class_names)
    found = errors.compare(lamps, lit, wrong._replace(prediction=sure), n_masks=20, progress=False)
    assert found.explanation.detections.names == ["b", "a"]


def test_what_cannot_be_explained_is_refused(lamps, lit, wrong):
    with pytest.raises(dc.InputError, match="this detector has no class 'saucer'; it has: a, b"):
        errors.compare(lamps, lit, wrong._replace(truth=dc.Targets([BOX], ["saucer"])))
    with pytest.raises(dc.InputError, match="no option 'magic'"):
        errors.compare(lamps, lit, wrong, magic=1)
    other = detections((BOX, "cup", 0.9))
    with pytest.raises(dc.InputError, match="other classes than the detector"):
        errors.compare(lamps, lit, wrong._replace(prediction=other, truth=None))


# -- hiding


def test_the_highest_pixels_are_hidden(lit):
    heat = np.arange(240.0).reshape(12, 20)
    assert np.array_equal(errors.hide(lit, heat, 0), lit)
    hidden = errors.hide(lit, heat, 7)
    assert (hidden[-1, -7:] == 0).all() and np.array_equal(hidden[-1, :-7], lit[-1, :-7])
    assert np.array_equal(hidden[:-1], lit[:-1])
    for arguments, word in (((heat.T, 3), "the map must be"), ((heat, -1), "n_pixels")):
        with pytest.raises(dc.InputError, match=word):
            errors.hide(lit, *arguments)


@pytest.mark.parametrize("zoom", [1, 2])
def test_a_class_score_is_the_best_near_the_object(lit, zoom):
    lamps = Lamps([[1, 1, 7, 9], [1, 1, 7, 8], [10, 2, 18, 8]], [[0.9, 0.1], [0.2, 0.6], [0.3, 1.0]], zoom)
    case = errors.Case("wrong class", lamps.detect(lit)[1], dc.Targets([[1, 1, 7, 9]], ["b"]), 1.0, 0, 0)
    assert case.prediction.names == ["a"]
    predicted, true = errors.class_scores(lamps, lit, case)
    assert predicted == pytest.approx(0.9 * 250 / 255) and true == pytest.approx(0.6 * 250 / 255)
    far = case._replace(truth=dc.Targets([[0, 10, 9, 12]], ["b"]))
    assert errors.class_scores(lamps, lit, far) == (0, 0)
    with pytest.raises(dc.InputError, match="a prediction and a ground truth is wanted, got missed: b"):
        errors.class_scores(lamps, lit, case._replace(kind="missed", prediction=None))


def test_hiding_follows_each_map(lamps, lit):
    left = lamps.detect(lit)
    left = left[left.names.index("a")]
    case = errors.Case("wrong class", left, dc.Targets([[1, 1, 7, 9]], ["b"]), 1.0, 0, 0)
    comparison = errors.compare(lamps, lit, case, n_masks=40, progress=False)
    scores = errors.hidden_scores(lamps, lit, comparison)
    counts = [round(share * 48) for share in SHARES]
    # a random part lies inside the box, so that the lamp is as much darker
    brightness = np.array([(48 - n) / 48 * 250 / 255 for n in counts])
    assert np.allclose(scores["random"], brightness[:, None] * [0.9, 0.1])
    for name in ("difference", "prediction"):
        hidden = [errors.hide(lit, getattr(comparison, name), n) for n in counts]
        assert np.allclose(scores[name], [errors.class_scores(lamps, one, case) for one in hidden])
    alone = errors.compare(lamps, lit, case._replace(truth=None), n_masks=10, progress=False)
    with pytest.raises(dc.InputError, match="a prediction and a ground truth"):
        errors.hidden_scores(lamps, lit, alone)


# -- a data set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five planted scenes: one object is made a crowd, one image has no objects, one is damaged."""
    folder = tmp_path_factory.mktemp("coco")
    path = write_coco(folder, range(5), progress=False)
    content = json.loads(path.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 2]
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    (folder / "val2017" / f"{4:012d}.png").write_bytes(b"no picture")
    return folder


def test_crowds_are_kept_apart_from_objects(folder):
    first, second, *_ = read_coco(folder).truths
    drawn = dc.planted.scene(0)
    assert np.allclose(first.crowds.boxes, drawn.boxes[:1]) and first.crowds.labels == drawn.names[:1]
    assert np.allclose(first.boxes, drawn.boxes[1:]) and first.labels == drawn.names[1:]
    assert len(second.crowds.boxes) == 0


@pytest.fixture(scope="module")
def street(folder):
    return Street(read_coco(folder))


def test_a_tally_counts_every_detection_and_every_object(folder, street, tmp_path):
    records = errors.run(street, folder, tmp_path / "errors.jsonl", progress=False)
    data = read_coco(folder)
    found = errors.tally(records.lines)
    total = sum(found.values(), Counter())
    assert set(total) <= set(KINDS)
    truths = {truth.image: truth for truth in data.truths}
    by_hand = Counter()
    for image in range(4):
        truth, detected = truths[image], street.detect(dc.load_photo(truths[image].path))
        by_hand.update(
            one.kind for one in cases(detected, dc.Targets(truth.boxes, truth.labels), truth.crowds)
        )
    assert total == by_hand and total["right"] > 3 and total["not there"] > 3
    bad = next(line for line in records.lines if line["image"] == 4)
    assert "cases" not in bad and "not an image that can be read" in bad["error"]
    empty = next(line for line in records.lines if line["image"] == 2)
    assert {one["kind"] for one in empty["cases"]} == {"not there"}
    objects = [
        one["truth"] for line in records.lines for one in line.get("cases", []) if one["kind"] == "right"
    ]
    assert {name: counts["right"] for name, counts in found.items() if counts["right"]} == Counter(objects)


def test_a_stopped_run_goes_on(folder, street, tmp_path):
    whole = errors.run(street, folder, tmp_path / "whole.jsonl", progress=False)
    text = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "part.jsonl").write_text("".join(text[:3]))
    assert errors.run(street, folder, tmp_path / "part.jsonl", progress=False).lines == whole.lines
    with pytest.raises(dc.InputError, match=r"confidence 0\.25, not 0\.5"):
        errors.run(street, folder, tmp_path / "part.jsonl", confidence=0.5, progress=False)
    for options, word in (({"confidence": 2}, "confidence"), ({"n_masks": 0}, "n_masks")):
        with pytest.raises(dc.InputError, match=word):
            errors.run(street, folder, tmp_path / "none.jsonl", progress=False, **options)
    assert not (tmp_path / "none.jsonl").exists()


def test_errors_with_two_vectors_are_compared_when_asked_for(folder, street):
    truth = read_coco(folder).truths[3]
    found = street.detect(dc.load_photo(truth.path))
    first = match(found, truth.boxes, truth.labels)[0]
    names = [street.class_names[street.class_names.index(one) - 1] for one in truth.labels]
    names[first[1]] = truth.labels[first[1]]  # one is right, and all others are not
    lines = errors.examine(street, truth._replace(labels=names), n_masks=10)["cases"]
    compared = [one["kind"] for one in lines if "difference" in one]
    assert Counter(compared) == {"right": 1, "wrong class": len(names) - 1}
    for one in lines:
        assert ("hidden" in one) == (one["kind"] == "wrong class")
        assert all(np.shape(scores) == (len(SHARES), 2) for scores in one.get("hidden", {}).values())
    swapped, image = truth._replace(labels=names), dc.load_photo(truth.path)
    for one, case in zip(lines, cases(found, dc.Targets(swapped.boxes, swapped.labels))):
        if "difference" in one:
            by_hand = errors.compare(street, image, case, n_masks=10, progress=False)
            assert one["difference"] == pytest.approx(abs(by_hand.difference).mean(), abs=1e-5)
            likeness = dc.metrics.rank_correlation(by_hand.truth, by_hand.prediction)
            assert one["correlation"] == (None if np.isnan(likeness) else pytest.approx(likeness, abs=1e-3))
    plain = errors.examine(street, truth._replace(labels=names))["cases"]
    assert [one.keys() for one in plain] == [{"kind", "truth", "prediction", "score", "iou"}] * len(plain)


def test_the_command(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "errors.jsonl"
    monkeypatch.setattr("sys.argv", ["errors", str(folder), str(out), "--detector", "planted"])
    assert errors.main() == 0
    total = sum(errors.tally(Records(out).lines).values(), Counter())
    assert f"5 images: {total['right']} right, {total['wrong class']} wrong class" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["errors", str(tmp_path), str(out), "--detector", "planted"])
    assert errors.main() == 2 and "cannot be read" in capsys.readouterr().err


# -- images with ground truth


def kinds_of(detector, images):
    return {one.kind for image, truth in images.values() for one in cases(detector.detect(image), truth)}


def test_scenes_show_all_four_errors(tmp_path, monkeypatch):
    from dclose_nb import images as photos

    monkeypatch.setenv("YOLOX_HOME", str(tmp_path))
    monkeypatch.setattr(photos, "_no_weights", lambda: "No weights.")
    with pytest.warns(
        UserWarning, match=r"No weights\. Until then the planted detector explains drawn scenes"
    ):
        detector, images = dc.load_annotated()
    assert detector.name == "planted" and kinds_of(detector, images) >= {"right", *ERRORS}
    assert all(np.array_equal(one.image, dc.load_photo(name)) for name, one in images.items())


def test_photos_show_all_four_errors(yolox):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector, images = dc.load_annotated()
    assert detector.name == "yolox_nano" and kinds_of(detector, images) >= {"right", *ERRORS}
    for name, (image, truth) in images.items():
        known = truth.detections(detector.class_names)  # sorted by nothing, inside the photo
        height, width = image.shape[:2]
        assert (known.boxes >= 0).all() and (known.boxes[:, [0, 2]] <= width).all(), name
        assert (known.boxes[:, [1, 3]] <= height).all() and len(truth.labels) == len(known), name
