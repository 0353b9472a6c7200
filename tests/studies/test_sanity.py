"""Randomised networks, and the study that compares their maps."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from toys import Wired

import dclose_nb as dc
from dclose_nb.files import shipped
from dclose_nb.methods import make
from dclose_nb.planted import scene
from dclose_nb.studies import sanity
from dclose_nb.studies.coco import Truth
from dclose_nb.studies.inference import difference, mean
from dclose_nb.studies.records import Records
from dclose_nb.studies.records import shipped_records as records_that_ship
from dclose_nb.studies.sanity import randomise
from dclose_nb.studies.tables import of_claims


@pytest.fixture
def wired(lamps):
    return Wired(lamps.boxes.tolist(), lamps.class_probs.tolist())


@pytest.fixture
def truth(lamps, lit, tmp_path):
    Image.fromarray(lit).save(tmp_path / "lit.png")
    return Truth(7, str(tmp_path / "lit.png"), lamps.boxes.numpy(), ["a", "b"], [None, None])


METHODS = {"dclose": {"n_masks": 40, "segments": (4, 8)}, "drise": {"n_masks": 40, "grid": (4, 4)}}
SEED = next(  # the first shuffling turns the switch off
    k for k in range(9) if torch.randperm(8, generator=torch.Generator().manual_seed(10_000 + k))[0] != 0
)


def test_every_layer_keeps_its_values_but_not_their_order():
    detector = dc.load_detector("planted", device="cpu")
    before = [value.clone() for value in detector.module.parameters()]
    first, again, reseeded = (list(randomise(detector, seed=seed).module.parameters()) for seed in (1, 1, 2))
    for value, kept, a, b, c in zip(detector.module.parameters(), before, first, again, reseeded):
        assert torch.equal(value, kept)  # the caller's network does not change
        assert torch.equal(a, b)
        assert torch.equal(a.flatten().sort().values, value.flatten().sort().values)
        if value.numel() > 100:
            assert not torch.equal(a, value) and not torch.equal(a, c)
    assert randomise(detector).provenance == {"shuffled": "planted", "stages": None, "seed": 0}


@pytest.mark.parametrize("name", ["planted", "planted_two_stage"])
def test_stages_hold_every_parameter_once(name):
    detector = dc.load_detector(name, device="cpu")
    layers = [layer for layers in detector.stages.values() for layer in layers]
    held = [weights for layer in layers for weights in detector.module.get_submodule(layer).parameters()]
    assert sorted(map(id, held)) == sorted(map(id, detector.module.parameters()))
    assert 6 <= len(detector.stages) <= 8


@pytest.mark.parametrize("name", ["planted", "planted_two_stage"])
def test_stages_go_from_output_to_input(name):
    """What a stage puts out changes nothing before it: layers run in the reverse order of stages."""
    detector = dc.load_detector(name, device="cpu")
    ran = []
    for k, layers in enumerate(detector.stages.values()):
        for layer in layers:
            for part in detector.module.get_submodule(layer).modules():
                if list(part.parameters(recurse=False)):
                    part.register_forward_hook(lambda *_, k=k: ran.append(k))
    detector.predict(torch.zeros(1, 3, 320, 320))
    last = {k: max(place for place, stage in enumerate(ran) if stage == k) for k in set(ran)}
    assert len(last) == len(detector.stages)
    assert sorted(last, key=last.get, reverse=True) == list(range(len(last)))


def test_each_step_of_a_cascade_continues_the_one_before():
    detector = dc.load_detector("planted", device="cpu")
    stages = detector.stages
    shuffled = list(stages)[:2]
    inside = {f"{layer}." for stage in shuffled for layer in stages[stage]}
    full = dict(randomise(detector, seed=3).module.named_parameters())
    old = dict(detector.module.named_parameters())
    for name, value in randomise(detector, shuffled, seed=3).module.named_parameters():
        expected = full if any(name.startswith(layer) for layer in inside) else old
        assert torch.equal(value, expected[name])


def test_steps_of_each_kind():
    detector = dc.load_detector("planted", device="cpu")
    stages = tuple(detector.stages)
    cascade = sanity.steps(detector, "cascade")
    assert list(cascade) == ["predictions", "to head", *(f"to {stage}" for stage in stages[2:])]
    assert list(cascade.values()) == [stages[: k + 1] for k in range(len(stages))]
    assert sanity.steps(detector, "alone") == {stage: (stage,) for stage in stages}
    assert sanity.steps(detector, "ends") == {"predictions": stages[:1], "to stem": stages}
    assert sanity.steps(detector, "class") == {"another class": stages}


def test_what_cannot_be_randomised_is_refused(lamps, wired, tmp_path):
    with pytest.raises(dc.InputError, match="lamps has no parameters"):
        randomise(lamps)
    with pytest.raises(dc.InputError, match="detector must be Detector, got str"):
        randomise("x")
    with pytest.raises(dc.InputError, match="detector must be Detector, got str"):
        sanity.steps("x", "cascade")
    with pytest.raises(dc.InputError, match="seed must be an integer"):
        randomise(wired, seed="a")
    with pytest.raises(dc.InputError, match="stage must be one of 'switch', 'inert', got 'neck'"):
        randomise(wired, ["neck"])
    with pytest.raises(
        dc.InputError, match="kind must be one of 'cascade', 'alone', 'ends', 'class', got 'half'"
    ):
        sanity.steps(wired, "half")
    with pytest.raises(dc.InputError, match="lamps has no parameters"):
        sanity.study_sanity(tmp_path / "out", detector=lamps)
    with pytest.raises(dc.InputError, match="wired knows no planted scenes"):
        sanity.study_sanity(tmp_path / "out", detector=wired)
    lamps.module = wired.module
    with pytest.raises(dc.InputError, match="lamps names no stages"):
        sanity.study_sanity(tmp_path / "out", detector=lamps)
    assert not (tmp_path / "out").exists()


def test_an_inert_layer_changes_nothing_and_a_silent_detector_gives_empty_maps(wired, lit, truth):
    line = sanity.study_image(wired, lit, truth, SEED, methods=METHODS, kinds=("cascade", "alone"), seeds=2)
    assert line["labels"] == ["a", "b"]
    weights = line["left"]["inert"]  # of lamps that shine at 250 of 255, each its own best proposal
    assert np.array(weights) == pytest.approx(250 / 255, abs=1e-3)
    assert line["left"]["trained"] == weights
    assert line["left"]["switch"][0] == line["left"]["to inert"][0] == [0, 0]
    for of_method in line["methods"].values():
        assert of_method["empty"] == [False, False]
        scores = of_method["scores"]
        assert scores["inert"] == scores["trained"]  # the same network with the same masks
        assert scores["trained"][0] != scores["trained"][1]  # other masks for each seed
        assert scores["switch"][0] == scores["to inert"][0] == [[None] * 2] * len(sanity.COLUMNS)
        moved = of_method["moved"]["trained"]
        assert moved[0] == pytest.approx(np.sum(np.array(scores["trained"])[:, 0]), abs=1e-3)
        assert len(moved) == 1 + sanity.DRAWS and len(set(moved)) > 100


def test_a_network_is_asked_about_another_class(lit, truth):
    wired = Wired(truth.boxes.tolist(), [[1, 0], [0.25, 0.75]])
    with torch.no_grad():
        wired.module["switch"].weight.fill_(1)  # shuffled or not, the lamps shine
    line = sanity.study_image(wired, lit, truth, methods=METHODS, kinds=("ends", "class"), seeds=1)
    shine = 250 / 255  # times the cosine of the lamp's classes and those asked about
    assert np.array(line["left"]["to inert"]) == pytest.approx(shine, abs=1e-3)
    assert line["left"]["another class"][0] == pytest.approx([0, 0.6 * shine], abs=1e-3)
    scores = line["methods"]["drise"]["scores"]
    own, other = (np.array(scores[step][0], dtype=float)[0] for step in ("to inert", "another class"))
    assert np.isnan(other[0]) and other[1] == own[1]  # the same masks, all weights times 0.6


def test_an_image_without_a_match_has_no_objects(wired, lit, truth):
    line = sanity.study_image(wired, lit, truth._replace(labels=["b", "a"]), methods=METHODS)
    assert line["labels"] == [] and line["methods"] == {}


MAPS = np.random.default_rng(0).random((3, 5, 6)).cumsum(1).cumsum(2)


def test_a_map_is_compared_with_its_map_moved_by_every_offset():
    found = sanity.moved_ranks(*map(sanity.unit_ranks, (MAPS[:2], MAPS[1:])))
    rolled = np.roll(MAPS[2], (2, 4), axis=(0, 1))
    assert found[1, 2, 4] == pytest.approx(dc.metrics.rank_correlation(MAPS[1], rolled))
    assert found.shape == (2, 5, 6) and found.mean(axis=(1, 2)) == pytest.approx([0, 0], abs=1e-12)
    assert np.isnan(sanity.moved_ranks(*map(sanity.unit_ranks, (MAPS[:1], np.ones((1, 5, 6)))))).all()


def test_columns_of_a_comparison():
    boxes, offsets = np.array([[0, 0, 2, 2], [0, 0, 6, 5], [4, 3, 6, 5]]), np.array([[0, 0], [2, 4]])
    second = MAPS[[1, 2, 0]]
    table, sums = sanity.compare(MAPS, second, boxes, offsets)
    found = dict(zip(sanity.COLUMNS, table))
    rank = dc.metrics.rank_correlation
    pairs = np.array([[rank(a, b) for b in second] for a in MAPS])
    assert found["rank"] == pytest.approx(pairs.diagonal())
    assert found["other rank"][1] == pytest.approx((pairs[1, 0] + pairs[1, 2]) / 2)
    assert found["alike"][0] == pytest.approx((rank(MAPS[1], MAPS[2]) + rank(MAPS[1], MAPS[0])) / 2)
    mirrored = [np.fliplr(second[0]), np.flipud(second[0]), np.rot90(second[0], 2)]
    assert found["mirrored rank"][0] == pytest.approx(np.mean([rank(MAPS[0], map_) for map_ in mirrored]))
    moved = sanity.moved_ranks(*map(sanity.unit_ranks, (MAPS, second)))
    assert found["moved |rank|"] == pytest.approx(np.abs(moved).mean(axis=(1, 2)))
    assert sums == pytest.approx([moved[:, 0, 0].sum(), moved[:, 2, 4].sum()])
    brighter = second[0, :2, :2].ravel()[:, None] > np.delete(second[0], [0, 1, 6, 7])
    assert found["focus"][0] == pytest.approx(brighter.mean()) and np.isnan(found["focus"][1])
    table, _ = sanity.compare(MAPS[:1], np.ones((1, 5, 6)), boxes[:1], offsets)  # empty
    assert np.isnan(table).all()
    alone = dict(zip(sanity.COLUMNS, sanity.compare(MAPS[:1], second[:1], boxes[:1], offsets)[0]))
    assert np.isnan(alone["other rank"]).all() and alone["rank"] == pytest.approx(pairs[0, 0])


@pytest.fixture
def overflowing():
    """A network whose boxes are infinitely wide, as that of a shuffled network can be."""
    detector = dc.load_detector("planted", device="cpu")
    with torch.no_grad():
        for layer in detector.module.head.reg_preds:
            layer.bias[2], layer.bias[3] = 200, -200  # exponents of a width and a height
    return detector


def test_box_sizes_that_overflow_become_finite(overflowing):
    canvas = overflowing.prepare(dc.load_photo("scene_1"))
    proposals = overflowing.predict(canvas.pixels[None])
    vectors = torch.tensor([[50.0, 50, 200, 200]]), torch.eye(len(overflowing.class_names))[:1]
    assert proposals.boxes.isfinite().all()
    assert dc.similarity.mask_weights(proposals, *vectors).isfinite().all()


@pytest.mark.parametrize("method", ["dclose", "gradcam"])
def test_a_network_that_overflows_gives_finite_maps(overflowing, method):
    image = dc.load_photo("scene_1")
    assert not overflowing.module(overflowing.prepare(image).pixels[None]).isfinite().all()
    budget = {} if method == "gradcam" else {"n_masks": 5}
    targets = dc.Targets([[50, 50, 300, 250]], ["tree"])
    maps = dc.explain(overflowing, image, targets, method=method, progress=False, **budget).saliency
    assert np.isfinite(maps).all()


@pytest.fixture
def records(tmp_path):
    """Two images of two objects and of one, in one of which nothing matched; two seeds."""
    found = Records(tmp_path / "records.jsonl", {"methods": {"m": {}}, "kinds": {"alone": ["s"]}, "seeds": 2})

    def line(image, empty, moved, *seeds):
        tables = {
            step: [[[rank] * len(sanity.COLUMNS) for rank in ranks] for ranks in ranks_of_seeds]
            for step, ranks_of_seeds in {"trained": [[0.9] * len(empty)] * 2, "s": seeds}.items()
        }
        scores = {step: np.swapaxes(np.array(table), 1, 2).tolist() for step, table in tables.items()}
        methods = {"m": {"empty": empty, "scores": scores, "moved": {"s": moved}}}
        left = {step: [[0.5] * len(empty), [0.1] * len(empty)] for step in scores}
        labels = ["a"] * len(empty)
        found.append({"image": image, "seed": 0, "labels": labels, "left": left, "methods": methods})

    line(1, [False, False], [0.5, 0.1, -0.1, -0.8], [0.5, None], [0.1, None])
    line(2, [False, True], [0.0, 0.3, -0.4, 0.1], [0.1, None], [None, None])
    found.append({"image": 3, "seed": 0, "labels": [], "left": {}, "methods": {}})
    return found


def test_an_object_has_the_mean_over_seeds_and_empty_maps_are_counted_separately(records):
    first, second, third = sanity.objects(records, "m")
    assert [record["image"] for record in (first, second, third)] == [1, 1, 2]  # of three that had a map
    assert (first["rank"]["s"], second["focus"]["s"], third["rank"]["s"]) == (pytest.approx(0.3), None, 0.1)
    assert [record["empty"]["s"] for record in (first, second, third)] == [0, 1, 0.5]
    assert first["left"]["s"] == pytest.approx(0.3)
    mean, low, high = sanity.likeness(records, "alone", "m", "rank")
    assert mean == pytest.approx([0.9, 0.2])
    assert np.isnan([low, high]).all()  # of two images
    found = "4 objects of 2 images; 1 images without any."
    maps = "m: 1 maps of the trained network are empty and 3 of the 6 of shuffled ones."
    assert sanity.summary(records) == f"{found} {maps}"
    records.append({"image": 4, "seed": 0, "error": "torn"})
    assert len(sanity.objects(records, "m")) == 3
    assert sanity.summary(records) == f"{found} 1 images could not be read. {maps}"


def test_a_column_is_averaged_for_each_method_and_step(records):
    found = sanity.over_steps(records, ["trained", "s"], "rank")
    assert [one.mean for one in found] == pytest.approx([0.9, 0.2])
    assert [one.n_objects for one in found] == [3, 2]  # one object has only empty maps of shuffled networks


def test_p_is_the_share_of_moves_that_give_as_much(records):
    assert sanity.permutation_p(records, "s", "m") == 3 / 4  # sums 0.5, 0.4, -0.5, -0.7


@pytest.mark.slow
def test_a_stopped_run_resumes(tmp_path):
    options = {"methods": ["dclose"], "kinds": ["ends"], "n_masks": 5, "seeds": 2, "progress": False}
    (first,) = sanity.study_sanity(tmp_path, limit=1, **options).lines
    again, second = sanity.study_sanity(tmp_path, limit=2, **options).lines
    assert again == first and [line["seed"] for line in (first, second)] == [0, 1]
    assert first["left"]["to stem"][0] != first["left"]["to stem"][1]  # another shuffling of the same image
    with pytest.raises(dc.InputError, match=r"was made with methods .*'n_masks': 5.*, not .*'n_masks': 6"):
        sanity.study_sanity(tmp_path, **options | {"n_masks": 6})


def test_images_of_a_data_set_come_in_random_order(wired, truth, tmp_path):
    """Three images with one object each. Two of them are studied, one of which is of another size."""
    order = np.random.default_rng(0).permutation(3)[:2]
    data = {
        "images": [
            {"id": 5 + k, "file_name": "lit.png", "width": 21 if k == order[1] else 20, "height": 12}
            for k in range(3)
        ],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [1, 1, k, 8], "iscrowd": 0} for k in (5, 6, 7)
        ],
    }
    for folder in ("annotations", "val2017"):
        (tmp_path / "coco" / folder).mkdir(parents=True)
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    (tmp_path / "lit.png").rename(tmp_path / "coco" / "val2017" / "lit.png")
    records = sanity.study_sanity(
        tmp_path / "out",
        detector=wired,
        methods=["drise"],
        kinds=["ends"],
        n_masks=5,
        seeds=1,
        limit=2,
        coco=tmp_path / "coco",
        progress=False,
    )
    assert [(line["image"], line["seed"]) for line in records.lines] == [(5 + order[0], 0), (5 + order[1], 1)]
    assert "labels" in records.lines[0] and "20 x 12 pixels, 21 x 12 in" in records.lines[1]["error"]
    assert records.settings["annotations_sha256"] and records.settings["stages"] == ["switch", "inert"]


SHIPPED = {  # kinds, masks, methods; objects and images
    "planted": (["cascade", "alone"], 300, ["dclose", "gradcam"], 34, 8),
    "planted_ends": (["ends"], 600, ["dclose", "drise", "gradcam"], 46, 12),
    "planted_class": (["class"], 600, ["dclose"], 46, 12),
    "coco": (["ends"], 300, ["dclose", "drise", "gradcam"], 29, 10),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_records_were_made_as_this_code_would(name):
    kinds, n_masks, methods, n_objects, n_images = SHIPPED[name]
    records, detector = shipped_records(name), dc.load_detector("planted", device="cpu")
    weights = json.loads(shipped("weights/planted.json").read_text())["sha256"]
    if name != "coco":
        assert records.settings["detector"]["weights_sha256"] == weights  # not those of an older network
    budgets = {method: None if method == "gradcam" else n_masks for method in methods}
    made = {method: asdict(make(method, n_masks=budget)) for method, budget in budgets.items()}
    assert records.settings["methods"] == json.loads(json.dumps(made))
    assert records.settings["kinds"] == {kind: list(sanity.steps(detector, kind)) for kind in kinds}
    assert (records.settings["columns"], records.settings["draws"]) == ([*sanity.COLUMNS], sanity.DRAWS)
    assert records.settings["stages"] == list(detector.stages) and records.settings["seeds"] == 3
    assert [line["seed"] for line in records.lines] == list(range(len(records.lines)))
    found = mean(sanity.objects(records, "dclose"), sanity.at("rank", "trained"))
    assert (found.n_objects, found.n_images) == (n_objects, n_images)


@pytest.mark.slow
def test_shipped_records_hold_what_this_code_finds():
    """Grad-CAM again on one scene; D-CLOSE's maps of the trained network are those of two records."""
    number, detector = 6, dc.load_detector("planted", device="cpu")
    drawn, kept = scene(number), shipped_records("planted_ends").lines[number]
    truth = Truth(number, f"scene_{number}", drawn.boxes, drawn.names, [None] * len(drawn.boxes))
    methods = {"gradcam": {"layer": None}}
    line = sanity.study_image(detector, truth.photo(), truth, number, methods=methods, kinds=["ends"])
    assert line["labels"] == kept["labels"] and list(line["left"]) == list(kept["left"])
    for step, tables in line["methods"]["gradcam"]["scores"].items():
        found, wanted = (
            np.array(table, dtype=float) for table in (tables, kept["methods"]["gradcam"]["scores"][step])
        )
        np.testing.assert_allclose(found, wanted, atol=2e-3)
    ends, other = (shipped_records(name).lines for name in ("planted_ends", "planted_class"))
    for one, two in zip(ends, other, strict=True):
        first, second = (line["methods"]["dclose"]["scores"]["trained"] for line in (one, two))
        assert first == second


def shipped_records(name):
    return records_that_ship(f"sanity_{name}")


def test_the_claims_are_those_of_the_records_that_ship():
    """What notebook 07 says last."""
    ends, photos, asked, stages = map(shipped_records, ("planted_ends", "coco", "planted_class", "planted"))
    verdicts = [row[-1] for row in of_claims(sanity.claims(ends, photos, asked, stages)).rows]
    words = [word.strip("*") for word in verdicts]
    assert [words.count(word) for word in ("holds", "fails", "open")] == [9, 0, 11]
    assert [one.text() for one in sanity.place_left(ends, asked).values()][::5] == [
        "+0.08 [+0.06, +0.11]",
        "+0.00 [-0.03, +0.04]",
    ]
    tables = sanity.evidence(ends, photos, stages)
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert tables[7].rows[1][-2:] == ["0.022", "**holds**"]  # the head alone


def test_the_order_of_lines_changes_nothing_and_other_objects_are_refused():
    ends, asked = map(shipped_records, ("planted_ends", "planted_class"))
    before = sanity.place_left(ends, asked)
    np.random.default_rng(0).shuffle(asked.lines)
    assert sanity.place_left(ends, asked) == before
    asked.lines[0]["labels"] = ["dragon"] * len(asked.lines[0]["labels"])
    with pytest.raises(dc.InputError, match=r"class.jsonl' has other objects than .*ends.jsonl'"):
        sanity.place_left(ends, asked)
    del asked.lines[0]
    with pytest.raises(dc.InputError, match="has other objects"):
        sanity.place_left(ends, asked)


def test_empty_maps_and_images_without_a_match_are_left_out():
    ends, photos, asked, stages = map(shipped_records, ("planted_ends", "coco", "planted_class", "planted"))
    for known in (ends, photos, asked, stages):
        known.lines.append({"image": 999, "seed": 999, "labels": [], "left": {}, "methods": {}})
    methods = ends.lines[0]["methods"]
    empty_of_all = methods["gradcam"]["scores"]["predictions"][1]
    empty_of_all[:] = [[None] * len(column) for column in empty_of_all]
    for table in methods["dclose"]["scores"]["trained"]:
        for column in table:
            column[0] = None
    ranks = [
        rank
        for line in ends.lines[:-1]
        for table in line["methods"]["gradcam"]["scores"]["predictions"]
        for rank in table[0]
        if rank is not None
    ]
    *_, others, _, _, _ = sanity.evidence(ends, photos, stages)
    (told,) = [text for words, text in others.rows if "below 0" in words]
    assert told.split()[0] == f"{100 * np.mean(np.array(ranks) < 0):.0f}"
    assert len(sanity.claims(ends, photos, asked, stages)) == 20
    assert sanity.half_lost(sanity.objects(ends, "dclose"), "predictions").n_objects == 45  # one has no rank


def test_means_leave_out_objects_with_an_empty_map():
    a = np.random.default_rng(0).random((3, 8, 9))
    b = a.copy()
    b[1] = 0
    found = sanity.means(a, b, np.array([[1, 1, 4, 4]] * 3))
    assert found["rank"] == pytest.approx(1) and found["empty"] == 1


def test_shuffled_weights_take_the_map_away_but_not_all_of_its_place():
    """What notebook 07 says of D-CLOSE on scenes."""
    found = sanity.objects(shipped_records("planted_ends"), "dclose")
    assert not any(record["empty"]["to stem"] for record in found)
    excess = {
        step: difference(found, sanity.at("|rank|", step), sanity.at("other |rank|", step))
        for step in ("trained", "to stem")
    }
    assert excess["to stem"].low > 0 and excess["to stem"].high < 0.1
    assert excess["trained"].low > 0.2  # the check has power: the trained network's own maps agree
    assert difference(found, sanity.at("focus", "trained"), sanity.at("focus", "to stem")).low > 0.3


def test_a_bad_option_is_refused_in_one_line(tmp_path, capsys):
    for options, sentence in (
        (["--methods", "dclose,magic"], "method must be one of 'dclose'"),
        (["--kinds", "half"], "kind must be one of 'cascade', 'alone', 'ends', 'class', got 'half'"),
        (["--seeds", "0"], "seeds must be an integer of at least 1, got 0"),
        (["--limit", "0"], "limit must be an integer of at least 1, got 0"),
        (["--n-masks", "0"], "n_masks must be"),
        (["--coco", str(tmp_path)], f"'{tmp_path}/annotations/instances_val2017.json' cannot be read"),
    ):
        assert sanity.main([str(tmp_path / "out"), *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"sanity: {sentence}")
    assert not (tmp_path / "out").exists()
