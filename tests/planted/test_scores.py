"""Scores against a known truth, and the controls that every method should beat."""

import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb.planted import RuleDetector, scene, scores

RNG = np.random.default_rng(0)
CAUSAL = np.zeros((20, 30), bool)
CAUSAL[4:9, 5:15] = True  # 50 of 600 pixels


def test_scores_in_closed_form():
    flat, perfect = np.ones(CAUSAL.shape), CAUSAL.astype(float)
    assert scores.relevance_mass(flat, CAUSAL) == pytest.approx(50 / 600)
    assert scores.relevance_rank(flat, CAUSAL) == pytest.approx(50 / 600)
    assert scores.relevance_mass(perfect, CAUSAL) == scores.relevance_rank(perfect, CAUSAL) == 1
    assert scores.relevance_mass(1 - perfect, CAUSAL) == scores.relevance_rank(1 - perfect, CAUSAL) == 0
    assert scores.relevance_mass(0 * flat, CAUSAL) == 0
    assert scores.relevance_mass(perfect - 5 * ~CAUSAL, CAUSAL) == 1  # negatives count as 0


def test_rank_and_mass_against_a_loop():
    saliency = RNG.uniform(0, 1, CAUSAL.shape)
    highest = sorted(np.ndindex(*CAUSAL.shape), key=lambda at: -saliency[at])[:50]
    assert scores.relevance_rank(saliency, CAUSAL) == pytest.approx(sum(CAUSAL[at] for at in highest) / 50)
    inside = sum(saliency[at] for at in np.ndindex(*CAUSAL.shape) if CAUSAL[at])
    assert scores.relevance_mass(saliency, CAUSAL) == pytest.approx(inside / saliency.sum())
    assert scores.relevance_mass(saliency, ~CAUSAL) == pytest.approx(1 - inside / saliency.sum())


def test_parts_are_ranked():
    parts = [dc.planted.Part(str(k), "body", np.arange(600).reshape(20, 30) // 150 == k) for k in range(4)]
    effects = np.array([0.1, 0.4, 0.2, 0.3])
    drawn = sum(effect * part.mask for effect, part in zip(effects, parts))
    assert scores.part_correlation(drawn, parts, effects) == pytest.approx(1)
    assert scores.part_correlation(-drawn, parts, effects) == pytest.approx(-1)
    assert np.isnan(scores.part_correlation(np.ones((20, 30)), parts, effects))


def test_the_true_map_wins_its_own_scores():
    """The filled box loses to it, too."""
    for seed in range(6):
        drawn = scene(seed)
        detector = RuleDetector(drawn, "sum")
        target = detector.detect(drawn.image)[0]
        truth = detector.true_map(target)
        causal = truth > 0
        box = scores.filled_box(causal.shape, target.boxes[0])
        assert box[causal].all()
        assert scores.relevance_mass(truth, causal) == pytest.approx(1)
        assert scores.relevance_rank(truth, causal) == 1
        for control in (box, scores.random_map(causal.shape), scores.centre_gaussian(causal.shape)):
            assert scores.relevance_mass(control, causal) < 0.95
            assert scores.relevance_rank(control, causal) < 1


def test_only_the_true_map_shares_all_its_energy():
    truth = RNG.uniform(0, 1, CAUSAL.shape) * CAUSAL
    assert scores.shared_energy(3 * truth, truth) == pytest.approx(1)
    assert scores.shared_energy(1.0 * ~CAUSAL, truth) == scores.shared_energy(0 * truth, truth) == 0
    assert scores.shared_energy(np.ones(CAUSAL.shape), 1.0 * CAUSAL) == pytest.approx(50 / 600)
    weighted = scores.shared_energy(1.0 * CAUSAL, truth)  # its places are right, its weights are not
    assert 0.5 < weighted < 1 == scores.relevance_mass(1.0 * CAUSAL, CAUSAL)
    assert scores.shared_energy(truth - 5 * ~CAUSAL, truth) == pytest.approx(1)  # negatives count as 0


def test_controls_have_the_image_s_shape():
    assert scores.random_map((20, 30)).shape == scores.centre_gaussian((20, 30)).shape == (20, 30)
    assert not np.array_equal(scores.random_map((20, 30), seed=1), scores.random_map((20, 30)))
    assert scores.filled_box((20, 30), np.array([5, 4, 15, 9])).astype(bool).tolist() == CAUSAL.tolist()


def test_arrays_that_do_not_fit_are_refused():
    for score in (scores.relevance_mass, scores.relevance_rank):
        with pytest.raises(dc.InputError, match="causal must be"):
            score(np.ones((3, 3)), CAUSAL)
        with pytest.raises(dc.InputError, match="finite"):
            score(np.full(CAUSAL.shape, np.nan), CAUSAL)
        ramp = np.arange(600.0).reshape(CAUSAL.shape)
        assert score(ramp, CAUSAL.astype(np.uint8)) == score(ramp, CAUSAL)  # 0 and 1 are no rows
    with pytest.raises(dc.InputError, match="one size"):
        scores.shared_energy(np.ones((3, 3)), CAUSAL)
    with pytest.raises(dc.InputError, match="no pixel"):
        scores.relevance_rank(np.ones(CAUSAL.shape), 0 * CAUSAL > 0)
    with pytest.raises(dc.InputError, match="as many effects"):
        scores.part_correlation(np.ones(CAUSAL.shape), [], np.ones(2))
