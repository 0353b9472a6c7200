"""Torchvision's detection networks: Faster R-CNN, RetinaNet, FCOS, SSD and SSDlite."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet
from torchvision.ops import clip_boxes_to_image

from ..checks import InputError
from ..detection import Canvas, Detector, Proposals
from . import weights
from .half import in_half


class TorchvisionDetector(Detector):
    """What torchvision's detection networks have in common: their `transform` makes the canvas.

    Boxes are clipped to the canvas, as torchvision clips them to the image.

    Parameters
    ----------
    name : str
    module : torch.nn.Module
        Of torchvision.models.detection; it is set to evaluate, without gradients, on the device.
    class_names : tuple of C str
        Without the background.
    device : torch.device
    provenance : dict
    """

    thread_safe = True

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
        if not hasattr(self.module.backbone, "fpn"):
            return ()
        pyramid = self.module.backbone.fpn.layer_blocks
        return tuple(f"backbone.fpn.layer_blocks.{k}" for k in range(len(pyramid)))

    @property
    def _body_stages(self) -> dict[str, tuple[str, ...]]:
        """What lies before the heads, from the output inwards."""
        if not hasattr(self.module.backbone, "fpn"):
            return {"backbone": ("backbone",)}
        body: list[tuple[str, ...]] = [()]  # cut behind each layer that the pyramid reads
        for name, _ in self.module.backbone.body.named_children():
            body[-1] += (f"backbone.body.{name}",)
            if name in self.module.backbone.body.return_layers:
                body.append(())
        return {
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
        images = ImageList(standard, [tuple(pixels.shape[-2:])] * len(standard))
        features = self.module.backbone(standard)
        if isinstance(features, torch.Tensor):
            features = {"0": features}
        return self._propose(images, features)

    def predictor(self, passes: int) -> Callable[[torch.Tensor], Proposals]:
        return in_half(self.predict, self.device) if self.device.type == "cuda" else self.predict

    @abstractmethod
    def _propose(self, images: ImageList, features: dict[str, torch.Tensor]) -> Proposals:
        """All proposals for standardised images, given what the backbone makes of them."""


class FasterRcnnDetector(TorchvisionDetector):
    """A Faster R-CNN (Ren et al. 2015): each region that its first stage proposes is a proposal of Eq. 5.

    Both parts of a region's score come from its softmax; see `Proposals.from_softmax`. Its box is that
    of its best class.
    """

    @property
    def stages(self) -> dict[str, tuple[str, ...]]:
        return {
            "box predictor": ("roi_heads.box_predictor",),
            "box head": ("roi_heads.box_head",),
            "RPN": ("rpn.head",),
            **self._body_stages,
        }

    def _propose(self, images: ImageList, features: dict[str, torch.Tensor]) -> Proposals:
        regions, _ = self.module.rpn(images, features)
        heads = self.module.roi_heads
        pooled = heads.box_roi_pool(features, regions, images.image_sizes)
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        probs = logits.softmax(-1)[:, 1:]  # (R, C), without the background
        boxes = heads.box_coder.decode(offsets, regions)  # (R, 1 + C, 4)
        best = 1 + probs.argmax(-1)
        boxes = clip_boxes_to_image(
            boxes[torch.arange(len(boxes), device=best.device), best], images.image_sizes[0]
        )
        counts = [len(one) for one in regions]
        parts = Proposals.from_softmax(boxes, probs)
        return Proposals(*(pad_sequence(part.split(counts), batch_first=True) for part in parts))


class OneStageDetector(TorchvisionDetector):
    """A RetinaNet (Lin et al. 2017), an FCOS (Tian et al. 2019) or an SSD (Liu et al. 2016).

    Each anchor is a proposal of Eq. 5, before all that torchvision leaves out. RetinaNet's scores are
    sigmoids, see `Proposals.from_scores`; so are FCOS's, times the centredness, of whose product it
    takes the root. SSD has a softmax, see `Proposals.from_softmax`.
    """

    @property
    def feature_layers(self) -> tuple[str, ...]:
        backbone = self.module.backbone
        if isinstance(backbone, SSDFeatureExtractorVGG):
            return "backbone.features", *_children(backbone, "extra")
        if isinstance(backbone, SSDLiteFeatureExtractorMobileNet):
            return _children(backbone, "features") + _children(backbone, "extra")
        return super().feature_layers + _children(backbone, "fpn.extra_blocks")

    @property
    def stages(self) -> dict[str, tuple[str, ...]]:
        return {"head": ("head",), **self._body_stages}

    def _propose(self, images: ImageList, features: dict[str, torch.Tensor]) -> Proposals:
        maps = list(features.values())
        outputs = self.module.head(maps)
        anchors = self.module.anchor_generator(images, maps)[0]  # (T, 4), the same for all of one size
        offsets, logits = outputs["bbox_regression"], outputs["cls_logits"]
        if isinstance(self.module, FCOS):
            boxes = self.module.box_coder.decode(offsets, anchors)
        else:
            decode = self.module.box_coder.decode_single
            boxes = torch.stack([decode(one, anchors) for one in offsets])
        boxes = clip_boxes_to_image(boxes, images.image_sizes[0])
        first = logits.shape[-1] - len(self.class_names)  # after the background, where it has a column
        if isinstance(self.module, SSD):
            return Proposals.from_softmax(boxes, logits.softmax(-1)[..., first:])
        scores = logits.sigmoid()[..., first:]
        if isinstance(self.module, FCOS):
            scores = (scores * outputs["bbox_ctrness"].sigmoid()).sqrt()
        return Proposals.from_scores(boxes, scores)


def _children(backbone: torch.nn.Module, name: str) -> tuple[str, ...]:
    """Names of the layers in a part of the backbone; none where it has no such part."""
    part = dict(backbone.named_modules()).get(name)
    return () if part is None else tuple(f"backbone.{name}.{child}" for child, _ in part.named_children())


# For each family its adapter and where it says how many columns its scores have.
FAMILIES = {
    FasterRCNN: (FasterRcnnDetector, "roi_heads.box_predictor.cls_score.out_features"),
    RetinaNet: (OneStageDetector, "head.classification_head.num_classes"),
    FCOS: (OneStageDetector, "head.classification_head.num_classes"),
    SSD: (OneStageDetector, "head.classification_head.num_columns"),
}


def load_torchvision(
    module: torch.nn.Module, class_names: Sequence[str], *, name: str | None, device: torch.device
) -> TorchvisionDetector:
    """Make a detector of a network of torchvision.models.detection.

    Parameters
    ----------
    module : torch.nn.Module
        A `FasterRCNN`, `RetinaNet`, `FCOS` or `SSD` (SSDlite is one).
    class_names : sequence of str
        One a column of the network's scores, as in ``weights.meta["categories"]``, or without the
        first, the background. RetinaNet and FCOS need no background: there the first of as many
        names as columns is left out only where it is "__background__".
    name : str, optional
        By default the module's class.
    device : torch.device

    Raises
    ------
    InputError
        Another network, or names that do not fit its scores.
    """
    family = next((known for known in FAMILIES if isinstance(module, known)), None)
    if family is None:
        raise InputError(
            f"{type(module).__name__} is none of torchvision's "
            f"{', '.join(known.__name__ for known in FAMILIES)}: give a function of images instead"
        )
    adapter, place = FAMILIES[family]
    columns = attrgetter(place)(module)
    names = tuple(class_names)
    has_background = family in (FasterRCNN, SSD) or names[:1] == ("__background__",)
    if len(names) == columns and has_background:
        names = names[1:]
    elif len(names) not in (columns, columns - 1) or not names:
        raise InputError(
            f"this {family.__name__} scores {columns} classes, the background among them, "
            f"and class_names has {len(names)}: give {columns} or, without the background, {columns - 1}"
        )
    return adapter(
        name or type(module).__name__,
        module,
        names,
        device=device,
        provenance={"network": type(module).__name__, "weights_sha256": weights.digest(module)},
    )
