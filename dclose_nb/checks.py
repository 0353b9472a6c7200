"""What every public function refuses, in one line that says what to do."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDING = 1e-3  # of numbers of 16 bits
MANY = 10**8  # masks, steps and superpixels; nobody waits for more


class InputError(ValueError):
    """An argument that cannot be used; the message says what was given and what is wanted."""


def mask(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask of this shape as bool. As integers, 0 and 1 would pick rows of a map."""
    return numbers(name, value, shape).astype(bool)


def image(value: Any) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB.

    Accepted are arrays (H, W), (H, W, 1), (H, W, 3) and (H, W, 4), uint8 in 0-255 or float in
    0-1. Greyscale is repeated over the channels, transparency is laid over white.

    Raises
    ------
    InputError
        Any other shape or type, an empty image, or floats that are not finite or not in [0, 1].
    """
    if hasattr(value, "convert") and value.mode not in ("RGB", "RGBA", "L"):  # Pillow's images
        raise InputError(f"an image must be RGB, RGBA or L, got the mode {value.mode!r}: use .convert('RGB')")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise InputError(f"an image must be an array: {error}") from error
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(
            f"an image must be (H, W), (H, W, 3) or (H, W, 4), got an array of shape {array.shape}"
        )
    if array.size == 0:
        raise InputError(f"the image is empty: its shape is {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise InputError("the image holds NaN or infinite pixels: replace them first")
        if array.min() < 0 or array.max() > 1:
            raise InputError(
                f"a float image must lie in [0, 1], this one lies in [{array.min():g}, {array.max():g}]: "
                "scale it, or convert it to uint8"
            )
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"an image must be uint8 or float, got {array.dtype}: convert it to uint8")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.shape[2] == 4:
        opacity = array[:, :, 3:].astype(np.uint16)  # 16 bits hold 255 * 255, and a large photo in memory
        array = ((array[:, :, :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    return np.require(array, requirements=["C", "W"])  # Pillow's images are read-only


def numbers(
    name: str, value: Any, shape: tuple[int | str, ...] | None = None, *, dtype: Any = None
) -> np.ndarray:
    """Return `value` as an array of real numbers; with a `shape`, of finite ones.

    A shape's letters stand for any length but 0. Without a `dtype`, all but float32 becomes float64.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biufO":  # objects may be numbers, as in a table of many kinds
            raise TypeError(f"they are {array.dtype}")
        array = np.asarray(array, dtype=dtype or (array.dtype if array.dtype == np.float32 else np.float64))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} must be numbers: {error}") from error
    if shape is not None:
        lengths = zip(array.shape, shape)
        fits = array.ndim == len(shape) and all(n == m if isinstance(m, int) else n for n, m in lengths)
        if not fits or not np.isfinite(array).all():
            wanted = f"{name} must be finite numbers ({', '.join(map(str, shape))})"
            raise InputError(f"{wanted}, got {'NaN or infinity' if fits else f'the shape {array.shape}'}")
    return array


def in_unit_interval(name: str, array: np.ndarray) -> None:
    """Refuse numbers that do not lie in [0, 1], apart from rounding."""
    if array.size and not (array.min() >= -ROUNDING and array.max() <= 1 + ROUNDING):
        raise InputError(f"{name} must lie in [0, 1], got {array.min():g} to {array.max():g}")


def labels(value: Any, shape: tuple[int | str, ...] = ("h", "w")) -> np.ndarray:
    """Return the superpixel of each pixel, (h, w) int: from 0, and fewer than there are pixels."""
    array = numbers("labels", value, shape)
    if array.min() < 0 or array.max() >= array.size or (array % 1).any():
        raise InputError(f"labels must be integers from 0 to {array.size - 1}, one for each pixel")
    return array.astype(np.int64)


def pair(name: str, value: Any, largest: int = MANY) -> tuple[int, int]:
    """Return `value` if it is two integers from 1 to `largest`, such as (rows, columns)."""
    value = plain(value)
    if not isinstance(value, tuple) or len(value) != 2:
        raise InputError(f"{name} must be two integers, got {shown(value)}")
    first, second = (at_least(name, part, 1, largest=largest) for part in value)
    return first, second


def instance(name: str, value: Any, kind: Any, advice: str = "") -> None:
    """Refuse a `value` that is not of a `kind`, a type or several, with `advice` on how to get one."""
    if not isinstance(value, kind):
        wanted = f"{name} must be {getattr(kind, '__name__', kind)}, got {type(value).__name__}"
        raise InputError(f"{wanted}: {advice}" if advice else wanted)


def line_of(error: Exception, which: int = 0) -> str:
    """A line of an error's text, by default the first. Without a text, the name of its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[which]


def probability(name: str, value: Any) -> float:
    """Return `value` if it lies strictly between 0 and 1."""
    if not isinstance(value, int | float | np.floating) or not 0 < value < 1:
        raise InputError(f"{name} must be a number between 0 and 1, both excluded, got {shown(value)}")
    return float(value)


def at_least(
    name: str, value: Any, smallest: float, *, largest: float = sys.float_info.max, integer: bool = True
) -> Any:
    """Return `value` if it is a number (an integer, unless told otherwise) from `smallest` to `largest`."""
    kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    if not isinstance(value, kinds) or isinstance(value, bool) or not smallest <= value <= largest:
        kind = "an integer" if integer else "a number"
        limits = f"of at least {smallest}"
        if largest < sys.float_info.max:
            limits = f"from {smallest} to {largest}"
        raise InputError(f"{name} must be {kind} {limits}, got {shown(value)}")
    return int(value) if integer else float(value)


def count(name: str, value: Any) -> int:
    """Return `value` if it is an integer of at least 1 that is not beyond all use."""
    return int(at_least(name, value, 1, largest=MANY))


def flag(name: str, value: Any) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def fraction(name: str, value: Any) -> float:
    """Return `value` if it lies in [0, 1], both ends included."""
    kinds = int | float | np.integer | np.floating
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number in [0, 1], got {shown(value)}")
    return float(value)


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`."""
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} must be one of {', '.join(map(repr, known))}, got {shown(value)}")
    return value


def class_names(value: Any) -> tuple[str, ...]:
    """Return `value` as a tuple if it is a list of names that can be written down."""
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | set) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"class_names must be a list of names, got {shown(value)}")
    for name in names:
        if name.encode(errors="ignore").decode() != name:
            raise InputError(f"the class name {name!r} is not Unicode: give it without its lone surrogates")
    return names


def path(value: Any) -> Path:
    """Return `value` as a path with ``~`` expanded that the system can look for."""
    try:
        if value == "":  # for Path, the folder that one works in
            raise ValueError("it is empty")
        found = Path(value).expanduser()
        os.stat(found)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        name = repr(str(value)) if isinstance(value, str | Path) else shown(value)
        raise InputError(f"{name} cannot be used as a path: {error}") from error
    return found


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays, and lists, as Python's numbers and tuples: they can be written down."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(plain(part) for part in value)
    return value


def shown(value: Any) -> str:
    """A value in one line, however large it is, for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def warn(message: str) -> None:
    """Warn, and name the line of the caller's own code: the first outside this package and PyTorch."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in (__package__, "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
