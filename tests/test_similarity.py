import math

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import box_iou

from dclose_nb import Detections, InputError, MaskProposals, Proposals, Targets
from dclose_nb.similarity import (
    NEAREST,
    QUESTIONS,
    mask_iou,
    mask_weights,
    similarity_scores,
    target_masks_of,
    target_weights,
)

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


# -- masks in place of boxes

Y, X = np.mgrid[:28, :28] + 0.5
DISC = (Y - 14) ** 2 + (X - 14) ** 2 < 12**2
LEFT, TOP, BELOW = X < 14, Y < 14, X + Y < 28  # two halves of a square, and a triangle


def counted(first, second):
    """IoU of two masks of the same frame, by counting their pixels."""
    return (first & second).sum() / max((first | second).sum(), 1)


@pytest.mark.parametrize(
    ("target", "others", "expected"),
    [
        (DISC, [DISC, ~DISC, DISC & LEFT], [1, 0, 1 / 2]),
        (BELOW, [BELOW, BELOW[::-1], ~BELOW], [1, 1 / 3, 0]),
        (LEFT, [LEFT, TOP, ~LEFT, LEFT & TOP, LEFT | TOP, 0 * LEFT], [1, 1 / 3, 0, 1 / 2, 2 / 3, 0]),
    ],
)
def test_masks_tell_objects_in_one_box_apart(target, others, expected):
    masks, target_mask = tensors(np.array([others]), np.array([target]))
    box = torch.tensor([[3.0, 5.0, 31.0, 61.0]])  # a mask's cell is 1 x 2 pixels
    boxes, probs = box.repeat(1, len(others), 1), torch.ones(1, 1)
    proposals = Proposals(boxes, torch.full((1, len(others)), 0.8), torch.ones(1, len(others), 1))
    assert torch.allclose(similarity_scores(proposals, box, probs), torch.tensor(0.8))  # boxes do not
    overlap = mask_iou(boxes, masks, box, target_mask)
    assert np.allclose(overlap[0, :, 0], [counted(target, other > 0) for other in others], atol=0.02)
    assert np.allclose(overlap[0, :, 0], expected, atol=0.06)  # where pixels lie on the diagonal
    scores = similarity_scores(proposals, box, probs, overlap)
    assert torch.allclose(scores, 0.8 * overlap)


def test_masks_that_fill_their_boxes_overlap_as_the_boxes_do():
    full = torch.ones(B, T, 5, 5), torch.ones(N, 5, 5)
    overlap = mask_iou(PROPOSALS.boxes, full[0], TARGETS[0], full[1])
    expected = box_iou(PROPOSALS.boxes.flatten(0, 1), TARGETS[0]).view(B, T, N)
    assert (expected > 0).any() and torch.allclose(overlap, expected, atol=1e-5)
    nowhere = torch.zeros(1, 1, 4)  # padding
    assert (mask_iou(nowhere, torch.ones(1, 1, 5, 5), TARGETS[0], full[1]) == 0).all()


def blobs(rng, *shape):
    """Masks with soft edges, as a network draws them, which touch the edges of their boxes."""
    noise = torch.tensor(rng.normal(size=(math.prod(shape), 1, 6, 6)), dtype=torch.float32)
    smooth = torch.nn.functional.interpolate(noise, 28, mode="bicubic").view(*shape, 28, 28)
    middle = 3 - ((X - 14) ** 2 + (Y - 14) ** 2) / 50
    return torch.sigmoid(2 * smooth + torch.tensor(middle, dtype=torch.float32))


def pasted(boxes, masks):
    """Torchvision's own masks at full size, (n, 600, 600) bool."""
    return (paste_masks_in_image(masks[:, None], boxes, (600, 600))[:, 0] > 0.5).numpy()


def test_equations_2_and_6_with_masks_against_a_loop():
    """One proposal at a time, and the IoU by counting the pixels of masks at full size."""
    rng = np.random.default_rng(0)
    masks, target_masks = blobs(rng, B, T), blobs(rng, N)
    boxes, target_boxes = (torch.tensor(30 * part).round().float() for part in (BOXES, TARGET_BOXES))
    ious, scores, target_pixels = np.zeros((B, T, N)), np.zeros((B, T, N)), pasted(target_boxes, target_masks)
    for b in range(B):
        for t, pixels in enumerate(pasted(boxes[b], masks[b])):
            for n in range(N):
                ious[b, t, n] = counted(pixels, target_pixels[n])
                box = [0, 0, 1, 1]  # one for both, whose IoU is 1
                rest = equation_2(box, OBJECTNESS[b, t], PROBS[b, t], box, TARGET_PROBS[n])
                scores[b, t, n] = ious[b, t, n] * rest

    overlap = mask_iou(boxes, masks, target_boxes, target_masks)
    of_boxes = box_iou(boxes.flatten(0, 1), target_boxes).view(B, T, N).numpy()
    assert ious.max() > 0.4 and np.abs(of_boxes - ious).max() > 0.1
    assert np.allclose(overlap, ious, atol=0.02)
    proposals, probs = PROPOSALS._replace(boxes=boxes), TARGETS[1]
    assert np.allclose(similarity_scores(proposals, target_boxes, probs, overlap), scores, atol=0.02)

    def masks_of(some, labels):  # some of the boxes
        which = (some[:, :, None] == boxes[:, None]).all(-1).int().argmax(-1)
        assert torch.equal(labels, torch.tensor(PROBS).argmax(-1).gather(1, which))
        return masks[torch.arange(B)[:, None], which]

    weights = mask_weights(MaskProposals(proposals, masks_of), target_boxes, probs, target_masks)
    assert np.allclose(weights, scores.max(axis=1), atol=0.02)


@pytest.mark.parametrize(("filtered", "expected"), [(False, 0.6), (True, 0)])
def test_only_the_nearest_boxes_get_masks(filtered, expected):
    """Box 0 is the target. Box 1, which suppresses it, has another mask; many boxes lie apart."""
    target, other, apart = [0, 0, 8, 8], [0, 0, 8, 9], [40, 40, 48, 48]
    boxes = [target, other, *[apart] * 2 * NEAREST]
    objectness = [0.6, 0.9, *[0.7] * 2 * NEAREST]
    proposals = Proposals(*tensors([boxes], [objectness], [[[1, 0]] * len(boxes)]))
    left, *given = tensors([[1, 0], [1, 0]], [target], [[1, 0]])
    asked = []

    def masks(boxes, labels):
        asked.append(labels)
        same = (boxes == given[0]).all(-1)[..., None, None]
        return torch.where(same, left, 1 - left)

    weights = mask_weights(MaskProposals(proposals, masks), *given, left[None], filtered=filtered)
    assert weights.item() == pytest.approx(expected)
    assert torch.equal(*asked, torch.zeros(1, NEAREST, dtype=torch.long))


def test_with_masks_targets_are_weighed_together_as_alone():
    """A proposal that is near one target alone has no say for the other, and is drawn once."""
    targets, other = [[0, 0, 100, 100], [40, 0, 140, 100]], [30, 0, 130, 100]
    boxes = [[0, 0, 100, 90 + 0.1 * k] for k in range(NEAREST + 5)] + [other]
    n = len(boxes)
    given = tensors([boxes], [[1.0] * n], [[[1.0]] * n], targets, [[1.0]] * 2)
    proposals, (target_boxes, probs) = Proposals(*given[:3]), given[3:]
    drawn = []

    def masks(boxes, labels):
        drawn.append(boxes.shape[1])
        strip = torch.zeros(4, 4)
        strip[:, 0] = 1
        return torch.where((boxes == torch.tensor(other)).all(-1)[..., None, None], torch.ones(4, 4), strip)

    full = torch.ones(2, 4, 4)
    together = mask_weights(MaskProposals(proposals, masks), target_boxes, probs, full)
    for k in range(2):
        one = slice(k, k + 1)
        alone = mask_weights(MaskProposals(proposals, masks), target_boxes[one], probs[one], full[one])
        assert together[:, one] == pytest.approx(alone)
    assert together[0, 0] < 0.3 < together[0, 1] and drawn[0] <= NEAREST + 1


def test_a_target_s_mask_is_what_is_drawn_in_its_box(shapes, lit):
    lit[1:9, 4:7] = 0  # the right half of the left lamp
    canvas, targets = shapes.prepare(lit), Targets([[1, 1, 7, 9]], ["a"]).detections(shapes.class_names)
    masks = target_masks_of(shapes, canvas, targets)
    assert torch.equal(masks > 0.5, torch.tensor([[[True, False], [True, False]]]))


def test_a_target_needs_a_mask_and_a_detector_that_draws_it(shapes, lamps, lit):
    dark = Targets([[10, 9, 18, 12]], ["b"]).detections(shapes.class_names)
    with pytest.raises(InputError, match=r"draws no mask of 'b' in the box \[10.0, 9.0, 18.0, 12.0\]"):
        target_masks_of(shapes, shapes.prepare(lit), dark)
    with pytest.raises(InputError, match="'lamps' gives no masks: overlap='mask' needs a Mask R-CNN"):
        target_masks_of(lamps, lamps.prepare(lit), lamps.detect(lit))


def test_a_question_keeps_one_factor_of_the_product():
    """The best in place is of another class; its cosine is what "class" gives."""
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 3]]])
    proposals = Proposals(boxes, torch.tensor([[0.9, 0.6]]), torch.tensor([[[0.6, 0.8], [1.0, 0.0]]]))
    target = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[1.0, 0.0]])
    weights = {q: mask_weights(proposals, *target, question=q).item() for q in QUESTIONS}
    assert weights == pytest.approx({"all": 0.9 * 0.6, "place": 0.9, "class": 0.6})


def test_nothing_in_place_has_no_class():
    proposals = Proposals(torch.zeros(1, 2, 4), torch.zeros(1, 2), torch.ones(1, 2, 2))
    target = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[1.0, 0.0]])
    assert mask_weights(proposals, *target, question="class").item() == 0
