"""The command, as a person types it."""

import json
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
from PIL import Image
from toys import NO_WEIGHTS, weights_at_hand

import dclose_nb as dc
from dclose_nb import images as photos
from dclose_nb.cli import main
from dclose_nb.detectors import weights


@pytest.fixture
def photo(lit, tmp_path):
    Image.fromarray(lit).save(tmp_path / "lit.png")
    return str(tmp_path / "lit.png")


@pytest.fixture(autouse=True)
def lamps_are_the_detector(lamps, monkeypatch):
    load = dc.load_detector
    monkeypatch.setattr(dc, "load_detector", lambda name: lamps if name == "lamps" else load(name))


def explain(*arguments):
    return main(["explain", *arguments, "--detector", "lamps", "--n-masks", "20"])


def test_a_photo_is_explained(photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert explain(photo, "--out", str(out), "--seed", "4") == 0
    printed = capsys.readouterr().out
    for part in ("object", "score", "method", "passes", "seconds", "a ", "b ", "dclose", " 21 ", str(out)):
        assert part in printed
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["n_forward"] == 21 and manifest["params"]["seed"] == 4
    assert len(list(out.glob("overlay_*.png"))) == 2


def test_html_is_written_where_it_is_asked_for(photo, tmp_path, capsys):
    out = tmp_path / "out"
    for arguments, there in (((), False), (("--html",), True)):
        assert explain(photo, "--out", str(out), *arguments) == 0
        assert (out / "report.html").is_file() == there == ("report.html" in capsys.readouterr().out)
    assert "lit.png: 2 objects explained" in (out / "report.html").read_text()


def test_top_explains_the_best_only(photo, tmp_path, capsys):
    assert explain(photo, "--out", str(tmp_path / "out"), "--top", "1", "--method", "drise") == 0
    assert [path.name for path in tmp_path.glob("out/overlay_*.png")] == ["overlay_01_a.png"]
    assert "drise" in capsys.readouterr().out


def test_the_default_folder_is_named_after_the_photo(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert explain(photo) == 0
    assert (tmp_path / "explanations" / "lit_dclose" / "manifest.json").is_file()


def test_a_photo_without_objects_is_no_error(tmp_path, capsys):
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save(tmp_path / "dark.png")
    assert explain(str(tmp_path / "dark.png"), "--out", str(tmp_path / "out")) == 0
    assert "no object was found" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["objects"] == []
    assert np.load(tmp_path / "out" / "maps.npz")["saliency"].shape == (0, 12, 20)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["no_such_photo"], "neither a file, nor scene_0"),
        (["PHOTO", "--method", "magic"], "method must be one of"),
        (["PHOTO", "--n-masks", "3"], "each of 5 levels"),
        (["PHOTO", "--seed", "-1"], "seed"),
        (["PHOTO", "--top", "0"], "--top"),
        (["PHOTO", "--detector", "yolo_v99"], "detector must be one of"),
        (["PHOTO", "--out", "PHOTO"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(photo, tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    arguments = [photo if argument == "PHOTO" else argument for argument in arguments]
    assert main(["explain", *arguments[:1], "--detector", "lamps", *arguments[1:]]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("dclose-nb: ") and word in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["lit.png"]


@pytest.mark.skipif(not weights_at_hand(), reason=NO_WEIGHTS)
def test_ctrl_c_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "dclose_nb", "explain", "coffee", "--out", str(tmp_path / "out")]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts with & ignores it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        for line in iter(lambda: process.stderr.read(40), ""):
            if "mask" in line or "%" in line:  # the bar has begun to move
                break
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "stopped; nothing was written" in rest
    assert not list(tmp_path.iterdir())


def test_the_demo_needs_no_weights(tmp_path, monkeypatch, capsys):
    """Where they cannot be fetched it says so in one line and explains a scene, as it would a photo."""
    monkeypatch.setenv("YOLOX_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(weights, "RELEASE", "http://127.0.0.1:9")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    photos._no_weights.cache_clear()
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    notes = [line for line in printed.err.splitlines() if "planted" in line]
    assert len(notes) == 1 and "could not be fetched" in notes[0]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["detector"]["name"] == "planted" and manifest["n_forward"] == 1001
    assert len(manifest["objects"]) == len(list((tmp_path / "out").glob("overlay_*.png"))) == 2
    assert all(word in printed.out for word in ("sheet.png", manifest["objects"][0]["label"]))
    photos._no_weights.cache_clear()


def test_weights_are_fetched_ahead(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("YOLOX_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "RELEASE", "http://127.0.0.1:9")  # nobody listens there
    assert main(["fetch", "yolox_nano"]) == 2
    assert "could not be fetched" in capsys.readouterr().err
    (tmp_path / "weights").mkdir(exist_ok=True)
    (tmp_path / "weights" / "yolox_nano.pth").touch()
    assert main(["fetch", "yolox_nano"]) == 0
    assert str(tmp_path) in capsys.readouterr().out
    assert main(["fetch", "yolox_huge"]) == 2


def test_the_command_is_installed():
    printed = subprocess.run(
        [sys.executable, "-m", "dclose_nb", "explain", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in ("PHOTO", "--detector", "--method", "--n-masks", "--seed", "--top", "--out"):
        assert option in printed
