"""MFPP (Yang et al. 2021): superpixels on several levels, weighted as in RISE and averaged."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..sampling import Level
from .dclose import Dclose, Pyramid
from .method import Maps


@dataclass(frozen=True)
class Mfpp(Pyramid):
    """D-CLOSE's masks without its density map and without its cascade; parameters are those of `Pyramid`.

    MFPP explains classifiers. The similarity of detections (Eq. 2) takes the place of the class
    probability.
    """

    def combine(self, levels: list[Level]) -> Maps:
        return Dclose(**asdict(self), density=False, fusion="mean").combine(levels)
