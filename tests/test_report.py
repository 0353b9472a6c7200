"""Files: whole or not at all, and none of the user's own is lost."""

import json

import numpy as np
import pytest

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
    (folder / "manifest.json").write_text(json.dumps({"files": ["../victim.png", "notes.txt", str(victim)]}))
    found.save(folder)
    assert victim.read_text() == "precious" and (folder / "notes.txt").read_text() == "mine"


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


def test_a_folder_that_cannot_be_written_is_refused(found, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(dc.InputError, match="cannot write to the folder"):
        found.save(tmp_path / "file")
    with pytest.raises(dc.InputError, match="cannot write to the folder"):
        found.save(tmp_path / "file" / "below")
