"""What the figures show: pictures, the cases of the paper that are found in them, and their maps."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm.auto import tqdm

from ..checks import InputError
from ..detection import Detections, Detector, Targets, float_array
from ..explanation import Explanation, explain, versions
from ..images import Annotated, annotated_photos, annotated_scenes, load_photo
from ..methods import make
from ..planted.scene import scene
from ..studies.coco import box_areas, intersections, read_coco
from ..studies.error_analysis import Case, cases
from ..studies.records import Record

LIMIT = 500  # pictures of a data set, so that detection in all of them takes a minute, not an hour
AREAS = (0.02, 0.5)  # share of the image that an object to explain should have, where there is one
_MORE_SCENES = ((5, "overlap", None), (17, "overlap", None), (42, "inside", None), (0, "mixed", 8))
WITHIN, FILLED = 0.7, 0.2  # share of an object inside a box that wraps it, and of the box in the object
PARTLY, WHOLLY = (0.1, 0.7), 0.95  # of the smaller of two boxes, covered by the other
ALIKE = 0.7  # of the larger box's area: what covers a smaller one wholly must not be the same box again

Found = TypeVar("Found")
Search = Callable[[list["DetectedPicture"]], Found | None]


class MissingCase(Exception):
    """There is nothing to draw a figure of; the message is a sentence that says why."""


class Picture(NamedTuple):
    """An image that is read when it is needed, and what people have marked in it."""

    name: str
    load: Callable[[], np.ndarray]
    truth: Targets | None = None
    crowds: Targets | None = None


class DetectedPicture(NamedTuple):
    """A picture and what a detector finds in it."""

    detector: Detector
    picture: Picture
    size: tuple[int, int]  # height and width
    detections: Detections
    cases: list[Case]  # empty where nobody has marked anything

    @property
    def name(self) -> str:
        return self.picture.name

    @property
    def image(self) -> np.ndarray:
        return self.picture.load()

    @property
    def true_positives(self) -> Detections:
        """Detections that find an object; all of them where nobody has marked any."""
        if self.picture.truth is None:
            return self.detections
        rows = [case.row for case in self.cases if case.kind == "right"]
        return self.detections[np.array(rows, dtype=int)]

    def area_shares(self, boxes: Any) -> np.ndarray:
        """Share of the image that boxes (n, 4) take, (n,) in [0, 1]."""
        height, width = self.size
        return box_areas(np.asarray(boxes, dtype=float).clip(0, (width, height) * 2)) / (height * width)


class Candidate(NamedTuple):
    """Detections of one picture that a figure can explain."""

    picture: DetectedPicture
    target: Detections
    truth: Targets | None = None  # what people have marked there

    @property
    def score(self) -> float:
        """Of the least sure detection."""
        return float(self.target.scores.min())

    @property
    def fitness(self) -> tuple[bool, float]:
        """Whether the first object has a good size, then its score: highest for what a figure should show."""
        share = self.picture.area_shares(self.target.boxes)[0]
        return bool(AREAS[0] <= share <= AREAS[1]), self.score


def detect(detector: Detector, picture: Picture) -> DetectedPicture:
    """Detect the objects of a picture, and sort them into cases where its truth is known."""
    image = picture.load()
    found = detector.detect(image)
    named = [] if picture.truth is None else cases(found, picture.truth, picture.crowds)
    return DetectedPicture(detector, picture, image.shape[:2], found, named)


@dataclass(frozen=True)
class PictureSource:
    """Pictures from one place, and a detector for them."""

    name: str  # what the pictures are called in a sentence
    detector: Detector
    pictures: Sequence[Picture]
    identity: Any  # what tells these pictures from others, as plain data
    centres: Sequence[float] | None = None  # of the size groups, where the source has its own
    progress: bool = True

    @cached_property
    def detected(self) -> list[DetectedPicture]:
        """What is found in every picture."""
        bar = tqdm(
            self.pictures,
            unit="picture",
            desc=self.name,
            leave=False,
            delay=2,
            disable=not self.progress,
        )
        return [detect(self.detector, picture) for picture in bar]


def from_coco(detector: Detector, folder: str | Path, *, limit: int = LIMIT) -> PictureSource:
    """A folder of COCO, see `coco.read_coco`; of a large one `limit` pictures drawn at random."""
    data = read_coco(folder, missing="skip")
    pictures = []
    for k in np.sort(np.random.default_rng(0).permutation(len(data.truths))[:limit]):
        truth = data.truths[k]
        objects = Targets(truth.boxes, truth.labels)
        pictures.append(Picture(Path(truth.path).name, truth.photo, objects, truth.crowds))
    identity = [data.sha256, len(data.truths)]
    return PictureSource(f"the {len(pictures)} pictures of COCO", detector, pictures, identity, data.centres)


def from_photos(detector: Detector, photos: Sequence[str]) -> PictureSource:
    """Photos by name or path, see `images.load_photo`, in which nobody has marked anything."""
    pictures = [Picture(Path(name).name, partial(load_photo, name)) for name in dict.fromkeys(photos)]
    identity = [hashlib.sha256(picture.load().tobytes()).hexdigest() for picture in pictures]
    return PictureSource("the photos that were given", detector, pictures, identity)


def shipped_photos(detector: Detector) -> PictureSource:
    """Photos that ship, with boxes drawn by hand."""
    return PictureSource("the photos that ship", detector, _annotated(annotated_photos()), "photos that ship")


def planted_scenes(detector: Detector) -> PictureSource:
    """Planted scenes in which the planted detector errs, objects overlap, or there are many."""
    images = annotated_scenes()
    for seed, layout, n_objects in _MORE_SCENES:
        drawn = scene(seed, layout=layout, n_objects=n_objects)
        images[f"scene_{seed}, {layout}"] = Annotated(drawn.image, Targets(drawn.boxes, drawn.names))
    return PictureSource("the drawn scenes", detector, _annotated(images), "drawn scenes")


def _annotated(images: dict[str, Annotated]) -> list[Picture]:
    return [Picture(name, partial(np.copy, shown.image), shown.truth) for name, shown in images.items()]


# -- what is looked for in the pictures of a source


def surest(pictures: Sequence[DetectedPicture]) -> list[Candidate]:
    """The surest detection of each picture, the surest first; those of a good size come before."""
    best = [max(own, key=attrgetter("fitness")) for picture in pictures if (own := _each(picture))]
    return sorted(best, key=attrgetter("fitness"), reverse=True)


def of_size(pictures: Sequence[DetectedPicture], centres: Sequence[float], group: int) -> list[Candidate]:
    """Objects to whose size centre number `group` is nearest, surest first: one a label, one a picture."""
    chosen: list[Candidate] = []
    every = [candidate for picture in pictures for candidate in _each(picture)]
    for candidate in sorted(every, key=attrgetter("score"), reverse=True):
        share = candidate.picture.area_shares(candidate.target.boxes)[0]
        label, picture = candidate.target.names[0], candidate.picture
        old = any(label == other.target.names[0] or picture is other.picture for other in chosen)
        if not old and np.abs(np.array(centres) - share).argmin() == group:
            chosen.append(candidate)
    return chosen


def plainest(pictures: Sequence[DetectedPicture], kind: str) -> tuple[DetectedPicture, Case] | None:
    """The plainest case of a kind of error: the surest detection, or the largest missed object."""
    found = [(picture, case) for picture in pictures for case in picture.cases if case.kind == kind]

    def plain(pair: tuple[DetectedPicture, Case]) -> tuple[bool, float]:
        picture, case = pair
        if case.prediction is not None:
            return True, float(case.prediction.scores[0])
        assert case.truth is not None
        share = float(picture.area_shares(case.truth.boxes)[0])
        return share <= AREAS[1], share

    return max(found, key=plain, default=None)


def wrapping(pictures: Sequence[DetectedPicture]) -> Candidate | None:
    """The surest detection whose box wraps two objects of its class or more, with these as its truth."""
    found = []
    for picture in pictures:
        truth = picture.picture.truth or Targets((), ())
        boxes, labels = float_array("boxes", truth.boxes, (4,)), np.array(truth.labels, dtype=str)
        for detection in picture.detections:
            box, name = detection.boxes, detection.names[0]
            common = intersections(box, boxes)[0]
            inside = (common > WITHIN * box_areas(boxes)) & (common > FILLED * box_areas(box))
            inside &= labels == name
            if inside.sum() > 1:
                wrapped = Targets(boxes[inside], [name] * int(inside.sum()))
                found.append(Candidate(picture, detection, wrapped))
    return max(found, key=attrgetter("score"), default=None)


def overlapping(pictures: Sequence[DetectedPicture], *, wholly: bool) -> Candidate | None:
    """Two detections of which one covers the other in part, or wholly: the pair that is surest."""
    found = []
    for picture in pictures:
        detections = picture.true_positives
        areas, shares = box_areas(detections.boxes), picture.area_shares(detections.boxes)
        covered = intersections(detections.boxes, detections.boxes) / np.minimum.outer(areas, areas)
        for pair in combinations(range(len(detections)), 2):
            small, large = sorted(areas[list(pair)])
            nested = covered[pair] > WHOLLY and small < ALIKE * large
            fits = nested if wholly else PARTLY[0] < covered[pair] < PARTLY[1]
            if fits and shares[list(pair)].min() > AREAS[0]:
                found.append(Candidate(picture, detections[list(pair)]))
    return max(found, key=attrgetter("score"), default=None)


def _each(picture: DetectedPicture) -> list[Candidate]:
    """Every true positive of a picture, with the object that it finds."""
    detections = picture.true_positives
    truths = [case.truth for case in picture.cases if case.kind == "right"] or [None] * len(detections)
    return [Candidate(picture, *pair) for pair in zip(detections, truths)]


# -- what a figure is made from


@dataclass
class FigureInputs:
    """What a figure is made from: cases that are found in pictures, and explanations, which are kept."""

    sources: Sequence[PictureSource]  # where a case is looked for, one after the other
    folder: Path  # explanations are kept in its folder ``maps``, so that a stopped run goes on with them
    n_masks: int | None = None  # budget of each explanation, by default the methods' own
    seed: int = 0
    progress: bool = True
    notes: list[str] = field(default_factory=list)  # which pictures stand in for others, what is missing
    maps: list[Record] = field(default_factory=list)  # how each explanation was made

    def find(self, searches: Mapping[str, Search[Found]]) -> dict[str, Found]:
        """What each search finds, in the first source where it finds any, by the searches' names.

        Notes say where a later source stands in, and what is missing. `MissingCase` where all is.
        """
        found, first = {}, self.sources[0]
        for what, search in searches.items():
            for source in self.sources:
                if result := search(source.detected):
                    found[what] = result
                    if source is not first:
                        self.notes.append(f"No {what} was found in {first.name}; {source.name} stand in.")
                    break
            else:
                names = " or ".join(source.name for source in self.sources)
                self.notes.append(f"No {what} was found in {names}.")
        if not found:
            raise MissingCase("There is nothing to explain.")
        return found

    def candidate(self, number: int, labels: Collection[str] = ()) -> Candidate:
        """A detection to explain, of one of some labels where there is one.

        Other numbers give other pictures, as far as there are enough. `MissingCase` where there is none.
        """
        candidates = self.find({"detection": surest})["detection"]
        wanted = [candidate for candidate in candidates if candidate.target.names[0] in labels] or candidates
        return wanted[number % len(wanted)]

    def explain(
        self, candidate: Candidate, *, method: str = "dclose", n_masks: int | None = None
    ) -> Explanation:
        """Explain a candidate, or read the explanation that was made before."""
        picture, target, _ = candidate
        image = picture.image
        options = asdict(make(method, n_masks=n_masks or self.n_masks))
        detector = {"name": picture.detector.name, **picture.detector.provenance}
        arrays = image, target.boxes, target.objectness, target.class_probs
        decisive = [detector, target.class_names, versions()["dclose_nb"], method, options, self.seed]
        decisive += [image.shape, *(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays)]
        key = hashlib.sha256(json.dumps(decisive, default=str).encode()).hexdigest()[:20]
        folder = self.folder / "maps" / key
        try:
            explanation = Explanation.load(folder)
        except InputError:  # there is none, or it is damaged
            shutil.rmtree(folder, ignore_errors=True)
            options |= {"method": method, "seed": self.seed, "progress": self.progress}
            explanation = explain(picture.detector, image, target, **options)
            explanation.save(folder)
        record = {
            "picture": picture.name,
            "objects": [f"{label} {score:.2f}" for label, score in zip(target.names, target.scores)],
            "detector": detector,
            "method": method,
            "n_masks": explanation.params["n_masks"],
            "seed": explanation.seed,
            "n_forward": explanation.n_forward,
            "seconds": round(explanation.seconds, 1),
        }
        self.maps.append(record)
        return explanation
