"""Means and intervals are those of the bootstrap over images."""

import json

import numpy as np
import pytest

from dclose_nb.studies.inference import difference, mean, mean_with_interval, rounded


def test_intervals_against_every_possible_draw():
    """All objects have the same weight; groups are drawn as a whole."""
    groups = [[0.2, 0.4], [0.9], [0.5, 0.6, 0.1]]
    mean, low, high = mean_with_interval(groups, draws=4000)
    assert mean == pytest.approx(2.7 / 6)
    every = [np.mean(a + b + c) for a in groups for b in groups for c in groups]
    expected = np.percentile(every, [2.5, 97.5], method="inverted_cdf")
    assert (low, high) == pytest.approx(tuple(expected))
    pairs = [[(value, 2 * value) for value in group] for group in groups]
    assert mean_with_interval(pairs, draws=4000) == pytest.approx(
        np.array([mean, low, high])[:, None] * [1, 2]
    )


def objects(*values):
    return [{"image": image, "a": a, "b": b} for image, a, b in values]


def test_a_mean_leaves_out_objects_without_a_value():
    records = objects((1, 1, 0), (1, 3, 0), (2, None, 0), (3, 5, 0))
    expected = mean_with_interval([[1, 3], [5]])
    assert np.array_equal(mean(records, lambda record: record["a"]), expected) and expected[0] == 3
    assert mean([], lambda record: record["a"]) is None
    assert mean(records[2:3], lambda record: record["a"]) is None


def test_one_image_has_a_mean_but_no_interval():
    for values, expected in (([[1, 3]], 2), ([[[1, 2], [3, 4]]], [2, 3])):
        centre, low, high = mean_with_interval(values)
        assert np.array_equal(centre, expected) and np.isnan(low).all() and np.isnan(high).all()
    assert mean(objects((7, 1, 0), (7, 3, 0)), lambda record: record["a"])[0] == 2


def test_a_difference_compares_the_same_objects():
    records = objects((1, 1, 0.5), (1, 3, None), (2, None, 0), (3, 5, 1))
    found = difference(records, lambda record: record["a"], lambda record: record["b"])
    assert np.array_equal(found, mean_with_interval([[0.5], [4]]))
    assert difference(records[1:3], lambda record: record["a"], lambda record: record["b"]) is None
    curves = [{"image": k, "a": [3, 2], "b": [1, k]} for k in (0, 1)]
    centre, low, high = difference(curves, lambda record: record["a"], lambda record: record["b"])
    assert centre.tolist() == [2, 1.5] and low.tolist() == [2, 1] and high.tolist() == [2, 2]


def test_nan_becomes_none_in_a_record():
    assert rounded(np.float32(0.123456)) == 0.1235 and rounded(0.126, 2) == 0.13
    assert rounded(float("nan")) is None and json.dumps(rounded(np.float64(2 / 3))) == "0.6667"
