"""What a method is: options, and how they become maps, from masked images or in a way of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np

from ..detection import Canvas, Detections, Detector
from ..sampling import Level, Plan


class Maps(NamedTuple):
    """A method's result: maps of n targets in the frame of the canvas's content, (h, w)."""

    saliency: np.ndarray  # (n, h, w) float32
    levels: np.ndarray | None = None  # (L, n, h, w) float32, finest first
    density: np.ndarray | None = None  # (L, h, w) float32
    error: np.ndarray | None = None  # (n, h, w) float32, standard error of the map scaled to [0, 1]


class Method(ABC):
    """A sampling method: a frozen dataclass of its options, which `__post_init__` checks."""

    own_error: ClassVar[bool] = False  # whether `combine` gives the error; else two halves are compared
    # the most masks that it takes; n_masks="auto" goes up to these, or to its own number where this is None
    most: ClassVar[int | None] = None

    @property
    def cascade_order(self) -> slice | None:
        """Order in which levels, finest first, enter the cascade. None where there is no cascade."""
        return None

    @abstractmethod
    def plan(self, canvas: Canvas, seed: int) -> Plan:
        """What to sample for an image as the network sees it."""

    @abstractmethod
    def combine(self, levels: list[Level]) -> Maps:
        """Maps from the sums over the masks of the plan's levels, or over some of these masks."""


class OwnWay(ABC):
    """A method that draws no random masks: a frozen dataclass of its options, as `Method` is."""

    @abstractmethod
    def maps(
        self,
        detector: Detector,
        canvas: Canvas,
        targets: Detections,
        *,
        question: str,
        batch_size: int,
        progress: bool,
    ) -> tuple[Maps, int]:
        """Maps of n targets in one image, and the number of images that the network saw.

        The network sees at most `batch_size` images at once. See `similarity.mask_weights` for the question.
        """
