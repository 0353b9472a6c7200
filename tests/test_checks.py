import numpy as np
import pytest
import torch
from PIL import Image

from dclose_nb import InputError, checks


def test_uint8_rgb_passes_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    assert (checks.image(image) == image).all()


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_greyscale_is_repeated(shape):
    grey = np.arange(20, dtype=np.uint8).reshape(shape)
    assert (checks.image(grey) == grey.reshape(4, 5, 1)).all()


def test_transparency_is_laid_over_white():
    image = np.zeros((1, 2, 4), np.uint8)
    image[0, 1, 3] = 255  # the second pixel is opaque black
    assert checks.image(image).tolist() == [[[255] * 3, [0] * 3]]


def test_floats_in_0_1_are_scaled():
    assert checks.image(np.full((2, 2, 3), 0.5)).tolist() == [[[128] * 3] * 2] * 2


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (np.zeros((3,), np.uint8), "shape"),
        (np.zeros((2, 2, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.full((2, 2, 3), np.nan), "NaN"),
        (np.full((2, 2, 3), np.inf), "infinite"),
        (np.full((2, 2, 3), 255.0), r"\[0, 1\]"),
        (np.full((2, 2, 3), -0.1), r"\[0, 1\]"),
        (np.zeros((2, 2, 3), np.int64), "uint8"),
        (None, "shape"),
    ],
)
def test_other_arrays_than_images_are_refused(value, word):
    with pytest.raises(InputError, match=word):
        checks.image(value)


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.1, float("nan"), "a", None])
def test_probability_excludes_the_ends(value):
    with pytest.raises(InputError, match="p must be"):
        checks.probability("p", value)


@pytest.mark.parametrize("value", [0, 1.5, True, "3", None])
def test_at_least_wants_an_integer(value):
    with pytest.raises(InputError, match="n must be"):
        checks.at_least("n", value, 1)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "a"])
def test_at_least_refuses_numbers_below(value):
    with pytest.raises(InputError, match="r must be"):
        checks.at_least("r", value, 0, integer=False)


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_pillow_whose_numbers_are_no_rgb_is_refused(mode):
    with pytest.raises(InputError, match=f"mode '{mode}'.*convert"):
        checks.image(Image.new("RGB", (5, 4)).convert(mode))
    assert checks.image(Image.new("RGBA", (5, 4))).shape == (4, 5, 3)


@pytest.mark.parametrize("value", [torch.ones(4, 5, requires_grad=True), torch.ones(4, 5).bfloat16()])
def test_a_tensor_that_numpy_cannot_read_is_refused(value):
    with pytest.raises(InputError, match="must be an array"):
        checks.image(value)


@pytest.mark.parametrize("value", [np.zeros((40, 40)), "x\n" * 999, torch.nn.ReLU(), torch.zeros(30, 30)])
def test_what_was_given_is_shown_in_one_short_line(value):
    for check in (checks.probability, checks.fraction, checks.flag, checks.count, checks.pair):
        with pytest.raises(InputError, match=r"^p must be") as refusal:
            check("p", value)
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


def test_numbers_of_a_table_with_other_columns_are_numbers():
    table = np.array([["cat", 1, 2.5]], dtype=object)
    assert checks.numbers("boxes", table[:, 1:], ("n", 2)).tolist() == [[1, 2.5]]
    for value in (table, [["1", "2"]], np.array([1j]), np.array(["2020"], "M8[Y]")):
        with pytest.raises(InputError, match=r"^boxes must be numbers: "):
            checks.numbers("boxes", value)


def test_arrays_become_numbers_and_tuples():
    assert checks.plain(np.array(0.5)) == 0.5
    assert checks.plain([np.array([1, 2]), np.int64(3)]) == ((1, 2), 3)


@pytest.mark.parametrize("value", [True, np.complex64(0.5), -0.1, 1.1, "0.5", float("nan")])
def test_what_is_no_fraction_is_refused(value):
    with pytest.raises(InputError, match=r"^c must be a number in \[0, 1\]"):
        checks.fraction("c", value)
    assert checks.fraction("c", np.float32(0.5)) == 0.5
