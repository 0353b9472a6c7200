"""Evaluations against separate computations, with several workers, and after stops."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image
from toys import Lamps, Street

import dclose_nb as dc
from dclose_nb import metrics
from dclose_nb.cli import main
from dclose_nb.detection import match
from dclose_nb.planted.dataset import write_coco
from dclose_nb.studies import tables
from dclose_nb.studies.coco import DataSet, Truth, read_coco
from dclose_nb.studies.evaluation import ABLATION, evaluate, study_image
from dclose_nb.studies.records import Records

SCORING = {"confidence": 0.25, "class_agnostic": True, "timed": True}
QUICK = {"methods": ["dclose", "drise", *ABLATION], "n_masks": 20, "steps": 5, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One thread, as in a worker: the number of threads decides how sums are rounded."""
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
def street(data):
    return Street(data)


@pytest.fixture(scope="module")
def serial(street, data, tmp_path_factory):
    return evaluate(street, data, tmp_path_factory.mktemp("serial"), **QUICK)


def timeless(records):
    """Records by image, without times."""
    lines = sorted(records.lines, key=lambda line: line["image"])
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


# -- a record


def test_a_record_against_a_separate_computation(data):
    detector = dc.load_detector("planted", device="cpu")
    truth = min(data.truths, key=lambda truth: len(truth.boxes))
    methods = {name: {"n_masks": 20, **ABLATION.get(name, {})} for name in ("dclose", "drise", *ABLATION)}
    methods |= {"gradcam": {}, "greedy": {"regions": 4}}
    image = dc.load_photo(truth.path)
    line = study_image(detector, image, truth, methods=methods, steps=2, seed=3, **SCORING)
    found = detector.detect(image, class_agnostic=True)
    pairs = match(found, truth.boxes, truth.labels)
    assert len(line["objects"]) == len(pairs) > 1 and line["found"] == len(found)
    targets = found[[row for row, _ in pairs]]
    for name in methods:
        method = "dclose" if name in ABLATION else name
        alone = dc.explain(detector, image, targets, method=method, seed=3, progress=False, **methods[name])
        assert line["n_forward"][name] == alone.n_forward
        for k, (row, index) in enumerate(pairs):
            assert line["objects"][k]["label"] == found.names[row]
            assert np.allclose(line["objects"][k]["box"], found.boxes[row], atol=0.06)
            got = line["objects"][k]["methods"][name]
            curves = metrics.over_all(detector, image, targets[k], alone.saliency[k], steps=2)
            assert got["over_all"] == pytest.approx(curves.score, abs=2e-3)
            assert got["sparsity"] == pytest.approx(metrics.sparsity(alone.saliency[k]), rel=1e-3)
            assert got["ebpg"] == pytest.approx(metrics.ebpg(alone.saliency[k], truth.boxes[index]), abs=1e-4)
            scaled = metrics.min_max(alone.saliency[k])
            assert got["ebpg_scaled"] == pytest.approx(metrics.ebpg(scaled, truth.boxes[index]), abs=1e-4)
            assert np.allclose(got["deletion_curve"], curves.deletion.curve, atol=2e-3)


def test_the_ablation_needs_no_passes_of_its_own(data, street):
    options = {"n_masks": 20}
    image = dc.load_photo(data.truths[0].path)

    def passes(*parts):
        counting = Counting(data)
        methods = {"dclose": options} | {name: options | ABLATION[name] for name in parts}
        line = study_image(counting, image, data.truths[0], methods=methods, steps=5, seed=0, **SCORING)
        assert set(line["objects"][0]["methods"]) == set(methods)
        return counting.passes, len(line["objects"])

    (alone, n), (together, _) = passes(), passes(*ABLATION)
    scoring = (alone - 1 - 20) / n  # of an object's map
    assert together == 1 + 20 + scoring * n * (1 + len(ABLATION))


class Counting(Street):
    """Counts the images that it sees."""

    passes = 0

    def predict(self, pixels):
        self.passes += len(pixels)
        return super().predict(pixels)


def test_records_name_every_option_of_each_method(serial):
    methods = serial.settings["methods"]
    assert methods["drise"] == {"n_masks": 20, "grid": [16, 16], "p": 0.5} and serial.settings["seed"] == 0
    for name, changed in ABLATION.items():
        assert methods[name] == methods["dclose"] | changed and methods[name]["n_masks"] == 20


def test_nothing_found_and_nothing_matched_are_counted(tmp_path, data):
    blind = Lamps([[1, 1, 7, 9]], [[0.9, 0.1]])
    blind.class_names = ("car", "tree")
    options = {"methods": ["dclose"], "n_masks": 5, "steps": 2, "progress": False}
    for confidence, found in ((0.01, 1), (1, 0)):
        records = evaluate(blind, data, tmp_path / str(found), confidence=confidence, **options)
        assert [line["found"] for line in records.lines] == [found] * 6
        assert all(line["objects"] == [] and line["truths"] > 0 for line in records.lines)


def test_targets_are_those_that_scoring_can_see(tmp_path):
    """A cup on a table: the two boxes are of different classes and overlap almost wholly."""
    boxes = np.array([[2, 2, 30, 30], [2, 2, 30, 31]], dtype=np.float32)
    image = np.full((40, 40, 3), 255, dtype=np.uint8)
    path = tmp_path / "white.png"
    Image.fromarray(image).save(path)
    data = DataSet([Truth(1, str(path), boxes, ["a", "b"], [None, None])], [], [0.1, 0.3, 0.6], "")
    shared = Lamps(boxes, [[0.9, 0], [0, 0.6]])
    few = {"methods": ["drise"], "n_masks": 5, "steps": 2, "progress": False}
    (line,) = evaluate(shared, data, tmp_path / "seen", **few).lines
    assert [record["label"] for record in line["objects"]] == ["a"] and line["found"] == 1
    assert "unchanged" not in tables.write(tmp_path / "seen")
    with pytest.warns(UserWarning, match="b 0.60 scores 0 in the unchanged image"):
        (line,) = evaluate(shared, data, tmp_path / "all", class_agnostic=False, **few).lines
    assert [record["label"] for record in line["objects"]] == ["a", "b"]
    assert "1 of the objects score 0 in the unchanged image" in tables.write(tmp_path / "all")


def test_a_run_beside_other_work_keeps_no_times(street, data, tmp_path):
    records = evaluate(street, data, tmp_path, timed=False, limit=2, **QUICK)
    assert not any("seconds" in line for line in records.lines)
    rows = tables.cost(records).rows
    assert rows and all(row[1] == row[3] == "" and int(row[2]) > 0 for row in rows)
    assert "| D-RISE |  |" in tables.write(tmp_path)


def test_records_of_targets_found_in_another_way_are_refused(street, data, serial, tmp_path):
    header, *lines = serial.path.read_text().splitlines()
    old = json.loads(header)
    del old["settings"]["class_agnostic"]
    (tmp_path / "records.jsonl").write_text("\n".join([json.dumps(old), *lines]) + "\n")
    with pytest.raises(dc.InputError, match="was made with class_agnostic None, not True"):
        evaluate(street, data, tmp_path, **QUICK)


# -- stopped runs and workers


def test_an_executor_s_processes_give_the_same_as_one_process(street, data, serial, tmp_path):
    processes = {"mp_context": get_context("spawn"), "initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(2, **processes) as executor:
        some = timeless(evaluate(street, data, tmp_path, executor=executor, limit=3, **QUICK))
    assert len(some) == 3 and all(record in timeless(serial) for record in some)


def test_a_killed_run_resumes_and_ends_like_an_unbroken_one(street, data, serial, tmp_path):
    lines = serial.path.read_bytes().splitlines(keepends=True)
    killed = tmp_path / "records.jsonl"
    killed.write_bytes(b"".join(lines[:3]) + lines[3][:100])
    with pytest.warns(UserWarning, match="was cut off"):
        assert timeless(evaluate(street, data, tmp_path, **QUICK)) == timeless(serial)
    assert timeless(Records(killed)) == timeless(serial)


def test_the_command_prints_its_tables(folder, tmp_path, capsys):
    command = ["evaluate", "--coco", str(folder), "--detector", "planted", "--methods", "dclose,gradcam"]
    command += ["--n-masks", "10", "--steps", "2", "--limit", "1", "--out", str(tmp_path)]
    assert main(command) == 0 and "Table 2" in capsys.readouterr().out


def test_records_of_other_parameters_are_refused(street, data, serial):
    for change, word in (
        ({"n_masks": 25}, "methods"),
        ({"steps": 6}, "steps 5, not 6"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"class_agnostic": False}, "class_agnostic True, not False"),
        ({"confidence": 0.5}, "confidence 0.25, not 0.5"),
    ):
        with pytest.raises(dc.InputError, match=f"was made with .*{word}"):
            evaluate(street, data, serial.path.parent, **(QUICK | change))


# -- bad input


def test_bad_input(street, data, lamps, tmp_path):
    for options, word in (
        ({"methods": ["magic"]}, "methods must be one of 'dclose'"),
        ({"methods": ["mfpp", "drise"]}, "are made of dclose's levels"),
        ({"methods": []}, "methods must name at least one"),
        ({"class_agnostic": "no"}, "class_agnostic must be True or False, got 'no'"),
        ({"timed": 0}, "timed must be True or False"),
        ({"confidence": 2}, "confidence must be a number in"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps must be .* 1000000"),
        ({"workers": 0}, "workers"),
        ({"limit": 0}, "limit"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"n_masks": 2}, "n_masks"),
    ):
        with pytest.raises(dc.InputError, match=word):
            evaluate(street, data, tmp_path / "out", **(QUICK | options))
    with pytest.raises(dc.InputError, match="data must be DataSet, got str"):
        evaluate(street, "ds", tmp_path / "out")
    with pytest.raises(dc.InputError, match="no class in common"):
        evaluate(lamps, data, tmp_path / "out", methods=["dclose"])
    assert not (tmp_path / "out").exists()
    assert main(["evaluate", "--coco", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert main(["tables", str(tmp_path)]) == 2
