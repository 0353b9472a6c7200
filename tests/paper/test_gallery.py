"""The folder of figures: whole files, made once, and nobody else's are lost."""

import json
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import dclose_nb as dc
from dclose_nb import images as photos
from dclose_nb.cli import main
from dclose_nb.detectors import weights
from dclose_nb.paper import gallery
from dclose_nb.paper.figures import Drawing
from dclose_nb.paper.studio import MissingCase

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def drawn(monkeypatch):
    """Two figures that are quick: one draws, one finds nothing. Lists their numbers as they are made."""
    numbers = []

    def dot(studio):
        numbers.append(1)
        subject = studio.subject(0)
        studio.explain(subject.look, subject.target)
        studio.notes.append(f"note {EVIL}")
        figure, ax = plt.subplots()
        ax.plot([0, 1])
        return figure, f"a dot {EVIL}"

    def nothing(studio):
        numbers.append(2)
        raise MissingCase("There is nothing here.")

    monkeypatch.setattr(gallery, "FIGURES", {1: Drawing("Dot", dot), 2: Drawing("Nothing", nothing)})
    return numbers


@pytest.fixture
def photo(lit, tmp_path):
    Image.fromarray(lit).save(tmp_path / "lit.png")
    return str(tmp_path / "lit.png")


@pytest.fixture
def make(lamps, photo, tmp_path):
    def make(**options):
        given = {"detector": lamps, "photos": [photo], "n_masks": 40, "only": [1, 2], "progress": False}
        return gallery.make(tmp_path / "out", **given | options)

    return make


def names(folder):
    return sorted(path.name for path in folder.iterdir())


ALL = ["figure_01.pdf", "figure_01.png", "figures.json", "index.html", "maps"]


def test_a_figure_comes_with_its_page_and_its_record(make, drawn, tmp_path):
    records = make()
    out = tmp_path / "out"
    assert names(out) == ALL and records == {
        int(number): one for number, one in json.loads((out / "figures.json").read_text())["figures"].items()
    }
    assert records[1]["files"] == ["figure_01.png", "figure_01.pdf"] and records[2]["files"] == []
    assert records[2]["caption"] == "There is nothing here."
    assert records[1]["settings"]["detector"] == {"name": "lamps"} and records[1]["settings"]["n_masks"] == 40
    (one,) = records[1]["maps"]
    assert (one["picture"], one["method"], one["seed"], one["n_forward"]) == ("lit.png", "dclose", 0, 40)
    assert Image.open(out / "figure_01.png").format == "PNG"
    assert (out / "figure_01.pdf").read_bytes().startswith(b"%PDF")
    page = (out / "index.html").read_text()
    assert 'src="figure_01.png"' in page and 'href="figure_01.pdf"' in page and "figure_02" not in page
    assert "There is nothing here." in page and "lit.png" in page
    assert "<script" not in page and page.count("&lt;script&gt;") >= 2 and "script-src 'none'" in page


def test_a_figure_is_made_once_for_its_settings(make, drawn, photo, tmp_path):
    make()
    before = (tmp_path / "out" / "figures.json").read_bytes()
    make()
    assert drawn == [1, 2] and (tmp_path / "out" / "figures.json").read_bytes() == before
    make(seed=1, only=[1])
    assert drawn == [1, 2, 1]
    (tmp_path / "out" / "figure_01.pdf").unlink()
    make(seed=1, only=[1])
    assert drawn == [1, 2, 1, 1] and (tmp_path / "out" / "figure_01.pdf").is_file()
    Image.fromarray(np.asarray(Image.open(photo)) // 2).save(photo)
    make(seed=1, only=[1])
    assert drawn == [1, 2, 1, 1, 1]


def test_a_figure_that_is_missing_now_leaves_none_of_before(make, drawn, monkeypatch, tmp_path):
    make()
    monkeypatch.setitem(gallery.FIGURES, 1, gallery.FIGURES[2])
    make(seed=1)
    assert names(tmp_path / "out") == ["figures.json", "index.html", "maps"]


def test_a_stopped_run_goes_on(make, drawn, monkeypatch, tmp_path):
    def stopped(studio):
        raise KeyboardInterrupt

    calm = gallery.FIGURES[2]
    monkeypatch.setitem(gallery.FIGURES, 2, Drawing("Stopped", stopped))
    with pytest.raises(KeyboardInterrupt):
        make()
    assert names(tmp_path / "out") == ALL
    monkeypatch.setitem(gallery.FIGURES, 2, calm)
    assert sorted(make()) == [1, 2] and drawn == [1, 2]


def test_a_stop_while_a_file_is_written_leaves_none_torn(make, drawn, monkeypatch, tmp_path):
    def torn(self, path, **options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", torn)
        with pytest.raises(KeyboardInterrupt):
            make()
    assert names(tmp_path / "out") == ["figures.json", "index.html", "maps"]
    assert make()[1]["files"] and drawn == [1, 1, 2]


@pytest.mark.parametrize("name", ["index.html", "figure_10.png", "figure_02.pdf"])
def test_another_s_files_are_never_replaced(make, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious")
    with pytest.raises(dc.InputError, match="would be lost"):
        make(only=[1])
    assert names(tmp_path / "out") == [name] and (tmp_path / "out" / name).read_text() == "precious"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"figures": []}', '{"figures": {"1": {}}}', '{"figures": {"x": 1}}']
)
def test_damaged_records_are_refused(make, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures.json").write_text(content)
    with pytest.raises(dc.InputError, match="is damaged"):
        make()
    assert (tmp_path / "out" / "figures.json").read_text() == content


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"only": [11]}, "numbers 1 to"),
        ({"n_masks": 39}, "n_masks"),
        ({"seed": -1}, "seed"),
        ({"photos": ["nowhere.png"]}, "nowhere.png"),
        ({"coco": "nowhere"}, "cannot be read"),
        ({"detector": "yolox_huge"}, "detector"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(make, drawn, tmp_path, options, word):
    with pytest.raises(dc.InputError, match=word):
        make(**options)
    assert not (tmp_path / "out").exists() and not drawn


def test_without_weights_scenes_stand_in(drawn, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("YOLOX_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(weights, "RELEASE", "http://127.0.0.1:9")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    photos._no_weights.cache_clear()
    out = tmp_path / "out"
    arguments = ["figures", "--photo", photo, "--n-masks", "40", "--only", "1", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "figure_01.png" in printed.out and "index.html" in printed.out
    assert "The weights of yolox_nano are missing: drawn scenes" in printed.out
    assert (
        printed.err.count("could not be fetched") == 1 and str(tmp_path) not in printed.out.split("\n\n")[0]
    )
    record = json.loads((out / "figures.json").read_text())["figures"]["1"]
    assert record["settings"]["detector"]["name"] == "planted" and record["maps"][0]["picture"].startswith(
        "scene_"
    )


def test_the_command_takes_a_folder_of_coco(drawn, tmp_path, capsys):
    dc.dataset.drawn(tmp_path / "coco", 3)
    arguments = ["--coco", str(tmp_path / "coco"), "--detector", "planted", "--n-masks", "40"]
    assert main(["figures", *arguments, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "figure 2: missing" in printed.out and "figure 1: Dot" in printed.err
    assert main(["figures", *arguments, "--out", str(tmp_path / "out"), "--only", "1"]) == 0
    printed = capsys.readouterr()
    assert "figure 1: there already" in printed.err and "figure 2" not in printed.out
    record = json.loads((tmp_path / "out" / "figures.json").read_text())["figures"]["1"]
    assert re.fullmatch(r"\d+\.(jpg|png)", record["maps"][0]["picture"])
