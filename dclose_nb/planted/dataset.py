"""Planted scenes as a data set in COCO format, for training and for evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm.auto import tqdm

from .. import checks
from ..checks import InputError
from ..detection import Detector
from ..files import atomic_write, read_json, refuse_foreign, write_errors
from .scene import CLASS_NAMES, Scene, scene

CATEGORIES = [{"id": k + 1, "name": name} for k, name in enumerate(CLASS_NAMES)]


def write_coco(folder: str | Path, seeds: Iterable[int], *, progress: bool = True) -> Path:
    """Write scenes as ``val2017/SEED.png`` and ``annotations/instances_val2017.json``.

    The annotations, whose path is returned, hold boxes, run-length masks of the visible pixels and areas.
    They are written last. No file is ever half-written, and images of an interrupted run are kept.

    `seeds` are scene numbers, which become the images' ids. `InputError` is raised for a number that
    comes twice, for a folder that cannot be written, for one with another image of a scene's name, and for
    one whose annotations would be lost: they are of something else, of more scenes, or not as they would be
    written now.
    """
    seeds = [checks.at_least("each seed", seed, 0) for seed in seeds]
    if len(set(seeds)) != len(seeds):
        raise InputError("each seed may come only once, since it is the image's id")
    folder = checks.path(folder)
    annotation_file = folder / "annotations" / "instances_val2017.json"
    before = _annotations_before(folder, annotation_file)
    if others := sorted(before.keys() - set(seeds), key=repr):
        raise InputError(f"{str(annotation_file)!r} has scene {others[0]!r} too: choose another folder")
    content: dict[str, list[dict]] = {"images": [], "annotations": [], "categories": CATEGORIES}
    with write_errors(folder):
        (folder / "val2017").mkdir(parents=True, exist_ok=True)
        annotation_file.parent.mkdir(exist_ok=True)
        for seed in tqdm(seeds, unit="scene", disable=not progress):
            drawn = scene(seed)
            path = folder / "val2017" / f"{seed:012d}.png"
            if not path.exists():
                with atomic_write(path) as unfinished:
                    Image.fromarray(drawn.image).save(unfinished, "PNG")
            elif not _holds(path, drawn.image):
                raise InputError(f"{str(path)!r} is not scene {seed}: choose another folder")
            height, width = drawn.owner.shape
            content["images"].append({"id": seed, "file_name": path.name, "height": height, "width": width})
            content["annotations"] += _annotations(seed, drawn, len(content["annotations"]) + 1)
        now = _by_image(content)
        if changed := [seed for seed, marks in before.items() if marks != now[seed]]:
            raise InputError(
                f"{str(annotation_file)!r} has other annotations of scene {changed[0]} and they would be "
                "lost: choose another folder"
            )
        with atomic_write(annotation_file) as unfinished:
            unfinished.write_text(json.dumps(content), encoding="utf-8")
    return annotation_file


def _holds(path: Path, image: np.ndarray) -> bool:
    """Whether a file holds this image."""
    try:
        with Image.open(path) as file:
            return np.array_equal(np.asarray(file), image)
    except (OSError, ValueError):
        return False


def _annotations_before(folder: Path, annotation_file: Path) -> dict[Any, list[dict]]:
    """What the file of an earlier call holds, by image; a file of something else is refused."""
    try:
        content = read_json(annotation_file)
        if content["categories"] == CATEGORIES:
            return _by_image(content)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    refuse_foreign(folder, ["annotations/instances_val2017.json"], "not of planted scenes")
    return {}


def _by_image(content: dict[str, list[dict]]) -> dict[Any, list[dict]]:
    """Annotations of each image, without their own ids, which depend on the other images."""
    marks: dict[Any, list[dict]] = {entry["id"]: [] for entry in content["images"]}
    for mark in content["annotations"]:
        marks[mark["image_id"]].append({name: value for name, value in mark.items() if name != "id"})
    return marks


def _annotations(seed: int, drawn: Scene, first_id: int) -> Iterator[dict[str, Any]]:
    """A scene's objects in COCO's format."""
    rows = zip(drawn.boxes.tolist(), drawn.labels.tolist(), drawn.causal_masks)
    for number, (box, label, mask) in enumerate(rows, start=first_id):
        encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        yield {
            "id": number,
            "image_id": seed,
            "category_id": label + 1,
            "bbox": _xywh(box),
            "area": int(mask.sum()),
            "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
            "iscrowd": 0,
        }


def _xywh(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def average_precision(detector: Detector, seeds: Iterable[int], *, progress: bool = True) -> dict[str, float]:
    """COCO's average precision of a detector on the planted scenes of these numbers.

    Boxes count if their confidence is at least 0.001, after suppression at IoU 0.65 within classes. Returns
    AP (over IoU 0.50 to 0.95), AP50, AP75, and AP of small, medium and large objects (up to 32 ** 2 and
    96 ** 2 visible pixels), in [0, 1]; -1 if there is no object.
    """
    truth, found = COCO(), []
    truth.dataset = {"images": [], "annotations": [], "categories": CATEGORIES}
    for seed in tqdm(list(seeds), unit="scene", desc="scoring", disable=not progress):
        drawn = scene(seed)
        truth.dataset["images"].append({"id": seed})
        annotations = truth.dataset["annotations"]
        annotations += _annotations(seed, drawn, len(annotations) + 1)
        best = detector.detect(drawn.image, confidence=0.001, iou=0.65)
        for box, label, score in zip(best.boxes.tolist(), best.labels.tolist(), best.scores.tolist()):
            found.append({"image_id": seed, "category_id": label + 1, "bbox": _xywh(box), "score": score})
    with redirect_stdout(StringIO()):  # pycocotools reports to the terminal
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    return {name: round(float(value), 4) for name, value in zip(names, evaluation.stats)}
