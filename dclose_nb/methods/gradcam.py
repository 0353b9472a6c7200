"""Grad-CAM (Selvaraju et al. 2017), the white-box baseline of section 6, for detectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .gradients import Gradients, Tensors


@dataclass(frozen=True)
class GradCam(Gradients):
    """Which features made each box, by one gradient for each box, without sampling.

    The gradient of the box's score with respect to a layer's output is averaged over the pixels of each
    channel. The map is the sum of the channels with these weights, clipped at 0 and enlarged bilinearly.

    Parameters
    ----------
    layer : str, optional
        See `Gradients`. By default the last of the detector's `feature_layers` that the score depends on:
        the one of the box's stride.
    """

    def weigh(self, features: Tensors, gradients: Tensors, size: torch.Size) -> torch.Tensor:
        return (gradients[-1].mean((2, 3), keepdim=True) * features[-1]).sum(1, keepdim=True)
