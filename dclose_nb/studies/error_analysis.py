"""Section 4.4: where a detector errs, and what it looked at when it did (Fig. 5, Fig. 6)."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from tqdm.auto import tqdm

from .. import checks
from ..checks import InputError
from ..detection import Detections, Detector, Targets, box_iou, match
from ..detectors import load_detector
from ..explanation import Explanation, explain, parameters
from ..fusion import min_max
from ..images import load_photo
from ..metrics import rank_correlation
from ..planted.scores import filled_box, random_map
from .coco import Truth, command, read_coco
from .records import Record, Records

FOUND, NEAR = 0.5, 0.1  # IoU above which a box is in the right place, and below which it is nowhere near
ERRORS = ("wrong class", "wrong place", "missed", "not there")  # the paper's four
PAIRED = ("wrong class", "wrong place")  # those with two vectors to compare
KINDS = ("right", *ERRORS, "duplicate", "other", "in a crowd", "unknown class")
SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.2)  # of the area of an object's box


class Case(NamedTuple):
    """A detection and the object it stands for, or one of them alone."""

    kind: str  # one of `KINDS`
    prediction: Detections | None  # one row; None for an object without a detection
    truth: Targets | None  # one box; None for a detection without an object
    iou: float  # of the two; of one alone, with what it overlaps most
    row: int | None  # which detection
    number: int | None  # which ground truth

    def __str__(self) -> str:
        parts = []
        if self.prediction is not None:
            parts.append(f"{self.prediction.names[0]} {self.prediction.scores[0]:.2f}")
        if self.truth is not None:
            parts.append(f"{'for ' if parts else ''}{self.truth.labels[0]}")
        return f"{self.kind}: {' '.join(parts)} (IoU {self.iou:.2f})"


def cases(found: Detections, truth: Targets, crowds: Targets | None = None) -> list[Case]:
    """Say of each detection and each ground truth what became of it.

    The four errors are the paper's, delimited as by Hoiem et al. (2012) and TIDE (Bolya et al.
    2020). What `detection.match` pairs is "right". A detection that is not, but lies by more than
    half in a crowd of its class, where nobody has marked single objects, is no error: it is "in a
    crowd" (COCO's rule). Of the rest each detection in turn, best first, takes the object that it
    overlaps most of those that nothing has taken and that make it

    - "wrong class": another class, IoU above 0.5;
    - "wrong place": the same class, IoU from 0.1 to 0.5.

    An object that is left is "missed". A detection that is left is "not there" where its IoU with
    every object is below 0.1. What remains is no error of the paper's, and is named apart:

    - "duplicate": IoU above 0.5 with an object of its class that another detection has taken;
    - "other": near an object, but wrong in class and in place, or the object is taken;
    - "unknown class": an object that is left and whose class the detector does not have.

    Parameters
    ----------
    found : Detections
    truth : Targets
        Every object in the image.
    crowds : Targets, optional

    Returns
    -------
    list of Case
        Of the detections in their order, then of the objects that are left. Each detection is in
        one case, and so is each object, except that "duplicate" and "other" name what they overlap most.

    Raises
    ------
    InputError
        No ground truth, or boxes and labels that do not fit.

    Examples
    --------
    >>> truth = Targets([[0, 0, 10, 10]], ["cup"])
    >>> found = Targets([[0, 0, 10, 8], [50, 50, 60, 60]], ["bowl", "bowl"]).detections(["cup", "bowl"])
    >>> for case in cases(found, truth):
    ...     print(case)
    wrong class: bowl 1.00 for cup (IoU 0.80)
    not there: bowl 1.00 (IoU 0.00)
    """
    objects = _known(found, truth)
    overlap = _iou(found, objects)  # (detections, objects)
    same = np.array(found.names, dtype=str)[:, None] == np.array(objects.names, dtype=str)
    right = dict(match(found, objects.boxes, objects.names))
    free = np.ones(len(objects), dtype=bool)
    free[list(right.values())] = False
    crowded = _in_crowds(found, crowds)

    def case(kind: str, row: int | None, number: int | None) -> Case:
        of_row = slice(None) if row is None else row
        iou = np.max(overlap[of_row, slice(None) if number is None else number], initial=0)
        target = None if number is None else Targets(objects.boxes[[number]], [objects.names[number]])
        return Case(kind, None if row is None else found[row], target, float(iou), row, number)

    named = []
    for row, (near, like) in enumerate(zip(overlap, same)):
        fits = free & np.where(like, near >= NEAR, near > FOUND)
        if row in right:
            named.append(case("right", row, right[row]))
        elif crowded[row]:
            named.append(case("in a crowd", row, None))
        elif fits.any():
            number = int((near * fits).argmax())
            free[number] = False
            named.append(case("wrong place" if like[number] else "wrong class", row, number))
        elif (near * like).max(initial=0) > FOUND:
            named.append(case("duplicate", row, int((near * like).argmax())))
        elif near.max(initial=0) >= NEAR:
            named.append(case("other", row, int(near.argmax())))
        else:
            named.append(case("not there", row, None))
    for number in np.flatnonzero(free).tolist():
        known = objects.names[number] in found.class_names
        named.append(case("missed" if known else "unknown class", None, number))
    return named


def _known(found: Detections, truth: Targets) -> Detections:
    """Ground truths as rows in their order, of classes that the detector need not have."""
    if not isinstance(truth, Targets):
        raise InputError(
            f"the ground truth must be dc.Targets(boxes, labels), got {truth!r}: an image that nobody has "
            "marked has no right or wrong; one that holds no object has dc.Targets([], [])"
        )
    others = [label for label in truth.labels if isinstance(label, str)]
    return truth.detections(tuple(dict.fromkeys([*found.class_names, *others])))


def _iou(found: Detections, objects: Detections) -> np.ndarray:
    return box_iou(torch.tensor(found.boxes), torch.tensor(objects.boxes)).numpy()


def _in_crowds(found: Detections, crowds: Targets | None) -> np.ndarray:
    """Whether more than half of each detection lies in one crowd of its class, (n,) bool."""
    if crowds is None or not len(crowds.boxes) or not len(found):
        return np.zeros(len(found), dtype=bool)
    regions = _known(found, crowds)
    ends = [np.array(one.boxes, dtype=np.float64) for one in (found, regions)]
    shares = coco_mask.iou(*(np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]) for b in ends), [1] * len(regions))
    alike = np.array(found.names)[:, None] == np.array(regions.names)
    return ((shares > FOUND) & alike).any(axis=1)


class Comparison(NamedTuple):
    """Maps of a case's two vectors, from the same forward passes."""

    case: Case
    explanation: Explanation  # of the ground truth, then of the prediction, where there are both

    @property
    def truth(self) -> np.ndarray | None:
        """Map of the ground-truth vector, scaled to [0, 1], (H, W)."""
        return None if self.case.truth is None else min_max(self.explanation.saliency[0])

    @property
    def prediction(self) -> np.ndarray | None:
        """Map of the prediction, scaled to [0, 1], (H, W)."""
        return None if self.case.prediction is None else min_max(self.explanation.saliency[-1])

    @property
    def difference(self) -> np.ndarray | None:
        """Prediction less ground truth, (H, W) in [-1, 1]; None where there is only one of them."""
        if self.truth is None or self.prediction is None:
            return None
        return self.prediction - self.truth


def compare(detector: Detector, image: Any, case: Case, **options: Any) -> Comparison:
    """Explain a case as the paper does: the ground truth, the prediction, and their difference.

    The ground truth is the box that should have been drawn, as a vector with the class's
    probability and the objectness 1; the prediction is the detection as it is. Masks are shared, so
    that a difference of the maps is none of the dice.

    Parameters
    ----------
    detector : Detector
    image : array
    case : Case
        Of this image.
    **options
        As for `explain`: ``method``, ``n_masks``, ``seed`` and so on.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        An object of a class that the detector does not have, or what `explain` refuses.
    """
    return Comparison(case, explain(detector, image, vectors(case, detector.class_names), **options))


def vectors(case: Case, class_names: Sequence[str]) -> Detections:
    """What is explained of a case: the ground truth, then the prediction, as far as there are both."""
    every = [] if case.truth is None else [case.truth.detections(class_names)]
    every += [] if case.prediction is None else [case.prediction]
    return Detections(  # no score is above 1, so that the ground truth stays first
        np.concatenate([one.boxes for one in every]),
        np.concatenate([one.objectness for one in every]),
        np.concatenate([one.class_probs for one in every]),
        every[-1].class_names,
    )


def hide(image: np.ndarray, heat: np.ndarray, n_pixels: int) -> np.ndarray:
    """The image (H, W, 3) with so many of its pixels black: those that are highest in a map (H, W)."""
    if np.shape(heat) != image.shape[:2]:
        raise InputError(f"the map must be {image.shape[:2]} as the image, got {np.shape(heat)}")
    order = np.argsort(-heat, axis=None, kind="stable")
    hidden = image.copy()
    hidden.reshape(-1, 3)[order[: checks.at_least("n_pixels", n_pixels, 0)]] = 0
    return hidden


@torch.inference_mode()
def class_scores(detector: Detector, image: np.ndarray, case: Case) -> tuple[float, float]:
    """How sure the detector is of a case's predicted class and of the true one, where the object is.

    Parameters
    ----------
    detector : Detector
    image : (H, W, 3) uint8 array
        The case's image, or what is left of it.
    case : Case
        With a prediction and a ground truth.

    Returns
    -------
    (float, float)
        In [0, 1]: for each class the highest objectness times probability of all proposals, before
        suppression, whose IoU with the ground truth is above 0.5; 0 without any.
    """
    if case.truth is None or case.prediction is None:
        raise InputError(f"a case with a prediction and a ground truth is wanted, got {case}")
    truth = case.truth.detections(detector.class_names)
    canvas = detector.prepare(image)
    boxes, objectness, probs = (part[0] for part in detector.predict(canvas.pixels[None]))
    near = box_iou(boxes, canvas.boxes_to_canvas(truth.boxes))[:, 0] > FOUND
    scores = torch.nn.functional.pad((objectness[:, None] * probs)[near], (0, 0, 0, 1))  # 0 without any
    best = scores.amax(0)
    return float(best[case.prediction.labels[0]]), float(best[truth.labels[0]])


def hidden_scores(detector: Detector, image: np.ndarray, comparison: Comparison) -> dict[str, np.ndarray]:
    """Does the error go when what the difference points at is hidden?

    If the difference of the maps shows the source of the error, hiding its highest pixels must lower
    the predicted class and spare or raise the true one, and do so better than hiding the highest
    pixels of the prediction's own map, or a random part of the object.

    Parameters
    ----------
    detector : Detector
    image : (H, W, 3) uint8 array
    comparison : Comparison
        Of a prediction and a ground truth.

    Returns
    -------
    dict of str to (shares, 2) array
        "difference", "prediction" and "random": `class_scores` with as many pixels hidden as are
        `SHARES` of the area of the object's box.
    """
    case, difference, prediction = comparison.case, comparison.difference, comparison.prediction
    if case.truth is None or difference is None or prediction is None:
        raise InputError(f"a case with a prediction and a ground truth is wanted, got {case}")
    x1, y1, x2, y2 = case.truth.boxes[0]
    inside = filled_box(difference.shape, np.array(case.truth.boxes[0]))
    heats = {"difference": difference, "prediction": prediction, "random": inside * random_map(inside.shape)}
    return {
        name: np.array(
            [
                class_scores(detector, hide(image, heat, round(share * (x2 - x1) * (y2 - y1))), case)
                for share in SHARES
            ]
        )
        for name, heat in heats.items()
    }


def examine(
    detector: Detector, truth: Truth, *, confidence: float = 0.25, n_masks: int | None = None
) -> Record:
    """The cases of one image of a data set as plain numbers.

    Parameters
    ----------
    detector : Detector
    truth : Truth
    confidence : float
        As for `Detector.detect`.
    n_masks : int, optional
        Budget of a comparison of each "wrong class" and "wrong place", and of the best "right" for
        a control; without it there is none, and one forward pass is all.

    Returns
    -------
    dict
        ``image`` and ``cases``, each with ``kind``, ``truth`` and ``prediction`` (class names or
        None), ``score`` and ``iou``; or ``image`` and ``error`` for an image that cannot be read.
        With `n_masks`, what is compared has ``correlation``, the rank correlation of the two maps
        (None where one is empty), and ``difference``, its mean size; a "wrong class" has its
        `hidden_scores` as ``hidden``.
    """
    try:
        image = load_photo(Path(truth.path))
    except InputError as error:
        return {"image": truth.image, "error": str(error)}
    found = detector.detect(image, confidence=confidence)
    record: Record = {"image": truth.image, "cases": []}
    named = cases(found, Targets(truth.boxes, truth.labels), truth.crowds)
    control = next((one for one in named if one.kind == "right"), None)
    for one in named:
        line: Record = {
            "kind": one.kind,
            "truth": None if one.truth is None else one.truth.labels[0],
            "prediction": None if one.prediction is None else one.prediction.names[0],
            "score": None if one.prediction is None else round(float(one.prediction.scores[0]), 3),
            "iou": round(one.iou, 3),
        }
        paired = one is control or one.kind in PAIRED
        if n_masks and paired and line["truth"] in detector.class_names:
            line |= _compared(detector, image, one, n_masks)
        record["cases"].append(line)
    return record


def _compared(detector: Detector, image: np.ndarray, case: Case, n_masks: int) -> Record:
    comparison = compare(detector, image, case, n_masks=n_masks, progress=False)
    assert comparison.truth is not None and comparison.prediction is not None
    correlation = rank_correlation(comparison.truth, comparison.prediction)
    line: Record = {
        "correlation": None if np.isnan(correlation) else round(correlation, 4),
        "difference": round(float(np.abs(comparison.prediction - comparison.truth).mean()), 5),
    }
    if case.kind == "wrong class":
        scores = hidden_scores(detector, image, comparison)
        line["hidden"] = {name: pairs.round(4).tolist() for name, pairs in scores.items()}
    return line


def tally(lines: Iterable[Record]) -> dict[str, Counter[str]]:
    """How many cases of each kind there are, by class.

    Parameters
    ----------
    lines : iterable of dict
        From `examine`.

    Returns
    -------
    dict of str to Counter
        For each class, the object's where there is one and else the prediction's, a count a kind.
        ``sum(found.values(), Counter())`` counts all.
    """
    found: dict[str, Counter[str]] = {}
    for line in lines:
        for one in line.get("cases", []):
            found.setdefault(one["truth"] or one["prediction"], Counter())[one["kind"]] += 1
    return found


def run(
    detector: Detector,
    folder: str | Path,
    out: str | Path,
    *,
    confidence: float = 0.25,
    n_masks: int | None = None,
    missing: str = "stop",
    progress: bool = True,
) -> Records:
    """`examine` a data set in COCO format, or go on where a run was stopped.

    Parameters
    ----------
    detector : Detector
    folder : path
        See `dataset.read_coco`, for `missing` too.
    out : path
        File of records.
    confidence, n_masks
        See `examine`.
    progress : bool

    Raises
    ------
    InputError
        What `read_coco` refuses, a number out of range, or records made otherwise in `out`.
    """
    data = read_coco(folder, missing=missing)
    settings = {
        "detector": {"name": detector.name, **detector.provenance},
        "annotations_sha256": data.sha256,
        "confidence": checks.fraction("confidence", confidence),
        "n_masks": parameters("dclose", n_masks=n_masks)["n_masks"] if n_masks is not None else None,
    }
    records = Records(out, settings)
    done = {line["image"] for line in records.lines}
    todo = [truth for truth in data.truths if truth.image not in done]
    for truth in tqdm(todo, unit="image", disable=not progress):
        records.append(examine(detector, truth, confidence=confidence, n_masks=n_masks))
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description="Count a detector's errors on a data set of COCO.")
    parser.add_argument("folder", metavar="COCO", help="holds val2017/ and annotations/")
    parser.add_argument("out", metavar="OUT", help="file of records; a stopped run goes on from there")
    parser.add_argument("--detector", default="yolox_nano", help="default: %(default)s")
    parser.add_argument("--confidence", type=float, default=0.25, help="default: %(default)s")
    parser.add_argument("--n-masks", type=int, help="compare maps of so many masks (default: compare none)")
    parser.add_argument("--skip-missing", action="store_true", help="go on without images that are missing")
    args = parser.parse_args()

    def work() -> str:
        records = run(
            load_detector(args.detector),
            args.folder,
            args.out,
            confidence=args.confidence,
            n_masks=args.n_masks,
            missing="skip" if args.skip_missing else "stop",
        )
        found = sum(tally(records.lines).values(), Counter())
        return f"{len(records.lines)} images: " + ", ".join(f"{found[kind]} {kind}" for kind in KINDS)

    return command("errors", work)


if __name__ == "__main__":
    sys.exit(main())
