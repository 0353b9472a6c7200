"""Photographs that ship with the dependencies, and situations to explain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from . import checks
from .checks import InputError
from .detection import Detections, Detector, Targets
from .detectors import load_detector


def _skimage(file: str) -> Callable[[], Path]:
    def find() -> Path:
        import skimage.data

        return Path(skimage.data.__file__).parent / file

    return find


def _sklearn(file: str) -> Callable[[], Path]:
    def find() -> Path:
        import sklearn.datasets

        return Path(sklearn.datasets.__file__).parent / "images" / file

    return find


def _matplotlib(file: str) -> Callable[[], Path]:
    def find() -> Path:
        import matplotlib

        return Path(matplotlib.get_data_path()) / "sample_data" / file

    return find


# Files of packages that are needed anyway; none is fetched.
PHOTOS: dict[str, Callable[[], Path]] = {
    "astronaut": _skimage("astronaut.png"),
    "camera": _skimage("camera.png"),
    "chelsea": _skimage("chelsea.png"),
    "china": _sklearn("china.jpg"),
    "coffee": _skimage("coffee.png"),
    "flower": _sklearn("flower.jpg"),
    "grace_hopper": _matplotlib("grace_hopper.jpg"),
    "motorcycle": _skimage("motorcycle_left.png"),
    "rocket": _skimage("rocket.jpg"),
}


# Pillow reads more, some of it by starting other programs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


def load_photo(name: str | Path) -> np.ndarray:
    """Read a photograph that ships, by name, or any image file, by path.

    Parameters
    ----------
    name : str or path
        A name in `PHOTOS`, or the path of a file in one of `FORMATS`. Turned upright as its EXIF
        entry says; greyscale is repeated over the channels, transparency laid over white, 16-bit
        values brought to 8, floats taken from 0 to 1.

    Returns
    -------
    (H, W, 3) uint8 array
        RGB.

    Raises
    ------
    InputError
        No such name or file, or a file that is torn or no image.

    Examples
    --------
    >>> load_photo("coffee").shape
    (400, 600, 3)
    """
    path = PHOTOS[name]() if isinstance(name, str) and name in PHOTOS else checks.path(name)
    if not path.is_file():
        raise InputError(f"{str(name)!r} is neither a file nor a photo that ships: {', '.join(PHOTOS)}")
    try:
        Image.init()  # Pillow learns of most formats only when asked to
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as file:
            return checks.image(_pixels(ImageOps.exif_transpose(file)))
    except UnidentifiedImageError as error:
        raise InputError(f"{str(path)!r} is not an image that can be read") from error
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from error
    except Exception as error:  # decoders raise whatever they like for a damaged file
        raise InputError(f"{str(path)!r} cannot be read as an image: {error}") from error


def _pixels(image: Image.Image) -> np.ndarray:
    """A picture's pixels in a form that `checks.image` takes or refuses."""
    if image.mode.startswith("I;16"):
        return (np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8)
    if image.mode in ("F", "I"):
        return np.asarray(image)
    transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


class Example(NamedTuple):
    """A detector, an image and what to explain in it."""

    detector: Detector
    image: np.ndarray
    targets: Detections | Targets


# Situation: photo, and the rows of its detections that show it.
_SITUATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "one object": ("chelsea", ("cat",)),
    "overlap": ("coffee", ("cup", "dining table")),
    "inside another": ("grace_hopper", ("person", "tie")),
}


def load_example(name: str) -> Example:
    """A situation to explain: a detector, an image and its targets.

    Parameters
    ----------
    name : str
        "one object"; "overlap", one object on another; "inside another", a small object within a
        large one.

    Returns
    -------
    Example

    Raises
    ------
    InputError
        An unknown situation.
    WeightsError
        The detector's weights are neither at hand nor to be fetched.

    Examples
    --------
    >>> detector, image, targets = load_example("one object")  # doctest: +SKIP
    """
    photo, wanted = _SITUATIONS[checks.choice("name", name, _SITUATIONS)]
    detector, image = load_detector("yolox_nano"), load_photo(photo)
    found = detector.detect(image)
    return Example(detector, image, found[[found.names.index(label) for label in wanted]])
