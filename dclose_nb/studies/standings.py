"""What the leaderboard's records say: who is ahead in what, and do scores find the truth? Notebook 13."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from scipy.stats import spearmanr

from ..methods import METHODS
from . import inference
from .inference import Claim, Estimate
from .leaderboard import has_budget
from .records import Record, Records
from .tables import Table, difference, mean, named, of_estimates, score

METRICS = {  # higher is better, but for those of `LOWER`
    "over_all": "over-all",
    "insertion": "insertion",
    "deletion": "deletion",
    "ebpg": "energy in the box",
    "pointing": "pointing game",
    "truth_shared": "energy shared with the true map",
    "truth_parts": "order of the parts",
    "localisation_mass": "energy on the object",
    "parts_hidden": "order of the parts when hidden",
    "parts_removed": "order of the parts when removed",
    "leakage": "energy on other objects",
    "agreement": "agreement of two seeds",
}
NOT_RANKED = ("shuffled", "by_chance")  # scores of which neither more nor less is better, see `unlearned`
LOWER = ("deletion", "leakage")
LEAST_METHODS = 3  # that an order has


def titled(metric: str) -> str:
    """A metric as tables and figures write it, with ↑ if higher is better and ↓ if lower is."""
    return f"{METRICS[metric]} {'↓' if metric in LOWER else '↑'}"


def objects(records: Records) -> list[Record]:
    """All objects of the records, each with its ``image`` and, of rules, its ``rule``.

    A score is None where an entry has none.
    """
    blank = dict.fromkeys((*METRICS, *NOT_RANKED))
    return [
        {name: line[name] for name in ("image", "rule") if name in line}
        | record
        | {"methods": {entry: blank | values for entry, values in record["methods"].items()}}
        for line in sorted(records.lines, key=lambda line: line["image"])
        for record in line.get("objects", [])
    ]


def at(found: list[Record], passes: int | None) -> dict[str, str]:
    """Names of the records' entries at so many passes an object (None: each method's own), by method.

    A method of gradients has one pass for all objects of an image, whatever the others take.
    """
    entries = found[0]["methods"] if found else {}
    chosen = {}
    for method in METHODS:
        entry = f"{method} {passes if passes and has_budget(method) else 'own'}"
        if entry in entries:
            chosen[method] = entry
    return chosen


def lines(found: list[Record], metric: str) -> dict[str, list[tuple[float, Estimate]]]:
    """By method, its mean number of passes an object and its mean of a metric, the fewest passes first."""
    drawn: dict[str, list[tuple[float, Estimate]]] = {}
    for entry in found[0]["methods"] if found else ():
        method = entry.split()[0]
        passes = mean(found, entry, "passes").mean
        drawn.setdefault(method, []).append((float(passes), mean(found, entry, metric)))
    return {method: sorted(points, key=lambda point: point[0]) for method, points in drawn.items()}


def means(found: list[Record], metric: str, passes: Iterable[int | None]) -> Table:
    """Means of a metric by method, at each number of passes an object (None: the method's own)."""
    columns = {
        f"{number} passes" if number else "own number": {
            named(method): mean(found, entry, metric) for method, entry in at(found, number).items()
        }
        for number in passes
    }
    title = METRICS.get(metric, f"{metric} an object")
    return of_estimates(title.capitalize(), columns, digits=0 if metric == "passes" else 2)


def ahead(found: list[Record], metrics: Iterable[str], entries: Mapping[str, str]) -> Table:
    """For each metric the method with the best mean, or all that have it, and who is not shown to be worse.

    `entries` are those of `at`. Each other method is compared with the best on the same objects, and all p of
    the table are corrected for their number (Holm). Metrics that nobody has are left out.
    """
    rows: list[list[str]] = []
    claims, owners = [], []
    for metric in metrics:
        means = {method: mean(found, entry, metric) for method, entry in entries.items()}
        means = {method: one for method, one in means.items() if one.n_objects}
        if not means:
            continue
        side, sign = ("below", -1) if metric in LOWER else ("above", 1)
        best = max(means, key=lambda method: sign * means[method].mean)
        tied = [method for method, one in means.items() if one.mean == means[best].mean]
        for method in [method for method in means if method not in tied]:
            claims.append(Claim(method, difference(found, entries[best], entries[method], metric), side))
            owners.append(len(rows))
        of = f"{means[best].n_objects} of {means[best].n_images}"
        rows.append([titled(metric), ", ".join(map(named, tied)), means[best].text(sign=""), of])
    level: list[list[str]] = [[] for _ in rows]
    for claim, owner, verdict in zip(claims, owners, inference.verdicts(claims)):
        if verdict.word != "holds":
            level[owner].append(f"{named(claim.sentence)} {claim.evidence.text()}")
    return Table(
        f"Best means, and who is not shown to be worse; p corrected for {len(claims)} comparisons (Holm)",
        ["score", "best", "mean", "objects of images", "not shown to be worse: best less it"],
        [[*row, "; ".join(others) or "nobody"] for row, others in zip(rows, level)],
    )


def nearer(found: list[Record], truth: str, entries: Mapping[str, str]) -> list[Claim]:
    """A family of claims: is any method nearer to the truth than the winner by over-all?

    `truth` is a metric; the winner has the best mean of over-all.
    """
    winner = max(entries, key=lambda method: mean(found, entries[method], "over_all").mean)
    return [
        Claim(
            f"{named(method)} has more than {named(winner)}",
            difference(found, entry, entries[winner], truth),
        )
        for method, entry in entries.items()
        if method != winner
    ]


def unlearned(found: list[Record], entries: Mapping[str, str]) -> list[Claim]:
    """A family of claims: do maps show what was there before the network learned anything?

    The map from a network of shuffled weights is compared with the first one: are they more alike (absolute
    rank correlation) than maps are by chance? Methods of which no such map was made are left out.
    """
    evidence = {
        method: inference.difference(found, score(entry, "shuffled"), score(entry, "by_chance"))
        for method, entry in entries.items()
    }
    return [
        Claim(f"{named(method)}: with shuffled weights more alike than by chance", one)
        for method, one in evidence.items()
        if one.n_objects
    ]


def same_order(found: list[Record], metric: str, truth: str, entries: Mapping[str, str]) -> Estimate:
    """Mean over objects of the rank correlation, over methods, of a metric with another.

    1 if a metric puts the maps of an object in the order of their truth, about 0 if it says nothing of it.
    Objects whose maps all have the same score are left out.
    """

    def correlation(record: Record) -> float | None:
        pairs = [
            (values[metric], values[truth])
            for values in (record["methods"][entry] for entry in entries.values())
            if values[metric] is not None and values[truth] is not None
        ]
        if len(pairs) < LEAST_METHODS or not np.ptp(pairs, axis=0).all():
            return None
        return float(spearmanr(*zip(*pairs)).statistic)

    return inference.mean(found, correlation)
