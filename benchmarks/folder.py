"""What ``dclose-nb explain FOLDER`` costs beside the detector's passes: seconds a photo, and peak memory.

    .venv/bin/python benchmarks/folder.py OUT [--photos 100] [--method regression] [--n-masks 200]

Photos are drawn scenes of 320 x 320 pixels, and the detector is the planted one. Seconds are those of the
processor, so that other work on the machine counts little: of the passes, of the rest of `explain`
(superpixels, masks, the map), and of all else (the photo, the page, the files). The memory is the
peak of the process after the tenth photo and after the last.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import dclose_nb as dc
from dclose_nb import folder

FIRST = 10  # photos before memory is looked at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder for photos and reports")
    parser.add_argument("--photos", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--method", default="regression", help="default: %(default)s")
    parser.add_argument("--n-masks", type=int, default=200, metavar="N", help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    (args.out / "photos").mkdir(parents=True)
    for seed in range(args.photos):
        Image.fromarray(dc.planted.scene(seed).image).save(args.out / "photos" / f"scene_{seed}.png")
    photos = folder.find_photos([str(args.out / "photos")])
    detector = dc.load_detector("planted", device="cpu")
    passes: list[float] = []
    explained: list[float] = []
    plain, predictor = detector.predict, detector.predictor

    def timed_predictor(count: int) -> Callable[..., Any]:
        chosen = predictor(count)  # compiled where the passes are many
        return detector.predict if chosen in (plain, detector.predict) else timed(chosen, passes)

    patched: Any = detector
    patched.predict, patched.predictor = timed(plain, passes), timed_predictor
    folder.explain = timed(folder.explain, explained)
    options = {"method": args.method, "n_masks": args.n_masks, "progress": False}
    done = 0
    for end in sorted({min(FIRST, args.photos), args.photos}):
        passes.clear()
        explained.clear()
        start = time.process_time()
        lines = folder.explain_photos(
            photos[:end], args.out / "reports", detector, folder.Choice(), **options
        )
        whole, new = time.process_time() - start, end - done
        done = end
        parts = sum(passes), sum(explained) - sum(passes), whole - sum(explained)
        in_passes, in_explain, beside = (seconds / new for seconds in parts)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"photos to {end}: {in_passes:.3f} s of passes, {in_explain:.3f} s of the rest of explain, "
            f"{beside:.3f} s beside explain for each; peak {peak:.0f} MB"
        )
    found = [row for line in lines for row in line["detections"]]
    size = sum(file.stat().st_size for file in (args.out / "reports").rglob("*") if file.is_file())
    print(f"{len(found)} detections, {size / len(photos) / 1e6:.2f} MB on the disk for each photo")


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """A function that adds the processor's seconds of each of its calls to a list."""

    def timed_function(*args: Any, **options: Any) -> Any:
        start = time.process_time()
        found = function(*args, **options)
        seconds.append(time.process_time() - start)
        return found

    return timed_function


if __name__ == "__main__":
    main()
