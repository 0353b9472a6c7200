"""D-CLOSE (Truong et al. 2023): saliency maps that explain object detectors."""

from importlib.metadata import version

try:
    import torchvision as _torchvision  # noqa: F401
except (ImportError, RuntimeError, OSError) as error:
    # A CPU-only torch beside a torchvision built for CUDA fails here with "torchvision::nms does not exist".
    raise ImportError(
        "torch and torchvision do not fit each other; install both anew, together and from one source: "
        f"pip install --force-reinstall torch torchvision ({error})"
    ) from error

from . import density, fusion, masks, plot, similarity
from .checks import InputError
from .detection import Canvas, Detections, Detector, Proposals, Targets
from .detectors import WeightsError, load_detector
from .explanation import Explanation, explain
from .photos import load_example, load_photo

__version__ = version("dclose_nb")

__all__ = [
    "Canvas",
    "Detections",
    "Detector",
    "Explanation",
    "InputError",
    "Proposals",
    "Targets",
    "WeightsError",
    "density",
    "explain",
    "fusion",
    "load_detector",
    "load_example",
    "load_photo",
    "masks",
    "plot",
    "similarity",
]
