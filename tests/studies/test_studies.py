"""The package of studies."""

from pathlib import Path

from dclose_nb import studies


def test_every_study_is_reached_by_its_name():
    """``dc.studies.NAME`` loads a study when it is first asked for."""
    modules = {file.stem for file in Path(studies.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(studies.__all__) == modules
