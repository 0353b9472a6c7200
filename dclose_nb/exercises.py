"""The exercises of the notebooks: whether an answer is right, and a hint where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from . import checks, fusion, metrics, similarity
from .density import normalise
from .detection import Proposals, Targets
from .detectors import load_detector
from .explanation import explain
from .planted import RuleDetector, scene


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
    >>> check("03-1", 40)
    03-1: not yet. Each mask keeps a pixel with probability p. How many of 40 are that on average?
    >>> check("03-1", 20)
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


def _repeats(options: dict[str, Any]) -> bool:
    drawn = scene(4, n_objects=1, size=96)
    detector = RuleDetector(drawn)
    target, run = detector.detect(drawn.image)[:1], {**options, "progress": False}
    if run["n_masks"] > 100:
        return False
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
    target, run = Targets(drawn.boxes[1:], drawn.names[1:]), {**options, "progress": False}
    if run["n_masks"] > 100:
        return False
    found = explain(load_detector("planted"), drawn.image, target, **run)
    return metrics.leakage(found.saliency[0], front, behind) < 0.18


def _leaks(leakage: Callable[..., float]) -> bool:
    rng = np.random.default_rng(0)
    own, other = rng.permutation(np.arange(48) % 3).reshape(6, 8) == np.arange(2)[:, None, None]
    maps = [rng.normal(size=(6, 8)), rng.random((6, 8)) - 0.2, np.zeros((6, 8))]
    return all(np.isclose(leakage(each, own, other), metrics.leakage(each, own, other)) for each in maps)


EXERCISES = {
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
        "Compute IoU, objectness and cosine of each proposal, multiply the three, and take the largest.",
    ),
    "03-1": Exercise(
        _near(20), "Each mask keeps a pixel with probability p. How many of 40 are that on average?"
    ),
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
}
