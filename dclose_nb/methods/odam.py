"""ODAM (Zhao and Chan, ICLR 2023): gradients of one box's own score, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchvision.transforms.functional import gaussian_blur

from .. import checks
from .gradients import Gradients, Tensors


@dataclass(frozen=True)
class Odam(Gradients):
    """Which features made each box: as Grad-CAM, but gradients are not averaged over the map.

    ``H = ReLU(sum_k G(dY/dA_k) o A_k)``, with the score Y of the box, the channels A_k of a feature map,
    and the product o pixel by pixel. So a map is one of an instance and not of a class. G is a small
    Gaussian blur, which the paper has and its published script has not. Its width is open; we take one cell
    of the feature map.

    Parameters
    ----------
    layer : str, optional
        See `Gradients`. By default the last of the detector's `feature_layers` that the score depends on:
        the one of the box's stride.
    blur : float
        Standard deviation of G in cells of the feature map, 0 or more. 0 leaves the gradients as they are.
    """

    blur: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("blur", self.blur, 0, largest=100, integer=False)

    def weigh(self, features: Tensors, gradients: Tensors, size: torch.Size) -> torch.Tensor:
        gradient = gradients[-1]
        if self.blur:
            reach = min(2 * round(3 * self.blur) + 1, *(2 * side - 1 for side in gradient.shape[2:]))
            gradient = gaussian_blur(gradient, [reach, reach], [self.blur, self.blur])
        return (gradient * features[-1]).sum(1, keepdim=True)
