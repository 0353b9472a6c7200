"""Object-detection models of Hugging Face's `transformers`, which only the user's own code imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checks
from ..checks import InputError
from ..detection import Canvas, Detector, Proposals
from . import weights
from .families import of_queries


class HuggingFaceDetector(Detector):
    """A model of the kind ``AutoModelForObjectDetection``: each of its queries is a proposal of Eq. 5.

    Scores with one column more than there are classes are a softmax with the background last (DETR,
    YOLOS), see `Proposals.from_softmax`. Scores with as many columns as classes are sigmoids
    (Conditional, Deformable, RT- and RF-DETR, D-FINE), see `Proposals.from_scores`.

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
        self._scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean = processor.image_mean if processor.do_normalize else (0.0, 0.0, 0.0)
        std = processor.image_std if processor.do_normalize else (1.0, 1.0, 1.0)
        self._mean, self._std = (
            torch.tensor(x, device=device)[:, None, None] / self._scale for x in (mean, std)
        )

    def prepare(self, image: np.ndarray) -> Canvas:
        inputs = self.processor(
            images=image,
            do_normalize=False,
            do_pad=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        pixels = inputs["pixel_values"][0].to(self.device, torch.float32) / self._scale
        return Canvas(pixels, image.shape[:2], (0, 0, *pixels.shape[1:]))

    def predict(self, pixels: torch.Tensor) -> Proposals:
        output = self.module(pixel_values=(pixels - self._mean) / self._std)
        height, width = pixels.shape[-2:]
        return of_queries(output.pred_boxes, output.logits, (height, width), len(self.class_names))


def load_folder(folder: Path, name: str | None, *, device: torch.device) -> HuggingFaceDetector:
    """Read a model and its image processor, which ``save_pretrained`` wrote to a folder.

    Weights are read from .safetensors files alone, code from nowhere. A folder without the three kinds of
    files, or with others than those of a model for object detection, raises `InputError`.
    """
    for wanted in ("config.json", "preprocessor_config.json", "*.safetensors"):
        if not any(folder.glob(wanted)):
            raise InputError(
                f"{str(folder)!r} is no Hugging Face model, it has no {wanted}: write model and image "
                "processor to one folder with save_pretrained"
            )
    try:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection
    except ImportError as error:
        raise InputError(f"{str(folder)!r} needs transformers: pip install transformers ({error})") from error
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        module = AutoModelForObjectDetection.from_pretrained(folder, use_safetensors=True, **options)
        processor = AutoImageProcessor.from_pretrained(folder, **options)
    except Exception as error:  # of many types, for a damaged file, an unknown model or a missing package
        raise InputError(f"{str(folder)!r} cannot be read as a model: {checks.line_of(error)}") from error
    return HuggingFaceDetector(name or folder.name, module, processor, device=device)


def is_huggingface(module: Any) -> bool:
    """Whether a module is a model of `transformers`, found out without it."""
    return any(base.__module__.partition(".")[0] == "transformers" for base in type(module).__mro__)
