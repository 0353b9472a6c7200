"""G-CAME (Nguyen et al. 2023), by the authors of D-CLOSE: Grad-CAM with a Gaussian about the box's place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..detection import Detector
from .gradients import Gradients, Tensors


@dataclass(frozen=True)
class Gcame(Gradients):
    """Which features of the classification branch made each box, near its own place.

    As Grad-CAM, each channel A_k has the mean a_k of its gradient as weight. It is also multiplied by a
    Gaussian G_k about the first pixel, row by row, at which its gradient is not 0:

    ``ReLU(sum_k a_k G_k o A_k)``, over the channels of all layers, each enlarged to the canvas.

    The width of G_k is ``|ln |a_k| / q * ln(stride)|`` with ``q = floor(sqrt(rows * columns) - 1) / 6``, and
    G_k is scaled to [0, 1]. The stride is the canvas's width divided by the number of columns.

    The paper takes the class probability as score. Here it is objectness times probability as for the other
    methods; the question "class" gives the paper's.

    Parameters
    ----------
    layer : str, optional
        See `Gradients`. By default the detector's `class_layers`.
    """

    def own_layers(self, detector: Detector) -> Sequence[str]:
        return detector.class_layers

    def weigh(self, features: Tensors, gradients: Tensors, size: torch.Size) -> torch.Tensor:
        total = features[0].new_zeros(1, 1, *size)
        for feature, gradient in zip(features, gradients):
            weights = gradient[0].mean((1, 2))  # (c,)
            used = (weights != 0).nonzero()[:, 0]
            rows, columns = feature.shape[2:]
            q, stride = math.floor(math.sqrt(rows * columns) - 1) / 6, size[1] / columns
            widths = (weights[used].abs().log() / max(q, 1e-6) * math.log(stride)).abs().clamp_min(1e-6)
            first = (gradient[0, used].flatten(1) != 0).int().argmax(1)[:, None, None]  # of the first pixel
            y, x = (torch.arange(side, device=first.device) for side in (rows, columns))
            apart = (y[:, None] - first // columns) ** 2 + (x - first % columns) ** 2  # (c, a, b)
            gaussians = torch.exp(-apart / (2 * widths[:, None, None] ** 2))
            low = gaussians.amin((1, 2), keepdim=True)
            gaussians = (gaussians - low) / (1 - low).clamp_min(1e-12) if rows * columns > 1 else gaussians
            weighed = (weights[used, None, None] * gaussians * feature[0, used]).sum(0)
            total += F.interpolate(weighed[None, None].float(), size, mode="bilinear")
        return total
