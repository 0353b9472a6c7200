"""4.3: does a map depend on what the network has learned? ``python -m dclose_nb.sanity OUT``

Cascading and independent randomisation of weights (Adebayo et al. 2018): the detection of the
trained network is explained on networks that have lost a part of what they learned. The command
writes one record an image as it is done; a stopped run goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import checks, metrics
from ..checks import InputError
from ..detection import Detector, match
from ..detectors import load_detector
from ..detectors.planted import NETWORKS
from ..explanation import explain, parameters
from ..images import load_photo
from ..planted.scene import scene
from ..planted.scores import random_map
from ..similarity import mask_weights
from .coco import Truth, command, read_coco
from .records import Record, Records, mean_with_interval

SCORES = {"rank": metrics.rank_correlation, "ssim": metrics.ssim, "hog": metrics.hog_correlation}
KINDS = ("cascade", "alone", "full")
# What a score is worth: the same network with other masks, and two maps that know nothing
REFERENCES = ("other masks", "moved map", "random map")


def randomise(detector: Detector, stages: Iterable[str] | None = None, *, seed: int = 0) -> Detector:
    """A copy of a detector in which the weights of some layers are shuffled, each within itself.

    What was learned is gone and each layer keeps its scale. Drawn as before training, the layers of
    a deep network without batch-norm pass on almost nothing: YOLOX, its batch-norm folded, then
    gives the same answer to a photo and to a black image, and every map is empty. The running means
    of a batch-norm that is not folded are kept.

    Parameters
    ----------
    detector : Detector
        With a PyTorch network as its `module`. It is left as it is.
    stages : iterable of str, optional
        Keys of the detector's `stages`; by default every parameter.
    seed : int
        The same seed shuffles a layer in the same way whatever the stages, so that each step of a
        cascade goes on from the one before.

    Raises
    ------
    InputError
        A detector without parameters, or a stage that it has not.

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
    if not isinstance(module, torch.nn.Module) or not any(True for _ in module.parameters()):
        raise InputError(f"{detector.name} has no parameters to randomise")
    names = None if stages is None else [checks.choice("stage", one, detector.stages) for one in stages]
    layers = [""] if names is None else [layer for name in names for layer in detector.stages[name]]
    other = deepcopy(detector)
    other.name = f"{detector.name}, shuffled {'weights' if names is None else ', '.join(names)}"
    other.provenance = {"shuffled": detector.name, "stages": names, "seed": seed}
    copied: torch.nn.Module = other.module  # type: ignore[attr-defined]
    chosen = {weights for layer in layers for weights in copied.get_submodule(layer).parameters()}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in copied.parameters():
            order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
            if weights in chosen:
                weights.copy_(weights.flatten()[order].view_as(weights))
    return other


def steps(detector: Detector, kind: str) -> list[tuple[str, ...]]:
    """Stages that are shuffled at each step, from the output inwards.

    Parameters
    ----------
    detector : Detector
    kind : {"cascade", "alone", "full"}
        One stage more at each step, each stage by itself, or all of them at once.

    Raises
    ------
    InputError
        A detector that names no stages.
    """
    stages = tuple(detector.stages)
    if not stages:
        raise InputError(f"{detector.name} names no stages to randomise: give its class a `stages`")
    if checks.choice("kind", kind, KINDS) == "cascade":
        return [stages[: k + 1] for k in range(len(stages))]
    return [(stage,) for stage in stages] if kind == "alone" else [stages]


def compare(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Similarity of two maps (H, W) by each of `SCORES`; NaN where one is empty, see `metrics`."""
    return {name: score(a, b) for name, score in SCORES.items()}


def moved(maps: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Maps (n, H, W) moved by (n, 2) rows and columns; what leaves at an edge comes in at the other.

    Over all offsets the mean rank correlation of a map with itself is 0, so that what its absolute
    value has at an offset drawn at random is chance: that of maps as smooth as this one.
    """
    return np.stack([np.roll(one, tuple(offset), axis=(0, 1)) for one, offset in zip(maps, offsets)])


def check_image(
    detector: Detector,
    truth: Truth,
    *,
    methods: dict[str, Record],
    kinds: Sequence[str] = ("cascade", "alone"),
    seed: int = 0,
) -> Record:
    """Compare the maps of an image's detections with those that randomised networks give.

    Networks are explained with other masks than the first time: maps of the same masks share their
    sampling noise.

    Parameters
    ----------
    detector : Detector
    truth : Truth
        Explained are the detections that match it, n of them.
    methods : dict
        Names of methods and their options.
    kinds : sequence of str
        See `steps`.
    seed : int
        Of the shuffling and of the masks.

    Returns
    -------
    dict
        ``image``, ``seed``, ``labels`` (n), ``left``: for each kind (steps, n), how much of the
        detection is among the network's proposals for the whole image (Eq. 6); and by method:
        ``empty`` (n), whether the trained network's map is; ``scores``: for each kind and each of
        `REFERENCES` (steps, n, 3), the `SCORES`, None where a map is empty.
    """
    image = load_photo(truth.path)
    canvas = detector.prepare(image)
    found = detector.detect_on(canvas)
    targets = found[[row for row, _ in match(found, truth.boxes, truth.labels)]]
    line: Record = {"image": truth.image, "seed": seed, "labels": targets.names, "left": {}, "methods": {}}
    if not len(targets):
        return line
    vectors = canvas.vectors(targets)

    def maps(by: Detector, mask_seed: int) -> dict[str, np.ndarray]:
        settings: dict[str, Any] = {"seed": mask_seed, "progress": False}
        return {
            name: explain(by, image, targets, method=name, **options, **settings).saliency
            for name, options in methods.items()
        }

    def keep(where: str, others: dict[str, np.ndarray]) -> None:
        for name, heats in others.items():
            scores = np.array([list(compare(*pair).values()) for pair in zip(first[name], heats)])
            plain = [[None if np.isnan(one) else round(one, 4) for one in row] for row in scores.tolist()]
            line["methods"][name]["scores"].setdefault(where, []).append(plain)

    first, again = maps(detector, 2 * seed), maps(detector, 2 * seed + 1)
    for name, heats in first.items():
        line["methods"][name] = {"empty": [metrics.is_empty(heat) for heat in heats], "scores": {}}
    noise = [random_map(image.shape[:2], seed=1000 * seed + k) for k in range(len(targets))]
    offsets = np.random.default_rng(seed).integers(image.shape[:2], size=(len(targets), 2))
    keep("other masks", again)
    keep("moved map", {name: moved(heats, offsets) for name, heats in first.items()})
    keep("random map", dict.fromkeys(first, np.array(noise)))

    wanted = [(stages, kind) for kind in kinds for stages in steps(detector, kind)]
    for stages in dict.fromkeys(stages for stages, _ in wanted):  # what two kinds share is done once
        other = randomise(detector, stages, seed=seed)
        with torch.inference_mode():
            left = mask_weights(other.predict(canvas.pixels[None]), *vectors)[0].tolist()
        others = maps(other, 2 * seed + 1)
        for kind in [kind for given, kind in wanted if given == stages]:
            line["left"].setdefault(kind, []).append([float(f"{weight:.3g}") for weight in left])
            keep(kind, others)
    return line


def run(
    folder: str | Path,
    *,
    detector: str | Detector = "planted",
    methods: Sequence[str] = ("dclose", "drise", "gradcam"),
    kinds: Sequence[str] = ("cascade", "alone"),
    n_masks: int = 400,
    seeds: int = 1,
    limit: int = 8,
    coco: str | Path | None = None,
    progress: bool = True,
) -> Records:
    """Check methods on planted scenes or on a data set, or go on where a run was stopped.

    Parameters
    ----------
    folder : path
        ``records.jsonl`` is kept there, a line an image and seed; see `check_image`.
    detector : str or Detector
    methods : sequence of str
    kinds : sequence of str
        See `steps`.
    n_masks : int
        Budget of each explanation by a method that masks.
    seeds : int
        Shufflings of each image. Those of two images are never the same, so that a band over
        images is one over networks too.
    limit : int
        Images: scenes 0, 1, ..., or the first of the data set in an order drawn at random.
    coco : path, optional
        Folder of a data set in COCO format, see `dataset.read_coco`; by default planted scenes.
    progress : bool

    Returns
    -------
    Records

    Raises
    ------
    InputError
        A detector without parameters or stages, a method or kind that is not known, a number out
        of range, records of other settings, or a folder that cannot be read or written.
    """
    checks.at_least("seeds", seeds, 1)
    checks.at_least("limit", limit, 1)
    loaded = load_detector(detector)
    randomise(loaded)
    every = {kind: steps(loaded, kind) for kind in kinds}
    plans: dict[str, Record] = {}
    for name in methods:
        masks = {"n_masks": n_masks} if "n_masks" in parameters(name) else {}
        plans[name] = parameters(name, **masks)
        for chosen_elsewhere in ("seed", "batch_size"):
            plans[name].pop(chosen_elsewhere, None)
    settings: Record = {"detector": {"name": loaded.name, **loaded.provenance}}
    settings |= {"stages": list(loaded.stages), "kinds": list(every), "methods": plans}
    if coco is not None:
        data = read_coco(coco)
        settings["annotations_sha256"] = data.sha256
        order = np.random.default_rng(0).permutation(len(data.truths))[:limit]
        truths = [data.truths[k] for k in order]
    elif loaded.name in NETWORKS:
        scenes = map(scene, range(limit))
        truths = [
            Truth(k, f"scene_{k}", one.boxes, one.names, [None] * len(one.names))
            for k, one in enumerate(scenes)
        ]
    else:
        raise InputError(f"{loaded.name} knows no planted scenes: name a folder of COCO (coco=, --coco)")
    records = Records(checks.path(folder) / "records.jsonl", settings)
    done = {(line["image"], line["seed"]) for line in records.lines}
    work = [(truth, place + 10_000 * again) for again in range(seeds) for place, truth in enumerate(truths)]
    todo = [(truth, seed) for truth, seed in work if (truth.image, seed) not in done]
    for truth, seed in tqdm(todo, unit="image", disable=not progress):
        records.append(check_image(loaded, truth, methods=plans, kinds=kinds, seed=seed))
    return records


def likeness(records: Records, where: str, method: str, score: str, *, absolute: bool = False) -> np.ndarray:
    """Mean similarity to the trained network's map at each step, with its 95 % interval.

    Images, and with them the shuffled networks, are drawn anew. Empty maps are left out; `emptied`
    counts them.

    Parameters
    ----------
    records : Records
    where : str
        A kind that was run, or one of `REFERENCES`, which have one step.
    method : str
    score : str
        A key of `SCORES`.
    absolute : bool
        Take each object's absolute value before the mean.

    Returns
    -------
    (3, steps) array
        Mean, low and high; NaN where every map is empty.
    """
    column = list(SCORES).index(checks.choice("score", score, SCORES))
    tables = _scores(records, where, method)
    found = []
    for step in range(max((len(one) for one in tables), default=0)):
        values = [one[step, :, column] for one in tables]
        kept = [one[~np.isnan(one)] for one in values if not np.isnan(one).all()]
        kept = [np.abs(one) for one in kept] if absolute else kept
        found.append(mean_with_interval(kept) if kept else np.full(3, np.nan))
    return np.array(found).reshape(-1, 3).T


def emptied(records: Records, where: str, method: str) -> np.ndarray:
    """Share of the maps that are empty at each step, (steps,) in [0, 1]; as `likeness`."""
    tables = _scores(records, where, method)
    return np.isnan(np.concatenate(tables, axis=1)[..., 0]).mean(axis=1) if tables else np.zeros(0)


def left(records: Records, kind: str) -> np.ndarray:
    """Mean over objects of what is left of a detection at each step (Eq. 6), (3, steps) as `likeness`."""
    return mean_with_interval([list(zip(*line["left"][kind])) for line in records.lines if line["labels"]])


def _scores(records: Records, where: str, method: str) -> list[np.ndarray]:
    """A table (steps, objects, scores) an image, without objects whose first map is empty."""
    by_image: dict[int, list[np.ndarray]] = {}
    for line in records.lines:
        if line["labels"]:
            one = line["methods"][method]
            table = np.array(one["scores"][where], dtype=float)  # None becomes NaN
            by_image.setdefault(line["image"], []).append(table[:, ~np.array(one["empty"])])
    return [np.concatenate(tables, axis=1) for tables in by_image.values()]


def summary(records: Records) -> str:
    """How much was compared, and what came to nothing, in a few sentences."""
    lines = [line for line in records.lines if line["labels"]]
    objects = {line["image"]: len(line["labels"]) for line in lines}
    without = len({line["image"] for line in records.lines}) - len(objects)
    said = [f"{sum(objects.values())} objects of {len(objects)} images; {without} images without any."]
    for method in records.settings["methods"]:
        before = sum(sum(line["methods"][method]["empty"]) for line in lines)
        maps = [one[..., 0] for kind in records.settings["kinds"] for one in _scores(records, kind, method)]
        after, total = sum(int(np.isnan(one).sum()) for one in maps), sum(one.size for one in maps)
        said.append(
            f"{method}: {before} maps of the trained network are empty and {after} of the {total} of "
            "shuffled ones, which saw nothing of the target."
        )
    return " ".join(said)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare maps with those of networks of shuffled weights.")
    parser.add_argument("folder", metavar="OUT", help="records; a stopped run goes on from there")
    parser.add_argument("--detector", metavar="NAME", default="planted", help="default: %(default)s")
    parser.add_argument("--methods", type=_names, default="dclose,drise,gradcam", help="default: %(default)s")
    parser.add_argument("--kinds", type=_names, default="cascade,alone", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--n-masks", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="shufflings of each image")
    parser.add_argument("--limit", type=int, default=8, help="images; default: %(default)s")
    parser.add_argument("--coco", metavar="DIR", help="holds val2017/ and annotations/; else planted scenes")
    args = vars(parser.parse_args())
    return command("sanity", lambda: summary(run(args.pop("folder"), **args)))


def _names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
