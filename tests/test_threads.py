import threading
import time

import numpy as np
import pytest
import torch
from toys import Lamps, out_of_memory_above

import dclose_nb as dc
from dclose_nb import metrics
from dclose_nb.threads import map_in_threads


class Safe(Lamps):
    thread_safe = True


@pytest.fixture
def safe(lamps):
    return Safe(lamps.boxes.numpy(), lamps.class_probs.numpy())


def test_results_come_in_the_order_of_the_tasks(safe, threads):
    begun = []

    def work(task):
        begun.append(
            (task, threading.get_ident(), torch.get_num_threads(), torch.is_inference_mode_enabled())
        )
        time.sleep(0.02 if task % 2 else 0)
        return 10 * task

    assert list(map_in_threads(safe, work, range(12))) == [10 * task for task in range(12)]
    tasks, where, own, inference = zip(*begun)
    assert sorted(tasks) == list(range(12)) and all(inference)
    assert threading.get_ident() not in where and 1 < len(set(where)) <= threads
    assert set(own) == {1} and torch.get_num_threads() == threads


def test_a_detector_that_is_not_thread_safe_works_in_the_caller_s_thread(lamps, threads):
    asked = []

    def work(task):
        asked.append((task, threading.get_ident(), torch.get_num_threads()))
        return task

    results = map_in_threads(lamps, work, range(5))
    assert next(results) == 0 and asked == [(0, threading.get_ident(), threads)]
    assert list(results) == [1, 2, 3, 4]


def test_threads_work_a_few_tasks_ahead_and_stop_with_the_caller(safe, threads):
    begun = []
    results = map_in_threads(safe, begun.append, range(1000))
    for _ in range(3):
        next(results)
    time.sleep(0.1)
    assert len(begun) <= 3 + threads + 1
    results.close()
    assert len(begun) <= 3 + threads + 1 and torch.get_num_threads() == threads


def test_an_error_reaches_the_caller_and_ends_the_work(safe, threads):
    begun = []

    def work(task):
        begun.append(task)
        if task == 2:
            raise ZeroDivisionError("2")

    with pytest.raises(ZeroDivisionError):
        list(map_in_threads(safe, work, range(1000)))
    assert len(begun) <= 3 + 4 * threads and torch.get_num_threads() == threads


def test_later_threads_have_all_of_pytorch_s_threads(safe, threads):
    list(map_in_threads(safe, lambda task: task, range(4)))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [threads]


def test_an_iterator_that_ends_in_the_detector_does_not_end_the_masks_in_silence(lit):
    answers = iter([{"boxes": [[1, 1, 7, 9]], "class_probs": [[0.9]]}] * 5)
    detector = dc.load_detector(lambda image: next(answers), class_names=["a"])
    with pytest.raises(RuntimeError, match="StopIteration"):
        dc.explain(detector, lit, method="drise", n_masks=20, progress=False)


@pytest.mark.parametrize("method", ["dclose", "contrast", "drise"])
def test_maps_are_the_same_with_threads_and_without(lamps, safe, lit, threads, method):
    options = {"method": method, "n_masks": 90, "batch_size": 8, "progress": False}
    expected, found = (dc.explain(toy, lit, toy.detect(lit), **options) for toy in (lamps, safe))
    assert found.n_forward == expected.n_forward == 90
    assert np.array_equal(found.saliency, expected.saliency)


def test_curves_are_the_same_with_threads_and_without(lamps, safe, lit, threads):
    targets = lamps.detect(lit)
    maps = np.random.default_rng(0).random((len(targets), *lit.shape[:2]))
    expected, found = (
        metrics.curves(detector, detector.prepare(lit), targets, maps, steps=30) for detector in (lamps, safe)
    )
    for kind in ("deletion", "insertion"):
        for wanted, threaded in zip(expected[kind], found[kind]):
            assert np.array_equal(wanted.curve, threaded.curve)


def test_too_little_memory_halves_the_batch_in_threads_too(lamps, safe, lit, threads):
    safe.predict = out_of_memory_above(3, safe.predict)
    targets = lamps.detect(lit)
    options = {"method": "drise", "n_masks": 60, "progress": False}
    with pytest.warns(UserWarning, match="going on with batches of 2"):
        found = dc.explain(safe, lit, targets, batch_size=8, **options)
    expected = dc.explain(lamps, lit, targets, batch_size=8, **options)
    assert np.allclose(found.saliency, expected.saliency, atol=1e-6)


class Slow(Safe):
    """Slow enough that `watch` is called from time to time."""

    def predict(self, pixels):
        time.sleep(0.05)
        return super().predict(pixels)


def test_a_watcher_can_stop_threads(safe, lit, threads):
    slow, targets = Slow(safe.boxes.numpy(), safe.class_probs.numpy()), safe.detect(lit)
    seen = []

    def watch(explanation):
        seen.append(explanation.n_forward)
        return len(seen) == 2

    options = {"n_masks": 100_000, "batch_size": 4, "progress": False}
    found = dc.explain(slow, lit, targets, watch=watch, **options)
    assert len(seen) == 2 and found.n_forward == seen[-1] and torch.get_num_threads() == threads


@pytest.mark.parametrize("photo", ["coffee", "scene_3"])
def test_real_networks_give_the_same_answers_in_threads(photo, threads, monkeypatch, request):
    if photo == "coffee":
        detector = request.getfixturevalue("real")
    else:
        detector = dc.load_detector("planted_two_stage", device="cpu")
    image = dc.load_photo(photo)
    targets = detector.detect(image)
    found = dc.explain(detector, image, targets, method="drise", n_masks=96, progress=False)
    monkeypatch.setattr(detector, "thread_safe", False, raising=False)
    expected = dc.explain(detector, image, targets, method="drise", n_masks=96, progress=False)
    assert np.allclose(found.saliency, expected.saliency, atol=1e-4)
