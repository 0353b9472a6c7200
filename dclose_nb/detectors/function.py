"""Any function from an image to boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from .. import checks
from ..checks import InputError
from ..detection import Canvas, Detector, Proposals, float_array, one_hot

FARTHEST = 1e9  # pixels; areas of much larger boxes overflow
PARTS = {"boxes", "labels", "scores"}, {"boxes", "class_probs"}, {"boxes", "class_probs", "objectness"}


class FunctionDetector(Detector):
    """A function that takes one image and returns what it sees there; the image is its own canvas.

    Parameters
    ----------
    name : str
    function : callable
        From an (H, W, 3) uint8 RGB image to a dictionary with n ``boxes``, (n, 4) x1, y1, x2, y2 in
        image pixels, and either ``labels`` (n names or indices) and ``scores`` (n, in [0, 1]) or
        ``class_probs`` (n, C) in [0, 1] with, where it has one, ``objectness`` (n,) in [0, 1]. The more
        boxes, the better: return them before confidence and suppression leave any out.
    class_names : tuple of C str

    Warns
    -----
    UserWarning
        The first time that labels and scores come without class probabilities: class vectors are
        then one-hot with the score as objectness, and Eq. 2 compares classes as the same or not.

    Raises
    ------
    InputError
        An answer of another form; what the function itself raises goes through.
    """

    def __init__(
        self, name: str, function: Callable[[np.ndarray], Mapping[str, Any]], class_names: tuple[str, ...]
    ) -> None:
        own = getattr(function, "__qualname__", type(function).__name__)
        module = getattr(function, "__module__", "")
        super().__init__(name, class_names, provenance={"function": f"{module}.{own}"})
        self.function = function
        self._warned = False

    def prepare(self, image: np.ndarray) -> Canvas:
        pixels = torch.tensor(image).permute(2, 0, 1).float()
        return Canvas(pixels, image.shape[:2], (0, 0, *image.shape[:2]))

    def predict(self, pixels: torch.Tensor) -> Proposals:
        images = pixels.round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        each = [self._proposals(self.function(image)) for image in images]
        return Proposals(*(pad_sequence(list(parts), batch_first=True) for parts in zip(*each)))

    def _proposals(self, answer: Any) -> Proposals:
        """Proposals of one image, without the first dimension."""
        if not isinstance(answer, Mapping) or set(answer) not in PARTS:
            given = [*answer] if isinstance(answer, Mapping) else type(answer).__name__
            raise InputError(
                f"{self.name} must return a dictionary with boxes, labels and scores, or with boxes and "
                f"class_probs (and objectness), got {given}"
            )
        boxes = float_array("boxes", answer["boxes"], (4,))
        turned = (boxes[:, 2:] < boxes[:, :2]).any(1)
        if turned.any():
            raise InputError(
                f"{self.name} returned the box {boxes[turned][0].tolist()}, which ends before it begins: "
                "boxes are x1, y1, x2, y2; are these x, y, width, height? Return x, y, x + width, y + height"
            )
        if "labels" in answer:
            if not self._warned:
                self._warned = True
                checks.warn(
                    f"{self.name} returns labels and scores and no class probabilities: its class vectors "
                    "are one-hot, so maps say nothing of how nearly an object was of another class"
                )
            objectness = float_array("scores", answer["scores"], ())
            try:
                labels = np.ravel(answer["labels"]).tolist()
            except (TypeError, ValueError) as error:
                raise InputError(f"{self.name} returned labels that are no list: {error}") from error
            probs = one_hot(labels, self.class_names)
        else:
            probs = float_array("class_probs", answer["class_probs"], (len(self.class_names),))
            objectness = float_array("objectness", answer.get("objectness", np.ones(len(probs))), ())
        if not len(boxes) == len(objectness) == len(probs):
            raise InputError(
                f"{self.name} must return one of each for a box, got {len(boxes)} boxes, "
                f"{len(objectness)} scores and {len(probs)} classes"
            )
        if not (np.abs(boxes) <= FARTHEST).all():
            raise InputError(f"{self.name} returned boxes beyond {FARTHEST:g} pixels")
        for name, part in (("scores", objectness), ("class_probs", probs)):
            if not ((part >= 0) & (part <= 1)).all():
                raise InputError(
                    f"{self.name} returned {name} from {part.min():g} to {part.max():g}, wanted in [0, 1]: "
                    "bring them there with a sigmoid or softmax"
                )
        proposals = Proposals(*map(torch.from_numpy, (boxes, objectness, probs)))
        if set(answer) == {"boxes", "class_probs"}:
            return Proposals.from_scores(proposals.boxes, proposals.class_probs)
        return proposals
