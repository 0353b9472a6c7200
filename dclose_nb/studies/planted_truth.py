"""How near do maps come to the truth of planted scenes? Notebook 09.

``python -m dclose_nb.studies.planted_truth OUT`` writes records and, beside them, their `table`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checks, metrics
from ..detection import Detections, Detector, match
from ..explanation import explain
from ..files import atomic_write, write_errors
from ..methods import make
from ..planted import scores
from ..planted.rule_detector import RuleDetector
from ..planted.scene import Part, Scene, scene
from ..similarity import mask_weights
from .inference import mean, rounded
from .records import Record, Records
from .runner import Task, detector_of, run_study, study_command, study_parser
from .sanity import randomise

METHODS = ("dclose", "drise")
LAYOUTS = ("mixed", "mixed", "decoy", "overlap")  # of scene number 0, 1, 2, 3 and so on
DETECTORS = ("planted", "planted_two_stage", "rule: sum")
TABLE = "planted_truth.csv"
COLUMNS = ("detector", "method", "score", "mean", "low", "high", "objects", "scenes")
TWICE = 5  # every fifth scene is explained with a second seed, and with shuffled weights

SCORES = {
    "relevance_mass": "energy on the object's visible pixels",
    "relevance_rank": "the highest pixels that lie on it",
    "part_correlation": "rank correlation with the effect of each part",
    "false_mass": "energy on what has no effect",
    "leakage": "energy on another object, of that on both",
    "energy_in_box": "energy in the box (EBPG), for comparison",
    "seed_spread": "deviation from seed to seed",
    "random_weights": "absolute rank correlation with the map of shuffled weights",
    "random_empty": "share of maps that are empty with shuffled weights",
}


@torch.inference_mode()
def removal_effects(detector: Detector, drawn: Scene, target: Detections, parts: list[Part]) -> np.ndarray:
    """Loss of a target's weight (Eq. 6) per pixel when each part alone is masked, (P,) float64."""
    canvas = detector.prepare(drawn.image)
    shown = canvas.pixels.repeat(1 + len(parts), 1, 1, 1)  # the first has all parts
    for pixels, part in zip(shown[1:], parts):
        pixels[:, *canvas.window] *= torch.tensor(~part.mask, device=pixels.device)
    proposals = detector.predict(shown)
    weights = mask_weights(proposals, *canvas.vectors(target))[:, 0].double().cpu().numpy()
    return (weights[0] - weights[1:]) / [part.mask.sum() for part in parts]


def study_scene(
    detector: Detector, drawn: Scene, *, n_masks: int, twice: bool = False, seed: int = 0
) -> Record:
    """Score every method and control on the objects that a detector finds in a scene.

    The detector is trained on planted scenes, or it is this scene's `RuleDetector` with the rule "sum". Each
    map is made with `n_masks` masks; with `twice`, also with a second seed and with shuffled weights.
    `seed` decides the random maps.

    Each of ``objects`` is for an object and a method: ``object`` (its index in the scene), ``label``,
    ``method`` and the keys of `SCORES`, None if a score does not apply.
    """
    found = detector.detect(drawn.image)
    pairs = match(found, drawn.boxes, drawn.names)
    if not pairs:
        return {"objects": []}
    targets = found[[row for row, _ in pairs]]

    def maps_of(network: Detector, seed: int) -> dict[str, np.ndarray]:
        run: dict[str, Any] = {"n_masks": n_masks, "seed": seed, "progress": False}
        return {m: explain(network, drawn.image, targets, method=m, **run).saliency for m in METHODS}

    first = maps_of(detector, 0)
    again = maps_of(detector, 1) if twice else {}
    # Shuffled weights get other masks: maps of the same masks share their sampling noise.
    has_weights = not isinstance(detector, RuleDetector)
    shuffled = maps_of(randomise(detector), 1) if twice and has_weights else {}

    objects = []
    for k, (_, number) in enumerate(pairs):
        score = truth_scores(detector, drawn, number, targets[k])
        maps = {method: first[method][k] for method in METHODS}
        maps |= controls(detector, drawn, targets[k], seed=1000 * seed + number)
        for method, saliency in maps.items():
            values = score(saliency)
            if method in again:
                values["seed_spread"] = scores.seed_spread(np.stack([saliency, again[method][k]]))
            if method in shuffled:
                values["random_weights"] = abs(metrics.rank_correlation(saliency, shuffled[method][k]))
                values["random_empty"] = float(np.isnan(values["random_weights"]))
            known = {name: value for name, value in values.items() if not np.isnan(value)}
            where = {"object": number, "label": targets.names[k], "method": method}
            objects.append(where | dict.fromkeys(SCORES) | known)
    return {"objects": objects}


def truth_scores(
    detector: Detector, drawn: Scene, number: int, target: Detections
) -> Callable[[np.ndarray], dict[str, float]]:
    """A function that scores a map (H, W) of `target`, the detection of the scene's object `number`.

    It gives those of `SCORES` that need no second map and that apply to the object.
    """
    own, ruled = drawn.parts[number], isinstance(detector, RuleDetector)
    used = [part for part in own if not (ruled and part.role == "edge")]
    inert = [*drawn.distractors, *(part for part in own if ruled and part.role == "edge")]
    others = [part for parts in drawn.parts if parts is not own for part in parts]
    causal, without_effect, other = (
        np.any([np.zeros(drawn.owner.shape, dtype=bool), *(part.mask for part in parts)], axis=0)
        for parts in (used, inert, others)
    )
    effects = removal_effects(detector, drawn, target, own)

    def score(saliency: np.ndarray) -> dict[str, float]:
        values = {
            "relevance_mass": scores.relevance_mass(saliency, causal),
            "relevance_rank": scores.relevance_rank(saliency, causal),
            "part_correlation": scores.part_correlation(saliency, own, effects),
            "energy_in_box": metrics.ebpg(saliency, target.boxes[0]),
        }
        if inert:
            values["false_mass"] = scores.relevance_mass(saliency, without_effect)
        if others:
            values["leakage"] = metrics.leakage(saliency, drawn.causal_masks[number], other)
        return values

    return score


def controls(detector: Detector, drawn: Scene, target: Detections, *, seed: int) -> dict[str, np.ndarray]:
    """Maps (H, W) that know at most the box, and the true map if the detector is a formula."""
    shape = drawn.owner.shape
    maps = {
        "random map": scores.random_map(shape, seed=seed),
        "centre Gaussian": scores.centre_gaussian(shape),
        "filled box": scores.filled_box(shape, target.boxes[0]),
    }
    return maps | ({"truth": detector.true_map(target)} if isinstance(detector, RuleDetector) else {})


def study_planted_truth(
    out: str | Path,
    *,
    detectors: Iterable[str] = DETECTORS,
    scenes: int = 100,
    n_masks: int = 500,
    **run_options: Any,
) -> Records:
    """Study scenes 0, 1, ... of `LAYOUTS`, or resume a run that was stopped, and write the `table`.

    Parameters
    ----------
    out : path
        Folder, see `runner.run_study`; a line has ``detector``, ``scene`` and what `study_scene` returns.
        `TABLE` is written beside them.
    detectors : iterable of str
        Some of `DETECTORS`.
    scenes, n_masks : int
        Number of scenes, and of masks of each explanation.
    **run_options
        ``workers``, ``executor`` and ``progress`` of `runner.run_study`, whose errors are raised here too.
    """
    names = [checks.choice("detector", name, DETECTORS) for name in detectors]
    numbers = range(checks.at_least("scenes", scenes, 1))
    settings = {"n_masks": make("dclose", n_masks=n_masks).n_masks}  # at least one mask for each level
    tasks = [Task({"detector": name, "scene": k}, (name, k)) for k in numbers for name in names]
    records = run_study(out, settings, tasks, partial(_study_number, **settings), **run_options)
    path = records.path.with_name(TABLE)
    with write_errors(path.parent), atomic_write(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table(records.lines))
    return records


def _study_number(name: str, number: int, *, n_masks: int) -> Record:
    drawn = scene(number, layout=LAYOUTS[number % len(LAYOUTS)])
    rule = name.removeprefix("rule: ")
    detector = detector_of(name) if rule == name else RuleDetector(drawn, rule)
    return study_scene(detector, drawn, n_masks=n_masks, twice=number % TWICE == 0, seed=number)


def table(lines: Iterable[Record]) -> list[Record]:
    """Means over objects with 95 % intervals over scenes: a row of `COLUMNS` for each score that applies.

    A score from fewer scenes than `inference.LEAST_IMAGES` has None as the ends of its interval.
    """
    by_method: dict[tuple[str, str], list[Record]] = {}
    for line in sorted(lines, key=itemgetter("detector", "scene")):
        for record in line["objects"]:
            where = line["detector"], record["method"]
            by_method.setdefault(where, []).append(record | {"image": line["scene"]})
    rows = []
    for (detector, method), objects in by_method.items():
        for score in SCORES:
            known = [record for record in objects if record[score] is not None]
            if (found := mean(known, itemgetter(score))).n_objects:
                cells = [*map(rounded, found[:3]), found.n_objects, found.n_images]
                rows.append(dict(zip(COLUMNS, (detector, method, score, *cells))))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = study_parser("planted_truth", "Score methods against the truth of planted scenes.")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=DETECTORS)
    parser.add_argument("--scenes", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--n-masks", type=int, default=500, help="default: %(default)s")
    options = vars(parser.parse_args(arguments))
    return study_command("planted_truth", lambda: study_planted_truth(**options).path.with_name(TABLE))


if __name__ == "__main__":
    sys.exit(main())
