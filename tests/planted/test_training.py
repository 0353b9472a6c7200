"""Training resumes after a stop, and never loses its last good checkpoint."""

import hashlib
import json
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dclose_nb as dc
from dclose_nb.detectors import planted as networks
from dclose_nb.files import shipped
from dclose_nb.planted import scene, training
from dclose_nb.planted.training import (
    FIRST_TRAINING_SEED,
    SETTINGS,
    Scenes,
    Settings,
    export,
    running_average,
    train,
)

SMALL = Settings(steps=4, batch=2, size=64, warm_up=2)
HERE = {"device": "cpu", "workers": 0, "progress": False}  # a process costs more than two scenes


def weights(module):
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


def fail_at_third_save(monkeypatch, error):
    """Make PyTorch raise an error at its third save from now on."""
    save, calls = torch.save, []

    def failing(*given):
        calls.append(given)
        if len(calls) == 3:
            raise error
        save(*given)

    monkeypatch.setattr(torch, "save", failing)


def test_a_scene_becomes_a_training_example():
    image, table = Scenes(Settings(), 0)[5]
    drawn = scene(FIRST_TRAINING_SEED + 5)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), drawn.image)
    for row, box, label in zip(table.numpy(), drawn.boxes, drawn.labels):
        kind, x, y, width, height = row
        assert kind == label
        assert np.allclose([x - width / 2, y - height / 2, x + width / 2, y + height / 2], box)
    assert (table[len(drawn.boxes) :] == 0).all()


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_a_stopped_run_ends_like_an_unbroken_one(tmp_path, monkeypatch, network):
    small = replace(SMALL, network=network)
    unbroken = train(tmp_path / "whole", small, checkpoint_every=1, **HERE)
    fail_at_third_save(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", small, checkpoint_every=1, **HERE)
    assert torch.load(tmp_path / "broken" / "checkpoint.pt")["step"] == 2
    again = train(tmp_path / "broken", small, checkpoint_every=1, **HERE)
    torch.manual_seed(SMALL.seed)
    untrained = networks.NETWORKS[network].build()
    assert torch.allclose(weights(again), weights(unbroken), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weights(again), weights(untrained), rtol=1e-4, atol=1e-4)
    losses = [torch.load(tmp_path / run / "checkpoint.pt")["losses"] for run in ("whole", "broken")]
    assert list(losses[0]) == list(losses[1]) == [4]


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_the_exported_network_is_the_trained_one(tmp_path, network):
    """Parameters have half precision, the rest is unchanged, and the manifest says so."""
    small = replace(SMALL, network=network)
    module = train(tmp_path, small, **HERE)
    path = export(tmp_path, module, small, n_scenes=2)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert path.name == f"{network}.safetensors" and manifest["bytes"] == path.stat().st_size
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["settings"] == asdict(small) and list(manifest["loss"]) == ["4"]
    assert manifest["held_out"]["scenes"] == 2 and 0 <= manifest["held_out"]["AP"] <= 1
    parameters = dict(module.named_parameters())
    for name, value in load_file(path).items():
        exact = module.state_dict()[name]
        assert torch.equal(value, exact.half() if name in parameters else exact)
    image = scene(3).image
    shipped = networks.load(network, device=torch.device("cpu"), folder=tmp_path)
    halved = deepcopy(module)
    for value in halved.parameters():
        value.data = value.data.half().float()
    same = networks.NETWORKS[network].detector("same", halved, device=torch.device("cpu"), provenance={})
    pixels = same.prepare(image).pixels[None]
    for part, wanted in zip(shipped.predict(pixels), same.predict(pixels)):
        assert torch.allclose(part, wanted, rtol=1e-4, atol=1e-5)


def test_the_settings_that_ship_are_in_the_manifests():
    for name, settings in SETTINGS.items():
        manifest = json.loads(shipped(f"weights/{name}.json").read_text())
        assert manifest["settings"] == asdict(settings)


def test_bad_checkpoints_and_full_disks_are_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at_third_save(patch, RuntimeError("no space left on device"))
        with pytest.raises(dc.InputError, match=r"no space left on device; the last checkpoint is kept"):
            train(tmp_path, SMALL, checkpoint_every=1, **HERE)
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt"]
    with pytest.raises(dc.InputError, match=r"was made with \{'steps': 4\}"):
        train(tmp_path, replace(SMALL, steps=5), **HERE)
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(dc.InputError, match="is damaged"):
        train(tmp_path, SMALL, **HERE)


def test_the_average_forgets_the_untrained_weights():
    """After 100 steps, a start of 1 has almost no effect on an average of zeros."""
    kept = torch.ones(1)
    for n in range(1, 100):
        kept = running_average(Settings().average, kept, torch.zeros(1), n)
    assert kept.item() < 1e-6
    assert running_average(0.5, torch.ones(1), torch.zeros(1), 10**6).item() == 0.5


def test_a_run_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(training.SETTINGS, "planted", SMALL)
    monkeypatch.setattr(training, "HELD_OUT", 2)
    assert training.main(["planted", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "planted.safetensors")
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    assert training.main(["planted", str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "is damaged: move it away" in error
