"""Section 5.1.1: stability and tuning (Fig. 9). Notebook 10; notebook 11 reads the same records.

``python -m dclose_nb.studies.stability OUT [--coco DIR --detector NAME]``

How far do maps of different seeds agree, and what do more masks add? Must D-RISE be tuned to an
object's size? What do other parameters change in D-CLOSE's maps? How much of a map lies on another object?
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks, metrics
from ..checks import InputError
from ..detection import Canvas, Detections, Detector
from ..explanation import explain
from ..methods import make
from ..sampling import Sampling
from . import tables
from .coco import Truth, drawn, matched, read_coco, study_photos
from .inference import Claim, Estimate, difference, mean, minus, rounded
from .overlap import overlapping
from .records import Record, Records
from .runner import detector_of, study_command, study_parser
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
COMPARED = ("dclose", "drise")  # at each budget
GRID_RUNS = {"4 x 4": "drise 2000, grid 4", "8 x 8": "drise 2000, grid 8", "16 x 16": "drise 2000"}
GRID_RUNS |= {"32 x 32": "drise 2000, grid 32"}
SCORES = {"agreement of seeds": "agreement", "EBPG": "ebpg", "over-all": "over_all"}


def planned_runs(
    budgets: Sequence[int] = BUDGETS,
    seeds: Sequence[int] = SEEDS,
    grids: Sequence[int] = GRIDS,
    sweep: int = SWEEP,
    changes: Sequence[str] = tuple(CHANGES),
    *,
    layers: bool = True,
) -> dict[str, Record]:
    """Method, options, budgets of masks and seeds of each run; ``{}`` in its name is the budget.

    `changes` are keys of `CHANGES`. Their runs have the smallest budget and the last seed, since they are
    compared with the first seed's map of the unchanged "dclose {}". Runs that are named "shuffled" have the
    two smallest budgets. They ask the detector with its weights shuffled. So their seeds can agree only on
    what was not learned, for example on the superpixels. These runs and Grad-CAM need the network's `layers`.
    """

    def run(method: str, budgets: Sequence[int], seeds: Sequence[int], **options: Any) -> Record:
        made = make(method, n_masks=max(budgets, default=None), **options)
        levels = len(getattr(made, "counts", [1]))
        if any(budget % levels for budget in budgets):
            raise InputError(f"budgets must be multiples of {levels} levels, got {list(budgets)}")
        return {"method": method, "options": asdict(made), "budgets": list(budgets), "seeds": list(seeds)}

    runs = {f"{method} {{}}": run(method, budgets, seeds) for method in COMPARED}
    for cells in grids:
        runs[f"drise {{}}, grid {cells}"] = run("drise", [sweep], seeds[:1], grid=(cells, cells))
    for name in changes:
        runs[f"dclose {{}}, {name}"] = run("dclose", budgets[:1], seeds[-1:], **CHANGES[name])
    if not layers:
        return runs
    for method in COMPARED:
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
    sampling = Sampling(detector, canvas, targets, plan, stops=run["budgets"], progress=False)
    return {
        taken: canvas.maps_to_image(method.combine(sampling.levels()).saliency)
        for taken in sampling
        if taken in sampling.stops
    }


def summary(records: Records) -> str:
    """How many objects of how many images there are, in a sentence."""
    counts = [len(line["objects"]) for line in records.lines if "error" not in line]
    told = f"{sum(counts)} objects of {np.count_nonzero(counts)} images"
    told += f"; in {counts.count(0)} more images no detection matches an annotated object"
    unread = len(records.lines) - len(counts)
    return told + (f"; {unread} images could not be read" if unread else "")


def budgets_of(found: list[Record]) -> list[int]:
    """Numbers of masks that the records have, the smallest first."""
    named = (re.fullmatch(r"dclose (\d+)", name) for name in (found[0]["methods"] if found else ()))
    return sorted(int(match[1]) for match in named if match)


def compared(found: list[Record]) -> dict[str, str]:
    """The runs that are compared at each of `budgets_of`, by the name to print."""
    return {
        f"{tables.named(method)}, {n} masks": f"{method} {n}"
        for method in COMPARED
        for n in budgets_of(found)
    }


def by_budget(found: list[Record], metric: str) -> dict[str, np.ndarray]:
    """For each method its mean at each budget and the ends of its band, (3, budgets), for `plot.curves`."""
    return {
        tables.named(method): np.transpose(
            [tables.mean(found, f"{method} {n}", metric)[:3] for n in budgets_of(found)]
        )
        for method in COMPARED
    }


def learned(name: str) -> Callable[[Record], float | None]:
    """A function that reads the agreement of a run's seeds less that on the shuffled network.

    It gives None where a map is empty.
    """
    return minus(tables.score(name, "agreement"), tables.score(f"shuffled {name}", "agreement"))


def agreements(found: list[Record]) -> dict[str, dict[str, Estimate]]:
    """Agreement of seeds of each run of `compared`: on the image, in the box, on the shuffled network."""
    columns = {"whole image": "agreement", "in the box": "agreement_in_box"}
    runs = compared(found)
    shuffled = {row: name for row, name in runs.items() if f"shuffled {name}" in found[0]["methods"]}
    of_shuffled = {row: f"shuffled {name}" for row, name in shuffled.items()}
    return {
        **tables.means(found, runs, columns),
        **tables.means(found, of_shuffled, {"shuffled network": "agreement"}),
        "image less shuffled": {row: mean(found, learned(name)) for row, name in shuffled.items()},
    }


def box_differences(found: list[Record]) -> dict[str, Estimate]:
    """How far seeds agree in the box: of D-CLOSE less of D-RISE, and of D-RISE less over the whole image."""
    rows, every = {}, budgets_of(found)
    for first, second in (*((n, n) for n in every), (every[0], every[-1])):
        pair = f"dclose {first}", f"drise {second}"
        label = f"in the box: D-CLOSE with {first} masks less D-RISE with {second}"
        rows[label] = tables.difference(found, *pair, "agreement_in_box")
    for n in every:
        values = (tables.score(f"drise {n}", part) for part in ("agreement_in_box", "agreement"))
        rows[f"D-RISE with {n} masks: in the box less in the image"] = difference(found, *values)
    return rows


def above_flat(found: list[Record], name: str) -> Estimate:
    """EBPG of a run less that of a map that is the same everywhere, which is the box's share of the image."""
    return difference(found, tables.score(name, "ebpg"), itemgetter("area"))


def by_size(found: list[Record]) -> dict[str, list[Record]]:
    """Objects of each size group, and all, by a name that says how many objects and images there are."""
    groups = {group: [record for record in found if record["group"] == group] for group in tables.GROUPS}
    return {
        f"{group}: {len(members)} / {len({record['image'] for record in members})}": members
        for group, members in (groups | {"all": found}).items()
    }


def grid_differences(members: list[Record]) -> dict[str, Estimate]:
    """Over-all of D-CLOSE less that of D-RISE with each grid, then of each pair of grids; 2000 masks."""
    pairs = {f"D-CLOSE less {label}": (f"dclose {SWEEP}", name) for label, name in GRID_RUNS.items()}
    for one, other in combinations(GRID_RUNS, 2):
        pairs[f"{one} less {other}"] = GRID_RUNS[one], GRID_RUNS[other]
    return {label: tables.difference(members, *pair, "over_all") for label, pair in pairs.items()}


def changed(found: list[Record]) -> dict[str, dict[str, Estimate]]:
    """What each of `CHANGES` changes: agreement with the map of another seed, over-all and EBPG."""
    base = f"dclose {budgets_of(found)[0]}"
    pairs = {change: (f"{base}, {change}", base) for change in CHANGES}
    columns = {"agreement, less another seed's": "agreement", "over-all, change": "over_all"}
    return tables.differences(found, pairs, columns | {"EBPG, change": "ebpg"})


def claims(found: list[Record]) -> list[Claim]:
    """The family of claims of notebook 10 about the runs that were made, from `tables.objects`."""
    runs, every = found[0]["methods"], budgets_of(found)
    few, most = every[0], every[-1]
    base = f"dclose {few}"
    of_small = [record for record in found if record["group"] == "small"]
    family = []

    def ask(sentence: str, name: str, other: str, metric: str, *rest: Any, of: Any = found) -> None:
        if name in runs and other in runs:
            family.append(Claim(sentence, tables.difference(of, name, other, metric), *rest))

    for n in every:
        sentence = f"5.1.1 \"stable\", Fig. 9: D-CLOSE's seeds agree better than D-RISE's, {n} masks each"
        ask(sentence, f"dclose {n}", f"drise {n}", "agreement")
    sentence = f'5.1.1 "even with a small number of samples": D-CLOSE\'s seeds of {few} masks agree better'
    ask(f"{sentence} than D-RISE's of {most}", base, f"drise {most}", "agreement")
    for n in every:
        sentence = f"in the box alone D-CLOSE's seeds agree better than D-RISE's, {n} masks each"
        ask(sentence, f"dclose {n}", f"drise {n}", "agreement_in_box")
    for n in (n for n in every if f"shuffled dclose {n}" in runs):
        sentence = "less the agreement on the shuffled network, D-CLOSE's seeds agree better than D-RISE's"
        lead = difference(found, learned(f"dclose {n}"), learned(f"drise {n}"))
        family.append(Claim(f"{sentence}, {n} masks each", lead))
    for called, metric, margin in (
        ("EBPG", "ebpg", 0.02), ("over-all", "over_all", 0.02), ("agreement of seeds", "agreement", 0.05)
    ):  # fmt: skip
        sentence = f'5.1.1 "without being influenced by the number of generated samples": {called}'
        ask(f"{sentence}, {few} to {most}, within {margin}", f"dclose {most}", base, metric, "within", margin)
    for n in every:
        sentence = f'5.1.1 "better-quality": over-all above D-RISE\'s of 16 x 16 cells, {n} masks each'
        ask(sentence, f"dclose {n}", f"drise {n}", "over_all")
    for label, name in GRID_RUNS.items():
        if name != f"drise {SWEEP}":  # asked above
            sentence = f"5.1.1 one setting of D-CLOSE: over-all above that of D-RISE with {label} cells"
            ask(sentence, f"dclose {SWEEP}", name, "over_all")
    for other in ("16 x 16", "32 x 32"):
        sentence = "5.1.1 D-RISE depends on its grid: for small objects 8 x 8 cells have more over-all than"
        ask(f"{sentence} {other}", GRID_RUNS["8 x 8"], GRID_RUNS[other], "over_all", of=of_small)
    for change in CHANGES:
        sentence = f'5.1 stable "when changing parameters": {change}, over-all not lower by more than 0.02'
        ask(sentence, f"{base}, {change}", base, "over_all", "above", -0.02)
    for change in CHANGES:
        sentence = (
            f'5.1 stable "when changing parameters": {change}, agreement with the unchanged map at most 0.05 '
            "lower than that of two unchanged maps"
        )
        ask(sentence, f"{base}, {change}", base, "agreement", "above", -0.05)
    return family


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = study_parser("stability", "Stability, tuning and leakage over a data set.")
    parser.add_argument("--coco", metavar="DIR", help="default: 20 planted scenes")
    parser.add_argument("--detector", default="planted", help="default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images, in random order")
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS, metavar="N", help="of masks")
    parser.add_argument("--seeds-only", action="store_true", help="no grids and no changed parameters")
    options = vars(parser.parse_args(arguments))

    def work() -> Path:
        coco, seeds_only = options.pop("coco"), options.pop("seeds_only")
        others: Record = {"grids": (), "changes": ()} if seeds_only else {}
        budgets = sorted({checks.at_least("budgets", n, 1) for n in options.pop("budgets")})
        layers = bool(detector_of(options["detector"]).stages)
        runs = planned_runs(budgets, layers=layers, **others)
        settings: Record = {"runs": runs, "steps": STEPS}
        data = drawn(checks.path(options["out"]) / "scenes", 20) if coco is None else read_coco(coco)
        study = partial(study_image, **settings)
        known = settings | {"class_agnostic": True}
        return study_photos(data=data, study_image=study, settings=known, **options).path

    return study_command("stability", work)


if __name__ == "__main__":
    sys.exit(main())
