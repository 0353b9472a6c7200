"""Shuffled weights, and how alike two maps are."""

import numpy as np
import pytest
import torch

import dclose_nb as dc
from dclose_nb.sanity import randomise, rank_correlation


def test_every_layer_keeps_its_values_and_no_order():
    detector = dc.load_detector("planted", device="cpu")
    before = [value.clone() for value in detector.module.parameters()]
    one, again, other = (list(randomise(detector, seed=seed).module.parameters()) for seed in (1, 1, 2))
    for value, kept, a, b, c in zip(detector.module.parameters(), before, one, again, other):
        assert torch.equal(value, kept)  # the caller's network is as it was
        assert torch.equal(a, b)
        assert torch.equal(a.flatten().sort().values, value.flatten().sort().values)
        if value.numel() > 100:
            assert not torch.equal(a, value) and not torch.equal(a, c)
    assert randomise(detector).provenance == {"shuffled": "planted", "seed": 0}


def test_a_detector_without_parameters_is_refused(lamps):
    with pytest.raises(dc.InputError, match="lamps has no parameters"):
        randomise(lamps)


def test_rank_correlation_in_closed_form():
    a = np.arange(12.0).reshape(3, 4)
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert np.isnan(rank_correlation(a, np.ones((3, 4))))
    x, y = [1, 2, 3, 4], [2, 1, 4, 3]  # 1 - 6 sum d^2 / (n (n^2 - 1))
    assert rank_correlation(np.array([x]), np.array([y])) == pytest.approx(1 - 6 * 4 / 60)
    with pytest.raises(dc.InputError, match="one size"):
        rank_correlation(a, a.T)
