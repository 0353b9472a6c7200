"""Planted scenes as a data set that COCO's own tools read and score."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dclose_nb as dc
from dclose_nb.planted import CLASS_NAMES, scene
from dclose_nb.planted.dataset import average_precision, write_coco


def test_pycocotools_reads_the_data_set(tmp_path):
    from pycocotools.coco import COCO

    truth = COCO(str(write_coco(tmp_path, range(3), progress=False)))
    assert truth.getImgIds() == [0, 1, 2]
    for seed in range(3):
        drawn = scene(seed)
        entry = truth.loadImgs(seed)[0]
        assert np.array_equal(dc.load_photo(tmp_path / "val2017" / entry["file_name"]), drawn.image)
        found = truth.loadAnns(truth.getAnnIds(imgIds=seed))
        assert [truth.cats[a["category_id"]]["name"] for a in found] == [CLASS_NAMES[k] for k in drawn.labels]
        for annotation, box, mask in zip(found, drawn.boxes, drawn.causal_masks):
            x, y, width, height = annotation["bbox"]
            assert [x, y, x + width, y + height] == box.tolist()
            assert np.array_equal(truth.annToMask(annotation), mask)


def test_average_precision_in_closed_form():
    """A detector that knows the truth scores 1; one that sees every second scene scores its recall."""
    known = [scene(seed) for seed in range(20)]

    class Knowing(dc.Detector):
        def __init__(self, every):
            super().__init__("knowing", CLASS_NAMES)
            self.every = every

        def prepare(self, image):
            return dc.Canvas(torch.tensor(image).permute(2, 0, 1).float(), (320, 320), (0, 0, 320, 320))

        def predict(self, pixels):
            shown = pixels[0].permute(1, 2, 0).byte().numpy()
            number = next(k for k, drawn in enumerate(known) if np.array_equal(drawn.image, shown))
            boxes = torch.tensor(known[number].boxes)[None]
            seen = torch.full(boxes.shape[:2], float(number % self.every == 0))
            classes = torch.eye(len(CLASS_NAMES))[known[number].labels][None]
            return dc.Proposals(boxes, seen, classes)

    knowing = average_precision(Knowing(1), range(20), progress=False)
    assert knowing["AP"] == knowing["AP50"] == knowing["AP75"] == 1
    half = average_precision(Knowing(2), range(20), progress=False)
    recalls = []
    for label in set(np.concatenate([drawn.labels for drawn in known])):
        counts = [(drawn.labels == label).sum() for drawn in known]
        found = sum(counts[::2]) / sum(counts)
        recalls.append(np.mean(np.linspace(0, 1, 101) <= found) if found else 0)  # precision is 1 until there
    assert half["AP50"] == pytest.approx(np.mean(recalls), abs=1e-4)
    assert average_precision(Knowing(20), range(1, 4), progress=False)["AP"] == 0  # nothing found


def test_a_data_set_is_never_half_written(tmp_path, monkeypatch):
    with pytest.raises(dc.InputError, match="only once"):
        write_coco(tmp_path, [1, 1], progress=False)

    def torn(path, text, **options):
        path.write_bytes(text[: len(text) // 2].encode())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", torn)
        with pytest.raises(KeyboardInterrupt):
            write_coco(tmp_path, [1, 2], progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["000000000001.png", "000000000002.png"]
    (tmp_path / "file").touch()
    with pytest.raises(dc.InputError, match="cannot write"):
        write_coco(tmp_path / "file", [1], progress=False)


@pytest.mark.parametrize("content", ["a thesis", '{"categories": [{"id": 1, "name": "person"}]}'])
def test_annotations_of_somebody_else_are_not_replaced(tmp_path, content):
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(dc.InputError, match="is not of planted scenes and would be lost"):
        write_coco(tmp_path, [1], progress=False)
    assert path.read_text() == content and not (tmp_path / "val2017").exists()


def test_scenes_are_added_but_none_is_lost_or_changed(tmp_path):
    path = write_coco(tmp_path, [1], progress=False)
    write_coco(tmp_path, [0, 1], progress=False)  # one more
    with pytest.raises(dc.InputError, match="has scene 0 too: choose another folder"):
        write_coco(tmp_path, [1], progress=False)
    content = json.loads(path.read_text())
    assert [entry["id"] for entry in content["images"]] == [0, 1]
    content["annotations"][0]["bbox"][0] += 1  # by hand
    path.write_text(json.dumps(content))
    with pytest.raises(dc.InputError, match="other annotations of scene 0 and they would be lost"):
        write_coco(tmp_path, [0, 1], progress=False)
    assert json.loads(path.read_text()) == content


def test_an_image_that_is_not_the_scene_is_refused(tmp_path):
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (320, 320)).save(tmp_path / "val2017" / "000000000001.png")
    with pytest.raises(dc.InputError, match="is not scene 1: choose another folder"):
        write_coco(tmp_path, [1], progress=False)
    assert not (tmp_path / "annotations" / "instances_val2017.json").exists()


def test_numbers_of_scenes_are_looked_at_before_any_is_drawn(tmp_path):
    with pytest.raises(dc.InputError, match="each seed must be"):
        write_coco(tmp_path / "out", [0, -1], progress=False)
    assert not (tmp_path / "out").exists()
    path = write_coco(tmp_path, np.arange(1), progress=False)
    assert [entry["id"] for entry in json.loads(path.read_text())["images"]] == [0]
