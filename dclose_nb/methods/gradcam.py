"""Grad-CAM (Selvaraju et al. 2017), the white-box baseline of section 6, for detectors."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..checks import InputError
from ..detection import Canvas, Detections, Detector, Proposals
from ..engine import Maps, Watch
from ..similarity import similarity_scores


def gradcam(
    detector: Detector,
    canvas: Canvas,
    targets: Detections,
    *,
    layer: str | None = None,
    watch: Watch | None = None,
    progress: bool = True,
) -> Maps:
    """Explain targets by the feature map that the network made each box from.

    The proposal that is most similar to a target (Eq. 2) stands for it. The gradient of its score
    (objectness times the probability of the target's class) with respect to a layer's output is
    averaged over the pixels of each channel; the map is the sum of the channels with these weights,
    negatives cut off, enlarged bilinearly.

    Parameters
    ----------
    detector, canvas, targets
        A detector with a PyTorch network as its `module`, the image as it prepared it, and n boxes
        in image pixels.
    layer : str, optional
        Name of a layer with an output (1, channels, rows, columns). By default the last of the
        detector's `feature_layers` that the proposal depends on: the one of its stride.
    watch, progress
        Of no use here: the network sees one image.

    Returns
    -------
    Maps
        A map is 0 everywhere where nothing is proposed, nothing speaks for the target, or the
        network's numbers overflow, as they may where weights are shuffled.

    Raises
    ------
    InputError
        A detector without a network, or a layer that it has not or that has no such output.
    """
    names = _layers(detector, layer)
    outputs: dict[str, torch.Tensor] = {}
    hooks = [
        detector.module.get_submodule(name).register_forward_hook(  # type: ignore[attr-defined]
            lambda _, __, output, name=name: outputs.__setitem__(name, output)
        )
        for name in names
    ]
    try:
        with torch.enable_grad():
            proposals = detector.predict(canvas.pixels[None].clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        shape = tuple(getattr(outputs.get(name), "shape", ()))
        if len(shape) != 4 or shape[0] != 1:
            raise InputError(f"layer {name!r} gives no feature map: {_known(detector)}")

    seen = Proposals(*(part.detach() for part in proposals))
    similarity = similarity_scores(seen, *canvas.vectors(targets))[0]  # (T, n)
    size = canvas.pixels.shape[1:]
    maps = np.zeros((len(targets), *canvas.content[2:]), dtype=np.float32)
    for k, label in enumerate(targets.labels):
        if not len(similarity) or similarity[:, k].max() == 0:
            continue
        best = similarity[:, k].argmax()
        score = proposals.objectness[0, best] * proposals.class_probs[0, best, label]
        gradients = torch.autograd.grad(
            score, [outputs[name] for name in names], retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(reversed(names), reversed(gradients)):  # the coarsest that matters
            if gradient is not None and gradient.any():
                weighted = (gradient.mean((2, 3), keepdim=True) * outputs[name]).sum(1, keepdim=True)
                heat = F.interpolate(weighted.detach().relu().float(), size, mode="bilinear")[0, 0]
                if heat.isfinite().all():
                    maps[k] = heat[canvas.window].cpu().numpy()
                break
    return Maps(maps, n_forward=1)


def check(*, layer: str | None) -> None:
    """Layers are known to the detector only; see `gradcam`."""
    if layer is not None and not isinstance(layer, str):
        raise InputError(f"layer must be a layer's name, got {layer!r}")


def _layers(detector: Detector, layer: str | None) -> list[str]:
    """Names of the layers to look at, finest first."""
    module = getattr(detector, "module", None)
    if not isinstance(module, torch.nn.Module) or not detector.feature_layers:
        raise InputError(f"gradcam needs a network with feature maps, and {detector.name!r} shows none")
    if layer is None:
        return list(detector.feature_layers)
    if not layer or layer not in dict(module.named_modules()):
        raise InputError(f"{detector.name!r} has no layer {layer!r}: {_known(detector)}")
    return [layer]


def _known(detector: Detector) -> str:
    return f"its feature maps are made by {', '.join(detector.feature_layers)}"
