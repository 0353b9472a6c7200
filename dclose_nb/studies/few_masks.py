"""How few masks are enough, and whether the error of a map of few masks is right. Notebook 12.

The records are those of ``benchmarks/quality.py`` and ``benchmarks/calibration.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..files import shipped
from . import tables
from .inference import Claim, Estimate
from .records import Record, Records
from .tables import Table

DATA = {  # of which records there are, and how their files end
    "photographs": "coco",
    "scenes, one stage": "planted",
    "scenes, two stages": "planted_two_stage",
}
SCORES = {
    "over_all": "over-all",
    "ebpg": "EBPG",
    "relevance_mass": "relevance mass",
    "relevance_rank": "relevance rank",
    "part_correlation": "part correlation",
}
CALIBRATION = {
    "within_one": "all, one error",
    "within_two": "all, two errors",
    "shown_one": "shown, one error",
    "shown_two": "shown, two errors",
    "deviation": "deviation",
    "error": "error",
}
REFERENCE = "dclose 4000"
METHODS, BUDGETS = ("contrast", "regression"), (25, 50, 100, 200, 400)
DRAWN = (  # rows of `differences` that are drawn as curves
    *("photographs: over-all", "scenes, one stage: relevance rank", "scenes, one stage: part correlation"),
    *("photographs: EBPG", "scenes, two stages: relevance rank", "scenes, two stages: part correlation"),
)
JUDGED = "regression 100", "regression 200"
MARGIN = 0.02  # of a loss that claims exclude

Rows = dict[str, dict[str, Estimate]]  # by row and column


def calibration() -> Rows:
    """Of all pixels, and of those that a map shows, the share within one and two errors of a long run's map.

    Rows are what is explained and the number of masks, columns those of `CALIBRATION`. The last two are the
    root mean squares of the deviation from the long run, and of the error.
    """
    return {
        f"{name}, {setting.split()[1]} masks": {
            title: tables.mean(found, setting, score) for score, title in CALIBRATION.items()
        }
        for name in ("photographs", "scenes, one stage")
        for found in [_objects("calibration", name)]
        for setting in found[0]["methods"]
    }


def differences(reference: str = REFERENCE) -> Rows:
    """Scores of the same objects, less those of `reference`: a row for each score, a column for each setting.

    The column of the reference itself holds its mean.
    """
    rows: Rows = {}
    for name in DATA:
        found = _objects("quality", name)
        settings = found[0]["methods"]
        for score in settings[reference]:
            row = {one: tables.difference(found, one, reference, score) for one in settings}
            rows[f"{name}: {SCORES[score]}"] = row | {reference: tables.mean(found, reference, score)}
    return rows


def curves(row: Mapping[str, Estimate]) -> dict[str, np.ndarray]:
    """A row of `differences` as curves over `BUDGETS` for `plot.curves`: mean, low and high (3, points)."""
    return {name: np.transpose([row[f"{name} {n}"][:3] for n in BUDGETS]) for name in METHODS}


def claims(rows: Rows) -> dict[tuple[str, str], Claim]:
    """By setting of `JUDGED` and row of `differences`: the setting loses less than `MARGIN`."""
    lost = f"not below D-CLOSE's by more than {100 * MARGIN:.0f} points"
    return {
        (setting, name): Claim(f"{setting} masks, {name} {lost}", row[setting], bound=-MARGIN, unit=100)
        for setting in JUDGED
        for name, row in rows.items()
    }


def calibration_claims(rows: Rows) -> list[Claim]:
    """For each row of `calibration`: over 68 % of all pixels lie within one error, under 95 % within two."""
    claims = []
    for name, row in rows.items():
        one, two = row[CALIBRATION["within_one"]], row[CALIBRATION["within_two"]]
        claims.append(Claim(f"{name}: more than 68 % of all pixels lie within one error", one, "above", 0.68))
        claims.append(Claim(f"{name}: fewer than 95 % of all pixels lie within two", two, "below", 0.95))
    return claims


def table(title: str, rows: Rows, columns: Sequence[str], *, unit: float = 1, digits: int = 1) -> Table:
    """Columns of `differences` or `calibration` as they are printed, `unit` times, with 95 % intervals."""
    signs = {REFERENCE: ""} | dict.fromkeys(CALIBRATION.values(), "")
    cells = [
        [name, *(row[one].text(unit, digits, signs.get(one, "+")) for one in columns)]
        for name, row in rows.items()
    ]
    return Table(title, ["", *columns], cells)


def _objects(study: str, name: str) -> list[Record]:
    return tables.objects(Records(shipped(f"results/{study}_{DATA[name]}.jsonl")))
