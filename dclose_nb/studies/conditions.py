"""Section 4.5: bad light, bad weather, bad cameras, and what they do to maps (Fig. 8). Notebook 06.

``python -m dclose_nb.studies.conditions OUT``

Every model in `CONDITIONS` takes an image as `Detector.detect` does, and a severity from 0 (unchanged)
to 1. It returns (H, W, 3) uint8, the same image for the same seed. Light adds up in linear
intensities, so each model decodes sRGB first and encodes it at the end (IEC 61966-2-1).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .. import checks, metrics
from ..detection import Detector, match
from ..explanation import explain
from ..images import PHOTOS, load_photo
from ..methods import make
from ..planted.scores import relevance_rank
from ..similarity import target_weights
from .coco import box_areas, read_coco, study_photo
from .inference import rounded
from .records import Record, Records
from .runner import Task, detector_of, run_study, study_command, study_parser

STOPS = 8.0  # halvings of the light at severity 1
FULL_WELL = 10_000.0  # electrons of a white pixel in a good exposure
READ_NOISE = 3.0  # electrons, standard deviation
RED = np.array([1.0, 0.02, 0.01])  # share of each channel that a red lamp leaves
MOON = np.array([0.004, 0.005, 0.008])  # light of the night over that of the day
LAMP = np.array([0.4, 0.25, 0.1])  # light of a street lamp right in front of it, over that of the day
FOG_DEPTH = float(np.log(20))  # optical depth at the horizon at severity 1: a 20th of the contrast is left
AIRLIGHT = 0.7  # of fog and of raindrops, as a share of white
BLUR_LENGTH = 0.08  # path of the motion at severity 1, as a share of the image's longer side
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue (ITU-R BT.709)

METHODS = ("dclose", "drise")
SEVERITIES = (0.25, 0.5, 0.75, 1.0)
MAPPED = ("low_light", "red_light", "night", "fog", "false_colour")  # the last is not in Fig. 8
MAPPED_AT = 0.75  # severity of the images that are explained
SEEDS = (1, 2)  # of the masks; each object gets a map from each
STEPS = 20  # of deletion and insertion, a tenth of the paper's
MOST = 5  # largest number of objects of an image
SCENES = 8  # that a planted detector sees


def low_light(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Underexposure by up to eight stops, with the noise of the few photons that are left; see `expose`."""
    light, rng = _decoded(image, severity, seed)
    return _encoded(expose(light, 2 ** (-STOPS * severity), rng))


def sensor_noise(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """The light of `low_light`, brought back to full brightness by the camera's gain."""
    light, rng = _decoded(image, severity, seed)
    exposure = 2 ** (-STOPS * severity)
    return _encoded(expose(light, exposure, rng) / exposure)


def red_light(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Light that turns red: each channel is scaled by a red lamp's share (von Kries's model)."""
    light, _ = _decoded(image, severity, seed)
    return _encoded(light * RED**severity)


def night(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """A little blue light and two warm lamps, with noise as in `low_light`.

    The picture is lit like a wall with lamps in front of it: the light of a lamp falls with the square
    of the distance and with the cosine of the angle (Lambert). The seed draws where the lamps stand.
    """
    light, rng = _decoded(image, severity, seed)
    height, width = light.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width)
    lit = np.broadcast_to(MOON, light.shape)
    for down, right in rng.random((2, 2)) * (height, width) / max(height, width):
        lit = lit + LAMP * (1 + ((x - right) ** 2 + (y - down) ** 2)[..., None] / 0.2**2) ** -1.5
    return _encoded(expose(light, lit**severity, rng))


def fog(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Fog, ``I = J t + A (1 - t)`` with ``t = exp(-beta d)`` (Koschmieder 1924; Narasimhan and Nayar 2002).

    The depth d of a photo is not known. It is assumed to grow evenly from 0.2 in the last row to 1 at
    the horizon, a third from the top, and to be 1 above. The seed has no effect.
    """
    light, _ = _decoded(image, severity, seed)
    depth = np.interp(np.linspace(0, 1, len(light)), [1 / 3, 1], [1, 0.2])[:, None, None]
    left = np.exp(-FOG_DEPTH * severity * depth)
    return _encoded(light * left + AIRLIGHT * (1 - left))


def rain(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Streaks of falling drops, each brighter than what it hides (after Garg and Nayar 2007).

    A drop shows the bright sky while it passes a pixel, which is a part of the exposure. So the pixel
    is a mixture of both. Heavier rain has all drops of lighter rain of the same seed, and more.
    """
    light, rng = _decoded(image, severity, seed)
    longer = max(light.shape[:2])
    streak = line_kernel(0.06 * longer, np.pi / 2 + rng.uniform(-0.3, 0.3))
    drops = (rng.random(light.shape[:2]) < 400 * severity / longer**2).astype(np.float32)
    drops = cv2.dilate(drops, np.ones((2 * (longer // 400) + 1,) * 2, np.uint8))
    share = 0.4 * cv2.filter2D(drops, -1, streak / streak.max()).clip(0, 1)[..., None]
    return _encoded(light * (1 - share) + AIRLIGHT * share)


def motion_blur(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """A camera that moves evenly along a line while the shutter is open; the seed draws the direction."""
    light, rng = _decoded(image, severity, seed)
    kernel = line_kernel(BLUR_LENGTH * severity * max(light.shape[:2]), rng.uniform(0, np.pi))
    return _encoded(cv2.filter2D(light, -1, kernel, borderType=cv2.BORDER_REFLECT))


def grey(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Colours that fade to their luminance (ITU-R BT.709); the seed has no effect."""
    light, _ = _decoded(image, severity, seed)
    return _encoded(light + severity * ((light @ LUMINANCE)[..., None] - light))


def false_colour(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """The brightness as colours of a palette, as thermal cameras show heat; the seed has no effect.

    This is not an infrared photograph: warm things do not get brighter. It only tests how a detector
    copes with a palette.
    """
    light, _ = _decoded(image, severity, seed)
    brightness = grey(image, 1)
    palette = _linear(cv2.applyColorMap(brightness, cv2.COLORMAP_INFERNO)[..., ::-1])
    return _encoded(light + severity * (palette - light))


CONDITIONS: dict[str, Callable[..., np.ndarray]] = {
    model.__name__: model
    for model in (low_light, red_light, night, fog, rain, motion_blur, sensor_noise, grey, false_colour)
}


def expose(light: np.ndarray, exposure: Any, rng: np.random.Generator) -> np.ndarray:
    """Add a sensor's noise to light: Poisson noise of photons, Gaussian noise of reading (Foi et al. 2008).

    `light` is linear, 1 being white; `exposure`, a number or an array, is the share of it that is left.
    At 1 no noise is added, since the photo already has its own. Noise can bring the result below 0.
    """
    if np.all(exposure == 1):
        return light
    electrons = rng.poisson(light * exposure * FULL_WELL) + rng.normal(0, READ_NOISE, light.shape)
    return electrons / FULL_WELL


def line_kernel(length: float, angle: float) -> np.ndarray:
    """A line of `length` pixels at an angle in radians, as a kernel (k, k) float64 that sums to 1."""
    radius = int(np.ceil(length / 2))
    along = np.linspace(-length / 2, length / 2, 64 * radius + 1)
    ends = (-radius - 0.5, radius + 0.5)
    path, *_ = np.histogram2d(
        -along * np.sin(angle), along * np.cos(angle), bins=2 * radius + 1, range=(ends, ends)
    )
    return path / path.sum()


def _decoded(image: Any, severity: float, seed: int) -> tuple[np.ndarray, np.random.Generator]:
    """An image's linear light (H, W, 3) float64 in [0, 1], and a generator; bad input is refused."""
    checks.fraction("severity", severity)
    return _linear(checks.image(image)), np.random.default_rng(checks.at_least("seed", seed, 0))


def _linear(image: np.ndarray) -> np.ndarray:
    """sRGB (H, W, 3) uint8 as linear intensities in [0, 1]."""
    values = np.arange(256) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)[image]


def _encoded(light: np.ndarray) -> np.ndarray:
    """Linear intensities as sRGB (H, W, 3) uint8; what is brighter than white becomes white."""
    light = light.clip(0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * encoded).round().astype(np.uint8)


def study_image(detector: Detector, image: np.ndarray, *, n_masks: int) -> Record:
    """Measure how the objects of an image fare in all conditions, and their maps in those of `MAPPED`.

    The targets are those that the detector finds in the clear image (H, W, 3), even if it no longer
    finds them. Boxes of all classes suppress each other, as they do in deletion and insertion. Each map is
    made with `n_masks` masks.

    Each of ``objects`` has ``label``, ``score``, ``area`` (share of the image), and

    - ``left``: by condition, its weight at each of `SEVERITIES` over that in the clear image (Eq. 6);
    - ``maps``: for "clear" and each of `MAPPED`, by method, the scores below.

    These are the `map_scores`, and

    - ``drawn``: 1 if the detector finds the target in that image, see `detection.match`, else 0;
    - ``over_all``: that of the first seed's map, None if the target is not found;
    - ``over_all_blur``: the same, but deletion blurs pixels instead of blackening them;
    - ``levels``, if the method has levels: the score ``inside`` of each, finest first.
    """
    targets = detector.detect(image, class_agnostic=True)[:MOST]
    if not len(targets):
        return {"objects": []}
    clipped = targets.boxes.clip(0, np.tile(image.shape[1::-1], 2))
    areas = box_areas(clipped) / (image.shape[0] * image.shape[1])
    objects: list[Record] = [
        {"label": name, "score": round(score, 4), "area": round(area, 4), "left": {}, "maps": {}}
        for name, score, area in zip(targets.names, targets.scores.tolist(), areas.tolist())
    ]
    before = target_weights(detector, image, targets)
    for name, degrade in CONDITIONS.items():
        weights = [target_weights(detector, degrade(image, severity), targets) for severity in SEVERITIES]
        for record, shares in zip(objects, np.transpose(weights / before).tolist()):
            record["left"][name] = [round(share, 4) for share in shares]

    clear: dict[str, np.ndarray] = {}
    for name in ("clear", *MAPPED):
        shown = image if name == "clear" else CONDITIONS[name](image, MAPPED_AT)
        canvas = detector.prepare(shown)
        found = match(detector.detect_on(canvas, class_agnostic=True), targets.boxes, targets.names)
        still = {k for _, k in found}  # a neighbour of the same class is not the target
        for method in METHODS:
            settings: dict[str, Any] = {"method": method, "n_masks": n_masks, "progress": False}
            by_seed = [explain(detector, shown, targets, seed=seed, **settings) for seed in SEEDS]
            maps = np.stack([one.saliency for one in by_seed], axis=1)  # (n, 2, H, W)
            levels = [one.levels for one in by_seed if one.levels is not None]  # (L, n, h, w) each
            clear.setdefault(method, maps)
            with warnings.catch_warnings():  # of targets that are no longer found, which ``drawn`` says
                warnings.simplefilter("ignore")
                curves = metrics.curves(
                    detector, canvas, targets, maps[:, 0], steps=STEPS, kinds=metrics.KINDS
                )
            for k, record in enumerate(objects):
                deletion, insertion, blurring = (curves[kind][k] for kind in metrics.KINDS)
                scores = map_scores(maps[k], clear[method][k], targets.boxes[k])
                scores["drawn"] = float(k in still)
                for over_all, removal in (("over_all", deletion), ("over_all_blur", blurring)):
                    scores[over_all] = round(insertion.score - removal.score, 4) if k in still else None
                if levels:
                    pairs = zip(*(of_seed[:, k] for of_seed in levels))
                    scores["levels"] = [
                        inside(canvas.maps_to_image(np.stack(pair)), targets.boxes[k]) for pair in pairs
                    ]
                record["maps"].setdefault(name, {})[method] = scores
    return {"objects": objects}


def map_scores(maps: np.ndarray, clear: np.ndarray, box: np.ndarray) -> Record:
    """Scores of an object's maps (2, H, W) in one condition, as means over the two seeds.

    ``itself`` is the rank correlation of the two maps. ``clear`` is that with the clear image's map of the
    other seed, since maps from the same masks share noise. Both are None if a map is empty.
    For `inside` see there; ``ebpg`` and ``sparsity`` are those of `metrics`.
    """
    crossed = [metrics.rank_correlation(*pair) for pair in zip(maps, clear[::-1])]
    return {
        "itself": rounded(metrics.rank_correlation(*maps)),
        "clear": rounded(sum(crossed) / 2),
        "ebpg": rounded(np.mean([metrics.ebpg(saliency, box) for saliency in maps])),
        "inside": inside(maps, box),
        "sparsity": rounded(np.mean([metrics.sparsity(saliency) for saliency in maps])),
    }


def inside(maps: np.ndarray, box: np.ndarray) -> float | None:
    """Mean `relevance_rank` of an object's maps (K, H, W) in its box (4,)."""
    in_box = np.zeros(maps.shape[1:], dtype=bool)
    in_box[metrics.window(box, in_box.shape)] = True
    return rounded(np.mean([relevance_rank(saliency, in_box) for saliency in maps]))


def spoken(condition: str) -> str:
    """A condition's name in words."""
    return condition.replace("_", " ")


def study_conditions(
    out: str | Path,
    *,
    detectors: Sequence[str | Detector] = ("yolox_nano", "planted"),
    n_masks: int = 1000,
    limit: int | None = None,
    coco: str | Path | None = None,
    **run_options: Any,
) -> Records:
    """Study `CONDITIONS` on photos and scenes that ship, or resume a run that was stopped.

    Parameters
    ----------
    out : path
        Folder, see `runner.run_study`; a line has ``detector``, ``image`` and what `study_image` returns,
        or ``error`` for a photo that cannot be read.
    detectors : sequence of str or Detector
        Detectors whose name begins with "planted" see the first `SCENES` scenes, others see `PHOTOS`.
    n_masks : int
        Masks of each map.
    limit : int, optional
        Number of images for each detector; by default all.
    coco : path, optional
        A folder of COCO. Its photos come after those that ship.
    **run_options
        ``workers``, ``executor`` and ``progress`` of `runner.run_study`, whose errors are raised here too.
    """
    n_masks = make("dclose", n_masks=n_masks).n_masks  # at least one mask for each level
    loaded = [detector_of(detector) for detector in detectors]
    settings: Record = {"detectors": [{"name": one.name, **one.provenance} for one in loaded]}
    settings |= {"n_masks": n_masks, "severity": MAPPED_AT}
    if limit is not None:
        checks.at_least("limit", limit, 1)
    photos: dict[str, Callable[[], np.ndarray]] = {name: partial(load_photo, name) for name in PHOTOS}
    if coco is not None:
        data = read_coco(coco, missing="skip")
        photos |= {f"coco {truth.image}": truth.photo for truth in data.truths}
        settings["annotations_sha256"] = data.sha256
    scenes = {name: partial(load_photo, name) for name in (f"scene_{seed}" for seed in range(SCENES))}
    tasks, study = [], partial(study_image, n_masks=n_masks)
    for detector, one in zip(detectors, loaded):
        pictures = scenes if one.name.startswith("planted") else photos
        for image, photo in islice(pictures.items(), limit):
            tasks.append(Task({"detector": one.name, "image": image}, (detector, photo, study)))
    return run_study(out, settings, tasks, study_photo, **run_options)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = study_parser("conditions", "What bad conditions do to detections and their maps.")
    parser.add_argument("--detectors", nargs="+", default=["yolox_nano", "planted"])
    parser.add_argument("--n-masks", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="images of each detector; default: all")
    parser.add_argument("--coco", metavar="DIR", help="photos of COCO after those that ship")
    options = vars(parser.parse_args(arguments))
    return study_command("conditions", lambda: study_conditions(**options).path)


if __name__ == "__main__":
    sys.exit(main())
