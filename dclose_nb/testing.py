"""A test kit for the writer of an adapter: what a detector must do so that its boxes can be explained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from . import checks
from .checks import InputError
from .detection import Canvas, Detections, Detector, Proposals, box_iou
from .images import load_photo
from .threads import map_in_threads

LEARNERS = _BatchNorm, _DropoutNd  # layers that do something else in training
SURE = 0.5  # score from which on a box must be found again where its image has moved
SEEN = 0.05  # score from which on two answers are compared
SAME = 0.05  # how far two answers may be apart, of 1
COLOUR = 3  # mean difference of colours between canvas and image, in 0-255; resizing alone makes less than 1


def check_detector(detector: Detector, image: Any = None) -> list[str]:
    """Look whether a detector keeps the contract of ``docs/detectors.md``.

    Parameters
    ----------
    detector : Detector
    image : array, optional
        As for `Detector.detect`: best one of many colours on which it is sure of something (a score
        of 0.5 or more). By default the photo "coffee".

    Returns
    -------
    list of str
        Remarks: what is right but should be known, and what could not be looked at.

    Raises
    ------
    InputError
        What is wrong, a line each.

    Examples
    --------
    >>> import dclose_nb as dc
    >>> from dclose_nb.testing import check_detector
    >>> check_detector(dc.load_detector("planted", device="cpu"), dc.planted.scene(3).image)
    []
    """
    if not isinstance(detector, Detector):
        raise InputError(f"a detector must be a dclose_nb.Detector, got {type(detector).__name__}")
    image = checks.image(load_photo("coffee") if image is None else image)
    remarks: list[str] = []
    with torch.inference_mode():
        _stop(detector, _wrong_facts(detector))
        with _asked(detector, "prepare"):
            before = image.copy()
            canvas = detector.prepare(image)
        _stop(detector, _wrong_canvas(detector, canvas, image, before))
        content = canvas.pixels[:, *canvas.window]
        mirrored, black = canvas.pixels.clone(), canvas.pixels.clone()
        mirrored[:, *canvas.window], black[:, *canvas.window] = content.flip(2), 0
        batch = torch.stack([canvas.pixels, mirrored, black])
        given = batch.clone()
        proposals = _predict(detector, batch)
        _stop(detector, _wrong_proposals(detector, proposals, batch, given))
        _stop(detector, _other_answers(detector, proposals, batch))
        probs = proposals.class_probs[_scores(proposals) > 0]  # (n, C)
        if len(probs) and probs.shape[1] > 1 and ((probs > 0).sum(-1) == 1).all():
            remarks.append(
                "class vectors are one-hot: maps say nothing of how nearly an object was of another class"
            )
        _stop(detector, _does_not_move(detector, image, remarks))
    return remarks


def _stop(detector: Detector, faults: Iterator[str]) -> None:
    found = list(faults)
    if found:
        raise InputError("\n- ".join([f"{detector.name!r} does not keep the contract:", *found]))


@contextmanager
def _asked(detector: Detector, function: str) -> Iterator[None]:
    """What a detector raises, with the function that raised it."""
    try:
        yield
    except Exception as error:  # a person's own code: anything can happen
        what = f"{function} raised {type(error).__name__}: {error}"
        raise InputError(f"{detector.name!r} does not keep the contract:\n- {what}") from error


def _predict(detector: Detector, pixels: torch.Tensor) -> Proposals:
    with _asked(detector, "predict"):
        return detector.predict(pixels)


def _wrong_facts(detector: Detector) -> Iterator[str]:
    names = detector.class_names
    if not names or not all(isinstance(name, str) for name in names):
        yield f"class_names must be one or more names, got {names!r}"
    module = getattr(detector, "module", None)
    layers = module.modules() if isinstance(module, torch.nn.Module) else ()
    if any(layer.training for layer in layers if layer is module or isinstance(layer, LEARNERS)):
        yield "its network is in training mode: call module.eval()"


def _wrong_canvas(detector: Detector, canvas: Any, image: np.ndarray, before: np.ndarray) -> Iterator[str]:
    if not np.array_equal(image, before):
        yield "prepare writes to the image: work on a copy"
    if not isinstance(canvas, Canvas):
        yield f"prepare must return dc.Canvas, got {type(canvas).__name__}"
        return
    pixels, size = canvas.pixels, before.shape[:2]
    if tuple(canvas.image_size) != size:
        yield f"the canvas's image_size must be the image's (height, width) {size}, got {canvas.image_size}"
    if pixels.ndim != 3 or len(pixels) != 3 or not pixels.is_floating_point():
        yield f"the canvas's pixels must be (3, h, w) and float, got {tuple(pixels.shape)} {pixels.dtype}"
        return
    if pixels.device.type != detector.device.type:
        yield f"the canvas lies on {pixels.device}, the detector on {detector.device}"
    top, left, height, width = canvas.content
    h, w = pixels.shape[1:]
    if min(top, left) < 0 or min(height, width) < 1 or top + height > h or left + width > w:
        yield (
            f"the canvas's content (top, left, height, width) {canvas.content} does not lie in its {h} x {w}"
        )
        return
    if pixels.min() < -1 or pixels.max() > 256 or (pixels.max() <= 1 and before.max() > 1):
        yield (
            f"the canvas's pixels must be in 0-255, they lie in [{pixels.min():.3g}, {pixels.max():.3g}]: "
            "scale and standardise in predict"
        )
        return
    shown, wanted = (
        cv2.resize(one.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
        for one in (canvas.content_image, before)
    )
    if (apart := np.abs(shown - wanted).mean()) > COLOUR:
        if np.abs(shown[..., ::-1] - wanted).mean() < apart / 2:
            yield "the canvas's colours are BGR: it must be RGB; turn them in predict"
        else:
            yield (
                f"the canvas's content (top, left, height, width) {canvas.content} does not show the image: "
                "is it where the image was put?"
            )


def _wrong_proposals(
    detector: Detector, proposals: Any, batch: torch.Tensor, given: torch.Tensor
) -> Iterator[str]:
    if not torch.equal(batch, given):
        yield "predict writes to the pixels: work on a copy"
    if not isinstance(proposals, Proposals):
        yield f"predict must return dc.Proposals, got {type(proposals).__name__}"
        return
    shapes = [tuple(part.shape) for part in proposals]
    b, t, c = len(batch), (*shapes[0], 0, 0)[1], len(detector.class_names)
    for name, part, shape in zip(Proposals._fields, proposals, ((b, t, 4), (b, t), (b, t, c))):
        if tuple(part.shape) != shape:
            yield f"{name} of {b} images, {t} boxes and {c} classes must be {shape}, got {tuple(part.shape)}"
        elif not part.is_floating_point():
            yield f"{name} must be float, got {part.dtype}"
        elif part.device.type != detector.device.type:
            yield f"{name} lie on {part.device}, the detector on {detector.device}"
        elif not part.isfinite().all():
            yield f"{name} must be finite numbers"
        elif name != "boxes" and part.numel() and (part.min() < -1e-4 or part.max() > 1 + 1e-4):
            yield (
                f"{name} must lie in [0, 1], they lie in [{part.min():.3g}, {part.max():.3g}]: "
                "do they need a sigmoid or softmax?"
            )
    if shapes == [(b, t, 4), (b, t), (b, t, c)]:
        yield from _wrong_boxes(proposals, batch.shape[2:])


def _wrong_boxes(proposals: Proposals, size: torch.Size) -> Iterator[str]:
    boxes = proposals.boxes[_scores(proposals) >= SEEN]
    turned = boxes[(boxes[:, 2:] < boxes[:, :2]).any(1)]
    if len(turned):
        yield (
            f"the box {_rounded(turned[0])} ends before it begins: boxes are x1, y1, x2, y2; "
            "are these x, y, width, height, or centre and size?"
        )
    elif len(boxes) and boxes.max() <= 1.5 and min(size) > 16:
        yield f"boxes must be in canvas pixels, all lie below {boxes.max():.3g}: are they fractions of it?"
    else:
        ends = torch.tensor([size[1], size[0]], device=boxes.device)
        outside = boxes[((boxes[:, 2:] < 0) | (boxes[:, :2] > ends)).any(1)]
        if len(outside):
            yield f"the box {_rounded(outside[0])} lies outside the canvas of {size[0]} x {size[1]} pixels"


def _other_answers(detector: Detector, proposals: Proposals, batch: torch.Tensor) -> Iterator[str]:
    """What must not change an answer: to be asked again, alone, or in the form for many passes."""
    if _apart(proposals, _predict(detector, batch)) > SAME:
        yield "the same pixels give another answer the second time: does it draw at random, is dropout on?"
        return
    alone = [_predict(detector, image[None]) for image in batch]
    if any(
        _apart(Proposals(*(part[k : k + 1] for part in proposals)), one) > SAME for k, one in enumerate(alone)
    ):
        yield (
            "an image gives another answer in a batch than alone: does each image of the batch get its own, "
            "and does the network evaluate?"
        )
    with _asked(detector, "predictor"):
        predict = detector.predictor(1000)
        many = predict(batch)
        at_once = list(map_in_threads(detector, predict, [image[None] for image in batch] * 4))
    if _apart(proposals, many) > SAME:
        yield "predictor(1000) gives other answers than predict"
    elif any(_apart(alone[k % len(batch)], one) > SAME for k, one in enumerate(at_once)):
        yield "it gives other answers when several threads ask at once: it is not thread_safe"


def _does_not_move(detector: Detector, image: np.ndarray, remarks: list[str]) -> Iterator[str]:
    """Whether boxes go where their image goes: from the top left to the bottom right of a black frame.

    There, x and y are larger than any width and height, so that boxes of another form are turned.
    """
    height, width = image.shape[:2]
    found = []
    for rows, columns in ((slice(height), slice(width)), (slice(height, None), slice(width, None))):
        frame = np.zeros((2 * height, 2 * width, 3), np.uint8)
        frame[rows, columns] = image
        with _asked(detector, "prepare"):
            canvas = detector.prepare(frame)
        proposals = _predict(detector, canvas.pixels[None])
        faults = list(_wrong_boxes(proposals, canvas.pixels.shape[1:]))
        if faults:
            yield from faults
            return
        with _asked(detector, "detect_on"):
            found.append(detector.detect_on(canvas, confidence=SURE / 2))
    sure = found[0][found[0].scores >= SURE][:3]
    if not len(sure):
        remarks.append(
            f"nothing was found with a score of {SURE} or more, so it was not looked at whether boxes go "
            "where the image goes: give an image of what it knows"
        )
    elif not any(_found_again(one, found[1], width, height) for one in sure):
        yield (
            f"{sure.names[0]!r} at {_rounded(sure.boxes[0])} was not found {width} pixels to the right and "
            f"{height} below where the image was moved there, but {found[1]!r}: are boxes in canvas pixels?"
        )


def _found_again(one: Detections, found: Detections, right: float, down: float) -> bool:
    same = found[found.labels == one.labels[0]].boxes
    moved = one.boxes + np.array([right, down, right, down], np.float32)
    return bool((box_iou(torch.tensor(same), torch.tensor(moved)) > 0.5).any())


def _apart(one: Proposals, other: Proposals) -> float:
    """How far two answers to the same B images are apart, in [0, 1], by their 20 surest proposals.

    A proposal is as near to another of its class as they overlap and their scores agree.
    """
    worst = 0.0
    for a, b in ((one, other), (other, one)):
        for k in range(len(a.boxes)):
            (boxes, labels, scores), (others, names, values) = _surest(a, k, 20), _surest(b, k, None)
            nearness = box_iou(boxes, others) * (1 - (scores[:, None] - values).abs())
            nearness = nearness * (labels[:, None] == names)
            for best in nearness.amax(1) if len(others) else torch.zeros(len(boxes)):
                worst = max(worst, 1 - float(best))
    return worst


def _surest(
    proposals: Proposals, k: int, most: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes, labels and scores of image k's proposals that have an area; the surest of them, if so many."""
    boxes, scores = proposals.boxes[k].float(), _scores(proposals)[k].float()
    labels = proposals.class_probs[k].argmax(-1)
    order = scores.argsort(descending=True)
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    if most is not None:
        order = order[scores[order] >= SEEN][:most]
    return boxes[order], labels[order], scores[order]


def _scores(proposals: Proposals) -> torch.Tensor:
    return proposals.objectness * proposals.class_probs.amax(-1)


def _rounded(box: Any) -> list[float]:
    return [round(float(edge), 1) for edge in box]
