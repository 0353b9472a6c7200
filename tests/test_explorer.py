"""The explorer, without a browser: what a click, a control and a bad photo lead to."""

import base64
import contextlib
import inspect
import io
import itertools
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dclose_nb as dc
from dclose_nb.explorer import LARGEST, STEPS, STEPS_OF_CURVES, Explorer, _still
from dclose_nb.fusion import min_max
from dclose_nb.methods import METHODS, Maps
from dclose_nb.methods.method import OwnWay
from dclose_nb.planted import RuleDetector, scene

DRAWN = scene(2, layout="overlap")


def same(one, other):
    """Whether two maps differ by rounding alone: `watch` begins with a smaller batch, so sums differ."""
    return np.abs(min_max(one) - min_max(other)).max() < 1e-4


class Cabled(RuleDetector):
    """A detector that answers while its cable is in."""

    unplugged = False

    def predict(self, pixels):
        if self.unplugged:
            raise RuntimeError("the cable is <out>")
        return super().predict(pixels)


class OneAtATime(RuleDetector):
    """A detector that refuses a second thread while it answers a first one."""

    def __init__(self, scene):
        super().__init__(scene)
        self.free = threading.Lock()

    def predict(self, pixels):
        if not self.free.acquire(blocking=False):
            raise RuntimeError("two threads at once")
        try:
            time.sleep(0.02)
            return super().predict(pixels)
        finally:
            self.free.release()


@pytest.fixture
def detector():
    return Cabled(DRAWN)


@pytest.fixture
def explorer(detector):
    explorer = Explorer(detector, DRAWN.image)
    explorer.options["n_masks"].value = "40"
    return explorer


def shown(widget):
    """The picture of a widget as an array."""
    return np.asarray(Image.open(io.BytesIO(widget.value)).convert("RGB")).astype(int)


def until(happened):
    end = time.monotonic() + 30
    while not happened() and time.monotonic() < end:
        time.sleep(0.02)
    assert happened()


def many_masks(explorer):
    """A run that does not end by itself, by a method that takes so many masks."""
    explorer.options["method"].value = "contrast"
    explorer.options["n_masks"].value = "100000"


def waits_for_a_choice(explorer):
    with pytest.raises(dc.InputError, match=r"^choose a box first: click one, or choose it from the list$"):
        explorer.wait()


def test_a_click_on_a_box_gives_what_explain_gives(explorer, detector):
    assert explorer.explanation is None and explorer.save.disabled
    waits_for_a_choice(explorer)
    explorer.boxes[1].click()
    got = explorer.wait().explanation
    target = explorer.detections[1]
    expected = dc.explain(detector, DRAWN.image, target, method="regression", n_masks=40, progress=False)
    assert same(got.saliency, expected.saliency)
    assert got.params == expected.params and got.seed == expected.seed
    assert explorer.list.value == 1
    assert [("dclose-chosen" in box._dom_classes) for box in explorer.boxes] == [False, True]
    assert f"{expected.n_forward} masks" in explorer.status_text and explorer.stop.disabled


def test_boxes_lie_where_they_were_found(explorer):
    height, width = DRAWN.image.shape[:2]
    for button, box in zip(explorer.boxes, explorer.detections.boxes):
        places = [
            float(getattr(button.layout, name).rstrip("%")) / 100
            for name in ("left", "top", "width", "height")
        ]
        x1, y1, x2, y2 = box.clip(0, [width, height, width, height])
        assert np.allclose(
            np.array(places) * [width, height, width, height], [x1, y1, x2 - x1, y2 - y1], atol=0.02
        )
    areas = np.prod(explorer.detections.boxes[:, 2:] - explorer.detections.boxes[:, :2], axis=1)
    buttons = [child for child in explorer.picture.children if child in explorer.boxes]
    assert buttons[-1] is explorer.boxes[areas.argmin()]  # drawn last, so on top


def test_a_click_outside_any_box_says_so(explorer):
    explorer.picture.children[1].click()
    assert "no box here" in explorer.status_text and explorer.explanation is None


def test_it_starts_with_the_fast_method_and_offers_each_method_s_own_number_of_masks(detector):
    explorer = Explorer(detector, DRAWN.image)
    method, masks = explorer.options["method"], explorer.options["n_masks"]
    assert (method.value, masks.value, masks.placeholder) == ("regression", "", "200")
    assert ("dclose (the paper's)", "dclose") in method.options
    method.value = "dclose"
    assert masks.placeholder == "4000"
    method.value = "gradcam"
    assert masks.placeholder == "none" and masks.disabled and explorer.options["seed"].disabled
    explorer.options["beside"].value = "drise"
    assert masks.placeholder == "5000" and not masks.disabled and explorer.options["r"].disabled


def test_a_method_never_changes_a_number_that_was_typed_even_its_predecessor_s_own(explorer):
    masks = explorer.options["n_masks"]
    explorer.boxes[0].click()
    for typed in ("200", "60"):
        masks.value = typed
        for method in ("drise", "regression"):
            explorer.options["method"].value = method
            assert masks.value == typed and explorer.wait().explanation.n_forward == int(typed)


def test_two_methods_take_a_number_of_masks_each_unless_one_was_typed(explorer, monkeypatch):
    asked = []

    def quick(*args, n_masks, **options):
        asked.append(n_masks)
        return dc.explain(*args, n_masks=min(n_masks, 20), **options)

    monkeypatch.setattr("dclose_nb.explorer.explain", quick)
    explorer.options["n_masks"].value, explorer.options["beside"].value = "", "drise"
    assert explorer.options["n_masks"].placeholder == "200 and 5000"
    explorer.boxes[0].click()
    explorer.wait()
    assert asked == [200, 5000] and "n_masks" not in explorer.code.value
    explorer.options["n_masks"].value = "30"
    explorer.wait()
    assert asked[2:] == [30, 30] and explorer.code.value.count("n_masks=30") == 2
    words = [panel.caption.value.partition(": ")[0] for panel in explorer.panels]
    assert words == ["<b>regression</b>, 20 masks", "<b>drise</b>, 20 masks"]


@pytest.mark.parametrize("typed", ["many", "0", "1e3", "-5", "100001", pytest.param("9" * 5000, id="long")])
def test_a_number_that_cannot_be_is_refused_in_words(explorer, typed):
    explorer.options["n_masks"].value = typed
    explorer.boxes[0].click()
    said = explorer.wait().status_text
    assert said.startswith("masks must be an integer from 1 to 100000, got ") and explorer.explanation is None
    explorer.options["n_masks"].value = " 40 "
    assert explorer.wait().explanation.n_forward == 40


def test_too_few_masks_for_the_levels_are_refused_in_words(explorer):
    explorer.options["n_masks"].value = "9"
    explorer.boxes[0].click()
    assert explorer.wait().status_text == "n_masks must be at least two for each of 5 levels, got 9"


def test_a_control_makes_the_map_anew_and_a_known_one_comes_back_at_once(explorer, detector):
    explorer.boxes[0].click()
    first = explorer.wait().explanation
    explorer.options["seed"].value = 3
    other = explorer.wait().explanation
    assert other.seed == 3 and not np.array_equal(first.saliency, other.saliency)
    explorer.options["seed"].value = 0
    assert explorer.wait().explanation is first


def test_the_map_sharpens_and_stop_keeps_what_there_is(explorer):
    many_masks(explorer)
    explorer.boxes[0].click()
    until(lambda: "of 100000 masks" in explorer.status_text)
    first = explorer.explanation.n_forward
    until(lambda: first < explorer.explanation.n_forward < 100_000)
    assert 0 < explorer.progress.value < explorer.progress.max == 100_000
    explorer.stop.click()
    stopped = explorer.wait().explanation
    assert 0 < stopped.n_forward < 100_000 and "stopped after" in explorer.status_text
    said = f"# The explorer shows a map of {stopped.n_forward} masks. The next line makes all 100000."
    assert f"\n{said}\nexplanation = dc.explain(" in explorer.code.value
    explorer.options["n_masks"].value = "40"
    assert explorer.wait().explanation.n_forward == 40


def captions(panel):
    """A list that gets what stands below a panel, as it changes."""
    seen = []
    panel.caption.observe(lambda change: seen.append(change["new"]), "value")
    return seen


def test_gradients_give_a_preview_which_is_no_result():
    network = dc.load_detector("planted", device="cpu")
    explorer = Explorer(network, DRAWN.image)
    explorer.options["n_masks"].value = "40"
    seen, pictures = captions(explorer.panels[0]), []
    explorer.panels[0].image.observe(lambda change: pictures.append(change["new"]), "value")
    explorer.boxes[0].click()
    got = explorer.wait().explanation
    assert got.method == "regression" and got.n_forward == 40
    said = [words for words in seen if words.startswith("<b>odam</b>, 1 forward pass: a preview")]
    assert len(said) == 1 and seen.index(said[0]) < next(k for k, w in enumerate(seen) if "regression" in w)
    odam = dc.explain(network, DRAWN.image, explorer.detections[0], method="odam", progress=False)
    explorer.options["method"].value = "odam"
    explorer.wait()
    assert explorer.panels[0].image.value in pictures[:2] and np.array_equal(
        explorer.explanation.saliency, odam.saliency
    )
    del seen[:]
    explorer.options["method"].value = "regression"  # what is known needs no preview
    explorer.wait()
    assert not any("preview" in words for words in seen)


def test_a_detector_without_gradients_has_no_preview(explorer):
    seen = captions(explorer.panels[0])
    explorer.boxes[0].click()
    explorer.wait()
    assert seen and not any("odam" in words for words in seen)


def test_a_preview_goes_when_a_run_is_stopped_before_its_first_mask(monkeypatch):
    explorer = Explorer(dc.load_detector("planted", device="cpu"), DRAWN.image)
    blank = explorer.panels[0].image.value

    drawn = []

    def stopped(run, place):
        drawn.append(explorer.panels[0].image.value)
        explorer.stop.click()

    preview = explorer._preview
    monkeypatch.setattr(explorer, "_preview", lambda run, place: (preview(run, place), stopped(run, place)))
    explorer.boxes[0].click()
    explorer.wait()
    assert drawn[0] != blank
    assert explorer.explanation is None and explorer.panels[0].image.value == blank
    assert explorer.panels[0].caption.value == "<b>regression</b>: stopped before it began"


def test_a_click_on_the_box_that_is_explained_goes_on_and_after_a_stop_starts_anew(explorer):
    many_masks(explorer)
    explorer.boxes[0].click()
    until(lambda: explorer.explanation is not None)
    before = explorer.explanation.n_forward
    explorer.boxes[0].click()
    assert explorer.explanation.n_forward >= before  # nothing was cleared
    explorer.stop.click()
    explorer.wait()
    explorer.boxes[0].click()
    assert not explorer.stop.disabled
    explorer.stop.click()
    explorer.wait()


def test_after_a_stop_no_panel_waits_for_anything(explorer):
    many_masks(explorer)
    explorer.options["beside"].value = "drise"
    assert "will be here" in explorer.panels[1].caption.value
    explorer.boxes[0].click()
    until(lambda: explorer.explanation is not None)
    explorer.stop.click()
    explorer.wait()
    first, second = (panel.caption.value for panel in explorer.panels)
    assert "sparsity" in first and "over-all" not in first
    assert second == "<b>drise</b>: stopped before it began"


def test_a_second_click_stops_the_first_run(explorer):
    many_masks(explorer)
    explorer.boxes[0].click()
    explorer.boxes[1].click()
    until(lambda: explorer.explanation is not None)  # the first run would not have ended by itself
    assert explorer.explanation.detections.boxes.tolist() == explorer.detections[1].boxes.tolist()
    explorer.stop.click()
    explorer.wait()


def test_a_click_that_a_later_one_of_its_page_overtook_is_dropped(explorer, monkeypatch):
    def click(button, page, second):
        sent = datetime(2026, 1, 1, second=second, tzinfo=UTC)
        monkeypatch.setattr("dclose_nb.explorer._message", lambda: (page, sent))
        button.click()
        return explorer.list.value

    first, second = explorer.boxes[:2]
    assert click(second, "a page", 2) == 1
    assert click(first, "a page", 1) == 1  # sent earlier, answered later
    click(explorer.stop, "a page", 1)  # sent before the run began
    assert explorer.wait().explanation.n_forward == 40
    assert click(first, "another page", 0) == 0  # whose clock may differ
    assert click(second, "a page", 2) == 1
    explorer.wait()


def test_two_methods_side_by_side_with_their_numbers(explorer, detector):
    explorer.options["beside"].value = "drise"
    explorer.boxes[0].click()
    explorer.wait()
    assert [panel.caption.value.partition(",")[0] for panel in explorer.panels] == [
        "<b>regression</b>",
        "<b>drise</b>",
    ]
    target, saliency = explorer.detections[0], explorer.explanation.saliency[0]
    over_all = dc.metrics.over_all(detector, DRAWN.image, target, saliency, steps=STEPS_OF_CURVES)
    words = explorer.panels[0].caption.value.replace("&nbsp;", " ")
    for name, meaning, score in (
        ("sparsity", "highest value over mean of the scaled map", f"{dc.metrics.sparsity(saliency):.1f}"),
        ("EBPG", "share of the map's energy in the box", f"{dc.metrics.ebpg(saliency, target.boxes[0]):.2f}"),
        ("over-all", "insertion minus deletion", f"{over_all.score:.2f}"),
    ):
        assert f'<abbr title="{meaning}">{name}</abbr> {score}' in words
    explorer.options["beside"].value = ""
    explorer.wait()
    assert [panel.layout.display for panel in explorer.panels] == [None, "none"]


@pytest.mark.filterwarnings("ignore:.*scores 0 in the unchanged image")
def test_a_box_that_fills_the_photo_has_a_hint_below_its_map(detector):
    height, width = DRAWN.image.shape[:2]
    boxes = np.array([[0, 0, width, height], [9, 9, 90, 90]])
    found = replace(detector.detect(DRAWN.image), boxes=boxes)
    detector.detect = lambda image: found
    explorer = Explorer(detector, DRAWN.image)
    explorer.options["n_masks"].value = "20"
    for k, hinted in enumerate((True, False)):
        explorer.boxes[k].click()
        explorer.wait()
        hint = explorer.panels[0].caption.value.endswith("; the box fills the photo, so EBPG says nothing")
        assert hint == hinted


def test_it_is_done_when_the_scores_are_there_and_a_stop_before_says_so(explorer, monkeypatch):
    said = []

    def over_all(*args, **options):
        said.append(explorer.status_text)
        if len(said) == 3:
            explorer.stop.click()
        return curves(*args, **options)

    curves = dc.metrics.over_all
    monkeypatch.setattr("dclose_nb.metrics.over_all", over_all)
    explorer.options["beside"].value = "drise"
    explorer.boxes[0].click()
    ended = explorer.wait().status_text
    assert "drise: done: 40 masks, " in ended and "scoring" not in ended
    explorer.boxes[1].click()
    assert "drise: not scored: 40 masks, " in explorer.wait().status_text
    assert len(said) == 3
    assert all(re.search(r"drise: 40 masks, [\d.]+ s; scoring \.\.\.$", text) for text in said)


def test_a_method_that_cannot_says_so_in_words_and_the_other_goes_on(explorer):
    explorer.options["method"].value, explorer.options["beside"].value = "gradcam", "drise"
    explorer.boxes[0].click()
    explorer.wait()
    words = explorer.panels[0].caption.value
    assert "gradcam" in words and "Error" not in words and explorer.explanation is None
    assert "drise: done" in explorer.status_text and "sparsity" in explorer.panels[1].caption.value


def test_a_method_that_masks_nothing_counts_forward_passes():
    explorer = dc.explore("planted", "scene_3")
    explorer.options["n_masks"].value = "many"
    explorer.options["method"].value = "gradcam"  # which takes none
    explorer.boxes[0].click()
    assert "gradcam: done: 1 forward pass, " in explorer.wait().status_text
    assert explorer.progress.layout.visibility == "hidden"


def test_forward_passes_of_a_method_without_masks_are_counted(detector, monkeypatch):
    class Twice(OwnWay):
        """A map of the box, from two passes."""

        def maps(self, detector, canvas, targets, **_):
            saliency = np.zeros((1, *canvas.content[2:]), np.float32)
            saliency[:, : saliency.shape[1] // 2] = 1
            return Maps(saliency), 2

    monkeypatch.setitem(METHODS, "twice", dataclass(frozen=True)(Twice))
    explorer = Explorer(detector, DRAWN.image)
    explorer.options["method"].value = "twice"
    explorer.boxes[0].click()
    assert "twice: done: 2 forward passes, " in explorer.wait().status_text


def test_opacity_and_threshold_redraw_without_a_new_run(explorer):
    explorer.boxes[0].click()
    before = explorer.wait().explanation, explorer.panels[0].image.value
    explorer.opacity.value = 0
    plain = explorer.panels[0].image.value
    explorer.opacity.value, explorer.threshold.value = 0.75, 1
    assert explorer.explanation is before[0]
    assert len({before[1], plain, explorer.panels[0].image.value}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dclose", "regression"])
def test_every_step_opens_with_and_without_a_cascade(explorer, method):
    explorer.options["method"].value = method
    explorer.boxes[0].click()
    explorer.wait()
    for step in STEPS:
        explorer.steps.value = step
        explorer.wait()
        if method == "regression" and step == "cascade":
            assert explorer.step.value == b""
            assert "ran without a cascade" in explorer.step_text.value
        else:
            picture = shown(explorer.step)
            assert min(picture.shape[:2]) > 100 and np.ptp(picture) > 50
            assert (picture > 250).all((1, 2)).mean() < 0.15  # rows that are white: no bands
            assert explorer.step_text.value == f"{method}: {STEPS[step].title}"


@pytest.mark.parametrize("step", ["masked images", "weights"])
def test_a_step_shows_no_mask_that_the_run_never_saw(explorer, detector, step):
    explorer.options["n_masks"].value = "10"  # two of each level
    explorer.boxes[0].click()
    explorer.wait()
    asked, predict = [], detector.predict
    detector.predict = lambda pixels: asked.append(len(pixels)) or predict(pixels)
    explorer.steps.value = step
    assert "up to 8" in explorer.wait().step_text.value
    assert sum(asked) == 10 + 5 * (step == "masked images")  # whose best one of each level is drawn


@pytest.mark.parametrize("method", ["drise", "sodex"])
def test_a_step_of_a_method_without_levels_says_so_in_words(explorer, method):
    explorer.options["method"].value = method
    explorer.steps.value = "levels"
    assert "once there is a map" in explorer.step_text.value
    explorer.boxes[0].click()
    explorer.wait()
    assert explorer.step_text.value == (
        f"{method}: the steps are drawn for methods with levels only, which are dclose, contrast, "
        "regression and mfpp"
    )
    assert explorer.step.layout.display == "none"


def test_a_step_is_redrawn_for_another_box_and_goes_with_the_photo(explorer):
    explorer.steps.value = "levels"
    explorer.boxes[0].click()
    first = explorer.wait().step.value
    explorer.boxes[1].click()
    assert explorer.wait().step.value not in (b"", first)
    upload(explorer, png(DRAWN.image), "again.png")
    waits_for_a_choice(explorer)
    assert explorer.step.value == b""


def test_what_a_detector_raises_reaches_the_person_and_the_explorer_goes_on(explorer, detector):
    detector.unplugged = True
    explorer.boxes[0].click()
    said = explorer.wait().status_text
    assert said.startswith("the detector failed: the cable is <out> (test_explorer.py, line ")
    assert "RuntimeError" not in said
    assert "<out>" not in explorer.status.value  # it is no HTML
    detector.unplugged = False
    explorer.boxes[0].click()  # the same again
    assert explorer.wait().explanation is not None


@dataclass(eq=True)  # such a class has no hash
class Quitter(RuleDetector):
    """A detector that ends the program when it is asked for long."""

    patience: int = 3

    def __init__(self, scene):
        super().__init__(scene)

    def predict(self, pixels):
        self.patience -= 1
        if self.patience < 0:
            sys.exit("enough")
        return super().predict(pixels)


def test_a_detector_that_ends_the_program_ends_its_run_alone():
    explorer = Explorer(Quitter(DRAWN), DRAWN.image)
    explorer.boxes[0].click()
    assert "enough" in explorer.wait().status_text
    explorer.detector.patience = 10**6
    explorer.options["n_masks"].value = "40"
    assert "done: 40 masks" in explorer.wait().status_text
    explorer.steps.value = "weights"  # a detector without a hash has steps, too
    assert explorer.wait().step.value != b""


def test_a_late_click_on_a_photo_that_has_gone_explains_nothing(explorer):
    gone = explorer.boxes[0]
    upload(explorer, png(DRAWN.image), "again.png")
    gone.click()
    waits_for_a_choice(explorer)
    assert explorer.list.label == "choose one" and gone.comm is None  # it was closed


def test_a_map_is_scored_once(explorer, monkeypatch):
    scored, over_all = [], dc.metrics.over_all
    counted = lambda *args, **options: scored.append(1) or over_all(*args, **options)  # noqa: E731
    monkeypatch.setattr(dc.metrics, "over_all", counted)
    for k in (0, 1, 0):
        explorer.boxes[k].click()
        explorer.wait()
    assert len(scored) == 2 and "over-all" in explorer.panels[0].caption.value


def test_a_failure_after_the_first_map_is_not_taken_for_an_end(explorer, detector):
    """Its words stay, what there is gets no scores, and another click tries again."""
    many_masks(explorer)
    explorer.boxes[0].click()
    until(lambda: explorer.explanation is not None)
    detector.unplugged = True
    explorer.wait()
    for said in (explorer.status_text, explorer.panels[0].caption.value):
        assert "the detector failed: the cable is " in said and "over-all" not in said
    made = explorer.explanation.n_forward
    assert f"# The explorer shows a map of {made} masks. The next line makes all" in explorer.code.value
    detector.unplugged = False
    explorer.boxes[0].click()
    until(lambda: "of 100000 masks" in explorer.status_text)
    explorer.stop.click()
    assert "stopped after" in explorer.wait().status_text


def test_a_failure_to_score_is_said_and_another_click_tries_again(explorer, detector, monkeypatch):
    def over_all(*args, **options):
        detector.unplugged = True
        return curves(*args, **options)

    curves = dc.metrics.over_all
    with monkeypatch.context() as patched:
        patched.setattr("dclose_nb.metrics.over_all", over_all)
        explorer.boxes[0].click()
        assert "the cable is <out>" in explorer.wait().status_text
    made, detector.unplugged = explorer.explanation, False
    explorer.boxes[0].click()
    assert ": done: 40 masks" in explorer.wait().status_text and explorer.explanation is made


def test_a_stop_leaves_the_reason_why_a_method_failed(explorer):
    many_masks(explorer)
    explorer.options["method"].value, explorer.options["beside"].value = "gradcam", "contrast"
    explorer.boxes[0].click()
    until(lambda: explorer.panels[1].caption.value.startswith("<b>contrast</b>, "))
    explorer.stop.click()
    explorer.wait()
    first, second = (panel.caption.value for panel in explorer.panels)
    assert first.startswith("<b>gradcam</b>: this method needs a network") and "sparsity" in second


def test_a_detector_is_asked_by_one_thread_at_a_time():
    """While many masks are drawn a step is opened, a photo comes, and another explorer is made."""
    detector = OneAtATime(DRAWN)
    explorer = Explorer(detector, DRAWN.image)
    many_masks(explorer)
    explorer.boxes[0].click()
    until(lambda: explorer.explanation is not None)
    explorer.steps.value = "masked images"
    time.sleep(0.2)
    explorer.stop.click()
    assert "stopped after" in explorer.wait().status_text
    assert explorer.step_text.value == f"contrast: {STEPS['masked images'].title}"
    explorer.boxes[1].click()
    until(lambda: explorer.explanation is not None)
    send(explorer, png(DRAWN.image), "again.png")
    until(lambda: "found: click one" in explorer.status_text)
    explorer.boxes[0].click()
    until(lambda: explorer.explanation is not None)
    Explorer(detector, DRAWN.image)
    until(lambda: "contrast: stopped after" in explorer.status_text)


def test_one_explorer_computes_at_a_time(explorer):
    many_masks(explorer)
    explorer.boxes[0].click()
    until(lambda: explorer.explanation is not None)
    other = dc.explore("planted", "scene_3")
    other.options["n_masks"].value = "20"
    until(lambda: "contrast: stopped after" in explorer.status_text)
    explorer.boxes[0].click()
    until(lambda: "of 100000 masks" in explorer.status_text)
    other.boxes[0].click()
    assert "done: 20 masks" in other.wait().status_text
    assert "contrast: stopped after" in explorer.status_text


def test_an_explorer_that_cannot_be_made_is_refused(detector):
    for image, word in (
        ("no such photo", "neither a file"),
        (np.zeros((9, 9, 3), np.uint8), "knows one scene"),
    ):
        with pytest.raises(dc.InputError, match=word):
            Explorer(detector, image)


def test_the_explorer_has_a_photo_of_its_own(detector):
    image = DRAWN.image.copy()
    explorer = Explorer(detector, image)
    image[:] = 0
    assert np.array_equal(explorer.image, DRAWN.image)


def test_old_explanations_go_when_they_fill_too_much_but_two_stay(explorer, monkeypatch):
    def of_seed(seed):
        explorer.options["seed"].value = seed
        return explorer.wait().explanation

    explorer.boxes[0].click()
    first, second, third = map(of_seed, range(3))
    assert [of_seed(seed) for seed in range(3)] == [first, second, third]
    monkeypatch.setattr("dclose_nb.explorer.KEPT", 1)
    fourth = of_seed(3)
    assert of_seed(2) is third and of_seed(3) is fourth and of_seed(0) is not first
    assert of_seed(3) is fourth and of_seed(2) is not third


def test_no_superpixels_is_said_in_words(explorer):
    for box in explorer.segments.values():
        box.value = False
    explorer.boxes[0].click()
    assert explorer.wait().status_text == "Choose at least one size of superpixels."
    assert explorer.explanation is None
    chosen = ["dclose-chosen" in box._dom_classes for box in explorer.boxes]
    assert chosen == [True, False] and explorer.detections.names[0] in explorer.label.value
    explorer.segments[600].value = True
    assert explorer.wait().explanation.params["segments"] == (600,)


def send(explorer, content, name):
    file = {"name": name, "type": "image/png", "size": len(content), "last_modified": datetime(2026, 1, 1)}
    explorer.upload.value = ({**file, "content": memoryview(content)},)


def upload(explorer, content, name):
    """Send a photo, and wait until it is taken."""
    send(explorer, content, name)
    with contextlib.suppress(dc.InputError):  # no box is chosen
        explorer.wait()


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("k", [0, -1])
def test_an_upload_becomes_the_photo_and_explains_nothing_unasked(k):
    """Nothing is shown any more of the photo that was explained when it came."""
    explorer, other = dc.explore("planted", "scene_3"), dc.load_photo("scene_4")
    many_masks(explorer)
    explorer.boxes[k].click()
    explorer.options["seed"].value = 1  # waits for the first run to stop
    until(lambda: explorer.explanation is not None)
    upload(explorer, png(other), "other.png")
    assert np.array_equal(explorer.image, other) and "found: click one" in explorer.status_text
    assert explorer.list.label == "choose one" and explorer.explanation is None
    assert explorer.code.value == explorer.label.value == ""
    assert explorer.panels[0].caption.value == "The map will be here."
    assert explorer.save.disabled and explorer.stop.disabled
    grey = other.mean(axis=2, keepdims=True)
    assert np.abs(shown(explorer.panels[0].image) - 0.4 * other - 0.6 * grey).mean() < 4
    waits_for_a_choice(explorer)
    explorer.options["n_masks"].value = "40"
    waits_for_a_choice(explorer)
    assert explorer.explanation is None
    explorer.boxes[0].click()
    got = explorer.wait().explanation
    assert np.array_equal(got.image, other) and "done: 40 masks" in explorer.status_text


def test_no_photo_and_one_that_the_detector_refuses_change_nothing(explorer):
    before = explorer.image
    upload(explorer, b"this is no photo", "a.png")
    assert "'a.png' is not an image that can be read; those are " in explorer.status_text
    assert ", JPEG, " in explorer.status_text and explorer.image is before
    upload(explorer, png(np.zeros((9, 9, 3), np.uint8)), "small.png")
    assert "knows one scene" in explorer.status_text and explorer.image is before
    explorer.boxes[0].click()
    assert explorer.wait().explanation is not None


def test_the_same_file_can_come_again_after_a_failure(explorer, detector):
    content = png(DRAWN.image)
    detector.unplugged = True
    upload(explorer, content, "mine.png")
    assert "the cable is <out>" in explorer.status_text
    detector.unplugged = False
    upload(explorer, content, "mine.png")
    assert "found: click one" in explorer.status_text


def test_a_huge_photo_is_shrunk():
    explorer = dc.explore("planted", "scene_3")
    upload(explorer, png(np.full((3100, 4000, 3), 90, np.uint8)), "huge.png")
    height, width = explorer.image.shape[:2]
    assert 0.99 * LARGEST < height * width < 1.001 * LARGEST
    assert f"shrunk to {width} x {height}" in explorer.status_text


def test_numbers_of_boxes_do_not_cover_each_other(explorer, detector):
    """Of the forty boxes of a crowd, half of which share a corner; as large as in a small window."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 200, (40, 2))
    corners[:20] = 150
    boxes = np.concatenate([corners, corners + rng.uniform(20, 120, (40, 2))], axis=1)
    crowd = dc.Detections(boxes, np.ones(40), np.ones((40, 1)), ("a",))
    detector.detect = lambda image: crowd
    explorer = Explorer(detector, DRAWN.image)
    found = re.findall(r"left:([\d.]+)%;top:([\d.]+)%", explorer.picture.children[-1].value)
    tags = np.array(found, dtype=float) / 100 * 260  # the scene is square
    assert len(tags) == 40 and (tags >= 0).all() and (tags <= [239, 243]).all()
    for one, other in itertools.combinations(tags, 2):
        assert (np.abs(one - other) > [21.9, 17.9]).any()


@pytest.mark.slow
def test_save_keeps_every_object_and_both_methods(explorer, tmp_path):
    explorer.folder.value = str(tmp_path)
    maps = {}
    for k, beside in ((0, "drise"), (1, ""), (0, "")):
        explorer.options["beside"].value = beside
        explorer.boxes[k].click()
        explorer.wait().save.click()
        folders = {path for path in tmp_path.iterdir() if path.is_dir()} - set(maps)
        assert folders == set(map(Path, explorer.saved_text.removeprefix("Saved in ").split(" and ")))
        maps |= {folder: dc.Explanation.load(folder) for folder in folders}
    one, other = (f"{k + 1}-{name}" for k, name in enumerate(explorer.detections.names))
    names = (
        f"image_{one}_regression",
        f"image_{one}_drise",
        f"image_{other}_regression",
        f"image_{one}_regression_2",
    )
    assert {path.name for path in maps} == set(names)
    assert all((folder / "report.html").is_file() for folder in maps)
    first, _, second, again = (maps[tmp_path / name].saliency for name in names)
    assert np.array_equal(first, again) and not np.array_equal(first, second)


def test_save_says_that_it_saves_and_its_drawings_look_like_what_is_shown(explorer, tmp_path):
    explorer.folder.value, explorer.opacity.value, explorer.threshold.value = str(tmp_path), 0.3, 0.6
    explorer.boxes[0].click()
    explanation, said = explorer.wait().explanation, []
    explorer.saved.observe(lambda _: said.append((explorer.saved_text, explorer.save.disabled)), "value")
    explorer.save.click()
    (folder,) = tmp_path.glob("image_*/")
    assert said == [("Saving ...", True), (f"Saved in {folder}", False)]
    dc.report(explanation, tmp_path / "alike", opacity=0.3, threshold=0.6)
    for drawing in folder.glob("*.png"):
        assert drawing.read_bytes() == (tmp_path / "alike" / drawing.name).read_bytes()
    assert "Values below 0.6 are not shown." in (folder / "report.html").read_text(encoding="utf-8")


def test_nothing_to_save_is_said_until_there_is_a_map(explorer, monkeypatch):
    go_on = threading.Event()

    def waiting(*args, **options):
        assert go_on.wait(30)
        return dc.explain(*args, **options)

    monkeypatch.setattr("dclose_nb.explorer.explain", waiting)
    explorer.boxes[0].click()
    explorer.save.click()
    assert explorer.saved_text == "There is nothing to save yet."
    go_on.set()
    assert explorer.wait().saved_text == ""


def test_save_says_why_it_cannot(explorer, tmp_path):
    (tmp_path / "file").write_text("mine")
    explorer.folder.value = str(tmp_path / "file")
    explorer.boxes[0].click()
    explorer.wait().save.click()
    assert "cannot write to the folder" in explorer.saved_text and "Error" not in explorer.saved_text
    assert not explorer.save.disabled
    assert (tmp_path / "file").read_text() == "mine" and list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_two_photos_of_one_name_are_both_kept(tmp_path):
    explorer = dc.explore("planted", "scene_3")
    explorer.options["n_masks"].value = "20"
    explorer.folder.value = str(tmp_path)
    for n in (4, 5):
        upload(explorer, png(dc.load_photo(f"scene_{n}")), "mine.png")
        explorer.boxes[0].click()
        explorer.wait().save.click()
    assert np.array_equal(dc.load_photo(tmp_path / "mine.png"), dc.load_photo("scene_4"))
    assert np.array_equal(dc.load_photo(tmp_path / "mine_2.png"), dc.load_photo("scene_5"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["name", "array", "upload"])
def test_the_code_makes_the_same_map_by_itself(kind, tmp_path, monkeypatch):
    """An upload comes from the file that Save wrote. An array comes from a new explorer of the same cell."""
    monkeypatch.chdir(tmp_path)
    cell = "dc.explore('planted', {})".format("'scene_3'" if kind == "name" else "dc.load_photo('scene_3')")
    explorer = eval(cell)
    if kind == "upload":
        upload(explorer, png(dc.load_photo("scene_4")), "mine.png")
    explorer.options["n_masks"].value, explorer.options["p"].value = "40", 0.4
    for n in (300, 1200, 2400):
        explorer.segments[n].value = False
    explorer.boxes[0].click()
    wanted = explorer.wait().explanation
    for words in (
        "explorer.image  # after Save",
        "# explorer = dc.explore(...): the explorer must have this",
    ):
        assert (words in explorer.code.value) == (kind != "name")
    if kind == "upload":
        explorer.save.click()
        assert "explorer" not in explorer.code.value.replace("explanations/explorer", "")
    names = {"explorer": eval(cell)} if kind == "array" else {}
    exec(explorer.code.value, names)
    assert same(names["explanation"].saliency, wanted.saliency)


def test_the_code_is_for_copying_and_nobody_types_into_it(explorer):
    assert explorer.code.disabled


def test_the_code_of_a_detector_of_ones_own_takes_it_from_the_explorer(explorer):
    explorer.options["beside"].value = "drise"
    explorer.boxes[0].click()
    wanted = explorer.wait().explanation
    assert "# explorer = dc.explore(...)" in explorer.code.value
    names = {"explorer": explorer}
    exec(explorer.code.value, names)
    assert same(names["explanation"].saliency, wanted.saliency)
    assert names["beside"].method == "drise"


def test_the_code_loads_by_name_what_was_loaded_by_name(detector):
    """And not what bears the name of another detector, as a file may."""
    alike = dc.load_detector(lambda image: [], class_names=["a"], name="yolox_nano")
    for found, provenance, known in (
        ("planted", {"weights": "planted.safetensors"}, True),
        ("picodet_s", {"weights": "paddlelabel_ml==1.0.0"}, True),
        ("yolox_nano", alike.provenance, False),
    ):
        detector.name, detector.provenance = found, provenance
        explorer = Explorer(detector, DRAWN.image)
        explorer.boxes[0].click()
        explorer.stop.click()
        explorer.wait()
        line = f"\ndetector = dc.load_detector({found!r})\n" if known else "\ndetector = explorer.detector\n"
        assert line in explorer.code.value


def test_a_page_that_shows_no_widgets_shows_the_picture(explorer):
    """The photo at first, and the map once there is one; under words, since no click is answered."""

    def still():
        bundle = explorer._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle["image/jpeg"]))))

    photo = still()
    explorer.boxes[0].click()
    explorer.wait()
    assert photo.shape == still().shape and np.abs(photo.astype(int) - still()).mean() > 5
    picture = shown(explorer.panels[0].image)
    height = len(still()) - len(picture)
    assert np.abs(still()[height:] - picture).mean() < 4
    words = still()[:height].min(axis=2) > 200  # on a dark ground
    assert Image.open(io.BytesIO(_still(png(np.zeros((900, 9, 3), np.uint8))))).size[0] == 9
    assert height > 10 and words.mean() < 0.2 and np.ptp(np.flatnonzero(words.any(0))) > 0.7 * words.shape[1]


def test_nothing_found_says_from_which_score_and_what_to_try(detector):
    explorer = Explorer(detector, np.zeros_like(DRAWN.image))
    said = "No object was found with a score of 0.25 or more. Try another photo or a larger detector, or "
    assert explorer.status_text.startswith(said) and explorer.boxes == []
    assert inspect.signature(dc.Detector.detect).parameters["confidence"].default == 0.25
    assert "detector.detect(image, confidence=0.1)" in explorer.status_text


@pytest.mark.slow
def test_a_kernel_can_end_while_a_map_is_made():
    script = """
import time
import dclose_nb as dc
explorer = dc.explore("planted", "scene_3")
explorer.options["method"].value, explorer.options["n_masks"].value = "contrast", "100000"
explorer.boxes[0].click()
while "of 100000 masks" not in explorer.status_text: time.sleep(0.05)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "terminate" not in done.stderr
