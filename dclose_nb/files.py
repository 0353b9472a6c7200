"""Files that are whole or not there, folders that belong to nobody else, and files that ship."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import checks
from .checks import InputError

MANIFEST = "manifest.json"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
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
def write_errors(folder: Path) -> Iterator[None]:
    """Say in one line what the system refuses while files are written to a folder."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to the folder {str(folder)!r}: {error.strerror or error}") from error


def refuse_foreign(folder: Path, names: Iterable[str], owner: str) -> None:
    """Refuse a folder that holds files of these names, which are not `owner`: they would be lost."""
    foreign = sorted(name for name in names if (folder / name).exists())
    if foreign:
        raise InputError(f"{str(folder / foreign[0])!r} is {owner} and would be lost: choose another folder")


@contextmanager
def staged(folder: str | Path, own: re.Pattern[str], expected: Collection[str], owner: str) -> Iterator[Path]:
    """Give a hidden folder to write in; what it holds moves to `folder` when all went well.

    Entered before long work, it shows at once whether `folder` can be written. Left by an error
    or Ctrl-C, it leaves nothing behind. The old manifest goes first and the new one comes last, so
    that a folder with a manifest is whole. Files that only the old one named are removed.

    Parameters
    ----------
    folder : path
        Made where it does not exist.
    own : pattern
        Names of files that may belong to us. Those that the folder's manifest names do.
    expected : collection of str
        Names that will be written, as far as they are known before.
    owner : str
        Whose files a foreign one is not, for the message.

    Raises
    ------
    InputError
        `folder` cannot be made or written, or holds somebody else's files of these names.
    """
    folder = checks.path(folder)
    made = [part for part in (folder, *folder.parents) if not part.exists()]  # innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"cannot write to the folder {str(folder)!r}: {error.strerror or error}") from error
    try:
        old = _named_by_manifest(folder, own)
        refuse_foreign(folder, set(expected) - old, f"not {owner}")
        yield stage
        new = {file.name for file in stage.iterdir()}
        refuse_foreign(folder, new - old, f"not {owner}")
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in sorted(new, key=lambda name: name == MANIFEST):
            os.replace(stage / name, folder / name)
        for name in old - new:
            (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        _remove_empty(made)


def _named_by_manifest(folder: Path, own: re.Pattern[str]) -> set[str]:
    """Files that the folder's manifest names and that can be ours."""
    try:
        named = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name for name in named if own.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not empty, or never made
            folder.rmdir()


def shipped(name: str) -> Path:
    """Path of something under ``data/``: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "data"
    return (inside if inside.is_dir() else package.parent / "data") / name
