"""What an explanation leaves on disk, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from . import checks, page, plot
from .checks import InputError
from .explanation import Explanation

MANIFEST, PAGE = "manifest.json", "report.html"
_OURS = re.compile(r"(overlay_\d+_[\w-]+|sheet)\.(png|pdf)|maps\.npz|manifest\.json|report\.html")


@contextmanager
def staged(folder: str | Path, *, html: bool = True) -> Iterator[Path]:
    """Give a hidden folder to write in; what it holds moves to `folder` when all went well.

    Entered before long work, it shows at once whether `folder` can be written. Left by an error
    or Ctrl-C, it leaves nothing behind. The old manifest goes first and the new one comes last, so
    that a folder with a manifest is whole. Figures that only the old one named are removed. `html`
    says whether a page is to be among the new ones.

    Raises
    ------
    InputError
        `folder` cannot be made or written, or holds files of these names that are not an
        explanation's.
    """
    folder = checks.path(folder)
    made = [part for part in (folder, *folder.parents) if not part.exists()]  # innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"cannot write to the folder {str(folder)!r}: {error.strerror or error}") from error
    try:
        old = _files_of(folder)
        always = {"sheet.png", "sheet.pdf", "maps.npz", MANIFEST}
        _refuse_foreign(folder, (always | {PAGE} if html else always) - old)
        yield stage
        new = {file.name for file in stage.iterdir()}
        _refuse_foreign(folder, new - old)
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in sorted(new, key=lambda name: name == MANIFEST):
            os.replace(stage / name, folder / name)
        for name in old - new:
            (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        _remove_empty(made)


def _files_of(folder: Path) -> set[str]:
    """Files that the folder's manifest names and that can be ours."""
    try:
        named = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name for name in named if _OURS.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _refuse_foreign(folder: Path, names: set[str]) -> None:
    foreign = sorted(name for name in names if (folder / name).exists())
    if foreign:
        raise InputError(
            f"{str(folder / foreign[0])!r} is not an explanation's and would be lost: choose another folder"
        )


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not empty, or never made
            folder.rmdir()


def write(explanation: Explanation, folder: str | Path, *, photo: str | None = None) -> Path:
    """Write an explanation: figures as PNG and PDF, a page, maps as NumPy archive, manifest as JSON.

    Parameters
    ----------
    explanation : Explanation
    folder : path
        Made where it does not exist. Files of an earlier explanation in it are replaced.
    photo : str, optional
        What the image is called, for the manifest.

    Returns
    -------
    Path
        The folder, with ``overlay_NN_LABEL.png`` a detection, ``sheet.png``, ``report.html`` (one
        file to open in a browser or to pass on), ``maps.npz`` (the arrays of `Explanation` and of
        `Detections`) and ``manifest.json``.

    Raises
    ------
    InputError
        As `staged`.
    """
    with staged(folder) as stage:
        fill(stage, explanation, photo=photo)
    return checks.path(folder)


def fill(stage: Path, explanation: Explanation, *, photo: str | None = None, html: bool = True) -> None:
    """Write an explanation's files to a staged folder, with a page or without."""
    for k, one in enumerate(explanation):
        _figure(plot.explanation(one), stage / overlay_name(explanation, k))
    _figure(plot.sheet(explanation), stage / "sheet")
    np.savez_compressed(stage / "maps.npz", **_arrays(explanation))
    manifest = _manifest(explanation, photo)
    names = [*(file.name for file in stage.iterdir()), MANIFEST]
    manifest["files"] = sorted([*names, PAGE] if html else names)
    if html:
        content = page.explanation(explanation, manifest)
        (stage / PAGE).write_text(content, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")
    (stage / MANIFEST).write_text(json.dumps(manifest, indent=2, default=str) + "\n", encoding="utf-8")


def overlay_name(explanation: Explanation, index: int) -> str:
    """File name of a detection's overlay, without its ending."""
    label = re.sub(r"[^a-z0-9]+", "-", explanation.detections.names[index].lower()).strip("-") or "object"
    return f"overlay_{index + 1:02d}_{label[:40]}"


def _figure(axes: np.ndarray, path: Path) -> None:
    figure = axes[0].figure
    for ending in (".png", ".pdf"):
        figure.savefig(path.with_name(path.name + ending), dpi=150)
    plt.close(figure)


def _arrays(explanation: Explanation) -> dict[str, Any]:
    found = explanation.detections
    arrays = {
        "saliency": explanation.saliency,
        "boxes": found.boxes,
        "objectness": found.objectness,
        "class_probs": found.class_probs,
        "class_names": np.array(found.class_names),
    }
    for name in ("levels", "density"):
        if getattr(explanation, name) is not None:
            arrays[name] = getattr(explanation, name)
    return arrays


def _manifest(explanation: Explanation, photo: str | None) -> dict[str, Any]:
    found = explanation.detections
    height, width = explanation.image.shape[:2]
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "image": {
            "photo": photo,
            "height": height,
            "width": width,
            "sha256": hashlib.sha256(explanation.image.tobytes()).hexdigest(),
        },
        "method": explanation.method,
        "params": explanation.params,
        "n_forward": explanation.n_forward,
        "seconds": round(explanation.seconds, 3),
        **explanation.provenance,
        "objects": [
            {
                "label": found.names[k],
                "score": round(float(found.scores[k]), 4),
                "box_xyxy": [round(float(edge), 2) for edge in found.boxes[k]],
                "overlay": overlay_name(explanation, k) + ".png",
            }
            for k in range(len(found))
        ],
    }
