"""The methods that `explain` knows, by name. A method is a frozen dataclass of its options.

To add a method, write a subclass of `Method` or `OwnWay` and name it in `METHODS`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .. import checks
from ..checks import InputError
from .contrast import Contrast
from .dclose import Dclose
from .drise import Drise
from .gcame import Gcame
from .gradcam import GradCam
from .greedy import Greedy
from .method import Maps, Method, OwnWay
from .mfpp import Mfpp
from .odam import Odam
from .regression import Regression
from .sodex import Sodex

METHODS: dict[str, type[Any]] = {
    "dclose": Dclose,
    "contrast": Contrast,
    "regression": Regression,
    "drise": Drise,
    "mfpp": Mfpp,
    "sodex": Sodex,
    "greedy": Greedy,
    "gradcam": GradCam,
    "odam": Odam,
    "gcame": Gcame,
}

__all__ = ["METHODS", "Maps", "Method", "OwnWay", "make", "options_of"]


def options_of(name: str) -> list[str]:
    """Names of a method's options; an unknown method raises `InputError`."""
    return [field.name for field in fields(METHODS[checks.choice("method", name, METHODS)])]


def make(name: str, *, n_masks: int | None = None, **options: Any) -> Any:
    """A method with options, the fields of its class. `n_masks` is by default the method's own number.

    An unknown method or option, or a value out of its range, raises `InputError`.
    """
    known = options_of(name)
    if n_masks is not None:
        options["n_masks"] = n_masks
    for option in options:
        if option not in known:
            raise InputError(f"method {name!r} has no option {option!r}; it has: {', '.join(known)}")
    return METHODS[name](**{option: checks.plain(value) for option, value in options.items()})
