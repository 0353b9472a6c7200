"""How near a map comes to the truth, and the controls that every method should beat.

Sources: relevance mass and rank accuracy, Arras et al. 2022 (CLEVR-XAI); correlation with the
effect of removing parts, distractors, Hesse et al. 2023 (FunnyBirds).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import zoom

from .. import checks
from ..checks import InputError
from .scene import Part


def _energy(saliency: np.ndarray) -> np.ndarray:
    """A map (H, W) as float64, with negatives at 0."""
    return checks.numbers("the map", saliency, ("H", "W"), dtype=np.float64).clip(0)


def relevance_mass(saliency: np.ndarray, causal: np.ndarray) -> float:
    """Share of the map's energy that lies on causal pixels, in [0, 1].

    ``sum over causal of S / sum of S`` (Arras et al. 2022). The map S is (H, W), `causal` is (H, W) bool.
    Negatives count as 0, and a map that is 0 everywhere scores 0. For pixels that have no effect,
    instead of causal ones, lower is better.
    """
    energy = _energy(saliency)
    total = energy.sum()
    return float(energy[checks.mask("causal", causal, energy.shape)].sum() / total) if total > 0 else 0.0


def relevance_rank(saliency: np.ndarray, causal: np.ndarray) -> float:
    """Share of the K highest pixels that are causal, K being the number of causal pixels, in [0, 1].

    (Arras et al. 2022.) Pixels of equal value share the remaining places, so that a constant map
    scores the causal share of the image. Parameters are those of `relevance_mass`; no causal
    pixel raises `InputError`.
    """
    values = _energy(saliency)
    causal = checks.mask("causal", causal, values.shape)
    k = int(causal.sum())
    if k == 0:
        raise InputError("no pixel is causal")
    threshold = np.partition(values.ravel(), -k)[-k]
    above, equal = values > threshold, values == threshold
    left = k - above.sum()
    return float((above & causal).sum() + left * (equal & causal).sum() / equal.sum()) / k


def part_correlation(saliency: np.ndarray, parts: list[Part], effects: np.ndarray) -> float:
    """Spearman correlation of each part's mean saliency with its true effect, in [-1, 1].

    (After Hesse et al. 2023.) NaN if there are fewer than two parts, or if all are alike. Effects (P,)
    are for one pixel: a part's Shapley value, or the drop in score when it is removed, divided by its
    number of pixels.
    """
    from scipy.stats import spearmanr  # here, since its import takes a second

    values = checks.numbers("the map", saliency, ("H", "W"), dtype=np.float64)
    if len(parts) != len(effects):
        raise InputError(f"{len(parts)} parts need as many effects, got {len(effects)}")
    means = [values[checks.mask("a part's mask", part.mask, values.shape)].mean() for part in parts]
    if len(parts) < 2 or np.ptp(means) == 0 or np.ptp(effects) == 0:
        return float("nan")
    return float(spearmanr(means, effects).statistic)


def shared_energy(saliency: np.ndarray, truth: np.ndarray) -> float:
    """Share of energy that a map has in common with the true map, both (H, W), in [0, 1].

    ``sum of min(S / sum of S, T / sum of T)``; negatives count as 0. Only the true map scores 1, since places
    and their weights count. A map that is 0 everywhere scores 0.
    """
    energies = _energy(saliency), _energy(truth)
    if energies[0].shape != energies[1].shape:
        raise InputError(f"the maps must be of one size, got {energies[0].shape} and {energies[1].shape}")
    totals = [energy.sum() for energy in energies]
    if min(totals) == 0:
        return 0.0
    return float(np.minimum(*(energy / total for energy, total in zip(energies, totals))).sum())


def random_map(shape: tuple[int, int], *, seed: int = 0) -> np.ndarray:
    """Control: smooth noise (H, W) in [0, 1], from a grid of 16 x 16 random values."""
    cells = np.random.default_rng(seed).random((16, 16))
    return zoom(cells, np.divide(shape, 16), order=1, mode="nearest")


def centre_gaussian(shape: tuple[int, int]) -> np.ndarray:
    """Control: a Gaussian (H, W) around the image's centre, a quarter of its side wide."""
    y, x = (np.linspace(-2, 2, size) for size in shape)
    return np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 2)


def filled_box(shape: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """Control: 1 in the box (x1, y1, x2, y2 in pixels, edges rounded) and 0 around it, (H, W)."""
    filled = np.zeros(shape)
    x1, y1, x2, y2 = np.round(box).astype(int).clip(0)
    filled[y1:y2, x1:x2] = 1
    return filled
