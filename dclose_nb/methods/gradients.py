"""What methods share that look inside the network: one forward pass, and one gradient for each box."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..checks import InputError
from ..detection import Canvas, Detections, Detector, Proposals
from ..similarity import similarity_scores
from .method import Maps, OwnWay

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Gradients(OwnWay):
    """The base of methods that weigh feature maps by the gradient of a box's score.

    The proposal that is most similar to a target (Eq. 2) represents it. Its score is objectness times the
    probability of the target's class; for the question "place" it is the objectness, and for "class" the
    probability.

    Parameters
    ----------
    layer : str, optional
        Name of a layer with an output (1, channels, rows, columns). If it runs several times, as a head
        for several levels does, all its outputs count. By default the method chooses.
    """

    layer: str | None = None

    def __post_init__(self) -> None:
        if self.layer is not None and not isinstance(self.layer, str):
            raise InputError(f"layer must be a layer's name, got {self.layer!r}")

    @abstractmethod
    def weigh(self, features: Tensors, gradients: Tensors, size: torch.Size) -> torch.Tensor:
        """The map (1, 1, h, w), of any size, of one box.

        Features and their gradients (1, c, a, b) are those of the layers that the score depends on, finest
        first. `size` (2,) is that of the canvas.
        """

    def own_layers(self, detector: Detector) -> Sequence[str]:
        """Names of the layers that the method chooses, finest first."""
        return detector.feature_layers

    def maps(
        self, detector: Detector, canvas: Canvas, targets: Detections, *, question: str, **_: Any
    ) -> tuple[Maps, int]:
        """See `OwnWay`.

        A map is 0 everywhere if nothing is proposed, if no proposal is similar to the target, or if the
        network's numbers overflow, as they may with shuffled weights.

        Raises
        ------
        InputError
            The detector has no network, or the layer does not exist or has no such output.
        """
        layers = self._layers(detector)
        outputs: dict[str, Tensors] = {name: [] for name in layers}
        own_thread = threading.get_ident()

        def keep(name: str, _: Any, __: Any, output: torch.Tensor) -> None:
            if threading.get_ident() == own_thread:  # another one may ask the same module meanwhile
                outputs[name].append(output)  # a head may run once for each level

        with ExitStack() as hooks, torch.enable_grad():
            for name in layers:
                layer = detector.module.get_submodule(name)  # type: ignore[attr-defined]
                hooks.enter_context(layer.register_forward_hook(partial(keep, name)))
            proposals = detector.predict(canvas.pixels[None].clone().requires_grad_())
        for name in layers:
            shapes = [tuple(getattr(output, "shape", ())) for output in outputs[name]]
            if not shapes or any(len(shape) != 4 or shape[0] != 1 for shape in shapes):
                raise InputError(f"layer {name!r} gives no feature map: {_known(detector)}")

        seen = Proposals(*(part.detach() for part in proposals))
        similarity = similarity_scores(seen, *canvas.vectors(targets))[0]  # (T, n)
        maps = np.zeros((len(targets), *canvas.content[2:]), dtype=np.float32)
        features = [output for name in layers for output in outputs[name]]
        for k, label in enumerate(targets.labels):
            if not len(similarity) or similarity[:, k].max() == 0:
                continue
            best = similarity[:, k].argmax()
            objectness, probability = proposals.objectness[0, best], proposals.class_probs[0, best, label]
            score = {"all": objectness * probability, "place": objectness, "class": probability}[question]
            if not score.requires_grad:  # it depends on no layer at all
                continue
            gradients = torch.autograd.grad(score, features, retain_graph=True, allow_unused=True)
            matter = [(f.detach(), g) for f, g in zip(features, gradients) if g is not None and g.any()]
            if matter:
                size = canvas.pixels.shape[1:]
                weighed = self.weigh([f for f, _ in matter], [g for _, g in matter], size).relu().float()
                saliency = F.interpolate(weighed, size, mode="bilinear")[0, 0]
                if saliency.isfinite().all():
                    maps[k] = saliency[canvas.window].cpu().numpy()
        return Maps(maps), 1

    def _layers(self, detector: Detector) -> list[str]:
        """Names of the layers to use, finest first."""
        module = getattr(detector, "module", None)
        if not isinstance(module, torch.nn.Module) or not (self.layer or detector.feature_layers):
            raise InputError(
                f"this method needs a network with feature maps, and {detector.name!r} shows none: "
                "take one that looks at outputs alone, as 'regression' or 'dclose'"
            )
        if self.layer is None:
            return list(self.own_layers(detector))
        if not self.layer or self.layer not in dict(module.named_modules()):
            raise InputError(f"{detector.name!r} has no layer {self.layer!r}: {_known(detector)}")
        return [self.layer]


def _known(detector: Detector) -> str:
    known = ", ".join(detector.feature_layers)
    return f"its feature maps are made by {known}" if known else "choose one of its module.named_modules()"
