"""What the figures are made with: pictures in which cases are found, and maps that are made once."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..detection import Detections, Detector
from ..explanation import Explanation, explain, parameters, versions
from ..files import atomic_write, write_errors
from ..studies.records import Record
from .pictures import Look, Pool, Subject

Found = TypeVar("Found")


class MissingCase(Exception):
    """Nothing to draw a figure of; the message is a sentence that says why."""


class Studio:
    """What the functions that draw take from: pools of pictures, and maps that are made once.

    Parameters
    ----------
    pools : sequence of Pool
        Where a case is looked for, one after the other.
    folder : path
        Maps are kept in its folder ``maps``, so that a run that was stopped goes on with them.
    n_masks : int, optional
        Budget of each map, by default the methods' own.
    seed : int
    progress : bool
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        folder: Path,
        *,
        n_masks: int | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.pools, self.folder = pools, folder
        self.n_masks, self.seed, self.progress = n_masks, seed, progress
        self.notes: list[str] = []  # of the figure in hand
        self.maps: list[Record] = []

    def find(self, what: str, look: Callable[[Pool], Found | None]) -> Found | None:
        """What the first pool has that has any; a note says where a later one stands in, or none."""
        for pool in self.pools:
            if found := look(pool):
                if pool is not self.pools[0]:
                    self.notes.append(f"No {what} was found in {self.pools[0].name}; {pool.name} stand in.")
                return found
        self.notes.append(f"No {what} was found in {' or '.join(pool.name for pool in self.pools)}.")
        return None

    def subject(self, number: int, labels: Collection[str] = ()) -> Subject:
        """A detection to explain, of one of some labels where there is one.

        Other numbers give other pictures, as far as there are enough.
        """
        subjects = self.find("detection", lambda pool: pool.subjects)
        if not subjects:
            raise MissingCase("There is nothing to explain.")
        wanted = [one for one in subjects if one.target.names[0] in labels]
        return (wanted or subjects)[number % len(wanted or subjects)]

    def explain(
        self, look: Look, targets: Detections, *, levels: bool = False, **options: Any
    ) -> Explanation:
        """`explain` targets in a picture, or what that gave before.

        `levels` says whether they, and the density, are wanted.
        """
        detector, image = look.detector, look.image
        options = {"n_masks": self.n_masks, "seed": self.seed} | options
        method, params = options.get("method", "dclose"), parameters(**options)
        path = self.folder / "maps" / f"{_key(detector, image, targets, method, params)}.npz"
        kept = _read(path)
        if kept is None or (levels and "levels" not in kept):
            made = explain(detector, image, targets, progress=self.progress, **options)
            kept = {
                "saliency": made.saliency,
                "n_forward": np.array(made.n_forward),
                "seconds": np.array(made.seconds),
            }
            if levels and made.levels is not None and made.density is not None:
                kept |= {"levels": made.levels, "density": made.density}
            with write_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as unfinished, unfinished.open("wb") as file:
                    np.savez_compressed(file, **kept)  # type: ignore[arg-type]
        explanation = Explanation(
            saliency=kept["saliency"],
            levels=kept.get("levels"),
            density=kept.get("density"),
            error=None,
            relative_error=None,
            detections=targets,
            image=image,
            method=method,
            params=params,
            n_forward=int(kept["n_forward"]),
            seconds=float(kept["seconds"]),
            provenance={"detector": {"name": detector.name, **detector.provenance}, "versions": versions()},
        )
        self.maps.append(_line(explanation, look.picture.name))
        return explanation


def _key(detector: Detector, image: np.ndarray, targets: Detections, method: str, params: Record) -> str:
    """What a map depends on, as a name."""
    arrays = image, targets.boxes, targets.objectness, targets.class_probs
    said = [detector.name, detector.provenance, versions()["dclose_nb"], method, image.shape]
    said += [hashlib.sha256(one.tobytes()).hexdigest() for one in arrays]
    said.append({name: value for name, value in params.items() if name != "batch_size"})
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:20]


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file, or None where there is none that is whole."""
    with suppress(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile), np.load(path) as file:
        return dict(file)
    return None


def _line(explanation: Explanation, name: str) -> Record:
    """How a map was made, for the gallery."""
    found, params = explanation.detections, explanation.params
    return {
        "picture": name,
        "objects": [f"{label} {score:.2f}" for label, score in zip(found.names, found.scores)],
        "detector": explanation.provenance["detector"],
        "method": explanation.method,
        "n_masks": params.get("n_masks"),
        "seed": params.get("seed"),
        "n_forward": explanation.n_forward,
        "seconds": round(explanation.seconds, 1),
    }
