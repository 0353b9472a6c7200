"""The detector that is a formula, and its exact explanations."""

import itertools
from math import factorial

import numpy as np
import pytest
import torch

import dclose_nb as dc
from dclose_nb.masks import superpixel_masks
from dclose_nb.planted import CLASS_NAMES, RULES, RuleDetector, scene
from dclose_nb.sampling import Plan, sample


def rule(name, seed=13, **options):
    drawn = scene(seed, **options)
    detector = RuleDetector(drawn, name)
    return drawn, detector, detector.detect(drawn.image)


@pytest.mark.parametrize("name", RULES)
def test_it_finds_the_objects_of_the_scene(name):
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
    """Caches the value of a coalition, which is needed many times."""
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
        before = value(there)
        for player in order:
            there[player] = 1
            now = value(there)
            values[player] += now - before
            before = now
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
    """They add up to the weight with all players visible less that with none."""
    _, detector, found = rule(name)
    full = torch.ones(1, len(detector.players))
    for target in found:
        values = detector.shapley_values(target)
        total = detector.weights(full, target) - detector.weights(0 * full, target)
        assert values.sum() == pytest.approx(total.item(), abs=1e-5)
        assert detector.true_map(target).sum() == pytest.approx(total.item(), abs=1e-5)


def value_of(detector, values, role):
    return sum(value for value, player in zip(values, detector.players) if player.role == role)


def test_each_rule_gives_value_to_the_parts_that_it_names():
    taxi = CLASS_NAMES.index("taxi")
    seed = next(s for s in range(400) if scene(s, n_objects=1).labels.tolist() == [taxi])
    _, detector, found = rule("class", seed=seed, n_objects=1)
    assert value_of(detector, detector.shapley_values(found), "class") > 0.3
    _, detector, found = rule("context")
    assert value_of(detector, detector.shapley_values(found[0]), "context") == pytest.approx(1 / 3, abs=1e-5)
    _, detector, found = rule("suppressor")
    assert value_of(detector, detector.shapley_values(found[0]), "inert") == pytest.approx(-0.25, abs=1e-5)
    _, detector, found = rule("landmark")
    assert value_of(detector, detector.shapley_values(found[0]), "inert") == pytest.approx(1 / 3, abs=1e-5)
    _, detector, found = rule("sum")
    values = detector.shapley_values(found[0])
    assert value_of(detector, values, "inert") == value_of(detector, values, "edge") == 0
    edged = next(s for s in range(400) if [p.role for p in scene(s, n_objects=1).parts[0]].count("edge"))
    _, detector, found = rule("edge", seed=edged, n_objects=1)
    assert value_of(detector, detector.shapley_values(found), "edge") > 0


def test_a_landmark_is_the_largest_stone_outside_the_box():
    for seed in range(60, 84):
        drawn, detector, _ = rule("landmark", seed=seed)
        for number, box in enumerate(drawn.boxes):
            in_box = dc.planted.scores.filled_box(drawn.owner.shape, box) > 0
            sizes = [rock.mask.sum() for rock in drawn.distractors if not (rock.mask & in_box).any()]
            chosen = [detector.players[p].mask.sum() for p in detector.landmark(number)]
            assert chosen == ([max(sizes)] if sizes else [])


def test_weights_double_from_part_to_part_in_an_order_of_each_object_s_own():
    orders = set()
    for seed in range(12):
        _, detector, found = rule("weighted", seed=seed, n_objects=1)
        values = detector.shapley_values(found)
        body = [v for v, player in zip(values, detector.players) if player.role in ("body", "class")]
        assert np.allclose(sorted(body) / min(body), 2.0 ** np.arange(len(body)), rtol=1e-3)
        orders.add(tuple(np.argsort(body)))
    assert len(orders) > 6


def test_the_map_tends_to_its_closed_form_at_the_monte_carlo_rate():
    """Aligned masks and an additive score: E[w M(x)] / p = sum_k a_k (f_k(x) + p (1 - f_k(x))),
    f_k(x) being the share of part k that lies in the superpixel of x."""
    drawn, detector, found = rule("sum", seed=21, n_objects=1, size=64)
    rows, columns = np.indices((64, 64)) // 16
    labels, p = rows * 4 + columns, 0.5
    body = [player.mask for player in detector.players if player.number == 0 and player.role != "edge"]
    shares = np.array([np.bincount(labels[mask], minlength=16) / mask.sum() for mask in body])  # (K, 16)
    expected = (p + (1 - p) * shares).mean(0)[labels]
    canvas = detector.prepare(drawn.image)

    def error(n_masks):
        errors = []
        for seed in range(8):
            sampler = superpixel_masks(labels, p=p, r=0, seed=seed)
            plan = Plan([sampler], [n_masks])
            (level,) = sample(detector, canvas, found, plan, batch_size=64, progress=False)
            errors.append(np.sqrt(np.mean((level.saliency[0] - expected) ** 2)))
        return np.mean(errors)

    few, many = error(100), error(1600)
    assert many < 0.5 / np.sqrt(1600 * p)  # weights in [0, 1] scatter by half at most
    assert 2.8 < few / many < 5.6  # sixteen times as many masks give a quarter of the error


def test_bad_rules_and_targets_are_refused():
    drawn, detector, found = rule("sum")
    with pytest.raises(dc.InputError, match="rule"):
        RuleDetector(drawn, "guess")
    with pytest.raises(dc.InputError, match="one target"):
        detector.shapley_values(found)
    with pytest.raises(dc.InputError, match="knows one scene"):
        detector.detect(np.zeros((9, 9, 3), np.uint8))


def test_two_questions_have_two_truths():
    """A taxi's sign decides its class, its antenna where its box ends, and each map finds its own."""
    drawn = scene(12)
    detector = RuleDetector(drawn, "class and edge")
    found = detector.detect(drawn.image)
    taxi = found[found.names.index("taxi")]
    asked = dc.Targets(taxi.boxes, taxi.names)
    sign, antenna = (
        next(part.mask for part in drawn.parts[1] if part.name == name) for name in ("sign", "antenna")
    )
    for question, own, other in (("class", sign, antenna), ("place", antenna, sign)):
        truth = detector.true_map(taxi, question)
        assert (truth[own] > 0).all() and (truth[~own] == 0).all()
        options = {"n_masks": 400, "question": question, "progress": False}
        saliency = dc.explain(detector, drawn.image, asked, method="contrast", **options).saliency[0]
        assert saliency[own].mean() > 3 * max(saliency[other].mean(), 0)
