"""Every method on one ground: scores by passes an object, on photographs and by planted truth. Notebook 13.

``python -m dclose_nb.studies.leaderboard OUT [--coco DIR --detector NAME]``
"""

from __future__ import annotations

import math
import sys
from argparse import BooleanOptionalAction
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import checks, metrics
from ..detection import Detections, Detector
from ..explanation import explain
from ..masks import superpixels
from ..methods import METHODS, Method, make
from ..planted.rule_detector import RuleDetector
from ..planted.scene import Scene
from . import coco
from .coco import Truth, matched, study_photos
from .evaluation import ABLATION, ablated
from .inference import design_part, rounded
from .planted_truth import FIRST, LAYOUTS, STUDIED, studied_scene, truth_scores
from .records import Record, Records
from .runner import Task, detector_of, run_study, study_command, study_parser
from .sanity import COLUMNS, compare, randomise

RULES = "rules"  # name of a detector: a `RuleDetector` of each scene, with the rules of `STUDIED` in turn
PASSES = (25, 100, 400)  # forward passes an object, at which methods are compared
REGIONS = 50  # of greedy's own row, 2550 passes an object
CHEAP = 100  # passes an object up to which a second seed is drawn, and a shuffled network is asked
STEPS = 25  # of deletion and insertion
SCENES = 48  # twice each rule with each layout

Maps = tuple[np.ndarray, int]  # (n, H, W), and their forward passes


class Entry(NamedTuple):
    """A row of the leaderboard; that of D-CLOSE gives MFPP's, too, which is made of its levels."""

    method: str
    passes: int | None  # forward passes an object; None: the method's own number, for all objects

    def name(self, method: str) -> str:
        return f"{method} {self.passes or 'own'}"

    @property
    def cheap(self) -> bool:
        """Whether it takes so few passes that its maps are made again to be compared."""
        return self.passes <= CHEAP if self.passes else not has_budget(self.method)

    @property
    def random(self) -> bool:
        """Whether chance decides its maps."""
        return issubclass(METHODS[self.method], Method)

    def options(self, content: np.ndarray, n_objects: int) -> Record:
        """Options of `explain` for a canvas whose photo is `content` (h, w, 3), with so many objects.

        All objects of an image share its masks, so each pays for a part. Greedy search pays for each object
        by itself. A method that takes no fewer masks, or no more, gets the number that is nearest.
        """
        if self.method == "greedy":
            return {"regions": regions_for(content, self.passes) if self.passes else REGIONS}
        if self.passes is None:
            return {}
        made = make(self.method)
        fewest = getattr(made, "least", 0) * len(getattr(made, "counts", ()))
        return {"n_masks": min(max(self.passes * n_objects, fewest, 1), made.most or sys.maxsize)}


def regions_for(content: np.ndarray, passes: int) -> int:
    """How many superpixels to ask for, so that greedy search takes as many passes as it may, and no more.

    It takes m (m + 1) for the m superpixels that SLIC makes of an image (h, w, 3), often fewer than asked.
    """

    def fits(asked: int) -> bool:
        made = superpixels(content, asked).max() + 1
        return bool(made * (made + 1) <= passes)

    asked = int(math.sqrt(passes + 0.25) - 0.5)
    while asked > 1 and not fits(asked):
        asked -= 1
    while fits(asked + 1):
        asked += 1
    return asked


def entries(detector: Detector, passes: Sequence[int] = PASSES, *, own: bool = True) -> list[Entry]:
    """Each method at each of `passes` and, unless not `own`, at its own number.

    A method that cannot be asked for a number has its own alone.
    """
    listed = []
    for name in METHODS:
        if has_budget(name) and name not in ABLATION:
            listed += [Entry(name, budget) for budget in (*([None] if own else []), *passes)]
        elif not has_budget(name) and detector.feature_layers:
            listed.append(Entry(name, None))
    return listed


def has_budget(method: str) -> bool:
    """Whether a method can be asked for a number of passes; those of gradients take one for all objects."""
    return method == "greedy" or issubclass(METHODS[method], Method)


def study_image(
    detector: Detector,
    image: np.ndarray,
    truth: Truth,
    *,
    passes: Sequence[int],
    own: bool,
    steps: int,
    drawn: Scene | None = None,
) -> Record:
    """Score the maps of all `entries` for the matched detections of one image (H, W, 3).

    Returns ``objects`` as `coco.matched` does. Each has by the entry's name ``passes``, forward passes an
    object; ``over_all``, ``insertion``, ``deletion``, ``ebpg``, ``pointing`` and ``sparsity``; for an image
    that was `drawn` those of `planted_truth.truth_scores`; ``agreement``, the rank correlation with the map
    of a second seed; and ``shuffled`` and ``by_chance``, of the map from the network with shuffled weights,
    "|rank|" and "moved |rank|" of `sanity.compare`. These three are measured for cheap entries only: the
    first if chance decides the maps, the others if the image was drawn and the detector has weights. They are
    None otherwise, and if a map is empty.
    """
    canvas = detector.prepare(image)
    # boxes that deletion and insertion can see, since they suppress over all classes
    targets, truths, objects = matched(detector.detect_on(canvas, class_agnostic=True), truth, image.shape)
    if not objects:
        return {"objects": []}
    true_scores = shuffled = None
    if drawn is not None:
        true_scores = [truth_scores(detector, drawn, number, one) for number, one in zip(truths, targets)]
        shuffled = randomise(detector, seed=truth.image) if detector.stages else None
    for entry in entries(detector, passes, own=own):
        first = _maps(detector, image, targets, entry, 0)
        # masks of another seed each: the same ones would share their noise
        second = _maps(detector, image, targets, entry, 1) if entry.cheap and entry.random else {}
        lost = _maps(shuffled, image, targets, entry, 1) if entry.cheap and shuffled else {}
        for name, (maps, n_forward) in first.items():
            curves = metrics.curves(detector, canvas, targets, maps, steps=steps)
            again = _comparisons(maps, second.get(name), lost.get(name), targets)
            for k, number in enumerate(truths):
                deletion, insertion = (curves[kind][k].score for kind in metrics.OVER_ALL)
                values = {
                    "passes": n_forward / len(targets),
                    "over_all": insertion - deletion,
                    "insertion": insertion,
                    "deletion": deletion,
                    "ebpg": metrics.ebpg(maps[k], truth.boxes[number]),
                    "pointing": metrics.pointing_game(maps[k], truth.boxes[number]),
                    "sparsity": metrics.sparsity(maps[k]),
                }
                values |= true_scores[k](maps[k]) if true_scores else {}
                values |= {score: numbers[k] for score, numbers in again.items()}
                objects[k]["methods"][name] = {score: rounded(value) for score, value in values.items()}
    return {"objects": objects}


def _comparisons(
    maps: np.ndarray, second: Maps | None, lost: Maps | None, targets: Detections
) -> dict[str, np.ndarray]:
    """``agreement``, ``shuffled`` and ``by_chance`` of maps (n, H, W), (n,) each; see `study_image`."""
    found = dict.fromkeys(("agreement", "shuffled", "by_chance"), np.full(len(maps), np.nan))
    if second is not None:
        found["agreement"] = np.array(list(map(metrics.rank_correlation, maps, second[0])))
    if lost is not None:
        table, _ = compare(maps, lost[0], targets.boxes, np.zeros((1, 2), dtype=int))
        for score, column in (("shuffled", "|rank|"), ("by_chance", "moved |rank|")):
            found[score] = table[COLUMNS.index(column)]
    return found


def _maps(
    detector: Detector, image: np.ndarray, targets: Detections, entry: Entry, seed: int
) -> dict[str, Maps]:
    """Maps of an entry by its name; MFPP's beside D-CLOSE's."""
    canvas = detector.prepare(image)
    options = entry.options(canvas.content_image, len(targets))
    e = explain(detector, image, targets, method=entry.method, seed=seed, progress=False, **options)
    found = {entry.name(entry.method): (e.saliency, e.n_forward)}
    if entry.method == "dclose":
        found[entry.name("mfpp")] = ablated(e, canvas, "mfpp"), e.n_forward
    return found


def study(
    out: str | Path,
    *,
    coco_folder: str | Path | None = None,
    detector: str = "planted",
    passes: Sequence[int] = PASSES,
    own: bool = True,
    steps: int = STEPS,
    limit: int | None = None,
    **run_options: Any,
) -> Records:
    """Study the report part of a data set, or planted scenes, or resume a run that was stopped.

    Parameters
    ----------
    out : path
        Folder, see `runner.run_study`; a line has ``image``, of rules ``rule``, and what `study_image`
        returns.
    coco_folder : path, optional
        Holds ``val2017/`` and ``annotations/``. By default planted scenes are studied, from number `FIRST`
        on, with `LAYOUTS` in turn.
    detector : str
        See `load_detector`, or `RULES` for planted scenes.
    passes, own, steps
        See `entries` and `study_image`.
    limit : int, optional
        Only the first so many images in random order, or scenes (by default `SCENES`).
    **run_options
        ``workers``, ``executor`` and ``progress`` of `runner.run_study`, whose errors are raised here too.
    """
    checks.instance("own", own, bool)
    if not passes and not own:
        raise checks.InputError("name at least one number of passes, or ask for each method's own")
    settings: Record = {
        "passes": [checks.at_least("passes", number, 2) for number in passes],  # greedy search takes two
        "own": own,
        "steps": checks.at_least("steps", steps, 1, largest=metrics.MOST_STEPS),
    }
    if coco_folder is not None:
        data, design = coco.read_coco(coco_folder), design_part("images")
        data = data._replace(truths=[truth for truth in data.truths if truth.image not in design])
        work = partial(study_image, **settings)
        return study_photos(detector, data, out, work, settings, limit=limit, **run_options)
    if detector == RULES:
        known: Record = {"name": RULES, "rules": STUDIED}
    else:
        loaded = detector_of(detector)
        known = {"name": loaded.name, **loaded.provenance}
    count = checks.at_least("limit", SCENES if limit is None else limit, 1)
    tasks = [Task({"image": number}, (detector, number, settings)) for number in range(FIRST, FIRST + count)]
    return run_study(
        out, {"detector": known, "layouts": LAYOUTS} | settings, tasks, _study_scene, **run_options
    )


def _study_scene(detector: str, number: int, settings: Record) -> Record:
    drawn = studied_scene(number)
    truth = Truth(number, "", drawn.boxes, drawn.names, [])
    if detector != RULES:
        return study_image(detector_of(detector), drawn.image, truth, drawn=drawn, **settings)
    rule = STUDIED[number // len(LAYOUTS) % len(STUDIED)]
    return {"rule": rule} | study_image(
        RuleDetector(drawn, rule), drawn.image, truth, drawn=drawn, **settings
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = study_parser("leaderboard", "Score every method at its own and at equal numbers of passes.")
    parser.add_argument("--coco", dest="coco_folder", metavar="DIR", help="default: planted scenes")
    parser.add_argument("--detector", default="planted", help="or 'rules'; default: %(default)s")
    parser.add_argument("--passes", nargs="*", type=int, default=PASSES, metavar="N", help="an object")
    own = "also each method's own number of passes (default)"
    parser.add_argument("--own", action=BooleanOptionalAction, default=True, help=own)
    parser.add_argument("--limit", type=int, metavar="N", help="only N images, in random order, or scenes")
    options = vars(parser.parse_args(arguments))
    return study_command("leaderboard", lambda: study(**options).path)


if __name__ == "__main__":
    sys.exit(main())
