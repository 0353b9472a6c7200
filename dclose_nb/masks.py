"""Section 3.1: the superpixel pyramid and the random masks, for D-CLOSE and for D-RISE."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from skimage.segmentation import slic

from . import checks

SEGMENTS = (150, 300, 600, 1200, 2400)  # section 4.2
KEPT = 8  # results of SLIC: the five levels of a photo, and three more
MOST = 1000  # cells of a side, and how far masks may be enlarged: memory does not suffice for much more

# Streams of random numbers that a mask draws from; see MaskSampler.
_PATTERN, _CROP = 0, 1


def superpixels(image: np.ndarray, n_segments: int) -> np.ndarray:
    """Cut an image into about `n_segments` superpixels by SLIC (Achanta et al. 2010).

    Compactness 10 and a smoothing of sigma 1, as in the authors' program; the paper does not state them.

    Parameters
    ----------
    image : (h, w, 3) uint8 array
    n_segments : int
        At least 1. SLIC gives about this many, and at most as many as there are pixels.

    Returns
    -------
    (h, w) int array
        Superpixel of each pixel, 0 to F - 1.
    """
    checks.at_least("n_segments", n_segments, 1)
    image = checks.image(image)
    n_segments = min(n_segments, image.shape[0] * image.shape[1])
    return _cut_once(image.tobytes(), image.shape, n_segments).copy()


@lru_cache(maxsize=KEPT)
def _cut_once(pixels: bytes, shape: tuple[int, ...], n_segments: int) -> np.ndarray:
    """Superpixels that are kept, so that another map of the same photo need not wait for SLIC."""
    image = np.frombuffer(pixels, np.uint8).reshape(shape)
    labels = slic(image, n_segments=n_segments, compactness=10, sigma=1, start_label=0)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def forget_superpixels() -> None:
    """Forget the superpixels that are kept, so that a measured time includes SLIC."""
    _cut_once.cache_clear()


@dataclass(frozen=True, eq=False)
class MaskSampler:
    """Random masks of one level. Mask number i is always the same, to the bit.

    A mask is made in three steps. Each cell of a pattern is kept with probability `p`. The pattern
    is enlarged bilinearly. A window of the mask's size is cut from it at a random offset; only the
    window is ever computed. Make a sampler with `superpixel_masks` or `grid_masks`.
    """

    cells: torch.Tensor  # (a, b) int, the cell of each pixel of the pattern
    n_cells: int
    shape: tuple[int, int]  # (h, w) of a mask
    enlarged: tuple[int, int]  # (A, B) of the enlarged pattern
    max_offset: tuple[int, int]  # largest (y, x) of the window; offsets from 0 to this are drawn
    p: float  # probability that a cell is kept
    seed: int  # seed, level and number together determine a mask
    level: int = 0
    crops_per_draw: int = 1  # how many successive masks are cut from one draw of the pattern

    def masks(self, start: int, stop: int) -> torch.Tensor:
        """Masks `start` to `stop - 1` as a (stop - start, h, w) float32 tensor in [0, 1]."""
        start, stop = checks.at_least("start", start, 0), checks.at_least("stop", stop, int(start))
        return self.coarse_masks(range(start, stop), 1)

    def coarse_masks(self, numbers: Collection[int], step: int) -> torch.Tensor:
        """Every `step`-th row and column, from the first, of the masks with these numbers."""
        step = checks.at_least("step", step, 1)
        shape = (len(range(0, side, step)) for side in self.shape)
        out = torch.empty(len(numbers), *shape, device=self.cells.device)
        for mask, number in zip(out, numbers):
            self._cut(self.kept(number), self._offset(number), step, mask)
        return out

    @cached_property
    def _taps(self) -> list[tuple[torch.Tensor, ...]]:
        """Interpolation taps for rows and columns, see `_taps_along`."""
        sides = zip(self.cells.shape, self.enlarged)
        return [_taps_along(size, enlarged, self.cells.device) for size, enlarged in sides]

    def pattern(self, number: int) -> torch.Tensor:
        """The binary pattern (a, b) that mask `number` is cut from, before it is enlarged."""
        return self.kept(checks.at_least("number", number, 0))[self.cells]

    def kept(self, number: int) -> torch.Tensor:
        """Whether mask `number` keeps each cell, (n_cells,) float32 of 0 and 1."""
        draw = number // self.crops_per_draw
        rng = np.random.default_rng((self.seed, self.level, _PATTERN, draw))
        kept = rng.random(self.n_cells, dtype=np.float32) < self.p
        return torch.from_numpy(kept.astype(np.float32)).to(self.cells.device)

    def _offset(self, number: int) -> tuple[int, int]:
        rng = np.random.default_rng((self.seed, self.level, _CROP, number))
        y, x = rng.integers(0, self.max_offset, endpoint=True)
        return int(y), int(x)

    def _cut(self, kept: torch.Tensor, offset: tuple[int, int], step: int, out: torch.Tensor) -> None:
        """Write every `step`-th pixel of the window at `offset` of the enlarged pattern to `out`."""
        (y0, y1, fy), (x0, x1, fx) = (
            [tap[start : start + length : step] for tap in taps]
            for taps, start, length in zip(self._taps, offset, self.shape)
        )
        top, left = int(y0[0]), int(x0[0])
        part = kept[self.cells[top : int(y1[-1]) + 1, left : int(x1[-1]) + 1]]
        columns = torch.lerp(part.index_select(1, x0 - left), part.index_select(1, x1 - left), fx)
        torch.lerp(columns.index_select(0, y0 - top), columns.index_select(0, y1 - top), fy[:, None], out=out)


def _taps_along(size: int, enlarged: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """For each pixel along an enlarged side, its two source pixels and the weight of the second.

    Bilinear enlargement with pixel centres at halves; edges are repeated.
    """
    at = (torch.arange(enlarged, dtype=torch.float64) + 0.5) * (size / enlarged) - 0.5
    at = at.clamp(0, size - 1)
    low = at.long()
    high = (low + 1).clamp(max=size - 1)
    return low.to(device), high.to(device), (at - low).float().to(device)


def superpixel_masks(
    labels: np.ndarray,
    *,
    p: float = 0.5,
    r: float = 2.2,
    seed: int = 0,
    level: int = 0,
    crops_per_draw: int = 1,
    device: Any = "cpu",
) -> MaskSampler:
    """D-CLOSE's masks (section 3.1, after MFPP, Yang et al. 2021).

    Superpixels are kept with probability `p`, enlarged bilinearly to ``floor((r + 1) h)`` by
    ``floor((r + 1) w)``, and cut at random offsets from 0 to the largest possible, both included. A
    parameter out of its range raises `InputError`.

    Parameters
    ----------
    labels : (h, w) int array
        Superpixel of each pixel, from 0; see `superpixels`.
    p : float
        In (0, 1).
    r : float
        Resize offset, 0 to 1000. With 0 the masks keep the superpixels' edges.
    seed, level : int
        0 or more; levels of one seed draw different masks.
    crops_per_draw : int
        With 1, each mask has a draw of its own. The authors' program cuts 32 masks from each draw.
    """
    labels = checks.labels(labels)
    checks.at_least("r", r, 0, largest=MOST, integer=False)
    h, w = labels.shape
    enlarged = math.floor((r + 1) * h), math.floor((r + 1) * w)
    return MaskSampler(
        cells=torch.from_numpy(labels).to(device),
        n_cells=int(labels.max()) + 1,
        shape=(h, w),
        enlarged=enlarged,
        max_offset=(enlarged[0] - h, enlarged[1] - w),
        p=checks.probability("p", p),
        seed=checks.at_least("seed", seed, 0),
        level=checks.at_least("level", level, 0),
        crops_per_draw=checks.count("crops_per_draw", crops_per_draw),
    )


def grid_masks(
    shape: tuple[int, int],
    *,
    grid: tuple[int, int] = (16, 16),
    p: float = 0.5,
    seed: int = 0,
    device: Any = "cpu",
) -> MaskSampler:
    """RISE's and D-RISE's masks (Petsiuk et al. 2018, 2021): a grid, enlarged and shifted.

    Cells of a grid are kept with probability `p`, in (0, 1). The grid is enlarged bilinearly by one
    cell more than the masks' `shape` (h, w), and cut at offsets from 0 to one cell, both included. A
    cell is ``ceil(h / rows)`` by ``ceil(w / columns)`` pixels, so that the enlarged grid covers the image.
    """
    (rows, columns), shape = checks.pair("grid", grid, MOST), checks.pair("shape", shape)
    cell = math.ceil(shape[0] / rows), math.ceil(shape[1] / columns)
    return MaskSampler(
        cells=torch.arange(rows * columns, device=device).reshape(rows, columns),
        n_cells=rows * columns,
        shape=shape,
        enlarged=((rows + 1) * cell[0], (columns + 1) * cell[1]),
        max_offset=cell,
        p=checks.probability("p", p),
        seed=checks.at_least("seed", seed, 0),
    )
