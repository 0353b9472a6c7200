"""Readers, claims and tables of bad conditions, and counts in real photographs."""

import numpy as np
import pytest
from PIL import Image
from toys import Lamps

from dclose_nb.studies import condition_evidence as evidence
from dclose_nb.studies.records import shipped_records
from dclose_nb.studies.tables import of_claims


def test_an_object_is_read_by_condition():
    maps = {
        "clear": {"dclose": {"itself": 0.6, "inside": 0.9, "levels": [0.2, 1.0], "drawn": 1.0}},
        "fog": {"dclose": {"clear": 0.1, "inside": 0.5, "levels": [0.4, 0.0], "drawn": 0.0}},
        "night": {"dclose": {"clear": 0.4, "inside": 0.7, "levels": [0.1, 0.3], "drawn": 1.0}},
    }
    record = {"left": {"fog": [0.9, 0.5, 0.1, 0.0], "night": [1, 1, 0.8, 0.7]}, "maps": maps}
    assert evidence.left("fog")(record) == 0.1 and evidence.left("fog", 0.25)(record) == 0.9
    assert evidence.change("fog")(record) == pytest.approx(-0.5)
    assert evidence.less_level("fog", evidence.LEVELS["mean"])(record) == pytest.approx(0.3)
    assert evidence.less_level("clear", evidence.LEVELS["coarsest"])(record) == pytest.approx(-0.1)
    both, change = ("fog", "night"), evidence.change
    assert evidence.over(both, change)(record) == pytest.approx(-0.35)
    drawn = evidence.over(both, lambda name: evidence.if_drawn(name, change(name)))
    assert drawn(record) == pytest.approx(-0.2)
    little = evidence.over(both, lambda name: evidence.if_left(name, 0, 0.2, change(name)))
    assert little(record) == pytest.approx(-0.5)
    assert evidence.over((), change)(record) is None
    maps["fog"]["dclose"]["clear"] = None
    assert evidence.change("fog")(record) is None
    (point,) = evidence.points([record | {"image": 1}], "dclose", both)
    assert point == {"image": 1, "left": 0.8, "change": pytest.approx(-0.2)}


def test_the_claims_are_those_of_the_records_that_ship():
    """What notebook 06 says last."""
    verdicts = [row[-1] for row in of_claims(evidence.claims(shipped_records("conditions"))).rows]
    words = [word.strip("*") for word in verdicts]
    assert [words.count(word) for word in ("holds", "fails", "open")] == [9, 4, 15]
    assert words[3] == "fails" and words[6] == "holds"  # fog, and noise
    tables = evidence.evidence(shipped_records("conditions"))
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert tables[3].rows[3][2] == "-0.51 [-0.66, -0.36]"  # fog
    assert tables[3].rows[3][-1] == "5 of 29 objects, in 5 images"


def test_pairs_of_photographs_are_found_by_their_names(tmp_path):
    kaist = [f"kaist/set{k:02}_V1_visible" for k in range(12)]
    for name in (*kaist, "mfnet/1D_rgb", "mfnet/2N_rgb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").touch()
    found = [(light, infrared.stem) for light, _, infrared in evidence.pairs(tmp_path)]
    light = [*["day"] * 3, *["night"] * 3, *["day"] * 3, *["night"] * 3]  # Hwang et al. 2015, Table 2
    wanted = [(when, f"set{k:02}_V1_lwir") for k, when in enumerate(light)]
    assert found == [*wanted, ("day", "1D_fir"), ("night", "2N_fir")]


def test_persons_are_counted_in_pairs_and_marked_objects_in_fog(tmp_path):
    lamps = Lamps([[0, 0, 6, 6], [8, 0, 14, 6]], [[1, 0], [0, 1]])
    lamps.class_names = ("person", "car")
    bright = np.full((12, 20, 3), 255, np.uint8)
    dark = bright.copy()
    dark[:6, :6] = 0  # the person
    for name, image in (
        ("kaist/set09_1_visible", bright),
        ("kaist/set09_1_lwir", bright),
        ("kaist/set09_2_visible", dark),
        ("kaist/set09_2_lwir", bright),
        ("rtts_fog/marked", bright),
        ("rtts_fog/empty", dark),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    persons, fog = evidence.of_photographs(lamps, tmp_path)
    assert fog.rows == []  # no file of boxes
    assert persons.rows == [
        ["set09_1_visible", "night", "1", "1", "1"],
        ["set09_2_visible", "night", "0", "1", "0"],
        ["all", "day", "0", "0", "0"],
        ["all", "night", "1", "2", "1"],
    ]
    boxes = "data/marked.png 0,0,6,5,1 8,0,14,5,0 0,6,3,9,0\n\ndata/empty.png\n"
    (tmp_path / "rtts_fog" / "boxes_quick_test.txt").write_text(boxes)
    (tmp_path / "rtts_fog" / "vocfog.names").write_text("car\nperson\n")
    _, fog = evidence.of_photographs(lamps, tmp_path)
    assert fog.rows == [["marked.png", "3", "2", "0"], ["empty.png", "0", "0", "1"]]
