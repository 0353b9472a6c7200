"""The explorer, without a browser: what a click, a control and a bad photo lead to."""

import base64
import io
import subprocess
import sys
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

import dclose_nb as dc
from dclose_nb.explorer import LARGEST, STEPS, Explorer
from dclose_nb.planted import RuleDetector, scene

DRAWN = scene(2, layout="overlap")


class Cabled(RuleDetector):
    """A detector that answers while its cable is in."""

    unplugged = False

    def predict(self, pixels):
        if self.unplugged:
            raise RuntimeError("the cable is <out>")
        return super().predict(pixels)


@pytest.fixture
def detector():
    return Cabled(DRAWN)


@pytest.fixture
def explorer(detector):
    explorer = Explorer(detector, DRAWN.image)
    explorer.options["n_masks"].value = 40
    return explorer


def test_a_click_on_a_box_gives_what_explain_gives(explorer, detector):
    assert explorer.explanation is None and explorer.save.disabled
    explorer.boxes[1].click()
    got = explorer.wait().explanation
    expected = dc.explain(detector, DRAWN.image, explorer.detections[1], n_masks=40, progress=False)
    assert np.array_equal(got.saliency, expected.saliency)
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
    assert explorer.picture.children[-1] is explorer.boxes[areas.argmin()]  # drawn last, so on top


def test_a_click_outside_any_box_says_so(explorer):
    explorer.picture.children[1].click()
    assert "no box here" in explorer.status_text and explorer.explanation is None


def test_a_control_makes_the_map_anew_and_a_known_one_comes_back_at_once(explorer, detector):
    explorer.boxes[0].click()
    first = explorer.wait().explanation
    explorer.options["seed"].value = 3
    other = explorer.wait().explanation
    assert other.seed == 3 and not np.array_equal(first.saliency, other.saliency)
    explorer.options["seed"].value = 0
    assert explorer.wait().explanation is first


def test_the_map_sharpens_and_stop_keeps_what_there_is(explorer):
    explorer.options["n_masks"].value = 100_000
    explorer.boxes[0].click()
    until = time.monotonic() + 30
    while "so far" not in explorer.status_text and time.monotonic() < until:
        time.sleep(0.02)
    assert explorer.explanation.n_forward < 100_000
    explorer.stop.click()
    stopped = explorer.wait().explanation
    assert 0 < stopped.n_forward < 100_000 and "stopped after" in explorer.status_text


def test_a_second_click_stops_the_first_run(explorer):
    explorer.options["n_masks"].value = 100_000
    explorer.boxes[0].click()
    explorer.options["n_masks"].value = 40
    explorer.boxes[1].click()
    got = explorer.wait().explanation
    assert (
        got.params["n_masks"] == 40 and got.detections.boxes.tolist() == explorer.detections[1].boxes.tolist()
    )


def test_two_methods_side_by_side_with_their_numbers(explorer, detector):
    explorer.options["beside"].value = "drise"
    explorer.boxes[0].click()
    explorer.wait()
    assert [panel.caption.value.partition(":")[0] for panel in explorer.panels] == [
        "<b>dclose</b>",
        "<b>drise</b>",
    ]
    target = explorer.detections[0]
    over_all = dc.metrics.over_all(
        detector, DRAWN.image, target, explorer.explanation.saliency[0], steps=STEPS
    )
    assert f"insertion less deletion {over_all.score:.2f}" in explorer.panels[0].caption.value
    explorer.options["beside"].value = ""
    explorer.wait()
    assert explorer.panels[1].image.value == b""


def test_opacity_and_threshold_redraw_without_a_new_run(explorer):
    explorer.boxes[0].click()
    before = explorer.wait().explanation, explorer.panels[0].image.value
    explorer.opacity.value = 0
    plain = explorer.panels[0].image.value
    explorer.opacity.value, explorer.threshold.value = 0.75, 1
    assert explorer.explanation is before[0]
    assert len({before[1], plain, explorer.panels[0].image.value}) == 3


@pytest.mark.parametrize("k", range(7))
def test_every_step_opens(explorer, k):
    explorer.boxes[0].click()
    explorer.wait()
    explorer.steps.selected_index = k
    image = Image.open(io.BytesIO(explorer.wait().steps.children[k].value))
    assert min(image.size) > 100 and np.ptp(np.asarray(image.convert("L"))) > 50


def test_a_method_without_levels_says_so(explorer):
    explorer.options["method"].value = "drise"
    explorer.boxes[0].click()
    explorer.wait()
    explorer.steps.selected_index = 0
    assert "drise has none" in explorer.wait().status_text


def test_the_code_makes_the_same_map():
    explorer = dc.explore("planted", "scene_3")
    explorer.options["n_masks"].value, explorer.options["p"].value = 40, 0.4
    explorer.options["segments"].value = (150, 600)
    explorer.boxes[0].click()
    wanted = explorer.wait().explanation
    names = {}
    exec(explorer.code.value, names)
    assert np.array_equal(names["explanation"].saliency, wanted.saliency)


def test_what_a_detector_raises_reaches_the_person_and_the_explorer_goes_on(explorer, detector):
    detector.unplugged = True
    explorer.boxes[0].click()
    assert explorer.wait().status_text == "RuntimeError: the cable is <out>"
    assert "<out>" not in explorer.status.value  # it is no HTML
    detector.unplugged = False
    explorer.boxes[1].click()
    assert explorer.wait().explanation is not None


def test_an_option_that_cannot_be_used_says_so(explorer):
    explorer.options["segments"].value = ()
    explorer.boxes[0].click()
    assert "segments" in explorer.wait().status_text and explorer.explanation is None


def upload(explorer, content, name):
    file = {"name": name, "type": "image/png", "size": len(content), "last_modified": datetime.now(UTC)}
    explorer.upload.value = ({**file, "content": memoryview(content)},)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def test_an_upload_becomes_the_photo(explorer):
    upload(explorer, png(DRAWN.image), "mine.png")
    assert np.array_equal(explorer.image, DRAWN.image) and explorer.name == "mine.png"


def test_no_photo_and_one_that_the_detector_refuses_change_nothing(explorer):
    before = explorer.image
    upload(explorer, b"this is no photo", "a.png")
    assert "'a.png' is not an image" in explorer.status_text and explorer.image is before
    upload(explorer, png(np.zeros((9, 9, 3), np.uint8)), "small.png")
    assert "knows one scene" in explorer.status_text and explorer.image is before
    explorer.boxes[0].click()
    assert explorer.wait().explanation is not None


def test_another_photo_while_a_map_is_made_stops_it_and_the_explorer_goes_on():
    explorer = dc.explore("planted", "scene_3")
    explorer.options["n_masks"].value = 100_000
    explorer.boxes[-1].click()
    explorer.options["seed"].value = 1  # waits for the first run to stop
    upload(explorer, png(dc.load_photo("scene_4")), "other.png")
    assert explorer.wait().explanation is None
    explorer.options["n_masks"].value = 40
    explorer.boxes[0].click()
    got = explorer.wait().explanation
    assert np.array_equal(got.image, dc.load_photo("scene_4")) and "done: 40 masks" in explorer.status_text


def test_a_huge_photo_is_shrunk():
    explorer = dc.explore("planted", "scene_3")
    upload(explorer, png(np.full((3100, 4000, 3), 90, np.uint8)), "huge.png")
    height, width = explorer.image.shape[:2]
    assert 0.99 * LARGEST < height * width < 1.001 * LARGEST
    assert f"shrunk to {width} x {height}" in explorer.status_text


def test_save_writes_a_report_or_says_why_not(explorer, tmp_path):
    kept = tmp_path / "kept"
    explorer.folder.value = str(kept)
    explorer.boxes[0].click()
    explorer.wait().save.click()
    assert (kept / "report.html").is_file() and explorer.status_text == f"Saved in {kept}"
    assert np.array_equal(dc.Explanation.load(kept).saliency, explorer.explanation.saliency)
    explorer.folder.value = str(kept / "sheet.png")
    explorer.save.click()
    assert "cannot write to the folder" in explorer.status_text


def test_a_page_that_shows_no_widgets_shows_the_picture(explorer):
    """The photo at first, and the map once there is one."""

    def shown():
        bundle = explorer._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle["image/jpeg"]))))

    photo = shown()
    explorer.boxes[0].click()
    explorer.wait()
    assert photo.shape == shown().shape and np.abs(photo.astype(int) - shown()).mean() > 5


def test_nothing_found_says_so(detector):
    explorer = Explorer(detector, np.zeros_like(DRAWN.image))
    assert explorer.status_text == "No object was found." and explorer.boxes == []


def test_a_kernel_can_end_while_a_map_is_made():
    script = """
import dclose_nb as dc
explorer = dc.explore("planted", "scene_3")
explorer.options["n_masks"].value = 100_000
explorer.boxes[0].click()
while "so far" not in explorer.status_text: pass
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "terminate" not in done.stderr
