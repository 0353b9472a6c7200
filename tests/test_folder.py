"""Many photos: a report each, a table whose numbers are right, and runs that go on where they stopped."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_reports import EVIL, Page
from toys import Lamps

import dclose_nb as dc
from dclose_nb import folder
from dclose_nb.folder import COLUMNS, Choice, Condition, explain_photos, find_photos
from dclose_nb.planted.dataset import write_coco

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def photos(tmp_path, monkeypatch, lit):
    """The names of two photos of lit lamps, a dark one, and two that are none, in ``photos/``."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name, image in (("a", lit), ("b", lit[:, ::-1]), ("dark", np.zeros_like(lit))):
        Image.fromarray(image).save(f"photos/{name}.png")
    Path("photos/text.jpg").write_text("no image")
    Path("photos/torn.png").write_bytes(Path("photos/a.png").read_bytes()[:60])
    return sorted(map(str, Path("photos").iterdir()))


def explained(photos, detector, out="out", choice=None, **options):
    options = {"method": "regression", "n_masks": 20} | options
    return explain_photos(photos, out, detector, choice or Choice(), progress=False, **options)


def table(out="out"):
    with Path(out, "detections.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- reports and tables


def test_each_photo_has_a_report_and_each_detection_a_row(photos, lamps):
    lines = explained(photos[:2], lamps)
    rows = table()
    assert [(row["photo"], row["report"], row["label"]) for row in rows] == [
        (f"photos/{name}.png", name, label) for name in "ab" for label in "ab"
    ]
    for name in "ab":
        files = sorted(path.name for path in Path("out", name).iterdir())
        assert files == ["manifest.json", "maps.npz", "report.html", "thumbnail.jpg"]
        explanation = dc.Explanation.load(Path("out", name))
        assert explanation.n_forward == 21
        for k, row in enumerate(row for row in rows if row["report"] == name):
            number = {column: float(row[column]) for column in folder.NUMBERS}
            saliency = explanation.saliency[k].astype(float).clip(0)
            x1, y1, x2, y2 = (round(number[edge]) for edge in folder.BOX)
            assert [x1, y1, x2, y2] == lamps.boxes[k].tolist()
            inside = saliency[y1:y2, x1:x2].sum() / saliency.sum()
            assert number["ebpg"] == pytest.approx(inside, abs=1e-4)
            assert number["outside"] == pytest.approx(1 - inside, abs=1e-4)
            assert number["error"] == pytest.approx(explanation.error[k].mean(), abs=1e-4)
            assert number["score"] == pytest.approx(explanation.detections.scores[k], abs=1e-4)
            assert number["passes"] == 21
    of_json = [json.loads(line) for line in Path("out/detections.jsonl").read_text().splitlines()]
    assert of_json == [row for line in lines for row in line["detections"]]
    assert all(tuple(row) == COLUMNS for row in of_json)
    assert [{name: str(value) for name, value in row.items()} for row in of_json] == rows


def test_a_method_without_an_error_leaves_its_column_empty(photos, lamps):
    explained(photos[:1], lamps, method="drise")
    assert [row["error"] for row in table()] == ["", ""]


def test_what_fails_and_what_is_empty_is_in_the_index_and_the_rest_goes_on(photos, lamps):
    lines = explained(photos, lamps)
    page = Path("out/index.html").read_text()
    assert folder.summary(lines) == "5 photos: 2 explained, 1 without an object, 2 failed"
    assert [line["photo"] for line in lines] == photos
    assert {row["photo"] for row in table()} == {"photos/a.png", "photos/b.png"}
    for photo, word in zip(photos[2:], ("no object was found", "is not an image", "cannot be read")):
        (row,) = re.findall(f"<tr>(?:(?!</tr>).)*{photo}(?:(?!</tr>).)*</tr>", page)
        assert word in row
    assert not Path("out/torn").exists()


def test_somebody_s_detector_that_stumbles_over_a_photo(photos, lamps):
    class Stumbles(Lamps):
        def predict(self, pixels):
            if pixels[0, 0, 2:, 3:11].mean() < pixels[0, 0, 2:, 11:].mean():  # b.png
                raise ZeroDivisionError("a\nb")
            return super().predict(pixels)

    image = dc.load_photo("photos/a.png").copy()
    image[:, :10] = 255
    for name, turned in (("a", image), ("b", image[:, ::-1])):
        Image.fromarray(turned).save(f"photos/{name}.png")
    lines = explained(photos[:2], Stumbles(lamps.boxes.tolist(), lamps.class_probs.tolist()))
    assert "error" not in lines[0] and lines[1] == {"photo": photos[1], "error": "ZeroDivisionError: a b"}


def test_what_is_explained_can_be_chosen(photos, lamps):
    lines = explained(photos[:1], lamps, choice=Choice(labels=["b"]))
    assert [row["label"] for row in lines[0]["detections"]] == ["b"]
    lines = explained(photos[:1], lamps, "one", Choice(top=1))
    assert [row["label"] for row in lines[0]["detections"]] == ["a"]
    lines = explained(photos[:1], lamps, "sure", Choice(confidence=0.99))
    assert lines[0]["detections"] == []
    lines = explained(photos[:1], lamps, "no class", Choice(labels=[]))
    assert lines[0]["detections"] == []
    with pytest.raises(dc.InputError, match="has no class 'unicorn'"):
        explained(photos[:1], lamps, "none", Choice(labels=["unicorn"]))
    assert not Path("none").exists()


def test_photos_of_the_same_name_have_folders_of_their_own(photos, lamps):
    Path("other").mkdir()
    shutil.copy("photos/b.png", "other/A.png")
    both = ["photos/a.png", "other/A.png", "photos/b.png"]
    reports = {line["photo"]: line["report"] for line in explained(both, lamps)}
    assert reports["photos/b.png"] == "b" and len({name.lower() for name in reports.values()}) == 3
    assert all(re.fullmatch("[aA]_[0-9a-f]{8}", reports[photo]) for photo in both[:2])
    for photo, name in reports.items():
        manifest = json.loads(Path("out", name, "manifest.json").read_text())
        assert manifest["image"]["photo"] == photo
    again = explained(both[::-1], lamps, "again")
    assert {line["photo"]: line["report"] for line in again} == reports


def test_names_of_files_stay_in_the_folder_and_are_text(photos, lamps):
    for name in ("...jpg", "index.html.png", '"><img src=x onerror=alert(1)>.png', "x" * 200 + ".png"):
        shutil.copy("photos/a.png", f"photos/{name}")
    names = [str(path) for path in Path("photos").iterdir() if path.stem not in ("text", "torn", "dark")]
    lamps.class_names = EVIL, "b"
    reports = {line["report"] for line in explained(names, lamps)}
    assert {path.name for path in Path("out").iterdir() if path.is_dir()} == reports
    assert len(reports) == 6 and all(re.fullmatch(r"[\w-]{1,69}", report) for report in reports)
    made = Page(Path("out/index.html"))
    shown = made.all("img")
    assert len(shown) == 6 and not any("onerror" in own for own in shown)
    assert len(made.all("script")) == 1


# -- runs that stop and go on


def counting(photos, detector, monkeypatch, **options):
    """The photos that a run explains, and what it gives."""
    done = []

    def load_photo(photo):
        done.append(photo)
        return dc.load_photo(photo)

    monkeypatch.setattr(folder, "load_photo", load_photo)
    return done, explained(photos, detector, **options)


def test_only_what_is_not_there_or_has_changed_is_done_again(photos, lamps, monkeypatch):
    first = explained(photos, lamps)
    page, rows = Path("out/index.html").read_bytes(), Path("out/detections.csv").read_bytes()
    done, again = counting(photos, lamps, monkeypatch)
    assert done == photos[3:] and again == first  # what failed is tried again
    assert (Path("out/index.html").read_bytes(), Path("out/detections.csv").read_bytes()) == (page, rows)
    Path("out/a/report.html").unlink()
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save("photos/b.png")
    shutil.copy("photos/a.png", "photos/torn.png")
    done, again = counting(photos, lamps, monkeypatch)
    assert done == [photos[k] for k in (0, 1, 3, 4)]
    assert [len(line.get("detections", "x")) for line in again] == [2, 0, 0, 1, 2]
    assert {row["photo"] for row in table()} == {photos[0], photos[4]}


def test_a_photo_in_the_home_folder_is_done_again_when_it_has_changed(photos, lamps, monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    (first,) = explained(["~/photos/a.png"], lamps)
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save("photos/a.png")
    (again,) = explained(["~/photos/a.png"], lamps)
    assert len(first["detections"]) == 2 and again["detections"] == []


def test_a_stop_leaves_whole_reports_and_the_same_command_goes_on(photos, lamps, monkeypatch):
    write = folder.reports.write

    def stopped(stage, *arguments, **options):
        write(stage, *arguments, **options)
        if stage.parent.name == "b":
            raise KeyboardInterrupt

    monkeypatch.setattr(folder.reports, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        explained(photos, lamps)
    assert sorted(path.name for path in Path("out").iterdir()) == ["a", "manifest.json", "records.jsonl"]
    assert len(dc.Explanation.load("out/a")) == 2
    monkeypatch.setattr(folder.reports, "write", write)
    done, _ = counting(photos, lamps, monkeypatch)
    assert done == photos[1:]
    explained(photos, lamps, "unbroken")
    timeless = [[row | {"seconds": 0} for row in table(out)] for out in ("out", "unbroken")]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 4 and Path("out/index.html").is_file()


def test_other_settings_and_other_s_files_are_refused(photos, lamps):
    explained(photos[:1], lamps)
    before = Path("out/detections.csv").read_bytes()
    for options, word in (
        ({"n_masks": 30}, "n_masks 20, not 30"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"choice": Choice(0.5)}, "confidence 0.25, not 0.5"),
        ({"method": "drise"}, "method 'regression', not 'drise'"),
    ):
        with pytest.raises(dc.InputError, match=f"was made with {word}: choose another folder"):
            explained(photos[:1], lamps, **options)
    lamps.class_names = "a", "c"
    with pytest.raises(dc.InputError, match="was made with class_names 'a, b', not 'a, c': choose"):
        explained(photos[:1], lamps)
    lamps.class_names = "a", "b"
    assert Path("out/detections.csv").read_bytes() == before
    Path("mine").mkdir()
    Path("mine/index.html").write_text("precious")
    with pytest.raises(dc.InputError, match=r"index.html' is not of explained photos and would be lost"):
        explained(photos[:1], lamps, "mine")
    assert [path.name for path in Path("mine").iterdir()] == ["index.html"]
    dc.report(dc.explain(lamps, dc.load_photo(photos[0]), n_masks=10, progress=False), "single")
    with pytest.raises(dc.InputError, match="belongs to something else"):
        explained(photos[:1], lamps, "single")


def test_another_photo_of_the_same_name_is_refused_before_any_work(photos, lamps, monkeypatch):
    Path("more").mkdir()
    shutil.copy("photos/b.png", "more/a.png")
    explained(photos[:1], lamps)
    before = Path("out/a/maps.npz").read_bytes()
    with pytest.raises(dc.InputError, match=r"'out/a' holds the maps of 'photos/a.png'"):
        explained(["more/a.png"], lamps)
    assert Path("out/a/maps.npz").read_bytes() == before
    assert {row["photo"] for row in table()} == {"photos/a.png"}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"method": "gradcam", "n_masks": "auto"}, "gradcam draws no masks, so"),
        ({"method": "magic"}, "method must be one of"),
        ({"n_masks": 0}, "n_masks must be"),
        ({"seed": -1}, "seed must be"),
        ({"question": "who"}, "question must be one of"),
        ({"choice": Choice(2.0)}, "confidence must be"),
        ({"choice": Choice(top=0)}, "top must be"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_anything_is_written(photos, lamps, options, word):
    with pytest.raises(dc.InputError, match=word):
        explained(photos, lamps, **options)
    assert not Path("out").exists()


def test_a_box_that_hardly_reaches_into_the_image_is_reported(photos, lit):
    lamps = Lamps([[-5, 2, 0.3, 8], [19.7, 2, 25, 8]], np.eye(2))
    lamps.predict = lambda pixels: dc.Proposals(
        (lamps.boxes + torch.tensor([3, 2, 3, 2])).expand(len(pixels), -1, -1),
        pixels.mean((1, 2, 3)).div(255)[:, None].expand(-1, 2),
        lamps.class_probs.expand(len(pixels), -1, -1),
    )
    (line,) = explained(photos[:1], lamps)
    assert [row["x1"] for row in line["detections"]] == [-5.0, 19.7]


# -- finding photos


def test_photos_are_found_in_folders_patterns_and_lists(photos, monkeypatch):
    for name in (".hidden.png", "notes.txt", "B.JPG"):
        Path("photos", name).touch()
    Path("photos/deep.png").mkdir()
    shutil.copy("photos/a.png", "photos/deep.png/c.png")
    in_folder = ["photos/B.JPG", *photos]
    assert find_photos(["photos"]) == find_photos(["photos/"]) == in_folder
    assert find_photos(["photos/*.png", "./photos/a.png"]) == [photo for photo in photos if "png" in photo]
    assert find_photos(["**/c.png"]) == ["photos/deep.png/c.png"]
    assert find_photos(["scene_3", "coffee", "nowhere.png"]) == ["scene_3", "coffee", "nowhere.png"]
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert find_photos(["~/photos/b.*"]) == [str(Path("photos/b.png").absolute())]
    Path("odd[1].png").touch()
    assert find_photos(["odd[1].png"]) == ["odd[1].png"]


def test_a_pattern_takes_no_picture_of_an_explanation(photos, lamps):
    explained(photos[:1], lamps, out="photos/maps")
    assert Path("photos/maps/a/thumbnail.jpg").is_file()
    shutil.copy("photos/b.png", "photos/maps/a/mine.png")
    assert find_photos(["photos/maps/**/*.*g"]) == ["photos/maps/a/mine.png"]
    assert find_photos(["photos/maps/a"]) == ["photos/maps/a/mine.png"]


def test_a_coco_file_names_its_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_coco("coco", range(3), progress=False)
    assert [dc.load_photo(photo).shape for photo in find_photos([str(path)])] == [(320, 320, 3)] * 3
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "../../../etc/passwd"
    path.write_text(json.dumps(content))
    assert find_photos([str(path)])[0] == str(Path("coco", "val2017", "passwd"))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("empty", "the folder 'empty' holds no image file"),
        ("*.jpeg", r"no file matches '\*.jpeg'"),
        ("none.json", "'none.json' cannot be read: No such file"),
        ("list.json", "'list.json' is damaged or not in COCO's format"),
        ("no.json", "'no.json' names no image"),
    ],
)
def test_where_no_photo_is_found_a_line_says_so(tmp_path, monkeypatch, name, word):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("list.json").write_text("[1]")
    Path("no.json").write_text('{"images": []}')
    with pytest.raises(dc.InputError, match=word):
        find_photos([name])


# -- conditions


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("outside > 0.5", []),
        ("outside>=0.5", [0.5]),
        (" outside < 5e-1 ", [0.2]),
        ("outside <= 0.5", [0.2, 0.5]),
        ("outside > -1", [0.2, 0.5]),
    ],
)
def test_a_condition_compares_a_number(text, held):
    condition = Condition.parse(text)
    rows = [{"outside": value} for value in (0.2, 0.5, None)]
    assert [row["outside"] for row in rows if condition.holds(row)] == held


@pytest.mark.parametrize(
    "text",
    ["", "outside", "outside > ", "outside == 0.5", "outside > half", "outside > nan", "outside > --1"],
)
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(dc.InputError, match=r'as "outside > 0\.5", got '):
        Condition.parse(text)


@pytest.mark.parametrize("column", ["label", "beauty", "__class__"])
def test_a_column_that_is_none_is_named_with_those_that_are(column):
    with pytest.raises(dc.InputError, match=f"'score', 'x1', .*'seconds', got '{column}'"):
        Condition.parse(f"{column} > 1")


# -- the page in a browser


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_index_sorts_and_shows_its_pictures(photos, lamps):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    explained(photos, lamps)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        wrong = []
        page.on("console", lambda message: wrong.append(message.text))
        page.goto(Path("out/index.html").absolute().as_uri())
        column = "rows => rows.map(row => row.cells[4].textContent)"
        for _ in range(2):
            page.get_by_role("button", name="outside").click()
        numbers = page.eval_on_selector_all("tbody tr", column)
        assert numbers[:2] == sorted(numbers[:2]) and numbers[2:] == [""] * 3
        page.get_by_role("button", name="photo").click()
        assert page.eval_on_selector_all("tbody tr", column.replace("4", "1")) == photos
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("photo")
        loaded = page.eval_on_selector_all("tbody img", "images => images.map(one => one.naturalWidth)")
        assert loaded == [20, 20, 20] and wrong == []
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("link", name="photos/a.png").click()
        assert "2 objects explained" in page.title()
        browser.close()
