"""How near do maps come to the truth of planted scenes? Notebook 09.

``python -m dclose_nb.studies.planted_truth OUT`` writes records; `objects` reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checks, metrics
from ..detection import Canvas, Detections, Detector, Proposals, match
from ..explanation import explain
from ..methods import make
from ..planted import scores
from ..planted.rule_detector import RuleDetector
from ..planted.scene import Scene, scene
from ..similarity import target_weights
from .evaluation import ablated
from .inference import rounded
from .records import Record, Records
from .runner import Task, detector_of, run_study, study_command, study_parser

METHODS = ("dclose", "contrast", "regression", "drise", "sodex")  # that mask; MFPP's come from D-CLOSE's
STUDIED = ("sum", "weighted", "and", "or", "context", "landmark")
DETECTORS = ("rules", "planted", "planted_two_stage")
LAYOUTS = ("mixed", "mixed", "decoy", "overlap")  # of scene number 0, 1, 2, 3 and so on
FIRST = 60  # scenes below are those of the design part and of benchmarks/quality.py
BUDGETS = (200, 500, 4000)
DEAR, EVERY = 1000, 3  # networks see every third scene only with more masks than this
LEAST_EFFECT = 0.01  # share of a score from which a part has an effect
WAYS = ("hidden", "removed")  # to take a part away: hide it in black, or draw the scene without it

SCORES = {
    "truth_mass": "energy on what has an effect",
    "truth_rank": "the highest pixels that lie on it",
    "truth_shared": "energy in common with the true map",
    "truth_parts": "rank correlation with the effect of each part",
    "false_mass": "energy on the object's parts and on stones that have no effect",
    "on_ground": "energy on the ground outside the box",
    "on_stone": "energy on the largest stone outside the box",
    "localisation_mass": "energy on the object's visible pixels",
    "localisation_rank": "the highest pixels that lie on them",
    "parts_hidden": "rank correlation with the loss of weight when each part is hidden in black",
    "parts_removed": "the same when the scene is drawn without the part",
    "leakage": "energy on other objects, of that on all objects",
    "energy_in_box": "energy in the box (EBPG), for comparison",
}


class Rules(Detector):
    """All of `STUDIED` for one scene in one detector: they share masks, and each has its own classes."""

    def __init__(self, drawn: Scene) -> None:
        self.rules = [RuleDetector(drawn, rule) for rule in STUDIED]
        super().__init__("rules", tuple(f"{rule} {name}" for rule in STUDIED for name in drawn.class_names))

    def prepare(self, image: np.ndarray) -> Canvas:
        return self.rules[0].prepare(image)

    def predict(self, pixels: torch.Tensor) -> Proposals:
        visible = self.rules[0].visibility(pixels)
        proposed = [rule.propose(visible) for rule in self.rules]
        boxes, objectness, probs = (torch.cat(parts, dim=1) for parts in zip(*proposed))
        rule = torch.eye(len(STUDIED)).repeat_interleave(len(proposed[0].objectness[0]), dim=0)  # (T, R)
        return Proposals(boxes, objectness, (rule[..., None] * probs[:, :, None]).flatten(2))


def removal_effects(
    detector: Detector, drawn: Scene, number: int, target: Detections, way: str = "hidden"
) -> np.ndarray:
    """Loss of a target's weight (Eq. 6) per pixel when each part alone is taken away, (P,) float64.

    The parts are those of the scene's object `number`, and `way` is one of `WAYS`.
    """
    checks.choice("way", way, WAYS)
    parts = drawn.parts[number]
    images = [
        drawn.image * ~part.mask[..., None] if way == "hidden" else drawn.without(number, part.name)
        for part in parts
    ]
    whole, *left = (float(target_weights(detector, image, target)[0]) for image in (drawn.image, *images))
    return (whole - np.array(left)) / [part.mask.sum() for part in parts]


def maps_by_rule(
    drawn: Scene, number: int, **options: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The true map and a method's map (H, W) of a scene's object under each of `STUDIED`.

    All rules share the masks. `options` are those of `explain`.
    """
    detector = Rules(drawn)
    found = detector.detect(drawn.image)
    names = [f"{rule} {drawn.names[number]}" for rule in STUDIED]
    rows = {
        found.names[row]: row
        for row, _ in match(found, np.repeat(drawn.boxes[[number]], len(names), 0), names)
    }
    explained = explain(
        detector, drawn.image, found[[rows[name] for name in names]], progress=False, **options
    )
    order = [explained.detections.names.index(name) for name in names]
    truths = {}
    for rule in detector.rules:
        own = rule.detect(drawn.image)
        ((row, _),) = match(own, drawn.boxes[[number]], [drawn.names[number]])
        truths[rule.rule] = rule.true_map(own[row])
    return truths, dict(zip(STUDIED, explained.saliency[order]))


def cow_scores(detector: Detector, n: int = 40) -> tuple[list[float], list[float]]:
    """Scores of `n` cows on a meadow and of `n` elsewhere, each alone in its scene.

    Without its cow a scene counts 0. Detections count from a confidence of 0.01 on.
    """

    def best(drawn: Scene) -> float:
        found = detector.detect(drawn.image, confidence=0.01)
        cow = found.class_probs[:, drawn.class_names.index("cow")]
        return float((found.objectness * cow).max(initial=0))

    home: list[float] = []
    seed = 0
    while len(home) < n:
        small = scene(seed, n_objects=1, size=64)  # as quick to draw as it is small
        if small.ground == "meadow" and small.names == ["cow"]:
            home.append(best(scene(seed, n_objects=1)))
        seed += 1
    return home, [best(scene(seed, layout="out of place")) for seed in range(n)]


def study_scene(detector: Detector, drawn: Scene, *, n_masks: int, seed: int = 0) -> Record:
    """Score the maps of every method, and `controls`, on the objects that a detector finds in a scene.

    The detector is trained on planted scenes, or it is `Rules` of this scene or one `RuleDetector`. `seed`
    decides masks and random maps.

    Each of ``objects`` has ``detector``, ``object`` (its index in the scene), ``label`` and ``methods``, with
    those of `SCORES` that apply to each method (named with its number of masks) and control.
    """
    found = detector.detect(drawn.image)
    detectors = detector.rules if isinstance(detector, Rules) else [detector]
    n = len(detectors[0].class_names)
    matched = []  # rows of `found`, and what is scored
    for k, own in enumerate(detectors):
        rows = np.flatnonzero(found.labels // n == k)
        probs = found.class_probs[rows, k * n : (k + 1) * n]
        known = Detections(found.boxes[rows], found.objectness[rows], probs, own.class_names)
        for row, number in match(known, drawn.boxes, drawn.names):
            matched.append((rows[row], own, number, known[row]))
    if not matched:
        return {"objects": []}
    matched.sort(key=itemgetter(0))  # as `found` is
    maps = _maps(detector, drawn.image, found[[row for row, *_ in matched]], n_masks, seed)
    objects = []
    for k, (_, own, number, target) in enumerate(matched):
        score = truth_scores(own, drawn, number, target)
        of_object = {name: saliency[k] for name, saliency in maps.items()}
        of_object |= controls(own, drawn, number, target, seed=1000 * seed + number)
        line: Record = {"detector": own.name, "object": number, "label": target.names[0]}
        objects.append(line | {"methods": {name: score(each) for name, each in of_object.items()}})
    return {"objects": objects}


def _maps(
    detector: Detector, image: np.ndarray, targets: Detections, n_masks: int, seed: int
) -> dict[str, np.ndarray]:
    """Maps (n, H, W) of every method that applies to a detector."""
    maps = {}
    for method in methods_with(n_masks):
        run: Record = {"n_masks": n_masks, "seed": seed, "progress": False}
        e = explain(detector, image, targets, method=method, **run)
        maps[f"{method} {n_masks}"] = e.saliency
        if method == "dclose":
            maps[f"mfpp {n_masks}"] = ablated(e, detector.prepare(image), "mfpp")
    if detector.feature_layers:
        maps["gradcam"] = explain(detector, image, targets, method="gradcam", progress=False).saliency
    return maps


def methods_with(n_masks: int) -> list[str]:
    """Those of `METHODS` that can take this number of masks."""
    return [method for method in METHODS if n_masks <= (make(method).most or n_masks)]


def truth_scores(
    detector: Detector, drawn: Scene, number: int, target: Detections
) -> Callable[[np.ndarray], dict[str, float]]:
    """A function that scores a map (H, W) of `target`, the detection of the scene's object `number`.

    It gives those of `SCORES` that apply: of truth for a `RuleDetector`, whose exact map is known, and of
    localisation for a network, of whose object only the outline is known.
    """
    own, outline = drawn.parts[number], drawn.causal_masks[number]
    others = drawn.causal_masks.any(axis=0) & ~outline
    if isinstance(detector, RuleDetector):
        kind, truth = "truth", detector.true_map(target)
        masks = [player.mask for player in detector.players]
        causal = np.any([m for m in masks if truth[m].sum() > LEAST_EFFECT * truth.sum()], axis=0)
        things = np.any([outline, *(rock.mask for rock in drawn.distractors)], axis=0)
        regions = {
            "false_mass": things & ~causal,
            "on_ground": drawn.ground_mask & (scores.filled_box(truth.shape, drawn.boxes[number]) == 0),
            "on_stone": np.any([masks[p] for p in detector.landmark(number)], axis=0),
        }
        effects = {"truth_parts": np.array([truth[part.mask].mean() for part in own])}
    else:
        kind, truth, causal, regions = "localisation", None, outline, {}
        effects = {f"parts_{way}": removal_effects(detector, drawn, number, target, way) for way in WAYS}

    def score(saliency: np.ndarray) -> dict[str, float]:
        values = {
            f"{kind}_mass": scores.relevance_mass(saliency, causal),
            f"{kind}_rank": scores.relevance_rank(saliency, causal),
            "energy_in_box": metrics.ebpg(saliency, target.boxes[0]),
        }
        values |= {name: scores.part_correlation(saliency, own, known) for name, known in effects.items()}
        values |= {name: scores.relevance_mass(saliency, at) for name, at in regions.items() if at.any()}
        if truth is not None:
            values["truth_shared"] = scores.shared_energy(saliency, truth)
        if others.any():
            values["leakage"] = metrics.leakage(saliency, outline, others)
        return {name: value for name in SCORES if (value := rounded(values.get(name, np.nan))) is not None}

    return score


def controls(
    detector: Detector, drawn: Scene, number: int, target: Detections, *, seed: int
) -> dict[str, np.ndarray]:
    """Maps (H, W) that know at most the box, and one that knows what decides.

    For a `RuleDetector` that is the true map; for a network, the effects of the parts when they are removed.
    """
    shape = drawn.owner.shape
    maps = {
        "random map": scores.random_map(shape, seed=seed),
        "centre Gaussian": scores.centre_gaussian(shape),
        "filled box": scores.filled_box(shape, target.boxes[0]),
    }
    if isinstance(detector, RuleDetector):
        return maps | {"truth": detector.true_map(target)}
    effects = removal_effects(detector, drawn, number, target, "removed")
    return maps | {"parts removed": np.tensordot(effects, [part.mask for part in drawn.parts[number]], 1)}


def study_planted_truth(
    out: str | Path,
    *,
    detectors: Iterable[str] = DETECTORS,
    scenes: int = 24,
    budgets: Sequence[int] = BUDGETS,
    **run_options: Any,
) -> Records:
    """Study scenes `FIRST`, `FIRST` + 1, ... of `LAYOUTS`, or resume a run that was stopped.

    Parameters
    ----------
    out : path
        Folder, see `runner.run_study`; a line has ``detector``, ``scene``, ``n_masks`` and what `study_scene`
        returns.
    detectors : iterable of str
        Some of `DETECTORS`.
    scenes : int
        Number of scenes. With more than `DEAR` masks, networks see one of `EVERY`.
    budgets : sequence of int
        Numbers of masks of each explanation.
    **run_options
        ``workers``, ``executor`` and ``progress`` of `runner.run_study`, whose errors are raised here too.
    """
    names = [checks.choice("detector", name, DETECTORS) for name in detectors]
    numbers = range(FIRST, FIRST + checks.at_least("scenes", scenes, 1))
    for budget in budgets:
        for method in methods_with(budget):
            make(method, n_masks=budget)  # raises here what would fail later
    options = {method: {**asdict(make(method)), "n_masks": "of each line"} for method in METHODS}
    networks = [{"name": name, **detector_of(name).provenance} for name in DETECTORS if name != "rules"]
    settings = {"rules": STUDIED, "detectors": networks, "layouts": LAYOUTS, "methods": options}
    tasks = [
        Task({"detector": name, "scene": number, "n_masks": budget}, (name, number, budget))
        for budget in budgets
        for name in names
        for number in numbers
        if name == "rules" or budget <= DEAR or number % EVERY == 0
    ]
    return run_study(out, settings, tasks, _study_number, **run_options)


def studied_scene(number: int) -> Scene:
    """The scene of this number; `LAYOUTS` take turns."""
    return scene(number, layout=LAYOUTS[number % len(LAYOUTS)])


def _study_number(name: str, number: int, n_masks: int) -> Record:
    drawn = studied_scene(number)
    detector = Rules(drawn) if name == "rules" else detector_of(name)
    return study_scene(detector, drawn, n_masks=n_masks, seed=number)


def objects(records: Records, detector: str) -> list[Record]:
    """Objects, each with its scene as ``image``, for `tables.mean` and `tables.difference`.

    Methods of "rules" are named as in "landmark: dclose 500". Each object has every method and score, None
    where it was not studied or does not apply.
    """
    found: dict[tuple[int, int], Record] = {}
    for line in sorted(records.lines, key=itemgetter("scene", "n_masks")):
        for record in line["objects"] if line["detector"] == detector else ():
            where = line["scene"], record["object"]
            blank = {"image": where[0], "object": where[1], "label": record["label"], "methods": {}}
            own = found.setdefault(where, blank)
            rule = record["detector"].removeprefix("rule: ") + ": " if detector == "rules" else ""
            own["methods"] |= {rule + name: values for name, values in record["methods"].items()}
    methods = dict.fromkeys(name for record in found.values() for name in record["methods"])
    for record in found.values():
        known = record["methods"]
        record["methods"] = {name: dict.fromkeys(SCORES) | known.get(name, {}) for name in methods}
    return list(found.values())


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = study_parser("planted_truth", "Score methods against the truth of planted scenes.")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=DETECTORS)
    parser.add_argument("--scenes", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS, metavar="N", help="masks")
    options = vars(parser.parse_args(arguments))
    return study_command("planted_truth", lambda: study_planted_truth(**options).path)


if __name__ == "__main__":
    sys.exit(main())
