"""What is kept of an explanation: drawings, and a page that opens in a browser without a network.

Names from outside (of classes, of files) are escaped. The page's own policy lets nothing load or run
but what the page holds.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from . import checks, metrics, plot
from .checks import InputError
from .explanation import Explanation
from .explanation import staged as staged_explanation
from .files import MANIFEST, write_errors
from .fusion import min_max

PAGE = "report.html"
SCORES = {  # of a map, and what they mean
    "sparsity": "highest value over mean of the scaled map",
    "EBPG": "share of the map's energy in the box",
    "over-all": "insertion minus deletion",
}
FILLS = "the box fills the photo, so EBPG says nothing"  # where `fills` finds it
EM = 0.58  # width of a letter of a label on the page, as a share of the font's size


def report(
    explanation: Explanation,
    folder: str | Path,
    *,
    photo: str | None = None,
    html: bool = True,
    opacity: float = plot.OPACITY,
    threshold: float = 0,
) -> Path:
    """Write an explanation with its drawings to a folder, whole or not at all.

    Parameters
    ----------
    explanation : Explanation
    folder : path
        Made where it does not exist. Files of an earlier explanation in it are replaced.
    photo : str, optional
        What the image is called, for the manifest and the page.
    html : bool
        Whether to write the page.
    opacity, threshold : float
        Of the drawings, see `plot.blend`. The page begins with this opacity, and it hides lower values.

    Returns
    -------
    Path
        The folder, with ``overlay_NN_LABEL`` of each detection and ``sheet`` with all (PNG and PDF),
        ``report.html`` (one file to open in a browser or to pass on), and the two files of
        `Explanation.save`.

    Raises
    ------
    InputError
        A folder that cannot be made or written, or that holds somebody else's files of these names; an
        argument of another type or range.
    """
    if not isinstance(explanation, Explanation):
        kind = type(explanation).__name__
        raise InputError(f"explanation must be an Explanation, which dc.explain returns, got {kind}")
    if not isinstance(photo, str | None):
        raise InputError(f"photo must be a text, what the image is called, got {photo!r}")
    with staged(folder, html=checks.flag("html", html)) as stage:
        write(stage, explanation, photo=photo, html=html, opacity=opacity, threshold=threshold)
    return checks.path(folder)


def staged(folder: str | Path, *, html: bool = True) -> AbstractContextManager[Path]:
    """Give a hidden folder to `write` a report to, see `files.staged`."""
    return staged_explanation(folder, {"sheet.png", "sheet.pdf"} | ({PAGE} if html else set()))


def write(
    stage: Path,
    explanation: Explanation,
    *,
    photo: str | None = None,
    html: bool = True,
    figures: bool = True,
    **style: float,
) -> None:
    """Write a report's files to a `staged` folder, with or without overlays and sheet, which take seconds.

    The other parameters are those of `report`. Files that the folder holds already are the report's too.
    """
    if figures:
        bar = tqdm(explanation, unit="overlay", disable=len(explanation) < 5)  # about a second each
        for k, single in enumerate(bar):
            _save_figure(plot.explanation(single, **style), stage / overlay_name(explanation, k))
        _save_figure(plot.sheet(explanation, **style), stage / "sheet")
    drawings = tuple(file.name for file in stage.iterdir())
    explanation.write(stage, drawings=(*drawings, PAGE) if html else drawings, photo=photo)
    if html:
        manifest = json.loads((stage / MANIFEST).read_text(encoding="utf-8"))
        content = _page(explanation, manifest, **style)
        with write_errors(stage):
            (stage / PAGE).write_text(content, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


def overlay_name(explanation: Explanation, index: int) -> str:
    """File name of a detection's overlay, without its ending."""
    return f"overlay_{index + 1:02d}_{slug(explanation.detections.names[index])}"


def slug(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "object"


def _save_figure(axes: np.ndarray, path: Path) -> None:
    figure = axes[0].figure
    for ending in (".png", ".pdf"):
        plot.save(figure, path.with_name(path.name + ending), dpi=150)
    plt.close(figure)


def asset(name: str) -> str:
    """Text of a file in ``assets/``."""
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def document(title: str, body: str, *, style: str = "", script: str = "", images: str = "data:") -> str:
    """A whole page around a body of HTML.

    Parameters
    ----------
    title : str
        Escaped here; `body` is not.
    body : str
    style, script : str
        What this page needs beside ``report.css``.
    images : str
        Where pictures may come from, as a source of the Content-Security-Policy.
    """
    style = asset("report.css") + style
    scripts = _fingerprint(script) if script else "'none'"
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src {images}; "
        f"style-src {_fingerprint(style)}; script-src {scripts}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{escape(title)}</h1>\n{body}</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def _fingerprint(text: str) -> str:
    """What lets this very style or script through the policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """A table whose cells are HTML already; the last `numbers` columns stand to the right.

    On narrow pages a row becomes a list, in which each cell carries its head.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [""] * (len(cells) - numbers) + [' class="number"'] * numbers
        named = [f' data-head="{name}"' for name in head] or [""] * len(cells)
        parts = zip(kinds, named, cells)
        return f"<tr>{''.join(f'<{tag}{kind}{name}>{cell}</{tag}>' for kind, name, cell in parts)}</tr>\n"

    top = f"<thead>{line(head, 'th')}</thead>\n" if head else ""
    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>\n{top}<tbody>\n{body}</tbody>\n</table></div>\n'


def _page(
    explanation: Explanation,
    manifest: dict[str, Any],
    *,
    opacity: float = plot.OPACITY,
    threshold: float = 0,
) -> str:
    """The page of one explanation: the picture with its layers, the numbers, and how it was made."""
    n = len(explanation)
    name = manifest["image"]["photo"] or "an image"
    found = "no object was found" if n == 0 else f"{n} object{'s' * (n > 1)} explained"
    layers = _layers(explanation) if n else []
    maps = [(j, k, saliency) for j, (_, layer) in enumerate(layers) for k, saliency in enumerate(layer)]
    heats = "".join(
        f'<img class="heat" data-object="{k}" data-layer="{j}" alt="" src="{_heat(saliency, threshold)}"'
        f"{' hidden' * (j + k > 0)}>\n"
        for j, k, saliency in maps
    )
    address = _embedded(Image.fromarray(plot.fit(explanation.image)), "jpeg", quality=88)
    photo = f'<img class="photo" src="{address}" alt="the image that was explained">'
    controls = _controls(explanation, [name for name, _ in layers], opacity, threshold) if n else ""
    whole = escape(json.dumps(manifest, indent=2, ensure_ascii=False))
    body = (
        '<div class="explained">\n'
        f'<div class="picture">\n{photo}\n{heats}{_boxes(explanation)}</div>\n{controls}</div>\n'
        f"<h2>Detections</h2>\n{_scores(explanation) if n else '<p>No object was found.</p>'}\n"
        f"<h2>How it was made</h2>\n{_provenance(explanation)}"
        f"<details><summary>The whole manifest</summary>\n<pre>{whole}</pre></details>\n"
    )
    height, width = explanation.image.shape[:2]
    # as wide as there is room, but no higher than the window
    style = f".picture {{ max-width: calc(max(20rem, 100vh - 7rem) * {width / height:.4f}); }}\n"
    style += f".heat {{ opacity: {opacity:g}; }}\n"
    return document(f"{name}: {found}", body, style=style, script=asset("report.js") if n else "")


def _layers(explanation: Explanation) -> list[tuple[str, np.ndarray]]:
    """Names and maps (n, h, w): the saliency, then the levels, finest first."""
    layers = [("saliency", explanation.saliency)]
    if explanation.levels is not None:
        prefix = "level of " if explanation.segments else ""
        layers += zip([prefix + name for name in explanation.level_names], explanation.levels)
    return layers


def _controls(explanation: Explanation, layers: Sequence[str], opacity: float, threshold: float) -> str:
    objects = enumerate(map(escape, plot.captions(explanation.detections)))
    scale_bar, percent = _heat(np.linspace(0, 1, 256)[None], threshold), round(100 * opacity)
    hidden = f"Values below {threshold:g} are not shown. " if threshold else ""
    return (
        f'<div class="controls">\n{_switch("object", "Object", objects)}'
        f"{_switch('layer', 'Layer', [*enumerate(map(escape, layers)), ('none', 'the image alone')])}"
        f'<fieldset><legend>Look</legend>\n<label>Opacity <output id="percent">{percent} %</output>'
        f'<input type="range" id="opacity" min="0" max="100" value="{percent}"></label>\n'
        '<label><input type="checkbox" id="boxes"> all boxes</label>\n</fieldset>\n'
        f'<p class="bar"><span>0</span><img src="{scale_bar}" alt=""><span>1</span></p>\n'
        '<p class="note">The brighter a pixel, the more it speaks for the chosen object. Each layer is '
        f"scaled to [0, 1] for itself. {hidden}A click on a box in the picture chooses its object.</p>\n"
        '<noscript><p class="note">Without scripts only the first map is shown.</p></noscript>\n</div>\n'
    )


def _switch(name: str, legend: str, choices: Iterable[tuple[Any, str]]) -> str:
    """Buttons of which one is on, at first the first."""
    buttons = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" * (value == 0)}> '
        f"{text}</label>\n"
        for value, text in choices
    )
    return f'<fieldset class="switch"><legend>{legend}</legend>\n{buttons}</fieldset>\n'


def fills(explanation: Explanation) -> bool:
    """Whether the box of one detection holds nearly the whole image: then any map has an EBPG near 1."""
    height, width = explanation.image.shape[:2]
    rows, columns = metrics.window(explanation.detections.boxes[0], (height, width))
    return len(range(height)[rows]) * len(range(width)[columns]) > 0.95 * height * width


def _scores(explanation: Explanation) -> str:
    """The table of detections."""
    shown = list(SCORES)[:2]
    head = ["object", "score", "x1, y1, x2, y2", *shown]
    if explanation.relative_error is not None:
        head.append("relative error")
    rows = []
    for single, caption in zip(explanation, plot.captions(explanation.detections)):
        detection, saliency = single.detections, single.saliency[0]
        row = [
            escape(caption.rpartition(" ")[0]),
            f"{detection.scores[0]:.2f}",
            ", ".join(f"{edge:.0f}" for edge in detection.boxes[0]),
            f"{metrics.sparsity(saliency):.1f}",
            f"{metrics.ebpg(saliency, detection.boxes[0]):.2f}",
        ]
        if single.relative_error is not None:
            row.append(f"{single.relative_error[0]:.2f}")
        rows.append(row)
    notes = [f"{name[0].upper()}{name[1:]}: {SCORES[name]}." for name in shown]
    notes += [f"{row[0]}: {FILLS}." for row, single in zip(rows, explanation) if fills(single)]
    note = " ".join(notes)
    return f'<p class="note">{note}</p>\n{table(head, rows, numbers=len(head) - 1)}'


def _provenance(explanation: Explanation) -> str:
    detector = explanation.provenance["detector"]
    rows = {
        "method": explanation.method,
        "detector": f"{detector['name']}, on {detector['device']}",
        "weights (sha256)": detector.get("weights_sha256", "not known"),
        "masks": explanation.params.get("n_masks", "none"),
        "overlap (Eq. 2)": explanation.overlap,
        "question": explanation.question,
        "seed": "none" if explanation.seed is None else explanation.seed,
        "forward passes": explanation.n_forward,
        "seconds": f"{explanation.seconds:.1f}",
    }
    return table([], [[name, escape(str(value))] for name, value in rows.items()])


def _boxes(explanation: Explanation) -> str:
    """Every detection's box with its label, on a dark box that shows it on any ground.

    The smallest comes last: it is what a click on boxes inside each other chooses.
    """
    height, width = explanation.image.shape[:2]
    boxes = explanation.detections.boxes
    size = min(max(height, width) / 40, height / 2, width / 6)  # of the text, in pixels
    longest = int(width / size / EM) - 1
    texts = plot.captions(explanation.detections)
    texts = [text if len(text) <= longest else f"{text[: longest - 1]}…" for text in texts]
    sizes = [((len(text) + 1) * EM * size, 1.4 * size) for text in texts]
    groups = []
    for k, (left, top) in enumerate(plot.label_places(boxes, sizes, (width, height))):
        x1, y1, x2, y2 = boxes[k]
        place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
        colour = plot.box_colour(k)
        parts = f'<rect class="under" {place}/><rect class="box" stroke="{colour}" {place}/>'
        if not np.isnan(left):
            w, h = sizes[k]
            parts += (
                f'<rect fill="{colour}" x="{left:.1f}" y="{top:.1f}" width="{w:.1f}" height="{h:.1f}"/>'
                f'<text font-size="{size:.1f}" x="{left + EM * size / 2:.1f}" y="{top + size:.1f}" '
                f'textLength="{w - EM * size:.1f}" lengthAdjust="spacingAndGlyphs">{escape(texts[k])}</text>'
            )
        groups.append(f'<g data-object="{k}">{parts}</g>\n')
    largest_first = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")
    view = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true"'
    return f"<svg {view}>\n{''.join(groups[k] for k in largest_first)}</svg>\n"


def _heat(saliency: np.ndarray, threshold: float) -> str:
    """A map (h, w), scaled, as a PNG of 256 colours that are fainter where it is lower, as `plot.blend`."""
    steps = np.linspace(0, 1, 256)
    picture = Image.fromarray(_bytes(min_max(plot.fit(saliency)))).convert("P")
    alpha = np.sqrt(steps) * (steps >= threshold)
    picture.putpalette(_bytes(matplotlib.colormaps[plot.CMAP](steps)[:, :3]).tobytes())
    return _embedded(picture, "png", transparency=_bytes(alpha).tobytes())


def _bytes(values: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1] as uint8."""
    return (255 * values).round().astype(np.uint8)


def _embedded(picture: Image.Image, kind: str, **options: Any) -> str:
    """A picture as an address that holds it."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
