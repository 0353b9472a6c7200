"""Time against the bare network, and memory against the number of masks.

    .venv/bin/python benchmarks/speed.py [--images 1000] [--rounds 5]

Time: the network alone and a loop around it (`explain`, or deletion and insertion) take turns on the
same number of images, in the same batches, precision and runtime; the ratio of each pair counts,
since times drift. Memory: the peak of a fresh
process that explains with 400 masks and of one with 4000.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import dclose_nb as dc
from dclose_nb.engine import default_batch_size

PHOTO, N_TARGETS = "coffee", 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", default="yolox_nano")
    parser.add_argument("--images", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=int, metavar="N", help="print the peak memory with N masks and stop")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.peak is not None:
        print(peak(args.detector, args.peak))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.detector}, {PHOTO}\n")
    print_times(args.detector, args.images, args.rounds)
    print_memory(args.detector)


def setting(name: str) -> tuple[dc.Detector, np.ndarray, dc.Targets]:
    """A detector, a photo, and three targets: its detections, and boxes drawn by hand."""
    detector, image = dc.load_detector(name), dc.load_photo(PHOTO)
    targets = dc.Targets(
        [[162, 16, 421, 295], [0, 0, 598, 398], [320, 180, 400, 330]], ["cup", "dining table", "spoon"]
    )
    assert len(targets.boxes) == N_TARGETS
    return detector, image, targets


def print_times(name: str, n_images: int, rounds: int) -> None:
    """The network alone, as methods run it and in PyTorch, and each loop around it, by turns."""
    detector, image, targets = setting(name)
    detections = targets.detections(detector.class_names)
    canvas = detector.prepare(image)
    batch_size = default_batch_size(detector.device)
    pixels = canvas.pixels.repeat(batch_size, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    maps = np.random.default_rng(0).random((N_TARGETS, *image.shape[:2]))
    steps = n_images // (2 * N_TARGETS) - 1

    @torch.inference_mode()
    def bare(predict: Callable[[torch.Tensor], Any]) -> None:
        for start in range(0, n_images, batch_size):
            predict(pixels[: min(batch_size, n_images - start)])

    def method(name: str) -> None:
        dc.explain(detector, image, targets, method=name, n_masks=n_images, progress=False)

    loops = {
        "dclose": lambda: method("dclose"),
        "drise": lambda: method("drise"),
        "deletion and insertion": lambda: dc.metrics.curves(detector, canvas, detections, maps, steps=steps),
        "the network in PyTorch": lambda: bare(detector.predict),
    }
    network = detector.predictor(n_images)
    bare(network)
    print(f"{n_images} images, batch {batch_size}, {N_TARGETS} targets, {rounds} rounds by turns")
    print(f"{'':<22} {'network, ms/image':>18} {'all, ms/image':>14} {'ratio, median (range)':>24}")
    for name, loop in loops.items():
        pairs = np.array([(seconds(lambda: bare(network)), seconds(loop)) for _ in range(rounds)])
        ratios = pairs[:, 1] / pairs[:, 0]
        network_ms, loop_ms = np.median(pairs, axis=0) / n_images * 1e3
        spread = f"{np.median(ratios):.2f} ({ratios.min():.2f}-{ratios.max():.2f})"
        print(f"{name:<22} {network_ms:>18.1f} {loop_ms:>14.1f} {spread:>24}")


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak(name: str, n_masks: int) -> float:
    """Peak memory of this process in MB after one explanation."""
    detector, image, targets = setting(name)
    dc.explain(detector, image, targets, n_masks=n_masks, progress=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_memory(name: str) -> None:
    print("\nmasks   peak MB")
    peaks = []
    for n_masks in (400, 4000):
        command = [sys.executable, __file__, "--detector", name, "--peak", str(n_masks)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks.append(float(output.split()[-1]))
        print(f"{n_masks:<7} {peaks[-1]:.0f}")
    print(f"ratio   {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
