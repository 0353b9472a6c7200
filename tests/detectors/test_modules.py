"""Half precision, which GPUs are asked in; here on the CPU, in the same 16 bits."""

from contextlib import nullcontext

import pytest
import torch
from toys import weights_at_hand

import dclose_nb as dc

at_hand = pytest.mark.skipif(not weights_at_hand(), reason="the weights of yolox_nano are not at hand")
NETWORKS = ["planted", "planted_two_stage", pytest.param("yolox_nano", marks=at_hand)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:.*is not the official")
def test_half_precision_gives_the_same_proposals(name):
    detector = dc.load_detector(name, device="cpu")
    image = dc.load_photo("coffee") if name == "yolox_nano" else dc.planted.scene(3).image
    canvas = detector.prepare(image)
    with torch.inference_mode():
        exact = detector.predict(canvas.pixels[None])
        rounded = detector.predict_in_half(canvas.pixels[None])
    assert all(part.dtype == torch.float32 for part in rounded)
    weights = [
        dc.similarity.mask_weights(proposals, *canvas.vectors(detector.detect(image)))
        for proposals in (exact, rounded)
    ]
    assert weights[0].shape[1] and torch.allclose(*weights, atol=0.02)
    assert not torch.equal(*weights)  # 16 bits were used


@pytest.mark.parametrize("name", ["planted", "planted_two_stage"])
def test_a_gpu_is_asked_in_half_precision_and_nothing_else_is(name, monkeypatch):
    detector = dc.load_detector(name, device="cpu")
    pixels = detector.prepare(dc.planted.scene(3).image).pixels[None]
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda *given: asked.append(given) or nullcontext())
    with torch.inference_mode():
        detector.predictor(1000)(pixels)
        assert not asked
        detector.device = torch.device("cuda")
        detector.predictor(1000)(pixels)
    assert asked == [("cuda", torch.float16)]
