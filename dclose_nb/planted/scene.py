"""Drawn scenes, in which the pixels that make each object are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np

from .. import checks
from ..checks import InputError
from ..detection import Targets
from .shapes import CLASS_NAMES, CONTEXT_CLASS, CONTEXT_GROUND, RECIPES

GROUNDS = {
    "meadow": (92, 138, 62),
    "road": (118, 118, 122),
    "sand": (206, 184, 136),
    "snow": (228, 232, 238),
    "water": (58, 104, 140),
}
SKIES = ((150, 190, 230), (196, 208, 220), (228, 190, 160), (110, 130, 160))
LAYOUTS = {"mixed": 0, "decoy": 2, "overlap": 2, "inside": 2, "out of place": 1}  # objects that it plans

SMALLEST, LARGEST = 0.09, 0.55  # an object's longer side as a share of the image's
OFF_CONTEXT = 0.05  # how often a cow stands elsewhere than on a meadow
MOST_COVERED = 0.2  # share of the smaller of two boxes that the other may cover
_SHIFT = 4  # polygon corners are placed to a fraction of a pixel of 4 bits


class Part(NamedTuple):
    """A part of an object: its role in the truth, and its visible pixels."""

    name: str
    role: str  # see shapes.py
    mask: np.ndarray  # (H, W) bool


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn image and its truth."""

    image: np.ndarray  # (H, W, 3) uint8 RGB, nowhere 0
    boxes: np.ndarray  # (n, 4) float32 x1, y1, x2, y2 in pixels, around what is visible of each object
    labels: np.ndarray  # (n,) int, indices into `class_names`
    owner: np.ndarray  # (H, W) int: 0 for the background, else 1 + the index in `drawn`
    drawn: list[tuple[int, str, str]]  # object, name and role of every part; object -1 is a distractor
    ground: str  # a key of `GROUNDS`
    horizon: int  # first row of the ground
    plan: tuple[Any, ...]  # seed, n_objects, size and layout, as `scene` was given them
    class_names: ClassVar = CLASS_NAMES

    @cached_property
    def parts(self) -> list[list[Part]]:
        """The visible parts of each object, in the order in which they were drawn."""
        return [self._parts_of(k) for k in range(len(self.boxes))]

    @cached_property
    def causal_masks(self) -> np.ndarray:
        """Pixels of each object's visible parts, (n, H, W) bool: what should cause its detection."""
        return np.array([np.logical_or.reduce([part.mask for part in parts]) for parts in self.parts])

    @cached_property
    def distractors(self) -> list[Part]:
        """Inert objects that belong to no class."""
        return self._parts_of(-1)

    @property
    def ground_mask(self) -> np.ndarray:
        """Visible pixels of the ground, (H, W) bool: the context of the objects on it."""
        return (self.owner == 0) & (np.arange(len(self.owner))[:, None] >= self.horizon)

    @property
    def names(self) -> list[str]:
        """Name of each object's class."""
        return [self.class_names[label] for label in self.labels]

    @property
    def targets(self) -> Targets:
        """The true boxes and labels as targets to explain."""
        return Targets(self.boxes, self.labels.tolist())

    def without(self, number: int, part: str) -> np.ndarray:
        """The image (H, W, 3), drawn again without a part of object `number`: it shows what lies behind.

        All else is the same to the bit. An object without such a visible part raises `InputError`.
        """
        checks.at_least("number", number, 0, largest=len(self.boxes) - 1)
        checks.choice("part", part, [known.name for known in self.parts[number]])
        return _draw(self.plan, (number, part)).image

    def _parts_of(self, number: int) -> list[Part]:
        found = (
            Part(name, role, self.owner == 1 + k)
            for k, (owner, name, role) in enumerate(self.drawn)
            if owner == number
        )
        return [part for part in found if part.mask.any()]


def scene(seed: int, *, n_objects: int | None = None, size: int = 320, layout: str = "mixed") -> Scene:
    """Draw scene number `seed`; the same number gives the same scene to the bit.

    Parameters
    ----------
    seed : int
        0 or more.
    n_objects : int, optional
        By default 1 to 5, drawn at random.
    size : int
        Height and width in pixels, 64 to 1024.
    layout : str
        "mixed": what detectors are trained on. "decoy": two objects of one class, apart.
        "overlap": two of one class, one in front of the other. "inside": a person at the foot of
        a house. "out of place": a cow away from its meadow. The last four have two, two, two and
        one object unless `n_objects` asks for more; the rest is mixed.

    Raises
    ------
    InputError
        A parameter out of range, or more objects than fit.

    Examples
    --------
    >>> scene(7).image.shape
    (320, 320, 3)
    """
    checks.at_least("seed", seed, 0)
    checks.at_least("size", size, 64, largest=1024)  # the ground's texture has no more
    planned = LAYOUTS[checks.choice("layout", layout, LAYOUTS)]
    if n_objects is not None:
        checks.at_least("n_objects", n_objects, max(planned, 1), largest=1000)  # more take minutes to refuse
    return _draw((seed, n_objects, size, layout))


def _draw(plan: tuple[Any, ...], removed: tuple[int, str] | None = None) -> Scene:
    """Draw a scene; the part that is `removed`, of object and name, keeps its place in the truth."""
    seed, n_objects, size, layout = plan
    rng = np.random.default_rng(seed)
    if n_objects is None:
        n_objects = LAYOUTS[layout] or int(rng.integers(1, 6))
    stage = _Stage(rng, size, layout, removed)
    return stage.finish(stage.plant(n_objects), plan)


class _Object(NamedTuple):
    name: str
    x: float  # left edge
    y: float  # upper edge
    width: float
    height: float

    def foot(self) -> float:
        """Its lower edge. The lower it is, the nearer the object stands."""
        return self.y + self.height


class _Stage:
    """Draws a scene."""

    def __init__(self, rng: np.random.Generator, size: int, layout: str, removed: object) -> None:
        self.rng, self.size, self.layout, self.removed = rng, size, layout, removed
        grounds = [name for name in GROUNDS if name != "water"]
        if layout == "out of place":
            grounds.remove(CONTEXT_GROUND)
        elif layout == "mixed" and rng.random() < 0.18:
            grounds = ["water"]
        self.ground = str(rng.choice(grounds))
        self.horizon = int(size * rng.uniform(0.3, 0.55))
        self.image = self._background()
        self.owner = np.zeros((size, size), np.int32)
        self.drawn: list[tuple[int, str, str]] = []

    # -- where objects stand

    def plant(self, n_objects: int) -> list[_Object]:
        """Place and draw objects and inert rocks, the farther ones first; returns the objects."""
        objects = sorted(self._place(n_objects), key=_Object.foot)
        candidates = [self._rock() for _ in range(self.rng.integers(1, 4))]
        rocks = [rock for rock in candidates if _most_covered(rock, objects) <= MOST_COVERED]
        for item in sorted([*objects, *rocks], key=_Object.foot):
            if item in rocks:
                self._draw_rock(item)
            else:
                self._draw_object(objects.index(item), item)
        return objects

    def _rock(self) -> _Object:
        width = self.size * self.rng.uniform(0.06, 0.2)
        height = width * self.rng.uniform(0.5, 0.9)
        return _Object("rock", self.rng.uniform(0, self.size - width), self._foot() - height, width, height)

    def _place(self, n_objects: int) -> list[_Object]:
        placed: list[_Object] = []
        for tried in range(1, 60 * n_objects + 1):
            new = self._candidate(placed)
            if new is not None:
                placed.append(new)
                if len(placed) == n_objects:
                    return placed
            elif len(placed) == 1 and tried % 20 == 0:
                placed.clear()  # there is no room for a twin beside it
        room = f"{self.size} x {self.size}"
        raise InputError(f"only {len(placed)} of {n_objects} objects fit in {room}: ask for fewer")

    def _candidate(self, placed: list[_Object]) -> _Object | None:
        """An object at a random place, or None if it leaves the image or overlaps another too much."""
        rng, size, layout = self.rng, self.size, self.layout
        twins = layout in ("decoy", "overlap")
        second = len(placed) == 1 and (twins or layout == "inside")  # the layout says how it stands
        if second:
            name = placed[0].name if twins else "person"
        elif not placed and layout in ("inside", "out of place"):
            name = "house" if layout == "inside" else CONTEXT_CLASS
        else:
            name = self._class_name()
        recipe = RECIPES[name]
        longer = size * np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
        if second and twins:
            longer = max(placed[0].width, placed[0].height) * rng.uniform(0.8, 1.25)
        elif second:
            longer = placed[0].height * rng.uniform(0.5, 0.7)
        elif not placed and (twins or layout == "inside"):
            longer = size * (rng.uniform(0.18, 0.34) if twins else rng.uniform(0.35, LARGEST))
        width = longer * min(1, recipe.aspect)
        height = longer / max(1, recipe.aspect)
        if second and layout == "overlap":
            x = placed[0].x + placed[0].width * rng.choice([-1, 1]) * rng.uniform(0.45, 0.65)
            bottom = placed[0].foot() + rng.uniform(0.02, 0.1) * size
        elif second and layout == "inside":
            x = placed[0].x + rng.uniform(0.15, 0.85) * (placed[0].width - width)
            bottom = placed[0].foot() + 0.01  # drawn after the house
        else:
            x = rng.uniform(0, size - width)
            sky = recipe.place == "sky"
            bottom = rng.uniform(height, max(self.horizon, height + 1)) if sky else self._foot()
        new = _Object(name, x, bottom - height, width, height)
        inside = x >= 0 and x + width <= size and new.y >= 0 and bottom <= size
        allowed = {"decoy": 0.0, "overlap": 0.5, "inside": 1.0}[layout] if second else MOST_COVERED
        return new if inside and _most_covered(new, placed) <= allowed else None

    def _class_name(self) -> str:
        """A class that can stand in this scene."""
        names = []
        for name, recipe in RECIPES.items():
            fits = recipe.place == "sky" or (recipe.place == "water") == (self.ground == "water")
            if name == CONTEXT_CLASS and self.ground != CONTEXT_GROUND:
                fits = fits and self.rng.random() < OFF_CONTEXT
            if fits:
                names.append(name)
        return str(self.rng.choice(names))

    def _foot(self) -> float:
        """Random row for the foot of an object that stands on the ground."""
        return self.rng.uniform(self.horizon + 0.04 * self.size, self.size)

    # -- how objects look

    def _background(self) -> np.ndarray:
        rng, size = self.rng, self.size
        rows = np.linspace(0, 1, self.horizon, dtype=np.float32)[:, None, None]
        sky = np.array(SKIES[rng.integers(len(SKIES))], np.float32)
        image = np.empty((size, size, 3), np.float32)
        image[: self.horizon] = sky * (0.8 + 0.3 * rows)
        rows = np.linspace(0, 1, size - self.horizon, dtype=np.float32)[:, None, None]
        image[self.horizon :] = np.array(GROUNDS[self.ground], np.float32) * (0.85 + 0.3 * rows)
        image[self.horizon :] *= 1 + self._texture(size - self.horizon, size, rng.uniform(0.08, 0.2))
        image[: self.horizon] *= 1 + 0.4 * self._texture(self.horizon, size, rng.uniform(0.05, 0.15))
        for _ in range(rng.integers(4, 14)):  # clutter: tufts, pebbles and puddles, which are no objects
            x, y = rng.uniform(0, size), rng.uniform(self.horizon, size)
            centre = int(x), int(y)
            axes = int(rng.uniform(1, 1 + 0.06 * size)), int(rng.uniform(1, 2 + 0.015 * size))
            colour = np.array(GROUNDS[self.ground], np.float32) * rng.uniform(0.6, 1.25)
            cv2.ellipse(image, centre, axes, 0, 0, 360, colour.tolist(), -1, cv2.LINE_AA)
        return image

    def _texture(self, height: int, width: int, strength: float) -> np.ndarray:
        """A random piece of noise (height, width, 1) around 0."""
        tile = _noise()
        y = self.rng.integers(0, tile.shape[0] - height + 1)
        x = self.rng.integers(0, tile.shape[1] - width + 1)
        return tile[y : y + height, x : x + width, None] * np.float32(strength)

    def _draw_object(self, number: int, item: _Object) -> None:
        recipe = RECIPES[item.name]
        rng = self.rng
        jitter = rng.uniform(0.85, 1.15, 3)
        main = np.array(recipe.main[rng.integers(len(recipe.main))]) * jitter
        own: dict[Any, np.ndarray] = {"main": main, "second": rng.uniform(40, 220, 3)}
        flip = rng.random() < 0.5
        for shape in recipe.shapes:
            if shape.role == "edge" and rng.random() < 0.5:
                continue
            colour = own[shape.colour] if shape.colour in own else np.array(shape.colour) * jitter
            points = [np.abs(polygon - (flip, 0)) for polygon in shape.polygons]
            scaled = [polygon * (item.width, item.height) + (item.x, item.y) for polygon in points]
            self._fill(scaled, colour, number, shape.name, shape.role)

    def _draw_rock(self, rock: _Object) -> None:
        """An inert distractor: a stone that belongs to no class."""
        rng = self.rng
        angle = np.sort(rng.uniform(0, 2 * np.pi, 11))
        corners = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.75, 1, (11, 1))
        points = (corners + 1) / 2 * (rock.width, rock.height) + (rock.x, rock.y)
        self._fill([points], rng.uniform(70, 190) * rng.uniform(0.9, 1.1, 3), -1, "rock", "inert")

    def _fill(self, polygons: list[np.ndarray], colour: np.ndarray, owner: int, name: str, role: str) -> None:
        """Fill polygons (in pixels) with a shaded, textured colour, and record whose pixels they are."""
        points = np.concatenate(polygons)
        left, top = np.floor(points.min(0)).astype(int).clip(0, self.size - 1)
        right, bottom = np.ceil(points.max(0)).astype(int).clip(1, self.size)
        if right <= left or bottom <= top:
            return
        alpha = np.zeros((bottom - top, right - left), np.uint8)
        for polygon in polygons:
            fixed_point = np.round((polygon - (left, top) - 0.5) * (1 << _SHIFT)).astype(np.int32)
            cv2.fillPoly(alpha, [fixed_point], 255, cv2.LINE_AA, _SHIFT)
        window = slice(top, bottom), slice(left, right)
        shade = np.linspace(1.12, 0.8, bottom - top, dtype=np.float32)[:, None, None]
        paint = colour.astype(np.float32) * shade * (1 + self._texture(bottom - top, right - left, 0.12))
        share = (alpha / np.float32(255))[..., None]
        if (owner, name) != self.removed:
            self.image[window] += (paint - self.image[window]) * share
        self.drawn.append((owner, name, role))
        self.owner[window][alpha > 127] = len(self.drawn)

    def finish(self, objects: list[_Object], plan: tuple[Any, ...]) -> Scene:
        """Light the scene, and return it with its truth."""
        rng, size = self.rng, self.size
        slope = rng.uniform(-0.15, 0.15, 2)
        at = np.linspace(-1, 1, size, dtype=np.float32)
        light = 1 + slope[0] * at[:, None] + slope[1] * at[None, :]
        light = light[..., None] * np.float32(rng.uniform(0.7, 1.15) * rng.uniform(0.93, 1.07, 3))
        image = self.image * light.astype(np.float32)
        image += self._texture(size, size, rng.uniform(2, 12))
        # no channel is 0, so that a mask can be read off a masked scene
        pixels = image.clip(1, 255).round().astype(np.uint8)
        seen = np.array([-2, *(number for number, _, _ in self.drawn)])[self.owner]
        boxes = np.stack([bounding_box(seen == number) for number in range(len(objects))])
        labels = np.array([CLASS_NAMES.index(item.name) for item in objects])
        return Scene(pixels, boxes, labels, self.owner, self.drawn, self.ground, self.horizon, plan)


def bounding_box(mask: np.ndarray) -> np.ndarray:
    """Smallest box (x1, y1, x2, y2) in pixels, float32, around the True pixels of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _most_covered(new: _Object, others: list[_Object]) -> float:
    """Largest overlap of a box with another one, as a share of the smaller of the two."""
    shares = [0.0]
    for old in others:
        width = min(new.x + new.width, old.x + old.width) - max(new.x, old.x)
        height = min(new.foot(), old.foot()) - max(new.y, old.y)
        smaller = min(new.width * new.height, old.width * old.height)
        shares.append(max(width, 0) * max(height, 0) / smaller)
    return max(shares)


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Noise that all textures are cut from: three octaves, mean 0, at most about 1."""
    rng = np.random.default_rng(0)
    tile = np.zeros((1024, 1024), np.float32)
    for cells, weight in ((1024, 0.45), (256, 0.35), (48, 0.2)):
        octave = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        tile += weight * cv2.resize(octave, tile.shape, interpolation=cv2.INTER_LINEAR)
    return tile
