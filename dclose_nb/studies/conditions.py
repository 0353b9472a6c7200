"""4.5: bad light, bad weather, bad cameras, and what becomes of maps: ``python -m dclose_nb.conditions OUT``.

Every model in `CONDITIONS` takes an image as `Detector.detect` does and a severity from 0, which leaves
it as it is, to 1, and returns (H, W, 3) uint8. The same seed gives the same image. Light adds up in
linear intensities, so sRGB is decoded first and encoded at the end (IEC 61966-2-1).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from .. import checks, metrics
from ..detection import Detections, Detector
from ..detectors import load_detector
from ..explanation import explain
from ..images import PHOTOS, load_photo
from ..planted.scores import filled_box, relevance_rank
from ..similarity import mask_weights
from .coco import command, read_coco
from .records import Record, Records, mean_with_interval

STOPS = 8.0  # halvings of the light at severity 1
FULL_WELL = 10_000.0  # electrons that white gives in a good exposure
READ_NOISE = 3.0  # electrons, standard deviation
RED = np.array([1.0, 0.02, 0.01])  # share of each channel that a red lamp leaves
MOON = np.array([0.004, 0.005, 0.008])  # light of the night over that of the day
LAMP = np.array([0.4, 0.25, 0.1])  # and of a street lamp, right in front of it
FOG_DEPTH = float(np.log(20))  # optical depth at the horizon at severity 1: a 20th of the contrast is left
AIRLIGHT = 0.7  # of fog and of raindrops, over white
BLUR_LENGTH = 0.08  # path of the motion at severity 1, of the image's longer side
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue (ITU-R BT.709)

METHODS = ("dclose", "drise")
SEVERITIES = (0.25, 0.5, 0.75, 1.0)
MAPPED = ("low_light", "red_light", "night", "fog", "false_colour")  # Fig. 8, as far as it can be had
MAPPED_AT = 0.75  # severity of the images that are explained
SEEDS = (1, 2)  # of the masks
STEPS = 10  # of deletion and insertion, a twentieth of the paper's
MOST = 5  # objects of an image
SCENES = 5


def low_light(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Underexposure by up to eight stops, with the noise of the few photons that are left; see `expose`."""
    light, rng = _scene(image, severity, seed)
    return _photo(expose(light, 2 ** (-STOPS * severity), rng))


def sensor_noise(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """As little light as in `low_light`, brought back to full brightness by the camera's gain."""
    light, rng = _scene(image, severity, seed)
    exposure = 2 ** (-STOPS * severity)
    return _photo(expose(light, exposure, rng) / exposure)


def red_light(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Light that turns red: each channel is what the surface leaves of the lamp's (von Kries's model)."""
    light, _ = _scene(image, severity, seed)
    return _photo(light * RED**severity)


def night(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """A blue remainder of light and two warm lamps, with noise as in `low_light`.

    A lamp stands in front of the picture as before a wall, its light falls as the inverse square of
    the distance times the cosine (Lambert). Where they stand is drawn by the seed.
    """
    light, rng = _scene(image, severity, seed)
    height, width = light.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width)
    lit = np.broadcast_to(MOON, light.shape)
    for down, right in rng.random((2, 2)) * (height, width) / max(height, width):
        lit = lit + LAMP * (1 + ((x - right) ** 2 + (y - down) ** 2)[..., None] / 0.2**2) ** -1.5
    return _photo(expose(light, lit**severity, rng))


def fog(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Fog, ``I = J t + A (1 - t)`` with ``t = exp(-beta d)`` (Koschmieder 1924; Narasimhan and Nayar 2002).

    No depth d is known of a photo. It is taken to grow evenly from 0.2 in the last row to 1 at the
    horizon, a third from the top, and to be 1 above. Nothing is drawn, so the seed has no effect.
    """
    light, _ = _scene(image, severity, seed)
    depth = np.interp(np.linspace(0, 1, len(light)), [1 / 3, 1], [1, 0.2])[:, None, None]
    left = np.exp(-FOG_DEPTH * severity * depth)
    return _photo(light * left + AIRLIGHT * (1 - left))


def rain(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Streaks of falling drops, each brighter than what it hides (after Garg and Nayar 2007).

    While a drop passes a pixel it shows the bright sky, for a part of the exposure: the pixel is a
    mixture of both. A heavier rain has the drops of a lighter one of the same seed, and more.
    """
    light, rng = _scene(image, severity, seed)
    longer = max(light.shape[:2])
    streak = line_kernel(0.06 * longer, np.pi / 2 + rng.uniform(-0.3, 0.3))
    drops = (rng.random(light.shape[:2]) < 400 * severity / longer**2).astype(np.float32)
    drops = cv2.dilate(drops, np.ones((2 * (longer // 400) + 1,) * 2, np.uint8))
    share = 0.4 * cv2.filter2D(drops, -1, streak / streak.max()).clip(0, 1)[..., None]
    return _photo(light * (1 - share) + AIRLIGHT * share)


def motion_blur(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """A camera that moves evenly along a line while the shutter is open; the seed draws the direction."""
    light, rng = _scene(image, severity, seed)
    kernel = line_kernel(BLUR_LENGTH * severity * max(light.shape[:2]), rng.uniform(0, np.pi))
    return _photo(cv2.filter2D(light, -1, kernel, borderType=cv2.BORDER_REFLECT))


def grey(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """Colours that fade to their luminance (ITU-R BT.709); nothing is drawn."""
    light, _ = _scene(image, severity, seed)
    return _photo(light + severity * ((light @ LUMINANCE)[..., None] - light))


def false_colour(image: Any, severity: float, *, seed: int = 0) -> np.ndarray:
    """The brightness through a palette, as thermal cameras show theirs; nothing is drawn.

    This is no infrared photograph: what is warm does not get brighter. It shows only what a detector
    makes of a palette.
    """
    light, _ = _scene(image, severity, seed)
    brightness = grey(image, 1)
    palette = _linear(cv2.applyColorMap(brightness, cv2.COLORMAP_INFERNO)[..., ::-1])
    return _photo(light + severity * (palette - light))


CONDITIONS: dict[str, Callable[..., np.ndarray]] = {
    model.__name__: model
    for model in (low_light, red_light, night, fog, rain, motion_blur, sensor_noise, grey, false_colour)
}


def expose(light: np.ndarray, exposure: Any, rng: np.random.Generator) -> np.ndarray:
    """What a sensor reads of light: Poisson's photons and Gaussian read noise (Foi et al. 2008).

    Parameters
    ----------
    light : array
        Linear intensity, 1 being white.
    exposure : float or array
        What is left of the light. 1 is the photo itself, whose noise is in it already.
    rng : numpy.random.Generator

    Returns
    -------
    array
        Linear intensity; a little below 0 where noise has it so.
    """
    if np.all(exposure == 1):
        return light
    electrons = rng.poisson(light * exposure * FULL_WELL) + rng.normal(0, READ_NOISE, light.shape)
    return electrons / FULL_WELL


def line_kernel(length: float, angle: float) -> np.ndarray:
    """A straight path of `length` pixels at `angle` radians as a kernel (k, k) float64 that sums to 1."""
    radius = int(np.ceil(length / 2))
    along = np.linspace(-length / 2, length / 2, 64 * radius + 1)
    ends = (-radius - 0.5, radius + 0.5)
    path, *_ = np.histogram2d(
        -along * np.sin(angle), along * np.cos(angle), bins=2 * radius + 1, range=(ends, ends)
    )
    return path / path.sum()


def _scene(image: Any, severity: float, seed: int) -> tuple[np.ndarray, np.random.Generator]:
    """The linear light of an image, and a source of chance."""
    checks.fraction("severity", severity)
    return _linear(checks.image(image)), np.random.default_rng(checks.at_least("seed", seed, 0))


def _linear(image: np.ndarray) -> np.ndarray:
    """sRGB (H, W, 3) uint8 as linear intensities in [0, 1]."""
    values = np.arange(256) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)[image]


def _photo(light: np.ndarray) -> np.ndarray:
    """Linear intensities as sRGB; a sensor saturates at white."""
    light = light.clip(0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * encoded).round().astype(np.uint8)


@torch.inference_mode()
def target_weights(detector: Detector, image: Any, targets: Detections) -> np.ndarray:
    """Similarity of the best proposal in an image to each target (Eq. 6, unmasked), (n,) in [0, 1]."""
    canvas = detector.prepare(checks.image(image))
    return mask_weights(detector.predict(canvas.pixels[None]), *canvas.vectors(targets))[0].cpu().numpy()


def study_image(detector: Detector, image: np.ndarray, *, n_masks: int) -> list[Record]:
    """Follow what a detector finds in an image through all conditions, its maps through those of `MAPPED`.

    The targets stay those of the clear image, even where the detector no longer draws them.

    Parameters
    ----------
    detector : Detector
    image : (H, W, 3) uint8 array
    n_masks : int
        Budget of each map.

    Returns
    -------
    list of dict
        One an object: ``label``, ``score``, ``area`` (share of the image); ``left``, for each
        condition what is left of its weight at `SEVERITIES`, over that in the clear image; ``maps``, for
        "clear" and each of `MAPPED` and each method the means over two seeds of ``itself`` (rank
        correlation of the two maps), ``clear`` (with the clear map of the other seed), ``ebpg``,
        ``inside`` (of the highest pixels, as many as the box has, the share inside) and ``sparsity``;
        ``drawn``, 1 where the detector draws the target in the image explained; ``over_all`` of the
        first seed there, None where it is not drawn. A correlation is None where a map is empty.
    """
    targets = detector.detect(image)[:MOST]
    if not len(targets):
        return []
    corners = targets.boxes.clip(0, np.tile(image.shape[1::-1], 2))
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1) / (image.shape[0] * image.shape[1])
    objects: list[Record] = [
        {
            "label": name,
            "score": round(float(score), 4),
            "area": round(float(area), 4),
            "left": {},
            "maps": {},
        }
        for name, score, area in zip(targets.names, targets.scores, areas)
    ]
    before = target_weights(detector, image, targets)
    for name, degrade in CONDITIONS.items():
        left = [
            target_weights(detector, degrade(image, one), targets) / before for one in SEVERITIES
        ]  # (S, n)
        for one, own in zip(objects, np.transpose(left)):
            one["left"][name] = [round(float(share), 4) for share in own]

    clear: dict[str, np.ndarray] = {}
    for name in ("clear", *MAPPED):
        shown = image if name == "clear" else CONDITIONS[name](image, MAPPED_AT)
        canvas = detector.prepare(shown)
        for method in METHODS:
            settings: dict[str, Any] = {"method": method, "n_masks": n_masks, "progress": False}
            maps = np.stack(
                [explain(detector, shown, targets, seed=seed, **settings).saliency for seed in SEEDS], axis=1
            )  # (n, 2, H, W)
            clear.setdefault(method, maps)
            curves = metrics.curves(detector, canvas, targets, maps[:, 0], steps=STEPS)
            for k, one in enumerate(objects):
                deletion, insertion = (curves[kind][k] for kind in ("deletion", "insertion"))
                drawn = deletion.curve[0] > 0
                one["maps"].setdefault(name, {})[method] = {
                    **compare(maps[k], clear[method][k], targets.boxes[k]),
                    "drawn": float(drawn),
                    "over_all": round(insertion.score - deletion.score, 4) if drawn else None,
                }
    return objects


def compare(maps: np.ndarray, clear: np.ndarray, box: np.ndarray) -> Record:
    """Scores of an object's maps in some condition, means over two seeds; see `study_image`.

    Two maps that are correlated never share a seed. With the same masks they would share their noise.

    Parameters
    ----------
    maps, clear : (2, H, W) arrays
        Of two seeds, the same for both.
    box : (4,) array
    """
    inside = filled_box(maps.shape[1:], box) > 0
    found: dict[str, Any] = {
        "itself": metrics.rank_correlation(*maps),
        "clear": (metrics.rank_correlation(maps[0], clear[1]) + metrics.rank_correlation(maps[1], clear[0]))
        / 2,
        "ebpg": np.mean([metrics.ebpg(one, box) for one in maps]),
        "inside": np.mean([relevance_rank(one, inside) for one in maps]),
        "sparsity": np.mean([metrics.sparsity(one) for one in maps]),
    }
    return {name: None if np.isnan(value) else round(float(value), 4) for name, value in found.items()}


def mean(lines: Sequence[Record], *keys: Any) -> np.ndarray | None:
    """Mean of a number over all objects, low and high end of its 95 % interval; images are drawn anew.

    Parameters
    ----------
    lines : list of dict
        Of `run`'s records.
    *keys
        Where the number stands in an object's record: ``"left", "fog", 0`` for instance. Objects that
        have None there are left out.

    Returns
    -------
    (3,) array or None
        None where objects of fewer than two images are left.
    """
    return _mean(lines, lambda one: _number(one, keys))


def difference(lines: Sequence[Record], keys: Sequence[Any], other: Sequence[Any]) -> np.ndarray | None:
    """Mean over objects of the number at `keys` less that at `other`, as `mean`."""

    def gain(one: Record) -> float | None:
        a, b = _number(one, keys), _number(one, other)
        return None if a is None or b is None else a - b

    return _mean(lines, gain)


def _number(one: Any, keys: Sequence[Any]) -> float | None:
    for key in keys:
        one = one[key]
    return one


def _mean(lines: Sequence[Record], value: Callable[[Record], float | None]) -> np.ndarray | None:
    by_image = [[value(one) for one in line["objects"]] for line in lines]
    kept = [known for own in by_image if (known := [one for one in own if one is not None])]
    return mean_with_interval(kept) if len(kept) > 1 else None


def run(
    folder: str | Path,
    *,
    detectors: Sequence[str] = ("yolox_nano", "planted"),
    n_masks: int = 200,
    limit: int | None = None,
    coco: str | Path | None = None,
    progress: bool = True,
) -> Records:
    """Study photos that ship, or go on where a run was stopped.

    Parameters
    ----------
    folder : path
        ``conditions.jsonl`` is kept there, a line an image and detector.
    detectors : sequence of str
        As `load_detector` takes them. Those whose name begins with "planted" see the first `SCENES`
        scenes, others see `PHOTOS`.
    n_masks : int
    limit : int, optional
        Only the first so many images of each detector.
    coco : path, optional
        A folder of COCO, whose photos come after those that ship.
    progress : bool

    Returns
    -------
    Records

    Raises
    ------
    InputError
        A parameter out of range, records of other parameters, a folder that cannot be used.
    WeightsError
        Weights that are missing or damaged.
    """
    checks.at_least("n_masks", n_masks, 1)
    if limit is not None:
        checks.at_least("limit", limit, 1)
    photos = {name: name for name in PHOTOS}
    if coco is not None:
        truths = read_coco(coco, missing="skip").truths
        photos |= {f"coco {truth.image}": truth.path for truth in truths}
    scenes = {f"scene_{k}": f"scene_{k}" for k in range(SCENES)}
    records = Records(checks.path(folder) / "conditions.jsonl", {"n_masks": n_masks, "severity": MAPPED_AT})
    done = {(line["detector"], line["image"]) for line in records.lines}
    todo = [
        (name, image, path)
        for name in detectors
        for image, path in list((scenes if name.startswith("planted") else photos).items())[:limit]
        if (name, image) not in done
    ]
    loaded = {name: load_detector(name) for name in {name for name, _, _ in todo}}
    for name, image, path in tqdm(todo, unit="image", disable=not progress):
        objects = study_image(loaded[name], load_photo(path), n_masks=n_masks)
        records.append({"detector": name, "image": image, "objects": objects})
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description="What bad conditions do to detections and their maps.")
    parser.add_argument("folder", metavar="OUT", help="records; a stopped run goes on from there")
    parser.add_argument("--detectors", nargs="+", default=["yolox_nano", "planted"])
    parser.add_argument("--n-masks", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="images of each detector; default: all")
    parser.add_argument("--coco", metavar="DIR", help="photos of COCO after those that ship")
    args = vars(parser.parse_args())
    return command("conditions", lambda: run(args.pop("folder"), **args).path)


if __name__ == "__main__":
    sys.exit(main())
