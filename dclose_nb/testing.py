"""A test for authors of detectors: does a detector keep the contract of ``docs/detectors.md``?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from . import checks
from .checks import InputError
from .detection import Canvas, Detector, Proposals, box_iou
from .images import load_photo

TRAINING_LAYERS = _BatchNorm, _DropoutNd  # layers that work differently in training
SURE = 0.5  # a box with this score must be found again where its image has moved
SEEN = 0.05  # proposals with this score are compared
SAME = 0.05  # largest distance in [0, 1] of two answers that count as the same
COLOUR = 3  # mean difference of colours between canvas and image, in 0-255; resizing alone makes less than 1


def check_detector(detector: Detector, image: Any = None) -> list[str]:
    """Check whether a detector keeps the contract of ``docs/detectors.md``.

    Parameters
    ----------
    detector : Detector
    image : array, optional
        As for `Detector.detect`. Best is a colourful one, with an object that the detector finds with a
        score of 0.5 or more. By default the photo "coffee".

    Returns
    -------
    list of str
        Remarks: limits that are allowed, and what could not be checked.

    Raises
    ------
    InputError
        Says what is wrong, in one line for each fault.

    Examples
    --------
    >>> import dclose_nb as dc
    >>> from dclose_nb.testing import check_detector
    >>> check_detector(dc.load_detector("planted", device="cpu"), dc.planted.scene(3).image)
    []
    """
    if not isinstance(detector, Detector):
        raise InputError(f"a detector must be a dclose_nb.Detector, got {type(detector).__name__}")
    image = checks.image(load_photo("coffee") if image is None else image).copy()
    remarks: list[str] = []
    with torch.inference_mode():
        _stop(detector, _wrong_facts(detector))
        canvas = _prepare(detector, image)
        batch = canvas.pixels.repeat(3, 1, 1, 1)  # the image, the image mirrored, and black
        batch[1, :, *canvas.window] = canvas.pixels[:, *canvas.window].flip(2)
        batch[2, :, *canvas.window] = 0
        proposals = _predict(detector, batch)
        _stop(detector, _inconsistent_answers(detector, proposals, batch))
        probs = proposals.class_probs[_scores(proposals) > 0]  # (n, C)
        if len(probs) and probs.shape[1] > 1 and ((probs > 0).sum(-1) == 1).all():
            remarks.append(
                "class vectors are one-hot: maps cannot show how close an object was to another class"
            )
        _stop(detector, _does_not_move(detector, image, remarks))
    return remarks


def _stop(detector: Detector, faults: Iterable[str], cause: Exception | None = None) -> None:
    found = [" ".join(fault.split()) for fault in faults]
    if found:
        heading = f"{getattr(detector, 'name', type(detector).__name__)!r} does not keep the contract:"
        raise InputError("\n- ".join([heading, *found])) from cause


def _ask(detector: Detector, function: str, call: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Result of a call; whatever it raises is reported with the function that raised it."""
    try:
        return call(*given, **options)
    except Exception as error:  # a user's own code can raise anything
        return _stop(detector, [f"{function} raised {type(error).__name__}: {error}"], error)


def _prepare(detector: Detector, image: np.ndarray) -> Canvas:
    """A canvas that keeps the contract."""
    before = image.copy()
    canvas = _ask(detector, "prepare", detector.prepare, image)
    _stop(detector, _wrong_canvas(detector, canvas, image, before))
    return canvas


def _predict(
    detector: Detector, pixels: torch.Tensor, predict: Any = None, function: str = "predict"
) -> Proposals:
    """Proposals that keep the contract."""
    given = pixels.clone()
    proposals = _ask(detector, function, predict or detector.predict, pixels)
    if not torch.equal(pixels, given):
        _stop(detector, [f"{function} writes to the pixels: work on a copy"])
    if not isinstance(proposals, Proposals):
        _stop(detector, [f"{function} must return dc.Proposals, got {type(proposals).__name__}"])
    _stop(detector, _wrong_tensors(detector, proposals, len(pixels)))
    _stop(detector, _wrong_boxes(proposals, pixels.shape[2:]))
    return _copy(proposals)


def _copy(proposals: Proposals) -> Proposals:
    """A copy, since a detector may use the memory of its answer again."""
    return Proposals(*(part.clone() for part in proposals))


def _wrong_facts(detector: Detector) -> Iterator[str]:
    facts = ("name", str, "text"), ("device", torch.device, "a torch.device"), ("provenance", dict, "a dict")
    for name, kind, wanted in facts:
        if not isinstance(value := getattr(detector, name, None), kind):
            yield f"{name} must be {wanted}, got {type(value).__name__}: does __init__ call super's?"
    try:
        checks.class_names(getattr(detector, "class_names", None))
    except InputError as error:
        yield str(error)
    module = getattr(detector, "module", None)
    layers = module.modules() if isinstance(module, torch.nn.Module) else ()
    if any(layer.training for layer in layers if layer is module or isinstance(layer, TRAINING_LAYERS)):
        yield "its network is in training mode: call module.eval()"


def _wrong_canvas(detector: Detector, canvas: Any, image: np.ndarray, before: np.ndarray) -> Iterator[str]:
    if not np.array_equal(image, before):
        yield "prepare writes to the image: work on a copy"
        return
    if not isinstance(canvas, Canvas):
        yield f"prepare must return dc.Canvas, got {type(canvas).__name__}"
        return
    pixels, size, content = canvas.pixels, before.shape[:2], canvas.content
    place = f"the canvas's content (top, left, height, width) {content}"
    if not _are_integers(canvas.image_size, 2) or tuple(canvas.image_size) != size:
        yield f"the canvas's image_size must be the image's (height, width) {size}, got {canvas.image_size}"
    if not isinstance(pixels, torch.Tensor):
        yield f"the canvas's pixels must be a tensor, got {type(pixels).__name__}"
    elif pixels.ndim != 3 or len(pixels) != 3 or not pixels.is_floating_point():
        yield f"the canvas's pixels must be (3, h, w) and float, got {tuple(pixels.shape)} {pixels.dtype}"
    elif pixels.device.type != detector.device.type:
        yield f"the canvas lies on {pixels.device}, the detector on {detector.device}"
    elif not _are_integers(content, 4):
        yield f"the canvas's content must be integers (top, left, height, width), got {content}"
    elif min(content) < 0 or 0 in content[2:] or np.any(np.add(content[:2], content[2:]) > pixels.shape[1:]):
        yield f"{place} does not lie in its {pixels.shape[1]} x {pixels.shape[2]}"
    elif not pixels.isfinite().all():
        yield "the canvas's pixels must be finite numbers"
    elif pixels.min() < -1 or pixels.max() > 256 or (pixels.max() <= 1 and before.max() > 1):
        yield (
            f"the canvas's pixels must be in 0-255, they lie in [{pixels.min():.3g}, {pixels.max():.3g}]: "
            "scale and standardise in predict"
        )
    else:
        shown, wanted = (
            cv2.resize(picture.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
            for picture in (canvas.content_image, before)
        )
        apart = np.abs(shown - wanted).mean()
        if apart > COLOUR and np.abs(shown[..., ::-1] - wanted).mean() < apart / 2:
            yield "the canvas's colours are BGR: it must be RGB; turn them in predict"
        elif apart > COLOUR:
            yield f"{place} does not show the image: is it where the image was put?"


def _are_integers(value: Any, n: int) -> bool:
    whole = isinstance(value, tuple | list) and all(isinstance(part, int | np.integer) for part in value)
    return whole and len(value) == n


def _wrong_tensors(detector: Detector, proposals: Proposals, b: int) -> Iterator[str]:
    for name, part in zip(Proposals._fields, proposals):
        if not isinstance(part, torch.Tensor):
            yield f"{name} must be a tensor, got {type(part).__name__}"
            return
    c, shape = len(detector.class_names), tuple(proposals.boxes.shape)
    if len(shape) != 3 or shape != (b, shape[1], 4):
        yield f"boxes of {b} images must be ({b}, T, 4), got {shape}"
        return
    t = shape[1]
    for name, part, wanted in zip(Proposals._fields, proposals, (shape, (b, t), (b, t, c))):
        if tuple(part.shape) != wanted:
            what = f"{name} of {b} images, {t} boxes and the {c} classes of class_names"
            yield f"{what} must be {wanted}, got {tuple(part.shape)}"
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
            yield (
                f"the box {_rounded(outside[0])} lies outside the canvas of {size[0]} x {size[1]} pixels: "
                "is x before y, and are these pixels of the canvas?"
            )


def _inconsistent_answers(detector: Detector, proposals: Proposals, batch: torch.Tensor) -> Iterator[str]:
    """Repeated, single and threaded calls, and `predictor`, must all give the same answer."""
    if _distance(proposals, _predict(detector, batch)) > SAME:
        yield "the same pixels give another answer the second time: is it random, or is dropout on?"
        return
    images = batch.split(1)
    alone = [_predict(detector, image) for image in images]
    together = [Proposals(*parts) for parts in zip(*(part.split(1) for part in proposals))]
    if any(_distance(*answers) > SAME for answers in zip(together, alone)):
        yield (
            "an image gives another answer in a batch than alone: does each image of the batch get its own "
            "answer, and is the network in evaluation mode?"
        )
    predict = _ask(detector, "predictor", detector.predictor, 1000)
    many = _predict(detector, batch, predict, "predictor(1000)")

    def asked(image: torch.Tensor) -> Proposals:
        with torch.inference_mode():  # each thread has its own
            return _copy(predict(image))

    def by_threads() -> list[Proposals]:
        if not detector.thread_safe:
            return list(map(asked, images * 4))
        with ThreadPoolExecutor(4) as threads:
            return list(threads.map(asked, images * 4))

    at_once = _ask(detector, "predictor", by_threads)
    if _distance(proposals, many) > SAME:
        yield "predictor(1000) gives other answers than predict"
    elif any(_distance(*answers) > SAME for answers in zip(alone * 4, at_once)):
        yield "it gives other answers to several threads at once: it is not thread_safe"


def _does_not_move(detector: Detector, image: np.ndarray, remarks: list[str]) -> Iterator[str]:
    """Move the image from the top left to the bottom right of a black frame: its boxes must follow.

    There, x and y exceed any width and height. So boxes that end in width and height end before they begin.
    """
    height, width = image.shape[:2]
    found = []
    for rows, columns in ((slice(height), slice(width)), (slice(height, None), slice(width, None))):
        frame = np.zeros((2 * height, 2 * width, 3), np.uint8)
        frame[rows, columns] = image
        canvas = _prepare(detector, frame)
        _predict(detector, canvas.pixels[None])
        found.append(_ask(detector, "detect_on", detector.detect_on, canvas, confidence=SURE / 2))
    sure = found[0][found[0].scores >= SURE][:3]
    moved = sure.boxes + np.array([width, height, width, height], np.float32)
    overlap = box_iou(torch.tensor(found[1].boxes), torch.tensor(moved)).numpy()
    if not len(sure):
        remarks.append(
            f"nothing was found with a score of {SURE} or more, so it could not be checked whether "
            "boxes follow the image: give an image of what it knows"
        )
    elif not (overlap[found[1].labels[:, None] == sure.labels] > 0.5).any():
        yield (
            f"{sure.names[0]!r} at {_rounded(sure.boxes[0])} was not found {width} pixels to the right and "
            f"{height} below after the image moved there, but {found[1]!r}: are boxes in canvas pixels? If "
            "they are, the image (by default the photo 'coffee') may be unlike what it knows: give another"
        )


def _distance(first: Proposals, second: Proposals) -> float:
    """Distance in [0, 1] of two answers to the same B images, from their 20 surest proposals.

    Two proposals of one class are as near as their IoU, times 1 less the difference of their scores.
    """
    distances = [0.0]
    for a, b in ((first, second), (second, first)):
        for k in range(len(a.boxes)):
            boxes_a, labels_a, scores_a = (part[:20] for part in _surest_first(a, k))
            boxes_b, labels_b, scores_b = _surest_first(b, k)
            nearness = box_iou(boxes_a, boxes_b) * (1 - (scores_a[:, None] - scores_b).abs())
            nearness = torch.nn.functional.pad(nearness * (labels_a[:, None] == labels_b), (1, 0))
            distances += (1 - nearness.amax(1))[scores_a >= SEEN].tolist()
    return max(distances)


def _surest_first(proposals: Proposals, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes, labels and scores of image k's proposals that have an area, the surest first."""
    boxes, scores = proposals.boxes[k].float(), _scores(proposals)[k].float()
    order = scores.argsort(descending=True)
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    return boxes[order], proposals.class_probs[k].argmax(-1)[order], scores[order]


def _scores(proposals: Proposals) -> torch.Tensor:
    return proposals.objectness * proposals.class_probs.amax(-1)


def _rounded(box: Any) -> list[float]:
    return [round(float(edge), 1) for edge in box]
