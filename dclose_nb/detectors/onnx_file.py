"""Networks in ONNX files, through ONNX Runtime on the CPU."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from .. import checks
from ..checks import InputError
from ..detection import Canvas, Detector, Proposals
from . import onnx
from .canvases import letterbox, letterbox_centred, stretch
from .families import FAMILIES, OTHER, recognise
from .yolox import COCO_CLASSES

Decode = Callable[[list[torch.Tensor], tuple[int, int]], Proposals]

RESIZE = {"letterbox": letterbox, "letterbox_centred": letterbox_centred, "stretch": stretch}


class OnnxDetector(Detector):
    """A network in an ONNX file with one input, (B, 3, h, w); where B is fixed, images go one by one.

    Its family is recognised by the shapes of its outputs, and decides the facts that are not given.

    Parameters
    ----------
    name : str
    path : Path
    class_names : tuple of C str, optional
        By default those in the file's metadata, else COCO's 80.
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
        try:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
        self.path = path
        facts = _given(colours=colours, mean=mean, std=std, resize=resize)
        if decode is not None and not callable(decode):
            checks.choice("decode", decode, FAMILIES)
        self.input_size, self._takes_batches = self._input(input_size)
        outputs = self._outputs()
        known = recognise(outputs, self.input_size)
        decode = decode or self._recognised(known, outputs)
        if callable(decode):
            called, family = getattr(decode, "__name__", "decode"), OTHER._replace(decode=decode)
        else:
            called, family = decode, FAMILIES[decode]
        family = family._replace(**facts)
        if called == "yolo_end_to_end":
            checks.warn(f"{path.name} gives labels and scores only: classes are compared as the same or not")
        class_names = class_names or self._names([] if callable(decode) else known.get(called, []))
        self._decode = family.bound(len(class_names))
        self.colours, self._resize = family.colours, RESIZE[family.resize]
        self._mean, self._std = (_channels(*fact) for fact in (("mean", family.mean), ("std", family.std)))
        provenance = {
            "file": path.name,
            "file_sha256": sha256,
            "decode": called,
            "colours": self.colours,
            "mean": self._mean.flatten().tolist(),
            "std": self._std.flatten().tolist(),
            "resize": family.resize,
        }
        super().__init__(name, class_names, provenance=provenance)
        self._check_layout(outputs)

    @cached_property
    def _session(self) -> Any:
        try:
            return onnx.open_session(self.path)
        except ImportError as error:
            raise InputError(f"an ONNX file needs onnxruntime: pip install onnxruntime ({error})") from error
        except Exception as error:  # its own types, of a file that is damaged or too new
            reason = str(error).splitlines()[0]
            raise InputError(f"{str(self.path)!r} cannot be read as a network: {reason}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_session"}  # made anew

    def _input(self, size: tuple[int, int] | None) -> tuple[tuple[int, int], bool]:
        """The input's (h, w), and whether it takes batches."""
        file, inputs = self.path.name, self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 4 or inputs[0].type != "tensor(float)" or shape[1] != 3:
            found = ", ".join(f"{given.name} {given.type} {given.shape}" for given in inputs) or "none"
            raise InputError(f"{file} must have one float input (B, 3, h, w), it has: {found}")
        batch, _, *own = shape
        if isinstance(batch, int) and batch != 1:
            raise InputError(f"{file} sees {batch} images at once: export it for 1, or for any number")
        try:
            height, width = own if size is None else checks.plain(size)
        except (TypeError, ValueError) as error:
            raise InputError(f"input_size must be (height, width), got {size!r}") from error
        if any(isinstance(side, int) and side != wanted for side, wanted in zip(own, (height, width))):
            raise InputError(f"{file} sees images of {own[0]} x {own[1]}, not input_size={size}")
        if not all(isinstance(side, int) and side > 0 for side in (height, width)):
            raise InputError(f"{file} leaves its size open: give input_size=(height, width)")
        return (height, width), not isinstance(batch, int)

    def _outputs(self) -> list[torch.Tensor]:
        """What the file answers to black images."""
        b = 2 if self._takes_batches else 1  # a file may say any number and answer for one
        given = b, 3, *self.input_size
        try:
            return onnx.run(self._session, torch.zeros(given))
        except Exception as error:  # ONNX Runtime's own types, no memory, outputs that are no tensors
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{self.path.name} has no answer to an input of {given}: {reason}") from error

    def _shown(self, outputs: list[torch.Tensor]) -> str:
        named = zip(self._session.get_outputs(), outputs)
        return ", ".join(f"{known.name} {tuple(output.shape)}" for known, output in named)

    def _recognised(self, known: dict[str, list[int]], outputs: list[torch.Tensor]) -> str:
        """The only family whose layout the outputs have."""
        if len(known) == 1:
            return next(iter(known))
        shown, names = self._shown(outputs), " or ".join(f'decode="{name}"' for name in known)
        if known:
            raise InputError(
                f"{self.path.name} has the layout of several families: give {names}; its outputs: {shown}"
            )
        raise InputError(
            f"{self.path.name} has the layout of no known family ({', '.join(FAMILIES)}): give decode, "
            f"a function decode(outputs, size) that returns dc.Proposals; its outputs: {shown}"
        )

    def _names(self, counts: list[int]) -> tuple[str, ...]:
        """Class names of the file's metadata, else COCO's 80, if their number may be right."""
        try:
            listed = ast.literal_eval(self._session.get_modelmeta().custom_metadata_map["names"])
            names = checks.class_names([listed[k] for k in range(len(listed))])
        except (KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # from anywhere
            names = COCO_CLASSES
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

    def prepare(self, image: np.ndarray) -> Canvas:
        return self._resize(image, self.input_size, self.device)

    def predict(self, pixels: torch.Tensor) -> Proposals:
        if self.colours == "bgr":
            pixels = pixels.flip(1)
        inputs = (pixels - self._mean) / self._std
        batches = [inputs] if self._takes_batches else inputs.split(1)
        each = [self._decode(onnx.run(self._session, batch), self.input_size) for batch in batches]
        if len(each) == 1:
            return each[0]
        return Proposals(
            *(pad_sequence([part[0] for part in parts], batch_first=True) for parts in zip(*each))
        )


def _given(**facts: Any) -> dict[str, Any]:
    """The facts that are not None, checked."""
    facts = {fact: value for fact, value in facts.items() if value is not None}
    for fact, allowed in (("colours", ("rgb", "bgr")), ("resize", RESIZE)):
        if fact in facts:
            checks.choice(fact, facts[fact], allowed)
    for fact in ("mean", "std"):
        if fact in facts and not _channels(fact, facts[fact]).all() and fact == "std":
            raise InputError(f"std must not be 0, got {facts[fact]!r}: pixels are divided by it")
    return facts


def _channels(name: str, values: Sequence[float]) -> torch.Tensor:
    try:
        channels = torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)
        if channels.isfinite().all():
            return channels
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InputError(f"{name} must be three numbers, one a channel, got {values!r}")
