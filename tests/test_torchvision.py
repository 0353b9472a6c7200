"""Faster R-CNN as a detector: torchvision's own answers, region by region."""

import numpy as np
import pytest
import torch

import dclose_nb as dc
from dclose_nb.detectors.torchvision import FasterRcnnDetector
from dclose_nb.planted import CLASS_NAMES, networks


@pytest.fixture(scope="module")
def module():
    """An untrained network whose heads are loud enough to be sure of something."""
    torch.manual_seed(3)
    module = networks.NETWORKS["planted_two_stage"].build()
    with torch.no_grad():
        for layer in module.backbone.modules():  # statistics of a first batch, or all answers are alike
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        module.backbone.train()(torch.randn(4, 3, 320, 320))
        module.roi_heads.box_predictor.cls_score.weight.mul_(12)
        module.roi_heads.box_predictor.bbox_pred.weight.mul_(2)
    return module.eval()


@pytest.fixture(scope="module")
def detector(module):
    return FasterRcnnDetector("toy", module, CLASS_NAMES, device=torch.device("cpu"), provenance={})


@pytest.mark.parametrize("shape", [(320, 320), (300, 600), (640, 192)])  # without padding
def test_detections_are_those_of_torchvision(module, detector, shape, monkeypatch):
    """Above one half a region has one class only, so that both select alike; nothing is suppressed,
    since rounding decides between boxes that are nearly alike. Where there is padding torchvision
    clips boxes to the image, and we to the canvas.
    """
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    monkeypatch.setattr(module.rpn, "nms_thresh", 1.0)
    monkeypatch.setattr(module.roi_heads, "nms_thresh", 1.0)
    monkeypatch.setattr(module.roi_heads, "score_thresh", 0.5)
    with torch.inference_mode():
        own = module([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    found = detector.detect(image, confidence=0.5, iou=1.0)
    assert len(found) == len(own["boxes"]) > 1
    assert np.allclose(found.scores, own["scores"], atol=1e-4)
    assert (found.labels == own["labels"].numpy() - 1).all()
    assert np.allclose(found.boxes, own["boxes"], atol=0.01)


def test_both_parts_of_a_score_come_from_one_softmax(detector):
    canvas = detector.prepare(np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8))
    boxes, objectness, probs = detector.predict(canvas.pixels[None])
    assert boxes.shape == (1, 100, 4) and probs.shape == (1, 100, len(CLASS_NAMES))
    assert torch.allclose(probs.sum(-1), torch.ones(1, 100), atol=1e-5)
    assert objectness.min() >= 0 and objectness.max() <= 1 + 1e-6
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_fewer_regions_are_filled_up_with_nothing(detector, monkeypatch):
    """Two images in one batch: the first keeps three regions, the second all."""
    rpn = detector.module.rpn.forward

    def fewer(images, features):
        regions, losses = rpn(images, features)
        return [regions[0][:3], *regions[1:]], losses

    pixels = detector.prepare(np.full((320, 320, 3), 90, np.uint8)).pixels.repeat(2, 1, 1, 1)
    monkeypatch.setattr(detector.module.rpn, "forward", fewer)
    boxes, objectness, probs = detector.predict(pixels)
    n = boxes.shape[1]
    assert n > 3
    for part in (boxes, objectness, probs):
        assert (part[0, 3:] == 0).all() and (part[1] != 0).any()
    assert torch.allclose(boxes[0, :3], boxes[1, :3], atol=1e-3)


def test_a_canvas_is_the_image_and_its_padding_is_what_the_network_pads_with(detector):
    canvas = detector.prepare(np.full((160, 320, 3), 200, np.uint8))
    assert canvas.content == (0, 0, 160, 320) and canvas.pixels.shape == (3, 160, 320)
    assert torch.allclose(canvas.pixels, torch.tensor(200.0), atol=1e-3)
    canvas = detector.prepare(np.full((150, 320, 3), 200, np.uint8))
    assert canvas.pixels.shape == (3, 160, 320)
    mean = torch.tensor(detector.module.transform.image_mean)[:, None, None] * 255
    assert torch.allclose(canvas.pixels[:, 150:], mean.expand(3, 10, 320), atol=1e-3)


def test_it_can_be_explained(detector):
    image = dc.planted.scene(5).image
    found = detector.detect(image, confidence=0.05)[:2]
    explained = dc.explain(detector, image, found, n_masks=20, progress=False)
    assert explained.saliency.shape == (2, 320, 320) and explained.saliency.max() > 0
