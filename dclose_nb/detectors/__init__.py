"""Detectors that can be explained, one adapter a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checks
from ..checks import InputError
from ..detection import Detector
from . import weights
from .weights import OFFICIAL, MissingWeights, WeightsError

__all__ = ["MissingWeights", "WeightsError", "load_detector", "pick_device"]

FILE_FACTS = ("input_size", "colours", "mean", "std", "resize", "decode")


def load_detector(
    detector: str | Path | Detector | torch.nn.Module | Callable[[np.ndarray], Any] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    device: Any = None,
    **facts: Any,
) -> Detector:
    """Get a detector to explain; ``docs/detectors.md`` shows each kind.

    Parameters
    ----------
    detector : str, path, Detector, torch.nn.Module or callable, optional
        By default "yolox_nano", or with a warning "picodet_s" where its weights cannot be had. Else:

        - "yolox_nano", "yolox_tiny", "yolox_s", "yolox_m", "yolox_l" or "yolox_x", trained on COCO;
          "picodet_s" (PP-PicoDet-S), trained on COCO, which pip fetches from the Python package index;
          "planted" (YOLOX-Nano) or "planted_two_stage" (Faster R-CNN), which ship with the project
          and know the scenes of `dclose_nb.planted`;
        - the path of an .onnx file, or of OpenVINO's .xml file with its .bin beside it, see
          `detectors.network_file.FileDetector`: exports of YOLOX, YOLOv5, YOLOv7 to YOLO12, YOLO26,
          DETR, RT-DETR, D-FINE, RF-DETR, RTMDet, NanoDet and PicoDet are recognised, others need `facts`;
        - a Faster R-CNN, Mask R-CNN, RetinaNet, FCOS or SSD of torchvision, see
          `detectors.torchvision.load_torchvision`;
        - a Hugging Face model for object detection with ``processor=``, its image processor, or the
          path of a folder to which ``save_pretrained`` wrote both;
        - a function of one image, see `detectors.function.FunctionDetector`;
        - a `Detector`, which is given back as it is.
    class_names : sequence of str, optional
        What the classes are called, for a torchvision network, a function and an .onnx or .xml file
        (there by default those in the file, else COCO's). The others know it.
    name : str, optional
        What the detector is called in records; by default after the file, folder, class or function.
    device : torch.device or str, optional
        By default the first GPU where there is one, else the CPU. An .onnx or .xml file and "picodet_s"
        run on the CPU, and a function where it likes.
    **facts
        For an .onnx or .xml file: ``input_size``, ``colours``, ``mean``, ``std``, ``resize`` and ``decode``.
        For a Hugging Face model: ``processor``.

    Raises
    ------
    InputError
        An unknown name or device, a file or network that cannot be used, or facts that are missing,
        unknown or do not fit.
    MissingWeights
        Weights that are neither at hand nor to be fetched.
    WeightsError
        Weights that are damaged.
    """
    if detector is None:
        detector = _default()
    if isinstance(detector, Detector):
        _refuse_unused(facts, "a Detector", class_names=class_names, name=name, device=device)
        return detector
    if isinstance(detector, torch.nn.Module):
        from .huggingface import HuggingFaceDetector, is_huggingface
        from .torchvision import load_torchvision

        if is_huggingface(detector):
            _refuse_unused(facts, "a Hugging Face model", ("processor",), class_names=class_names)
            return HuggingFaceDetector(name, detector, facts.get("processor"), device=pick_device(device))
        _refuse_unused(facts, "a torchvision network")
        return load_torchvision(detector, _names(class_names), name=name, device=pick_device(device))
    elsewhere = None if str(device) == "cpu" else device
    if isinstance(detector, str | Path) and str(detector).lower().endswith((".onnx", ".xml")):
        from .network_file import FileDetector

        path = checks.path(detector)
        _refuse_unused(facts, f"an {path.suffix.lower()} file", FILE_FACTS, device=elsewhere)
        names = None if class_names is None else _names(class_names)
        return FileDetector(name or path.stem, path, names, **facts)
    if isinstance(detector, str | Path) and str(detector).lower().endswith((".pt", ".pth")):
        raise InputError(
            f"{str(detector)!r} is not opened: such a file can run code as it is read. Export it to ONNX "
            "with the program that made it"
        )
    if callable(detector):
        from .function import FunctionDetector

        _refuse_unused(facts, "a function", device=elsewhere)
        name = name or str(getattr(detector, "__name__", type(detector).__name__))
        return FunctionDetector(name, detector, _names(class_names))
    from . import picodet, planted
    from .yolox import load_yolox

    named = [*OFFICIAL, picodet.NAME, *planted.NETWORKS]
    folder = checks.path(detector) if isinstance(detector, str | Path) else None
    if folder is not None and str(detector) not in named and folder.is_dir():
        from .huggingface import load_folder

        _refuse_unused(facts, "a folder", class_names=class_names)
        return load_folder(folder, name, device=pick_device(device))
    if folder is not None and str(detector) not in named:
        raise InputError(
            f"{str(detector)!r} is no folder; a detector must be one of {', '.join(map(repr, named))}, or "
            "the path of a network"
        )
    known = checks.choice("detector", detector, named)
    _refuse_unused(facts, repr(known), class_names=class_names, name=name)
    if known == picodet.NAME:
        _refuse_unused({}, repr(known), device=elsewhere)
        return picodet.load()
    return (planted.load if known in planted.NETWORKS else load_yolox)(known, device=pick_device(device))


def _default() -> str:
    """The first network of COCO's classes that can be had here."""
    from . import picodet

    if not (without_yolox := weights.missing("yolox_nano")):
        return "yolox_nano"
    if without_picodet := picodet.missing():
        raise MissingWeights(f"{without_yolox} {without_picodet}")
    checks.warn(f"{without_yolox} Until then {picodet.NAME} takes its place.")
    return picodet.NAME


def _refuse_unused(facts: dict[str, Any], what: str, allowed: Sequence[str] = (), **unused: Any) -> None:
    """Refuse facts that an adapter has no use for, and anything else that was given in vain."""
    foreign = [fact for fact in facts if fact not in allowed]
    foreign += [fact for fact, value in unused.items() if value is not None]
    if foreign:
        takes = f": it takes {', '.join(allowed)}" if allowed else ""
        raise InputError(f"{what} takes no {', '.join(foreign)}{takes}")


def _names(class_names: Any) -> tuple[str, ...]:
    """Class names, if there are any and they are such."""
    if class_names is None:
        raise InputError(
            'a detector that does not say what its classes are called needs class_names=["cat", ...]'
        )
    return checks.class_names(class_names)


def pick_device(device: Any) -> torch.device:
    """The device that is asked for, if it can be used; for None the first GPU, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.ones(1, dtype=torch.float64, device=device).cpu()  # sums are doubles, which MPS lacks
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device {str(device)!r} cannot be used: {checks.line_of(error)}") from error
    return device
