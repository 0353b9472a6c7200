"""Tables and claims from the records of `planted_truth`. Notebook 09.

`known` has the `planted_truth.objects` of each of its `DETECTORS`, and `found` those of "rules".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from . import inference, tables
from .inference import Claim, Estimate
from .planted_truth import BUDGETS, DETECTORS, STUDIED, objects, studied_scene
from .records import Record, Records
from .tables import Table

METHODS = ("dclose", "contrast", "drise", "mfpp", "sodex")  # with 500 and with 4000 masks
CONTROLS = ("filled box", "random map", "centre Gaussian", "truth")
NETWORKS = DETECTORS[1:]
SHORT = {
    "truth_shared": "shared",
    "truth_mass": "mass",
    "truth_rank": "rank",
    "truth_parts": "parts",
    "false_mass": "false energy ↓",
    "on_ground": "energy on the ground",
    "localisation_mass": "mass",
    "localisation_rank": "rank",
    "parts_hidden": "hidden",
    "parts_removed": "removed",
    "leakage": "leakage ↓",
    "energy_in_box": "EBPG",
}
TRUTH, LOCAL = tuple(SHORT)[:4], tuple(SHORT)[6:]  # scores of the rules, and of the networks


def called(name: str) -> str:
    """The name of a method or control as figures write it: "D-CLOSE, 4000 masks"."""
    method, _, budget = name.partition(" ")
    written = tables.named(method)
    return f"{written}, {budget} masks" if budget.isdigit() else f"{written} {budget}".strip()


def known_objects(records: Records) -> dict[str, list[Record]]:
    """The objects of each of `DETECTORS`, see `planted_truth.objects`."""
    return {name: objects(records, name) for name in DETECTORS}


def counts(records: Records) -> Table:
    """How many objects of how many scenes were explained, and how many parts these have."""
    rows = []
    for name, found in known_objects(records).items():
        row = [name]
        for budget in BUDGETS:
            lines = [line for line in records.lines if (line["detector"], line["n_masks"]) == (name, budget)]
            seen = {line["scene"] for line in lines if line["objects"]}
            row.append(f"{sum(record['image'] in seen for record in found)} of {len(seen)}")
        parts = Counter(len(_parts(record)) for record in found)
        rows.append([*row, ", ".join(f"{n}: {parts[n]}" for n in sorted(parts))])
    budgets = [f"objects of scenes, {budget} masks" for budget in BUDGETS]
    return Table("What was explained", ["detector", *budgets, "objects by their number of parts"], rows)


def _parts(record: Record) -> list[np.ndarray]:
    """Masks (H, W) of the parts of a record's object."""
    return [part.mask for part in studied_scene(record["image"]).parts[record["object"]]]


def part_sizes(found: list[Record]) -> np.ndarray:
    """Pixels of each part of all objects, (P,) int."""
    return np.array([mask.sum() for record in found for mask in _parts(record)])


def over_rules(name: str, score: str, rules: Iterable[str] = STUDIED) -> Callable[[Record], float | None]:
    """Gives the mean of an object's score of a method over the rules that have it, None if none has."""

    def value(record: Record) -> float | None:
        scored = (record["methods"][f"{rule}: {name}"][score] for rule in rules)
        values = [number for number in scored if number is not None]
        return float(np.mean(values)) if values else None

    return value


def gain(found: list[Record], a: str, b: str, score: str, rules: Iterable[str] = STUDIED) -> Estimate:
    """What method `a` has more than `b`, of each object's mean over the rules."""
    rules = tuple(rules)
    return inference.difference(found, over_rules(a, score, rules), over_rules(b, score, rules))


def with_stone(found: list[Record]) -> list[Record]:
    """Objects of scenes with a stone outside the box: without one, "landmark" is "sum"."""
    return [record for record in found if record["methods"]["sum: truth"]["on_stone"] is not None]


def _shift(name: str, place: str, rule: str, other: str) -> Callable[[Record], float | None]:
    """Gives how much more of a map's energy lies on a place under `rule` than under the other."""
    return inference.minus(*(tables.score(f"{way}: {name}", place) for way in (rule, other)))


def moved(found: list[Record], name: str, place: str, rule: str, other: str) -> Estimate:
    """How much more of a map's energy lies on a place, "on_stone" or "on_ground", under `rule`."""
    return inference.mean(with_stone(found), _shift(name, place, rule, other))


def by_rule(found: list[Record], names: Sequence[str]) -> Table:
    """Means of the scores of truth under each rule."""
    rows = []
    for score in TRUTH:
        for name in names:
            means = [tables.mean(found, f"{rule}: {name}", score) for rule in STUDIED]
            cells = [f"{one.mean:.2f}" if one.n_objects else "-" for one in means]
            rows.append([SHORT[score], called(name), *cells])
    return Table("Means by rule; higher is better", ["score", "map", *STUDIED], rows)


def gains(found: list[Record], pairs: Iterable[tuple[str, str]], scores: Sequence[str] = TRUTH) -> Table:
    """Differences of two methods under each rule and over all six, in hundredths; no row without objects."""
    rows = []
    for a, b in pairs:
        for score in scores:
            each = [gain(found, a, b, score, [rule]) for rule in STUDIED]
            cells = [one.text(100, 1) for one in (*each, gain(found, a, b, score))]
            if any(cells):
                rows.append([f"{called(a)} less {called(b)}", SHORT[score], *cells])
    title = "Differences in hundredths, with 95 % intervals"
    return Table(title, ["maps", "score", *STUDIED, "mean of six"], rows)


MOVES = {
    "stone: landmark less sum": ("on_stone", "landmark", "sum"),
    "stone: context less sum": ("on_stone", "context", "sum"),
    "ground: context less sum": ("on_ground", "context", "sum"),
    "ground: landmark less sum": ("on_ground", "landmark", "sum"),
    "ground: context less landmark": ("on_ground", "context", "landmark"),
}


def moves(found: list[Record], names: Iterable[str]) -> Table:
    """How much energy moves to the stone or the ground when the rule looks there, in hundredths."""
    rows = [
        [called(name), *(moved(found, name, *move).text(100, 1) for move in MOVES.values())] for name in names
    ]
    seen = with_stone(found)
    told = f"{len(seen)} objects of {len({record['image'] for record in seen})} scenes"
    return Table(f"Energy that moves, in hundredths: {told}", ["map", *MOVES], rows)


def more_moved(found: list[Record], a: str, b: str) -> str:
    """How much more energy map `a` moves than `b`, to the stone and to the ground, in a sentence."""
    told = []
    for move in ("stone: landmark less sum", "ground: context less sum"):
        less = inference.difference(with_stone(found), _shift(a, *MOVES[move]), _shift(b, *MOVES[move]))
        told.append(f"to the {move.partition(':')[0]} {less.text(100, 1)}")
    return f"Energy that moves, of ({called(a)}) less ({called(b)}), in hundredths: {', '.join(told)}."


def networks(known: dict[str, list[Record]], names: Sequence[str]) -> Table:
    """Means of the scores of localisation and of parts for each of `NETWORKS`."""
    rows = []
    for network in NETWORKS:
        for name in names:
            means = [tables.mean(known[network], name, score) for score in LOCAL]
            cells = [f"{one.mean:.2f}" if one.n_objects else "-" for one in means]
            rows.append([network, called(name), *cells])
    title = "Means for the networks; higher is better, but for leakage"
    return Table(title, ["network", "map", *(SHORT[score] for score in LOCAL)], rows)


def network_gains(known: dict[str, list[Record]], pairs: Iterable[tuple[str, str]]) -> Table:
    """Differences of two methods for each of `NETWORKS`, in hundredths."""
    rows = []
    for network in NETWORKS:
        for a, b in pairs:
            found = [tables.difference(known[network], a, b, score) for score in LOCAL[:4]]
            rows.append([network, f"{called(a)} less {called(b)}", *map(_counted, found)])
    columns = ["network", "maps", *(SHORT[score] for score in LOCAL[:4])]
    return Table("Differences in hundredths, with 95 % intervals (objects)", columns, rows)


def network_parts(known: dict[str, list[Record]], names: Sequence[str]) -> Table:
    """How well maps rank the parts that are hidden and removed, in hundredths, for each of `NETWORKS`."""
    columns, cells = ["map"], [[called(name)] for name in names]
    for network in NETWORKS:
        for score in ("parts_hidden", "parts_removed"):
            columns.append(f"{network}, {SHORT[score]}")
            for row, name in zip(cells, names):
                one = tables.mean(known[network], name, score)
                row.append(_counted(one))
    return Table("Rank correlations in hundredths, with 95 % intervals (objects)", columns, cells)


def _counted(one: Estimate) -> str:
    """A mean in hundredths with its number of objects."""
    return f"{one.text(100, 1)} ({one.n_objects})" if one.n_objects else "-"


def paper_claims(known: dict[str, list[Record]]) -> list[Claim]:
    """The 39 claims of notebook 09: sentences of the paper, and of the notebook, against the truth."""
    return [
        *_rule_claims(known["rules"]),
        *(one for name in NETWORKS for one in _network_claims(name, known)),
    ]


def _rule_claims(found: list[Record]) -> list[Claim]:
    shared, parts, rank, box, noise = "truth_shared", "truth_parts", "truth_rank", "filled box", "random map"
    ours, drise, mfpp, sodex = (f"{method} 4000" for method in ("dclose", "drise", "mfpp", "sodex"))
    few, more, within = "dclose 500", partial(gain, found), ("within", 0.05)
    stone, ground = MOVES["stone: landmark less sum"], MOVES["ground: context less landmark"]
    on_ground = "has more on the ground if the rule looks at the ground than if it looks at the stone"

    def between(rule: str, other: str) -> Estimate:
        ways = (over_rules(ours, parts, [name]) for name in (rule, other))
        return inference.difference(found, *ways)

    told: dict[str, list[Any]] = {  # evidence, then the claim's side and bound where they are others
        '*Abstract:* D-CLOSE has "better quality" than D-RISE: it shares more with the truth':
            [more(ours, drise, shared)],
        "*Abstract:* the same sentence: it ranks parts better": [more(ours, drise, parts)],
        '*Fig. 9:* it is better "even with a small number of samples": it shares more with 500 masks':
            [more(few, "drise 500", shared)],
        '*5.1.1:* it "produces better results without being influenced by the number of generated samples", '
        "read as: 500 and 4000 masks share the same, within 5 points": [more(ours, few, shared), *within],
        "*5.1.1:* the same sentence: 500 and 4000 masks rank parts equally well, within 5 points":
            [more(ours, few, parts), *within],
        '*5.1.2:* "focus more on the object\'s shape inside the bounding box" (than what, it does not say), '
        'tested by rank, rule "sum": D-CLOSE above a filled box': [more(ours, box, rank, ["sum"])],
        "*5.1.2:* the same sentence, in the same way: D-CLOSE above D-RISE":
            [more(ours, drise, rank, ["sum"])],
        '*5.3:* the density map gives "more object-focused" maps, tested only together with fusion: D-CLOSE '
        "shares more than MFPP": [more(ours, mfpp, shared)],
        '*5.3:* fusion "keeps only the most important features", tested only together with the density map: '
        "D-CLOSE ranks parts better than MFPP": [more(ours, mfpp, parts)],
        "*4.4:* evidence outside the box shows: D-CLOSE has more on the stone if the rule looks there":
            [moved(found, ours, *stone)],
        f"*4.4:* the same sentence: it {on_ground}": [moved(found, ours, *ground)],
        f"SODEx {on_ground}": [moved(found, sodex, *ground)],
        "The filled box shares more with the truth than D-CLOSE": [more(box, ours, shared)],
        "D-CLOSE ranks parts better than the random map": [more(ours, noise, parts)],
        "D-CLOSE ranks parts as D-RISE does, within 5 points": [more(ours, drise, parts), *within],
        "D-CLOSE ranks parts as MFPP does, within 5 points": [more(ours, mfpp, parts), *within],
        'D-CLOSE ranks parts worse under "weighted" than under "sum"': [between("weighted", "sum"), "below"],
        'D-CLOSE ranks parts equally well under "and" and "or", within 5 points':
            [between("and", "or"), *within],
        "D-RISE's shared energy is within 1 point of the random map's":
            [more(drise, noise, shared), "within", 0.01],
        "SODEx shares more than D-CLOSE": [more(sodex, ours, shared)],
        "SODEx ranks parts worse than D-CLOSE": [more(sodex, ours, parts), "below"],
    }  # fmt: skip
    for words, score, side in (("shares more", shared, "above"), ("ranks parts worse", parts, "below")):
        for n in (500, 4000):
            evidence = more(f"contrast {n}", f"dclose {n}", score)
            told[f"`contrast` {words} than D-CLOSE, {n} masks"] = [evidence, side]
    return [Claim(sentence, *evidence)._replace(unit=100) for sentence, evidence in told.items()]


def _network_claims(network: str, known: dict[str, list[Record]]) -> list[Claim]:
    found, ours, hidden, removed = known[network], "dclose 500", "parts_hidden", "parts_removed"
    compared = {
        "D-CLOSE lies more on the object than D-RISE": (ours, "drise 500", "localisation_mass"),
        "the filled box points at the object better than D-CLOSE (rank)": (
            "filled box", ours, "localisation_rank"
        ),
        "D-CLOSE ranks hidden parts better than the random map": (ours, "random map", hidden),
        "D-CLOSE ranks removed parts better than the random map": (ours, "random map", removed),
        "D-RISE ranks hidden parts better than D-CLOSE": ("drise 500", ours, hidden),
    }  # fmt: skip
    evidence = {words: tables.difference(found, *pair) for words, pair in compared.items()}
    both = (tables.score(ours, way) for way in (hidden, removed))
    evidence["D-CLOSE ranks hidden parts better than removed parts"] = inference.difference(found, *both)
    alike = "losses of removed and of hidden parts are ranked alike (correlation above 0)"
    evidence[alike] = tables.mean(found, "parts removed", hidden)
    return [Claim(f"`{network}`, 500 masks: {words}", one, unit=100) for words, one in evidence.items()]
