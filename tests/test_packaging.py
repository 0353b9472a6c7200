"""The project's own files agree with each other, and its wheel works outside the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
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
    """Name and version of every requirement, including those of developers."""
    project = PYPROJECT["project"]
    return dict(map(parse, [*project["dependencies"], *project["optional-dependencies"]["dev"]]))


def files_under(folder):
    """Names of the files under a folder, without Python's caches."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The project as users get it: a wheel, built from a copy and unpacked outside the checkout."""
    source, wheels, site = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "site"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("dclose_nb", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", wheels, source], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", site, wheel], check=True)
    return site


@pytest.fixture
def python(installed, tmp_path):
    """Runs Python on the installed project, in a folder of its own."""

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


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
    assert dc.__version__ == PYPROJECT["project"]["version"] == citation["version"]


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


def test_the_wheel_holds_every_file_of_the_package(installed):
    found = files_under(installed / "dclose_nb")
    wanted = files_under(ROOT / "dclose_nb") | {f"data/{name}" for name in files_under(ROOT / "data")}
    assert wanted - found == {"data/README.md"}
    assert {"py.typed", "__init__.pyi"} <= found


def test_the_wheel_explains_a_scene(installed, python, tmp_path):
    arguments = ["scene_3", "--detector", "planted", "--n-masks", "20", "--top", "1", "--out", "out"]
    assert "sheet.png" in python("-m", "dclose_nb", "explain", *arguments)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["n_forward"] == 21
    assert (tmp_path / "out" / "maps.npz").is_file()
    places = python(
        "-c", "import dclose_nb.explanation as e, dclose_nb.files as f; print(e.__file__, f.shipped(''))"
    )
    assert all(place.startswith(str(installed)) for place in places.split())


def test_the_documents_name_commands_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for name, least in (
        ("README.md", {"demo", "test", "lab", "book"}),
        ("CONTRIBUTING.md", {"quick", "test", "lint", "format", "notebooks", "book"}),
    ):
        named = set(
            re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", (ROOT / name).read_text(encoding="utf-8"), re.M)
        )
        words = {word for pair in named for word in pair if word}
        assert least <= words <= targets


@pytest.mark.parametrize(("user", "root"), [(0, True), (1000, False)])
def test_make_lab_starts_for_root_too_as_in_a_container(user, root, tmp_path):
    for name, line in (("jupyter", 'echo "$@"'), ("id", f"echo {user}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    command = ["make", "lab", f"BIN={tmp_path}", f"READY={tmp_path}/jupyter"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["lab", "--notebook-dir=notebooks", *(["--allow-root"] * root)]


def test_the_workflow_runs_what_every_change_must_pass():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps and os.access(ROOT / ".ci" / "run", os.X_OK)


def test_hooks_run_tools_of_the_project():
    """Hooks download nothing, and each calls a tool that `make` installs."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        folder, tool = hook["entry"].split()[0].rsplit("/", 1)
        assert (hook["language"], folder) == ("system", ".venv/bin") and tool in wanted()


def test_the_changelog_has_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", text, re.M)[0] == dc.__version__


def test_a_torchvision_that_does_not_fit_is_named_at_once(tmp_path):
    """A stand-in does what a CPU-only torch with a CUDA torchvision does."""
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
