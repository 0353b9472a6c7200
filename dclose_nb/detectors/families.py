"""What networks of common detector families put out, and how their pixels are prepared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.nn.functional import one_hot
from torchvision.ops import box_convert

from ..checks import InputError
from ..detection import Proposals
from .yolox import proposals_of

YOLO_STRIDES, GFL_STRIDES = (8, 16, 32), (8, 16, 32, 64)
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # mean and deviation in 0-255, RGB
IMAGENET_BGR = IMAGENET[0][::-1], IMAGENET[1][::-1]


def centres(size: tuple[int, int], stride: int) -> torch.Tensor:
    """Centres x, y of a grid's cells in canvas pixels, (N, 2), row by row from the top left.

    Parameters
    ----------
    size : (h, w)
        Of the canvas; sides that the stride does not divide have one cell more.
    stride : int
    """
    rows, columns = (torch.arange(0, side, stride) + stride / 2 for side in size)
    return torch.cartesian_prod(rows, columns).flip(1)


def yolox(outputs: list[torch.Tensor], size: tuple[int, int]) -> Proposals:
    """Decode what YOLOX's export writes by default: grid and stride are still to be applied.

    One output (B, T, 5 + C), strides 8, 16 and 32: centre, logarithm of the size, objectness, class
    probabilities.
    """
    (output,) = outputs
    grids = {stride: centres(size, stride) for stride in YOLO_STRIDES}
    strides = torch.cat([torch.full((len(grid), 1), float(stride)) for stride, grid in grids.items()])
    centre = output[..., :2] * strides + torch.cat(list(grids.values())) - strides / 2
    return proposals_of(torch.cat([centre, output[..., 2:4].exp() * strides, output[..., 4:]], dim=-1))


def yolox_decoded(outputs: list[torch.Tensor], size: tuple[int, int]) -> Proposals:
    """Decode what YOLOX's export writes with ``--decode_in_inference``: boxes in canvas pixels.

    YOLOv5's and YOLOv7's exports have the same layout, with three boxes in each cell.
    """
    (output,) = outputs
    return proposals_of(output)


def yolov8(outputs: list[torch.Tensor], size: tuple[int, int]) -> Proposals:
    """Decode YOLOv8, 9, 11 and 12: one output (B, 4 + C, T), boxes in canvas pixels and class scores."""
    (output,) = outputs
    boxes, scores = output[:, :4].transpose(1, 2), output[:, 4:].transpose(1, 2)
    return Proposals.from_scores(box_convert(boxes, "cxcywh", "xyxy"), scores)


def yolo_end_to_end(outputs: list[torch.Tensor], size: tuple[int, int], n_classes: int) -> Proposals:
    """Decode YOLO without suppression (v10, 26): one output (B, N, 6), box in canvas pixels, score, label."""
    (output,) = outputs
    return _labelled(output[..., :4], output[..., 4], output[..., 5].round(), n_classes)


def mmdeploy(outputs: list[torch.Tensor], size: tuple[int, int], n_classes: int) -> Proposals:
    """Decode what mmdeploy writes for RTMDet and others: boxes in canvas pixels with score, and labels.

    Boxes are (B, N, 5), labels (B, N).
    """
    boxes, labels = sorted(outputs, key=torch.Tensor.dim, reverse=True)
    return _labelled(boxes[..., :4], boxes[..., 4], labels, n_classes)


def rt_detr(outputs: list[torch.Tensor], size: tuple[int, int], n_classes: int) -> Proposals:
    """Decode what RT-DETR's and D-FINE's own exports write: labels, boxes in canvas pixels, scores.

    Labels are (B, N) integers, boxes (B, N, 4), scores (B, N), in any order.
    """
    labels, scores, boxes = sorted(outputs, key=lambda output: (output.dim(), output.is_floating_point()))
    return _labelled(boxes, scores, labels, n_classes)


def _labelled(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, n_classes: int) -> Proposals:
    """Proposals of labels and scores: with one-hot vectors, Eq. 2 compares classes as the same or not."""
    labels = labels.long().clamp(min=0)  # some exports fill up with -1
    if labels.numel() and labels.max() >= n_classes:
        raise InputError(
            f"the network gives the label {labels.max()} and there are {n_classes} class names: "
            "give class_names=[...], one for each"
        )
    probs = one_hot(labels, n_classes)
    return Proposals(boxes, scores, probs.to(scores.dtype))


def detr(outputs: list[torch.Tensor], size: tuple[int, int], n_classes: int) -> Proposals:
    """Decode DETR and its kin: boxes (B, T, 4), centre and size in shares of the canvas, logits (B, T, K).

    With a logit more than classes, it is a softmax whose last class is the background; else sigmoids.
    """
    boxes, logits = _boxes_first(outputs)
    return of_queries(boxes, logits, size, n_classes)


def of_queries(boxes: torch.Tensor, logits: torch.Tensor, size: tuple[int, int], n_classes: int) -> Proposals:
    """Proposals of DETR's boxes (B, T, 4) and logits (B, T, K), see `detr`."""
    height, width = size
    boxes = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])
    if logits.shape[-1] == n_classes + 1:
        return Proposals.from_softmax(boxes, logits.softmax(-1)[..., :-1])
    return Proposals.from_scores(boxes, logits.sigmoid())


def _boxes_first(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Two outputs (B, T, 4) and (B, T, K); where K is 4 too, the boxes are all in [0, 1]."""
    first, second = outputs
    if first.shape[-1] == second.shape[-1]:
        return [first, second] if _are_shares(first) else [second, first]
    return [second, first] if second.shape[-1] == 4 else [first, second]


def _are_shares(boxes: torch.Tensor) -> bool:
    return bool(boxes.numel() and boxes.min() >= 0 and boxes.max() <= 1)


def gfl(outputs: list[torch.Tensor], size: tuple[int, int]) -> Proposals:
    """Decode NanoDet's and PicoDet's heads (Generalized Focal Loss, Li et al. 2020).

    For each stride class scores (B, N, C), then for each stride (B, N, 32): the distance of each of the four
    sides to the cell's centre is the mean of a distribution over 8 bins of a stride each.
    """
    levels = len(outputs) // 2
    boxes = [
        _around(centres(size, stride), sides.unflatten(-1, (4, 8)).softmax(-1) @ torch.arange(8.0) * stride)
        for stride, sides in zip(GFL_STRIDES, outputs[levels:])
    ]
    return Proposals.from_scores(torch.cat(boxes, dim=1), torch.cat(outputs[:levels], dim=1))


def rtmdet(outputs: list[torch.Tensor], size: tuple[int, int]) -> Proposals:
    """Decode RTMDet's heads (Lyu et al. 2022), as mmdetection's network returns them.

    For the strides 8, 16 and 32 class logits (B, C, h, w), then for each (B, 4, h, w): the distances of the
    four sides to the cell's top left corner, in canvas pixels.
    """
    logits, distances = (
        [output.flatten(2).transpose(1, 2) for output in half] for half in (outputs[:3], outputs[3:])
    )
    corners = torch.cat([centres(size, stride) - stride / 2 for stride in YOLO_STRIDES])
    scores = torch.cat(logits, dim=1).sigmoid()
    return Proposals.from_scores(_around(corners, torch.cat(distances, dim=1)), scores)


def _around(points: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Boxes around points (N, 2), given the distances (B, N, 4) of the left, top, right and bottom side."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


class Family(NamedTuple):
    """How to read a family's outputs, and what its training did to pixels."""

    decode: Callable[..., Proposals]  # of outputs and size, and for some of n_classes
    colours: str = "rgb"
    mean: tuple[float, float, float] = (0, 0, 0)
    std: tuple[float, float, float] = (255, 255, 255)
    resize: str = "letterbox_centred"

    @property
    def labels_only(self) -> bool:
        """Whether its outputs hold a label for each box, and no class probabilities."""
        return self.decode in (yolo_end_to_end, mmdeploy, rt_detr)

    def bound(self, n_classes: int) -> Callable[[list[torch.Tensor], tuple[int, int]], Proposals]:
        """`decode` of outputs and size alone."""
        needs = self.labels_only or self.decode is detr
        return partial(self.decode, n_classes=n_classes) if needs else self.decode


FAMILIES = {
    "yolox": Family(yolox, "bgr", std=(1, 1, 1), resize="letterbox"),
    "yolox_decoded": Family(yolox_decoded, "bgr", std=(1, 1, 1), resize="letterbox"),
    "yolov5": Family(yolox_decoded),
    "yolov8": Family(yolov8),
    "yolo_end_to_end": Family(yolo_end_to_end),
    "detr": Family(detr, "rgb", *IMAGENET, "stretch"),
    "rt_detr": Family(rt_detr, resize="stretch"),
    "rtmdet": Family(rtmdet, "bgr", *IMAGENET_BGR, "letterbox"),
    "mmdeploy": Family(mmdeploy, "bgr", *IMAGENET_BGR, "letterbox"),
    "gfl": Family(gfl, "bgr", *IMAGENET_BGR, "stretch"),
}


def recognise(outputs: list[torch.Tensor], size: tuple[int, int]) -> dict[str, list[int]]:
    """Families whose layout outputs for one image have, each with the numbers of classes that it may have.

    The list is empty for a family whose outputs do not say.
    """
    shapes = [tuple(output.shape[1:]) for output in outputs]
    kinds = sorted((len(shape), output.is_floating_point()) for shape, output in zip(shapes, outputs))
    first, *others = sorted(shapes, key=len)
    if kinds == [(1, False), (2, True)] and others == [(*first, 5)]:
        return {"mmdeploy": []}  # it does not say
    if kinds == [(1, False), (1, True), (2, True)] and others == [first, (*first, 4)]:
        return {"rt_detr": []}
    if kinds == [(3, True)] * 6:
        sizes = [[-(-side // stride) for side in size] for stride in YOLO_STRIDES]
        heads = [(channels, *grid) for channels in (shapes[0][0], 4) for grid in sizes]
        return {"rtmdet": [shapes[0][0]]} if shapes == heads else {}
    if any(len(shape) != 2 for shape in shapes):
        return {}
    cells = [sum(len(centres(size, s)) for s in strides) for strides in (YOLO_STRIDES, GFL_STRIDES)]
    found: dict[str, list[int]] = {}
    if len(shapes) == 1:
        ((rows, columns),) = shapes
        if rows == cells[0] and columns > 5:
            spread = outputs[0][..., :2].abs().max()  # offsets in cells, or places in the canvas
            found["yolox" if spread < max(size) / 4 else "yolox_decoded"] = [columns - 5]
        if rows in (3 * cells[0], 3 * cells[1]) and columns > 5:
            found["yolov5"] = [columns - 5]
        if columns in cells and rows > 4:
            found["yolov8"] = [rows - 4]
        if columns == 6 and rows not in (cells[0], 3 * cells[0], 3 * cells[1]):
            found["yolo_end_to_end"] = []
    elif len(shapes) == 2 and shapes[0][0] == shapes[1][0] and 4 in (shapes[0][1], shapes[1][1]):
        boxes, logits = _boxes_first(outputs)
        if _are_shares(boxes):
            found["detr"] = [logits.shape[-1], logits.shape[-1] - 1]  # sigmoids, or a softmax with background
    levels = len(shapes) // 2
    grids = [len(centres(size, stride)) for stride in GFL_STRIDES[:levels]]
    scores, sides = shapes[:levels], shapes[levels:]
    if levels > 1 and sides == [(n, 32) for n in grids] and scores == [(n, scores[0][1]) for n in grids]:
        found["gfl"] = [scores[0][1]]
    return found
