"""Means over the objects of all images, with bootstrap intervals over images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .records import Record


def mean_with_interval(groups: Sequence[Sequence[Any]], *, draws: int = 2000) -> np.ndarray:
    """Mean over all values with its 95 % interval, by a bootstrap that draws whole groups.

    Parameters
    ----------
    groups : sequence of sequences
        At least one. A group holds values that belong together, such as the objects of an image:
        numbers, or arrays of one shape.
    draws : int
        Samples of the bootstrap. They are the same at each call.

    Returns
    -------
    (3, ...) array
        Mean, low and high end. The ends are NaN for a single group, which does not show the spread.
    """
    sums = np.array([np.sum(group, axis=0) for group in groups], dtype=float)  # (G, ...)
    counts = np.array([len(group) for group in groups])
    mean = sums.sum(axis=0) / counts.sum()
    if len(groups) == 1:
        return np.stack([mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)])
    drawn = np.random.default_rng(0).integers(len(sums), size=(draws, len(sums)))
    means = np.array([sums[which].sum(axis=0) / counts[which].sum() for which in drawn])
    return np.array([mean, *np.percentile(means, [2.5, 97.5], axis=0)])


def mean(objects: Iterable[Record], value: Callable[[Record], Any]) -> np.ndarray | None:
    """Mean of a value over objects with its 95 % interval, by a bootstrap over images.

    `objects` are records, each with its ``image``. `value` maps a record to a number or an array, or to None
    to leave the object out. Returns (3, ...) as `mean_with_interval`, or None if no object is left.
    """
    by_image: dict[Any, list[Any]] = {}
    for record in objects:
        if (number := value(record)) is not None:
            by_image.setdefault(record["image"], []).append(number)
    return mean_with_interval(list(by_image.values())) if by_image else None


def difference(
    objects: Iterable[Record], value: Callable[[Record], Any], reference: Callable[[Record], Any]
) -> np.ndarray | None:
    """Mean of `value` less `reference` of each object. Objects that lack one are left out. As `mean`."""

    def gain(record: Record) -> Any:
        a, b = value(record), reference(record)
        return None if a is None or b is None else np.subtract(a, b)

    return mean(objects, gain)


def rounded(value: float | np.floating, digits: int = 4) -> float | None:
    """A number for a record: None if it is NaN, which JSON does not have."""
    return None if np.isnan(value) else round(float(value), digits)
