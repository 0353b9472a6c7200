"""``dclose-nb figures``: files of the figures, the page that shows them, and a record of each."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt

from .. import checks, plot
from ..checks import InputError
from ..detection import Detector
from ..detectors import MissingWeights, load_detector
from ..detectors.planted import NETWORKS
from ..explanation import versions
from ..files import atomic_write, owned, read_json, refuse_foreign, sha256, write_errors
from ..reports import document, table
from ..studies.records import Record
from ..studies.runner import DetectorSource, detector_of
from . import cases
from .cases import FigureInputs, MissingCase, PictureSource
from .figures import FIGURES, photographs

RECORDS, GALLERY = "figures.json", "index.html"


def make(
    out: str | Path,
    *,
    detector: str | DetectorSource | Detector = "yolox_nano",
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
    detector : str, DetectorSource or Detector
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
        cannot be written, to which another run writes, or that holds files of these names that are
        another's.
    """
    for number in only:
        if number not in FIGURES:
            raise InputError(f"the paper's figures have the numbers 1 to {max(FIGURES)}, got {number!r}")
    if n_masks is not None:
        checks.at_least("n_masks", n_masks, 40)  # an eighth is one for each of five levels
    checks.at_least("seed", seed, 0)
    out = checks.path(out)
    with owned(out):
        sources, notes = _sources(detector, coco, photos)
        sources = [replace(source, progress=progress) for source in sources]
        records = _read_records(out)
        with write_errors(out):
            _write_records(out, records)
        for number in sorted({int(number) for number in only}):
            inputs = FigureInputs(sources, out, n_masks, seed, progress, notes=list(notes))
            settings = _settings(inputs, number)
            old = records.get(number, {"settings": None, "files": []})
            there = old["settings"] == settings and all((out / name).is_file() for name in old["files"])
            if progress:
                what = "there already" if there else FIGURES[number][0]
                print(f"figure {number}: {what}", file=sys.stderr, flush=True)
            if not there:
                records[number] = _make(inputs, number, settings)
                with write_errors(out):
                    _write_records(out, records)
    return records


def _sources(
    detector: str | DetectorSource | Detector, coco: str | Path | None, photos: Sequence[str]
) -> tuple[list[PictureSource], list[str]]:
    """Where cases are looked for, in order, and what to say of weights that are missing."""
    planted = cases.planted_scenes(load_detector("planted"))
    try:
        loaded = detector_of(detector)
    except MissingWeights as error:
        warnings.warn(str(error), stacklevel=3)
        why = f"The weights of {detector} are missing: drawn scenes and the planted detector stand in."
        return [planted], [why]
    sources = [cases.from_photos(loaded, photos)] if photos else []
    sources += [cases.from_coco(loaded, coco)] if coco is not None else []
    if loaded.name in NETWORKS:
        return [*sources, cases.planted_scenes(loaded)], []
    ship = cases.shipped_photos(loaded)
    known = {label for picture in ship.pictures if picture.truth for label in picture.truth.labels}
    if known <= set(loaded.class_names):
        sources.append(ship)
    return [*sources, planted], []


def _settings(inputs: FigureInputs, number: int) -> Record:
    """What decides a figure."""
    detector = inputs.sources[0].detector
    settings: Record = {
        "detector": {"name": detector.name, **detector.provenance},
        "pictures": [source.identity for source in inputs.sources],
        "n_masks": inputs.n_masks,
        "seed": inputs.seed,
        "dclose_nb": versions()["dclose_nb"],
    }
    if number == 8:
        settings["photographs"] = {
            name: [(file.name, sha256(file)) for file in files] for name, files in photographs().items()
        }
    return json.loads(json.dumps(settings, default=str))


def _files(number: int) -> list[str]:
    return [f"figure_{number:02d}.png", f"figure_{number:02d}.pdf"]


@contextmanager
def _own_figures_closed() -> Iterator[None]:
    """Close the figures that are opened meanwhile, also those that are left half drawn, and no others."""
    others = set(plt.get_fignums())
    try:
        yield
    finally:
        for number in set(plt.get_fignums()) - others:
            plt.close(number)


def _make(inputs: FigureInputs, number: int, settings: Record) -> Record:
    """Draw a figure and write its files, or remove those of before where it is missing now."""
    start = time.perf_counter()
    title, draw = FIGURES[number]
    with _own_figures_closed():
        try:
            figure, caption = draw(inputs)
        except MissingCase as error:
            figure, caption = None, str(error)
        seconds = time.perf_counter() - start
        with write_errors(inputs.folder):
            for name in _files(number):
                if figure is None:
                    (inputs.folder / name).unlink(missing_ok=True)
                else:
                    plot.save(figure, inputs.folder / name)
    return {
        "title": title,
        "caption": caption,
        "notes": list(dict.fromkeys(inputs.notes)),
        "maps": inputs.maps,
        "seconds": round(seconds, 1),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "files": [] if figure is None else _files(number),
    }


def _read_records(folder: Path) -> dict[int, Record]:
    """Records of the figures that were made in a folder before."""
    path = folder / RECORDS
    if not path.exists():
        names = [GALLERY, *(name for number in FIGURES for name in _files(number))]
        refuse_foreign(folder, names, "none of the figures made here")
        return {}
    try:
        found = read_json(path)["figures"]
        records = {int(number): record for number, record in found.items()}
        _page(records)  # fails for records that are not ours
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is damaged: choose another folder") from error
    return records


def _write_records(folder: Path, records: dict[int, Record]) -> None:
    """Write ``figures.json`` and the page."""
    records = dict(sorted(records.items()))
    content = json.dumps({"figures": records}, indent=2) + "\n"
    for name, text in ((RECORDS, content), (GALLERY, _page(records))):
        with atomic_write(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


def _page(records: dict[int, Record]) -> str:
    """The page of the figures: each with its caption and how it was made. Pictures lie beside it."""
    body = (
        "<p>The figures of Truong et al. 2023, <cite>Towards Better Explanations for Object "
        "Detection</cite>, arranged as there and made anew with pictures and a detector at hand.</p>\n"
    )
    for number, record in records.items():
        title = f"Figure {number}. {escape(record['title'])}"
        body += f'<section id="figure-{number}">\n<h2>{title}</h2>\n<figure>\n'
        names = [escape(name) for name in record["files"]]
        for name in (name for name in names if name.endswith(".png")):
            body += f'<a href="{name}"><img src="{name}" alt="{title}"></a>\n'
        links = " ".join(f'<a href="{name}">{name[-3:].upper()}</a>' for name in names)
        body += f"<figcaption>{escape(record['caption'])} {links}</figcaption>\n</figure>\n"
        body += "".join(f'<p class="note">{escape(note)}</p>\n' for note in record["notes"])
        body += f"{_provenance(record)}</section>\n"
    return document("D-CLOSE: the figures", body, images="'self' file:")


def _provenance(record: Record) -> str:
    """How a figure was made, folded."""
    head = ["picture", "explained", "detector", "method", "masks", "seed", "passes", "seconds"]
    keys = "method", "n_masks", "seed", "n_forward", "seconds"
    rows = [
        [used["picture"], ", ".join(used["objects"]), used["detector"]["name"], *(used[key] for key in keys)]
        for used in record["maps"]
    ]
    rows = [[escape(str(cell)) for cell in row] for row in rows]
    settings = json.dumps(record["settings"], indent=2, default=str, ensure_ascii=False)
    return (
        f"<details><summary>How it was made</summary>\n{table(head, rows, numbers=4) if rows else ''}"
        f"<p>Made {escape(record['made'])} in {escape(str(record['seconds']))} s, without the time of maps "
        f"that were there already.</p>\n<pre>{escape(settings)}</pre></details>\n"
    )
