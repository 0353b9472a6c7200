"""All code on the pages runs, links lead somewhere, and the book needs no network."""

import os
import pkgutil
import re
import runpy
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import dclose_nb as dc
from dclose_nb.folder import COLUMNS
from dclose_nb.methods import METHODS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "detectors.md"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md")]
SECTIONS = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def needs(tmp_path, monkeypatch):
    """A reader's working folder, with the files that a section names."""
    monkeypatch.chdir(tmp_path)

    def onnx():
        folder = os.environ.get("DCLOSE_ONNX")
        if not folder:
            pytest.skip("no ONNX files: set DCLOSE_ONNX to a folder with them")
        for file in Path(folder).glob("*.onnx"):
            (tmp_path / file.name).symlink_to(file)

    def huggingface():
        pytest.importorskip("transformers", reason="pip install 'dclose_nb[huggingface]'")
        from detectors.test_huggingface import build

        for part in build("detr"):
            part.save_pretrained(tmp_path / "my_detr")

    def named():
        try:
            dc.load_detector("picodet_s")
        except dc.detectors.MissingWeights as error:
            pytest.skip(str(error))

    return {"A network by name": named, "An ONNX file": onnx, "A Hugging Face model": huggingface}


@pytest.mark.filterwarnings("ignore:.*one-hot")
@pytest.mark.parametrize(("title", "text"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_a_section_runs_by_itself(title, text, needs, capsys):
    needs.get(title, lambda: None)()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert blocks
    reader = {"__name__": "reader"}
    for block in blocks:
        exec(compile(block, f"{PAGE.name}: {title}", "exec"), reader)
    plt.close("all")
    explained = reader["explanation"]
    assert len(explained) >= 1 and explained.saliency.max() > 0
    if title == "A function":
        assert explained.detections.names == ["red", "blue"]
        shares = [dc.metrics.ebpg(m, box) for m, box in zip(explained.saliency, explained.detections.boxes)]
        areas = [320 / 4800, 240 / 4800]
        assert all(share > 3 * area for share, area in zip(shares, areas))
        assert "one-hot" in capsys.readouterr().out
    if title == "The contract":
        assert capsys.readouterr().out == "[]\n"  # no fault was found


def test_the_page_shows_every_kind_of_detector():
    assert [title for title, _ in SECTIONS] == [
        "A network by name",
        "A function",
        "A torchvision network",
        "An ONNX file",
        "A Hugging Face model",
        "The contract",
    ]


def test_a_method_of_your_own_takes_twenty_lines(lamps, lit):
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^## A method of your own$.*?^```python\n(.*?)^```$", page, re.M | re.S)
    assert len(re.findall(r"^.*\S.*$", block, re.M)) <= 20
    before = dict(METHODS)
    try:
        exec(compile(block, "methods.md", "exec"), {"__name__": "reader"})
        explained = dc.explain(lamps, lit, method="grid contrast", n_masks=60, progress=False)
        boxes = explained.detections.boxes
        assert all(dc.metrics.pointing_game(m, box) for m, box in zip(explained.saliency, boxes))
        with pytest.raises(dc.InputError, match="n_masks must be"):
            dc.explain(lamps, lit, method="grid contrast", n_masks=1)
    finally:
        METHODS.clear()
        METHODS.update(before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not the official")
def test_the_lines_for_a_notebook_run(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )
    reader = {"__name__": "reader"}
    exec(compile(block, "README.md", "exec"), reader)
    plt.close("all")
    assert reader["detector"].name == real.name and "cup" in reader["explanation"].detections.names
    assert (tmp_path / "explanations" / "coffee" / "report.html").is_file()


def test_what_an_explanation_holds_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "explanations.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    reader = {"__name__": "reader"}
    for block in blocks:
        exec(compile(block, "explanations.md", "exec"), reader)
    assert reader["explanation"].detections.names == ["house"]
    written = {path.name for path in (tmp_path / "explanations" / "scene").iterdir()}
    _, one, many = re.split(r"^## (?:In a folder|Many photos)$", page, flags=re.M)
    rows = [line for line in one.splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`(\w+\.\w+)`", row)}
    assert named - {"overlay_01_cup.png"} == {name for name in written if not name.startswith("overlay")}
    assert set(COLUMNS) <= set(re.findall(r"`(\w+)`", many))


def test_the_book_asks_no_network_for_scripts():
    book = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    assert "://" not in book["mathjax_path"] and book["nb_ipywidgets_js"] == {}
    assert not re.search(r"https?:|//\w", (ROOT / "docs" / "book.css").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_pages_of_the_book_load_nothing_from_elsewhere(tmp_path):
    for package in ("myst_nb", "sphinx_book_theme", "sphinx_external_toc", "sphinx-mathjax-offline"):
        pytest.importorskip(package, reason="pip install 'dclose_nb[book]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-c", ROOT / "docs", ROOT, tmp_path]
    subprocess.run(command, check=True)
    loads = r"<(?:script|img|iframe|source)\b[^>]*?\ssrc=\"([^\"]+)|<link\b[^>]*?\shref=\"([^\"]+)"
    pages = list(tmp_path.rglob("*.html"))
    found = {
        url for page in pages for url in map("".join, re.findall(loads, page.read_text(encoding="utf-8")))
    }
    assert len(found) > 10 and not [url for url in found if re.match(r"https?:|//", url)]
    assert all((tmp_path / "_static" / name).is_file() for name in ("tex-svg.js", "book.css"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)|<img src=\"([^\"]+)\"", page.read_text(encoding="utf-8"))
    paths = [path for path in map("".join, links) if "://" not in path]
    assert [path for path in paths if not (page.parent / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_modules_that_are_named_exist(page):
    text = re.sub(r"^### Changed$.*?(?=^##|\Z)", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for name in re.findall(r"\bdclose_nb(?:\.[a-z]\w*)+", text):
        pkgutil.resolve_name(name)
    for name in re.findall(r"\bdc\.([A-Za-z_]\w*(?:\.[a-z]\w*)*)", text):
        attrgetter(name)(dc)
