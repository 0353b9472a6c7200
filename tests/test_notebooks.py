"""Tests of the committed notebooks. nbval runs them, on photos or (without weights) on scenes."""

import json
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_they_are_numbered_and_all_there():
    stems = [path.stem for path in NOTEBOOKS]
    assert [stem[:2] for stem in stems] == [f"{k:02}" for k in range(len(stems))]
    readme = (NOTEBOOKS[0].parents[1] / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(notebooks/(\w+)\.ipynb\)", readme)) == set(stems)


def test_it_is_a_valid_notebook(notebook):
    nbformat.validate(nbformat.read(notebook, as_version=4))


def test_it_is_committed_with_its_outputs(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    assert notebook.stat().st_size < 1_500_000


def test_its_cells_are_short(notebook):
    assert all(len(cell.source.splitlines()) <= 20 for cell in code_cells(notebook))


def test_it_names_no_path_of_a_machine(notebook):
    text = json.dumps(nbformat.read(notebook, as_version=4))
    assert not re.search(r"/(home|root|work|Users)/\w", text)
