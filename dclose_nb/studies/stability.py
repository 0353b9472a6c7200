"""Section 5.1: stability, tuning and overlapping objects (Fig. 7 and 9). Notebooks 10 and 11.

``python -m dclose_nb.studies.stability OUT [--coco DIR --detector NAME]``

How far do maps of different seeds agree, and what do more masks add? Must D-RISE be tuned to an
object's size? What do other parameters change in D-CLOSE's maps? How much of a map lies on another object?
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks, metrics
from ..checks import InputError
from ..detection import Canvas, Detections, Detector
from ..explanation import explain
from ..methods import make
from ..sampling import Sampling
from .coco import Truth, box_areas, drawn, matched, read_coco, study_photos
from .inference import rounded
from .records import Record
from .runner import study_command, study_parser
from .sanity import randomise

BUDGETS = (500, 2000, 4000)  # masks in Fig. 9
SEEDS = (0, 1)
GRIDS = (4, 8, 32)  # cells a side, beside D-RISE's own 16
SWEEP = 2000  # masks for each grid
CHANGES: dict[str, Record] = {  # of D-CLOSE's parameters
    "four levels": {"segments": (150, 300, 600, 1200)},
    "half the segments": {"segments": (75, 150, 300, 600, 1200)},
    "r 1": {"r": 1.0},
    "p 0.3": {"p": 0.3},
    "p 0.7": {"p": 0.7},
}
STEPS = 50  # of deletion and insertion
COVERED = 0.1  # share of the smaller of two boxes, from which they overlap


def planned_runs(
    budgets: Sequence[int] = BUDGETS,
    seeds: Sequence[int] = SEEDS,
    grids: Sequence[int] = GRIDS,
    sweep: int = SWEEP,
    changes: Sequence[str] = tuple(CHANGES),
) -> dict[str, Record]:
    """Method, options, budgets of masks and seeds of each run; ``{}`` in its name is the budget.

    `changes` are keys of `CHANGES`. Their runs have the smallest budget and the last seed, since they are
    compared with the first seed's map of the unchanged "dclose {}". Runs that are named "shuffled" have the
    two smallest budgets. They ask the detector with its weights shuffled. So their seeds can agree only on
    what was not learned, for example on the superpixels.
    """

    def run(method: str, budgets: Sequence[int], seeds: Sequence[int], **options: Any) -> Record:
        made = make(method, n_masks=max(budgets, default=None), **options)
        return {"method": method, "options": asdict(made), "budgets": list(budgets), "seeds": list(seeds)}

    runs = {f"{method} {{}}": run(method, budgets, seeds) for method in ("dclose", "drise")}
    for cells in grids:
        runs[f"drise {{}}, grid {cells}"] = run("drise", [sweep], seeds[:1], grid=(cells, cells))
    for name in changes:
        runs[f"dclose {{}}, {name}"] = run("dclose", budgets[:1], seeds[-1:], **CHANGES[name])
    for method in ("dclose", "drise"):
        runs[f"shuffled {method} {{}}"] = run(method, budgets[:2], seeds) | {"shuffled": True}
    return runs | {"gradcam": run("gradcam", [], seeds[:1])}


def study_image(
    detector: Detector, image: np.ndarray, truth: Truth, *, runs: dict[str, Record], steps: int
) -> Record:
    """Score the maps of each of `planned_runs` for the matched detections of one image (H, W, 3).

    Returns ``objects`` as `coco.matched` does, with scores for each run and budget: ``agreement``, the
    mean rank correlation of its seeds' maps (None if a map is empty, or with one seed), for a run of
    changed parameters that of its map with the unchanged run's of another seed; ``agreement_in_box``, the
    same of the pixels in the target's box alone; ``ebpg`` and ``over_all`` (in so many `steps`) of the first
    seed's map; ``leakage``, the mean of `metrics.leakage` onto the objects whose boxes overlap this one (None
    if there is none). The constant map "flat" has ``leakage`` only, a shuffled network the agreements only.
    """
    canvas = detector.prepare(image)
    # boxes that deletion and insertion can see, since they suppress over all classes
    targets, truths, objects = matched(detector.detect_on(canvas, class_agnostic=True), truth, image.shape)
    if not objects:
        return {"objects": []}
    masks = truth.masks(image.shape[:2])

    def leakage(saliency: np.ndarray, own: int) -> float | None:
        others = [masks[k] & ~masks[own] for k in overlapping(truth.boxes, own)]
        onto = [metrics.leakage(saliency, masks[own], other) for other in others if other.any()]
        return rounded(np.mean(onto)) if onto else None

    flat = np.ones(image.shape[:2])
    for record, own in zip(objects, truths):
        record["methods"]["flat"] = {"leakage": leakage(flat, own)}
    unchanged: dict[int, np.ndarray] = {}  # maps (n, H, W) of each budget
    inside = [metrics.window(box, image.shape[:2]) for box in targets.boxes]
    for name, run in runs.items():
        asked = randomise(detector) if run.get("shuffled") else detector
        by_seed = [_by_budget(asked, image, canvas, targets, run, seed) for seed in run["seeds"]]
        if name == "dclose {}":
            unchanged = by_seed[0]
        for budget in by_seed[0]:
            maps = np.stack([by_budget[budget] for by_budget in by_seed])  # (seeds, n, H, W)
            compared = [maps[0], unchanged[budget]] if name.startswith("dclose {},") else maps
            for k, record in enumerate(objects):
                record["methods"][name.format(budget)] = {
                    "agreement": _agreement([each[k] for each in compared]),
                    "agreement_in_box": _agreement([each[k, *inside[k]] for each in compared]),
                }
            if asked is not detector:
                continue
            curves = metrics.curves(detector, canvas, targets, maps[0], steps=steps)
            for k, own in enumerate(truths):
                over_all = curves["insertion"][k].score - curves["deletion"][k].score
                objects[k]["methods"][name.format(budget)] |= {
                    "ebpg": round(metrics.ebpg(maps[0, k], truth.boxes[own]), 5),
                    "over_all": round(over_all, 5),
                    "leakage": leakage(maps[0, k], own),
                }
    return {"objects": objects}


def _agreement(maps: Sequence[np.ndarray]) -> float | None:
    """Mean rank correlation of all pairs of maps; None without a pair or if a map is empty."""
    agreements = [metrics.rank_correlation(a, b) for a, b in combinations(maps, 2)]
    return rounded(np.mean(agreements)) if agreements else None


def _by_budget(
    detector: Detector, image: np.ndarray, canvas: Canvas, targets: Detections, run: Record, seed: int
) -> dict[int, np.ndarray]:
    """Maps (n, H, W) of each budget from one sampling, since a larger budget begins with the same masks."""
    if not run["budgets"]:
        e = explain(detector, image, targets, method=run["method"], progress=False, **run["options"])
        return {0: e.saliency}
    method = make(run["method"], **run["options"])
    plan = method.plan(canvas, seed)
    if any(budget % len(plan.counts) for budget in run["budgets"]):
        raise InputError(f"budgets must be multiples of {len(plan.counts)} levels, got {run['budgets']}")
    sampling = Sampling(detector, canvas, targets, plan, stops=run["budgets"], progress=False)
    return {
        taken: canvas.maps_to_image(method.combine(sampling.levels()).saliency)
        for taken in sampling
        if taken in sampling.stops
    }


def overlapping(boxes: np.ndarray, own: int) -> list[int]:
    """Indices of the boxes (n, 4) that overlap box `own` by at least `COVERED` of the smaller of the two."""
    sides = np.minimum(boxes[:, 2:], boxes[own, 2:]) - np.maximum(boxes[:, :2], boxes[own, :2])
    areas = box_areas(boxes)
    covered = sides.clip(0).prod(axis=1) / np.minimum(areas, areas[own])
    covered[own] = 0
    return np.flatnonzero(covered >= COVERED).tolist()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = study_parser("stability", "Stability, tuning and leakage over a data set.")
    parser.add_argument("--coco", metavar="DIR", help="default: 20 planted scenes")
    parser.add_argument("--detector", default="planted", help="default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images, in random order")
    options = vars(parser.parse_args(arguments))
    settings: Record = {"runs": planned_runs(), "steps": STEPS}

    def work() -> Path:
        coco = options.pop("coco")
        data = drawn(checks.path(options["out"]) / "scenes", 20) if coco is None else read_coco(coco)
        study = partial(study_image, **settings)
        known = settings | {"class_agnostic": True}
        return study_photos(data=data, study_image=study, settings=known, **options).path

    return study_command("stability", work)


if __name__ == "__main__":
    sys.exit(main())
