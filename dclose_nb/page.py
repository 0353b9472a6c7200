"""Pages that open in a browser without a network: one explanation, and the gallery of figures.

What comes from outside (names of classes, paths) is escaped, and the page's own policy lets nothing
run or load but what is written here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from . import metrics, plot
from .explanation import Explanation
from .fusion import min_max

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #fdfdfc; --faint: #5b5b66; --line: #c9c9d1;
  --accent: #6a1b9a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf1; --paper: #17171b; --faint: #a9a9b6; --line: #45454f; --accent: #d7a6f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
a, summary { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.explained { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.picture { position: relative; flex: 3 1 26rem; }
.picture .photo { display: block; width: 100%; height: auto; }
.picture .heat, .picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.heat { opacity: 0.75; }
rect { fill: none; stroke: #fff; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
rect.under { stroke: #000; stroke-width: 3.5; }
rect.chosen { stroke: #0ff; stroke-width: 2.5; }
.controls { flex: 1 1 15rem; min-width: 0; }
fieldset { border: 1px solid var(--line); border-radius: 4px; margin: 0 0 1rem; }
fieldset label { display: block; padding: 0.15rem 0; }
input[type=range] { width: 100%; accent-color: var(--accent); }
input { accent-color: var(--accent); }
.bar { display: flex; gap: 0.5rem; align-items: center; color: var(--faint); }
.bar img { flex: 1; width: 0; height: 0.8rem; background: #777; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 0.3rem 0.9rem 0.3rem 0; border-bottom: 1px solid var(--line); }
td:first-child { min-width: 8rem; }
th.number, td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
pre { border: 1px solid var(--line); padding: 0.8rem; font-size: 0.85rem; white-space: pre-wrap; }
figure { margin: 0; } figure img { display: block; max-width: 100%; height: auto; background: #fff; }
figcaption { margin: 0.6rem 0; } .note { color: var(--faint); }
"""

SWITCH = """
const all = (query) => [...document.querySelectorAll(query)];
const value = (name) => (document.querySelector(`input[name=${name}]:checked`) || {}).value;
const opacity = document.querySelector("#opacity");
function show() {
  const object = value("object"), layer = value("layer");
  for (const heat of all(".heat")) {
    heat.hidden = heat.dataset.object !== object || heat.dataset.layer !== layer;
    heat.style.opacity = opacity.value / 100;
  }
  const boxes = document.querySelector("#boxes").checked;
  for (const box of all("svg g")) {
    const chosen = box.dataset.object === object;
    box.lastElementChild.classList.toggle("chosen", chosen);
    box.style.display = boxes || chosen ? "" : "none";
  }
  document.querySelector("#percent").textContent = `${opacity.value} %`;
}
document.addEventListener("input", show);
show();
"""


def document(title: str, body: str, *, script: str = "", images: str = "data:") -> str:
    """A whole page around a body of HTML.

    Parameters
    ----------
    title : str
        Escaped here; `body` is not.
    body : str
    script : str
    images : str
        Where pictures may come from, as a source of the Content-Security-Policy.
    """
    scripts = _fingerprint(script) if script else "'none'"
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src {images}; "
        f"style-src {_fingerprint(STYLE)}; script-src {scripts}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{escape(title)}</h1>\n{body}</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def _fingerprint(text: str) -> str:
    """What lets this very style or script through the policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """A table whose cells are HTML already; the last `numbers` columns stand to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        classes = [""] * (len(cells) - numbers) + [' class="number"'] * numbers
        inside = "".join(f"<{tag}{one}>{cell}</{tag}>" for one, cell in zip(classes, cells))
        return f"<tr>{inside}</tr>\n"

    body = "".join(line(row, "td") for row in rows)
    named = f"<thead>{line(head, 'th')}</thead>\n" if head else ""
    return f'<div class="wide"><table>\n{named}<tbody>\n{body}</tbody>\n</table></div>\n'


def explanation(explanation: Explanation, manifest: dict[str, Any]) -> str:
    """The page of one explanation: the picture with its layers, the numbers, and how it was made.

    Parameters
    ----------
    explanation : Explanation
    manifest : dict
        See `report.write`; shown as it is.

    Returns
    -------
    str
        One file of HTML with all pictures in it.
    """
    n = len(explanation)
    name = manifest["image"]["photo"] or "an image"
    found = "no object was found" if n == 0 else f"{n} object{'s' * (n > 1)} explained"
    height, width = explanation.image.shape[:2]
    layers = _layers(explanation) if n else []
    heats = "".join(
        f'<img class="heat" data-object="{k}" data-layer="{layer}" alt="" src="{_heat(maps[k])}"{hidden}>\n'
        for layer, (_, maps) in enumerate(layers)
        for k, hidden in enumerate(["" if layer == 0 else " hidden", *[" hidden"] * (n - 1)])
    )
    photo = f'<img class="photo" src="{_jpeg(explanation.image)}" alt="the image that was explained">'
    picture = f'<div class="picture">\n{photo}\n{heats}{_boxes(explanation, width, height)}</div>\n'
    body = f'<div class="explained">\n{picture}{_controls([name for name, _ in layers]) if n else ""}</div>\n'
    body += f"<h2>Detections</h2>\n{_numbers(explanation) if n else '<p>No object was found.</p>'}\n"
    body += f"<h2>How it was made</h2>\n{_made(explanation)}"
    body += (
        f"<details><summary>The whole manifest</summary>\n<pre>{escape(_json(manifest))}</pre></details>\n"
    )
    return document(f"{name}: {found}", body, script=SWITCH if n else "")


def gallery(records: dict[int, dict[str, Any]]) -> str:
    """The page of the figures: each with its caption and how it was made.

    Parameters
    ----------
    records : dict of int to dict
        See `figures.make`. Pictures are those beside the page.
    """
    body = (
        "<p>The figures of Truong et al. 2023, <cite>Towards Better Explanations for Object "
        "Detection</cite>, arranged as there and made anew with pictures and a detector at hand.</p>\n"
    )
    for number, record in records.items():
        title = f"Figure {number}. {escape(record['title'])}"
        body += f'<section id="figure-{number}">\n<h2>{title}</h2>\n<figure>\n'
        for name in (name for name in record["files"] if name.endswith(".png")):
            body += f'<a href="{escape(name)}"><img src="{escape(name)}" alt="{title}"></a>\n'
        links = " ".join(
            f'<a href="{escape(name)}">{escape(name[-3:].upper())}</a>' for name in record["files"]
        )
        body += f"<figcaption>{escape(record['caption'])} {links}</figcaption>\n</figure>\n"
        body += "".join(f'<p class="note">{escape(note)}</p>\n' for note in record["notes"])
        body += _how(record) + "</section>\n"
    return document("D-CLOSE: the figures", body, images="'self' file:")


def _how(record: dict[str, Any]) -> str:
    """How a figure was made, folded."""
    rows = [
        [
            escape(one["picture"]),
            escape(", ".join(one["objects"])),
            escape(str(one["detector"]["name"])),
            escape(one["method"]),
            *(escape(str(one[name])) for name in ("n_masks", "seed", "n_forward", "seconds")),
        ]
        for one in record["maps"]
    ]
    head = ["picture", "explained", "detector", "method", "masks", "seed", "passes", "seconds"]
    return (
        f"<details><summary>How it was made</summary>\n{table(head, rows, numbers=4) if rows else ''}"
        f"<p>Made {escape(record['made'])} in {escape(str(record['seconds']))} s, without the time of maps "
        f"that were there already.</p>\n<pre>{escape(_json(record['settings']))}</pre></details>\n"
    )


def _layers(explanation: Explanation) -> list[tuple[str, np.ndarray]]:
    """Names and maps (n, h, w): the saliency, then the levels, finest first."""
    layers = [("saliency", explanation.saliency)]
    if explanation.levels is not None:
        pairs = zip(explanation.segments, explanation.levels)
        layers += [(f"level of {count} superpixels", one) for count, one in pairs]
    return layers


def _controls(layers: Sequence[str]) -> str:
    choices = [*enumerate(layers), ("none", "the image alone")]
    radios = "".join(f"<label>{_radio('layer', k)} {name}</label>\n" for k, name in choices)
    scale_bar = _heat(np.linspace(0, 1, 256)[None])
    return (
        f'<div class="controls">\n<fieldset><legend>Layer</legend>\n{radios}</fieldset>\n'
        '<fieldset><legend>Look</legend>\n<label>Opacity <output id="percent">75 %</output>'
        '<input type="range" id="opacity" min="0" max="100" value="75"></label>\n'
        '<label><input type="checkbox" id="boxes"> all boxes</label>\n</fieldset>\n'
        f'<p class="bar"><span>0</span><img src="{scale_bar}" alt=""><span>1</span></p>\n'
        '<p class="note">Each layer is scaled to [0, 1] for itself. '
        "Choose an object in the table below.</p>\n"
        '<noscript><p class="note">Without scripts only the first map is shown.</p></noscript>\n</div>\n'
    )


def _radio(name: str, value: Any) -> str:
    """A button of a switch; the first is on."""
    return f'<input type="radio" name="{name}" value="{value}"{" checked" * (value == 0)}>'


def _numbers(explanation: Explanation) -> str:
    """The table of detections, which is the switch between them too."""
    head = ["object", "score", "x1, y1, x2, y2", "sparsity", "EBPG"]
    if explanation.relative_error is not None:
        head.append("relative error")
    rows = []
    for k, one in enumerate(explanation):
        box = one.detections.boxes[0]
        label = escape(one.detections.names[0])
        row = [
            f"<label>{_radio('object', k)} {label}</label>",
            f"{one.detections.scores[0]:.2f}",
            ", ".join(f"{edge:.0f}" for edge in box),
            f"{metrics.sparsity(one.saliency[0]):.1f}",
            f"{metrics.ebpg(one.saliency[0], box):.2f}",
        ]
        if one.relative_error is not None:
            row.append(f"{one.relative_error[0]:.2f}")
        rows.append(row)
    note = "Sparsity: highest value over mean of the scaled map. EBPG: share of the map's energy in the box."
    return f'<p class="note">{note}</p>\n{table(head, rows, numbers=len(head) - 1)}'


def _made(explanation: Explanation) -> str:
    detector = explanation.provenance["detector"]
    rows = {
        "method": explanation.method,
        "detector": f"{detector['name']}, on {detector['device']}",
        "weights (sha256)": detector.get("weights_sha256", "not known"),
        "masks": explanation.params.get("n_masks", "none"),
        "seed": explanation.params.get("seed", "none"),
        "forward passes": explanation.n_forward,
        "seconds": f"{explanation.seconds:.1f}",
    }
    return table([], [[name, escape(str(value))] for name, value in rows.items()])


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, default=str, ensure_ascii=False)


def _boxes(explanation: Explanation, width: int, height: int) -> str:
    """Every detection's box, on a dark one that shows it on any ground; the first is chosen."""
    groups = []
    for k, (x1, y1, x2, y2) in enumerate(explanation.detections.boxes.tolist()):
        place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
        chosen = ' class="chosen"' if k == 0 else ""
        groups.append(f'<g data-object="{k}"><rect class="under" {place}/><rect{chosen} {place}/></g>\n')
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">\n'
        f"{''.join(groups)}</svg>\n"
    )


def _heat(values: np.ndarray) -> str:
    """A map (h, w), scaled, as a PNG of 256 colours that are fainter where it is lower."""
    steps = np.linspace(0, 1, 256)
    picture = Image.fromarray((255 * min_max(plot.fit(values))).round().astype(np.uint8)).convert("P")
    picture.putpalette(
        (255 * matplotlib.colormaps[plot.CMAP](steps)[:, :3]).round().astype(np.uint8).tobytes()
    )
    opacity = (255 * np.sqrt(steps)).round().astype(np.uint8).tobytes()
    return _embedded(picture, "png", transparency=opacity, optimize=True)


def _jpeg(image: np.ndarray) -> str:
    return _embedded(Image.fromarray(plot.fit(image)), "jpeg", quality=88)


def _embedded(picture: Image.Image, kind: str, **options: Any) -> str:
    """A picture as an address that holds it."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
