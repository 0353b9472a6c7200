"""How an image comes to a network's size: in its own shape, or stretched."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from ..detection import Canvas

PADDING = 114


def letterbox(image: np.ndarray, size: tuple[int, int], device: torch.device) -> Canvas:
    """Resize an (H, W, 3) uint8 image to the top left of a canvas (h, w), in its own shape.

    The rest is padded with 114, as YOLOX does it.
    """
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    inner = max(int(image.shape[0] * ratio), 1), max(int(image.shape[1] * ratio), 1)
    return stretch(image, size, device, (0, 0, *inner))


def letterbox_centred(image: np.ndarray, size: tuple[int, int], device: torch.device) -> Canvas:
    """As `letterbox`, to the middle of the canvas and rounded to whole pixels, as YOLOv5 to YOLO26 do it."""
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(round(side * ratio), 1) for side in image.shape[:2])
    top, left = (round((whole - side) / 2 - 0.1) for whole, side in zip(size, (height, width)))
    return stretch(image, size, device, (top, left, height, width))


def stretch(
    image: np.ndarray,
    size: tuple[int, int],
    device: torch.device,
    content: tuple[int, int, int, int] | None = None,
    interpolation: int = cv2.INTER_LINEAR,
) -> Canvas:
    """Resize an (H, W, 3) uint8 image to the content of a canvas, (top, left, h, w); default: all."""
    top, left, height, width = content = content or (0, 0, *size)
    canvas = np.full((*size, 3), PADDING, dtype=np.uint8)
    inner = cv2.resize(image, (width, height), interpolation=interpolation)
    canvas[top : top + height, left : left + width] = inner
    pixels = torch.from_numpy(canvas).permute(2, 0, 1).to(device, torch.float32)
    return Canvas(pixels, image.shape[:2], content)
