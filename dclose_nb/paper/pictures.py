"""Pictures for the figures: where they come from, and the cases of the paper that are found in them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ..detection import Detections, Detector, Targets
from ..detectors import load_detector
from ..images import Annotated, annotated_photos, annotated_scenes, load_photo
from ..planted.scene import scene
from ..studies.coco import read_coco
from ..studies.error_analysis import Case, cases

LOOKED_AT = 500  # pictures of a data set, drawn at random: the search shall take a minute, not an hour
SIZES = (0.02, 0.5)  # share of the image that an object to explain should have, where there is one
_MORE_SCENES = ((5, "overlap", None), (17, "overlap", None), (42, "inside", None), (0, "mixed", 8))
WITHIN, FILLED = 0.7, 0.2  # share of an object inside a box that wraps it, and of the box in the object
PARTLY, WHOLLY = (0.1, 0.7), 0.95  # of the smaller of two boxes, covered by the other
ALIKE = 0.7  # of the larger box's area: what covers a smaller one wholly must not be the same box again


class Picture(NamedTuple):
    """An image to be read when it is wanted, and what people have marked in it."""

    name: str
    load: Callable[[], np.ndarray]
    truth: Targets | None = None
    crowds: Targets | None = None


class Look(NamedTuple):
    """A picture and what the detector finds in it."""

    detector: Detector
    picture: Picture
    size: tuple[int, int]
    found: Detections
    cases: list[Case]  # empty where nobody has marked anything

    @property
    def image(self) -> np.ndarray:
        return self.picture.load()

    @property
    def right(self) -> Detections:
        """Detections that find an object; all where nobody knows."""
        if self.picture.truth is None:
            return self.found
        rows = [case.row for case in self.cases if case.kind == "right"]
        return self.found[np.array(rows, dtype=int)]

    def share(self, boxes: Any) -> np.ndarray:
        """Share of the image that boxes (n, 4) take, (n,)."""
        height, width = self.size
        return _areas(np.asarray(boxes, dtype=float).clip(0, (width, height) * 2)) / (height * width)


class Subject(NamedTuple):
    """A detection to explain."""

    look: Look
    target: Detections

    @property
    def truth(self) -> Targets | None:
        """The object that it finds, where somebody has marked it."""
        for case in self.look.cases:
            if case.kind == "right" and np.array_equal(self.look.found[case.row].boxes, self.target.boxes):
                return case.truth
        return None


class Pool:
    """Pictures from one source, and a detector for them.

    Parameters
    ----------
    name : str
        What they are called in a sentence.
    detector : str or Detector
        Loaded when something is looked for.
    pictures : sequence of Picture
    identity : any
        What tells these pictures from others, as plain data.
    centres : sequence of float, optional
        Of the size groups, where the source has its own.
    """

    def __init__(
        self,
        name: str,
        detector: str | Detector,
        pictures: Sequence[Picture],
        identity: Any,
        centres: Sequence[float] | None = None,
    ) -> None:
        self.name, self.pictures, self.identity, self.centres = name, pictures, identity, centres
        self._detector = detector

    @cached_property
    def detector(self) -> Detector:
        return load_detector(self._detector)

    @cached_property
    def looks(self) -> list[Look]:
        """What is found in every picture."""
        looks = []
        for picture in tqdm(self.pictures, unit="picture", desc=self.name, leave=False, delay=2):
            image = picture.load()
            found, truth = self.detector.detect(image), picture.truth
            named = [] if truth is None else cases(found, truth, picture.crowds)
            looks.append(Look(self.detector, picture, image.shape[:2], found, named))
        return looks

    @cached_property
    def subjects(self) -> list[Subject]:
        """The surest detection of each picture, the surest first; those of a good size come before."""
        best = [max(own, key=_fitness) for look in self.looks if (own := _subjects(look))]
        return sorted(best, key=_fitness, reverse=True)

    def of_sizes(self, centres: Sequence[float]) -> list[list[Subject]]:
        """Subjects by the nearest of some centres, the surest first: one a label, one a picture."""
        groups: list[list[Subject]] = [[] for _ in centres]
        every = [subject for look in self.looks for subject in _subjects(look)]
        for subject in sorted(every, key=_score, reverse=True):
            share = subject.look.share(subject.target.boxes)[0]
            group = groups[int(np.abs(np.array(centres) - share).argmin())]
            new = {subject.target.names[0], subject.look.picture.name}
            if not any(new & {one.target.names[0], one.look.picture.name} for one in group):
                group.append(subject)
        return groups

    def case(self, kind: str) -> tuple[Look, Case] | None:
        """The plainest case of a kind of error: the surest detection, or the largest missed object."""
        found = [(look, case) for look in self.looks for case in look.cases if case.kind == kind]

        def plain(one: tuple[Look, Case]) -> tuple[bool, float]:
            look, case = one
            if case.prediction is not None:
                return True, float(case.prediction.scores[0])
            assert case.truth is not None
            share = float(look.share(case.truth.boxes)[0])
            return share <= SIZES[1], share

        return max(found, key=plain, default=None)

    def wrapping(self) -> tuple[Look, Detections, Targets] | None:
        """The surest detection whose box wraps two objects of its class or more, with these objects."""
        found = []
        for look in self.looks:
            truth = look.picture.truth
            for one in look.found if truth is not None and len(truth.labels) else ():
                assert truth is not None
                boxes = np.asarray(truth.boxes, dtype=np.float32)
                both = _common(one.boxes, boxes)[0]
                alike = np.array(truth.labels) == one.names[0]
                inside = alike & (both > WITHIN * _areas(boxes)) & (both > FILLED * _areas(one.boxes))
                if inside.sum() > 1:
                    wrapped = Targets(boxes[inside], [one.names[0]] * int(inside.sum()))
                    found.append((look, one, wrapped))
        return max(found, key=lambda one: one[1].scores[0], default=None)

    def overlapping(self, *, wholly: bool) -> Subject | None:
        """Two detections of which one covers the other in part, or wholly: the pair that is surest."""
        found = []
        for look in self.looks:
            right = look.right
            areas, shares = _areas(right.boxes), look.share(right.boxes)
            covered = _common(right.boxes, right.boxes) / np.minimum.outer(areas, areas)
            for pair in combinations(range(len(right)), 2):
                small, large = sorted(areas[list(pair)])
                nested = covered[pair] > WHOLLY and small < ALIKE * large
                fits = nested if wholly else PARTLY[0] < covered[pair] < PARTLY[1]
                if fits and shares[list(pair)].min() > SIZES[0]:
                    found.append(Subject(look, right[list(pair)]))
        return max(found, key=lambda one: one.target.scores.min(), default=None)


def _subjects(look: Look) -> list[Subject]:
    return [Subject(look, one) for one in look.right]


def _score(subject: Subject) -> float:
    return float(subject.target.scores[0])


def _fitness(subject: Subject) -> tuple[bool, float]:
    share = subject.look.share(subject.target.boxes)[0]
    return bool(SIZES[0] <= share <= SIZES[1]), _score(subject)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area that each of boxes (n, 4) has in common with each of (m, 4), (n, m)."""
    ends = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return ends.clip(0).prod(axis=2)


def of_coco(detector: str | Detector, folder: str | Path) -> Pool:
    """A folder of COCO, see `dataset.read_coco`; of a large one `LOOKED_AT` pictures drawn at random."""
    data = read_coco(folder, missing="skip")
    drawn = np.sort(np.random.default_rng(0).permutation(len(data.truths))[:LOOKED_AT])
    pictures = [
        Picture(
            Path(truth.path).name,
            partial(load_photo, Path(truth.path)),
            Targets(truth.boxes, truth.labels),
            truth.crowds,
        )
        for truth in (data.truths[k] for k in drawn)
    ]
    identity = [data.sha256, len(data.truths)]
    return Pool(f"the {len(pictures)} pictures of COCO", detector, pictures, identity, data.centres)


def of_photos(detector: str | Detector, photos: Sequence[str]) -> Pool:
    """Photos by name or path, see `photos.load_photo`, in which nobody has marked anything."""
    images = {photo: load_photo(photo) for photo in photos}
    pictures = [Picture(Path(name).name, partial(load_photo, name)) for name in images]
    identity = [hashlib.sha256(image.tobytes()).hexdigest() for image in images.values()]
    return Pool("the photos that were given", detector, pictures, identity)


def that_ship(detector: str | Detector) -> Pool:
    """Photos that ship, with boxes drawn by hand."""
    return Pool("the photos that ship", detector, _annotated(annotated_photos()), "photos that ship")


def drawn(detector: str | Detector) -> Pool:
    """Planted scenes in which the planted detector errs, objects overlap, or there are many."""
    images = annotated_scenes()
    for seed, layout, n_objects in _MORE_SCENES:
        one = scene(seed, layout=layout, n_objects=n_objects)
        images[f"scene_{seed}, {layout}"] = Annotated(one.image, Targets(one.boxes, one.names))
    return Pool("the drawn scenes", detector, _annotated(images), "drawn scenes")


def _annotated(images: dict[str, Annotated]) -> list[Picture]:
    return [Picture(name, partial(np.copy, one.image), one.truth) for name, one in images.items()]
