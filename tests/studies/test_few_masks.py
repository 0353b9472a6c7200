"""The records of notebook 12 as its figures and tables want them."""

import numpy as np
import pytest

from dclose_nb.studies import few_masks
from dclose_nb.studies.inference import verdicts


@pytest.fixture(scope="module")
def gains():
    return few_masks.differences()


def test_a_difference_is_less_the_reference_and_the_reference_has_its_mean(gains):
    row = gains["photographs: over-all"]
    assert row["regression 100"].mean == pytest.approx(-0.005, abs=5e-4) and row["dclose 4000"].mean > 0.8
    assert (row["regression 100"].n_objects, row["regression 100"].n_images) == (176, 57)
    against = few_masks.differences("dclose 400")["photographs: over-all"]
    assert against["dclose 4000"].mean == pytest.approx(-row["dclose 400"].mean)


def test_rows_become_curves_claims_and_a_table(gains):
    assert set(few_masks.DRAWN) <= gains.keys()
    curve = few_masks.curves(gains[few_masks.DRAWN[0]])["regression"]
    assert curve.shape == (3, 5) and (curve[1] < curve[0]).all() and (curve[0] < curve[2]).all()
    claims = few_masks.claims(gains)
    words = [verdict.word for verdict in verdicts(claims.values())]
    assert len(claims) == 2 * len(gains) == 24 and words[12:].count("holds") == 9
    table = few_masks.table("title", gains, ["regression 50", "dclose 4000"], unit=100)
    assert table.rows[0] == ["photographs: over-all", "-1.7 [-3.1, -0.4]", "81.3 [78.7, 83.9]"]


def test_calibration_has_a_row_for_each_number_of_masks():
    found = few_masks.calibration()
    assert len(found) == 4 and list(found["photographs, 100 masks"]) == list(few_masks.CALIBRATION.values())
    assert np.isclose(found["photographs, 100 masks"]["all, one error"].mean, 0.84, atol=0.005)


def test_claims_about_the_error_are_of_all_pixels():
    claims = few_masks.calibration_claims(few_masks.calibration())
    assert [(claim.side, claim.bound) for claim in claims[:2]] == [("above", 0.68), ("below", 0.95)]
    words = {claim.sentence: verdict.word for claim, verdict in zip(claims, verdicts(claims))}
    assert len(words) == 8
    assert [word for sentence, word in words.items() if "within one" in sentence] == ["holds"] * 4
    assert [word for sentence, word in words.items() if "within two" in sentence] == ["open"] * 2 + [
        "holds"
    ] * 2
