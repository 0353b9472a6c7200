"""The ten figures on a toy picture that shows every case: the right panels, of the right maps."""

import re
from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from toys import Lamps

import dclose_nb as dc
from dclose_nb import plot
from dclose_nb.fusion import cascade, min_max
from dclose_nb.masks import SEGMENTS, superpixels
from dclose_nb.paper.cases import FigureInputs, MissingCase, Picture, PictureSource, planted_scenes
from dclose_nb.paper.figures import FIGURES, photographs
from dclose_nb.studies.conditions import CONDITIONS, MAPPED_AT

A, B, C = np.eye(3).tolist()
# box, class vector, how sure at most, what is marked there
LAMPS = [
    ([2, 2, 14, 14], A, 0.9, [([2, 2, 14, 14], "b")]),  # the wrong class
    ([20, 2, 32, 14], B, 0.95, [([24, 2, 44, 14], "b")]),  # in the wrong place
    ([2, 20, 14, 32], A, 0.6, []),  # not there
    ([20, 20, 32, 32], C, 0.8, [([20, 20, 32, 32], "c")]),  # right, and in part under
    ([26, 26, 38, 38], B, 0.7, [([26, 26, 38, 38], "b")]),  # this one, which is right too
    ([21, 21, 30, 30], A, 0.5, [([21, 21, 30, 30], "a")]),  # wholly inside the first of them
    ([42, 16, 59, 38], B, 0.4, [([42, 16, 50, 38], "b"), ([51, 16, 59, 38], "b")]),  # around two
]
MISSED = [([46, 1, 60, 15], "c")]


class Street(Lamps):
    def __init__(self, names=("a", "b", "c")):
        boxes, classes, sure, _ = zip(*LAMPS)
        super().__init__(boxes, np.array(classes) * np.array(sure)[:, None])
        self.class_names = names


def picture(name="street", marked=True):
    image = np.random.default_rng(0).integers(230, 256, (40, 60, 3), np.uint8)
    objects = [one for *_, own in LAMPS for one in own] + MISSED
    return Picture(name, lambda: image, dc.Targets(*zip(*objects)) if marked else None)


@pytest.fixture(autouse=True)
def close_figures(monkeypatch):
    monkeypatch.delenv("DCLOSE_CONDITIONS", raising=False)
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return tmp_path_factory.mktemp("maps")


@pytest.fixture
def inputs(maps):
    return FigureInputs([source()], maps, n_masks=40, progress=False)


def source(detector=None):
    return PictureSource("the street", detector or Street(), [picture()], "street", centres=[0.03, 0.06, 0.5])


def draw(number, inputs):
    _, draw = FIGURES[number]
    return draw(inputs)


def titles(figure):
    return [panel.get_title() for panel in every(figure)]


def every(figure):
    """The panels of a figure, without the bars beside them."""
    return [panel for panel in figure.get_axes() if panel.images and panel.get_label() != "<colorbar>"]


def shown(panel):
    return np.asarray(panel.images[-1].get_array())


def test_there_are_ten():
    assert sorted(FIGURES) == list(range(1, 11))


def test_1_the_procedure(inputs):
    figure, caption = draw(1, inputs)
    named = titles(figure)
    assert sum(one == "one mask" for one in named) == 5
    canvas = Street().prepare(picture().load())
    made = {n: superpixels(canvas.content_image, n).max() + 1 for n in SEGMENTS}
    assert {f"{n} superpixels\nasked, {count} made" for n, count in made.items()} <= set(named)
    assert figure.subfigs[1].get_suptitle() == f"one level: {made[150]} superpixels"
    explanation = dc.explain(Street(), picture().load(), n_masks=40, progress=False)
    k = explanation.detections.names.index("c")  # the surest that is right
    fused = every(figure)[named.index("fused: the map")]
    assert np.allclose(shown(fused), min_max(explanation.saliency[k]), atol=1e-5)
    assert np.allclose(shown(every(figure)[named.index("$S_1$")]), min_max(explanation.levels[0, k]))
    weights = [float(one.rsplit(" ", 1)[1]) for one in named if one.startswith("found, weight")]
    assert weights[0] > weights[1] and "the c (0." in caption and "street" in caption


def test_2_the_sum_over_the_density_is_the_level(inputs):
    figure, _ = draw(2, inputs)
    assert titles(figure)[::3] == [f"weighted sum, about {n} superpixels" for n in (2400, 150)]
    explanation = dc.explain(Street(), picture().load(), n_masks=40, progress=False)
    k = explanation.detections.names.index("c")
    for row, level in zip(np.reshape(every(figure), (2, 3)), (0, 4)):
        ratio, density = explanation.levels[level, k], explanation.density[level]
        for panel, expected in zip(row, (ratio * density, density, ratio)):
            assert np.allclose(shown(panel), min_max(np.asarray(expected, dtype=float)), atol=1e-5)


def test_3_the_cascade_ends_in_the_map(inputs):
    figure, caption = draw(3, inputs)
    panels = every(figure)
    assert len(panels) == 10 and panels[-1].get_title() == "$A_4$" and "A4" in caption
    explanation = dc.explain(Street(), picture().load(), n_masks=40, progress=False)
    k = explanation.detections.names.index("c")
    assert np.allclose(shown(panels[-1]), min_max(cascade(explanation.levels[:, k]).astype(float)), atol=1e-5)
    nodes = [text.get_text() for panel in panels for text in panel.texts]
    assert nodes.count("N") == 5 and nodes.count("+") == nodes.count(r"$\times$") == 4


@pytest.fixture
def scenes():
    scenes = planted_scenes(dc.load_detector("planted"))
    return replace(scenes, pictures=scenes.pictures[:2])


def test_4_the_weights_are_altered(scenes, tmp_path):
    inputs = FigureInputs([scenes], tmp_path, n_masks=40, progress=False)
    figure, caption = draw(4, inputs)
    assert titles(figure) == ["(a) ground truth", "(b) weights as trained", "(c) weights shuffled"]
    trained, altered = inputs.maps
    assert trained["detector"]["name"] == "planted" and "shuffled" in altered["detector"]["name"]
    assert altered["detector"]["before"] == scenes.detector.provenance and altered["detector"]["seed"] == 0
    assert trained["objects"] == altered["objects"] and "resembles the detection by more than" in caption
    assert not np.allclose(shown(every(figure)[1]), shown(every(figure)[2]))


def test_4_without_weights_says_so(inputs):
    with pytest.raises(MissingCase, match=r"^Lamps has no parameters to randomise\.$"):
        draw(4, inputs)
    inputs.sources[0].detector.name = "my YOLO"
    with pytest.raises(MissingCase, match=r"^My YOLO has no parameters to randomise\.$"):
        draw(4, inputs)


def test_5_two_errors_with_the_difference_of_their_maps(inputs):
    figure, caption = draw(5, inputs)
    panels = np.reshape(every(figure), (2, 4))
    assert [row[0].get_title().split("\n")[0] for row in panels] == ["wrong class", "wrong place"]
    for row in panels:
        assert np.allclose(shown(row[3]), shown(row[2]) - shown(row[1]))
    assert "wrong class: a 0." in caption and "wrong place: b 0." in caption and not inputs.notes


def test_6_missed_and_not_there(inputs):
    figure, caption = draw(6, inputs)
    first, _, second, _ = titles(figure)
    assert first.startswith("(a) missed\nc") and second.startswith("(b) not there\na")
    assert "(a) missed: c" in caption and "(b) not there: a" in caption


def test_7_overlaps(inputs):
    figure, caption = draw(7, inputs)
    assert len(titles(figure)) == 2 + 3 + 3
    assert "one b drawn around 2 in street" in caption
    assert "(b) c and b, in part" in caption and "(c) c and a, wholly" in caption
    assert [record["objects"][0][0] for record in inputs.maps] == ["b", "c", "c"]
    assert inputs.maps[1]["n_masks"] == 40


def test_8_models_stand_in_for_photographs_and_the_rest_is_named(inputs):
    figure, caption = draw(8, inputs)
    panels = np.reshape(every(figure), (3, 4))
    assert [panel.get_title() for panel in panels[0]] == ["low light", "red light", "fog", "night"]
    assert all(
        panel.get_title().startswith(called)
        for called, row in zip(("D-CLOSE", "D-RISE"), panels[1:])
        for panel in row
    )
    for name, panel in zip(("low_light", "red_light", "fog", "night"), panels[0]):
        assert np.array_equal(shown(panel), CONDITIONS[name](picture().load(), MAPPED_AT))
    assert max(len(panel.texts) for panel in panels[0]) == 2  # labels; more would cover a picture
    missing = [note.split()[0] for note in inputs.notes if "is missing" in note]
    assert missing == ["FIR", "NIR", "MIR"]
    assert sum("model" in note for note in inputs.notes) == 4 and "low light, the c in street: 0." in caption


def test_8_shows_photographs_where_there_are_any(tmp_path, monkeypatch):
    monkeypatch.setenv("DCLOSE_CONDITIONS", str(tmp_path))
    inputs = FigureInputs([source(Street(("a", "b", "car")))], tmp_path, n_masks=40, progress=False)
    for folder, name in (
        ("rtts_fog", "one.png"),
        ("kaist", "set09_1_lwir.png"),
        ("kaist", "set06_1_lwir.png"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(picture().load()).save(tmp_path / folder / name)
    figure, caption = draw(8, inputs)
    assert titles(figure)[:5] == ["low light", "red light", "fog\n(photograph)", "night", "FIR\n(photograph)"]
    assert not any(panel.title.get_parse_math() for panel in every(figure)[8:])  # a class may be called $a$
    assert "one.png" in caption and "set09_1_lwir.png" in caption  # set06 is by day


def test_8_every_panel_fills_from_folders_of_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DCLOSE_CONDITIONS", str(tmp_path))
    inputs = FigureInputs([source(Street(("a", "b", "car")))], tmp_path, n_masks=40, progress=False)
    folders = "low_light", "red_light", "fog", "kaist/images/set10/V001/visible", "fir/night", "nir", "mir"
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(picture().load()).save(tmp_path / name / f"{name[:3]}.png")
        (tmp_path / name / "README.txt").touch()
    figure, _ = draw(8, inputs)
    panels = ("low light", "red light", "fog", "night", "FIR", "NIR", "MIR")
    assert titles(figure)[:7] == [f"{name}\n(photograph)" for name in panels] and not inputs.notes


def test_8_looks_at_some_of_many_photographs(tmp_path, monkeypatch):
    monkeypatch.setenv("DCLOSE_CONDITIONS", str(tmp_path))
    (tmp_path / "nir").mkdir()
    for number in range(120):
        (tmp_path / "nir" / f"{number:03}.jpg").touch()
    found = [int(file.stem) for file in photographs()["NIR"]]
    assert found == list(range(0, 120, 3))


def test_8_without_a_folder_reads_none_where_one_works(tmp_path, monkeypatch):
    (tmp_path / "nir").mkdir()
    (tmp_path / "nir" / "1.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert not any(photographs().values())


def test_9_an_eighth_a_half_and_all_of_the_samples(inputs):
    figure, _ = draw(9, inputs)
    assert titles(figure) == [
        "D-CLOSE",
        *(f"{n} samples" for n in (5, 20, 40)),
        "D-RISE",
        *(f"{n} samples" for n in (5, 20, 40)),
    ]
    assert [(one["method"], one["n_masks"]) for one in inputs.maps] == [
        (method, n) for method in ("dclose", "drise") for n in (5, 20, 40)
    ]


def test_10_rows_are_sizes(inputs):
    figure, caption = draw(10, inputs)
    assert [one.split(" 0.")[0] for one in titles(figure)] == ["small: a", "middle: c"]
    assert inputs.notes == ["No large object was found in the street."]
    assert not any(panel.title.get_parse_math() for panel in every(figure))  # a class may be called $a$
    assert "0.030, 0.060, 0.500" in caption


@pytest.mark.slow
@pytest.mark.parametrize("number", FIGURES)
def test_a_figure_is_for_print(number, scenes, maps, tmp_path):
    """As wide as a page's text, no text smaller than 7 points, no Type 3 font, no title on another."""
    names = dict(zip("abc", ("aeroplane", "hair drier", "dining table")))
    boxes, labels = picture().truth.boxes, [names[label] for label in picture().truth.labels]
    marked = picture()._replace(truth=dc.Targets(boxes, labels))
    street = replace(source(Street(tuple(names.values()))), pictures=[marked])
    figure, _ = draw(
        number, FigureInputs([scenes if number == 4 else street], maps, n_masks=40, progress=False)
    )
    plot.save(figure, tmp_path / "figure.pdf", dpi=50)
    content = (tmp_path / "figure.pdf").read_bytes()
    _, _, width, height = map(float, re.search(rb"/MediaBox \[(.+?)\]", content)[1].split())
    assert width <= 7 * 72 and height <= 9 * 72  # points
    assert b"/CIDFontType2" in content and b"/Type3" not in content
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    for text in texts:  # an index has 0.7 of the size
        assert text.get_fontsize() >= (10 if "_" in text.get_text() else 7), text
    boxes = [panel.title.get_window_extent() for panel in every(figure)]
    assert not [one for one, other in combinations(boxes, 2) if one.overlaps(other)]


def test_a_later_source_stands_in_and_a_note_says_so(maps):
    unmarked = PictureSource("my photos", Street(), [picture("mine", marked=False)], "mine")
    inputs = FigureInputs([unmarked, source()], maps, n_masks=40, progress=False)
    draw(6, inputs)
    assert inputs.notes == [
        "No missed object was found in my photos; the street stand in.",
        "No detection of what is not there was found in my photos; the street stand in.",
    ]
    assert {record["picture"] for record in inputs.maps} == {"street"}


@pytest.mark.parametrize("number", FIGURES)
def test_nothing_found_is_said(number, tmp_path):
    dark = Picture("dark", lambda: np.zeros((40, 60, 3), np.uint8), dc.Targets([], []))
    nothing = PictureSource("the dark", Street(), [dark], "dark")
    inputs = FigureInputs([nothing], tmp_path, n_masks=40, progress=False)
    with pytest.raises(MissingCase, match="nothing to explain"):
        draw(number, inputs)
    assert all("was found in the dark." in note for note in inputs.notes) and inputs.notes
