"""The leaderboard charges each object for its passes, and scores what methods give."""

import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb.masks import superpixels
from dclose_nb.methods import METHODS
from dclose_nb.planted.rule_detector import RuleDetector
from dclose_nb.planted.scores import relevance_mass, shared_energy
from dclose_nb.studies import leaderboard
from dclose_nb.studies.coco import Truth, matched
from dclose_nb.studies.leaderboard import Entry, entries, regions_for
from dclose_nb.studies.planted_truth import LAYOUTS
from dclose_nb.studies.sanity import moved_ranks, randomise, unit_ranks


def test_an_image_shares_masks_and_greedy_pays_for_each_object():
    photo = dc.planted.scene(1, size=128).image
    assert Entry("drise", 100).options(photo, 3) == {"n_masks": 300}
    assert Entry("regression", 400).options(photo, 9) == {"n_masks": 2000}  # it takes no more
    assert Entry("dclose", 1).options(photo, 2) == {"n_masks": 5}  # nor fewer
    assert Entry("contrast", 1).options(photo, 2) == {"n_masks": 10}
    assert Entry("dclose", None).options(photo, 3) == {}
    for passes in (2, 25, 100, 400):
        asked = Entry("greedy", passes).options(photo, 3)["regions"]
        made, more = (superpixels(photo, n).max() + 1 for n in (asked, asked + 1))
        assert made * (made + 1) <= passes < more * (more + 1)


def test_every_method_has_a_row(lamps):
    network = dc.load_detector("planted", device="cpu")
    rows = {entry.name(method) for entry in entries(network) for method in (entry.method, "mfpp")}
    assert {f"{method} own" for method in METHODS} <= rows
    assert {f"{method} 100" for method in METHODS} - rows == {"gradcam 100", "odam 100", "gcame 100"}
    assert not {"gradcam", "odam", "gcame"} & {entry.method for entry in entries(lamps)}
    own = {entry.method for entry in entries(network, [100], own=False) if entry.passes is None}
    assert own == {"gradcam", "odam", "gcame"}
    assert [entry.passes for entry in entries(lamps, ())] == [None] * 6  # own numbers alone


def test_a_scene_is_scored_against_its_truth(tmp_path, monkeypatch):
    asked = [Entry("drise", 12), Entry("dclose", 12), Entry("greedy", 6), Entry("odam", None)]
    monkeypatch.setattr(leaderboard, "entries", lambda detector, passes, own: asked)
    options = {"passes": (12,), "steps": 3, "limit": 1, "progress": False}
    (line,) = leaderboard.study(tmp_path, **options).lines
    n, drawn = len(line["objects"]), dc.planted.scene(60)
    assert line["image"] == 60 and n >= 1
    detector = dc.load_detector("planted")
    targets, own, _ = matched(
        detector.detect(drawn.image, class_agnostic=True),
        Truth(0, "", drawn.boxes, drawn.names, []),
        drawn.image.shape,
    )
    first, other = (
        dc.explain(detector, drawn.image, targets, method="drise", n_masks=12 * n, seed=seed, progress=False)
        for seed in (0, 1)
    )
    shuffled = randomise(detector, seed=60)
    lost = dc.explain(
        shuffled, drawn.image, targets, method="drise", n_masks=12 * n, seed=1, progress=False
    ).saliency
    by_chance = np.abs(moved_ranks(unit_ranks(first.saliency), unit_ranks(lost))).mean(axis=(1, 2))
    for k, record in enumerate(line["objects"]):
        found = record["methods"]
        assert list(found) == ["drise 12", "dclose 12", "mfpp 12", "greedy 6", "odam own"]
        content = detector.prepare(drawn.image).content_image
        m = superpixels(content, regions_for(content, 6)).max() + 1
        costs = [found[name]["passes"] for name in ("drise 12", "mfpp 12", "greedy 6")]
        assert costs == [12, 12, m * (m + 1)]
        assert found["odam own"]["passes"] == round(1 / n, 4) and found["odam own"]["agreement"] is None
        assert found["odam own"]["shuffled"] is not None and found["greedy 6"]["agreement"] is None
        for score, value in {
            "ebpg": dc.metrics.ebpg(first.saliency[k], drawn.boxes[own[k]]),
            "agreement": dc.metrics.rank_correlation(first.saliency[k], other.saliency[k]),
            "shuffled": abs(dc.metrics.rank_correlation(first.saliency[k], lost[k])),
            "by_chance": by_chance[k],
            "localisation_mass": relevance_mass(first.saliency[k], drawn.causal_masks[own[k]]),
        }.items():
            assert found["drise 12"][score] == pytest.approx(value, abs=2e-3)
    assert leaderboard.study(tmp_path, **options).lines == [line]  # it goes on from there


def test_rules_take_turns_and_their_exact_map_judges(tmp_path, monkeypatch):
    monkeypatch.setattr(leaderboard, "entries", lambda detector, passes, own: [Entry("drise", 8)])
    options = {"detector": "rules", "passes": (8,), "steps": 3, "progress": False}
    lines = leaderboard.study(tmp_path / "few", limit=5, **options).lines
    assert len({line["rule"] for line in lines}) == 2  # each has four layouts
    for line in lines:
        drawn = dc.planted.scene(line["image"], layout=LAYOUTS[line["image"] % 4])
        detector = RuleDetector(drawn, line["rule"])
        truth = Truth(0, "", drawn.boxes, drawn.names, [])
        targets, *_ = matched(detector.detect(drawn.image, class_agnostic=True), truth, drawn.image.shape)
        n_masks = 8 * len(targets)
        e = dc.explain(detector, drawn.image, targets, method="drise", n_masks=n_masks, progress=False)
        for k, record in enumerate(line["objects"]):
            shared = shared_energy(e.saliency[k], detector.true_map(targets[k]))
            scored = record["methods"]["drise 8"]
            assert scored["truth_shared"] == pytest.approx(shared, abs=1e-4)
            assert scored["shuffled"] is None  # a rule has no weights
    monkeypatch.setattr(leaderboard, "study_image", lambda *_, **__: {"objects": []})
    many = leaderboard.study(tmp_path / "many", limit=25, **options).lines
    assert len({(line["rule"], line["image"] % 4) for line in many}) == 6 * 4  # each rule with each layout


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert leaderboard.main([str(tmp_path), "--detector", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err
    assert leaderboard.main([str(tmp_path), "--detector", "rules", "--no-own", "--passes"]) == 2
    assert "at least one number of passes" in capsys.readouterr().err
    assert leaderboard.main([str(tmp_path), "--detector", "rules", "--passes", "1"]) == 2
    assert "passes must be an integer of at least 2" in capsys.readouterr().err
