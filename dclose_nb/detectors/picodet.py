"""PP-PicoDet-S (Yu et al. 2021), a COCO detector that comes from the Python package index."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pooch
import torch
from yolox.data.datasets import COCO_CLASSES

from ..checks import InputError
from ..detection import Canvas, Detector, Proposals
from ..files import atomic_write, sha256
from .canvases import stretch
from .families import IMAGENET
from .sessions import OpenVinoSession, load_openvino
from .weights import MissingWeights, WeightsError, why_missing

NAME = "picodet_s"
SIZE = 416
MEAN, STD = IMAGENET

# A package that holds the network's two files (Apache-2.0). It is never installed or imported.
WHEEL = "paddlelabel_ml==1.0.0"
WHEEL_SHA256 = "d3590ed527f3130536ec8cf2d1223f8cca18a320c9f98a109f2f93d9afd131bd"
INSIDE = "paddlelabel_ml/model/PicoDet/ckpt/"
SHA256 = {
    "model.pdmodel": "da078fd535d21b3ef57e81f67e7e8f68514c4d38f1cb7df02f135966f4b1119f",
    "model.pdiparams": "e3922b2a8f1bc0d9ee9dce7152484f6a8a7d40f18f8701a222c884469b4546f2",
}
SUPPRESSION = "MulticlassNms"  # the node whose two inputs are all boxes and all scores
TIMEOUT = 900  # seconds for pip


class PicoDetDetector(Detector):
    """PP-PicoDet-S through OpenVINO, on the CPU: pixels stretched to 416 x 416, all 3598 proposals.

    It has no objectness, see `Proposals.from_scores`, and no gradients.

    Parameters
    ----------
    folder : Path
        Holds the two files of `SHA256`; they are checked.

    Raises
    ------
    WeightsError
        A file that is missing or damaged.
    InputError
        OpenVINO is not installed.
    """

    thread_safe = True

    def __init__(self, folder: Path) -> None:
        for name, expected in SHA256.items():
            try:
                found = sha256(folder / name)
            except OSError as error:
                raise WeightsError(f"{folder / name} cannot be read: {error.strerror or error}") from error
            if found != expected:
                raise WeightsError(
                    f"{folder / name} is damaged: its sha256 is {found}, expected {expected}. "
                    "Delete it, and it is fetched again."
                )
        self.folder = folder
        self._mean, self._std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
        provenance = {"weights": WHEEL, "weights_sha256": SHA256["model.pdiparams"]}
        super().__init__(NAME, COCO_CLASSES, provenance=provenance | {"weights_official": True})
        _ = self._network  # opened here: without OpenVINO a run must not start

    @cached_property
    def _network(self) -> OpenVinoSession:
        """The compiled network up to the suppression, which D-CLOSE does without."""
        try:
            openvino = load_openvino()
        except ImportError as error:
            raise InputError(f"{NAME} needs OpenVINO: pip install openvino ({error})") from error
        model = openvino.Core().read_model(str(self.folder / "model.pdmodel"))
        (last,) = (node for node in model.get_ops() if node.get_type_name() == SUPPRESSION)
        proposals = [last.input(k).get_source_output() for k in (0, 1)]
        inputs = {node.get_friendly_name(): node for node in model.get_parameters()}
        return OpenVinoSession(openvino.Model(proposals, [inputs["image"], inputs["scale_factor"]]))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_network"}  # made anew

    def prepare(self, image: np.ndarray) -> Canvas:
        return stretch(image, (SIZE, SIZE), self.device, interpolation=cv2.INTER_CUBIC)

    def predict(self, pixels: torch.Tensor) -> Proposals:
        images = (pixels - self._mean) / self._std
        boxes, scores = self._network.run(images, torch.ones(1, 2))  # a scale of 1: boxes in canvas pixels
        return Proposals.from_scores(boxes, scores.transpose(1, 2))


def load() -> PicoDetDetector:
    """PP-PicoDet-S, trained on COCO. Its files are fetched by pip if they are not at hand.

    Raises
    ------
    MissingWeights
        Files that are neither at hand nor to be fetched.
    WeightsError
        A file that is damaged.
    """
    kept = folder()
    if not _is_at_hand(kept):
        fetch(kept)
    return PicoDetDetector(kept)


def missing() -> str:
    """Why the two files cannot be had; empty where they are at hand or were fetched now."""
    return why_missing(folder, _is_at_hand, fetch)


def _is_at_hand(kept: Path) -> bool:
    return all((kept / name).exists() for name in SHA256)


def folder() -> Path:
    """Where the two files are kept: in the user's cache. An account without any raises `MissingWeights`."""
    try:
        cache = Path(pooch.os_cache("dclose_nb"))
    except RuntimeError:  # its "~" stands for no folder
        cache = Path()
    if not cache.is_absolute():  # as it is with older packages
        raise MissingWeights(f"there is no home folder to keep {NAME} in: set HOME or XDG_CACHE_HOME")
    return cache / NAME


def fetch(kept: Path, run: Callable[..., Any] = subprocess.run) -> None:
    """Fetch the two files to a folder by ``pip download``, which knows the user's index and proxy.

    pip checks the wheel against its sha256, and each file is checked again. Each takes its place
    whole, so that two fetches at once do no harm.
    """
    missing = f"{NAME} is not in {kept} and could not be fetched as {WHEEL} by pip"
    print(f"fetching {WHEEL} by pip to {kept}, 64 MB", file=sys.stderr, flush=True)
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as hidden:
            listed = Path(hidden) / "requirements.txt"
            listed.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
            download = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
            quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries=1"]
            where = ["--dest", hidden, "--require-hashes", "--requirement", str(listed)]
            done = run(
                [*download, *quiet, *where],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
            if done.returncode:
                lines = [line for line in (done.stderr or "").splitlines() if line.strip()]
                errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no reason given"]
                raise MissingWeights(f"{missing}: {errors[-1].removeprefix('ERROR: ')}")
            (wheel,) = Path(hidden).glob("*.whl")
            with zipfile.ZipFile(wheel) as opened:
                contents = {name: opened.read(INSIDE + name) for name in SHA256}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != SHA256[name]:
                raise MissingWeights(f"{missing}: the wheel's {name} is another")
            with atomic_write(kept / name) as unfinished:
                unfinished.write_bytes(content)
    except subprocess.TimeoutExpired:
        raise MissingWeights(f"{missing}: it took more than {TIMEOUT // 60} minutes") from None
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise MissingWeights(f"{missing}: the wheel is damaged ({error})") from error
    except MissingWeights:
        raise
    except OSError as error:
        raise MissingWeights(f"{missing}: {error.strerror or error}") from error
