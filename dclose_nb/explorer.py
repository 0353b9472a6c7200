"""Notebook 12: click a box in a notebook cell and watch its map sharpen, ``dc.explore(detector, image)``."""

from __future__ import annotations

import atexit
import base64
import html
import io
import itertools
import re
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, ClassVar

import cv2
import ipywidgets as widgets
import numpy as np
import torch
from IPython import get_ipython
from matplotlib.colors import to_hex
from matplotlib.pyplot import get_cmap
from PIL import Image, ImageDraw, ImageOps

from . import checks, explorer_steps, files, metrics, plot, reports
from .checks import InputError
from .detection import Detections, Detector
from .detectors import load_detector, picodet
from .detectors.planted import NETWORKS
from .detectors.weights import OFFICIAL
from .explanation import Explanation, explain
from .explorer_steps import STEPS
from .images import decode, load_photo
from .masks import SEGMENTS
from .methods import METHODS, Method, make

METHOD = "regression"  # that is shown first: a map in seconds
PREVIEW = "odam"  # a map from one backward pass, until there are masks
LABELS = {"dclose": "dclose (the paper's)"}  # of methods, where it is not the name
UNWATCHED = ("greedy",)  # it takes minutes, and neither shows a map on the way nor stops
PICTURE = 900  # pixels of a drawn picture's longer side
SHARE = 45  # percent of the window's height that a picture takes at most
COLUMN = 230  # pixels of a picture with its words at least, as in the stylesheet
SMALLEST = 260, 320  # pixels of the photo in a small window: its width, and its height at most
NUMBER = 22, 18  # pixels of a box's number, as in the stylesheet: width and height
LARGEST = 12_000_000  # pixels of an uploaded photo; a larger one is shrunk
STEPS_OF_CURVES = 20  # of deletion and insertion, for the over-all score
SETTABLE = {"n_masks", "p", "r", "seed"}  # options of methods that have controls, as segments have, too
MOST = 100_000  # masks
NO_BOX = -1  # in the list of boxes
SCORING = "; scoring ..."  # stands after what a map was made of
NOTHING = (
    "No object was found with a score of 0.25 or more. Try another photo or a larger detector, or explain "
    "what is less certain in a cell: dc.explain(detector, image, detector.detect(image, confidence=0.1))."
)
UNSTARTED = "Run this cell to start the explorer."  # in its place, where it cannot be shown
STILL = Path(__file__).parent / "assets" / "explorer.jpg"  # what an explorer looks like, by docs/film.py
KEPT = 500_000_000  # bytes of a photo's explanations that need not be made again


def explore(detector: Detector | str, image: Any) -> Explorer:
    """Explore why a detector draws its boxes: an explorer to stand last in a notebook cell.

    Click a box, or choose it from the list: its map appears and sharpens while masks are added. The
    kernel stays free meanwhile. One explorer of a kernel computes at a time: a new one, and a click in
    another one, stop it.

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
    >>> explorer = dc.explore("yolox_nano", "coffee")  # doctest: +SKIP
    >>> explorer  # doctest: +SKIP
    """
    return Explorer(load_detector(detector), image)


@dataclass(eq=False)
class Photo:
    """A photo, what was found in it, and its explanations that need not be made again.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    detections : Detections
    name : str
        What saved files are called after.
    source : str or None
        What `load_photo` takes. An array and an upload have none until they are saved.
    """

    image: np.ndarray
    detections: Detections
    name: str
    source: str | None
    finished: dict[Any, Explanation] = field(default_factory=dict)  # by what was asked for, newest last
    over_all: dict[Any, float] = field(default_factory=dict)  # score of their maps

    def keep(self, key: Any, explanation: Explanation) -> None:
        """Keep an explanation as the newest. The oldest go if all fill more than `KEPT`, but two stay."""
        self.finished.pop(key, None)
        self.finished[key] = explanation
        while len(self.finished) > 2 and sum(map(_size, self.finished.values())) > KEPT:
            del self.finished[next(iter(self.finished))]


@dataclass(eq=False)
class Run:
    """A box of a photo that is explained by a method, or by two. The explorer shows one run at a time."""

    photo: Photo
    k: int  # of the box
    plans: list[tuple[str, dict[str, Any]]]  # methods and their options
    stop: threading.Event = field(default_factory=threading.Event)
    maps: dict[int, Explanation] = field(default_factory=dict)  # by panel, as far as they have come
    failed: set[int] = field(default_factory=set)  # panels of which no map could be made or scored

    @property
    def target(self) -> Detections:
        return self.photo.detections[self.k]

    @property
    def caption(self) -> str:
        return _caption(self.photo, self.k)

    def key(self, place: int) -> Any:
        """What is asked for in a panel, among all that is asked of the photo."""
        method, options = self.plans[place]
        return self.k, method, tuple(options.items())

    def finished(self, place: int) -> Explanation | None:
        return self.photo.finished.get(self.key(place))

    def asks_like(self, other: Run) -> bool:
        return self.photo is other.photo and (self.k, self.plans) == (other.k, other.plans)


class _Worker:
    """A thread that does one job after another. It starts with the first one."""

    def __init__(self) -> None:
        self._jobs: Queue[Callable[[], object] | None] = Queue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def do(self, job: Callable[[], object]) -> None:
        """Do a job after those that were asked for before."""
        self._jobs.put(job)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Wait until all jobs are done."""
        self._jobs.join()

    def close(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(timeout=2)

    def _work(self) -> None:
        while job := self._jobs.get():
            try:
                job()
            except BaseException:  # even SystemExit of a detector: the thread serves all explorers
                traceback.print_exc()
            finally:
                self._jobs.task_done()


class Explorer(widgets.VBox):
    """See `explore`.

    Attributes
    ----------
    explanation : Explanation or None
        What the first panel shows, as far as it has come: the same as `explain` gives.
    image : (H, W, 3) uint8 array
        The photo.
    detections : Detections
        What was found in it.
    status_text, saved_text : str
        What the lines above the photo and beside *Save* say.
    """

    _explainer, _artist = _Worker(), _Worker()  # of all explorers; the second draws steps
    _latest: ClassVar[Run | None] = None  # that any explorer has begun

    def __init__(self, detector: Detector, image: Any) -> None:
        self.detector = detector
        self._run: Run | None = None  # what is shown belongs to it; `_begin` alone replaces it
        if isinstance(image, str | Path):
            pixels, name, source = load_photo(image), Path(image).stem, str(image)
        else:
            pixels, name, source = checks.image(image).copy(), "image", None  # the caller may change its own
        self._stop_latest()
        for worker in (self._explainer, self._artist):
            # It begins now: a thread keeps the number of threads that PyTorch has when it begins
            worker.do(torch.get_num_threads)
        if not detector.thread_safe:
            self._artist = self._explainer  # one thread asks the detector
            self._explainer.wait()
        detections = detector.detect(pixels)
        self._lock = threading.RLock()
        self._clicked: dict[str, datetime] = {}  # when each page sent its last click that was answered
        self._build()
        super().__init__(self._rows())
        self.add_class("dclose-explorer")
        self._take(Photo(pixels, detections, name, source))

    @property
    def explanation(self) -> Explanation | None:
        return None if self._run is None else self._run.maps.get(0)

    @property
    def image(self) -> np.ndarray:
        return self.photo.image

    @property
    def detections(self) -> Detections:
        return self.photo.detections

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget and, for pages that can show none, the picture that it shows now, which says so."""
        shown = self.picture.children[0] if self.explanation is None else self.panels[0].image
        still = {
            "text/plain": f"Explorer of what {self.detector.name} found",
            "image/jpeg": base64.b64encode(_still(shown.value)).decode(),
        }
        return super()._repr_mimebundle_(**kwargs) | still

    # What is on the page

    def _build(self) -> None:
        style = {"style": {"description_width": "initial"}}
        late = {"continuous_update": False} | style  # a run begins when the hand is off the control
        share = {"min": 0, "max": 1, "step": 0.05} | style
        methods = [(LABELS.get(name, name), name) for name in METHODS if name not in UNWATCHED]
        beside = [("(none)", ""), *methods]  # with None for "", ipywidgets would show nothing
        self.boxes: list[widgets.Button] = []
        self.list = widgets.Dropdown(description="box", **style)
        self.options: dict[str, widgets.Widget] = {
            "method": widgets.Dropdown(options=methods, value=METHOD, description="method", **style),
            "beside": widgets.Dropdown(options=beside, description="beside it", **style),
            "n_masks": widgets.Text(description="masks", tooltip="empty: each method's own number", **late),
            "p": widgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="p, kept", **late),
            "r": widgets.FloatSlider(2.2, min=0, max=5, step=0.1, description="r, enlarged", **late),
            "seed": widgets.BoundedIntText(0, max=2**31 - 1, description="seed", **late),
        }
        self.segments = {n: widgets.Checkbox(True, description=f"{n}", indent=False) for n in SEGMENTS}
        self.opacity = widgets.FloatSlider(plot.OPACITY, description="opacity", **share)
        self.threshold = widgets.FloatSlider(0, description="threshold", **share)
        self.stop = widgets.Button(description="Stop", icon="stop", tooltip="keep the map so far")
        self.save = widgets.Button(description="Save", icon="download", tooltip="figures and maps")
        self.upload = widgets.FileUpload(accept="image/*", description="Another photo")
        self.folder = widgets.Text("explanations/explorer", description="folder of what is saved", **style)
        self.status, self.saved = widgets.HTML(), widgets.HTML()
        self.progress = widgets.IntProgress()
        self.picture, self.label, self.pictures = widgets.Box(), widgets.HTML(), widgets.Box()
        self.panels = [_Panel(), _Panel()]
        words = "superpixels, p, r, seed, and where to save"
        self.more = widgets.ToggleButton(False, description="More options", icon="sliders", tooltip=words)
        steps = [("none", ""), *((f"{k}. {name}", name) for k, name in enumerate(STEPS, 1))]
        self.steps = widgets.ToggleButtons(options=steps, description="steps", style={"button_width": "auto"})
        self.step_text, self.step = widgets.HTML(), widgets.Image(format="png")
        words = "The code of the map will stand here."
        self.code = widgets.Textarea(description="code", placeholder=words, disabled=True, **style)

        self._offer()
        controls = *self.options.values(), *self.segments.values()
        self._answer(controls, self._offer)  # first: it says what the methods have a use for
        self._answer((*controls, self.list), self._start)
        self._answer((self.opacity, self.threshold), self._restyle)
        self._answer((self.steps,), self._draw_step)
        self._answer((self.upload,), self._take_upload)
        self._answer((self.stop,), partial(self._unless_late, self._stop))
        self._answer((self.save,), self._save)

    def _answer(self, controls: Iterable[widgets.Widget], answer: Callable[[], None]) -> None:
        """Let these controls be answered, one after another: kernels may run answers side by side."""

        def in_turn(_: Any) -> None:
            with self._lock:
                answer()

        for control in controls:
            if isinstance(control, widgets.Button):
                control.on_click(in_turn)
            else:
                control.observe(in_turn, "value")

    def _unless_late(self, answer: Callable[[], None]) -> None:
        """Answer a click, unless a later one of the same page was answered before.

        A kernel that has just started may answer out of order.
        """
        page, sent = _message()
        if sent >= self._clicked.get(page, sent):
            self._clicked[page] = sent
            answer()

    def _rows(self) -> list[widgets.Widget]:
        self.pictures.children = [widgets.VBox([self.picture, self.label]), *self.panels]
        sizes = widgets.Box([widgets.Label("superpixels"), *self.segments.values()])
        folded = widgets.Box([sizes, *(self.options[name] for name in ("p", "r", "seed")), self.folder])
        widgets.dlink(
            (self.more, "value"), (folded.layout, "display"), lambda shown: None if shown else "none"
        )
        named = {
            "controls": widgets.Box([self.list, *(self.options[n] for n in ("method", "beside", "n_masks"))]),
            "status": widgets.Box([self.stop, self.status, self.progress]),
            "pictures": self.pictures,
            "look": widgets.Box([widgets.HTML(_colour_bar()), self.opacity, self.threshold]),
            "actions": widgets.Box([self.upload, self.more, self.save, self.saved]),
            "folded": folded,
            "steps": widgets.VBox([self.steps, self.step_text, self.step]),
            "code": self.code,
        }
        for name, row in named.items():
            row.add_class(f"dclose-{name}")
        self.picture.add_class("dclose-picture")
        self.save.add_class("dclose-save")
        # The stylesheet brings a script along: ipywidgets gives sliders no names, and counts uploads.
        script = html.escape(reports.asset("explorer.js"))
        return [
            widgets.HTML(f'<style onload="{script}">{reports.asset("explorer.css")}</style>'),
            *named.values(),
        ]

    def _say(self, text: str, masks: int = 0, of: int = 0) -> None:
        """Say something above the photo, and how many masks have been made of how many."""
        self.status_text = text
        self.status.value = _spoken(text)
        self.progress.max, self.progress.value = max(of, 1), masks
        self.progress.layout.visibility = "visible" if of else "hidden"

    # A photo, its boxes, and the one that is chosen

    def _take(self, photo: Photo) -> None:
        """Show a photo and what was found in it."""
        self.photo, image = photo, photo.image
        height, width = image.shape[:2]
        shares = (self.detections.boxes / [width, height, width, height]).clip(0, 1)  # (n, 4)
        colours = [plot.box_colour(k) for k in range(len(shares))]
        self.boxes = [self._button(k, *place) for k, place in enumerate(zip(shares.tolist(), colours))]
        areas = np.prod(shares[:, 2:] - shares[:, :2], axis=1)
        on_top_last = [self.boxes[k] for k in np.argsort(-areas)]  # a small box is never behind a large one
        ground = widgets.Button(tooltip="no box here", tabbable=False)
        ground.add_class("dclose-ground")
        words = "There is no box here: click one, or choose it from the list."
        self._answer((ground,), partial(self._unless_late, partial(self._say, words)))
        numbers = widgets.HTML(_numbers(shares, colours, width / height))
        numbers.add_class("dclose-numbers")
        picture = widgets.Image(value=_jpeg(plot.fit(image, PICTURE)), format="jpeg")
        before, self.picture.children = self.picture.children, [picture, ground, *on_top_last, numbers]
        for gone in before:  # ipywidgets keeps what is not closed
            gone.layout.close()
            gone.close()
        captions = [(_caption(self.photo, k), k) for k in range(len(self.boxes))]
        self.list.options = [("choose one" if captions else "none found", NO_BOX), *captions]
        self.list.index = 0  # not one of the boxes: it would be explained unasked
        self._begin(None)

    def _button(self, k: int, edges: list[float], colour: str) -> widgets.Button:
        """The k-th detection's box on the photo, of which `edges` are shares."""
        x1, y1, x2, y2 = edges
        place = {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
        layout = {name: f"{share:.3%}" for name, share in place.items()}
        button = widgets.Button(
            description=_caption(self.photo, k), layout=widgets.Layout(border=f"3px solid {colour}", **layout)
        )
        button.add_class("dclose-box")
        if x1 > 0.5:
            button.add_class("dclose-right")  # its label grows to the left
        self._answer((button,), partial(self._unless_late, partial(self._choose, self.photo, k)))
        return button

    def _choose(self, photo: Photo, k: int) -> None:
        if photo is not self.photo:  # a late click on a photo that has gone
            return
        if self.list.value == k:
            self._start()  # again, if it was stopped
        else:
            self.list.value = k

    def _take_upload(self) -> None:
        """Read an uploaded photo, and let the detector look at it once the run that is shown has stopped."""
        for file in self.upload.value:
            name = str(file["name"])
            try:
                image = decode(io.BytesIO(bytes(file["content"])), name)
                factor = (LARGEST / (image.shape[0] * image.shape[1])) ** 0.5
                if factor < 1:
                    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            except Exception as error:  # as in `_explain`
                self._say(_words(error))
            else:
                self._stop()
                self._say(f"Looking for objects in {name} ...")
                self._explainer.do(partial(self._detect, image, name, factor < 1))
        self.upload.value = ()  # the same file may come again

    def _detect(self, image: np.ndarray, name: str, shrunk: bool) -> None:
        """Show an uploaded photo and what is found in it; in a thread of its own.

        Where the detector fails, the photo that is shown stays.
        """
        try:
            detections = self.detector.detect(image)
        except (Exception, SystemExit) as error:  # as in `_explain`
            with self._lock:
                self._say(_words(error))
            return
        with self._lock:
            self._take(Photo(image, detections, Path(name).stem, None))
            if shrunk:
                height, width = image.shape[:2]
                self._say(f"The photo was shrunk to {width} x {height} pixels. {self.status_text}")

    # The run

    def _offer(self) -> None:
        """Offer the controls that the methods have a use for, and say how many masks they take by themselves.

        No value is changed here: a person may be typing one.
        """
        usual = [options for _, options in self._usual()]
        used = set().union(*usual)
        for name in ("n_masks", "p", "r", "seed"):
            self.options[name].disabled = name not in used
        for box in self.segments.values():
            box.disabled = "segments" not in used
        numbers = [str(options["n_masks"]) for options in usual if "n_masks" in options]
        self.options["n_masks"].placeholder = " and ".join(numbers) or "none"

    def _usual(self) -> list[tuple[str, dict[str, Any]]]:
        """The methods that are chosen, and the defaults of what the controls can set of each."""
        chosen = filter(None, (self.options["method"].value, self.options["beside"].value))
        return [(method, _settable(method)) for method in chosen]

    def _plans(self) -> list[tuple[str, dict[str, Any]]]:
        """The methods that are chosen, and the controls' values, of what each has a use for.

        Without a number of masks each method has its own. What cannot be used raises `InputError`.
        """
        values = {name: control.value for name, control in self.options.items()}
        values["segments"] = tuple(n for n, box in self.segments.items() if box.value)
        typed, usual = values.pop("n_masks").strip(), self._usual()
        if typed and any("n_masks" in options for _, options in usual):
            number = int(typed) if re.fullmatch(r"\d{1,9}", typed) else typed
            values["n_masks"] = checks.at_least("masks", number, 1, largest=MOST)
        plans = [
            (method, {name: values.get(name, value) for name, value in options.items()})
            for method, options in usual
        ]
        if any(options.get("segments") == () for _, options in plans):
            raise InputError("Choose at least one size of superpixels.")
        return plans

    def _start(self) -> None:
        """Explain the chosen box as the controls say, unless that is what is done already."""
        try:
            k, plans = self.list.value, self._plans()
        except InputError as error:
            self._begin(None)
            self._say(str(error))
            return
        if k == NO_BOX:
            self._begin(None)
            return
        run, now = Run(self.photo, k, plans), self._run
        if now is None or now.stop.is_set() or not run.asks_like(now):
            self._begin(run)

    def _begin(self, run: Run | None) -> None:
        """Show this run from now on, or none. The one before is retired, and nothing of it is shown again."""
        self._stop()
        self._run = run
        image, n = self.photo.image, 1 + len(self._usual())  # pictures side by side
        faint = _faint(image)
        for place, panel in enumerate(self.panels, 1):
            panel.image.value = faint if place < n else b""
            panel.caption.value = "The map will be here." if place < n else ""
            panel.layout.display = None if place < n else "none"
        widest = f"{SHARE}vh * {image.shape[1] / image.shape[0]:.4f}"  # of a picture
        for picture in (self.picture, *(panel.image for panel in self.panels)):
            picture.layout.width = f"min(100%, {widest})"
        self.pictures.layout.max_width = f"calc({n} * max({widest}, {COLUMN}px) + {n - 1} * 8px)"
        chosen = self.list.value  # it stays so where the controls are refused, and there is no run
        for k, button in enumerate(self.boxes):
            (button.add_class if k == chosen else button.remove_class)("dclose-chosen")
        self.label.value = "" if chosen == NO_BOX else f"<b>{html.escape(_caption(self.photo, chosen))}</b>"
        self.stop.disabled = self.save.disabled = run is None
        self._say_saved("")
        self._write_code()
        self._draw_step()
        if run is None:
            found = len(self.boxes)
            words = "1 box found: click it." if found == 1 else f"{found} boxes found: click one."
            self._say(words if found else NOTHING)
        else:
            self._say(f"{run.caption}: looking ...")
            self._stop_latest()
            Explorer._latest = run
            self._explainer.do(partial(self._explain, run))

    @staticmethod
    def _stop_latest() -> None:
        """Keep what there is of the run that is computed, whichever explorer shows it."""
        if Explorer._latest is not None:
            Explorer._latest.stop.set()

    def _stop(self) -> None:
        """Keep what there is of the run that is shown."""
        if self._run is not None:
            self._run.stop.set()

    def _explain(self, run: Run) -> None:
        """Explain by each method in turn, then score the maps; in a thread of its own."""
        for work in (self._preview, self._explain_by, self._score):
            for place in range(len(run.plans)):
                try:
                    if not run.stop.is_set():
                        work(run, place)
                # Whatever a person's own detector raises must reach that person
                except (Exception, SystemExit) as error:
                    if work != self._preview:
                        run.failed.add(place)
                    self._tell(run, partial(self._fail, run, place, error))
        self._tell(run, partial(self._finish, run))

    def _preview(self, run: Run, place: int) -> None:
        """Draw a map by `PREVIEW` on each panel whose own map is made from masks and not yet known.

        The preview is made once, for all panels, and it is not kept: the explorer never gives it as a result.
        """
        waiting = [
            panel
            for panel, (_, options) in enumerate(run.plans)
            if "n_masks" in options and run.finished(panel) is None
        ]
        if place not in waiting[:1] or not self.detector.feature_layers:
            return
        preview = explain(self.detector, run.photo.image, run.target, method=PREVIEW, progress=False)

        def show() -> None:
            for panel in waiting:
                self._draw_on(panel, preview)
                self._say_below(
                    panel, f"<b>{PREVIEW}</b>, {_made(preview)}: a preview, until there are masks"
                )

        self._tell(run, show)

    def _explain_by(self, run: Run, place: int) -> None:
        """Explain by one of the methods."""
        method, options = run.plans[place]
        total = options.get("n_masks", 0)

        def watch(so_far: Explanation) -> bool:
            self._show(run, place, so_far, f"{so_far.n_forward} of {total} masks")
            return run.stop.is_set()

        explanation = run.finished(place)
        if explanation is None:
            image, target = run.photo.image, run.target
            explanation = explain(
                self.detector, image, target, method=method, watch=watch, progress=False, **options
            )
        if not run.stop.is_set():
            run.photo.keep(run.key(place), explanation)
        made = _made_in(explanation)
        self._show(run, place, explanation, f"stopped after {made}" if run.stop.is_set() else made + SCORING)

    def _score(self, run: Run, place: int) -> None:
        """Score the map of one of the methods, if it is finished."""
        if explanation := run.finished(place):
            key, known = run.key(place), run.photo.over_all
            if key not in known:
                saliency, steps = explanation.saliency[0], STEPS_OF_CURVES
                curves = metrics.over_all(self.detector, run.photo.image, run.target, saliency, steps=steps)
                known[key] = curves.score
            self._tell(run, partial(self._say_below, place, _scores(explanation, known[key])))
            if place == len(run.plans) - 1:
                self._tell(run, partial(self._say_end, run, "done: "))

    def _tell(self, run: Run, change: Callable[[], None]) -> None:
        """Change the page if this run is still the one that is shown."""
        with self._lock:
            if run is self._run:
                change()

    def _show(self, run: Run, place: int, explanation: Explanation, text: str) -> None:
        def show() -> None:
            if not run.maps:
                self._say_saved("")  # that there is nothing to save is no longer so
            run.maps[place] = explanation
            self._draw_on(place, explanation)
            self._say_below(place, _scores(explanation))
            self._say_of(run, explanation, text)

        self._tell(run, show)

    def _say_of(self, run: Run, explanation: Explanation, text: str) -> None:
        """Say something of one of a run's maps, and how many masks it has."""
        total = explanation.params.get("n_masks", 0)
        self._say(f"{run.caption}, {explanation.method}: {text}", explanation.n_forward, total)

    def _say_below(self, place: int, words: str) -> None:
        self.panels[place].caption.value = words

    def _say_end(self, run: Run, how: str) -> None:
        """Say in place of "scoring ..." how a run ended; a failure stays as it is said."""
        if self.status_text.endswith(SCORING):
            last = run.maps[max(run.maps)]
            self._say_of(run, last, how + _made_in(last))

    def _fail(self, run: Run, place: int, error: BaseException) -> None:
        self._say_below(place, f"<b>{run.plans[place][0]}</b>: {html.escape(_words(error))}")
        self._say(_words(error))

    def _finish(self, run: Run) -> None:
        self.stop.disabled = True
        if run.stop.is_set():
            self._say_end(run, "not scored: ")
            if not run.maps:
                self._say("Stopped before there was a map.")
        for place, (method, _) in enumerate(run.plans):
            if place not in run.maps:
                self.panels[place].image.value = _faint(run.photo.image)  # in place of the preview
                if place not in run.failed:
                    self._say_below(place, f"<b>{method}</b>: stopped before it began")
        if run.failed:
            run.stop.set()  # so that another click tries again
        self._write_code()
        self._draw_step()

    def _restyle(self) -> None:
        """Lay the maps over the photo anew."""
        for place, explanation in self._run.maps.items() if self._run else ():
            self._draw_on(place, explanation)
        self._write_code()

    @property
    def _style(self) -> dict[str, Any]:
        """How maps are laid over the photo, see `plot.blend`."""
        return {"opacity": self.opacity.value, "threshold": self.threshold.value}

    def _draw_on(self, place: int, explanation: Explanation) -> None:
        box = explanation.detections.boxes[0]
        drawn = _drawn(explanation.image, explanation.saliency[0], box, **self._style)
        self.panels[place].image.value = _jpeg(drawn)

    def wait(self) -> Explorer:
        """Wait until all that was asked for is there, as a script may want to.

        Where no box is chosen, it raises `InputError`.
        """
        self._explainer.wait()
        self._artist.wait()
        if self.list.value == NO_BOX:
            raise InputError("choose a box first: click one, or choose it from the list")
        return self

    @classmethod
    def _end(cls) -> None:
        """End the threads, before the kernel does."""
        cls._stop_latest()
        cls._explainer.close()
        cls._artist.close()

    # The steps, the code, and what is kept

    def _draw_step(self) -> None:
        """Show the step that is open, of the run that is shown, once it is drawn."""
        name, run = self.steps.value, self._run
        if not name or run is None or 0 not in run.maps:
            self._show_step("The step is drawn once there is a map." if name else "")
            return
        self._show_step("Drawing ...")
        self._artist.do(partial(self._draw, name, run, run.maps[0]))

    def _draw(self, name: str, run: Run, explanation: Explanation) -> None:
        """Draw a step; in a thread of its own."""
        picture, text = b"", f"{explanation.method}: {STEPS[name].title}"
        if run is self._run and name == self.steps.value:
            try:
                picture = explorer_steps.picture(STEPS[name], self.detector, explanation)
            except Exception as error:  # as in `_explain`
                text = _words(error)
        if name == self.steps.value:
            self._tell(run, partial(self._show_step, text, picture))

    def _show_step(self, text: str, picture: bytes = b"") -> None:
        self.step_text.value, self.step.value = html.escape(text), picture
        self.step.layout.display = None if picture else "none"

    def _write_code(self) -> None:
        """Show the cell that makes the same figures."""
        run = self._run
        if run is None:
            self.code.value = ""
            return
        usual = {"opacity": plot.OPACITY, "threshold": 0}
        style = "".join(f", {name}={v:g}" for name, v in self._style.items() if v != usual[name])
        lines, known = ["import dclose_nb as dc", ""], _is_known(self.detector)
        if not known or run.photo.source is None:
            lines.append("# explorer = dc.explore(...): the explorer must have this name")
        if known:
            lines.append(f"detector = dc.load_detector({self.detector.name!r})")
        else:
            lines.append("detector = explorer.detector")
        if run.photo.source is None:
            lines.append("image = explorer.image  # after Save, this line reads the photo's file")
        else:
            lines.append(f"image = dc.load_photo({run.photo.source!r})")
        lines.append(f"target = detector.detect(image)[{run.k}]  # {run.caption}")
        for place, (name, (method, options)) in enumerate(zip(("explanation", "beside"), run.plans)):
            defaults = _settable(method)
            given = {"method": method} | {key: v for key, v in options.items() if v != defaults[key]}
            arguments = "".join(f", {key}={value!r}" for key, value in given.items())
            made, total = run.maps[place].n_forward if place in run.maps else 0, options.get("n_masks", 0)
            if run.stop.is_set() and 0 < made < total:
                lines.append(f"# The explorer shows a map of {made} masks. The next line makes all {total}.")
            lines.append(f"{name} = dc.explain(detector, image, target{arguments})")
            lines.append(f"dc.plot.explanation({name}{style});")
        self.code.value = "\n".join(lines)

    def _save(self) -> None:
        """Write a report of each map to a folder of its own, and a photo that has no file to one."""
        run, folder = self._run, self.folder.value
        if run is None or not run.maps:
            self._say_saved("There is nothing to save yet.")
            return
        self.save.disabled = True  # until it is done: a second click would save it again
        self._say_saved("Saving ...")
        try:
            parent, photo = checks.path(folder), run.photo
            with files.write_errors(parent):
                parent.mkdir(parents=True, exist_ok=True)
                if photo.source is None:
                    path = _untaken(parent / f"{reports.slug(photo.name)}.png")
                    with files.atomic_write(path) as unfinished:
                        Image.fromarray(photo.image).save(unfinished, "png")
                    photo.source = str(path)
            saved = []
            for _, explanation in sorted(run.maps.items()):
                names = photo.name, f"{run.k + 1} {run.target.names[0]}", explanation.method
                own = _untaken(parent / "_".join(map(reports.slug, names)))
                saved.append(str(reports.report(explanation, own, photo=photo.source, **self._style)))
            said = f"Saved in {' and '.join(saved)}"
        except InputError as error:
            said = str(error)
        finally:
            self.save.disabled = False
        self._write_code()
        self._say_saved(said)

    def _say_saved(self, text: str) -> None:
        self.saved_text, self.saved.value = text, _spoken(text)


class _Panel(widgets.VBox):
    """A map over the photo, and its numbers."""

    def __init__(self) -> None:
        self.image, self.caption = widgets.Image(format="jpeg"), widgets.HTML()
        super().__init__([self.image, self.caption])


atexit.register(Explorer._end)


def _is_known(detector: Detector) -> bool:
    """Whether `load_detector` gives this detector for its name, which a file or a function may have, too."""
    return detector.name in (*OFFICIAL, *NETWORKS, picodet.NAME) and "weights" in detector.provenance


def _size(explanation: Explanation) -> int:
    """Bytes of an explanation's arrays."""
    maps = explanation.saliency, explanation.levels, explanation.density, explanation.error
    return sum(array.nbytes for array in (explanation.image, *maps) if array is not None)


def _message() -> tuple[str, datetime]:
    """Which page sent the message that is being answered, and when. Outside a kernel: none, at no time."""
    kernel = getattr(get_ipython(), "kernel", None)
    header = {} if kernel is None else kernel.get_parent().get("header", {})
    return header.get("session", ""), header.get("date", datetime.min)


def _settable(method: str) -> dict[str, Any]:
    """Defaults of what controls can set of a method; superpixels have controls for several levels only."""
    made = make(method)
    options = asdict(made) | ({"seed": 0} if isinstance(made, Method) else {})
    controls = SETTABLE | {"segments"} if isinstance(options.get("segments"), tuple) else SETTABLE
    return {name: value for name, value in options.items() if name in controls}


def _caption(photo: Photo, k: int) -> str:
    """Number, label and score of a box, in one line."""
    return " ".join(f"{k + 1}: {plot.caption(photo.detections[k])}".split())


def _scores(explanation: Explanation, over_all: float | None = None) -> str:
    """Scores of a map, as HTML; what each means is its tooltip."""
    saliency, box = explanation.saliency[0], explanation.detections.boxes[0]
    scores = {"sparsity": f"{metrics.sparsity(saliency):.1f}", "EBPG": f"{metrics.ebpg(saliency, box):.2f}"}
    scores |= {} if over_all is None else {"over-all": f"{over_all:.2f}"}
    words = (
        f'<abbr title="{reports.SCORES[name]}">{name}</abbr>&nbsp;{score}' for name, score in scores.items()
    )
    said = f"<b>{html.escape(explanation.method)}</b>, {_made(explanation)}: {', '.join(words)}"
    return f"{said}; {reports.FILLS}" if reports.fills(explanation) else said


def _made_in(explanation: Explanation) -> str:
    """What a map was made of, and in what time."""
    return f"{_made(explanation)}, {explanation.seconds:.1f} s"


def _made(explanation: Explanation) -> str:
    """What a map was made of."""
    number = explanation.n_forward
    if "n_masks" in explanation.params:
        return f"{number} masks"
    return "1 forward pass" if number == 1 else f"{number} forward passes"


def _spoken(text: str) -> str:
    """Text that a screen reader reads when it changes, as HTML."""
    return f'<div role="status" aria-live="polite">{html.escape(text)}</div>'


def _words(error: BaseException) -> str:
    """What went wrong, as a sentence; of a detector's own error also where."""
    if isinstance(error, InputError | FloatingPointError):
        return str(error)
    *_, place = traceback.extract_tb(error.__traceback__)
    why = str(error) or type(error).__name__
    return f"the detector failed: {why} ({Path(place.filename).name}, line {place.lineno}, in {place.name})"


def _untaken(path: Path) -> Path:
    """The path, with a number where something of that name is there already."""
    numbered = (path.with_stem(f"{path.stem}_{n}") for n in itertools.count(2))
    return next(free for free in itertools.chain([path], numbered) if not free.exists())


def _numbers(shares: np.ndarray, colours: list[str], aspect: float) -> str:
    """Numbers of boxes on the photo, as HTML: in the corner of a box, or above one that it would hide.

    They are placed as in a small window, in which they lie closest together. A number that finds no room is
    left out; the list still has it. `shares` (n, 4) are the boxes as shares of the photo, `aspect` is its
    width over its height.
    """
    width = min(SMALLEST[0], SMALLEST[1] * aspect)
    frame = np.array([width, width / aspect])
    boxes = shares * np.tile(frame, 2)
    large = np.all(boxes[:, 2:] - boxes[:, :2] >= 2 * np.array(NUMBER), axis=1)
    boxes[large, 1] += NUMBER[1]  # above this edge is in the corner
    places = plot.label_places(boxes, [NUMBER] * len(boxes), frame) / frame
    tags = "".join(
        f'<span style="left:{left:.2%};top:{top:.2%};background:{colour}">{k}</span>'
        for k, ((left, top), colour) in enumerate(zip(places, colours), 1)
        if not np.isnan(left)
    )
    return f'<div aria-hidden="true">{tags}</div>'


def _colour_bar() -> str:
    """What a map's colours mean, as HTML."""
    colours = ", ".join(to_hex(get_cmap(plot.CMAP)(value)) for value in np.linspace(0, 1, 9))
    bar = f'<span style="background: linear-gradient(to right, {colours})"></span>'
    return f'<div class="dclose-bar">saliency, scaled: 0 {bar} 1</div>'


def _drawn(
    image: np.ndarray, saliency: np.ndarray, box: np.ndarray | None = None, **style: float
) -> np.ndarray:
    """The photo under a map (H, W), with a box, as large as it is shown."""
    picture = plot.fit(image, PICTURE)
    small = cv2.resize(saliency, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    drawn = plot.blend(picture, small, **style)
    if box is not None:
        x1, y1, x2, y2 = (box * picture.shape[1] / image.shape[1]).round().astype(int).tolist()
        for colour, width in (((0, 0, 0), 4), ((0, 255, 255), 2)):
            cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, width)
    return drawn


def _faint(image: np.ndarray) -> bytes:
    """The photo (H, W, 3) as it stands where a map will be, as a JPEG."""
    return _jpeg(_drawn(image, np.zeros(image.shape[:2], np.float32)))


def _still(content: bytes) -> bytes:
    """A JPEG under a line of words: nothing in it answers a click."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    size = float(np.clip(picture.width / 19, 1, 30))  # of the letters
    framed = ImageOps.expand(picture, (0, int(1.6 * size) + 1, 0, 0), "#282828")
    ImageDraw.Draw(framed).text((size, 0.1 * size), UNSTARTED, "white", font_size=size)
    return _jpeg(np.asarray(framed))


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
