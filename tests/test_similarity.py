import math

import numpy as np
import pytest
import torch

from dclose_nb import Detections, InputError, Proposals, Targets
from dclose_nb.similarity import mask_weights, similarity_scores, target_weights

RNG = np.random.default_rng(1)


def random_boxes(*shape):
    corner = RNG.uniform(0, 10, (*shape, 2))
    return np.concatenate([corner, corner + RNG.uniform(2, 8, (*shape, 2))], axis=-1)


B, T, N, C = 3, 7, 2, 4
BOXES, OBJECTNESS, PROBS = random_boxes(B, T), RNG.uniform(0, 1, (B, T)), RNG.uniform(0, 1, (B, T, C))
TARGET_BOXES, TARGET_PROBS = random_boxes(N), RNG.uniform(0, 1, (N, C))


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]


PROPOSALS = Proposals(*tensors(BOXES, OBJECTNESS, PROBS))
TARGETS = tensors(TARGET_BOXES, TARGET_PROBS)


def equation_2(box, objectness, probs, target_box, target_probs):
    width = max(min(box[2], target_box[2]) - max(box[0], target_box[0]), 0)
    height = max(min(box[3], target_box[3]) - max(box[1], target_box[1]), 0)
    union = (box[2] - box[0]) * (box[3] - box[1])
    union += (target_box[2] - target_box[0]) * (target_box[3] - target_box[1]) - width * height
    dot = sum(a * b for a, b in zip(probs, target_probs))
    lengths = math.sqrt(sum(a * a for a in probs)) * math.sqrt(sum(b * b for b in target_probs))
    return width * height / union * objectness * dot / lengths


def by_the_loop():
    scores = np.zeros((B, T, N))
    for b in range(B):
        for t in range(T):
            for n in range(N):
                scores[b, t, n] = equation_2(
                    BOXES[b, t], OBJECTNESS[b, t], PROBS[b, t], TARGET_BOXES[n], TARGET_PROBS[n]
                )
    return scores


def test_equation_2_against_a_loop():
    expected = by_the_loop()
    assert (expected > 0).any()
    assert np.allclose(similarity_scores(PROPOSALS, *TARGETS), expected, atol=1e-6)


def test_equation_6_against_a_loop():
    assert np.allclose(mask_weights(PROPOSALS, *TARGETS), by_the_loop().max(axis=1), atol=1e-6)


def test_similarity_to_itself_is_the_objectness():
    boxes, probs = TARGETS
    proposals = Proposals(boxes[None], torch.tensor([[0.7, 0.4]]), 0.5 * probs[None])
    scores = similarity_scores(proposals, boxes, probs)
    assert torch.allclose(scores[0].diagonal(), torch.tensor([0.7, 0.4]))


def test_disjoint_boxes_and_empty_class_vectors_are_not_similar():
    apart = Proposals(*tensors([[[90, 90, 99, 99]]], [[1]], [[[1, 1, 1, 1]]]))
    unsure = Proposals(TARGETS[0][None], torch.ones(1, N), torch.zeros(1, N, C))
    assert (similarity_scores(apart, *TARGETS) == 0).all()
    assert (similarity_scores(unsure, *TARGETS) == 0).all()


@pytest.mark.parametrize("faint", [1e-9, 1e-20, 1e-23, 1e-30, 1e-38])
def test_faint_class_vectors_stay_in_range(faint):
    boxes, probs = TARGETS
    proposals = Proposals(boxes[None], torch.ones(1, N), faint * probs[None])
    scores = similarity_scores(proposals, boxes, probs)
    assert (scores >= 0).all()
    assert (scores <= 1 + 1e-6).all()


def test_without_proposals_the_weight_is_0():
    none = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, C))
    assert mask_weights(none, *TARGETS).tolist() == [[0, 0], [0, 0]]


def test_padding_changes_nothing():
    padded = Proposals(
        torch.cat([PROPOSALS.boxes, torch.zeros(B, 2, 4)], 1),
        torch.cat([PROPOSALS.objectness, torch.zeros(B, 2)], 1),
        torch.cat([PROPOSALS.class_probs, torch.zeros(B, 2, C)], 1),
    )
    assert torch.equal(mask_weights(padded, *TARGETS), mask_weights(PROPOSALS, *TARGETS))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 0.6),  # the surest box of the target's class
        ({"objectness": [0.2, 0.8, 0.1]}, 0),  # it falls below the confidence of 0.25
        ({"objectness": [0.6, 0.8, 0.9]}, 0),  # a surer box of another class suppresses it
        ({"objectness": [0.6, 0.8, 0.9], "box": [0, 0, 4, 3]}, 0),  # also at an IoU of 0.75
        ({"objectness": [0.6, 0.8, 0.9], "box": [0, 0, 4, 1.6]}, 0.6),  # not at an IoU of 0.4
    ],
)
def test_the_authors_filter(change, expected):
    """Box 0 is the target. Boxes 1 and 2 have another class; 1 lies apart and 2 on box 0."""
    objectness = change.get("objectness", [0.6, 0.8, 0.1])
    boxes = [[0, 0, 4, 4], [9, 9, 12, 12], change.get("box", [0, 0, 4, 4])]
    probs = [[1, 0], [0, 1], [0, 1]]
    proposals = Proposals(*tensors([boxes], [objectness], [probs]))
    weights = mask_weights(proposals, *tensors([[0, 0, 4, 4]], [[1, 0]]), filtered=True)
    assert weights.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (Targets([[1, 1, 7, 9]], ["a"]), "got Targets: use targets.detections"),
        (None, "must be Detections, got NoneType"),
        (Detections([[1, 1, 7, 9]], [1], [[1]], ("x",)), "other classes than the detector"),
    ],
)
def test_targets_must_be_detections_of_the_detector(lamps, lit, targets, words):
    with pytest.raises(InputError, match=words):
        target_weights(lamps, lit, targets)
