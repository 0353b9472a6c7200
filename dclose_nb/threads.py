"""Threads that work on the CPU side by side, each with one of PyTorch's own.

Where a network has all threads for one batch, they wait for each other after each layer, and for
what is done between two batches. Batches side by side keep all cores busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from .detection import Detector

Task = TypeVar("Task")
Result = TypeVar("Result")


def threads_for(detector: Detector) -> int:
    """How many threads may call a detector at once: PyTorch's, where it is `thread_safe` and on the CPU."""
    return torch.get_num_threads() if detector.thread_safe and detector.device.type == "cpu" else 1


def map_in_threads(
    detector: Detector, work: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[Result]:
    """Results of `work`, without gradients, in the order of the tasks.

    With several threads, see `threads_for`, each works one task ahead. With one, a task is done here
    when its result is asked for.
    """
    threads = threads_for(detector)
    work = torch.inference_mode()(work)
    if threads == 1:
        for task in tasks:  # not `map`, which a StopIteration of the detector would end without a word
            yield work(task)
        return
    waiting: deque[Future[Result]] = deque()
    torch.set_num_threads(1)  # here, and in threads that begin from now on
    pool = ThreadPoolExecutor(threads)
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
