"""Detections (Eq. 1), what a detector must offer, and the frame of the masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from . import checks
from .checks import InputError

try:
    from torchvision.ops import batched_nms, box_iou, nms
except (ImportError, RuntimeError, OSError) as error:
    # A CPU-only torch beside a torchvision built for CUDA: "operator torchvision::nms does not exist"
    raise ImportError(
        "torch and torchvision do not fit each other; install both anew, together and from one source: "
        f"pip install --force-reinstall torch torchvision ({error})"
    ) from error

__all__ = ["Canvas", "Detections", "Detector", "Proposals", "Targets", "box_iou", "match", "suppress"]

MOST_BOXES = 30_000  # of an image, which suppression takes seconds for


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Boxes with their objectness and class probabilities; row i is the paper's vector d_i (Eq. 1).

    Rows are sorted by score, the best first; equal scores keep their order. ``d[i]``, ``d[:k]``,
    ``d[mask]`` and iteration give `Detections` again. Shapes that do not fit, values out of their range
    and boxes without area raise `InputError`.

    Parameters
    ----------
    boxes : (n, 4) array
        x1, y1, x2, y2 in image pixels.
    objectness : (n,) array
        In [0, 1].
    class_probs : (n, C) array
        In [0, 1]; a row need not sum to 1.
    class_names : sequence of C str
    """

    boxes: np.ndarray
    objectness: np.ndarray
    class_probs: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        names = checks.class_names(self.class_names)
        boxes = float_array("boxes", self.boxes, (4,))
        objectness = float_array("objectness", self.objectness, ())
        probs = float_array("class_probs", self.class_probs, (len(names),))
        if not len(boxes) == len(objectness) == len(probs):
            counts = f"{len(boxes)} boxes, {len(objectness)} objectness, {len(probs)} class_probs"
            raise InputError(f"detections need one row each: {counts}")
        checks.in_unit_interval("objectness", objectness)
        checks.in_unit_interval("class_probs", probs)
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        if flat.any():
            raise InputError(
                f"box {boxes[flat][0].tolist()} has no area: boxes are x1, y1, x2, y2 with x1 < x2, y1 < y2"
            )
        order = np.argsort(-objectness * probs.max(axis=1, initial=0), kind="stable")
        for name, value in (("boxes", boxes), ("objectness", objectness), ("class_probs", probs)):
            value = value[order]
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        object.__setattr__(self, "class_names", names)

    @property
    def labels(self) -> np.ndarray:
        """Index of the most probable class, (n,) int."""
        return self.class_probs.argmax(axis=1)

    @property
    def scores(self) -> np.ndarray:
        """Objectness times the label's probability, (n,) float32 in [0, 1]."""
        return self.objectness * self.class_probs.max(axis=1, initial=0)

    @property
    def names(self) -> list[str]:
        """Name of each row's label."""
        return [self.class_names[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.boxes)

    def rows(self, index: Any) -> np.ndarray:
        """Row numbers that an index selects, in ascending order, so that the best stays first."""
        rows = np.atleast_1d(np.arange(len(self))[index])
        if rows.ndim != 1:
            raise InputError(f"an index must pick rows, got {checks.shown(index)}")
        return np.sort(rows)

    def __getitem__(self, index: Any) -> Detections:
        rows = self.rows(index)
        return Detections(self.boxes[rows], self.objectness[rows], self.class_probs[rows], self.class_names)

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        rows = [
            f"  {i}: {name} {score:.2f} at ({', '.join(f'{edge:.0f}' for edge in box)})"
            for i, (name, score, box) in enumerate(zip(self.names, self.scores, self.boxes))
        ]
        return "\n".join([f"Detections ({len(self)})", *rows])


def float_array(name: str, value: Any, row: tuple[int, ...]) -> np.ndarray:
    """A copy of a value as a finite float32 array of shape (n, *row); an empty value has n = 0."""
    array = checks.numbers(name, value, dtype=np.float32).copy()
    if array.size == 0:
        return array.reshape(0, *row)
    return checks.numbers(name, array, ("n", *row), dtype=np.float32)


def one_hot(labels: Sequence[str | int], class_names: Sequence[str]) -> np.ndarray:
    """One-hot vectors (n, C) float32 of n labels, names or indices; other labels raise `InputError`."""
    vectors = np.zeros((len(labels), len(class_names)), dtype=np.float32)
    for row, label in zip(vectors, labels):
        if isinstance(label, str):
            if label not in class_names:
                raise InputError(f"this detector has no class {label!r}; it has: {', '.join(class_names)}")
            label = list(class_names).index(label)
        index = isinstance(label, int | np.integer) and not isinstance(label, bool)
        if not index or not 0 <= label < len(class_names):
            raise InputError(
                f"a label must be a name or an index from 0 to {len(class_names) - 1}, got {label!r}"
            )
        row[int(label)] = 1
    return vectors


@dataclass(frozen=True, eq=False)
class Targets:
    """Boxes of your own to explain, for example ground truth. The detector need not have found them."""

    boxes: Any  # (n, 4) x1, y1, x2, y2 in image pixels
    labels: Sequence[str | int]  # n class names or class indices

    def detections(self, class_names: Sequence[str]) -> Detections:
        """The target vectors: one-hot class probabilities, objectness 1.

        An unknown label, or different numbers of labels and boxes, raises `InputError`.
        """
        boxes, names = float_array("boxes", self.boxes, (4,)), checks.class_names(class_names)
        try:
            labels = list(self.labels)
        except TypeError as error:
            raise InputError(f"labels must be a list, one for each box, got {self.labels!r}") from error
        if len(boxes) != len(labels):
            raise InputError(f"each box needs one label: {len(boxes)} boxes, {len(labels)} labels")
        return Detections(boxes, np.ones(len(boxes)), one_hot(labels, names), names)


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image as the network sees it: resized, padded, RGB 0-255 as float.

    The `content` is the part of `pixels` that holds the image; the rest is padding. Masks and
    saliency maps cover this part alone, so that padding never shifts them.
    """

    pixels: torch.Tensor  # (3, h, w) float, RGB 0-255, on the detector's device, at the network's input size
    image_size: tuple[int, int]  # (H, W) of the image it was made from
    content: tuple[int, int, int, int]  # top, left, height, width

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of `pixels` that hold the image."""
        top, left, height, width = self.content
        return slice(top, top + height), slice(left, left + width)

    @property
    def content_image(self) -> np.ndarray:
        """The content as an image, (height, width, 3) uint8 RGB; superpixels are computed on it."""
        return self.pixels[:, *self.window].permute(1, 2, 0).round().byte().cpu().numpy()

    def _scale_and_offset(self) -> tuple[torch.Tensor, torch.Tensor]:
        top, left, height, width = self.content
        sx, sy = width / self.image_size[1], height / self.image_size[0]
        ends = torch.tensor([[sx, sy, sx, sy], [left, top, left, top]], device=self.pixels.device)
        return ends[0], ends[1]

    def boxes_to_canvas(self, boxes: np.ndarray) -> torch.Tensor:
        """Boxes (n, 4) in image pixels as a tensor in canvas pixels."""
        scale, offset = self._scale_and_offset()
        return torch.tensor(boxes, dtype=torch.float32, device=self.pixels.device) * scale + offset

    def vectors(self, detections: Detections) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (n, 4) of detections in canvas pixels and their class vectors (n, C), as tensors."""
        checks.instance("detections", detections, Detections, "use targets.detections(detector.class_names)")
        probs = torch.tensor(detections.class_probs, device=self.pixels.device)
        return self.boxes_to_canvas(detections.boxes), probs

    def boxes_to_image(self, boxes: torch.Tensor) -> np.ndarray:
        """Boxes (n, 4) in canvas pixels as an array in image pixels."""
        scale, offset = self._scale_and_offset()
        return ((boxes.float() - offset) / scale).cpu().numpy()

    def maps_to_image(self, maps: np.ndarray) -> np.ndarray:
        """Maps (n, height, width) of the content, resized bilinearly to (n, H, W) float32."""
        resized = np.empty((len(maps), *self.image_size), dtype=np.float32)
        for out, saliency in zip(resized, maps):  # one at a time, to save memory
            tensor = torch.tensor(np.asarray(saliency, dtype=np.float32))[None, None]
            out[:] = F.interpolate(tensor, self.image_size, mode="bilinear", antialias=True)[0, 0].numpy()
        return resized


class Proposals(NamedTuple):
    """All that a detector proposes for B canvases, before any suppression (Eq. 5).

    All numbers are finite, x1 <= x2 and y1 <= y2. If a detector returns fewer than T proposals for an
    image, zeros fill the rest.
    """

    boxes: torch.Tensor  # (B, T, 4) xyxy in canvas pixels
    objectness: torch.Tensor  # (B, T) in [0, 1]
    class_probs: torch.Tensor  # (B, T, C) in [0, 1]

    @classmethod
    def from_scores(cls, boxes: torch.Tensor, scores: torch.Tensor) -> Proposals:
        """Proposals of a network without objectness, which scores each class separately (a sigmoid).

        The highest score takes the place of the objectness, and the class vector is the scores
        divided by it. Their product is the score again. The vector keeps its direction, which is all
        that Eq. 2 uses. With an objectness of 1, an uncertain proposal would count as much as a
        certain one. Boxes are (..., 4), scores (..., C) in [0, 1].
        """
        return cls._split(boxes, scores.amax(-1), scores)

    @classmethod
    def from_softmax(cls, boxes: torch.Tensor, probs: torch.Tensor) -> Proposals:
        """Proposals of a network with one softmax over C classes and the background.

        Objectness is 1 less the background's probability; class vectors are conditional on an object.
        Boxes are (..., 4), probs (..., C) in [0, 1], without the background.
        """
        return cls._split(boxes, probs.sum(-1), probs)

    @classmethod
    def _split(cls, boxes: torch.Tensor, objectness: torch.Tensor, probs: torch.Tensor) -> Proposals:
        return cls(boxes, objectness, probs / objectness.clamp(min=torch.finfo(probs.dtype).tiny)[..., None])


class MaskProposals(NamedTuple):
    """Proposals of a detector that also gives each object's mask."""

    proposals: Proposals
    # From boxes (B, K, 4) in canvas pixels and their labels (B, K) int to masks (B, K, m, m) float32
    # in [0, 1]. A mask's cells divide its box evenly; above 0.5 they are part of the object.
    masks: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def suppress(
    proposals: Proposals, *, confidence: float = 0.25, iou: float = 0.45, class_agnostic: bool = False
) -> list[torch.Tensor]:
    """Indices of the proposals that survive, best first, as one tensor for each image.

    A proposal survives if its score (objectness times highest class probability) reaches
    `confidence` and if non-maximum suppression at `iou` keeps it. Boxes suppress others of their
    class, or with `class_agnostic` all others. Of more than `MOST_BOXES` the best count, with a warning.
    """
    top, labels = proposals.class_probs.max(dim=-1)
    scores = proposals.objectness * top
    kept = []
    for boxes, score, label in zip(proposals.boxes, scores, labels):
        real = (score > 0) & (boxes[:, 2:] > boxes[:, :2]).all(1)  # not padding
        index = torch.nonzero(real & (score >= confidence))[:, 0]
        if len(index) > MOST_BOXES:
            checks.warn(f"{len(index)} boxes reach the confidence {confidence}: the best {MOST_BOXES} count")
            index = index[score[index].topk(MOST_BOXES).indices]
        candidates = boxes[index].float(), score[index].float()
        keep = nms(*candidates, iou) if class_agnostic else batched_nms(*candidates, label[index], iou)
        kept.append(index[keep])
    return kept


def match(found: Detections, boxes: np.ndarray, labels: Sequence[str]) -> list[tuple[int, int]]:
    """Pair detections with ground truths: same class, IoU above 0.5, each truth once (section 6).

    Each detection in turn, best first, takes the truth that it overlaps most and that is still free.
    Boxes are (n, 4), labels n class names. Returns pairs (row of `found`, index of the truth).
    """
    boxes = float_array("boxes", boxes, (4,))
    if len(labels) != len(boxes):
        raise InputError(f"each box needs one label: {len(boxes)} boxes, {len(labels)} labels")
    overlap = box_iou(torch.tensor(found.boxes), torch.tensor(boxes)).numpy()
    overlap *= np.array(found.names, dtype=str)[:, None] == np.array(labels, dtype=str)
    pairs: list[tuple[int, int]] = []
    for row, near in enumerate(overlap):
        if near.max(initial=0) > 0.5:
            truth = int(near.argmax())
            pairs.append((row, truth))
            overlap[:, truth] = 0
    return pairs


@dataclass(eq=False)
class Detector(ABC):
    """What a detector must offer so that its boxes can be explained: `prepare` and `predict`.

    Canvases and masks are made on its `device`. Its `provenance` says what a reader needs to get
    the same detector again: weights file, checksum and so on.
    """

    name: str
    class_names: tuple[str, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    provenance: dict[str, Any] = field(default_factory=dict)

    thread_safe: ClassVar[bool] = False  # whether several threads may call `predict` at once

    def __post_init__(self) -> None:
        self.class_names = checks.class_names(self.class_names)
        self.device = torch.device(self.device)

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """Layers of the `module` whose features the boxes are computed from, finest first, for Grad-CAM."""
        return ()

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Layers whose features the classes alone are computed from, finest first, for G-CAME.

        By default those of `feature_layers`.
        """
        return self.feature_layers

    @property
    def stages(self) -> dict[str, tuple[str, ...]]:
        """Layers of each part of the `module`, from output to input, for `sanity` to randomise.

        Every parameter belongs to exactly one part.
        """
        return {}

    @abstractmethod
    def prepare(self, image: np.ndarray) -> Canvas:
        """Bring an (H, W, 3) uint8 RGB image to the network's input size."""

    @abstractmethod
    def predict(self, pixels: torch.Tensor) -> Proposals:
        """Propose boxes for pixels (B, 3, h, w) from `prepare`, RGB 0-255, without changing them."""

    def predict_masks(self, pixels: torch.Tensor) -> MaskProposals:
        """As `predict`, with masks. A detector without masks raises `InputError`."""
        raise InputError(
            f"{self.name!r} gives no masks: overlap='mask' needs a Mask R-CNN of torchvision, or a detector "
            "of your own with predict_masks"
        )

    def predictor(self, passes: int) -> Callable[[torch.Tensor], Proposals]:
        """The fastest form of `predict` for this many passes. It ignores later changes of the weights."""
        return self.predict

    def detect(
        self, image: Any, *, confidence: float = 0.25, iou: float = 0.45, class_agnostic: bool = False
    ) -> Detections:
        """Detect objects in one image.

        Parameters
        ----------
        image : array
            (H, W), (H, W, 3) or (H, W, 4), uint8, or float in [0, 1]. Anything else raises
            `InputError`.
        confidence, iou : float
            Lowest score to keep, and IoU above which the weaker of two boxes is removed; in [0, 1].
        class_agnostic : bool
            Whether boxes of different classes suppress each other.

        Examples
        --------
        >>> import dclose_nb as dc
        >>> dc.load_detector("planted", device="cpu").detect(dc.planted.scene(1).image).names
        ['tree', 'person', 'person']
        """
        return self.detect_on(
            self.prepare(checks.image(image)),
            confidence=checks.fraction("confidence", confidence),
            iou=checks.fraction("iou", iou),
            class_agnostic=checks.flag("class_agnostic", class_agnostic),
        )

    @torch.inference_mode()
    def detect_on(self, canvas: Canvas, **thresholds: Any) -> Detections:
        """`detect` on a prepared image, with the same thresholds."""
        proposals = self.predict(canvas.pixels[None])
        if not all(part.isfinite().all() for part in proposals):
            raise InputError(f"{self.name} proposed NaN or infinity: look at its weights, mean and deviation")
        keep = suppress(proposals, **thresholds)[0]
        boxes, *scores = (part[0][keep].float() for part in proposals)
        in_image = canvas.boxes_to_image(boxes)
        low, high = np.maximum(in_image[:, :2], 0), np.minimum(in_image[:, 2:], canvas.image_size[::-1])
        seen = (low < high).all(axis=1)  # not those that lie in the padding
        objectness, probs = (part.cpu().numpy()[seen] for part in scores)
        return Detections(in_image[seen], objectness, probs, self.class_names)
