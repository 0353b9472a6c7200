"""Detectors that can be explained, one adapter a file."""

from __future__ import annotations

from typing import Any

import torch

from .. import checks
from ..checks import InputError
from ..detection import Detector
from .weights import OFFICIAL, MissingWeights, WeightsError

__all__ = ["MissingWeights", "WeightsError", "load_detector", "pick_device"]


def load_detector(name: str | Detector, *, device: Any = None) -> Detector:
    """Get a detector to explain.

    Parameters
    ----------
    name : str or Detector
        "yolox_nano", "yolox_tiny", "yolox_s", "yolox_m", "yolox_l" or "yolox_x", trained on COCO;
        "planted" (YOLOX-Nano) or "planted_two_stage" (Faster R-CNN), which ship with the project
        and know the scenes of `dclose_nb.planted`. A `Detector` is given back as it is.
    device : torch.device or str, optional
        By default the first GPU where there is one, else the CPU.

    Returns
    -------
    Detector

    Raises
    ------
    InputError
        An unknown name or device.
    MissingWeights
        Weights that are neither at hand nor to be fetched.
    WeightsError
        Weights that are damaged.

    Examples
    --------
    >>> import dclose_nb as dc
    >>> detector = dc.load_detector("yolox_nano")  # doctest: +SKIP
    """
    if isinstance(name, Detector):
        return name
    from ..planted import networks  # which stands on the adapters here

    checks.choice("detector", name, [*OFFICIAL, *networks.NETWORKS])
    if name in networks.NETWORKS:
        return networks.load(name, device=pick_device(device))
    from .yolox import load_yolox  # the yolox package is slow to import and not always wanted

    return load_yolox(name, device=pick_device(device))


def pick_device(device: Any) -> torch.device:
    """The device that is asked for, if it can be used; for None the first GPU, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
