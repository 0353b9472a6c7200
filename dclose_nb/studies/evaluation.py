"""Section 6: methods over a data set, scored by the metrics of 5.2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks, metrics
from ..checks import InputError
from ..detection import Canvas, Detections, Detector
from ..explanation import explain, parameters
from ..methods import METHODS
from ..methods.dclose import fuse, split, without_density
from .coco import DataSet, Truth, matched, study
from .records import Record, Records

# Table 1: what is left of D-CLOSE without one or two of its parts, from the forward passes of the whole
ABLATION: dict[str, dict[str, Any]] = {
    "mfpp": {"density": False, "fusion": "mean"},  # segments alone
    "segments+density": {"density": True, "fusion": "mean"},
    "segments+fusion": {"density": False, "fusion": "cascade"},
}
KNOWN = tuple(dict.fromkeys([*METHODS, *ABLATION]))
CURVE_POINTS = 42  # of a curve's steps that are kept in a record


def evaluate_image(
    detector: Detector, image: np.ndarray, truth: Truth, *, methods: dict[str, Record], steps: int
) -> Record:
    """Every method's maps of the matched detections of one image, scored.

    Parameters
    ----------
    detector : Detector
    image : (H, W, 3) uint8 array
    truth : Truth
    methods : dict
        Names from `KNOWN` and what each is called with; those of `ABLATION` are made of the levels
        of ``methods["dclose"]`` and get no forward pass of their own.
    steps : int
        Of deletion and insertion.

    Returns
    -------
    dict
        ``found`` and ``truths`` (how many), ``seconds`` and ``n_forward`` a method, and ``objects``.
    """
    canvas = detector.prepare(image)
    found = detector.detect_on(canvas)
    targets, truths, objects = matched(found, truth, image.shape)
    line: Record = {"found": len(found), "truths": len(truth.boxes), "seconds": {}, "n_forward": {}}
    line["objects"] = [
        {
            "label": one["label"],
            "score": round(float(score), 4),
            "box": [round(float(edge), 1) for edge in box],
            **one,
        }
        for one, score, box in zip(objects, targets.scores, targets.boxes)
    ]
    if not objects:
        return line
    truth_boxes = truth.boxes[truths]
    for name, maps, seconds, n_forward in _maps(detector, image, canvas, targets, methods):
        line["seconds"][name], line["n_forward"][name] = round(seconds, 3), n_forward
        curves = metrics.curves(detector, canvas, targets, maps, steps=steps)
        for k, heat in enumerate(maps):
            deletion, insertion = (curves[kind][k] for kind in ("deletion", "insertion"))
            kept = np.linspace(0, steps, min(CURVE_POINTS, steps + 1)).round().astype(int)
            line["objects"][k]["methods"][name] = {
                "sparsity": round(metrics.sparsity(heat), 4),
                "ebpg": round(metrics.ebpg(heat, truth_boxes[k]), 5),
                "pointing": round(metrics.pointing_game(heat, truth_boxes[k]), 3),
                "deletion": round(deletion.score, 5),
                "insertion": round(insertion.score, 5),
                "over_all": round(insertion.score - deletion.score, 5),
                "deletion_curve": [round(float(score), 3) for score in deletion.curve[kept]],
                "insertion_curve": [round(float(score), 3) for score in insertion.curve[kept]],
            }
    return line


def _maps(
    detector: Detector,
    image: np.ndarray,
    canvas: Canvas,
    targets: Detections,
    methods: dict[str, Record],
) -> Iterator[tuple[str, np.ndarray, float, int]]:
    """Name, maps (n, H, W), seconds and forward passes of each method."""
    for name, params in methods.items():
        if name in ABLATION:
            continue
        done = explain(detector, image, targets, method=name, progress=False, **params)
        yield name, done.saliency, done.seconds, done.n_forward
        if name != "dclose":
            continue
        assert done.levels is not None and done.density is not None
        counts = split(params["n_masks"], len(done.levels))
        bare = without_density(done.levels, done.density, counts, params["p"])
        for part, settings in ABLATION.items():
            if part in methods:
                levels = done.levels if settings["density"] else bare
                fused = fuse(levels, fusion=settings["fusion"], order=params["order"])
                yield part, canvas.maps_to_image(fused), done.seconds, done.n_forward


def evaluate(
    detector: str | Detector,
    data: DataSet,
    out: str | Path,
    *,
    methods: Sequence[str] = ("dclose", "drise", "gradcam"),
    n_masks: int | None = None,
    steps: int = metrics.STEPS,
    seed: int = 0,
    limit: int | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool = True,
) -> Records:
    """Evaluate methods on a data set, or go on where a run was stopped.

    Parameters
    ----------
    detector, data, out
        As for `dataset.study`.
    methods : sequence of str
        Of `KNOWN`; those of `ABLATION` need "dclose".
    n_masks : int, optional
        Budget of each sampling method; by default its own.
    steps : int
        Of deletion and insertion.
    seed : int
        Of the masks and of the order of the images.
    limit, workers, executor, progress
        As for `dataset.study`.

    Returns
    -------
    Records
        See `evaluate_image` and `dataset.study`.

    Raises
    ------
    InputError
        A parameter out of range, and as `dataset.study`.
    """
    for name in methods:
        checks.choice("methods", name, KNOWN)
    if "dclose" not in methods and any(name in ABLATION for name in methods):
        raise InputError(f"{', '.join(ABLATION)} are made of dclose's levels: add 'dclose' to the methods")
    checks.at_least("steps", steps, 1)
    plans = {name: {} if name in ABLATION else _plan(name, n_masks, seed) for name in methods}
    return study(
        detector,
        data,
        out,
        partial(evaluate_image, methods=plans, steps=steps),
        {"methods": plans, "steps": steps},
        seed=seed,
        limit=limit,
        workers=workers,
        executor=executor,
        progress=progress,
    )


def _plan(name: str, n_masks: int | None, seed: int) -> Record:
    takes_masks = "n_masks" in parameters(name)
    plan = parameters(name, n_masks=n_masks if takes_masks else None, seed=seed)
    for name in ("batch_size", "tolerance"):  # chosen where it runs, and not used
        plan.pop(name, None)
    return plan
