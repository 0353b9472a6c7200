"""Detectors whose explanations are known, and helpers of the tests."""

import numpy as np
import torch

import dclose_nb as dc
from dclose_nb.detectors import weights
from dclose_nb.sampling import Level
from dclose_nb.similarity import mask_weights, target_masks_of


def weights_at_hand() -> bool:
    return weights.path_of("yolox_nano").is_file()


def out_of_memory_above(most, predict, error=None):
    """A `predict` that runs out of memory with more than `most` images at once."""

    def narrow(pixels):
        if len(pixels) > most:
            raise error or torch.OutOfMemoryError("out of memory")
        return predict(pixels)

    return narrow


class Lamps(dc.Detector):
    """A detector whose answer is known: each lamp is a box whose objectness is its brightness.

    Lamp t's objectness is the mean brightness of its box (0 to 1); its class vector is fixed. The
    image lies in a larger canvas at (2, 3), enlarged `zoom` times, so that the tests notice a shift.
    """

    OFFSET = 2, 3

    def __init__(self, boxes, class_probs, zoom=1):
        names = tuple("abcdefghij"[: np.shape(class_probs)[1]])
        super().__init__("lamps", names)
        self.boxes = torch.tensor(boxes, dtype=torch.float32)  # in image pixels
        self.class_probs = torch.tensor(class_probs, dtype=torch.float32)
        self.zoom = zoom
        self.seen: list[torch.Tensor] = []

    def prepare(self, image):
        h, w = image.shape[0] * self.zoom, image.shape[1] * self.zoom
        top, left = self.OFFSET
        pixels = torch.full((3, h + 5, w + 7), 114.0)
        enlarged = torch.tensor(image).float().permute(2, 0, 1)
        enlarged = enlarged.repeat_interleave(self.zoom, 1).repeat_interleave(self.zoom, 2)
        pixels[:, top : top + h, left : left + w] = enlarged
        return dc.Canvas(pixels, image.shape[:2], (top, left, h, w))

    def predict(self, pixels):
        self.seen.append(pixels.clone())
        top, left = self.OFFSET
        boxes = self.boxes * self.zoom + torch.tensor([left, top, left, top])
        bright = torch.stack(
            [pixels[:, :, y1:y2, x1:x2].mean((1, 2, 3)) / 255 for x1, y1, x2, y2 in boxes.int().tolist()],
            dim=1,
        )  # (B, T)
        b = len(pixels)
        return dc.Proposals(boxes.expand(b, -1, -1), bright, self.class_probs.expand(b, -1, -1))


class Shapes(Lamps):
    """Lamps with masks: the brightness of each quarter of the box."""

    def predict_masks(self, pixels):
        def masks(boxes, labels):
            assert boxes.shape[:2] == labels.shape
            cut = [
                [image[None, None, y1:y2, x1:x2] / 255 for x1, y1, x2, y2 in of_image.int().tolist()]
                for image, of_image in zip(pixels.mean(1), boxes)
            ]
            drawn = [[torch.nn.functional.adaptive_avg_pool2d(one, 2)[0, 0] for one in row] for row in cut]
            return torch.stack([torch.stack(row) for row in drawn])

        return dc.MaskProposals(self.predict(pixels), masks)


class Street(Lamps):
    """Lamps on all boxes of a data set, with its class names. It finds the bright objects."""

    def __init__(self, data):
        names = sorted({label for truth in data.truths for label in truth.labels})
        labels = [names.index(label) for truth in data.truths for label in truth.labels]
        probs = np.eye(len(names), dtype=np.float32)[labels]
        super().__init__(np.concatenate([truth.boxes for truth in data.truths]), probs)
        self.class_names = tuple(names)

    def predict(self, pixels):
        proposals = super().predict(pixels)
        self.seen.clear()
        return proposals


class Wired(Lamps):
    """Lamps whose objectness is scaled by the first weight of a layer; a second layer has no effect."""

    def __init__(self, *args):
        super().__init__(*args)
        self.name = "wired"
        self.module = torch.nn.ModuleDict({"switch": torch.nn.Linear(8, 1), "inert": torch.nn.Linear(8, 8)})
        with torch.no_grad():
            self.module["switch"].weight.copy_(torch.eye(8)[:1])

    @property
    def stages(self):
        return {"switch": ("switch",), "inert": ("inert",)}

    def predict(self, pixels):
        boxes, bright, probs = super().predict(pixels)
        self.seen.clear()
        return dc.Proposals(boxes, bright * self.module["switch"].weight[0, 0], probs)


def ignore_images(detector, image):
    """Make a detector propose, of every image, what it proposes of this one."""
    constant = detector.predict(detector.prepare(image).pixels[None])
    detector.predict = lambda pixels: dc.Proposals(
        *(part.expand(len(pixels), *part.shape[1:]) for part in constant)
    )


def brightness(detector, image, truth):
    """A record of a study: number of detections, brightness of the image, number of objects."""
    return {"found": len(detector.detect(image)), "mean": float(image.mean()), "truths": len(truth.labels)}


@torch.inference_mode()
def plain_loop(detector, canvas, targets, plan):
    """Steps 2 to 6 of section 3.5, one mask at a time, as the paper has them."""
    boxes, probs = canvas.vectors(targets)  # (n, 4), (n, C)
    target_masks = target_masks_of(detector, canvas, targets) if plan.overlap == "mask" else None
    predict = detector.predict if target_masks is None else detector.predict_masks
    levels = []
    for sampler, count in zip(plan.samplers, plan.counts):
        density = torch.zeros(canvas.content[2:], dtype=torch.float64, device=boxes.device)  # (h, w)
        weighted_sum = torch.zeros(len(targets), *density.shape).to(density)  # (n, h, w)
        found = torch.zeros(count, len(targets), device=boxes.device)
        for i in range(count):
            mask = sampler.masks(i, i + 1)[0]  # (h, w)
            masked = canvas.pixels.clone()
            masked[:, *canvas.window] *= mask  # step 2: hide what the mask hides
            proposals = predict(masked[None])  # step 3: ask the detector
            vectors = boxes, probs, target_masks
            # step 4: Eq. 6, (n,)
            weight = mask_weights(proposals, *vectors, filtered=plan.filtered, question=plan.question)[0]
            weighted_sum += weight[:, None, None] * mask  # step 5: the sum in Eq. 7
            density += mask  # step 5: Eq. 3
            found[i] = weight
        sums = weighted_sum.cpu().numpy(), density.cpu().numpy()
        levels.append(Level(sampler, *sums, found.cpu().numpy(), np.arange(count)))
    return levels  # step 6, the division of Eq. 7, is `Level.saliency`
