"""The scores of maps on planted scenes, against the formulas, and after a stop."""

import json
from itertools import count, islice, product
from operator import itemgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import Wired

import dclose_nb as dc
from dclose_nb.detection import match
from dclose_nb.files import shipped
from dclose_nb.planted import RuleDetector, scene
from dclose_nb.planted.training import FIRST_TRAINING_SEED
from dclose_nb.studies import planted_truth as truth
from dclose_nb.studies.inference import design_part
from dclose_nb.studies.planted_truth import SCORES, Rules, removal_effects, study_scene
from dclose_nb.studies.records import Records

OBJECT = itemgetter("detector", "object")  # their order in a line depends on how a machine rounds


def test_the_effect_of_a_part_is_what_the_formula_says():
    """With the rule "sum", each of n parts has the effect 1 / n, and edges have none."""
    drawn = scene(1)
    detector = RuleDetector(drawn)
    found = detector.detect(drawn.image)
    for row, number in match(found, drawn.boxes, drawn.names):
        target, parts = found[row], drawn.parts[number]
        body = [part for part in parts if part.role != "edge"]
        effects = removal_effects(detector, drawn, number, target) * [part.mask.sum() for part in parts]
        assert np.allclose(effects, [(part.role != "edge") / len(body) for part in parts], atol=1e-5)


def test_a_part_is_hidden_in_black_or_removed():
    """To a detector of brightness, hiding takes a part's light, and removing what it differs by."""
    drawn = scene(58)
    lamp, parts = Wired([[0, 0, 320, 320]], [[1.0]]), drawn.parts[0]
    target = lamp.detect(drawn.image)
    hidden = [drawn.image * ~part.mask[..., None] for part in parts]
    removed = [drawn.without(0, part.name) for part in parts]
    for way, images in (("hidden", hidden), ("removed", removed)):
        darker = [(drawn.image.mean() - image.mean()) / 255 for image in images]
        effects = removal_effects(lamp, drawn, 0, target, way) * [part.mask.sum() for part in parts]
        assert effects == pytest.approx(darker, abs=1e-6)
    with pytest.raises(dc.InputError, match="way must be one of"):
        removal_effects(lamp, drawn, 0, target, "burnt")


class OutOfOrder(Rules):
    """Scores differ in a late digit, as by rounding: detections are out of the rules' order."""

    def predict(self, pixels):
        proposals = super().predict(pixels)
        rule = torch.arange(proposals.objectness.shape[1]) // len(self.rules[0].scene.boxes)
        return proposals._replace(objectness=proposals.objectness * (1 - 1e-6 * (rule % 3)))


@pytest.fixture(scope="module")
def records():
    drawn = scene(66, layout="decoy")
    assert len(set(OutOfOrder(drawn).detect(drawn.image).scores)) > 1
    return study_scene(OutOfOrder(drawn), drawn, n_masks=60)["objects"]


def test_each_rule_and_object_has_a_record_of_all_methods(records):
    made = [f"{name} 60" for name in ("dclose", "mfpp", "contrast", "regression", "drise", "sodex")]
    controls = ["random map", "centre Gaussian", "filled box", "truth"]
    expected = [(f"rule: {rule}", number) for rule in truth.STUDIED for number in (0, 1)]
    assert sorted((record["detector"], record["object"]) for record in records) == sorted(expected)
    for record in records:
        assert list(record["methods"]) == [*made, *controls]
        for values in record["methods"].values():
            assert set(values) < set(SCORES) and not any(name.startswith("localisation") for name in values)
            assert np.abs(list(values.values())).max() <= 1


def test_rules_that_share_masks_are_scored_as_if_each_were_alone(records):
    drawn = scene(66, layout="decoy")
    for rule in ("sum", "weighted", "landmark"):
        alone = study_scene(RuleDetector(drawn, rule), drawn, n_masks=60)["objects"]
        shared = [record for record in records if record["detector"] == f"rule: {rule}"]
        for one, other in zip(alone, shared, strict=True):
            assert one["object"] == other["object"] and one["label"] == other["label"]
            for method, values in one["methods"].items():
                assert values == pytest.approx(other["methods"][method], abs=2e-3), (rule, method)


def test_mfpp_from_d_closes_passes_is_mfpp():
    drawn = scene(3, layout="decoy")
    detector = RuleDetector(drawn)
    found = detector.detect(drawn.image)
    maps = truth._maps(detector, drawn.image, found, 20, 5)
    alone = dc.explain(detector, drawn.image, found, method="mfpp", n_masks=20, seed=5, progress=False)
    assert np.allclose(maps["mfpp 20"], alone.saliency, atol=1e-5)


def test_the_truth_scores_1_and_evidence_lies_where_the_rule_puts_it(records):
    for record in records:
        exact, box = record["methods"]["truth"], record["methods"]["filled box"]
        for score in ("truth_mass", "truth_rank", "truth_shared", "truth_parts"):
            assert exact[score] == pytest.approx(1, abs=1e-3)
        assert box["energy_in_box"] == pytest.approx(1) and box["truth_shared"] < 0.95
        share = {"rule: context": "on_ground", "rule: landmark": "on_stone"}.get(record["detector"])
        for place in ("on_ground", "on_stone"):
            assert exact[place] == pytest.approx(1 / 3 if place == share else 0, abs=0.01)


def test_a_network_is_scored_on_localisation_and_on_two_ways_to_take_a_part_away():
    drawn = scene(0)
    lamps = Wired(drawn.boxes.tolist(), np.eye(len(drawn.names))[range(len(drawn.names))].tolist())
    lamps.class_names = tuple(drawn.names)
    first = study_scene(lamps, drawn, n_masks=10)["objects"][0]
    removed = first["methods"]["parts removed"]
    assert not any(name.startswith("truth") for values in first["methods"].values() for name in values)
    assert {"localisation_mass", "localisation_rank"} <= set(removed)
    assert removed["parts_removed"] == pytest.approx(1)  # it has the order that it shows


def test_the_map_of_parts_removed_has_the_effect_of_each_part_on_its_pixels():
    drawn = scene(58)
    lamp, parts = Wired([[0, 0, 320, 320]], [[1.0]]), drawn.parts[0]
    maps = truth.controls(lamp, drawn, 0, lamp.detect(drawn.image), seed=3)
    expected = np.zeros((320, 320))
    for part in parts:
        darker = (drawn.image.mean() - drawn.without(0, part.name).mean()) / 255
        expected[part.mask] += darker / part.mask.sum()
    assert np.allclose(maps["parts removed"], expected, atol=1e-9) and expected.any()
    assert set(maps) == {"random map", "centre Gaussian", "filled box", "parts removed"}


def test_maps_by_rule_are_those_of_each_rule_alone():
    drawn, number = scene(3, layout="overlap", size=96), 1
    truths, maps = truth.maps_by_rule(drawn, number, method="drise", n_masks=30, seed=2)
    assert list(truths) == list(maps) == list(truth.STUDIED)
    for rule in truth.STUDIED:
        alone = RuleDetector(drawn, rule)
        found = alone.detect(drawn.image)
        (target,) = (found[row] for row, own in match(found, drawn.boxes, drawn.names) if own == number)
        assert np.array_equal(truths[rule], alone.true_map(target))
        explained = dc.explain(alone, drawn.image, target, method="drise", n_masks=30, seed=2, progress=False)
        assert np.allclose(maps[rule], explained.saliency[0], atol=1e-5)
    assert not np.allclose(maps["sum"], maps["landmark"], atol=1e-3)


@pytest.fixture(scope="module")
def cows():
    """Two scenes with a cow on a meadow, and two with one elsewhere."""
    shown = filter(lambda drawn: (drawn.ground, drawn.names) == ("meadow", ["cow"]), map(alone, count()))
    return [*islice(shown, 2)], [scene(seed, layout="out of place") for seed in range(2)]


@pytest.mark.parametrize("sure", [0.6, 0.02, 0.004])
def test_cows_are_scored_on_a_meadow_and_elsewhere(sure, cows):
    """To a detector of brightness, which sees a cow everywhere if it is sure enough."""
    names = scene(0).class_names
    lamp = Wired([[0, 0, 320, 320]], [[sure * (name == "cow") for name in names]])
    lamp.class_names = names
    home, away = cows
    assert all(drawn.names == ["cow"] and drawn.ground != "meadow" for drawn in away)
    for found, scenes in zip(truth.cow_scores(lamp, 2), (home, away), strict=True):
        bright = np.array([sure * drawn.image.mean() / 255 for drawn in scenes])
        assert found == pytest.approx(np.where(bright > 0.01, bright, 0), abs=1e-5)


def alone(seed):
    return scene(seed, n_objects=1)


def test_a_scene_in_which_nothing_is_found():
    assert study_scene(Wired([[0, 0, 1, 1]], [[1.0]]), scene(0), n_masks=10) == {"objects": []}


# -- the run and its records


def test_no_scene_was_trained_or_designed_on():
    shipped_ones = {line["scene"] for line in shipped_records().lines}
    assert min(shipped_ones) == truth.FIRST > max(design_part("scenes"))
    assert max(shipped_ones) < FIRST_TRAINING_SEED


def shipped_records():
    return Records(shipped("results/planted_truth.jsonl"))


def test_the_records_that_ship_are_what_the_study_makes(tmp_path):
    """The settings are those of the code, and a scene that is done again gives the same line."""
    known = shipped_records()
    planned = {
        (name, number, n)
        for name, number, n in product(truth.DETECTORS, range(truth.FIRST, truth.FIRST + 24), truth.BUDGETS)
        if name == "rules" or n <= truth.DEAR or number % truth.EVERY == 0
    }
    assert {(line["detector"], line["scene"], line["n_masks"]) for line in known.lines} == planned
    new = truth.study_planted_truth(tmp_path, detectors=["rules"], scenes=1, budgets=[500], progress=False)
    assert new.settings == known.settings
    for network, name in zip(known.settings["detectors"], truth.DETECTORS[1:], strict=True):
        weights = json.loads(shipped(f"weights/{name}.json").read_text())["sha256"]
        assert (network["name"], network["weights_sha256"]) == (name, weights)
    (line,) = new.lines
    old = next(old for old in known.lines if all(old[key] == line[key] for key in list(line)[:3]))
    made, kept = (sorted(objects, key=OBJECT) for objects in (line["objects"], old["objects"]))
    for one, other in zip(made, kept, strict=True):
        assert OBJECT(one) == OBJECT(other)
        for method, values in one["methods"].items():
            assert values == pytest.approx(other["methods"][method], abs=0.01), method


def test_objects_join_the_budgets_and_rules_of_an_object():
    def line(number, n_masks, score, rule="and"):
        methods = {f"dclose {n_masks}": {"truth_mass": score}, "truth": {"truth_mass": 1.0}}
        record = {"detector": f"rule: {rule}", "object": 2, "label": "cow", "methods": methods}
        return {"detector": "rules", "scene": number, "n_masks": n_masks, "objects": [record]}

    lines = [line(61, 40, 0.2), line(60, 40, 0.4), line(60, 20, 0.3, "or")]
    first, second = truth.objects(SimpleNamespace(lines=lines), "rules")
    assert (first["image"], first["object"], first["label"]) == (60, 2, "cow")
    scores = {name: values["truth_mass"] for name, values in first["methods"].items()}
    assert scores == {"or: dclose 20": 0.3, "or: truth": 1.0, "and: dclose 40": 0.4, "and: truth": 1.0}
    assert second["methods"]["or: dclose 20"] == dict.fromkeys(SCORES)
    assert truth.objects(SimpleNamespace(lines=lines), "planted") == []


def test_networks_see_every_third_scene_with_many_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(truth, "_study_number", lambda name, number, n_masks: {"objects": []})
    made = truth.study_planted_truth(tmp_path, scenes=4, progress=False)
    seen = {}
    for line in made.lines:
        seen.setdefault((line["detector"], line["n_masks"]), []).append(line["scene"])
    assert seen.pop(("planted", 4000)) == seen.pop(("planted_two_stage", 4000)) == [60, 63]
    assert len(seen) == 7 and all(scenes == [60, 61, 62, 63] for scenes in seen.values())


def test_bad_input(tmp_path, capsys):
    study = truth.study_planted_truth
    for options, sentence in (
        ({"detectors": ["yolox_nano"]}, "detector must be one of"),
        ({"scenes": 0}, "scenes must be an integer of at least 1, got 0"),
        ({"budgets": [0]}, "n_masks must be"),
        ({"budgets": [500, 4]}, "n_masks must be at least one for each of 5 levels, got 4"),
    ):
        with pytest.raises(dc.InputError, match=sentence):
            study(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "records.jsonl").write_text('{"settings": {"n_masks": 500}}\n')  # of the study before
    with pytest.raises(dc.InputError, match="was made with detectors None, not"):
        study(tmp_path)
    (tmp_path / "records.jsonl").write_text("torn\n")
    assert truth.main([str(tmp_path)]) == 2
    assert "planted_truth: " in (err := capsys.readouterr().err) and "is damaged" in err


def test_regression_takes_part_up_to_its_most_masks():
    assert truth.methods_with(2000) == list(truth.METHODS)
    assert set(truth.METHODS) - set(truth.methods_with(2001)) == {"regression"}
