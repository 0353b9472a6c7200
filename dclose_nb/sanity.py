"""4.3: does a map depend on what the network has learned? (Adebayo et al. 2018)"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from scipy.stats import spearmanr

from .checks import InputError
from .detection import Detector


def randomise(detector: Detector, *, seed: int = 0) -> Detector:
    """A copy of a detector in which the weights of every layer are shuffled among themselves.

    What was learned is gone and each layer keeps its scale. Drawn as before training, the layers of
    a deep network without batch-norm pass on almost nothing, and every map is empty.

    Parameters
    ----------
    detector : Detector
        With a PyTorch network as its `module`. It is left as it is.
    seed : int

    Raises
    ------
    InputError
        A detector without parameters.
    """
    module = getattr(detector, "module", None)
    if not isinstance(module, torch.nn.Module) or not any(True for _ in module.parameters()):
        raise InputError(f"{detector.name} has no parameters to randomise")
    other = deepcopy(detector)
    other.name = f"{detector.name}, shuffled weights"
    other.provenance = {"shuffled": detector.name, "seed": seed}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in other.module.parameters():  # type: ignore[attr-defined]
            order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
            weights.copy_(weights.flatten()[order].view_as(weights))
    return other


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two maps (H, W), in [-1, 1]; NaN where one is the same everywhere."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise InputError(f"maps of one size are wanted, got {a.shape} and {b.shape}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a.ravel(), b.ravel()).statistic)
