"""Records of long work that survive a stop: JSON Lines under the settings that made them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import checks
from ..checks import InputError
from ..files import atomic_write, from_json, shipped

Record = dict[str, Any]


class Records:
    """A file of records: a line of settings, then a line for each finished piece of work.

    A line is on the disk before `append` returns, so that a run that is killed loses at most what
    it had in hand. A warning says if the last line was cut off.

    Parameters
    ----------
    path : path
        Read where it exists, else begun; its folder is made.
    settings : dict, optional
        What decides the records. They must be those of the file. A last line that was cut off moves
        to the end of a file beside it, ``records.jsonl.cut-off``. Without settings, a file that is
        there is read and never changed.

    Raises
    ------
    InputError
        A file that is damaged or holds no records, has other settings (the message says which), or
        cannot be written.
    """

    def __init__(self, path: str | Path, settings: Record | None = None) -> None:
        self.path = checks.path(path)
        self.lines: list[Record] = []
        self.settings: Record = json.loads(json.dumps(settings or {}))  # as they will be read again
        header = json.dumps({"settings": self.settings})
        content = b"" if settings is not None and not self.path.exists() else self._content()
        if settings is not None and header.encode().startswith(content):  # nothing, or a part of the header
            self._write(header, "w")
            return
        whole = content[: content.rfind(b"\n") + 1]
        found, *self.lines = self._parsed(whole)
        if settings is None:
            self.settings = found
        elif found != self.settings:
            self._refuse(found)
        if whole != content:
            done = "is left out" if settings is None else "is done again"
            checks.warn(f"the last line of {self.path} was cut off and {done}")
            if settings is not None:
                self._cut_off(content[len(whole) :])

    def append(self, line: Record) -> None:
        """Keep one finished piece of work."""
        self._write(json.dumps(line), "a")
        self.lines.append(line)

    def forget(self, stale: Callable[[Record], bool]) -> None:
        """Remove lines that are `stale` from the file, so that their work is done again."""
        kept = [line for line in self.lines if not stale(line)]
        if len(kept) < len(self.lines):
            text = "\n".join(map(json.dumps, [{"settings": self.settings}, *kept]))
            with self._write_errors(), atomic_write(self.path) as unfinished:
                _write(unfinished, text, "w")
            self.lines = kept

    def count_once(self, names: Sequence[str]) -> None:
        """Keep the first of the lines that have the same values of these names, and warn of the others.

        A line that lacks one of them raises `InputError`.
        """
        first: dict[tuple[Any, ...], Record] = {}
        twice: dict[str, None] = {}
        for number, line in enumerate(self.lines, 2):  # the settings are line 1
            if lacks := [name for name in names if not isinstance(line.get(name), str | int | float)]:
                raise InputError(f"line {number} of {str(self.path)!r} has no {lacks[0]!r}: remove the line")
            if first.setdefault(tuple(line[name] for name in names), line) is not line:
                twice[", ".join(f"{name} {line[name]!r}" for name in names)] = None
        if twice:
            some = "; ".join([*twice][:3]) + (f" and {len(twice) - 3} more" if len(twice) > 3 else "")
            checks.warn(f"{self.path} has more than one line of {some}: the first counts")
        self.lines = list(first.values())

    def leave_out(self, name: str, values: Collection[Any]) -> None:
        """Leave out the lines in which `name` has one of these values; each must be there."""
        there, values = [line[name] for line in self.lines if name in line], list(values)
        if lacking := sorted((value for value in values if value not in there), key=repr):
            some = ", ".join(map(repr, lacking[:3])) + (", ..." if len(lacking) > 3 else "")
            raise InputError(f"{str(self.path)!r} has no {name} {some}, which should be left out")
        self.lines = [line for line in self.lines if line.get(name) not in values]

    def _write(self, line: str, mode: str) -> None:
        with self._write_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(self.path, line, mode)

    def _cut_off(self, rest: bytes) -> None:
        """Move the end of the file to the file for such ends."""
        with self._write_errors():
            with self.path.with_name(f"{self.path.name}.cut-off").open("ab") as kept:
                kept.write(rest + b"\n")
            os.truncate(self.path, self.path.stat().st_size - len(rest))

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"cannot write to {str(self.path)!r}: {reason}; what it holds is kept, and the same "
                "command goes on from there"
            ) from error

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{str(self.path)!r} cannot be read: {error.strerror or error}") from error

    def _parsed(self, content: bytes) -> list[Record]:
        """The settings, and the record of each further line."""
        values = []
        for number, line in enumerate(content.splitlines() or [b""], 1):
            try:
                value = from_json(line)
                value = value["settings"] if number == 1 else value
            except (ValueError, KeyError, TypeError):
                value = None
            if not isinstance(value, dict):
                what = "" if number == 1 else f"line {number} of "
                raise InputError(
                    f"{what}{str(self.path)!r} holds no record or is damaged: move it away to begin anew"
                )
            values.append(value)
        return values

    def _refuse(self, found: Record) -> None:
        """Refuse the settings of the file, which are others."""
        wanted = self.settings
        names = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
        other = ", ".join(f"{name} {found.get(name)!r}, not {wanted.get(name)!r}" for name in names)
        raise InputError(f"{str(self.path)!r} was made with {other}: choose another folder")


def _write(path: Path, text: str, mode: str) -> None:
    """Write text and a line's end, and wait until they are on the disk."""
    with path.open(mode, encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def shipped_records(name: str) -> Records:
    """The records of a study that ship, for instance "conditions"."""
    return Records(shipped(f"results/{name}.jsonl"))
