"""The scripts in ``benchmarks/`` start, and the calibration counts what it says."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dclose_nb as dc
from dclose_nb.studies.coco import Truth

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.py")))
def test_a_benchmark_can_be_loaded(name):
    assert callable(load(name).main)


def test_calibration_counts_the_pixels_within_the_error(monkeypatch):
    """An error of 0 holds no pixel that differs; an error of 1 holds all."""
    calibration = load("calibration")
    monkeypatch.setattr(calibration, "BUDGETS", (20,))
    monkeypatch.setattr(calibration, "SEEDS", 2)
    monkeypatch.setattr(calibration, "REFERENCE", (2, 30))
    drawn = dc.planted.scene(4, n_objects=1)
    truth = Truth(4, "scene_4", drawn.boxes, drawn.names, [None])
    explain, detector = dc.explain, dc.load_detector("planted", device="cpu")
    found, made = {}, {}
    for error in (0, 1, None):

        def with_error(*args, error=error, **options):
            asked = tuple(options.items())
            e = made[asked] = made.get(asked) or explain(*args, **options)
            return e if error is None else replace(e, error=np.full(e.saliency.shape, error, np.float32))

        monkeypatch.setattr(dc, "explain", with_error)
        (record,) = calibration.study_image(detector, drawn.image, truth)["objects"]
        found[error] = record["methods"]["regression 20"]
    assert found[0]["shown_one"] < 0.05 and found[0]["error"] == 0
    assert found[1]["within_one"] == found[1]["shown_two"] == found[1]["error"] == 1
    assert 0.2 < found[None]["within_one"] < found[None]["within_two"] < 1
    assert found[0]["deviation"] == found[1]["deviation"] == found[None]["deviation"] > 0
