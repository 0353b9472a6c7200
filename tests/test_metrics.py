"""Metrics against closed forms and a loop over the steps."""

import warnings

import cv2
import numpy as np
import pytest
import torch
from toys import Lamps

import dclose_nb as dc
from dclose_nb import metrics
from dclose_nb.detection import box_iou

BOX = np.array([2, 1, 5, 4])


def one_pixel(shape=(6, 8), at=(2, 3)):
    saliency = np.zeros(shape)
    saliency[at] = 7
    return saliency


def test_sparsity_in_closed_form():
    assert metrics.sparsity(one_pixel()) == pytest.approx(48)
    assert metrics.sparsity(np.full((6, 8), 3.0)) == 1
    ramp = np.linspace(5, 9, 48).reshape(6, 8)
    assert metrics.sparsity(ramp) == pytest.approx(2)  # the mean of 0 to 1 is one half
    assert metrics.sparsity(-3 + 2 * ramp) == pytest.approx(2)


def test_energy_in_closed_form():
    assert metrics.ebpg(np.ones((6, 8)), BOX) == pytest.approx(9 / 48)  # the box's share of the area
    assert metrics.ebpg(one_pixel(), BOX) == 1
    assert metrics.ebpg(one_pixel(at=(0, 0)), BOX) == 0
    assert metrics.ebpg(np.zeros((6, 8)), BOX) == 0
    below = one_pixel() - 1  # negative values count as 0
    assert metrics.ebpg(below, BOX) == 1
    assert metrics.ebpg(np.ones((6, 8)), BOX + 0.4) == pytest.approx(9 / 48)  # edges are rounded
    assert metrics.ebpg(np.ones((6, 8)), [-3, -3, 4, 3]) == pytest.approx(12 / 48)
    assert metrics.ebpg(np.ones((6, 8)), [2.6, 1, 2.9, 4]) == pytest.approx(3 / 48)  # thinner than a pixel
    assert metrics.ebpg(one_pixel(at=(2, 3)), [3.1, 2.2, 3.4, 2.4]) == 1


def test_energy_by_the_loop():
    saliency = np.random.default_rng(0).normal(size=(6, 8))
    inside = total = 0.0
    for y in range(6):
        for x in range(8):
            value = max(saliency[y, x], 0)
            total += value
            if BOX[0] <= x < BOX[2] and BOX[1] <= y < BOX[3]:
                inside += value
    assert metrics.ebpg(saliency, BOX) == pytest.approx(inside / total)


def test_pointing_game_in_closed_form():
    assert metrics.pointing_game(one_pixel(), BOX) == 1
    assert metrics.pointing_game(one_pixel(at=(0, 0)), BOX) == 0
    assert metrics.pointing_game(one_pixel() + one_pixel(at=(0, 0)), BOX) == 0.5
    assert metrics.pointing_game(np.ones((6, 8)), BOX) == pytest.approx(9 / 48)


def test_leakage_in_closed_form():
    own, other = np.zeros((2, 6, 8), bool)
    own[1:4, 2:5], other[1:4, 5:7] = True, True
    assert metrics.leakage(np.ones((6, 8)), own, other) == pytest.approx(6 / 15)
    assert metrics.leakage(one_pixel(), own, other) == 0
    assert metrics.leakage(one_pixel(at=(2, 5)), own, other) == 1
    assert metrics.leakage(one_pixel() + one_pixel(at=(2, 5)) - 1, own, other) == 0.5  # negatives are 0
    assert metrics.leakage(one_pixel(at=(0, 0)), own, other) == 0.5
    numbers = own.astype(np.uint8), other.astype(float)  # not rows to pick
    assert metrics.leakage(np.ones((6, 8)), *numbers) == pytest.approx(6 / 15)
    with pytest.raises(dc.InputError, match=r"other must be finite numbers \(6, 8\), got .* \(8, 6\)"):
        metrics.leakage(np.ones((6, 8)), own, other.T)


def test_deletion_in_closed_form(lamps, lit):
    """A lamp is found until too few of its pixels shine: objectness b (1 - removed share), p = 0.9."""
    found = lamps.detect(lit)[0]
    x1, y1, x2, y2 = found.boxes[0].astype(int)
    perfect = np.zeros(lit.shape[:2])
    perfect[y1:y2, x1:x2] = np.linspace(2, 1, (y2 - y1) * (x2 - x1)).reshape(y2 - y1, x2 - x1)
    steps = lit[..., 0].size  # a pixel a step
    area = (y2 - y1) * (x2 - x1)
    left = 1 - np.arange(steps + 1) / area
    expected = (250 / 255 * left * 0.9 >= 0.25).astype(float)
    got = metrics.deletion(lamps, lit, found, perfect, steps=steps)
    assert np.allclose(got.curve, expected, atol=1e-5)
    assert got.score == pytest.approx(np.trapezoid(expected, dx=1 / steps))
    worst = metrics.deletion(lamps, lit, found, -perfect, steps=steps)
    assert worst.score > got.score + 0.3


def test_the_ends_of_the_curves(lamps, lit):
    found = lamps.detect(lit)[1]
    got = metrics.over_all(lamps, lit, found, np.random.default_rng(0).random(lit.shape[:2]), steps=7)
    assert got.deletion.curve[0] == pytest.approx(1) and got.deletion.curve[-1] == 0
    assert got.insertion.curve[-1] == pytest.approx(1)
    assert got.score == pytest.approx(got.insertion.score - got.deletion.score)
    assert len(got.deletion.curve) == 8


def by_the_loop(detector, image, target, saliency, steps, kind):
    """Step by step, with the detector's own `detect`, on an image that the canvas holds unscaled."""
    width = max(round(51 / 640 * max(image.shape[:2])) // 2 * 2 + 1, 3)
    blurred = cv2.GaussianBlur(image.astype(np.float32), (width, width), 0)
    before, after = (image, image * 0) if kind == "deletion" else (blurred, image)
    order = np.argsort(-saliency.ravel())
    curve = []
    for step in range(steps + 1):
        now = before.astype(np.float32).reshape(-1, 3).copy()
        changed = order[: round(step * saliency.size / steps)]
        now[changed] = after.reshape(-1, 3)[changed]
        canvas = detector.prepare(image)
        canvas.pixels[:, *canvas.window] = torch.tensor(now.reshape(image.shape)).permute(2, 0, 1)
        found = detector.detect_on(canvas, confidence=0.25, iou=0.45, class_agnostic=True)
        found = found[found.labels == target.labels[0]]
        score = 0.0
        if len(found):
            overlap = box_iou(torch.tensor(found.boxes), torch.tensor(target.boxes))[:, 0].numpy()
            a, b = found.class_probs[overlap.argmax()], target.class_probs[0]
            distance = 1 - a @ b / np.sqrt((a @ a) * (b @ b))
            score = overlap.max() * np.sqrt(np.exp(-(distance**2) / 0.25**2))
        curve.append(score)
    return curve


@pytest.mark.parametrize("kind", ["deletion", "insertion"])
def test_curves_by_the_loop_on_a_real_network(kind):
    detector, drawn = dc.load_detector("planted", device="cpu"), dc.planted.scene(58)
    targets = detector.detect(drawn.image)[:2]
    saliency = np.stack(np.indices((320, 320))).astype(float)  # from the bottom up, and from right to left
    saliency += np.random.default_rng(2).random(saliency.shape) / 4  # no two pixels are equal
    canvas = detector.prepare(drawn.image)
    got = metrics.curves(detector, canvas, targets, saliency, steps=16, kinds=(kind,), batch_size=4)[kind]
    for k in (0, 1):
        expected = by_the_loop(detector, drawn.image, targets[k], saliency[k], 16, kind)
        assert np.allclose(got[k].curve, expected, atol=1e-3)
        assert len(set(np.round(expected, 3))) >= 4  # the curve is not trivial


def test_blurring_the_most_salient_first_is_insertion_of_the_least_salient_backwards():
    detector, image, targets = dc.load_example("overlap")
    saliency = np.random.default_rng(5).permutation(image[..., 0].size).reshape(1, *image.shape[:2])
    canvas = detector.prepare(image)
    got = metrics.curves(detector, canvas, targets[0], saliency, steps=4, kinds=("blurring",))["blurring"][0]
    inserted = metrics.curves(detector, canvas, targets[0], -saliency, steps=4, kinds=("insertion",))
    assert np.allclose(got.curve, inserted["insertion"][0].curve[::-1], atol=1e-5)
    assert got.curve[0] > 0.9 and np.ptp(got.curve) > 0.1


def test_batches_and_other_detections_do_not_change_a_curve(lamps, lit):
    found = lamps.detect(lit)
    maps = np.random.default_rng(3).random((2, *lit.shape[:2]))
    canvas = lamps.prepare(lit)
    single = metrics.curves(lamps, canvas, found, maps, steps=10, batch_size=1)
    batched = metrics.curves(lamps, canvas, found, maps, steps=10, batch_size=7)
    for k in (0, 1):
        alone = metrics.over_all(lamps, lit, found[k], maps[k], steps=10)
        for kind in ("deletion", "insertion"):
            assert np.allclose(single[kind][k].curve, batched[kind][k].curve, atol=1e-6)
            assert np.allclose(single[kind][k].curve, getattr(alone, kind).curve, atol=1e-6)


def test_pixels_of_equal_value_follow_each_other_at_random(lamps, lit):
    """The score of a constant map must not depend on where an object stands.

    A lamp goes when as much of it is black as of the image. Row by row the first would last for 0.56
    of the steps, column by column for 0.27.
    """
    flat = np.ones(lit.shape[:2])
    for lamp, sureness in zip(lamps.detect(lit), (0.9, 0.8)):
        lasts = 1 - 0.25 / (250 / 255 * sureness)  # the share that can go until the score is below 0.25
        assert metrics.deletion(lamps, lit, lamp, flat, steps=240).score == pytest.approx(lasts, abs=0.1)


def test_all_ways_to_a_curve_take_a_constant_map_for_constant(lamps, lit):
    found = lamps.detect(lit)[0]
    nearly = np.full(lit.shape[:2], 0.3)
    nearly[:, :8] = np.nextafter(0.3, 1)
    curves = metrics.curves(lamps, lamps.prepare(lit), found, nearly[None], steps=50)["deletion"]
    assert metrics.is_empty(nearly)
    assert np.array_equal(curves[0].curve, metrics.deletion(lamps, lit, found, nearly, steps=50).curve)
    assert np.array_equal(curves[0].curve, metrics.deletion(lamps, lit, found, nearly * 0, steps=50).curve)


def test_values_that_differ_by_little_keep_their_order(lamps, lit):
    found = lamps.detect(lit)[0]
    order = np.random.default_rng(0).permutation(lit[..., 0].size).reshape(lit.shape[:2]).astype(float)
    fine = 1 + order * 1e-14  # all are 1 in single precision
    curves = [metrics.deletion(lamps, lit, found, saliency, steps=50).curve for saliency in (order, fine)]
    assert np.array_equal(*curves)


def test_bad_input(lamps, lit):
    found, saliency = lamps.detect(lit), np.ones(lit.shape[:2])
    canvas, wrong = lamps.prepare(lit), dc.Detections([[1, 1, 7, 9]], [1], [[1, 0]], ("x", "y"))

    def curves(**options):
        return metrics.curves(lamps, canvas, found[0], saliency[None], steps=3, **options)

    for call, word in (
        (lambda: metrics.deletion(lamps, lit, found, saliency), "not 2"),
        (
            lambda: metrics.over_all(lamps, lit, dc.Targets([[1, 1, 7, 9]], ["a"]), saliency),
            r"must be Detections, got Targets: use targets.detections\(detector.class_names\)",
        ),
        (lambda: metrics.over_all(lamps, lit, None, saliency), "must be Detections, got NoneType"),
        (lambda: metrics.over_all(lamps, lit, wrong, saliency), "other classes than the detector"),
        (lambda: metrics.over_all("yolox_nano", lit, found[0], saliency), "use load_detector"),
        (lambda: metrics.over_all(lamps, lit, found[0], saliency, steps=10**9), "steps must be .* 1000000"),
        (lambda: metrics.curves(lamps, lit, found[0], saliency[None]), "canvas must be Canvas, got ndarray"),
        (
            lambda: curves(kinds=("deletion", "x")),
            "kinds must be a tuple of 'deletion', 'insertion', 'blurring', got",
        ),
        (lambda: curves(kinds="deletion"), "kinds must be a tuple of"),
        (lambda: curves(batch_size=-1), "batch_size must be an integer of at least 1"),
        (lambda: curves(batch_size=0), "batch_size must be an integer of at least 1"),
        (
            lambda: metrics.step_scores(
                lamps.predict(canvas.pixels[None]), torch.ones(2, 4), torch.ones(1, 2)
            ),
            r"1 images need boxes \(1, 4\) and probs \(1, 2\), got",
        ),
        (lambda: metrics.ebpg(0 * saliency, [3, 3, 1, 1]), "holds no pixel"),
        (lambda: metrics.ebpg(saliency, ["1", "1", "7", "9"]), "must be numbers"),
        (lambda: metrics.leakage(saliency, np.nan * saliency, saliency), "own must be finite numbers"),
        (lambda: metrics.deletion(lamps, lit, found[0], saliency[:3]), "maps must be"),
        (lambda: metrics.insertion(lamps, lit, found[0], saliency, steps=0), "steps"),
        (lambda: metrics.sparsity(np.array([np.nan, 1])[None]), "finite"),
        (lambda: metrics.sparsity(np.ones(3)), r"\(H, W\)"),
        (lambda: metrics.ebpg(saliency, [1, 2, 3]), "x1, y1, x2, y2"),
        (lambda: metrics.ebpg(saliency, [100, 100, 120, 120]), "holds no pixel"),
        (lambda: metrics.ebpg(saliency, [3, 1, 3, 4]), "holds no pixel"),
    ):
        with pytest.raises(dc.InputError, match=word):
            call()


NO_MAPS = [["a", "b"]], [[1], [1, 2]], np.ones((4, 5), complex), np.array([["1"]]), None, [[10**400]]


@pytest.mark.parametrize("value", [*NO_MAPS, torch.ones(4, 5, requires_grad=True)], ids=repr)
def test_what_is_no_map_is_refused_in_one_line(lamps, lit, value):
    alone = metrics.sparsity, metrics.is_empty
    of_two = metrics.rank_correlation, metrics.ssim, metrics.hog_correlation
    scores = [*(lambda score=score: score(value) for score in alone)]
    scores += [lambda score=score: score(value, BOX) for score in (metrics.ebpg, metrics.pointing_game)]
    scores += [lambda score=score: score(np.ones((4, 5)), value) for score in of_two]
    scores += [
        lambda: metrics.leakage(value, value, value),
        lambda: metrics.over_all(lamps, lit, lamps.detect(lit)[0], value),
    ]
    for score in scores:
        with pytest.raises(dc.InputError, match="a map must be") as refusal:
            score()
        assert "\n" not in str(refusal.value)


def test_the_largest_numbers_score_as_others_do():
    """Their sum, and their distance from the lowest, are infinite."""
    small = np.random.default_rng(0).random((40, 40)) - 0.5
    large, other = small * 1e308 * 1.9, np.eye(40, dtype=bool)
    assert large.max() / 2 - large.min() / 2 > 0.9e308
    assert metrics.sparsity(large) == pytest.approx(metrics.sparsity(small))
    for score in (metrics.ebpg, metrics.pointing_game):
        assert score(large, BOX) == pytest.approx(score(small, BOX))
    assert metrics.ebpg(np.full((6, 8), 1e308), BOX) == pytest.approx(9 / 48)
    assert metrics.leakage(large, other, ~other) == pytest.approx(metrics.leakage(small, other, ~other))
    for score in (metrics.rank_correlation, metrics.ssim, metrics.hog_correlation):
        assert score(large, small) == pytest.approx(1)


def test_rank_correlation_in_closed_form():
    a = np.arange(12.0).reshape(3, 4)
    assert metrics.rank_correlation(a, a**3) == pytest.approx(1)
    assert metrics.rank_correlation(a, -a) == pytest.approx(-1)
    x, y = [1, 2, 3, 4], [2, 1, 4, 3]  # 1 - 6 sum d^2 / (n (n^2 - 1))
    assert metrics.rank_correlation(np.array([x]), np.array([y])) == pytest.approx(1 - 6 * 4 / 60)


def test_ssim_read_from_its_definition():
    a, b = np.random.default_rng(0).random((2, 13, 14))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = ((saliency - saliency.min()) / np.ptp(saliency) for saliency in (a, b))
    values = []
    for row in range(5, 8):
        for column in range(5, 9):
            p, q = (scaled[row - 5 : row + 6, column - 5 : column + 6] for scaled in (x, y))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
            cov = (window * p * q).sum() - mp * mq
            top = (2 * mp * mq + 0.01**2) * (2 * cov + 0.03**2)
            values.append(top / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2)))
    assert metrics.ssim(a, b) == pytest.approx(np.mean(values), rel=1e-6)
    assert metrics.ssim(a, 3 * a + 2) == pytest.approx(1)


@pytest.mark.filterwarnings("error")
def test_maps_without_oriented_gradients_have_no_correlation_of_them():
    board = np.indices((56, 56)).sum(axis=0) % 2.0
    assert np.isnan(metrics.hog_correlation(board, np.random.default_rng(0).random((56, 56))))


def test_hog_correlation_in_closed_form():
    across = np.tile(np.arange(56.0), (56, 1))
    # each cell has one of nine directions, and the two maps never the same: with the mean 1/9 of
    # such vectors, covariance is 0 - 1/81 and variance 1/9 - 1/81
    assert metrics.hog_correlation(across, across.T) == pytest.approx(-1 / 8)
    assert metrics.hog_correlation(across, 3 * across + 2) == pytest.approx(1)


@pytest.mark.parametrize("similarity", [metrics.rank_correlation, metrics.ssim, metrics.hog_correlation])
def test_maps_that_cannot_be_compared(similarity):
    a = np.random.default_rng(0).random((20, 30))
    assert np.isnan(similarity(a, np.ones((20, 30)))) and np.isnan(similarity(np.zeros((20, 30)), a))
    flat = np.ones((20, 30), np.float32)
    flat[3, 4] += 2e-7  # the same but for rounding
    assert np.ptp(flat) > 0 and np.isnan(similarity(a, flat)) and metrics.sparsity(flat) == 1
    with pytest.raises(dc.InputError, match="one size"):
        similarity(a, a.T)
    with pytest.raises(dc.InputError, match="finite"):
        similarity(a, np.full((20, 30), np.nan))


def test_maps_that_are_too_small_for_a_window():
    a = np.random.default_rng(0).random((8, 40))
    with pytest.raises(dc.InputError, match="11 x 11"):
        metrics.ssim(a, a)
    with pytest.raises(dc.InputError, match="3 x 3 cells of 3 pixels"):
        metrics.hog_correlation(a, a)


def test_a_detection_that_another_class_suppresses_is_named():
    """Two boxes on one spot: the fainter class survives within its class, and no score sees it."""
    shared = Lamps([[2, 2, 10, 10], [2, 2, 10, 11]], [[0.9, 0], [0, 0.6]])
    image = np.full((16, 16, 3), 255, dtype=np.uint8)
    bright, faint = shared.detect(image)
    with pytest.warns(UserWarning, match=r"^b 0\.60 scores 0 in the unchanged image.*class_agnostic=True"):
        assert not metrics.deletion(shared, image, faint, np.ones((16, 16))).curve.any()
    with pytest.warns(UserWarning, match="scores 0 in the unchanged image"):
        metrics.insertion(shared, image, faint, np.ones((16, 16)))
    assert len(shared.detect(image, class_agnostic=True)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.over_all(shared, image, bright, np.ones((16, 16)))
