"""What planted objects are made of: for each class its parts, drawn in a unit box.

x runs right and y down, from (0, 0) at the box's top left to (1, 1) at its bottom right. Parts are
drawn in the order in which they stand. A part's role says what it decides:

``class``  decides the class: without it the object is one of another class
``body``   evidence for the object and its class
``edge``   decides where the box ends, but not the class; half of all objects have it
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ROLES = ("class", "body", "edge")


class Shape(NamedTuple):
    """One part: polygons filled with one colour."""

    name: str
    role: str
    colour: str | tuple[int, int, int]  # "main" and "second" are drawn anew for each object
    polygons: tuple[np.ndarray, ...]  # (k, 2) each, in the unit box


class Recipe(NamedTuple):
    """One class: its width over its height, where it stands, and its parts."""

    aspect: float
    place: str  # "ground", "sky" or "water"
    main: tuple[tuple[int, int, int], ...]  # colours to choose from
    shapes: tuple[Shape, ...]


def _box(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points)


def _ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


# fmt: off
PAINT = (
    (196, 40, 36), (32, 84, 168), (232, 190, 40), (230, 228, 222),
    (52, 56, 62), (44, 128, 84), (150, 152, 158), (206, 112, 36),
)
TYRE, GLASS, STEEL, SKIN = (34, 34, 36), (150, 190, 210), (120, 124, 130), (222, 178, 150)

_CAR = (
    Shape("antenna", "edge", STEEL, (_box(0.24, 0.0, 0.265, 0.30),)),
    Shape("cabin", "body", "main", (_polygon((0.26, 0.55), (0.36, 0.24), (0.70, 0.24), (0.82, 0.55)),)),
    Shape("windows", "body", GLASS, (_polygon((0.33, 0.52), (0.40, 0.30), (0.52, 0.30), (0.52, 0.52)), _polygon((0.56, 0.52), (0.56, 0.30), (0.67, 0.30), (0.74, 0.52)))),
    Shape("chassis", "body", "main", (_polygon((0, 0.60), (0.08, 0.52), (0.94, 0.52), (1, 0.66), (1, 0.84), (0, 0.84)),)),
    Shape("wheels", "body", TYRE, (_ellipse(0.22, 0.84, 0.10, 0.16), _ellipse(0.78, 0.84, 0.10, 0.16))),
)

RECIPES: dict[str, Recipe] = {
    "car": Recipe(1.9, "ground", PAINT, _CAR),
    # nothing but the sign on its roof tells a taxi from a car
    "taxi": Recipe(1.9, "ground", PAINT, (*_CAR, Shape("sign", "class", (250, 214, 60), (_box(0.42, 0.10, 0.64, 0.25),)))),
    "truck": Recipe(1.7, "ground", PAINT, (
        Shape("exhaust", "edge", STEEL, (_box(0.655, 0.0, 0.69, 0.40),)),
        Shape("load", "body", "second", (_box(0, 0.14, 0.64, 0.78),)),
        Shape("cab", "body", "main", (_polygon((0.67, 0.82), (0.67, 0.32), (0.88, 0.32), (1, 0.56), (1, 0.82)),)),
        Shape("window", "body", GLASS, (_polygon((0.74, 0.54), (0.74, 0.38), (0.86, 0.38), (0.94, 0.54)),)),
        Shape("frame", "body", (70, 70, 74), (_box(0, 0.78, 0.68, 0.84),)),
        Shape("wheels", "body", TYRE, tuple(_ellipse(x, 0.86, 0.085, 0.14) for x in (0.14, 0.36, 0.83))),
    )),
    "house": Recipe(1.1, "ground", ((222, 206, 176), (200, 120, 96), (236, 232, 224), (172, 180, 168)), (
        Shape("chimney", "edge", (146, 84, 70), (_box(0.70, 0.0, 0.80, 0.34),)),
        Shape("walls", "body", "main", (_box(0.08, 0.44, 0.92, 1),)),
        Shape("roof", "body", "second", (_polygon((0, 0.46), (0.5, 0.08), (1, 0.46)),)),
        Shape("door", "body", (96, 62, 40), (_box(0.42, 0.68, 0.58, 1),)),
        Shape("windows", "body", GLASS, (_box(0.17, 0.58, 0.33, 0.76), _box(0.67, 0.58, 0.83, 0.76))),
    )),
    "tree": Recipe(0.75, "ground", ((44, 104, 48), (80, 128, 44), (150, 110, 40), (36, 84, 60)), (
        Shape("trunk", "body", (98, 70, 46), (_polygon((0.43, 1), (0.45, 0.5), (0.55, 0.5), (0.58, 1)),)),
        Shape("crown", "body", "main", (_ellipse(0.5, 0.30, 0.34, 0.30), _ellipse(0.26, 0.46, 0.26, 0.20), _ellipse(0.74, 0.46, 0.26, 0.20))),
    )),
    "sailboat": Recipe(0.9, "water", ((240, 238, 230), (220, 80, 60), (250, 230, 170), (80, 140, 200)), (
        Shape("pennant", "edge", (220, 40, 50), (_polygon((0.5, 0), (0.5, 0.08), (0.32, 0.04)),)),
        Shape("mast", "body", (90, 66, 44), (_box(0.485, 0.0, 0.515, 0.82),)),
        Shape("mainsail", "body", "main", (_polygon((0.53, 0.08), (0.53, 0.74), (0.96, 0.74)),)),
        Shape("jib", "body", "main", (_polygon((0.47, 0.14), (0.47, 0.74), (0.10, 0.74)),)),
        Shape("hull", "body", "second", (_polygon((0, 0.80), (1, 0.80), (0.84, 1), (0.16, 1)),)),
    )),
    "cow": Recipe(1.5, "ground", ((238, 232, 224), (190, 140, 100), (132, 126, 120)), (
        Shape("tail", "edge", (70, 58, 50), (_polygon((0.10, 0.30), (0.0, 0.66), (0.035, 0.68), (0.13, 0.34)),)),
        Shape("legs", "body", "main", tuple(_box(x, 0.62, x + 0.08, 1) for x in (0.14, 0.27, 0.56, 0.68))),
        Shape("body", "body", "main", (_ellipse(0.44, 0.46, 0.36, 0.27),)),
        Shape("spots", "body", (62, 46, 40), (_ellipse(0.32, 0.40, 0.10, 0.12), _ellipse(0.56, 0.50, 0.11, 0.11))),
        Shape("head", "body", "main", (_polygon((0.72, 0.30), (0.80, 0.12), (0.95, 0.16), (1, 0.42), (0.88, 0.50)),)),
        Shape("horns", "body", (222, 212, 180), (_polygon((0.80, 0.13), (0.76, 0.0), (0.84, 0.11)), _polygon((0.91, 0.14), (0.97, 0.0), (0.96, 0.16)))),
    )),
    "sheep": Recipe(1.25, "ground", ((244, 240, 230), (222, 214, 198), (120, 108, 98)), (
        Shape("legs", "body", (60, 54, 50), tuple(_box(x, 0.66, x + 0.07, 1) for x in (0.20, 0.32, 0.56, 0.66))),
        Shape("wool", "body", "main", tuple(_ellipse(x, y, 0.20, 0.24) for x, y in ((0.20, 0.46), (0.36, 0.28), (0.56, 0.26), (0.70, 0.42), (0.56, 0.56), (0.34, 0.58)))),
        Shape("head", "body", (66, 58, 54), (_ellipse(0.87, 0.34, 0.13, 0.18),)),
    )),
    "person": Recipe(0.42, "ground", PAINT, (
        Shape("hat", "edge", (90, 60, 50), (_box(0.34, 0.0, 0.66, 0.07), _box(0.24, 0.06, 0.76, 0.09))),
        Shape("legs", "body", "second", (_box(0.28, 0.58, 0.47, 1), _box(0.53, 0.58, 0.72, 1))),
        Shape("arms", "body", SKIN, (_polygon((0.18, 0.26), (0.0, 0.58), (0.12, 0.60), (0.30, 0.32)), _polygon((0.82, 0.26), (1, 0.58), (0.88, 0.60), (0.70, 0.32)))),
        Shape("torso", "body", "main", (_polygon((0.18, 0.25), (0.82, 0.25), (0.74, 0.62), (0.26, 0.62)),)),
        Shape("head", "body", SKIN, (_ellipse(0.5, 0.15, 0.21, 0.10),)),
    )),
    "plane": Recipe(2.2, "sky", ((236, 238, 242), (206, 210, 218), (230, 200, 90)), (
        Shape("smoke", "edge", (206, 206, 206), (_box(0.0, 0.50, 0.12, 0.60),)),
        Shape("fin", "body", "second", (_polygon((0.12, 0.44), (0.10, 0.06), (0.22, 0.06), (0.34, 0.44)),)),
        Shape("fuselage", "body", "main", (_polygon((0.10, 0.46), (0.86, 0.40), (0.97, 0.52), (1, 0.60), (0.92, 0.68), (0.16, 0.66)),)),
        Shape("wing", "body", "second", (_polygon((0.42, 0.56), (0.60, 0.56), (0.40, 1.0), (0.28, 1.0)),)),
        Shape("windows", "body", (70, 90, 120), tuple(_ellipse(x, 0.52, 0.018, 0.04) for x in (0.40, 0.48, 0.56, 0.64, 0.72, 0.80))),
    )),
}
# fmt: on

CLASS_NAMES = tuple(RECIPES)
CONTEXT_CLASS, CONTEXT_GROUND = "cow", "meadow"  # a cow nearly always stands there
