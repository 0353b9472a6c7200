"""Greedy search over regions, against the closed form of a linear detector."""

import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb.masks import superpixels


@pytest.fixture
def patches():
    """An image of patches, of which some lie in the lamps and none is as bright as another."""
    bright = np.random.default_rng(3).permutation(np.arange(100, 250, 10))[:15].reshape(3, 5)
    return np.repeat(np.kron(bright, np.ones((4, 4)))[..., None], 3, axis=2).astype(np.uint8)  # (12, 20, 3)


def test_a_linear_detector_orders_regions_by_what_each_adds(lamps, patches):
    """Each region adds its share of the brightness to both terms of F, whatever is shown beside it."""
    regions = 12
    found = dc.explain(lamps, patches, lamps.detect(patches), method="greedy", regions=regions)
    labels = superpixels(patches, regions)
    m = int(labels.max()) + 1
    assert found.n_forward == len(found) * m * (m + 1)  # the targets were given
    for saliency, one in zip(found.saliency, found.detections):
        x1, y1, x2, y2 = one.boxes[0].astype(int)
        box = np.zeros(labels.shape)
        box[y1:y2, x1:x2] = patches[y1:y2, x1:x2].mean(-1) / 255
        adds = np.bincount(labels.ravel(), box.ravel(), m) / box[y1:y2, x1:x2].size
        order = np.argsort(-adds, kind="stable")
        values = [2 * sum(adds[order[place:]]) for place in range(m)]  # its own share and all later ones
        assert (adds > 0).sum() > 2
        assert np.allclose(saliency, np.array(values)[np.argsort(order)][labels], atol=1e-5)


def test_a_region_that_holds_the_whole_object_is_alone_on_the_map(lamps, lit):
    lamp = type(lamps)([[0, 0, 2, 2]], [[0.9, 0.1]])
    target = dc.Targets([[0, 0, 2, 2]], ["a"])
    found = dc.explain(lamp, lit, target, method="greedy", regions=6, progress=False)
    labels = superpixels(lit, 6)
    assert len(np.unique(labels[:2, :2])) == 1
    inside = labels == labels[0, 0]
    assert (found.saliency[0][inside] > 0).all() and np.allclose(found.saliency[0][~inside], 0, atol=1e-6)


def test_more_regions_than_pixels(lamps, lit):
    lamp = type(lamps)([[0, 0, 2, 2]], [[0.9, 0.1]])
    found = dc.explain(lamp, lit[:2, :3], method="greedy", regions=50, progress=False)
    assert found.saliency.shape == (1, 2, 3) and found.n_forward == 1 + 6 * 7


def test_an_object_that_no_region_raises_has_an_empty_map(lamps, lit):
    found = dc.explain(lamps, lit, dc.Targets([[8, 0, 9, 1]], ["a"]), method="greedy", regions=6)
    assert (found.saliency == 0).all()


def test_bad_regions(lamps, lit):
    for regions in (0, 1.5, 10_000):
        with pytest.raises(dc.InputError, match="regions must be"):
            dc.explain(lamps, lit, method="greedy", regions=regions)


def test_the_network_sees_no_more_images_at_once_than_asked(lamps, lit):
    maps, most = [], []
    for size in (2, 64):
        lamps.seen.clear()
        options = {"regions": 6, "batch_size": size, "progress": False}
        maps.append(dc.explain(lamps, lit, lamps.detect(lit), method="greedy", **options).saliency)
        most.append(max(map(len, lamps.seen)))
    assert most[0] == 2 < most[1] and np.array_equal(*maps)
