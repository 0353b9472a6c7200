"""Greedy search over regions, after Visual Precision Search (Chen et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import checks
from ..detection import Canvas, Detections, Detector
from ..masks import superpixels
from ..similarity import mask_weights
from ..threads import map_in_threads
from .method import Maps, OwnWay


@dataclass(frozen=True)
class Greedy(OwnWay):
    """The order in which regions of the image, shown one after another, raise a box most.

    The image is cut into m superpixels. The next region is the one that raises

    ``F(S) = w(S shown alone) + 1 - w(S hidden)``

    most, with the set S of regions so far and the weight w of the best proposal (Eq. 6). The first term is
    the source's clue score, the second its collaboration score. It takes for w the IoU times the class
    score; Eq. 6 is taken here, so that all methods answer the same question. A target costs m (m + 1)
    masked images.

    Along the order, values fall by the sizes of F's changes. In the source, as we read it, the fall to a
    region is the change that this region makes. Then the map is flat where the first region makes all of
    the change. So here a region's value is above the next one's by the change that the region itself makes.
    The map is 0 everywhere if nothing changes F.

    Parameters
    ----------
    regions : int
        Superpixels, of which SLIC makes about this many. The source has 100, which takes 10,100 images.
    """

    regions: int = 100

    def __post_init__(self) -> None:
        checks.at_least("regions", self.regions, 1, largest=1000)

    def maps(
        self,
        detector: Detector,
        canvas: Canvas,
        targets: Detections,
        *,
        question: str,
        batch_size: int,
        progress: bool,
    ) -> tuple[Maps, int]:
        labels = superpixels(canvas.content_image, self.regions)
        cells, m = torch.from_numpy(labels).to(canvas.pixels.device), int(labels.max()) + 1
        passes = len(targets) * m * (m + 1)
        predict = detector.predictor(passes)

        def weights(target: Detections, shown: torch.Tensor) -> np.ndarray:
            """Weights (b,) of the images that show regions (b, m) of 0 and 1."""
            vectors = canvas.vectors(target)

            def weigh(batch: torch.Tensor) -> torch.Tensor:
                pixels = canvas.pixels.repeat(len(batch), 1, 1, 1)
                pixels[:, :, *canvas.window] *= batch[:, None, cells]
                return mask_weights(predict(pixels), *vectors, question=question)[:, 0]

            found = torch.cat(list(map_in_threads(detector, weigh, shown.to(cells.device).split(batch_size))))
            if not found.isfinite().all():
                raise FloatingPointError(f"detector {detector.name!r} proposed NaN for a masked image")
            bar.update(len(found))
            return found.cpu().numpy()

        with tqdm(total=passes, unit="image", disable=not progress or not passes) as bar:
            values = [_fall(partial(weights, target), m)[labels] for target in targets]
        return Maps(np.reshape(values, (-1, *labels.shape)).astype(np.float32)), passes


def _fall(weights: Callable[[torch.Tensor], np.ndarray], m: int) -> np.ndarray:
    """Values (m,) of regions, by a search for the order that raises F most at each step."""
    chosen, left, order, reached = torch.zeros(m), list(range(m)), [], []
    while left:
        shown = chosen + torch.eye(m)[left]  # one more region each
        alone, hidden = np.split(weights(torch.cat([shown, 1 - shown])), 2)
        raised = alone - hidden  # F - 1, which is exactly 0 if nothing changes the weights
        best = int(raised.argmax())
        reached.append(raised[best])
        order.append(left.pop(best))
        chosen[order[-1]] = 1
    changes = np.abs(np.diff(reached, prepend=-reached[-1]))  # F - 1 of no region
    values = np.empty(m)
    values[order] = changes[::-1].cumsum()[::-1]
    return values
