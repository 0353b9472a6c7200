"""``dclose-nb figures``: the figures, the page that shows them, and what is known of each."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .. import checks, page
from ..checks import InputError
from ..detection import Detector
from ..detectors import MissingWeights, load_detector
from ..detectors.planted import NETWORKS
from ..explanation import versions
from ..files import atomic_write, write_errors
from ..studies.records import Record
from . import pictures
from .figures import FIGURES, photographs
from .pictures import Pool
from .studio import MissingCase, Studio

RECORDS, GALLERY = "figures.json", "index.html"


def make(
    out: str | Path,
    *,
    detector: str | Detector = "yolox_nano",
    coco: str | Path | None = None,
    photos: Sequence[str] = (),
    n_masks: int | None = None,
    seed: int = 0,
    only: Sequence[int] = tuple(FIGURES),
    progress: bool = True,
) -> dict[int, Record]:
    """Make the figures, or go on where a run was stopped.

    Parameters
    ----------
    out : path
        ``figure_NN.png`` and ``.pdf``, ``index.html`` with all that are made, ``figures.json`` with
        how they were, ``maps/`` with the maps behind them. A figure that was made with these
        settings is left as it is.
    detector : str or Detector
        Where its weights are missing, the planted detector and its scenes stand in.
    coco : path, optional
        A folder of COCO in which the paper's kinds of cases are looked for.
    photos : sequence of str, optional
        Photos by name or path; they come before those of `coco`. Without either, photos that ship.
        Where a case is in none of the pictures, photos that ship and then drawn scenes stand in.
    n_masks : int, optional
        Budget of each map, by default the methods' own; of Fig. 9 the largest, by default 4000.
    seed : int
        Of the masks and of the shuffling.
    only : sequence of int
        Numbers of the figures.
    progress : bool

    Returns
    -------
    dict of int to dict
        For each number its record: ``caption``, ``notes``, ``maps`` and ``files``, which are none
        where the figure is missing; the notes then say why.

    Raises
    ------
    InputError
        An unknown figure, a number out of range, pictures that cannot be read, a folder that
        cannot be written or holds files of these names that are another's.
    """
    numbers = sorted({_number(one) for one in only})
    if n_masks is not None:
        checks.at_least("n_masks", n_masks, 40)  # an eighth is one for each of five levels
    checks.at_least("seed", seed, 0)
    out = checks.path(out)
    pools, why = _pools(detector, coco, photos)
    gallery = _Gallery(out)
    for number in numbers:
        studio = Studio(pools, out, n_masks=n_masks, seed=seed, progress=progress)
        settings = _settings(studio, number)
        if gallery.has(number, settings):
            _say(f"figure {number}: there already", progress)
            continue
        _say(f"figure {number}: {FIGURES[number].title}", progress)
        gallery.keep(number, settings, _draw(studio, number, why))
    return gallery.records


def _number(value: Any) -> int:
    if value not in FIGURES:
        raise InputError(f"the paper's figures have the numbers 1 to {max(FIGURES)}, got {value!r}")
    return int(value)


def _say(line: str, progress: bool) -> None:
    if progress:
        print(line, file=sys.stderr, flush=True)


def _pools(
    detector: str | Detector, coco: str | Path | None, photos: Sequence[str]
) -> tuple[list[Pool], list[str]]:
    """Where cases are looked for, in order, and what to say of weights that are missing."""
    try:
        loaded = load_detector(detector)
    except MissingWeights as error:
        warnings.warn(str(error), stacklevel=3)
        why = f"The weights of {detector} are missing: drawn scenes and the planted detector stand in."
        return [pictures.drawn("planted")], [why]
    pools = [pictures.of_photos(loaded, photos)] if photos else []
    pools += [pictures.of_coco(loaded, coco)] if coco is not None else []
    if loaded.name in NETWORKS:
        return [*pools, pictures.drawn(loaded)], []
    ship = pictures.that_ship(loaded)
    known = {label for one in ship.pictures if one.truth for label in one.truth.labels}
    if known <= set(loaded.class_names):
        pools.append(ship)
    return [*pools, pictures.drawn("planted")], []


def _settings(studio: Studio, number: int) -> Record:
    """What decides a figure."""
    detector = studio.pools[0].detector
    settings: Record = {
        "detector": {"name": detector.name, **detector.provenance},
        "pictures": [pool.identity for pool in studio.pools],
        "n_masks": studio.n_masks,
        "seed": studio.seed,
        "dclose_nb": versions()["dclose_nb"],
    }
    if number == 8:
        settings["photographs"] = {
            name: [file.name for file in files] for name, files in photographs().items()
        }
    return json.loads(json.dumps(settings, default=str))


class _Drawn(NamedTuple):
    figure: Figure | None
    caption: str
    notes: list[str]
    maps: list[Record]
    seconds: float


def _draw(studio: Studio, number: int, why: list[str]) -> _Drawn:
    start = time.perf_counter()
    try:
        figure, caption = FIGURES[number].draw(studio)
    except MissingCase as error:
        figure, caption = None, str(error)
    notes = list(dict.fromkeys([*why, *studio.notes]))
    return _Drawn(figure, caption, notes, studio.maps, time.perf_counter() - start)


class _Gallery:
    """The folder: figures, their records, and the page that shows them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / RECORDS
        if not path.exists():
            names = [RECORDS, GALLERY, *(name for number in FIGURES for name in self.files(number))]
            foreign = [name for name in names if (folder / name).exists()]
            if foreign:
                raise InputError(
                    f"{str(folder / foreign[0])!r} is none of the figures made here and would be lost: "
                    "choose another folder"
                )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.exists() else {}
            self.records: dict[int, Record] = {int(number): record for number, record in found.items()}
            self._page()  # refuses records that are not ours
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{str(path)!r} is damaged: choose another folder") from error
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._write()

    @staticmethod
    def files(number: int) -> list[str]:
        return [f"figure_{number:02d}.png", f"figure_{number:02d}.pdf"]

    def has(self, number: int, settings: Record) -> bool:
        record = self.records.get(number)
        if record is None or record["settings"] != settings:
            return False
        return all((self.folder / name).is_file() for name in record["files"])

    def keep(self, number: int, settings: Record, drawn: _Drawn) -> None:
        """Write a figure, then what is known of it."""
        with write_errors(self.folder):
            for name in self.files(number):
                if drawn.figure is None:
                    (self.folder / name).unlink(missing_ok=True)
                    continue
                with atomic_write(self.folder / name) as unfinished:
                    drawn.figure.savefig(unfinished, format=name[-3:], dpi=150)
            plt.close(drawn.figure)
            self.records[number] = {
                "title": FIGURES[number].title,
                "caption": drawn.caption,
                "notes": drawn.notes,
                "maps": drawn.maps,
                "seconds": round(drawn.seconds, 1),
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "settings": settings,
                "files": [] if drawn.figure is None else self.files(number),
            }
            self._write()

    def _write(self) -> None:
        content = json.dumps({"figures": dict(sorted(self.records.items()))}, indent=2) + "\n"
        for name, text in ((RECORDS, content), (GALLERY, self._page())):
            with atomic_write(self.folder / name) as unfinished:
                unfinished.write_text(text, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")

    def _page(self) -> str:
        return page.gallery(dict(sorted(self.records.items())))
