"""Data sets as they were written, and studies: alike whoever does them and however often they stop."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from toys import Street, brightness

import dclose_nb as dc
from dclose_nb.studies.coco import Truth, box_areas, drawn, matched, read_coco, study_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six planted scenes as a data set of COCO."""
    folder = tmp_path_factory.mktemp("coco")
    drawn(folder, 6)
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return read_coco(folder)


@pytest.fixture(scope="module")
def street(data):
    return Street(data)


def study(detector, data, out, **options):
    return study_photos(detector, data, out, brightness, {"brightness": 1}, progress=False, **options)


@pytest.fixture(scope="module")
def serial(street, data, tmp_path_factory):
    return study(street, data, tmp_path_factory.mktemp("serial"))


def by_image(records):
    return sorted(records.lines, key=lambda line: line["image"])


# -- the data set


def test_a_data_set_is_read_as_it_was_written(data):
    assert [truth.image for truth in data.truths] == list(range(6)) and data.missing == []
    ratios = []
    for truth in data.truths:
        drawn = dc.planted.scene(truth.image)
        assert np.allclose(truth.boxes, drawn.boxes)
        assert truth.labels == [drawn.class_names[label] for label in drawn.labels]
        assert np.array_equal(dc.load_photo(truth.path), drawn.image)
        ratios += (np.prod(truth.boxes[:, 2:] - truth.boxes[:, :2], axis=1) / 320**2).tolist()
    centres = KMeans(3, n_init=10, random_state=0).fit(np.array(ratios)[:, None]).cluster_centers_
    assert data.centres == pytest.approx(sorted(centres[:, 0]), abs=1e-6)


def test_a_real_annotation_file(coco):
    data = read_coco(coco)
    assert len(data.truths) == 79 and not data.missing
    assert all(Path(truth.path).is_file() and len(truth.labels) == len(truth.boxes) for truth in data.truths)
    assert sorted(data.centres) == data.centres


def test_missing_images_are_counted_and_left_out_when_told_to(folder, tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").symlink_to(folder / "annotations")
    for path in sorted((folder / "val2017").iterdir())[:4]:
        (tmp_path / "val2017" / path.name).symlink_to(path)
    with pytest.raises(dc.InputError, match=r"2 of 6 images .* are missing .* 000000000004\.png for one"):
        read_coco(tmp_path)
    with pytest.warns(UserWarning, match=r"2 of 6 images .* are missing .* they are left out"):
        data = read_coco(tmp_path, missing="skip")
    assert len(data.truths) == 4 and data.missing == ["000000000004.png", "000000000005.png"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 100_000, '{"images": 3}', '{"images": [], "annotations": [{}]}']
)
def test_a_damaged_annotation_file_is_named(tmp_path, content):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(content)
    with pytest.raises(dc.InputError, match=r"instances_val2017.json' is damaged"):
        read_coco(tmp_path)


def edited(folder, tmp_path, edit):
    """A copy of a data set whose annotations are edited."""
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    edit(content)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (tmp_path / "val2017").symlink_to(folder / "val2017")
    return tmp_path


@pytest.mark.parametrize(
    ("group", "name", "value", "word"),
    [
        ("images", "width", 0, "an image of 0 x 320 pixels, id 0"),
        ("images", "height", -320, "an image of 320 x -320 pixels, id 0"),
        ("images", "width", float("nan"), "an image of nan x 320 pixels, id 0"),
        ("images", "width", float("inf"), "an image of inf x 320 pixels, id 0"),
        ("images", "width", "320", "an image of '320' x 320 pixels, id 0"),
        ("images", "height", 5, "a box .* that image 0 of 320 x 5 pixels cannot hold"),
        ("images", "id", 1.5, "an image id that is no integer: 1.5"),
        ("images", "id", "0", "an image id that is no integer: '0'"),
        ("images", "id", 1, "two images with the id 1"),
        ("images", "file_name", "x" * 5000, "names a file that cannot be: File name too long$"),
        ("annotations", "image_id", 0.5, "an annotation of the image 0.5: ids are integers"),
        ("annotations", "bbox", [1, 2, float("inf"), 8], "a box .* that image 0 of 320 x 320 pixels cannot"),
        ("annotations", "bbox", [1e300, 2, 8, 8], "a box .* that image 0 of 320 x 320 pixels cannot"),
        ("annotations", "bbox", [1, 2, 8, 1e300], "a box .* that image 0 of 320 x 320 pixels cannot"),
        ("annotations", "bbox", [1, float("nan"), 8, 8], "a box .* that image 0 of 320 x 320 pixels cannot"),
        ("annotations", "bbox", [-20, 2, 8, 8], "a box .* that image 0 of 320 x 320 pixels cannot"),
        ("annotations", "bbox", [1, 2, 8], "is damaged or not in COCO's format"),
        ("annotations", "bbox", [1, 2, "8", 8], "is damaged or not in COCO's format"),
        ("annotations", "bbox", 5, "is damaged or not in COCO's format"),
    ],
)
def test_wild_numbers_are_named(folder, tmp_path, group, name, value, word):
    wild = edited(folder, tmp_path, lambda content: content[group][0].update({name: value}))
    with pytest.raises(dc.InputError, match=word) as said:
        read_coco(wild, missing="skip")
    assert "\n" not in str(said.value) and "instances_val2017.json'" in str(said.value)
    assert len(str(said.value)) < 400


def test_a_box_may_end_on_the_edge_and_have_no_area(folder, data, tmp_path):
    def edit(content):
        content["annotations"][0]["bbox"] = [0, 0.5, 320.4, 319.5]
        content["annotations"].append(content["annotations"][1] | {"bbox": [1, 1, 0, 9], "id": 10_000})

    changed = read_coco(edited(folder, tmp_path, edit))
    assert len(changed.truths[0].boxes) == len(data.truths[0].boxes)


@pytest.mark.filterwarnings("ignore:1 of 6 images")
def test_a_file_name_cannot_leave_the_folder(folder, tmp_path):
    secret = tmp_path / "secret.png"
    secret.touch()

    def edit(content):
        content["images"][0]["file_name"] = os.path.relpath(secret, folder / "val2017")

    assert read_coco(edited(folder, tmp_path, edit), missing="skip").missing == ["secret.png"]


def test_no_data_set(tmp_path):
    with pytest.raises(dc.InputError, match="cannot be read: No such file"):
        read_coco(tmp_path)


def test_objects_have_the_pixels_that_were_drawn(data):
    for truth in data.truths:
        scene = dc.planted.scene(truth.image)
        assert np.array_equal(truth.masks(scene.image.shape[:2]), scene.causal_masks)


def test_outlines_of_every_kind(data):
    """A polygon, several, run lengths as COCO writes them for crowds, and a box alone."""
    square = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]
    counts = {"size": [8, 10], "counts": [17, 3, 5, 3, 5, 3, 5, 3, 36]}  # column by column
    packed = {"size": [8, 10], "counts": "a03500000o0"}
    outlines = [[square], [square, [8.0, 6.0, 9.0, 6.0, 9.0, 7.0, 8.0, 7.0]], counts, packed, None]
    boxes = np.array([[2, 1, 6, 4]] * 5, np.float32)
    truth = data.truths[0]._replace(boxes=boxes, outlines=outlines)
    expected = np.zeros((8, 10), bool)
    expected[1:4, 2:6] = True
    polygon, polygons, run_lengths, packed_lengths, box = truth.masks((8, 10))
    for mask in (polygon, run_lengths, packed_lengths, box):
        assert np.array_equal(mask, expected)
    expected[6, 8] = True
    assert np.array_equal(polygons, expected)
    assert truth._replace(boxes=boxes[:0], outlines=[]).masks((8, 10)).shape == (0, 8, 10)


@pytest.mark.parametrize(
    "outline",
    [
        {"counts": [1, 2], "size": [10, 12]},  # pycocotools fills the rest with chance
        {"counts": "52", "size": [10, 12]},
        {"counts": [60, 59], "size": [10, 12]},  # one pixel is lacking
        {"counts": [60, 61], "size": [10, 12]},
        {"counts": [-1, 121], "size": [10, 12]},
        {"counts": "52", "size": [1000, 1000]},
        {"size": [10, 12]},
        [[1, 2]],
        [5],
        "outline",
    ],
    ids=str,
)
def test_a_damaged_outline_is_named(outline):
    truth = Truth(1, "", np.array([[1.0, 2, 5, 6]]), ["a"], [outline])
    with pytest.raises(dc.InputError, match=r"the outline of 'a' in image 1, of \(10, 12\), is damaged: "):
        truth.masks((10, 12))


def test_what_is_matched_has_its_share_of_the_image(data):
    truth = data.truths[0]._replace(
        boxes=np.array([[0, 0, 4, 5], [10, 10, 20, 18], [0, 0, 9, 9]], np.float32), labels=["a", "b", "a"]
    )
    boxes = [[10, 10, 20, 17], [0, 0, 4, 5], [30, 30, 40, 40]]
    found = dc.Targets(boxes, ["b", "a", "a"]).detections(("a", "b"))
    targets, own, records = matched(found, truth, (20, 25, 3))
    assert np.array_equal(targets.boxes, boxes[:2]) and own == [1, 0]
    assert records == [
        {"label": "b", "area": 80 / 500, "methods": {}},
        {"label": "a", "area": 20 / 500, "methods": {}},
    ]
    assert box_areas(truth.boxes).tolist() == [20, 80, 81]


# -- studies


def test_a_line_an_image_in_a_fixed_order(street, data, serial):
    assert [line["image"] for line in serial.lines] == np.random.default_rng(0).permutation(6).tolist()
    for line in serial.lines:
        image = dc.load_photo(data.truths[line["image"]].path)
        assert line == {"image": line["image"], **brightness(street, image, data.truths[line["image"]])}


def test_an_image_that_cannot_be_read_is_recorded(folder, tmp_path, street):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").symlink_to(folder / "annotations")
    for path in (folder / "val2017").iterdir():
        (tmp_path / "val2017" / path.name).write_bytes(
            path.read_bytes()[: 900 if "03.png" in path.name else None]
        )
    records = study(street, read_coco(tmp_path), tmp_path / "out")
    (bad,) = [line for line in records.lines if "error" in line]
    assert bad["image"] == 3 and "cannot be read as an image" in bad["error"] and len(records.lines) == 6


def test_an_image_of_another_size_is_recorded(folder, tmp_path, street):
    other = edited(folder, tmp_path, lambda content: content["images"][3].update({"height": 321}))
    (bad,) = [line for line in study(street, read_coco(other), tmp_path / "out").lines if "error" in line]
    assert bad["image"] == 3 and "has 320 x 320 pixels, 320 x 321 in the annotation file" in bad["error"]


def test_a_limit_takes_the_first_of_a_fixed_order_and_can_be_raised(street, data, serial, tmp_path):
    two = [line["image"] for line in study(street, data, tmp_path, limit=2).lines]
    assert two == [line["image"] for line in serial.lines[:2]] != [0, 1]
    assert by_image(study(street, data, tmp_path)) == by_image(serial)


def test_threads_give_what_one_process_gives(street, data, serial, tmp_path):
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        assert by_image(study(street, data, tmp_path, executor=executor)) == by_image(serial)


def test_settings_say_which_data_and_detector(street, data, serial, tmp_path):
    assert serial.settings == {
        "detector": {"name": street.name},
        "annotations_sha256": data.sha256,
        "size_centres": data.centres,
        "seed": 0,
        "brightness": 1,
    }
    study(street, data, tmp_path, limit=1)
    with pytest.raises(dc.InputError, match="was made with seed 0, not 1"):
        study(street, data, tmp_path, seed=1)


@pytest.mark.parametrize("seed", [-1, 0.5, "0"])
def test_a_seed_that_is_none_is_refused(street, data, tmp_path, seed):
    with pytest.raises(dc.InputError, match="seed must be an integer of at least 0"):
        study(street, data, tmp_path / "out", seed=seed)
    assert not (tmp_path / "out").exists()
