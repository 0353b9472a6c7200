"""Score methods against the truth: ``python -m dclose_nb.planted.truth OUT``.

Writes one record a scene and detector as it is done (a stopped run goes on from there) and, from
the records, a table of means with bootstrap intervals.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import checks, metrics
from ..detection import Detections, Detector, match
from ..detectors import load_detector
from ..explanation import explain
from ..files import atomic_write, write_errors
from ..metrics import rank_correlation
from ..planted import scores
from ..planted.rule_detector import RuleDetector
from ..planted.scene import Part, Scene, scene
from ..similarity import mask_weights
from .coco import command
from .records import Record, Records, mean_with_interval
from .sanity import randomise

METHODS = ("dclose", "drise")
LAYOUTS = ("mixed", "mixed", "decoy", "overlap")  # of scene number 0, 1, 2, 3 and so on
DETECTORS = ("planted", "planted_two_stage", "rule: sum")
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
    """Loss of a target's weight (Eq. 6) for each pixel of a part that is masked alone, (P,) float64."""
    canvas = detector.prepare(drawn.image)
    kept = torch.ones(1 + len(parts), 1, *canvas.pixels.shape[1:])
    for mask, part in zip(kept[1:], parts):
        mask[0][canvas.window] = 1 - torch.tensor(part.mask, dtype=torch.float32)
    proposals = detector.predict(canvas.pixels * kept)
    weights = mask_weights(proposals, *canvas.vectors(target))[:, 0].double().numpy()
    return (weights[0] - weights[1:]) / [part.mask.sum() for part in parts]


def score_scene(
    detector: Detector, drawn: Scene, *, n_masks: int, twice: bool = False, seed: int = 0
) -> list[Record]:
    """Scores of every method and control on the objects that a detector finds in a scene.

    Parameters
    ----------
    detector : Detector
        Trained on planted scenes, or this scene's `RuleDetector` with the rule "sum".
    drawn : Scene
    n_masks : int
        Budget of each explanation.
    twice : bool
        Explain with a second seed and with shuffled weights as well.
    seed : int
        Of the random maps.

    Returns
    -------
    list of dict
        A record an object and method: ``object`` (its index in the scene), ``label``, ``method``
        and the keys of `SCORES`, None where a score does not apply.
    """
    found = detector.detect(drawn.image)
    pairs = match(found, drawn.boxes, drawn.names)
    if not pairs:
        return []
    targets, objects = found[[row for row, _ in pairs]], [thing for _, thing in pairs]
    ruled = isinstance(detector, RuleDetector)

    def maps(by: Detector, method: str, mask_seed: int) -> np.ndarray:
        settings: dict[str, Any] = {"n_masks": n_masks, "seed": mask_seed, "progress": False}
        return explain(by, drawn.image, targets, method=method, **settings).saliency

    first = {method: maps(detector, method, 0) for method in METHODS}
    again: dict[str, np.ndarray] = {}
    untrained: dict[str, np.ndarray] = {}
    if twice:
        again = {method: maps(detector, method, 1) for method in METHODS}
        if not ruled:
            # with masks of its own: maps of the same masks share their sampling noise
            untrained = {method: maps(randomise(detector), method, 1) for method in METHODS}

    records = []
    for k, (target, thing) in enumerate(zip(targets, objects)):
        own = drawn.parts[thing]
        unused = [part for part in own if ruled and part.role == "edge"]
        used = [part for part in own if not (ruled and part.role == "edge")]
        inert = [*drawn.distractors, *unused]
        others = [part for parts in drawn.parts if parts is not own for part in parts]
        effects = removal_effects(detector, drawn, target, own)
        shape, box = drawn.owner.shape, target.boxes[0]
        causal, without_effect = _union(used, shape), _union(inert, shape)
        other = _union(others, shape)
        in_box = scores.filled_box(shape, box)
        candidates = {method: first[method][k] for method in METHODS}
        candidates |= {
            "random map": scores.random_map(shape, seed=1000 * seed + thing),
            "centre Gaussian": scores.centre_gaussian(shape),
            "filled box": in_box,
        }
        if isinstance(detector, RuleDetector):
            candidates["truth"] = detector.true_map(target)
        for method, saliency in candidates.items():
            record: Record = dict.fromkeys(SCORES)
            record["relevance_mass"] = scores.relevance_mass(saliency, causal)
            record["relevance_rank"] = scores.relevance_rank(saliency, causal)
            record["part_correlation"] = scores.part_correlation(saliency, own, effects)
            record["energy_in_box"] = scores.relevance_mass(saliency, in_box > 0)
            if inert:
                record["false_mass"] = scores.false_mass(saliency, without_effect)
            if others:
                record["leakage"] = metrics.leakage(saliency, drawn.causal_masks[thing], other)
            if method in again:
                record["seed_spread"] = scores.seed_spread(np.stack([saliency, again[method][k]]))
            if method in untrained:
                likeness = rank_correlation(saliency, untrained[method][k])
                record |= {"random_weights": abs(likeness), "random_empty": float(np.isnan(likeness))}
            for name, value in record.items():
                if value is not None and np.isnan(value):
                    record[name] = None
            records.append({"object": thing, "label": target.names[0], "method": method, **record})
    return records


def _union(parts: list[Part], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for part in parts:
        mask |= part.mask
    return mask


def run(
    folder: str | Path,
    *,
    detectors: Iterable[str] = DETECTORS,
    scenes: int = 100,
    n_masks: int = 500,
    progress: bool = True,
) -> Path:
    """Score `METHODS` and controls on scenes 0, 1, ... of `LAYOUTS`.

    Parameters
    ----------
    folder : path
        ``records.jsonl`` is kept there, a line a scene and detector; what it holds is not done again.
    detectors : iterable of str
        Some of `DETECTORS`.
    scenes : int
    n_masks : int
    progress : bool

    Returns
    -------
    Path
        ``planted_truth.csv`` in `folder`, see `table`.

    Raises
    ------
    InputError
        An unknown detector, records of another budget, or a folder that cannot be written.
    """
    names = [checks.choice("detector", name, DETECTORS) for name in detectors]
    checks.at_least("scenes", scenes, 1)
    checks.at_least("n_masks", n_masks, 1)
    folder = checks.path(folder)
    records = Records(folder / "records.jsonl", {"n_masks": n_masks})
    done = {(line["detector"], line["scene"]) for line in records.lines}
    todo = [(name, k) for k in range(scenes) for name in names if (name, k) not in done]
    makers = {name: _maker(name) for name, _ in todo}
    for name, number in tqdm(todo, unit="scene", disable=not progress):
        drawn = scene(number, layout=LAYOUTS[number % len(LAYOUTS)])
        scored = score_scene(
            makers[name](drawn), drawn, n_masks=n_masks, twice=number % TWICE == 0, seed=number
        )
        records.append({"detector": name, "scene": number, "objects": scored})
    path = folder / "planted_truth.csv"
    with write_errors(folder), atomic_write(path) as unfinished:
        _write_csv(unfinished, table(records.lines))
    return path


def _maker(name: str) -> Callable[[Scene], Detector]:
    if name.startswith("rule: "):
        return lambda drawn: RuleDetector(drawn, name.removeprefix("rule: "))
    detector = load_detector(name)
    return lambda drawn: detector


def table(lines: list[Record]) -> list[Record]:
    """Means over objects with 95 % bootstrap intervals, scenes being drawn anew.

    Parameters
    ----------
    lines : list of dict
        As in ``records.jsonl``.

    Returns
    -------
    list of dict
        ``detector``, ``method``, ``score``, ``mean``, ``low``, ``high``, ``objects``, ``scenes``;
        one for each score of each method that applies to an object at least.
    """
    values: dict[tuple[str, str, str], list[list[float]]] = {}
    for line in lines:
        found: dict[tuple[str, str, str], list[float]] = {}
        for record in line["objects"]:
            for score in SCORES:
                if record[score] is not None:
                    found.setdefault((line["detector"], record["method"], score), []).append(record[score])
        for where, of_scene in found.items():
            values.setdefault(where, []).append(of_scene)
    rows = []
    for (detector, method, score), by_scene in values.items():
        numbers = zip(("mean", "low", "high"), mean_with_interval(by_scene).tolist())
        rows.append(
            {"detector": detector, "method": method, "score": score}
            | {name: round(number, 4) for name, number in numbers}
            | {"objects": sum(map(len, by_scene)), "scenes": len(by_scene)}
        )
    return rows


def _write_csv(path: Path, rows: list[Record]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["detector"])
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Score methods against the truth of planted scenes.")
    parser.add_argument("folder", metavar="OUT", help="records and table; a stopped run goes on from there")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=DETECTORS)
    parser.add_argument("--scenes", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--n-masks", type=int, default=500, help="default: %(default)s")
    args = vars(parser.parse_args())
    return command("truth", lambda: run(args.pop("folder"), **args))


if __name__ == "__main__":
    sys.exit(main())
