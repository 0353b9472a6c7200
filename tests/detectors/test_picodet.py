"""PicoDet: fetched by pip and checked, and its proposals are those before its own suppression."""

import copy
import os
import pickle
import subprocess
import threading
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from detectors.test_yolox import SEEN, average_precision, is_seen

import dclose_nb as dc
from dclose_nb.detectors import MissingWeights, WeightsError, picodet
from dclose_nb.detectors.sessions import load_openvino
from dclose_nb.testing import check_detector


@pytest.fixture(scope="module")
def network():
    try:
        return dc.load_detector("picodet_s")
    except MissingWeights as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def files(network):
    return {name: (network.folder / name).read_bytes() for name in picodet.SHA256}


@pytest.mark.parametrize("photo", SEEN["picodet_s"])
def test_what_picodet_sees_on_the_shipped_photos(network, photo):
    assert is_seen(network, photo)


def test_it_keeps_the_contract(network):
    check_detector(network, dc.load_photo("coffee"))
    assert network.provenance["weights_sha256"] == picodet.SHA256["model.pdiparams"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot say on which cores")
def test_a_pass_is_not_bound_to_a_core(network):
    """Else all workers of a study, which have a thread each, share the first core."""
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    if len(allowed) == 1:
        pytest.skip("there is one core")
    torch.set_num_threads(1)
    try:
        alone = pickle.loads(pickle.dumps(network))  # compiled for one thread
        canvas = alone.prepare(dc.load_photo("coffee"))
        with ThreadPoolExecutor(1) as worker:
            thread, seen = worker.submit(threading.get_native_id).result(), set()
            passes = worker.submit(alone.predict, canvas.pixels.expand(8, -1, -1, -1))
            while not passes.done():
                seen.add(frozenset(os.sched_getaffinity(thread)))
    finally:
        torch.set_num_threads(threads)
    assert seen == {frozenset(allowed)}


@lru_cache
def whole_network(folder):
    core = load_openvino().Core()
    return core.compile_model(
        core.read_model(str(folder / "model.pdmodel")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )


def own_detections(network, image):
    """What the whole file gives with its own suppression: rows of class, score and box in canvas pixels."""
    whole = whole_network(network.folder)
    pixels = network.prepare(image).pixels[None]
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (picodet.MEAN, picodet.STD))
    images = ((pixels - mean) / std).numpy()
    return whole({"image": images, "scale_factor": np.ones((1, 2), np.float32)})[0]


def test_proposals_hold_all_that_the_files_own_suppression_keeps(network):
    image = dc.load_photo("coffee")
    rows = own_detections(network, image)
    boxes, objectness, probs = (
        part[0].numpy() for part in network.predict(network.prepare(image).pixels[None])
    )
    assert boxes.shape == (3598, 4) and probs.shape == (3598, 80)
    scores = objectness[:, None] * probs
    for label, score, *box in rows[:20]:
        near = np.abs(boxes - box).max(axis=1) < 0.05
        assert near.any() and np.abs(scores[near, int(label)] - score).min() < 1e-4


@pytest.mark.slow
def test_average_precision_is_that_of_the_files_own_suppression(network, coco):
    class Own:
        """The file with its own suppression, as `average_precision` asks a detector."""

        def detect(self, image, **thresholds):
            labels, scores, boxes = np.split(own_detections(network, image), [1, 2], axis=1)
            height, width = image.shape[:2]
            boxes = boxes * np.tile([width, height], 2) / 416
            names = [network.class_names[int(label)] for label in labels[:, 0]]
            return types.SimpleNamespace(boxes=boxes, names=names, scores=scores[:, 0])

    ours, own = (average_precision(detector, coco, every=3) for detector in (network, Own()))
    assert ours == pytest.approx(own, abs=0.01) and own > 0.2


def test_threads_processes_and_batches_give_the_same(network):
    image = dc.load_photo("chelsea")
    pixels = torch.stack([network.prepare(image).pixels, network.prepare(image[:, ::-1].copy()).pixels])
    together = network.predict(pixels)
    with ThreadPoolExecutor(2) as pool:
        each = list(pool.map(network.predict, pixels.split(1)))
    again = pickle.loads(pickle.dumps(network)).predict(pixels)
    for whole, parts, same in zip(together, zip(*each), again):
        assert torch.allclose(whole, torch.cat(parts), atol=1e-3)
        assert torch.equal(whole, same)


def test_it_runs_on_the_cpu_and_takes_no_facts(network):
    with pytest.raises(dc.InputError, match="takes no device"):
        dc.load_detector("picodet_s", device="cuda")
    with pytest.raises(dc.InputError, match="takes no class_names"):
        dc.load_detector("picodet_s", class_names=["a"])


# -- fetching


def pip(stderr="", contents=None, raw=None):
    """A `subprocess.run` that fails with `stderr`, or leaves a wheel with these contents."""

    def run(command, **options):
        assert {"--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input"} <= set(command)
        listed = Path(command[command.index("--requirement") + 1]).read_text()
        assert listed == f"{picodet.WHEEL} --hash=sha256:{picodet.WHEEL_SHA256}\n"
        if stderr:
            return types.SimpleNamespace(returncode=1, stderr=stderr)
        wheel = Path(command[command.index("--dest") + 1]) / "paddlelabel_ml-1.0.0-py3-none-any.whl"
        if raw is not None:
            wheel.write_bytes(raw)
        else:
            with zipfile.ZipFile(wheel, "w") as opened:
                for name, content in contents.items():
                    opened.writestr(picodet.INSIDE + name, content)
        return types.SimpleNamespace(returncode=0, stderr="")

    return run


def test_two_files_are_taken_from_the_wheel(files, tmp_path):
    kept = tmp_path / "new" / "picodet_s"
    picodet.fetch(kept, pip(contents=files))
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == files
    assert picodet.PicoDetDetector(kept).detect(dc.load_photo("chelsea")).names[0] == "cat"


WHY = "picodet_s is not in .*picodet_s and could not be fetched as paddlelabel_ml==1.0.0 by pip: "


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (pip("WARNING: slow\nERROR: No matching distribution found\n"), "No matching distribution found"),
        (pip("/bin/python: No module named pip\n"), "/bin/python: No module named pip"),
        (pip("\n"), "no reason given"),
        (pip(raw=b"no zip"), r"the wheel is damaged \(File is not a zip file\)"),
        (pip(contents={"model.pdmodel": b""}), "the wheel is damaged"),
        (pip(contents=dict.fromkeys(picodet.SHA256, b"other")), "the wheel's model.pdmodel is another"),
    ],
)
def test_what_cannot_be_fetched_is_said_and_leaves_nothing(run, why, tmp_path):
    kept = tmp_path / "picodet_s"
    with pytest.raises(MissingWeights, match=WHY + why):
        picodet.fetch(kept, run)
    assert not list(kept.iterdir())


def test_a_pip_that_hangs_is_stopped(tmp_path):
    def hang(command, *, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    with pytest.raises(MissingWeights, match="it took more than 15 minutes"):
        picodet.fetch(tmp_path / "picodet_s", hang)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingWeights, match="Not a directory"):
        picodet.fetch(tmp_path / "file" / "picodet_s", pip("never asked"))


def test_no_home_is_said(monkeypatch):
    monkeypatch.setattr(picodet.pooch, "os_cache", lambda name: "~/.cache/dclose_nb")
    with pytest.raises(MissingWeights, match="there is no home folder to keep picodet_s in"):
        picodet.load()


def test_damaged_files_are_refused(files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    damaged = copy.copy(bytearray(files["model.pdiparams"]))
    damaged[1000] ^= 1
    (tmp_path / "model.pdiparams").write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"model.pdiparams is damaged: its sha256 is .* Delete it"):
        picodet.PicoDetDetector(tmp_path)
    (tmp_path / "model.pdiparams").unlink()
    with pytest.raises(WeightsError, match=r"model.pdiparams cannot be read: No such file"):
        picodet.PicoDetDetector(tmp_path)
