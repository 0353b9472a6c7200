"""Speed and memory of the loop: tables on the screen, ``speed.json`` and ``speed.png`` in a folder.

    .venv/bin/python benchmarks/speed.py OUT [--images 1000] [--rounds 5] [--only times targets ...]

Times: the network alone and a loop around it take turns on the same number of images, in the same
batches, precision and runtime. The ratio of each pair counts, since times drift. The peer is
xaitk-saliency's D-RISE, if it is installed (``pip install '.[benchmarks]'``). Memory: the peak of
fresh processes. Sections that are not run keep their results in ``speed.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from yolox.config import YoloxConfig

import dclose_nb as dc
from dclose_nb.detectors import weights
from dclose_nb.detectors.yolox import YoloxDetector, proposals_of
from dclose_nb.explanation import versions
from dclose_nb.files import atomic_write
from dclose_nb.masks import forget_superpixels
from dclose_nb.sampling import batch_size_for
from dclose_nb.threads import map_in_threads, threads_for

BOXES = [[162, 16, 421, 295], [0, 0, 598, 398], [320, 180, 400, 330]]  # by hand, on coffee
LABELS = ["cup", "dining table", "spoon"]
NOISY = 1.25  # slowest over fastest round of the network alone
Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "out", type=Path, nargs="?", metavar="OUT", help="folder for speed.json and speed.png"
    )
    parser.add_argument("--detector", default="yolox_nano", help="default: %(default)s")
    parser.add_argument("--images", type=int, default=1000, help="masked images; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--peak", nargs=2, metavar=("DETECTOR", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.peak:
        print(peak(args.peak[0], int(args.peak[1])))
        return
    file = None if args.out is None else args.out / "speed.json"
    result: Result = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.detector}")
    detector, image = dc.load_detector(args.detector), dc.load_photo("coffee")
    for name in args.only:
        print(f"\n{name}")
        result[name] = SECTIONS[name](detector, image, args.images, args.rounds)
        how = {"images": args.images, "detector": args.detector, "threads": torch.get_num_threads()}
        how |= {"machine": platform.platform(), "versions": versions()}
        result.setdefault("made", {})[name] = how
        if file is not None:  # after each section, since the next one may fail
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as unfinished:
                unfinished.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if file is not None:
        draw(result, args.out / "speed.png")


def seconds(run: Callable[[], object]) -> float:
    forget_superpixels()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def by_turns(loops: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each loop in each round. The loops take turns, after one run each to warm up."""
    for loop in loops.values():
        loop()
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            times[name].append(seconds(loop))
    return times


def ratios(times: dict[str, list[float]], base: str) -> Result:
    """Print and return each loop's time over that of `base` in the same round."""
    rows: Result = {}
    for name, values in times.items():
        ratio = np.array(values) / times[base]
        rows[name] = {"seconds": round(float(np.median(values)), 2), "ratio": ratio.round(3).tolist()}
        spread = f"{np.median(ratio):6.2f} ({ratio.min():.2f}-{ratio.max():.2f})"
        print(f"{name:<42} {np.median(values):8.2f} s   ratio {spread}")
    if max(times[base]) > NOISY * min(times[base]):
        print("this machine is busy or noisy: repeat when it is quiet")
    return rows


def bare(
    detector: dc.Detector, predict: Callable[[torch.Tensor], Any], canvas: dc.Canvas, n_images: int
) -> Callable[[], None]:
    """The network alone, in batches as large as all that the loop processes at the same time."""
    size = batch_size_for(detector, None) * threads_for(detector)
    pixels = canvas.pixels.repeat(size, 1, 1, 1)

    @torch.inference_mode()
    def run() -> None:
        for batch in batches(pixels, n_images):
            predict(batch)

    return run


def batches(pixels: torch.Tensor, n_images: int) -> list[torch.Tensor]:
    """So many images in batches of `pixels`; the last one may be smaller."""
    return [pixels[: n_images - start] for start in range(0, n_images, len(pixels))]


def bare_side_by_side(detector: dc.Detector, canvas: dc.Canvas, n_images: int) -> Callable[[], None]:
    """The network alone on the loop's own batches, divided among threads as in the loop."""
    size = batch_size_for(detector, None)
    pixels = canvas.pixels.repeat(size, 1, 1, 1)

    def run() -> None:
        predict = detector.predictor(n_images)
        for _ in map_in_threads(detector, predict, batches(pixels, n_images)):
            pass

    return run


def explaining(
    detector: dc.Detector, image: np.ndarray, targets: Any, **options: Any
) -> Callable[[], object]:
    return lambda: dc.explain(detector, image, targets, progress=False, **options)


def times(detector: dc.Detector, image: np.ndarray, n_images: int, rounds: int) -> Result:
    """Three targets: explanations, and deletion and insertion, against the network alone."""
    targets = dc.Targets(BOXES, LABELS)
    canvas, detections = detector.prepare(image), targets.detections(detector.class_names)
    maps = np.random.default_rng(0).random((len(BOXES), *image.shape[:2]))
    steps = n_images // (2 * len(BOXES)) - 1
    size, threads = batch_size_for(detector, None), threads_for(detector)
    print(f"{n_images} images, {threads} batches of {size} at once, {len(BOXES)} targets")
    loops = {
        "the network alone": bare(detector, detector.predictor(n_images), canvas, n_images),
        "the network alone, batches side by side": bare_side_by_side(detector, canvas, n_images),
        "the network alone, in PyTorch": bare(detector, detector.predict, canvas, n_images),
        "dclose": explaining(detector, image, targets, n_masks=n_images),
        "drise": explaining(detector, image, targets, n_masks=n_images, method="drise"),
        "deletion and insertion": lambda: dc.metrics.curves(detector, canvas, detections, maps, steps=steps),
    }
    return ratios(by_turns(loops, rounds), "the network alone")


def targets(detector: dc.Detector, image: np.ndarray, n_images: int, rounds: int) -> Result:
    """One image, more and more targets."""
    rng = np.random.default_rng(0)
    height, width = image.shape[:2]
    corners = np.sort(rng.uniform(0, 1, (50, 2, 2)), axis=1) * [width - 40, height - 40]
    boxes = np.concatenate([corners[:, 0], corners[:, 1] + 40], axis=1)
    loops = {
        f"{n} targets": explaining(detector, image, dc.Targets(boxes[:n], ["cup"] * n), n_masks=n_images)
        for n in (1, 5, 20, 50)
    }
    return ratios(by_turns(loops, rounds), "1 targets")


def sizes(detector: dc.Detector, image: np.ndarray, n_images: int, rounds: int) -> Result:
    """One target in photos of more and more pixels; the network sees them at its own size."""
    loops = {}
    for side in (300, 600, 1200, 2400, 4800):
        factor = side / image.shape[1]
        photo = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        target = dc.Targets(np.array(BOXES[:1]) * factor, LABELS[:1])
        loops[f"{photo.shape[1]} x {photo.shape[0]}"] = explaining(detector, photo, target, n_masks=n_images)
    return ratios(by_turns(loops, rounds), next(iter(loops)))


def peer(detector: dc.Detector, image: np.ndarray, n_images: int, rounds: int) -> Result:
    """xaitk-saliency's D-RISE, one image at a time as in its examples, and around our detector."""
    try:
        from smqtk_detection.interfaces.detect_image_objects import DetectImageObjects
        from smqtk_image_io import AxisAlignedBoundingBox
        from xaitk_saliency.impls.gen_object_detector_blackbox_sal.drise import RandomGridStack
    except ImportError as error:
        print(f"left out: {error}")
        return {}
    found = dc.Targets(BOXES, LABELS).detections(detector.class_names)
    as_loaded = YoloxConfig.get_named_config(detector.name).get_model().eval()
    weights.fit(as_loaded, weights.load(detector.name).state, weights.path_of(detector.name))

    class Blackbox(DetectImageObjects):
        """A detector with the interface of xaitk-saliency, for batches of `size` images."""

        def __init__(self, predict: Callable[[torch.Tensor], dc.Proposals], size: int) -> None:
            self.predict, self.size = predict, size

        @torch.inference_mode()
        def detect_objects(self, img_iter: Iterable[np.ndarray]) -> Iterable[Any]:
            images = list(img_iter)
            for start in range(0, len(images), self.size):
                canvases = [detector.prepare(image) for image in images[start : start + self.size]]
                proposals = self.predict(torch.stack([canvas.pixels for canvas in canvases]))
                for row, (canvas, kept) in enumerate(zip(canvases, dc.detection.suppress(proposals))):
                    boxes, objectness, probs = (part[row, kept] for part in proposals)
                    scores = (objectness[:, None] * probs).tolist()
                    yield [
                        (AxisAlignedBoundingBox(box[:2], box[2:]), dict(zip(detector.class_names, score)))
                        for box, score in zip(canvas.boxes_to_image(boxes), scores)
                    ]

        def get_config(self) -> dict[str, Any]:
            return {}

    def one_at_a_time(pixels: torch.Tensor) -> dc.Proposals:
        return proposals_of(as_loaded(pixels.flip(1)))  # this network takes BGR

    def explain(blackbox: DetectImageObjects) -> Callable[[], object]:
        stack = RandomGridStack(n=n_images, s=(16, 16), p1=0.5, seed=0)
        return lambda: stack(image, found.boxes, found.class_probs, blackbox, found.objectness)

    size = batch_size_for(detector, None) * threads_for(detector)
    loops = {
        "drise": explaining(detector, image, found, n_masks=n_images, method="drise"),
        "xaitk-saliency, our detector in batches": explain(Blackbox(detector.predictor(n_images), size)),
        "xaitk-saliency, one image at a time": explain(Blackbox(one_at_a_time, 1)),
    }
    return ratios(by_turns(loops, rounds), "drise")


def memory(detector: dc.Detector, image: np.ndarray, n_images: int, rounds: int) -> Result:
    """Peak of a fresh process: with few masks, with ten times as many, and with the largest network."""
    peaks = {}
    for name, n_masks in ((detector.name, 400), (detector.name, 4000), ("yolox_x", 16)):
        command = [sys.executable, __file__, "--peak", name, str(n_masks)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks[f"{name}, {n_masks} masks"] = round(float(output.split()[-1]))
        print(f"{name}, {n_masks} masks: {peaks[f'{name}, {n_masks} masks']} MB")
    return peaks


def peak(name: str, n_masks: int) -> float:
    """Peak memory of this process in MB after one explanation. The largest network has random weights."""
    if name == "yolox_x":
        config = YoloxConfig.get_named_config(name)
        module, size, device = config.get_model(), tuple(config.test_size), torch.device("cpu")
        classes = tuple(map(str, range(80)))
        detector: dc.Detector = YoloxDetector(name, module, size, classes, device=device, provenance={})
        target = dc.Targets(BOXES[:1], ["0"])
    else:
        detector, target = dc.load_detector(name), dc.Targets(BOXES, LABELS)
    explaining(detector, dc.load_photo("coffee"), target, n_masks=n_masks)()
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage would give the parent's peak
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def draw(result: Result, path: Path) -> None:
    """Draw the ratios of every section that has some."""
    shown = {name: result[name] for name in SECTIONS if name != "memory" and result.get(name)}
    if not shown:
        return
    size = 7, 1 + 1.9 * len(shown)
    figure, axes = plt.subplots(len(shown), 1, figsize=size, layout="constrained", squeeze=False)
    for panel, (name, rows) in zip(axes[:, 0], shown.items()):
        medians = [np.median(row["ratio"]) for row in rows.values()]
        panel.barh(list(rows), medians, color="tab:blue")
        panel.axvline(1, color="black", linewidth=0.8)
        panel.invert_yaxis()
        panel.set(title=name, xlabel=f"time over that of: {next(iter(rows))}")
    figure.savefig(path, dpi=150)


SECTIONS = {"times": times, "targets": targets, "sizes": sizes, "peer": peer, "memory": memory}

if __name__ == "__main__":
    main()
