"""The two networks that are trained on planted scenes and ship with the project."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torchvision.models import mobilenet_v3_small
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, box_convert
from yolox.config import YoloxConfig

from .. import checks
from ..detection import Detector
from ..planted.shapes import CLASS_NAMES
from . import weights
from .torchvision import FasterRcnnDetector
from .yolox import YoloxDetector

SIZE = 320  # both see scenes at this size


class Network(NamedTuple):
    """An architecture: how it is made, learns and becomes a `Detector`."""

    build: Callable[[], Any]  # the untrained module
    loss: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]  # of (module, images, tables)
    detector: Callable[..., Detector]  # of (name, module, *, device, provenance)


def _yolox_nano() -> Any:
    config = YoloxConfig.get_named_config("yolox_nano")
    config.num_classes = len(CLASS_NAMES)
    return config.get_model()


def _yolox_loss(module: Any, images: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """The package's own losses, of images (B, 3, h, w) RGB 0-255 and tables (B, M, 5)."""
    return module(images.flip(1), tables)["total_loss"]  # it wants BGR


def _faster_rcnn() -> Any:
    """Faster R-CNN on the three last strides of a MobileNetV3-Small, with few and small layers."""
    width, hidden, pooled = 64, 256, 7
    last_layers = {"3": "0", "8": "1", "11": "2"}  # of the strides 8, 16 and 32
    backbone = BackboneWithFPN(
        mobilenet_v3_small(weights=None).features, last_layers, [24, 48, 96], out_channels=width
    )
    return FasterRCNN(
        backbone,
        min_size=SIZE,
        max_size=SIZE,
        rpn_anchor_generator=AnchorGenerator(((24,), (48,), (96,), (160,)), ((0.5, 1.0, 2.0),) * 4),
        box_roi_pool=MultiScaleRoIAlign(list(last_layers.values()), pooled, sampling_ratio=2),
        box_head=TwoMLPHead(width * pooled**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, 1 + len(CLASS_NAMES)),
        rpn_pre_nms_top_n_train=400,
        rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=128,
        box_batch_size_per_image=64,
    )


def _faster_rcnn_loss(module: Any, images: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """The sum of torchvision's four losses, of images (B, 3, h, w) RGB 0-255 and tables (B, M, 5)."""
    targets = []
    for table in tables:
        table = table[table[:, 3] > 0]
        boxes, labels = box_convert(table[:, 1:], "cxcywh", "xyxy"), table[:, 0].long()
        targets.append({"boxes": boxes, "labels": labels + 1})  # 0 is the background
    losses = module(list(images / 255), targets)
    return torch.stack(list(losses.values())).sum()


_yolox_detector = partial(YoloxDetector, input_size=(SIZE, SIZE), class_names=CLASS_NAMES)
_faster_rcnn_detector = partial(FasterRcnnDetector, class_names=CLASS_NAMES)

NETWORKS = {
    "planted": Network(_yolox_nano, _yolox_loss, _yolox_detector),
    "planted_two_stage": Network(_faster_rcnn, _faster_rcnn_loss, _faster_rcnn_detector),
}


def load(name: str, *, device: torch.device, folder: Path | None = None) -> Detector:
    """Load a detector, one of `NETWORKS`, that was trained on planted scenes.

    ``NAME.safetensors`` and its manifest ``NAME.json`` lie in `folder`; by default those that ship are
    used. An unknown name raises `InputError`, a file that is missing or damaged `WeightsError`.
    """
    network = NETWORKS[checks.choice("name", name, NETWORKS)]
    path = weights.shipped_path(name) if folder is None else folder / f"{name}.safetensors"
    loaded = weights.load_shipped(path)
    module = network.build()
    weights.fit(module, loaded.state, path)
    provenance = {"weights": path.name, **loaded.provenance}
    return network.detector(name, module, device=device, provenance=provenance)
