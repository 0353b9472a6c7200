"""Files that are whole or not there, and those that ship."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .checks import InputError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give another name to write under; the file takes its own when all went well.

    Left by an error or Ctrl-C, it leaves nothing behind and an older file of that name as it was.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the system refuses while files are written to a folder, as one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to the folder {str(folder)!r}: {error.strerror or error}") from error


def shipped(name: str) -> Path:
    """Path of something under ``data/``: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "data"
    return (inside if inside.is_dir() else package.parent / "data") / name
