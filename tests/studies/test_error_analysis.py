"""Errors: classified as the definitions say, explained as `explain` does, and counted."""

import json
import warnings
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch
from toys import Lamps, Street

import dclose_nb as dc
from dclose_nb.detection import box_iou, match
from dclose_nb.files import shipped
from dclose_nb.fusion import min_max
from dclose_nb.images import annotated_scenes
from dclose_nb.methods import make
from dclose_nb.planted.dataset import write_coco
from dclose_nb.studies import error_analysis as errors
from dclose_nb.studies.coco import read_coco
from dclose_nb.studies.error_analysis import EACH, ERRORS, FILLS, KINDS, PAIRED, SHARES, cases
from dclose_nb.studies.records import Records

NAMES = ("cup", "bowl", "spoon")
BOX = [0, 0, 10, 10]


def detections(*rows):
    """Detections from (box, class, score)."""
    boxes, labels, scores = zip(*rows) if rows else ((), (), ())
    probs = np.eye(len(NAMES))[[NAMES.index(label) for label in labels]]
    return dc.Detections(np.reshape(boxes, (-1, 4)), scores, probs.reshape(-1, len(NAMES)), NAMES)


def named(found, truth, crowds=None):
    return [(case.kind, case.row, case.number) for case in cases(found, truth, crowds)]


# -- the cases


@pytest.mark.parametrize(
    ("box", "label", "kinds", "iou"),
    [
        ([0, 0, 10, 8], "cup", ["right"], 0.8),
        ([0, 0, 10, 8], "bowl", ["wrong class"], 0.8),
        ([0, 0, 10, 5], "cup", ["wrong place"], 0.5),  # IoU not above 0.5, so not found
        ([0, 0, 10, 1], "cup", ["wrong place"], 0.1),
        ([0, 0, 9, 1], "cup", ["not there", "missed"], 0.09),
        ([0, 0, 10, 5], "bowl", ["other", "missed"], 0.5),
        ([0, 0, 10, 1], "bowl", ["other", "missed"], 0.1),
        ([0, 0, 9, 1], "bowl", ["not there", "missed"], 0.09),
        ([20, 0, 30, 10], "cup", ["not there", "missed"], 0),
    ],
)
def test_one_detection_and_one_cup(box, label, kinds, iou):
    found = cases(detections((box, label, 0.9)), dc.Targets([BOX], ["cup"]))
    assert [case.kind for case in found] == kinds
    assert all(case.iou == pytest.approx(iou) for case in found)
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


def test_a_detection_in_a_crowd_is_no_error():
    crowd = dc.Targets([[0, 0, 10, 10], [50, 0, 60, 10]], ["cup", "spoon"])
    found = detections(
        ([0, 0, 4, 4], "cup", 0.9),
        ([4, 4, 8, 8], "bowl", 0.8),  # of another class
        ([8, 0, 12, 4], "cup", 0.7),  # half of it, and no more
        ([7, 5, 11, 9], "cup", 0.6),  # three quarters
        ([50, 0, 60, 10], "spoon", 0.5),  # right, though it lies in a crowd
        ([50, 0, 60, 5], "spoon", 0.4),  # without the crowd it would be a duplicate
    )
    truth = dc.Targets([[50, 0, 60, 9]], ["spoon"])
    kinds = [case.kind for case in cases(found, truth, crowd)]
    assert kinds == ["in a crowd", "not there", "not there", "in a crowd", "right", "in a crowd"]
    assert [case.kind for case in cases(found, truth)] == ["not there"] * 4 + ["right", "duplicate"]


def test_a_class_that_the_detector_does_not_have():
    truth = dc.Targets([BOX, [20, 0, 30, 10]], ["saucer", "saucer"])
    found = cases(detections((BOX, "bowl", 0.9)), truth)
    assert [(case.kind, case.number) for case in found] == [("wrong class", 0), ("unknown class", 1)]
    assert str(found[0]) == "wrong class: bowl 0.90 for saucer (IoU 1.00)"


def test_nothing_found_and_nothing_to_find():
    nothing = dc.Targets([], [])
    assert named(detections(), nothing) == []
    assert named(detections((BOX, "cup", 0.9)), nothing) == [("not there", 0, None)]
    assert named(detections(), dc.Targets([BOX], [1])) == [("missed", None, 0)]  # a class by its index
    for truth, word in (
        (None, "nobody has marked"),
        (dc.Targets([BOX], []), "1 boxes, 0 labels"),
        (dc.Targets([BOX], None), "labels must be a list"),
    ):
        with pytest.raises(dc.InputError, match=word):
            cases(detections(), truth)


def plain_iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def plain_kinds(found, truth):
    """The rules in the docstring of `cases`, as a plain loop."""
    taken = {number for _, number in match(found, truth.boxes, truth.labels)}
    right = {row for row, _ in match(found, truth.boxes, truth.labels)}
    kinds = []
    for row, (box, name) in enumerate(zip(found.boxes.tolist(), found.names)):
        if row in right:
            kinds.append("right")
            continue
        ious = [plain_iou(box, true_box) for true_box in truth.boxes.tolist()]
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


def test_random_boxes_are_classified_as_by_a_plain_loop():
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
        assert [case.kind for case in result] == plain_kinds(found, truth)
        assert [case.row for case in result if case.row is not None] == list(range(n))
        owned = [
            case.number
            for case in result
            if case.number is not None and case.kind not in ("duplicate", "other")
        ]
        assert sorted(owned) == list(range(m))
        seen.update(case.kind for case in result)
    assert min(seen[kind] for kind in ("right", *ERRORS, "duplicate", "other")) > 10


# -- what the detector looked at


@pytest.fixture
def wrong(lamps, lit):
    """The left lamp is found, but the right one is the truth."""
    left = lamps.detect(lit)
    left = left[left.names.index("a")]
    return errors.Case("wrong place", left, dc.Targets([[10, 2, 18, 8]], ["b"]), 0.0, 0, 0)


def explained(detector, image, case, **options):
    targets = errors.vectors(case, detector.class_names)
    return dc.explain(detector, image, targets, progress=False, **options)


def test_both_vectors_share_the_same_passes(lamps, lit, wrong):
    options = {"n_masks": 60, "segments": (4, 16), "seed": 3}
    lamps.seen.clear()
    both = explained(lamps, lit, wrong, **options)
    assert sum(map(len, lamps.seen)) == 60 == both.n_forward
    for saliency, target in zip(both.saliency, (wrong.truth, wrong.prediction), strict=True):
        alone = dc.explain(lamps, lit, target, progress=False, **options).saliency[0]
        assert np.allclose(min_max(saliency), min_max(alone), atol=1e-5)


def test_the_difference_points_from_one_lamp_to_the_other(lamps, lit, wrong):
    truth, prediction = min_max(explained(lamps, lit, wrong, n_masks=400, segments=(16,), r=0).saliency)
    difference = prediction - truth
    assert difference[1:9, 1:7].mean() > 0.3 and difference[2:8, 10:18].mean() < -0.3


def test_a_case_with_one_side_has_one_vector(lamps, lit, wrong):
    for gone, label in (("truth", "a"), ("prediction", "b")):
        alone = wrong._replace(**{gone: None})
        assert errors.vectors(alone, lamps.class_names).names == [label]
        explanation = explained(lamps, lit, alone, method="drise", n_masks=20)
        assert len(explanation) == 1 and explanation.method == "drise"
        with pytest.raises(dc.InputError, match="must have a prediction and a ground truth, got wrong place"):
            errors.hidden_scores(lamps, lit, alone, explanation.saliency, explanation.saliency)


def test_the_truth_stays_before_a_sure_prediction(lamps, lit, wrong):
    sure = dc.Targets([[1, 1, 7, 9]], ["a"]).detections(lamps.class_names)
    explanation = explained(lamps, lit, wrong._replace(prediction=sure), n_masks=20)
    assert explanation.detections.names == ["b", "a"]


def test_what_cannot_be_explained_is_refused(lamps, lit, wrong):
    with pytest.raises(dc.InputError, match="this detector has no class 'saucer'; it has: a, b"):
        explained(lamps, lit, wrong._replace(truth=dc.Targets([BOX], ["saucer"])))
    with pytest.raises(dc.InputError, match="no option 'magic'"):
        explained(lamps, lit, wrong, magic=1)
    foreign = detections((BOX, "cup", 0.9))
    with pytest.raises(dc.InputError, match="other classes than the detector"):
        explained(lamps, lit, wrong._replace(prediction=foreign, truth=None))


# -- hiding


def test_the_highest_pixels_are_hidden(lit):
    saliency = np.arange(240.0).reshape(12, 20)
    assert np.array_equal(errors.hide(lit, saliency, 0), lit)
    hidden = errors.hide(lit, saliency, 7)
    assert (hidden[-1, -7:] == 0).all() and np.array_equal(hidden[-1, :-7], lit[-1, :-7])
    assert np.array_equal(hidden[:-1], lit[:-1])
    for arguments, word in (((saliency.T, 3), "the map must be"), ((saliency, -1), "n_pixels")):
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
    with pytest.raises(dc.InputError, match="must have a prediction and a ground truth, got missed: b"):
        errors.class_scores(lamps, lit, case._replace(kind="missed", prediction=None))
    lamps.predict = lambda pixels: dc.Proposals(*(torch.zeros(1, 0, *row) for row in ((4,), (), (2,))))
    assert errors.class_scores(lamps, lit, case) == (0, 0)  # a network may propose nothing


def test_hidden_pixels_can_be_blurred(lit):
    saliency = np.zeros(lit.shape[:2])
    saliency[3:6, 4:9] = 1
    blurred = errors.hide(lit, saliency, lit[..., 0].size, fill="blur")
    hidden = errors.hide(lit, saliency, 15, fill="blur")
    assert np.array_equal(hidden[3:6, 4:9], blurred[3:6, 4:9]) and not np.array_equal(hidden, lit)
    assert blurred.std() < lit.std() and abs(float(blurred.mean()) - lit.mean()) < 0.1 * lit.mean()
    hidden[3:6, 4:9] = lit[3:6, 4:9]
    assert np.array_equal(hidden, lit)
    with pytest.raises(dc.InputError, match="fill"):
        errors.hide(lit, saliency, 15, fill="white")


@pytest.mark.parametrize("fill", FILLS)
def test_hiding_follows_each_map(lamps, lit, fill):
    left = lamps.detect(lit)
    left = left[left.names.index("a")]
    case = errors.Case("wrong class", left, dc.Targets([[1, 1, 7, 9]], ["b"]), 1.0, 0, 0)
    first, second = (explained(lamps, lit, case, n_masks=40, seed=seed).saliency for seed in (0, 1))
    scores = errors.hidden_scores(lamps, lit, case, first, second, fill=fill, seed=3)
    counts = [round(share * 48) for share in SHARES]
    if fill == "black":  # a random part lies inside the box, so that the lamp is as much darker
        brightness = np.array([(48 - n) / 48 * 250 / 255 for n in counts])
        assert np.allclose(scores["random"], brightness[:, None] * [0.9, 0.1])
    (truth, prediction), (_, other) = min_max(first), min_max(second)
    by_map = {"difference": prediction - truth, "prediction": prediction, "chance": prediction - other}
    assert scores.keys() == {*by_map, "random"}
    for name, saliency in by_map.items():
        hidden = [errors.hide(lit, saliency, n, fill=fill) for n in counts]
        assert np.allclose(scores[name], [errors.class_scores(lamps, image, case) for image in hidden])


# -- what is chance


def test_a_difference_is_compared_with_another_seed():
    rng = np.random.default_rng(0)
    shape = np.add.outer(np.arange(30.0), np.arange(40.0)) / 70
    noise = 0.1 * rng.random((3, 30, 40))
    one = errors.compare(np.stack([shape + noise[0]] * 2), np.stack([shape + noise[1]] * 2))
    assert one["difference"]["same masks"] == 0 and one["correlation"]["same masks"] == 1
    for score in ("difference", "correlation"):
        assert one[score]["other masks"] == pytest.approx(one[score]["another seed"], abs=1e-4)
    assert one["repeats"] is None  # there is no difference
    first, second = (np.stack([shape[::-1], shape]) + noise[k] for k in (0, 1))
    two = errors.compare(first, second)
    assert two["difference"]["other masks"] > 4 * two["difference"]["another seed"] > 0.01
    assert two["correlation"]["other masks"] < 0.3 < 0.9 < two["correlation"]["another seed"]
    assert two["repeats"] > 0.9
    chance = errors.compare(np.stack([noise[0], noise[1]]), np.stack([noise[2], noise[2].T.reshape(30, 40)]))
    assert abs(chance["repeats"]) < 0.1


def test_an_empty_place_touches_nothing():
    box = np.array([10.0, 20, 40, 60])
    others = [[10, 20, 40, 60], [50, 0, 60, 100]]
    places = [errors.empty_place(box, others, (100, 200), seed=seed) for seed in range(20)]
    assert len({place.tobytes() for place in places}) > 5
    for place in places:
        assert np.allclose(place[2:] - place[:2], [30, 40])
        assert (place[:2] >= 0).all() and place[2] <= 200 and place[3] <= 100
        assert not any(overlaps(place, other) for other in others)
    assert errors.empty_place(box, [[0, 0, 200, 100]], (100, 200)) is None


def overlaps(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


# -- a data set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five planted scenes: one object is made a crowd, one image has no objects, one is damaged."""
    folder = tmp_path_factory.mktemp("coco")
    path = write_coco(folder, range(5), progress=False)
    content = json.loads(path.read_text())
    content["annotations"] = [mark for mark in content["annotations"] if mark["image_id"] != 2]
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    (folder / "val2017" / f"{4:012d}.png").write_bytes(b"no picture")
    return folder


def test_crowds_are_not_objects(folder):
    first, second, *_ = read_coco(folder).truths
    drawn = dc.planted.scene(0)
    assert np.allclose(first.crowds.boxes, drawn.boxes[:1]) and first.crowds.labels == drawn.names[:1]
    assert np.allclose(first.boxes, drawn.boxes[1:]) and first.labels == drawn.names[1:]
    assert len(second.crowds.boxes) == 0


@pytest.fixture(scope="module")
def street(folder):
    return Street(read_coco(folder))


def test_a_tally_counts_every_detection_and_every_object(folder, street, tmp_path):
    data = read_coco(folder)
    records = errors.study_errors(street, data, tmp_path, progress=False)
    found = errors.tally(records.lines)
    total = sum(found.values(), Counter())
    assert set(total) <= set(KINDS)
    truths = {truth.image: truth for truth in data.truths}
    by_hand = Counter()
    for image in range(4):
        truth, detected = truths[image], street.detect(dc.load_photo(truths[image].path))
        by_hand.update(
            case.kind for case in cases(detected, dc.Targets(truth.boxes, truth.labels), truth.crowds)
        )
    assert total == by_hand and total["right"] > 3 and total["not there"] > 3
    bad = next(line for line in records.lines if line["image"] == 4)
    assert "cases" not in bad and "not an image that can be read" in bad["error"]
    empty = next(line for line in records.lines if line["image"] == 2)
    assert {case["kind"] for case in empty["cases"]} == {"not there"}
    objects = [
        case["truth"] for line in records.lines for case in line.get("cases", []) if case["kind"] == "right"
    ]
    assert {name: counts["right"] for name, counts in found.items() if counts["right"]} == Counter(objects)


def test_a_stopped_run_resumes(folder, street, tmp_path):
    data = read_coco(folder)
    unbroken = errors.study_errors(street, data, tmp_path / "whole", progress=False)
    text = unbroken.path.read_text().splitlines(keepends=True)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "records.jsonl").write_text("".join(text[:3]))
    assert errors.study_errors(street, data, tmp_path / "part", progress=False).lines == unbroken.lines
    with pytest.raises(dc.InputError, match=r"confidence 0\.25, not 0\.5"):
        errors.study_errors(street, data, tmp_path / "part", confidence=0.5, progress=False)
    for options in ({"confidence": 2}, {"n_masks": 0}, {"limit": 0}, {"workers": 0}):
        with pytest.raises(dc.InputError, match=next(iter(options))):
            errors.study_errors(street, data, tmp_path / "none", progress=False, **options)
    assert not (tmp_path / "none").exists()


def energies(saliency, boxes):
    return [pytest.approx(dc.metrics.ebpg(saliency, box), abs=1e-4) for box in boxes]


@pytest.mark.slow
def test_errors_are_explained_with_n_masks_and_two_seeds(folder, street):
    truth = read_coco(folder).truths[3]
    truth = truth._replace(boxes=truth.boxes[:3], labels=truth.labels[:3])
    image = truth.photo()
    found = street.detect(image)
    first = match(found, truth.boxes, truth.labels)[0]
    names = [street.class_names[street.class_names.index(label) - 1] for label in truth.labels]
    names[first[1]] = truth.labels[first[1]]  # one is right, and all others are not
    swapped = truth._replace(labels=[*names, names[0]], boxes=np.vstack([truth.boxes, [[2, 2, 30, 20]]]))
    lines = errors.study_image(street, image, swapped, n_masks=40)["cases"]
    kinds = Counter(line["kind"] for line in lines if "energy" in line)
    assert kinds["right"] == 1 and kinds["wrong class"] == len(names) - 1 and kinds["missed"] == 1
    assert 0 < kinds["not there"] <= EACH
    for line, case in zip(lines, cases(found, dc.Targets(swapped.boxes, swapped.labels)), strict=True):
        assert ("hidden" in line) == (line["kind"] == "wrong class")
        assert ("other_class" in line) == (line["kind"] == "right")
        if "energy" not in line:
            continue
        runs = [explained(street, image, case, method="contrast", n_masks=40, seed=seed) for seed in (0, 1)]
        boxes = [side.boxes[0] for side in (case.truth, case.prediction) if side is not None]
        if len(boxes) == 1:
            assert line["energy"] == [energies(run.saliency[0], boxes)[0] for run in runs]
            assert line["area"] == pytest.approx(
                dc.metrics.ebpg(np.ones(image.shape[:2]), boxes[0]), abs=1e-5
            )
        else:
            boxes.append([*np.maximum(*boxes)[:2], *np.minimum(*boxes)[2:]])
            for k, side in enumerate(("truth", "prediction")):
                assert line["energy"][side] == [energies(run.saliency[k], boxes) for run in runs]
            expected = errors.compare(*(run.saliency for run in runs))
            for score in ("difference", "correlation"):
                assert line[score] == pytest.approx(expected[score], abs=1e-3)
        if "hidden" in line:
            seen = errors.hidden_scores(street, image, case, *(run.saliency for run in runs), seed=0)
            again = errors.hidden_scores(street, image, case, *(run.saliency for run in runs[::-1]), seed=1)
            assert np.allclose(
                line["hidden"]["black"]["random"], (seen["random"] + again["random"]) / 2, atol=1e-4
            )
        if line["kind"] == "right":
            second = int(np.argsort(case.prediction.class_probs[0])[-2])
            asked = case._replace(truth=dc.Targets(case.prediction.boxes, [second]))
            runs = [
                explained(street, image, asked, method="contrast", n_masks=40, seed=seed) for seed in (0, 1)
            ]
            expected = errors.compare(*(run.saliency for run in runs))
            for score in ("difference", "correlation"):
                assert line["other_class"][score] == pytest.approx(expected[score], abs=1e-3)
        if line["kind"] == "missed":
            label = case.truth.labels[0]
            same = [
                box
                for boxes, names in ((found.boxes, found.names), (swapped.boxes, swapped.labels))
                for box, name in zip(boxes, names)
                if name == label
            ]
            place = errors.empty_place(case.truth.boxes[0], same, image.shape, seed=case.number)
            touched = box_iou(torch.tensor(place[None]), torch.tensor(np.array(same)))
            assert len(same) > 1 and not touched.any()
            there = dc.Targets([place], [label])
            for score, box in zip(line["scores"], (case.truth, there), strict=True):
                of_class = case._replace(prediction=box.detections(street.class_names), truth=box)
                known = errors.class_scores(street, image, of_class)
                assert known == pytest.approx([score, score], abs=1e-4)
            maps = [
                dc.explain(
                    street, image, there, method="contrast", n_masks=40, seed=seed, progress=False
                ).saliency
                for seed in (0, 1)
            ]
            assert line["empty"] == [energies(saliency, [place])[0] for (saliency,) in maps]
    plain = errors.study_image(street, image, swapped)["cases"]
    assert [line.keys() for line in plain] == [{"kind", "truth", "prediction", "score", "iou"}] * len(plain)


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = [str(out), "--detector", "planted", "--coco"]
    assert errors.main([*command, str(folder)]) == 0
    total = sum(errors.tally(Records(out / "records.jsonl").lines).values(), Counter())
    assert f"5 images: {total['right']} right, {total['wrong class']} wrong class" in capsys.readouterr().out
    assert errors.main([*command, str(tmp_path)]) == 2 and "cannot be read" in capsys.readouterr().err
    assert errors.main([*command, str(folder), "--confidence", "2"]) == 2
    assert "error_analysis: confidence must be a number in [0, 1], got 2.0" in capsys.readouterr().err
    (folder / "val2017" / f"{0:012d}.png").rename(tmp_path / "moved.png")
    try:
        assert errors.main([*command, str(folder)]) == 2 and "are missing" in capsys.readouterr().err
        assert errors.main([str(tmp_path / "rest"), *command[1:], str(folder), "--skip-missing"]) == 0
        assert capsys.readouterr().out.startswith("4 images: ")
    finally:
        (tmp_path / "moved.png").rename(folder / "val2017" / f"{0:012d}.png")


NUMBERS = {"kind", "truth", "prediction", "score", "iou"}
PAIR = {"energy", "area", "difference", "correlation", "repeats"}
EXPLAINED = {
    "right": PAIR | {"other_class"},
    "wrong place": PAIR,
    "wrong class": PAIR | {"hidden"},
    "missed": {"energy", "area", "scores", "empty"},
    "not there": {"energy", "area"},
}


@pytest.mark.parametrize(("name", "n_images"), [("errors_coco", 79), ("errors_coco_authors", 7)])
def test_records_that_ship_are_those_of_this_study(name, n_images):
    records = Records(shipped(f"results/{name}.jsonl"))
    assert len({line["image"] for line in records.lines}) == len(records.lines) == n_images
    assert records.settings["confidence"] == 0.25
    maps = {"contrast": asdict(make("contrast")), "seeds": errors.SEEDS, "each": EACH}
    assert records.settings["maps"] == json.loads(json.dumps(maps))
    total = sum(errors.tally(records.lines).values(), Counter())
    assert set(total) <= set(KINDS) and total.total() == sum(len(line["cases"]) for line in records.lines)
    for line in records.lines:
        seen = Counter()
        for case in line["cases"]:
            seen[case["kind"]] += 1
            explained = case["kind"] in EXPLAINED and (case["kind"] in PAIRED or seen[case["kind"]] <= EACH)
            assert case.keys() == NUMBERS | (EXPLAINED[case["kind"]] if explained else set())
            for by_map in case.get("hidden", {}).values():
                assert all(np.shape(scores) == (len(SHARES), 2) for scores in by_map.values())


# -- images with ground truth


def kinds_of(detector, images):
    return {case.kind for image, truth in images.values() for case in cases(detector.detect(image), truth)}


def test_scenes_show_all_four_errors():
    images = annotated_scenes()
    assert kinds_of(dc.load_detector("planted"), images) >= {"right", *ERRORS}
    assert all(np.array_equal(scene.image, dc.load_photo(name)) for name, scene in images.items())


def test_photos_show_all_four_errors(real):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector, images = dc.load_annotated()
    assert detector.name == real.name and kinds_of(detector, images) >= {"right", *ERRORS}
    for name, (image, truth) in images.items():
        known = truth.detections(detector.class_names)  # in no order, inside the photo
        height, width = image.shape[:2]
        assert (known.boxes >= 0).all() and (known.boxes[:, [0, 2]] <= width).all(), name
        assert (known.boxes[:, [1, 3]] <= height).all() and len(truth.labels) == len(known), name
