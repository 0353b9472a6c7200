"""Randomised networks, and the study that compares their maps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from toys import Wired

import dclose_nb as dc
from dclose_nb.files import shipped
from dclose_nb.studies import sanity
from dclose_nb.studies.coco import Truth
from dclose_nb.studies.records import Records
from dclose_nb.studies.sanity import randomise


@pytest.fixture
def wired(lamps):
    return Wired(lamps.boxes.tolist(), lamps.class_probs.tolist())


@pytest.fixture
def truth(lamps, lit, tmp_path):
    Image.fromarray(lit).save(tmp_path / "lit.png")
    return Truth(7, str(tmp_path / "lit.png"), lamps.boxes.numpy(), ["a", "b"], [None, None])


METHODS = {"dclose": {"n_masks": 40, "segments": (4, 8)}, "drise": {"n_masks": 40, "grid": (4, 4)}}
SEED = next(k for k in range(9) if torch.randperm(8, generator=torch.Generator().manual_seed(k))[0] != 0)


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


@pytest.mark.parametrize("name", ["planted", "planted_two_stage", "yolox_nano"])
def test_stages_hold_every_parameter_once(name, request):
    detector = (
        request.getfixturevalue("yolox") if name == "yolox_nano" else dc.load_detector(name, device="cpu")
    )
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


def test_steps_of_each_kind(wired):
    assert sanity.steps(wired, "cascade") == [("switch",), ("switch", "inert")]
    assert sanity.steps(wired, "alone") == [("switch",), ("inert",)]
    assert sanity.steps(wired, "full") == [("switch", "inert")]


def test_what_cannot_be_randomised_is_refused(lamps, wired, tmp_path):
    with pytest.raises(dc.InputError, match="lamps has no parameters"):
        randomise(lamps)
    with pytest.raises(dc.InputError, match="stage must be one of 'switch', 'inert', got 'neck'"):
        randomise(wired, ["neck"])
    with pytest.raises(dc.InputError, match="kind must be one of 'cascade', 'alone', 'full', got 'half'"):
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
    line = sanity.study_image(wired, lit, truth, SEED, methods=METHODS, kinds=("cascade", "alone"))
    assert line["labels"] == ["a", "b"]
    weights = line["left"]["alone"][1]  # of lamps that shine at 250 of 255, each its own best proposal
    assert weights == pytest.approx([250 / 255] * 2, abs=1e-3)
    assert line["left"]["alone"][0] == [0, 0] and line["left"]["cascade"] == [[0, 0], [0, 0]]
    for of_method in line["methods"].values():
        assert of_method["empty"] == [False, False]
        silent, inert = of_method["scores"]["alone"]
        assert [inert] == of_method["scores"]["other masks"]  # the same network with the same masks
        assert silent == [[None] * 3] * 2
        assert of_method["scores"]["cascade"] == [silent, silent]
        assert np.array(of_method["scores"]["random map"], dtype=float).shape == (1, 2, 3)


def test_an_image_without_a_match_has_no_objects(wired, lit, truth):
    line = sanity.study_image(wired, lit, truth._replace(labels=["b", "a"]), methods=METHODS)
    assert line["labels"] == [] and line["methods"] == {}


def test_a_moved_map_is_similar_by_chance_only():
    saliency = np.random.default_rng(0).random((5, 6)).cumsum(0).cumsum(1)
    offsets = np.array([(row, column) for row in range(5) for column in range(6)])
    shifted = sanity.moved(np.broadcast_to(saliency, (30, 5, 6)), offsets)
    assert np.array_equal(shifted[0], saliency) and shifted[8, 3, 4] == saliency[2, 2]  # by (1, 2)
    assert np.mean([dc.metrics.rank_correlation(saliency, moved) for moved in shifted]) == pytest.approx(
        0, abs=1e-12
    )


def test_box_sizes_that_overflow_become_finite():
    detector = dc.load_detector("planted", device="cpu")
    with torch.no_grad():
        for layer in detector.module.head.reg_preds:
            layer.bias[2], layer.bias[3] = 200, -200  # exponents of a width and a height
    canvas = detector.prepare(dc.load_photo("scene_1"))
    proposals = detector.predict(canvas.pixels[None])
    vectors = torch.tensor([[50.0, 50, 200, 200]]), torch.eye(len(detector.class_names))[:1]
    assert proposals.boxes.isfinite().all()
    assert dc.similarity.mask_weights(proposals, *vectors).isfinite().all()


@pytest.mark.parametrize("method", ["dclose", "gradcam"])
def test_a_shuffled_network_that_overflows_gives_finite_maps(yolox, method):
    shuffled = randomise(yolox)
    image = dc.load_photo("chelsea")
    assert not shuffled.module(shuffled.prepare(image).pixels[None]).isfinite().all()
    budget = {} if method == "gradcam" else {"n_masks": 5}
    targets = dc.Targets([[50, 50, 300, 250]], ["cat"])
    maps = dc.explain(shuffled, image, targets, method=method, progress=False, **budget).saliency
    assert np.isfinite(maps).all()


@pytest.fixture
def records(tmp_path):
    """Two images of two objects and of one, in one of which nothing matched; two steps."""
    settings = {"methods": {"m": {}}, "kinds": ["cascade"]}
    found = Records(tmp_path / "records.jsonl", settings)

    def line(image, empty, *cascade):
        scores = [[[rank, 0, 0] if rank is not None else [None] * 3 for rank in step] for step in cascade]
        methods = {"m": {"empty": empty, "scores": {"cascade": scores}}}
        left = {"cascade": [[0.5] * len(empty), [0.1] * len(empty)]}
        labels = ["a"] * len(empty)
        found.append({"image": image, "seed": 0, "labels": labels, "left": left, "methods": methods})

    line(1, [False, False], [0.5, -0.3], [None, 0.2])
    line(2, [False, True], [0.1, None], [None, None])
    found.append({"image": 3, "seed": 0, "labels": [], "left": {}, "methods": {}})
    return found


def test_empty_maps_are_counted_separately(records):
    mean, low, high = sanity.likeness(records, "cascade", "m", "rank")
    assert mean == pytest.approx([0.1, 0.2])
    assert np.isnan([low, high]).all()  # of two images
    assert sanity.likeness(records, "cascade", "m", "rank", absolute=True)[0] == pytest.approx([0.3, 0.2])
    assert sanity.emptied(records, "cascade", "m") == pytest.approx([0, 2 / 3])  # of three that had a map
    assert sanity.left(records, "cascade")[0] == pytest.approx([0.5, 0.1])
    found = "4 objects of 2 images; 1 images without any."
    maps = "m: 1 maps of the trained network are empty and 2 of the 6 of shuffled ones, which saw nothing of "
    assert sanity.summary(records) == f"{found} {maps}the target."
    records.append({"image": 4, "seed": 0, "error": "torn"})
    assert sanity.left(records, "cascade")[0] == pytest.approx([0.5, 0.1])
    assert sanity.summary(records) == f"{found} 1 images could not be read. {maps}the target."
    with pytest.raises(dc.InputError, match="score must be one of 'rank', 'ssim', 'hog'"):
        sanity.likeness(records, "cascade", "m", "pearson")


@pytest.mark.slow
def test_a_stopped_run_resumes(tmp_path):
    options = {"methods": ["dclose"], "kinds": ["full"], "n_masks": 5, "limit": 1, "progress": False}
    (first,) = sanity.study_sanity(tmp_path, **options).lines
    again, reseeded = sanity.study_sanity(tmp_path, seeds=2, **options).lines
    assert again == first and [line["seed"] for line in (first, reseeded)] == [0, 10_000]
    assert first["image"] == reseeded["image"] == 0
    assert first["left"]["full"][0] != reseeded["left"]["full"][0]  # another shuffling of the same image
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
        kinds=["full"],
        n_masks=5,
        limit=2,
        coco=tmp_path / "coco",
        progress=False,
    )
    assert [(line["image"], line["seed"]) for line in records.lines] == [(5 + order[0], 0), (5 + order[1], 1)]
    assert "labels" in records.lines[0] and "20 x 12 pixels, 21 x 12 in" in records.lines[1]["error"]
    assert records.settings["annotations_sha256"] and records.settings["stages"] == ["switch", "inert"]


def test_shuffled_weights_leave_no_more_similarity_than_chance():
    records = Records(shipped("results/sanity_planted_full.jsonl"))
    weights = json.loads(shipped("weights/planted.json").read_text())["sha256"]
    assert records.settings["detector"]["weights_sha256"] == weights  # not those of an older network
    assert sum(len(line["labels"]) for line in records.lines) >= 30
    shuffled, moved, other_masks = (
        sanity.likeness(records, where, "dclose", "rank", absolute=True)[:, 0]
        for where in ("full", "moved map", "other masks")
    )
    assert shuffled[0] < 0.3
    assert shuffled[0] < moved[2]  # within the interval of chance
    assert other_masks[1] > shuffled[2]  # the check has power: the trained network's own maps agree
    assert sanity.emptied(records, "full", "dclose") == [0]


def test_a_bad_option_is_refused_in_one_line(tmp_path, capsys):
    for options, sentence in (
        (["--methods", "dclose,magic"], "method must be one of 'dclose'"),
        (["--kinds", "half"], "kind must be one of 'cascade', 'alone', 'full', got 'half'"),
        (["--seeds", "0"], "seeds must be an integer of at least 1, got 0"),
        (["--limit", "0"], "limit must be an integer of at least 1, got 0"),
        (["--n-masks", "0"], "n_masks must be"),
        (["--coco", str(tmp_path)], f"'{tmp_path}/annotations/instances_val2017.json' cannot be read"),
    ):
        assert sanity.main([str(tmp_path / "out"), *options]) == 2
        assert capsys.readouterr().err.startswith(f"sanity: {sentence}")
    assert not (tmp_path / "out").exists()
