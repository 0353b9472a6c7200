"""Train YOLOX-Nano from scratch on planted scenes: ``python -m dclose_nb.planted.training OUT``.

Scenes are drawn as they are needed and never come twice. A run that was stopped, however it was,
goes on from its last checkpoint and draws the scenes that it would have drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .. import checks
from ..checks import InputError
from ..detectors import pick_device
from ..files import whole
from .scene import CLASS_NAMES, scene

FIRST_TRAINING_SEED = 1_000_000  # scenes below are held out
MOST_OBJECTS = 12  # rows of a label table; scenes have five objects at most


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is learned."""

    steps: int = 12_000
    batch: int = 16
    size: int = 320
    peak_rate: float = 2e-3
    warm_up: int = 300  # steps
    weight_decay: float = 5e-4
    average: float = 0.999  # of the weights over the steps, which is what is kept
    seed: int = 0


class Scenes(Dataset):
    """Training images (3, size, size) BGR 0-255 and label tables (MOST_OBJECTS, 5)."""

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
        bgr = torch.from_numpy(drawn.image[..., ::-1].copy()).permute(2, 0, 1).float()
        return bgr, torch.from_numpy(table)


def yolox_nano() -> Any:
    """An untrained YOLOX-Nano for planted scenes, as the `yolox` package builds it."""
    from yolox.config import YoloxConfig

    config = YoloxConfig.get_named_config("yolox_nano")
    config.num_classes = len(CLASS_NAMES)
    return config.get_model()


def train(
    folder: str | Path,
    settings: Settings | None = None,
    *,
    checkpoint_every: int = 200,
    device: Any = None,
    progress: bool = True,
) -> Any:
    """Train, or go on training, and return the averaged network.

    Parameters
    ----------
    folder : path
        ``checkpoint.pt`` and ``log.jsonl`` (a line every 50 steps) are kept there.
    settings : Settings, optional
        With a checkpoint in `folder` they must be its own.
    checkpoint_every : int
        Steps between two checkpoints.
    device : torch.device or str, optional
        By default the first GPU where there is one, else the CPU.
    progress : bool

    Raises
    ------
    InputError
        A checkpoint that is damaged or has other settings, a folder that cannot be written, or a
        disk that is full. The last good checkpoint stays.
    """
    settings = settings or Settings()
    folder = checks.path(folder)
    device = pick_device(device)
    torch.manual_seed(settings.seed)
    module = yolox_nano().to(device).to(memory_format=torch.channels_last)
    averaged = torch.optim.swa_utils.AveragedModel(module, avg_fn=_average(settings), use_buffers=True)
    optimiser = torch.optim.AdamW(module.parameters(), settings.peak_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rate(settings))
    learning = {"module": module, "averaged": averaged, "optimiser": optimiser, "schedule": schedule}
    done = _resume(folder / "checkpoint.pt", settings, learning)

    batches = DataLoader(
        Scenes(settings, done), settings.batch, num_workers=1 if settings.steps - done else 0
    )
    module.train()
    start = time.perf_counter()
    with tqdm(total=settings.steps, initial=done, unit="step", disable=not progress) as bar:
        for step, (images, tables) in enumerate(batches, start=done + 1):
            images = images.to(device, memory_format=torch.channels_last)
            losses = module(images, tables.to(device))
            optimiser.zero_grad()
            losses["total_loss"].backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 10)
            optimiser.step()
            averaged.update_parameters(module)
            schedule.step()
            bar.update()
            if step % 50 == 0 or step == settings.steps:
                loss = float(losses["total_loss"].detach())
                bar.set_postfix(loss=f"{loss:.2f}")
                seconds = round(time.perf_counter() - start, 1)
                with _on_disk(folder):
                    _log(folder, {"step": step, "loss": loss, "seconds": seconds})
            if step % checkpoint_every == 0 or step == settings.steps:
                with _on_disk(folder):
                    _save(folder / "checkpoint.pt", settings, step, learning)
    return averaged.module


def _average(settings: Settings) -> Callable[..., torch.Tensor]:
    """A running average that forgets faster at first, so that the untrained weights do not stay in it."""

    def update(old: torch.Tensor, new: torch.Tensor, n: Any) -> torch.Tensor:
        keep = min(settings.average, (1 + int(n)) / (10 + int(n)))
        return (old + (1 - keep) * (new - old)).to(old.dtype)

    return update


def _rate(settings: Settings) -> Callable[[int], float]:
    """Share of the peak rate at a step: a linear rise, then half a cosine down to a hundredth."""

    def share(step: int) -> float:
        if step < settings.warm_up:
            return (step + 1) / settings.warm_up
        along = (step - settings.warm_up) / max(settings.steps - settings.warm_up, 1)
        return 0.01 + 0.99 * (1 + math.cos(math.pi * min(along, 1))) / 2

    return share


def _save(path: Path, settings: Settings, step: int, learning: dict[str, Any]) -> None:
    state = {name: part.state_dict() for name, part in learning.items()}
    with whole(path) as unfinished:
        torch.save({"settings": asdict(settings), "step": step, **state}, unfinished)


def _resume(path: Path, settings: Settings, learning: dict[str, Any]) -> int:
    """Load a checkpoint where there is one; returns the steps that were done."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found, done = state["settings"], int(state["step"])
    except Exception as error:  # torch raises many types for a damaged file
        raise InputError(f"{str(path)!r} is damaged: move it away to begin anew") from error
    if found != asdict(settings):
        other = {name: value for name, value in found.items() if asdict(settings).get(name) != value}
        raise InputError(f"{str(path)!r} was made with {other}: use these settings, or another folder")
    for name, part in learning.items():
        part.load_state_dict(state[name])
    return done


def _log(folder: Path, line: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        raise InputError(f"cannot write to {str(folder)!r}: {error}; the last checkpoint is kept") from error


def main() -> int:
    parser = argparse.ArgumentParser(description="Train YOLOX-Nano from scratch on planted scenes.")
    parser.add_argument("folder", metavar="OUT", help="checkpoint and log; a stopped run goes on from there")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="default: %(default)s")
    args = parser.parse_args()
    try:
        train(args.folder, Settings(steps=checks.at_least("--steps", args.steps, 1)))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"training: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
