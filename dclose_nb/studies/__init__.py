"""Studies, one file for each notebook; they share a runner and a module of inference."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "coco",
        "conditions",
        "error_analysis",
        "error_evidence",
        "evaluation",
        "few_masks",
        "inference",
        "leaderboard",
        "overlap",
        "planted_tables",
        "planted_truth",
        "records",
        "runner",
        "sanity",
        "stability",
        "standings",
        "tables",
    ],
)
