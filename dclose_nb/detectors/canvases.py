"""How an image comes to a network's size: as it is shaped, or stretched."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from ..detection import Canvas

PADDING = 114


def letterbox(image: np.ndarray, size: tuple[int, int], device: torch.device) -> Canvas:
    """Resize an image in its shape, to the top left, and pad it with 114, as YOLOX does.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    size : (h, w)
        Of the canvas.
    device : torch.device
    """
    (height, width), (h, w) = image.shape[:2], size
    ratio = min(h / height, w / width)
    inner = max(int(height * ratio), 1), max(int(width * ratio), 1)
    return _canvas(image, size, inner, device)


def stretch(image: np.ndarray, size: tuple[int, int], device: torch.device) -> Canvas:
    """Resize an image to the canvas, whatever its shape; parameters as of `letterbox`."""
    return _canvas(image, size, size, device)


def _canvas(image: np.ndarray, size: tuple[int, int], inner: tuple[int, int], device: torch.device) -> Canvas:
    canvas = np.full((*size, 3), PADDING, dtype=np.uint8)
    canvas[: inner[0], : inner[1]] = cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(canvas).permute(2, 0, 1).to(device, torch.float32)
    return Canvas(pixels, image.shape[:2], (0, 0, *inner))
