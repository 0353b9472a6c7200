import numpy as np
import pytest
import torch
from toys import out_of_memory_above

import dclose_nb as dc
from dclose_nb import sampling as engine
from dclose_nb.fusion import min_max
from dclose_nb.masks import grid_masks, superpixel_masks
from dclose_nb.similarity import mask_weights


def samplers(shape, seed=0):
    labels = np.random.default_rng(5).integers(0, 9, shape)
    return [superpixel_masks(labels, seed=seed, r=1), grid_masks(shape, grid=(3, 3), seed=seed)]


def run(detector, image, targets=None, *, counts=(11, 6), seed=0, **options):
    canvas = detector.prepare(image)
    targets = detector.detect(image) if targets is None else targets
    shape = canvas.content[2:]
    return engine.run(detector, canvas, targets, samplers(shape, seed), counts, progress=False, **options)


def by_the_loop(detector, image, targets, sampler, count):
    """Steps 2 to 6 of section 3.5 on the image itself, one mask and one pixel at a time."""
    h, w = image.shape[:2]
    weighted, density = np.zeros((len(targets), h, w)), np.zeros((h, w))
    weights = np.zeros((count, len(targets)))
    for k, mask in enumerate(sampler.masks(0, count).double().numpy()):
        masked = image * mask[:, :, None]
        for n, target in enumerate(targets):
            best = 0.0
            for box, probs in zip(detector.boxes.numpy(), detector.class_probs.numpy()):
                x1, y1, x2, y2 = box.astype(int)
                objectness = masked[y1:y2, x1:x2].mean() / 255
                iou = 1.0 if np.array_equal(box, target.boxes[0]) else 0.0  # lamps do not overlap
                cosine = probs @ target.class_probs[0]
                cosine /= np.linalg.norm(probs) * np.linalg.norm(target.class_probs[0])
                best = max(best, iou * objectness * cosine)
            weights[k, n] = best
            weighted[n] += best * mask
        density += mask
    return weighted / density, density, weights


def test_the_loop_against_the_paper_s_steps(lamps, lit):
    targets = lamps.detect(lit)
    levels = run(lamps, lit, counts=(11, 6), batch_size=4)
    for level, sampler, count in zip(levels, samplers(lit.shape[:2]), (11, 6)):
        saliency, density, weights = by_the_loop(lamps, lit, targets, sampler, count)
        assert weights.min() >= 0 and weights.std() > 0
        assert np.allclose(level.saliency, saliency, atol=1e-5)
        assert np.allclose(level.density, density, atol=1e-5)
        assert np.allclose(level.weights, weights, atol=1e-5)


def test_only_the_image_is_masked(lamps, lit):
    """The network sees I times M inside and the padding untouched around it."""
    canvas = lamps.prepare(lit)
    lamps.seen.clear()
    run(lamps, lit, lamps.detect(lit), counts=(3, 0), batch_size=2)
    seen = torch.cat(lamps.seen[1:])  # the first call detects
    masks = samplers(lit.shape[:2])[0].masks(0, 3)
    assert torch.allclose(seen[:, :, *canvas.window], canvas.pixels[:, *canvas.window] * masks[:, None])
    outside = torch.ones_like(canvas.pixels[0], dtype=torch.bool)
    outside[canvas.window] = False
    assert len(seen) == 3 and (seen[:, :, outside] == 114).all()


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_batch_size_changes_nothing(lamps, lit, batch_size):
    for one, other in zip(run(lamps, lit, batch_size=batch_size), run(lamps, lit, batch_size=5)):
        assert np.allclose(one.saliency, other.saliency, atol=1e-6)
        assert np.allclose(one.density, other.density, atol=1e-6)


def test_another_seed_gives_another_map(lamps, lit):
    one, other = run(lamps, lit, seed=0)[0], run(lamps, lit, seed=1)[0]
    assert np.abs(one.saliency - other.saliency).max() > 1e-3


def test_targets_are_explained_together_as_alone(lamps, lit):
    targets = lamps.detect(lit)
    together = run(lamps, lit, targets)
    for n in range(2):
        for level, alone in zip(together, run(lamps, lit, targets[n])):
            assert np.allclose(level.saliency[n], alone.saliency[0], atol=1e-6)


def test_a_constant_weight_gives_a_flat_map(lamps, lit):
    """A detector that ignores the masks: the density takes out how often a pixel was kept."""
    targets = lamps.detect(lit)
    constant = lamps.predict(lamps.prepare(lit).pixels[None])
    lamps.predict = lambda pixels: dc.Proposals(
        *(part.expand(len(pixels), *part.shape[1:]) for part in constant)
    )
    level = run(lamps, lit, targets)[0]
    assert np.ptp(level.density) > 1
    assert np.allclose(level.saliency, targets.objectness[:, None, None], atol=1e-5)


def test_a_constant_weight_stays_flat_over_many_masks(lamps, lit):
    """Rounding does not grow with the number of masks, so that no noise is fused."""
    targets = lamps.detect(lit)
    constant = lamps.predict(lamps.prepare(lit).pixels[None])
    lamps.predict = lambda pixels: dc.Proposals(
        *(part.expand(len(pixels), *part.shape[1:]) for part in constant)
    )
    found = dc.explain(lamps, lit, targets, n_masks=6000, batch_size=8, segments=(4, 8), progress=False)
    assert (found.saliency == 0).all()


def test_a_batch_is_no_larger_than_the_masks(lamps, lit):
    lamps.seen.clear()
    run(lamps, lit, lamps.detect(lit), counts=(3, 2), batch_size=10**9)
    assert [len(pixels) for pixels in lamps.seen] == [1, 3, 2]


def test_without_targets_nothing_is_masked(lamps, lit):
    none = lamps.detect(np.zeros_like(lit))
    lamps.seen.clear()
    levels = run(lamps, lit, none)
    assert len(none) == 0 and not lamps.seen
    assert levels[0].saliency.shape == (0, 12, 20) and levels[0].weights.shape == (0, 0)


def test_nan_from_the_detector_is_named(lamps, lit):
    targets = lamps.detect(lit)
    healthy = lamps.predict
    lamps.predict = lambda pixels: healthy(pixels)._replace(
        objectness=torch.full((len(pixels), 2), torch.nan)
    )
    with pytest.raises(FloatingPointError, match="lamps"):
        run(lamps, lit, targets)


def test_ctrl_c_stops_within_a_batch(lamps, lit):
    targets = lamps.detect(lit)
    calls = []

    def interrupted(pixels):
        calls.append(len(pixels))
        raise KeyboardInterrupt

    lamps.predict = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(lamps, lit, targets, counts=(1000, 1000), batch_size=4)
    assert calls == [4]


def test_memory_that_does_not_suffice_halves_the_batch(lamps, lit):
    targets = lamps.detect(lit)
    expected = run(lamps, lit, targets, batch_size=8)
    lamps.predict = out_of_memory_above(3, lamps.predict)
    with pytest.warns(UserWarning, match="going on with batches of [42]") as said:
        got = run(lamps, lit, targets, batch_size=8)
    assert len(said) == 2  # 8 to 4 to 2
    for one, other in zip(got, expected):
        assert np.allclose(one.saliency, other.saliency, atol=1e-6)
        assert np.allclose(one.weights, other.weights, atol=1e-6)


def test_memory_for_not_even_one_image_is_an_error(lamps, lit):
    targets = lamps.detect(lit)

    def none(pixels):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    lamps.predict = none
    with pytest.raises(RuntimeError, match="allocate"), pytest.warns(UserWarning, match="batches of 1"):
        run(lamps, lit, targets, batch_size=2)


# -- budgets


def sample(detector, image, tolerance=None, watch=None, counts=(640, 640), batch_size=4, seed=0):
    canvas, targets = detector.prepare(image), detector.detect(image)

    def finish(levels):
        maps = np.mean([level.saliency for level in levels], axis=0)
        return engine.Maps(maps, sum(len(level.weights) for level in levels))

    made = samplers(canvas.content[2:], seed)
    budget = engine.Budget(tolerance, watch)
    return engine.sample(
        detector, canvas, targets, made, counts, finish, budget=budget, batch_size=batch_size, progress=False
    )


def test_the_error_is_half_of_the_distance_of_two_halves(lamps, lit):
    """Batches go to one half and to the other by turns."""
    canvas, targets = lamps.prepare(lit), lamps.detect(lit)
    with pytest.warns(UserWarning, match=r"after 64 masks a map's error is \d\.\d\d, not 0.01 or less"):
        maps = sample(lamps, lit, tolerance=0.01, counts=(32, 32))
    halves = []
    for first in (0, 4):
        levels = []
        for sampler in samplers(canvas.content[2:]):
            mine = [i for start in range(first, 32, 8) for i in range(start, start + 4)]
            masks = torch.cat([sampler.masks(i, i + 1) for i in mine])  # (16, h, w)
            weights = np.array([run_one(lamps, canvas, targets, mask) for mask in masks])  # (16, n)
            levels.append(
                np.einsum("in,ihw->nhw", weights, masks.numpy()) / np.maximum(masks.sum(0).numpy(), 1e-9)
            )
        halves.append(min_max(np.mean(levels, axis=0)))
    assert np.allclose(maps.error, np.abs(halves[0] - halves[1]) / 2, atol=1e-4)
    size = np.sqrt((min_max(maps.saliency) ** 2).mean((1, 2)))
    assert np.allclose(maps.relative_error, np.sqrt((maps.error**2).mean((1, 2))) / size)


def run_one(detector, canvas, targets, mask):
    pixels = canvas.pixels.clone()
    pixels[:, *canvas.window] *= mask
    boxes, probs = canvas.boxes_to_canvas(targets.boxes), torch.tensor(targets.class_probs)
    return mask_weights(detector.predict(pixels[None]), boxes, probs)[0].numpy()


def test_sampling_stops_when_the_halves_agree(lamps, lit):
    coarse, fine = sample(lamps, lit, tolerance=0.3), sample(lamps, lit, tolerance=0.12)
    assert engine.CHECK <= coarse.n_forward < fine.n_forward < 1280
    assert (coarse.relative_error <= 0.3).all() and (fine.relative_error <= 0.12).all()
    assert sample(lamps, lit).error is None


def test_the_estimated_error_is_about_the_true_one(lamps, lit):
    """Against a map of many more masks, over seeds."""
    truth = min_max(sample(lamps, lit, counts=(20_000, 20_000), batch_size=200, seed=99).saliency)
    estimated, true = [], []
    for seed in range(8):
        maps = sample(lamps, lit, tolerance=0.2, counts=(2000, 2000), seed=seed)
        estimated.append(np.sqrt((maps.error**2).mean()))
        true.append(np.sqrt(((min_max(maps.saliency) - truth) ** 2).mean()))
    assert 0.7 < np.mean(estimated) / np.mean(true) < 1.5


def test_a_watcher_sees_the_maps_grow_and_may_stop_them(lamps, lit, monkeypatch):
    monkeypatch.setattr(engine, "WATCH", 0)
    seen = []

    def watch(maps):
        seen.append(maps)
        return len(seen) == 3

    maps = sample(lamps, lit, watch=watch)
    assert [one.n_forward for one in seen] == [8, 16, 24] and maps.n_forward == 24
    assert np.array_equal(maps.saliency, seen[-1].saliency)
    again = sample(lamps, lit, watch=lambda maps: None)
    assert again.n_forward == 1280
