import numpy as np

from dclose_nb.density import contrast, density_map, normalise

RNG = np.random.default_rng(2)


def test_equations_3_and_4_against_a_loop():
    masks, weights = RNG.uniform(0, 1, (6, 4, 5)), RNG.uniform(0, 1, 6)
    density, mean = np.zeros((4, 5)), np.zeros((4, 5))
    for i in range(4):
        for j in range(5):
            for k in range(6):
                density[i, j] += masks[k, i, j]
                mean[i, j] += weights[k] * masks[k, i, j]
            mean[i, j] *= 1 / density[i, j]
    assert np.allclose(density_map(masks), density)
    assert np.allclose(normalise(np.einsum("k,khw->hw", weights, masks), density), mean)


def test_integers_are_divided_and_a_pixel_that_no_mask_kept_gets_0():
    assert normalise(np.array([[1, 1]]), np.array([[2, 0]])).tolist() == [[0.5, 0]]


def test_contrast_is_kept_minus_hidden_against_a_loop():
    masks, weights = RNG.uniform(0, 1, (6, 4, 5)), RNG.uniform(0, 1, (6, 2))
    weighted_sum = np.einsum("kn,khw->nhw", weights, masks)
    got = contrast(weighted_sum, density_map(masks), weights)
    for n in range(2):
        for i in range(4):
            for j in range(5):
                kept = sum(weights[k, n] * masks[k, i, j] for k in range(6)) / masks[:, i, j].sum()
                hidden = (
                    sum(weights[k, n] * (1 - masks[k, i, j]) for k in range(6)) / (1 - masks[:, i, j]).sum()
                )
                assert np.isclose(got[n, i, j], kept - hidden)


def test_weights_that_differ_by_rounding_alone_have_no_contrast():
    masks = RNG.uniform(0, 1, (50, 4, 5))
    weights = np.array([0.3, 0.3]) + [0, 1e-3] * RNG.uniform(0, 1, (50, 2)) + RNG.uniform(0, 2e-8, (50, 2))
    got = contrast(np.einsum("kn,khw->nhw", weights, masks), density_map(masks), weights)
    assert not got[0].any() and got[1].all()


def test_contrast_is_0_for_pixels_that_are_always_or_never_kept():
    masks = np.array([[[1.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]]])
    weights = np.array([[0.9], [0.2]])
    got = contrast(np.einsum("kn,khw->nhw", weights, masks), density_map(masks), weights)
    assert np.allclose(got, [[[0, 0, 0.7]]])
