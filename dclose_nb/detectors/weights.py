"""Where a network's weights are found, and how they are fetched and read safely."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pooch
import safetensors.torch
import torch

from .. import checks
from ..files import read_json, sha256, shipped

RELEASE = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"

# sha256 of the official checkpoints of that release
OFFICIAL = {
    "yolox_nano": "cd28f55fbbc1829f99d9ac9b38a16d259a22889739c8728ea877610201feff7b",
    "yolox_tiny": "9de513de589ac98bb92d3bca53b5af7b9acfa9b0bacb831f7999d0f7afaee8f0",
    "yolox_s": "f55ded7181e1b0c13285c56e7790b8f0e8f8db590fe4edb37f0b7f345c913a30",
    "yolox_m": "60076992b32da82951c90cfa7bd6ab70eba9eda243e08b940a396f60ac2d19b6",
    "yolox_l": "1e6b7fa6240375370b2a8a8eab9066b3cdd43fd1d0bfa8d2027fd3a51def2917",
    "yolox_x": "5652330b6ae860043f091b8f550a60c10e1129f416edfdb65c259be6caf355cf",
}

TIMEOUT = 5, 30  # seconds to connect and to read


class Weights(NamedTuple):
    """A network's parameters and the file that they came from."""

    state: dict[str, torch.Tensor]
    sha256: str
    official: bool

    @property
    def provenance(self) -> dict[str, Any]:
        return {"weights_sha256": self.sha256, "weights_official": self.official}


class WeightsError(OSError):
    """Weights that are not there and cannot be fetched, or cannot be read."""


class MissingWeights(WeightsError):
    """Weights that are not there and cannot be fetched; nothing is wrong with what is there."""


def path_of(name: str) -> Path:
    """Path of a YOLOX network's weights, whether they are there or not.

    The folder is the `yolox` package's own: ``$YOLOX_HOME``, else ``~/.cache/yolox``; an account that has
    neither raises `MissingWeights`.
    """
    checks.choice("name", name, OFFICIAL)
    home = os.environ.get("YOLOX_HOME") or "~/.cache/yolox"
    if home == "~/.cache/yolox" == os.path.expanduser(home):
        raise MissingWeights(
            f"there is no home folder to keep {name}.pth in. Set YOLOX_HOME to a folder that has it under "
            "weights/."
        )
    return checks.path(home) / "weights" / f"{name}.pth"


def load(name: str) -> Weights:
    """Read the weights of a YOLOX network, fetching them first where they are not at hand.

    A download is checked against the official sha256 before it takes its name, so that a part of
    a file is never used. A file that was already there is used whatever its sum, with a warning
    where it is not the official one. Nothing is unpickled but tensors and plain containers. A file that
    is missing and cannot be fetched raises `MissingWeights`, a damaged one `WeightsError`.
    """
    path = path_of(name)
    if not path.exists():
        _download(path)
    try:
        found = sha256(path)
        state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    except Exception as error:  # torch raises many types for a damaged or foreign file
        raise WeightsError(
            f"{path} cannot be read as weights of {name}: {checks.line_of(error)}. "
            "Remove it to have the official file fetched."
        ) from error
    official = found == OFFICIAL[name]
    if not official:
        checks.warn(f"{path} is not the official {name} checkpoint (sha256 {found})")
    return Weights(state, found, official)


def missing(name: str) -> str:
    """Why a YOLOX network's weights cannot be had; empty where they are at hand or were fetched now."""
    return why_missing(partial(path_of, name), Path.exists, _download)


def why_missing(
    place_of: Callable[[], Path], at_hand: Callable[[Path], bool], fetch: Callable[[Path], None]
) -> str:
    """Why files cannot be had; empty where they are at hand in their place or were fetched now."""
    try:
        place = place_of()
    except MissingWeights as error:  # they have no place
        return str(error)
    return "" if at_hand(place) else _refusal(fetch, place)


@lru_cache
def _refusal(fetch: Callable[[Path], None], place: Path) -> str:
    """Why nothing could be fetched to a place, asked of the network once; empty where it was fetched."""
    try:
        fetch(place)
    except MissingWeights as error:
        return str(error)
    return ""


def _download(path: Path) -> None:
    import requests  # here, since its import takes time, and most weights are at hand

    name = path.stem
    url = f"{RELEASE}/{path.name}"
    missing = f"{name}.pth is not at {path} and could not be fetched from {url}"
    where = f"Put the file at {path}, or set YOLOX_HOME to a folder that has it under weights/."
    print(f"fetching {url} to {path.parent}", file=sys.stderr, flush=True)
    log = pooch.get_logger()
    level = log.level
    log.setLevel("WARNING")  # it would say the same in two lines
    try:
        pooch.retrieve(
            url,
            known_hash=f"sha256:{OFFICIAL[name]}",
            path=path.parent,
            fname=path.name,
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT, chunk_size=2**16),
        )
    except requests.ConnectionError:  # its own text is a page long
        raise MissingWeights(f"{missing} (no connection). {where}") from None
    except (requests.RequestException, OSError) as error:  # some are ValueErrors, too
        raise MissingWeights(f"{missing} ({checks.line_of(error)}). {where}") from error
    except ValueError as error:  # pooch's word for a sum that does not match
        raise MissingWeights(
            f"what {url} sent is not {name}.pth, whose sha256 is {OFFICIAL[name]}: thrown away. {where}"
        ) from error
    finally:
        log.setLevel(level)


def digest(module: torch.nn.Module) -> str:
    """sha256 of all that a network has learnt, in the order of its state dict."""
    sums = hashlib.sha256()
    for value in module.state_dict().values():
        sums.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sums.hexdigest()


def refuse_no_numbers(name: str, state: Mapping[str, Any]) -> None:
    """Refuse weights that are complex or NaN: a network with one such weight detects nothing."""
    for part, value in state.items():
        if isinstance(value, torch.Tensor) and (value.is_complex() or bool(value.isnan().any())):
            what = "complex" if value.is_complex() else "NaN"
            raise WeightsError(f"{name} has a weight that is {what}, in {part!r}: its file is damaged")


def fit(module: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load a state dict; weights of another network are refused in one line."""
    try:
        refuse_no_numbers(path.name, state)
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} does not hold the weights of {path.stem}") from error


def shipped_path(name: str) -> Path:
    """Path of the weights of a network that ships with the project."""
    return shipped("weights") / f"{name}.safetensors"


def load_shipped(path: Path) -> Weights:
    """Read weights that were trained here; the manifest of the same name holds their sha256.

    A file or manifest that is missing, and a file with another sum, raise `WeightsError`.
    """
    try:
        expected = read_json(path.with_suffix(".json"))["sha256"]
        content = path.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} or its manifest cannot be read: {checks.line_of(error)}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise WeightsError(f"{path} is wrong or damaged: its sha256 is {found}, expected {expected}")
    try:
        return Weights(safetensors.torch.load(content), found, official=True)
    except Exception as error:  # its own type, and others for what lies in a damaged header
        raise WeightsError(f"{path} cannot be read as weights: {checks.line_of(error)}") from error
