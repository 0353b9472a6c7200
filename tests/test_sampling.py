"""The loop of section 3.5 against the paper's steps, for all batch sizes, and with too little memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from toys import ignore_images, out_of_memory_above, plain_loop

import dclose_nb as dc
from dclose_nb.masks import grid_masks, superpixel_masks
from dclose_nb.sampling import Plan, Sampling, sample
from dclose_nb.similarity import QUESTIONS


def plan(shape, counts=(11, 6), *, seed=0, filtered=False):
    labels = np.random.default_rng(5).integers(0, 9, shape)
    samplers = [superpixel_masks(labels, seed=seed, r=1), grid_masks(shape, grid=(3, 3), seed=seed)]
    return Plan(samplers, counts, filtered)


def levels_of(detector, image, targets=None, *, counts=(11, 6), seed=0, **options):
    canvas = detector.prepare(image)
    targets = detector.detect(image) if targets is None else targets
    return sample(
        detector, canvas, targets, plan(canvas.content[2:], counts, seed=seed), progress=False, **options
    )


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
    levels = levels_of(lamps, lit, counts=(11, 6), batch_size=4)
    for level, count in zip(levels, (11, 6)):
        saliency, density, weights = by_the_loop(lamps, lit, targets, level.sampler, count)
        assert weights.min() >= 0 and weights.std() > 0
        assert np.allclose(level.saliency, saliency, atol=1e-5)
        assert np.allclose(level.density, density, atol=1e-5)
        assert np.allclose(level.weights, weights, atol=1e-5)


@pytest.mark.parametrize("overlap", ["box", "mask"])
@pytest.mark.parametrize("filtered", [False, True])
def test_batches_give_what_the_plain_loop_gives(shapes, lit, filtered, overlap):
    canvas, targets = shapes.prepare(lit), shapes.detect(lit)
    planned = plan(lit.shape[:2], (25, 13), filtered=filtered)._replace(overlap=overlap)
    batches = sample(shapes, canvas, targets, planned, batch_size=4, progress=False)
    for level, plain in zip(batches, plain_loop(shapes, canvas, targets, planned)):
        assert plain.weights.std() > 0 and level.sampler is plain.sampler
        assert np.allclose(level.weights, plain.weights, atol=1e-6)
        assert np.allclose(level.weighted_sum, plain.weighted_sum, atol=1e-5)
        assert np.allclose(level.density, plain.density, atol=1e-5)


def test_only_the_image_is_masked(lamps, lit):
    """The network sees the image times the mask, with unchanged padding around it."""
    canvas = lamps.prepare(lit)
    lamps.seen.clear()
    levels_of(lamps, lit, lamps.detect(lit), counts=(3, 0), batch_size=2)
    seen = torch.cat(lamps.seen[1:])  # the first call detects
    masks = plan(lit.shape[:2]).samplers[0].masks(0, 3)
    assert torch.allclose(seen[:, :, *canvas.window], canvas.pixels[:, *canvas.window] * masks[:, None])
    outside = torch.ones_like(canvas.pixels[0], dtype=torch.bool)
    outside[canvas.window] = False
    assert len(seen) == 3 and (seen[:, :, outside] == 114).all()


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_batch_size_changes_nothing(lamps, lit, batch_size):
    found, expected = (levels_of(lamps, lit, batch_size=size) for size in (batch_size, 5))
    for level, wanted in zip(found, expected):
        assert np.allclose(level.saliency, wanted.saliency, atol=1e-6)
        assert np.allclose(level.density, wanted.density, atol=1e-6)


def test_another_seed_gives_another_map(lamps, lit):
    first, second = levels_of(lamps, lit, seed=0)[0], levels_of(lamps, lit, seed=1)[0]
    assert np.abs(first.saliency - second.saliency).max() > 1e-3


def test_targets_are_explained_together_as_alone(lamps, lit):
    targets = lamps.detect(lit)
    together = levels_of(lamps, lit, targets)
    for n in range(2):
        for level, alone in zip(together, levels_of(lamps, lit, targets[n])):
            assert np.allclose(level.saliency[n], alone.saliency[0], atol=1e-6)


def test_a_constant_weight_gives_a_flat_map(lamps, lit):
    """A detector that ignores the masks. The density removes how often a pixel was kept."""
    targets = lamps.detect(lit)
    ignore_images(lamps, lit)
    level = levels_of(lamps, lit, targets)[0]
    assert np.ptp(level.density) > 1
    assert np.allclose(level.saliency, targets.objectness[:, None, None], atol=1e-5)


def test_a_constant_weight_stays_flat_over_many_masks(lamps, lit):
    """Rounding errors do not grow with the number of masks, so that no noise is fused."""
    targets = lamps.detect(lit)
    ignore_images(lamps, lit)
    found = dc.explain(lamps, lit, targets, n_masks=6000, batch_size=8, segments=(4, 8), progress=False)
    assert (found.saliency == 0).all()


def test_masks_are_sampled_once(lamps, lit):
    plan = Plan([grid_masks(lit.shape[:2], grid=(2, 3))], [20])
    sampling = Sampling(lamps, lamps.prepare(lit), lamps.detect(lit), plan, batch_size=4, progress=False)
    next(iter(sampling))
    with pytest.raises(RuntimeError, match="make another Sampling"):
        next(iter(sampling))


def test_a_batch_is_no_larger_than_the_masks(lamps, lit):
    lamps.seen.clear()
    levels_of(lamps, lit, lamps.detect(lit), counts=(3, 2), batch_size=10**9)
    assert [len(pixels) for pixels in lamps.seen] == [1, 3, 2]


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "8", True])
def test_a_batch_holds_at_least_one_mask(lamps, lit, batch_size):
    with pytest.raises(dc.InputError, match="batch_size must be an integer of at least 1"):
        levels_of(lamps, lit, batch_size=batch_size)


def test_without_targets_nothing_is_masked(lamps, lit):
    none = lamps.detect(np.zeros_like(lit))
    lamps.seen.clear()
    levels = levels_of(lamps, lit, none)
    assert len(none) == 0 and not lamps.seen
    assert levels[0].saliency.shape == (0, 12, 20) and levels[0].weights.shape == (0, 0)


@pytest.mark.parametrize("question", QUESTIONS)
def test_nan_from_the_detector_is_named(lamps, lit, question):
    targets = lamps.detect(lit)
    healthy = lamps.predict
    lamps.predict = lambda pixels: healthy(pixels)._replace(
        objectness=torch.full((len(pixels), 2), torch.nan)
    )
    with pytest.raises(FloatingPointError, match="lamps"):
        dc.explain(lamps, lit, targets, n_masks=10, question=question, progress=False)


def test_ctrl_c_stops_within_a_batch(lamps, lit):
    targets = lamps.detect(lit)
    calls = []

    def interrupted(pixels):
        calls.append(len(pixels))
        raise KeyboardInterrupt

    lamps.predict = interrupted
    with pytest.raises(KeyboardInterrupt):
        levels_of(lamps, lit, targets, counts=(1000, 1000), batch_size=4)
    assert calls == [4]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        MemoryError(),
        Fail("Failed to allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_too_little_memory_halves_the_batch(lamps, lit, error):
    targets = lamps.detect(lit)
    expected = levels_of(lamps, lit, targets, batch_size=8)
    lamps.predict = out_of_memory_above(3, lamps.predict, error)
    with pytest.warns(UserWarning, match="going on with batches of 2") as warned:
        got = levels_of(lamps, lit, targets, batch_size=8)
    assert [one.filename for one in warned] == [__file__]
    for level, wanted in zip(got, expected):
        assert np.allclose(level.saliency, wanted.saliency, atol=1e-6)
        assert np.allclose(level.weights, wanted.weights, atol=1e-6)


def test_too_little_memory_for_one_image_is_an_error(lamps, lit):
    targets = lamps.detect(lit)

    def none(pixels):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    lamps.predict = none
    with pytest.raises(RuntimeError, match="allocate"):
        levels_of(lamps, lit, targets, batch_size=2)


@pytest.mark.parametrize("batch_size", [3, 4, 64])
def test_draws_go_alternately_to_two_halves(lamps, lit, batch_size):
    canvas, targets = lamps.prepare(lit), lamps.detect(lit)
    planned = plan(lit.shape[:2], (32, 32))
    planned.samplers[1] = replace(planned.samplers[1], crops_per_draw=4)
    sampling = Sampling(lamps, canvas, targets, planned, batch_size=batch_size, halves=2, progress=False)
    assert list(sampling)[-1] == 64
    for half in (0, 1):
        for k, (level, draw) in enumerate(zip(sampling.levels(half), (1, 4))):
            numbers = [i for i in range(32) if i // draw % 2 == half]
            masks = torch.cat([planned.samplers[k].masks(i, i + 1) for i in numbers])  # (16, h, w)
            weights = plain_loop(lamps, canvas, targets, planned)[k].weights[numbers]
            assert np.allclose(level.weights, weights, atol=1e-6)
            assert np.allclose(level.weighted_sum, np.einsum("in,ihw->nhw", weights, masks), atol=1e-5)
            assert np.allclose(level.density, masks.sum(0), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_at_a_stop_every_level_has_its_share(lamps, lit, batch_size):
    canvas, targets = lamps.prepare(lit), lamps.detect(lit)
    planned, seen = plan(lit.shape[:2], (20, 10)), {}
    options = {"batch_size": batch_size, "stops": (7, 15), "progress": False}
    sampling = Sampling(lamps, canvas, targets, planned, **options)
    for taken in sampling:
        seen[taken] = [len(level.weights) for level in sampling.levels()]
    assert sampling.stops == {6, 15}  # 4 + 2, and 10 + 5: shares are rounded down
    assert (seen[6], seen[15], seen[30]) == ([4, 2], [10, 5], [20, 10])


def test_levels_do_not_change_once_they_are_given(lamps, lit):
    canvas, targets = lamps.prepare(lit), lamps.detect(lit)
    planned = plan(canvas.content[2:], (20, 20), seed=0)
    sampling = Sampling(lamps, canvas, targets, planned, stops=(20,), halves=2, progress=False)
    given = []
    for taken in sampling:
        if taken == 20:
            given = [sampling.levels(half) for half in (None, 0)]
            before = [levels[0].density.copy() for levels in given]
    assert all(np.array_equal(levels[0].density, old) for levels, old in zip(given, before, strict=True))


@pytest.mark.parametrize("options", [{"stops": [31]}, {"stops": ["a"]}, {"halves": 3}, {"halves": "2"}])
def test_stops_and_halves_out_of_range_are_refused(lamps, lit, options):
    with pytest.raises(dc.InputError, match=r"(stops|halves) must be an integer from 1 to"):
        Sampling(lamps, lamps.prepare(lit), lamps.detect(lit), plan(lit.shape[:2], (20, 10)), **options)


def test_the_levels_so_far_can_be_read_at_any_time(lamps, lit):
    canvas, targets = lamps.prepare(lit), lamps.detect(lit)
    sampling = Sampling(lamps, canvas, targets, plan(lit.shape[:2], (8, 8)), batch_size=4, progress=False)
    assert next(iter(sampling)) == 8
    expected = sample(lamps, canvas, targets, plan(lit.shape[:2], (4, 4)), progress=False)
    for level, wanted in zip(sampling.levels(), expected):
        assert np.allclose(level.saliency, wanted.saliency, atol=1e-6) and len(level.weights) == 4
