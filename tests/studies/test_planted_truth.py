"""The table of scores, against loops over small cases and after a stop."""

import csv

import numpy as np
import pytest
from toys import Wired

import dclose_nb as dc
from dclose_nb.detection import match
from dclose_nb.files import shipped
from dclose_nb.planted import RuleDetector, scene
from dclose_nb.studies import planted_truth as truth
from dclose_nb.studies.planted_truth import SCORES, removal_effects, study_scene, table
from dclose_nb.studies.sanity import randomise


def test_the_effect_of_a_part_is_what_the_formula_says():
    """With the rule "sum", each of n parts has the effect 1 / n, and edges have none."""
    drawn = scene(1)
    detector = RuleDetector(drawn)
    found = detector.detect(drawn.image)
    for row, number in match(found, drawn.boxes, drawn.names):
        target, parts = found[row], drawn.parts[number]
        body = [part for part in parts if part.role != "edge"]
        effects = removal_effects(detector, drawn, target, parts) * [part.mask.sum() for part in parts]
        assert np.allclose(effects, [(part.role != "edge") / len(body) for part in parts], atol=1e-5)


@pytest.fixture(scope="module")
def records():
    drawn = scene(3, layout="decoy")
    return study_scene(RuleDetector(drawn), drawn, n_masks=60, twice=True)["objects"]


def test_each_object_and_method_has_a_record(records):
    methods = ["dclose", "drise", "random map", "centre Gaussian", "filled box", "truth"]
    assert [record["method"] for record in records] == methods * 2
    assert {record["object"] for record in records} == {0, 1}
    for record in records:
        assert set(SCORES) <= set(record)
        values = [record[score] for score in SCORES if record[score] is not None]
        assert np.isfinite(values).all() and np.abs(values).max() <= 1 + 1e-9
        assert (record["seed_spread"] is None) == (record["method"] not in truth.METHODS)
        assert record["random_weights"] is None  # a formula has no weights


def test_the_truth_scores_best_and_the_filled_box_wins_ebpg_only(records):
    by = {(record["object"], record["method"]): record for record in records}
    for number in (0, 1):
        exact, box = by[number, "truth"], by[number, "filled box"]
        assert exact["relevance_mass"] == pytest.approx(1) and exact["relevance_rank"] == pytest.approx(1)
        assert exact["part_correlation"] == pytest.approx(1) and exact["leakage"] == 0
        assert box["energy_in_box"] == pytest.approx(1) and box["relevance_mass"] < 0.95


@pytest.mark.slow
def test_shuffled_weights_get_other_masks():
    drawn, detector = scene(0), dc.load_detector("planted", device="cpu")
    first = study_scene(detector, drawn, n_masks=40, twice=True)["objects"][0]
    found = detector.detect(drawn.image)
    targets = found[[row for row, _ in match(found, drawn.boxes, drawn.names)]]
    known, shuffled = (
        dc.explain(network, drawn.image, targets, n_masks=40, seed=seed, progress=False).saliency[0]
        for network, seed in ((detector, 0), (randomise(detector), 1))
    )
    likeness = abs(dc.metrics.rank_correlation(known, shuffled))
    assert first["method"] == "dclose" and first["random_empty"] == 0
    assert first["random_weights"] == pytest.approx(likeness, abs=1e-6)


def test_empty_maps_of_shuffled_weights_are_counted_separately():
    drawn = scene(0)
    lamps = Wired(drawn.boxes.tolist(), np.eye(len(drawn.names))[range(len(drawn.names))].tolist())
    lamps.class_names = tuple(drawn.names)
    assert randomise(lamps).module["switch"].weight[0, 0] == 0  # so that it finds nothing
    first = study_scene(lamps, drawn, n_masks=10, twice=True)["objects"][0]
    assert first["random_weights"] is None and first["random_empty"] == 1


def test_a_scene_in_which_nothing_is_found():
    assert study_scene(Wired([[0, 0, 1, 1]], [[1.0]]), scene(0), n_masks=10) == {"objects": []}


# -- the table


def line(detector, number, *leakages):
    blank = dict.fromkeys(SCORES) | {"method": "m"}
    return {"detector": detector, "scene": number, "objects": [blank | {"leakage": x} for x in leakages]}


def test_each_score_that_applies_has_a_row():
    (row,) = table([line("d", 0, 0.25, None), line("d", 1), line("d", 2, 0.75)])
    assert (row["detector"], row["method"], row["score"]) == ("d", "m", "leakage")
    assert (row["mean"], row["low"], row["high"]) == (0.5, None, None)  # few scenes have no interval
    assert (row["objects"], row["scenes"]) == (2, 2)
    (row,) = table([line("d", k, 0.25 + k / 10) for k in range(6)])
    assert row["mean"] == pytest.approx(0.5) and row["low"] < 0.5 < row["high"]


def test_a_table_does_not_depend_on_the_order_of_the_scenes():
    lines = [line(name, k, 0.1 * k, 0.5) for name in ("a", "b") for k in range(4)]
    rows = table(lines)
    assert [row["detector"] for row in rows] == ["a", "b"]
    for seed in range(5):
        assert table([lines[k] for k in np.random.default_rng(seed).permutation(8)]) == rows


def test_the_table_that_ships_has_the_columns_of_a_new_one():
    with shipped("results/planted_truth.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == truth.COLUMNS and {row["detector"] for row in rows} == set(truth.DETECTORS)
    assert {row["score"] for row in rows} == set(SCORES)


@pytest.mark.slow
def test_a_stopped_run_resumes(tmp_path):
    options = {"detectors": ["rule: sum"], "scenes": 3, "n_masks": 20, "progress": False}
    unbroken = truth.study_planted_truth(tmp_path / "whole", **options)
    written = (tmp_path / "whole" / "planted_truth.csv").read_bytes()
    header, first, *_ = unbroken.path.read_text().splitlines(keepends=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "records.jsonl").write_text(header + first + '{"detector": "rule: s')
    with pytest.warns(UserWarning, match="was cut off"):
        assert truth.study_planted_truth(tmp_path / "broken", **options).lines == unbroken.lines
    assert (tmp_path / "broken" / "planted_truth.csv").read_bytes() == written
    rows = list(csv.DictReader(written.decode().splitlines()))
    assert {row["method"] for row in rows} >= {"dclose", "drise", "filled box", "truth"}
    assert [line["scene"] for line in unbroken.lines] == [0, 1, 2]


def test_bad_input(tmp_path, capsys):
    study = truth.study_planted_truth
    for options, sentence in (
        ({"detectors": ["yolox_nano"]}, "detector must be one of"),
        ({"scenes": 0}, "scenes must be an integer of at least 1, got 0"),
        ({"n_masks": 0}, "n_masks must be"),
        ({"n_masks": 4}, "n_masks must be at least one for each of 5 levels, got 4"),
    ):
        with pytest.raises(dc.InputError, match=sentence):
            study(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
    study(tmp_path, detectors=["rule: sum"], scenes=1, n_masks=10, progress=False)
    with pytest.raises(dc.InputError, match="was made with n_masks 10, not 20"):
        study(tmp_path, n_masks=20)
    (tmp_path / "records.jsonl").write_text("torn\n")
    assert truth.main([str(tmp_path)]) == 2
    assert "planted_truth: " in (err := capsys.readouterr().err) and "is damaged" in err
