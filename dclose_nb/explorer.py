"""Notebook 12: click a box in a notebook cell and watch its map sharpen, ``dc.explore(detector, image)``."""

from __future__ import annotations

import atexit
import base64
import html
import io
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import cv2
import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.pyplot import get_cmap

from . import checks, metrics, plot, reports
from .checks import InputError
from .detection import Canvas, Detections, Detector
from .detectors import load_detector
from .detectors.planted import NETWORKS
from .detectors.weights import OFFICIAL
from .explanation import Explanation, explain
from .images import decode, load_photo
from .masks import SEGMENTS
from .methods import METHODS, Method, make
from .sampling import Plan, sample

PICTURE = 900  # pixels of a drawn picture's longer side
LARGEST = 12_000_000  # pixels of an uploaded photo; a larger one is shrunk
N_MASKS = 1000
STEPS = 20  # of deletion and insertion, for the over-all score
SAMPLE = 8  # masks a level behind the steps "masked images" and "weights"
KEPT = 32  # explanations that need not be made again


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
        super().__init__(self._rows())
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
        late = {"continuous_update": False} | wide  # a run begins when the hand is off the slider
        share = {"min": 0, "max": 1, "step": 0.05} | wide
        methods = list(METHODS)
        self.boxes: list[widgets.Button] = []
        self.list = widgets.Select(description="box", rows=4, **wide)
        self.options: dict[str, widgets.Widget] = {
            "method": widgets.Dropdown(options=methods, description="method", **wide),
            "beside": widgets.Dropdown(options=["", *methods], description="beside it", **wide),
            "n_masks": widgets.BoundedIntText(
                N_MASKS, min=len(SEGMENTS), max=100_000, step=100, description="masks", **late
            ),
            "segments": widgets.SelectMultiple(
                options=SEGMENTS, value=SEGMENTS, rows=len(SEGMENTS), description="superpixels", **wide
            ),
            "p": widgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="p, kept", **late),
            "r": widgets.FloatSlider(2.2, min=0, max=5, step=0.1, description="r, enlarged", **late),
            "seed": widgets.BoundedIntText(0, min=0, max=2**31 - 1, description="seed", **late),
        }
        self.opacity = widgets.FloatSlider(plot.OPACITY, description="opacity", **share)
        self.threshold = widgets.FloatSlider(0, description="threshold", **share)
        self.stop = widgets.Button(description="Stop", icon="stop", tooltip="keep the map so far")
        self.save = widgets.Button(description="Save", icon="download", tooltip="figures and maps")
        self.stop.disabled = self.save.disabled = True
        self.upload = widgets.FileUpload(accept="image/*", description="Another photo")
        self.folder = widgets.Text("explanations/explorer", description="folder", **wide)
        self.status = widgets.HTML()
        self.picture = widgets.Box()
        self.picture.add_class("dclose-picture")
        self.panels = [_Panel(), _Panel()]
        self.code = widgets.Textarea(
            description="code", layout=widgets.Layout(width="100%", height="150px"), disabled=False
        )
        self.steps = widgets.Accordion([widgets.Image(format="png") for _ in STEP_DRAWINGS])
        for k, title in enumerate(STEP_DRAWINGS):
            self.steps.set_title(k, f"{k + 1}. {title}")

        for option in (self.list, *self.options.values()):
            option.observe(self._in_turn(lambda _: self._start()), "value")
        for option in (self.opacity, self.threshold):
            option.observe(self._in_turn(lambda _: self._restyle()), "value")
        self.steps.observe(self._in_turn(lambda _: self._draw_step()), "selected_index")
        self.upload.observe(self._in_turn(lambda change: self._take_upload(change["new"])), "value")
        self.stop.on_click(lambda _: self._explainer.stop.set())
        self.save.on_click(self._in_turn(lambda _: self._save()))

    def _in_turn(self, answer: Callable[[Any], None]) -> Callable[[Any], None]:
        """An answer to the page that waits for others: kernels may run them side by side."""

        def wrapped(event: Any) -> None:
            with self._lock:
                answer(event)

        return wrapped

    def _rows(self) -> list[widgets.Widget]:
        row = widgets.Layout(flex_flow="row wrap", align_items="flex-start", width="100%", grid_gap="8px")
        columns = [
            [self.list, self.options["method"], self.options["beside"], self.opacity, self.threshold],
            [self.options["segments"], self.options["n_masks"]],
            [self.options[name] for name in ("p", "r", "seed")] + [self.upload],
        ]
        return [
            widgets.HTML(f"<style>{reports.asset('explorer.css')}</style>"),
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
        if isinstance(image, str | Path):
            photo, name = load_photo(image), str(image)
        else:
            photo = checks.image(image)
        self.detections = self.detector.detect(photo)
        self.image, self.name = photo, name
        self._explainer.cancel()
        self.stop.disabled = True
        self._shown, self._finished, self.explanation = {}, {}, None
        ground = widgets.Button(
            tooltip="no box here",
            layout=widgets.Layout(left="0", top="0", width="100%", height="100%", border="none"),
        )
        ground.add_class("dclose-ground")
        ground.on_click(lambda _: self._say("There is no box here: click one, or choose it from the list."))
        self.boxes = [self._button(k, detection) for k, detection in enumerate(self.detections)]
        areas = np.prod(self.detections.boxes[:, 2:] - self.detections.boxes[:, :2], axis=1)
        on_top_last = [self.boxes[k] for k in np.argsort(-areas)]  # a small box is never behind a large one
        picture = widgets.Image(value=_jpeg(plot.fit(self.image, PICTURE)), format="jpeg")
        self.picture.children = [picture, ground, *on_top_last]
        for panel in self.panels:
            panel.clear()
        self.list.value = None  # before the new options, of which the list would choose one itself
        self.list.options = [(_caption(detection), k) for k, detection in enumerate(self.detections)]
        n = len(self.detections)
        self._say(f"{n} {'box' if n == 1 else 'boxes'} found: click one." if n else "No object was found.")

    def _button(self, k: int, detection: Detections) -> widgets.Button:
        """The k-th detection's box on the photo."""
        edges = np.tile(self.image.shape[1::-1], 2)  # width, height, width, height
        x1, y1, x2, y2 = (detection.boxes[0].clip(0, edges) / edges).tolist()
        place = {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
        button = widgets.Button(
            description=_caption(detection),
            tooltip=f"explain {_caption(detection)}",
            layout=widgets.Layout(
                border=f"3px solid {to_hex(get_cmap('tab10')(k % 10))}",
                **{name: f"{share:.3%}" for name, share in place.items()},
            ),
        )
        button.add_class("dclose-box")
        button.on_click(self._in_turn(lambda _: self._choose(k)))
        return button

    def _choose(self, k: int) -> None:
        if self.list.value == k:
            self._start()  # again, after it was stopped
        else:
            self.list.value = k

    def _take_upload(self, files: Any) -> None:
        for file in files[:1]:
            name = str(file["name"])
            try:
                image = decode(io.BytesIO(bytes(file["content"])), name)
                factor = (LARGEST / (image.shape[0] * image.shape[1])) ** 0.5
                if factor < 1:
                    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
                self._take(image, name)
            except Exception as error:  # as in `_run`
                self._say_error(error)
                return
            if factor < 1:
                height, width = image.shape[:2]
                self._say(f"The photo was shrunk to {width} x {height} pixels. {self.status_text}")

    def _say_error(self, error: Exception) -> None:
        self._say(f"{type(error).__name__}: {error}")

    # The run

    def _start(self) -> None:
        """Explain the chosen box as the controls say; a run that is under way stops."""
        k = self.list.value
        if k is None:
            return
        for n, button in enumerate(self.boxes):
            (button.add_class if n == k else button.remove_class)("dclose-chosen")
        self._shown, self.explanation = {}, None
        methods = filter(None, (self.options[name].value for name in ("method", "beside")))
        self._plans = [(method, self._options_of(method)) for method in methods]
        for panel in self.panels[len(self._plans) :]:
            panel.clear()
        self._write_code()
        self.stop.disabled = self.save.disabled = False
        self._say(f"{_caption(self.detections[k])}: looking ...")
        self._explainer.do(self._run, k, self.image, self.detections[k], self._plans)

    def _options_of(self, method: str) -> dict[str, Any]:
        """The controls' values, of what a method has a use for."""
        defaults = _defaults(method)
        values = {name: control.value for name, control in self.options.items() if name in defaults}
        if not isinstance(defaults.get("segments"), tuple):
            values.pop("segments", None)  # the control is for the pyramid's levels only
        return values

    def _run(
        self,
        stop: threading.Event,
        k: int,
        image: np.ndarray,
        target: Detections,
        plans: list[tuple[str, dict[str, Any]]],
    ) -> None:
        """Explain by each method in turn; in a thread of its own."""
        try:
            for place, (method, options) in enumerate(plans):
                if stop.is_set():
                    return
                key = (k, method, tuple(options.items()))
                caption = f"{_caption(target)}, {method}"
                explanation = self._finished.get(key)
                if explanation is None:
                    watch = partial(self._watch, stop, place, caption)
                    explanation = explain(
                        self.detector, image, target, method=method, watch=watch, progress=False, **options
                    )
                    with self._lock:  # the photo may change meanwhile
                        if not stop.is_set():
                            newest = list(self._finished.items())[-KEPT + 1 :]
                            self._finished = dict(newest) | {key: explanation}
                how = "stopped after" if stop.is_set() else "done:"
                made = f"{explanation.n_forward} masks, {explanation.seconds:.1f} s"
                self._show(stop, place, explanation, f"{caption}: {how} {made}")
            for place, explanation in list(self._shown.items()):
                if stop.is_set():
                    return
                saliency = explanation.saliency[0]
                score = metrics.over_all(self.detector, image, target, saliency, steps=STEPS).score
                self.panels[place].caption.value = _numbers(explanation, score)
        except Exception as error:  # whatever a person's own detector raises must reach that person
            self._say_error(error)
        finally:
            if self._explainer.stop is stop:
                self.stop.disabled = True
                self._draw_step()

    def _watch(self, stop: threading.Event, place: int, caption: str, so_far: Explanation) -> bool:
        self._show(stop, place, so_far, f"{caption}: {so_far.n_forward} masks so far")
        return stop.is_set()

    def _show(self, stop: threading.Event, place: int, explanation: Explanation, text: str) -> None:
        with self._lock:
            if self._explainer.stop is not stop:  # another box or photo has been chosen since
                return
            self._shown[place] = explanation
            if place == 0:
                self.explanation = explanation
            self._redraw(place)
            self.panels[place].caption.value = _numbers(explanation)
            self._say(text)

    def _redraw(self, *places: int) -> None:
        """Lay the maps over the photo anew."""
        style = {"opacity": self.opacity.value, "threshold": self.threshold.value}
        for place in places or tuple(self._shown):
            self.panels[place].show(_jpeg(_overlay(self._shown[place], **style)))

    def _restyle(self) -> None:
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
        k, explanation = self.steps.selected_index, self.explanation
        if k is None or explanation is None:
            return
        if explanation.levels is None:
            self._say(f"The steps are D-CLOSE's: {explanation.method} has none of them.")
            return
        self._artist.do(self._draw, k, explanation)

    def _draw(self, stop: threading.Event, k: int, explanation: Explanation) -> None:
        if stop.is_set():
            return
        draw = list(STEP_DRAWINGS.values())[k]
        figure = Figure(figsize=(12, 3.2), layout="constrained")  # pyplot's are not made for threads
        try:
            draw(self.detector, explanation, figure)
        except Exception as error:  # as in `_run`
            self._say_error(error)
            return
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=80)
        self.steps.children[k].value = content.getvalue()

    def _write_code(self) -> None:
        """Show the cell that makes the same figures."""
        k = self.list.value
        if k is None:
            return
        styles = {"opacity": (self.opacity.value, plot.OPACITY), "threshold": (self.threshold.value, 0)}
        style = "".join(f", {name}={value:g}" for name, (value, usual) in styles.items() if value != usual)
        lines = ["import dclose_nb as dc", ""]
        if self.detector.name in (*OFFICIAL, *NETWORKS):
            lines.append(f"detector = dc.load_detector({self.detector.name!r})")
        else:
            lines.append(f"# detector: the one that was explored, {self.detector.name}")
        if self.name is None:
            lines.append("# image: the array that was explored")
        else:
            lines.append(f"image = dc.load_photo({self.name!r})")
        lines.append(f"target = detector.detect(image)[{k}]  # {_caption(self.detections[k])}")
        for method, options in self._plans:
            usual = _defaults(method)
            given = {"method": method} | {name: v for name, v in options.items() if v != usual[name]}
            arguments = "".join(f", {name}={value!r}" for name, value in given.items())
            lines.append(f"explanation = dc.explain(detector, image, target{arguments})")
            lines.append(f"dc.plot.explanation(explanation{style})")
        self.code.value = "\n".join(lines)

    def _save(self) -> None:
        if self.explanation is None:
            self._say("There is nothing to save yet: click a box.")
            return
        try:
            self._say(f"Saved in {reports.report(self.explanation, self.folder.value)}")
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

    def cancel(self) -> None:
        """Stop what is under way. It can tell by `stop`, which is another event from now on."""
        self.stop.set()
        self.stop = threading.Event()

    def do(self, work: Callable[..., None], *arguments: Any) -> None:
        """Cancel what is under way, and do this with an event that says when to stop."""
        self.cancel()
        self.todo.put(partial(work, self.stop, *arguments))

    def close(self) -> None:
        self.stop.set()
        self.todo.put(None)
        self._thread.join(timeout=2)

    def _work(self) -> None:
        while work := self.todo.get():
            work()
            self.todo.task_done()


def _defaults(method: str) -> dict[str, Any]:
    """A method's options, and the seed where it draws masks, as `explain` takes them by default."""
    made = make(method)
    return asdict(made) | ({"seed": 0} if isinstance(made, Method) else {})


def _caption(detection: Detections) -> str:
    return f"{detection.names[0]} {detection.scores[0]:.2f}"


def _numbers(explanation: Explanation, over_all: float | None = None) -> str:
    """Scores of a map, as HTML."""
    saliency, box = explanation.saliency[0], explanation.detections.boxes[0]
    scores = f"sparsity {metrics.sparsity(saliency):.1f}, energy in the box {metrics.ebpg(saliency, box):.2f}"
    if over_all is not None:
        scores += f", insertion less deletion {over_all:.2f}"
    return f"<b>{html.escape(explanation.method)}</b>: {scores}"


def _overlay(explanation: Explanation, *, opacity: float, threshold: float) -> np.ndarray:
    """The photo under the map of a target, with its box."""
    picture = plot.fit(explanation.image, PICTURE)
    saliency = cv2.resize(explanation.saliency[0], picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    drawn = plot.blend(picture, saliency, opacity=opacity, threshold=threshold)
    box = explanation.detections.boxes[0] * picture.shape[1] / explanation.image.shape[1]
    x1, y1, x2, y2 = box.round().astype(int).tolist()
    for colour, width in (((0, 0, 0), 4), ((0, 255, 255), 2)):
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, width)
    return drawn


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


# The seven steps


def _planned(detector: Detector, explanation: Explanation) -> tuple[Canvas, Plan]:
    """The image as the network sees it, and what was sampled."""
    canvas = detector.prepare(explanation.image)
    return canvas, make(explanation.method, **explanation.params).plan(canvas, explanation.seed)


def _sampled(detector: Detector, explanation: Explanation) -> tuple[Canvas, Plan, list[np.ndarray]]:
    """The image, and the weights of the first masks of each level, (SAMPLE,) each."""
    canvas, plan = _planned(detector, explanation)
    plan = plan._replace(counts=[SAMPLE] * len(plan.samplers))
    levels = sample(detector, canvas, explanation.detections, plan, progress=False)
    return canvas, plan, [level.weights[:, 0] for level in levels]


def _row(figure: Figure, n: int) -> list[Axes]:
    return list(figure.subplots(1, n, squeeze=False)[0])


def _draw_superpixels(detector: Detector, explanation: Explanation, figure: Figure) -> None:
    canvas, plan = _planned(detector, explanation)
    for ax, sampler in zip(_row(figure, len(plan.samplers)), plan.samplers):
        plot.superpixels(canvas.content_image, sampler.cells.cpu().numpy(), ax=ax)


def _draw_masks(detector: Detector, explanation: Explanation, figure: Figure) -> None:
    _, plan = _planned(detector, explanation)
    masks = [sampler.masks(0, 1)[0].cpu().numpy() for sampler in plan.samplers]
    titles = [f"{sampler.n_cells} superpixels" for sampler in plan.samplers]
    plot.masks(masks, titles=titles, ax=_row(figure, len(masks)))


def _draw_masked(detector: Detector, explanation: Explanation, figure: Figure) -> None:
    """Of a few masks of each level the one that leaves most of the target."""
    canvas, plan, weights = _sampled(detector, explanation)
    for ax, sampler, weight in zip(_row(figure, len(weights)), plan.samplers, weights):
        best = int(weight.argmax())
        masked = canvas.pixels.clone()
        masked[:, *canvas.window] *= sampler.masks(best, best + 1)[0]
        hidden = replace(canvas, pixels=masked)
        picture = cv2.resize(hidden.content_image, explanation.image.shape[1::-1])
        plot.detections(picture, detector.detect_on(hidden), ax=ax)
        ax.set_title(f"weight {weight[best]:.2f}")


def _draw_weights(detector: Detector, explanation: Explanation, figure: Figure) -> None:
    _, plan, weights = _sampled(detector, explanation)
    ax = figure.subplots()
    ax.boxplot(weights, tick_labels=[str(sampler.n_cells) for sampler in plan.samplers])
    for k, weight in enumerate(weights):
        ax.plot(np.full(SAMPLE, k + 1), weight, ".", color="C0")
    ax.set(xlabel="superpixels", ylabel="weight (Eq. 6)", title=f"{SAMPLE} masks a level")


def _draw_density(_: Detector, explanation: Explanation, figure: Figure) -> None:
    plot.density(explanation, ax=_row(figure, len(explanation.segments)))


def _draw_levels(_: Detector, explanation: Explanation, figure: Figure) -> None:
    plot.levels(explanation, ax=_row(figure, len(explanation.segments)))


def _draw_cascade(_: Detector, explanation: Explanation, figure: Figure) -> None:
    figure.set_size_inches(12, 6)
    plot.cascade(explanation, ax=figure.subplots(2, len(explanation.segments), squeeze=False))


STEP_DRAWINGS: dict[str, Callable[[Detector, Explanation, Figure], None]] = {
    "superpixels of each level (3.1)": _draw_superpixels,
    "a mask of each level (3.1)": _draw_masks,
    "masked images, and what is detected in them (3.5)": _draw_masked,
    "weights (3.2, Eq. 6)": _draw_weights,
    "density (3.3, Eq. 3)": _draw_density,
    "levels (3.3, Eq. 7)": _draw_levels,
    "the cascade (3.4, Eq. 8)": _draw_cascade,
}
