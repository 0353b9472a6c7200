"""Data sets in COCO format, and studies of them: one record an image, resumable and spread out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from sklearn.cluster import KMeans
from tqdm.auto import tqdm

from .. import checks
from ..checks import InputError
from ..detection import Detections, Detector, Targets, match
from ..detectors import WeightsError, load_detector
from ..explanation import versions
from ..files import atomic_write, write_errors
from ..images import load_photo
from ..planted.dataset import write_coco
from .records import Record, Records

ATTEMPTS = 3  # deaths of workers in a row before it is given up


class Truth(NamedTuple):
    """An image of a data set and the objects that people have marked in it."""

    image: int
    path: str
    boxes: np.ndarray  # (n, 4) x1, y1, x2, y2 in pixels
    labels: list[str]
    outlines: list[Any]  # COCO's polygons or run lengths, None for a box alone
    crowds: Targets = Targets((), ())  # regions of many objects that nobody has counted

    def masks(self, shape: tuple[int, int]) -> np.ndarray:
        """Pixels of each object in an image of (H, W), (n, H, W) bool: its box where it has no outline."""
        masks = np.zeros((len(self.boxes), *shape), dtype=bool)
        for mask, outline, box in zip(masks, self.outlines, self.boxes):
            if outline:
                mask[:] = _filled(outline, shape)
            else:
                x1, y1, x2, y2 = box.round().astype(int).clip(0)
                mask[y1:y2, x1:x2] = True
        return masks


class DataSet(NamedTuple):
    """A folder of COCO: ``val2017/`` and ``annotations/instances_val2017.json``."""

    truths: list[Truth]
    missing: list[str]  # images that the file names and the folder has not
    centres: list[float]  # of the size groups: box area over image area, smallest first
    sha256: str  # of the annotation file


def read_coco(folder: str | Path, *, split: str = "val2017", missing: str = "stop") -> DataSet:
    """Read a data set in COCO format; crowds are kept apart from the objects.

    Size groups are k-means clusters (k = 3) of ground-truth box area over image area (section 6),
    fitted on all boxes of the images that are there.

    Parameters
    ----------
    folder : path
    split : str
    missing : {"stop", "skip"}
        What to do about images that the file names and the folder has not.

    Raises
    ------
    InputError
        No such folder or file, a file that is damaged, images that are missing, or fewer than
        three boxes.
    """
    checks.choice("missing", missing, ("stop", "skip"))
    folder = checks.path(folder)
    path = folder / "annotations" / f"instances_{split}.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports to the terminal
            coco = COCO(str(path))
        names = {entry["id"]: str(entry["name"]) for entry in coco.loadCats(coco.getCatIds())}
        truths, absent, ratios = [], [], []
        for entry in sorted(coco.loadImgs(coco.getImgIds()), key=lambda entry: entry["id"]):
            file = folder / split / Path(entry["file_name"]).name  # a name from outside stays in the folder
            if not file.is_file():
                absent.append(file.name)
                continue
            marked = [one for one in coco.imgToAnns[entry["id"]] if min(one["bbox"][2:]) > 0]
            objects = [one for one in marked if not one.get("iscrowd")]
            boxes, labels = _boxes(objects), [names[one["category_id"]] for one in objects]
            crowded = [one for one in marked if one.get("iscrowd")]
            crowds = Targets(_boxes(crowded), [names[one["category_id"]] for one in crowded])
            outlines = [one.get("segmentation") for one in objects]
            truths.append(Truth(int(entry["id"]), str(file), boxes, labels, outlines, crowds))
            sides = boxes[:, 2:] - boxes[:, :2]
            ratios += (sides.prod(axis=1) / (entry["width"] * entry["height"])).tolist()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError) as error:
        raise InputError(f"{str(path)!r} is damaged or not in COCO's format: {error!r}") from error
    if absent and missing == "stop":
        raise InputError(
            f"{len(absent)} of {len(absent) + len(truths)} images that {path.name} names are missing in "
            f"{str(folder / split)!r}, {absent[0]} for one: add them, or go on with the rest "
            "(missing='skip', --skip-missing)"
        )
    if len(set(ratios)) < 3:
        raise InputError(f"{str(path)!r} has {len(ratios)} boxes in the images that are there: too few")
    model = KMeans(3, n_init=10, random_state=0).fit(np.array(ratios)[:, None])
    centres = sorted(round(float(centre), 6) for centre in model.cluster_centers_[:, 0])
    return DataSet(truths, absent, centres, hashlib.sha256(content).hexdigest())


def _boxes(annotations: list[dict[str, Any]]) -> np.ndarray:
    """COCO's x, y, width, height as (n, 4) edges."""
    boxes = np.array([one["bbox"] for one in annotations], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _filled(outline: Any, shape: tuple[int, int]) -> np.ndarray:
    """Polygons [[x1, y1, x2, y2, ...], ...], or run lengths as numbers or packed, as (H, W)."""
    if isinstance(outline, list):
        outline = rle.merge(rle.frPyObjects(outline, *shape))
    elif isinstance(outline["counts"], list):
        outline = rle.frPyObjects(outline, *shape)
    return rle.decode(outline)


def matched(
    found: Detections, truth: Truth, shape: tuple[int, ...]
) -> tuple[Detections, list[int], list[Record]]:
    """Objects of an image (H, W, ...) that were found, see `detection.match`: n of them.

    Returns
    -------
    Detections
        n that found them.
    list of int
        The index of each in `truth`.
    list of dict
        A record of each: ``label``, ``area`` (share of the image that its box takes) and ``methods``,
        for what is to be scored.
    """
    pairs = match(found, truth.boxes, truth.labels)
    own = [index for _, index in pairs]
    x1, y1, x2, y2 = truth.boxes[own].T
    areas = (x2 - x1) * (y2 - y1) / (shape[0] * shape[1])
    records: list[Record] = [
        {"label": truth.labels[index], "area": round(float(area), 6), "methods": {}}
        for index, area in zip(own, areas)
    ]
    return found[[row for row, _ in pairs]], own, records


def drawn(folder: str | Path, n_scenes: int) -> DataSet:
    """The planted scenes 0, 1, ... as a data set, written to a folder where they are not there yet."""
    write_coco(folder, range(n_scenes), progress=False)
    return read_coco(folder)


def study(
    detector: str | Detector,
    data: DataSet,
    out: str | Path,
    score: Callable[[Detector, np.ndarray, Truth], Record],
    settings: Record,
    *,
    seed: int = 0,
    limit: int | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool = True,
) -> Records:
    """Score the images of a data set, or go on where a run was stopped.

    Parameters
    ----------
    detector : str or Detector
        A name lets every worker load its own; a `Detector` is sent to them.
    data : DataSet
        See `read_coco` and `drawn`.
    out : path
        ``records.jsonl`` is kept there, a line an image as it is done, and ``manifest.json`` that
        says how, where and with which versions.
    score : callable
        What to say of one image, given the detector, the image and its truth. It is sent to the
        workers, so it must be a module's function, or `functools.partial` of one.
    settings : dict
        What decides `score`, for the records.
    seed : int
        Of the order of the images.
    limit : int, optional
        Only the first so many images of that order.
    workers : int
        Processes on this machine, which share its cores.
    executor : concurrent.futures.Executor, optional
        Where images are sent in place of own processes; Dask's is ``client.get_executor()``.
    progress : bool

    Returns
    -------
    Records
        Of each image ``image`` and what `score` returns, or ``error`` where it cannot be read. They
        are the same whoever does the work, but for rounding where workers have other numbers of
        threads.

    Raises
    ------
    InputError
        A parameter out of range, a data set of other classes than the detector's, records of other
        settings in `out`, or a disk that is full.
    """
    checks.at_least("workers", workers, 1)
    if limit is not None:
        checks.at_least("limit", limit, 1)
    loaded = load_detector(detector)
    if not {label for truth in data.truths for label in truth.labels} & set(loaded.class_names):
        raise InputError(f"the data set and {loaded.name} have no class in common")
    known = {
        "detector": {"name": loaded.name, **loaded.provenance},
        "annotations_sha256": data.sha256,
        "size_centres": data.centres,
        "seed": seed,
    }
    records = Records(checks.path(out) / "records.jsonl", known | settings)
    order = np.random.default_rng(seed).permutation(len(data.truths))[:limit]
    done = {line["image"] for line in records.lines}
    todo = [data.truths[k] for k in order if data.truths[k].image not in done]
    run = {"images": len(order), "of_which_done": len(order) - len(todo), "workers": workers}
    _add_to_manifest(records, run)
    with tqdm(total=len(order), initial=len(order) - len(todo), unit="image", disable=not progress) as bar:

        def keep(line: Record) -> None:
            records.append(line)
            bar.update()

        work = partial(_work, detector, score)
        if executor is not None:
            _spread(executor, work, todo, keep)
        elif workers > 1:
            _in_processes(workers, work, todo, keep)
        else:
            for truth in todo:
                keep(_work(loaded, score, truth))
    return records


def _work(
    detector: str | Detector, score: Callable[[Detector, np.ndarray, Truth], Record], truth: Truth
) -> Record:
    """What a worker does."""
    try:
        image = load_photo(Path(truth.path))
    except InputError as error:
        return {"image": truth.image, "error": str(error)}
    return {"image": truth.image, **score(_detector(detector), image, truth)}


@lru_cache(maxsize=1)
def _detector(detector: str | Detector) -> Detector:
    return load_detector(detector)


def command(name: str, work: Callable[[], object]) -> int:
    """Run a study as its command does: print what `work` gives, and return the exit status."""
    try:
        print(work())
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from there", file=sys.stderr)
        return 130
    except (InputError, WeightsError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


def _add_to_manifest(records: Records, run: Record) -> None:
    """Note in ``manifest.json`` what made the records: their settings, and each run with its machine."""
    path = records.path.with_name("manifest.json")
    run |= {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    run |= {"machine": platform.platform(), "cores": os.cpu_count(), "versions": versions()}
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
        content = {"settings": records.settings, "runs": [*runs, run]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is damaged: move it away to begin anew") from error
    with write_errors(path.parent), atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _in_processes(
    workers: int,
    work: Callable[[Truth], Record],
    todo: list[Truth],
    keep: Callable[[Record], None],
) -> None:
    """Spread over own processes; where one dies the pool is made anew for what is left."""
    left = {truth.image: truth for truth in todo}

    def kept(line: Record) -> None:
        keep(line)
        del left[line["image"]]

    threads = max((os.cpu_count() or 1) // workers, 1)
    deaths = 0
    while left:
        before = len(left)
        try:
            with ProcessPoolExecutor(
                workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
            ) as pool:
                _spread(pool, work, list(left.values()), kept)
        except BrokenExecutor as error:
            deaths = 1 if len(left) < before else deaths + 1
            if deaths == ATTEMPTS:
                raise InputError(
                    f"worker processes died {ATTEMPTS} times without an image done in between: is there "
                    f"memory for {workers}? What was done is kept."
                ) from error
            warnings.warn(f"a worker process died; {len(left)} images are left and go on", stacklevel=3)


def _spread(
    executor: Executor,
    work: Callable[[Truth], Record],
    todo: list[Truth],
    keep: Callable[[Record], None],
) -> None:
    futures = [executor.submit(work, truth) for truth in todo]
    try:
        for future in as_completed(futures):
            keep(future.result())
    finally:
        for future in futures:
            future.cancel()
