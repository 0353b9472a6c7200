"""Reports: files whole or not at all, and a page that is all in one file and harmless whatever it shows."""

import base64
import hashlib
import io
import json
import re
import shutil
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.pyplot import get_cmap
from PIL import Image
from toys import Lamps

import dclose_nb as dc
from dclose_nb import explorer_steps, plot, reports
from dclose_nb.explorer_steps import STEPS
from dclose_nb.fusion import min_max
from dclose_nb.masks import grid_masks
from dclose_nb.methods import METHODS, Maps, Method
from dclose_nb.sampling import Plan


@pytest.fixture
def found(lamps, lit):
    return dc.explain(lamps, lit, n_masks=20, segments=(4, 8), progress=False)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


FILES = [
    "manifest.json",
    "maps.npz",
    *(f"overlay_{k:02d}_{label}.{ending}" for k, label in ((1, "a"), (2, "b")) for ending in ("pdf", "png")),
    "report.html",
    "sheet.pdf",
    "sheet.png",
]


# -- the folder


def test_a_report_is_written_whole(found, tmp_path):
    folder = dc.report(found, tmp_path / "new" / "folder", photo="lamps.png")
    assert folder == tmp_path / "new" / "folder" and names(folder) == FILES
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"] == FILES and manifest["image"]["photo"] == "lamps.png"
    for name in ("overlay_01_a", "sheet"):
        assert min(Image.open(folder / f"{name}.png").size) > 100
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_a_second_report_replaces_the_first_and_nothing_else(found, tmp_path):
    dc.report(found, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "overlay_99_mine.png").write_text("mine too")
    dc.report(found[:1], tmp_path)
    kept = [name for name in FILES if "_b." not in name]
    assert names(tmp_path) == sorted([*kept, "notes.txt", "overlay_99_mine.png"])


def test_saving_the_data_alone_removes_drawings_that_are_no_longer_true(found, tmp_path):
    dc.report(found, tmp_path)
    found[:1].save(tmp_path)
    assert names(tmp_path) == ["manifest.json", "maps.npz"]


def test_a_manifest_from_outside_is_not_trusted(found, tmp_path):
    victim = tmp_path / "victim.png"
    victim.write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "manifest.json").write_text(
        json.dumps({"files": ["manifest.json", "../victim.png", "notes.txt", str(victim)]})
    )
    dc.report(found, folder)
    assert victim.read_text() == "precious" and (folder / "notes.txt").read_text() == "mine"


def test_without_a_page_an_older_one_goes_and_a_user_s_own_stays(found, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    dc.report(found[:1], old)
    new.mkdir()
    (new / "report.html").write_text("mine")
    for folder in (old, new):
        dc.report(found, folder, html=False)
        assert "report.html" not in json.loads((folder / "manifest.json").read_text())["files"]
    assert names(old) == [name for name in FILES if name != "report.html"]
    assert names(new) == FILES and (new / "report.html").read_text() == "mine"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("folder", ["old", "new/deep"])
def test_an_interrupted_report_leaves_nothing_new(found, tmp_path, stop, folder):
    found[:1].save(tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}

    def interrupted():
        with reports.staged(tmp_path / folder) as stage:
            reports.write(stage, found, figures=False)
            raise stop

    with pytest.raises(stop):
        interrupted()
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize(
    "name", ["sheet.png", "maps.npz", "manifest.json", "report.html", "overlay_01_a.png"]
)
def test_a_file_of_the_user_s_is_never_replaced(found, tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(dc.InputError, match="is not an explanation's and would be lost"):
        dc.report(found, tmp_path)
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_folder_where_a_file_should_be_is_refused(found, tmp_path):
    """It is refused before anything is replaced, even where the manifest names it."""
    dc.report(found, tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()  # no file takes the place of a folder
    with pytest.raises(dc.InputError, match="is not an explanation's and would be lost"):
        dc.report(found, tmp_path)
    assert names(tmp_path) == FILES and (tmp_path / "manifest.json").read_bytes() == before


def test_strange_names_are_no_obstacle(lit, tmp_path):
    class Named(Lamps):
        def __init__(self):
            super().__init__([[1, 1, 7, 9]], [[1.0]])
            self.class_names = ("../$b^$ " + "x" * 300,)

    folder = dc.report(dc.explain(Named(), lit, n_masks=10, progress=False), tmp_path / "out")
    assert len(list(folder.glob("overlay_01_b-xxx*.png"))) == 1


def test_a_folder_that_cannot_be_written_is_refused(found, tmp_path):
    (tmp_path / "file").touch()
    for folder, word in (
        (tmp_path / "file", "cannot write to the folder"),
        (tmp_path / "file" / "below", "cannot write to the folder"),
        ("a\0b", "cannot be used as a path"),
        (tmp_path / "new" / ("x" * 300) / "deep", "cannot"),
    ):
        with pytest.raises(dc.InputError, match=word):
            dc.report(found, folder)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photo": Path("a/lamps.png")}, "photo must be a text, what the image is called, got "),
        ({"opacity": 1.5}, r"opacity must be a number in \[0, 1\], got 1.5"),
        ({"html": "no"}, "html must be True or False, got 'no'"),
        ({"threshold": "half"}, r"threshold must be a number in \[0, 1\], got 'half'"),
    ],
)
def test_what_is_no_report_s_is_refused_in_words(found, tmp_path, options, words):
    with pytest.raises(dc.InputError, match=f"^{words}"):
        dc.report(found, tmp_path / "new", **options)
    with pytest.raises(
        dc.InputError, match=r"must be an Explanation, which dc.explain returns, got NoneType"
    ):
        dc.report(None, tmp_path / "new")
    assert names(tmp_path) == []


def test_drawings_and_page_have_the_opacity_and_the_threshold_that_were_asked(found, tmp_path):
    usual, own = dc.report(found, tmp_path / "usual"), tmp_path / "own"
    made = Page(dc.report(found, own, opacity=0.4, threshold=0.5) / "report.html")
    for name in ("overlay_01_a.png", "sheet.png"):
        assert (own / name).read_bytes() != (usual / name).read_bytes()
    assert made.all("input", id="opacity", value="40")
    assert any("Values below 0.5 are not shown." in text for text in made.text["p"])
    assert ".heat { opacity: 0.4; }" in (own / "report.html").read_text(encoding="utf-8")
    heat = picture(made.all("img", **{"class": "heat"})[0]["src"])
    value, shown = np.asarray(heat), np.asarray(heat.convert("RGBA"))[..., 3]
    assert (shown[value < 127] == 0).all() and (shown[value > 128] > 179).all()  # the root of a half


# -- the page


class Page(HTMLParser):
    """Every tag with its attributes, and the text between tags by the innermost tag."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.last = [], {}, ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.last = tag

    def handle_data(self, data):
        self.text.setdefault(self.last, []).append(data)

    def all(self, tag, **wanted):
        return [own for name, own in self.tags if name == tag and wanted.items() <= own.items()]


def page_of(explanation, folder, **options):
    """The page without drawings, which take seconds."""
    with reports.staged(folder) as stage:
        reports.write(stage, explanation, figures=False, **options)
    return Page(Path(folder) / "report.html")


def picture(address):
    kind, content = re.fullmatch(r"data:image/(\w+);base64,(.+)", address).groups()
    opened = Image.open(io.BytesIO(base64.b64decode(content)))
    assert opened.format.lower() == kind
    return opened


def test_every_object_has_every_layer_as_it_was_computed(found, lit, tmp_path):
    made = page_of(found, tmp_path)
    assert np.abs(np.asarray(picture(made.all("img")[0]["src"]), float) - lit).mean() < 10
    for layer, maps in enumerate([found.saliency, *found.levels]):
        for k, saliency in enumerate(maps):
            (heat,) = made.all("img", **{"data-layer": str(layer), "data-object": str(k)})
            drawn = picture(heat["src"])
            assert (
                drawn.mode == "P" and np.abs(np.asarray(drawn) / 255 - min_max(saliency)).max() <= 0.5 / 255
            )
            assert ("hidden" in heat) == ((layer, k) != (0, 0))
    lowest, highest = (drawn.convert("RGBA").getpixel(place) for place in corners(np.asarray(drawn)))
    assert lowest[3] == 0 and highest[3] == 255


def corners(values):
    """Where a map is lowest and highest, as (x, y)."""
    return [tuple(np.unravel_index(at, values.shape))[::-1] for at in (values.argmin(), values.argmax())]


def test_the_page_has_the_numbers_and_switches(found, tmp_path):
    made = page_of(found, tmp_path)
    assert [own["value"] for own in made.all("input", name="object", type="radio")] == ["0", "1"]
    assert [own["value"] for own in made.all("input", name="layer", type="radio")] == ["0", "1", "2", "none"]
    assert made.all("input", type="range") and made.all("input", type="checkbox")
    cells = made.text["td"]
    captions = {f"{name} {score:.2f}" for name, score in zip("ab", found.detections.scores)}
    assert captions <= {text.strip() for text in made.text["input"]}
    for k in range(2):
        box = found.detections.boxes[k]
        expected = (
            f"{dc.metrics.sparsity(found.saliency[k]):.1f}",
            f"{dc.metrics.ebpg(found.saliency[k], box):.2f}",
        )
        assert {found.detections.names[k], f"{found.detections.scores[k]:.2f}", *expected} <= set(cells)
    assert {own["data-head"] for own in made.all("td", **{"class": "number"})} == {
        *("score", "x1, y1, x2, y2", "sparsity", "EBPG")  # which narrow pages show beside the number
    }


def test_a_box_that_fills_the_photo_has_a_hint_that_its_ebpg_says_nothing(lit, tmp_path):
    for name, right, hinted in (("whole", 20, True), ("most", 18, False)):  # of 20 pixels
        lamps = Lamps([[1, 1, 7, 9], [0, 0, right, 12]], [[1.0, 0], [0, 0.8]])
        page_of(dc.explain(lamps, lit, n_masks=10, progress=False), tmp_path / name)
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        hint = "the box fills the photo, so EBPG says nothing."
        assert page.count(hint) == page.count(f"b: {hint}") == hinted


def test_objects_are_numbered_where_two_have_the_same_label(lit, tmp_path):
    lamps = Lamps([[1, 1, 7, 9], [10, 2, 18, 8]], [[1.0], [0.8]])
    found = dc.explain(lamps, lit, n_masks=10, progress=False)
    numbered = [f"{k}: a {score:.2f}" for k, score in enumerate(found.detections.scores, 1)]
    made = page_of(found, tmp_path)
    assert set(numbered) <= {text.strip() for text in made.text["input"]}
    assert {"1: a", "2: a"} <= set(made.text["td"])
    sheet, *panels = plot.sheet(found)
    assert sorted(text for text in made.text["text"] if text.strip()) == numbered
    assert [text.get_text() for text in sheet.texts] == numbered
    assert [panel.get_title() for panel in panels] == [f"{text}, dclose" for text in numbered]


def test_boxes_have_the_sheet_s_colours_and_labels_and_the_smallest_is_on_top(lit, tmp_path):
    lamps = Lamps([[1, 1, 17, 9], [10, 2, 18, 8]], [[1.0, 0], [0, 0.9]])
    found = dc.explain(lamps, lit, n_masks=10, progress=False)[::-1]
    made = page_of(found, tmp_path)
    (sheet, *_) = plot.sheet(found)
    drawn = [text.get_bbox_patch().get_facecolor() for text in sheet.texts]
    boxes = made.all("rect", **{"class": "box"})
    places = [tuple(float(own[name]) for name in ("x", "y", "width", "height")) for own in boxes]
    assert places == [(1, 1, 16, 8), (10, 2, 8, 6)]
    order = [int(own["data-object"]) for own in made.all("g")]
    assert order == np.argsort(-(found.detections.boxes[:, 2] - found.detections.boxes[:, 0])).tolist()
    assert [own["stroke"] for own in boxes] == [to_hex(drawn[k]) for k in order]
    assert [text for text in made.text["text"] if text.strip()] == [sheet.texts[k].get_text() for k in order]
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f".heat {{ opacity: {plot.OPACITY}; }}" in content
    heat = picture(made.all("img", **{"class": "heat"})[0]["src"]).convert("RGBA")
    value = np.asarray(picture(made.all("img", **{"class": "heat"})[0]["src"])) / 255
    expected = get_cmap(plot.CMAP)(value)
    expected[..., 3] = np.sqrt(value)  # as plot.blend has it
    assert np.abs(np.asarray(heat) / 255 - expected).max() < 0.01


@pytest.mark.parametrize("shape", [(12, 20), (300, 3), (3, 300)])
def test_labels_lie_in_the_picture_and_cover_no_other(shape, tmp_path):
    height, width = shape
    lamps = Lamps([[0, 0, width, height]] * 4, np.eye(4))
    lamps.class_names = ("a", "b" * 300, "c", "d")
    image = np.full((height, width, 3), 240, np.uint8)
    found = dc.explain(lamps, image, lamps.detect(image, iou=1), n_masks=10, progress=False)
    assert len(found) == 4
    rectangles = [own for own in page_of(found, tmp_path).all("rect") if "fill" in own]
    labels = [[float(own[name]) for name in ("x", "y", "width", "height")] for own in rectangles]
    assert labels
    for x, y, w, h in labels:
        assert x >= 0 and y >= 0 and x + w <= width + 0.2 and y + h <= height + 0.2  # to a rounding
    for (x, y, w, h), (x2, y2, w2, h2) in combinations(labels, 2):
        assert min(x + w, x2 + w2) - max(x, x2) < 0.2 or min(y + h, y2 + h2) - max(y, y2) < 0.2


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_in_a_browser(tmp_path):
    """A click chooses the smallest box, an arrow key the next; nothing is cut, and the choice is in view."""
    sync = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    lamps = Lamps([[10, 10, 110, 70], [50, 30, 70, 50], [0, 60, 30, 80]], np.eye(3) * [0.9, 0.8, 0.7])
    lamps.class_names = ("a", "b", "c")
    image = np.full((80, 120, 3), 240, np.uint8)
    page_of(dc.explain(lamps, image, n_masks=10, progress=False), tmp_path)
    address = (tmp_path / "report.html").as_uri()
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        problems = []
        page.on("console", lambda message: problems.append(message.text))
        page.goto(address)
        frame = page.locator(".picture").bounding_box()

        def chosen():
            shown = page.locator(".heat:visible")
            assert shown.count() == page.locator("g.chosen").count() == 1
            kept = page.locator("input[name=object]:checked").get_attribute("value")
            assert kept == shown.get_attribute("data-object")
            return page.locator(f"input[value='{kept}'] >> xpath=..").first.inner_text().strip()[0]

        def click(x, y):
            page.mouse.click(frame["x"] + frame["width"] * x / 120, frame["y"] + frame["height"] * y / 80)
            return chosen()

        assert [chosen(), click(60, 40), click(20, 20), click(5, 75), click(115, 5)] == [
            "a",
            "b",
            "a",
            "c",
            "c",
        ]
        page.locator("input[name=object]").first.focus()
        page.keyboard.press("ArrowDown")
        assert chosen() == "b"
        for part in (frame, page.locator("fieldset").first.bounding_box()):
            assert part["y"] + part["height"] <= 720 and part["x"] + part["width"] <= 1280
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        for cell in page.locator("td.number").all():
            place = cell.bounding_box()
            assert place["x"] >= 0 and place["x"] + place["width"] <= 400
            assert cell.evaluate("cell => cell.scrollWidth <= cell.clientWidth")
        browser.close()
    assert problems == []


def test_the_page_says_how_it_was_made(lamps, lit, tmp_path):
    found = dc.explain(lamps, lit, n_masks=10, seed=7, progress=False)
    made = page_of(found, tmp_path, photo="zwölf lamps.png")
    cells = made.text["td"]
    for name, value in (
        ("masks", "10"),
        ("seed", "7"),
        ("forward passes", "11"),
        ("detector", "lamps, on cpu"),
    ):
        assert cells[cells.index(name) + 1] == value
    shown = made.text["pre"][0]
    assert json.loads(shown) == json.loads((tmp_path / "manifest.json").read_text()) and "zwölf" in shown


def test_nothing_is_loaded_and_nothing_else_may_run(found, tmp_path):
    made = page_of(found, tmp_path)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    addresses = [value for _, own in made.tags for name, value in own.items() if name in ("src", "href")]
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert not any(name.startswith("on") or name == "style" for _, own in made.tags for name in own)
    (policy,) = (own["content"] for own in made.all("meta", **{"http-equiv": "Content-Security-Policy"}))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, word in (("style", ".heat"), ("script", "addEventListener")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", content, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert word in text and rules[f"{tag}-src"] == f"'sha256-{digest}'"


EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'


def test_names_from_outside_stay_text(lit, tmp_path):
    class Evil(Lamps):
        def __init__(self):
            super().__init__([[1, 1, 7, 9]], [[1.0]])
            self.name, self.class_names = EVIL + " detector", (EVIL,)
            self.provenance = {"weights_sha256": EVIL}

    explanation = dc.explain(Evil(), lit, n_masks=10, progress=False)
    tame = page_of(
        dc.explain(Lamps([[1, 1, 7, 9]], [[1.0]]), lit, n_masks=10, progress=False), tmp_path / "tame"
    )
    made = page_of(explanation, tmp_path / "evil", photo=EVIL + "\udcff.png")  # a name that is no UTF-8
    assert [tag for tag, _ in made.tags] == [tag for tag, _ in tame.tags]
    texts = [text for parts in made.text.values() for text in parts]
    assert sum(EVIL in text for text in texts) >= 5  # title, heading, table, detector, weights
    assert any("\ufffd.png" in text for text in made.text["h1"])
    # somebody's method may have segments of any kind, and so may a file that says so
    named = replace(explanation, method=EVIL, params={"segments": (EVIL,) * len(explanation.levels)})
    made = page_of(named, tmp_path / "method")
    assert [tag for tag, _ in made.tags] == [tag for tag, _ in tame.tags]


def test_a_photo_without_objects_has_a_page_too(lamps, lit, tmp_path):
    made = page_of(dc.explain(lamps, np.zeros_like(lit), n_masks=10, progress=False), tmp_path)
    assert "no object was found" in made.text["h1"][0]
    assert len(made.all("img")) == 1 and not made.all("script") and not made.all("input")


def test_methods_without_levels_have_one_layer(lamps, lit, tmp_path):
    drise = dc.explain(lamps, lit, method="drise", n_masks=10, progress=False)
    assert len(page_of(drise, tmp_path).all("img", **{"class": "heat"})) == 2


def test_a_method_of_one_s_own_may_have_levels_of_anything(lamps, lit, tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class TwoGrids(Method):
        n_masks: int = 20

        def plan(self, canvas, seed):
            shape = canvas.content[2:]
            grids = [grid_masks(shape, grid=(k, k), seed=seed, device="cpu") for k in (2, 4)]
            return Plan(grids, [self.n_masks // 2] * 2)

        def combine(self, levels):
            maps = np.stack([level.contrast for level in levels])
            return Maps(maps.sum(axis=0), maps)

    @dataclass(frozen=True)
    class WithSegments(TwoGrids):
        segments: int = 4  # of what it cuts by itself

    monkeypatch.setitem(METHODS, "two grids", TwoGrids)
    monkeypatch.setitem(METHODS, "segments", WithSegments)
    own = dc.explain(lamps, lit, method="segments", progress=False)
    assert own.segments == [] and own.level_names == ["level 1", "level 2"]
    made = dc.explain(lamps, lit, method="two grids", progress=False)
    folder = dc.report(made, tmp_path / "own")
    again = dc.Explanation.load(folder)
    assert again.segments == [] and np.array_equal(again.levels, made.levels)
    assert "level 1" in (folder / "report.html").read_text()
    assert [panel.get_title() for panel in plot.levels(made[0])] == made.level_names == ["level 1", "level 2"]
    for name in ("masks", "weights", "levels"):
        assert explorer_steps.picture(STEPS[name], lamps, made[0]).startswith(b"\x89PNG")
    with pytest.raises(dc.InputError, match="two grids: its levels are not made of superpixels"):
        explorer_steps.picture(STEPS["superpixels"], lamps, made[0])


def test_an_error_that_is_known_is_shown(lamps, lit, tmp_path):
    with pytest.warns(UserWarning, match="masks a map's error"):
        rough = dc.explain(lamps, lit, n_masks=40, segments=(4, 8), tolerance=0.01, progress=False)
    made = page_of(rough, tmp_path)
    assert "relative error" in made.text["th"]
    assert f"{rough.relative_error[0]:.2f}" in made.text["td"]


def test_a_document_without_a_script_allows_none():
    assert "script-src 'none'" in reports.document("a", "<p>b</p>")
