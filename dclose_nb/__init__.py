"""D-CLOSE (Truong et al. 2023): saliency maps that explain object detectors.

The public names are those of __init__.pyi. Each is imported when it is first used, so that the command
line answers at once.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

import lazy_loader

_attached, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("dclose_nb")
_ALIASES = {"dataset": "studies.coco", "errors": "studies.error_analysis"}


def __getattr__(name: str) -> Any:
    if name in _ALIASES:
        return import_module(f".{_ALIASES[name]}", __name__)
    return _attached(name)
