"""Object-detection models of Hugging Face's `transformers`, which only the user's own code imports."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision.ops import box_convert

from ..checks import InputError
from ..detection import Canvas, Detector, Proposals
from . import weights


class HuggingFaceDetector(Detector):
    """A model of the kind ``AutoModelForObjectDetection``: each of its queries is a proposal of Eq. 5.

    Scores with one column more than there are classes are a softmax with the background last (DETR,
    YOLOS), see `Proposals.from_softmax`. Scores with as many columns as classes are sigmoids
    (Conditional, Deformable and RT-DETR), see `Proposals.from_scores`.

    Parameters
    ----------
    name : str, optional
        By default the module's class.
    module : transformers.PreTrainedModel
        It is set to evaluate, without gradients, on the device. Class names are its configuration's.
    processor : image processor
        The model's own, as ``AutoImageProcessor`` loads it; what it does before it standardises
        the pixels makes the canvas, without padding.
    device : torch.device

    Raises
    ------
    InputError
        No processor, or a model for another task.
    """

    def __init__(self, name: str | None, module: Any, processor: Any, *, device: torch.device) -> None:
        kind = type(module).__name__
        if not kind.endswith("ForObjectDetection"):
            raise InputError(f"{kind} detects no objects: load it with AutoModelForObjectDetection")
        if not callable(processor) or not hasattr(processor, "do_normalize"):
            raise InputError(
                f"{kind} needs its image processor: load_detector(model, "
                f"processor=AutoImageProcessor.from_pretrained(...)), got {processor!r}"
            )
        weights.refuse_no_numbers(kind, module.state_dict())
        names = module.config.id2label
        model = module.config.name_or_path or kind
        provenance = {"model": model, "weights_sha256": weights.digest(module)}
        super().__init__(name or kind, tuple(names[k] for k in sorted(names)), device, provenance)
        self.module = module.eval().requires_grad_(False).to(device)
        self.processor = processor
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean = processor.image_mean if processor.do_normalize else (0.0, 0.0, 0.0)
        std = processor.image_std if processor.do_normalize else (1.0, 1.0, 1.0)
        self._mean, self._std = (torch.tensor(x, device=device)[:, None, None] / scale for x in (mean, std))

    def prepare(self, image: np.ndarray) -> Canvas:
        inputs = self.processor(
            images=image,
            do_rescale=False,
            do_normalize=False,
            do_pad=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        pixels = inputs["pixel_values"][0].to(self.device, torch.float32)
        return Canvas(pixels, image.shape[:2], (0, 0, *pixels.shape[1:]))

    def predict(self, pixels: torch.Tensor) -> Proposals:
        output = self.module(pixel_values=(pixels - self._mean) / self._std)
        boxes = box_convert(output.pred_boxes, "cxcywh", "xyxy")  # in [0, 1] of the canvas
        height, width = pixels.shape[-2:]
        boxes = boxes * torch.tensor([width, height, width, height], device=boxes.device)
        if output.logits.shape[-1] == len(self.class_names) + 1:
            return Proposals.from_softmax(boxes, output.logits.softmax(-1)[..., :-1])
        return Proposals.from_scores(boxes, output.logits.sigmoid())


def is_huggingface(module: Any) -> bool:
    """Whether a module is a model of `transformers`, found out without it."""
    return any(base.__module__.partition(".")[0] == "transformers" for base in type(module).__mro__)
