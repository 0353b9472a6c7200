"""What records say: values by hand, and the claims of those that ship."""

import numpy as np
import pytest

from dclose_nb.files import shipped
from dclose_nb.studies import error_evidence as evidence
from dclose_nb.studies.error_analysis import FILLS, PAIRED, SHARES
from dclose_nb.studies.inference import verdicts
from dclose_nb.studies.records import Records


@pytest.fixture(scope="module")
def lines():
    return Records(shipped("results/errors_coco.jsonl")).lines


def case(image, other_masks, another_seed):
    return {"image": image, "difference": {"other masks": other_masks, "another seed": another_seed}}


def test_a_gap_is_taken_within_photographs():
    ours = [case(1, 0.5, 0.25), case(1, 0.75, 0.25), case(3, 0.9, 0.0)]  # nothing to compare with in 3
    theirs = [case(1, 0.25, 0.25), case(1, 0.5, 0.25), case(2, 0.9, 0.0)]
    found = evidence.gap(ours, theirs)
    assert found.mean == pytest.approx((0.25 + 0.5) / 2 - 0.125) and found.n_objects == 2


def test_what_hiding_does_is_the_mean_of_the_shares_that_hide_something():
    scores = [[0.6, 0.2], [0.5, 0.2], [0.2, 0.4], [0.1, 0.2], [0.0, 0.0], [0.0, 0.0]]  # predicted, true
    one = {"image": 1, "hidden": {"black": {"random": scores}}}
    by_score = {score: evidence.hidden("black", "random", score)(one) for score in evidence.SCORES}
    assert by_score == pytest.approx({"predicted": 0.16, "true": 0.16, "lead": 0.0, "repaired": 0.2})
    assert evidence.hidden("black", "nothing")(one) == pytest.approx(-0.4)
    assert evidence.leads([one], "black", "random").mean == pytest.approx([-0.4, -0.3, 0.2, 0.1, 0, 0])


def test_energy_is_that_of_the_parts_that_the_boxes_leave():
    energy = {"prediction": [[0.5, 0.4, 0.3], [0.7, 0.4, 0.3]], "truth": [[0.6, 0.4, 0.2], [0.6, 0.4, 0.2]]}
    one = {"image": 1, "energy": energy, "area": [0.5, 0.5, 0.2]}
    outside, left_out = ({name: of(one) for name, of in evidence.READINGS[k].values.items()} for k in (0, 1))
    assert outside == pytest.approx({"the prediction's map": 0.4, "the truth's map": 0.4})
    assert left_out == pytest.approx({"the prediction's map": 0.3, "the truth's map": 0.4, "a flat map": 0.3})


def test_missed_objects_without_an_empty_place_are_left_out(lines):
    kinds = evidence.explained(lines)
    readings = {reading.where: evidence.read(reading, kinds)[1] for reading in evidence.READINGS[2:4]}
    assert {found.n_objects for found in readings.values()} == {136} and len(kinds["missed"]) == 150
    _, built_in = evidence.read(evidence.EMPTY, kinds)
    assert built_in.mean == pytest.approx(0.047, abs=5e-4) and built_in.n_objects == 136


def test_the_claims_of_the_records_that_ship(lines):
    claims = evidence.claims(lines)
    words = [verdict.word for verdict in verdicts(claims)]
    assert (len(claims), words.count("holds"), words.count("open"), words.count("fails")) == (18, 6, 11, 0)
    assert len({claim.sentence for claim in claims}) == 18
    assert claims[-1].evidence.mean == pytest.approx(335 / 430)
    assert evidence.counted(lines).startswith("234 right, 20 wrong class, 30 wrong place, 335 missed")


def test_tables_have_a_cell_for_each_column(lines):
    kinds = evidence.explained(lines)
    tables = [
        evidence.map_table(kinds),
        *(evidence.hidden_table(kinds["wrong class"], fill) for fill in FILLS),
    ]
    assert [len(table.rows) for table in tables] == [2 + len(PAIRED), 12, 12]
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert "0.029 [+0.026, +0.033]" in tables[0].markdown()
    none = evidence.map_table({kind: [] for kind in kinds})
    assert [row[1:] for row in none.rows] == [[""] * 7] * 4


def test_leads_have_a_value_for_each_share(lines):
    found = evidence.leads(evidence.explained(lines)["wrong class"], "blur", "chance")
    assert np.shape(found.mean) == (len(SHARES),)
