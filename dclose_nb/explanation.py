"""`explain`, and the frozen record that it gives."""

from __future__ import annotations

import inspect
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import checks
from .checks import InputError
from .detection import Detections, Detector, Targets
from .engine import Maps, default_batch_size
from .methods import METHODS

TOLERANCE = 0.1  # of n_masks="auto"


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Saliency maps of an image's detections, and how they were made.

    Parameters
    ----------
    saliency : (n, H, W) float32 array
        One map a detection, in the image's frame, as computed, not scaled.
    levels : (L, n, h, w) float32 array or None
        S_k of Eq. 7, finest first, in the frame of the canvas's content: the image at the
        network's input size, without padding. None where a method has no levels.
    density : (L, h, w) float32 array or None
        P_k of Eq. 3, in the same frame.
    error : (n, H, W) float32 array or None
        Standard error of each map scaled to [0, 1], estimated from two halves of the masks (see
        `engine.half_difference`). None without a tolerance.
    relative_error : (n,) array or None
        Root mean square of the error over that of the scaled map; what a tolerance bounds.
    detections : Detections
        What is explained.
    image : (H, W, 3) uint8 array
    method : str
    params : dict
        Every option of the method, the seed and the batch size.
    n_forward : int
        Images the network saw, the first detection included.
    seconds : float
        Time that `explain` took.
    provenance : dict
        The detector, with its weights' checksum, and the versions of what computed the maps.

    ``e[i]``, ``e[:k]`` and iteration give `Explanation` again.
    """

    saliency: np.ndarray
    levels: np.ndarray | None
    density: np.ndarray | None
    error: np.ndarray | None
    relative_error: np.ndarray | None
    detections: Detections
    image: np.ndarray
    method: str
    params: dict[str, Any]
    n_forward: int
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arrays = self.saliency, self.levels, self.density, self.error, self.relative_error, self.image
        for array in arrays:
            if array is not None:
                array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self, index: Any) -> Explanation:
        rows = self.detections.rows(index)
        return replace(
            self,
            saliency=self.saliency[rows],
            levels=None if self.levels is None else self.levels[:, rows],
            error=None if self.error is None else self.error[rows],
            relative_error=None if self.relative_error is None else self.relative_error[rows],
            detections=self.detections[rows],
        )

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"Explanation by {self.method} ({self.n_forward} forward passes, {self.seconds:.1f} s)\n"
            f"{self.detections!r}"
        )

    @property
    def segments(self) -> list[int]:
        """Superpixels of each of `levels`, finest first."""
        return sorted(self.params["segments"], reverse=True)

    def save(self, folder: str | Path) -> Path:
        """Write overlays, a sheet, the maps and a manifest to `folder`; see `report.write`."""
        from . import report  # what is drawn stands above what is computed, so it is looked up late

        return report.write(self, folder)


def explain(
    detector: Detector,
    image: Any,
    targets: Detections | Targets | None = None,
    *,
    method: str = "dclose",
    n_masks: int | Literal["auto"] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    watch: Callable[[Explanation], bool | None] | None = None,
    progress: bool = True,
    **options: Any,
) -> Explanation:
    """Say for each detection which pixels made the detector draw it.

    Parameters
    ----------
    detector : Detector
        From `load_detector`.
    image : array
        (H, W), (H, W, 3) or (H, W, 4), uint8, or float in [0, 1].
    targets : Detections or Targets, optional
        What to explain, by default what ``detector.detect(image)`` finds. `Targets` are boxes that
        the detector need not have drawn. All are explained from the same forward passes.
    method : str
        A name in `dclose_nb.methods.METHODS`.
    n_masks : int or "auto", optional
        Budget of masked images; by default the method's own (``dclose`` and ``mfpp`` 4000, ``contrast``
        400, ``drise`` 5000, ``sodex`` 1000). ``gradcam`` masks nothing and takes none. "auto" is the
        method's own with ``tolerance=0.1``: as soon as two halves of the masks agree that far,
        sampling stops.
    seed : int
        The same seed gives the same masks to the bit, whatever the batch size.
    batch_size : int, optional
        Masked images in one forward pass; chosen by default.
    watch : callable, optional
        Called a few times a second with the `Explanation` so far. Where it returns True, sampling
        stops with what it has.
    progress : bool
        Show a progress bar.
    **options
        The method's own; see `dclose_nb.methods`.

    Returns
    -------
    Explanation
        Empty where there is nothing to explain.

    Raises
    ------
    InputError
        An image, a target or an option that cannot be used.

    Examples
    --------
    >>> import dclose_nb as dc
    >>> detector = dc.load_detector("yolox_nano")  # doctest: +SKIP
    >>> dc.explain(detector, dc.load_photo("coffee"), n_masks=400)  # doctest: +SKIP
    """
    start = time.perf_counter()
    if not isinstance(detector, Detector):
        raise InputError(f"detector must be a Detector, got {detector!r}: use load_detector(...)")
    image = checks.image(image).copy()  # the record keeps it
    params = parameters(method, n_masks=n_masks, seed=seed, batch_size=batch_size, **options)
    if params.get("batch_size", 0) is None:
        params["batch_size"] = default_batch_size(detector)

    canvas = detector.prepare(image)
    n_forward = 0
    if targets is None:
        targets = detector.detect_on(canvas)
        n_forward += 1
    targets = _target_vectors(targets, detector, image.shape[:2])

    def explanation(maps: Maps) -> Explanation:
        return Explanation(
            saliency=canvas.maps_to_image(maps.saliency),
            levels=maps.levels,
            density=maps.density,
            error=None if maps.error is None else canvas.maps_to_image(maps.error),
            relative_error=None if maps.error is None else maps.relative_error,
            detections=targets,
            image=image,
            method=method,
            params=params,
            n_forward=n_forward + maps.n_forward,
            seconds=time.perf_counter() - start,
            provenance={
                "detector": {"name": detector.name, "device": str(detector.device), **detector.provenance},
                "versions": versions(),
            },
        )

    watcher = None if watch is None else lambda maps: watch(explanation(maps))
    return explanation(
        METHODS[method].run(detector, canvas, targets, watch=watcher, progress=progress, **params)
    )


def parameters(
    method: str = "dclose",
    *,
    n_masks: int | Literal["auto"] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Everything a method is called with, defaults filled in and checked.

    Parameters
    ----------
    method, n_masks, seed, batch_size, **options
        As for `explain`.

    Raises
    ------
    InputError
        An unknown method or option, or a value out of its range.
    """
    run, check = METHODS[checks.choice("method", method, METHODS)]
    found = {
        name: parameter.default
        for name, parameter in inspect.signature(run).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("watch", "progress")
    }
    seed = checks.at_least("seed", seed, 0)
    if batch_size is not None:
        batch_size = checks.at_least("batch_size", batch_size, 1)
    if n_masks == "auto":
        options = {"tolerance": TOLERANCE} | options
    elif n_masks is not None:
        options["n_masks"] = n_masks
    for name in options:
        if name not in found:
            raise InputError(f"method {method!r} has no option {name!r}; it has: {', '.join(found)}")
    everywhere = {"seed": seed, "batch_size": batch_size}  # may be given to methods that need none
    found |= options | {name: value for name, value in everywhere.items() if name in found}
    found = {name: _plain(value) for name, value in found.items()}
    check(**{name: value for name, value in found.items() if name not in ("seed", "batch_size")})
    return found


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, so that a record can be written down."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | list | tuple):
        return tuple(_plain(one) for one in value)
    return value


def _target_vectors(
    targets: Detections | Targets, detector: Detector, image_size: tuple[int, int]
) -> Detections:
    """Targets as detections of this detector, inside this image."""
    if isinstance(targets, Targets):
        targets = targets.detections(detector.class_names)
    elif not isinstance(targets, Detections):
        raise InputError(
            f"targets must be Detections, dc.Targets(boxes, labels) or None, got {type(targets).__name__}"
        )
    elif targets.class_names != tuple(detector.class_names):
        raise InputError("targets have other classes than the detector: pass dc.Targets(boxes, labels)")
    height, width = image_size
    x1, y1, x2, y2 = targets.boxes.T
    outside = (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)
    if outside.any():
        raise InputError(
            f"box {targets.boxes[outside][0].tolist()} lies outside the image, "
            f"which is {width} wide and {height} high"
        )
    return targets


def versions() -> dict[str, str]:
    """Versions of all that the numbers depend on."""
    found = {"python": platform.python_version()}
    packages = "dclose_nb torch torchvision onnxruntime numpy scikit-image opencv-python pixeltable-yolox"
    for name in (*packages.split(), "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # conda-forge names OpenCV otherwise, transformers is an extra
            continue
    return found
