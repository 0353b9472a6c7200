"""Section 4.3: does a map depend on what the network has learned (Fig. 4)? Notebook 07.

``python -m dclose_nb.studies.sanity OUT`` randomises weights in a cascade and layer by layer (Adebayo
et al. 2018). The trained network's detections are explained on networks that have lost a part of what
they learned, and the maps are compared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checks, metrics
from ..checks import InputError
from ..detection import Detector
from ..detectors.planted import NETWORKS
from ..explanation import explain
from ..methods import make, options_of
from ..planted.scene import scene
from ..planted.scores import random_map
from ..similarity import target_weights
from .coco import Truth, matched, read_coco, record_of
from .inference import estimate, rounded
from .records import Record, Records
from .runner import Task, detector_of, run_study, study_command, study_parser

SCORES = {"rank": metrics.rank_correlation, "ssim": metrics.ssim, "hog": metrics.hog_correlation}
KINDS = ("cascade", "alone", "full")
# To compare a score with: the same network with other masks, and two maps that show nothing
REFERENCES = ("other masks", "moved map", "random map")


def randomise(detector: Detector, stages: Iterable[str] | None = None, *, seed: int = 0) -> Detector:
    """A copy of a detector in which the weights of some layers are shuffled, each layer by itself.

    What was learned is lost, but each layer keeps its scale. Newly initialised weights are of no use: with
    them and a folded batch-norm, a YOLOX gives the same answer to a photo and to a black image, and every
    map is empty. The running means of a batch-norm that is not folded are kept.

    Parameters
    ----------
    detector : Detector
        With a PyTorch network as its `module`. It does not change.
    stages : iterable of str, optional
        Keys of the detector's `stages`; by default every parameter.
    seed : int
        The same seed shuffles a layer in the same way whatever the stages are, so that each step of a
        cascade continues the one before.

    Raises
    ------
    InputError
        A detector without parameters, or a stage that it does not have.

    Examples
    --------
    >>> import dclose_nb as dc
    >>> detector = dc.load_detector("planted")
    >>> list(detector.stages)
    ['predictions', 'head', 'neck', 'dark5', 'dark4', 'dark3', 'dark2', 'stem']
    >>> randomise(detector, ["predictions", "head"], seed=1).name
    'planted, shuffled predictions, head'
    """
    module = getattr(detector, "module", None)
    if not isinstance(module, torch.nn.Module) or next(module.parameters(), None) is None:
        raise InputError(f"{detector.name} has no parameters to randomise")
    names = None if stages is None else [checks.choice("stage", name, detector.stages) for name in stages]
    layers = [""] if names is None else [layer for name in names for layer in detector.stages[name]]
    shuffled = deepcopy(detector)
    shuffled.name = f"{detector.name}, shuffled {'weights' if names is None else ', '.join(names)}"
    shuffled.provenance = {"shuffled": detector.name, "stages": names, "seed": seed}
    copied: torch.nn.Module = shuffled.module  # type: ignore[attr-defined]
    chosen = {weights for layer in layers for weights in copied.get_submodule(layer).parameters()}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in copied.parameters():
            order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
            if weights in chosen:
                weights.copy_(weights.flatten()[order].view_as(weights))
    return shuffled


def steps(detector: Detector, kind: str) -> list[tuple[str, ...]]:
    """Stages that are shuffled at each step, from output to input.

    `kind` is "cascade" (one stage more at each step), "alone" (each stage by itself) or "full" (all of
    them at once). A detector that names no stages raises `InputError`.
    """
    stages = tuple(detector.stages)
    if not stages:
        raise InputError(f"{detector.name} names no stages to randomise: give its class a `stages`")
    if checks.choice("kind", kind, KINDS) == "cascade":
        return [stages[: k + 1] for k in range(len(stages))]
    return [(stage,) for stage in stages] if kind == "alone" else [stages]


def map_similarity(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Similarity of two maps (H, W) by each of `SCORES`; NaN if one is empty, see `metrics`."""
    return {name: score(a, b) for name, score in SCORES.items()}


def moved(maps: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Maps (n, H, W) moved by (n, 2) rows and columns; what leaves at one edge enters at the opposite one.

    Over all offsets, the mean rank correlation of a map with its moved copies is 0. So its absolute value
    at a random offset shows what chance gives for maps that are as smooth as this one.
    """
    pairs = zip(maps, offsets)
    return np.stack([np.roll(saliency, tuple(offset), axis=(0, 1)) for saliency, offset in pairs])


def study_image(
    detector: Detector,
    image: np.ndarray,
    truth: Truth,
    seed: int = 0,
    *,
    methods: dict[str, Record],
    kinds: Sequence[str] = ("cascade", "alone"),
) -> Record:
    """Compare the maps of the detections in an image (H, W, 3) with those that randomised networks give.

    The n detections that match the truth are explained, by each of `methods` with its options. The
    randomised networks get other masks, since maps from the same masks share sampling noise. `seed` decides
    the masks and the shuffling; for `kinds` see `steps`.

    Returns ``labels`` (n); ``left``, by kind (steps, n): the weight (Eq. 6) of each detection among what the
    randomised network proposes for the image; ``methods``, by method: ``empty`` (n), whether the trained
    network's map is; ``scores``, by kind and for each of `REFERENCES` (steps, n, 3): the `SCORES`, None
    where a map is empty.
    """
    targets, _, _ = matched(detector.detect(image), truth, image.shape)
    line: Record = {"labels": targets.names, "left": {}, "methods": {}}
    if not len(targets):
        return line

    def maps_of(network: Detector, seed: int) -> dict[str, np.ndarray]:
        return {
            name: explain(network, image, targets, method=name, seed=seed, progress=False, **options).saliency
            for name, options in methods.items()
        }

    def add_scores(where: str, maps: dict[str, np.ndarray]) -> None:
        for name, saliencies in maps.items():
            pairs = zip(first[name], saliencies)
            scores = [[rounded(score) for score in map_similarity(*pair).values()] for pair in pairs]
            line["methods"][name]["scores"].setdefault(where, []).append(scores)

    first = maps_of(detector, 2 * seed)
    for name, saliencies in first.items():
        line["methods"][name] = {"empty": list(map(metrics.is_empty, saliencies)), "scores": {}}
    offsets = np.random.default_rng(seed).integers(image.shape[:2], size=(len(targets), 2))
    noise = np.array([random_map(image.shape[:2], seed=1000 * seed + k) for k in range(len(targets))])
    add_scores("other masks", maps_of(detector, 2 * seed + 1))
    add_scores("moved map", {name: moved(saliencies, offsets) for name, saliencies in first.items()})
    add_scores("random map", dict.fromkeys(first, noise))

    planned = {kind: steps(detector, kind) for kind in kinds}
    distinct = dict.fromkeys(stages for of_kind in planned.values() for stages in of_kind)
    for stages in distinct:  # a step that two kinds share is done once
        randomised = randomise(detector, stages, seed=seed)
        left = [float(f"{weight:.3g}") for weight in target_weights(randomised, image, targets)]
        maps = maps_of(randomised, 2 * seed + 1)
        for kind in [kind for kind in kinds if stages in planned[kind]]:
            line["left"].setdefault(kind, []).append(left)
            add_scores(kind, maps)
    return line


def study_sanity(
    out: str | Path,
    *,
    detector: str | Detector = "planted",
    methods: Sequence[str] = ("dclose", "drise", "gradcam"),
    kinds: Sequence[str] = ("cascade", "alone"),
    n_masks: int = 400,
    seeds: int = 1,
    limit: int = 8,
    coco: str | Path | None = None,
    **run_options: Any,
) -> Records:
    """Check methods on planted scenes or on a data set, or resume a run that was stopped.

    Parameters
    ----------
    out : path
        Folder, see `runner.run_study`; a line has ``image``, ``seed`` and what `study_image` returns, or
        ``error`` for a photo that cannot be read.
    detector : str or Detector
    methods : sequence of str
    kinds : sequence of str
        See `steps`.
    n_masks : int
        Masks of each explanation, for methods that mask.
    seeds : int
        Shufflings for each image. Every image has its own, so that intervals cover networks too.
    limit : int
        Number of images: scenes 0, 1, ..., or the first of the data set in random order.
    coco : path, optional
        Folder of a data set in COCO format, see `coco.read_coco`; by default planted scenes.
    **run_options
        ``workers``, ``executor`` and ``progress`` of `runner.run_study`, whose errors are raised here too.
    """
    checks.at_least("seeds", seeds, 1)
    checks.at_least("limit", limit, 1)
    loaded = detector_of(detector)
    randomise(loaded)  # raises here what would fail later
    kinds = [kind for kind in dict.fromkeys(kinds) if steps(loaded, kind)]
    budgets = {name: n_masks if "n_masks" in options_of(name) else None for name in methods}
    plans = {name: asdict(make(name, n_masks=budget)) for name, budget in budgets.items()}
    settings: Record = {"detector": {"name": loaded.name, **loaded.provenance}}
    settings |= {"stages": list(loaded.stages), "kinds": kinds, "methods": plans}
    if coco is not None:
        data = read_coco(coco)
        settings["annotations_sha256"] = data.sha256
        truths = [data.truths[k] for k in np.random.default_rng(0).permutation(len(data.truths))[:limit]]
    elif loaded.name in NETWORKS:
        scenes = enumerate(map(scene, range(limit)))
        truths = [Truth(k, f"scene_{k}", s.boxes, s.names, [None] * len(s.boxes)) for k, s in scenes]
    else:
        raise InputError(f"{loaded.name} knows no planted scenes: pass a folder of COCO (coco=, --coco)")
    tasks = [
        Task({"image": truth.image, "seed": seed}, (detector, truth, seed))
        for again in range(seeds)
        for seed, truth in enumerate(truths, start=10_000 * again)
    ]
    return run_study(out, settings, tasks, partial(_study_photo, methods=plans, kinds=kinds), **run_options)


def _study_photo(detector: str | Detector, truth: Truth, seed: int, **options: Any) -> Record:
    study = partial(study_image, detector_of(detector), truth=truth, seed=seed, **options)
    return record_of(truth.photo, study)


def likeness(records: Records, where: str, method: str, score: str, *, absolute: bool = False) -> np.ndarray:
    """Mean similarity to the trained network's map at each step, with a 95 % interval over images.

    Returns (3, steps): mean, low and high, or NaN if all maps are empty. Empty maps are left out;
    `emptied` counts them. `where` is a kind that was studied or one of `REFERENCES`, which have one step.
    `score` is a key of `SCORES`; `absolute` takes each object's absolute value before the mean.
    """
    column = list(SCORES).index(checks.choice("score", score, SCORES))
    values = [table[..., column] for table in _scores(records, where, method)]  # (steps, n) an image
    found = []
    for step in zip(*values):
        kept = [known for of_image in step if (known := of_image[~np.isnan(of_image)]).size]
        kept = [np.abs(known) for known in kept] if absolute else kept
        found.append(estimate(kept)[:3])
    return np.array(found).reshape(-1, 3).T


def emptied(records: Records, where: str, method: str) -> np.ndarray:
    """Share of the maps that are empty at each step, (steps,) in [0, 1]; see `likeness`."""
    tables = _scores(records, where, method)
    return np.isnan(np.concatenate(tables, axis=1)[..., 0]).mean(axis=1) if tables else np.zeros(0)


def left(records: Records, kind: str) -> np.ndarray:
    """Mean weight of the detections at each step (Eq. 6), (3, steps) as in `likeness`."""
    weights = [np.transpose(line["left"][kind]) for line in _found(records)]
    return np.array(estimate(weights)[:3])


def _scores(records: Records, where: str, method: str) -> list[np.ndarray]:
    """For each image (steps, objects, scores), without the objects whose first map is empty."""
    by_image: dict[int, list[np.ndarray]] = {}
    for line in _found(records):
        of_method = line["methods"][method]
        table = np.array(of_method["scores"][where], dtype=float)  # None becomes NaN
        by_image.setdefault(line["image"], []).append(table[:, ~np.array(of_method["empty"])])
    return [np.concatenate(tables, axis=1) for tables in by_image.values()]


def _found(records: Records) -> list[Record]:
    """Lines of images in which objects were found."""
    return [line for line in records.lines if line.get("labels")]


def summary(records: Records) -> str:
    """How much was compared, and how many maps are empty, in a few sentences."""
    lines = _found(records)
    objects = {line["image"]: len(line["labels"]) for line in lines}
    unread = {line["image"] for line in records.lines if "error" in line}
    without = len({line["image"] for line in records.lines} - unread) - len(objects)
    sentences = [f"{sum(objects.values())} objects of {len(objects)} images; {without} images without any."]
    sentences += [f"{len(unread)} images could not be read."] if unread else []
    for method in records.settings["methods"]:
        before = sum(sum(line["methods"][method]["empty"]) for line in lines)
        tables = [table for kind in records.settings["kinds"] for table in _scores(records, kind, method)]
        after = [np.isnan(table[..., 0]) for table in tables]
        sentences.append(
            f"{method}: {before} maps of the trained network are empty and {sum(map(np.sum, after))} of the "
            f"{sum(map(np.size, after))} of shuffled ones, which saw nothing of the target."
        )
    return " ".join(sentences)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = study_parser("sanity", "Compare maps with those of networks of shuffled weights.")
    parser.add_argument("--detector", metavar="NAME", default="planted", help="default: %(default)s")
    parser.add_argument("--methods", type=_names, default="dclose,drise,gradcam", help="default: %(default)s")
    parser.add_argument("--kinds", type=_names, default="cascade,alone", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--n-masks", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="shufflings of each image")
    parser.add_argument("--limit", type=int, default=8, help="images; default: %(default)s")
    parser.add_argument("--coco", metavar="DIR", help="holds val2017/ and annotations/; else planted scenes")
    options = vars(parser.parse_args(arguments))
    return study_command("sanity", lambda: summary(study_sanity(**options)))


def _names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
