"""Is the error of ``method="regression"`` right? A table on the screen, and ``records.jsonl``.

    .venv/bin/python benchmarks/calibration.py OUT [--coco DIR --detector NAME] [--limit N] [--workers K]

For each detection that matches an object in images of COCO, or in planted scenes, the maps of `SEEDS`
seeds are compared with a map of 20,000 passes: the mean of ten maps of 2000 masks each. If the error is
right, 68 % of the pixels lie within one error of that map, and 95 % within two. Images and scenes on which
methods are designed (``data/split.json``) are left out. A stopped run resumes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import dclose_nb as dc
from dclose_nb.fusion import min_max
from dclose_nb.studies import tables
from dclose_nb.studies.coco import Truth, drawn, matched, read_coco, study_photos
from dclose_nb.studies.inference import design_part, rounded
from dclose_nb.studies.records import Record

BUDGETS = (100, 200)
SEEDS = 20
REFERENCE = (10, 2000)  # maps, and masks of each
SHOWN = 0.05  # of the largest value: a pixel that the map shows
SCENES = 100  # with those of the design part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="records.jsonl")
    parser.add_argument("--coco", type=Path, metavar="DIR", help="default: planted scenes")
    parser.add_argument("--detector", default="planted", help="default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images, in random order")
    parser.add_argument("--workers", type=int, default=1, metavar="K", help="processes; default: 1")
    args = parser.parse_args()
    data = drawn(args.out / "scenes", SCENES) if args.coco is None else read_coco(args.coco)
    design = design_part("scenes" if args.coco is None else "images")
    data = data._replace(truths=[truth for truth in data.truths if truth.image not in design])
    settings: Record = {"budgets": BUDGETS, "seeds": SEEDS, "reference": REFERENCE, "shown": SHOWN}
    options = {"limit": args.limit, "workers": args.workers}
    records = study_photos(args.detector, data, args.out, study_image, settings, **options)
    found = tables.objects(records)
    if not found:
        sys.exit("no detection matches an object")
    print(f"{len(found)} objects of {len({record['image'] for record in found})} images, {SEEDS} seeds each")
    for name, scores in found[0]["methods"].items():
        for score in scores:
            print(f"{name:<16} {score:<12} {tables.mean(found, name, score).text(digits=3, sign='')}")


def study_image(detector: dc.Detector, image: np.ndarray, truth: Truth) -> Record:
    """How the error compares with the deviation from the reference, on the matched objects of an image."""
    found = detector.detect(image, class_agnostic=True)
    targets, _, objects = matched(found, truth, image.shape)
    if not objects:
        return {"objects": []}

    def explained(seed: int, n_masks: int) -> dc.Explanation:
        options: Record = {"method": "regression", "n_masks": n_masks, "seed": seed, "progress": False}
        return dc.explain(detector, image, targets, **options)

    maps, masks = REFERENCE
    reference = np.mean([min_max(explained(SEEDS + k, masks).saliency) for k in range(maps)], axis=0)
    reference = min_max(reference)  # (n, H, W)
    shown = reference >= SHOWN
    for n_masks in BUDGETS:
        rows = []
        for seed in range(SEEDS):
            one = explained(seed, n_masks)
            assert one.error is not None
            away = np.abs(min_max(one.saliency) - reference)
            within = [away <= times * one.error for times in (1, 2)]
            sizes = [np.sqrt(np.square(values).mean((1, 2))) for values in (away, one.error)]
            of_all = [inside.mean((1, 2)) for inside in within]
            rows.append(
                [*of_all, *((inside & shown).sum((1, 2)) / shown.sum((1, 2)) for inside in within), *sizes]
            )
        for n, values in enumerate(np.mean(rows, axis=0).T):
            names = "within_one", "within_two", "shown_one", "shown_two", "deviation", "error"
            objects[n]["methods"][f"regression {n_masks}"] = dict(zip(names, map(rounded, values)))
    return {"objects": objects}


if __name__ == "__main__":
    main()
