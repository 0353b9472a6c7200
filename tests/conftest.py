"""Fixtures: the toy detector with known answers, and the real one if its weights are there."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from toys import Lamps, Shapes, weights_at_hand

import dclose_nb as dc

matplotlib.use("agg")


@pytest.fixture
def lamps():
    """Two lamps, left and right, of two classes."""
    return Lamps([[1, 1, 7, 9], [10, 2, 18, 8]], [[0.9, 0.1], [0.2, 0.8]])


@pytest.fixture
def shapes(lamps):
    """The same two lamps, with masks."""
    return Shapes(lamps.boxes.tolist(), lamps.class_probs.tolist())


@pytest.fixture
def lit(lamps):
    """An image on which both lamps shine."""
    image = np.full((12, 20, 3), 40, np.uint8)
    for x1, y1, x2, y2 in lamps.boxes.int().tolist():
        image[y1:y2, x1:x2] = 250
    return image


@pytest.fixture(scope="session")
def yolox():
    if not weights_at_hand():
        pytest.skip("the weights of yolox_nano are not at hand: run `make demo` once, or set YOLOX_HOME")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # development uses a converted checkpoint
        return dc.load_detector("yolox_nano")


@pytest.fixture(scope="session")
def real():
    """The default detector of photographs: YOLOX-Nano, or PicoDet-S where its weights cannot be had."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dc.load_detector()
        except dc.detectors.MissingWeights as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def coco() -> Path:
    folder = os.environ.get("DCLOSE_COCO")
    if not folder:
        pytest.skip("no COCO photographs: set DCLOSE_COCO to a folder with val2017/ and annotations/")
    return Path(folder)


@pytest.fixture
def threads():
    """Give PyTorch three threads, whatever the machine has; returns 3."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)
