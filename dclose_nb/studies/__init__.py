"""Studies: each file is the study behind one notebook, over one runner and one module of inference."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "coco",
        "conditions",
        "error_analysis",
        "evaluation",
        "inference",
        "planted_truth",
        "records",
        "runner",
        "sanity",
        "stability",
        "tables",
    ],
)
