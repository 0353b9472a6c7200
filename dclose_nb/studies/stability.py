"""Section 5.1 in numbers: ``python -m dclose_nb.stability OUT [--coco DIR --detector NAME]``.

How far do maps agree from seed to seed, and what is gained by more masks (5.1.1, Fig. 9)? Must
D-RISE be tuned to an object's size? How much of a map lies on another object (5.1.2, Fig. 7)?
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from .. import metrics
from ..detection import Detector
from ..explanation import explain
from .coco import Truth, command, drawn, matched, read_coco, study
from .records import Record

BUDGETS = (500, 2000, 4000)  # samples in Fig. 9
SEEDS = 2
GRIDS = (4, 8, 32)  # cells a side, beside D-RISE's own 16
SWEEP = 2000  # masks for each grid
STEPS = 50  # of deletion and insertion
COVERED = 0.1  # of the smaller of two boxes, for objects that overlap


def runs(
    budgets: tuple[int, ...] = BUDGETS, seeds: int = SEEDS, grids: tuple[int, ...] = GRIDS, sweep: int = SWEEP
) -> dict[str, list[Record]]:
    """Names of settings, and what `explain` is called with for each seed of each."""
    planned: dict[str, list[Record]] = {
        f"{method} {n_masks}": [{"method": method, "n_masks": n_masks, "seed": seed} for seed in range(seeds)]
        for method in ("dclose", "drise")
        for n_masks in budgets
    }
    planned |= {
        f"drise {sweep}, grid {cells}": [{"method": "drise", "n_masks": sweep, "grid": [cells, cells]}]
        for cells in grids
    }
    return planned | {"gradcam": [{"method": "gradcam"}]}


def look(
    detector: Detector,
    image: np.ndarray,
    truth: Truth,
    *,
    planned: dict[str, list[Record]],
    steps: int,
) -> Record:
    """Every setting's maps of the matched detections of one image, scored; for `dataset.study`.

    Parameters
    ----------
    detector : Detector
    image : (H, W, 3) uint8 array
    truth : Truth
    planned : dict
        See `runs`.
    steps : int
        Of deletion and insertion.

    Returns
    -------
    dict
        ``objects`` as `evaluation.evaluate_image` gives them, scored for each setting:
        ``agreement``, the mean rank correlation of its seeds' maps (None where a map is empty);
        ``ebpg`` and ``over_all`` of the first seed's map; ``leakage``, the mean of
        `metrics.leakage` onto the objects whose boxes overlap this one (None where there is none).
        The setting "flat", the same everywhere, has ``leakage`` only.
    """
    canvas = detector.prepare(image)
    targets, truths, objects = matched(detector.detect_on(canvas), truth, image.shape)
    if not objects:
        return {"objects": []}
    masks = truth.masks(image.shape[:2])

    def leakage(saliency: np.ndarray, own: int) -> float | None:
        others = [masks[k] & ~masks[own] for k in _overlapping(truth.boxes, own)]
        onto = [metrics.leakage(saliency, masks[own], other) for other in others if other.any()]
        return round(float(np.mean(onto)), 4) if onto else None

    for name, settings in planned.items():
        maps = np.stack(
            [explain(detector, image, targets, progress=False, **options).saliency for options in settings]
        )  # (seeds, n, H, W)
        curves = metrics.curves(detector, canvas, targets, maps[0], steps=steps)
        for k, own in enumerate(truths):
            over_all = curves["insertion"][k].score - curves["deletion"][k].score
            agreements = [metrics.rank_correlation(a[k], b[k]) for a, b in combinations(maps, 2)]
            agreement = float(np.mean(agreements)) if agreements else float("nan")
            objects[k]["methods"][name] = {
                "agreement": None if np.isnan(agreement) else round(agreement, 4),
                "ebpg": round(metrics.ebpg(maps[0, k], truth.boxes[own]), 5),
                "over_all": round(over_all, 5),
                "leakage": leakage(maps[0, k], own),
            }
    flat = np.ones(image.shape[:2])
    for one, own in zip(objects, truths):
        one["methods"]["flat"] = {"leakage": leakage(flat, own)}
    return {"objects": objects}


def _overlapping(boxes: np.ndarray, own: int) -> list[int]:
    """Boxes that share at least `COVERED` of the smaller of the two with box `own`."""
    x1, y1, x2, y2 = boxes.T
    width = np.minimum(x2, x2[own]) - np.maximum(x1, x1[own])
    height = np.minimum(y2, y2[own]) - np.maximum(y1, y1[own])
    areas = (x2 - x1) * (y2 - y1)
    covered = width.clip(0) * height.clip(0) / np.minimum(areas, areas[own])
    covered[own] = 0
    return np.flatnonzero(covered >= COVERED).tolist()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dclose_nb.stability", description="Stability, tuning and leakage over a data set."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="records.jsonl is kept there")
    parser.add_argument("--coco", type=Path, metavar="DIR", help="default: 20 planted scenes")
    parser.add_argument("--detector", default="planted", help="default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images, in random order")
    parser.add_argument("--workers", type=int, default=1, metavar="K", help="processes; default: 1")
    args = parser.parse_args(arguments)
    settings: Record = {"planned": runs(), "steps": STEPS}

    def work() -> Path:
        data = drawn(args.out / "scenes", 20) if args.coco is None else read_coco(args.coco)
        score = partial(look, **settings)
        records = study(
            args.detector, data, args.out, score, settings, limit=args.limit, workers=args.workers
        )
        return records.path

    return command("stability", work)


if __name__ == "__main__":
    sys.exit(main())
