"""Means, intervals and verdicts against closed forms and against samples whose mean is known."""

import json

import numpy as np
import pytest
from scipy import stats

import dclose_nb as dc
from dclose_nb.studies import tables
from dclose_nb.studies.inference import Claim, Estimate, difference, estimate, mean, rounded, verdicts

ALIKE = [[0.2], [0.9], [0.5], [0.4], [0.7], [0.1], [0.3]]


def objects(*values):
    return [{"image": image, "a": a, "b": b} for image, a, b in values]


# -- estimates


def test_images_of_one_object_give_students_interval():
    values = np.concatenate(ALIKE)
    found = estimate(ALIKE)
    known = stats.ttest_1samp(values, 0.3)
    assert found.mean == pytest.approx(values.mean()) and found.freedom == pytest.approx(6)
    assert (found.low, found.high) == pytest.approx(
        tuple(stats.ttest_1samp(values, 0).confidence_interval(0.95))
    )
    assert found.p(0.3) == pytest.approx(known.pvalue)
    assert (found.n_objects, found.n_images) == (7, 7)


def test_the_error_leaves_one_image_out_at_a_time():
    groups = [[0.2, 0.4], [0.9], [0.5, 0.6, 0.1], [0.3], [0.8, 0.7], [0.0]]
    found = estimate(groups)
    whole = np.concatenate(groups)
    without = [np.concatenate(groups[:k] + groups[k + 1 :]).mean() for k in range(6)]
    assert found.mean == pytest.approx(whole.mean())
    assert found.error == pytest.approx(np.sqrt(5 / 6 * sum((m - whole.mean()) ** 2 for m in without)))
    assert found.freedom == pytest.approx(10**2 / (4 + 1 + 9 + 1 + 4 + 1) - 1)
    pairs = estimate([[(value, 2 * value) for value in group] for group in groups])  # arrays
    assert pairs.low == pytest.approx([found.low, 2 * found.low])
    assert pairs.error == pytest.approx([found.error, 2 * found.error])


@pytest.mark.parametrize("n_images", [8, 16, 60])
@pytest.mark.parametrize("law", ["normal", "heavy tails"])
def test_intervals_cover_the_truth_as_often_as_they_say(n_images, law):
    """Images of 1 to about 12 objects, which share a part of their value."""
    draws = 3000
    rng = np.random.default_rng(n_images)
    covered = 0
    for _ in range(draws):
        sizes = rng.geometric(1 / 3, n_images)
        total = n_images + sizes.sum()
        values = rng.normal(size=total) if law == "normal" else rng.standard_t(4, total)
        own = np.split(values[n_images:], np.cumsum(sizes)[:-1])
        found = estimate([0.7 * shared + group for shared, group in zip(values, own)])
        covered += found.low <= 0 <= found.high
    assert 0.93 <= covered / draws <= 0.97


def test_fewer_than_six_images_have_a_mean_but_no_interval():
    few, enough = estimate(ALIKE[:5]), estimate(ALIKE[:6])
    assert few.mean == pytest.approx(0.54) and np.isnan([few.low, few.high, few.error, few.p()]).all()
    assert np.isfinite(enough[:5]).all()
    curves = estimate([[[1, 2], [3, 4]]])
    assert curves.mean.tolist() == [2, 3] and np.isnan(curves.low).all() and curves.low.shape == (2,)
    nothing = estimate([[], []])
    assert np.isnan(nothing.mean) and (nothing.n_objects, nothing.n_images) == (0, 0)
    assert few.text() == "+0.54" and nothing.text() == ""


def test_a_mean_leaves_out_objects_without_a_value():
    records = objects((1, 1, 0), (1, 3, 0), (2, None, 0), (3, 5, 0))
    found = mean(records, lambda record: record["a"])
    assert found.mean == 3 and (found.n_objects, found.n_images) == (3, 2)
    assert mean(records[2:3], lambda record: record["a"]).n_objects == 0


def test_a_difference_compares_the_same_objects():
    records = objects((1, 1, 0.5), (1, 3, None), (2, None, 0), (3, 5, 1))
    found = difference(records, lambda record: record["a"], lambda record: record["b"])
    assert found.mean == 2.25 and (found.n_objects, found.n_images) == (2, 2)
    curves = [{"image": k, "a": [3, 2], "b": [1, k]} for k in (0, 1)]
    assert difference(curves, lambda r: r["a"], lambda r: r["b"]).mean.tolist() == [2, 1.5]


# -- verdicts


def evidence(centre, error, n_images=31):
    reach = stats.t.ppf(0.975, n_images - 1) * error
    return Estimate(centre, centre - reach, centre + reach, error, n_images - 1, 40, n_images)


SURE, LIKELY, WRONG, FEW = evidence(5, 1), evidence(2.1, 1), evidence(-5, 1), estimate(ALIKE[:5])


@pytest.mark.parametrize(
    ("claim", "word"),
    [
        (("above", SURE, 0), "holds"),
        (("above", SURE, 4.9), "open"),
        (("above", WRONG, 0), "fails"),
        (("below", WRONG, 0), "holds"),
        (("below", SURE, 0), "fails"),
        (("within", evidence(0.1, 0.1), 0.5), "holds"),
        (("within", evidence(0.1, 0.3), 0.5), "open"),  # not seen to be different is not the same
        (("within", evidence(-5, 1), 2), "fails"),
        (("within", evidence(0, 0), 0.1), "holds"),
        (("above", evidence(0, 0), 0), "open"),
        (("above", FEW, 0), "too few"),
        (("above", estimate([]), 0), "too few"),
    ],
)
def test_a_verdict(claim, word):
    side, found, bound = claim
    (verdict,) = verdicts([Claim("a", found, side, bound)])
    assert verdict.word == word


def test_a_family_is_corrected_for_its_number():
    """Holm: the smallest p times the number of claims, the next times one less; never decreasing."""
    family = [Claim("a", LIKELY), Claim("b", SURE), Claim("c", FEW), Claim("d", evidence(2.05, 1))]
    alone = [claim.evidence.p() for claim in family]
    found = verdicts(family)
    assert verdicts(family[:1])[0].word == "holds" and found[0].word == "open"
    assert found[1].p == pytest.approx(3 * alone[1]) and found[1].word == "holds"
    assert found[0].p == pytest.approx(2 * alone[0])
    assert found[3].p == pytest.approx(2 * alone[0])  # 1 times its own would be less
    assert np.isnan(found[2].p) and found[2].word == "too few"
    assert verdicts([]) == []


def test_of_twenty_claims_without_effect_rarely_one_holds():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        family = [Claim("none", estimate(rng.normal(size=(12, 1)))) for _ in range(20)]
        wrong += any(verdict.word in ("holds", "fails") for verdict in verdicts(family))
    assert wrong / 400 < 0.08


def test_the_table_of_claims():
    table = tables.of_claims([Claim("more", SURE, unit=100), Claim("few", FEW)])
    assert table.rows[0] == ["more", "+500.00 [+295.77, +704.23]", "40", "31", "< 0.001", "**holds**"]
    assert table.rows[1] == ["few", "+0.54", "5", "5", "", "**too few**"]
    assert "corrected for 1 claims (Holm)" in table.title


def test_families_stand_side_by_side_and_are_corrected_apart():
    weak = estimate([[value] for value in (1.0, 2.0, 3.0, -1.0, 2.0, 1.5, 0.5)])
    first = [Claim("more", weak), *(Claim(f"other {k}", weak) for k in range(9))]
    table = tables.of_families({"one": first, "two": [Claim("new", FEW), Claim("more", weak, unit=100)]})
    assert table.columns == ["claim", "one", "verdict, p", "two", "verdict, p"]
    assert table.title.endswith("p corrected for 10 and 1 claims (Holm)")  # "too few" is not counted
    told = f"{weak.text()} (7 / 7)", "**open** 0.383"
    assert table.rows[1] == ["more", *told, f"{weak.text(100)} (7 / 7)", "**holds** 0.038"]
    assert table.rows[0] == ["new", "", "", "+0.54 (5 / 5)", "**too few**"] and len(table.rows) == 2


def test_claims_in_files_have_no_marks_of_markdown():
    table = tables.of_claims([Claim("*4.3:* `dark5` & a_b ^ {50 %}", SURE)])
    assert "*4.3:* `dark5` & a_b" in table.markdown() and "**holds**" in table.markdown()
    assert "4.3: dark5 & a_b ^ {50 %}," in table.csv() and ",holds\n" in table.csv()
    sentence, *_, verdict = table.latex().splitlines()[5].split(" & ")
    assert sentence == r"4.3: dark5 \& a\_b \textasciicircum{} \{50 \%\}" and verdict == r"holds \\"


def test_claims_that_cannot_be_judged():
    for claim, word in (
        (Claim("a", SURE, "near"), "side must be one of 'above'"),
        (Claim("a", SURE, "within"), "needs a margin above 0"),
        (Claim("a", estimate([[[1, 2]]])), "must be one number"),
        (Claim("a", SURE, "above", np.nan), "the bound of 'a' must be finite numbers"),
        (Claim("a", SURE, unit="%"), "the unit of 'a' must be numbers"),
        (0.3, "a claim must be Claim, got float"),
        (Claim("a", 0.3), "evidence must be Estimate, got float"),
    ):
        with pytest.raises(dc.InputError, match=word):
            verdicts([claim])
    with pytest.raises(dc.InputError, match="must be a finite number: leave out those that are not"):
        estimate([[1.0], [np.nan]])
    for groups in ([1, 2, 3], [[1.0], [[1.0, 2.0]]], [["a"]], [None]):
        with pytest.raises(dc.InputError, match="a group must be"):
            estimate(groups)
    with pytest.raises(dc.InputError, match="groups must be Iterable, got int"):
        estimate(5)


def test_claims_may_come_one_by_one():
    claims = [Claim("more", SURE), Claim("few", FEW)]
    assert len(verdicts(iter(claims))) == 2 and tables.of_claims(iter(claims)) == tables.of_claims(claims)


def test_a_mean_at_its_bound_does_not_fail_by_rounding():
    for value, n_images in ((0.1, 7), (0.3, 10)):
        assert estimate([[value]] * n_images).p(value) == 1
        assert estimate([[value]] * n_images).p(value - 0.01) == 0


def test_nan_becomes_none_in_a_record():
    assert rounded(np.float32(0.123456)) == 0.1235 and rounded(0.126, 2) == 0.13
    assert rounded(float("nan")) is None and json.dumps(rounded(np.float64(2 / 3))) == "0.6667"
