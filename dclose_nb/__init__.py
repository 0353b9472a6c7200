"""D-CLOSE (Truong et al. 2023): saliency maps that explain object detectors.

The names are those of __init__.pyi; each is imported when it is first used, so that the command line
answers at once.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("dclose_nb")
