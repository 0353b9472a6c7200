"""An exercise's check does not pass the cell as it stands, and passes the folded answer."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb import exercises
from dclose_nb.metrics import rank_correlation

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def cells_of(name):
    """The cell of an exercise, its folded answer, and the notebook's code before."""
    (path,) = NOTEBOOKS.glob(f"{name[:2]}_*.ipynb")
    before = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["id"] == f"{name[:2]}-x{name[3:]}c":
            asked = source
        elif cell["id"] == f"{name[:2]}-x{name[3:]}a":
            (answer,) = re.findall(r"```python\n(.*?)```", source, re.S)
            return asked, answer, before
        elif cell["cell_type"] == "code":
            before.append(source)
    raise AssertionError(f"{path.name} has no exercise {name}")


@pytest.mark.parametrize("name", exercises.EXERCISES)
def test_the_unsolved_cell_does_not_pass_and_the_answer_does(name, capsys):
    asked, answer, before = cells_of(name)
    reader = {}
    exec(before[0], reader)  # its imports
    for source in before[1:]:
        if re.search(r"^def scaled", source, re.M):
            exec(source.split("\n\n")[0], reader)
    exec("from dclose_nb.exercises import check", reader)
    exec(asked, reader)
    assert capsys.readouterr().out == f"{name}: not answered yet.\n"
    (question,) = re.findall(r"^check\(.*\)$", asked, re.M)
    exec(f"{answer}\n{question}", reader)
    assert capsys.readouterr().out == f"{name}: right.\n"


def _weight_without_clip(boxes, objectness, classes, box, kind):
    shared = (np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    cosine = classes @ kind / np.linalg.norm(classes, axis=1) / np.linalg.norm(kind)
    return (shared / (areas - shared) * objectness * cosine).max()


def _deletes_in_place(score, image, saliency, steps):
    """The photo itself turns black."""
    scores = [score(image)]
    for pixels in np.argsort(-saliency, axis=None).reshape(steps, -1):
        image.reshape(-1, 3)[pixels] = 0
        scores.append(score(image))
    return np.trapezoid(scores, dx=1 / steps)


WRONG = {
    "00-1": [480, 61, "sixty"],
    "00-2": [np.ones((320, 320)), np.ones((1, 320, 320)), ~dc.planted.scene(4, n_objects=1).causal_masks[0]],
    "00-3": [lambda saliency: np.unravel_index(saliency.argmax(), saliency.shape), lambda saliency: (0, 0)],
    "01-1": [0.2, 80, "half", [0.8]],
    "01-2": [[[1, 1, 1, 0, 0, 0]] * 4, 1],
    "01-3": [
        lambda labels, p, rng: (rng.random(labels.shape) < p).astype(int),  # each pixel by itself
        lambda labels, p, rng: (rng.random(3) > p)[labels],  # hidden with p
        lambda labels, p, rng: labels * 0 + (rng.random() < p),  # all together
    ],
    "02-1": [0.8, 0.4],  # without an IoU; the half that is shared for the IoU
    "02-2": [0.9, 0.6],
    "02-3": [
        lambda boxes, objectness, *_: objectness.max(),
        lambda *_: 1 / 0,
        _weight_without_clip,  # two negative lengths have a positive product
    ],
    "03-1": [20, 80, 4],
    "03-2": [(0.5, 1.0), (1.0, 0.0)],
    "03-3": [lambda masks, weights: masks.mean(0), lambda masks, weights: np.tensordot(weights, masks, 1)],
    "04-1": [1, 0.5],
    "04-2": [0.25, 0.75, 1],
    "04-3": [lambda levels: levels.mean(0), lambda levels: dc.fusion.cascade(levels[::-1])],
    "05-1": [["wrong class", "right", "wrong place", "not there"], "other"],
    "05-2": [76, 152],
    "05-3": [
        lambda maps, again: np.abs(maps[1] - maps[0]).mean() - np.abs(maps[1] - again[1]).mean(),
        lambda maps, again: np.abs(maps - again[::-1]).mean(),
    ],
    "06-1": [0.05, 1 / 20**0.25],
    "06-2": [0.5, 0.9, "dark"],
    "06-3": [lambda bad, clear: 0, lambda bad, clear: rank_correlation(bad[0], clear[0])],
    "07-1": [0, 0.25],
    "07-2": ["predictions", "stem", "dark6", 5],
    "07-3": [
        lambda saliency, inside: saliency[inside].mean(),
        lambda saliency, inside: np.mean(saliency[inside][:, None] > saliency[~inside]),
    ],
    "08-1": [[20, 0.75], [5, 0.25]],
    "08-2": [np.ones((240, 320)), np.eye(240, 320), np.pad([[1]], ((100, 0), (100, 0)))],
    "08-3": [
        lambda score, image, saliency, steps: score(image) / 2,
        _deletes_in_place,
    ],
    "09-1": [[0.8, 0.2], [0.5, 0.5]],
    "09-2": [{"method": "drise", "n_masks": 100}, {"method": "sodex"}, "sodex"],
    "09-3": [
        lambda value, n: [value([1] * n) / n] * n,
        lambda value, n: [value([k == j for j in range(n)]) for k in range(n)],  # each alone
    ],
    "10-1": [0.2, [1, 4, 2, 3]],
    "10-2": [
        {"method": "dclose", "n_masks": 100},
        {"method": "regression", "n_masks": 200},
        {"method": "regression"},
        "regression",
    ],
    "10-3": [
        lambda maps, box: dc.metrics.rank_correlation(maps[0], maps[1]),  # of the whole image
        lambda maps, box: dc.metrics.rank_correlation(*maps[:2, box[0] : box[2], box[1] : box[3]]),
    ],
    "11-1": [0.25, 40 / 340],
    "11-2": [{"method": "dclose", "n_masks": 50}, {"method": "regression", "n_masks": 200}, 0.18],
    "11-3": [
        lambda saliency, own, other: saliency[other].sum() / saliency.sum(),
        lambda saliency, own, other: saliency[other].sum() / saliency[own | other].sum(),
        lambda saliency, own, other: 0.5,
    ],
    "12-1": [120, 0.043, "240 masks"],
    "12-2": [(45, 50), (105, 263), (-130, 128), (128, 190), "stone", (1000, 1000)],  # plane, other stone, ...
    "12-3": [
        lambda estimate, kept, weights, groups: np.std(  # without the factor
            [estimate(kept[k::groups], weights[k::groups]) for k in range(groups)], axis=0
        ),
        lambda estimate, kept, weights, groups: estimate(kept, weights),
    ],
    "13-1": [[100, 9], [800, 10], 800],
    "13-2": [
        {"method": "dclose", "n_masks": 60},
        {"method": "regression", "n_masks": 200},
        {"method": "greedy", "regions": 7},
        "regression",
    ],
    "13-3": [
        lambda known: (known == known.max(axis=0)).mean(axis=1),  # counts a tie twice
        lambda known: np.eye(3)[known.argmax(axis=0)].mean(axis=0),
    ],
}


@pytest.mark.parametrize(
    ("name", "answer"), [(name, wrong) for name, all_ in WRONG.items() for wrong in all_]
)
def test_a_wrong_answer_gets_a_hint_and_no_traceback(name, answer, capsys):
    exercises.check(name, answer)
    assert capsys.readouterr().out == f"{name}: not yet. {exercises.EXERCISES[name].hint}\n"


def test_every_exercise_has_wrong_answers():
    assert WRONG.keys() == exercises.EXERCISES.keys()


def test_an_unknown_exercise_is_named():
    with pytest.raises(dc.InputError, match="name must be one of '00-1'"):
        exercises.check("99-1", 1)
