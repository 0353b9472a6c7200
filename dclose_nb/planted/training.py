"""Train a detector from scratch on planted scenes: ``python -m dclose_nb.planted.training planted OUT``.

Scenes are drawn when they are needed and never repeated. A run that was stopped in any way resumes
from its last checkpoint, with the scenes that would have come next. At the end it writes the weights
and their manifest to OUT, with the names that they have in ``data/weights``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .. import checks
from ..checks import InputError
from ..commands import run_command
from ..detectors import pick_device
from ..detectors.planted import NETWORKS, load
from ..explanation import versions
from ..files import atomic_write, owned, refuse_foreign
from .dataset import average_precision
from .scene import scene

FIRST_TRAINING_SEED = 1_000_000  # scenes below are held out
HELD_OUT = 1000  # scenes that the finished network is scored on
MOST_OBJECTS = 12  # rows of a label table; scenes have five objects at most


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is learned."""

    network: str = "planted"
    steps: int = 4500
    batch: int = 16
    size: int = 320
    peak_rate: float = 2e-3
    warm_up: int = 300  # steps
    weight_decay: float = 5e-4
    average: float = 0.999  # decay of the running average of the weights, which is what is kept
    seed: int = 0


SETTINGS = {
    "planted": Settings(),
    "planted_two_stage": Settings("planted_two_stage", steps=4000, batch=8, peak_rate=1e-3),
}


class Scenes(Dataset):
    """Training images (3, size, size) RGB 0-255 and label tables (MOST_OBJECTS, 5)."""

    def __init__(self, settings: Settings, first_step: int) -> None:
        self.size = settings.size
        self.first = FIRST_TRAINING_SEED + (settings.seed * settings.steps + first_step) * settings.batch
        self.count = (settings.steps - first_step) * settings.batch

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = scene(self.first + index, size=self.size)
        table = np.zeros((MOST_OBJECTS, 5), np.float32)  # class, centre x, centre y, width, height
        corners = drawn.boxes.reshape(-1, 2, 2)
        table[: len(corners), 0] = drawn.labels
        table[: len(corners), 1:3] = corners.mean(1)
        table[: len(corners), 3:] = np.diff(corners, axis=1)[:, 0]
        return torch.from_numpy(drawn.image).permute(2, 0, 1).float(), torch.from_numpy(table)


def train(
    folder: str | Path,
    settings: Settings,
    *,
    checkpoint_every: int = 200,
    device: Any = None,
    workers: int = 1,
    progress: bool = True,
) -> Any:
    """Train, or resume training, and return the averaged network.

    Parameters
    ----------
    folder : path
        ``checkpoint.pt`` is kept there, with the loss of every 50th step.
    settings : Settings
        They must be those of a checkpoint in `folder`. `SETTINGS` has those of the networks that ship.
    checkpoint_every : int
        Steps between two checkpoints.
    device : torch.device or str, optional
        By default the first GPU if there is one, else the CPU.
    workers : int
        Processes that draw scenes; with 0, this process draws them.
    progress : bool

    Raises
    ------
    InputError
        The checkpoint is damaged or has other settings, the folder cannot be written, or the disk is
        full. The last good checkpoint stays.
    """
    network = NETWORKS[checks.choice("network", settings.network, NETWORKS)]
    folder = checks.path(folder)
    device = pick_device(device)
    torch.manual_seed(settings.seed)
    module = network.build().to(device).to(memory_format=torch.channels_last)
    average = partial(running_average, settings.average)
    averaged = torch.optim.swa_utils.AveragedModel(module, avg_fn=average, use_buffers=True)
    optimiser = torch.optim.AdamW(module.parameters(), settings.peak_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_share_of_peak_rate, settings))
    learning = {"module": module, "averaged": averaged, "optimiser": optimiser, "schedule": schedule}
    done, losses = _resume(folder / "checkpoint.pt", settings, learning)
    if not done:
        refuse_foreign(
            folder, [f"{settings.network}{end}" for end in (".safetensors", ".json")], "not of this run"
        )

    scenes = Scenes(settings, done)
    workers = workers if len(scenes) else 0
    spawned = "spawn" if workers else None  # a fork of a process with threads can hang
    batches = DataLoader(scenes, settings.batch, num_workers=workers, multiprocessing_context=spawned)
    module.train()
    with tqdm(total=settings.steps, initial=done, unit="step", disable=not progress) as bar:
        for step, (images, tables) in enumerate(batches, start=done + 1):
            torch.manual_seed(settings.seed + step)  # a loss may draw samples: the same after a stop
            images = images.to(device, memory_format=torch.channels_last)
            loss = network.loss(module, images, tables.to(device))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 10)
            optimiser.step()
            averaged.update_parameters(module)
            schedule.step()
            bar.update()
            last = step == settings.steps
            if step % 50 == 0 or last:
                losses[step] = round(loss.item(), 3)
                bar.set_postfix(loss=f"{losses[step]:.2f}")
            if step % checkpoint_every == 0 or last:
                state = {name: part.state_dict() for name, part in learning.items()}
                state |= {"settings": asdict(settings), "step": step, "losses": losses}
                with _on_disk(folder), atomic_write(folder / "checkpoint.pt") as unfinished:
                    torch.save(state, unfinished)
    return averaged.module.to(memory_format=torch.contiguous_format)


def running_average(most: float, old: torch.Tensor, new: torch.Tensor, n: Any) -> torch.Tensor:
    """Update an average of `n` weights with decay `most`, or less at first, to forget untrained ones."""
    keep = min(most, (1 + int(n)) / (10 + int(n)))
    return (old + (1 - keep) * (new - old)).to(old.dtype)


def _share_of_peak_rate(settings: Settings, step: int) -> float:
    """A linear rise, then half a cosine down to a hundredth."""
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    along = (step - settings.warm_up) / max(settings.steps - settings.warm_up, 1)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(along, 1))) / 2


def _resume(path: Path, settings: Settings, learning: dict[str, Any]) -> tuple[int, dict[int, float]]:
    """Load a checkpoint if there is one; returns how many steps were done, and their losses by step."""
    if not path.exists():
        return 0, {}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found, done, losses = state["settings"], int(state["step"]), dict(state["losses"])
    except Exception as error:  # torch raises many types for a damaged file
        raise InputError(f"{str(path)!r} is damaged: move it away to begin anew") from error
    if found != asdict(settings):
        differing = {name: value for name, value in found.items() if asdict(settings).get(name) != value}
        raise InputError(f"{str(path)!r} was made with {differing}: use these settings, or another folder")
    for name, part in learning.items():
        part.load_state_dict(state[name])
    return done, losses


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        raise InputError(f"cannot write to {str(folder)!r}: {error}; the last checkpoint is kept") from error


def export(folder: str | Path, module: Any, settings: Settings, *, n_scenes: int) -> Path:
    """Write a trained network in the form that ships, and score it on scenes 0 to n_scenes - 1.

    Parameters become float16; statistics of batch-norm stay float32. `folder` is where the network was
    trained; one that cannot be written raises `InputError`. Returns the path of ``NAME.safetensors``. Its
    manifest ``NAME.json`` has sha256, settings, loss at each logged step, average precision and versions.
    """
    folder = checks.path(folder)
    path = folder / f"{settings.network}.safetensors"
    parameters = {name for name, _ in module.named_parameters()}
    state = {
        name: (value.half() if name in parameters else value).cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    content = safetensors.torch.save(state)
    checkpoint = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    manifest = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "parameters": sum(value.numel() for value in module.parameters()),
        "settings": asdict(settings),
        "first_training_seed": FIRST_TRAINING_SEED,
        "loss": checkpoint["losses"],
        "versions": versions(),
    }
    with _on_disk(folder), atomic_write(path) as unfinished:
        unfinished.write_bytes(content)
    _write_manifest(path, manifest)
    detector = load(settings.network, device=pick_device("cpu"), folder=folder)
    scores = average_precision(detector, range(n_scenes))
    _write_manifest(path, manifest | {"held_out": {"scenes": n_scenes, **scores}})
    return path


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    with _on_disk(path.parent), atomic_write(path.with_suffix(".json")) as unfinished:
        unfinished.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Train a detector from scratch on planted scenes.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("folder", metavar="OUT", help="checkpoint and weights; a stopped run resumes there")
    parser.add_argument("--steps", type=int, help="default: those of the network that ships")
    args = parser.parse_args(arguments)
    settings = SETTINGS[args.network]

    def work() -> int:
        steps = settings.steps if args.steps is None else checks.at_least("--steps", args.steps, 1)
        asked = replace(settings, steps=steps)
        with owned(checks.path(args.folder)):
            print(export(args.folder, train(args.folder, asked), asked, n_scenes=HELD_OUT))
        return 0

    return run_command("training", work, left="the same command goes on from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
