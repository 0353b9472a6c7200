"""Section 4.4: what errors a detector makes, and what it looked at in each (Fig. 5 and 6). Notebook 05.

``python -m dclose_nb.studies.error_analysis OUT --coco DIR``
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask

from .. import checks
from ..checks import InputError
from ..detection import Detections, Detector, Targets, box_iou, match
from ..explanation import Explanation, explain
from ..fusion import min_max
from ..methods import make
from ..metrics import rank_correlation
from ..planted.scores import filled_box, random_map
from .coco import DataSet, Truth, read_coco, study_photos
from .inference import rounded
from .records import Record, Records
from .runner import study_command, study_parser

FOUND, NEAR = 0.5, 0.1  # IoU: above FOUND a box is in the right place, below NEAR it is far off
ERRORS = ("wrong class", "wrong place", "missed", "not there")  # the paper's four
PAIRED = ("wrong class", "wrong place")  # the errors that have a prediction and a ground truth
KINDS = ("right", *ERRORS, "duplicate", "other", "in a crowd", "unknown class")
SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.2)  # pixels to hide, over the area of the object's box


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
    labels = [label for label in truth.labels if isinstance(label, str)]
    return truth.detections(tuple(dict.fromkeys([*found.class_names, *labels])))


def _same_class(found: Detections, objects: Detections) -> np.ndarray:
    """Whether each detection has the class of each object, (detections, objects) bool."""
    return np.array(found.names, dtype=str)[:, None] == np.array(objects.names, dtype=str)


def _in_crowds(found: Detections, crowds: Targets | None) -> np.ndarray:
    """Whether more than half of each detection lies in one crowd of its class, (n,) bool."""
    if crowds is None or not len(crowds.boxes) or not len(found):
        return np.zeros(len(found), dtype=bool)
    regions = _as_detections(found, crowds)
    corners = [rows.boxes.astype(np.float64) for rows in (found, regions)]
    boxes = [np.hstack([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]]) for xyxy in corners]  # x, y, width, height
    shares = coco_mask.iou(*boxes, [1] * len(regions))  # IoU with a crowd is over the detection's own area
    return ((shares > FOUND) & _same_class(found, regions)).any(axis=1)


def vectors(case: Case, class_names: Sequence[str]) -> Detections:
    """What to `explain` for a case: the ground truth, then the prediction, or the only one of them.

    The ground truth is the box that should have been found, with its class's probability and the
    objectness 1. The prediction is the detection itself. Both maps are made with the same masks, so that
    their difference does not come from chance. An object of a class that the detector does not
    have raises `InputError`.
    """
    rows = [] if case.truth is None else [case.truth.detections(class_names)]
    rows += [] if case.prediction is None else [case.prediction]
    return Detections(  # no score is above 1, so that the ground truth stays first
        np.concatenate([row.boxes for row in rows]),
        np.concatenate([row.objectness for row in rows]),
        np.concatenate([row.class_probs for row in rows]),
        rows[-1].class_names,
    )


def hide(image: np.ndarray, saliency: np.ndarray, n_pixels: int) -> np.ndarray:
    """A copy of an image (H, W, 3) whose `n_pixels` highest pixels in a map (H, W) are black."""
    if np.shape(saliency) != image.shape[:2]:
        raise InputError(f"the map must be {image.shape[:2]} like the image, got {np.shape(saliency)}")
    order = np.argsort(-saliency, axis=None, kind="stable")
    hidden = image.copy()
    hidden.reshape(-1, 3)[order[: checks.at_least("n_pixels", n_pixels, 0)]] = 0
    return hidden


@torch.inference_mode()
def class_scores(detector: Detector, image: np.ndarray, case: Case) -> tuple[float, float]:
    """Scores in [0, 1] of a case's predicted class and of its true class, at the object's place.

    A score is the highest objectness times probability of the proposals, before suppression, whose IoU
    with the ground truth is above 0.5. It is 0 if there is none. `image` is the case's (H, W, 3) uint8
    image, or what is left of it. A case without a prediction or a ground truth raises `InputError`.
    """
    if case.truth is None or case.prediction is None:
        raise InputError(f"a case must have a prediction and a ground truth, got {case}")
    truth = case.truth.detections(detector.class_names)
    canvas = detector.prepare(image)
    boxes, objectness, probs = (part[0] for part in detector.predict(canvas.pixels[None]))
    near = box_iou(boxes, canvas.boxes_to_canvas(truth.boxes))[:, 0] > FOUND
    scores = torch.nn.functional.pad((objectness[:, None] * probs)[near], (0, 0, 0, 1))  # a row of zeros
    best = scores.amax(0)
    return float(best[case.prediction.labels[0]]), float(best[truth.labels[0]])


def hidden_scores(detector: Detector, case: Case, explanation: Explanation) -> dict[str, np.ndarray]:
    """Hide the pixels that the difference of the two maps points at: does the error go away?

    If the difference (prediction less ground truth) shows the source of the error, hiding its highest
    pixels lowers the predicted class and spares or raises the true one. It must do so better than hiding
    the highest pixels of the prediction's own map, or random pixels of the object's box.

    `explanation` explains the case's `vectors`. Returns the `class_scores` for each of `SHARES`,
    (shares, 2), by what was hidden: "difference", "prediction" and "random".
    """
    if case.truth is None or case.prediction is None:
        raise InputError(f"a case must have a prediction and a ground truth, got {case}")
    truth, prediction = min_max(explanation.saliency)
    x1, y1, x2, y2 = case.truth.boxes[0]
    chance = random_map(truth.shape) * filled_box(truth.shape, np.array([x1, y1, x2, y2]))
    maps = {"difference": prediction - truth, "prediction": prediction, "random": chance}
    counts = [round(share * (x2 - x1) * (y2 - y1)) for share in SHARES]
    return {
        name: np.array(
            [class_scores(detector, hide(explanation.image, saliency, count), case) for count in counts]
        )
        for name, saliency in maps.items()
    }


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
    ``iou``. With `n_masks`, each of `PAIRED` and, as a control, the best "right" are explained with so
    many masks. They have ``correlation``, the rank correlation of the two maps (None if one is empty),
    and ``difference``, the mean absolute difference of the maps scaled to [0, 1]. A "wrong class" also
    has its `hidden_scores` as ``hidden``. `confidence` is that of `Detector.detect`.
    """
    found = detector.detect(image, confidence=confidence)
    named = cases(found, Targets(truth.boxes, truth.labels), truth.crowds)
    control = next((case for case in named if case.kind == "right"), None)
    lines = []
    for case in named:
        line: Record = {
            "kind": case.kind,
            "truth": None if case.truth is None else case.truth.labels[0],
            "prediction": None if case.prediction is None else case.prediction.names[0],
            "score": None if case.prediction is None else round(float(case.prediction.scores[0]), 3),
            "iou": round(case.iou, 3),
        }
        wanted = case is control or case.kind in PAIRED
        if n_masks and wanted and line["truth"] in detector.class_names:
            line |= _study_maps(detector, image, case, n_masks)
        lines.append(line)
    return {"cases": lines}


def _study_maps(detector: Detector, image: np.ndarray, case: Case, n_masks: int) -> Record:
    """The scores of `study_image` that need the two maps of a case."""
    targets = vectors(case, detector.class_names)
    explanation = explain(detector, image, targets, n_masks=n_masks, progress=False)
    truth, prediction = min_max(explanation.saliency)
    line: Record = {
        "correlation": rounded(rank_correlation(truth, prediction)),
        "difference": round(float(np.abs(prediction - truth).mean()), 5),
    }
    if case.kind == "wrong class":
        scores = hidden_scores(detector, case, explanation)
        line["hidden"] = {name: pairs.round(4).tolist() for name, pairs in scores.items()}
    return line


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
    settings: Record = {
        "confidence": checks.fraction("confidence", confidence),
        "n_masks": None if n_masks is None else make("dclose", n_masks=n_masks).n_masks,
    }
    return study_photos(detector, data, out, partial(study_image, **settings), settings, **study_options)


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
    parser.add_argument("--n-masks", type=int, help="explain errors with this many masks (default: none)")
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
