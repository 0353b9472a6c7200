"""Faithfulness against forward passes: tables on the screen, ``records.jsonl`` and ``quality.png``.

    .venv/bin/python benchmarks/quality.py OUT [--coco DIR --detector NAME] [--limit N] [--workers K]

Explains every detection that matches an object in images of COCO, or in planted scenes, with more and
more masks by each method, and compares each with D-CLOSE at the paper's 4000. All objects of an image
share its masks. On scenes the scores of truth are taken as well. Images and scenes on which methods
are designed (``data/split.json``) are left out. Each image that is done is written at once; a stopped
run resumes. Intervals are not corrected for their number.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import dclose_nb as dc
from dclose_nb import metrics
from dclose_nb.methods import make
from dclose_nb.planted import scores
from dclose_nb.studies import tables
from dclose_nb.studies.coco import Truth, drawn, matched, read_coco, study_photos
from dclose_nb.studies.inference import design_part, rounded
from dclose_nb.studies.planted_truth import removal_effects
from dclose_nb.studies.records import Record

FEW = (25, 50, 100, 200, 400)  # masks of our own methods, which are drawn
BUDGETS = {"dclose": (4000, 400), "contrast": FEW, "regression": FEW, "drise": (400,)}
REFERENCE = "dclose 4000"
LOSS = 0.02  # of the reference's score that a cheaper setting may cost
STEPS = 25  # of deletion and insertion
SCENES = 100  # with those of the design part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="records.jsonl and quality.png")
    parser.add_argument("--coco", type=Path, metavar="DIR", help="default: planted scenes")
    parser.add_argument("--detector", default="planted", help="default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images, in random order")
    parser.add_argument("--workers", type=int, default=1, metavar="K", help="processes; default: 1")
    args = parser.parse_args()
    data = drawn(args.out / "scenes", SCENES) if args.coco is None else read_coco(args.coco)
    design = design_part("scenes" if args.coco is None else "images")
    data = data._replace(truths=[truth for truth in data.truths if truth.image not in design])
    methods = {
        f"{method} {n_masks}": asdict(make(method, n_masks=n_masks))
        for method, budgets in BUDGETS.items()
        for n_masks in budgets
    }
    settings: Record = {"methods": methods, "steps": STEPS, "with_truth": args.coco is None}
    score = partial(study_image, **settings)
    options = {"limit": args.limit, "workers": args.workers}
    known = settings | {"class_agnostic": True}
    records = study_photos(args.detector, data, args.out, score, known, **options)
    found = tables.objects(records)
    if not found:
        sys.exit("no detection matches an object")
    print_less_reference(found)
    draw(found, args.out / "quality.png")


def study_image(
    detector: dc.Detector,
    image: np.ndarray,
    truth: Truth,
    *,
    methods: dict[str, Record],
    steps: int,
    with_truth: bool,
) -> Record:
    """Scores of each method and budget on the matched objects of an image (H, W, 3)."""
    canvas = detector.prepare(image)
    targets, truths, objects = matched(detector.detect_on(canvas, class_agnostic=True), truth, image.shape)
    if not objects:
        return {"objects": []}
    scene = dc.planted.scene(truth.image) if with_truth else None
    effects = (
        [removal_effects(detector, scene, k, target) for target, k in zip(targets, truths)] if scene else []
    )
    for name, options in methods.items():
        method = name.split()[0]
        maps = dc.explain(detector, image, targets, method=method, progress=False, **options).saliency
        curves = metrics.curves(detector, canvas, targets, maps, steps=steps)
        for n, k in enumerate(truths):
            values = {
                "over_all": curves["insertion"][n].score - curves["deletion"][n].score,
                "ebpg": metrics.ebpg(maps[n], truth.boxes[k]),
            }
            if scene:
                parts = scene.parts[k]
                causal = np.any([part.mask for part in parts], axis=0)
                values["relevance_mass"] = scores.relevance_mass(maps[n], causal)
                values["relevance_rank"] = scores.relevance_rank(maps[n], causal)
                values["part_correlation"] = scores.part_correlation(maps[n], parts, effects[n])
            objects[n]["methods"][name] = {score: rounded(value) for score, value in values.items()}
    return {"objects": objects}


def print_less_reference(found: list[Record]) -> None:
    """Means and differences from the reference, with 95 % intervals over images."""
    images = len({record["image"] for record in found})
    print(f"{len(found)} objects of {images} images: {len(found) / images:.1f} share the masks of an image")
    for score in found[0]["methods"][REFERENCE]:
        print(f"\n{score:<26} {'mean':>23} {'less ' + REFERENCE:>27}")
        for name in found[0]["methods"]:
            more = tables.difference(found, name, REFERENCE, score)
            kept = "kept" if more.low > -LOSS and name != REFERENCE else ""
            mean = tables.mean(found, name, score).text(digits=3, sign="")
            print(f"{name:<26} {mean:>23} {more.text(digits=3):>27}  {kept}")


def draw(found: list[Record], path: Path) -> None:
    """A panel for each score: mean and interval against forward passes, with the reference dashed."""
    names = list(found[0]["methods"][REFERENCE])
    _, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.4), layout="constrained")
    for panel, score in zip(axes, names):
        lines = {
            method: np.transpose([tables.mean(found, f"{method} {n}", score)[:3] for n in FEW])
            for method, budgets in BUDGETS.items()
            if budgets == FEW
        }
        dc.plot.curves(lines, x=FEW, labels=("forward passes", score), ax=panel)
        panel.axhline(tables.mean(found, REFERENCE, score).mean, color="black", linestyle="--", linewidth=1)
        panel.set_xscale("log")
        panel.set_xticks(FEW, map(str, FEW))
        panel.minorticks_off()
    plt.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
