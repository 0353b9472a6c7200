"""Networks in files, .onnx through ONNX Runtime and .xml through OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import SSD300_VGG16_Weights

from .. import checks
from ..checks import InputError
from ..detection import Canvas, Detections, Detector, Proposals
from ..files import sha256
from .canvases import letterbox, letterbox_centred, stretch
from .families import FAMILIES, Family, recognise
from .sessions import OnnxSession, Session, open_ir
from .yolox import COCO_CLASSES

Decode = Callable[[list[torch.Tensor], tuple[int, int]], Proposals]

RESIZE = {"letterbox": letterbox, "letterbox_centred": letterbox_centred, "stretch": stretch}
RUNTIMES = {".onnx": ("onnxruntime", OnnxSession), ".xml": ("openvino", open_ir)}
FLOATS, INTEGERS = ("float32", "float16"), ("int64", "int32")
UNSURE = 0.05  # scores of a network that cannot make sense of its pixels stay below

# COCO's 80 classes at their category ids, as DETR and RF-DETR count them: 0 to 90, eleven of them unused
COCO_IDS = tuple(
    f"unused {k}" if name in ("__background__", "N/A") else name
    for k, name in enumerate(SSD300_VGG16_Weights.DEFAULT.meta["categories"])
)

UNKNOWN = """\
{file} has the layout of no known family ({families}); its outputs: {shown}. \
Write a function that decodes them, and give it as decode=decode:

import dclose_nb as dc

def decode(outputs, size):
    [{variables}] = outputs  # tensors (B, ...), in the file's order
    height, width = size  # of the canvas, which is what the network sees
    boxes = ...  # (B, T, 4), x1, y1, x2, y2 in canvas pixels
    scores = ...  # (B, T, C), from 0 to 1, one for each class
    return dc.Proposals.from_scores(boxes, scores)
"""


class FileDetector(Detector):
    """A network in an .onnx or .xml file that sees images (B, 3, h, w); where B is fixed, one by one.

    If it has a second input, (B, 2) integers, it is told the canvas's width and height there. Its family is
    recognised by the shapes of its outputs, and decides the facts that are not given.

    Parameters
    ----------
    name : str
    path : Path
    class_names : tuple of C str, optional
        By default those in the file, else COCO's 80; where DETR's layout has 91 classes, `COCO_IDS`.
    input_size : (h, w), optional
        Needed where the file leaves it open.
    colours : {"rgb", "bgr"}, optional
        The order of the channels that the network wants.
    mean, std : three numbers each, optional
        Subtracted from the pixels, then divided by; in 0-255 and in the order of `colours`.
    resize : {"letterbox", "letterbox_centred", "stretch"}, optional
        See `canvases`.
    decode : str or callable, optional
        A name in `families.FAMILIES`, or a function ``decode(outputs, size)`` that makes `Proposals` in
        canvas pixels of the file's outputs, a list of tensors (B, ...), and the canvas's (h, w). Beside a
        function, the other facts are by default YOLOX's.

    Raises
    ------
    InputError
        A file that cannot be read or whose family is not recognised, facts that do not fit it, or outputs
        that do not fit `decode` or `class_names`: the network is asked once.
    """

    thread_safe = True

    def __init__(
        self,
        name: str,
        path: Path,
        class_names: tuple[str, ...] | None,
        *,
        input_size: tuple[int, int] | None = None,
        colours: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        resize: str | None = None,
        decode: str | Decode | None = None,
    ) -> None:
        self.path = path
        checksums = {"file_sha256": _sha256(path)}
        ir = path.suffix.lower() == ".xml"
        beside = path.with_suffix(".bin") if ir else path.with_name(f"{path.name}.data")  # PyTorch's name
        if ir or beside.exists():
            checksums["weights_sha256"] = _sha256(beside)
        given: dict[str, Any] = {"colours": colours, "mean": mean, "std": std, "resize": resize}
        facts = {fact: value for fact, value in given.items() if value is not None}
        _standard(FAMILIES["yolox"]._replace(**facts))  # refused before the file is opened
        if decode is not None and not callable(decode):
            checks.choice("decode", decode, FAMILIES)
        self.input_size, self._takes_batches = self._input(input_size)
        outputs = self._outputs()
        known = recognise(outputs, self.input_size)
        decode = decode or self._recognised(known, outputs)
        if callable(decode):
            called, family = getattr(decode, "__name__", "decode"), FAMILIES["yolox"]._replace(decode=decode)
        else:
            called, family = decode, FAMILIES[decode]
        family = family._replace(**facts)
        if family.labels_only:
            checks.warn(f"{path.name} gives labels and scores only: classes are compared as the same or not")
        class_names = class_names or self._names(called, [] if callable(decode) else known.get(called, []))
        self._decode = family.bound(len(class_names))
        self.colours, self._resize = family.colours, RESIZE[family.resize]
        self._mean, self._std = _standard(family)
        provenance = {
            "file": path.name,
            **checksums,
            "decode": called,
            "colours": self.colours,
            "mean": self._mean.flatten().tolist(),
            "std": self._std.flatten().tolist(),
            "resize": family.resize,
        }
        super().__init__(name, class_names, provenance=provenance)
        self._check_layout(outputs)
        self._doubts_facts = True  # until it has found something, or has said that it finds nothing

    @cached_property
    def _session(self) -> Session:
        package, opened = RUNTIMES[self.path.suffix.lower()]
        try:
            return opened(self.path)
        except ImportError as error:
            raise InputError(f"{self.path.name} needs {package}: pip install {package} ({error})") from error
        except Exception as error:  # its own types, of a file that is damaged or too new
            raise InputError(
                f"{str(self.path)!r} cannot be read as a network: {checks.line_of(error, -1)}"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_session"}  # made anew

    def _input(self, size: tuple[int, int] | None) -> tuple[tuple[int, int], bool]:
        """The input's (h, w), and whether it takes batches."""
        file, inputs = self.path.name, self._session.inputs
        images = [p for p in inputs if len(p.shape) == 4 and p.shape[1] == 3 and p.dtype in FLOATS]
        sizes = [p for p in inputs if len(p.shape) == 2 and p.shape[1] == 2 and p.dtype in INTEGERS]
        if len(images) != 1 or len(sizes) > 1 or len(inputs) != len(images) + len(sizes):
            found = ", ".join(f"{port.name} {port.dtype} {port.shape}" for port in inputs) or "none"
            raise InputError(
                f"{file} must have one float input (B, 3, h, w), and may have one of integers (B, 2) for "
                f"the image's size; it has: {found}"
            )
        batch, _, *own = images[0].shape
        if isinstance(batch, int) and batch != 1:
            raise InputError(f"{file} sees {batch} images at once: export it for 1, or for any number")
        try:
            sides: Any = own if size is None else checks.plain(size)
            height, width = sides
        except (TypeError, ValueError) as error:
            raise InputError(f"input_size must be (height, width), got {size!r}") from error
        if any(isinstance(side, int) and side != wanted for side, wanted in zip(own, (height, width))):
            raise InputError(f"{file} sees images of {own[0]} x {own[1]}, not input_size={size}")
        if not all(isinstance(side, int) and side > 0 for side in (height, width)):
            raise InputError(f"{file} leaves its size open: give input_size=(height, width)")
        return (height, width), not isinstance(batch, int)

    def _run(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The network's outputs for images (B, 3, h, w), standardised and in its order of colours."""
        size = torch.tensor([self.input_size[::-1]]).expand(len(images), 2)  # so boxes are in canvas pixels
        return self._session.run(*(images if len(port.shape) == 4 else size for port in self._session.inputs))

    def _outputs(self) -> list[torch.Tensor]:
        """What the file answers to black images."""
        b = 2 if self._takes_batches else 1  # a file may say any number and answer for one
        given = b, 3, *self.input_size
        try:
            return self._run(torch.zeros(given))
        except Exception as error:  # the runtime's own types, no memory, outputs that are no tensors
            reason = checks.line_of(error, -1)
            raise InputError(f"{self.path.name} has no answer to an input of {given}: {reason}") from error

    def _shown(self, outputs: list[torch.Tensor]) -> str:
        return ", ".join(
            f"{name} {tuple(output.shape)}" for name, output in zip(self._session.outputs, outputs)
        )

    def _recognised(self, known: dict[str, list[int]], outputs: list[torch.Tensor]) -> str:
        """The only family whose layout the outputs have."""
        if len(known) == 1:
            return next(iter(known))
        shown, names = self._shown(outputs), " or ".join(f'decode="{name}"' for name in known)
        if known:
            raise InputError(
                f"{self.path.name} has the layout of several families: give {names}; its outputs: {shown}"
            )
        variables = ", ".join(f"output_{k}" for k in range(len(outputs)))
        raise InputError(
            UNKNOWN.format(
                file=self.path.name, families=", ".join(FAMILIES), shown=shown, variables=variables
            )
        )

    def _names(self, called: str, counts: list[int]) -> tuple[str, ...]:
        """Class names of the file, else COCO's, if their number may be right."""
        coco = COCO_IDS if called == "detr" and len(COCO_IDS) in counts else COCO_CLASSES
        names = self._session.class_names or coco
        if counts and len(names) not in counts:
            wanted = " or ".join(map(str, sorted(set(counts))))
            raise InputError(
                f"{self.path.name} has {wanted} classes: give class_names=[...], one name for each"
            )
        return names

    def _check_layout(self, outputs: list[torch.Tensor]) -> None:
        b, found = 2 if self._takes_batches else 1, self._shown(outputs)
        layout = f"{self.path.name} does not fit decode={self.provenance['decode']}"
        try:
            proposals = self._decode(outputs, self.input_size)
        except Exception as error:  # a person's function on the file's outputs: anything can happen
            raise InputError(f"{layout}: {type(error).__name__}: {error}; its outputs: {found}") from error
        if not isinstance(proposals, Proposals) or not all(isinstance(p, torch.Tensor) for p in proposals):
            raise InputError(f"decode must return dc.Proposals of tensors, got {type(proposals).__name__}")
        t, c = (*proposals.boxes.shape, 0, 0)[1], len(self.class_names)
        for name, part, shape in zip(proposals._fields, proposals, ((b, t, 4), (b, t), (b, t, c))):
            if tuple(part.shape) != shape:
                raise InputError(
                    f"{layout} and {c} class_names: its {name} are {tuple(part.shape)}, "
                    f"{shape} are wanted; the file's outputs: {found}"
                )
        sides = proposals.boxes[..., 2:] - proposals.boxes[..., :2]
        if t and (sides.min() < 0 or not sides.median() < 10 * max(self.input_size)):
            raise InputError(
                f"{layout}: its boxes are not x1, y1, x2, y2 in canvas pixels, their sides go from "
                f"{sides.min():.3g} to {sides.max():.3g}; the file's outputs: {found}"
            )

    def detect_on(self, canvas: Canvas, **thresholds: Any) -> Detections:
        """As `Detector.detect_on`; warns once where the facts may be wrong.

        It warns if no image so far had a detection, and no score in this one reaches 0.05.
        """
        found = super().detect_on(canvas, **thresholds)
        if self._doubts_facts and not len(found):
            self._doubts_facts = bool(len(super().detect_on(canvas, confidence=UNSURE)))
            if not self._doubts_facts:
                facts = {fact: self.provenance[fact] for fact in ("colours", "mean", "std", "resize")}
                checks.warn(
                    f"{self.name} finds nothing in this image, and no score reaches {UNSURE}. If there is "
                    "something to find, its pixels may be prepared in a wrong way: it was loaded with "
                    + ", ".join(f"{fact}={checks.plain(value)!r}" for fact, value in facts.items())
                )
        elif len(found):
            self._doubts_facts = False
        return found

    def prepare(self, image: np.ndarray) -> Canvas:
        return self._resize(image, self.input_size, self.device)

    def predict(self, pixels: torch.Tensor) -> Proposals:
        if self.colours == "bgr":
            pixels = pixels.flip(1)
        images = (pixels - self._mean) / self._std
        if self._takes_batches:
            return self._decode(self._run(images), self.input_size)
        each = [self._decode(self._run(image), self.input_size) for image in images.split(1)]
        rows = ([part[0] for part in parts] for parts in zip(*each))
        return Proposals(*(pad_sequence(row, batch_first=True) for row in rows))


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error


def _standard(family: Family) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation as tensors (3, 1, 1); facts that cannot be used are refused."""
    checks.choice("colours", family.colours, ("rgb", "bgr"))
    checks.choice("resize", family.resize, RESIZE)
    mean, std = _channels("mean", family.mean), _channels("std", family.std)
    if not std.all():
        raise InputError(f"std must not be 0, got {std.flatten().tolist()}: pixels are divided by it")
    return mean, std


def _channels(name: str, values: Sequence[float]) -> torch.Tensor:
    try:
        channels = torch.as_tensor(values, dtype=torch.float32).reshape(3, 1, 1)
        if channels.isfinite().all():
            return channels
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InputError(f"{name} must be three numbers, one a channel, got {values!r}")
