"""The other methods, against closed forms and step-by-step computations."""

from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest
import torch
from toys import ignore_images

import dclose_nb as dc
from dclose_nb.masks import superpixel_masks, superpixels
from dclose_nb.methods import METHODS, make, options_of
from dclose_nb.methods.contrast import Contrast
from dclose_nb.methods.dclose import Dclose
from dclose_nb.sampling import Plan, sample

SEGMENTS = (4, 8, 16)


def levels_by_hand(detector, image, targets, n_masks):
    """Weighted sums, densities and counts of each level, finest first."""
    canvas = detector.prepare(image)
    content = canvas.pixels[:, *canvas.window].permute(1, 2, 0).round().byte().numpy()
    finest = sorted(SEGMENTS, reverse=True)
    samplers = [superpixel_masks(superpixels(content, n), level=k) for k, n in enumerate(finest)]
    counts = Dclose(n_masks, SEGMENTS).counts
    found = sample(detector, canvas, targets, Plan(samplers, counts), progress=False)
    return [(level.weighted_sum, level.density, count) for level, count in zip(found, counts)]


@pytest.mark.parametrize("density", [True, False])
@pytest.mark.parametrize("fusion", ["cascade", "mean"])
def test_the_four_settings_of_the_ablation(lamps, lit, density, fusion):
    targets = lamps.detect(lit)
    maps = []
    for total, P, count in levels_by_hand(lamps, lit, targets, 64):
        assert (P > 0).all()
        maps.append(total / P if density else total / (count * 0.5))
    if fusion == "mean":
        expected = sum(maps) / len(maps)
    else:
        lows, spans = np.min(maps, (2, 3), keepdims=True), np.ptp(maps, (2, 3), keepdims=True)
        S = (maps - lows) / spans
        expected = (S[0] + S[1]) * S[1]
        expected = (expected + S[2]) * S[2]
    options = {"segments": SEGMENTS, "n_masks": 64, "progress": False}
    found = dc.explain(lamps, lit, targets, density=density, fusion=fusion, **options)
    assert np.allclose(found.levels, maps, atol=1e-6)
    canvas = lamps.prepare(lit)
    assert np.allclose(found.saliency, canvas.maps_to_image(expected.astype(np.float32)), atol=1e-4)


def test_all_settings_come_from_one_run(lamps, lit):
    """As in an evaluation, the levels of one run are fused in several ways."""
    options = {"segments": SEGMENTS, "n_masks": 65}  # one more on the finest level
    found = dc.explain(lamps, lit, **options, progress=False)
    counts, canvas = Dclose(**options).counts, lamps.prepare(lit)
    for setting in ({"density": d, "fusion": f} for d in (True, False) for f in ("cascade", "mean")):
        alone = dc.explain(lamps, lit, **setting, **options, progress=False)
        together = Dclose(**setting, **options).fuse(found.levels, found.density, counts).saliency
        assert np.allclose(alone.saliency, canvas.maps_to_image(together), atol=1e-5)
    mfpp = dc.explain(lamps, lit, method="mfpp", **options, progress=False)
    assert np.allclose(mfpp.saliency, canvas.maps_to_image(together), atol=1e-5)
    assert mfpp.params["segments"] == SEGMENTS and mfpp.n_forward == 66


def test_contrast_mask_by_mask(lamps, lit):
    """Kept minus hidden, averaged with coarser levels, negatives times 1/20, then the cascade."""
    targets = lamps.detect(lit)
    found = dc.explain(
        lamps, lit, targets, method="contrast", segments=SEGMENTS, n_masks=60, seed=2, progress=False
    )
    canvas = lamps.prepare(lit)
    finest, counts = sorted(SEGMENTS, reverse=True), Contrast(60, SEGMENTS).counts
    assert counts == sorted(counts) and found.n_forward == sum(counts) == 60
    samplers = [
        superpixel_masks(superpixels(canvas.content_image, n), level=k, seed=2) for k, n in enumerate(finest)
    ]
    results = sample(lamps, canvas, targets, Plan(samplers, counts), progress=False)
    contrasts = []
    for sampler, result, count in zip(samplers, results, counts):
        kept, hidden, keeps, hides = (np.zeros_like(found.levels[0], dtype=float) for _ in range(4))
        for number in range(count):
            M = sampler.masks(number, number + 1)[0].numpy().astype(float)
            w = result.weights[number][:, None, None]
            kept, keeps, hidden, hides = kept + w * M, keeps + M, hidden + w * (1 - M), hides + 1 - M
        assert keeps.min() > 0 and hides.min() > 0
        contrasts.append(kept / keeps - hidden / hides)
    A, harmful = None, []
    for k, level in enumerate(found.levels):
        S = sum(contrasts[k:]) / len(contrasts[k:])
        harmful.append((S < 0).any())
        S[S < 0] /= 20
        assert np.allclose(level, S, atol=1e-6)
        S = (S - S.min((1, 2), keepdims=True)) / np.ptp(S, (1, 2), keepdims=True)
        A = S if A is None else (A + S) * S
    assert any(harmful)
    assert np.allclose(found.saliency, canvas.maps_to_image(A.astype(np.float32)), atol=1e-4)


@pytest.mark.parametrize("n_masks", [6, 7, 200, 1001])
def test_the_budget_of_contrast(n_masks):
    """At least two masks for each level, and the rest in proportion to superpixel size."""
    counts = Contrast(n_masks, (100, 200, 400)).counts
    assert sum(counts) == n_masks and min(counts) >= 2
    assert np.allclose(counts, 2 + (n_masks - 6) * np.array([1, 2, 4]) / 7, atol=1)


def test_sodex_is_a_weighted_ridge_regression(lamps, lit):
    """Compare with the normal equations."""
    targets = lamps.detect(lit)
    found = dc.explain(lamps, lit, targets, method="sodex", n_masks=50, segments=6, seed=3, progress=False)
    canvas = lamps.prepare(lit)
    labels = superpixels(canvas.pixels[:, *canvas.window].permute(1, 2, 0).round().byte().numpy(), 6)
    sampler = superpixel_masks(labels, r=0, seed=3)
    (result,) = sample(lamps, canvas, targets, Plan([sampler], [50]), progress=False)
    Z = np.array(
        [[sampler.masks(i, i + 1)[0].numpy()[labels == s][0] for s in np.unique(labels)] for i in range(50)]
    )
    cosine = Z.sum(1) / np.maximum(np.sqrt(Z.sum(1) * Z.shape[1]), 1e-12)
    near = np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.25**2))
    centred = Z - near @ Z / near.sum()
    for k in range(len(targets)):
        y = result.weights[:, k] - near @ result.weights[:, k] / near.sum()
        normal = centred.T @ (near[:, None] * centred) + np.eye(Z.shape[1])
        coefficients = np.linalg.solve(normal, centred.T @ (near * y))
        expected = coefficients[np.searchsorted(np.unique(labels), labels)]
        assert np.allclose(found.saliency[k], canvas.maps_to_image(expected[None])[0], atol=1e-4)
    assert found.saliency.min() < 0 < found.saliency.max()


class TwoChannels(dc.Detector):
    """One box of objectness 0.3 mean(A_0) - 0.2 mean(A_1) + 0.5, from a layer A of two channels."""

    def __init__(self):
        super().__init__("two channels", ("a", "b"))
        self.module = torch.nn.Sequential()
        self.module.add_module("pool", torch.nn.AvgPool2d(2))
        self.module.add_module("mix", torch.nn.Conv2d(3, 2, 1, bias=False))
        with torch.no_grad():
            self.module.mix.weight.copy_(torch.tensor([[0.004, 0, 0], [0, 0.004, 0.0]])[..., None, None])

    @property
    def feature_layers(self):
        return ("mix",)

    def prepare(self, image):
        pixels = torch.tensor(image).permute(2, 0, 1).float()
        return dc.Canvas(
            torch.nn.functional.pad(pixels, (0, 2, 0, 4)), image.shape[:2], (0, 0, *image.shape[:2])
        )

    def predict(self, pixels):
        A = self.module(pixels)
        objectness = (0.3 * A[:, :1].mean((2, 3)) - 0.2 * A[:, 1:].mean((2, 3)) + 0.5).clamp(0, 1)
        boxes = torch.tensor([[[0.0, 0, 8, 8]]]).expand(len(pixels), 1, 4)
        return dc.Proposals(boxes, objectness, torch.tensor([[[0.8, 0.2]]]).expand(len(pixels), 1, 2))


def test_grad_cam_in_closed_form():
    """Each channel's weight is its factor divided by the number of pixels; negatives become 0."""
    detector, image = TwoChannels(), np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    found = dc.explain(detector, image, detector.detect(image), method="gradcam")
    canvas = detector.prepare(image)
    A = detector.module(canvas.pixels[None]).detach()[0]  # (2, 8, 9), padding included
    score = 0.8  # the probability of the label; the gradient goes through the objectness
    weights = score * np.array([0.3, -0.2]) / A[0].numel()
    expected = torch.tensor(weights[0] * A[0].numpy() + weights[1] * A[1].numpy()).clamp(min=0)
    enlarged = torch.nn.functional.interpolate(expected[None, None].float(), (16, 18), mode="bilinear")[0, 0]
    assert np.allclose(found.saliency[0], enlarged[:12, :16].numpy(), rtol=1e-4, atol=1e-9)
    assert found.n_forward == 1 and found.params == {"layer": None} and found.levels is None
    assert np.array_equal(
        dc.explain(detector, image, detector.detect(image), method="gradcam", layer="mix").saliency,
        found.saliency,
    )


@pytest.mark.parametrize(("name", "differ"), [("planted", True), ("planted_two_stage", False)])
def test_grad_cam_uses_the_layer_that_made_the_box(name, differ):
    """The last that has a gradient. With two stages, large objects of scenes lie on the finest, too."""
    detector, drawn = dc.load_detector(name, device="cpu"), dc.planted.scene(266)
    found = detector.detect(drawn.image)
    large, small = (found[found.names.index(label)] for label in ("taxi", "house"))
    layers = detector.feature_layers

    def by(target, layer=None):
        return dc.explain(detector, drawn.image, target, method="gradcam", layer=layer).saliency[0]

    for target, coarse in ((small, False), (large, True)):
        used = [layer for layer in layers if by(target, layer).max() > 0]
        assert np.array_equal(by(target), by(target, used[-1]))
        assert (used[-1] != layers[0]) == (coarse and differ)


def test_bad_options(lamps, lit):
    network, image = TwoChannels(), np.full((12, 16, 3), 90, np.uint8)
    for detector, photo, options, word in (
        (
            network,
            image,
            {"method": "gradcam", "layer": "nose"},
            "no layer 'nose': .* are made by mix",
        ),
        (network, image, {"method": "gradcam", "layer": 3}, "layer must be"),
        (
            network,
            image,
            {"method": "gradcam", "n_masks": 9},
            "no option 'n_masks'; it has: layer",
        ),
        (lamps, lit, {"method": "sodex", "segments": 0}, "segments"),
        (lamps, lit, {"method": "mfpp", "p": 1.5}, "p must be"),
        (lamps, lit, {"method": "contrast", "n_masks": 9}, "at least two for each of 5 levels, got 9"),
        (lamps, lit, {"method": "contrast", "density": False}, "'contrast' has no option 'density'"),
        (lamps, lit, {"method": "mfpp", "order": "coarse_to_fine"}, "'mfpp' has no option 'order'"),
        (lamps, lit, {"density": 1}, "density must be True or False"),
        (lamps, lit, {"fusion": "sum"}, "fusion must be one of 'cascade', 'mean'"),
    ):
        with pytest.raises(dc.InputError, match=word):
            dc.explain(detector, photo, progress=False, **options)
    assert len(dc.explain(network, image, method="gradcam", seed=4, batch_size=2)) == 1  # it has no effect


def test_options_are_stored_as_plain_numbers():
    method = make("dclose", n_masks=np.int64(50), segments=[np.int32(10), 20], p=np.float64(0.25))
    assert asdict(method)["segments"] == (10, 20) and asdict(method)["n_masks"] == 50
    assert {type(value) for value in (method.n_masks, method.segments[0], method.p)} == {int, float}
    with pytest.raises(FrozenInstanceError):
        method.p = 0.5


def test_without_targets_the_maps_are_empty(lamps, lit):
    for method in ("contrast", "mfpp", "sodex"):
        found = dc.explain(lamps, np.zeros_like(lit), method=method, progress=False)
        assert found.saliency.shape == (0, *lit.shape[:2])


@pytest.mark.parametrize(("name", "options"), [
    ("dclose", {"segments": [[1, 2], [3]]}), ("dclose", {"segments": np.array(10)}),
    ("drise", {"grid": ((1, 2), 3)}), ("drise", {"grid": "ab"}),
])  # fmt: skip
def test_lists_of_another_form_are_refused(name, options):
    with pytest.raises(dc.InputError, match=f"{next(iter(options))} must be"):
        make(name, **options)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_gives_can_be_kept(method, tmp_path):
    detector, image = dc.load_detector("planted", device="cpu"), dc.planted.scene(1).image
    options = {"regions": 4} if method == "greedy" else {}
    options |= {"n_masks": 10} if "n_masks" in options_of(method) else {}
    found = dc.explain(detector, image, method=method, progress=False, **options)
    again = dc.Explanation.load(found.save(tmp_path))
    assert again.n_forward == found.n_forward and np.array_equal(again.saliency, found.saliency)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("greedy", {"regions": 6}),
        ("sodex", {"segments": 6, "n_masks": 40}),
        *((method, {"segments": (4, 8), "n_masks": 40}) for method in ("dclose", "contrast", "regression")),
    ],
)
def test_a_detector_that_ignores_the_image_has_empty_maps(lamps, lit, method, options):
    targets = lamps.detect(lit)
    ignore_images(lamps, lit)
    assert (dc.explain(lamps, lit, targets, method=method, progress=False, **options).saliency == 0).all()
