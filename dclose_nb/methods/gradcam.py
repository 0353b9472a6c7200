"""Grad-CAM (Selvaraju et al. 2017), the white-box baseline of section 6, for detectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..checks import InputError
from ..detection import Canvas, Detections, Detector, Proposals
from ..similarity import similarity_scores
from .method import Maps


@dataclass(frozen=True)
class GradCam:
    """Which features made each box, by one forward pass and one gradient for each box, without sampling.

    The proposal that is most similar to a target (Eq. 2) represents it. The gradient of its score
    (objectness times the probability of the target's class) with respect to a layer's output is
    averaged over the pixels of each channel. The map is the sum of the channels with these weights,
    clipped at 0 and enlarged bilinearly.

    Parameters
    ----------
    layer : str, optional
        Name of a layer with an output (1, channels, rows, columns). By default the last of the
        detector's `feature_layers` that the proposal depends on: the one of its stride.
    """

    layer: str | None = None

    def __post_init__(self) -> None:
        if self.layer is not None and not isinstance(self.layer, str):
            raise InputError(f"layer must be a layer's name, got {self.layer!r}")

    def maps(self, detector: Detector, canvas: Canvas, targets: Detections) -> Maps:
        """Maps of n targets in one image.

        A map is 0 everywhere if nothing is proposed, if no proposal is similar to the target, or if the
        network's numbers overflow, as they may with shuffled weights.

        Raises
        ------
        InputError
            The detector has no network, or the layer does not exist or has no such output.
        """
        layers = self._layers(detector)
        outputs: dict[str, torch.Tensor] = {}
        hooks = [
            detector.module.get_submodule(name).register_forward_hook(  # type: ignore[attr-defined]
                lambda _, __, output, name=name: outputs.__setitem__(name, output)
            )
            for name in layers
        ]
        try:
            with torch.enable_grad():
                proposals = detector.predict(canvas.pixels[None].clone().requires_grad_())
        finally:
            for hook in hooks:
                hook.remove()
        for name in layers:
            shape = tuple(getattr(outputs.get(name), "shape", ()))
            if len(shape) != 4 or shape[0] != 1:
                raise InputError(f"layer {name!r} gives no feature map: {_known(detector)}")

        seen = Proposals(*(part.detach() for part in proposals))
        similarity = similarity_scores(seen, *canvas.vectors(targets))[0]  # (T, n)
        maps = np.zeros((len(targets), *canvas.content[2:]), dtype=np.float32)
        for k, label in enumerate(targets.labels):
            if not len(similarity) or similarity[:, k].max() == 0:
                continue
            best = similarity[:, k].argmax()
            score = proposals.objectness[0, best] * proposals.class_probs[0, best, label]
            features = [outputs[name] for name in layers]
            gradients = torch.autograd.grad(score, features, retain_graph=True, allow_unused=True)
            for feature, gradient in zip(reversed(features), reversed(gradients)):
                if gradient is not None and gradient.any():  # the coarsest layer that matters
                    maps[k] = _weighted(feature, gradient, canvas)
                    break
        return Maps(maps)

    def _layers(self, detector: Detector) -> list[str]:
        """Names of the layers to use, finest first."""
        module = getattr(detector, "module", None)
        if not isinstance(module, torch.nn.Module) or not detector.feature_layers:
            raise InputError(f"gradcam needs a network with feature maps, and {detector.name!r} shows none")
        if self.layer is None:
            return list(detector.feature_layers)
        if not self.layer or self.layer not in dict(module.named_modules()):
            raise InputError(f"{detector.name!r} has no layer {self.layer!r}: {_known(detector)}")
        return [self.layer]


def _weighted(feature: torch.Tensor, gradient: torch.Tensor, canvas: Canvas) -> np.ndarray:
    """Sum of a layer's channels (1, c, a, b), weighted by their gradients' means, (h, w)."""
    weighted = (gradient.mean((2, 3), keepdim=True) * feature).sum(1, keepdim=True)
    size = canvas.pixels.shape[1:]
    saliency = F.interpolate(weighted.detach().relu().float(), size, mode="bilinear")[0, 0]
    if not saliency.isfinite().all():
        saliency = torch.zeros_like(saliency)
    return saliency[canvas.window].cpu().numpy()


def _known(detector: Detector) -> str:
    return f"its feature maps are made by {', '.join(detector.feature_layers)}"
