import json
import math
import time
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch.nn.functional as F
from toys import Lamps, plain_loop

import dclose_nb as dc
from dclose_nb.fusion import cascade, min_max
from dclose_nb.masks import grid_masks, superpixel_masks, superpixels
from dclose_nb.methods import make
from dclose_nb.sampling import Plan, sample


def test_the_seven_steps_against_a_loop(lamps, lit):
    """All steps of section 3.5, without the loop, density and fusion of the package."""
    segments, n_masks, p, r = (4, 8, 16), 30, 0.4, 1.5
    found = dc.explain(lamps, lit, n_masks=n_masks, segments=segments, p=p, r=r, seed=3, progress=False)
    h, w = lit.shape[:2]
    for n in range(2):
        fused = None
        for level, n_segments in enumerate((16, 8, 4)):
            sampler = superpixel_masks(superpixels(lit, n_segments), p=p, r=r, seed=3, level=level)
            weighted, density = np.zeros((h, w)), np.zeros((h, w))
            for number in range(n_masks // 3):
                big = F.interpolate(
                    sampler.pattern(number)[None, None],
                    (math.floor((r + 1) * h), math.floor((r + 1) * w)),
                    mode="bilinear",
                )[0, 0]
                y, x = sampler._offset(number)
                mask = big[y : y + h, x : x + w].double().numpy()
                x1, y1, x2, y2 = found.detections.boxes[n].astype(int)
                weight = (lit * mask[:, :, None])[y1:y2, x1:x2].mean() / 255
                weighted += weight * mask
                density += mask
            saliency = weighted / density
            assert np.allclose(found.levels[level, n], saliency, atol=1e-5)
            scaled = (saliency - saliency.min()) / (saliency.max() - saliency.min())
            fused = scaled if fused is None else (fused + scaled) * scaled
        assert np.allclose(found.saliency[n], fused, atol=1e-4)


def test_drise_is_the_weighted_sum_over_n_p(lamps, lit):
    found = dc.explain(lamps, lit, method="drise", n_masks=12, grid=(3, 4), p=0.3, progress=False)
    masks = grid_masks((12, 20), grid=(3, 4), p=0.3).masks(0, 12).numpy()
    for n in range(2):
        x1, y1, x2, y2 = found.detections.boxes[n].astype(int)
        weights = [(lit * mask[:, :, None])[y1:y2, x1:x2].mean() / 255 for mask in masks]
        expected = np.einsum("k,khw->hw", weights, masks) / (12 * 0.3)
        assert np.allclose(found.saliency[n], expected, atol=1e-5)
    assert found.levels is None and found.density is None and found.n_forward == 13
    assert found.segments == []


@pytest.mark.parametrize("options", [{"method": "dclose"}, {"method": "drise", "grid": (4, 6)}])
def test_maps_lie_on_their_lamp(options):
    """Also if the canvas is larger than the image and shifted: padding never moves a map."""
    lamps = Lamps([[2, 3, 10, 11], [24, 14, 34, 22]], [[1, 0], [0, 1]], zoom=3)
    image = np.full((24, 36, 3), 200, np.uint8)
    found = dc.explain(lamps, image, n_masks=600, progress=False, **options)
    assert found.saliency.shape == (2, 24, 36)
    for n, (x1, y1, x2, y2) in enumerate(found.detections.boxes.astype(int)):
        inside = found.saliency[n, y1:y2, x1:x2].mean()
        assert inside > 1.1 * found.saliency[n].mean()
        y, x = np.unravel_index(found.saliency[n].argmax(), (24, 36))
        assert y1 - 3 <= y < y2 + 3 and x1 - 3 <= x < x2 + 3


def test_the_record_says_how_it_was_made(lamps, lit):
    found = dc.explain(lamps, lit, n_masks=16, seed=5, progress=False)
    assert found.method == "dclose" and found.n_forward == 17 and found.seconds > 0
    assert found.params["n_masks"] == 16 and found.seed == 5 and found.params["p"] == 0.5
    assert found.params["segments"] == (150, 300, 600, 1200, 2400)
    assert found.levels.shape == (5, 2, 12, 20) and found.density.shape == (5, 12, 20)
    assert found.saliency.dtype == found.levels.dtype == np.float32
    assert found.provenance["detector"]["name"] == "lamps" and "torch" in found.provenance["versions"]
    with pytest.raises(AttributeError):
        found.method = "other"


def test_targets_need_not_be_detected(lamps, lit):
    dark = np.zeros_like(lit)
    dark[2:8, 10:18] = 60  # too dark to be detected
    assert len(lamps.detect(dark)) == 0
    found = dc.explain(lamps, dark, dc.Targets([[10, 2, 18, 8]], ["b"]), n_masks=50, progress=False)
    assert found.n_forward == 50 and found.saliency.max() > 0
    assert found.detections.scores.tolist() == [1]


def test_masks_in_place_of_boxes(lamps, shapes, lit):
    options = {"method": "drise", "n_masks": 12, "grid": (3, 4), "progress": False}
    plain, of_boxes, of_masks = (
        dc.explain(shapes, lit, **options, **overlap)
        for overlap in ({}, {"overlap": "box"}, {"overlap": "mask"})
    )
    assert np.array_equal(plain.saliency, of_boxes.saliency)
    assert plain.overlap == "box" and of_masks.overlap == "mask"
    assert plain.n_forward == 13 and of_masks.n_forward == 14  # the targets' masks are seen once
    canvas = shapes.prepare(lit)
    planned = make("drise", n_masks=12, grid=(3, 4)).plan(canvas, 0)._replace(overlap="mask")
    (level,) = plain_loop(shapes, canvas, of_masks.detections, planned)
    assert np.allclose(of_masks.saliency, level.weighted_sum / (12 * 0.5), atol=1e-5)
    assert np.abs(of_masks.saliency - of_boxes.saliency).max() > 0.01
    with pytest.raises(dc.InputError, match="'lamps' gives no masks"):
        dc.explain(lamps, lit, overlap="mask", **options)


def test_an_explanation_can_be_indexed_and_iterated(lamps, lit):
    found = dc.explain(lamps, lit, n_masks=10, progress=False)
    assert [len(part) for part in found] == [1, 1]
    assert np.array_equal(found[1].saliency[0], found.saliency[1])
    assert np.array_equal(found[1].levels[:, 0], found.levels[:, 1])
    assert found[1].detections.names == ["b"] and "dclose" in repr(found)


def test_nothing_to_explain_is_an_empty_record(lamps, lit):
    found = dc.explain(lamps, np.zeros_like(lit), n_masks=10, progress=False)
    assert len(found) == 0 and found.saliency.shape == (0, 12, 20) and found.n_forward == 1


@pytest.mark.parametrize("kind", ["grey", "rgba", "float"])
def test_images_of_every_kind_are_converted(lamps, kind):
    grey = np.full((12, 20), 200, np.uint8)
    image = {
        "grey": grey,
        "rgba": np.dstack([grey] * 3 + [np.full_like(grey, 255)]),
        "float": np.dstack([grey] * 3) / 255,
    }[kind]
    found = dc.explain(lamps, image, n_masks=10, progress=False)
    assert found.image.tolist() == np.dstack([grey] * 3).tolist() and len(found) == 2


@pytest.mark.parametrize("method", ["dclose", "drise"])
def test_an_image_of_one_pixel(method):
    dot = Lamps([[0, 0, 1, 1]], [[1.0]])
    found = dc.explain(dot, np.full((1, 1, 3), 255, np.uint8), method=method, n_masks=10, progress=False)
    assert found.saliency.shape == (1, 1, 1) and np.isfinite(found.saliency).all()


def test_the_same_seed_gives_the_same_map_for_any_batch_size(lamps, lit):
    maps = [
        dc.explain(lamps, lit, n_masks=33, seed=seed, batch_size=b, progress=False).saliency
        for seed, b in ((1, 4), (1, 7), (2, 7))
    ]
    assert np.allclose(maps[0], maps[1], atol=1e-4)
    assert not np.allclose(maps[0], maps[2], atol=1e-2)


def test_the_paper_s_parameters_are_the_defaults():
    dclose, drise = make("dclose"), make("drise")
    assert dclose.n_masks == 4000
    assert dclose.segments == (150, 300, 600, 1200, 2400)
    assert (dclose.p, dclose.r, dclose.crops_per_draw) == (0.5, 2.2, 1)
    assert (dclose.proposals, dclose.order) == ("all", "fine_to_coarse")
    assert (drise.n_masks, drise.grid, drise.p) == (5000, (16, 16), 0.5)


def test_coarse_to_fine_begins_with_the_coarsest_level(lamps, lit):
    found = dc.explain(lamps, lit, n_masks=60, segments=(4, 8, 16), order="coarse_to_fine", progress=False)
    assert np.allclose(found.saliency, cascade(found.levels[::-1]), atol=1e-6)


def test_maps_stay_with_their_boxes_however_they_are_picked(lamps, lit):
    found = dc.explain(lamps, lit, n_masks=20, progress=False)
    for index in (slice(None, None, -1), [1, 0], np.array([True, True])):
        picked = found[index]
        assert picked.detections.names == ["a", "b"]
        assert np.array_equal(picked.saliency, found.saliency)
        assert np.array_equal(picked.levels, found.levels)


def test_the_record_does_not_change_with_the_caller_s_image(lamps, lit):
    found = dc.explain(lamps, lit, n_masks=10, progress=False)
    lit[:] = 0
    assert found.image.max() == 250
    with pytest.raises(ValueError, match="read-only"):
        found.saliency[0] = 0


def test_a_partly_overlapping_proposal_in_a_shifted_canvas():
    """The target lies half beside the lamp: each weight is IoU 1/3 times the lamp's brightness."""
    lamp = Lamps([[2, 2, 10, 8]], [[0.6, 0.8]], zoom=2)
    image = np.full((10, 16, 3), 255, np.uint8)
    canvas = lamp.prepare(image)
    target = dc.Targets([[6, 2, 14, 8]], ["a"]).detections(("a", "b"))
    sampler = superpixel_masks(np.arange(320).reshape(20, 16).repeat(2, 1) // 40)
    (level,) = sample(lamp, canvas, target, Plan([sampler], [9]), progress=False)
    bright = sampler.masks(0, 9)[:, 4:16, 4:20].mean((1, 2))
    assert np.allclose(level.weights[:, 0], bright / 3 * 0.6, atol=1e-5)


def test_options_reach_the_method(lamps, lit):
    def saliency(**options):
        return dc.explain(lamps, lit, n_masks=60, segments=(4, 16), progress=False, **options).saliency

    default = saliency()
    for option in (
        {"order": "coarse_to_fine"},
        {"crops_per_draw": 32},
        {"proposals": "filtered"},
        {"r": 0},
        {"p": 0.3},
    ):
        assert not np.allclose(saliency(**option), default), option


@pytest.mark.parametrize(
    ("n_masks", "counts"), [(4000, [800] * 5), (4003, [801] * 3 + [800] * 2), (5, [1] * 5)]
)
def test_the_budget_is_shared_finest_first(n_masks, counts):
    assert make("dclose", n_masks=n_masks).counts == counts


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"method": ["dclose"]}, "method must be"),
        ({"crops_per_draw": 0}, "crops_per_draw"),
        ({"crops_per_draw": 10**30}, "crops_per_draw must be an integer from 1 to 100000000"),
        ({"n_masks": 10**30}, "n_masks must be an integer from 1 to 100000000"),
        ({"n_masks": np.array([20, 30])}, r"n_masks must be an integer .*got \(20, 30\)"),
        ({"segments": (10**30, 4), "method": "contrast"}, "segments must be an integer from 1"),
        ({"watch": 5}, "watch must be a function of an Explanation, got 5"),
        ({"method": "magic"}, "method must be one of 'dclose', 'contrast', 'regression'"),
        ({"n_masks": 0}, "n_masks"),
        ({"n_masks": -3}, "n_masks"),
        ({"n_masks": 4}, "each of 5 levels"),
        ({"n_masks": 0, "method": "drise"}, "n_masks"),
        ({"p": 0}, "p must be"),
        ({"p": 1.0, "method": "drise"}, "p must be"),
        ({"r": -1}, "r must be"),
        ({"seed": -1}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -1, "method": "gradcam"}, "batch_size must be an integer"),
        ({"segments": ()}, "segments"),
        ({"segments": 150}, "segments"),
        ({"grid": 16, "method": "drise"}, "grid"),
        ({"grid": (4, 0), "method": "drise"}, "grid"),
        ({"segments": (10, 0)}, "segments"),
        ({"order": "up"}, "order"),
        ({"proposals": "some"}, "proposals"),
        ({"grid": (4, 4)}, "no option 'grid'; it has: n_masks, segments"),
        ({"targets": [[0, 0, 2, 2]]}, "targets must be"),
        ({"targets": dc.Targets([[30, 0, 40, 5]], ["a"])}, "outside the image"),
        ({"targets": dc.Targets([[-9, 0, 0, 5]], ["a"])}, "outside the image"),
        ({"targets": dc.Targets([[3, 3, 3, 5]], ["a"])}, "no area"),
        ({"targets": dc.Targets([[3, 3, 5, 5]], ["zebra"])}, "no class 'zebra'"),
        ({"targets": dc.Detections([[0, 0, 1, 1]], [1], [[1]], ("x",))}, "other classes"),
    ],
)
def test_bad_input_is_refused_before_any_mask(lamps, lit, arguments, word):
    with pytest.raises(dc.InputError, match=word):
        dc.explain(lamps, lit, progress=False, **arguments)
    assert len(lamps.seen) <= 1  # the detection at most


def test_other_objects_than_detectors_are_refused(lit):
    with pytest.raises(dc.InputError, match="load_detector"):
        dc.explain("yolox_nano", lit)


def test_all_targets_share_the_forward_passes(lit):
    boxes = [[x, y, x + 4, y + 4] for x in (0, 5, 10, 15) for y in (0, 4, 8)]
    lamps = Lamps(boxes, np.eye(12)[:, :8] + 0.1)
    image = np.full((12, 20, 3), 255, np.uint8)
    targets = dc.Targets(boxes, [0] * 12)
    found = dc.explain(lamps, image, targets, n_masks=25, batch_size=5, progress=False)
    assert Counter(len(pixels) for pixels in lamps.seen) == {5: 5} and found.n_forward == 25


def test_auto_stops_by_itself_and_says_how_far_it_got(lamps, lit):
    found = dc.explain(lamps, lit, n_masks="auto", tolerance=0.3, method="drise", grid=(3, 3), progress=False)
    assert found.tolerance == 0.3 and found.params["n_masks"] == 5000
    assert 200 <= found.n_forward - 1 < 5000
    assert found.error.shape == found.saliency.shape and not found.error.flags.writeable
    assert (found.relative_error <= 0.3).all() and found[1].relative_error.shape == (1,)
    assert found[1].error.shape == (1, *lit.shape[:2])
    finer = dc.explain(lamps, lit, tolerance=0.12, method="drise", grid=(3, 3), progress=False)
    assert found.n_forward < finer.n_forward < 5000 and (finer.relative_error <= 0.12).all()
    plain = dc.explain(lamps, lit, n_masks=50, progress=False)
    assert plain.error is None is plain.relative_error and plain[0].error is None is plain.tolerance


@pytest.mark.parametrize("method", ["dclose", "contrast", "regression", "drise", "mfpp", "sodex"])
def test_a_tolerance_stops_at_the_same_mask_for_any_batch_size(lamps, lit, method):
    options = {"method": method, "n_masks": 2000, "tolerance": 0.35, "progress": False}
    first, *again = [dc.explain(lamps, lit, batch_size=size, **options) for size in (1, 7, 64)]
    assert 1 < first.n_forward < 2000
    for found in again:
        assert found.n_forward == first.n_forward
        assert np.allclose(found.relative_error, first.relative_error, rtol=1e-4)
        assert np.allclose(found.saliency, first.saliency, atol=1e-5)


@pytest.mark.parametrize(("method", "most"), [("drise", 5000), ("regression", 2000)])
def test_auto_is_a_tolerance_of_a_tenth(lamps, lit, method, most):
    options = {"method": method, "n_masks": "auto", "progress": False}
    found = dc.explain(lamps, lit, watch=lambda now: True, **options)
    assert found.tolerance == 0.1 and found.params["n_masks"] == most


def test_the_error_is_half_of_the_distance_of_two_halves(lamps, lit):
    """Masks go to the two halves alternately."""
    with pytest.warns(UserWarning, match=r"after 64 masks a map's error is \d\.\d\d, not 0.01 or less"):
        found = dc.explain(
            lamps, lit, method="drise", n_masks=64, grid=(3, 4), tolerance=0.01, batch_size=4, progress=False
        )
    masks = grid_masks((12, 20), grid=(3, 4)).masks(0, 64).numpy()
    first = np.arange(64) % 2 == 0
    for n, (x1, y1, x2, y2) in enumerate(found.detections.boxes.astype(int)):
        weights = np.array([(lit * mask[:, :, None])[y1:y2, x1:x2].mean() / 255 for mask in masks])
        all_masks, even, odd = (
            min_max(np.einsum("k,khw->hw", weights[which], masks[which]))
            for which in (first | True, first, ~first)
        )
        assert np.allclose(found.error[n], np.abs(even - odd) / 2, atol=1e-4)
        expected = np.sqrt((found.error[n] ** 2).mean()) / np.sqrt((all_masks**2).mean())
        assert np.isclose(found.relative_error[n], expected, rtol=1e-3)


def test_the_error_is_the_spread_of_maps_over_seeds(lamps, lit):
    options = {"method": "drise", "grid": (3, 4), "n_masks": 500, "batch_size": 100, "progress": False}
    squares, maps = [], []
    for seed in range(48):
        with pytest.warns(UserWarning, match="after 500 masks"):
            found = dc.explain(lamps, lit, tolerance=1e-9, seed=seed, **options)
        squares.append(np.square(found.error).mean())
        maps.append(min_max(found.saliency))
    assert 0.8 < np.sqrt(np.mean(squares) / np.var(maps, axis=0, ddof=1).mean()) < 1.2


@pytest.mark.parametrize(("options", "word"), [
    ({"n_masks": "auto", "method": "gradcam"}, "no option 'n_masks'; it has: layer"),
    ({"tolerance": 0.2, "method": "gradcam"}, "no option 'tolerance'; it has: layer"),
    ({"overlap": "mask", "method": "gradcam"}, "no option 'overlap'; it has: layer"),
    ({"overlap": "polygon"}, "overlap must be one of 'box', 'mask', got 'polygon'"),
    ({"n_masks": "auto", "tolerance": 0}, "tolerance"),
    ({"tolerance": 1.5}, "tolerance"),
    ({"n_masks": "many"}, "n_masks"),
])  # fmt: skip
def test_what_a_run_cannot_be_is_refused(lamps, lit, options, word):
    with pytest.raises(dc.InputError, match=word):
        dc.explain(lamps, lit, progress=False, **options)
    assert not lamps.seen


class Slow(Lamps):
    """Slow enough that `watch` is called after every batch."""

    def predict(self, pixels):
        if len(pixels) > 1:
            time.sleep(0.15)
        return super().predict(pixels)


def test_watching_takes_at_most_a_quarter_of_the_time(lamps, lit, monkeypatch):
    clock, calls, predict = [0.0], [], lamps.predict
    monkeypatch.setattr("dclose_nb.explanation.time.monotonic", lambda: clock[0])

    def pass_in_a_second(pixels):
        clock[0] += 1
        return predict(pixels)

    def look_for_two_seconds(_):
        clock[0] += 2
        calls.append(clock[0])

    lamps.predict = pass_in_a_second
    options = {"n_masks": 100, "batch_size": 1, "segments": (4, 8), "progress": False}
    dc.explain(lamps, lit, lamps.detect(lit), **options, watch=look_for_two_seconds)
    assert len(calls) > 5 and 2 * len(calls) <= clock[0] / 4 + 2


def test_an_explanation_can_be_watched_and_stopped(lamps, lit):
    slow, seen = Slow(lamps.boxes.numpy(), lamps.class_probs.numpy()), []
    options = {"n_masks": 60, "batch_size": 4, "progress": False}
    done = dc.explain(slow, lit, **options, watch=lambda now: bool(seen.append(now)))
    assert [now.n_forward for now in seen] == [21, 41, 61]
    assert all(isinstance(now, dc.Explanation) for now in seen) and done.n_forward == 61
    assert np.array_equal(done.saliency, seen[-1].saliency)
    for method in ("dclose", "mfpp"):
        stopped = dc.explain(slow, lit, method=method, **options, watch=lambda now: True)
        assert stopped.n_forward == 21
    for method in ("drise", "sodex", "contrast", "regression"):
        stopped = dc.explain(slow, lit, method=method, **options, watch=lambda now: True)
        assert 1 < stopped.n_forward < 26


@pytest.mark.parametrize("method", ["dclose", "regression", "drise"])
def test_the_first_look_comes_after_at_most_24_masks(lamps, lit, method):
    options = {"n_masks": 600, "batch_size": 64, "tolerance": 0.9, "method": method, "progress": False}
    seen = []
    dc.explain(lamps, lit, watch=lambda now: bool(seen.append(now.n_forward)), **options)
    assert 1 < seen[0] <= 25
    few = dc.explain(
        lamps, lit, watch=lambda now: bool(seen.append(now.n_forward)), **options | {"n_masks": 12}
    )
    assert few.n_forward == seen[-1] == 13


# -- saved and loaded

RUNS = [
    {"n_masks": 20, "seed": 4, "batch_size": 3},
    {"n_masks": 20, "overlap": "mask"},
    {"method": "drise", "n_masks": 400, "grid": [3, 4], "tolerance": 0.9},
    {"method": "contrast", "n_masks": 30, "segments": np.array([4, 9])},
    {"method": "sodex", "n_masks": 30},
]


def assert_same(found, expected):
    for field in fields(expected):
        value, wanted = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "detections":
            for name in ("boxes", "objectness", "class_probs"):
                assert np.array_equal(getattr(value, name), getattr(wanted, name))
            assert value.class_names == wanted.class_names
        elif isinstance(wanted, np.ndarray):
            assert value.dtype == wanted.dtype and np.array_equal(value, wanted) and not value.flags.writeable
        else:
            assert value == wanted and type(value) is type(wanted), field.name


@pytest.mark.parametrize("options", RUNS, ids=lambda options: options.get("method", "dclose"))
def test_a_loaded_explanation_equals_the_saved_one_to_the_bit(shapes, lit, tmp_path, options):
    for expected in (found := dc.explain(shapes, lit, progress=False, **options), found[1], found[:0]):
        assert expected.save(tmp_path / "kept") == tmp_path / "kept"
        assert_same(dc.Explanation.load(tmp_path / "kept"), expected)
        assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == ["manifest.json", "maps.npz"]


def test_a_folder_from_before_there_were_questions_and_overlaps_is_loaded(lamps, lit, tmp_path):
    found = dc.explain(lamps, lit, n_masks=5, progress=False)
    path = found.save(tmp_path / "kept") / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["overlap"], manifest["question"]
    path.write_text(json.dumps(manifest))
    assert_same(dc.Explanation.load(tmp_path / "kept"), found)


def test_provenance_that_json_cannot_hold_is_kept_as_text(lamps, lit, tmp_path):
    lamps.provenance = {"file": tmp_path, "mean": (1, 2)}
    found = dc.explain(lamps, lit, n_masks=5, progress=False)
    assert found.provenance["detector"]["file"] == str(tmp_path)
    assert_same(dc.Explanation.load(found.save(tmp_path / "kept")), found)


def test_a_folder_with_somebody_else_s_files_is_left_alone(lamps, lit, tmp_path):
    found = dc.explain(lamps, lit, n_masks=5, progress=False)
    (tmp_path / "maps.npz").write_text("theirs")
    with pytest.raises(dc.InputError, match="is not an explanation's and would be lost"):
        found.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["maps.npz"]
    assert (tmp_path / "maps.npz").read_text() == "theirs"


def edited(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(folder):
    content = (folder / "maps.npz").read_bytes()
    (folder / "maps.npz").write_bytes(content[: len(content) // 2])


def changed(folder, name, change):
    with np.load(folder / "maps.npz") as stored:
        arrays = dict(stored)
    np.savez(folder / "maps.npz", **arrays | {name: change(arrays[name])})


def encrypted(folder):
    content = bytearray((folder / "maps.npz").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # so says the zip file's list of contents
    (folder / "maps.npz").write_bytes(content)


@pytest.mark.parametrize(("damage", "words"), [
    (encrypted, "is encrypted"),
    (lambda folder: changed(folder, "class_names", lambda names: np.arange(2)), "class_names must be a list"),
    (lambda folder: changed(folder, "class_probs", lambda probs: 2 * probs), "class_probs must lie in"),
    (lambda folder: changed(folder, "saliency", lambda maps: maps[:, :5]), r"saliency .* \(2, 12, 20\)"),
    (lambda folder: changed(folder, "saliency", lambda maps: maps[:1]), r"got the shape \(1, 12, 20\)"),
    (lambda folder: changed(folder, "levels", lambda maps: maps[:, :1]), r"levels must be .* \(L, 2, h, w\)"),
    (lambda folder: changed(folder, "levels", lambda maps: maps[..., 0]), r"levels .* shape \(5, 2, 12\)"),
    (lambda folder: changed(folder, "density", lambda maps: maps[:2]), "density must be"),
    (lambda folder: changed(folder, "density", lambda maps: maps[..., 1:]), "density must be"),
    (lambda folder: changed(folder, "image", lambda image: image[..., None]), r"image .* \(12, 20, 3\)"),
    (lambda folder: changed(folder, "saliency", lambda maps: maps * np.nan), "saliency .* got NaN"),
    (lambda folder: (folder / "manifest.json").unlink(), "holds no explanation: there is no manifest.json"),
    (lambda folder: (folder / "maps.npz").unlink(), "cannot be loaded: FileNotFoundError"),
    (cut, "cannot be loaded: BadZipFile"),
    (lambda folder: np.savez(folder / "maps.npz", saliency=np.zeros(3)), "cannot be loaded: KeyError"),
    (lambda folder: changed(folder, "saliency", lambda maps: np.array([None])), "allow_pickle=False"),
    (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be loaded: JSONDecodeError"),
    (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "brackets nest too deeply"),
    (lambda folder: (folder / "manifest.json").write_text("[]"), "is not an explanation's"),
    (lambda folder: edited(folder, files=["thesis.tex"]), "is not an explanation's"),
    (lambda folder: edited(folder, files=None), "is not an explanation's"),
    (lambda folder: edited(folder, params=[1]), "params must be dict, got list"),
    (lambda folder: edited(folder, params={"n_masks": 5}), "its params have 0 segments for 5 levels"),
    (lambda folder: edited(folder, params={"segments": [4, 5]}), "its params have 2 segments for 5 levels"),
    (lambda folder: edited(folder, params={"p": "half"}), "p must be a number"),
    (lambda folder: edited(folder, params={"n_masks": None}), "n_masks must be an integer"),
    (lambda folder: edited(folder, params={"colour": 1}), "keyword argument 'colour'"),
    (lambda folder: edited(folder, method=5), "method must be str, got int"),
    (lambda folder: edited(folder, detector="lamps"), "detector must be dict, got str"),
    (lambda folder: edited(folder, detector={"device": "cpu"}), "its detector has no name"),
    (lambda folder: edited(folder, versions=None), "versions must be dict, got NoneType"),
    (lambda folder: edited(folder, image=None), "image must be dict, got NoneType"),
    (lambda folder: edited(folder, seconds=None), "seconds must be float | int, got NoneType"),
    (lambda folder: edited(folder, n_forward="6"), "n_forward must be int, got str"),
    (lambda folder: edited(folder, seed="0"), "seed must be int | None, got str"),
    (lambda folder: edited(folder, batch_size=1.5), "batch_size must be int | None, got float"),
    (lambda folder: edited(folder, overlap=1), "overlap must be str, got int"),
    (lambda folder: edited(folder, tolerance=[]), "tolerance must be float | None, got list"),
    (lambda folder: edited(folder, format=99), "a later version of dclose_nb saved it"),
    (lambda folder: edited(folder, format=0), "an earlier version of dclose_nb saved it"),
    (lambda folder: edited(folder, format="new"), "format must be an integer of at least 0, got 'new'"),
    (lambda folder: edited(folder, image={"sha256": "0"}), "its two files do not belong together"),
])  # fmt: skip
def test_a_folder_that_cannot_be_loaded_is_refused_in_one_line(lamps, lit, tmp_path, damage, words):
    dc.explain(lamps, lit, n_masks=5, progress=False).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(dc.InputError, match=words.replace("|", r"\|")) as refusal:
        dc.Explanation.load(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_replaced_while_it_is_read_is_refused(lamps, lit, tmp_path, monkeypatch):
    first, second = (
        dc.explain(lamps, lit, method="drise", n_masks=8, seed=seed, progress=False) for seed in (1, 2)
    )
    first.save(tmp_path / "kept")
    load = np.load

    def replaced(file):
        second.save(tmp_path / "kept")
        return load(file)

    monkeypatch.setattr(np, "load", replaced)
    with pytest.raises(dc.InputError, match="was replaced while it was read"):
        dc.Explanation.load(tmp_path / "kept")


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(dc.InputError, match="holds no explanation"):
        dc.Explanation.load(tmp_path / "nowhere")


def test_a_question_is_asked_kept_and_checked(lamps, lit, tmp_path):
    found = {q: dc.explain(lamps, lit, n_masks=20, question=q, progress=False) for q in ("all", "place")}
    assert dc.Explanation.load(found["place"].save(tmp_path)).question == "place"
    # a lamp keeps its class vector under every mask, so that its cosine is always 1
    assert np.allclose(found["all"].saliency, found["place"].saliency, atol=1e-5)
    assert dc.explain(lamps, lit, question="class", n_masks=20, progress=False).question == "class"
    with pytest.raises(dc.InputError, match="question must be one of 'all', 'place', 'class', got 'why'"):
        dc.explain(lamps, lit, question="why")
    certain = type(lamps)(lamps.boxes.tolist(), [[1, 0], [0, 1]])
    with pytest.warns(UserWarning, match="asks only whether they stay"):
        dc.explain(certain, lit, question="class", n_masks=20, progress=False)
