"""Tables of the studies, and Tables 1, 2 and 3 of section 6 with the paper's own numbers beside."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from .. import checks
from ..checks import InputError
from ..files import atomic_write, write_errors
from . import inference
from .inference import Claim, Estimate
from .records import Record, Records

GROUPS = ("small", "middle", "large")


class Metric(NamedTuple):
    """How a metric is written."""

    unit: int  # values are printed times this
    name: str  # in a sentence
    heading: str  # of the paper's tables


METRICS = {
    "sparsity": Metric(1, "sparsity", "Sparsity ↑"),
    "ebpg": Metric(100, "EBPG", "EBPG (%) ↑"),
    "deletion": Metric(100, "deletion", "Del (%) ↓"),
    "insertion": Metric(100, "insertion", "Ins (%) ↑"),
    "over_all": Metric(100, "over-all", "Over-all (%) ↑"),
}
SETTINGS = {  # Table 1: superpixel segments, density map, feature fusion
    "mfpp": "segments",
    "segments+density": "segments, density",
    "segments+fusion": "segments, fusion",
    "dclose": "segments, density, fusion",
}

NAMES = {  # as figures and text write them
    "dclose": "D-CLOSE",
    "drise": "D-RISE",
    "gradcam": "Grad-CAM",
    "sodex": "SODEx",
    "mfpp": "MFPP",
    "odam": "ODAM",
    "gcame": "G-CAME",
}
NAMES |= {method: SETTINGS[method] for method in ("segments+density", "segments+fusion")}


def named(method: str) -> str:
    """A method as figures and text write it; one without a name of its own as it is."""
    return NAMES.get(method, method)


# What the paper prints
ABLATION_METRICS = ("sparsity", "ebpg", "over_all")
PAPER_1 = {
    "mfpp": (3.42, 12.25, 87.31),
    "segments+density": (3.93, 13.42, 87.35),
    "segments+fusion": (22.01, 32.52, 88.08),
    "dclose": (25.02, 35.45, 88.14),
}
PAPER_2 = {  # small, middle, large, all
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
PAPER_3 = {"drise": 98.67, "dclose": 70.0}  # seconds an object

LARGEST = 1e15  # far above any number of an evaluation

MARKS = str.maketrans("", "", "*`")  # of Markdown, in the sentences of claims
LATEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
)


class Table(NamedTuple):
    """Cells as they are printed, and what must be known to read them."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """A heading and a table in GitHub's Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        rows = (" | ".join(cell.replace("|", r"\|") for cell in line) for line in lines)
        return f"**{self.title}**\n\n" + "\n".join(f"| {row} |" for row in rows) + "\n"

    def _cells(self) -> list[list[str]]:
        return [[cell.translate(MARKS) for cell in line] for line in [self.columns, *self.rows]]

    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self._cells())
        return text.getvalue()

    def latex(self) -> str:
        """A `tabular` with the rules of booktabs."""
        escaped = [[cell.translate(LATEX) for cell in line] for line in self._cells()]
        columns, *rows = (" & ".join(line) + r" \\" for line in escaped)
        begin = rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}"
        lines = [begin, r"\toprule", columns, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
        return f"% {self.title}\n" + "\n".join(lines) + "\n"


def _refuse_incomplete(records: Records) -> None:
    """Refuse records that are no evaluation's, or that lack what tables are made of."""
    methods, centres = (records.settings.get(name) for name in ("methods", "size_centres"))
    if not isinstance(methods, dict) or not isinstance(centres, list) or not _are_numbers(centres, 3):
        raise InputError(f"{str(records.path)!r} holds no evaluation: its settings have no methods and sizes")
    for number, line in enumerate(records.lines, 2):  # the settings are line 1
        try:
            one = ("error" in line) != ("objects" in line) and not isinstance(line.get("image"), str)
            whole = one and ("error" in line or _are_numbers(_numbers(line, methods, _costs(records))))
        except (LookupError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise InputError(f"line {number} of {str(records.path)!r} is no whole record: remove the line")


def _costs(records: Records) -> tuple[str, ...]:
    """What records say of a method's cost; a run beside other work keeps no times."""
    return ("seconds", "n_forward") if records.settings.get("timed", True) else ("n_forward",)


def _numbers(line: Record, methods: Iterable[str], costs: Iterable[str]) -> list[Any]:
    """All numbers of an image's record that tables are made of."""
    values = [line["found"], line["truths"]]
    for record in line["objects"]:
        values.append(record["area"])
        values += [record["methods"][method][metric] for method in methods for metric in METRICS]
        values += [record["methods"][method]["deletion_curve"][0] for method in methods]
        hash(record["label"])  # classes are grouped by it: a list, for example, raises TypeError
        if record["methods"].keys() - methods:
            raise LookupError("scores of methods that the settings lack")
    if line["objects"]:
        values += [line[cost][method] for cost in costs for method in methods]
    return values


def _are_numbers(values: list[Any], count: int | None = None) -> bool:
    """Whether all values are numbers of a size that a sum can hold, and as many as `count`."""
    fit = all(isinstance(value, int | float) and abs(value) < LARGEST for value in values)
    return fit and count in (None, len(values))


def objects(records: Records) -> list[Record]:
    """All objects of all images, each with its image and its size group (nearest centre)."""
    centres = np.array(records.settings["size_centres"])
    return [
        {**record, "image": line["image"], "group": GROUPS[int(np.abs(centres - record["area"]).argmin())]}
        for line in sorted(records.lines, key=lambda line: line["image"])
        for record in line.get("objects", [])
    ]


def summary(records: Records) -> str:
    """How much was evaluated, and what came to nothing, in one sentence or two."""
    seen = [line for line in records.lines if "error" not in line]
    found = [line for line in seen if line["found"]]
    matched = [line for line in seen if line["objects"]]
    scored = [record for line in matched for record in line["objects"]]
    unseen = [
        record
        for record in scored
        if any(method["deletion_curve"][0] == 0 for method in record["methods"].values())
    ]
    marked, boxes = (sum(line[name] for line in seen) for name in ("truths", "found"))
    told = (
        f"{len(scored)} objects of {len(matched)} images, from {marked} marked objects and "
        f"{boxes} detections; {len(records.lines)} images done, in {len(seen) - len(found)} nothing was "
        f"detected, in {len(found) - len(matched)} nothing that matches a ground truth, "
        f"{len(records.lines) - len(seen)} could not be read."
    )
    if unseen:
        told += f" {len(unseen)} of the objects score 0 in the unchanged image: their curves say nothing."
    return told


def mean(found: list[Record], method: str, metric: str) -> Estimate:
    """Mean of a metric, or of a curve, over `objects`; see `inference.mean`."""
    return inference.mean(found, score(method, metric))


def difference(found: list[Record], method: str, other: str, metric: str) -> Estimate:
    """Mean over `objects` of what `method` has more than `other`; see `inference.difference`."""
    return inference.difference(found, score(method, metric), score(other, metric))


def score(method: str, metric: str) -> Callable[[Record], Any]:
    """Gives a method's metric of one of `objects`."""
    return lambda record: record["methods"][method][metric]


def n_higher(found: list[Record], method: str, other: str, metrics: Iterable[str]) -> int:
    """Number of `objects` for which `method` is above `other` in each of the metrics."""
    pairs = [(score(method, metric), score(other, metric)) for metric in metrics]
    return sum(all(own(record) > its(record) for own, its in pairs) for record in found)


def means(
    found: list[Record], methods: Mapping[str, str], metrics: Mapping[str, str]
) -> dict[str, dict[str, Estimate]]:
    """Means over `objects` of each metric, and in it of each method, by the names to print.

    `methods` and `metrics` map these names to those of the records.
    """
    return {
        column: {row: mean(found, method, metric) for row, method in methods.items()}
        for column, metric in metrics.items()
    }


def differences(
    found: list[Record], pairs: Mapping[str, tuple[str, str]], metrics: Mapping[str, str]
) -> dict[str, dict[str, Estimate]]:
    """As `means`, of what the first method of each pair has more than the second."""
    return {
        column: {row: difference(found, *pair, metric) for row, pair in pairs.items()}
        for column, metric in metrics.items()
    }


def class_mean(found: list[Record], method: str, metric: str) -> float:
    """Mean over the classes of the mean in each class."""
    by_class: dict[str, list[float]] = {}
    for record in found:
        by_class.setdefault(record["label"], []).append(record["methods"][method][metric])
    return float(np.mean([np.mean(values) for values in by_class.values()]))


def _mean_cell(found: list[Record], method: str, metric: str) -> str:
    """Mean and interval as they are printed; the mean alone where few images are left."""
    return mean(found, method, metric).text(METRICS[metric].unit, sign="")


def _class_mean_cell(found: list[Record], method: str, metric: str) -> str:
    return f"{METRICS[metric].unit * class_mean(found, method, metric):.2f}" if found else ""


def ablation(records: Records) -> Table:
    """Table 1."""
    found = objects(records)
    columns, rows = ["setting"], []
    for metric in ABLATION_METRICS:
        columns += [METRICS[metric].heading, "class mean", "paper"]
    for method in [name for name in SETTINGS if found and name in records.settings["methods"]]:
        row = [SETTINGS[method]]
        for metric, paper in zip(ABLATION_METRICS, PAPER_1[method]):
            row += [_mean_cell(found, method, metric), _class_mean_cell(found, method, metric)]
            row.append(f"{paper:.2f}")
        rows.append(row)
    return Table("Table 1: what each part of D-CLOSE adds", columns, rows)


def by_size(records: Records, methods: Sequence[str] | None = None) -> Table:
    """Table 2, by default with all methods of the records, but of the ablation D-CLOSE alone."""
    found = objects(records)
    columns, rows = ["metric", "objects"], []
    if methods is None:
        methods = [name for name in records.settings["methods"] if name not in SETTINGS or name == "dclose"]
    methods = [checks.choice("methods", name, tuple(records.settings["methods"])) for name in methods]
    for method in methods:
        columns += [named(method), *(["paper"] if method in PAPER_2 else [])]
    for metric, written in METRICS.items():
        for k, group in enumerate((*GROUPS, "all", "all, class mean")):
            members = [record for record in found if group in ("all", "all, class mean", record["group"])]
            row = [written.heading, f"{group} ({len(members)})"]
            for method in methods:
                row.append((_mean_cell if k < 4 else _class_mean_cell)(members, method, metric))
                if method in PAPER_2:
                    row.append(f"{PAPER_2[method][metric][k]:.2f}" if k < 4 else "")
            rows.append(row)
    return Table("Table 2: methods by the size of objects", columns, rows)


def cost(records: Records) -> Table:
    """Table 3. Cells of seconds are empty if the run was not timed."""
    seen = [line for line in records.lines if line.get("objects")]
    timed = "seconds" in _costs(records)
    count = sum(len(line["objects"]) for line in seen)
    rows = []
    for method in records.settings["methods"] if seen else ():
        seconds = sum(line["seconds"][method] for line in seen) if timed else 0.0
        passes = sum(line["n_forward"][method] for line in seen)
        numbers = []
        for number in (count, len(seen)):
            numbers += [f"{seconds / number:.2f}" if timed else "", f"{passes / number:.0f}"]
        rows.append([named(method), *numbers, f"{PAPER_3[method]:.2f}" if method in PAPER_3 else ""])
    columns = ["method", "s an object", "passes an object", "s an image", "passes an image", "s, paper"]
    return Table("Table 3: time and forward passes", columns, rows)


def claim(sentence: str, found: list[Record], method: str, other: str, metric: str) -> Claim:
    """A claim that `method` is better than `other` by a metric of `METRICS`, on the same `objects`."""
    side = "below" if metric == "deletion" else "above"
    return Claim(sentence, difference(found, method, other, metric), side, unit=METRICS[metric].unit)


def paper_claims(found: list[Record]) -> list[Claim]:
    """The 33 claims of sections 5.3 and 6 that records can test, in the order of the paper's tables.

    `found` are the `objects` of an evaluation with D-RISE, D-CLOSE and all of its ablation. The five claims
    on Grad-CAM are left out if it was not evaluated.
    """
    called = {metric: written.name for metric, written in METRICS.items()}
    claims = [
        claim(f"6: D-CLOSE outperforms {NAMES[other]} on all metrics: {name}", found, "dclose", other, metric)
        for other in ("drise", "gradcam")
        if other in found[0]["methods"]
        for metric, name in called.items()
    ]
    for metric in ("ebpg", "over_all"):
        for group in GROUPS:
            sentence = "6: one set of parameters serves all sizes: "
            sentence += f"{group} objects, {called[metric]} above D-RISE's"
            members = [record for record in found if record["group"] == group]
            claims.append(claim(sentence, members, "dclose", "drise", metric))
    for metric, paper in (("ebpg", "+1.07"), ("over_all", "+10.38")):
        sentence = f"5.3: superpixels on five levels (MFPP) have more {called[metric]} than D-RISE"
        claims.append(claim(f"{sentence} (paper: {paper})", found, "mfpp", "drise", metric))
    for part, other, without, alone in (
        ("the density map", "fusion", "segments+fusion", "segments+density"),
        ("fusion", "the density map", "segments+density", "segments+fusion"),
    ):
        for k, metric in enumerate(ABLATION_METRICS):
            adds = f"5.3: {part} adds {called[metric]}"
            gains = [PAPER_1[a][k] - PAPER_1[b][k] for a, b in (("dclose", without), (alone, "mfpp"))]
            sentence = f"{adds} to superpixels with {other} (paper: {gains[0]:+.2f})"
            claims.append(claim(sentence, found, "dclose", without, metric))
            sentence = f"{adds} to superpixels alone (paper: {gains[1]:+.2f})"
            claims.append(claim(sentence, found, alone, "mfpp", metric))
    for metric in ABLATION_METRICS:
        sentence = f"5.3: all parts together are better than superpixels alone: {called[metric]}"
        claims.append(claim(sentence, found, "dclose", "mfpp", metric))
    return claims


def size_weights(left_out: Collection[tuple[str, str]]) -> np.ndarray:
    """Weights (3,) of small, middle and large objects in the paper's means of all objects.

    They are 0 or more, add up to 1, and fit the rows of `PAPER_2`, by their relative error. Rows that are
    `left_out`, each a method and a metric, do not count.
    """
    rows = [
        row
        for method, of_method in PAPER_2.items()
        for metric, row in of_method.items()
        if (method, metric) not in left_out
    ]
    *groups, whole = np.array(rows).T
    heavy = 1000.0  # a last equation, that the weights add up to 1
    equations = np.vstack([(np.array(groups) / whole).T, [heavy] * 3])
    return nnls(equations, np.append(np.ones(len(rows)), heavy))[0]


def of_estimates(
    title: str, columns: Mapping[str, Mapping[str, Estimate]], *, digits: int = 2, sign: str = ""
) -> Table:
    """A table of means and intervals: a column for each name, as `means` and `differences` give them.

    `digits` and `sign` are those of `Estimate.text`; differences have the sign "+". A cell is empty where a
    column lacks the row.
    """
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    cells = [
        [column[row].text(digits=digits, sign=sign) if row in column else "" for column in columns.values()]
        for row in rows
    ]
    return Table(title, ["", *columns], [[row, *line] for row, line in zip(rows, cells)])


def of_claims(claims: Iterable[Claim], name: str = "Claims") -> Table:
    """Claims of one family with their evidence and verdicts, see `inference.verdicts`."""
    claims = list(claims)
    found = inference.verdicts(claims)
    tested = sum(verdict.word != "too few" for verdict in found)
    rows = []
    for claim, verdict in zip(claims, found):
        counts = [str(claim.evidence.n_objects), str(claim.evidence.n_images)]
        p = "" if np.isnan(verdict.p) else f"{verdict.p:.3f}" if verdict.p >= 0.001 else "< 0.001"
        rows.append([claim.sentence, claim.evidence.text(claim.unit), *counts, p, f"**{verdict.word}**"])
    title = f"{name}: 95 % intervals over images; p corrected for {tested} claims (Holm)"
    return Table(title, ["claim", "evidence", "objects", "images", "p", "verdict"], rows)


def of_families(families: Mapping[str, Sequence[Claim]]) -> Table:
    """Claims of several detectors side by side, each corrected in its own family, by the detector's name.

    The rows are the claims of the last family. A cell is empty where another family lacks the claim.
    """
    columns, tested, cells = ["claim"], [], {}
    for name, claims in families.items():
        judged = of_claims(claims).rows
        columns += [name, "verdict, p"]
        tested.append(str(sum(p != "" for *_, p, _ in judged)))
        cells[name] = {
            sentence: [f"{evidence} ({n_objects} / {n_images})", f"{verdict} {p}".strip()]
            for sentence, evidence, n_objects, n_images, p, verdict in judged
        }
    *_, last = cells.values()
    rows = [
        [sentence, *(cell for of in cells.values() for cell in of.get(sentence, ["", ""]))]
        for sentence in last
    ]
    title = (
        "Claims side by side: 95 % intervals over images (objects / images); p corrected for "
        f"{' and '.join(tested)} claims (Holm)"
    )
    return Table(title, columns, rows)


def write(folder: str | Path, *, without: str | Path | None = None) -> str:
    """Write ``tables.md``, ``tables.tex`` and ``table_1.csv`` to ``table_3.csv`` beside a folder's records.

    `without` is a file as ``data/split.json``, see `inference.design_part`: its images are left out, and
    the names end in ``_without``, so that the tables of all images stay. Gives the Markdown. A table has
    no row where its methods were not evaluated. An image that has two records counts once, with a
    warning. A folder without records of an evaluation, or that cannot be written, raises `InputError`.
    """
    folder = checks.path(folder)
    records = Records(folder / "records.jsonl")
    _refuse_incomplete(records)
    records.count_once(["image"])
    end, left_out = "", ""
    if without is not None:
        designed = inference.design_part("images", without)
        records.leave_out("image", designed)
        end, left_out = "_without", f" {len(designed)} images on which methods were designed are left out."
    tables, told = [ablation(records), by_size(records), cost(records)], summary(records) + left_out
    markdown = "\n".join([told + "\n", *(table.markdown() for table in tables)])
    latex = "\n".join([f"% {told}", *(table.latex() for table in tables)])
    files = {f"tables{end}.md": markdown, f"tables{end}.tex": latex}
    files |= {f"table_{number}{end}.csv": table.csv() for number, table in enumerate(tables, start=1)}
    with write_errors(folder):
        for name, text in files.items():
            with atomic_write(folder / name) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
    return markdown
