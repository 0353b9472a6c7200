"""Section 4.3: does a map depend on what the network has learned (Fig. 4)? Notebook 07.

``python -m dclose_nb.studies.sanity OUT`` explains a network's detections on networks that have lost a part
of what it learned, in a cascade and layer by layer (Adebayo et al. 2018), and compares the maps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from operator import itemgetter, methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from .. import checks, metrics
from ..checks import InputError
from ..detection import Detections, Detector
from ..detectors.planted import NETWORKS
from ..explanation import explain
from ..methods import make, options_of
from ..planted.scene import scene
from ..planted.scores import filled_box
from ..similarity import target_weights
from .coco import Truth, matched, read_coco, study_photo
from .inference import Claim, Estimate, difference, mean
from .records import Record, Records
from .runner import Task, detector_of, run_study, study_command, study_parser
from .tables import Table, named, of_claims

COLUMNS = "rank", "|rank|", "other rank", "other |rank|", "moved |rank|", "mirrored rank", "alike", "focus"
KINDS = ("cascade", "alone", "ends", "class")
OTHER_CLASS = "another class"  # name of the step
SIGNED = {"rank": "rank", "other objects": "other rank", "mirrored": "mirrored rank"}  # columns of tables
ABSOLUTE = {
    "absolute rank": "|rank|",
    "by chance": "moved |rank|",
    "other objects": "other |rank|",
    "focus": "focus",
    "empty": "empty",
}
MARGINS = {"dclose": 0.1, "drise": 0.03}  # of "no sign is left", a fifth of what trained networks have
DRAWS = 299  # random offsets of an image's maps, see `permutation_p`


def randomise(detector: Detector, stages: Iterable[str] | None = None, *, seed: int = 0) -> Detector:
    """A copy of a detector in which the weights of some layers are shuffled, each layer by itself.

    What was learned is lost, but each layer keeps its scale: with new weights and a folded batch-norm, every
    map of a YOLOX is empty. The running means of a batch-norm that is not folded are kept.

    `stages` are of the detector's `stages`, by default every parameter. The same `seed` shuffles a layer in
    the same way whatever the stages are, so that each step of a cascade continues the one before. The
    detector does not change. One without parameters, and a stage that it does not have, raise `InputError`.

    Examples
    --------
    >>> import dclose_nb as dc
    >>> randomise(dc.load_detector("planted"), ["predictions", "head"], seed=1).name
    'planted, shuffled predictions, head'
    """
    checks.instance("detector", detector, Detector, "use load_detector(...)")
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
    generator = torch.Generator().manual_seed(checks.at_least("seed", seed, 0))
    with torch.no_grad():
        for weights in copied.parameters():
            order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
            if weights in chosen:
                weights.copy_(weights.flatten()[order].view_as(weights))
    return shuffled


def steps(detector: Detector, kind: str) -> dict[str, tuple[str, ...]]:
    """Name of each step, and the stages that are shuffled at it, from output to input.

    `kind` is "cascade" (one stage more at each step), "alone" (each stage by itself), "ends" (the first step
    of a cascade and the last) or "class" (all stages, and `study_image` asks about another class). A detector
    that names no stages raises `InputError`.
    """
    checks.instance("detector", detector, Detector, "use load_detector(...)")
    stages = tuple(detector.stages)
    if not stages:
        raise InputError(f"{detector.name} names no stages to randomise: give its class a `stages`")
    if checks.choice("kind", kind, KINDS) == "alone":
        return {stage: (stage,) for stage in stages}
    if kind == "class":
        return {OTHER_CLASS: stages}
    down_to = {f"to {stage}": stages[: k + 1] for k, stage in enumerate(stages) if k}
    return {stages[0]: stages[:1]} | (down_to if kind == "cascade" else dict([*down_to.items()][-1:]))


def unit_ranks(maps: np.ndarray) -> np.ndarray:
    """Ranks of the pixels of maps (n, H, W), of mean 0 and length 1; NaN for an empty map.

    The products of two such maps add up to their rank correlation.
    """
    ranks = np.array([rankdata(saliency).reshape(saliency.shape) for saliency in maps])
    ranks -= ranks.mean(axis=(1, 2), keepdims=True)
    lengths = np.linalg.norm(ranks, axis=(1, 2), keepdims=True)
    lengths[[metrics.is_empty(saliency) for saliency in maps]] = np.nan
    return ranks / lengths


def moved_ranks(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each map of `a` with its map of `b`, moved by every offset, (n, H, W).

    Both are `unit_ranks`. In element [k, y, x], `b[k]` is moved by y rows and x columns; what leaves at one
    edge enters at the opposite one. The mean over all offsets is 0. The mean absolute value is what chance
    gives for maps as smooth as these.
    """
    return np.fft.irfft2(np.fft.rfft2(a) * np.fft.rfft2(b).conj(), s=a.shape[1:])


def focus(saliency: np.ndarray, box: np.ndarray) -> float:
    """Probability that a pixel in a box (x1, y1, x2, y2) is brighter than one outside: 0.5 by chance.

    NaN for a map (H, W) that is empty and for a box that holds no pixel or all.
    """
    inside = filled_box(saliency.shape, box).ravel()
    if metrics.is_empty(saliency) or inside.all() or not inside.any():
        return float("nan")
    return float(roc_auc_score(inside, saliency.ravel()))


def compare(
    a: np.ndarray, b: np.ndarray, boxes: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compare the maps of n objects, `a`, with their maps from another network, `b`; both (n, H, W).

    Returns a row for each of `COLUMNS`, (columns, n). Bars are for the absolute value:

    - ``rank``: the rank correlation of an object's two maps;
    - ``other rank``: the mean rank correlation of its map in `a` with the other objects' maps in `b`;
    - ``moved |rank|``: the mean of `moved_ranks` over all offsets, which is what chance gives;
    - ``mirrored rank``: the mean rank correlation with the map in `b` mirrored from left to right, from top
      to bottom and both, which is what borders and the centre give;
    - ``alike``: the mean rank correlation of the map in `b` with the other objects' maps in `b`;
    - ``focus``: the `focus` of the map in `b` on the object's box, of `boxes` (n, 4).

    NaN where a map is empty or no other is there. Also returns the sums of `moved_ranks` at each of `offsets`
    (D, 2), (D,).
    """
    first, second = unit_ranks(a), unit_ranks(b)
    moved = moved_ranks(first, second)
    pairs, alike = (np.einsum("ayx,byx->ab", maps, second) for maps in (first, second))
    mirrors = [second[:, ::y, ::x] for y, x in ((1, -1), (-1, 1), (-1, -1))]
    table = [
        *(pairs.diagonal(), np.abs(pairs.diagonal()), _of_others(pairs), _of_others(np.abs(pairs))),
        np.abs(moved).mean(axis=(1, 2)),
        np.mean([(first * mirrored).sum(axis=(1, 2)) for mirrored in mirrors], axis=0),
        _of_others(alike),
        [focus(*pair) for pair in zip(b, boxes)],
    ]
    return np.array(table), np.nansum(moved[:, *offsets.T], axis=0)


def means(a: np.ndarray, b: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
    """Mean of each of `COLUMNS` of `compare` over objects without an empty map; ``empty`` counts others."""
    table, _ = compare(a, b, boxes, np.zeros((1, 2), dtype=int))
    known = ~np.isnan(table[0])
    return dict(zip(COLUMNS, table[:, known].mean(axis=1))) | {"empty": float((~known).sum())}


def _of_others(pairs: np.ndarray) -> np.ndarray:
    """Mean of each row (n, n) without the diagonal and without NaN, (n,)."""
    return np.ma.masked_invalid(np.where(np.eye(len(pairs)), np.nan, pairs)).mean(axis=1).filled(np.nan)


def study_image(
    detector: Detector,
    image: np.ndarray,
    truth: Truth,
    seed: int = 0,
    *,
    methods: dict[str, Record],
    kinds: Sequence[str] = ("cascade", "alone"),
    seeds: int = 3,
) -> Record:
    """Compare the maps of the detections in an image (H, W, 3) with those that randomised networks give.

    The n detections that match the truth are explained, by each of `methods` with its options. Then so many
    `seeds` shuffle the network, at the `steps` of each of `kinds`. Each seed has masks of its own for all its
    steps, since maps from the same masks share sampling noise. One more step, "trained", shuffles nothing.
    At the step of "class" each box is asked about with the class after its own, and as sure of it.

    Returns ``labels`` (n); ``left``, by step (seeds, n): each detection's weight (Eq. 6) among the network's
    proposals for the image; ``methods``, by method: ``empty`` (n), whether the first map is; by step
    ``scores`` (seeds, columns, n) of `compare`, None for NaN; and ``moved`` (1 + `DRAWS`), the sum of
    `moved_ranks` over objects and seeds without a move and at random offsets, which the image's maps share.
    """
    targets, _, _ = matched(detector.detect(image), truth, image.shape)
    line: Record = {"labels": targets.names, "left": {}, "methods": {}}
    if not len(targets):
        return line

    def maps_of(network: Detector, targets: Detections, seed: int) -> dict[str, np.ndarray]:
        explained = partial(explain, network, image, targets, seed=seed, progress=False)
        return {name: explained(method=name, **options).saliency for name, options in methods.items()}

    first, boxes = maps_of(detector, targets, seed), np.asarray(targets.boxes)
    others = replace(targets, class_probs=np.roll(targets.class_probs, 1, axis=1))
    offsets = np.random.default_rng(seed).integers(image.shape[:2], size=(1 + DRAWS, 2))
    offsets[0] = 0
    for name, maps in first.items():
        line["methods"][name] = {"empty": list(map(metrics.is_empty, maps)), "scores": {}, "moved": {}}
    planned = {"trained": ()} | {name: stages for k in kinds for name, stages in steps(detector, k).items()}
    for again, (step, stages) in product(range(1, seeds + 1), planned.items()):
        network = randomise(detector, stages, seed=seed + 10_000 * again)
        asked = others if step == OTHER_CLASS else targets
        left = [float(f"{weight:.3g}") for weight in target_weights(network, image, asked)]
        line["left"].setdefault(step, []).append(left)
        for name, maps in maps_of(network, asked, seed + 10_000 * again).items():
            of_method = line["methods"][name]
            table, sums = compare(first[name], maps, boxes, offsets)
            table = np.ma.masked_invalid(table.round(4))  # None in the list
            of_method["scores"].setdefault(step, []).append(table.tolist())
            of_method["moved"][step] = np.add(of_method["moved"].get(step, 0), sums).round(4).tolist()
    return line


def study_sanity(
    out: str | Path,
    *,
    detector: str | Detector = "planted",
    methods: Sequence[str] = ("dclose", "drise", "gradcam"),
    kinds: Sequence[str] = ("cascade", "alone"),
    n_masks: int = 400,
    seeds: int = 3,
    limit: int = 8,
    coco: str | Path | None = None,
    **run_options: Any,
) -> Records:
    """Check methods on planted scenes or on a data set, or resume a run that was stopped.

    The images are the scenes 0, 1, ..., `limit` of them, or with a folder in COCO format (`coco`, see
    `coco.read_coco`) the first of the data set in random order. Each gets networks of its own, `seeds` of
    them, so that intervals cover networks too. `n_masks` is for methods that mask; for `kinds` see `steps`;
    `run_options` are ``workers``, ``executor`` and ``progress`` of `runner.run_study`, whose errors are
    raised here too. A line of `out` has ``image``, ``seed`` and what `study_image` returns, or ``error`` for
    a photo that cannot be read.
    """
    checks.at_least("seeds", seeds, 1)
    checks.at_least("limit", limit, 1)
    loaded = detector_of(detector)
    randomise(loaded)  # raises here what would fail later
    planned = {kind: list(steps(loaded, kind)) for kind in kinds}
    budgets = {name: n_masks if "n_masks" in options_of(name) else None for name in methods}
    plans = {name: asdict(make(name, n_masks=budget)) for name, budget in budgets.items()}
    settings: Record = {"detector": {"name": loaded.name, **loaded.provenance}}
    settings |= {"stages": list(loaded.stages), "kinds": planned, "methods": plans, "seeds": seeds}
    settings |= {"columns": COLUMNS, "draws": DRAWS}
    if coco is not None:
        data = read_coco(coco)
        settings["annotations_sha256"] = data.sha256
        truths = [data.truths[k] for k in np.random.default_rng(0).permutation(len(data.truths))[:limit]]
    elif loaded.name in NETWORKS:
        scenes = enumerate(map(scene, range(limit)))
        truths = [Truth(k, f"scene_{k}", s.boxes, s.names, [None] * len(s.boxes)) for k, s in scenes]
    else:
        raise InputError(f"{loaded.name} knows no planted scenes: pass a folder of COCO (coco=, --coco)")
    study = partial(study_image, methods=plans, kinds=list(planned), seeds=seeds)
    tasks = [
        Task({"image": t.image, "seed": seed}, (detector, t.photo, partial(study, truth=t, seed=seed)))
        for seed, t in enumerate(truths)
    ]
    return run_study(out, settings, tasks, study_photo, **run_options)


def _found(records: Records) -> list[Record]:
    """Lines of images in which objects were found, in the order of images: workers end in any order."""
    return sorted((line for line in records.lines if line.get("labels")), key=itemgetter("image"))


def objects(records: Records, method: str) -> list[Record]:
    """Objects of which the trained network gives a map, each with its ``image`` and ``label``.

    Each has `COLUMNS`, see `compare`, ``left``, see `study_image`, and ``empty``, the share of empty maps.
    Each of these is by step: the mean over shuffled networks, None where all maps are empty.
    """
    found = []
    for line in _found(records):
        of_method = line["methods"][method]
        tables = {step: np.array(table, dtype=float) for step, table in of_method["scores"].items()}
        for k in np.flatnonzero(np.logical_not(of_method["empty"])):
            record: Record = {"image": line["image"], "label": line["labels"][k], "left": {}, "empty": {}}
            for step, table in tables.items():  # (seeds, columns, n), with NaN for None
                record["left"][step] = float(np.mean([weights[k] for weights in line["left"][step]]))
                record["empty"][step] = float(np.isnan(table[:, 0, k]).mean())
                means = np.ma.masked_invalid(table[..., k]).mean(axis=0).tolist()  # None if all are masked
                for name, value in zip(COLUMNS, means):
                    record.setdefault(name, {})[step] = value
            found.append(record)
    return found


def at(column: str, step: str) -> Callable[[Record], float | None]:
    """What reads a value of `objects` for `inference.mean` and `inference.difference`."""
    return lambda record: record[column][step]


def likeness(records: Records, kind: str, method: str, column: str) -> np.ndarray:
    """Mean, low and high (95 %) over `objects` of a column at "trained" and each step, (3, 1 + steps)."""
    found, steps = objects(records, method), ["trained", *records.settings["kinds"][kind]]
    return np.array([mean(found, at(column, step))[:3] for step in steps]).T


def over_steps(records: Records, steps: Sequence[str], column: str) -> list[Estimate]:
    """Mean of a column over `objects`, for each method and at each of its `steps`."""
    return [
        mean(objects(records, method), at(column, step))
        for method in records.settings["methods"]
        for step in steps
    ]


def less(found: list[Record], column: str, step: str, other: str, reference: str) -> Estimate:
    """Mean over `objects` of a column at a step, less another column at a step of reference."""
    return difference(found, at(column, step), at(other, reference))


def half_lost(found: list[Record], step: str) -> Estimate:
    """Mean over `objects` of the rank at a step, less half of that of the trained network."""

    def half(record: Record) -> float | None:
        trained = record["rank"]["trained"]
        return None if trained is None else trained / 2

    return difference(found, at("rank", step), half)


def place_left(ends: Records, asked: Records) -> dict[str, Estimate]:
    """What is left of D-CLOSE's maps with all shuffled, by whether the box, the class or neither is its own.

    `asked` are records of the kind "class", of the images, networks and masks of `ends`. Records of other
    objects raise `InputError`.
    """
    own, other = (objects(records, "dclose") for records in (ends, asked))
    if list(map(itemgetter("image", "label"), own)) != list(map(itemgetter("image", "label"), other)):
        raise InputError(
            f"{str(asked.path)!r} has other objects than {str(ends.path)!r}: study the same images"
        )
    both = [one | {"other class": two["|rank|"][OTHER_CLASS]} for one, two in zip(own, other)]
    told, stem = {}, "to stem"
    for words, found, step in (("own class", own, stem), ("another class", other, OTHER_CLASS)):
        for than, null in (("chance", "moved |rank|"), ("other objects", "other |rank|")):
            told[f"own box, {words}, less {than}"] = less(found, "|rank|", step, null, step)
    told["another object's box and class, less chance"] = less(
        own, "other |rank|", stem, "moved |rank|", stem
    )
    told["own class less another"] = difference(both, at("|rank|", stem), itemgetter("other class"))
    return told


def claims(ends: Records, photos: Records, asked: Records, stages: Records) -> list[Claim]:
    """Section 4.3's sentence and our own, of records of the kinds "ends" (twice), "class" and "alone"."""
    told, places, end = [], (("scenes", ends), ("photos", photos)), "to stem"
    for place, records in places:
        for method, margin in MARGINS.items():
            found, of = objects(records, method), f"{named(method)}, {place}: "
            part = "*4.3*, in part: " if method == "dclose" else ""  # the paper says it of its own method
            leaves = f"{part}{of}with all weights shuffled, focus falls"
            sign = f"{of}all shuffled, no sign is left, rank within ±{margin}"
            more = f"{of}all shuffled, the map resembles the first more than"
            told += [
                Claim(leaves, less(found, "focus", "trained", "focus", end)),
                Claim(sign, mean(found, at("rank", end)), "within", margin),
                Claim(f"{more} by chance, absolute rank", less(found, "|rank|", end, "moved |rank|", end)),
                Claim(
                    f"{more} other objects' maps do, absolute rank",
                    less(found, "|rank|", end, "other |rank|", end),
                ),
            ]
    for place, records in places:
        most = f"D-CLOSE, {place}: shuffled predictions take most of the rank, less than half is left"
        told.append(Claim(most, half_lost(objects(records, "dclose"), "predictions"), "below"))
    still = (
        "D-CLOSE, scenes: asked about another class, the map still resembles the first more than other "
        "objects' maps do, absolute rank"
    )
    of_class = objects(asked, "dclose")
    told.append(Claim(still, less(of_class, "|rank|", OTHER_CLASS, "other |rank|", OTHER_CLASS)))
    stay = "D-CLOSE, scenes: with `dark5` alone shuffled the maps stay, rank within ±0.05"
    kept = less(objects(stages, "dclose"), "rank", "dark5", "rank", "trained")
    return [*told, Claim(stay, kept, "within", 0.05)]


def table(title: str, records: Records, kind: str, columns: dict[str, str]) -> Table:
    """Means of `SIGNED`, which come with `permutation_p`, or of `ABSOLUTE`, by method and step."""
    signed, rows = columns is SIGNED, []
    for method in records.settings["methods"]:
        found = objects(records, method)
        for step in ("trained", *records.settings["kinds"][kind]):
            estimates = [mean(found, at(column, step)) for column in columns.values()]
            cells = [one.text(sign="+" if signed else "") for one in estimates]
            p = [f"{permutation_p(records, step, method):.3f}" if cells[0] else ""] if signed else []
            rows.append([named(method), step, *cells, *p])
    return Table(title, ["method", "shuffled", *columns, *(["p"] if signed else [])], rows)


def evidence(ends: Records, photos: Records, stages: Records) -> list[Table]:
    """Every mean that notebook 07 quotes from records; see `claims` for the parameters."""
    scenes, coco, alone = (objects(records, "dclose") for records in (ends, photos, stages))
    of_stages, gradcam = [], objects(stages, "gradcam")
    for kind in ("cascade", "alone"):
        for step in ("trained", *stages.settings["kinds"][kind]):
            weight, rank, focused = (mean(alone, at(column, step)) for column in ("left", "rank", "focus"))
            of_stages.append([kind, step, f"{weight.mean:.2g}", rank.text(), focused.text(sign="")])
    ranks = [
        {"image": line["image"], "negative": rank < 0}
        for line in _found(ends)
        for scores in line["methods"]["gradcam"]["scores"]["predictions"]
        for rank in scores[COLUMNS.index("rank")]
        if rank is not None  # of an empty map
    ]
    others = {
        "D-CLOSE, scenes, predictions shuffled: rank less that of other objects":
            less(scenes, "rank", "predictions", "other rank", "predictions").text(),
        "Grad-CAM, scenes, predictions shuffled: % of maps with a rank below 0":
            mean(ranks, itemgetter("negative")).text(100, 0, ""),
        "Grad-CAM, scenes, dark5 alone: rank": mean(gradcam, at("rank", "dark5")).text(),
        "Grad-CAM, scenes, neck alone: % of maps that are empty":
            mean(gradcam, at("empty", "neck")).text(100, 0, ""),
    }  # fmt: skip
    two = "predictions", "to stem"
    for step, (than, null) in product(two, (("chance", "moved"), ("other objects", "other"))):
        words = f"D-CLOSE, photos, {step}: absolute rank less that of {than}"
        others[words] = less(coco, "|rank|", step, f"{null} |rank|", step).text()

    def below(title: str, told: dict[str, Estimate], bound: float = 0.0) -> Table:
        return of_claims([Claim(sentence, one, "below", bound) for sentence, one in told.items()], title)

    taken = [stage for stage in stages.settings["kinds"]["alone"] if stage not in ("dark5", "dark4")]
    half = {f"{stage} alone takes more than half of the rank": half_lost(alone, stage) for stage in taken}
    fall = {f"dark4 alone takes {c}": less(alone, c, "dark4", c, "trained") for c in ("rank", "focus")}
    at_chance = {
        f"photos, {step} shuffled: focus is below 0.5": mean(coco, at("focus", step)) for step in two
    }
    columns = ["kind", "shuffled", "left of the detections", "rank", "focus"]
    drawn, real = (records.settings["detector"]["name"] for records in (ends, photos))
    return [
        table(f"A1. Scenes ({drawn}), signed", ends, "ends", SIGNED),
        table(f"A2. Scenes ({drawn}), absolute values and place", ends, "ends", ABSOLUTE),
        table(f"A3. Scenes ({drawn}), a cascade", stages, "cascade", ABSOLUTE),
        Table(f"A4. D-CLOSE on scenes ({drawn}), stage by stage", columns, of_stages),
        table(f"A5. Photos of COCO ({real}), signed", photos, "ends", SIGNED),
        table(f"A6. Photos of COCO ({real}), absolute values and place", photos, "ends", ABSOLUTE),
        Table("A7. Other means", ["what", "mean"], [[words, text] for words, text in others.items()]),
        below("A8. Each stage alone", half),
        below("A9. dark4 alone", fall),
        below("A10. Photos, focus below chance", at_chance, 0.5),
    ]


def permutation_p(records: Records, step: str, method: str) -> float:
    """Two-sided p of the hypothesis that an object's two maps lie on each other as chance lays them.

    The statistic is the sum of rank correlations over objects, seeds and images; empty maps count as 0. All
    maps of an image's shuffled networks are moved together by a random offset, see `moved_ranks`, which
    follows from the record's seed. p is the share of 1 + `DRAWS` sums, the one without a move among them,
    that are at least as far from 0 as it.
    """
    sums = [line["methods"][method]["moved"][step] for line in _found(records)]
    distances = np.abs(np.sum(sums, axis=0))
    return float((distances >= distances[0]).mean())


def summary(records: Records) -> str:
    """How much was compared, and how many maps are empty, in a few sentences."""
    lines, seeds = _found(records), records.settings["seeds"]
    count, unread = sum(len(line["labels"]) for line in lines), sum("error" in line for line in records.lines)
    without = len(records.lines) - unread - len(lines)
    told = f"{count} objects of {len(lines)} images; {without} images without any."
    told += f" {unread} images could not be read." if unread else ""
    for method in records.settings["methods"]:
        found = objects(records, method)
        empty = [share for record in found for step, share in record["empty"].items() if step != "trained"]
        told += f" {named(method)}: {count - len(found)} maps of the trained network are empty and "
        told += f"{seeds * sum(empty):.0f} of the {seeds * len(empty)} of shuffled ones."
    return told


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = study_parser("sanity", "Compare maps with those of networks of shuffled weights.")
    names = methodcaller("split", ",")
    parser.add_argument("--detector", metavar="NAME", default="planted", help="default: %(default)s")
    parser.add_argument("--methods", type=names, default="dclose,drise,gradcam", help="default: %(default)s")
    parser.add_argument("--kinds", type=names, default="cascade,alone", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--n-masks", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="networks an image; default: %(default)s")
    parser.add_argument("--limit", type=int, default=8, help="images; default: %(default)s")
    parser.add_argument("--coco", metavar="DIR", help="holds val2017/ and annotations/; else planted scenes")
    options = vars(parser.parse_args(arguments))
    return study_command("sanity", lambda: summary(study_sanity(**options)))


if __name__ == "__main__":
    sys.exit(main())
