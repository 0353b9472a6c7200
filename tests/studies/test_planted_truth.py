"""The table of scores: against loops over small cases, and across a stop."""

import csv

import numpy as np
import pytest
import torch

import dclose_nb as dc
from dclose_nb.detection import match
from dclose_nb.planted import RuleDetector, scene
from dclose_nb.studies import planted_truth as truth
from dclose_nb.studies.planted_truth import SCORES, removal_effects, score_scene, table


def test_the_effect_of_a_part_is_what_the_formula_says():
    """With the rule "sum" each of n parts is worth 1 / n, edges nothing."""
    drawn = scene(1)
    detector = RuleDetector(drawn)
    found = detector.detect(drawn.image)
    for row, thing in match(found, drawn.boxes, drawn.names):
        target, parts = found[row], drawn.parts[thing]
        body = [part for part in parts if part.role != "edge"]
        effects = removal_effects(detector, drawn, target, parts) * [part.mask.sum() for part in parts]
        assert np.allclose(effects, [(part.role != "edge") / len(body) for part in parts], atol=1e-5)


@pytest.fixture(scope="module")
def records():
    drawn = scene(3, layout="decoy")
    return score_scene(RuleDetector(drawn), drawn, n_masks=60, twice=True)


def test_a_record_an_object_and_method(records):
    methods = ["dclose", "drise", "random map", "centre Gaussian", "filled box", "truth"]
    assert [record["method"] for record in records] == methods * 2
    assert {record["object"] for record in records} == {0, 1}
    for record in records:
        assert set(SCORES) <= set(record)
        values = [record[score] for score in SCORES if record[score] is not None]
        assert np.isfinite(values).all() and np.abs(values).max() <= 1 + 1e-9
        assert (record["seed_spread"] is None) == (record["method"] not in truth.METHODS)
        assert record["random_weights"] is None  # a formula has no weights


def test_the_truth_is_the_best_and_the_filled_box_wins_ebpg_only(records):
    by = {(record["object"], record["method"]): record for record in records}
    for thing in (0, 1):
        exact, box = by[thing, "truth"], by[thing, "filled box"]
        assert exact["relevance_mass"] == pytest.approx(1) and exact["relevance_rank"] == pytest.approx(1)
        assert exact["part_correlation"] == pytest.approx(1) and exact["leakage"] == 0
        assert box["energy_in_box"] == pytest.approx(1) and box["relevance_mass"] < 0.95


def test_shuffled_weights_are_scored_and_empty_maps_counted_apart(monkeypatch):
    drawn = scene(0)
    detector = dc.load_detector("planted", device="cpu")
    shuffled = truth.randomise(detector)
    monkeypatch.setattr(truth, "randomise", lambda _: shuffled)
    (first, *_) = score_scene(detector, drawn, n_masks=40, twice=True)
    assert 0 <= first["random_weights"] <= 1 and first["random_empty"] == 0
    silent = shuffled.predict
    monkeypatch.setattr(
        shuffled,
        "predict",
        lambda pixels: silent(pixels)._replace(objectness=torch.zeros(silent(pixels).objectness.shape)),
    )
    (first, *_) = score_scene(detector, drawn, n_masks=40, twice=True)
    assert first["random_weights"] is None and first["random_empty"] == 1


def test_a_row_a_score_that_applies():
    blank = dict.fromkeys(SCORES) | {"method": "m"}
    lines = [
        {"detector": "d", "scene": 0, "objects": [blank | {"leakage": 0.25}, blank]},
        {"detector": "d", "scene": 1, "objects": []},
        {"detector": "d", "scene": 2, "objects": [blank | {"leakage": 0.75}]},
    ]
    (row,) = table(lines)
    assert (row["detector"], row["method"], row["score"]) == ("d", "m", "leakage")
    assert (row["mean"], row["low"], row["high"]) == (0.5, 0.25, 0.75)
    assert (row["objects"], row["scenes"]) == (2, 2)


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    rules = {"detectors": ["rule: sum"], "scenes": 3, "n_masks": 20, "progress": False}
    whole = truth.run(tmp_path / "whole", **rules).read_text()
    score, scored = truth.score_scene, []

    def stopped(*arguments, **options):
        scored.append(arguments)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    monkeypatch.setattr(truth, "score_scene", stopped)
    with pytest.raises(KeyboardInterrupt):
        truth.run(tmp_path / "broken", **rules)
    with (tmp_path / "broken" / "records.jsonl").open("a") as file:
        file.write('{"detector": "rule: s')  # killed in the middle of a line
    with pytest.warns(UserWarning, match="was cut off"):
        assert truth.run(tmp_path / "broken", **rules).read_text() == whole
    assert len(scored) == 4  # two before, one that was stopped, one that was left
    rows = list(csv.DictReader(whole.splitlines()))
    assert {row["method"] for row in rows} >= {"dclose", "drise", "filled box", "truth"}


def test_bad_input(tmp_path, monkeypatch, capsys):
    with pytest.raises(dc.InputError, match="detector must be one of"):
        truth.run(tmp_path, detectors=["yolox_nano"])
    with pytest.raises(dc.InputError, match="scenes"):
        truth.run(tmp_path, scenes=0)
    truth.run(tmp_path, detectors=["rule: sum"], scenes=1, n_masks=10, progress=False)
    with pytest.raises(dc.InputError, match="was made with n_masks 10, not 20"):
        truth.run(tmp_path, n_masks=20)
    (tmp_path / "records.jsonl").write_text("torn\n")
    monkeypatch.setattr("sys.argv", ["truth", str(tmp_path)])
    assert truth.main() == 2
    assert "is damaged" in capsys.readouterr().err
