import numpy as np
import pytest

from dclose_nb import InputError
from dclose_nb.fusion import cascade, cascade_steps, min_max

RNG = np.random.default_rng(3)


def by_the_loop(levels):
    """Eq. 8 as the paper prints it, with S_1 to S_L and A_1 to A_(L-1)."""
    s = {k + 1: (m - m.min()) / (m.max() - m.min()) for k, m in enumerate(levels)}
    a = {}
    for k in range(1, len(levels)):
        a[k] = np.zeros(levels[0].shape)
        for i, j in np.ndindex(*levels[0].shape):
            before = s[1][i, j] if k == 1 else a[k - 1][i, j]
            a[k][i, j] = (before + s[k + 1][i, j]) * s[k + 1][i, j]
    return a[len(levels) - 1]


@pytest.mark.parametrize("n_levels", [2, 3, 5])
def test_equation_8_against_a_loop(n_levels):
    levels = RNG.normal(0, 10, (n_levels, 4, 5))
    assert np.allclose(cascade(levels), by_the_loop(levels))


def test_each_target_is_fused_alone():
    levels = RNG.uniform(0, 1, (3, 2, 4, 5))
    assert np.allclose(cascade(levels), [by_the_loop(levels[:, 0]), by_the_loop(levels[:, 1])])


def test_a_level_may_have_any_range():
    levels = RNG.uniform(0, 1, (4, 6, 7))
    moved = levels * np.array([3, 1e-4, 500, 1]).reshape(4, 1, 1) + np.array([-7, 0, 2, 9]).reshape(4, 1, 1)
    assert np.allclose(cascade(moved), cascade(levels))


def test_the_result_lies_between_0_and_the_number_of_levels():
    level = RNG.uniform(0, 1, (6, 7))
    fused = cascade(np.stack([level] * 5))
    assert fused.min() == 0 and fused.max() == pytest.approx(5)


def test_the_order_matters():
    levels = RNG.uniform(0, 1, (3, 4, 5))
    assert not np.allclose(cascade(levels), cascade(levels[::-1]))


def test_one_level_is_only_scaled():
    level = RNG.uniform(3, 8, (4, 5))
    assert np.array_equal(cascade(level[None]), min_max(level))


def test_steps_end_in_the_cascade():
    levels = RNG.uniform(0, 1, (4, 3, 3))
    steps = cascade_steps(levels)
    assert np.array_equal(steps[0], min_max(levels[0])) and np.array_equal(steps[-1], cascade(levels))
    assert np.array_equal(steps[1], cascade(levels[:2]))


def test_a_constant_map_becomes_0_even_with_rounding():
    flat = np.full((4, 5), 0.3, np.float32)
    flat[0, 0] += 2e-7
    assert (min_max(flat) == 0).all()
    assert (min_max(np.zeros((2, 2))) == 0).all()


def test_the_largest_finite_numbers_are_accepted():
    fused = cascade(np.array([[[-3e38, 0, 3e38]], [[0, 1, 2]]], np.float32))
    assert np.allclose(fused, [[0, 0.5, 2]])
    fused = cascade(np.array([[[-1.7e308, 0, 1.7e308]], [[0, 1, 2]]]))
    assert np.allclose(fused, [[0, 0.5, 2]])


def test_integers_and_float32_are_accepted():
    assert cascade(np.arange(24).reshape(2, 3, 4)).max() == 2
    assert cascade(RNG.uniform(0, 1, (2, 3, 4)).astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("bad", [np.zeros((3, 4)), np.zeros((0, 3, 4)), np.full((2, 3, 4), np.nan)])
def test_other_arrays_than_levels_are_refused(bad):
    with pytest.raises(InputError, match="levels must be"):
        cascade(bad)
