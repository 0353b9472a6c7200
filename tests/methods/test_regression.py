"""Regression of the weights on the masks, against another way to compute it and against known effects."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import Ridge

import dclose_nb as dc
from dclose_nb.fusion import cascade, min_max
from dclose_nb.masks import grid_masks
from dclose_nb.methods import make
from dclose_nb.methods.regression import GROUPS, NOISE, SCALES, Fit, Regression, product
from dclose_nb.sampling import Level


def level_of(masks, weights, sampler):
    """A level of masks (N, h, w) whose weights (N, n) are given."""
    weights = np.asarray(weights, dtype=np.float32)
    return Level(sampler, np.tensordot(weights.T, masks, 1), masks.sum(0), weights, np.arange(len(masks)))


def sampled(shape, n_masks, weigh, **options):
    """A level whose weights `weigh` computes from the masks (N, h, w)."""
    sampler = grid_masks(shape, **options)
    masks = sampler.masks(0, n_masks).double().numpy()
    return level_of(masks, weigh(masks), sampler)


def kernels(height, width, step):
    """K_s of each scale, between the points of the grid, and from them to all pixels."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([y / height, x / width], axis=-1)
    at = pixels[::step, ::step].reshape(-1, 2)
    squares = [((here[:, None] - at) ** 2).sum(-1) for here in (at, pixels.reshape(-1, 2))]
    return [[np.exp(-each / (2 * scale**2)) for each in squares] for scale in SCALES]


@pytest.mark.parametrize(("shape", "step"), [((9, 11), 1), ((70, 100), 2)])
def test_the_effects_are_a_ridge_regression_on_the_kernels_features(shape, step):
    """scikit-learn solves the primal problem: one coefficient for each feature of each kernel."""
    rng = np.random.default_rng(0)
    level = sampled(shape, 25, lambda masks: rng.random((len(masks), 2)), grid=(3, 4))
    masks = level.sampler.masks(0, 25).double().numpy()[:, ::step, ::step]
    kept = (masks - masks.mean(0)).reshape(25, -1)
    roots = []
    for kernel, _ in kernels(*shape, step):
        values, vectors = np.linalg.eigh(kernel)
        root = vectors * np.sqrt(values.clip(0))  # root root' = kernel
        explained = ((kept @ root) ** 2).sum() / 25  # mean variance of a weight
        roots.append(root * np.sqrt((1 - NOISE) / 4 / explained))
    features = np.hstack([kept @ root for root in roots])
    model = Ridge(alpha=NOISE, fit_intercept=False).fit(features, level.weights - level.weights.mean(0))
    found = Fit([level]).effects()
    for part, root, coefficients, (_, everywhere) in zip(
        found, roots, np.split(model.coef_, 4, axis=1), kernels(*shape, step)
    ):
        assert np.allclose(part[:, ::step, ::step].reshape(2, -1), coefficients @ root.T, atol=1e-5)
        # between the points of the grid: the same sum of kernels as there
        residual = level.weights - level.weights.mean(0) - model.predict(features)
        scale = (root @ root.T)[0, 0]  # of this part; a kernel is 1 at distance 0
        expected = scale * everywhere @ (kept.T @ residual) / NOISE
        assert np.allclose(part.reshape(2, -1), expected.T, atol=1e-5)


def test_another_pixels_effect_is_not_charged_to_a_pixel():
    """One large and one small effect: averaging drowns the small one in what the large one adds."""
    truth = np.zeros((24, 24))
    truth[4:9, 4:9], truth[14:19, 14:19] = 1 / 25, 0.3 / 25
    outside = truth == 0
    lead = []
    for seed in range(10):
        level = sampled(
            truth.shape, 100, lambda masks: (masks * truth).sum((1, 2))[:, None], grid=(6, 6), seed=seed
        )
        of_pixels = Fit([level]).effects().sum(0)[0]
        lead.append(
            [
                (values[14:19, 14:19].mean() - values[outside].mean()) / values[outside].std()
                for values in (of_pixels, level.contrast[0])
            ]
        )
    regressed, averaged = np.mean(lead, axis=0)
    assert regressed > averaged + 0.5


def test_the_map_is_the_product_of_both_estimates(lamps, lit):
    targets = lamps.detect(lit)
    found = dc.explain(lamps, lit, targets, method="regression", n_masks=30, segments=(4, 8), progress=False)
    contrast = dc.explain(lamps, lit, targets, method="contrast", n_masks=30, segments=(4, 8), progress=False)
    # the coarsest level of contrast is no average: it shows that both have the same masks
    coarsest = found.levels[-1]
    assert np.allclose(np.where(coarsest < 0, coarsest / 20, coarsest), contrast.levels[-1], atol=1e-6)
    method = make("regression", n_masks=30, segments=(4, 8))
    canvas = lamps.prepare(lit)
    levels = dc.sampling.sample(lamps, canvas, targets, method.plan(canvas, 0), progress=False)
    parts, mean = Fit(levels).effects(), found.levels.mean(0)
    parts[parts < 0] /= 20
    mean[mean < 0] /= 20
    expected = cascade(parts) * min_max(mean)
    assert np.allclose(found.saliency, canvas.maps_to_image(expected.astype(np.float32)), atol=1e-5)


def test_a_map_does_not_depend_on_the_other_targets(lamps, lit):
    boxes = np.tile(lamps.detect(lit).boxes, (100, 1))
    labels = [lamps.class_names[0], lamps.class_names[1]] * 100
    options = {"method": "regression", "n_masks": 40, "segments": (4, 8), "progress": False}
    many = dc.explain(lamps, lit, dc.Targets(boxes, labels), **options).saliency
    two = dc.explain(lamps, lit, dc.Targets(boxes[:2], labels[:2]), **options).saliency
    assert np.allclose(many, np.tile(two, (100, 1, 1)), atol=1e-5)


@pytest.mark.parametrize("rounding", [0, 1e-7])
@pytest.mark.parametrize("shape", [(12, 20), (1, 1), (1, 90)])
def test_weights_that_are_all_equal_give_an_empty_map(shape, rounding):
    weights = np.array([0, 0.1, 0.3, 0.7]) * (1 + rounding * np.random.default_rng(0).random((13, 4)))
    level = sampled(shape, 13, lambda masks: weights, grid=(2, 2))
    assert not Fit([level]).effects().any()
    maps = Regression(n_masks=13, segments=(4,)).combine([level])
    assert maps.saliency.shape == (4, *shape) and not maps.saliency.any()
    assert maps.error.shape == (4, *shape) and not maps.error.any()


def test_masks_that_are_all_the_same_give_an_empty_map():
    sampler = grid_masks((8, 8), grid=(2, 2))
    mask = sampler.masks(3, 4).double().numpy()
    same = level_of(mask.repeat(5, 0), np.random.default_rng(0).random((5, 1)), sampler)
    fitted = Fit([same._replace(numbers=np.full(5, 3))])
    assert not fitted.effects().any() and not fitted.error().any()


@pytest.mark.parametrize(("shape", "counts"), [((9, 11), (30, 13)), ((70, 100), (18, 4)), ((9, 11), (5, 2))])
def test_the_error_is_the_jackknifes(shape, counts):
    """Each group is left out of the system of equations and of the contrasts, and the rest is solved anew."""
    rng = np.random.default_rng(0)
    levels = [
        sampled(shape, count, lambda masks: rng.random((len(masks), 2)), grid=(3, 4), seed=seed)
        for seed, count in enumerate(counts)
    ]
    fitted, (first, second) = Fit(levels), levels
    step, covariance = fitted.step, np.linalg.inv(fitted.inverse)
    weights = np.concatenate([first.weights, second.weights]).astype(float)
    centred = weights - weights.mean(0)
    groups = min(GROUPS, sum(counts))
    maps = []
    for group in range(groups):
        stay = np.flatnonzero(np.arange(len(weights)) % groups != group)
        solved = np.zeros_like(centred)
        solved[stay] = np.linalg.solve(covariance[np.ix_(stay, stay)], centred[stay])
        ends = stay[stay < counts[0]], stay[stay >= counts[0]] - counts[0]
        own = []
        for level, rest in zip(levels, ends):
            masks = level.sampler.coarse_masks(rest, step).double().numpy()
            own.append(level_of(masks, level.weights[rest], level.sampler).contrast)
        effects = fitted.effects(solved)[:, :, ::step, ::step]
        maps.append(min_max(product(effects, np.mean(own, axis=0))))
    squares = (groups - 1) / groups * np.square(maps - np.mean(maps, axis=0)).sum(axis=0)
    sigmas = [0.02 * side for side in squares.shape[1:]]
    expected = np.sqrt([gaussian_filter(one, sigmas) for one in squares])
    error = fitted.error()
    assert error.shape == (2, *shape) and expected.max() > 0.05
    assert np.allclose(error[:, ::step, ::step], expected, atol=1e-4)
    assert (
        np.array_equal(error[:, 1::step], error[:, ::step][:, : len(range(1, shape[0], step))]) or step == 1
    )


def test_the_error_is_the_spread_of_maps_over_seeds(lamps, lit):
    options = {"method": "regression", "n_masks": 200, "segments": (4, 8, 16), "progress": False}
    runs = [dc.explain(lamps, lit, seed=seed, **options) for seed in range(48)]
    spread = np.var([min_max(run.saliency) for run in runs], axis=0, ddof=1).mean()
    assert 0.7 < np.sqrt(np.mean([np.square(run.error).mean() for run in runs]) / spread) < 1.4


def test_auto_takes_as_many_masks_as_the_error_needs(lamps, lit):
    options = {"method": "regression", "segments": (4, 8), "progress": False}
    rough = dc.explain(lamps, lit, n_masks="auto", tolerance=0.1, **options)
    assert rough.params["n_masks"] == 2000 and 51 <= rough.n_forward < 2001
    assert (rough.relative_error <= 0.1).all() and rough.tolerance == 0.1
    fine = dc.explain(lamps, lit, n_masks="auto", tolerance=0.03, **options)
    assert rough.n_forward < fine.n_forward and (fine.relative_error <= 0.03).all()
    plain = dc.explain(lamps, lit, **options)
    assert plain.n_forward == 201 and plain.tolerance is None and plain.error.shape == plain.saliency.shape
    nothing = dc.explain(lamps, lit, dc.Targets([], []), **options)
    assert nothing.error.shape == nothing.saliency.shape == (0, *lit.shape[:2])


@pytest.mark.parametrize(("n_masks", "why"), [
    (9, "at least two for each of 5 levels, got 9"),
    (2001, "at most 2000 for regression, got 2001"),
])  # fmt: skip
def test_too_few_or_too_many_masks(n_masks, why):
    with pytest.raises(dc.InputError, match=why):
        make("regression", n_masks=n_masks)


def test_a_half_knows_its_masks(lamps, lit):
    """The map of a half is that of its own masks and weights."""
    targets, canvas = lamps.detect(lit), lamps.prepare(lit)
    method = make("regression", n_masks=40, segments=(4, 8))
    sampling = dc.sampling.Sampling(
        lamps, canvas, targets, method.plan(canvas, 0), halves=2, progress=False, batch_size=3
    )
    for _ in sampling:
        pass
    whole, halves = sampling.levels(), [sampling.levels(half) for half in (0, 1)]
    for k, level in enumerate(whole):
        for half in (0, 1):
            part = halves[half][k]
            assert (part.numbers % 2 == half).all()
            assert np.array_equal(part.weights, level.weights[part.numbers])
            masks = level.sampler.masks(0, len(level.weights)).double().numpy()[part.numbers]
            assert np.allclose(part.density, masks.sum(0))
    first, second = (method.combine(half).saliency for half in halves)
    assert not np.allclose(first, second)
    own = [
        level_of(level.sampler.coarse_masks(half.numbers, 1).double().numpy(), half.weights, level.sampler)
        for level, half in zip(whole, halves[1])
    ]
    own = [level._replace(numbers=half.numbers) for level, half in zip(own, halves[1])]
    assert np.allclose(method.combine(own).saliency, second, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 400), (400, 30), (100, 400)])
def test_a_long_image_has_no_stripes(shape):
    """Along the shorter side, the finest part of one block's effect rises once and falls once."""
    inside = np.zeros(shape)
    rows, columns = (slice(side // 3, 2 * side // 3) for side in shape)
    inside[rows, columns] = 1 / np.sum(np.ones(shape)[rows, columns])
    level = sampled(shape, 60, lambda masks: (masks * inside).sum((1, 2))[:, None], grid=(6, 6))
    part = Fit([level]).effects()[0, 0]
    line = part[:, shape[1] // 2] if shape[0] < shape[1] else part[shape[0] // 2]
    within = line[len(line) // 3 : 2 * len(line) // 3]
    turns = np.count_nonzero(np.diff(np.sign(np.diff(within))))
    assert turns <= 2 and within.min() > 0.3 * within.max()
