"""Data sets in COCO format (section 6), and studies of their photos."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from sklearn.cluster import KMeans

from .. import checks
from ..checks import InputError
from ..detection import Detections, Detector, Targets, match
from ..files import from_json
from ..images import load_photo
from ..planted.dataset import write_coco
from .records import Record, Records
from .runner import DetectorSource, Task, detector_of, run_study


class Truth(NamedTuple):
    """An image of a data set and its ground truth: the n objects that people have marked."""

    image: int
    path: str
    boxes: np.ndarray  # (n, 4) x1, y1, x2, y2 in pixels
    labels: list[str]
    outlines: list[Any]  # COCO's polygons or run lengths, None for a box alone
    crowds: Targets = Targets((), ())  # regions of many objects that nobody has counted
    size: tuple[float, float] | None = None  # height and width that the annotation file says

    def photo(self) -> np.ndarray:
        """The image, (H, W, 3) uint8; one that cannot be read or has another size raises `InputError`."""
        image = load_photo(self.path)
        if self.size is not None and image.shape[:2] != self.size:
            (height, width), (said, across) = image.shape[:2], self.size
            raise InputError(
                f"{self.path!r} has {width} x {height} pixels, {across} x {said} in the annotation file: its "
                "boxes do not fit"
            )
        return image

    def masks(self, shape: tuple[int, int]) -> np.ndarray:
        """Pixels of each object in an image of (H, W), (n, H, W) bool: its box where it has no outline."""
        masks = np.zeros((len(self.boxes), *shape), dtype=bool)
        for mask, outline, box, label in zip(masks, self.outlines, self.boxes, self.labels):
            if outline:
                mask[:] = _filled(outline, shape, f"the outline of {label!r} in image {self.image}")
            else:
                x1, y1, x2, y2 = box.round().astype(int).clip(0)
                mask[y1:y2, x1:x2] = True
        return masks


class DataSet(NamedTuple):
    """A folder of COCO: ``val2017/`` and ``annotations/instances_val2017.json``."""

    truths: list[Truth]
    missing: list[str]  # images that the file names and the folder does not have
    centres: list[float]  # of the size groups: box area over image area, smallest first
    sha256: str  # of the annotation file


def image_file(folder: Path, entry: dict[str, Any]) -> Path:
    """The file of an image of an annotation file; a name from outside stays in the folder."""
    return folder / Path(entry["file_name"]).name


def read_coco(folder: str | Path, *, missing: str = "stop") -> DataSet:
    """Read a data set in COCO format; crowds are kept apart from the objects.

    Size groups are k-means clusters (k = 3) of ground-truth box area over image area (section 6),
    fitted on all boxes of the images that are there.

    Parameters
    ----------
    folder : path
        Holds ``val2017/`` and ``annotations/``, see `DataSet`.
    missing : {"stop", "skip"}
        What to do about images that the file names and the folder does not have; a warning counts
        those that are skipped.

    Raises
    ------
    InputError
        No such folder or file, a file that is damaged, images that are missing, or boxes of fewer than
        three sizes.
    """
    checks.choice("missing", missing, ("stop", "skip"))
    folder = checks.path(folder)
    path = folder / "annotations" / "instances_val2017.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    try:
        coco = COCO()
        coco.dataset = from_json(content)
        _refuse_wild_numbers(path, coco.dataset)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports to the terminal
            coco.createIndex()
        names = {category["id"]: str(category["name"]) for category in coco.loadCats(coco.getCatIds())}
        truths, absent, ratios = [], [], []
        for entry in sorted(coco.loadImgs(coco.getImgIds()), key=lambda entry: entry["id"]):
            file = image_file(folder / "val2017", entry)
            if not file.is_file():
                absent.append(file.name)
                continue
            marked = [mark for mark in coco.imgToAnns[entry["id"]] if min(mark["bbox"][2:]) > 0]
            objects = [mark for mark in marked if not mark.get("iscrowd")]
            boxes, labels = _boxes_and_labels(objects, names)
            crowds = Targets(*_boxes_and_labels([mark for mark in marked if mark.get("iscrowd")], names))
            outlines = [mark.get("segmentation") for mark in objects]
            size = entry["height"], entry["width"]
            truths.append(Truth(entry["id"], str(file), boxes, labels, outlines, crowds, size))
            ratios += (box_areas(boxes) / (entry["width"] * entry["height"])).tolist()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{str(path)!r} names a file that cannot be: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError) as error:
        raise InputError(f"{str(path)!r} is damaged or not in COCO's format: {error!r}") from error
    if absent:
        lacking = (
            f"{len(absent)} of {len(absent) + len(truths)} images that {path.name} names are missing in "
            f"{str(folder / 'val2017')!r}, {absent[0]} for one"
        )
        if missing == "stop":
            raise InputError(f"{lacking}: add them, or go on with the rest (missing='skip', --skip-missing)")
        checks.warn(f"{lacking}; they are left out")
    if len(sizes := set(ratios)) < 3:
        raise InputError(
            f"{str(path)!r} has boxes of {len(sizes)} different sizes (box area over image area) in the "
            "images that are there: three size groups need at least 3"
        )
    model = KMeans(3, n_init=10, random_state=0).fit(np.array(ratios)[:, None])
    centres = sorted(round(float(centre), 6) for centre in model.cluster_centers_[:, 0])
    return DataSet(truths, absent, centres, hashlib.sha256(content).hexdigest())


def _refuse_wild_numbers(path: Path, content: Any) -> None:
    """Refuse ids that are no integers or there twice, and sides and boxes that an image cannot have.

    A box without area is none, and may be anywhere.
    """

    def refuse(what: str) -> None:
        raise InputError(f"{str(path)!r} has {what}")

    sizes = {}
    for entry in content["images"]:
        image, sides = entry["id"], (entry["width"], entry["height"])
        if not isinstance(image, int):
            refuse(f"an image id that is no integer: {image!r}")
        if image in sizes:
            refuse(f"two images with the id {image}")
        if not all(isinstance(side, int | float) and 0 < side < math.inf for side in sides):
            refuse(f"an image of {sides[0]!r} x {sides[1]!r} pixels, id {image}")
        sizes[image] = sides
    for mark in content["annotations"]:
        image = mark["image_id"]
        if not isinstance(image, int):
            refuse(f"an annotation of the image {image!r}: ids are integers")
        if image not in sizes:
            continue
        box = x, y, w, h = mark["bbox"]
        width, height = sizes[image]
        inside = w <= width + 1 and h <= height + 1 and max(x, 0) < width and max(y, 0) < height
        if not all(map(math.isfinite, box)) or (min(w, h) > 0 and not (inside and min(x + w, y + h) > 0)):
            refuse(f"a box {list(box)} that image {image} of {width} x {height} pixels cannot hold")


def _boxes_and_labels(marked: list[Record], names: dict[int, str]) -> tuple[np.ndarray, list[str]]:
    """Boxes (n, 4) by their edges, where COCO has x, y, width, height; and n class names."""
    boxes = np.array([mark["bbox"] for mark in marked], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, [names[mark["category_id"]] for mark in marked]


def _filled(outline: Any, shape: tuple[int, int], name: str) -> np.ndarray:
    """Polygons [[x1, y1, x2, y2, ...], ...], or run lengths as numbers or packed, as (H, W)."""
    try:
        if isinstance(outline, list):
            outline = rle.merge(rle.frPyObjects(outline, *shape))
        elif isinstance(outline["counts"], list):
            outline = rle.frPyObjects(outline, *shape)
        if tuple(outline["size"]) != shape:
            raise ValueError(f"it is of {outline['size']}")
        mask = rle.decode(outline)
    except Exception as error:  # pycocotools raises that very class
        raise InputError(f"{name}, of {shape}, is damaged: {error}") from error
    try:
        rle.decode({**outline, "size": [mask.size - 1, 1]})
    except Exception:  # it is too long for one pixel less, so it fills the image
        return mask
    raise InputError(f"{name}, of {shape}, is damaged: its run lengths do not fill the image")


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes (n, 4) in square pixels, (n,)."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area in square pixels that each of boxes (n, 4) has in common with each of (m, 4), (n, m)."""
    ends = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return ends.clip(0).prod(axis=2)


def matched(
    found: Detections, truth: Truth, shape: tuple[int, ...]
) -> tuple[Detections, list[int], list[Record]]:
    """Detections in an image (H, W, ...) that find an object, see `detection.match`.

    Gives the n detections, the n indices in `truth` of what they found, and n records: ``label``,
    ``area`` (share of the image that the object's box takes) and ``methods``, for scores.
    """
    pairs = match(found, truth.boxes, truth.labels)
    own = [index for _, index in pairs]
    areas = box_areas(truth.boxes[own]) / (shape[0] * shape[1])
    records: list[Record] = [
        {"label": truth.labels[index], "area": round(float(area), 6), "methods": {}}
        for index, area in zip(own, areas)
    ]
    return found[[row for row, _ in pairs]], own, records


def drawn(folder: str | Path, n_scenes: int) -> DataSet:
    """The planted scenes 0, 1, ... as a data set, written to a folder where they are not there yet."""
    write_coco(folder, range(n_scenes), progress=False)
    return read_coco(folder)


def study_photos(
    detector: str | DetectorSource | Detector,
    data: DataSet,
    out: str | Path,
    study_image: Callable[..., Record],
    settings: Record,
    *,
    seed: int = 0,
    limit: int | None = None,
    **run_options: Any,
) -> Records:
    """Study the photos of a data set, or go on where a run was stopped; see `runner.run_study`.

    A record has ``image`` and what `study_image` returns, or ``error`` as `study_photo` gives it.

    Parameters
    ----------
    detector : str, DetectorSource or Detector
        A name or source lets every worker load its own; a `Detector` is sent to them. One that shares no
        class with the data set raises `InputError`.
    data : DataSet
        See `read_coco` and `drawn`.
    study_image : callable
        A function of a module, or `functools.partial` of one, that takes detector, image and `truth`.
    seed : int
        Of the order of the images.
    limit : int, optional
        Only the first so many images of that order.
    **run_options
        ``workers``, ``executor`` and ``progress`` of `runner.run_study`.
    """
    checks.instance("data", data, DataSet, "use read_coco(folder)")
    checks.at_least("seed", seed, 0)
    if limit is not None:
        checks.at_least("limit", limit, 1)
    loaded = detector_of(detector)
    if not {label for truth in data.truths for label in truth.labels} & set(loaded.class_names):
        raise InputError(f"the data set and {loaded.name} have no class in common")
    known = {
        "detector": {"name": loaded.name, **loaded.provenance},
        "annotations_sha256": data.sha256,
        "size_centres": data.centres,
        "seed": seed,
    }
    order = np.random.default_rng(seed).permutation(len(data.truths))[:limit]
    truths = [data.truths[k] for k in order]
    tasks = [
        Task({"image": truth.image}, (detector, truth.photo, partial(study_image, truth=truth)))
        for truth in truths
    ]
    return run_study(out, known | settings, tasks, study_photo, **run_options)


def study_photo(
    detector: str | DetectorSource | Detector,
    photo: Callable[[], np.ndarray],
    study: Callable[[Detector, np.ndarray], Record],
) -> Record:
    """What `study` makes of a photo, or ``error`` where the photo cannot be read."""
    try:
        image = photo()
    except InputError as error:
        return {"error": str(error)}
    return study(detector_of(detector), image)
