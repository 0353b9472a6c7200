"""Notebooks run as tests where a detector is at hand."""

import pytest

from dclose_nb.detectors import weights


def pytest_collection_modifyitems(items):
    if not weights.path_of("yolox_nano").is_file():
        reason = "the weights of yolox_nano are not at hand: run `make demo` once, or set YOLOX_HOME"
        for item in items:
            if item.path.suffix == ".ipynb":
                item.add_marker(pytest.mark.skip(reason=reason))
