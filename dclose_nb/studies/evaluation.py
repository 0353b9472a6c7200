"""Section 6: methods over a data set, scored by the metrics of 5.2. Notebook 08."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks, metrics
from ..checks import InputError
from ..detection import Canvas, Detector
from ..explanation import Explanation, explain
from ..fusion import min_max
from ..masks import forget_superpixels
from ..methods import METHODS, make, options_of
from .coco import DataSet, Truth, matched, study_photos
from .records import Record, Records
from .runner import DetectorSource

# Table 1: D-CLOSE without one or two of its parts, computed from the same forward passes
ABLATION: dict[str, dict[str, Any]] = {
    "mfpp": {"density": False, "fusion": "mean"},  # segments alone
    "segments+density": {"density": True, "fusion": "mean"},
    "segments+fusion": {"density": False, "fusion": "cascade"},
}
KNOWN = tuple(dict.fromkeys([*METHODS, *ABLATION]))
CURVE_POINTS = 42  # of a curve that a record keeps


def study_image(
    detector: Detector,
    image: np.ndarray,
    truth: Truth,
    *,
    methods: dict[str, Record],
    steps: int,
    confidence: float,
    class_agnostic: bool,
    timed: bool,
    seed: int,
) -> Record:
    """Score every method's maps of the matched detections of one image (H, W, 3).

    `methods` has names from `KNOWN` and the options of each. Those of `ABLATION` have D-CLOSE's options.
    They use the levels of ``methods["dclose"]`` and need no forward pass of their own. `steps` are
    those of deletion and insertion, `seed` is that of the masks. See `evaluate` for the others.

    Returns ``found`` and ``truths`` (how many), ``seconds`` (if `timed`) and ``n_forward`` by method, and
    ``objects`` as `coco.matched` does, each with its ``score`` and ``box`` and the scores of each method.
    """
    canvas = detector.prepare(image)
    found = detector.detect_on(canvas, confidence=confidence, class_agnostic=class_agnostic)
    targets, truths, objects = matched(found, truth, image.shape)
    for record, score, box in zip(objects, targets.scores.tolist(), targets.boxes.tolist()):
        record |= {"score": round(score, 4), "box": [round(edge, 1) for edge in box]}
    line: Record = {"found": len(found), "truths": len(truth.boxes)}
    line |= {"seconds": {}} if timed else {}
    line |= {"n_forward": {}, "objects": objects}
    if not objects:
        return line
    for method in [name for name in methods if name not in ABLATION]:
        if timed:
            forget_superpixels()  # the time of each method includes its own
        e = explain(detector, image, targets, method=method, seed=seed, progress=False, **methods[method])
        maps = {method: e.saliency}  # (n, H, W) each
        if method == "dclose":
            maps |= {name: ablated(e, canvas, name) for name in ABLATION if name in methods}
        for name, saliencies in maps.items():
            line["n_forward"][name] = e.n_forward
            if timed:
                line["seconds"][name] = round(e.seconds, 3)
            curves = metrics.curves(detector, canvas, targets, saliencies, steps=steps)
            for k, (record, own) in enumerate(zip(objects, truths)):
                both = curves["deletion"][k], curves["insertion"][k]
                record["methods"][name] = map_scores(saliencies[k], truth.boxes[own], *both)
    return line


def ablated(e: Explanation, canvas: Canvas, name: str) -> np.ndarray:
    """Maps (n, H, W) of one of `ABLATION`, from the levels of D-CLOSE's explanation."""
    assert e.levels is not None and e.density is not None
    method = make("dclose", **e.params | ABLATION[name])
    return canvas.maps_to_image(method.fuse(e.levels, e.density, method.counts).saliency)


def map_scores(
    saliency: np.ndarray, box: np.ndarray, deletion: metrics.Curve, insertion: metrics.Curve
) -> Record:
    """Scores of a map (H, W) of the object in a box (4,), with `CURVE_POINTS` of its two curves."""
    last = len(deletion.curve) - 1
    kept = np.linspace(0, last, min(CURVE_POINTS, last + 1)).round().astype(int)
    return {
        "sparsity": round(metrics.sparsity(saliency), 4),
        "ebpg": round(metrics.ebpg(saliency, box), 5),
        # without the floor that a map may have
        "ebpg_scaled": round(metrics.ebpg(min_max(saliency), box), 5),
        "pointing": round(metrics.pointing_game(saliency, box), 3),
        "deletion": round(deletion.score, 5),
        "insertion": round(insertion.score, 5),
        "over_all": round(insertion.score - deletion.score, 5),
        "deletion_curve": [round(score, 3) for score in deletion.curve[kept].tolist()],
        "insertion_curve": [round(score, 3) for score in insertion.curve[kept].tolist()],
    }


def evaluate(
    detector: str | DetectorSource | Detector,
    data: DataSet,
    out: str | Path,
    *,
    methods: Sequence[str] = ("dclose", "drise", "gradcam"),
    n_masks: int | None = None,
    steps: int = metrics.STEPS,
    confidence: float = 0.25,
    class_agnostic: bool = True,
    timed: bool = True,
    seed: int = 0,
    **study_options: Any,
) -> Records:
    """Evaluate methods on a data set, or resume a run that was stopped.

    Parameters
    ----------
    detector, data, out
        See `coco.study_photos`.
    methods : sequence of str
        Of `KNOWN`; those of `ABLATION` need "dclose".
    n_masks : int, optional
        Number of masks of each sampling method; by default its own.
    steps : int
        Of deletion and insertion.
    confidence : float
        Lowest score of a target. Deletion and insertion count scores from 0.25 on, so that a target below
        scores 0 in the unchanged image; `tables.summary` counts such targets.
    class_agnostic : bool
        Whether boxes of different classes suppress each other when targets are detected, as they do when
        deletion and insertion score them. Without it, a target can score 0 in the unchanged image;
        `tables.summary` counts such targets.
    timed : bool
        Whether records keep the seconds of each method. Say no if other work runs on the machine.
    seed : int
        Of the masks and of the order of the images.
    **study_options
        ``limit``, ``workers``, ``executor`` and ``progress`` of `coco.study_photos`, whose errors are raised
        here too. A parameter out of range is an `InputError`.
    """
    steps = checks.at_least("steps", steps, 1, largest=metrics.MOST_STEPS)
    settings: Record = {"methods": {}, "steps": steps}
    settings["confidence"] = checks.fraction("confidence", confidence)
    settings["class_agnostic"] = checks.flag("class_agnostic", class_agnostic)
    settings["timed"] = checks.flag("timed", timed)
    if not methods:
        raise InputError("methods must name at least one method")
    for name in methods:
        checks.choice("methods", name, KNOWN)
        if name in ABLATION and "dclose" not in methods:
            raise InputError(
                f"{', '.join(ABLATION)} are made of dclose's levels: add 'dclose' to the methods"
            )
        made_of = "dclose" if name in ABLATION else name
        budget = n_masks if "n_masks" in options_of(made_of) else None
        settings["methods"][name] = asdict(make(made_of, n_masks=budget, **ABLATION.get(name, {})))
    score = partial(study_image, seed=seed, **settings)
    return study_photos(detector, data, out, score, settings, seed=seed, **study_options)
