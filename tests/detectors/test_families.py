"""Each family's layout, from small exported networks whose boxes are known, without a fact."""

import numpy as np
import pytest
import torch
from detectors.test_onnx_file import export
from torchvision.ops import box_convert

import dclose_nb as dc
from dclose_nb.detectors.families import FAMILIES, centres

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
        count = {"yolov5": 3 * three, "yolov8": three, "gfl": three + CELLS[64]}.get(layout, 20)
        self.register_buffer("boxes", known_boxes(count))
        self.register_buffer("labels", torch.arange(count)[:, None] % 3)

    def forward(self, images):
        colours = images.mean((2, 3))[:, None].expand(-1, len(self.boxes), -1)
        boxes = self.boxes.expand(images.shape[0], -1, -1)
        if self.layout == "yolov5":
            return torch.cat([boxes, 0 * boxes[..., :1] + 0.9, colours], dim=-1)
        if self.layout == "yolov8":
            return torch.cat([boxes, colours], dim=-1).transpose(1, 2)
        if self.layout == "yolo_end_to_end":
            corners = torch.cat(
                [boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1
            )
            labels = self.labels.expand(images.shape[0], -1, -1)
            return torch.cat([corners, colours[..., :1], labels.float()], dim=-1)
        if self.layout == "gfl":
            return self.gfl(colours)
        shares = boxes / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        background = [0 * colours[..., :1]] * (self.layout == "detr, softmax")
        return torch.cat([colours, *background], dim=-1), shares

    def gfl(self, colours):
        """Each side is two strides away from its cell's centre."""
        scores = colours.split(list(CELLS.values()), dim=1)
        peak = 50 * torch.nn.functional.one_hot(torch.tensor(2), 8).float().repeat(4)
        return *scores, *((0 * part[..., :1] + peak) for part in scores)


@pytest.fixture
def exported(tmp_path):
    def make(layout, batch="any"):
        options = (
            {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}} if batch == "any" else {}
        )
        return export(
            Network(layout).eval(), tmp_path / "net.onnx", (torch.zeros(1, 3, HEIGHT, WIDTH),), **options
        )

    return make


pytestmark = pytest.mark.filterwarnings("ignore:.*labels and scores only")

LAYOUTS = ["yolov5", "yolov8", "yolo_end_to_end", "detr", "detr, softmax", "gfl"]


@pytest.mark.parametrize("batch", ["one", "any"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_is_recognised_and_decoded(exported, layout, batch):
    detector = dc.load_detector(exported(layout, batch), class_names=["r", "g", "b"])
    assert detector.provenance["decode"] == layout.partition(",")[0]
    pixels = torch.tensor(COLOUR)[:, None, None].float().expand(2, 3, HEIGHT, WIDTH)
    boxes, objectness, probs = detector.predict(pixels)
    if layout == "gfl":
        grid = torch.cat([torch.cat([centres((HEIGHT, WIDTH), s)] * 2, 1) for s in CELLS])
        reach = torch.cat([torch.full((n, 1), 2.0 * s) for s, n in CELLS.items()])
        expected = grid + reach * torch.tensor([-1, -1, 1, 1])
    else:
        expected = box_convert(known_boxes(len(boxes[0])), "cxcywh", "xyxy")
    assert torch.allclose(boxes, expected.expand(2, -1, -1), atol=1e-3)
    family = FAMILIES[detector.provenance["decode"]]
    colour = np.array(COLOUR if family.colours == "rgb" else COLOUR[::-1], float)
    seen = torch.tensor((colour - family.mean) / family.std, dtype=torch.float32)
    scores = objectness[..., None] * probs
    if layout == "yolov5":
        assert torch.allclose(objectness, torch.tensor(0.9)) and torch.allclose(probs[0, 0], seen, atol=1e-4)
    elif layout == "yolo_end_to_end":
        assert torch.allclose(objectness, seen[0], atol=1e-4)
        assert torch.equal(probs[0], torch.eye(3)[torch.arange(20) % 3])
    elif layout == "detr":
        assert torch.allclose(scores[0, 0], seen.sigmoid(), atol=1e-4)
    elif layout == "detr, softmax":
        assert torch.allclose(scores[0, 0], torch.cat([seen, torch.zeros(1)]).softmax(0)[:3], atol=1e-4)
    else:
        assert torch.allclose(scores[0, 0], seen, atol=1e-4)


@pytest.mark.parametrize("layout", ["yolov5", "yolov8", "yolo_end_to_end"])
def test_from_file_to_map_in_two_lines(exported, layout):
    detector = dc.load_detector(exported(layout), class_names=["r", "g", "b"])
    image = np.full((100, 80, 3), COLOUR, np.uint8)
    found = detector.detect(image)[:1]
    explanation = dc.explain(detector, image, found, n_masks=20, progress=False)
    assert explanation.saliency.shape == (1, 100, 80) and explanation.saliency.max() > 0


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


def test_too_few_or_too_many_names_are_refused(exported):
    with pytest.raises(dc.InputError, match="and 2 class_names: its class_probs are"):
        dc.load_detector(exported("yolov8"), class_names=["a", "b"])
    with pytest.raises(dc.InputError, match="has 2 or 3 classes"):
        dc.load_detector(exported("detr"))


def test_labels_and_scores_only_are_said(exported):
    with pytest.warns(UserWarning, match="net.onnx gives labels and scores only"):
        dc.load_detector(exported("yolo_end_to_end"), class_names=["r", "g", "b"])


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
