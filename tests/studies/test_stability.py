"""Stability, tuning and leakage: each number as one would compute it alone."""

import json

import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb import metrics
from dclose_nb.metrics import rank_correlation
from dclose_nb.planted import RuleDetector, scene
from dclose_nb.studies import stability, tables
from dclose_nb.studies.coco import Truth
from dclose_nb.studies.records import Records
from dclose_nb.studies.stability import look, runs

PLANNED = runs(budgets=(20,), seeds=3, grids=(2,), sweep=30)
del PLANNED["gradcam"]  # a formula has no network


@pytest.fixture(scope="module")
def drawn():
    return scene(2, layout="overlap")


@pytest.fixture(scope="module")
def truth(drawn):
    return Truth(2, "", drawn.boxes, drawn.names, [None] * len(drawn.boxes))


@pytest.fixture(scope="module")
def line(drawn, truth):
    return look(RuleDetector(drawn), drawn.image, truth, planned=PLANNED, steps=5)


def test_every_setting_has_its_seeds():
    assert {name: len(settings) for name, settings in runs((5, 9), 2, (4, 8), 7).items()} == {
        "dclose 5": 2, "dclose 9": 2, "drise 5": 2, "drise 9": 2,
        "drise 7, grid 4": 1, "drise 7, grid 8": 1, "gradcam": 1,
    }  # fmt: skip
    assert json.loads(json.dumps(runs())) == runs()  # records can hold it


def test_each_number_is_what_one_would_compute_alone(drawn, truth, line):
    detector = RuleDetector(drawn)
    found = detector.detect(drawn.image)
    pairs = dc.detection.match(found, truth.boxes, truth.labels)
    assert len(pairs) == len(line["objects"]) == 2
    masks = truth.masks(drawn.image.shape[:2])
    for one, (row, own) in zip(line["objects"], pairs):
        assert one["label"] == truth.labels[own]
        assert set(one["methods"]) == {*PLANNED, "flat"}
        other = masks[1 - own] & ~masks[own]
        assert one["methods"]["flat"]["leakage"] == pytest.approx(
            other.sum() / (masks[own].sum() + other.sum()), abs=1e-4
        )
        for name, settings in PLANNED.items():
            first, *rest = (
                dc.explain(detector, drawn.image, found[row], progress=False, **options).saliency[0]
                for options in settings
            )
            got = one["methods"][name]
            assert got["ebpg"] == pytest.approx(metrics.ebpg(first, truth.boxes[own]), abs=1e-4)
            assert got["leakage"] == pytest.approx(metrics.leakage(first, masks[own], other), abs=1e-3)
            whole = metrics.over_all(detector, drawn.image, found[row], first, steps=5)
            assert got["over_all"] == pytest.approx(whole.score, abs=1e-3)
            if rest:
                second, third = rest
                pairwise = [(first, second), (first, third), (second, third)]
                expected = np.mean([rank_correlation(a, b) for a, b in pairwise])
                assert got["agreement"] == pytest.approx(expected, abs=1e-3)
            else:
                assert got["agreement"] is None


def test_boxes_overlap_when_a_tenth_of_the_smaller_is_shared():
    boxes = np.array([[0, 0, 10, 10], [2, 2, 5, 5], [9, 0, 19, 10], [9.1, 0, 19.1, 10], [30, 30, 40, 40]])
    assert stability._overlapping(boxes, 0) == [1, 2]  # inside it, and exactly a tenth
    assert stability._overlapping(boxes, 1) == [0]
    assert stability._overlapping(boxes, 4) == []


def test_an_object_by_itself_leaks_nowhere(drawn, truth):
    alone = truth._replace(boxes=truth.boxes[:1], labels=truth.labels[:1], outlines=[None])
    planned = {"drise 5": PLANNED["drise 20"][:1]}
    (one,) = look(RuleDetector(drawn), drawn.image, alone, planned=planned, steps=2)["objects"]
    assert one["methods"]["drise 5"]["leakage"] is None is one["methods"]["flat"]["leakage"]
    nobody = truth._replace(labels=["dragon"] * len(truth.labels))
    assert look(RuleDetector(drawn), drawn.image, nobody, planned=planned, steps=2) == {"objects": []}


def test_the_command_goes_on_and_its_records_can_be_averaged(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stability, "runs", lambda: {"gradcam": [{"method": "gradcam"}]})
    monkeypatch.setattr(stability, "STEPS", 2)
    for limit in ("1", "2"):
        assert stability.main([str(tmp_path), "--limit", limit]) == 0
    records = Records(tmp_path / "records.jsonl")
    assert len(records.lines) == 2
    found = tables.objects(records)
    assert tables.mean(found, "gradcam", "ebpg")[0] == pytest.approx(
        np.mean([one["methods"]["gradcam"]["ebpg"] for one in found])
    )
    assert tables.mean(found, "gradcam", "agreement") is None  # of one seed
    assert stability.main([str(tmp_path), "--coco", str(tmp_path / "nowhere")]) == 2
    assert "cannot be read" in capsys.readouterr().err
