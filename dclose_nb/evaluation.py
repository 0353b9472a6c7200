"""Section 6: methods over a data set in COCO format, one record an image, resumable and spread out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from tqdm.auto import tqdm

from . import checks, metrics
from .checks import InputError
from .detection import Canvas, Detections, Detector, Targets, match
from .detectors import load_detector
from .explanation import explain, parameters, versions
from .files import whole, writing
from .methods import METHODS
from .methods.dclose import fuse, without_density
from .photos import load_photo
from .records import Record, Records

# Table 1: what is left of D-CLOSE without one or two of its parts, from the forward passes of the whole
ABLATION: dict[str, dict[str, Any]] = {
    "mfpp": {"density": False, "fusion": "mean"},  # segments alone
    "segments+density": {"density": True, "fusion": "mean"},
    "segments+fusion": {"density": False, "fusion": "cascade"},
}
KNOWN = tuple(dict.fromkeys([*METHODS, *ABLATION]))
CURVE_POINTS = 42  # of a curve's steps that are kept in a record
ATTEMPTS = 3  # deaths of workers in a row before it is given up


class Truth(NamedTuple):
    """An image of a data set and the objects that people have marked in it."""

    image: int
    path: str
    boxes: np.ndarray  # (n, 4) x1, y1, x2, y2 in pixels
    labels: list[str]
    crowds: Targets = Targets((), ())  # regions of many objects that nobody has counted


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
    from pycocotools.coco import COCO

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
            own = [one for one in coco.imgToAnns[entry["id"]] if one["bbox"][2] > 0 and one["bbox"][3] > 0]
            boxes = np.array([one["bbox"] for one in own], dtype=np.float32).reshape(-1, 4)
            areas = boxes[:, 2] * boxes[:, 3] / (entry["width"] * entry["height"])
            boxes[:, 2:] += boxes[:, :2]
            labels = np.array([names[one["category_id"]] for one in own], dtype=str)
            crowd = np.array([bool(one.get("iscrowd")) for one in own], dtype=bool)
            ratios += areas[~crowd].tolist()
            crowds = Targets(boxes[crowd], labels[crowd].tolist())
            truths.append(Truth(int(entry["id"]), str(file), boxes[~crowd], labels[~crowd].tolist(), crowds))
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


def evaluate_image(detector: Detector, truth: Truth, methods: dict[str, Record], steps: int) -> Record:
    """Every method's maps of the matched detections of one image, scored.

    Parameters
    ----------
    detector : Detector
    truth : Truth
    methods : dict
        Names from `KNOWN` and what each is called with; those of `ABLATION` are made of the levels
        of ``methods["dclose"]`` and get no forward pass of their own.
    steps : int
        Of deletion and insertion.

    Returns
    -------
    dict
        ``image``, ``found`` and ``truths`` (how many), ``seconds`` and ``n_forward`` a method, and
        ``objects``; or ``image`` and ``error`` for an image that cannot be read.
    """
    try:
        image = load_photo(Path(truth.path))
    except InputError as error:
        return {"image": truth.image, "error": str(error)}
    canvas = detector.prepare(image)
    found = detector.detect_on(canvas)
    pairs = match(found, truth.boxes, truth.labels)
    line: Record = {"image": truth.image, "found": len(found), "truths": len(truth.boxes)}
    line |= {"seconds": {}, "n_forward": {}, "objects": []}
    if not pairs:
        return line
    targets = found[[row for row, _ in pairs]]
    truth_boxes = truth.boxes[[index for _, index in pairs]]
    area = image.shape[0] * image.shape[1]
    for k, (x1, y1, x2, y2) in enumerate(truth_boxes.tolist()):
        line["objects"].append(
            {
                "label": targets.names[k],
                "score": round(float(targets.scores[k]), 4),
                "box": [round(float(edge), 1) for edge in targets.boxes[k]],
                "area": round((x2 - x1) * (y2 - y1) / area, 6),
                "methods": {},
            }
        )
    for name, maps, seconds, n_forward in _maps(detector, image, canvas, targets, methods):
        line["seconds"][name], line["n_forward"][name] = round(seconds, 3), n_forward
        curves = metrics.curves(detector, canvas, targets, maps, steps=steps)
        for k, heat in enumerate(maps):
            deletion, insertion = (curves[kind][k] for kind in ("deletion", "insertion"))
            kept = np.linspace(0, steps, min(CURVE_POINTS, steps + 1)).round().astype(int)
            line["objects"][k]["methods"][name] = {
                "sparsity": round(metrics.sparsity(heat), 4),
                "ebpg": round(metrics.ebpg(heat, truth_boxes[k]), 5),
                "pointing": round(metrics.pointing_game(heat, truth_boxes[k]), 3),
                "deletion": round(deletion.score, 5),
                "insertion": round(insertion.score, 5),
                "over_all": round(insertion.score - deletion.score, 5),
                "deletion_curve": [round(float(score), 3) for score in deletion.curve[kept]],
                "insertion_curve": [round(float(score), 3) for score in insertion.curve[kept]],
            }
    return line


def _maps(
    detector: Detector,
    image: np.ndarray,
    canvas: Canvas,
    targets: Detections,
    methods: dict[str, Record],
) -> Iterator[tuple[str, np.ndarray, float, int]]:
    """Name, maps (n, H, W), seconds and forward passes of each method."""
    for name, params in methods.items():
        if name in ABLATION:
            continue
        done = explain(detector, image, targets, method=name, progress=False, **params)
        yield name, done.saliency, done.seconds, done.n_forward
        if name != "dclose":
            continue
        assert done.levels is not None and done.density is not None
        bare = without_density(done.levels, done.density, params["n_masks"], params["p"])
        for part, settings in ABLATION.items():
            if part in methods:
                levels = done.levels if settings["density"] else bare
                fused = fuse(levels, fusion=settings["fusion"], order=params["order"])
                yield part, canvas.maps_to_image(fused), done.seconds, done.n_forward


def evaluate(
    detector: str | Detector,
    data: DataSet,
    out: str | Path,
    *,
    methods: Sequence[str] = ("dclose", "drise", "gradcam"),
    n_masks: int | None = None,
    steps: int = metrics.STEPS,
    seed: int = 0,
    limit: int | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool = True,
) -> Records:
    """Evaluate methods on a data set, or go on where a run was stopped.

    Parameters
    ----------
    detector : str or Detector
        A name lets every worker load its own; a `Detector` is sent to them.
    data : DataSet
        See `read_coco`.
    out : path
        ``records.jsonl`` is kept there, a line an image as it is done, and ``manifest.json`` that
        says how, where and with which versions.
    methods : sequence of str
        Of `KNOWN`; those of `ABLATION` need "dclose".
    n_masks : int, optional
        Budget of each sampling method; by default its own.
    steps : int
        Of deletion and insertion.
    seed : int
        Of the masks and of the order of the images.
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
        The same whoever does the work, but for rounding where workers have other numbers of threads.

    Raises
    ------
    InputError
        A parameter out of range, a data set of other classes than the detector's, records of other
        parameters in `out`, or a disk that is full.
    """
    for name in methods:
        checks.choice("methods", name, KNOWN)
    if "dclose" not in methods and any(name in ABLATION for name in methods):
        raise InputError(f"{', '.join(ABLATION)} are made of dclose's levels: add 'dclose' to the methods")
    checks.at_least("steps", steps, 1)
    checks.at_least("workers", workers, 1)
    if limit is not None:
        checks.at_least("limit", limit, 1)
    loaded = load_detector(detector)
    if not {label for truth in data.truths for label in truth.labels} & set(loaded.class_names):
        raise InputError(f"the data set and {loaded.name} have no class in common")
    plans = {name: {} if name in ABLATION else _plan(name, n_masks, seed) for name in methods}
    settings = {
        "detector": {"name": loaded.name, **loaded.provenance},
        "annotations_sha256": data.sha256,
        "size_centres": data.centres,
        "methods": plans,
        "steps": steps,
        "seed": seed,
    }
    records = Records(checks.path(out) / "records.jsonl", settings)
    order = np.random.default_rng(seed).permutation(len(data.truths))[:limit]
    done = {line["image"] for line in records.lines}
    todo = [data.truths[k] for k in order if data.truths[k].image not in done]
    run = {"images": len(order), "of_which_done": len(order) - len(todo), "workers": workers}
    _add_to_manifest(records, run)
    with tqdm(total=len(order), initial=len(order) - len(todo), unit="image", disable=not progress) as bar:

        def keep(line: Record) -> None:
            records.append(line)
            bar.update()

        work = partial(_work, detector, plans, steps)
        if executor is not None:
            _spread(executor, work, todo, keep)
        elif workers > 1:
            _in_processes(workers, work, todo, keep)
        else:
            for truth in todo:
                keep(evaluate_image(loaded, truth, plans, steps))
    return records


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
    with writing(path.parent), whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _plan(name: str, n_masks: int | None, seed: int) -> Record:
    takes_masks = "n_masks" in parameters(name)
    plan = parameters(name, n_masks=n_masks if takes_masks else None, seed=seed)
    plan.pop("batch_size", None)  # chosen where it runs, and no part of the result
    return plan


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


def _work(detector: str | Detector, plans: dict[str, Record], steps: int, truth: Truth) -> Record:
    """What a worker does."""
    return evaluate_image(_detector(detector), truth, plans, steps)


@lru_cache(maxsize=1)
def _detector(detector: str | Detector) -> Detector:
    return load_detector(detector)
