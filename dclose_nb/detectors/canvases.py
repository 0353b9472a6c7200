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
    return stretch(image, size, device, inner)


def stretch(
    image: np.ndarray,
    size: tuple[int, int],
    device: torch.device,
    inner: tuple[int, int] | None = None,
    interpolation: int = cv2.INTER_LINEAR,
) -> Canvas:
    """Resize an (H, W, 3) uint8 image to the top left `inner` (h, w) of a canvas, by default to all of it."""
    inner = inner or size
    canvas = np.full((*size, 3), PADDING, dtype=np.uint8)
    canvas[: inner[0], : inner[1]] = cv2.resize(image, inner[::-1], interpolation=interpolation)
    pixels = torch.from_numpy(canvas).permute(2, 0, 1).to(device, torch.float32)
    return Canvas(pixels, image.shape[:2], (0, 0, *inner))
