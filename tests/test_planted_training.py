"""Training goes on where it was stopped, and never loses its last good checkpoint."""

import json

import numpy as np
import pytest
import torch

import dclose_nb as dc
from dclose_nb.planted import CLASS_NAMES, scene, training
from dclose_nb.planted.training import FIRST_TRAINING_SEED, Scenes, Settings, train

SMALL = Settings(steps=4, batch=2, size=64, warm_up=2)


def weights(module):
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


@pytest.fixture(autouse=True)
def drawn_in_this_process(monkeypatch):
    """A worker process for two scenes takes longer than the scenes."""
    loader = training.DataLoader
    monkeypatch.setattr(training, "DataLoader", lambda data, batch, num_workers: loader(data, batch))


def test_a_scene_becomes_what_the_package_learns_from():
    image, table = Scenes(Settings(), 0)[5]
    drawn = scene(FIRST_TRAINING_SEED + 5)
    assert np.array_equal(image.flip(0).permute(1, 2, 0).numpy(), drawn.image)
    for row, box, label in zip(table.numpy(), drawn.boxes, drawn.labels):
        kind, x, y, width, height = row
        assert kind == label
        assert np.allclose([x - width / 2, y - height / 2, x + width / 2, y + height / 2], box)
    assert (table[len(drawn.boxes) :] == 0).all()


def test_a_stopped_run_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", SMALL, checkpoint_every=1, device="cpu", progress=False)
    save, saved = training._save, []

    def stopped(*arguments):
        save(*arguments)
        saved.append(arguments)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", SMALL, checkpoint_every=1, device="cpu", progress=False)
    again = train(tmp_path / "broken", SMALL, checkpoint_every=1, device="cpu", progress=False)
    assert torch.allclose(weights(again), weights(whole), rtol=1e-6)
    assert not torch.allclose(weights(again), weights(training.yolox_nano()), rtol=1e-6)
    assert json.loads((tmp_path / "broken" / "log.jsonl").read_text())["step"] == 4
    assert again.head.num_classes == len(CLASS_NAMES)


def test_bad_checkpoints_and_disks_are_named_and_kept(tmp_path, monkeypatch):
    train(tmp_path, SMALL, device="cpu", progress=False)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(dc.InputError, match=r"was made with \{'steps': 4\}"):
        train(tmp_path, Settings(steps=5, batch=2, size=64, warm_up=2), device="cpu", progress=False)

    def full(*_):
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(dc.InputError, match="the last checkpoint is kept"), training._on_disk(tmp_path):
        training._save(tmp_path / "checkpoint.pt", SMALL, 9, {})
    assert (tmp_path / "checkpoint.pt").read_bytes() == good
    (tmp_path / "checkpoint.pt").write_bytes(good[:1000])
    with pytest.raises(dc.InputError, match="is damaged"):
        train(tmp_path, SMALL, device="cpu", progress=False)


def test_the_average_forgets_the_untrained_weights():
    """After 100 steps a start of 1 has left next to nothing of an average of zeros."""
    update = training._average(Settings())
    kept = torch.ones(1)
    for n in range(1, 100):
        kept = update(kept, torch.zeros(1), n)
    assert kept.item() < 1e-6
    assert training._average(Settings(average=0.5))(torch.ones(1), torch.zeros(1), 10**6).item() == 0.5
