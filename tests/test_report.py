"""Files: whole or not at all, and none of the user's own is lost."""

import json
import os

import numpy as np
import pytest
from toys import Lamps

import dclose_nb as dc
from dclose_nb import report


@pytest.fixture
def found(lamps, lit):
    return dc.explain(lamps, lit, n_masks=10, progress=False)


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


def test_an_explanation_is_saved_whole(found, tmp_path):
    folder = found.save(tmp_path / "new" / "folder")
    assert names(folder) == FILES
    maps = np.load(folder / "maps.npz")
    for name in ("saliency", "levels", "density"):
        assert np.array_equal(maps[name], getattr(found, name))
    assert np.array_equal(maps["boxes"], found.detections.boxes)
    assert maps["class_names"].tolist() == ["a", "b"]


def test_the_manifest_says_how_it_was_made(found, tmp_path):
    report.write(found, tmp_path, photo="lamps.png")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["method"] == "dclose" and manifest["n_forward"] == 11 and manifest["seconds"] > 0
    assert manifest["params"]["seed"] == 0 and manifest["params"]["segments"] == [150, 300, 600, 1200, 2400]
    assert manifest["image"]["photo"] == "lamps.png" and manifest["image"]["width"] == 20
    assert manifest["detector"]["name"] == "lamps" and set(manifest["versions"]) >= {
        "torch",
        "numpy",
        "dclose_nb",
    }
    assert [entry["label"] for entry in manifest["objects"]] == ["a", "b"]
    assert manifest["files"] == FILES


def test_a_second_explanation_replaces_the_first_and_nothing_else(found, tmp_path):
    found.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "overlay_99_mine.png").write_text("mine too")
    found[:1].save(tmp_path)
    kept = [name for name in FILES if "_b." not in name]
    assert names(tmp_path) == sorted([*kept, "notes.txt", "overlay_99_mine.png"])


def test_a_manifest_from_outside_is_not_trusted(found, tmp_path):
    victim = tmp_path / "victim.png"
    victim.write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "manifest.json").write_text(
        json.dumps({"files": ["manifest.json", "../victim.png", "notes.txt", str(victim)]})
    )
    found.save(folder)
    assert victim.read_text() == "precious" and (folder / "notes.txt").read_text() == "mine"


def test_without_a_page_an_older_one_goes_and_a_user_s_own_stays(found, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    found.save(old)
    new.mkdir()
    (new / "report.html").write_text("mine")
    for folder in (old, new):
        with report.staged(folder, html=False) as stage:
            report.fill(stage, found, html=False)
        assert "report.html" not in json.loads((folder / "manifest.json").read_text())["files"]
    assert names(old) == [name for name in FILES if name != "report.html"]
    assert names(new) == FILES and (new / "report.html").read_text() == "mine"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_save_leaves_nothing_new(found, tmp_path, monkeypatch, stop):
    found[:1].save(tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}

    def interrupted(*_, **__):
        raise stop

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    for folder in ("old", "new/deep"):
        with pytest.raises(stop):
            found.save(tmp_path / folder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize(
    "name", ["sheet.png", "maps.npz", "manifest.json", "report.html", "overlay_01_a.png"]
)
def test_a_file_of_the_user_s_is_never_replaced(found, tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(dc.InputError, match="would be lost"):
        found.save(tmp_path)
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_mixed_folder_has_no_manifest(found, tmp_path, monkeypatch):
    """Stopped between two files, the new ones are not passed off under the old manifest."""
    found.save(tmp_path)
    replace, moved = os.replace, []

    def interrupted(source, target):
        moved.append(target)
        if len(moved) == 3:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.save(tmp_path)
    assert "manifest.json" not in names(tmp_path)
    assert not any(name.startswith(".") for name in names(tmp_path))


def test_strange_names_are_no_obstacle(lit, tmp_path):
    class Named(Lamps):
        def __init__(self):
            super().__init__([[1, 1, 7, 9]], [[1.0]])
            self.class_names = ("../$b^$ " + "x" * 300,)

    folder = dc.explain(Named(), lit, n_masks=10, progress=False).save(tmp_path / "out")
    assert len(list(folder.glob("overlay_01_b-xxx*.png"))) == 1


def test_numpy_s_numbers_are_written_down(lamps, lit, tmp_path):
    options = {
        "n_masks": np.int64(10),
        "segments": np.array([4, 8]),
        "p": np.float32(0.5),
        "seed": np.int8(3),
    }
    dc.explain(lamps, lit, progress=False, **options).save(tmp_path)
    params = json.loads((tmp_path / "manifest.json").read_text())["params"]
    assert params["n_masks"] == 10
    assert params["segments"] == [4, 8]
    assert params["seed"] == 3


def test_a_folder_that_cannot_be_written_is_refused(found, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(dc.InputError, match="cannot write to the folder"):
        found.save(tmp_path / "file")
    with pytest.raises(dc.InputError, match="cannot write to the folder"):
        found.save(tmp_path / "file" / "below")
    with pytest.raises(dc.InputError, match="cannot be used as a path"):
        found.save("a\0b")
    with pytest.raises(dc.InputError, match="cannot"):
        found.save(tmp_path / "new" / ("x" * 300) / "deep")
    assert names(tmp_path) == ["file"]
