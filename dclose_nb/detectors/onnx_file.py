"""Networks in ONNX files, through ONNX Runtime on the CPU."""

from __future__ import annotations

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
from .canvases import letterbox, stretch
from .yolox import proposals_of

Decode = Callable[[list[torch.Tensor], tuple[int, int]], Proposals]

RESIZE = {"letterbox": letterbox, "stretch": stretch}


def centres(size: tuple[int, int], stride: int) -> torch.Tensor:
    """Centres x, y of a grid's cells in canvas pixels, (N, 2), row by row from the top left.

    Parameters
    ----------
    size : (h, w)
        Of the canvas; sides that the stride does not divide have one cell more.
    stride : int
    """
    rows, columns = (torch.arange(0, side, stride) + stride / 2 for side in size)
    return torch.cartesian_prod(rows, columns).flip(1)


def yolox(outputs: list[torch.Tensor], size: tuple[int, int]) -> Proposals:
    """Decode what YOLOX's export writes by default: grid and stride are still to be applied.

    One output (B, T, 5 + C), strides 8, 16 and 32: centre, logarithm of the size, objectness, class
    probabilities.
    """
    (output,) = outputs
    grids = {stride: centres(size, stride) for stride in (8, 16, 32)}
    strides = torch.cat([torch.full((len(grid), 1), float(stride)) for stride, grid in grids.items()])
    centre = output[..., :2] * strides + torch.cat(list(grids.values())) - strides / 2
    return proposals_of(torch.cat([centre, output[..., 2:4].exp() * strides, output[..., 4:]], dim=-1))


def yolox_decoded(outputs: list[torch.Tensor], size: tuple[int, int]) -> Proposals:
    """Decode what YOLOX's export writes with ``--decode_in_inference``: boxes in canvas pixels."""
    (output,) = outputs
    return proposals_of(output)


DECODERS: dict[str, Decode] = {"yolox": yolox, "yolox_decoded": yolox_decoded}


class OnnxDetector(Detector):
    """A network in an ONNX file with one input, (B, 3, h, w); where B is fixed, images go one by one.

    Parameters
    ----------
    name : str
    path : Path
    class_names : tuple of C str
    input_size : (h, w), optional
        Needed where the file leaves it open.
    colours : {"rgb", "bgr"}
        The order of the channels that the network wants.
    mean, std : three numbers each
        Subtracted from the pixels, then divided by; in 0-255 and in the order of `colours`.
    resize : {"letterbox", "stretch"}
        See `canvases`.
    decode : {"yolox", "yolox_decoded"} or callable
        A function ``decode(outputs, size)`` that makes `Proposals` in canvas pixels of the file's
        outputs, a list of tensors (B, ...), and the canvas's (h, w).

    Raises
    ------
    InputError
        A file that cannot be read, facts that do not fit it, or outputs that do not fit `decode` or
        `class_names`: the network is asked once.
    """

    thread_safe = True

    def __init__(
        self,
        name: str,
        path: Path,
        class_names: tuple[str, ...],
        *,
        input_size: tuple[int, int] | None = None,
        colours: str = "bgr",
        mean: Sequence[float] = (0, 0, 0),
        std: Sequence[float] = (1, 1, 1),
        resize: str = "letterbox",
        decode: str | Decode = "yolox",
    ) -> None:
        try:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
        self.path = path
        self.colours = checks.choice("colours", colours, ("rgb", "bgr"))
        self._resize = RESIZE[checks.choice("resize", resize, RESIZE)]
        self._decode = decode if callable(decode) else DECODERS[checks.choice("decode", decode, DECODERS)]
        self._mean, self._std = (_channels(*fact) for fact in (("mean", mean), ("std", std)))
        if not self._std.all():
            raise InputError(f"std must not be 0, got {std!r}: pixels are divided by it")
        provenance = {
            "file": path.name,
            "file_sha256": sha256,
            "decode": getattr(self._decode, "__name__", "decode"),
            "colours": self.colours,
            "mean": self._mean.flatten().tolist(),
            "std": self._std.flatten().tolist(),
            "resize": resize,
        }
        super().__init__(name, class_names, provenance=provenance)
        self.input_size, self._takes_batches = self._input(input_size)
        self._check_layout()

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

    def _check_layout(self) -> None:
        b = 2 if self._takes_batches else 1  # a file may say any number and answer for one
        given = b, 3, *self.input_size
        try:
            outputs = onnx.run(self._session, torch.zeros(given))
        except Exception as error:  # ONNX Runtime's own types, no memory, outputs that are no tensors
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{self.path.name} has no answer to an input of {given}: {reason}") from error
        named = zip(self._session.get_outputs(), outputs)
        found = ", ".join(f"{known.name} {tuple(output.shape)}" for known, output in named)
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


def _channels(name: str, values: Sequence[float]) -> torch.Tensor:
    try:
        channels = torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)
        if channels.isfinite().all():
            return channels
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InputError(f"{name} must be three numbers, one a channel, got {values!r}")
