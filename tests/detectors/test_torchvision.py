"""Torchvision's networks as detectors: its own answers, proposal by proposal."""

import numpy as np
import pytest
import torch
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.detection import (
    FCOS,
    MaskRCNN,
    RetinaNet,
    ssd300_vgg16,
    ssdlite320_mobilenet_v3_large,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import dclose_nb as dc
from dclose_nb.detectors import planted as networks
from dclose_nb.detectors.torchvision import FasterRcnnDetector
from dclose_nb.planted import CLASS_NAMES
from dclose_nb.similarity import target_masks_of


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


def test_where_no_region_is_proposed_nothing_is_found(detector, monkeypatch):
    image = dc.planted.scene(5).image
    targets = detector.detect(image, confidence=0.05)[:1]
    none = lambda images, features: ([torch.zeros(0, 4)] * len(images.tensors), {})  # noqa: E731
    monkeypatch.setattr(detector.module.rpn, "forward", none)
    assert len(detector.detect(image)) == 0
    assert not dc.explain(detector, image, targets, n_masks=5, progress=False).saliency.any()


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


# -- masks


@pytest.fixture(scope="module")
def masked():
    """An untrained Mask R-CNN with 3 classes and the background, whose answers differ from place to place."""
    torch.manual_seed(0)
    layers = {"3": "0", "8": "1", "11": "2"}
    backbone = BackboneWithFPN(mobilenet_v3_small(weights=None).features, layers, [24, 48, 96], 32)
    module = MaskRCNN(
        backbone,
        num_classes=4,
        **{"min_size": 96, "max_size": 128, "rpn_post_nms_top_n_test": 30, "box_score_thresh": 0.3},
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (48,), (64,)), ((1.0,),) * 4),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, sampling_ratio=2),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(32, (32,), 1),
    )
    module.roi_heads.mask_predictor = MaskRCNNPredictor(32, 32, 4)  # smaller, hence quicker
    with torch.no_grad():
        for layer in backbone.modules():  # statistics of a first batch, or all answers are alike
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        backbone.train()(torch.randn(4, 3, 96, 96))
        module.roi_heads.box_predictor.cls_score.weight.mul_(12)
        module.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(0.1)
    return module.eval(), dc.load_detector(module, class_names=NAMES, device="cpu")


def test_masks_are_those_of_torchvision(masked):
    module, detector = masked
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)  # without padding
    heads = {}
    hook = module.roi_heads.register_forward_hook(lambda _, __, output: heads.update(output[0][0]))
    with torch.inference_mode():
        module([torch.from_numpy(image).permute(2, 0, 1) / 255])
    hook.remove()
    assert len(heads["boxes"]) > 1 and heads["labels"].unique().numel() > 1
    found = dc.Targets(heads["boxes"].numpy(), (heads["labels"] - 1).tolist()).detections(
        detector.class_names
    )
    masks = target_masks_of(detector, detector.prepare(image), found)
    assert masks.shape[1:] == (28, 28) and masks.std() > 0.1
    assert torch.allclose(masks, heads["masks"][:, 0], atol=1e-3)


def test_a_mask_rcnn_is_explained_by_its_masks(masked, tmp_path):
    module, detector = masked
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    options = {"method": "drise", "n_masks": 10, "progress": False}
    found = detector.detect(image, confidence=0.1)[:2]
    by_masks = dc.explain(detector, image, found, overlap="mask", **options)
    again = dc.Explanation.load(by_masks.save(tmp_path / "kept"))
    assert again.overlap == "mask" and again.saliency.min() >= 0 and (again.saliency.max((1, 2)) > 0).all()
    by_boxes = dc.explain(detector, image, found, **options)
    assert not np.allclose(again.saliency, by_boxes.saliency, atol=0.01)
    parts = [name for part in detector.stages.values() for name in part]
    held = [id(one) for name in parts for one in module.get_submodule(name).parameters()]
    assert sorted(held) == sorted(id(one) for one in module.parameters())


# -- one stage


def pyramid():
    layers = {"3": "0", "8": "1", "11": "2"}
    body = mobilenet_v3_small(weights=None).features
    return BackboneWithFPN(body, layers, [24, 48, 96], 64, LastLevelP6P7(64, 64))


class Columns(torch.nn.Module):
    """A backbone of one map, which is no pyramid and gives a tensor."""

    out_channels = (16,)

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 16, 9, stride=8)

    def forward(self, images):
        return self.layer(images)


def build(family):
    """An untrained network with 3 classes and the background, on images of 64 x 64 (SSDlite: 320)."""
    torch.manual_seed(1)
    sizes = {"min_size": 64, "max_size": 96}
    if family == "retinanet":
        return RetinaNet(pyramid(), num_classes=4, **sizes)
    if family == "fcos":
        return FCOS(pyramid(), num_classes=4, **sizes)
    if family == "ssd":
        return SSD(Columns(), DefaultBoxGenerator([[2]]), (64, 96), num_classes=4)
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)


FAMILIES = ["retinanet", "fcos", "ssd", "ssdlite"]
NAMES = ("__background__", "cat", "dog", "cow")


@pytest.fixture(scope="module", params=FAMILIES)
def one_stage(request):
    """A network whose scores and boxes differ from place to place, and the detector made of it."""
    module = build(request.param)
    with torch.no_grad():
        for layer in module.backbone.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        module.backbone.train()(torch.randn(4, 3, *(2 * [320 if request.param == "ssdlite" else 64])))
        for name, weight in module.head.named_parameters():
            if weight.ndim == 4:
                torch.nn.init.normal_(weight, std=(1.2 if "cls" in name else 1) / weight[0].numel() ** 0.5)
            elif "cls_logits" in name:
                torch.nn.init.zeros_(weight)
    module.eval()
    return module, dc.load_detector(module, class_names=NAMES, device="cpu")


@pytest.mark.parametrize("shape", [(64, 64), (50, 80)])
def test_all_proposals_of_one_stage_are_those_of_torchvision(one_stage, shape, monkeypatch):
    """Told to leave nothing out, torchvision gives each anchor once for each class."""
    module, detector = one_stage
    for name, value in (
        ("score_thresh", -1.0),
        ("nms_thresh", 1.0),
        ("topk_candidates", 10**6),
        ("detections_per_img", 10**6),
    ):
        monkeypatch.setattr(module, name, value)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    canvas = detector.prepare(image)
    with torch.inference_mode():
        own = module([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
        boxes, objectness, probs = (part[0] for part in detector.predict(canvas.pixels[None]))
    scores = objectness[:, None] * probs  # (T, C)
    assert scores.std() > 0.05
    for label in (1, 2, 3):
        theirs = own["labels"] == label
        ours = np.column_stack([canvas.boxes_to_image(boxes), 100 * scores[:, label - 1]])
        wanted = np.column_stack([own["boxes"][theirs], 100 * own["scores"][theirs]])
        if canvas.content[2:] != canvas.pixels.shape[1:]:  # they clip to the image, we to the canvas
            ours[:, :4] = ours[:, :4].clip(0, [shape[1], shape[0]] * 2)
        assert len(wanted) == len(ours)
        apart = torch.cdist(*map(torch.from_numpy, (ours.astype(float), wanted.astype(float))))
        assert apart.amin(0).max() < 0.02 and apart.amin(1).max() < 0.02


def test_parts_of_a_score_are_in_their_ranges(one_stage):
    _, detector = one_stage
    canvas = detector.prepare(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    with torch.inference_mode():
        boxes, objectness, probs = detector.predict(canvas.pixels[None])
    assert objectness.min() >= 0 and objectness.max() <= 1 + 1e-6
    assert probs.min() >= 0 and probs.max() <= 1 + 1e-6
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_one_stage_can_be_explained(one_stage):
    _, detector = one_stage
    image = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    found = detector.detect(image, confidence=0.05)
    found = found[found.scores < 0.99][:9]  # nearer to 1 there is no gradient
    assert len(found)
    explained = dc.explain(detector, image, found, method="drise", n_masks=10, progress=False)
    assert (explained.saliency.max((1, 2)) > 0).all()
    if detector.feature_layers:
        assert dc.explain(detector, image, found, method="gradcam").saliency.max() > 0


@pytest.mark.parametrize("family", [*FAMILIES, "ssd300"])
def test_layers_are_the_network_s_and_stages_hold_each_parameter_once(family):
    module = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4) if family == "ssd300" else None
    detector = dc.load_detector(module or build(family), class_names=NAMES, device="cpu")
    layers = [detector.module.get_submodule(name) for name in detector.feature_layers]
    assert len(layers) == {"retinanet": 5, "fcos": 5, "ssd": 0, "ssdlite": 6, "ssd300": 6}[family]
    parts = [name for part in detector.stages.values() for name in part]
    held = [id(one) for name in parts for one in detector.module.get_submodule(name).parameters()]
    assert sorted(held) == sorted(id(one) for one in detector.module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_names_come_with_the_background_or_without(family):
    module = build(family)
    for names in (NAMES, NAMES[1:]):
        assert dc.load_detector(module, class_names=names, device="cpu").class_names == NAMES[1:]
    with pytest.raises(dc.InputError, match=r"scores 4 classes.*class_names has 2: give 4 or.* 3"):
        dc.load_detector(module, class_names=NAMES[2:])


def test_all_columns_of_a_network_without_background_count():
    detector = dc.load_detector(build("fcos"), class_names=("fox", *NAMES[1:]), device="cpu")
    assert detector.class_names == ("fox", "cat", "dog", "cow")
    canvas = detector.prepare(np.zeros((64, 64, 3), np.uint8))
    assert detector.predict(canvas.pixels[None]).class_probs.shape[2] == 4


def test_a_faster_rcnn_is_known_by_what_it_is(module):
    detector = dc.load_detector(module, class_names=CLASS_NAMES, name="mine", device="cpu")
    assert isinstance(detector, FasterRcnnDetector) and detector.name == "mine"
    assert dc.load_detector(module, class_names=CLASS_NAMES, device="cpu").name == "FasterRCNN"
    before = detector.provenance
    with torch.no_grad():
        other = networks.NETWORKS["planted_two_stage"].build()
    after = dc.load_detector(other, class_names=CLASS_NAMES, device="cpu").provenance
    assert before["network"] == after["network"] and before["weights_sha256"] != after["weights_sha256"]


def test_other_networks_are_refused():
    with pytest.raises(dc.InputError, match="ResNet is none of torchvision's MaskRCNN, FasterRCNN"):
        dc.load_detector(resnet18(weights=None), class_names=NAMES)
    module = build("fcos")
    with pytest.raises(dc.InputError, match="does not say what its classes are called"):
        dc.load_detector(module)
    with pytest.raises(dc.InputError, match="takes no decode"):
        dc.load_detector(module, class_names=NAMES, decode="yolox")
    for names in ("cat", [1, 2, 3], []):
        with pytest.raises(dc.InputError, match="class_names must be a list of names"):
            dc.load_detector(module, class_names=names)
