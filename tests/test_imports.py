"""Imports of the package go down its floors, never up and never in a circle."""

import ast
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = [  # the lowest first; a file without a floor of its own is on that of its package
    "checks",
    "files commands",
    "detection masks density fusion",
    "similarity threads",
    "sampling",
    "planted methods",
    "explanation",
    "metrics",
    "detectors",
    "planted.training",
    "images",
    "plot",
    "reports testing",
    "studies.records studies.inference",
    "studies.coco studies.runner studies.tables",
    "studies explorer_steps",
    "studies.error_evidence studies.condition_evidence studies.planted_tables studies.leaderboard",
    "paper explorer folder exercises studies.standings",
    "dclose_nb",  # the public names
    "cli",
    "__main__",
]
HEIGHTS = {name: height for height, names in enumerate(FLOORS) for name in names.split()}
CORE = {
    "detection",
    "masks",
    "similarity",
    "density",
    "fusion",
    "threads",
    "sampling",
    "methods",
    "explanation",
}
WINGS = {"studies", "paper", "reports", "explorer_steps", "explorer", "folder"}


def imported(path, package):
    """Dotted names of all that a file imports: at its top, in functions and for types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def import_graph():
    """For each file of the package, the files of the package that it imports."""
    graph, paths = {}, {}
    for path in (ROOT / "dclose_nb").rglob("*.py"):
        paths[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    for name, path in paths.items():
        found = imported(path, name if path.stem == "__init__" else name.rpartition(".")[0])
        graph[name] = {full if full in paths else full.rpartition(".")[0] for full in found} & set(paths)
    return graph


def height(name):
    short = name.removeprefix("dclose_nb.")
    return HEIGHTS.get(short, HEIGHTS.get(short.split(".")[0], -1))


def test_every_import_goes_down():
    graph = import_graph()
    assert [name for name in graph if height(name) < 0] == []  # each file has a floor
    edges = [(name, imported) for name, imports in graph.items() for imported in imports]
    assert [f"{name} -> {imported}" for name, imported in edges if height(imported) > height(name)] == []


def test_no_import_goes_in_a_circle():
    TopologicalSorter(import_graph()).prepare()


def test_the_core_stands_below_the_wings():
    lowest_wing = min(floor for name, floor in HEIGHTS.items() if name.split(".")[0] in WINGS)
    assert max(HEIGHTS[name] for name in CORE) < lowest_wing
