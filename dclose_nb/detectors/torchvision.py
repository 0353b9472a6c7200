"""Torchvision's detection networks: Faster R-CNN, Mask R-CNN, RetinaNet, FCOS, SSD and SSDlite."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet
from torchvision.ops import clip_boxes_to_image

from ..checks import InputError
from ..detection import Canvas, MaskProposals, Proposals
from . import weights
from .modules import ModuleDetector


class TorchvisionDetector(ModuleDetector):
    """What torchvision's detection networks have in common: their `transform` makes the canvas.

    Boxes are clipped to the canvas, as torchvision clips them to the image. Parameters are those of
    `ModuleDetector`.
    """

    def __init__(self, name: str, module: Any, class_names: Sequence[str], **settings: Any) -> None:
        super().__init__(name, module, class_names, **settings)
        self._mean, self._std = (
            255 * torch.tensor(values, device=self.device)[:, None, None]
            for values in (module.transform.image_mean, module.transform.image_std)
        )

    @property
    def feature_layers(self) -> tuple[str, ...]:
        return _children(self.module.backbone, "fpn.layer_blocks")

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
        stages = {f"body {k}": body[k - 1] for k in range(len(body) - 1, 0, -1)}
        return {"FPN": ("backbone.fpn",), **stages}

    def prepare(self, image: np.ndarray) -> Canvas:
        pixels = torch.from_numpy(image).permute(2, 0, 1).to(self.device, torch.float32) / 255
        images, _ = self.module.transform([pixels])  # resized, standardised and padded with 0
        pixels = images.tensors[0] * self._std + self._mean
        return Canvas(pixels, image.shape[:2], (0, 0, *images.image_sizes[0]))

    def predict(self, pixels: torch.Tensor) -> Proposals:
        return self._propose(*self._features(pixels))

    def _features(self, pixels: torch.Tensor) -> tuple[ImageList, dict[str, torch.Tensor]]:
        """Pixels as standardised images, and what the backbone makes of them."""
        standard = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        images = ImageList(standard, [tuple(pixels.shape[-2:])] * len(standard))
        features = self.module.backbone(standard)
        if isinstance(features, torch.Tensor):
            features = {"0": features}
        return images, features

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
        heads = {"box predictor": ("roi_heads.box_predictor",), "box head": ("roi_heads.box_head",)}
        return {**heads, "RPN": ("rpn.head",), **self._body_stages}

    def _propose(self, images: ImageList, features: dict[str, torch.Tensor]) -> Proposals:
        regions, _ = self.module.rpn(images, features)
        heads = self.module.roi_heads
        pooled = heads.box_roi_pool(features, regions, images.image_sizes)
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        probs = logits.softmax(-1)[:, 1:]  # (R, C), without the background
        boxes = heads.box_coder.decode(offsets, regions).reshape(*logits.shape, 4)  # also where R is 0
        best = 1 + probs.argmax(-1)
        rows = torch.arange(len(boxes), device=best.device)
        best_boxes = clip_boxes_to_image(boxes[rows, best], images.image_sizes[0])
        counts = [len(boxes) for boxes in regions]
        parts = Proposals.from_softmax(best_boxes, probs)
        return Proposals(*(pad_sequence(part.split(counts), batch_first=True) for part in parts))


class MaskRcnnDetector(FasterRcnnDetector):
    """A Mask R-CNN (He et al. 2017): a Faster R-CNN that draws a mask in each box, for each class.

    Torchvision draws the masks of its final detections only. Here any box can have one. Masks are made in
    full precision, also on a GPU.
    """

    @property
    def stages(self) -> dict[str, tuple[str, ...]]:
        heads = {"mask predictor": ("roi_heads.mask_predictor",), "mask head": ("roi_heads.mask_head",)}
        return {**heads, **super().stages}

    def predict_masks(self, pixels: torch.Tensor) -> MaskProposals:
        images, features = self._features(pixels)
        heads = self.module.roi_heads

        def masks(boxes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            pooled = heads.mask_roi_pool(features, list(boxes), images.image_sizes)
            logits = heads.mask_predictor(heads.mask_head(pooled))  # (B K, 1 + C, m, m)
            rows = torch.arange(len(logits), device=logits.device)
            return logits[rows, 1 + labels.flatten()].sigmoid().unflatten(0, labels.shape)

        return MaskProposals(self._propose(images, features), masks)


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
            boxes = torch.stack([decode(shifts, anchors) for shifts in offsets])
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
    MaskRCNN: (MaskRcnnDetector, "roi_heads.box_predictor.cls_score.out_features"),
    FasterRCNN: (FasterRcnnDetector, "roi_heads.box_predictor.cls_score.out_features"),
    RetinaNet: (OneStageDetector, "head.classification_head.num_classes"),
    FCOS: (OneStageDetector, "head.classification_head.num_classes"),
    SSD: (OneStageDetector, "head.classification_head.num_columns"),
}


def load_torchvision(
    module: torch.nn.Module, class_names: Sequence[str], *, name: str | None, device: torch.device
) -> TorchvisionDetector:
    """Make a detector of torchvision's `FasterRCNN`, `MaskRCNN`, `RetinaNet`, `FCOS` or `SSD` (also SSDlite).

    There is a class name for each column of the network's scores, as in ``weights.meta["categories"]``,
    or for all but the first, the background. RetinaNet and FCOS need no background: there the first
    of as many names as columns is left out only where it is "__background__". Without a `name` the
    detector is called after the module's class. Another network, and names that do not fit its
    scores, raise `InputError`.
    """
    family = next((known for known in FAMILIES if isinstance(module, known)), None)
    kind = type(module).__name__
    if family is None:
        known = ", ".join(known.__name__ for known in FAMILIES)
        raise InputError(f"{kind} is none of torchvision's {known}: give a function of images instead")
    adapter, place = FAMILIES[family]
    columns = attrgetter(place)(module)
    names = tuple(class_names)
    has_background = issubclass(family, FasterRCNN | SSD) or names[:1] == ("__background__",)
    if len(names) == columns and has_background:
        names = names[1:]
    elif len(names) not in (columns, columns - 1) or not names:
        raise InputError(
            f"this {family.__name__} scores {columns} classes, the background among them, "
            f"and class_names has {len(names)}: give {columns} or, without the background, {columns - 1}"
        )
    provenance = {"network": kind, "weights_sha256": weights.digest(module)}
    return adapter(name or kind, module, names, device=device, provenance=provenance)
