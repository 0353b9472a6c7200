"""The folder of figures: whole files, made once, and nobody else's are lost.

Figure 3 is drawn quickly, from one explanation; figure 4 cannot be drawn of lamps, which have no weights.
"""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import dclose_nb as dc
from dclose_nb.cli import main
from dclose_nb.files import owned
from dclose_nb.paper import gallery
from dclose_nb.paper.cases import MissingCase

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def photo(lit, tmp_path):
    Image.fromarray(lit).save(tmp_path / "lit.png")
    return str(tmp_path / "lit.png")


@pytest.fixture
def make(lamps, photo, tmp_path):
    def make(**options):
        given = {"detector": lamps, "photos": [photo], "n_masks": 40, "only": [3, 4], "progress": False}
        return gallery.make(tmp_path / "out", **given | options)

    return make


@pytest.fixture
def drawn(make, capsys):
    def drawn(**options):
        """Numbers of the figures that `make` draws, in their order."""
        make(progress=True, **options)
        return [int(n) for n in re.findall(r"figure (\d+): (?!there already)", capsys.readouterr().err)]

    return drawn


def names(folder):
    return sorted(path.name for path in folder.iterdir())


ALL = ["figure_03.pdf", "figure_03.png", "figures.json", "index.html", "maps"]


def test_a_figure_comes_with_its_page_and_its_record(make, lamps, tmp_path):
    lamps.class_names = (EVIL, "b")
    records = make()
    out = tmp_path / "out"
    assert names(out) == ALL and records == {
        int(number): record
        for number, record in json.loads((out / "figures.json").read_text())["figures"].items()
    }
    assert records[3]["files"] == ["figure_03.png", "figure_03.pdf"] and records[4]["files"] == []
    assert records[4]["caption"] == "Lamps has no parameters to randomise."
    assert records[3]["settings"]["detector"] == {"name": "lamps"} and records[3]["settings"]["n_masks"] == 40
    (used,) = records[3]["maps"]
    assert (used["picture"], used["method"], used["seed"], used["n_forward"]) == ("lit.png", "dclose", 0, 40)
    assert Image.open(out / "figure_03.png").format == "PNG"
    assert (out / "figure_03.pdf").read_bytes().startswith(b"%PDF")
    page = (out / "index.html").read_text()
    assert 'src="figure_03.png"' in page and 'href="figure_03.pdf"' in page and "figure_04" not in page
    assert "has no parameters" in page and "lit.png" in page
    assert "<script" not in page and page.count("&lt;script&gt;") >= 2 and "script-src 'none'" in page


def test_a_figure_is_made_once_for_its_settings(drawn, photo, tmp_path):
    assert drawn() == [3, 4]
    before = (tmp_path / "out" / "figures.json").read_bytes()
    assert drawn() == [] and (tmp_path / "out" / "figures.json").read_bytes() == before
    assert drawn(seed=1, only=[3]) == [3]
    (tmp_path / "out" / "figure_03.pdf").unlink()
    assert drawn(seed=1, only=[3]) == [3] and (tmp_path / "out" / "figure_03.pdf").is_file()
    Image.fromarray(np.asarray(Image.open(photo)) // 2).save(photo)
    assert drawn(seed=1, only=[3]) == [3]


def test_figure_8_is_drawn_again_when_a_photograph_changes(drawn, lit, tmp_path, monkeypatch):
    monkeypatch.setenv("DCLOSE_CONDITIONS", str(tmp_path))
    (tmp_path / "nir").mkdir()
    for again in ([8], []):
        Image.fromarray(lit).save(tmp_path / "nir" / "one.png")
        assert drawn(only=[8]) == again
    Image.fromarray(lit // 2).save(tmp_path / "nir" / "one.png")
    assert drawn(only=[8]) == [8]


def test_a_figure_that_is_missing_now_leaves_none_of_before(make, tmp_path):
    make(detector="planted", only=[4])
    assert names(tmp_path / "out") == [name.replace("03", "04") for name in ALL]
    make(only=[4])
    assert names(tmp_path / "out") == ["figures.json", "index.html", "maps"]


def test_a_stopped_run_goes_on(make, drawn, lamps, tmp_path):
    def stopped(pixels):
        if sum(map(len, lamps.seen)) > 80:  # in figure 9, while D-RISE samples 20 masks
            raise KeyboardInterrupt
        return seeing(pixels)

    seeing, lamps.predict = lamps.predict, stopped
    with pytest.raises(KeyboardInterrupt):
        make(only=[3, 9])
    assert names(tmp_path / "out") == ALL and len(names(tmp_path / "out" / "maps")) == 4
    lamps.predict = seeing
    lamps.seen.clear()
    assert drawn(only=[3, 9]) == [9]
    assert sum(map(len, lamps.seen)) == 1 + 20 + 40  # a detection, and only the maps that were not made


def test_a_stop_while_a_file_is_written_leaves_none_torn(make, drawn, monkeypatch, tmp_path):
    def torn(self, path, **options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", torn)
        with pytest.raises(KeyboardInterrupt):
            make()
    assert names(tmp_path / "out") == ["figures.json", "index.html", "maps"]
    assert drawn() == [3, 4] and names(tmp_path / "out") == ALL


def test_only_one_run_writes_to_a_folder(make, tmp_path):
    with owned(tmp_path / "out"), pytest.raises(dc.InputError, match="another run is writing to the folder"):
        make()
    assert not (tmp_path / "out").exists()


def test_only_figures_made_here_are_closed(make, monkeypatch):
    def stopped(inputs):
        plt.figure()
        raise KeyboardInterrupt

    own = plt.figure()
    before = plt.get_fignums()
    make(only=[4])  # it is missing
    assert plt.get_fignums() == before
    monkeypatch.setitem(gallery.FIGURES, 2, ("Stopped", stopped))
    with pytest.raises(KeyboardInterrupt):
        make(only=[2])
    assert plt.get_fignums() == before
    plt.close(own)


def test_no_bar_is_shown_without_progress(make, lit, tmp_path, monkeypatch):
    monkeypatch.setenv("DCLOSE_CONDITIONS", str(tmp_path))
    (tmp_path / "nir").mkdir()
    Image.fromarray(lit).save(tmp_path / "nir" / "one.png")
    hidden = {}

    def bar(pictures, **options):
        hidden[options["desc"]] = options["disable"]
        return pictures

    monkeypatch.setattr("dclose_nb.paper.cases.tqdm", bar)
    make(only=[8], progress=False)
    assert hidden.keys() >= {"the photos that were given", "NIR"} and all(hidden.values())


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
def test_what_cannot_be_used_is_refused_before_anything_is_written(make, tmp_path, options, word):
    with pytest.raises(dc.InputError, match=word):
        make(**options)
    assert not (tmp_path / "out").exists()


def test_without_weights_scenes_stand_in(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("YOLOX_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    out = tmp_path / "out"
    arguments = ["figures", "--photo", photo, "--n-masks", "40", "--only", "3", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "figure_03.png" in printed.out and "index.html" in printed.out
    assert "The weights of yolox_nano are missing: drawn scenes" in printed.out
    assert printed.err.count("could not be fetched") == 1
    assert str(tmp_path) not in printed.out.split("\n\n")[0]
    record = json.loads((out / "figures.json").read_text())["figures"]["3"]
    assert record["settings"]["detector"]["name"] == "planted"
    assert record["maps"][0]["picture"].startswith("scene_")


def test_the_command_takes_a_folder_of_coco(tmp_path, monkeypatch, capsys):
    def nothing(inputs):
        raise MissingCase("There is nothing here.")

    monkeypatch.setitem(gallery.FIGURES, 2, ("Nothing", nothing))
    dc.dataset.drawn(tmp_path / "coco", 3)
    arguments = ["figures", "--coco", str(tmp_path / "coco"), "--detector", "planted", "--n-masks", "40"]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--only", "2", "3"]) == 0
    printed = capsys.readouterr()
    assert "figure 2: missing" in printed.out and "figure 3: From five maps to one" in printed.err
    assert main([*arguments, "--out", str(tmp_path / "out"), "--only", "3"]) == 0
    printed = capsys.readouterr()
    assert "figure 3: there already" in printed.err and "figure 2" not in printed.out
    record = json.loads((tmp_path / "out" / "figures.json").read_text())["figures"]["3"]
    assert re.fullmatch(r"\d+\.(jpg|png)", record["maps"][0]["picture"])
