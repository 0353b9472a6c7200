"""Each family's layout, from small exported networks whose boxes are known, without a fact."""

import pickle
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from detectors.test_network_file import export
from torchvision.ops import box_convert

import dclose_nb as dc
from dclose_nb.detectors.families import FAMILIES, centres
from dclose_nb.detectors.sessions import load_openvino

PAGE = Path(__file__).parents[2] / "docs" / "detectors.md"
HEIGHT, WIDTH = 64, 96
CELLS = {stride: len(centres((HEIGHT, WIDTH), stride)) for stride in (8, 16, 32, 64)}
COLOUR = (230, 130, 30)  # red, green and blue of the image: the scores of three classes come from them


def known_boxes(count):
    """Centres and sizes (count, 4) in canvas pixels."""
    generator = torch.Generator().manual_seed(count)
    low, high = torch.tensor([20.0, 20, 4, 4]), torch.tensor([WIDTH - 20.0, HEIGHT - 20, 30, 30])
    return low + torch.rand(count, 4, generator=generator) * (high - low)


class Network(torch.nn.Module):
    """Boxes of its own, and as scores of three classes the mean red, green and blue that it is given."""

    def __init__(self, layout):
        super().__init__()
        self.layout = layout
        three = CELLS[8] + CELLS[16] + CELLS[32]
        grids = dict.fromkeys(("yolox", "yolox_decoded", "yolov8", "rtmdet"), three)
        count = (grids | {"yolov5": 3 * three, "gfl": three + CELLS[64]}).get(layout, 20)
        self.register_buffer("boxes", known_boxes(count))
        self.register_buffer("labels", torch.arange(count) % 3)
        strides = torch.cat([torch.full((n, 1), float(s)) for s, n in CELLS.items()])[:three]
        self.register_buffer("strides", strides)
        grid = torch.cat([centres((HEIGHT, WIDTH), s) - s / 2 for s in (8, 16, 32)])
        self.register_buffer("grid", grid)

    def scores(self, images):
        return images.mean((2, 3))[:, None].expand(-1, len(self.boxes), -1)

    def objectness(self, scores):
        return 0 * scores[..., :1] + 0.9

    def forward(self, images, sizes=None):
        scores = self.scores(images)
        boxes = self.boxes.expand(images.shape[0], -1, -1)
        labels = self.labels.expand(images.shape[0], -1)
        shares = boxes / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        if self.layout == "rt_detr":
            corners = box_convert(shares, "cxcywh", "xyxy") * torch.cat([sizes, sizes], 1)[:, None]
            return labels, corners, scores[..., 0]
        corners = box_convert(boxes, "cxcywh", "xyxy")
        if self.layout == "mmdeploy":
            return torch.cat([corners, scores[..., :1]], dim=-1), labels
        if self.layout == "yolo_end_to_end":
            return torch.cat([corners, scores[..., :1], labels[..., None].float()], dim=-1)
        if self.layout == "yolov8":
            return torch.cat([boxes, scores], dim=-1).transpose(1, 2)
        if self.layout == "yolox":
            offsets = (boxes[..., :2] - self.grid) / self.strides
            boxes = torch.cat([offsets, (boxes[..., 2:] / self.strides).log()], dim=-1)
        if self.layout in ("yolox", "yolox_decoded", "yolov5"):
            return torch.cat([boxes, self.objectness(scores), scores], dim=-1)
        if self.layout == "gfl":
            return self.gfl(scores)
        if self.layout == "rtmdet":
            return self.rtmdet(scores)
        if self.layout == "detr, boxes first":  # and as many logits as a box has numbers
            return shares, torch.cat([scores, scores[..., :1]], dim=-1)
        background = [0 * scores[..., :1]] * (self.layout == "detr, softmax")
        return torch.cat([scores, *background], dim=-1), shares

    def gfl(self, scores):
        """Each side is two strides away from its cell's centre."""
        scores = scores.split(list(CELLS.values()), dim=1)
        peak = 50 * torch.nn.functional.one_hot(torch.tensor(2), 8).float().repeat(4)
        return *scores, *((0 * part[..., :1] + peak) for part in scores)

    def rtmdet(self, scores):
        """Each box goes from a stride outside the canvas's top left to its cell's bottom right."""
        logits, distances = [], []
        for stride, part in zip((8, 16, 32), scores.split(list(CELLS.values())[:3], dim=1)):
            rows, columns = HEIGHT // stride, WIDTH // stride
            logits.append(part.transpose(1, 2).unflatten(2, (rows, columns)))
            y, x = (stride * (1.0 + torch.arange(n)) for n in (rows, columns))
            sides = torch.stack(torch.broadcast_tensors(x, y[:, None], *torch.tensor([1.0, 1.0]) * stride))
            distances.append(sides + 0 * logits[-1][:, :1])
        return *logits, *distances


def write(network, path, batch="any"):
    names = ["images", "sizes"][: 1 + (network.layout == "rt_detr")]
    inputs = torch.zeros(1, 3, HEIGHT, WIDTH), torch.ones(1, 2, dtype=torch.long)
    axes = {"dynamic_axes": {name: {0: "batch"} for name in names}} if batch == "any" else {}
    return export(network.eval(), path, inputs[: len(names)], input_names=names, **axes)


def to_openvino(path, *labels):
    openvino = load_openvino()
    model = openvino.convert_model(path)
    if labels:
        model.set_rt_info(list(labels), ["model_info", "labels"])
    openvino.save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
    return path.with_suffix(".xml")


@pytest.fixture
def exported(tmp_path):
    return lambda layout, batch="any": write(Network(layout), tmp_path / "net.onnx", batch)


pytestmark = pytest.mark.filterwarnings("ignore:.*labels and scores only")

LAYOUTS = [*FAMILIES, "detr, softmax", "detr, boxes first"]


@pytest.mark.parametrize(("batch", "xml"), [("one", False), ("any", False), ("any", True)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_is_recognised_and_decoded(exported, layout, batch, xml):
    path = exported(layout, batch)
    names = ["r", "g", "b", "r again"][: 4 if layout == "detr, boxes first" else 3]
    detector = dc.load_detector(to_openvino(path) if xml else path, class_names=names)
    assert detector.provenance["decode"] == layout.partition(",")[0]
    pixels = torch.tensor(COLOUR)[:, None, None].float().expand(2, 3, HEIGHT, WIDTH)
    boxes, objectness, probs = detector.predict(pixels)
    if layout == "gfl":
        grid = torch.cat([torch.cat([centres((HEIGHT, WIDTH), s)] * 2, 1) for s in CELLS])
        reach = torch.cat([torch.full((n, 1), 2.0 * s) for s, n in CELLS.items()])
        expected = grid + reach * torch.tensor([-1, -1, 1, 1])
    elif layout == "rtmdet":
        expected = torch.tensor(
            [
                [-s, -s, x + s, y + s]
                for s in (8.0, 16.0, 32.0)
                for y in range(0, HEIGHT, int(s))
                for x in range(0, WIDTH, int(s))
            ]
        )
    else:
        expected = box_convert(known_boxes(len(boxes[0])), "cxcywh", "xyxy")
    assert torch.allclose(boxes, expected.expand(2, -1, -1), atol=1e-3)
    family = FAMILIES[detector.provenance["decode"]]
    colour = np.array(COLOUR if family.colours == "rgb" else COLOUR[::-1], float)
    seen = torch.tensor((colour - family.mean) / family.std, dtype=torch.float32)
    scores = objectness[..., None] * probs
    if layout in ("yolox", "yolox_decoded", "yolov5"):
        assert torch.allclose(objectness, torch.tensor(0.9)) and torch.allclose(probs[0, 0], seen, atol=1e-4)
    elif family.labels_only:
        assert torch.allclose(objectness, seen[0], atol=1e-4)
        assert torch.equal(probs[0], torch.eye(3)[torch.arange(20) % 3])
    elif layout == "detr, boxes first":
        assert torch.allclose(scores[0, 0], torch.cat([seen, seen[:1]]).sigmoid(), atol=1e-4)
    elif layout in ("detr", "rtmdet"):
        assert torch.allclose(scores[0, 0], seen.sigmoid(), atol=1e-4)
    elif layout == "detr, softmax":
        assert torch.allclose(scores[0, 0], torch.cat([seen, torch.zeros(1)]).softmax(0)[:3], atol=1e-4)
    else:
        assert torch.allclose(scores[0, 0], seen, atol=1e-4)


class Sure(Network):
    """Sees a cup and a dining table wherever it looks, and is the surer the brighter the image is."""

    def scores(self, images):
        self.labels[:2] = torch.tensor([41, 60])
        known = torch.zeros(len(self.boxes), 80)
        known[[0, 1], self.labels[:2]] = 1
        brightness = images.mean((1, 2, 3))[:, None, None] / (255 if "yolox" in self.layout else 1)
        scores = brightness.sigmoid() * known
        if FAMILIES[self.layout].labels_only:
            return scores.amax(-1, keepdim=True)
        return scores.logit(1e-4) if self.layout in ("detr", "rtmdet") else scores

    def objectness(self, scores):
        return scores.amax(-1, keepdim=True)


SECTION = re.search(r"^## An ONNX file$.*?(?=^## )", PAGE.read_text(encoding="utf-8"), re.M | re.S)[0]
BLOCKS = re.findall(r"^```python\n(.*?)^```$", SECTION, re.M | re.S)


@pytest.mark.parametrize("layout", FAMILIES)
def test_the_page_s_lines_lead_from_a_file_of_each_family_to_a_map(layout, tmp_path, monkeypatch):
    """The first block, word by word, and the second, which has OpenVINO run the same network."""
    (file,) = re.findall(r'load_detector\("(.*?)"\)', BLOCKS[0])
    write(Sure(layout), tmp_path / file)
    monkeypatch.chdir(tmp_path)
    reader, maps = {}, []
    for block in BLOCKS[:2]:
        exec(compile(block, PAGE.name, "exec"), reader)
        explanation = reader["explanation"]
        assert reader["detector"].provenance["decode"] == layout
        assert sorted(explanation.detections.names) == ["cup", "dining table"]
        assert (explanation.saliency.max((1, 2)) > 0).all()
        maps.append(explanation.saliency)
    plt.close("all")
    assert np.allclose(*maps, atol=0.02)
    assert len(re.findall(r"^(?!import)\S", BLOCKS[0], re.M)) == 3


def test_every_family_is_on_the_page():
    listed = re.search(r"^\| `decode` \|.*$", SECTION, re.M)[0]
    assert re.findall(r'`"(\w+)"`', listed) == list(FAMILIES)


@pytest.mark.parametrize(("shape", "content"), [((100, 80), (0, 22, 64, 51)), ((30, 90), (16, 0, 32, 96))])
def test_a_photo_stands_in_the_middle(exported, shape, content):
    canvas = dc.load_detector(exported("yolov8"), class_names=["r", "g", "b"]).prepare(
        np.full((*shape, 3), 7, np.uint8)
    )
    assert canvas.content == content and (canvas.pixels[:, *canvas.window] == 7).all()
    assert (canvas.pixels == 114).sum() == 3 * (HEIGHT * WIDTH - content[2] * content[3])


def named(path, names):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"names": names})
    onnx.save(model, str(path))
    return path


def test_class_names_come_from_the_file(exported):
    path = named(exported("yolov8"), "{0: 'red', 1: 'green', 2: 'blue'}")
    assert dc.load_detector(path).class_names == ("red", "green", "blue")
    assert dc.load_detector(path, class_names=["r", "g", "b"]).class_names == ("r", "g", "b")


@pytest.mark.parametrize("names", ["", "{", "__import__('os')", "{1: 'a'}", "[1, 2, 3]", "(" * 5000, "None"])
def test_other_metadata_is_left_alone(exported, names):
    with pytest.raises(dc.InputError, match=r"net.onnx has 3 classes: give class_names=\[...\], one name"):
        dc.load_detector(named(exported("yolov8"), names))


def test_the_number_of_classes_that_is_wanted_is_said(exported):
    with pytest.raises(dc.InputError, match="has 2 or 3 classes"):
        dc.load_detector(exported("detr"))


def test_labels_and_scores_only_are_said(exported):
    with pytest.warns(UserWarning, match="net.onnx gives labels and scores only"):
        dc.load_detector(exported("yolo_end_to_end"), class_names=["r", "g", "b"])


@pytest.mark.parametrize("logits", [91, 92])
def test_detr_s_classes_are_at_their_coco_ids(tmp_path, logits):
    class Detr(Network):
        def scores(self, images):
            return super().scores(images).repeat(1, 1, 31)[..., :logits]

    detector = dc.load_detector(write(Detr("detr"), tmp_path / "net.onnx"))
    names = detector.class_names
    assert names[1] == "person" and names[47] == "cup" and names[90] == "toothbrush"
    assert len(set(names)) == 91 and sum(name.startswith("unused") for name in names) == 11
    total = detector.predict(torch.zeros(1, 3, HEIGHT, WIDTH)).class_probs.sum(-1)
    assert torch.allclose(total, torch.ones(1)) == (logits == 92)  # of a softmax, given an object


@pytest.mark.parametrize("name", ["yolov8n.pt", "Best.PTH"])
def test_a_file_that_can_run_code_is_not_opened(name):
    with pytest.raises(dc.InputError, match=r"is not opened: .* can run code .* Export it to ONNX"):
        dc.load_detector(name)


class Zeros(torch.nn.Module):
    def forward(self, images):
        return torch.zeros(1, 21, 21) + 0 * images.sum()


def test_of_two_layouts_a_word_decides(tmp_path):
    path = export(Zeros(), tmp_path / "net.onnx", (torch.zeros(1, 3, 32, 32),))
    with pytest.raises(
        dc.InputError, match=r'several families: give decode="yolox" or decode="yolov8"; its outputs'
    ):
        dc.load_detector(path)
    names = [f"class {k}" for k in range(17)]
    assert dc.load_detector(path, decode="yolov8", class_names=names).provenance["colours"] == "rgb"


UNSURE = "net finds nothing in this image, and no score reaches 0.05"


def test_a_network_that_sees_nothing_is_doubted_once(exported):
    """Its scores are the mean colours of the image."""
    facts = {"class_names": ["r", "g", "b"], "resize": "stretch", "colours": "bgr"}
    detector = dc.load_detector(exported("yolov8"), **facts)
    shades = [np.full((8, 8, 3), round(255 * score), np.uint8) for score in (0.04, 0.1, 0.3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(detector.detect(shades[1])) == 0
        detector.predict(torch.zeros(1, 3, HEIGHT, WIDTH))
    with pytest.warns(UserWarning, match=UNSURE) as said:
        found = [detector.detect(shades[0]) for _ in range(2)]
    assert [*map(len, found)] == [0, 0]
    (warning,) = said
    facts = r"colours='bgr', mean=\(0.0, 0.0, 0.0\), std=\(255.0, 255.0, 255.0\), resize='stretch'$"
    assert re.search(facts, str(warning.message)) and warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trusted = dc.load_detector(exported("yolov8"), class_names=["r", "g", "b"])
        assert len(trusted.detect(shades[2])) and not len(trusted.detect(shades[0]))


# -- OpenVINO's own form


def test_class_names_come_from_openvino_s_file(exported):
    path = to_openvino(exported("yolov8"), "traffic_light", "car", "bus")
    detector = dc.load_detector(path)
    assert detector.class_names == ("traffic light", "car", "bus") and detector.name == "net"
    assert detector.provenance["weights_sha256"] == sha256(path.with_suffix(".bin").read_bytes()).hexdigest()
    with pytest.raises(dc.InputError, match=r"net\.xml has 3 classes: give class_names"):
        dc.load_detector(to_openvino(path.with_suffix(".onnx"), "car", "bus"))
    with pytest.raises(dc.InputError, match=r"an \.xml file takes no device"):
        dc.load_detector(path, device="cuda")


def test_openvino_gives_the_same_in_threads_and_processes(exported):
    detector = dc.load_detector(to_openvino(exported("rt_detr")), class_names=["r", "g", "b"])
    pixels = torch.rand(6, 3, HEIGHT, WIDTH) * 255
    together = detector.predict(pixels)
    with ThreadPoolExecutor(3) as pool:
        each = list(pool.map(detector.predict, pixels.split(1)))
    again = pickle.loads(pickle.dumps(detector)).predict(pixels)
    for whole, parts, same in zip(together, zip(*each), again):
        assert torch.allclose(whole, torch.cat(parts), atol=1e-5) and torch.equal(whole, same)


def test_openvino_s_files_that_cannot_be_used_are_refused(exported):
    path = to_openvino(exported("yolov8"))
    whole, weights = path.read_text(), path.with_suffix(".bin")
    for text, word in (
        (whole[: len(whole) // 2], "net.xml' cannot be read as a network: .* at offset"),
        ("<html></html>", "net.xml must have one float input .*; it has: none"),
        ("not XML", "net.xml"),
    ):
        path.write_text(text)
        with pytest.raises(dc.InputError, match=word) as refused:
            dc.load_detector(path)
        assert "\n" not in str(refused.value)
    path.write_text(whole)
    weights.write_bytes(b"")
    with pytest.raises(dc.InputError, match=r"net.xml' cannot be read as a network: Incorrect weights"):
        dc.load_detector(path)
    weights.unlink()
    with pytest.raises(dc.InputError, match=r"net.bin' cannot be read: No such file"):
        dc.load_detector(path)


def test_without_a_runtime_its_package_is_named(exported, monkeypatch):
    path = to_openvino(exported("yolov8"))
    for package, file in (("openvino", path), ("onnxruntime", path.with_suffix(".onnx"))):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f"{package}.frontend", None)
        with pytest.raises(dc.InputError, match=f"{file.name} needs {package}: pip install {package}"):
            dc.load_detector(file)


@pytest.mark.parametrize("layout", ["rt_detr", "mmdeploy", "yolo_end_to_end"])
def test_a_label_beyond_the_names_is_refused(exported, layout):
    with pytest.raises(dc.InputError, match=r"gives the label \d and there are 1 class names"):
        dc.load_detector(exported(layout), class_names=["only"])
