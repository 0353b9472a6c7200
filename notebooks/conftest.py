"""Notebooks run as tests where a detector is at hand."""

import pytest
from toys import NO_WEIGHTS, weights_at_hand


def pytest_collection_modifyitems(items):
    if not weights_at_hand():
        for item in items:
            if item.path.suffix == ".ipynb":
                item.add_marker(pytest.mark.skip(reason=NO_WEIGHTS))
