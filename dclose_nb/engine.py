"""Section 3.5, steps 2 to 6: mask, detect, score, add up. One loop for every sampling method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from .density import normalise
from .detection import Canvas, Detections, Detector
from .masks import MaskSampler
from .similarity import mask_weights


class Level(NamedTuple):
    """What the masks of one sampler add up to, for n targets; (h, w) is the canvas's content."""

    weighted_sum: np.ndarray  # (n, h, w) float64, the sum in Eq. 7
    density: np.ndarray  # (h, w) float64, P_k of Eq. 3
    weights: np.ndarray  # (N, n) float32, w_i of Eq. 6

    @property
    def saliency(self) -> np.ndarray:
        """S_k of Eq. 7, (n, h, w) float32."""
        return normalise(self.weighted_sum, self.density).astype(np.float32)


def default_batch_size(device: torch.device) -> int:
    """Masked images a batch: few enough for a CPU's cache, enough to fill a GPU."""
    return 8 if device.type == "cpu" else 64


@torch.inference_mode()
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
        Where the masks of each level come from, and how many of them to take.
    batch_size : int, optional
        Masked images in one forward pass.
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
    counts = [count if len(targets) else 0 for count in counts]
    batch_size = min(batch_size or default_batch_size(canvas.pixels.device), max(counts))
    target_boxes = canvas.boxes_to_canvas(targets.boxes)  # (n, 4)
    target_probs = torch.tensor(targets.class_probs, device=canvas.pixels.device)  # (n, C)
    content = canvas.pixels[:, *canvas.window]  # (3, h, w)
    batch = canvas.pixels.repeat(batch_size, 1, 1, 1).contiguous(memory_format=torch.channels_last)

    predict = detector.predictor(sum(counts))
    n = len(targets)
    levels = []
    with tqdm(total=sum(counts), unit="mask", disable=not progress or not n) as bar:
        for sampler, count in zip(samplers, counts):
            # targets, then density; doubles, since thousands of terms are added
            sums = torch.zeros(n + 1, content[0].numel(), dtype=torch.float64, device=content.device)
            weights = []
            for start in range(0, count, max(batch_size, 1)):
                masks = sampler.masks(start, min(start + batch_size, count))  # (b, h, w)
                b = len(masks)
                torch.mul(content, masks[:, None], out=batch[:b, :, *canvas.window])
                weight = mask_weights(
                    predict(batch[:b]), target_boxes, target_probs, filtered=filtered
                )  # (b, n)
                if not weight.isfinite().all():
                    raise FloatingPointError(f"detector {detector.name!r} proposed NaN for a masked image")
                rows = torch.cat([weight.T, weight.new_ones(1, b)])  # (n + 1, b)
                sums += rows @ masks.flatten(1)
                weights.append(weight)
                bar.update(b)
            maps = sums.unflatten(1, content.shape[1:]).cpu().numpy()
            seen = torch.cat(weights) if weights else content.new_zeros(0, n)
            levels.append(Level(maps[:-1], maps[-1], seen.cpu().numpy()))
    return levels
