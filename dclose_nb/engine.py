"""Section 3.5, steps 2 to 6: mask, detect, score, add up. One loop for every sampling method."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from . import checks
from .density import contrast, normalise
from .detection import Canvas, Detections, Detector
from .fusion import scale
from .masks import MaskSampler
from .similarity import mask_weights
from .threads import side_by_side, threads_for

CHECK = 200  # masks between two looks at how far the halves agree
WATCH = 0.3  # seconds between two calls of a watcher, at least


class Level(NamedTuple):
    """What the masks of one sampler add up to, for n targets; (h, w) is the canvas's content."""

    weighted_sum: np.ndarray  # (n, h, w) float64, the sum in Eq. 7
    density: np.ndarray  # (h, w) float64, P_k of Eq. 3
    weights: np.ndarray  # (N, n) float32, w_i of Eq. 6

    @property
    def saliency(self) -> np.ndarray:
        """S_k of Eq. 7, (n, h, w) float32."""
        return normalise(self.weighted_sum, self.density).astype(np.float32)

    @property
    def contrast(self) -> np.ndarray:
        """What keeping a pixel adds, see `density.contrast`, (n, h, w) float32."""
        return contrast(self.weighted_sum, self.density, self.weights).astype(np.float32)


class Maps(NamedTuple):
    """What a method gives back: maps of n targets in the frame of the canvas's content, (h, w)."""

    saliency: np.ndarray  # (n, h, w) float32
    n_forward: int  # masked images the network saw
    levels: np.ndarray | None = None  # (L, n, h, w) float32, finest first
    density: np.ndarray | None = None  # (L, h, w) float32
    error: np.ndarray | None = None  # (n, h, w) float32, see `half_difference`

    @property
    def relative_error(self) -> np.ndarray:
        """Root mean square of `error` over that of the map scaled to [0, 1], (n,).

        Infinite where a map is the same everywhere: nothing has been found out yet.
        """
        assert self.error is not None
        size, wrong = (np.sqrt(np.square(one).mean((1, 2))) for one in (scale(self.saliency), self.error))
        return np.divide(wrong, size, out=np.full(len(size), np.inf), where=size > 0)


Watch = Callable[[Maps], bool | None]


class Budget(NamedTuple):
    """When to stop before all masks are used, and who looks on.

    Parameters
    ----------
    tolerance : float, optional
        Stop when the `relative_error` of every map is no larger.
    watch : callable, optional
        Called with the `Maps` so far, a few times a second; sampling stops where it returns True.
    """

    tolerance: float | None = None
    watch: Watch | None = None


def default_batch_size(detector: Detector) -> int:
    """Masked images a batch: few enough for a CPU's cache and memory, enough to fill a GPU.

    On a CPU they are shared out to threads that work side by side.
    """
    return max(1, 8 // threads_for(detector)) if detector.device.type == "cpu" else 64


def check_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that is not above 0 and below 1."""
    if tolerance is not None:
        checks.probability("tolerance", tolerance)


def half_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Error of a map, of those that two halves of its masks give: half of their distance.

    Parameters
    ----------
    one, other : (n, h, w) arrays
        Each is scaled to [0, 1].

    Returns
    -------
    (n, h, w) float32 array in [0, 0.5]
        For halves that are independent and normal, its root mean square is the standard error of
        their mean.
    """
    return (np.abs(scale(one) - scale(other)) / 2).astype(np.float32)


def run(
    detector: Detector,
    canvas: Canvas,
    targets: Detections,
    samplers: Sequence[MaskSampler],
    counts: Sequence[int],
    *,
    batch_size: int | None = None,
    filtered: bool = False,
    progress: bool = True,
) -> list[Level]:
    """Explain all targets of an image from the same masked images.

    Memory does not grow with the number of masks: a batch is made, seen and added up before the
    next one. Without targets no image is masked.

    Parameters
    ----------
    detector, canvas
        A detector and the image as it prepared it.
    targets : Detections
        n boxes, in image pixels.
    samplers, counts
        Where the masks of each level come from, and how many of them to take. Levels take turns, a
        batch each.
    batch_size : int, optional
        Masked images in one forward pass; halved, with a warning, where memory does not suffice.
    filtered : bool
        Which proposals count; see `similarity.mask_weights`.
    progress : bool
        Show a bar.

    Returns
    -------
    list of Level

    Raises
    ------
    FloatingPointError
        The detector proposed NaN.
    """
    loop = _Loop(detector, canvas, targets, samplers, counts, batch_size, filtered, progress)
    for _ in loop:
        pass
    return loop.levels()


def sample(
    detector: Detector,
    canvas: Canvas,
    targets: Detections,
    samplers: Sequence[MaskSampler],
    counts: Sequence[int],
    finish: Callable[[list[Level]], Maps],
    *,
    budget: Budget | None = None,
    batch_size: int | None = None,
    filtered: bool = False,
    progress: bool = True,
) -> Maps:
    """`run` until a budget is met, and make maps of the levels.

    Parameters
    ----------
    detector, canvas, targets, samplers, counts, batch_size, filtered, progress
        As for `run`; `counts` are taken at most.
    finish : callable
        Makes maps of levels.
    budget : Budget, optional
        By default all masks are used.

    Returns
    -------
    Maps
        With their `error` where a tolerance was set.

    Warns
    -----
    UserWarning
        A tolerance that was not met.
    """
    tolerance, watch = budget or Budget()
    halves = 1 if tolerance is None else 2
    loop = _Loop(detector, canvas, targets, samplers, counts, batch_size, filtered, progress, halves)

    def maps() -> Maps:
        whole = finish(loop.levels())
        if tolerance is None:
            return whole
        one, other = (finish(loop.levels(half)).saliency for half in range(halves))
        return whole._replace(error=half_difference(one, other))

    checked, watched = 0, time.monotonic()
    for taken in loop:
        check = tolerance is not None and taken - checked >= CHECK
        look = watch is not None and time.monotonic() - watched > WATCH
        if not (check or look):
            continue
        so_far = maps()
        if check:
            checked = taken
            if (so_far.relative_error <= tolerance).all():
                return so_far
        if watch is not None and look:
            if watch(so_far):
                return so_far
            watched = time.monotonic()
    whole = maps()
    if tolerance is not None and len(targets) and not (whole.relative_error <= tolerance).all():
        error = whole.relative_error.max()
        warnings.warn(
            f"after {sum(counts)} masks a map's error is {error:.2f}, not {tolerance} or less", stacklevel=3
        )
    return whole


class _Batch(NamedTuple):
    """Masks `start` to `stop - 1` of a level, for one of the halves."""

    half: int
    level: int
    start: int
    stop: int
    last: bool  # of a turn, after which all levels and halves have had as much


class _Sums(NamedTuple):
    """What a batch adds up to."""

    batch: _Batch
    weights: torch.Tensor  # (b, n)
    sums: torch.Tensor  # (n + 1, pixels): weighted masks, then their density


class _Loop:
    """Masked images in, sums out, in batches that fit into memory; iterate to go on."""

    def __init__(
        self,
        detector: Detector,
        canvas: Canvas,
        targets: Detections,
        samplers: Sequence[MaskSampler],
        counts: Sequence[int],
        batch_size: int | None,
        filtered: bool,
        progress: bool,
        halves: int = 1,
    ) -> None:
        n, device = len(targets), canvas.pixels.device
        self.detector, self.canvas, self.samplers, self.filtered = detector, canvas, samplers, filtered
        self.counts = [count if n else 0 for count in counts]
        self.progress = progress
        self.predict = detector.predictor(sum(self.counts))
        self.boxes, self.probs = canvas.vectors(targets)
        self.size = batch_size or default_batch_size(detector)
        self.own = threading.local()  # of each thread: its `masked` images
        # targets, then density; doubles, since thousands of terms are added
        pixels = canvas.content[2] * canvas.content[3]
        self.sums = torch.zeros(halves, len(samplers), n + 1, pixels, dtype=torch.float64, device=device)
        self.weights: list[list[list[torch.Tensor]]] = [[[] for _ in samplers] for _ in range(halves)]

    @torch.inference_mode()
    def __iter__(self) -> Iterator[int]:
        """Add up a batch of each level for each half; gives the number of masks so far."""
        taken, total = 0, sum(self.counts)
        with tqdm(total=total, unit="mask", disable=not self.progress or not total) as bar:
            for batch, weights, sums in side_by_side(self.detector, self._add_up, self._batches()):
                self.sums[batch.half, batch.level] += sums
                self.weights[batch.half][batch.level].append(weights)
                taken += len(weights)
                bar.update(len(weights))
                if batch.last:
                    yield taken

    def levels(self, half: int | None = None) -> list[Level]:
        """What has been added up so far, by one half or by all."""
        which = slice(None) if half is None else slice(half, half + 1)
        maps = self.sums[which].sum(0).unflatten(2, self.canvas.content[2:]).cpu().numpy()
        none = self.probs.new_zeros(0, len(self.boxes))
        weights = [
            torch.cat([none, *(batch for parts in self.weights[which] for batch in parts[k])]).cpu().numpy()
            for k in range(len(self.samplers))
        ]
        return [Level(level[:-1], level[-1], seen) for level, seen in zip(maps, weights)]

    def _batches(self) -> Iterator[_Batch]:
        """Halves and levels take turns."""
        taken = [0] * len(self.samplers)
        while taken != self.counts:
            turn = []
            for half in range(len(self.sums)):
                for k, count in enumerate(self.counts):
                    stop = min(taken[k] + self.size, count)
                    if stop > taken[k]:
                        turn.append(_Batch(half, k, taken[k], stop, last=False))
                    taken[k] = stop
            turn[-1] = turn[-1]._replace(last=True)
            yield from turn

    def _add_up(self, batch: _Batch) -> _Sums:
        """Make, weigh and add up the masks of a batch, or those of its halves where memory is short."""
        count = batch.stop - batch.start
        if count <= self.size:
            try:
                masks = self.samplers[batch.level].masks(batch.start, batch.stop)
                weights = self._weights(masks)
                rows = torch.cat([weights.T, weights.new_ones(1, count)])  # (n + 1, b)
                return _Sums(batch, weights, rows @ masks.flatten(1))
            except (MemoryError, RuntimeError) as error:
                if count == 1 or not _is_about_memory(error):
                    raise
            self.own.masked = None
            if count // 2 < self.size:  # another thread may have found out before
                self.size = count // 2
                warnings.warn(f"memory does not suffice: going on with batches of {self.size}", stacklevel=6)
        middle = (batch.start + batch.stop) // 2
        one, other = (
            self._add_up(part) for part in (batch._replace(stop=middle), batch._replace(start=middle))
        )
        return _Sums(batch, torch.cat([one.weights, other.weights]), one.sums + other.sums)

    def _weights(self, masks: torch.Tensor) -> torch.Tensor:
        """Weights (b, n) of masks (b, h, w)."""
        masked = getattr(self.own, "masked", None)
        if masked is None or len(masked) < len(masks):
            masked = self.own.masked = self.canvas.pixels.repeat(len(masks), 1, 1, 1)
        masked, window = masked[: len(masks)], self.canvas.window
        torch.mul(self.canvas.pixels[:, *window], masks[:, None], out=masked[:, :, *window])
        weights = mask_weights(self.predict(masked), self.boxes, self.probs, filtered=self.filtered)
        if not weights.isfinite().all():
            raise FloatingPointError(f"detector {self.detector.name!r} proposed NaN for a masked image")
        return weights


def _is_about_memory(error: Exception) -> bool:
    """Whether a device, PyTorch's allocator or ONNX Runtime's has run out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in str(error)
