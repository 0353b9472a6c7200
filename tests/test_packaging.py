"""The project's own files agree with each other."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import dclose_nb as dc

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONSTRAINTS = (ROOT / "constraints.txt").read_text()

CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base", "opencv-python": "py-opencv"}


def parse(requirement):
    return re.match(r"([\w.-]+)(.*)", requirement.strip()).groups()


def wanted():
    """Name and version of every requirement, developers' included."""
    project = PYPROJECT["project"]
    return dict(map(parse, [*project["dependencies"], *project["optional-dependencies"]["dev"]]))


def test_conda_and_pip_install_the_same():
    *conda, pip = ENVIRONMENT["dependencies"]
    found = dict(map(parse, [*conda, *pip["pip"]]))
    assert found.pop("python") == PYPROJECT["project"]["requires-python"]
    assert found.pop("pip") == ""
    assert found == {CONDA_NAMES.get(name, name): versions for name, versions in wanted().items()}


def test_constraints_pin_what_is_wanted():
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", CONSTRAINTS, re.M))
    assert set(pins) <= set(wanted())
    assert {"torch", "torchvision", "numpy", "scikit-image", "pixeltable-yolox"} <= set(pins)


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert dc.__version__ == version("dclose_nb") == PYPROJECT["project"]["version"] == citation["version"]


def test_the_citation_names_the_paper():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert paper["title"] == "Towards Better Explanations for Object Detection"
    assert [author["family-names"] for author in paper["authors"]] == [
        "Truong",
        "Nguyen",
        "Nguyen",
        "Nguyen",
        "Cao",
    ]
    assert paper["identifiers"][0]["value"] == "arXiv:2306.02744"


def test_every_package_is_installed_with_the_project():
    folders = {path.parent for path in (ROOT / "dclose_nb").rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == names | {"dclose_nb.data"}


@pytest.mark.parametrize("word", ["demo", "test", "lab", "lint", "book"])
def test_the_readme_s_commands_exist(word):
    assert f"make {word}" in (ROOT / "README.md").read_text()
    assert re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.M)


def test_a_torchvision_that_does_not_fit_is_named_at_once(tmp_path):
    """What a CPU-only torch beside the registry's torchvision does, played by a stand-in."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for command in (["-c", "import dclose_nb; dclose_nb.explain"], ["-m", "dclose_nb", "explain", "coffee"]):
        result = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
            cwd=tmp_path,
        )
        assert result.returncode != 0
        *before, last = result.stderr.strip().splitlines()
        assert command[0] == "-c" or not before  # the command says one line
        assert "torch and torchvision do not fit" in last
        assert "pip install" in last
