"""Models of bad conditions against closed forms, and the study of what they do to maps."""

import inspect
import math
from functools import partial

import numpy as np
import pytest
from scipy import stats
from toys import Lamps

import dclose_nb as dc
from dclose_nb.images import PHOTOS
from dclose_nb.metrics import rank_correlation
from dclose_nb.planted.scores import filled_box
from dclose_nb.similarity import target_weights
from dclose_nb.studies import conditions
from dclose_nb.studies.coco import drawn
from dclose_nb.studies.conditions import CONDITIONS
from dclose_nb.studies.records import shipped_records

DRAWN = ("low_light", "night", "rain", "motion_blur", "sensor_noise")  # the others draw nothing


@pytest.fixture(scope="module")
def photo():
    return dc.load_photo("coffee")[::3, ::3]


def decoded(value):
    """sRGB 0-255 to linear intensity (IEC 61966-2-1)."""
    value = value / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def encoded(light):
    return round(255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055))


def linear(image):
    return np.vectorize(decoded)(np.arange(256))[image]


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_model_keeps_the_contract(name, photo):
    model, before = CONDITIONS[name], photo.copy()
    assert model.__doc__ and list(inspect.signature(model).parameters) == ["image", "severity", "seed"]
    assert np.array_equal(model(photo, 0), photo)
    steps = [model(photo, severity, seed=3) for severity in (0.25, 0.5, 0.75, 1)]
    assert all(step.dtype == np.uint8 and step.shape == photo.shape for step in steps)
    assert np.array_equal(model(photo, 0.5, seed=3), steps[1])
    assert np.array_equal(model(photo, 0.5, seed=4), steps[1]) == (name not in DRAWN)
    away = [np.abs(linear(step) - linear(photo)).mean() for step in steps]
    assert 0 < away[0] < away[1] < away[2] < away[3]
    assert np.array_equal(photo, before)
    assert model(photo[..., 0], 0.5).shape == photo.shape  # grey photos too
    assert model(photo[:1, :1], 1).shape == (1, 1, 3)


@pytest.mark.parametrize("name", CONDITIONS)
def test_bad_input(name, photo):
    for severity in (-0.1, 1.1, math.nan, "strong", None):
        with pytest.raises(dc.InputError, match=r"severity must be a number in \[0, 1\]"):
            CONDITIONS[name](photo, severity)
    with pytest.raises(dc.InputError, match="an image must be"):
        CONDITIONS[name](photo[0, 0], 0.5)
    with pytest.raises(dc.InputError, match="seed must be"):
        CONDITIONS[name](photo, 0.5, seed=-1)


@pytest.mark.parametrize("electrons", [0.5, 20, 5000])
def test_shot_noise_is_poissons_and_read_noise_adds_to_it(electrons, monkeypatch):
    light = np.full(200_000, 0.8)
    exposure = electrons / 0.8 / conditions.FULL_WELL
    seen = conditions.expose(light, exposure, np.random.default_rng(0)) * conditions.FULL_WELL
    variance = electrons + conditions.READ_NOISE**2
    assert seen.mean() == pytest.approx(electrons, abs=5 * math.sqrt(variance / len(light)))
    assert seen.var() == pytest.approx(variance, rel=0.03)

    monkeypatch.setattr(conditions, "READ_NOISE", 0.0)
    counts = conditions.expose(light, exposure, np.random.default_rng(0)) * conditions.FULL_WELL
    assert np.allclose(counts, counts.round(), atol=1e-6)
    for share in (0.1, 0.5, 0.9):
        quantile = stats.poisson.ppf(share, electrons)
        wanted = stats.poisson.cdf(quantile, electrons)
        assert (counts <= quantile + 0.5).mean() == pytest.approx(wanted, abs=0.006)


def test_low_light_halves_the_light_and_gain_brings_it_back():
    image = np.full((200, 200, 3), 180, np.uint8)
    for severity, stops in ((0.25, 2), (0.5, 4)):
        dark = linear(conditions.low_light(image, severity)).mean()
        assert dark == pytest.approx(decoded(180) / 2**stops, rel=0.01)
        bright = linear(conditions.sensor_noise(image, severity))
        assert bright.mean() == pytest.approx(decoded(180), rel=0.01)
        electrons = decoded(180) / 2**stops * conditions.FULL_WELL
        spread = math.sqrt(electrons + conditions.READ_NOISE**2) / electrons * decoded(180)
        assert bright.std() == pytest.approx(spread, rel=0.05)


def test_fog_is_koschmieders_row_by_row():
    image = np.zeros((61, 5, 3), np.uint8)
    image[:] = 0, 90, 230
    foggy = conditions.fog(image, 0.6)
    for row in range(61):
        depth = 1.0 if row <= 20 else 1 - 0.8 * (row - 20) / 40
        left = 20 ** (-0.6 * depth)
        for channel, value in enumerate((0, 90, 230)):
            wanted = encoded(decoded(value) * left + 0.7 * (1 - left))
            assert np.ptp(foggy[row, :, channel]) == 0
            assert abs(int(foggy[row, 0, channel]) - wanted) <= 1
    assert (conditions.fog(image, 1)[:20] == encoded(0.7 * 0.95)).all(axis=(0, 1))[0]  # black at the horizon


def test_light_is_never_added_by_a_red_lamp_nor_by_night(photo, monkeypatch):
    red = linear(conditions.red_light(photo, 1))
    assert np.allclose(red, linear(photo) * [1, 0.02, 0.01], atol=0.003)
    monkeypatch.setattr(conditions, "FULL_WELL", 1e12)  # hardly any noise
    white = np.full((40, 60, 3), 255, np.uint8)
    lit = linear(conditions.night(white, 1, seed=5))
    lamps = np.random.default_rng(5).random((2, 2)) * [40, 60]
    for y, x in ((0, 0), (13, 31), (39, 59)):
        wanted = conditions.MOON.copy()
        for down, right in lamps:
            distance = math.hypot(math.hypot(x - right, y - down) / 60, 0.2)  # to the lamp, 0.2 in front
            wanted += conditions.LAMP * (0.2 / distance) ** 2 * (0.2 / distance)  # inverse square, cosine
        assert np.allclose(lit[y, x], wanted, rtol=0.03, atol=0.001)


@pytest.mark.parametrize("angle", [0, 0.4, np.pi / 2, 2.5])
def test_a_line_kernel_has_the_moments_of_a_line(angle):
    for length in (5.0, 12.5, 40.0):
        kernel = conditions.line_kernel(length, angle)
        assert kernel.sum() == pytest.approx(1) and kernel.min() >= 0
        assert len(kernel) % 2 == 1 and len(kernel) <= length + 3
        at = np.arange(len(kernel)) - len(kernel) // 2
        along = at[None, :] * math.cos(angle) - at[:, None] * math.sin(angle)
        across = at[None, :] * math.sin(angle) + at[:, None] * math.cos(angle)
        assert (kernel * along).sum() == pytest.approx(0, abs=0.05)
        assert (kernel * along**2).sum() == pytest.approx(length**2 / 12, abs=0.2, rel=0.03)
        assert (kernel * across**2).sum() < 0.15  # a pixel is 1 wide, so 1/12 or a little more
    assert np.array_equal(conditions.line_kernel(0, angle), [[1]])


def test_motion_blur_moves_light_and_adds_none():
    image = np.zeros((101, 101, 3), np.uint8)
    image[48:53, 48:53] = 255
    blurred = linear(conditions.motion_blur(image, 0.7, seed=2))
    assert blurred.sum() == pytest.approx(3 * 25, rel=0.02)
    flat = np.full((30, 40, 3), 77, np.uint8)
    assert np.array_equal(conditions.motion_blur(flat, 1), flat)


def test_heavier_rain_has_the_drops_of_lighter_rain():
    image = np.zeros((120, 160, 3), np.uint8)
    falls = [conditions.rain(image, severity, seed=1).astype(int) for severity in (0.2, 0.5, 1)]
    assert (falls[1] >= falls[0]).all() and (falls[2] >= falls[1]).all()
    assert falls[0].max() <= encoded(0.4 * 0.7)
    wet = [(fall > 0).mean() for fall in falls]
    assert 0 < wet[0] < wet[1] < wet[2] < 0.7


def test_grey_keeps_the_luminance_and_the_palette_follows_it(photo):
    faded = conditions.grey(photo, 1)
    assert np.ptp(faded, axis=2).max() == 0
    assert np.allclose(linear(faded)[..., 0], linear(photo) @ conditions.LUMINANCE, atol=0.005)
    coloured = conditions.false_colour(photo, 1)
    assert np.array_equal(coloured, conditions.false_colour(faded, 1))
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    palette = conditions.false_colour(ramp, 1)[0]
    assert len(np.unique(palette, axis=0)) > 200
    assert (np.diff(linear(palette) @ conditions.LUMINANCE) > -0.005).all()  # brighter stays brighter


# -- the study


def test_the_weight_left_is_the_brightness_of_a_lamp(lamps, lit):
    targets = lamps.detect(lit)
    assert target_weights(lamps, lit, targets) == pytest.approx([250 / 255] * 2)
    objects = conditions.study_image(lamps, lit, n_masks=5)["objects"]
    for name, model in CONDITIONS.items():
        for record, (x1, y1, x2, y2) in zip(objects, targets.boxes.astype(int), strict=True):
            for share, severity in zip(record["left"][name], conditions.SEVERITIES, strict=True):
                assert share == pytest.approx(model(lit, severity)[y1:y2, x1:x2].mean() / 250, abs=1e-4)


def test_a_record_has_every_method_and_condition_like_those_that_ship(lamps, lit):
    objects = conditions.study_image(lamps, lit, n_masks=40)["objects"]
    assert [record["label"] for record in objects] == lamps.detect(lit).names
    for record, area in zip(objects, (48 / 240, 48 / 240)):
        assert record["area"] == pytest.approx(area)
        assert set(record["maps"]) == {"clear", *conditions.MAPPED}
        for by_method in record["maps"].values():
            assert set(by_method) == set(conditions.METHODS)
            assert len(by_method["dclose"]["levels"]) == 5 and "levels" not in by_method["drise"]
        for method in conditions.METHODS:
            clear, dark = record["maps"]["clear"][method], record["maps"]["low_light"][method]
            assert clear["itself"] == clear["clear"]
            for name in ("over_all", "over_all_blur"):
                assert -1 <= clear[name] <= 1 and dark[name] is None
            assert clear["drawn"] == 1 and dark["drawn"] == 0
            assert all(0 <= clear[name] <= 1 for name in ("ebpg", "inside"))
    assert conditions.study_image(lamps, lit // 10, n_masks=40) == {"objects": []}

    of_study = shipped_records("conditions")
    assert of_study.settings["severity"] == conditions.MAPPED_AT
    assert [one["name"] for one in of_study.settings["detectors"]] == ["yolox_nano", "planted"]
    for record in (record for line in of_study.lines for record in line["objects"]):
        assert record.keys() == objects[0].keys() and record["left"].keys() == objects[0]["left"].keys()
        for name, by_method in record["maps"].items():
            for method, scores in by_method.items():
                assert scores.keys() == objects[0]["maps"][name][method].keys()


def test_a_neighbour_of_the_same_class_is_not_the_target():
    """In red light the dim lamp is lost. The bright one, whose box overlaps it, is still there."""
    pair = Lamps([[2, 2, 10, 10], [8, 2, 16, 10]], [[1.0], [1.0]])
    image = np.full((12, 20, 3), 60, np.uint8)
    image[2:10, 8:16] = 255
    bright, dim = conditions.study_image(pair, image, n_masks=5)["objects"]
    for method in conditions.METHODS:
        lost, kept = (record["maps"]["red_light"][method] for record in (dim, bright))
        assert (lost["drawn"], kept["drawn"]) == (0, 1)
        assert lost["over_all"] is None is lost["over_all_blur"] and kept["over_all"] is not None
        assert dim["maps"]["clear"][method]["drawn"] == 1


def test_levels_are_scored_in_the_frame_of_the_image(lamps, lit):
    targets = lamps.detect(lit)
    *_, record = conditions.study_image(lamps, lit, n_masks=40)["objects"]
    explained = [dc.explain(lamps, lit, targets, n_masks=40, seed=seed) for seed in conditions.SEEDS]
    own = filled_box(lit.shape[:2], targets.boxes[-1]) > 0
    for k, score in enumerate(record["maps"]["clear"]["dclose"]["levels"]):
        maps = [lamps.prepare(lit).maps_to_image(one.levels[k])[-1] for one in explained]
        assert score == pytest.approx(np.mean([conditions.relevance_rank(m, own) for m in maps]), abs=1e-4)


def test_correlated_maps_never_share_a_seed():
    rng = np.random.default_rng(0)
    a, b, c, d = rng.random((4, 8, 9))
    box = np.array([2, 1, 6, 5])
    found = conditions.map_scores(np.stack([a, b]), np.stack([c, d]), box)
    assert found["itself"] == pytest.approx(rank_correlation(a, b), abs=1e-4)
    crossed = (rank_correlation(a, d) + rank_correlation(b, c)) / 2
    assert found["clear"] == pytest.approx(crossed, abs=1e-4)
    energy = np.mean([saliency[1:5, 2:6].sum() / saliency.sum() for saliency in (a, b)])
    assert found["ebpg"] == pytest.approx(energy, abs=1e-4)
    highest = [np.argsort(-saliency.ravel())[:16] for saliency in (a, b)]
    inside = np.zeros((8, 9), bool)
    inside[1:5, 2:6] = True
    assert found["inside"] == pytest.approx(np.mean([inside.ravel()[top] for top in highest]), abs=1e-4)
    empty = conditions.map_scores(np.stack([a, np.zeros_like(a)]), np.stack([c, d]), box)
    assert empty["itself"] is None and empty["clear"] is None


@pytest.fixture
def blind():
    """Two detectors that find nothing, for photos and for planted scenes, with one pass for each image."""
    detectors = [Lamps([[1, 1, 7, 9]], [[0.1, 0.1]]) for _ in range(2)]
    detectors[1].name = "planted lamps"
    return detectors


def test_a_stopped_run_resumes(tmp_path, blind):
    def study(**options):
        records = conditions.study_conditions(tmp_path, detectors=blind, n_masks=7, progress=False, **options)
        return [(line["detector"], line["image"], line["objects"]) for line in records.lines]

    assert study(limit=2) == [
        ("lamps", "astronaut", []),
        ("lamps", "camera", []),
        ("planted lamps", "scene_0", []),
        ("planted lamps", "scene_1", []),
    ]
    assert len(study()) == len(PHOTOS) + conditions.SCENES
    assert [len(detector.seen) for detector in blind] == [len(PHOTOS), conditions.SCENES]


def test_a_bad_option_is_refused_in_one_line(tmp_path, blind, capsys):
    for wrong, word in (
        ({"n_masks": 4}, "n_masks must be at least one for each of 5 levels, got 4"),
        ({"limit": 0}, "limit"),
        ({"coco": tmp_path}, "cannot be read"),
    ):
        with pytest.raises(dc.InputError, match=word):
            conditions.study_conditions(tmp_path / "other", detectors=blind, **wrong)
    assert not (tmp_path / "other").exists()
    study = partial(conditions.study_conditions, tmp_path, detectors=blind, limit=1, progress=False)
    study(n_masks=7)
    with pytest.raises(dc.InputError, match=r"was made with n_masks 7, not 9: choose another folder$"):
        study(n_masks=9)
    blind[0].provenance = {"weights_sha256": "of others"}
    with pytest.raises(dc.InputError, match=r"was made with detectors .*, not .*of others"):
        study(n_masks=7)
    assert conditions.main([str(tmp_path), "--detectors", "planted", "--limit", "0"]) == 2
    assert capsys.readouterr().err == "conditions: limit must be an integer of at least 1, got 0\n"
    assert conditions.main([str(tmp_path), "--detectors", "magic"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("conditions: ") and "detector must be" in line


def test_photos_of_coco_follow_those_that_ship(tmp_path, blind):
    drawn(tmp_path / "coco", 3)
    (tmp_path / "coco" / "val2017" / f"{1:012d}.png").unlink()
    study = partial(conditions.study_conditions, tmp_path / "out", detectors=blind[:1], progress=False)
    with pytest.warns(UserWarning, match=r"^1 of 3 images .* are missing .* they are left out"):
        names = [line["image"] for line in study(coco=tmp_path / "coco").lines]
    assert names == [*PHOTOS, "coco 0", "coco 2"]  # those that are there
    drawn(tmp_path / "other", 4)
    with pytest.raises(dc.InputError, match="was made with annotations_sha256"):
        study(coco=tmp_path / "other")


def test_a_photo_that_cannot_be_read_is_recorded_and_others_go_on(tmp_path, blind):
    drawn(tmp_path / "coco", 3)
    (tmp_path / "coco" / "val2017" / f"{1:012d}.png").write_bytes(b"torn")
    records = conditions.study_conditions(
        tmp_path / "out", detectors=blind[:1], coco=tmp_path / "coco", progress=False
    )
    *_, before, torn, after = records.lines
    assert before["objects"] == after["objects"] == [] and "is not an image" in torn["error"]


# -- what the records say
