"""Faster R-CNN (Ren et al. 2015) of torchvision: the two-stage detector."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from ..detection import Canvas, Detector, Proposals


class FasterRcnnDetector(Detector):
    """A Faster R-CNN: each region that its first stage proposes is a proposal of Eq. 5.

    A region's softmax over C classes and the background gives both parts of the score: objectness
    is 1 less the background's probability, a class's probability is conditional on an object, and
    their product is the score that torchvision gives. A region's box is that of its best class,
    clipped to the canvas.

    Parameters
    ----------
    name : str
    module : torchvision.models.detection.FasterRCNN
    class_names : tuple of C str
        Without the background.
    device : torch.device
    provenance : dict
    """

    def __init__(
        self,
        name: str,
        module: Any,
        class_names: tuple[str, ...],
        *,
        device: torch.device,
        provenance: dict[str, Any],
    ) -> None:
        super().__init__(name, tuple(class_names), device, provenance)
        self.module = module.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._mean, self._std = (
            255 * torch.tensor(values, device=device)[:, None, None]
            for values in (module.transform.image_mean, module.transform.image_std)
        )

    @property
    def feature_layers(self) -> tuple[str, ...]:
        pyramid = self.module.backbone.fpn.layer_blocks
        return tuple(f"backbone.fpn.layer_blocks.{k}" for k in range(len(pyramid)))

    @property
    def stages(self) -> dict[str, tuple[str, ...]]:
        body: list[tuple[str, ...]] = [()]  # cut behind each layer that the pyramid reads
        for name, _ in self.module.backbone.body.named_children():
            body[-1] += (f"backbone.body.{name}",)
            if name in self.module.backbone.body.return_layers:
                body.append(())
        return {
            "box predictor": ("roi_heads.box_predictor",),
            "box head": ("roi_heads.box_head",),
            "RPN": ("rpn.head",),
            "FPN": ("backbone.fpn",),
            **{f"body {k}": body[k - 1] for k in range(len(body) - 1, 0, -1)},
        }

    def prepare(self, image: np.ndarray) -> Canvas:
        pixels = torch.from_numpy(image).permute(2, 0, 1).to(self.device, torch.float32) / 255
        images, _ = self.module.transform([pixels])  # resized, standardised and padded with 0
        return Canvas(
            images.tensors[0] * self._std + self._mean, image.shape[:2], (0, 0, *images.image_sizes[0])
        )

    def predict(self, pixels: torch.Tensor) -> Proposals:
        standard = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        size = tuple(pixels.shape[-2:])
        features = self.module.backbone(standard)
        regions, _ = self.module.rpn(ImageList(standard, [size] * len(standard)), features)
        heads = self.module.roi_heads
        pooled = heads.box_roi_pool(features, regions, [size] * len(standard))
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        probs = logits.softmax(-1)  # (R, 1 + C), background first
        objectness = probs[:, 1:].sum(-1)
        boxes = heads.box_coder.decode(offsets, regions)  # (R, 1 + C, 4)
        best = 1 + probs[:, 1:].argmax(-1)
        boxes = clip_boxes_to_image(boxes[torch.arange(len(boxes), device=best.device), best], size)
        of_object = probs[:, 1:] / objectness.clamp(min=torch.finfo(probs.dtype).tiny)[:, None]
        counts = [len(one) for one in regions]
        padded = (
            pad_sequence(part.split(counts), batch_first=True) for part in (boxes, objectness, of_object)
        )
        return Proposals(*padded)
