"""Evaluations: matched by hand, scored as alone, and alike whoever does them and however often they stop."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from toys import Lamps

import dclose_nb as dc
from dclose_nb import metrics
from dclose_nb.cli import main
from dclose_nb.detection import match
from dclose_nb.evaluation import ABLATION, evaluate, evaluate_image, read_coco
from dclose_nb.planted.dataset import write_coco

METHODS = ("dclose", "drise", "gradcam", "mfpp", "segments+density", "segments+fusion")
QUICK = {"methods": METHODS, "n_masks": 20, "steps": 5, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As workers have it here: the number of threads decides how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six planted scenes as a data set of COCO."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder, range(6), progress=False)
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return read_coco(folder)


@pytest.fixture(scope="module")
def detector():
    return dc.load_detector("planted", device="cpu")


@pytest.fixture(scope="module")
def serial(detector, data, tmp_path_factory):
    return evaluate(detector, data, tmp_path_factory.mktemp("serial"), **QUICK)


def timeless(records):
    """Records by image, without what a clock says."""
    lines = sorted(records.lines, key=lambda line: line["image"])
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


# -- the data set


def test_a_data_set_is_read_as_it_was_written(data):
    assert [truth.image for truth in data.truths] == list(range(6)) and data.missing == []
    ratios = []
    for truth in data.truths:
        drawn = dc.planted.scene(truth.image)
        assert np.allclose(truth.boxes, drawn.boxes)
        assert truth.labels == [drawn.class_names[label] for label in drawn.labels]
        assert np.array_equal(dc.load_photo(truth.path), drawn.image)
        ratios += (np.prod(truth.boxes[:, 2:] - truth.boxes[:, :2], axis=1) / 320**2).tolist()
    centres = KMeans(3, n_init=10, random_state=0).fit(np.array(ratios)[:, None]).cluster_centers_
    assert data.centres == pytest.approx(sorted(centres[:, 0]), abs=1e-6)


def test_a_real_annotation_file(coco):
    data = read_coco(coco)
    assert len(data.truths) == 79 and not data.missing
    assert all(Path(truth.path).is_file() and len(truth.labels) == len(truth.boxes) for truth in data.truths)
    assert sorted(data.centres) == data.centres


def test_missing_images_are_counted_and_left_out_when_told_to(folder, tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").symlink_to(folder / "annotations")
    for path in sorted((folder / "val2017").iterdir())[:4]:
        (tmp_path / "val2017" / path.name).symlink_to(path)
    with pytest.raises(dc.InputError, match=r"2 of 6 images .* are missing .* 000000000004\.png for one"):
        read_coco(tmp_path)
    data = read_coco(tmp_path, missing="skip")
    assert len(data.truths) == 4 and data.missing == ["000000000004.png", "000000000005.png"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": 3}', '{"images": [], "annotations": [{}]}'])
def test_a_damaged_annotation_file_is_named(tmp_path, content):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(content)
    with pytest.raises(dc.InputError, match=r"instances_val2017.json' (is damaged|has 0 boxes)"):
        read_coco(tmp_path)


def test_a_file_name_cannot_leave_the_folder(folder, tmp_path):
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    content["images"][0]["file_name"] = "../../secret.png"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (tmp_path / "val2017").symlink_to(folder / "val2017")
    assert read_coco(tmp_path, missing="skip").missing == ["secret.png"]


def test_no_data_set(tmp_path):
    with pytest.raises(dc.InputError, match="cannot be read: No such file"):
        read_coco(tmp_path)


# -- what a record says


def test_a_record_is_what_one_would_compute_alone(serial, detector, data):
    line = next(line for line in serial.lines if line["image"] == 0)
    truth = data.truths[0]
    image = dc.load_photo(truth.path)
    found = detector.detect(image)
    pairs = match(found, truth.boxes, truth.labels)
    assert len(line["objects"]) == len(pairs) > 1 and line["found"] == len(found)
    targets = found[[row for row, _ in pairs]]
    options = {"dclose": {}, "drise": {"method": "drise"}, **ABLATION}
    for name, own in options.items():
        alone = dc.explain(
            detector, image, targets, n_masks=20, progress=False, **({"method": "dclose"} | own)
        )
        for k, (_, index) in enumerate(pairs):
            got = line["objects"][k]["methods"][name]
            whole = metrics.over_all(detector, image, targets[k], alone.saliency[k], steps=5)
            assert got["over_all"] == pytest.approx(whole.score, abs=2e-3)
            assert got["sparsity"] == pytest.approx(metrics.sparsity(alone.saliency[k]), rel=1e-3)
            assert got["ebpg"] == pytest.approx(metrics.ebpg(alone.saliency[k], truth.boxes[index]), abs=1e-4)
            assert np.allclose(got["deletion_curve"], whole.deletion.curve, atol=2e-3)
    assert line["n_forward"] == {"dclose": 20, "drise": 20, "gradcam": 1, **dict.fromkeys(ABLATION, 20)}
    assert line["objects"][0]["label"] == targets.names[0]


def test_the_paper_s_parts_need_no_pass_of_their_own(data, detector, monkeypatch):
    seen = []
    predict = detector.predict
    monkeypatch.setattr(detector, "predict", lambda pixels: seen.append(len(pixels)) or predict(pixels))
    plans = {name: {} for name in ABLATION}
    own = {"n_masks": 20, "p": 0.5, "order": "fine_to_coarse"}
    monkeypatch.setattr(metrics, "curves", lambda *_, **__: {"deletion": FLAT, "insertion": FLAT})
    evaluate_image(detector, data.truths[0], {"dclose": own, **plans}, 5)
    assert sum(seen) == 1 + 20


FLAT = [metrics.Curve(0.0, np.zeros(6, np.float32))] * 9


def test_nothing_found_and_nothing_matched_are_counted(tmp_path, data):
    blind = Lamps([[1, 1, 7, 9]], [[0.9, 0.1]])
    blind.class_names = ("car", "tree")
    records = evaluate(blind, data, tmp_path, methods=["dclose"], n_masks=5, steps=2, progress=False)
    assert len(records.lines) == 6 and all(line["objects"] == [] for line in records.lines)


def test_an_image_that_cannot_be_read_is_recorded(folder, tmp_path, detector):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").symlink_to(folder / "annotations")
    for path in (folder / "val2017").iterdir():
        (tmp_path / "val2017" / path.name).write_bytes(
            path.read_bytes()[: 900 if "03.png" in path.name else None]
        )
    records = evaluate(detector, read_coco(tmp_path), tmp_path / "out", **QUICK)
    (bad,) = [line for line in records.lines if "error" in line]
    assert bad["image"] == 3 and "cannot be read as an image" in bad["error"] and len(records.lines) == 6


# -- stops, workers, machines


def test_a_limit_takes_the_first_of_a_fixed_order_and_can_be_raised(detector, data, serial, tmp_path):
    two = [line["image"] for line in evaluate(detector, data, tmp_path, limit=2, **QUICK).lines]
    assert two == [line["image"] for line in serial.lines[:2]] != [0, 1]
    assert timeless(evaluate(detector, data, tmp_path, **QUICK)) == timeless(serial)


def test_records_of_other_parameters_are_refused(detector, data, serial):
    for change, word in (
        ({"n_masks": 25}, "methods"),
        ({"steps": 6}, "steps 5, not 6"),
        ({"seed": 1}, "seed 0, not 1"),
    ):
        with pytest.raises(dc.InputError, match=f"was made with .*{word}"):
            evaluate(detector, data, serial.path.parent, **(QUICK | change))


# -- bad input


def test_bad_input(detector, data, lamps, tmp_path):
    for options, word in (
        ({"methods": ["magic"]}, "methods must be one of 'dclose'"),
        ({"methods": ["mfpp", "drise"]}, "are made of dclose's levels"),
        ({"steps": 0}, "steps"),
        ({"workers": 0}, "workers"),
        ({"limit": 0}, "limit"),
        ({"n_masks": 2}, "n_masks"),
    ):
        with pytest.raises(dc.InputError, match=word):
            evaluate(detector, data, tmp_path / "out", **(QUICK | options))
    with pytest.raises(dc.InputError, match="no class in common"):
        evaluate(lamps, data, tmp_path / "out", methods=["dclose"])
    assert not (tmp_path / "out").exists()
    assert main(["evaluate", "--coco", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert main(["tables", str(tmp_path)]) == 2
