"""What the records of bad conditions say of section 4.5, and counts in real photographs. Notebook 06."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from ..detection import Detector, match
from ..images import load_photo
from .conditions import CONDITIONS, MAPPED, MAPPED_AT, METHODS, SEVERITIES, spoken
from .inference import LEAST_IMAGES, Claim, Estimate, difference, mean, minus
from .records import Record, Records
from .tables import NAMES, Table, of_claims

AIR = tuple(condition for condition in MAPPED if condition != "fog")
SCORES = {  # of `conditions.study_image`, as figures and tables name them
    "itself": "agreement of two seeds",
    "ebpg": "EBPG",
    "inside": "inside",
    "sparsity": "sparsity",
    "over_all": "over-all, black",
    "over_all_blur": "over-all, blur",
}
# What is taken of five levels
LEVELS: dict[str, Callable[[list[float]], Any]] = {
    "mean": np.mean,
    "best": max,
    "coarsest": itemgetter(-1),
}
BY_DAY = ("set00", "set01", "set02", "set06", "set07", "set08")  # the sets of KAIST; the others are at night
Reader = Callable[[Record], Any]  # of a number of an object, None if it has none


def objects(records: Records, detector: str) -> list[Record]:
    """Objects that a detector finds in clear images, of `conditions.study_image`, each with its ``image``."""
    lines = [line for line in records.lines if line["detector"] == detector]
    return [{**record, "image": line["image"]} for line in lines for record in line.get("objects", [])]


def left(condition: str, severity: float = MAPPED_AT) -> Reader:
    """What reads the share of an object's weight that is left in a condition."""
    return lambda record: record["left"][condition][SEVERITIES.index(severity)]


def score(condition: str, method: str, name: str) -> Reader:
    """What reads one of `SCORES` in "clear" or one of `MAPPED`."""
    return lambda record: record["maps"][condition][method][name]


def change(condition: str, method: str = "dclose") -> Reader:
    """What reads the change of a map's likeness: with the clear image's map, less that of two such maps."""
    return minus(score(condition, method, "clear"), score("clear", method, "itself"))


def less_level(condition: str, pick: Callable[[list[float]], Any]) -> Reader:
    """What reads ``inside`` of D-CLOSE's map, less that which `pick` takes of its levels."""
    levels = score(condition, "dclose", "levels")
    return minus(score(condition, "dclose", "inside"), lambda record: pick(levels(record)))


def fills(condition: str, method: str) -> Reader:
    """What reads the cost of a condition in over-all: with black, with blur, and the one less the other."""

    def read(record: Record) -> tuple[float, float, float]:
        bad, clear = (record["maps"][name][method] for name in (condition, "clear"))
        black, blur = (bad[name] - clear[name] for name in ("over_all", "over_all_blur"))
        return black, blur, black - blur

    return read


def gain(found: Sequence[Record], condition: str, name: str) -> Estimate:
    """A `score` of D-CLOSE's maps less that of D-RISE's, on the same objects."""
    return difference(found, *(score(condition, method, name) for method in METHODS))


def if_drawn(condition: str, read: Reader) -> Reader:
    """What reads the same of objects that the detector still draws in a condition, and None of others."""
    return lambda record: read(record) if record["maps"][condition]["dclose"]["drawn"] else None


def if_left(condition: str, low: float, high: float, read: Reader) -> Reader:
    """What reads the same of objects of whose weight a share in [low, high) is left, and None of others."""
    return lambda record: read(record) if low <= left(condition)(record) < high else None


def over(conditions: Sequence[str], value: Callable[[str], Reader]) -> Reader:
    """What reads the mean of a value over conditions, as far as an object has it; None without any."""

    def read(record: Record) -> float | None:
        values = [value(condition)(record) for condition in conditions]
        known = [number for number in values if number is not None]
        return float(np.mean(known)) if known else None

    return read


def points(found: Sequence[Record], method: str, conditions: Sequence[str] = MAPPED) -> list[Record]:
    """Each object in each condition: its ``image``, the share ``left`` of its weight, and the ``change``."""
    every = [
        {"image": record["image"], "left": left(name)(record), "change": change(name, method)(record)}
        for record in found
        for name in conditions
    ]
    return [point for point in every if point["change"] is not None]


def claims(records: Records) -> list[Claim]:
    """What section 4.5 says, and two sentences of ours, for each detector of the records."""
    told = []
    for detector in (one["name"] for one in records.settings["detectors"]):
        found = objects(records, detector)
        lower = "likeness not lower by more than 0.05"
        for name in MAPPED:
            sentence = f'"stable in all cases": {spoken(name)}, {lower}'
            told.append(Claim(f"{detector}: {sentence}", mean(found, change(name)), bound=-0.05))
        drawn = "in the conditions in which the object is still drawn"
        still = over(MAPPED, lambda name: if_drawn(name, change(name)))
        told.append(Claim(f'{detector}: "stable" {drawn}, {lower}', mean(found, still), bound=-0.05))
        for sentence, column in (
            ('"more noisy": D-CLOSE\'s seeds agree better, in five conditions', "itself"),
            ('"unfocused": D-CLOSE has more inside, in five conditions', "inside"),
            ('"unfocused": D-CLOSE has more energy in the box (EBPG), in five conditions', "ebpg"),
            (f'"high quality": D-CLOSE has more over-all, deletion to black, {drawn}', "over_all"),
            (f'"high quality": D-CLOSE has more over-all, deletion to blur, {drawn}', "over_all_blur"),
        ):
            both = (over(MAPPED, partial(score, method=method, name=column)) for method in METHODS)
            told.append(Claim(f"{detector}: {sentence}", difference(found, *both)))
        noisier = difference(found, *(score("clear", method, "itself") for method in METHODS))
        told.append(Claim(f"{detector}: D-CLOSE's seeds agree better in the clear image too", noisier))
        gain, short = (
            mean(found, over(MAPPED, partial(less_level, pick=LEVELS[which]))) for which in ("mean", "best")
        )
        fused = "the fused map has more inside than its mean level, in five conditions"
        told.append(Claim(f"{detector}: {fused}", gain))
        offset = "inside of the fused map is at most 0.02 below that of its best level, in five conditions"
        told.append(Claim(f'{detector}: "entirely offset": {offset}', short, bound=-0.02))
    return told


def evidence(records: Records) -> list[Table]:
    """Every mean that notebook 06 quotes. A cell of fewer than `LEAST_IMAGES` images is empty."""
    found = {one["name"]: objects(records, one["name"]) for one in records.settings["detectors"]}
    places = [(name, own, condition) for name, own in found.items() for condition in ("clear", *MAPPED)]
    bad = [place for place in places if place[2] != "clear"]
    both = "D-CLOSE less D-RISE"
    shares = [
        [name, spoken(c), *(_cell(mean(own, left(c, s)), "") for s in SEVERITIES)]
        for name, own in found.items()
        for c in CONDITIONS
    ]
    scores = _by_method(places, lambda own, c, m: [mean(own, score(c, m, column)) for column in SCORES], "")
    compared = [
        [name, spoken(c), *(_cell(gain(own, c, column)) for column in SCORES)] for name, own, c in places
    ]
    changed = [
        [name, spoken(c)]
        + [_cell(mean(own, r)) for m in METHODS for r in (change(c, m), if_drawn(c, change(c, m)))]
        + [_drawn(own, c)]
        for name, own, c in bad
    ]
    fused = [
        [name, spoken(c), *(_cell(mean(own, less_level(c, pick))) for pick in LEVELS.values())]
        for name, own, c in places
    ]
    filled = _by_method(bad, lambda own, c, m: _parts(mean(own, if_drawn(c, fills(c, m)))))
    where, change_in = ["detector", "condition"], "change of likeness"
    return [
        Table("A1. Share of the weight left, by severity", where + [str(s) for s in SEVERITIES], shares),
        Table("A2. Scores of the maps", [*where, "method", *SCORES.values()], scores),
        Table(f"A3. {both}", where + list(SCORES.values()), compared),
        Table(
            f"A4. {change_in.capitalize()}: all objects, and those still drawn",
            where
            + [f"{NAMES[m]}, {which}" for m in METHODS for which in ("all", "still drawn")]
            + ["still drawn"],
            changed,
        ),
        Table(f"A5. {change_in.capitalize()}, by what is left of the weight", *_by_weight(found)),
        Table(
            "A6. Inside: the fused map less a level",
            where + [f"less its {which} level" for which in LEVELS],
            fused,
        ),
        Table(
            "A7. Over-all of objects still drawn, less that in the clear image, by the fill of deletion",
            [*where, "method", "black", "blur", "black less blur"],
            filled,
        ),
        of_claims(
            Claim(
                f"{name}, {spoken(c)}: D-CLOSE's likeness falls more than D-RISE's",
                difference(own, *(change(c, method) for method in METHODS)),
                "below",
            )
            for name, own, c in bad
        ),
    ]


def _by_method(
    places: Sequence[tuple[str, list[Record], str]],
    estimates: Callable[[list[Record], str, str], list[Estimate]],
    sign: str = "+",
) -> list[list[str]]:
    """A row for each method in each place: a detector's name, its objects and a condition."""
    return [
        [
            name,
            spoken(condition),
            NAMES[method],
            *(_cell(one, sign) for one in estimates(own, condition, method)),
        ]
        for name, own, condition in places
        for method in METHODS
    ]


def _parts(found: Estimate) -> list[Estimate]:
    """The three numbers of an estimate, each by itself."""
    if not found.n_objects:
        return [found] * 3
    return [found._replace(mean=m, low=low, high=high, error=e) for m, low, high, e in zip(*found[:4])]


def _cell(found: Estimate, sign: str = "+") -> str:
    return found.text(sign=sign) if found.n_images >= LEAST_IMAGES else ""


def _change_if_left(condition: str, bounds: tuple[float, float]) -> Reader:
    return if_left(condition, *bounds, change(condition))


def _drawn(found: list[Record], condition: str) -> str:
    drawn = mean(found, if_drawn(condition, change(condition)))
    return f"{drawn.n_objects} of {len(found)} objects, in {drawn.n_images} images"


def _by_weight(found: dict[str, list[Record]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of what happens to likeness where much of the weight is left, and where little."""
    ends = {"at least four fifths left": (0.8, np.inf), "less than a fifth left": (-np.inf, 0.2)}
    rows = []

    def tell(name: str, what: str, one: Estimate) -> None:
        rows.append([name, what, one.text(), str(one.n_objects), str(one.n_images)])

    for name, own in found.items():
        for method, among, air in (
            ("dclose", MAPPED, ""),
            ("dclose", AIR, ", without fog"),
            ("drise", MAPPED, ""),
        ):
            for end, (low, high) in ends.items():
                chosen = [one for one in points(own, method, among) if low <= one["left"] < high]
                tell(name, f"{NAMES[method]}, {end}{air}, maps", mean(chosen, itemgetter("change")))
        for among, air in ((MAPPED, ""), (AIR, ", without fog")):
            much, little = (over(among, partial(_change_if_left, bounds=end)) for end in ends.values())
            tell(
                name,
                f"D-CLOSE, the same object: where little is left, less where much is left{air}",
                difference(own, little, much),
            )
            still = over(among, lambda c: if_drawn(c, change(c)))
            tell(name, f"D-CLOSE, still drawn{air}", mean(own, still))
        tell(name, "D-CLOSE, still drawn in fog", mean(own, if_drawn("fog", change("fog"))))
        noisier = difference(own, score("fog", "dclose", "itself"), score("clear", "dclose", "itself"))
        tell(name, "D-CLOSE, agreement of two seeds, fog less clear", noisier)
    return ["detector", "what", "mean", "objects or maps", "images"], rows


def pairs(folder: str | Path) -> list[tuple[str, Path, Path]]:
    """Aligned photographs of a folder: "day" or "night", then visible and far-infrared (KAIST, MFNet)."""
    folder, found = Path(folder), []
    for pattern, visible, infrared in (
        ("kaist/*_visible.png", "visible", "lwir"),
        ("mfnet/*_rgb.png", "rgb", "fir"),
    ):
        for file in sorted(folder.glob(pattern)):
            light = "day" if file.name[:5] in BY_DAY or "D_" in file.name else "night"
            found.append((light, file, file.with_name(file.name.replace(visible, infrared))))
    return found


def of_photographs(detector: Detector, folder: str | Path) -> list[Table]:
    """Persons that a detector finds in both photographs of `pairs`, and marked objects in fog (RTTS).

    The last table has no rows if the folder has no ``rtts_fog``.
    """
    counts: list[list[Any]] = []
    for light, *files in pairs(folder):
        seen, felt = (
            found[np.array(found.names) == "person"] for found in map(detector.detect, map(load_photo, files))
        )
        both = len(match(felt, seen.boxes, seen.names))
        counts.append([files[0].stem, light, len(seen), len(felt), both])
    for light in ("day", "night"):
        numbers = np.array([own for _, when, *own in counts if when == light], dtype=int)
        counts.append(["all", light, *numbers.reshape(-1, 3).sum(axis=0)])
    rows, marked = [], Path(folder) / "rtts_fog" / "boxes_quick_test.txt"
    lines = marked.read_text().splitlines() if marked.is_file() else []
    for photo, *boxes in filter(None, map(str.split, lines)):
        names = marked.with_name("vocfog.names").read_text().split()
        truth = np.array([box.split(",") for box in boxes], dtype=int).reshape(-1, 5)
        found = detector.detect(load_photo(marked.with_name(Path(photo).name)))
        hits = len(match(found, truth[:, :4], [names[k] for k in truth[:, 4]]))
        rows.append([Path(photo).name, len(truth), hits, len(found) - hits])
    return [
        Table(
            "Persons found", ["photograph", "light", "in the visible", "in FIR", "in both"], _texts(counts)
        ),
        Table("Fog", ["photograph", "marked objects", "found", "other boxes"], _texts(rows)),
    ]


def _texts(rows: list[list[Any]]) -> list[list[str]]:
    return [list(map(str, row)) for row in rows]
