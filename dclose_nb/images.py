"""Photos that ship with the dependencies, drawn scenes, and situations to explain."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from . import checks
from .checks import InputError
from .detection import Detections, Detector, Targets
from .detectors import MissingWeights, load_detector
from .files import shipped
from .planted.scene import scene

# Packages that are needed anyway, and their files; none is fetched.
PHOTOS = {
    "astronaut": ("skimage.data", "astronaut.png"),
    "camera": ("skimage.data", "camera.png"),
    "chelsea": ("skimage.data", "chelsea.png"),
    "china": ("sklearn.datasets", "images/china.jpg"),
    "coffee": ("skimage.data", "coffee.png"),
    "flower": ("sklearn.datasets", "images/flower.jpg"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "motorcycle": ("skimage.data", "motorcycle_left.png"),
    "rocket": ("skimage.data", "rocket.jpg"),
}

TURNS = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow reads more, some of it by starting other programs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


def load_photo(name: str | Path) -> np.ndarray:
    """Read a photo that ships or draw a scene, by name, or read an image file, by path.

    Parameters
    ----------
    name : str or path
        A name in `PHOTOS`, "scene_7" for planted scene number 7, or the path of a file in one of
        `FORMATS`. A file is turned upright as its EXIF entry says; greyscale is repeated over the
        channels, transparency laid over white, 16-bit values brought to 8, floats taken from 0 to 1.

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
    if isinstance(name, str) and (numbered := re.fullmatch(r"scene_(\d{1,9})", name)):
        return scene(int(numbered[1])).image
    if isinstance(name, str) and name in PHOTOS:
        package, file = PHOTOS[name]
        path = Path(str(resources.files(package) / file))
    else:
        path = checks.path(name)
    if not path.is_file():
        raise InputError(
            f"{str(name)!r} is neither a file, nor scene_0, scene_1, ..., nor a photo that ships: "
            f"{', '.join(PHOTOS)}"
        )
    return decode(path, str(path))


def decode(file: Path | BinaryIO, name: str) -> np.ndarray:
    """Read an image file as `load_photo` does; `name` stands in errors."""
    Image.init()  # Pillow learns of most formats only when asked to
    formats = [one for one in FORMATS if one in Image.OPEN]
    try:
        with Image.open(file, formats=formats) as opened:
            return checks.image(_pixels(_upright(opened)))
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name!r} is not an image that can be read; those are {', '.join(formats)}"
        ) from error
    except InputError as error:
        raise InputError(f"{name!r}: {error}") from error
    except Exception as error:  # decoders raise whatever they like for a damaged file
        raise InputError(f"{name!r} cannot be read as an image: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. Pillow's own function writes all of EXIF anew, and fails if one entry is bad."""
    image.load()
    with suppress(Exception):
        image.getexif()  # asked again, Pillow gives what it could read
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _pixels(image: Image.Image) -> np.ndarray:
    """A picture's pixels in a form that `checks.image` takes or refuses."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # scaled to 16 bits
        values = np.asarray(image, dtype=np.uint16)
        clear = values == image.info.get("transparency", -1)
        return np.where(clear, 255, values // 257).astype(np.uint8)
    if image.mode in ("F", "I"):
        return np.asarray(image)
    transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


class Example(NamedTuple):
    """A detector, an image and what to explain in it."""

    detector: Detector
    image: np.ndarray
    targets: Detections | Targets


class _Situation(NamedTuple):
    """How a situation is shown: by a photo to a network of COCO's classes, else by a scene to "planted"."""

    seed: int
    layout: str
    n_objects: int | None = None
    missed: int | None = None  # object of the scene that is not found
    photo: str | None = None
    wanted: tuple[str, ...] | Targets = ()  # labels of the photo's detections, or what is not found


_SITUATIONS = {
    "one object": _Situation(4, "mixed", 1, photo="chelsea", wanted=("cat",)),
    "overlap": _Situation(5, "overlap", photo="coffee", wanted=("cup", "dining table")),
    "inside another": _Situation(42, "inside", photo="grace_hopper", wanted=("person", "tie")),
    "many": _Situation(0, "mixed", 8),
    "missed": _Situation(
        11, "inside", missed=1, photo="motorcycle", wanted=Targets([[42, 106, 283, 308]], ["bench"])
    ),
}


def load_example(name: str) -> Example:
    """A situation to explain: a detector, an image and its targets.

    The detector is `load_detector`'s default, YOLOX-Nano or PicoDet-S, and the image a photo that ships,
    where one shows the situation. Where neither network can be had, it is the planted detector and a
    drawn scene.

    Parameters
    ----------
    name : str
        "one object"; "overlap", one object on another; "inside another", a large object and a
        small one within it; "many" objects; "missed", an object that the detector does not find,
        as `Targets`.

    Warns
    -----
    UserWarning
        Weights that are missing, and what takes their place.

    Raises
    ------
    InputError
        An unknown situation; weights of one's own that do not find the objects.
    WeightsError
        Weights that are damaged.

    Examples
    --------
    >>> detector, image, targets = load_example("one object")  # doctest: +SKIP
    """
    situation = _SITUATIONS[checks.choice("name", name, _SITUATIONS)]
    detector = None if situation.photo is None else _coco_detector("a drawn scene")
    if situation.photo is not None and detector is not None:
        image, wanted = load_photo(situation.photo), situation.wanted
        if isinstance(wanted, Targets):
            return Example(detector, image, wanted)
        found = detector.detect(image)
        lacking = [label for label in wanted if label not in found.names]
        if lacking:
            raise InputError(
                f"{detector.name} finds no {lacking[0]} in {situation.photo}: use its official weights"
            )
        return Example(detector, image, found[[found.names.index(label) for label in wanted]])
    detector = load_detector("planted")
    drawn = scene(situation.seed, n_objects=situation.n_objects, layout=situation.layout)
    if situation.missed is None:
        return Example(detector, drawn.image, detector.detect(drawn.image))
    missed = Targets(drawn.boxes[[situation.missed]], drawn.labels[[situation.missed]].tolist())
    return Example(detector, drawn.image, missed)


class Annotated(NamedTuple):
    """An image and the objects in it, as people have marked them or as they were drawn."""

    image: np.ndarray  # (H, W, 3) uint8
    truth: Targets  # every object of the detector's classes


# Scenes in which the planted detector errs, one for each way that it can; the last is one that it gets right.
_HARD_SCENES = (1041, 575, 130, 1380, 7)


def load_annotated() -> tuple[Detector, dict[str, Annotated]]:
    """A detector, and images with their ground truth by name, to see where it errs.

    `load_detector`'s default and `annotated_photos`; where neither network can be had, the planted
    detector and `annotated_scenes`, with a warning as of `load_example`.

    Examples
    --------
    >>> detector, images = load_annotated()  # doctest: +SKIP
    >>> image, truth = images["coffee"]  # doctest: +SKIP
    """
    detector = _coco_detector("drawn scenes")
    if detector is not None:
        return detector, annotated_photos()
    return load_detector("planted"), annotated_scenes()


def annotated_photos() -> dict[str, Annotated]:
    """Photos that ship, whole or cut, with the boxes drawn by hand of ``data/photo_boxes.json``."""
    images = {}
    for name, entry in json.loads(shipped("photo_boxes.json").read_text(encoding="utf-8")).items():
        image = load_photo(entry["photo"])
        x1, y1, x2, y2 = entry.get("window", (0, 0, image.shape[1], image.shape[0]))
        truth = Targets([box for _, *box in entry["objects"]], [label for label, *_ in entry["objects"]])
        images[name] = Annotated(image[y1:y2, x1:x2].copy(), truth)
    return images


def annotated_scenes() -> dict[str, Annotated]:
    """Drawn scenes in which the planted detector errs, and one that it gets right."""
    drawn = {f"scene_{seed}": scene(seed) for seed in _HARD_SCENES}
    return {name: Annotated(hard.image, Targets(hard.boxes, hard.names)) for name, hard in drawn.items()}


def _coco_detector(otherwise: str) -> Detector | None:
    """`load_detector`'s default; None with a warning where it cannot be had."""
    try:
        return load_detector()
    except MissingWeights as error:
        checks.warn(f"{error} Until then the planted detector explains {otherwise}.")
        return None
