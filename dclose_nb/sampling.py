"""Section 3.5, steps 2 to 6: mask, detect, score, add up. One loop for every sampling method."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from . import checks
from .density import contrast, normalise
from .detection import Canvas, Detections, Detector
from .masks import MaskSampler
from .similarity import mask_weights, target_masks_of
from .threads import map_in_threads, threads_for


class Plan(NamedTuple):
    """What to sample."""

    samplers: Sequence[MaskSampler]  # of L levels
    counts: Sequence[int]  # masks of each level
    filtered: bool = False  # which proposals count, see `similarity.mask_weights`
    overlap: str = "box"  # or "mask": of what Eq. 2 takes the IoU
    question: str = "all"  # which factors of Eq. 2 count, see `similarity.mask_weights`


class Level(NamedTuple):
    """What the masks of one level add up to, for n targets; (h, w) is the canvas's content."""

    sampler: MaskSampler
    weighted_sum: np.ndarray  # (n, h, w) float64, the sum in Eq. 7
    density: np.ndarray  # (h, w) float64, P_k of Eq. 3
    weights: np.ndarray  # (N, n) float32, w_i of Eq. 6
    numbers: np.ndarray  # (N,) int, the sampler's numbers of these masks

    @property
    def saliency(self) -> np.ndarray:
        """S_k of Eq. 7, (n, h, w) float32."""
        return normalise(self.weighted_sum, self.density).astype(np.float32)

    @property
    def contrast(self) -> np.ndarray:
        """Mean weight with a pixel less that without it, see `density.contrast`, (n, h, w) float32."""
        return contrast(self.weighted_sum, self.density, self.weights).astype(np.float32)


def sample(
    detector: Detector, canvas: Canvas, targets: Detections, plan: Plan, **run_options: Any
) -> list[Level]:
    """Run a `Sampling` to its end; it has the same arguments and errors."""
    sampling = Sampling(detector, canvas, targets, plan, **run_options)
    for _ in sampling:
        pass
    return sampling.levels()


def batch_size_for(detector: Detector, asked: int | None) -> int:
    """Masked images in a batch. By default 64 on a GPU; on a CPU, 8 are divided among the threads."""
    if asked is not None:
        return checks.at_least("batch_size", asked, 1)
    return max(1, 8 // threads_for(detector)) if detector.device.type == "cpu" else 64


class Sampling:
    """Steps 2 to 6 in batches. Iterate over it to sample; `levels` gives the sums so far at any time.

    All targets share the masked images. Memory does not grow with the number of masks: a batch is
    made, seen and added up before the next one. Without targets no image is masked. A detector that
    proposes NaN raises `FloatingPointError`.

    Parameters
    ----------
    detector, canvas, targets
        A detector, the image that it prepared, and n boxes in image pixels.
    plan : Plan
        Its levels take turns, one batch each.
    batch_size : int, optional
        Masked images in one forward pass. It is halved, with a warning, if memory does not suffice.
    stops : sequence of int
        Numbers of masks that iteration stops at. There, each level has its share, whatever the batch size.
    halves : {1, 2}
        With 2, masks go alternately to two halves, so that the maps of the halves can be compared.
    progress : bool
        Show a progress bar.
    """

    def __init__(
        self,
        detector: Detector,
        canvas: Canvas,
        targets: Detections,
        plan: Plan,
        *,
        batch_size: int | None = None,
        stops: Sequence[int] = (),
        halves: int = 1,
        progress: bool = True,
    ) -> None:
        self.detector, self.canvas, self.plan, self.progress = detector, canvas, plan, progress
        self.counts = [count if len(targets) else 0 for count in plan.counts]
        stops = sorted(checks.at_least("stops", stop, 1, largest=sum(plan.counts)) for stop in stops)
        shares = [[count * stop // sum(plan.counts) for count in self.counts] for stop in stops]
        self._ends = [*shares, self.counts]  # masks of each level at each stop, and at the end
        self.stops = {sum(share) for share in shares}
        self._boxes, self._probs = canvas.vectors(targets)
        self._masks = target_masks_of(detector, canvas, targets) if plan.overlap == "mask" else None
        self._predict = (
            detector.predictor(sum(self.counts)) if self._masks is None else detector.predict_masks
        )
        self._size = batch_size_for(detector, batch_size)
        self._of_thread = threading.local()  # holds each thread's own `masked` images
        # n targets, then the density; doubles, since thousands of terms are added
        size = len(self.counts), len(targets) + 1, canvas.content[2] * canvas.content[3]
        shape = checks.at_least("halves", halves, 1, largest=2), *size
        self._sums = torch.zeros(shape, dtype=torch.float64, device=canvas.pixels.device)
        self._weights: list[list[torch.Tensor]] = [[] for _ in self.counts]

    @torch.inference_mode()
    def __iter__(self) -> Iterator[int]:
        """Add up a batch of each level in turn. Yields the number of masks so far, including `stops`.

        A second iteration raises `RuntimeError`: it would count masks twice.
        """
        if any(self._weights):
            raise RuntimeError("these masks were sampled already: make another Sampling")
        taken, total, size = 0, sum(self.counts), self._size
        with tqdm(total=total, unit="mask", disable=not self.progress or not total) as bar:
            for batch, weights, sums in map_in_threads(self.detector, self._add_up, self._batches()):
                self._sums[:, batch.level] += sums
                self._weights[batch.level].append(weights)
                taken += len(weights)
                bar.update(len(weights))
                if self._size < size:  # warn here: in a thread, a warning names no caller
                    size = self._size
                    checks.warn(f"memory does not suffice: going on with batches of {size}")
                if batch.last:
                    yield taken

    def levels(self, half: int | None = None) -> list[Level]:
        """The sums so far, of one half or of all masks."""
        chosen = self._sums if half is None else self._sums[half : half + 1]
        sums = chosen.sum(0)  # a copy: sampling goes on
        levels = []
        for k, (sampler, maps) in enumerate(zip(self.plan.samplers, sums)):
            seen = torch.cat([self._probs.new_zeros(0, len(self._boxes)), *self._weights[k]])  # (N, n)
            numbers = torch.arange(len(seen), device=seen.device)
            if half is not None:
                numbers = numbers[self._half_of(sampler, 0, len(seen)) == half]
            maps = maps.unflatten(1, self.canvas.content[2:]).cpu().numpy()  # (n + 1, h, w)
            weights = seen[numbers].cpu().numpy()
            levels.append(Level(sampler, maps[:-1], maps[-1], weights, numbers.cpu().numpy()))
        return levels

    def _half_of(self, sampler: MaskSampler, start: int, stop: int) -> torch.Tensor:
        """Index of the half of each mask; masks that are cut from one draw stay together."""
        numbers = torch.arange(start, stop, device=self._boxes.device)
        return numbers // sampler.crops_per_draw % len(self._sums)

    def _batches(self) -> Iterator[_Batch]:
        """Levels take turns, a batch each, up to the next of `stops`."""
        taken = [0] * len(self.counts)
        for ends in self._ends:
            while taken != ends:
                turn = []
                for k, end in enumerate(ends):
                    stop = min(taken[k] + self._size, end)
                    if stop > taken[k]:
                        turn.append(_Batch(k, taken[k], stop, last=False))
                    taken[k] = stop
                turn[-1] = turn[-1]._replace(last=True)
                yield from turn

    def _add_up(self, batch: _Batch) -> tuple[_Batch, torch.Tensor, torch.Tensor]:
        """Weights (b, n) and sums (halves, n + 1, pixels) of a batch, which is split if memory is short."""
        count = batch.stop - batch.start
        if count <= self._size:
            try:
                sampler = self.plan.samplers[batch.level]
                masks = sampler.masks(batch.start, batch.stop)
                weights = self._weigh(masks)
                rows = torch.cat([weights.T, weights.new_ones(1, count)])  # (n + 1, b)
                halves = range(len(self._sums))
                members = [self._half_of(sampler, batch.start, batch.stop) == half for half in halves]
                return batch, weights, torch.stack([rows * inside @ masks.flatten(1) for inside in members])
            except Exception as error:  # ONNX Runtime's own types are no RuntimeError
                if count == 1 or not _is_about_memory(error):
                    raise
            self._of_thread.masked = None
            self._size = min(self._size, count // 2)  # another thread may have halved it already
        middle = (batch.start + batch.stop) // 2
        _, weights, sums = self._add_up(batch._replace(stop=middle))
        _, later_weights, later_sums = self._add_up(batch._replace(start=middle))
        return batch, torch.cat([weights, later_weights]), sums + later_sums

    def _weigh(self, masks: torch.Tensor) -> torch.Tensor:
        """Weights (b, n) of masks (b, h, w)."""
        masked = getattr(self._of_thread, "masked", None)
        if masked is None or len(masked) < len(masks):
            masked = self._of_thread.masked = self.canvas.pixels.repeat(len(masks), 1, 1, 1)
        masked, window = masked[: len(masks)], self.canvas.window
        torch.mul(self.canvas.pixels[:, *window], masks[:, None], out=masked[:, :, *window])
        vectors = self._boxes, self._probs, self._masks
        filtered, question = self.plan.filtered, self.plan.question
        weights = mask_weights(self._predict(masked), *vectors, filtered=filtered, question=question)
        if not weights.isfinite().all():
            raise FloatingPointError(f"detector {self.detector.name!r} proposed NaN for a masked image")
        return weights


class _Batch(NamedTuple):
    """Masks `start` to `stop - 1` of a level."""

    level: int
    start: int
    stop: int
    last: bool  # whether it ends a turn of the levels


def _is_about_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, in PyTorch, in ONNX Runtime or on the device."""
    known, said = isinstance(error, MemoryError | torch.OutOfMemoryError), str(error).lower()
    return known or "alloc" in said or "out of memory" in said
