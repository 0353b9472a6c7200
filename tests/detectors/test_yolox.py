"""YOLOX for real: right to the last pixel, and fast enough to be asked thousands of times."""

import contextlib
import hashlib
import io
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from yolox.config import YoloxConfig
from yolox.data.data_augment import preproc

import dclose_nb as dc
from dclose_nb.detectors import weights
from dclose_nb.detectors.yolox import YoloxDetector


@pytest.fixture(scope="module")
def random_yolox():
    """A YOLOX-Nano with random weights and batch-norm statistics, as the package runs it and as we do."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)  # so that only a wrong formula can make them differ
    try:
        plain, ours = (YoloxConfig.get_named_config("yolox_nano").get_model() for _ in range(2))
        settle(plain)
        ours.load_state_dict(plain.state_dict())
        names = [str(k) for k in range(80)]
        detector = YoloxDetector("random", ours, (416, 416), names, device=torch.device("cpu"), provenance={})
    finally:
        torch.set_default_dtype(torch.float32)
    return plain, detector


@torch.no_grad()
def settle(module):
    """Give a fresh network batch-norm statistics under which signals neither die nor explode."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    module.train()
    module.training = module.head.training = False  # outputs instead of losses
    module(torch.rand(2, 3, 416, 416) * 255)
    module.eval()
    for layer in module.head.reg_preds:
        layer.weight.mul_(0.1)  # boxes of sane sizes


@pytest.mark.parametrize("shape", [(480, 640), (640, 427), (100, 90), (333, 1001)])
def test_the_canvas_is_the_package_s_own(random_yolox, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected, ratio = preproc(image, (416, 416))
    canvas = random_yolox[1].prepare(image)
    assert np.array_equal(canvas.pixels.numpy(), expected)
    assert canvas.content == (0, 0, int(shape[0] * ratio), int(shape[1] * ratio))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 2)])
def test_strange_shapes_have_a_canvas(random_yolox, shape):
    canvas = random_yolox[1].prepare(np.zeros((*shape, 3), np.uint8))
    assert canvas.pixels.shape == (3, 416, 416) and min(canvas.content[2:]) >= 1


def test_folded_and_fed_rgb_is_the_network_fed_bgr(random_yolox):
    plain, detector = random_yolox
    pixels = torch.rand(2, 3, 416, 416, dtype=torch.float64) * 255
    with torch.no_grad():
        expected = plain(pixels.flip(1))
        wrong = plain(pixels)
        boxes, objectness, probs = detector.predict(pixels)
    centre, size = expected[..., :2], expected[..., 2:4]
    assert torch.allclose(boxes, torch.cat([centre - size / 2, centre + size / 2], -1), rtol=1e-9)
    assert torch.allclose(objectness, expected[..., 4], rtol=1e-9)
    assert torch.allclose(probs, expected[..., 5:], rtol=1e-9)
    assert (probs - wrong[..., 5:]).abs().max() > 1e-2
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in detector.module.modules())


SEEN = {
    "yolox_nano": {
        "astronaut": [("person", 0.93)],
        "camera": [("person", 0.93)],
        "chelsea": [("cat", 0.62)],
        "coffee": [("cup", 0.90), ("dining table", 0.74)],
        "grace_hopper": [("person", 0.94), ("tie", 0.88)],
    },
    "picodet_s": {
        "astronaut": [("person", 0.97), ("car", 0.27)],
        "camera": [("person", 0.95), ("truck", 0.45), ("car", 0.30), ("bus", 0.28)],
        "chelsea": [("cat", 0.98), ("tie", 0.44)],
        "coffee": [("dining table", 0.93), ("cup", 0.92), ("spoon", 0.27), ("mouse", 0.26)],
        "grace_hopper": [("person", 0.97), ("tie", 0.86)],
    },
}


def is_seen(detector, photo):
    """Whether a network sees in a photo that ships what it should, to 0.015 of a score."""
    found, (names, scores) = detector.detect(dc.load_photo(photo)), zip(*SEEN[detector.name][photo])
    return found.names == list(names) and np.allclose(found.scores, scores, atol=0.015)


@pytest.mark.parametrize("photo", SEEN["yolox_nano"])
def test_what_the_default_network_sees_on_the_shipped_photos(real, photo):
    assert is_seen(real, photo)


def average_precision(detector, coco_folder, every=1):
    """AP on the first of each `every` images: confidence 0.001, suppression at IoU 0.65 within classes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(coco_folder / "annotations" / "instances_val2017.json"))
        category = {entry["name"]: entry["id"] for entry in truth.loadCats(truth.getCatIds())}
        results = []
        ids = truth.getImgIds()[::every]
        for entry in truth.loadImgs(ids):
            image = dc.load_photo(coco_folder / "val2017" / entry["file_name"])
            found = detector.detect(image, confidence=0.001, iou=0.65)
            for (x1, y1, x2, y2), name, score in zip(found.boxes.tolist(), found.names, found.scores):
                results.append(
                    {
                        "image_id": entry["id"],
                        "category_id": category[name],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": float(score),
                    }
                )
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.imgIds = ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.slow
def test_average_precision_on_coco(coco, yolox):
    assert average_precision(yolox, coco) >= 0.31


def test_a_map_follows_its_object(real):
    """The tie inside the person: each map is densest in its own box."""
    found = dc.explain(real, dc.load_photo("grace_hopper"), n_masks=200, progress=False)
    person, tie = found.saliency
    x1, y1, x2, y2 = found.detections.boxes[1].round().astype(int)
    assert found.detections.names == ["person", "tie"]
    inside = tie[y1:y2, x1:x2].mean() / tie.mean()
    assert inside > 2 and inside > 2 * person[y1:y2, x1:x2].mean() / person.mean()


def test_one_pixel_and_forty_megapixels(real):
    dot = dc.explain(
        real, np.zeros((1, 1, 3), np.uint8), dc.Targets([[0, 0, 1, 1]], ["cat"]), n_masks=8, progress=False
    )
    assert dot.saliency.shape == (1, 1, 1)
    large = cv2.resize(dc.load_photo("chelsea"), (8000, 5000))
    found = dc.explain(real, large, n_masks=8, progress=False)
    assert found.detections.names[0] == "cat" and found.saliency.shape[1:] == (5000, 8000)
    assert found.levels.shape == (5, len(found), *real.prepare(large).content[2:])


def test_a_file_that_is_not_the_official_one_is_loaded_with_a_remark(random_yolox, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOX_HOME", str(tmp_path))
    path = weights.path_of("yolox_nano")
    path.parent.mkdir()
    torch.save({"model": random_yolox[0].state_dict()}, path)
    with pytest.warns(UserWarning, match="not the official") as said:
        detector = dc.load_detector("yolox_nano")
    assert said[0].filename == __file__
    assert detector.provenance["weights_official"] is False
    assert detector.provenance["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


HOMELESS = """
import os, pwd
def getpwuid(uid):
    raise KeyError(uid)
pwd.getpwuid = getpwuid
import dclose_nb as dc
print(dc.load_detector("planted").name, os.environ.get("HOME"))
print(dc.load_example("overlap").detector.name)
dc.load_detector("yolox_nano")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a home folder is found otherwise")
def test_an_account_without_a_home_is_no_obstacle():
    homes = "HOME", "YOLOX_HOME", "XDG_CACHE_HOME"
    environment = {name: value for name, value in os.environ.items() if name not in homes}
    command = [sys.executable, "-c", HOMELESS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["planted", "None", "planted"]
    assert "MissingWeights: there is no home folder to keep yolox_nano.pth in" in done.stderr.splitlines()[-1]
