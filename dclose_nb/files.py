"""Files that are whole or not there, folders that belong to nobody else, and files that ship."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from . import checks
from .checks import InputError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
LOCK = ".dclose_nb-lock"
UNFINISHED = ".dclose_nb-unfinished-"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a name in a hidden folder to write under; the file takes its place when all went well.

    Left by an error or Ctrl-C, it leaves nothing behind and an older file of that name as it was. The
    folder is new and has one owner, so that two writers never meet and no link that lies there is followed.
    """
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as hidden:
        unfinished = Path(hidden) / path.name
        yield unfinished
        os.replace(unfinished, path)


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Say in one line what the system refuses while files are written to a folder."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's: weights that are missing, for instance
            raise
        known = folder.parent if folder.name.startswith(UNFINISHED) else folder  # the one that users named
        raise InputError(f"cannot write to the folder {str(known)!r}: {error.strerror or error}") from error


def sha256(path: Path) -> str:
    """sha256 of a file's bytes, which need not fit into the memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """What a file of JSON holds. Other content, and brackets that nest too deeply, raise ValueError."""
    return from_json(path.read_bytes())


def from_json(text: str | bytes) -> Any:
    """As `read_json`, from text."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("brackets nest too deeply") from error


def refuse_foreign(folder: Path, names: Iterable[str], owner: str) -> None:
    """Refuse a folder that holds files of these names, which are not `owner`: they would be lost."""
    foreign = sorted(name for name in names if os.path.lexists(folder / name))
    if foreign:
        raise InputError(f"{str(folder / foreign[0])!r} is {owner} and would be lost: choose another folder")


@contextmanager
def owned(folder: Path) -> Iterator[bool]:
    """Be the only writer of a folder, which is made where it does not exist.

    A second writer is refused at once with `InputError`; a process that died holds nothing. A folder
    that was made and stays empty is removed. Gives whether the system has locks: without them (Windows,
    some network drives) nobody is refused.
    """
    made = [part for part in (folder, *folder.parents) if not part.exists()]  # innermost first
    try:
        with write_errors(folder):
            lock = _lock(folder)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                (folder / LOCK).unlink(missing_ok=True)
                lock.close()
    finally:
        for part in made:
            with suppress(OSError):  # not empty, or never made
                part.rmdir()


def _lock(folder: Path) -> IO[str] | None:
    """A file in a folder that nobody else can lock until it is closed; None where the system has no locks.

    The folder is made where it does not exist.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)  # a run that has just ended may have removed it
        if fcntl is None:
            return None
        try:
            file = (folder / LOCK).open("a")
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), (folder / LOCK).stat()):
                return file
            file.close()  # a run that has just ended removed it
        except FileNotFoundError:
            file.close()
        except BlockingIOError:
            file.close()
            raise InputError(
                f"another run is writing to the folder {str(folder)!r}: wait for its end, or choose "
                "another folder"
            ) from None
        except OSError as error:
            file.close()
            (folder / LOCK).unlink(missing_ok=True)
            checks.warn(f"{str(folder)!r} cannot be locked ({error.strerror}): let no other run write there")
            return None


@contextmanager
def staged(folder: str | Path, own: re.Pattern[str], expected: Collection[str], owner: str) -> Iterator[Path]:
    """Give a hidden folder to write in; what it holds moves to `folder` when all went well.

    Entered before long work, it shows at once whether `folder` can be written. Left by an error
    or Ctrl-C, it leaves nothing behind; what a killed process left is removed by the next one. The old
    manifest goes first and the new one comes last, so that a folder with a manifest is whole. Files
    that only the old one named are removed. Where files cannot be moved, not even at a second try, the
    hidden folder stays, and the next writer takes its place.

    Parameters
    ----------
    folder : path
        See `owned`.
    own : pattern
        Names of files that may belong to us. Those that the folder's manifest names do.
    expected : collection of str
        Names that will be written, as far as they are known before.
    owner : str
        Whose files a foreign one is not, for the message.

    Raises
    ------
    InputError
        `folder` cannot be made or written, another run writes to it, or it holds somebody else's files
        of these names.
    """
    folder = checks.path(folder)
    with owned(folder) as alone:
        with write_errors(folder):
            left = [*folder.glob(f"{UNFINISHED}*")] if alone else []  # by processes that were killed
            old = named_by_manifest(folder, own).union(*(named_by_manifest(stage, own) for stage in left))
            old = {name for name in old if not (folder / name).is_dir()}
            refuse_foreign(folder, set(expected) - old, f"not {owner}")
            stage = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
        try:
            yield stage  # what fails in there is not always the folder's fault
            with write_errors(folder):
                new = {file.name for file in stage.iterdir()}
                refuse_foreign(folder, new - old, f"not {owner}")
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        try:
            with write_errors(folder):
                try:
                    _replace(folder, stage, old - new)
                except BaseException:  # a stop must not leave a folder that is half old and half new
                    _replace(folder, stage, old - new)
                    raise
        finally:
            with suppress(OSError):  # it still holds what cannot be moved
                stage.rmdir()
        for other in left:
            shutil.rmtree(other, ignore_errors=True)


def _replace(folder: Path, stage: Path, stale: Iterable[str]) -> None:
    """Remove what is stale and move what a stage holds; what is done already is not done again."""
    if (stage / MANIFEST).exists():
        for name in (MANIFEST, *stale):
            (folder / name).unlink(missing_ok=True)
    for path in sorted(stage.iterdir(), key=lambda path: path.name == MANIFEST):
        os.replace(path, folder / path.name)


def named_by_manifest(folder: Path, own: re.Pattern[str]) -> set[str]:
    """Files that the folder's manifest names and that can be ours."""
    try:
        return {name for name in read_json(folder / MANIFEST)["files"] if own.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def shipped(name: str) -> Path:
    """Path of something under ``data/``: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "data"
    return (inside if inside.is_dir() else package.parent / "data") / name
