from . import density as density
from . import errors as errors
from . import evaluation as evaluation
from . import fusion as fusion
from . import masks as masks
from . import metrics as metrics
from . import planted as planted
from . import plot as plot
from . import sanity as sanity
from . import similarity as similarity
from . import tables as tables
from .checks import InputError as InputError
from .detection import Canvas as Canvas
from .detection import Detections as Detections
from .detection import Detector as Detector
from .detection import Proposals as Proposals
from .detection import Targets as Targets
from .detectors import MissingWeights as MissingWeights
from .detectors import WeightsError as WeightsError
from .detectors import load_detector as load_detector
from .explanation import Explanation as Explanation
from .explanation import explain as explain
from .photos import load_annotated as load_annotated
from .photos import load_example as load_example
from .photos import load_photo as load_photo

__version__: str
