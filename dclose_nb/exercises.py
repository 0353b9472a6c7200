"""The exercises of the notebooks: whether an answer is right, and a hint where it is not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from math import factorial
from typing import Any, NamedTuple

import numpy as np
import torch

from . import checks, fusion, metrics, similarity
from .density import normalise
from .detection import Proposals, Targets
from .detectors import load_detector
from .explanation import explain
from .planted import RuleDetector, scene, scores
from .studies.sanity import randomise


class Exercise(NamedTuple):
    """What only a right answer passes, and what helps with a wrong one."""

    is_right: Callable[[Any], bool]  # may raise whatever a wrong answer makes it raise
    hint: str


def check(name: str, answer: Any) -> None:
    """Print whether an answer to an exercise is right; for a wrong one print a hint.

    Parameters
    ----------
    name : str
        Of the exercise, "01-1" for the first of notebook 01.
    answer : object
        A number, an array or a function, as the exercise says; None for no answer yet.

    Examples
    --------
    >>> check("03-1", 80)
    03-1: not yet. N masks keep a pixel N p times on average. For which N is that 20?
    >>> check("03-1", 100)
    03-1: right.
    """
    exercise = EXERCISES[checks.choice("name", name, EXERCISES)]
    if answer is None:
        print(f"{name}: not answered yet.")
    else:
        print(f"{name}: {'right.' if _passes(exercise, answer) else f'not yet. {exercise.hint}'}")


def _passes(exercise: Exercise, answer: Any) -> bool:
    try:
        return bool(exercise.is_right(answer))
    except Exception:  # a student's function raises whatever it likes
        return False


def _near(right: Any) -> Callable[[Any], bool]:
    """Whether an answer is a number, or an array, to a hundredth."""

    def is_near(answer: Any) -> bool:
        found = np.asarray(answer, dtype=float)
        return found.shape == np.shape(right) and np.allclose(found, right, atol=0.01)

    return is_near


def _points_at_the_object(saliency: Any) -> bool:
    own = scene(4, n_objects=1).causal_masks[0]
    return np.shape(saliency) == own.shape and bool(own.flat[np.argmax(saliency)])


def _finds_the_brightest(brightest: Callable[..., Any]) -> bool:
    for seed in range(5):
        saliency = np.random.default_rng(seed).random((4, 7)) - 2
        x, y = brightest(saliency)
        if saliency[y, x] != saliency.max():
            return False
    return True


def _keeps_superpixels(superpixel_mask: Callable[..., Any]) -> bool:
    labels = np.array([[0, 0, 1], [2, 2, 1]])
    masks = np.array([superpixel_mask(labels, 0.7, np.random.default_rng(k)) for k in range(1000)], float)
    pieces = np.stack([masks[:, labels == k].T for k in range(3)])  # (3, 2 pixels, 1000)
    together = bool((pieces[:, 0] == pieces[:, 1]).all() and np.isin(masks, (0, 1)).all())
    apart = np.abs(np.corrcoef(pieces[:, 0])[~np.eye(3, dtype=bool)]).max() < 0.2
    return together and apart and np.allclose(pieces.mean(-1), 0.7, atol=0.06)


def _weighs_masks(weight: Callable[..., float]) -> bool:
    rng = np.random.default_rng(0)
    for _ in range(5):
        corners, sides, objectness, classes = (rng.random(shape) for shape in ((4, 2), (4, 2), 4, (4, 3)))
        corners[0], sides[0], objectness[0] = 1.4, 0.4, 1  # misses the target in both directions
        boxes, target, kind = (
            np.hstack([corners, corners + sides]),
            np.array([0.2, 0.2, 0.9, 0.9]),
            rng.random(3),
        )
        parts = (torch.tensor(part[None], dtype=torch.float32) for part in (boxes, objectness, classes))
        vectors = (torch.tensor(part[None], dtype=torch.float32) for part in (target, kind))
        expected = similarity.mask_weights(Proposals(*parts), *vectors)[0, 0]
        if not np.isclose(weight(boxes, objectness, classes, target, kind), expected, atol=1e-4):
            return False
    return True


def _averages(mean_map: Callable[..., Any]) -> bool:
    rng = np.random.default_rng(0)
    masks, weights = rng.integers(0, 2, (6, 3, 4)).astype(float), rng.random(6)
    masks[:, 0, 0] = 0
    expected = normalise(np.tensordot(weights, masks, axes=1), masks.sum(0))
    return np.allclose(mean_map(masks, weights), expected)


def _cascades(cascade: Callable[..., Any]) -> bool:
    levels = np.random.default_rng(0).random((4, 3, 5)) * np.array([1, 5, 2, 3])[:, None, None]
    return np.allclose(cascade(levels.copy()), fusion.cascade(levels))


def _is_on_the_landmark(place: Any) -> bool:
    detector = RuleDetector(scene(27), "landmark")
    x, y = (int(side) for side in place)
    (stone,) = detector.landmark(0)
    return min(x, y) >= 0 and bool(detector.players[stone].mask[y, x])


def _leaves_out_groups(jackknife: Callable[..., Any]) -> bool:
    rng = np.random.default_rng(0)
    kept, weights = rng.integers(0, 2, (24, 5)), rng.random(24)

    def estimate(kept: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ kept / len(weights)

    for groups in (4, 6):
        parts = [np.arange(24) % groups != group for group in range(groups)]
        without = np.array([estimate(kept[part], weights[part]) for part in parts])
        error = np.sqrt((groups - 1) / groups * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
        if not np.allclose(jackknife(estimate, kept, weights, groups), error):
            return False
    return True


def _exceeds(excess: Callable[..., float]) -> bool:
    maps, again = np.random.default_rng(0).random((2, 2, 8, 9))
    expected = np.abs(maps - again[::-1]).mean() - np.abs(maps - again).mean()
    return bool(np.isclose(excess(maps, again), expected))


def _takes_the_change(change: Callable[..., float]) -> bool:
    bad, clear = np.random.default_rng(0).random((2, 2, 5, 6))
    bad = bad + 2 * clear  # the noise of each seed is shared
    crossed = metrics.rank_correlation(bad[0], clear[1]) + metrics.rank_correlation(bad[1], clear[0])
    return bool(np.isclose(change(bad, clear), crossed / 2 - metrics.rank_correlation(*clear)))


def _keeps_detections(stage: str) -> bool:
    trained, image = load_detector("planted"), scene(7).image
    found, shuffled = trained.detect(image), randomise(trained, [stage], seed=1)
    left, before = (similarity.target_weights(one, image, found) for one in (shuffled, trained))
    return bool(np.mean(left / before) >= 0.9)


def _is_focus(focus: Callable[..., float]) -> bool:
    rng = np.random.default_rng(0)
    for _ in range(3):
        saliency, inside = rng.integers(0, 4, (5, 6)), rng.random((5, 6)) < 0.3
        ahead = np.subtract.outer(saliency[inside], saliency[~inside])
        if not np.isclose(focus(saliency, inside), (np.sign(ahead).mean() + 1) / 2):
            return False
    return True


def _has_energy_in_the_box(saliency: np.ndarray) -> bool:
    inside = metrics.ebpg(saliency, (40, 60, 200, 180))
    return saliency.shape == (240, 320) and inside > 0.999 and metrics.sparsity(saliency) >= 1000


def _measures_deletion(area: Callable[..., float]) -> bool:
    rng = np.random.default_rng(0)
    for steps in (2, 8, 24):
        image, saliency = rng.integers(1, 256, (6, 8, 3), dtype=np.uint8), rng.random((6, 8))
        order = np.argsort(-saliency, axis=None).reshape(steps, -1)
        light = rng.random(48)  # of each pixel that is not black
        left = light.sum() - np.cumsum([0, *light[order].sum(axis=1)])

        def score(picture: np.ndarray, light: np.ndarray = light) -> float:
            return float(light[picture.reshape(-1, 3).any(axis=1)].sum())

        before = image.copy()
        if not np.isclose(area(score, image, saliency, steps), np.trapezoid(left, dx=1 / steps)):
            return False
        if not np.array_equal(image, before):
            return False
    return True


def _within(options: dict[str, Any], most: int) -> dict[str, Any]:
    """The options of an answer for `explain`; more masks than `most` raise ValueError."""
    if options["n_masks"] > most:
        raise ValueError("too many masks")
    return {**options, "progress": False}


def _finds_the_stone(options: dict[str, Any]) -> bool:
    drawn = scene(107, size=128)
    detector = RuleDetector(drawn, "landmark")
    target = detector.detect(drawn.image)[0]
    saliency = explain(detector, drawn.image, target, **_within(options, 300)).saliency[0]
    (stone,) = detector.landmark(0)
    return scores.relevance_mass(saliency, detector.players[stone].mask) >= 0.15


def _shares_a_game(shapley: Callable[..., Any]) -> bool:
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4):
        table = rng.random([2] * n)  # value of each set of players, indexed by who is in it
        gains = np.zeros(n)
        for order in permutations(range(n)):
            inside = [0] * n
            for player in order:
                before = table[tuple(inside)]
                inside[player] = 1
                gains[player] += (table[tuple(inside)] - before) / factorial(n)

        def value(inside: Any, table: np.ndarray = table) -> float:
            return float(table[tuple(int(player) for player in inside)])

        if not np.allclose(shapley(value, n), gains):
            return False
    return True


def _repeats(options: dict[str, Any]) -> bool:
    drawn = scene(4, n_objects=1, size=96)
    detector = RuleDetector(drawn)
    target, run = detector.detect(drawn.image)[:1], _within(options, 100)
    maps = [explain(detector, drawn.image, target, seed=seed, **run).saliency[0] for seed in (0, 1)]
    return metrics.rank_correlation(*maps) >= 0.7


def _agrees_in_the_box(agreement: Callable[..., float]) -> bool:
    rng = np.random.default_rng(0)
    maps = np.tile(rng.random((9, 8)), (3, 1, 1))  # alike outside the box
    maps[:, 2:7, 1:5] = rng.random((3, 5, 4)) + rng.random((5, 4))
    inside = maps[:, 2:7, 1:5]
    pairs = [metrics.rank_correlation(inside[a], inside[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    return bool(np.isclose(agreement(maps, (1, 2, 5, 7)), np.mean(pairs), atol=1e-4))


def _keeps_off_the_neighbour(options: dict[str, Any]) -> bool:
    drawn = scene(3, layout="overlap")
    behind, front = drawn.causal_masks
    target = Targets(drawn.boxes[1:], drawn.names[1:])
    found = explain(load_detector("planted"), drawn.image, target, **_within(options, 100))
    return metrics.leakage(found.saliency[0], front, behind) < 0.18


def _leaks(leakage: Callable[..., float]) -> bool:
    rng = np.random.default_rng(0)
    own, other = rng.permutation(np.arange(48) % 3).reshape(6, 8) == np.arange(2)[:, None, None]
    maps = [rng.normal(size=(6, 8)), rng.random((6, 8)) - 0.2, np.zeros((6, 8))]
    return all(np.isclose(leakage(each, own, other), metrics.leakage(each, own, other)) for each in maps)


def _finds_the_sign(options: dict[str, Any]) -> bool:
    drawn = scene(12)
    number = drawn.names.index("taxi")
    (sign,) = (part.mask for part in drawn.parts[number] if part.role == "class")
    target, run = Targets(drawn.boxes[[number]], ["taxi"]), {**options, "progress": False}
    found = explain(RuleDetector(drawn, "class"), drawn.image, target, **run)
    return found.n_forward <= 60 and scores.relevance_mass(found.saliency[0], sign) > 0.05


def _shares_the_wins(wins: Callable[..., Any]) -> bool:
    for seed in range(5):
        known = np.random.default_rng(seed).integers(0, 4, (3, 7)) / 4  # with ties
        best = known == known.max(axis=0)
        if not np.allclose(wins(known), (best / best.sum(axis=0)).mean(axis=1)):
            return False
    return True


EXERCISES = {
    "00-1": Exercise(_near(60), "All objects are measured in the same masked images."),
    "00-2": Exercise(
        _points_at_the_object,
        "Call explain(detector, image, ...) with the scene's image, and take the first map of its .saliency.",
    ),
    "00-3": Exercise(
        _finds_the_brightest,
        "np.unravel_index(saliency.argmax(), saliency.shape) gives the row, y, and then the column, x.",
    ),
    "01-1": Exercise(
        _near(0.8), "Over many masks a superpixel is kept in a share p of them, whatever its size."
    ),
    "01-2": Exercise(
        _near([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]),
        "Each pixel takes the value of its superpixel: 0 where the label is 0, else 1.",
    ),
    "01-3": Exercise(
        _keeps_superpixels,
        "Draw a number for each superpixel, compare it with p, and look up each pixel's label in the result.",
    ),
    "02-1": Exercise(
        _near(0.8 / 3), "The boxes share 2 x 4 pixels of 6 x 4. The cosine of a vector with itself is 1."
    ),
    "02-2": Exercise(
        _near(0.54),
        "The box that moved has an IoU of 12/20 and an objectness of 0.9. The other has an IoU of 1.",
    ),
    "02-3": Exercise(
        _weighs_masks,
        "Multiply IoU, objectness and cosine of each proposal, and take the largest. The IoU is 0 where "
        "boxes do not meet.",
    ),
    "03-1": Exercise(_near(100), "N masks keep a pixel N p times on average. For which N is that 20?"),
    "03-2": Exercise(
        _near([1.0, 0.5]),
        "At A all masks that count have weight 1. Of the masks that keep another pixel, half keep A too.",
    ),
    "03-3": Exercise(
        _averages,
        "Add up weight times mask, divide by how many masks kept a pixel, and put 0 where none did.",
    ),
    "04-1": Exercise(_near(0), "The coarsest level is a factor of every term."),
    "04-2": Exercise(_near(0.5), "A_1 = (0.5 + 0.5) * 0.5. Then A_2 = (A_1 + 0.5) * 0.5."),
    "04-3": Exercise(
        _cascades,
        "Scale each level to [0, 1]. Begin with the first. For each next one add it, then multiply by it.",
    ),
    "05-1": Exercise(
        lambda kinds: list(kinds) == ["other", "right", "wrong place", "not there"],
        "Find what is right first: same class, IoU above 0.5. What may the bowl still take then?",
    ),
    "05-2": Exercise(
        _near(77),
        "Car leads when more of the sign is hidden than is to be seen. What is half of 152?",
    ),
    "05-3": Exercise(
        _exceeds,
        "Other masks: prediction of one seed, truth of the other, both ways. Another seed: one map twice.",
    ),
    "06-1": Exercise(_near(20**-0.5), "Put severity 1 and d = 0.5 into the formula: a square root of 1/20."),
    "06-2": Exercise(
        lambda severity: abs(severity - 0.44) <= 0.05,
        "Try severities in steps of 0.05, and divide the weight by that at severity 0.",
    ),
    "06-3": Exercise(
        _takes_the_change,
        "Correlate bad[0] with clear[1] and bad[1] with clear[0]. Take the mean less that of the clear pair.",
    ),
    "07-1": Exercise(
        _near(0.5), "Without a move it is 1. Moved by one it is -0.2. Drop the signs, then average."
    ),
    "07-2": Exercise(
        _keeps_detections, "Shuffle one stage at a time, and compare the weights with those before."
    ),
    "07-3": Exercise(
        _is_focus,
        "Compare each pixel inside with each outside. Count 1 if it is brighter, a half if they are equal.",
    ),
    "08-1": Exercise(
        _near([5, 0.75]),
        "Sparsity is the highest value over the mean of all 20 pixels. EBPG is the sum in the box over all.",
    ),
    "08-2": Exercise(
        _has_energy_in_the_box,
        "Sparsity is the number of pixels over that of bright ones, if all of these are equally bright.",
    ),
    "08-3": Exercise(
        _measures_deletion,
        "Copy the image at each step. A trapezoid's area is the mean of its two scores times 1 / steps.",
    ),
    "09-1": Exercise(
        _near([0.6, 0.4]),
        "List both orders, window first and wheels first. What does each part add when it comes?",
    ),
    "09-2": Exercise(
        _finds_the_stone,
        "Give a dict with a method and n_masks, at most 300. Whose energy moved most to the stone above?",
    ),
    "09-3": Exercise(
        _shares_a_game,
        "For each order of the players: begin with none, and write down what each adds when it comes in.",
    ),
    "10-1": Exercise(
        _near(0.8), "The ranks are (1, 3, 2, 4) and (1, 4, 2, 3). How many pixels have different ranks?"
    ),
    "10-2": Exercise(
        _repeats,
        "The options are a dict with method and n_masks, at most 100. Try other methods than D-CLOSE.",
    ),
    "10-3": Exercise(
        _agrees_in_the_box,
        "Cut the rows y1 to y2 and the columns x1 to x2 out of each map. Then take each pair of maps once.",
    ),
    "11-1": Exercise(
        _near(40 / 280), "Only the two objects count: 300 pixels of 0.8 and 100 pixels of 0.4 hold energy."
    ),
    "11-2": Exercise(
        _keeps_off_the_neighbour,
        "The options are a dict with method and n_masks, at most 100. Try other methods than D-CLOSE.",
    ),
    "11-3": Exercise(
        _leaks,
        "Set negative values to 0, and sum the map over each object. Without energy on both, it is 0.5.",
    ),
    "12-1": Exercise(_near(240), "Four times the masks halve the error."),
    "12-2": Exercise(
        _is_on_the_landmark,
        "x counts from the left and y from the top. On which stone is the square root of the map not near 0?",
    ),
    "12-3": Exercise(
        _leaves_out_groups,
        "Make the estimate without each group. Square how far each lies from their mean, add up, and "
        "multiply by (G - 1) / G before the root.",
    ),
    "13-1": Exercise(
        _near([800, 9]), "All objects share their masks. For greedy search, which m has m (m + 1) below 100?"
    ),
    "13-2": Exercise(
        _finds_the_sign,
        "The options are a dict with method and n_masks, at most 60. Which two methods share the most energy "
        "with 25 passes?",
    ),
    "13-3": Exercise(
        _shares_the_wins,
        "Mark who has the highest score of each object. Divide by how many are marked, then take the mean.",
    ),
}
