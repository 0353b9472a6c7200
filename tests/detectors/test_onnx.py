"""Networks through ONNX Runtime: the same answers as PyTorch's, and never those of another network."""

import itertools
import sys

import numpy as np
import pytest
import torch

import dclose_nb as dc
from dclose_nb.detectors.yolox import WORTH_COMPILING
from dclose_nb.metrics import rank_correlation
from dclose_nb.studies.sanity import randomise

NUMBERS = itertools.count(1)


@pytest.fixture
def detector():
    """A network that no other test has had compiled: one bias is a little different each time."""
    detector = dc.load_detector("planted", device="cpu")
    detector.module.head.obj_preds[0].bias.data += 1e-5 * next(NUMBERS)
    return detector


@pytest.fixture
def exports(monkeypatch):
    """A list that gets an entry for each network that PyTorch exports."""
    export, made = torch.onnx.export, []
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **facts: made.append(export(*given, **facts)))
    return made


@pytest.fixture
def pixels(detector):
    canvas = detector.prepare(dc.planted.scene(3).image)
    return canvas.pixels * torch.linspace(0.2, 1, 3)[:, None, None, None]


def answers(detector, pixels, passes=WORTH_COMPILING):
    with torch.inference_mode():
        return detector.predictor(passes)(pixels)


def test_the_same_answers_in_batches_of_any_size(detector, pixels, exports):
    with torch.inference_mode():
        expected = detector.predict(pixels)
    for got in (answers(detector, pixels), answers(detector, pixels[:1])):
        for part, wanted in zip(got, expected):
            assert torch.allclose(part, wanted[: len(part)], atol=1e-3)
    assert len(exports) == 1


def test_the_same_maps(detector, exports):
    drawn = dc.planted.scene(3)
    found = detector.detect(drawn.image)
    options = {"n_masks": WORTH_COMPILING, "progress": False}
    fast = dc.explain(detector, drawn.image, found, **options)
    assert len(exports) == 1
    seen = []
    detector.module.register_forward_hook(lambda *_: seen.append(1))
    slow = dc.explain(detector, drawn.image, found, **options)
    assert seen and len(exports) == 1  # PyTorch was asked
    assert np.allclose(fast.levels, slow.levels, atol=1e-5)
    assert min(map(rank_correlation, fast.saliency, slow.saliency)) > 0.999


def test_few_passes_are_not_worth_it(detector, exports):
    assert detector.predictor(WORTH_COMPILING - 1) == detector.predict
    assert not exports


def test_a_change_of_the_network_is_seen(detector, pixels):
    before = answers(detector, pixels)
    detector.module.head.obj_preds[0].bias.data += 1  # unseen by PyTorch's own counter of versions
    changed = answers(detector, pixels)
    assert (changed.objectness > before.objectness).any()
    other = randomise(detector)
    with torch.inference_mode():
        expected = other.predict(pixels)
    assert torch.allclose(answers(other, pixels).class_probs, expected.class_probs, atol=1e-4)
    assert torch.equal(answers(detector, pixels).objectness, changed.objectness)


def test_hooks_are_called(detector, pixels, exports):
    seen = []
    detector.module.backbone.register_forward_hook(lambda *_: seen.append(1))
    answers(detector, pixels)
    assert seen and not exports  # an export would call them, too


def test_without_the_runtime_it_is_said_once_and_goes_on(detector, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.warns(UserWarning, match="networks run in PyTorch, which is slower: .*onnxruntime") as said:
        predictors = [detector.predictor(WORTH_COMPILING) for _ in range(2)]
    assert len(said) == 1 and predictors == [detector.predict] * 2
    assert said[0].filename == __file__


def test_a_network_without_an_onnx_form_goes_on(detector, pixels):
    class Odd(torch.nn.Module):
        def forward(self, features):
            return features + torch.linalg.matrix_exp(features[0, 0, :2, :2])[0, 1]

    detector.module.head.obj_preds[0] = torch.nn.Sequential(detector.module.head.obj_preds[0], Odd())
    with pytest.warns(UserWarning, match="no ONNX of this one"):
        got = answers(detector, pixels)
    with torch.inference_mode():
        assert torch.equal(got.boxes, detector.predict(pixels).boxes)
