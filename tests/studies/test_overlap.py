"""Whose energy is whose: what notebook 11 reads, against sums by hand."""

import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb import metrics
from dclose_nb.files import shipped
from dclose_nb.planted import RuleDetector, scene
from dclose_nb.studies import overlap
from dclose_nb.studies.overlap import overlapping
from dclose_nb.studies.records import Records


@pytest.fixture(scope="module")
def photos():
    return overlap.of_photos(Records(shipped("results/stability_yolox_nano_coco") / "records.jsonl"))


@pytest.fixture(scope="module")
def scenes():
    return overlap.of_scenes(Records(shipped("results/planted_truth.jsonl")))


def test_boxes_overlap_when_a_tenth_of_the_smaller_is_shared():
    boxes = np.array([[0, 0, 10, 10], [2, 2, 5, 5], [9, 0, 19, 10], [9.1, 0, 19.1, 10], [30, 30, 40, 40]])
    assert overlapping(boxes, 0) == [1, 2]  # inside it, and exactly a tenth
    assert overlapping(boxes, 1) == [0]
    assert overlapping(boxes, 4) == []


def test_energy_is_that_in_the_smaller_box():
    drawn = scene(3, layout="overlap", size=96)
    targets = dc.Targets([drawn.boxes[0], [0, 0, 96, 96]], drawn.names[:1] * 2)
    explanation = dc.explain(RuleDetector(drawn), drawn.image, targets, n_masks=10, progress=False)
    table = overlap.inner_energies({"mine": explanation})
    own, other = (metrics.ebpg(saliency, drawn.boxes[0]) for saliency in explanation.saliency)
    flat = metrics.ebpg(np.ones((96, 96)), drawn.boxes[0])
    assert table.rows == [["mine", f"{own:.1%}", f"{other:.1%}"], ["flat map", f"{flat:.1%}", f"{flat:.1%}"]]


def test_photos_are_those_of_objects_that_overlap(photos):
    assert overlap.summary(photos).startswith("24 objects that overlap others, of 8 images; 6 are of one")
    assert overlap.summary([]) == "0 objects that overlap others, of 0 images"


def test_scenes_are_those_whose_boxes_overlap(scenes):
    near = overlap.that_overlap(scenes)
    assert {name: len(objects) for name, objects in near.items()} == {
        "planted": 9, "planted_two_stage": 10, "rules": 12
    }  # fmt: skip
    leaks = overlap.leakages(near)["planted: 9 objects of 6 scenes"]
    of = [record["methods"]["dclose 500"]["leakage"] for record in near["planted"]]
    assert leaks["D-CLOSE, 500 masks"].mean == pytest.approx(np.mean(of)) and "the truth" not in leaks
    above = overlap.above_truth(near["rules"])["D-CLOSE, 500 masks, minus the truth"]
    pairs = [
        (record["methods"]["sum: dclose 500"], record["methods"]["sum: truth"]) for record in near["rules"]
    ]
    assert above.mean == pytest.approx(np.mean([a["leakage"] - b["leakage"] for a, b in pairs]))
    fewer = overlap.above_truth(near["rules"])["D-CLOSE, 4000 masks, minus 500 masks"]
    assert fewer.text() == "-0.03 [-0.05, -0.02]"


def test_the_claims_of_notebook_11(photos, scenes):
    """Their number decides the correction, so it is part of what is claimed."""
    family = overlap.claims(photos, scenes, overlap.that_overlap(scenes))
    assert len(family) == len({claim.sentence for claim in family}) == 22
    assert [claim.side for claim in family].count("within") == 3
    (flat,) = (claim for claim in family if "clearly" in claim.sentence)
    assert flat.evidence.text() == "-0.21 [-0.35, -0.07]"


def test_a_detector_without_gradients_has_three_claims_on_photographs(photos):
    """They compare D-CLOSE with the masks that were run."""
    kept = ("flat", "dclose 500", "dclose 2000", "drise 2000")
    found = [record | {"methods": {name: record["methods"][name] for name in kept}} for record in photos]
    methods = overlap.photo_methods(found, 2000)
    assert {*methods.values()} == {*kept} and methods["D-RISE, 2000 masks"] == "drise 2000"
    family = overlap.photo_claims(found, "PicoDet-S", 2000)
    assert [claim.evidence.mean for claim in family] == [
        pytest.approx(
            np.mean([r["methods"]["dclose 2000"]["leakage"] - r["methods"][name]["leakage"] for r in found])
        )
        for name in ("dclose 500", "drise 2000", "flat")
    ]
