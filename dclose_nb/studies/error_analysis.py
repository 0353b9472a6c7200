"""Section 4.4: what errors a detector makes, and what it looked at in each (Fig. 5 and 6). Notebook 05.

``python -m dclose_nb.studies.error_analysis OUT --coco DIR``
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import checks
from ..checks import InputError
from ..detection import Detections, Detector, Targets, box_iou, match
from ..explanation import explain
from ..fusion import min_max
from ..methods import make
from ..metrics import blurred, ebpg, rank_correlation
from ..planted.scores import filled_box, random_map
from .coco import DataSet, Truth, box_areas, intersections, read_coco, study_photos
from .inference import rounded
from .records import Record, Records
from .runner import study_command, study_parser

FOUND, NEAR = 0.5, 0.1  # IoU: above FOUND a box is in the right place, below NEAR it is far off
ERRORS = ("wrong class", "wrong place", "missed", "not there")  # the paper's four
PAIRED = ("wrong class", "wrong place")  # the errors that have a prediction and a ground truth
KINDS = ("right", *ERRORS, "duplicate", "other", "in a crowd", "unknown class")
SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.2)  # pixels to hide, over the area of the object's box
FILLS = ("black", "blur")  # what hidden pixels become
METHOD = "contrast"  # of the study's maps: with 400 masks its scores are near those of D-CLOSE with 4000
SEEDS = (0, 1)  # of the study's maps: what differs between two seeds of one map is chance
EACH = 3  # cases of an image that are explained, of each kind but `PAIRED`, of which all are


class Case(NamedTuple):
    """A detection and its object, or one of them alone."""

    kind: str  # one of `KINDS`
    prediction: Detections | None  # one row; None for an object without a detection
    truth: Targets | None  # one box; None for a detection without an object
    iou: float  # of the two; for one alone, its largest with any object or detection
    row: int | None  # index of the detection
    number: int | None  # index of the object

    def __str__(self) -> str:
        parts = []
        if self.prediction is not None:
            parts.append(f"{self.prediction.names[0]} {self.prediction.scores[0]:.2f}")
        if self.truth is not None:
            parts.append(f"{'for ' if parts else ''}{self.truth.labels[0]}")
        return f"{self.kind}: {' '.join(parts)} (IoU {self.iou:.2f})"


def cases(found: Detections, truth: Targets, crowds: Targets | None = None) -> list[Case]:
    """Classify each detection and each object as right or as an error.

    The four errors are the paper's, with the limits of Hoiem et al. (2012) and TIDE (Bolya et al.
    2020). Pairs of `detection.match` are "right". Another detection is "in a crowd" if more than half
    of it lies in a crowd of its class. This is no error, since nobody has marked the single objects there
    (COCO's rule). Each detection that is left, best first, takes the object of largest IoU that is still
    free and that makes it

    - "wrong class": another class, IoU above 0.5;
    - "wrong place": the same class, IoU from 0.1 to 0.5.

    Objects that no detection has taken are "missed". Detections that have taken no object are "not there"
    if their IoU with every object is below 0.1. The paper does not count the rest as errors:

    - "duplicate": IoU above 0.5 with an object of its class that another detection has taken;
    - "other": a detection near an object that is taken, or wrong in both class and place;
    - "unknown class": an object that is not taken, of a class that the detector does not have.

    Parameters
    ----------
    found : Detections
    truth : Targets
        Every object in the image.
    crowds : Targets, optional

    Returns
    -------
    list of Case
        The detections in their order, then the objects that are not taken. "duplicate" and "other"
        name the object of largest IoU, which may be in another case too.

    Raises
    ------
    InputError
        There is no ground truth, or boxes and labels do not match.

    Examples
    --------
    >>> truth = Targets([[0, 0, 10, 10]], ["cup"])
    >>> found = Targets([[0, 0, 10, 8], [50, 50, 60, 60]], ["bowl", "bowl"]).detections(["cup", "bowl"])
    >>> for case in cases(found, truth):
    ...     print(case)
    wrong class: bowl 1.00 for cup (IoU 0.80)
    not there: bowl 1.00 (IoU 0.00)
    """
    objects = _as_detections(found, truth)
    overlap = box_iou(torch.tensor(found.boxes), torch.tensor(objects.boxes)).numpy()  # (detections, objects)
    same_class = _same_class(found, objects)
    right = dict(match(found, objects.boxes, objects.names))
    free = np.ones(len(objects), dtype=bool)
    free[list(right.values())] = False
    crowded = _in_crowds(found, crowds)

    def case(kind: str, row: int | None, number: int | None) -> Case:
        rows, numbers = (slice(None) if index is None else index for index in (row, number))
        prediction = None if row is None else found[row]
        target = None if number is None else Targets(objects.boxes[[number]], [objects.names[number]])
        return Case(kind, prediction, target, float(np.max(overlap[rows, numbers], initial=0)), row, number)

    named = []
    for row, (iou, same) in enumerate(zip(overlap, same_class)):
        fits = free & np.where(same, iou >= NEAR, iou > FOUND)
        if row in right:
            named.append(case("right", row, right[row]))
        elif crowded[row]:
            named.append(case("in a crowd", row, None))
        elif fits.any():
            number = int((iou * fits).argmax())
            free[number] = False
            named.append(case("wrong place" if same[number] else "wrong class", row, number))
        elif (iou * same).max(initial=0) > FOUND:
            named.append(case("duplicate", row, int((iou * same).argmax())))
        elif iou.max(initial=0) >= NEAR:
            named.append(case("other", row, int(iou.argmax())))
        else:
            named.append(case("not there", row, None))
    for number in np.flatnonzero(free).tolist():
        known = objects.names[number] in found.class_names
        named.append(case("missed" if known else "unknown class", None, number))
    return named


def _as_detections(found: Detections, truth: Targets) -> Detections:
    """Ground truths as rows, in their order, even if the detector does not have their classes."""
    if not isinstance(truth, Targets):
        raise InputError(
            f"the ground truth must be dc.Targets(boxes, labels), got {truth!r}: an image that nobody has "
            "marked has no right or wrong; one that holds no object has dc.Targets([], [])"
        )
    labels = [label for label in np.array(truth.labels, dtype=object).ravel() if isinstance(label, str)]
    return truth.detections(tuple(dict.fromkeys([*found.class_names, *labels])))


def _same_class(found: Detections, objects: Detections) -> np.ndarray:
    """Whether each detection has the class of each object, (detections, objects) bool."""
    return np.array(found.names, dtype=str)[:, None] == np.array(objects.names, dtype=str)


def _in_crowds(found: Detections, crowds: Targets | None) -> np.ndarray:
    """Whether more than half of each detection lies in one crowd of its class, (n,) bool."""
    regions = _as_detections(found, Targets((), ()) if crowds is None else crowds)
    inside = intersections(found.boxes, regions.boxes) > FOUND * box_areas(found.boxes)[:, None]
    return (inside & _same_class(found, regions)).any(axis=1)


def vectors(case: Case, class_names: Sequence[str]) -> Detections:
    """What to `explain` for a case: the ground truth, then the prediction, or the only one of them.

    The ground truth is the box that should have been found, with its class's probability and the
    objectness 1. The prediction is the detection itself. Both maps are made with the same masks, so they
    share much of their chance. Their difference keeps some, which a second seed shows. An object of a class
    that the detector does not have raises `InputError`.
    """
    truths = [] if case.truth is None else [case.truth]
    return _vectors(truths, [] if case.prediction is None else [case.prediction], class_names)


def _vectors(
    truths: Iterable[Targets], predictions: Iterable[Detections], class_names: Sequence[str]
) -> Detections:
    """Ground truths in their order, then predictions, which must have the best first."""
    rows = [*(truth.detections(class_names) for truth in truths), *predictions]
    return Detections(  # no score is above 1, so that ground truths stay first
        np.concatenate([row.boxes for row in rows]),
        np.concatenate([row.objectness for row in rows]),
        np.concatenate([row.class_probs for row in rows]),
        rows[-1].class_names,
    )


def hide(image: np.ndarray, saliency: np.ndarray, n_pixels: int, *, fill: str = "black") -> np.ndarray:
    """A copy of an image (H, W, 3) without the `n_pixels` highest pixels of a map (H, W).

    They are black, or with the fill "blur" those of the image after the Gaussian blur of `metrics.insertion`.
    """
    checks.choice("fill", fill, FILLS)
    if np.shape(saliency) != image.shape[:2]:
        raise InputError(f"the map must be {image.shape[:2]} like the image, got {np.shape(saliency)}")
    highest = np.argsort(-saliency, axis=None, kind="stable")[: checks.at_least("n_pixels", n_pixels, 0)]
    hidden, blank = image.copy(), np.zeros_like(image)
    if fill == "blur":
        blank = blurred(torch.from_numpy(hidden).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    hidden.reshape(-1, 3)[highest] = blank.reshape(-1, 3)[highest]
    return hidden


def class_scores(detector: Detector, image: np.ndarray, case: Case) -> tuple[float, float]:
    """Scores in [0, 1] of a case's predicted class and of its true class, at the object's place.

    A score is the highest objectness times probability of the proposals, before suppression, whose IoU
    with the ground truth is above 0.5. It is 0 if there is none. `image` is the case's (H, W, 3) uint8
    image, or what is left of it. A case without a prediction or a ground truth raises `InputError`.
    """
    if case.truth is None or case.prediction is None:
        raise InputError(f"a case must have a prediction and a ground truth, got {case}")
    truth = case.truth.detections(detector.class_names)
    (best,) = _scores_at(detector, image, truth.boxes)
    return best[case.prediction.labels[0]], best[truth.labels[0]]


@torch.inference_mode()
def _scores_at(detector: Detector, image: np.ndarray, places: np.ndarray) -> list[list[float]]:
    """The best score of each class at each of m boxes (m, 4), as in `class_scores`, m times C."""
    canvas = detector.prepare(image)
    boxes, objectness, probs = (part[0] for part in detector.predict(canvas.pixels[None]))
    near = box_iou(boxes, canvas.boxes_to_canvas(places)) > FOUND  # (T, m)
    scores = torch.where(near.T[..., None], objectness[:, None] * probs, 0)  # (m, T, C)
    return torch.nn.functional.pad(scores, (0, 0, 0, 1)).amax(1).tolist()  # 0 where no proposal is near


def rivals(case: Case, maps: np.ndarray, again: np.ndarray, *, seed: int = 0) -> dict[str, np.ndarray]:
    """The maps (H, W) whose highest pixels `hidden_scores` hides, by name. The parameters are its own."""
    if case.truth is None or case.prediction is None:
        raise InputError(f"a case must have a prediction and a ground truth, got {case}")
    (truth, prediction), (_, other) = min_max(maps), min_max(again)
    return {
        "difference": prediction - truth,
        "prediction": prediction,
        "chance": prediction - other,
        "random": random_map(truth.shape, seed=seed) * filled_box(truth.shape, case.truth.boxes[0]),
    }


def hidden_scores(
    detector: Detector,
    image: np.ndarray,
    case: Case,
    maps: np.ndarray,
    again: np.ndarray,
    *,
    fill: str = "black",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Hide the pixels that the difference of the two maps points at: does the error go away?

    If the difference (prediction less ground truth) shows the source of the error, hiding its highest
    pixels lowers the predicted class and spares or raises the true one. It must do so better than three
    rivals: the highest pixels of the prediction's own map; of "chance", which is the prediction's map
    less the same map with other masks; and "random" pixels of the object's box.

    Parameters
    ----------
    detector : Detector
    image : (H, W, 3) uint8 array
    case : Case
    maps, again : (2, H, W) arrays
        Maps of the case's `vectors`, made with two seeds.
    fill : {"black", "blur"}
        See `hide`.
    seed : int
        Of the random pixels.

    Returns
    -------
    dict of (shares, 2) arrays
        The `class_scores` for each of `SHARES`, by what was hidden.
    """
    by_map = rivals(case, maps, again, seed=seed)
    assert case.truth is not None  # else there are no rivals
    x1, y1, x2, y2 = case.truth.boxes[0]
    counts = [round(share * (x2 - x1) * (y2 - y1)) for share in SHARES]
    return {
        name: np.array(
            [class_scores(detector, hide(image, saliency, count, fill=fill), case) for count in counts]
        )
        for name, saliency in by_map.items()
    }


def compare(maps: np.ndarray, again: np.ndarray) -> Record:
    """How far the map of a prediction differs from that of its ground truth, and how much of it is chance.

    `maps` and `again` are (2, H, W) maps of a case's `vectors`, made with two seeds. ``difference`` is the
    mean absolute difference of the maps scaled to [0, 1], and ``correlation`` their rank correlation (None
    if a map is empty). Both have three values:

    - "same masks": prediction and ground truth of one seed, which share their masks;
    - "other masks": the prediction of one seed and the ground truth of the other;
    - "another seed": one and the same map with the two seeds, mean of the prediction's and the truth's.

    Where "other masks" is no more than "another seed", the two maps are one, but for chance. ``repeats`` is
    the rank correlation of the difference (prediction less ground truth) of one seed with that of the other.
    """
    (t1, p1), (t2, p2) = min_max(maps), min_max(again)
    pairs = {
        "same masks": [(p1, t1), (p2, t2)],
        "other masks": [(p1, t2), (p2, t1)],
        "another seed": [(p1, p2), (t1, t2)],
    }
    differences = {name: np.mean([np.abs(a - b).mean() for a, b in both]) for name, both in pairs.items()}
    correlations = {name: np.mean([rank_correlation(a, b) for a, b in both]) for name, both in pairs.items()}
    return {
        "difference": {name: rounded(value, 5) for name, value in differences.items()},
        "correlation": {name: rounded(value) for name, value in correlations.items()},
        "repeats": rounded(rank_correlation(p1 - t1, p2 - t2)),
    }


def empty_place(box: np.ndarray, others: Any, shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray | None:
    """A box of the same size at a random place in an image of (H, W, ...), which touches no other, (4,).

    `box` is x1, y1, x2, y2 in pixels, `others` (n, 4). None if no place on a grid of 9 x 9 is free.
    """
    size = box[2:] - box[:2]
    ends = np.maximum(np.array(shape[1::-1]) - size, 0)
    corners = np.stack(np.meshgrid(*(np.linspace(0, end, 9) for end in ends)), axis=-1).reshape(-1, 2)
    places = np.hstack([corners, corners + size])
    taken = box_iou(torch.tensor(places), torch.tensor(np.reshape(others, (-1, 4)), dtype=torch.float64))
    free = places[~(taken > 0).any(1).numpy()]
    return np.random.default_rng(seed).choice(free) if len(free) else None


def study_image(
    detector: Detector,
    image: np.ndarray,
    truth: Truth,
    *,
    confidence: float = 0.25,
    n_masks: int | None = None,
) -> Record:
    """The cases of one image (H, W, 3) as plain numbers.

    Each of ``cases`` has ``kind``, ``truth`` and ``prediction`` (class names or None), ``score`` and
    ``iou``. With `n_masks`, these are explained with so many masks of `METHOD`, with each of `SEEDS`: all
    cases of `PAIRED`, and the first three that are right, missed and not there. They have

    - ``energy``: `ebpg` in the case's box, one number for each seed. Of the pairs and the right, for the
      map of "truth" and of "prediction" three numbers for each seed: in the true box, in the one that was
      drawn, and in both;
    - ``area``: what a map has there that is the same everywhere;
    - what `compare` gives, for the pairs and the right;
    - ``other_class``, for the right: what `compare` gives if the "ground truth" is the detection's own box
      with its second class. Two questions differ there, and nothing is wrong;
    - ``hidden``, for a "wrong class": the mean `hidden_scores` of the two seeds by fill;
    - ``scores``, for an object "missed": the score of its class at its place and at an `empty_place`, and
      ``empty``, the energy of the map that is asked for there. None if there is no such place.

    `confidence` is that of `Detector.detect`.
    """
    found = detector.detect(image, confidence=confidence)
    named = cases(found, Targets(truth.boxes, truth.labels), truth.crowds)
    lines: list[Record] = [
        {
            "kind": case.kind,
            "truth": None if case.truth is None else case.truth.labels[0],
            "prediction": None if case.prediction is None else case.prediction.names[0],
            "score": None if case.prediction is None else round(float(case.prediction.scores[0]), 3),
            "iou": round(case.iou, 3),
        }
        for case in named
    ]
    if n_masks:
        chosen = _chosen(named, detector.class_names)
        places = {k: _elsewhere(case, found, truth, image.shape) for k, case in chosen.items()}
        for k, more in _study_maps(detector, image, chosen, places, n_masks).items():
            lines[k] |= more
    return {"cases": lines}


def _chosen(named: Sequence[Case], class_names: Sequence[str]) -> dict[int, Case]:
    """The cases that are explained, by their number."""
    seen: Counter[str] = Counter()
    chosen = {}
    for k, case in enumerate(named):
        seen[case.kind] += 1
        wanted = case.kind in PAIRED or (case.kind in ("right", *ERRORS) and seen[case.kind] <= EACH)
        if wanted and (case.truth is None or case.truth.labels[0] in class_names):
            chosen[k] = case
    return chosen


def _elsewhere(case: Case, found: Detections, truth: Truth, shape: tuple[int, ...]) -> Targets | None:
    """An object that was missed, at an `empty_place` that touches no box of its class."""
    if case.kind != "missed" or case.truth is None:
        return None
    rows = (found.boxes, found.names), (truth.boxes, truth.labels), (truth.crowds.boxes, truth.crowds.labels)
    same = [box for boxes, names in rows for box, name in zip(boxes, names) if name == case.truth.labels[0]]
    place = empty_place(case.truth.boxes[0], same, shape, seed=case.number or 0)
    return None if place is None else Targets(place[None], case.truth.labels)


def _other_class(case: Case) -> Targets | None:
    """The box of a right detection, with the second of its classes."""
    if case.kind != "right" or case.prediction is None or len(case.prediction.class_names) < 2:
        return None
    return Targets(case.prediction.boxes, [int(np.argsort(case.prediction.class_probs[0])[-2])])


def _study_maps(
    detector: Detector,
    image: np.ndarray,
    chosen: dict[int, Case],
    places: dict[int, Targets | None],
    n_masks: int,
) -> dict[int, Record]:
    """What `study_image` says of the cases' maps, which all come from the same masks."""
    asked = {(k, "truth"): case.truth for k, case in chosen.items()}
    asked |= {(k, "empty"): place for k, place in places.items()}
    asked |= {(k, "other class"): _other_class(case) for k, case in chosen.items()}
    truths = {name: target for name, target in asked.items() if target is not None}
    found = {(k, "prediction"): case.prediction for k, case in chosen.items() if case.prediction is not None}
    names = [*truths, *found]
    if not names:
        return {}
    targets = _vectors(truths.values(), found.values(), detector.class_names)
    boxes = dict(zip(names, targets.boxes))
    best = dict(zip(names, _scores_at(detector, image, targets.boxes)))
    explained = partial(explain, detector, image, targets, method=METHOD, n_masks=n_masks, progress=False)
    runs = [dict(zip(names, explained(seed=seed).saliency, strict=True)) for seed in SEEDS]

    def energy(name: tuple[int, str], where: list[np.ndarray]) -> list[Any]:  # of each seed
        return [[round(ebpg(run[name], box), 4) for box in where] for run in runs]

    def stacked(k: int, *sides: str) -> list[np.ndarray]:  # of each seed
        return [np.stack([run[k, side] for side in sides]) for run in runs]

    lines: dict[int, Record] = {}
    for k, case in chosen.items():
        sides = [side for side in ("truth", "prediction") if (k, side) in boxes]
        where = [boxes[k, side] for side in sides]
        if len(sides) == 2:
            where.append(np.hstack([np.maximum(*where)[:2], np.minimum(*where)[2:]]))
        area = [round(ebpg(np.ones(image.shape[:2]), box), 5) for box in where]
        if len(sides) == 2:
            pairs = stacked(k, *sides)
            lines[k] = {"energy": {side: energy((k, side), where) for side in sides}, "area": area}
            lines[k] |= compare(*pairs)
            if (k, "other class") in boxes:
                lines[k]["other_class"] = compare(*stacked(k, "other class", "prediction"))
            if case.kind == "wrong class":
                lines[k]["hidden"] = {fill: _hidden(detector, image, case, pairs, fill) for fill in FILLS}
        else:
            lines[k] = {"energy": [value for (value,) in energy((k, sides[0]), where)], "area": area[0]}
        if case.kind == "missed":
            lines[k] |= {"scores": None, "empty": None}
        if (k, "empty") in boxes:
            label = detector.class_names.index(str(truths[k, "empty"].labels[0]))
            lines[k]["scores"] = [round(best[k, at][label], 4) for at in ("truth", "empty")]
            lines[k]["empty"] = [value for (value,) in energy((k, "empty"), [boxes[k, "empty"]])]
    return lines


def _hidden(detector: Detector, image: np.ndarray, case: Case, pairs: list[np.ndarray], fill: str) -> Record:
    """Mean `hidden_scores` of the two seeds, as lists."""
    ways = [
        hidden_scores(detector, image, case, *maps, fill=fill, seed=seed)
        for seed, maps in zip(SEEDS, (pairs, pairs[::-1]))
    ]
    return {name: np.mean([way[name] for way in ways], axis=0).round(4).tolist() for name in ways[0]}


def study_errors(
    detector: str | Detector,
    data: DataSet,
    out: str | Path,
    *,
    confidence: float = 0.25,
    n_masks: int | None = None,
    **study_options: Any,
) -> Records:
    """Find the errors of a detector on a data set, or resume a run that was stopped.

    For `confidence` and `n_masks` see `study_image`; for the rest, ``seed``, ``limit``, ``workers``,
    ``executor`` and ``progress``, see `coco.study_photos`. A number out of range raises `InputError`.
    """
    method = None if n_masks is None else asdict(make(METHOD, n_masks=n_masks))
    settings: Record = {
        "confidence": checks.fraction("confidence", confidence),
        "maps": method and {METHOD: method, "seeds": SEEDS, "each": EACH},
    }
    study = partial(study_image, confidence=confidence, n_masks=n_masks)
    return study_photos(detector, data, out, study, settings, **study_options)


def tally(lines: Iterable[Record]) -> dict[str, Counter[str]]:
    """Count the cases of each kind by class: the object's, or the prediction's if there is no object.

    ``sum(tally(lines).values(), Counter())`` counts all classes together.
    """
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        for case in line.get("cases", []):
            counts.setdefault(case["truth"] or case["prediction"], Counter())[case["kind"]] += 1
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = study_parser("error_analysis", "Count a detector's errors on a data set of COCO.")
    parser.add_argument("--coco", metavar="DIR", required=True, help="holds val2017/ and annotations/")
    parser.add_argument("--detector", default="yolox_nano", help="default: %(default)s")
    parser.add_argument("--confidence", type=float, default=0.25, help="default: %(default)s")
    parser.add_argument("--n-masks", type=int, help="explain with this many masks (default: none)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images, in random order")
    parser.add_argument("--skip-missing", action="store_true", help="go on without images that are missing")
    options = vars(parser.parse_args(arguments))
    missing = "skip" if options.pop("skip_missing") else "stop"

    def work() -> str:
        data = read_coco(options.pop("coco"), missing=missing)
        records = study_errors(options.pop("detector"), data, **options)
        total = sum(tally(records.lines).values(), Counter())
        return f"{len(records.lines)} images: " + ", ".join(f"{total[kind]} {kind}" for kind in KINDS)

    return study_command("error_analysis", work)


if __name__ == "__main__":
    sys.exit(main())
