"""An explorer for a notebook cell: click a box and watch its map sharpen. ``dc.explore(detector, image)``"""

from __future__ import annotations

import atexit
import base64
import html
import io
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import cv2
import ipywidgets as widgets
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.pyplot import get_cmap

from . import checks, metrics, plot
from . import sampling as engine
from .checks import InputError
from .detection import Canvas, Detections, Detector
from .detectors import load_detector
from .detectors.planted import NETWORKS
from .detectors.weights import OFFICIAL
from .explanation import Explanation, explain, parameters
from .images import decode, load_photo
from .masks import SEGMENTS, MaskSampler
from .methods import METHODS
from .methods.dclose import pyramid_of

PICTURE = 900  # pixels of a drawn picture's longer side
LARGEST = 12_000_000  # pixels of an uploaded photo; a larger one is shrunk
N_MASKS = 1000
STEPS = 20  # of deletion and insertion, for the over-all score
SAMPLE = 8  # masks a level behind the steps "masked images" and "weights"
KEPT = 32  # explanations that need not be made again

STYLE = """<style>
.dclose-picture {position: relative; padding: 0; overflow: hidden; flex: 1 1 320px; max-width: 900px}
.dclose-picture img {display: block; width: 100%; height: auto; margin: 0}
.dclose-picture .jupyter-button {display: flex; position: absolute; margin: 0; padding: 0 4px; min-width: 0;
  background: transparent; box-shadow: none; color: white; text-shadow: 0 0 3px black, 0 0 6px black;
  font-size: 15px; font-weight: 600; line-height: 1.3; text-align: left; justify-content: flex-start;
  align-items: flex-start; overflow: visible}
.dclose-picture .jupyter-button:focus-visible {outline: 4px solid gold; outline-offset: 1px}
.dclose-picture .dclose-chosen {outline: 4px solid cyan}
.dclose-explorer .jupyter-widgets-output-area {overflow: auto}
</style>"""


def explore(detector: Detector | str, image: Any) -> Explorer:
    """Explore why a detector draws its boxes: an explorer to stand last in a notebook cell.

    Click a box, or choose it from the list: its map appears and sharpens while masks are added. The
    kernel stays free meanwhile.

    Parameters
    ----------
    detector : Detector or str
        A detector, or a name that `load_detector` knows.
    image : array, str or path
        (H, W, 3) uint8 RGB, or what `load_photo` takes.

    Raises
    ------
    InputError
        A detector or an image that cannot be used.

    Examples
    --------
    >>> import dclose_nb as dc
    >>> dc.explore("yolox_nano", "coffee")  # doctest: +SKIP
    """
    return Explorer(load_detector(detector), image)


class Explorer(widgets.VBox):
    """See `explore`.

    Parameters
    ----------
    detector : Detector
    image : array, str or path

    Attributes
    ----------
    explanation : Explanation or None
        What the first panel shows, as far as it has come: the same as `explain` gives.
    status_text : str
        What the line above the picture says.
    """

    def __init__(self, detector: Detector, image: Any) -> None:
        self.detector = detector
        self.explanation: Explanation | None = None
        self.status_text = ""
        self._shown: dict[int, Explanation] = {}  # by panel
        self._finished: dict[Any, Explanation] = {}  # by what was asked for
        self._plans: list[tuple[str, dict[str, Any]]] = []  # methods and their options
        self._explainer, self._artist = _Worker(), _Worker()
        self._lock = threading.RLock()
        self._build()
        super().__init__(self._parts())
        self.add_class("dclose-explorer")
        self._take(image)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget and, for pages that can show none, the picture that it shows now."""
        picture = self.panels[0].image.value or self.picture.children[0].value
        still = {
            "text/plain": f"Explorer of what {self.detector.name} found",
            "image/jpeg": base64.b64encode(picture).decode(),
        }
        return super()._repr_mimebundle_(**kwargs) | still

    # What is on the page

    def _build(self) -> None:
        wide = {"layout": widgets.Layout(width="320px"), "style": {"description_width": "90px"}}
        later = {"continuous_update": False} | wide  # a run begins when the hand is off the slider
        methods = list(METHODS)
        self.boxes: list[widgets.Button] = []
        self.list = widgets.Select(description="box", rows=4, **wide)
        self.options: dict[str, widgets.Widget] = {
            "method": widgets.Dropdown(options=methods, description="method", **wide),
            "beside": widgets.Dropdown(options=["", *methods], description="beside it", **wide),
            "n_masks": widgets.BoundedIntText(
                N_MASKS, min=len(SEGMENTS), max=100_000, step=100, description="masks", **later
            ),
            "segments": widgets.SelectMultiple(
                options=SEGMENTS, value=SEGMENTS, rows=len(SEGMENTS), description="superpixels", **wide
            ),
            "p": widgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="p, kept", **later),
            "r": widgets.FloatSlider(2.2, min=0, max=5, step=0.1, description="r, enlarged", **later),
            "seed": widgets.BoundedIntText(0, min=0, max=2**31 - 1, description="seed", **later),
        }
        self.opacity = widgets.FloatSlider(
            plot.OPACITY, min=0, max=1, step=0.05, description="opacity", **wide
        )
        self.threshold = widgets.FloatSlider(0, min=0, max=1, step=0.05, description="threshold", **wide)
        self.stop = widgets.Button(
            description="Stop", icon="stop", disabled=True, tooltip="keep the map so far"
        )
        self.upload = widgets.FileUpload(accept="image/*", description="Another photo")
        self.folder = widgets.Text("explanations/explorer", description="folder", **wide)
        self.save = widgets.Button(
            description="Save", icon="download", disabled=True, tooltip="figures and maps"
        )
        self.status = widgets.HTML()
        self.picture = widgets.Box()
        self.picture.add_class("dclose-picture")
        self.panels = [_Panel(), _Panel()]
        self.code = widgets.Textarea(
            description="code", layout=widgets.Layout(width="100%", height="150px"), disabled=False
        )
        self.steps = widgets.Accordion([widgets.Image(format="png") for _ in DRAWN], selected_index=None)
        for k, title in enumerate(DRAWN):
            self.steps.set_title(k, f"{k + 1}. {title}")

        for option in (self.list, *self.options.values()):
            option.observe(self._alone(lambda _: self._start()), "value")
        for option in (self.opacity, self.threshold):
            option.observe(self._alone(lambda _: self._look_again()), "value")
        self.steps.observe(self._alone(lambda _: self._draw_step()), "selected_index")
        self.upload.observe(self._alone(lambda change: self._uploaded(change["new"])), "value")
        self.stop.on_click(lambda _: self._explainer.stop.set())
        self.save.on_click(self._alone(lambda _: self._save()))

    def _alone(self, answer: Callable[[Any], None]) -> Callable[[Any], None]:
        """An answer to the page that waits for others: kernels may run them side by side."""

        def wrapped(event: Any) -> None:
            with self._lock:
                answer(event)

        return wrapped

    def _parts(self) -> list[widgets.Widget]:
        row = widgets.Layout(flex_flow="row wrap", align_items="flex-start", width="100%", grid_gap="8px")
        columns = [
            [self.list, self.options["method"], self.options["beside"], self.opacity, self.threshold],
            [self.options["segments"], self.options["n_masks"]],
            [self.options[name] for name in ("p", "r", "seed")] + [self.upload],
        ]
        return [
            widgets.HTML(STYLE),
            self.status,
            widgets.Box([self.picture, *self.panels], layout=row),
            widgets.Box([widgets.VBox(column) for column in columns], layout=row),
            widgets.HBox([self.stop, self.save, self.folder]),
            self.steps,
            self.code,
        ]

    def _say(self, text: str) -> None:
        self.status_text = text
        self.status.value = f'<div role="status" aria-live="polite">{html.escape(text)}</div>'

    # A photo, its boxes, and the one that is chosen

    def _take(self, image: Any, name: str | None = None) -> None:
        """Show a photo and what the detector finds in it."""
        given = isinstance(image, str | Path)
        photo = load_photo(image) if given else checks.image(image)
        self.detections = self.detector.detect(photo)
        self.image, self.name = photo, str(image) if given else name
        self._explainer.stop.set()
        self._shown, self._finished, self.explanation = {}, {}, None
        height, width = self.image.shape[:2]
        ground = widgets.Button(
            tooltip="no box here",
            layout=widgets.Layout(left="0", top="0", width="100%", height="100%", border="none"),
        )
        ground.add_class("dclose-ground")
        ground.on_click(lambda _: self._say("There is no box here: click one, or choose it from the list."))
        self.boxes = []
        for k, one in enumerate(self.detections):
            x1, y1, x2, y2 = one.boxes[0].clip(0, [width, height, width, height]).tolist()
            place = {
                "left": x1 / width,
                "top": y1 / height,
                "width": (x2 - x1) / width,
                "height": (y2 - y1) / height,
            }
            button = widgets.Button(
                description=_caption(one),
                tooltip=f"explain {_caption(one)}",
                layout=widgets.Layout(
                    border=f"3px solid {to_hex(get_cmap('tab10')(k % 10))}",
                    **{name: f"{share:.3%}" for name, share in place.items()},
                ),
            )
            button.add_class("dclose-box")
            button.on_click(self._alone(partial(self._choose, k)))
            self.boxes.append(button)
        areas = np.prod(self.detections.boxes[:, 2:] - self.detections.boxes[:, :2], axis=1)
        on_top_last = [self.boxes[k] for k in np.argsort(-areas)]  # a small box is never behind a large one
        picture = widgets.Image(value=_jpeg(plot.fit(self.image, PICTURE)), format="jpeg")
        self.picture.children = [picture, ground, *on_top_last]
        for panel in self.panels:
            panel.clear()
        with self.list.hold_trait_notifications():
            self.list.options = [(_caption(one), k) for k, one in enumerate(self.detections)]
            self.list.value = None
        n = len(self.detections)
        self._say(f"{n} {'box' if n == 1 else 'boxes'} found: click one." if n else "No object was found.")

    def _choose(self, k: int, _: Any) -> None:
        if self.list.value == k:
            self._start()  # again, after it was stopped
        else:
            self.list.value = k

    def _uploaded(self, files: Any) -> None:
        for file in files[:1]:
            name = str(file["name"])
            try:
                image = decode(io.BytesIO(bytes(file["content"])), name)
                factor = (LARGEST / (image.shape[0] * image.shape[1])) ** 0.5
                if factor < 1:
                    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
                self._take(image, name)
            except Exception as error:  # as in `_run`
                self._say(f"{type(error).__name__}: {error}")
                return
            if factor < 1:
                height, width = image.shape[:2]
                self._say(f"The photo was shrunk to {width} x {height} pixels. {self.status_text}")

    # The run

    def _start(self) -> None:
        """Explain the chosen box as the controls say; a run that is under way stops."""
        k = self.list.value
        if k is None:
            return
        for n, button in enumerate(self.boxes):
            (button.add_class if n == k else button.remove_class)("dclose-chosen")
        self._explainer.stop.set()
        self._shown, self.explanation = {}, None
        methods = filter(None, (self.options[name].value for name in ("method", "beside")))
        plans = [(method, self._options_of(method)) for method in methods]
        for panel in self.panels[len(plans) :]:
            panel.clear()
        self._plans = plans
        self._write_code()
        self.stop.disabled = self.save.disabled = False
        self._say(f"{_caption(self.detections[k])}: looking ...")
        self._explainer.do(self._run, k, plans)

    def _options_of(self, method: str) -> dict[str, Any]:
        """What the controls say, of what a method has a use for."""
        defaults = parameters(method)
        values = {name: control.value for name, control in self.options.items()}
        if not isinstance(defaults.get("segments"), tuple):
            del values["segments"]  # of the pyramid's levels only
        return {name: value for name, value in values.items() if name in defaults}

    def _run(self, stop: threading.Event, k: int, plans: list[tuple[str, dict[str, Any]]]) -> None:
        """Explain by each method in turn; in a thread of its own."""
        target, caption = self.detections[k], _caption(self.detections[k])
        try:
            for place, (method, options) in enumerate(plans):
                if stop.is_set():
                    return
                key = (k, method, tuple(options.items()))
                one = self._finished.get(key)
                if one is None:

                    def watch(so_far: Explanation, place: int = place) -> bool:
                        self._show(
                            stop,
                            place,
                            so_far,
                            f"{caption}, {so_far.method}: {so_far.n_forward} masks so far",
                        )
                        return stop.is_set()

                    one = explain(
                        self.detector,
                        self.image,
                        target,
                        method=method,
                        watch=watch,
                        progress=False,
                        **options,
                    )
                    if not stop.is_set():
                        self._finished = dict(list(self._finished.items())[-KEPT + 1 :]) | {key: one}
                how = "stopped after" if stop.is_set() else "done:"
                self._show(
                    stop, place, one, f"{caption}, {method}: {how} {one.n_forward} masks, {one.seconds:.1f} s"
                )
            if not stop.is_set():
                for place, one in list(self._shown.items()):
                    score = metrics.over_all(
                        self.detector, self.image, target, one.saliency[0], steps=STEPS
                    ).score
                    self.panels[place].caption.value = _numbers(one, score)
        except Exception as error:  # whatever a person's own detector raises must reach that person
            self._say(f"{type(error).__name__}: {error}")
        finally:
            if self._explainer.stop is stop:
                self.stop.disabled = True
                self._draw_step()

    def _show(self, stop: threading.Event, place: int, one: Explanation, text: str) -> None:
        with self._lock:
            if self._explainer.stop is not stop:  # another box has been chosen since
                return
            self._shown[place] = one
            if place == 0:
                self.explanation = one
            self._redraw(place)
            self.panels[place].caption.value = _numbers(one)
            self._say(text)

    def _redraw(self, *places: int) -> None:
        """Lay the maps over the photo anew."""
        look = {"opacity": self.opacity.value, "threshold": self.threshold.value}
        for place in places or tuple(self._shown):
            self.panels[place].show(_jpeg(_overlay(self._shown[place], **look)))

    def _look_again(self) -> None:
        self._redraw()
        self._write_code()

    def wait(self) -> Explorer:
        """Wait until all that was asked for is there, as a script may want to."""
        self._explainer.todo.join()
        self._artist.todo.join()
        return self

    # The steps, the code, and what is kept

    def _draw_step(self) -> None:
        """Draw the step that is open, in a thread of its own."""
        k, one = self.steps.selected_index, self.explanation
        if k is None or one is None:
            return
        if one.levels is None:
            self._say(f"The steps are D-CLOSE's: {one.method} has none of them.")
            return
        self._artist.do(self._draw, k, one)

    def _draw(self, stop: threading.Event, k: int, one: Explanation) -> None:
        if stop.is_set():
            return
        drawing = list(DRAWN.values())[k]
        figure = Figure(figsize=(12, 3.2), layout="constrained")
        try:
            drawing(self.detector, one, figure)
        except Exception as error:  # as in `_run`
            self._say(f"{type(error).__name__}: {error}")
            return
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=80)
        self.steps.children[k].value = content.getvalue()

    def _write_code(self) -> None:
        """Show the cell that makes the same figures."""
        k = self.list.value
        if k is None:
            return
        look = {"opacity": (self.opacity.value, plot.OPACITY), "threshold": (self.threshold.value, 0)}
        looks = "".join(f", {name}={value:g}" for name, (value, usual) in look.items() if value != usual)
        lines = ["import dclose_nb as dc", ""]
        if self.detector.name in (*OFFICIAL, *NETWORKS):
            lines.append(f"detector = dc.load_detector({self.detector.name!r})")
        else:
            lines.append(f"# detector: the one that was explored, {self.detector.name}")
        lines.append(
            "# image: the array that was explored"
            if self.name is None
            else f"image = dc.load_photo({self.name!r})"
        )
        lines.append(f"target = detector.detect(image)[{k}]  # {_caption(self.detections[k])}")
        for method, options in self._plans:
            default = parameters(method)
            changed = {name: value for name, value in options.items() if value != default[name]}
            given = "".join(f", {name}={value!r}" for name, value in ({"method": method} | changed).items())
            lines.append(f"explanation = dc.explain(detector, image, target{given})")
            lines.append(f"dc.plot.explanation(explanation{looks})")
        self.code.value = "\n".join(lines)

    def _save(self) -> None:
        if self.explanation is None:
            self._say("There is nothing to save yet: click a box.")
            return
        try:
            self._say(f"Saved in {self.explanation.save(self.folder.value)}")
        except InputError as error:
            self._say(str(error))


class _Panel(widgets.VBox):
    """A map over the photo, and its numbers."""

    def __init__(self) -> None:
        self.image, self.caption = widgets.Image(format="jpeg"), widgets.HTML()
        super().__init__([self.image, self.caption])
        self.add_class("dclose-picture")
        self.clear()

    def show(self, picture: bytes) -> None:
        self.image.value, self.layout.display = picture, None

    def clear(self) -> None:
        self.image.value, self.caption.value, self.layout.display = b"", "", "none"


class _Worker:
    """A thread that does one thing after another and ends with the kernel."""

    def __init__(self) -> None:
        self.stop = threading.Event()  # of what was begun last
        self.todo: Queue[Callable[[], None] | None] = Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def do(self, work: Callable[..., None], *arguments: Any) -> None:
        """Stop what is under way, and do this with an event that says when to stop."""
        self.stop.set()
        self.stop = threading.Event()
        self.todo.put(partial(work, self.stop, *arguments))

    def close(self) -> None:
        self.stop.set()
        self.todo.put(None)
        self._thread.join(timeout=2)

    def _work(self) -> None:
        while work := self.todo.get():
            work()
            self.todo.task_done()


def _caption(one: Detections) -> str:
    return f"{one.names[0]} {one.scores[0]:.2f}"


def _numbers(one: Explanation, over_all: float | None = None) -> str:
    """Scores of a map, as HTML."""
    saliency, box = one.saliency[0], one.detections.boxes[0]
    found = [
        f"sparsity {metrics.sparsity(saliency):.1f}",
        f"energy in the box {metrics.ebpg(saliency, box):.2f}",
    ]
    found += [] if over_all is None else [f"insertion less deletion {over_all:.2f}"]
    return f"<b>{html.escape(one.method)}</b>: {', '.join(found)}"


def _overlay(one: Explanation, *, opacity: float, threshold: float) -> np.ndarray:
    """The photo under the map of a target, with its box."""
    picture = plot.fit(one.image, PICTURE)
    saliency = cv2.resize(one.saliency[0], picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    drawn = plot.blend(picture, saliency, opacity=opacity, threshold=threshold)
    box = one.detections.boxes[0] * picture.shape[1] / one.image.shape[1]
    x1, y1, x2, y2 = box.round().astype(int).tolist()
    for colour, width in (((0, 0, 0), 4), ((0, 255, 255), 2)):
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, width)
    return drawn


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


# The seven steps: each draws on a figure of its own, for pyplot's are not made for threads


def _samplers(detector: Detector, one: Explanation) -> tuple[Canvas, list[MaskSampler]]:
    canvas = detector.prepare(one.image)
    return canvas, pyramid_of(canvas, one.params)


def _sampled(detector: Detector, one: Explanation) -> tuple[Canvas, list[MaskSampler], list[np.ndarray]]:
    """The image, and the first masks of each level and their weights (SAMPLE,)."""
    canvas, samplers = _samplers(detector, one)
    counts = [SAMPLE] * len(samplers)
    levels = engine.run(detector, canvas, one.detections, samplers, counts, progress=False)
    return canvas, samplers, [level.weights[:, 0] for level in levels]


def _draw_superpixels(detector: Detector, one: Explanation, figure: Figure) -> None:
    canvas, samplers = _samplers(detector, one)
    for ax, sampler in zip(figure.subplots(1, len(samplers), squeeze=False)[0], samplers):
        plot.superpixels(canvas.content_image, sampler.cells.cpu().numpy(), ax=ax)


def _draw_masks(detector: Detector, one: Explanation, figure: Figure) -> None:
    _, samplers = _samplers(detector, one)
    masks = [sampler.masks(0, 1)[0].cpu().numpy() for sampler in samplers]
    titles = [f"{sampler.n_cells} superpixels" for sampler in samplers]
    plot.masks(masks, titles=titles, ax=figure.subplots(1, len(masks), squeeze=False)[0])


def _draw_masked(detector: Detector, one: Explanation, figure: Figure) -> None:
    """Of a few masks of each level the one that leaves most of the target."""
    canvas, samplers, weights = _sampled(detector, one)
    for ax, sampler, own in zip(figure.subplots(1, len(samplers), squeeze=False)[0], samplers, weights):
        best = int(own.argmax())
        masked = canvas.pixels.clone()
        masked[:, *canvas.window] *= sampler.masks(best, best + 1)[0]
        hidden = replace(canvas, pixels=masked)
        picture = cv2.resize(hidden.content_image, one.image.shape[1::-1])
        plot.detections(picture, detector.detect_on(hidden), ax=ax)
        ax.set_title(f"weight {own[best]:.2f}")


def _draw_weights(detector: Detector, one: Explanation, figure: Figure) -> None:
    _, samplers, weights = _sampled(detector, one)
    ax = figure.subplots()
    ax.boxplot(weights, tick_labels=[str(sampler.n_cells) for sampler in samplers])
    for k, own in enumerate(weights):
        ax.plot(np.full(SAMPLE, k + 1), own, ".", color="C0")
    ax.set(xlabel="superpixels", ylabel="weight (Eq. 6)", title=f"{SAMPLE} masks a level")


def _draw_density(_: Detector, one: Explanation, figure: Figure) -> None:
    assert one.density is not None
    plot.density(one, ax=figure.subplots(1, len(one.density), squeeze=False)[0])


def _draw_levels(_: Detector, one: Explanation, figure: Figure) -> None:
    assert one.levels is not None
    plot.levels(one, ax=figure.subplots(1, len(one.levels), squeeze=False)[0])


def _draw_cascade(_: Detector, one: Explanation, figure: Figure) -> None:
    assert one.levels is not None
    figure.set_size_inches(12, 6)
    plot.cascade(one, ax=figure.subplots(2, len(one.levels), squeeze=False))


DRAWN: dict[str, Callable[[Detector, Explanation, Figure], None]] = {
    "superpixels of each level (3.1)": _draw_superpixels,
    "a mask of each level (3.1)": _draw_masks,
    "masked images, and what is detected in them (3.5)": _draw_masked,
    "weights (3.2, Eq. 6)": _draw_weights,
    "density (3.3, Eq. 3)": _draw_density,
    "levels (3.3, Eq. 7)": _draw_levels,
    "the cascade (3.4, Eq. 8)": _draw_cascade,
}
