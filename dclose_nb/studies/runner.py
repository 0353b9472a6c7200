"""The runner of all studies: one process or many do the tasks, and a stopped run goes on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import RLock, Thread
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from .. import checks
from ..checks import InputError
from ..commands import run_command
from ..detection import Detector
from ..detectors import load_detector
from ..explanation import versions
from ..files import atomic_write, owned, read_json, write_errors
from .records import Record, Records

ATTEMPTS = 3  # times in a row that workers may die before the study gives up


class Task(NamedTuple):
    """An image to study."""

    # Tells this task from all others, for example {"image": 139}. All tasks have the same names in one order.
    key: Record
    arguments: tuple[Any, ...]  # of the function that does the work


Results = Generator[tuple[Task, Record], None, None]


def run_study(
    out: str | Path,
    settings: Record,
    tasks: Iterable[Task],
    work: Callable[..., Record],
    *,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool = True,
    stale: Callable[[Record], bool] = lambda line: "error" in line,
) -> Records:
    """Do the tasks of a study that its folder has no record of yet, and give all its records.

    Records are the same whoever does the work, but for their order, and for rounding where workers
    have other numbers of threads.

    Parameters
    ----------
    out : path
        Gets ``records.jsonl``, a line as each task is done, and ``manifest.json``, which says how,
        where and with which versions.
    settings : dict
        What decides the records. If `out` has records of other settings, `InputError` is raised.
    tasks : iterable of Task
        Two of one key raise `InputError`.
    work : callable
        A function of a module, called with a task's arguments; all are pickled for workers. The line
        of a task is its key and what this returns.
    workers : int
        Processes on this machine, which share its cores.
    executor : concurrent.futures.Executor, optional
        Does the work in place of own processes; Dask's is ``client.get_executor()``.
    progress : bool
    stale : callable
        Whether a record is forgotten, so that its task is done again; by default an ``error`` is.
    """
    checks.at_least("workers", workers, 1)
    out, tasks = checks.path(out), list(tasks)
    names = list(tasks[0].key) if tasks else []
    keys = Counter(tuple(task.key.values()) for task in tasks)
    if max(keys.values(), default=1) > 1:
        known = ", ".join(f"{name} {value!r}" for name, value in zip(names, keys.most_common(1)[0][0]))
        raise InputError(f"{known} is asked for more than once: records tell one from another by this")
    with owned(out):
        runs = _runs_before(out)
        records = Records(out / "records.jsonl", settings)
        records.forget(stale)
        if names:
            records.count_once(names)
        done = {tuple(line[name] for name in names) for line in records.lines}
        todo = [task for task in tasks if tuple(task.key.values()) not in done]
        of_which_done = len(tasks) - len(todo)
        run = {"images": len(tasks), "of_which_done": of_which_done, "workers": workers}
        _write_manifest(records, [*runs, run])
        if executor is not None:
            results = _by_executor(executor, work, todo)
        elif workers > 1:
            results = _by_processes(workers, work, todo)
        else:
            results = ((task, work(*task.arguments)) for task in todo)
        bar = tqdm(total=len(tasks), initial=of_which_done, unit="image", disable=not progress)
        with bar, closing(results):
            for task, found in results:
                records.append(task.key | found)
                bar.update()
    _loaded.cache_clear()  # networks are large
    return records


FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")  # package.module:function


class DetectorSource(NamedTuple):
    """A detector by what `load_detector` needs to load it, so that each process can load its own."""

    detector: str | None  # what `load_detector` takes, or FUNCTION
    class_names: tuple[str, ...] | None = None
    device: str | None = None
    decode: str | None = None

    def __str__(self) -> str:
        return self.detector or "the default detector"

    def load(self) -> Detector:
        """The detector; whatever is wrong with it raises `InputError`, as of `load_detector`."""
        called = self.detector is not None and FUNCTION.fullmatch(self.detector)
        made = _made_by(called[0]) if called else self.detector
        facts = {} if self.decode is None else {"decode": self.decode}
        return load_detector(made, class_names=self.class_names, device=self.device, **facts)


def _made_by(name: str) -> Any:
    """What a `FUNCTION` returns; modules in the current folder are found, as by ``python -m``."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made = getattr(import_module(module), function)()
    except Exception as error:  # somebody else's code raises whatever it likes
        raise InputError(f"{name} gives no detector: {type(error).__name__}: {error}") from error
    if made is None:
        raise InputError(f"{name} returns None: it must return what dc.load_detector takes")
    return made


def detector_of(detector: str | DetectorSource | Detector) -> Detector:
    """A detector by its name or source, loaded once in a process; a `Detector` is given back as it is."""
    return detector if isinstance(detector, Detector) else _loaded(detector)


@lru_cache(maxsize=4)
def _loaded(detector: str | DetectorSource) -> Detector:
    return load_detector(detector) if isinstance(detector, str) else detector.load()


def _by_executor(executor: Executor, work: Callable[..., Record], tasks: Iterable[Task]) -> Results:
    """Tasks as they are done; those that wait are cancelled when this is left."""
    with _ctrl_c_blocked():  # processes begin here
        futures = {executor.submit(work, *task.arguments): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            future.cancel()


def _by_processes(workers: int, work: Callable[..., Record], tasks: Iterable[Task]) -> Results:
    """Tasks done by own processes, which end with this one; where one dies, new ones do what is left."""
    left = {id(task): task for task in tasks}
    threads = max(torch.get_num_threads() // workers, 1)  # of as many as this process may use
    context = get_context("spawn")
    deaths = 0
    while left:
        before, others = len(left), set(active_children())
        ours, theirs = context.Pipe()
        try:
            with ProcessPoolExecutor(
                workers, context, initializer=_begin_worker, initargs=(threads, theirs)
            ) as pool:
                try:
                    for task, found in _by_executor(pool, work, left.values()):
                        yield task, found
                        del left[id(task)]
                except BaseException:  # nobody waits for what workers have in hand
                    for process in set(active_children()) - others:
                        process.terminate()
                    raise
        except BrokenExecutor as error:
            deaths = 1 if len(left) < before else deaths + 1
            if deaths == ATTEMPTS:
                raise InputError(
                    f"worker processes died {ATTEMPTS} times without an image done in between: is there "
                    f"memory for {workers}? What was done is kept."
                ) from error
            warnings.warn(f"a worker process died; {len(left)} images are left and go on", stacklevel=4)
        finally:
            ours.close()
            theirs.close()


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Hold Ctrl-C back; processes that begin meanwhile never heed it, since their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(threads: int, parent: Connection) -> None:
    """Make a process a worker that leaves when the other end of a pipe closes, be it by kill -9."""

    def leave() -> None:
        with suppress(EOFError, OSError):
            parent.recv()
        os._exit(1)

    torch.set_num_threads(threads)
    tqdm.set_lock(RLock())  # its own is a semaphore, which would be left when this process is ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be blocked
    Thread(target=leave, daemon=True).start()


def _runs_before(folder: Path) -> list[Record]:
    """The runs that a folder's ``manifest.json`` names."""
    path = folder / "manifest.json"
    try:
        return [*read_json(path)["runs"]] if path.exists() else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{str(path)!r} is damaged, or belongs to something else than a study: choose another folder, "
            "or move it away"
        ) from error


def _write_manifest(records: Records, runs: list[Record]) -> None:
    """Write the settings and the runs, the last with its machine, to ``manifest.json``."""
    path = records.path.with_name("manifest.json")
    runs[-1] |= {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    runs[-1] |= {"machine": platform.platform(), "cores": os.cpu_count(), "versions": versions()}
    content = {"settings": records.settings, "runs": runs}
    with write_errors(path.parent), atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def study_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Parser of a study's command, to which the study adds its own options."""
    parser = argparse.ArgumentParser(prog=f"python -m dclose_nb.studies.{name}", description=description)
    parser.add_argument("out", metavar="OUT", help="records; a run goes on from there and tries errors again")
    parser.add_argument("--workers", type=int, default=1, metavar="K", help="processes; default: 1")
    return parser


def study_command(name: str, work: Callable[[], object]) -> int:
    """Do what a study's command does: print what `work` gives, and return the exit status."""

    def printed() -> int:
        print(work())
        return 0

    return run_command(name, printed, left="the same command goes on from there")
