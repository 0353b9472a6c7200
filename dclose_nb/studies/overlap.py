"""Section 5.1.2: how much of a map lies on another object (Fig. 7)? Notebook 11.

It makes no records of its own: it reads those of `stability` and `planted_truth`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from .. import metrics
from ..explanation import Explanation
from . import planted_truth, tables
from .coco import box_areas, intersections
from .inference import Claim, Estimate
from .records import Record, Records

COVERED = 0.1  # share of the smaller of two boxes, from which they overlap
SCENE_METHODS = {"D-CLOSE, 500 masks": "dclose 500", "D-RISE, 500 masks": "drise 500"}
SCENE_METHODS |= {name: name for name in ("random map", "centre Gaussian", "filled box")}
SCENE_METHODS |= {"the truth": "truth"}
DETECTORS = {  # of drawn scenes: what is printed, and how the names of its methods begin
    "planted": ("planted", ""),
    "planted_two_stage": ("planted_two_stage", ""),
    "rules": ('the rule "sum"', "sum: "),
}


def overlapping(boxes: np.ndarray, own: int) -> list[int]:
    """Indices of the boxes (n, 4) that overlap box `own` by at least `COVERED` of the smaller of the two."""
    areas = box_areas(boxes)
    covered = intersections(boxes, boxes[[own]])[:, 0] / np.minimum(areas, areas[own])
    covered[own] = 0
    return np.flatnonzero(covered >= COVERED).tolist()


def inner_energies(explanations: Mapping[str, Explanation]) -> tables.Table:
    """Share of energy in the smaller of the two largest boxes: of its own map, and of the largest one's.

    The explanations are those of the same targets, by the name to print. The last row is the box's share
    of the image, which a map that is the same everywhere has.
    """
    first = next(iter(explanations.values()))
    targets = first.detections
    outer, inner = np.argsort(-box_areas(targets.boxes))[:2]
    box = targets.boxes[inner]
    energies = {
        called: [metrics.ebpg(e.saliency[k], box) for k in (inner, outer)]
        for called, e in explanations.items()
    }
    energies["flat map"] = [metrics.ebpg(np.ones(first.image.shape[:2]), box)] * 2
    rows = [[called, *(f"{share:.1%}" for share in pair)] for called, pair in energies.items()]
    columns = ["", *(f"map of the {targets.names[k]}" for k in (inner, outer))]
    return tables.Table(f"Energy in the box of the {targets.names[inner]}", columns, rows)


def of_photos(records: Records) -> list[Record]:
    """Objects of the records of `stability` that overlap another: only they have a leakage."""
    found = tables.objects(records)
    return [record for record in found if record["methods"]["flat"]["leakage"] is not None]


def photo_methods(photos: list[Record], n_masks: int = 4000) -> dict[str, str]:
    """What is compared on photographs, by the name to print; Grad-CAM if the detector has gradients."""
    methods = {f"D-CLOSE, {n} masks": f"dclose {n}" for n in (500, n_masks)}
    methods |= {f"D-RISE, {n_masks} masks": f"drise {n_masks}", "Grad-CAM": "gradcam", "flat map": "flat"}
    return {row: name for row, name in methods.items() if photos and name in photos[0]["methods"]}


def summary(photos: list[Record]) -> str:
    """How many objects of how many images there are, and which image has most, in a sentence."""
    by_image = Counter(record["image"] for record in photos)
    told = f"{len(photos)} objects that overlap others, of {len(by_image)} images"
    if not photos:
        return told
    ((image, most),) = by_image.most_common(1)
    kinds = sorted({record["label"] for record in photos if record["image"] == image})
    return f"{told}; {most} are of one image: {', '.join(kinds)}"


def of_scenes(records: Records) -> dict[str, list[Record]]:
    """Objects of drawn scenes that each of `DETECTORS` found, from the records of `planted_truth`."""
    return {name: planted_truth.objects(records, name) for name in DETECTORS}


def that_overlap(scenes: Mapping[str, list[Record]]) -> dict[str, list[Record]]:
    """Those objects of drawn scenes whose box overlaps another's, see `overlapping`."""

    @cache
    def boxes(number: int) -> np.ndarray:
        return planted_truth.studied_scene(number).boxes

    return {
        name: [record for record in objects if overlapping(boxes(record["image"]), record["object"])]
        for name, objects in scenes.items()
    }


def leakages(scenes: Mapping[str, list[Record]]) -> dict[str, dict[str, Estimate]]:
    """Mean leakage of `SCENE_METHODS` for each detector; the truth is known of the rule alone.

    The names say how many objects of how many scenes there are.
    """
    columns = {}
    for name, (called, rule) in DETECTORS.items():
        known = {row: rule + method for row, method in SCENE_METHODS.items() if rule or method != "truth"}
        (means,) = tables.means(scenes[name], known, {"leakage": "leakage"}).values()
        counted = means["filled box"]
        columns[f"{called}: {counted.n_objects} objects of {counted.n_images} scenes"] = means
    return columns


def above_truth(rules: list[Record]) -> dict[str, Estimate]:
    """What D-CLOSE leaks more than the true map does, under the rule "sum", and 4000 masks more than 500."""
    pairs = {f"D-CLOSE, {n} masks, minus the truth": (f"dclose {n}", "truth") for n in (500, 4000)}
    pairs["D-CLOSE, 4000 masks, minus 500 masks"] = ("dclose 4000", "dclose 500")
    return {
        row: tables.difference(rules, f"sum: {method}", f"sum: {reference}", "leakage")
        for row, (method, reference) in pairs.items()
    }


def _less(sentence: str, objects: list[Record], method: str, reference: str, *bound: Any) -> Claim:
    evidence = tables.difference(objects, method, reference, "leakage")
    return Claim(sentence, evidence, *(bound or ["below"]))


def photo_claims(photos: list[Record], detector: str = "YOLOX-Nano", n_masks: int = 4000) -> list[Claim]:
    """The claims about photographs: D-CLOSE with so many masks leaks less than the other `photo_methods`."""
    methods = photo_methods(photos, n_masks)
    ours = f"D-CLOSE, {n_masks} masks"
    leaks = f"photographs, {detector}: {ours}, leaks less than"
    others = {name: f"{leaks} {row}" for row, name in methods.items() if row != ours}
    others["flat"] = f'5.1.2 "clearly distinguish", at the least: {leaks} a flat map'
    return [_less(sentence, photos, methods[ours], name) for name, sentence in others.items()]


def claims(
    photos: list[Record], scenes: Mapping[str, list[Record]], near: Mapping[str, list[Record]]
) -> list[Claim]:
    """The family of claims of notebook 11: of `of_photos`, `of_scenes` and `that_overlap`."""
    family = photo_claims(photos)
    for name, (called, rule) in DETECTORS.items():
        methods = (rule + method for method in ("dclose 500", "drise 500", "random map", "filled box"))
        dclose, drise, noise, filled = methods
        every = f"all objects of scenes, {called}, 500 masks:"
        some = f"objects that overlap, {called}, 500 masks:"
        alike = f"{every} D-RISE leaks as a random map does, within 0.05"
        family += [
            _less(f"{some} D-CLOSE leaks less than D-RISE", near[name], dclose, drise),
            _less(f"{every} D-CLOSE leaks less than D-RISE", scenes[name], dclose, drise),
            _less(f"{every} D-CLOSE leaks less than a random map", scenes[name], dclose, noise),
            _less(alike, scenes[name], drise, noise, "within", 0.05),
            _less(f"{some} the filled box leaks less than D-CLOSE", near[name], filled, dclose),
            _less(f"{every} the filled box leaks less than D-CLOSE", scenes[name], filled, dclose),
        ]
    return family
