"""Records of long work that survive a stop: JSON Lines under the settings that made them."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from .. import checks
from ..checks import InputError

Record = dict[str, Any]


class Records:
    """A file of records: a line of settings, then a line for each finished piece of work.

    A line is on the disk before `append` returns, so that a run that is killed loses at most what
    it had in hand. A last line that was cut off is removed, with a warning.

    Parameters
    ----------
    path : path
        Read where it exists, else begun; its folder is made.
    settings : dict, optional
        What decides the records. They must be those of the file. Without them a file that is there
        is read as it is.

    Raises
    ------
    InputError
        A file that is damaged, has other settings (the message says which) or cannot be written.
    """

    def __init__(self, path: str | Path, settings: Record | None = None) -> None:
        self.path = checks.path(path)
        self.lines: list[Record] = []
        self.settings: Record = json.loads(json.dumps(settings or {}))  # as they will be read again
        if settings is None or self.path.exists():
            self._read(any_settings=settings is None)
        else:
            self._write({"settings": self.settings}, "x")

    def append(self, line: Record) -> None:
        """Keep one finished piece of work."""
        self._write(line, "a")
        self.lines.append(line)

    def _write(self, line: Record, mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"cannot write to {str(self.path)!r}: {reason}; what it holds is kept, and the same "
                "command goes on from there"
            ) from error

    def _read(self, *, any_settings: bool) -> None:
        try:
            content = self.path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:
                warnings.warn(f"the last line of {self.path} was cut off and is done again", stacklevel=4)
                with self.path.open("r+b") as file:
                    file.truncate(len(whole))
            header, *self.lines = [json.loads(line) for line in whole.splitlines()] or [None]
            if header is None:
                self._write({"settings": self.settings}, "a")
                return
            found = header["settings"]
        except OSError as error:
            raise InputError(f"{str(self.path)!r} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(self.path)!r} is damaged: move it away to begin anew") from error
        if any_settings:
            self.settings = found
        if found != self.settings:
            wanted = self.settings
            names = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
            other = ", ".join(f"{name} {found.get(name)!r}, not {wanted.get(name)!r}" for name in names)
            raise InputError(f"{str(self.path)!r} was made with {other}: choose another folder")
