"""YOLOX (Ge et al. 2021), the paper's detector, over the `yolox` package."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from yolox.config import YoloxConfig
from yolox.data.datasets import COCO_CLASSES
from yolox.utils import fuse_model

from ..detection import Canvas, Proposals
from . import onnx, weights
from .canvases import letterbox
from .modules import ModuleDetector

try:
    importlib.import_module("yolox.models")
except RuntimeError:  # it asks for a home folder, which some accounts lack
    os.environ["HOME"] = os.sep
    importlib.import_module("yolox.models")
    del os.environ["HOME"]

LARGEST = 1e6  # pixels of a side; sizes are exponentials, which overflow where weights are shuffled
WORTH_COMPILING = 100  # passes; fewer are done before a network is compiled


class YoloxDetector(ModuleDetector):
    """A YOLOX network: letterboxed to the top left, padded with 114, read as BGR 0-255.

    Its `module`, of the `yolox` package, is changed in place, see `ready`; `input_size` is (h, w). The
    other parameters are those of `ModuleDetector`.
    """

    def __init__(
        self, name: str, module: Any, input_size: tuple[int, int], class_names: Sequence[str], **settings: Any
    ) -> None:
        super().__init__(name, ready(module), class_names, **settings)
        self.input_size = input_size

    @property
    def feature_layers(self) -> tuple[str, ...]:
        return "backbone.C3_p3", "backbone.C3_n3", "backbone.C3_n4"  # of the strides 8, 16 and 32

    @property
    def class_layers(self) -> tuple[str, ...]:
        branches = enumerate(self.module.head.cls_convs)
        return tuple(f"head.cls_convs.{k}.{j}" for k, branch in branches for j in range(len(branch)))

    @property
    def stages(self) -> dict[str, tuple[str, ...]]:
        body = "backbone.backbone"
        neck = [name for name, _ in self.module.backbone.named_children() if name != "backbone"]
        return {
            "predictions": ("head.cls_preds", "head.reg_preds", "head.obj_preds"),
            "head": ("head.cls_convs", "head.reg_convs", "head.stems"),
            "neck": tuple(f"backbone.{name}" for name in neck),
            **{name: (f"{body}.{name}",) for name in ("dark5", "dark4", "dark3", "dark2", "stem")},
        }

    def prepare(self, image: np.ndarray) -> Canvas:
        return letterbox(image, self.input_size, self.device)

    def predict(self, pixels: torch.Tensor) -> Proposals:
        output = self.module(pixels.contiguous(memory_format=torch.channels_last))
        return proposals_of(output.to(torch.promote_types(output.dtype, torch.float32)))

    def predictor(self, passes: int) -> Callable[[torch.Tensor], Proposals]:
        compiles = self.device.type == "cpu" and passes >= WORTH_COMPILING
        network = onnx.compiled(self.module, self.input_size) if compiles else None
        return super().predictor(passes) if network is None else lambda pixels: proposals_of(network(pixels))


def proposals_of(output: torch.Tensor) -> Proposals:
    """Read what YOLOX puts out, (B, T, 5 + C): centre, size, objectness, class probabilities."""
    centre, size = output[..., :2], output[..., 2:4].clamp(max=LARGEST)
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
    return Proposals(boxes, output[..., 4], output[..., 5:])


@torch.no_grad()
def ready(module: Any) -> Any:
    """Make a `yolox` module ready to be asked often: batch-norm folded, RGB in place of BGR.

    The network wants BGR and canvases hold RGB. Swapping the first convolution's input channels
    once is the same to the last bit as swapping the pixels of each of thousands of images.
    """
    module = fuse_model(module.eval())
    stem = module.backbone.backbone.stem.conv.conv  # reads four shifted copies of three channels
    stem.weight.copy_(stem.weight.unflatten(1, (-1, 3)).flip(2).flatten(1, 2))
    return module


def load_yolox(name: str, *, device: torch.device) -> YoloxDetector:
    """Build a YOLOX network trained on COCO; see `weights.load` for where its weights come from."""
    config = YoloxConfig.get_named_config(name)
    module = config.get_model()
    loaded = weights.load(name)
    weights.fit(module, loaded.state, weights.path_of(name))
    provenance = {"weights": f"{name}.pth", **loaded.provenance}
    size = tuple(config.test_size)
    return YoloxDetector(name, module, size, COCO_CLASSES, device=device, provenance=provenance)
