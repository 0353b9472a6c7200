"""ODAM and G-CAME on a network of one layer, whose gradients are written down."""

import math
import threading

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import dclose_nb as dc

ROWS, COLUMNS = 4, 6
# How much each pixel of the two channels counts: gradients of the score, (2, 4, 6)
READ = np.zeros((2, ROWS, COLUMNS), np.float32)
READ[0, 1, 2], READ[0, 2, 2], READ[1, 1, 3] = 0.02, 0.01, -0.005


class OneLayer(dc.Detector):
    """A box of objectness sum(READ A), from a layer A of red and green, and of class 'a' for sure."""

    def __init__(self):
        super().__init__("one layer", ("a", "b"))
        self.module = torch.nn.Sequential()
        self.module.add_module("pool", torch.nn.AvgPool2d(2))
        self.module.add_module("pick", torch.nn.Conv2d(3, 2, 1, bias=False))
        with torch.no_grad():
            self.module.pick.weight.copy_(torch.eye(3)[:2, :, None, None] / 255)

    @property
    def feature_layers(self):
        return ("pick",)

    def prepare(self, image):
        pixels = torch.tensor(image).permute(2, 0, 1).float()
        return dc.Canvas(pixels, image.shape[:2], (0, 0, *image.shape[:2]))

    def predict(self, pixels):
        objectness = (self.module(pixels) * torch.tensor(READ)).sum((1, 2, 3))[:, None]
        boxes = torch.tensor([[[2.0, 2, 10, 8]]]).expand(len(pixels), 1, 4)
        return dc.Proposals(boxes, objectness, torch.tensor([[[0.8, 0.2]]]).expand(len(pixels), 1, 2))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(60, 256, (2 * ROWS, 2 * COLUMNS, 3), np.uint8)


def features(image):
    return image.reshape(ROWS, 2, COLUMNS, 2, 3).mean((1, 3))[..., :2].transpose(2, 0, 1) / 255  # (2, 4, 6)


def enlarged(small, shape):
    small = torch.tensor(small)[None, None].float()
    return torch.nn.functional.interpolate(small, shape, mode="bilinear")[0, 0].numpy()


TARGET = dc.Targets([[2, 2, 10, 8]], ["a"])


def explained(image, **options):
    found = dc.explain(OneLayer(), image, TARGET, progress=False, **options)
    assert found.n_forward == 1 and found.levels is None
    return found.saliency[0]


@pytest.mark.parametrize(("question", "factor"), [("all", 0.8), ("place", 1.0), ("class", 0.0)])
def test_odam_multiplies_gradients_and_features_pixel_by_pixel(image, question, factor):
    """The class probability is fixed, so that its gradient is 0 and the map of "class" is empty."""
    expected = (factor * READ * features(image)).sum(0).clip(0)
    found = explained(image, method="odam", blur=0, question=question)
    assert np.allclose(found, enlarged(expected, image.shape[:2]), atol=1e-6)


def test_odam_blurs_gradients_but_not_features(image):
    blurred = 0.8 * gaussian_filter(READ, (0, 1, 1), mode="mirror", truncate=3)
    expected = (blurred * features(image)).sum(0).clip(0)
    assert np.allclose(
        explained(image, method="odam"), enlarged(expected, image.shape[:2]), rtol=0.02, atol=1e-5
    )


def test_gcame_by_hand(image):
    total = np.zeros(image.shape[:2])
    for gradient, feature in zip(0.8 * READ, features(image)):
        weight = gradient.mean()
        row, column = np.argwhere(gradient)[0]
        q = math.floor(math.sqrt(ROWS * COLUMNS) - 1) / 2 / 3
        width = abs(math.log(abs(weight)) / q * math.log(2))  # the stride is 2
        gaussian = np.array(
            [
                [math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2)) for x in range(COLUMNS)]
                for y in range(ROWS)
            ]
        )
        gaussian = (gaussian - gaussian.min()) / (gaussian.max() - gaussian.min())
        total += enlarged(weight * gaussian * feature, image.shape[:2])
    assert np.allclose(explained(image, method="gcame"), total.clip(0), rtol=1e-4, atol=1e-7)


def test_gcame_looks_at_the_branch_of_the_classes():
    detector, scene = dc.load_detector("planted", device="cpu"), dc.planted.scene(266)
    layers = detector.class_layers
    assert len(layers) == 6 and all(name.startswith("head.cls_convs.") for name in layers)
    maps = {q: dc.explain(detector, scene.image, method="gcame", question=q) for q in ("class", "place")}
    assert (maps["class"].saliency.max((1, 2)) > 0).all()
    assert (maps["place"].saliency == 0).all()  # another branch decides where an object is


@pytest.mark.parametrize("method", ["odam", "gcame", "gradcam"])
def test_a_detector_without_gradients_is_refused_in_one_line(lamps, lit, method):
    with pytest.raises(dc.InputError, match="'lamps' shows none: take one that looks at outputs") as error:
        dc.explain(lamps, lit, method=method)
    assert "\n" not in str(error.value)


def test_a_box_that_nothing_answers_for_has_an_empty_map(image):
    for method in ("gradcam", "odam", "gcame"):
        far = dc.explain(OneLayer(), image, dc.Targets([[0, 0, 1, 1]], ["a"]), method=method)
        assert (far.saliency == 0).all()


def test_only_the_method_s_own_forward_pass_counts(image):
    """Another thread asks the same network before the method has taken its gradients."""

    class Shared(OneLayer):
        def predict(self, pixels):
            proposals = super().predict(pixels)
            other = threading.Thread(target=self.module, args=(torch.zeros_like(pixels),))
            other.start()
            other.join()
            return proposals

    for method in ("gradcam", "odam", "gcame"):
        alone, shared = (
            dc.explain(one, image, TARGET, method=method, progress=False) for one in (OneLayer(), Shared())
        )
        assert alone.saliency.max() > 0 and np.array_equal(alone.saliency, shared.saliency)


def test_a_layer_can_be_named_where_the_detector_names_none(image):
    class Quiet(OneLayer):
        feature_layers = ()

    target = dc.Targets([[2, 2, 6, 6]], ["a"])
    named, known = Quiet(), OneLayer()
    layer = known.feature_layers[-1]
    expected = dc.explain(known, image, target, method="gradcam", layer=layer).saliency
    assert np.array_equal(dc.explain(named, image, target, method="gradcam", layer=layer).saliency, expected)
    with pytest.raises(dc.InputError, match=r"no layer 'nose': choose one of its module\.named_modules"):
        dc.explain(named, image, target, method="gradcam", layer="nose")


class TwoLevels(OneLayer):
    """The same layer runs twice: on the image, and on a coarser one that counts for nothing."""

    def predict(self, pixels):
        found = super().predict(pixels)
        self.module(pixels[..., ::2, ::2])
        return found


@pytest.mark.parametrize("method", ["odam", "gcame", "gradcam"])
def test_a_layer_that_runs_twice_counts_with_both_outputs(image, method):
    once, twice = (
        dc.explain(detector, image, TARGET, method=method).saliency for detector in (OneLayer(), TwoLevels())
    )
    assert once.any() and np.array_equal(once, twice)
