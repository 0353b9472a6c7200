"""Tables against sums by hand, and the paper's numbers against each other."""

import csv
import io
import json
import warnings

import pytest

import dclose_nb as dc
from dclose_nb.cli import main
from dclose_nb.files import shipped
from dclose_nb.studies import tables
from dclose_nb.studies.inference import design_part
from dclose_nb.studies.records import Records

CENTRES = [0.01, 0.1, 0.5]


def scores(value):
    return {
        "sparsity": 10 * value,
        "ebpg": value,
        "deletion": value / 2,
        "insertion": value,
        "over_all": value / 2,
        "deletion_curve": [value, value / 2, 0],
    }


COST = {"seconds": {"dclose": 12.0, "mfpp": 12.0}, "n_forward": {"dclose": 400, "mfpp": 400}}


def item(label, area, value):
    return {"label": label, "area": area, "methods": {"dclose": scores(value), "mfpp": scores(value / 2)}}


@pytest.fixture
def records(tmp_path):
    """Two small cups (0.2 and 0.4) and a large table (0.9); an empty image, an unmatched one, a torn one."""
    records = Records(
        tmp_path / "records.jsonl", {"size_centres": CENTRES, "methods": {"dclose": {}, "mfpp": {}}}
    )
    both = [item("cup", 0.02, 0.2), item("table", 0.4, 0.9)]
    records.append({"image": 7, "found": 3, "truths": 2, "objects": both, **COST})
    records.append({"image": 3, "found": 1, "truths": 1, "objects": [item("cup", 0.001, 0.4)], **COST})
    records.append({"image": 4, "found": 0, "truths": 1, "objects": [], "seconds": {}, "n_forward": {}})
    records.append({"image": 5, "found": 2, "truths": 1, "objects": [], "seconds": {}, "n_forward": {}})
    records.append({"image": 6, "error": "torn"})
    return records


def test_objects_are_grouped_by_the_nearest_centre(records):
    assert [(record["image"], record["group"]) for record in tables.objects(records)] == [
        (3, "small"), (7, "small"), (7, "large")
    ]  # fmt: skip


def test_means_over_objects_and_over_classes(records):
    found = tables.objects(records)
    mean = tables.mean(found, "dclose", "ebpg")
    assert mean.mean == pytest.approx(0.5) and mean.n_images == 2  # (0.2 + 0.9 + 0.4) / 3
    assert tables.class_mean(found, "dclose", "ebpg") == pytest.approx((0.3 + 0.9) / 2)
    assert tables.mean([], "dclose", "ebpg").n_objects == 0


def test_differences_are_of_pairs(records):
    found = tables.objects(records)
    more = tables.difference(found, "dclose", "mfpp", "ebpg")
    assert more.mean == pytest.approx(0.25)  # half of what dclose has
    assert tables.difference([], "dclose", "mfpp", "ebpg").n_objects == 0


def test_the_mean_of_curves_is_a_curve(records):
    found = tables.objects(records)
    assert tables.mean(found, "dclose", "deletion_curve").mean == pytest.approx([0.5, 0.25, 0])


def test_estimates_make_a_table(records):
    found = tables.objects(records)
    columns = tables.means(found, {"Ours": "dclose", "Theirs": "mfpp"}, {"EBPG": "ebpg", "Del": "deletion"})
    assert columns["EBPG"]["Ours"].mean == pytest.approx(0.5)
    assert columns["Del"]["Theirs"].mean == pytest.approx(0.125)
    columns |= tables.differences(found, {"Ours": ("dclose", "mfpp")}, {"gain": "ebpg"})
    table = tables.of_estimates("Some", columns, digits=3, sign="+")
    assert table.columns == ["", "EBPG", "Del", "gain"]
    assert table.rows == [["Ours", "+0.500", "+0.250", "+0.250"], ["Theirs", "+0.250", "+0.125", ""]]


def test_table_1(records):
    first, second = tables.ablation(records).rows
    assert first[0] == "segments" and second[0] == "segments, density, fusion"
    assert second[1:4] == ["5.00", "6.00", "25.02"]
    assert first[4:7] == ["25.00", "30.00", "12.25"]
    assert tables.ablation(records).columns[:4] == ["setting", "Sparsity ↑", "class mean", "paper"]


def test_table_2(records):
    table = tables.by_size(records)
    assert table.columns == ["metric", "objects", "D-CLOSE", "paper"]
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert rows["EBPG (%) ↑", "small (2)"] == ["30.00", "28.34"]
    assert rows["EBPG (%) ↑", "middle (0)"] == ["", "69.50"]
    assert rows["EBPG (%) ↑", "large (1)"] == ["90.00", "84.22"]
    assert rows["EBPG (%) ↑", "all (3)"] == ["50.00", "35.45"]
    assert rows["EBPG (%) ↑", "all, class mean (3)"] == ["60.00", ""]
    assert len(rows) == 25
    assert tables.by_size(records, ["mfpp"]).columns == ["metric", "objects", "MFPP"]


def test_a_cell_has_an_interval_where_there_are_images_enough(records):
    for image, value in zip(range(10, 14), (0.1, 0.3, 0.5, 0.7)):
        records.append(
            {"image": image, "found": 1, "truths": 1, "objects": [item("cup", 0.02, value)]} | COST
        )
    found = tables.mean(tables.objects(records), "dclose", "ebpg")
    assert found.n_images == 6 and found.low < found.mean < found.high
    cells = {row[1]: row[2] for row in tables.by_size(records).rows if row[0].startswith("EBPG")}
    assert cells["all (7)"] == f"{100 * found.mean:.2f} [{100 * found.low:.2f}, {100 * found.high:.2f}]"


def test_table_3(records):
    assert tables.cost(records).rows[0] == ["D-CLOSE", "8.00", "267", "12.00", "400", "70.00"]


def test_what_came_to_nothing_is_said(records):
    said = tables.summary(records)
    for part in (
        "3 objects of 2 images, from 5 marked objects and 6 detections; 5 images",
        "in 1 nothing was detected",
        "in 1 nothing that matches",
        "1 could not",
    ):
        assert part in said


def test_the_paper_s_numbers_agree_with_each_other():
    """Over-all is insertion less deletion, and Table 1 ends where Table 2 does."""
    for of_method in tables.PAPER_2.values():
        for deletion, insertion, over_all in zip(
            *(of_method[name] for name in ("deletion", "insertion", "over_all"))
        ):
            assert over_all == pytest.approx(insertion - deletion, abs=0.011)
    for metric, value in zip(tables.ABLATION_METRICS, tables.PAPER_1["dclose"]):
        assert value == tables.PAPER_2["dclose"][metric][3]


def test_files_are_written_and_printed(records, capsys):
    folder = records.path.parent
    assert main(["tables", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert (folder / "tables.md").read_text() in printed
    rows = list(csv.reader(io.StringIO((folder / "table_2.csv").read_text())))
    assert rows == [tables.by_size(records).columns, *tables.by_size(records).rows]
    latex = (folder / "tables.tex").read_text()
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 3
    assert r"EBPG (\%) $\uparrow$ & small (2) & 30.00 & 28.34 \\" in latex
    assert "↑" not in latex.split("\n", 1)[1]


def test_an_evaluation_without_objects_has_empty_tables(tmp_path):
    records = Records(tmp_path / "records.jsonl", {"size_centres": CENTRES, "methods": {"dclose": {}}})
    records.append({"image": 4, "found": 0, "truths": 1, "objects": [], "seconds": {}, "n_forward": {}})
    markdown = tables.write(tmp_path)
    assert "0 objects of 0 images, from 1 marked" in markdown
    assert tables.ablation(records).rows == tables.cost(records).rows == []


def test_images_of_the_design_are_left_out(records, tmp_path, capsys):
    split = tmp_path / "split.json"
    split.write_text('{"images": [7, 4], "scenes": [0]}')
    path = str(records.path.parent)
    assert main(["tables", path, "--without", str(split)]) == 0
    printed = capsys.readouterr().out
    assert "1 objects of 1 images, from 2 marked objects and 3 detections; 3 images done" in printed
    assert "tables_without.md" in printed
    folder = records.path.parent
    assert (
        not [*folder.glob("tables.*"), *folder.glob("table_1.*")]
        and (folder / "table_3_without.csv").exists()
    )
    for name in ("tables_without.md", "tables_without.tex"):
        assert "2 images on which methods were designed are left out." in (folder / name).read_text()
    assert design_part("scenes", split) == [0] and len(Records(records.path).lines) == 5
    for content, word in (
        ('{"images": [7, 99]}', "has no image 99, which should be left out"),
        ('{"images": []}', "is no split"),
        ('{"images": ["7"]}', "is no split"),
        ('{"images": 7}', "is no split"),
        ("[7]", "is no split"),
        ("{", "is no split"),
    ):
        split.write_text(content)
        assert main(["tables", path, "--without", str(split)]) == 2
        assert word in capsys.readouterr().err
    assert main(["tables", path, "--without", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_split_that_ships():
    images, scenes = design_part("images"), design_part("scenes")
    assert (len(set(images)), scenes) == (20, list(range(40)))


def test_no_records(tmp_path):
    with pytest.raises(dc.InputError, match="cannot be read: No such file"):
        tables.write(tmp_path)


def test_tables_change_no_record_and_count_an_image_once(records, capsys):
    path = records.path
    before = tables.write(path.parent)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[1], lines[3], lines[5], '{"image": 8, "fou']))
    torn = path.read_bytes()
    with warnings.catch_warnings():  # the command says them its own way
        assert main(["tables", str(path.parent)]) == 0
    printed = capsys.readouterr()
    assert before in printed.out and path.read_bytes() == torn
    assert "the last line of" in printed.err and "was cut off and is left out" in printed.err
    assert "more than one line of image 7; image 4; image 6: the first counts" in printed.err


NO_CURVE = scores(0.2) | {"deletion_curve": []}
WHOLE = {"image": 9, "found": 1, "truths": 2, "objects": [item("cup", 0.02, 0.2)]}
WHOLE |= {"seconds": {"dclose": 1.0, "mfpp": 1.0}, "n_forward": {"dclose": 4, "mfpp": 4}}
INCOMPLETE = [
    {name: value for name, value in WHOLE.items() if name != "found"},
    {name: value for name, value in WHOLE.items() if name != "truths"},
    {name: value for name, value in WHOLE.items() if name != "seconds"},
    WHOLE | {"objects": None},
    WHOLE | {"objects": [5]},
    WHOLE | {"objects": [{"label": "cup"}]},
    WHOLE | {"objects": [WHOLE["objects"][0] | {"area": "much"}]},
    WHOLE | {"objects": [WHOLE["objects"][0] | {"label": ["cup"]}]},
    WHOLE | {"objects": [WHOLE["objects"][0] | {"methods": {"dclose": {"ebpg": 1}}}]},
    WHOLE | {"image": "9"},
    WHOLE | {"error": "torn"},
    {"image": "9", "error": "torn"},
    WHOLE | {"objects": [WHOLE["objects"][0] | {"methods": WHOLE["objects"][0]["methods"] | {"magic": {}}}]},
    WHOLE | {"found": 10**400},
    WHOLE | {"truths": float("nan")},
    WHOLE | {"objects": [WHOLE["objects"][0] | {"area": float("inf")}]},
    WHOLE | {"seconds": {"dclose": None, "mfpp": 1}},
    WHOLE | {"objects": [item("cup", 0.02, 0.2) | {"methods": dict.fromkeys(("dclose", "mfpp"), NO_CURVE)}]},
]


@pytest.mark.parametrize("line", INCOMPLETE, ids=range(len(INCOMPLETE)))
def test_an_incomplete_record_is_named(records, line, capsys):
    records.append(WHOLE)
    tables.write(records.path.parent)
    records.append(line)
    with pytest.raises(dc.InputError, match=r"line 8 of .*records.jsonl' is no whole record"):
        tables.write(records.path.parent)


@pytest.mark.parametrize("image", [None, [1], {}])
def test_a_record_without_an_image_is_named(records, image):
    records.append(WHOLE | {"image": image})
    with pytest.raises(dc.InputError, match=r"line 7 of .*records.jsonl' has no 'image'"):
        tables.write(records.path.parent)


@pytest.mark.parametrize(
    "settings",
    [{}, [], None, {"methods": {}}, {"methods": ["dclose"], "size_centres": CENTRES}]
    + [{"methods": {"dclose": {}}, "size_centres": centres} for centres in (None, [], ["a", "b", "c"], 3)],
    ids=str,
)
def test_records_of_something_else_are_refused_and_left_alone(tmp_path, settings):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({"settings": settings}) + "\n")
    before = path.read_bytes()
    with pytest.raises(dc.InputError, match=r"holds no (evaluation|record)"):
        tables.write(tmp_path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def test_objects_are_counted_in_which_one_method_is_higher(records):
    found = tables.objects(records)
    assert tables.n_higher(found, "dclose", "mfpp", ["sparsity", "ebpg"]) == 3
    assert tables.n_higher(found, "mfpp", "dclose", ["sparsity"]) == 0


def test_weights_of_size_groups_fit_the_rows_that_are_left(monkeypatch):
    rows = {
        "ebpg": (10.0, 20.0, 50.0, 17.0),
        "over_all": (80.0, 60.0, 40.0, 70.0),
        "deletion": (1.0, 2.0, 3.0, 1.5),
    }
    monkeypatch.setattr(tables, "PAPER_2", {"a": rows, "b": {"ebpg": (1.0, 2.0, 3.0, 99.0)}})
    weights = tables.size_weights([("b", "ebpg")])
    assert weights == pytest.approx([0.6, 0.3, 0.1], abs=1e-3)


def test_there_are_33_claims_of_the_paper():
    found = tables.objects(Records(shipped("results/yolox_nano_coco") / "records.jsonl"))
    claims = tables.paper_claims(found)
    assert len(claims) == len({claim.sentence for claim in claims}) == 33
    assert claims[2].side == "below"  # deletion
    for record in found:
        del record["methods"]["gradcam"]
    without = [claim.sentence for claim in tables.paper_claims(found)]
    assert without == [claim.sentence for claim in claims if "Grad-CAM" not in claim.sentence]
    assert len(without) == 28


def test_a_bar_in_a_cell_adds_no_column():
    table = tables.Table("bars", ["map", "|rank|"], [["a|b", "0.5"]])
    assert table.markdown().splitlines()[2:] == [r"| map | \|rank\| |", "| --- | --- |", r"| a\|b | 0.5 |"]
    assert table.csv() == "map,|rank|\na|b,0.5\n"
