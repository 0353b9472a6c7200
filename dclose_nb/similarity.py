"""Section 3.2: how similar a masked image's proposals still are to the target (Eq. 2 and 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import checks
from .detection import Detections, Detector, Proposals, box_iou, suppress


def similarity_scores(
    proposals: Proposals, target_boxes: torch.Tensor, target_probs: torch.Tensor
) -> torch.Tensor:
    """Similarity of each proposal to each target (Eq. 2, after D-RISE, Petsiuk et al. 2021).

    ``s(d_p, d_t) = IoU(B_p, B_t) * O_p * (C_p . C_t) / (|C_p| |C_t|)``

    Parameters
    ----------
    proposals : Proposals
        B images, T proposals each, C classes.
    target_boxes, target_probs : (n, 4) and (n, C) tensors
        Boxes are xyxy, in the frame of the proposals' boxes.

    Returns
    -------
    (B, T, n) tensor in [0, 1]
        A class vector of length 0 is similar to nothing.
    """
    boxes, objectness, probs = (part.float() for part in proposals)
    shape = (len(target_boxes), *boxes.shape[:2])  # (n, B, T): faster with the long axis last
    iou = box_iou(target_boxes, boxes.flatten(0, 1)).view(shape)
    products = (probs.flatten(0, 1) @ target_probs.T).T.view(shape)
    lengths = target_probs.norm(dim=-1)[:, None, None] * probs.norm(dim=-1)
    cosine = products / lengths.clamp_min(1e-12)  # no division by 0
    return (iou * objectness * cosine).permute(1, 2, 0)


def lime_kernel(distance: torch.Tensor) -> torch.Tensor:
    """Similarity in (0, 1] of a cosine distance d, ``sqrt(exp(-d^2 / 0.25^2))`` (LIME, Ribeiro et al. 2016).

    0.25 is the kernel width of section 4.2; the authors' program uses it in deletion and insertion.
    """
    return torch.exp(-((distance / 0.25) ** 2) / 2)


def mask_weights(
    proposals: Proposals,
    target_boxes: torch.Tensor,
    target_probs: torch.Tensor,
    *,
    filtered: bool = False,
) -> torch.Tensor:
    """Weight of each masked image for each target: its best proposal's similarity (Eq. 6).

    Parameters
    ----------
    proposals, target_boxes, target_probs
        As for `similarity_scores`.
    filtered : bool
        False uses all T proposals, as in the paper. True uses those of the authors' program: they
        have the target's class, and survive confidence 0.25 and class-agnostic suppression at IoU
        0.45.

    Returns
    -------
    (B, n) tensor in [0, 1]
        0 if nothing is proposed.
    """
    scores = similarity_scores(proposals, target_boxes, target_probs)
    if filtered:
        kept = torch.zeros_like(scores[..., 0], dtype=torch.bool)  # (B, T)
        for row, index in zip(kept, suppress(proposals, class_agnostic=True)):
            row[index] = True
        same_class = proposals.class_probs.argmax(-1)[..., None] == target_probs.argmax(-1)
        scores = scores * (kept[..., None] & same_class)
    if scores.shape[1] == 0:
        return scores.new_zeros(scores.shape[0], scores.shape[2])
    return scores.amax(dim=1)


@torch.inference_mode()
def target_weights(detector: Detector, image: Any, targets: Detections) -> np.ndarray:
    """Weight of each target in an unmasked image (Eq. 6), (n,) float32 in [0, 1]."""
    canvas = detector.prepare(checks.image(image))
    if getattr(targets, "class_names", detector.class_names) != tuple(detector.class_names):
        raise checks.InputError("the targets have other classes than the detector")
    return mask_weights(detector.predict(canvas.pixels[None]), *canvas.vectors(targets))[0].cpu().numpy()
