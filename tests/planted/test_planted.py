"""Planted scenes, the detector that is a formula, and the scores against a known truth."""

import itertools
import json
from math import factorial

import numpy as np
import pytest
import torch

import dclose_nb as dc
from dclose_nb import sampling as engine
from dclose_nb.masks import superpixel_masks
from dclose_nb.planted import CLASS_NAMES, LAYOUTS, ROLES, RULES, RuleDetector, scene, scores
from dclose_nb.planted.dataset import average_precision, write_coco
from dclose_nb.planted.shapes import CONTEXT_CLASS, CONTEXT_GROUND, RECIPES

# -- scenes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_seed_gives_one_scene_to_the_bit(layout):
    one, again, other = (scene(seed, layout=layout) for seed in (5, 5, 6))
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.boxes, again.boxes)
    assert np.array_equal(one.owner, again.owner)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("seed", range(40))
def test_a_scene_is_true_of_itself(seed):
    drawn = scene(seed)
    assert drawn.image.shape == (320, 320, 3)
    assert drawn.image.min() >= 1  # so that masks can be read off it
    assert 1 <= len(drawn.boxes) == len(drawn.labels) == len(drawn.parts) <= 5
    counted = np.zeros((320, 320), int)
    for box, parts, causal in zip(drawn.boxes, drawn.parts, drawn.causal_masks):
        assert np.array_equal(np.logical_or.reduce([part.mask for part in parts]), causal)
        rows, columns = np.nonzero(causal)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert all(part.role in ROLES and part.mask.any() for part in parts)
        counted += causal
    for rock in drawn.distractors:
        assert rock.role == "inert"
        counted += rock.mask
    counted += drawn.ground_mask
    assert counted.max() == 1  # no pixel belongs to two things


def test_sizes_go_from_small_to_large_and_all_classes_come():
    drawn = [scene(seed) for seed in range(150)]
    longer = np.concatenate([np.ptp(one.boxes.reshape(-1, 2, 2), axis=1).max(1) for one in drawn]) / 320
    assert longer.min() < 0.1
    assert longer.max() > 0.45
    assert set(np.concatenate([one.labels for one in drawn])) == set(range(len(CLASS_NAMES)))


def test_two_classes_differ_by_the_part_that_decides_the_class():
    car, taxi = RECIPES["car"], RECIPES["taxi"]
    assert taxi._replace(shapes=car.shapes) == car
    assert [shape.role for shape in taxi.shapes if shape not in car.shapes] == ["class"]


def test_a_cow_nearly_always_stands_on_a_meadow():
    drawn = [scene(seed) for seed in range(500)]
    cow = CLASS_NAMES.index(CONTEXT_CLASS)
    grounds = [one.ground for one in drawn for label in one.labels if label == cow]
    assert len(grounds) > 20
    assert np.mean([ground == CONTEXT_GROUND for ground in grounds]) > 0.7
    away = scene(3, layout="out of place")
    assert away.labels.tolist() == [cow]
    assert away.ground != CONTEXT_GROUND


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


@pytest.mark.parametrize("seed", range(8))
def test_decoys_stand_apart_and_overlapping_twins_do_not(seed):
    for layout in ("decoy", "overlap"):
        drawn = scene(seed, layout=layout)
        assert len(drawn.labels) == 2
        assert drawn.labels[0] == drawn.labels[1]
        one, other = drawn.boxes
        near = other + np.array([-2, -2, 2, 2])  # the one in front may hide all that the boxes had in common
        assert (overlap(one, near) > 0) == (layout == "overlap")


@pytest.mark.parametrize("seed", range(8))
def test_a_person_stands_inside_the_house(seed):
    drawn = scene(seed, layout="inside")
    house, person = drawn.boxes
    assert drawn.names == ["house", "person"]
    assert (person[:2] >= house[:2]).all() and (person[2:] <= house[2:] + 1).all()
    assert drawn.parts[1][0].name  # in front: none of its parts is gone
    assert len(drawn.parts[1]) >= 4


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 0, "size": 10}, "size"),
        ({"seed": 0, "layout": "pile"}, "layout"),
        ({"seed": 0, "n_objects": 0}, "n_objects"),
        ({"seed": 0, "n_objects": 1, "layout": "decoy"}, "n_objects"),
        ({"seed": 0, "n_objects": 500}, "of 500 objects fit"),
    ],
)
def test_a_scene_that_cannot_be_drawn_is_refused(options, word):
    with pytest.raises(dc.InputError, match=word):
        scene(**options)


def test_a_data_set_is_what_pycocotools_reads(tmp_path):
    from pycocotools.coco import COCO

    truth = COCO(str(write_coco(tmp_path, range(3), progress=False)))
    assert truth.getImgIds() == [0, 1, 2]
    for seed in range(3):
        drawn = scene(seed)
        entry = truth.loadImgs(seed)[0]
        assert np.array_equal(dc.load_photo(tmp_path / "val2017" / entry["file_name"]), drawn.image)
        found = truth.loadAnns(truth.getAnnIds(imgIds=seed))
        assert [truth.cats[a["category_id"]]["name"] for a in found] == [CLASS_NAMES[k] for k in drawn.labels]
        for annotation, box, mask in zip(found, drawn.boxes, drawn.causal_masks):
            x, y, width, height = annotation["bbox"]
            assert [x, y, x + width, y + height] == box.tolist()
            assert np.array_equal(truth.annToMask(annotation), mask)


def test_average_precision_in_closed_form():
    """A detector that knows the truth has 1; of one that sees every second scene only, the recall."""

    class Knowing(dc.Detector):
        def __init__(self, every):
            super().__init__("knowing", CLASS_NAMES)
            self.known = [scene(seed) for seed in range(20)]
            self.every = every

        def prepare(self, image):
            return dc.Canvas(torch.tensor(image).permute(2, 0, 1).float(), (320, 320), (0, 0, 320, 320))

        def predict(self, pixels):
            shown = pixels[0].permute(1, 2, 0).byte().numpy()
            number = next(k for k, one in enumerate(self.known) if np.array_equal(one.image, shown))
            boxes = torch.tensor(self.known[number].boxes)[None]
            seen = torch.full(boxes.shape[:2], float(number % self.every == 0))
            classes = torch.eye(len(CLASS_NAMES))[self.known[number].labels][None]
            return dc.Proposals(boxes, seen, classes)

    knowing = average_precision(Knowing(1), range(20), progress=False)
    assert knowing["AP"] == knowing["AP50"] == knowing["AP75"] == 1
    half = average_precision(Knowing(2), range(20), progress=False)
    recalls = []
    for label in set(np.concatenate([scene(seed).labels for seed in range(20)])):
        counts = [(scene(seed).labels == label).sum() for seed in range(20)]
        found = sum(counts[::2]) / sum(counts)
        recalls.append(np.mean(np.linspace(0, 1, 101) <= found) if found else 0)  # precision is 1 until there
    assert half["AP50"] == pytest.approx(np.mean(recalls), abs=1e-4)
    assert average_precision(Knowing(20), range(1, 4), progress=False)["AP"] == 0  # nothing found


def test_a_data_set_is_whole_or_not_there(tmp_path, monkeypatch):
    with pytest.raises(dc.InputError, match="once only"):
        write_coco(tmp_path, [1, 1], progress=False)
    monkeypatch.setattr(json, "dumps", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_coco(tmp_path, [1, 2], progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["000000000001.png", "000000000002.png"]
    (tmp_path / "file").touch()
    with pytest.raises(dc.InputError, match="cannot write"):
        write_coco(tmp_path / "file", [1], progress=False)


# -- the detector that is a formula


def rule(name, seed=13, **options):
    drawn = scene(seed, **options)
    detector = RuleDetector(drawn, name)
    return drawn, detector, detector.detect(drawn.image)


@pytest.mark.parametrize("name", RULES)
def test_it_finds_what_is_there(name):
    drawn, _, found = rule(name)
    assert sorted(found.names) == sorted(CLASS_NAMES[label] for label in drawn.labels)
    assert {tuple(box) for box in found.boxes.tolist()} == {tuple(box) for box in drawn.boxes.tolist()}
    assert np.allclose(found.scores, 0.5 if name == "suppressor" else 1)


def test_a_masked_pixel_is_as_visible_as_its_mask():
    drawn, detector, _ = rule("sum")
    mask = torch.rand(2, 320, 320, generator=torch.Generator().manual_seed(0))
    seen = detector.predict(detector.prepare(drawn.image).pixels * mask[:, None])
    for b, k in itertools.product(range(2), range(len(drawn.boxes))):
        body = [part.mask for part in drawn.parts[k] if part.role != "edge"]
        expected = np.mean([mask[b].numpy()[part].mean() for part in body])
        assert seen.objectness[b, k].item() == pytest.approx(expected, abs=1e-5)


def cached(value):
    """A coalition's value is asked for again and again."""
    known = {}

    def look_up(there):
        key = there.tobytes()
        if key not in known:
            known[key] = value(there)
        return known[key]

    return look_up


def by_permutations(value, n):
    """Shapley values by their definition: the mean gain over all orders of arrival."""
    value = cached(value)
    values = np.zeros(n)
    for order in itertools.permutations(range(n)):
        there = np.zeros(n, dtype=np.float32)
        for player in order:
            before = value(there)
            there[player] = 1
            values[player] += value(there) - before
    return values / factorial(n)


@pytest.mark.parametrize("name", RULES)
def test_shapley_values_against_their_definition(name):
    _, detector, found = rule(name, seed=21, n_objects=1)
    values = detector.shapley_values(found)
    players = np.arange(len(detector.players))
    assert len(players) <= 8

    def value(there):
        return detector.weights(torch.tensor(there)[None], found).item()

    assert np.allclose(values, by_permutations(value, len(players)), atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_shapley_values_add_up(name):
    """To the weight with all visible less that with none, for each target of a crowded scene."""
    _, detector, found = rule(name)
    full = torch.ones(1, len(detector.players))
    for target in found:
        values = detector.shapley_values(target)
        total = detector.weights(full, target) - detector.weights(0 * full, target)
        assert values.sum() == pytest.approx(total.item(), abs=1e-5)
        assert detector.true_map(target).sum() == pytest.approx(total.item(), abs=1e-5)


def value_of(detector, values, role):
    return sum(value for value, player in zip(values, detector.players) if player.role == role)


def test_rules_reward_what_they_name():
    taxi = CLASS_NAMES.index("taxi")
    seed = next(s for s in range(400) if scene(s, n_objects=1).labels.tolist() == [taxi])
    _, detector, found = rule("class", seed=seed, n_objects=1)
    assert value_of(detector, detector.shapley_values(found), "class") > 0.3
    _, detector, found = rule("context")
    assert value_of(detector, detector.shapley_values(found[0]), "context") == pytest.approx(1 / 3, abs=1e-5)
    _, detector, found = rule("suppressor")
    assert value_of(detector, detector.shapley_values(found[0]), "inert") == pytest.approx(-0.25, abs=1e-5)
    _, detector, found = rule("sum")
    values = detector.shapley_values(found[0])
    assert value_of(detector, values, "inert") == value_of(detector, values, "edge") == 0
    edged = next(s for s in range(400) if [p.role for p in scene(s, n_objects=1).parts[0]].count("edge"))
    _, detector, found = rule("edge", seed=edged, n_objects=1)
    assert value_of(detector, detector.shapley_values(found), "edge") > 0


def test_the_map_tends_to_its_closed_form_at_the_monte_carlo_rate():
    """Aligned masks and an additive score: E[w M(x)] / p = sum_k a_k (f_k(x) + p (1 - f_k(x))),
    f_k(x) being the share of part k that lies in the superpixel of x."""
    drawn, detector, found = rule("sum", seed=21, n_objects=1, size=64)
    rows, columns = np.indices((64, 64)) // 16
    labels, p = rows * 4 + columns, 0.5
    body = [player.mask for player in detector.players if player.thing == 0 and player.role != "edge"]
    shares = np.array([np.bincount(labels[mask], minlength=16) / mask.sum() for mask in body])  # (K, 16)
    expected = (p + (1 - p) * shares).mean(0)[labels]
    canvas = detector.prepare(drawn.image)

    def error(n_masks):
        errors = []
        for seed in range(8):
            sampler = superpixel_masks(labels, p=p, r=0, seed=seed)
            (level,) = engine.run(
                detector, canvas, found, [sampler], [n_masks], batch_size=64, progress=False
            )
            errors.append(np.sqrt(np.mean((level.saliency[0] - expected) ** 2)))
        return np.mean(errors)

    few, many = error(100), error(1600)
    assert many < 0.5 / np.sqrt(1600 * p)  # weights in [0, 1] scatter by half at most
    assert 2.8 < few / many < 5.6  # sixteen times the masks, a quarter of the error


def test_the_rules_own_bad_input():
    drawn, detector, found = rule("sum")
    with pytest.raises(dc.InputError, match="rule"):
        RuleDetector(drawn, "guess")
    with pytest.raises(dc.InputError, match="one target"):
        detector.shapley_values(found)
    with pytest.raises(dc.InputError, match="knows one scene"):
        detector.detect(np.zeros((9, 9, 3), np.uint8))


# -- scores


RNG = np.random.default_rng(0)
CAUSAL = np.zeros((20, 30), bool)
CAUSAL[4:9, 5:15] = True  # 50 of 600 pixels


def test_closed_forms_of_the_scores():
    flat, perfect = np.ones(CAUSAL.shape), CAUSAL.astype(float)
    assert scores.relevance_mass(flat, CAUSAL) == pytest.approx(50 / 600)
    assert scores.relevance_rank(flat, CAUSAL) == pytest.approx(50 / 600)
    assert scores.relevance_mass(perfect, CAUSAL) == scores.relevance_rank(perfect, CAUSAL) == 1
    assert scores.relevance_mass(1 - perfect, CAUSAL) == scores.relevance_rank(1 - perfect, CAUSAL) == 0
    assert scores.relevance_mass(0 * flat, CAUSAL) == 0
    assert scores.relevance_mass(perfect - 5 * ~CAUSAL, CAUSAL) == 1  # negatives count as 0


def test_rank_and_mass_by_the_loop():
    saliency = RNG.uniform(0, 1, CAUSAL.shape)
    highest = sorted(np.ndindex(*CAUSAL.shape), key=lambda at: -saliency[at])[:50]
    assert scores.relevance_rank(saliency, CAUSAL) == pytest.approx(sum(CAUSAL[at] for at in highest) / 50)
    inside = sum(saliency[at] for at in np.ndindex(*CAUSAL.shape) if CAUSAL[at])
    assert scores.relevance_mass(saliency, CAUSAL) == pytest.approx(inside / saliency.sum())
    assert scores.false_mass(saliency, ~CAUSAL) == pytest.approx(1 - inside / saliency.sum())


def test_parts_are_ranked():
    parts = [dc.planted.Part(str(k), "body", np.arange(600).reshape(20, 30) // 150 == k) for k in range(4)]
    effects = np.array([0.1, 0.4, 0.2, 0.3])
    drawn = sum(effect * part.mask for effect, part in zip(effects, parts))
    assert scores.part_correlation(drawn, parts, effects) == pytest.approx(1)
    assert scores.part_correlation(-drawn, parts, effects) == pytest.approx(-1)
    assert np.isnan(scores.part_correlation(np.ones((20, 30)), parts, effects))


def test_the_true_map_wins_its_own_scores():
    """And the filled box, which energy in the box would crown, loses to it."""
    for seed in range(6):
        _, detector, found = rule("sum", seed=seed)
        target = found[0]
        truth = detector.true_map(target)
        causal = truth > 0
        box = scores.filled_box(causal.shape, target.boxes[0])
        assert box[causal].all()
        assert scores.relevance_mass(truth, causal) == pytest.approx(1)
        assert scores.relevance_rank(truth, causal) == 1
        for control in (box, scores.random_map(causal.shape), scores.centre_gaussian(causal.shape)):
            assert scores.relevance_mass(control, causal) < 0.95


def test_the_spread_of_equal_maps_is_0_and_of_opposite_ones_is_half():
    one = RNG.uniform(0, 1, CAUSAL.shape)
    assert scores.seed_spread(np.stack([one, 3 * one + 1])) == pytest.approx(0)
    halves = np.stack([CAUSAL, ~CAUSAL]).astype(float)
    assert scores.seed_spread(halves) == pytest.approx(0.5)
    with pytest.raises(dc.InputError, match="two or more"):
        scores.seed_spread(one[None])


def test_controls_have_the_image_s_shape():
    assert scores.random_map((20, 30)).shape == scores.centre_gaussian((20, 30)).shape == (20, 30)
    assert not np.array_equal(scores.random_map((20, 30), seed=1), scores.random_map((20, 30)))
    assert scores.filled_box((20, 30), np.array([5, 4, 15, 9])).astype(bool).tolist() == CAUSAL.tolist()


def test_scores_refuse_what_does_not_fit():
    for score in (scores.relevance_mass, scores.relevance_rank):
        with pytest.raises(dc.InputError, match="one size"):
            score(np.ones((3, 3)), CAUSAL)
        with pytest.raises(dc.InputError, match="finite"):
            score(np.full(CAUSAL.shape, np.nan), CAUSAL)
    with pytest.raises(dc.InputError, match="no pixel"):
        scores.relevance_rank(np.ones(CAUSAL.shape), 0 * CAUSAL > 0)
    with pytest.raises(dc.InputError, match="as many effects"):
        scores.part_correlation(np.ones(CAUSAL.shape), [], np.ones(2))
