"""Several batches at the same time on the CPU, one in each thread.

If all threads work on one batch, they wait for each other after each layer and between batches. With
a batch for each thread, all cores stay busy.
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
    """How many threads may call a detector at once: PyTorch's if it is `thread_safe` on a CPU, else 1."""
    return torch.get_num_threads() if detector.thread_safe and detector.device.type == "cpu" else 1


def map_in_threads(
    detector: Detector, work: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[Result]:
    """Results of `work`, without gradients, in the order of the tasks.

    With several threads (see `threads_for`), tasks start before their results are asked for. With one,
    each task runs in this thread when its result is asked for.
    """
    threads = threads_for(detector)
    work = torch.inference_mode()(work)
    if threads == 1:
        for task in tasks:  # not `map`, which a StopIteration of the detector would end without a word
            yield work(task)
        return
    waiting: deque[Future[Result]] = deque()
    torch.set_num_threads(1)  # in this thread, and in threads that start from now on
    pool = ThreadPoolExecutor(threads)
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        try:
            pool.shutdown(cancel_futures=True)  # waits for batches in hand; Ctrl-C may end the wait
        finally:
            torch.set_num_threads(threads)
