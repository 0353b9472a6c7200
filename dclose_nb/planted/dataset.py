"""Planted scenes as a data set in COCO format, for training and for evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from tqdm.auto import tqdm

from .. import checks
from ..checks import InputError
from ..files import whole
from .scene import CLASS_NAMES, scene


def write_coco(
    folder: str | Path,
    seeds: Iterable[int],
    *,
    split: str = "val2017",
    size: int = 320,
    progress: bool = True,
) -> Path:
    """Write scenes as ``SPLIT/SEED.png`` and ``annotations/instances_SPLIT.json``.

    The annotations appear last and whole. Images that an interrupted run has written are not drawn
    again, and none is ever half-written.

    Parameters
    ----------
    folder : path
    seeds : iterable of int
        Scene numbers, all different; they become the images' ids.
    split : str
        Name of the folder of images.
    size : int
        Height and width of each scene in pixels.
    progress : bool

    Returns
    -------
    Path
        The annotation file: boxes, run-length masks of the visible pixels, and areas.

    Raises
    ------
    InputError
        A seed that comes twice, or a folder that cannot be written.
    """
    seeds = list(seeds)
    if len(set(seeds)) != len(seeds):
        raise InputError("every seed can come once only, since it is the image's id")
    folder = checks.path(folder)
    annotation_file = folder / "annotations" / f"instances_{split}.json"
    try:
        (folder / split).mkdir(parents=True, exist_ok=True)
        annotation_file.parent.mkdir(exist_ok=True)
        images: list[dict] = []
        annotations: list[dict] = []
        for seed in tqdm(seeds, unit="scene", disable=not progress):
            drawn = scene(seed, size=size)
            name = f"{seed:012d}.png"
            if not (folder / split / name).exists():
                with whole(folder / split / name) as unfinished:
                    Image.fromarray(drawn.image).save(unfinished, "PNG")
            images.append({"id": seed, "file_name": name, "height": size, "width": size})
            for box, label, mask in zip(drawn.boxes.tolist(), drawn.labels.tolist(), drawn.causal_masks):
                encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": seed,
                        "category_id": label + 1,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": int(mask.sum()),
                        "segmentation": {
                            "size": encoded["size"],
                            "counts": encoded["counts"].decode("ascii"),
                        },
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASS_NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        with whole(annotation_file) as unfinished:
            unfinished.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to the folder {str(folder)!r}: {error.strerror or error}") from error
    return annotation_file
