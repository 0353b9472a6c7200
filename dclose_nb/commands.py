"""What every command does: a line for what a user can mend, and one answer to all ways to be stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .checks import InputError


def run_command(name: str, work: Callable[[], int], *, left: str) -> int:
    """Do the work of a command; returns its exit status.

    That is what `work` returns, 2 for what a user can mend, which is said in one line, and 130 for
    a stop by Ctrl-C, SIGTERM or a terminal that closes; `left` then says what is left of the work. It is
    141 where nobody reads what is printed any more. Anything else keeps its traceback. Warnings take one
    line each.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # it was closed before the command began
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115  as long as the process
    try:
        with _stopped_by_signals(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say(f"note: {message}")
            status = work()
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        _say(f"\n{name}: stopped; {left}")
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        about = f": {error.filename!r}" if error.filename else ""
        _say(f"{name}: {error.strerror or error}{about}")
        return 2
    except (InputError, ImportError, FloatingPointError) as error:
        _say(f"{name}: {error}")
        return 2
    finally:
        _drop_output()


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Answer SIGTERM, and SIGHUP of a terminal that closes, as Ctrl-C."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set them
        for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores it
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(message: str) -> None:
    with suppress(OSError):  # of a terminal that has closed
        print(message, file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Where output cannot be written, drop it, or Python stumbles over it when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
