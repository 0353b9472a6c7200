"""Stability, tuning and leakage: every number against a separate computation."""

import json
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb import metrics
from dclose_nb.files import shipped
from dclose_nb.metrics import rank_correlation
from dclose_nb.planted import RuleDetector, scene
from dclose_nb.studies import coco, stability, tables
from dclose_nb.studies.coco import Truth
from dclose_nb.studies.records import Records
from dclose_nb.studies.sanity import randomise
from dclose_nb.studies.stability import planned_runs, study_image

CHANGED_RUNS = {"grids": (2,), "sweep": 30, "changes": ("four levels", "p 0.7")}
RUNS = planned_runs((20, 40, 100), (0, 1, 2), layers=False, **CHANGED_RUNS)  # a formula has no layers
ALONE = {
    f"{method} {n_masks}": [{"method": method, "n_masks": n_masks, "seed": seed} for seed in range(3)]
    for method in ("dclose", "drise")
    for n_masks in (20, 40, 100)
} | {"drise 30, grid 2": [{"method": "drise", "n_masks": 30, "grid": [2, 2]}]}


@pytest.fixture(scope="module")
def drawn():
    return scene(2, layout="overlap")


@pytest.fixture(scope="module")
def truth(drawn):
    return Truth(2, "", drawn.boxes, drawn.names, [None] * len(drawn.boxes))


@pytest.fixture(scope="module")
def line(drawn, truth):
    return study_image(RuleDetector(drawn), drawn.image, truth, runs=RUNS, steps=5)


def test_every_run_has_its_budgets_and_seeds():
    runs = planned_runs((5, 10), (3, 4), (4, 8), 7, ["r 1"])
    assert {name: (run["budgets"], run["seeds"]) for name, run in runs.items()} == {
        "dclose {}": ([5, 10], [3, 4]), "drise {}": ([5, 10], [3, 4]),
        "drise {}, grid 4": ([7], [3]), "drise {}, grid 8": ([7], [3]), "gradcam": ([], [3]),
        "dclose {}, r 1": ([5], [4]),
        "shuffled dclose {}": ([5, 10], [3, 4]), "shuffled drise {}": ([5, 10], [3, 4]),
    }  # fmt: skip
    assert runs["drise {}"]["options"] == {"n_masks": 10, "grid": (16, 16), "p": 0.5}
    assert runs["drise {}, grid 4"]["options"] == {"n_masks": 7, "grid": (4, 4), "p": 0.5}
    unknown = planned_runs((5, 10), (3, 4), (4, 8), 7, ["r 1"], layers=False)
    assert unknown == {
        name: run for name, run in runs.items() if not {"gradcam", "shuffled"} & {*name.split()}
    }
    json.dumps(planned_runs())  # records can hold it


def test_every_number_against_a_separate_computation(drawn, truth, line):
    """One run of the largest budget gives the same as a run for each budget."""
    detector = RuleDetector(drawn)
    found = detector.detect(drawn.image)
    pairs = dc.detection.match(found, truth.boxes, truth.labels)
    assert len(pairs) == len(line["objects"]) == 2
    targets = found[[row for row, _ in pairs]]
    masks = truth.masks(drawn.image.shape[:2])
    for name, settings in ALONE.items():
        by_seed = [
            dc.explain(detector, drawn.image, targets, progress=False, **options).saliency
            for options in settings
        ]
        for k, (row, own) in enumerate(pairs):
            first, *rest = (maps[k] for maps in by_seed)
            neighbour = masks[1 - own] & ~masks[own]
            got = line["objects"][k]["methods"][name]
            assert got["ebpg"] == pytest.approx(metrics.ebpg(first, truth.boxes[own]), abs=1e-5)
            assert got["leakage"] == pytest.approx(metrics.leakage(first, masks[own], neighbour), abs=1e-4)
            curves = metrics.over_all(detector, drawn.image, found[row], first, steps=5)
            assert got["over_all"] == pytest.approx(curves.score, abs=1e-3)
            if rest:
                second, third = rest
                pairwise = [(first, second), (first, third), (second, third)]
                expected = np.mean([rank_correlation(a, b) for a, b in pairwise])
                assert got["agreement"] == pytest.approx(expected, abs=1e-4)
                x1, y1, x2, y2 = found.boxes[row].round().astype(int)
                pairwise = [(a[y1:y2, x1:x2], b[y1:y2, x1:x2]) for a, b in pairwise]
                expected = np.mean([rank_correlation(a, b) for a, b in pairwise])
                assert got["agreement_in_box"] == pytest.approx(expected, abs=1e-4)
            else:
                assert got["agreement"] is None is got["agreement_in_box"]
    for record, (_, own) in zip(line["objects"], pairs):
        names = {*ALONE, *(name for name, *_ in CHANGED), "flat"}
        assert record["label"] == truth.labels[own] and set(record["methods"]) == names
        neighbour = masks[1 - own] & ~masks[own]
        assert record["methods"]["flat"]["leakage"] == pytest.approx(
            neighbour.sum() / (masks[own].sum() + neighbour.sum()), abs=1e-4
        )


CHANGED = (
    ("dclose 20, four levels", {"n_masks": 20, "segments": (150, 300, 600, 1200)}),
    ("dclose 20, p 0.7", {"n_masks": 20, "p": 0.7}),
)


@pytest.mark.parametrize(("name", "options"), CHANGED)
def test_changed_parameters_are_compared_with_the_unchanged_map_of_another_seed(drawn, line, name, options):
    detector = RuleDetector(drawn)
    found = detector.detect(drawn.image, class_agnostic=True)
    before, after = (
        dc.explain(detector, drawn.image, found, seed=seed, progress=False, **own).saliency
        for seed, own in ((0, {"n_masks": 20}), (2, options))
    )
    for k, record in enumerate(line["objects"]):
        expected = rank_correlation(before[k], after[k])
        assert record["methods"][name]["agreement"] == pytest.approx(expected, abs=1e-4)


def test_seeds_on_a_shuffled_network_are_compared_on_that_network():
    detector = dc.load_detector("planted")
    drawn = scene(60)
    truth = Truth(60, "", drawn.boxes, drawn.names, [None] * len(drawn.boxes))
    name = "shuffled dclose {}"
    runs = {name: planned_runs((5, 10, 15), (0, 1), (), 1, ())[name]}
    (record, *_) = study_image(detector, drawn.image, truth, runs=runs, steps=1)["objects"]
    assert set(record["methods"]) == {"flat", "shuffled dclose 5", "shuffled dclose 10"}
    found = detector.detect(drawn.image, class_agnostic=True)
    row, _ = dc.detection.match(found, truth.boxes, truth.labels)[0]
    shuffled = randomise(detector)
    first, second = (
        dc.explain(shuffled, drawn.image, found[row], n_masks=10, seed=seed, progress=False).saliency[0]
        for seed in (0, 1)
    )
    got = record["methods"]["shuffled dclose 10"]
    assert set(got) == {"agreement", "agreement_in_box"}
    assert got["agreement"] == pytest.approx(rank_correlation(first, second), abs=1e-4)


def test_a_larger_budget_costs_only_its_additional_masks(drawn, truth):
    detector = RuleDetector(drawn)
    predict, seen = detector.predict, []
    detector.predict = lambda pixels: seen.append(len(pixels)) or predict(pixels)
    passes = []
    for budgets in ((40,), (20, 40)):
        seen.clear()
        runs = {"dclose {}": planned_runs(budgets, (0,), (), 1)["dclose {}"]}
        (first, _) = study_image(detector, drawn.image, truth, runs=runs, steps=1)["objects"]
        passes.append(sum(seen) - 1 - (len(first["methods"]) - 1) * 2 * 2 * 2)
    assert passes == [40, 40]  # without the detection; 2 curves of 2 points for each of 2 objects


def test_an_object_by_itself_leaks_nowhere(drawn, truth):
    alone = truth._replace(boxes=truth.boxes[:1], labels=truth.labels[:1], outlines=[None])
    runs = {"drise {}": planned_runs((20,), (0,))["drise {}"]}
    (record,) = study_image(RuleDetector(drawn), drawn.image, alone, runs=runs, steps=2)["objects"]
    assert record["methods"]["drise 20"]["leakage"] is None is record["methods"]["flat"]["leakage"]
    nobody = truth._replace(labels=["dragon"] * len(truth.labels))
    assert study_image(RuleDetector(drawn), drawn.image, nobody, runs=runs, steps=2) == {"objects": []}


def test_a_budget_that_levels_cannot_share_is_refused():
    with pytest.raises(dc.InputError, match=r"budgets must be multiples of 5 levels, got \[12, 40\]"):
        planned_runs((12, 40), (0,))
    with pytest.raises(dc.InputError, match=r"budgets must be multiples of 4 levels, got \[50\]"):
        planned_runs((50, 100), changes=["four levels"])  # before an image is studied


def test_records_can_be_averaged(tmp_path):
    settings = {"runs": {"gradcam": planned_runs()["gradcam"]}, "steps": 2}
    data = coco.drawn(tmp_path / "scenes", 2)
    score = partial(study_image, **settings)
    records = coco.study_photos("planted", data, tmp_path, score, settings, progress=False)
    found = tables.objects(records)
    assert tables.mean(found, "gradcam", "ebpg")[0] == pytest.approx(
        np.mean([record["methods"]["gradcam"]["ebpg"] for record in found])
    )
    assert not tables.mean(found, "gradcam", "agreement").n_objects  # of one seed


@pytest.fixture(scope="module")
def committed():
    return Records(shipped("results/stability_yolox_nano_coco") / "records.jsonl")


def test_what_notebook_10_draws_against_sums_by_hand(committed):
    found = tables.objects(committed)
    of = [record["methods"] for record in found]
    counted = "35 objects of 11 images; in 3 more images no detection matches an annotated object"
    assert stability.summary(committed) == counted
    torn = SimpleNamespace(lines=[*committed.lines, {"image": 1, "error": "torn"}])
    assert stability.summary(torn) == f"{counted}; 1 images could not be read"
    seeds = stability.agreements(found)
    assert seeds["in the box"]["D-RISE, 4000 masks"].mean == pytest.approx(
        np.mean([methods["drise 4000"]["agreement_in_box"] for methods in of])
    )
    pairs = [(methods["dclose 500"], methods["shuffled dclose 500"]) for methods in of]
    less = np.mean([a["agreement"] - b["agreement"] for a, b in pairs])
    assert seeds["image less shuffled"]["D-CLOSE, 500 masks"].mean == pytest.approx(less)
    assert "D-CLOSE, 4000 masks" not in seeds["shuffled network"]  # was not run
    inside = stability.box_differences(found)["D-RISE with 500 masks: in the box less in the image"]
    run = [methods["drise 500"] for methods in of]
    assert inside.mean == pytest.approx(
        np.mean([each["agreement_in_box"] - each["agreement"] for each in run])
    )
    middle = stability.by_budget(found, "ebpg")["D-CLOSE"][0]
    assert middle[2] == pytest.approx(np.mean([methods["dclose 4000"]["ebpg"] for methods in of]))
    flat = np.mean([record["methods"]["drise 500"]["ebpg"] - record["area"] for record in found])
    assert stability.above_flat(found, "drise 500").mean == pytest.approx(flat)
    changes = [methods["dclose 500, r 1"]["ebpg"] - methods["dclose 500"]["ebpg"] for methods in of]
    assert stability.changed(found)["EBPG, change"]["r 1"].mean == pytest.approx(np.mean(changes))


def test_grids_are_compared_in_each_group(committed):
    sizes = stability.by_size(tables.objects(committed))
    assert [*sizes] == ["small: 26 / 9", "middle: 7 / 6", "large: 2 / 2", "all: 35 / 11"]
    members = sizes["large: 2 / 2"]
    assert {record["group"] for record in members} == {"large"}
    less = stability.grid_differences(members)
    assert len(less) == 4 + 6
    grids = [(record["methods"]["drise 2000, grid 4"], record["methods"]["drise 2000"]) for record in members]
    expected = np.mean([a["over_all"] - b["over_all"] for a, b in grids])
    assert less["4 x 4 less 16 x 16"].mean == pytest.approx(expected)


def test_the_claims_of_notebook_10(committed):
    """Their number decides the correction, so it is part of what is claimed."""
    family = stability.claims(tables.objects(committed))
    assert len(family) == len({claim.sentence for claim in family}) == 30
    assert Counter(claim.side for claim in family) == {"above": 27, "within": 3}
    few = next(claim for claim in family if "even with a small number" in claim.sentence)
    assert few.evidence.text() == "+0.28 [+0.22, +0.34]"
    assert [claim.evidence.n_objects for claim in family if "small objects" in claim.sentence] == [26, 26]


def test_claims_are_of_the_runs_that_were_made(committed):
    """Those of grids, changed parameters and a shuffled network go, and 2000 masks take the place of 4000."""
    every = tables.objects(committed)
    kept = [name for name in stability.compared(every).values() if "4000" not in name]
    found = [record | {"methods": {name: record["methods"][name] for name in kept}} for record in every]
    few = stability.claims(found)
    assert [claim.sentence for claim in few if "500 to" in claim.sentence] == [
        f'5.1.1 "without being influenced by the number of generated samples": {what}'
        for what in (
            "EBPG, 500 to 2000, within 0.02",
            "over-all, 500 to 2000, within 0.02",
            "agreement of seeds, 500 to 2000, within 0.05",
        )
    ]
    assert len(few) == 10
    means = {claim.sentence: claim.evidence.mean for claim in stability.claims(every)}
    assert sum(means.get(claim.sentence) == claim.evidence.mean for claim in few) == 6
    assert [*stability.agreements(found)["whole image"]] == [
        f"{method}, {n} masks" for method in ("D-CLOSE", "D-RISE") for n in (500, 2000)
    ]
    assert not stability.agreements(found)["shuffled network"]
    assert stability.by_budget(found, "ebpg")["D-RISE"].shape == (3, 2) and stability.compared([]) == {}
    assert len(stability.box_differences(found)) == 2 + 1 + 2


def test_the_command_takes_budgets_and_seeds_alone(tmp_path, capsys):
    chosen = ["--budgets", "10", "5", "--seeds-only", "--limit", "1"]
    assert stability.main([str(tmp_path), *chosen]) == 0, capsys.readouterr().err
    runs = Records(tmp_path / "records.jsonl").settings["runs"]
    assert runs["dclose {}"]["budgets"] == [5, 10]
    assert [*runs] == ["dclose {}", "drise {}", "shuffled dclose {}", "shuffled drise {}", "gradcam"]
    assert stability.main([str(tmp_path), "--budgets", "0"]) == 2
    assert "budgets must be an integer of at least 1" in capsys.readouterr().err


def test_the_command_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stability.main([""]) == 2
    assert "'' cannot be used as a path: it is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert stability.main([str(tmp_path), "--coco", str(tmp_path / "nowhere")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert stability.main([str(tmp_path), "--limit", "0"]) == 2
    assert "limit must be an integer of at least 1" in capsys.readouterr().err
