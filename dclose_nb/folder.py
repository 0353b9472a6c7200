"""Many photos in one run: a report of each, a page that lists them, and a table of their detections.

``OUT/index.html`` links to ``OUT/NAME/report.html`` of each photo. ``OUT/detections.csv`` and ``.jsonl`` have
a row for each detection, with the columns `COLUMNS`. Runs resume as studies do, see `studies.runner`.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import operator
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from . import checks, metrics, plot, reports
from .checks import InputError
from .detection import Detections, Detector, one_hot
from .explanation import Explanation, explain, own_files, staged
from .files import MANIFEST, atomic_write, owned, read_json, refuse_foreign, sha256, write_errors
from .images import FORMATS, load_photo
from .methods import Method, OwnWay, make
from .similarity import QUESTIONS
from .studies.records import Record
from .studies.runner import DetectorSource, Task, detector_of, run_study

INDEX, CSV, JSONL = "index.html", "detections.csv", "detections.jsonl"
THUMBNAIL, THUMBNAIL_SIZE = "thumbnail.jpg", 160  # pixels of its longer side
BOX = "x1", "y1", "x2", "y2"
NUMBERS = "score", *BOX, "outside", "ebpg", "sparsity", "error", "passes", "seconds"  # see `detection_rows`
COLUMNS = "photo", "report", "label", *NUMBERS
MANY = 50  # objects to explain in a photo
SHOWN = 5  # objects of a photo that the index names
COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


class Choice(NamedTuple):
    """Which detections of a photo are explained."""

    confidence: float = 0.25  # lowest score
    labels: Sequence[str] | None = None  # only of these classes
    top: int | None = None  # only so many, the best

    def detect(self, detector: Detector, image: np.ndarray) -> Detections:
        """The detections in an image (H, W, 3); a warning says if they are many."""
        found = detector.detect(image, confidence=self.confidence)
        found = found[self.wanted(detector)[found.labels]][: self.top]
        if len(found) > MANY:
            checks.warn(
                f"{len(found)} objects take long and much memory: choose with --top, --confidence, --labels"
            )
        return found

    def wanted(self, detector: Detector) -> np.ndarray:
        """Which of a detector's C classes, (C,) bool; a class that it does not have raises `InputError`."""
        names = detector.class_names
        return (
            np.full(len(names), True)
            if self.labels is None
            else one_hot(self.labels, names).max(0, initial=0) > 0
        )


class Condition(NamedTuple):
    """A comparison of a number of a detection, for example ``outside > 0.5``."""

    column: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a column of `NUMBERS`, one of > >= < <=, and a number; anything else raises `InputError`."""
        parts = re.fullmatch(r"\s*(\w+)\s*([<>]=?)\s*([-+.\de]+)\s*", text)
        try:
            column, sign, number = parts.groups() if parts else ("", "", "")
            bound = float(number)
        except ValueError:
            raise InputError(
                f'a condition is a column, one of {" ".join(COMPARE)} and a number, as "outside > 0.5", '
                f"got {text!r}"
            ) from None
        return cls(checks.choice("the column of a condition", column, NUMBERS), sign, bound)

    def __str__(self) -> str:
        return f"{self.column} {self.sign} {self.bound:g}"

    def holds(self, row: Record) -> bool:
        """Whether it holds for a detection; for one without this number it does not."""
        value = row[self.column]
        return value is not None and COMPARE[self.sign](value, self.bound)


def find_photos(names: Iterable[str]) -> list[str]:
    """Photos by their names, each once: as `images.load_photo` takes them, or many at once.

    A folder stands for the image files in it (by their endings, sorted, not those of folders in it). A
    pattern such as ``photos/**/*.jpg`` stands for the files that it matches, and a .json file in COCO format
    for the images that it names, which lie as for `studies.coco.read_coco`. Pictures that belong to an
    explanation in a folder are left out. A folder, pattern or file without any raises `InputError`.
    """
    found: dict[str, str] = {}
    for name in names:
        for photo in _photos_of(name):
            found.setdefault(os.path.abspath(photo), photo)
    return list(found.values())


def _photos_of(name: str) -> list[str]:
    name = os.path.expanduser(name)  # a shell leaves ~ in quoted patterns
    if os.path.isdir(name):
        endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
        with os.scandir(name) as entries:
            files = [entry.path for entry in entries if not entry.name.startswith(".") and entry.is_file()]
        photos = _without_drawings(file for file in files if os.path.splitext(file)[1].lower() in endings)
        lacking = f"the folder {name!r} holds no image file"
    elif name.lower().endswith(".json"):
        photos = _coco_photos(Path(name))
        lacking = f"{name!r} names no image"
    elif glob.has_magic(name) and not os.path.exists(name):
        photos = _without_drawings(filter(os.path.isfile, glob.iglob(name, recursive=True)))
        lacking = f"no file matches {name!r}"
    else:
        return [name]
    if not photos:
        raise InputError(lacking)
    return photos


def _without_drawings(files: Iterable[str]) -> list[str]:
    """Files, sorted, without the pictures that belong to explanations."""
    drawn = cache(own_files)  # asked once for each folder
    return sorted(file for file in files if os.path.basename(file) not in drawn(Path(file).parent))


def _coco_photos(path: Path) -> list[str]:
    """Images that an annotation file names."""
    from .studies.coco import image_file  # which brings scikit-learn and pycocotools

    folder = path.parent.parent / path.stem.removeprefix("instances_")
    try:
        return [str(image_file(folder, entry)) for entry in read_json(path)["images"]]
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is damaged or not in COCO's format: {error!r}") from error


def check_options(choice: Choice, *, method: str, n_masks: Any, seed: Any, question: Any) -> Method | OwnWay:
    """The method that is asked for. What cannot work for any photo raises `InputError`."""
    checks.fraction("confidence", choice.confidence)
    if choice.top is not None:
        checks.at_least("top", choice.top, 1)
    checks.at_least("seed", seed, 0)
    checks.choice("question", question, QUESTIONS)
    made = make(method, n_masks=None if n_masks == "auto" else n_masks)
    if n_masks == "auto" and not isinstance(made, Method):
        raise InputError(f"{method} draws no masks, so that n_masks cannot be 'auto'")
    return made


def explain_photos(
    photos: Sequence[str],
    out: str | Path,
    detector: str | DetectorSource | Detector,
    choice: Choice,
    *,
    method: str = "dclose",
    n_masks: Any = None,
    seed: int = 0,
    question: Any = "all",
    workers: int = 1,
    progress: bool = True,
) -> list[Record]:
    """Explain photos, or go on where a run was stopped.

    Parameters
    ----------
    photos : sequence of str
        Each as `images.load_photo` takes it; `find_photos` lists those of a folder.
    out : path
        Gets a folder for each photo, with ``report.html``, a thumbnail and the two files of
        `Explanation.save`; ``records.jsonl`` and ``manifest.json`` of the run; and at the end the page and
        the tables. A photo that was done with these settings is done again only if its file has changed or
        its report is not there.
    detector : str, DetectorSource or Detector
        With a name or a source, each worker loads its own; a `Detector` is sent to the workers.
    workers, progress
        See `studies.runner.run_study`.
    choice : Choice
    method, n_masks, seed, question
        See `explain`.

    Returns
    -------
    list of dict
        For each photo ``photo``, and ``error`` where it cannot be explained, else its folder ``report``, the
        ``sha256`` of its file, and ``detections``, the rows of the tables; see `detection_rows`.

    Raises
    ------
    InputError
        A folder that cannot be written, or holds somebody else's files, photos of other settings or the
        maps of another photo of the same name; an argument out of range.
    """
    options = {"method": method, "n_masks": n_masks, "seed": seed, "question": question}
    check_options(choice, **options)
    out, loaded = checks.path(out), detector_of(detector)
    choice.wanted(loaded)
    if not (out / "records.jsonl").exists():
        refuse_foreign(out, (INDEX, CSV, JSONL), "not of explained photos")
    known = {"name": loaded.name, **loaded.provenance}
    names = ", ".join(loaded.class_names)
    settings = {"detector": known, "class_names": names, **options, **choice._asdict()}
    settings = json.loads(json.dumps(settings, default=str))
    folders = _folders(photos)
    for photo, folder in folders.items():
        refuse_another(out / folder, photo)
    tasks = [
        Task({"photo": photo}, (detector, photo, out / folder, choice, options))
        for photo, folder in folders.items()
    ]

    def stale(line: Record) -> bool:
        folder = folders.get(line["photo"])
        if folder is None:  # of another command
            return False
        there = line.get("report") == folder and photo_of(out / folder) == line["photo"]
        there &= (out / folder / reports.PAGE).is_file()
        return not there or line["sha256"] != _sum_of(line["photo"])

    records = run_study(out, settings, tasks, _explain_photo, workers=workers, progress=progress, stale=stale)
    by_photo = {line["photo"]: line for line in records.lines}
    lines = [by_photo[photo] for photo in folders]
    with owned(out), write_errors(out):
        _write_index(out, lines, settings)
    return lines


def _folders(photos: Iterable[str]) -> dict[str, str]:
    """The folder of each photo, named after it; where names are alike, with part of the path's sha256."""
    names = {photo: re.sub(r"[^\w-]+", "-", Path(photo).stem).strip("-")[:60] or "photo" for photo in photos}
    counts = Counter(name.casefold() for name in names.values())
    for photo, name in names.items():
        if counts[name.casefold()] > 1:
            names[photo] = f"{name}_{hashlib.sha256(os.fsencode(photo)).hexdigest()[:8]}"
    return names


def photo_of(folder: Path) -> str | None:
    """The photo whose explanation a folder holds; None if it holds none, or one without a photo's name."""
    try:
        photo = read_json(folder / MANIFEST)["image"]["photo"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return photo if isinstance(photo, str) else None


def refuse_another(folder: Path, photo: str) -> None:
    """Refuse a folder that holds the maps of another photo, which may have the same name."""
    there = photo_of(folder)
    if there is not None and Path(there).resolve() != Path(photo).resolve():
        raise InputError(f"{str(folder)!r} holds the maps of {there!r}: choose another with --out")


def _sum_of(photo: str) -> str | None:
    """sha256 of a photo's file; None for a photo that ships, a drawn scene or a file that cannot be read."""
    with suppress(OSError, InputError):
        return sha256(checks.path(photo))
    return None


def _explain_photo(
    detector: str | DetectorSource | Detector,
    photo: str,
    folder: Path,
    choice: Choice,
    options: Record,
) -> Record:
    loaded = detector_of(detector)
    try:
        known = _sum_of(photo)  # first: if the file is replaced now, the photo is done again next time
        image = load_photo(photo)
        explanation = explain(loaded, image, choice.detect(loaded, image), progress=False, **options)
    except Exception as error:  # a detector may be anybody's code; the other photos go on
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        return {"error": kind + " ".join(str(error).split())}
    explanation = replace(explanation, n_forward=explanation.n_forward + 1)  # the detection before
    with staged(folder, {reports.PAGE, THUMBNAIL}) as stage:
        small = Image.fromarray(plot.fit(explanation.image, THUMBNAIL_SIZE))
        with write_errors(stage):
            small.save(stage / THUMBNAIL, quality=80)
        reports.write(stage, explanation, photo=photo, figures=False)
    return {"report": folder.name, "sha256": known, "detections": detection_rows(explanation, photo, folder)}


def detection_rows(explanation: Explanation, photo: str, folder: Path) -> list[Record]:
    """A row of `COLUMNS` for each detection.

    ``outside`` is the share of the map's energy outside the box, 1 - ``ebpg``. ``error`` is the mean standard
    error of the map scaled to [0, 1], None where the method gives none. ``passes`` and ``seconds`` are those
    of the whole photo. The rest is described in `metrics`; boxes are in pixels.
    """
    rows = []
    for single in explanation:
        found, saliency = single.detections, single.saliency[0]
        ebpg = metrics.ebpg(saliency, found.boxes[0])
        numbers = [
            *(round(float(found.scores[0]), 4), *(round(edge, 1) for edge in found.boxes[0].tolist())),
            *(round(1 - ebpg, 4), round(ebpg, 4), round(metrics.sparsity(saliency), 2)),
            None if single.error is None else round(float(single.error.mean()), 4),
            *(explanation.n_forward, round(explanation.seconds, 2)),
        ]
        rows.append(dict(zip(COLUMNS, (photo, folder.name, found.names[0], *numbers))))
    return rows


def _write_index(out: Path, lines: Sequence[Record], settings: Record) -> None:
    """Write the page and the tables."""
    rows = [row for line in lines for row in line.get("detections", ())]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for name, text in (
        (CSV, table.getvalue()),
        (JSONL, "".join(f"{json.dumps(row)}\n" for row in rows)),
        (INDEX, _page(lines, settings)),
    ):
        with atomic_write(out / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


def summary(lines: Sequence[Record]) -> str:
    """How many photos were explained, are empty, and failed, in words."""
    failed = sum("error" in line for line in lines)
    empty = sum(not line["detections"] for line in lines if "error" not in line)
    parts = [f"{len(lines)} photo{'s' * (len(lines) > 1)}: {len(lines) - failed - empty} explained"]
    parts += [f"{empty} without an object"] if empty else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join(parts)


def _page(lines: Sequence[Record], settings: Record) -> str:
    """The page that lists the photos; thumbnails and reports lie in the folders beside it."""
    head = ["", "photo", "found", "objects", "outside", "error", "passes", "seconds"]
    body = (
        f'<p>The detections are in <a href="{CSV}">{CSV}</a> and <a href="{JSONL}">{JSONL}</a>.</p>\n'
        '<p class="note">Outside: share of the map\'s energy outside the box. Error: mean standard error of '
        "the map scaled to [0, 1]. Both are the largest of the photo's objects. "
        '<span class="sorts">A click on a column\'s name sorts the table.</span></p>\n'
        f"{reports.table(head, [_row(line) for line in lines], numbers=5)}"
        "<h2>How it was made</h2>\n"
        f"<pre>{escape(json.dumps(settings, indent=2, ensure_ascii=False))}</pre>\n"
    )
    style, script = reports.asset("index.css"), reports.asset("index.js")
    return reports.document(summary(lines), body, style=style, script=script, images="'self' file:")


def _row(line: Record) -> list[str]:
    """Cells of a photo."""
    name = escape(line["photo"])
    if "error" in line:
        return ["", name, f'<span class="failed">{escape(line["error"])}</span>', *[""] * 5]
    page, found = f"{line['report']}/{reports.PAGE}", line["detections"]
    texts = [f"{escape(row['label'])} {row['score']:.2f}" for row in found[:SHOWN]]
    texts += [f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []
    image = f'<img src="{line["report"]}/{THUMBNAIL}" alt="" loading="lazy">'
    cells = [f'<a href="{page}" tabindex="-1">{image}</a>', f'<a href="{page}">{name}</a>']
    cells += [", ".join(texts) or "no object was found", str(len(found))]
    for column, text in (
        ("outside", "{:.2f}"),
        ("error", "{:.3f}"),
        ("passes", "{}"),
        ("seconds", "{:.1f}"),
    ):
        values = [row[column] for row in found if row[column] is not None]
        cells.append(text.format(max(values)) if values else "")
    return cells
