"""ONNX files as detectors: PyTorch's answers, other families, and files that do not fit."""

import hashlib
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import dclose_nb as dc
from dclose_nb.detection import box_iou
from dclose_nb.detectors.families import centres
from dclose_nb.detectors.sessions import load_openvino


@pytest.fixture(scope="session")
def zoo() -> Path:
    folder = os.environ.get("DCLOSE_ONNX")
    if not folder:
        pytest.skip(
            "no networks of other families: set DCLOSE_ONNX to a folder with picodet_s_416_coco.onnx, ..."
        )
    return Path(folder)


def export(module, path, inputs, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(module, inputs, path, dynamo=False, **options)
    return path


@pytest.fixture(scope="module")
def planted():
    return dc.load_detector("planted", device="cpu")


@pytest.fixture(scope="module")
def pixels(planted):
    canvas = planted.prepare(dc.planted.scene(3).image)
    return canvas.pixels * torch.linspace(0.2, 1, 3)[:, None, None, None]


@pytest.mark.parametrize("decode", ["yolox", "yolox_decoded"])
@pytest.mark.parametrize("batch", ["one", "any"])
def test_an_export_of_yolox_answers_as_the_network(planted, pixels, tmp_path, monkeypatch, decode, batch):
    monkeypatch.setattr(planted.module.head, "decode_in_inference", decode == "yolox_decoded")
    options = {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}} if batch == "any" else {}
    path = export(planted.module, tmp_path / "net.onnx", (torch.zeros(1, 3, 320, 320),), **options)
    monkeypatch.undo()
    names = planted.class_names
    detector = dc.load_detector(path, class_names=names, colours="rgb", decode=decode)
    with torch.inference_mode():
        expected = planted.predict(pixels)
        got = detector.predict(pixels.contiguous(memory_format=torch.channels_last))
    for part, wanted in zip(got, expected):
        assert part.shape == wanted.shape and torch.allclose(part, wanted, atol=1e-3)
    assert torch.equal(detector.prepare(dc.planted.scene(3).image).pixels, pixels[2])
    assert detector.name == "net" and detector.provenance["file"] == "net.onnx"


TWICE_OR_NEVER = "does not fit decode={}: its boxes are not x1, y1, x2, y2 in canvas pixels"


def test_whether_the_grid_is_applied_is_recognised(planted, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(planted.module.head, "decode_in_inference", True)
    path = export(planted.module, tmp_path / "net.onnx", (torch.zeros(1, 3, 320, 320),))
    names = planted.class_names
    detector = dc.load_detector(path, class_names=names)
    assert detector.provenance["decode"] == "yolox_decoded" and detector.colours == "bgr"
    with pytest.raises(dc.InputError, match=TWICE_OR_NEVER.format("yolox")):
        dc.load_detector(path, class_names=names, decode="yolox")


def test_a_grid_never_applied_is_found_out(zoo):
    assert dc.load_detector(zoo / "yolox_nano.onnx").provenance["decode"] == "yolox"
    with pytest.raises(dc.InputError, match=TWICE_OR_NEVER.format("yolox_decoded")):
        dc.load_detector(zoo / "yolox_nano.onnx", decode="yolox_decoded")


def test_yolox_nano_is_the_same_from_its_file_and_from_its_weights(zoo, yolox):
    """The file as it was published, without a fact; the default names, order of colours and canvas."""
    detector = dc.load_detector(zoo / "yolox_nano.onnx")
    image = dc.load_photo("coffee")
    canvas = detector.prepare(image)
    assert torch.equal(canvas.pixels, yolox.prepare(image).pixels.cpu())
    with torch.inference_mode():
        boxes, *parts = detector.predict(canvas.pixels[None])
        wanted, *wanted_parts = (part.cpu() for part in yolox.predict(canvas.pixels[None]))
    for part, other in zip(parts, wanted_parts):
        assert torch.allclose(part, other, rtol=0, atol=1e-3)
    apart = (boxes - wanted).abs().amax(-1)  # (1, T), in pixels
    assert apart[parts[0] > 0.01].max() < 1e-3
    assert (apart / (wanted[..., 2:] - wanted[..., :2]).amax(-1)).max() < 1e-3
    found, same = detector.detect(image), yolox.detect(image)
    assert found.names == same.names == ["cup", "dining table"]
    assert np.allclose(found.boxes, same.boxes, rtol=0, atol=1e-3)


SEEN = {
    "picodet_s_416_coco.onnx": [("dining table", 0.85), ("cup", 0.84), ("bowl", 0.26)],
    "nanodet_m.onnx": [("cup", 0.42), ("vase", 0.32), ("dining table", 0.29)],
}


@pytest.mark.parametrize("file", SEEN)
def test_other_families_are_explained(zoo, file):
    """The cup is where they see it, and more of its map lies there than its box has of the photo."""
    detector, image = dc.load_detector(zoo / file), dc.load_photo("coffee")
    assert detector.provenance["decode"] == "gfl" and detector.colours == "bgr"
    found = detector.detect(image)[:3]
    assert [(name, round(float(score), 2)) for name, score in zip(found.names, found.scores)] == SEEN[file]
    cup = found[found.names.index("cup")]
    assert box_iou(torch.tensor(cup.boxes), torch.tensor([[170.0, 20.0, 414.0, 260.0]])) > 0.7
    explained = dc.explain(detector, image, cup, n_masks=100, progress=False)
    (x1, y1, x2, y2), (height, width) = cup.boxes[0], image.shape[:2]
    share = (x2 - x1) * (y2 - y1) / (width * height)
    assert dc.metrics.ebpg(explained.saliency[0], cup.boxes[0]) > 1.15 * share


def test_centres_go_row_by_row():
    assert centres((16, 24), 8).tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert len(centres((416, 416), 64)) == 49  # the last row and column stick out


# -- a network of one proposal, for all that does not fit


class One(torch.nn.Module):
    """One box at (1, 2, 3, 4); objectness and classes are the mean colours."""

    def forward(self, images):
        mean = images.mean((2, 3))
        return torch.ones(1, 1, 4) * torch.arange(1.0, 5.0), mean[:, None, :]


def decode(outputs, size):
    boxes, colours = outputs
    return dc.Proposals(boxes.expand(len(colours), -1, -1), colours[..., 0], colours)


@pytest.fixture
def one(tmp_path):
    return export(
        One(), tmp_path / "one.onnx", (torch.zeros(1, 3, 8, 12),), output_names=["boxes", "colours"]
    )


def test_colours_are_standardised_in_the_network_s_order(one):
    facts = {"decode": decode, "class_names": ["a", "b", "c"], "mean": (1, 2, 3), "std": (10, 20, 40)}
    pixels = torch.tensor([11.0, 42.0, 83.0])[None, :, None, None].expand(2, 3, 8, 12).clone()
    pixels[1] = 0
    rgb = dc.load_detector(one, colours="rgb", **facts).predict(pixels).class_probs
    bgr = dc.load_detector(one, colours="bgr", **facts).predict(pixels).class_probs
    assert torch.allclose(rgb[0, 0], torch.tensor([1.0, 2.0, 2.0]))
    assert torch.allclose(bgr[0, 0], torch.tensor([8.2, 2.0, 0.2]))
    assert torch.allclose(rgb[1, 0], torch.tensor([-0.1, -0.1, -3 / 40]))
    assert (pixels[0, 0] == 11).all()


@pytest.mark.parametrize(("resize", "content"), [("letterbox", (0, 0, 8, 8)), ("stretch", (0, 0, 8, 12))])
def test_an_image_keeps_its_shape_or_fills_the_canvas(one, resize, content):
    detector = dc.load_detector(one, class_names=["a", "b", "c"], decode=decode, resize=resize)
    canvas = detector.prepare(np.full((20, 20, 3), 7, np.uint8))
    assert canvas.content == content and canvas.pixels.shape == (3, 8, 12)
    assert (canvas.pixels[:, *canvas.window] == 7).all() and (canvas.pixels == 7).sum() == 3 * 8 * content[3]


def test_it_can_be_sent_to_other_processes(one):
    detector = dc.load_detector(one, class_names=["a", "b", "c"], decode=decode)
    pixels = torch.rand(3, 3, 8, 12)
    assert detector.provenance["decode"] == "decode" and detector.provenance["mean"] == [0, 0, 0]
    again = pickle.loads(pickle.dumps(detector))
    assert torch.equal(again.predict(pixels).class_probs, detector.predict(pixels).class_probs)


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (
            {},
            r"the layout of no known family \(yolox, .*boxes \(1, 1, 4\), colours \(1, 1, 3\)",
        ),
        (
            {"decode": decode, "class_names": ["a", "b"]},
            r"decode=decode and 2 class_names: its class_probs are \(1, 1, 3\), \(1, 1, 2\) are wanted",
        ),
        (
            {"decode": lambda outputs, size: dc.Proposals(outputs[0], outputs[1], outputs[1])},
            r"its objectness are \(1, 1, 3\), \(1, 1\) are wanted; the file's outputs: boxes",
        ),
        ({"decode": lambda outputs, size: outputs[0]}, "must return dc.Proposals of tensors, got Tensor"),
        ({"decode": lambda outputs, size: dc.Proposals([], [], [])}, "must return dc.Proposals of tensors"),
        ({"decode": lambda outputs, size: dc.Proposals(*[outputs[0].sum()] * 3)}, r"its boxes are \(\), "),
        (
            {"decode": "yolox"},
            r"does not fit decode=yolox: ValueError: too many values.*boxes \(1, 1, 4\), colours \(1, 1, 3\)",
        ),
        ({"decode": "yolo_v99"}, "decode must be one of 'yolox', 'yolox_decoded'"),
        ({"colours": "hsv"}, "colours must be one of 'rgb', 'bgr'"),
        ({"resize": "crop"}, "resize must be one of 'letterbox', 'letterbox_centred', 'stretch'"),
        ({"mean": (1, 2)}, "mean must be three numbers"),
        ({"mean": (np.nan, 0, 0)}, "mean must be three numbers"),
        ({"std": (np.inf, 1, 1)}, "std must be three numbers"),
        ({"std": "grey"}, "std must be three numbers"),
        ({"std": (1, 0, 1)}, "std must not be 0"),
        ({"input_size": (8, 8)}, "sees images of 8 x 12, not input_size=\\(8, 8\\)"),
        ({"input_size": 8}, r"input_size must be \(height, width\), got 8"),
        ({"input_size": (8, 12, 3)}, r"input_size must be \(height, width\), got \(8, 12, 3\)"),
        ({"processor": None}, "an .onnx file takes no processor: it takes input_size, colours"),
        ({"device": "cuda"}, "an .onnx file takes no device"),
    ],
)
def test_facts_that_do_not_fit_are_named(one, facts, word):
    facts = {"class_names": ["a", "b", "c"]} | facts
    with pytest.raises(dc.InputError, match=word):
        dc.load_detector(str(one), **facts)


def test_the_function_in_the_message_decodes(one):
    with pytest.raises(dc.InputError) as refused:
        dc.load_detector(one)
    code = str(refused.value).partition("\n\n")[2]
    code = code.replace("boxes = ...", "boxes = output_0").replace("scores = ...", "scores = output_1")
    exec(code, reader := {})
    detector = dc.load_detector(one, decode=reader["decode"], class_names=["a", "b", "c"], std=(255,) * 3)
    boxes, objectness, probs = detector.predict(torch.full((1, 3, 8, 12), 51.0))
    assert boxes.tolist() == [[[1, 2, 3, 4]]] and torch.allclose(objectness * probs, torch.tensor(0.2))


class Half(One):
    """Sees and answers in 16 bits."""

    def forward(self, images):
        return tuple(part.half() for part in super().forward(images.float()))


REPORTER = """
import sys
from dclose_nb.detectors.sessions import load_openvino
load_openvino()
from openvino.tools.ovc import telemetry
print("openvino_telemetry" in sys.modules, type(telemetry).__module__)
"""


def test_openvino_sends_no_report_of_its_use():
    done = subprocess.run([sys.executable, "-c", REPORTER], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "openvino.tools.ovc.telemetry_stub"], done.stderr


@pytest.mark.parametrize("form", [".onnx", ".xml"])
def test_half_precision_stays_inside(tmp_path, form):
    path = export(Half(), tmp_path / "half.onnx", (torch.zeros(1, 3, 8, 12).half(),))
    if form == ".xml":
        openvino = load_openvino()
        openvino.save_model(openvino.convert_model(path), path.with_suffix(".xml"))
    detector = dc.load_detector(path.with_suffix(form), decode=decode, class_names=["a", "b", "c"])
    boxes, objectness, probs = detector.predict(torch.full((2, 3, 8, 12), 51.0))
    assert {part.dtype for part in (boxes, objectness, probs)} == {torch.float32}
    assert boxes[1].tolist() == [[1, 2, 3, 4]] and torch.allclose(probs, torch.tensor(51.0), atol=0.1)


def test_files_that_are_no_network_of_images_are_refused(tmp_path):
    with pytest.raises(dc.InputError, match=r"absent\.onnx' cannot be read: No such file"):
        dc.load_detector(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(dc.InputError, match="cannot be read as a network"):
        dc.load_detector(tmp_path / "text.onnx")

    class Sum(torch.nn.Module):
        def forward(self, *images):
            return sum(image.float().mean() for image in images)

    class Box(torch.nn.Module):
        def forward(self, images):
            return torch.ones(1, 21, 85) + 0 * images.sum()  # one answer, however many images

    class Blank(torch.nn.Module):
        def forward(self):
            return torch.ones(1, 21, 85)

    batches = {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}}
    image = torch.zeros(1, 3, 32, 32)
    for module, inputs, options, word in (
        (Box(), (image,), batches, r"its boxes are \(1, 21, 4\), \(2, 21, 4\) are wanted"),
        (Blank(), (), {}, "must have one float input .*; it has: none"),
    ):
        with pytest.raises(dc.InputError, match=word):
            dc.load_detector(export(module, tmp_path / "odd.onnx", inputs, **options))

    image = torch.zeros(1, 3, 8, 8)
    for inputs, word in (
        ((image, image), "must have one float input"),
        ((image[:, :1],), "must have one float input"),
        ((image, torch.ones(1, 2)), "and may have one of integers"),
        ((image, torch.ones(1, 4).long()), "and may have one of integers"),
        ((image.repeat(2, 1, 1, 1),), "sees 2 images at once"),
    ):
        path = export(Sum(), tmp_path / "sum.onnx", inputs)
        with pytest.raises(dc.InputError, match=word):
            dc.load_detector(path)


def test_an_open_size_must_be_given(tmp_path):
    axes = {"images": {2: "height", 3: "width"}}
    inputs = (torch.zeros(1, 3, 8, 12),)
    path = export(One(), tmp_path / "open.onnx", inputs, input_names=["images"], dynamic_axes=axes)
    facts = {"decode": decode, "class_names": ["a", "b", "c"]}
    with pytest.raises(dc.InputError, match="leaves its size open: give input_size"):
        dc.load_detector(path, **facts)
    detector = dc.load_detector(path, input_size=(32, 40), **facts)
    assert detector.prepare(np.zeros((9, 9, 3), np.uint8)).pixels.shape == (3, 32, 40)
    path = path.rename(tmp_path / "OPEN.ONNX")
    detector = dc.load_detector(path, input_size=np.array([32, 40]), **facts)
    assert detector.input_size == (32, 40) and detector.name == "OPEN"


class Bright(torch.nn.Module):
    """A box for each bright row, so that images have different numbers of boxes."""

    def forward(self, images):
        rows = images[0, 0, :, 0]
        tops = torch.nonzero(rows > 100).float()
        boxes = torch.cat([tops * 0, tops, tops * 0 + 5, tops + 1], 1)[None]
        return boxes, (rows[rows > 100] / 255)[None, :, None]


def test_a_file_that_sees_one_image_may_find_any_number(tmp_path):
    path = export(Bright(), tmp_path / "rows.onnx", (torch.full((1, 3, 8, 12), 200.0),))
    detector = dc.load_detector(
        path, class_names=["row"], decode=lambda outputs, size: dc.Proposals.from_scores(*outputs)
    )
    pixels = torch.zeros(3, 3, 8, 12)
    pixels[1, :, 2:4], pixels[2, :, 5] = 255, 127.5
    boxes, objectness, _ = detector.predict(pixels)
    assert boxes[1].tolist() == [[0, 2, 5, 3], [0, 3, 5, 4]]
    assert objectness.tolist() == [[0, 0], [1, 1], [0.5, 0]]


def test_an_input_beyond_memory_is_refused(one):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(one))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40
    onnx.save(model, str(one))
    with pytest.raises(
        dc.InputError, match=r"one.onnx has no answer to an input of \(1, 3, 1099511627776, 12\)"
    ):
        dc.load_detector(one)


def test_weights_in_a_file_beside_it_are_part_of_the_record(one, tmp_path):
    facts = {"decode": decode, "class_names": ["a", "b", "c"]}
    alone = dc.load_detector(one, **facts)
    (tmp_path / "one.onnx.data").write_bytes(b"weights")
    both = dc.load_detector(one, **facts)
    assert "weights_sha256" not in alone.provenance
    assert both.provenance["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
