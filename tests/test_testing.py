"""`check_detector`: a correct detector passes, and each kind of fault is named."""

import time
from itertools import cycle

import numpy as np
import pytest
import torch
from skimage.measure import label, regionprops
from toys import Lamps

import dclose_nb as dc
from dclose_nb.testing import check_detector

FLICKER = cycle((1, 0.5))
COLOURS = {"red": (220, 30, 30), "blue": (30, 40, 230)}


def blobs(image):
    """Boxes around red and blue regions."""
    boxes, labels, scores = [], [], []
    for name, colour in COLOURS.items():
        near = np.abs(image.astype(int) - colour).max(2) < 60
        for region in regionprops(label(near)):
            y1, x1, y2, x2 = region.bbox
            boxes.append((x1, y1, x2, y2))
            labels.append(name)
            scores.append(region.extent)  # share of the box that is filled
    return {"boxes": boxes, "labels": labels, "scores": scores}


@pytest.fixture
def image():
    image = np.full((60, 80, 3), 90, np.uint8)
    image[:30, :, 1] = 120
    image[8:24, 10:30] = COLOURS["red"]
    image[30:50, 50:62] = COLOURS["blue"]
    return image


def soft(answer):
    """Two objects as proposals: the score is the objectness, classes are 0.9 and 0.1."""
    probs = [[0.9, 0.1] if name == "red" else [0.1, 0.9] for name in answer["labels"]]
    return {"boxes": answer["boxes"], "objectness": answer["scores"], "class_probs": probs}


class Blobs(dc.Detector):
    """`blobs` on a canvas twice as large as the image, at (4, 6) of its padding."""

    def __init__(self, name="blobs"):
        super().__init__(name, tuple(COLOURS))
        self.finder = dc.load_detector(lambda image: soft(blobs(image)), class_names=self.class_names)

    def prepare(self, image):
        height, width = image.shape[:2]
        pixels = torch.full((3, 2 * height + 10, 2 * width + 10), 114.0)
        doubled = torch.from_numpy(image).permute(2, 0, 1).float()
        pixels[:, 4 : 4 + 2 * height, 6 : 6 + 2 * width] = doubled.repeat_interleave(2, 1).repeat_interleave(
            2, 2
        )
        return dc.Canvas(pixels, (height, width), (4, 6, 2 * height, 2 * width))

    def predict(self, pixels):
        return self.finder.predict(pixels)


def test_correct_detectors_get_no_remarks(image):
    assert check_detector(Blobs(), image) == []
    planted = dc.load_detector("planted", device="cpu")
    assert check_detector(planted, dc.planted.scene(3).image) == []


def test_the_two_stage_network_passes():
    assert (
        check_detector(dc.load_detector("planted_two_stage", device="cpu"), dc.planted.scene(3).image) == []
    )


def test_a_real_network_passes_on_a_photo(real):
    assert dc.testing.check_detector(real, dc.load_photo("grace_hopper")) == []


def test_one_hot_classes_get_a_remark(image):
    detector = dc.load_detector(blobs, class_names=COLOURS)
    with pytest.warns(UserWarning, match="one-hot"):
        remarks = check_detector(detector, image)
    assert len(remarks) == 1 and "one-hot" in remarks[0]


def test_without_a_detection_it_says_what_was_not_checked():
    (remark,) = check_detector(Blobs(), np.full((60, 80, 3), 90, np.uint8))
    assert "nothing was found" in remark and "give an image of what it knows" in remark


# -- detectors with one fault each


def faulty(**functions):
    """A detector in which one function returns a wrong value."""

    def wrap(name, change):
        return lambda self, value: change(getattr(Blobs, name)(self, value))

    return type("Faulty", (Blobs,), {name: wrap(name, change) for name, change in functions.items()})()


def canvas_with(**parts):
    def change(canvas):
        known = {"pixels": canvas.pixels, "image_size": canvas.image_size, "content": canvas.content}
        return dc.Canvas(**known | {name: part(known[name]) for name, part in parts.items()})

    return faulty(prepare=change)


def proposals_with(**parts):
    return faulty(
        predict=lambda answer: answer._replace(
            **{name: part(getattr(answer, name)) for name, part in parts.items()}
        )
    )


def to_xywh(boxes):
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


@pytest.mark.parametrize(
    ("detector", "word"),
    [
        (faulty(prepare=lambda canvas: canvas.pixels), "prepare must return dc.Canvas, got Tensor"),
        (
            canvas_with(image_size=lambda size: size[::-1]),
            r"image_size must be .* \(60, 80\), got \(80, 60\)",
        ),
        (canvas_with(pixels=lambda pixels: pixels.permute(1, 2, 0)), r"pixels must be \(3, h, w\) and float"),
        (canvas_with(pixels=lambda pixels: pixels.byte()), "and float, got .* torch.uint8"),
        (canvas_with(pixels=lambda pixels: pixels.numpy()), "pixels must be a tensor, got ndarray"),
        (canvas_with(pixels=lambda pixels: pixels.where(pixels < 200, torch.nan)), "pixels must be finite"),
        (canvas_with(pixels=lambda pixels: pixels.to("meta")), "canvas lies on meta, the detector on cpu"),
        (canvas_with(image_size=lambda _: None), r"image_size must be .* \(60, 80\), got None"),
        (canvas_with(content=lambda content: content[:3]), r"content must be integers .* got \(4, 6, 120\)"),
        (canvas_with(content=lambda content: tuple(map(float, content))), r"integers .* got \(4.0, 6.0"),
        (canvas_with(content=lambda _: (4, 6, 120, 160)), "does not show the image"),  # a larger one
        (canvas_with(pixels=lambda pixels: pixels / 255), r"pixels must be in 0-255, they lie in \[.*, 0.9"),
        (canvas_with(pixels=lambda pixels: pixels * 2), "pixels must be in 0-255"),
        (canvas_with(pixels=lambda pixels: pixels.flip(0)), "colours are BGR"),
        (canvas_with(content=lambda _: (4, 6, 200, 160)), "does not lie in its 130 x 170"),
        (canvas_with(content=lambda _: (-1, 6, 20, 20)), "does not lie in its 130 x 170"),
        (canvas_with(content=lambda _: (0, 0, 130, 170)), "does not show the image"),
        (faulty(predict=lambda answer: answer.boxes), "predict must return dc.Proposals, got Tensor"),
        (
            proposals_with(objectness=lambda o: o[:1]),
            r"objectness of 3 images.* must be \(3, 2\), got \(1, 2\)",
        ),
        (
            proposals_with(class_probs=lambda p: p[..., :1]),
            r"class_probs .* must be \(3, 2, 2\), got \(3, 2, 1\)",
        ),
        (proposals_with(boxes=lambda b: b[..., :3]), r"boxes .* must be \(3, T, 4\), got \(3, 2, 3\)"),
        (proposals_with(boxes=lambda b: b.transpose(1, 2)), r"boxes .* \(3, T, 4\), got \(3, 4, 2\)$"),
        (faulty(predict=lambda answer: dc.Proposals(*(part[0] for part in answer))), r"got \(2, 4\)$"),
        (
            faulty(predict=lambda answer: dc.Proposals(*(part[:1] for part in answer))),
            r"boxes of 3 images must be \(3, T, 4\), got \(1, 2, 4\)$",
        ),
        (
            faulty(predict=lambda answer: answer._replace(boxes=answer.boxes.numpy())),
            "be a tensor, got ndarray",
        ),
        (faulty(predict=lambda answer: answer._replace(objectness=None)), "be a tensor, got NoneType"),
        (proposals_with(boxes=lambda b: b.to(torch.complex64)), "boxes must be float, got torch.complex64$"),
        (proposals_with(boxes=lambda b: b.to("meta")), "boxes lie on meta, the detector on cpu$"),
        (proposals_with(boxes=lambda b: b + torch.inf), "boxes must be finite numbers$"),
        (proposals_with(boxes=lambda b: b[..., [1, 0, 3, 2]]), "lies outside the canvas .* is x before y"),
        (proposals_with(boxes=lambda b: b.long()), "boxes must be float, got torch.int64"),
        (proposals_with(objectness=lambda o: o / 0), "objectness must be finite"),
        (
            proposals_with(objectness=lambda o: 4 * o - 2),
            r"objectness must lie in \[0, 1\], they lie in \[-2, 2\]",
        ),
        (
            proposals_with(class_probs=lambda p: 9 * p),
            r"class_probs must lie in \[0, 1\].*sigmoid or softmax",
        ),
        (proposals_with(boxes=to_xywh), "ends before it begins.*are these x, y, width, height"),
        (proposals_with(boxes=lambda b: b / 170), "all lie below .*: are they fractions"),
        (proposals_with(boxes=lambda b: b + 500), "lies outside the canvas of 130 x 170 pixels"),
        (proposals_with(boxes=lambda b: b.clamp(max=90)), "'red' at .* was not found 80 pixels to the right"),
        (proposals_with(boxes=lambda b: b / 2 - 2), "was not found 80 pixels to the right"),
        (
            proposals_with(objectness=lambda o: o * next(FLICKER)),
            "another answer the second time",
        ),
        (proposals_with(boxes=lambda b: b[:1].expand_as(b)), "another answer in a batch than alone"),
    ],
)
def test_each_fault_is_named(detector, word, image):
    with pytest.raises(dc.InputError, match=rf"(?s)'blobs' does not keep the contract:\n- .*{word}") as named:
        check_detector(detector, image)
    assert str(named.value).count("\n") == 1  # nothing else is blamed


def test_boxes_of_width_and_height_are_found_out_at_every_place(image):
    """A box in the upper left corner is valid in both formats. In the lower right it is not."""
    image[:] = 90
    image[4:30, 3:30] = COLOURS["red"]
    answer = blobs(image)
    assert (to_xywh(torch.tensor(answer["boxes"]))[:, 2:] > 4).all()

    def xywh(picture):
        answer = blobs(picture)
        boxes = np.reshape(answer["boxes"], (-1, 4))
        return answer | {"boxes": np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])}

    detector = dc.load_detector(xywh, class_names=COLOURS)
    with pytest.warns(UserWarning, match="one-hot"):
        assert len(detector.detect(image)) == 1  # not visible yet
    with pytest.raises(dc.InputError, match="are these x, y, width, height"):
        check_detector(detector, image)
    with pytest.raises(dc.InputError, match="are these x, y, width, height"):
        check_detector(proposals_with(boxes=to_xywh), image)


def test_an_error_inside_a_detector_is_reported(image):
    def broken(picture):
        raise KeyError("no such layer")

    with pytest.raises(dc.InputError, match="predict raised KeyError: 'no such layer'"):
        check_detector(dc.load_detector(broken, class_names=["a"]), image)
    with pytest.raises(dc.InputError, match="prepare raised ZeroDivisionError"):
        check_detector(faulty(prepare=lambda canvas: 1 / 0), image)


def test_a_detector_that_changes_its_input_is_named(image):
    class Scribbler(Blobs):
        def predict(self, pixels):
            answer = super().predict(pixels)
            pixels *= 0
            return answer

    with pytest.raises(dc.InputError, match="predict writes to the pixels"):
        check_detector(Scribbler(), image)

    class Painter(Blobs):
        def prepare(self, image):
            canvas = super().prepare(image)
            image[0, 0] = 0
            return canvas

    before = image.copy()
    with pytest.raises(dc.InputError, match=r"prepare writes to the image: work on a copy$"):
        check_detector(Painter(), image)
    assert np.array_equal(image, before)

    class Rarely(Blobs):
        def predictor(self, passes):
            return lambda pixels: self.predict(pixels.mul_(0))

    with pytest.raises(dc.InputError, match=r"predictor\(1000\) writes to the pixels"):
        check_detector(Rarely(), image)


def test_a_detector_may_use_the_memory_of_its_answer_again(image):
    class Thrifty(Blobs):
        def predict(self, pixels):
            answer = super().predict(pixels)
            if len(pixels) > 1:
                return answer
            if not hasattr(self, "memory"):
                self.memory = [torch.zeros(1, 9, *part.shape[2:]) for part in answer]
            for memory, part in zip(self.memory, answer):
                memory.zero_()[:, : part.shape[1]] = part
            return dc.Proposals(*self.memory)

    assert check_detector(Thrifty(), image) == []


def test_a_network_in_training_mode_is_named(image):
    detector = Blobs()
    detector.module = torch.nn.Sequential(torch.nn.Dropout())
    with pytest.raises(dc.InputError, match="training mode"):
        check_detector(detector, image)
    detector.module.eval()
    assert check_detector(detector, image) == []


def test_a_predictor_with_other_answers_is_named(image):
    class Hasty(Blobs):
        def predictor(self, passes):
            return lambda pixels: self.predict(pixels)._replace(objectness=torch.zeros(len(pixels), 2))

    with pytest.raises(dc.InputError, match=r"predictor\(1000\) gives other answers"):
        check_detector(Hasty(), image)
    Hasty.predictor = lambda self, passes: lambda pixels: tuple(self.predict(pixels))
    with pytest.raises(dc.InputError, match=r"predictor\(1000\) must return dc.Proposals, got tuple"):
        check_detector(Hasty(), image)


def test_an_answer_to_other_pixels_is_named(image):
    class Lazy(Blobs):
        def predict(self, pixels):
            self.first = getattr(self, "first", None) or super().predict(pixels)
            return self.first

    with pytest.raises(dc.InputError, match=r"boxes of 1 images must be \(1, T, 4\), got \(3, 2, 4\)"):
        check_detector(Lazy(), image)


def test_a_detector_that_is_not_thread_safe_is_found_out(image):
    class Shared(Blobs):
        thread_safe = True

        def predict(self, pixels):
            self.pixels = pixels
            time.sleep(0.02)  # meanwhile another thread brings other pixels
            return super().predict(self.pixels)

    with pytest.raises(dc.InputError, match="to several threads at once: it is not thread_safe"):
        check_detector(Shared(), image)


def test_class_names_and_types_are_checked(image):
    with pytest.raises(dc.InputError, match=r"must be a dclose_nb\.Detector, got function"):
        check_detector(blobs, image)
    for name, value, words in (
        ("class_names", (), "class_names must be a list of names"),
        ("class_names", "ab", "class_names must be a list of names"),
        ("class_names", ("red",), r"the 1 classes of class_names must be \(3, 2, 1\), got \(3, 2, 2\)"),
        ("device", "cpu", "device must be a torch.device, got str"),
        ("name", None, "name must be text, got NoneType"),
        ("provenance", None, "provenance must be a dict, got NoneType"),
    ):
        wrong = Blobs()
        setattr(wrong, name, value)
        with pytest.raises(dc.InputError, match=rf"contract:\n- .*{words}"):
            check_detector(wrong, image)

    class Forgetful(Blobs):
        def __init__(self):
            pass

    with pytest.raises(
        dc.InputError, match=r"device must be a torch.device, got NoneType: does __init__ call super's"
    ):
        check_detector(Forgetful(), image)


def test_boxes_that_do_not_follow_the_image_are_found_out(lit):
    """Lamps are found at fixed places, wherever the image has moved."""
    boxes, probs = [[1, 1, 7, 9], [10, 2, 18, 8]], [[0.9, 0.1], [0.2, 0.8]]
    words = r"was not found 20 pixels to the right and 12 below .* image .* may be unlike what it knows"
    with pytest.raises(dc.InputError, match=words):
        check_detector(Lamps(boxes, probs), lit)
