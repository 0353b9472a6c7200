"""Section 3.2: how similar a masked image's proposals still are to the target (Eq. 2 and 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import checks
from .detection import Canvas, Detections, Detector, MaskProposals, Proposals, box_iou, suppress

POINTS = 56  # along each side of the grid on which two masks are compared
NEAREST = 20  # proposals of each target whose masks are compared
QUESTIONS = "all", "place", "class"  # why this detection, why here, why this class


def similarity_scores(
    proposals: Proposals,
    target_boxes: torch.Tensor,
    target_probs: torch.Tensor,
    overlap: torch.Tensor | None = None,
) -> torch.Tensor:
    """Similarity of each proposal to each target (Eq. 2, after D-RISE, Petsiuk et al. 2021).

    ``s(d_p, d_t) = IoU(B_p, B_t) * O_p * (C_p . C_t) / (|C_p| |C_t|)``

    Parameters
    ----------
    proposals : Proposals
        B images, T proposals each, C classes.
    target_boxes, target_probs : (n, 4) and (n, C) tensors
        Boxes are xyxy, in the frame of the proposals' boxes.
    overlap : (B, T, n) tensor, optional
        Takes the place of the IoU of boxes; see `mask_iou`.

    Returns
    -------
    (B, T, n) tensor in [0, 1]
        A class vector of length 0 is similar to nothing.
    """
    place, cosine = _factors(proposals, target_boxes, target_probs, overlap)
    return place * cosine


def _factors(
    proposals: Proposals,
    target_boxes: torch.Tensor,
    target_probs: torch.Tensor,
    overlap: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU times objectness, and the cosine of class vectors, (B, T, n) each; see `similarity_scores`."""
    boxes, objectness, probs = (part.float() for part in proposals)
    shape = (len(target_boxes), *boxes.shape[:2])  # (n, B, T): faster with the long axis last
    if overlap is None:
        iou = box_iou(target_boxes, boxes.flatten(0, 1)).view(shape)
    else:
        iou = overlap.permute(2, 0, 1)
    products = (probs.flatten(0, 1) @ target_probs.T).T.view(shape)
    lengths = target_probs.norm(dim=-1)[:, None, None] * probs.norm(dim=-1)
    cosine = products / lengths.clamp_min(1e-12)  # no division by 0
    return (iou * objectness).permute(1, 2, 0), cosine.permute(1, 2, 0)


def mask_iou(
    boxes: torch.Tensor, masks: torch.Tensor, target_boxes: torch.Tensor, target_masks: torch.Tensor
) -> torch.Tensor:
    """IoU of the mask of each proposal with the mask of each target.

    A point belongs to an object if its mask, interpolated bilinearly, exceeds 0.5 there. Areas are
    shares of a grid of 56 x 56 points: over its box for one mask, and over the intersection of both
    boxes for what two masks share. The IoU differed by less than 0.02 from that of the same masks at
    full size.

    Parameters
    ----------
    boxes, masks : (B, K, 4) and (B, K, m, m) tensors
        Each mask lies in its box, as in `detection.MaskProposals`.
    target_boxes, target_masks : (n, 4) and (n, m, m) tensors
        In the same frame.

    Returns
    -------
    (B, K, n) tensor in [0, 1]
        0 for two empty masks.
    """
    areas = _covered(masks, boxes, boxes).mean((-2, -1)) * _areas(boxes)  # (B, K)
    overlap = areas.new_zeros(*areas.shape, len(target_boxes))
    for k, (box, mask) in enumerate(zip(target_boxes, target_masks)):  # one at a time, to save memory
        low = torch.maximum(boxes[..., :2], box[:2])
        common = torch.cat([low, torch.maximum(torch.minimum(boxes[..., 2:], box[2:]), low)], -1)
        both = _covered(masks, boxes, common) * _covered(mask, box, common)
        shared = both.mean((-2, -1)) * _areas(common)
        union = areas + _covered(mask, box, box).mean() * _areas(box) - shared
        overlap[..., k] = shared / torch.maximum(union, shared).clamp_min(1e-12)  # at most 1
    return overlap


def _covered(masks: torch.Tensor, boxes: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Which points of a grid over each frame lie in the mask, (..., POINTS, POINTS) of 0 and 1.

    A frame (..., 4) lies in the box (..., 4) of its mask (..., m, m).
    """
    cells = torch.arange(masks.shape[-1], device=masks.device)
    steps = (torch.arange(POINTS, device=masks.device) + 0.5) / POINTS
    points = torch.lerp(frames[..., None, :2], frames[..., None, 2:], steps[:, None])  # (..., POINTS, 2)
    size = (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-6)
    places = (points - boxes[..., None, :2]) / size[..., None, :] * len(cells) - 0.5
    places = places.clamp(0, len(cells) - 1)
    weights = (1 - (places[..., None] - cells).abs()).clamp_min(0)  # (..., POINTS, 2, m), bilinear
    return (weights[..., 1, :] @ masks @ weights[..., 0, :].mT > 0.5).float()


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def lime_kernel(distance: torch.Tensor) -> torch.Tensor:
    """Similarity in (0, 1] of a cosine distance d, ``sqrt(exp(-d^2 / 0.25^2))`` (LIME, Ribeiro et al. 2016).

    0.25 is the kernel width of section 4.2; the authors' program uses it in deletion and insertion.
    """
    return torch.exp(-((distance / 0.25) ** 2) / 2)


def mask_weights(
    proposals: Proposals | MaskProposals,
    target_boxes: torch.Tensor,
    target_probs: torch.Tensor,
    target_masks: torch.Tensor | None = None,
    *,
    filtered: bool = False,
    question: str = "all",
) -> torch.Tensor:
    """Weight of each masked image for each target: its best proposal's similarity (Eq. 6).

    Eq. 2 is a product of three factors. `question` says which of them count:

    - "all": why this detection? The three factors, as in the paper.
    - "place": why here? IoU times objectness of the proposal for which this is highest, whatever its class.
    - "class": why this class? The cosine of the class vectors of that same proposal, which is the best in
      place.

    Parameters
    ----------
    proposals, target_boxes, target_probs
        As for `similarity_scores`.
    target_masks : (n, m, m) tensor, optional
        From `target_masks_of`, beside `MaskProposals`. Then the IoU of masks takes the place of the IoU of
        boxes. Only the 20 proposals that are most similar to a target by their boxes get a mask, since
        masks are slow to make.
    filtered : bool
        False uses all T proposals, as in the paper. True uses those of the authors' program: they
        survive confidence 0.25 and class-agnostic suppression at IoU 0.45, and have the target's class
        where the question is "all".
    question : {"all", "place", "class"}

    Returns
    -------
    (B, n) tensor in [0, 1]
        0 if nothing is proposed.
    """
    masks = None
    if isinstance(proposals, MaskProposals):
        proposals, masks = proposals
    place, cosine = _factors(proposals, target_boxes, target_probs)
    if filtered:
        kept = torch.zeros_like(place[..., 0], dtype=torch.bool)  # (B, T)
        for row, index in zip(kept, suppress(proposals, class_agnostic=True)):
            row[index] = True
        same_class = proposals.class_probs.argmax(-1)[..., None] == target_probs.argmax(-1)
        place = place * (kept[..., None] & (same_class | (question != "all")))
    if place.shape[1] == 0:
        return place.new_zeros(place.shape[0], place.shape[2])
    if masks is not None and target_masks is not None:
        best = place * cosine if question == "all" else place
        nearest = best.topk(min(NEAREST, best.shape[1]), dim=1).indices
        own = torch.zeros_like(best, dtype=torch.bool).scatter(1, nearest, True)  # (B, T, n)
        drawn_for = own.any(-1)
        index = drawn_for.float().topk(int(drawn_for.sum(1).max()), dim=1).indices  # (B, K), each once
        rows = torch.arange(len(index), device=index.device)[:, None]
        near = Proposals(*(part[rows, index].float() for part in proposals))
        drawn = masks(near.boxes, near.class_probs.argmax(-1))
        overlap = mask_iou(near.boxes, drawn, target_boxes, target_masks)
        counts = (own & (place > 0))[rows, index]  # not if boxes do not overlap, or the filter left one out
        place, cosine = _factors(near, target_boxes, target_probs, overlap)
        place = place * counts
    if question == "class":
        highest, index = place.max(dim=1, keepdim=True)
        return torch.where(highest > 0, cosine.gather(1, index), 0 * highest)[:, 0]  # NaN stays NaN
    return (place * cosine if question == "all" else place).amax(dim=1)


@torch.inference_mode()
def target_masks_of(detector: Detector, canvas: Canvas, targets: Detections) -> torch.Tensor:
    """Masks (n, m, m) that the detector draws in the targets' boxes in the unmasked image.

    For a detection this is its own mask. A target without any, and a detector without masks, raise
    `InputError`.
    """
    boxes = canvas.boxes_to_canvas(targets.boxes)
    labels = torch.tensor(targets.labels, device=boxes.device)
    masks = detector.predict_masks(canvas.pixels[None]).masks(boxes[None], labels[None])[0]
    for name, box, mask in zip(targets.names, targets.boxes.round().tolist(), masks):
        if not (mask > 0.5).any():
            raise checks.InputError(
                f"{detector.name!r} draws no mask of {name!r} in the box {box}: leave out overlap='mask'"
            )
    return masks


@torch.inference_mode()
def target_weights(detector: Detector, image: Any, targets: Detections) -> np.ndarray:
    """Weight of each target in an unmasked image (Eq. 6), (n,) float32 in [0, 1]."""
    canvas = detector.prepare(checks.image(image))
    if getattr(targets, "class_names", detector.class_names) != tuple(detector.class_names):
        raise checks.InputError("the targets have other classes than the detector")
    return mask_weights(detector.predict(canvas.pixels[None]), *canvas.vectors(targets))[0].cpu().numpy()
