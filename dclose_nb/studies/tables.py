"""Tables 1, 2 and 3 of the paper from records, with the paper's own numbers beside."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import checks
from ..files import atomic_write, write_errors
from .records import Record, Records, mean_with_interval

GROUPS = ("small", "middle", "large")
METRICS = {  # unit as the paper prints it, and its name there
    "sparsity": (1, "Sparsity ↑"),
    "ebpg": (100, "EBPG (%) ↑"),
    "deletion": (100, "Del (%) ↓"),
    "insertion": (100, "Ins (%) ↑"),
    "over_all": (100, "Over-all (%) ↑"),
}
SETTINGS = {  # Table 1: superpixel segments, density map, feature fusion
    "mfpp": "segments",
    "segments+density": "segments, density",
    "segments+fusion": "segments, fusion",
    "dclose": "segments, density, fusion",
}

# What the paper prints; Table 2 holds small, middle, large and all.
PAPER_1 = {
    "mfpp": {"sparsity": 3.42, "ebpg": 12.25, "over_all": 87.31},
    "segments+density": {"sparsity": 3.93, "ebpg": 13.42, "over_all": 87.35},
    "segments+fusion": {"sparsity": 22.01, "ebpg": 32.52, "over_all": 88.08},
    "dclose": {"sparsity": 25.02, "ebpg": 35.45, "over_all": 88.14},
}
PAPER_2 = {
    "gradcam": {
        "sparsity": (21.46, 9.22, 7.80, 19.47),
        "ebpg": (11.52, 59.11, 81.39, 26.86),
        "deletion": (3.27, 13.92, 25.07, 5.73),
        "insertion": (71.13, 68.78, 62.03, 70.18),
        "over_all": (67.86, 54.86, 36.96, 64.45),
    },
    "drise": {
        "sparsity": (4.81, 2.67, 2.41, 4.43),
        "ebpg": (0.06, 26.89, 55.57, 11.17),
        "deletion": (2.27, 12.28, 17.43, 4.26),
        "insertion": (83.27, 73.06, 64.05, 81.19),
        "over_all": (81.00, 60.78, 46.62, 76.93),
    },
    "dclose": {
        "sparsity": (28.00, 12.18, 8.49, 25.02),
        "ebpg": (28.34, 69.50, 84.22, 35.45),
        "deletion": (1.21, 6.53, 12.57, 2.71),
        "insertion": (92.35, 85.74, 78.92, 90.85),
        "over_all": (91.14, 79.21, 66.35, 88.14),
    },
}
PAPER_3 = {"drise": 98.67, "dclose": 70.0}


class Table(NamedTuple):
    """Cells as they are printed, and what must be known to read them."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """A heading and a table in GitHub's Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()

    def latex(self) -> str:
        """A `tabular` with the rules of booktabs."""

        def line(cells: list[str]) -> str:
            return " & ".join(_latex(cell) for cell in cells) + r" \\"

        layout = "l" + "r" * (len(self.columns) - 1)
        body = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", line(self.columns), r"\midrule"]
        body += [*map(line, self.rows), r"\bottomrule", r"\end{tabular}"]
        return f"% {self.title}\n" + "\n".join(body) + "\n"


def _latex(cell: str) -> str:
    for plain, command in (("%", r"\%"), ("_", r"\_"), ("↑", r"$\uparrow$"), ("↓", r"$\downarrow$")):
        cell = cell.replace(plain, command)
    return cell


def objects(records: Records) -> list[Record]:
    """All objects of all images, each with its image and its size group (nearest centre)."""
    centres = np.array(records.settings["size_centres"])
    found = []
    for line in sorted(records.lines, key=lambda line: line["image"]):
        for one in line.get("objects", []):
            group = GROUPS[int(np.abs(centres - one["area"]).argmin())]
            found.append({**one, "image": line["image"], "group": group})
    return found


def summary(records: Records) -> str:
    """How much was evaluated, and what came to nothing, in one sentence."""
    lines = records.lines
    errors = sum("error" in line for line in lines)
    seen = [line for line in lines if "error" not in line]
    matched = [line for line in seen if line["objects"]]
    return (
        f"{sum(len(line['objects']) for line in seen)} objects of {len(matched)} images; {len(lines)} images "
        f"done, in {sum(not line['found'] for line in seen)} nothing was detected, in "
        f"{sum(bool(line['found']) and not line['objects'] for line in seen)} nothing that matches a ground "
        f"truth, {errors} could not be read."
    )


def mean(found: list[Record], method: str, metric: str) -> np.ndarray | None:
    """Mean over objects, low and high end of its 95 % interval, images being drawn anew.

    `metric` is a number's name or that of a curve, whose means are (3, points). Objects for which it
    says nothing (None) are left out; the result is None where none is left.
    """
    return _mean(found, lambda one: one["methods"][method][metric])


def difference(found: list[Record], method: str, other: str, metric: str) -> np.ndarray | None:
    """Mean over objects of what `method` has more than `other` on the same object, as `mean`."""

    def more(one: Record) -> float | None:
        a, b = (one["methods"][name][metric] for name in (method, other))
        return None if a is None or b is None else a - b

    return _mean(found, more)


def _mean(found: list[Record], value: Callable[[Record], Any]) -> np.ndarray | None:
    by_image: dict[int, list[Any]] = {}
    for one in found:
        if (number := value(one)) is not None:
            by_image.setdefault(one["image"], []).append(number)
    return mean_with_interval(list(by_image.values())) if by_image else None


def class_mean(found: list[Record], method: str, metric: str) -> float:
    """Mean over the classes of the mean in each class."""
    by_class: dict[str, list[float]] = {}
    for one in found:
        by_class.setdefault(one["label"], []).append(one["methods"][method][metric])
    return float(np.mean([np.mean(values) for values in by_class.values()]))


def _cell(value: np.ndarray | None, unit: float) -> str:
    if value is None:
        return ""
    centre, low, high = unit * value
    return f"{centre:.2f} [{low:.2f}, {high:.2f}]"


def ablation(records: Records) -> Table:
    """Table 1."""
    found = objects(records)
    columns = ["setting"]
    metrics = ("sparsity", "ebpg", "over_all")
    for metric in metrics:
        columns += [METRICS[metric][1], "class mean", "paper"]
    rows = []
    for method, name in SETTINGS.items():
        if method not in records.settings["methods"] or not found:
            continue
        row = [name]
        for metric in metrics:
            unit = METRICS[metric][0]
            row += [
                _cell(mean(found, method, metric), unit),
                f"{unit * class_mean(found, method, metric):.2f}",
            ]
            row.append(f"{PAPER_1[method][metric]:.2f}")
        rows.append(row)
    return Table("Table 1: what each part of D-CLOSE adds", columns, rows)


def by_size(records: Records) -> Table:
    """Table 2."""
    found = objects(records)
    columns = ["metric", "objects"]
    methods = [name for name in records.settings["methods"] if name not in SETTINGS or name == "dclose"]
    for method in methods:
        columns += [method, *(["paper"] if method in PAPER_2 else [])]
    rows = []
    for metric, (unit, name) in METRICS.items():
        for k, group in enumerate((*GROUPS, "all", "all, class mean")):
            members = [one for one in found if group.startswith("all") or one["group"] == group]
            row = [name, f"{group} ({len(members)})"]
            for method in methods:
                if group == "all, class mean":
                    row.append(f"{unit * class_mean(members, method, metric):.2f}" if members else "")
                else:
                    row.append(_cell(mean(members, method, metric), unit))
                if method in PAPER_2:
                    row.append(f"{PAPER_2[method][metric][k]:.2f}" if k < 4 else "")
            rows.append(row)
    return Table("Table 2: methods by the size of objects", columns, rows)


def cost(records: Records) -> Table:
    """Table 3."""
    seen = [line for line in records.lines if line.get("objects")]
    count = sum(len(line["objects"]) for line in seen)
    rows = []
    for method in records.settings["methods"]:
        if not count:
            break
        seconds = sum(line["seconds"][method] for line in seen)
        passes = sum(line["n_forward"][method] for line in seen)
        paper = f"{PAPER_3[method]:.2f}" if method in PAPER_3 else ""
        numbers = (f"{seconds / count:.2f}", f"{passes / count:.0f}")
        rows.append([method, *numbers, f"{seconds / len(seen):.2f}", f"{passes / len(seen):.0f}", paper])
    columns = ["method", "s an object", "passes an object", "s an image", "passes an image", "s, paper"]
    return Table("Table 3: time and forward passes", columns, rows)


def every(records: Records) -> list[Table]:
    """Tables 1, 2 and 3; a table without a row where its methods were not evaluated."""
    return [ablation(records), by_size(records), cost(records)]


def write(folder: str | Path) -> str:
    """Write the tables of the records in a folder beside them; returns the Markdown.

    Returns
    -------
    str
        What ``tables.md`` holds; ``tables.tex`` and ``table_1.csv`` to ``table_3.csv`` are written too.

    Raises
    ------
    InputError
        No records there, or a folder that cannot be written.
    """
    folder = checks.path(folder)
    records = Records(folder / "records.jsonl")
    tables = every(records)
    markdown = "\n".join([summary(records) + "\n", *(table.markdown() for table in tables)])
    files = {"tables.md": markdown, "tables.tex": "\n".join(table.latex() for table in tables)}
    files |= {f"table_{number}.csv": table.csv() for number, table in enumerate(tables, start=1)}
    with write_errors(folder):
        for name, text in files.items():
            with atomic_write(folder / name) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
    return markdown
