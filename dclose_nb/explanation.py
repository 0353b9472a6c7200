"""`explain`, and the record that it returns."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import checks, files
from .checks import InputError
from .detection import Detections, Detector, Targets
from .fusion import min_max
from .methods import METHODS, Maps, Method, make, options_of
from .sampling import Sampling, batch_size_for
from .similarity import QUESTIONS

TOLERANCE = 0.1  # of n_masks="auto"
CHECKS, CHECK = 20, 50  # times that a run looks whether its error will do, and least masks between two
WATCH, FIRST = 0.3, 24  # least seconds between two calls of `watch`, and most masks of the first

ARRAYS = "maps.npz"
FORMAT = 1  # of a saved folder
_HOW: dict[str, Any] = {  # in the manifest, and of which types
    **{"method": str, "params": dict, "seed": int | None, "batch_size": int | None},
    **{"tolerance": float | None, "n_forward": int, "seconds": float | int, "overlap": str},
    "question": str,
}
# Names of an explanation's files: those of `save`, and the drawings of `reports` and `folder`
_OWN = re.compile(
    r"(overlay_\d+_[\w-]+|sheet)\.(png|pdf)|maps\.npz|manifest\.json|report\.html|thumbnail\.jpg"
)


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Saliency maps of an image's detections, and how they were made.

    Parameters
    ----------
    saliency : (n, H, W) float32 array
        One map for each detection, at the image's size, not scaled.
    levels : (L, n, h, w) float32 array or None
        S_k of Eq. 7, finest first, in the frame of the canvas's content: the image at the
        network's input size, without padding. None if the method has no levels.
    density : (L, h, w) float32 array or None
        P_k of Eq. 3, in the same frame.
    error : (n, H, W) float32 array or None
        Standard error of the map scaled to [0, 1]. ``regression`` always estimates it, from groups of masks
        that are left out in turn. Other methods need a tolerance, without which it is None: the error
        is half the distance between the maps of two halves of the masks, which is right in its root
        mean square.
    detections : Detections
        What is explained.
    image : (H, W, 3) uint8 array
    method : str
    params : dict
        Every option of the method.
    seed, batch_size, tolerance : int, int, float
        Options of the run; None for a method that draws no random masks.
    n_forward : int
        Images that `explain` showed to the network: masked ones, those of the targets' own masks, and the
        whole image where it had to find the targets.
    seconds : float
        Time that `explain` took.
    provenance : dict
        The detector with the checksum of its weights, and the versions of the packages.
    overlap : {"box", "mask"}
        Of what Eq. 2 took the IoU.
    question : {"all", "place", "class"}
        Which factors of Eq. 2 counted, see `similarity.mask_weights`.

    ``e[i]``, ``e[:k]`` and iteration give `Explanation` again.
    """

    saliency: np.ndarray
    levels: np.ndarray | None
    density: np.ndarray | None
    error: np.ndarray | None
    detections: Detections
    image: np.ndarray
    method: str
    params: dict[str, Any]
    seed: int | None
    batch_size: int | None
    tolerance: float | None
    n_forward: int
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)
    overlap: str = "box"
    question: str = "all"

    def __post_init__(self) -> None:
        for array in self._arrays().values():
            array.flags.writeable = False

    def _arrays(self) -> dict[str, np.ndarray]:
        """The record's own arrays by name, without those that are None."""
        names = "saliency", "levels", "density", "error", "image"
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self, index: Any) -> Explanation:
        rows = self.detections.rows(index)
        return replace(
            self,
            saliency=self.saliency[rows],
            levels=None if self.levels is None else self.levels[:, rows],
            error=None if self.error is None else self.error[rows],
            detections=self.detections[rows],
        )

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        cost = f"{self.n_forward} forward passes, {self.seconds:.1f} s"
        return f"Explanation by {self.method} ({cost})\n{self.detections!r}"

    @property
    def relative_error(self) -> np.ndarray | None:
        """Root mean square of each map's error over that of the map scaled to [0, 1], (n,).

        This is what a tolerance bounds. It is infinite for a constant map, which shows nothing
        yet. None without an error.
        """
        if self.error is None:
            return None
        size, wrong = (np.sqrt(np.square(maps).mean((1, 2))) for maps in (min_max(self.saliency), self.error))
        return np.divide(wrong, size, out=np.full(len(size), np.inf), where=size > 0)

    @property
    def segments(self) -> list[int]:
        """Number of superpixels of each of `levels`, finest first; empty for a method without such levels."""
        segments = () if self.levels is None else self.params.get("segments", ())
        return sorted(segments, reverse=True) if isinstance(segments, tuple) else []

    @property
    def level_names(self) -> list[str]:
        """What each of `levels` is called, finest first."""
        numbered = [] if self.levels is None else [f"level {k + 1}" for k in range(len(self.levels))]
        return [f"about {count} superpixels" for count in self.segments] or numbered

    def save(self, folder: str | Path) -> Path:
        """Write ``maps.npz`` (all arrays) and ``manifest.json`` (how they were made); see `load`.

        The files of an earlier explanation in the folder are replaced. A folder that cannot be written, or
        whose files of these names are somebody else's, raises `InputError`. `dclose_nb.report` writes the
        same two files, with drawings beside them.
        """
        with staged(folder) as stage:
            self.write(stage)
        return checks.path(folder)

    def write(self, stage: Path, *, drawings: tuple[str, ...] = (), photo: str | None = None) -> None:
        """Write the two files to a `staged` folder that already holds the drawings."""
        own = {one.name: getattr(self.detections, one.name) for one in fields(Detections)}
        manifest = self._manifest(photo) | {"files": sorted([*drawings, ARRAYS, files.MANIFEST])}
        with files.write_errors(stage):
            _save_arrays(stage / ARRAYS, self._arrays() | own)
            (stage / files.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    def _manifest(self, photo: str | None = None) -> dict[str, Any]:
        """How the maps were made, as plain data; `photo` is the image's name."""
        found, (height, width) = self.detections, self.image.shape[:2]
        sha256 = hashlib.sha256(self.image.tobytes()).hexdigest()
        return {
            "format": FORMAT,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "image": {"photo": photo, "height": height, "width": width, "sha256": sha256},
            **{name: getattr(self, name) for name in _HOW},
            **self.provenance,
            "objects": [
                {"label": label, "score": round(score, 4), "box_xyxy": [round(edge, 2) for edge in box]}
                for label, score, box in zip(found.names, found.scores.tolist(), found.boxes.tolist())
            ],
        }

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read what `save` wrote. The arrays are equal to the bit.

        A folder that is missing, damaged, of another version or without an explanation raises `InputError`.
        """
        folder = checks.path(folder)
        if not (folder / files.MANIFEST).is_file():
            raise InputError(f"{str(folder)!r} holds no explanation: there is no {files.MANIFEST} in it")
        try:
            text = (folder / files.MANIFEST).read_bytes()
            manifest = files.from_json(text)
            if not isinstance(manifest, dict) or ARRAYS not in (manifest.get("files") or ()):
                raise InputError(f"its {files.MANIFEST} is not an explanation's")
            for option, before in (("overlap", "box"), ("question", "all")):
                manifest.setdefault(option, before)  # as it was before there was a choice
            if (written := checks.at_least("format", manifest.get("format", 0), 0)) != FORMAT:
                age = "a later" if written > FORMAT else "an earlier"
                raise InputError(f"{age} version of dclose_nb saved it, and this one reads format {FORMAT}")
            for name, kind in (_HOW | dict.fromkeys(("image", "detector", "versions"), dict)).items():
                checks.instance(name, manifest[name], kind)
            if not {"name", "device"} <= manifest["detector"].keys():
                raise InputError("its detector has no name or no device")
            with np.load(folder / ARRAYS) as stored:
                arrays = dict(stored)
            if (folder / files.MANIFEST).read_bytes() != text:
                raise InputError("it was replaced while it was read: load it again")
            if manifest["image"]["sha256"] != hashlib.sha256(arrays["image"].tobytes()).hexdigest():
                raise InputError("its two files do not belong together")
            found = Detections(*(arrays.pop(one.name) for one in fields(Detections)))
            record: dict[str, Any] = dict.fromkeys(("levels", "density", "error")) | arrays
            n, (height, width) = len(found), arrays["image"].shape[:2]
            shapes: dict[str, tuple[int | str, ...]] = {"image": (height, width, 3)}
            shapes |= dict.fromkeys(("saliency", "error"), (n, height, width))
            shapes |= {"levels": ("L", n, "h", "w"), "density": ("L", "h", "w")}
            if "levels" in arrays:  # a density map for each level, of its size
                shapes["density"] = (len(arrays["levels"]), *arrays["levels"].shape[2:])
            for name, array in arrays.items():
                checks.numbers(name, array, shapes[name], dtype=array.dtype)
            record |= {name: manifest[name] for name in _HOW}
            record["params"] = {name: checks.plain(value) for name, value in manifest["params"].items()}
            if record["method"] in METHODS:
                METHODS[record["method"]](**record["params"])  # refuses what its options cannot be
                n_levels, segments = len(arrays.get("levels", ())), record["params"].get("segments", ())
                if n_levels and "segments" in options_of(record["method"]) and len(segments) != n_levels:
                    raise InputError(f"its params have {len(segments)} segments for {n_levels} levels")
            record["provenance"] = {name: manifest[name] for name in ("detector", "versions")}
            return cls(detections=found, **record)
        except Exception as error:  # of zip files, zlib and NumPy, too
            why = error if isinstance(error, InputError) else repr(error)
            raise InputError(f"the explanation in {str(folder)!r} cannot be loaded: {why}") from error


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """As `numpy.savez_compressed`, with the fastest compression: half the time for a tenth more bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def own_files(folder: Path) -> set[str]:
    """Names of a folder's files that belong to an explanation."""
    return files.named_by_manifest(folder, _OWN)


def staged(folder: str | Path, drawings: Collection[str] = ()) -> AbstractContextManager[Path]:
    """`files.staged` for an explanation and the drawings that are sure to be written beside it."""
    return files.staged(folder, _OWN, {ARRAYS, files.MANIFEST, *drawings}, "an explanation's")


def explain(
    detector: Detector,
    image: Any,
    targets: Detections | Targets | None = None,
    *,
    method: str = "dclose",
    n_masks: int | Literal["auto"] | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    batch_size: int | None = None,
    overlap: Literal["box", "mask"] = "box",
    question: Literal["all", "place", "class"] = "all",
    watch: Callable[[Explanation], bool | None] | None = None,
    progress: bool = True,
    **options: Any,
) -> Explanation:
    """Show for each detection which pixels led the detector to it.

    Parameters
    ----------
    detector : Detector
        From `load_detector`.
    image : array
        (H, W), (H, W, 3) or (H, W, 4), uint8, or float in [0, 1].
    targets : Detections or Targets, optional
        What to explain; by default what ``detector.detect(image)`` finds. `Targets` are boxes of your
        own. All targets are explained from the same forward passes.
    method : str
        A name in `dclose_nb.methods.METHODS`.
    n_masks : int or "auto", optional
        Number of masked images; by default the method's own: 4000 for ``dclose`` and ``mfpp``, 200 for
        ``regression``, 400 for ``contrast``, 5000 for ``drise``, 1000 for ``sodex``. ``gradcam``,
        ``odam``, ``gcame`` and ``greedy`` draw no random masks and take none. "auto" is as many as
        ``tolerance=0.1`` needs, at most the method's own number, or 2000 for ``regression``.
    seed : int
        The same seed gives the same masks to the bit, whatever the batch size.
    tolerance : float, optional
        In (0, 1). Sampling stops as soon as the `relative_error` of every map is no larger. It looks up to
        twenty times, and not before about 50 masks. Methods without random masks take none.
    batch_size : int, optional
        Masked images in one forward pass; chosen by default.
    overlap : {"box", "mask"}
        Of what Eq. 2 takes the IoU: of boxes, or of the masks that a Mask R-CNN draws. The target's mask is
        the one that the network draws in its box in the unmasked image, one more forward pass. See
        `similarity.mask_iou`, and `similarity.mask_weights` for the proposals that get a mask.
        Methods without random masks take none.
    question : {"all", "place", "class"}
        Why this detection, why here, or why this class? The question decides which factors of Eq. 2 weigh a
        masked image, see `similarity.mask_weights`. It costs no forward pass of its own. If the detector
        gives labels without class vectors, "class" asks only whether the label stays, and a warning says so.
    watch : callable, optional
        Called with the `Explanation` so far: first after at most about 24 masks, then at most a few times
        a second. If it returns True, sampling stops, and this explanation is the result. Methods without
        random masks do not call it.
    progress : bool
        Show a progress bar.
    **options
        The method's own, see `dclose_nb.methods`.

    Returns
    -------
    Explanation
        Empty if there is nothing to explain. A warning says if the tolerance was not met, or if the
        memory did not suffice for a batch.

    Raises
    ------
    InputError
        An image, a target or an option that cannot be used.

    Examples
    --------
    >>> import dclose_nb as dc
    >>> detector, image = dc.load_detector("planted", device="cpu"), dc.planted.scene(1).image
    >>> dc.explain(detector, image, n_masks=20, progress=False).saliency.shape
    (3, 320, 320)
    """
    start = time.perf_counter()
    checks.instance("detector", detector, Detector, "use load_detector(...)")
    if watch is not None and not callable(watch):
        raise InputError(f"watch must be a function of an Explanation, got {checks.shown(watch)}")
    image = checks.image(image).copy()  # the record keeps it
    auto = False
    if isinstance(n_masks, str) and n_masks == "auto":
        n_masks, auto, tolerance = None, True, TOLERANCE if tolerance is None else tolerance
    chosen = make(method, n_masks=n_masks, **options)
    sampled = isinstance(chosen, Method)
    if auto and sampled and chosen.most is not None:
        chosen = replace(chosen, n_masks=chosen.most)
    checks.choice("overlap", overlap, ("box", "mask"))
    checks.choice("question", question, QUESTIONS)
    seed, batch_size = checks.at_least("seed", seed, 0), batch_size_for(detector, batch_size)
    stopping = "n_masks" if auto else "tolerance"
    for option, asked in ((stopping, tolerance is not None), ("overlap", overlap == "mask")):
        if asked and not sampled:
            known = ", ".join(options_of(method))
            raise InputError(f"method {method!r} has no option {option!r}; it has: {known}")
    if tolerance is not None:
        tolerance = checks.probability("tolerance", tolerance)

    canvas = detector.prepare(image)
    detected = targets is None
    targets = detector.detect_on(canvas) if targets is None else targets
    drawn = isinstance(targets, Targets)
    targets = _target_vectors(targets, detector, image.shape[:2])
    if question == "class" and not drawn and ((targets.class_probs > 0).sum(axis=1) == 1).any():
        checks.warn(
            "a target's class vector has a single class: if the detector gives labels alone, the question "
            "'class' asks only whether they stay"
        )
    source = {"name": detector.name, "device": str(detector.device), **detector.provenance}
    provenance = json.loads(json.dumps({"detector": source, "versions": versions()}, default=str))

    def explanation(maps: Maps, n_masks: int) -> Explanation:
        return Explanation(
            saliency=canvas.maps_to_image(maps.saliency),
            levels=maps.levels,
            density=maps.density,
            error=None if maps.error is None else canvas.maps_to_image(maps.error),
            detections=targets,
            image=image,
            method=method,
            params=asdict(chosen),
            seed=seed if sampled else None,
            batch_size=batch_size if sampled else None,
            tolerance=tolerance,
            n_forward=detected + (overlap == "mask") + n_masks,
            seconds=time.perf_counter() - start,
            provenance=provenance,
            overlap=overlap,
            question=question,
        )

    if not sampled:
        found = chosen.maps(
            detector, canvas, targets, question=question, batch_size=batch_size, progress=progress
        )
        return explanation(*found)

    plan = chosen.plan(canvas, seed)._replace(overlap=overlap, question=question)
    limit = tolerance or np.inf
    halves, total = 1 + (tolerance is not None and not chosen.own_error), sum(plan.counts)
    step = max(CHECK, -(-total // CHECKS))
    stops = [min(FIRST, total)] * (watch is not None) + [*range(step, total, step)] * (tolerance is not None)
    run: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    sampling = Sampling(detector, canvas, targets, plan, stops=stops, halves=halves, **run)

    def so_far() -> Explanation:
        levels = sampling.levels()
        maps = chosen.combine(levels)
        if halves == 2:
            apart = [min_max(chosen.combine(sampling.levels(half)).saliency) for half in (0, 1)]
            maps = maps._replace(error=np.abs(apart[0] - apart[1]) / 2)
        return explanation(maps, sum(len(level.weights) for level in levels))

    def worst_error(now: Explanation) -> float:
        return 0.0 if now.relative_error is None else float(now.relative_error.max(initial=0))

    next_watch = -np.inf
    for taken in sampling:
        due = tolerance is not None and taken in sampling.stops and taken > FIRST
        began = time.monotonic()
        look = watch if began > next_watch else None
        if not due and look is None:
            continue
        now = so_far()
        if due and worst_error(now) <= limit:
            return now
        if look is not None:
            if look(now):
                return now
            ended = time.monotonic()
            next_watch = ended + max(WATCH, 3 * (ended - began))  # it takes at most a quarter of the time
    final = so_far()
    if (reached := worst_error(final)) > limit:
        checks.warn(f"after {taken} masks a map's error is {reached:.2f}, not {tolerance} or less")
    return final


def _target_vectors(targets: Detections | Targets, detector: Detector, size: tuple[int, int]) -> Detections:
    """Targets as detections of this detector; boxes outside the image are refused."""
    if isinstance(targets, Targets):
        targets = targets.detections(detector.class_names)
    elif not isinstance(targets, Detections):
        raise InputError(
            f"targets must be Detections, dc.Targets(boxes, labels) or None, got {type(targets).__name__}"
        )
    elif targets.class_names != tuple(detector.class_names):
        raise InputError("targets have other classes than the detector: pass dc.Targets(boxes, labels)")
    height, width = size
    x1, y1, x2, y2 = targets.boxes.T
    outside = (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)
    if outside.any():
        box = targets.boxes[outside][0].tolist()
        raise InputError(f"box {box} lies outside the image, which is {width} wide and {height} high")
    return targets


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute the maps."""
    found = {"python": platform.python_version()}
    packages = "dclose_nb torch torchvision onnxruntime numpy scikit-image opencv-python pixeltable-yolox"
    for name in (*packages.split(), "openvino", "transformers"):
        with suppress(PackageNotFoundError):  # OpenCV has another name on conda-forge
            found[name] = version(name)
    return found
