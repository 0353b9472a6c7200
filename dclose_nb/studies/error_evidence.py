"""What the records of `error_analysis` say, up to the family of claims. Notebook 05."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from .error_analysis import ERRORS, FILLS, KINDS, PAIRED, tally
from .inference import Claim, Estimate, difference, estimate, mean
from .records import Record
from .tables import Table

Value = Callable[[Record], Any]  # a number of a case
Cases = dict[str, list[Record]]  # by kind

SECOND = "right, 2nd class"  # right detections that were explained with their own box and their second class
RIVALS = {  # of the difference of two maps, see `error_analysis.hidden_scores`
    "random": "a random part of the box",
    "chance": "a difference of two seeds",
    "prediction": "the prediction's own map",
}
HOW = ("same masks", "other masks", "another seed")  # of `error_analysis.compare`
SCORES = ("predicted", "true", "lead", "repaired")  # what `hidden` gives
GAPS = (
    ("wrong place", "right"),
    ("wrong class", "right"),
    ("wrong class", SECOND),
    ("wrong class", "wrong place"),
)


def explained(lines: Iterable[Record]) -> Cases:
    """The cases that were explained, each with its ``image``: "right", `SECOND` and the four errors."""
    ordered = sorted(lines, key=lambda line: line["image"])
    found = [{**case, "image": line["image"]} for line in ordered for case in line.get("cases", [])]
    kinds = {kind: [case for case in found if case["kind"] == kind and "energy" in case] for kind in KINDS}
    second = [
        {**case["other_class"], "image": case["image"]} for case in kinds["right"] if "other_class" in case
    ]
    return {"right": kinds["right"], SECOND: second} | {error: kinds[error] for error in ERRORS}


# -- how far two maps differ


def differs(how: str, score: str = "difference") -> Value:
    """How far a case's two maps differ, by a key and a score of `error_analysis.compare`."""
    return lambda case: case[score][how]


def excess(case: Record) -> float:
    """The difference of prediction and truth with other masks, less that of one map with another seed."""
    return case["difference"]["other masks"] - case["difference"]["another seed"]


def gap(ours: Sequence[Record], theirs: Sequence[Record]) -> Estimate:
    """Mean `excess` of cases less that of the other cases in the same photograph, where there are any."""
    others: dict[int, list[float]] = {}
    for case in theirs:
        others.setdefault(case["image"], []).append(excess(case))
    return mean(
        ours,
        lambda case: excess(case) - np.mean(others[case["image"]]) if case["image"] in others else None,
    )


def repeats_less(cases: Iterable[Record]) -> Estimate:
    """How much better a difference of two maps repeats with another seed than one map does."""
    return difference(cases, lambda case: case["repeats"], differs("another seed", "correlation"))


# -- what hiding does


def hidden(fill: str, name: str, score: str = "lead") -> Value:
    """What the detector says where pixels of a wrong class are hidden: mean over all shares but none.

    `fill` and `name` are keys of the records; the name "nothing" is the whole image. `score` is one of
    `SCORES`: the score of the predicted class or of the true one, the true one's lead, or whether it
    leads with a score of 0.25 or more, so that the error is repaired.
    """
    some, name = (slice(0, 1), "random") if name == "nothing" else (slice(1, None), name)

    def value(case: Record) -> float:
        predicted, true = np.array(case["hidden"][fill][name])[some].T
        values = predicted, true, true - predicted, (true > predicted) & (true >= 0.25)
        return float(np.mean(values[SCORES.index(score)]))

    return value


def gains(cases: Sequence[Record], score: str = "lead") -> dict[tuple[str, str], Estimate]:
    """What hiding the difference of two maps adds to a score beyond a rival, by fill and rival."""
    return {
        (fill, rival): difference(cases, hidden(fill, "difference", score), hidden(fill, rival, score))
        for fill in FILLS
        for rival in RIVALS
    }


def leads(cases: Sequence[Record], fill: str, name: str) -> Estimate:
    """The true class's mean lead over the predicted one at each of `error_analysis.SHARES`."""
    return mean(cases, lambda case: np.diff(case["hidden"][fill][name])[:, 0])


# -- where the energy lies


def _energy(side: str, *parts: int) -> Value:
    """Mean energy of the seeds in the true box (0), the drawn box (1) or both (2), less that in a second."""

    def value(case: Record) -> float:
        inside = np.mean(case["energy"][side], axis=0)
        return float(inside[parts[0]] - sum(inside[part] for part in parts[1:]))

    return value


def _outside(side: str) -> Value:
    return lambda case: 1 - _energy(side, 0)(case)


class Reading(NamedTuple):
    """A sentence of the paper about one map, as a number of two maps that can be compared over many cases."""

    sentence: str
    kind: str
    where: str  # what the number is
    values: dict[str, Value]  # the first should be `side` the second; a third is for comparison
    side: str = "above"


def _mean_of(name: str) -> Value:
    return lambda case: float(np.mean(case[name]))


FLAT: dict[str, Value] = {"a flat map": itemgetter("area")}
AT_EMPTY = {"at an empty place": _mean_of("empty")} | FLAT
READINGS = (
    Reading(
        '4.4, Fig. 5 "biased toward the outside context": wrong class, the prediction\'s map has more energy '
        "outside the true box than the truth's map has", "wrong class", "energy outside the true box",
        {f"the {side}'s map": _outside(side) for side in ("prediction", "truth")},
    ),
    Reading(
        '4.4, Fig. 5 "ignores table legs": wrong place, the prediction\'s map has less energy in the part '
        "left out than the truth's map has", "wrong place", "energy in the part left out",
        {f"the {side}'s map": _energy(side, 0, 2) for side in ("prediction", "truth")}
        | {"a flat map": lambda case: case["area"][0] - case["area"][2]}, "below",
    ),
    Reading(
        '4.4, Fig. 6a "capture the bench\'s features": missed, more energy in the box than at an empty place',
        "missed", "energy in the box", {"at the object": _mean_of("energy")} | AT_EMPTY,
    ),
    Reading(
        "4.4, Fig. 6a: missed, the score of the class at the object is above that at an empty place",
        "missed", "score of the class",
        {"at the object": lambda case: case["scores"][0],
         "at an empty place": lambda case: case["scores"][1]},
    ),
    Reading(
        "here: not there, the map has more energy in the box than a flat map",
        "not there", "energy in the box", {"its map": _mean_of("energy")} | FLAT,
    ),
)  # fmt: skip
EMPTY = Reading(
    "at an empty place, too, a map has more energy in the box than a flat map",
    "missed", "energy in the box", AT_EMPTY,
)  # fmt: skip


def read(reading: Reading, kinds: Cases) -> tuple[dict[str, Estimate], Estimate]:
    """The means of a reading's values, and the first less the second.

    Missed objects without an empty place in their photograph are left out.
    """
    cases = [case for case in kinds[reading.kind] if case.get("scores", ()) is not None]
    first, second, *_ = reading.values.values()
    return {name: mean(cases, value) for name, value in reading.values.items()}, difference(
        cases, first, second
    )


# -- how often, and what holds


def shares(lines: Iterable[Record]) -> dict[str, Estimate]:
    """The share of each of the four errors in all of them."""
    found = [[case["kind"] for case in line.get("cases", [])] for line in lines]
    errors = [[kind for kind in kinds if kind in ERRORS] for kinds in found]
    return {error: estimate([[kind == error for kind in kinds] for kinds in errors]) for error in ERRORS}


def counted(lines: Iterable[Record]) -> str:
    """How many cases there are of each kind, in words."""
    total = sum(tally(lines).values(), Counter())
    return ", ".join(f"{total[kind]} {kind}" for kind in KINDS if total[kind])


def claims(lines: Sequence[Record]) -> list[Claim]:
    """The family of claims of notebook 05."""
    kinds = explained(lines)
    source = (
        '4.4 "indicate the source of the error": hiding the difference raises the right class\'s lead more'
    )
    found = [
        Claim(f"{source} than hiding {RIVALS[rival]}, {fill}", gain)
        for (fill, rival), gain in gains(kinds["wrong class"]).items()
    ]
    found += [Claim(reading.sentence, read(reading, kinds)[1], reading.side) for reading in READINGS]
    for kind, other in GAPS:
        of_other = "right detections" if other == "right" else other
        sentence = f"here: the excess of a {kind} is above that of {of_other} in the same photograph"
        found.append(Claim(sentence, gap(kinds[kind], kinds[other])))
    for kind in PAIRED:
        sentence = f"here: the difference of a {kind} repeats less from seed to seed than a map does"
        found.append(Claim(sentence, repeats_less(kinds[kind]), "below"))
    most = "here: at the threshold 0.25, more than half of the errors are objects that are missed"
    return [*found, Claim(most, shares(lines)["missed"], bound=0.5)]


# -- tables


def map_table(kinds: Cases) -> Table:
    """How far the maps of prediction and truth differ, and how much of that is chance."""
    columns = ["cases", *HOW, "excess", "below 0.01", "repeats", "repeats, less a map's own"]
    rows = []
    for kind in ("right", SECOND, *PAIRED):
        cases = kinds[kind]
        alike = mean(cases, lambda case: case["difference"]["same masks"] < 0.01)
        row = [f"{kind}: {alike.n_objects} of {alike.n_images} images"]
        row += [mean(cases, differs(how)).text(digits=3, sign="") for how in HOW]
        row += [mean(cases, excess).text(digits=3), f"{alike.text(100, 0, '')} %" if cases else ""]
        row += [mean(cases, lambda case: case["repeats"]).text(sign=""), repeats_less(cases).text()]
        rows.append(row)
    return Table("Mean absolute difference of the maps of prediction and truth", columns, rows)


def hidden_table(cases: Sequence[Record], fill: str) -> Table:
    """What the detector says of a wrong class where pixels are hidden."""
    names = ("nothing", "difference", *RIVALS)
    rows = [[name, *(mean(cases, hidden(fill, name, score)).text() for score in SCORES)] for name in names]
    pairs = [(name, "nothing") for name in names[1:]] + [("difference", rival) for rival in RIVALS]
    for name, other in pairs:
        more = [difference(cases, hidden(fill, name, s), hidden(fill, other, s)) for s in SCORES]
        rows.append([f"{name} less {other}", *(one.text() for one in more)])
    columns = ["hidden", "wrong class", "right class", "lead of the right class", "repaired"]
    return Table(f"Hidden pixels are {fill}: mean scores of {len(cases)} wrong classes", columns, rows)
