"""Photos, scenes and situations: how they are read, refused and found."""

import os
import socket
import struct
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

import dclose_nb as dc
from dclose_nb import images
from dclose_nb.detection import box_iou
from dclose_nb.images import PHOTOS, load_example


@pytest.mark.parametrize("name", PHOTOS)
def test_every_photo_ships(name):
    photo = dc.load_photo(name)
    assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 and photo.std() > 5


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_a_file_is_read_without_changing_a_pixel(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(dc.load_photo(save(tmp_path / "a.png", array)), array)


def test_greyscale_16_bit_palette_and_transparency(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    rgb = np.dstack([grey] * 3)
    assert np.array_equal(dc.load_photo(save(tmp_path / "grey.png", grey)), rgb)
    assert np.array_equal(dc.load_photo(save(tmp_path / "deep.png", grey.astype(np.uint16) * 257)), rgb)
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    assert np.array_equal(dc.load_photo(tmp_path / "palette.png"), rgb)
    clear = np.dstack([rgb, np.zeros_like(grey)])
    assert (dc.load_photo(save(tmp_path / "clear.png", clear)) == 255).all()
    clear = dc.load_photo(save(tmp_path / "deep.png", grey.astype(np.uint16) * 257, transparency=20 * 257))
    assert np.array_equal(clear, np.where(rgb == 20, 255, rgb))
    clear = dc.load_photo(save(tmp_path / "key.png", grey, transparency=20))
    assert np.array_equal(clear, np.where(rgb == 20, 255, rgb))


def test_floats_in_0_1_are_read_and_others_refused(tmp_path):
    half = save(tmp_path / "half.tif", np.full((3, 4), 0.5, np.float32))
    assert (dc.load_photo(half) == 128).all()
    for name, array, word in (
        ("nan.tif", np.full((3, 4), np.nan, np.float32), "NaN"),
        ("far.tif", np.full((3, 4), 1e5, np.float32), r"\[0, 1\]"),
        ("deep.tif", np.full((3, 4), 70000, np.int32), "convert it to uint8"),
    ):
        with pytest.raises(dc.InputError, match=word):
            dc.load_photo(save(tmp_path / name, array))


def test_a_format_that_starts_other_programs_is_not_read(tmp_path):
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(dc.InputError, match="not an image"):
        dc.load_photo(tmp_path / "a.png")


def test_exif_turns_the_photo_upright(tmp_path):
    array = np.zeros((4, 8, 3), np.uint8)
    array[:2] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    turned = dc.load_photo(save(tmp_path / "turned.png", array, exif=exif))
    assert np.array_equal(turned, np.rot90(array, -1))


def test_a_bad_entry_of_exif_does_not_cost_the_photo(tmp_path):
    array = np.zeros((4, 8, 3), np.uint8)
    array[:2] = 200
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHI4s", 0x011A, 2, 4, b"abc")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(entries) + bytes(4)  # a resolution of "abc"
    assert np.array_equal(dc.load_photo(save(tmp_path / "a.png", array, exif=exif)), np.rot90(array, -1))
    assert np.array_equal(dc.load_photo(save(tmp_path / "b.png", array, exif=b"garbage!garbage")), array)


def test_16_bit_pgm_is_read_and_a_photo_can_be_changed(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535 " + bytes([0, 0, 255, 255]))
    photo = dc.load_photo(tmp_path / "a.pgm")
    assert photo[0].tolist() == [[0] * 3, [255] * 3]
    for image in (photo, dc.load_photo("coffee")):
        image[:] = 7
        assert (image == 7).all()


def test_what_cannot_be_read_is_refused(tmp_path):
    photo = save(
        tmp_path / "whole.jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )
    (tmp_path / "torn.jpg").write_bytes(photo.read_bytes()[:900])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name, word in (
        ("torn.jpg", "cannot be read as an image"),
        ("text.png", "not an image"),
        ("empty.png", "not an image"),
        ("missing.png", "neither a file, nor scene_0, scene_1, ..., nor a photo that ships: astronaut"),
        (".", "neither a file"),
        ("x" * 300, "cannot be used as a path"),
        ("a\0b", "cannot be used as a path"),
    ):
        with pytest.raises(dc.InputError, match=word):
            dc.load_photo(tmp_path / name)
    for image in (np.zeros((90, 90, 3), np.uint8), Image.new("RGB", (9, 9)), None):
        with pytest.raises(dc.InputError, match="cannot be used as a path") as refusal:
            dc.load_photo(image)
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def test_a_file_of_more_pixels_than_memory_takes_is_refused_before_it_is_read(tmp_path):
    """Of a kilobyte, whose header says 60000 x 60000."""
    Image.new("1", (9, 9)).save(tmp_path / "bomb.bmp")
    content = bytearray((tmp_path / "bomb.bmp").read_bytes())
    content[18:26] = np.array([60_000, 60_000], "<i4").tobytes()
    (tmp_path / "bomb.bmp").write_bytes(content)
    with pytest.raises(dc.InputError, match=r"Image size \(3600000000 pixels\) exceeds limit"):
        dc.load_photo(tmp_path / "bomb.bmp")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_a_film_the_first_picture_is_read(tmp_path, kind):
    pictures = [Image.new("RGB", (5, 4), (brightness,) * 3) for brightness in (40, 90, 200)]
    pictures[0].save(tmp_path / "film", kind, save_all=True, append_images=pictures[1:])
    assert np.abs(dc.load_photo(tmp_path / "film") - 40.0).max() <= 2


@pytest.mark.skipif(os.name != "posix", reason="Windows has no pipes among files")
def test_links_are_followed_and_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "film.jpg").symlink_to(save(tmp_path / "a.png", np.zeros((4, 5, 3), np.uint8)))
    assert dc.load_photo(tmp_path / "film.jpg").shape == (4, 5, 3)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("loop", "gone", "pipe"):  # a pipe would be waited for
        with pytest.raises(dc.InputError, match=r"neither a file|cannot be used as a path"):
            dc.load_photo(tmp_path / name)


def test_an_unknown_situation_lists_the_known():
    with pytest.raises(dc.InputError, match="'one object', 'overlap', 'inside another', 'many', 'missed'"):
        load_example("seven elephants")


def test_a_scene_is_loaded_by_its_number():
    assert np.array_equal(dc.load_photo("scene_7"), dc.planted.scene(7).image)
    for name in ("scene_", "scene_x", "scene_-1", "scene_7.png", "scene_" + "9" * 40):
        with pytest.raises(dc.InputError, match="neither a file"):
            dc.load_photo(name)


def inside(inner, outer):
    return (inner[:2] >= outer[:2]).all() and (inner[2:] <= outer[2:]).all()


def is_missed(detector, image, target):
    """Whether no box of the target's class overlaps it by half or more."""
    found, wanted = detector.detect(image), target.detections(detector.class_names)
    overlap = box_iou(torch.tensor(found.boxes), torch.tensor(wanted.boxes))[:, 0].numpy()
    return not (overlap[found.labels == wanted.labels[0]] >= 0.5).any()


@pytest.mark.filterwarnings("ignore:.*not the official")
def test_situations_on_photos_match_their_names(real):
    assert load_example("one object").targets.names == ["cat"]
    assert sorted(load_example("overlap").targets.names) == ["cup", "dining table"]
    targets = load_example("inside another").targets
    assert targets.names == ["person", "tie"] and inside(targets.boxes[1], targets.boxes[0])
    detector, image, targets = load_example("missed")
    assert detector.name == real.name and is_missed(detector, image, targets)


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """No weights, a pip without an index, and a network that fails; lists the calls."""
    monkeypatch.setenv("YOLOX_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.getsockname()[1]}")

        def hang_up():
            while True:
                try:
                    connection, caller = server.accept()
                except OSError:  # closed
                    return
                calls.append(caller)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        yield calls
        server.shutdown(socket.SHUT_RDWR)


def test_situations_on_scenes_match_their_names(no_weights):
    examples = {}
    for name in ("one object", "overlap", "inside another", "missed"):
        with pytest.warns(
            UserWarning,
            match="nano.* not be fetched .* picodet_s .* not be fetched .* planted",
        ):
            examples[name] = load_example(name)
    examples["many"] = load_example("many")  # no photo that ships shows it, so nothing is missing
    for example in examples.values():
        assert example.detector.name == "planted" and example.image.shape == (320, 320, 3)
    assert len(examples["one object"].targets) == 1
    first, second = examples["overlap"].targets
    assert (
        first.names == second.names and box_iou(torch.tensor(first.boxes), torch.tensor(second.boxes)) > 0.05
    )
    house, person = examples["inside another"].targets
    assert (house.names, person.names) == (["house"], ["person"])
    assert inside(person.boxes[0], house.boxes[0] + np.array([-5, -5, 5, 5]))  # to a few pixels
    assert len(examples["many"].targets) >= 6
    detector, image, targets = examples["missed"]
    assert len(targets.boxes) == 1 and is_missed(detector, image, targets)


def number_of(calls):
    """How many calls there were: a call of our own is heard after all of them."""
    port = int(os.environ["HTTPS_PROXY"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as ours:
        own = ours.getsockname()
        while own not in calls:
            time.sleep(0.01)
    calls.remove(own)
    return len(calls)


def test_the_network_is_asked_once(no_weights):
    counts = []
    for _ in range(3):
        with pytest.warns(UserWarning, match="planted"):
            load_example("one object")
        counts.append(number_of(no_weights))
    assert counts[0] >= 1 and counts == counts[:1] * 3


def test_images_with_their_ground_truth_are_scenes_without_weights(no_weights):
    with pytest.warns(UserWarning, match="Until then the planted detector explains drawn scenes") as caught:
        detector, images = dc.load_annotated()
    assert caught[0].filename == __file__ and detector.name == "planted" and len(images) == 5
    for name, (image, truth) in images.items():
        assert np.array_equal(image, dc.load_photo(name))
        assert len(truth.boxes) == len(truth.labels) >= 1


def test_damaged_weights_are_an_error(no_weights, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "yolox_nano.pth").write_bytes(b"torn")
    with pytest.raises(dc.WeightsError, match="cannot be read"):
        load_example("overlap")


def test_weights_of_one_s_own_that_do_not_find_the_object(monkeypatch, lamps):
    monkeypatch.setattr(images, "load_detector", lambda: lamps)
    with pytest.raises(dc.InputError, match="lamps finds no cup in coffee: use its official weights"):
        load_example("overlap")
