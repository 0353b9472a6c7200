"""Hugging Face's networks as detectors: their own answers. Small ones with random weights."""

import shutil

import numpy as np
import pytest
import torch

import dclose_nb as dc

transformers = pytest.importorskip("transformers", reason="pip install 'dclose_nb[huggingface]'")

NAMES = {0: "cat", 1: "dog", 2: "cow"}
SMALL = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 12}
SMALL |= {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("attention_heads",)}
SMALL |= {f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")}


BODY = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "layer_type": "basic"}


def build(family):
    """A network whose scores differ from query to query, with its image processor, at 64 x 96."""
    torch.manual_seed(0)
    size = {"size": {"height": 64, "width": 96}}
    if family == "yolos":
        config = transformers.YolosConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=[64, 96],
            num_detection_tokens=12,
            id2label=NAMES,
        )
        module, processor = (
            transformers.YolosForObjectDetection(config),
            transformers.YolosImageProcessor(**size),
        )
    elif family == "rf_detr":
        body = transformers.RfDetrDinov2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=96,
            patch_size=8,
            num_windows=2,
            out_features=["stage1", "stage2"],
        )
        heads = {"decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2, "group_detr": 2}
        sizes = {"d_model": 32, "decoder_layers": 1, "num_queries": 12, "decoder_ffn_dim": 32}
        config = transformers.RfDetrConfig(backbone_config=body, id2label=NAMES, **sizes, **heads)
        module, processor = (
            transformers.RfDetrForObjectDetection(config),
            transformers.RfDetrImageProcessor(**size),
        )
    elif family in ("rt_detr", "rt_detr_v2", "d_fine"):
        kind = {"rt_detr": "RTDetr", "rt_detr_v2": "RTDetrV2", "d_fine": "DFine"}[family]
        body = transformers.RTDetrResNetConfig(**BODY, out_features=["stage2", "stage3", "stage4"])
        sizes = {
            "encoder_in_channels": [16, 24, 32],
            "decoder_in_channels": [32] * 3,
            "encoder_hidden_dim": 32,
        }
        config = getattr(transformers, f"{kind}Config")(
            backbone_config=body, id2label=NAMES, **sizes, **SMALL | {"decoder_layers": 2}
        )
        module, processor = (
            getattr(transformers, f"{kind}ForObjectDetection")(config),
            transformers.RTDetrImageProcessor(**size),
        )
    else:
        kind = {"detr": "Detr", "conditional_detr": "ConditionalDetr", "deformable_detr": "DeformableDetr"}[
            family
        ]
        config = getattr(transformers, f"{kind}Config")(
            backbone_config=transformers.ResNetConfig(
                **BODY,
                out_features=["stage2", "stage3", "stage4"] if kind == "DeformableDetr" else ["stage4"],
            ),
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            id2label=NAMES,
            **SMALL | {"decoder_layers": 2},
        )
        module = getattr(transformers, f"{kind}ForObjectDetection")(config)
        processor = getattr(transformers, f"{kind}ImageProcessor")(**size)
    with torch.no_grad():
        for name, weight in module.named_parameters():  # as they come, all queries are alike
            if weight.ndim > 1 and len(weight):
                fan_in = 1 if "query" in name or "tokens" in name else weight[0].numel()
                torch.nn.init.normal_(weight, std=fan_in**-0.5)
            if family == "rf_detr" and "bbox_embed" in name:  # its boxes may leave the image
                weight.mul_(0.1)
            if "class" in name and weight.shape == (4,):
                weight[3] = 2  # the background's
            if "class" in name and weight.shape == (3,):
                weight.fill_(-3)
    return module.eval(), processor


SOFTMAX, SIGMOIDS = ["detr", "yolos"], ["conditional_detr", "deformable_detr", "rt_detr"]
NEW = {"rt_detr_v2": "RTDetrV2Config", "d_fine": "DFineConfig", "rf_detr": "RfDetrConfig"}
SIGMOIDS += [family for family, config in NEW.items() if hasattr(transformers, config)]


@pytest.fixture(scope="module", params=SOFTMAX + SIGMOIDS)
def made(request):
    module, processor = build(request.param)
    return module, processor, dc.load_detector(module, processor=processor, device="cpu")


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


def test_scores_and_boxes_are_those_of_the_package(made, image):
    """It lists the best class of each query, or the best pairs of query and class."""
    module, processor, detector = made
    with torch.inference_mode():
        output = module(**processor(images=image, return_tensors="pt"))
        theirs = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[(50, 70)])[0]
        canvas = detector.prepare(image)
        boxes, objectness, probs = (part[0] for part in detector.predict(canvas.pixels[None]))
    assert detector.class_names == ("cat", "dog", "cow") and canvas.content == (0, 0, 64, 96)
    scores = objectness[:, None] * probs  # (12, 3)
    assert scores.std() > 0.003 and boxes.std(0).min() > 0.1
    ours = [
        [*box, 100 * score, 100 * label]
        for box, row in zip(canvas.boxes_to_image(boxes), scores.numpy())
        for label, score in enumerate(row)
    ]
    wanted = np.column_stack([theirs["boxes"], 100 * theirs["scores"], 100 * theirs["labels"]])
    apart = torch.cdist(torch.tensor(wanted, dtype=torch.float64), torch.tensor(ours, dtype=torch.float64))
    assert len(wanted) >= 12 and apart.amin(1).max() < 0.02
    assert np.isclose(scores.max(), theirs["scores"].max(), atol=1e-4)


def test_it_keeps_the_contract(made, image):
    _, _, detector = made
    (remark,) = dc.testing.check_detector(detector, image)
    assert "nothing was found" in remark  # random weights are sure of nothing


def test_it_can_be_explained(made, image):
    _, _, detector = made
    found = detector.detect(image, confidence=0, iou=1.0)[:2]
    explained = dc.explain(detector, image, found, method="drise", n_masks=10, progress=False)
    assert explained.saliency.shape == (2, 50, 70) and (explained.saliency.max((1, 2)) > 0).all()
    assert "transformers" in explained.provenance["versions"]
    assert explained.provenance["detector"]["weights_sha256"]


def test_softmax_and_sigmoids_are_told_apart(made, image):
    _, _, detector = made
    probs = detector.predict(detector.prepare(image).pixels[None]).class_probs
    family = detector.module.config.model_type.replace("-", "_")
    assert family in SOFTMAX + SIGMOIDS
    total = probs.sum(-1)  # of a softmax a class vector is conditional on an object, of sigmoids its top is 1
    assert torch.allclose(total if family in SOFTMAX else probs.amax(-1), torch.ones(1, 12))
    assert (total > 1.01).all() == (family in SIGMOIDS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders") / "my_detr"
    for part in build("detr"):
        part.save_pretrained(folder)
    return folder


def test_a_folder_is_read_with_its_processor(saved, image):
    module, processor = build("detr")
    detector = dc.load_detector(str(saved), device="cpu")
    assert detector.name == "my_detr" and dc.load_detector(saved, name="mine", device="cpu").name == "mine"
    same = dc.load_detector(module, processor=processor, device="cpu")
    canvas = detector.prepare(image)
    assert torch.equal(canvas.pixels, same.prepare(image).pixels)
    for part, wanted in zip(detector.predict(canvas.pixels[None]), same.predict(canvas.pixels[None])):
        assert torch.allclose(part, wanted, atol=1e-5)
    with pytest.raises(dc.InputError, match="a folder takes no processor, class_names"):
        dc.load_detector(saved, processor=processor, class_names=["a"])


@pytest.mark.parametrize(
    ("file", "text", "word"),
    [
        ("config.json", None, r"is no Hugging Face model, it has no config\.json: write model and image"),
        ("preprocessor_config.json", None, r"it has no preprocessor_config\.json"),
        ("model.safetensors", None, r"it has no \*\.safetensors"),
        ("model.safetensors", "damaged", "cannot be read as a model: "),
        ("config.json", "{", "cannot be read as a model: "),
        ("config.json", '{"model_type": "bert"}', "cannot be read as a model: "),
        (
            "config.json",
            '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}',
            "cannot be read as a model: .* contains custom code",
        ),
    ],
)
def test_a_folder_that_holds_no_model_is_refused(saved, tmp_path, file, text, word):
    folder = shutil.copytree(saved, tmp_path / "my_detr")
    (folder / "own.py").write_text("raise SystemExit")
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(dc.InputError, match=word) as refused:
        dc.load_detector(folder)
    assert "\n" not in str(refused.value)


def test_what_is_missing_or_of_another_kind_is_named():
    module, processor = build("detr")
    with pytest.raises(dc.InputError, match="DetrForObjectDetection needs its image processor"):
        dc.load_detector(module)
    with pytest.raises(dc.InputError, match="a Hugging Face model takes no class_names"):
        dc.load_detector(module, processor=processor, class_names=["a"])
    with pytest.raises(dc.InputError, match="DetrModel detects no objects"):
        dc.load_detector(module.model, processor=processor)
