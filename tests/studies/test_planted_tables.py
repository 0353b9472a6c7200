"""What notebook 09 reads from its records: names, counts, and the same differences by hand."""

import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb.files import shipped
from dclose_nb.studies import planted_tables as tables
from dclose_nb.studies.records import Records


@pytest.fixture(scope="module")
def records():
    return Records(shipped("results/planted_truth.jsonl"))


@pytest.fixture(scope="module")
def known(records):
    return tables.known_objects(records)


def test_names_are_written_out():
    names = ["dclose 4000", "filled box", "gradcam", "regression 200"]
    written = ["D-CLOSE, 4000 masks", "filled box", "Grad-CAM", "regression, 200 masks"]
    assert [tables.called(name) for name in names] == written


def test_what_was_explained_is_counted(records):
    rows = tables.counts(records).rows
    assert rows[0] == ["rules", *["56 of 24"] * 3, "2: 7, 3: 5, 4: 17, 5: 21, 6: 6"]
    assert rows[1][-2] == "15 of 8"


def test_a_gain_is_the_mean_difference_over_rules_that_have_the_score(known):
    found = known["rules"]
    gains = []
    for record in found:
        scores = record["methods"]
        pairs = [
            (scores[f"{rule}: sodex 4000"]["truth_parts"], scores[f"{rule}: dclose 4000"]["truth_parts"])
            for rule in tables.STUDIED
        ]
        ours, theirs = ([value for value in side if value is not None] for side in zip(*pairs))
        if ours and theirs:
            gains.append(np.mean(ours) - np.mean(theirs))
    one = tables.gain(found, "sodex 4000", "dclose 4000", "truth_parts")
    assert one.n_objects == len(gains)
    assert one.mean == pytest.approx(np.mean(gains))


def test_energy_moves_from_one_rule_to_the_other(known):
    seen = tables.with_stone(known["rules"])
    by_hand = [
        record["methods"]["landmark: dclose 500"]["on_stone"]
        - record["methods"]["sum: dclose 500"]["on_stone"]
        for record in seen
    ]
    move = tables.MOVES["stone: landmark less sum"]
    assert tables.moved(known["rules"], "dclose 500", *move).mean == pytest.approx(np.mean(by_hand))


def test_two_methods_move_more_or_less(known):
    def to_stone(record, method):
        return (
            record["methods"][f"landmark: {method}"]["on_stone"]
            - record["methods"][f"sum: {method}"]["on_stone"]
        )

    seen = tables.with_stone(known["rules"])
    less = np.mean([to_stone(one, "dclose 500") - to_stone(one, "drise 500") for one in seen])
    told = tables.more_moved(known["rules"], "dclose 500", "drise 500")
    assert abs(less) > 0.001 and f"to the stone {100 * less:+.1f} [" in told


def test_tables_have_a_row_for_each_map(known):
    found = known["rules"]
    truth = tables.by_rule(found, ["truth"]).rows
    assert len(truth) == 4 and truth[0] == ["shared", "truth", *["1.00"] * 6]
    gains = tables.gains(found, [("filled box", "dclose 500"), ("sodex 4000", "dclose 500")])
    assert len(gains.rows) == 3 + 4  # the filled box has no order of parts
    assert [row[:2] for row in tables.networks(known, ["gradcam"]).rows] == [
        ["planted", "Grad-CAM"],
        ["planted_two_stage", "Grad-CAM"],
    ]
    assert tables.network_parts(known, ["gradcam"]).rows[0][2] == "-30.8 [-46.3, -15.3] (52)"


def test_a_cell_without_objects_has_no_number(known):
    none = dict.fromkeys(tables.NETWORKS, known["planted"][:0])
    blank = ["-"] * 4
    assert [row[2:] for row in tables.network_gains(none, [("gradcam", "dclose 500")]).rows] == [blank] * 2
    assert tables.network_parts(none, ["gradcam"]).rows == [["Grad-CAM", *blank]]


def test_part_sizes_are_those_of_the_scene(known):
    drawn = dc.planted.scene(60, layout="mixed")
    (record, *_) = [one for one in known["rules"] if one["image"] == 60]
    sizes = [part.mask.sum() for part in drawn.parts[record["object"]]]
    assert tables.part_sizes([record]).tolist() == sizes


def test_there_are_39_claims_and_each_has_evidence(known):
    claims = tables.paper_claims(known)
    assert len(claims) == len({claim.sentence for claim in claims}) == 39
    assert all(claim.evidence.n_images >= 20 for claim in claims)
