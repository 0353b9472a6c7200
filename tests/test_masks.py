import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.segmentation import slic

from dclose_nb import InputError, masks
from dclose_nb.masks import grid_masks, superpixel_masks, superpixels

RNG = np.random.default_rng(4)
LABELS = RNG.integers(0, 30, (23, 31))


def test_superpixels_of_four_quadrants():
    image = np.zeros((20, 22, 3), np.uint8)
    image[:10, 11:], image[10:, :11], image[10:, 11:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    labels = superpixels(image, 4)
    # smoothing moves an edge by a pixel at most
    quadrants = labels[:9, :10], labels[:9, 12:], labels[11:, :10], labels[11:, 12:]
    assert all((quadrant == quadrant[0, 0]).all() for quadrant in quadrants)
    assert sorted(quadrant[0, 0] for quadrant in quadrants) == [0, 1, 2, 3]


def test_a_photo_is_cut_once_and_a_changed_result_changes_no_other(monkeypatch):
    asked = []
    monkeypatch.setattr(masks, "slic", lambda image, **options: asked.append(image) or slic(image, **options))
    image = np.random.default_rng(5).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    first, second = superpixels(image, 10), superpixels(image.copy(), 10)
    assert len(asked) == 1 and np.array_equal(first, second)
    second[:] = 0
    assert np.array_equal(superpixels(image, 10), first) and first.any()
    superpixels(image, 11)
    superpixels(image.reshape(30, 20, 3), 10)
    image[0, 0] ^= 1
    superpixels(image, 10)
    assert len(asked) == 4
    masks.forget_superpixels()
    assert np.array_equal(superpixels(image, 10), superpixels(image, 10)) and len(asked) == 5


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3)])
def test_small_images_have_superpixels_too(shape):
    labels = superpixels(np.zeros((*shape, 3), np.uint8), 2400)
    assert labels.shape == shape and set(labels.ravel()) == set(range(labels.max() + 1))


def as_the_paper_says(sampler, labels, r, offset, number):
    """Section 3.1: enlarge the whole mask, then crop it."""
    h, w = labels.shape
    big = F.interpolate(
        sampler.pattern(number)[None, None],
        (math.floor((r + 1) * h), math.floor((r + 1) * w)),
        mode="bilinear",
        align_corners=False,
    )[0, 0]
    return big[offset[0] : offset[0] + h, offset[1] : offset[1] + w]


@pytest.mark.parametrize("r", [0, 0.5, 2.2])
def test_a_mask_is_a_crop_of_the_enlarged_mask(r):
    sampler = superpixel_masks(LABELS, r=r)
    masks = sampler.masks(0, 20)
    for number, mask in enumerate(masks):
        expected = as_the_paper_says(sampler, LABELS, r, sampler._offset(number), number)
        assert torch.allclose(mask, expected, atol=1e-5)


@pytest.mark.parametrize("step", [1, 2, 5, 40])
def test_coarse_masks_are_every_so_many_pixels(step):
    for sampler in (superpixel_masks(LABELS), grid_masks((23, 31), grid=(4, 4))):
        expected = sampler.masks(0, 9)[[7, 2, 2]][:, ::step, ::step]
        assert torch.equal(sampler.coarse_masks([7, 2, 2], step), expected)


def test_without_an_offset_masks_keep_the_superpixels_edges():
    sampler = superpixel_masks(LABELS, r=0)
    assert torch.equal(sampler.masks(3, 4)[0], sampler.pattern(3))


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_the_mean_of_the_masks_is_p(p):
    """Each pixel's mean over N masks is p within five standard errors; a pixel's sd is sqrt(pq) at most."""
    n = 400
    for sampler in (superpixel_masks(LABELS, p=p), grid_masks((23, 31), grid=(4, 4), p=p)):
        mean = sampler.masks(0, n).mean(0)
        assert (mean - p).abs().max() < 5 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize(
    "make", [lambda **k: superpixel_masks(LABELS, **k), lambda **k: grid_masks((23, 31), **k)]
)
def test_a_mask_depends_on_its_seed_and_number_alone(make):
    masks = make(seed=7).masks(0, 12)
    assert torch.equal(torch.cat([make(seed=7).masks(a, a + 3) for a in range(0, 12, 3)]), masks)
    assert torch.equal(make(seed=7).masks(5, 6)[0], masks[5])
    assert not torch.equal(make(seed=8).pattern(0), make(seed=7).pattern(0))


def test_offsets_are_uniform_and_change_with_seed_and_level():
    """Chi-square over the 12 offsets of 3 x 4, 1200 draws: beyond 35 once in 4000 times."""
    labels = np.zeros((2, 3), int)
    draws = {}
    for seed, level in ((0, 0), (1, 0), (0, 1)):
        sampler = superpixel_masks(labels, r=1, seed=seed, level=level)
        offsets = [sampler._offset(number) for number in range(1200)]
        counts = np.bincount([y * 4 + x for y, x in offsets], minlength=12)
        assert ((counts - 100) ** 2 / 100).sum() < 35
        draws[seed, level] = offsets
    assert draws[0, 0] != draws[1, 0] != draws[0, 1] != draws[0, 0]


def test_cells_are_kept_independently():
    """Over 2000 masks no two cells are correlated: correlations scatter by 1 / sqrt(2000)."""
    sampler = superpixel_masks(np.arange(9).reshape(3, 3))
    kept = torch.stack([sampler.pattern(number).flatten() for number in range(2000)])
    correlation = np.corrcoef(kept.T.numpy())[~np.eye(9, dtype=bool)]
    assert np.abs(correlation).max() < 5 / math.sqrt(2000)


def test_slic_has_the_authors_parameters():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    labels = slic(image, n_segments=50, compactness=10, sigma=1, start_label=0)
    assert np.array_equal(superpixels(image, 50), np.searchsorted(np.unique(labels), labels))


def test_levels_draw_different_patterns():
    first, second = (superpixel_masks(LABELS, level=level).pattern(0) for level in (0, 1))
    assert not torch.equal(first, second)


def test_the_authors_cut_many_crops_from_one_draw():
    sampler = superpixel_masks(LABELS, crops_per_draw=4)
    patterns = [sampler.pattern(number) for number in range(8)]
    assert all(torch.equal(patterns[k], patterns[0]) for k in (1, 2, 3))
    assert not torch.equal(patterns[4], patterns[0])
    assert len({sampler._offset(number) for number in range(4)}) > 1
    fresh = superpixel_masks(LABELS)
    assert not torch.equal(fresh.pattern(1), fresh.pattern(0))


def test_grid_masks_are_those_of_rise():
    """As in RISE: enlarge the grid by (s + 1) cells, crop within one cell."""
    sampler = grid_masks((30, 44), grid=(4, 5))
    for number, mask in enumerate(sampler.masks(0, 10)):
        cell_h, cell_w = 8, 9
        big = F.interpolate(
            sampler.pattern(number)[None, None],
            (5 * cell_h, 6 * cell_w),
            mode="bilinear",
            align_corners=False,
        )[0, 0]
        y, x = sampler._offset(number)
        assert 0 <= y <= cell_h and 0 <= x <= cell_w
        assert torch.allclose(mask, big[y : y + 30, x : x + 44], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"p": 0}, {"p": 1}, {"r": -1}, {"r": math.nan}, {"seed": -1}, {"level": -1}, {"crops_per_draw": 0}],
)
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))} must be "):
        superpixel_masks(LABELS, **options)


def test_bad_grids_and_labels_are_refused():
    with pytest.raises(InputError, match="grid"):
        grid_masks((9, 9), grid=(0, 4))
    for shape in (9, (0, 4), (1.5, 4), (3, 4, 5), "ab"):
        with pytest.raises(InputError, match="shape must be"):
            grid_masks(shape)
    for labels in (np.zeros((0, 3)), [["a"]], [[1], [0, 1]], [[0.5, 1]], [[np.nan, 0]], [[10**12, 0]], None):
        with pytest.raises(InputError, match="labels must be"):
            superpixel_masks(labels)
    with pytest.raises(InputError, match="n_segments"):
        superpixels(np.zeros((4, 4, 3), np.uint8), 0)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), ("a", 2), (0, "b"), (0, 1.5)])
def test_numbers_of_masks_out_of_range_are_refused(start, stop):
    with pytest.raises(InputError, match=r"st(art|op) must be an integer of at least"):
        grid_masks((9, 9)).masks(start, stop)
    with pytest.raises(InputError, match="number must be an integer"):
        grid_masks((9, 9)).pattern(-1)


@pytest.mark.parametrize("r", [1001, 1e9, float("inf")])
def test_masks_are_not_enlarged_beyond_memory(r):
    with pytest.raises(InputError, match=r"r must be a number from 0 to 1000, got"):
        superpixel_masks(np.zeros((4, 4), int), r=r)


def test_a_grid_has_no_more_cells_than_memory_takes():
    with pytest.raises(InputError, match="grid must be an integer from 1 to 1000, got 100000"):
        grid_masks((20, 20), grid=(100_000, 100_000))
